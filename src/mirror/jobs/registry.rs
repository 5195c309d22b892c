//! Which jobs run: who may begin beside whom, how far each is, and what stays of it.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    super::upkeep::VerifyReport, Asker, Event, Fault, Files, JobError, Kind, Mirror, Report,
    Request, Teller,
};
use crate::{
    metrics::JobResult,
    mirror::Clock,
    store::{LogEntry, LogKind, Table},
    util::{
        format::{exact_span, seconds},
        task,
    },
};

/// The largest report that is kept for `orlop stats`; of a larger one the lists are shortened.
const MOST_KEPT_BYTES: usize = 512 * 1024;

/// How much of a list stays when a report is too large.
const KEPT_OF_LISTS: usize = 100;

/// How long a short job waits for one that is in its way, which is short as well.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks whether it is its turn.
const TURN_CHECK: Duration = Duration::from_millis(50);

/// Jobs of these kinds need that nothing is removed meanwhile.
const NOT_BESIDE_GC: [Kind; 5] = [
    Kind::Import,
    Kind::Export,
    Kind::Backup,
    Kind::Sync,
    Kind::Pin,
];

/// A job that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its kind.
    pub kind: Kind,
    /// The command that asked for it.
    pub command: String,
    /// Who asked for it, in words.
    pub asker: String,
    /// When it began, in seconds since 1970.
    pub since: u64,
    /// What it does now, in words; empty before its first phase.
    pub phase: String,
    /// How many are done of what the phase counts.
    pub done: u64,
    /// How many there are; `None`: not known.
    pub total: Option<u64>,
    /// Bytes moved in this phase.
    pub bytes: u64,
}

/// What is kept of the last job of a kind, in [`Table::Reports`] under the word for the kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// When one last ended well and without problems.
    pub ok_at: Option<u64>,
    /// How long it took.
    #[serde(default)]
    pub seconds: u64,
    /// What came of it; very long lists are cut. `None`: an error did.
    #[serde(default)]
    pub report: Option<serde_json::Value>,
    /// The error.
    #[serde(default)]
    pub error: Option<JobError>,
}

/// The jobs of one mirror.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Registry {
    jobs: Arc<Mutex<Vec<Entry>>>,
    last_id: AtomicU64,
    is_stopping: AtomicBool,
    /// Whether the end of the program cancelled one that fetches.
    has_cut: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    cancelled: CancellationToken,
    running: Running,
}

/// A place in the list, until it is dropped.
#[derive(Debug)]
struct Admitted {
    jobs: Arc<Mutex<Vec<Entry>>>,
    id: u64,
    kind: Kind,
    command: &'static str,
    began: Instant,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.jobs.lock().retain(|entry| entry.id != self.id);
    }
}

impl Registry {
    pub(super) fn running(&self) -> Vec<Running> {
        let jobs = self.jobs.lock();
        jobs.iter().map(|entry| entry.running.clone()).collect()
    }

    pub(in crate::mirror) fn is_busy(&self) -> bool {
        !self.jobs.lock().is_empty()
    }

    pub(super) fn stop(&self) {
        // Under the lock: who is admitted after it sees the flag.
        let jobs = self.jobs.lock();
        self.is_stopping.store(true, Ordering::SeqCst);
        for entry in jobs.iter() {
            if entry.running.kind != Kind::Read {
                self.has_cut.store(true, Ordering::SeqCst);
            }
            entry.cancelled.cancel();
        }
    }

