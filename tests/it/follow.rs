//! Following an upstream's git index: over a path and over HTTP, through restarts, outages and rewritten histories.

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry},
    git_index::{EVERY, GitFault, GitIndex, GitServer},
    orlop::{Orlop, Setup},
    proxy::Proxy,
    until,
    upstream::{Kind, Upstream},
};

/// Says how old an answer is that could not be checked.
const STALE: &str = "x-orlop-stale";

const NAMES: &[&str] = &["foobar", "other", "a", "bb", "ccc"];

fn crates() -> Upstream {
    let mut registry = Registry::new()
        .with(&Krate::new("foobar", "1.0.0").dep("other", "^0.3"))
        .with(&Krate::new("other", "0.3.1"));
    for name in ["a", "bb", "ccc"] {
        registry.put(&Krate::new(name, "0.1.0"));
    }
    Upstream::start(registry)
}

fn over(place: &str) -> Setup {
    Setup::quick()
        .config("upstream.git_index", place)
        .config("upstream.git_every", &format!("{}s", EVERY.as_secs()))
}

fn over_path(index: &GitIndex) -> Setup {
    over(&index.path().display().to_string())
}

#[track_caller]
fn knows_all(orlop: &Orlop, crates: &Upstream) {
    until("the index is followed", || {
        orlop.index("foobar").status == 200
    });
    for name in NAMES {
        let answer = orlop.index(name);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.text(), crates.index_file(name), "{name}");
        assert_eq!(answer.header(STALE), None, "{name}");
    }
}

#[test]
fn cargo_builds_from_a_git_index_without_any_sparse_upstream() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let orlop = over_path(&index).start();
    knows_all(&orlop, &crates);
    let project = Project::new("foobar = \"1\"").through(&orlop.url());
    project.cargo(&["build"]).well();
    assert_eq!(crates.count(Kind::Index), 0, "no index file is asked for");
    assert_eq!(crates.count(Kind::Config), 0, "no config.json is asked for");
    assert_eq!(orlop.index("no-such-crate").status, 404);
    assert!(orlop.metric("orlop_index_follows_total", &["outcome=\"changed\""]) >= 1.0);
    let names = orlop.metric("orlop_index_followed_names_total", &[]);
    assert!((names - 5.0).abs() < 0.1, "{names}");
    assert!(orlop.metric("orlop_index_followed_timestamp_seconds", &[]) > 1e9);
    let page = orlop.get("/").text();
    let head = index.git(&["rev-parse", "HEAD"]);
    assert!(page.contains(&head[..12]), "{page}");
}

#[test]
fn what_changes_in_the_git_index_appears() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let orlop = over_path(&index).config("upstream.git_every", "1h").start();
    knows_all(&orlop, &crates);

    // Nobody looks for an hour, but for a name or a version that is not known.
    crates.edit(|registry| registry.put(&Krate::new("fresh", "1.0.0")));
    crates.edit(|registry| registry.put(&Krate::new("other", "0.3.2")));
    index.take(&crates, "fresh");
    index.take(&crates, "other");
    index.remove("bb");
    index.commit();
    until("a new version is looked for", || {
        orlop.download("other", "0.3.2").status == 200
    });
    assert_eq!(orlop.index("fresh").status, 200);
    assert_eq!(orlop.index("other").text(), crates.index_file("other"));
    assert_eq!(
        orlop.index("bb").status,
        200,
        "what went is kept and served"
    );

    let orlop = orlop.restart();
    assert_eq!(orlop.index("fresh").text(), crates.index_file("fresh"));
}

/// Once the first request for a name that only its own question brought was answered with 503.
#[test]
fn a_name_that_is_new_upstream_is_there_at_the_first_request() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let orlop = over_path(&index).config("upstream.git_every", "1h").start();
    knows_all(&orlop, &crates);
    crates.edit(|registry| registry.put(&Krate::new("fresh", "1.0.0")));
    index.take(&crates, "fresh");
    index.commit();
    // A question so soon after the last one is answered by that.
    until("it is looked for", || match orlop.index("fresh").status {
        404 => false,
        status => {
            assert_eq!(status, 200);
            true
        }
    });
    assert_eq!(orlop.setup().run(&["refresh", "fresh"]).code, Some(0));
}

