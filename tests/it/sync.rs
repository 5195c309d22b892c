//! Fetching ahead: lockfiles, closures, saved sets, and what happens when something breaks.

use std::{
    fmt::Write as _,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry, knots},
    files_below,
    orlop::{Outcome, Setup, wait, write_file},
    peer_may_be_gone,
    tls::Tls,
    until,
    upstream::{Dl, Fault, Kind, On, Upstream},
};

/// As cargo writes a package of crates.io into a lockfile.
fn locked(name: &str, version: &str, checksum: &str) -> String {
    let source = tame_index::CRATES_IO_INDEX;
    format!(
        "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\
         source = \"registry+{source}\"\nchecksum = \"{checksum}\"\n\n"
    )
}

/// Runs `orlop sync … --json` and returns how it ended and its report.
#[track_caller]
fn sync(setup: &Setup, words: &[&str]) -> (Outcome, Value) {
    let words: Vec<&str> = ["sync", "--json"].iter().chain(words).copied().collect();
    let outcome = setup.run(&words);
    let report = report_of(&outcome);
    (outcome, report)
}

fn report_of(outcome: &Outcome) -> Value {
    let last = outcome.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or(Value::Null)
}

#[track_caller]
fn well(setup: &Setup, words: &[&str]) -> Value {
    let (outcome, report) = sync(setup, words);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    report
}

fn blobs(setup: &Setup) -> Vec<String> {
    files_below(&setup.data().join("blobs"))
}

#[track_caller]
fn held(setup: &Setup, registry: &Registry, releases: &[(&str, &str)]) {
    let mut expected: Vec<String> = releases
        .iter()
        .map(|(name, version)| registry.release(name, version).sha256)
        .map(|sum| format!("{}/{sum}.raw", &sum[..2]))
        .collect();
    expected.sort();
    assert_eq!(blobs(setup), expected, "{releases:?}");
}

#[test]
fn a_lockfile_of_any_format_is_fetched_as_it_is() {
    let registry = Registry::new()
        .with(&Krate::new("a", "1.0.0").dep("b", "^1"))
        .with(&Krate::new("a", "1.1.0"))
        .with(&Krate::new("b", "1.0.0").yanked())
        .with(&Krate::new("b", "1.2.0"));
    let upstream = Upstream::start(registry.clone());
    let sum = |name, version| registry.release(name, version).sha256;
    let (a, b) = (sum("a", "1.0.0"), sum("b", "1.0.0"));
    let packages = format!("{}{}", locked("a", "1.0.0", &a), locked("b", "1.0.0", &b));
    let source = tame_index::CRATES_IO_INDEX;
    let mut first: String = packages
        .lines()
        .filter(|line| !line.starts_with("checksum"))
        .fold(String::new(), |text, line| text + line + "\n");
    write!(
        first,
        "[metadata]\n\"checksum a 1.0.0 (registry+{source})\" = \"{a}\"\n\
         \"checksum b 1.0.0 (registry+{source})\" = \"{b}\"\n"
    )
    .expect("a string takes every write");
    let texts = [
        first,
        packages.clone(),
        format!("version = 3\n\n{packages}"),
        format!("version = 4\n\n{packages}"),
    ];
    for text in texts {
        let setup = Setup::over(&upstream);
        let file = write_file(
            setup.data().parent().expect("a folder"),
            "Cargo.lock",
            &text,
        );
        let report = well(&setup, &["--lockfile", file.to_str().expect("text")]);
        assert_eq!(report["fetched"], 2, "{report}");
        held(&setup, &registry, &[("a", "1.0.0"), ("b", "1.0.0")]);
        upstream.forget_seen();
        let again = well(&setup, &["--lockfile", file.to_str().expect("text")]);
        assert_eq!((&again["held"], &again["fetched"]), (&2.into(), &0.into()));
        assert_eq!(upstream.seen().len(), 0, "what is held costs no request");
    }
}

