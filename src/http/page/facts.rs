//! The facts of the status page: what its owners tell, in the shape of the model.

use std::time::{Duration, SystemTime};

use super::model::{
    ClientWay, Clients, FollowFacts, GitFacts, HeldFacts, HostFacts, JobFacts, LastJobFacts,
    UpstreamFacts,
};
use crate::{
    git_index::{GitState, GitStatus},
    jobs::{RunningJob, ServerState, upkeep},
    policy::freshness::Mode,
    registry::client::{client_config, git_client_config, view_base},
    status::{Facts, Level},
    upstream::{BreakerState, HostHealth},
    util::format::{seconds, span},
};

pub(super) fn upstream(gathered: &Facts) -> UpstreamFacts {
    let status = &gathered.status;
    UpstreamFacts {
        name: registry_name(&status.upstream_url),
        url: status.upstream_url.clone(),
        mode: status.mode.to_string(),
        index: host(&status.upstream.index, status.mode),
        downloads: host(&status.upstream.downloads, status.mode),
        follow: status.follow.as_ref().map(|follow| FollowFacts {
            commit: follow.commit.clone(),
            age_seconds: follow.followed_at.map(|at| age(status.now, at)),
            changed: follow.changed,
        }),
        refreshing: status.refreshing,
        fetching: status.fetching,
        oldest_stale_seconds: gathered.oldest_stale.map(|age| age.as_secs()),
    }
}

/// How people call the registry of an index.
fn registry_name(url: &str) -> String {
    let bare = |url: &str| url.trim_end_matches('/').to_owned();
    let url = url.strip_prefix("sparse+").unwrap_or(url);
    let known = tame_index::CRATES_IO_HTTP_INDEX;
    if bare(url) == bare(known.strip_prefix("sparse+").unwrap_or(known)) {
        return "crates.io".to_owned();
    }
    let place = url.split_once("://").map_or(url, |(_scheme, place)| place);
    match bare(place) {
        root if root.is_empty() => place.to_owned(),
        name => name,
    }
}

/// How many seconds ago something was.
fn age(now: SystemTime, at: SystemTime) -> u64 {
    now.duration_since(at).map_or(0, |age| age.as_secs())
}

