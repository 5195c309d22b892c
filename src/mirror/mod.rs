//! The jobs: what the mirror does so that a crate or an index entry is here when it is asked for.
//!
//! Two walks pass through here (the map in the crate's docs has them whole):
//! - an **index file** ([`Mirror::index_file`]) is answered from the store while it is fresh;
//!   then one conditional request goes upstream for all who wait, and when that fails the stored
//!   entry is served, with its age, unless the mode forbids it;
//! - a **crate file** ([`Mirror::crate_file`]) is read from the store, or fetched by one leader on
//!   a task of its own, verified, made durable and only then shown as whole.
//!
//! Decisions are made in `policy`, which is pure; the time comes from the [`Clock`] here.

pub mod archive;
pub mod backup;
pub mod bundle;
mod error;
mod fetch;
mod follow;
mod git_index;
mod index;
pub mod jobs;
mod lines;
mod live;
mod patient;
pub mod seed;
pub mod select;
mod stale;
pub mod sync;
mod tasks;
pub mod upkeep;
pub mod views;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use error::Error;
pub use fetch::{CrateAnswer, CrateFile, Follower};
pub use follow::{Options as FollowOptions, Status as FollowStatus};
pub use git_index::{GitIndex, GitState, GitStatus, Options as GenerationOptions};
pub use index::IndexFileAnswer;
pub use tasks::Clock;
pub use views::{NoView, ViewStatus};

use self::{fetch::Progress, git_index::GitIndexes, index::Refreshed, stale::Stale, tasks::Tasks};
use crate::{
    git,
    metrics::{Metrics, SetAside},
    policy::{
        self,
        freshness::{self, Mode},
    },
    registry::{Checksum, CrateName, Release},
    store::{self, Blob, Store},
    upstream::{self, Upstream},
    util::{single_flight::SingleFlight, task},
};

/// How the mirror behaves. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to do when upstream cannot be asked.
    pub mode: Mode,
    /// How long index entries are taken at their word.
    pub freshness: freshness::Options,
    /// How long a client waits for upstream while a stale entry could be served.
    pub patience: Duration,
    /// How long a client waits at all, before it is told to ask again. Cargo gives up after 30 s
    /// without a byte.
    pub answer_within: Duration,
    /// How long a failure answers those who ask for the same thing again: longer than a herd
    /// takes to arrive, shorter than cargo's first retry.
    pub remember_failure: Duration,
    /// When commits of the git indexes are made.
    pub generations: GenerationOptions,
    /// How the upstream's git index is followed.
    pub follow: FollowOptions,
    /// How crates are fetched ahead.
    pub sync: sync::Options,
    /// Whose bundles are taken in, and how ours are signed.
    pub bundle: bundle::Options,
    /// Which views of the index there are.
    pub views: views::Options,
    /// How long things are kept.
    pub upkeep: upkeep::Options,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Mode::Fallback,
            freshness: freshness::Options::default(),
            patience: Duration::from_secs(4),
            answer_within: Duration::from_secs(25),
            remember_failure: Duration::from_secs(1),
            generations: GenerationOptions::default(),
            follow: FollowOptions::default(),
            sync: sync::Options::default(),
            bundle: bundle::Options::default(),
            views: views::Options::default(),
            upkeep: upkeep::Options::default(),
        }
    }
}

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

/// How often what was gathered in memory (times of checks) goes to the store. What a crash loses
/// of it costs one conditional request an entry.
const FLUSH_PERIOD: Duration = Duration::from_secs(60);

/// What fetches of a cancelled job get at the end of the program: enough for a last fsync.
const CUT_GRACE: Duration = Duration::from_millis(300);

/// How often the end looks whether the last job is over.
const IDLE_CHECK: Duration = Duration::from_millis(10);

/// What a job whose time is over still gets for a write that has begun.
const LAST_WRITE_GRACE: Duration = Duration::from_secs(1);

