//! What a command fails with: how it is told, and which exit code it gets.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::jobs::{Fault, JobError};
use crate::util::error::{messages, one_line};
use crate::{admin, config, git, listen, metrics, mirror, store, upstream};

/// How a run ended. Scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Well = 0,
    /// The command looked for problems and found some.
    Problems = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Something that is needed is not there now: a lock, a port, the upstream.
    Unavailable = 3,
    /// Data of the store is damaged.
    Damaged = 4,
    /// Ctrl-C ended it, as shells say it.
    Cancelled = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What a command fails with. The error of each module is one variant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, with all that is wrong in it.
    #[error("the configuration is wrong")]
    Config(Vec<config::Error>),
    /// `--url` holds no URL for clients.
    #[error("could not use the value of `--url`")]
    Url(#[source] config::Refusal),
    /// Nobody knows the URL of a mirror on a free port.
    #[error("could not tell the mirror's URL, because it listens on whatever port is free")]
    FreePort,
    /// The log could not be set up.
    #[error("could not start the log")]
    Log(#[source] Box<dyn StdError + Send + Sync>),
    /// A result could not be written.
    #[error("could not write to stdout")]
    Output(#[from] io::Error),
    /// A manual page could not be written.
    #[error("could not write `{}`", path.display())]
    Page {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A series is declared wrongly: a defect of ours.
    #[error("could not start the metrics")]
    Metrics(#[source] metrics::InvalidSeries),
    /// The upstream cannot be used as it is set.
    #[error("could not set up the way to the upstream")]
    Upstream(#[source] upstream::Error),
    /// The store does not open.
    #[error("could not open the store")]
    Store(#[source] store::Error),
    /// The repository of the git index does not open, though damage is healed.
    #[error("could not open the git index")]
    Git(#[source] git::Error),
    /// The system gives no threads, or one of them failed.
    #[error("could not start the threads of the server")]
    Threads(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("could not listen")]
    Listen(#[source] listen::Error),
    /// A socket that was handed over is no use.
    #[error("could not listen")]
    Inherited(#[source] config::NotListening),
    /// The admin socket cannot be listened at, or there is no talking to the daemon behind it.
    #[error("could not use the admin socket")]
    Admin(#[source] admin::Error),
    /// A job came to nothing.
    #[error("{0}")]
    Job(JobError),
    /// It was told already, as JSON.
    #[error("told already")]
    Told(Exit),
    /// A job found problems, which its report told.
    #[error("problems were found")]
    Problems,
    /// The last writes failed.
    #[error("could not bring the store to rest")]
    End(#[source] mirror::Error),
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Config(_)
            | Error::Url(_)
            | Error::FreePort
            | Error::Inherited(_)
            | Error::Log(_)
            | Error::Upstream(_)
            | Error::Store(store::Error::NotAStore { .. } | store::Error::NotEmpty { .. })
            | Error::Admin(
                admin::Error::TooLong { .. }
                | admin::Error::NotASocket { .. }
                | admin::Error::TooManyFiles { .. }
                | admin::Error::TooLarge { .. },
            ) => Exit::Usage,
            Error::Store(store::Error::NewerFormat { .. } | store::Error::HalfRestored { .. }) => {
                Exit::Damaged
            }
            Error::Problems => Exit::Problems,
            Error::Told(exit) => *exit,
            Error::Job(error) => match error.fault {
                Fault::Usage => Exit::Usage,
                Fault::Unavailable => Exit::Unavailable,
                Fault::Damaged => Exit::Damaged,
                Fault::Cancelled => Exit::Cancelled,
            },
            Error::Output(_)
            | Error::Page { .. }
            | Error::Metrics(_)
            | Error::Store(_)
            | Error::Git(_)
            | Error::Threads(_)
            | Error::Listen(_)
            | Error::Admin(_)
            | Error::End(_) => Exit::Unavailable,
        }
    }

    /// What to try.
    fn hint(&self) -> Option<String> {
        match self {
            Error::Url(refusal) => Some(refusal.remedy.clone()),
            Error::FreePort => Some(
                "name it with --url, as the ready line of `orlop serve` \
                                     prints it"
                    .to_owned(),
            ),
            Error::Store(error) => error.hint(),
            Error::Upstream(_) => {
                Some("see the table [upstream] in `orlop config show`".to_owned())
            }
            Error::Git(_) => Some(
                "let this user read and write there, or set `git.enabled = false` to serve without it"
                    .to_owned(),
            ),
            Error::Admin(error) => error.hint().map(str::to_owned),
            Error::Inherited(error) => Some(error.hint().to_owned()),
            Error::Job(error) => error.hint.clone(),
            Error::Config(_)
            | Error::Problems
            | Error::Told(_)
            | Error::Log(_)
            | Error::Output(_)
            | Error::Page { .. }
            | Error::Metrics(_)
            | Error::Threads(_)
            | Error::Listen(_)
            | Error::End(_) => None,
        }
    }

    /// Whether whoever read our output has had enough of it.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error for a program: its exit code, what went wrong, why, and what to try.
    pub fn to_json(&self) -> serde_json::Value {
        let (causes, hint) = match self {
            Error::Config(errors) => {
                let chains = errors.iter().map(|error| one_line(error));
                (
                    chains.collect(),
                    errors.iter().find_map(config::Error::hint),
                )
            }
            Error::Job(error) => (error.causes.clone(), error.hint.clone()),
            other => (messages(other).split_off(1), other.hint()),
        };
        serde_json::json!({
            "exit": self.exit() as u8,
            "message": self.to_string(),
            "causes": causes,
            "hint": hint,
        })
    }

    /// The whole text for a person: `error:`, its causes, a `hint:`, for each thing that is wrong.
    pub fn render(&self) -> String {
        match self {
            Error::Config(errors) => {
                let one = |error: &config::Error| told(error, error.hint());
                errors.iter().map(one).collect()
            }
            // Its report said it all.
            Error::Problems | Error::Told(_) => String::new(),
            Error::Job(error) => {
                let mut lines = vec![format!("error: {error}")];
                let causes = error.causes.iter();
                lines.extend(causes.map(|cause| format!("  caused by: {cause}")));
                lines.extend(error.hint.iter().map(|hint| format!("hint: {hint}")));
                lines.push(String::new());
                lines.join("\n")
            }
            other => told(other, other.hint()),
        }
    }
}

fn told(error: &dyn StdError, hint: Option<String>) -> String {
    let mut said = messages(error).into_iter();
    let mut lines: Vec<String> = said
        .by_ref()
        .take(1)
        .map(|first| format!("error: {first}"))
        .collect();
    lines.extend(said.map(|cause| format!("  caused by: {cause}")));
    lines.extend(hint.map(|hint| format!("hint: {hint}")));
    lines.push(String::new());
    lines.join("\n")
}
