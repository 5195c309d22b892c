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

use super::{Target, read_json, release_key, to_json};
use crate::{
    mirror::{
        Inner, Mirror,
        jobs::{JobError, Teller},
        select::Selection,
    },
    registry::Release,
    store::{self, Store, Table},
    util::{
        format::{from_seconds, seconds},
        task::blocking,
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
pub(in crate::mirror) const RECORDED_SINCE: &str = "recorded since";

/// How many releases are written at a time.
const WRITTEN_AT_A_TIME: usize = 256;

/// How often what is too old is forgotten: all of it is read for that.
const FORGET_EVERY: Duration = Duration::from_secs(6 * 60 * 60);

/// The longest path that is looked at: a name, a version and what stands around them are less.
const MAX_PATH_BYTES: usize = 512;

/// Whose downloads are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WhoRequest {
    /// `name` or `name@version`.
    pub release: String,
}

/// Who fetched it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WhoReport {
    /// Whether it is recorded at all.
    pub recorded: bool,
    /// Each release that somebody fetched or wants.
    pub releases: Vec<WhoRelease>,
}

/// Who fetched a release, and what else wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoRelease {
    /// `name@version`.
    pub release: String,
    /// Whether its crate file is held.
    pub held: bool,
    /// Who fetched it, the newest first.
    pub clients: Vec<Client>,
    /// Pins that want it.
    pub pins: Vec<String>,
    /// Saved sets that want it.
    pub sets: Vec<String>,
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

/// What was counted since the last write.
#[derive(Debug)]
pub(in crate::mirror) struct Uses {
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

impl Uses {
    /// Zero: nothing is to be recorded.
    pub(in crate::mirror) fn new(keep_for: Duration) -> Uses {
        let uses = Uses {
            keep_for: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_shard| Mutex::default()).collect(),
            dropped: AtomicU64::new(0),
            waiting: Mutex::default(),
            forgot: Mutex::default(),
        };
        uses.keep_for(keep_for);
        uses
    }

    /// From now on what is older than this is forgotten; zero: nothing more is recorded.
    pub(in crate::mirror) fn keep_for(&self, keep_for: Duration) {
        // Part of a second is not nothing.
        let seconds = keep_for.as_secs().max(u64::from(!keep_for.is_zero()));
        self.keep_for.store(seconds, Relaxed);
        *self.forgot.lock() = None;
    }

