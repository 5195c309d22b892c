//! Tells how far a phase is, not more often than somebody can read it.

use std::time::{Duration, Instant};

use crate::jobs::{JobContext, Unit};

/// How often a number is told.
const EVERY: Duration = Duration::from_millis(100);

/// One phase.
pub(super) struct Pace<'a> {
    cx: &'a JobContext,
    done: u64,
    total: Option<u64>,
    bytes: u64,
    told: Instant,
}

impl<'a> Pace<'a> {
    pub(super) fn begin(
        cx: &'a JobContext,
        phase: &str,
        unit: Unit,
        total: Option<u64>,
    ) -> Pace<'a> {
        cx.phase(phase, unit, total);
        Pace {
            cx,
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
        self.cx.progress(self.done, self.total, self.bytes);
        self.told = Instant::now();
    }
}
