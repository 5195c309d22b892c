//! A new configuration for a running server: taken on or refused as a whole, and told.

use std::{io::Write as _, net::TcpStream, path::PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    crates::{Krate, Registry},
    orlop::{Orlop, Outcome, Setup, write_file},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

/// A server whose settings all come from a file.
struct Place {
    upstream: Upstream,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let registry = Registry::new().with(&Krate::new("demo", "1.0.0"));
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place {
            upstream: Upstream::start(registry),
            file: dir.path().join("orlop.toml"),
            _dir: dir,
        };
        place.write("", "");
        place
    }

    /// Writes the file: the usual settings, `top` before the tables and `tables` behind them.
    fn write(&self, top: &str, tables: &str) {
        let url = self.upstream.url();
        let text = format!(
            "{top}\n[listen]\naddresses = [\"127.0.0.1:0\"]\n[upstream]\nurl = \"{url}\"\n\
             attempts = 1\n{tables}\n"
        );
        let folder = self.file.parent().expect("a folder");
        write_file(folder, "orlop.toml", &text);
    }

    fn start(&self) -> Orlop {
        let file = self.file.display().to_string();
        let setup = Setup::bare().config("listen.workers", "2");
        setup.argument("--config").argument(&file).start()
    }
}

fn reload(orlop: &Orlop) -> Outcome {
    orlop.setup().run(&["reload", "--json"])
}

#[track_caller]
fn json_of(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

fn keys(changed: &Value) -> Vec<&str> {
    let changed = changed.as_array().into_iter().flatten();
    changed.filter_map(|one| one["key"].as_str()).collect()
}

#[test]
fn a_reload_takes_on_what_can_change_and_names_what_needs_a_restart() {
    let place = Place::new();
    let orlop = place.start();
    place.write(
        "public_url = \"http://mirror.lab/sub\"\nmode = \"strict\"",
        "[http]\nhot_cache = \"1MiB\"\n[log]\nfilter = \"warn\"",
    );
    let outcome = reload(&orlop);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report = json_of(&outcome);
    assert_eq!(
        keys(&report["applied"]),
        ["mode", "public_url", "log.filter"]
    );
    assert_eq!(report["applied"][0]["from"], json!("fallback"));
    assert_eq!(report["applied"][0]["to"], json!("strict"));
    assert_eq!(keys(&report["needs_restart"]), ["http.hot_cache"]);
    let config = orlop.get("/sub/index/config.json").text();
    assert!(
        config.contains("http://mirror.lab/sub/api/v1/crates"),
        "{config}"
    );
    assert!(orlop.setup().run(&["stats"]).stdout.contains("mode strict"));
    assert!(
        !orlop.stderr().contains("begins `stats`"),
        "the filter of the log is another"
    );

    // What needs a restart is named until there is one; what was applied is not news again.
    let report = json_of(&reload(&orlop));
    assert_eq!(keys(&report["applied"]), [""; 0]);
    assert_eq!(keys(&report["needs_restart"]), ["http.hot_cache"]);
    let text = orlop.setup().run(&["reload"]).stdout;
    assert!(
        text.contains("http.hot_cache is now \"1MiB\"") || text.contains("after a restart"),
        "{text}"
    );
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing_and_every_mistake_is_named() {
    let place = Place::new();
    let orlop = place.start();
    place.write(
        "public_url = \"http://mirror.lab\"\nmode = \"strikt\"",
        "[index]\nfresh_for = \"soon\"",
    );
    let outcome = reload(&orlop);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    let error = json_of(&outcome);
    let causes = error["error"]["causes"].to_string();
    assert!(
        causes.contains("strikt") && causes.contains("index.fresh_for"),
        "{causes}"
    );
    let config = orlop.get("/index/config.json").text();
    assert!(!config.contains("mirror.lab"), "{config}");
    assert!(orlop.stderr().contains("refused"));

    // What could not be used at a start is refused, too.
    place.write("mode = \"strict\"", "ca_file = \"/nobody/is/here.pem\"");
    assert_eq!(reload(&orlop).code, Some(2));
    assert!(
        orlop
            .setup()
            .run(&["stats"])
            .stdout
            .contains("mode fallback")
    );

    place.write("mode = \"strict\"", "");
    assert_eq!(reload(&orlop).code, Some(0));
    assert!(orlop.setup().run(&["stats"]).stdout.contains("mode strict"));
}

#[test]
fn sighup_reloads_and_does_not_end_the_server() {
    let place = Place::new();
    let orlop = place.start();
    place.write("public_url = \"http://mirror.lab\"", "");
    orlop.signal(Signal::HUP);
    until("the file was read again", || {
        let config = orlop.get("/index/config.json").text();
        config.contains("http://mirror.lab/api")
    });
    until("the log says so", || {
        orlop
            .stderr()
            .contains("read the configuration again for SIGHUP")
    });
    orlop.terminate();
}

#[test]
fn a_ready_answer_does_not_outlive_the_time_that_it_was_made_for() {
    let place = Place::new();
    place.write("", "[index]\nfresh_for = \"1h\"");
    let orlop = place.start();
    assert_eq!(orlop.index("demo").status, 200);
    assert_eq!(orlop.index("demo").status, 200);
    let asked = || place.upstream.seen().len();
    let before = asked();
    assert_eq!(orlop.index("demo").status, 200);
    assert_eq!(asked(), before, "it was ready");

    place.write("", "[index]\nfresh_for = \"0s\"");
    assert_eq!(reload(&orlop).code, Some(0));
    assert_eq!(orlop.index("demo").status, 200);
    assert!(asked() > before, "upstream is asked every time now");
}

#[test]
fn a_mirror_that_is_set_offline_asks_nobody_from_then_on() {
    let place = Place::new();
    let orlop = place.start();
    place.write("mode = \"offline\"", "");
    assert_eq!(reload(&orlop).code, Some(0));
    let before = place.upstream.seen().len();
    assert_eq!(orlop.index("demo").status, 404);
    assert_eq!(place.upstream.seen().len(), before);
    place.write("mode = \"fallback\"", "");
    assert_eq!(reload(&orlop).code, Some(0));
    assert_eq!(orlop.index("demo").status, 200);
}

#[test]
fn without_a_server_there_is_nothing_to_reload() {
    let outcome = Setup::bare().run(&["reload"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("no server answers at"),
        "{outcome:?}"
    );
}

#[test]
fn a_file_that_nobody_understands_is_reported_and_no_other_server_is_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    write_file(dir.path(), "broken.toml", "data = \"/srv/orlop\"\n[");
    let file = dir.path().join("broken.toml").display().to_string();
    let outcome = Setup::bare().run(&["reload", "--config", &file]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("broken.toml"), "{outcome:?}");
}

#[test]
fn a_server_that_ends_takes_nothing_on() {
    let place = Place::new();
    place.write("", "");
    let orlop = place.start();
    // An answer under way holds the end up.
    place.upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
    let mut under_way = TcpStream::connect(orlop.address()).expect("it listens");
    under_way
        .write_all(b"GET /api/v1/crates/demo/1.0.0/download HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("it is taken");
    until("upstream is asked for it", || {
        place.upstream.count(Kind::Crate) == 1
    });
    orlop.signal(Signal::TERM);
    until("the end begins", || {
        orlop.stderr().contains("takes no more connections")
    });
    let outcome = orlop.setup().run(&["reload"]);
    place.upstream.open_gate();
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("the server is stopping"),
        "{outcome:?}"
    );
}
