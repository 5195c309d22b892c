//! Hashes all that is held, and looks whether the records and the files agree.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    jobs::{
        JobContext, JobError, Services, Unit,
        job::{Job, JobReport},
        kind::JobKind,
        records::last_of,
    },
    metrics::{Finding, Verified},
    registry::{Checksum, CrateName, IndexFile, Release, checksum::Hasher},
    store::{BlobOwner, BlobReader, Removal, Store},
    util::error::one_line,
};

/// How many threads hash. More than this a disk of a lab does not feed, and the cores are for
/// answers.
const MAX_THREADS: usize = 4;

/// How many files wait for a thread.
const QUEUED: usize = 64;

/// How much of a file is read at a time.
const READ_BYTES: usize = 1 << 20;

/// How often progress is told, in files.
const TOLD_EVERY: u64 = 64;

/// How many findings a report lists; all are counted.
const MAX_LISTED: usize = 1000;

/// How to hash what is held.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Whether to set aside what is damaged, and fetch again what is damaged or missing.
    pub repair: bool,
}

/// What hashing found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Crate files that are what they should be.
    pub good: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// Crate files with other bytes than their name says.
    pub damaged: u64,
    /// Crate files that could not be read.
    pub unreadable: u64,
    /// Crate files that no record names.
    pub unknown: u64,
    /// Crate files that records take for held and that are not there.
    pub missing: u64,
    /// Index files that were read.
    pub entries: u64,
    /// Names whose index file is damaged. They are asked for again when they are next wanted.
    pub damaged_entries: Vec<String>,
    /// What is wrong with the git index; `None`: nothing is known to be.
    pub git: Option<String>,
    /// The findings, up to 1000 of them.
    pub findings: Vec<BadBlob>,
    /// Crate files and index files that were fetched again.
    pub repaired: u64,
    /// Crate files that were taken out of serving and are kept in the folder `quarantine`.
    #[serde(default)]
    pub set_aside: u64,
}

/// A crate file that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlob {
    /// What is wrong with it.
    pub kind: BadKind,
    /// Its checksum, by its name.
    pub checksum: String,
    /// The release that it belongs to, as `name@version`; `None`: no record names it.
    pub release: Option<String>,
    /// What the disk said.
    pub cause: Option<String>,
    /// Whether it was fetched again.
    pub repaired: bool,
}

/// What can be wrong with a crate file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadKind {
    /// Its bytes are others.
    Damaged,
    /// The disk does not give it.
    Unreadable,
    /// No record names it.
    Unknown,
    /// A record takes it for held, and it is not there.
    Missing,
}

impl JobReport for VerifyReport {
    const NAME: &'static str = "verify";

    fn has_problems(&self) -> bool {
        self.unknown > 0 || self.git.is_some() || self.bad() > 0
    }
}

impl VerifyReport {
    /// How many files are bad and were not fetched again.
    pub(super) fn bad(&self) -> u64 {
        let bad = self.damaged + self.unreadable + self.missing;
        let bad_entries = u64::try_from(self.damaged_entries.len()).unwrap_or(u64::MAX);
        let bad = bad.saturating_add(bad_entries);
        bad.saturating_sub(self.repaired)
    }
}

/// What is found out while files are hashed.
struct Walk {
    cx: JobContext,
    stop: AtomicBool,
    total: u64,
    good: AtomicU64,
    bytes: AtomicU64,
    /// What is wrong, but for files that no record names.
    bad: Mutex<Vec<(Checksum, BadKind, Option<String>)>>,
}

impl Walk {
    fn new(cx: JobContext, total: u64) -> Walk {
        Walk {
            cx,
            stop: AtomicBool::new(false),
            total,
            good: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bad: Mutex::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Relaxed) || self.cx.is_cancelled()
    }

    fn note_bad(&self, checksum: Checksum, kind: BadKind, cause: Option<String>) {
        self.bad.lock().push((checksum, kind, cause));
    }

