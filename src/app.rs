//! The parts of a running orlop: starts them in order, gives them new options, and ends them in order.
//!
//! Everything above (`http`, `admin`, `cli`) gets what it needs from here. Work that runs until the end
//! holds the parts by a `Weak` only, or holds parts that do not own the runtime: so an [`App`] that is
//! dropped ends its threads and closes the store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    git::Repo,
    git_index::{
        self, GitIndexes,
        follow::{self, FollowedIndex, WeakFollowedIndex},
    },
    jobs::{self, Jobs, RunningJobs, Services, sync::schedule, upkeep::recall_findings},
    metrics::Metrics,
    mirror::{self, Error, IndexSource, Mirror, SparseSource, UseLog, Views},
    policy::View,
    status::Status,
    store::Store,
    upstream::Upstream,
    util::{background::Background, clock::Clock, live::Live, task},
};

/// How often what was gathered in memory (times of checks, who fetched what) goes to the store. What
/// a crash loses of it costs one conditional request an entry.
const FLUSH_PERIOD: Duration = Duration::from_secs(60);

/// How long fetches of a cancelled job may take at the end of the program: enough for a last fsync.
const CUT_GRACE: Duration = Duration::from_millis(300);

/// How often the end looks whether the last job is over.
const IDLE_CHECK: Duration = Duration::from_millis(10);

/// How long a write that has begun may take after the time of a job is over.
const LAST_WRITE_GRACE: Duration = Duration::from_secs(1);

/// How the parts behave. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Serving on demand.
    pub mirror: mirror::Options,
    /// Which views of the index there are.
    pub views: mirror::views::Options,
    /// How long it is kept who fetched what.
    pub uses: mirror::uses::Options,
    /// When commits of the git indexes are made.
    pub git_index: git_index::Options,
    /// How the upstream's git index is followed.
    pub follow: follow::Options,
    /// How jobs work.
    pub jobs: jobs::Options,
}

/// What is opened before the parts start.
#[derive(Debug)]
pub struct Opened {
    /// Everything on disk.
    pub store: Store,
    /// The registry.
    pub upstream: Upstream,
    /// The counters and histograms of this process.
    pub metrics: Arc<Metrics>,
    /// The clock that decisions go by.
    pub clock: Clock,
    /// The repository of the git index; `None`: it is switched off.
    pub repo: Option<Repo>,
}

/// A running orlop without what listens. Cloning it is cheap, and all clones are one.
#[derive(Debug, Clone)]
pub struct App {
    jobs: Jobs,
    status: Status,
    mirror_options: Arc<Live<mirror::Options>>,
    background: Background,
}

impl App {
    /// Starts the parts over an open store, and the periodic work. Index files that the store lost
    /// are back on return, if the repository has them.
    ///
    /// # Errors
    /// Where the operating system gives no threads, and where the repository of a git index that
    /// is followed cannot be made.
    pub fn start(options: Options, opened: Opened) -> std::io::Result<App> {
        let Opened {
            store,
            upstream,
            metrics,
            clock,
            repo,
        } = opened;
        let background = Background::start()?;
        let mirror_options = Arc::new(Live::new(options.mirror));
        let views = Views::new(&options.views);
        let git_index = repo.map(|repo| {
            let dir = |view: &View| options.views.dir.join(view.name());
            let views = views.iter().map(|view| (Arc::clone(view), dir(view)));
            GitIndexes::new(&options.git_index, &store, repo, views)
        });
        let follow = FollowedIndex::open(
            &options.follow,
            follow::Parts {
                mirror: Arc::clone(&mirror_options),
                store: store.clone(),
                upstream: upstream.clone(),
                metrics: Arc::clone(&metrics),
                clock,
                background: background.clone(),
            },
        )?;
        let source: Arc<dyn IndexSource> = match &follow {
            Some(follow) => Arc::new(follow.clone()),
            None => Arc::new(SparseSource::new(upstream.clone())),
        };
        let mirror = Mirror::new(mirror::Parts {
            options: Arc::clone(&mirror_options),
            store: store.clone(),
            upstream: upstream.clone(),
            source,
            views,
            metrics: Arc::clone(&metrics),
            clock,
            background: background.clone(),
        });
        let uses = UseLog::new(store.clone(), clock, options.uses.keep_for);
        let services = Services {
            store,
            upstream,
            mirror,
            uses: Arc::new(uses),
            git_index: git_index.unwrap_or_default(),
            follow,
            metrics,
            clock,
            options: Arc::new(Live::new(options.jobs)),
            running: RunningJobs::default(),
        };
        let jobs = Jobs::new(services, background.clone());
        let app = App {
            status: Status::new(&jobs),
            jobs,
            mirror_options,
            background,
        };
        app.start_periodic_work();
        Ok(app)
    }

    fn services(&self) -> &Services {
        self.jobs.services()
    }

    fn start_periodic_work(&self) {
        let services = self.services();
        self.jobs.recall();
        recall_findings(services);
        let is_filling = self.is_filling();
        let (clock, metrics) = (services.clock, &services.metrics);
        services
            .git_index
            .start(&self.background, clock, metrics, is_filling);
        services.uses.note_recording();
        self.look_through_store();
        let store = services.store.clone();
        self.background
            .every(FLUSH_PERIOD, move || flush_checks(&store));
        let (store, write_records) = (services.store.clone(), self.write_records());
        self.background.every(FLUSH_PERIOD, move || {
            write_records();
            read_events(&store);
        });
        if let Some(follow) = &services.follow {
            follow.start();
        }
        schedule::start(&self.jobs, &self.background);
    }

