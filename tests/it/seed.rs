//! `orlop import --from-dir`: what a lab has is taken where it fits the index, and listed where not.

use std::{fs, path::Path};

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry, index_path},
    orlop::{Outcome, Setup, write_file},
    upstream::Upstream,
};

fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("plain", "1.0.0"))
        .with(&Krate::new("foo-1", "2.0.0"))
        .with(&Krate::new("libsys", "0.18.0+1.9.0"))
        .with(&Krate::new("Upper", "1.0.0-rc-1"))
        .with(&Krate::new("raw", "3.0.0"))
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn seed(setup: &Setup, folder: &Path, more: &[&str]) -> Outcome {
    let mut words = vec![
        "import",
        "--from-dir",
        folder.to_str().expect("a path of text"),
    ];
    words.extend(more);
    setup.run(&words)
}

#[test]
fn crate_files_are_taken_wherever_they_lie_and_only_once() {
    let upstream = Upstream::start(registry());
    let setup = Setup::over(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    let file =
        |name: &str, version: &str| upstream.registry().release(name, version).bytes.to_vec();
    put(
        place.path(),
        "registry/cache/x-123/plain-1.0.0.crate",
        &file("plain", "1.0.0"),
    );
    put(
        place.path(),
        "local/foo-1-2.0.0.crate",
        &file("foo-1", "2.0.0"),
    );
    put(
        place.path(),
        "crates/l/i/libsys/libsys-0.18.0+1.9.0.crate",
        &file("libsys", "0.18.0+1.9.0"),
    );
    put(
        place.path(),
        "Upper-1.0.0-rc-1.crate",
        &file("Upper", "1.0.0-rc-1"),
    );
    let raw = file("raw", "3.0.0");
    let sum = crate::support::sha256(&raw);
    put(
        place.path(),
        &format!("blobs/{}/{sum}.raw", &sum[..2]),
        &raw,
    );
    put(
        place.path(),
        "copy/plain-1.0.0.crate",
        &file("plain", "1.0.0"),
    );
    std::os::unix::fs::symlink(place.path(), place.path().join("round")).expect("a link");

    let outcome = seed(&setup, place.path(), &[]);
    outcome.told(0, &["taken in        5 crate files", "held already    1"]);
    let again = seed(&setup, place.path(), &[]);
    again.told(0, &["taken in        0 crate files", "held already    6"]);

    upstream.forget_seen();
    let orlop = setup.start();
    for (name, version) in [("plain", "1.0.0"), ("foo-1", "2.0.0"), ("raw", "3.0.0")] {
        assert_eq!(
            orlop.download(name, version).body,
            file(name, version),
            "{name}"
        );
    }
    assert_eq!(
        upstream.count_path("/download"),
        0,
        "all files came from the folder"
    );
}

#[test]
fn what_does_not_fit_is_listed_with_its_reason() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let place = tempfile::tempdir().expect("a temporary folder");
    let file =
        |name: &str, version: &str| upstream.registry().release(name, version).bytes.to_vec();
    put(place.path(), "plain-1.0.0.crate", &file("foo-1", "2.0.0"));
    put(place.path(), "plain-9.0.0.crate", b"not gzip");
    put(place.path(), "nobody-1.0.0.crate", b"not gzip");
    put(place.path(), "thesis.crate", b"not gzip");
    put(
        place.path(),
        "vendor/plain/.cargo-checksum.json",
        b"{\"files\":{},\"package\":\"00\"}",
    );
    put(place.path(), "raw-3.0.0.crate", &file("raw", "3.0.0"));
    // Through the daemon, which has the store.
    let outcome = seed(orlop.setup(), place.path(), &[]);
    outcome.told(
        1,
        &[
            "1 not taken: the index does not know the version",
            "plain-9.0.0.crate",
            "1 not taken: the index does not know the crate",
            "nobody-1.0.0.crate",
            "1 not taken: it is no crate file",
            "thesis.crate",
            "1 not taken: vendored without its crate file",
            "orlop sync",
        ],
    );
    // The file of another crate under a wrong name is what its own first name says.
    outcome.told(1, &["taken in        2 crate files"]);
    let mut bytes = file("libsys", "0.18.0+1.9.0");
    bytes.push(0);
    let other = tempfile::tempdir().expect("a temporary folder");
    put(other.path(), "libsys-0.18.0+1.9.0.crate", &bytes);
    let outcome = seed(orlop.setup(), other.path(), &["--json"]);
    outcome.told(1, &["\"other-checksum\":1", "libsys-0.18.0+1.9.0.crate"]);
}

