//! Why the store could not do what it was asked, and what to try.

use std::{io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use crate::registry::{Checksum, CrateName};

/// Why the store could not do what it was asked. A clone tells everybody whose write was in the
/// same batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process has the store.
    #[error("the store at `{}` is in use by {}", dir.display(), holder(*pid))]
    Locked {
        /// The data folder.
        dir: PathBuf,
        /// Its process id, where the lock file tells it.
        pid: Option<u32>,
    },
    /// Written by a newer build.
    #[error("`{}` has format {found}, and this build reads up to {known}", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this build reads.
        known: u32,
    },
    /// The folder has something else in it.
    #[error("`{}` is no store: it holds `{found}`", dir.display())]
    NotAStore {
        /// The folder.
        dir: PathBuf,
        /// The first thing in it that no store has.
        found: String,
    },
    /// The folder, which is to be restored into, is not empty.
    #[error("`{}` is not empty, and a backup is restored into an empty folder only", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// It is being made of a backup, or that was interrupted.
    #[error("the store at `{}` is only half restored: it has the mark `{mark}`", dir.display())]
    HalfRestored {
        /// The folder.
        dir: PathBuf,
        /// The name of the file in it that says so.
        mark: &'static str,
    },
    /// The folder belongs to another user.
    #[error("the store at `{}` belongs to user {owner}, and this is user {user}", dir.display())]
    OtherOwner {
        /// The data folder.
        dir: PathBuf,
        /// The numeric id of its owner.
        owner: u32,
        /// Our own.
        user: u32,
    },
    /// The file system refused.
    #[error("could not {doing} at `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// There is too little room. What is held is served on.
    #[error(
        "the disk of `{}` is full: {free_bytes} bytes are free, {needed_bytes} are needed and {reserve_bytes} are kept in reserve",
        dir.display()
    )]
    Full {
        /// The data folder.
        dir: PathBuf,
        /// Bytes that were to be written.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that are left alone.
        reserve_bytes: u64,
    },
    /// A write did not end in time. Reads work on; writes do as soon as it ends.
    #[error("a write to the store did not end within {} s", waited.as_secs())]
    Wedged {
        /// How long it was waited for.
        waited: Duration,
    },
    /// A sync failed, so that nobody knows what the disk has. It is read anew at the next start.
    #[error("an earlier sync of `{}` failed, and what it holds is not known before a restart", path.display())]
    FailedSync {
        /// The file.
        path: PathBuf,
    },
    /// The key-value engine failed.
    #[error("the index database could not {doing}")]
    Engine {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: EngineError,
    },
    /// The file is not what the index promises.
    #[error("what was received is not what the index promises")]
    Mismatch(#[source] Mismatch),
    /// The entry does not fit into the format.
    #[error("the index entry of `{name}` is too large to keep")]
    TooLarge {
        /// The crate.
        name: CrateName,
    },
    /// A small thing that is not small enough.
    #[error("what was to be kept as `{key}` is too large")]
    TooLargeToKeep {
        /// Its key, or the start of it.
        key: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl Error {
    /// For `map_err`: says what was being done, and where.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io {
            doing,
            path: path.clone(),
            source: Arc::new(source),
        }
    }

    /// What the person who reads the error may try; `None`: the message says all.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Locked { .. } => Some(
                "stop the other process, or point `--data` at another folder; one folder is served by one process"
                    .to_owned(),
            ),
            Error::NewerFormat { .. } => Some(
                "install the orlop that wrote it or a newer one, or point `--data` at another folder"
                    .to_owned(),
            ),
            Error::NotAStore { .. } => {
                Some("point `--data` at an empty folder, or at one that orlop made".to_owned())
            }
            Error::NotEmpty { .. } => {
                Some("name another folder with --data, or move this one away".to_owned())
            }
            Error::HalfRestored { .. } => Some(
                "run `orlop restore` into this folder again: it begins anew".to_owned(),
            ),
            Error::OtherOwner { owner, .. } => Some(format!(
                "run as user {owner}, so that it can still read its files afterwards, or point `--data` at another folder"
            )),
            Error::Full { .. } => Some(
                "make room on that disk; writes are taken again by themselves then".to_owned(),
            ),
            Error::FailedSync { .. } => Some("look at the disk's health, then restart".to_owned()),
            Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("let this user write there, or point `--data` at another folder".to_owned())
            }
            _ => None,
        }
    }
}

/// What the key-value engine said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub(super) Arc<str>);

/// A file has another checksum than it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected sha256 {expected}, received {actual} ({len} bytes)")]
pub struct Mismatch {
    /// What it should have been.
    pub expected: Checksum,
    /// What it is.
    pub actual: Checksum,
    /// How many bytes there were.
    pub len: u64,
}
