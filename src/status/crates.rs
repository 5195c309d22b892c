//! What is known of crates and of their versions: for the pages of a crate and of a search.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    time::SystemTime,
};

use semver::Version;

use super::Status;
use crate::{
    mirror::{Error, upkeep},
    policy::View,
    registry::{CrateName, IndexFile},
    store::{self, LogEntry, ReleaseFacts, Store, Table},
};

/// How many events of a crate are told.
const MOST_EVENTS: usize = 100;

/// What is known of a crate.
#[derive(Debug, Clone)]
pub struct CrateFacts {
    /// Its name, in the spelling of the index.
    pub name: CrateName,
    /// Whether upstream no longer knows it.
    pub is_gone: bool,
    /// When upstream last confirmed its index entry.
    pub checked: SystemTime,
    /// Its versions, the highest first and no more than were asked for.
    pub versions: Vec<VersionFacts>,
    /// How many versions are in the index; removed ones are not counted.
    pub versions_count: u64,
    /// How many are held.
    pub held_count: u64,
    /// What the files held take.
    pub held_bytes: u64,
    /// Downloads from here.
    pub downloads: u64,
    /// The highest version that is not yanked, a release before a pre-release.
    pub max_version: Option<Version>,
    /// The same of those that are held.
    pub held_version: Option<Version>,
    /// Since when downloads are counted; `None`: they are not.
    pub counted_since: Option<SystemTime>,
    /// What happened to it, the newest first.
    pub events: Vec<LogEntry>,
}

/// What is known of a version.
#[derive(Debug, Clone)]
pub struct VersionFacts {
    /// What the record has.
    pub release: ReleaseFacts,
    /// The size of its file; `None`: it is not here.
    pub bytes: Option<u64>,
    /// Whether it is pinned.
    pub is_pinned: bool,
    /// Downloads from here.
    pub downloads: u64,
    /// When it was first noticed.
    pub first_seen: Option<SystemTime>,
    /// When it was published, as upstream says, in RFC 3339.
    pub published: Option<SystemTime>,
    /// The Rust version that it asks for.
    pub rust_version: Option<String>,
}

/// A crate that a search found.
#[derive(Debug, Clone)]
pub struct FoundCrate {
    /// Its name and its highest version.
    pub found: store::Found,
    /// Versions in the index.
    pub versions: u64,
    /// Of them held.
    pub held: u64,
}

/// What a line of the index says beyond what the record has.
#[derive(Debug, Default, serde::Deserialize)]
struct Line {
    rust_version: Option<String>,
    pubtime: Option<String>,
}

impl Status {
    /// What is known of a crate, and of at most `most` of its versions; `None`: its index entry was
    /// never here. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn crate_facts(&self, name: &CrateName, most: usize) -> Result<Option<CrateFacts>, Error> {
        let fault = |error: store::Error| Error::store(name, error);
        let store = self.mirror.store();
        let Some(entry) = store.entry(name).map_err(fault)? else {
            return Ok(None);
        };
        let releases = store.releases(name).map_err(fault)?;
        let mut downloads = downloads_of(store, name).map_err(fault)?;
        let history = store.history_of(name, MOST_EVENTS).map_err(fault)?;
        let held = || releases.iter().filter(|release| release.held);
        let mut facts = CrateFacts {
            name: entry.name,
            is_gone: entry.gone,
            checked: entry.checked,
            versions: Vec::new(),
            versions_count: releases.iter().filter(|release| !release.removed).count() as u64,
            held_count: held().count() as u64,
            held_bytes: held()
                .filter_map(|one| store.blob_bytes(&one.checksum))
                .sum(),
            downloads: downloads.values().sum(),
            max_version: highest(releases.iter().filter(|release| !release.removed)),
            held_version: highest(held()),
            counted_since: self.mirror.counted_since().map_err(fault)?,
            events: history.events.iter().map(LogEntry::of).collect(),
        };
        let shown: Vec<ReleaseFacts> = releases.into_iter().rev().take(most).collect();
        let mut lines = lines_of(store, name, &shown).map_err(fault)?;
        let pins = pins_of(store, name.key()).map_err(fault)?;
        let is_pinned = |key: &String| pins.iter().any(|pin| pin == key || pin == name.key());
        let versions = shown.into_iter().map(|release| {
            let key = format!("{}@{}", name.key(), release.version);
            let line = lines.remove(&release.version).unwrap_or_default();
            let bytes = release.held.then(|| store.blob_bytes(&release.checksum));
            VersionFacts {
                bytes: bytes.flatten(),
                is_pinned: is_pinned(&key),
                downloads: downloads.remove(&key).unwrap_or(0),
                first_seen: history.first_seen.get(&release.version).copied(),
                published: line
                    .pubtime
                    .and_then(|at| humantime::parse_rfc3339_weak(&at).ok()),
                rust_version: line.rust_version,
                release,
            }
        });
        facts.versions = versions.collect();
        Ok(Some(facts))
    }

    /// [`Mirror::search`](crate::mirror::Mirror::search), with what is held of each; of an empty query crates that were
    /// fetched of late, then others that are held. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn search_held(
        &self,
        query: &str,
        limit: usize,
    ) -> Result<(Vec<FoundCrate>, usize), Error> {
        let (found, total) = self.mirror.search(&View::all(), query, limit)?;
        if query.is_empty() {
            let found = self.lately(found, limit)?;
            let total = found.len();
            return Ok((found, total));
        }
        let found = found
            .into_iter()
            .map(|found| count_held(self.mirror.store(), found));
        Ok((found.collect::<Result<_, Error>>()?, total))
    }

    /// Crates that were fetched of late, filled up with those that are held among what upstream
    /// changed of late and among `others`.
    fn lately(&self, others: Vec<store::Found>, limit: usize) -> Result<Vec<FoundCrate>, Error> {
        let store = self.mirror.store();
        let names = store.log().recent_files().into_iter();
        let newest = store.log().newest(usize::MAX).into_iter();
        let names = names.chain(newest.filter_map(|entry| entry.name));
        let names = names.chain(others.into_iter().map(|found| found.name));
        let mut seen = HashSet::new();
        let mut lately = Vec::new();
        for name in names.filter(|name| seen.insert(name.clone())) {
            let found = store.find(&name);
            let Some(found) = found.map_err(|error| Error::store(&name, error))? else {
                continue;
            };
            lately.extend(
                Some(count_held(self.mirror.store(), found)?).filter(|found| found.held > 0),
            );
            if lately.len() >= limit {
                break;
            }
        }
        Ok(lately)
    }
}

