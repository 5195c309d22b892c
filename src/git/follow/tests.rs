//! The promises of following: what a fetch brings, what is passed over, and that damage and time do no harm.

use std::{collections::BTreeSet, process::Command};

use super::*;
use crate::git::testing::index_path;

const SUM: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// An upstream that is made with `git`.
struct Upstream {
    dir: PathBuf,
}

impl Upstream {
    fn new(dir: &Path) -> Upstream {
        fs::create_dir_all(dir).expect("a folder");
        let upstream = Upstream {
            dir: dir.to_owned(),
        };
        upstream.git(&["init", "-q", "-b", "master"]);
        upstream.put("config.json", r#"{"dl":"http://127.0.0.1:1/dl"}"#);
        upstream
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=u", "-c", "user.email=u@localhost"])
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout)
            .expect("text")
            .trim()
            .to_owned()
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn publish(&self, name: &str, versions: &[&str]) {
        self.put(&index_path(name), &lines(name, versions));
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.join(index_path(name))).expect("it was there");
    }

    fn commit(&self) -> String {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// What crates.io does twice a year: a history of one commit takes the place of the old one.
    fn squash(&self) -> String {
        let tree = self.git(&["rev-parse", "HEAD^{tree}"]);
        let root = self.git(&["commit-tree", "-m", "squashed", &tree]);
        self.git(&["reset", "-q", "--hard", &root]);
        self.git(&["reflog", "expire", "--expire=now", "--all"]);
        self.git(&["gc", "-q", "--prune=now"]);
        root
    }
}

fn lines(name: &str, versions: &[&str]) -> String {
    let line = |version: &&str| {
        format!(
            "{{\"name\":\"{name}\",\"vers\":\"{version}\",\"deps\":[],\"cksum\":\"{SUM}\",\"features\":{{}},\"yanked\":false}}\n"
        )
    };
    versions.iter().map(line).collect()
}

struct Pair {
    dir: tempfile::TempDir,
    upstream: Upstream,
}

impl Pair {
    fn new() -> Pair {
        let dir = tempfile::tempdir().expect("a folder");
        let upstream = Upstream::new(&dir.path().join("registry"));
        Pair { dir, upstream }
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("data").join("git").join("upstream")
    }

    fn follower(&self) -> Follower {
        Follower::open(Options {
            dir: self.repository(),
            source: Source::Path(self.upstream.dir.clone()),
            most_file_bytes: 4096,
        })
        .expect("it opens")
    }
}

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

/// What a fetch brings, as words; and it is published then.
fn follow(follower: &mut Follower) -> BTreeSet<String> {
    let fetched = follower.fetch(&never()).expect("a fetch");
    let told = changes(follower, fetched);
    publish(follower, fetched.new);
    told
}

fn publish(follower: &mut Follower, commit: ObjectId) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    follower.set_published(commit, at, 7).expect("it is noted");
}

