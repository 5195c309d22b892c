//! The data folder: restarts, damage, leftovers, a second process and formats of the future.

use std::{fs, io::Write as _, path::Path};

use crate::support::{
    crates::{Krate, Registry, Release},
    files_below,
    http::Ask,
    orlop::{Orlop, Setup, download_path, write_file},
    until,
    upstream::{Kind, Upstream},
};

const NAMES: [&str; 3] = ["one", "two", "three"];

fn setting() -> Upstream {
    let mut registry = Registry::new();
    for name in NAMES {
        registry.put(&Krate::new(name, "1.0.0").size(50_000));
    }
    Upstream::start(registry)
}

fn release(upstream: &Upstream, name: &str) -> Release {
    upstream.registry().release(name, "1.0.0")
}

/// An orlop that holds the three crates.
fn filled(upstream: &Upstream) -> Orlop {
    let orlop = Setup::over(upstream).start();
    check_all(&orlop, upstream);
    orlop
}

#[track_caller]
fn check_all(orlop: &Orlop, upstream: &Upstream) {
    for name in NAMES {
        let answer = orlop.download(name, "1.0.0");
        assert!(answer.is_complete_file(), "{name}: {}", answer.text());
        assert!(answer.body == *release(upstream, name).bytes, "{name}");
    }
}

#[test]
fn the_data_folder_looks_as_documented() {
    let upstream = setting();
    let orlop = filled(&upstream);
    for file in ["format", "lock", "journal"] {
        assert!(orlop.data().join(file).is_file(), "{file}");
    }
    for folder in ["sled", "blobs", "spool"] {
        assert!(orlop.data().join(folder).is_dir(), "{folder}");
    }
    let mut expected: Vec<String> = NAMES
        .iter()
        .map(|name| release(&upstream, name).sha256)
        .map(|sha| format!("{}/{sha}.raw", &sha[..2]))
        .collect();
    expected.sort();
    assert_eq!(orlop.blobs(), expected);
}

#[test]
fn a_second_process_on_the_same_folder_is_told_so() {
    let upstream = setting();
    let orlop = filled(&upstream);
    let second = orlop.setup().clone().try_start();
    let outcome = second.expect_err("two processes do not share a store");
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    let data = orlop.data().display().to_string();
    assert!(outcome.stderr.contains(&data), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("another"), "{}", outcome.stderr);
    check_all(&orlop, &upstream);
    let setup = orlop.kill9();
    check_all(&setup.start(), &upstream);
}

#[test]
fn a_format_of_the_future_is_left_alone() {
    let upstream = setting();
    let setup = filled(&upstream).terminate();
    let format = setup.data().join("format");
    let text = fs::read_to_string(&format).expect("the format file is text");
    let future: String = text
        .chars()
        .map(|letter| if letter.is_ascii_digit() { '9' } else { letter })
        .collect();
    assert_ne!(text, future, "the format file has a number");
    fs::write(&format, future).expect("the format file can be written");
    let before = files_below(&setup.data());
    let refused = setup
        .clone()
        .try_start()
        .expect_err("a newer format is not opened");
    assert!([Some(2), Some(4)].contains(&refused.code), "{refused:?}");
    assert!(refused.stderr.contains("format"), "{}", refused.stderr);
    assert!(refused.stderr.contains("newer"), "{}", refused.stderr);
    assert_eq!(files_below(&setup.data()), before);
    fs::write(&format, text).expect("the format file can be written");
    upstream.down();
    check_all(&setup.start(), &upstream);
}

#[test]
fn a_folder_that_is_no_store_is_not_written_into() {
    let upstream = setting();
    let setup = Setup::over(&upstream);
    write_file(&setup.data(), "holiday.jpg", "not ours");
    write_file(&setup.data(), "sled/conf", "not sled's");
    // It may refuse, or take the folder and leave what is there alone.
    match setup.clone().try_start() {
        Ok(orlop) => check_all(&orlop, &upstream),
        Err(refused) => {
            assert!(
                refused.code.is_some_and(|code| (2..=4).contains(&code)),
                "{refused:?}"
            );
            let data = setup.data().display().to_string();
            assert!(refused.stderr.contains(&data), "{}", refused.stderr);
        }
    }
    let kept = fs::read_to_string(setup.data().join("holiday.jpg"));
    assert_eq!(kept.ok().as_deref(), Some("not ours"));
}

#[test]
fn a_ruined_index_engine_is_rebuilt_and_the_crates_stay() {
    let upstream = setting();
    let setup = filled(&upstream).terminate();
    let sled = setup.data().join("sled");
    let files = files_below(&sled);
    assert!(!files.is_empty());
    for file in files {
        fs::write(sled.join(file), b"rubbish ".repeat(1000)).expect("a file can be written");
    }
    upstream.forget_seen();
    let orlop = setup.start();
    until("it says what it did", || {
        orlop.stderr().contains("set aside and rebuilt")
    });
    check_all(&orlop, &upstream);
    assert_eq!(upstream.count(Kind::Crate), 0, "{:?}", upstream.seen());
    upstream.down();
    check_all(&orlop.restart(), &upstream);
}

