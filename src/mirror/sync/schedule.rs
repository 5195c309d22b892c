//! When saved sets are brought up to date by the daemon itself.
//!
//! When all of them last were is kept in the store under `saved-sets`, so that a restart does not
//! begin anew, and so that a sync of something else counts for nothing here.

use std::{
    ops::ControlFlow,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::SyncRequest;
use crate::{
    mirror::{
        Inner, Mirror,
        jobs::{Asker, Fault, Report, Request, Teller},
    },
    store::Table,
    util::format::seconds,
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

impl Mirror {
    /// Starts the loop. Whether it has something to do may change while it runs.
    pub(in crate::mirror) fn start_schedule(&self) {
        self.count_failures();
        let tasks = self.inner.tasks.read();
        let inner = Arc::downgrade(&self.inner);
        let changed = Arc::clone(&self.inner.changed);
        let first = FIRST_LOOK.min(self.inner.options().sync.every / 2);
        drop(tasks.spawn(keep_syncing(inner, changed, first)));
    }

    /// Says how many failures the last run of the program left.
    fn count_failures(&self) {
        let mut count = 0;
        let counted = self
            .inner
            .store
            .kept_all(Table::Failures, "", |_what, _bytes| {
                count += 1;
                ControlFlow::Continue(())
            });
        match counted {
            Ok(()) => self.metrics().sync_failures(count),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not count the failures of earlier syncs"
            ),
        }
    }

    /// Notes that all saved sets were tried.
    pub(super) fn note_all_sets(&self, is_well: bool) {
        let now = seconds(self.inner.clock.now());
        let before = self.last();
        self.keep_last(&Last {
            at: now,
            ok_at: if is_well { Some(now) } else { before.ok_at },
            since: before.since.or(Some(now)),
        });
    }

    /// Notes that there is something to do for the schedule from now on.
    fn note_sets_are_there(&self) {
        let last = self.last();
        if last.since.is_none() {
            let since = Some(seconds(self.inner.clock.now()));
            self.keep_last(&Last { since, ..last });
        }
    }

    /// What the schedule has to do. Blocks for the store.
    pub fn saved_sets(&self) -> SavedSets {
        if !self.has_sets() {
            return SavedSets::default();
        }
        let (options, last) = (self.inner.options(), self.last());
        let up_to_date = last.ok_at.or(last.since);
        SavedSets {
            interval: if options.mode.asks() {
                options.sync.every
            } else {
                Duration::ZERO
            },
            up_to_date: up_to_date.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
        }
    }

    fn has_sets(&self) -> bool {
        self.set_names().is_ok_and(|names| !names.is_empty())
    }

    fn keep_last(&self, last: &Last) {
        let bytes = serde_json::to_vec(last).unwrap_or_default();
        let pairs = vec![(KEY.to_owned(), Some(bytes))];
        if let Err(error) = self.inner.store.keep(Table::Reports, pairs) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not note when the saved sets were synced"
            );
        }
    }

    fn last(&self) -> Last {
        let kept = self.inner.store.kept(Table::Reports, KEY);
        let bytes = kept.ok().flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}

async fn keep_syncing(inner: Weak<Inner>, changed: Arc<Notify>, first: Duration) {
    tokio::time::sleep(first).await;
    let mut jitter = fastrand::f64();
    while let Some(inner) = inner.upgrade() {
        let mirror = Mirror { inner };
        // Before the options are read: a change in between is not slept over.
        let mut change = std::pin::pin!(changed.notified());
        change.as_mut().enable();
        let options = mirror.inner.options();
        let every = options.sync.every;
        if !every.is_zero() && options.mode.asks() && mirror.has_sets() {
            mirror.note_sets_are_there();
            if is_due(&mirror.last(), mirror.inner.clock.now(), every, jitter) {
                sync_all(&mirror).await;
                jitter = fastrand::f64();
            }
        }
        drop((mirror, options));
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

async fn sync_all(mirror: &Mirror) {
    let request = Request::Sync(SyncRequest::default());
    let outcome = mirror
        .run_for(
            &Asker::owner("the schedule"),
            request,
            Vec::new(),
            Teller::silent(),
        )
        .await;
    match outcome {
        Ok(Report::Sync(report)) if report.failed.is_empty() => {
            tracing::info!(
                releases = report.releases,
                fetched = report.fetched,
                "brought the saved sets up to date"
            );
        }
        Ok(Report::Sync(report)) => {
            tracing::warn!(
                releases = report.releases,
                fetched = report.fetched,
                failed = report.failed.len(),
                "brought the saved sets up to date but for what failed (`orlop stats`); it is tried again"
            );
        }
        Ok(_other) => {}
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
