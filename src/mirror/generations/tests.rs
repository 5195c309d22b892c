//! What holds between store and repository, each promise with the accident that it is made for.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use tempfile::TempDir;

use super::*;
use crate::{
    registry::Checksum,
    store::{Change, Validators},
};

const BASE: &str = "https://mirror.test";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn name(text: &str) -> CrateName {
    CrateName::parse(text).expect("a good name")
}

fn file(krate: &str, versions: u32) -> IndexFile {
    let line = |patch| {
        let sum = Checksum::of(format!("{krate}{patch}").as_bytes());
        format!(
            "{{\"name\":\"{krate}\",\"vers\":\"1.0.{patch}\",\"deps\":[],\"cksum\":\"{sum}\",\"features\":{{}},\"yanked\":false}}\n"
        )
    };
    let bytes: String = (0..versions).map(line).collect();
    IndexFile::parse(&name(krate), bytes.into()).expect("a good file")
}

fn publish(store: &Store, krate: &str, versions: u32) {
    let change = Change::Index {
        name: name(krate),
        file: file(krate, versions),
        validators: Validators::default(),
        checked: at(0),
    };
    store.publish(vec![change], at(0)).expect("published");
}

/// A data folder with both, which can be closed, damaged, and opened again.
struct Place {
    dir: TempDir,
    open: Option<(Store, Worker)>,
    time: u64,
}

impl Place {
    fn new() -> Place {
        let mut place = Place {
            dir: TempDir::new().expect("a folder"),
            open: None,
            time: 0,
        };
        place.reopen();
        place
    }

    fn path(&self, part: &str) -> std::path::PathBuf {
        self.dir.path().join("data").join(part)
    }

    fn reopen(&mut self) {
        self.close();
        let options = store::Options {
            cache_bytes: 4 << 20,
            ..store::Options::at(self.path(""))
        };
        let (store, _report) = Store::open(options, at(0)).expect("the store opens");
        let dir = self.path("git/index");
        let (repo, _report) = Repo::open(git::Options { dir }).expect("the repository opens");
        let worker = Worker {
            store: store.clone(),
            repo,
            is_reconciled: false,
            may: May::Begin,
            is_being_made: Arc::default(),
        };
        self.open = Some((store, worker));
    }

    fn close(&mut self) {
        if let Some((store, worker)) = self.open.take() {
            drop(worker);
            store.close().expect("closed");
        }
    }

    /// Takes files and folders away between two runs.
    fn lose(&mut self, parts: &[&str]) {
        self.close();
        for part in parts {
            let path = self.path(part);
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.expect("removed");
        }
        self.reopen();
    }

    fn store(&self) -> &Store {
        &self.open.as_ref().expect("open").0
    }

    fn worker(&mut self) -> &mut Worker {
        &mut self.open.as_mut().expect("open").1
    }

    fn cut(&mut self) -> Option<Head> {
        self.time += 1;
        let now = at(self.time);
        let run = self.worker().run(now, Some(BASE), &AtomicBool::new(false));
        match run.expect("it can be cut") {
            Cutting::Cut(head) => Some(head),
            Cutting::Nothing => None,
        }
    }

    fn head(&self) -> Head {
        let (_store, worker) = self.open.as_ref().expect("open");
        worker.repo.head().expect("a head")
    }

    /// Both have the same bytes of every name.
    #[track_caller]
    fn check(&self) {
        let (store, worker) = self.open.as_ref().expect("open");
        let head = self.head();
        let last = store.last_generation().expect("readable").expect("one");
        assert!(is_same(&last.facts, head), "{last:?} {head:?}");
        let mut files = Vec::new();
        let visit = &mut |file: git::TreeFile| {
            files.push((file.path, file.id));
            ControlFlow::Continue(())
        };
        worker.repo.files(head.id, visit).expect("readable");
        let mut names = 0;
        for (path, id) in &files {
            if path == CONFIG {
                continue;
            }
            let name = parse_index_path(path).expect("an index file");
            let snapshot = store.snapshot(&name).expect("readable").expect("there");
            assert_eq!(
                snapshot.bytes,
                worker.repo.blob(*id).expect("there"),
                "{name}"
            );
            names += 1;
        }
        let mut known = 0;
        store
            .names(|facts| {
                known += u32::from(facts.has_snapshot);
                ControlFlow::Continue(())
            })
            .expect("readable");
        assert_eq!((names, files.len()), (known, known as usize + 1));
    }

