//! What the store promises, each promise broken on purpose by a failure from outside.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    catalogue::Tree,
    codec::{View, compress},
    handle::Store,
    raw_files::RawPath,
    state::Counts,
    *,
};
use crate::registry::{Checksum, CrateName, IndexFile, Release};

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

pub(super) fn name(text: &str) -> CrateName {
    CrateName::parse(text).expect("a good name")
}

pub(super) fn release(krate: &str, version: &str) -> Release {
    Release::parse(krate, version).expect("a good release")
}

pub(super) fn sum(seed: &str) -> Checksum {
    Checksum::of(seed.as_bytes())
}

/// The lines of an index file: version, what its crate file holds, yanked.
fn file(krate: &str, lines: &[(&str, &str, bool)]) -> IndexFile {
    let lines: Vec<String> = lines
        .iter()
        .map(|(version, content, yanked)| {
            format!(
                "{{\"name\":\"{krate}\",\"vers\":\"{version}\",\"deps\":[],\"cksum\":\"{}\",\"features\":{{}},\"yanked\":{yanked}}}\n",
                sum(content)
            )
        })
        .collect();
    IndexFile::parse(&name(krate), lines.concat().into()).expect("a good file")
}

fn change(krate: &str, lines: &[(&str, &str, bool)], checked: SystemTime) -> Change {
    Change::Index {
        name: name(krate),
        file: file(krate, lines),
        validators: Validators {
            etag: Some(format!("\"{}\"", lines.len())),
            last_modified: None,
        },
        checked,
    }
}

fn options(dir: &Path) -> Options {
    Options {
        cache_bytes: 4 << 20,
        ..Options::at(dir)
    }
}

pub(super) fn open(dir: &Path) -> Store {
    open_report(dir).0
}

pub(super) fn open_report(dir: &Path) -> (Store, OpenReport) {
    Store::open(options(dir), at(0)).expect("the store opens")
}

/// A store that holds `demo` 1.0.0, whose file is these letters.
pub(super) fn demo(file: &str) -> (TempDir, Store) {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", file, false)], 0);
    hold(&store, "demo", "1.0.0", file);
    (dir, store)
}

pub(super) fn publish(
    store: &Store,
    krate: &str,
    lines: &[(&str, &str, bool)],
    now: u64,
) -> Vec<EventKind> {
    store
        .publish(vec![change(krate, lines, at(now))], at(now))
        .expect("published")
        .into_iter()
        .map(|event| event.kind)
        .collect()
}

pub(super) fn hold(store: &Store, krate: &str, version: &str, content: &str) -> BlobReader {
    let mut reservation = store
        .reserve(&sum(content), Some(content.len() as u64))
        .expect("room");
    reservation.write(content.as_bytes()).expect("written");
    reservation
        .commit(&release(krate, version), at(1))
        .expect("committed")
}

fn counts_of(store: &Store) -> Counts {
    store.shared().totals().counts.unwrap_or_default()
}

fn bytes_of(store: &Store, krate: &str) -> Option<Bytes> {
    let snapshot = store.snapshot(&name(krate)).expect("readable")?;
    Some(snapshot.bytes)
}

pub(super) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// What a kill -9 leaves: the files as they are while the store is open.
pub(super) fn killed(dir: &Path) -> TempDir {
    let copy = TempDir::new().expect("a folder");
    copy_tree(dir, copy.path());
    copy
}

// --- index

#[test]
fn an_index_file_comes_back_byte_for_byte() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    assert_eq!(store.entry(&name("demo")).expect("readable"), None);
    let lines = [("0.1.0", "a", false), ("0.10.0", "b", true)];
    let events = publish(&store, "Demo", &lines, 5);
    assert_eq!(events, [EventKind::FirstSeen { versions: 2 }]);
    let snapshot = store
        .snapshot(&name("demo"))
        .expect("readable")
        .expect("there");
    assert_eq!(snapshot.bytes, file("Demo", &lines).bytes());
    let facts = store
        .entry(&name("DEMO"))
        .expect("readable")
        .expect("there");
    assert_eq!(facts, snapshot.facts);
    assert_eq!(facts.name.as_str(), "Demo");
    assert_eq!(facts.etag.as_deref(), Some("\"2\""));
    assert_eq!((facts.checked, facts.changed), (at(5), at(5)));
    assert_eq!(facts.raw_len, snapshot.bytes.len() as u64);
    assert!(facts.has_snapshot && !facts.gone);
}

#[test]
fn a_release_is_found_among_many() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let versions: Vec<String> = (0..300).map(|patch| format!("1.0.{patch}")).collect();
    let lines: Vec<_> = versions
        .iter()
        .map(|version| (version.as_str(), version.as_str(), version.ends_with('7')))
        .collect();
    publish(&store, "demo", &lines, 0);
    for version in &versions {
        let facts = store
            .release(&release("demo", version))
            .expect("readable")
            .expect("there");
        assert_eq!(facts.checksum, sum(version));
        assert_eq!(facts.yanked, version.ends_with('7'));
        assert!(!facts.held && !facts.removed);
    }
    for absent in ["1.0.300", "0.0.0", "1.0.0-a", "9.9.9", "1.0.0+a"] {
        let found = store.release(&release("demo", absent)).expect("readable");
        assert_eq!(found, None, "{absent}");
    }
    let long = format!("1.0.0-{}", "a".repeat(249));
    assert_eq!(
        store.release(&release("demo", &long)).expect("readable"),
        None
    );
}

#[test]
fn what_upstream_does_is_told_once() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let version = |text: &str| release("demo", text).version;
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    let stamp = store.stamp(&name("demo"));
    // The same again is no news.
    assert_eq!(publish(&store, "demo", &[("1.0.0", "a", false)], 2), []);
    assert_eq!(store.stamp(&name("demo")), stamp);
    let facts = store
        .entry(&name("demo"))
        .expect("readable")
        .expect("there");
    assert_eq!((facts.checked, facts.changed), (at(2), at(1)));
    assert_eq!(
        publish(
            &store,
            "demo",
            &[("1.0.0", "a", true), ("1.1.0", "b", false)],
            3
        ),
        [
            EventKind::Yanked {
                version: version("1.0.0")
            },
            EventKind::NewVersion {
                version: version("1.1.0"),
                checksum: sum("b"),
                yanked: false
            },
        ]
    );
    assert_ne!(store.stamp(&name("demo")), stamp);
    assert_eq!(
        publish(&store, "demo", &[("1.0.0", "other", false)], 4),
        [
            EventKind::ChecksumChanged {
                version: version("1.0.0"),
                old: sum("a"),
                new: sum("other")
            },
            EventKind::VersionRemoved {
                version: version("1.1.0"),
                checksum: sum("b")
            },
        ]
    );
    let known = store
        .checksums(&release("demo", "1.0.0"))
        .expect("readable");
    let known: Vec<_> = known
        .iter()
        .map(|known| (known.checksum, known.superseded))
        .collect();
    assert_eq!(known, [(sum("other"), false), (sum("a"), true)]);
    let removed = store
        .release(&release("demo", "1.1.0"))
        .expect("readable")
        .expect("known");
    assert!(removed.removed);
    let again = publish(&store, "demo", &[("1.0.0", "other", true)], 4);
    assert_eq!(
        again,
        [EventKind::Yanked {
            version: version("1.0.0")
        }],
        "a removal is told once"
    );
    // It comes back.
    assert_eq!(
        publish(
            &store,
            "demo",
            &[("1.0.0", "a", false), ("1.1.0", "b", false)],
            5
        ),
        [
            EventKind::ChecksumChanged {
                version: version("1.0.0"),
                old: sum("other"),
                new: sum("a")
            },
            EventKind::NewVersion {
                version: version("1.1.0"),
                checksum: sum("b"),
                yanked: false
            },
        ]
    );
    let events = store.log().newest(9);
    let is_last = |entry: &LogEntry| entry.kind == LogKind::Version && entry.at == at(5);
    assert!(events.iter().any(is_last), "{events:?}");
    assert_eq!(store.log().count_of(LogKind::Changed), 2);
}

