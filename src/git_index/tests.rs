//! What holds between store and repositories, each promise with the accident that it is made for.

use std::{fs, ops::ControlFlow, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use tempfile::TempDir;

use super::*;
use crate::{
    git::{ObjectId, TreeFile},
    policy::rule::{Facts, IndexLine, Judgement, Rule},
    registry::{Checksum, CrateName, IndexFile, Release, layout::parse_index_path},
    store::{Change, Published, Validators},
};

const BASE: &str = "https://mirror.test";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
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

fn file(krate: &str, versions: u32) -> IndexFile {
    let bytes: String = (0..versions).map(|patch| line(krate, patch)).collect();
    IndexFile::parse(&name(krate), bytes.into()).expect("a good file")
}

fn publish_at(store: &Store, krate: &str, versions: u32, checked: SystemTime) {
    let change = Change::Index {
        name: name(krate),
        file: file(krate, versions),
        validators: Validators::default(),
        checked,
    };
    store.publish(vec![change], checked).expect("published");
}

fn publish(store: &Store, krate: &str, versions: u32) {
    publish_at(store, krate, versions, at(0));
}

fn hold(store: &Store, krate: &str, patch: u32) {
    let bytes = content(krate, patch);
    let reserved = store.reserve(&Checksum::of(&bytes), None);
    let mut spool = reserved.expect("there is room");
    spool.write(&bytes).expect("written");
    let release = Release::parse(krate, &format!("1.0.{patch}")).expect("a version");
    spool.commit(&release, at(0)).expect("committed");
}

fn unhold(store: &Store, krate: &str, patch: u32) {
    let sum = Checksum::of(&content(krate, patch));
    assert!(store.remove_blob(&sum).expect("removed").is_some());
}

fn run(index: &GitIndex, seconds: u64) -> Result<Option<Head>, Fault> {
    index.run(at(seconds), &AtomicBool::new(false))
}

/// A data folder that is open.
struct Opened {
    store: Store,
    all: GitIndex,
    held: GitIndex,
}

impl Opened {
    fn new(data: &Path) -> Opened {
        Opened::on(data, store::SpaceProbe::default())
    }

    fn on(data: &Path, space: store::SpaceProbe) -> Opened {
        let options = store::Options {
            cache_bytes: 4 << 20,
            space,
            ..store::Options::at(data)
        };
        let (store, _report) = Store::open(options, at(0)).expect("the store opens");
        let dir = data.join("git/index");
        let (repo, _report) = Repo::open(git::Options { dir }).expect("the repository opens");
        let index = |view: View, repo| {
            let dir = data.join("git/views").join(view.name());
            let index = GitIndex::new(Arc::new(view), store.clone(), dir, Options::default(), repo);
            index.set_base(Some(index.view.base_url(BASE)));
            index
        };
        let all = index(View::all(), Some(repo));
        let held = index(View::held(), None);
        Opened { store, all, held }
    }
}

/// A data folder, which can be closed, damaged, and opened again.
struct Place {
    dir: TempDir,
    open: Option<Opened>,
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

    /// As it was found after a kill: a copy of all files, as they are now.
    fn killed(&self) -> Place {
        let dir = TempDir::new().expect("a folder");
        copy(&self.path(""), &dir.path().join("data"));
        let mut place = Place {
            dir,
            open: None,
            time: self.time,
        };
        place.reopen();
        place
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join("data").join(part)
    }

    fn reopen(&mut self) {
        self.close();
        let open = Opened::new(&self.path(""));
        open.all.recover_at_start();
        self.open = Some(open);
    }

    fn close(&mut self) {
        if let Some(Opened { store, all, held }) = self.open.take() {
            drop((all, held));
            store.close().expect("closed");
        }
    }

    /// Takes files and folders away between two runs.
    fn lose(&mut self, parts: &[&str]) {
        self.close();
        for part in parts {
            remove(&self.path(part));
        }
        self.reopen();
    }

    /// Keeps a copy of parts of the folder, closed in order.
    fn keep(&mut self, parts: &[&str]) {
        self.close();
        for part in parts {
            copy(&self.path(part), &self.dir.path().join("kept").join(part));
        }
        self.reopen();
    }

    /// Puts the copy of a part in its place, and opens all.
    fn put_back(&mut self, parts: &[&str]) {
        self.close();
        for part in parts {
            remove(&self.path(part));
            copy(&self.dir.path().join("kept").join(part), &self.path(part));
        }
        self.reopen();
    }

    fn opened(&self) -> &Opened {
        self.open.as_ref().expect("open")
    }

    fn store(&self) -> &Store {
        &self.opened().store
    }

    fn all(&self) -> &GitIndex {
        &self.opened().all
    }

    fn held(&self) -> &GitIndex {
        &self.opened().held
    }

    fn repo(&self) -> &Repo {
        self.all().repo().expect("open")
    }

    fn cut(&mut self) -> Option<Head> {
        self.time += 1;
        run(self.all(), self.time).expect("it can be published")
    }

    fn cut_held(&mut self) -> Option<Head> {
        self.time += 1;
        run(self.held(), self.time).expect("it can be published")
    }

    fn head(&self) -> Head {
        self.all().head().expect("a head")
    }

    fn change_of_head(&self) -> u64 {
        let facts = self.repo().commit_facts(self.head().id);
        facts.expect("readable").change
    }

    fn bytes(&self, krate: &str) -> Option<bytes::Bytes> {
        let snapshot = self.store().snapshot(&name(krate)).expect("readable");
        snapshot.map(|snapshot| snapshot.bytes)
    }

    #[track_caller]
    fn has(&self, krate: &str, versions: u32) {
        let expected = file(krate, versions).bytes().clone();
        assert_eq!(self.bytes(krate), Some(expected), "{krate}");
    }

    /// Both have the same bytes of every name, and the store knows what was published.
    #[track_caller]
    fn check(&self) {
        let head = self.head();
        let noted = self.store().published("all").expect("readable");
        let noted = noted.expect("it was noted");
        assert_eq!(noted.commit, head.id.as_slice());
        assert_eq!(noted.generation, head.generation);
        assert!(self.change_of_head() <= self.store().change_number());
        let files = files(self.repo(), head);
        let mut names = 0;
        for (path, id) in &files {
            if path == CONFIG {
                continue;
            }
            let name = parse_index_path(path).expect("an index file");
            let bytes = self.repo().blob(*id).expect("there");
            assert_eq!(self.bytes(name.as_str()), Some(bytes), "{name}");
            names += 1;
        }
        let mut known = 0;
        self.store()
            .names(|facts| {
                known += u32::from(facts.has_snapshot);
                ControlFlow::Continue(())
            })
            .expect("readable");
        assert_eq!((names, files.len()), (known, known as usize + 1));
        let mut git = Command::new("git");
        let git = git.args(["-c", "safe.directory=*", "--git-dir"]);
        let fsck = git.arg(self.path("git/index")).args(["fsck", "--strict"]);
        let fsck = fsck.output().expect("git can be run");
        assert!(fsck.status.success(), "{fsck:?}");
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

    /// The history from the first commit that a client has goes on.
    #[track_caller]
    fn goes_on_from(&self, head: Head) {
        assert_eq!(self.repo().commit_of(head.generation), Some(head.id));
    }

    /// The head is a new root with everything, and the next commit lies on it.
    #[track_caller]
    fn is_new_root(&mut self) {
        self.check();
        assert_eq!(self.head().generation, 1);
        assert!(self.path("git/index.broken-1").exists());
        assert_eq!(self.all().state(), GitState::Ready);
        publish(self.store(), "three", 9);
        assert_eq!(self.cut().expect("a change").generation, 2);
        self.check();
        self.reopen();
        assert_eq!(self.cut(), None);
    }
}

fn files(repo: &Repo, head: Head) -> Vec<(String, ObjectId)> {
    let mut files = Vec::new();
    let visit = &mut |file: TreeFile| {
        files.push((file.path, file.id));
        ControlFlow::Continue(())
    };
    repo.files(head.id, visit).expect("readable");
    files
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).expect("copied");
        return;
    }
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

fn remove(path: &Path) {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.expect("removed");
}

// --- what a run commits

#[test]
fn what_did_not_change_makes_no_commit() {
    let mut place = Place::filled();
    let head = place.head();
    assert_eq!(place.cut(), None);
    // There and back again.
    publish(place.store(), "one", 4);
    publish(place.store(), "one", 3);
    assert_eq!(place.all().waiting_names(), 1);
    assert_eq!(place.cut(), None);
    assert_eq!(place.all().waiting_names(), 0);
    place.reopen();
    assert_eq!(place.all().waiting_names(), 0, "nothing has to be compared");
    assert_eq!(place.cut(), None);
    assert_eq!((place.head(), head.generation), (head, 5));
}

#[test]
fn another_base_alone_makes_a_commit() {
    let mut place = Place::filled();
    assert!(!place.all().is_urgent());
    place.all().set_base(Some("https://other.test".to_owned()));
    assert!(place.all().is_urgent());
    assert_eq!(place.cut().expect("a commit").generation, 6);
    // Without a base the last one stays.
    place.all().set_base(None);
    assert!(!place.all().is_urgent());
    publish(place.store(), "one", 7);
    place.cut().expect("a commit");
    let config = place.repo().file(place.head().id, CONFIG);
    let config = config.expect("readable").expect("there");
    assert!(String::from_utf8_lossy(&config).contains("other.test"));
}

#[test]
fn a_commit_tells_what_changed() {
    let place = Place::filled();
    let message = |number| {
        let id = place.repo().commit_of(number).expect("a commit");
        place.repo().commit_facts(id).expect("readable").message
    };
    assert_eq!(
        message(3),
        "2 crates: 1 new, 1 updated\nfour: new, 1 version\ntwo: published 1.0.3"
    );
    assert_eq!(
        message(5),
        "1 crate: 1 updated\ntwo: removed 1.0.2, removed 1.0.3, removed 1.0.4, removed 1.0.5, removed 1.0.6, and 2 more"
    );
}

#[test]
fn what_changes_while_a_commit_is_made_is_in_it_or_in_the_next() {
    let mut place = Place::filled();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let store = place.store().clone();
        let stop = &stop;
        let writer = scope.spawn(move || {
            for round in 0.. {
                for krate in ["one", "two", "five", "six"] {
                    publish(&store, krate, round % 5 + 1);
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            place.cut();
            assert!(place.change_of_head() <= place.store().change_number());
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("it ends");
    });
    place.cut();
    place.check();
}

#[test]
fn a_failed_commit_loses_nothing() {
    let mut place = Place::filled();
    publish(place.store(), "two", 5);
    let lock = place.path("git/index/refs/heads/master.lock");
    fs::create_dir(&lock).expect("made");
    assert!(matches!(run(place.all(), 90), Err(Fault::Git(_))));
    assert!(place.all().failing().is_some() && place.all().is_urgent());
    fs::remove_dir(&lock).expect("removed");
    publish(place.store(), "six", 6);
    assert_eq!(place.cut().expect("both").generation, 6);
    assert_eq!(place.all().failing(), None);
    place.check();
}

#[test]
fn a_run_that_is_told_to_stop_leaves_all_as_it_was() {
    let mut place = Place::filled();
    let head = place.head();
    publish(place.store(), "two", 5);
    let stopped = place.all().run(at(90), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Fault::Stopped)));
    assert_eq!((place.all().failing(), place.head()), (None, head));
    assert_eq!(place.cut().expect("a change").generation, 6);
    place.check();
}

#[test]
fn the_first_commit_waits_for_all_that_is_to_be_in_it() {
    let mut place = Place::new();
    let data = place.path("");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    place.close();
    let Opened { store, mut all, .. } = Opened::new(&data);
    all.options.quiet_for = Duration::from_millis(10);
    all.recover_at_start();
    publish(&store, "one", 1);
    let all = Arc::new(all);
    let is_filling = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&is_filling);
    let work = Arc::clone(&all).keep_publishing(
        Clock::start(),
        Arc::new(Metrics::new().expect("metrics")),
        move || asked.load(Ordering::SeqCst),
        Arc::default(),
    );
    let work = runtime.spawn(work);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(all.head(), None);
    publish(&store, "two", 1);
    is_filling.store(false, Ordering::SeqCst);
    let until = Instant::now() + Duration::from_secs(20);
    while all.head().is_none() {
        assert!(Instant::now() < until, "no commit was made");
        std::thread::sleep(Duration::from_millis(5));
    }
    let head = all.head().expect("a head");
    assert_eq!(
        (
            head.generation,
            files(all.repo().expect("open"), head).len()
        ),
        (1, 3)
    );
    // What waits at the end is committed.
    publish(&store, "three", 1);
    assert!(all.end());
    runtime.block_on(work).expect("it ends");
    assert_eq!(all.waiting_names(), 0);
    assert_eq!(all.head().map(|head| head.generation), Some(2));
}

