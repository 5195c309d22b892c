//! What can go wrong with the repository, and what a caller can do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::ObjectId;

/// Why something in the repository could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What lies on the disk is not what was written: the repository has to be reset and rebuilt.
    #[error("`{}` is damaged: {what}", path.display())]
    Damaged {
        /// What is wrong with it.
        what: String,
        /// The file or folder.
        path: PathBuf,
    },
    /// No such object is in the repository. Of an object that our own history names this is
    /// damage.
    #[error("no object `{id}` is in the repository")]
    Unknown {
        /// Its id.
        id: ObjectId,
    },
    /// A change names a path that cannot be in the tree of an index.
    #[error("`{path}` is no path of an index file")]
    Path {
        /// The path.
        path: String,
    },
    /// The bytes of a file are made to have the SHA-1 of others.
    #[error("a file's bytes are made to collide in SHA-1")]
    Collision,
    /// A commit does not follow the head.
    #[error("generation {given} cannot follow; the next one is {next}")]
    Generation {
        /// The generation of the commit.
        given: u64,
        /// The one after the head's.
        next: u64,
    },
    /// The upstream that is followed could not be asked, or broke off.
    #[error("could not fetch from `{what}`")]
    Unreachable {
        /// Where it is, without credentials.
        what: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The upstream that is followed has no commit.
    #[error("the upstream's repository has no commit that `HEAD` stands for")]
    NoHead,
    /// The repository, or what came for it, is not as it should be.
    #[error("the repository could not be read or written")]
    Repository {
        /// In which way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
        move |source| Error::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Error {
        Error::Damaged {
            what: what.into(),
            path: path.to_owned(),
        }
    }

    /// Whether the repository itself is at fault, and not the disk's mood or the caller: it should
    /// be reset and rebuilt.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::Unknown { .. })
    }

    /// Nothing instead of what is damaged; any other error stays: the disk may be better later.
    pub fn unless_damage<T>(self) -> Result<Option<T>, Error> {
        if self.is_damage() {
            Ok(None)
        } else {
            Err(self)
        }
    }
}
