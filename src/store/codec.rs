//! The record of one crate, byte for byte, and the zstd frames in it.
//!
//! All numbers are little-endian. A record is the value under the crate's lower-case name:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 1 | flags: 1 upstream no longer knows the name, 2 there is a snapshot |
//! | 2 | 1 | dictionary of the snapshot's frame, 0: none (see [`Dictionaries`]) |
//! | 3 | 1 | `s`: length of the spelling, 1 to 64 |
//! | 4 | 8 | checked: when upstream last confirmed the entry, milliseconds since 1970 |
//! | 12 | 8 | changed: when the entry last became another |
//! | 20 | 16 | digest: the first half of the sha256 of the snapshot's bytes, as they came |
//! | 36 | 4 | length of the snapshot's bytes, as they came |
//! | 40 | 4 | `f`: length of the frame |
//! | 44 | 2 | `e`: length of upstream's `ETag`, 65535: there is none |
//! | 46 | 2 | `l`: length of upstream's `Last-Modified`, 65535: there is none |
//! | 48 | 4 | `n`: number of rows |
//! | 52 | 4 | `t`: length of the version texts |
//! | 56 | 4 | crc32 of the bytes 0 to 55 and 60 to the start of the frame |
//! | 60 | s | the name in the index's spelling |
//! | | e | `ETag` |
//! | | l | `Last-Modified` |
//! | | 40 n | rows, see below |
//! | | t | the versions as text, where the rows point |
//! | | f | the frame: the index file, exactly as it came, compressed, with zstd's own checksum |
//!
//! A row is one checksum that a version had. Rows are sorted by the bytes of the version's text, so
//! that one release is found by halving; of several rows of a version the one in force is first.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | where the version's text starts among the texts |
//! | 4 | 1 | length of the version's text |
//! | 5 | 1 | flags: 1 yanked, 2 its crate file is held, 4 superseded by another checksum, 8 no longer in the index |
//! | 6 | 1 | codec of the value file that is held, 0: raw |
//! | 7 | 1 | 0 |
//! | 8 | 32 | sha256 of the crate file |
//!
//! The crc covers what is read on every request; the frame's checksum covers the rest and is
//! checked when the frame is opened. What fails either counts as absent and is fetched again.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fmt::Write as _,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use semver::Version;
use zstd::{
    bulk::{Compressor, Decompressor},
    dict::{DecoderDictionary, EncoderDictionary},
    zstd_safe::CParameter,
};

use super::{
    fields::{Damaged, Reader, from_millis, to_millis},
    state::Counts,
};
use crate::registry::{
    Checksum, CrateName,
    release::{MAX_VERSION_BYTES, parse_version},
};

/// The record format that this build writes.
pub(super) const RECORD_FORMAT: u8 = 1;

/// The largest index file that is kept. The largest on crates.io has 10 MB; a length read from disk
/// decides how much memory is taken, so it needs an end.
pub const MAX_SNAPSHOT_BYTES: usize = 256 << 20;

/// The longest validator that is kept; a longer one is as good as none.
const MAX_VALIDATOR_BYTES: usize = 1024;

/// On 306 index files of real crates (27.1 MB): level 3 makes 1.13 MB at 570 MB/s, level 6 1.05 MB at
/// 330 MB/s, level 9 1.03 MB at 180 MB/s. Reading is as fast after each.
const LEVEL: i32 = 6;

const HEAD_BYTES: usize = 60;
const CRC_AT: usize = 56;
const ROW_BYTES: usize = 40;
const NO_VALIDATOR: u16 = u16::MAX;

const GONE: u8 = 1;
const HAS_SNAPSHOT: u8 = 2;

/// New resolutions must leave the version alone.
pub(super) const YANKED: u8 = 1;
/// Its crate file is held.
pub(super) const HELD: u8 = 2;
/// The version has another checksum now.
pub(super) const SUPERSEDED: u8 = 4;
/// The version is no longer in the index.
pub(super) const REMOVED: u8 = 8;

