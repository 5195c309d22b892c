//! What people and monitors look at: the status page, its parts, the metrics and the health probes.

use std::time::{Duration, SystemTime};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use askama::Template;

use super::{State, path_of, reply};
use crate::{
    metrics::{Arrival, Gauges},
    mirror::{Activity, GitState, GitStatus, Status, ViewStatus},
    policy::freshness::Mode,
    registry::client::{client_config, view_base},
    upstream::{BreakerState, HostHealth},
};

/// How many events the page shows.
const SHOWN_EVENTS: usize = 25;

/// How much of a commit's id the page shows; enough to tell it from all others of an index.
const SHOWN_ID_CHARACTERS: usize = 12;

/// Nothing on the page comes from elsewhere, and nothing may be put into it from elsewhere.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Template)]
#[template(path = "status.html", config = "static/askama.toml")]
struct Page {
    /// The path of the base: links of the page stay at the host it was reached by, which the
    /// content security policy takes for its own whatever `public_url` says.
    root: String,
    verdict: Verdict,
    upstream: Vec<(&'static str, String)>,
    held: Vec<(&'static str, String)>,
    git: Vec<(&'static str, String)>,
    /// The URL of the git index; empty: it is not served.
    git_url: String,
    events: Vec<ShownEvent>,
    client_config: String,
    version: &'static str,
    uptime: String,
}

/// The one thing that a person wants to know first, and what they should look at next.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// `good`, `warn` or `bad`: the class of the header. The words say it too.
    level: &'static str,
    headline: String,
    attention: Vec<String>,
}

struct ShownEvent {
    /// For machines: RFC 3339.
    at: String,
    /// The same for people.
    when: String,
    /// The text in turns: plain, a name or version, plain, …
    what: Vec<String>,
}

/// `GET /`.
pub(crate) async fn page(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let base = match state.bases.of(request.head()) {
        Ok(base) => base,
        Err(error) => return reply::plain(StatusCode::BAD_REQUEST, format!("orlop: {error}\n")),
    };
    let status = state.mirror.status(SHOWN_EVENTS);
    let page = Page {
        verdict: verdict(&status),
        upstream: upstream_facts(&status),
        held: held_facts(&status, &base),
        git: status.git.as_ref().map(git_facts).unwrap_or_default(),
        git_url: status.git.as_ref().map(git_url).unwrap_or_default(),
        events: status.recent.iter().map(shown).collect(),
        client_config: client_config(&base),
        version: env!("CARGO_PKG_VERSION"),
        uptime: seconds(status.uptime),
        root: path_of(&base),
    };
    match page.render() {
        Ok(html) => HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((header::REFERRER_POLICY, "no-referrer"))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .body(html),
        Err(error) => {
            tracing::error!(%error, "could not write the status page");
            reply::plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "orlop: could not write this page; the log says why\n".into(),
            )
        }
    }
}

/// `GET /static/{file}`: what the page is made of is in the program.
pub(crate) async fn asset(file: web::Path<String>) -> HttpResponse {
    match file.as_str() {
        "orlop.css" => HttpResponse::Ok()
            .content_type("text/css; charset=utf-8")
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((header::CACHE_CONTROL, "max-age=300"))
            .body(include_str!("../../static/orlop.css")),
        _ => reply::plain(
            StatusCode::NOT_FOUND,
            "orlop: there is no such file\n".into(),
        ),
    }
}

/// `GET /metrics`.
pub(crate) async fn metrics(state: web::Data<State>) -> HttpResponse {
    let status = state.mirror.status(0);
    let listen = &state.listen;
    let git = status.git.as_ref();
    let gauges = Gauges {
        connections_open: listen.open() as u64,
        connections: vec![
            (Arrival::H1, listen.http1()),
            (Arrival::H2, listen.http2()),
            (Arrival::Upgrade, listen.upgraded()),
        ],
        connections_refused: listen.refused(),
        breaker_open: status.upstream.is_breaker_open(),
        names: status.totals.names,
        blobs: status.totals.blobs,
        blob_bytes: status.totals.blob_bytes,
        free_bytes: status.totals.free_bytes,
        writable: status.totals.writable,
        generation: git
            .and_then(|git| git.head)
            .map_or(0, |head| head.generation),
        generation_staged: git.map_or(0, |git| git.staged),
        git_repository_bytes: git.map_or(0, |git| git.size_bytes),
        hot_bytes: state.cache.bytes(),
        followed_at: followed_at(&status)
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()),
        jobs: state
            .mirror
            .jobs()
            .iter()
            .map(|job| job.kind.label())
            .collect(),
        uptime: status.uptime,
    };
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(state.mirror.metrics().render(&gauges))
}

/// `GET /healthz`: the program runs and answers.
pub(crate) async fn healthz() -> HttpResponse {
    reply::plain(StatusCode::OK, "ok\n".into())
}