#[test]
fn a_name_that_upstream_forgets_is_kept() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let gone = |name: &CrateName, now| {
        let change = Change::Gone {
            name: name.clone(),
            checked: at(now),
        };
        store.publish(vec![change], at(now)).expect("published")
    };
    assert_eq!(gone(&name("never"), 1), []);
    assert_eq!(store.entry(&name("never")).expect("readable"), None);
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    assert_eq!(gone(&name("demo"), 2)[0].kind, EventKind::NameGone);
    assert_eq!(gone(&name("demo"), 3), []);
    let facts = store.entry(&name("demo")).expect("readable").expect("kept");
    assert!(facts.gone && facts.has_snapshot);
    assert_eq!((facts.checked, facts.changed), (at(3), at(2)));
    assert_eq!(
        publish(&store, "demo", &[("1.0.0", "a", false)], 4),
        [EventKind::NameBack]
    );
    assert!(
        !store
            .entry(&name("demo"))
            .expect("readable")
            .expect("kept")
            .gone
    );
}

#[test]
fn a_touch_is_seen_at_once_and_kept_by_a_flush() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    let stamp = store.stamp(&name("demo"));
    let validators = Validators {
        etag: Some("\"new\"".into()),
        last_modified: None,
    };
    store.touch(&name("demo"), at(9), Some(validators));
    store.touch(&name("unknown"), at(9), None);
    let check = |store: &Store| {
        let facts = store
            .entry(&name("demo"))
            .expect("readable")
            .expect("there");
        assert_eq!((facts.checked, facts.changed), (at(9), at(1)));
        assert_eq!(facts.etag.as_deref(), Some("\"new\""));
    };
    check(&store);
    assert_eq!(store.stamp(&name("demo")), stamp);
    store.flush_touches().expect("written");
    check(&store);
    let copy = killed(dir.path());
    check(&open(copy.path()));
    assert_eq!(
        open(copy.path()).entry(&name("unknown")).expect("readable"),
        None
    );
}

#[test]
fn a_search_finds_the_name_itself_first() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let search = |query: &str, limit| {
        let (found, total) = store.search(query, limit).expect("readable");
        let names: Vec<String> = found.iter().map(|found| found.name.to_string()).collect();
        (names.join(" "), total)
    };
    for krate in ["serde-json", "Serde", "serde_derive", "my-serde", "other"] {
        publish(
            &store,
            krate,
            &[
                ("1.0.0", "a", false),
                ("1.2.0", "b", true),
                ("2.0.0-rc", "c", false),
            ],
            0,
        );
    }
    assert_eq!(
        search("SERDE", 9),
        ("Serde serde-json serde_derive my-serde".into(), 4)
    );
    assert_eq!(search("serde-", 1), ("serde-json".into(), 2));
    assert_eq!(search("serde_json", 9), ("serde-json".into(), 1));
    assert_eq!(search("nothing", 9), (String::new(), 0));
    publish(&store, "serde-late", &[("1.0.0", "a", false)], 0);
    assert_eq!(search("late", 9), ("serde-late".into(), 1));
    let (found, _total) = store.search("other", 1).expect("readable");
    assert_eq!(
        found[0].max_version,
        Some(release("other", "1.0.0").version)
    );
    let mut seen = Vec::new();
    store
        .names(|facts| {
            seen.push(facts.name.to_string());
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert_eq!(
        seen.join(" "),
        "my-serde other Serde serde-json serde-late serde_derive"
    );
}

#[test]
fn a_record_larger_than_a_segment_survives() {
    let dir = TempDir::new().expect("a folder");
    // 70,000 random checksums do not compress: over 4 MB of frame and 2.8 MB of table.
    let versions: Vec<String> = (0..70_000).map(|patch| format!("1.0.{patch}")).collect();
    let lines: Vec<_> = versions
        .iter()
        .map(|version| (version.as_str(), version.as_str(), false))
        .collect();
    let store = open(dir.path());
    publish(&store, "huge", &lines, 0);
    let copy = killed(dir.path());
    let store = open(copy.path());
    assert_eq!(
        bytes_of(&store, "huge").as_ref(),
        Some(file("huge", &lines).bytes())
    );
    assert!(
        store
            .release(&release("huge", "1.0.69999"))
            .expect("readable")
            .is_some()
    );
}

// --- blobs

#[test]
fn a_crate_file_is_there_when_it_is_committed_and_not_before() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "content", false)], 0);
    let mut reservation = store.reserve(&sum("content"), None).expect("room");
    let reader = reservation.reader();
    reservation.write(b"con").expect("written");
    assert_eq!(reader.read_range(0, 3).expect("readable"), "con");
    assert!(reservation.verify().is_err());
    reservation.write(b"tent").expect("written");
    assert_eq!(reservation.written(), 7);
    assert!(
        store
            .blob_blocking(&sum("content"))
            .expect("readable")
            .is_none()
    );
    let blob = reservation
        .commit(&release("demo", "1.0.0"), at(1))
        .expect("committed");
    assert_eq!((blob.len(), blob.checksum()), (7, &sum("content")));
    assert_eq!(reader.clone().read_range(3, 4).expect("readable"), "tent");
    let found = store
        .blob_blocking(&sum("content"))
        .expect("readable")
        .expect("held");
    assert_eq!(found.read_all().expect("readable"), "content");
    assert_eq!(found.read_range(1, 2).expect("readable"), "on");
    assert!(found.read_range(6, 2).is_err());
    let facts = store
        .release(&release("demo", "1.0.0"))
        .expect("readable")
        .expect("there");
    assert!(facts.held);
    let totals = store.totals();
    assert_eq!((totals.names, totals.blobs, totals.blob_bytes), (1, 1, 7));
    // Again, by somebody who did not look: nothing is counted twice.
    hold(&store, "demo", "1.0.0", "content");
    assert_eq!(store.totals().blobs, 1);
    assert_eq!(
        fs::read_dir(dir.path().join("spool"))
            .expect("readable")
            .count(),
        0
    );
}

