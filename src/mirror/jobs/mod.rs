//! Jobs that somebody asks for: what is asked, what is told meanwhile, what comes of it. One
//! implementation behind the admin socket and behind a command that opens the store by itself.
//!
//! ```text
//! cli ─ Request + files ─▶ admin (socket) ─▶ Mirror::run ─▶ one job
//!     ◀─ Event … Event ─ Report | JobError ─┘
//! ```
//!
//! Requests, events, reports and errors are plain data in JSON, so that they cross the socket and
//! are what `--json` prints. Files that a person names never cross it by name: the command opens
//! them, and the job gets descriptors ([`Files`]).

use std::{error::Error as StdError, future::Future, os::fd::OwnedFd, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::metrics::Job;
use crate::util::{error::messages, task::Aborted};

/// The target of the log line about a job that failed.
pub const ENDED: &str = "orlop::ended";

mod outbox;
mod registry;

pub use self::{
    outbox::Outbox,
    registry::{Record, Running},
};
pub(super) use registry::Registry;
pub(crate) use registry::stopping;

use super::{Mirror, backup, bundle, seed, sync, upkeep};

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Fetch a selection ahead, or all saved sets.
    Sync(sync::SyncRequest),
    /// Ask upstream for index entries again.
    Refresh(upkeep::RefreshRequest),
    /// Keep releases whatever happens.
    Pin(upkeep::PinRequest),
    /// Take pins back.
    Unpin(upkeep::PinRequest),
    /// The mirror in numbers.
    Stats(upkeep::StatsRequest),
    /// Who fetched a crate.
    Who(upkeep::WhoRequest),
    /// Hash what is held.
    Verify(upkeep::VerifyRequest),
    /// Remove what nobody needs.
    Gc(upkeep::GcRequest),
    /// Write a bundle.
    Export(bundle::ExportRequest),
    /// Take a bundle in.
    Import(bundle::ImportRequest),
    /// Make or show the key that bundles are signed with.
    Key(bundle::KeyRequest),
    /// Take crate files in that a lab already has.
    Seed(seed::SeedRequest),
    /// Copy the store while it is used.
    Backup(backup::BackupRequest),
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// Of [`Request::Sync`].
    Sync(sync::SyncReport),
    /// Of [`Request::Refresh`].
    Refresh(upkeep::RefreshReport),
    /// Of [`Request::Pin`] and [`Request::Unpin`].
    Pins(upkeep::PinReport),
    /// Of [`Request::Stats`].
    Stats(Box<upkeep::StatsReport>),
    /// Of [`Request::Who`].
    Who(upkeep::WhoReport),
    /// Of [`Request::Verify`].
    Verify(upkeep::VerifyReport),
    /// Of [`Request::Gc`].
    Gc(upkeep::GcReport),
    /// Of [`Request::Export`].
    Export(bundle::ExportReport),
    /// Of [`Request::Import`].
    Import(bundle::ImportReport),
    /// Of [`Request::Key`].
    Key(bundle::KeyReport),
    /// Of [`Request::Seed`].
    Seed(seed::SeedReport),
    /// Of [`Request::Backup`].
    Backup(backup::BackupReport),
}

