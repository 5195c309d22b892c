//! `orlop backup` beside builds and `orlop restore`: the same answers, or a refusal that says why.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use orlop::{
    admin::{Client, Word},
    jobs::{Fault, Job, JobRequest, backup::BackupRequest, seed::SeedRequest},
};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    PATIENCE,
    cargo::Project,
    crates::{Krate, Registry, index_path, knots},
    files_below,
    git::Git,
    orlop::{Orlop, Outcome, Setup},
    until,
    upstream::{Kind, Upstream},
};

/// The base that the index names: a restored mirror listens on another port.
const BASE: &str = "http://mirror.test";

const KNOTS: usize = 12;

fn over(upstream: &Upstream) -> Setup {
    Setup::over(upstream)
        .config("public_url", BASE)
        .config("git.quiet_for", "300ms")
}

fn words<'a>(words: &[&'a str], dir: &'a Path) -> Vec<&'a str> {
    let mut all = words.to_vec();
    all.push(dir.to_str().expect("a path of text"));
    all
}

#[track_caller]
fn backup(orlop: &Orlop, dir: &Path) -> Outcome {
    let outcome = orlop.setup().run(&words(&["backup"], dir));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome
}

fn restore(setup: &Setup, dir: &Path, data: &Path) -> Outcome {
    let mut all = words(&["restore"], dir);
    all.extend(["--data", data.to_str().expect("a path of text")]);
    setup.run(&all)
}

/// A server on a restored store that has nobody to ask.
fn offline(setup: &Setup, data: &Path) -> Orlop {
    setup
        .clone()
        .argument("--data")
        .argument(data.to_str().expect("a path of text"))
        .argument("--mode")
        .argument("offline")
        .start()
}

/// The same on what comes of a whole backup.
#[track_caller]
fn restored(setup: &Setup, dir: &Path, data: &Path) -> Orlop {
    let outcome = restore(setup, dir, data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    offline(setup, data)
}

fn head(orlop: &Orlop) -> String {
    let url = format!("{}/git/index", orlop.url());
    Git::new().run(&["ls-remote", &url, "HEAD"]).well().stdout
}

/// What a client can see of a release.
#[track_caller]
fn answers(orlop: &Orlop, name: &str) -> (Vec<u8>, Option<String>, Vec<u8>) {
    let entry = orlop.index(name);
    assert_eq!(entry.status, 200, "{name}: {}", entry.text());
    let file = orlop.download(name, "1.0.0");
    assert_eq!(file.status, 200, "{name}: {}", file.text());
    (
        entry.body.clone(),
        entry.header("etag").map(ToOwned::to_owned),
        file.body,
    )
}

/// A mirror that holds all knots, and whose git index has them.
fn filled(upstream: &Upstream) -> (Orlop, Vec<String>) {
    let orlop = over(upstream).start();
    let names: Vec<String> = (0..KNOTS).map(|number| format!("knot-{number}")).collect();
    for name in &names {
        answers(&orlop, name);
    }
    until("all is committed", || {
        orlop.metric("orlop_generation_staged_names", &[]) < 1.0
            && orlop.metric("orlop_generation", &[]) > 0.0
    });
    (orlop, names)
}

fn knot_registry() -> Registry {
    let mut registry = Registry::new();
    for number in 0..KNOTS {
        registry.put(&Krate::new(&format!("knot-{number}"), "1.0.0").size(20_000));
    }
    registry
}

#[test]
fn a_restored_store_gives_the_same_answers() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, names) = filled(&upstream);
    // What is only staged when the backup is made, and small things that are kept.
    upstream.edit(|registry| registry.put(&Krate::new("late", "1.0.0")));
    answers(&orlop, "late");
    let pinned = orlop.setup().run(&["pin", "knot-1@1.0.0"]);
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    // A commit that is made after the backup is made by both, each at its own time.
    let old_head = head(&orlop);
    let told = backup(&orlop, &dir);
    assert!(told.stdout.contains("is whole"), "{told:?}");
    assert!(!dir.join("INCOMPLETE").exists());
    let mut names = names;
    names.push("late".to_owned());
    let before: Vec<_> = names.iter().map(|name| answers(&orlop, name)).collect();
    let pins = orlop.setup().run(&["pin", "--json"]).stdout;
    let setup = orlop.terminate();
    upstream.down();

    let data = place.path().join("data");
    let restored = restored(&setup, &dir, &data);
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(&answers(&restored, name), before, "{name}");
    }
    // The commit may have a child by now, for what was only staged.
    let git = Git::new();
    git.run(&[
        "clone",
        "-q",
        "--bare",
        &format!("{}/git/index", restored.url()),
        "c",
    ])
    .well();
    let old = old_head.split('\t').next().expect("an id");
    git.at("c", &["merge-base", "--is-ancestor", old, "HEAD"])
        .well();
    if pinned.code == Some(0) {
        let mut again = setup.command(&["pin", "--json"]);
        again.env("ORLOP_DATA", &data);
        assert_eq!(Outcome::of(again).stdout, pins);
    }
    let journal = |data: &Path| fs::metadata(data.join("journal")).expect("a journal").len();
    assert!(
        journal(&data) <= journal(&setup.data()) + 200,
        "events were told twice"
    );
}

