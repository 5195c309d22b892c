//! Whether and when to try again: what an error means, apart from how patient we are.

use std::time::{Duration, SystemTime};

use super::error::{Error, Kind};

/// How long the tries of a fetch that somebody waits for may take before the last one starts.
/// Six seconds: with the stall limit of eight after it, the answer is still well inside the 30 s
/// after which cargo gives up and asks again by itself.
const CLIENT_PATIENCE: Duration = Duration::from_secs(6);

/// The longest pause that doubling grows to.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What an error says about trying the same once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may go well at once: the connection was refused or broke, or upstream had a bad moment.
    Soon,
    /// Upstream said when.
    After(Duration),
    /// It would end the same way, or cost a waiting client another time-out.
    Never,
}

/// What `error` says about trying the same once more.
pub fn classify(error: &Error) -> Class {
    match error.kind() {
        Kind::Refused(_) | Kind::Transport(_) => Class::Soon,
        Kind::Status {
            code, retry_after, ..
        } => match (code, retry_after) {
            (429 | 503, Some(wait)) => Class::After(*wait),
            (408 | 425 | 429 | 500..=599, _) => Class::Soon,
            _ => Class::Never,
        },
        // A client that waited for the whole stall limit is to be answered, not kept waiting.
        Kind::Timeout { .. }
        | Kind::NotFound { .. }
        | Kind::NotAnIndex(_)
        | Kind::TooLarge { .. }
        | Kind::Breaker { .. }
        | Kind::Forbidden(_)
        | Kind::Config(_) => Class::Never,
    }
}

/// How patient a fetch is.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    attempts: u32,
    first_pause: Duration,
    patience: Duration,
}

impl Backoff {
    /// For a fetch that clients wait for.
    pub fn for_clients(options: &super::Options) -> Backoff {
        Backoff {
            attempts: options.attempts,
            first_pause: options.backoff,
            patience: CLIENT_PATIENCE.min(options.deadline),
        }
    }

    /// For a fetch that nobody waits for: it has the whole deadline.
    pub fn for_jobs(options: &super::Options) -> Backoff {
        Backoff {
            patience: options.deadline,
            ..Backoff::for_clients(options)
        }
    }

    /// How long to pause before the next attempt. `None`: give up.
    ///
    /// `attempt` is the number of the one that failed, from 1; `elapsed` the time since the fetch
    /// began or last received a byte (a long download that is cut is worth going on with);
    /// `jitter` is from 0 to 1.
    pub fn pause(
        &self,
        attempt: u32,
        error: &Error,
        elapsed: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let pause = match classify(error) {
            Class::Never => return None,
            Class::Soon => self.grown(attempt, jitter),
            // On top, so that a herd told the same does not come back in the same moment.
            Class::After(wait) => wait.saturating_add(self.grown(1, jitter) / 2),
        };
        (elapsed.saturating_add(pause) <= self.patience).then_some(pause)
    }

    /// The first pause, doubled with each attempt, from a half of it to the whole.
    fn grown(&self, attempt: u32, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let whole = self
            .first_pause
            .saturating_mul(1 << doublings)
            .min(LONGEST_PAUSE);
        whole.mul_f64(0.5 + 0.5 * share(jitter))
    }
}

/// `jitter` from 0 to 1, whatever was given: a float that is none would panic further down.
pub(super) fn share(jitter: f64) -> f64 {
    if (0.0..=1.0).contains(&jitter) {
        jitter
    } else {
        0.5
    }
}

