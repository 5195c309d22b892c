//! Brings sled to what the journal says: the little that it missed, or everything.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    blob_store::{BlobStore as _, BlobWalk},
    catalogue::{Catalogue, OpenFault, VERIFY_BYTES},
    edits::Edits,
    error::{EngineError, Error},
    facts::{Event, OpenReport},
    fields::to_millis,
    folder::{Folder, sync_folder},
    journal::{Entry, HEADER_BYTES, Journal, KeptLine, Line},
    ledger,
    options::Options,
    raw_files::Blobs,
    state::State,
    table::Assembly,
};

/// How many broken folders are kept for who wants to look into them.
const MAX_SET_ASIDE: usize = 2;

/// How many records are gathered before they are applied.
const CHUNK: usize = 4096;

const MISSING: &str = "the index database was missing or had lost its state";

/// What was found out on the way to a catalogue that agrees with the journal.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) state: State,
    /// The number of the last change of an index file. Nothing that is replayed changes one.
    pub(super) change_number: u64,
    /// Why sled was set aside.
    pub(super) rebuilt: Option<String>,
    /// Names with a replayed entry.
    pub(super) names: u64,
    /// Entries replayed.
    pub(super) replayed: u64,
    /// Whether the counts may be a little off.
    pub(super) is_miscounted: bool,
}

impl Recovered {
    /// The state without counts that may be off: they are counted anew then.
    pub(super) fn counted_state(&self) -> State {
        let counts = self.state.counts.filter(|_| !self.is_miscounted);
        State {
            counts,
            ..self.state
        }
    }
}

/// Opens sled and the journal and brings them together.
///
/// # Errors
/// What is wrong outside of sled's files: those are rebuilt.
pub(super) fn open(
    folder: &Folder,
    options: &Options,
    blobs: &Blobs,
    now: SystemTime,
    report: &mut OpenReport,
) -> Result<(Catalogue, Journal, Recovered), Error> {
    let verify_bytes = if folder.was_clean { 0 } else { VERIFY_BYTES };
    let (catalogue, rebuilt) = open_catalogue(folder, options, verify_bytes, now)?;
    let path = folder.dir.join("journal");
    let length = fs::metadata(&path).map_or(0, |found| found.len());
    let mut replay = Replay::start(&catalogue, blobs, length, report.created)?;
    let (journal, opened) = Journal::open(
        &path,
        replay.recovered.state.journal_len,
        &mut |at, line| replay.take(at, line),
    )?;
    report.journal_cut_bytes = opened.cut + replay.lost_bytes;
    report.journal_skipped_bytes = opened.skipped;
    let was_missing = !replay.is_known && !report.created;
    let mut recovered = replay.finish(journal.len())?;
    recovered.rebuilt = rebuilt.or_else(|| was_missing.then(|| MISSING.to_owned()));
    report.rebuilt.clone_from(&recovered.rebuilt);
    if recovered.rebuilt.is_some() {
        report.rebuilt_names = recovered.state.names;
    } else {
        report.replayed = recovered.replayed;
    }
    Ok((catalogue, journal, recovered))
}

/// Opens sled anew while the store runs.
///
/// # Errors
/// What is wrong outside of sled's files.
pub(super) fn reopen(
    folder: &Folder,
    options: &Options,
    blobs: &Blobs,
    journal: &Journal,
    now: SystemTime,
) -> Result<(Catalogue, Recovered), Error> {
    let (catalogue, rebuilt) = open_catalogue(folder, options, u64::MAX, now)?;
    let mut replay = Replay::start(&catalogue, blobs, journal.len(), false)?;
    journal.replay(replay.from, &mut |at, line| replay.take(at, line))?;
    let mut recovered = replay.finish(journal.len())?;
    recovered.rebuilt = rebuilt;
    recovered.is_miscounted = true;
    Ok((catalogue, recovered))
}

