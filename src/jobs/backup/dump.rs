//! What sled has and no other file of a backup tells: index entries, and the small things kept.
//!
//! Both are lines of JSON, packed by zstd. `index.jsonl.zst` has a line for each index file
//! ([`IndexLine`]), `kept.jsonl.zst` one for each of the small things: table, key, value.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    jobs::lines::{ExactBytes, LineReader, LineWriter},
    mirror::uses::RECORDED_SINCE,
    registry::{CrateName, IndexFile},
    store::{
        self, Change, ReleaseFacts, Snapshot, Store, Table, Validators, from_millis, to_millis,
    },
};

/// The index files.
pub const INDEX: &str = "index.jsonl.zst";

/// The small things.
pub const KEPT: &str = "kept.jsonl.zst";

/// Entries that are given back at once.
const BATCH: usize = 256;

/// Bytes of them.
const BATCH_BYTES: usize = 32 << 20;

/// The tables that are not in the journal.
const TABLES: [(&str, Table); 4] = [
    ("failures", Table::Failures),
    ("reports", Table::Reports),
    ("imports", Table::Imports),
    ("uses", Table::Uses),
];

/// What goes wrong with a dump.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not do its part.
    #[error("the store could not do its part")]
    Store(#[from] store::Error),
    /// The dump cannot be written or read.
    #[error("the dump could not be written or read")]
    Io(#[from] io::Error),
}

/// An index file and what is known of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexLine {
    name: CrateName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
    /// When upstream last confirmed it, in milliseconds since 1970.
    checked: u64,
    /// When it last became another.
    changed: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
    file: ExactBytes,
}

// --- writing