/// A record taken apart, to be changed and written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: CrateName,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) checked: SystemTime,
    pub(super) changed: SystemTime,
    pub(super) digest: [u8; 16],
    pub(super) raw_len: u32,
    pub(super) gone: bool,
    /// In the order of the layout; [`Record::encode`] sorts by text and keeps that order within one.
    pub(super) rows: Vec<RowRecord>,
    pub(super) snapshot: Option<Frame>,
}

/// One row of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowRecord {
    pub(super) version: String,
    pub(super) checksum: Checksum,
    pub(super) flags: u8,
    pub(super) codec: u8,
}

impl RowRecord {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

/// A compressed index file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) dictionary: u8,
    pub(super) bytes: Vec<u8>,
}

impl Record {
    /// A record of a name that nothing is known of.
    pub(super) fn new(name: CrateName) -> Record {
        Record {
            name,
            etag: None,
            last_modified: None,
            checked: UNIX_EPOCH,
            changed: UNIX_EPOCH,
            digest: [0; 16],
            raw_len: 0,
            gone: false,
            rows: Vec::new(),
            snapshot: None,
        }
    }

    /// The bytes of the record. Sorts the rows. `None`: something is longer than the layout holds.
    pub(super) fn encode(&mut self) -> Option<Vec<u8>> {
        self.rows
            .sort_by(|a, b| a.version.as_bytes().cmp(b.version.as_bytes()));
        let (rows, texts) = self.encode_rows()?;
        let etag = short(self.etag.as_deref());
        let last_modified = short(self.last_modified.as_deref());
        let (dictionary, frame) = match &self.snapshot {
            Some(frame) => (frame.dictionary, frame.bytes.as_slice()),
            None => (0, &[][..]),
        };
        let mut out = Vec::with_capacity(
            HEAD_BYTES
                .saturating_add(rows.len())
                .saturating_add(texts.len())
                .saturating_add(frame.len())
                .saturating_add(128),
        );
        out.push(RECORD_FORMAT);
        out.push(
            if self.gone { GONE } else { 0 }
                | if self.snapshot.is_some() {
                    HAS_SNAPSHOT
                } else {
                    0
                },
        );
        out.push(dictionary);
        out.push(u8::try_from(self.name.as_str().len()).ok()?);
        out.extend_from_slice(&to_millis(self.checked).to_le_bytes());
        out.extend_from_slice(&to_millis(self.changed).to_le_bytes());
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&u32::try_from(frame.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&length_of(etag).to_le_bytes());
        out.extend_from_slice(&length_of(last_modified).to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.rows.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&u32::try_from(texts.len()).ok()?.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out);
        let variable = [
            self.name.as_str().as_bytes(),
            etag.unwrap_or_default().as_bytes(),
            last_modified.unwrap_or_default().as_bytes(),
            &rows,
            &texts,
        ];
        for part in variable {
            crc.update(part);
        }
        out.extend_from_slice(&crc.finalize().to_le_bytes());
        for part in variable {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(frame);
        Some(out)
    }

    fn encode_rows(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::with_capacity(self.rows.len().saturating_mul(ROW_BYTES));
        let mut texts: Vec<u8> = Vec::new();
        let mut last: Option<(&str, u32)> = None;
        for row in &self.rows {
            let start = match last {
                Some((text, start)) if text == row.version => start,
                _ => {
                    let start = u32::try_from(texts.len()).ok()?;
                    texts.extend_from_slice(row.version.as_bytes());
                    start
                }
            };
            last = Some((&row.version, start));
            rows.extend_from_slice(&start.to_le_bytes());
            rows.push(u8::try_from(row.version.len()).ok()?);
            rows.extend_from_slice(&[row.flags, row.codec, 0]);
            rows.extend_from_slice(row.checksum.as_bytes());
        }
        Some((rows, texts))
    }
}

fn short(validator: Option<&str>) -> Option<&str> {
    validator.filter(|text| text.len() <= MAX_VALIDATOR_BYTES)
}

fn length_of(validator: Option<&str>) -> u16 {
    validator
        .and_then(|text| u16::try_from(text.len()).ok())
        .unwrap_or(NO_VALIDATOR)
}

/// A record read in place: nothing is copied until it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    flags: u8,
    dictionary: u8,
    pub(super) spelling: &'a str,
    pub(super) checked: SystemTime,
    pub(super) changed: SystemTime,
    pub(super) digest: [u8; 16],
    pub(super) raw_len: u32,
    pub(super) etag: Option<&'a str>,
    pub(super) last_modified: Option<&'a str>,
    rows: &'a [[u8; ROW_BYTES]],
    texts: &'a [u8],
    frame: &'a [u8],
}