// --- the guard: a store that lost changes

/// Without the guard the older file of `two` would be published over the newer one.
#[test]
fn a_sled_behind_the_head_is_recovered_from_it_and_the_history_goes_on() {
    for parts in [&["sled"][..], &["sled", "journal"]] {
        let mut place = Place::filled();
        place.keep(parts);
        publish(place.store(), "two", 7);
        publish(place.store(), "late", 2);
        place.cut().expect("two names");
        publish(place.store(), "two", 8);
        let head = place.cut().expect("one name");
        let change = place.change_of_head();
        assert_eq!(change, place.store().change_number());
        place.put_back(parts);
        place.has("two", 8);
        place.has("late", 2);
        place.has("one", 3);
        assert!(place.store().change_number() >= change);
        assert_eq!((place.cut(), place.head()), (None, head));
        place.check();
        publish(place.store(), "late", 3);
        assert_eq!(place.cut().expect("a change").generation, 8);
        place.goes_on_from(head);
        place.check();
        // Once is enough.
        place.reopen();
        assert_eq!(place.all().waiting_names(), 0);
        place.check();
    }
}

#[test]
fn what_came_after_the_head_is_not_recovered_over() {
    let mut place = Place::filled();
    place.keep(&["sled"]);
    publish(place.store(), "two", 7);
    publish(place.store(), "one", 7);
    let head = place.cut().expect("a change");
    place.close();
    remove(&place.path("sled"));
    copy(&place.dir.path().join("kept/sled"), &place.path("sled"));
    // It could not be recovered at the start, and upstream was asked meanwhile.
    place.open = Some(Opened::new(&place.path("")));
    publish_at(place.store(), "two", 9, at(place.time + 9));
    assert!(place.all().is_urgent());
    assert_eq!(place.cut().expect("what came").generation, 7);
    place.has("two", 9);
    place.has("one", 7);
    place.goes_on_from(head);
    place.check();
}

