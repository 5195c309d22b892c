//! The stages of a batch. Each is a value that only the stage before it returns and that the next
//! one consumes, so another order does not compile:
//!
//! | stage | what holds |
//! |---|---|
//! | [`Edited`] | the records and the frames of the journal are made, in memory |
//! | [`Journaled`] | the journal has the entries, synced |
//! | [`Covered`] | readers go on seeing the records as they were |
//! | [`Applied`] | sled has the records, perhaps not durably |
//! | [`Recorded`] | sled is flushed and synced, if someone waits for that |
//!
//! [`Recorded::show`] lets readers see them and returns what callers are answered with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::SeqCst,
};

use super::unmarked::Unmarked;
use crate::store::{
    catalogue::{Catalogue, Durable, Pairs, Value},
    edits::Encoded,
    error::Error,
    facts::Event,
    journal::{Entry, Journal},
    shared::Shared,
    state::State,
};

/// How far the journal and sled are.
pub(super) struct Progress {
    /// What sled was last written for, and the blobs that came or went since.
    pub(super) state: State,
    /// The number of the last change of an index file that was written.
    pub(super) change_number: u64,
    /// Something was applied to sled and not flushed, or a write failed.
    pub(super) dirty: bool,
    /// The journal has entries that sled may not have: they are replayed at the next open.
    pub(super) behind: bool,
}

/// What a batch writes.
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    /// The same for readers.
    pub(super) events: Vec<Event>,
    /// What the journal gets beside the entries.
    pub(super) frames: Vec<u8>,
    pub(super) encoded: Encoded,
    pub(super) kept: Pairs,
    /// What readers see of `kept` until it is durable.
    pub(super) kept_before: BTreeMap<String, Option<Value>>,
    pub(super) state: State,
    /// Whether someone waits until the records are durable.
    pub(super) is_awaited: bool,
    /// Names whose readers see something else now.
    pub(super) visible: BTreeSet<String>,
    /// Names with a blob that came or went.
    pub(super) marked: BTreeSet<String>,
}

pub(super) struct Edited(Batch);
pub(super) struct Journaled(Batch);
pub(super) struct Covered(Batch);
pub(super) struct Applied(Batch);
pub(super) struct Recorded(Batch, Option<Durable>);

impl Edited {
    pub(super) fn new(batch: Batch) -> Edited {
        Edited(batch)
    }

    pub(super) fn append_to(
        self,
        journal: &mut Journal,
        shared: &Shared,
        progress: &mut Progress,
    ) -> Result<Journaled, Error> {
        let Edited(mut batch) = self;
        journal.append_with(&batch.entries, &batch.frames)?;
        shared.journal_len.store(journal.len(), SeqCst);
        if !progress.behind {
            batch.state.journal_len = journal.len();
        }
        progress.behind = true;
        shared.events.count(&batch.events);
        // What a failed batch leaves of it is passed over.
        let number = progress.change_number;
        progress.change_number = number.saturating_add(batch.encoded.changed_files);
        Ok(Journaled(batch))
    }
}

impl Journaled {
    pub(super) fn cover(self, shared: &Shared) -> Covered {
        let Journaled(mut batch) = self;
        if batch.is_awaited {
            shared.cover(std::mem::take(&mut batch.encoded.before));
            shared.cover(std::mem::take(&mut batch.kept_before));
        }
        Covered(batch)
    }
}

impl Covered {
    pub(super) fn apply(
        self,
        catalogue: &Catalogue,
        progress: &mut Progress,
    ) -> Result<Applied, Error> {
        let Covered(mut batch) = self;
        progress.dirty = true;
        catalogue.apply(
            std::mem::take(&mut batch.encoded.records),
            progress.change_number,
            &batch.encoded.new_names,
            std::mem::take(&mut batch.kept),
            &batch.state,
        )?;
        Ok(Applied(batch))
    }
}

impl Applied {
    pub(super) fn flush(self, catalogue: &Catalogue) -> Result<Recorded, Error> {
        let Applied(batch) = self;
        let durable = batch.is_awaited.then(|| catalogue.flush()).transpose()?;
        Ok(Recorded(batch, durable))
    }
}

impl Recorded {
    /// That everything in sled is durable, if someone waits for that.
    pub(super) fn take_durable(&mut self) -> Option<Durable> {
        self.1.take()
    }

    pub(super) fn show(
        self,
        shared: &Shared,
        progress: &mut Progress,
        unmarked: &mut Unmarked,
        journal: &Journal,
    ) -> Vec<Event> {
        let Recorded(batch, _durable) = self;
        progress.behind = batch.state.journal_len != journal.len();
        progress.state = batch.state;
        *unmarked = Unmarked::default();
        shared.set_unmarked(std::iter::empty());
        shared.set_totals(&batch.state);
        shared.add_names(&batch.encoded.new_names);
        for key in &batch.visible {
            shared.forget_broken_frame(key);
            shared.bump(key);
        }
        shared.watchers.tell(&batch.visible);
        shared.watchers.tell(&batch.marked);
        shared.change_number.store(progress.change_number, SeqCst);
        batch.events
    }
}