#[test]
fn what_was_followed_is_served_on_without_the_git_index() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let orlop = over_path(&index).start();
    knows_all(&orlop, &crates);
    assert_eq!(orlop.download("other", "0.3.1").status, 200);

    index.away(true);
    let failed = ["outcome=\"failed\""];
    until("the outage is noticed", || {
        orlop.metric("orlop_index_follows_total", &failed) >= 2.0
    });
    let warnings = orlop.stderr().matches("could not follow").count();
    assert_eq!(warnings, 1, "an outage is one line: {}", orlop.stderr());
    knows_all(&orlop, &crates);
    until("a name that is not known may be new", || {
        orlop.index("no-such-crate").status == 503
    });
    assert!(orlop.get("/").text().contains("failed"));

    // In a next life, and with entries that are never fresh.
    let orlop = orlop.terminate().config("index.fresh_for", "0s").start();
    let answer = orlop.index("foobar");
    assert_eq!(answer.status, 200);
    assert!(answer.header(STALE).is_some(), "{answer:?}");
    let strict = orlop.terminate().config("mode", "strict").start();
    assert_eq!(strict.index("foobar").status, 503);
    assert_eq!(strict.download("other", "0.3.1").status, 200);
    let offline = strict.terminate().config("mode", "offline").start();
    assert_eq!(offline.index("foobar").text(), crates.index_file("foobar"));
    assert_eq!(offline.index("no-such-crate").status, 404);

    let orlop = offline
        .terminate()
        .config("mode", "fallback")
        .config("index.fresh_for", "1h")
        .start();
    index.away(false);
    crates.edit(|registry| registry.put(&Krate::new("a", "0.2.0")));
    index.take(&crates, "a");
    index.commit();
    until("it is followed again", || {
        orlop.index("a").text() == crates.index_file("a")
    });
}

#[test]
fn before_the_first_fetch_nothing_is_said_not_to_exist() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    index.away(true);
    let orlop = over_path(&index).start();
    let answer = orlop.index("foobar");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer.text().contains("could not follow"),
        "{}",
        answer.text()
    );
    assert_eq!(orlop.download("foobar", "1.0.0").status, 503);
    index.away(false);
    knows_all(&orlop, &crates);
}

#[test]
fn a_git_index_is_followed_over_http() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let server = GitServer::of(&index);
    let orlop = over(&server.url()).start();
    knows_all(&orlop, &crates);
    assert_eq!(orlop.download("foobar", "1.0.0").status, 200);

    for (round, squash) in [(2, false), (3, true), (4, false)] {
        if squash {
            index.squash();
        }
        crates.edit(|registry| registry.put(&Krate::new("a", &format!("0.{round}.0"))));
        index.take(&crates, "a");
        index.commit();
        until("the change is followed", || {
            orlop.index("a").text() == crates.index_file("a")
        });
        // A fetch that meets git while it prunes may fail, and the next one mends it.
        let failed = orlop.metric("orlop_index_follows_total", &["outcome=\"failed\""]);
        assert!(failed < 1.0 || round > 2, "{failed}");
    }
    let bytes = orlop.metric("orlop_upstream_received_bytes_total", &["kind=\"git\""]);
    assert!(bytes > 1000.0, "{bytes}");

    let unchanged = ["outcome=\"unchanged\""];
    let before = orlop.metric("orlop_index_follows_total", &unchanged);
    until("it looks again", || {
        orlop.metric("orlop_index_follows_total", &unchanged) > before
    });
    let orlop = orlop.terminate().config("mode", "offline").start();
    knows_all(&orlop, &crates);
    let seen = server.seen().len();
    std::thread::sleep(EVERY * 2);
    assert_eq!(server.seen().len(), seen, "offline asks nobody");
}

#[test]
fn a_git_server_that_breaks_its_word_is_survived() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let server = GitServer::of(&index);
    let orlop = over(&server.url())
        // Longer than a busy machine needs to start git.
        .config("upstream.stall_timeout", "3s")
        .start();
    knows_all(&orlop, &crates);
    let failed = || orlop.metric("orlop_index_follows_total", &["outcome=\"failed\""]);
    let faults = [
        GitFault::Cut,
        GitFault::Short,
        GitFault::Stall,
        GitFault::Flip,
        GitFault::Status(500),
        GitFault::Status(404),
    ];
    for (round, fault) in faults.into_iter().enumerate() {
        server.misbehave(fault);
        crates.edit(|registry| registry.put(&Krate::new("a", &format!("1.{round}.0"))));
        index.take(&crates, "a");
        index.commit();
        let before = failed();
        until("it fails", || failed() >= before + 2.0);
        assert_eq!(orlop.index("foobar").status, 200, "{fault:?}");
        server.behave();
        until("it mends", || {
            orlop.index("a").text() == crates.index_file("a")
        });
    }
    let packs = orlop.data().join("git/upstream/objects/pack");
    let left: Vec<_> = crate::support::files_below(&packs)
        .into_iter()
        .filter(|name| !matches!(name.rsplit_once('.'), Some((_, "pack" | "idx"))))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left lying about");
}

#[test]
fn credentials_of_a_git_index_are_used_and_never_shown() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let server = GitServer::of(&index);
    let url = server.url_with_password();
    let orlop = over(&url).config("log.filter", "trace").start();
    knows_all(&orlop, &crates);
    let shown = [
        orlop.get("/").text(),
        orlop.get("/metrics").text(),
        orlop.stderr(),
        orlop.setup().run(&["config", "show"]).stdout,
    ];
    for text in shown {
        assert!(!text.contains("sesame"), "{text}");
        assert!(!text.contains("Aladdin"), "{text}");
        assert!(!text.contains("QWxhZGRpbj"), "{text}");
    }
    for file in crate::support::files_below(&orlop.data().join("git")) {
        let bytes = std::fs::read(orlop.data().join("git").join(&file)).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&bytes).contains("sesame"),
            "{file}"
        );
    }
    drop(orlop);
    let orlop = over(&server.url()).start();
    let answer = orlop.index("foobar");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("401"), "{}", answer.text());
}

