//! The journal: what can neither be derived nor fetched again, appended and never changed.
//!
//! All numbers are little-endian. The file starts with a header of 16 bytes:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `orlopjnl` |
//! | 8 | 4 | format: 1 |
//! | 12 | 4 | crc32 of the bytes before |
//!
//! Then come frames, one after the other:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | `n`: length of the payload, at most 64 MiB |
//! | 4 | 4 | crc32 of the length and of everything after this field |
//! | 8 | 1 | kind |
//! | 9 | 8 | time, milliseconds since 1970 |
//! | 17 | n | payload |
//!
//! A payload starts with the crate's name in the index's spelling; a text is one byte of length and
//! its bytes, a row is the version as text, one byte of flags (1: yanked) and 32 bytes of sha256:
//!
//! | kind | what | after the name |
//! |---|---|---|
//! | 1 | first seen | rows to the end |
//! | 2 | new version | one row |
//! | 3 | yanked | version |
//! | 4 | no longer yanked | version |
//! | 5 | checksum changed | one row with the new checksum, the old checksum |
//! | 6 | version removed | one row |
//! | 7 | name gone | |
//! | 8 | name back | |
//!
//! Kind 10, something that another room keeps ([`table`](super::table)), a part at a time; a value with
//! a part missing is passed over:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | table |
//! | 1 | 2 | `k`: length of the key |
//! | 3 | 4 | part, from 0 on |
//! | 7 | 4 | number of parts, 0: the key was removed |
//! | 11 | 16 | the first half of the sha256 of the whole value |
//! | 27 | k | key |
//! | | | bytes of the part |
//!
//! Kind 11, what another store's journal told of a name, with that one's time: one byte with a kind
//! from 1 to 8, and what that kind has, but that "first seen" has the number of versions in 4 bytes
//! instead of rows. It is history: it never changes what is in force.
//!
//! Unknown kinds are passed over: a later build may write them. An end that was half written is
//! cut at open; damage in the middle is passed over and what follows is found again.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use semver::Version;

use super::{
    error::Error,
    facts::{Event, EventKind},
    fields::{Damaged, Reader, from_millis, to_millis},
};
use crate::registry::{Checksum, CrateName, release::parse_version};

const MAGIC: &[u8; 8] = b"orlopjnl";
const FORMAT: u32 = 1;

/// Where the first frame starts.
pub(super) const HEADER_BYTES: u64 = 16;

const FRAME_HEAD_BYTES: usize = 17;

/// The longest payload: far above what an index file of 64 MiB can bring, and an end to what a
/// damaged length can make us read.
const MAX_PAYLOAD_BYTES: usize = 64 << 20;

/// How much is read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// What nearly all frames fit into, but those of names that were first seen with many versions.
const SMALL_FRAME_BYTES: usize = 512;

/// How far damage is searched for the next good frame. A frame is rarely over 20 KB.
const MAX_SEARCH_BYTES: usize = 4 << 20;

/// What one frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Something happened to a name.
    Name(Entry),
    /// A part of what another room keeps.
    Kept(KeptLine),
    /// Something that another store's journal told.
    Told(Event),
}

/// A part of a value that another room keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptLine {
    pub(super) table: u8,
    pub(super) key: String,
    pub(super) part: u32,
    /// 0: the key was removed.
    pub(super) parts: u32,
    /// Of the whole value.
    pub(super) digest: [u8; 16],
    pub(super) bytes: Vec<u8>,
}

impl KeptLine {
    /// Appends the frame to `out`. `None`: a part is longer than the layout holds.
    pub(super) fn encode(&self, at: SystemTime, out: &mut Vec<u8>) -> Option<()> {
        let mut payload = vec![self.table];
        payload.extend_from_slice(&u16::try_from(self.key.len()).ok()?.to_le_bytes());
        payload.extend_from_slice(&self.part.to_le_bytes());
        payload.extend_from_slice(&self.parts.to_le_bytes());
        payload.extend_from_slice(&self.digest);
        payload.extend_from_slice(self.key.as_bytes());
        payload.extend_from_slice(&self.bytes);
        put_frame(out, KEPT, to_millis(at), &payload)
    }

