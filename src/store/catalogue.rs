//! Hides sled: records by name, opened with a deadline, read without trust, written durably.
//!
//! What sled 0.34.7 does, and what is done about it here:
//! - it panics or hangs on some damaged files: it is opened on a thread of its own, with a deadline,
//!   and every call is guarded against panics;
//! - its `flush` is `sync_file_range`, which is not fsync: its files and folder are synced after it;
//! - a leaf over a quarter of a segment goes to a side file that is never synced: segments are as
//!   large as may be, and side files are synced here;
//! - a snapshot half written when the power went (`snap.….generating`) is taken for the newest one
//!   and refused as damaged: it is removed before opening;
//! - background work names files by the path it was opened with: that path goes through
//!   `/proc/self/fd`, so that what still runs after a folder was set aside stays in that folder.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    error::{EngineError, Error},
    keys::{BORN, CHANGE_NUMBER, CRATES, FIRST_RECORD, KEPT, LOST, META, NAMES, STATE},
    state::State,
};
use crate::util::fs::sync_dir;

/// The bytes of a record, as sled has them in memory.
pub(super) type Value = sled::IVec;

/// The largest there is. Records are a few kilobytes and a leaf holds 16 of them, so that none comes
/// near the quarter of a segment (4 MiB) from where on sled uses side files.
const SEGMENT_BYTES: usize = 8 << 20;

/// After an unclean stop everything is read once if it is no more than this: a tenth of a second.
/// A larger store is checked as it is read.
pub(super) const VERIFY_BYTES: u64 = 64 << 20;

/// How long to wait before asking again for a lock that a closing handle still has.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The records, in sled.
#[derive(Debug)]
pub(super) struct Catalogue {
    db: sled::Db,
    crates: sled::Tree,
    names: sled::Tree,
    meta: sled::Tree,
    kept: sled::Tree,
    dir: PathBuf,
    /// Side files that were synced already.
    synced: Mutex<BTreeSet<PathBuf>>,
    /// Keeps the path alive that sled was opened with.
    _dir_handle: Arc<File>,
}

/// Keys with their values; `None`: it goes.
pub(super) type Pairs = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// All that the catalogue had is durable: readers may see it.
#[derive(Debug)]
pub(super) struct Durable(());

impl Durable {
    /// What a catalogue has that was opened a moment ago comes from the disk.
    pub(super) fn of_opened(_catalogue: &Catalogue) -> Durable {
        Durable(())
    }
}

/// The trees that are read in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    Crates,
    Kept,
}

/// Why sled did not open.
#[derive(Debug)]
pub(super) enum OpenFault {
    /// The files are not to be trusted: set them aside and rebuild.
    Broken(String),
    /// Something outside is wrong, and the files may be good.
    Outside(Error),
}

impl Catalogue {
    /// Opens the folder, creating it if there is none, and reads all of it if it is not over
    /// `verify_bytes`.
    ///
    /// # Errors
    /// [`OpenFault`] tells whether a rebuild helps.
    pub(super) fn open(
        dir: &Path,
        cache_bytes: u64,
        deadline: Duration,
        verify_bytes: u64,
    ) -> Result<Catalogue, OpenFault> {
        let outside = |doing| {
            let fault = Error::io(doing, dir);
            move |error| OpenFault::Outside(fault(error))
        };
        fs::create_dir_all(dir).map_err(outside("create the folder of the index database"))?;
        remove_half_snapshots(dir).map_err(outside("tidy the folder of the index database"))?;
        let handle =
            Arc::new(File::open(dir).map_err(outside("open the folder of the index database"))?);
        let config = sled::Config::new()
            .path(path_by_handle(dir, &handle))
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        open_in_time(config, dir.to_owned(), handle, deadline, verify_bytes)
    }

