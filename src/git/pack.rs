//! Writes one self-contained pack with its index, synced.
//!
//! The formats are those of git's `gitformat-pack`: a pack is
//!
//! ```text
//! "PACK" · version 2 (u32) · number of entries (u32)
//! entry: kind and inflated size (varint, 3 bits of kind) · zlib stream      … whole objects
//! SHA-1 of all of the above
//! ```
//!
//! and its index (version 2)
//!
//! ```text
//! ff 't' 'O' 'c' · version 2 (u32) · fan-out (256 × u32)
//! ids (20 bytes each, sorted) · CRC-32 of the entries (u32) · offsets (u32; with the top bit set: place in the next table)
//! offsets from 2 GiB on (u64) · SHA-1 of the pack · SHA-1 of all of the above
//! ```

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, Decompress, bufread::ZlibDecoder, write::ZlibEncoder};
use gix::{
    hash::{Hasher, Kind as HashKind},
    objs::Kind,
};

use super::{
    Error, ObjectId,
    entry::{Form, HEADER_MAX, Header, OBJECT_BYTES_MAX, PACK_HEADER, PACK_TRAILER},
    pack_file::Reader,
};
use crate::util::fs::sync_dir;

/// How the names of files that are being written begin, in `objects/pack`; as git names its own,
/// so that `git gc` sweeps them too.
pub(super) const TEMPORARY: &str = "tmp_";

/// What git itself packs with. 436 real index files (36 MB) became 7.3 % of that at 74 MB/s; at
/// level 1 12.0 % (260 MB/s), which every clone would pay for as long as the pack lives, and at
/// level 9 7.0 % (50 MB/s).
const LEVEL: u32 = 6;

/// Offsets from here on stand in the table of 64-bit offsets.
const LARGE_OFFSET: u64 = 1 << 31;

/// What the index of a pack says about one entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexEntry {
    pub(super) id: ObjectId,
    /// Of the entry's bytes: header and zlib stream.
    pub(super) crc32: u32,
    /// Where the entry begins in the pack.
    pub(super) offset: u64,
}

/// One entry of a pack, ready to be written.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) id: ObjectId,
    bytes: Vec<u8>,
}

impl Packed {
    /// Compresses an object. Where the id is known already, it is taken as it is.
    pub(super) fn new(kind: Kind, id: ObjectId, data: &[u8]) -> io::Result<Packed> {
        let mut bytes = Vec::with_capacity(data.len() / 4 + 64);
        Header {
            form: Form::Whole(kind.into()),
            size: data.len() as u64,
        }
        .write(&mut bytes);
        let mut zlib = ZlibEncoder::new(bytes, Compression::new(LEVEL));
        zlib.write_all(data)?;
        let bytes = zlib.finish()?;
        Ok(Packed { id, bytes })
    }
}

/// The id of an object. SHA-1 is computed with collision detection.
///
/// # Errors
/// [`Error::Collision`].
#[expect(
    clippy::map_err_ignore,
    reason = "there is one thing that can go wrong"
)]
pub(super) fn id_of(kind: Kind, data: &[u8]) -> Result<ObjectId, Error> {
    gix::objs::compute_hash(HashKind::Sha1, kind, data).map_err(|_| Error::Collision)
}

/// A pack that is being written, under a temporary name. Dropped before
/// [`finish`](PackWriter::finish) it leaves nothing behind.
#[derive(Debug)]
pub(super) struct PackWriter {
    dir: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
    offset: u64,
    entries: Vec<IndexEntry>,
    ids: HashSet<ObjectId>,
}

/// A pack that is whole, synced and in its place, with its index.
#[derive(Debug)]
pub(super) struct WrittenPack {
    pub(super) path: PathBuf,
}

impl WrittenPack {
    pub(super) fn remove(&self) {
        remove_pack(&self.path);
    }
}

