//! Bundles from the command line: written beside a server and without one, cut, carried, interrupted.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    PATIENCE,
    cargo::Project,
    crates::{Krate, Registry},
    files_below,
    orlop::{Orlop, Outcome, Setup, gather, wait},
    peer_may_be_gone, until,
    upstream::Upstream,
};

const NAMES: [&str; 3] = ["one", "two", "three"];

fn registry() -> Registry {
    let mut registry = Registry::new();
    for name in NAMES {
        registry.put(&Krate::new(name, "1.0.0").size(30_000));
    }
    registry
}

/// A place for media, and an orlop that holds the three crates.
struct Exporter {
    upstream: Upstream,
    orlop: Orlop,
    media: TempDir,
}

impl Exporter {
    fn start() -> Exporter {
        let upstream = Upstream::start(registry());
        let exporter = Exporter {
            orlop: Setup::over(&upstream)
                .config("index.fresh_for", "0s")
                .start(),
            upstream,
            media: tempfile::tempdir().expect("a temporary folder can be made"),
        };
        for name in NAMES {
            exporter.fetch(name, "1.0.0");
        }
        exporter
    }

    #[track_caller]
    fn fetch(&self, name: &str, version: &str) {
        assert_eq!(self.orlop.index(name).status, 200, "{name}");
        assert_eq!(self.orlop.download(name, version).status, 200, "{name}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.media.path().join(name)
    }

    /// `orlop export` beside the server, which must end well.
    #[track_caller]
    fn export(&self, name: &str, more: &[&str]) -> PathBuf {
        let path = self.path(name);
        let outcome = run(self.orlop.setup(), &["export", "--out"], &path, more);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        path
    }

    fn runs_exports(&self) -> u32 {
        let running = ["kind=\"export\""];
        let running = self.orlop.metric("orlop_jobs_running", &running);
        u32::from(running > 0.5)
    }

    /// Our public key, once there is one.
    fn key(&self) -> String {
        let shown = self.orlop.setup().run(&["key", "show"]);
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
        shown.stdout.trim().to_owned()
    }

    /// An orlop without a network that trusts us.
    fn importer(&self) -> Setup {
        Setup::quick()
            .config("mode", "offline")
            .config("import.trust", &self.key())
    }
}

fn run(setup: &Setup, words: &[&str], path: &Path, more: &[&str]) -> Outcome {
    let mut all = words.to_vec();
    all.push(path.to_str().expect("a temporary path is text"));
    all.extend(more);
    setup.run(&all)
}

#[track_caller]
fn import(setup: &Setup, path: &Path, more: &[&str]) -> String {
    let outcome = run(setup, &["import"], path, more);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stdout
}

#[track_caller]
fn refused(setup: &Setup, path: &Path, more: &[&str], code: i32, words: &[&str]) {
    let outcome = run(setup, &["import"], path, more);
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

#[track_caller]
fn check_serves(orlop: &Orlop, upstream: &Upstream, name: &str, version: &str) {
    let answer = orlop.download(name, version);
    let release = upstream.registry().release(name, version);
    assert!(answer.body == *release.bytes, "{name}: {}", answer.status);
    assert_eq!(orlop.index(name).text(), upstream.index_file(name));
}

#[test]
fn a_bundle_goes_over_and_then_only_what_is_new() {
    let exporter = Exporter::start();
    let whole = exporter.export("lab.orlop", &[]);
    let first = fs::read(&whole).expect("it is there");
    let importer = exporter.importer();
    let said = import(&importer, &whole, &[]);
    assert!(
        said.contains("index entries  3 new\ncrate files    3 new"),
        "{said}"
    );
    let receipt = exporter.path("lab.orlop.receipt");
    let offline = importer.start();
    for name in NAMES {
        check_serves(&offline, &exporter.upstream, name, "1.0.0");
    }

    exporter.upstream.edit(|registry| {
        registry.put(&Krate::new("one", "1.1.0").size(1000));
    });
    exporter.fetch("one", "1.1.0");
    let since = ["--since", receipt.to_str().expect("text")];
    let delta = exporter.export("new.orlop", &since);
    let size = fs::metadata(&delta).expect("it is there").len();
    // The headers of a tar take 512 bytes each, and its files whole blocks.
    assert!(size < 9000, "{size}");
    let said = import(offline.setup(), &delta, &[]);
    assert!(
        said.contains("index entries  1 new (2 were here)"),
        "{said}"
    );
    // One way to tell sizes: the same as `orlop sync` and `orlop stats` have.
    assert!(!said.contains("iB"), "{said}");
    assert!(said.contains("crate files    1 new"), "{said}");
    check_serves(&offline, &exporter.upstream, "one", "1.1.0");

    let third = exporter.importer();
    refused(&third, &delta, &[], 2, &["lacks 2", "without `--since`"]);
    let again = exporter.export("again.orlop", &[]);
    assert_ne!(fs::read(again).expect("it is there"), first);
    let direct = exporter.orlop.terminate();
    let path = exporter.media.path().join("direct.orlop");
    let outcome = run(&direct, &["export", "--out"], &path, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let beside = exporter.media.path().join("again.orlop");
    let same = fs::read(path).expect("there") == fs::read(beside).expect("there");
    assert!(same, "with and without a server");
}

#[test]
fn parts_are_put_together_and_told_by_name() {
    let exporter = Exporter::start();
    exporter.export("lab.orlop", &["--split", "20K"]);
    let mut parts = files_below(exporter.media.path());
    parts.sort();
    assert_eq!(parts[..2], ["lab.orlop.001", "lab.orlop.002"]);
    assert!(parts.len() > 3, "{parts:?}");
    assert!(parts.iter().all(|name| {
        let found = fs::metadata(exporter.path(name)).expect("it is there");
        found.len() <= 20 << 10
    }));
    let importer = exporter.importer();
    let paths: Vec<PathBuf> = parts.iter().rev().map(|name| exporter.path(name)).collect();
    let words = |paths: &[PathBuf]| {
        let mut words = vec!["import".to_owned()];
        words.extend(paths.iter().map(|path| path.display().to_string()));
        words
    };
    let ask = |paths: &[PathBuf]| {
        let words = words(paths);
        importer.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let whole = parts
        .iter()
        .map(|name| fs::read(exporter.path(name)).expect("it is there"));
    let whole = whole.collect::<Vec<_>>().concat();
    let listed = tar::Archive::new(&whole[..]).entries().map(|entries| {
        let path = |entry: tar::Entry<'_, _>| entry.path().map(|path| path.display().to_string());
        let paths = entries.map(|entry| entry.and_then(path));
        paths.collect::<Result<Vec<_>, _>>().expect("a tar")
    });
    let listed = listed.expect("a tar");
    assert_eq!(listed[..2], ["manifest.json", "manifest.sig"]);
    assert!(
        listed.contains(&"crates/two-1.0.0.crate".to_owned()),
        "{listed:?}"
    );

    let missing = ask(&paths[1..]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    let count = format!(
        "part {} of the bundle is missing: name all its parts",
        parts.len()
    );
    assert!(missing.stderr.contains(&count), "{}", missing.stderr);
    let second = exporter.path("lab.orlop.002");
    let mut bytes = fs::read(&second).expect("it is there");
    bytes[1000] ^= 1;
    fs::write(&second, &bytes).expect("it can be damaged");
    let altered = ask(&paths);
    assert_eq!(altered.code, Some(4), "{altered:?}");
    assert!(
        altered.stderr.contains("lab.orlop.002"),
        "{}",
        altered.stderr
    );
    let mut json = words(&paths);
    json.push("--json".to_owned());
    let altered = importer.run(&json.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(altered.code, Some(4), "{altered:?}");
    assert!(
        altered.stdout.contains("lab.orlop.002"),
        "{}",
        altered.stdout
    );
    bytes[1000] ^= 1;
    fs::write(&second, &bytes).expect("it can be mended");
    let taken = ask(&paths);
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    assert!(exporter.path("lab.orlop.receipt").exists());
}

#[test]
fn keys_are_made_shown_trusted_and_replaced() {
    let exporter = Exporter::start();
    let setup = exporter.orlop.setup();
    let none = setup.run(&["key", "show"]);
    assert_eq!(none.code, Some(2), "{none:?}");
    let hint = "it is made at the first export, or by `orlop key generate`";
    assert!(none.stderr.contains(hint), "{}", none.stderr);
    let path = exporter.path("lab.orlop");
    let first = run(setup, &["export", "--out"], &path, &[]);
    let key = exporter.key();
    assert!(first.stderr.contains(&key), "{}", first.stderr);
    let stranger = Setup::quick().config("mode", "offline");
    let trust = format!("--trust {key}");
    refused(&stranger, &path, &[], 2, &["not trusted", &trust]);
    refused(
        &stranger,
        &path,
        &["--trust", "abc"],
        2,
        &["abc", "orlop key show"],
    );
    import(&stranger, &path, &["--trust", &key, "--dry-run"]);
    import(&stranger, &path, &["--trust", &key]);
    let again = setup.run(&["key", "generate"]);
    assert_eq!(again.code, Some(2), "{again:?}");
    let replaced = setup.run(&["key", "generate", "--force"]);
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
    assert_ne!(replaced.stdout.trim(), key);

    let unsigned = exporter.export("unsigned.orlop", &["--unsigned"]);
    refused(&stranger, &unsigned, &[], 2, &["not signed", "--unsigned"]);
    import(&stranger, &unsigned, &["--unsigned"]);
    let file = exporter.orlop.data().join("key/bundle.key");
    let file = file.to_str().expect("text");
    let signed = exporter.export("signed.orlop", &["--sign", file]);
    import(&stranger, &signed, &["--trust", replaced.stdout.trim()]);
}

#[test]
fn what_is_there_is_not_replaced_and_what_fails_leaves_nothing() {
    let exporter = Exporter::start();
    let path = exporter.export("lab.orlop", &[]);
    let setup = exporter.orlop.setup();
    let again = run(setup, &["export", "--out"], &path, &[]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    exporter.export("lab.orlop", &["--force"]);
    let other = exporter.path("other.orlop");
    let bad = exporter.path("bad.receipt");
    // A tar of which only the name of its first file is there.
    fs::write(&bad, "manifest.json").expect("written");
    let since = ["--since", bad.to_str().expect("text")];
    let damaged = run(setup, &["export", "--out"], &other, &since);
    assert_eq!(damaged.code, Some(4), "{damaged:?}");
    assert!(damaged.stderr.contains("receipt"), "{}", damaged.stderr);
    let since = ["--since", path.to_str().expect("text")];
    let foreign = run(setup, &["export", "--out"], &other, &since);
    assert_eq!(foreign.code, Some(2), "{foreign:?}");
    let hint = "name a .receipt that an import wrote";
    assert!(foreign.stderr.contains(hint), "{}", foreign.stderr);
    let folder = run(setup, &["export", "--out"], exporter.media.path(), &[]);
    assert_eq!(folder.code, Some(2), "{folder:?}");
    assert!(folder.stderr.contains("is a folder"), "{}", folder.stderr);
    let mut left = files_below(exporter.media.path());
    left.sort();
    assert_eq!(left, ["bad.receipt", "lab.orlop"]);
    if Path::new("/dev/full").exists() {
        let full = run(setup, &["export", "--out", "-"], Path::new("--json"), &[]);
        assert_eq!(full.code, Some(0), "{full:?}");
        let mut command = setup.command(&["export", "--out", "-"]);
        let full = fs::File::options().write(true).open("/dev/full");
        command.stdout(full.expect("it can be opened"));
        let full = Outcome::of(command);
        assert_eq!(full.code, Some(3), "{full:?}");
        assert!(full.stderr.contains("No space left"), "{}", full.stderr);
        assert!(full.stderr.contains("make room"), "{}", full.stderr);
    }
}

#[test]
fn what_is_no_bundle_is_told_and_nothing_of_it_is_visible() {
    let exporter = Exporter::start();
    let path = exporter.export("lab.orlop", &[]);
    let bundle = fs::read(&path).expect("it is there");
    let importer = exporter.importer();
    let check = |name: &str, bytes: &[u8], words: &[&str], code: i32| {
        let path = exporter.path(name);
        fs::write(&path, bytes).expect("written");
        refused(&importer, &path, &[], code, words);
    };
    check(
        "text",
        b"a text and no bundle at all",
        &["not a bundle of orlop"],
        4,
    );
    check("empty", b"", &["cut short"], 4);
    let newer = String::from_utf8_lossy(&bundle[..1024]);
    let newer = newer.replace("\"orlop_bundle\": 1", "\"orlop_bundle\": 9");
    let newer = [newer.as_bytes(), &bundle[1024..]].concat();
    check("newer", &newer, &["format 9", "install"], 2);
    let cut = |name: &str, at: usize| {
        let path = exporter.path(name);
        fs::write(&path, &bundle[..at]).expect("written");
        run(&importer, &["import"], &path, &[]).stderr
    };
    let stays = "what was taken in of it stays";
    let said = cut("stub", 200);
    assert!(
        said.contains("cut short") && !said.contains(stays),
        "{said}"
    );
    let said = cut("cut", bundle.len() - 2000);
    assert!(said.contains("cut short") && said.contains(stays), "{said}");
    let longer = [bundle.as_slice(), b"more"].concat();
    check("longer", &longer, &["there is more after its end"], 4);
    let none = importer.run(&["import"]);
    assert_eq!(none.code, Some(2), "{none:?}");
    assert!(none.stderr.contains("--from-dir"), "{}", none.stderr);
    let mut altered = bundle.clone();
    let inside = altered.len() - 2000;
    altered[inside] ^= 1;
    check("altered", &altered, &["was altered", "@1.0.0"], 4);
    let offline = importer.start();
    for name in NAMES {
        assert_eq!(offline.index(name).status, 404, "{name}");
    }
    import(offline.setup(), &path, &[]);
    check_serves(&offline, &exporter.upstream, "two", "1.0.0");
}

/// An import whose bundle comes from a pipe, so that it can be stopped at any byte.
fn import_from_a_pipe(setup: &Setup, bytes: &[u8]) -> std::process::Child {
    let mut command: Command = setup.command(&["import", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let pipe = child.stdin.as_mut().expect("it is a pipe");
    pipe.write_all(bytes).expect("it is read");
    child
}

#[test]
fn an_import_goes_on_after_a_kill_and_after_ctrl_c() {
    let exporter = Exporter::start();
    let path = exporter.export("lab.orlop", &[]);
    let bundle = fs::read(&path).expect("it is there");
    let importer = exporter.importer();
    let held = || files_below(&importer.data().join("blobs")).len();

    let mut child = import_from_a_pipe(&importer, &bundle[..bundle.len() - 40_000]);
    until("a crate file is in", || held() == 1);
    peer_may_be_gone(child.kill());
    peer_may_be_gone(child.wait());

    let mut child = import_from_a_pipe(&importer, &bundle[..bundle.len() - 2000]);
    until("another one is in", || held() == 2);
    let pid = i32::try_from(child.id()).expect("a pid is an i32");
    kill_process(Pid::from_raw(pid).expect("not zero"), Signal::INT).expect("it runs");
    let pipe = child.stdin.take();
    let stderr = gather(child.stderr.take());
    let status = wait(&mut child, PATIENCE);
    drop(pipe);
    let stderr = stderr.join().expect("the reader does not panic");
    assert_eq!(status.code(), Some(130), "{stderr}");

    let said = import(&importer, &path, &[]);
    assert!(
        said.contains("1 new, ") && said.contains("(2 were here)"),
        "{said}"
    );
    let offline = importer.start();
    for name in NAMES {
        check_serves(&offline, &exporter.upstream, name, "1.0.0");
    }
}

#[test]
fn a_selection_that_is_not_held_whole_is_told_and_exported_all_the_same() {
    let exporter = Exporter::start();
    exporter.upstream.edit(|registry| {
        registry.put(&Krate::new("one", "1.1.0"));
    });
    let project = Project::new("one = \"1.1\"\ntwo = \"1\"").through(&exporter.orlop.url());
    project.cargo(&["generate-lockfile"]).well();
    let lock = project.path().join("Cargo.lock");
    let lock = lock.to_str().expect("text");
    let path = exporter.path("one.orlop");
    let setup = exporter.orlop.setup();
    let outcome = run(
        setup,
        &["export", "--lockfile", lock, "--out"],
        &path,
        &["--crate", "one"],
    );
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let told = outcome.stdout + &outcome.stderr;
    assert!(told.contains("one@1.1.0"), "{told}");
    let importer = exporter.importer();
    let said = import(&importer, &path, &["--json"]);
    assert!(said.contains("\"report\":\"import\""), "{said}");
    assert!(said.contains("\"absent\":1"), "{said}");
    let offline = importer.start();
    assert_eq!(offline.download("one", "1.0.0").status, 200);
    assert_eq!(offline.download("two", "1.0.0").status, 200);
    assert_eq!(offline.index("three").status, 404);
}

#[test]
fn a_selection_of_which_nothing_is_held_makes_no_bundle() {
    let exporter = Exporter::start();
    exporter.upstream.edit(|registry| {
        registry.put(&Krate::new("bare", "1.0.0"));
    });
    assert_eq!(exporter.orlop.index("bare").status, 200);
    let setup = exporter.orlop.setup();
    let path = exporter.path("empty.orlop");
    for more in [
        ["--crate", "bare@1", "--quiet"],
        ["--crate", "bare@1", "--json"],
    ] {
        let outcome = run(setup, &["export", "--out"], &path, &more);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let told = "no version of it is held";
        assert!(outcome.stdout.contains(told), "{}", outcome.stdout);
        assert_eq!(files_below(exporter.media.path()), [""; 0]);
    }
    let said = run(setup, &["export", "--out"], &path, &["--crate", "bare@1"]).stdout;
    assert!(
        said.contains("nothing of what was selected is held"),
        "{said}"
    );
    let project = Project::new("bare = \"1\"\ntwo = \"1\"").through(&exporter.orlop.url());
    project.cargo(&["generate-lockfile"]).well();
    let lock = project.path().join("Cargo.lock");
    let lock = ["--lockfile", lock.to_str().expect("text")];
    let some = run(setup, &["export", "--out"], &path, &lock);
    assert_eq!(some.code, Some(1), "{some:?}");
    assert!(some.stdout.contains("not held: 1 of what"), "{some:?}");
    assert!(!some.stdout.contains("not chosen"), "{some:?}");
}

#[test]
fn the_report_of_an_export_has_its_files_and_their_bytes() {
    let exporter = Exporter::start();
    let path = exporter.path("lab.orlop");
    let split = ["--split", "40K", "--json"];
    let outcome = run(exporter.orlop.setup(), &["export", "--out"], &path, &split);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let last = outcome.stdout.lines().last().unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(last).expect("JSON");
    let names: Vec<&str> = report["files"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|name| name.as_str().expect("a text"))
        .collect();
    assert!(
        names.len() > 2 && names[0].ends_with("lab.orlop.001"),
        "{names:?}"
    );
    let bytes: u64 = names
        .iter()
        .map(|name| fs::metadata(name).expect("it is there").len())
        .sum();
    assert_eq!(report["bundle_bytes"], bytes, "{report}");
}

#[test]
fn an_export_to_a_pipe_that_nobody_reads_ends_with_ctrl_c() {
    let exporter = Exporter::start();
    exporter.upstream.edit(|registry| {
        registry.put(&Krate::new("one", "1.1.0").size(300_000));
    });
    exporter.fetch("one", "1.1.0");
    let setup = exporter.orlop.setup();
    let mut command: Command = setup.command(&["export", "--out", "-"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let pipe = child.stdout.take();
    until("the job runs", || exporter.runs_exports() > 0);
    // Long enough to fill the pipe; sooner, the test only says less.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = i32::try_from(child.id()).expect("a pid is an i32");
    kill_process(Pid::from_raw(pid).expect("not zero"), Signal::INT).expect("it runs");
    let stderr = gather(child.stderr.take());
    let status = wait(&mut child, PATIENCE);
    let stderr = stderr.join().expect("the reader does not panic");
    assert_eq!(status.code(), Some(130), "{stderr}");
    until("the daemon has no job left", || {
        exporter.runs_exports() == 0
    });
    drop(pipe);
}

#[test]
fn the_json_report_comes_when_the_files_have_their_names() {
    let exporter = Exporter::start();
    let path = exporter.path("lab.orlop");
    let setup = exporter.orlop.setup();
    // A folder that holds something cannot be replaced by a file.
    fs::create_dir_all(path.join("in the way")).expect("made");
    let refused = run(setup, &["export", "--force", "--out"], &path, &["--json"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(!refused.stdout.contains("\"report\""), "{refused:?}");
    assert!(refused.stdout.contains("\"error\""), "{refused:?}");
    fs::remove_dir_all(&path).expect("removed");
    let well = run(setup, &["export", "--out"], &path, &["--json"]);
    assert_eq!(well.code, Some(0), "{well:?}");
    assert!(well.stdout.contains("\"report\":\"export\""), "{well:?}");
    let bytes = fs::metadata(&path).expect("it has its name").len();
    let bytes = f64::from(u32::try_from(bytes).expect("it is small"));
    let counted = exporter
        .orlop
        .metric("orlop_bundle_bytes_total", &["direction=\"export\""]);
    assert!(counted >= bytes, "{counted}");
}