    /// Five generations.
    fn filled() -> Place {
        let mut place = Place::new();
        place.cut().expect("an empty index has its `config.json`");
        for krate in ["one", "two", "three"] {
            publish(place.store(), krate, 3);
        }
        place.cut().expect("three names");
        publish(place.store(), "two", 4);
        publish(place.store(), "four", 1);
        place.cut().expect("two names");
        publish(place.store(), "two", 9);
        place.cut().expect("one name");
        publish(place.store(), "two", 2);
        place.cut().expect("the same name again");
        place.check();
        place
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn what_did_not_change_makes_no_commit() {
    let mut place = Place::filled();
    let head = place.head();
    assert_eq!(place.cut(), None);
    // There and back again.
    publish(place.store(), "one", 4);
    publish(place.store(), "one", 3);
    assert_eq!(place.cut(), None);
    assert_eq!(place.store().staged().names, 0);
    place.reopen();
    assert_eq!(place.cut(), None);
    assert_eq!((place.head(), head.generation), (head, 5));
}

#[test]
fn another_base_alone_makes_a_commit() {
    let mut place = Place::filled();
    let stop = AtomicBool::new(false);
    let cut = place.worker().run(at(9), Some("https://other.test"), &stop);
    assert!(matches!(cut.expect("cut"), Cutting::Cut(head) if head.generation == 6));
    // Without a base the last one stays.
    publish(place.store(), "one", 7);
    place.worker().run(at(10), None, &stop).expect("cut");
    let head = place.head();
    let config = place.worker().repo.file(head.id, CONFIG);
    let config = config.expect("readable").expect("there");
    assert!(String::from_utf8_lossy(&config).contains("other.test"));
}

#[test]
fn a_commit_tells_what_changed() {
    let mut place = Place::filled();
    let head = place.head();
    let facts = |place: &mut Place, number| {
        let repo = &place.worker().repo;
        let id = repo.commit_of(number).expect("a commit");
        repo.commit_facts(id).expect("readable").message
    };
    assert_eq!(
        facts(&mut place, 3),
        "2 crates: 1 new, 1 updated\nfour: new, 1 version\ntwo: published 1.0.3"
    );
    assert_eq!(
        facts(&mut place, head.generation),
        "1 crate: 1 updated\ntwo: removed 1.0.2, removed 1.0.3, removed 1.0.4, removed 1.0.5, removed 1.0.6, and 2 more"
    );
}

#[test]
fn a_lost_repository_comes_back_with_the_same_commits() {
    let mut place = Place::filled();
    publish(place.store(), "two", 5);
    publish(place.store(), "late", 5);
    let head = place.head();
    place.lose(&["git"]);
    let stop = AtomicBool::new(false);
    place.worker().reconcile(&stop).expect("reconciled");
    assert_eq!(place.head(), head);
    assert_eq!(place.cut().expect("what was staged").generation, 6);
    place.check();
}

#[test]
fn while_commits_are_made_again_no_older_head_is_shown() {
    let mut place = Place::filled();
    let head = place.head();
    place.lose(&["git"]);
    let (store, worker) = place.open.as_ref().expect("open");
    let generations = Generations::new(Options::default(), store.clone(), worker.repo.clone());
    generations.set_base(Some(BASE.to_owned()));
    // From the start on, and after a stop on the way.
    assert_eq!(generations.state(), GitState::BeingMade);
    let stopped = generations.run(at(9), May::Cut, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Fault::Stopped)), "{stopped:?}");
    assert_eq!(generations.state(), GitState::BeingMade);
    let run = generations.run(at(9), May::Cut, &AtomicBool::new(false));
    assert_eq!(run.expect("made"), Cutting::Nothing);
    assert_eq!(generations.state(), GitState::Ready);
    drop(generations);
    assert_eq!(place.head(), head);
}

#[test]
fn the_first_commit_waits_for_all_that_is_to_be_in_it() {
    let mut place = Place::new();
    publish(place.store(), "one", 1);
    place.worker().may = May::Cut;
    assert_eq!(place.cut(), None);
    publish(place.store(), "two", 1);
    place.worker().may = May::Begin;
    assert_eq!(place.cut().expect("both").generation, 1);
    place.check();
    publish(place.store(), "two", 2);
    place.cut().expect("a change");
    // One that was there before is made again at once.
    place.lose(&["git"]);
    place.store().forget_generation_for_test(1);
    place.worker().may = May::Cut;
    place.cut();
    place.check();
}