#[test]
fn a_sled_that_is_rebuilt_while_it_runs_gets_its_files_back() {
    let mut place = Place::filled();
    publish(place.store(), "two", 7);
    for number in 0..200 {
        publish(place.store(), &format!("filler-{number}"), 1);
    }
    let head = place.cut().expect("a change");
    let data = place.path("");
    // The files break under the open store, which has read only its first page.
    place.reopen();
    for entry in fs::read_dir(data.join("sled")).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_file() {
            let length = fs::metadata(&path).expect("facts").len();
            fs::write(&path, vec![0x5a; usize::try_from(length).expect("small")]).expect("written");
        }
    }
    let until = Instant::now() + Duration::from_secs(20);
    while place.store().reopened() == 0 {
        assert!(Instant::now() < until, "it was not opened anew");
        let _damaged = place.store().snapshot(&name("filler-99"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(place.all().is_urgent());
    assert_eq!((place.cut(), place.head()), (None, head));
    place.check();
    place.has("two", 7);
}

#[test]
fn a_lost_sled_gets_its_files_from_the_repository() {
    let mut place = Place::filled();
    let head = place.head();
    place.close();
    remove(&place.path("sled"));
    place.open = Some(Opened::new(&place.path("")));
    assert_eq!(place.bytes("two"), None);
    place.all().recover_at_start();
    place.has("two", 2);
    let facts = place.store().entry(&name("two")).expect("readable");
    let facts = facts.expect("known");
    assert_eq!(facts.etag, None);
    // Stale: asked for again when it is next needed.
    assert_eq!(facts.checked, at(5));
    assert_eq!((place.cut(), place.head()), (None, head));
    assert!(place.store().change_number() >= place.change_of_head());
    publish(place.store(), "two", 3);
    assert_eq!(place.cut().expect("goes on").generation, 6);
    place.goes_on_from(head);
    place.check();
}

#[test]
fn a_sled_that_is_lost_with_the_journal_gets_its_files_too() {
    let mut place = Place::filled();
    let head = place.head();
    place.lose(&["sled", "journal"]);
    assert_eq!((place.cut(), place.head()), (None, head));
    place.check();
}

fn git(repo: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    let git = git.args(["-c", "safe.directory=*", "--git-dir"]).arg(repo);
    let done = git.args(arguments).output().expect("git can be run");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).expect("text")
}

/// The pack that has an object (`HEAD~1`, `HEAD:pa/th`), where it begins there, and its length.
fn find_object(repo: &Path, object: &str) -> (PathBuf, usize, usize) {
    let id = git(repo, &["rev-parse", object]);
    for pack in fs::read_dir(repo.join("objects/pack")).expect("readable") {
        let path = pack.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "pack") {
            continue;
        }
        let list = git(repo, &["verify-pack", "-v", path.to_str().expect("text")]);
        let line = list.lines().find(|line| line.starts_with(id.trim()));
        let Some(line) = line else { continue };
        let number = |at| line.split_whitespace().nth(at).expect("a column");
        let number = |at| number(at).parse::<usize>().expect("a number");
        return (path, number(4), number(3));
    }
    panic!("no pack has `{object}`");
}