    fn read(payload: &mut Reader<'_>) -> Result<KeptLine, Damaged> {
        let [table] = payload.array()?;
        let key_len = usize::from(u16::from_le_bytes(payload.array()?));
        Ok(KeptLine {
            table,
            part: u32::from_le_bytes(payload.array()?),
            parts: u32::from_le_bytes(payload.array()?),
            digest: payload.array()?,
            key: payload.text(key_len)?.to_owned(),
            bytes: payload.take(payload.0.len())?.to_vec(),
        })
    }
}

/// Appends the frame of what another store told. `None`: a part is longer than the layout holds.
pub(super) fn encode_told(event: &Event, out: &mut Vec<u8>) -> Option<()> {
    let mut payload = vec![told_kind(&event.kind)];
    put_text(&mut payload, event.name.as_str())?;
    match &event.kind {
        EventKind::FirstSeen { versions } => {
            let versions = u32::try_from(*versions).ok()?;
            payload.extend_from_slice(&versions.to_le_bytes());
        }
        EventKind::NewVersion {
            version,
            checksum,
            yanked,
        } => put_row(&mut payload, &ledger_row(version, *checksum, *yanked))?,
        EventKind::Yanked { version } | EventKind::Unyanked { version } => {
            put_text(&mut payload, &version.to_string())?;
        }
        EventKind::ChecksumChanged { version, old, new } => {
            put_row(&mut payload, &ledger_row(version, *new, false))?;
            payload.extend_from_slice(old.as_bytes());
        }
        EventKind::VersionRemoved { version, checksum } => {
            put_row(&mut payload, &ledger_row(version, *checksum, false))?;
        }
        EventKind::NameGone | EventKind::NameBack => {}
    }
    put_frame(out, TOLD, to_millis(event.at), &payload)
}

fn ledger_row(version: &Version, checksum: Checksum, yanked: bool) -> LedgerRow {
    LedgerRow {
        version: version.clone(),
        yanked,
        checksum,
    }
}

fn told_kind(kind: &EventKind) -> u8 {
    match kind {
        EventKind::FirstSeen { .. } => 1,
        EventKind::NewVersion { .. } => 2,
        EventKind::Yanked { .. } => 3,
        EventKind::Unyanked { .. } => 4,
        EventKind::ChecksumChanged { .. } => 5,
        EventKind::VersionRemoved { .. } => 6,
        EventKind::NameGone => 7,
        EventKind::NameBack => 8,
    }
}

/// `None`: a kind that this build does not know.
fn read_told(millis: u64, payload: &mut Reader<'_>) -> Result<Option<Event>, Damaged> {
    let [kind] = payload.array()?;
    if kind == 1 {
        let name = take_name(payload)?;
        let versions = u32::from_le_bytes(payload.array()?);
        return Ok(Some(Event {
            at: from_millis(millis),
            name,
            kind: EventKind::FirstSeen {
                versions: usize::try_from(versions).map_err(|_large| Damaged)?,
            },
        }));
    }
    let line = read_payload(kind, millis, payload.0)?;
    Ok(match line {
        Some(Line::Name(entry)) => Some(entry.event()),
        _ => None,
    })
}

/// The kind of a frame with a part of what another room keeps.
const KEPT: u8 = 10;

/// The kind of a frame with what another store told.
const TOLD: u8 = 11;

/// What happened to a name, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: SystemTime,
    pub(super) name: CrateName,
    pub(super) body: Body,
}

/// What happened to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    FirstSeen(Vec<LedgerRow>),
    NewVersion(LedgerRow),
    Yanked(Version),
    Unyanked(Version),
    ChecksumChanged { row: LedgerRow, old: Checksum },
    VersionRemoved(LedgerRow),
    NameGone,
    NameBack,
}

/// A version as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LedgerRow {
    pub(super) version: Version,
    pub(super) yanked: bool,
    pub(super) checksum: Checksum,
}