    /// The value under `key` in the records.
    ///
    /// # Errors
    /// [`Error::Engine`], also where sled panicked.
    pub(super) fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        guarded("read a record", || self.crates.get(key))
    }

    /// What the store knows about itself; `None`: a new one, or damaged.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn state(&self) -> Result<Option<State>, Error> {
        let bytes = guarded("read its state", || self.meta.get(STATE))?;
        Ok(bytes.and_then(|bytes| State::decode(&bytes).ok()))
    }

    /// Hands all records to `visit` in the order of their keys, until it says `false`.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&[u8], Value) -> bool) -> Result<(), Error> {
        let mut rest = self.crates.range(FIRST_RECORD..);
        while let Some((key, value)) = guarded("read the records", || rest.next().transpose())? {
            if !visit(&key, value) {
                break;
            }
        }
        Ok(())
    }

    /// Hands all names to `visit` in order.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn visit_names(&self, visit: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        let mut rest = self.names.iter();
        while let Some((key, _nothing)) = guarded("read the names", || rest.next().transpose())? {
            visit(&key);
        }
        Ok(())
    }

    /// Whether index files were lost with an older sled and have not come back yet.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn is_lost(&self) -> Result<bool, Error> {
        guarded("read what it lost", || self.meta.contains_key(LOST))
    }

    /// Notes that index files were lost, or that they are back.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn set_lost(&self, lost: bool) -> Result<(), Error> {
        guarded("note what it lost", || {
            if lost {
                self.meta.insert(LOST, &[]).map(drop)
            } else {
                self.meta.remove(LOST).map(drop)
            }
        })
    }

    /// The number that was drawn when this sled was made; 0: none was.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn born(&self) -> Result<u64, Error> {
        let bytes = guarded("read its number", || self.meta.get(BORN))?;
        let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(&*bytes).ok());
        Ok(bytes.map_or(0, u64::from_le_bytes))
    }

    /// Draws the number.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn set_born(&self) -> Result<(), Error> {
        let number = fastrand::u64(1..);
        guarded("note its number", || {
            self.meta.insert(BORN, &number.to_le_bytes()).map(drop)
        })
    }

    /// The value under a key of a tree.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Value>, Error> {
        guarded("read a record", || self.tree(tree).get(key))
    }

    /// At most `limit` pairs of a tree from a key on, in order.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn page(
        &self,
        tree: Tree,
        from: std::ops::Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Value, Value)>, Error> {
        let range = (from, std::ops::Bound::Unbounded);
        guarded("read the records", || {
            self.tree(tree)
                .range::<&[u8], _>(range)
                .take(limit)
                .collect()
        })
    }

    /// The number of the last change of an index file; 0: there was none.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn change_number(&self) -> Result<u64, Error> {
        let bytes = guarded("read its change number", || self.crates.get(CHANGE_NUMBER))?;
        let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(&*bytes).ok());
        Ok(bytes.map_or(0, u64::from_le_bytes))
    }

    /// Sets the number alone.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn set_change_number(&self, number: u64) -> Result<(), Error> {
        guarded("write its change number", || {
            let bytes = &number.to_le_bytes();
            self.crates.insert(CHANGE_NUMBER, bytes).map(drop)
        })
    }

    /// Puts and removes (`None`) values of a tree as one batch.
    ///
    /// # Errors
    /// [`Error::Engine`].
    #[cfg(test)]
    pub(super) fn put(&self, tree: Tree, pairs: Pairs) -> Result<(), Error> {
        let batch = batch_of(pairs);
        guarded("write records", || self.tree(tree).apply_batch(batch))
    }

    /// Writes what the store knows about itself.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn put_state(&self, state: &State) -> Result<(), Error> {
        guarded("write its state", || {
            self.meta.insert(STATE, state.encode()).map(drop)
        })
    }

    fn tree(&self, tree: Tree) -> &sled::Tree {
        match tree {
            Tree::Crates => &self.crates,
            Tree::Kept => &self.kept,
        }
    }

    fn read_through(&self, tree: Tree) -> Result<(), Error> {
        let mut rest = self.tree(tree).iter();
        while guarded("read the records", || rest.next().transpose())?.is_some() {}
        Ok(())
    }

    /// Applies one batch, in an order in which a stop in the middle does no harm: a name without a
    /// record is passed over, and a state that is behind makes the journal be read again. Records
    /// and their change number are there together or not at all.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn apply(
        &self,
        records: Vec<(String, Vec<u8>)>,
        change_number: u64,
        new_names: &[String],
        kept: Pairs,
        state: &State,
    ) -> Result<(), Error> {
        let mut names = sled::Batch::default();
        for name in new_names {
            names.insert(name.as_str(), &[]);
        }
        let mut crates = sled::Batch::default();
        if !records.is_empty() {
            crates.insert(CHANGE_NUMBER, &change_number.to_le_bytes());
        }
        for (key, value) in records {
            crates.insert(key.as_str(), value);
        }
        let kept = batch_of(kept);
        guarded("write records", || {
            self.names.apply_batch(names)?;
            self.crates.apply_batch(crates)?;
            self.kept.apply_batch(kept)?;
            self.meta.insert(STATE, state.encode()).map(drop)
        })
    }

    /// Makes durable all that was applied.
    ///
    /// # Errors
    /// [`Error::Engine`] or [`Error::Io`]. May take for ever on a full disk: that is sled's.
    pub(super) fn flush(&self) -> Result<Durable, Error> {
        guarded("flush", || self.db.flush())?;
        self.sync().map_err(Error::io("sync", &self.dir))?;
        Ok(Durable(()))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.dir.join("db"))?.sync_data()?;
        self.sync_side_files()?;
        sync_dir(&self.dir)
    }

    fn sync_side_files(&self) -> io::Result<()> {
        let folder = self.dir.join("blobs");
        let mut there = BTreeSet::new();
        for file in fs::read_dir(&folder)? {
            there.insert(file?.path());
        }
        let mut synced = self.synced.lock();
        if *synced == there {
            return Ok(());
        }
        for path in there.difference(&synced) {
            match File::open(path) {
                Ok(file) => file.sync_all()?,
                // sled removes them when they are no longer needed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        sync_dir(&folder)?;
        *synced = there;
        Ok(())
    }
}

fn batch_of(pairs: Pairs) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (key, value) in pairs {
        match value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    batch
}

/// The folder by its handle, which follows it when it is renamed; the plain path where there is no
/// `/proc`.
fn path_by_handle(dir: &Path, handle: &File) -> PathBuf {
    let by_handle = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    if by_handle.is_dir() {
        by_handle
    } else {
        dir.to_owned()
    }
}

fn remove_half_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn open_in_time(
    config: sled::Config,
    dir: PathBuf,
    handle: Arc<File>,
    deadline: Duration,
    verify_bytes: u64,
) -> Result<Catalogue, OpenFault> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let until = Instant::now() + deadline;
    let open = move || {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            open_here(&config, dir, handle, until, verify_bytes)
        }));
        let outcome = opened.unwrap_or_else(|panic| {
            Err(OpenFault::Broken(format!(
                "sled panicked: {}",
                panic_text(panic.as_ref())
            )))
        });
        // Nobody waits any more: the folder was set aside meanwhile.
        drop(sender.send(outcome));
    };
    std::thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(open)
        .map_err(|error| {
            OpenFault::Outside(Error::io("start a thread", Path::new("store-open"))(error))
        })?;
    receiver.recv_timeout(deadline).unwrap_or_else(|_timeout| {
        Err(OpenFault::Broken(format!(
            "sled did not open within {} s",
            deadline.as_secs()
        )))
    })
}

