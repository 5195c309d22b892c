//! What operators see: /metrics, the health endpoints and the status page.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::support::{
    all_at_once,
    cargo::Project,
    crates::{Krate, Registry, index_path},
    git::Git,
    http::{Answer, Ask},
    orlop::{Orlop, Setup, download_path},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

/// Labels of the bytes of crate files on the disk.
const CRATES_STORED: [&str; 2] = ["content=\"crates\"", "form=\"stored\""];

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
        ("orlop_store_bytes", "gauge"),
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
    let held = orlop.metric("orlop_store_bytes", &CRATES_STORED);
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
    let before = orlop.metric("orlop_store_bytes", &CRATES_STORED);
    let orlop = orlop.restart();
    until("the store is counted", || {
        (orlop.metric("orlop_store_bytes", &CRATES_STORED) - before).abs() < 0.5
    });
    assert!((orlop.metric("orlop_store_blobs", &[]) - 1.0).abs() < 0.1);
    assert!((orlop.metric("orlop_store_names", &[]) - 1.0).abs() < 0.1);
}

#[test]
fn health_and_readiness_answer() {
    let (upstream, orlop) = setting();
    let health = orlop.get("/healthz");
    assert_eq!((health.status, health.text().trim()), (200, "ok"));
    let ready = orlop.get("/readyz");
    assert_eq!(ready.status, 200);
    let text = ready.text();
    assert!(text.starts_with("ready\nserving; upstream "), "{text}");
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
    let beside = "href=\"/static/orlop.css?v=";
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
    let json: Value = serde_json::from_slice(&found.body).expect("JSON");
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
        let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
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

/// A mirror that all that can be counted happens to.
pub(crate) struct Workload {
    pub(crate) upstream: Upstream,
    pub(crate) orlop: Orlop,
}

impl Workload {
    pub(crate) fn start() -> Workload {
        let registry = Registry::new()
            .with(&Krate::new("serving-one", "1.0.0").size(40_000))
            .with(&Krate::new("serving-one", "1.1.0"))
            .with(&Krate::new("serving-large", "1.0.0").size(900_000))
            .with(&Krate::new("serving-bad", "1.0.0"));
        let upstream = Upstream::start(registry);
        let orlop = Setup::over(&upstream)
            .config("index.fresh_for", "0s")
            .config("git.quiet_for", "200ms")
            .config("git.cut_within", "1s")
            .config("sync.every", "1h")
            .start();
        Workload { upstream, orlop }
    }

    /// What ordinary days bring: cold and warm, by both protocols, by cargo and by git.
    pub(crate) fn ordinary(&self) {
        let orlop = &self.orlop;
        let index = format!("/index/{}", index_path("serving-one"));
        let etag = orlop
            .get(&index)
            .header("etag")
            .unwrap_or_default()
            .to_owned();
        orlop.ask(&Ask::get(&index).header("If-None-Match", &etag));
        orlop.index("serving-none");
        for version in ["1.0.0", "1.1.0", "1.0.0"] {
            assert!(orlop.download("serving-one", version).is_complete_file());
        }
        let path = download_path("serving-large", "1.0.0");
        assert!(orlop.get(&path).is_complete_file());
        orlop.ask(&Ask::get(&path).header("Range", "bytes=5-99"));
        orlop.ask(&Ask::head(&path));
        for path in ["/", "/api/v1/crates?q=serving", "/healthz", "/nowhere"] {
            orlop.get(path);
        }
        let project = Project::new("serving-one = \"=1.0.0\"").through(&orlop.url());
        project.cargo(&["fetch"]).well();
        let url = format!("{}/git/index", orlop.url());
        until("the git index is there", || {
            let git = Git::new();
            git.run(&["clone", "-q", &url, "clone"]).well
        });
        let git = Git::new().config("protocol.version=0");
        git.run(&["clone", "-q", &url, "clone"]).well();
    }

    /// What jobs bring.
    pub(crate) fn jobs(&self) {
        let setup = self.orlop.setup();
        for words in [
            &["sync", "--crate", "serving-one@1"][..],
            &["verify"],
            &["stats"],
        ] {
            let outcome = setup.run(words);
            assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
        }
    }

    /// What bad days bring: a lie, a yank, and an upstream that is gone.
    pub(crate) fn trouble(&self) {
        let (upstream, orlop) = (&self.upstream, &self.orlop);
        upstream.misbehave(On::Path("serving-bad/1.0.0".to_owned()), Fault::Flip);
        assert_eq!(orlop.download("serving-bad", "1.0.0").status, 502);
        upstream.edit(|registry| registry.yank("serving-one", "1.1.0"));
        assert_eq!(orlop.index("serving-one").status, 200);
        upstream.down();
        assert_eq!(orlop.index("serving-one").status, 200);
        assert_eq!(orlop.index("serving-never").status, 503);
    }
}

/// The series of a scrape, without their values and without those that are made by their status.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.filter_map(|line| line.rsplit_once(' '));
    let series = series.map(|(series, _value)| series.to_owned());
    series
        .filter(|series| !series.starts_with("orlop_http_requests_total{"))
        .collect()
}

