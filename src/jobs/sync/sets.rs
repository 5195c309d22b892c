//! What a sync does with saved sets: lists them, forgets one, fetches all.

use super::{
    failures::Failures,
    report::{SetInfo, SetRun, SyncReport, SyncRequest},
    set_runs::{forget_set_run, set_run, wants_of},
};
use crate::jobs::{
    context::JobContext,
    error::{Fault, JobError},
    saved_sets::{keep_set, saved_set, set_names},
    select::{NamedText, Selection},
    services::Services,
};

pub(super) fn list_sets(services: &Services) -> Result<SyncReport, JobError> {
    let mut sets = Vec::new();
    for name in set_names(services)? {
        if let Some(set) = saved_set(services, &name)? {
            let run = set_run(services, &name);
            sets.push(SetInfo {
                saved_at: set.saved_at,
                ..info(name, set.selection, run)
            });
        }
    }
    Ok(SyncReport {
        sets: Some(sets),
        ..SyncReport::default()
    })
}

/// Forgets a set, and what failed of it and is wanted by no other.
pub(super) async fn forget_set(
    services: &Services,
    name: &str,
    cx: &JobContext,
) -> Result<SyncReport, JobError> {
    if saved_set(services, name)?.is_none() {
        return Err(no_such(name));
    }
    let store = services.store.clone();
    let failures = services.blocking(move |_services| Failures::open(store));
    let failures = failures.await?;
    let mut failures = failures.map_err(|error| JobError::store("its failures", &error))?;
    if failures.len() > 0
        && let Err(error) = drop_failures_of(services, name, &mut failures, cx).await
    {
        cx.check_cancelled()?;
        tracing::warn!("could not tell what failed of the saved set `{name}`: {error}");
    }
    let (forgotten, left) = (name.to_owned(), failures.len() as u64);
    let write = failures.take_changes();
    let done = services.blocking(move |services| {
        keep_set(services, &forgotten, None)?;
        forget_set_run(services, &forgotten);
        write().map_err(|error| JobError::store("its failures", &error))
    });
    done.await??;
    services.metrics.sync_failures(left);
    Ok(SyncReport {
        forgotten: Some(name.to_owned()),
        ..SyncReport::default()
    })
}

async fn drop_failures_of(
    services: &Services,
    name: &str,
    failures: &mut Failures,
    cx: &JobContext,
) -> Result<(), JobError> {
    let mut others = set_names(services)?;
    others.retain(|other| other != name);
    let wanted = wants_of(services, &[name.to_owned()], cx).await?;
    let besides = wants_of(services, &others, cx).await?;
    for one in failures.all() {
        if wanted.has(&one.what) && !besides.has(&one.what) {
            failures.drop(&one.key);
        }
    }
    Ok(())
}

/// All saved sets, for a sync without a selection.
pub(super) fn all_sets(services: &Services, request: &SyncRequest) -> Result<Selection, JobError> {
    let sets = set_names(services)?;
    if sets.is_empty() || request.save.is_some() {
        let message = match &request.save {
            Some(_) => "nothing is selected that could be saved",
            None => "nothing is selected, and there is no saved set",
        };
        return Err(JobError::new(Fault::Usage, message).hint(
            "name crates with `--lockfile`, `--crate`, `--list` or `--all`; `--save NAME` keeps them current",
        ));
    }
    Ok(Selection {
        sets,
        ..Selection::default()
    })
}

fn no_such(name: &str) -> JobError {
    JobError::new(Fault::Usage, format!("there is no saved set `{name}`"))
        .hint("`orlop sync --sets` lists them")
}

fn info(name: String, selection: Selection, run: SetRun) -> SetInfo {
    let names = |texts: Vec<NamedText>| texts.into_iter().map(|text| text.name).collect();
    SetInfo {
        name,
        lockfiles: names(selection.lockfiles),
        lists: names(selection.lists),
        crates: selection.crates,
        all: selection.all,
        latest: selection.latest,
        saved_at: 0,
        run,
    }
}
