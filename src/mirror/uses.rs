//! Who fetched what: counted in memory, written by the minute.
//!
//! In [`Table::Uses`], under `name@version` with the name in lower case:
//! `{"by":[{"client":"10.0.0.7","count":3,"first":SECONDS,"last":SECONDS}]}`, the newest first and
//! at most 32. Under `recorded since`, which is no release: the second since which nothing is missing.

use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    registry::{CrateName, Release},
    store::{self, Store, Table},
    util::{
        clock::Clock,
        format::{from_seconds, seconds},
        json::{read_json, to_json},
    },
};

/// How many locks the counts are spread over: far more than there are threads that answer.
const SHARDS: usize = 64;

/// How many different downloads a shard counts between two writes. At some 150 bytes each all of
/// them together take 20 MB; what does not fit is not recorded.
const MAX_SLOTS: usize = 2048;

/// How many clients are kept of a release.
const MAX_CLIENTS: usize = 32;

/// Where it is kept since when uses are recorded without a gap.
pub const RECORDED_SINCE: &str = "recorded since";

/// How many releases are written at a time.
const WRITTEN_AT_A_TIME: usize = 256;

/// How often what is too old is forgotten: all of it is read for that.
const FORGET_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// The longest path that is looked at: a name, a version and what stands around them are less.
const MAX_PATH_BYTES: usize = 512;

/// How long it is kept who fetched what. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Zero: it is not recorded.
    pub keep_for: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keep_for: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }
}

/// What one client did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its address.
    pub client: IpAddr,
    /// How often.
    pub count: u64,
    /// For the first time, in seconds since 1970.
    pub first: u64,
    /// For the last time.
    pub last: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    by: Vec<Client>,
}

impl Kept {
    fn add(&mut self, new: Client) {
        match self.by.iter_mut().find(|known| known.client == new.client) {
            Some(known) => {
                known.count = known.count.saturating_add(new.count);
                known.first = known.first.min(new.first);
                known.last = known.last.max(new.last);
            }
            None => self.by.push(new),
        }
    }

    fn tidy(&mut self, oldest: u64) {
        self.by.retain(|client| client.last >= oldest);
        self.by.sort_by_key(|client| std::cmp::Reverse(client.last));
        self.by.truncate(MAX_CLIENTS);
    }
}

/// Records who fetches what.
#[derive(Debug)]
pub struct UseLog {
    store: Store,
    clock: Clock,