#[test]
fn a_ruined_index_engine_costs_nothing_though_the_upstream_is_gone() {
    let upstream = setting();
    let setup = filled(&upstream).terminate();
    upstream.down();
    fs::remove_dir_all(setup.data().join("sled")).expect("a folder can be removed");
    write_file(&setup.data(), "sled/db", "rubbish");
    let orlop = setup.start();
    check_all(&orlop, &upstream);
    for name in NAMES {
        assert_eq!(orlop.index(name).status, 200, "{name} is in the git index");
    }
}

#[test]
fn a_flipped_byte_in_the_index_engine_is_survived() {
    let upstream = setting();
    let mut setup = filled(&upstream).terminate();
    for part in 1..8 {
        let sled = setup.data().join("sled");
        for file in files_below(&sled) {
            let path = sled.join(file);
            let mut bytes = fs::read(&path).expect("a file can be read");
            let place = bytes.len() * part / 8;
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 0x55;
                fs::write(&path, bytes).expect("a file can be written");
            }
        }
        let orlop = setup.start();
        check_all(&orlop, &upstream);
        for name in NAMES {
            assert_eq!(orlop.index(name).text(), upstream.index_file(name));
        }
        setup = orlop.terminate();
    }
    assert_eq!(upstream.count(Kind::Crate), 3, "no crate was fetched again");
}

#[test]
fn a_journal_cut_by_a_crash_is_survived() {
    let upstream = setting();
    let setup = filled(&upstream).kill9();
    let journal = setup.data().join("journal");
    let bytes = fs::read(&journal).expect("the journal can be read");
    let mut torn = bytes.clone();
    torn.extend_from_slice(b"\x17\x00half a rec");
    fs::write(&journal, torn).expect("the journal can be written");
    let orlop = setup.start();
    check_all(&orlop, &upstream);
    let setup = orlop.terminate();
    let mut torn = fs::read(&journal).expect("the journal can be read");
    torn.truncate(torn.len().saturating_sub(3));
    fs::write(&journal, torn).expect("the journal can be written");
    check_all(&setup.start(), &upstream);
}

#[test]
fn leftovers_of_a_crash_are_swept() {
    let upstream = setting();
    let setup = filled(&upstream).kill9();
    write_file(&setup.data(), "spool/half-a-crate", "a beginning");
    let orlop = setup.start();
    until("the spool is swept", || orlop.spool().is_empty());
    check_all(&orlop, &upstream);
}

#[test]
fn a_blob_that_lies_there_is_adopted() {
    let upstream = setting();
    let setup = {
        let orlop = Setup::over(&upstream).start();
        orlop.terminate()
    };
    let release = release(&upstream, "one");
    let path = setup.data().join(format!(
        "blobs/{}/{}.raw",
        &release.sha256[..2],
        release.sha256
    ));
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder can be made");
    fs::write(&path, &release.bytes).expect("a file can be written");
    let orlop = setup.start();
    let answer = orlop.download("one", "1.0.0");
    assert!(answer.is_complete_file() && answer.body == *release.bytes);
    assert_eq!(upstream.count(Kind::Crate), 0, "{:?}", upstream.seen());
}

#[test]
fn a_blob_cut_short_on_the_disk_is_never_served_as_whole() {
    let upstream = setting();
    let setup = filled(&upstream).terminate();
    let release = release(&upstream, "one");
    let path = setup.data().join(format!(
        "blobs/{}/{}.raw",
        &release.sha256[..2],
        release.sha256
    ));
    fs::write(&path, &release.bytes[..1000]).expect("a file can be written");
    let orlop = setup.start();
    for _ in 0..3 {
        let answer = orlop.download("one", "1.0.0");
        let right = answer.body == *release.bytes;
        assert!(right || !answer.is_complete_file(), "{}", answer.status);
    }
    until("the crate is whole again", || {
        let answer = orlop.download("one", "1.0.0");
        answer.is_complete_file() && answer.body == *release.bytes
    });
}