#[test]
fn the_series_are_all_there_from_the_start_and_name_nobody() {
    let work = Workload::start();
    let before = series(&work.orlop.get("/metrics").text());
    work.ordinary();
    work.jobs();
    work.trouble();
    let text = work.orlop.get("/metrics").text();
    let after = series(&text);
    let differ: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(differ.is_empty(), "not both before and after: {differ:#?}");
    let upstream = work.upstream.address().to_string();
    for name in ["serving", "127.0.0.1", "localhost", &*upstream, "://"] {
        assert!(!text.contains(name), "{name}");
    }
    let metric = |name: &str, labels: &[&str]| work.orlop.metric(name, labels);
    let yanked = metric("orlop_journal_events_total", &["event=\"yanked\""]);
    assert!((yanked - 1.0).abs() < 0.1, "{yanked}");
    assert!(metric("orlop_upstream_up", &["host=\"index\""]) < 0.5);
    for kind in ["kind=\"index\"", "kind=\"crate\""] {
        let failed = metric("orlop_cache_results_total", &[kind, "result=\"failed\""]);
        assert!((failed - 1.0).abs() < 0.1, "{kind}: {failed}");
    }
    assert!(metric("orlop_index_oldest_stale_seconds", &[]) > 0.0);
    assert!(metric("orlop_index_checked_timestamp_seconds", &[]) > 1e9);
    assert!((metric("orlop_store_releases", &["\"held\""]) - 3.0).abs() < 0.1);
    assert!(metric("orlop_store_releases", &["\"known\""]) > 3.5);
    let stored = ["content=\"index\"", "form=\"stored\""];
    assert!(metric("orlop_store_bytes", &stored) > 0.0);
}

/// The length of a body, to be compared with a metric.
fn length(answer: &Answer) -> f64 {
    f64::from(u32::try_from(answer.body.len()).expect("a small body"))
}

#[test]
fn bytes_are_saved_when_upstream_sends_none() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0").size(40_000)));
    // Without answers in memory, so that each is looked up.
    for cache in ["0", "64MiB"] {
        let orlop = Setup::over(&upstream).config("http.hot_cache", cache);
        let orlop = orlop.start();
        let saved = |kind: &str| orlop.metric("orlop_saved_bytes_total", &[kind]);
        let (index, crates) = ("kind=\"index\"", "kind=\"crate\"");
        let entry = length(&orlop.index("here"));
        let file = length(&orlop.download("here", "1.0.0"));
        assert!(saved(index) + saved(crates) < 0.5, "upstream sent them");
        orlop.index("here");
        until("the entry is saved", || (saved(index) - entry).abs() < 0.5);
        orlop.download("here", "1.0.0");
        until("the file is saved", || (saved(crates) - file).abs() < 0.5);
        orlop.ask(&Ask::head(&download_path("here", "1.0.0")));
        orlop.download("not-here", "1.0.0");
        assert!((saved(crates) - file).abs() < 0.5, "no body was sent");
        let served = orlop.metric("orlop_http_response_bytes_total", &["\"download\""]);
        assert!(served >= 2.0 * file, "{served}");
    }
}

#[test]
fn what_a_client_did_not_wait_for_is_neither_served_nor_saved() {
    const SIZE: usize = 40_000_000;
    let krate = Krate::new("large", "1.0.0").size(SIZE);
    let upstream = Upstream::start(Registry::new().with(&krate));
    let orlop = Setup::over(&upstream).start();
    let file = length(&orlop.download("large", "1.0.0"));
    let saved = || orlop.metric("orlop_saved_bytes_total", &["kind=\"crate\""]);
    let address = orlop.address();
    let path = download_path("large", "1.0.0");
    for _time in 0..2 {
        let mut client = std::net::TcpStream::connect(address).expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        std::io::Write::write_all(&mut client, request.as_bytes()).expect("written");
        let mut start = [0; 100];
        std::io::Read::read_exact(&mut client, &mut start).expect("an answer");
    }
    // Some megabytes lie in the buffers of the system.
    assert!(saved() < file, "{}", saved());
    let before = saved();
    orlop.download("large", "1.0.0");
    until("the file is saved", || saved() - before > file - 0.5);
}

