//! What is known of crates and of their versions: for the pages of a crate and of a search.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
};

use semver::Version;
use serde::Serialize;

use super::{EventFacts, Status};
use crate::{
    mirror::{Error, uses},
    policy::{View, freshness::Mode},
    registry::{CrateName, IndexFile},
    store::{self, ReleaseFacts, Store, Table},
    util::format::seconds,
};

/// How many events of a crate are shown.
const MAX_EVENTS: usize = 100;

/// How many crates a search shows.
const MAX_FOUND: usize = 50;

/// How many versions of a crate are shown.
const MAX_VERSIONS: usize = 500;

/// A search: `/crates?q=`, and as JSON `/crates.json?q=`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SearchPage {
    /// What was asked for; empty: the crates fetched of late are shown.
    pub query: String,
    /// The best first.
    pub found: Vec<FoundCrate>,
    /// How many there are in all.
    pub total: usize,
}

/// A crate that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FoundCrate {
    /// Its name.
    pub name: String,
    /// The highest version that is not yanked.
    pub max_version: Option<String>,
    /// Versions in the index.
    pub versions: u64,
    /// Of them held.
    pub held: u64,
}

/// A crate: `/crates/{name}`, and as JSON `/crates/{name}.json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CratePage {
    /// Its name, in the spelling of the index.
    pub name: String,
    /// Whether upstream no longer knows it.
    pub is_gone: bool,
    /// Since its index entry was last checked; absent: never.
    pub checked_seconds: Option<u64>,
    /// The highest version that is not yanked.
    pub max_version: Option<String>,
    /// The highest held version that is not yanked: what a build gets without upstream.
    pub held_version: Option<String>,
    /// Versions in the index; removed ones are not counted.
    pub versions_count: u64,
    /// Of them held.
    pub held_count: u64,
    /// What the files held take.
    pub held_bytes: u64,
    /// Downloads from here.
    pub downloads: u64,
    /// Since when downloads are counted; absent: they are not.
    pub counted_since_seconds: Option<u64>,
    /// Each version that is in the index or was, the highest first, at most 500.
    pub versions: Vec<VersionFacts>,
    /// What happened to it, the newest first.
    pub events: Vec<EventFacts>,
    /// The line for a `Cargo.toml`.
    pub dependency: String,
}

/// A version of a crate.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and a field that scripts read"
)]
#[derive(Debug, Clone, Default, Serialize)]
pub struct VersionFacts {
    /// The version.
    pub version: String,
    /// Its sha256.
    pub checksum: String,
    /// Whether it is yanked.
    pub yanked: bool,
    /// Whether upstream removed it.
    pub removed: bool,
    /// Whether its file is here.
    pub held: bool,
    /// Whether somebody pinned it.
    pub pinned: bool,
    /// The size of its file; absent: not known, since it is not here.
    pub bytes: Option<u64>,
    /// When it was published, as upstream says.
    pub published_seconds: Option<u64>,
    /// When this mirror first saw it.
    pub first_seen_seconds: Option<u64>,
    /// Downloads from here.
    pub downloads: u64,
    /// The Rust version that it asks for.
    pub rust_version: Option<String>,
}

/// What a line of the index says beyond what the record has.
#[derive(Debug, Default, serde::Deserialize)]
struct Line {
    rust_version: Option<String>,
    pubtime: Option<String>,
}

