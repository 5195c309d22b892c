//! Removes what nobody needs: crate files that no record names, crate files that nobody used for
//! long, and what was set aside as damaged.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{pins::Pinned, release_key, verify::prefix_of};
use crate::{
    mirror::{
        Mirror,
        jobs::{Fault, JobError, Teller, Unit},
        select::Selection,
    },
    registry::{Checksum, Release},
    store::{Leftover, LeftoverKind, ReleaseFacts, Removal, Store},
    util::{format::exact_span, task::blocking},
};

/// Crate files that came in within this time stay whatever the records say: their index entry may
/// be on its way.
const YOUNG: Duration = Duration::from_secs(60 * 60);

/// How long what was set aside is kept for who wants to look into it.
const LEFTOVERS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many crate files are removed at a time.
const REMOVED_AT_A_TIME: usize = 256;

/// How many removed releases the report lists; all are counted.
const MAX_LISTED: usize = 1000;

/// What to remove.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GcRequest {
    /// Whether to say what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Crate files that nobody used for so many seconds go too; `None`: they stay.
    #[serde(default)]
    pub unused_for: Option<u64>,
}

/// What was removed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether nothing was removed, because nothing was to be.
    pub dry_run: bool,
    /// Crate files that no record names.
    pub unknown: Removed,
    /// Crate files that nobody used for long.
    pub unused: Removed,
    /// Crate files that nobody used for so long, and that stay because they came in of late.
    #[serde(default)]
    pub young: u64,
    /// Damaged crate files that were set aside.
    pub quarantined: Removed,
    /// Index databases that did not open and were set aside.
    pub broken: Removed,
    /// The releases of the second, up to 1000 of them, as `name@version`.
    pub releases: Vec<String>,
}

impl GcReport {
    fn list(&mut self, release: Option<&Release>) {
        if let Some(Release { name, version }) = release
            && self.releases.len() < MAX_LISTED
        {
            self.releases.push(format!("{name}@{version}"));
        }
    }
}

/// How much of one kind went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, bytes: u64) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One crate file that is to go.
struct Candidate {
    removal: Removal,
    bytes: u64,
    /// `None`: no record names it.
    release: Option<Release>,
}

impl Mirror {
    pub(in crate::mirror) async fn gc(
        &self,
        request: GcRequest,
        teller: Teller,
    ) -> Result<GcReport, JobError> {
        let wanted = match request.unused_for {
            Some(seconds) => {
                self.check_recorded(Duration::from_secs(seconds))?;
                self.in_sets(&teller).await?
            }
            None => HashSet::new(),
        };
        let mirror = self.clone();
        blocking(move || mirror.gc_now(&request, &wanted, &teller)).await?
    }

    /// Whether it is known that nobody used a file for so long.
    fn check_recorded(&self, unused_for: Duration) -> Result<(), JobError> {
        let keep_for = self.inner.options().upkeep.keep_uses_for;
        if keep_for.is_zero() {
            let message = "`--unused-for` needs to know who fetched what, which is not recorded";
            return Err(JobError::new(Fault::Usage, message).hint(
                "set `use.keep_for` to more than zero and wait as long as `--unused-for` says",
            ));
        }
        if unused_for <= keep_for {
            return Ok(());
        }
        let message = format!(
            "who fetched what is kept for {} only, which is less than `--unused-for {}`",
            exact_span(keep_for),
            exact_span(unused_for)
        );
        Err(JobError::new(Fault::Usage, message)
            .hint("ask for a shorter time, or set `use.keep_for` to a longer one"))
    }

    /// The checksums of what the saved sets stand for, as far as the index that is held tells.
    async fn in_sets(&self, teller: &Teller) -> Result<HashSet<Checksum>, JobError> {
        let sets = self.set_names()?;
        if sets.is_empty() {
            return Ok(HashSet::new());
        }
        let selection = Selection {
            sets,
            ..Selection::default()
        };
        let chosen = self.choose(&selection, false, teller).await?;
        if let Some(failure) = chosen.failed.first() {
            return Err(JobError::new(
                Fault::Unavailable,
                format!(
                    "what the saved sets want is not known: `{}`: {}",
                    failure.what, failure.cause
                ),
            )
            .hint("run `orlop sync` for the sets first, or `orlop gc` without `--unused-for`"));
        }
        let releases = chosen.names.into_values().flatten();
        Ok(releases.map(|(_version, checksum)| checksum).collect())
    }