impl<'a> View<'a> {
    /// Checks the layout and the crc.
    ///
    /// # Errors
    /// [`Damaged`] if any byte before the frame is not what was written.
    pub(super) fn read(bytes: &'a [u8]) -> Result<View<'a>, Damaged> {
        let mut head = Reader(bytes);
        let [format, flags, dictionary, spelling_len] = head.array()?;
        if format != RECORD_FORMAT {
            return Err(Damaged);
        }
        let checked = from_millis(u64::from_le_bytes(head.array()?));
        let changed = from_millis(u64::from_le_bytes(head.array()?));
        let digest = head.array()?;
        let raw_len = u32::from_le_bytes(head.array()?);
        let frame_len = head.length()?;
        let etag_len = u16::from_le_bytes(head.array()?);
        let last_modified_len = u16::from_le_bytes(head.array()?);
        let row_count = head.length()?;
        let texts_len = head.length()?;
        let crc = u32::from_le_bytes(head.array()?);
        check_crc(bytes, frame_len, crc)?;
        let spelling = head.text(usize::from(spelling_len))?;
        let etag = validator(&mut head, etag_len)?;
        let last_modified = validator(&mut head, last_modified_len)?;
        let (rows, _none) = head
            .take(row_count.checked_mul(ROW_BYTES).ok_or(Damaged)?)?
            .as_chunks();
        let texts = head.take(texts_len)?;
        let frame = head.take(frame_len)?;
        if !head.0.is_empty() {
            return Err(Damaged);
        }
        Ok(View {
            flags,
            dictionary,
            spelling,
            checked,
            changed,
            digest,
            raw_len,
            etag,
            last_modified,
            rows,
            texts,
            frame,
        })
    }

    pub(super) fn gone(&self) -> bool {
        self.flags & GONE != 0
    }

    pub(super) fn has_snapshot(&self) -> bool {
        self.flags & HAS_SNAPSHOT != 0
    }

    /// The name in the index's spelling.
    pub(super) fn name(&self) -> Result<CrateName, Damaged> {
        CrateName::parse(self.spelling).map_err(|_invalid| Damaged)
    }

    /// All rows, sorted by the version's text.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let texts = self.texts;
        self.rows.iter().map(move |row| Row::read(row, texts))
    }

