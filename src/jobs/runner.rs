//! Runs jobs: from the request to what the log, the metrics and the store keep of the end.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;

use super::{
    context::JobContext,
    error::{Fault, JobError},
    job::{Job, JobReport},
    json::ReportJson,
    kind::JobKind,
    records::{JobRecord, keep, last_of},
    running::{Admitted, stopping},
    services::Services,
};
use crate::{
    metrics::JobResult,
    store::{LogEntry, LogKind},
    util::{background::Background, format::seconds, task},
};

/// The target of the log line about a job that failed.
pub const ENDED: &str = "orlop::ended";

/// Runs jobs. Cloning it is cheap, and all clones are one.
#[derive(Debug, Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    services: Services,
    background: Background,
}

impl Jobs {
    /// Jobs that work with `services`, on the threads of `background`.
    pub fn new(services: Services, background: Background) -> Jobs {
        Jobs {
            inner: Arc::new(Inner {
                services,
                background,
            }),
        }
    }

    /// What jobs work with.
    pub fn services(&self) -> &Services {
        &self.inner.services
    }

    /// A handle that does not keep the jobs alive, for what runs until the end.
    pub(super) fn downgrade(&self) -> WeakJobs {
        WeakJobs(Arc::downgrade(&self.inner))
    }

    /// Runs `job` to its end, on threads of its own: a caller that goes away does not end it, the
    /// token of `cx` does. Kinds that exclude each other wait or are refused.
    ///
    /// # Errors
    /// [`JobError`]; what was done before it is kept.
    pub async fn run<J: Job>(&self, job: J, cx: JobContext) -> Result<J::Report, JobError> {
        let inner = &self.inner;
        let (kind, name) = (job.kind(), cx.caller().name());
        let clock = inner.services.clock;
        let admitted = inner
            .services
            .running
            .admit_in_turn(kind, J::COMMAND, name, clock, &cx)
            .await?;
        tracing::info!(
            job = J::COMMAND,
            caller = name,
            "begins `{}` for {name}",
            J::COMMAND
        );
        let cx = admitted.observe(&cx);
        let handle = inner
            .background
            .spawn(work(self.clone(), admitted, job, cx));
        match handle {
            // Cut off where it waited, by the end of the program.
            Some(handle) => handle.await.unwrap_or_else(|_cut_off| Err(stopping())),
            None => Err(stopping()),
        }
    }

    /// Restores what the metrics showed of the jobs before the start.
    pub fn recall(&self) {
        for kind in JobKind::ALL {
            match last_of(&self.inner.services.store, *kind) {
                Ok(Some(last)) => {
                    let at = Duration::from_secs(last.at);
                    let took = Duration::from_secs(last.seconds);
                    let well_at = last.ok_at.map(Duration::from_secs);
                    let metrics = &self.inner.services.metrics;
                    metrics.job_known(kind.label(), at, well_at, took);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not read when the last `{kind}` was"
                ),
            }
        }
    }
}

/// A [`Jobs`] that does not keep it alive.
#[derive(Debug)]
pub(super) struct WeakJobs(Weak<Inner>);

impl WeakJobs {
    /// The jobs, while the program has them.
    pub(super) fn upgrade(&self) -> Option<Jobs> {
        Some(Jobs {
            inner: self.0.upgrade()?,
        })
    }
}

async fn work<J: Job>(
    jobs: Jobs,
    admitted: Admitted,
    job: J,
    cx: JobContext,
) -> Result<J::Report, JobError> {
    let services = jobs.services();
    let job = Box::pin(job.run(cx, services.clone()));
    let outcome = match AssertUnwindSafe(job).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_panic) => Err(JobError::new(
            Fault::Unavailable,
            "the job met a defect of orlop and ended",
        )
        .hint("the log has the details; what was done before is kept")),
    };
    conclude(services, &admitted, &outcome).await;
    match outcome {
        Err(error) if error.fault == Fault::Cancelled && services.running.is_stopping() => {
            Err(stopping())
        }
        outcome => outcome,
    }
}

/// Notes in the log, on the status page, in the metrics and in the store how it ended.
async fn conclude<R: JobReport>(
    services: &Services,
    admitted: &Admitted,
    outcome: &Result<R, JobError>,
) {
    let (kind, took, now) = (
        admitted.kind,
        admitted.began.elapsed(),
        services.clock.now(),
    );
    let is_well = matches!(outcome, Ok(report) if !report.has_problems());
    let (how, command) = (described(outcome), admitted.command);
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Err(error) if error.fault != Fault::Cancelled => {
            tracing::warn!(target: ENDED, job = command, duration_ms, causes = ?error.causes, "`{command}` {how}");
        }
        _ => tracing::info!(job = command, duration_ms, "`{command}` {how}"),
    }
    let at = Duration::from_secs(seconds(now));
    let result = match outcome {
        Ok(_) if is_well => JobResult::Ok,
        Ok(_) => JobResult::Problems,
        Err(error) if error.fault == Fault::Cancelled => JobResult::Cancelled,
        Err(_) => JobResult::Failed,
    };
    services.metrics.job(kind.label(), at, took, result);
    if kind == JobKind::Read {
        return;
    }
    let activity = format!("`{command}` {how} after {} s", took.as_secs());
    services
        .store
        .note(LogEntry::new(now, LogKind::Job, activity));
    let record = JobRecord {
        at: seconds(now),
        ok_at: is_well.then(|| seconds(now)),
        seconds: took.as_secs(),
        report: outcome.as_ref().ok().and_then(json_of),
        error: outcome.as_ref().err().cloned(),
    };
    let store = services.store.clone();
    let kept = task::blocking(move || keep(&store, kind, record));
    match kept.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not keep the report of `{command}`"
        ),
        Err(_ended) => tracing::warn!("the report of `{command}` is not kept"),
    }
}

fn json_of<R: JobReport>(report: &R) -> Option<serde_json::Value> {
    let report = ReportJson::of(report).ok()?;
    serde_json::to_value(report).ok()
}

fn described<R: JobReport>(outcome: &Result<R, JobError>) -> String {
    match outcome {
        Ok(report) if report.has_problems() => "found problems".to_owned(),
        Ok(_) => "ended well".to_owned(),
        Err(error) if error.fault == Fault::Cancelled => "was cancelled".to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}
