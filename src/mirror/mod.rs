//! Serves on demand: an index file or a crate file, once for all who wait for it.
//!
//! - an **index file** ([`Mirror::index_file`]) is answered from the store while it is fresh;
//!   then one conditional request goes to its [`source`] for all who wait, and when that fails the
//!   stored entry is served, with its age, unless the mode forbids it;
//! - a **crate file** ([`Mirror::crate_file`]) is read from the store, or fetched by one leader on
//!   a task of its own, verified, made durable and only then shown as whole.
//!
//! Decisions are made in `policy`, which is pure; the time comes from the [`Clock`] here. Jobs use
//! the same two, so nothing is fetched twice.

mod error;
mod fetch;
mod index;
mod options;
mod pace;
mod source;
mod stale;
pub mod uses;
pub mod views;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use self::{
    error::Error,
    fetch::{CrateAnswer, CrateFile, Follower},
    index::{Asked, IndexFileAnswer},
    options::Options,
    pace::Pace,
    source::{IndexScope, IndexSource, Refreshed, SparseSource},
    uses::UseLog,
    views::{NoView, Views},
};
use self::{fetch::FetchProgress, source::OfflineSource, stale::Stale};
use crate::{
    metrics::Metrics,
    registry::{Checksum, CrateName, Release},
    store::{BlobReader, Store},
    upstream::Upstream,
    util::{background::Background, clock::Clock, live::Live, single_flight::SingleFlight},
};

/// How many names that upstream does not have are remembered; each takes about 150 bytes.
const MAX_ABSENT_NAMES: usize = 16_384;

/// How many stored files are remembered as sound; each takes about 80 bytes. One that is forgotten
/// is hashed again when it is next asked for.
const MAX_SOUND_BLOBS: usize = 131_072;

/// How many files are kept open for a moment: far fewer than a process may have.
const MAX_OPEN_BLOBS: usize = 256;

/// How many fetches or refreshes may be under way or kept. A client that asks for a hundred
/// thousand different names gets "busy" and not our memory; cargo never has more than some
/// hundreds of requests under way.
const MAX_FLIGHTS: usize = 8192;

/// The mirror. A handle: cloning it is cheap, and all clones are one.
#[derive(Debug, Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
}

/// What a mirror is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// How it behaves; whoever has it may replace it.
    pub options: Arc<Live<Options>>,
    /// Everything on disk.
    pub store: Store,
    /// The registry's downloads.
    pub upstream: Upstream,
    /// Where index files come from when the mode asks for them.
    pub source: Arc<dyn IndexSource>,
    /// The views of the index.
    pub views: Views,
    /// The counters and histograms of this process.
    pub metrics: Arc<Metrics>,
    /// The clock that decisions go by.
    pub clock: Clock,
    /// What leaders of fetches run on.
    pub background: Background,
}

#[derive(Debug)]
struct Inner {
    options: Arc<Live<Options>>,
    store: Store,
    upstream: Upstream,
    source: Arc<dyn IndexSource>,
    metrics: Arc<Metrics>,
    clock: Clock,
    background: Background,
    views: Views,
    refreshes: SingleFlight<CrateName, Option<Result<Asked, Error>>>,
    fetches: SingleFlight<Checksum, FetchProgress>,
    /// Names that upstream does not have, and when it said so.
    absent: quick_cache::sync::Cache<CrateName, SystemTime>,
    /// Releases that the index was asked for in vain, and when.
    absent_releases: quick_cache::sync::Cache<Release, SystemTime>,
    /// Stored files that were found to be what they should be since the start, with their length.
    sound: quick_cache::sync::Cache<Checksum, u64>,
    /// Sound files that were opened a moment ago.
    open: quick_cache::sync::Cache<Checksum, (BlobReader, Instant)>,
    stale: Stale,
}

impl Inner {
    /// Where index files come from for a client's request: in mode `offline`, from nowhere. A job that
    /// began before the mode changed ends as it began: it asks the source that is configured.
    fn source(&self) -> Arc<dyn IndexSource> {
        if self.options.get().mode.asks() {
            Arc::clone(&self.source)
        } else {
            Arc::new(OfflineSource)
        }
    }

    /// How much an answer of the source is about, also while the mode forbids to ask it.
    fn scope(&self) -> IndexScope {
        self.source.scope()
    }
}

impl Mirror {
    /// A mirror over an open store.
    pub fn new(parts: Parts) -> Mirror {
        Mirror {
            inner: Arc::new(Inner {
                options: parts.options,
                store: parts.store,
                upstream: parts.upstream,
                source: parts.source,
                metrics: parts.metrics,
                clock: parts.clock,
                background: parts.background,
                views: parts.views,
                refreshes: SingleFlight::new(MAX_FLIGHTS),
                fetches: SingleFlight::new(MAX_FLIGHTS),
                absent: quick_cache::sync::Cache::new(MAX_ABSENT_NAMES),
                absent_releases: quick_cache::sync::Cache::new(MAX_ABSENT_NAMES),
                sound: quick_cache::sync::Cache::new(MAX_SOUND_BLOBS),
                open: quick_cache::sync::Cache::new(MAX_OPEN_BLOBS),
                stale: Stale::default(),
            }),
        }
    }

    /// The options that apply now.
    pub fn options(&self) -> Arc<Options> {
        self.inner.options.get()
    }

    /// Whether upstream may be asked: not in mode `offline`.
    pub fn asks_upstream(&self) -> bool {
        self.options().mode.asks()
    }

    /// The views of the index.
    pub fn views(&self) -> &Views {
        &self.inner.views
    }

    /// How much one answer of the source of index files is about.
    pub fn scope(&self) -> IndexScope {
        self.inner.scope()
    }

    /// Brings the store up to date with all names, where the source has such a thing as all names, and
    /// waits at most `patience` for that.
    ///
    /// # Errors
    /// As the source, and [`Error::Slow`].
    pub async fn refresh_all(&self, patience: Duration) -> Result<(), Error> {
        let refreshed = tokio::time::timeout(patience, self.inner.source.refresh_all()).await;
        refreshed.unwrap_or_else(|_elapsed| {
            Err(Error::Slow {
                what: "the upstream's index".to_owned(),
                waited: patience,
            })
        })
    }

    /// Crates being fetched now.
    pub fn fetching(&self) -> usize {
        self.inner.fetches.under_way()
    }

    /// Index entries being asked for now.
    pub fn refreshing(&self) -> usize {
        self.inner.refreshes.under_way()
    }

    /// How old the oldest index entry is that was recently served past its time; `None`: none was.
    pub fn oldest_stale(&self) -> Option<Duration> {
        let oldest = self.inner.stale.oldest(Instant::now())?;
        let age = self.inner.clock.now().duration_since(oldest);
        Some(age.unwrap_or_default())
    }

    /// Forgets what is remembered of a stored file that goes away.
    pub fn forget_blob(&self, checksum: &Checksum) {
        self.inner.open.remove(checksum);
        self.inner.sound.remove(checksum);
    }
}