impl PackWriter {
    /// Begins a pack in the folder `dir` (`objects/pack`).
    pub(super) fn create(dir: &Path) -> Result<PackWriter, Error> {
        let temporary = Temporary(dir.join(format!("{TEMPORARY}pack_orlop")));
        let fault = Error::io("write the pack", &temporary.0);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary.0)
            .map_err(&fault)?;
        let mut out = BufWriter::with_capacity(1 << 17, file);
        // The number of entries is filled in at the end.
        out.write_all(b"PACK\0\0\0\x02\0\0\0\0").map_err(&fault)?;
        drop(fault);
        Ok(PackWriter {
            dir: dir.to_owned(),
            temporary,
            out,
            offset: PACK_HEADER,
            entries: Vec::new(),
            ids: HashSet::new(),
        })
    }

    /// Whether the pack has this object already.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.ids.contains(id)
    }

    /// Adds an entry; one that is there already is not written twice.
    pub(super) fn add(&mut self, packed: &Packed) -> Result<(), Error> {
        if !self.ids.insert(packed.id) {
            return Ok(());
        }
        self.out
            .write_all(&packed.bytes)
            .map_err(Error::io("write the pack", &self.temporary.0))?;
        self.entries.push(IndexEntry {
            id: packed.id,
            crc32: crc32fast::hash(&packed.bytes),
            offset: self.offset,
        });
        self.offset += packed.bytes.len() as u64;
        Ok(())
    }

    /// Completes the pack and puts it and its index in their places, synced. What fails leaves
    /// neither behind.
    pub(super) fn finish(mut self) -> Result<WrittenPack, Error> {
        let id = self
            .seal()
            .map_err(Error::io("write the pack", &self.temporary.0))?;
        let PackWriter {
            dir,
            temporary,
            out,
            mut entries,
            ids,
            ..
        } = self;
        drop((out, ids));
        let index = Temporary(dir.join(format!("{TEMPORARY}idx_orlop")));
        write_index_file(&index.0, &mut entries, &id)?;
        let pack = WrittenPack {
            path: dir.join(format!("pack-{id}.pack")),
        };
        let placed = place(&temporary.0, &pack.path)
            .and_then(|()| place(&index.0, &pack.path.with_extension("idx")))
            .and_then(|()| sync_folder(&dir));
        if placed.is_err() {
            pack.remove();
        }
        placed.map(|()| pack)
    }

    /// Fills in the number of entries, appends the SHA-1 and syncs.
    fn seal(&mut self) -> io::Result<ObjectId> {
        let count = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        self.out.flush()?;
        let file = self.out.get_mut();
        file.seek(SeekFrom::Start(8))?;
        file.write_all(&count.to_be_bytes())?;
        // The count is hashed before everything else and is known only now: so all is read back,
        // out of the page cache, and nothing was held in memory.
        file.rewind()?;
        let id = hash_all(file)?;
        file.write_all(id.as_slice())?;
        file.sync_all()?;
        Ok(id)
    }
}

/// A file under a temporary name, removed when it is dropped (after the rename it is not there).
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Not there, or swept at the next start.
        drop(fs::remove_file(&self.0));
    }
}

/// Writes the index of a pack anew, synced, in its place.
pub(super) fn replace_index(
    pack: &Path,
    entries: &mut [IndexEntry],
    id: &ObjectId,
) -> Result<(), Error> {
    let Some(dir) = pack.parent() else {
        return Ok(());
    };
    let temporary = Temporary(dir.join(format!("{TEMPORARY}idx_orlop")));
    write_index_file(&temporary.0, entries, id)?;
    place(&temporary.0, &pack.with_extension("idx"))?;
    sync_folder(dir)
}

/// Removes a pack and what stands beside it. What does not go now goes at the next start.
pub(super) fn remove_pack(pack: &Path) {
    // The pack goes first: without it the rest is swept.
    for extension in ["pack", "idx", "rev", "bitmap", "keep", "mtimes", "promisor"] {
        drop(fs::remove_file(pack.with_extension(extension)));
    }
}

/// Syncs the names in a folder.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    sync_dir(path).map_err(Error::io("sync the folder", path))
}

fn place(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("put a file in its place at", to))
}

