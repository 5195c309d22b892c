//! The whole history as one run of pack entries: every object once, oldest generation first. What
//! clients are sent is cut out of it; only serving reads it, git never does.
//!
//! A *position* counts the bytes of that run as they stand in a clone, the pack's head included:
//! the entries of the first generation's pack are not copied, so positions up to its end are
//! offsets in that pack; what came later stands in `wire`. An entry is whole, or an `OFS_DELTA` on
//! an earlier entry of the run, so a clone is the run as it is.
//!
//! ```text
//! REPOSITORY/orlop/            made anew from the packs when it is missing or damaged
//!   generations   head:  "orlop-gl" │ version u32 │ first generation u64 │ SHA-1 of its pack 20 │
//!                        zero 4 │ crc32 of these 44
//!                 then a generation each: commit 20 │ end of its entries u32 │ end of its
//!                        positions u64 │ end of its blocks u32 │ crc32 of its blocks' records u32 │
//!                        generation u64 │ zero 12 │ crc32 of these 60
//!   entries       an object each: id 20 │ position u64 │ entry of its base + 1, or 0 u32 │
//!                        size of the inflated body u32 │ deltas below it u8 │ kind u8 │
//!                        length of its header u8 │ zero 1 │ crc32 of these 40
//!   blocks        64 KiB of the run each, less where a generation ends: end position u64 │
//!                        crc32 of its bytes u32
//!   wire          entries as in a pack, no head, no trailer
//! ```
//! Numbers are little-endian. A generation counts when its record is whole: the other files are
//! synced before it is written. Several generations whose packs were once put together by others
//! end at the same place but the last: they can only be sent together. No byte is read without
//! its checksum.

#![warn(clippy::arithmetic_side_effects)]

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use parking_lot::RwLock;

use super::{
    Error, ObjectId,
    entry::{Kind, PACK_HEADER},
    pack_file::{PackFile, read_exact_at},
};
use crate::util::fs::sync_dir;

const MAGIC: &[u8; 8] = b"orlop-gl";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 48;
const GENERATION_BYTES: usize = 64;
/// Bytes of an entry's record.
const RECORD_BYTES: usize = 44;
/// Bytes of the run under one checksum.
const BLOCK_BYTES: usize = 1 << 16;
/// Bytes of a block's record.
const BLOCK_RECORD_BYTES: usize = 12;
/// The files, the one that makes the others count first.
const NAMES: [&str; 4] = ["generations", "entries", "blocks", "wire"];
/// Records read at once when many are.
const RECORDS_AT_ONCE: u32 = 4096;

/// An object of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// The object.
    pub(super) id: ObjectId,
    /// Where its entry begins.
    pub(super) position: u64,
    /// The entry that it is a delta against; `None`: it is whole.
    pub(super) base: Option<u32>,
    /// The size in its entry's header.
    pub(super) size: u32,
    /// How many deltas lead to it.
    pub(super) depth: u8,
    /// What it is, also when it is a delta.
    pub(super) kind: Kind,
    /// The length of its entry's header.
    pub(super) header: u8,
}

/// The end of a generation in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The number of entries up to here.
    pub(super) entry: u32,
    /// The position behind the last of them.
    pub(super) position: u64,
}

/// A part of the run with its checksum.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Where it ends; it begins where the one before ends.
    end: u64,
    crc32: u32,
}

/// The generations from the first one on. Only grows while anybody serves from it.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// The number of the first.
    pub(super) root: u64,
    ends: Vec<(ObjectId, End)>,
    numbers: HashMap<ObjectId, u64>,
}

impl Generations {
    /// The commit and the end of a generation.
    pub(super) fn get(&self, generation: u64) -> Option<(ObjectId, End)> {
        let index = usize::try_from(generation.checked_sub(self.root)?).ok()?;
        self.ends.get(index).copied()
    }

    /// The generation of a commit.
    pub(super) fn number_of(&self, commit: &ObjectId) -> Option<u64> {
        self.numbers.get(commit).copied()
    }

    /// The newest generation and its commit.
    pub(super) fn last(&self) -> Option<(u64, ObjectId)> {
        let (id, _) = self.ends.last()?;
        Some((self.next().checked_sub(1)?, *id))
    }

    /// The number that the next generation would have.
    fn next(&self) -> u64 {
        self.root.saturating_add(self.ends.len() as u64)
    }