#[test]
fn an_entry_that_upstream_sent_again_as_it_was_is_not_saved() {
    let (upstream, orlop) = setting();
    upstream.manners(|manners| {
        manners.etag = false;
        manners.last_modified = false;
    });
    drop(orlop);
    let orlop = Setup::over(&upstream)
        .config("index.fresh_for", "0s")
        .start();
    for _time in 0..3 {
        assert_eq!(orlop.index("here").status, 200);
    }
    let revalidated = ["kind=\"index\"", "result=\"revalidated\""];
    let told = orlop.metric("orlop_cache_results_total", &revalidated);
    assert!(told > 1.5, "{told}");
    let saved = orlop.metric("orlop_saved_bytes_total", &["kind=\"index\""]);
    assert!(saved < 0.5, "{saved}");
    upstream.manners(|manners| manners.etag = true);
    let entry = length(&orlop.index("here"));
    orlop.index("here");
    let saved = || orlop.metric("orlop_saved_bytes_total", &["kind=\"index\""]);
    until("the entry is saved", || (saved() - entry).abs() < 0.5);
}

#[test]
fn of_a_herd_upstream_sends_to_one_and_the_others_are_saved() {
    const HERD: usize = 8;
    for size in [20_000, 1_500_000] {
        let krate = Krate::new("wanted", "1.0.0").size(size);
        let upstream = Upstream::start(Registry::new().with(&krate));
        let slow = Fault::Drip(size / 10, std::time::Duration::from_millis(50));
        upstream.misbehave(On::Kind(Kind::Crate), slow);
        let orlop = Setup::over(&upstream).start();
        let answers = all_at_once(HERD, |_| orlop.download("wanted", "1.0.0"));
        let file = length(&answers[0]);
        assert!(
            answers
                .iter()
                .all(|answer| answer.body.len() == answers[0].body.len())
        );
        let saved = || orlop.metric("orlop_saved_bytes_total", &["kind=\"crate\""]);
        let others = 7.0 * file;
        until("seven of eight are saved", || {
            (saved() - others).abs() < 0.5
        });
    }
}

#[test]
fn when_jobs_last_ended_is_known_after_a_restart() {
    let work = Workload::start();
    let success = |orlop: &Orlop, kind: &str| {
        let name = "orlop_job_last_success_timestamp_seconds";
        orlop.metric(name, &[&*format!("kind=\"{kind}\"")])
    };
    assert!(success(&work.orlop, "sync") < 0.5);
    work.jobs();
    let before = success(&work.orlop, "sync");
    assert!(before > 1e9, "{before}");
    let blob = work.orlop.blobs().remove(0);
    fs::write(work.orlop.data().join("blobs").join(blob), b"damaged").expect("written");
    work.orlop.setup().run(&["verify"]);
    let damaged = |orlop: &Orlop| {
        let found = orlop.metric("orlop_verify_findings", &["finding=\"damaged\""]);
        (found, orlop.metric("orlop_verify_unrepaired", &[]))
    };
    assert_eq!(damaged(&work.orlop), (1.0, 1.0));
    let verified = success(&work.orlop, "verify");
    let orlop = work.orlop.restart();
    assert!((success(&orlop, "sync") - before).abs() < 0.5);
    assert!((success(&orlop, "verify") - verified).abs() < 0.5);
    assert_eq!(damaged(&orlop), (1.0, 1.0));
}

// --- what is shipped beside the metrics

pub(crate) fn packaged(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&packaged("packaging/grafana/orlop.json")).expect("JSON")
}

/// The panels of the dashboard that show something.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let shown = panels.iter().filter(|panel| panel["type"] != "row");
    shown.collect()
}

/// The queries of a panel.
pub(crate) fn queries(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().expect("targets");
    targets
        .iter()
        .map(|target| target["expr"].as_str().expect("a query"))
        .collect()
}

