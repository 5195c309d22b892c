//! Everything on disk. Hides sled and zstd: no other room names them.
//!
//! ```text
//! DATA/
//!   format      orlop store format 1
//!   lock        held by the one process that has the store; its process id, or `clean`
//!   sled/       one record per crate name: the index file, its validators, the version table;
//!               the change number, and what was published as a commit    (keys, published)
//!   blobs/      value files: crate files by their sha256                         (blobs)
//!   quarantine/ damaged value files that were set aside; never served           (removal)
//!   spool/      crate files that are coming in; swept at start
//!   journal     what can neither be derived nor fetched again                  (journal)
//!   sled.broken-TIME/   a sled that did not open and was rebuilt; at most 2 are kept
//! ```
//!
//! sled is the key-value engine; large values are separated from it into value files, because large
//! values inside sled 0.34 cost four times their size in writes and more memory than they have.
//!
//! What holds:
//! - **Durable before visible.** What [`Store::publish`] and [`Reservation::commit`] return is on
//!   the disk, and readers do not see it before. The order of the syncs is in `commit`.
//! - **The file system is the truth about crate files.** A file in its place under its sha256 is
//!   held; the records follow it ([`Store::adopt`]).
//! - **Damage heals.** A damaged record counts as absent and is fetched again. A sled that does not
//!   open, panics or hangs is set aside and rebuilt from the journal and the value files; the index
//!   files themselves come back through [`Store::restore`], or are fetched again.
//! - **A full disk degrades.** Below the reserve nothing is written, what is held is served, and
//!   writes come back with the room.
//!
//! A value file is read as it is: its bytes were verified before it got its name, and every client
//! verifies them again.

mod blobs;
mod catalogue;
mod changes;
mod codec;
mod commit;
mod condition;
mod edits;
mod error;
mod events;
mod facts;
mod folder;
mod history;
mod journal;
mod kept;
mod keys;
mod ledger;
mod published;
mod rebuild;
mod releases;
mod removal;
mod restoring;
mod scratch;
mod shared;
mod space;
mod stamps;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upkeep_tests;

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

pub use self::{
    blobs::{Blob, Reservation, SpoolReader},
    changes::{Changed, Changes, Waiting},
    codec::{MAX_SNAPSHOT_BYTES, from_millis, to_millis},
    condition::FolderCondition,
    error::{EngineError, Error, Mismatch},
    events::{CrateHistory, EventLog, LogEntry, LogKind, Occurrences},
    facts::{
        Adoption, Change, EntryFacts, Event, EventKind, Found, KnownChecksum, OpenReport,
        ReleaseFacts, Snapshot, Totals, Validators,
    },
    kept::Table,
    published::{CommitId, Published},
    removal::{Leftover, LeftoverKind, Removal},
    restoring::Restoring,
    space::{Room, Space, SpaceProbe},
};
use self::{
    blobs::{BlobFolder, Walk},
    codec::{REMOVED, SUPERSEDED, VersionText, View, YANKED, compress, digest_of},
    commit::{Committer, Job, Mark, Prepared, Publish},
    folder::Folder,
    shared::{Shared, Touch},
};
use crate::registry::{Checksum, CrateName, Release};

/// How many names' marks go to the committer at a time.
const MARKS_AT_A_TIME: usize = 512;

/// How many changes at a time are worth a second thread.
const WORTH_A_THREAD: usize = 32;

/// How the store is opened. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data folder. It is made if it is not there.
    pub dir: PathBuf,
    /// Bytes that sled may keep in memory.
    pub cache_bytes: u64,
    /// Bytes of the disk that are left alone, or 5 % of it if that is less.
    pub reserve_bytes: u64,
    /// How long sled may take to open before it counts as broken.
    pub open_deadline: Duration,
    /// How long a write is waited for.
    pub write_deadline: Duration,
    /// Tells the room on the disk.
    pub space: SpaceProbe,
}

impl Options {
    /// The usual options for a data folder.
    pub fn at(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            cache_bytes: 32 << 20,
            reserve_bytes: 1 << 30,
            // 250,000 names open in 0.3 s, and a slow disk may need a hundred times that.
            open_deadline: Duration::from_secs(60),
            // Longer than any disk takes that works; shorter than cargo's patience of 30 s.
            write_deadline: Duration::from_secs(20),
            space: SpaceProbe::default(),
        }
    }

    /// The space on the disk of the data folder; `None`: the file system does not report it.
    pub fn room(&self) -> Option<Room> {
        let space = self.space.ask(&self.dir).ok()?;
        Some(Room {
            space,
            reserve_bytes: space::reserve_of(self.reserve_bytes, space),
        })
    }
}