/// A kind of job. Two of one kind never run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
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

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Kind] = &[
        Kind::Sync,
        Kind::Refresh,
        Kind::Pin,
        Kind::Read,
        Kind::Verify,
        Kind::Gc,
        Kind::Export,
        Kind::Import,
        Kind::Backup,
    ];

    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        self.label().as_str()
    }

    /// The value of its label.
    pub fn label(self) -> Job {
        match self {
            Kind::Sync => Job::Sync,
            Kind::Refresh => Job::Refresh,
            Kind::Pin => Job::Pin,
            Kind::Read => Job::Read,
            Kind::Verify => Job::Verify,
            Kind::Gc => Job::Gc,
            Kind::Export => Job::Export,
            Kind::Import => Job::Import,
            Kind::Backup => Job::Backup,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Request {
    /// The command that makes it.
    pub fn command(&self) -> &'static str {
        match self {
            Request::Sync(_) => "sync",
            Request::Refresh(_) => "refresh",
            Request::Pin(_) => "pin",
            Request::Unpin(_) => "unpin",
            Request::Stats(_) => "stats",
            Request::Who(_) => "who",
            Request::Verify(_) => "verify",
            Request::Gc(_) => "gc",
            Request::Export(_) => "export",
            Request::Import(_) => "import",
            Request::Key(_) => "key",
            Request::Seed(_) => "import --from-dir",
            Request::Backup(_) => "backup",
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Request::Sync(request) if !request.fetches() => Kind::Read,
            Request::Sync(request) if request.dry_run => Kind::Refresh,
            Request::Sync(_) => Kind::Sync,
            Request::Refresh(_) => Kind::Refresh,
            Request::Pin(_) | Request::Unpin(_) => Kind::Pin,
            Request::Verify(_) => Kind::Verify,
            Request::Gc(request) if request.dry_run => Kind::Read,
            Request::Gc(_) => Kind::Gc,
            Request::Export(_) => Kind::Export,
            // A new key beside an export that signs: one of the two waits.
            Request::Key(request) if request.generate => Kind::Export,
            Request::Key(_) | Request::Stats(_) | Request::Who(_) => Kind::Read,
            Request::Import(_) | Request::Seed(_) => Kind::Import,
            Request::Backup(_) => Kind::Backup,
        }
    }
}

impl Report {
    /// Whether problems were found, which is exit code 1.
    pub fn has_problems(&self) -> bool {
        match self {
            Report::Sync(report) => report.has_problems(),
            Report::Refresh(report) => report.has_problems(),
            Report::Verify(report) => report.has_problems(),
            Report::Seed(report) => report.has_problems(),
            Report::Stats(report) => report.has_problems(),
            Report::Pins(report) => report.has_problems(),
            Report::Export(report) => report.has_problems(),
            Report::Import(report) => report.has_problems(),
            Report::Who(_) | Report::Gc(_) | Report::Key(_) | Report::Backup(_) => false,
        }
    }
}

/// What a number of progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Crate names.
    Names,
    /// Crate files.
    Crates,
    /// Bytes.
    Bytes,
}

/// What a job tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A part of the work begins.
    Phase {
        /// In words: `resolving`, `fetching`.
        phase: String,
        /// What is counted.
        unit: Unit,
        /// How many there are; `None`: not known yet.
        total: Option<u64>,
    },
    /// How far the phase is.
    Progress {
        /// How many are done.
        done: u64,
        /// How many there are; `None`: not known yet.
        total: Option<u64>,
        /// Bytes moved in this phase.
        bytes: u64,
    },
    /// Something that a person should know and that is no failure.
    Note {
        /// A sentence.
        text: String,
    },
    /// One thing failed; the job goes on.
    Failed {
        /// What.
        what: String,
        /// Why.
        cause: String,
    },
}

/// Takes the events of a job, on any thread. It must not block for long.
pub type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// What a job tells through and looks at to see whether it should end. Cloning it is cheap.
#[derive(Clone)]
pub struct Teller {
    listener: Listener,
    cancelled: CancellationToken,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Teller {
    /// A teller for `listener`; cancelling `cancelled` asks the job to end.
    pub fn new(listener: Listener, cancelled: CancellationToken) -> Teller {
        Teller {
            listener,
            cancelled,
        }
    }

    /// A teller that nobody listens to.
    pub fn silent() -> Teller {
        Teller::new(Arc::new(|_event| ()), CancellationToken::new())
    }

    /// Tells an event.
    pub fn tell(&self, event: Event) {
        (self.listener)(event);
    }

    /// A part of the work begins.
    pub fn phase(&self, phase: &str, unit: Unit, total: Option<u64>) {
        self.tell(Event::Phase {
            phase: phase.to_owned(),
            unit,
            total,
        });
    }

    /// How far the phase is.
    pub fn progress(&self, done: u64, total: Option<u64>, bytes: u64) {
        self.tell(Event::Progress { done, total, bytes });
    }

    /// Something that a person should know.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(Event::Note { text: text.into() });
    }

    /// One thing failed.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "names, errors and texts are handed over as they are"
    )]
    pub fn failed(&self, what: impl ToString, cause: impl ToString) {
        self.tell(Event::Failed {
            what: what.to_string(),
            cause: cause.to_string(),
        });
    }

    /// Whether the job should end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// An error where the job should end.
    ///
    /// # Errors
    /// [`Fault::Cancelled`].
    pub fn go_on(&self) -> Result<(), JobError> {
        if self.is_cancelled() {
            return Err(JobError::cancelled());
        }
        Ok(())
    }
}

impl Teller {
    /// Waits for `work`, which is dropped where it waits when the job should end.
    ///
    /// # Errors
    /// [`Fault::Cancelled`].
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, JobError> {
        // Also work that never waits ends.
        self.go_on()?;
        let done = self.cancelled.run_until_cancelled(work).await;
        done.ok_or_else(JobError::cancelled)
    }
}

/// Files that the command opened, in the order that the request's docs say.
pub type Files = Vec<OwnedFd>;

/// What kind of failure it is: each is one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// What was asked for makes no sense.
    Usage,
    /// Something that is needed is not there now.
    Unavailable,
    /// Data is damaged, or not what it says.
    Damaged,
    /// Somebody asked it to end.
    Cancelled,
}

