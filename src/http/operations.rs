//! What monitors look at: the metrics and the health probes.

use std::time::{Duration, SystemTime};

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};

use super::{page::gather, reply, state::State};
use crate::{
    jobs::{RunningJob, ServerState, sync::schedule::saved_sets},
    metrics::{Arrival, Content, Gauges, Host, HostGauges, JobGauges, JournalEvent, ServingMode},
    policy::freshness::Mode,
    status::Health,
    store::{EventLog, LogKind, Totals},
    upstream::{BreakerState, HostHealth},
};

/// `GET /metrics`. Numbers of the disk are asked of the file system, which may take its time.
pub(crate) async fn metrics(state: web::Data<State>) -> HttpResponse {
    let rendered = web::block(move || {
        let gauges = gauges(&state);
        state.services.metrics.render(&gauges)
    });
    let Ok(text) = rendered.await else {
        return reply::plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the numbers could not be gathered; the log says why\n".into(),
        );
    };
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text)
}

/// Blocks for the disk.
fn gauges(state: &State) -> Gauges {
    let status = state.services.state();
    let listen = &state.listen;
    let git = status.git.as_ref();
    let saved_sets = saved_sets(&state.services);
    Gauges {
        connections_open: listen.open() as u64,
        connections: vec![
            (Arrival::H1, listen.http1()),
            (Arrival::H2, listen.http2()),
            (Arrival::Upgrade, listen.upgraded()),
        ],
        connections_refused: listen.refused(),
        hosts: vec![
            (Host::Index, host(&status.upstream.index, status.now)),
            (
                Host::Downloads,
                host(&status.upstream.downloads, status.now),
            ),
        ],
        mode: Some(mode(status.mode)),
        index_checked: since_1970(index_checked(&status)),
        oldest_stale: state.mirror.oldest_stale(),
        journal_events: journal_events(state.services.store.log()),
        names: status.totals.names,
        releases: status.totals.versions,
        releases_held: status.totals.held,
        blobs: status.totals.blobs,
        store_bytes: store_bytes(&status.totals),
        damaged_records: status.totals.damaged,
        set_aside: state.services.set_aside().to_vec(),
        free_bytes: status.totals.free_bytes,
        disk_bytes: state.services.store.disk_bytes(),
        writable: status.totals.writable,
        generation: git
            .and_then(|git| git.head)
            .map_or(0, |head| head.generation),
        generation_at: since_1970(git.and_then(|git| git.cut)),
        is_generation_failing: git.is_some_and(|git| git.failing.is_some()),
        generation_staged: git.map_or(0, |git| git.staged),
        git_repository_bytes: git.map_or(0, |git| git.size_bytes),
        hot_bytes: state.cache.bytes(),
        followed_at: since_1970(followed_at(&status)),
        jobs: state.services.running.list().iter().map(job).collect(),
        sync_interval: saved_sets.interval,
        sync_up_to_date: since_1970(saved_sets.up_to_date),
        uptime: status.uptime,
    }
}

/// `GET /healthz`: the program runs and answers.
pub(crate) async fn healthz() -> HttpResponse {
    reply::plain(StatusCode::OK, "ok\n".into())
}

/// How long `/readyz` waits for the verdict. A disk that hangs is no reason to answer late.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(1);

/// `GET /readyz`: whether it should be sent requests, and the verdict in a line.
pub(crate) async fn readyz(state: web::Data<State>) -> HttpResponse {
    let gathered = actix_web::rt::time::timeout(VERDICT_TIMEOUT, gather::facts(&state)).await;
    let health = gathered.ok().flatten().map(|facts| Health::of(&facts));
    // Both lines tell of one moment.
    let is_ready = match &health {
        Some(health) => health.is_ready,
        None => !state.status.is_stopping(),
    };
    let (status, word) = if is_ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    };
    let summary = health.map(|health| health.summary).unwrap_or_default();
    reply::plain(status, format!("{word}\n{summary}\n"))
}

fn host(health: &HostHealth, now: SystemTime) -> HostGauges {
    let answered = health.last_success.and_then(|age| now.checked_sub(age));
    HostGauges {
        is_up: health.is_up(),
        is_breaker_open: health.breaker != BreakerState::Closed,
        last_success: since_1970(answered),
    }
}

fn mode(mode: Mode) -> ServingMode {
    match mode {
        Mode::Fallback => ServingMode::Fallback,
        Mode::Strict => ServingMode::Strict,
        Mode::Offline => ServingMode::Offline,
    }
}

/// When upstream last said something about its index.
fn index_checked(status: &ServerState) -> Option<SystemTime> {
    let age = status.upstream.index.last_success;
    let answered = age.and_then(|age| status.now.checked_sub(age));
    answered.max(followed_at(status))
}

fn journal_events(log: &EventLog) -> Vec<(JournalEvent, u64)> {
    let kinds = [
        (JournalEvent::FirstSeen, LogKind::New),
        (JournalEvent::NewVersion, LogKind::Version),
        (JournalEvent::Yanked, LogKind::Yanked),
        (JournalEvent::Unyanked, LogKind::Unyanked),
        (JournalEvent::ChecksumChanged, LogKind::Changed),
        (JournalEvent::VersionRemoved, LogKind::Removed),
        (JournalEvent::NameGone, LogKind::Gone),
        (JournalEvent::NameBack, LogKind::Back),
    ];
    let counted = kinds.into_iter();
    counted
        .map(|(event, kind)| (event, log.count_of(kind)))
        .collect()
}

fn store_bytes(totals: &Totals) -> Vec<(Content, u64, u64)> {
    let (raw, stored) = (totals.index_raw_bytes, totals.index_stored_bytes);
    vec![
        (Content::Crates, totals.blob_bytes, totals.blob_bytes),
        (Content::Index, raw, stored),
    ]
}

fn job(running: &RunningJob) -> JobGauges {
    JobGauges {
        kind: running.kind.label(),
        done: running.done,
        planned: running.total,
    }
}

fn since_1970(at: Option<SystemTime>) -> Option<Duration> {
    at?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

fn followed_at(status: &ServerState) -> Option<SystemTime> {
    status.follow.as_ref()?.followed_at
}
