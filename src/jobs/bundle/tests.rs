//! Whole bundles: what goes in comes out, a delta brings the rest, and no byte can be changed.

use std::{
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    ExportReport, ImportPart, ImportReport,
    error::Error,
    export::Export,
    format::{CrateRecord, Described as _, Digest, Id, IndexRecord, Manifest, Record as _, Signed},
    import::Import,
    key::SigningKey,
    receipt::Receipt,
    section::SectionWriter,
    stream::{Sections, Trust},
};
use crate::{
    jobs::{
        Caller, Fault, JobContext, JobReport as _,
        archive::{PUBLIC, Reader, Writer},
        lines::{ExactBytes, LineWriter},
        select::Chosen,
    },
    registry::{Checksum, CrateName, IndexFile, Release},
    store::{Change, EventKind, Options, Space, SpaceProbe, Store, Validators},
};

/// A store in a folder that goes with it.
struct Place {
    store: Store,
    _folder: TempDir,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("data"));
    Place {
        store,
        _folder: folder,
    }
}

fn open(dir: &Path) -> Store {
    let mut options = Options::at(dir);
    options.space = SpaceProbe::default();
    options.reserve_bytes = 1 << 20;
    Store::open(options, at(0)).expect("a good store").0
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn name(text: &str) -> CrateName {
    CrateName::parse(text).expect("a good name")
}

fn body(name: &str, version: &str, len: usize) -> Vec<u8> {
    let seed = u64::from(crc32fast::hash(format!("{name} {version}").as_bytes()));
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn line(name: &str, version: &str, checksum: &Checksum) -> String {
    format!(
        "{{\"name\":\"{name}\",\"vers\":\"{version}\",\"deps\":[],\"cksum\":\"{checksum}\",\
         \"features\":{{}},\"yanked\":false}}\n"
    )
}

impl Place {
    /// Publishes an index file of these versions; the files have `len` bytes.
    fn publish(&self, text: &str, versions: &[&str], len: usize, seconds: u64) {
        let lines = versions.iter().map(|version| {
            let checksum = Checksum::of(&body(text, version, len));
            line(text, version, &checksum)
        });
        let file = lines.collect::<String>();
        let file = IndexFile::parse(&name(text), Bytes::from(file)).expect("a good file");
        let change = Change::Index {
            name: name(text),
            file,
            validators: Validators {
                etag: Some(format!("\"{text}-{seconds}\"")),
                last_modified: None,
            },
            checked: at(seconds),
        };
        self.store
            .publish(vec![change], at(seconds))
            .expect("published");
    }

    fn hold(&self, text: &str, version: &str, len: usize) {
        let bytes = body(text, version, len);
        let mut reservation = self
            .store
            .reserve(&Checksum::of(&bytes), Some(bytes.len() as u64))
            .expect("room");
        reservation.write(&bytes).expect("written");
        let release = Release::parse(text, version).expect("a release");
        reservation.commit(&release, at(0)).expect("held");
    }

    /// Three names, of one of which a version is not held.
    fn fill(self) -> Place {
        self.publish("alpha", &["1.0.0", "1.1.0"], 300, 1);
        self.publish("Beta", &["0.1.0"], 20, 2);
        self.publish("gamma-ray", &["2.0.0", "2.0.1"], 700, 3);
        self.hold("alpha", "1.0.0", 300);
        self.hold("alpha", "1.1.0", 300);
        self.hold("Beta", "0.1.0", 20);
        self.hold("gamma-ray", "2.0.1", 700);
        self
    }

    fn export(&self) -> Vec<u8> {
        self.export_with(None, None).1
    }

    fn export_with(
        &self,
        receipt: Option<&(Receipt, Id)>,
        chosen: Option<&Chosen>,
    ) -> (ExportReport, Vec<u8>) {
        let mut out = Vec::new();
        let report = Export {
            store: &self.store,
            chosen,
            receipt,
            key: Some(&SigningKey::of_seed(7)),
            cx: &JobContext::of_test(),
        }
        .write(&mut out)
        .expect("a bundle");
        (report, out)
    }

    fn import(&self, bundle: &[u8]) -> Result<ImportReport, Error> {
        self.import_with(bundle, &trust())
    }

    fn import_with(&self, bundle: &[u8], trust: &Trust) -> Result<ImportReport, Error> {
        Import {
            store: &self.store,
            trust,
            parts: &[],
            dry_run: false,
            now: at(1000),
            cx: &JobContext::of_test(),
        }
        .read(bundle)
    }

    fn versions(&self, text: &str) -> usize {
        self.store.releases(&name(text)).expect("readable").len()
    }

    fn lose(&self, text: &str, seconds: u64) {
        let gone = Change::Gone {
            name: name(text),
            checked: at(seconds),
        };
        self.store
            .publish(vec![gone], at(seconds))
            .expect("published");
    }

    fn is_gone(&self, text: &str) -> bool {
        let facts = self.store.entry(&name(text)).expect("readable");
        facts.expect("it is known").gone
    }

    fn receipt(&self) -> (Receipt, Id) {
        let bytes = self.write_receipt();
        self.read_receipt(&bytes).expect("a good receipt")
    }

    fn write_receipt(&self) -> Vec<u8> {
        let mut file = self.store.scratch().expect("a file");
        Receipt::write(&self.store, &mut file, "some", at(0)).expect("written");
        file.rewind().expect("a file can be rewound");
        let mut bytes = Vec::new();
        io::copy(&mut file, &mut bytes).expect("it can be read");
        bytes
    }

    fn read_receipt(&self, bytes: &[u8]) -> Result<(Receipt, Id), Error> {
        Receipt::read(bytes, &self.store, &JobContext::of_test())
    }

    /// All that clients could see of the names and crate files.
    fn sees(&self) -> Vec<String> {
        let mut seen = Vec::new();
        self.store
            .visit_releases(|facts, releases| {
                let snapshot = self.store.snapshot(&facts.name).expect("readable");
                let text = snapshot.map(|snapshot| snapshot.bytes).unwrap_or_default();
                let etag = facts.etag.clone();
                seen.push(format!("{} {etag:?} {}", facts.name, Checksum::of(&text)));
                for facts in releases {
                    let blob = self.store.blob_blocking(&facts.checksum).expect("readable");
                    let sum = blob.map(|blob| Checksum::of(&blob.read_all().expect("readable")));
                    seen.push(format!("{} {} {sum:?}", facts.name, facts.version));
                }
                std::ops::ControlFlow::Continue(())
            })
            .expect("readable");
        seen
    }
}

fn trust() -> Trust {
    Trust {
        keys: vec![SigningKey::of_seed(7).public()],
        unsigned: false,
    }
}

#[test]
fn what_goes_in_comes_out() {
    let from = place().fill();
    let (report, bundle) = from.export_with(None, None);
    assert_eq!(
        (report.names, report.crates, report.crate_bytes),
        (3, 4, 1320)
    );
    let to = place();
    let taken = to.import(&bundle).expect("a good bundle");
    assert_eq!((taken.names, taken.crates, taken.absent), (3, 4, 1));
    assert_eq!(taken.id, report.id);
    assert_eq!(to.sees(), from.sees());
    let again = to.import(&bundle).expect("a good bundle");
    assert_eq!((again.names, again.names_held), (0, 3));
    assert_eq!((again.crates, again.crates_held, again.events), (0, 4, 0));
    let (back, _bundle) = to.export_with(None, None);
    let numbers = |report: &ExportReport| {
        let of_crates = (report.crates, report.crate_bytes);
        (report.names, of_crates, report.events)
    };
    assert_eq!(numbers(&back), numbers(&report), "nothing was lost");
}

#[test]
fn the_same_state_gives_the_same_bytes() {
    let from = place().fill();
    let first = from.export();
    from.store.touch(&name("alpha"), at(5000), None);
    from.store.flush_touches().expect("written");
    assert_eq!(from.export(), first, "a revalidation changes nothing");
    assert_eq!(place().fill().export(), first);
    from.publish("alpha", &["1.0.0"], 300, 6000);
    assert_ne!(from.export(), first);
}

#[test]
fn what_was_chosen_goes_and_what_is_missing_is_told() {
    let from = place().fill();
    let sum = |version| Checksum::of(&body("gamma-ray", version, 700));
    let version = |text: &str| text.parse().expect("a version");
    let chosen = Chosen {
        names: [
            (
                name("gamma-ray"),
                vec![
                    (version("2.0.1"), sum("2.0.1")),
                    (version("2.0.0"), sum("2.0.0")),
                ],
            ),
            (name("unknown"), Vec::new()),
        ]
        .into(),
        ..Chosen::default()
    };
    let (report, bundle) = from.export_with(None, Some(&chosen));
    assert_eq!((report.names, report.crates), (1, 1));
    assert_eq!(report.missing, ["gamma-ray@2.0.0", "unknown"]);
    assert!(report.has_problems());
    let to = place();
    to.import(&bundle).expect("it is whole all the same");
    assert_eq!(to.store.totals().names, 1);
}

#[test]
fn a_delta_brings_only_what_is_new_and_only_to_whom_it_is_for() {
    let from = place().fill();
    let to = place();
    to.import(&from.export()).expect("a good bundle");
    let receipt = to.receipt();
    let (nothing, _bundle) = from.export_with(Some(&receipt), None);
    assert_eq!((nothing.names, nothing.crates, nothing.events), (0, 0, 0));
    assert_eq!((nothing.names_left_out, nothing.crates_left_out), (3, 4));
    from.publish("alpha", &["1.0.0", "1.1.0", "1.2.0"], 300, 50);
    from.hold("alpha", "1.2.0", 300);
    let (report, delta) = from.export_with(Some(&receipt), None);
    assert_eq!((report.names, report.crates), (1, 1));
    assert!(delta.len() < from.export().len());
    let taken = to.import(&delta).expect("a good delta");
    assert_eq!((taken.names, taken.crates), (1, 1));
    assert_eq!(to.sees(), from.sees());

    let third = place();
    let error = third.import(&delta).expect_err("the base is missing");
    let said = error.to_string();
    assert!(said.contains("lacks 2 (the index entry of Beta"), "{said}");
    assert_eq!(error.into_job("x").fault, Fault::Usage);
    assert_eq!(third.store.totals().names, 0);
    third.publish("Beta", &["0.1.0"], 20, 2);
    third.publish("gamma-ray", &["2.0.0", "2.0.1"], 700, 3);
    let error = third.import(&delta).expect_err("crate files are missing");
    let said = error.to_string();
    assert!(
        said.contains("lacks 4 (alpha@1.0.0, alpha@1.1.0, Beta@0.1.0, …)"),
        "{said}"
    );
}

#[test]
fn what_upstream_confirmed_here_after_the_bundle_was_seen_is_kept() {
    let from = place();
    from.publish("alpha", &["1.0.0"], 300, 10);
    from.publish("beta", &["1.0.0"], 300, 10);
    let to = place();
    to.publish("alpha", &["1.0.0", "1.1.0"], 300, 11);
    to.publish("beta", &["0.1.0"], 300, 9);
    let taken = to.import(&from.export()).expect("a good bundle");
    assert_eq!((taken.names, taken.names_kept), (1, 1));
    assert_eq!(taken.notes.len(), 1);
    let releases = |text| to.store.releases(&name(text)).expect("readable").len();
    assert_eq!((releases("alpha"), releases("beta")), (2, 2));
}

#[test]
fn a_clock_that_was_ahead_keeps_no_later_bundle_out() {
    // Ahead of the importer's own clock, and only of the exporter's true one.
    for wrong in [900_000, 990] {
        let from = place();
        from.publish("alpha", &["1.0.0"], 300, wrong);
        from.publish("beta", &["1.0.0"], 300, 10);
        let to = place();
        let first = from.export();
        to.import(&first).expect("a good bundle");
        let held = to.store.entry(&name("alpha")).expect("readable");
        assert!(held.expect("it came in").checked <= at(1000));
        from.publish("alpha", &["1.0.0", "1.1.0"], 300, 500);
        from.hold("alpha", "1.1.0", 300);
        let second = from.export();
        let taken = to.import(&second).expect("a good bundle");
        assert_eq!((taken.names, taken.names_kept), (1, 0), "{wrong}");
        assert!(!taken.has_problems() && taken.notes.is_empty());
        assert_eq!(to.versions("alpha"), 2);
    }
}

#[test]
fn a_time_ahead_in_this_store_outranks_nothing() {
    let from = place();
    from.publish("alpha", &["1.0.0", "1.1.0"], 300, 500);
    let to = place();
    to.publish("alpha", &["1.0.0"], 300, 900_000);
    let taken = to.import(&from.export()).expect("a good bundle");
    assert_eq!((taken.names, taken.names_kept), (1, 0));
    assert_eq!(to.versions("alpha"), 2);
}

#[test]
fn an_old_bundle_after_a_new_one_changes_nothing() {
    let from = place().fill();
    let old = from.export();
    from.publish("alpha", &["1.0.0", "1.1.0", "1.2.0"], 300, 50);
    let new = from.export();
    let to = place();
    to.import(&new).expect("a good bundle");
    let before = to.sees();
    let taken = to.import(&old).expect("a good bundle");
    assert_eq!((taken.names, taken.names_kept), (0, 1));
    assert_eq!(to.sees(), before);
}

#[test]
fn crate_files_that_the_index_does_not_list_are_a_problem() {
    let from = place();
    from.publish("alpha", &["1.0.0"], 300, 10);
    from.hold("alpha", "1.0.0", 300);
    let to = place();
    to.publish("alpha", &["2.0.0"], 300, 11);
    let taken = to.import(&from.export()).expect("a good bundle");
    assert_eq!(taken.names_kept, 1);
    assert_eq!(taken.unlisted, ["alpha@1.0.0"]);
    assert!(taken.has_problems());
}

#[test]
fn gone_and_back_follow_what_was_seen_last() {
    let from = place().fill();
    let there = from.export();
    from.lose("Beta", 20);
    let gone = from.export();
    let to = place();
    to.import(&gone).expect("a good bundle");
    assert!(to.is_gone("Beta"));
    to.import(&there).expect("a good bundle");
    assert!(to.is_gone("Beta"), "that was before");
    let receipt = to.receipt();
    from.publish("Beta", &["0.1.0"], 20, 30);
    let (report, back) = from.export_with(Some(&receipt), None);
    assert_eq!(report.names_left_out, 3);
    to.import(&back).expect("a good delta");
    assert!(!to.is_gone("Beta"), "it came back");
    to.import(&gone).expect("a good bundle");
    assert!(!to.is_gone("Beta"), "it was gone before it came back");

    let other = place().fill();
    other.store.touch(&name("Beta"), at(25), None);
    other.import(&gone).expect("a good bundle");
    assert!(!other.is_gone("Beta"), "upstream had it after that");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_taken() {
    let from = place();
    from.publish("large", &["1.0.0"], 3 << 20, 1);
    from.hold("large", "1.0.0", 3 << 20);
    let bundle = from.export();
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = Options::at(folder.path().join("data"));
    options.reserve_bytes = 1 << 20;
    let free = Arc::new(AtomicU64::new(3 << 20));
    let probed = Arc::clone(&free);
    options.space = SpaceProbe::new(move |_path| {
        Ok(Space {
            free_bytes: probed.load(Relaxed),
            total_bytes: 1 << 30,
        })
    });
    let to = Place {
        store: Store::open(options, at(0)).expect("a good store").0,
        _folder: folder,
    };
    let error = to.import(&bundle).expect_err("no room");
    assert!(matches!(error, Error::NoRoom { .. }), "{error:?}");
    let said = error.to_string();
    assert!(
        said.contains("needs 3145") && said.contains("2097152 may"),
        "{said}"
    );
    assert_eq!(to.store.totals().blobs, 0);
    free.store((1 << 20) + 100, Relaxed);
    assert!(matches!(to.import(&bundle), Err(Error::NoRoom { .. })));

    free.store(2 << 20, Relaxed);
    let mut section = SectionWriter::<IndexRecord>::new(&to.store).expect("there is room");
    free.store(0, Relaxed);
    let mut noise = vec![0; 1 << 20];
    let mut rng = fastrand::Rng::with_seed(7);
    let mut put = || {
        rng.fill(&mut noise);
        section.put(&IndexRecord {
            name: name("noise"),
            etag: None,
            last_modified: None,
            seen: 0,
            gone: false,
            left_out: None,
            file: Some(ExactBytes(noise.clone().into())),
        })
    };
    assert!((0..16).any(|_at| matches!(put(), Err(Error::Store { .. }))));
}

#[test]
fn a_name_that_is_gone_upstream_goes_over_as_such() {
    let from = place().fill();
    let gone = Change::Gone {
        name: name("Beta"),
        checked: at(20),
    };
    from.store.publish(vec![gone], at(20)).expect("published");
    let to = place();
    to.import(&from.export()).expect("a good bundle");
    let facts = to.store.entry(&name("beta")).expect("readable");
    assert!(facts.is_some_and(|facts| facts.gone && facts.has_snapshot));
    let mut kinds = Vec::new();
    to.store
        .events(0, |_after, event| {
            if event.name == name("beta") {
                kinds.push(event.kind);
            }
            std::ops::ControlFlow::Continue(())
        })
        .expect("readable");
    assert!(kinds.contains(&EventKind::NameGone), "{kinds:?}");
}

#[test]
fn a_key_that_nobody_trusts_and_no_key_at_all_are_told() {
    let from = place().fill();
    let bundle = from.export();
    let to = place();
    let nobody = Trust::default();
    let error = to.import_with(&bundle, &nobody).expect_err("not trusted");
    let key = SigningKey::of_seed(7).public().to_string();
    assert!(error.to_string().contains(&key), "{error}");
    let job = error.into_job("take the bundle in");
    assert!(
        job.hint
            .expect("a hint")
            .contains(&format!("--trust {key}"))
    );

    let mut unsigned = Vec::new();
    let export = Export {
        store: &from.store,
        chosen: None,
        receipt: None,
        key: None,
        cx: &JobContext::of_test(),
    };
    export.write(&mut unsigned).expect("a bundle");
    assert!(matches!(to.import(&unsigned), Err(Error::Unsigned)));
    let nobody = Trust {
        unsigned: true,
        ..Trust::default()
    };
    assert!(matches!(
        to.import_with(&bundle, &nobody),
        Err(Error::Untrusted { .. })
    ));
    assert_eq!(to.store.totals().names, 0);
    for at in (0..unsigned.len()).step_by(5) {
        let mut flipped = unsigned.clone();
        flipped[at] ^= 1;
        assert!(to.import_with(&flipped, &nobody).is_err(), "byte {at}");
    }
    to.import_with(&unsigned, &nobody).expect("taken as it is");
}

#[test]
fn no_byte_can_be_changed_left_out_or_added() {
    let bundle = place().fill().export();
    let to = place();
    for at in 0..bundle.len() {
        let mut flipped = bundle.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(to.import(&flipped).is_err(), "byte {at}");
        if at % 3 == 0 {
            assert!(to.import(&bundle[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(to.store.totals().names, 0, "byte {at}");
    }
    let mut longer = bundle.clone();
    longer.push(0);
    let error = to.import(&longer).expect_err("there is more");
    assert_eq!(error.to_string(), "there is more after its end");
    assert_eq!(to.store.totals().names, 0);
    to.import(&bundle).expect("nothing was wrong with it");
}

#[test]
fn what_is_wrong_is_said() {
    let bundle = place().fill().export();
    let to = place();
    let said = |bytes: &[u8]| to.import(bytes).expect_err("refused").to_string();
    assert_eq!(
        said(&replaced(
            &bundle,
            "\"orlop_bundle\": 1",
            "\"orlop_bundle\": 2"
        )),
        "this is a bundle of format 2, and this build reads up to 1"
    );
    assert_eq!(
        said(b"PK\x03\x04 a zip file, it seems"),
        "this is not a bundle of orlop"
    );
    let mut tar = Writer::new(Vec::new());
    tar.member("Cargo.toml", PUBLIC, b"[package]")
        .expect("written");
    let tar = tar.finish().expect("written");
    assert_eq!(said(&tar), "this is not a bundle of orlop");
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(PUBLIC);
    header.set_mtime(1_700_000_000);
    let mut packed = tar::Builder::new(Vec::new());
    let appended = packed.append_data(&mut header, "manifest.json", io::empty());
    appended.expect("written");
    let packed = said(&packed.into_inner().expect("written"));
    assert!(packed.contains("packed again"), "{packed}");
    assert_eq!(said(b""), "it is cut short: it ends within a bundle");
    let cut = said(&bundle[..bundle.len() - 1024 - 400]);
    assert!(
        cut.contains("within the crate file of gamma-ray@2.0.1"),
        "{cut}"
    );
    let cut = said(&bundle[..bundle.len() - 100]);
    assert_eq!(cut, "it is cut short: it ends within its end");
    let mut altered = bundle.clone();
    let inside = altered.len() - 1024 - 500;
    altered[inside] ^= 1;
    let altered = said(&altered);
    assert!(
        altered.contains("the crate file of gamma-ray@2.0.1 was altered"),
        "{altered}"
    );
    let manifest = replaced(&bundle, "\"crates\": 4", "\"crates\": 5");
    assert!(said(&manifest).contains("its numbers do not fit together"));
    let manifest = replaced(&bundle, "\"crate_bytes\": 1", "\"crate_bytes\": 2");
    assert!(matches!(to.import(&manifest), Err(Error::Signature { .. })));
}

fn replaced(bundle: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bundle
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .expect("it is there");
    let mut bundle = bundle.to_vec();
    bundle[at..at + to.len()].copy_from_slice(to.as_bytes());
    bundle
}

/// Paths and bytes.
type Members = Vec<(String, Vec<u8>)>;

/// The bundle with other members.
fn rewritten(bundle: &[u8], change: impl FnOnce(&mut Members)) -> Vec<u8> {
    let mut reader = Reader::new(bundle);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member().expect("a good bundle") {
        let mut body = Vec::new();
        reader.read_to_end(&mut body).expect("a good bundle");
        members.push((member.path, body));
    }
    change(&mut members);
    let mut writer = Writer::new(Vec::new());
    for (path, body) in members {
        writer.member(&path, PUBLIC, &body).expect("written");
    }
    writer.finish().expect("written")
}

#[test]
fn members_that_are_missing_added_doubled_or_out_of_order_are_told() {
    let bundle = place().fill().export();
    let to = place();
    let refused = |word: &str, change: &dyn Fn(&mut Members)| {
        let error = to.import(&rewritten(&bundle, change)).expect_err(word);
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(error.into_job("x").fault, Fault::Damaged);
        assert_eq!(to.store.totals().names, 0);
    };
    let first = "crates/alpha-1.0.0.crate";
    refused(
        &format!("it has `evil` where `{first}` is listed"),
        &|members| {
            members.insert(5, ("evil".to_owned(), b"bytes".to_vec()));
        },
    );
    refused("it has `evil`, which is not listed", &|members| {
        members.push(("evil".to_owned(), b"bytes".to_vec()));
    });
    refused("it has `manifest.json`, which is not listed", &|members| {
        members.push(members[0].clone());
    });
    refused(
        "it has `index.jsonl.zst` where `crates.jsonl.zst` is listed",
        &|members| {
            members.swap(2, 3);
        },
    );
    refused("`crates/gamma-ray-2.0.1.crate` is missing", &|members| {
        drop(members.pop());
    });
    refused(
        &format!("`{first}` has another length than is listed"),
        &|members| {
            members[5].1.push(0);
        },
    );
    refused("`manifest.sig` has another length", &|members| {
        members[1].1.push(0);
    });
    let unsigned = to.import(&rewritten(&bundle, |members| {
        members[1].0 = "manifest.sha256".to_owned();
    }));
    let said = unsigned.expect_err("there is no signature").to_string();
    assert!(said.contains("where `manifest.sig` is listed"), "{said}");
}

#[test]
fn a_list_that_names_a_crate_file_twice_is_refused() {
    let from = place().fill();
    let mut records = SectionWriter::<CrateRecord>::new(&from.store).expect("room");
    for _twice in 0..2 {
        let bytes = body("Beta", "0.1.0", 20);
        let record = CrateRecord {
            name: name("Beta"),
            version: "0.1.0".parse().expect("a version"),
            sha256: Checksum::of(&bytes),
            size: 20,
            left_out: false,
        };
        records.put(&record).expect("written");
    }
    let key = SigningKey::of_seed(7);
    let mut sections = Sections {
        crates: records.finish().expect("written"),
        index: SectionWriter::new(&from.store)
            .expect("room")
            .finish()
            .expect("written"),
        journal: SectionWriter::new(&from.store)
            .expect("room")
            .finish()
            .expect("written"),
    };
    let counts = ExportReport {
        crates: 2,
        crate_bytes: 40,
        ..ExportReport::default()
    };
    let mut out = Writer::new(Vec::new());
    let manifest = sections.manifest(&counts, None, Some(key.public()));
    let signed = Signed::new(manifest, Some(&key)).expect("signed");
    signed.write(&mut out).expect("written");
    let written = sections.write(&mut out, &JobContext::of_test());
    written.expect("written");
    let bundle = out.finish().expect("written");
    let said = place().import(&bundle).expect_err("refused").to_string();
    assert!(said.contains("or one is listed twice"), "{said}");
}

#[test]
fn damage_of_a_bundle_in_parts_is_told_by_the_part() {
    let bundle = place().fill().export();
    let to = place();
    let parts: Vec<ImportPart> = bundle
        .chunks(1500)
        .zip(1..)
        .map(|(piece, number)| ImportPart {
            name: format!("b.{number:03}"),
            bytes: piece.len() as u64,
        })
        .collect();
    let told = |bytes: &[u8], parts: &[ImportPart]| {
        let import = Import {
            store: &to.store,
            trust: &trust(),
            parts,
            dry_run: false,
            now: at(1000),
            cx: &JobContext::of_test(),
        };
        import.read(bytes).expect_err("refused")
    };
    // The last crate file of 700 bytes, which stands before the end.
    let mut altered = bundle.clone();
    let inside = altered.len() - 1024 - 500;
    altered[inside] ^= 1;
    let error = told(&altered, &parts);
    let part = format!("`b.{:03}`", inside / 1500 + 1);
    assert!(error.to_string().contains(&part), "{part}: {error}");
    assert!(!error.to_string().contains("`b.001`"), "{error}");
    assert_eq!(error.into_job("x").fault, Fault::Damaged);

    let missing = told(&bundle[..3000], &parts[..2]);
    let said = "part 3 of the bundle is missing: name all its parts";
    assert_eq!(missing.to_string(), said);
    assert_eq!(missing.into_job("x").fault, Fault::Usage);

    let last = parts.len() - 1;
    let cut = told(&bundle[..bundle.len() - 10], &parts);
    assert!(cut.to_string().contains(&parts[last].name), "{cut}");
    let second = told(&bundle[1500..], &parts[1..]);
    assert!(
        second.to_string().contains("`b.002` is not the first part"),
        "{second}"
    );
}

#[test]
fn a_receipt_has_what_is_there_and_nothing_else() {
    let place = place().fill();
    let (receipt, _id) = place.receipt();
    assert!(receipt.has_crate(&Checksum::of(&body("Beta", "0.1.0", 20))));
    assert!(!receipt.has_crate(&Checksum::of(&body("gamma-ray", "2.0.0", 700))));
    let facts = place.store.entry(&name("Beta")).expect("readable");
    let digest = Digest(facts.expect("it is there").digest);
    assert!(receipt.has_name("beta", digest));
    assert!(!receipt.has_name("alpha", digest) && !receipt.has_name("c", digest));
}

#[test]
fn a_receipt_that_was_changed_or_cut_is_refused() {
    let place = place().fill();
    let bytes = place.write_receipt();
    for at in 0..bytes.len() {
        assert!(place.read_receipt(&bytes[..at]).is_err(), "cut at {at}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        assert!(place.read_receipt(&flipped).is_err(), "byte {at}");
    }
    let newer = replaced(&bytes, "\"orlop_receipt\": 1", "\"orlop_receipt\": 2");
    assert!(matches!(
        place.read_receipt(&newer),
        Err(Error::Newer { found: 2, .. })
    ));
    for foreign in [&b"something else altogether"[..], &place.export()] {
        assert!(matches!(
            place.read_receipt(foreign),
            Err(Error::Foreign { what: "a receipt" })
        ));
    }
}

/// A receipt of these records, of which its manifest says that they are `count`.
fn receipt_of(records: &[serde_json::Value], count: u64) -> Vec<u8> {
    let mut lines = LineWriter::new(Vec::new()).expect("memory takes it");
    for record in records {
        lines.put(record).expect("memory takes it");
    }
    let body = lines.finish().expect("memory takes it");
    let section = serde_json::json!({
        "sha256": Checksum::of(&body).to_string(), "bytes": body.len(), "records": count,
    });
    let manifest = serde_json::json!({ "orlop_receipt": 1, "receipt.jsonl.zst": section });
    let manifest = manifest.to_string().into_bytes();
    let sum = format!("{}  manifest.json\n", Checksum::of(&manifest));
    let mut tar = Writer::new(Vec::new());
    for (path, body) in [
        ("manifest.json", &manifest[..]),
        ("manifest.sha256", sum.as_bytes()),
        ("receipt.jsonl.zst", &body[..]),
    ] {
        tar.member(path, PUBLIC, body).expect("written");
    }
    tar.finish().expect("written")
}

#[test]
fn a_receipt_has_bounds_although_nothing_signs_it() {
    let place = place();
    let digest = "0".repeat(32);
    let of_name = |name: &str| serde_json::json!({ "name": [name, digest] });
    let longest = "a".repeat(64);
    let good = [of_name("beta"), of_name(&longest)];
    let (receipt, _id) = place.read_receipt(&receipt_of(&good, 2)).expect("good");
    assert!(receipt.has_name(&longest, Digest([0; 16])));
    let said = |records: &[serde_json::Value], count| {
        let read = place.read_receipt(&receipt_of(records, count));
        read.expect_err("refused").to_string()
    };
    for name in ["Beta", "", "../beta", &"a".repeat(65)] {
        let said = said(&[of_name(name)], 1);
        assert!(
            said.contains("not the lower-case name of a crate"),
            "{said}"
        );
    }
    for count in [1, 3] {
        let said = said(&good, count);
        assert!(said.contains("another number of records"), "{said}");
    }
    let said = said(&good, (32 << 20) + 1);
    assert!(said.contains("do not fit together"), "{said}");
}

/// Cancels a job when it has read all.
struct CancelledAtEnd<'a>(&'a [u8], CancellationToken);

impl io::Read for CancelledAtEnd<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            self.1.cancel();
        }
        self.0.read(piece)
    }
}

#[test]
fn a_job_that_reads_the_records_of_a_receipt_can_be_cancelled() {
    let place = place().fill();
    let bytes = place.write_receipt();
    let token = CancellationToken::new();
    let cx = JobContext::new(
        Caller::owner("a test"),
        Arc::new(|_event| ()),
        token.clone(),
    );
    let read = Receipt::read(CancelledAtEnd(&bytes, token), &place.store, &cx);
    assert!(matches!(read, Err(Error::Cancelled)), "{read:?}");
}

#[test]
fn the_numbers_of_a_bundle_have_bounds() {
    let bundle = place().fill().export();
    let manifest = || {
        let signed = Signed::<Manifest>::read(&mut Reader::new(&bundle[..]));
        signed.map_err(drop).expect("a good bundle").manifest
    };
    for (records, is_sound) in [(32 << 20, true), ((32 << 20) + 1, false)] {
        let mut crates = manifest();
        crates.crates = records;
        crates.sections.crates.records = records;
        let mut index = manifest();
        index.sections.index.records = records;
        let mut journal = manifest();
        journal.sections.journal.records = records;
        for changed in [crates, index, journal] {
            assert_eq!(changed.is_sound(), is_sound, "{changed:?}");
        }
    }
}

#[test]
fn an_index_entry_has_validators_of_a_sensible_length() {
    let record = |etag: usize, last_modified: usize| IndexRecord {
        name: name("alpha"),
        etag: Some("e".repeat(etag)),
        last_modified: Some("m".repeat(last_modified)),
        seen: 0,
        gone: false,
        left_out: None,
        file: Some(ExactBytes(Bytes::new())),
    };
    assert_eq!(record(16 << 10, 16 << 10).check(), Ok(()));
    record((16 << 10) + 1, 1).check().expect_err("a long etag");
    record(1, (16 << 10) + 1).check().expect_err("a long date");
}

#[test]
fn an_import_that_was_cut_short_goes_on_where_it_was() {
    let from = place().fill();
    let bundle = from.export();
    let to = place();
    to.import(&bundle[..bundle.len() - 1024 - 400])
        .expect_err("cut");
    assert_eq!((to.store.totals().names, to.store.totals().blobs), (0, 3));
    let taken = to.import(&bundle).expect("a good bundle");
    assert_eq!((taken.crates_held, taken.crates), (3, 1));
    assert_eq!(to.sees(), from.sees());
}

#[test]
fn a_dry_run_verifies_and_leaves_nothing() {
    let bundle = place().fill().export();
    let to = place();
    let run = |bytes: &[u8]| {
        Import {
            store: &to.store,
            trust: &trust(),
            parts: &[],
            dry_run: true,
            now: at(0),
            cx: &JobContext::of_test(),
        }
        .read(bytes)
    };
    let report = run(&bundle).expect("a good bundle");
    assert_eq!((report.names, report.crates), (3, 4));
    assert_eq!((to.store.totals().names, to.store.totals().blobs), (0, 0));
    let mut altered = bundle.clone();
    let inside = altered.len() - 1024 - 500;
    altered[inside] ^= 1;
    assert!(run(&altered).is_err());
}

#[test]
fn a_crate_file_that_is_damaged_here_ends_the_export() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place {
        store: open(&folder.path().join("data")),
        _folder: tempfile::tempdir().expect("a folder"),
    };
    let place = place.fill();
    let sum = Checksum::of(&body("Beta", "0.1.0", 20)).to_hex();
    let path = folder
        .path()
        .join(format!("data/blobs/{}/{sum}.raw", &sum[..2]));
    std::fs::write(&path, [1; 20]).expect("it can be damaged");
    let mut out = Vec::new();
    let outcome = Export {
        store: &place.store,
        chosen: None,
        receipt: None,
        key: None,
        cx: &JobContext::of_test(),
    }
    .write(&mut out);
    let error = outcome.expect_err("it is damaged").into_job("x");
    assert_eq!(error.fault, Fault::Damaged);
    assert!(error.causes[0].contains("Beta@0.1.0"), "{error:?}");
    assert!(
        error
            .hint
            .expect("a hint")
            .contains("orlop verify --repair")
    );
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bundle-v1/small.orlop")
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_fixture_of_format_1() {
    let path = fixture();
    assert!(!path.exists(), "a fixture is written once");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, place().fill().export()).expect("written");
}

#[test]
fn a_bundle_of_format_1_is_read() {
    let bundle = std::fs::read(fixture()).expect("the fixture is there");
    let to = place();
    let taken = to.import(&bundle).expect("a good bundle");
    assert_eq!((taken.names, taken.crates, taken.absent), (3, 4, 1));
    assert_eq!(to.sees(), place().fill().sees());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_is_refused_and_nothing_is_visible(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        at in any::<prop::sample::Index>(),
        behind_the_signature in any::<bool>(),
    ) {
        let bundle = std::fs::read(fixture()).expect("the fixture is there");
        let to = place();
        prop_assert!(to.import(&bytes).is_err());
        let start = if behind_the_signature { at.index(bundle.len()) } else { 0 };
        let mut spliced = bundle.clone();
        spliced.splice(start.., bytes);
        prop_assert!(to.import(&spliced).is_err() || spliced == bundle);
        prop_assert_eq!(to.store.totals().names, 0);
    }
}
