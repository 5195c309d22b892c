//! What a selection stands for.

use std::collections::BTreeMap;

use semver::Version;

use crate::{
    jobs::error::Failure,
    registry::{Checksum, CrateName},
};

/// Why a release of a lockfile fails where only what is held counts.
pub(in crate::jobs) const NOT_HELD: &str = "it is not held";

/// What a selection is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::jobs) enum Basis {
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
pub(in crate::jobs) struct Everything {
    /// The names, in order.
    pub(in crate::jobs) names: Vec<CrateName>,
    /// Whether only the newest of each is meant.
    pub(in crate::jobs) latest: bool,
}

/// The releases that a selection stands for, with their checksums by the index.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// By name, in order. A name may have no release: then its index entry is meant.
    pub names: BTreeMap<CrateName, Vec<(Version, Checksum)>>,
    /// Everything, where that is selected and not only what is held counts; `names` then has what
    /// is selected besides.
    pub(in crate::jobs) everything: Option<Everything>,
    /// What could not be resolved, with its cause.
    pub failed: Vec<Failure>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Chosen {
    pub(super) fn add(&mut self, name: &CrateName, version: Version, checksum: Checksum) {
        let versions = self.names.entry(name.clone()).or_default();
        versions.push((version, checksum));
    }

    /// Notes what could not be asked for.
    pub(super) fn fail(&mut self, what: &impl ToString, cause: impl Into<String>) {
        self.failed.push(Failure {
            what: what.to_string(),
            cause: cause.into(),
            lasting: false,
        });
    }

    /// Notes what is not there.
    pub(super) fn lacks(&mut self, what: &impl ToString, cause: impl Into<String>) {
        self.failed.push(Failure {
            what: what.to_string(),
            cause: cause.into(),
            lasting: true,
        });
    }

    /// Each release once, in order.
    pub(super) fn tidy(&mut self) {
        for versions in self.names.values_mut() {
            versions.sort();
            versions.dedup();
            versions.shrink_to_fit();
        }
        self.failed.sort_by(|a, b| a.what.cmp(&b.what));
        self.failed.dedup();
    }
}
