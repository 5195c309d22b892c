//! Value files: one crate file each, named by its sha256, immutable; and the spool they come from.
//!
//! ```text
//! blobs/ab/ab12….raw    the crate file with the sha256 ab12…, byte for byte
//! spool/7.part          bytes that are still coming in; removed at start
//! ```
//!
//! What the name ends with says how the bytes are kept. This build knows `.raw`; what ends otherwise
//! is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    ops::ControlFlow,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::ReadWriteFlags;

use super::{
    error::Error,
    folder::sync_folder,
    state::{Held, prefix_of},
};
use crate::registry::{Checksum, CrateName};

/// How many folders are synced side by side.
const MAX_SYNC_THREADS: usize = 8;

/// A crate file that is held.
#[derive(Debug, Clone)]
pub struct Blob {
    file: Arc<File>,
    len: u64,
    checksum: Checksum,
}

impl Blob {
    pub(super) fn new(file: Arc<File>, len: u64, checksum: Checksum) -> Blob {
        Blob {
            file,
            len,
            checksum,
        }
    }

    /// Its length.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes, which no crate file is like.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its sha256.
    pub fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    /// `len` bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are not so many.
    pub fn read_range(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        read_range(&self.file, offset, len)
    }

    /// `len` bytes from `offset` on, if they are in memory already: this never waits for the disk.
    /// `None`: some are not there, or this file system cannot tell; [`read_range`](Self::read_range)
    /// gets them.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are not so many.
    pub fn read_range_now(&self, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        let end = offset.saturating_add(len as u64);
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        let mut slices = [io::IoSliceMut::new(&mut bytes)];
        match rustix::io::preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == len => Ok(Some(bytes.into())),
            // A short read, `EAGAIN` or `EOPNOTSUPP`: the way that waits has the last word.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// What the file system says, [`io::ErrorKind::UnexpectedEof`] if the file was cut.
    pub fn read_all(&self) -> io::Result<Bytes> {
        let len = usize::try_from(self.len)
            .map_err(|_large| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.read_range(0, len)
    }
}

/// Reads into memory that nobody filled with zeros before.
pub(super) fn read_range(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset.saturating_add(bytes.len() as u64);
        let read = match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Err(rustix::io::Errno::INTR) => continue,
            read => read?,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    bytes.truncate(len);
    Ok(bytes.into())
}

/// The folder of the value files.
#[derive(Debug)]
pub(super) struct BlobFolder {
    pub(super) path: PathBuf,
    handle: File,
}

impl BlobFolder {
    pub(super) fn open(path: PathBuf) -> Result<BlobFolder, Error> {
        let handle = File::open(&path).map_err(Error::io("open a folder", &path))?;
        Ok(BlobFolder { path, handle })
    }

    /// The value file with a checksum; `None`: it is not held.
    pub(super) fn get(&self, checksum: &Checksum) -> Result<Option<Blob>, Error> {
        let place = BlobPath::of(checksum);
        self.open_file(place.as_str(), checksum)
            .map_err(|error| Error::io("open a crate file", &self.path.join(place.as_str()))(error))
    }

    fn open_file(&self, place: &str, checksum: &Checksum) -> io::Result<Option<Blob>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.handle, place, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = file.metadata()?;
        // An empty file is what some file systems make of a rename that a power cut caught. No
        // crate file is empty.
        let usable = found.is_file() && found.len() > 0;
        Ok(usable.then(|| Blob {
            len: found.len(),
            file: Arc::new(file),
            checksum: *checksum,
        }))
    }

    /// The length of the value file with a checksum; `None`: it is not held.
    pub(super) fn length(&self, checksum: &Checksum) -> Option<u64> {
        let place = BlobPath::of(checksum);
        let found =
            rustix::fs::statat(&self.handle, place.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(found.st_size)
            .ok()
            .filter(|length| *length > 0)
    }

    /// Renames a complete, synced spool file to its place. Returns whether it is new there.
    pub(super) fn place(&self, spool: &Path, checksum: &Checksum) -> Result<bool, Error> {
        let place = BlobPath::of(checksum);
        let target = self.path.join(place.as_str());
        let is_new = self.length(checksum).is_none();
        let folder = self.path.join(place.folder());
        let fault = Error::io("move a crate file to its place", &target);
        match fs::rename(spool, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => {
                fs::create_dir(&folder).map_err(&fault)?;
                sync_folder(&self.path)?;
                fs::rename(spool, &target).map_err(&fault)?;
            }
            renamed => renamed.map_err(&fault)?,
        }
        Ok(is_new)
    }

    /// Syncs the folder that holds a checksum's file.
    pub(super) fn sync(&self, checksum: &Checksum) -> Result<(), Error> {
        sync_folder(&self.path.join(BlobPath::of(checksum).folder()))
    }

    /// Looks at every file. `None`: `stop` was set.
    pub(super) fn walk(&self, stop: &AtomicBool) -> Result<Option<Walk>, Error> {
        let fault = Error::io("look through the crate files", &self.path);
        let mut walk = Walk::default();
        for folder in fs::read_dir(&self.path).map_err(&fault)? {
            let folder = folder.map_err(&fault)?;
            if folder.file_type().map_err(&fault)?.is_dir() {
                for file in fs::read_dir(folder.path()).map_err(&fault)? {
                    if stop.load(Relaxed) {
                        return Ok(None);
                    }
                    walk.take(&file.map_err(&fault)?);
                }
            } else {
                walk.not_understood += 1;
            }
        }
        walk.prefixes.sort_unstable();
        Ok(Some(walk))
    }
}

/// What a walk through the value files found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) held: Held,
    /// The first 8 bytes of each checksum, sorted: a quarter of the memory of the checksums, and
    /// what it takes for the same is asked for by its full name.
    pub(super) prefixes: Vec<u64>,
    pub(super) not_understood: u64,
}

impl Walk {
    fn take(&mut self, file: &fs::DirEntry) {
        let path = file.path();
        let named = checksum_named(&path);
        let length = file.metadata().ok().filter(fs::Metadata::is_file);
        match (named, length.map(|found| found.len())) {
            (Some(checksum), Some(length)) if length > 0 => {
                self.held.add(&checksum, length);
                self.prefixes.push(prefix_of(&checksum));
            }
            _ => self.not_understood += 1,
        }
    }

