//! The data folder itself: whose it is, who has it, and in which format it is.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{
        self,
        ErrorKind::{NotFound, QuotaExceeded, StorageFull},
        Read, Seek, Write,
    },
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::error::Error;
use crate::util::fs::sync_dir;

/// The store format that this build reads and writes. It rises when an older build would do harm.
pub(super) const FORMAT: u32 = 1;

/// The file that marks a folder as half restored.
pub(super) const MARK: &str = "RESTORE-INCOMPLETE";

const FORMAT_WORDS: &str = "orlop store format ";

/// What a data folder may hold; everything else makes a folder without `format` somebody else's.
const OURS: &[&str] = &[
    "format",
    "format.new",
    "lock",
    "git",
    "key",
    "admin.sock",
    "sled",
    "blobs",
    "quarantine",
    "spool",
    "journal",
    "lost+found",
];

/// What the lock file says between a clean stop and the next start.
const CLEAN: &str = "clean\n";

/// The data folder, locked for this process until it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    lock: File,
    /// Whether the last process closed the store in order.
    pub(super) was_clean: bool,
    /// Whether there was no store here.
    pub(super) created: bool,
}

impl Folder {
    /// Takes the folder, making it if there is none.
    ///
    /// # Errors
    /// [`Error::OtherOwner`], [`Error::HalfRestored`], [`Error::NotAStore`], [`Error::Locked`],
    /// [`Error::NewerFormat`] or [`Error::Io`].
    pub(super) fn take(dir: &Path) -> Result<Folder, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create the data folder", dir))?;
        check_owner(dir)?;
        check_mark(dir)?;
        let created = !dir.join("format").exists();
        if created {
            check_contents(dir)?;
        }
        let (lock, was_clean) = take_lock(dir)?;
        // A restore could have begun before the lock was ours.
        check_mark(dir)?;
        Folder::settle(dir, lock, was_clean, created)
    }

    /// Goes on with a folder whose lock is held already.
    ///
    /// # Errors
    /// [`Error::NewerFormat`] or [`Error::Io`].
    pub(super) fn settle(
        dir: &Path,
        lock: File,
        was_clean: bool,
        created: bool,
    ) -> Result<Folder, Error> {
        if created {
            write_format(dir)?;
        } else {
            check_format(dir)?;
        }
        for name in ["blobs", "spool"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create a folder", &path))?;
        }
        sync_folder(dir)?;
        Ok(Folder {
            dir: dir.to_owned(),
            lock,
            was_clean,
            created,
        })
    }

    /// Notes that the store was closed in order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn note_clean(&self) -> Result<(), Error> {
        write_lock(&self.lock, CLEAN).map_err(Error::io("write the lock file", &self.dir))
    }
}

/// A lock goes with the last descriptor of its file, and a child that another thread has just
/// started has them all for a moment: so it is given back by word.
impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "could not unlock the store");
        }
    }
}

/// A store belongs to one user: files that another one makes could not be read back.
pub(super) fn check_owner(dir: &Path) -> Result<(), Error> {
    let owner = fs::metadata(dir)
        .map_err(Error::io("look at the data folder", dir))?
        .uid();
    let user = rustix::process::geteuid().as_raw();
    if owner == user {
        Ok(())
    } else {
        Err(Error::OtherOwner {
            dir: dir.to_owned(),
            owner,
            user,
        })
    }
}

fn check_mark(dir: &Path) -> Result<(), Error> {
    // A link that leads nowhere is a mark, too.
    match fs::symlink_metadata(dir.join(MARK)) {
        Ok(_) => Err(Error::HalfRestored {
            dir: dir.to_owned(),
            mark: MARK,
        }),
        Err(error) if error.kind() == NotFound => Ok(()),
        Err(error) => Err(Error::io("look at the data folder", dir)(error)),
    }
}

fn check_contents(dir: &Path) -> Result<(), Error> {
    for name in names(dir)? {
        if !is_ours(&name) {
            return Err(Error::NotAStore {
                dir: dir.to_owned(),
                found: name,
            });
        }
    }
    Ok(())
}

/// Whether a store may have something of this name.
pub(super) fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name.starts_with("sled.broken-")
}

/// What is in a folder.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let fault = Error::io("look into the data folder", dir);
    let entries = fs::read_dir(dir).map_err(&fault)?;
    let name =
        |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<Result<_, _>>().map_err(&fault)
}

/// The lock, and whether the last process closed the store in order.
///
/// # Errors
/// [`Error::Locked`] or [`Error::Io`].
pub(super) fn take_lock(dir: &Path) -> Result<(File, bool), Error> {
    let path = dir.join("lock");
    let fault = Error::io("lock the store", &path);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(&fault)?;
    let locked = lock.try_lock();
    let mut said = String::new();
    let read = (&mut lock).take(64).read_to_string(&mut said);
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked {
                dir: dir.to_owned(),
                pid: said.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(fault(error)),
    }
    let was_clean = read.is_ok() && said == CLEAN;
    write_lock(&lock, &format!("{}\n", std::process::id())).map_err(&fault)?;
    Ok((lock, was_clean))
}

/// Synced, because the next start believes it. A full disk must not keep the store from serving:
/// the lock is the file, not what it says, and one that says nothing only costs a look.
fn write_lock(mut lock: &File, text: &str) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    match lock.write_all(text.as_bytes()) {
        Err(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => {
            tracing::warn!(%error, "could not write the lock file");
        }
        written => written?,
    }
    lock.sync_all()
}

fn write_format(dir: &Path) -> Result<(), Error> {
    let new = dir.join("format.new");
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT_WORDS}{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&new, dir.join("format"))
    };
    write().map_err(Error::io("write the store's format", &new))
}

fn check_format(dir: &Path) -> Result<(), Error> {
    match found_format(&dir.join("format"))? {
        // Damaged text: what the store holds is checked piece by piece anyway.
        None => write_format(dir),
        Some(_) => Ok(()),
    }
}

/// The format that a file tells, which this build reads; `None`: its text is damaged.
///
/// # Errors
/// [`Error::NewerFormat`] or [`Error::Io`].
pub(super) fn found_format(path: &Path) -> Result<Option<u32>, Error> {
    let text = fs::read_to_string(path).map_err(Error::io("read the store's format", path))?;
    let found = text
        .strip_prefix(FORMAT_WORDS)
        .and_then(|number| number.trim_end().parse().ok());
    match found {
        Some(found) if found > FORMAT => Err(Error::NewerFormat {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
        found => Ok(found),
    }
}

/// What is in a folder; nothing, if there is none.
pub(super) fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    let fault = Error::io("look into a folder", dir);
    match fs::read_dir(dir) {
        Err(error) if error.kind() == NotFound => Ok(Vec::new()),
        found => {
            let entries = found.map_err(&fault)?.collect::<io::Result<Vec<_>>>();
            entries.map_err(&fault)
        }
    }
}

/// What is gone already is no error.
pub(super) fn unless_gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Removes a file or a folder. Of a link the link is removed, and not what it leads to.
pub(super) fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Syncs the names in a folder.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    sync_dir(path).map_err(Error::io("sync a folder", path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_at_once_though_a_child_has_its_descriptors() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::take(place.path()).expect("it is free");
        let of_a_child = folder.lock.try_clone().expect("a descriptor");
        drop(folder);
        Folder::take(place.path()).expect("it is free again");
        drop(of_a_child);
    }
}
