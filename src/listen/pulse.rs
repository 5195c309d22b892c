//! Whether each worker still gets its turn: a task on every one of them that counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Stats;

/// When each worker last got its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// The workers that beat, one entry for each of their sockets: which one it is, and when it last did.
    pub beats: Vec<(usize, Instant)>,
    /// How many entries there should be.
    pub expected: usize,
}

/// The beats of all workers.
#[derive(Debug, Default)]
pub(super) struct Beats {
    all: Mutex<Vec<(usize, Instant)>>,
    begun: AtomicUsize,
    expected: AtomicUsize,
}

impl Beats {
    pub(super) fn expect(&self, count: usize) {
        self.expected.store(count, Relaxed);
    }

    pub(super) fn pulse(&self) -> Pulse {
        Pulse {
            beats: self.all.lock().clone(),
            expected: self.expected.load(Relaxed),
        }
    }
}

/// The beat of one worker, which goes with it: a worker that panicked is replaced by another.
struct Beat {
    stats: Arc<Stats>,
    number: usize,
}

impl Beat {
    fn begin(stats: &Arc<Stats>) -> Beat {
        let number = stats.beats.begun.fetch_add(1, Relaxed) + 1;
        stats.beats.all.lock().push((number, Instant::now()));
        Beat {
            stats: Arc::clone(stats),
            number,
        }
    }

    fn beat(&self) {
        let mut all = self.stats.beats.all.lock();
        if let Some((_, last)) = all.iter_mut().find(|(number, _)| *number == self.number) {
            *last = Instant::now();
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let mut all = self.stats.beats.all.lock();
        all.retain(|(number, _)| *number != self.number);
    }
}

/// Has this worker beat until it ends.
pub(super) fn beat(stats: &Arc<Stats>, period: Duration) {
    let beat = Beat::begin(stats);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(period).await;
            beat.beat();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_gone_beats_no_more() {
        let stats = Arc::new(Stats::default());
        stats.beats.expect(2);
        let (one, other) = (Beat::begin(&stats), Beat::begin(&stats));
        let before = stats.pulse().beats;
        one.beat();
        let after = stats.pulse().beats;
        assert!(after[0].1 >= before[0].1);
        assert_eq!(after[1], before[1]);
        drop(other);
        let pulse = stats.pulse();
        assert_eq!((pulse.beats.len(), pulse.expected), (1, 2));
    }
}
