//! The seam for work that someone asks for: a job is a struct that has its request.

use std::future::Future;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{context::JobContext, error::JobError, services::Services};
use crate::metrics::Job as Label;

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

/// A kind of job. Two of one kind never run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Fetching ahead.
    Sync,
    /// Asking for index entries again.
    Refresh,
    /// Pins, made and taken back.
    Pin,
    /// Reports that only read, of which any number may run.
    Read,
    /// Hashing what is held.
    Verify,
    /// Removing.
    Gc,
    /// Writing a bundle.
    Export,
    /// Taking in a bundle or files of a lab.
    Import,
    /// Copying the store.
    Backup,
}

impl JobKind {
    /// Every kind.
    pub const ALL: &'static [JobKind] = &[
        JobKind::Sync,
        JobKind::Refresh,
        JobKind::Pin,
        JobKind::Read,
        JobKind::Verify,
        JobKind::Gc,
        JobKind::Export,
        JobKind::Import,
        JobKind::Backup,
    ];

    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        self.label().as_str()
    }

    /// The value of its label.
    pub fn label(self) -> Label {
        match self {
            JobKind::Sync => Label::Sync,
            JobKind::Refresh => Label::Refresh,
            JobKind::Pin => Label::Pin,
            JobKind::Read => Label::Read,
            JobKind::Verify => Label::Verify,
            JobKind::Gc => Label::Gc,
            JobKind::Export => Label::Export,
            JobKind::Import => Label::Import,
            JobKind::Backup => Label::Backup,
        }
    }
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
