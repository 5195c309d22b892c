//! Every series, declared once; the doc comment is the help text. Hides prometheus: no other room names it.
//!
//! Counters move when things happen, through the methods here. Gauges are read off their owners
//! at scrape time and come in as [`Gauges`]: nothing keeps a second copy of a number.
//!
//! No crate name, address or token is ever a label: the number of series does not grow with use.

mod labels;

use std::time::Duration;

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

pub use labels::{
    Arrival, CacheResult, Direction, Endpoint, FollowOutcome, GitProtocol, GitRequest, GitResult,
    Job, Kind, Outcome, Protocol, Verified,
};

/// Buckets of request durations, in seconds. A ready answer takes tens of microseconds, a stored
/// crate about one millisecond, a fetch from upstream up to cargo's limit of 30 s: each decade
/// between has two steps, so that a quantile is never off by more than a factor of about three.
const DURATION_BUCKETS_SECONDS: &[f64] = &[
    0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0,
];

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
    http_duration: HistogramVec("orlop_http_request_duration_seconds", "endpoint");
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
    /// Requests to upstream, by how they ended.
    upstream_requests: IntCounterVec("orlop_upstream_requests_total", "kind", "outcome");
    /// Time of a request to upstream until its last byte, or until it failed.
    upstream_duration: HistogramVec("orlop_upstream_request_duration_seconds", "kind");
    /// Bytes of bodies received from upstream, as they came out of transfer encoding.
    upstream_bytes: IntCounterVec("orlop_upstream_received_bytes_total", "kind");
    /// 1 while the breaker keeps requests from upstream, else 0.
    breaker_open: IntGauge("orlop_upstream_breaker_open");
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
    /// Crate files in the store.
    blobs: IntGauge("orlop_store_blobs");
    /// Bytes of the crate files in the store.
    blob_bytes: IntGauge("orlop_store_blob_bytes");
    /// Bytes free for orlop in the file system of the store, its reserve already taken off.
    free_bytes: IntGauge("orlop_store_free_bytes");
    /// 1 while the store takes writes; 0 when the disk is full or a write failed.
    writable: IntGauge("orlop_store_writable");
    /// Number of the newest generation of the git index, 0 before the first.
    generation: IntGauge("orlop_generation");
    /// Names that changed since the newest generation of the git index.
    generation_staged: IntGauge("orlop_generation_staged_names");
    /// Time to make a generation: reading what changed, the commit, the record.
    generation_duration: HistogramVec("orlop_generation_seconds");
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
    /// Bytes of bundles that were written or read.
    bundle_bytes: IntCounterVec("orlop_bundle_bytes_total", "direction");
    /// Jobs that run now: fetching ahead, bundles, upkeep.
    jobs_running: GaugeVec("orlop_jobs_running", "kind");
    /// When a job of this kind last ended well and without problems, in seconds since 1970; 0 where none has since the start.
    job_success: GaugeVec("orlop_job_last_success_timestamp_seconds", "kind");
    /// When a job of this kind last ended in whatever way, in seconds since 1970; 0 where none has since the start.
    job_attempt: GaugeVec("orlop_job_last_attempt_timestamp_seconds", "kind");
    /// How long the last job of this kind took.
    job_duration: GaugeVec("orlop_job_duration_seconds", "kind");
    /// 1, with the version of the program as a label.
    build_info: IntCounterVec("orlop_build_info", "version");
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
    /// Whether the breaker is open.
    pub breaker_open: bool,
    /// Names in the store.
    pub names: u64,
    /// Blobs in the store.
    pub blobs: u64,
    /// Bytes of the blobs in the store.
    pub blob_bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Whether the store takes writes.
    pub writable: bool,
    /// The newest generation.
    pub generation: u64,
    /// Names that wait for the next one.
    pub generation_staged: u64,
    /// Bytes of the repository.
    pub git_repository_bytes: u64,
    /// Bytes of ready answers.
    pub hot_bytes: u64,
    /// When the upstream's git index was last wholly in the store, since 1970.
    pub followed_at: Option<Duration>,
    /// Jobs that run now.
    pub jobs: Vec<Job>,
    /// Time since the start.
    pub uptime: Duration,
}

