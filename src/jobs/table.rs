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
    check: fn(&JobRequest) -> Result<(), JobError>,
    run: Run,
}

impl JobEntry {
    const fn of<J: Job>() -> JobEntry {
        JobEntry {
            name: J::NAME,
            check: |request| request.clone().read::<J>().map(drop),
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

fn entry(request: &JobRequest) -> Result<&'static JobEntry, JobError> {
    let entry = JOBS.iter().find(|entry| entry.name == request.command);
    entry.ok_or_else(|| {
        let what = format!("there is no job `{}`", request.command);
        JobError::new(Fault::Usage, what)
    })
}

impl JobRequest {
    /// Whether there is such a job and it understands the request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), JobError> {
        (entry(self)?.check)(self)
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
        (entry(&request)?.run)(self.clone(), request, cx).await
    }
}