fn rewrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("writable");
    fs::write(path, bytes).expect("written");
}

/// Flips a bit of an object.
fn flip(repo: &Path, object: &str) {
    let (pack, start, length) = find_object(repo, object);
    rewrite(&pack, |bytes| bytes[start + length - 2] ^= 1);
}

fn remove_pack_of(repo: &Path, object: &str) {
    remove(&find_object(repo, object).0);
}

/// The newest file of a name.
fn newest(krate: &str) -> String {
    format!("HEAD:{}", name(krate).index_path())
}

/// Flips a bit in the newest file of a name.
fn damage(place: &mut Place, krate: &str) {
    place.close();
    flip(&place.path("git/index"), &newest(krate));
}

type Damage = fn(&Path);

/// Ways to damage a repository so that it cannot be used, and the names that it loses.
const DAMAGE: &[(&str, Damage, &[&str])] = &[
    ("an old commit", |repo| flip(repo, "HEAD~3"), &[]),
    (
        "a child of the root tree",
        |repo| remove_pack_of(repo, &newest("four")[..7]),
        &["four"],
    ),
    (
        "a lost branch",
        |repo| {
            flip(repo, "HEAD~3");
            remove(&repo.join("refs/heads/master"));
        },
        &[],
    ),
    (
        "a lost branch and a damaged newest pack",
        |repo| {
            let (pack, ..) = find_object(repo, "HEAD");
            rewrite(&pack, |bytes| {
                let end = bytes.len() - 1;
                bytes[end] ^= 1;
            });
            remove(&repo.join("refs/heads/master"));
        },
        &[],
    ),
    (
        "a branch that names nothing",
        |repo| {
            let branch = repo.join("refs/heads/master");
            rewrite(&branch, |text| text[..8].fill(b'1'));
        },
        &[],
    ),
    (
        "the run and an old file",
        |repo| {
            flip(repo, &newest("two").replace("HEAD", "HEAD~2"));
            remove(&repo.join("orlop"));
        },
        &[],
    ),
    (
        "a pack that is cut short",
        |repo| {
            let (pack, ..) = find_object(repo, &newest("three"));
            rewrite(&pack, |bytes| bytes.truncate(bytes.len() - 30));
        },
        &[],
    ),
];

