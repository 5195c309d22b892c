//! What is wrong with a bundle, a part of one, a receipt or a key; and what to do about it.

use std::io;

use crate::{
    jobs::{Fault, JobError},
    store,
};

/// What a receipt is called in [`Error::Foreign`].
pub(super) const RECEIPT: &str = "a receipt";

/// Why a bundle, a part, a receipt or a key is not taken, or could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It is something else.
    #[error("this is not {what} of orlop")]
    Foreign { what: &'static str },
    /// It is of a later build.
    #[error("this is {what} of format {found}, and this build reads up to {known}")]
    Newer {
        what: &'static str,
        found: u64,
        known: u64,
    },
    /// It ends too early.
    #[error("it is cut short: it ends within {what}")]
    Truncated { what: String },
    /// Bytes are others than were promised.
    #[error("{what} was altered: its sha256 is not what it should be")]
    Altered { what: String },
    /// The hash is right and what it says makes no sense.
    #[error("{what} makes no sense: {why}")]
    Malformed { what: String, why: String },
    /// Bytes of a bundle in parts are wrong.
    #[error("{source}; look at {files}")]
    InParts {
        /// Where they are.
        files: String,
        /// What is wrong.
        source: Box<Error>,
    },
    /// Nobody signed it.
    #[error("the bundle is not signed")]
    Unsigned,
    /// Nobody said that the key is good.
    #[error("the bundle is signed with a key that is not trusted here: {key}")]
    Untrusted { key: String },
    /// The signature is none of this key for this manifest.
    #[error("the manifest was altered: the signature of {key} does not fit it")]
    Signature { key: String },
    /// The receiver does not have what the delta leaves out.
    #[error(
        "the bundle is a delta against the receipt {base}, and of what it leaves out as already \
         here, this store lacks {missing} ({examples})"
    )]
    OtherBase {
        base: String,
        missing: u64,
        examples: String,
    },
    /// A file of ours is damaged.
    #[error("the crate file of {what} in this store is damaged")]
    DamagedHere { what: String },
    /// A text is no key.
    #[error("{0}")]
    Key(String),
    /// Parts are missing.
    #[error("{0}")]
    Parts(String),
    /// Something follows the end.
    #[error("there is more after its end")]
    Trailing,
    /// It could not be read.
    #[error("could not read {what}")]
    Reading {
        what: String,
        #[source]
        source: io::Error,
    },
    /// It could not be written.
    #[error("could not write")]
    Writing {
        #[source]
        source: io::Error,
    },
    /// The disk would be full before the bundle is in.
    #[error(
        "there is not enough room on the store's disk: the bundle needs {needed_bytes} bytes, and \
         {free_bytes} may still be written"
    )]
    NoRoom { needed_bytes: u64, free_bytes: u64 },
    /// The store could not do its part.
    #[error("the store could not do its part")]
    Store {
        #[source]
        source: store::Error,
    },
    /// Somebody asked it to end.
    #[error("it was cancelled")]
    Cancelled,
}

impl Error {
    pub(super) fn truncated(what: impl Into<String>) -> Error {
        Error::Truncated { what: what.into() }
    }