#[test]
fn a_backup_beside_a_build_restores_to_a_store_that_builds_offline() {
    let registry = knots(KNOTS);
    let upstream = Upstream::start(registry);
    let orlop = Setup::over(&upstream)
        .config("git.quiet_for", "100ms")
        .start();
    let dependencies = (0..KNOTS)
        .map(|number| format!("knot-{number:03} = \"*\"\n"))
        .collect::<String>();
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    let project = Project::new(&dependencies).through(&orlop.url());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                backup(&orlop, &dir);
            }
        });
        scope.spawn(|| {
            for round in 0..30 {
                upstream
                    .edit(|registry| registry.put(&Krate::new(&format!("more-{round}"), "1.0.0")));
                answers(&orlop, &format!("more-{round}"));
            }
        });
        let built = project.cargo(&["build"]);
        over.store(true, Ordering::Relaxed);
        built.well();
    });
    backup(&orlop, &dir);
    let setup = orlop.terminate();
    upstream.down();
    let data = place.path().join("data");
    let restored = restored(&setup, &dir, &data);
    let again = Project::new(&dependencies).through(&restored.url());
    again.cargo(&["build"]).well();
}

#[test]
fn a_second_backup_takes_only_what_is_new() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    let first = backup(&orlop, &dir);
    assert!(
        first
            .stdout
            .contains(&format!("{KNOTS} linked, 0 copied, 0 there before")),
        "{first:?}"
    );
    upstream.edit(|registry| registry.put(&Krate::new("new", "1.0.0")));
    answers(&orlop, "new");
    let second = backup(&orlop, &dir);
    assert!(
        second
            .stdout
            .contains(&format!("1 linked, 0 copied, {KNOTS} there before")),
        "{second:?}"
    );
}

#[test]
fn a_file_of_the_backup_that_became_another_one_is_laid_anew() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    backup(&orlop, &dir);
    let blob = files_below(&dir.join("blobs")).pop().expect("a file");
    let blob = dir.join("blobs").join(blob);
    let good = fs::read(&blob).expect("read");
    let mut bad = good.clone();
    bad[0] ^= 1;
    // Not through the link, which would change the store's own.
    fs::remove_file(&blob).expect("removed");
    fs::write(&blob, &bad).expect("written");
    backup(&orlop, &dir);
    assert_eq!(fs::read(&blob).expect("read"), good);
}

/// Commit and names of the git index at this place below a server; `None`: it has none yet.
fn git_index(orlop: &Orlop, place: &str) -> Option<(String, Vec<String>)> {
    let git = Git::new();
    let url = format!("{}{place}", orlop.url());
    git.run(&["clone", "-q", "--bare", &url, "c"])
        .well
        .then_some(())?;
    let id = git.at("c", &["rev-parse", "HEAD"]).well().stdout;
    let tree = git.at("c", &["ls-tree", "-r", "--name-only", "HEAD"]);
    let names = tree.well().stdout.lines().map(str::to_owned).collect();
    Some((id, names))
}

const HELD: &str = "/view/held/git/index";

