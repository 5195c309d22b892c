//! Fetching ahead: a selection with its dependency closure, and saved sets that are kept current.
//!
//! A sync resolves (`select`), leaves out what is held, and has the rest fetched by the same
//! flights that clients wait for: nothing is fetched twice. It can be broken off at any moment: what
//! is held is held, and the next sync goes on from there.
//!
//! What failed is kept in the store with its cause and tried again by every sync, whatever its
//! selection is ([`failures`]); where it is not in the selection, that decides nothing. What was not
//! in the index at all is asked for by the saved sets that want it only, and forgotten with the last
//! of them. What a client or a refresh brought meanwhile is cleared by the next
//! sync, without a request; until then it is counted. How each saved set fared is kept beside it
//! ([`set_runs`]).
//!
//! Everything is planned by name: what is missing of a name is counted, and read again from the
//! store when its turn comes ([`fetching`]). An upstream in trouble is waited for ([`patience`]), the line is not
//! filled where that is not wanted ([`pace`]), and a quarter of the places for requests at upstream
//! is left to clients.

mod failures;
mod fetching;
mod holding;
mod pace;
mod patience;
mod schedule;
mod set_runs;
mod sets;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use self::{failures::FailureRecord, schedule::SavedSets, set_runs::SetRun, sets::SavedSet};
pub(super) use self::{
    pace::Pace,
    patience::{GivenUp, Patience},
};
use super::{
    Mirror,
    jobs::{Fault, JobError, Teller},
    select::{Basis, Selection},
};
use crate::util::{format::plural, task};

/// How many names a dry run tells.
const TOLD_NAMES: usize = 100_000;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How crates are fetched ahead. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often saved sets are fetched again; zero: only when somebody asks.
    pub every: Duration,
    /// Crates asked for at once, at least 1.
    pub concurrency: usize,
    /// The most bytes a second; `None`: no bound.
    pub max_rate: Option<u64>,
    /// How long upstream may be away before a sync gives up. Ten minutes: a router restarts
    /// within that, and who waits longer has gone home.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            every: Duration::from_secs(6 * 60 * 60),
            concurrency: 32,
            max_rate: None,
            patience: Duration::from_secs(600),
        }
    }
}

/// What to fetch. An empty selection means all saved sets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SyncRequest {
    /// The crates.
    pub selection: Selection,
    /// The name to save the selection under.
    pub save: Option<String>,
    /// A saved set to forget; nothing is fetched then.
    pub forget: Option<String>,
    /// Whether to list the saved sets; nothing is fetched then.
    #[serde(default)]
    pub list_sets: bool,
    /// Whether to say what would be fetched, and fetch nothing.
    pub dry_run: bool,
}

impl SyncRequest {
    /// Whether it is about crates, and not only about the list of sets.
    pub fn fetches(&self) -> bool {
        !self.list_sets && self.forget.is_none()
    }
}

/// What was fetched.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncReport {
    /// Names in the selection.
    pub names: u64,
    /// Releases in the selection.
    pub releases: u64,
    /// Of them held before.
    pub held: u64,
    /// Fetched now.
    pub fetched: u64,
    /// Bytes of what was fetched.
    pub fetched_bytes: u64,
    /// How many of earlier failures were tried again.
    pub retried: u64,
    /// What of them failed again, where it is not in the selection: no problem of this sync.
    pub retried_failed: Vec<Failure>,
    /// What failed of the selection, with its cause, by name and version.
    pub failed: Vec<Failure>,
    /// What a person should know: sources passed over, dependencies in other registries.
    pub notes: Vec<String>,
    /// Whether nothing was fetched, because nothing should be.
    pub dry_run: bool,
    /// How many releases would be fetched by a sync that is no dry run.
    pub would_fetch: u64,
    /// Which, as far as they are told: `name@version`.
    pub would_fetch_names: Vec<String>,
    /// The name that the selection was saved under.
    pub saved: Option<String>,
    /// Whether that name had another selection before.
    pub replaced: bool,
    /// The saved set that was forgotten.
    pub forgotten: Option<String>,
    /// The saved sets, where they were asked for.
    pub sets: Option<Vec<SetInfo>>,
}

/// A saved set, as it is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetInfo {
    /// Its name.
    pub name: String,
    /// Its lockfiles, by the names they were read from.
    pub lockfiles: Vec<String>,
    /// Its lists, by the names they were read from.
    pub lists: Vec<String>,
    /// Its crates.
    pub crates: Vec<String>,
    /// Whether it is every name.
    pub all: bool,
    /// Whether only the newest that matches is meant.
    pub latest: bool,
    /// When it was saved, and its files were copied with it, in seconds since 1970.
    #[serde(default)]
    pub saved_at: u64,
    /// How it fared.
    #[serde(default)]
    pub run: SetRun,
}

