//! Step 1 of a batch: blobs that come and go.

use std::{collections::BTreeSet, ops::ControlFlow};

use super::committer::Committer;
use crate::{
    registry::Checksum,
    store::{
        blob_store::{BlobStore as _, BlobWalk, ChecksumSet, Removal},
        error::Error,
        owners,
        queue::{Freed, Hold, Reply},
        state::Held,
    },
};

impl Committer {
    /// Takes spooled blobs in. They count as cached from then on, whatever becomes of the records.
    pub(super) fn put(&mut self, holds: &[Hold]) -> Vec<Result<(), Error>> {
        if holds.is_empty() {
            return Vec::new();
        }
        let spooled: Vec<_> = holds.iter().map(|hold| &hold.spooled).collect();
        let placed = self.shared.blobs.put(&spooled);
        let mut names = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(holds.len());
        for (hold, placed) in holds.iter().zip(placed) {
            self.now = self.now.max(hold.now);
            outcomes.push(placed.map(|blob| {
                if blob.is_new() {
                    self.progress.state.held.add(blob.checksum(), blob.len());
                    self.note_moved(*blob.checksum(), blob.len());
                }
                self.unmarked.add_new(&hold.name, &blob);
                names.insert(hold.name.key().to_owned());
            }));
        }
        self.show_unmarked(&names);
        outcomes
    }

    /// Lets readers see what came and went, although no record says so yet.
    fn show_unmarked(&self, names: &BTreeSet<String>) {
        self.shared.set_unmarked(self.unmarked.blobs());
        self.shared.set_totals(&self.progress.state);
        self.shared.watchers.tell(names);
    }

    /// Takes blobs away. Once one is gone, it is, whatever becomes of the record.
    pub(super) fn remove(
        &mut self,
        removals: &[(Vec<Removal>, Reply<Freed>)],
    ) -> Vec<Result<Freed, Error>> {
        if removals.is_empty() {
            return Vec::new();
        }
        let mut outcomes = Vec::with_capacity(removals.len());
        let mut names = BTreeSet::new();
        for (removals, _reply) in removals {
            outcomes.push(self.remove_all(removals));
            let of = removals.iter().filter_map(|removal| removal.of.as_ref());
            names.extend(of.map(|name| name.key().to_owned()));
        }
        self.show_unmarked(&names);
        outcomes
    }

    /// The marks follow whatever becomes of this batch, and of this removal: they are brought to
    /// what is there.
    fn remove_all(&mut self, removals: &[Removal]) -> Result<Freed, Error> {
        let mut going = Vec::with_capacity(removals.len());
        for removal in removals {
            // The caller may have looked before the record came.
            let is_kept =
                removal.of.is_none() && !removal.set_aside && self.is_owned(&removal.checksum)?;
            going.push((!is_kept).then_some(removal));
            if let Some(name) = &removal.of {
                self.unmarked.add(name, removal.checksum);
            }
        }
        let blobs = &self.shared.blobs;
        let gone: Vec<&Removal> = going.iter().flatten().copied().collect();
        let length = |removal: &&Removal| blobs.length(&removal.checksum).ok().flatten();
        let before: Vec<Option<u64>> = gone.iter().map(length).collect();
        let mut removed = blobs.remove(&gone).into_iter();
        for (removal, before) in gone.iter().zip(before) {
            let checksum = removal.checksum;
            if !self.shared.blobs.has(&checksum)
                && self.unmarked.note_gone(checksum)
                && let Some(bytes) = before
            {
                self.progress.state.held.remove(&checksum, bytes);
                self.note_moved(checksum, bytes);
            }
        }
        let freed = going.iter().map(|going| match going {
            Some(_) => removed.next().unwrap_or(Ok(None)),
            None => Ok(None),
        });
        freed.collect()
    }

    fn is_owned(&mut self, checksum: &Checksum) -> Result<bool, Error> {
        let owned = match self.owned.take() {
            Some(owned) => owned,
            None => self.all_owned()?,
        };
        Ok(self.owned.insert(owned).may_contain(checksum))
    }

    fn all_owned(&self) -> Result<ChecksumSet, Error> {
        let mut owned = Vec::new();
        let catalogue = self.shared.open_catalogue()?;
        owners::visit(&self.shared, &catalogue, &mut |checksum, _owner| {
            owned.push(checksum.prefix());
            ControlFlow::Continue(())
        })?;
        Ok(ChecksumSet::of(owned))
    }

    fn note_moved(&mut self, checksum: Checksum, bytes: u64) {
        if let Some(since) = &mut self.since_walk {
            since.push((checksum, bytes));
        }
    }

    /// What a walk found, and what came in or went since it began.
    pub(super) fn counted(&mut self, walk: &BlobWalk) -> Held {
        let mut held = walk.held;
        let moved = self.since_walk.take().unwrap_or_default();
        let moved: std::collections::BTreeMap<_, _> = moved.into_iter().collect();
        for (checksum, bytes) in moved {
            let is_there = self.shared.blobs.has(&checksum);
            match (walk.checksums.may_contain(&checksum), is_there) {
                (false, true) => held.add(&checksum, bytes),
                (true, false) => held.remove(&checksum, bytes),
                _ => {}
            }
        }
        held
    }
}
