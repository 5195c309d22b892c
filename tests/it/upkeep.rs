//! The small jobs over what is held: refresh, pins, stats, who, verify and gc.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    crates::{Krate, Registry},
    files_below,
    http::Ask,
    orlop::{Outcome, Setup, download_path},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn setting() -> Upstream {
    let mut registry = Registry::new();
    for name in ["one", "two", "three"] {
        registry.put(&Krate::new(name, "1.0.0").size(5_000));
    }
    registry.put(&Krate::new("two", "1.1.0"));
    Upstream::start(registry)
}

/// A store that holds `one` and `two` 1.0.0, closed.
fn filled(upstream: &Upstream) -> Setup {
    let orlop = Setup::over(upstream).start();
    for name in ["one", "two"] {
        assert!(orlop.download(name, "1.0.0").is_complete_file(), "{name}");
    }
    orlop.terminate()
}

#[track_caller]
fn well(setup: &Setup, words: &[&str]) -> String {
    ended(setup, words, 0).stdout
}

#[track_caller]
fn ended(setup: &Setup, words: &[&str], code: i32) -> Outcome {
    let outcome = setup.run(words);
    assert_eq!(outcome.code, Some(code), "{words:?}: {outcome:?}");
    outcome
}

/// The report that `--json` prints last.
#[track_caller]
fn report(setup: &Setup, words: &[&str], code: i32) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let outcome = ended(setup, &words, code);
    let last = outcome.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

fn blob(setup: &Setup, upstream: &Upstream, name: &str, version: &str) -> PathBuf {
    let sha = upstream.registry().release(name, version).sha256;
    setup
        .data()
        .join("blobs")
        .join(&sha[..2])
        .join(format!("{sha}.raw"))
}

/// Makes a file look as if it had come in long ago.
fn age(path: &PathBuf, by: Duration) {
    let file = fs::File::options().write(true).open(path).expect("there");
    let long_ago = SystemTime::now() - by;
    file.set_modified(long_ago).expect("its time can be set");
}

#[test]
fn refresh_asks_whatever_the_age_and_says_what_changed() {
    let upstream = setting();
    let setup = filled(&upstream);
    upstream.edit(|registry| {
        registry.put(&Krate::new("one", "2.0.0"));
        registry.yank("two", "1.0.0");
    });
    let outcome = ended(&setup, &["refresh", "one", "two", "three", "nowhere"], 1);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "one      new: 2.0.0",
            "two      yanked: 1.0.0",
            "three    was not here before, new: 1.0.0",
            "nowhere  problem: upstream does not have it",
        ]
    );
    upstream.forget_seen();
    assert_eq!(well(&setup, &["refresh", "one"]), "one  unchanged\n");
    assert_eq!(upstream.count(Kind::Index), 1, "asked, though it is fresh");
    let offline = setup.config("mode", "offline");
    let refused = ended(&offline, &["refresh", "one"], 3);
    assert!(refused.stderr.contains("offline"), "{refused:?}");
}

#[test]
fn a_pin_fetches_and_lasts_until_it_is_taken_back() {
    let upstream = setting();
    let setup = filled(&upstream);
    assert_eq!(well(&setup, &["pin"]), "nothing is pinned\n");
    let told = well(&setup, &["pin", "three", "two@1.0.0"]);
    assert!(told.contains("three is pinned\n"), "{told}");
    assert!(told.contains("fetched 1 crate\n"), "{told}");
    assert!(blob(&setup, &upstream, "three", "1.0.0").is_file());
    let pins = report(&setup, &["pin"], 0);
    let names: Vec<&str> = pins["pins"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pin| pin["release"].as_str().expect("a text"))
        .collect();
    assert_eq!(names, ["three", "two@1.0.0"]);
    for words in [["pin", "nowhere"], ["pin", "one@9.9.9"], ["unpin", "one"]] {
        let outcome = ended(&setup, &words, 1);
        assert!(outcome.stdout.contains("problem: "), "{outcome:?}");
    }
    for wrong in ["one@not-a-version", "one@1"] {
        let outcome = ended(&setup, &["pin", wrong], 2);
        assert!(outcome.stderr.contains("`one@1.2.3` names"), "{outcome:?}");
    }
    fs::remove_dir_all(setup.data().join("sled")).expect("removed");
    let told = well(&setup, &["unpin", "three"]);
    assert_eq!(told, "three is no longer pinned\n", "pins outlive sled");
    let pins = report(&setup, &["pin"], 0);
    assert_eq!(pins["pins"].as_array().map(Vec::len), Some(1));
}