impl Status {
    /// What is known of a crate; `None`: its index entry was never here. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn crate_page(&self, name: &CrateName) -> Result<Option<CratePage>, Error> {
        let fault = |error: store::Error| Error::store(name, error);
        let (store, status) = (&self.services.store, self.services.state());
        let Some(entry) = store.entry(name).map_err(fault)? else {
            return Ok(None);
        };
        let releases = store.releases(name).map_err(fault)?;
        let mut downloads = downloads_of(store, name).map_err(fault)?;
        let history = store.history_of(name, MAX_EVENTS).map_err(fault)?;
        let held = || releases.iter().filter(|release| release.held);
        let in_index = || releases.iter().filter(|release| !release.removed);
        let (max_version, held_version) = (highest(in_index()), highest(held()));
        let usable = match status.mode {
            Mode::Offline => held_version.as_ref(),
            Mode::Fallback | Mode::Strict => max_version.as_ref(),
        };
        let dependency = usable.map(|version| format!("{} = \"{version}\"", entry.name));
        let checked = status.now.duration_since(entry.checked);
        let mut page = CratePage {
            name: entry.name.to_string(),
            is_gone: entry.gone,
            checked_seconds: Some(checked.map_or(0, |age| age.as_secs())),
            versions: Vec::new(),
            versions_count: in_index().count() as u64,
            held_count: held().count() as u64,
            held_bytes: held()
                .filter_map(|one| store.blob_bytes(&one.checksum).ok().flatten())
                .sum(),
            downloads: downloads.values().sum(),
            max_version: max_version.as_ref().map(ToString::to_string),
            held_version: held_version.as_ref().map(ToString::to_string),
            counted_since_seconds: self
                .services
                .uses
                .counted_since()
                .map_err(fault)?
                .map(seconds),
            events: history.events.iter().map(EventFacts::of).collect(),
            dependency: dependency.unwrap_or_default(),
        };
        let shown: Vec<ReleaseFacts> = releases.into_iter().rev().take(MAX_VERSIONS).collect();
        let mut lines = lines_of(store, name, &shown).map_err(fault)?;
        let pins = pins_of(store, name.key()).map_err(fault)?;
        let versions = shown.into_iter().map(|release| {
            let key = format!("{}@{}", name.key(), release.version);
            let line = lines.remove(&release.version).unwrap_or_default();
            let bytes = || store.blob_bytes(&release.checksum).ok().flatten();
            let bytes = release.held.then(bytes);
            let first_seen = history.first_seen.get(&release.version);
            let published = line
                .pubtime
                .and_then(|at| humantime::parse_rfc3339_weak(&at).ok());
            VersionFacts {
                version: release.version.to_string(),
                checksum: release.checksum.to_string(),
                yanked: release.yanked,
                removed: release.removed,
                held: release.held,
                pinned: pins.iter().any(|pin| *pin == key || pin == name.key()),
                bytes: bytes.flatten(),
                published_seconds: published.map(seconds),
                first_seen_seconds: first_seen.copied().map(seconds),
                downloads: downloads.remove(&key).unwrap_or(0),
                rust_version: line.rust_version,
            }
        });
        page.versions = versions.collect();
        Ok(Some(page))
    }

    /// Crates whose name contains `query`, with what is held of each; of an empty query crates that
    /// were recently fetched, then others that are held. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn search_page(&self, query: String) -> Result<SearchPage, Error> {
        let (found, total) = self
            .services
            .mirror
            .search(&View::all(), &query, MAX_FOUND)?;
        if query.is_empty() {
            let found = self.recent_crates(found)?;
            return Ok(SearchPage {
                total: found.len(),
                query,
                found,
            });
        }
        let count = |found: &store::Found| count_held(&self.services.store, found);
        let found = found.iter().map(count).collect::<Result<_, Error>>()?;
        Ok(SearchPage {
            query,
            found,
            total,
        })
    }

    /// Crates that were recently fetched, filled up with those that are held among what upstream
    /// recently changed and among `others`.
    fn recent_crates(&self, others: Vec<store::Found>) -> Result<Vec<FoundCrate>, Error> {
        let store = &self.services.store;
        let names = store.log().recent_files().into_iter();
        let newest = store.log().newest(usize::MAX).into_iter();
        let names = names.chain(newest.filter_map(|entry| entry.name));
        let names = names.chain(others.into_iter().map(|found| found.name));
        let (mut seen, mut recent) = (HashSet::new(), Vec::new());
        for name in names.filter(|name| seen.insert(name.clone())) {
            let found = store.find(&name);
            let Some(found) = found.map_err(|error| Error::store(&name, error))? else {
                continue;
            };
            let counted = count_held(store, &found)?;
            recent.extend(Some(counted).filter(|found| found.held > 0));
            if recent.len() >= MAX_FOUND {
                break;
            }
        }
        Ok(recent)
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
        counts.insert(key.to_owned(), uses::downloads_in(bytes));
        ControlFlow::Continue(())
    })?;
    Ok(counts)
}

fn count_held(store: &Store, found: &store::Found) -> Result<FoundCrate, Error> {
    let releases = store.releases(&found.name);
    let releases = releases.map_err(|error| Error::store(&found.name, error))?;
    let count = |held: bool| {
        let counted = releases.iter().filter(|facts| facts.held || !held);
        counted.filter(|facts| !facts.removed || held).count() as u64
    };
    Ok(FoundCrate {
        name: found.name.to_string(),
        max_version: found.max_version.as_ref().map(ToString::to_string),
        versions: count(false),
        held: count(true),
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
