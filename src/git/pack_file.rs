//! One pack on the disk, opened to look objects up by their id and to read them.
//!
//! A pack is read by `pread` and not mapped: the pages of a map would count as our memory, and a
//! file that is unlinked (merged away) stays readable as long as it is open.

#![warn(clippy::arithmetic_side_effects)]

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use flate2::Decompress;
use gix::odb::pack::index::{self, Version};
use sha1::{Digest, Sha1};

use super::{
    Error, ObjectId, delta,
    entry::{self, Form, HEADER_MAX, Header, Kind, PACK_HEADER, PACK_TRAILER},
};

/// Deltas in a row that are followed; git makes 50, and no more than 4095.
const CHAIN_MAX: usize = 4096;
/// The first read of an entry: most entries are no longer.
const FIRST_READ: u64 = 4096;

/// An open pack and its index.
pub(super) struct PackFile {
    path: PathBuf,
    file: File,
    index: index::File,
    /// Where the last entry ends.
    end: u64,
}

impl std::fmt::Debug for PackFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl PackFile {
    /// Opens a pack (`….pack`) whose index is in order and belongs to it: name, number of entries
    /// and the SHA-1 that the pack ends with agree. Its entries are not looked at.
    pub(super) fn open(path: &Path) -> Result<PackFile, Error> {
        let mut pack = PackFile::open_unchecked(path)?;
        pack.end = pack
            .end
            .checked_sub(PACK_TRAILER)
            .filter(|end| *end >= PACK_HEADER)
            .ok_or_else(|| Error::damaged(path, "it is cut short"))?;
        let (mut head, mut trailer) = ([0; 12], [0; 20]);
        read_exact_at(&pack.file, &mut head, 0, path)?;
        read_exact_at(&pack.file, &mut trailer, pack.end, path)?;
        let checksum = pack.checksum();
        if head != entry::pack_header(pack.objects())
            || trailer != checksum.as_slice()
            || path.file_stem() != Some(OsStr::new(&format!("pack-{checksum}")))
        {
            return Err(Error::damaged(path, "it and its index do not agree"));
        }
        Ok(pack)
    }

    /// Opens a damaged pack whose index is sound, to read the objects of it that are whole.
    pub(super) fn open_damaged(path: &Path) -> Result<PackFile, Error> {
        let pack = PackFile::open_unchecked(path)?;
        if pack.index_is_sound() {
            return Ok(pack);
        }
        Err(Error::damaged(path, "its index is damaged as well"))
    }

    /// Its entries end with the file.
    fn open_unchecked(path: &Path) -> Result<PackFile, Error> {
        let index = open_index(&path.with_extension("idx"))?;
        let fault = Error::io("open the pack", path);
        let file = File::open(path).map_err(&fault)?;
        let end = file.metadata().map_err(&fault)?.len();
        Ok(PackFile {
            path: path.to_owned(),
            file,
            index,
            end,
        })
    }

    /// Whether the index has the checksum that it ends with.
    pub(super) fn index_is_sound(&self) -> bool {
        self.index
            .verify_checksum(&mut gix::progress::Discard, &AtomicBool::new(false))
            .is_ok()
    }

    /// Bytes of the index.
    pub(super) fn index_bytes(&self) -> u64 {
        u64::from(self.objects()).saturating_mul(28)
    }

    /// The commits in the pack: every entry's header is read for it, which takes a while.
    ///
    /// # Errors
    /// [`Error::Io`]; what is damaged is passed over.
    pub(super) fn commits(&self) -> Result<Vec<ObjectId>, Error> {
        let mut commits = Vec::new();
        let mut zlib = Decompress::new(true);
        for (place, id) in self.places() {
            let header = self.bytes(place, HEADER_MAX as u64);
            let form = header
                .map(Some)
                .or_else(Error::unless_damage)?
                .and_then(|bytes| Some(Header::read(&bytes)?.0.form));
            let is_commit = match form {
                Some(Form::Whole(kind)) => kind == Kind::Commit,
                // Of a repository that git packed.
                Some(_) => {
                    let object = self.object(&mut zlib, &id, place).map(Some);
                    let object = object.or_else(Error::unless_damage)?;
                    matches!(object, Some((Kind::Commit, _)))
                }
                None => false,
            };
            if is_commit {
                commits.push(id);
            }
        }
        Ok(commits)
    }

    /// Its path when it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open pack.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where its last entry ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// How many objects it has.
    pub(super) fn objects(&self) -> u32 {
        self.index.num_objects()
    }

