//! What a sync is asked for, and what came of it.

use serde::{Deserialize, Serialize};

use crate::jobs::{error::Failure, job::JobReport, select::Selection};

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

impl JobReport for SyncReport {
    const NAME: &'static str = "sync";

    fn has_problems(&self) -> bool {
        !self.failed.is_empty()
    }
}

/// How a saved set fared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetRun {
    /// When it was last tried, in seconds since 1970.
    pub at: u64,
    /// When all of it was last there.
    pub ok_at: Option<u64>,
    /// How much of it failed the last time that a sync came to its end.
    pub failures: u64,
    /// Why the last sync came to no end.
    pub error: Option<String>,
}