/// Why a job came to nothing. Plain data, because it crosses the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct JobError {
    /// What kind it is.
    pub fault: Fault,
    /// What went wrong, as a fragment.
    pub message: String,
    /// Its causes, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl JobError {
    /// An error without a cause.
    pub fn new(fault: Fault, message: impl Into<String>) -> JobError {
        JobError {
            fault,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// The error with a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> JobError {
        self.hint = Some(hint.into());
        self
    }

    /// The error with what caused it, and what caused that.
    #[must_use]
    pub fn because(mut self, cause: &dyn StdError) -> JobError {
        self.causes.extend(messages(cause));
        self
    }

    /// Somebody asked it to end.
    pub fn cancelled() -> JobError {
        JobError::new(Fault::Cancelled, "it was cancelled")
    }

    /// The store could not do its part.
    pub fn store(what: &str, error: &crate::store::Error) -> JobError {
        JobError::new(
            Fault::Unavailable,
            format!("the store could not do its part for {what}"),
        )
        .because(error)
    }
}

impl From<Aborted> for JobError {
    fn from(aborted: Aborted) -> JobError {
        let mut messages = messages(&aborted);
        let message = messages.remove(0);
        JobError {
            causes: messages,
            ..JobError::new(Fault::Unavailable, message)
        }
    }
}

/// Who asks for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    name: String,
    is_owner: bool,
}

impl Asker {
    /// Who could read every file of the store without asking: its user, or root.
    pub fn owner(name: impl Into<String>) -> Asker {
        Asker {
            name: name.into(),
            is_owner: true,
        }
    }

    /// Anybody else who may use the admin socket. Secrets are not for them.
    pub fn other(name: impl Into<String>) -> Asker {
        Asker {
            name: name.into(),
            is_owner: false,
        }
    }

    /// Who it is, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether secrets may be given to them.
    pub fn is_owner(&self) -> bool {
        self.is_owner
    }
}

impl Mirror {
    /// Runs what is asked for to its end, on the mirror's own threads: a caller that goes away
    /// does not end it, the flag of `teller` does. Kinds that exclude each other, and the end of
    /// the program, are seen to.
    ///
    /// # Errors
    /// [`JobError`]; what was done before it is kept.
    pub async fn run(
        &self,
        request: Request,
        files: Files,
        teller: Teller,
    ) -> Result<Report, JobError> {
        let asker = Asker::owner("orlop itself");
        self.run_for(&asker, request, files, teller).await
    }

    /// The same, for somebody whom the log names.
    ///
    /// # Errors
    /// [`JobError`]; what was done before it is kept.
    pub async fn run_for(
        &self,
        asker: &Asker,
        request: Request,
        files: Files,
        teller: Teller,
    ) -> Result<Report, JobError> {
        registry::run(self, asker, request, files, teller).await
    }

    /// The jobs that run now, the oldest first.
    pub fn jobs(&self) -> Vec<Running> {
        self.inner.jobs.running()
    }

    /// Asks every job to end, and takes no further ones: the end of the program is near.
    pub fn stop_jobs(&self) {
        self.inner.jobs.stop();
    }

    /// Does it, without a look at what else runs.
    async fn dispatch(
        &self,
        asker: &Asker,
        request: Request,
        files: Files,
        teller: Teller,
    ) -> Result<Report, JobError> {
        match request {
            Request::Sync(request) => self.sync(request, teller).await.map(Report::Sync),
            Request::Refresh(request) => self
                .refresh_names(request, teller)
                .await
                .map(Report::Refresh),
            Request::Pin(request) => self.pin(request, teller).await.map(Report::Pins),
            Request::Unpin(request) => self.unpin(request).await.map(Report::Pins),
            Request::Stats(request) => {
                let report = self.stats(request).await?;
                Ok(Report::Stats(Box::new(report)))
            }
            Request::Who(request) => self.who(request).await.map(Report::Who),
            Request::Verify(request) => self.verify(request, teller).await.map(Report::Verify),
            Request::Gc(request) => self.gc(request, teller).await.map(Report::Gc),
            Request::Export(request) => self
                .export(request, files, teller)
                .await
                .map(Report::Export),
            Request::Import(request) => self
                .import(request, files, teller)
                .await
                .map(Report::Import),
            Request::Key(request) => self.key(request).await.map(Report::Key),
            Request::Seed(request) => self.seed(request, files, teller).await.map(Report::Seed),
            Request::Backup(request) => self
                .backup(request, asker, files, teller)
                .await
                .map(Report::Backup),
        }
    }
}
