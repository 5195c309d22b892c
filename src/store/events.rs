//! The event log: what upstream did, which is in the journal, and what this program did or met.
//!
//! An index in memory follows the journal: by name, where in the journal its events are; by kind,
//! the newest entries, so that a burst of one kind never hides another. What the program itself did
//! or met (fetches, failures, jobs) is in the index only. Entries of one kind that follow one
//! another closely are one run with a count: "240 crates fetched, 1.2 GB: …".
//!
//! Bounds: 8 bytes for each of the last million events (8 MB), and [`MAX_RUNS`] runs of each kind,
//! below 1 MB together. The index is filled in the background after the start, so a long journal
//! does not delay it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use semver::Version;

use super::{
    facts::{Event, EventKind},
    journal::{self, Line},
};
use crate::{
    registry::{CrateName, Release},
    util::format::size,
};

/// How many events the index knows by name, the newest.
const MAX_PLACES: usize = 1 << 20;

/// How many events of one name are read at most, the newest: one takes some microseconds.
const MAX_HISTORY: usize = 1000;

/// How many runs of a kind are kept, the newest.
const MAX_RUNS: usize = 100;

/// What follows an entry of its kind within this time is in the same run.
const RUN_GAP: Duration = Duration::from_secs(120);

/// Up to how many entries a run is shown one by one. Of a longer one as many are named.
const MAX_ONE_BY_ONE: usize = 3;

/// How many notable entries stay among the newest, whatever else happened.
const MAX_NOTABLE: usize = 20;

/// How many names of crates are kept of which a file came in.
const MAX_RECENT_FILES: usize = 50;

/// How much of the journal is read while a page waits, which takes a part of a second. The rest is
/// read in the background.
pub(super) const READ_AT_ONCE_BYTES: u64 = 8 << 20;

const PLACE_BITS: u32 = 40;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// What kind of thing an entry of the event log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogKind {
    /// A name was seen for the first time.
    New,
    /// A version was published.
    Version,
    /// A version was yanked.
    Yanked,
    /// A version is no longer yanked.
    Unyanked,
    /// A version is no longer in the index.
    Removed,
    /// A version has another checksum.
    Changed,
    /// A name is no longer in the index.
    Gone,
    /// A name is in the index again.
    Back,
    /// A crate file was fetched.
    Fetched,
    /// A crate file could not be fetched.
    Failure,
    /// Upstream sent another file than the index promises.
    Mismatch,
    /// A stored file is damaged.
    Damage,
    /// A job ended.
    Job,
    /// A git index that is followed brought changes.
    Followed,
}

impl LogKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogKind::New => "new",
            LogKind::Version => "version",
            LogKind::Yanked => "yanked",
            LogKind::Unyanked => "unyanked",
            LogKind::Removed => "removed",
            LogKind::Changed => "changed",
            LogKind::Gone => "gone",
            LogKind::Back => "back",
            LogKind::Fetched => "fetched",
            LogKind::Failure | LogKind::Mismatch | LogKind::Damage => "trouble",
            LogKind::Job => "job",
            LogKind::Followed => "followed",
        }
    }

    fn of(event: &EventKind) -> LogKind {
        match event {
            EventKind::FirstSeen { .. } => LogKind::New,
            EventKind::NewVersion { .. } => LogKind::Version,
            EventKind::Yanked { .. } => LogKind::Yanked,
            EventKind::Unyanked { .. } => LogKind::Unyanked,
            EventKind::ChecksumChanged { .. } => LogKind::Changed,
            EventKind::VersionRemoved { .. } => LogKind::Removed,
            EventKind::NameGone => LogKind::Gone,
            EventKind::NameBack => LogKind::Back,
        }
    }

    /// Whether the usual ones must not take its place.
    fn is_notable(self) -> bool {
        use LogKind::{Changed, Damage, Failure, Gone, Mismatch, Removed};
        matches!(self, Removed | Changed | Gone | Failure | Mismatch | Damage)
    }

    /// Many of them; `None`: each stands for itself.
    fn many(self) -> Option<&'static str> {
        match self {
            LogKind::New => Some("crates seen for the first time"),
            LogKind::Version => Some("new versions"),
            LogKind::Yanked => Some("versions yanked"),
            LogKind::Unyanked => Some("versions no longer yanked"),
            LogKind::Back => Some("crates in upstream's index again"),
            LogKind::Gone => Some("crates no longer in upstream's index"),
            LogKind::Removed => {
                Some("versions no longer in upstream's index; what is held of them is kept")
            }
            LogKind::Fetched => Some("crates fetched"),
            LogKind::Failure | LogKind::Mismatch | LogKind::Damage => Some("failures"),
            LogKind::Changed | LogKind::Job | LogKind::Followed => None,
        }
    }
}

