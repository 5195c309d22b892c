//! What a selection stands for: releases, with the dependency closure, from lockfiles, names with
//! requirements, lists, or everything known.

mod chooser;
mod part;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod world;

use std::{collections::BTreeMap, sync::Arc};

use semver::Version;
use serde::{Deserialize, Serialize};

use self::{chooser::Chooser, part::Root};
use super::{
    Mirror,
    jobs::{JobError, Teller},
    sync::{Failure, Patience},
};
use crate::registry::{Checksum, CrateName};

/// Why a release of a lockfile fails where only what is held counts.
pub(super) const NOT_HELD: &str = "it is not held";

/// Which crates are meant. Files are given by their text: the command read them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// `Cargo.lock` files.
    pub lockfiles: Vec<NamedText>,
    /// `name` or `name@requirement`.
    pub crates: Vec<String>,
    /// Lists with one `name[@requirement]` a line; `#` begins a comment.
    pub lists: Vec<NamedText>,
    /// Every name known.
    pub all: bool,
    /// Only the newest version that matches.
    pub latest: bool,
    /// Saved sets, by name.
    pub sets: Vec<String>,
}

/// A text and what it is called in messages, such as the path it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedText {
    /// What it is called.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Selection {
    /// Whether nothing is meant.
    pub fn is_empty(&self) -> bool {
        self.lockfiles.is_empty()
            && self.crates.is_empty()
            && self.lists.is_empty()
            && self.sets.is_empty()
            && !self.all
    }
}

/// What a selection is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// The index as upstream has it now: each entry is asked for once, however fresh it is.
    Upstream,
    /// The index as the store has it.
    Index,
    /// The releases that are held, as if there were no others.
    Held,
}

/// Every name, whose releases are read from the store name by name when their turn comes: all of
/// them at once would be hundreds of megabytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Everything {
    /// The names, in order.
    pub(super) names: Vec<CrateName>,
    /// Whether only the newest of each is meant.
    pub(super) latest: bool,
}

/// The releases that a selection stands for, with their checksums by the index.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// By name, in order. A name may have no release: then its index entry is meant.
    pub names: BTreeMap<CrateName, Vec<(Version, Checksum)>>,
    /// Everything, where that is selected and not only what is held counts; `names` then has what
    /// is selected besides.
    pub(super) everything: Option<Everything>,
    /// What could not be resolved, with its cause.
    pub failed: Vec<Failure>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Chosen {
    fn add(&mut self, name: &CrateName, version: Version, checksum: Checksum) {
        let versions = self.names.entry(name.clone()).or_default();
        versions.push((version, checksum));
    }

    /// Notes what could not be asked for.
    fn fail(&mut self, what: &impl ToString, cause: impl Into<String>) {
        self.failed.push(Failure {
            what: what.to_string(),
            cause: cause.into(),
            lasting: false,
        });
    }

    /// Notes what is not there.
    fn lacks(&mut self, what: &impl ToString, cause: impl Into<String>) {
        self.failed.push(Failure {
            what: what.to_string(),
            cause: cause.into(),
            lasting: true,
        });
    }

    /// Each release once, in order.
    fn tidy(&mut self) {
        for versions in self.names.values_mut() {
            versions.sort();
            versions.dedup();
            versions.shrink_to_fit();
        }
        self.failed.sort_by(|a, b| a.what.cmp(&b.what));
        self.failed.dedup();
    }
}

impl Mirror {
    /// Says what is wrong with a selection before anything is asked for.
    ///
    /// # Errors
    /// [`Fault::Usage`](super::jobs::Fault).
    pub(super) fn check(&self, selection: &Selection) -> Result<(), JobError> {
        self.parts(selection).map(drop)
    }

    /// Resolves a selection.
    ///
    /// `ask`: whether index entries are asked for upstream, once each, however fresh they are;
    /// otherwise only releases that are held count, as if there were no others: what is missing
    /// of a lockfile then is a failure.
    ///
    /// # Errors
    /// Where the selection makes no sense, where upstream stays away, and when it is cancelled;
    /// single crates that fail are in [`Chosen::failed`].
    pub(super) async fn choose(
        &self,
        selection: &Selection,
        ask: bool,
        teller: &Teller,
    ) -> Result<Chosen, JobError> {
        let basis = if ask { Basis::Upstream } else { Basis::Held };
        self.choose_by(selection, basis, &self.patience(teller))
            .await
    }

    /// Resolves a selection by what `basis` says, with the patience of the job it is for.
    ///
    /// # Errors
    /// As [`choose`](Mirror::choose).
    pub(super) async fn choose_by(
        &self,
        selection: &Selection,
        basis: Basis,
        patience: &Arc<Patience>,
    ) -> Result<Chosen, JobError> {
        let parts = self.parts(selection)?;
        let mut chooser = Chooser::new(self, basis, patience);
        chooser.begin();
        for part in &parts {
            chooser.note_local(&part.local);
            chooser.lockfiles(&part.locked).await?;
        }
        for latest in [false, true] {
            let same = parts.iter().filter(|part| part.latest == latest);
            let roots: Vec<&Root> = same.flat_map(|part| &part.roots).collect();
            chooser.close(&roots, latest).await?;
        }
        let all: Vec<bool> = parts
            .iter()
            .filter(|part| part.all)
            .map(|part| part.latest)
            .collect();
        if !all.is_empty() {
            // Everything has the newest of everything.
            chooser.everything(all.iter().all(|latest| *latest)).await?;
        }
        chooser.finish()
    }
}