#[test]
fn a_cargo_home_seeds_a_mirror_that_has_nobody_to_ask() {
    let upstream = Upstream::start(registry());
    let first = Setup::over(&upstream).start();
    let dependencies = "plain = \"1\"\nfoo-1 = \"2\"\n";
    let project = Project::new(dependencies).through(&first.url());
    project.cargo(&["build"]).well();
    upstream.down();

    let setup = Setup::over(&upstream).config("mode", "offline");
    let outcome = seed(&setup, &project.path().join(".."), &[]);
    outcome.told(
        0,
        &[
            "taken in        2 crate files",
            "index entries   2 from the folder",
        ],
    );
    let orlop = setup.start();
    Project::new(dependencies)
        .through(&orlop.url())
        .cargo(&["build"])
        .well();
}

#[test]
fn without_an_index_and_without_upstream_nothing_is_believed() {
    let upstream = Upstream::start(registry());
    let setup = Setup::over(&upstream).config("mode", "offline");
    let place = tempfile::tempdir().expect("a temporary folder");
    let release = upstream.registry().release("plain", "1.0.0");
    put(place.path(), "plain-1.0.0.crate", &release.bytes);
    let outcome = seed(&setup, place.path(), &[]);
    outcome.told(1, &["1 not taken: the index could not be asked"]);

    let lines = upstream
        .registry()
        .index_file("plain")
        .expect("an index file");
    write_file(
        place.path(),
        &format!("index/{}", index_path("plain")),
        &lines,
    );
    let outcome = seed(&setup, place.path(), &[]);
    outcome.told(
        0,
        &[
            "taken in        1 crate files",
            "index entries   1 from the folder",
        ],
    );
}

#[test]
fn vendored_crates_are_written_to_a_list_that_sync_takes() {
    let upstream = Upstream::start(registry());
    let setup = Setup::over(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    for (folder, manifest) in [
        (
            "plain",
            "[package]\nname = \"plain\"\nversion = \"1.0.0\"\n",
        ),
        (
            "libsys-0.18.0",
            "[package]\nname = \"libsys\"\nversion = \"0.18.0+1.9.0\"\n",
        ),
        ("broken", "no manifest"),
    ] {
        let folder = format!("vendor/{folder}");
        put(
            place.path(),
            &format!("{folder}/.cargo-checksum.json"),
            b"{}",
        );
        put(
            place.path(),
            &format!("{folder}/Cargo.toml"),
            manifest.as_bytes(),
        );
        // What is below is part of it.
        put(
            place.path(),
            &format!("{folder}/tests/x-1.0.0.crate"),
            b"none",
        );
    }
    let list = place.path().join("wanted");
    let list = list.to_str().expect("a path of text");
    let outcome = seed(&setup, place.path(), &["--json"]);
    outcome.told(
        1,
        &["\"vendored\":[\"libsys@=0.18.0+1.9.0\",\"plain@=1.0.0\"]"],
    );
    let outcome = seed(&setup, place.path(), &["--vendored-list", list]);
    let command = format!("orlop sync --list {list}");
    outcome.told(
        1,
        &["3 not taken: vendored without its crate file", &command],
    );
    put(place.path(), "Cargo.lock", b"");
    let lock = place.path().join("Cargo.lock");
    let exactly = format!("exactly these: orlop sync --lockfile {}", lock.display());
    seed(&setup, place.path(), &[]).told(1, &[&exactly]);
    let lines = fs::read_to_string(list).expect("a list");
    assert_eq!(lines, "libsys@=0.18.0+1.9.0\nplain@=1.0.0\n");
    let outcome = setup.run(&["sync", "--list", list]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let orlop = setup.start();
    assert_eq!(orlop.blobs().len(), 2);
}

#[test]
fn a_folder_of_thousands_of_files_is_taken_whole() {
    const CRATES: usize = 20;
    const COPIES: usize = 45;
    let names: Vec<String> = (0..CRATES).map(|number| format!("many-{number}")).collect();
    let mut registry = Registry::new();
    for name in &names {
        registry.put(&Krate::new(name, "1.0.0"));
    }
    let upstream = Upstream::start(registry);
    let setup = Setup::over(&upstream);
    let place = tempfile::tempdir().expect("a temporary folder");
    for name in &names {
        let bytes = upstream.registry().release(name, "1.0.0").bytes.to_vec();
        for copy in 0..COPIES {
            put(place.path(), &format!("{copy}/{name}-1.0.0.crate"), &bytes);
        }
    }
    for number in 0..1100 {
        put(
            place.path(),
            &format!("flat/thesis-{number}.crate"),
            b"not gzip",
        );
    }
    let outcome = seed(&setup, place.path(), &["--json"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let last = outcome.stdout.lines().last().expect("a report");
    let report: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(report["taken"], CRATES, "{}", report["refused"]);
    assert_eq!(report["held"], CRATES * (COPIES - 1));
    assert_eq!(report["refused"]["not-a-crate"], 1100);
    assert_eq!(report["misfits"].as_array().map(Vec::len), Some(1100));
}