/// An entry of the event log, or a run of entries of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it happened; of a run: the last of it.
    pub at: SystemTime,
    /// What kind of thing it is.
    pub kind: LogKind,
    /// The crate, if it is about one.
    pub name: Option<CrateName>,
    /// The version, if it is about one.
    pub version: Option<Version>,
    /// Bytes that were moved; 0: it is about something else.
    pub bytes: u64,
    /// What happened; names and versions stand in backticks.
    pub text: String,
}

impl LogEntry {
    /// An entry that is about no crate.
    pub fn new(at: SystemTime, kind: LogKind, text: String) -> LogEntry {
        LogEntry {
            at,
            kind,
            name: None,
            version: None,
            bytes: 0,
            text,
        }
    }

    /// An entry about a release.
    pub fn about(at: SystemTime, kind: LogKind, release: &Release, text: String) -> LogEntry {
        LogEntry {
            name: Some(release.name.clone()),
            version: Some(release.version.clone()),
            ..LogEntry::new(at, kind, text)
        }
    }

    /// An event of the journal.
    pub fn of(event: &Event) -> LogEntry {
        LogEntry {
            name: Some(event.name.clone()),
            version: event.kind.version().cloned(),
            ..LogEntry::new(event.at, LogKind::of(&event.kind), event.to_string())
        }
    }

    /// What it is about, where a run names it.
    fn subject(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        Some(match &self.version {
            Some(version) => format!("`{name}` {version}"),
            None => format!("`{name}`"),
        })
    }
}

/// Entries of one kind that followed one another closely.
#[derive(Debug)]
struct Run {
    count: u64,
    bytes: u64,
    /// Whether all are about one crate.
    is_of_one: bool,
    /// The last of them, the newest first.
    newest: VecDeque<LogEntry>,
}

impl Run {
    fn of(entry: LogEntry) -> Run {
        Run {
            count: 1,
            bytes: entry.bytes,
            is_of_one: true,
            newest: VecDeque::from([entry]),
        }
    }

    /// Whether an entry of this kind belongs to it.
    fn takes(&self, entry: &LogEntry) -> bool {
        let is_near = |last: &LogEntry| match entry.at.duration_since(last.at) {
            Ok(since) => since < RUN_GAP,
            Err(back) => back.duration() < RUN_GAP,
        };
        entry.kind.many().is_some() && self.newest.front().is_some_and(is_near)
    }

    fn add(&mut self, entry: LogEntry) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(entry.bytes);
        let last = self.newest.front();
        self.is_of_one &= last.is_some_and(|last| last.name == entry.name);
        self.newest.push_front(entry);
        self.newest.truncate(MAX_ONE_BY_ONE);
    }

    /// What is shown of it.
    fn shown(&self) -> Vec<LogEntry> {
        let as_one = self
            .newest
            .front()
            .filter(|_| self.count > self.newest.len() as u64)
            .and_then(|last| Some((last, last.kind.many()?)));
        let Some((last, many)) = as_one else {
            return self.newest.iter().cloned().collect();
        };
        let (count, moved) = (self.count, self.bytes);
        let subjects = self.newest.iter().filter_map(LogEntry::subject);
        let subjects = subjects.collect::<Vec<_>>().join(", ");
        let text = match (last.kind.as_str(), moved) {
            ("trouble", _) => format!("{count} {many}, the last: {}", last.text),
            (_, 0) => format!("{count} {many}: {subjects}, …"),
            _ => format!("{count} {many}, {}: {subjects}, …", size(moved)),
        };
        vec![LogEntry {
            name: last.name.clone().filter(|_| self.is_of_one),
            bytes: moved,
            ..LogEntry::new(last.at, last.kind, text)
        }]
    }
}

/// How often something happened in some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Occurrences {
    /// How often, as far as it is kept.
    pub count: u64,
    /// The last of it.
    pub last: Option<LogEntry>,
}