    fn end(&self) -> End {
        self.ends.last().map_or(
            End {
                entry: 0,
                position: PACK_HEADER,
            },
            |(_, end)| *end,
        )
    }

    fn push(&mut self, commit: ObjectId, end: End) {
        self.numbers.insert(commit, self.next());
        self.ends.push((commit, end));
    }

    fn truncate(&mut self, count: usize) {
        for (commit, _) in self.ends.drain(count.min(self.ends.len())..) {
            self.numbers.remove(&commit);
        }
    }
}

/// The files of the run, open; streams hold them.
#[derive(Debug)]
pub(super) struct Files {
    base: Arc<PackFile>,
    dir: PathBuf,
    entries: File,
    wire: File,
    blocks: RwLock<Vec<Block>>,
    damage: OnceLock<String>,
}

/// Reads the run from one place to the next, each block once.
#[derive(Debug)]
pub(super) struct Reader {
    files: Arc<Files>,
    /// The positions of the block at hand.
    block: Range<u64>,
    bytes: Vec<u8>,
}

impl Reader {
    pub(super) fn new(files: Arc<Files>) -> Reader {
        Reader {
            files,
            block: 0..0,
            bytes: Vec::new(),
        }
    }

    /// Bytes of the run from a position on; at least one if `buffer` has room.
    pub(super) fn read(&mut self, position: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        if !self.block.contains(&position) {
            self.block = 0..0;
            self.block = self.files.read_block(position, &mut self.bytes)?;
        }
        let from = usize::try_from(position.saturating_sub(self.block.start)).unwrap_or(usize::MAX);
        Ok(copy(self.bytes.get(from..).unwrap_or_default(), buffer))
    }
}

/// Copies as much as fits.
pub(super) fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..length), to.get_mut(..length)) {
        to.copy_from_slice(from);
    }
    length
}

impl Files {
    /// Tells that what is read here, or the packs, are damaged. The first to tell counts.
    pub(super) fn report(&self, error: &Error) {
        if error.is_damage() {
            // Somebody else was first.
            drop(self.damage.set(error.to_string()));
        }
    }

    /// What was found damaged.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    fn damaged(&self, name: &str, what: impl Into<String>) -> Error {
        Error::damaged(&self.dir.join(name), what)
    }

    /// The positions and the bytes of the block that a position lies in.
    fn read_block(&self, position: u64, bytes: &mut Vec<u8>) -> Result<Range<u64>, Error> {
        let (start, block) = {
            let blocks = self.blocks.read();
            let index = blocks.partition_point(|block| block.end <= position);
            let before = index.checked_sub(1).and_then(|before| blocks.get(before));
            let start = before.map_or(PACK_HEADER, |before| before.end);
            (start, blocks.get(index).copied())
        };
        let block = block.filter(|_| start <= position);
        let block = block.ok_or_else(|| self.damaged("blocks", "a block is missing"))?;
        let length = usize::try_from(block.end.saturating_sub(start)).unwrap_or(usize::MAX);
        bytes.resize(length.min(BLOCK_BYTES), 0);
        let (file, place, path) = match start.checked_sub(self.base.end()) {
            None => (self.base.file(), start, self.base.path().to_owned()),
            Some(beyond) => (&self.wire, beyond, self.dir.join("wire")),
        };
        read_exact_at(file, bytes, place, &path)?;
        if crc32fast::hash(bytes) != block.crc32 {
            return Err(Error::damaged(&path, "its bytes are not those written"));
        }
        Ok(start..block.end)
    }

    /// The records of some entries, given to `visit` in order with their numbers and the positions
    /// where they end. `end` is the end of the last entry.
    pub(super) fn records(
        &self,
        range: Range<u32>,
        end: End,
        visit: &mut dyn FnMut(u32, &Record, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut first = range.start;
        while first < range.end {
            let last = first.saturating_add(RECORDS_AT_ONCE).min(range.end);
            let records = self.read_records(first..last.saturating_add(1).min(end.entry))?;
            let next = records
                .iter()
                .skip(1)
                .map(|record| record.position)
                .chain([end.position]);
            for ((number, record), next) in (first..last).zip(&records).zip(next) {
                visit(number, record, next)?;
            }
            first = last;
        }
        Ok(())
    }

    /// One record.
    pub(super) fn record(&self, number: u32) -> Result<Record, Error> {
        let records = self.read_records(number..number.saturating_add(1))?;
        records
            .first()
            .copied()
            .ok_or_else(|| self.damaged("entries", "a record is missing"))
    }

    /// Some records.
    pub(super) fn read_records(&self, range: Range<u32>) -> Result<Vec<Record>, Error> {
        let mut bytes = vec![0; range.len().saturating_mul(RECORD_BYTES)];
        let place = bytes_of_records(range.start);
        read_exact_at(&self.entries, &mut bytes, place, &self.dir.join("entries"))?;
        let records: Option<Vec<_>> = bytes.chunks_exact(RECORD_BYTES).map(read_record).collect();
        records.ok_or_else(|| self.damaged("entries", "a record is not the one written"))
    }

    /// The error of an object that must be in the run and is not.
    pub(super) fn missing(&self) -> Error {
        self.damaged("entries", "an object is missing")
    }

    /// The entries of objects, looked for from `end` back, so that new ones are found soon. Fewer
    /// than asked for: the others are not in the run up to `end`.
    pub(super) fn locate(
        &self,
        end: End,
        mut wanted: impl FnMut(&ObjectId) -> bool,
        mut count: usize,
    ) -> Result<Vec<(ObjectId, u32)>, Error> {
        let mut found = Vec::with_capacity(count);
        let mut last = end.entry;
        while last > 0 && count > 0 {
            let first = last.saturating_sub(RECORDS_AT_ONCE);
            for (number, record) in (first..).zip(self.read_records(first..last)?) {
                if wanted(&record.id) {
                    found.push((record.id, number));
                    count = count.saturating_sub(1);
                    if count == 0 {
                        break;
                    }
                }
            }
            last = first;
        }
        Ok(found)
    }
}

