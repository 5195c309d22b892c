//! When saved sets are brought up to date by the daemon itself.
//!
//! When all of them last were is kept in the store under `saved-sets`, so that a restart does not
//! begin anew, and so that a sync of something else counts for nothing here.

use std::{
    ops::ControlFlow,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::SyncRequest;
use crate::{
    mirror::{
        Inner, Mirror,
        jobs::{Asker, Fault, Report, Request, Teller},
    },
    store::Table,
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
}

impl Mirror {
    /// Starts the loop, where one is wanted.
    pub(in crate::mirror) fn start_schedule(&self) {
        self.count_failures();
        let options = &self.inner.options;
        if options.sync.every.is_zero() || !options.mode.asks() {
            return;
        }
        let tasks = self.inner.tasks.read();
        let inner = Arc::downgrade(&self.inner);
        drop(tasks.spawn(keep_syncing(inner, options.sync.every)));
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
        let ok_at = if is_well {
            Some(now)
        } else {
            self.last().ok_at
        };
        let last = Last { at: now, ok_at };
        let bytes = serde_json::to_vec(&last).unwrap_or_default();
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

async fn keep_syncing(inner: Weak<Inner>, every: Duration) {
    tokio::time::sleep(FIRST_LOOK.min(every / 2)).await;
    let mut jitter = fastrand::f64();
    while let Some(inner) = inner.upgrade() {
        let mirror = Mirror { inner };
        if is_due(&mirror.last(), mirror.inner.clock.now(), every, jitter)
            && mirror.set_names().is_ok_and(|names| !names.is_empty())
        {
            sync_all(&mirror).await;
            jitter = fastrand::f64();
        }
        drop(mirror);
        tokio::time::sleep(LOOK.min(every / 10).max(Duration::from_millis(100))).await;
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

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_after_the_period_give_or_take_a_tenth() {
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        let last = Last {
            at: 10_000,
            ok_at: None,
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