#[test]
fn what_is_not_what_was_promised_leaves_nothing() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    for content in ["", "lie", "content and more"] {
        let mut reservation = store.reserve(&sum("content"), None).expect("room");
        let reader = reservation.reader();
        reservation.write(content.as_bytes()).expect("written");
        let mismatch = match reservation.commit(&release("demo", "1.0.0"), at(1)) {
            Err(Error::Mismatch(mismatch)) => mismatch,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (mismatch.actual, mismatch.len),
            (sum(content), content.len() as u64)
        );
        assert_eq!(
            reader.read_range(0, content.len()).expect("readable"),
            content
        );
    }
    assert!(
        store
            .blob_blocking(&sum("content"))
            .expect("readable")
            .is_none()
    );
    assert_eq!(
        fs::read_dir(dir.path().join("spool"))
            .expect("readable")
            .count(),
        0
    );
    assert_eq!(
        fs::read_dir(dir.path().join("blobs"))
            .expect("readable")
            .count(),
        0
    );
    assert_eq!(store.totals().blobs, 0);
}

#[test]
fn an_old_checksum_of_a_version_stays_readable() {
    let (_dir, store) = demo("old");
    publish(&store, "demo", &[("1.0.0", "new", false)], 1);
    let facts = store
        .release(&release("demo", "1.0.0"))
        .expect("readable")
        .expect("there");
    assert_eq!((facts.checksum, facts.held), (sum("new"), false));
    assert!(
        store
            .blob_blocking(&sum("old"))
            .expect("readable")
            .is_some()
    );
    hold(&store, "demo", "1.0.0", "new");
    let known = store
        .checksums(&release("demo", "1.0.0"))
        .expect("readable");
    assert!(known.len() == 2 && known.iter().all(|known| known.held));
}

#[test]
fn commits_at_the_same_time_share_their_syncs_and_all_survive() {
    const WRITERS: usize = 48;
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let contents: Vec<String> = (0..WRITERS)
        .map(|index| format!("content {index}"))
        .collect();
    let gate = std::sync::Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        for (index, content) in contents.iter().enumerate() {
            let (store, gate) = (&store, &gate);
            scope.spawn(move || {
                gate.wait();
                let krate = format!("krate{index}");
                publish(store, &krate, &[("1.0.0", content, false)], 0);
                hold(store, &krate, "1.0.0", content);
            });
        }
    });
    let batches = store.shared().batches.load(Relaxed);
    assert!(batches < WRITERS as u64 * 2, "{batches} batches");
    let copy = killed(dir.path());
    let store = open(copy.path());
    for (index, content) in contents.iter().enumerate() {
        let krate = format!("krate{index}");
        assert!(bytes_of(&store, &krate).is_some(), "{krate}");
        assert!(
            store
                .blob_blocking(&sum(content))
                .expect("readable")
                .is_some(),
            "{krate}"
        );
    }
    assert_eq!(store.totals().names, WRITERS as u64);
}

#[test]
fn an_empty_value_file_does_not_count() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    hold(&store, "demo", "1.0.0", "content");
    let path = dir
        .path()
        .join("blobs")
        .join(RawPath::of(&sum("content")).as_str());
    fs::write(&path, b"").expect("emptied");
    assert!(
        store
            .blob_blocking(&sum("content"))
            .expect("readable")
            .is_none()
    );
    hold(&store, "demo", "1.0.0", "content");
    assert!(
        store
            .blob_blocking(&sum("content"))
            .expect("readable")
            .is_some()
    );
}

// --- opening

#[test]
fn all_that_was_acknowledged_survives_a_kill() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    for round in 0..10 {
        let krate = format!("krate{round}");
        let content = format!("content {round}");
        publish(&store, &krate, &[("1.0.0", &content, false)], round);
        hold(&store, &krate, "1.0.0", &content);
        let copy = killed(dir.path());
        let (after, report) = open_report(copy.path());
        assert_eq!(report.rebuilt, None, "round {round}");
        for earlier in 0..=round {
            let content = format!("content {earlier}");
            assert!(bytes_of(&after, &format!("krate{earlier}")).is_some());
            assert!(
                after
                    .blob_blocking(&sum(&content))
                    .expect("readable")
                    .is_some()
            );
        }
        let adoption = after.adopt(&AtomicBool::new(false)).expect("adopted");
        assert_eq!(adoption.blobs, round + 1);
        let facts = after
            .release(&release(&krate, "1.0.0"))
            .expect("readable")
            .expect("there");
        assert!(facts.held, "round {round}");
        assert_eq!(after.totals().blobs, round + 1);
    }
}

#[test]
fn a_closed_store_opens_again_as_it_was() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "content", false)], 1);
    hold(&store, "demo", "1.0.0", "content");
    store.touch(&name("demo"), at(7), None);
    let events = store.log().newest(9);
    let clone = store.clone();
    store.close().expect("closed");
    let refused = clone.publish(vec![change("late", &[("1.0.0", "a", false)], at(1))], at(1));
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    assert!(clone.entry(&name("demo")).expect("readable").is_some());
    drop(clone);
    let (store, report) = open_report(dir.path());
    assert_eq!(report, OpenReport::default());
    let facts = store
        .entry(&name("demo"))
        .expect("readable")
        .expect("there");
    assert_eq!(facts.checked, at(7));
    assert_eq!(store.log().newest(9), events);
    assert_eq!(store.totals().blobs, 1);
    let adoption = store.adopt(&AtomicBool::new(false)).expect("adopted");
    assert_eq!((adoption.blobs, adoption.adopted), (1, 0));
}

