//! The mirror in numbers.

use std::{ops::ControlFlow, time::Duration};

use serde::{Deserialize, Serialize};

use super::VerifyReport;
use crate::util::json::read_json;
use crate::{
    git_index::GitState,
    jobs::{
        Fault, JobError, JobRecord, RunningJob, Services,
        context::JobContext,
        job::{Job, JobReport},
        kind::JobKind,
        saved_sets::{saved_set, set_names},
        sync::{SetRun, set_run},
    },
    store::Table,
    upstream::{BreakerState, HostHealth},
    util::format::seconds,
};

/// How many failures a report lists; all are counted.
const MAX_LISTED: usize = 20;

/// Asks for numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatsRequest {}

/// The mirror in numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatsReport {
    /// The version of the program that has the store.
    pub version: String,
    /// The mode.
    pub mode: String,
    /// Seconds since its start.
    pub uptime: u64,
    /// Names known.
    pub names: u64,
    /// Releases in the index.
    pub versions: u64,
    /// Of them held.
    pub held: u64,
    /// Crate files held, also those that are no longer in force.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Whether writes are taken.
    pub writable: bool,
    /// Damaged records found since the start.
    pub damaged: u64,
    /// Upstream's index, without credentials.
    pub upstream: String,
    /// The host of the index.
    pub index: UpstreamHost,
    /// The host of downloads.
    pub downloads: UpstreamHost,
    /// How upstream's git index is followed; `None`: it is not.
    pub follow: Option<Followed>,
    /// The git index; `None`: it is switched off.
    pub git: Option<GitIndex>,
    /// The saved sets.
    pub sets: Vec<SetStats>,
    /// How many pins there are.
    pub pins: u64,
    /// How many failures are recorded.
    pub failures: u64,
    /// The first 20 of them.
    pub first_failures: Vec<RecordedFailure>,
    /// What the last `verify` found; `None`: there was none that came to its end.
    #[serde(default)]
    pub verified: Option<Verified>,
    /// Jobs that run now.
    pub running: Vec<RunningJob>,
    /// The last run of each kind of job, the newest first.
    pub last: Vec<JobStats>,
}

impl JobReport for StatsReport {
    const NAME: &'static str = "stats";

    fn has_problems(&self) -> bool {
        let is_damaged = |verified: &Verified| verified.problems > 0;
        self.failures > 0 || !self.writable || self.verified.as_ref().is_some_and(is_damaged)
    }
}

/// How a host of upstream fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamHost {
    /// Whether it is given a rest because it failed.
    pub resting: bool,
    /// Seconds since it last answered.
    pub last_success: Option<u64>,
    /// Seconds since it last failed.
    pub last_failure: Option<u64>,
    /// How.
    pub cause: Option<String>,
    /// Milliseconds to the head of an answer.
    pub latency_ms: Option<u64>,
}

impl UpstreamHost {
    fn of(health: &HostHealth) -> UpstreamHost {
        UpstreamHost {
            resting: health.breaker != BreakerState::Closed,
            last_success: health.last_success.map(|ago| ago.as_secs()),
            last_failure: health.last_failure.as_ref().map(|(ago, _)| ago.as_secs()),
            cause: health.last_failure.as_ref().map(|(_, why)| why.clone()),
            latency_ms: health.latency.map(millis),
        }
    }
}

/// How a git index is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// The commit whose changes are all here.
    pub commit: Option<String>,
    /// When upstream last said that it is its newest, in seconds since 1970.
    pub at: Option<u64>,
}

/// The git index that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitIndex {
    /// In a word: `ready`, `empty`, `no-base`, `being-made`.
    pub state: String,
    /// The newest commit.
    pub commit: Option<String>,
    /// Its generation.
    pub generation: u64,
    /// Bytes of the repository.
    pub bytes: u64,
    /// Names that wait for the next generation.
    pub staged: u64,
    /// Why the last cut failed.
    pub failing: Option<String>,
}

/// A saved set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStats {
    /// Its name.
    pub name: String,
    /// When it was saved, in seconds since 1970.
    pub saved: u64,
    /// How it fared at its last sync.
    #[serde(default)]
    pub run: SetRun,
}

/// A failure that was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFailure {
    /// What failed: `name` or `name@version`.
    #[serde(default)]
    pub what: String,
    /// Why.
    #[serde(default)]
    pub cause: String,
    /// How often.
    #[serde(default)]
    pub count: u64,
    /// When it last did, in seconds since 1970.
    #[serde(default)]
    pub last: u64,
}

/// What the last `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// How many files were bad and stayed so.
    pub problems: u64,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// All of it was done.
    #[default]
    Well,
    /// It came to its end, and found or met problems.
    Problems,
    /// An error ended it.
    Failed,
    /// Somebody, or the end of the server, ended it.
    Cancelled,
}

/// The last run of a kind of job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStats {
    /// The kind.
    #[serde(default)]
    pub kind: String,
    /// When it last ended, in seconds since 1970.
    #[serde(default)]
    pub at: Option<u64>,
    /// When it last ended well.
    #[serde(default)]
    pub ok_at: Option<u64>,
    /// How it last ended.
    #[serde(default)]
    pub ended: Ended,
}

