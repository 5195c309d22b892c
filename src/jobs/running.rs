//! Which jobs run: who may begin beside whom, and how far each is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Event, JobContext},
    error::{Fault, JobError},
    kind::JobKind,
};
use crate::util::{
    clock::Clock,
    format::{exact_span, seconds},
};

/// How long a short job waits for one that is in its way, which is short as well.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// How often it looks whether it is its turn.
const TURN_CHECK: Duration = Duration::from_millis(50);

/// Jobs of these kinds need that nothing is removed meanwhile.
const NOT_BESIDE_GC: [JobKind; 5] = [
    JobKind::Import,
    JobKind::Export,
    JobKind::Backup,
    JobKind::Sync,
    JobKind::Pin,
];

/// A job that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningJob {
    /// Its kind.
    pub kind: JobKind,
    /// The command that asked for it.
    pub command: String,
    /// Who asked for it, in words.
    #[serde(rename = "asker")]
    pub caller: String,
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

/// Which jobs run. Cloning it is cheap, and all clones are one.
#[derive(Debug, Clone, Default)]
pub struct RunningJobs {
    jobs: Arc<Mutex<Vec<Entry>>>,
    last_id: Arc<AtomicU64>,
    is_stopping: Arc<AtomicBool>,
    /// Whether the end of the program cancelled one that fetches.
    has_cut: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    cancelled: CancellationToken,
    running: RunningJob,
}

/// A place in the list, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    jobs: Arc<Mutex<Vec<Entry>>>,
    id: u64,
    pub(super) kind: JobKind,
    pub(super) command: &'static str,
    pub(super) began: Instant,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.jobs.lock().retain(|entry| entry.id != self.id);
    }
}

impl RunningJobs {
    /// The oldest first.
    pub fn list(&self) -> Vec<RunningJob> {
        let jobs = self.jobs.lock();
        jobs.iter().map(|entry| entry.running.clone()).collect()
    }

    /// Whether a job runs.
    pub fn is_busy(&self) -> bool {
        !self.jobs.lock().is_empty()
    }

    /// Asks every job to end, and takes no further ones: the end of the program is near.
    pub fn stop(&self) {
        // Under the lock: who is admitted after it sees the flag.
        let jobs = self.jobs.lock();
        self.is_stopping.store(true, Ordering::SeqCst);
        for entry in jobs.iter() {
            if entry.running.kind != JobKind::Read {
                self.has_cut.store(true, Ordering::SeqCst);
            }
            entry.cancelled.cancel();
        }
    }

