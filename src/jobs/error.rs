//! Why a job ended without a report.

use std::error::Error as StdError;

use serde::{Deserialize, Serialize};

use crate::util::{error::messages, task::Aborted};

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

/// One thing that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The crate, or crate and version (`name@version`).
    pub what: String,
    /// Why.
    pub cause: String,
    /// Whether nothing was there to be fetched, and not only that it could not be.
    #[serde(skip)]
    pub lasting: bool,
}
