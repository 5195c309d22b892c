//! The table of all jobs.

use futures_util::{FutureExt as _, future::BoxFuture};

use super::{
    backup::BackupRequest,
    bundle::{ExportRequest, ImportRequest, KeyRequest},
    context::JobContext,
    error::{Fault, JobError},
    job::Job,
    json::{JobRequest, ReportJson},
    runner::Jobs,
    seed::SeedRequest,
    sync::SyncRequest,
    upkeep::{
        GcRequest, PinRequest, RefreshRequest, StatsRequest, UnpinRequest, VerifyRequest,
        WhoRequest,
    },
};

/// Every job that can be asked for by its name.
pub const JOBS: &[JobEntry] = &[
    JobEntry::of::<SyncRequest>(),
    JobEntry::of::<RefreshRequest>(),
    JobEntry::of::<PinRequest>(),
    JobEntry::of::<UnpinRequest>(),
    JobEntry::of::<StatsRequest>(),
    JobEntry::of::<WhoRequest>(),
    JobEntry::of::<VerifyRequest>(),
    JobEntry::of::<GcRequest>(),
    JobEntry::of::<ExportRequest>(),
    JobEntry::of::<ImportRequest>(),
    JobEntry::of::<KeyRequest>(),
    JobEntry::of::<SeedRequest>(),
    JobEntry::of::<BackupRequest>(),
];

type Run = fn(Jobs, JobRequest, JobContext) -> BoxFuture<'static, Result<ReportJson, JobError>>;

/// A job that can be asked for.
#[derive(Debug)]
pub struct JobEntry {
    name: &'static str,
    run: Run,
}

impl JobEntry {
    const fn of<J: Job>() -> JobEntry {
        JobEntry {
            name: J::NAME,
            run: |jobs, request, cx| {
                async move {
                    let job: J = request.read()?;
                    let report = jobs.run(job, cx).await?;
                    ReportJson::of(&report)
                }
                .boxed()
            },
        }
    }
}

impl Jobs {
    /// Runs what is asked for by its name.
    ///
    /// # Errors
    /// As [`Jobs::run`], and where there is no such job.
    pub async fn run_request(
        &self,
        request: JobRequest,
        cx: JobContext,
    ) -> Result<ReportJson, JobError> {
        let entry = JOBS.iter().find(|entry| entry.name == request.command);
        let Some(entry) = entry else {
            let what = "could not take the request: it is no job that this daemon knows";
            return Err(JobError::new(Fault::Usage, what));
        };
        (entry.run)(self.clone(), request, cx).await
    }
}
