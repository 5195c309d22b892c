//! What was gathered about the server at one moment.

use std::time::Duration;

use super::{events::EventFacts, machine::Machine};
use crate::{
    jobs::{RunningJob, ServerState, upkeep::StatsReport},
    store::{self, Occurrences},
};

/// How long what is over is shown as needing attention: someone who looks once a week has seen it.
pub(super) const SHOWN_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many failures of syncs are looked through; where there are more, that is said.
pub(super) const MAX_FAILURES: u64 = 10_000;

/// What was gathered at one moment: for [`Health::of`](super::Health::of) and the status page.
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
    /// What the machine looks like.
    pub machine: Machine,
    /// How often saved sets are fetched again; `None`: only when somebody asks.
    pub sync_every: Option<Duration>,
}