    fn gc_now(
        &self,
        request: &GcRequest,
        wanted: &HashSet<Checksum>,
        teller: &Teller,
    ) -> Result<GcReport, JobError> {
        let now = self.inner.clock.now();
        let mut report = GcReport {
            dry_run: request.dry_run,
            ..GcReport::default()
        };
        teller.phase("looking for what nobody needs", Unit::Crates, None);
        let unknown = self.unknown_files(now, teller)?;
        let (count, bytes) = self.remove(unknown, &mut report, teller)?;
        report.unknown = Removed { count, bytes };
        if let Some(seconds) = request.unused_for {
            let before = now
                .checked_sub(Duration::from_secs(seconds))
                .unwrap_or(SystemTime::UNIX_EPOCH);
            let unused = self.unused_files(before, wanted, &mut report, teller)?;
            let (count, bytes) = self.remove(unused, &mut report, teller)?;
            report.unused = Removed { count, bytes };
        }
        remove_leftovers(&self.inner.store, now, &mut report)?;
        Ok(report)
    }

    /// Crate files that no record names, but for young ones.
    fn unknown_files(&self, now: SystemTime, teller: &Teller) -> Result<Vec<Candidate>, JobError> {
        let store = &self.inner.store;
        let before = store.totals();
        let mut named = Vec::new();
        store
            .visit_checksums(|_name, _version, known| {
                named.push(prefix_of(&known.checksum));
                go_on(teller)
            })
            .map_err(|error| JobError::store("the records", &error))?;
        // A part of the records must never pass for all of them.
        teller.go_on()?;
        if store.totals().damaged > before.damaged || (named.is_empty() && before.blobs > 0) {
            return Err(records_missing());
        }
        named.sort_unstable();
        let mut unknown = Vec::new();
        store
            .visit_blobs(&AtomicBool::new(false), |checksum, bytes| {
                let is_named = named.binary_search(&prefix_of(&checksum)).is_ok();
                if !is_named && self.is_old(&checksum, now) {
                    unknown.push(Candidate {
                        removal: Removal {
                            checksum,
                            of: None,
                            set_aside: false,
                        },
                        bytes,
                        release: None,
                    });
                }
                go_on(teller)
            })
            .map_err(|error| JobError::store("the crate files", &error))?;
        teller.go_on()?;
        Ok(unknown)
    }

    fn is_old(&self, checksum: &Checksum, now: SystemTime) -> bool {
        let since = self.inner.store.blob_since(checksum).ok().flatten();
        since.is_some_and(|since| now.duration_since(since).is_ok_and(|age| age > YOUNG))
    }

    /// Crate files that were last used before a time, and that neither a pin nor a set wants.
    fn unused_files(
        &self,
        before: SystemTime,
        wanted: &HashSet<Checksum>,
        report: &mut GcReport,
        teller: &Teller,
    ) -> Result<Vec<Candidate>, JobError> {
        let fault = |error| JobError::store("the record of uses", &error);
        self.flush_uses().map_err(fault)?;
        let now = self.inner.clock.now();
        if self.inner.recorded_since().map_err(fault)? >= before {
            teller.note("uses are not recorded for that long yet, so nothing counts as unused");
            return Ok(Vec::new());
        }
        let pinned = self.pinned()?;
        let mut unused = Vec::new();
        let mut outcome = Ok(());
        self.inner
            .store
            .visit_releases(|_entry, releases| {
                for facts in releases.iter().filter(|facts| facts.held) {
                    match self.is_unused(facts, before, &pinned, wanted) {
                        Ok(false) => {}
                        Ok(true) if !self.is_old(&facts.checksum, now) => report.young += 1,
                        Ok(true) => unused.extend(self.candidate(facts)),
                        Err(error) => {
                            outcome = Err(error);
                            return ControlFlow::Break(());
                        }
                    }
                }
                go_on(teller)
            })
            .map_err(fault)?;
        outcome.map_err(fault)?;
        teller.go_on()?;
        Ok(unused)
    }

    fn is_unused(
        &self,
        facts: &ReleaseFacts,
        before: SystemTime,
        pinned: &Pinned,
        wanted: &HashSet<Checksum>,
    ) -> Result<bool, crate::store::Error> {
        let key = format!("{}@{}", facts.name.key(), facts.version);
        if wanted.contains(&facts.checksum) || pinned.has(&facts.name, &key) {
            return Ok(false);
        }
        let used = match self.last_use(&key)? {
            Some(used) => Some(used),
            None => self.inner.store.blob_since(&facts.checksum)?,
        };
        Ok(used.is_some_and(|used| used < before))
    }

    fn candidate(&self, facts: &ReleaseFacts) -> Option<Candidate> {
        let blob = self.inner.store.blob(&facts.checksum).ok().flatten()?;
        Some(Candidate {
            removal: Removal {
                checksum: facts.checksum,
                of: Some(facts.name.clone()),
                set_aside: false,
            },
            bytes: blob.len(),
            release: Some(Release {
                name: facts.name.clone(),
                version: facts.version.clone(),
            }),
        })
    }

