//! How long an index entry is taken at its word, and what is done with it when it is not.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::registry::CrateName;

/// How orlop stands to its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Upstream is asked; when it cannot be, an index entry that is held is served all the same.
    Fallback,
    /// Upstream is asked; an index entry that could not be checked in time is not served.
    Strict,
    /// Upstream is never asked: what is held is all there is.
    Offline,
}

impl Mode {
    /// Every mode, in the order of the documentation.
    pub const ALL: &'static [Mode] = &[Mode::Fallback, Mode::Strict, Mode::Offline];

    /// Whether upstream is ever asked.
    pub const fn asks(self) -> bool {
        !matches!(self, Mode::Offline)
    }

    /// The word that the configuration has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Fallback => "fallback",
            Mode::Strict => "strict",
            Mode::Offline => "offline",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no [`Mode`]. The text is not part of the message: whoever shows it quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mode is one of `fallback`, `strict` and `offline`")]
pub struct InvalidMode;

impl FromStr for Mode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Mode, InvalidMode> {
        Mode::ALL
            .iter()
            .copied()
            .find(|mode| mode.as_str() == text)
            .ok_or(InvalidMode)
    }
}

/// How long an answer of upstream is good without asking again. `config::KEYS` says why a default is
/// what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long an index entry is fresh; zero asks every time.
    pub fresh_for: Duration,
    /// How long "upstream does not have it" is believed.
    pub negative_for: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fresh_for: Duration::from_secs(5 * 60),
            negative_for: Duration::from_secs(60),
        }
    }
}

/// What is known about a name from an earlier answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// When upstream last confirmed it, by the wall clock of that moment.
    pub checked: SystemTime,
    /// Whether what is held is only that upstream does not have the name. An entry that was kept
    /// although it turned 404 upstream is not `gone`: there are bytes to serve.
    pub gone: bool,
}

/// What to do with a request for an index entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Serve what is held, without asking.
    Serve {
        /// For how long this stays the decision.
        still: Duration,
    },
    /// Ask upstream on condition that what is held has changed.
    Revalidate {
        /// Whether what is held may be served if upstream cannot be asked, or is slow.
        may_serve_stale: bool,
    },
    /// Ask upstream without condition: there is nothing to serve in its stead.
    Fetch,
    /// Say that upstream does not have it, without asking.
    Absent {
        /// For how long this stays the decision.
        still: Duration,
    },
    /// Say that it is not held and that nobody may be asked: the mode is [`Mode::Offline`].
    Unknown,
}

/// What to do when upstream could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Serve what is held.
    ServeStale {
        /// Time since upstream last confirmed it; zero if the clock was set back meanwhile.
        age: Duration,
    },
    /// Say that upstream is in trouble, never that the name does not exist.
    Unavailable,
}

/// Decides about `name`, of which `held` is known, at `now`.
///
/// Times are spread by up to a tenth either way, the same for a name at all times: what came
/// together in one resolution is not asked again all at once.
pub fn decide(
    mode: Mode,
    held: Option<Held>,
    now: SystemTime,
    options: &Options,
    name: &CrateName,
) -> Decision {
    let Some(held) = held else {
        return match mode {
            Mode::Fallback | Mode::Strict => Decision::Fetch,
            Mode::Offline => Decision::Unknown,
        };
    };
    let limit = if held.gone {
        options.negative_for
    } else {
        options.fresh_for
    };
    let limit = spread(limit, name);
    let still = match mode {
        Mode::Offline => Some(limit),
        Mode::Fallback | Mode::Strict => remaining(held.checked, now, limit),
    };
    match (still, held.gone) {
        (Some(still), false) => Decision::Serve { still },
        (Some(still), true) => Decision::Absent { still },
        (None, true) => Decision::Fetch,
        (None, false) => Decision::Revalidate {
            may_serve_stale: mode == Mode::Fallback,
        },
    }
}

/// Decides when upstream was to be asked about what is `held`, and could not be.
pub fn after_failure(mode: Mode, held: Option<Held>, now: SystemTime) -> AfterFailure {
    match (mode, held) {
        (Mode::Fallback | Mode::Offline, Some(held)) if !held.gone => AfterFailure::ServeStale {
            age: age(held.checked, now),
        },
        (Mode::Fallback | Mode::Strict | Mode::Offline, _) => AfterFailure::Unavailable,
    }
}