    fn is_on(&self) -> bool {
        self.keep_for.load(Relaxed) > 0
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
                    by_release
                        .entry(release_key(&release))
                        .or_default()
                        .push(Client {
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
    pub(in crate::mirror) fn flush(
        &self,
        store: &Store,
        now: SystemTime,
    ) -> Result<(), store::Error> {
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
            let pairs =
                some.map(|(key, new)| Ok((key.clone(), Some(merged(store, key, new, oldest)?))));
            let pairs = pairs.collect::<Result<Vec<_>, store::Error>>()?;
            let keys: Vec<String> = pairs.iter().map(|(key, _value)| key.clone()).collect();
            store.keep(Table::Uses, pairs)?;
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
    pub(in crate::mirror) fn forget_old(
        &self,
        store: &Store,
        now: SystemTime,
    ) -> Result<(), store::Error> {
        let oldest = self.oldest(now);
        let _nobody_writes = self.waiting.lock();
        let mut pairs = Vec::new();
        store.kept_all(Table::Uses, "", |key, bytes| {
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
        store.keep(Table::Uses, pairs)
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

impl Inner {
    /// Writes what was counted, and every few hours forgets what is too old.
    pub(in crate::mirror) fn write_uses(&self) {
        self.note_recording();
        let uses = &self.uses;
        let now = self.clock.now();
        let mut written = uses.flush(&self.store, now);
        if written.is_ok() && uses.is_on() && uses.is_time_to_forget() {
            written = uses.forget_old(&self.store, now);
        }
        if let Err(error) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not write who fetched what"
            );
        }
    }
}

impl Inner {
    /// Notes since when uses are recorded, or that they are not. What was recorded is lost with the
    /// index database, and the note with it.
    pub(in crate::mirror) fn note_recording(&self) {
        if let Err(error) = self.try_to_note_recording() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not write since when it is recorded who fetches what"
            );
        }
    }

    fn try_to_note_recording(&self) -> Result<(), store::Error> {
        let is_noted = self.store.kept(Table::Uses, RECORDED_SINCE)?.is_some();
        if is_noted == self.uses.is_on() {
            return Ok(());
        }
        let now = to_json(&seconds(self.clock.now()));
        let noted = self.uses.is_on().then_some(now);
        let pair = (RECORDED_SINCE.to_owned(), noted);
        self.store.keep(Table::Uses, vec![pair])
    }

    /// Since when nothing is missing in the record of uses.
    pub(super) fn recorded_since(&self) -> Result<SystemTime, store::Error> {
        self.note_recording();
        let kept = self.store.kept(Table::Uses, RECORDED_SINCE)?;
        let since = kept.and_then(|bytes| read_json(&bytes)).map(from_seconds);
        Ok(since.unwrap_or_else(|| self.clock.now()))
    }
}

impl Mirror {
    /// Since when downloads are counted; `None`: they are not.
    ///
    /// # Errors
    /// As the store.
    pub fn counted_since(&self) -> Result<Option<SystemTime>, store::Error> {
        if !self.inner.uses.is_on() {
            return Ok(None);
        }
        let kept = self.inner.store.kept(Table::Uses, RECORDED_SINCE)?;
        Ok(kept.and_then(|bytes| read_json(&bytes)).map(from_seconds))
    }

    /// Notes that `client` was answered with the crate file that `path` of the download endpoint
    /// stands for. Cheap enough for every answer.
    pub fn note_use(&self, path: &str, client: IpAddr) {
        let uses = &self.inner.uses;
        if uses.is_on() {
            uses.count(path, client.to_canonical(), self.inner.clock.now());
        }
    }

    /// Whether it is recorded who fetches what.
    pub fn records_uses(&self) -> bool {
        self.inner.uses.is_on()
    }

    /// Writes what was counted since the last time.
    pub(in crate::mirror) fn flush_uses(&self) -> Result<(), store::Error> {
        let inner = &self.inner;
        inner.uses.flush(&inner.store, inner.clock.now())
    }

    pub(in crate::mirror) async fn who(&self, request: WhoRequest) -> Result<WhoReport, JobError> {
        let target = Target::parse(&request.release)?;
        let wanted_by = self.sets_that_want(&target).await?;
        let mirror = self.clone();
        blocking(move || mirror.who_now(&target, &wanted_by)).await?
    }

    fn who_now(
        &self,
        target: &Target,
        wanted_by: &BTreeMap<String, Vec<String>>,
    ) -> Result<WhoReport, JobError> {
        let fault = |error| JobError::store("the record of uses", &error);
        self.flush_uses().map_err(fault)?;
        let prefix = format!("{}@", target.name.key());
        let mut used = BTreeMap::new();
        self.inner
            .store
            .kept_all(Table::Uses, &prefix, |key, bytes| {
                let kept: Kept = read_json(bytes).unwrap_or_default();
                used.insert(key.to_owned(), kept.by);
                ControlFlow::Continue(())
            })
            .map_err(fault)?;
        let pinned = self.pinned()?;
        let releases = self.inner.store.releases(&target.name).map_err(fault)?;
        let mut report = WhoReport {
            recorded: self.records_uses(),
            releases: Vec::new(),
        };
        for facts in releases {
            let key = format!("{}@{}", facts.name.key(), facts.version);
            let is_meant = target.version.as_ref().is_none_or(|v| *v == facts.version);
            if !is_meant {
                continue;
            }
            let told = WhoRelease {
                release: format!("{}@{}", facts.name, facts.version),
                held: facts.held,
                clients: used.remove(&key).unwrap_or_default(),
                pins: pinned.of(&target.name, &key),
                sets: wanted_by.get(&key).cloned().unwrap_or_default(),
            };
            let is_wanted =
                !(told.clients.is_empty() && told.pins.is_empty() && told.sets.is_empty());
            if is_wanted || target.version.is_some() {
                report.releases.push(told);
            }
        }
        Ok(report)
    }

    /// Which saved sets want releases of a crate, as far as the index that is held tells.
    async fn sets_that_want(
        &self,
        target: &Target,
    ) -> Result<BTreeMap<String, Vec<String>>, JobError> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for set in self.set_names()? {
            let selection = Selection {
                sets: vec![set.clone()],
                ..Selection::default()
            };
            let chosen = self.choose(&selection, false, &Teller::silent()).await?;
            for (version, _checksum) in chosen.names.get(&target.name).into_iter().flatten() {
                let key = format!("{}@{version}", target.name.key());
                wanted.entry(key).or_default().push(set.clone());
            }
        }
        Ok(wanted)
    }

    /// When a release was last fetched by a client; `None`: nobody is recorded.
    pub(super) fn last_use(&self, key: &str) -> Result<Option<SystemTime>, store::Error> {
        let bytes = self.inner.store.kept(Table::Uses, key)?;
        let kept: Option<Kept> = bytes.and_then(|bytes| read_json(&bytes));
        let clients = kept.map(|kept| kept.by).unwrap_or_default();
        let last = clients.iter().map(|client| client.last).max();
        Ok(last.map(from_seconds))
    }
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
            let found = release_of(path).map(|release| release_key(&release));
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn downloads_are_counted_by_client_and_the_newest_are_kept() {
        let dir = TempDir::new().expect("a folder");
        let store = store(&dir);
        let uses = Uses::new(Duration::from_secs(100));
        let path = "/api/v1/crates/demo/1.0.0/download";
        for second in 0..40 {
            uses.count(path, address(second), at(u64::from(second)));
        }
        uses.count(path, address(39), at(50));
        uses.flush(&store, at(60)).expect("written");
        let clients = kept(&store, "demo@1.0.0");
        assert_eq!(clients.len(), MAX_CLIENTS);
        assert_eq!(clients.first(), Some(&(address(39), 2)));
        uses.count(path, address(39), at(120));
        uses.flush(&store, at(130)).expect("written");
        let clients = kept(&store, "demo@1.0.0");
        assert_eq!(clients.first(), Some(&(address(39), 3)));
        assert_eq!(clients.len(), 10, "those before second 30 are too old");
        uses.forget_old(&store, at(1000)).expect("written");
        assert_eq!(
            store.kept(Table::Uses, "demo@1.0.0").expect("readable"),
            None
        );
    }

    #[test]
    fn all_who_write_at_the_same_time_are_counted() {
        let dir = TempDir::new().expect("a folder");
        let store = store(&dir);
        let uses = Uses::new(Duration::from_secs(100));
        std::thread::scope(|scope| {
            for _thread in 0..4 {
                scope.spawn(|| {
                    for _time in 0..25 {
                        uses.count("/api/v1/crates/demo/1.0.0/download", address(1), at(0));
                        uses.flush(&store, at(0)).expect("written");
                    }
                });
            }
        });
        assert_eq!(kept(&store, "demo@1.0.0"), [(address(1), 100)]);
    }

    #[test]
    fn memory_has_an_end() {
        let uses = Uses::new(Duration::from_secs(100));
        for number in 0..(SHARDS * MAX_SLOTS + 1000) {
            uses.count(&format!("/{number}"), address(1), at(0));
        }
        assert!(uses.dropped.load(Relaxed) >= 1000);
        assert!(!Uses::new(Duration::ZERO).is_on());
    }
}
