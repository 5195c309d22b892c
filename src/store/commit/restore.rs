//! Steps beside the batches: what is written so far is made durable, and index files that were lost
//! are recovered.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, SystemTime},
};

use super::committer::Committer;
use crate::{
    registry::{Checksum, CrateName},
    store::{
        blob_store::BlobStore as _,
        catalogue::Catalogue,
        edits::Edits,
        error::Error,
        ledger,
        queue::{Restored, Step},
    },
};

/// What a time in whole seconds may be behind.
const SECOND: Duration = Duration::from_secs(1);

impl Committer {
    pub(super) fn step(&mut self, step: Step) -> Result<u64, Error> {
        self.shared.check_record_space()?;
        self.settle()?;
        let catalogue = self.shared.open_catalogue()?;
        match step {
            Step::MakeDurable => {}
            Step::Restore(files) => {
                self.progress.dirty = true;
                self.restore(&catalogue, files)?;
                return Ok(self.progress.change_number);
            }
            Step::Back { change } => {
                self.progress.change_number = self.progress.change_number.max(change);
                self.progress.dirty = true;
                catalogue.set_lost(false)?;
                // What came after that commit is still lost, so a followed index is compared anew.
                catalogue.set_born()?;
                self.shared.lacks_index.store(false, SeqCst);
            }
        }
        // A batch that failed left our number above sled's, and what is returned is a promise.
        if catalogue.change_number()? != self.progress.change_number {
            self.progress.dirty = true;
            catalogue.set_change_number(self.progress.change_number)?;
        }
        if self.progress.dirty {
            let durable = catalogue.flush()?;
            self.wrote(durable);
        }
        self.shared
            .change_number
            .store(self.progress.change_number, SeqCst);
        Ok(self.progress.change_number)
    }

    fn restore(&mut self, catalogue: &Catalogue, files: Vec<Restored>) -> Result<(), Error> {
        self.owned = None;
        let mut edits = Edits::default();
        let mut names = Vec::new();
        let is_held = |checksum: &Checksum| {
            self.progress.state.held.blobs > 0 && self.shared.blobs.has(checksum)
        };
        for Restored {
            name,
            file,
            digest,
            frame,
            checked,
        } in files
        {
            let before = catalogue.get(name.key())?;
            if before.is_some_and(|record| self.is_kept(&name, &record, checked)) {
                continue;
            }
            let (record, is_new) = edits.get_or_new(catalogue, &name)?;
            if let Some(row) = file.rows().last() {
                record.name = row.name.clone();
            }
            if is_new {
                record.changed = checked;
            }
            ledger::restore(record, file.rows(), &is_held);
            record.etag = None;
            record.last_modified = None;
            record.checked = checked;
            record.digest = digest;
            record.raw_len = u32::try_from(file.bytes().len()).unwrap_or(u32::MAX);
            record.snapshot = Some(frame);
            names.push(name);
        }
        let mut state = self.progress.state;
        let encoded = edits.encode(&mut state)?;
        self.progress.change_number = self
            .progress
            .change_number
            .saturating_add(encoded.changed_files);
        catalogue.apply(
            encoded.records,
            self.progress.change_number,
            &encoded.new_names,
            Vec::new(),
            &state,
        )?;
        self.progress.state = state;
        self.shared.set_totals(&state);
        self.shared.add_names(&encoded.new_names);
        let keys = names.iter().map(|name| name.key().to_owned()).collect();
        for name in names {
            self.shared.forget_broken_frame(name.key());
            self.shared.bump(name.key());
        }
        self.shared.watchers.tell(&keys);
        self.shared
            .change_number
            .store(self.progress.change_number, SeqCst);
        Ok(())
    }

    /// Whether a record has a file that is at least as new as one of the time `given`, which is of
    /// whole seconds. When upstream confirmed it says so, and when it came in: what an import
    /// brings was confirmed elsewhere, long before.
    fn is_kept(&self, name: &CrateName, record: &[u8], given: SystemTime) -> bool {
        let view = self.shared.view(name.key(), record);
        let facts = view.and_then(|view| self.shared.facts(&view));
        facts
            .filter(|facts| facts.has_snapshot)
            .is_some_and(|facts| {
                let since = facts.checked.max(facts.changed).duration_since(given);
                since.is_ok_and(|since| since >= SECOND)
            })
    }
}