/// Before the repository is set aside, a store that lost index files takes what can be read of it.
#[test]
fn a_repository_that_is_found_damaged_is_recovered_from_before_it_is_set_aside() {
    for (what, damage, lost) in DAMAGE {
        for is_older in [true, false] {
            let mut place = Place::filled();
            place.keep(&["sled"]);
            publish(place.store(), "two", 7);
            publish(place.store(), "late", 2);
            place.cut().expect("two names");
            place.close();
            damage(&place.path("git/index"));
            remove(&place.path("sled"));
            if is_older {
                copy(&place.dir.path().join("kept/sled"), &place.path("sled"));
            }
            place.reopen();
            // Not served, and not yet set aside.
            assert_eq!(place.all().state(), GitState::BeingMade, "{what}");
            assert!(place.all().is_urgent(), "{what}");
            let files = [
                ("one", 3),
                ("two", 7),
                ("three", 3),
                ("four", 1),
                ("late", 2),
            ];
            for (krate, versions) in files {
                // The older sled has it.
                if is_older || !lost.contains(&krate) {
                    let expected = file(krate, versions).bytes().clone();
                    assert_eq!(place.bytes(krate), Some(expected), "{krate}, {what}");
                }
            }
            place.cut().expect("a new root");
            place.is_new_root();
        }
    }
}

/// A sled that lacks index files, and neither is older nor has lost any that it knows of.
fn lacking() -> Place {
    let mut place = Place::new();
    place.cut().expect("an empty index has its `config.json`");
    place.keep(&["sled"]);
    for krate in ["one", "two", "three", "four"] {
        publish(place.store(), krate, 3);
    }
    place.cut().expect("four names");
    let change = place.change_of_head();
    place.close();
    remove(&place.path("sled"));
    copy(&place.dir.path().join("kept/sled"), &place.path("sled"));
    let Opened { store, all, held } = Opened::new(&place.path(""));
    store.index_is_back(change).expect("noted");
    drop((all, held));
    store.close().expect("closed");
    place
}

#[test]
fn index_files_that_the_store_lacks_come_from_a_damaged_repository_but_for_the_damaged_ones() {
    let damages: [(&str, &str, Damage); 3] = [
        ("none", "", |_repo| {}),
        ("a file", "three", |repo| flip(repo, &newest("three"))),
        ("a folder", "three", |repo| flip(repo, "HEAD:th/re")),
    ];
    for (what, lost, damage) in damages {
        let mut place = lacking();
        damage(&place.path("git/index"));
        place.reopen();
        assert_eq!(place.bytes("four"), None, "{what}: it is lacking");
        let head = place.cut();
        assert_eq!(
            head.map(|head| head.generation),
            (!lost.is_empty()).then_some(1)
        );
        for krate in ["one", "two", "three", "four"] {
            let there = place.bytes(krate).is_some();
            assert_eq!(there, krate != lost, "{krate}, {what} is damaged");
        }
        place.check();
    }
}

/// Once such a repository was set aside with what only it had.
#[test]
fn index_files_that_the_store_lacks_come_from_a_repository_that_cannot_be_opened() {
    let mut place = lacking();
    let repo = place.path("git/index");
    flip(&repo, "HEAD~1");
    place.reopen();
    assert_eq!(place.all().state(), GitState::BeingMade);
    assert_eq!(place.bytes("four"), None, "it is lacking");
    place.cut().expect("a new root");
    for krate in ["one", "two", "three", "four"] {
        place.has(krate, 3);
    }
}

#[test]
fn a_damaged_file_can_be_replaced() {
    let mut place = Place::filled();
    damage(&mut place, "two");
    place.reopen();
    publish(place.store(), "two", 5);
    assert_eq!(place.cut().expect("a change").generation, 6);
    place.has("two", 5);
}

#[test]
fn a_lost_sled_takes_what_can_be_read_from_a_damaged_repository() {
    for journal in [true, false] {
        let mut place = Place::filled();
        damage(&mut place, "two");
        remove(&place.path("sled"));
        if !journal {
            remove(&place.path("journal"));
        }
        place.reopen();
        let _may_have_nothing = place.cut();
        for (krate, versions) in [("one", 3), ("three", 3), ("four", 1)] {
            place.has(krate, versions);
        }
        let lost = place.store().entry(&name("two")).expect("readable");
        assert_eq!(
            lost.map(|facts| facts.has_snapshot),
            journal.then_some(false)
        );
        // It comes from upstream, and all is well.
        publish(place.store(), "two", 2);
        place.cut();
        publish(place.store(), "two", 3);
        place.cut().expect("a change");
        place.check();
    }
}