/// One thing that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The crate, or crate and version (`name@version`).
    pub what: String,
    /// Why.
    pub cause: String,
    /// Whether nothing was there to be fetched, and not only that it could not be.
    #[serde(skip)]
    pub lasting: bool,
}

impl SyncReport {
    pub(super) fn has_problems(&self) -> bool {
        !self.failed.is_empty()
    }
}

/// Lets something happen now and then.
#[derive(Debug, Default)]
pub(super) struct Throttle(Option<Instant>);

impl Throttle {
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= TELL_EVERY);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

impl Mirror {
    /// How many requests of jobs may be under way at once: three quarters of what upstream takes
    /// from us, so that a client never waits for a place behind a sync.
    pub(super) fn places(&self) -> usize {
        let upstream = self.inner.upstream.options().concurrency;
        let left = upstream.saturating_sub(upstream.div_ceil(4)).max(1);
        self.inner.options().sync.concurrency.clamp(1, left)
    }

    pub(super) async fn sync(
        &self,
        request: SyncRequest,
        teller: Teller,
    ) -> Result<SyncReport, JobError> {
        if request.list_sets {
            return self.list_sets();
        }
        if let Some(name) = &request.forget {
            return self.forget_set(name, &teller).await;
        }
        if !self.inner.options().mode.asks() {
            return Err(JobError::new(
                Fault::Unavailable,
                "the mirror is set to `offline` and asks no upstream",
            )
            .hint("set `mode = \"fallback\"`, or bring a bundle in with `orlop import`"));
        }
        let mut selection = request.selection.clone();
        let mut replaced = false;
        let are_all_sets = selection.is_empty();
        if are_all_sets {
            selection = self.all_sets(&request)?;
        } else {
            // Said before anything is saved or asked for.
            self.check(&selection)?;
            if let Some(name) = request.save.as_ref().filter(|_| !request.dry_run) {
                let (name, selection) = (name.clone(), selection.clone());
                replaced = self
                    .off_worker(move |mirror| mirror.save_set(&name, &selection))
                    .await??;
            }
        }
        let mut sets = selection.sets.clone();
        sets.extend(request.save.clone());
        let outcome = self.fetch_ahead(selection, request.dry_run, &teller).await;
        if !request.dry_run {
            if are_all_sets {
                let is_well = outcome.as_ref().is_ok_and(|report| !report.has_problems());
                self.off_worker(move |mirror| mirror.note_all_sets(is_well))
                    .await?;
            }
            self.note_sets(&sets, outcome.as_ref(), &teller).await;
        }
        let mut report = outcome?;
        report.saved = request.save;
        report.replaced = replaced;
        Ok(report)
    }

    async fn fetch_ahead(
        &self,
        selection: Selection,
        dry_run: bool,
        teller: &Teller,
    ) -> Result<SyncReport, JobError> {
        let has_closure = !selection.crates.is_empty() || !selection.lists.is_empty();
        let patience = self.patience(teller);
        let chosen = self
            .choose_by(&selection, Basis::Upstream, &patience)
            .await?;
        let mut fetching = fetching::Fetching::plan(self, chosen, &patience, dry_run).await?;
        teller.note(extent(fetching.planned(), has_closure));
        if !dry_run {
            fetching.run().await?;
        }
        Ok(fetching.into_report())
    }

    /// The patience of a job, of which there is one.
    pub(super) fn patience(&self, teller: &Teller) -> Arc<Patience> {
        Arc::new(Patience::new(
            teller.clone(),
            self.inner.options().sync.patience,
        ))
    }

    /// Does what waits for the disk where no client waits.
    async fn off_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mirror) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let mirror = self.clone();
        Ok(task::blocking(move || work(&mirror)).await?)
    }
}

/// From how many releases on it is said how fewer would do.
const MANY: u64 = 1000;

/// How much a selection turned out to be. `has_closure`: whether dependencies were followed.
fn extent(report: &SyncReport, has_closure: bool) -> String {
    let mut text = format!(
        "the selection is {} of {}; {} to be fetched",
        plural(report.releases, "release"),
        plural(report.names, "crate"),
        match report.would_fetch {
            1 => "1 is".to_owned(),
            count => format!("{count} are"),
        }
    );
    if has_closure && report.releases > MANY {
        text.push_str(
            "; every version, feature and optional dependency that cargo could choose is among \
             them: a lockfile (`--lockfile`) is exact and much less, `--latest` takes the newest \
             versions only",
        );
    }
    text
}