/// See the module's first sentence.
#[derive(Debug, Default)]
pub struct EventLog {
    recent: Mutex<Recent>,
    /// Held while the journal is read.
    pub(super) places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Recent {
    runs: BTreeMap<LogKind, VecDeque<Run>>,
    /// How often upstream did something since the start.
    counts: BTreeMap<LogKind, u64>,
    /// Names of crates of which a file came in, the newest last and each once.
    files: VecDeque<CrateName>,
}

impl EventLog {
    /// Adds what the program itself did or met.
    pub(super) fn note(&self, entry: LogEntry) {
        let mut recent = self.recent.lock();
        let runs = recent.runs.entry(entry.kind).or_default();
        match runs.back_mut().filter(|run| run.takes(&entry)) {
            Some(run) => run.add(entry),
            None => push(runs, Run::of(entry), MAX_RUNS),
        }
    }

    /// A file of a crate came in, in whatever way.
    pub(super) fn note_file(&self, name: &CrateName) {
        let files = &mut self.recent.lock().files;
        files.retain(|known| known != name);
        push(files, name.clone(), MAX_RECENT_FILES);
    }

    /// Reads on in the journal up to `end`. A read that failed goes on after what it brought.
    pub(super) fn read(&self, places: &mut Places, file: &File, end: u64) -> io::Result<()> {
        journal::read_frames(file, places.upto, end, &mut |at, after, line| {
            places.upto = after;
            let (event, is_own) = match line {
                Line::Name(entry) => (entry.event(), true),
                Line::Told(event) => (event, false),
                Line::Kept(_) => return true,
            };
            places.add(at, &event.name);
            // Of another store's past only what must not be missed is news here.
            if is_own || LogKind::of(&event.kind).is_notable() {
                self.note(LogEntry::of(&event));
            }
            true
        })?;
        places.upto = end;
        Ok(())
    }

    /// Counts what upstream did.
    pub(super) fn count(&self, events: &[Event]) {
        let counts = &mut self.recent.lock().counts;
        for event in events {
            *counts.entry(LogKind::of(&event.kind)).or_default() += 1;
        }
    }

    /// How often upstream did this since the start.
    pub fn count_of(&self, kind: LogKind) -> u64 {
        self.recent.lock().counts.get(&kind).copied().unwrap_or(0)
    }

    /// The newest entries, the newest first and at most `limit`. Notable ones stay among them.
    pub fn newest(&self, limit: usize) -> Vec<LogEntry> {
        let mut entries: Vec<LogEntry> = {
            let recent = self.recent.lock();
            let runs = recent.runs.values().flatten().rev();
            runs.flat_map(Run::shown).collect()
        };
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        let notable = entries.iter().filter(|entry| entry.kind.is_notable());
        let notable = notable.count().min(MAX_NOTABLE).min(limit);
        let (mut notable_room, mut room) = (notable, limit.saturating_sub(notable));
        entries.retain(|entry| {
            let room = if entry.kind.is_notable() {
                &mut notable_room
            } else {
                &mut room
            };
            let fits = *room > 0;
            *room = room.saturating_sub(1);
            fits
        });
        entries
    }

    /// How often something of a kind happened since `from`. A run counts as a whole.
    pub fn since(&self, kind: LogKind, from: SystemTime) -> Occurrences {
        let recent = self.recent.lock();
        let runs = recent.runs.get(&kind).into_iter().flatten();
        let mut occurrences = Occurrences::default();
        for run in runs {
            let Some(last) = run.newest.front().filter(|last| last.at > from) else {
                continue;
            };
            occurrences.count = occurrences.count.saturating_add(run.count);
            if occurrences
                .last
                .as_ref()
                .is_none_or(|one| one.at <= last.at)
            {
                occurrences.last = Some(last.clone());
            }
        }
        occurrences
    }

    /// Names of crates of which a file came in, the newest first.
    pub fn recent_files(&self) -> Vec<CrateName> {
        self.recent.lock().files.iter().rev().cloned().collect()
    }
}

fn push<T>(to: &mut VecDeque<T>, one: T, most: usize) {
    if to.len() >= most {
        to.pop_front();
    }
    to.push_back(one);
}

/// Where in the journal each name has events: one number an event, the place in the low 40 bits, a
/// hash of the name in the high 24. A look goes through all of them: a million take some
/// milliseconds.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// How far the journal was read.
    pub(super) upto: u64,
    packed: Vec<u64>,
    hasher: RandomState,
}

impl Places {
    fn tag(&self, name: &CrateName) -> u64 {
        self.hasher.hash_one(name.key()) << PLACE_BITS
    }