    fn look_at(&self, store: &Store, checksum: Checksum) {
        match store.blob_blocking(&checksum) {
            Ok(Some(blob)) => match self.hash(&blob) {
                Ok(Some(found)) if found == checksum => {
                    self.good.fetch_add(1, Relaxed);
                }
                Ok(Some(_other)) => self.note_bad(checksum, BadKind::Damaged, None),
                Ok(None) => {}
                Err(error) => {
                    self.note_bad(checksum, BadKind::Unreadable, Some(error.to_string()));
                }
            },
            // An empty file, or one that went since it was listed.
            Ok(None) => {
                if store.blob_since(&checksum).ok().flatten().is_some() {
                    self.note_bad(checksum, BadKind::Damaged, Some("it is empty".to_owned()));
                }
            }
            Err(error) => {
                self.note_bad(checksum, BadKind::Unreadable, Some(one_line(&error)));
            }
        }
    }

    /// `None`: it was asked to end.
    fn hash(&self, blob: &BlobReader) -> std::io::Result<Option<Checksum>> {
        let mut hasher = Hasher::default();
        let mut offset = 0;
        while offset < blob.len() {
            if self.is_over() {
                return Ok(None);
            }
            let left = usize::try_from(blob.len().saturating_sub(offset)).unwrap_or(READ_BYTES);
            let bytes = blob.read_range(offset, left.min(READ_BYTES))?;
            hasher.update(&bytes);
            let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            offset = offset.saturating_add(read);
            self.bytes.fetch_add(read, Relaxed);
        }
        Ok(Some(hasher.finish()))
    }
}

impl Job for VerifyRequest {
    const NAME: &'static str = "verify";
    type Report = VerifyReport;

