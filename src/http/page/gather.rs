//! Gathers what the pages show: reads it off the mirror, on threads that may block.

use std::{sync::Arc, time::Duration};

use actix_web::web::Bytes;

use super::{facts, model::Overview};
use crate::{
    http::{gathered::Looked, state::State},
    registry::CrateName,
    status::{CratePage, Facts, Health, Range, SearchPage, TrafficSeries},
    util::format::{is_hidden, seconds},
};

/// How long what was gathered is shown: however many look, it is gathered once in this time.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The status page for the base that it was reached by; `None`: it could not be gathered, and the
/// log has why.
pub(super) async fn overview(state: &State, base: &str, range: Range) -> Option<Overview> {
    let gathered = facts(state).await?;
    Some(page_of(&gathered, base, state.status.traffic(range)))
}

/// What was gathered within the last second; `None`: it could not be gathered, and the log has why.
pub(crate) async fn facts(state: &State) -> Option<Arc<Facts>> {
    let status = state.status.clone();
    let gather = move || Arc::new(status.gather());
    // What was gathered before the stop began says nothing of it.
    let key = if state.status.is_stopping() {
        "stopping"
    } else {
        "serving"
    };
    let gathered = state.gathered.overview.get(key, FRESH_FOR, gather).await;
    gathered.ok()
}

fn page_of(gathered: &Facts, base: &str, traffic: TrafficSeries) -> Overview {
    let status = &gathered.status;
    let health = Health::of(gathered);
    Overview {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now_seconds: seconds(status.now),
        uptime_seconds: status.uptime.as_secs(),
        attention: health.items.clone(),
        verdict: health,
        upstream: facts::upstream(gathered),
        held: facts::held(gathered, base),
        git: status.git.as_ref().map(facts::git),
        traffic,
        events: gathered.events.clone(),
        jobs: gathered.running.iter().map(facts::job).collect(),
        last_jobs: gathered.recorded.last.iter().map(facts::last_job).collect(),
        clients: facts::clients(status, base),
    }
}

/// A crate, as `write` writes it. `form` tells apart what is written of the same crate.
pub(super) async fn krate(
    state: &State,
    name: &CrateName,
    form: &str,
    write: impl FnOnce(CratePage, u64) -> Option<Bytes> + Send + 'static,
) -> Looked {
    let stamp = state.mirror.held_stamp(name);
    let key = format!("crate {} {stamp} {form}", name.key());
    let (about, name) = (state.status.clone(), name.clone());
    let look = move || {
        let now = about.now();
        Looked::of(about.crate_page(&name), |page| write(page, seconds(now)))
    };
    Looked::from(state.gathered.pages.get(&key, FRESH_FOR, look).await)
}

/// A search over the crates that are known here, as `write` writes what it found. `form`: see
/// [`krate`].
pub(super) async fn search(
    state: &State,
    query: &str,
    form: &str,
    write: impl FnOnce(SearchPage) -> Option<Bytes> + Send + 'static,
) -> Looked {
    // It is shown again, and no name has such letters.
    let seen = |letter: &char| !is_hidden(*letter);
    let query: String = query.trim().chars().filter(seen).collect();
    let status = state.status.clone();
    let key = format!("search {form} {query}");
    let look = move || Looked::of(status.search_page(query).map(Some), write);
    // Scripts search for what came a moment ago.
    Looked::from(state.gathered.pages.get(&key, Duration::ZERO, look).await)
}
