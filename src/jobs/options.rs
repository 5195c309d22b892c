//! How jobs work.

use std::{path::PathBuf, time::Duration};

/// How jobs work. Each setting is explained where it is used.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How crates are fetched ahead.
    pub sync: SyncOptions,
    /// Which bundles are taken in, and how ours are signed.
    pub bundle: BundleOptions,
    /// The folder that has the git index of each view, for a backup.
    pub views_dir: PathBuf,
}

impl Options {
    /// These options with those of `new` that may change while the program runs. A sync under way
    /// keeps its pace.
    #[must_use]
    pub fn reloaded(&self, new: &Options) -> Options {
        Options {
            sync: new.sync.clone(),
            bundle: BundleOptions {
                trust: new.bundle.trust.clone(),
                ..self.bundle.clone()
            },
            ..self.clone()
        }
    }
}

/// How crates are fetched ahead. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncOptions {
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

impl Default for SyncOptions {
    fn default() -> SyncOptions {
        SyncOptions {
            every: Duration::from_secs(6 * 60 * 60),
            concurrency: 32,
            max_rate: None,
            patience: Duration::from_secs(600),
        }
    }
}

/// Whose bundles are taken in, and how ours are signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleOptions {
    /// Public keys whose bundles are taken in, as text.
    pub trust: Vec<String>,
    /// The folder of our own key.
    pub key_dir: PathBuf,
}