#[test]
fn what_a_lockfile_has_from_elsewhere_is_passed_over_and_said() {
    let registry = Registry::new().with(&Krate::new("a", "1.0.0"));
    let upstream = Upstream::start(registry.clone());
    let setup = Setup::over(&upstream);
    let ours = upstream.url();
    let text = format!(
        "version = 4\n\n[[package]]\nname = \"here\"\nversion = \"0.1.0\"\n\n\
         [[package]]\nname = \"g\"\nversion = \"1.0.0\"\nsource = \"git+https://example.com/g#01\"\n\n\
         [[package]]\nname = \"o\"\nversion = \"1.0.0\"\nsource = \"registry+https://example.com/o\"\n\n\
         [[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"sparse+{ours}\"\n"
    );
    let file = write_file(
        setup.data().parent().expect("a folder"),
        "Cargo.lock",
        &text,
    );
    let report = well(&setup, &["--lockfile", file.to_str().expect("text")]);
    held(&setup, &registry, &[("a", "1.0.0")]);
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("`g 1.0.0` from https://example.com/g"),
        "{notes}"
    );
    assert!(
        notes.contains("`o 1.0.0` from https://example.com/o"),
        "{notes}"
    );
}

#[test]
fn a_wrong_checksum_and_an_unknown_version_are_failures_that_name_both_sides() {
    let registry = Registry::new().with(&Krate::new("a", "1.0.0"));
    let upstream = Upstream::start(registry.clone());
    let setup = Setup::over(&upstream);
    let (wrong, right) = ("12".repeat(32), registry.release("a", "1.0.0").sha256);
    let text = format!(
        "version = 4\n\n{}{}{}",
        locked("a", "1.0.0", &wrong),
        locked("a", "9.0.0", &wrong),
        locked("ghost", "1.0.0", &wrong)
    );
    let file = write_file(
        setup.data().parent().expect("a folder"),
        "Cargo.lock",
        &text,
    );
    let (outcome, report) = sync(&setup, &["--lockfile", file.to_str().expect("text")]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let failed = report["failed"].as_array().expect("a list");
    let causes: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert_eq!(causes.len(), 3, "{causes:?}");
    assert!(
        causes[0].contains(&wrong) && causes[0].contains(&right),
        "{causes:?}"
    );
    assert!(causes[1].contains("a@9.0.0") && causes[1].contains("no such version"));
    assert!(causes[2].contains("ghost@1.0.0") && causes[2].contains("no such crate"));
    assert_eq!(blobs(&setup), Vec::<String>::new());
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_asked_for() {
    let upstream = Upstream::start(Registry::new());
    let setup = Setup::over(&upstream);
    let folder = setup.data().parent().expect("a folder").to_owned();
    let conflict = write_file(&folder, "conflict.lock", "<<<<<<< HEAD\n");
    let future = write_file(&folder, "future.lock", "version = 5\n");
    let check = |words: &[&str], said: &str| {
        let (outcome, _) = sync(&setup, words);
        assert_eq!(outcome.code, Some(2), "{words:?}: {outcome:?}");
        // In the line of JSON, and there alone.
        assert!(outcome.stdout.contains(said), "{words:?}: {outcome:?}");
    };
    check(
        &["--lockfile", conflict.to_str().expect("text")],
        "merge conflict",
    );
    check(
        &["--lockfile", future.to_str().expect("text")],
        "has format 5",
    );
    check(
        &["--lockfile", "no-such-file"],
        "could not read `no-such-file`",
    );
    check(&["--crate", "a@b"], "could not use `a@b`");
    check(&["--crate", "a", "--save", "no/slash"], "cannot be that");
    check(&["--set", "none"], "no saved set `none`");
    check(&["--lockfile", "-", "--list", "-"], "once only");
    check(&[], "no saved set");
    assert_eq!(upstream.seen().len(), 0);
}

/// A registry of crates that need one another in ways that only a resolver sorts out.
fn tangled(random: &mut fastrand::Rng) -> Registry {
    let mut registry = Registry::new();
    for number in 0..12 {
        for version in ["0.1.0", "0.1.4", "0.2.0", "1.0.0", "1.3.0", "2.0.0-rc.1"] {
            // So that every requirement is met by something.
            let is_sure = ["0.1.4", "1.0.0"].contains(&version);
            if !is_sure && random.u8(0..4) == 0 {
                continue;
            }
            let mut krate = Krate::new(&format!("t{number:02}"), version)
                .code(&format!("pub fn number() -> usize {{\n    {number}\n}}\n"));
            let mut enabled = Vec::new();
            for next in number + 1..12 {
                let req = ["^0.1", "^1", "*", ">=0.1.2, <1.2", "1.0.0"][random.usize(0..5)];
                match random.u8(0..8) {
                    0 => krate = krate.dep(&format!("t{next:02}"), req),
                    1 => {
                        krate = krate.optional_dep(&format!("t{next:02}"), req);
                        enabled.push(format!("t{next:02}"));
                    }
                    _ => {}
                }
            }
            let enabled: Vec<&str> = enabled.iter().map(String::as_str).collect();
            krate = krate.feature("default", &enabled);
            if !is_sure && random.u8(0..6) == 0 {
                krate = krate.yanked();
            }
            registry.put(&krate);
        }
    }
    registry
}

#[test]
fn whatever_cargo_chooses_behind_a_synced_closure_is_there() {
    let mut random = fastrand::Rng::with_seed(20_151_122);
    for round in 0..4 {
        let registry = tangled(&mut random);
        let upstream = Upstream::start(registry.clone());
        let direct = format!(
            "[source.crates-io]\nreplace-with = \"fake\"\n\n[source.fake]\nregistry = \"sparse+{}\"\n",
            upstream.url()
        );
        let roots = [format!("t{:02}", round % 3), format!("t{:02}", 3 + round)];
        let dependencies: String = roots.iter().fold(String::new(), |text, root| {
            text + &format!("{root} = \"1.0.0\"\n")
        });
        let project = Project::new(&dependencies).configured(&direct);
        project.cargo(&["generate-lockfile"]).well();
        let resolved = project.read("Cargo.lock");
        let setup = Setup::over(&upstream);
        let specs: Vec<String> = roots.iter().map(|root| format!("{root}@1.0.0")).collect();
        well(&setup, &["--crate", &specs[0], "--crate", &specs[1]]);
        upstream.down();
        let orlop = setup.config("index.fresh_for", "1s").start();
        let project = Project::new(&dependencies).through(&orlop.url());
        project.cargo(&["generate-lockfile"]).well();
        assert_eq!(project.read("Cargo.lock"), resolved, "round {round}");
        project.cargo(&["check"]).well();
    }
}

#[test]
fn a_closure_builds_with_upstream_gone() {
    let upstream = Upstream::start(knots(40));
    let setup = Setup::over(&upstream);
    let report = well(&setup, &["--crate", "knot-000@1"]);
    assert_eq!(report["fetched"], 40, "{report}");
    assert_eq!(upstream.count(Kind::Crate), 40);
    upstream.down();
    let orlop = setup.start();
    let project = Project::new("knot-000 = \"1\"").through(&orlop.url());
    project.cargo(&["build"]).well();
}

#[test]
fn the_newest_alone_is_taken_when_that_is_asked_for() {
    let registry = Registry::new()
        .with(&Krate::new("a", "1.0.0").dep("b", "^1"))
        .with(&Krate::new("a", "1.5.0").dep("b", "^1"))
        .with(&Krate::new("b", "1.0.0"))
        .with(&Krate::new("b", "1.1.0"))
        .with(&Krate::new("b", "1.2.0").yanked())
        .with(&Krate::new("b", "2.0.0"));
    let upstream = Upstream::start(registry.clone());
    let setup = Setup::over(&upstream);
    let report = well(&setup, &["--crate", "a", "--latest", "--dry-run"]);
    assert_eq!(report["would_fetch"], 2, "{report}");
    assert_eq!(report["would_fetch_names"][0], "a@1.5.0", "{report}");
    assert_eq!(blobs(&setup), Vec::<String>::new());
    well(&setup, &["--crate", "a", "--latest"]);
    held(&setup, &registry, &[("a", "1.5.0"), ("b", "1.1.0")]);
    well(&setup, &["--crate", "a"]);
    let all = [
        ("a", "1.0.0"),
        ("a", "1.5.0"),
        ("b", "1.0.0"),
        ("b", "1.1.0"),
    ];
    held(&setup, &registry, &all);
    let report = well(&setup, &["--all"]);
    assert_eq!(report["releases"], 6, "{report}");
    assert_eq!(blobs(&setup).len(), 6);
}

#[test]
fn a_failure_is_kept_told_and_tried_again_by_the_next_sync_of_anything() {
    let registry = Registry::new()
        .with(&Krate::new("bad", "1.0.0"))
        .with(&Krate::new("good", "1.0.0"))
        .with(&Krate::new("other", "1.0.0"));
    let upstream = Upstream::start(registry.clone());
    let setup = Setup::over(&upstream);
    upstream.misbehave(On::Path("bad/1.0.0".to_owned()), Fault::Flip);
    let (outcome, report) = sync(&setup, &["--crate", "bad", "--crate", "good"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(report["failed"][0]["what"], "bad@1.0.0", "{report}");
    let cause = report["failed"][0]["cause"].as_str().expect("text");
    assert!(cause.contains("upstream sent something else"), "{cause}");
    held(&setup, &registry, &[("good", "1.0.0")]);
    let report = well(&setup, &["--crate", "other"]);
    assert_eq!(report["retried"], 1, "{report}");
    assert_eq!(
        report["retried_failed"][0]["what"], "bad@1.0.0",
        "it still fails: {report}"
    );
    assert_eq!(report["failed"], Value::Array(Vec::new()), "{report}");
    upstream.behave();
    let report = well(&setup, &["--crate", "other"]);
    assert_eq!(
        (&report["retried"], &report["fetched"]),
        (&1.into(), &1.into())
    );
    let report = well(&setup, &["--crate", "other"]);
    assert_eq!(report["retried"], 0, "it is forgotten: {report}");
}

/// How many failures the mirror has on record.
fn recorded(setup: &Setup) -> u64 {
    let stats = report_of(&setup.run(&["stats", "--json"]));
    stats["failures"].as_u64().expect("a number")
}

/// Once a slip of the pen made every later sync of anything end with code 1.
#[test]
fn what_is_not_there_is_forgotten_once_nobody_wants_it() {
    let registry = Registry::new()
        .with(&Krate::new("good", "1.0.0"))
        .with(&Krate::new("bad", "1.0.0"));
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream);
    let fails = |words: &[&str]| {
        let (outcome, report) = sync(&setup, words);
        assert_eq!(outcome.code, Some(1), "{words:?}: {outcome:?}");
        report
    };
    fails(&["--crate", "godo", "--crate", "good@7"]);
    assert_eq!(recorded(&setup), 2);
    upstream.forget_seen();
    let report = well(&setup, &["--crate", "good"]);
    assert_eq!(report["retried"], 0, "{report}");
    assert_eq!(recorded(&setup), 0);
    assert_eq!(upstream.count_path("godo"), 0, "nobody wants it");
    // What a saved set wants stays on record, and is the business of that set.
    fails(&["--crate", "godo", "--crate", "bad", "--save", "mine"]);
    fails(&["--crate", "ghost"]);
    assert_eq!(recorded(&setup), 2);
    well(&setup, &["--crate", "good"]);
    assert_eq!(recorded(&setup), 1);
    fails(&["--set", "mine"]);
    // A set that is forgotten takes its failures with it.
    upstream.edit(|registry| registry.put(&Krate::new("bad", "1.1.0")));
    upstream.misbehave(On::Path("bad/1.1.0".to_owned()), Fault::Flip);
    let report = fails(&[]);
    assert_eq!(report["failed"].as_array().map(Vec::len), Some(2));
    assert_eq!(recorded(&setup), 2);
    let forgotten = setup.run(&["sync", "--forget", "mine"]);
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert_eq!(recorded(&setup), 0);
}

#[test]
fn an_upstream_that_wants_a_rest_or_goes_away_is_waited_for() {
    let upstream = Upstream::start(knots(60));
    let setup = Setup::over(&upstream);
    upstream.misbehave_times(5, On::Kind(Kind::Index), Fault::RetryAfter(429, 1));
    upstream.misbehave_times(12, On::Kind(Kind::Crate), Fault::RetryAfter(429, 1));
    let report = well(&setup, &["--crate", "knot-000"]);
    assert_eq!(report["fetched"], 60, "{report}");
    let setup = Setup::over(&upstream);
    upstream.misbehave(
        On::Kind(Kind::Crate),
        Fault::Slow(Duration::from_millis(100)),
    );
    let report = std::thread::scope(|scope| {
        let sync = scope.spawn(|| well(&setup, &["--crate", "knot-000"]));
        until("some are there", || blobs(&setup).len() > 5);
        upstream.down();
        std::thread::sleep(Duration::from_secs(2));
        upstream.up();
        sync.join().expect("the sync does not panic")
    });
    assert_eq!(report["failed"], Value::Array(Vec::new()), "{report}");
    assert_eq!(blobs(&setup).len(), 60);
}

/// Starts a sync of the knots that takes its time, and waits until some crates are there.
fn under_way(setup: &Setup, upstream: &Upstream) -> Child {
    upstream.misbehave(
        On::Kind(Kind::Crate),
        Fault::Slow(Duration::from_millis(300)),
    );
    let words = ["sync", "--json", "--crate", "knot-000"];
    let child = setup.command(&words).spawn().expect("orlop can be started");
    until("some are there", || blobs(setup).len() > 5);
    child
}

#[test]
fn a_sync_that_is_cancelled_or_killed_is_gone_on_with() {
    for signal in [Signal::INT, Signal::KILL] {
        let upstream = Upstream::start(knots(200));
        let setup = Setup::over(&upstream).config("sync.concurrency", "8");
        let mut child = under_way(&setup, &upstream);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not zero");
        peer_may_be_gone(kill_process(pid, signal));
        let began = Instant::now();
        let status = wait(&mut child, Duration::from_secs(60));
        if signal == Signal::INT {
            assert_eq!(status.code(), Some(130), "cancelled");
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        let had = blobs(&setup).len();
        assert!((6..200).contains(&had), "{had}");
        upstream.behave();
        upstream.forget_seen();
        let report = well(&setup, &["--crate", "knot-000"]);
        assert_eq!(blobs(&setup).len(), 200, "{report}");
        let asked = upstream.count(Kind::Crate);
        assert!(
            asked <= 200 - had,
            "{asked} were asked for, and {had} were held"
        );
    }
}

#[test]
fn a_saved_set_picks_up_what_is_new() {
    let registry = Registry::new().with(&Krate::new("a", "1.0.0"));
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream);
    let report = well(&setup, &["--crate", "a@1", "--save", "mine"]);
    assert_eq!(report["saved"], "mine", "{report}");
    assert_eq!(report["replaced"], false, "{report}");
    let report = well(&setup, &["--crate", "a@1", "--save", "mine"]);
    assert_eq!(report["replaced"], true, "{report}");
    upstream.edit(|registry| {
        registry.put(&Krate::new("a", "1.1.0").dep("b", "1"));
        registry.put(&Krate::new("a", "2.0.0"));
        registry.put(&Krate::new("b", "1.0.0"));
    });
    well(&setup, &[]);
    let all = [("a", "1.0.0"), ("a", "1.1.0"), ("b", "1.0.0")];
    held(&setup, &upstream.registry(), &all);
    let sets = setup.run(&["sync", "--sets"]);
    assert!(
        sets.stdout.contains("mine") && sets.stdout.contains("--crate a@1"),
        "{sets:?}"
    );
    let forgotten = setup.run(&["sync", "--forget", "mine"]);
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert_eq!(
        setup.run(&["sync"]).code,
        Some(2),
        "nothing is left to sync"
    );
}

#[test]
fn the_daemon_keeps_saved_sets_current_by_itself() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("a", "1.0.0")));
    let setup = Setup::over(&upstream);
    well(&setup, &["--crate", "a", "--save", "mine"]);
    let orlop = setup.config("sync.every", "2s").start();
    upstream.edit(|registry| registry.put(&Krate::new("a", "1.1.0")));
    until("the new version is held", || orlop.blobs().len() == 2);
    until("it is counted", || {
        orlop.metric("orlop_sync_releases_total", &["result=\"fetched\""]) >= 1.0
    });
}