fn changes(follower: &Follower, fetched: Fetched) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    let visit = &mut |Followed { path, state }: Followed<'_>| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_new = told.insert(match state {
            FileState::Changed(bytes) => {
                let lines = String::from_utf8_lossy(&bytes).matches('\n').count();
                format!("{name} {lines}")
            }
            FileState::Unusable(why) => format!("{name} {why}"),
            FileState::Gone => format!("{name} gone"),
        });
        assert!(is_new, "nothing is told twice");
        ControlFlow::Continue(())
    };
    let changes = follower.changes(fetched.old, fetched.new, visit);
    changes.expect("differences");
    told
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn a_first_fetch_brings_all_and_a_later_one_what_changed() {
    let pair = Pair::new();
    for name in ["a", "bb", "ccc", "serde"] {
        pair.upstream.publish(name, &["1.0.0"]);
    }
    pair.upstream.commit();
    let mut follower = pair.follower();
    assert_eq!(
        follow(&mut follower),
        set(&["a 1", "bb 1", "ccc 1", "serde 1"])
    );
    assert_eq!(follow(&mut follower), set(&[]));

    pair.upstream.publish("serde", &["1.0.0", "1.0.1"]);
    pair.upstream.publish("servo", &["0.1.0"]);
    pair.upstream.remove("bb");
    let head = pair.upstream.commit();
    assert_eq!(
        follow(&mut follower),
        set(&["serde 2", "servo 1", "bb gone"])
    );
    let published = follower.published().expect("it was noted");
    assert_eq!(published.commit.to_string(), head);
    let config = follower.file(published.commit, "config.json", 4096);
    let config = config.expect("readable").expect("it is there");
    assert_eq!(config, r#"{"dl":"http://127.0.0.1:1/dl"}"#);
    let config = follower.file(published.commit, "config.json", 4);
    assert_eq!(config.expect("readable"), None, "too large");
}

#[test]
fn what_was_published_is_known_after_a_restart_even_without_upstream() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream.commit();
    follow(&mut pair.follower());
    let away = pair.upstream.dir.with_extension("away");
    fs::rename(&pair.upstream.dir, &away).expect("it goes away");
    let mut follower = pair.follower();
    let published = follower.published().expect("it was noted");
    let config = follower.file(published.commit, "config.json", 4096);
    assert!(config.expect("readable").is_some());
    let error = follower.fetch(&never()).expect_err("it is away");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");

    fs::rename(&away, &pair.upstream.dir).expect("it is back");
    pair.upstream.publish("serde", &["1.0.0", "1.0.1"]);
    pair.upstream.commit();
    assert_eq!(follow(&mut follower), set(&["serde 2"]));
}

#[test]
fn a_history_that_is_squashed_or_set_back_is_followed_by_its_trees() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream.publish("rand", &["0.1.0"]);
    let first = pair.upstream.commit();
    let mut follower = pair.follower();
    follow(&mut follower);
    pair.upstream.publish("serde", &["1.0.0", "1.0.1"]);
    pair.upstream.commit();
    follow(&mut follower);
    pair.upstream.git(&["tag", "kept", &first]);

    pair.upstream.squash();
    assert_eq!(follow(&mut follower), set(&[]), "the tree is the same");
    pair.upstream.publish("tokio", &["0.1.0"]);
    pair.upstream.commit();
    assert_eq!(follow(&mut follower), set(&["tokio 1"]));

    pair.upstream.git(&["reset", "-q", "--hard", "kept"]);
    assert_eq!(follow(&mut follower), set(&["serde 1", "tokio gone"]));
}

#[test]
fn what_cannot_be_an_index_file_is_told_apart() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream
        .put("README.md", "not an index file, and nothing odd");
    pair.upstream.put("se/rd/serge", "<html>");
    pair.upstream.put("se/rd/other", "in the wrong folder");
    pair.upstream.put("se/rd/s.e", "no name");
    pair.upstream.put("se/rd/de/ep", "too deep to be looked at");
    pair.upstream.put("to/ol/tool", &"x".repeat(5000));
    pair.upstream.put("1/ä", "no name");
    std::os::unix::fs::symlink("serde", pair.upstream.dir.join("se/rd/serlink")).expect("a link");
    fs::create_dir(pair.upstream.dir.join("2")).expect("a folder");
    pair.upstream
        .put("2/ab/in", "a folder where a file should be");
    pair.upstream.commit();
    let mut follower = pair.follower();
    let fetched = follower.fetch(&never()).expect("a fetch");
    assert_eq!(
        changes(&follower, fetched),
        set(&[
            "serde 1",
            "serge 0",
            "other 0",
            "s.e 0",
            "tool larger than `upstream.max_index`",
            "ä 0",
            "serlink not a regular file",
            "in 0",
        ])
    );

    // What was odd and is mended is followed like anything new.
    publish(&mut follower, fetched.new);
    pair.upstream.publish("serge", &["1.0.0"]);
    fs::remove_dir_all(pair.upstream.dir.join("2/ab")).expect("it goes");
    pair.upstream.publish("ab", &["1.0.0"]);
    pair.upstream.commit();
    assert_eq!(follow(&mut follower), set(&["serge 1", "ab 1", "in gone"]));
}