/// The mirror. A handle: cloning it is cheap, and all clones are one.
#[derive(Debug, Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: live::Live,
    /// Told when options changed.
    changed: Arc<tokio::sync::Notify>,
    store: Store,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    clock: Clock,
    refreshes: SingleFlight<CrateName, Option<Result<Refreshed, Error>>>,
    fetches: SingleFlight<Checksum, Progress>,
    /// Names that upstream does not have, and when it said so.
    absent: quick_cache::sync::Cache<CrateName, SystemTime>,
    /// Releases that the index was asked for in vain, and when.
    absent_releases: quick_cache::sync::Cache<Release, SystemTime>,
    /// Stored files that were found to be what they should be since the start, with their length.
    sound: quick_cache::sync::Cache<Checksum, u64>,
    /// Sound files that were opened a moment ago.
    open: quick_cache::sync::Cache<Checksum, (Blob, Instant)>,
    stale: Stale,
    /// Who fetches what, where it is recorded.
    uses: upkeep::Uses,
    jobs: jobs::Registry,
    /// What is done each minute and at the end, for those above.
    each_minute: EachMinute,
    /// The views of the index that are served.
    views: views::Views,
    /// The git index of each view; none where git is switched off.
    git_indexes: GitIndexes,
    /// `None`: the index is asked for entry by entry.
    follow: Option<Arc<follow::Follow>>,
    tasks: parking_lot::RwLock<Tasks>,
}

/// See [`Mirror::each_minute`].
#[derive(Default)]
struct EachMinute(parking_lot::Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>);

/// Brings the event log to the end of the journal.
fn read_events(store: &Store) {
    if let Err(error) = store.read_events() {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not read the events in the journal; it is tried again"
        );
    }
}

impl EachMinute {
    fn run(&self) {
        let all = self.0.lock().clone();
        for work in all {
            work();
        }
    }
}

impl std::fmt::Debug for EachMinute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EachMinute")
            .field(&self.0.lock().len())
            .finish()
    }
}

/// The state of the mirror, for the status page.
#[derive(Debug, Clone)]
pub struct Status {
    /// What is held, and whether the store takes writes.
    pub totals: store::Totals,
    /// How upstream is doing.
    pub upstream: upstream::Health,
    /// What upstream's index is, without credentials.
    pub upstream_url: String,
    /// How upstream's git index is followed. `None`: it is not.
    pub follow: Option<FollowStatus>,
    /// The mode.
    pub mode: Mode,
    /// Crates being fetched now.
    pub fetching: usize,
    /// Index entries being asked for now.
    pub refreshing: usize,
    /// The git index; `None`: it is switched off.
    pub git: Option<GitStatus>,
    /// The views of the index.
    pub views: Vec<ViewStatus>,
    /// The time of day.
    pub now: SystemTime,
    /// Time since the start.
    pub uptime: Duration,
}

impl Mirror {
    /// Starts the mirror over an open store: its runtime, and the loops that keep it tidy. `repo`:
    /// the repository of the git index, `None` switches that off. Index files that the store lost
    /// are back on return, if the repository has them.
    ///
    /// # Errors
    /// Where the operating system gives no threads, and where the repository of a git index that
    /// is followed cannot be made.
    pub fn start(
        options: Options,
        store: Store,
        upstream: Upstream,
        metrics: Arc<Metrics>,
        clock: Clock,
        repo: Option<git::Repo>,
    ) -> std::io::Result<Mirror> {
        let views = views::Views::new(&options.views);
        let git_indexes = repo.map(|repo| {
            let dir = |view: &policy::View| options.views.dir.join(view.name());
            let views = views.iter().map(|view| (Arc::clone(view), dir(view)));
            GitIndexes::new(&options.generations, &store, repo, views)
        });
        let git_indexes = git_indexes.unwrap_or_default();
        let tasks = Tasks::start()?;
        let follow = follow::Follow::open(&options.follow, &upstream, tasks.stop_flag())?;
        let uses = upkeep::Uses::new(options.upkeep.keep_uses_for);
        let mirror = Mirror {
            inner: Arc::new(Inner {
                uses,
                options: live::Live::new(options),
                changed: Arc::default(),
                store,
                upstream,
                metrics,
                clock,
                refreshes: SingleFlight::new(MAX_FLIGHTS),
                fetches: SingleFlight::new(MAX_FLIGHTS),
                absent: quick_cache::sync::Cache::new(MAX_ABSENT_NAMES),
                absent_releases: quick_cache::sync::Cache::new(MAX_ABSENT_NAMES),
                sound: quick_cache::sync::Cache::new(MAX_SOUND_BLOBS),
                open: quick_cache::sync::Cache::new(MAX_OPEN_BLOBS),
                stale: Stale::default(),
                jobs: jobs::Registry::default(),
                each_minute: EachMinute::default(),
                views,
                git_indexes,
                follow,
                tasks: parking_lot::RwLock::new(tasks),
            }),
        };
        mirror.recall_jobs();
        mirror.start_git_indexes();
        mirror.start_upkeep();
        mirror.start_following();
        mirror.start_schedule();
        Ok(mirror)
    }