/// Reads a `Retry-After`. A date is measured against the answer's own `date`, so that neither
/// clock has to be right. `None`: not readable.
pub(super) fn parse_retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then: SystemTime = httpdate::parse_http_date(value).ok()?;
    let sent = httpdate::parse_http_date(date?.trim()).ok()?;
    Some(then.duration_since(sent).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::{
        super::error::{Cause, Stage, Subject},
        *,
    };

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn error(kind: Kind) -> Error {
        let url = Url::parse("http://host.test/").expect("a good URL");
        Error::new(&Subject::Config, &url, kind)
    }

    fn status(code: u16, retry_after: Option<u64>) -> Kind {
        Kind::Status {
            code,
            retry_after: retry_after.map(Duration::from_secs),
            said: None,
        }
    }

    fn backoff() -> Backoff {
        Backoff {
            attempts: 3,
            first_pause: Duration::from_millis(500),
            patience: CLIENT_PATIENCE,
        }
    }

    #[test]
    fn an_error_says_whether_trying_again_helps() {
        let check = |kind, expected| {
            let error = error(kind);
            assert_eq!(classify(&error), expected, "{error:?}");
        };
        check(Kind::Refused(Cause::text("refused")), Class::Soon);
        check(Kind::Transport(Cause::text("reset")), Class::Soon);
        for code in [408, 425, 429, 500, 502, 503, 504, 599] {
            check(status(code, None), Class::Soon);
        }
        check(status(429, Some(7)), Class::After(Duration::from_secs(7)));
        check(status(503, Some(7)), Class::After(Duration::from_secs(7)));
        check(status(500, Some(7)), Class::Soon);
        for code in [300, 304, 400, 401, 403, 416] {
            check(status(code, None), Class::Never);
        }
        check(Kind::NotFound { code: 404 }, Class::Never);
        let limit = Duration::from_secs(8);
        for stage in [
            Stage::Turn,
            Stage::Connect,
            Stage::Head,
            Stage::Body,
            Stage::Whole,
        ] {
            check(Kind::Timeout { stage, limit }, Class::Never);
        }
        let too_large = Kind::TooLarge {
            limit: 1,
            announced: None,
        };
        check(too_large, Class::Never);
    }

    #[test]
    fn pauses_double_and_end_with_the_attempts_or_the_patience() {
        let broken = error(Kind::Transport(Cause::text("reset")));
        let pause = |attempt, elapsed| {
            let elapsed = Duration::from_millis(elapsed);
            let pause = backoff().pause(attempt, &broken, elapsed, 1.0)?;
            Some(pause.as_millis())
        };
        assert_eq!(pause(1, 0), Some(500));
        assert_eq!(pause(2, 500), Some(1000));
        assert_eq!(pause(3, 1500), None);
        assert_eq!(pause(1, 5500), Some(500));
        assert_eq!(pause(1, 5501), None);
    }

    #[test]
    fn what_upstream_asks_for_is_waited_if_somebody_has_the_time() {
        let busy = error(status(429, Some(30)));
        assert_eq!(backoff().pause(1, &busy, Duration::ZERO, 0.0), None);
        let patient = Backoff {
            patience: Duration::from_secs(600),
            ..backoff()
        };
        let pause = patient.pause(1, &busy, Duration::ZERO, 0.0);
        assert_eq!(pause, Some(Duration::from_millis(30_125)));
        assert_eq!(busy.retry_after(), Some(Duration::from_secs(30)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let check = |value, date, expected: Option<u64>| {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(parse_retry_after(value, date), expected, "{value:?}");
        };
        check("120", None, Some(120));
        check(" 0 ", None, Some(0));
        check("Sun, 06 Nov 1994 08:50:07 GMT", Some(DATE), Some(30));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(DATE), Some(0));
        check("Sun, 06 Nov 1994 08:50:07 GMT", None, None);
        for value in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            check(value, Some(DATE), None);
        }
    }

    proptest! {
        #[test]
        fn no_pause_is_over_the_patience(
            attempt: u32, attempts: u32, first: u64, patience: u64, asked in any::<Option<u64>>(),
            elapsed: u64, jitter in any::<f64>(),
        ) {
            let backoff = Backoff {
                attempts,
                first_pause: Duration::from_secs(first),
                patience: Duration::from_secs(patience),
            };
            let (error, elapsed) = (error(status(503, asked)), Duration::from_secs(elapsed));
            if let Some(pause) = backoff.pause(attempt, &error, elapsed, jitter) {
                prop_assert!(attempt < attempts);
                prop_assert!(elapsed.checked_add(pause).is_some_and(|sum| sum <= backoff.patience));
            }
        }

        #[test]
        fn any_retry_after_is_read_or_not(value in "\\PC{0,40}", date in "\\PC{0,40}") {
            parse_retry_after(&value, Some(&date));
        }
    }
}