impl Entry {
    /// The entry as the rest of the program sees it.
    pub(super) fn event(&self) -> Event {
        let kind = match &self.body {
            Body::FirstSeen(rows) => EventKind::FirstSeen {
                versions: rows.len(),
            },
            Body::NewVersion(row) => EventKind::NewVersion {
                version: row.version.clone(),
                checksum: row.checksum,
                yanked: row.yanked,
            },
            Body::Yanked(version) => EventKind::Yanked {
                version: version.clone(),
            },
            Body::Unyanked(version) => EventKind::Unyanked {
                version: version.clone(),
            },
            Body::ChecksumChanged { row, old } => EventKind::ChecksumChanged {
                version: row.version.clone(),
                old: *old,
                new: row.checksum,
            },
            Body::VersionRemoved(row) => EventKind::VersionRemoved {
                version: row.version.clone(),
                checksum: row.checksum,
            },
            Body::NameGone => EventKind::NameGone,
            Body::NameBack => EventKind::NameBack,
        };
        Event {
            at: self.at,
            name: self.name.clone(),
            kind,
        }
    }

    fn kind(&self) -> u8 {
        match &self.body {
            Body::FirstSeen(_) => 1,
            Body::NewVersion(_) => 2,
            Body::Yanked(_) => 3,
            Body::Unyanked(_) => 4,
            Body::ChecksumChanged { .. } => 5,
            Body::VersionRemoved(_) => 6,
            Body::NameGone => 7,
            Body::NameBack => 8,
        }
    }

    /// Appends the frame to `out`. `None`: a part is longer than the layout holds.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        let mut payload = Vec::new();
        put_text(&mut payload, self.name.as_str())?;
        match &self.body {
            Body::FirstSeen(rows) => {
                for row in rows {
                    put_row(&mut payload, row)?;
                }
            }
            Body::NewVersion(row) | Body::VersionRemoved(row) => put_row(&mut payload, row)?,
            Body::Yanked(version) | Body::Unyanked(version) => {
                put_text(&mut payload, &version.to_string())?;
            }
            Body::ChecksumChanged { row, old } => {
                put_row(&mut payload, row)?;
                payload.extend_from_slice(old.as_bytes());
            }
            Body::NameGone | Body::NameBack => {}
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return None;
        }
        put_frame(out, self.kind(), to_millis(self.at), &payload)
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, millis: u64, payload: &[u8]) -> Option<()> {
    let length = u32::try_from(payload.len()).ok()?.to_le_bytes();
    let crc = frame_crc(length, kind, millis, payload);
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&millis.to_le_bytes());
    out.extend_from_slice(payload);
    Some(())
}

fn frame_crc(length: [u8; 4], kind: u8, millis: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(&[kind]);
    crc.update(&millis.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.push(u8::try_from(text.len()).ok()?);
    out.extend_from_slice(text.as_bytes());
    Some(())
}

fn put_row(out: &mut Vec<u8>, row: &LedgerRow) -> Option<()> {
    put_text(out, &row.version.to_string())?;
    out.push(u8::from(row.yanked));
    out.extend_from_slice(row.checksum.as_bytes());
    Some(())
}

fn take_text<'a>(payload: &mut Reader<'a>) -> Result<&'a str, Damaged> {
    let [length] = payload.array()?;
    payload.text(usize::from(length))
}

fn take_name(payload: &mut Reader<'_>) -> Result<CrateName, Damaged> {
    CrateName::parse(take_text(payload)?).map_err(|_invalid| Damaged)
}

fn take_version(payload: &mut Reader<'_>) -> Result<Version, Damaged> {
    parse_version(take_text(payload)?).map_err(|_invalid| Damaged)
}

fn take_row(payload: &mut Reader<'_>) -> Result<LedgerRow, Damaged> {
    let version = take_version(payload)?;
    let [flags] = payload.array()?;
    Ok(LedgerRow {
        version,
        yanked: flags & 1 != 0,
        checksum: Checksum::from_bytes(payload.array()?),
    })
}

fn take_rows(payload: &mut Reader<'_>) -> Result<Vec<LedgerRow>, Damaged> {
    let mut rows = Vec::new();
    while !payload.0.is_empty() {
        rows.push(take_row(payload)?);
    }
    Ok(rows)
}