/// Hides versions with this text until a time.
#[derive(Debug)]
struct HiddenUntil(&'static str, SystemTime);

impl Rule for HiddenUntil {
    fn judge(&self, line: &IndexLine<'_>, facts: &Facts<'_>) -> Judgement {
        let is_hidden = String::from_utf8_lossy(line.bytes).contains(self.0) && facts.now < self.1;
        Judgement {
            is_shown: !is_hidden,
            valid_until: is_hidden.then_some(self.1),
        }
    }
}

#[test]
fn what_a_rule_shows_from_a_time_on_is_published_then() {
    let dir = TempDir::new().expect("a folder");
    let Opened { store, all, held } = Opened::new(dir.path());
    drop((all, held));
    publish(&store, "one", 2);
    publish(&store, "two", 1);
    let rule = HiddenUntil("1.0.1", at(100));
    let view = Arc::new(View::new("late", vec![Arc::new(rule)]));
    let place = dir.path().join("late");
    let index = GitIndex::new(view, store.clone(), place, Options::default(), None);
    index.set_base(Some(BASE.to_owned()));
    let lines = |index: &GitIndex| {
        let repo = index.repo().expect("open");
        let head = index.head().expect("published").id;
        let id = repo
            .file_id(head, &name("one").index_path())
            .expect("readable");
        let bytes = repo.blob(id.expect("there")).expect("readable");
        String::from_utf8_lossy(&bytes).lines().count()
    };
    run(&index, 10).expect("published");
    assert_eq!((lines(&index), index.waiting_names()), (1, 0));
    index.note_time(at(99));
    assert_eq!(index.waiting_names(), 0, "it is not time");
    index.note_time(at(100));
    assert!(index.waiting_names() > 0);
    run(&index, 100).expect("published");
    assert_eq!(lines(&index), 2);
    index.note_time(at(1000));
    assert_eq!(index.waiting_names(), 0, "no rule says more");
}

// --- kills

#[test]
fn a_kill_between_commit_and_note_is_made_good() {
    let mut place = Place::filled();
    let before = place.store().published("all").expect("readable");
    publish(place.store(), "two", 5);
    publish(place.store(), "six", 5);
    let head = place.cut().expect("two names");
    // What the next process finds: the commit, and the older note.
    let noted = |noted: Option<&Published>| {
        let store = place.store();
        store.note_published("all", noted).expect("noted");
        let mut killed = place.killed();
        assert_eq!((killed.cut(), killed.head()), (None, head));
        killed.check();
        assert!(!killed.path("git/index.broken-1").exists());
        publish(killed.store(), "six", 6);
        assert_eq!(killed.cut().expect("a change").generation, 7);
        killed.goes_on_from(head);
    };
    noted(before.as_ref());
    // The first commit of a new root.
    noted(None);
}

#[test]
fn a_kill_between_publish_and_commit_loses_nothing() {
    let place = Place::filled();
    let head = place.head();
    publish(place.store(), "two", 5);
    publish(place.store(), "six", 5);
    let mut killed = place.killed();
    killed.has("two", 5);
    assert_eq!(killed.cut().expect("two names").generation, 6);
    killed.goes_on_from(head);
    killed.check();
    // The same before the first commit of all.
    let place = Place::new();
    publish(place.store(), "two", 5);
    let mut killed = place.killed();
    assert_eq!(killed.cut().expect("the first").generation, 1);
    killed.check();
}

/// The branch does not move before the store is durable, which a full disk prevents.
#[test]
fn a_store_that_cannot_be_made_durable_gets_no_commit() {
    let mut place = Place::filled();
    let head = place.head();
    place.close();
    let free = Arc::new(AtomicU64::new(1 << 40));
    let seen = Arc::clone(&free);
    let space = store::SpaceProbe::new(move |_path| {
        Ok(store::Space {
            free_bytes: seen.load(Ordering::Relaxed),
            total_bytes: 1 << 40,
        })
    });
    place.open = Some(Opened::on(&place.path(""), space));
    place.all().recover_at_start();
    publish(place.store(), "two", 8);
    free.store(1 << 20, Ordering::Relaxed);
    let full = run(place.all(), 90);
    assert!(
        matches!(full, Err(Fault::Store(store::Error::Full { .. }))),
        "{full:?}"
    );
    assert_eq!(place.head(), head);
    free.store(1 << 40, Ordering::Relaxed);
    assert_eq!(place.cut().expect("a change").generation, 6);
    place.check();
}

#[test]
fn a_commit_has_nothing_that_a_kill_takes_from_the_store() {
    let place = Place::filled();
    let (store, all) = (place.store(), place.all());
    let names = vec![name("five"), name("two")];
    let given = |krate: &CrateName| (krate.clone(), file(krate.as_str(), 6).bytes().clone());
    let files = names.iter().map(given).collect();
    store.restore(files, at(90)).expect("given back");
    let head = place.head();
    let start = publish::Start {
        now: at(91),
        base: Some(BASE),
        changed: &Changed::Names(names.clone()),
        change: store.change_number(),
        stop: &AtomicBool::new(false),
    };
    // The kill comes before the note.
    let summary = message::Summary::default();
    let committed = all.commit(place.repo(), Some(head), &start, None, &names, &summary);
    committed.expect("committed");
    let change = place.change_of_head();
    let mut killed = place.killed();
    assert!(killed.store().change_number_at_open() >= change);
    assert_eq!((killed.cut(), killed.head()), (None, place.head()));
    killed.has("five", 6);
    killed.check();
}

// --- a lost, damaged or foreign repository

#[test]
fn a_lost_repository_begins_anew_with_everything() {
    let mut place = Place::filled();
    publish(place.store(), "late", 5);
    place.lose(&["git"]);
    // Clients may have had commits: it is urgent, and nothing is shown meanwhile.
    assert_eq!(place.all().state(), GitState::BeingMade);
    assert!(place.all().is_urgent());
    let stopped = place.all().run(at(9), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Fault::Stopped)), "{stopped:?}");
    assert_eq!(place.all().state(), GitState::BeingMade);
    assert_eq!(place.cut().expect("a new root").generation, 1);
    assert_eq!(place.all().state(), GitState::Ready);
    place.check();
}