impl Metrics {
    /// A set of series, all at zero.
    ///
    /// # Errors
    /// Only if a series is declared twice or wrongly, which a test of this room would have shown.
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
        for endpoint in Endpoint::ALL {
            drop(self.http_duration.with_label_values(&[endpoint.as_str()]));
            drop(self.http_body_bytes.with_label_values(&[endpoint.as_str()]));
        }
        for arrival in Arrival::ALL {
            drop(self.connections.with_label_values(&[arrival.as_str()]));
        }
        for kind in Kind::ALL {
            drop(self.upstream_duration.with_label_values(&[kind.as_str()]));
            drop(self.upstream_bytes.with_label_values(&[kind.as_str()]));
            for outcome in Outcome::ALL {
                drop(
                    self.upstream_requests
                        .with_label_values(&[kind.as_str(), outcome.as_str()]),
                );
            }
        }
        for kind in [Kind::Index, Kind::Crate] {
            for result in CacheResult::ALL {
                drop(
                    self.cache_results
                        .with_label_values(&[kind.as_str(), result.as_str()]),
                );
            }
        }
        for request in GitRequest::ALL {
            for protocol in GitProtocol::ALL {
                self.git_request_counter(*request, *protocol, GitResult::Ok)
                    .inc_by(0);
            }
        }
        drop(self.generation_duration.with_label_values::<&str>(&[]));
        for outcome in FollowOutcome::ALL {
            drop(self.follows.with_label_values(&[outcome.as_str()]));
        }
        for direction in Direction::ALL {
            drop(self.bundle_bytes.with_label_values(&[direction.as_str()]));
        }
        for job in Job::ALL {
            for series in [
                &self.jobs_running,
                &self.job_success,
                &self.job_attempt,
                &self.job_duration,
            ] {
                series.with_label_values(&[job.as_str()]).set(0.0);
            }
        }
        self.build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .inc();
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
            .with_label_values(&labels[..1])
            .observe(duration.as_secs_f64());
    }

    /// Counts bytes of an answer's body that were handed to a client.
    pub fn response_bytes(&self, endpoint: Endpoint, bytes: u64) {
        self.http_body_bytes
            .with_label_values(&[endpoint.as_str()])
            .inc_by(bytes);
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
            duration: self.http_duration.with_label_values(&[endpoint.as_str()]),
            bytes: self.http_body_bytes.with_label_values(&[endpoint.as_str()]),
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

    /// Notes the end of a job; `at` is since 1970.
    pub fn job(&self, job: Job, at: Duration, took: Duration, is_well: bool) {
        let label = [job.as_str()];
        let at = at.as_secs_f64();
        self.job_attempt.with_label_values(&label).set(at);
        if is_well {
            self.job_success.with_label_values(&label).set(at);
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
        for (result, count) in [("fetched", fetched), ("held", held), ("failed", failed)] {
            self.sync_releases
                .with_label_values(&[result])
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
        self.breaker_open.set(i64::from(gauges.breaker_open));
        self.names.set(as_gauge(gauges.names));
        self.blobs.set(as_gauge(gauges.blobs));
        self.blob_bytes.set(as_gauge(gauges.blob_bytes));
        self.free_bytes.set(as_gauge(gauges.free_bytes));
        self.writable.set(i64::from(gauges.writable));
        self.generation.set(as_gauge(gauges.generation));
        self.generation_staged
            .set(as_gauge(gauges.generation_staged));
        self.git_repository_bytes
            .set(as_gauge(gauges.git_repository_bytes));
        self.hot_bytes.set(as_gauge(gauges.hot_bytes));
        self.followed_at
            .set(gauges.followed_at.unwrap_or_default().as_secs_f64());
        for job in Job::ALL {
            let running = gauges.jobs.iter().filter(|running| *running == job);
            let running = u32::try_from(running.count()).unwrap_or(u32::MAX);
            let series = self.jobs_running.with_label_values(&[job.as_str()]);
            series.set(f64::from(running));
        }
        self.uptime.set(gauges.uptime.as_secs_f64());
    }
}

/// The counters that one kind of ready answer moves.
#[derive(Debug, Clone)]
pub struct ReadyCounters {
    requests: IntCounter,
    duration: Histogram,
    bytes: IntCounter,
    hot: IntCounter,
}

impl ReadyCounters {
    /// Counts one answer from memory with a body of so many bytes.
    pub fn answered(&self, bytes: u64, duration: Duration) {
        self.requests.inc();
        self.hot.inc();
        self.bytes.inc_by(bytes);
        self.duration.observe(duration.as_secs_f64());
    }
}

/// Brings a counter up to a total that its owner keeps.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
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
            "orlop_http_request_duration_seconds_bucket{endpoint=\"index\",le=\"0.0001\"} 2\n",
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