/// Reads a payload. `None`: a kind that this build does not know.
fn read_payload(kind: u8, millis: u64, payload: &[u8]) -> Result<Option<Line>, Damaged> {
    if kind == KEPT {
        return Ok(Some(Line::Kept(KeptLine::read(&mut Reader(payload))?)));
    }
    if kind == TOLD {
        let told = read_told(millis, &mut Reader(payload))?;
        return Ok(told.map(Line::Told));
    }
    if !(1..=8).contains(&kind) {
        return Ok(None);
    }
    let mut payload = Reader(payload);
    let name = take_name(&mut payload)?;
    let body = match kind {
        1 => Body::FirstSeen(take_rows(&mut payload)?),
        2 => Body::NewVersion(take_row(&mut payload)?),
        3 => Body::Yanked(take_version(&mut payload)?),
        4 => Body::Unyanked(take_version(&mut payload)?),
        5 => Body::ChecksumChanged {
            row: take_row(&mut payload)?,
            old: Checksum::from_bytes(payload.array()?),
        },
        6 => Body::VersionRemoved(take_row(&mut payload)?),
        7 => Body::NameGone,
        _ => Body::NameBack,
    };
    Ok(Some(Line::Name(Entry {
        at: from_millis(millis),
        name,
        body,
    })))
}

/// What stands at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// A good frame of so many bytes; `None`: of a kind that this build does not know.
    Frame(usize, Option<Line>),
    /// It would be a frame, of so many bytes, if there were more.
    Short(usize),
    Damaged,
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut reader = Reader(bytes);
    let Ok((length, crc, kind, millis)) = frame_head(&mut reader) else {
        return Parsed::Short(FRAME_HEAD_BYTES);
    };
    let payload_len = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if payload_len > MAX_PAYLOAD_BYTES {
        return Parsed::Damaged;
    }
    let total = payload_len.saturating_add(FRAME_HEAD_BYTES);
    let Ok(payload) = reader.take(payload_len) else {
        return Parsed::Short(total);
    };
    if frame_crc(length, kind, millis, payload) != crc {
        return Parsed::Damaged;
    }
    match read_payload(kind, millis, payload) {
        Ok(entry) => Parsed::Frame(total, entry),
        Err(Damaged) => Parsed::Damaged,
    }
}

type FrameHead = ([u8; 4], u32, u8, u64);

fn frame_head(reader: &mut Reader<'_>) -> Result<FrameHead, Damaged> {
    let length = reader.array()?;
    let crc = u32::from_le_bytes(reader.array()?);
    let [kind] = reader.array()?;
    Ok((length, crc, kind, u64::from_le_bytes(reader.array()?)))
}

/// Reads what happened from a place on up to `end`, handing each event with the place after it to
/// `take` until that says `false`. Damage is passed over.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn read_events(
    file: &File,
    from: u64,
    end: u64,
    take: &mut dyn FnMut(u64, Event) -> bool,
) -> io::Result<()> {
    read_frames(file, from, end, &mut |_at, after, line| {
        let event = match line {
            Line::Name(entry) => entry.event(),
            Line::Told(event) => event,
            Line::Kept(_) => return true,
        };
        take(after, event)
    })
}

/// Reads frames from a place on up to `end`, handing what each says with its place and the place
/// after it to `take` until that says `false`. Damage is passed over.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn read_frames(
    file: &File,
    from: u64,
    end: u64,
    take: &mut dyn FnMut(u64, u64, Line) -> bool,
) -> io::Result<()> {
    let mut window = Window::new(file, from.max(HEADER_BYTES));
    while let Some((at, used, line)) = window.next_good()? {
        let after = at.saturating_add(used);
        if after > end {
            break;
        }
        if line.is_some_and(|line| !take(at, after, line)) {
            break;
        }
    }
    Ok(())
}

/// What the frame at a place says. `None`: it says nothing that can be read.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn line_at(file: &File, place: u64) -> io::Result<Option<Line>> {
    let mut wanted = SMALL_FRAME_BYTES;
    loop {
        let mut bytes = vec![0; wanted];
        let got = read_some(file, &mut bytes, place)?;
        match parse(bytes.get(..got).unwrap_or_default()) {
            Parsed::Frame(_used, line) => return Ok(line),
            Parsed::Short(needed) if needed > wanted && got == wanted => wanted = needed,
            Parsed::Short(_) | Parsed::Damaged => return Ok(None),
        }
    }
}