    /// Removes files. Returns how many, and their bytes.
    fn remove(
        &self,
        candidates: Vec<Candidate>,
        report: &mut GcReport,
        teller: &Teller,
    ) -> Result<(u64, u64), JobError> {
        let mut removed = Removed::default();
        if report.dry_run {
            for one in &candidates {
                removed.add(one.bytes);
                report.list(one.release.as_ref());
            }
            return Ok((removed.count, removed.bytes));
        }
        let total = u64::try_from(candidates.len()).ok();
        if !candidates.is_empty() {
            teller.phase("removing", Unit::Crates, total);
        }
        let mut rest = candidates.into_iter().peekable();
        while rest.peek().is_some() {
            teller.go_on()?;
            // One may have been made since they were looked up.
            let pinned = self.pinned()?;
            let is_free = |one: &Candidate| {
                let release = one.release.as_ref();
                !release.is_some_and(|of| pinned.has(&of.name, &release_key(of)))
            };
            let part = rest.by_ref().take(REMOVED_AT_A_TIME).filter(is_free);
            let (releases, part): (Vec<_>, Vec<_>) =
                part.map(|one| (one.release, one.removal)).unzip();
            for removal in &part {
                self.forget_blob(&removal.checksum);
            }
            let freed = self
                .inner
                .store
                .remove_blobs(part)
                .map_err(|error| JobError::store("what nobody needs", &error))?;
            for (release, bytes) in releases.iter().zip(freed) {
                if let Some(bytes) = bytes {
                    removed.add(bytes);
                    report.list(release.as_ref());
                }
            }
            teller.progress(removed.count, total, removed.bytes);
        }
        Ok((removed.count, removed.bytes))
    }
}

/// Removes what was set aside long ago.
fn remove_leftovers(store: &Store, now: SystemTime, report: &mut GcReport) -> Result<(), JobError> {
    let fault = |error| JobError::store("what was set aside", &error);
    let is_old = |left: &&Leftover| {
        let age = now.duration_since(left.since);
        age.is_ok_and(|age| age > LEFTOVERS_KEPT)
    };
    for left in store.leftovers().map_err(fault)?.iter().filter(is_old) {
        if !report.dry_run {
            store.remove_leftover(left).map_err(fault)?;
        }
        match left.kind {
            LeftoverKind::Quarantined => report.quarantined.add(left.bytes),
            LeftoverKind::BrokenIndex => report.broken.add(left.bytes),
        }
    }
    Ok(())
}

fn records_missing() -> JobError {
    JobError::new(
        Fault::Damaged,
        "records of the index are damaged or missing, and without them nobody knows which crate files are needed",
    )
    .hint("run `orlop verify --repair` first; nothing was removed")
}

fn go_on(teller: &Teller) -> ControlFlow<()> {
    if teller.is_cancelled() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        mirror::{
            Clock,
            jobs::{Kind, Request},
        },
        store,
    };

    #[test]
    fn a_dry_run_only_reads_so_that_nothing_waits_for_it() {
        let kind = |dry_run| {
            let request = GcRequest {
                dry_run,
                unused_for: Some(1),
            };
            Request::Gc(request).kind()
        };
        assert_eq!((kind(true), kind(false)), (Kind::Read, Kind::Gc));
    }

    #[test]
    fn what_was_set_aside_goes_when_nobody_looked_into_it_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let now = Clock::start().now();
        let (store, _report) = Store::open(store::Options::at(dir.path()), now).unwrap();
        let aside = dir.path().join("quarantine/aside");
        fs::create_dir_all(dir.path().join("quarantine")).unwrap();
        fs::write(&aside, b"damaged").unwrap();
        let broken = dir.path().join("sled.broken-1000");
        fs::create_dir(&broken).unwrap();
        fs::write(broken.join("db"), b"index").unwrap();
        let gone = |now, dry_run| {
            let mut report = GcReport {
                dry_run,
                ..GcReport::default()
            };
            remove_leftovers(&store, now, &mut report).unwrap();
            (report.quarantined, report.broken)
        };
        let removed = |count, bytes| Removed { count, bytes };
        let none = Removed::default();
        assert_eq!(gone(now, true), (none, removed(1, 5)));
        assert!(broken.exists());
        assert_eq!(gone(now, false), (none, removed(1, 5)));
        assert!(!broken.exists() && aside.exists());
        let later = now + LEFTOVERS_KEPT + Duration::from_secs(60);
        assert_eq!(gone(later, false), (removed(1, 7), none));
        assert!(!aside.exists());
    }
}
