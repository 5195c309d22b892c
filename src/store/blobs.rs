//! Blobs: read, walked through, owned and removed; and what else lies about in the data folder and
//! can go.
//!
//! ```text
//! quarantine/<sha256>.raw    a value file that is damaged: never served, removed by who tidies up
//! sled.broken-TIME/          a sled that was set aside
//! ```

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::SystemTime,
};

use super::{
    blob_store::{BlobReader, BlobStore as _, Removal},
    error::Error,
    folder::{entries, remove_any, unless_gone},
    handle::Store,
    owners::{self, BlobOwner},
    queue::Job,
    reservation::Reservation,
};
use crate::registry::{Checksum, CrateName};

/// How many files go to the committer at a time.
const REMOVALS_AT_A_TIME: usize = 64;

/// What something is that lies about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftoverKind {
    /// A damaged crate file that was set aside.
    Quarantined,
    /// An index database that did not open and was set aside.
    BrokenIndex,
}

/// Something that lies about and can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Where.
    pub path: PathBuf,
    /// How many bytes it has.
    pub bytes: u64,
    /// When it was set aside; of a crate file: when it was last changed, if that is all that is
    /// known.
    pub since: SystemTime,
}

impl Store {
    /// The crate file with a checksum; `None`: it is not cached. One that cannot be opened is an
    /// error, never a miss.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn blob(&self, checksum: &Checksum) -> Result<Option<BlobReader>, Error> {
        self.shared().blobs.open(checksum).await
    }

    /// As [`blob`](Store::blob), for jobs on blocking threads.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob_blocking(&self, checksum: &Checksum) -> Result<Option<BlobReader>, Error> {
        pollster::block_on(self.blob(checksum))
    }

    /// Whether there is a crate file with a checksum; one that cannot be looked at counts as being
    /// there. Cheap: one look at its name.
    pub fn holds(&self, checksum: &Checksum) -> bool {
        self.shared().blobs.has(checksum)
    }

    /// The size of the crate file with a checksum; `None`: it is not cached. Cheap: one look at its
    /// name.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be looked at.
    pub fn blob_bytes(&self, checksum: &Checksum) -> Result<Option<u64>, Error> {
        self.shared().blobs.length(checksum)
    }

    /// When a crate file came in; `None`: it is not there. An empty one is, though it counts as not
    /// cached.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be looked at.
    pub fn blob_since(&self, checksum: &Checksum) -> Result<Option<SystemTime>, Error> {
        let found = self.shared().blobs.stat(checksum)?;
        Ok(found.and_then(|found| found.since))
    }

    /// Hands every reference to a crate file to `visit`, until it breaks: what no one refers to may
    /// go. Reads the whole of sled: for jobs, not for requests.
    ///
    /// # Errors
    /// If sled cannot be read; damaged records are passed over, which
    /// [`Totals::damaged`](super::Totals) counts.
    pub fn visit_blob_owners(
        &self,
        mut visit: impl FnMut(&Checksum, &BlobOwner<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        match self.shared().catalogue() {
            Some(catalogue) => owners::visit(self.shared(), &catalogue, &mut visit),
            None => Ok(()),
        }
    }

    /// Makes room for a crate file that is about to come in. `len`: its length, where it is known.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`].
    pub fn reserve(&self, checksum: &Checksum, len: Option<u64>) -> Result<Reservation, Error> {
        Reservation::new(self.share(), checksum, len)
    }

    /// Removes a crate file, durably, and its marks. Returns its length; `None`: it was not there.
    /// Who holds it open reads on. Looks through all records for who names it: for single files;
    /// many go by [`remove_blobs`](Store::remove_blobs).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remove_blob(&self, checksum: &Checksum) -> Result<Option<u64>, Error> {
        let names = self.names_with(checksum)?;
        let removal = |of| Removal {
            checksum: *checksum,
            of,
            set_aside: false,
        };
        let removals = if names.is_empty() {
            vec![removal(None)]
        } else {
            names.into_iter().map(|name| removal(Some(name))).collect()
        };
        let removed = self.remove_blobs(removals)?;
        Ok(removed.into_iter().flatten().next())
    }

    fn names_with(&self, checksum: &Checksum) -> Result<Vec<CrateName>, Error> {
        let mut names = Vec::new();
        self.visit_blob_owners(|owned, owner| {
            let BlobOwner::CrateVersion { name, .. } = owner;
            if owned == checksum && names.last() != Some(*name) {
                names.push((*name).clone());
            }
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }

    /// Removes crate files, or sets them aside, durably; the marks of the names that are told
    /// follow, later if the disk is too full for records now: readers see at once what is gone. Returns
    /// the length of each; `None`: it was not there, or it was to go because no row names it, and one
    /// does by now.
    ///
    /// # Errors
    /// See [`Error`]; a part of them may be gone then.
    pub fn remove_blobs(&self, removals: Vec<Removal>) -> Result<Vec<Option<u64>>, Error> {
        let mut freed = Vec::with_capacity(removals.len());
        let mut rest = removals.into_iter().peekable();
        while rest.peek().is_some() {
            let part = rest.by_ref().take(REMOVALS_AT_A_TIME).collect();
            let queue = &self.shared().queue;
            freed.extend(queue.call(|reply| Job::Remove(part, reply))?);
        }
        Ok(freed)
    }

    /// Hands every crate file with its length to `visit`, in the order of the checksums, until it
    /// breaks or `stop` is set. One that is empty or cannot be looked at has the length 0. Reads the folders: for jobs, not for requests.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn visit_blobs(
        &self,
        stop: &AtomicBool,
        mut visit: impl FnMut(Checksum, u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.shared().blobs.walk(stop, &mut visit).map(drop)
    }

    /// What was set aside and can go.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let dir = &self.shared().folder.dir;
        let mut found = Vec::new();
        for entry in entries(&dir.join("quarantine"))? {
            found.extend(leftover(&entry, LeftoverKind::Quarantined)?);
        }
        for entry in entries(dir)? {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("sled.broken-") {
                found.extend(leftover(&entry, LeftoverKind::BrokenIndex)?);
            }
        }
        Ok(found)
    }

    /// Removes what was set aside. What is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_leftover(&self, leftover: &Leftover) -> Result<(), Error> {
        unless_gone(remove_any(&leftover.path))
            .map_err(Error::io("remove what was set aside", &leftover.path))
    }
}

