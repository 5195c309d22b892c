//! What is kept for others, what goes away, and what is told of both.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use tempfile::TempDir;

use super::{
    blob_store::BlobWalk,
    queue::{Job, RecordEdit},
    raw_files::RawPath,
    tests::{at, copy_tree, demo, hold, killed, name, open, publish, release, small_disk, sum},
    *,
};
use crate::registry::Checksum;

fn kept_keys(store: &Store, table: Table, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    store
        .kept_all(table, prefix, |key, _value| {
            keys.push(key.to_owned());
            ControlFlow::Continue(())
        })
        .expect("readable");
    keys
}

fn keep(store: &Store, table: Table, key: &str, value: Option<&[u8]>) {
    let pair = (key.to_owned(), value.map(<[u8]>::to_vec));
    store.keep(table, vec![pair]).expect("kept");
}

fn kept(store: &Store, table: Table, key: &str) -> Option<Vec<u8>> {
    store.kept(table, key).expect("readable")
}

fn lose_sled(dir: &Path) {
    fs::remove_dir_all(dir.join("sled")).expect("removed");
}

#[test]
fn what_is_kept_comes_back_under_its_key_and_no_other() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "a", false)], 0);
    for key in ["b", "ab", "a", "aa"] {
        keep(&store, Table::Uses, key, Some(key.as_bytes()));
    }
    keep(&store, Table::Failures, "a", Some(b"other"));
    assert_eq!(kept(&store, Table::Uses, "a"), Some(b"a".to_vec()));
    assert_eq!(kept(&store, Table::Failures, "a"), Some(b"other".to_vec()));
    assert_eq!(kept(&store, Table::Reports, "a"), None);
    assert_eq!(kept_keys(&store, Table::Uses, ""), ["a", "aa", "ab", "b"]);
    assert_eq!(kept_keys(&store, Table::Uses, "a"), ["a", "aa", "ab"]);
    keep(&store, Table::Uses, "aa", None);
    assert_eq!(kept_keys(&store, Table::Uses, "a"), ["a", "ab"]);
    let copy = killed(dir.path());
    let again = open(copy.path());
    assert_eq!(kept_keys(&again, Table::Uses, ""), ["a", "ab", "b"]);
}

#[test]
fn many_values_are_visited_in_pages() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let pairs: Vec<_> = (0..1000)
        .map(|number| (format!("k{number:04}"), Some(b"{}".to_vec())))
        .collect();
    let keys: Vec<_> = pairs.iter().map(|(key, _value)| key.clone()).collect();
    store.keep(Table::Uses, pairs).expect("kept");
    assert_eq!(kept_keys(&store, Table::Uses, "k"), keys);
    assert_eq!(kept_keys(&store, Table::Pins, ""), [""; 0]);
}

#[test]
fn what_is_too_large_to_keep_is_refused() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let too_large = vec![0; (1 << 20) + 1];
    for (table, key, value) in [
        (Table::Pins, "k".to_owned(), too_large.clone()),
        (Table::Pins, "k".repeat(513), vec![]),
        (Table::Pins, String::new(), vec![]),
        (Table::Sets, "k".to_owned(), vec![0; (16 << 20) + 1]),
    ] {
        let refused = store.keep(table, vec![(key, Some(value))]);
        assert!(matches!(refused, Err(Error::TooLargeToKeep { .. })));
    }
    keep(&store, Table::Sets, "k", Some(&too_large));
    assert_eq!(kept(&store, Table::Sets, "k"), Some(too_large));
}

#[test]
fn sets_and_pins_survive_the_loss_of_sled() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let large: Vec<u8> = (0..=255).cycle().take(5 << 20).collect();
    keep(&store, Table::Sets, "ci", Some(b"old"));
    keep(&store, Table::Sets, "ci", Some(&large));
    keep(&store, Table::Pins, "demo@1.0.0", Some(b"{}"));
    keep(&store, Table::Pins, "gone@1.0.0", Some(b"{}"));
    keep(&store, Table::Pins, "gone@1.0.0", None);
    keep(&store, Table::Uses, "demo@1.0.0", Some(b"{}"));
    publish(&store, "demo", &[("1.0.0", "a", false)], 0);
    store.close().expect("closed");
    lose_sled(dir.path());
    let store = open(dir.path());
    assert_eq!(kept(&store, Table::Sets, "ci"), Some(large));
    assert_eq!(kept_keys(&store, Table::Pins, ""), ["demo@1.0.0"]);
    assert_eq!(kept_keys(&store, Table::Uses, ""), [""; 0]);
    assert!(store.entry(&name("demo")).expect("readable").is_some());
}