/// The run, for the one who writes it.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    files: Arc<Files>,
    records: File,
    generations: Arc<RwLock<Generations>>,
}

impl Log {
    /// Starts a run over `base`, the pack of the generation `root`. What was there goes.
    pub(super) fn create(repository: &Path, root: u64, base: Arc<PackFile>) -> Result<Log, Error> {
        let dir = repository.join("orlop");
        fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
        // New files, not the old ones emptied: streams may still read those.
        Log::discard(repository)?;
        let log = Log::open_files(dir, base, root)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&root.to_le_bytes());
        head.extend_from_slice(log.files.base.checksum().as_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        let path = log.dir.join("generations");
        log.records
            .write_all_at(&head, 0)
            .map_err(Error::io("write", &path))?;
        for folder in [&*log.dir, repository] {
            sync_dir(folder).map_err(Error::io("sync", folder))?;
        }
        Ok(log)
    }

    /// Throws away what there is; the next `open` finds none.
    pub(super) fn discard(repository: &Path) -> Result<(), Error> {
        for name in NAMES {
            let path = repository.join("orlop").join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("remove", &path))?,
            }
        }
        Ok(())
    }

    /// Opens the run over one of `packs`; `None`: there is none, or it is damaged. Generations
    /// that do not go on from the sound ones before them are left out.
    pub(super) fn open(repository: &Path, packs: &[Arc<PackFile>]) -> Result<Option<Log>, Error> {
        let dir = repository.join("orlop");
        let path = dir.join("generations");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io("read", &path)(source)),
        };
        let Some((root, checksum)) = read_head(&bytes) else {
            return Ok(None);
        };
        let Some(base) = packs.iter().find(|pack| pack.checksum() == checksum) else {
            return Ok(None);
        };
        let log = Log::open_files(dir, Arc::clone(base), root)?;
        let length = |file: &File, name| {
            let facts = file.metadata();
            facts.map_err(Error::io("look at", &log.dir.join(name)))
        };
        let entries = length(&log.files.entries, "entries")?.len();
        let wire = length(&log.files.wire, "wire")?.len();
        let path = log.dir.join("blocks");
        let blocks = fs::read(&path).map_err(Error::io("read", &path))?;
        let records = bytes.get(HEAD_BYTES..).unwrap_or_default();
        for bytes in records.chunks_exact(GENERATION_BYTES) {
            let mut generations = log.generations.write();
            let mut known = log.files.blocks.write();
            let Some((commit, end, upto, sum)) = read_generation(bytes, generations.next()) else {
                break;
            };
            let before = generations.end();
            let more = read_blocks(&blocks, known.len()..upto as usize, sum);
            let at_end = |blocks: &[Block]| {
                let last = blocks.last().or(known.last());
                last.map_or(PACK_HEADER, |last| last.end) == end.position
            };
            let Some(more) = more.filter(|more| at_end(more)) else {
                break;
            };
            let fits = end.entry >= before.entry
                && end.position >= before.position
                && bytes_of_records(end.entry) <= entries
                && end.position.saturating_sub(log.files.base.end()) <= wire;
            if !fits {
                break;
            }
            known.extend(more);
            generations.push(commit, end);
        }
        let next = log.generations.read().next();
        log.truncate(next)?;
        Ok(Some(log))
    }

    fn open_files(dir: PathBuf, base: Arc<PackFile>, root: u64) -> Result<Log, Error> {
        let open = |name: &str| {
            let path = dir.join(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).map_err(Error::io("open", &path))
        };
        let files = Files {
            base,
            entries: open("entries")?,
            wire: open("wire")?,
            dir: dir.clone(),
            blocks: RwLock::default(),
            damage: OnceLock::new(),
        };
        open("blocks")?;
        let records = open("generations")?;
        let generations = Generations {
            root,
            ..Generations::default()
        };
        Ok(Log {
            dir,
            files: Arc::new(files),
            records,
            generations: Arc::new(RwLock::new(generations)),
        })
    }

    /// The files, for a stream to hold.
    pub(super) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// The generations, shared with who serves.
    pub(super) fn generations(&self) -> &Arc<RwLock<Generations>> {
        &self.generations
    }

    /// The end of the newest generation.
    pub(super) fn end(&self) -> End {
        self.generations.read().end()
    }

    /// Drops the generations from `first` on; nobody may serve them.
    pub(super) fn truncate(&self, first: u64) -> Result<(), Error> {
        let mut generations = self.generations.write();
        let count = usize::try_from(first.saturating_sub(generations.root)).unwrap_or(usize::MAX);
        generations.truncate(count);
        let end = generations.end();
        let mut blocks = self.files.blocks.write();
        let kept = blocks.partition_point(|block| block.end <= end.position);
        blocks.truncate(kept);
        let sizes = [
            (
                &self.records,
                "generations",
                bytes_of_generations(generations.ends.len()),
            ),
            (&self.files.entries, "entries", bytes_of_records(end.entry)),
            (
                &self.files.wire,
                "wire",
                end.position.saturating_sub(self.files.base.end()),
            ),
        ];
        for (file, name, size) in sizes {
            file.set_len(size)
                .map_err(Error::io("cut", &self.dir.join(name)))?;
        }
        Ok(())
    }

    /// Begins to write generations.
    pub(super) fn appender(&self) -> Appender<'_> {
        let end = self.end();
        Appender {
            log: self,
            start: end,
            end,
            entries: BufWriter::new(Part {
                file: &self.files.entries,
                place: bytes_of_records(end.entry),
            }),
            wire: Part {
                file: &self.files.wire,
                place: end.position.saturating_sub(self.files.base.end()),
            },
            block: Vec::new(),
            blocks: Vec::new(),
            blocks_end: end.position,
        }
    }
}

