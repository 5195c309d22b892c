//! A real Prometheus at the real program: every query of the dashboard and every rule finds something.
//!
//! Needs `prometheus` and `promtool` of Debian: `cargo test --test it prometheus:: -- --ignored`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    metrics::{Workload, dashboard, packaged, panels, queries},
    support::{PATIENCE, http::Ask, peer_may_be_gone, until},
};

/// A Prometheus with a configuration and a folder of its own, ended when it is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        peer_may_be_gone(self.child.kill());
        peer_may_be_gone(self.child.wait());
    }
}

fn packaging(file: &str) -> PathBuf {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus");
    packaging.join(file)
}

impl Prometheus {
    /// Scrapes `target` each second, and evaluates the packaged rules as often.
    fn over(target: SocketAddr) -> Prometheus {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n\
             rule_files:\n  - {}\n  - {}\n\
             scrape_configs:\n  - job_name: orlop\n    static_configs:\n      - targets: ['{target}']\n",
            packaging("rules.yml").display(),
            packaging("alerts.yml").display(),
        );
        fs::write(&config, text).expect("a temporary folder takes files");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus can be started");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let listening = line.contains("msg=\"Listening on\"");
                if let (true, Some((_, at))) = (listening, line.split_once("address=")) {
                    peer_may_be_gone(sender.send(at.trim().to_owned()));
                }
            }
        });
        let address = receiver.recv_timeout(PATIENCE).expect("it listens in time");
        let prometheus = Prometheus {
            child,
            address: address.parse().expect("an address"),
            _folder: folder,
        };
        until("Prometheus is ready", || {
            let ready = Ask::get("/-/ready").send(prometheus.address);
            ready.is_ok_and(|answer| answer.status == 200)
        });
        prometheus
    }

    fn get(&self, target: &str) -> Value {
        let answer = Ask::get(target).send(self.address).expect("it answers");
        let value: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(value["status"], "success", "{target}: {value}");
        value["data"].clone()
    }

    /// What a query finds now.
    fn query(&self, query: &str) -> Vec<Value> {
        let mut target = url::form_urlencoded::Serializer::new(String::new());
        target.append_pair("query", query);
        let found = self.get(&format!("/api/v1/query?{}", target.finish()));
        match found["resultType"].as_str() {
            Some("vector") => found["result"].as_array().expect("a list").clone(),
            _ => vec![found],
        }
    }

    #[track_caller]
    fn finds(&self, what: &str, query: &str) {
        let mut found = Vec::new();
        let is_number = |sample: &Value| sample["value"][1] != "NaN";
        until(&format!("{what} finds something: {query}"), || {
            found = self.query(query);
            found.iter().any(is_number)
        });
    }

    /// The rules as Prometheus has loaded them.
    fn rules(&self) -> Vec<Value> {
        let data = self.get("/api/v1/rules");
        let groups = data["groups"].as_array().expect("groups");
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().expect("rules").clone())
            .collect()
    }

    fn firing(&self, alert: &str) -> bool {
        let found = self.query(&format!("ALERTS{{alertname=\"{alert}\"}}"));
        !found.is_empty()
    }
}

/// Puts in what Grafana would put in.
fn substituted(query: &str, instance: SocketAddr) -> String {
    query
        .replace("$instance", &instance.to_string())
        .replace("$__rate_interval", "60s")
        .replace("$__range", "120s")
}

/// The selectors of an expression: names with their labels.
fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expression;
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    while let Some(start) = rest.find(is_name) {
        let tail = &rest[start..];
        let end = tail.find(|char| !is_name(char)).unwrap_or(tail.len());
        let (name, after) = tail.split_at(end);
        let is_series = ["orlop_", "process_", "instance"]
            .iter()
            .any(|begin| name.starts_with(begin) && name.contains(['_', ':']))
            || name == "up";
        rest = after;
        if !is_series {
            continue;
        }
        let labels = after
            .strip_prefix('{')
            .and_then(|labels| labels.split_once('}'));
        match labels {
            Some((labels, more)) => {
                found.push(format!("{name}{{{labels}}}"));
                rest = more;
            }
            None => found.push(name.to_owned()),
        }
    }
    found
}

#[test]
fn selectors_are_found_in_expressions() {
    let expression =
        "sum by (instance) (rate(orlop_a_total{b=~\"5..\"}[5m])) / instance:c:rate5m > up";
    let expected = ["orlop_a_total{b=~\"5..\"}", "instance:c:rate5m", "up"];
    assert_eq!(selectors(expression), expected);
}

#[test]
#[ignore = "needs prometheus"]
fn every_query_of_the_dashboard_and_every_rule_finds_something() {
    let work = Workload::start();
    let instance = work.orlop.address();
    let prometheus = Prometheus::over(instance);
    until("the first scrape", || {
        !prometheus.query("up == 1").is_empty()
    });
    work.ordinary();
    work.jobs();
    // Rates need what happens between two scrapes.
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        for query in queries(panel) {
            prometheus.finds(title, &substituted(query, instance));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("a list") {
        if let Some(query) = annotation["expr"].as_str() {
            prometheus.query(&substituted(query, instance));
        }
    }
    let label = prometheus.get("/api/v1/label/instance/values?match[]=orlop_build_info");
    assert_eq!(label[0], instance.to_string(), "the variable");

    let rules = prometheus.rules();
    let alerts = rules.iter().filter(|rule| rule["type"] == "alerting");
    assert!(alerts.count() >= 20 && rules.len() >= 27, "{}", rules.len());
    work.trouble();
    for rule in &rules {
        let (name, query) = (&rule["name"], rule["query"].as_str().expect("a query"));
        if rule["type"] == "recording" {
            prometheus.finds(&name.to_string(), query);
        }
        prometheus.query(query);
        for selector in selectors(query) {
            prometheus.finds(&name.to_string(), &selector);
        }
    }
    for alert in ["OrlopUpstreamDown", "OrlopChecksumMismatch"] {
        until(&format!("{alert} is seen"), || prometheus.firing(alert));
    }
    for rule in prometheus.rules() {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert!(
            rule["lastError"].as_str().unwrap_or_default().is_empty(),
            "{rule}"
        );
    }
    let warnings = prometheus.get("/api/v1/targets");
    assert_eq!(warnings["activeTargets"][0]["health"], "up", "{warnings}");
}

#[track_caller]
fn promtool(words: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let (told, said) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    assert!(output.status.success(), "{words:?}: {told}{said}");
    assert!(words[0] != "check" || !told.contains("error"), "{told}");
    if words == ["check", "metrics"] {
        assert!(told.trim().is_empty(), "{told}");
    }
}

#[test]
#[ignore = "needs prometheus"]
fn promtool_finds_nothing_to_say_about_metrics_and_rules() {
    let work = Workload::start();
    work.ordinary();
    work.trouble();
    promtool(&["check", "metrics"], &work.orlop.get("/metrics").text());
    for file in ["rules", "alerts"] {
        promtool(
            &[
                "check",
                "rules",
                &format!("packaging/prometheus/{file}.yml"),
            ],
            "",
        );
    }
    promtool(&["test", "rules", "tests/prometheus/rules_test.yml"], "");
    let example = packaged("packaging/prometheus/scrape.yml");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("prometheus.yml");
    let rules = packaging("").display().to_string();
    let example = example.replace("/etc/prometheus/orlop/", &rules);
    fs::write(&path, example).expect("a temporary folder takes files");
    promtool(&["check", "config", path.to_str().expect("text")], "");
}
