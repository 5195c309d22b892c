//! Every series, declared once; the doc comment is the help text. Hides prometheus: no other module names it.
//!
//! Counters move when things happen, through the methods here. Gauges are read off their owners
//! at scrape time and come in as [`Gauges`]: nothing keeps a second copy of a number.
//!
//! No crate name, address or token is ever a label: the number of series does not grow with use.

mod labels;
mod traffic;

use std::time::Duration;

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use labels::{
    Arrival, CacheResult, Codec, Content, Direction, Endpoint, Finding, FollowOutcome, Form,
    GitProtocol, GitRequest, GitResult, Host, Job, JobResult, JournalEvent, Kind, Outcome,
    Protocol, ServingMode, SetAside, SyncResult, Verified,
};
pub use traffic::Traffic;

/// Buckets of request durations, in seconds. A ready answer takes tens of microseconds, a stored
/// crate about one millisecond, a fetch from upstream up to cargo's limit of 30 s: each decade
/// between has two steps, so that a quantile is never off by more than a factor of about three.
const DURATION_BUCKETS_SECONDS: &[f64] = &[
    0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0,
];

/// What clients are served of that upstream need not send each time.
const SAVED: [Kind; 3] = [Kind::Index, Kind::Crate, Kind::Git];

/// Declares [`Metrics`]: for each series its help (the doc comment), type, name and labels.
macro_rules! series {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ident($name:literal $(, $label:literal)*);)+) => {
        /// Every series that orlop exports and counts by itself.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ $field: $kind,)+
        }

        impl Metrics {
            fn declare() -> Result<Metrics, prometheus::Error> {
                let registry = Registry::new();
                $(
                    let $field = series!(@new $kind, $name, concat!($($help),+).trim(), &[$($label),*]);
                    registry.register(Box::new($field.clone()))?;
                )+
                Ok(Metrics { registry, $($field,)+ })
            }
        }
    };
    (@new IntCounterVec, $name:literal, $help:expr, $labels:expr) => {
        IntCounterVec::new(Opts::new($name, $help), $labels)?
    };
    (@new HistogramVec, $name:literal, $help:expr, $labels:expr) => {
        HistogramVec::new(
            HistogramOpts::new($name, $help).buckets(DURATION_BUCKETS_SECONDS.to_vec()),
            $labels,
        )?
    };
    (@new GaugeVec, $name:literal, $help:expr, $labels:expr) => {
        GaugeVec::new(Opts::new($name, $help), $labels)?
    };
    (@new IntCounter, $name:literal, $help:expr, $labels:expr) => {
        IntCounter::with_opts(Opts::new($name, $help))?
    };
    (@new IntGaugeVec, $name:literal, $help:expr, $labels:expr) => {
        IntGaugeVec::new(Opts::new($name, $help), $labels)?
    };
    (@new IntGauge, $name:literal, $help:expr, $labels:expr) => {
        IntGauge::with_opts(Opts::new($name, $help))?
    };
    (@new Gauge, $name:literal, $help:expr, $labels:expr) => {
        Gauge::with_opts(Opts::new($name, $help))?
    };
}