#[test]
fn a_restored_view_over_git_goes_on_where_it_was() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, names) = filled(&upstream);
    let mut view = None;
    until("the view has all", || {
        view = git_index(&orlop, HELD);
        let names_of_view = view.as_ref().map_or(0, |(_, names)| names.len());
        names_of_view == names.len() + 1
    });
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    backup(&orlop, &dir);
    let setup = orlop.terminate();
    upstream.down();
    let data = place.path().join("data");
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(data.join("git/views/held/HEAD").exists());
    let restored = offline(&setup, &data);
    until("the view is served", || git_index(&restored, HELD) == view);
    let said = restored.stderr();
    assert!(!said.contains("begins anew"), "{said}");
}

#[test]
fn the_key_the_sets_and_the_pins_come_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let upstream = Upstream::start(knot_registry());
    let setup = over(&upstream).start().terminate();
    let run = |words: &[&str], data: &Path| {
        let mut command = setup.command(words);
        command.env("ORLOP_DATA", data);
        let outcome = Outcome::of(command);
        assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
        outcome.stdout
    };
    let old = setup.data();
    run(&["key", "generate"], &old);
    run(&["sync", "--crate", "knot-1", "--save", "lab"], &old);
    run(&["pin", "knot-2@1.0.0"], &old);
    let told = |data: &Path| {
        [
            run(&["key", "show"], data),
            run(&["sync", "--sets", "--json"], data),
            run(&["pin", "--json"], data),
        ]
    };
    let before = told(&old);
    assert!(before[1].contains("\"lab\""), "{before:?}");
    let place = tempfile::tempdir().expect("a temporary folder");
    let (dir, data) = (place.path().join("backup"), place.path().join("data"));
    run(&words(&["backup"], &dir), &old);
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(told(&data), before);
    let mode = |path: &Path| {
        let found = fs::metadata(path).expect("it is there");
        found.permissions().mode() & 0o777
    };
    for folder in [&dir, &data] {
        let keys = files_below(&folder.join("key"));
        assert!(!keys.is_empty(), "{folder:?}");
        for key in keys {
            let key = folder.join("key").join(&key);
            assert_eq!(mode(&key), 0o600, "{key:?}");
        }
        assert_eq!(mode(&folder.join("key")), 0o700, "{folder:?}");
    }
    assert_eq!(mode(&dir), 0o700);
    // It has the addresses of clients.
    assert_eq!(mode(&dir.join("kept.jsonl.zst")), 0o600);
}

#[test]
fn a_restored_server_still_knows_what_upstream_said_and_when() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    let (dir, data) = (place.path().join("backup"), place.path().join("data"));
    backup(&orlop, &dir);
    let setup = orlop.terminate();
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let serve = |setup: Setup| {
        let data = data.to_str().expect("a path of text");
        setup.argument("--data").argument(data).start()
    };
    let tags = || -> Vec<Option<String>> {
        let seen = upstream.seen();
        let index = seen.iter().filter(|seen| seen.kind == Kind::Index);
        index
            .map(|seen| seen.header("if-none-match").map(str::to_owned))
            .collect()
    };
    upstream.forget_seen();
    let restored = serve(setup.clone());
    let etag = restored.index("knot-1").header("etag").map(str::to_owned);
    assert_eq!(tags(), [], "what was asked an hour ago at most is fresh");
    restored.terminate();
    let restored = serve(setup.config("index.fresh_for", "0s"));
    assert_eq!(restored.index("knot-1").status, 200);
    let tags = tags();
    assert!(
        tags.len() == 1 && tags[0].is_some(),
        "a conditional request: {tags:?}, {etag:?}"
    );
}