fn open_here(
    config: &sled::Config,
    dir: PathBuf,
    handle: Arc<File>,
    until: Instant,
    verify_bytes: u64,
) -> Result<Catalogue, OpenFault> {
    let db = open_when_unlocked(config, until)?;
    let tree = |name| db.open_tree(name).map_err(sort_fault);
    let catalogue = Catalogue {
        crates: tree(CRATES)?,
        names: tree(NAMES)?,
        meta: tree(META)?,
        kept: tree(KEPT)?,
        dir,
        synced: Mutex::default(),
        _dir_handle: handle,
        db,
    };
    if catalogue.size().is_some_and(|bytes| bytes <= verify_bytes) {
        catalogue
            .visit(&mut |_key, _value| true)
            .and_then(|()| catalogue.visit_names(&mut |_name| ()))
            .and_then(|()| catalogue.read_through(Tree::Kept))
            .and_then(|()| catalogue.state())
            .map_err(|error| OpenFault::Broken(with_source(&error)))?;
    }
    Ok(catalogue)
}

impl Catalogue {
    fn size(&self) -> Option<u64> {
        let length = fs::metadata(self.dir.join("db")).ok()?.len();
        Some(length)
    }
}

/// We hold the store's own lock, so the only other holder is a handle of this process that is being
/// dropped.
fn open_when_unlocked(config: &sled::Config, until: Instant) -> Result<sled::Db, OpenFault> {
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if Instant::now() + LOCK_PAUSE > until {
                    return Err(OpenFault::Outside(engine(
                        "open: its files are locked",
                        &error,
                    )));
                }
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened.map_err(sort_fault),
        }
    }
}

/// Tells damage, which a rebuild heals, from what it cannot heal.
fn sort_fault(error: sled::Error) -> OpenFault {
    match error {
        sled::Error::Io(error) if is_outside(&error) => OpenFault::Outside(engine("open", &error)),
        error => OpenFault::Broken(error.to_string()),
    }
}

fn is_outside(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::OutOfMemory
    ) || matches!(
        error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    )
}

/// Calls sled and makes a panic an error.
fn guarded<T>(doing: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| engine(doing, &error)),
        Err(panic) => Err(engine(doing, &panic_text(panic.as_ref()))),
    }
}

fn engine(doing: &'static str, message: &dyn Display) -> Error {
    Error::Engine {
        doing,
        source: EngineError(message.to_string().into()),
    }
}

/// An error and its source in one line, for a report.
fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
