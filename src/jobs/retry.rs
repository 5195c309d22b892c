//! How a job retries: it waits for upstream under one budget for all that it fetches, shows that it
//! waits, and ends at once when it is cancelled.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    context::JobContext,
    error::{Fault, JobError},
    services::Services,
};
use crate::{
    mirror::Error,
    store,
    upstream::{
        self,
        retry::{Budget, GiveUp, Policy, Retry},
    },
    util::{error::one_line, format::exact_span},
};

/// Shorter pauses are not reported.
const REPORTED_PAUSE: Duration = Duration::from_millis(200);

/// The retries of one job.
#[derive(Debug)]
pub(in crate::jobs) struct JobRetry {
    cx: JobContext,
    budget: Budget,
    /// Whether the job has reported that it waits.
    told: AtomicBool,
}

/// Why something was given up.
#[derive(Debug)]
pub(in crate::jobs) enum GivenUp {
    /// It failed; the next thing may succeed.
    One(Error),
    /// The job cannot continue.
    All(JobError),
}

/// What an error means to a job.
enum Meaning<'a> {
    /// The retry policy decides.
    Upstream(&'a upstream::Error),
    /// It may pass.
    Passing,
    /// Another attempt would fail too.
    Lasting,
    /// Nothing else would succeed either.
    End(JobError),
}

impl JobRetry {
    /// The retries of a job that begins now, of which there is one a job.
    pub(in crate::jobs) fn start(services: &Services, cx: &JobContext) -> Arc<JobRetry> {
        Arc::new(JobRetry::new(
            cx.clone(),
            services.options.get().sync.patience,
        ))
    }

    /// A job that gives up when upstream sends nothing for `limit`.
    pub(in crate::jobs) fn new(cx: JobContext, limit: Duration) -> JobRetry {
        JobRetry {
            cx,
            budget: Budget::job(limit),
            told: AtomicBool::new(false),
        }
    }

    /// Where the job reports its progress.
    pub(in crate::jobs) fn cx(&self) -> &JobContext {
        &self.cx
    }

    /// Tries until it succeeds or the policy gives up.
    ///
    /// # Errors
    /// [`GivenUp`].
    pub(in crate::jobs) async fn on<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, GivenUp> {
        let mut retry = Retry::new(Policy::job(), &self.budget);
        loop {
            self.cx.check_cancelled().map_err(GivenUp::All)?;
            let error = match attempt().await {
                Ok(value) => {
                    self.heard();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let pause = match meaning(&error) {
                Meaning::Upstream(source) => retry.pause(source, fastrand::f64()),
                Meaning::Passing => retry.pause_after_other(fastrand::f64()),
                Meaning::Lasting => {
                    self.heard();
                    return Err(GivenUp::One(error));
                }
                Meaning::End(end) => return Err(GivenUp::All(end)),
            };
            match pause {
                Ok(pause) => self.wait(&error, pause).await.map_err(GivenUp::All)?,
                Err(GiveUp::Attempts) => return Err(GivenUp::One(error)),
                Err(GiveUp::Budget) => {
                    return Err(GivenUp::All(away(&error, self.budget.silence())));
                }
            }
        }
    }

    fn heard(&self) {
        self.budget.heard();
        self.told.store(false, Ordering::Relaxed);
    }

    async fn wait(&self, error: &Error, pause: Duration) -> Result<(), JobError> {
        if pause > REPORTED_PAUSE && !self.told.swap(true, Ordering::Relaxed) {
            let text = format!(
                "upstream is in trouble, and is asked again in a moment: {}",
                one_line(error)
            );
            self.cx.note(text);
        }
        let pause = tokio::time::sleep(pause);
        self.cx.unless_cancelled(pause).await
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

fn meaning(error: &Error) -> Meaning<'_> {
    match error {
        Error::Upstream { source, .. } => match source.kind() {
            upstream::Kind::Config(_) => Meaning::End(config(error)),
            _ => Meaning::Upstream(source),
        },
        // A disk that stalls under load comes back; the write may even have succeeded.
        Error::Store {
            source: store::Error::Wedged { .. },
            ..
        }
        | Error::Follow { .. }
        | Error::Slow { .. }
        | Error::Busy { .. }
        | Error::Lost { .. } => Meaning::Passing,
        Error::UnknownCrate { .. }
        | Error::UnknownVersion { .. }
        | Error::NotHeld { .. }
        | Error::NotInView { .. }
        | Error::NoVersionInView { .. }
        | Error::Damaged { .. }
        | Error::LostEntry { .. }
        | Error::MissingUpstream { .. }
        | Error::Mismatch { .. }
        | Error::Unreadable { .. }
        | Error::Store {
            source: store::Error::TooLarge { .. },
            ..
        } => Meaning::Lasting,
        Error::Store { .. } => Meaning::End(full(error)),
    }
}