#[test]
fn a_process_that_ends_between_fetch_and_publish_does_it_again() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream.commit();
    follow(&mut pair.follower());
    pair.upstream.publish("rand", &["1.0.0"]);
    pair.upstream.commit();
    for _ in 0..2 {
        let mut follower = pair.follower();
        let fetched = follower.fetch(&never()).expect("a fetch");
        assert_eq!(changes(&follower, fetched), set(&["rand 1"]));
    }
    assert_eq!(follow(&mut pair.follower()), set(&["rand 1"]));
}

#[test]
fn what_a_killed_process_left_behind_is_swept() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream.commit();
    follow(&mut pair.follower());
    let dir = pair.repository();
    let packs = pack_dir(&dir);
    let left = [
        dir.join("shallow.lock"),
        dir.join("HEAD.lock"),
        dir.join("refs/orlop/upstream.lock"),
        packs.join(".tmpAbCdEf"),
        packs.join("pack-00.pack"),
        packs.join("pack-11.keep"),
        beside(&dir, "new").join("HEAD"),
    ];
    fs::create_dir_all(beside(&dir, "new")).expect("a folder");
    for path in &left {
        fs::write(path, "left").expect("a file");
    }
    pair.upstream.publish("rand", &["1.0.0"]);
    pair.upstream.commit();
    assert_eq!(follow(&mut pair.follower()), set(&["rand 1"]));
    for path in &left {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn a_repository_that_is_damaged_is_made_anew() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream.commit();
    follow(&mut pair.follower());
    fs::write(pair.repository().join("config"), "[broken").expect("a file");
    assert_eq!(follow(&mut pair.follower()), set(&["serde 1"]));

    for path in files(&pack_dir(&pair.repository())).expect("a folder") {
        fs::remove_file(path).expect("it goes");
    }
    let mut follower = pair.follower();
    assert_eq!(follower.published(), None, "its objects are gone");
    follower.reset().expect("a new one");
    assert_eq!(follow(&mut follower), set(&["serde 1"]));
}

#[test]
fn the_repository_does_not_grow_for_ever() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["0.0.0"]);
    pair.upstream.commit();
    let mut follower = pair.follower();
    follow(&mut follower);
    for round in 0..MOST_PACKS + 20 {
        pair.upstream.publish("serde", &[&format!("1.0.{round}")]);
        pair.upstream.commit();
        assert_eq!(follow(&mut follower), set(&["serde 1"]));
        assert!(follower.packs().expect("a folder") <= MOST_PACKS + 1);
    }
    assert!(follower.packs().expect("a folder") < 30, "it was made anew");
    assert!(!beside(&pair.repository(), "old").exists());
    let shallow = fs::read_to_string(pair.repository().join("shallow")).expect("it is shallow");
    assert_eq!(shallow.lines().count(), 1);
    pair.upstream.publish("rand", &["1.0.0"]);
    pair.upstream.commit();
    assert_eq!(follow(&mut pair.follower()), set(&["rand 1"]));
}

#[test]
fn an_upstream_without_a_commit_is_told_apart_from_none() {
    let pair = Pair::new();
    let mut follower = pair.follower();
    assert!(matches!(follower.fetch(&never()), Err(Error::NoHead)));
    fs::remove_dir_all(&pair.upstream.dir).expect("it goes");
    assert!(matches!(
        follower.fetch(&never()),
        Err(Error::Unreachable { .. })
    ));
}

#[test]
fn a_fetch_that_is_told_to_stop_leaves_nothing_behind() {
    let pair = Pair::new();
    pair.upstream.publish("serde", &["1.0.0"]);
    pair.upstream.commit();
    let mut follower = pair.follower();
    follower
        .fetch(&AtomicBool::new(true))
        .expect_err("it was told to stop");
    assert_eq!(
        files(&pack_dir(&pair.repository())).expect("a folder"),
        Vec::<PathBuf>::new()
    );
    assert_eq!(follow(&mut follower), set(&["serde 1"]));
}