    fn start_git_indexes(&self) {
        let inner = &self.inner;
        let tasks = inner.tasks.read();
        let is_filling = self.is_filling();
        inner
            .git_indexes
            .start(&tasks, inner.clock, &inner.metrics, is_filling);
    }

    /// Whether an index that is followed is on its way for the first time.
    fn is_filling(&self) -> impl Fn() -> bool + Clone + Send + use<> {
        // Weak: the loop that asks belongs to what this would keep alive.
        let inner = Arc::downgrade(&self.inner);
        move || {
            inner.upgrade().is_some_and(|inner| {
                let asks = inner.options().mode.asks();
                let follow = inner.follow.as_ref().filter(|_| asks);
                follow.is_some_and(|follow| follow.is_filling())
            })
        }
    }

    /// Says by which URL clients reach this server, without a slash at its end: the git index
    /// names it in its `config.json`. A new one makes a commit.
    pub fn set_public_base(&self, base: Option<&str>) {
        self.inner.git_indexes.set_base(base);
    }

    fn start_upkeep(&self) {
        self.inner.note_recording();
        let tasks = self.inner.tasks.read();
        let store = self.inner.store.clone();
        drop(tasks.spawn(async move {
            // The start does not wait for a long journal.
            drop(task::blocking(move || read_events(&store)).await);
        }));
        let (store, stop) = (self.inner.store.clone(), tasks.stop_flag());
        drop(tasks.spawn(async move {
            let walk = task::blocking(move || store.adopt(&stop));
            match walk.await {
                Ok(Ok(adoption)) => tracing::debug!(?adoption, "looked through the blobs"),
                Ok(Err(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "could not look through the blobs"
                    );
                }
                Err(error) if error.is_panic() => {
                    tracing::error!("looking through the blobs panicked");
                }
                Err(_end_of_the_program) => {}
            }
        }));
        let store = self.inner.store.clone();
        tasks.every(FLUSH_PERIOD, move || {
            if let Err(error) = store.flush_touches() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not write the times of checks"
                );
            }
        });
        let inner = Arc::downgrade(&self.inner);
        tasks.every(FLUSH_PERIOD, move || {
            if let Some(inner) = inner.upgrade() {
                inner.write_uses();
                read_events(&inner.store);
                inner.each_minute.run();
            }
        });
    }

    /// Whether the store can be read. Blocks with the disk.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn look(&self) -> Result<(), Error> {
        let looked = self.inner.store.look();
        looked.map_err(|error| Error::store(&"a sign of life", error))
    }

    /// What the status page and the metrics show. Cheap: nothing is counted for it.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let mut upstream = inner.upstream.health();
        if let Some(follow) = &inner.follow {
            follow.tell(&mut upstream.index);
        }
        let options = inner.upstream.options();
        let upstream_url = match &options.git_index {
            Some(place) => place.to_string(),
            None => options.index_url.to_string(),
        };
        Status {
            totals: inner.store.totals(),
            upstream,
            upstream_url,
            follow: inner.follow.as_ref().map(|follow| follow.status()),
            mode: inner.options().mode,
            fetching: inner.fetches.under_way(),
            refreshing: inner.refreshes.under_way(),
            git: inner.git_indexes.root().map(GitIndex::status),
            views: inner
                .views
                .iter()
                .map(|view| self.view_status(view))
                .collect(),
            now: inner.clock.now(),
            uptime: inner.clock.uptime(),
        }
    }

    fn view_status(&self, view: &policy::View) -> ViewStatus {
        let git = self.inner.git_indexes.of(view);
        ViewStatus {
            name: view.name().to_owned(),
            names: git.and_then(GitIndex::names),
            failing: git.and_then(GitIndex::failing),
        }
    }

    /// How much lies aside that could not be used. Looks into two folders.
    pub fn set_aside(&self) -> [(SetAside, u64); 2] {
        let repositories = self.git().map_or(0, git::Repo::count_set_aside);
        [
            (SetAside::Database, self.inner.store.set_aside()),
            (SetAside::Repository, repositories),
        ]
    }

    /// How old the oldest index entry is that was served too old of late; `None`: none was.
    pub fn oldest_stale(&self) -> Option<Duration> {
        let oldest = self.inner.stale.oldest(Instant::now())?;
        Some(
            self.inner
                .clock
                .now()
                .duration_since(oldest)
                .unwrap_or_default(),
        )
    }

    /// How often saved sets are fetched again; `None`: only when somebody asks.
    pub fn sync_every(&self) -> Option<Duration> {
        let every = self.inner.options().sync.every;
        (!every.is_zero()).then_some(every)
    }

    /// Bytes of the whole file system of the store; 0 where it does not tell.
    pub fn disk_bytes(&self) -> u64 {
        let room = self.inner.store.room();
        room.map_or(0, |room| room.space.total_bytes)
    }

    /// The counters and histograms of this process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The store that it serves from.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> Clock {
        self.inner.clock
    }

    /// Has `work` done each minute, and at the end before the store is closed, on a thread that may
    /// block. It must not hold this mirror, which would then never be dropped.
    pub fn each_minute(&self, work: impl Fn() + Send + Sync + 'static) {
        self.inner.each_minute.0.lock().push(Arc::new(work));
    }

    fn is_busy(&self) -> bool {
        let follow = self.inner.follow.as_ref();
        self.inner.jobs.is_busy() || follow.is_some_and(|follow| follow.is_under_way())
    }

    fn is_fetching(&self) -> bool {
        self.inner.fetches.under_way() > 0 || self.inner.refreshes.under_way() > 0
    }

    /// Ends all jobs, giving those under way `grace`, and brings the store to rest.
    ///
    /// # Errors
    /// [`Error::Store`] where the last writes did not reach the disk.
    pub fn shut_down(&self, grace: Duration) -> Result<(), Error> {
        let until = Instant::now() + grace;
        self.inner.tasks.read().stop();
        self.stop_jobs();
        if self.is_busy() || self.is_fetching() {
            tracing::info!(?grace, "lets jobs under way end");
        }
        while self.is_busy() && Instant::now() < until {
            std::thread::sleep(IDLE_CHECK);
        }
        // What a cancelled job was fetching nobody waits for: it is fetched when the job is asked
        // for again.
        let until = if self.inner.jobs.has_cut() {
            until.min(Instant::now() + CUT_GRACE)
        } else {
            until
        };
        while self.is_fetching() && Instant::now() < until {
            std::thread::sleep(IDLE_CHECK);
        }
        let least = Instant::now() + LAST_WRITE_GRACE;
        self.inner.git_indexes.end(until.max(least));
        let left = until.saturating_duration_since(Instant::now());
        self.inner
            .tasks
            .write()
            .shut_down(left.max(LAST_WRITE_GRACE));
        self.inner.write_uses();
        self.inner.each_minute.run();
        let store = self.inner.store.clone();
        store
            .close()
            .map_err(|error| Error::store(&"the end of the program", error))
    }
}