#[test]
fn a_second_process_is_refused_with_the_first_ones_id() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let second = Store::open(options(dir.path()), at(0));
    match second {
        Err(error @ Error::Locked { pid: Some(pid), .. }) => {
            assert_eq!(pid, std::process::id());
            assert!(error.hint().is_some());
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    open(dir.path());
}

#[test]
fn folders_that_are_no_store_of_ours_are_refused() {
    let dir = TempDir::new().expect("a folder");
    fs::write(dir.path().join("thesis.tex"), "x").expect("written");
    let refused = Store::open(options(dir.path()), at(0));
    assert!(matches!(refused, Err(Error::NotAStore { ref found, .. }) if found == "thesis.tex"));
    assert!(!dir.path().join("lock").exists());

    let dir = TempDir::new().expect("a folder");
    drop(open(dir.path()));
    fs::write(dir.path().join("format"), "orlop store format 2\n").expect("written");
    let refused = Store::open(options(dir.path()), at(0));
    assert!(
        matches!(
            refused,
            Err(Error::NewerFormat {
                found: 2,
                known: 1,
                ..
            })
        ),
        "{refused:?}"
    );

    let dir = TempDir::new().expect("a folder");
    fs::write(dir.path().join("data"), "x").expect("written");
    let refused = Store::open(options(&dir.path().join("data/orlop")), at(0));
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
}

#[test]
fn a_folder_of_another_user_is_refused() {
    let dir = TempDir::new().expect("a folder");
    // Who may give folders away does so; everybody else looks at one that is root's.
    let foreign = match std::os::unix::fs::chown(dir.path(), Some(12_345), None) {
        Ok(()) => dir.path(),
        Err(_not_permitted) => Path::new("/"),
    };
    let refused = Store::open(options(foreign), at(0));
    assert!(
        matches!(refused, Err(Error::OtherOwner { owner, user, .. }) if owner != user),
        "{refused:?}"
    );
    assert!(!foreign.join("lock").exists());
}

#[test]
fn half_received_files_are_swept_at_start() {
    let dir = TempDir::new().expect("a folder");
    drop(open(dir.path()));
    fs::write(dir.path().join("spool/3.part"), "half").expect("written");
    fs::write(dir.path().join("spool/whatever"), "a beginning").expect("written");
    let (store, report) = open_report(dir.path());
    assert_eq!(report.swept, 2);
    hold(&store, "demo", "1.0.0", "content");
}

#[test]
fn a_crate_file_put_into_its_place_is_adopted() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(
        &store,
        "demo",
        &[("1.0.0", "content", false), ("2.0.0", "lost", false)],
        0,
    );
    hold(&store, "demo", "2.0.0", "lost");
    let place = |content: &str| {
        dir.path()
            .join("blobs")
            .join(RawPath::of(&sum(content)).as_str())
    };
    let put = place("content");
    fs::create_dir_all(put.parent().expect("a folder")).expect("made");
    fs::write(&put, "content").expect("written");
    fs::write(put.with_extension("zst1"), "a later codec").expect("written");
    fs::write(dir.path().join("blobs/README"), "mine").expect("written");
    fs::remove_file(place("lost")).expect("removed");
    let stopped = store.adopt(&AtomicBool::new(true)).expect("stopped");
    assert!(stopped.stopped);
    let adoption = store.adopt(&AtomicBool::new(false)).expect("adopted");
    let expected = Adoption {
        blobs: 1,
        blob_bytes: 7,
        adopted: 1,
        lost: 1,
        not_understood: 2,
        stopped: false,
    };
    assert_eq!(adoption, expected);
    let held = |version| {
        store
            .release(&release("demo", version))
            .expect("readable")
            .expect("there")
            .held
    };
    assert!(held("1.0.0") && !held("2.0.0"));
    assert_eq!((store.totals().blobs, store.totals().blob_bytes), (1, 7));
    assert!(put.with_extension("zst1").exists());
    let again = store.adopt(&AtomicBool::new(false)).expect("adopted");
    assert_eq!((again.adopted, again.lost), (0, 0));
}

// --- damage

/// A store with a little of everything, closed.
fn small_store(dir: &Path) {
    let store = open(dir);
    publish(
        &store,
        "demo",
        &[("1.0.0", "old", false), ("1.1.0", "b", false)],
        1,
    );
    hold(&store, "demo", "1.0.0", "old");
    publish(
        &store,
        "demo",
        &[("1.0.0", "new", true), ("1.1.0", "b", false)],
        2,
    );
    publish(&store, "other", &[("0.1.0", "c", true)], 3);
    store.close().expect("closed");
}

/// Right or absent, but never wrong, and willing to take the right thing again.
fn is_sound(store: &Store) {
    let demo = [("1.0.0", "new", true), ("1.1.0", "b", false)];
    let other = [("0.1.0", "c", true)];
    for (krate, lines) in [("demo", &demo[..]), ("other", &other[..])] {
        if let Some(bytes) = bytes_of(store, krate) {
            let old = file("demo", &[("1.0.0", "old", false), ("1.1.0", "b", false)]);
            assert!(
                bytes == *file(krate, lines).bytes() || bytes == *old.bytes(),
                "{bytes:?}"
            );
        }
        publish(store, krate, lines, 9);
        assert_eq!(
            bytes_of(store, krate).as_ref(),
            Some(file(krate, lines).bytes())
        );
    }
    let known = store
        .checksums(&release("demo", "1.0.0"))
        .expect("readable");
    assert_eq!(known.first().map(|known| known.checksum), Some(sum("new")));
    assert!(
        store
            .blob_blocking(&sum("old"))
            .expect("readable")
            .is_some()
    );
}

#[test]
fn a_lost_sled_is_rebuilt_from_the_journal_and_the_crate_files() {
    let dir = TempDir::new().expect("a folder");
    small_store(dir.path());
    fs::remove_dir_all(dir.path().join("sled")).expect("removed");
    let (store, report) = open_report(dir.path());
    assert!(report.rebuilt.is_some(), "{report:?}");
    assert_eq!(report.rebuilt_names, 2);
    let facts = store
        .entry(&name("demo"))
        .expect("readable")
        .expect("known");
    assert!(!facts.has_snapshot);
    assert_eq!((facts.checked, facts.etag), (UNIX_EPOCH, None));
    assert_eq!(bytes_of(&store, "demo"), None);
    let known = store
        .checksums(&release("demo", "1.0.0"))
        .expect("readable");
    let known: Vec<_> = known
        .iter()
        .map(|known| (known.checksum, known.held, known.superseded))
        .collect();
    assert_eq!(
        known,
        [(sum("new"), false, false), (sum("old"), true, true)]
    );
    assert!(
        store
            .release(&release("other", "0.1.0"))
            .expect("readable")
            .expect("known")
            .yanked
    );
    let totals = store.totals();
    assert_eq!((totals.names, totals.blobs), (2, 1));
    assert_eq!(store.search("demo", 9).expect("readable").1, 1);
    is_sound(&store);
    drop(store);
    assert_eq!(open_report(dir.path()).1, OpenReport::default());
}

#[test]
fn a_sled_that_is_no_sled_is_set_aside_and_two_are_kept() {
    let dir = TempDir::new().expect("a folder");
    small_store(dir.path());
    for _round in 0..4 {
        fs::write(dir.path().join("sled/conf"), "segment_size: 12\nno\nxxxx").expect("written");
        let (store, report) = open_report(dir.path());
        assert!(report.rebuilt.is_some(), "{report:?}");
        is_sound(&store);
        store.close().expect("closed");
    }
    assert_eq!(broken(dir.path()), 2);
}

fn broken(dir: &Path) -> usize {
    fs::read_dir(dir)
        .expect("readable")
        .filter(|entry| {
            let name = entry.as_ref().expect("readable").file_name();
            name.to_string_lossy().starts_with("sled.broken-")
        })
        .count()
}

#[test]
fn a_half_written_snapshot_of_sled_does_not_matter() {
    let dir = TempDir::new().expect("a folder");
    small_store(dir.path());
    fs::write(
        dir.path().join("sled/snap.7FFFFFFFFFFFFFFF.generating"),
        "half",
    )
    .expect("written");
    let (store, report) = open_report(dir.path());
    assert_eq!(report.rebuilt, None);
    assert!(bytes_of(&store, "demo").is_some());
}

/// Flips bytes of a file of the store, one place at a time, and looks whether it stays sound.
fn flip(path: &str, places: impl Fn(usize) -> Vec<usize>) {
    let original = TempDir::new().expect("a folder");
    small_store(original.path());
    let length = usize::try_from(
        fs::metadata(original.path().join(path))
            .expect("there")
            .len(),
    )
    .expect("small");
    for place in places(length) {
        for is_clean in [true, false] {
            let copy = killed(original.path());
            if !is_clean {
                fs::write(copy.path().join("lock"), "1\n").expect("written");
            }
            let target = copy.path().join(path);
            let mut bytes = fs::read(&target).expect("readable");
            bytes[place] ^= 0x55;
            fs::write(&target, bytes).expect("written");
            is_sound(&open(copy.path()));
        }
    }
}