    pub(super) fn may_hold(&self, checksum: &Checksum) -> bool {
        self.prefixes.binary_search(&prefix_of(checksum)).is_ok()
    }
}

/// The checksum that a path stands for, if it is exactly where that value file belongs.
pub(super) fn checksum_named(path: &Path) -> Option<Checksum> {
    let digits = path.file_name()?.to_str()?.strip_suffix(RAW_SUFFIX)?;
    let checksum: Checksum = digits.parse().ok()?;
    path.ends_with(BlobPath::of(&checksum).as_str())
        .then_some(checksum)
}

/// Removes what an earlier process was still receiving. Returns how many files there were.
pub(super) fn sweep(spool: &Path) -> Result<u64, Error> {
    let fault = Error::io("sweep half-received files", spool);
    let mut swept = 0;
    for file in fs::read_dir(spool).map_err(&fault)? {
        let file = file.map_err(&fault)?;
        if !file.file_type().map_err(&fault)?.is_dir() {
            fs::remove_file(file.path()).map_err(&fault)?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Syncs each folder once for all the files that were moved into it; several side by side, so that
/// the file system may write them together.
pub(super) fn sync_folders<'a>(
    blobs: &BlobFolder,
    placed: impl Iterator<Item = &'a Checksum>,
) -> BTreeMap<u8, Result<(), Error>> {
    let folders: BTreeMap<u8, &Checksum> = placed
        .map(|checksum| {
            let [first, ..] = *checksum.as_bytes();
            (first, checksum)
        })
        .collect();
    let folders: Vec<(u8, &Checksum)> = folders.into_iter().collect();
    let share = folders.len().div_ceil(MAX_SYNC_THREADS).max(1);
    let mut shares = folders.chunks(share);
    let own = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares
            .map(|share| scope.spawn(|| sync_share(blobs, share)))
            .collect();
        let mut synced = sync_share(blobs, own);
        for other in others {
            synced.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        synced.into_iter().collect()
    })
}

fn sync_share(blobs: &BlobFolder, share: &[(u8, &Checksum)]) -> Vec<(u8, Result<(), Error>)> {
    share
        .iter()
        .map(|(first, checksum)| (*first, blobs.sync(checksum)))
        .collect()
}

/// A value file that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its checksum.
    pub checksum: Checksum,
    /// The crate whose rows name it; `None`: no row does.
    pub of: Option<CrateName>,
    /// Whether it is set aside in the quarantine instead of being removed.
    pub set_aside: bool,
}

/// `ab/<sha256>.raw`, the place of a value file below `blobs/`, on the stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlobPath([u8; BLOB_PATH_BYTES]);

/// Two digits, a slash, 64 digits, `.raw`.
const BLOB_PATH_BYTES: usize = 71;

/// How the name of a value file ends whose bytes are the crate file's own.
pub(super) const RAW_SUFFIX: &str = ".raw";

impl BlobPath {
    pub(super) fn of(checksum: &Checksum) -> BlobPath {
        let mut path = [b'/'; BLOB_PATH_BYTES];
        let [high, low, _slash, rest @ ..] = &mut path;
        let (digits, suffix) = rest.split_at_mut(64);
        for (pair, byte) in digits.chunks_exact_mut(2).zip(checksum.as_bytes()) {
            if let [high, low] = pair {
                *high = digit(byte >> 4);
                *low = digit(byte & 15);
            }
        }
        suffix.copy_from_slice(RAW_SUFFIX.as_bytes());
        if let [first, second, ..] = digits {
            *high = *first;
            *low = *second;
        }
        BlobPath(path)
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The folder: the first two digits.
    pub(super) fn folder(&self) -> &str {
        self.as_str().get(..2).unwrap_or_default()
    }
}

fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0'.saturating_add(value),
        _ => b'a'.saturating_add(value.saturating_sub(10)),
    }
}

