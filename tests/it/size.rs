//! A sync at size, killed three times: what it ends with is what an undisturbed one ends with.
//!
//! The small one runs with all tests; the one of 20,000 crates with 100,000 versions takes minutes:
//!
//! ```text
//! cargo build --release && ORLOP_TEST_BINARY=target/release/orlop \
//!     cargo test --test it size:: -- --ignored --nocapture
//! ```
//!
//! `ORLOP_TEST_CRATES` makes it smaller or larger.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry, knots},
    files_below,
    orlop::{Setup, gather, write_file},
    peer_may_be_gone, sha256,
    upstream::{Fault, Kind, On, Upstream},
};

/// How many versions a crate has.
const VERSIONS: usize = 5;

fn name(number: usize) -> String {
    format!("size-{number:05}")
}

/// Crates with five versions each; some need others, so that the closure has work.
fn registry(crates: usize) -> Registry {
    let mut registry = Registry::new();
    for number in 0..crates {
        for minor in 0..VERSIONS {
            let mut krate = Krate::new(&name(number), &format!("1.{minor}.0"));
            for next in [number * 7 + minor + 1, number / 2] {
                if next % crates != number {
                    krate = krate.optional_dep(&name(next % crates), "^1.1");
                }
            }
            registry.put(&krate);
        }
    }
    registry
}

struct World {
    upstream: Upstream,
    registry: Registry,
    crates: usize,
    list: String,
}

impl World {
    fn new(crates: usize) -> World {
        let registry = registry(crates);
        let list = (0..crates).fold(String::new(), |mut text, number| {
            writeln!(text, "{}", name(number)).expect("a string takes every write");
            text
        });
        World {
            upstream: Upstream::start(registry.clone()),
            registry,
            crates,
            list,
        }
    }

    fn setup(&self) -> (Setup, PathBuf) {
        let setup = Setup::over(&self.upstream);
        let folder = setup.data().parent().expect("a folder").to_owned();
        (setup, write_file(&folder, "list", &self.list))
    }

    /// Runs a sync, killed once it has asked for so many files since the last time.
    fn sync(&self, setup: &Setup, list: &Path, kill_after: Option<usize>) -> End {
        let list = list.to_str().expect("text");
        let words = ["sync", "--json", "--quiet", "--list", list];
        self.upstream.forget_seen();
        let mut child = setup.command(&words).spawn().expect("orlop can be started");
        let (out, errors) = (gather(child.stdout.take()), gather(child.stderr.take()));
        let mut peak_kib = 0;
        let began = Instant::now();
        let status = loop {
            peak_kib = peak_kib.max(peak(&child));
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if kill_after.is_some_and(|count| self.upstream.count(Kind::Crate) >= count) {
                peer_may_be_gone(child.kill());
            }
            assert!(began.elapsed() < Duration::from_secs(3600), "it ends");
            std::thread::sleep(Duration::from_millis(30));
        };
        let out = out.join().expect("the reader does not panic");
        let errors = errors.join().expect("the reader does not panic");
        End {
            status,
            report: serde_json::from_str(out.lines().last().unwrap_or_default())
                .unwrap_or(Value::Null),
            errors,
            peak_kib,
            took: began.elapsed(),
        }
    }
}

struct End {
    status: ExitStatus,
    report: Value,
    errors: String,
    peak_kib: u64,
    took: Duration,
}

