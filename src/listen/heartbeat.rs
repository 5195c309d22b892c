//! The heartbeat of each worker: a task that notes when the worker last got its turn.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

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
    beats: Arc<Beats>,
    number: usize,
}

impl Beat {
    fn begin(beats: &Arc<Beats>) -> Beat {
        let number = beats.begun.fetch_add(1, Relaxed) + 1;
        beats.all.lock().push((number, Instant::now()));
        Beat {
            beats: Arc::clone(beats),
            number,
        }
    }

    fn beat(&self) {
        let mut all = self.beats.all.lock();
        if let Some((_, last)) = all.iter_mut().find(|(number, _)| *number == self.number) {
            *last = Instant::now();
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let mut all = self.beats.all.lock();
        all.retain(|(number, _)| *number != self.number);
    }
}

/// Has this worker beat until it ends.
pub(super) fn beat(beats: &Arc<Beats>, period: Duration) {
    let beat = Beat::begin(beats);
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
        let beats = Arc::new(Beats::default());
        beats.expect(2);
        let (one, other) = (Beat::begin(&beats), Beat::begin(&beats));
        let before = beats.pulse().beats;
        one.beat();
        let after = beats.pulse().beats;
        assert!(after[0].1 >= before[0].1);
        assert_eq!(after[1], before[1]);
        drop(other);
        let pulse = beats.pulse();
        assert_eq!((pulse.beats.len(), pulse.expected), (1, 2));
    }
}
