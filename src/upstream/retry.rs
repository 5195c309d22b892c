//! The retry policy: whether and when to try again. It has two presets, because a client waits for
//! seconds and a job waits for minutes.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::error::{Error, Kind};

/// How long the attempts of a fetch that a client waits for may take before the last one starts.
/// Six seconds: with the stall limit of eight after it, the answer is still well inside the 30 s
/// after which cargo gives up and asks again by itself.
const CLIENT_BUDGET: Duration = Duration::from_secs(6);

/// How long a job waits for an upstream that never answered it: its URL may be wrong, and a person
/// may watch.
const UNHEARD_BUDGET: Duration = Duration::from_secs(30);

/// How often a job lets one thing be requested. A fetch that clients may wait for makes up to three
/// attempts by itself, and an upstream that limits the rate may need more rounds than one that fails.
const JOB_ATTEMPTS: u32 = 12;

/// What a stall costs of a job's attempts: as much as all attempts of a fetch, because each stall
/// takes as long as those. It is also the most that one fetch costs a job: with many attempts
/// (`upstream.attempts`) and short pauses, a job would give up within milliseconds.
const STALL_COST: u32 = 3;

/// The first pause of a job; it doubles.
const JOB_FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause of a job, whatever upstream asks for.
const JOB_MAX_PAUSE: Duration = Duration::from_secs(300);

/// The longest pause that doubling grows to.
const MAX_GROWN_PAUSE: Duration = Duration::from_secs(30);

/// What an error says about another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may succeed at once: the connection was refused or broke, or upstream had a bad moment.
    Soon,
    /// Upstream said when.
    After(Duration),
    /// It cost a time limit, and another attempt may cost it again.
    Stalled,
    /// The circuit breaker is open for so long.
    Open(Duration),
    /// It would end the same way.
    Never,
}

/// What `error` says about another attempt.
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
        Kind::Timeout { .. } => Class::Stalled,
        Kind::Breaker { retry_after, .. } => Class::Open(*retry_after),
        Kind::NotFound { .. }
        | Kind::NotAnIndex(_)
        | Kind::TooLarge { .. }
        | Kind::Forbidden(_)
        | Kind::Config(_) => Class::Never,
    }
}

/// Whether upstream answered, so that it is reachable. It is, too, where the circuit breaker is open
/// because of an answer.
fn is_answer(error: &Error) -> bool {
    match error.kind() {
        Kind::Status { .. } => true,
        Kind::Breaker { last, .. } => {
            let last = last.as_ref().map(Error::kind);
            matches!(last, Some(Kind::Status { .. }))
        }
        _ => false,
    }
}

/// Whether upstream says that there are too many requests.
fn is_rate_limit(error: &Error) -> bool {
    matches!(error.kind(), Kind::Status { code: 429, .. })
}

/// How often and how long to try. Each preset has its budget beside it ([`Budget`]).
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    waiter: Waiter,
    attempts: u32,
    first_pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiter {
    Client,
    Job,
}

impl Policy {
    /// A client waits: it gets an answer within seconds, and does not wait for a stall twice nor
    /// for the circuit breaker.
    pub fn client(options: &super::Options) -> Policy {
        Policy {
            waiter: Waiter::Client,
            attempts: options.attempts,
            first_pause: options.backoff,
        }
    }

    /// A job waits, for as long as upstream asks for.
    pub fn job() -> Policy {
        Policy {
            waiter: Waiter::Job,
            attempts: JOB_ATTEMPTS,
            first_pause: JOB_FIRST_PAUSE,
        }
    }

    /// The first pause, doubled with each round, from a half of it to the whole.
    fn grown(&self, round: u32, jitter: f64) -> Duration {
        let doublings = round.saturating_sub(1).min(16);
        let whole = self
            .first_pause
            .saturating_mul(1 << doublings)
            .min(MAX_GROWN_PAUSE);
        whole.mul_f64(0.5 + 0.5 * share(jitter))
    }
}

/// How long upstream may send nothing. All attempts that share a budget count against it, also
/// those within the attempts of others.
#[derive(Debug)]
pub struct Budget {
    limit: Duration,
    unheard_limit: Duration,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
struct Heard {
    last: Instant,
    ever: bool,
}

impl Budget {
    /// The budget of one fetch that a client waits for.
    pub fn client(options: &super::Options) -> Budget {
        Budget::new(CLIENT_BUDGET.min(options.deadline), Duration::MAX)
    }

    /// The budget of a whole job.
    pub fn job(limit: Duration) -> Budget {
        Budget::new(limit, UNHEARD_BUDGET)
    }

    fn new(limit: Duration, unheard_limit: Duration) -> Budget {
        Budget {
            limit,
            unheard_limit: unheard_limit.min(limit),
            heard: Mutex::new(Heard {
                last: Instant::now(),
                ever: false,
            }),
        }
    }

