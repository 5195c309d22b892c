//! Index entries: read, noted as checked, and searched by name.

use std::{ops::ControlFlow, time::SystemTime};

use bytes::Bytes;

use super::{
    error::Error,
    facts::{EntryFacts, Found, Snapshot, Validators},
    fields::Damaged,
    handle::Store,
    queue::{Job, RecordEdit, Touch},
};
use crate::registry::CrateName;

impl Store {
    /// What is known of an index entry; `None`: the name was never seen. Cheap: nothing is
    /// decompressed.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn entry(&self, name: &CrateName) -> Result<Option<EntryFacts>, Error> {
        let shared = self.shared();
        Ok(shared.record(name.key()).and_then(|record| {
            let view = shared.view(name.key(), &record)?;
            shared.facts(&view)
        }))
    }

    /// An index entry with its bytes; `None`: they are not here, though
    /// [`entry`](Store::entry) may know of them.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn snapshot(&self, name: &CrateName) -> Result<Option<Snapshot>, Error> {
        let shared = self.shared();
        Ok(shared.record(name.key()).and_then(|record| {
            let view = shared.view(name.key(), &record)?;
            let facts = shared.facts(&view).filter(|facts| facts.has_snapshot)?;
            let bytes = view
                .decompress()
                .inspect_err(|error| shared.note_broken_frame(name.key(), error))
                .ok()?;
            Some(Snapshot {
                facts,
                bytes: Bytes::from(bytes),
            })
        }))
    }

    /// Notes that upstream said that nothing changed. Known at once, written by
    /// [`flush_touches`](Store::flush_touches); lost by a crash before, which costs a revalidation.
    /// The [`stamp`](Store::stamp) stays.
    pub fn touch(&self, name: &CrateName, checked: SystemTime, validators: Option<Validators>) {
        let touch = Touch {
            checked,
            validators,
        };
        self.shared().touch(name, touch);
    }

    /// Writes what was touched since the last time.
    ///
    /// # Errors
    /// See [`Error`]; the touches are kept for the next time then.
    pub fn flush_touches(&self) -> Result<(), Error> {
        let touches = self.shared().touches();
        if touches.is_empty() {
            return Ok(());
        }
        self.shared()
            .queue
            .call(|reply| Job::Edit(RecordEdit::Touch(touches), reply))
    }

    /// Hands every entry to `visit`, in the order of the names, until it breaks. Reads the whole of
    /// sled: for jobs, not for requests.
    ///
    /// # Errors
    /// If sled cannot be read; damaged records are passed over.
    pub fn names(&self, mut visit: impl FnMut(EntryFacts) -> ControlFlow<()>) -> Result<(), Error> {
        let shared = self.shared();
        self.visit(&mut |key, view| {
            let facts = shared.facts(view);
            if facts.is_none() {
                shared.note_damage(key, &Damaged);
            }
            facts.is_none_or(|facts| visit(facts).is_continue())
        })
    }

    /// Names that contain `query`, whatever its case and its dashes: the name itself first, then
    /// those that start with it, then the others, each in order. The number is how many there are.
    /// Looks through all names in memory, at most some milliseconds.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn search(&self, query: &str, limit: usize) -> Result<(Vec<Found>, usize), Error> {
        let (keys, total) = self
            .shared()
            .with_names(|names| find(names.iter().map(AsRef::as_ref), query, limit))?;
        let found = keys.iter().filter_map(|key| self.found(key)).collect();
        Ok((found, total))
    }

    /// What a search finds of a name; `None`: it is not known.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn find(&self, name: &CrateName) -> Result<Option<Found>, Error> {
        Ok(self.found(name.key()))
    }

    fn found(&self, key: &str) -> Option<Found> {
        let shared = self.shared();
        let record = shared.record(key)?;
        let view = shared.view(key, &record)?;
        Some(Found {
            name: view.name().ok()?,
            max_version: view.max_version(),
        })
    }
}

/// The names that contain `query`, best first and at most `limit`, and how many there are.
fn find<'a>(
    names: impl Iterator<Item = &'a str>,
    query: &str,
    limit: usize,
) -> (Vec<String>, usize) {
    let wanted: Vec<u8> = query.bytes().map(plain).collect();
    let mut ranks: [Vec<String>; 3] = Default::default();
    let mut total: usize = 0;
    for name in names {
        let Some(rank) = rank(name.as_bytes(), &wanted) else {
            continue;
        };
        total += 1;
        if let Some(found) = ranks.get_mut(rank).filter(|found| found.len() < limit) {
            found.push(name.to_owned());
        }
    }
    let found = ranks.into_iter().flatten().take(limit).collect();
    (found, total)
}

/// Case and kind of dash do not matter in a search.
fn plain(byte: u8) -> u8 {
    match byte {
        b'-' => b'_',
        byte => byte.to_ascii_lowercase(),
    }
}

/// 0: the name itself, 1: it starts so, 2: it contains it. Without memory of its own, because all
/// names go through it.
fn rank(name: &[u8], wanted: &[u8]) -> Option<usize> {
    let starts_so = |part: &[u8]| {
        part.len() >= wanted.len()
            && part
                .iter()
                .zip(wanted)
                .all(|(byte, wanted)| plain(*byte) == *wanted)
    };
    if starts_so(name) {
        return Some(usize::from(name.len() != wanted.len()));
    }
    (1..name.len())
        .filter_map(|start| name.get(start..))
        .any(starts_so)
        .then_some(2)
}