/// Writes the entries of a generation behind the run. Nothing of it counts before `finish`.
#[derive(Debug)]
pub(super) struct Appender<'a> {
    log: &'a Log,
    start: End,
    end: End,
    entries: BufWriter<Part<'a>>,
    wire: Part<'a>,
    /// What the next block has so far.
    block: Vec<u8>,
    blocks: Vec<Block>,
    blocks_end: u64,
}

impl Appender<'_> {
    /// Where the next entry begins.
    pub(super) fn position(&self) -> u64 {
        self.end.position
    }

    /// Takes in an entry that stands in the base pack already, up to `end`.
    pub(super) fn note(&mut self, record: &Record, end: u64) -> Result<(), Error> {
        self.put(record, end)
    }

    /// Takes in what stands in the base pack already, in order: its checksums are noted.
    pub(super) fn note_bytes(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(BLOCK_BYTES) {
            self.note_block(block);
        }
    }

    fn note_block(&mut self, bytes: &[u8]) {
        self.blocks_end = self.blocks_end.saturating_add(bytes.len() as u64);
        self.blocks.push(Block {
            end: self.blocks_end,
            crc32: crc32fast::hash(bytes),
        });
    }

    /// Writes bytes of the run, a whole block at a time.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES.saturating_sub(self.block.len());
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(part);
            bytes = rest;
            if self.block.len() >= BLOCK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            self.wire
                .write_all(&block)
                .map_err(|source| self.log.write_error("wire", source))?;
            self.note_block(&block);
        }
        Ok(())
    }

    /// Writes an entry: its record (position and header length are set here) and its bytes, header and body.
    pub(super) fn entry(
        &mut self,
        mut record: Record,
        header: &[u8],
        body: &[u8],
    ) -> Result<u32, Error> {
        record.position = self.end.position;
        record.header = u8::try_from(header.len()).unwrap_or(u8::MAX);
        for part in [header, body] {
            self.write(part)?;
        }
        let number = self.end.entry;
        self.put(
            &record,
            record
                .position
                .saturating_add(header.len() as u64)
                .saturating_add(body.len() as u64),
        )?;
        Ok(number)
    }

    fn put(&mut self, record: &Record, end: u64) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        write_record(record, &mut bytes);
        self.entries
            .write_all(&bytes)
            .map_err(|source| self.log.write_error("entries", source))?;
        let entry = self
            .end
            .entry
            .checked_add(1)
            .filter(|entry| *entry < u32::MAX);
        let full = || {
            let what = "it has as many entries as a pack can";
            self.log.files.damaged("entries", what)
        };
        self.end = End {
            entry: entry.ok_or_else(full)?,
            position: end,
        };
        Ok(())
    }

    /// Makes what was written the generation of the last of `commits`, durably; those before it
    /// (generations that can only be sent together with it) end where it begins.
    pub(super) fn finish(mut self, commits: &[ObjectId]) -> Result<(), Error> {
        self.flush()?;
        let log = self.log;
        self.entries
            .flush()
            .map_err(|source| log.write_error("entries", source))?;
        let mut records = Vec::new();
        self.blocks
            .iter()
            .for_each(|block| write_block(block, &mut records));
        // Nobody else writes; and who serves reads on while the disk writes.
        let before = log.files.blocks.read().len();
        let after = before.saturating_add(self.blocks.len());
        let file = log.dir.join("blocks");
        let sum = crc32fast::hash(&records);
        OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|file| {
                file.write_all_at(&records, bytes_of_blocks(before))?;
                file.sync_data()
            })
            .map_err(Error::io("write", &file))?;
        for (file, name) in [(&log.files.entries, "entries"), (&log.files.wire, "wire")] {
            file.sync_data()
                .map_err(Error::io("sync", &log.dir.join(name)))?;
        }
        let mut bytes = Vec::new();
        let (count, next) = {
            let generations = log.generations.read();
            (generations.ends.len(), generations.next())
        };
        let mut ends: Vec<_> = commits.iter().map(|commit| (*commit, self.start)).collect();
        if let Some((_, end)) = ends.last_mut() {
            *end = self.end;
        }
        for (place, (number, (commit, end))) in (next..).zip(&ends).enumerate() {
            let is_last = place.saturating_add(1) == ends.len();
            let blocks = if is_last { (after, sum) } else { (before, 0) };
            write_generation(commit, *end, blocks, number, &mut bytes);
        }
        log.records
            .write_all_at(&bytes, bytes_of_generations(count))
            .and_then(|()| log.records.sync_data())
            .map_err(|source| log.write_error("generations", source))?;
        log.files.blocks.write().append(&mut self.blocks);
        let mut generations = log.generations.write();
        for (commit, end) in ends {
            generations.push(commit, end);
        }
        Ok(())
    }
}