#[test]
fn a_flipped_byte_in_the_journal_never_matters() {
    flip("journal", |length| (0..length).step_by(7).collect());
}

#[test]
fn a_flipped_byte_in_sled_never_gives_wrong_bytes() {
    // The file is 8 MiB of mostly nothing: the written part is at the start of each segment.
    flip("sled/db", |length| {
        let written = (0..3000).step_by(151);
        let random = (0..length).step_by(length / 7);
        written
            .chain(random)
            .filter(|place| *place < length)
            .collect()
    });
    flip("sled/conf", |length| (0..length).step_by(5).collect());
}

#[test]
fn a_cut_sled_is_rebuilt() {
    for keep in [0, 1, 100, 4096, 1 << 20] {
        let dir = TempDir::new().expect("a folder");
        small_store(dir.path());
        let db = fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("sled/db"))
            .expect("there");
        db.set_len(keep).expect("cut");
        is_sound(&open(dir.path()));
    }
}

#[test]
fn a_damaged_record_counts_as_absent_and_is_healed() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    let catalogue = store.shared().catalogue().expect("open");
    let good = catalogue
        .get("demo")
        .expect("readable")
        .expect("there")
        .to_vec();
    let state = catalogue.state().expect("readable").expect("there");
    let original = bytes_of(&store, "demo");
    for place in 0..good.len() {
        let mut bytes = good.clone();
        bytes[place] ^= 0x20;
        catalogue
            .apply(vec![("demo".into(), bytes)], 1, &[], Vec::new(), &state)
            .expect("applied");
        let found = bytes_of(&store, "demo");
        assert!(found.is_none() || found == original, "byte {place}");
        let facts = store.entry(&name("demo")).expect("readable");
        assert_eq!(
            found.is_some(),
            facts.is_some_and(|facts| facts.has_snapshot),
            "byte {place}"
        );
        store.shared().forget_broken_frame("demo");
        if let Some(facts) = store.release(&release("demo", "1.0.0")).expect("readable") {
            assert_eq!(facts.checksum, sum("a"), "byte {place}");
        }
    }
    assert!(store.totals().damaged > 0);
    publish(&store, "demo", &[("1.0.0", "a", false)], 2);
    assert_eq!(bytes_of(&store, "demo"), original);
}

#[test]
fn a_half_written_end_of_the_journal_is_cut() {
    let dir = TempDir::new().expect("a folder");
    small_store(dir.path());
    let path = dir.path().join("journal");
    let good = fs::read(&path).expect("readable");
    for extra in [1, 16, 17, 40] {
        let mut torn = good.clone();
        let end = good[16..16 + extra].to_vec();
        torn.extend(end);
        fs::write(&path, torn).expect("written");
        let (store, report) = open_report(dir.path());
        assert_eq!(report.journal_cut_bytes, extra as u64);
        assert_eq!(store.log().newest(99).len(), 3);
        drop(store);
        assert_eq!(fs::read(&path).expect("readable"), good);
    }
}

#[test]
fn a_journal_that_is_ahead_of_sled_is_taken_in() {
    let dir = TempDir::new().expect("a folder");
    small_store(dir.path());
    let behind = killed(dir.path());
    let store = open(dir.path());
    publish(
        &store,
        "demo",
        &[("1.0.0", "new", true), ("1.1.0", "x", false)],
        8,
    );
    publish(&store, "third", &[("1.0.0", "t", false)], 9);
    drop(store);
    fs::copy(dir.path().join("journal"), behind.path().join("journal")).expect("copied");
    let (store, report) = open_report(behind.path());
    assert_eq!((report.rebuilt, report.replayed), (None, 2));
    let facts = store
        .release(&release("demo", "1.1.0"))
        .expect("readable")
        .expect("known");
    assert_eq!(facts.checksum, sum("x"));
    let entry = store
        .entry(&name("demo"))
        .expect("readable")
        .expect("known");
    assert_eq!((entry.checked, entry.etag), (UNIX_EPOCH, None));
    assert!(
        store
            .release(&release("third", "1.0.0"))
            .expect("readable")
            .is_some()
    );
    assert_eq!(store.totals().names, 3);
}