series! {
    /// Requests answered, by what they were for, the protocol and the status.
    http_requests: IntCounterVec("orlop_http_requests_total", "endpoint", "protocol", "status");
    /// Time from a request's head to the head of its answer.
    http_duration: HistogramVec("orlop_http_request_duration_seconds", "endpoint", "protocol");
    /// Bytes of answer bodies handed to clients.
    http_body_bytes: IntCounterVec("orlop_http_response_bytes_total", "endpoint");
    /// Connections accepted, by how they came to their protocol.
    connections: IntCounterVec("orlop_connections_total", "protocol");
    /// Connections open now.
    connections_open: IntGauge("orlop_connections_open");
    /// Connections turned away because too many were open.
    connections_refused: IntCounter("orlop_connections_refused_total");
    /// Answers by where they came from.
    cache_results: IntCounterVec("orlop_cache_results_total", "kind", "result");
    /// Bytes of answer bodies for which upstream sent none: what was held, what was still right, what others were waiting for, and the git index.
    saved_bytes: IntCounterVec("orlop_saved_bytes_total", "kind");
    /// Requests to upstream, by how they ended.
    upstream_requests: IntCounterVec("orlop_upstream_requests_total", "kind", "outcome");
    /// Time of a request to upstream until its last byte, or until it failed.
    upstream_duration: HistogramVec("orlop_upstream_request_duration_seconds", "kind");
    /// Bytes of bodies received from upstream, unpacked: index files mostly come compressed, and took less on the line.
    upstream_bytes: IntCounterVec("orlop_upstream_received_bytes_total", "kind");
    /// 1 while the breaker keeps requests from this host of upstream, else 0.
    breaker_open: IntGaugeVec("orlop_upstream_breaker_open", "host");
    /// 0 while the last request to this host of upstream failed or the breaker is open, else 1; 1 where none was sent.
    upstream_up: IntGaugeVec("orlop_upstream_up", "host");
    /// When this host of upstream last answered, in seconds since 1970; 0 where it has not since the start.
    upstream_success: GaugeVec("orlop_upstream_last_success_timestamp_seconds", "host");
    /// What is done when upstream cannot be asked: 1 for the mode in force, 0 for the others.
    mode: IntGaugeVec("orlop_mode", "mode");
    /// When upstream's index last answered, or the index that is followed was last wholly in the store, in seconds since 1970; 0 where neither is known.
    index_checked: Gauge("orlop_index_checked_timestamp_seconds");
    /// Age of the oldest index entry that was served too old within the last five to ten minutes; 0 where none was.
    oldest_stale: Gauge("orlop_index_oldest_stale_seconds");
    /// What upstream did and the journal keeps, by kind.
    journal_events: IntCounterVec("orlop_journal_events_total", "event");
    /// Files that were not what the index promises: wrong checksum, short or over-long. None was kept.
    mismatches: IntCounter("orlop_store_mismatches_total");
    /// Stored files found damaged when they were to be served. They are fetched again.
    damaged_blobs: IntCounter("orlop_store_damaged_blobs_total");
    /// Releases that syncs dealt with, by what came of them.
    sync_releases: IntCounterVec("orlop_sync_releases_total", "result");
    /// Releases and names that could not be fetched ahead so far and are tried again.
    sync_failures: IntGauge("orlop_sync_failures");
    /// Crates whose index entry is in the store.
    names: IntGauge("orlop_store_names");
    /// Releases, by what is there of them: known is each that was ever in the index, held those with their crate file.
    releases: IntGaugeVec("orlop_store_releases", "state");
    /// Crate files in the store.
    blobs: IntGauge("orlop_store_blobs");
    /// Bytes in the store by content and codec: original as they came and are served, stored as they are on the disk.
    store_bytes: IntGaugeVec("orlop_store_bytes", "content", "codec", "form");
    /// Records of the index database that were found damaged. They are fetched again.
    damaged_records: IntCounter("orlop_store_damaged_records_total");
    /// Databases and repositories that could not be used, were made again, and are kept to be looked into.
    set_aside: IntGaugeVec("orlop_set_aside", "what");
    /// Bytes free for orlop in the file system of the store, its reserve already taken off.
    free_bytes: IntGauge("orlop_store_free_bytes");
    /// Bytes of the whole file system of the store; 0 where it does not tell.
    disk_bytes: IntGauge("orlop_store_disk_bytes");
    /// 1 while the store takes writes; 0 when the disk is full or a write failed.
    writable: IntGauge("orlop_store_writable");
    /// Number of the newest generation of the git index, 0 before the first.
    generation: IntGauge("orlop_generation");
    /// Names that changed since the newest generation of the git index.
    generation_staged: IntGauge("orlop_generation_staged_names");
    /// Time to make a generation: reading what changed, the commit, the record.
    generation_duration: HistogramVec("orlop_generation_duration_seconds");
    /// When the newest generation of the git index was made, in seconds since 1970; 0 before the first.
    generation_at: Gauge("orlop_generation_timestamp_seconds");
    /// 1 while the last try to make a generation failed, else 0.
    generation_failing: IntGauge("orlop_generation_failing");
    /// Generations that could not be made. Each is tried again, and nothing of it is lost.
    generation_failures: IntCounter("orlop_generation_failures_total");
    /// Commits made to the git indexes of views.
    view_commits: IntCounter("orlop_view_commits_total");
    /// Times that the git index of a view could not be brought up to date. Each is tried again.
    view_commit_failures: IntCounter("orlop_view_commit_failures_total");
    /// Bytes of the repository of the git index.
    git_repository_bytes: IntGauge("orlop_git_repository_bytes");
    /// Ready answers held in memory, in bytes.
    hot_bytes: IntGauge("orlop_hot_cache_bytes");
    /// Requests of git clients, by what they asked for, the version of git's protocol and how they ended.
    git_requests: IntCounterVec("orlop_git_requests_total", "request", "protocol", "result");
    /// Bytes of packs handed to git clients, without their framing.
    git_pack_bytes: IntCounter("orlop_git_pack_bytes_total");
    /// Looks at the upstream's git index, by how they ended.
    follows: IntCounterVec("orlop_index_follows_total", "outcome");
    /// Names that changed in the upstream's git index and were published.
    followed_names: IntCounter("orlop_index_followed_names_total");
    /// When the upstream's git index was last wholly in the store, in seconds since 1970; 0 where none is followed.
    followed_at: Gauge("orlop_index_followed_timestamp_seconds");
    /// Stored files that a verification hashed, by what it found.
    verified_blobs: IntCounterVec("orlop_verify_blobs_total", "result");
    /// What the last verification found, by kind; 0 where none has ended.
    findings: IntGaugeVec("orlop_verify_findings", "finding");
    /// How much of what the last verification found it left unrepaired; 0 where none has ended.
    unrepaired: IntGauge("orlop_verify_unrepaired");
    /// Bytes of bundles that were written or read.
    bundle_bytes: IntCounterVec("orlop_bundle_bytes_total", "direction");
    /// Jobs that run now: fetching ahead, bundles, upkeep.
    jobs_running: GaugeVec("orlop_jobs_running", "kind");
    /// How far the job of this kind is in its present phase, in what the phase counts; 0 where none runs.
    job_done: IntGaugeVec("orlop_job_done", "kind");
    /// How much the present phase of the job of this kind has to do; 0 where none runs, or it is not known.
    job_planned: IntGaugeVec("orlop_job_planned", "kind");
    /// Jobs that ended, by how.
    jobs_ended: IntCounterVec("orlop_jobs_total", "kind", "result");
    /// How often saved sets are fetched again by the schedule; 0 where they are not, or none is saved.
    sync_interval: Gauge("orlop_sync_interval_seconds");
    /// When all saved sets were last up to date, in seconds since 1970: their last sync that went well, or before any when the first was noticed; 0 where none is saved.
    sync_up_to_date: Gauge("orlop_sync_up_to_date_timestamp_seconds");
    /// When a job of this kind last ended well and without problems, in seconds since 1970; 0 where none has.
    job_success: GaugeVec("orlop_job_last_success_timestamp_seconds", "kind");
    /// When a job of this kind last ended in whatever way, in seconds since 1970; 0 where none has.
    job_attempt: GaugeVec("orlop_job_last_attempt_timestamp_seconds", "kind");
    /// How long the last job of this kind took.
    job_duration: GaugeVec("orlop_job_duration_seconds", "kind");
    /// 1, with the version of the program as a label.
    build_info: IntGaugeVec("orlop_build_info", "version");
    /// Time since the program was started.
    uptime: Gauge("orlop_uptime_seconds");
}

