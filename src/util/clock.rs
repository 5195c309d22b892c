//! The wall clock: the one place that reads the time of day for a decision.

use std::time::{Duration, Instant, SystemTime};

/// Reads the time of day, and counts the time since the start of the program.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that counts the uptime from now on.
    pub fn start() -> Clock {
        Clock {
            started: Instant::now(),
        }
    }

    /// The time of day.
    pub fn now(self) -> SystemTime {
        SystemTime::now()
    }

    /// Time since the program was started.
    pub fn uptime(self) -> Duration {
        self.started.elapsed()
    }
}