    /// Whether an index that is followed is being fetched for the first time.
    fn is_filling(&self) -> impl Fn() -> bool + Clone + Send + use<> {
        // Weak: the loops that ask run on what a strong handle would keep alive.
        let follow = self.services().follow.as_ref();
        let follow = follow.map(FollowedIndex::downgrade);
        let options = Arc::clone(&self.mirror_options);
        move || {
            let follow = follow.as_ref().filter(|_| options.get().mode.asks());
            let follow = follow.and_then(WeakFollowedIndex::upgrade);
            follow.is_some_and(|follow| follow.is_filling())
        }
    }

    /// Reads the events of the journal and looks through the blobs. The start does not wait for a
    /// long journal or many blobs.
    fn look_through_store(&self) {
        let store = self.services().store.clone();
        drop(self.background.spawn(async move {
            drop(task::blocking(move || read_events(&store)).await);
        }));
        let (store, stop) = (self.services().store.clone(), self.background.stop_flag());
        drop(self.background.spawn(async move {
            match task::blocking(move || store.adopt(&stop)).await {
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
    }

    /// What is written each minute, and at the end before the store is closed.
    fn write_records(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let uses = Arc::clone(&self.services().uses);
        let record_traffic = self.status.traffic_recorder();
        move || {
            uses.write();
            record_traffic();
        }
    }

    /// Serves on demand.
    pub fn mirror(&self) -> &Mirror {
        &self.services().mirror
    }

    /// The git indexes of all views.
    pub fn git_index(&self) -> &GitIndexes {
        &self.services().git_index
    }

    /// Runs jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// What the server reports about itself.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Says by which URL clients reach this server, without a slash at its end: the git index
    /// names it in its `config.json`. A new one makes a commit.
    pub fn set_public_base(&self, base: Option<&str>) {
        self.git_index().set_base(base);
    }

    /// Applies the options of `new` that may change while the program runs. What is under way ends
    /// as it began.
    pub fn reload(&self, new: &Options) {
        let services = self.services();
        self.mirror_options.update(|now| now.reloaded(&new.mirror));
        // After the mode: the schedule of saved sets wakes up and reads both.
        services.options.update(|now| now.reloaded(&new.jobs));
        // Last: it reads the store, and the disk may hang.
        services.uses.keep_for(new.uses.keep_for);
    }

    fn is_busy(&self) -> bool {
        let follow = self.services().follow.as_ref();
        self.services().running.is_busy() || follow.is_some_and(FollowedIndex::is_under_way)
    }

    fn is_fetching(&self) -> bool {
        self.mirror().fetching() > 0 || self.mirror().refreshing() > 0
    }

    /// Ends all jobs, giving those under way `grace`, and brings the store to rest.
    ///
    /// # Errors
    /// [`Error::Store`] where the last writes did not reach the disk.
    pub fn shut_down(&self, grace: Duration) -> Result<(), Error> {
        let until = Instant::now() + grace;
        self.background.stop();
        self.services().running.stop();
        if self.is_busy() || self.is_fetching() {
            tracing::info!(?grace, "lets jobs under way end");
        }
        while self.is_busy() && Instant::now() < until {
            std::thread::sleep(IDLE_CHECK);
        }
        // No job waits for what a cancelled one was fetching: it is fetched when the job is asked
        // for again.
        let until = if self.services().running.has_cut() {
            until.min(Instant::now() + CUT_GRACE)
        } else {
            until
        };
        while self.is_fetching() && Instant::now() < until {
            std::thread::sleep(IDLE_CHECK);
        }
        let least = Instant::now() + LAST_WRITE_GRACE;
        self.git_index().end(until.max(least));
        let left = until.saturating_duration_since(Instant::now());
        self.background.shut_down(left.max(LAST_WRITE_GRACE));
        self.write_records()();
        let closed = self.services().store.clone().close();
        closed.map_err(|error| Error::store(&"the end of the program", error))
    }
}

/// Brings the event log to the end of the journal.
fn read_events(store: &Store) {
    if let Err(error) = store.read_events() {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not read the events in the journal; it is tried again"
        );
    }
}

fn flush_checks(store: &Store) {
    if let Err(error) = store.flush_touches() {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not write the times of checks"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{git, store, upstream};

    /// Once the periodic work kept the runtime alive that it ran on, and with it the lock of the store.
    #[test]
    fn an_app_that_is_dropped_lets_go_of_its_store() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Clock::start();
        let open = || Store::open(store::Options::at(dir.path().join("data")), clock.now());
        let (store, _report) = open().expect("the store opens");
        let metrics = Arc::new(Metrics::new().expect("series"));
        // Nothing listens at port 9.
        let dead = url::Url::parse("http://127.0.0.1:9/").expect("a URL");
        let upstream = upstream::Options::new(dead.into());
        let upstream = Upstream::new(upstream, Arc::clone(&metrics)).expect("a client");
        let repo = git::Options {
            dir: dir.path().join("data/git/index"),
        };
        let (repo, _report) = Repo::open(repo).expect("the repository opens");
        let opened = Opened {
            store,
            upstream,
            metrics,
            clock,
            repo: Some(repo),
        };
        let mut options = Options::default();
        options.views.dir = dir.path().join("data/git/views");
        drop(App::start(options, opened).expect("threads start"));
        let until = Instant::now() + Duration::from_secs(20);
        while let Err(error) = open() {
            assert!(Instant::now() < until, "{error}");
            std::thread::sleep(IDLE_CHECK);
        }
    }
}
