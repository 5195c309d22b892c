//! Which entries of the run the head's tree holds: what a shallow clone gets, and what the next
//! generation's objects replace.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::{HashMap, HashSet};

use flate2::Decompress;

use super::{
    Error, ObjectId,
    log::{End, Files},
    objects::Packs,
};

/// The objects of one tree, each with its entry in the run.
#[derive(Debug)]
pub(super) struct Tip {
    /// The generation whose tree it is.
    pub(super) generation: u64,
    live: HashMap<ObjectId, Live>,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    entry: u32,
    /// At how many places of the tree it stands; nearly always one.
    places: u32,
}

impl Tip {
    /// Walks the tree of a commit.
    pub(super) fn load(
        packs: &Packs,
        files: &Files,
        end: End,
        (generation, commit): (u64, ObjectId),
    ) -> Result<Tip, Error> {
        let mut zlib = Decompress::new(true);
        let (tree, _) = packs.commit(&mut zlib, &commit)?;
        let mut tip = Tip {
            generation,
            live: HashMap::new(),
        };
        packs.walk(&mut zlib, tree, &mut |id| {
            let live = tip.live.entry(id).or_insert(Live {
                entry: u32::MAX,
                places: 0,
            });
            live.places = live.places.saturating_add(1);
        })?;
        let found = files.locate(end, |id| tip.live.contains_key(id), tip.live.len())?;
        if found.len() != tip.live.len() {
            return Err(files.missing());
        }
        for (id, entry) in found {
            if let Some(live) = tip.live.get_mut(&id) {
                live.entry = entry;
            }
        }
        Ok(tip)
    }

    /// The entry of an object that the tree holds.
    pub(super) fn entry_of(&self, id: &ObjectId) -> Option<u32> {
        self.live.get(id).map(|live| live.entry)
    }

    /// The entries, in the order of the run.
    pub(super) fn entries(&self) -> Vec<u32> {
        let mut entries: Vec<_> = self.live.values().map(|live| live.entry).collect();
        entries.sort_unstable();
        entries
    }

    /// Goes on to the next generation, whose new entries are those from `start` on.
    pub(super) fn go_on(
        &mut self,
        packs: &Packs,
        files: &Files,
        (start, end): (End, End),
        (old, new): (ObjectId, ObjectId),
    ) -> Result<(), Error> {
        let mut zlib = Decompress::new(true);
        let (old, new) = (
            packs.commit(&mut zlib, &old)?.0,
            packs.commit(&mut zlib, &new)?.0,
        );
        let (mut added, mut gone) = (Vec::new(), Vec::new());
        packs.diff(&mut zlib, old, new, &mut |id| added.push(id), &mut |id| {
            gone.push(id);
        })?;
        let mut unknown: HashSet<_> = added
            .iter()
            .filter(|id| !self.live.contains_key(*id))
            .copied()
            .collect();
        let mut fresh = HashMap::with_capacity(unknown.len());
        files.records(start.entry..end.entry, end, &mut |number, record, _| {
            if unknown.remove(&record.id) {
                fresh.insert(record.id, number);
            }
            Ok(())
        })?;
        // An object that was there once comes back: it stands somewhere before.
        fresh.extend(files.locate(start, |id| unknown.contains(id), unknown.len())?);
        for id in added {
            let entry = fresh.get(&id).copied();
            if let Some(live) = self.live.get_mut(&id) {
                live.places = live.places.saturating_add(1);
            } else {
                let entry = entry.ok_or_else(|| files.missing())?;
                self.live.insert(id, Live { entry, places: 1 });
            }
        }
        for id in gone {
            if let Some(live) = self.live.get_mut(&id) {
                live.places = live.places.saturating_sub(1);
                if live.places == 0 {
                    self.live.remove(&id);
                }
            }
        }
        self.generation = self.generation.saturating_add(1);
        Ok(())
    }
}