/// Time since `checked`; zero if the clock was set back meanwhile.
pub fn age(checked: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(checked).unwrap_or(Duration::ZERO)
}

/// What is left of `limit`. `None`: nothing, or `checked` lies in the future. The clock was set
/// back then, and how long ago the check was cannot be told: it counts as too long.
fn remaining(checked: SystemTime, now: SystemTime, limit: Duration) -> Option<Duration> {
    let age = now.duration_since(checked).ok()?;
    limit.checked_sub(age).filter(|left| !left.is_zero())
}

/// `limit`, a tenth of itself shorter to a tenth longer, by the name alone.
fn spread(limit: Duration, name: &CrateName) -> Duration {
    /// Steps of the whole spread: enough that 500 names of one resolution part.
    const STEPS: u16 = 2000;
    let tenth = limit / 10;
    let step = u16::try_from(fnv1a(name.key().as_bytes()) % u64::from(STEPS + 1)).unwrap_or(0);
    let offset = (tenth.saturating_mul(2) / u32::from(STEPS)).saturating_mul(u32::from(step));
    limit.saturating_sub(tenth).saturating_add(offset)
}

/// FNV-1a with 64 bits: the same in every process and version, which std's hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn name(text: &str) -> CrateName {
        CrateName::parse(text).expect("a good name")
    }

    fn known(seconds_ago: u64, gone: bool) -> Option<Held> {
        let checked = at(NOW.checked_sub(seconds_ago)?);
        Some(Held { checked, gone })
    }

    fn held(seconds_ago: u64) -> Option<Held> {
        known(seconds_ago, false)
    }

    fn gone(seconds_ago: u64) -> Option<Held> {
        known(seconds_ago, true)
    }

    fn check(mode: Mode, held: Option<Held>, expected: &str) {
        let decision = decide(mode, held, at(NOW), &Options::default(), &name("serde"));
        let text = match decision {
            Decision::Serve { .. } => "serve",
            Decision::Revalidate {
                may_serve_stale: true,
            } => "revalidate or stale",
            Decision::Revalidate {
                may_serve_stale: false,
            } => "revalidate",
            Decision::Fetch => "fetch",
            Decision::Absent { .. } => "absent",
            Decision::Unknown => "unknown",
        };
        assert_eq!(text, expected, "{mode} {held:?}");
    }

    #[test]
    fn each_mode_decides_about_what_is_held() {
        use Mode::{Fallback, Offline, Strict};
        check(Fallback, None, "fetch");
        check(Strict, None, "fetch");
        check(Offline, None, "unknown");
        check(Fallback, held(0), "serve");
        check(Fallback, held(269), "serve");
        check(Fallback, held(331), "revalidate or stale");
        check(Strict, held(269), "serve");
        check(Strict, held(331), "revalidate");
        check(Offline, held(1_000_000), "serve");
        check(Fallback, gone(53), "absent");
        check(Fallback, gone(67), "fetch");
        check(Strict, gone(67), "fetch");
        check(Offline, gone(1_000_000), "absent");
    }

    #[test]
    fn after_a_failure_only_fallback_serves_what_is_held() {
        let stale = |age| AfterFailure::ServeStale {
            age: Duration::from_secs(age),
        };
        let check = |mode, held, expected| {
            assert_eq!(
                after_failure(mode, held, at(NOW)),
                expected,
                "{mode} {held:?}"
            );
        };
        check(Mode::Fallback, held(900), stale(900));
        check(Mode::Offline, held(900), stale(900));
        check(Mode::Strict, held(900), AfterFailure::Unavailable);
        check(Mode::Fallback, gone(900), AfterFailure::Unavailable);
        check(Mode::Fallback, None, AfterFailure::Unavailable);
    }

    #[test]
    fn a_clock_set_back_makes_an_entry_stale_at_once_and_its_age_zero() {
        let future = Some(Held {
            checked: at(NOW + 3600),
            gone: false,
        });
        check(Mode::Fallback, future, "revalidate or stale");
        check(Mode::Strict, future, "revalidate");
        check(Mode::Offline, future, "serve");
        let after = after_failure(Mode::Fallback, future, at(NOW));
        assert_eq!(
            after,
            AfterFailure::ServeStale {
                age: Duration::ZERO
            }
        );
    }

    #[test]
    fn a_time_of_zero_asks_each_time() {
        let options = Options {
            fresh_for: Duration::ZERO,
            negative_for: Duration::ZERO,
        };
        let decide = |held| decide(Mode::Fallback, held, at(NOW), &options, &name("serde"));
        assert!(matches!(decide(held(0)), Decision::Revalidate { .. }));
        assert_eq!(decide(gone(0)), Decision::Fetch);
    }

    #[test]
    fn names_that_came_together_do_not_go_stale_together() {
        let limits: std::collections::BTreeSet<_> = (0..500)
            .map(|n| spread(Duration::from_secs(5 * 60), &name(&format!("crate-{n}"))))
            .collect();
        assert!(limits.len() > 300, "only {} different", limits.len());
        let (first, last) = (limits.first().expect("some"), limits.last().expect("some"));
        assert!(
            *last > *first + Duration::from_secs(50),
            "{first:?} to {last:?}"
        );
    }

    #[test]
    fn the_spelling_of_a_name_does_not_matter() {
        let limit = Duration::from_secs(5 * 60);
        assert_eq!(
            spread(limit, &name("Inflector")),
            spread(limit, &name("inflector"))
        );
    }

    #[test]
    fn a_mode_reads_what_it_writes() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(*mode));
            let json = serde_json::to_string(mode).expect("a word");
            assert_eq!(json, format!("\"{mode}\""));
            assert_eq!(serde_json::from_str::<Mode>(&json).ok(), Some(*mode));
        }
        for text in ["", "Fallback", "online", " strict"] {
            assert_eq!(text.parse::<Mode>(), Err(InvalidMode), "{text:?}");
        }
    }

    fn any_mode() -> impl Strategy<Value = Mode> {
        proptest::sample::select(Mode::ALL)
    }

    proptest! {
        #[test]
        fn any_times_are_decided_about(
            mode in any_mode(), checked in 0..u64::from(u32::MAX), now in 0..u64::from(u32::MAX),
            fresh in any::<u64>(), negative in any::<u64>(), is_gone: bool, key in "[a-z]{1,20}",
        ) {
            let options = Options {
                fresh_for: Duration::from_secs(fresh),
                negative_for: Duration::from_secs(negative),
            };
            let held = Held { checked: at(checked), gone: is_gone };
            let decision = decide(mode, Some(held), at(now), &options, &name(&key));
            let clock_is_back = now < checked && mode != Mode::Offline;
            let unasked = matches!(decision, Decision::Serve { .. } | Decision::Absent { .. });
            prop_assert!(!(clock_is_back && unasked), "{:?}", decision);
            prop_assert!(mode != Mode::Offline || unasked, "{:?}", decision);
        }

        #[test]
        fn an_entry_is_fresh_until_the_moment_it_named_and_for_a_year_after_it_is_not(
            is_gone: bool, key in "[a-z]{1,20}", later in 0..31_536_000_u64,
        ) {
            let name = name(&key);
            let held = Some(Held { checked: at(NOW), gone: is_gone });
            let options = Options::default();
            let decide = |now| decide(Mode::Fallback, held, now, &options, &name);
            let (Decision::Serve { still } | Decision::Absent { still }) = decide(at(NOW)) else {
                return Err(TestCaseError::fail("not fresh at the moment of the check"));
            };
            let limit = if is_gone { options.negative_for } else { options.fresh_for };
            prop_assert!(still + limit / 10 >= limit && still <= limit + limit / 10);
            let just_before = at(NOW) + still - Duration::from_nanos(1);
            let is_unasked = |decision| matches!(decision, Decision::Serve { .. } | Decision::Absent { .. });
            prop_assert!(is_unasked(decide(just_before)));
            prop_assert!(!is_unasked(decide(at(NOW) + still + Duration::from_secs(later))));
        }
    }
}