    /// Whether fetches may be under way that nobody waits for any more.
    pub(in crate::mirror) fn has_cut(&self) -> bool {
        self.has_cut.load(Ordering::SeqCst)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Admits a job; a short one waits some seconds for its turn, so that two people who pin at the
    /// same time are both served.
    async fn admit_in_turn(
        &self,
        kind: Kind,
        command: &'static str,
        asker: &str,
        clock: Clock,
        teller: &Teller,
    ) -> Result<Admitted, JobError> {
        let until = Instant::now() + PATIENCE;
        let mut is_told = false;
        loop {
            let outcome = self.admit(kind, command, asker, clock.now(), teller);
            let waits = kind == Kind::Pin && !self.is_stopping() && Instant::now() < until;
            match outcome {
                Err(in_the_way) if waits => {
                    if !std::mem::replace(&mut is_told, true) {
                        teller.note(format!("waits: {in_the_way}"));
                    }
                }
                outcome => return outcome,
            }
            teller.go_on()?;
            tokio::time::sleep(TURN_CHECK).await;
        }
    }

    fn admit(
        &self,
        kind: Kind,
        command: &'static str,
        asker: &str,
        now: SystemTime,
        teller: &Teller,
    ) -> Result<Admitted, JobError> {
        let mut jobs = self.jobs.lock();
        if self.is_stopping() {
            return Err(stopping());
        }
        let in_the_way = |entry: &&Entry| excludes(kind, entry.running.kind);
        if let Some(other) = jobs.iter().find(in_the_way) {
            return Err(refusal(kind, &other.running, now));
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        jobs.push(Entry {
            id,
            cancelled: teller.cancelled.clone(),
            running: Running {
                kind,
                command: command.to_owned(),
                asker: asker.to_owned(),
                since: seconds(now),
                phase: String::new(),
                done: 0,
                total: None,
                bytes: 0,
            },
        });
        Ok(Admitted {
            jobs: Arc::clone(&self.jobs),
            id,
            kind,
            command,
            began: Instant::now(),
        })
    }
}

impl Admitted {
    /// `teller`, with an ear on how far the job is.
    fn overhear(&self, teller: Teller) -> Teller {
        let (jobs, id) = (Arc::clone(&self.jobs), self.id);
        let listener = move |event: Event| {
            note(&jobs, id, &event);
            (teller.listener)(event);
        };
        Teller::new(Arc::new(listener), teller.cancelled)
    }
}

fn note(jobs: &Mutex<Vec<Entry>>, id: u64, event: &Event) {
    let mut jobs = jobs.lock();
    let Some(entry) = jobs.iter_mut().find(|entry| entry.id == id) else {
        return;
    };
    let running = &mut entry.running;
    match event {
        Event::Phase { phase, total, .. } => {
            running.phase.clone_from(phase);
            (running.done, running.total, running.bytes) = (0, *total, 0);
        }
        Event::Progress { done, total, bytes } => {
            (running.done, running.total, running.bytes) = (*done, *total, *bytes);
        }
        Event::Note { .. } | Event::Failed { .. } => {}
    }
}

/// Whether a job of one kind keeps one of the other from beginning.
fn excludes(one: Kind, other: Kind) -> bool {
    let beside_gc = |kind| NOT_BESIDE_GC.contains(&kind);
    match (one, other) {
        (Kind::Read, _) => false,
        (Kind::Gc, other) if beside_gc(other) => true,
        (one, Kind::Gc) if beside_gc(one) => true,
        (one, other) => one == other,
    }
}

fn refusal(kind: Kind, other: &Running, now: SystemTime) -> JobError {
    let age = seconds(now).saturating_sub(other.since);
    let age = exact_span(Duration::from_secs(age));
    let doing = match (other.phase.as_str(), other.total) {
        ("", _) => String::new(),
        (phase, None) => format!(", {phase}: {} done", other.done),
        (phase, Some(total)) => format!(", {phase}: {} of {total} done", other.done),
    };
    let message = format!(
        "`{}` runs since {age}, asked for by {}{doing}; beside it no `{kind}` may begin",
        other.command, other.asker
    );
    JobError::new(Fault::Unavailable, message)
        .hint("wait until it is over, or end it with Ctrl-C where it was started")
}

/// What is said to whoever asks for something while the server ends.
pub(crate) fn stopping() -> JobError {
    JobError::new(Fault::Unavailable, "the server is stopping")
        .hint("what was done is kept; try again in a moment")
}

/// Runs a job on the mirror's runtime, beside those that it may run beside.
pub(super) async fn run(
    mirror: &Mirror,
    asker: &Asker,
    request: Request,
    files: Files,
    teller: Teller,
) -> Result<Report, JobError> {
    let inner = &mirror.inner;
    let command = request.command();
    let admitted = inner
        .jobs
        .admit_in_turn(request.kind(), command, asker.name(), inner.clock, &teller)
        .await?;
    let name = asker.name();
    tracing::info!(job = command, asker = name, "begins `{command}` for {name}");
    let teller = admitted.overhear(teller);
    let job = work(
        mirror.clone(),
        admitted,
        asker.clone(),
        request,
        files,
        teller,
    );
    let handle = inner.tasks.read().spawn(job);
    match handle {
        // Cut off where it waited, by the end of the program.
        Some(handle) => handle.await.unwrap_or_else(|_cut_off| Err(stopping())),
        None => Err(stopping()),
    }
}

async fn work(
    mirror: Mirror,
    admitted: Admitted,
    asker: Asker,
    request: Request,
    files: Files,
    teller: Teller,
) -> Result<Report, JobError> {
    let job = Box::pin(mirror.dispatch(&asker, request, files, teller));
    let outcome = match AssertUnwindSafe(job).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_panic) => Err(JobError::new(
            Fault::Unavailable,
            "the job met a defect of orlop and ended",
        )
        .hint("the log has the details; what was done before is kept")),
    };
    conclude(&mirror, &admitted, &outcome).await;
    match outcome {
        Err(error) if error.fault == Fault::Cancelled && mirror.inner.jobs.is_stopping() => {
            Err(stopping())
        }
        outcome => outcome,
    }
}