    fn kind(&self) -> JobKind {
        JobKind::Verify
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<VerifyReport, JobError> {
        let (request, services) = (self, &services);
        let context = cx.clone();
        let look = move |services: &Services| look_through(services, &context);
        let mut report = services.blocking(look).await??;
        cx.check_cancelled()?;
        if request.repair {
            set_bad_aside(services, &mut report).await?;
            fetch_again(services, &mut report, &cx).await?;
        }
        count_findings(services, &report);
        Ok(report)
    }
}

fn look_through(services: &Services, cx: &JobContext) -> Result<VerifyReport, JobError> {
    let store = &services.store;
    let total = store.totals().blobs;
    cx.phase("hashing", Unit::Crates, Some(total));
    let walk = Walk::new(cx.clone(), total);
    let files = hash_all(store, &walk)?;
    cx.check_cancelled()?;
    // Also those that are bad were hashed, or tried.
    let hashed = files.len() as u64;
    cx.progress(hashed, Some(hashed), walk.bytes.load(Relaxed));
    let mut report = VerifyReport {
        good: walk.good.load(Relaxed),
        bytes: walk.bytes.load(Relaxed),
        ..VerifyReport::default()
    };
    cx.phase("comparing with the index", Unit::Names, None);
    let findings = compare(services, &files, walk.bad.into_inner(), cx)?;
    for finding in findings {
        report.take(finding);
    }
    count(services, &report);
    check_entries(services, &mut report, cx)?;
    let status = services.state();
    report.git = status.git.and_then(|git| git.failing);
    Ok(report)
}

/// Restores what the metrics showed of the last `verify` before the start.
pub fn recall_findings(services: &Services) {
    // What cannot be read was logged when the jobs were recalled.
    let last = last_of(&services.store, JobKind::Verify).ok().flatten();
    let report = last.and_then(|last| last.report);
    if let Some(Ok(report)) = report.map(serde_json::from_value::<VerifyReport>) {
        count_findings(services, &report);
    }
}

/// Counts in the metrics what was found, and what is left of it.
fn count_findings(services: &Services, report: &VerifyReport) {
    let entries = u64::try_from(report.damaged_entries.len()).unwrap_or(u64::MAX);
    let found = [
        (Finding::Damaged, report.damaged),
        (Finding::Unreadable, report.unreadable),
        (Finding::Unknown, report.unknown),
        (Finding::Missing, report.missing),
        (Finding::IndexEntry, entries),
        (Finding::Git, u64::from(report.git.is_some())),
    ];
    let left = report.bad().saturating_add(u64::from(report.git.is_some()));
    services.metrics.findings(&found, left);
}

fn count(services: &Services, report: &VerifyReport) {
    let metrics = &services.metrics;
    for (result, count) in [
        (Verified::Good, report.good),
        (Verified::Damaged, report.damaged),
        (Verified::Unreadable, report.unreadable),
        (Verified::Unknown, report.unknown),
        (Verified::Missing, report.missing),
    ] {
        metrics.verified(result, count);
    }
}

/// Finds the releases of bad files, files that no record names, and records without a file.
fn compare(
    services: &Services,
    files: &[u64],
    bad: Vec<(Checksum, BadKind, Option<String>)>,
    cx: &JobContext,
) -> Result<Vec<BadBlob>, JobError> {
    let store = &services.store;
    let mut named = vec![false; files.len()];
    let mut bad: HashMap<Checksum, BadBlob> = bad
        .into_iter()
        .map(|(checksum, kind, cause)| (checksum, finding(kind, &checksum, None, cause)))
        .collect();
    let mut missing = Vec::new();
    store
        .visit_blob_owners(|checksum, owner| {
            let BlobOwner::CrateVersion {
                name,
                version,
                known,
            } = owner;
            match files.binary_search(&checksum.prefix()) {
                Ok(at) => {
                    if let Some(named) = named.get_mut(at) {
                        *named = true;
                    }
                }
                Err(_) if known.held && is_gone(store, checksum) => {
                    let release = Some(release_text(name, version));
                    missing.push(finding(BadKind::Missing, checksum, release, None));
                }
                Err(_) => {}
            }
            if let Some(finding) = bad.get_mut(checksum) {
                finding.release = Some(release_text(name, version));
            }
            if cx.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .map_err(|error| JobError::store("the records", &error))?;
    cx.check_cancelled()?;
    let mut findings: Vec<BadBlob> = bad.into_values().collect();
    findings.extend(missing);
    findings.extend(unknown(services, files, &named, &findings)?);
    findings.sort_by(|a, b| a.release.cmp(&b.release).then(a.checksum.cmp(&b.checksum)));
    Ok(findings)
}

/// The files that no record names, by another look at their folders.
fn unknown(
    services: &Services,
    files: &[u64],
    named: &[bool],
    bad: &[BadBlob],
) -> Result<Vec<BadBlob>, JobError> {
    let mut unknown = Vec::new();
    if named.iter().all(|named| *named) {
        return Ok(unknown);
    }
    let nobody = AtomicBool::new(false);
    services
        .store
        .visit_blobs(&nobody, |checksum, _length| {
            let at = files.binary_search(&checksum.prefix());
            let is_named = at.is_ok_and(|at| named.get(at).is_none_or(|named| *named));
            if at.is_ok() && !is_named {
                let text = checksum.to_hex();
                if !bad.iter().any(|bad| bad.checksum == text) {
                    unknown.push(finding(BadKind::Unknown, &checksum, None, None));
                }
            }
            ControlFlow::Continue(())
        })
        .map_err(|error| JobError::store("the crate files", &error))?;
    Ok(unknown)
}

/// Opens and reads every index file.
fn check_entries(
    services: &Services,
    report: &mut VerifyReport,
    cx: &JobContext,
) -> Result<(), JobError> {
    let store = &services.store;
    let total = store.totals().names;
    cx.phase("reading index files", Unit::Names, Some(total));
    let fault = |error| JobError::store("the index entries", &error);
    let walk = Arc::new(Entries::default());
    let (sender, receiver) = sync_channel::<CrateName>(QUEUED);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _thread in 0..threads() {
            scope.spawn(|| walk.work(store, &receiver));
        }
        let sender = sender;
        store.names(|facts| {
            let done = walk.read.load(Relaxed);
            if done.is_multiple_of(1024) {
                cx.progress(done, Some(total), 0);
            }
            if cx.is_cancelled() {
                return ControlFlow::Break(());
            }
            let is_sent = !facts.has_snapshot || sender.send(facts.name).is_ok();
            if is_sent {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
    })
    .map_err(fault)?;
    cx.check_cancelled()?;
    report.entries = walk.read.load(Relaxed);
    cx.progress(report.entries, Some(report.entries), 0);
    report.damaged_entries.append(&mut walk.damaged.lock());
    report.damaged_entries.sort();
    Ok(())
}

/// Sets damaged files aside, so that they are fetched again. One that cannot be moved does not keep
/// the others.
async fn set_bad_aside(services: &Services, report: &mut VerifyReport) -> Result<(), JobError> {
    let mut removals = Vec::new();
    for (place, finding) in report.findings.iter().enumerate() {
        let is_there = matches!(finding.kind, BadKind::Damaged | BadKind::Unreadable);
        if let Ok(checksum) = finding.checksum.parse()
            && finding.kind != BadKind::Unknown
        {
            services.mirror.forget_blob(&checksum);
            let removal = Removal {
                checksum,
                of: finding.release.as_deref().and_then(name_of),
                set_aside: is_there,
            };
            removals.push((place, removal));
        }
    }
    let outcomes = services
        .blocking(move |services| {
            let one = |(place, removal): (usize, Removal)| {
                let is_there = removal.set_aside;
                (place, is_there, services.store.remove_blobs(vec![removal]))
            };
            removals.into_iter().map(one).collect::<Vec<_>>()
        })
        .await?;
    let mut failed = None;
    let count = outcomes.len();
    let mut failures = 0;
    for (place, is_there, outcome) in outcomes {
        match outcome {
            Ok(freed) if is_there && freed.first().is_some_and(Option::is_some) => {
                report.set_aside += 1;
            }
            Ok(_was_gone) => {}
            Err(error) => {
                failures += 1;
                if let Some(finding) = report.findings.get_mut(place) {
                    finding.cause = Some(one_line(&error));
                }
                failed.get_or_insert(error);
            }
        }
    }
    match failed {
        Some(error) if failures == count => Err(JobError::store("what is damaged", &error)),
        _ => Ok(()),
    }
}

/// Fetches again what is bad or missing.
async fn fetch_again(
    services: &Services,
    report: &mut VerifyReport,
    cx: &JobContext,
) -> Result<(), JobError> {
    if !services.mirror.asks_upstream() {
        cx.note("nothing is fetched again: this mirror never asks upstream");
        return Ok(());
    }
    let total = u64::try_from(report.findings.len() + report.damaged_entries.len()).ok();
    cx.phase("fetching again", Unit::Crates, total);
    for finding in &mut report.findings {
        cx.check_cancelled()?;
        let release = finding.release.as_deref().and_then(release_named);
        let (Some(release), true) = (release, finding.kind != BadKind::Unknown) else {
            continue;
        };
        match services.mirror.fetch_whole(&release).await {
            Ok(blob) if blob.checksum().to_hex() == finding.checksum => {
                finding.repaired = true;
                report.repaired += 1;
            }
            Ok(_other) => {
                finding.cause = Some("upstream has another file for this release now".to_owned());
            }
            Err(error) => {
                cx.failed(&release, one_line(&error));
                finding.cause = Some(one_line(&error));
            }
        }
        cx.progress(report.repaired, total, 0);
    }
    for name in &report.damaged_entries {
        cx.check_cancelled()?;
        let Ok(name) = CrateName::parse(name) else {
            continue;
        };
        let patience = services.mirror.options().answer_within;
        match services.mirror.refresh(&name, patience).await {
            Ok(_asked) if services.store.snapshot(&name).is_ok_and(|s| s.is_some()) => {
                report.repaired += 1;
            }
            Ok(_asked) => {}
            Err(error) => cx.failed(&name, one_line(&error)),
        }
    }
    Ok(())
}

impl VerifyReport {
    fn take(&mut self, finding: BadBlob) {
        let count = match finding.kind {
            BadKind::Damaged => &mut self.damaged,
            BadKind::Unreadable => &mut self.unreadable,
            BadKind::Unknown => &mut self.unknown,
            BadKind::Missing => &mut self.missing,
        };
        *count += 1;
        if self.findings.len() < MAX_LISTED {
            self.findings.push(finding);
        }
    }
}

#[derive(Default)]
struct Entries {
    read: AtomicU64,
    damaged: Mutex<Vec<String>>,
}

impl Entries {
    fn work(&self, store: &Store, names: &Mutex<Receiver<CrateName>>) {
        loop {
            let next = names.lock().recv();
            let Ok(name) = next else {
                return;
            };
            // One that went or changed meanwhile is none of ours.
            let bytes = store
                .snapshot(&name)
                .ok()
                .flatten()
                .map(|found| found.bytes);
            let is_good = bytes.is_some_and(|bytes| IndexFile::parse(&name, bytes).is_ok());
            self.read.fetch_add(1, Relaxed);
            if !is_good {
                self.damaged.lock().push(name.as_str().to_owned());
            }
        }
    }
}

/// Hashes all files. Returns the prefixes of their checksums, sorted.
fn hash_all(store: &Store, walk: &Walk) -> Result<Vec<u64>, JobError> {
    let (sender, receiver) = sync_channel::<Checksum>(QUEUED);
    let receiver = Mutex::new(receiver);
    let mut files = std::thread::scope(|scope| {
        for _thread in 0..threads() {
            scope.spawn(|| {
                loop {
                    let next = receiver.lock().recv();
                    let Ok(checksum) = next else {
                        return;
                    };
                    if !walk.is_over() {
                        walk.look_at(store, checksum);
                    }
                }
            });
        }
        list(store, walk, sender)
    })
    .map_err(|error| JobError::store("the crate files", &error))?;
    files.sort_unstable();
    Ok(files)
}

fn list(
    store: &Store,
    walk: &Walk,
    sender: SyncSender<Checksum>,
) -> Result<Vec<u64>, crate::store::Error> {
    let mut files = Vec::new();
    store.visit_blobs(&walk.stop, |checksum, _length| {
        files.push(checksum.prefix());
        let done = walk.good.load(Relaxed);
        if done.is_multiple_of(TOLD_EVERY) {
            let bytes = walk.bytes.load(Relaxed);
            walk.cx.progress(done, Some(walk.total), bytes);
        }
        if walk.is_over() || sender.send(checksum).is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    drop(sender);
    Ok(files)
}

fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(MAX_THREADS)
}

/// Whether a file is really not there: its prefix may have been listed before it came in.
fn is_gone(store: &Store, checksum: &Checksum) -> bool {
    !store.holds(checksum)
}

fn finding(
    kind: BadKind,
    checksum: &Checksum,
    release: Option<String>,
    cause: Option<String>,
) -> BadBlob {
    BadBlob {
        kind,
        checksum: checksum.to_hex(),
        release,
        cause,
        repaired: false,
    }
}

fn release_text(name: &CrateName, version: &str) -> String {
    format!("{name}@{version}")
}

fn name_of(release: &str) -> Option<CrateName> {
    let (name, _version) = release.split_once('@')?;
    CrateName::parse(name).ok()
}

fn release_named(release: &str) -> Option<Release> {
    let (name, version) = release.split_once('@')?;
    Release::parse(name, version).ok()
}