#[test]
fn a_look_mends_and_leaves_what_is_staged_to_its_time() {
    let mut place = Place::filled();
    let head = place.head();
    publish(place.store(), "two", 7);
    place.worker().may = May::Look;
    assert_eq!(place.cut(), None);
    assert_eq!(place.head(), head);
    // Another base does not wait, and what is staged goes with it.
    let stop = AtomicBool::new(false);
    let cut = place.worker().run(at(9), Some("https://other.test"), &stop);
    assert!(matches!(cut, Ok(Cutting::Cut(_))), "{cut:?}");
    assert_eq!(place.store().staged().names, 0);
}

#[test]
fn an_older_repository_gets_its_newer_commits_again() {
    let mut place = Place::filled();
    place.close();
    copy(&place.path("git"), &place.path("../old"));
    place.reopen();
    publish(place.store(), "two", 7);
    publish(place.store(), "five", 7);
    place.cut().expect("cut");
    publish(place.store(), "two", 8);
    let head = place.cut().expect("cut");
    place.close();
    fs::remove_dir_all(place.path("git")).expect("removed");
    copy(&place.path("../old"), &place.path("git"));
    place.reopen();
    assert_eq!(place.cut(), None);
    assert_eq!(place.head(), head);
    place.check();
}

#[test]
fn a_stop_between_commit_and_record_is_made_good() {
    let mut place = Place::filled();
    place.close();
    copy(&place.path("git"), &place.path("../before"));
    place.reopen();
    publish(place.store(), "two", 5);
    publish(place.store(), "six", 5);
    let (store, worker) = place.open.as_mut().expect("open");
    let mut cut = store.cut(false).expect("cut");
    let commit = Commit {
        generation: 6,
        time: at(50),
        message: "stopped".to_owned(),
    };
    worker.commit(&commit, &mut cut, None).expect("committed");
    drop(cut);
    // Changes go on until the stop.
    publish(place.store(), "six", 6);
    publish(place.store(), "seven", 1);
    place.reopen();
    let stopped = place.head();
    assert_eq!(place.cut().expect("what came later").generation, 7);
    place.check();
    // And the record is as good as any.
    let head = place.head();
    place.lose(&["git"]);
    assert_eq!(place.cut(), None);
    assert_eq!(place.head(), head);
    assert_eq!(place.worker().repo.commit_of(6), Some(stopped.id));
}

#[test]
fn a_stop_between_the_first_commit_and_its_record_is_made_good() {
    let mut place = Place::new();
    publish(place.store(), "one", 5);
    publish(place.store(), "two", 5);
    let (store, worker) = place.open.as_mut().expect("open");
    let mut cut = store.cut(true).expect("cut");
    let commit = Commit {
        generation: 1,
        time: at(50),
        message: "stopped".to_owned(),
    };
    let config = worker.new_config(None, Some(BASE)).expect("made");
    worker.commit(&commit, &mut cut, config).expect("committed");
    drop(cut);
    publish(place.store(), "three", 1);
    place.reopen();
    assert_eq!(place.cut().expect("what came later").generation, 2);
    place.check();
    let head = place.head();
    place.lose(&["git"]);
    assert_eq!((place.cut(), place.head()), (None, head));
    place.check();
}

#[test]
fn a_failed_cut_loses_nothing() {
    let mut place = Place::filled();
    publish(place.store(), "two", 5);
    let mut cut = place.store().cut(false).expect("cut");
    assert!(cut.next().is_some());
    drop(cut);
    publish(place.store(), "two", 6);
    publish(place.store(), "six", 6);
    assert_eq!(place.cut().expect("cut").generation, 6);
    place.check();
    let head = place.head();
    place.lose(&["git"]);
    assert_eq!(place.cut(), None);
    assert_eq!(place.head(), head);
}

#[test]
fn what_changes_during_a_cut_is_in_the_next() {
    let mut place = Place::filled();
    publish(place.store(), "two", 5);
    publish(place.store(), "six", 1);
    let (store, worker) = place.open.as_mut().expect("open");
    let store = store.clone();
    let mut cut = store.cut(false).expect("cut");
    publish(&store, "two", 6);
    publish(&store, "seven", 1);
    let commit = Commit {
        generation: 6,
        time: at(50),
        message: "cut".to_owned(),
    };
    let (parent, id) = worker.commit(&commit, &mut cut, None).expect("committed");
    let two = worker.repo.file(id, "3/t/two").expect("readable");
    assert_eq!(two.as_ref(), Some(file("two", 5).bytes()));
    assert_eq!(worker.repo.file(id, "se/ve/seven").expect("readable"), None);
    let facts = worker.facts_of(id, parent).expect("readable");
    cut.publish(facts).expect("recorded");
    worker.is_reconciled = true;
    assert_eq!(store.staged().names, 2);
    drop(store);
    let head = place.cut().expect("the rest");
    place.check();
    place.lose(&["git"]);
    assert_eq!((place.cut(), place.head()), (None, head));
}