#[test]
fn generations_cut_while_a_backup_is_made_are_in_it_or_come_after_it() {
    let upstream = Upstream::start(knot_registry());
    let orlop = over(&upstream).config("git.quiet_for", "100ms").start();
    answers(&orlop, "knot-0");
    until("there is a commit", || {
        orlop.metric("orlop_generation", &[]) > 0.0
    });
    let place = tempfile::tempdir().expect("a temporary folder");
    let over = AtomicBool::new(false);
    let mut backups = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("more-{round}");
                upstream.edit(|registry| registry.put(&Krate::new(&name, "1.0.0")));
                answers(&orlop, &name);
                // A commit for each, while the backups go on.
                std::thread::sleep(std::time::Duration::from_millis(130));
            }
        });
        for number in 0..12 {
            let dir = place.path().join(format!("backup-{number}"));
            let outcome = orlop.setup().run(&words(&["backup", "--json"], &dir));
            backups.push((dir, outcome));
        }
        over.store(true, Ordering::Relaxed);
    });
    let generation = |dir: &Path| {
        let text = fs::read(dir.join("MANIFEST")).expect("a manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        manifest["copied"]["generation"].as_u64().expect("a number")
    };
    for (dir, outcome) in &backups {
        assert_eq!(outcome.code, Some(0), "{dir:?}: {outcome:?}");
    }
    let generations: Vec<u64> = backups.iter().map(|(dir, _)| generation(dir)).collect();
    assert!(generations.is_sorted(), "{generations:?}");
    assert!(
        generations.first() < generations.last(),
        "none was cut meanwhile: {generations:?}"
    );
    let root = |orlop: &Orlop| {
        let git = Git::new();
        let url = format!("{}/git/index", orlop.url());
        git.run(&["clone", "-q", "--bare", &url, "c"]).well();
        let roots = git.at("c", &["rev-list", "--max-parents=0", "HEAD"]);
        roots.well().stdout
    };
    let first = root(&orlop);
    let setup = orlop.terminate();
    upstream.down();
    for (dir, _) in backups.iter().step_by(4) {
        let data = dir.with_extension("data");
        let outcome = restore(&setup, dir, &data);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let restored = offline(&setup, &data);
        assert_eq!(root(&restored), first, "{dir:?}: one history");
        let copied = u32::try_from(generation(dir)).expect("few generations");
        assert!(restored.metric("orlop_generation", &[]) >= f64::from(copied));
        let said = restored.stderr();
        assert!(!said.contains("anew"), "{said}");
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
fn a_backup_on_another_file_system_is_copied() {
    use std::os::unix::fs::MetadataExt as _;
    let (place, _dir, setup) = backed_up();
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let other = Path::new("/dev/shm");
    let is_other = device(other).is_some() && device(other) != device(&setup.data());
    let made = is_other.then(|| tempfile::tempdir_in(other).ok()).flatten();
    let Some(away) = made else {
        eprintln!(
            "SKIPPED: there is no second file system at {}",
            other.display()
        );
        return;
    };
    let dir = away.path().join("backup");
    let outcome = setup.run(&words(&["backup"], &dir));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let told = format!("0 linked, {KNOTS} copied, 0 there before");
    assert!(outcome.stdout.contains(&told), "{outcome:?}");
    let again = setup.run(&words(&["backup"], &dir));
    let told = format!("0 linked, 0 copied, {KNOTS} there before");
    assert!(again.stdout.contains(&told), "{again:?}");
    let data = place.path().join("data");
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let files = |dir: &Path| files_below(&dir.join("blobs"));
    assert_eq!(files(&data), files(&setup.data()));
}

/// What clients see of all knots, before a backup and after its restore, with nobody to ask.
#[track_caller]
fn check_answers_come_back(setup: Setup, is_committed: bool) {
    let upstream = Upstream::start(knot_registry());
    let orlop = setup.config("upstream.url", &upstream.url()).start();
    let names: Vec<String> = (0..KNOTS).map(|number| format!("knot-{number}")).collect();
    let before: Vec<_> = names.iter().map(|name| answers(&orlop, name)).collect();
    assert_eq!(git_index(&orlop, "/git/index").is_some(), is_committed);
    let place = tempfile::tempdir().expect("a temporary folder");
    let (dir, data) = (place.path().join("backup"), place.path().join("data"));
    backup(&orlop, &dir);
    let setup = orlop.terminate();
    upstream.down();
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let restored = offline(
        &setup
            .config("git.quiet_for", "100ms")
            .config("git.enabled", "true"),
        &data,
    );
    for (name, before) in names.iter().zip(&before) {
        assert_eq!(&answers(&restored, name), before, "{name}");
    }
    until("git has what it had not", || {
        let index = git_index(&restored, "/git/index");
        index.is_some_and(|(_, tree)| tree.len() == names.len() + 1)
    });
}

#[test]
fn a_backup_of_a_server_without_git_has_the_index() {
    let setup = Setup::quick()
        .config("public_url", BASE)
        .config("git.enabled", "false");
    check_answers_come_back(setup, false);
}

#[test]
fn names_that_git_does_not_have_yet_are_in_the_backup() {
    let setup = Setup::quick()
        .config("public_url", BASE)
        .config("git.quiet_for", "1h")
        .config("git.cut_within", "2h");
    check_answers_come_back(setup, false);
}

#[test]
fn what_changed_last_is_in_both_git_indexes_when_the_server_ends() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    until("the view has a commit", || {
        git_index(&orlop, HELD).is_some()
    });
    let setup = orlop
        .terminate()
        .config("git.quiet_for", "1h")
        .config("git.cut_within", "2h");
    let orlop = setup.start();
    until("the view is served", || git_index(&orlop, HELD).is_some());
    upstream.edit(|registry| registry.put(&Krate::new("late", "1.0.0")));
    answers(&orlop, "late");
    let setup = orlop.terminate();
    let (data, git) = (setup.data(), Git::new());
    for place in ["git/index", "git/views/held"] {
        let repository = data.join(place);
        let repository = repository.to_str().expect("a path of text");
        let tree = ["ls-tree", "-r", "--name-only", "HEAD"];
        let tree = git.at(repository, &tree).well().stdout;
        assert!(
            tree.lines().any(|name| name == "la/te/late"),
            "{place}: {tree}"
        );
    }
}

/// A whole backup, and the setup of the server that it was made of, which is stopped.
fn backed_up() -> (tempfile::TempDir, PathBuf, Setup) {
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    backup(&orlop, &dir);
    (place, dir, orlop.terminate())
}

#[test]
fn a_backup_that_is_damaged_or_half_made_is_refused_by_name() {
    let (place, dir, setup) = backed_up();
    let spoil = |path: &Path| {
        // A new file: the old one is a link to that of the store.
        let mut bytes = fs::read(path).expect("a file of the backup");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(path).expect("it goes");
        fs::write(path, bytes).expect("it is back");
    };
    let mut count = 0;
    let mut try_it = |words: &[&str], code| {
        count += 1;
        let data = place.path().join(format!("data-{count}"));
        restore(&setup, &dir, &data).refused(code, words);
        data
    };
    let mark = dir.join("INCOMPLETE");
    fs::write(&mark, "").expect("written");
    try_it(&["incomplete", "orlop backup"], 4);
    fs::remove_file(&mark).expect("gone");

    for name in ["journal", "index.jsonl.zst"] {
        let path = dir.join(name);
        spoil(&path);
        let data = try_it(&[name, "damaged"], 4);
        assert!(!data.exists(), "nothing is written before the check");
        spoil(&path);
    }
    let blob = files_below(&dir.join("blobs")).remove(0);
    spoil(&dir.join("blobs").join(&blob));
    let data = try_it(&[&blob, "damaged"], 4);
    assert!(data.join("RESTORE-INCOMPLETE").exists());
    let mut serve = setup.command(&["serve"]);
    serve.env("ORLOP_DATA", &data);
    Outcome::of(serve).refused(4, &["RESTORE-INCOMPLETE"]);
    fs::remove_file(dir.join("blobs").join(&blob)).expect("gone");
    try_it(&[&blob, "missing"], 4);

    let manifest = dir.join("MANIFEST");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 2")).expect("written");
    try_it(&["format 2", "newer orlop"], 4);
    fs::remove_file(&manifest).expect("gone");
    try_it(&["there is no backup"], 2);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let (place, dir, setup) = backed_up();
    restore(&setup, &dir, &setup.data()).refused(2, &["not empty", "--data"]);
    let other = place.path().join("other");
    fs::create_dir(&other).expect("made");
    fs::write(other.join("thesis.tex"), "years of work").expect("written");
    let outcome = setup.run(&words(&["backup"], &other));
    outcome.refused(2, &["neither empty nor a backup"]);
    assert_eq!(files_below(&other), ["thesis.tex"]);
}

#[test]
fn a_backup_that_is_killed_is_marked_and_the_next_one_makes_it_whole() {
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    let dir = place.path().join("backup");
    // Somewhere in the middle: the mark is there from the first moment to the last.
    let mut child = orlop
        .setup()
        .command(&words(&["backup"], &dir))
        .spawn()
        .expect("started");
    let mark = dir.join("INCOMPLETE");
    until("it began", || {
        mark.exists() || dir.join("MANIFEST").exists()
    });
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::KILL).expect("it was ours");
    child.wait().expect("it ends");
    if mark.exists() {
        let data = place.path().join("data");
        restore(orlop.setup(), &dir, &data).refused(4, &["incomplete"]);
    }
    backup(&orlop, &dir);
    let data = place.path().join("data");
    let outcome = restore(orlop.setup(), &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn a_store_without_a_server_is_backed_up_as_well() {
    let (place, dir, setup) = backed_up();
    let again = place.path().join("again");
    let outcome = setup.run(&words(&["backup"], &again));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let list = |dir: &Path| fs::read(dir.join("blobs.list")).expect("a list");
    assert_eq!(list(&dir), list(&again));
    assert_eq!(index_path("knot-1"), "kn/ot/knot-1");
}

#[test]
fn a_crate_file_that_cannot_be_looked_at_is_named() {
    let (place, _dir, setup) = backed_up();
    let hex = "ab".repeat(32);
    let blob = setup.data().join(format!("blobs/ab/{hex}.raw"));
    fs::create_dir_all(&blob).expect("made");
    let outcome = setup.run(&words(&["backup"], &place.path().join("again")));
    let path = blob.to_str().expect("text");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains(path), "{outcome:?}");
}

/// Puts other bytes into a backup, and into its manifest that this is what it has.
fn falsify(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join("MANIFEST");
    let text = fs::read(&path).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    for file in manifest["files"].as_array_mut().expect("files") {
        if file["path"] == name {
            file["len"] = bytes.len().into();
            file["sha256"] = crate::support::sha256(bytes).into();
        }
    }
    fs::write(path, manifest.to_string()).expect("written");
    fs::write(dir.join(name), bytes).expect("written");
}

#[test]
fn a_store_whose_index_is_not_back_yet_is_refused_and_restored_anew() {
    let (place, dir, setup) = backed_up();
    let manifest = fs::read(dir.join("MANIFEST")).expect("a manifest");
    let index = fs::read(dir.join("index.jsonl.zst")).expect("a dump");
    // The files are laid out well, and giving the index back ends in its middle.
    falsify(&dir, "index.jsonl.zst", &index[..index.len() / 2]);
    let data = place.path().join("data");
    restore(&setup, &dir, &data).refused(4, &["half restored", "again"]);
    for words in [&["serve"][..], &["pin"], &["verify"]] {
        let mut command = setup.command(words);
        command.env("ORLOP_DATA", &data);
        let outcome = Outcome::of(command);
        outcome.refused(4, &["RESTORE-INCOMPLETE", "orlop restore"]);
    }
    fs::write(dir.join("MANIFEST"), manifest).expect("written");
    fs::write(dir.join("index.jsonl.zst"), index).expect("written");

    fs::write(data.join("thesis.tex"), "years of work").expect("written");
    restore(&setup, &dir, &data).refused(2, &["thesis.tex"]);
    assert!(data.join("journal").exists());
    fs::remove_file(data.join("thesis.tex")).expect("gone");

    let restored = restored(&setup, &dir, &data);
    for number in 0..KNOTS {
        answers(&restored, &format!("knot-{number}"));
    }
}

#[test]
fn a_folder_that_somebody_has_is_not_restored_into() {
    let (place, dir, setup) = backed_up();
    let data = place.path().join("data");
    fs::create_dir(&data).expect("made");
    let lock = fs::File::create(data.join("lock")).expect("made");
    lock.try_lock().expect("it is ours");
    restore(&setup, &dir, &data).refused(3, &["in use"]);
    assert_eq!(files_below(&data), ["lock"]);
    drop(lock);
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// A user that no other test is.
const STRANGER: u32 = 12_345;

#[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only root may act as another user");
    }
    is_root
}