/// The most memory that a process ever had, in KiB.
fn peak(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What a mirror that asks nobody answers for every n-th crate.
fn answers(setup: &Setup, world: &World, every: usize) -> Vec<String> {
    let orlop = setup.clone().config("mode", "offline").start();
    let mut answers = Vec::new();
    for number in (0..world.crates).step_by(every) {
        let index = orlop.index(&name(number));
        assert_eq!(index.status, 200, "{}", name(number));
        assert_eq!(
            index.text(),
            world.registry.index_file(&name(number)).expect("listed")
        );
        let version = format!("1.{}.0", number % VERSIONS);
        let file = orlop.download(&name(number), &version);
        assert!(file.is_complete_file(), "{} {version}", name(number));
        answers.push(format!("{} {}", index.text(), sha256(&file.body)));
    }
    drop(orlop.terminate());
    answers
}

#[expect(
    clippy::print_stderr,
    reason = "the figures are what the large run is for"
)]
fn check(crates: usize, every: usize) {
    let world = World::new(crates);
    let releases = crates * VERSIONS;
    let (calm, list) = world.setup();
    let end = world.sync(&calm, &list, None);
    assert_eq!(end.status.code(), Some(0), "{}", end.errors);
    assert_eq!(end.report["fetched"], releases, "{}", end.report);
    let (took, peak_kib) = (end.took, end.peak_kib);
    let (killed, list) = world.setup();
    let mut had = 0;
    for round in 0..3 {
        let end = world.sync(&killed, &list, Some(releases / 5));
        assert!(end.status.code().is_none(), "killed: {}", end.errors);
        let has = files_below(&killed.data().join("blobs")).len();
        assert!(
            has > had && has < releases,
            "round {round}: {has} after {had}"
        );
        had = has;
    }
    let finished = world.sync(&killed, &list, None);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.errors);
    assert_eq!(finished.report["releases"], releases, "{}", finished.report);
    let asked = world.upstream.count(Kind::Crate);
    assert!(
        asked <= releases - had,
        "{asked} were asked for, and {had} were held"
    );
    let blobs = |setup: &Setup| files_below(&setup.data().join("blobs"));
    assert_eq!(blobs(&calm).len(), releases);
    assert!(blobs(&calm) == blobs(&killed), "the same files");
    let again = world.sync(&killed, &list, None);
    assert_eq!(again.report["held"], releases, "{}", again.report);
    assert_eq!(
        world.upstream.count(Kind::Crate),
        0,
        "nothing is left to fetch"
    );
    assert!(answers(&calm, &world, every) == answers(&killed, &world, every));
    eprintln!(
        "{crates} crates, {releases} versions: {took:.1?} undisturbed, peak {} MiB; \
         the last after three kills {:.1?}, peak {} MiB; with all held {:.1?}, peak {} MiB",
        peak_kib >> 10,
        finished.took,
        finished.peak_kib >> 10,
        again.took,
        again.peak_kib >> 10,
    );
}

#[test]
fn a_sync_that_is_killed_three_times_ends_like_one_that_is_not() {
    check(300, 1);
}

#[test]
#[ignore = "minutes; the line that runs it is above"]
fn twenty_thousand_crates_are_synced_through_three_kills() {
    let crates = std::env::var("ORLOP_TEST_CRATES").ok();
    let crates = crates.and_then(|text| text.parse().ok());
    check(crates.unwrap_or(20_000), 97);
}

/// How long the fake upstream takes for each answer in the comparison.
const ROUND_TRIP: Duration = Duration::from_millis(20);

#[test]
#[ignore = "a comparison of times, for a quiet machine"]
#[expect(clippy::print_stderr, reason = "the figures are what it is for")]
fn a_lockfile_is_fetched_faster_than_cargo_fetches_it() {
    const CRATES: usize = 400;
    let upstream = Upstream::start(knots(CRATES));
    let direct = format!(
        "[source.crates-io]\nreplace-with = \"fake\"\n\n[source.fake]\nregistry = \"sparse+{}\"\n",
        upstream.url()
    );
    let project = Project::new("knot-000 = \"1\"").configured(&direct);
    project.cargo(&["generate-lockfile"]).well();
    project.forget();
    upstream.misbehave(On::All, Fault::Slow(ROUND_TRIP));
    let began = Instant::now();
    project.cargo(&["fetch", "--locked"]).well();
    let cargo = began.elapsed();
    let setup = Setup::over(&upstream);
    let lockfile = project.path().join("Cargo.lock");
    let began = Instant::now();
    let outcome = setup.run(&["sync", "--lockfile", lockfile.to_str().expect("text")]);
    let ours = began.elapsed();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let held = files_below(&setup.data().join("blobs")).len();
    assert_eq!(held, CRATES, "{outcome:?}");
    eprintln!(
        "{CRATES} crates at {ROUND_TRIP:?} an answer: `cargo fetch` {cargo:.2?}, `orlop sync` {ours:.2?}, ratio {:.2}",
        ours.as_secs_f64() / cargo.as_secs_f64()
    );
}