#[test]
fn the_dashboard_follows_the_conventions_of_grafana() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "orlop-overview");
    // What Grafana 9 imports, and so every later one.
    assert_eq!(dashboard["schemaVersion"], 37);
    assert!(dashboard["id"].is_null());
    let variables = dashboard["templating"]["list"].as_array().expect("a list");
    let named = |name: &str| variables.iter().find(|variable| variable["name"] == name);
    assert_eq!(named("datasource").expect("there")["type"], "datasource");
    let instance = named("instance").expect("there");
    assert_eq!(
        (&instance["multi"], &instance["includeAll"]),
        (&true.into(), &true.into())
    );
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        assert!(
            ids.insert(panel["id"].as_u64()),
            "{title}: its id is another's"
        );
        assert!(titles.insert(title.to_owned()), "{title}: twice");
        let kind = panel["type"].as_str().expect("a type");
        let known = ["timeseries", "stat", "gauge", "bargauge", "table"];
        assert!(known.contains(&kind), "{title}: {kind}");
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(
            description.len() > 20 && description.ends_with('.'),
            "{title}"
        );
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(defaults["unit"].is_string(), "{title}: a unit");
        assert!(
            defaults["noValue"].is_string(),
            "{title}: what stands for nothing"
        );
        assert!(defaults["thresholds"]["steps"].is_array(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().expect("targets") {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        for query in queries(panel) {
            assert!(
                query.contains("instance=~\"$instance\""),
                "{title}: {query}"
            );
            for call in ["rate(", "increase("] {
                let calls = query.matches(call).count();
                let windows = query.matches("[$__rate_interval]").count()
                    + query.matches("[$__range]").count();
                assert!(calls <= windows, "{title}: {query}");
            }
            let fixed = query
                .split('[')
                .skip(1)
                .any(|rest| !rest.starts_with("$__"));
            assert!(!fixed, "{title}: {query}");
        }
    }
    assert!(titles.len() >= 40, "{}", titles.len());
    let text = packaged("packaging/grafana/orlop.json");
    let formatted = serde_json::from_str::<Value>(&text).is_ok() && text.ends_with("}\n");
    assert!(
        formatted && text.starts_with("{\n  \""),
        "two spaces a level"
    );
}

/// The names of series in a query: those of orlop and of its process.
fn names_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|char: char| !(char.is_ascii_alphanumeric() || "_:".contains(char)));
    words
        .filter(|word| word.starts_with("orlop_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_dashboard_and_rules_ask_for_is_exported() {
    let (_upstream, orlop) = setting();
    let text = orlop.get("/metrics").text();
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let dashboard = dashboard();
    let mut asked: BTreeSet<String> = panels(&dashboard)
        .into_iter()
        .flat_map(queries)
        .flat_map(names_in)
        .collect();
    for file in ["rules", "alerts"] {
        let text = packaged(&format!("packaging/prometheus/{file}.yml"));
        let lines = text.lines().filter(|line| !line.contains("record:"));
        let names = lines.filter(|line| !line.contains('`')).flat_map(names_in);
        asked.extend(names);
    }
    assert!(asked.len() > 50, "{asked:?}");
    for name in &asked {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        assert!(exported.contains(family), "{name} is not exported");
    }
    let unseen: Vec<_> = exported
        .iter()
        .filter(|name| name.starts_with("orlop_"))
        .filter(|name| !asked.iter().any(|asked| asked.starts_with(**name)))
        .collect();
    let expected = ["orlop_index_followed_names_total"];
    let missed = unseen.iter().filter(|name| !expected.contains(name));
    assert_eq!(missed.count(), 0, "nobody looks at {unseen:?}");
}

#[test]
fn every_alert_has_a_remedy_a_runbook_and_its_tests() {
    let alerts = packaged("packaging/prometheus/alerts.yml");
    let tests = packaged("tests/prometheus/rules_test.yml");
    let runbook = packaged("packaging/prometheus/README.md");
    let blocks: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(blocks.len() >= 20, "{}", blocks.len());
    for block in blocks {
        let name = block.lines().next().unwrap_or_default();
        for part in [
            "expr: ",
            "for: ",
            "severity: ",
            "summary: ",
            "description: >-",
            "runbook: ",
        ] {
            assert!(block.contains(part), "{name}: {part}");
        }
        let severities = ["critical", "warning", "info"];
        let is_known = |severity: &str| block.contains(&format!("severity: {severity}\n"));
        assert!(
            severities.iter().any(|severity| is_known(severity)),
            "{name}"
        );
        assert!(
            runbook.contains(&format!("### {name}\n")),
            "{name} in the runbook"
        );
        for case in ["fires", "keeps quiet"] {
            assert!(
                tests.contains(&format!("- name: {name} {case}\n")),
                "{name} {case}"
            );
        }
    }
}