fn write_index_file(path: &Path, entries: &mut [IndexEntry], pack: &ObjectId) -> Result<(), Error> {
    let mut write = || {
        let mut out = BufWriter::new(File::create(path)?);
        write_index(&mut out, entries, pack)?;
        out.flush()?;
        out.get_ref().sync_all()
    };
    write().map_err(Error::io("write the index of a pack", path))
}

/// Writes the index (version 2) of the pack whose trailer is `pack`; sorts the entries.
pub(super) fn write_index(
    to: &mut impl Write,
    entries: &mut [IndexEntry],
    pack: &ObjectId,
) -> io::Result<()> {
    entries.sort_unstable_by_key(|entry| entry.id);
    let mut out = Hashing {
        to,
        hasher: gix::hash::hasher(HashKind::Sha1),
    };
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    write_fan_out(&mut out, entries)?;
    for entry in entries.iter() {
        out.write_all(entry.id.as_slice())?;
    }
    for entry in entries.iter() {
        out.write_all(&entry.crc32.to_be_bytes())?;
    }
    write_offsets(&mut out, entries)?;
    out.write_all(pack.as_slice())?;
    let Hashing { to, hasher } = out;
    to.write_all(finalize(hasher)?.as_slice())
}

/// For each first byte, how many ids begin with it or a lower one.
fn write_fan_out(out: &mut impl Write, entries: &[IndexEntry]) -> io::Result<()> {
    for first in 0..=u8::MAX {
        let upto = entries.partition_point(|entry| entry.id.first_byte() <= first);
        let upto = u32::try_from(upto).map_err(io::Error::other)?;
        out.write_all(&upto.to_be_bytes())?;
    }
    Ok(())
}

fn write_offsets(out: &mut impl Write, entries: &[IndexEntry]) -> io::Result<()> {
    let mut large = Vec::new();
    for entry in entries {
        let offset = match u32::try_from(entry.offset) {
            Ok(offset) if entry.offset < LARGE_OFFSET => offset,
            _ => {
                let place = u32::try_from(large.len()).map_err(io::Error::other)?;
                large.push(entry.offset);
                place | (1 << 31)
            }
        };
        out.write_all(&offset.to_be_bytes())?;
    }
    large
        .iter()
        .try_for_each(|offset| out.write_all(&offset.to_be_bytes()))
}

struct Hashing<W> {
    to: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.to.write_all(buffer)?;
        self.hasher.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn finalize(hasher: Hasher) -> io::Result<ObjectId> {
    hasher
        .try_finalize()
        .map_err(|error| io::Error::other(error.to_string()))
}

fn hash_all(from: &mut impl Read) -> io::Result<ObjectId> {
    let mut hasher = gix::hash::hasher(HashKind::Sha1);
    let mut from = BufReader::with_capacity(1 << 17, from);
    loop {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return finalize(hasher);
        }
        hasher.update(bytes);
        let count = bytes.len();
        from.consume(count);
    }
}

/// Reads a whole pack and gives what its index must say, and its trailer: every entry is inflated
/// and hashed, deltas are applied, and the pack's own SHA-1 is checked.
///
/// # Errors
/// [`Error::Damaged`] also for a pack with a delta whose base is not before it; [`Error::Io`].
pub(super) fn scan(path: &Path) -> Result<(Vec<IndexEntry>, ObjectId), Error> {
    let file = File::open(path).map_err(Error::io("open the pack", path))?;
    let mut from = Counting {
        from: BufReader::with_capacity(1 << 17, &file),
        offset: 0,
        crc: crc32fast::Hasher::new(),
        hasher: gix::hash::hasher(HashKind::Sha1),
    };
    let fault = |error: io::Error| match error.raw_os_error() {
        Some(_) => Error::io("read the pack", path)(error),
        None => Error::damaged(path, error.to_string()),
    };
    let mut head = [0; 12];
    from.read_exact(&mut head).map_err(fault)?;
    let [b'P', b'A', b'C', b'K', 0, 0, 0, 2, count @ ..] = head else {
        return Err(Error::damaged(path, "it is no pack"));
    };
    let (mut entries, mut deltas) = (Vec::new(), Vec::new());
    for place in 0..u32::from_be_bytes(count) as usize {
        let (entry, object) = scan_entry(&mut from).map_err(fault)?;
        entries.push(entry);
        match object {
            Some((kind, data)) => {
                if let Some(entry) = entries.last_mut() {
                    entry.id = id_of(kind, &data)?;
                }
            }
            None => deltas.push(place),
        }
    }
    let end = from.offset;
    let Counting {
        mut from, hasher, ..
    } = from;
    let id = finalize(hasher).map_err(fault)?;
    let mut trailer = Vec::new();
    from.read_to_end(&mut trailer).map_err(fault)?;
    if trailer.len() as u64 != PACK_TRAILER || trailer != id.as_slice() {
        return Err(Error::damaged(path, "its SHA-1 is not that of its bytes"));
    }
    let pack = Reader {
        path,
        file: &file,
        end,
    };
    resolve(pack, &mut entries, &deltas)?;
    Ok((entries, id))
}