#[test]
fn stats_tell_what_there_is() {
    let upstream = setting();
    let setup = filled(&upstream);
    let stats = report(&setup, &["stats"], 0);
    for (key, expected) in [
        ("names", 2),
        ("versions", 3),
        ("held", 2),
        ("blobs", 2),
        ("failures", 0),
    ] {
        assert_eq!(stats[key], expected, "{key}: {stats}");
    }
    let text = well(&setup, &["stats"]);
    assert!(text.contains("2 crates with 3 versions, 2 held"), "{text}");
}

#[test]
fn who_fetched_what_is_told_of_answers_from_memory_too() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("listen.trusted_proxies", "127.0.0.0/8")
        .start();
    for client in ["10.0.0.7", "10.0.0.7", "10.0.0.8"] {
        let ask = Ask::get(&download_path("one", "1.0.0")).header("x-forwarded-for", client);
        assert!(orlop.ask(&ask).is_complete_file());
    }
    // Not a fetch: nobody got a file.
    assert_eq!(orlop.download("one", "9.9.9").status, 404);
    let setup = orlop.terminate();
    let who = report(&setup, &["who", "ONE"], 0);
    let releases = who["releases"].as_array().expect("a list");
    assert_eq!(releases.len(), 1, "{who}");
    assert_eq!(releases[0]["release"], "one@1.0.0");
    let clients: Vec<(&str, u64)> = releases[0]["clients"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|client| {
            let address = client["client"].as_str().expect("a text");
            (address, client["count"].as_u64().expect("a number"))
        })
        .collect();
    let mut sorted = clients.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [("10.0.0.7", 2), ("10.0.0.8", 1)]);
    well(&setup, &["pin", "one@1.0.0"]);
    let text = well(&setup, &["who", "one@1.0.0"]);
    assert!(text.contains("pinned as one@1.0.0"), "{text}");
    assert!(text.contains("10.0.0.7  2 times, first 2"), "{text}");
    let text = well(&setup, &["who", "two"]);
    assert!(text.starts_with("nobody is known"), "{text}");
}

#[test]
fn nothing_is_recorded_where_that_is_not_wanted() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).config("use.keep_for", "0s").start();
    assert!(orlop.download("one", "1.0.0").is_complete_file());
    let setup = orlop.terminate();
    let text = well(&setup, &["who", "one"]);
    assert!(text.contains("not recorded"), "{text}");
    let setup = setup.config("use.keep_for", "90d");
    let text = well(&setup, &["who", "one"]);
    assert!(text.starts_with("nobody is known"), "{text}");
}

