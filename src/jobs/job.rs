//! The seam for work that someone asks for: a job is a struct that has its request.

use std::future::Future;

use serde::{Serialize, de::DeserializeOwned};

use super::{context::JobContext, error::JobError, kind::JobKind, services::Services};

/// A job: what is asked for, as plain data in JSON, so that it crosses the admin socket.
///
/// To add one, implement this for its request, and add a row to [`JOBS`](super::JOBS).
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// Its name on the socket.
    const NAME: &'static str;
    /// The command that a person types for it.
    const COMMAND: &'static str = Self::NAME;
    /// What comes of it.
    type Report: JobReport;

    /// Its kind, which decides what it may run beside.
    fn kind(&self) -> JobKind;

    /// Does it, without a look at what else runs.
    ///
    /// # Errors
    /// [`JobError`]; what was done before it is kept.
    fn run(
        self,
        cx: JobContext,
        services: Services,
    ) -> impl Future<Output = Result<Self::Report, JobError>> + Send;
}

/// What came of a job, as plain data in JSON: it crosses the socket, and is what `--json` prints.
pub trait JobReport: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What `--json` calls it, in the field `report`.
    const NAME: &'static str;

    /// Whether problems were found, which is exit code 1.
    fn has_problems(&self) -> bool {
        false
    }
}