    fn add(&mut self, place: u64, name: &CrateName) {
        if self.packed.len() >= MAX_PLACES {
            self.packed.drain(..MAX_PLACES / 8);
        }
        self.packed.push(self.tag(name) | (place & PLACE_MASK));
    }

    /// The newest places at which a name may have events, the newest first.
    pub(super) fn of(&self, name: &CrateName) -> Vec<u64> {
        let tag = self.tag(name);
        let is_tagged = |place: &&u64| **place & !PLACE_MASK == tag;
        let tagged = self.packed.iter().rev().filter(is_tagged).take(MAX_HISTORY);
        tagged.map(|place| place & PLACE_MASK).collect()
    }
}

/// What the journal has of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrateHistory {
    /// What happened to it, the newest first.
    pub events: Vec<Event>,
    /// When each version was first noticed.
    pub first_seen: HashMap<Version, SystemTime>,
}

impl CrateHistory {
    pub(super) fn take(&mut self, name: &CrateName, line: Option<Line>) {
        let event = match line {
            Some(Line::Name(entry)) if entry.name == *name => {
                if let journal::Body::FirstSeen(rows) = &entry.body {
                    for row in rows {
                        self.see(&row.version, entry.at);
                    }
                }
                entry.event()
            }
            Some(Line::Told(event)) if event.name == *name => event,
            _ => return,
        };
        if let EventKind::NewVersion { version, .. } = &event.kind {
            self.see(version, event.at);
        }
        self.events.push(event);
    }

