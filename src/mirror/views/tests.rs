//! What a view shows as files come and go.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::*;
use crate::{
    registry::{Checksum, Release},
    store::{self, Change, Validators},
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

/// A store.
struct Place {
    store: Store,
    _dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = TempDir::new().expect("a folder");
        let options = store::Options {
            cache_bytes: 4 << 20,
            ..store::Options::at(dir.path().join("data"))
        };
        let (store, _report) = Store::open(options, at(0)).expect("the store opens");
        Place { store, _dir: dir }
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
        let shown = shown(&self.store, &View::held(), &name(krate), at(0)).expect("readable");
        let bytes = shown.bytes;
        String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("text")
    }
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