#[test]
fn a_lost_sled_gets_its_files_from_the_repository() {
    let mut place = Place::filled();
    let head = place.head();
    place.lose(&["sled"]);
    assert!(
        place
            .store()
            .snapshot(&name("two"))
            .expect("readable")
            .is_none()
    );
    place.worker().restore_index().expect("restored");
    let snapshot = place
        .store()
        .snapshot(&name("two"))
        .expect("readable")
        .expect("back");
    assert_eq!(snapshot.bytes, file("two", 2).bytes());
    assert_eq!(snapshot.facts.etag, None);
    // Stale: asked for again when it is next needed.
    assert_eq!(snapshot.facts.checked, at(5));
    assert_eq!(place.cut(), None);
    assert_eq!(place.head(), head);
    publish(place.store(), "two", 3);
    assert_eq!(place.cut().expect("goes on").generation, 6);
    place.check();
    // The way back ends where sled was lost: a repository that is lost too starts anew.
    place.lose(&["git"]);
    assert_eq!(place.cut().expect("a new root").generation, 7);
    place.check();
}

#[test]
fn a_repository_that_is_damaged_while_it_runs_is_made_again() {
    let mut place = Place::filled();
    let head = place.head();
    let packs = place.path("git/index/objects/pack");
    // In their places, where they are read from.
    for pack in fs::read_dir(packs).expect("readable") {
        let path = pack.expect("readable").path();
        let length = fs::metadata(&path).expect("facts").len();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("writable");
        fs::write(path, vec![7; length.try_into().expect("small")]).expect("written");
    }
    publish(place.store(), "two", 7);
    let stop = AtomicBool::new(false);
    let failed = place.worker().run(at(90), Some(BASE), &stop);
    assert!(
        matches!(&failed, Err(Fault::Git(error)) if error.is_damage()),
        "{failed:?}"
    );
    assert!(place.path("git/index.broken-1").exists());
    assert_eq!(place.cut().expect("what was staged").generation, 6);
    assert_eq!(place.worker().repo.commit_of(5), Some(head.id));
    place.check();
}

#[test]
fn a_repository_that_is_removed_while_it_runs_is_made_again() {
    let mut place = Place::filled();
    for (times, removed) in ["git", "git/index", "git/index/objects"].iter().enumerate() {
        let head = place.head();
        fs::remove_dir_all(place.path(removed)).expect("removed");
        publish(place.store(), "two", 7 + u32::try_from(times).expect("few"));
        let next = place.cut().expect("what was staged").generation;
        assert_eq!(next, head.generation + 1);
        let again = place.worker().repo.commit_of(head.generation);
        assert_eq!(again, Some(head.id), "{removed}");
        place.check();
    }
    // The empty one that somebody makes in its place has not the parent of what changed.
    let head = place.head();
    fs::remove_dir_all(place.path("git/index/objects/pack")).expect("removed");
    fs::remove_file(place.path("git/index/refs/heads/master")).expect("removed");
    fs::create_dir(place.path("git/index/objects/pack")).expect("made");
    publish(place.store(), "one", 11);
    let stop = AtomicBool::new(false);
    assert!(place.worker().run(at(90), Some(BASE), &stop).is_err());
    place.cut().expect("what was staged");
    let again = place.worker().repo.commit_of(head.generation);
    assert_eq!(again, Some(head.id));
    place.check();
}

/// Flips a bit in the newest file of a name.
fn damage(place: &mut Place, krate: &str) {
    let head = place.head();
    let blobs = place.worker().blobs_of(head, &|_all| true);
    let blob = blobs.expect("readable").take(&name(krate)).expect("there");
    place.close();
    for pack in fs::read_dir(place.path("git/index/objects/pack")).expect("readable") {
        let path = pack.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "pack") {
            continue;
        }
        let mut git = Command::new("git");
        let list = git.args(["verify-pack", "-v"]).arg(&path).output();
        let list = String::from_utf8(list.expect("git can be run").stdout).expect("text");
        let line = list
            .lines()
            .find(|line| line.starts_with(&blob.to_string()));
        let Some(line) = line else { continue };
        let number = |at| line.split_whitespace().nth(at).expect("a column");
        let number = |at| number(at).parse::<usize>().expect("a number");
        let mut bytes = fs::read(&path).expect("readable");
        bytes[number(4) + number(3) - 2] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("writable");
        fs::write(&path, bytes).expect("written");
        return;
    }
    panic!("no pack has it");
}

