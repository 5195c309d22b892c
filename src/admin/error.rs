//! Why the admin socket could not be made or used, and what to try.

use std::{io, path::PathBuf};

use super::VERSION;

/// Why the admin socket could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system does not let this user use it.
    #[error("this user may not use the admin socket `{}`", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("another process listens at the admin socket `{}`", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("`{}` is there and is no socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The name is longer than the system takes.
    #[error("the path of the admin socket is too long: `{}`", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("could not {doing} at the admin socket `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What answers is no orlop.
    #[error("what answers at the admin socket `{}` does not speak as orlop does", path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon is of another version.
    #[error(
        "the daemon at `{}` is orlop {theirs}, and this command is orlop {VERSION}",
        path.display()
    )]
    OtherVersion {
        /// The socket.
        path: PathBuf,
        /// The daemon's version.
        theirs: String,
    },
    /// It went away in the middle.
    #[error("the daemon ended, or was cut off, before the job did")]
    Ended,
    /// More files than one request takes.
    #[error("{count} files are too many for one request, which takes 250")]
    TooManyFiles {
        /// How many there are.
        count: usize,
    },
    /// A request that is too large.
    #[error("the request has {len} bytes and may have 64 MiB")]
    TooLarge {
        /// How many it has.
        len: u64,
    },
}

impl Error {
    /// What to try; `None`: the message says all.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::Denied { .. } => {
                "run the command as the daemon's user, or become a member of the socket's group; \
                 a socket in a folder that the group may enter is set with `admin.socket`"
            }
            Error::Taken { .. } => {
                "stop the other process, or name another place with `admin.socket`"
            }
            Error::NotASocket { .. } => "remove it, or name another place with `admin.socket`",
            Error::TooLong { .. } => "name a shorter place with `admin.socket`",
            Error::Io { .. } => {
                "name a place that this user may write to with `admin.socket`, such as a folder \
                 in /run"
            }
            Error::Strange { .. } => "name the daemon's socket with `--admin-socket`",
            Error::OtherVersion { .. } => {
                "restart the daemon after an update, or run the orlop that it runs"
            }
            Error::Ended => "what was done is kept; look at the daemon's log and ask again",
            Error::TooManyFiles { .. } | Error::TooLarge { .. } => "ask in several commands",
        })
    }
}
