//! Configuration: precedence, origins, and what is refused with a word of help.

use crate::support::{
    crates::{Krate, Registry},
    orlop::{Outcome, Setup, write_file},
    until,
    upstream::Upstream,
};

/// A setup and the path of a configuration file with this text.
fn with_file(text: &str) -> (Setup, String) {
    let setup = Setup::bare();
    let folder = setup.data();
    let file = write_file(&folder, "../orlop.toml", text);
    (setup, file.display().to_string())
}

#[track_caller]
fn check_refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    for (text, suggestion) in [
        ("[upstream]\nstall_timout = \"1s\"\n", "stall_timeout"),
        ("[upstreem]\nurl = \"http://x/\"\n", "upstream"),
        ("mod = \"strict\"\n", "mode"),
        ("[listen]\naddress = [\"127.0.0.1:0\"]\n", "addresses"),
        ("[index]\nfresh = \"1m\"\n", "fresh_for"),
    ] {
        let (setup, file) = with_file(text);
        for words in [
            &["config", "check", "--config", &file][..],
            &["serve", "--config", &file],
        ] {
            let outcome = setup.run(words);
            check_refused(&outcome, &[suggestion, "orlop.toml"]);
        }
    }
}

#[test]
fn an_unknown_variable_is_refused_with_a_suggestion() {
    let setup = Setup::bare().config("upstream.stall_timout", "1s");
    let outcome = setup.run(&["config", "check"]);
    check_refused(
        &outcome,
        &[
            "ORLOP_UPSTREAM_STALL_TIMOUT",
            "ORLOP_UPSTREAM_STALL_TIMEOUT",
        ],
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_key_and_origin() {
    for (text, words) in [
        ("mode = \"sometimes\"\n", ["mode", "strict"]),
        ("[index]\nfresh_for = \"soon\"\n", ["fresh_for", "soon"]),
        ("[index]\nfresh_for = 5\n", ["fresh_for", "orlop.toml"]),
        (
            "[listen]\naddresses = [\"nowhere\"]\n",
            ["addresses", "nowhere"],
        ),
        ("[upstream]\nurl = \"ftp://x/\"\n", ["upstream", "ftp"]),
        ("[upstream]\nattempts = -1\n", ["attempts", "orlop.toml"]),
        (
            "[listen]\ntrusted_proxies = [\"10.0.0.0/99\"]\n",
            ["trusted_proxies", "10.0.0.0/99"],
        ),
        ("[store]\ncache = \"much\"\n", ["cache", "much"]),
        (
            "public_url = \"mirror.lab\"\n",
            ["public_url", "mirror.lab"],
        ),
        ("this is not toml\n", ["orlop.toml", ""]),
    ] {
        let (setup, file) = with_file(text);
        let outcome = setup.run(&["config", "check", "--config", &file]);
        check_refused(&outcome, &words);
    }
    let outcome = Setup::bare()
        .config("upstream.attempts", "many")
        .run(&["config", "check"]);
    check_refused(&outcome, &["ORLOP_UPSTREAM_ATTEMPTS", "many"]);
    let outcome = Setup::bare().run(&["config", "check", "--config", "/no/such/file.toml"]);
    check_refused(&outcome, &["/no/such/file.toml"]);
}

#[test]
fn a_good_file_is_well() {
    let (setup, file) = with_file(
        "mode = \"strict\"\npublic_url = \"https://crates.lab\"\n\n\
         [listen]\naddresses = [\"127.0.0.1:0\", \"[::1]:0\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\n\n\
         [upstream]\nstall_timeout = \"3s\"\nmax_crate = \"2GiB\"\nattempts = 5\nallow_private = true\n\n\
         [index]\nfresh_for = \"90s\"\n\n[store]\ncache = \"64MiB\"\n\n[http]\nhot_cache = \"1MiB\"\n\n\
         [log]\nformat = \"json\"\nfilter = \"orlop=debug\"\n",
    );
    let outcome = setup.run(&["config", "check", "--config", &file]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let shown = setup.run(&["config", "show", "--config", &file]);
    check_shown(&shown, "listen.addresses", &["127.0.0.1:0", "[::1]:0"]);
    check_shown(&shown, "upstream.max_crate", &["2GiB", "orlop.toml"]);
    check_shown(&shown, "log.format", &["json"]);
    let outcome = Setup::bare().run(&["config", "check"]);
    assert_eq!(outcome.code, Some(0), "the defaults are well: {outcome:?}");
}

/// The line of `config show` for a key, and what it must contain.
#[track_caller]
fn check_shown(shown: &Outcome, key: &str, parts: &[&str]) {
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let line = shown
        .stdout
        .lines()
        .find(|line| {
            let start = line.trim_start();
            start.strip_prefix(key).is_some_and(|rest| {
                !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
        .unwrap_or_else(|| panic!("{key} is not shown:\n{}", shown.stdout));
    for part in parts {
        assert!(line.contains(part), "{key}: {part}: {line}");
    }
}

#[test]
fn environment_wins_over_the_file_and_the_file_over_the_default() {
    let (setup, file) =
        with_file("mode = \"strict\"\n\n[index]\nfresh_for = \"90s\"\nnegative_for = \"45s\"\n");
    let setup = setup
        .config("mode", "offline")
        .config("index.negative_for", "10s");
    let shown = setup.run(&["config", "show", "--config", &file]);
    check_shown(&shown, "mode", &["offline", "ORLOP_MODE"]);
    check_shown(&shown, "index.fresh_for", &["orlop.toml"]);
    check_shown(
        &shown,
        "index.negative_for",
        &["10s", "ORLOP_INDEX_NEGATIVE_FOR"],
    );
    check_shown(&shown, "index.patience", &["4s", "default"]);
}

#[test]
fn config_show_speaks_json_with_the_same_facts() {
    let setup = Setup::bare().config("mode", "offline");
    let shown = setup.run(&["config", "show", "--json"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let json: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let text = json.to_string();
    assert!(text.contains("ORLOP_MODE"), "{text}");
    assert!(text.contains("stall_timeout"), "{text}");
}

#[test]
fn secrets_are_not_shown() {
    let setup = Setup::bare().config("upstream.proxy", "http://user:hunter2@127.0.0.1:9/");
    for words in [&["config", "show"][..], &["config", "show", "--json"]] {
        let shown = setup.run(words);
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert!(!shown.stdout.contains("hunter2"), "{}", shown.stdout);
        assert!(!shown.stderr.contains("hunter2"), "{}", shown.stderr);
    }
    let upstream = Upstream::start(Registry::new());
    let orlop = Setup::over(&upstream)
        .config("upstream.proxy", "http://user:hunter2@127.0.0.1:9/")
        .config("log.filter", "trace")
        .start();
    assert_eq!(orlop.index("any-crate").status, 503);
    assert!(!orlop.get("/").text().contains("hunter2"));
    until("the failure is in the log", || {
        orlop.stderr().contains("any-crate")
    });
    assert!(!orlop.stderr().contains("hunter2"));
}

#[test]
fn flags_win_over_everything() {
    let right = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let wrong = Upstream::start(Registry::new());
    let orlop = Setup::over(&wrong)
        .config("mode", "offline")
        .config("listen.addresses", "127.0.0.1:1")
        .config("public_url", "http://wrong.lab")
        .argument("--upstream")
        .argument(&right.url())
        .argument("--mode")
        .argument("fallback")
        .argument("--listen")
        .argument("127.0.0.1:0")
        .argument("--public-url")
        .argument("http://right.lab")
        .start();
    assert_eq!(orlop.index("here").status, 200);
    assert!(
        orlop
            .get("/index/config.json")
            .text()
            .contains("http://right.lab/api")
    );
    assert!(wrong.seen().is_empty());
}

#[test]
fn a_configuration_file_starts_the_daemon() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let (setup, file) = with_file(&format!(
        "[listen]\naddresses = [\"127.0.0.1:0\"]\n\n[upstream]\nurl = \"{}\"\n\n\
         [store]\nreserve = \"1MiB\"\n\n[log]\nformat = \"json\"\n",
        upstream.url()
    ));
    let orlop = setup.argument("--config").argument(&file).start();
    assert_eq!(orlop.index("here").status, 200);
    until("something is logged", || !orlop.stderr().is_empty());
    for line in orlop.stderr().lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "a log line is JSON: {line}");
    }
}

#[test]
fn log_lines_are_for_people_unless_asked_otherwise() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let orlop = Setup::over(&upstream).start();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    until("something is logged", || orlop.stderr().contains("here"));
    let log = orlop.stderr();
    assert!(!log.contains('\u{1b}'), "no colours into a pipe: {log}");
    let orlop = orlop.terminate().config("log.filter", "off").start();
    assert_eq!(orlop.get("/healthz").status, 200);
    assert!(!orlop.stderr().contains("INFO"), "{}", orlop.stderr());
}
