//! When saved sets are brought up to date by the daemon itself.
//!
//! When all of them last were is kept in the store under `saved-sets`, so that a restart does not
//! begin anew, and so that a sync of something else counts for nothing here.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::report::SyncRequest;
use crate::{
    jobs::{
        context::{Caller, JobContext},
        error::Fault,
        options::Options,
        runner::{Jobs, WeakJobs},
        saved_sets::set_names,
        services::Services,
    },
    store::Table,
    util::{background::Background, format::seconds, live::Live},
};

/// The key of what is kept.
const KEY: &str = "saved-sets";

/// How long after its start the daemon looks at first: clients that waited for it come first.
const FIRST_LOOK: Duration = Duration::from_secs(60);

/// How often it looks whether it is time.
const LOOK: Duration = Duration::from_secs(60);

/// When all saved sets were last brought up to date, in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Last {
    /// When that was last tried.
    at: u64,
    /// When it last went well.
    ok_at: Option<u64>,
    /// When a set was there for the first time.
    since: Option<u64>,
}

/// What the schedule has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SavedSets {
    /// How often saved sets are fetched again by themselves; zero: they are not, or none is saved.
    pub interval: Duration,
    /// When all of them were last up to date. Before their first sync: when one was noticed.
    pub up_to_date: Option<SystemTime>,
}

/// Starts the loop. Whether it has something to do may change while it runs.
pub fn start(jobs: &Jobs, background: &Background) {
    let services = jobs.services();
    count_failures(services);
    let options = Arc::clone(&services.options);
    let first = FIRST_LOOK.min(options.get().sync.every / 2);
    drop(background.spawn(keep_syncing(jobs.downgrade(), options, first)));
}

/// Says how many failures the last run of the program left.
fn count_failures(services: &Services) {
    let mut count = 0;
    let counted = services
        .store
        .kept_all(Table::Failures, "", |_what, _bytes| {
            count += 1;
            ControlFlow::Continue(())
        });
    match counted {
        Ok(()) => services.metrics.sync_failures(count),
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not count the failures of earlier syncs"
        ),
    }
}

/// Notes that all saved sets were tried.
pub(super) fn note_all_sets(services: &Services, is_well: bool) {
    let now = seconds(services.clock.now());
    let before = last(services);
    keep_last(
        services,
        &Last {
            at: now,
            ok_at: if is_well { Some(now) } else { before.ok_at },
            since: before.since.or(Some(now)),
        },
    );
}

/// Notes that there is something to do for the schedule from now on.
fn note_sets_are_there(services: &Services) {
    let last = last(services);
    if last.since.is_none() {
        let since = Some(seconds(services.clock.now()));
        keep_last(services, &Last { since, ..last });
    }
}

/// What the schedule has to do. Blocks for the store.
pub fn saved_sets(services: &Services) -> SavedSets {
    if !has_sets(services) {
        return SavedSets::default();
    }
    let (options, last) = (services.options.get(), last(services));
    let up_to_date = last.ok_at.or(last.since);
    SavedSets {
        interval: if services.mirror.asks_upstream() {
            options.sync.every
        } else {
            Duration::ZERO
        },
        up_to_date: up_to_date.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
    }
}

fn has_sets(services: &Services) -> bool {
    set_names(services).is_ok_and(|names| !names.is_empty())
}

fn keep_last(services: &Services, last: &Last) {
    let bytes = serde_json::to_vec(last).unwrap_or_default();
    let pairs = vec![(KEY.to_owned(), Some(bytes))];
    if let Err(error) = services.store.keep(Table::Reports, pairs) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not note when the saved sets were synced"
        );
    }
}

fn last(services: &Services) -> Last {
    let kept = services.store.kept(Table::Reports, KEY);
    let bytes = kept.ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

async fn keep_syncing(jobs: WeakJobs, options: Arc<Live<Options>>, first: Duration) {
    tokio::time::sleep(first).await;
    let mut jitter = fastrand::f64();
    while let Some(jobs) = jobs.upgrade() {
        // Before the options are read: a change in between is not slept over.
        let mut change = std::pin::pin!(options.changed());
        change.as_mut().enable();
        let services = jobs.services();
        let every = options.get().sync.every;
        if !every.is_zero() && services.mirror.asks_upstream() && has_sets(services) {
            note_sets_are_there(services);
            if is_due(&last(services), services.clock.now(), every, jitter) {
                sync_all(&jobs).await;
                jitter = fastrand::f64();
            }
        }
        drop(jobs);
        tokio::select! {
            () = tokio::time::sleep(look(every)) => {}
            () = change => {}
        }
    }
}

/// How long until it is looked again whether it is time.
fn look(every: Duration) -> Duration {
    match every {
        Duration::ZERO => LOOK,
        every => LOOK.min(every / 10).max(Duration::from_millis(100)),
    }
}

/// Whether it is time: `every`, give or take a tenth, after the last try. A clock that was set back
/// does not hold it up.
fn is_due(last: &Last, now: SystemTime, every: Duration, jitter: f64) -> bool {
    let since = match seconds(now).checked_sub(last.at) {
        Some(since) => Duration::from_secs(since),
        None => return true,
    };
    since >= every.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

async fn sync_all(jobs: &Jobs) {
    let cx = JobContext::unattended(Caller::owner("the schedule"));
    let outcome = jobs.run(SyncRequest::default(), cx).await;
    match outcome {
        Ok(report) if report.failed.is_empty() => {
            tracing::info!(
                releases = report.releases,
                fetched = report.fetched,
                "brought the saved sets up to date"
            );
        }
        Ok(report) => {
            tracing::warn!(
                releases = report.releases,
                fetched = report.fetched,
                failed = report.failed.len(),
                "brought the saved sets up to date but for what failed (`orlop stats`); it is tried again"
            );
        }
        Err(error) if error.fault == Fault::Cancelled => {}
        Err(error) => {
            tracing::warn!(
                causes = error.causes.join(": "),
                "could not bring the saved sets up to date: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_after_the_period_give_or_take_a_tenth() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let last = Last {
            at: 10_000,
            ..Last::default()
        };
        let every = Duration::from_secs(1000);
        assert!(!is_due(&last, at(10_899), every, 0.0));
        assert!(is_due(&last, at(10_900), every, 0.0));
        assert!(!is_due(&last, at(11_099), every, 1.0));
        assert!(is_due(&last, at(11_100), every, 1.0));
        assert!(
            is_due(&last, at(9_000), every, 1.0),
            "the clock was set back"
        );
        assert!(is_due(&Last::default(), at(11_100), every, 1.0));
    }
}
