//! What a selection stands for: releases, with the dependency closure, from lockfiles, names with
//! requirements, lists, or everything known.

mod chooser;
mod chosen;
mod part;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) mod world;

use std::sync::Arc;

pub use self::chosen::Chosen;
pub(super) use self::chosen::{Basis, Everything, NOT_HELD};
use self::{
    chooser::Chooser,
    part::{Root, parts},
};
pub use super::selection::{NamedText, Selection};
use super::{context::JobContext, error::JobError, retry::JobRetry, services::Services};

/// Says what is wrong with a selection before anything is asked for.
///
/// # Errors
/// [`Fault::Usage`](super::Fault::Usage).
pub(super) fn check(services: &Services, selection: &Selection) -> Result<(), JobError> {
    parts(services, selection).map(drop)
}

/// Resolves a selection.
///
/// `ask`: whether index entries are asked for upstream, once each, however fresh they are;
/// otherwise only releases that are held count, as if there were no others: what is missing
/// of a lockfile then is a failure.
///
/// # Errors
/// Where the selection makes no sense, where upstream stays away, and when it is cancelled;
/// single crates that fail are in [`Chosen::failed`].
pub(in crate::jobs) async fn choose(
    services: &Services,
    selection: &Selection,
    ask: bool,
    cx: &JobContext,
) -> Result<Chosen, JobError> {
    let basis = if ask { Basis::Upstream } else { Basis::Held };
    choose_by(services, selection, basis, &JobRetry::start(services, cx)).await
}

/// Resolves a selection by what `basis` says, with the retries of the job it is for.
///
/// # Errors
/// As [`choose`].
pub(in crate::jobs) async fn choose_by(
    services: &Services,
    selection: &Selection,
    basis: Basis,
    retry: &Arc<JobRetry>,
) -> Result<Chosen, JobError> {
    let parts = parts(services, selection)?;
    let mut chooser = Chooser::new(services, basis, retry);
    chooser.begin();
    for part in &parts {
        chooser.note_local(&part.local);
        chooser.lockfiles(&part.locked).await?;
    }
    for latest in [false, true] {
        let same = parts.iter().filter(|part| part.latest == latest);
        let roots: Vec<&Root> = same.flat_map(|part| &part.roots).collect();
        chooser.close(&roots, latest).await?;
    }
    let all: Vec<bool> = parts
        .iter()
        .filter(|part| part.all)
        .map(|part| part.latest)
        .collect();
    if !all.is_empty() {
        // Everything has the newest of everything.
        chooser.everything(all.iter().all(|latest| *latest)).await?;
    }
    chooser.finish()
}