#[test]
fn a_running_daemon_does_it_and_clients_and_the_sync_fetch_nothing_twice() {
    let upstream = Upstream::start(knots(40));
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave(
        On::Kind(Kind::Crate),
        Fault::Slow(Duration::from_millis(50)),
    );
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| well(orlop.setup(), &["--crate", "knot-000", "--save", "knots"]));
        for number in (0..40).rev() {
            let answer = orlop.download(&format!("knot-{number:03}"), "1.0.0");
            assert!(answer.is_complete_file(), "{}", answer.text());
        }
        let report = sync.join().expect("the sync does not panic");
        assert_eq!(report["releases"], 40, "{report}");
    });
    assert_eq!(orlop.blobs().len(), 40);
    assert_eq!(upstream.count(Kind::Crate), 40);
    let sets = orlop.setup().run(&["sync", "--sets"]);
    assert!(sets.stdout.contains("knots"), "{sets:?}");
}

#[test]
fn a_rate_that_is_set_is_kept() {
    let mut registry = Registry::new();
    for number in 0..8 {
        registry.put(&Krate::new(&format!("k{number}"), "1.0.0").size(250_000));
    }
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream).config("sync.max_rate", "1MiB");
    let list: String = (0..8).fold(String::new(), |text, number| text + &format!("k{number}\n"));
    let file = write_file(setup.data().parent().expect("a folder"), "list", &list);
    let began = Instant::now();
    let report = well(&setup, &["--list", file.to_str().expect("text")]);
    assert_eq!(report["fetched"], 8, "{report}");
    // Two MB at one MiB a second, less the burst; a busy machine only makes it longer.
    assert!(
        began.elapsed() > Duration::from_millis(1400),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_client_is_answered_while_upstream_is_silent_to_all_that_a_sync_may_ask() {
    let mut registry = knots(40);
    registry.put(&Krate::new("wanted", "1.0.0"));
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream)
        .config("upstream.concurrency", "8")
        .config("sync.concurrency", "1024");
    let orlop = setup.start();
    upstream.misbehave(On::Path("crates/knot-".to_owned()), Fault::StallBeforeHead);
    let list = (0..40).fold(String::new(), |text, number| {
        text + &format!("knot-{number:03}\n")
    });
    let folder = orlop.setup().data().parent().expect("a folder").to_owned();
    let file = write_file(&folder, "list", &list);
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| well(orlop.setup(), &["--list", file.to_str().expect("text")]));
        until("the sync asks for all it may", || upstream.stalled() >= 6);
        let answer = orlop.download("wanted", "1.0.0");
        assert!(answer.is_complete_file(), "{}", answer.text());
        assert_eq!(upstream.stalled(), 6, "a quarter is left to clients");
        assert_eq!(upstream.count_path("/wanted/1.0.0"), 1);
        assert_eq!(orlop.blobs().len(), 1, "the sync came no further meanwhile");
        upstream.behave();
        let report = sync.join().expect("the sync does not panic");
        assert_eq!(report["releases"], 40, "{report}");
    });
    assert_eq!(orlop.blobs().len(), 41);
}

