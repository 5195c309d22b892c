//! Blobs as plain files, the first tier of the blob store: immutable, named by their sha256.
//!
//! ```text
//! blobs/ab/ab12….raw         the crate file with the sha256 ab12…, byte for byte
//! quarantine/ab12….raw       a damaged one that was set aside; never served
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
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{
    blob_store::{BlobFacts, BlobReader, BlobStore, DurableBlob, Removal, SpooledBlob},
    error::Error,
    folder::{entries, sync_folder, unless_gone},
};
use crate::registry::Checksum;

/// How many folders are synced side by side.
const MAX_SYNC_THREADS: usize = 8;

/// What the store keeps its blobs in.
pub(super) type Blobs = RawFiles;

/// The folder of the raw files.
#[derive(Debug)]
pub(super) struct RawFiles {
    path: PathBuf,
    handle: File,
}

impl RawFiles {
    pub(super) fn open_folder(path: PathBuf) -> Result<RawFiles, Error> {
        let handle = File::open(&path).map_err(Error::io("open a folder", &path))?;
        Ok(RawFiles { path, handle })
    }

    fn fault(&self, doing: &'static str, place: &RawPath) -> impl Fn(io::Error) -> Error + use<> {
        Error::io(doing, &self.path.join(place.as_str()))
    }

    fn open_file(&self, place: &str, checksum: &Checksum) -> io::Result<Option<BlobReader>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.handle, place, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(not_a_file());
        }
        // See `BlobFacts::len`.
        let reader = || BlobReader::new(Arc::new(file), found.len(), *checksum);
        Ok((found.len() > 0).then(reader))
    }

    fn facts(&self, place: &str) -> io::Result<Option<BlobFacts>> {
        let found = match rustix::fs::statat(&self.handle, place, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(not_a_file());
        }
        let seconds = u64::try_from(found.st_mtime).unwrap_or(0);
        let nanoseconds = u32::try_from(found.st_mtime_nsec).unwrap_or(0);
        Ok(Some(BlobFacts {
            len: u64::try_from(found.st_size).unwrap_or(0),
            since: SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds)),
        }))
    }

    /// Renames a spool file to its place. Returns whether it is new there.
    fn rename(&self, spooled: &SpooledBlob) -> Result<bool, Error> {
        let place = RawPath::of(spooled.checksum());
        let target = self.path.join(place.as_str());
        let is_new = self.length(spooled.checksum())?.is_none();
        let folder = self.path.join(place.folder());
        let fault = Error::io("move a crate file to its place", &target);
        match fs::rename(spooled.path(), &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => {
                fs::create_dir(&folder).map_err(&fault)?;
                sync_folder(&self.path)?;
                fs::rename(spooled.path(), &target).map_err(&fault)?;
            }
            renamed => renamed.map_err(&fault)?,
        }
        Ok(is_new)
    }

    /// Removes a file or sets it aside; its folder is not synced.
    fn remove_file(&self, removal: &Removal) -> Result<Option<u64>, Error> {
        let path = self.path.join(RawPath::of(&removal.checksum).as_str());
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
        let target = folder.join(format!("{checksum}{RAW_SUFFIX}"));
        let fault = Error::io("set a crate file aside", &target);
        fs::create_dir_all(&folder).map_err(&fault)?;
        fs::rename(path, &target).map_err(&fault)?;
        sync_folder(&folder)?;
        sync_folder(data)
    }

    /// Does something to the files of many blobs, then syncs each folder of those that succeeded
    /// once. A result becomes the error of its folder's sync.
    fn change<T>(
        &self,
        checksums: impl Iterator<Item = Checksum>,
        changed: Vec<Result<T, Error>>,
        is_moved: impl Fn(&T) -> bool,
    ) -> Vec<Result<T, Error>> {
        let folders: Vec<RawPath> = checksums.map(|checksum| RawPath::of(&checksum)).collect();
        let both = folders.iter().zip(&changed);
        let moved = both.filter(|(_, changed)| changed.as_ref().is_ok_and(&is_moved));
        let synced = self.sync_folders(moved.map(|(path, _)| path.folder()).collect());
        let both = changed.into_iter().zip(&folders);
        let outcome = both.map(|(changed, path)| {
            let changed = changed?;
            match synced.get(path.folder()) {
                Some(Err(error)) if is_moved(&changed) => Err(error.clone()),
                _ => Ok(changed),
            }
        });
        outcome.collect()
    }

    /// Syncs folders, several side by side, so that the file system may write them together.
    fn sync_folders<'a>(&self, folders: BTreeSet<&'a str>) -> BTreeMap<&'a str, Result<(), Error>> {
        let folders: Vec<&str> = folders.into_iter().collect();
        let share = folders.len().div_ceil(MAX_SYNC_THREADS).max(1);
        let sync = |share: &[&'a str]| -> Vec<_> {
            let sync = |folder: &&'a str| (*folder, sync_folder(&self.path.join(folder)));
            share.iter().map(sync).collect()
        };
        let mut shares = folders.chunks(share);
        let own = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let others: Vec<_> = shares
                .map(|share| scope.spawn(move || sync(share)))
                .collect();
            let mut synced = sync(own);
            for other in others {
                synced.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            synced.into_iter().collect()
        })
    }
}

