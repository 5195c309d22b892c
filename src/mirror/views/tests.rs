//! What a view shows as files come and go, and its repository beside the store.

use std::{
    fs,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use super::{
    git::{ViewGit, Waiting},
    *,
};
use crate::{
    git::Head,
    mirror::generations::{Cutting, Fault},
    registry::{Checksum, Release, layout::parse_index_path},
    store::{self, Change, Changed, Changes, Validators},
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn name(text: &str) -> CrateName {
    CrateName::parse(text).expect("a good name")
}

fn content(krate: &str, patch: u32) -> Vec<u8> {
    format!("{krate} 1.0.{patch}").into_bytes()
}

fn line(krate: &str, patch: u32) -> String {
    let sum = Checksum::of(&content(krate, patch));
    format!(
        "{{\"name\":\"{krate}\",\"vers\":\"1.0.{patch}\",\"deps\":[],\"cksum\":\"{sum}\",\"features\":{{}},\"yanked\":false}}\n"
    )
}

/// A store and the repository of the view of what is held.
struct Place {
    dir: TempDir,
    store: Store,
    git: ViewGit,
    changes: Changes,
    time: u64,
}

impl Place {
    fn new() -> Place {
        let dir = TempDir::new().expect("a folder");
        let options = store::Options {
            cache_bytes: 4 << 20,
            ..store::Options::at(dir.path().join("data"))
        };
        let (store, _report) = Store::open(options, at(0)).expect("the store opens");
        let git = twin(&dir, &store);
        Place {
            changes: store.changes(),
            dir,
            store,
            git,
            time: 0,
        }
    }

    fn publish(&self, krate: &str, versions: u32) {
        let bytes: String = (0..versions).map(|patch| line(krate, patch)).collect();
        let change = Change::Index {
            name: name(krate),
            file: IndexFile::parse(&name(krate), bytes.into()).expect("a good file"),
            validators: Validators::default(),
            checked: at(0),
        };
        self.store.publish(vec![change], at(0)).expect("published");
    }

    fn hold(&self, krate: &str, patch: u32) {
        let bytes = content(krate, patch);
        let reserved = self.store.reserve(&Checksum::of(&bytes), None);
        let mut spool = reserved.expect("there is room");
        spool.write(&bytes).expect("written");
        let release = Release::parse(krate, &format!("1.0.{patch}")).expect("a release");
        spool.commit(&release, at(0)).expect("committed");
    }

    fn remove(&self, krate: &str, patch: u32) {
        let sum = Checksum::of(&content(krate, patch));
        let freed = self.store.remove_blob(&sum).expect("removed");
        assert!(freed.is_some());
    }

    fn shown(&self, krate: &str) -> String {
        let bytes = shown(&self.store, &View::held(), &name(krate)).expect("readable");
        String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("text")
    }

    fn run(&mut self, waiting: &Waiting) -> Option<Head> {
        self.time += 1;
        let ran = self
            .git
            .run(at(self.time), waiting, &AtomicBool::new(false));
        match ran.expect("it can be brought up to date") {
            Cutting::Cut(head) => Some(head),
            Cutting::Nothing => None,
        }
    }

    fn run_all(&mut self) -> Option<Head> {
        self.changes.take();
        self.run(&Waiting::everything())
    }

    /// Looks at what changed since the last time.
    fn run_changed(&mut self) -> Option<Head> {
        let mut waiting = Waiting::default();
        let changed = self.changes.take();
        assert!(!matches!(changed, Changed::Everything));
        waiting.add(changed);
        self.run(&waiting)
    }

    /// The file of a name in the newest commit.
    fn committed(&self, krate: &str) -> String {
        let repo = self.git.repo().expect("it is open");
        let head = repo.head().expect("there is a commit");
        let bytes = repo.file(head.id, &name(krate).index_path());
        let bytes = bytes.expect("readable").unwrap_or_default();
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    fn committed_names(&self) -> u64 {
        let repo = self.git.repo().expect("it is open");
        let head = repo.head().expect("there is a commit");
        let mut count = 0;
        repo.files(head.id, &mut |file| {
            count += u64::from(parse_index_path(&file.path).is_ok());
            std::ops::ControlFlow::Continue(())
        })
        .expect("readable");
        count
    }

    fn message(&self) -> String {
        let repo = self.git.repo().expect("it is open");
        let head = repo.head().expect("there is a commit");
        repo.commit_facts(head.id).expect("readable").message
    }
}

fn twin(dir: &TempDir, store: &Store) -> ViewGit {
    let git = ViewGit::new(
        Arc::new(View::held()),
        store.clone(),
        dir.path().join("data/git/views/held"),
        generations::Options::default(),
    );
    git.set_base(Some("https://mirror.test/view/held".to_owned()));
    git
}

#[test]
fn a_stamp_of_a_view_moves_with_files_and_that_of_the_root_does_not() {
    let place = Place::new();
    place.publish("demo", 2);
    let stamps = || {
        let demo = name("demo");
        (place.store.stamp(&demo), place.store.held_stamp(&demo))
    };
    let published = stamps();
    place.hold("demo", 0);
    let held = stamps();
    assert_eq!(held.0, published.0);
    assert_ne!(held.1, published.1);
    assert_eq!(place.shown("demo"), line("demo", 0));
    place.remove("demo", 0);
    let removed = stamps();
    assert_eq!(removed.0, published.0);
    assert_ne!(removed.1, held.1);
    assert_eq!(place.shown("demo"), "");
    place.publish("demo", 3);
    assert_ne!(stamps().1, removed.1);
}

#[test]
fn the_repository_follows_what_comes_and_goes() {
    let mut place = Place::new();
    place.publish("demo", 2);
    place.publish("other", 1);
    place.hold("demo", 0);
    assert_eq!(place.run_all().map(|head| head.generation), Some(1));
    assert_eq!(place.committed("demo"), line("demo", 0));
    assert_eq!((place.git.names(), place.committed_names()), (Some(1), 1));
    assert_eq!(place.run_all(), None, "it has everything");
    place.hold("demo", 1);
    place.hold("other", 0);
    assert_eq!(place.run_changed().map(|head| head.generation), Some(2));
    assert_eq!(place.committed("demo"), line("demo", 0) + &line("demo", 1));
    assert_eq!((place.git.names(), place.committed_names()), (Some(2), 2));
    let message = place.message();
    assert!(message.contains("2 crates: 1 new, 1 updated"), "{message}");
    place.remove("other", 0);
    place.remove("demo", 0);
    assert!(place.run_changed().is_some());
    assert_eq!(place.committed("demo"), line("demo", 1));
    assert_eq!((place.git.names(), place.committed_names()), (Some(1), 1));
    let message = place.message();
    assert!(message.contains("other: removed"), "{message}");
    // What the view does not show is no change of it.
    place.publish("other", 3);
    assert_eq!(place.run_changed(), None);
}

#[test]
fn what_changed_while_nobody_looked_is_found_by_comparing_all() {
    let mut place = Place::new();
    for krate in ["alpha", "beta", "gamma"] {
        place.publish(krate, 1);
        place.hold(krate, 0);
    }
    assert!(place.run_all().is_some());
    let first = place.git.repo().and_then(|repo| repo.head());
    place.remove("alpha", 0);
    place.publish("delta", 1);
    place.hold("delta", 0);
    // Another process: it knows nothing of what the last one wrote.
    place.git = twin(&place.dir, &place.store);
    let waiting = Waiting::default();
    let head = place.run(&waiting).expect("something changed");
    assert_eq!(head.generation, 2, "on top of {first:?}");
    assert_eq!(place.committed("alpha"), "");
    assert_eq!(place.committed("delta"), line("delta", 0));
    assert_eq!((place.git.names(), place.committed_names()), (Some(3), 3));
}

#[test]
fn a_repository_that_was_damaged_or_removed_begins_anew() {
    let mut place = Place::new();
    place.publish("demo", 1);
    place.hold("demo", 0);
    assert!(place.run_all().is_some());
    place.publish("other", 1);
    place.hold("other", 0);
    assert_eq!(place.run_changed().map(|head| head.generation), Some(2));
    let dir = place.dir.path().join("data/git/views/held");
    fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(place.run_changed().map(|head| head.generation), Some(1));
    assert_eq!((place.git.names(), place.committed_names()), (Some(2), 2));
    for pack in fs::read_dir(dir.join("objects/pack")).expect("readable") {
        fs::write(pack.expect("readable").path(), "rubbish").expect("written");
    }
    place.git = twin(&place.dir, &place.store);
    assert_eq!(place.run_all().map(|head| head.generation), Some(1));
    assert_eq!((place.git.names(), place.committed_names()), (Some(2), 2));
}

#[test]
fn another_base_makes_a_commit_and_none_makes_nothing() {
    let mut place = Place::new();
    place.git.set_base(None);
    assert_eq!(place.run_all(), None);
    assert!(!place.dir.path().join("data/git/views").exists());
    place.git.set_base(Some("http://one/view/held".to_owned()));
    assert_eq!(place.run_all().map(|head| head.generation), Some(1));
    place.git.set_base(Some("http://two/view/held".to_owned()));
    assert!(place.git.is_urgent());
    assert_eq!(place.run_changed().map(|head| head.generation), Some(2));
    let repo = place.git.repo().expect("open");
    let config = repo.file(repo.head().expect("a commit").id, "config.json");
    let config = config.expect("readable").expect("there");
    assert_eq!(
        config,
        r#"{"dl":"http://two/view/held/api/v1/crates","api":"http://two/view/held"}"#
    );
}

#[test]
fn a_run_that_is_told_to_stop_leaves_all_as_it_was() {
    let mut place = Place::new();
    place.publish("demo", 1);
    place.hold("demo", 0);
    let stopped = place
        .git
        .run(at(1), &Waiting::everything(), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Fault::Stopped)));
    assert_eq!(place.git.failing(), None);
    assert!(place.run_all().is_some());
    assert_eq!(place.committed("demo"), line("demo", 0));
}

#[test]
fn more_names_than_may_wait_become_everything() {
    let mut waiting = Waiting::default();
    let names = |range: std::ops::Range<u32>| {
        Changed::Names(range.map(|number| name(&format!("n{number}"))).collect())
    };
    assert!(!waiting.add(names(0..0)));
    assert!(waiting.add(names(0..4_000)));
    assert_eq!(waiting.count(), 4_000);
    assert!(waiting.add(names(3_000..6_000)));
    assert_eq!(waiting.count(), 1);
    let mut other = Waiting::default();
    other.add(names(0..3));
    other.merge(waiting);
    assert_eq!(other.count(), 1);
}