    fn see(&mut self, version: &Version, at: SystemTime) {
        let seen = self.first_seen.entry(version.clone()).or_insert(at);
        *seen = at.min(*seen);
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            EventKind::FirstSeen { versions: 1 } => {
                write!(f, "`{name}` seen for the first time, with 1 version")
            }
            EventKind::FirstSeen { versions } => write!(
                f,
                "`{name}` seen for the first time, with {versions} versions"
            ),
            EventKind::NewVersion {
                version,
                yanked: false,
                ..
            } => write!(f, "`{name}` {version} is new"),
            EventKind::NewVersion {
                version,
                yanked: true,
                ..
            } => write!(f, "`{name}` {version} is new, and yanked"),
            EventKind::Yanked { version } => write!(f, "`{name}` {version} was yanked"),
            EventKind::Unyanked { version } => write!(f, "`{name}` {version} is no longer yanked"),
            EventKind::ChecksumChanged { version, old, new } => {
                write!(
                    f,
                    "`{name}` {version} has another checksum upstream: {new} instead of {old}; the file held before is kept"
                )
            }
            EventKind::VersionRemoved { version, .. } => {
                write!(
                    f,
                    "`{name}` {version} is no longer in upstream's index; its file is kept"
                )
            }
            EventKind::NameGone => write!(
                f,
                "`{name}` is no longer in upstream's index; what is held of it is kept and served"
            ),
            EventKind::NameBack => write!(f, "`{name}` is in upstream's index again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn release(version: u64) -> Release {
        Release::parse("demo", &format!("1.{version}.0")).expect("a release")
    }

    fn one(second: u64, kind: LogKind) -> LogEntry {
        LogEntry {
            name: CrateName::parse(&format!("c{second}")).ok(),
            ..LogEntry::new(at(second), kind, format!("`c{second}` {}", kind.as_str()))
        }
    }

    fn fetched(second: u64, version: u64) -> LogEntry {
        let release = release(version);
        let text = format!("`demo` {} fetched", release.version);
        LogEntry {
            bytes: 1024,
            ..LogEntry::about(at(second), LogKind::Fetched, &release, text)
        }
    }

    fn log(entries: impl IntoIterator<Item = LogEntry>) -> EventLog {
        let log = EventLog::default();
        entries.into_iter().for_each(|entry| log.note(entry));
        log
    }

    fn texts(log: &EventLog) -> Vec<String> {
        let newest = log.newest(60).into_iter();
        newest.map(|entry| entry.text).collect()
    }

    #[test]
    fn a_burst_is_one_line_and_hides_nothing() {
        let log = log([
            LogEntry::new(at(0), LogKind::Job, "`verify` ended well".to_owned()),
            one(1, LogKind::Failure),
        ]);
        for number in 0..10_000 {
            log.note(fetched(2 + number / 100, number));
        }
        assert_eq!(
            texts(&log),
            [
                "10000 crates fetched, 10.2 MB: `demo` 1.9999.0, `demo` 1.9998.0, `demo` 1.9997.0, …",
                "`c1` trouble",
                "`verify` ended well",
            ]
        );
        for second in 200..440 {
            log.note(one(second, LogKind::New));
        }
        log.note(one(441, LogKind::Version));
        log.note(one(442, LogKind::Version));
        assert_eq!(
            texts(&log)[..3],
            [
                "`c442` version",
                "`c441` version",
                "240 crates seen for the first time: `c439`, `c438`, `c437`, …"
            ]
        );
    }

    #[test]
    fn a_few_are_shown_one_by_one_and_a_run_names_its_crate() {
        let log = log([fetched(0, 1), fetched(1000, 2), fetched(1001, 3)]);
        assert_eq!(
            texts(&log),
            [
                "`demo` 1.3.0 fetched",
                "`demo` 1.2.0 fetched",
                "`demo` 1.1.0 fetched"
            ]
        );
        log.note(fetched(1002, 4));
        log.note(fetched(1003, 5));
        let run = log.newest(60).swap_remove(0);
        assert!(
            run.text
                .starts_with("4 crates fetched, 4.0 kB: `demo` 1.5.0")
        );
        assert!(run.name.is_some(), "all are of one crate");
        let other = LogEntry {
            name: CrateName::parse("other").ok(),
            ..fetched(1004, 6)
        };
        log.note(other);
        assert_eq!(log.newest(60)[0].name, None);
        for second in 2000..2005 {
            log.note(one(second, LogKind::Failure));
        }
        assert_eq!(texts(&log)[0], "5 failures, the last: `c2004` trouble");
    }

    #[test]
    fn a_burst_does_not_push_off_what_is_notable() {
        let log = log([one(1, LogKind::Changed), one(2, LogKind::Damage)]);
        // So far apart that each stands for itself.
        for second in (0..100_000).step_by(200) {
            log.note(one(10 + second, LogKind::New));
            log.note(one(11 + second, LogKind::Version));
        }
        let told = texts(&log);
        assert_eq!(told.len(), 60);
        assert_eq!(told[58..], ["`c2` trouble", "`c1` changed"]);
    }

    #[test]
    fn there_is_a_bound() {
        let log = EventLog::default();
        for second in (0..1_000_000).step_by(1000) {
            log.note(one(second, LogKind::Job));
            log.note(one(second, LogKind::Changed));
            log.note_file(&CrateName::parse(&format!("c{second}")).expect("a name"));
        }
        assert_eq!(log.newest(usize::MAX).len(), MAX_RUNS + MAX_NOTABLE);
        assert_eq!(log.recent_files().len(), MAX_RECENT_FILES);
        let changed = log.since(LogKind::Changed, at(0));
        assert_eq!(changed.count, MAX_RUNS as u64);
        assert!(log.newest(0).is_empty());
    }

    #[test]
    fn what_happened_since_a_time_is_counted_with_the_last() {
        let log = log([
            one(1, LogKind::Removed),
            one(1000, LogKind::Removed),
            one(1001, LogKind::Removed),
            one(1002, LogKind::Gone),
        ]);
        let removed = log.since(LogKind::Removed, at(1));
        let last = removed.last.expect("one");
        assert_eq!((removed.count, last.text.as_str()), (2, "`c1001` removed"));
        assert_eq!(log.since(LogKind::Removed, at(0)).count, 3);
        assert_eq!(log.since(LogKind::Changed, at(0)), Occurrences::default());
    }

    #[test]
    fn the_newest_places_of_a_name_are_found() {
        let name = |text: &str| CrateName::parse(text).expect("a name");
        let mut places = Places::default();
        for place in 0..6000 {
            places.add(
                place,
                &name(["a", "b", "c"][usize::try_from(place % 3).unwrap()]),
            );
        }
        let found = places.of(&name("b"));
        let expected = (0..6000).rev().filter(|place| place % 3 == 1);
        let expected: Vec<u64> = expected.take(MAX_HISTORY).collect();
        assert_eq!(found, expected);
        assert!(places.of(&name("never-told-of")).is_empty());
        places.packed.resize(MAX_PLACES, 0);
        places.add(9, &name("b"));
        assert!(places.packed.len() < MAX_PLACES, "the oldest give way");
        assert_eq!(places.of(&name("b")), [9]);
    }
}