#[test]
fn what_stays_as_it_was_does_not_grow_the_journal() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    keep(&store, Table::Pins, "demo@1.0.0", Some(b"{}"));
    let (_file, before) = store.journal_file().expect("there");
    keep(&store, Table::Pins, "demo@1.0.0", Some(b"{}"));
    keep(&store, Table::Uses, "demo@1.0.0", Some(b"{}"));
    assert_eq!(store.journal_file().expect("there").1, before);
    keep(&store, Table::Pins, "demo@1.0.0", Some(b"{\"a\":1}"));
    assert!(store.journal_file().expect("there").1 > before);
}

#[test]
fn a_journal_ahead_of_sled_brings_what_was_kept() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    keep(&store, Table::Pins, "old@1.0.0", Some(b"{}"));
    let copy = killed(dir.path());
    keep(&store, Table::Pins, "new@1.0.0", Some(b"{}"));
    keep(&store, Table::Pins, "old@1.0.0", None);
    fs::copy(dir.path().join("journal"), copy.path().join("journal")).expect("copied");
    let again = open(copy.path());
    assert_eq!(kept_keys(&again, Table::Pins, ""), ["new@1.0.0"]);
}

// --- releases

#[test]
fn all_releases_of_a_name_come_in_the_order_of_their_versions() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let lines = [
        ("0.10.0", "c", false),
        ("0.2.0", "b", true),
        ("0.1.0", "a", false),
    ];
    publish(&store, "Demo", &lines, 0);
    hold(&store, "demo", "0.2.0", "b");
    publish(
        &store,
        "Demo",
        &[("0.10.0", "other", false), ("0.2.0", "b", true)],
        1,
    );
    let told: Vec<_> = store
        .releases(&name("demo"))
        .expect("readable")
        .into_iter()
        .map(|facts| {
            (
                facts.version.to_string(),
                facts.checksum,
                facts.held,
                facts.yanked,
                facts.removed,
            )
        })
        .collect();
    let expected = [
        ("0.1.0".to_owned(), sum("a"), false, false, true),
        ("0.2.0".to_owned(), sum("b"), true, true, false),
        ("0.10.0".to_owned(), sum("other"), false, false, false),
    ];
    assert_eq!(told, expected);
    assert_eq!(store.releases(&name("none")).expect("readable"), []);
    let mut visited = Vec::new();
    store
        .visit_releases(|entry, releases| {
            visited.push((entry.name.as_str().to_owned(), releases.len()));
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert_eq!(visited, [("Demo".to_owned(), 3)]);
}

// --- removal

fn blobs(store: &Store) -> Vec<(Checksum, u64)> {
    let mut found = Vec::new();
    store
        .visit_blobs(&AtomicBool::new(false), |checksum, length| {
            found.push((checksum, length));
            ControlFlow::Continue(())
        })
        .expect("readable");
    found
}

fn is_held(store: &Store, krate: &str, version: &str) -> bool {
    let facts = store.release(&release(krate, version)).expect("readable");
    facts.expect("known").held
}

#[test]
fn a_removed_crate_file_is_gone_with_its_marks_and_counts() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let lines = [("1.0.0", "aaaa", false), ("2.0.0", "bb", false)];
    publish(&store, "demo", &lines, 0);
    hold(&store, "demo", "1.0.0", "aaaa");
    let blob = hold(&store, "demo", "2.0.0", "bb");
    let mut both = [(sum("aaaa"), 4), (sum("bb"), 2)];
    both.sort();
    assert_eq!(blobs(&store), both);
    assert_eq!(store.remove_blob(&sum("bb")).expect("removed"), Some(2));
    assert_eq!(store.remove_blob(&sum("bb")).expect("gone"), None);
    assert_eq!(blobs(&store), [(sum("aaaa"), 4)]);
    assert!(is_held(&store, "demo", "1.0.0"));
    assert!(!is_held(&store, "demo", "2.0.0"));
    let totals = store.totals();
    assert_eq!((totals.blobs, totals.blob_bytes), (1, 4));
    assert_eq!(&blob.read_all().expect("still open")[..], b"bb");
    let copy = killed(dir.path());
    let again = open(copy.path());
    let adoption = again.adopt(&AtomicBool::new(false)).expect("adopted");
    assert_eq!((adoption.blobs, adoption.adopted, adoption.lost), (1, 0, 0));
    assert!(!is_held(&again, "demo", "2.0.0"));
    hold(&store, "demo", "2.0.0", "bb");
    assert!(is_held(&store, "demo", "2.0.0"));
}

