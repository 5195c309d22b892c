//! Where in the journal a name is told of: looked up in memory, which is filled when somebody asks
//! for it first, and given back when nobody has for a while.
//!
//! One number an event: the place in the low 40 bits, a hash of the name in the high 24. A look goes
//! through all of them, which is some milliseconds for a million, by estimate.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use semver::Version;

use super::{
    Store,
    error::Error,
    facts::{Event, EventKind},
    journal::{self, Line},
};
use crate::registry::CrateName;

/// How many events are looked up: 8 MB. Of a journal with more the newest are.
const MAX_PLACES: usize = 1 << 20;

/// How many events of one name are read at most, the newest: one takes some microseconds.
const MAX_READ: usize = 1000;

/// After how long without a look the memory is given back.
const REST_AFTER: Duration = Duration::from_secs(600);

const PLACE_BITS: u32 = 40;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// What the journal tells of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    /// What happened to it, the newest first.
    pub events: Vec<Event>,
    /// When each version was first noticed.
    pub first_seen: HashMap<Version, SystemTime>,
}

/// See the module's sentence.
#[derive(Debug, Default)]
pub(super) struct Chronicle(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// How far the journal was read.
    upto: u64,
    packed: Vec<u64>,
    hasher: RandomState,
    looked: Option<Instant>,
}

impl Places {
    fn tag(&self, name: &CrateName) -> u64 {
        self.hasher.hash_one(name.key()) << PLACE_BITS
    }

    fn add(&mut self, place: u64, name: &CrateName) {
        if self.packed.len() >= MAX_PLACES {
            self.packed.drain(..MAX_PLACES / 8);
        }
        self.packed.push(self.tag(name) | (place & PLACE_MASK));
    }

    /// The newest places at which a name may be told of, the oldest first.
    fn of(&self, name: &CrateName) -> Vec<u64> {
        let tag = self.tag(name);
        let is_tagged = |place: &&u64| **place & !PLACE_MASK == tag;
        let tagged = self.packed.iter().rev().filter(is_tagged).take(MAX_READ);
        let mut found: Vec<u64> = tagged.map(|place| place & PLACE_MASK).collect();
        found.reverse();
        found
    }
}

impl Store {
    /// What the journal tells of a name, at most `limit` events of it. The first call reads the whole journal,
    /// which may take seconds where it is large; others what came since. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`]; damage is passed over.
    pub fn story(&self, name: &CrateName, limit: usize) -> Result<Story, Error> {
        let path = self.shared().folder.dir.join("journal");
        let (file, end) = self.journal_file()?;
        let mut places = self.shared().chronicle.0.lock();
        if end < places.upto {
            *places = Places::default();
        }
        let from = places.upto;
        journal::read_lines(&file, from, end, &mut |at, line| {
            match line {
                Line::Name(entry) => places.add(at, &entry.name),
                Line::Told(event) => places.add(at, &event.name),
                Line::Generation(_) | Line::Kept(_) => {}
            }
            true
        })
        .map_err(Error::io("read the journal", &path))?;
        places.upto = end;
        places.looked = Some(Instant::now());
        let found = places.of(name);
        drop(places);
        let mut story = Story::default();
        for place in found {
            let line = journal::line_at(&file, place);
            story.take(name, line.map_err(Error::io("read the journal", &path))?);
        }
        story.events.reverse();
        story.events.truncate(limit);
        Ok(story)
    }

    /// Gives the memory of [`story`](Store::story) back, if nobody asked for a while.
    pub fn rest_story(&self) {
        let mut places = self.shared().chronicle.0.lock();
        if places.looked.is_some_and(|at| at.elapsed() > REST_AFTER) {
            *places = Places::default();
        }
    }
}

impl Story {
    fn take(&mut self, name: &CrateName, line: Option<Line>) {
        let event = match line {
            Some(Line::Name(entry)) if entry.name == *name => {
                if let journal::Body::FirstSeen(rows) = &entry.body {
                    for row in rows {
                        self.see(&row.version, entry.at);
                    }
                }
                entry.event()
            }
            Some(Line::Told(event)) if event.name == *name => event,
            _ => return,
        };
        if let EventKind::NewVersion { version, .. } = &event.kind {
            self.see(version, event.at);
        }
        self.events.push(event);
    }

    fn see(&mut self, version: &Version, at: SystemTime) {
        let seen = self.first_seen.entry(version.clone()).or_insert(at);
        *seen = at.min(*seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_places_of_a_name_are_found_the_oldest_first() {
        let name = |text: &str| CrateName::parse(text).expect("a name");
        let mut places = Places::default();
        for place in 0..6000 {
            places.add(
                place,
                &name(["a", "b", "c"][usize::try_from(place % 3).unwrap()]),
            );
        }
        let found = places.of(&name("b"));
        let expected: Vec<u64> = (0..6000).filter(|place| place % 3 == 1).collect();
        assert_eq!(found, expected[expected.len() - MAX_READ..]);
        assert!(places.of(&name("never-told-of")).is_empty());
        places.packed.resize(MAX_PLACES, 0);
        places.add(9, &name("b"));
        assert!(places.packed.len() < MAX_PLACES, "the oldest give way");
        assert_eq!(places.of(&name("b")), [9]);
    }
}
