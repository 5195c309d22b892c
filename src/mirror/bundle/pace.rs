//! Tells how far a phase is, not more often than somebody can read it.

use std::time::{Duration, Instant};

use crate::mirror::jobs::{Teller, Unit};

/// How often a number is told.
const EVERY: Duration = Duration::from_millis(100);

/// One phase.
pub(super) struct Pace<'a> {
    teller: &'a Teller,
    done: u64,
    total: Option<u64>,
    bytes: u64,
    told: Instant,
}

impl<'a> Pace<'a> {
    pub(super) fn begin(
        teller: &'a Teller,
        phase: &str,
        unit: Unit,
        total: Option<u64>,
    ) -> Pace<'a> {
        teller.phase(phase, unit, total);
        Pace {
            teller,
            done: 0,
            total,
            bytes: 0,
            told: Instant::now(),
        }
    }

    pub(super) fn add(&mut self, done: u64, bytes: u64) {
        self.done = self.done.saturating_add(done);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.told.elapsed() >= EVERY {
            self.end();
        }
    }

    /// Tells where it stands.
    pub(super) fn end(&mut self) {
        self.teller.progress(self.done, self.total, self.bytes);
        self.told = Instant::now();
    }
}