#[test]
fn a_damaged_crate_file_is_set_aside_and_not_held() {
    let (_dir, store) = demo("aaaa");
    let removal = Removal {
        checksum: sum("aaaa"),
        of: Some(name("demo")),
        set_aside: true,
    };
    assert_eq!(store.remove_blobs(vec![removal]).expect("done"), [Some(4)]);
    assert!(
        store
            .blob_blocking(&sum("aaaa"))
            .expect("readable")
            .is_none()
    );
    assert!(!is_held(&store, "demo", "1.0.0"));
    let left = store.leftovers().expect("readable");
    let told: Vec<_> = left.iter().map(|left| (left.kind, left.bytes)).collect();
    assert_eq!(told, [(LeftoverKind::Quarantined, 4)]);
    store.remove_leftover(&left[0]).expect("removed");
    store.remove_leftover(&left[0]).expect("gone already");
    assert_eq!(store.leftovers().expect("readable"), []);
}

#[test]
fn what_is_removed_on_a_full_disk_is_not_held_then_and_later() {
    for set_aside in [false, true] {
        let dir = TempDir::new().expect("a folder");
        let (options, free) = small_disk(dir.path());
        let (store, _report) = Store::open(options, at(0)).expect("opens");
        publish(&store, "demo", &[("1.0.0", "aaaa", false)], 0);
        hold(&store, "demo", "1.0.0", "aaaa");
        store.flush_touches().expect("nothing to do");
        // A batch that is written brings the mark with it.
        publish(&store, "other", &[("1.0.0", "b", false)], 0);
        let changes = store.changes();
        free.store(400, Relaxed);
        let removal = Removal {
            checksum: sum("aaaa"),
            of: Some(name("demo")),
            set_aside,
        };
        assert_eq!(store.remove_blobs(vec![removal]).expect("gone"), [Some(4)]);
        assert!(!is_held(&store, "demo", "1.0.0"), "readers see it at once");
        assert_eq!(store.totals().blobs, 0);
        assert_eq!(changes.take(), Changed::Names(vec![name("demo")]));
        let copy = killed(dir.path());
        let again = open(copy.path());
        let adoption = again.adopt(&AtomicBool::new(false)).expect("adopted");
        assert_eq!((adoption.blobs, adoption.lost), (0, 1), "adoption looks");
        assert!(!is_held(&again, "demo", "1.0.0"));
        free.store(1 << 40, Relaxed);
        publish(&store, "late", &[("1.0.0", "c", false)], 1);
        let copy = killed(dir.path());
        let again = open(copy.path());
        assert!(!is_held(&again, "demo", "1.0.0"), "the mark followed");
        let adoption = again.adopt(&AtomicBool::new(false)).expect("adopted");
        assert_eq!((adoption.blobs, adoption.lost), (0, 0));
        hold(&store, "demo", "1.0.0", "aaaa");
        assert!(is_held(&store, "demo", "1.0.0"));
        assert_eq!(store.totals().blobs, 1);
    }
}

#[test]
fn a_file_that_nobody_named_stays_when_a_record_names_it_by_now() {
    let (_dir, store) = demo("aaaa");
    hold(&store, "demo", "9.0.0", "nobody's");
    hold(&store, "demo", "9.0.1", "late");
    let unknown = |seed| Removal {
        checksum: sum(seed),
        of: None,
        set_aside: false,
    };
    let removed = store.remove_blobs(vec![unknown("aaaa"), unknown("nobody's")]);
    assert_eq!(removed.expect("done"), [None, Some(8)]);
    assert!(is_held(&store, "demo", "1.0.0"));
    publish(&store, "other", &[("1.0.0", "late", false)], 1);
    let removed = store.remove_blobs(vec![unknown("late")]);
    assert_eq!(removed.expect("done"), [None]);
    assert!(is_held(&store, "other", "1.0.0"));
    assert_eq!(store.totals().blobs, 2);
}

