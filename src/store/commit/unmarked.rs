//! Blobs that came or went, and whose marks in the records do not say so yet.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    registry::{Checksum, CrateName},
    store::blob_store::DurableBlob,
};

/// How many marks wait at most.
const MAX_UNMARKED: usize = 1024;

/// What is written of them in a batch that fails is written again.
#[derive(Default)]
pub(super) struct Unmarked {
    by_name: BTreeMap<CrateName, BTreeSet<Checksum>>,
    count: usize,
    /// Those of them that went.
    gone: HashSet<Checksum>,
}

impl Unmarked {
    pub(super) fn add(&mut self, name: &CrateName, checksum: Checksum) {
        let of_name = self.by_name.entry(name.clone()).or_default();
        self.count += usize::from(of_name.insert(checksum));
    }

    /// Only a blob that is durable may count as cached.
    pub(super) fn add_new(&mut self, name: &CrateName, blob: &DurableBlob) {
        self.add(name, *blob.checksum());
        self.gone.remove(blob.checksum());
    }

    /// Notes that a blob went. Returns whether that is new.
    pub(super) fn note_gone(&mut self, checksum: Checksum) -> bool {
        self.gone.insert(checksum)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether they must not wait any longer.
    pub(super) fn are_many(&self) -> bool {
        self.count >= MAX_UNMARKED
    }

    /// The blobs of each crate.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&CrateName, &BTreeSet<Checksum>)> {
        self.by_name.iter()
    }

    /// Each blob, and whether it is there.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (Checksum, bool)> {
        let all = self.by_name.values().flatten();
        all.map(|checksum| (*checksum, !self.gone.contains(checksum)))
    }
}
