//! When to leave upstream alone: a pure state machine, told the time and the fate of each request.
//!
//! ```text
//!           enough failures, or silence                 the pause is over
//!  Closed ────────────────────────────────▶ Open ──────────────────────────▶ HalfOpen
//!    ▲                                       ▲                                │    │
//!    │                                       └── the probe failed: a longer ──┘    │
//!    └─────────────────────────────── the probe was answered ──────────────────────┘
//! ```
//!
//! Apart from that a host may *ask* to be left alone (429): then all wait, and nothing has failed.

use std::time::{Duration, Instant};

use super::retry::share;

/// The longest pause that the breaker grows to by itself. One minute: upstream that came back is
/// noticed within the time that a person takes to look whether it did.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest that a host may ask to be left alone. Ten minutes: a host that names a day would
/// otherwise decide that nothing new is seen until somebody restarts orlop.
const LONGEST_HOLD: Duration = Duration::from_secs(10 * 60);

/// A bound for configured times, so that adding them to a moment cannot overflow.
const LONGEST_CONFIGURED: Duration = Duration::from_secs(24 * 3600);

/// What a request that finds the probe still under way is told to wait.
const PROBE_UNDER_WAY: Duration = Duration::from_secs(1);

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    failures: u32,
    pause: Duration,
    longest_pause: Duration,
    silence: Duration,
}

impl Limits {
    /// Opens after `failures` in a row, or after one request that waited in vain while the host
    /// said nothing to anybody for `silence`; at first for `pause`.
    pub(super) fn new(failures: u32, pause: Duration, silence: Duration) -> Limits {
        let pause = pause.min(LONGEST_CONFIGURED);
        Limits {
            failures: failures.max(1),
            pause,
            longest_pause: pause.max(LONGEST_PAUSE),
            silence,
        }
    }
}

/// The state towards one host.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: Limits,
    state: State,
    /// Rises whenever the breaker opens or closes: what was sent before tells nothing about after.
    epoch: u64,
    /// Until when the host asked to be left alone.
    held_until: Option<Instant>,
    /// When a body's bytes, or an answer without any, last came from the host.
    last_heard: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        /// Failures in a row.
        failures: u32,
        /// The path of the last one, where it was the path's and not the host's.
        path: Option<u64>,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    HalfOpen {
        pause: Duration,
    },
}

const CLOSED: State = State::Closed {
    failures: 0,
    path: None,
};

/// Leave to send one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    epoch: u64,
    probe: bool,
}

/// How a request that had a [`Pass`] ended, as far as it tells about the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, if only with "no".
    Answered,
    /// It is in trouble.
    Failed(Failure),
    /// It asked to be left alone for so long.
    AskedForPause(Duration),
    /// Nothing: the request was given up on our side.
    Untold,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The way to the host, or the host: refused, reset, no HTTP.
    Host,
    /// The request waited in vain for the whole stall limit.
    Stalled,
    /// This path (its hash): a 5xx, or a body cut short. The retries of one broken file count once,
    /// or one object that upstream cannot read would keep all others from being asked for.
    Path(u64),
}

/// What the breaker looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests are sent.
    Closed,
    /// No request is sent for so long.
    Open {
        /// Time until one is.
        reopens_in: Duration,
    },
    /// The pause is over: the answer to the next request, or to one under way, decides.
    HalfOpen,
}

impl Breaker {
    pub(super) fn new(limits: Limits) -> Breaker {
        Breaker {
            limits,
            state: CLOSED,
            epoch: 0,
            held_until: None,
            last_heard: None,
        }
    }