/// Reads until `bytes` are full or the file ends. Returns how many there are.
fn read_some(file: &File, bytes: &mut [u8], place: u64) -> io::Result<usize> {
    let mut got: usize = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        let at = place.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
        match file.read_at(rest, at)? {
            0 => break,
            more => got = got.saturating_add(more),
        }
    }
    Ok(got)
}

/// What reading through the journal found, beside the entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where the last good frame ends.
    pub(super) end: u64,
    /// Damaged bytes before that end.
    pub(super) skipped: u64,
}

/// Reads frames from `from` on, handing each entry with its place to `take`.
///
/// # Errors
/// If the file cannot be read, or `take` fails.
fn scan(
    file: &File,
    from: u64,
    take: &mut dyn FnMut(u64, Line) -> io::Result<()>,
) -> io::Result<Scan> {
    let mut window = Window::new(file, from);
    let mut scan = Scan {
        end: from,
        skipped: 0,
    };
    loop {
        match window.next_good()? {
            None => return Ok(scan),
            Some((at, used, entry)) => {
                scan.skipped = scan.skipped.saturating_add(at.saturating_sub(scan.end));
                scan.end = at.saturating_add(used);
                if let Some(entry) = entry {
                    take(at, entry)?;
                }
            }
        }
    }
}

/// The part of the file that is being looked at.
struct Window<'a> {
    file: &'a File,
    /// Where in the file `bytes` starts.
    start: u64,
    bytes: Vec<u8>,
    /// How much of `bytes` is done with.
    done: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a File, start: u64) -> Window<'a> {
        Window {
            file,
            start,
            bytes: Vec::new(),
            done: 0,
        }
    }

    /// The next good frame: its place, its length, its entry. `None`: there is none.
    fn next_good(&mut self) -> io::Result<Option<(u64, u64, Option<Line>)>> {
        let mut searched: usize = 0;
        while searched < MAX_SEARCH_BYTES {
            let at = self.place(searched);
            match self.parse_at(searched)? {
                Parsed::Frame(used, entry) => {
                    self.done = self.done.saturating_add(searched).saturating_add(used);
                    return Ok(Some((at, u64::try_from(used).unwrap_or(u64::MAX), entry)));
                }
                Parsed::Short(_) if self.left(searched) == 0 => return Ok(None),
                Parsed::Short(_) | Parsed::Damaged => searched = searched.saturating_add(1),
            }
        }
        Ok(None)
    }

    /// Parses at `searched` bytes after what is done, reading on where that shows a whole frame.
    fn parse_at(&mut self, searched: usize) -> io::Result<Parsed> {
        loop {
            match parse(self.bytes.get(self.at(searched)..).unwrap_or_default()) {
                Parsed::Short(needed) => {
                    if !self.fill(needed.saturating_add(searched))? {
                        return Ok(Parsed::Short(needed));
                    }
                }
                parsed => return Ok(parsed),
            }
        }
    }

    fn at(&self, searched: usize) -> usize {
        self.done.saturating_add(searched)
    }

    fn left(&self, searched: usize) -> usize {
        self.bytes.len().saturating_sub(self.at(searched))
    }

    fn place(&self, searched: usize) -> u64 {
        self.start
            .saturating_add(u64::try_from(self.at(searched)).unwrap_or(u64::MAX))
    }

    /// Makes at least `needed` bytes ready. `false`: the file has not so many.
    fn fill(&mut self, needed: usize) -> io::Result<bool> {
        self.start = self.place(0);
        self.bytes.drain(..self.done.min(self.bytes.len()));
        self.done = 0;
        let missing = needed.saturating_sub(self.bytes.len()).max(WINDOW_BYTES);
        let file_len = self.file.metadata()?.len();
        let held = self.bytes.len();
        let at = self.place(held);
        // A damaged length must not make us take more memory than the file is long.
        let there = usize::try_from(file_len.saturating_sub(at)).unwrap_or(usize::MAX);
        if there.saturating_add(held) < needed {
            return Ok(false);
        }
        self.bytes
            .resize(held.saturating_add(missing.min(there)), 0);
        self.file
            .read_exact_at(self.bytes.get_mut(held..).unwrap_or_default(), at)?;
        Ok(true)
    }
}

