//! What the pages show, as data: the templates render it, and the JSON twins are it.
//!
//! Times are seconds since 1970, spans seconds, sizes bytes, each said by the end of its name.
//! Fields are only ever added: scripts read the twins.

use serde::Serialize;

use crate::status::{EventFacts, Health, HealthItem, Level, TrafficSeries};

/// The status page: `/`, and as JSON `/status.json`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Overview {
    /// The version of the program.
    pub(crate) version: String,
    /// When this was true.
    pub(crate) now_seconds: u64,
    /// Since the start.
    pub(crate) uptime_seconds: u64,
    /// The one thing to know first.
    pub(crate) verdict: Health,
    /// What needs somebody, the worst first.
    pub(crate) attention: Vec<HealthItem>,
    /// The registry behind.
    pub(crate) upstream: UpstreamFacts,
    /// What is held.
    pub(crate) held: HeldFacts,
    /// The git index; absent: it is switched off.
    pub(crate) git: Option<GitFacts>,
    /// What went through.
    pub(crate) traffic: TrafficSeries,
    /// What happened of late, the newest first.
    pub(crate) events: Vec<EventFacts>,
    /// Jobs that run now, the oldest first.
    pub(crate) jobs: Vec<JobFacts>,
    /// The last run of each kind of job, the newest first.
    pub(crate) last_jobs: Vec<LastJobFacts>,
    /// How a client is set up, for the host that this was reached by.
    pub(crate) clients: Clients,
}

/// The registry behind.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct UpstreamFacts {
    /// How people call it: `crates.io`, or the host and path of its index.
    pub(crate) name: String,
    /// Its index, without credentials.
    pub(crate) url: String,
    /// `fallback`, `strict` or `offline`.
    pub(crate) mode: String,
    /// The host of the index.
    pub(crate) index: HostFacts,
    /// The host of downloads.
    pub(crate) downloads: HostFacts,
    /// The git index that is followed; absent: none is.
    pub(crate) follow: Option<FollowFacts>,
    /// Index entries being asked for now.
    pub(crate) refreshing: usize,
    /// Crates being fetched now.
    pub(crate) fetching: usize,
    /// The age of the oldest index entry that had to be served past its time in the last hour;
    /// absent: none had.
    pub(crate) oldest_stale_seconds: Option<u64>,
}

/// How a host of upstream fares.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct HostFacts {
    /// How it fares.
    pub(crate) level: Level,
    /// In a phrase: `answered 3 s ago in 40 ms`.
    pub(crate) text: String,
    /// Since it last answered.
    pub(crate) last_success_seconds: Option<u64>,
    /// Since it last failed.
    pub(crate) last_failure_seconds: Option<u64>,
    /// How it last failed, if nothing went well since.
    pub(crate) cause: Option<String>,
    /// To the head of an answer.
    pub(crate) latency_ms: Option<u64>,
}

/// How a git index is followed.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct FollowFacts {
    /// The commit whose changes are all here; absent: not yet.
    pub(crate) commit: Option<String>,
    /// Since upstream said that it is its newest.
    pub(crate) age_seconds: Option<u64>,
    /// Names that changed since the start.
    pub(crate) changed: u64,
}

/// What is held.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct HeldFacts {
    /// Crates whose index entry is here.
    pub(crate) names: u64,
    /// Crate files.
    pub(crate) files: u64,
    /// What the crate files take on the disk.
    pub(crate) stored_bytes: u64,
    /// What they are as they are downloaded.
    pub(crate) raw_bytes: u64,
    /// What the index entries take in the store (zstd).
    pub(crate) index_stored_bytes: u64,
    /// What they are as text.
    pub(crate) index_raw_bytes: u64,
    /// Versions in the index, as far as entries are here.
    pub(crate) versions: u64,
    /// Of them those whose file is here.
    pub(crate) held_versions: u64,
    /// What may still be written: the reserve is already taken off.
    pub(crate) free_bytes: u64,
    /// The whole of the file system that the store is in; 0: it does not tell.
    pub(crate) disk_bytes: u64,
    /// Whether the store takes writes.
    pub(crate) writable: bool,
    /// Crates with at least one file here; absent: the view `held` is switched off or not counted yet.
    pub(crate) held_names: Option<u64>,
    /// The base of the view's index.
    pub(crate) held_index: Option<String>,
}

/// The git index.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct GitFacts {
    /// In a word: `ready`, `empty`, `no-base`, `being-made`.
    pub(crate) state: String,
    /// Where it is; absent: it is not served.
    pub(crate) url: Option<String>,
    /// The newest commit.
    pub(crate) commit: Option<String>,
    /// Its generation; 0: there is none.
    pub(crate) generation: u64,
    /// When that was cut.
    pub(crate) cut_seconds: Option<u64>,
    /// The size of the repository.
    pub(crate) bytes: u64,
    /// Names that wait for the next generation.
    pub(crate) staged: u64,
    /// Why the last cut failed.
    pub(crate) failing: Option<String>,
}

/// A job that runs.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct JobFacts {
    /// Its kind: `sync`, `verify`, …
    pub(crate) kind: String,
    /// The command that asked for it.
    pub(crate) command: String,
    /// When it began.
    pub(crate) since_seconds: u64,
    /// What it does now; empty before its first phase.
    pub(crate) phase: String,
    /// How many are done of what the phase counts.
    pub(crate) done: u64,
    /// How many there are; absent: not known.
    pub(crate) total: Option<u64>,
    /// Bytes moved in this phase.
    pub(crate) bytes: u64,
}

/// The last run of a kind of job.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct LastJobFacts {
    /// Its kind.
    pub(crate) kind: String,
    /// How it ended: `well`, `problems`, `failed` or `cancelled`.
    pub(crate) ended: String,
    /// How bad that is.
    pub(crate) level: Level,
    /// When it ended.
    pub(crate) at_seconds: u64,
    /// When one last ended well.
    pub(crate) ok_at_seconds: Option<u64>,
}

/// How a client is set up.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Clients {
    /// The URL that this mirror was reached by, without a slash at its end.
    pub(crate) base: String,
    /// Each way, the usual first.
    pub(crate) ways: Vec<ClientWay>,
}

/// One way to set a client up.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ClientWay {
    /// A word that stands for it in links: `sparse`, `git`, `held`, `held-git`.
    pub(crate) id: String,
    /// Its title.
    pub(crate) title: String,
    /// Whom it is for, as a sentence.
    pub(crate) note: String,
    /// What goes into `$CARGO_HOME/config.toml`; absent: it is not served, and the note says why.
    pub(crate) config: Option<String>,
}