    /// How long to wait before asking again. `None`: [`admit`](Breaker::admit) would let pass.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let held = self.held_until.filter(|until| now < *until);
        let open = match self.state {
            State::Open { until, .. } if now < until => Some(until),
            State::Closed { .. } | State::Open { .. } => None,
            State::HalfOpen { .. } => Some(now + PROBE_UNDER_WAY),
        };
        held.max(open).map(|until| until.duration_since(now))
    }

    /// Lets a request pass, or says how long to wait. Exactly one passes when a pause is over.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Pass, Duration> {
        if let Some(wait) = self.wait(now) {
            return Err(wait);
        }
        let probe = match self.state {
            State::Open { pause, .. } => {
                self.turn(State::HalfOpen { pause });
                true
            }
            State::Closed { .. } | State::HalfOpen { .. } => false,
        };
        Ok(Pass {
            epoch: self.epoch,
            probe,
        })
    }

    /// Takes note that bytes of a body came. The first ones of a probe close the breaker: the rest
    /// of a long download need not be awaited.
    pub(super) fn heard(&mut self, pass: &mut Pass, now: Instant) {
        self.last_heard = Some(now);
        if pass.probe && pass.epoch == self.epoch {
            self.turn(CLOSED);
            *pass = Pass {
                epoch: self.epoch,
                probe: false,
            };
        }
    }

    /// Takes note of how a request ended; true if nobody is let pass from now on, and was before.
    /// `jitter` is from 0 to 1.
    pub(super) fn settle(
        &mut self,
        pass: &Pass,
        verdict: Verdict,
        now: Instant,
        jitter: f64,
    ) -> bool {
        let is_current = pass.epoch == self.epoch;
        match verdict {
            Verdict::Untold => {
                if let (State::HalfOpen { pause }, true) = (self.state, is_current) {
                    self.turn(State::Open { until: now, pause });
                }
                false
            }
            Verdict::Answered => {
                self.answered(is_current, now);
                false
            }
            Verdict::AskedForPause(wait) => {
                self.answered(is_current, now);
                self.hold(now, wait)
            }
            Verdict::Failed(failure) => is_current && self.failed(failure, now, jitter),
        }
    }

    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match (self.state, self.wait(now)) {
            (State::Closed { .. }, None) => BreakerState::Closed,
            // The next request is the probe.
            (State::HalfOpen { .. }, _) | (State::Open { .. }, None) => BreakerState::HalfOpen,
            (State::Closed { .. } | State::Open { .. }, Some(reopens_in)) => {
                BreakerState::Open { reopens_in }
            }
        }
    }

    fn answered(&mut self, is_current: bool, now: Instant) {
        self.last_heard = Some(now);
        match self.state {
            State::Closed { .. } if is_current => self.state = CLOSED,
            State::HalfOpen { .. } if is_current => self.turn(CLOSED),
            State::Closed { .. } | State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    fn hold(&mut self, now: Instant, wait: Duration) -> bool {
        let was_passable = self.wait(now).is_none();
        self.held_until = self.held_until.max(Some(now + wait.min(LONGEST_HOLD)));
        was_passable && self.wait(now).is_some()
    }

    fn failed(&mut self, failure: Failure, now: Instant, jitter: f64) -> bool {
        let is_silent = failure == Failure::Stalled && self.is_silent(now);
        match self.state {
            State::HalfOpen { pause } => self.open(now, pause.saturating_mul(2), jitter),
            State::Closed { failures, path } => {
                let subject = match failure {
                    Failure::Path(subject) => Some(subject),
                    Failure::Host | Failure::Stalled => None,
                };
                if subject.is_some() && subject == path {
                    return false;
                }
                let failures = failures.saturating_add(1);
                if is_silent || failures >= self.limits.failures {
                    self.open(now, self.limits.pause, jitter)
                } else {
                    let path = subject;
                    self.state = State::Closed { failures, path };
                    false
                }
            }
            State::Open { .. } => false,
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        // A tenth off: timers fire late, and a chunk that came first may be noted a moment after.
        let limit = self.limits.silence.saturating_sub(self.limits.silence / 10);
        self.last_heard
            .is_none_or(|heard| now.saturating_duration_since(heard) >= limit)
    }

    fn open(&mut self, now: Instant, pause: Duration, jitter: f64) -> bool {
        let pause = pause.min(self.limits.longest_pause);
        let spread = 0.9 + 0.2 * share(jitter);
        let until = now + pause.mul_f64(spread);
        self.turn(State::Open { until, pause });
        true
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);
    const STALL: Duration = Duration::from_secs(8);
    const HOST: Verdict = Verdict::Failed(Failure::Host);
    const STALLED: Verdict = Verdict::Failed(Failure::Stalled);

    /// A breaker with a clock of its own.
    struct Rig {
        breaker: Breaker,
        now: Instant,
    }

    impl Rig {
        fn new() -> Rig {
            Rig {
                breaker: Breaker::new(Limits::new(3, PAUSE, STALL)),
                now: Instant::now(),
            }
        }

        /// One that opened just now.
        fn open() -> Rig {
            let mut rig = Rig::new();
            rig.ask(HOST);
            rig.ask(HOST);
            assert!(rig.ask(HOST));
            rig
        }

        fn after(&mut self, time: Duration) -> &mut Rig {
            self.now += time;
            self
        }

        fn admit(&mut self) -> Result<Pass, Duration> {
            self.breaker.admit(self.now)
        }

        fn settle(&mut self, pass: &Pass, verdict: Verdict) -> bool {
            self.breaker.settle(pass, verdict, self.now, 0.5)
        }

        /// A whole request, which must be let pass; whether it shut the way for the next.
        fn ask(&mut self, verdict: Verdict) -> bool {
            let pass = self.admit().expect("it lets pass");
            self.settle(&pass, verdict)
        }

        fn state(&self) -> BreakerState {
            self.breaker.state(self.now)
        }
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_not_before() {
        let mut rig = Rig::new();
        assert!(!rig.ask(HOST));
        assert!(!rig.ask(HOST));
        assert!(!rig.ask(Verdict::Answered));
        assert!(!rig.ask(HOST));
        assert!(!rig.ask(HOST));
        assert_eq!(rig.state(), BreakerState::Closed);
        assert!(rig.ask(HOST));
        assert_eq!(rig.admit(), Err(PAUSE));
        assert_eq!(rig.state(), BreakerState::Open { reopens_in: PAUSE });
    }

    #[test]
    fn a_host_that_says_nothing_to_anybody_costs_one_time_out() {
        let mut rig = Rig::new();
        rig.ask(Verdict::Answered);
        let pass = rig.admit().expect("it lets pass");
        rig.after(STALL);
        assert!(rig.settle(&pass, STALLED));
    }

    #[test]
    fn one_stalled_request_beside_answered_ones_is_one_failure() {
        let mut rig = Rig::new();
        let pass = rig.admit().expect("it lets pass");
        rig.after(STALL / 2).ask(Verdict::Answered);
        rig.after(STALL / 2);
        assert!(!rig.settle(&pass, STALLED));
        assert!(!rig.ask(HOST));
        assert!(rig.ask(HOST));
    }

    #[test]
    fn the_bytes_of_a_running_download_count_as_a_sign_of_life() {
        let mut rig = Rig::new();
        let stalled = rig.admit().expect("it lets pass");
        let mut running = rig.admit().expect("it lets pass");
        let now = rig.after(STALL).now;
        rig.breaker.heard(&mut running, now);
        assert!(!rig.settle(&stalled, STALLED));
    }

    #[test]
    fn one_broken_file_tried_again_and_again_is_one_failure() {
        let broken = |path| Verdict::Failed(Failure::Path(path));
        let mut rig = Rig::new();
        for _ in 0..10 {
            assert!(!rig.ask(broken(1)));
        }
        assert!(!rig.ask(broken(2)));
        assert!(rig.ask(broken(1)));
    }

    #[test]
    fn when_the_pause_is_over_exactly_one_request_probes() {
        let mut rig = Rig::open();
        let probe = rig.after(PAUSE).admit().expect("the probe");
        assert_eq!(rig.state(), BreakerState::HalfOpen);
        assert_eq!(rig.admit(), Err(PROBE_UNDER_WAY));
        assert!(!rig.settle(&probe, Verdict::Answered));
        assert_eq!(rig.state(), BreakerState::Closed);
        rig.ask(HOST);
        rig.ask(HOST);
        assert_eq!(
            rig.state(),
            BreakerState::Closed,
            "it counts from the beginning"
        );
    }

    #[test]
    fn the_first_bytes_of_a_probe_let_the_others_pass() {
        let mut rig = Rig::open();
        let mut probe = rig.after(PAUSE).admit().expect("the probe");
        rig.breaker.heard(&mut probe, rig.now);
        assert_eq!(rig.state(), BreakerState::Closed);
        assert!(!rig.settle(&probe, HOST), "its end counts as any other's");
        assert!(!rig.ask(HOST));
        assert!(rig.ask(HOST));
    }

    #[test]
    fn a_probe_that_fails_doubles_the_pause_up_to_a_minute() {
        let mut rig = Rig::open();
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let wait = rig.admit().expect_err("it is open");
            pauses.push(wait.as_secs());
            assert!(rig.after(wait).ask(HOST));
        }
        assert_eq!(pauses, [10, 20, 40, 60, 60]);
    }

    #[test]
    fn a_probe_that_was_given_up_leaves_its_place_to_the_next() {
        let mut rig = Rig::open();
        rig.after(PAUSE).ask(Verdict::Untold);
        assert!(!rig.ask(Verdict::Answered));
        assert_eq!(rig.state(), BreakerState::Closed);
    }

    #[test]
    fn requests_from_before_it_opened_tell_nothing_any_more() {
        let mut rig = Rig::new();
        let passes: Vec<_> = (0..10)
            .map(|_| rig.admit().expect("it lets pass"))
            .collect();
        let opened: Vec<_> = passes.iter().map(|pass| rig.settle(pass, HOST)).collect();
        assert_eq!(opened.iter().filter(|opened| **opened).count(), 1);
        assert_eq!(rig.admit(), Err(PAUSE), "the pause did not grow");
        let probe = rig.after(PAUSE).admit().expect("the probe");
        rig.settle(&passes[0], Verdict::Answered);
        rig.settle(&passes[1], HOST);
        assert_eq!(rig.state(), BreakerState::HalfOpen);
        rig.settle(&probe, Verdict::Answered);
        rig.settle(&passes[1], HOST);
        assert_eq!(rig.state(), BreakerState::Closed);
    }

    #[test]
    fn a_host_that_asks_for_a_pause_gets_it_and_has_not_failed() {
        let mut rig = Rig::new();
        rig.ask(HOST);
        rig.ask(HOST);
        assert!(rig.ask(Verdict::AskedForPause(Duration::from_secs(3))));
        assert_eq!(rig.admit(), Err(Duration::from_secs(3)));
        assert!(!rig.after(Duration::from_secs(3)).ask(HOST));
        assert!(rig.ask(Verdict::AskedForPause(Duration::MAX)));
        assert_eq!(rig.admit(), Err(LONGEST_HOLD));
        assert!(!Rig::new().ask(Verdict::AskedForPause(Duration::ZERO)));
    }

    #[test]
    fn configured_extremes_do_no_harm() {
        for limits in [
            Limits::new(0, Duration::ZERO, Duration::ZERO),
            Limits::new(u32::MAX, Duration::MAX, Duration::MAX),
        ] {
            let mut breaker = Breaker::new(limits);
            let now = Instant::now();
            let pass = breaker.admit(now).expect("it lets pass");
            breaker.settle(&pass, HOST, now, f64::NAN);
            breaker.wait(now);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pass(Duration),
        Admit,
        Heard(usize),
        Settle(usize, Verdict),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let verdict = prop_oneof![
            1 => Just(Verdict::Answered),
            1 => Just(Verdict::Untold),
            3 => Just(HOST),
            1 => Just(STALLED),
            1 => (0..3_u64).prop_map(|path| Verdict::Failed(Failure::Path(path))),
            1 => (0..900_u64).prop_map(|s| Verdict::AskedForPause(Duration::from_secs(s))),
        ];
        prop_oneof![
            1 => (0..30_000_u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
            3 => Just(Step::Admit),
            1 => any::<usize>().prop_map(Step::Heard),
            3 => (any::<usize>(), verdict).prop_map(|(n, verdict)| Step::Settle(n, verdict)),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_it_probes_with_one_and_lets_pass_again(
            steps in proptest::collection::vec(any_step(), 0..200), jitter in 0.0..1.0,
        ) {
            let mut rig = Rig::new();
            let mut under_way: Vec<Pass> = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(time) => rig.now += time,
                    Step::Admit => {
                        let wait = rig.breaker.wait(rig.now);
                        match rig.admit() {
                            Ok(pass) => {
                                prop_assert_eq!(wait, None);
                                under_way.push(pass);
                            }
                            Err(told) => {
                                prop_assert_eq!(wait, Some(told));
                                prop_assert!(!told.is_zero() && told <= LONGEST_HOLD);
                            }
                        }
                    }
                    Step::Heard(n) if !under_way.is_empty() => {
                        let n = n % under_way.len();
                        rig.breaker.heard(&mut under_way[n], rig.now);
                    }
                    Step::Settle(n, verdict) if !under_way.is_empty() => {
                        let pass = under_way.swap_remove(n % under_way.len());
                        let before = rig.breaker.wait(rig.now);
                        let shut = rig.breaker.settle(&pass, verdict, rig.now, jitter);
                        let after = rig.breaker.wait(rig.now);
                        prop_assert!(!shut || after.is_some(), "{:?} -> {:?}", before, after);
                    }
                    Step::Heard(_) | Step::Settle(..) => {}
                }
                let epoch = rig.breaker.epoch;
                let probes = under_way.iter().filter(|pass| pass.probe && pass.epoch == epoch).count();
                let is_half_open = matches!(rig.breaker.state, State::HalfOpen { .. });
                prop_assert_eq!(probes, usize::from(is_half_open), "one probe, and it is not lost");
            }
            for pass in under_way.drain(..) {
                rig.settle(&pass, Verdict::Untold);
            }
            rig.now += LONGEST_HOLD;
            prop_assert!(rig.admit().is_ok(), "{:?}", rig.breaker);
        }
    }
}