#[test]
fn a_folder_of_another_user_is_not_restored_into() {
    if !is_root() {
        return;
    }
    let (place, dir, setup) = backed_up();
    let data = place.path().join("data");
    fs::create_dir(&data).expect("made");
    std::os::unix::fs::chown(&data, Some(STRANGER), None).expect("root may do it");
    let outcome = restore(&setup, &dir, &data);
    outcome.refused(3, &[&format!("user {STRANGER}")]);
    let left = fs::read_dir(&data).expect("a folder").count();
    assert_eq!(left, 0, "nothing was laid");
}

#[test]
fn the_key_goes_to_the_user_of_the_server_only() {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
    if !is_root() {
        return;
    }
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let outcome = orlop.setup().run(&["key", "generate"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let place = tempfile::tempdir().expect("a temporary folder");
    // The group may come near.
    let data = orlop.data();
    let near = data.ancestors().take_while(|above| {
        above.starts_with(std::env::temp_dir()) && *above != std::env::temp_dir()
    });
    for folder in near.chain([place.path()]) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("ours");
    }
    let dir = place.path().join("backup");
    let mut command = orlop.setup().command(&words(&["backup"], &dir));
    command.uid(STRANGER).gid(0);
    let outcome = Outcome::of(command);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("signing key     left out"),
        "{outcome:?}"
    );
    assert!(!dir.join("key").exists());
    // The same folder, and the user of the server.
    let outcome = backup(&orlop, &place.path().join("with-key"));
    assert!(!outcome.stdout.contains("left out"), "{outcome:?}");
    assert!(place.path().join("with-key/key").exists());
}