/// `GET /readyz`: it should be sent requests. A mirror without upstream is ready: serving what it
/// holds is what it is for. One on its way out is not.
pub(crate) async fn readyz(state: web::Data<State>) -> HttpResponse {
    if state.is_draining() {
        return reply::plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    reply::plain(StatusCode::OK, "ready\n".into())
}

fn verdict(status: &Status) -> Verdict {
    let upstream = &status.upstream;
    let troubled = upstream.is_breaker_open() && status.mode != Mode::Offline;
    let mut attention = Vec::new();
    if !status.totals.writable {
        attention.push("The store takes no writes: the disk is full or failed. What is held is served; nothing new is kept.".to_owned());
    }
    if status.totals.damaged > 0 {
        attention.push(format!(
            "{} damaged records were found since the start and are fetched again.",
            status.totals.damaged
        ));
    }
    if let Some(why) = status.git.as_ref().and_then(|git| git.failing.as_ref()) {
        attention.push(format!(
            "The git index cannot follow and is tried again: {why}."
        ));
    }
    for view in &status.views {
        if let Some(why) = &view.failing {
            attention.push(format!(
                "The git index of the view `{}` cannot follow and is tried again: {why}.",
                view.name
            ));
        }
    }
    let hosts = [
        ("index", &upstream.index),
        ("downloads", &upstream.downloads),
    ];
    for (host, health) in hosts.into_iter().filter(|_| status.mode != Mode::Offline) {
        if let Some((age, why)) = failed_last(health) {
            let (age, asked) = (seconds(*age), mode_in_trouble(status.mode));
            attention.push(format!(
                "Upstream's {host} failed {age} ago: {why}. {asked}"
            ));
        }
    }
    let (level, headline) = match (status.totals.writable, troubled, status.mode) {
        (false, _, _) => ("bad", "Serving, but nothing new can be kept".to_owned()),
        (true, _, Mode::Offline) => (
            "good",
            "Serving what is held; upstream is never asked".to_owned(),
        ),
        (true, true, Mode::Strict) => (
            "warn",
            "Serving crates that are held; upstream is in trouble".to_owned(),
        ),
        (true, true, Mode::Fallback) => (
            "warn",
            "Serving what is held; upstream is in trouble".to_owned(),
        ),
        (true, false, _) => match upstream.index.last_success {
            Some(age) => (
                "good",
                format!("Serving; upstream answered {} ago", seconds(age)),
            ),
            None if failed_last(&upstream.index).is_some() => {
                ("warn", "Serving; upstream has not answered yet".to_owned())
            }
            None => (
                "good",
                "Serving; upstream has not been asked yet".to_owned(),
            ),
        },
    };
    Verdict {
        level,
        headline,
        attention,
    }
}

fn mode_in_trouble(mode: Mode) -> &'static str {
    match mode {
        Mode::Fallback | Mode::Offline => "What is held is served.",
        Mode::Strict => {
            "Crate files that are held are served, and index entries as long as they are fresh."
        }
    }
}

fn followed_at(status: &Status) -> Option<SystemTime> {
    status.follow.as_ref()?.followed_at
}

/// How far the git index of upstream was followed, where it is.
fn follow_facts(status: &Status) -> Option<(&'static str, String)> {
    let follow = status.follow.as_ref()?;
    let Some((commit, at)) = follow.commit.as_deref().zip(follow.followed_at) else {
        return Some(("Followed", "not yet".to_owned()));
    };
    let age = status.now.duration_since(at).unwrap_or_default();
    let commit = commit.get(..SHOWN_ID_CHARACTERS).unwrap_or(commit);
    let changed = follow.changed;
    let text = format!(
        "commit {commit}, {} ago; {changed} names changed since the start",
        seconds(age)
    );
    Some(("Followed", text))
}

fn upstream_facts(status: &Status) -> Vec<(&'static str, String)> {
    let mut facts = registry_facts(status);
    facts.extend(follow_facts(status));
    facts
}

fn registry_facts(status: &Status) -> Vec<(&'static str, String)> {
    vec![
        ("Registry", status.upstream_url.clone()),
        ("Mode", status.mode.to_string()),
        ("Index", host_facts(&status.upstream.index, status.mode)),
        (
            "Downloads",
            host_facts(&status.upstream.downloads, status.mode),
        ),
        (
            "Asking now",
            format!(
                "{} index entries, {} crates",
                status.refreshing, status.fetching
            ),
        ),
    ]
}