#[test]
fn a_sync_sends_its_requests_over_few_connections() {
    let upstream = Upstream::start(knots(60));
    let tls = Tls::over(&upstream);
    let dl = format!("{}/api/v1/crates", tls.base());
    upstream.manners(|manners| manners.dl = Dl::Literal(dl));
    upstream.misbehave(On::All, Fault::Slow(Duration::from_millis(20)));
    let setup = Setup::over_url(&format!("sparse+{}/index/", tls.base()))
        .config("upstream.ca_file", &tls.ca_file().display().to_string());
    let report = well(&setup, &["--crate", "knot-000"]);
    assert_eq!(report["fetched"], 60, "{report}");
    assert!(upstream.seen().len() > 120, "each was asked for twice");
    let spoken = tls.spoken();
    assert!(spoken.iter().all(|protocol| protocol == "h2"), "{spoken:?}");
    assert!(
        spoken.len() <= 2,
        "one connection for index files, one for crates: {spoken:?}"
    );
}

#[test]
fn a_failure_is_counted_after_a_restart_and_no_more_once_a_client_brought_the_file() {
    let registry = Registry::new()
        .with(&Krate::new("bad", "1.0.0"))
        .with(&Krate::new("other", "1.0.0"));
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream);
    upstream.misbehave(On::Path("bad/1.0.0".to_owned()), Fault::Flip);
    let (outcome, _) = sync(&setup, &["--crate", "bad"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let orlop = setup.start();
    let failures = || orlop.metric("orlop_sync_failures", &[]);
    assert!((failures() - 1.0).abs() < f64::EPSILON, "{}", failures());
    upstream.behave();
    let answer = orlop.download("bad", "1.0.0");
    assert!(answer.is_complete_file(), "{}", answer.text());
    upstream.forget_seen();
    let report = well(orlop.setup(), &["--crate", "other"]);
    assert_eq!(
        (&report["retried"], &report["fetched"]),
        (&0.into(), &1.into())
    );
    assert_eq!(upstream.count_path("bad/1.0.0"), 0, "it is held");
    assert!(failures().abs() < f64::EPSILON, "{}", failures());
}

/// What `orlop stats --json` says of how a saved set fared.
fn run_of(setup: &Setup, name: &str) -> Value {
    let stats = report_of(&setup.run(&["stats", "--json"]));
    let sets = stats["sets"].as_array().expect("a list").clone();
    let set = sets.into_iter().find(|set| set["name"] == name);
    set.expect("a saved set")["run"].clone()
}

#[test]
fn of_each_saved_set_it_is_known_when_it_was_last_whole() {
    let registry = Registry::new()
        .with(&Krate::new("bad", "1.0.0"))
        .with(&Krate::new("needs-bad", "1.0.0").dep("bad", "1"))
        .with(&Krate::new("good", "1.0.0"));
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream);
    well(&setup, &["--crate", "good", "--save", "sound"]);
    let first = run_of(&setup, "sound");
    assert_eq!(first["ok_at"], first["at"], "{first}");
    upstream.misbehave(On::Path("/bad/1.0.0".to_owned()), Fault::Flip);
    let (outcome, _) = sync(&setup, &["--crate", "needs-bad", "--save", "broken"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for words in [&[][..], &["--set", "sound", "--set", "broken"]] {
        let (outcome, _) = sync(&setup, words);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let (sound, broken) = (run_of(&setup, "sound"), run_of(&setup, "broken"));
        assert_eq!(
            (&sound["failures"], &broken["failures"]),
            (&0.into(), &1.into())
        );
        assert_eq!(
            (&sound["ok_at"], &broken["ok_at"]),
            (&sound["at"], &Value::Null)
        );
    }
    let stats = setup.run(&["stats"]).stdout;
    assert!(stats.contains("not whole yet; tried"), "{stats}");
    assert!(!stats.contains("saved-sets"), "that is no job: {stats}");
    upstream.behave();
    well(&setup, &[]);
    let healed = run_of(&setup, "broken");
    assert_eq!(
        (&healed["ok_at"], &healed["failures"]),
        (&healed["at"], &0.into())
    );
    let sets = setup.run(&["sync", "--sets"]).stdout;
    assert!(sets.contains("--crate needs-bad (whole "), "{sets}");
}

#[test]
fn everything_is_what_the_index_lists_and_what_is_selected_besides() {
    let registry = Registry::new()
        .with(&Krate::new("a", "1.0.0"))
        .with(&Krate::new("a", "1.1.0").yanked())
        .with(&Krate::new("b", "1.0.0"))
        .with(&Krate::new("b", "2.0.0"));
    let upstream = Upstream::start(registry.clone());
    let setup = Setup::over(&upstream);
    let a = registry.release("a", "1.1.0").sha256;
    let folder = setup.data().parent().expect("a folder").to_owned();
    let lock = write_file(&folder, "Cargo.lock", &locked("a", "1.1.0", &a));
    let list = write_file(&folder, "list", "a@=1.0.0\nb@=1.0.0\n");
    let (lock, list) = (lock.to_str().expect("text"), list.to_str().expect("text"));
    // So that the mirror knows the names.
    well(&setup, &["--list", list, "--dry-run"]);
    let words = ["--all", "--latest", "--lockfile", lock, "--dry-run"];
    let report = well(&setup, &words);
    let named = |names: &[&str]| Value::from(names.to_vec());
    assert_eq!(
        report["would_fetch_names"],
        named(&["a@1.0.0", "a@1.1.0", "b@2.0.0"])
    );
    assert_eq!(
        (&report["names"], &report["releases"]),
        (&2.into(), &3.into())
    );
    upstream.misbehave(On::Path("b/1.0.0".to_owned()), Fault::Flip);
    let (outcome, report) = sync(&setup, &["--all", "--lockfile", lock]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(
        (&report["releases"], &report["fetched"]),
        (&4.into(), &3.into())
    );
    upstream.behave();
    let report = well(&setup, &["--all", "--dry-run"]);
    assert_eq!(report["would_fetch_names"], named(&["b@1.0.0"]));
    assert_eq!(
        (&report["held"], &report["would_fetch"]),
        (&3.into(), &1.into())
    );
    let report = well(&setup, &["--all"]);
    assert_eq!(
        (&report["retried"], &report["fetched"]),
        (&0.into(), &1.into()),
        "it is in all"
    );
}

#[test]
fn latest_alone_is_refused_and_a_dry_run_says_what_it_keeps() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("a", "1.0.0")));
    let setup = Setup::over(&upstream);
    for words in [
        &["sync", "--latest"][..],
        &["export", "--out", "-", "--latest"],
    ] {
        let outcome = setup.run(words);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("`--latest` alone"), "{outcome:?}");
    }
    let dry = setup.run(&["sync", "--crate", "a", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    let told = "index entries that were asked for are kept; no crate file was fetched";
    assert!(dry.stdout.contains(told), "{dry:?}");
    let extent = "the selection is 1 release of 1 crate; 1 is to be fetched";
    assert!(dry.stderr.contains(extent), "{dry:?}");
    assert_eq!(blobs(&setup), [""; 0]);
}

#[test]
fn a_set_that_is_saved_again_is_replaced_and_says_when_its_files_were_copied() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("a", "1.0.0")));
    let setup = Setup::over(&upstream);
    let folder = setup.data().parent().expect("a folder").to_owned();
    let list = write_file(&folder, "list", "a\n");
    let words = ["sync", "--save", "mine", "--list"];
    let save: Vec<&str> = words.into_iter().chain(list.to_str()).collect();
    let first = setup.run(&save);
    assert!(first.stdout.contains("saved as `mine`"), "{first:?}");
    let second = setup.run(&save);
    assert!(
        second.stdout.contains("replaced the saved set `mine`"),
        "{second:?}"
    );
    let sets = setup.run(&["sync", "--sets"]).stdout;
    assert!(sets.contains(" copied on 20"), "{sets}");
}
