//! The blob store: where crate files are kept by their sha256.
//!
//! [`BlobStore`] is what every tier can do. The only tier today is [`RawFiles`](super::raw_files);
//! [`Blobs`](super::raw_files::Blobs) names the type that the store uses. Another tier (packed
//! records, a bucket) is another implementation in a file of its own, with a type beside it that
//! asks one tier after the other and that `Blobs` names then.
//!
//! The trait is dispatched statically, so that an `open` that is ready at once costs no allocation
//! for its future and no lock. Only `open` is asynchronous: clients wait for it, and a tier may have
//! to fetch or to unpack the bytes first. It returns a [`BlobReader`], whose bytes are on this
//! machine. The other methods are called by the committer's thread and by jobs on blocking threads.
//! A tier that needs a runtime or a client takes it in its constructor.
//!
//! An I/O error is never a miss: `None` means that there is no blob. What cannot be opened or looked
//! at is an error with its path, so no one fetches it again or writes over it unnoticed.

use std::{
    fs::File,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::SystemTime,
};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;

use super::{error::Error, state::Held};
use crate::registry::{Checksum, CrateName};

/// A place where blobs are kept. See the module's documentation.
pub(super) trait BlobStore {
    /// Opens a blob; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::Io`] for a blob that cannot be opened.
    fn open(
        &self,
        checksum: &Checksum,
    ) -> impl Future<Output = Result<Option<BlobReader>, Error>> + Send;

    /// What is known of a blob without opening it; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::Io`] where that cannot be found out.
    fn stat(&self, checksum: &Checksum) -> Result<Option<BlobFacts>, Error>;

    /// Takes spool files in. What is returned for one is durable, or an error.
    fn put(&self, spooled: &[&SpooledBlob]) -> Vec<Result<DurableBlob, Error>>;

    /// Removes blobs, or sets them aside. Returns the length of each, durably gone; `None`: there
    /// was none.
    fn remove(&self, removals: &[&Removal]) -> Vec<Result<Option<u64>, Error>>;

    /// Hands every blob with its length to `visit`, in the order of the checksums, until it breaks
    /// or `stop` is set. A blob that cannot be read has the length 0. Returns how many things there
    /// are that this build does not know.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn walk(
        &self,
        stop: &AtomicBool,
        visit: &mut dyn FnMut(Checksum, u64) -> ControlFlow<()>,
    ) -> Result<u64, Error>;

    /// The length of a blob; `None`: there is none that can be served.
    ///
    /// # Errors
    /// As [`stat`](BlobStore::stat).
    fn length(&self, checksum: &Checksum) -> Result<Option<u64>, Error> {
        let found = self.stat(checksum)?;
        Ok(found.map(|found| found.len).filter(|length| *length > 0))
    }

    /// Whether there is a blob. One that cannot be looked at counts as being there: only what is
    /// known to be absent may be fetched, and marked as not cached.
    fn has(&self, checksum: &Checksum) -> bool {
        !matches!(self.length(checksum), Ok(None))
    }
}

/// What is known of a blob without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobFacts {
    /// Its length. 0: some file systems make an empty file of a rename that a power cut caught. No
    /// crate file is empty, so it counts as absent.
    pub(super) len: u64,
    /// When it came in; `None`: the tier does not know.
    pub(super) since: Option<SystemTime>,
}

/// A blob that is open: its bytes are on this machine, and stay readable when it is removed.
#[derive(Debug, Clone)]
pub struct BlobReader {
    file: Arc<File>,
    len: u64,
    checksum: Checksum,
}

impl BlobReader {
    pub(super) fn new(file: Arc<File>, len: u64, checksum: Checksum) -> BlobReader {
        BlobReader {
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

/// Reads into memory that nothing filled with zeros before.
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

/// A complete crate file in the spool, whose bytes are synced.
#[derive(Debug)]
pub(super) struct SpooledBlob {
    path: PathBuf,
    checksum: Checksum,
    len: u64,
}

impl SpooledBlob {
    /// Syncs a spool file that has the checksum.
    ///
    /// # Errors
    /// What the sync says. The file must not be used then: a later sync may not tell.
    pub(super) fn sync(
        file: &File,
        path: &Path,
        checksum: Checksum,
        len: u64,
    ) -> io::Result<SpooledBlob> {
        file.sync_data()?;
        Ok(SpooledBlob {
            path: path.to_owned(),
            checksum,
            len,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn checksum(&self) -> &Checksum {
        &self.checksum
    }
}

/// A blob that survives a power cut: its bytes and its name are synced.
#[derive(Debug)]
pub(super) struct DurableBlob {
    checksum: Checksum,
    len: u64,
    is_new: bool,
}

impl DurableBlob {
    /// For a blob store that has synced the name of what was spooled.
    pub(super) fn synced(spooled: &SpooledBlob, is_new: bool) -> DurableBlob {
        DurableBlob {
            checksum: spooled.checksum,
            len: spooled.len,
            is_new,
        }
    }

    pub(super) fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether there was no such blob before.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }
}

/// A blob that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its checksum.
    pub checksum: Checksum,
    /// The crate whose records own it; `None`: no record does.
    pub of: Option<CrateName>,
    /// Whether it is set aside in the quarantine instead of being removed.
    pub set_aside: bool,
}

/// Checksums by their first 8 bytes: a quarter of the memory, and two of millions of blobs that
/// share them are not to be expected.
#[derive(Debug, Default)]
pub(super) struct ChecksumSet(Vec<u64>);

impl ChecksumSet {
    pub(super) fn of(mut prefixes: Vec<u64>) -> ChecksumSet {
        prefixes.sort_unstable();
        ChecksumSet(prefixes)
    }

    pub(super) fn may_contain(&self, checksum: &Checksum) -> bool {
        self.0.binary_search(&checksum.prefix()).is_ok()
    }
}

/// All blobs, as a walk found them.
#[derive(Debug, Default)]
pub(super) struct BlobWalk {
    pub(super) held: Held,
    pub(super) checksums: ChecksumSet,
    pub(super) not_understood: u64,
}

impl BlobWalk {
    /// Looks at every blob. `None`: `stop` was set.
    ///
    /// # Errors
    /// As [`BlobStore::walk`].
    pub(super) fn through(
        blobs: &impl BlobStore,
        stop: &AtomicBool,
    ) -> Result<Option<BlobWalk>, Error> {
        let (mut walk, mut prefixes) = (BlobWalk::default(), Vec::new());
        let not_understood = blobs.walk(stop, &mut |checksum, length| {
            if length > 0 {
                walk.held.add(&checksum, length);
                prefixes.push(checksum.prefix());
            } else {
                walk.not_understood += 1;
            }
            ControlFlow::Continue(())
        })?;
        walk.not_understood += not_understood;
        walk.checksums = ChecksumSet::of(prefixes);
        let is_whole = !stop.load(std::sync::atomic::Ordering::Relaxed);
        Ok(is_whole.then_some(walk))
    }
}