    /// The rows of one version, the one in force first.
    pub(super) fn rows_of(&self, version: &str) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let texts = self.texts;
        let start = self
            .rows
            .partition_point(|row| Row::read(row, texts).version.as_bytes() < version.as_bytes());
        let wanted = VersionText::copied(version);
        self.rows
            .get(start..)
            .unwrap_or_default()
            .iter()
            .map(move |row| Row::read(row, texts))
            .take_while(move |row| row.version == wanted.as_str())
    }

    /// The highest version that is neither yanked nor removed, pre-releases last.
    pub(super) fn max_version(&self) -> Option<Version> {
        self.rows()
            .filter(|row| row.flags & (YANKED | SUPERSEDED | REMOVED) == 0)
            .filter_map(|row| parse_version(row.version).ok())
            .max_by(|a, b| {
                (a.pre.is_empty(), a)
                    .partial_cmp(&(b.pre.is_empty(), b))
                    .unwrap_or(std::cmp::Ordering::Equal)
            })
    }

    /// The record in numbers.
    pub(super) fn counts(&self) -> Counts {
        let has = |row: &[u8; ROW_BYTES], flag| {
            let [_, _, _, _, _, flags, ..] = row;
            flags & flag != 0
        };
        let known = self.rows.iter().filter(|row| !has(row, SUPERSEDED));
        let held = known.clone().filter(|row| has(row, HELD));
        let (raw, stored) = if self.has_snapshot() {
            (u64::from(self.raw_len), self.frame.len() as u64)
        } else {
            (0, 0)
        };
        Counts {
            versions: known.count() as u64,
            held: held.count() as u64,
            index_raw_bytes: raw,
            index_stored_bytes: stored,
        }
    }

    /// The compressed index file, as it is.
    pub(super) fn frame(&self) -> Frame {
        Frame {
            dictionary: self.dictionary,
            bytes: self.frame.to_vec(),
        }
    }

    /// The index file, exactly as it came.
    ///
    /// # Errors
    /// [`Damaged`] if the frame is not what was written, or needs a dictionary that is not here.
    pub(super) fn decompress(&self) -> Result<Vec<u8>, Damaged> {
        let length = usize::try_from(self.raw_len).map_err(|_large| Damaged)?;
        if !self.has_snapshot() || length > MAX_SNAPSHOT_BYTES {
            return Err(Damaged);
        }
        let bytes = DICTIONARIES.decompress(self.dictionary, self.frame, length)?;
        if bytes.len() == length {
            Ok(bytes)
        } else {
            Err(Damaged)
        }
    }

    /// A copy of everything, to be changed.
    pub(super) fn to_record(self) -> Result<Record, Damaged> {
        Ok(Record {
            name: self.name()?,
            etag: self.etag.map(str::to_owned),
            last_modified: self.last_modified.map(str::to_owned),
            checked: self.checked,
            changed: self.changed,
            digest: self.digest,
            raw_len: self.raw_len,
            gone: self.gone(),
            rows: self
                .rows()
                .map(|row| RowRecord {
                    version: row.version.to_owned(),
                    checksum: row.checksum,
                    flags: row.flags,
                    codec: row.codec,
                })
                .collect(),
            snapshot: self.has_snapshot().then(|| Frame {
                dictionary: self.dictionary,
                bytes: self.frame.to_vec(),
            }),
        })
    }
}

fn validator<'a>(head: &mut Reader<'a>, length: u16) -> Result<Option<&'a str>, Damaged> {
    match length {
        NO_VALIDATOR => Ok(None),
        length => head.text(usize::from(length)).map(Some),
    }
}

fn check_crc(bytes: &[u8], frame_len: usize, expected: u32) -> Result<(), Damaged> {
    let frame_at = bytes.len().checked_sub(frame_len).ok_or(Damaged)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(..CRC_AT).ok_or(Damaged)?);
    crc.update(bytes.get(HEAD_BYTES..frame_at).ok_or(Damaged)?);
    if crc.finalize() == expected {
        Ok(())
    } else {
        Err(Damaged)
    }
}

/// One row read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub(super) version: &'a str,
    pub(super) checksum: Checksum,
    pub(super) flags: u8,
    pub(super) codec: u8,
}

