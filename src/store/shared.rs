//! What readers, writers and the committer share; the read side of the store.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use parking_lot::{Mutex, RwLock};

use super::{
    catalogue::{Catalogue, Durable, Value},
    changes::Watchers,
    codec::{HELD, Row, View},
    error::{EngineError, Error},
    events::EventLog,
    facts::EntryFacts,
    folder::{Folder, found_format},
    options::Options,
    queue::{Queue, Touch},
    raw_files::Blobs,
    space::reserve_of,
    stamps::Stamps,
    state::{Held, State},
};
use crate::registry::{Checksum, CrateName};

/// How many touches are kept before they are written. One more costs a revalidation.
const MAX_TOUCHES: usize = 65_536;

/// See the module's sentence.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) blobs: Blobs,
    pub(super) queue: Queue,
    /// `None` only while the committer opens it anew.
    catalogue: RwLock<Option<Arc<Catalogue>>>,
    stamps: Stamps,
    touches: RwLock<HashMap<CrateName, Touch>>,
    /// Records, and what is kept for others, as they were before the batch that is being made
    /// durable: what readers see until it is. Keys of the second start with a byte that no name has.
    shadow: RwLock<BTreeMap<String, Option<Value>>>,
    has_shadow: AtomicBool,
    /// Lower-case names, read when they are first needed.
    names: RwLock<Option<BTreeSet<Box<str>>>>,
    pub(super) watchers: Watchers,
    pub(super) events: EventLog,
    /// Crate files that came or went, and whether they are held: records do not tell so yet.
    unmarked: RwLock<HashMap<Checksum, bool>>,
    has_unmarked: AtomicBool,
    /// Where the durable part of the journal ends.
    pub(super) journal_len: AtomicU64,
    pub(super) spooled: AtomicU64,
    pub(super) awaited_bytes: AtomicU64,
    pub(super) batches: AtomicU64,
    /// The records in numbers, as they were last known.
    totals: Mutex<State>,
    damaged: AtomicU64,
    /// Keys of records whose frame did not open: they count as being without a snapshot.
    broken_frames: RwLock<BTreeSet<String>>,
    /// The last write failed, and none has succeeded since.
    pub(super) failing: AtomicBool,
    /// The number of the last change that readers see and subscribers were told of.
    pub(super) change_number: AtomicU64,
    /// The change number that sled had when it was last opened.
    pub(super) change_number_at_open: AtomicU64,
    /// What sled says of lost index files, or that it could not be read: for who asks often.
    pub(super) lacks_index: AtomicBool,
    /// Sled gave an error or panicked: the committer should look at it.
    pub(super) suspect: AtomicBool,
    /// How often sled was opened anew while the program ran.
    pub(super) reopened: AtomicU64,
    /// How often each of the small tables was written since the start, by its tag, of which the
    /// first is 1.
    pub(super) kept_changes: [AtomicU64; 9],
    /// The last field, because it is dropped last: the folder is locked until sled has let go of it.
    pub(super) folder: Folder,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("dir", &self.folder.dir)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Reads a file of the data folder, whatever it says.
    pub(super) fn look(&self) -> Result<(), Error> {
        found_format(&self.folder.dir.join("format")).map(drop)
    }

    pub(super) fn new(
        options: Options,
        folder: Folder,
        blobs: Blobs,
        catalogue: Catalogue,
        change_number: u64,
    ) -> Shared {
        Shared {
            queue: Queue::new(options.write_deadline),
            lacks_index: AtomicBool::new(catalogue.is_lost().unwrap_or(true)),
            options,
            folder,
            blobs,
            catalogue: RwLock::new(Some(Arc::new(catalogue))),
            stamps: Stamps::default(),
            touches: RwLock::default(),
            shadow: RwLock::default(),
            has_shadow: AtomicBool::new(false),
            names: RwLock::default(),
            watchers: Watchers::default(),
            events: EventLog::default(),
            unmarked: RwLock::default(),
            has_unmarked: AtomicBool::new(false),
            journal_len: AtomicU64::new(0),
            spooled: AtomicU64::new(0),
            awaited_bytes: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            totals: Mutex::default(),
            damaged: AtomicU64::new(0),
            broken_frames: RwLock::default(),
            failing: AtomicBool::new(false),
            change_number: AtomicU64::new(change_number),
            change_number_at_open: AtomicU64::new(change_number),
            suspect: AtomicBool::new(false),
            reopened: AtomicU64::new(0),
            kept_changes: Default::default(),
        }
    }

    // --- records

    pub(super) fn catalogue(&self) -> Option<Arc<Catalogue>> {
        self.catalogue.read().clone()
    }

    /// The catalogue, where a missing one is an error.
    pub(super) fn open_catalogue(&self) -> Result<Arc<Catalogue>, Error> {
        self.catalogue().ok_or_else(|| Error::Engine {
            doing: "be used: it is being opened anew",
            source: EngineError("not open".into()),
        })
    }

    /// Puts another catalogue in place, or takes it away while it is opened anew.
    pub(super) fn set_catalogue(&self, catalogue: Option<Catalogue>) {
        if let Some(catalogue) = &catalogue {
            let lacks = catalogue.is_lost().unwrap_or(true);
            self.lacks_index.store(lacks, SeqCst);
        }
        *self.catalogue.write() = catalogue.map(Arc::new);
    }

    /// The durable record of a name. What sled cannot read counts as absent, and is looked after.
    pub(super) fn record(&self, key: &str) -> Option<Value> {
        let found = self.catalogue()?.get(key).unwrap_or_else(|error| {
            self.note_suspect(&error);
            None
        });
        self.durable(key, found)
    }

    /// What readers see where sled has `found`: looked at after sled, so that either the batch is
    /// durable by now, or it is still shadowed.
    pub(super) fn durable(&self, key: &str, found: Option<Value>) -> Option<Value> {
        if self.has_shadow.load(SeqCst)
            && let Some(before) = self.shadow.read().get(key)
        {
            return before.clone();
        }
        found
    }

    /// Reads a record in place. `None`: there is none, or none that can be trusted.
    pub(super) fn view<'a>(&self, key: &str, record: &'a [u8]) -> Option<View<'a>> {
        View::read(record)
            .inspect_err(|error| self.note_damage(key, error))
            .ok()
    }

    pub(super) fn note_damage(&self, key: &str, error: &dyn std::error::Error) {
        if self.damaged.fetch_add(1, Relaxed) == 0 {
            tracing::error!(
                krate.name = key,
                %error,
                "a record in the store is damaged; it is fetched again (told once)"
            );
        }
    }

    pub(super) fn note_broken_frame(&self, key: &str, error: &dyn std::error::Error) {
        self.note_damage(key, error);
        self.broken_frames.write().insert(key.to_owned());
    }

    /// The record was written anew.
    pub(super) fn forget_broken_frame(&self, key: &str) {
        if !self.broken_frames.read().is_empty() {
            self.broken_frames.write().remove(key);
        }
    }

    pub(super) fn note_suspect(&self, error: &Error) {
        self.damaged.fetch_add(1, Relaxed);
        if !self.suspect.swap(true, SeqCst) {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, cause, "the index database is damaged; it is opened anew");
            self.queue.nudge();
        }
    }

    /// Shows readers the records as they were, until [`Shared::uncover`].
    pub(super) fn cover(&self, before: BTreeMap<String, Option<Value>>) {
        let mut shadow = self.shadow.write();
        for (key, value) in before {
            // What a failed batch left is still what is durable.
            shadow.entry(key).or_insert(value);
        }
        drop(shadow);
        self.has_shadow.store(true, SeqCst);
    }

    pub(super) fn uncover(&self, _durable: Durable) {
        self.has_shadow.store(false, SeqCst);
        self.shadow.write().clear();
    }

    pub(super) fn set_unmarked(&self, moved: impl Iterator<Item = (Checksum, bool)>) {
        let mut unmarked = self.unmarked.write();
        unmarked.clear();
        unmarked.extend(moved);
        self.has_unmarked.store(!unmarked.is_empty(), SeqCst);
    }

    /// Whether the crate file of a row is held, as far as the store was told.
    pub(super) fn is_held(&self, row: &Row<'_>) -> bool {
        if self.has_unmarked.load(SeqCst)
            && let Some(held) = self.unmarked.read().get(&row.checksum)
        {
            return *held;
        }
        row.has(HELD)
    }

    // --- facts

    pub(super) fn facts(&self, view: &View<'_>) -> Option<EntryFacts> {
        let name = view.name().ok()?;
        let touch = self
            .touches
            .read()
            .get(&name)
            .filter(|touch| touch.checked > view.checked)
            .cloned();
        let broken = {
            let broken = self.broken_frames.read();
            !broken.is_empty() && broken.contains(name.key())
        };
        let mut facts = EntryFacts {
            etag: view.etag.map(str::to_owned),
            last_modified: view.last_modified.map(str::to_owned),
            checked: view.checked,
            changed: view.changed,
            digest: view.digest,
            raw_len: u64::from(view.raw_len),
            gone: view.gone(),
            has_snapshot: view.has_snapshot() && !broken,
            name,
        };
        if let Some(touch) = touch {
            facts.checked = touch.checked;
            if let Some(validators) = touch.validators {
                facts.etag = validators.etag;
                facts.last_modified = validators.last_modified;
            }
        }
        if !facts.has_snapshot {
            // Upstream must not be asked whether something changed that is not here.
            facts.etag = None;
            facts.last_modified = None;
        }
        Some(facts)
    }

    pub(super) fn touch(&self, name: &CrateName, touch: Touch) {
        let mut touches = self.touches.write();
        if touches.len() < MAX_TOUCHES || touches.contains_key(name) {
            touches.insert(name.clone(), touch);
        }
    }

    pub(super) fn touches(&self) -> Vec<(CrateName, Touch)> {
        let touches = self.touches.read();
        let mut all: Vec<_> = touches
            .iter()
            .map(|(name, touch)| (name.clone(), touch.clone()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Forgets touches that are written, unless there is a newer one.
    pub(super) fn forget_touches(&self, written: &[(CrateName, Touch)]) {
        let mut touches = self.touches.write();
        for (name, touch) in written {
            if touches
                .get(name)
                .is_some_and(|kept| kept.checked == touch.checked)
            {
                touches.remove(name);
            }
        }
    }

    // --- stamps, names

    pub(super) fn stamp(&self, name: &CrateName) -> u64 {
        self.stamps.of(name.key())
    }

    pub(super) fn bump(&self, key: &str) {
        self.stamps.bump(key);
    }

    /// Hands the set of lower-case names to `look`, reading it first if nobody did.
    pub(super) fn with_names<T>(
        &self,
        look: impl FnOnce(&BTreeSet<Box<str>>) -> T,
    ) -> Result<T, Error> {
        if let Some(names) = self.names.read().as_ref() {
            return Ok(look(names));
        }
        let mut names = self.names.write();
        if names.is_none() {
            *names = Some(self.read_names()?);
        }
        Ok(look(names.get_or_insert_default()))
    }

    fn read_names(&self) -> Result<BTreeSet<Box<str>>, Error> {
        let mut names = BTreeSet::new();
        if let Some(catalogue) = self.catalogue() {
            catalogue.visit_names(&mut |key| {
                if let Ok(name) = str::from_utf8(key) {
                    names.insert(name.into());
                }
            })?;
        }
        Ok(names)
    }

    /// Adds to the names in memory, if they are there.
    pub(super) fn add_names(&self, new: &[String]) {
        if let Some(names) = self.names.write().as_mut() {
            names.extend(new.iter().map(|name| name.as_str().into()));
        }
    }

    /// Has the names read anew when they are next needed.
    pub(super) fn forget_names(&self) {
        *self.names.write() = None;
    }

    // --- numbers and room

    /// Counts that are not known stay as they were.
    pub(super) fn set_totals(&self, state: &State) {
        let mut totals = self.totals.lock();
        let counts = state.counts.or(totals.counts);
        *totals = State { counts, ..*state };
    }

    pub(super) fn totals(&self) -> State {
        *self.totals.lock()
    }

    /// Whether the records were written for exactly these value files.
    pub(super) fn agrees(&self, held: &Held) -> bool {
        self.totals().held == *held
    }

    pub(super) fn damaged(&self) -> u64 {
        self.damaged.load(Relaxed)
    }

    /// Bytes that may be written before the reserve is touched, promised ones taken off.
    pub(super) fn free_bytes(&self) -> u64 {
        self.room(1)
            .map_or(0, |(free, reserve)| free.saturating_sub(reserve))
    }

    /// Free bytes that nobody was promised, and the part of the reserve that is left alone.
    fn room(&self, reserve_part: u64) -> io::Result<(u64, u64)> {
        let space = self.options.space.ask(&self.folder.dir)?;
        let free = space
            .free_bytes
            .saturating_sub(self.awaited_bytes.load(Relaxed));
        Ok((
            free,
            reserve_of(self.options.reserve_bytes, space) / reserve_part,
        ))
    }

    /// Whether a crate file of so many bytes may come in.
    pub(super) fn check_space(&self, needed: u64) -> Result<(), Error> {
        self.check_room(needed, 1)
    }

    /// Whether records may be written: they are small, and half of the reserve is for them. What
    /// remains keeps sled from a full disk, on which its flush never returns.
    pub(super) fn check_record_space(&self) -> Result<(), Error> {
        self.check_room(0, 2)
    }

    fn check_room(&self, needed: u64, reserve_part: u64) -> Result<(), Error> {
        let (free, reserve) = self
            .room(reserve_part)
            .map_err(Error::io("ask for free space", &self.folder.dir))?;
        if free >= needed.saturating_add(reserve) {
            Ok(())
        } else {
            Err(Error::Full {
                dir: self.folder.dir.clone(),
                needed_bytes: needed,
                free_bytes: free,
                reserve_bytes: reserve,
            })
        }
    }

    /// Whether writes would be taken now.
    pub(super) fn writable(&self) -> bool {
        !self.failing.load(Relaxed)
            && !self.queue.is_stuck()
            && self.check_record_space().is_ok()
            && self.check_space(0).is_ok()
    }

    /// The error for a failed write: a full disk has its own.
    pub(super) fn write_fault(&self, error: &io::Error, path: &Path, needed: u64) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let (free_bytes, reserve_bytes) = self.room(1).unwrap_or_default();
                Error::Full {
                    dir: self.folder.dir.clone(),
                    needed_bytes: needed,
                    free_bytes,
                    reserve_bytes,
                }
            }
            kind => Error::io("write a crate file", path)(
                error
                    .raw_os_error()
                    .map_or_else(|| kind.into(), io::Error::from_raw_os_error),
            ),
        }
    }
}