#[test]
fn sled_that_breaks_while_it_runs_is_rebuilt() {
    let dir = TempDir::new().expect("a folder");
    small_store(dir.path());
    let store = open(dir.path());
    let filler = |number| change(&format!("filler-{number}"), &[("1.0.0", "a", false)], at(1));
    store
        .publish((0..200).map(filler).collect(), at(1))
        .expect("published");
    store.close().expect("closed");
    let store = open(dir.path());
    // Only its first page was read yet: the damage is met by a reader.
    let db = dir.path().join("sled/db");
    let mut bytes = fs::read(&db).expect("readable");
    for byte in bytes.iter_mut().step_by(3) {
        *byte ^= 0xff;
    }
    fs::write(&db, bytes).expect("written");
    for _try in 0..100 {
        drop(store.entry(&name("filler-99")).expect("no error"));
        if broken(dir.path()) == 1 && store.totals().writable {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    is_sound(&store);
    assert!(store.reopened() > 0, "those who keep something are told");
}

// --- room

/// A disk whose free bytes the test sets.
pub(super) fn small_disk(dir: &Path) -> (Options, Arc<AtomicU64>) {
    let free = Arc::new(AtomicU64::new(1 << 40));
    let seen = Arc::clone(&free);
    let space = SpaceProbe::new(move |_path| {
        Ok(Space {
            free_bytes: seen.load(Relaxed),
            total_bytes: 1 << 40,
        })
    });
    let options = Options {
        reserve_bytes: 1000,
        space,
        ..options(dir)
    };
    (options, free)
}

#[test]
fn a_full_disk_serves_what_is_held_and_recovers_by_itself() {
    let dir = TempDir::new().expect("a folder");
    let (options, free) = small_disk(dir.path());
    let (store, _report) = Store::open(options, at(0)).expect("opens");
    publish(&store, "demo", &[("1.0.0", "content", false)], 1);
    hold(&store, "demo", "1.0.0", "content");
    assert!(store.totals().writable);
    free.store(1006, Relaxed);
    assert_eq!(store.totals().free_bytes, 6);
    let refused = store.reserve(&sum("more"), Some(7));
    assert!(
        matches!(
            refused,
            Err(Error::Full {
                needed_bytes: 7,
                ..
            })
        ),
        "{refused:?}"
    );
    let promised = store.reserve(&sum("more"), Some(6)).expect("room for six");
    let refused = store.reserve(&sum("other"), Some(1));
    assert!(
        matches!(refused, Err(Error::Full { .. })),
        "what is promised is taken off"
    );
    drop(promised);
    // Records are small: they may use half of the reserve.
    free.store(600, Relaxed);
    assert!(!store.totals().writable);
    publish(&store, "late", &[("1.0.0", "a", false)], 2);
    free.store(400, Relaxed);
    let refused = store.publish(
        vec![change("later", &[("1.0.0", "a", false)], at(3))],
        at(3),
    );
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    store.touch(&name("demo"), at(9), None);
    assert!(matches!(store.flush_touches(), Err(Error::Full { .. })));
    assert!(bytes_of(&store, "demo").is_some() && bytes_of(&store, "late").is_some());
    assert!(
        store
            .blob_blocking(&sum("content"))
            .expect("readable")
            .is_some()
    );
    free.store(1 << 30, Relaxed);
    assert!(store.totals().writable);
    store.flush_touches().expect("written");
    publish(&store, "later", &[("1.0.0", "a", false)], 4);
    hold(&store, "later", "1.0.0", "a");
}

#[test]
fn a_download_of_unknown_length_stops_before_the_reserve() {
    let dir = TempDir::new().expect("a folder");
    let (options, free) = small_disk(dir.path());
    let (store, _report) = Store::open(options, at(0)).expect("opens");
    let mut reservation = store.reserve(&sum("endless"), None).expect("room");
    let piece = vec![0; 1 << 20];
    free.store(500, Relaxed);
    let stopped = (0..16).find_map(|_piece| reservation.write(&piece).err());
    assert!(matches!(stopped, Some(Error::Full { .. })), "{stopped:?}");
}

#[test]
fn a_write_that_hangs_fails_in_time_and_readers_do_not_notice() {
    let dir = TempDir::new().expect("a folder");
    let hangs = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&hangs);
    // The committer asks for the room before it writes: that is where it hangs here.
    let space = SpaceProbe::new(move |_path| {
        let is_committer = std::thread::current().name() == Some("store-commit");
        while is_committer && seen.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Space {
            free_bytes: 1 << 40,
            total_bytes: 1 << 40,
        })
    });
    let options = Options {
        write_deadline: Duration::from_millis(300),
        space,
        ..options(dir.path())
    };
    // A busy disk may take longer than the deadline here: what must succeed is not held to it.
    publish(&open(dir.path()), "demo", &[("1.0.0", "a", false)], 1);
    let (store, _report) = Store::open(options, at(0)).expect("opens");
    hangs.store(true, Relaxed);
    for _try in 0..2 {
        let stuck = store.publish(vec![change("demo", &[("1.0.0", "b", false)], at(2))], at(2));
        assert!(matches!(stuck, Err(Error::Wedged { .. })), "{stuck:?}");
        let facts = store.release(&release("demo", "1.0.0")).expect("readable");
        assert_eq!(facts.expect("there").checksum, sum("a"));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(!store.totals().writable);
    let refused = store.publish(vec![change("late", &[("1.0.0", "b", false)], at(2))], at(2));
    assert!(matches!(refused, Err(Error::Wedged { .. })), "{refused:?}");
    let reservation = store.reserve(&sum(""), None).expect("room");
    let stuck = reservation.commit(&release("demo", "1.0.0"), at(2));
    assert!(matches!(stuck, Err(Error::Wedged { .. })), "{stuck:?}");
    hangs.store(false, Relaxed);
    // What was given up on has come through by now, or will.
    let last = || store.publish(vec![change("demo", &[("1.0.0", "c", false)], at(3))], at(3));
    let until = Instant::now() + Duration::from_secs(60);
    let wait = |what: &str| {
        assert!(Instant::now() < until, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    };
    while let Err(error) = last() {
        assert!(matches!(error, Error::Wedged { .. }), "{error:?}");
        wait("a write that succeeds");
    }
    while !store.totals().writable {
        wait("the committer to rest");
    }
    let facts = store.release(&release("demo", "1.0.0")).expect("readable");
    assert_eq!(facts.expect("there").checksum, sum("c"));
    // What came when it was known to hang was not even taken in.
    assert_eq!(store.entry(&name("late")).expect("readable"), None);
}

#[test]
fn readers_see_what_is_durable_and_nothing_else() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    let before = bytes_of(&store, "demo");
    let shared = store.shared();
    let catalogue = shared.catalogue().expect("open");
    let old = catalogue.get("demo").expect("readable");
    let state = catalogue.state().expect("readable").expect("there");
    let mut new = View::read(old.as_ref().expect("there"))
        .expect("good")
        .to_record()
        .expect("good");
    let text = b"what is not durable yet";
    new.snapshot = Some(compress(text).expect("memory"));
    new.raw_len = 23;
    shared.cover([("demo".to_owned(), old), ("late".to_owned(), None)].into());
    let new = new.encode().expect("fits");
    let records = vec![("demo".to_owned(), new.clone()), ("late".to_owned(), new)];
    catalogue
        .apply(records, 2, &[], Vec::new(), &state)
        .expect("applied");
    assert_eq!(bytes_of(&store, "demo"), before);
    assert_eq!(store.entry(&name("late")).expect("readable"), None);
    shared.uncover(catalogue.flush().expect("flushed"));
    assert_eq!(bytes_of(&store, "demo").as_deref(), Some(&text[..]));
    assert!(store.entry(&name("late")).expect("readable").is_some());
}

/// The numbers of the totals become those of the records: at once, or when the committer has
/// counted them.
fn counts_are_right(store: &Store) {
    let counted = || {
        let mut counts = Counts::default();
        let add = &mut |_key: &str, view: &View<'_>| {
            counts.add(view.counts());
            true
        };
        store.visit(add).expect("readable");
        counts
    };
    let until = Instant::now() + Duration::from_secs(20);
    while counts_of(store) != counted() {
        let (told, counted) = (counts_of(store), counted());
        assert!(Instant::now() < until, "{told:?}, but {counted:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_store_that_was_not_counted_is_counted() {
    let copy = copy_of_fixture();
    let (store, _) = open_report(copy.path());
    counts_are_right(&store);
    let raw = store.totals().index_raw_bytes;
    assert_eq!((store.totals().versions, store.totals().held), (3, 0));
    assert!(raw > 0 && store.totals().index_stored_bytes > 0);
    hold(&store, "demo", "1.1.0", "b");
    store.close().expect("closed");
    let store = open(copy.path());
    let totals = store.totals();
    assert_eq!((totals.versions, totals.held), (3, 1), "kept over the stop");
    assert_eq!(totals.index_raw_bytes, raw);
    let catalogue = store.shared().catalogue().expect("open");
    let state = catalogue.state().expect("readable").expect("there");
    assert_eq!(state.counts, Some(counts_of(&store)));
}

#[test]
fn a_damaged_record_that_is_written_anew_is_counted_once() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    publish(&store, "other", &[("1.0.0", "b", false)], 1);
    let catalogue = store.shared().catalogue().expect("open");
    let rubbish = vec![(b"demo".to_vec(), Some(b"rubbish".to_vec()))];
    catalogue.put(Tree::Crates, rubbish).expect("written");
    let lines = [("1.0.0", "a", false), ("1.1.0", "c", false)];
    publish(&store, "demo", &lines, 2);
    counts_are_right(&store);
    assert_eq!(store.totals().versions, 3);
}

// --- a model

#[derive(Debug, Clone)]
enum Step {
    Publish(usize, Vec<(u8, u8, bool)>),
    Gone(usize),
    Hold(u8),
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let rows = proptest::collection::vec((0..5_u8, 0..3_u8, any::<bool>()), 1..6);
    prop_oneof![
        6 => (0..3_usize, rows).prop_map(|(krate, rows)| Step::Publish(krate, rows)),
        1 => (0..3_usize).prop_map(Step::Gone),
        2 => (0..3_u8).prop_map(Step::Hold),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_as_a_plain_map_would(steps in proptest::collection::vec(step(), 1..24)) {
        let mut dir = TempDir::new().expect("a folder");
        let mut store = open(dir.path());
        let mut files: std::collections::BTreeMap<usize, Bytes> = std::collections::BTreeMap::new();
        let mut held: std::collections::BTreeSet<u8> = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Publish(krate, rows) => {
                    let texts: Vec<_> = rows.iter().map(|(minor, content, _)| (format!("1.{minor}.0"), content.to_string())).collect();
                    let lines: Vec<_> = texts.iter().zip(&rows).map(|((version, content), (_, _, yanked))| (version.as_str(), content.as_str(), *yanked)).collect();
                    let krate_name = format!("krate{krate}");
                    publish(&store, &krate_name, &lines, 1);
                    files.insert(krate, file(&krate_name, &lines).bytes().clone());
                }
                Step::Gone(krate) => {
                    let gone = Change::Gone { name: name(&format!("krate{krate}")), checked: at(2) };
                    store.publish(vec![gone], at(2)).expect("published");
                }
                Step::Hold(content) => {
                    hold(&store, "krate0", "1.0.0", &content.to_string());
                    held.insert(content);
                }
                Step::Reopen => {
                    store.close().expect("closed");
                    store = open(dir.path());
                }
                Step::Kill => {
                    let copy = killed(dir.path());
                    drop(store);
                    store = open(copy.path());
                    store.adopt(&AtomicBool::new(false)).expect("adopted");
                    dir = copy;
                }
            }
            for krate in 0..3 {
                let bytes = bytes_of(&store, &format!("krate{krate}"));
                prop_assert_eq!(bytes.as_ref(), files.get(&krate));
            }
            for content in 0..3_u8 {
                prop_assert_eq!(store.blob_blocking(&sum(&content.to_string())).expect("readable").is_some(), held.contains(&content));
            }
            let totals = store.totals();
            prop_assert_eq!((totals.names, totals.blobs), (files.len() as u64, held.len() as u64));
            counts_are_right(&store);
        }
    }
}

