//! Records that are being changed together, before they are written in one batch.

use std::collections::BTreeMap;

use super::{
    catalogue::{Catalogue, Value},
    codec::{Record, View},
    error::Error,
    state::{Counts, State},
};
use crate::registry::CrateName;

/// A record as it was and as it will be.
struct Slot {
    before: Option<Value>,
    /// `None`: there is no record that can be trusted.
    record: Option<Record>,
    changed: bool,
}

/// The records of one batch.
#[derive(Default)]
pub(super) struct Edits {
    slots: BTreeMap<String, Slot>,
}

/// Encoded records, ready for the catalogue.
pub(super) struct Encoded {
    pub(super) records: Vec<(String, Vec<u8>)>,
    pub(super) new_names: Vec<String>,
    /// How many of the records have another index file than before.
    pub(super) changed_files: u64,
    /// What readers see until the batch is durable.
    pub(super) before: BTreeMap<String, Option<Value>>,
}

/// Brings the counts from a record as it was to what it is now. What a damaged record was counted
/// as is not known, so that all have to be counted again.
fn count(state: &mut State, before: Option<&[u8]>, now: &[u8]) {
    let before = before.map_or(Ok(Counts::default()), |bytes| {
        View::read(bytes).map(|view| view.counts())
    });
    let now = View::read(now).map(|view| view.counts());
    state.counts = match (state.counts, before, now) {
        (Some(mut counts), Ok(before), Ok(now)) => {
            counts.add(now);
            counts.remove(before);
            Some(counts)
        }
        _ => None,
    };
}

/// Whether a record has another index file than before. A frame that was made anew replaces a damaged
/// one, so it counts.
fn is_other_file(before: Option<&[u8]>, now: &[u8]) -> bool {
    let before = before.and_then(|bytes| View::read(bytes).ok());
    let Ok(now) = View::read(now) else {
        return false;
    };
    match before.filter(View::has_snapshot) {
        None => now.has_snapshot(),
        Some(before) => before.digest != now.digest || before.frame() != now.frame(),
    }
}

impl Edits {
    /// The record of a name as the batch has it so far; `None`: nothing is known of the name.
    pub(super) fn get(
        &mut self,
        catalogue: &Catalogue,
        name: &CrateName,
    ) -> Result<Option<&mut Record>, Error> {
        Ok(self.slot(catalogue, name)?.record.as_mut())
    }

    /// The record of a name, made if there is none, to be changed. The second tells whether it was
    /// made.
    pub(super) fn get_or_new(
        &mut self,
        catalogue: &Catalogue,
        name: &CrateName,
    ) -> Result<(&mut Record, bool), Error> {
        let slot = self.slot(catalogue, name)?;
        let is_new = slot.record.is_none();
        slot.changed = true;
        let record = slot.record.get_or_insert_with(|| Record::new(name.clone()));
        Ok((record, is_new))
    }

    /// Notes that the record was changed.
    pub(super) fn mark(&mut self, name: &CrateName) {
        if let Some(slot) = self.slots.get_mut(name.key()) {
            slot.changed = true;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn slot(&mut self, catalogue: &Catalogue, name: &CrateName) -> Result<&mut Slot, Error> {
        match self.slots.entry(name.key().to_owned()) {
            std::collections::btree_map::Entry::Occupied(slot) => Ok(slot.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let before = catalogue.get(name.key())?;
                // A damaged record counts as absent: this write heals it.
                let record = before
                    .as_ref()
                    .and_then(|bytes| View::read(bytes).ok()?.to_record().ok());
                Ok(place.insert(Slot {
                    before,
                    record,
                    changed: false,
                }))
            }
        }
    }

    /// Encodes what was changed, counting new names into `state`.
    pub(super) fn encode(self, state: &mut State) -> Result<Encoded, Error> {
        let mut encoded = Encoded {
            records: Vec::new(),
            new_names: Vec::new(),
            changed_files: 0,
            before: BTreeMap::new(),
        };
        for (key, slot) in self.slots {
            let (true, Some(mut record)) = (slot.changed, slot.record) else {
                continue;
            };
            let bytes = record
                .encode()
                .ok_or(Error::TooLarge { name: record.name })?;
            count(state, slot.before.as_deref(), &bytes);
            let is_changed = is_other_file(slot.before.as_deref(), &bytes);
            encoded.changed_files = encoded.changed_files.saturating_add(is_changed.into());
            if slot.before.is_none() {
                state.names = state.names.saturating_add(1);
                encoded.new_names.push(key.clone());
            }
            encoded.before.insert(key.clone(), slot.before);
            encoded.records.push((key, bytes));
        }
        Ok(encoded)
    }
}