/// Finds out which objects the entries are that are deltas.
fn resolve(pack: Reader<'_>, entries: &mut [IndexEntry], deltas: &[usize]) -> Result<(), Error> {
    let mut zlib = Decompress::new(true);
    let is_delta: HashSet<_> = deltas.iter().collect();
    let whole = entries.iter().enumerate();
    let whole = whole.filter(|(place, _)| !is_delta.contains(place));
    let mut known: HashMap<_, _> = whole.map(|(_, entry)| (entry.id, entry.offset)).collect();
    for place in deltas {
        let Some(entry) = entries.get_mut(*place) else {
            continue;
        };
        let find = |id: &ObjectId| known.get(id).copied();
        let (kind, data) = pack.object(&mut zlib, entry.offset, &find)?;
        entry.id = id_of(kind.into(), &data)?;
        known.insert(entry.id, entry.offset);
    }
    Ok(())
}

/// An object by its bytes.
type Whole = (Kind, Vec<u8>);

/// One entry and, unless it is a delta, its object; the id is not yet known.
fn scan_entry(from: &mut Counting<impl BufRead>) -> io::Result<(IndexEntry, Option<Whole>)> {
    let offset = from.offset;
    from.crc = crc32fast::Hasher::new();
    let Header { form, size } = scan_header(from)?;
    if size > OBJECT_BYTES_MAX {
        let what = format!("the entry at {offset} is too large");
        return Err(io::Error::other(what));
    }
    let mut data = Vec::new();
    let mut zlib = ZlibDecoder::new(&mut *from);
    zlib.by_ref()
        .take(size.saturating_add(1))
        .read_to_end(&mut data)?;
    if data.len() as u64 != size {
        let what = format!("the size of the entry at {offset} is wrong");
        return Err(io::Error::other(what));
    }
    let entry = IndexEntry {
        id: ObjectId::null(HashKind::Sha1),
        crc32: from.crc.clone().finalize(),
        offset,
    };
    Ok(match form {
        Form::Whole(kind) => (entry, Some((kind.into(), data))),
        Form::Offset(_) | Form::Reference(_) => (entry, None),
    })
}

fn scan_header(from: &mut impl Read) -> io::Result<Header> {
    let mut bytes = Vec::with_capacity(HEADER_MAX);
    while bytes.len() < HEADER_MAX {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        bytes.extend_from_slice(&byte);
        if let Some((header, _)) = Header::read(&bytes) {
            return Ok(header);
        }
    }
    Err(io::Error::other("an entry is of no kind that there is"))
}

/// Counts and hashes the bytes that are consumed.
struct Counting<R> {
    from: R,
    offset: u64,
    crc: crc32fast::Hasher,
    hasher: Hasher,
}

impl<R: BufRead> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counting<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.from.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What was filled is still there, and no error can come of it.
        if let Some(bytes) = self
            .from
            .fill_buf()
            .ok()
            .and_then(|bytes| bytes.get(..count))
        {
            self.crc.update(bytes);
            self.hasher.update(bytes);
        }
        self.offset += count as u64;
        self.from.consume(count);
    }
}
