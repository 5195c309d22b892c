//! A batch from its jobs to its answers, and what becomes of the records.

use std::{collections::BTreeSet, path::Path, time::SystemTime};

use super::{
    committer::{Committer, Work},
    stages::{Batch, Edited},
};
use crate::{
    registry::{Checksum, CrateName},
    store::{
        blob_store::BlobStore as _,
        catalogue::Catalogue,
        codec::{HELD, Record, compress},
        edits::Edits,
        error::Error,
        facts::Event,
        journal::{Entry, encode_told},
        ledger,
        queue::{Mark, Prepared, RecordEdit, Touch},
        state::State,
        table::KeptBatch,
    },
};

/// What is gathered while the records of a batch are edited.
#[derive(Default)]
struct Editing {
    edits: Edits,
    entries: Vec<Entry>,
    /// How many of the entries each publish brought.
    counts: Vec<usize>,
    /// Names whose readers see something else now.
    visible: BTreeSet<String>,
    /// Names with a blob that came or went.
    marked: BTreeSet<String>,
    kept: KeptBatch,
    /// What the journal gets beside the entries.
    frames: Vec<u8>,
}

impl Committer {
    /// Steps 2 to 4. Returns the events of each publish.
    pub(super) fn write(&mut self, work: &Work) -> Result<Vec<Vec<Event>>, Error> {
        if !work.needs_flush() && !self.unmarked.are_many() {
            self.progress.dirty |= !self.unmarked.is_empty();
            return Ok(Vec::new());
        }
        self.shared.check_record_space()?;
        let catalogue = self.shared.open_catalogue()?;
        let (edited, counts) = self.prepare(&catalogue, work)?;
        let mut recorded = edited
            .append_to(&mut self.journal, &self.shared, &mut self.progress)?
            .cover(&self.shared)
            .apply(&catalogue, &mut self.progress)?
            .flush(&catalogue)?;
        if let Some(durable) = recorded.take_durable() {
            self.wrote(durable);
        }
        let (progress, unmarked) = (&mut self.progress, &mut self.unmarked);
        let events = recorded.show(&self.shared, progress, unmarked, &self.journal);
        Ok(split(events, &counts))
    }

    /// The second says how many of the events each publish brought.
    fn prepare(
        &mut self,
        catalogue: &Catalogue,
        work: &Work,
    ) -> Result<(Edited, Vec<usize>), Error> {
        let mut state = self.progress.state;
        let mut editing = Editing::default();
        self.edit(&mut editing, &mut state, catalogue, work)?;
        let encoded = editing.edits.encode(&mut state)?;
        if !encoded.records.is_empty() {
            self.owned = None;
        }
        for line in &editing.kept.lines {
            line.encode(self.now, &mut editing.frames)
                .ok_or_else(|| Error::TooLargeToKeep {
                    key: line.key.clone(),
                })?;
        }
        let batch = Batch {
            events: editing.entries.iter().map(Entry::event).collect(),
            entries: editing.entries,
            frames: editing.frames,
            encoded,
            kept: editing.kept.pairs,
            kept_before: editing.kept.before,
            state,
            is_awaited: work.needs_flush(),
            visible: editing.visible,
            marked: editing.marked,
        };
        Ok((Edited::new(batch), editing.counts))
    }

    fn edit(
        &mut self,
        editing: &mut Editing,
        state: &mut State,
        catalogue: &Catalogue,
        work: &Work,
    ) -> Result<(), Error> {
        for publish in &work.publishes {
            self.now = self.now.max(publish.now);
            let before = editing.entries.len();
            for change in &publish.changes {
                self.publish(editing, catalogue, change, publish.now)?;
            }
            editing
                .counts
                .push(editing.entries.len().saturating_sub(before));
        }
        for (name, blobs) in self.unmarked.iter() {
            self.mark(editing, catalogue, name, blobs)?;
        }
        for removal in work.removals.iter().flat_map(|(removals, _reply)| removals) {
            if let Some(name) = &removal.of {
                // Its mark may not have been written yet.
                editing.marked.insert(name.key().to_owned());
                self.mark(editing, catalogue, name, [&removal.checksum])?;
            }
        }
        for edit in &work.edits {
            match edit {
                RecordEdit::Touch(touches) => {
                    for (name, touch) in touches {
                        apply_touch(&mut editing.edits, catalogue, name, touch)?;
                    }
                }
                RecordEdit::Mark(marks) => {
                    for Mark { name, checksums } in marks {
                        self.mark(editing, catalogue, name, checksums)?;
                    }
                }
                RecordEdit::Learn(events) => {
                    for event in events {
                        self.learn(editing, catalogue, event)?;
                    }
                }
                RecordEdit::Keep(all) => {
                    for kept in all {
                        editing.kept.add(catalogue, kept)?;
                    }
                }
                RecordEdit::WalkEnd(walk) => state.held = self.counted(walk),
            }
        }
        Ok(())
    }