impl JobStats {
    fn of(kind: &str, record: &JobRecord) -> JobStats {
        let ended = match &record.error {
            Some(error) if error.fault == Fault::Cancelled => Ended::Cancelled,
            // The end of the server ends jobs, too.
            Some(_) => Ended::Failed,
            None if record.ok_at == Some(record.at) => Ended::Well,
            None => Ended::Problems,
        };
        JobStats {
            kind: kind.to_owned(),
            at: Some(record.at),
            ok_at: record.ok_at,
            ended,
        }
    }
}

impl Verified {
    fn of(record: &JobRecord) -> Option<Verified> {
        let report = record.report.clone()?;
        let report: VerifyReport = serde_json::from_value(report).ok()?;
        Some(Verified {
            at: record.at,
            problems: report.bad(),
        })
    }
}

impl Job for StatsRequest {
    const NAME: &'static str = "stats";
    type Report = StatsReport;

    fn kind(&self) -> JobKind {
        JobKind::Read
    }

    async fn run(self, _cx: JobContext, services: Services) -> Result<StatsReport, JobError> {
        services.blocking(stats_now).await?
    }
}

fn stats_now(services: &Services) -> Result<StatsReport, JobError> {
    let mut report = status_stats(services);
    services
        .store
        .visit_releases(|_entry, releases| {
            for facts in releases {
                report.versions += u64::from(!facts.removed);
                report.held += u64::from(facts.held);
            }
            ControlFlow::Continue(())
        })
        .map_err(|error| JobError::store("the records", &error))?;
    kept_stats(services, &mut report, u64::MAX)?;
    Ok(report)
}

fn status_stats(services: &Services) -> StatsReport {
    let status = services.state();
    StatsReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: status.mode.to_string(),
        uptime: status.uptime.as_secs(),
        names: status.totals.names,
        blobs: status.totals.blobs,
        blob_bytes: status.totals.blob_bytes,
        free_bytes: status.totals.free_bytes,
        writable: status.totals.writable,
        damaged: status.totals.damaged,
        upstream: status.upstream_url,
        index: UpstreamHost::of(&status.upstream.index),
        downloads: UpstreamHost::of(&status.upstream.downloads),
        follow: status.follow.map(|follow| Followed {
            commit: follow.commit,
            at: follow.followed_at.map(seconds),
        }),
        git: status.git.map(|git| GitIndex {
            state: state_word(git.state).to_owned(),
            commit: git.head.map(|head| head.id.to_string()),
            generation: git.head.map_or(0, |head| head.generation),
            bytes: git.size_bytes,
            staged: git.staged,
            failing: git.failing,
        }),
        // This report is a job, too.
        running: services
            .running
            .list()
            .into_iter()
            .filter(|job| job.kind != JobKind::Read)
            .collect(),
        ..StatsReport::default()
    }
}

/// A number that rises with every change of what [`kept_stats`] reads.
pub fn kept_stats_changes(services: &Services) -> u64 {
    let tables = [Table::Pins, Table::Failures, Table::Reports, Table::Sets];
    services.store.kept_changes(&tables)
}

/// Adds what the store keeps to `report`: failures (as far as `most_failures`), sets, pins and the
/// last jobs. Blocks for the disk.
///
/// # Errors
/// Where the store cannot be read.
pub fn kept_stats(
    services: &Services,
    report: &mut StatsReport,
    most_failures: u64,
) -> Result<(), JobError> {
    let each = |table, take: &mut dyn FnMut(&str, &[u8]) -> bool| {
        services
            .store
            .kept_all(table, "", |key, bytes| {
                if take(key, bytes) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .map_err(|error| JobError::store("what it keeps", &error))
    };
    each(Table::Pins, &mut |_key, _bytes| {
        report.pins += 1;
        true
    })?;
    each(Table::Failures, &mut |key, bytes| {
        report.failures += 1;
        if report.first_failures.len() < MAX_LISTED {
            let read = read_json::<RecordedFailure>(bytes).unwrap_or_default();
            report.first_failures.push(RecordedFailure {
                what: key.to_owned(),
                ..read
            });
        }
        report.failures < most_failures
    })?;
    each(Table::Reports, &mut |kind, bytes| {
        // Other modules keep values of their own there.
        let known = serde_json::from_value::<JobKind>(kind.into());
        let Some(known) = known.ok().filter(|known| *known != JobKind::Read) else {
            return true;
        };
        let Some(record) = read_json::<JobRecord>(bytes) else {
            return true;
        };
        if known == JobKind::Verify {
            report.verified = Verified::of(&record);
        }
        report.last.push(JobStats::of(kind, &record));
        true
    })?;
    report.last.sort_by_key(|job| std::cmp::Reverse(job.at));
    for name in set_names(services)? {
        let saved = saved_set(services, &name)?.map_or(0, |set| set.saved_at);
        let run = set_run(services, &name);
        report.sets.push(SetStats { name, saved, run });
    }
    Ok(())
}

fn state_word(state: GitState) -> &'static str {
    match state {
        GitState::NoBase => "no-base",
        GitState::Empty => "empty",
        GitState::BeingMade => "being-made",
        GitState::Ready => "ready",
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