    /// How long it is kept, in seconds; zero: nothing is recorded.
    keep_for: AtomicU64,
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<u64, Slot>>]>,
    /// Downloads that found no room.
    dropped: AtomicU64,
    /// What is being written, by the release. One at a time writes: each reads before it does.
    waiting: Mutex<BTreeMap<String, Kept>>,
    /// When what is too old was last forgotten.
    forgot: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Slot {
    path: Box<str>,
    client: IpAddr,
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl UseLog {
    /// Zero: nothing is to be recorded.
    pub fn new(store: Store, clock: Clock, keep_for: Duration) -> UseLog {
        let uses = UseLog {
            store,
            clock,
            keep_for: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_shard| Mutex::default()).collect(),
            dropped: AtomicU64::new(0),
            waiting: Mutex::default(),
            forgot: Mutex::default(),
        };
        uses.set_keep_for(keep_for);
        uses
    }

    /// Returns whether that is another time than before.
    fn set_keep_for(&self, keep_for: Duration) -> bool {
        // Part of a second is not nothing.
        let seconds = keep_for.as_secs().max(u64::from(!keep_for.is_zero()));
        let is_new = self.keep_for.swap(seconds, Relaxed) != seconds;
        if is_new {
            *self.forgot.lock() = None;
        }
        is_new
    }

    /// From now on what is older than this is forgotten; zero: nothing more is recorded.
    pub fn keep_for(&self, keep_for: Duration) {
        if self.set_keep_for(keep_for) {
            self.note_recording();
        }
    }

    /// How long it is kept who fetched what; zero: it is not recorded.
    pub fn kept_for(&self) -> Duration {
        Duration::from_secs(self.keep_for.load(Relaxed))
    }

    /// Whether it is recorded who fetches what.
    pub fn is_on(&self) -> bool {
        self.keep_for.load(Relaxed) > 0
    }

    /// Notes that `client` was answered with the crate file that `path` of the download endpoint
    /// stands for. Cheap enough for every answer.
    pub fn note(&self, path: &str, client: IpAddr) {
        if self.is_on() {
            self.count(path, client.to_canonical(), self.clock.now());
        }
    }

    /// The second before which all is forgotten. What was counted while it was recorded is written,
    /// though it is recorded no more.
    fn oldest(&self, now: SystemTime) -> u64 {
        match self.keep_for.load(Relaxed) {
            0 => 0,
            since => seconds(now).saturating_sub(since),
        }
    }

    /// Counts a download: one hash, and a lock that one thread in 64 shares. The path is taken
    /// apart when it is written.
    fn count(&self, path: &str, client: IpAddr, now: SystemTime) {
        let hash = self.hasher.hash_one((path, client));
        let index = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        let Some(shard) = self.shards.get(index) else {
            return;
        };
        let mut slots = shard.lock();
        if let Some(slot) = slots.get_mut(&hash) {
            slot.count = slot.count.saturating_add(1);
            slot.last = now;
        } else if slots.len() < MAX_SLOTS && path.len() <= MAX_PATH_BYTES {
            slots.insert(
                hash,
                Slot {
                    path: path.into(),
                    client,
                    count: 1,
                    first: now,
                    last: now,
                },
            );
        } else {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    fn take(&self) -> BTreeMap<String, Vec<Client>> {
        let mut by_release: BTreeMap<String, Vec<Client>> = BTreeMap::new();
        for shard in &self.shards {
            let slots = std::mem::take(&mut *shard.lock());
            for slot in slots.into_values() {
                if let Some(release) = release_of(&slot.path) {
                    by_release.entry(release.key()).or_default().push(Client {
                        client: slot.client,
                        count: slot.count,
                        first: seconds(slot.first),
                        last: seconds(slot.last),
                    });
                }
            }
        }
        by_release
    }

    /// Writes what was counted. What cannot be written now is kept for the next time.
    ///
    /// # Errors
    /// As the store.
    pub fn flush(&self) -> Result<(), store::Error> {
        self.flush_at(self.clock.now())
    }

    fn flush_at(&self, now: SystemTime) -> Result<(), store::Error> {
        let dropped = self.dropped.swap(0, Relaxed);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "more downloads than can be recorded: some are missing in `orlop who`"
            );
        }
        let oldest = self.oldest(now);
        let mut waiting = self.waiting.lock();
        if waiting.len() < SHARDS * MAX_SLOTS {
            for (key, clients) in self.take() {
                let kept = waiting.entry(key).or_default();
                for client in clients {
                    kept.add(client);
                }
                kept.tidy(oldest);
            }
        }
        while !waiting.is_empty() {
            let some = waiting.iter().take(WRITTEN_AT_A_TIME);
            let pairs = some
                .map(|(key, new)| Ok((key.clone(), Some(merged(&self.store, key, new, oldest)?))));
            let pairs = pairs.collect::<Result<Vec<_>, store::Error>>()?;
            let keys: Vec<String> = pairs.iter().map(|(key, _value)| key.clone()).collect();
            self.store.keep(Table::Uses, pairs)?;
            for key in &keys {
                waiting.remove(key);
            }
        }
        Ok(())
    }

    /// Whether it was long ago that what is too old was forgotten; the first time is at once.
    fn is_time_to_forget(&self) -> bool {
        let mut forgot = self.forgot.lock();
        let is_time = forgot.is_none_or(|at| at.elapsed() > FORGET_EVERY);
        if is_time {
            *forgot = Some(Instant::now());
        }
        is_time
    }

    /// Forgets what is too old.
    fn forget_old(&self, now: SystemTime) -> Result<(), store::Error> {
        let oldest = self.oldest(now);
        let _nobody_writes = self.waiting.lock();
        let mut pairs = Vec::new();
        self.store.kept_all(Table::Uses, "", |key, bytes| {
            if key == RECORDED_SINCE {
                return ControlFlow::Continue(());
            }
            let mut kept: Kept = read_json(bytes).unwrap_or_default();
            let before = kept.by.len();
            kept.tidy(oldest);
            if kept.by.is_empty() {
                pairs.push((key.to_owned(), None));
            } else if kept.by.len() < before {
                pairs.push((key.to_owned(), Some(to_json(&kept))));
            }
            if pairs.len() >= WRITTEN_AT_A_TIME * 16 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        self.store.keep(Table::Uses, pairs)
    }

    /// Writes what was counted, and every few hours forgets what is too old.
    pub fn write(&self) {
        self.note_recording();
        let now = self.clock.now();
        let mut written = self.flush_at(now);
        if written.is_ok() && self.is_on() && self.is_time_to_forget() {
            written = self.forget_old(now);
        }
        if let Err(error) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not write who fetched what"
            );
        }
    }

    /// Notes since when uses are recorded, or that they are not. What was recorded is lost with the
    /// index database, and the note with it.
    pub fn note_recording(&self) {
        if let Err(error) = self.try_to_note_recording() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not write since when it is recorded who fetches what"
            );
        }
    }

    fn try_to_note_recording(&self) -> Result<(), store::Error> {
        let is_noted = self.store.kept(Table::Uses, RECORDED_SINCE)?.is_some();
        if is_noted == self.is_on() {
            return Ok(());
        }
        let now = to_json(&seconds(self.clock.now()));
        let noted = self.is_on().then_some(now);
        let pair = (RECORDED_SINCE.to_owned(), noted);
        self.store.keep(Table::Uses, vec![pair])
    }

    /// Since when nothing is missing in the record of uses; where nothing is recorded, now.
    ///
    /// # Errors
    /// As the store.
    pub fn complete_since(&self) -> Result<SystemTime, store::Error> {
        self.note_recording();
        let since = self.noted_since()?;
        Ok(since.unwrap_or_else(|| self.clock.now()))
    }

    /// Since when downloads are counted; `None`: they are not.
    ///
    /// # Errors
    /// As the store.
    pub fn counted_since(&self) -> Result<Option<SystemTime>, store::Error> {
        if !self.is_on() {
            return Ok(None);
        }
        self.noted_since()
    }

    fn noted_since(&self) -> Result<Option<SystemTime>, store::Error> {
        let kept = self.store.kept(Table::Uses, RECORDED_SINCE)?;
        Ok(kept.and_then(|bytes| read_json(&bytes)).map(from_seconds))
    }

    /// Who fetched each release of a crate, by `name@version`, as far as it is written.
    ///
    /// # Errors
    /// As the store.
    pub fn clients_of(
        &self,
        name: &CrateName,
    ) -> Result<BTreeMap<String, Vec<Client>>, store::Error> {
        let mut used = BTreeMap::new();
        let prefix = format!("{}@", name.key());
        self.store.kept_all(Table::Uses, &prefix, |key, bytes| {
            let kept: Kept = read_json(bytes).unwrap_or_default();
            used.insert(key.to_owned(), kept.by);
            ControlFlow::Continue(())
        })?;
        Ok(used)
    }

    /// When a release was last fetched by a client; `None`: nothing is recorded. `key`: its
    /// `name@version`.
    ///
    /// # Errors
    /// As the store.
    pub fn last_use(&self, key: &str) -> Result<Option<SystemTime>, store::Error> {
        let bytes = self.store.kept(Table::Uses, key)?;
        let kept: Option<Kept> = bytes.and_then(|bytes| read_json(&bytes));
        let clients = kept.map(|kept| kept.by).unwrap_or_default();
        let last = clients.iter().map(|client| client.last).max();
        Ok(last.map(from_seconds))
    }
}

