//! How the mirror behaves, and what of that may change while it runs.
//!
//! A request takes the options once where it decides, and keeps them to its end. Ready answers carry
//! the version counter of their crate with the count of changes mixed in: none outlives a change, not
//! even one that a request which began before it makes ready after it.

use std::time::Duration;

use crate::policy::freshness::{self, Mode};

/// How the mirror behaves. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do when upstream cannot be asked.
    pub mode: Mode,
    /// How long index entries are served without asking.
    pub freshness: freshness::Options,
    /// How long a client waits for upstream while a stale entry could be served.
    pub patience: Duration,
    /// How long a client waits at all, before it is told to ask again. Cargo gives up after 30 s
    /// without a byte.
    pub answer_within: Duration,
    /// How long a failure answers those who ask for the same thing again: longer than a herd
    /// takes to arrive, shorter than cargo's first retry.
    pub remember_failure: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Mode::Fallback,
            freshness: freshness::Options::default(),
            patience: Duration::from_secs(4),
            answer_within: Duration::from_secs(25),
            remember_failure: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// These options with those of `new` that may change while the mirror runs.
    #[must_use]
    pub fn reloaded(&self, new: &Options) -> Options {
        Options {
            mode: new.mode,
            freshness: new.freshness,
            patience: new.patience,
            ..self.clone()
        }
    }
}

/// The version counter of a crate as one under the options of `changes`.
pub(super) fn mark(counter: u64, changes: u64) -> u64 {
    // Odd and with bits all over: neighbours of one count do not meet those of the next.
    counter ^ changes.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::live::Live;

    #[test]
    fn a_counter_from_before_a_change_is_none_from_after_it() {
        let live = Live::new(Options::default());
        let before = mark(7, live.changes());
        let new = Options {
            mode: Mode::Strict,
            ..Options::default()
        };
        live.update(|now| now.reloaded(&new));
        assert_eq!(live.get().mode, Mode::Strict);
        for counter in 0..10_000 {
            assert_ne!(mark(counter, live.changes()), before, "{counter}");
        }
    }
}