/// Opens sled; what does not open is set aside, and an empty one takes its place.
fn open_catalogue(
    folder: &Folder,
    options: &Options,
    verify_bytes: u64,
    now: SystemTime,
) -> Result<(Catalogue, Option<String>), Error> {
    let dir = folder.dir.join("sled");
    let open = |verify_bytes| {
        Catalogue::open(
            &dir,
            options.cache_bytes,
            options.open_deadline,
            verify_bytes,
        )
    };
    let why = match open(verify_bytes) {
        Ok(catalogue) => return Ok((catalogue, None)),
        Err(OpenFault::Outside(error)) => return Err(error),
        Err(OpenFault::Broken(why)) => why,
    };
    set_aside(&folder.dir, &dir, now)?;
    match open(0) {
        Ok(catalogue) => Ok((catalogue, Some(why))),
        Err(OpenFault::Outside(error)) => Err(error),
        Err(OpenFault::Broken(again)) => Err(Error::Engine {
            doing: "be made anew",
            source: EngineError(again.into()),
        }),
    }
}

fn set_aside(data: &Path, dir: &Path, now: SystemTime) -> Result<(), Error> {
    let fault = Error::io("set the broken index database aside", dir);
    let mut kept = set_aside_before(data).map_err(&fault)?;
    while kept.len() >= MAX_SET_ASIDE {
        fs::remove_dir_all(kept.remove(0)).map_err(&fault)?;
    }
    let seconds = to_millis(now) / 1000;
    let name = |number: u64| data.join(format!("sled.broken-{}", seconds + number));
    // Each second of a day at most is taken by an earlier one.
    let free = (0..86_400).map(name).find(|path| !path.exists());
    fs::rename(dir, free.unwrap_or_else(|| name(0))).map_err(&fault)?;
    sync_folder(data)
}

/// How many folders are set aside.
pub(super) fn count_set_aside(data: &Path) -> u64 {
    set_aside_before(data).map_or(0, |kept| kept.len() as u64)
}

/// The folders that were set aside, the oldest first.
fn set_aside_before(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str()
            && let Some(at) = name.strip_prefix("sled.broken-")
        {
            kept.push((at.parse::<u64>().unwrap_or(0), entry.path()));
        }
    }
    kept.sort();
    Ok(kept.into_iter().map(|(_at, path)| path).collect())
}

/// Does to sled what the journal says and sled does not know.
struct Replay<'a> {
    catalogue: &'a Catalogue,
    blobs: &'a Blobs,
    edits: Edits,
    /// What the journal has of other modules' values, by the keys of sled.
    kept: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    assembly: Assembly,
    /// Whether sled had a state.
    is_known: bool,
    /// All value files, where they had to be counted: spares millions of looks for one of them.
    walk: Option<BlobWalk>,
    recovered: Recovered,
    /// Entries from here on are not in sled.
    from: u64,
    /// Bytes that the journal once had and has no more.
    lost_bytes: u64,
}

