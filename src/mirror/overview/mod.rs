//! What the pages show beside [`Status`]: what was recorded, what happened, and what is known of a crate.

mod krate;

use std::{
    collections::HashSet,
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

pub use self::krate::{CrateFacts, VersionFacts};
use super::{Error, Mirror, Status, jobs::Running, upkeep::StatsReport};
use crate::store::{self, LogEntry, LogKind, Occurrences, Table};

/// How many events are gathered at most.
const MOST_EVENTS: usize = 60;

/// What the status page shows.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The state as it is read off its owners.
    pub status: Status,
    /// What was recorded: failures, sets, the last jobs. Its other numbers are left out.
    pub recorded: StatsReport,
    /// Jobs that run now.
    pub running: Vec<Running>,
    /// The newest events, the newest first.
    pub events: Vec<LogEntry>,
    /// Checksums that changed within [`SHOWN_FOR`].
    pub changed: Occurrences,
    /// Versions that went from the index within [`SHOWN_FOR`].
    pub removed: Occurrences,
    /// Files that upstream sent within [`SHOWN_FOR`] and that the index does not promise.
    pub mismatches: Occurrences,
    /// Stored files that were found damaged within [`SHOWN_FOR`].
    pub damaged: Occurrences,
    /// The room on the disk; `None`: the file system does not tell.
    pub room: Option<store::Room>,
    /// How old the oldest index entry is that was served past its time of late; `None`: none was.
    pub oldest_stale: Option<Duration>,
    /// How often saved sets are fetched again; `None`: only when somebody asks.
    pub sync_every: Option<Duration>,
}

/// How long what is over is shown as needing attention: whoever looks once a week has seen it.
pub const SHOWN_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many failures of syncs are looked through; where there are more, that is said.
pub const MOST_FAILURES: u64 = 10_000;

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

impl Mirror {
    /// What the status page shows. Reads what was recorded: blocks for the disk for some
    /// milliseconds.
    pub fn overview(&self) -> Overview {
        let (inner, status) = (&self.inner, self.status());
        let log = inner.store.log();
        let from = status.now.checked_sub(SHOWN_FOR);
        let since = |kind| log.since(kind, from.unwrap_or(SystemTime::UNIX_EPOCH));
        let mut recorded = StatsReport::default();
        if let Err(error) = self.kept_stats(&mut recorded, MOST_FAILURES) {
            tracing::warn!(%error, "could not read what was recorded");
        }
        let every = inner.options().sync.every;
        Overview {
            events: log.newest(MOST_EVENTS),
            changed: since(LogKind::Changed),
            removed: since(LogKind::Removed),
            mismatches: since(LogKind::Mismatch),
            damaged: since(LogKind::Damage),
            running: self.jobs(),
            room: inner.store.room(),
            oldest_stale: self.oldest_stale(),
            sync_every: (!every.is_zero()).then_some(every),
            status,
            recorded,
        }
    }

    /// [`search`](Mirror::search), with what is held of each; of an empty query crates that were
    /// fetched of late, then others that are held. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn search_held(
        &self,
        query: &str,
        limit: usize,
    ) -> Result<(Vec<FoundCrate>, usize), Error> {
        let (found, total) = self.search(query, limit)?;
        if query.is_empty() {
            let found = self.lately(found, limit)?;
            let total = found.len();
            return Ok((found, total));
        }
        let found = found.into_iter().map(|found| self.count_held(found));
        Ok((found.collect::<Result<_, Error>>()?, total))
    }

    /// Crates that were fetched of late, filled up with those that are held among what upstream
    /// changed of late and among `others`.
    fn lately(&self, others: Vec<store::Found>, limit: usize) -> Result<Vec<FoundCrate>, Error> {
        let store = &self.inner.store;
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
            lately.extend(Some(self.count_held(found)?).filter(|found| found.held > 0));
            if lately.len() >= limit {
                break;
            }
        }
        Ok(lately)
    }

    fn count_held(&self, found: store::Found) -> Result<FoundCrate, Error> {
        let releases = self.inner.store.releases(&found.name);
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
    fn pins_of(&self, key: &str) -> Result<Vec<String>, store::Error> {
        let mut pins = Vec::new();
        if self.inner.store.kept(Table::Pins, key)?.is_some() {
            pins.push(key.to_owned());
        }
        let prefix = format!("{key}@");
        self.inner.store.kept_all(Table::Pins, &prefix, |key, _| {
            pins.push(key.to_owned());
            ControlFlow::Continue(())
        })?;
        Ok(pins)
    }
}