/// What is kept of a release, with what is new.
fn merged(store: &Store, key: &str, new: &Kept, oldest: u64) -> Result<Vec<u8>, store::Error> {
    let mut kept: Kept = store
        .kept(Table::Uses, key)?
        .and_then(|bytes| read_json(&bytes))
        .unwrap_or_default();
    for client in &new.by {
        kept.add(client.clone());
    }
    kept.tidy(oldest);
    Ok(to_json(&kept))
}

/// How many downloads a value of [`Table::Uses`] tells of.
pub fn downloads_in(bytes: &[u8]) -> u64 {
    let kept: Kept = read_json(bytes).unwrap_or_default();
    kept.by
        .iter()
        .fold(0, |sum, client| sum.saturating_add(client.count))
}

/// The release of a path of the download endpoint, of any view.
fn release_of(path: &str) -> Option<Release> {
    let (_view, rest) = path.split_once("/api/v1/crates/")?;
    let (name, rest) = rest.split_once('/')?;
    let version = rest.strip_suffix("/download")?;
    Release::parse(name, &percent_decoded(version)?).ok()
}

/// A version has a `+` now and then, which some clients write as `%2B`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        from_seconds(1_800_000_000 + seconds)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn store(dir: &TempDir) -> Store {
        let options = store::Options::at(dir.path());
        Store::open(options, at(0)).expect("opens").0
    }

    fn kept(store: &Store, key: &str) -> Vec<(IpAddr, u64)> {
        let bytes = store.kept(Table::Uses, key).expect("readable");
        let kept: Kept = bytes
            .and_then(|bytes| read_json(&bytes))
            .unwrap_or_default();
        let clients = kept.by.into_iter();
        clients
            .map(|client| (client.client, client.count))
            .collect()
    }

    #[test]
    fn a_path_stands_for_a_release() {
        for (path, expected) in [
            ("/api/v1/crates/Demo/1.0.0/download", Some("demo@1.0.0")),
            (
                "/api/v1/crates/demo/1.0.0%2Bb/download",
                Some("demo@1.0.0+b"),
            ),
            (
                "/view/held/api/v1/crates/demo/1.0.0/download",
                Some("demo@1.0.0"),
            ),
            ("/api/v1/crates/demo/1.0/download", None),
            ("/api/v1/crates/demo/1.0.0%2/download", None),
            ("/index/de/mo/demo", None),
        ] {
            let found = release_of(path).map(|release| release.key());
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn downloads_are_counted_by_client_and_the_newest_are_kept() {
        let dir = TempDir::new().expect("a folder");
        let store = store(&dir);
        let uses = UseLog::new(store.clone(), Clock::start(), Duration::from_secs(100));
        let path = "/api/v1/crates/demo/1.0.0/download";
        for second in 0..40 {
            uses.count(path, address(second), at(u64::from(second)));
        }
        uses.count(path, address(39), at(50));
        uses.flush_at(at(60)).expect("written");
        let clients = kept(&store, "demo@1.0.0");
        assert_eq!(clients.len(), MAX_CLIENTS);
        assert_eq!(clients.first(), Some(&(address(39), 2)));
        uses.count(path, address(39), at(120));
        uses.flush_at(at(130)).expect("written");
        let clients = kept(&store, "demo@1.0.0");
        assert_eq!(clients.first(), Some(&(address(39), 3)));
        assert_eq!(clients.len(), 10, "those before second 30 are too old");
        uses.forget_old(at(1000)).expect("written");
        assert_eq!(
            store.kept(Table::Uses, "demo@1.0.0").expect("readable"),
            None
        );
    }

    #[test]
    fn all_who_write_at_the_same_time_are_counted() {
        let dir = TempDir::new().expect("a folder");
        let store = store(&dir);
        let uses = UseLog::new(store.clone(), Clock::start(), Duration::from_secs(100));
        std::thread::scope(|scope| {
            for _thread in 0..4 {
                scope.spawn(|| {
                    for _time in 0..25 {
                        uses.count("/api/v1/crates/demo/1.0.0/download", address(1), at(0));
                        uses.flush_at(at(0)).expect("written");
                    }
                });
            }
        });
        assert_eq!(kept(&store, "demo@1.0.0"), [(address(1), 100)]);
    }

    #[test]
    fn memory_has_an_end() {
        let dir = TempDir::new().expect("a folder");
        let store = store(&dir);
        let uses = UseLog::new(store.clone(), Clock::start(), Duration::from_secs(100));
        for number in 0..(SHARDS * MAX_SLOTS + 1000) {
            uses.count(&format!("/{number}"), address(1), at(0));
        }
        assert!(uses.dropped.load(Relaxed) >= 1000);
        assert!(!UseLog::new(store, Clock::start(), Duration::ZERO).is_on());
    }
}