impl<'a> Replay<'a> {
    fn start(
        catalogue: &'a Catalogue,
        blobs: &'a Blobs,
        length: u64,
        is_new: bool,
    ) -> Result<Replay<'a>, Error> {
        let known = catalogue.state()?;
        if known.is_none() {
            catalogue.set_born()?;
        }
        if known.is_none() && !is_new {
            catalogue.set_lost(true)?;
        }
        // Records are written a moment before the state that counts them.
        let is_behind = known.is_none_or(|known| known.journal_len < length);
        let mut recovered = Recovered {
            is_miscounted: is_behind && !is_new,
            state: known.unwrap_or_else(State::of_none),
            change_number: catalogue.change_number()?,
            ..Recovered::default()
        };
        // Sled knows nothing, so the files have to be counted. Nobody stops this walk.
        let walk = match known {
            Some(_) => None,
            None => BlobWalk::through(blobs, &AtomicBool::new(false))?,
        };
        if let Some(walk) = &walk {
            recovered.state.held = walk.held;
        }
        let state = recovered.state;
        // A journal that is shorter than sled remembers has nothing that sled does not know, and
        // its old entries must not undo what sled knows better.
        let from = if state.journal_len > length {
            u64::MAX
        } else {
            state.journal_len.max(HEADER_BYTES)
        };
        Ok(Replay {
            catalogue,
            blobs,
            edits: Edits::default(),
            kept: BTreeMap::new(),
            assembly: Assembly::default(),
            is_known: known.is_some(),
            walk,
            from,
            lost_bytes: state.journal_len.saturating_sub(length),
            recovered,
        })
    }

    fn take(&mut self, at: u64, line: Line) -> io::Result<()> {
        match line {
            Line::Name(entry) => self.take_entry(at, &entry),
            Line::Kept(line) => {
                self.take_kept(at, line);
                Ok(())
            }
            Line::Told(event) if at < self.from => {
                drop(event);
                Ok(())
            }
            Line::Told(event) => self.take_told(&event).map_err(io::Error::other),
        }
    }

    fn take_kept(&mut self, at: u64, line: KeptLine) {
        if let Some(kept) = self.assembly.take(line)
            && at >= self.from
        {
            let value = kept.sled_value();
            self.kept.insert(kept.sled_key().into_bytes(), value);
        }
    }

    fn take_told(&mut self, event: &Event) -> Result<(), Error> {
        self.recovered.replayed += 1;
        let (blobs, walk) = (self.blobs, self.walk.as_ref());
        let is_held = |checksum: &_| {
            walk.is_none_or(|walk| walk.checksums.may_contain(checksum)) && blobs.has(checksum)
        };
        if let Some(record) = self.edits.get(self.catalogue, &event.name)?
            && ledger::learn(record, &event.kind, &is_held)
        {
            self.edits.mark(&event.name);
        }
        if self.edits.len() >= CHUNK {
            self.apply()?;
        }
        Ok(())
    }

    fn take_entry(&mut self, at: u64, entry: &Entry) -> io::Result<()> {
        if at < self.from {
            return Ok(());
        }
        self.replay(entry).map_err(io::Error::other)
    }

    fn replay(&mut self, entry: &Entry) -> Result<(), Error> {
        self.recovered.replayed += 1;
        let (blobs, walk) = (self.blobs, self.walk.as_ref());
        let is_held = |checksum: &_| {
            walk.is_none_or(|walk| walk.checksums.may_contain(checksum)) && blobs.has(checksum)
        };
        let (record, is_new) = self.edits.get_or_new(self.catalogue, &entry.name)?;
        if is_new {
            record.changed = entry.at;
        }
        // The snapshot may be older than the entry: upstream has to be asked without conditions.
        record.checked = UNIX_EPOCH;
        record.etag = None;
        record.last_modified = None;
        ledger::replay(record, &entry.body, &is_held);
        if self.edits.len() >= CHUNK {
            self.apply()?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), Error> {
        let before = self.recovered.state.names;
        let edits = std::mem::take(&mut self.edits);
        let encoded = edits.encode(&mut self.recovered.state)?;
        self.recovered.names += self.recovered.state.names - before;
        self.catalogue.apply(
            encoded.records,
            self.recovered.change_number,
            &encoded.new_names,
            std::mem::take(&mut self.kept).into_iter().collect(),
            &self.recovered.state,
        )
    }

    fn has_edits(&self) -> bool {
        self.edits.len() > 0 || !self.kept.is_empty()
    }

    fn finish(mut self, journal_len: u64) -> Result<Recovered, Error> {
        let known = self.recovered.state;
        self.recovered.state.journal_len = journal_len;
        if self.recovered.state != known || self.has_edits() || !self.is_known {
            self.apply()?;
            self.catalogue.flush()?;
        }
        Ok(self.recovered)
    }
}
