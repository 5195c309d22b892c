//! How old the oldest index entry is that was served of late although it was too old.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// How long an answer counts at least; at most twice as long. Long enough that a scrape each
/// minute and an alert see it, short enough that what is over is over.
const PERIOD: Duration = Duration::from_secs(300);

/// When the oldest entries that were served stale were last checked, in this period and the last.
#[derive(Debug, Default)]
pub(super) struct Stale(Mutex<Periods>);

#[derive(Debug, Default)]
struct Periods {
    began: Option<Instant>,
    this: Option<SystemTime>,
    last: Option<SystemTime>,
}

impl Stale {
    /// Notes that an entry was served that upstream last confirmed at `checked`.
    pub(super) fn note(&self, checked: SystemTime, now: Instant) {
        let mut periods = self.0.lock();
        periods.turn(now);
        periods.this = Some(periods.this.map_or(checked, |oldest| oldest.min(checked)));
    }

    /// When the oldest of them was last checked.
    pub(super) fn oldest(&self, now: Instant) -> Option<SystemTime> {
        let mut periods = self.0.lock();
        periods.turn(now);
        periods.this.into_iter().chain(periods.last).min()
    }
}

impl Periods {
    fn turn(&mut self, now: Instant) {
        let age = self.began.map(|began| now.saturating_duration_since(began));
        if age.is_some_and(|age| age < PERIOD) {
            return;
        }
        let is_next = age.is_some_and(|age| age < 2 * PERIOD);
        self.last = self.this.take().filter(|_| is_next);
        self.began = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_answer_counts_for_a_while_and_no_longer() {
        let (stale, begin) = (Stale::default(), Instant::now());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(stale.oldest(begin), None);
        stale.note(at(70), begin);
        stale.note(at(50), after(1));
        stale.note(at(60), after(299));
        assert_eq!(stale.oldest(after(299)), Some(at(50)));
        assert_eq!(stale.oldest(after(301)), Some(at(50)), "the last period");
        stale.note(at(80), after(302));
        assert_eq!(stale.oldest(after(599)), Some(at(50)));
        assert_eq!(stale.oldest(after(602)), Some(at(80)));
        assert_eq!(stale.oldest(after(5000)), None);
        stale.note(at(90), after(5001));
        assert_eq!(stale.oldest(after(5002)), Some(at(90)));
    }
}