/// Tells the log, the status page, the metrics and the store how it ended.
async fn conclude(mirror: &Mirror, admitted: &Admitted, outcome: &Result<Report, JobError>) {
    let inner = &mirror.inner;
    let (kind, took, now) = (admitted.kind, admitted.began.elapsed(), inner.clock.now());
    let is_well = matches!(outcome, Ok(report) if !report.has_problems());
    let (how, command) = (told(outcome), admitted.command);
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Err(error) if error.fault != Fault::Cancelled => {
            tracing::warn!(target: super::ENDED, job = command, duration_ms, causes = ?error.causes, "`{command}` {how}");
        }
        _ => tracing::info!(job = command, duration_ms, "`{command}` {how}"),
    }
    let at = Duration::from_secs(seconds(now));
    let result = match outcome {
        Ok(_) if is_well => JobResult::Ok,
        Ok(_) => JobResult::Problems,
        Err(error) if error.fault == Fault::Cancelled => JobResult::Cancelled,
        Err(_) => JobResult::Failed,
    };
    inner.metrics.job(kind.label(), at, took, result);
    if kind == Kind::Read {
        return;
    }
    let activity = format!("`{command}` {how} after {} s", took.as_secs());
    inner.store.note(LogEntry::new(now, LogKind::Job, activity));
    let outcome = outcome.clone();
    let store = inner.store.clone();
    let kept =
        task::blocking(move || keep(&store, kind, seconds(now), took.as_secs(), is_well, outcome));
    match kept.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not keep the report of `{command}`"
        ),
        Err(_ended) => tracing::warn!("the report of `{command}` is not kept"),
    }
}