// --- formats of released versions

/// Writes the fixture of the present format: `cargo test --lib write_the_fixture -- --ignored`. Once
/// a version is released its fixture stays as it is; a new format gets a folder of its own.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_fixture() {
    let dir = fixture();
    assert!(!dir.exists(), "a fixture is written once");
    small_store(&dir);
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1")
}

/// The fixture as a store: git keeps no empty folders, and its owner may be anybody.
fn copy_of_fixture() -> TempDir {
    let copy = TempDir::new().expect("a folder");
    copy_tree(&fixture(), copy.path());
    copy
}

#[test]
fn a_store_of_format_1_is_read() {
    let copy = copy_of_fixture();
    let (store, report) = open_report(copy.path());
    assert_eq!(report, OpenReport::default());
    let lines = [("1.0.0", "new", true), ("1.1.0", "b", false)];
    let snapshot = store
        .snapshot(&name("demo"))
        .expect("readable")
        .expect("there");
    assert_eq!(snapshot.bytes, file("demo", &lines).bytes());
    assert_eq!(snapshot.facts.etag.as_deref(), Some("\"2\""));
    assert_eq!(
        (snapshot.facts.checked, snapshot.facts.changed),
        (at(2), at(2))
    );
    let known = store
        .checksums(&release("demo", "1.0.0"))
        .expect("readable");
    let known: Vec<_> = known
        .iter()
        .map(|known| (known.checksum, known.held, known.superseded))
        .collect();
    assert_eq!(
        known,
        [(sum("new"), false, false), (sum("old"), true, true)]
    );
    let blob = store
        .blob_blocking(&sum("old"))
        .expect("readable")
        .expect("held");
    assert_eq!(blob.read_all().expect("readable"), "old");
    assert_eq!(store.log().newest(9).len(), 3);
    let totals = store.totals();
    assert_eq!((totals.names, totals.blobs, totals.blob_bytes), (2, 1, 3));
    is_sound(&store);
}

#[test]
fn a_journal_of_format_1_rebuilds_a_store() {
    let copy = copy_of_fixture();
    fs::remove_dir_all(copy.path().join("sled")).expect("removed");
    let (store, report) = open_report(copy.path());
    assert_eq!(report.rebuilt_names, 2);
    is_sound(&store);
}

// --- the git index

#[test]
fn the_change_number_counts_index_files_and_is_never_behind_them() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    assert_eq!(store.change_number(), 0);
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    assert_eq!(store.change_number(), 1);
    // What is the same, a crate file and what is kept are no changes of an index file.
    publish(&store, "demo", &[("1.0.0", "a", false)], 2);
    drop(hold(&store, "demo", "1.0.0", "a"));
    store
        .keep(Table::Pins, vec![("x".into(), Some(b"1".into()))])
        .expect("kept");
    assert_eq!(store.change_number(), 1);
    let changes = ["one", "two"].map(|krate| change(krate, &[("1.0.0", "a", false)], at(3)));
    store.publish(changes.into(), at(3)).expect("published");
    assert_eq!(store.make_durable().expect("durable"), 3);
    let copy = killed(dir.path());
    let again = open(copy.path());
    assert_eq!(
        (again.change_number(), again.change_number_at_open()),
        (3, 3)
    );
    let mut names = Vec::new();
    let visit = |entry: EntryFacts| {
        names.push(entry.name.to_string());
        ControlFlow::Continue(())
    };
    again.names(visit).expect("readable");
    assert_eq!(names, ["demo", "one", "two"]);
    // A batch that failed takes a number which sled does not get.
    let sled = again.shared().catalogue().expect("open");
    sled.set_change_number(1).expect("set");
    sled.flush().expect("flushed");
    drop(sled);
    assert_eq!(again.make_durable().expect("durable"), 3);
    let later = killed(copy.path());
    let later = open(later.path()).change_number_at_open();
    assert_eq!(later, 3, "it was promised");
    // All that a commit with the number 10 has is back.
    again.index_is_back(10).expect("noted");
    again.index_is_back(2).expect("noted");
    assert_eq!(
        (again.change_number(), again.change_number_at_open()),
        (10, 3)
    );
    drop(again);
    let again = open(copy.path());
    publish(&again, "three", &[("1.0.0", "a", false)], 4);
    assert_eq!(
        (again.change_number(), again.change_number_at_open()),
        (11, 10)
    );
    assert!(!again.index_was_lost().expect("readable"));
}