/// Writes all index entries. `told` hears how many so far, and says whether to stop.
pub(super) fn write_index(
    store: &Store,
    out: impl Write,
    told: &mut dyn FnMut(u64) -> bool,
) -> Result<u64, Error> {
    let mut out = LineWriter::new(out)?;
    let (mut names, mut outcome) = (0, Ok(()));
    store.names(|facts| {
        if told(names) {
            outcome = Err(io::Error::from(io::ErrorKind::Interrupted).into());
            return ControlFlow::Break(());
        }
        outcome = write_one(store, &facts.name, &mut out);
        match outcome {
            Ok(()) => {
                names += 1;
                ControlFlow::Continue(())
            }
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    outcome?;
    out.finish()?;
    Ok(names)
}

/// The bytes and what is known of them are of one moment. One without bytes is in the journal.
fn write_one(
    store: &Store,
    name: &CrateName,
    out: &mut LineWriter<impl Write>,
) -> Result<(), Error> {
    let Some(Snapshot { facts, bytes }) = store.snapshot(name)? else {
        return Ok(());
    };
    out.put(&IndexLine {
        name: facts.name,
        etag: facts.etag,
        last_modified: facts.last_modified,
        checked: to_millis(facts.checked),
        changed: to_millis(facts.changed),
        gone: facts.gone,
        file: ExactBytes(bytes),
    })?;
    Ok(())
}

/// Keys and values of one table, as the store takes them.
type Pairs = Vec<(String, Option<Vec<u8>>)>;

#[derive(Serialize)]
struct KeptOut<'a> {
    table: &'a str,
    key: &'a str,
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct KeptIn {
    table: String,
    key: String,
    value: Box<RawValue>,
}

/// Writes the small things that only sled has.
pub(super) fn write_kept(store: &Store, out: impl Write) -> Result<(), Error> {
    let mut out = LineWriter::new(out)?;
    for (name, table) in TABLES {
        let mut outcome = Ok(());
        store.kept_all(table, "", |key, value| {
            // What is used between the backup and a restore is recorded nowhere, so who restores
            // begins to record anew.
            if table == Table::Uses && key == RECORDED_SINCE {
                return ControlFlow::Continue(());
            }
            // Values are JSON of one line; one that is none belongs to nobody.
            let Ok(value) = serde_json::from_slice::<&RawValue>(value) else {
                return ControlFlow::Continue(());
            };
            outcome = out.put(&KeptOut {
                table: name,
                key,
                value,
            });
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome?;
    }
    out.finish()?;
    Ok(())
}

// --- giving back

/// Gives a store, whose records were rebuilt from the journal, its index entries back. `change`: the
/// change number of the git index that was restored with it. The dump was written after it, so the
/// store has all of its changes.
///
/// # Errors
/// [`Error`]; what was given back until then stays.
pub fn restore_index(
    store: &Store,
    change: u64,
    input: impl Read,
    told: &mut dyn FnMut(u64),
) -> Result<u64, Error> {
    let mut input = LineReader::new(input)?;
    let mut giving = Giving {
        store,
        plain: Vec::new(),
        touches: Vec::new(),
        bytes: 0,
    };
    let mut names = 0;
    while let Some(line) = input.next::<IndexLine>()? {
        giving.give(line)?;
        names += 1;
        told(names);
    }
    giving.flush()?;
    store.flush_touches()?;
    store.index_is_back(change)?;
    Ok(names)
}

struct Giving<'a> {
    store: &'a Store,
    /// What the journal tells nothing else of.
    plain: Vec<(CrateName, Bytes)>,
    touches: Vec<(CrateName, SystemTime, Validators)>,
    bytes: usize,
}

impl Giving<'_> {
    fn give(&mut self, line: IndexLine) -> Result<(), Error> {
        let (name, bytes) = (line.name, line.file.0);
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let file = IndexFile::parse(&name, bytes.clone()).map_err(invalid)?;
        let validators = Validators {
            etag: line.etag,
            last_modified: line.last_modified,
        };
        if line.gone || agree(&self.store.releases(&name)?, &file) {
            self.bytes += bytes.len();
            self.plain.push((name.clone(), bytes));
            self.touches
                .push((name, from_millis(line.checked), validators));
            if self.plain.len() >= BATCH || self.bytes >= BATCH_BYTES {
                self.flush()?;
            }
            return Ok(());
        }
        let change = Change::Index {
            name,
            file,
            validators,
            checked: from_millis(line.checked),
        };
        self.store
            .publish(vec![change], from_millis(line.changed))?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        if self.plain.is_empty() {
            return Ok(());
        }
        self.store
            .restore(std::mem::take(&mut self.plain), UNIX_EPOCH)?;
        for (name, checked, validators) in self.touches.drain(..) {
            self.store.touch(&name, checked, Some(validators));
        }
        self.store.flush_touches()?;
        Ok(())
    }
}

/// Whether the journal tells just what an index file says, so that nothing has happened since.
fn agree(known: &[ReleaseFacts], file: &IndexFile) -> bool {
    let in_force = known.iter().filter(|release| !release.removed);
    let mut count = 0_usize;
    for release in in_force {
        let same = file
            .row(&release.version)
            .is_some_and(|row| row.checksum == release.checksum && row.yanked == release.yanked);
        if !same {
            return false;
        }
        count += 1;
    }
    let mut versions: Vec<_> = file
        .rows()
        .iter()
        .map(|row| row.version.to_string())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions.len() == count
}

/// Gives a store the small things back that only its sled had.
///
/// # Errors
/// [`Error`]; what was given back until then stays.
pub fn restore_kept(store: &Store, input: impl Read) -> Result<(), Error> {
    let mut input = LineReader::new(input)?;
    let mut pairs: Vec<(Table, Pairs)> = Vec::new();
    let mut bytes = 0;
    while let Some(kept) = input.next::<KeptIn>()? {
        let Some((_, table)) = TABLES.iter().find(|(name, _)| *name == kept.table) else {
            continue;
        };
        let line_bytes = kept.key.len() + kept.value.get().len();
        bytes += line_bytes;
        let pair = (kept.key, Some(kept.value.get().as_bytes().to_vec()));
        match pairs.last_mut() {
            Some((last, batch)) if last == table && batch.len() < BATCH && bytes < BATCH_BYTES => {
                batch.push(pair);
            }
            _ => {
                for (table, batch) in pairs.drain(..) {
                    store.keep(table, batch)?;
                }
                bytes = line_bytes;
                pairs.push((*table, vec![pair]));
            }
        }
    }
    for (table, batch) in pairs {
        store.keep(table, batch)?;
    }
    Ok(())
}