#[test]
fn a_broken_index_that_was_set_aside_is_a_leftover() {
    let dir = TempDir::new().expect("a folder");
    open(dir.path()).close().expect("closed");
    let aside = dir.path().join("sled.broken-1800000000");
    fs::create_dir_all(aside.join("blobs")).expect("made");
    fs::write(aside.join("blobs/1"), b"12345").expect("written");
    let store = open(dir.path());
    let left = store.leftovers().expect("readable");
    assert_eq!(
        (left[0].kind, left[0].bytes),
        (LeftoverKind::BrokenIndex, 5)
    );
    assert_eq!(left[0].since, at(0));
    store.remove_leftover(&left[0]).expect("removed");
    assert!(!aside.exists());
}

#[test]
fn a_blob_that_cannot_be_opened_is_an_error_and_no_miss() {
    let (dir, store) = demo("aaaa");
    let place = dir.path().join("blobs");
    let place = place.join(RawPath::of(&sum("aaaa")).as_str());
    fs::remove_file(&place).expect("removed");
    fs::create_dir(&place).expect("made");
    let is_told = |error: Error| match error {
        Error::Io { path, .. } => path == place,
        _ => false,
    };
    let sum = sum("aaaa");
    assert!(is_told(store.blob_blocking(&sum).expect_err("no file")));
    assert!(is_told(store.blob_bytes(&sum).expect_err("no file")));
    assert!(store.holds(&sum));
    let adoption = store.adopt(&AtomicBool::new(false)).expect("adopted");
    assert_eq!((adoption.lost, adoption.not_understood), (0, 1));
    let is_held = || {
        let facts = store.release(&release("demo", "1.0.0"));
        facts.expect("readable").expect("there").held
    };
    assert!(is_held());
    assert_eq!(blobs(&store), [(sum, 0)]);
    // It is neither replaced nor, in a batch with others, taken for a part of what came in.
    let mut again = store.reserve(&sum, None).expect("room");
    again.write(b"aaaa").expect("written");
    let refused = again.commit(&release("demo", "1.0.0"), at(9));
    assert!(is_told(refused.expect_err("it must not be replaced")));
    assert!(place.is_dir());
    let removal = Removal {
        checksum: sum,
        of: Some(name("demo")),
        set_aside: true,
    };
    store.remove_blobs(vec![removal]).expect("set aside");
    assert!(store.blob_blocking(&sum).expect("readable").is_none());
    assert!(!is_held());
    for left in store.leftovers().expect("readable") {
        store.remove_leftover(&left).expect("removed");
    }
    hold(&store, "demo", "1.0.0", "aaaa");
    assert!(is_held());
}

#[test]
fn a_file_that_goes_while_the_folder_is_looked_through_is_not_counted() {
    let (_dir, store) = demo("aaaa");
    let queue = &store.shared().queue;
    queue.call(Job::WalkBegin).expect("begun");
    let walk = BlobWalk::through(&store.shared().blobs, &AtomicBool::new(false));
    let walk = walk.expect("readable").expect("not stopped");
    store.remove_blob(&sum("aaaa")).expect("removed");
    queue
        .call(|reply| Job::Edit(RecordEdit::WalkEnd(walk), reply))
        .expect("ended");
    assert_eq!(store.totals().blobs, 0);
}

#[test]
fn many_files_of_one_crate_are_marked_together_and_survive_a_kill() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let versions: Vec<String> = (0..40).map(|patch| format!("1.0.{patch}")).collect();
    let lines: Vec<_> = versions
        .iter()
        .map(|version| (version.as_str(), version.as_str(), false))
        .collect();
    publish(&store, "demo", &lines, 0);
    let record = store.shared().record("demo");
    for version in &versions {
        hold(&store, "demo", version, version);
        assert!(is_held(&store, "demo", version), "{version}");
    }
    // The machine may have been busy for longer than the marks wait.
    let is_written = store.shared().record("demo") != record;
    let copy = killed(dir.path());
    let again = open(copy.path());
    let adoption = again.adopt(&AtomicBool::new(false)).expect("adopted");
    assert_eq!((adoption.blobs, adoption.lost), (40, 0));
    assert!(is_written || adoption.adopted == 40);
    assert!(
        versions
            .iter()
            .all(|version| is_held(&again, "demo", version))
    );
    assert_eq!(again.totals().blobs, 40);
    store.close().expect("closed");
    let store = open(dir.path());
    assert!(
        versions
            .iter()
            .all(|version| is_held(&store, "demo", version))
    );
    let adoption = store.adopt(&AtomicBool::new(false)).expect("adopted");
    assert_eq!(
        (adoption.adopted, adoption.lost),
        (0, 0),
        "closing wrote the marks"
    );
}