    /// Whether fetches may be under way that nobody waits for any more.
    pub fn has_cut(&self) -> bool {
        self.has_cut.load(Ordering::SeqCst)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Admits a job; a short one waits some seconds for its turn, so that two people who pin at the
    /// same time are both served.
    pub(super) async fn admit_in_turn(
        &self,
        kind: JobKind,
        command: &'static str,
        caller: &str,
        clock: Clock,
        cx: &JobContext,
    ) -> Result<Admitted, JobError> {
        let until = Instant::now() + TURN_WAIT;
        let mut is_told = false;
        loop {
            let outcome = self.admit(kind, command, caller, clock.now(), cx);
            let waits = kind == JobKind::Pin && !self.is_stopping() && Instant::now() < until;
            match outcome {
                Err(in_the_way) if waits => {
                    if !std::mem::replace(&mut is_told, true) {
                        cx.note(format!("waits: {in_the_way}"));
                    }
                }
                outcome => return outcome,
            }
            cx.check_cancelled()?;
            tokio::time::sleep(TURN_CHECK).await;
        }
    }

    fn admit(
        &self,
        kind: JobKind,
        command: &'static str,
        caller: &str,
        now: SystemTime,
        cx: &JobContext,
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
            cancelled: cx.cancel().clone(),
            running: RunningJob {
                kind,
                command: command.to_owned(),
                caller: caller.to_owned(),
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
    /// `cx`, whose events also update how far the job is in the list.
    pub(super) fn observe(&self, cx: &JobContext) -> JobContext {
        let (jobs, id, inner) = (Arc::clone(&self.jobs), self.id, cx.clone());
        cx.with_listener(Arc::new(move |event: Event| {
            note(&jobs, id, &event);
            inner.send(event);
        }))
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
fn excludes(one: JobKind, other: JobKind) -> bool {
    let beside_gc = |kind| NOT_BESIDE_GC.contains(&kind);
    match (one, other) {
        (JobKind::Read, _) => false,
        (JobKind::Gc, other) if beside_gc(other) => true,
        (one, JobKind::Gc) if beside_gc(one) => true,
        (one, other) => one == other,
    }
}

fn refusal(kind: JobKind, other: &RunningJob, now: SystemTime) -> JobError {
    let age = seconds(now).saturating_sub(other.since);
    let age = exact_span(Duration::from_secs(age));
    let doing = match (other.phase.as_str(), other.total) {
        ("", _) => String::new(),
        (phase, None) => format!(", {phase}: {} done", other.done),
        (phase, Some(total)) => format!(", {phase}: {} of {total} done", other.done),
    };
    let message = format!(
        "`{}` runs since {age}, asked for by {}{doing}; beside it no `{kind}` may begin",
        other.command, other.caller
    );
    JobError::new(Fault::Unavailable, message)
        .hint("wait until it is over, or end it with Ctrl-C where it was started")
}

/// What is said to whoever asks for something while the server ends.
pub fn stopping() -> JobError {
    JobError::new(Fault::Unavailable, "the server is stopping")
        .hint("what was done is kept; try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn admit(registry: &RunningJobs, kind: JobKind) -> Result<Admitted, JobError> {
        registry.admit(kind, "x", "user 7", NOW, &JobContext::of_test())
    }

    #[test]
    fn of_each_kind_one_runs_and_nothing_is_removed_beside_what_needs_it() {
        let registry = RunningJobs::default();
        let sync = admit(&registry, JobKind::Sync).unwrap();
        let error = admit(&registry, JobKind::Sync).unwrap_err();
        assert!(error.message.contains("user 7"), "{error}");
        assert!(admit(&registry, JobKind::Gc).is_err());
        drop(sync);
        let gc = admit(&registry, JobKind::Gc).unwrap();
        for kind in [
            JobKind::Sync,
            JobKind::Import,
            JobKind::Export,
            JobKind::Backup,
            JobKind::Pin,
            JobKind::Gc,
        ] {
            assert!(admit(&registry, kind).is_err(), "{kind}");
        }
        let reads = [JobKind::Read, JobKind::Read].map(|kind| admit(&registry, kind).unwrap());
        assert_eq!(registry.list().len(), 3);
        drop((gc, reads));
        assert!(!registry.is_busy());
    }

    #[test]
    fn the_end_of_the_program_cancels_all_and_admits_none() {
        let registry = RunningJobs::default();
        let cx = JobContext::of_test();
        let job = registry
            .admit(JobKind::Sync, "sync", "me", NOW, &cx)
            .unwrap();
        registry.stop();
        assert!(cx.is_cancelled());
        drop(job);
        let error = admit(&registry, JobKind::Read).unwrap_err();
        assert_eq!(error, stopping());
    }

    /// What a job hears that comes while another of its kind still runs for a moment.
    fn come_second(kind: JobKind) -> Result<(), JobError> {
        let registry = RunningJobs::default();
        let first = admit(&registry, kind).unwrap();
        let cx = JobContext::of_test();
        let (clock, mut first) = (Clock::start(), Some(first));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let second = registry.admit_in_turn(kind, "x", "user 8", clock, &cx);
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
        come_second(JobKind::Pin).unwrap();
        assert!(come_second(JobKind::Sync).is_err());
    }

    #[test]
    fn who_waits_for_a_turn_can_go_and_goes_at_the_end() {
        let registry = RunningJobs::default();
        let _first = admit(&registry, JobKind::Pin).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let cx = JobContext::of_test();
        cx.cancel().cancel();
        let clock = Clock::start();
        let waits = registry.admit_in_turn(JobKind::Pin, "x", "me", clock, &cx);
        let error = runtime.block_on(waits).unwrap_err();
        assert_eq!(error.fault, Fault::Cancelled);
        registry.stop();
        let cx = JobContext::of_test();
        let waits = registry.admit_in_turn(JobKind::Pin, "x", "me", clock, &cx);
        assert_eq!(runtime.block_on(waits).unwrap_err(), stopping());
    }

    #[test]
    fn how_far_a_job_is_can_be_seen() {
        let registry = RunningJobs::default();
        let job = admit(&registry, JobKind::Sync).unwrap();
        let cx = job.observe(&JobContext::of_test());
        cx.phase("fetching", super::super::context::Unit::Crates, Some(9));
        cx.progress(4, Some(9), 77);
        let running = registry.list().remove(0);
        assert_eq!(
            (running.phase.as_str(), running.done, running.total),
            ("fetching", 4, Some(9))
        );
        let error = admit(&registry, JobKind::Sync).unwrap_err();
        assert!(
            error.message.contains("fetching: 4 of 9 done"),
            "{}",
            error.message
        );
    }
}