/// The store: a handle that is cheap to clone. All methods block for the disk; those that may do so
/// for long say it.
///
/// When the last clone is dropped the store is closed, as [`Store::close`] does.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

/// Closes the store when the last clone goes.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.shared.queue.call(Job::Close) {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => tracing::error!(%error, "could not close the store in order"),
        }
    }
}

impl Store {
    /// Opens the store, or makes one. Blocks for as long as sled takes, and for longer if it has to
    /// be rebuilt.
    ///
    /// # Errors
    /// See [`Error`]; what can be healed is healed and told in the [`OpenReport`].
    pub fn open(options: Options, now: SystemTime) -> Result<(Store, OpenReport), Error> {
        let folder = Folder::take(&options.dir)?;
        Store::open_in(folder, options, now)
    }

    fn open_in(
        folder: Folder,
        options: Options,
        now: SystemTime,
    ) -> Result<(Store, OpenReport), Error> {
        let mut report = OpenReport {
            created: folder.created,
            swept: blobs::sweep(&folder.dir.join("spool"))?,
            ..OpenReport::default()
        };
        let blobs = BlobFolder::open(folder.dir.join("blobs"))?;
        let (catalogue, journal, recovered) =
            rebuild::open(&folder, &options, &blobs, now, &mut report)?;
        let change_number = recovered.change_number;
        let shared = Arc::new(Shared::new(
            options,
            folder,
            blobs,
            catalogue,
            change_number,
        ));
        let committer = Committer::new(Arc::clone(&shared), journal, &recovered, now);
        std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(Error::io("start a thread", Path::new("store-commit")))?;
        let handle = Arc::new(Handle { shared });
        Ok((Store { handle }, report))
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    // --- index

    /// What is known of an index entry; `None`: the name was never seen. Cheap: nothing is
    /// decompressed.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn entry(&self, name: &CrateName) -> Result<Option<EntryFacts>, Error> {
        let shared = self.shared();
        Ok(shared.record(name.key()).and_then(|record| {
            let view = shared.view(name.key(), &record)?;
            shared.facts(&view)
        }))
    }