// --- events

fn told(store: &Store, from: u64) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    store
        .events(from, |after, event| {
            events.push((after, event));
            ControlFlow::Continue(())
        })
        .expect("readable");
    events
}

#[test]
fn the_journal_is_read_from_a_place_on() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "demo", &[("1.0.0", "a", false)], 0);
    keep(&store, Table::Pins, "demo@1.0.0", Some(b"{}"));
    publish(&store, "demo", &[("1.0.0", "a", true)], 1);
    let all = told(&store, 0);
    let kinds: Vec<_> = all.iter().map(|(_, event)| &event.kind).collect();
    let version = semver::Version::new(1, 0, 0);
    assert_eq!(
        kinds,
        [
            &EventKind::FirstSeen { versions: 1 },
            &EventKind::Yanked { version }
        ]
    );
    assert_eq!(told(&store, all[0].0), [all[1].clone()]);
    assert_eq!(told(&store, all[1].0), []);
}

#[test]
fn the_event_log_follows_the_journal_and_is_there_after_a_restart() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "other", &[("1.0.0", "o", false)], 0);
    fill(&store);
    publish(&store, "demo", &[("1.0.0", "a", true)], 500);
    let check = |store: &Store, counted: u64| {
        let newest = store.log().newest(9);
        let kinds: Vec<_> = newest.iter().map(|entry| entry.kind).collect();
        // Of what another store noticed only what must not be missed.
        let expected = [
            LogKind::Yanked,
            LogKind::Removed,
            LogKind::New,
            LogKind::New,
        ];
        assert_eq!(kinds, expected);
        assert_eq!(newest[1].name, Some(name("demo")));
        assert_eq!(store.log().since(LogKind::Removed, at(0)).count, 1);
        assert_eq!(
            store.log().count_of(LogKind::New),
            counted,
            "since the start"
        );
        let history = store.history_of(&name("demo"), 9).expect("readable");
        let texts: Vec<_> = history.events.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert!(texts[0].contains("yanked") && texts[3].contains("first time"));
        let seen = history.first_seen.get(&semver::Version::new(1, 0, 0));
        assert_eq!(seen, Some(&at(0)));
        let two = store.history_of(&name("demo"), 2).expect("readable").events;
        assert_eq!(two, history.events[..2]);
    };
    check(&store, 2);
    let release = release("demo", "1.0.0");
    let fetched = LogEntry::about(at(900), LogKind::Fetched, &release, "fetched".to_owned());
    store.note(fetched.clone());
    assert_eq!(store.log().newest(9)[0], fetched);
    store.close().expect("closed");
    check(&open(dir.path()), 0);
    lose_sled(dir.path());
    check(&open(dir.path()), 0);
}

#[test]
fn what_another_store_told_is_taken_in_once() {
    let (here, there) = (TempDir::new().expect("one"), TempDir::new().expect("two"));
    let other = open(there.path());
    publish(
        &other,
        "demo",
        &[
            ("1.0.0", "old", false),
            ("2.0.0", "b", false),
            ("3.0.0", "c", false),
        ],
        0,
    );
    publish(
        &other,
        "demo",
        &[("1.0.0", "new", false), ("3.0.0", "c", true)],
        1,
    );
    let events: Vec<_> = told(&other, 0)
        .into_iter()
        .map(|(_, event)| event)
        .collect();
    let store = open(here.path());
    publish(
        &store,
        "demo",
        &[("1.0.0", "new", false), ("3.0.0", "c", false)],
        5,
    );
    assert_eq!(store.merge_events(events.clone()).expect("merged"), 3);
    assert_eq!(store.merge_events(events).expect("merged"), 0);
    let check = |store: &Store| {
        let known = store
            .checksums(&release("demo", "1.0.0"))
            .expect("readable");
        let known: Vec<_> = known
            .iter()
            .map(|known| (known.checksum, known.superseded))
            .collect();
        assert_eq!(known, [(sum("new"), false), (sum("old"), true)]);
        let releases = store.releases(&name("demo")).expect("readable");
        let removed: Vec<_> = releases.iter().map(|facts| facts.removed).collect();
        assert_eq!(removed, [false, true, false]);
        assert!(
            !releases[2].yanked,
            "what is in force is the index's to say"
        );
        assert_eq!(told(store, 0).len(), 4);
    };
    check(&store);
    store.close().expect("closed");
    check(&open(here.path()));
    lose_sled(here.path());
    check(&open(here.path()));
}

