//! Removes what nobody needs: crate files that no record names, crate files that nobody used for
//! long, and what was set aside as damaged.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::pins::Pinned;
use crate::{
    jobs::{
        Fault, JobContext, JobError, Services, Unit,
        job::{Job, JobReport},
        kind::JobKind,
        saved_sets::set_names,
        select::{Selection, choose},
        upkeep::pins::pinned,
    },
    registry::{Checksum, Release},
    store::{Leftover, LeftoverKind, ReleaseFacts, Removal, Store},
    util::format::exact_span,
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

impl JobReport for GcReport {
    const NAME: &'static str = "gc";
}

impl Job for GcRequest {
    const NAME: &'static str = "gc";
    type Report = GcReport;

    fn kind(&self) -> JobKind {
        if self.dry_run {
            JobKind::Read
        } else {
            JobKind::Gc
        }
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<GcReport, JobError> {
        let (request, services) = (self, &services);
        let wanted = match request.unused_for {
            Some(seconds) => {
                check_recorded(services, Duration::from_secs(seconds))?;
                in_sets(services, &cx).await?
            }
            None => HashSet::new(),
        };
        let remove = move |services: &Services| gc_now(services, &request, &wanted, &cx);
        services.blocking(remove).await?
    }
}

/// Whether it is known that nobody used a file for so long.
fn check_recorded(services: &Services, unused_for: Duration) -> Result<(), JobError> {
    let keep_for = services.uses.kept_for();
    if keep_for.is_zero() {
        let message = "`--unused-for` needs to know who fetched what, which is not recorded";
        return Err(JobError::new(Fault::Usage, message)
            .hint("set `use.keep_for` to more than zero and wait as long as `--unused-for` says"));
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
async fn in_sets(services: &Services, cx: &JobContext) -> Result<HashSet<Checksum>, JobError> {
    let sets = set_names(services)?;
    if sets.is_empty() {
        return Ok(HashSet::new());
    }
    let selection = Selection {
        sets,
        ..Selection::default()
    };
    let chosen = choose(services, &selection, false, cx).await?;
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
    services: &Services,
    request: &GcRequest,
    wanted: &HashSet<Checksum>,
    cx: &JobContext,
) -> Result<GcReport, JobError> {
    let now = services.clock.now();
    let mut report = GcReport {
        dry_run: request.dry_run,
        ..GcReport::default()
    };
    cx.phase("looking for what nobody needs", Unit::Crates, None);
    let unknown = unknown_files(services, now, cx)?;
    let (count, bytes) = remove(services, unknown, &mut report, cx)?;
    report.unknown = Removed { count, bytes };
    if let Some(seconds) = request.unused_for {
        let before = now
            .checked_sub(Duration::from_secs(seconds))
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let unused = unused_files(services, before, wanted, &mut report, cx)?;
        let (count, bytes) = remove(services, unused, &mut report, cx)?;
        report.unused = Removed { count, bytes };
    }
    remove_leftovers(&services.store, now, &mut report)?;
    Ok(report)
}

/// Crate files that no record names, but for young ones.
fn unknown_files(
    services: &Services,
    now: SystemTime,
    cx: &JobContext,
) -> Result<Vec<Candidate>, JobError> {
    let store = &services.store;
    let before = store.totals();
    let mut named = Vec::new();
    store
        .visit_blob_owners(|checksum, _owner| {
            named.push(checksum.prefix());
            go_on(cx)
        })
        .map_err(|error| JobError::store("the records", &error))?;
    // A part of the records must never pass for all of them.
    cx.check_cancelled()?;
    if store.totals().damaged > before.damaged || (named.is_empty() && before.blobs > 0) {
        return Err(records_missing());
    }
    named.sort_unstable();
    let mut unknown = Vec::new();
    store
        .visit_blobs(&AtomicBool::new(false), |checksum, bytes| {
            let is_named = named.binary_search(&checksum.prefix()).is_ok();
            if !is_named && is_old(services, &checksum, now) {
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
            go_on(cx)
        })
        .map_err(|error| JobError::store("the crate files", &error))?;
    cx.check_cancelled()?;
    Ok(unknown)
}

fn is_old(services: &Services, checksum: &Checksum, now: SystemTime) -> bool {
    let since = services.store.blob_since(checksum).ok().flatten();
    since.is_some_and(|since| now.duration_since(since).is_ok_and(|age| age > YOUNG))
}

/// Crate files that were last used before a time, and that neither a pin nor a set wants.
fn unused_files(
    services: &Services,
    before: SystemTime,
    wanted: &HashSet<Checksum>,
    report: &mut GcReport,
    cx: &JobContext,
) -> Result<Vec<Candidate>, JobError> {
    let fault = |error| JobError::store("the record of uses", &error);
    services.uses.flush().map_err(fault)?;
    let now = services.clock.now();
    if services.uses.complete_since().map_err(fault)? >= before {
        cx.note("uses are not recorded for that long yet, so nothing counts as unused");
        return Ok(Vec::new());
    }
    let pinned = pinned(services)?;
    let mut unused = Vec::new();
    let mut outcome = Ok(());
    services
        .store
        .visit_releases(|_entry, releases| {
            for facts in releases.iter().filter(|facts| facts.held) {
                match is_unused(services, facts, before, &pinned, wanted) {
                    Ok(false) => {}
                    Ok(true) if !is_old(services, &facts.checksum, now) => report.young += 1,
                    Ok(true) => unused.extend(candidate(services, facts)),
                    Err(error) => {
                        outcome = Err(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            go_on(cx)
        })
        .map_err(fault)?;
    outcome.map_err(fault)?;
    cx.check_cancelled()?;
    Ok(unused)
}

fn is_unused(
    services: &Services,
    facts: &ReleaseFacts,
    before: SystemTime,
    pinned: &Pinned,
    wanted: &HashSet<Checksum>,
) -> Result<bool, crate::store::Error> {
    let key = format!("{}@{}", facts.name.key(), facts.version);
    if wanted.contains(&facts.checksum) || pinned.has(&facts.name, &key) {
        return Ok(false);
    }
    let used = match services.uses.last_use(&key)? {
        Some(used) => Some(used),
        // One that cannot be looked at stays.
        None => services.store.blob_since(&facts.checksum).ok().flatten(),
    };
    Ok(used.is_some_and(|used| used < before))
}

fn candidate(services: &Services, facts: &ReleaseFacts) -> Option<Candidate> {
    let bytes = services.store.blob_bytes(&facts.checksum);
    Some(Candidate {
        removal: Removal {
            checksum: facts.checksum,
            of: Some(facts.name.clone()),
            set_aside: false,
        },
        bytes: bytes.ok().flatten()?,
        release: Some(Release {
            name: facts.name.clone(),
            version: facts.version.clone(),
        }),
    })
}

/// Removes files. Returns how many, and their bytes.
fn remove(
    services: &Services,
    candidates: Vec<Candidate>,
    report: &mut GcReport,
    cx: &JobContext,
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
        cx.phase("removing", Unit::Crates, total);
    }
    let mut rest = candidates.into_iter().peekable();
    while rest.peek().is_some() {
        cx.check_cancelled()?;
        // One may have been made since they were looked up.
        let pinned = pinned(services)?;
        let is_free = |one: &Candidate| {
            let release = one.release.as_ref();
            !release.is_some_and(|of| pinned.has(&of.name, &of.key()))
        };
        let part = rest.by_ref().take(REMOVED_AT_A_TIME).filter(is_free);
        let (releases, part): (Vec<_>, Vec<_>) = part.map(|one| (one.release, one.removal)).unzip();
        for removal in &part {
            services.mirror.forget_blob(&removal.checksum);
        }
        let freed = services
            .store
            .remove_blobs(part)
            .map_err(|error| JobError::store("what nobody needs", &error))?;
        for (release, bytes) in releases.iter().zip(freed) {
            if let Some(bytes) = bytes {
                removed.add(bytes);
                report.list(release.as_ref());
            }
        }
        cx.progress(removed.count, total, removed.bytes);
    }
    Ok((removed.count, removed.bytes))
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

fn go_on(cx: &JobContext) -> ControlFlow<()> {
    if cx.is_cancelled() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{store, util::clock::Clock};

    #[test]
    fn a_dry_run_only_reads_so_that_nothing_waits_for_it() {
        let kind = |dry_run| {
            let request = GcRequest {
                dry_run,
                unused_for: Some(1),
            };
            request.kind()
        };
        assert_eq!((kind(true), kind(false)), (JobKind::Read, JobKind::Gc));
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