/// The journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Where the next frame goes; everything before is good and synced.
    len: u64,
    /// A sync failed: what the disk has is unknown until the file is read anew.
    failed_sync: bool,
}

/// What opening the journal found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) cut: u64,
    pub(super) skipped: u64,
}

impl Journal {
    /// Opens or creates the journal and reads it from `from` on (the start of a frame, or less
    /// than the header's length for all of it), cutting a half-written end.
    ///
    /// # Errors
    /// [`Error::NewerFormat`], or [`Error::Io`] with the path.
    pub(super) fn open(
        path: &Path,
        from: u64,
        take: &mut dyn FnMut(u64, Line) -> io::Result<()>,
    ) -> Result<(Journal, Opened), Error> {
        let fault = |doing| Error::io(doing, path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fault("open the journal"))?;
        let length = file.metadata().map_err(fault("read the journal"))?.len();
        let mut opened = Opened {
            skipped: check_header(&file, path, length)?,
            cut: 0,
        };
        // A place beyond the end means that the file lost something: read all of it.
        let from = if from > length {
            HEADER_BYTES
        } else {
            from.max(HEADER_BYTES)
        };
        let scan = scan(&file, from, take).map_err(fault("read the journal"))?;
        opened.skipped = opened.skipped.saturating_add(scan.skipped);
        if length > scan.end {
            opened.cut = length.saturating_sub(scan.end);
            cut(&file, scan.end).map_err(fault("cut the journal's half-written end"))?;
        }
        let journal = Journal {
            file,
            path: path.to_owned(),
            len: scan.end,
            failed_sync: false,
        };
        Ok((journal, opened))
    }

    /// Where the next frame goes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether a sync failed, so that nothing is appended any more.
    pub(super) fn is_dead(&self) -> bool {
        self.failed_sync
    }

    /// Reads all entries from a place on.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, or what `take` gives.
    pub(super) fn replay(
        &self,
        from: u64,
        take: &mut dyn FnMut(u64, Line) -> io::Result<()>,
    ) -> Result<Scan, Error> {
        scan(&self.file, from, take).map_err(Error::io("read the journal", &self.path))
    }

    /// Appends frames and syncs them; returns the place of each.
    ///
    /// # Errors
    /// [`Error::Io`]. Nothing was appended then. After a failed sync nothing is ever appended
    /// again by this process.
    #[cfg(test)]
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<Vec<u64>, Error> {
        self.append_with(entries, &[])
    }

    /// As [`append`](Journal::append), with frames that are encoded already after the entries.
    ///
    /// # Errors
    /// As [`append`](Journal::append).
    pub(super) fn append_with(
        &mut self,
        entries: &[Entry],
        frames: &[u8],
    ) -> Result<Vec<u64>, Error> {
        if entries.is_empty() && frames.is_empty() {
            return Ok(Vec::new());
        }
        if self.failed_sync {
            return Err(Error::FailedSync {
                path: self.path.clone(),
            });
        }
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries {
            let before = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            places.push(self.len.saturating_add(before));
            entry.encode(&mut bytes).ok_or_else(|| Error::TooLarge {
                name: entry.name.clone(),
            })?;
        }
        bytes.extend_from_slice(frames);
        self.write(&bytes)?;
        Ok(places)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let fault = Error::io("write to the journal", &self.path);
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            // What was written of it lies beyond the end and is written over next time.
            if let Err(error) = self.file.set_len(self.len) {
                tracing::warn!(%error, "could not cut the journal after a failed write");
            }
            return Err(fault(error));
        }
        if let Err(error) = self.file.sync_data() {
            self.failed_sync = true;
            return Err(fault(error));
        }
        let written = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.len = self.len.saturating_add(written);
        Ok(())
    }
}

fn cut(file: &File, end: u64) -> io::Result<()> {
    file.set_len(end)?;
    file.sync_all()
}

fn header() -> [u8; 16] {
    let mut header = [0; 16];
    let (start, crc) = header.split_at_mut(12);
    let (magic, format) = start.split_at_mut(8);
    magic.copy_from_slice(MAGIC);
    format.copy_from_slice(&FORMAT.to_le_bytes());
    crc.copy_from_slice(&crc32fast::hash(start).to_le_bytes());
    header
}

