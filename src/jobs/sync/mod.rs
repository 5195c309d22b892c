//! Fetching ahead: a selection with its dependency closure, and saved sets that are kept current.
//!
//! A sync resolves (`select`), leaves out what is held, and has the rest fetched by the same
//! flights that clients wait for: nothing is fetched twice. It can be broken off at any moment: what
//! is held is held, and the next sync goes on from there.
//!
//! What failed is kept in the store with its cause and tried again by every sync, whatever its
//! selection is ([`failures`]); where it is not in the selection, that decides nothing. What was not
//! in the index at all is asked for by the saved sets that want it only, and forgotten with the last
//! of them. What a client or a refresh brought meanwhile is cleared by the next
//! sync, without a request; until then it is counted. How each saved set fared is kept beside it
//! ([`set_runs`]).
//!
//! Everything is planned by name: what is missing of a name is counted, and read again from the
//! store when its turn comes ([`fetching`]). An upstream in trouble is waited for ([`retry`](super::retry)), the line is not
//! filled where that is not wanted ([`Pace`](crate::mirror::Pace)), and a quarter of the places for requests at upstream
//! is left to clients.

mod failures;
mod fetching;
mod report;
pub mod schedule;
mod set_runs;
mod sets;
#[cfg(test)]
mod tests;

pub(super) use self::set_runs::set_run;
pub use self::{
    failures::FailureRecord,
    report::{SetInfo, SetRun, SyncReport, SyncRequest},
    schedule::SavedSets,
};
use self::{
    schedule::note_all_sets,
    set_runs::note_sets,
    sets::{all_sets, forget_set, list_sets},
};
use super::{
    context::JobContext,
    error::{Fault, JobError},
    job::{Job, JobReport as _},
    kind::JobKind,
    retry::JobRetry,
    saved_sets::save_set,
    select::{self, Basis, Selection},
    services::Services,
};
use crate::util::format::plural;

impl Job for SyncRequest {
    const NAME: &'static str = "sync";
    type Report = SyncReport;

    fn kind(&self) -> JobKind {
        match self {
            request if !request.fetches() => JobKind::Read,
            request if request.dry_run => JobKind::Refresh,
            _ => JobKind::Sync,
        }
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<SyncReport, JobError> {
        sync(&services, self, &cx).await
    }
}

async fn sync(
    services: &Services,
    request: SyncRequest,
    cx: &JobContext,
) -> Result<SyncReport, JobError> {
    if request.list_sets {
        return list_sets(services);
    }
    if let Some(name) = &request.forget {
        return forget_set(services, name, cx).await;
    }
    if !services.mirror.asks_upstream() {
        return Err(JobError::new(
            Fault::Unavailable,
            "the mirror is set to `offline` and asks no upstream",
        )
        .hint("set `mode = \"fallback\"`, or bring a bundle in with `orlop import`"));
    }
    let mut selection = request.selection.clone();
    let mut replaced = false;
    let are_all_sets = selection.is_empty();
    if are_all_sets {
        selection = all_sets(services, &request)?;
    } else {
        // Said before anything is saved or asked for.
        select::check(services, &selection)?;
        if let Some(name) = request.save.as_ref().filter(|_| !request.dry_run) {
            let (name, selection) = (name.clone(), selection.clone());
            replaced = services
                .blocking(move |services| save_set(services, &name, &selection))
                .await??;
        }
    }
    let mut sets = selection.sets.clone();
    sets.extend(request.save.clone());
    let outcome = fetch_ahead(services, selection, request.dry_run, cx).await;
    if !request.dry_run {
        if are_all_sets {
            let is_well = outcome.as_ref().is_ok_and(|report| !report.has_problems());
            services
                .blocking(move |services| note_all_sets(services, is_well))
                .await?;
        }
        note_sets(services, &sets, outcome.as_ref(), cx).await;
    }
    let mut report = outcome?;
    report.saved = request.save;
    report.replaced = replaced;
    Ok(report)
}

async fn fetch_ahead(
    services: &Services,
    selection: Selection,
    dry_run: bool,
    cx: &JobContext,
) -> Result<SyncReport, JobError> {
    let has_closure = !selection.crates.is_empty() || !selection.lists.is_empty();
    let retry = JobRetry::start(services, cx);
    let chosen = select::choose_by(services, &selection, Basis::Upstream, &retry).await?;
    let mut fetching = fetching::Fetching::plan(services, chosen, &retry, dry_run).await?;
    cx.note(extent(fetching.planned(), has_closure));
    if !dry_run {
        fetching.run().await?;
    }
    Ok(fetching.into_report())
}

/// From how many releases on it is said how fewer would do.
const MANY: u64 = 1000;

/// How much a selection turned out to be. `has_closure`: whether dependencies were followed.
fn extent(report: &SyncReport, has_closure: bool) -> String {
    let mut text = format!(
        "the selection is {} of {}; {} to be fetched",
        plural(report.releases, "release"),
        plural(report.names, "crate"),
        match report.would_fetch {
            1 => "1 is".to_owned(),
            count => format!("{count} are"),
        }
    );
    if has_closure && report.releases > MANY {
        text.push_str(
            "; every version, feature and optional dependency that cargo could choose is among \
             them: a lockfile (`--lockfile`) is exact and much less, `--latest` takes the newest \
             versions only",
        );
    }
    text
}