/// What is read off its owner when the metrics are scraped.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Connections open now.
    pub connections_open: u64,
    /// Connections accepted since the start, by arrival.
    pub connections: Vec<(Arrival, u64)>,
    /// Connections turned away since the start.
    pub connections_refused: u64,
    /// How the hosts of upstream fare.
    pub hosts: Vec<(Host, HostGauges)>,
    /// The mode in force.
    pub mode: Option<ServingMode>,
    /// When upstream's index last answered, since 1970.
    pub index_checked: Option<Duration>,
    /// Age of the oldest entry that was served stale of late.
    pub oldest_stale: Option<Duration>,
    /// What upstream did since the start.
    pub journal_events: Vec<(JournalEvent, u64)>,
    /// Names in the store.
    pub names: u64,
    /// Releases that were ever seen.
    pub releases: u64,
    /// Releases whose crate file is held.
    pub releases_held: u64,
    /// Blobs in the store.
    pub blobs: u64,
    /// Bytes in the store, by what they are: original and stored.
    pub store_bytes: Vec<(Content, u64, u64)>,
    /// Records found damaged since the start.
    pub damaged_records: u64,
    /// What lies aside.
    pub set_aside: Vec<(SetAside, u64)>,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes of the whole disk.
    pub disk_bytes: u64,
    /// Whether the store takes writes.
    pub writable: bool,
    /// The newest generation.
    pub generation: u64,
    /// When it was made, since 1970.
    pub generation_at: Option<Duration>,
    /// Whether the last try to make one failed.
    pub is_generation_failing: bool,
    /// Names that wait for the next one.
    pub generation_staged: u64,
    /// Bytes of the repository.
    pub git_repository_bytes: u64,
    /// Bytes of ready answers.
    pub hot_bytes: u64,
    /// When the upstream's git index was last wholly in the store, since 1970.
    pub followed_at: Option<Duration>,
    /// Jobs that run now.
    pub jobs: Vec<JobGauges>,
    /// How often saved sets are fetched again; zero: they are not.
    pub sync_interval: Duration,
    /// When all saved sets were last up to date, since 1970.
    pub sync_up_to_date: Option<Duration>,
    /// Time since the start.
    pub uptime: Duration,
}

/// How a host of upstream fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostGauges {
    /// Whether the last request to it went well, and nothing keeps the next one back.
    pub is_up: bool,
    /// Whether the breaker is open.
    pub is_breaker_open: bool,
    /// When it last answered, since 1970.
    pub last_success: Option<Duration>,
}

