//! What jobs work with.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{options::Options, running::RunningJobs};
use crate::util::task;
use crate::{
    git_index::{
        GitIndex, GitIndexes, GitStatus,
        follow::{FollowStatus, FollowedIndex},
    },
    metrics::{Metrics, SetAside},
    mirror::{Mirror, UseLog},
    policy::{Mode, View},
    store::{Store, Totals},
    upstream::{self, Upstream},
    util::{clock::Clock, live::Live},
};

/// What jobs work with. `app` makes it. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Services {
    /// Everything on disk.
    pub store: Store,
    /// The registry.
    pub upstream: Upstream,
    /// Serves on demand: jobs fetch through it, so that nothing is fetched twice.
    pub mirror: Mirror,
    /// Who fetches what.
    pub uses: Arc<UseLog>,
    /// The git indexes of all views.
    pub git_index: GitIndexes,
    /// How the upstream's git index is followed; `None`: it is not.
    pub follow: Option<FollowedIndex>,
    /// The counters and histograms of this process.
    pub metrics: Arc<Metrics>,
    /// The clock that decisions go by.
    pub clock: Clock,
    /// How jobs work.
    pub options: Arc<Live<Options>>,
    /// Which jobs run.
    pub running: RunningJobs,
}

/// The state of the server, for `orlop stats` and the status page.
#[derive(Debug, Clone)]
pub struct ServerState {
    /// What is stored, and whether the store takes writes.
    pub totals: Totals,
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

/// A view, for the status page.
#[derive(Debug, Clone)]
pub struct ViewStatus {
    /// Its name.
    pub name: String,
    /// How many crates it has, once its git index was brought up to date. `None`: not counted.
    pub names: Option<u64>,
    /// Why its git index cannot be brought up to date; `None`: it can, or is switched off.
    pub failing: Option<String>,
}

impl Services {
    /// The state of the server. Cheap: nothing is counted for it.
    pub fn state(&self) -> ServerState {
        let mut upstream = self.upstream.health();
        if let Some(follow) = &self.follow {
            follow.report_health(&mut upstream.index);
        }
        let options = self.upstream.options();
        let upstream_url = match &options.git_index {
            Some(place) => place.to_string(),
            None => options.index_url.to_string(),
        };
        ServerState {
            totals: self.store.totals(),
            upstream,
            upstream_url,
            follow: self.follow.as_ref().map(FollowedIndex::status),
            mode: self.mirror.options().mode,
            fetching: self.mirror.fetching(),
            refreshing: self.mirror.refreshing(),
            git: self.git_index.root().map(GitIndex::status),
            views: self
                .mirror
                .views()
                .iter()
                .map(|view| self.view_status(view))
                .collect(),
            now: self.clock.now(),
            uptime: self.clock.uptime(),
        }
    }

    fn view_status(&self, view: &View) -> ViewStatus {
        let git = self.git_index.of(view);
        ViewStatus {
            name: view.name().to_owned(),
            names: git.and_then(GitIndex::names),
            failing: git.and_then(GitIndex::failing),
        }
    }

    /// How much lies aside that could not be used. Looks into two folders.
    pub fn set_aside(&self) -> [(SetAside, u64); 2] {
        let repo = self.git_index.root().and_then(GitIndex::repo);
        [
            (SetAside::Database, self.store.set_aside()),
            (
                SetAside::Repository,
                repo.map_or(0, crate::git::Repo::count_set_aside),
            ),
        ]
    }

    /// How often saved sets are fetched again; `None`: only when someone asks.
    pub fn sync_every(&self) -> Option<Duration> {
        let every = self.options.get().sync.every;
        (!every.is_zero()).then_some(every)
    }

    /// Does what waits for the disk where no client waits.
    ///
    /// # Errors
    /// Where it ended without a result.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Services) -> T + Send + 'static,
    ) -> Result<T, task::Aborted> {
        let services = self.clone();
        task::blocking(move || work(&services)).await
    }

    /// How many requests of jobs may be under way at once: three quarters of what upstream takes
    /// from us, so that a client never waits for a place behind a sync.
    pub(super) fn places(&self) -> usize {
        let upstream = self.upstream.options().concurrency;
        let left = upstream.saturating_sub(upstream.div_ceil(4)).max(1);
        self.options.get().sync.concurrency.clamp(1, left)
    }
}
