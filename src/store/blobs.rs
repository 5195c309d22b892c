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
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::ReadWriteFlags;

use super::{
    commit::{Hold, Job},
    error::{Error, Mismatch},
    folder::sync_folder,
    keys::{BlobPath, Held, RAW_SUFFIX, prefix_of},
    shared::Shared,
};
use crate::registry::{Checksum, Release, checksum::Hasher};

/// While a file of unknown length comes in, the room is looked at every so many bytes.
const CHECK_EVERY_BYTES: u64 = 8 << 20;

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
fn read_range(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
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

/// A crate file on its way in: nobody sees it before [`commit`](Reservation::commit). Dropping it
/// removes what was received.
pub struct Reservation {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<File>,
    hasher: Hasher,
    expected: Checksum,
    written: u64,
    /// Bytes that were asked for and did not come yet.
    awaited: u64,
    placed: bool,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("path", &self.path)
            .field("expected", &self.expected)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    pub(super) fn new(
        shared: Arc<Shared>,
        expected: &Checksum,
        len: Option<u64>,
    ) -> Result<Reservation, Error> {
        let awaited = len.unwrap_or(0);
        shared.check_space(awaited)?;
        let number = shared.spooled.fetch_add(1, Relaxed);
        let path = shared
            .folder
            .dir
            .join("spool")
            .join(format!("{number}.part"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("make a file to receive into", &path))?;
        shared.awaited_bytes.fetch_add(awaited, Relaxed);
        Ok(Reservation {
            shared,
            path,
            file: Arc::new(file),
            hasher: Hasher::default(),
            expected: *expected,
            written: 0,
            awaited,
            placed: false,
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`]: the reservation is of no more use then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let after = self.written.saturating_add(length);
        if self.awaited == 0 && self.written / CHECK_EVERY_BYTES != after / CHECK_EVERY_BYTES {
            self.shared.check_space(length)?;
        }
        if let Err(error) = self.file.write_all_at(bytes, self.written) {
            return Err(self.shared.write_fault(&error, &self.path, length));
        }
        self.hasher.update(bytes);
        self.written = after;
        let came = self.awaited.min(length);
        self.awaited -= came;
        self.shared.awaited_bytes.fetch_sub(came, Relaxed);
        Ok(())
    }

    /// The checksum that the file must have.
    pub fn expected(&self) -> &Checksum {
        &self.expected
    }

    /// How many bytes were taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// A reader of what was taken, good for as long as it is kept, whatever becomes of this.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader {
            file: Arc::clone(&self.file),
        }
    }

    /// Whether what was taken is what was expected.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn verify(&self) -> Result<(), Mismatch> {
        let actual = self.hasher.clone().finish();
        if actual == self.expected {
            Ok(())
        } else {
            Err(Mismatch {
                expected: self.expected,
                actual,
                len: self.written,
            })
        }
    }

    /// Makes the file visible, durably, as the crate file of `release`. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is another file than was expected, and what the disk says; nothing
    /// is visible then. After [`Error::Wedged`] it may become visible later.
    pub fn commit(mut self, release: &Release, now: SystemTime) -> Result<Blob, Error> {
        self.verify().map_err(Error::Mismatch)?;
        if let Err(error) = self.file.sync_data() {
            return Err(self.shared.write_fault(&error, &self.path, 0));
        }
        self.shared.queue.call(|reply| {
            Job::Hold(Hold {
                release: release.clone(),
                spool: self.path.clone(),
                checksum: self.expected,
                len: self.written,
                now,
                reply,
            })
        })?;
        self.placed = true;
        Ok(Blob {
            file: Arc::clone(&self.file),
            len: self.written,
            checksum: self.expected,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.awaited_bytes.fetch_sub(self.awaited, Relaxed);
        if !self.placed
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "could not remove a half-received file");
        }
    }
}

/// Reads what a [`Reservation`] has taken so far. The caller keeps the watermark: it must not ask
/// for more than [`Reservation::written`] told.
#[derive(Debug, Clone)]
pub struct SpoolReader {
    file: Arc<File>,
}

impl SpoolReader {
    /// `len` bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are not so many.
    pub fn read_range(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        read_range(&self.file, offset, len)
    }
}