/// A job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobGauges {
    /// Its kind.
    pub kind: Job,
    /// How far it is in its phase.
    pub done: u64,
    /// How much that phase has to do.
    pub planned: Option<u64>,
}

impl Metrics {
    /// A set of series, all at zero.
    ///
    /// # Errors
    /// Only if a series is declared twice or wrongly, which a test of this module would have shown.
    pub fn new() -> Result<Metrics, InvalidSeries> {
        let metrics = Metrics::declare().map_err(InvalidSeries)?;
        #[cfg(target_os = "linux")]
        metrics
            .registry
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .map_err(InvalidSeries)?;
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// Exports every pair of labels from the start, so that a rate over the first event is right.
    fn start_at_zero(&self) {
        self.start_clients();
        self.start_upstream();
        self.start_store();
        self.start_jobs();
        self.build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
    }

    fn start_clients(&self) {
        for endpoint in Endpoint::ALL {
            self.http_body_bytes
                .with_label_values(&[endpoint.as_str()])
                .inc_by(0);
            for protocol in Protocol::ALL {
                let labels = [endpoint.as_str(), protocol.as_str()];
                drop(self.http_duration.with_label_values(&labels));
                for status in endpoint.usual_statuses() {
                    let mut digits = [0; 3];
                    let [endpoint, protocol] = labels;
                    let labels = [endpoint, protocol, status_text(*status, &mut digits)];
                    self.http_requests.with_label_values(&labels).inc_by(0);
                }
            }
        }
        for arrival in Arrival::ALL {
            let series = &self.connections;
            series.with_label_values(&[arrival.as_str()]).inc_by(0);
        }
        for kind in SAVED {
            self.saved_bytes(kind, 0);
        }
        for request in GitRequest::ALL {
            let protocols = GitProtocol::ALL.iter();
            for protocol in protocols.filter(|protocol| request.is_in(**protocol)) {
                for result in request.results() {
                    let counter = self.git_request_counter(*request, *protocol, *result);
                    counter.inc_by(0);
                }
            }
        }
    }

    fn start_upstream(&self) {
        for kind in Kind::ALL {
            drop(self.upstream_duration.with_label_values(&[kind.as_str()]));
            self.upstream_bytes(*kind, 0);
            for result in kind.results() {
                let labels = [kind.as_str(), result.as_str()];
                self.cache_results.with_label_values(&labels).inc_by(0);
            }
            let outcomes = Outcome::ALL.iter();
            for outcome in outcomes.filter(|outcome| kind.can_end(**outcome)) {
                let labels = [kind.as_str(), outcome.as_str()];
                self.upstream_requests.with_label_values(&labels).inc_by(0);
            }
        }
        for host in Host::ALL {
            self.set_host(*host, &HostGauges::default());
        }
        for mode in ServingMode::ALL {
            self.mode.with_label_values(&[mode.as_str()]).set(0);
        }
        for event in JournalEvent::ALL {
            let series = &self.journal_events;
            series.with_label_values(&[event.as_str()]).inc_by(0);
        }
        for outcome in FollowOutcome::ALL {
            let series = &self.follows;
            series.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
    }

    fn start_store(&self) {
        for content in Content::ALL {
            self.set_store_bytes(*content, 0, 0);
        }
        self.set_releases(0, 0);
        for what in SetAside::ALL {
            self.set_aside.with_label_values(&[what.as_str()]).set(0);
        }
        drop(self.generation_duration.with_label_values::<&str>(&[]));
        for result in Verified::ALL {
            self.verified(*result, 0);
        }
        for finding in Finding::ALL {
            self.findings.with_label_values(&[finding.as_str()]).set(0);
        }
    }

    fn start_jobs(&self) {
        for direction in Direction::ALL {
            self.bundled(*direction, 0);
        }
        self.synced(0, 0, 0);
        for job in Job::ALL {
            let label = [job.as_str()];
            self.set_job(*job, &[]);
            for series in [&self.job_success, &self.job_attempt, &self.job_duration] {
                series.with_label_values(&label).set(0.0);
            }
            for result in JobResult::ALL {
                let labels = [job.as_str(), result.as_str()];
                self.jobs_ended.with_label_values(&labels).inc_by(0);
            }
        }
    }

    /// Counts an answered request. `duration` runs to the head of the answer.
    pub fn request(&self, endpoint: Endpoint, protocol: Protocol, status: u16, duration: Duration) {
        let mut digits = [0; 3];
        let labels = [
            endpoint.as_str(),
            protocol.as_str(),
            status_text(status, &mut digits),
        ];
        self.http_requests.with_label_values(&labels).inc();
        self.http_duration
            .with_label_values(&labels[..2])
            .observe(duration.as_secs_f64());
    }

    /// Counts bytes of an answer's body that were handed to a client.
    pub fn response_bytes(&self, endpoint: Endpoint, bytes: u64) {
        self.http_body_bytes
            .with_label_values(&[endpoint.as_str()])
            .inc_by(bytes);
    }

    /// Counts bytes of an answer's body for which upstream sent none.
    pub fn saved_bytes(&self, kind: Kind, bytes: u64) {
        self.saved_bytes
            .with_label_values(&[kind.as_str()])
            .inc_by(bytes);
    }

    /// What counts the bytes of a body whose length is not known before its end. `saved`: of what
    /// kind it is, if upstream sent nothing for it.
    pub fn body(&self, endpoint: Endpoint, saved: Option<Kind>) -> BodyCounters {
        BodyCounters {
            bytes: self.http_body_bytes.with_label_values(&[endpoint.as_str()]),
            saved: saved.map(|kind| self.saved_bytes.with_label_values(&[kind.as_str()])),
        }
    }

    /// The counters of one kind of request, looked up once: for the path that answers from memory.
    pub fn ready(
        &self,
        endpoint: Endpoint,
        kind: Kind,
        protocol: Protocol,
        status: u16,
    ) -> ReadyCounters {
        let mut digits = [0; 3];
        ReadyCounters {
            requests: self.http_requests.with_label_values(&[
                endpoint.as_str(),
                protocol.as_str(),
                status_text(status, &mut digits),
            ]),
            duration: self
                .http_duration
                .with_label_values(&[endpoint.as_str(), protocol.as_str()]),
            body: self.body(endpoint, Some(kind)),
            hot: self
                .cache_results
                .with_label_values(&[kind.as_str(), CacheResult::Hot.as_str()]),
        }
    }

    /// Counts where an answer came from.
    pub fn cache(&self, kind: Kind, result: CacheResult) {
        self.cache_results
            .with_label_values(&[kind.as_str(), result.as_str()])
            .inc();
    }

    /// Counts one request to upstream; `duration` runs to the last byte, or to the failure.
    pub fn upstream(&self, kind: Kind, outcome: Outcome, duration: Duration) {
        self.upstream_requests
            .with_label_values(&[kind.as_str(), outcome.as_str()])
            .inc();
        if outcome != Outcome::Breaker {
            self.upstream_duration
                .with_label_values(&[kind.as_str()])
                .observe(duration.as_secs_f64());
        }
    }

    /// Counts bytes received from upstream.
    pub fn upstream_bytes(&self, kind: Kind, bytes: u64) {
        self.upstream_bytes
            .with_label_values(&[kind.as_str()])
            .inc_by(bytes);
    }

    /// Counts one request of a git client.
    pub fn git_request(&self, request: GitRequest, protocol: GitProtocol, result: GitResult) {
        self.git_request_counter(request, protocol, result).inc();
    }

    fn git_request_counter(
        &self,
        request: GitRequest,
        protocol: GitProtocol,
        result: GitResult,
    ) -> IntCounter {
        let labels = [request.as_str(), protocol.as_str(), result.as_str()];
        self.git_requests.with_label_values(&labels)
    }

    /// Counts bytes of a pack that were handed to a git client.
    pub fn git_pack_bytes(&self, bytes: u64) {
        self.git_pack_bytes.inc_by(bytes);
    }

    /// Counts stored files that a verification looked at.
    pub fn verified(&self, result: Verified, count: u64) {
        self.verified_blobs
            .with_label_values(&[result.as_str()])
            .inc_by(count);
    }

    /// Says what the last verification found, and how much of it is left.
    pub fn findings(&self, findings: &[(Finding, u64)], unrepaired: u64) {
        for (finding, count) in findings {
            let series = self.findings.with_label_values(&[finding.as_str()]);
            series.set(as_gauge(*count));
        }
        self.unrepaired.set(as_gauge(unrepaired));
    }

    /// Counts bytes of a bundle.
    pub fn bundled(&self, direction: Direction, bytes: u64) {
        self.bundle_bytes
            .with_label_values(&[direction.as_str()])
            .inc_by(bytes);
    }

    /// Counts a generation that was made in so much time.
    pub fn generation(&self, duration: Duration) {
        self.generation_duration
            .with_label_values::<&str>(&[])
            .observe(duration.as_secs_f64());
    }

    /// Counts a generation that could not be made.
    pub fn generation_failure(&self) {
        self.generation_failures.inc();
    }

    /// Counts a commit to the git index of a view.
    pub fn view_commit(&self) {
        self.view_commits.inc();
    }

    /// Counts a git index of a view that could not be brought up to date.
    pub fn view_commit_failure(&self) {
        self.view_commit_failures.inc();
    }

    /// Counts one look at a git index that is followed, and the names that it changed.
    pub fn followed(&self, outcome: FollowOutcome, names: u64) {
        self.follows.with_label_values(&[outcome.as_str()]).inc();
        self.followed_names.inc_by(names);
    }

    /// Counts a job that ended; `at` is since 1970.
    pub fn job(&self, job: Job, at: Duration, took: Duration, result: JobResult) {
        let labels = [job.as_str(), result.as_str()];
        self.jobs_ended.with_label_values(&labels).inc();
        self.job_known(job, at, (result == JobResult::Ok).then_some(at), took);
    }

    /// Says when a job of a kind last ended, and when one last ended well, which may have been
    /// before the start; both are since 1970.
    pub fn job_known(&self, job: Job, at: Duration, well_at: Option<Duration>, took: Duration) {
        let label = [job.as_str()];
        let at = at.as_secs_f64();
        self.job_attempt.with_label_values(&label).set(at);
        if let Some(well_at) = well_at {
            let series = self.job_success.with_label_values(&label);
            series.set(well_at.as_secs_f64());
        }
        self.job_duration
            .with_label_values(&label)
            .set(took.as_secs_f64());
    }

    /// Counts a file that was not what the index promises.
    pub fn mismatch(&self) {
        self.mismatches.inc();
    }

    /// Counts what a sync came to.
    pub fn synced(&self, fetched: u64, held: u64, failed: u64) {
        for (result, count) in [
            (SyncResult::Fetched, fetched),
            (SyncResult::Held, held),
            (SyncResult::Failed, failed),
        ] {
            self.sync_releases
                .with_label_values(&[result.as_str()])
                .inc_by(count);
        }
    }

    /// Says how many failures of syncs there are.
    pub fn sync_failures(&self, count: u64) {
        self.sync_failures
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a stored file that is no longer what it was.
    pub fn damaged_blob(&self) {
        self.damaged_blobs.inc();
    }

    /// The whole text of a scrape, in the Prometheus exposition format 0.0.4.
    pub fn render(&self, gauges: &Gauges) -> String {
        self.set(gauges);
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        if let Err(error) = encoded {
            tracing::error!(%error, "could not write the metrics as text");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn set(&self, gauges: &Gauges) {
        self.connections_open.set(as_gauge(gauges.connections_open));
        for (arrival, count) in &gauges.connections {
            raise(
                &self.connections.with_label_values(&[arrival.as_str()]),
                *count,
            );
        }
        raise(&self.connections_refused, gauges.connections_refused);
        for (host, fares) in &gauges.hosts {
            self.set_host(*host, fares);
        }
        for mode in ServingMode::ALL {
            let is_in_force = gauges.mode == Some(*mode);
            let series = self.mode.with_label_values(&[mode.as_str()]);
            series.set(i64::from(is_in_force));
        }
        self.index_checked.set(since_1970(gauges.index_checked));
        let oldest = gauges.oldest_stale.unwrap_or_default();
        self.oldest_stale.set(oldest.as_secs_f64());
        for (event, count) in &gauges.journal_events {
            let counter = self.journal_events.with_label_values(&[event.as_str()]);
            raise(&counter, *count);
        }
        self.set_store(gauges);
        self.set_generation(gauges);
        self.hot_bytes.set(as_gauge(gauges.hot_bytes));
        self.followed_at.set(since_1970(gauges.followed_at));
        for job in Job::ALL {
            self.set_job(*job, &gauges.jobs);
        }
        self.sync_interval.set(gauges.sync_interval.as_secs_f64());
        self.sync_up_to_date.set(since_1970(gauges.sync_up_to_date));
        self.uptime.set(gauges.uptime.as_secs_f64());
    }

    fn set_store(&self, gauges: &Gauges) {
        self.names.set(as_gauge(gauges.names));
        self.set_releases(gauges.releases, gauges.releases_held);
        self.blobs.set(as_gauge(gauges.blobs));
        for (content, original, stored) in &gauges.store_bytes {
            self.set_store_bytes(*content, *original, *stored);
        }
        raise(&self.damaged_records, gauges.damaged_records);
        for (what, count) in &gauges.set_aside {
            let series = self.set_aside.with_label_values(&[what.as_str()]);
            series.set(as_gauge(*count));
        }
        self.free_bytes.set(as_gauge(gauges.free_bytes));
        self.disk_bytes.set(as_gauge(gauges.disk_bytes));
        self.writable.set(i64::from(gauges.writable));
    }

    fn set_generation(&self, gauges: &Gauges) {
        self.generation.set(as_gauge(gauges.generation));
        self.generation_at.set(since_1970(gauges.generation_at));
        self.generation_failing
            .set(i64::from(gauges.is_generation_failing));
        self.generation_staged
            .set(as_gauge(gauges.generation_staged));
        self.git_repository_bytes
            .set(as_gauge(gauges.git_repository_bytes));
    }

    fn set_host(&self, host: Host, fares: &HostGauges) {
        let label = [host.as_str()];
        let up = self.upstream_up.with_label_values(&label);
        up.set(i64::from(fares.is_up));
        let breaker = self.breaker_open.with_label_values(&label);
        breaker.set(i64::from(fares.is_breaker_open));
        let success = self.upstream_success.with_label_values(&label);
        success.set(since_1970(fares.last_success));
    }

    fn set_releases(&self, known: u64, held: u64) {
        for (state, count) in [("known", known), ("held", held)] {
            let series = self.releases.with_label_values(&[state]);
            series.set(as_gauge(count));
        }
    }

    fn set_store_bytes(&self, content: Content, original: u64, stored: u64) {
        for (form, bytes) in [(Form::Original, original), (Form::Stored, stored)] {
            let labels = [content.as_str(), content.codec().as_str(), form.as_str()];
            let series = self.store_bytes.with_label_values(&labels);
            series.set(as_gauge(bytes));
        }
    }

    /// Of several jobs of a kind, which only read, the sums.
    fn set_job(&self, job: Job, jobs: &[JobGauges]) {
        let label = [job.as_str()];
        let of_kind = || jobs.iter().filter(|running| running.kind == job);
        let running = u32::try_from(of_kind().count()).unwrap_or(u32::MAX);
        let series = self.jobs_running.with_label_values(&label);
        series.set(f64::from(running));
        let done = of_kind().map(|running| running.done).sum();
        self.job_done.with_label_values(&label).set(as_gauge(done));
        let planned = of_kind().filter_map(|running| running.planned).sum();
        let series = self.job_planned.with_label_values(&label);
        series.set(as_gauge(planned));
    }
}

/// The counters that one kind of ready answer moves.
#[derive(Debug, Clone)]
pub struct ReadyCounters {
    requests: IntCounter,
    duration: Histogram,
    body: BodyCounters,
    hot: IntCounter,
}

impl ReadyCounters {
    /// Counts one answer from memory with a body of so many bytes.
    pub fn answered(&self, bytes: u64, duration: Duration) {
        self.requests.inc();
        self.hot.inc();
        self.body.passed(bytes);
        self.duration.observe(duration.as_secs_f64());
    }
}

/// The counters that the bytes of one body move.
#[derive(Debug, Clone)]
pub struct BodyCounters {
    bytes: IntCounter,
    saved: Option<IntCounter>,
}

impl BodyCounters {
    /// Counts bytes that were handed to the client.
    pub fn passed(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
        if let Some(saved) = &self.saved {
            saved.inc_by(bytes);
        }
    }
}

/// Brings a counter up to a total that its owner keeps.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn since_1970(at: Option<Duration>) -> f64 {
    at.unwrap_or_default().as_secs_f64()
}

fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Writes a status as text without allocating.
fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    let status = status.min(999);
    for (digit, place) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0'.saturating_add(u8::try_from(status / place % 10).unwrap_or(0));
    }
    std::str::from_utf8(digits).unwrap_or("000")
}

/// A series is declared wrongly.
#[derive(Debug, thiserror::Error)]
#[error("could not declare the metrics")]
pub struct InvalidSeries(#[source] prometheus::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_labels_is_exported_from_the_start() {
        let text = Metrics::new()
            .expect("declared well")
            .render(&Gauges::default());
        assert!(
            text.contains("orlop_upstream_requests_total{kind=\"crate\",outcome=\"mismatch\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("orlop_cache_results_total{kind=\"index\",result=\"stale\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("# HELP orlop_store_blobs Crate files in the store.\n"),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_is_not_exported() {
        let text = Metrics::new()
            .expect("declared well")
            .render(&Gauges::default());
        let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(lines("orlop_git_requests_total{"), 3 * 3 + 1 + 3 * 6);
        for never in [
            "protocol=\"0\",request=\"ls_refs\"",
            "protocol=\"2\",request=\"refs\",result=\"pack\"",
            "kind=\"crate\",outcome=\"not_modified\"",
            "kind=\"crate\",result=\"stale\"",
            "codec=\"zstd\",content=\"crates\"",
        ] {
            assert!(!text.contains(never), "{never}");
        }
    }

    /// What `promtool check metrics` looks for, and that no series is declared under two names.
    #[test]
    fn names_and_helps_follow_the_conventions_of_prometheus() {
        use prometheus::proto::MetricType;

        let metrics = Metrics::new().expect("declared well");
        let families = metrics.registry.gather();
        assert!(families.len() > 60, "{}", families.len());
        let mut helps = std::collections::HashSet::new();
        for family in &families {
            let (name, help) = (family.name(), family.help());
            let is_ours = name.starts_with("orlop_");
            assert!(is_ours || name.starts_with("process_"), "{name}");
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(name.bytes().all(is_plain), "{name}");
            let kind = family.get_field_type();
            let is_counter = kind == MetricType::COUNTER;
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            for reserved in ["_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(reserved), "{name}");
            }
            let words: Vec<&str> = name.split('_').collect();
            for wrong in [
                "counter",
                "gauge",
                "histogram",
                "summary",
                "milliseconds",
                "ms",
                "minutes",
                "hours",
                "days",
                "kilobytes",
                "megabytes",
                "bits",
                "percent",
                "secs",
                "msec",
            ] {
                assert!(!words.contains(&wrong), "{name}: {wrong}");
            }
            if kind == MetricType::HISTOGRAM {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            if is_ours {
                assert!(help.ends_with('.') && help.len() > 20, "{name}: {help}");
                assert!(help.len() < 200, "{name}: {help}");
                assert!(helps.insert(help.to_owned()), "{name}: {help}");
            }
        }
    }

    #[test]
    fn gauges_show_what_their_owners_have() {
        let metrics = Metrics::new().expect("declared well");
        metrics.job_known(Job::Sync, Duration::from_secs(70), None, Duration::ZERO);
        let day = Duration::from_secs(86_400);
        metrics.job(Job::Sync, day, Duration::from_secs(3), JobResult::Ok);
        metrics.job(
            Job::Sync,
            2 * day,
            Duration::from_secs(4),
            JobResult::Failed,
        );
        metrics.findings(&[(Finding::Damaged, 2)], 1);
        let gauges = Gauges {
            hosts: vec![(
                Host::Downloads,
                HostGauges {
                    is_up: true,
                    is_breaker_open: false,
                    last_success: Some(day),
                },
            )],
            mode: Some(ServingMode::Strict),
            oldest_stale: Some(day),
            journal_events: vec![(JournalEvent::Yanked, 3)],
            releases: 9,
            releases_held: 4,
            store_bytes: vec![(Content::Index, 1000, 10)],
            jobs: vec![JobGauges {
                kind: Job::Verify,
                done: 5,
                planned: Some(8),
            }],
            ..Gauges::default()
        };
        let text = metrics.render(&gauges);
        for line in [
            "orlop_job_last_success_timestamp_seconds{kind=\"sync\"} 86400\n",
            "orlop_job_last_attempt_timestamp_seconds{kind=\"sync\"} 172800\n",
            "orlop_job_duration_seconds{kind=\"sync\"} 4\n",
            "orlop_jobs_total{kind=\"sync\",result=\"failed\"} 1\n",
            "orlop_verify_findings{finding=\"damaged\"} 2\n",
            "orlop_verify_unrepaired 1\n",
            "orlop_upstream_up{host=\"downloads\"} 1\n",
            "orlop_upstream_last_success_timestamp_seconds{host=\"downloads\"} 86400\n",
            "orlop_mode{mode=\"strict\"} 1\n",
            "orlop_mode{mode=\"fallback\"} 0\n",
            "orlop_index_oldest_stale_seconds 86400\n",
            "orlop_journal_events_total{event=\"yanked\"} 3\n",
            "orlop_store_releases{state=\"held\"} 4\n",
            "orlop_store_bytes{codec=\"zstd\",content=\"index\",form=\"stored\"} 10\n",
            "orlop_jobs_running{kind=\"verify\"} 1\n",
            "orlop_job_done{kind=\"verify\"} 5\n",
            "orlop_job_planned{kind=\"verify\"} 8\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        let over = metrics.render(&Gauges::default());
        assert!(
            over.contains("orlop_job_done{kind=\"verify\"} 0\n"),
            "{over}"
        );
    }

    #[test]
    fn what_is_counted_is_exported() {
        let metrics = Metrics::new().expect("declared well");
        metrics.request(
            Endpoint::Index,
            Protocol::H2,
            304,
            Duration::from_micros(50),
        );
        let ready = metrics.ready(Endpoint::Index, Kind::Index, Protocol::H2, 304);
        ready.answered(7, Duration::from_micros(50));
        let gauges = Gauges {
            connections: vec![(Arrival::Upgrade, 3)],
            ..Gauges::default()
        };
        drop(metrics.render(&gauges));
        let text = metrics.render(&gauges);
        for line in [
            "orlop_http_requests_total{endpoint=\"index\",protocol=\"h2\",status=\"304\"} 2\n",
            "orlop_http_request_duration_seconds_bucket{endpoint=\"index\",protocol=\"h2\",le=\"0.0001\"} 2\n",
            "orlop_cache_results_total{kind=\"index\",result=\"hot\"} 1\n",
            "orlop_connections_total{protocol=\"h2c_upgrade\"} 3\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn a_status_is_three_digits() {
        assert_eq!(status_text(200, &mut [0; 3]), "200");
        assert_eq!(status_text(u16::MAX, &mut [0; 3]), "999");
    }
}