/// Asks for a job whose other end does nothing; it is cancelled, and then the server is stopped.
fn check_ends(job: &impl Job, pipe: impl Fn() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd)) {
    let request = JobRequest::of(job).expect("an object");
    let upstream = Upstream::start(knot_registry());
    let (orlop, _names) = filled(&upstream);
    let socket = orlop.data().join("admin.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let begin = || async {
        let (theirs, ours) = pipe();
        let client = Client::connect(&socket).await.expect("a word");
        let mut client = client.expect("a server");
        client.ask(&request, vec![theirs]).await.expect("sent");
        let Word::Event(_phase) = client.next().await.expect("a word") else {
            panic!("it ended");
        };
        (client, ours)
    };
    let end = |mut client: Client| async move {
        let words = async {
            loop {
                if let Word::End(outcome) = client.next().await.expect("a word") {
                    return outcome.expect_err("it did not come to its end");
                }
            }
        };
        tokio::time::timeout(PATIENCE, words)
            .await
            .expect("it ends")
    };
    runtime.block_on(async {
        let (mut client, _ours) = begin().await;
        client.cancel().await;
        assert_eq!(end(client).await.fault, Fault::Cancelled);
    });
    let (client, _ours) = runtime.block_on(begin());
    orlop.terminate();
    let error = runtime.block_on(end(client));
    assert!(error.message.contains("stopping"), "{error:?}");
}

