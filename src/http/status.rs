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
    mirror::Status,
    policy::freshness::Mode,
    registry::client::client_config,
    upstream::{BreakerState, HostHealth},
};

/// How many events the page shows.
const SHOWN_EVENTS: usize = 25;

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
    at: String,
    what: String,
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
        held: held_facts(&status),
        events: status.events.iter().map(shown).collect(),
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
        hot_bytes: state.cache.bytes(),
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
    if troubled {
        for (host, health) in [
            ("index", &upstream.index),
            ("downloads", &upstream.downloads),
        ] {
            if let (false, Some((age, why))) = (
                matches!(health.breaker, BreakerState::Closed),
                &health.last_failure,
            ) {
                attention.push(format!(
                    "Upstream's {host} failed {} ago: {why}. What is held is served.",
                    seconds(*age)
                ));
            }
        }
    }
    let (level, headline) = match (status.totals.writable, troubled, status.mode) {
        (false, _, _) => ("bad", "Serving, but nothing new can be kept".to_owned()),
        (true, _, Mode::Offline) => (
            "good",
            "Serving what is held; upstream is never asked".to_owned(),
        ),
        (true, true, _) => (
            "warn",
            "Serving what is held; upstream is in trouble".to_owned(),
        ),
        (true, false, _) => match upstream.index.last_success {
            Some(age) => (
                "good",
                format!("Serving; upstream answered {} ago", seconds(age)),
            ),
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

fn upstream_facts(status: &Status) -> Vec<(&'static str, String)> {
    vec![
        ("Registry", status.upstream_url.clone()),
        ("Mode", status.mode.to_string()),
        ("Index", host_facts(&status.upstream.index)),
        ("Downloads", host_facts(&status.upstream.downloads)),
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
fn host_facts(health: &HostHealth) -> String {
    let answered = match health.last_success {
        Some(age) => format!("answered {} ago", seconds(age)),
        None => "not asked yet".to_owned(),
    };
    match health.breaker {
        BreakerState::Closed => answered,
        BreakerState::Open { reopens_in } => {
            format!("left alone for {}; {answered}", seconds(reopens_in))
        }
        BreakerState::HalfOpen => format!("tried with one request; {answered}"),
    }
}

fn held_facts(status: &Status) -> Vec<(&'static str, String)> {
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

fn shown(event: &crate::store::Event) -> ShownEvent {
    let at = event.at.max(SystemTime::UNIX_EPOCH);
    ShownEvent {
        at: humantime::format_rfc3339_seconds(at).to_string(),
        what: event.to_string(),
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
    fn spans_are_readable() {
        assert_eq!(seconds(Duration::from_millis(200_900)), "3m 20s");
        assert_eq!(seconds(Duration::ZERO), "0s");
    }
}