// --- changes

#[test]
fn who_subscribed_is_told_the_names_that_changed() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    publish(&store, "before", &[("1.0.0", "a", false)], 0);
    let changes = store.changes();
    assert_eq!(changes.take(), Changed::Names(vec![]));
    publish(&store, "demo", &[("1.0.0", "aa", false)], 0);
    publish(&store, "demo", &[("1.0.0", "aa", false)], 1);
    assert_eq!(changes.take(), Changed::Names(vec![name("demo")]));
    publish(&store, "demo", &[("1.0.0", "aa", false)], 2);
    assert_eq!(changes.take(), Changed::Names(vec![]), "nothing changed");
    hold(&store, "demo", "1.0.0", "aa");
    assert_eq!(changes.take(), Changed::Names(vec![name("demo")]));
    store.remove_blob(&sum("aa")).expect("removed");
    assert_eq!(changes.take(), Changed::Names(vec![name("demo")]));
}

#[test]
fn who_is_too_far_behind_looks_at_everything() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let changes = store.changes();
    let keys = (0..16_385).map(|number| format!("k{number}")).collect();
    store.shared().watchers.tell(&keys);
    assert_eq!(changes.take(), Changed::Everything);
    assert_eq!(changes.take(), Changed::Names(vec![]));
}

#[test]
fn what_is_put_back_is_taken_again() {
    let dir = TempDir::new().expect("a folder");
    let store = open(dir.path());
    let changes = store.changes();
    publish(&store, "demo", &[("1.0.0", "aa", false)], 0);
    let before = changes.waiting();
    assert_eq!(before.names, Some(1));
    let taken = changes.take();
    assert_eq!(changes.waiting().names, Some(0));
    publish(&store, "other", &[("1.0.0", "aa", false)], 0);
    changes.put_back(&taken);
    assert!(changes.waiting().changes > before.changes);
    assert_eq!(
        changes.take(),
        Changed::Names(vec![name("demo"), name("other")])
    );
    changes.put_back(&Changed::Everything);
    assert_eq!(changes.waiting().names, None);
    assert_eq!(changes.take(), Changed::Everything);
}

// --- the fixture

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1-kept")
}

fn fill(store: &Store) {
    publish(store, "demo", &[("1.0.0", "a", false)], 0);
    keep(store, Table::Sets, "ci", Some(b"{\"set\":1}"));
    keep(store, Table::Pins, "demo@1.0.0", Some(b"{}"));
    keep(store, Table::Uses, "demo@1.0.0", Some(b"{\"use\":1}"));
    let version = semver::Version::new(1, 0, 0);
    let event = |kind| Event {
        at: at(1),
        name: name("demo"),
        kind,
    };
    store
        .merge_events(vec![
            event(EventKind::FirstSeen { versions: 2 }),
            event(EventKind::Yanked {
                version: version.clone(),
            }),
            event(EventKind::VersionRemoved {
                version: semver::Version::new(0, 1, 0),
                checksum: sum("removed"),
            }),
        ])
        .expect("merged");
}

/// As `write_the_fixture`.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_fixture_of_what_is_kept() {
    let dir = fixture();
    assert!(!dir.exists(), "a fixture is written once");
    let store = open(&dir);
    fill(&store);
    store.close().expect("closed");
}

#[test]
fn what_format_1_kept_is_read_with_and_without_its_sled() {
    let copy = TempDir::new().expect("a folder");
    copy_tree(&fixture(), copy.path());
    let store = open(copy.path());
    let use_record = kept(&store, Table::Uses, "demo@1.0.0");
    assert_eq!(use_record, Some(b"{\"use\":1}".to_vec()));
    let check = |store: &Store| {
        assert_eq!(
            kept(store, Table::Sets, "ci"),
            Some(b"{\"set\":1}".to_vec())
        );
        assert_eq!(kept_keys(store, Table::Pins, ""), ["demo@1.0.0"]);
        assert_eq!(told(store, 0).len(), 3);
        let releases = store.releases(&name("demo")).expect("readable");
        let told: Vec<_> = releases
            .iter()
            .map(|facts| (facts.checksum, facts.removed))
            .collect();
        assert_eq!(told, [(sum("removed"), true), (sum("a"), false)]);
    };
    check(&store);
    store.close().expect("closed");
    lose_sled(copy.path());
    check(&open(copy.path()));
}
