//! How a job bears an upstream in trouble: it waits and goes on, and gives up late.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    mirror::{
        error::Error,
        jobs::{Fault, JobError, Teller},
    },
    store,
    upstream::{
        self,
        retry::{self, Class},
    },
    util::{error::one_line, format::exact_span},
};

/// How often one thing is tried, over the tries of each fetch.
const TRIES: u32 = 4;

/// How often one thing is tried to which upstream says that it is too much.
const TRIES_AT_429: u32 = 12;

/// The pause before the second try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: what upstream wants to be asked after is looked at again by then.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How often a job that waits looks whether it should end.
const LOOK: Duration = Duration::from_millis(200);

/// How long upstream may be away when it was never heard in this job: somebody may sit there.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);

/// The patience of one job.
#[derive(Debug)]
pub(in crate::mirror) struct Patience {
    teller: Teller,
    /// How long upstream may be away.
    most: Duration,
    heard: Mutex<Heard>,
    told: AtomicBool,
}

#[derive(Debug)]
struct Heard {
    last: Instant,
    ever: bool,
}

/// Why something was given up.
#[derive(Debug)]
pub(in crate::mirror) enum GivenUp {
    /// It failed; the next thing may go well.
    One(Error),
    /// The job cannot go on.
    All(JobError),
}

/// What an error says to a job.
enum Trouble {
    /// Trying again changes nothing.
    Lasting,
    /// Upstream said so much that it is there.
    Passing(Duration),
    /// Upstream is away or wants a rest.
    Rest(Duration),
    /// The store takes nothing.
    Store,
    /// Upstream cannot be used as it is set: nothing would go well.
    Config,
}

impl Patience {
    pub(in crate::mirror) fn new(teller: Teller, most: Duration) -> Patience {
        Patience {
            teller,
            most,
            heard: Mutex::new(Heard {
                last: Instant::now(),
                ever: false,
            }),
            told: AtomicBool::new(false),
        }
    }

    /// To whom the job tells what becomes of it.
    pub(in crate::mirror) fn teller(&self) -> &Teller {
        &self.teller
    }

    /// Tries until it goes well, or there is no sense in it.
    ///
    /// # Errors
    /// [`GivenUp`].
    pub(in crate::mirror) async fn on<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, GivenUp> {
        let mut tries: u32 = 0;
        let mut rests: u32 = 0;
        loop {
            self.teller.go_on().map_err(GivenUp::All)?;
            let error = match attempt().await {
                Ok(value) => {
                    self.hear();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let pause = match trouble(&error, tries) {
                Trouble::Lasting => {
                    self.hear();
                    return Err(GivenUp::One(error));
                }
                Trouble::Store => return Err(GivenUp::All(full(&error))),
                Trouble::Config => return Err(GivenUp::All(config(&error))),
                Trouble::Passing(pause) => {
                    tries += 1;
                    pause
                }
                Trouble::Rest(pause) => {
                    rests += u32::from(is_429(&error));
                    pause
                }
            };
            if tries >= TRIES || rests >= TRIES_AT_429 {
                return Err(GivenUp::One(error));
            }
            self.bear(&error, pause).await?;
        }
    }

    fn hear(&self) {
        *self.heard.lock() = Heard {
            last: Instant::now(),
            ever: true,
        };
        self.told.store(false, Ordering::Relaxed);
    }

    /// Upstream answered, be it that it can do nothing now: the pause that follows is no silence.
    fn hear_of_trouble(&self, pause: Duration) {
        let mut heard = self.heard.lock();
        heard.last = heard.last.max(Instant::now() + pause);
        heard.ever = true;
    }

    async fn bear(&self, error: &Error, pause: Duration) -> Result<(), GivenUp> {
        let pause = pause.min(LONGEST_PAUSE);
        if is_answer(error) {
            self.hear_of_trouble(pause);
        }
        let (silent, most) = {
            let heard = self.heard.lock();
            let most = if heard.ever {
                self.most
            } else {
                FIRST_PATIENCE.min(self.most)
            };
            (heard.last.elapsed(), most)
        };
        if silent > most {
            return Err(GivenUp::All(away(error, silent)));
        }
        if pause > LOOK && !self.told.swap(true, Ordering::Relaxed) {
            let text = format!(
                "upstream is in trouble, and is asked again in a moment: {}",
                one_line(error)
            );
            self.teller.note(text);
        }
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.teller.go_on().map_err(GivenUp::All)?;
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(LOOK)).await;
        }
        Ok(())
    }
}

