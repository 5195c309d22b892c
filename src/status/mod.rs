//! What the server says about itself: how well it is, what happened, what went through, and what is
//! known of a crate. The pages, the health probes and the service manager read it from here.

#[macro_use]
mod item;

mod crates;
mod events;
mod facts;
mod health;
mod machine;
mod recorded;
mod traffic;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

pub use self::{
    crates::{CratePage, FoundCrate, SearchPage, VersionFacts},
    events::EventFacts,
    facts::Facts,
    health::{Health, store_items},
    item::{HealthItem, Level},
    machine::Machine,
    traffic::{Point, Range, TrafficSeries},
};
use self::{facts::SHOWN_FOR, recorded::LastRead, traffic::TrafficHistory};
use parking_lot::Mutex;

use crate::{
    jobs::{Jobs, Services},
    store::{self, LogKind},
};

/// How many events are gathered at most.
const MAX_EVENTS: usize = 60;

/// What the server says about itself. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Status {
    services: Services,
    traffic: Arc<TrafficHistory>,
    is_stopping: Arc<AtomicBool>,
    last_read: Arc<Mutex<LastRead>>,
}

impl Status {
    /// Of the services that jobs work with, whose traffic it has from now on.
    pub fn new(jobs: &Jobs) -> Status {
        let services = jobs.services().clone();
        Status {
            traffic: Arc::new(TrafficHistory::load(services.store.clone())),
            services,
            is_stopping: Arc::default(),
            last_read: Arc::default(),
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
        let (recorded, machine) = {
            let mut last = self.last_read.lock();
            (last.recorded(services), last.machine(services))
        };
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
            machine,
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