fn told(outcome: &Result<Report, JobError>) -> String {
    match outcome {
        Ok(report) if report.has_problems() => "found problems".to_owned(),
        Ok(_) => "ended well".to_owned(),
        Err(error) if error.fault == Fault::Cancelled => "was cancelled".to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}

/// What is kept of the last job of a kind.
fn last_of(store: &crate::store::Store, kind: Kind) -> Result<Option<Record>, crate::store::Error> {
    let last = store.kept(Table::Reports, kind.as_str())?;
    Ok(last.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

impl Mirror {
    /// Tells the metrics of the jobs before the start.
    pub(in crate::mirror) fn recall_jobs(&self) {
        for kind in Kind::ALL {
            match last_of(&self.inner.store, *kind) {
                Ok(Some(last)) => self.recall(*kind, &last),
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not read when the last `{kind}` was"
                ),
            }
        }
    }

    fn recall(&self, kind: Kind, last: &Record) {
        let (at, took) = (
            Duration::from_secs(last.at),
            Duration::from_secs(last.seconds),
        );
        let well_at = last.ok_at.map(Duration::from_secs);
        self.metrics().job_known(kind.label(), at, well_at, took);
        let report = last.report.clone().filter(|_| kind == Kind::Verify);
        if let Some(Ok(report)) = report.map(serde_json::from_value::<VerifyReport>) {
            self.tell_findings(&report);
        }
    }
}

fn keep(
    store: &crate::store::Store,
    kind: Kind,
    at: u64,
    seconds: u64,
    is_well: bool,
    outcome: Result<Report, JobError>,
) -> Result<(), crate::store::Error> {
    let last = last_of(store, kind)?;
    let (report, error) = match outcome {
        Ok(report) => (serde_json::to_value(report).ok(), None),
        Err(error) => (None, Some(error)),
    };
    let record = Record {
        at,
        ok_at: if is_well {
            Some(at)
        } else {
            last.and_then(|last| last.ok_at)
        },
        seconds,
        report: report.map(fitting),
        error,
    };
    // Plain data always becomes JSON.
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    store.keep(
        Table::Reports,
        vec![(kind.as_str().to_owned(), Some(bytes))],
    )
}

/// The report, with its lists cut short where it is too large to keep.
fn fitting(mut report: serde_json::Value) -> serde_json::Value {
    if report.to_string().len() > MOST_KEPT_BYTES {
        shorten(&mut report);
    }
    if report.to_string().len() > MOST_KEPT_BYTES {
        return serde_json::Value::Null;
    }
    report
}

fn shorten(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => {
            items.truncate(KEPT_OF_LISTS);
            items.iter_mut().for_each(shorten);
        }
        serde_json::Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn admit(registry: &Registry, kind: Kind) -> Result<Admitted, JobError> {
        registry.admit(kind, "x", "user 7", NOW, &Teller::silent())
    }

    #[test]
    fn of_each_kind_one_runs_and_nothing_is_removed_beside_what_needs_it() {
        let registry = Registry::default();
        let sync = admit(&registry, Kind::Sync).unwrap();
        let error = admit(&registry, Kind::Sync).unwrap_err();
        assert!(error.message.contains("user 7"), "{error}");
        assert!(admit(&registry, Kind::Gc).is_err());
        drop(sync);
        let gc = admit(&registry, Kind::Gc).unwrap();
        for kind in [
            Kind::Sync,
            Kind::Import,
            Kind::Export,
            Kind::Backup,
            Kind::Pin,
            Kind::Gc,
        ] {
            assert!(admit(&registry, kind).is_err(), "{kind}");
        }
        let reads = [Kind::Read, Kind::Read].map(|kind| admit(&registry, kind).unwrap());
        assert_eq!(registry.running().len(), 3);
        drop((gc, reads));
        assert!(!registry.is_busy());
    }

    #[test]
    fn the_end_of_the_program_cancels_all_and_admits_none() {
        let registry = Registry::default();
        let teller = Teller::silent();
        let job = registry
            .admit(Kind::Sync, "sync", "me", NOW, &teller)
            .unwrap();
        registry.stop();
        assert!(teller.is_cancelled());
        drop(job);
        let error = admit(&registry, Kind::Read).unwrap_err();
        assert_eq!(error, stopping());
    }

    /// What a job hears that comes while another of its kind still runs for a moment.
    fn come_second(kind: Kind) -> Result<(), JobError> {
        let registry = Registry::default();
        let first = admit(&registry, kind).unwrap();
        let teller = Teller::silent();
        let (clock, mut first) = (Clock::start(), Some(first));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let second = registry.admit_in_turn(kind, "x", "user 8", clock, &teller);
            let end_first = async {
                tokio::time::sleep(Duration::from_millis(120)).await;
                drop(first.take());
            };
            let (second, ()) = futures_util::future::join(second, end_first).await;
            second.map(drop)
        })
    }

    #[test]
    fn of_two_pins_the_second_waits_for_its_turn_and_a_sync_is_refused() {
        come_second(Kind::Pin).unwrap();
        assert!(come_second(Kind::Sync).is_err());
    }

    #[test]
    fn who_waits_for_a_turn_can_go_and_goes_at_the_end() {
        let registry = Registry::default();
        let _first = admit(&registry, Kind::Pin).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let teller = Teller::silent();
        teller.cancelled.cancel();
        let clock = Clock::start();
        let waits = registry.admit_in_turn(Kind::Pin, "x", "me", clock, &teller);
        let error = runtime.block_on(waits).unwrap_err();
        assert_eq!(error.fault, Fault::Cancelled);
        registry.stop();
        let teller = Teller::silent();
        let waits = registry.admit_in_turn(Kind::Pin, "x", "me", clock, &teller);
        assert_eq!(runtime.block_on(waits).unwrap_err(), stopping());
    }

    #[test]
    fn how_far_a_job_is_can_be_seen() {
        let registry = Registry::default();
        let job = admit(&registry, Kind::Sync).unwrap();
        let teller = job.overhear(Teller::silent());
        teller.phase("fetching", super::super::Unit::Crates, Some(9));
        teller.progress(4, Some(9), 77);
        let running = registry.running().remove(0);
        assert_eq!(
            (running.phase.as_str(), running.done, running.total),
            ("fetching", 4, Some(9))
        );
        let error = admit(&registry, Kind::Sync).unwrap_err();
        assert!(
            error.message.contains("fetching: 4 of 9 done"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_report_that_is_too_large_keeps_the_begin_of_its_lists() {
        let long = vec!["x".repeat(100); 10_000];
        let kept = fitting(serde_json::json!({"failed": long, "fetched": 7}));
        assert_eq!(kept["failed"].as_array().unwrap().len(), KEPT_OF_LISTS);
        assert_eq!(kept["fetched"], 7);
    }
}