#[test]
fn verify_finds_damage_and_repair_fetches_again() {
    let upstream = setting();
    let setup = filled(&upstream);
    assert!(well(&setup, &["verify"]).starts_with("2 crate files good"));
    let (one, two) = (
        blob(&setup, &upstream, "one", "1.0.0"),
        blob(&setup, &upstream, "two", "1.0.0"),
    );
    let mut bytes = fs::read(&one).expect("readable");
    bytes[100] ^= 1;
    fs::write(&one, &bytes).expect("written");
    fs::remove_file(&two).expect("removed");
    let unknown = setup
        .data()
        .join("blobs/00")
        .join(format!("{}.raw", "0".repeat(64)));
    fs::create_dir_all(unknown.parent().expect("a folder")).expect("made");
    fs::write(&unknown, b"unknown").expect("written");
    // The start looks through the files as well, and takes the mark off what is missing.
    let found = report(&setup, &["verify"], 1);
    assert_eq!(
        found["damaged"], 2,
        "a name of zeroes is damage, too: {found}"
    );
    let numbers = report(&setup, &["stats"], 1);
    // Whether the one that is missing is among them depends on which of the two looks was first.
    let findings = found["findings"].as_array().map_or(0, Vec::len);
    assert_eq!(numbers["verified"]["problems"], findings, "{numbers}");
    let repaired = report(&setup, &["verify", "--repair"], 1);
    let states: Vec<(&str, bool)> = repaired["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|finding| !finding["release"].is_null())
        .map(|finding| {
            let kind = finding["kind"].as_str().expect("a text");
            (kind, finding["repaired"].as_bool().expect("a bool"))
        })
        .collect();
    assert!(states.contains(&("damaged", true)), "{repaired}");
    let good = upstream.registry().release("one", "1.0.0").bytes;
    assert!(fs::read(&one).expect("readable") == *good);
    let quarantine = files_below(&setup.data().join("quarantine"));
    assert_eq!(quarantine.len(), 2, "{quarantine:?}");
    assert!(report(&setup, &["verify"], 0)["damaged"] == 0);
}

#[test]
fn gc_removes_what_no_record_names_and_nothing_young() {
    let upstream = setting();
    let setup = filled(&upstream);
    let content = b"nobody names me";
    let sha = crate::support::sha256(content);
    let stray = setup.data().join("blobs").join(&sha[..2]);
    fs::create_dir_all(&stray).expect("made");
    let stray = stray.join(format!("{sha}.raw"));
    fs::write(&stray, content).expect("written");
    let told = well(&setup, &["gc"]);
    assert_eq!(told, "there is nothing to remove\n", "it is young");
    age(&stray, DAY);
    let told = report(&setup, &["gc", "--dry-run"], 0);
    assert_eq!(told["unknown"]["count"], 1, "{told}");
    assert!(stray.is_file());
    let told = well(&setup, &["gc"]);
    assert!(
        told.contains("removed: 1 crate file that no index entry names"),
        "{told}"
    );
    assert!(!stray.exists());
    assert!(blob(&setup, &upstream, "one", "1.0.0").is_file());
}

#[test]
fn gc_of_the_unused_leaves_pins_and_what_was_fetched_of_late() {
    let upstream = setting();
    let setup = filled(&upstream);
    well(&setup, &["pin", "three", "one"]);
    let held = [("one", "1.0.0"), ("two", "1.0.0"), ("three", "1.0.0")]
        .map(|(name, version)| blob(&setup, &upstream, name, version));
    for path in &held {
        age(path, 100 * DAY);
    }
    let told = report(&setup, &["gc", "--unused-for", "90d"], 0);
    assert_eq!(told["unused"]["count"], 0, "a client fetched `two`: {told}");
    // Without the record nobody knows how long it was not used before: it begins anew.
    fs::remove_dir_all(setup.data().join("sled")).expect("removed");
    let told = report(&setup, &["gc", "--unused-for", "90d"], 0);
    assert_eq!(told["unused"]["count"], 0, "nothing is known: {told}");
    std::thread::sleep(Duration::from_millis(1100));
    let told = report(&setup, &["gc", "--unused-for", "1s"], 0);
    assert_eq!(told["releases"], serde_json::json!(["two@1.0.0"]), "{told}");
    assert_eq!(held.map(|path| path.is_file()), [true, false, true]);
    let orlop = setup.start();
    assert!(
        orlop.download("two", "1.0.0").is_complete_file(),
        "fetched again"
    );
}

#[test]
fn the_daemon_does_the_same_while_it_serves() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    assert!(orlop.download("one", "1.0.0").is_complete_file());
    let setup = orlop.setup();
    let who = report(setup, &["who", "one"], 0);
    assert_eq!(who["releases"][0]["clients"][0]["count"], 1, "{who}");
    well(setup, &["pin", "two@1.1.0"]);
    let path = blob(setup, &upstream, "two", "1.1.0");
    assert!(path.is_file());
    assert!(orlop.download("two", "1.1.0").is_complete_file());
    well(setup, &["unpin", "two@1.1.0"]);
    let mut bytes = fs::read(&path).expect("readable");
    bytes[100] ^= 1;
    fs::write(&path, &bytes).expect("written");
    well(setup, &["verify", "--repair"]);
    let good = upstream.registry().release("two", "1.1.0").bytes;
    assert!(fs::read(&path).expect("readable") == *good);
    let stats = report(setup, &["stats"], 0);
    assert_eq!(stats["held"], 2, "{stats}");
}

#[test]
fn gc_of_the_unused_leaves_what_a_saved_set_could_select() {
    let upstream = setting();
    let setup = filled(&upstream);
    well(&setup, &["sync", "--crate", "two", "--save", "lab"]);
    well(&setup, &["sync", "--crate", "three"]);
    let held = [
        ("one", "1.0.0"),
        ("two", "1.0.0"),
        ("two", "1.1.0"),
        ("three", "1.0.0"),
    ]
    .map(|(name, version)| blob(&setup, &upstream, name, version));
    for path in &held {
        age(path, 100 * DAY);
    }
    // The record of uses begins anew.
    fs::remove_dir_all(setup.data().join("sled")).expect("removed");
    well(&setup, &["stats"]);
    std::thread::sleep(Duration::from_millis(1100));
    let told = report(&setup, &["gc", "--unused-for", "1s", "--dry-run"], 0);
    let expected = serde_json::json!(["one@1.0.0", "three@1.0.0"]);
    assert_eq!(told["releases"], expected, "{told}");
    assert_eq!(held.clone().map(|path| path.is_file()), [true; 4]);
    let told = report(&setup, &["gc", "--unused-for", "1s"], 0);
    assert_eq!(told["releases"], expected, "{told}");
    assert_eq!(told["unused"]["count"], 2, "{told}");
    assert_eq!(
        held.clone().map(|path| path.is_file()),
        [false, true, true, false]
    );
    well(&setup, &["sync", "--forget", "lab"]);
    let told = report(&setup, &["gc", "--unused-for", "1s"], 0);
    assert_eq!(told["unused"]["count"], 2, "nobody wants it now: {told}");
}