impl BlobStore for RawFiles {
    async fn open(&self, checksum: &Checksum) -> Result<Option<BlobReader>, Error> {
        let place = RawPath::of(checksum);
        self.open_file(place.as_str(), checksum)
            .map_err(|error| self.fault("open a crate file", &place)(error))
    }

    fn stat(&self, checksum: &Checksum) -> Result<Option<BlobFacts>, Error> {
        let place = RawPath::of(checksum);
        self.facts(place.as_str())
            .map_err(|error| self.fault("look at a crate file", &place)(error))
    }

    fn put(&self, spooled: &[&SpooledBlob]) -> Vec<Result<DurableBlob, Error>> {
        let renamed = spooled.iter().map(|spooled| self.rename(spooled)).collect();
        let checksums = spooled.iter().map(|spooled| *spooled.checksum());
        let synced = self.change(checksums, renamed, |_is_new| true);
        let both = spooled.iter().zip(synced);
        both.map(|(spooled, is_new)| Ok(DurableBlob::synced(spooled, is_new?)))
            .collect()
    }

    fn remove(&self, removals: &[&Removal]) -> Vec<Result<Option<u64>, Error>> {
        let removed = removals.iter().map(|one| self.remove_file(one)).collect();
        let checksums = removals.iter().map(|removal| removal.checksum);
        self.change(checksums, removed, Option::is_some)
    }

    /// A folder at a time, so that memory stays small.
    fn walk(
        &self,
        stop: &AtomicBool,
        visit: &mut dyn FnMut(Checksum, u64) -> ControlFlow<()>,
    ) -> Result<u64, Error> {
        let mut folders = BTreeSet::new();
        let mut not_understood = 0;
        let fault = Error::io("look through the crate files", &self.path);
        for entry in fs::read_dir(&self.path).map_err(&fault)? {
            let entry = entry.map_err(&fault)?;
            if entry.file_type().map_err(&fault)?.is_dir() {
                folders.insert(entry.path());
            } else {
                not_understood += 1;
            }
        }
        for folder in folders {
            let mut files = BTreeMap::new();
            for entry in entries(&folder)? {
                match (checksum_named(&entry.path()), length_of(&entry)) {
                    (Some(checksum), Some(length)) => drop(files.insert(checksum, length)),
                    (None, Some(_)) => not_understood += 1,
                    (_, None) => {}
                }
            }
            for (checksum, length) in files {
                if stop.load(Relaxed) || visit(checksum, length).is_break() {
                    return Ok(not_understood);
                }
            }
        }
        Ok(not_understood)
    }
}

fn not_a_file() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// The length of a file; 0 for what is none, or cannot be looked at. `None`: it went meanwhile.
fn length_of(entry: &fs::DirEntry) -> Option<u64> {
    match entry.metadata() {
        Ok(found) if found.is_file() => Some(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(_) | Err(_) => Some(0),
    }
}

/// The checksum that a path stands for, if it is exactly where that file belongs.
fn checksum_named(path: &Path) -> Option<Checksum> {
    let digits = path.file_name()?.to_str()?.strip_suffix(RAW_SUFFIX)?;
    let checksum: Checksum = digits.parse().ok()?;
    path.ends_with(RawPath::of(&checksum).as_str())
        .then_some(checksum)
}

/// `ab/<sha256>.raw`, the place of a raw file below `blobs/`, on the stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawPath([u8; RAW_PATH_BYTES]);

/// Two digits, a slash, 64 digits, `.raw`.
const RAW_PATH_BYTES: usize = 71;

/// How the name of a raw file ends whose bytes are the crate file's own.
const RAW_SUFFIX: &str = ".raw";

impl RawPath {
    pub(super) fn of(checksum: &Checksum) -> RawPath {
        let mut path = [b'/'; RAW_PATH_BYTES];
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
        RawPath(path)
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The folder: the first two digits.
    fn folder(&self) -> &str {
        self.as_str().get(..2).unwrap_or_default()
    }
}

fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0'.saturating_add(value),
        _ => b'a'.saturating_add(value.saturating_sub(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_file_is_found_by_its_checksum() {
        let path = RawPath::of(&Checksum::of(b""));
        assert_eq!(
            path.as_str(),
            "e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.raw"
        );
        assert_eq!(path.folder(), "e3");
    }
}