fn leftover(entry: &fs::DirEntry, kind: LeftoverKind) -> Result<Option<Leftover>, Error> {
    let path = entry.path();
    let Ok(found) = entry.metadata() else {
        return Ok(None);
    };
    let bytes = if found.is_dir() {
        bytes_below(&path)?
    } else {
        found.len()
    };
    Ok(Some(Leftover {
        kind,
        bytes,
        since: set_aside_at(&path, &found),
        path,
    }))
}

/// A broken index is named by the second; a file in the quarantine got its name there, which is a
/// change of its status and not of its contents.
fn set_aside_at(path: &Path, found: &fs::Metadata) -> SystemTime {
    use std::os::unix::fs::MetadataExt as _;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let seconds = name
        .strip_prefix("sled.broken-")
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_else(|| u64::try_from(found.ctime()).unwrap_or(0));
    let since = std::time::Duration::from_secs(seconds);
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn bytes_below(dir: &Path) -> Result<u64, Error> {
    let mut bytes: u64 = 0;
    for entry in entries(dir)? {
        let found = match entry.metadata() {
            Ok(found) => found,
            Err(_gone) => continue,
        };
        bytes = bytes.saturating_add(if found.is_dir() {
            bytes_below(&entry.path())?
        } else {
            found.len()
        });
    }
    Ok(bytes)
}
