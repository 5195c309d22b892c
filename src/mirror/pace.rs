//! How fast a job may fetch, over all its fetches together.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// What a fetch of a slowed job gets at least, so that none meets the deadline of a download: the
/// fewer run at once the slower all may be.
const LEAST_RATE_OF_ONE: u64 = 64 << 10;

/// How long fetches may go on at full speed after a pause: an idle second is not made up for.
const BURST: Duration = Duration::from_millis(200);

/// The bound of one job, and the count of what it moved.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second; `None`: no bound.
    rate: Option<u64>,
    /// When all bytes that passed are paid for.
    paid: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Pace {
    /// `rate`: bytes a second; `None` or zero: no bound.
    pub fn new(rate: Option<u64>) -> Pace {
        Pace {
            rate: rate.filter(|rate| *rate > 0),
            paid: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        }
    }

    /// How many fetches may be under way, where `most` could be.
    pub fn fetches(&self, most: usize) -> usize {
        let fit = self.rate.map(|rate| rate / LEAST_RATE_OF_ONE);
        let fit = fit.and_then(|fit| usize::try_from(fit).ok());
        most.min(fit.unwrap_or(usize::MAX)).max(1)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes came; waits until more may. `slowed`: whether nobody else waits for them.
    pub async fn passed(&self, bytes: u64, slowed: bool) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let Some(rate) = self.rate else {
            return;
        };
        let until = self.pay(bytes, rate, Instant::now());
        if slowed {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn pay(&self, bytes: u64, rate: u64, now: Instant) -> Instant {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate);
        let price = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut paid = self.paid.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *paid = (*paid).max(earliest) + price;
        *paid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_with_time() {
        let pace = Pace::new(Some(1000));
        let now = Instant::now() + Duration::from_secs(10);
        assert_eq!(pace.pay(200, 1000, now), now);
        assert_eq!(pace.pay(1000, 1000, now), now + Duration::from_secs(1));
        let later = now + Duration::from_secs(60);
        assert_eq!(
            pace.pay(200, 1000, later),
            later,
            "idle time is not saved up"
        );
    }

    #[test]
    fn a_slow_job_has_few_fetches() {
        let fetches = |rate| Pace::new(rate).fetches(32);
        assert_eq!(fetches(None), 32);
        assert_eq!(fetches(Some(1000)), 1);
        assert_eq!(fetches(Some(256 << 10)), 4);
        assert_eq!(fetches(Some(u64::MAX)), 32);
        assert_eq!(Pace::new(None).fetches(0), 1);
    }
}