#[test]
fn an_index_file_is_given_back_where_the_store_has_no_newer_one() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let one = [("1.0.0", "a", false)];
    let two = [("1.0.0", "a", false), ("1.1.0", "b", false)];
    let given = |versions: &[(&str, &str, bool)]| {
        let bytes = file("demo", versions).bytes().clone();
        vec![(name("demo"), bytes)]
    };
    let has = |versions: &[(&str, &str, bool)]| {
        let snapshot = store.snapshot(&name("demo")).expect("readable");
        snapshot.expect("there").bytes == file("demo", versions).bytes()
    };
    store.restore(given(&one), at(5)).expect("given back");
    assert!(has(&one));
    let facts = store
        .entry(&name("demo"))
        .expect("readable")
        .expect("known");
    assert_eq!((facts.checked, facts.etag), (at(5), None));
    assert_eq!(store.change_number(), 1);
    store.restore(given(&one), at(9)).expect("given back");
    assert_eq!(store.change_number(), 1, "nothing changed");
    store.restore(given(&two), at(5)).expect("given back");
    assert!(has(&two), "times of commits are whole seconds");
    publish(&store, "demo", &one, 7);
    store.restore(given(&two), at(6)).expect("given back");
    assert!(has(&one));
    store.touch(&name("demo"), at(9), None);
    store.restore(given(&two), at(8)).expect("given back");
    assert!(has(&one), "upstream said that it is the newest");
    store.restore(given(&two), at(9)).expect("given back");
    assert!(has(&two));
    // An import brings what was confirmed elsewhere, before the commit that the file is of.
    let imported = change("demo", &one, at(3));
    store.publish(vec![imported], at(20)).expect("published");
    store.restore(given(&two), at(15)).expect("given back");
    assert!(has(&one), "it came in after the commit");
    store.restore(given(&two), at(30)).expect("given back");
    assert!(has(&two), "the commit is newer");
}

#[test]
fn what_was_published_is_known_until_sled_is_lost() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let published = Published {
        change: 7,
        generation: 2,
        commit: [3; 20],
    };
    store
        .note_published("all", Some(&published))
        .expect("noted");
    store
        .note_published("held", Some(&published))
        .expect("noted");
    store.note_published("held", None).expect("forgotten");
    let copy = killed(dir.path());
    let store = open(copy.path());
    assert_eq!(store.published("all").expect("readable"), Some(published));
    assert_eq!(store.published("held").expect("readable"), None);
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    drop(store);
    fs::remove_dir_all(copy.path().join("sled")).expect("removed");
    let store = open(copy.path());
    assert_eq!(store.published("all").expect("readable"), None);
    assert_eq!(store.change_number_at_open(), 0);
    assert!(store.may_lack_index() && store.index_was_lost().expect("readable"));
    store.index_is_back(7).expect("noted");
    assert!(!store.may_lack_index());
    assert_eq!(store.change_number(), 7);
}

// --- figures

/// Loads 250,000 names with 3 million versions into the folder that `STORE_FIGURES` names, or
/// measures a folder that is loaded already: `STORE_FIGURES=DIR cargo test --lib figures --
/// --ignored --nocapture`, twice.
#[test]
#[ignore = "takes minutes"]
#[expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "figures are to be read"
)]
fn figures_of_a_large_store() {
    const NAMES: usize = 250_000;
    let dir = PathBuf::from(std::env::var("STORE_FIGURES").expect("a folder"));
    let loaded = dir.join("journal").exists();
    let memory = || {
        let status = fs::read_to_string("/proc/self/status").expect("readable");
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        line.unwrap_or_default().to_owned()
    };
    println!("before: {}", memory());
    let start = Instant::now();
    let (store, report) = Store::open(Options::at(&dir), at(0)).expect("opens");
    println!("open: {:?} {report:?} {}", start.elapsed(), memory());
    if !loaded {
        for first in (0..NAMES).step_by(500) {
            let changes = (first..first + 500)
                .map(|index| {
                    let lines: Vec<_> = (0..12)
                        .map(|minor| (format!("1.{minor}.{index}"), index))
                        .collect();
                    let contents: Vec<_> = lines
                        .iter()
                        .map(|(version, _)| format!("{index}{version}"))
                        .collect();
                    let lines: Vec<_> = lines
                        .iter()
                        .zip(&contents)
                        .map(|((version, _), content)| (version.as_str(), content.as_str(), false))
                        .collect();
                    change(&format!("krate-{index}"), &lines, at(1))
                })
                .collect();
            store.publish(changes, at(1)).expect("published");
        }
        println!("loaded: {:?} {}", start.elapsed(), memory());
        return;
    }
    let timed = |what: &str, count: usize, run: &mut dyn FnMut(usize)| {
        let start = Instant::now();
        (0..count).for_each(&mut *run);
        let micros = start.elapsed().as_secs_f64() * 1e6 / count as f64;
        println!("{what}: {micros:.2} us each, {}", memory());
    };
    let spread = |step: usize| (step * 7919) % NAMES;
    timed("release, cold", 2000, &mut |step| {
        let index = spread(step);
        let wanted = release(&format!("krate-{index}"), &format!("1.5.{index}"));
        assert!(store.release(&wanted).expect("readable").is_some());
    });
    let wanted = release("krate-77", "1.5.77");
    timed("release, warm", 100_000, &mut |_step| {
        assert!(store.release(&wanted).expect("readable").is_some());
    });
    timed("snapshot, warm", 20_000, &mut |_step| {
        assert!(store.snapshot(&wanted.name).expect("readable").is_some());
    });
    let content = "x".repeat(30_000);
    let held = hold(&store, "krate-77", "1.5.77", &content);
    timed("blob and read of 30 KB", 20_000, &mut |_step| {
        let blob = store
            .blob_blocking(held.checksum())
            .expect("readable")
            .expect("held");
        assert_eq!(blob.read_all().expect("readable").len(), 30_000);
    });
    timed("search, first", 1, &mut |_step| {
        assert_eq!(store.search("krate-7", 10).expect("readable").1, 11_111);
    });
    timed("search", 10, &mut |_step| {
        assert_eq!(store.search("krate-7", 10).expect("readable").1, 11_111);
    });
    timed("publish of one more version", 50, &mut |step| {
        let version = format!("2.{step}.0");
        publish(&store, "krate-5", &[(version.as_str(), "a", false)], 9);
    });
    timed("commit of a small crate file", 50, &mut |step| {
        drop(hold(&store, "krate-5", "2.1.0", &format!("content {step}")));
    });
    timed("adopt", 1, &mut |_step| {
        println!(
            "{:?}",
            store.adopt(&AtomicBool::new(false)).expect("adopted")
        );
    });
}

#[test]
fn a_look_reads_while_all_is_well_and_tells_what_is_not() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    store.look().expect("an empty store is one");
    publish(&store, "demo", &[("1.0.0", "a", false)], 1);
    store.look().expect("readable");
    let format = dir.path().join("format");
    fs::rename(&format, dir.path().join("away")).expect("renamed");
    let error = store.look().expect_err("the file is gone");
    assert!(error.to_string().contains("format"), "{error}");
    fs::rename(dir.path().join("away"), &format).expect("renamed");
    // While the index database is opened anew.
    store.shared().set_catalogue(None);
    store.look().expect("the disk is well");
}