    fn learn(
        &self,
        editing: &mut Editing,
        catalogue: &Catalogue,
        event: &Event,
    ) -> Result<(), Error> {
        let is_held = |checksum: &Checksum| self.shared.blobs.has(checksum);
        if let Some(record) = editing.edits.get(catalogue, &event.name)?
            && ledger::learn(record, &event.kind, &is_held)
        {
            editing.edits.mark(&event.name);
        }
        encode_told(event, &mut editing.frames).ok_or_else(|| Error::TooLarge {
            name: event.name.clone(),
        })
    }

    /// Brings the marks of a name's rows to what is in the folder now: whoever sent for it may have
    /// looked before a file came or went.
    fn mark<'a>(
        &self,
        editing: &mut Editing,
        catalogue: &Catalogue,
        name: &CrateName,
        checksums: impl IntoIterator<Item = &'a Checksum>,
    ) -> Result<(), Error> {
        let Some(record) = editing.edits.get(catalogue, name)? else {
            return Ok(());
        };
        let mut changed = false;
        for checksum in checksums {
            let held = self.shared.blobs.has(checksum);
            for row in record
                .rows
                .iter_mut()
                .filter(|row| row.checksum == *checksum)
            {
                changed |= row.has(HELD) != held;
                row.set(HELD, held);
            }
        }
        if changed {
            editing.edits.mark(name);
            editing.marked.insert(name.key().to_owned());
        }
        Ok(())
    }

    fn publish(
        &self,
        editing: &mut Editing,
        catalogue: &Catalogue,
        change: &Prepared,
        now: SystemTime,
    ) -> Result<(), Error> {
        match change {
            Prepared::Index { name, .. } => {
                let (record, is_new) = editing.edits.get_or_new(catalogue, name)?;
                if let Some(entries) = self.apply_index(record, is_new, change, now)? {
                    editing.entries.extend(entries);
                    editing.visible.insert(name.key().to_owned());
                }
            }
            Prepared::Gone { name, checked } => {
                let Some(record) = editing.edits.get(catalogue, name)? else {
                    return Ok(());
                };
                record.checked = record.checked.max(*checked);
                let entries = ledger::gone(record, now);
                if !entries.is_empty() {
                    record.changed = now;
                    editing.visible.insert(name.key().to_owned());
                }
                editing.edits.mark(name);
                editing.entries.extend(entries);
            }
        }
        Ok(())
    }

    /// Returns what happened; `None`: readers see nothing new.
    fn apply_index(
        &self,
        record: &mut Record,
        is_new: bool,
        change: &Prepared,
        now: SystemTime,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let Prepared::Index {
            name: _,
            file,
            digest,
            frame,
            validators,
            checked,
        } = change
        else {
            return Ok(None);
        };
        record.etag.clone_from(&validators.etag);
        record.last_modified.clone_from(&validators.last_modified);
        record.checked = *checked;
        let is_same = !is_new && !record.gone && record.digest == *digest;
        if is_same && record.snapshot.is_some() && frame.is_none() {
            return Ok(None);
        }
        if let Some(row) = file.rows().last() {
            record.name = row.name.clone();
        }
        let is_held = |checksum: &Checksum| {
            self.progress.state.held.blobs > 0 && self.shared.blobs.has(checksum)
        };
        let entries = ledger::update(record, is_new, file.rows(), now, &is_held);
        record.snapshot = Some(match frame {
            Some(frame) => frame.clone(),
            None => compress(file.bytes()).map_err(Error::io("compress", Path::new("index")))?,
        });
        record.digest = *digest;
        record.raw_len = u32::try_from(file.bytes().len()).unwrap_or(u32::MAX);
        if !is_same {
            record.changed = now;
        }
        Ok(Some(entries))
    }
}

fn split(events: Vec<Event>, counts: &[usize]) -> Vec<Vec<Event>> {
    let mut events = events.into_iter();
    counts
        .iter()
        .map(|count| events.by_ref().take(*count).collect())
        .collect()
}

fn apply_touch(
    edits: &mut Edits,
    catalogue: &Catalogue,
    name: &CrateName,
    touch: &Touch,
) -> Result<(), Error> {
    let Some(record) = edits.get(catalogue, name)? else {
        return Ok(());
    };
    if touch.checked <= record.checked {
        return Ok(());
    }
    record.checked = touch.checked;
    if let Some(validators) = &touch.validators {
        record.etag.clone_from(&validators.etag);
        record.last_modified.clone_from(&validators.last_modified);
    }
    edits.mark(name);
    Ok(())
}