#[test]
fn a_repository_that_is_damaged_while_it_runs_begins_anew() {
    let mut place = Place::filled();
    // In their places, where they are read from.
    for pack in fs::read_dir(place.path("git/index/objects/pack")).expect("readable") {
        let path = pack.expect("readable").path();
        let length = fs::metadata(&path).expect("facts").len();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("writable");
        fs::write(path, vec![7; length.try_into().expect("small")]).expect("written");
    }
    publish(place.store(), "two", 7);
    place.cut().expect("a new root");
    place.is_new_root();
}

#[test]
fn a_repository_that_is_removed_while_it_runs_begins_anew() {
    let mut place = Place::filled();
    for (times, removed) in ["git", "git/index", "git/index/objects"].iter().enumerate() {
        remove(&place.path(removed));
        publish(place.store(), "two", 7 + u32::try_from(times).expect("few"));
        assert_eq!(place.cut().expect("a new root").generation, 1, "{removed}");
        place.check();
    }
    // The empty one that somebody makes in its place has not the parent of what changed.
    remove(&place.path("git/index/objects/pack"));
    remove(&place.path("git/index/refs/heads/master"));
    fs::create_dir(place.path("git/index/objects/pack")).expect("made");
    publish(place.store(), "one", 11);
    place.cut().expect("a new root");
    place.check();
}

/// What is removed is still open, and may be all that there is of the index.
#[test]
fn a_repository_that_is_removed_is_recovered_from_first() {
    let mut place = Place::filled();
    place.close();
    remove(&place.path("sled"));
    place.open = Some(Opened::new(&place.path("")));
    remove(&place.path("git/index"));
    assert_eq!(place.cut().expect("a new root").generation, 1);
    for (krate, versions) in [("one", 3), ("two", 2), ("three", 3), ("four", 1)] {
        place.has(krate, versions);
    }
    place.check();
}

#[test]
fn an_older_copy_of_the_repository_is_set_aside() {
    let mut place = Place::filled();
    place.keep(&["git"]);
    publish(place.store(), "two", 7);
    publish(place.store(), "five", 7);
    place.cut().expect("a change");
    place.put_back(&["git"]);
    place.cut().expect("a new root");
    place.is_new_root();
}

#[test]
fn a_foreign_repository_is_set_aside_and_nothing_of_it_is_taken() {
    let mut other = Place::new();
    publish(other.store(), "alien", 1);
    other.cut().expect("a change");
    other.close();
    let mut place = Place::filled();
    place.close();
    remove(&place.path("git"));
    copy(&other.path("git"), &place.path("git"));
    place.reopen();
    place.cut().expect("a new root");
    assert!(place.bytes("alien").is_none());
    place.is_new_root();
}

// --- a view