fn host(health: &HostHealth, mode: Mode) -> HostFacts {
    let failed = health.failed_last().filter(|_| mode != Mode::Offline);
    let rests = health.breaker != BreakerState::Closed && mode != Mode::Offline;
    HostFacts {
        level: if rests || failed.is_some() {
            Level::Warn
        } else {
            Level::Good
        },
        text: host_text(health, mode),
        last_success_seconds: health.last_success.map(|age| age.as_secs()),
        last_failure_seconds: health.last_failure.as_ref().map(|(age, _)| age.as_secs()),
        cause: failed.map(|(_age, why)| why.clone()),
        latency_ms: health
            .latency
            .map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// How one host fares, in a phrase.
fn host_text(health: &HostHealth, mode: Mode) -> String {
    if mode == Mode::Offline {
        return "never asked".to_owned();
    }
    let in_so_long = |latency: Duration| format!(" in {} ms", latency.as_millis());
    let latency = health.latency.map(in_so_long).unwrap_or_default();
    let answered = match health.last_success {
        Some(age) => format!("answered {} ago{latency}", span(age)),
        None if health.last_failure.is_some() => "has not answered yet".to_owned(),
        None => "not asked yet".to_owned(),
    };
    match (health.breaker, health.failed_last()) {
        (BreakerState::Open { reopens_in }, _) => {
            format!("left alone for {}; {answered}", span(reopens_in))
        }
        (BreakerState::HalfOpen, _) => format!("tried with one request; {answered}"),
        (BreakerState::Closed, Some((age, _why))) => {
            format!("failed {} ago; {answered}", span(*age))
        }
        (BreakerState::Closed, None) => answered,
    }
}

pub(super) fn held(gathered: &Facts, base: &str) -> HeldFacts {
    let status = &gathered.status;
    let totals = &status.totals;
    let room = gathered.room.as_ref();
    let view = status.views.first();
    HeldFacts {
        names: totals.names,
        files: totals.blobs,
        stored_bytes: totals.blob_bytes,
        raw_bytes: totals.blob_bytes,
        index_stored_bytes: totals.index_stored_bytes,
        index_raw_bytes: totals.index_raw_bytes,
        versions: totals.versions,
        held_versions: totals.held,
        free_bytes: totals.free_bytes,
        disk_bytes: room.map_or(0, |room| room.space.total_bytes),
        writable: totals.writable,
        held_names: view.and_then(|view| view.names),
        held_index: view.map(|view| format!("{}/index/", view_base(base, &view.name))),
    }
}

pub(super) fn git(git: &GitStatus) -> GitFacts {
    let base = git.base.as_ref();
    GitFacts {
        state: git_state(git.state).to_owned(),
        url: base.map(|base| format!("{base}/git/index")),
        commit: git.head.map(|head| head.id.to_string()),
        generation: git.head.map_or(0, |head| head.generation),
        cut_seconds: git.cut.map(seconds),
        bytes: git.size_bytes,
        staged: git.staged,
        failing: git.failing.clone(),
    }
}

fn git_state(state: GitState) -> &'static str {
    match state {
        GitState::NoBase => "no-base",
        GitState::Empty => "empty",
        GitState::BeingMade => "being-made",
        GitState::Ready => "ready",
    }
}

pub(super) fn job(running: &RunningJob) -> JobFacts {
    JobFacts {
        kind: running.kind.as_str().to_owned(),
        command: running.command.clone(),
        since_seconds: running.since,
        phase: running.phase.clone(),
        done: running.done,
        total: running.total,
        bytes: running.bytes,
    }
}

pub(super) fn last_job(job: &upkeep::JobStats) -> LastJobFacts {
    let (ended, level) = match job.ended {
        upkeep::Ended::Well => ("well", Level::Good),
        upkeep::Ended::Problems => ("problems", Level::Warn),
        upkeep::Ended::Failed => ("failed", Level::Warn),
        upkeep::Ended::Cancelled => ("cancelled", Level::Good),
    };
    LastJobFacts {
        kind: job.kind.clone(),
        ended: ended.to_owned(),
        level,
        at_seconds: job.at.unwrap_or(0),
        ok_at_seconds: job.ok_at,
    }
}

/// How a client is set up, for the host that this was reached by.
pub(super) fn clients(status: &ServerState, base: &str) -> Clients {
    let mut ways = vec![way(
        "sparse",
        "Sparse index",
        "For cargo 1.68 and newer: only the entries that a build needs are asked for.",
        Some(client_config(base)),
    )];
    if let Some(git) = &status.git {
        ways.push(git_way(git, base));
    }
    if let Some(view) = status.views.first() {
        let git = status.git.as_ref().map(|git| held_git_way(git, &view.name));
        let base = view_base(base, &view.name);
        ways.push(way(
            "held",
            "Held crates only",
            "Shows only versions whose files are here, so that a build never waits for upstream.",
            Some(client_config(&base)),
        ));
        ways.extend(git);
    }
    Clients {
        base: base.to_owned(),
        ways,
    }
}

fn git_way(git: &GitStatus, reached_by: &str) -> ClientWay {
    const WHOM: &str =
        "For a cargo older than 1.68, and for tools that read the index as a git repository.";
    let (note, config) = match &git.base {
        Some(base) if base == reached_by => (WHOM.to_owned(), Some(git_client_config(base))),
        Some(base) => (
            format!(
                "{WHOM} It sends clients to `{base}`; if they reach this mirror by another URL, set `public_url` in the configuration."
            ),
            Some(git_client_config(base)),
        ),
        None => (
            "Not served yet: the git index names the URL that clients reach this mirror by. Set `public_url` in the configuration.".to_owned(),
            None,
        ),
    };
    way("git", "Git index", &note, config)
}

fn held_git_way(git: &GitStatus, view: &str) -> ClientWay {
    let (note, config) = match &git.base {
        Some(base) => (
            "The same as a git repository.",
            Some(git_client_config(&view_base(base, view))),
        ),
        None => (
            "Not served yet, for the same reason as the git index: set `public_url` in the configuration.",
            None,
        ),
    };
    way("held-git", "Held, by git", note, config)
}

fn way(id: &str, title: &str, note: &str, config: Option<String>) -> ClientWay {
    ClientWay {
        id: id.to_owned(),
        title: title.to_owned(),
        note: note.to_owned(),
        config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_called_by_its_name() {
        for (url, name) in [
            (tame_index::CRATES_IO_HTTP_INDEX, "crates.io"),
            ("sparse+https://index.example/", "index.example"),
            ("http://127.0.0.1:8080/a/index/", "127.0.0.1:8080/a/index"),
            ("/srv/index.git", "/srv/index.git"),
            ("file:///srv/index.git", "/srv/index.git"),
            ("/", "/"),
        ] {
            assert_eq!(registry_name(url), name);
        }
        let plain = tame_index::CRATES_IO_HTTP_INDEX.strip_prefix("sparse+");
        assert_eq!(registry_name(plain.expect("a sparse index")), "crates.io");
    }

    #[test]
    fn a_host_that_failed_was_asked() {
        let ago = Duration::from_secs;
        let check = |last_success: Option<u64>, last_failure: Option<u64>, expected: &str| {
            let health = HostHealth {
                breaker: BreakerState::Closed,
                last_success: last_success.map(ago),
                last_failure: last_failure.map(|age| (ago(age), "refused".to_owned())),
                latency: None,
            };
            assert_eq!(host_text(&health, Mode::Fallback), expected);
            assert_eq!(host_text(&health, Mode::Offline), "never asked");
        };
        check(None, None, "not asked yet");
        check(None, Some(3), "failed 3 s ago; has not answered yet");
        check(Some(9), Some(3), "failed 3 s ago; answered 9 s ago");
        check(Some(3), Some(9), "answered 3 s ago");
    }
}