/// Changes one byte in the middle of a stored crate; its length stays.
fn flip(setup: &Setup, sha256: &str) {
    let path = setup
        .data()
        .join(format!("blobs/{}/{sha256}.raw", &sha256[..2]));
    let mut bytes = fs::read(&path).expect("the blob can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("the blob can be written");
}

#[test]
fn a_crate_that_rotted_on_the_disk_is_never_served_after_a_start() {
    for size in [20_000, 600_000, 3_000_000] {
        let krate = Krate::new("rotten", "1.0.0").size(size);
        let upstream = Upstream::start(Registry::new().with(&krate));
        let release = krate.build();
        let path = download_path("rotten", "1.0.0");
        let orlop = Setup::over(&upstream).start();
        assert!(orlop.get(&path).body == *release.bytes);
        let setup = orlop.terminate();
        flip(&setup, &release.sha256);

        // Nowhere to get it from: a clean refusal, whatever part of it is asked for.
        upstream.down();
        let orlop = setup.start();
        let some = Ask::get(&path).header("Range", "bytes=0-99");
        for ask in [Ask::get(&path), some, Ask::head(&path)] {
            let refused = orlop.ask(&ask);
            assert_eq!(refused.status, 503, "{ask:?}: {}", refused.text());
            assert!(refused.whole && refused.header("retry-after").is_some());
        }
        assert!(orlop.metric("orlop_store_damaged_blobs_total", &[]) >= 1.0);
        let setup = orlop.terminate();

        // With an upstream nobody notices.
        upstream.up();
        upstream.forget_seen();
        let orlop = setup.start();
        let answer = orlop.get(&path);
        assert!(answer.is_complete_file(), "{}", answer.text());
        assert!(answer.body == *release.bytes);
        assert_eq!(upstream.count(Kind::Crate), 1, "{:?}", upstream.seen());

        // What was fetched took the place of what had rotted.
        upstream.down();
        let orlop = orlop.restart();
        let answer = orlop.get(&path);
        assert!(answer.is_complete_file() && answer.body == *release.bytes);
    }
}

#[test]
fn a_blob_that_vanished_is_fetched_again() {
    let upstream = setting();
    let setup = filled(&upstream).terminate();
    let release = release(&upstream, "one");
    let blob = format!("blobs/{}/{}.raw", &release.sha256[..2], release.sha256);
    fs::remove_file(setup.data().join(&blob)).expect("the blob can be removed");
    let orlop = setup.start();
    check_all(&orlop, &upstream);
    assert!(orlop.data().join(&blob).is_file());
    fs::remove_file(orlop.data().join(&blob)).expect("the blob can be removed");
    until("it is fetched again while orlop runs", || {
        let answer = orlop.download("one", "1.0.0");
        answer.is_complete_file() && answer.body == *release.bytes
    });
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let upstream = setting();
    let setup = Setup::over(&upstream);
    let folder = setup.data();
    let file = write_file(
        folder.parent().unwrap_or(Path::new("/")),
        "file",
        "in the way",
    );
    let data = file.join("data").display().to_string();
    let refused = setup
        .config("data", &data)
        .try_start()
        .expect_err("a file is no folder");
    assert!(
        [Some(2), Some(3), Some(4)].contains(&refused.code),
        "{refused:?}"
    );
    assert!(refused.stderr.contains(&data), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
}

#[test]
#[ignore = "needs user namespaces, for a small disk of its own"]
fn a_full_disk_serves_what_is_held_and_recovers_when_there_is_room() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("store.reserve", "1GiB")
        .small_disk(128)
        .start();
    let first = release(&upstream, "one");
    assert_eq!(orlop.download("one", "1.0.0").body, *first.bytes);
    assert_eq!(orlop.index("three").status, 200);
    let filler = orlop.data_inside().join("filler");
    let mut disk = fs::File::create(&filler).expect("a file can be made");
    let piece = vec![0; 1024 * 1024];
    while disk.write_all(&piece).is_ok() {}
    drop(disk);

    for _ in 0..2 {
        let held = orlop.download("one", "1.0.0");
        assert!(held.is_complete_file() && held.body == *first.bytes);
        let refused = orlop.download("two", "1.0.0");
        assert!([503, 507].contains(&refused.status), "{}", refused.text());
    }
    // Room below the reserve (a twentieth of so small a disk) is not for crates.
    let disk = fs::OpenOptions::new().write(true).open(&filler);
    let disk = disk.expect("the filler can be opened");
    let length = disk.metadata().expect("the filler is there").len();
    disk.set_len(length - 5 * 1024 * 1024)
        .expect("the filler can be cut");
    drop(disk);
    let refused = orlop.download("three", "1.0.0");
    assert!([503, 507].contains(&refused.status), "{}", refused.text());
    let blobs = files_below(&orlop.data_inside().join("blobs"));
    assert_eq!(blobs.len(), 1, "{blobs:?}");
    assert_eq!(orlop.get("/healthz").status, 200);

    fs::remove_file(&filler).expect("the filler can be removed");
    until("there is room again", || {
        orlop.download("two", "1.0.0").is_complete_file()
    });
    check_all(&orlop, &upstream);
    drop(orlop.terminate());
}
