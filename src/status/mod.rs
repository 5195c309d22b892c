//! What the server says about itself: how well it is, what happened, what went through, and what is
//! known of a crate. The pages, the health probes and the service manager read it from here.

mod crates;
mod events;
mod health;
mod traffic;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use self::traffic::TrafficHistory;
pub use self::{
    crates::{CratePage, FoundCrate, SearchPage, VersionFacts},
    events::EventFacts,
    health::{Health, HealthItem, Level},
    traffic::{Point, Range, TrafficSeries},
};
use crate::{
    jobs::{
        Jobs, RunningJob, ServerState, Services,
        upkeep::{StatsReport, kept_stats},
    },
    store::{self, LogKind, Occurrences},
};

/// How many events are gathered at most.
const MAX_EVENTS: usize = 60;

/// How long what is over is shown as needing attention: whoever looks once a week has seen it.
const SHOWN_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many failures of syncs are looked through; where there are more, that is said.
const MAX_FAILURES: u64 = 10_000;

/// What the server says about itself. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Status {
    services: Services,
    traffic: Arc<TrafficHistory>,
    is_stopping: Arc<AtomicBool>,
}

/// What was gathered at one moment: for [`Health::of`] and the status page.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The state as it is read off its owners, and the time of day.
    pub status: ServerState,
    /// Whether the server takes no more connections.
    pub is_stopping: bool,
    /// What was recorded: failures, sets, the last jobs. Its other numbers are left out.
    pub recorded: StatsReport,
    /// Jobs that run now.
    pub running: Vec<RunningJob>,
    /// The newest events, the newest first.
    pub events: Vec<EventFacts>,
    /// Checksums that changed within a week.
    pub changed: Occurrences,
    /// Versions that went from the index within a week.
    pub removed: Occurrences,
    /// Files that upstream sent within a week and that the index does not promise.
    pub mismatches: Occurrences,
    /// Stored files that were found damaged within a week.
    pub damaged: Occurrences,
    /// The room on the disk; `None`: the file system does not tell.
    pub room: Option<store::Room>,
    /// How old the oldest index entry is that was recently served past its time; `None`: none was.
    pub oldest_stale: Option<Duration>,
    /// How often saved sets are fetched again; `None`: only when somebody asks.
    pub sync_every: Option<Duration>,
}

impl Status {
    /// Of the services that jobs work with, whose traffic it has from now on.
    pub fn new(jobs: &Jobs) -> Status {
        let services = jobs.services().clone();
        Status {
            traffic: Arc::new(TrafficHistory::load(services.store.clone())),
            services,
            is_stopping: Arc::default(),
        }
    }

    /// Adds what was counted since the last call to the traffic history, and writes it. Blocks for the
    /// disk.
    pub fn traffic_recorder(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let (clock, metrics) = (self.services.clock, Arc::clone(&self.services.metrics));
        let traffic = Arc::clone(&self.traffic);
        move || traffic.record(clock.now(), || metrics.traffic())
    }

    /// The time of day.
    pub fn now(&self) -> SystemTime {
        self.services.clock.now()
    }

    /// Whether the store can be read. Blocks with the disk.
    ///
    /// # Errors
    /// As the store.
    pub fn check_store(&self) -> Result<(), store::Error> {
        self.services.store.look()
    }

    /// Notes that the server takes no more connections.
    pub fn stop(&self) {
        self.is_stopping.store(true, Relaxed);
    }

    /// Whether the server takes no more connections.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }

    /// Gathers everything that the status page shows. Blocks for the disk for some milliseconds.
    pub fn gather(&self) -> Facts {
        let (services, status) = (&self.services, self.services.state());
        let mut recorded = StatsReport::default();
        if let Err(error) = kept_stats(services, &mut recorded, MAX_FAILURES) {
            tracing::warn!(%error, "could not read what was recorded");
        }
        let log = services.store.log();
        let from = status.now.checked_sub(SHOWN_FOR);
        let since = |kind| log.since(kind, from.unwrap_or(SystemTime::UNIX_EPOCH));
        Facts {
            is_stopping: self.is_stopping(),
            recorded,
            running: services.running.list(),
            events: log
                .newest(MAX_EVENTS)
                .iter()
                .map(EventFacts::from)
                .collect(),
            changed: since(LogKind::Changed),
            removed: since(LogKind::Removed),
            mismatches: since(LogKind::Mismatch),
            damaged: since(LogKind::Damage),
            room: services.store.room(),
            oldest_stale: services.mirror.oldest_stale(),
            sync_every: services.sync_every(),
            status,
        }
    }

    /// The traffic of some time, up to now. From memory.
    pub fn traffic(&self, range: Range) -> TrafficSeries {
        let (now, metrics) = (self.now(), &self.services.metrics);
        self.traffic.count(now, || metrics.traffic());
        self.traffic.series(range, now)
    }
}