    /// An index entry with its bytes; `None`: they are not here, though
    /// [`entry`](Store::entry) may know of them.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn snapshot(&self, name: &CrateName) -> Result<Option<Snapshot>, Error> {
        let shared = self.shared();
        Ok(shared.record(name.key()).and_then(|record| {
            let view = shared.view(name.key(), &record)?;
            let facts = shared.facts(&view).filter(|facts| facts.has_snapshot)?;
            let bytes = view
                .decompress()
                .inspect_err(|error| shared.note_broken_frame(name.key(), error))
                .ok()?;
            Some(Snapshot {
                facts,
                bytes: Bytes::from(bytes),
            })
        }))
    }

    /// What is known of a release; `None`: no index entry that was seen had it.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn release(&self, release: &Release) -> Result<Option<ReleaseFacts>, Error> {
        let shared = self.shared();
        let key = release.name.key();
        Ok(shared.record(key).and_then(|record| {
            let view = shared.view(key, &record)?;
            let text = VersionText::of(&release.version);
            let row = view.rows_of(text.as_str()).next()?;
            Some(ReleaseFacts {
                name: view.name().ok()?,
                version: release.version.clone(),
                checksum: row.checksum,
                yanked: row.has(YANKED),
                held: shared.is_held(&row),
                removed: row.has(REMOVED),
            })
        }))
    }

    /// All checksums that a release was seen with, the one in force first.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn checksums(&self, release: &Release) -> Result<Vec<KnownChecksum>, Error> {
        let shared = self.shared();
        let key = release.name.key();
        let Some(record) = shared.record(key) else {
            return Ok(Vec::new());
        };
        let Some(view) = shared.view(key, &record) else {
            return Ok(Vec::new());
        };
        let text = VersionText::of(&release.version);
        let known = view.rows_of(text.as_str()).map(|row| KnownChecksum {
            checksum: row.checksum,
            held: self.shared().is_held(&row),
            superseded: row.has(SUPERSEDED),
            removed: row.has(REMOVED),
        });
        Ok(known.collect())
    }

    /// Takes in what upstream says, durably: the one door by which index readers see change.
    /// Returns what happened, in the order of the changes. Blocks for the disk; callers at the same
    /// time share its syncs.
    ///
    /// # Errors
    /// See [`Error`]; nothing of `changes` is visible then. After [`Error::Wedged`] it may become
    /// so later.
    pub fn publish(&self, changes: Vec<Change>, now: SystemTime) -> Result<Vec<Event>, Error> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.shared().check_record_space()?;
        let changes = self.prepare_all(changes)?;
        self.shared().queue.call(|reply| {
            Job::Publish(Publish {
                changes,
                now,
                reply,
            })
        })
    }

    /// Many are compressed by two threads: more would take the cores from those who are served.
    fn prepare_all(&self, mut changes: Vec<Change>) -> Result<Vec<Prepared>, Error> {
        let all = |changes: Vec<Change>| {
            let prepared = changes.into_iter().map(|change| self.prepare(change));
            prepared.collect::<Result<Vec<_>, Error>>()
        };
        if changes.len() < WORTH_A_THREAD {
            return all(changes);
        }
        let second = changes.split_off(changes.len() / 2);
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| all(second));
            (all(changes), second.join())
        });
        let mut prepared = first?;
        prepared.extend(second.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok(prepared)
    }

    /// Whether there is room for what is not a record and can wait: the reserve is left alone.
    ///
    /// # Errors
    /// [`Error::Full`], or [`Error::Io`] where the file system does not tell.
    pub fn check_room(&self) -> Result<(), Error> {
        self.shared().check_space(0)
    }

    /// Compresses here, so that callers do it side by side.
    fn prepare(&self, change: Change) -> Result<Prepared, Error> {
        match change {
            Change::Gone { name, checked } => Ok(Prepared::Gone { name, checked }),
            Change::Index {
                name,
                file,
                validators,
                checked,
            } => {
                if file.bytes().len() > MAX_SNAPSHOT_BYTES {
                    return Err(Error::TooLarge { name });
                }
                let digest = digest_of(file.bytes());
                let frame = if self.has_bytes(&name, &digest, file.bytes()) {
                    None
                } else {
                    let frame = compress(file.bytes())
                        .map_err(Error::io("compress", Path::new(&name.index_path())))?;
                    Some(frame)
                };
                Ok(Prepared::Index {
                    name,
                    file,
                    digest,
                    frame,
                    validators,
                    checked,
                })
            }
        }
    }

    /// Opens the frame, so that one that is damaged is made anew.
    fn has_bytes(&self, name: &CrateName, digest: &[u8; 16], bytes: &Bytes) -> bool {
        let Some(record) = self.shared().record(name.key()) else {
            return false;
        };
        View::read(&record).is_ok_and(|view| {
            view.digest == *digest && view.decompress().is_ok_and(|had| had == *bytes)
        })
    }

    /// Notes that upstream said that nothing changed. Known at once, written by
    /// [`flush_touches`](Store::flush_touches); lost by a crash before, which costs a revalidation.
    /// The [`stamp`](Store::stamp) stays.
    pub fn touch(&self, name: &CrateName, checked: SystemTime, validators: Option<Validators>) {
        let touch = Touch {
            checked,
            validators,
        };
        self.shared().touch(name, touch);
    }

    /// Writes what was touched since the last time.
    ///
    /// # Errors
    /// See [`Error`]; the touches are kept for the next time then.
    pub fn flush_touches(&self) -> Result<(), Error> {
        let touches = self.shared().touches();
        if touches.is_empty() {
            return Ok(());
        }
        self.shared().queue.call(|reply| Job::Touch(touches, reply))
    }

    /// A number that changes whenever [`snapshot`](Store::snapshot) of the name would give other
    /// bytes, or the name is gone or back. Not for a touch, nor for a crate file that came in.
    /// One atomic load, so that ready answers can be checked by it; other names may share it.
    pub fn stamp(&self, name: &CrateName) -> u64 {
        self.shared().stamp(name)
    }

    /// Hands every entry to `visit`, in the order of the names, until it breaks. Reads the whole of
    /// sled: for jobs, not for requests.
    ///
    /// # Errors
    /// If sled cannot be read; damaged records are passed over.
    pub fn names(&self, mut visit: impl FnMut(EntryFacts) -> ControlFlow<()>) -> Result<(), Error> {
        let shared = self.shared();
        self.visit(&mut |key, view| {
            let facts = shared.facts(view);
            if facts.is_none() {
                shared.note_damage(key, &codec::Damaged);
            }
            facts.is_none_or(|facts| visit(facts).is_continue())
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &View<'_>) -> bool) -> Result<(), Error> {
        let shared = self.shared();
        let Some(catalogue) = shared.catalogue() else {
            return Ok(());
        };
        catalogue.visit(&mut |key, record| {
            let key = str::from_utf8(key).unwrap_or_default();
            shared
                .view(key, &record)
                .is_none_or(|view| visit(key, &view))
        })
    }

    /// Names that contain `query`, whatever its case and its dashes: the name itself first, then
    /// those that start with it, then the others, each in order. The number is how many there are.
    /// Looks through all names in memory, at most some milliseconds.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn search(&self, query: &str, limit: usize) -> Result<(Vec<Found>, usize), Error> {
        let (keys, total) = self
            .shared()
            .with_names(|names| find(names.iter().map(AsRef::as_ref), query, limit))?;
        let found = keys.iter().filter_map(|key| self.found(key)).collect();
        Ok((found, total))
    }

    /// What a search finds of a name; `None`: it is not known.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn find(&self, name: &CrateName) -> Result<Option<Found>, Error> {
        Ok(self.found(name.key()))
    }

    fn found(&self, key: &str) -> Option<Found> {
        let shared = self.shared();
        let record = shared.record(key)?;
        let view = shared.view(key, &record)?;
        Some(Found {
            name: view.name().ok()?,
            max_version: view.max_version(),
        })
    }

    // --- blobs

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
        Reservation::new(Arc::clone(&self.handle.shared), checksum, len)
    }

    // --- facts

    /// Whether the store can be read: a record somewhere in sled, another each time, and a file of
    /// the data folder. Blocks for as long as they take, which is how one hears of a disk that
    /// hangs; it does not hear of one whose bytes are all in memory still. While sled is opened anew
    /// or rebuilt there is no record to read, and only the file is: that takes as long as it takes.
    ///
    /// # Errors
    /// [`Error::Engine`] where sled fails, which is then opened anew, and [`Error::Io`].
    pub fn look(&self) -> Result<(), Error> {
        let shared = self.shared();
        if let Some(catalogue) = shared.catalogue() {
            let somewhere = [fastrand::u8(b'a'..=b'z'), fastrand::u8(b'a'..=b'z')];
            let from = std::ops::Bound::Included(&somewhere[..]);
            let read = catalogue.page(catalogue::Tree::Crates, from, 1);
            read.inspect_err(|error| shared.note_suspect(error))?;
        }
        shared.look()
    }

    /// The store in numbers. Cheap.
    pub fn totals(&self) -> Totals {
        let shared = self.shared();
        let (held, counts) = (shared.held(), shared.counts());
        Totals {
            names: shared.name_count(),
            versions: counts.versions,
            held: counts.held,
            index_raw_bytes: counts.index_raw_bytes,
            index_stored_bytes: counts.index_stored_bytes,
            blobs: held.blobs,
            blob_bytes: held.bytes,
            free_bytes: shared.free_bytes(),
            writable: shared.writable(),
            damaged: shared.damaged(),
        }
    }

    /// The room on the disk; `None`: the file system does not tell. Cheap.
    pub fn room(&self) -> Option<Room> {
        self.shared().options.room()
    }

    /// Bytes of the whole file system of the store; 0 where the file system does not report them.
    pub fn disk_bytes(&self) -> u64 {
        self.room().map_or(0, |room| room.space.total_bytes)
    }

    /// How often the index database was opened anew since the start. What tables kept may be gone
    /// then: whoever writes only what changed writes everything once.
    pub fn reopened(&self) -> u64 {
        self.shared()
            .reopened
            .load(std::sync::atomic::Ordering::SeqCst)
    }

    /// What can be seen of the data folder from outside.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn condition(&self) -> io::Result<FolderCondition> {
        FolderCondition::read(&self.shared().folder.dir)
    }

    /// How many index databases that could not be used are kept to be looked into.
    pub fn set_aside(&self) -> u64 {
        rebuild::count_set_aside(&self.shared().folder.dir)
    }

    /// Looks through all crate files and brings the records and the counts to what is there. A job
    /// for the time after the start: it takes seconds on a large store, and does little when the
    /// last stop was in order. Removes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn adopt(&self, stop: &AtomicBool) -> Result<Adoption, Error> {
        let queue = &self.shared().queue;
        queue.call(Job::WalkBegin)?;
        let Some(walk) = self.shared().blobs.walk(stop)? else {
            return Ok(Adoption {
                stopped: true,
                ..Adoption::default()
            });
        };
        let mut adoption = Adoption {
            blobs: walk.held.blobs,
            blob_bytes: walk.held.bytes,
            not_understood: walk.not_understood,
            ..Adoption::default()
        };
        if !self.shared().agrees(&walk.held) && !self.mark_all(&walk, stop, &mut adoption)? {
            adoption.stopped = true;
            return Ok(adoption);
        }
        queue.call(|reply| Job::WalkEnd(walk, reply))?;
        Ok(adoption)
    }

    /// `false`: it was stopped.
    fn mark_all(
        &self,
        walk: &Walk,
        stop: &AtomicBool,
        adoption: &mut Adoption,
    ) -> Result<bool, Error> {
        let mut marks = Vec::new();
        let mut outcome = Ok(());
        self.visit(&mut |_key, view| {
            marks.extend(self.marks_of(view, walk, adoption));
            if marks.len() >= MARKS_AT_A_TIME {
                outcome = self.send_marks(std::mem::take(&mut marks));
            }
            outcome.is_ok() && !stop.load(Relaxed)
        })?;
        outcome?;
        self.send_marks(marks)?;
        Ok(!stop.load(Relaxed))
    }

    fn send_marks(&self, marks: Vec<Mark>) -> Result<(), Error> {
        if marks.is_empty() {
            return Ok(());
        }
        self.shared().queue.call(|reply| Job::Mark(marks, reply))
    }

    fn marks_of(&self, view: &View<'_>, walk: &Walk, adoption: &mut Adoption) -> Option<Mark> {
        let mut checksums = Vec::new();
        for row in view.rows() {
            let marked = self.shared().is_held(&row);
            if marked == walk.may_hold(&row.checksum) {
                continue;
            }
            let held = self.shared().blobs.length(&row.checksum).is_some();
            if held != marked {
                checksums.push(row.checksum);
                adoption.adopted += u64::from(held);
                adoption.lost += u64::from(marked);
            }
        }
        let name = view.name().ok()?;
        (!checksums.is_empty()).then_some(Mark { name, checksums })
    }

    /// Writes what is only in memory, flushes and syncs, and takes no more writes. Other clones can
    /// still read; the folder is free for another process when all of them are dropped.
    ///
    /// # Errors
    /// See [`Error`]; what was published and committed before is on the disk all the same.
    pub fn close(self) -> Result<(), Error> {
        self.shared().queue.call(Job::Close)
    }
}

