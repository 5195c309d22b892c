//! The repository: what is committed reads back, git accepts it, and damage is repaired or reported.

use std::{
    fs,
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use tempfile::TempDir;

use crate::git::{
    Commit, Error, FileChange, Head, ObjectId, OpenReport, Options, Repo, Selection, Wishes,
    testing::{bare, git, index_path},
};

/// A repository in a folder of its own.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Place {
        let root = TempDir::new().unwrap();
        Place { root }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("git/index")
    }

    fn packs(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> = fs::read_dir(self.dir().join("objects/pack"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "pack")
            })
            .collect();
        found.sort_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
        found
    }

    fn open(&self) -> (Repo, OpenReport) {
        Repo::open(Options { dir: self.dir() }).unwrap()
    }

    fn open_clean(&self) -> Repo {
        let (repo, report) = self.open();
        assert_eq!(report.repaired, Vec::<String>::new());
        assert!(!repo.is_damaged());
        repo
    }

    /// What git says; it must not fail.
    fn git(&self, arguments: &[&str]) -> String {
        let done = Command::new("git")
            .arg("--git-dir")
            .arg(self.dir())
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "git {arguments:?}: {errors}");
        // It has notices of branches that are not born yet.
        let faults: Vec<_> = errors
            .lines()
            .filter(|line| !line.starts_with("notice: "))
            .collect();
        assert_eq!(faults, Vec::<&str>::new(), "git {arguments:?}");
        String::from_utf8(done.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    /// git finds nothing to complain of.
    fn check(&self) {
        assert_eq!(
            self.git(&["fsck", "--full", "--strict", "--no-progress"]),
            ""
        );
        for pack in self.packs() {
            self.git(&["verify-pack", pack.to_str().unwrap()]);
        }
        let leftovers: Vec<_> = fs::read_dir(self.dir().join("objects/pack"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("pack-"))
            .collect();
        assert_eq!(leftovers, Vec::<String>::new());
    }
}

fn commit_no(generation: u64) -> Commit {
    Commit {
        generation,
        change: generation.wrapping_mul(10),
        time: UNIX_EPOCH + Duration::from_secs(1_700_000_000 + generation % 1000),
        message: format!("{generation} things\n\nand a body"),
    }
}

fn set(path: &str, text: &str) -> FileChange {
    FileChange {
        path: path.into(),
        bytes: Some(Bytes::copy_from_slice(text.as_bytes())),
    }
}

fn gone(path: &str) -> FileChange {
    FileChange {
        path: path.into(),
        bytes: None,
    }
}

fn try_commit(
    repo: &Repo,
    generation: u64,
    changes: impl IntoIterator<Item = FileChange>,
) -> Result<Head, Error> {
    repo.commit(&mut changes.into_iter(), || Ok(commit_no(generation)))
}

fn commit(repo: &Repo, generation: u64, changes: Vec<FileChange>) -> Head {
    try_commit(repo, generation, changes).unwrap()
}

/// The files of a commit with their texts.
fn files(repo: &Repo, commit: ObjectId) -> Vec<(String, String)> {
    let mut found = Vec::new();
    repo.files(commit, &mut |file| {
        let bytes = repo.blob(file.id).unwrap();
        found.push((file.path, String::from_utf8(bytes.to_vec()).unwrap()));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn owned(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
    files.iter().map(own).collect()
}

const FIRST: [(&str, &str); 6] = [
    ("1/a", "one\r\n"),
    ("2/ab", "two\n"),
    ("3/a/abc", "three\n"),
    ("ab/cd/abcd", "four\n"),
    ("ab/cd/abcde", "four\n"),
    ("config.json", "{}"),
];

fn first() -> Vec<FileChange> {
    FIRST.iter().map(|(path, text)| set(path, text)).collect()
}

/// Three generations; of `ab/cd/abcd` the text is `four`, `4`, `four` again.
fn three(repo: &Repo) -> Vec<Head> {
    vec![
        commit(repo, 1, first()),
        commit(repo, 2, vec![set("ab/cd/abcd", "4\n"), gone("2/ab")]),
        commit(repo, 3, vec![set("ab/cd/abcd", "four\n")]),
    ]
}

#[test]
fn what_is_committed_reads_back_and_git_accepts_it() {
    let place = Place::new();
    let (repo, report) = place.open();
    assert!(report.created);
    assert_eq!(report.repaired, Vec::<String>::new());
    assert_eq!(repo.head(), None);
    place.check();

    let head = commit(&repo, 5, first());
    assert_eq!(repo.head(), Some(head));
    assert_eq!(files(&repo, head.id), owned(&FIRST));
    let file = repo.file(head.id, "1/a").unwrap();
    assert_eq!(file.as_deref(), Some(&b"one\r\n"[..]));
    for path in ["1/b", "1", "1/a/x", "9/x", ""] {
        assert_eq!(repo.file(head.id, path).unwrap(), None, "{path}");
    }
    assert_eq!(repo.commit_of(5), Some(head.id));
    assert_eq!((repo.commit_of(4), repo.commit_of(6)), (None, None));
    assert_eq!(repo.commit_facts(head.id).unwrap(), commit_no(5));
    assert!(repo.size_bytes() > 1000);

    place.check();
    assert_eq!(place.git(&["rev-parse", "HEAD"]), head.id.to_string());
    assert_eq!(
        place.git(&["log", "--format=%an %ae %at %cn %ce %ct|%s|%b"]),
        "orlop orlop@localhost 1700000005 orlop orlop@localhost 1700000005\
         |generation 5: 5 things|and a body"
    );
    assert_eq!(
        place.git(&["ls-tree", "-r", "--name-only", "HEAD"]),
        FIRST.map(|(path, _)| path).join("\n")
    );
    // `four` stands at two paths and is one object: 5 blobs, 7 trees, 1 commit.
    assert!(
        place
            .git(&["count-objects", "-v"])
            .contains("in-pack: 13\n")
    );
    assert_eq!(place.git(&["cat-file", "-s", "HEAD:1/a"]), "5");
}

#[test]
fn git_clones_the_folder() {
    let place = Place::new();
    let repo = place.open_clean();
    three(&repo);
    let clone = place.root.path().join("clone");
    let url = format!("file://{}", place.dir().display());
    let done = Command::new("git")
        .args(["clone", "--quiet", "-c", "fetch.fsckObjects=true", &url])
        .arg(&clone)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(
        fs::read_to_string(clone.join("ab/cd/abcd")).unwrap(),
        "four\n"
    );
    assert!(!clone.join("2").exists());
}

#[test]
fn generations_follow_one_another() {
    let place = Place::new();
    let repo = place.open_clean();
    let heads = three(&repo);
    place.check();
    assert_eq!(place.git(&["rev-list", "--count", "HEAD"]), "3");
    for (generation, head) in (1..).zip(&heads) {
        assert_eq!(head.generation, generation);
        assert_eq!(repo.commit_of(generation), Some(head.id));
    }
    assert_eq!(files(&repo, heads[0].id), owned(&FIRST));
    let without: Vec<_> = FIRST
        .iter()
        .filter(|(path, _)| *path != "2/ab")
        .copied()
        .collect();
    assert_eq!(files(&repo, heads[2].id), owned(&without));

    for given in [0, 3, 5, u64::MAX] {
        let refused = try_commit(&repo, given, first());
        assert!(
            matches!(refused, Err(Error::Generation { next: 4, .. })),
            "{given}"
        );
    }
    let again = place.open_clean();
    assert_eq!(again.head(), Some(heads[2]));
    assert_eq!(again.commit_of(1), Some(heads[0].id));
}

#[test]
fn an_object_that_reappears_is_not_written_again() {
    let place = Place::new();
    let repo = place.open_clean();
    commit(&repo, 1, first());
    commit(&repo, 2, vec![set("ab/cd/abcd", "4\n")]);
    // The old blob, its folders and the root tree come back: the pack has the commit alone.
    commit(&repo, 3, vec![set("ab/cd/abcd", "four\n")]);
    assert!(
        place
            .git(&["count-objects", "-v"])
            .contains("in-pack: 19\n")
    );
    assert_eq!(
        place.git(&["rev-parse", "HEAD^{tree}"]),
        place.git(&["rev-parse", "HEAD~2^{tree}"])
    );
    place.check();
}

#[test]
fn commits_without_a_change_are_made() {
    let place = Place::new();
    let repo = place.open_clean();
    commit(&repo, 1, vec![]);
    commit(&repo, 2, first());
    commit(&repo, 3, first());
    let head = commit(&repo, 4, vec![]);
    assert_eq!(files(&repo, head.id), owned(&FIRST));
    let emptied = FIRST.iter().map(|(path, _)| gone(path)).collect();
    let head = commit(&repo, 5, emptied);
    assert_eq!(files(&repo, head.id), vec![]);
    commit(&repo, 6, vec![gone("no/su/nosuch")]);
    place.check();
    assert_eq!(place.git(&["rev-list", "--count", "HEAD"]), "6");
}

#[test]
fn the_last_of_two_changes_of_a_path_counts() {
    let place = Place::new();
    let repo = place.open_clean();
    let changes = vec![
        set("1/a", "x"),
        set("1/b", "x"),
        set("1/a", "y"),
        gone("1/b"),
    ];
    let head = commit(&repo, 1, changes);
    assert_eq!(files(&repo, head.id), owned(&[("1/a", "y")]));
}

#[test]
fn a_path_outside_of_an_index_is_refused() {
    let place = Place::new();
    let repo = place.open_clean();
    for path in [
        "", "/", "a/", "/a", "a//b", "../a", "a/./b", ".git/x", "a/.GIT", "a\0b", "a\nb",
    ] {
        let refused = try_commit(&repo, 1, [set(path, "x")]);
        assert!(matches!(refused, Err(Error::Path { .. })), "{path:?}");
    }
    place.check();
    commit(&repo, 1, first());
}

#[test]
fn the_same_commits_have_the_same_ids() {
    let place = Place::new();
    let heads = three(&place.open_clean());
    let other = Place::new();
    let repo = other.open_clean();
    let mut reversed = first();
    reversed.reverse();
    assert_eq!(commit(&repo, 1, reversed), heads[0]);
    repo.set_aside().unwrap();
    assert_eq!(repo.head(), None);
    assert_eq!(three(&repo), heads);
    other.check();
    assert_eq!(other.packs().len(), 3);
    // Ids are what clients have: they never change. git's own `hash-object` says the same of the
    // commit.
    assert_eq!(
        other.git(&["rev-parse", "HEAD~2"]),
        "f1869e9e5e565156409e106b825359f6faf835c5"
    );
    assert_eq!(
        other.git(&["show", "-s", "--format=%s", "HEAD~2"]),
        "generation 1: 1 things"
    );
    let raw = other.git(&["cat-file", "commit", "HEAD~2"]);
    assert!(raw.contains("\nchange 10\n\n"), "{raw}");
}

/// git sorts a folder as if its name ended in a slash.
#[test]
fn names_sort_as_git_wants_them_to() {
    let place = Place::new();
    let repo = place.open_clean();
    let paths = [
        "a-b/x", "a", "a.b", "a0", "b/x", "b-c", "b.c/x", "b0", "b/a-/x", "b/a/x",
    ];
    let head = commit(&repo, 1, paths.map(|path| set(path, path)).into());
    place.check();
    let mut listed: Vec<String> = Vec::new();
    repo.files(head.id, &mut |file| {
        listed.push(file.path);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(
        listed.join("\n"),
        place.git(&["ls-tree", "-r", "--name-only", "HEAD"])
    );
    // A file becomes a folder, and a folder a file.
    let changes = vec![
        gone("a"),
        set("a/x", "1"),
        gone("b/x"),
        gone("b/a-/x"),
        gone("b/a/x"),
        set("b", "2"),
    ];
    let head = commit(&repo, 2, changes);
    place.check();
    assert_eq!(
        repo.file(head.id, "a/x").unwrap().as_deref(),
        Some(&b"1"[..])
    );
    assert_eq!(repo.file(head.id, "b").unwrap().as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_large_import_has_the_tree_that_git_makes() {
    let place = Place::new();
    let repo = place.open_clean();
    let mut random = fastrand::Rng::with_seed(3);
    let mut changes = Vec::new();
    let mut paths = std::collections::BTreeSet::new();
    while paths.len() < 2000 {
        let length = random.usize(1..8);
        let name: String = (0..length)
            .map(|_| char::from(*random.choice(b"abcde-_019").unwrap()))
            .collect();
        let path = index_path(&format!("a{name}"));
        let text = format!("{name}\n").repeat(random.usize(0..2000));
        if paths.insert(path.clone()) {
            changes.push(set(&path, &text));
        }
    }
    random.shuffle(&mut changes);
    let work = place.root.path().join("work");
    for change in &changes {
        let path = work.join(&change.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, change.bytes.as_ref().unwrap()).unwrap();
    }
    let rest = changes.split_off(1000);
    commit(&repo, 1, changes);
    commit(&repo, 2, rest);
    place.check();
    let work = work.to_str().unwrap();
    place.git(&["--work-tree", work, "-c", "core.autocrlf=false", "add", "."]);
    assert_eq!(
        place.git(&["write-tree"]),
        place.git(&["rev-parse", "HEAD^{tree}"])
    );
}

#[test]
fn a_walk_ends_where_it_is_told_to() {
    let place = Place::new();
    let repo = place.open_clean();
    let head = commit(&repo, 1, first());
    let mut seen = 0;
    let mut visit = |_| {
        seen += 1;
        if seen == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    repo.files(head.id, &mut visit).unwrap();
    assert_eq!(seen, 2);
}

/// A crash at any point leaves the old head, and nothing that was begun.
#[test]
fn what_a_crash_left_behind_is_swept() {
    let place = Place::new();
    let heads = three(&place.open_clean());
    let pack = place.packs().pop().unwrap();
    let branch = place.dir().join("refs/heads/master");
    let dir = place.dir().join("objects/pack");

    // Before the renames.
    fs::write(dir.join("tmp_pack_orlop"), "PACK").unwrap();
    fs::write(dir.join("tmp_idx_orlop"), "x").unwrap();
    fs::write(place.dir().join("refs/heads/master.lock"), "x").unwrap();
    fs::write(
        dir.join("pack-0000000000000000000000000000000000000000.idx"),
        "x",
    )
    .unwrap();
    place.open_clean();
    place.check();
    assert!(!place.dir().join("refs/heads/master.lock").exists());

    // After the renames, before the branch.
    fs::write(&branch, format!("{}\n", heads[1].id)).unwrap();
    let repo = place.open_clean();
    assert_eq!(repo.head(), Some(heads[1]));
    assert!(!pack.exists());
    assert!(!pack.with_extension("idx").exists());
    assert_eq!(
        commit(&repo, 3, vec![set("ab/cd/abcd", "four\n")]),
        heads[2]
    );
    place.check();

    // Between the two renames.
    let pack = place.packs().pop().unwrap();
    fs::remove_file(pack.with_extension("idx")).unwrap();
    fs::write(&branch, format!("{}\n", heads[1].id)).unwrap();
    let (repo, _report) = place.open();
    assert_eq!(repo.head(), Some(heads[1]));
    assert!(!pack.exists());
    place.check();
}

#[test]
fn a_damaged_pack_that_nothing_needs_is_swept() {
    let place = Place::new();
    let heads = three(&place.open_clean());
    let pack = place.packs().pop().unwrap();
    fs::write(&pack, "PACK").unwrap();
    let branch = place.dir().join("refs/heads/master");
    fs::write(&branch, format!("{}\n", heads[1].id)).unwrap();
    check_repaired(&place, heads[1], "a torn pack");
    assert!(!pack.exists());
}

#[test]
fn who_reads_does_not_wait_for_who_commits() {
    let place = Place::new();
    let repo = place.open_clean();
    commit(&repo, 1, first());
    let reader = repo.clone();
    let mut begun = false;
    let changes = std::iter::from_fn(|| {
        if begun {
            return None;
        }
        begun = true;
        // In the middle of a commit the old head is there, and whole.
        let head = reader.head().unwrap();
        assert_eq!(head.generation, 1);
        assert_eq!(files(&reader, head.id), owned(&FIRST));
        drop(reader.serving());
        Some(set("1/a", "x"))
    });
    try_commit(&repo, 2, changes).unwrap();
    assert_eq!(repo.head().unwrap().generation, 2);
}

#[test]
fn a_pack_whose_branch_never_came_is_the_first_commit() {
    let place = Place::new();
    let head = commit(&place.open_clean(), 1, first());
    fs::remove_file(place.dir().join("refs/heads/master")).unwrap();
    let (repo, report) = place.open();
    assert_eq!(report.repaired.len(), 1, "{report:?}");
    assert_eq!(repo.head(), Some(head));
    place.check();
}

#[test]
fn a_failed_commit_leaves_the_head_and_the_next_one_works() {
    let place = Place::new();
    let repo = place.open_clean();
    let head = commit(&repo, 1, first());
    let lock = place.dir().join("refs/heads/master.lock");
    fs::create_dir(&lock).unwrap();
    let failed = try_commit(&repo, 2, [set("1/a", "x")]);
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert_eq!(repo.head(), Some(head));
    assert_eq!(place.packs().len(), 1);
    place.check();
    fs::remove_dir(&lock).unwrap();
    let head = commit(&repo, 2, vec![set("1/a", "x")]);
    assert_eq!(repo.head(), Some(head));
    place.check();
}

#[test]
fn a_commit_whose_facts_fail_leaves_the_head_and_the_next_one_works() {
    let place = Place::new();
    let repo = place.open_clean();
    let head = commit(&repo, 1, first());
    let mut was_read = false;
    let changes = std::iter::once_with(|| {
        was_read = true;
        set("1/a", "x")
    });
    let failed = repo.commit(&mut { changes }, || {
        Err(Error::damaged(&place.dir(), "on purpose"))
    });
    assert!(failed.is_err() && was_read);
    assert_eq!(repo.head(), Some(head));
    assert_eq!(place.packs().len(), 1);
    place.check();
    commit(&repo, 2, vec![set("1/a", "x")]);
    place.check();
}

#[test]
fn an_iterator_that_panics_leaves_nothing_behind() {
    let place = Place::new();
    let repo = place.open_clean();
    commit(&repo, 1, first());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        try_commit(&repo, 2, std::iter::from_fn(|| panic!("on purpose")))
    }));
    assert!(caught.is_err());
    place.check();
    commit(&repo, 2, vec![]);
    place.check();
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

fn check_repaired(place: &Place, head: Head, damage: &str) {
    let (repo, report) = place.open();
    assert!(!repo.is_damaged(), "{damage}");
    assert_eq!(report.repaired.len(), 1, "{damage}: {report:?}");
    assert_eq!(repo.head(), Some(head), "{damage}");
    place.check();
    place.open_clean();
}

#[test]
fn what_can_be_made_anew_is() {
    let place = Place::new();
    let head = three(&place.open_clean())[2];
    let index = place.packs()[0].with_extension("idx");
    fs::remove_file(&index).unwrap();
    check_repaired(&place, head, "a missing index");
    for byte in [3, 9, 600, 1040, 1400] {
        flip(&index, byte);
        check_repaired(&place, head, "a flipped byte in an index");
    }
    fs::write(&index, "").unwrap();
    check_repaired(&place, head, "an empty index");

    for name in ["HEAD", "config"] {
        let path = place.dir().join(name);
        fs::remove_file(&path).unwrap();
        check_repaired(&place, head, "no such file");
        fs::write(&path, [0xff, 0, b'\n']).unwrap();
        check_repaired(&place, head, "no text");
    }
    let branch = place.dir().join("refs/heads/master");
    fs::remove_file(&branch).unwrap();
    check_repaired(&place, head, "no branch");
    for text in [
        "",
        "ref: refs/heads/master\n",
        "0000000000000000000000000000000000000000\n",
    ] {
        fs::write(&branch, text).unwrap();
        check_repaired(&place, head, "a garbled branch");
    }
}

#[test]
fn settings_that_a_person_added_stay() {
    let place = Place::new();
    place.open_clean();
    let path = place.dir().join("config");
    let text = fs::read_to_string(&path).unwrap() + "[uploadpack]\n\tallowFilter = true\n";
    fs::write(&path, &text).unwrap();
    place.open_clean();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn packed_refs_are_honoured() {
    let place = Place::new();
    let head = three(&place.open_clean())[2];
    place.git(&["pack-refs", "--all"]);
    assert!(!place.dir().join("refs/heads/master").exists());
    let repo = place.open_clean();
    assert_eq!(repo.head(), Some(head));
    let head = commit(&repo, 4, vec![]);
    assert_eq!(place.open_clean().head(), Some(head));
    place.check();
}

fn check_set_aside(place: &Place, damage: &str) -> Repo {
    let (repo, _report) = place.open();
    assert_eq!(repo.head(), None, "{damage}");
    assert!(repo.is_damaged(), "{damage}");
    assert!(repo.repair().unwrap_err().is_damage(), "{damage}");
    let refused = try_commit(&repo, 1, first());
    assert!(refused.unwrap_err().is_damage(), "{damage}");
    repo.set_aside().unwrap();
    assert_eq!((repo.head(), repo.is_damaged()), (None, false), "{damage}");
    place.check();
    repo
}

#[test]
fn what_cannot_be_read_is_set_aside_and_an_empty_one_takes_its_place() {
    let place = Place::new();
    three(&place.open_clean());
    let branch = place.dir().join("refs/heads/master");

    let pack = place.packs().remove(0);
    let length = fs::metadata(&pack).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&pack)
        .unwrap()
        .set_len(length - 30)
        .unwrap();
    let repo = check_set_aside(&place, "the first pack is cut short");
    assert!(repo.size_bytes() < 1000);
    three(&repo);

    fs::remove_file(&place.packs()[1]).unwrap();
    let repo = check_set_aside(&place, "a pack is lost");
    three(&repo);

    fs::write(&branch, "1234567890123456789012345678901234567890\n").unwrap();
    let repo = check_set_aside(&place, "the branch names nothing");
    let heads = three(&repo);

    fs::remove_file(&branch).unwrap();
    fs::remove_file(&place.packs()[0]).unwrap();
    let repo = check_set_aside(&place, "no branch, and no whole history");
    assert_eq!(three(&repo), heads);

    let mut beside: Vec<_> = fs::read_dir(place.dir().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    beside.sort();
    assert_eq!(beside, ["index", "index.broken-3", "index.broken-4"]);
}

#[test]
fn two_histories_and_no_branch_tell_no_head() {
    let place = Place::new();
    three(&place.open_clean());
    let other = Place::new();
    let repo = other.open_clean();
    commit(&repo, 2, vec![]);
    commit(&repo, 3, vec![set("1/a", "another\n")]);
    for pack in other.packs() {
        for extension in ["pack", "idx"] {
            let from = pack.with_extension(extension);
            let to = place
                .dir()
                .join("objects/pack")
                .join(from.file_name().unwrap());
            fs::copy(from, to).unwrap();
        }
    }
    fs::remove_file(place.dir().join("refs/heads/master")).unwrap();
    check_set_aside(&place, "two tips of one generation");
}

/// Damage in the bytes of an object is found by who reads it: opening does not read them all.
#[test]
fn a_damaged_object_is_never_given_out() {
    let place = Place::new();
    let repo = place.open_clean();
    let text = "a line of some index file\n".repeat(500);
    let head = commit(&repo, 1, vec![set("1/a", &text), set("1/b", "fine")]);
    flip(&place.packs()[0], 40);
    let (repo, _) = place.open();
    let read = repo.file(head.id, "1/a");
    assert!(matches!(&read, Err(error) if error.is_damage()), "{read:?}");
    assert!(repo.file(head.id, "1/b").unwrap().is_some());
    repo.set_aside().unwrap();
    assert_eq!(repo.head(), None);
    commit(&repo, 1, vec![set("1/a", &text)]);
    place.check();
}

/// The disk refuses now: that says nothing about what it holds.
#[test]
fn what_cannot_be_opened_is_neither_damage_nor_removed() {
    let place = Place::new();
    let repo = place.open_clean();
    let heads = three(&repo);
    let packs = place.packs();
    let blob = crate::git::blob_id(b"not there").unwrap();
    assert!(repo.blob(blob).unwrap_err().is_damage());
    for extension in ["idx", "pack"] {
        let path = packs[0].with_extension(extension);
        let aside = place.dir().join("aside");
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = Repo::open(Options { dir: place.dir() }).unwrap_err();
        assert!(!error.is_damage(), "{error}");
        fs::remove_file(&path).unwrap();
        // A folder can be opened, and then not read.
        fs::create_dir(&path).unwrap();
        let error = Repo::open(Options { dir: place.dir() }).unwrap_err();
        assert!(!error.is_damage(), "{error}");
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(place.packs(), packs);
    let (again, report) = place.open();
    assert_eq!(report.repaired.len(), 0);
    assert_eq!(again.head(), heads.last().copied());
    // A pack that comes to a repository that is open.
    let other = place.dir().join("objects/pack/pack-0000.pack");
    fs::write(&other, "PACK").unwrap();
    std::os::unix::fs::symlink("pack-0000.idx", other.with_extension("idx")).unwrap();
    let error = repo.blob(blob).unwrap_err();
    assert!(!error.is_damage(), "{error}");
}

#[test]
fn an_index_that_points_elsewhere_gives_nothing_out() {
    use crate::git::pack::{replace_index, scan};
    let place = Place::new();
    let head = commit(&place.open_clean(), 1, first());
    let pack = place.packs().remove(0);
    let (mut entries, id) = scan(&pack).unwrap();
    // The blobs of `1/a` and `2/ab` are the first ones.
    let offsets = (entries[0].offset, entries[1].offset);
    (entries[1].offset, entries[0].offset) = offsets;
    replace_index(&pack, &mut entries, &id).unwrap();
    let repo = place.open_clean();
    for path in ["1/a", "2/ab"] {
        let read = repo.file(head.id, path);
        assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
    }
}

/// Packs come and go under a reader when others are merged.
#[test]
fn what_moved_to_another_pack_is_still_found() {
    let place = Place::new();
    let repo = place.open_clean();
    let heads = three(&repo);
    let old = place.packs();
    let done = Command::new("git")
        .arg("--git-dir")
        .arg(place.dir())
        .args([
            "-c",
            "pack.depth=0",
            "-c",
            "pack.window=0",
            "repack",
            "-a",
            "-d",
            "-q",
        ])
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(!old[0].exists());
    assert_eq!(files(&repo, heads[0].id), owned(&FIRST));
    let reader = place.open_clean();
    let head = commit(&repo, 4, vec![set("1/a", "x")]);
    assert_eq!(files(&repo, heads[0].id), owned(&FIRST));
    let read = reader.file(head.id, "1/a").unwrap();
    assert_eq!(read.as_deref(), Some(&b"x"[..]));
    let again = place.open_clean();
    assert_eq!(files(&again, heads[0].id), owned(&FIRST));
}

#[test]
fn an_index_of_a_large_pack_has_offsets_of_64_bits() {
    use crate::git::pack::{IndexEntry, write_index};
    let id = |byte: u8| ObjectId::from_bytes_or_panic(&[byte; 20]);
    let offsets = [12, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40];
    let mut entries: Vec<_> = (1..=5)
        .zip(offsets)
        .rev()
        .map(|(byte, offset)| IndexEntry {
            id: id(byte),
            crc32: u32::from(byte),
            offset,
        })
        .collect();
    let mut bytes = Vec::new();
    write_index(&mut bytes, &mut entries, &id(9)).unwrap();
    let index = gix::odb::pack::index::File::from_data(
        bytes,
        PathBuf::from("x.idx"),
        gix::hash::Kind::Sha1,
    )
    .unwrap();
    let read: Vec<_> = index
        .iter()
        .map(|entry| (entry.oid, entry.crc32, entry.pack_offset))
        .collect();
    let expected: Vec<_> = (1..)
        .zip(offsets)
        .map(|(byte, offset)| (id(byte), Some(u32::from(byte)), offset))
        .collect();
    assert_eq!(read, expected);
    assert_eq!(index.pack_checksum(), id(9));
    // git reads it too.
    let mut child = Command::new("git")
        .args(["show-index"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut bytes = Vec::new();
    write_index(&mut bytes, &mut entries, &id(9)).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &bytes).unwrap();
    let shown = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(shown.lines().count(), 5);
    assert!(
        shown.contains("1099511627776 0505050505050505050505050505050505050505"),
        "{shown}"
    );
}

/// A history with deltas, a merged pack and some packs of their own.
fn long(repo: &Repo) -> Head {
    let mut head = None;
    let mut text = String::new();
    for generation in 1..=13_u64 {
        let sum = generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text = format!("{text}{{\"vers\":\"{generation}\",\"cksum\":\"{sum:x}\"}}\n");
        let other = format!("{text}{sum:x}");
        head = Some(commit(
            repo,
            generation,
            vec![set("1/a", &text), set("2/ab", &other)],
        ));
    }
    head.unwrap()
}

/// What a client is sent, if it could be read to its end; git must then find the head in it.
fn fetch(repo: &Repo, selection: &Selection) -> Result<(), std::io::Error> {
    let wishes = Wishes {
        ofs_delta: true,
        thin_pack: false,
    };
    let serving = repo.serving();
    let mut bytes = Vec::new();
    let stream = serving.pack(selection, wishes);
    stream
        .map_err(std::io::Error::other)?
        .read_to_end(&mut bytes)?;
    let (_dir, client) = bare();
    if let Selection::Shallow { oldest, .. } = selection {
        let oldest = serving.commit_of(*oldest).unwrap();
        fs::write(client.join("shallow"), format!("{oldest}\n")).unwrap();
    }
    git(&client, &["index-pack", "--stdin", "--strict"], &bytes);
    let id = serving.head().unwrap().id;
    assert_eq!(
        git(&client, &["cat-file", "-t", &id.to_string()], b""),
        "commit\n"
    );
    let text = git(&client, &["cat-file", "blob", &format!("{id}:1/a")], b"");
    assert!(text.contains("\"13\""), "{text}");
    Ok(())
}

/// Nothing damaged goes out, and what was found damaged is whole again for the next client.
#[test]
fn what_is_damaged_while_it_is_served_is_found_and_made_anew() {
    let clone = Selection::History { have: None };
    let newest = Selection::Shallow {
        oldest: 13,
        have: vec![],
    };
    let files = |place: &Place| {
        let side = ["wire", "entries", "blocks", "generations"];
        let side = side.map(|name| place.dir().join("orlop").join(name));
        let packs = place.packs();
        let indexes: Vec<_> = packs
            .iter()
            .map(|pack| pack.with_extension("idx"))
            .collect();
        [side.to_vec(), packs, indexes].concat()
    };
    let count = {
        let place = Place::new();
        long(&place.open_clean());
        files(&place).len()
    };
    let (mut found, mut repaired) = (0, 0);
    for number in 0..count {
        for part in [2, 7] {
            let place = Place::new();
            let head = long(&place.open_clean());
            let repo = place.open_clean();
            let path = files(&place).remove(number);
            let length = fs::metadata(&path).unwrap().len();
            flip(&path, usize::try_from(length - length / part).unwrap() - 1);
            for selection in [&newest, &clone] {
                if fetch(&repo, selection).is_ok() {
                    continue;
                }
                found += 1;
                assert!(repo.is_damaged(), "{}", path.display());
                match repo.repair() {
                    Ok(()) => repaired += 1,
                    Err(error) => {
                        assert!(error.is_damage() && path.extension().is_some(), "{error}");
                        assert!(repo.repair().is_err(), "only setting it aside helps");
                        repo.set_aside().unwrap();
                        assert_eq!(long(&repo), head, "the same ids");
                    }
                }
                assert!(!repo.is_damaged());
                fetch(&repo, selection)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            drop(repo);
            let (repo, _report) = place.open();
            if repo.repair().is_ok() {
                // What nobody read yet may be damaged still; the next to read it finds that.
                drop(fetch(&repo, &clone));
                if repo.repair().is_ok() {
                    fetch(&repo, &clone).unwrap();
                }
            }
        }
    }
    assert!(found > 5 && repaired > 3, "{found} {repaired}");
}

#[test]
fn the_index_of_a_pack_with_deltas_is_made_anew() {
    let place = Place::new();
    let repo = place.open_clean();
    let head = long(&repo);
    drop(repo);
    let merged = place.packs().into_iter().filter(|pack| {
        place
            .git(&["verify-pack", "-v", pack.to_str().unwrap()])
            .contains("chain length")
    });
    let merged: Vec<_> = merged.collect();
    assert_eq!(merged.len(), 1);
    let index = merged[0].with_extension("idx");
    let before = fs::read(&index).unwrap();
    flip(&index, 1100);
    let (repo, report) = place.open();
    assert_eq!(report.repaired.len(), 1);
    assert_eq!(repo.head(), Some(head));
    assert_eq!(fs::read(&index).unwrap(), before);
    place.check();
}

/// An administrator's `git gc`, with deltas as git makes them, while we are at work.
#[test]
fn packs_that_somebody_put_together_are_read_anew_by_the_next_commit() {
    for arguments in [
        &["-c", "gc.pruneExpire=now", "gc", "-q"][..],
        &["-c", "repack.useDeltaBaseOffset=false", "repack", "-adfq"],
    ] {
        let place = Place::new();
        let repo = place.open_clean();
        long(&repo);
        place.git(arguments);
        fetch(&repo, &Selection::History { have: None }).unwrap();
        let commit = |repo: &Repo| try_commit(repo, 14, [set("1/b", "new")]);
        let done = commit(&repo);
        match done {
            Ok(_) => {
                place.check();
            }
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                repo.set_aside().unwrap();
                long(&repo);
                commit(&repo).unwrap();
            }
        }
        fetch(&repo, &Selection::History { have: None }).unwrap();
        fetch(&place.open_clean(), &Selection::History { have: None }).unwrap();
    }
}