/// The file of a name in the newest commit of the view.
fn shown_in_git(place: &Place, krate: &str) -> String {
    let repo = place.held().repo().expect("it is open");
    let head = repo.head().expect("there is a commit");
    let bytes = repo.file(head.id, &name(krate).index_path());
    let bytes = bytes.expect("readable").unwrap_or_default();
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// As counted on the way, and as they are.
#[track_caller]
fn has_names(place: &Place, count: u64) {
    let repo = place.held().repo().expect("it is open");
    let names = files(repo, repo.head().expect("there is a commit")).len() as u64 - 1;
    assert_eq!((place.held().names(), names), (Some(count), count));
}

#[test]
fn the_repository_of_a_view_follows_what_comes_and_goes() {
    let mut place = Place::new();
    publish(place.store(), "demo", 2);
    publish(place.store(), "other", 1);
    hold(place.store(), "demo", 0);
    assert_eq!(place.cut_held().map(|head| head.generation), Some(1));
    assert_eq!(shown_in_git(&place, "demo"), line("demo", 0));
    has_names(&place, 1);
    assert_eq!(place.cut_held(), None, "it has everything");
    hold(place.store(), "demo", 1);
    hold(place.store(), "other", 0);
    let head = place.cut_held().expect("both");
    assert_eq!(head.generation, 2);
    assert_eq!(
        shown_in_git(&place, "demo"),
        line("demo", 0) + &line("demo", 1)
    );
    has_names(&place, 2);
    let message = |place: &Place, head: Head| {
        let facts = place.held().repo().expect("open").commit_facts(head.id);
        facts.expect("readable").message
    };
    let text = message(&place, head);
    assert!(text.contains("2 crates: 1 new, 1 updated"), "{text}");
    unhold(place.store(), "other", 0);
    unhold(place.store(), "demo", 0);
    let head = place.cut_held().expect("both");
    assert_eq!(shown_in_git(&place, "demo"), line("demo", 1));
    has_names(&place, 1);
    let text = message(&place, head);
    assert!(text.contains("other: removed"), "{text}");
    // What the view does not show is no change of it.
    publish(place.store(), "other", 3);
    assert_eq!(place.cut_held(), None);
}

#[test]
fn what_changed_while_the_view_was_not_followed_is_found_by_comparing_all() {
    let mut place = Place::new();
    for krate in ["alpha", "beta", "gamma"] {
        publish(place.store(), krate, 1);
        hold(place.store(), krate, 0);
    }
    assert!(place.cut_held().is_some());
    unhold(place.store(), "alpha", 0);
    publish(place.store(), "delta", 1);
    hold(place.store(), "delta", 0);
    // Another process: it knows nothing of what the last one wrote.
    place.reopen();
    assert_eq!(place.cut_held().map(|head| head.generation), Some(2));
    assert_eq!(shown_in_git(&place, "alpha"), "");
    assert_eq!(shown_in_git(&place, "delta"), line("delta", 0));
    has_names(&place, 3);
}

#[test]
fn the_repository_of_a_view_that_was_damaged_or_removed_begins_anew() {
    let mut place = Place::new();
    publish(place.store(), "demo", 1);
    hold(place.store(), "demo", 0);
    assert!(place.cut_held().is_some());
    publish(place.store(), "other", 1);
    hold(place.store(), "other", 0);
    assert_eq!(place.cut_held().map(|head| head.generation), Some(2));
    remove(&place.path("git/views/held"));
    assert_eq!(place.cut_held().map(|head| head.generation), Some(1));
    has_names(&place, 2);
    for pack in fs::read_dir(place.path("git/views/held/objects/pack")).expect("readable") {
        fs::write(pack.expect("readable").path(), "rubbish").expect("written");
    }
    place.reopen();
    assert_eq!(place.cut_held().map(|head| head.generation), Some(1));
    has_names(&place, 2);
}

#[test]
fn a_view_without_a_base_has_no_repository() {
    let mut place = Place::new();
    place.held().set_base(None);
    assert_eq!(place.cut_held(), None);
    assert!(!place.path("git/views").exists());
    place
        .held()
        .set_base(Some("http://one/view/held".to_owned()));
    assert_eq!(place.cut_held().map(|head| head.generation), Some(1));
    place
        .held()
        .set_base(Some("http://two/view/held".to_owned()));
    assert!(place.held().is_urgent());
    assert_eq!(place.cut_held().map(|head| head.generation), Some(2));
    let repo = place.held().repo().expect("open");
    let config = repo.file(repo.head().expect("a commit").id, CONFIG);
    assert_eq!(
        config.expect("readable").expect("there"),
        r#"{"dl":"http://two/view/held/api/v1/crates","api":"http://two/view/held"}"#
    );
}

/// The view is not what the store recovers from: what it does not show is not lost.
#[test]
fn a_sled_behind_a_view_alone_is_left_as_it_is() {
    let mut place = Place::new();
    publish(place.store(), "demo", 2);
    hold(place.store(), "demo", 0);
    place.cut().expect("a commit");
    place.keep(&["sled", "journal", "git/index"]);
    publish(place.store(), "demo", 3);
    hold(place.store(), "demo", 1);
    let head = place.cut_held().expect("a commit");
    place.put_back(&["sled", "journal", "git/index"]);
    place.has("demo", 2);
    publish(place.store(), "other", 1);
    hold(place.store(), "other", 0);
    let next = place.cut_held().expect("a commit");
    assert_eq!(next.generation, head.generation + 1);
    place.cut();
    place.check();
}
