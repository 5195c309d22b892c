//! What sled has and no other file of a backup tells: index entries, and the small things kept.
//!
//! `index.gz` is gzip of `orlopidx`, the format (4 bytes: 1) and entries; all numbers are
//! little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | `h`: length of the head, at most 64 KiB; 0: the end |
//! | 4 | h | the head as JSON: `name`, `etag`, `last_modified`, `checked` and `changed` (ms), `gone` |
//! | 4 + h | 4 | `b`: length of the index file, at most what a store keeps: 256 MiB |
//! | 8 + h | b | the index file, byte for byte |
//!
//! `kept.gz` is gzip of a first line `orlopkept 1` and one JSON object a line: table, key, value.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    ops::ControlFlow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::upkeep::RECORDED_SINCE;
use crate::{
    git::{Head as GitHead, Repo},
    registry::{CrateName, IndexFile},
    store::{
        self, Change, EntryFacts, MAX_SNAPSHOT_BYTES, ReleaseFacts, Snapshot, Store, Table,
        Validators,
    },
};

const MAGIC: &[u8; 8] = b"orlopidx";
const FORMAT: u32 = 1;
const KEPT_FIRST: &str = "orlopkept 1";
const MOST_HEAD_BYTES: usize = 64 << 10;
/// The longest index file: what a store keeps.
const MOST_FILE_BYTES: usize = MAX_SNAPSHOT_BYTES;

/// The longest line of `kept.gz`: a value has 1 MiB at most.
const MOST_LINE_BYTES: u64 = 4 << 20;

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
    /// The dump is none.
    #[error("the dump is damaged: {0}")]
    Damaged(&'static str),
}

/// What stands before an index file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
    checked: u64,
    changed: u64,
    #[serde(default)]
    gone: bool,
}