fn away(error: &Error, silent: Duration) -> JobError {
    let seconds = Duration::from_secs(silent.as_secs());
    let message = format!("upstream has been away for {}", exact_span(seconds));
    JobError::new(Fault::Unavailable, message)
        .because(error)
        .hint("what was fetched is kept; run it again when upstream is back")
}

fn config(error: &Error) -> JobError {
    JobError::new(Fault::Unavailable, "the upstream cannot be used as it is").because(error)
}

fn full(error: &Error) -> JobError {
    JobError::new(Fault::Unavailable, "the store takes no more")
        .because(error)
        .hint("what was fetched is kept; make room or look into the log, and run it again")
}

/// Whether upstream said it: it is there. So it is where it is left alone because it said so.
fn is_answer(error: &Error) -> bool {
    let is_status = |error: &upstream::Error| matches!(error.kind(), upstream::Kind::Status { .. });
    let Error::Upstream { source, .. } = error else {
        return false;
    };
    match source.kind() {
        upstream::Kind::Breaker { last, .. } => last.as_ref().is_some_and(is_status),
        _ => is_status(source),
    }
}

fn is_429(error: &Error) -> bool {
    let Error::Upstream { source, .. } = error else {
        return false;
    };
    matches!(source.kind(), upstream::Kind::Status { code: 429, .. })
}

fn trouble(error: &Error, tries: u32) -> Trouble {
    let grown = FIRST_PAUSE.saturating_mul(1 << tries.min(8));
    // Not all in one moment.
    let grown = grown.mul_f64(0.75 + fastrand::f64() / 2.0);
    match error {
        Error::Upstream { source, .. } => of_upstream(source, grown),
        // A disk that stalls under load comes back; the write may even have gone well.
        Error::Store {
            source: store::Error::Wedged { .. },
            ..
        }
        | Error::Follow { .. }
        | Error::Slow { .. }
        | Error::Busy { .. }
        | Error::Lost { .. } => Trouble::Passing(grown),
        Error::UnknownCrate { .. }
        | Error::UnknownVersion { .. }
        | Error::NotHeld { .. }
        | Error::NotInView { .. }
        | Error::Damaged { .. }
        | Error::LostEntry { .. }
        | Error::MissingUpstream { .. }
        | Error::Mismatch { .. }
        | Error::Unreadable { .. }
        | Error::Store {
            source: store::Error::TooLarge { .. },
            ..
        } => Trouble::Lasting,
        Error::Store { .. } => Trouble::Store,
    }
}

fn of_upstream(error: &upstream::Error, grown: Duration) -> Trouble {
    match error.kind() {
        upstream::Kind::Breaker { retry_after, .. } => {
            // One of us is let through first, the others after it.
            let spread = Duration::from_millis(fastrand::u64(50..250));
            Trouble::Rest(*retry_after + spread)
        }
        upstream::Kind::Status {
            code: 429,
            retry_after,
            ..
        } => Trouble::Rest(retry_after.unwrap_or(grown)),
        upstream::Kind::Config(_) => Trouble::Config,
        upstream::Kind::Timeout { .. } => Trouble::Passing(grown),
        _ => match retry::classify(error) {
            Class::Soon => Trouble::Passing(grown),
            Class::After(wait) => Trouble::Passing(wait.max(grown)),
            Class::Never => Trouble::Lasting,
        },
    }
}