/// How one host fares, in a phrase.
fn host_facts(health: &HostHealth, mode: Mode) -> String {
    if mode == Mode::Offline {
        return "never asked".to_owned();
    }
    let answered = match health.last_success {
        Some(age) => format!("answered {} ago", seconds(age)),
        None if health.last_failure.is_some() => "has not answered yet".to_owned(),
        None => "not asked yet".to_owned(),
    };
    match (health.breaker, failed_last(health)) {
        (BreakerState::Open { reopens_in }, _) => {
            format!("left alone for {}; {answered}", seconds(reopens_in))
        }
        (BreakerState::HalfOpen, _) => format!("tried with one request; {answered}"),
        (BreakerState::Closed, Some((age, _why))) => {
            format!("failed {} ago; {answered}", seconds(*age))
        }
        (BreakerState::Closed, None) => answered,
    }
}

/// The last failure of a host, if nothing went well since.
fn failed_last(health: &HostHealth) -> Option<&(Duration, String)> {
    let since = health.last_failure.as_ref();
    since.filter(|(age, _why)| health.last_success.is_none_or(|success| *age < success))
}

fn held_facts(status: &Status, base: &str) -> Vec<(&'static str, String)> {
    let mut facts = store_facts(status);
    facts.extend(
        status
            .views
            .iter()
            .map(|view| ("Index of these alone", view_facts(view, base))),
    );
    facts
}

/// Where a view is, and how much it has.
fn view_facts(view: &ViewStatus, base: &str) -> String {
    let index = format!("{}/index/", view_base(base, &view.name));
    match view.names {
        Some(1) => format!("{index} (1 crate)"),
        Some(names) => format!("{index} ({names} crates)"),
        None => index,
    }
}

fn store_facts(status: &Status) -> Vec<(&'static str, String)> {
    let totals = &status.totals;
    vec![
        ("Index entries", totals.names.to_string()),
        ("Crate files", totals.blobs.to_string()),
        ("Their size", size(totals.blob_bytes)),
        ("Free for more", size(totals.free_bytes)),
        (
            "Takes writes",
            if totals.writable { "yes" } else { "no" }.to_owned(),
        ),
    ]
}

fn git_facts(git: &GitStatus) -> Vec<(&'static str, String)> {
    let head = match (git.head, git.state) {
        (_, GitState::BeingMade) => "being made again".to_owned(),
        (Some(head), _) => {
            let id = head.id.to_string();
            id.get(..SHOWN_ID_CHARACTERS).unwrap_or(&id).to_owned()
        }
        (None, GitState::NoBase) => "none: set `public_url`".to_owned(),
        (None, _) => "none yet".to_owned(),
    };
    let generation = git.head.map_or(0, |head| head.generation);
    let cut = git
        .cut
        .map_or_else(|| "not yet".to_owned(), |at| time(at).0);
    vec![
        ("Head", head),
        ("Generation", generation.to_string()),
        ("Cut at (UTC)", cut),
        ("Repository", size(git.size_bytes)),
        ("Names waiting for the next", git.staged.to_string()),
    ]
}

fn git_url(git: &GitStatus) -> String {
    let base = git.base.as_ref();
    base.map(|base| format!("{base}/git/index"))
        .unwrap_or_default()
}

/// A time for people, and for machines.
fn time(at: SystemTime) -> (String, String) {
    let at = at.max(SystemTime::UNIX_EPOCH);
    let at = humantime::format_rfc3339_seconds(at).to_string();
    (at.replace('T', " ").replace('Z', ""), at)
}

fn shown(event: &Activity) -> ShownEvent {
    let (when, at) = time(event.at);
    ShownEvent {
        when,
        at,
        what: event.what.split('`').map(str::to_owned).collect(),
    }
}

/// A span to the second: `3m 20s`.
fn seconds(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

/// A size with three digits and a binary unit: `1.46 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = (bytes, 0_u64);
    let mut unit = 0;
    while scaled.0 >= 1024 && unit + 1 < UNITS.len() {
        scaled = (scaled.0 / 1024, scaled.0 % 1024);
        unit += 1;
    }
    let name = UNITS.get(unit).unwrap_or(&"bytes");
    if unit == 0 {
        return format!("{bytes} {name}");
    }
    format!("{}.{:02} {name}", scaled.0, scaled.1 * 100 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1536), "1.50 KiB");
        assert_eq!(size(3 * 1024 * 1024 * 1024), "3.00 GiB");
        assert_eq!(size(u64::MAX), "16777215.99 TiB");
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
            assert_eq!(host_facts(&health, Mode::Fallback), expected);
            assert_eq!(host_facts(&health, Mode::Offline), "never asked");
        };
        check(None, None, "not asked yet");
        check(None, Some(3), "failed 3s ago; has not answered yet");
        check(Some(9), Some(3), "failed 3s ago; answered 9s ago");
        check(Some(3), Some(9), "answered 3s ago");
    }

    #[test]
    fn spans_are_readable() {
        assert_eq!(seconds(Duration::from_millis(200_900)), "3m 20s");
        assert_eq!(seconds(Duration::ZERO), "0s");
    }
}