    /// The SHA-1 at the end of the pack, as its index has it.
    pub(super) fn checksum(&self) -> ObjectId {
        self.index.pack_checksum()
    }

    /// Where an object begins; `None`: it is not in this pack.
    pub(super) fn find(&self, id: &ObjectId) -> Option<u64> {
        self.index
            .lookup(id)
            .map(|index| self.index.pack_offset_at_index(index))
    }

    /// Every object with the place where it begins, in the order of the pack.
    pub(super) fn places(&self) -> Vec<(u64, ObjectId)> {
        let mut places: Vec<_> = self
            .index
            .iter()
            .map(|entry| (entry.pack_offset, entry.oid))
            .collect();
        places.sort_unstable();
        places
    }

    /// Gives all bytes between head and trailer to `take`, in order, in parts of 64 KiB, and checks
    /// the SHA-1.
    pub(super) fn read_all(&self, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        const PART: usize = 1 << 16;
        let mut hasher = Sha1::new();
        let mut bytes = vec![0; PART];
        let mut head = [0; 12];
        read_exact_at(&self.file, &mut head, 0, &self.path)?;
        hasher.update(head);
        let mut at = PACK_HEADER;
        while at < self.end {
            let rest = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            bytes.truncate(rest);
            read_exact_at(&self.file, &mut bytes, at, &self.path)?;
            hasher.update(&bytes);
            take(&bytes);
            at = at.saturating_add(bytes.len() as u64);
        }
        let sum = <[u8; 20]>::from(hasher.finalize());
        if ObjectId::from(sum) == self.checksum() {
            return Ok(());
        }
        Err(Error::damaged(
            &self.path,
            "its SHA-1 is not that of its bytes",
        ))
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            path: &self.path,
            file: &self.file,
            end: self.end,
        }
    }

    /// Bytes from `offset` on, within the entries.
    pub(super) fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.reader().bytes(offset, length)
    }

    /// The CRC-32 of the entry of an object, as the index has it.
    pub(super) fn crc32_of(&self, id: &ObjectId) -> Option<u32> {
        self.index.crc32_at_index(self.index.lookup(id)?)
    }

    /// Appends an object that begins at `offset` as an entry that needs no other.
    pub(super) fn whole_entry(
        &self,
        zlib: &mut Decompress,
        id: &ObjectId,
        offset: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let entry = self.reader().entry(zlib, offset)?;
        if let Form::Whole(kind) = entry.header.form {
            self.check(id, kind, &entry.data)?;
            out.extend_from_slice(&self.bytes(offset, entry.length)?);
            return Ok(());
        }
        let (kind, data) = self.object(zlib, id, offset)?;
        Header {
            form: Form::Whole(kind),
            size: data.len() as u64,
        }
        .write(out);
        entry::deflate(&mut entry::deflater(), &data, out);
        Ok(())
    }

    /// The object whose entry begins at `offset`, its deltas applied.
    pub(super) fn object(
        &self,
        zlib: &mut Decompress,
        id: &ObjectId,
        offset: u64,
    ) -> Result<(Kind, Vec<u8>), Error> {
        let (kind, data) = self.reader().object(zlib, offset, &|id| self.find(id))?;
        self.check(id, kind, &data)?;
        Ok((kind, data))
    }

    fn check(&self, id: &ObjectId, kind: Kind, data: &[u8]) -> Result<(), Error> {
        if entry::id_of(kind, data) == *id {
            return Ok(());
        }
        let what = format!("object `{id}`: its bytes are not those that were written");
        Err(Error::damaged(&self.path, what))
    }
}

/// Reads entries of an open pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    /// Its path, for errors.
    pub(super) path: &'a Path,
    /// The pack.
    pub(super) file: &'a File,
    /// Where its last entry ends.
    pub(super) end: u64,
}

/// An entry as it stands in its pack.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its header.
    pub(super) header: Header,
    /// Bytes of header and body.
    pub(super) length: u64,
    /// The body inflated.
    pub(super) data: Vec<u8>,
}