#[test]
fn a_backup_that_nobody_reads_ends_when_it_is_told_to() {
    use std::io::Write as _;
    check_ends(&BackupRequest::default(), || {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        // All that it takes.
        let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
        rustix::fs::fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
        while writer.write(&[0; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&writer, flags).expect("set back");
        (writer.into(), reader.into())
    });
}

#[test]
fn files_of_a_command_that_stands_still_are_not_waited_for() {
    check_ends(&SeedRequest::default(), || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (reader.into(), writer.into())
    });
}

#[test]
fn a_link_in_a_backup_leads_nowhere() {
    let (place, dir, setup) = backed_up();
    let blob = dir
        .join("blobs")
        .join(files_below(&dir.join("blobs")).remove(0));
    let away = place.path().join("away");
    fs::rename(&blob, &away).expect("moved");
    std::os::unix::fs::symlink(&away, &blob).expect("a link");
    let data = place.path().join("data");
    let outcome = restore(&setup, &dir, &data);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for file in files_below(&data.join("blobs")) {
        let found = fs::symlink_metadata(data.join("blobs").join(&file));
        assert!(found.expect("a file").is_file(), "{file} is a link");
    }

    // A folder of the backup that leads elsewhere is not written through.
    let other = place.path().join("other");
    fs::create_dir(&other).expect("made");
    fs::remove_dir_all(dir.join("git")).expect("gone");
    std::os::unix::fs::symlink(&other, dir.join("git")).expect("a link");
    let outcome = setup.run(&words(&["backup"], &dir));
    outcome.refused(3, &["is a link"]);
    assert_eq!(fs::read_dir(&other).expect("a folder").count(), 0);
}

#[test]
fn a_backup_of_a_store_of_a_newer_format_is_refused_before_anything_is_laid() {
    let (place, dir, setup) = backed_up();
    falsify(&dir, "format", b"orlop store format 99\n");
    let data = place.path().join("data");
    restore(&setup, &dir, &data).refused(4, &["format 99", "orlop that wrote it"]);
    assert!(!data.exists());
}