/// Writes the header of a new journal, and writes it anew where it is damaged. Returns how many
/// damaged bytes there were.
fn check_header(file: &File, path: &Path, length: u64) -> Result<u64, Error> {
    let fault = |doing| Error::io(doing, path);
    let mut found = [0; 16];
    if length >= HEADER_BYTES {
        file.read_exact_at(&mut found, 0)
            .map_err(fault("read the journal"))?;
        if found == header() {
            return Ok(0);
        }
        if let Some(newer) = newer_format(found) {
            return Err(Error::NewerFormat {
                path: path.to_owned(),
                found: newer,
                known: FORMAT,
            });
        }
    }
    file.write_all_at(&header(), 0)
        .and_then(|()| file.sync_all())
        .map_err(fault("write to the journal"))?;
    Ok(if length >= HEADER_BYTES {
        HEADER_BYTES
    } else {
        0
    })
}

fn newer_format(header: [u8; 16]) -> Option<u32> {
    let mut reader = Reader(&header);
    let magic: [u8; 8] = reader.array().ok()?;
    let format: [u8; 4] = reader.array().ok()?;
    let crc = u32::from_le_bytes(reader.array().ok()?);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&magic);
    hasher.update(&format);
    let format = u32::from_le_bytes(format);
    (magic == *MAGIC && hasher.finalize() == crc && format > FORMAT).then_some(format)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn any_row() -> impl Strategy<Value = LedgerRow> {
        (0..99_u64, "([a-z]{1,5})?", any::<bool>(), any::<[u8; 32]>()).prop_map(
            |(minor, pre, yanked, sum)| {
                let version = if pre.is_empty() {
                    format!("1.{minor}.0")
                } else {
                    format!("1.{minor}.0-{pre}")
                };
                LedgerRow {
                    version: parse_version(&version).expect("a good version"),
                    yanked,
                    checksum: Checksum::from_bytes(sum),
                }
            },
        )
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let body = prop_oneof![
            proptest::collection::vec(any_row(), 0..20).prop_map(Body::FirstSeen),
            any_row().prop_map(Body::NewVersion),
            any_row().prop_map(|row| Body::Yanked(row.version)),
            any_row().prop_map(|row| Body::Unyanked(row.version)),
            (any_row(), any::<[u8; 32]>()).prop_map(|(row, old)| Body::ChecksumChanged {
                row,
                old: Checksum::from_bytes(old)
            }),
            any_row().prop_map(Body::VersionRemoved),
            Just(Body::NameGone),
            Just(Body::NameBack),
        ];
        ("[a-zA-Z0-9_-]{1,64}", 0..1_u64 << 45, body).prop_map(|(name, millis, body)| Entry {
            at: from_millis(millis),
            name: CrateName::parse(&name).expect("a good name"),
            body,
        })
    }

    fn read(path: &Path, from: u64) -> (Journal, Opened, Vec<(u64, Entry)>) {
        let mut entries = Vec::new();
        let (journal, opened) = Journal::open(path, from, &mut |at, line| {
            if let Line::Name(entry) = line {
                entries.push((at, entry));
            }
            Ok(())
        })
        .expect("opens");
        (journal, opened, entries)
    }

    fn write(path: &Path, entries: &[Entry]) -> Vec<u64> {
        read(path, 0).0.append(entries).expect("written")
    }

    fn gone(name: &str) -> Entry {
        Entry {
            at: from_millis(0x0102),
            name: CrateName::parse(name).expect("a good name"),
            body: Body::NameGone,
        }
    }

    #[test]
    fn the_bytes_of_the_journal_are_as_drawn() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("journal");
        write(&path, &[gone("ab")]);
        let mut drawn = b"orlopjnl\x01\0\0\0".to_vec();
        drawn.extend(crc32fast::hash(&drawn).to_le_bytes());
        drawn.extend([3, 0, 0, 0]);
        drawn.extend(crc32fast::hash(b"\x03\0\0\0\x07\x02\x01\0\0\0\0\0\0\x02ab").to_le_bytes());
        drawn.extend(b"\x07\x02\x01\0\0\0\0\0\0\x02ab");
        assert_eq!(std::fs::read(&path).expect("readable"), drawn);
    }

    #[test]
    fn an_unknown_kind_is_passed_over() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("journal");
        write(&path, &[gone("before")]);
        let mut bytes = std::fs::read(&path).expect("readable");
        put_frame(&mut bytes, 200, 0, b"from a later build").expect("fits");
        std::fs::write(&path, &bytes).expect("written");
        write(&path, &[gone("after")]);
        let (_journal, opened, entries) = read(&path, 0);
        assert_eq!((opened.cut, opened.skipped), (0, 0));
        let names: Vec<_> = entries
            .iter()
            .map(|(_at, entry)| entry.name.as_str())
            .collect();
        assert_eq!(names, ["before", "after"]);
    }

    #[test]
    fn a_newer_journal_is_refused() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("journal");
        let mut bytes = b"orlopjnl\x02\0\0\0".to_vec();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        std::fs::write(&path, bytes).expect("written");
        let refused = Journal::open(&path, 0, &mut |_at, _entry| Ok(()));
        assert!(matches!(refused, Err(Error::NewerFormat { found: 2, .. })));
    }

    #[test]
    fn a_place_that_is_no_frame_is_searched_from() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("journal");
        let places = write(&path, &[gone("one"), gone("two"), gone("three")]);
        let (_journal, opened, entries) = read(&path, places[1].saturating_add(3));
        assert_eq!(opened.cut, 0);
        assert_eq!(entries.len(), 1);
        let (_journal, _opened, entries) = read(&path, 1 << 40);
        assert_eq!(entries.len(), 3, "beyond the end means all of it");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn entries_are_read_as_they_were_written(entries in proptest::collection::vec(any_entry(), 1..12)) {
            let dir = TempDir::new().expect("a folder");
            let path = dir.path().join("journal");
            let places = write(&path, &entries);
            let (_journal, opened, read_back) = read(&path, 0);
            prop_assert_eq!((opened.cut, opened.skipped), (0, 0));
            let expected: Vec<_> = places.iter().copied().zip(entries).collect();
            prop_assert_eq!(&read_back, &expected);
            let last = places.last().copied().unwrap_or_default();
            let (_journal, _opened, tail) = read(&path, last);
            prop_assert_eq!((tail.last(), tail.len()), (expected.last(), 1));
        }

        #[test]
        fn damage_loses_only_what_it_hits(
            entries in proptest::collection::vec(any_entry(), 1..12),
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let dir = TempDir::new().expect("a folder");
            let path = dir.path().join("journal");
            let places = write(&path, &entries);
            let mut bytes = std::fs::read(&path).expect("readable");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, bytes).expect("written");
            let (_journal, _opened, read_back) = read(&path, 0);
            let ends = places.iter().copied().skip(1).chain([u64::MAX]);
            let expected: Vec<_> = places
                .iter()
                .copied()
                .zip(entries)
                .zip(ends)
                .filter(|((start, _entry), end)| (at as u64) < *start || at as u64 >= *end)
                .map(|(entry, _end)| entry)
                .collect();
            prop_assert_eq!(read_back, expected);
        }

        #[test]
        fn a_cut_journal_keeps_what_is_whole(entries in proptest::collection::vec(any_entry(), 1..8), at in any::<proptest::sample::Index>()) {
            let dir = TempDir::new().expect("a folder");
            let path = dir.path().join("journal");
            let places = write(&path, &entries);
            let bytes = std::fs::read(&path).expect("readable");
            let keep = at.index(bytes.len());
            std::fs::write(&path, &bytes[..keep]).expect("written");
            let ends: Vec<u64> = places.iter().copied().skip(1).chain([bytes.len() as u64]).collect();
            let whole = ends.iter().filter(|end| **end <= keep as u64).count();
            let (mut journal, _opened, read_back) = read(&path, 0);
            prop_assert_eq!(read_back.len(), whole);
            journal.append(&[gone("more")]).expect("written");
            let (_journal, _opened, read_back) = read(&path, 0);
            prop_assert_eq!(read_back.len().checked_sub(whole), Some(1));
        }
    }
}
