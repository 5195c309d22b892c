//! Where index files come from: the seam between serving and what is asked.
//!
//! The trait is defined here and not in `registry`, so that its errors are the mirror's own: what a
//! client is told, and when it may ask again, depends on what failed.
//!
//! | source | file | scope |
//! |---|---|---|
//! | the sparse index of an upstream | here | each name |
//! | an upstream's git index that is followed | `git_index/follow.rs` | whole |
//! | none: mode `offline` | here | of the source that is configured |

use std::{fmt::Debug, time::SystemTime};

use futures_util::{FutureExt as _, future::BoxFuture};

use super::error::Error;
use crate::{
    registry::{CrateName, IndexFile, Validators},
    upstream::{IndexAnswer, Upstream},
};

/// What a source says of one index file.
#[derive(Debug, Clone)]
pub enum Refreshed {
    /// What the store has now is what the source has. A source of all names brings the store up to
    /// date by itself, and answers with this.
    Unchanged,
    /// It has these bytes.
    Changed {
        /// The file.
        file: IndexFile,
        /// What to ask with the next time.
        validators: Validators,
    },
    /// The source has no such name.
    NotFound,
}

/// How much one answer of a source is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexScope {
    /// One name: the store knows of each when it was last asked for.
    EachName,
    /// Every name of the registry.
    Whole {
        /// When the store last had all that the source has; `None`: it never had.
        complete_at: Option<SystemTime>,
    },
}

impl IndexScope {
    /// Whether an answer is about every name.
    pub fn is_whole(self) -> bool {
        matches!(self, IndexScope::Whole { .. })
    }

    /// When the store last had all that the source has, where the source can say that.
    pub fn complete_at(self) -> Option<SystemTime> {
        match self {
            IndexScope::EachName => None,
            IndexScope::Whole { complete_at } => complete_at,
        }
    }
}

/// Answers what the newest index file of a name is. Whoever waits bounds the wait.
pub trait IndexSource: Debug + Send + Sync {
    /// Asks for the index file of `name`. `known`: what the file that the store has came with, for a
    /// source that is asked name by name; `None`: it has none, or wants the whole file in any case.
    ///
    /// # Errors
    /// Where the source cannot be asked, or answers with trouble.
    fn refresh<'a>(
        &'a self,
        name: &'a CrateName,
        known: Option<&'a Validators>,
    ) -> BoxFuture<'a, Result<Refreshed, Error>>;

    /// How much an answer is about.
    fn scope(&self) -> IndexScope {
        IndexScope::EachName
    }

    /// Brings the store up to date with all names, where the source has such a thing as all names.
    ///
    /// # Errors
    /// As [`refresh`](IndexSource::refresh).
    fn refresh_all(&self) -> BoxFuture<'_, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }
}

/// The sparse index of an upstream, asked for one name after the other.
#[derive(Debug)]
pub struct SparseSource(Upstream);

impl SparseSource {
    /// The sparse index of `upstream`.
    pub fn new(upstream: Upstream) -> SparseSource {
        SparseSource(upstream)
    }
}

impl IndexSource for SparseSource {
    fn refresh<'a>(
        &'a self,
        name: &'a CrateName,
        known: Option<&'a Validators>,
    ) -> BoxFuture<'a, Result<Refreshed, Error>> {
        async move {
            let none = Validators::default();
            let answer = self.0.index_entry(name, known.unwrap_or(&none)).await;
            let answer = answer.map_err(|error| Error::upstream(&what(name), error))?;
            Ok(match answer {
                IndexAnswer::NotModified => Refreshed::Unchanged,
                IndexAnswer::Changed { file, validators } => {
                    Refreshed::Changed { file, validators }
                }
                IndexAnswer::NotFound => Refreshed::NotFound,
            })
        }
        .boxed()
    }
}

/// The source of mode `offline`: it never answers.
#[derive(Debug)]
pub(super) struct OfflineSource;

impl IndexSource for OfflineSource {
    fn refresh<'a>(
        &'a self,
        name: &'a CrateName,
        _known: Option<&'a Validators>,
    ) -> BoxFuture<'a, Result<Refreshed, Error>> {
        async move { Err(Error::NotHeld { what: what(name) }) }.boxed()
    }
}

/// An index file, in words.
pub(super) fn what(name: &CrateName) -> String {
    format!("the index entry of `{name}`")
}