impl<'a> Row<'a> {
    fn read(row: &[u8; ROW_BYTES], texts: &'a [u8]) -> Row<'a> {
        let [a, b, c, d, length, flags, codec, _zero, sum @ ..] = row;
        let start = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        // The crc was right, so the text is there; were it not, the row would match no version.
        let version = texts
            .get(start..start.saturating_add(usize::from(*length)))
            .and_then(|text| str::from_utf8(text).ok())
            .unwrap_or_default();
        Row {
            version,
            checksum: Checksum::from_bytes(*sum),
            flags: *flags,
            codec: *codec,
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A version as text, on the stack: a lookup must not allocate.
#[derive(Debug, Clone, Copy)]
pub(super) struct VersionText {
    bytes: [u8; MAX_VERSION_BYTES],
    length: usize,
}

impl VersionText {
    fn empty() -> VersionText {
        VersionText {
            bytes: [0; MAX_VERSION_BYTES],
            length: 0,
        }
    }

    /// The text of `version`. A version too long for the layout becomes a text that no row has.
    pub(super) fn of(version: &Version) -> VersionText {
        let mut text = VersionText::empty();
        match write!(text, "{version}") {
            Ok(()) => text,
            Err(std::fmt::Error) => VersionText::empty(),
        }
    }

    fn copied(version: &str) -> VersionText {
        let mut text = VersionText::empty();
        match text.write_str(version) {
            Ok(()) => text,
            Err(std::fmt::Error) => VersionText::empty(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        self.bytes
            .get(..self.length)
            .and_then(|text| str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}

impl std::fmt::Write for VersionText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length.saturating_add(text.len());
        let free = self
            .bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?;
        free.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Compresses an index file as records hold it.
///
/// # Errors
/// Only for want of memory.
pub(super) fn compress(bytes: &[u8]) -> std::io::Result<Frame> {
    DICTIONARIES.compress(bytes)
}

/// The trained dictionaries by their id in the record. An id, once used, means the same bytes for
/// ever; the last one is used for new frames. Id 0 is no dictionary.
///
/// Dictionary 1 (32 KiB) was trained with `zstd --train` on the first, last and some other lines of
/// 400 index files of the crates that a large workspace of 2026 depends on. Entries of up to three
/// lines, which most crates have, take 0.65 of their size without it, whole large files 0.97.
const DICTIONARY_BYTES: &[(u8, &[u8])] = &[(1, include_bytes!("dictionary-1.zdict"))];

static DICTIONARIES: LazyLock<Dictionaries> = LazyLock::new(|| Dictionaries::new(DICTIONARY_BYTES));

/// As many contexts are kept as are in use at a time on a busy machine; each takes some 150 KB.
const MAX_IDLE_CONTEXTS: usize = 4;

/// The dictionaries, made ready once, and contexts that are used again.
pub(super) struct Dictionaries {
    by_id: Vec<Prepared>,
    idle: Mutex<Vec<(u8, Decompressor<'static>)>>,
}

struct Prepared {
    id: u8,
    encoder: EncoderDictionary<'static>,
    decoder: &'static DecoderDictionary<'static>,
}

impl Dictionaries {
    fn new(bytes: &[(u8, &[u8])]) -> Dictionaries {
        Dictionaries {
            by_id: bytes
                .iter()
                .map(|(id, dictionary)| Prepared {
                    id: *id,
                    encoder: EncoderDictionary::copy(dictionary, LEVEL),
                    decoder: Box::leak(Box::new(DecoderDictionary::copy(dictionary))),
                })
                .collect(),
            idle: Mutex::new(Vec::new()),
        }
    }

    fn compress(&self, bytes: &[u8]) -> std::io::Result<Frame> {
        let (dictionary, mut compressor) = match self.by_id.last() {
            Some(prepared) => (
                prepared.id,
                Compressor::with_prepared_dictionary(&prepared.encoder)?,
            ),
            None => (0, Compressor::new(LEVEL)?),
        };
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Frame {
            dictionary,
            bytes: compressor.compress(bytes)?,
        })
    }

    fn decompress(&self, id: u8, frame: &[u8], length: usize) -> Result<Vec<u8>, Damaged> {
        let mut context = self.context(id)?;
        let bytes = context
            .decompress(frame, length)
            .map_err(|_broken| Damaged)?;
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE_CONTEXTS {
            idle.push((id, context));
        }
        Ok(bytes)
    }

    fn context(&self, id: u8) -> Result<Decompressor<'static>, Damaged> {
        let mut idle = self.idle.lock();
        if let Some(found) = idle.iter().position(|(of, _context)| *of == id) {
            return Ok(idle.swap_remove(found).1);
        }
        drop(idle);
        let made = if id == 0 {
            Decompressor::new()
        } else {
            let prepared = self.by_id.iter().find(|prepared| prepared.id == id);
            Decompressor::with_prepared_dictionary(prepared.ok_or(Damaged)?.decoder)
        };
        made.map_err(|_memory| Damaged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::fields::digest_of, *};

    fn record(rows: Vec<RowRecord>, snapshot: Option<&[u8]>) -> Record {
        Record {
            name: CrateName::parse("Demo").expect("a good name"),
            etag: Some("\"e\"".to_owned()),
            last_modified: None,
            checked: from_millis(0x0102_0304),
            changed: from_millis(0x0506),
            digest: digest_of(snapshot.unwrap_or_default()),
            raw_len: u32::try_from(snapshot.unwrap_or_default().len()).expect("short"),
            gone: false,
            rows,
            snapshot: snapshot.map(|bytes| compress(bytes).expect("memory")),
        }
    }

    fn row(version: &str, seed: u8, flags: u8) -> RowRecord {
        RowRecord {
            version: version.to_owned(),
            checksum: Checksum::from_bytes([seed; 32]),
            flags,
            codec: 0,
        }
    }

    #[test]
    fn the_bytes_of_a_record_are_as_drawn() {
        let mut record = record(
            vec![row("1.0.0", 0xbb, YANKED | HELD), row("0.9.0", 0xaa, 0)],
            None,
        );
        record.snapshot = Some(Frame {
            dictionary: 7,
            bytes: b"frame".to_vec(),
        });
        let bytes = record.encode().expect("fits");
        let crc = {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[..56]);
            crc.update(bytes[60..].strip_suffix(b"frame").expect("the end"));
            crc.finalize().to_le_bytes()
        };
        let mut drawn = vec![1, 2, 7, 4];
        drawn.extend([4, 3, 2, 1, 0, 0, 0, 0]);
        drawn.extend([6, 5, 0, 0, 0, 0, 0, 0]);
        // The sha256 of nothing starts so.
        drawn.extend([0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14]);
        drawn.extend([0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24]);
        drawn.extend([
            0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0xff, 0xff, 2, 0, 0, 0, 10, 0, 0, 0,
        ]);
        drawn.extend(crc);
        drawn.extend(b"Demo\"e\"");
        drawn.extend([0, 0, 0, 0, 5, 0, 0, 0]);
        drawn.extend([0xaa; 32]);
        drawn.extend([5, 0, 0, 0, 5, 3, 0, 0]);
        drawn.extend([0xbb; 32]);
        drawn.extend(b"0.9.01.0.0frame");
        assert_eq!(bytes, drawn);
        // The number itself, so that a change of what is covered does not pass unseen.
        assert_eq!(crc, PINNED_CRC.to_le_bytes());
    }

    const PINNED_CRC: u32 = 0x7015_1bcf;

    #[test]
    fn the_row_in_force_is_first() {
        let rows = vec![
            row("1.0.0", 1, 0),
            row("1.0.0", 2, SUPERSEDED),
            row("0.1.0", 3, 0),
            row("1.0.0+a", 4, 0),
        ];
        let bytes = record(rows, None).encode().expect("fits");
        let view = View::read(&bytes).expect("good");
        let of = |version| -> Vec<u8> {
            view.rows_of(version)
                .map(|row| row.checksum.as_bytes()[0])
                .collect()
        };
        assert_eq!(of("1.0.0"), [1, 2]);
        assert_eq!(of("0.1.0"), [3]);
        assert_eq!(of("1.0.0+a"), [4]);
        assert!(of("1.0").is_empty());
        assert!(of("").is_empty());
    }

    #[test]
    fn the_highest_version_is_no_prerelease_if_there_is_another() {
        let highest = |rows| {
            let bytes = record(rows, None).encode().expect("fits");
            View::read(&bytes)
                .expect("good")
                .max_version()
                .map(|version| version.to_string())
        };
        assert_eq!(highest(vec![]), None);
        assert_eq!(highest(vec![row("1.0.0", 1, YANKED)]), None);
        assert_eq!(highest(vec![row("1.0.0-a", 1, 0)]), Some("1.0.0-a".into()));
        let rows = vec![
            row("1.9.0", 1, 0),
            row("1.10.0", 1, 0),
            row("2.0.0-a", 1, 0),
            row("3.0.0", 1, REMOVED),
        ];
        assert_eq!(highest(rows), Some("1.10.0".into()));
    }

    #[test]
    fn a_dictionary_is_found_by_its_id_for_ever() {
        let line = |patch: usize| {
            format!("{{\"name\":\"demo\",\"vers\":\"1.0.{patch}\",\"deps\":[],\"yanked\":false}}")
        };
        let dictionary: Vec<u8> = (0..200)
            .flat_map(|patch| line(patch).into_bytes())
            .collect();
        let old = Dictionaries::new(&[(1, &dictionary)]);
        let new = Dictionaries::new(&[(1, &dictionary), (2, b"another dictionary, trained later")]);
        let none = Dictionaries::new(&[]);
        let bytes = line(7).into_bytes();
        let by = |dictionaries: &Dictionaries| dictionaries.compress(&bytes).expect("memory");
        assert_eq!(
            (
                by(&none).dictionary,
                by(&old).dictionary,
                by(&new).dictionary
            ),
            (0, 1, 2)
        );
        assert!(by(&old).bytes.len() < by(&none).bytes.len());
        for frame in [by(&none), by(&old), by(&new), by(&old)] {
            let opened = new.decompress(frame.dictionary, &frame.bytes, bytes.len());
            assert_eq!(opened.as_ref(), Ok(&bytes));
        }
        let frame = by(&old);
        assert_eq!(none.decompress(1, &frame.bytes, bytes.len()), Err(Damaged));
        assert_eq!(old.decompress(0, &frame.bytes, bytes.len()), Err(Damaged));
    }

    fn any_row() -> impl Strategy<Value = RowRecord> {
        (
            "[0-9]\\.[0-9]\\.[0-9](-[a-z]{1,4})?",
            any::<[u8; 32]>(),
            0..16_u8,
        )
            .prop_map(|(version, sum, flags)| RowRecord {
                version,
                checksum: Checksum::from_bytes(sum),
                flags,
                codec: 0,
            })
    }

    prop_compose! {
        fn any_record()(
            name in "[a-zA-Z0-9_-]{1,64}",
            etag in proptest::option::of("\\PC{0,40}"),
            last_modified in proptest::option::of("\\PC{0,40}"),
            checked in 0..1_u64 << 45,
            changed in 0..1_u64 << 45,
            gone in any::<bool>(),
            rows in proptest::collection::vec(any_row(), 0..20),
            raw in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..400)),
        ) -> (Record, Option<Vec<u8>>) {
            let mut record = record(rows, raw.as_deref());
            record.name = CrateName::parse(&name).expect("a good name");
            record.etag = etag;
            record.last_modified = last_modified;
            record.checked = from_millis(checked);
            record.changed = from_millis(changed);
            record.gone = gone;
            (record, raw)
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written((mut record, raw) in any_record()) {
            let bytes = record.encode().expect("fits");
            let view = View::read(&bytes).expect("good");
            prop_assert_eq!(view.spelling, record.name.as_str());
            prop_assert_eq!(view.decompress().ok(), raw);
            for row in &record.rows {
                let found: Vec<_> = view.rows_of(&row.version).collect();
                prop_assert!(found.iter().any(|found| found.checksum == row.checksum && found.flags == row.flags));
            }
            prop_assert_eq!(view.to_record(), Ok(record));
        }

        #[test]
        fn a_flipped_bit_is_noticed((mut record, raw) in any_record(), at in any::<proptest::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = record.encode().expect("fits");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(view) = View::read(&bytes) {
                let frame_len = record.snapshot.as_ref().map_or(0, |frame| frame.bytes.len());
                let frame_at = bytes.len().saturating_sub(frame_len);
                prop_assert!(at >= frame_at);
                let opened = view.decompress();
                prop_assert!(opened.is_err() || opened.ok() == raw);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(view) = View::read(&bytes) {
                drop(view.to_record());
            }
        }
    }
}
