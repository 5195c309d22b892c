//! What a command fails with: how it is told, and which exit code it gets.

use std::error::Error as StdError;
use std::io;
use std::process::ExitCode;

use crate::{config, git, http::listen, metrics, mirror, store, upstream};

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
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What a command fails with. Each room's error is one variant.
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
            | Error::Log(_)
            | Error::Upstream(_)
            | Error::Store(store::Error::NotAStore { .. }) => Exit::Usage,
            Error::Store(store::Error::NewerFormat { .. }) => Exit::Damaged,
            Error::Output(_)
            | Error::Metrics(_)
            | Error::Store(_)
            | Error::Git(_)
            | Error::Threads(_)
            | Error::Listen(_)
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
            Error::Config(_)
            | Error::Log(_)
            | Error::Output(_)
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

    /// The whole text for a person: `error:`, its causes, a `hint:`, for each thing that is wrong.
    pub fn render(&self) -> String {
        match self {
            Error::Config(errors) => {
                let one = |error: &config::Error| told(error, error.hint());
                errors.iter().map(one).collect()
            }
            other => told(other, other.hint()),
        }
    }
}

fn told(error: &dyn StdError, hint: Option<String>) -> String {
    let mut lines = vec![format!("error: {error}")];
    let mut cause = error.source();
    while let Some(error) = cause {
        lines.push(format!("  caused by: {error}"));
        cause = error.source();
    }
    lines.extend(hint.map(|hint| format!("hint: {hint}")));
    lines.push(String::new());
    lines.join("\n")
}
