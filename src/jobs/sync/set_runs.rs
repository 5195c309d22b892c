//! What became of each saved set at its last sync.
//!
//! Kept in the store as JSON under `set/NAME` among the reports, [`SetRun`]: not with the set, which
//! is in the journal, where a line a sync would stay for ever.

use std::collections::HashSet;

use super::report::{SetRun, SyncReport};
use crate::{
    jobs::{
        context::JobContext,
        error::JobError,
        retry::JobRetry,
        select::{Basis, Chosen, Selection, choose_by},
        services::Services,
    },
    registry::{CrateName, Release},
    store::Table,
    util::format::seconds,
};

/// What the keys begin with.
const PREFIX: &str = "set/";

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// How a saved set fared; nothing is known of one that was never synced.
pub(in crate::jobs) fn set_run(services: &Services, name: &str) -> SetRun {
    let kept = services.store.kept(Table::Reports, &key(name));
    let bytes = kept.ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

pub(super) fn forget_set_run(services: &Services, name: &str) {
    keep_set_runs(services, vec![(key(name), None)]);
}

/// Notes what a sync of these sets means for each.
pub(super) async fn note_sets(
    services: &Services,
    sets: &[String],
    outcome: Result<&SyncReport, &JobError>,
    cx: &JobContext,
) {
    let now = seconds(services.clock.now());
    let mut pairs = Vec::new();
    for name in sets {
        let mut run = SetRun {
            at: now,
            error: None,
            ..set_run(services, name)
        };
        let failures = match outcome {
            Ok(report) => failures_of(services, name, report, cx).await,
            Err(error) => Err(error.clone()),
        };
        match failures {
            Ok(failures) => run.failures = failures,
            Err(error) => run.error = Some(error.message),
        }
        if run.failures == 0 && run.error.is_none() {
            run.ok_at = Some(now);
        }
        let bytes = serde_json::to_vec(&run).unwrap_or_default();
        pairs.push((key(name), Some(bytes)));
    }
    let noted = services
        .blocking(|services| keep_set_runs(services, pairs))
        .await;
    if let Err(error) = noted {
        tracing::warn!("could not note how the saved sets fared: {error}");
    }
}

fn keep_set_runs(services: &Services, pairs: Vec<(String, Option<Vec<u8>>)>) {
    if let Err(error) = services.store.keep(Table::Reports, pairs) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not note how the saved sets fared"
        );
    }
}

/// How much of what failed is of this set: it is resolved once more for that, by the index as
/// the sync left it, where anything failed at all.
async fn failures_of(
    services: &Services,
    name: &str,
    report: &SyncReport,
    cx: &JobContext,
) -> Result<u64, JobError> {
    if report.failed.is_empty() {
        return Ok(0);
    }
    let wants = wants_of(services, &[name.to_owned()], cx).await?;
    let failed = report.failed.iter();
    Ok(failed.filter(|one| wants.has(&one.what)).count() as u64)
}

/// What saved sets stand for, by the index as it is.
pub(super) async fn wants_of(
    services: &Services,
    sets: &[String],
    cx: &JobContext,
) -> Result<Wants, JobError> {
    let selection = Selection {
        sets: sets.to_vec(),
        ..Selection::default()
    };
    let retry = JobRetry::start(services, cx);
    let mut chosen = choose_by(services, &selection, Basis::Index, &retry).await?;
    let unresolved = std::mem::take(&mut chosen.failed).into_iter();
    Ok(Wants {
        unresolved: unresolved.map(|failure| failure.what).collect(),
        chosen,
    })
}

/// What some saved sets stand for.
#[derive(Debug)]
pub(super) struct Wants {
    chosen: Chosen,
    unresolved: HashSet<String>,
}

impl Wants {
    /// Whether `name@version`, `name` or `name@requirement` is among it.
    pub(super) fn has(&self, what: &str) -> bool {
        self.lacks(what) || has(&self.chosen, what)
    }

    /// Whether it is among it, and not there.
    pub(super) fn lacks(&self, what: &str) -> bool {
        self.unresolved.contains(what)
    }
}

/// Whether `name@version`, or `name`, is among what is chosen.
fn has(chosen: &Chosen, what: &str) -> bool {
    let (name, version) = what.split_once('@').unwrap_or((what, ""));
    let Ok(name) = CrateName::parse(name) else {
        return false;
    };
    let everything = chosen.everything.as_ref();
    if everything.is_some_and(|all| all.names.binary_search(&name).is_ok()) {
        return true;
    }
    let Some(versions) = chosen.names.get(&name) else {
        return false;
    };
    match Release::parse(name.key(), version) {
        Ok(release) => versions.iter().any(|(one, _)| *one == release.version),
        Err(_no_version) => true,
    }
}