#[test]
fn a_store_that_lost_its_entries_gets_them_back() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let orlop = over_path(&index).start();
    knows_all(&orlop, &crates);
    let setup = orlop.kill9();
    for folder in ["sled", "blobs", "spool"] {
        std::fs::remove_dir_all(setup.data().join(folder)).expect("it is there");
    }
    let orlop = setup.start();
    knows_all(&orlop, &crates);

    // The other way round: the repository is lost, and a name went while nobody looked.
    let setup = orlop.kill9();
    std::fs::remove_dir_all(setup.data().join("git")).expect("it is there");
    index.remove("bb");
    index.commit();
    let orlop = setup.start();
    let gone = || orlop.stderr().contains("`bb`");
    until("it is noticed that a name went", gone);
    knows_all(&orlop, &crates);
    assert_eq!(orlop.stderr().matches("`bb`").count(), 1);
    assert!(!orlop.stderr().contains("`ccc`"), "all else is as it was");
}

/// What was followed after the newest commit of our own git index is nowhere but in the followed one.
#[test]
fn an_older_store_gets_what_was_followed_again() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let change = |name: &str, version: &str| {
        crates.edit(|registry| registry.put(&Krate::new(name, version)));
        index.take(&crates, name);
        index.commit();
    };
    let orlop = over_path(&index).config("git.quiet_for", "1s").start();
    knows_all(&orlop, &crates);
    until("it is committed", || {
        orlop.metric("orlop_generation_staged_names", &[]).eq(&0.0)
    });
    let setup = orlop.terminate();
    let (sled, kept) = (setup.data().join("sled"), setup.data().join("kept"));
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&sled, &kept])
        .status();
    assert!(copied.expect("`cp` can be run").success());
    let orlop = setup.start();
    change("other", "0.3.2");
    follows(&orlop, &crates, "other");
    until("it is committed", || {
        orlop.metric("orlop_generation_staged_names", &[]).eq(&0.0)
    });
    let setup = orlop.kill9();
    let slow = setup
        .config("git.quiet_for", "1h")
        .config("git.cut_within", "1h");
    let orlop = slow.start();
    change("bb", "0.1.1");
    follows(&orlop, &crates, "bb");
    let setup = orlop.kill9();
    std::fs::remove_dir_all(&sled).expect("removed");
    std::fs::rename(&kept, &sled).expect("renamed");
    let orlop = setup.start();
    assert!(orlop.stderr().contains("recovered from the git index"));
    follows(&orlop, &crates, "bb");
    knows_all(&orlop, &crates);
}

#[track_caller]
fn follows(orlop: &Orlop, crates: &Upstream, name: &str) {
    until("a change is followed", || {
        orlop.index(name).text() == crates.index_file(name)
    });
}

#[test]
fn a_git_index_that_moved_is_followed_there() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let server = GitServer::of(&index);
    let orlop = over(&server.moved_url()).start();
    knows_all(&orlop, &crates);
    let seen = server.seen();
    assert!(
        seen.contains(&"POST /index/git-upload-pack".to_owned()),
        "{seen:?}"
    );
}

#[test]
fn a_git_index_is_followed_through_the_proxy() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let server = GitServer::of(&index);
    let proxy = Proxy::socks5(server.address());
    let orlop = over("http://git.test/index")
        .config("upstream.proxy", &format!("socks5h://{}", proxy.address()))
        .start();
    knows_all(&orlop, &crates);
    let asked = proxy.asked();
    assert!(
        asked.iter().all(|asked| asked == "git.test:80"),
        "{asked:?}"
    );
}

#[test]
fn a_git_index_does_not_lead_into_the_network() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    let dl = "{\"dl\":\"http://10.255.255.1:81/dl\"}";
    std::fs::write(index.path().join("config.json"), dl).expect("a file");
    index.commit();
    let orlop = over_path(&index).start();
    knows_all(&orlop, &crates);
    let refused = orlop.download("foobar", "1.0.0");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("not public"), "{}", refused.text());
}

#[test]
fn a_registry_that_is_named_beside_the_git_index_says_where_crates_are() {
    let crates = crates();
    let index = GitIndex::of(&crates, NAMES);
    std::fs::remove_file(index.path().join("config.json")).expect("it is there");
    index.commit();
    let orlop = over_path(&index)
        .config("upstream.url", &crates.url())
        .start();
    knows_all(&orlop, &crates);
    assert_eq!(orlop.download("foobar", "1.0.0").status, 200);
    assert_eq!(crates.count(Kind::Config), 1);
    assert_eq!(crates.count(Kind::Index), 0);

    let alone = over_path(&index).start();
    knows_all(&alone, &crates);
    let refused = alone.download("foobar", "1.0.0");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("config.json"), "{}", refused.text());
}