impl Reader<'_> {
    /// Bytes from `offset` on, within the entries.
    fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let length = length.min(self.end.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        read_exact_at(self.file, &mut bytes, offset, self.path)?;
        Ok(bytes)
    }

    /// The entry that begins at `offset`.
    pub(super) fn entry(&self, zlib: &mut Decompress, offset: u64) -> Result<Entry, Error> {
        let mut bytes = self.bytes(offset, FIRST_READ)?;
        let bad = || Error::damaged(self.path, format!("the entry at {offset}"));
        let (header, length) = Header::read(&bytes).ok_or_else(bad)?;
        // Deflate adds a few bytes in the thousand to what it cannot shrink.
        let longest = header
            .size
            .saturating_add(header.size / 8)
            .saturating_add(64)
            .saturating_add(HEADER_MAX as u64);
        if longest > FIRST_READ {
            bytes = self.bytes(offset, longest)?;
        }
        let mut data = Vec::new();
        let body = bytes.get(length..).unwrap_or_default();
        let used = entry::inflate(zlib, body, header.size, &mut data).ok_or_else(bad)?;
        Ok(Entry {
            header,
            length: length.saturating_add(used) as u64,
            data,
        })
    }

    /// The object whose entry begins at `offset`, its deltas applied.
    pub(super) fn object(
        &self,
        zlib: &mut Decompress,
        offset: u64,
        find: &dyn Fn(&ObjectId) -> Option<u64>,
    ) -> Result<(Kind, Vec<u8>), Error> {
        let mut deltas = Vec::new();
        let mut at = offset;
        let (kind, mut data) = loop {
            let entry = self.entry(zlib, at)?;
            let base = match entry.header.form {
                Form::Whole(kind) => break (kind, entry.data),
                Form::Offset(distance) => at.checked_sub(distance).filter(|base| *base < at),
                Form::Reference(id) => find(&id),
            };
            deltas.push(entry.data);
            at = base.filter(|_| deltas.len() <= CHAIN_MAX).ok_or_else(|| {
                Error::damaged(self.path, format!("the base of the entry at {offset}"))
            })?;
        };
        while let Some(delta) = deltas.pop() {
            data = delta::apply(&data, &delta).ok_or_else(|| {
                Error::damaged(self.path, format!("a delta of the entry at {offset}"))
            })?;
        }
        Ok((kind, data))
    }
}

/// Fills `buffer`; a file that ends before is damaged.
pub(super) fn read_exact_at(
    file: &File,
    buffer: &mut [u8],
    place: u64,
    path: &Path,
) -> Result<(), Error> {
    file.read_exact_at(buffer, place)
        .map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(path, "it is cut short"),
            _ => Error::io("read", path)(source),
        })
}

fn open_index(path: &Path) -> Result<index::File, Error> {
    // Told apart here, because gix's errors do not: a file that is not there is no mood of the disk.
    if let Err(error) = fs::metadata(path) {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => Error::damaged(path, "it is missing"),
            _ => Error::io("open the index of a pack", path)(error),
        });
    }
    // A first byte is read here, because gix's errors do not tell the disk's moods from damage.
    let file = File::open(path).map_err(Error::io("open the index of a pack", path))?;
    read_exact_at(&file, &mut [0], 0, path)?;
    let index =
        index::File::at(path, gix::hash::Kind::Sha1).map_err(|error| index_error(path, &error))?;
    match index.version() {
        Version::V2 => Ok(index),
        Version::V1 => Err(Error::damaged(path, "it is none of ours")),
    }
}

fn index_error(path: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(fault) = error.downcast_ref::<io::Error>() {
            let source = io::Error::new(fault.kind(), fault.to_string());
            return Error::io("open the index of a pack", path)(source);
        }
        at = error.source();
    }
    Error::damaged(path, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::testing::{bare, write_pack};

    #[test]
    fn an_object_that_has_another_id_is_not_given_out() {
        let (_dir, repository) = bare();
        let (id, other) = (
            entry::id_of(Kind::Blob, b"a"),
            entry::id_of(Kind::Blob, b"b"),
        );
        let objects = [(other, Kind::Blob, b"a".to_vec())];
        let path = write_pack(&repository.join("objects/pack"), &objects);
        let pack = PackFile::open(&path).unwrap();
        let place = pack.find(&other).unwrap();
        let zlib = &mut Decompress::new(true);
        assert!(pack.object(zlib, &other, place).unwrap_err().is_damage());
        let mut out = Vec::new();
        let whole = pack.whole_entry(zlib, &other, place, &mut out);
        assert!(whole.unwrap_err().is_damage() && out.is_empty());
        let object = pack.object(zlib, &id, place).unwrap();
        assert_eq!(object, (Kind::Blob, b"a".to_vec()));
    }
}
