//! What can keep the mirror from answering, told so that a caller knows what to do differently.

use std::{sync::Arc, time::Duration};

use crate::{
    metrics::{CacheResult, Outcome},
    registry::{CrateName, Release},
    store, upstream,
};

/// Why there is no answer. Shared by all who waited for the same job, hence `Clone`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Upstream says that there is no such crate.
    #[error("crate `{name}` is not in the registry")]
    UnknownCrate {
        /// The crate asked for.
        name: CrateName,
    },
    /// The index, looked at just now, has no such version.
    #[error("version {} of crate `{}` is not in the index", release.version, release.name)]
    UnknownVersion {
        /// The release asked for.
        release: Release,
    },
    /// The mirror is offline (`mode = "offline"`) and does not hold it.
    #[error("{what} is not held by this mirror, which is set to `offline` and asks no upstream")]
    NotHeld {
        /// The crate or release asked for.
        what: String,
    },
    /// A view that shows only what is held was asked for more.
    #[error("{release} is not held by this mirror, and the view `{view}` asks nobody for it")]
    NotInView {
        /// The release asked for.
        release: Release,
        /// The view.
        view: String,
    },
    /// A view shows no line of an index file.
    #[error("the view `{view}` has no version of `{name}`")]
    NoVersionInView {
        /// The crate asked for.
        name: CrateName,
        /// The view.
        view: String,
    },
    /// A file that is held is not what it was, and nobody may be asked for it.
    #[error("the stored file of {release} is damaged")]
    Damaged {
        /// The release asked for.
        release: Release,
    },
    /// The mirror is offline, and what it held of the entry was lost.
    #[error("the index entry of `{name}` was damaged, and no upstream is asked for it")]
    LostEntry {
        /// The crate asked for.
        name: CrateName,
    },
    /// Upstream could not be asked, or answered with trouble, and nothing is held that may be served.
    #[error("could not get {what} from upstream")]
    Upstream {
        /// The crate or release asked for.
        what: String,
        /// What upstream did.
        #[source]
        source: upstream::Error,
    },
    /// Upstream's git index could not be followed, and nothing is held that may be served.
    #[error("could not follow {what}")]
    Follow {
        /// Which index.
        what: String,
        /// Why not.
        #[source]
        source: Arc<crate::git::Error>,
    },
    /// Upstream's index lists a file that upstream then does not have.
    #[error("upstream lists {release} in its index but does not have its file")]
    MissingUpstream {
        /// The release asked for.
        release: Release,
    },
    /// Upstream sent bytes that are not what its index promises. They were not kept.
    #[error("upstream sent something else as {release}")]
    Mismatch {
        /// The release asked for.
        release: Release,
        /// What the index promises, and what came.
        #[source]
        found: Box<store::Mismatch>,
    },
    /// Upstream's answer is on its way, but not within the time that a client waits.
    #[error("upstream has not sent {what} within {waited:?}; the fetch goes on")]
    Slow {
        /// The crate or release asked for.
        what: String,
        /// How long this client waited.
        waited: Duration,
    },
    /// Too much is under way.
    #[error("too many fetches are under way for {what} to join them")]
    Busy {
        /// The crate or release asked for.
        what: String,
    },
    /// The job ended without a word: a defect of ours, or the end of the program.
    #[error("the fetch of {what} was given up")]
    Lost {
        /// The crate or release asked for.
        what: String,
    },
    /// The store could not do it.
    #[error("the store could not do its part for {what}")]
    Store {
        /// The crate or release asked for.
        what: String,
        /// What is wrong with the store.
        #[source]
        source: store::Error,
    },
    /// A file of the store could not be read.
    #[error("the store could not read the file of {what}")]
    Unreadable {
        /// The release asked for.
        what: String,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl Error {
    /// How an answer with this error counts.
    pub(super) fn cache_result(&self) -> CacheResult {
        match self {
            Error::UnknownCrate { .. } | Error::UnknownVersion { .. } => CacheResult::Negative,
            Error::NotHeld { .. }
            | Error::NotInView { .. }
            | Error::NoVersionInView { .. }
            | Error::Damaged { .. } => CacheResult::NotHeld,
            _ => CacheResult::Failed,
        }
    }

    pub(super) fn upstream(what: &impl ToString, source: upstream::Error) -> Error {
        Error::Upstream {
            what: what.to_string(),
            source,
        }
    }

    /// An index that is followed could not be.
    pub fn follow(what: &impl ToString, source: crate::git::Error) -> Error {
        Error::Follow {
            what: what.to_string(),
            source: Arc::new(source),
        }
    }

    pub(super) fn mismatch(release: &Release, found: store::Mismatch) -> Error {
        Error::Mismatch {
            release: release.clone(),
            found: Box::new(found),
        }
    }

    pub(super) fn unreadable(what: &impl ToString, source: std::io::Error) -> Error {
        Error::Unreadable {
            what: what.to_string(),
            source: Arc::new(source),
        }
    }

    /// The store failed while it was asked for `what`.
    pub fn store(what: &impl ToString, source: store::Error) -> Error {
        Error::Store {
            what: what.to_string(),
            source,
        }
    }

    /// Whether upstream was not even asked, because it failed just before.
    pub(super) fn is_rest_of_upstream(&self) -> bool {
        matches!(self, Error::Upstream { source, .. } if source.outcome() == Outcome::Breaker)
    }

    /// When it may be worth asking again. `None`: asking again changes nothing.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::UnknownCrate { .. }
            | Error::UnknownVersion { .. }
            | Error::NotHeld { .. }
            | Error::NotInView { .. }
            | Error::NoVersionInView { .. } => None,
            Error::Upstream { source, .. } => {
                Some(source.retry_after().unwrap_or(DEFAULT_RETRY_AFTER))
            }
            Error::Store { .. }
            | Error::Unreadable { .. }
            | Error::Damaged { .. }
            | Error::LostEntry { .. } => Some(STORE_RETRY_AFTER),
            Error::Follow { .. }
            | Error::MissingUpstream { .. }
            | Error::Mismatch { .. }
            | Error::Slow { .. }
            | Error::Busy { .. }
            | Error::Lost { .. } => Some(DEFAULT_RETRY_AFTER),
        }
    }

    /// What a person can do about it.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Error::UnknownCrate { .. }
            | Error::UnknownVersion { .. }
            | Error::NoVersionInView { .. } => None,
            Error::NotHeld { .. } => {
                Some("fetch it on a mirror with internet first, or set `mode = \"fallback\"`")
            }
            Error::NotInView { .. } => Some(
                "fetch it through the mirror's own index or with `orlop sync`; views show it then",
            ),
            Error::Damaged { .. } => Some(
                "ask for it through the mirror's own index, or run `orlop verify --repair`: it is fetched again",
            ),
            Error::LostEntry { .. } => {
                Some("set `mode = \"fallback\"` once, so that the mirror fetches it again")
            }
            Error::Upstream { .. }
            | Error::Follow { .. }
            | Error::Slow { .. }
            | Error::Busy { .. }
            | Error::Lost { .. } => Some(
                "try again in a moment; the mirror's status page shows the state of its upstream",
            ),
            Error::MissingUpstream { .. } | Error::Mismatch { .. } => Some(
                "nothing of it was kept; if it lasts, something between the mirror and its upstream changes the bytes",
            ),
            Error::Store { .. } | Error::Unreadable { .. } => {
                Some("the mirror's administrator finds the cause in its log and on its status page")
            }
        }
    }
}

/// What a client is told to wait after a failure with no time of its own: the pause after which a
/// remembered failure is forgotten has passed, and cargo's own back-off begins in this range.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(2);

/// A full disk or a damaged file system does not mend within seconds.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(30);