impl Log {
    fn write_error(&self, name: &str, source: io::Error) -> Error {
        Error::io("write", &self.dir.join(name))(source)
    }
}

/// A file written from a place on.
#[derive(Debug)]
struct Part<'a> {
    file: &'a File,
    place: u64,
}

impl Write for Part<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.place)?;
        self.place = self.place.saturating_add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bytes_of_records(count: u32) -> u64 {
    u64::from(count).saturating_mul(RECORD_BYTES as u64)
}

fn bytes_of_generations(count: usize) -> u64 {
    (count as u64)
        .saturating_mul(GENERATION_BYTES as u64)
        .saturating_add(HEAD_BYTES as u64)
}

fn bytes_of_blocks(count: usize) -> u64 {
    (count as u64).saturating_mul(BLOCK_RECORD_BYTES as u64)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (part, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*part)
}

/// What follows is the checksum of all of `bytes` before it.
fn has_sum(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(bytes, sum)| crc32fast::hash(bytes).to_le_bytes() == *sum)
}

fn push_sum(out: &mut Vec<u8>, start: usize) {
    let sum = crc32fast::hash(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&sum.to_le_bytes());
}

fn read_blocks(bytes: &[u8], range: Range<usize>, sum: u32) -> Option<Vec<Block>> {
    let place = |count| usize::try_from(bytes_of_blocks(count)).ok();
    let bytes = bytes.get(place(range.start)?..place(range.end)?)?;
    let blocks = bytes.chunks_exact(BLOCK_RECORD_BYTES).map(|bytes| {
        let at = &mut &*bytes;
        Some(Block {
            end: u64::from_le_bytes(take(at)?),
            crc32: u32::from_le_bytes(take(at)?),
        })
    });
    let blocks = blocks.collect();
    if crc32fast::hash(bytes) == sum {
        blocks
    } else {
        None
    }
}

