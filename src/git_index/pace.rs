//! When a commit of a git index is due: a pure rule over what waits and the time.

use std::time::{Duration, Instant};

/// When commits are made. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long nothing changes before one is made.
    pub quiet_for: Duration,
    /// The longest after the first change that one is made.
    pub cut_within: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            quiet_for: Duration::from_secs(5),
            cut_within: Duration::from_secs(60),
        }
    }
}

/// How often to look whether a commit is due: often enough for the shortest quiet time that makes
/// sense.
const MAX_TICK: Duration = Duration::from_millis(200);
const MIN_TICK: Duration = Duration::from_millis(10);

/// The waits after failures.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Options {
    /// How often to look whether a commit is due.
    pub(super) fn tick(&self) -> Duration {
        (self.quiet_for / 4).clamp(MIN_TICK, MAX_TICK)
    }
}

/// What waits for the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// How many names, about.
    pub(super) names: u64,
    /// A number that grows with each change.
    pub(super) changes: u64,
}

/// See the module's sentence.
#[derive(Debug)]
pub(super) struct Pace {
    options: Options,
    first: Option<Instant>,
    last: Option<Instant>,
    seen: u64,
    failures: u32,
    not_before: Option<Instant>,
}

impl Pace {
    pub(super) fn new(options: Options) -> Pace {
        Pace {
            options,
            first: None,
            last: None,
            seen: 0,
            failures: 0,
            not_before: None,
        }
    }

    /// Whether to publish now.
    pub(super) fn is_due(&mut self, waiting: Waiting, is_urgent: bool, now: Instant) -> bool {
        if self.not_before.is_some_and(|until| now < until) {
            return false;
        }
        if is_urgent {
            return true;
        }
        if waiting.names == 0 {
            self.first = None;
            return false;
        }
        let first = *self.first.get_or_insert(now);
        let last = match self.last {
            Some(last) if self.seen == waiting.changes && last >= first => last,
            _ => now,
        };
        self.seen = waiting.changes;
        self.last = Some(last);
        now.saturating_duration_since(last) >= self.options.quiet_for
            || now.saturating_duration_since(first) >= self.options.cut_within
    }

    /// Notes whether publishing succeeded: after a failure it waits, longer each time.
    pub(super) fn ended(&mut self, succeeded: bool, now: Instant) {
        self.first = None;
        self.last = None;
        if succeeded {
            self.failures = 0;
            self.not_before = None;
        } else {
            let pause = MIN_PAUSE.saturating_mul(1 << self.failures.min(6));
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + pause.min(MAX_PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_due_after_quiet_and_in_time() {
        let start = Instant::now();
        let after = |second| start + Duration::from_secs(second);
        let mut pace = Pace::new(Options {
            quiet_for: Duration::from_secs(5),
            cut_within: Duration::from_secs(60),
        });
        let mut due = |second: u64, names: u64, changes: u64| {
            pace.is_due(Waiting { names, changes }, false, after(second))
        };
        assert!(!due(0, 0, 0));
        assert!(!due(100, 1, 1));
        assert!(!due(104, 1, 1));
        assert!(due(105, 1, 1));
        // Changes that keep coming: in time all the same.
        assert!(!due(106, 2, 2));
        let first = (107..170).find(|second| due(*second, 2, *second));
        assert_eq!(first, Some(160));
        pace.ended(true, after(161));
        let waiting = Waiting {
            names: 1,
            changes: 170,
        };
        assert!(!pace.is_due(waiting, false, after(162)));
        assert!(pace.is_due(waiting, false, after(168)));
        // A failure is waited out, longer each time, and nothing is due before.
        pace.ended(false, after(168));
        assert!(!pace.is_due(waiting, true, after(168)));
        assert!(pace.is_due(waiting, true, after(169)));
        pace.ended(false, after(169));
        assert!(!pace.is_due(waiting, true, after(170)));
        assert!(pace.is_due(waiting, true, after(171)));
        pace.ended(true, after(200));
        assert!(!pace.is_due(waiting, false, after(200)));
        assert!(pace.is_due(waiting, false, after(205)));
    }
}