    /// Upstream sent something.
    pub fn heard(&self) {
        *self.heard.lock() = Heard {
            last: Instant::now(),
            ever: true,
        };
    }

    /// Upstream answered that it can do nothing now: the pause that follows is no silence.
    fn answered(&self, pause: Duration) {
        let mut heard = self.heard.lock();
        heard.last = heard.last.max(Instant::now() + pause);
        heard.ever = true;
    }

    /// How long nothing has come.
    pub fn silence(&self) -> Duration {
        self.heard.lock().last.elapsed()
    }

    /// `None`: it is spent.
    fn left(&self) -> Option<Duration> {
        let heard = self.heard.lock();
        let limit = if heard.ever {
            self.limit
        } else {
            self.unheard_limit
        };
        limit.checked_sub(heard.last.elapsed())
    }
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Another attempt would not help, or there were enough.
    Attempts,
    /// Upstream was silent for too long.
    Budget,
}

/// The attempts at one thing.
#[derive(Debug)]
pub struct Retry<'budget> {
    policy: Policy,
    budget: &'budget Budget,
    attempts: u32,
    rounds: u32,
    last: Option<Error>,
}

impl Retry<'_> {
    /// Nothing has been tried yet.
    pub fn new(policy: Policy, budget: &Budget) -> Retry<'_> {
        Retry {
            policy,
            budget,
            attempts: 0,
            rounds: 0,
            last: None,
        }
    }

    /// How long to wait after `error` before the next attempt. `jitter` is from 0 to 1.
    ///
    /// # Errors
    /// Why there is no other attempt.
    pub fn pause(&mut self, error: &Error, jitter: f64) -> Result<Duration, GiveUp> {
        let is_job = self.policy.waiter == Waiter::Job;
        let (cost, asked) = match classify(error) {
            // An upstream that limits the rate is there: it gets all rounds, with or without a time.
            Class::Soon if is_rate_limit(error) => (1, Duration::ZERO),
            Class::Soon if is_job => (error.attempts().min(STALL_COST), Duration::ZERO),
            Class::Soon => (error.attempts(), Duration::ZERO),
            Class::After(wait) => (1, wait),
            Class::Stalled if is_job => (STALL_COST, Duration::ZERO),
            Class::Open(wait) if is_job => (0, wait),
            Class::Stalled | Class::Open(_) => {
                self.attempts = self.attempts.saturating_add(1);
                return Err(GiveUp::Attempts);
            }
            Class::Never => {
                // Most of these are answers: upstream is reachable.
                self.budget.heard();
                self.attempts = self.attempts.saturating_add(1);
                return Err(GiveUp::Attempts);
            }
        };
        let pause = self.next(cost, asked, is_answer(error), jitter)?;
        self.last = Some(error.clone());
        Ok(pause)
    }

    /// The same after a failure that is not upstream's and may pass.
    ///
    /// # Errors
    /// As [`pause`](Retry::pause).
    pub fn pause_after_other(&mut self, jitter: f64) -> Result<Duration, GiveUp> {
        self.next(STALL_COST, Duration::ZERO, false, jitter)
    }

    fn next(
        &mut self,
        cost: u32,
        asked: Duration,
        is_answer: bool,
        jitter: f64,
    ) -> Result<Duration, GiveUp> {
        self.attempts = self.attempts.saturating_add(cost);
        if self.attempts >= self.policy.attempts {
            return Err(GiveUp::Attempts);
        }
        let pause = if asked.is_zero() {
            self.rounds = self.rounds.saturating_add(1);
            self.policy.grown(self.rounds, jitter)
        } else {
            // On top, so that many who got the same answer do not come back in the same moment.
            asked.saturating_add(self.policy.grown(1, jitter) / 2)
        };
        match self.policy.waiter {
            Waiter::Client => {
                let fits = self.budget.left().is_some_and(|left| pause <= left);
                fits.then_some(pause).ok_or(GiveUp::Budget)
            }
            Waiter::Job => {
                let pause = pause.min(JOB_MAX_PAUSE);
                if is_answer {
                    self.budget.answered(pause);
                }
                self.budget.left().map(|_| pause).ok_or(GiveUp::Budget)
            }
        }
    }

    /// The error to give up with. It says how many attempts were made, so that an outer policy
    /// counts them too.
    pub fn give_up(self, error: Error) -> Error {
        // That the circuit breaker opened meanwhile says less than what made it open.
        let is_open = matches!(classify(&error), Class::Open(_));
        let error = self.last.filter(|_| is_open).unwrap_or(error);
        error.after(self.attempts.max(1))
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

    fn policy(attempts: u32, first_pause: Duration) -> Policy {
        Policy {
            waiter: Waiter::Client,
            attempts,
            first_pause,
        }
    }

    const HALF: Duration = Duration::from_millis(500);

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
            check(Kind::Timeout { stage, limit }, Class::Stalled);
        }
        let too_large = Kind::TooLarge {
            limit: 1,
            announced: None,
        };
        check(too_large, Class::Never);
    }

    #[test]
    fn pauses_double_and_end_with_the_attempts_or_the_budget() {
        let broken = error(Kind::Transport(Cause::text("reset")));
        let check = |limit, expected: &[Result<u64, GiveUp>]| {
            let budget = Budget::new(limit, Duration::MAX);
            let mut retry = Retry::new(policy(3, HALF), &budget);
            let pauses = expected
                .iter()
                .map(|_| Ok(retry.pause(&broken, 1.0)?.as_millis()))
                .collect::<Vec<Result<u128, GiveUp>>>();
            let expected: Vec<_> = expected.iter().map(|one| one.map(u128::from)).collect();
            assert_eq!(pauses, expected);
            assert_eq!(retry.give_up(broken.clone()).attempts(), 3);
        };
        check(CLIENT_BUDGET, &[Ok(500), Ok(1000), Err(GiveUp::Attempts)]);
        let short = Duration::from_millis(900);
        check(
            short,
            &[Ok(500), Err(GiveUp::Budget), Err(GiveUp::Attempts)],
        );
    }

    #[test]
    fn a_client_waits_as_upstream_asks_if_it_has_the_time() {
        let busy = error(status(429, Some(30)));
        let pause = |limit| {
            let budget = Budget::new(limit, Duration::MAX);
            Retry::new(policy(3, HALF), &budget).pause(&busy, 0.0)
        };
        assert_eq!(pause(CLIENT_BUDGET), Err(GiveUp::Budget));
        assert_eq!(
            pause(Duration::from_secs(600)),
            Ok(Duration::from_millis(30_125))
        );
        assert_eq!(busy.retry_after(), Some(Duration::from_secs(30)));
    }

    /// How often a job pauses over an error that does not pass.
    fn rounds_of_a_job(error: &Error) -> usize {
        let budget = Budget::job(Duration::from_secs(600));
        let mut retry = Retry::new(Policy::job(), &budget);
        std::iter::from_fn(|| retry.pause(error, 0.5).ok())
            .take(100)
            .count()
    }

    #[test]
    fn the_attempts_of_a_fetch_count_against_those_of_the_job() {
        let broken = error(Kind::Transport(Cause::text("reset")));
        assert_eq!(rounds_of_a_job(&broken), 11);
        assert_eq!(rounds_of_a_job(&broken.after(3)), 3);
        assert_eq!(rounds_of_a_job(&broken.after(20)), 3);
        let stalled = Kind::Timeout {
            stage: Stage::Head,
            limit: Duration::from_secs(8),
        };
        assert_eq!(rounds_of_a_job(&error(stalled)), 3);
        for retry_after in [Some(1), None] {
            assert_eq!(
                rounds_of_a_job(&error(status(429, retry_after)).after(3)),
                11
            );
        }
        let open = Kind::Breaker {
            retry_after: Duration::from_secs(1),
            last: None,
        };
        assert_eq!(rounds_of_a_job(&error(open)), 100);
        assert_eq!(rounds_of_a_job(&error(status(403, None))), 0);
    }

    #[test]
    fn silence_ends_a_job_and_an_answer_is_no_silence() {
        let budget = Budget::job(Duration::ZERO);
        let broken = error(Kind::Transport(Cause::text("reset")));
        let pause = |error| Retry::new(Policy::job(), &budget).pause(error, 0.5);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(pause(&broken), Err(GiveUp::Budget));
        let busy = error(status(429, Some(1000)));
        assert_eq!(pause(&busy), Ok(JOB_MAX_PAUSE));
        assert!(pause(&broken).is_ok(), "the pause is no silence");
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
        fn no_pause_of_a_client_is_over_the_budget(
            attempts: u32, first: u64, limit: u64, asked in any::<Option<u64>>(), jitter in any::<f64>(),
        ) {
            let budget = Budget::new(Duration::from_secs(limit), Duration::MAX);
            let mut retry = Retry::new(policy(attempts, Duration::from_secs(first)), &budget);
            let error = error(status(503, asked));
            if let Ok(pause) = retry.pause(&error, jitter) {
                prop_assert!(attempts > 1);
                prop_assert!(pause <= Duration::from_secs(limit));
            }
        }

        #[test]
        fn any_retry_after_is_read_or_not(value in "\\PC{0,40}", date in "\\PC{0,40}") {
            parse_retry_after(&value, Some(&date));
        }
    }
}