    pub(super) fn altered(what: impl Into<String>) -> Error {
        Error::Altered { what: what.into() }
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "it is handed errors by `map_err`"
    )]
    pub(super) fn malformed(what: impl Into<String>, why: impl ToString) -> Error {
        Error::Malformed {
            what: what.into(),
            why: why.to_string(),
        }
    }

    /// For `map_err` of a read: an early end and wrong bytes are no trouble of the disk.
    pub(super) fn reading<T: ToString>(what: T) -> impl FnOnce(io::Error) -> Error {
        move |source| {
            let what = what.to_string();
            match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::Truncated { what },
                io::ErrorKind::InvalidData => Error::malformed(what, source),
                _ => Error::Reading { what, source },
            }
        }
    }

    pub(super) fn writing(source: io::Error) -> Error {
        Error::Writing { source }
    }

    /// Names what an early end is in.
    pub(super) fn within(self, what: &str) -> Error {
        match self {
            Error::Truncated { .. } => Error::truncated(what),
            error => error,
        }
    }

    /// Whether it is cut short or altered.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Error::Truncated { .. } | Error::Altered { .. } | Error::Malformed { .. } => true,
            Error::InParts { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Error::InParts { source, .. } => source.fault(),
            Error::Foreign { what } if *what != RECEIPT => Fault::Damaged,
            Error::Truncated { .. }
            | Error::Altered { .. }
            | Error::Malformed { .. }
            | Error::Trailing
            | Error::Signature { .. }
            | Error::DamagedHere { .. } => Fault::Damaged,
            Error::Foreign { .. }
            | Error::Newer { .. }
            | Error::Unsigned
            | Error::Untrusted { .. }
            | Error::OtherBase { .. }
            | Error::Parts(_)
            | Error::Key(_) => Fault::Usage,
            Error::Reading { .. }
            | Error::Writing { .. }
            | Error::NoRoom { .. }
            | Error::Store { .. } => Fault::Unavailable,
            Error::Cancelled => Fault::Cancelled,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::InParts { source, .. } => return source.hint(),
            Error::Foreign { what: RECEIPT } => "name a .receipt that an import wrote",
            Error::Foreign { .. } => {
                "name a file that `orlop export` wrote; of a split bundle, name all its parts"
            }
            Error::Newer { .. } => "install the orlop that wrote it, or a newer one, here",
            Error::Truncated { .. } | Error::Altered { .. } => {
                "copy it again from where it was made and compare the two"
            }
            Error::Malformed { .. } => {
                "nothing of it is visible here; export it again with a current orlop"
            }
            Error::Unsigned => {
                "export it without `--unsigned`, or take it as it is with `--unsigned`"
            }
            Error::Untrusted { key } => {
                return Some(format!(
                    "compare that key with `orlop key show` on the machine that exported; if they \
                     agree, add it to `import.trust` in the configuration, or repeat with \
                     `--trust {key}`"
                ));
            }
            Error::Signature { .. } => {
                "do not take it in; copy it again, and ask where it came from if that does not help"
            }
            Error::OtherBase { .. } => {
                "export again on the other side: with `--since` and the receipt of this machine's \
                 last import, or whole, without `--since`"
            }
            Error::Parts(_) => {
                "a bundle is split into FILE.001, FILE.002, …: name `FILE.0*`, of one split only"
            }
            Error::Trailing => {
                "copy it again from where it was made and compare the two: nothing may follow it"
            }
            Error::DamagedHere { .. } => "run `orlop verify --repair`, then export again",
            Error::NoRoom { .. } => "make room there; nothing of the bundle was taken in",
            Error::Store { source } => return source.hint(),
            Error::Key(_) | Error::Reading { .. } | Error::Writing { .. } | Error::Cancelled => {
                return None;
            }
        };
        Some(text.to_owned())
    }

    /// The error of the job: `doing` says which (`import the bundle`).
    pub(super) fn into_job(self, doing: &str) -> JobError {
        if matches!(self, Error::Cancelled) {
            return JobError::cancelled();
        }
        let mut error = JobError::new(self.fault(), format!("could not {doing}")).because(&self);
        if let Error::Writing { source } = &self
            && let Some(hint) = match source.kind() {
                io::ErrorKind::BrokenPipe => Some("whoever was to take the bytes has ended"),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
                    "make room where the bundle goes, or cut it with `--split` and give it several \
                     disks; the store's disk needs a little room meanwhile, too",
                ),
                _ => None,
            }
        {
            error = error.hint(hint);
        }
        if let Some(hint) = self.hint() {
            error = error.hint(hint);
        }
        error
    }
}

impl From<store::Error> for Error {
    fn from(source: store::Error) -> Error {
        match source {
            store::Error::Mismatch(_) => Error::altered("a crate file"),
            source => Error::Store { source },
        }
    }
}
