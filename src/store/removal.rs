//! Taking value files away, and what else lies about in the data folder and can go.
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
    blobs::{Blob, BlobPath, Removal, entries, unless_gone},
    error::Error,
    handle::Store,
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
    /// The crate file with a checksum; `None`: it is not held.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob(&self, checksum: &Checksum) -> Result<Option<Blob>, Error> {
        self.shared().blobs.get(checksum)
    }

    /// Whether the crate file with a checksum is held. Cheap: one look at its name.
    pub fn holds(&self, checksum: &Checksum) -> bool {
        self.shared().blobs.length(checksum).is_some()
    }

    /// The size of the crate file with a checksum; `None`: it is not held. Cheap: one look at its name.
    pub fn blob_bytes(&self, checksum: &Checksum) -> Option<u64> {
        self.shared().blobs.length(checksum)
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
        self.visit(&mut |_key, view| {
            if view.rows().any(|row| row.checksum == *checksum) {
                names.extend(view.name());
            }
            true
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
    /// breaks or `stop` is set. Files that are none are passed over, empty ones are told with the
    /// length 0. Reads the folders: for jobs, not for requests.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn visit_blobs(
        &self,
        stop: &AtomicBool,
        visit: impl FnMut(Checksum, u64) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.shared().blobs.visit(stop, visit)
    }

    /// When a crate file came in; `None`: it is not held.
    ///
    /// # Errors
    /// None today: a file that cannot be looked at counts as not held.
    pub fn blob_since(&self, checksum: &Checksum) -> Result<Option<SystemTime>, Error> {
        let path = self.shared().folder.dir.join("blobs");
        let found = fs::symlink_metadata(path.join(BlobPath::of(checksum).as_str()));
        Ok(found.and_then(|found| found.modified()).ok())
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
        let removed = match leftover.kind {
            LeftoverKind::Quarantined => fs::remove_file(&leftover.path),
            LeftoverKind::BrokenIndex => fs::remove_dir_all(&leftover.path),
        };
        unless_gone(removed).map_err(Error::io("remove what was set aside", &leftover.path))
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