/// The names that contain `query`, best first and at most `limit`, and how many there are.
fn find<'a>(
    names: impl Iterator<Item = &'a str>,
    query: &str,
    limit: usize,
) -> (Vec<String>, usize) {
    let wanted: Vec<u8> = query.bytes().map(plain).collect();
    let mut ranks: [Vec<String>; 3] = Default::default();
    let mut total: usize = 0;
    for name in names {
        let Some(rank) = rank(name.as_bytes(), &wanted) else {
            continue;
        };
        total += 1;
        if let Some(found) = ranks.get_mut(rank).filter(|found| found.len() < limit) {
            found.push(name.to_owned());
        }
    }
    let found = ranks.into_iter().flatten().take(limit).collect();
    (found, total)
}

/// Case and kind of dash do not matter in a search.
fn plain(byte: u8) -> u8 {
    match byte {
        b'-' => b'_',
        byte => byte.to_ascii_lowercase(),
    }
}

/// 0: the name itself, 1: it starts so, 2: it contains it. Without memory of its own, because all
/// names go through it.
fn rank(name: &[u8], wanted: &[u8]) -> Option<usize> {
    let starts_so = |part: &[u8]| {
        part.len() >= wanted.len()
            && part
                .iter()
                .zip(wanted)
                .all(|(byte, wanted)| plain(*byte) == *wanted)
    };
    if starts_so(name) {
        return Some(usize::from(name.len() != wanted.len()));
    }
    (1..name.len())
        .filter_map(|start| name.get(start..))
        .any(starts_so)
        .then_some(2)
}