#[test]
fn gc_of_the_unused_removes_nothing_of_which_no_use_could_be_known() {
    let upstream = setting();
    let setup = filled(&upstream);
    let one = blob(&setup, &upstream, "one", "1.0.0");
    age(&one, 100 * DAY);
    let refused = ended(&setup, &["gc", "--unused-for", "91d"], 2);
    assert!(refused.stderr.contains("use.keep_for"), "{refused:?}");
    let setup = setup.config("use.keep_for", "0s");
    let refused = ended(&setup, &["gc", "--unused-for", "1s"], 2);
    assert!(refused.stderr.contains("use.keep_for"), "{refused:?}");
    std::thread::sleep(Duration::from_millis(1100));
    let setup = setup.config("use.keep_for", "90d");
    let told = report(&setup, &["gc", "--unused-for", "1s"], 0);
    assert_eq!(told["unused"]["count"], 0, "it was not recorded: {told}");
    assert!(one.is_file());
}

#[test]
fn what_gc_removes_leaves_the_view_of_what_is_held() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("git.quiet_for", "100ms")
        .start();
    for name in ["one", "two"] {
        assert!(orlop.download(name, "1.0.0").is_complete_file(), "{name}");
    }
    let file = |name: &str| {
        let path = crate::support::crates::index_path(name);
        orlop.get(&format!("/view/held/index/{path}"))
    };
    let git_names = || {
        let git = crate::support::git::Git::new();
        let url = format!("{}/view/held/git/index", orlop.url());
        let cloned = git.run(&["clone", "-q", "--bare", &url, "c"]).well;
        let tree = ["ls-tree", "-r", "--name-only", "HEAD"];
        cloned.then(|| git.at("c", &tree).well().stdout)
    };
    until("both are in the git index of the view", || {
        git_names().is_some_and(|names| names.contains("one") && names.contains("two"))
    });
    assert_eq!(file("one").status, 200);
    // Who fetched them is recorded: only what is not used any more goes.
    let path = blob(orlop.setup(), &upstream, "one", "1.0.0");
    age(&path, 2 * DAY);
    std::thread::sleep(Duration::from_millis(1100));
    let told = report(orlop.setup(), &["gc", "--unused-for", "1s"], 0);
    assert_eq!(told["releases"], serde_json::json!(["one@1.0.0"]), "{told}");
    assert!(!path.exists());
    assert_eq!(file("one").status, 404);
    assert_eq!(file("two").status, 200, "it is young");
    let download = orlop.get("/view/held/api/v1/crates/one/1.0.0/download");
    assert_eq!(download.status, 404, "{}", download.text());
    until("it is gone from the git index of the view", || {
        git_names().is_some_and(|names| !names.contains("one") && names.contains("two"))
    });
    assert_eq!(
        orlop.index("one").status,
        200,
        "the root lists what upstream has"
    );
    assert!(orlop.download("one", "1.0.0").is_complete_file());
}

#[test]
fn gc_keeps_superseded_files_and_what_was_set_aside_of_late() {
    let upstream = setting();
    let setup = filled(&upstream).config("index.fresh_for", "0s");
    let old = blob(&setup, &upstream, "one", "1.0.0");
    let sha = upstream.registry().release("one", "1.0.0").sha256;
    age(&old, 100 * DAY);
    // The same number with other bytes: what a lock file names is the old file.
    upstream.edit(|registry| {
        registry.remove("one");
        registry.put(&Krate::new("one", "1.0.0").code("// another\n"));
    });
    let orlop = setup.start();
    assert_eq!(orlop.index("one").status, 200);
    let setup = orlop.terminate();
    assert_ne!(upstream.registry().release("one", "1.0.0").sha256, sha);
    let told = report(&setup, &["gc"], 0);
    assert_eq!(told["unknown"]["count"], 0, "{told}");
    assert!(old.is_file(), "the history of the index names it");

    let two = blob(&setup, &upstream, "two", "1.0.0");
    fs::write(&two, b"damaged").expect("written");
    report(&setup, &["verify", "--repair"], 0);
    let quarantine = setup.data().join("quarantine");
    let aside = files_below(&quarantine);
    assert_eq!(aside.len(), 1, "{aside:?}");
    let told = report(&setup, &["gc"], 0);
    assert_eq!(told["quarantined"]["count"], 0, "{told}");
    assert!(quarantine.join(&aside[0]).is_file() && two.is_file());
}

