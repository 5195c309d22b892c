//! What the store has recorded, read again only where it changed.

use std::time::{Duration, Instant};

use super::{facts::MAX_FAILURES, machine::Machine};
use crate::{
    jobs::{
        JobError, Services,
        upkeep::{StatsReport, kept_stats, kept_stats_changes},
    },
    util::error::one_line,
};

/// How long what was read from the disk counts where nothing reports a change. The service manager
/// is sent the health every 2 s.
const REFRESH_INTERVAL: Duration = Duration::from_secs(15);

/// What was last read from the disk.
#[derive(Debug, Default)]
pub(super) struct LastRead {
    recorded: Recorded,
    machine: Machine,
    /// When the machine was looked at.
    machine_at: Option<Instant>,
}

impl LastRead {
    /// What the store has recorded, as far as it could be read.
    pub(super) fn recorded(&mut self, services: &Services) -> StatsReport {
        let changes = kept_stats_changes(services);
        let warning = self.recorded.refresh(changes, Instant::now(), |report| {
            kept_stats(services, report, MAX_FAILURES)
        });
        if let Some(error) = warning {
            tracing::warn!(%error, "could not read what was recorded");
        }
        self.recorded.report.clone()
    }

    /// What the machine looks like.
    pub(super) fn machine(&mut self, services: &Services) -> Machine {
        let is_old = |at: Instant| at.elapsed() >= REFRESH_INTERVAL;
        if self.machine_at.is_none_or(is_old) {
            self.machine = Machine::of(services);
            self.machine_at = Some(Instant::now());
        }
        self.machine.clone()
    }
}

/// What the store had recorded when it was last read.
#[derive(Debug, Default)]
struct Recorded {
    report: StatsReport,
    /// When it was read, and how often the records had changed by then.
    read: Option<(Instant, u64)>,
    /// What could not be read then.
    error: Option<String>,
}

impl Recorded {
    /// Reads the records again where they changed, and from time to time: a write that failed or took
    /// too long may show later. Returns an error that is another than the last one.
    fn refresh(
        &mut self,
        changes: u64,
        now: Instant,
        read: impl FnOnce(&mut StatsReport) -> Result<(), JobError>,
    ) -> Option<String> {
        let is_current = self.read.is_some_and(|(at, seen)| {
            let is_recent = now.saturating_duration_since(at) < REFRESH_INTERVAL;
            seen == changes && is_recent
        });
        if is_current {
            return None;
        }
        let mut report = StatsReport::default();
        let error = read(&mut report).err().map(|error| one_line(&error));
        self.report = report;
        self.read = Some((now, changes));
        let is_new = error != self.error;
        self.error.clone_from(&error);
        error.filter(|_| is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Fault;

    #[test]
    fn records_are_read_again_only_when_they_changed_and_damage_is_logged_once() {
        let start = Instant::now();
        let mut recorded = Recorded::default();
        let mut reads = 0;
        let mut refresh = |changes, seconds, damaged: Option<&str>| {
            let now = start + Duration::from_secs(seconds);
            let warning = recorded.refresh(changes, now, |report| {
                reads += 1;
                report.pins = changes;
                let fault = |what: &str| JobError::new(Fault::Damaged, what.to_owned());
                damaged.map_or(Ok(()), |what| Err(fault(what)))
            });
            (reads, recorded.report.pins, warning)
        };
        assert_eq!(refresh(1, 0, None), (1, 1, None));
        assert_eq!(refresh(1, 10, None), (1, 1, None));
        let damage = Some("the saved set `lab` is damaged");
        let logged = damage.map(str::to_owned);
        assert_eq!(refresh(2, 3600, damage), (2, 2, logged.clone()));
        // Neither looks in between nor changes of other records log it again.
        assert_eq!(refresh(2, 3602, damage), (2, 2, None));
        assert_eq!(refresh(2, 3620, damage), (3, 2, None));
        assert_eq!(refresh(3, 3621, damage), (4, 3, None));
        let other = Some("the saved set `ci` is damaged");
        assert_eq!(refresh(4, 3622, other), (5, 4, other.map(str::to_owned)));
        assert_eq!(refresh(5, 3623, None), (6, 5, None));
        assert_eq!(refresh(6, 3624, damage), (7, 6, logged));
    }
}
