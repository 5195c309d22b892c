//! A mirror for tests, with an upstream that nobody answers for.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use semver::Version;
use tempfile::TempDir;

use super::{Chosen, NamedText, Selection};
use crate::{
    git_index::GitIndexes,
    jobs::{JobContext, Jobs, Options, RunningJobs, Services, select::choose},
    metrics::Metrics,
    mirror::{self, Mirror, SparseSource, UseLog, Views},
    registry::{Checksum, CrateName, IndexFile, Release},
    store::{self, Change, Store, Validators},
    upstream::{self, Upstream},
    util::{background::Background, clock::Clock, live::Live},
};

/// A version of a crate: its number, and what it needs as `name@requirement`.
pub(in crate::jobs) type Row<'a> = (&'a str, &'a [&'a str]);

#[derive(Debug)]
pub(in crate::jobs) struct World {
    pub(in crate::jobs) services: Services,
    pub(in crate::jobs) jobs: Jobs,
    now: SystemTime,
    dir: TempDir,
}

impl World {
    pub(in crate::jobs) fn new() -> World {
        // Nobody listens at port 9.
        World::over(url::Url::parse("http://127.0.0.1:9/").expect("a URL"))
    }

    /// With the upstream at this URL.
    pub(in crate::jobs) fn over(upstream: url::Url) -> World {
        let dir = TempDir::new().expect("a folder");
        let clock = Clock::start();
        let now = clock.now();
        let options = store::Options::at(dir.path().join("data"));
        let (store, _report) = Store::open(options, now).expect("the store opens");
        let metrics = Arc::new(Metrics::new().expect("series"));
        let mut upstream = upstream::Options::new(upstream.into());
        // What a job does about trouble is to be seen at once.
        upstream.attempts = 1;
        let upstream = Upstream::new(upstream, Arc::clone(&metrics)).expect("a client");
        let background = Background::start().expect("threads start");
        let mirror = Mirror::new(mirror::Parts {
            options: Arc::default(),
            store: store.clone(),
            upstream: upstream.clone(),
            source: Arc::new(SparseSource::new(upstream.clone())),
            views: Views::new(&mirror::views::Options::default()),
            metrics: Arc::clone(&metrics),
            clock,
            background: background.clone(),
        });
        let mut options = Options::default();
        options.sync.patience = Duration::from_secs(1);
        let services = Services {
            uses: Arc::new(UseLog::new(store.clone(), clock, Duration::ZERO)),
            store,
            upstream,
            mirror,
            git_index: GitIndexes::default(),
            follow: None,
            metrics,
            clock,
            options: Arc::new(Live::new(options)),
            running: RunningJobs::default(),
        };
        World {
            jobs: Jobs::new(services.clone(), background),
            services,
            now,
            dir,
        }
    }

    pub(in crate::jobs) fn store(&self) -> &Store {
        &self.services.store
    }

    pub(in crate::jobs) fn publish(&self, krate: &str, rows: &[Row<'_>]) {
        let lines = rows
            .iter()
            .map(|(version, needs)| line(krate, version, needs));
        self.publish_lines(krate, lines.collect());
    }

    pub(in crate::jobs) fn publish_lines(&self, krate: &str, lines: String) {
        let change = change(krate, lines, self.now);
        self.store()
            .publish(vec![change], self.now)
            .expect("published");
    }

    pub(in crate::jobs) fn hold(&self, krate: &str, version: &str) {
        let bytes = content(krate, version);
        let reserved = self.store().reserve(&Checksum::of(&bytes), None);
        let mut spool = reserved.expect("there is room");
        spool.write(&bytes).expect("written");
        let release = Release::parse(krate, version).expect("a release");
        spool.commit(&release, self.now).expect("committed");
    }

    /// Takes the file away behind the store's back: its index goes on to say that it is held.
    pub(in crate::jobs) fn lose(&self, krate: &str, version: &str) {
        let sum = sum(krate, version).to_hex();
        let blobs = self.dir.path().join("data/blobs");
        let file = blobs.join(&sum[..2]).join(format!("{sum}.raw"));
        std::fs::remove_file(file).expect("it was held");
        let release = Release::parse(krate, version).expect("a release");
        let facts = self.store().release(&release).expect("readable");
        assert!(facts.expect("listed").held, "so it says");
    }

    /// What is held of a selection, and nobody asked.
    pub(in crate::jobs) async fn held(&self, selection: &Selection) -> Chosen {
        let cx = JobContext::of_test();
        let chosen = choose(&self.services, selection, false, &cx);
        chosen.await.expect("resolved")
    }
}

/// The bytes of a crate file of a test.
pub(in crate::jobs) fn content(krate: &str, version: &str) -> Vec<u8> {
    format!("{krate} {version}").into_bytes()
}

pub(in crate::jobs) fn sum(krate: &str, version: &str) -> Checksum {
    Checksum::of(&content(krate, version))
}

pub(in crate::jobs) fn name(text: &str) -> CrateName {
    CrateName::parse(text).expect("a good name")
}

pub(in crate::jobs) fn line(krate: &str, version: &str, needs: &[&str]) -> String {
    let deps = needs.iter().map(|need| {
        let (name, req) = need.split_once('@').expect("a name and a requirement");
        serde_json::json!({
            "name": name, "req": req, "features": [], "optional": false,
            "default_features": true, "target": null, "kind": "normal"
        })
    });
    let line = serde_json::json!({
        "name": krate, "vers": version, "deps": deps.collect::<Vec<_>>(),
        "cksum": sum(krate, version).to_string(), "features": {}, "yanked": false
    });
    format!("{line}\n")
}

pub(in crate::jobs) fn change(krate: &str, lines: String, now: SystemTime) -> Change {
    Change::Index {
        name: name(krate),
        file: IndexFile::parse(&name(krate), lines.into()).expect("a good file"),
        validators: Validators::default(),
        checked: now,
    }
}

/// A lockfile with these releases.
pub(in crate::jobs) fn lockfile(releases: &[(&str, &str, Checksum)]) -> NamedText {
    let source = tame_index::CRATES_IO_INDEX;
    let text = releases.iter().map(|(name, version, sum)| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\
             source = \"registry+{source}\"\nchecksum = \"{sum}\"\n\n"
        )
    });
    NamedText {
        name: "Cargo.lock".to_owned(),
        text: format!("version = 4\n\n{}", text.collect::<String>()),
    }
}

pub(in crate::jobs) fn crates(specs: &[&str]) -> Selection {
    Selection {
        crates: specs.iter().map(ToString::to_string).collect(),
        ..Selection::default()
    }
}

/// `name version` of all that is chosen.
pub(in crate::jobs) fn releases(chosen: &Chosen) -> Vec<String> {
    let names = chosen.names.iter();
    let told = |(name, versions): (&CrateName, &Vec<(Version, Checksum)>)| {
        let one = |(version, checksum): &(Version, Checksum)| {
            let expected = sum(name.key(), &version.to_string());
            assert_eq!(*checksum, expected, "{name} {version}");
            format!("{name} {version}")
        };
        versions.iter().map(one).collect::<Vec<_>>()
    };
    names.flat_map(told).collect()
}

/// What failed, with its causes.
pub(in crate::jobs) fn failures(chosen: &Chosen) -> Vec<String> {
    let told = chosen.failed.iter();
    told.map(|one| format!("{}: {}", one.what, one.cause))
        .collect()
}
