//! What operators see: /metrics, the health endpoints and the status page.

use crate::support::{
    crates::{Krate, Registry, index_path},
    http::Ask,
    orlop::{Orlop, Setup},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

fn setting() -> (Upstream, Orlop) {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0").size(40_000)));
    let orlop = Setup::over(&upstream).start();
    (upstream, orlop)
}

#[test]
fn every_series_is_there_from_the_start_with_help_and_type() {
    let (_upstream, orlop) = setting();
    let text = orlop.get("/metrics").text();
    for (name, kind) in [
        ("orlop_http_requests_total", "counter"),
        ("orlop_http_request_duration_seconds", "histogram"),
        ("orlop_cache_results_total", "counter"),
        ("orlop_upstream_requests_total", "counter"),
        ("orlop_upstream_breaker_open", "gauge"),
        ("orlop_store_blobs", "gauge"),
        ("orlop_store_blob_bytes", "gauge"),
        ("orlop_store_names", "gauge"),
        ("orlop_store_free_bytes", "gauge"),
        ("orlop_store_mismatches_total", "counter"),
        ("orlop_connections_open", "gauge"),
        ("orlop_connections_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name}:\n{text}"
        );
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    assert!(text.contains(&format!(
        "orlop_build_info{{version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    )));
    assert!(orlop.metric("orlop_store_free_bytes", &[]) > 0.0);
}

#[test]
fn the_metrics_are_well_formed_prometheus_text() {
    let (_upstream, orlop) = setting();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let answer = orlop.get("/metrics");
    let content_type = answer.header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    let text = answer.text();
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap_or_default();
        assert!(
            name.starts_with("orlop_") || name.starts_with("process_"),
            "{line}"
        );
        assert!(!series.contains('{') || series.ends_with('}'), "{line}");
    }
}

#[test]
fn requests_are_counted_by_endpoint_protocol_and_status() {
    let (_upstream, orlop) = setting();
    let count = |labels: &[&str]| orlop.metric("orlop_http_requests_total", labels);
    for (path, endpoint) in [
        (format!("/index/{}", index_path("here")), "index"),
        ("/index/config.json".to_owned(), "config"),
        ("/api/v1/crates/here/1.0.0/download".to_owned(), "download"),
        ("/api/v1/crates?q=he".to_owned(), "search"),
        ("/healthz".to_owned(), "health"),
        ("/".to_owned(), "status"),
    ] {
        let labels = [
            &*format!("endpoint=\"{endpoint}\""),
            "protocol=\"h1\"",
            "status=\"200\"",
        ];
        let before = count(&labels);
        assert_eq!(orlop.get(&path).status, 200, "{path}");
        until("the request is counted", || count(&labels) >= before + 0.9);
    }
    let other = ["endpoint=\"other\"", "status=\"404\""];
    let before = count(&other);
    for number in 0..50 {
        let missing = orlop.get(&format!("/made-up/{number}"));
        assert_eq!(missing.status, 404);
    }
    until("unknown paths share one series", || {
        count(&other) >= before + 49.9
    });
    let text = orlop.get("/metrics").text();
    assert!(!text.contains("made-up"), "no client makes series");
    let timed = orlop.metric(
        "orlop_http_request_duration_seconds_count",
        &["endpoint=\"download\""],
    );
    assert!(timed >= 1.0);
}

#[test]
fn cache_results_upstream_outcomes_and_the_store_are_counted() {
    let (upstream, orlop) = setting();
    let results = |labels: &[&str]| orlop.metric("orlop_cache_results_total", labels);
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    assert!(results(&["kind=\"crate\"", "\"miss\""]) >= 1.0);
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let warm = results(&["kind=\"crate\"", "\"hot\""]) + results(&["kind=\"crate\"", "\"hit\""]);
    assert!(warm >= 2.0, "{warm}");
    let ok = orlop.metric(
        "orlop_upstream_requests_total",
        &["kind=\"crate\"", "outcome=\"ok\""],
    );
    assert!((ok - 1.0).abs() < 0.1, "{ok}");
    assert!((orlop.metric("orlop_store_blobs", &[]) - 1.0).abs() < 0.1);
    assert!((orlop.metric("orlop_store_names", &[]) - 1.0).abs() < 0.1);
    let held = orlop.metric("orlop_store_blob_bytes", &[]);
    assert!(held >= 40_000.0, "{held}");

    upstream.edit(|registry| registry.put(&Krate::new("bad", "1.0.0")));
    upstream.misbehave(On::Path("bad/1.0.0".to_owned()), Fault::Flip);
    assert_eq!(orlop.download("bad", "1.0.0").status, 502);
    assert!(orlop.metric("orlop_store_mismatches_total", &[]) >= 1.0);
    let mismatch = orlop.metric("orlop_upstream_requests_total", &["outcome=\"mismatch\""]);
    assert!(mismatch >= 1.0);
    upstream.misbehave(On::Kind(Kind::Index), Fault::StallBeforeHead);
    let hasty = Setup::over(&upstream).impatient().start();
    assert_eq!(hasty.index("stalled").status, 503);
    let timeout = hasty.metric("orlop_upstream_requests_total", &["outcome=\"timeout\""]);
    assert!(timeout >= 1.0);
}

#[test]
fn the_gauges_know_after_a_restart_what_is_held() {
    let (_upstream, orlop) = setting();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let before = orlop.metric("orlop_store_blob_bytes", &[]);
    let orlop = orlop.restart();
    until("the store is counted", || {
        (orlop.metric("orlop_store_blob_bytes", &[]) - before).abs() < 0.5
    });
    assert!((orlop.metric("orlop_store_blobs", &[]) - 1.0).abs() < 0.1);
    assert!((orlop.metric("orlop_store_names", &[]) - 1.0).abs() < 0.1);
}

#[test]
fn health_and_readiness_answer() {
    let (upstream, orlop) = setting();
    let health = orlop.get("/healthz");
    assert_eq!((health.status, health.text().trim()), (200, "ok"));
    assert_eq!(orlop.get("/readyz").status, 200);
    assert_eq!(orlop.ask(&Ask::head("/healthz")).status, 200);
    upstream.down();
    assert_eq!(orlop.index("unknown").status, 503);
    assert_eq!(
        orlop.get("/healthz").status,
        200,
        "a dead upstream is not our death"
    );
    assert_eq!(orlop.get("/readyz").status, 200, "what is held is served");
}

#[test]
fn the_status_page_shows_what_is_held_and_what_to_paste() {
    let (_upstream, orlop) = setting();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let page = orlop.ask(&Ask::get("/").header("Host", "mirror.lab:8080"));
    assert_eq!(page.status, 200);
    let content_type = page.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("text/html"), "{content_type}");
    let text = page.text();
    assert!(
        text.contains("sparse+http://mirror.lab:8080/index/"),
        "{text}"
    );
    assert!(text.contains("here"), "recent activity names the crate");
    assert!(text.contains(env!("CARGO_PKG_VERSION")));
    let beside = "href=\"/static/orlop.css\"";
    assert!(text.contains(beside), "the page's own host has its style");
    let hostile = orlop.ask(&Ask::get("/").header("Host", "<script>alert(1)</script>"));
    assert!(!hostile.text().contains("<script>alert"));
}

#[test]
fn search_finds_what_the_mirror_knows() {
    let (_upstream, orlop) = setting();
    assert_eq!(orlop.index("here").status, 200);
    let found = orlop.get("/api/v1/crates?q=her&per_page=10");
    assert_eq!(found.status, 200);
    let json: serde_json::Value = serde_json::from_slice(&found.body).expect("JSON");
    assert_eq!(json["crates"][0]["name"], "here");
    assert_eq!(json["crates"][0]["max_version"], "1.0.0");
    assert_eq!(json["meta"]["total"], 1);
    for query in [
        "q=",
        "q=%00",
        "q=her&per_page=0",
        "q=her&per_page=99999999",
        "",
        "q=%ff&q=%fe",
    ] {
        let answer = orlop.get(&format!("/api/v1/crates?{query}"));
        assert!(
            [200, 400].contains(&answer.status),
            "{query}: {}",
            answer.status
        );
    }
}

#[test]
fn refusals_of_the_write_api_are_json() {
    let (_upstream, orlop) = setting();
    for (method, path) in [
        ("PUT", "/api/v1/crates/new"),
        ("DELETE", "/api/v1/crates/here/1.0.0/yank"),
        ("PUT", "/api/v1/crates/here/1.0.0/unyank"),
        ("GET", "/api/v1/crates/here/owners"),
        ("PUT", "/api/v1/crates/here/owners"),
        ("DELETE", "/api/v1/crates/here/owners"),
    ] {
        let answer = orlop.ask(&Ask::new(method, path).body(&vec![b'x'; 100_000]));
        assert_eq!(answer.status, 403, "{method} {path}");
        let json: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let detail = json["errors"][0]["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("mirror"), "{detail}");
    }
}

#[test]
fn an_idle_orlop_is_small() {
    let (_upstream, orlop) = setting();
    assert_eq!(orlop.get("/healthz").status, 200);
    // The debug build's bound; the release build's figure stands in the benchmark.
    let bytes = orlop.resident_bytes();
    assert!(bytes > 0 && bytes < 120 * 1024 * 1024, "{bytes}");
}
