//! Crate files on their way in: the spool file, until it is committed.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use bytes::Bytes;

use super::{
    blob_store::{BlobReader, SpooledBlob, read_range},
    error::{Error, Mismatch},
    queue::{Hold, Job},
    shared::Shared,
};
use crate::registry::{Checksum, Release, checksum::Hasher};

/// While a file of unknown length comes in, the room is looked at every so many bytes.
const CHECK_EVERY_BYTES: u64 = 8 << 20;

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
    pub fn commit(mut self, release: &Release, now: SystemTime) -> Result<BlobReader, Error> {
        self.verify().map_err(Error::Mismatch)?;
        let spooled = SpooledBlob::sync(&self.file, &self.path, self.expected, self.written)
            .map_err(|error| self.shared.write_fault(&error, &self.path, 0))?;
        self.shared.queue.call(|reply| {
            Job::Hold(Hold {
                name: release.name.clone(),
                spooled,
                now,
                reply,
            })
        })?;
        self.placed = true;
        Ok(BlobReader::new(
            Arc::clone(&self.file),
            self.written,
            self.expected,
        ))
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