#[test]
fn repair_without_upstream_sets_aside_what_it_cannot_fetch_and_says_so() {
    let upstream = setting();
    let setup = filled(&upstream);
    let one = blob(&setup, &upstream, "one", "1.0.0");
    let good = fs::read(&one).expect("readable");
    let mut bytes = good.clone();
    bytes[100] ^= 1;
    fs::write(&one, &bytes).expect("written");
    upstream.down();
    let outcome = ended(&setup, &["verify", "--repair"], 1);
    for word in ["one@1.0.0", "quarantine"] {
        assert!(outcome.stdout.contains(word), "no {word:?}: {outcome:?}");
    }
    let quarantine = setup.data().join("quarantine");
    let aside = files_below(&quarantine);
    assert_eq!(aside.len(), 1, "{aside:?}");
    let kept = fs::read(quarantine.join(&aside[0])).expect("readable");
    assert!(kept == bytes, "not lost");
    let orlop = setup.start();
    let answer = orlop.download("one", "1.0.0");
    assert!(answer.status >= 500, "{}: out of serving", answer.status);
    upstream.up();
    until("it is fetched again", || {
        let answer = orlop.download("one", "1.0.0");
        answer.status == 200 && answer.body == good
    });
}

#[test]
fn a_cancelled_verify_leaves_all_as_it_was() {
    let upstream = setting();
    let setup = filled(&upstream);
    let one = blob(&setup, &upstream, "one", "1.0.0");
    // So long that hashing it is still going on when the interrupt comes.
    let file = fs::File::options().write(true).open(&one).expect("there");
    file.set_len(4 << 30).expect("a sparse file");
    drop(file);
    let list = || files_below(&setup.data().join("blobs"));
    let before = list();
    let mut command = setup.command(&["verify", "--repair", "--json"]);
    let mut child = command.spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let begun = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("hashing")));
    assert!(begun.is_some(), "it hashes");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it was ours");
    let ended = child.wait().expect("it ends");
    assert_eq!(ended.code(), Some(130), "{ended}");
    assert_eq!(list(), before);
    assert_eq!(fs::metadata(&one).expect("there").len(), 4 << 30);
    assert!(files_below(&setup.data().join("quarantine")).is_empty());
    let stats = report(&setup, &["stats"], 0);
    assert_eq!(stats["held"], 2, "{stats}");
}

#[test]
fn two_people_who_pin_at_the_same_time_are_both_served() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let slow = Fault::Slow(Duration::from_millis(300));
    upstream.misbehave(On::Kind(Kind::Crate), slow);
    let outcomes = crate::support::all_at_once(3, |number| {
        let name = ["one", "two@1.0.0", "three"][number];
        orlop.setup().run(&["pin", name])
    });
    for outcome in &outcomes {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    let pins = report(orlop.setup(), &["pin"], 0);
    assert_eq!(pins["pins"].as_array().map(Vec::len), Some(3), "{pins}");
}

#[test]
fn a_pin_fetches_many_at_a_time() {
    let upstream = setting();
    let setup = filled(&upstream);
    upstream.edit(|registry| {
        for minor in 0..12 {
            registry.put(&Krate::new("many", &format!("1.{minor}.0")));
        }
    });
    upstream.misbehave(On::Kind(Kind::Crate), Fault::StallBeforeHead);
    let mut child = setup.command(&["pin", "many"]);
    let mut child = child.spawn().expect("orlop can be started");
    until("several are asked for together", || upstream.stalled() > 2);
    child.kill().expect("it runs");
    child.wait().expect("it was started");
}

#[test]
fn gc_of_the_unused_says_what_stays_because_it_is_young() {
    let upstream = setting();
    let setup = filled(&upstream);
    let words = ["gc", "--unused-for", "0s"];
    let told = well(&setup, &words);
    assert!(
        told.contains("2 files kept: they came in less than an hour ago\n"),
        "{told}"
    );
    age(&blob(&setup, &upstream, "one", "1.0.0"), DAY);
    let told = report(&setup, &words, 0);
    assert_eq!(
        (&told["young"], &told["unused"]["count"]),
        (&1.into(), &1.into())
    );
}
