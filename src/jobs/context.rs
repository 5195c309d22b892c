//! What a job runs with: where it reports its progress, whether it was cancelled, who asked for it,
//! and the files that came with it.

use std::{future::Future, os::fd::OwnedFd, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::error::{Fault, JobError};

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

/// What a job reports while it runs.
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

/// Files that the command opened, in the order that the docs of the job say.
pub type Files = Vec<OwnedFd>;

/// Who asks for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: String,
    is_owner: bool,
}

impl Caller {
    /// Who could read every file of the store without asking: its user, or root.
    pub fn owner(name: impl Into<String>) -> Caller {
        Caller {
            name: name.into(),
            is_owner: true,
        }
    }

    /// Anybody else who may use the admin socket. Secrets are not for them.
    pub fn other(name: impl Into<String>) -> Caller {
        Caller {
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

/// What a job runs with. Cloning it is cheap, and all clones are one.
#[derive(Clone)]
pub struct JobContext {
    caller: Caller,
    files: Arc<Mutex<Files>>,
    listener: Listener,
    cancel: CancellationToken,
}

impl std::fmt::Debug for JobContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobContext")
            .field("caller", &self.caller)
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl JobContext {
    /// The context of a job that `caller` asks for. Its events go to `listener`; cancelling `cancel`
    /// asks it to end.
    pub fn new(caller: Caller, listener: Listener, cancel: CancellationToken) -> JobContext {
        JobContext {
            caller,
            files: Arc::default(),
            listener,
            cancel,
        }
    }

    /// The context of a job that no client waits for.
    pub fn unattended(caller: Caller) -> JobContext {
        JobContext::new(caller, Arc::new(|_event| ()), CancellationToken::new())
    }

    /// The context of a job of a test.
    #[cfg(test)]
    pub(super) fn of_test() -> JobContext {
        JobContext::unattended(Caller::owner("a test"))
    }

    /// The context with the files that came with the request.
    #[must_use]
    pub fn with_files(self, files: Files) -> JobContext {
        JobContext {
            files: Arc::new(Mutex::new(files)),
            ..self
        }
    }

    /// The same job, whose events `listener` gets instead.
    #[must_use]
    pub(super) fn with_listener(&self, listener: Listener) -> JobContext {
        JobContext {
            listener,
            ..self.clone()
        }
    }

    /// The same job, whose events are not shown.
    #[must_use]
    pub(super) fn silenced(&self) -> JobContext {
        self.with_listener(Arc::new(|_event| ()))
    }

    /// Who asked for it.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The files that came with the request, once.
    pub fn take_files(&self) -> Files {
        std::mem::take(&mut *self.files.lock())
    }

    /// The one file that came with the request.
    ///
    /// # Errors
    /// Where none or more came.
    pub fn take_only_file(&self) -> Result<OwnedFd, JobError> {
        let mut files = self.take_files().into_iter();
        match (files.next(), files.next()) {
            (Some(file), None) => Ok(file),
            _ => Err(JobError::new(
                Fault::Usage,
                "this request comes with exactly one file",
            )),
        }
    }

    /// What asks the job to end.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Reports an event.
    pub fn send(&self, event: Event) {
        (self.listener)(event);
    }

    /// A part of the work begins.
    pub fn phase(&self, phase: &str, unit: Unit, total: Option<u64>) {
        self.send(Event::Phase {
            phase: phase.to_owned(),
            unit,
            total,
        });
    }

    /// How far the phase is.
    pub fn progress(&self, done: u64, total: Option<u64>, bytes: u64) {
        self.send(Event::Progress { done, total, bytes });
    }

    /// Something that a person should know.
    pub fn note(&self, text: impl Into<String>) {
        self.send(Event::Note { text: text.into() });
    }

    /// One thing failed.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "names, errors and texts are handed over as they are"
    )]
    pub fn failed(&self, what: impl ToString, cause: impl ToString) {
        self.send(Event::Failed {
            what: what.to_string(),
            cause: cause.to_string(),
        });
    }

    /// Whether the job should end.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// An error where the job should end.
    ///
    /// # Errors
    /// [`Fault::Cancelled`](super::Fault::Cancelled).
    pub fn check_cancelled(&self) -> Result<(), JobError> {
        if self.is_cancelled() {
            return Err(JobError::cancelled());
        }
        Ok(())
    }

    /// Waits for `work`, which is dropped where it waits when the job should end.
    ///
    /// # Errors
    /// [`Fault::Cancelled`](super::Fault::Cancelled).
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, JobError> {
        // Also work that never waits ends.
        self.check_cancelled()?;
        let done = self.cancel.run_until_cancelled(work).await;
        done.ok_or_else(JobError::cancelled)
    }
}