/// What the lines of some releases say.
fn lines_of(
    store: &Store,
    name: &CrateName,
    shown: &[ReleaseFacts],
) -> Result<HashMap<Version, Line>, store::Error> {
    let Some(snapshot) = store.snapshot(name)? else {
        return Ok(HashMap::new());
    };
    let bytes = snapshot.bytes.clone();
    let Ok(file) = IndexFile::parse(name, snapshot.bytes) else {
        return Ok(HashMap::new());
    };
    let wanted: HashSet<&Version> = shown.iter().map(|release| &release.version).collect();
    let read = |row: &crate::registry::Row| {
        let line = bytes.get(row.line.clone()).unwrap_or_default();
        let line = serde_json::from_slice(line).unwrap_or_default();
        (row.version.clone(), line)
    };
    let rows = file.rows().iter();
    let rows = rows.filter(|row| wanted.contains(&row.version));
    Ok(rows.map(read).collect())
}

fn downloads_of(store: &Store, name: &CrateName) -> Result<BTreeMap<String, u64>, store::Error> {
    let prefix = format!("{}@", name.key());
    let mut counts = BTreeMap::new();
    store.kept_all(Table::Uses, &prefix, |key, bytes| {
        counts.insert(key.to_owned(), upkeep::downloads_in(bytes));
        ControlFlow::Continue(())
    })?;
    Ok(counts)
}

fn count_held(store: &Store, found: store::Found) -> Result<FoundCrate, Error> {
    let releases = store.releases(&found.name);
    let releases = releases.map_err(|error| Error::store(&found.name, error))?;
    let count = |held: bool| {
        let counted = releases.iter().filter(|facts| facts.held || !held);
        counted.filter(|facts| !facts.removed || held).count() as u64
    };
    Ok(FoundCrate {
        versions: count(false),
        held: count(true),
        found,
    })
}

/// Which pins there are of a crate: its name, or the name and a version.
fn pins_of(store: &Store, key: &str) -> Result<Vec<String>, store::Error> {
    let mut pins = Vec::new();
    if store.kept(Table::Pins, key)?.is_some() {
        pins.push(key.to_owned());
    }
    let prefix = format!("{key}@");
    store.kept_all(Table::Pins, &prefix, |key, _| {
        pins.push(key.to_owned());
        ControlFlow::Continue(())
    })?;
    Ok(pins)
}

/// The highest of some versions, given in their order, that is not yanked: a release before a
/// pre-release.
fn highest<'facts>(
    releases: impl DoubleEndedIterator<Item = &'facts ReleaseFacts> + Clone,
) -> Option<Version> {
    let good = releases.rev().filter(|release| !release.yanked);
    let mut versions = good.map(|release| &release.version);
    let mut finished = versions.clone().filter(|version| version.pre.is_empty());
    finished.next().or_else(|| versions.next()).cloned()
}