impl BlobFolder {
    /// Takes a file away. Returns its length; `None`: it was not there. The folder is not synced.
    pub(super) fn remove(&self, removal: &Removal) -> Result<Option<u64>, Error> {
        let place = BlobPath::of(&removal.checksum);
        let path = self.path.join(place.as_str());
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(Error::io("look at a crate file", &path))?,
        };
        if removal.set_aside {
            self.set_aside(&path, &removal.checksum)?;
        } else {
            unless_gone(fs::remove_file(&path)).map_err(Error::io("remove a crate file", &path))?;
        }
        // An empty file never counted.
        Ok(Some(found.len()).filter(|length| *length > 0))
    }

    fn set_aside(&self, path: &Path, checksum: &Checksum) -> Result<(), Error> {
        let Some(data) = self.path.parent() else {
            return Ok(());
        };
        let folder = data.join("quarantine");
        let target = folder.join(format!("{checksum}.raw"));
        let fault = Error::io("set a crate file aside", &target);
        fs::create_dir_all(&folder).map_err(&fault)?;
        fs::rename(path, &target).map_err(&fault)?;
        sync_folder(&folder)?;
        sync_folder(data)
    }

    /// Hands every value file to `visit`: a folder at a time, so that memory stays small.
    pub(super) fn visit(
        &self,
        stop: &AtomicBool,
        mut visit: impl FnMut(Checksum, u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let folders: BTreeSet<PathBuf> = entries(&self.path)?
            .into_iter()
            .map(|folder| folder.path())
            .filter(|folder| folder.is_dir())
            .collect();
        for folder in folders {
            for (checksum, length) in files_of(&folder)? {
                if stop.load(Relaxed) || visit(checksum, length).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn files_of(folder: &Path) -> Result<Vec<(Checksum, u64)>, Error> {
    let mut files = Vec::new();
    for file in entries(folder)? {
        let length = file.metadata().ok().filter(fs::Metadata::is_file);
        let named = checksum_named(&file.path());
        files.extend(named.zip(length.map(|found| found.len())));
    }
    files.sort_unstable();
    Ok(files)
}

/// What is in a folder; nothing, if there is none.
pub(super) fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    let fault = Error::io("look into a folder", dir);
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        found => {
            let entries = found.map_err(&fault)?.collect::<io::Result<Vec<_>>>();
            entries.map_err(&fault)
        }
    }
}

pub(super) fn unless_gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_file_is_found_by_its_checksum() {
        let path = BlobPath::of(&Checksum::of(b""));
        assert_eq!(
            path.as_str(),
            "e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.raw"
        );
        assert_eq!(path.folder(), "e3");
    }
}