impl Head {
    fn of(facts: &EntryFacts) -> Head {
        Head {
            name: facts.name.as_str().to_owned(),
            etag: facts.etag.clone(),
            last_modified: facts.last_modified.clone(),
            checked: millis(facts.checked),
            changed: millis(facts.changed),
            gone: facts.gone,
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time_of(millis: u64) -> SystemTime {
    let since = Duration::from_millis(millis);
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

// --- writing

/// Writes all index entries. `told` hears how many so far, and says whether to stop.
pub(super) fn write_index(
    store: &Store,
    out: impl Write,
    told: &mut dyn FnMut(u64) -> bool,
) -> Result<u64, Error> {
    let mut out = GzEncoder::new(out, Compression::fast());
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
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
    out.write_all(&0_u32.to_le_bytes())?;
    out.finish()?;
    Ok(names)
}

/// The bytes and what is known of them are of one moment. One without bytes is in the journal.
fn write_one(store: &Store, name: &CrateName, out: &mut impl Write) -> Result<(), Error> {
    let Some(Snapshot { facts, bytes }) = store.snapshot(name)? else {
        return Ok(());
    };
    let head = serde_json::to_vec(&Head::of(&facts)).map_err(io::Error::from)?;
    for part in [&head[..], &bytes[..]] {
        let length = u32::try_from(part.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(part)?;
    }
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
    let mut out = GzEncoder::new(out, Compression::fast());
    writeln!(out, "{KEPT_FIRST}")?;
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
            let line = KeptOut {
                table: name,
                key,
                value,
            };
            outcome = serde_json::to_writer(&mut out, &line)
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
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

/// Gives a store, whose records were rebuilt from the journal, its index entries back. `repo`: the
/// git index that was restored with it. What the git index has already is not a change; what came
/// after its last commit is one, and is staged for the next.
///
/// # Errors
/// [`Error`]; what was given back until then stays.
pub fn restore_index(
    store: &Store,
    repo: Option<&Repo>,
    input: impl Read,
    told: &mut dyn FnMut(u64),
) -> Result<u64, Error> {
    let mut input = BufReader::new(GzDecoder::new(input));
    let mut magic = [0; 12];
    input.read_exact(&mut magic)?;
    if magic[..] != [&MAGIC[..], &FORMAT.to_le_bytes()].concat()[..] {
        return Err(Error::Damaged("it is in another format"));
    }
    let head = repo.and_then(Repo::head);
    let mut giving = Giving {
        store,
        git: repo.zip(head),
        plain: Vec::new(),
        touches: Vec::new(),
        bytes: 0,
    };
    let mut names = 0;
    while let Some((head, bytes)) = read_one(&mut input)? {
        giving.give(&head, bytes)?;
        names += 1;
        told(names);
    }
    giving.flush()?;
    store.flush_touches()?;
    store.index_is_back()?;
    Ok(names)
}

struct Giving<'a> {
    store: &'a Store,
    git: Option<(&'a Repo, GitHead)>,
    /// What the git index has, too, or will have as it is.
    plain: Vec<(CrateName, Bytes)>,
    touches: Vec<(CrateName, SystemTime, Validators)>,
    bytes: usize,
}

impl Giving<'_> {
    fn give(&mut self, head: &Head, bytes: Bytes) -> Result<(), Error> {
        let name =
            CrateName::parse(&head.name).map_err(|_invalid| Error::Damaged("a name is none"))?;
        let file = IndexFile::parse(&name, bytes.clone())
            .map_err(|_invalid| Error::Damaged("an index file is none"))?;
        let validators = Validators {
            etag: head.etag.clone(),
            last_modified: head.last_modified.clone(),
        };
        let committed = self.committed(&name);
        let is_committed = self.git.is_none() || committed.as_ref() == Some(&bytes);
        if head.gone || (is_committed && agree(&self.store.releases(&name)?, &file)) {
            self.bytes += bytes.len();
            self.plain.push((name.clone(), bytes));
            self.touches.push((name, time_of(head.checked), validators));
            if self.plain.len() >= BATCH || self.bytes >= BATCH_BYTES {
                self.flush()?;
            }
            return Ok(());
        }
        if let Some(older) = committed {
            self.store
                .restore(vec![(name.clone(), older)], UNIX_EPOCH)?;
        }
        let change = Change::Index {
            name,
            file,
            validators,
            checked: time_of(head.checked),
        };
        self.store.publish(vec![change], time_of(head.changed))?;
        Ok(())
    }

    /// What the git index has. One that cannot be read is no reason to stop: its place is taken.
    fn committed(&self, name: &CrateName) -> Option<Bytes> {
        let (repo, head) = self.git?;
        repo.file(head.id, &name.index_path()).ok().flatten()
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

fn read_one(input: &mut impl Read) -> Result<Option<(Head, Bytes)>, Error> {
    let Some(head) = read_part(input, MOST_HEAD_BYTES)? else {
        return Ok(None);
    };
    let head: Head =
        serde_json::from_slice(&head).map_err(|_invalid| Error::Damaged("a head is none"))?;
    let bytes = read_part(input, MOST_FILE_BYTES)?;
    let bytes = bytes.ok_or(Error::Damaged("an index file is empty"))?;
    Ok(Some((head, bytes.into())))
}

fn read_part(input: &mut impl Read, most: usize) -> Result<Option<Vec<u8>>, Error> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length == 0 {
        return Ok(None);
    }
    if length > most {
        return Err(Error::Damaged("a length is too large"));
    }
    // As it comes: a length alone reserves no memory.
    let mut bytes = Vec::new();
    input.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length {
        Ok(Some(bytes))
    } else {
        Err(Error::Damaged("it breaks off"))
    }
}

/// Gives a store the small things back that only its sled had.
///
/// # Errors
/// [`Error`]; what was given back until then stays.
pub fn restore_kept(store: &Store, input: impl Read) -> Result<(), Error> {
    let mut input = BufReader::new(GzDecoder::new(input));
    let mut line = String::new();
    if !read_line(&mut input, &mut line)? || line.trim_end() != KEPT_FIRST {
        return Err(Error::Damaged("it is in another format"));
    }
    let mut pairs: Vec<(Table, Pairs)> = Vec::new();
    let mut bytes = 0;
    while read_line(&mut input, &mut line)? {
        let kept: KeptIn =
            serde_json::from_str(&line).map_err(|_invalid| Error::Damaged("a line is none"))?;
        let Some((_, table)) = TABLES.iter().find(|(name, _)| *name == kept.table) else {
            continue;
        };
        bytes += line.len();
        let pair = (kept.key, Some(kept.value.get().as_bytes().to_vec()));
        match pairs.last_mut() {
            Some((last, batch)) if last == table && batch.len() < BATCH && bytes < BATCH_BYTES => {
                batch.push(pair);
            }
            _ => {
                for (table, batch) in pairs.drain(..) {
                    store.keep(table, batch)?;
                }
                bytes = line.len();
                pairs.push((*table, vec![pair]));
            }
        }
    }
    for (table, batch) in pairs {
        store.keep(table, batch)?;
    }
    Ok(())
}

fn read_line(input: &mut impl BufRead, line: &mut String) -> Result<bool, Error> {
    line.clear();
    let read = input.by_ref().take(MOST_LINE_BYTES).read_line(line)?;
    if read > 0 && !line.ends_with('\n') {
        return Err(Error::Damaged("a line breaks off"));
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        for part in parts {
            out.write_all(part).expect("memory takes it");
        }
        out.finish().expect("memory takes it")
    }

    fn open_store(place: &tempfile::TempDir) -> Store {
        let options = store::Options::at(place.path());
        Store::open(options, UNIX_EPOCH).expect("a new store").0
    }

    #[test]
    fn an_index_file_is_as_long_as_a_store_keeps_it_and_no_longer() {
        let place = tempfile::tempdir().expect("a folder");
        let store = open_store(&place);
        let head = br#"{"name":"demo","checked":0,"changed":0}"#;
        let told = |length: usize| {
            let number = |number: usize| u32::try_from(number).expect("small").to_le_bytes();
            let start = [&MAGIC[..], &FORMAT.to_le_bytes(), &number(head.len())].concat();
            let dump = gzip(&[&start, head, &number(length), b"{}"]);
            let error = restore_index(&store, None, &dump[..], &mut |_| ());
            error.expect_err("it is not there").to_string()
        };
        assert!(told(MAX_SNAPSHOT_BYTES).contains("it breaks off"));
        assert!(told(MAX_SNAPSHOT_BYTES + 1).contains("too large"));
    }

    #[test]
    fn a_line_of_what_is_kept_has_an_end() {
        let place = tempfile::tempdir().expect("a folder");
        let store = open_store(&place);
        let most = usize::try_from(MOST_LINE_BYTES).expect("small");
        let dump = gzip(&[KEPT_FIRST.as_bytes(), b"\n", &vec![b' '; most + 1], b"\n"]);
        let error = restore_kept(&store, &dump[..]).expect_err("it is too long");
        assert!(error.to_string().contains("a line breaks off"), "{error}");
    }
}