fn write_block(block: &Block, out: &mut Vec<u8>) {
    out.extend_from_slice(&block.end.to_le_bytes());
    out.extend_from_slice(&block.crc32.to_le_bytes());
}

fn read_record(bytes: &[u8]) -> Option<Record> {
    let at = &mut bytes.get(..bytes.len().checked_sub(4)?)?;
    if !has_sum(bytes) {
        return None;
    }
    Some(Record {
        id: ObjectId::from(take::<20>(at)?),
        position: u64::from_le_bytes(take(at)?),
        base: u32::from_le_bytes(take(at)?).checked_sub(1),
        size: u32::from_le_bytes(take(at)?),
        depth: u8::from_le_bytes(take(at)?),
        kind: Kind::of_code(u8::from_le_bytes(take(at)?))?,
        header: u8::from_le_bytes(take(at)?),
    })
}

fn write_record(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(record.id.as_bytes());
    out.extend_from_slice(&record.position.to_le_bytes());
    out.extend_from_slice(
        &record
            .base
            .map_or(0, |base| base.saturating_add(1))
            .to_le_bytes(),
    );
    out.extend_from_slice(&record.size.to_le_bytes());
    out.extend_from_slice(&[record.depth, record.kind.code(), record.header, 0]);
    push_sum(out, start);
}

fn read_head(bytes: &[u8]) -> Option<(u64, ObjectId)> {
    let bytes = bytes.get(..HEAD_BYTES)?;
    let at = &mut &*bytes;
    let known = take(at)? == *MAGIC && u32::from_le_bytes(take(at)?) == VERSION;
    let root = u64::from_le_bytes(take(at)?);
    let checksum = ObjectId::from(take::<20>(at)?);
    (known && has_sum(bytes)).then_some((root, checksum))
}

/// A generation's commit and end, the number of blocks up to there and the sum of its own.
fn read_generation(bytes: &[u8], number: u64) -> Option<(ObjectId, End, u32, u32)> {
    let at = &mut &*bytes;
    let commit = ObjectId::from(take::<20>(at)?);
    let entry = u32::from_le_bytes(take(at)?);
    let position = u64::from_le_bytes(take(at)?);
    let blocks = u32::from_le_bytes(take(at)?);
    let sum = u32::from_le_bytes(take(at)?);
    let right = u64::from_le_bytes(take(at)?) == number;
    (right && has_sum(bytes)).then_some((commit, End { entry, position }, blocks, sum))
}

fn write_generation(
    commit: &ObjectId,
    end: End,
    (blocks, sum): (usize, u32),
    number: u64,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(commit.as_bytes());
    out.extend_from_slice(&end.entry.to_le_bytes());
    out.extend_from_slice(&end.position.to_le_bytes());
    // A block has 64 KiB or ends a generation: there are fewer than this.
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    out.extend_from_slice(&blocks.to_le_bytes());
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    push_sum(out, start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_a_bit_flipped_is_none() {
        let record = Record {
            id: ObjectId::from([7; 20]),
            position: 1 << 33,
            base: Some(4),
            size: 300,
            depth: 3,
            kind: Kind::Blob,
            header: 4,
        };
        let mut bytes = Vec::new();
        write_record(&record, &mut bytes);
        assert_eq!(read_record(&bytes), Some(record));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_record(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