#[test]
fn a_lost_sled_takes_what_can_be_read_from_a_damaged_repository() {
    for journal in [true, false] {
        let mut place = Place::filled();
        damage(&mut place, "two");
        fs::remove_dir_all(place.path("sled")).expect("removed");
        if !journal {
            fs::remove_file(place.path("journal")).expect("removed");
        }
        place.reopen();
        let stop = AtomicBool::new(false);
        let _may_fail = place.worker().run(at(90), Some(BASE), &stop);
        for (krate, versions) in [("one", 3), ("three", 3), ("four", 1)] {
            let snapshot = place.store().snapshot(&name(krate)).expect("readable");
            let snapshot = snapshot.expect("back");
            assert_eq!(snapshot.bytes, file(krate, versions).bytes(), "{krate}");
        }
        let lost = place.store().entry(&name("two")).expect("readable");
        assert_eq!(
            lost.map(|facts| facts.has_snapshot),
            journal.then_some(false)
        );
        let _may_have_nothing = place.worker().run(at(91), Some(BASE), &stop);
        // It comes from upstream, and all is well.
        publish(place.store(), "two", 2);
        place.worker().run(at(92), Some(BASE), &stop).expect("cut");
        publish(place.store(), "two", 3);
        place.cut().expect("cut");
        place.check();
    }
}

#[test]
fn a_sled_that_is_lost_with_the_journal_gets_its_files_too() {
    let mut place = Place::filled();
    let head = place.head();
    place.lose(&["sled", "journal"]);
    assert_eq!(place.cut(), None);
    assert_eq!(place.head(), head);
    place.check();
}

#[test]
fn a_repository_of_somebody_else_is_brought_to_our_state() {
    let mut other = Place::filled();
    publish(other.store(), "alien", 1);
    for versions in 5..9 {
        publish(other.store(), "one", versions);
        other.cut().expect("cut");
    }
    other.close();
    let mut place = Place::new();
    publish(place.store(), "ours", 1);
    publish(place.store(), "one", 1);
    place.cut().expect("cut");
    place.close();
    fs::remove_dir_all(place.path("git")).expect("removed");
    copy(&other.path("git"), &place.path("git"));
    place.reopen();
    assert_eq!(place.cut().expect("cut").generation, 10);
    place.check();
    assert!(
        place
            .store()
            .entry(&name("alien"))
            .expect("readable")
            .is_none()
    );
}

#[test]
fn a_damaged_way_back_ends_in_a_new_root() {
    let mut place = Place::filled();
    place.lose(&["git"]);
    place.store().forget_generation_for_test(3);
    assert_eq!(place.cut().expect("a new root").generation, 6);
    place.check();
    // From here on the way back is known again.
    publish(place.store(), "one", 8);
    let head = place.cut().expect("cut");
    place.lose(&["git"]);
    assert_eq!((place.cut(), place.head()), (None, head));
}

#[test]
fn a_generation_is_due_after_quiet_and_in_time() {
    let start = Instant::now();
    let mut pace = Pace::new(Options {
        quiet_for: Duration::from_secs(5),
        cut_within: Duration::from_secs(60),
    });
    let mut due = |second: u64, names: u64, changes: u64| {
        let staged = Staged { names, changes };
        pace.is_due(staged, false, start + Duration::from_secs(second))
    };
    assert!(!due(0, 0, 0));
    assert!(!due(100, 1, 1));
    assert!(!due(104, 1, 1));
    assert!(due(105, 1, 1));
    // Changes that keep coming: in time all the same.
    assert!(!due(106, 2, 2));
    let first = (107..170).find(|second| due(*second, 2, *second));
    assert_eq!(first, Some(160));
    pace.ended(Some(true), 160, start + Duration::from_secs(161));
    let staged = |changes| Staged { names: 1, changes };
    let after = |second| start + Duration::from_secs(second);
    assert!(!pace.is_due(staged(170), false, after(162)));
    assert!(pace.is_due(staged(170), false, after(168)));
    // A failure is waited out, longer each time, and nothing is due before.
    pace.ended(None, 170, after(168));
    assert!(!pace.is_due(staged(170), true, after(168)));
    assert!(pace.is_due(staged(170), true, after(169)));
    pace.ended(None, 170, after(169));
    assert!(!pace.is_due(staged(170), true, after(170)));
    assert!(pace.is_due(staged(170), true, after(171)));
    // What cannot be committed is not tried for ever.
    pace.ended(Some(false), 170, after(200));
    assert!(!pace.is_due(staged(170), false, after(900)));
    assert!(!pace.is_due(staged(171), false, after(901)));
    assert!(pace.is_due(staged(171), false, after(907)));
}
