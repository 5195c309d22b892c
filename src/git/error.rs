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

    /// Whether it will not be readable later either: damage, or a part of the disk that cannot be read.
    /// Who saves what can be saved passes over it; any other error may be gone at the next try.
    pub fn is_unreadable(&self) -> bool {
        const EUCLEAN: i32 = rustix::io::Errno::UCLEAN.raw_os_error();
        const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
        let code = match self {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        self.is_damage() || matches!(code, Some(EIO | EUCLEAN))
    }

    /// Nothing instead of what is unreadable; any other error stays.
    pub(super) fn unless_unreadable<T>(self) -> Result<Option<T>, Error> {
        if self.is_unreadable() {
            Ok(None)
        } else {
            Err(self)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_sector_is_passed_over_and_a_lack_of_rights_is_not() {
        let failed =
            |code| Error::io("read", Path::new("pack"))(io::Error::from_raw_os_error(code));
        let (bad_sector, no_rights) = (failed(5), failed(13));
        assert!(bad_sector.is_unreadable() && !bad_sector.is_damage());
        assert!(!no_rights.is_unreadable());
        assert!(Error::damaged(Path::new("pack"), "cut").is_unreadable());
    }
}
