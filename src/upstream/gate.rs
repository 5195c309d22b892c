//! The way to one host: its breaker, the places for requests at the same time, and how it fared.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    breaker::{Breaker, BreakerState, Failure, Limits, Pass, Verdict},
    error::{Error, Kind, Stage},
};
use crate::util::error::one_line;

/// How a host fares, as the status page shows it.
#[derive(Debug, Clone)]
pub struct HostHealth {
    /// Whether requests are sent.
    pub breaker: BreakerState,
    /// Time since the last answer of any kind that was no trouble.
    pub last_success: Option<Duration>,
    /// Time since the last failure, and what it was, in one line without credentials.
    pub last_failure: Option<(Duration, String)>,
    /// Time to the head of an answer, smoothed over about the last ten.
    pub latency: Option<Duration>,
}

impl HostHealth {
    /// Whether the last request went well, and the next one would be sent. A host that was never
    /// asked is not known to be down.
    pub fn is_up(&self) -> bool {
        self.failed_last().is_none() && self.breaker == BreakerState::Closed
    }

    /// How long ago the last request failed, and why, if none went well since.
    pub fn failed_last(&self) -> Option<&(Duration, String)> {
        let failure = self.last_failure.as_ref();
        failure.filter(|(age, _why)| self.last_success.is_none_or(|success| *age < success))
    }
}

/// The way to one host. Entered by [`enter`](Gate::enter), left by dropping the [`Ticket`].
#[derive(Debug)]
pub(super) struct Gate {
    /// Held for moments and never across an await: a plain lock does.
    state: Mutex<State>,
    places: Arc<Semaphore>,
    /// What a 429 without `Retry-After` is taken to ask for.
    pause: Duration,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    last_success: Option<Instant>,
    last_failure: Option<(Instant, Error)>,
    latency: Option<Duration>,
}

impl Gate {
    pub(super) fn new(limits: Limits, pause: Duration, places: usize) -> Arc<Gate> {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Gate {
            state: Mutex::new(State {
                breaker: Breaker::new(limits),
                last_success: None,
                last_failure: None,
                latency: None,
            }),
            places: Arc::new(Semaphore::new(places)),
            pause,
        })
    }

    /// Waits for a place, at most `patience`, and for the breaker's leave.
    ///
    /// Fails at once while the breaker is open, and when it opens meanwhile: the request that
    /// opened it leaves its place to the first who waits, who is refused and leaves it to the next.
    /// Cancel safe: a place that is not taken is free.
    pub(super) async fn enter(self: &Arc<Gate>, patience: Duration) -> Result<Ticket, Kind> {
        // On its own line: in the head of an `if let`, the lock would be held in the body.
        let wait = self.state.lock().breaker.wait(Instant::now());
        if let Some(wait) = wait {
            return Err(self.refusal(wait));
        }
        let place = tokio::time::timeout(patience, Arc::clone(&self.places).acquire_owned());
        let Ok(Ok(place)) = place.await else {
            return Err(Kind::Timeout {
                stage: Stage::Turn,
                limit: patience,
            });
        };
        let admitted = self.state.lock().breaker.admit(Instant::now());
        match admitted {
            Ok(pass) => Ok(Ticket {
                gate: Arc::clone(self),
                pass,
                settled: false,
                _place: place,
            }),
            Err(wait) => Err(self.refusal(wait)),
        }
    }

    pub(super) fn health(&self) -> HostHealth {
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then);
        let state = self.state.lock();
        HostHealth {
            breaker: state.breaker.state(now),
            last_success: state.last_success.map(since),
            last_failure: state
                .last_failure
                .as_ref()
                .map(|(then, error)| (since(*then), one_line(&error))),
            latency: state.latency,
        }
    }

    fn refusal(&self, retry_after: Duration) -> Kind {
        let last = self.last_failure();
        Kind::Breaker { retry_after, last }
    }

    fn tell(&self, pass: &Pass, verdict: Verdict) {
        let jitter = fastrand::f64();
        let was_shut = self
            .state
            .lock()
            .breaker
            .settle(pass, verdict, Instant::now(), jitter);
        if was_shut {
            let error = self.last_failure().map(|error| one_line(&error));
            tracing::warn!(error, "gives upstream a rest");
        }
    }

    fn last_failure(&self) -> Option<Error> {
        let state = self.state.lock();
        state.last_failure.as_ref().map(|(_, error)| error.clone())
    }

    fn note_failure(&self, error: &Error) {
        self.state.lock().last_failure = Some((Instant::now(), error.clone()));
    }

    fn note_success(&self) {
        self.state.lock().last_success = Some(Instant::now());
    }
}

/// Leave to send one request, and a place among those under way. One that is dropped without
/// having told how it ended counts for nothing.
#[derive(Debug)]
pub(super) struct Ticket {
    gate: Arc<Gate>,
    pass: Pass,
    settled: bool,
    _place: OwnedSemaphorePermit,
}

impl Ticket {
    /// The head of an answer came after so long.
    pub(super) fn head_came(&self, after: Duration) {
        let latency = &mut self.gate.state.lock().latency;
        *latency = Some(match *latency {
            Some(smoothed) => smoothed.saturating_mul(9).saturating_add(after) / 10,
            None => after,
        });
    }

    /// Bytes of the body came.
    pub(super) fn heard(&mut self) {
        let mut state = self.gate.state.lock();
        state.breaker.heard(&mut self.pass, Instant::now());
    }

    /// The request was answered.
    pub(super) fn answered(self) {
        self.gate.note_success();
        self.settle(Verdict::Answered);
    }

    /// The request failed with `error`.
    pub(super) fn failed(self, error: &Error) {
        let verdict = verdict(error, self.gate.pause);
        self.told(verdict, error);
    }

    /// The body broke off with `error` after a good head: the host is there, and what it cuts
    /// short again and again may be this one file.
    pub(super) fn broke_off(self, error: &Error) {
        let verdict = match verdict(error, self.gate.pause) {
            Verdict::Failed(Failure::Host) => Verdict::Failed(Failure::Path(hash_of(error.url()))),
            other => other,
        };
        self.told(verdict, error);
    }

    fn told(self, verdict: Verdict, error: &Error) {
        match verdict {
            Verdict::Answered => self.gate.note_success(),
            Verdict::Failed(_) | Verdict::AskedForPause(_) => self.gate.note_failure(error),
            Verdict::Untold => {}
        }
        self.settle(verdict);
    }

    fn settle(mut self, verdict: Verdict) {
        self.settled = true;
        self.gate.tell(&self.pass, verdict);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.gate.tell(&self.pass, Verdict::Untold);
        }
    }
}

/// What a failed request tells about the host.
fn verdict(error: &Error, pause: Duration) -> Verdict {
    match error.kind() {
        Kind::Refused(_) | Kind::Transport(_) => Verdict::Failed(Failure::Host),
        Kind::Timeout { .. } => Verdict::Failed(Failure::Stalled),
        Kind::Status {
            code: 429,
            retry_after,
            ..
        } => Verdict::AskedForPause(retry_after.unwrap_or(pause)),
        Kind::Status {
            code: 500..=599, ..
        } => Verdict::Failed(Failure::Path(hash_of(error.url()))),
        // It is there; what it says is another matter.
        Kind::Status { .. }
        | Kind::NotFound { .. }
        | Kind::NotAnIndex(_)
        | Kind::TooLarge { .. }
        | Kind::Config(_) => Verdict::Answered,
        Kind::Breaker { .. } | Kind::Forbidden(_) => Verdict::Untold,
    }
}

fn hash_of(text: &str) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
}
