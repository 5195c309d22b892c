//! What is known of a crate and of each of its versions.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    time::SystemTime,
};

use semver::Version;

use crate::{
    mirror::{Error, Mirror},
    registry::{CrateName, IndexFile},
    store::{self, LogEntry, ReleaseFacts, Table},
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

/// What a line of the index says beyond what the record has.
#[derive(Debug, Default, serde::Deserialize)]
struct Line {
    rust_version: Option<String>,
    pubtime: Option<String>,
}

impl Mirror {
    /// What is known of a crate, and of at most `most` of its versions; `None`: its index entry was
    /// never here. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn crate_facts(&self, name: &CrateName, most: usize) -> Result<Option<CrateFacts>, Error> {
        let fault = |error: store::Error| Error::store(name, error);
        let store = &self.inner.store;
        let Some(entry) = store.entry(name).map_err(fault)? else {
            return Ok(None);
        };
        let releases = store.releases(name).map_err(fault)?;
        let mut downloads = self.downloads_of(name).map_err(fault)?;
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
            counted_since: self.inner.counted_since().map_err(fault)?,
            events: history.events.iter().map(LogEntry::of).collect(),
        };
        let shown: Vec<ReleaseFacts> = releases.into_iter().rev().take(most).collect();
        let mut lines = self.lines_of(name, &shown).map_err(fault)?;
        let pins = self.pins_of(name.key()).map_err(fault)?;
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

    /// What the lines of some releases say.
    fn lines_of(
        &self,
        name: &CrateName,
        shown: &[ReleaseFacts],
    ) -> Result<HashMap<Version, Line>, store::Error> {
        let Some(snapshot) = self.inner.store.snapshot(name)? else {
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

    fn downloads_of(&self, name: &CrateName) -> Result<BTreeMap<String, u64>, store::Error> {
        let prefix = format!("{}@", name.key());
        let mut counts = BTreeMap::new();
        self.inner
            .store
            .kept_all(Table::Uses, &prefix, |key, bytes| {
                counts.insert(key.to_owned(), crate::mirror::upkeep::downloads_in(bytes));
                ControlFlow::Continue(())
            })?;
        Ok(counts)
    }
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
