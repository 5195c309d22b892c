//! The table of keys: every setting once, with its field, its kind, its documentation and the
//! reason for its default. The default itself stands in the `Options` of the module that owns the
//! field.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::Config;
use super::error::{Origin, Refusal};
use super::value::{
    ADDRESSES, CONTACT, FILTER, GIT_INDEX, INDEX_URL, Kind, LOG_FORMAT, MODE, NETWORKS, Optional,
    PATH, PROXY, PUBLIC_KEYS, PUBLIC_URL, Raw, SWITCH, count, size, time,
};

/// One setting.
pub struct Key {
    /// Its name with its table: `upstream.stall_timeout`.
    pub path: &'static str,
    /// What it sets and why its default is what it is, as sentences.
    pub doc: &'static str,
    /// A value as TOML, for the sample file. Empty: the default serves as one.
    pub example: &'static str,
    /// The default in words, where it depends on the machine. Empty: [`Key::default_value`] is it.
    pub default_in_words: &'static str,
    /// Whether a running server applies a new value. Otherwise it counts from the next start.
    pub is_reloadable: bool,
    set: fn(&mut Config, &Raw) -> Result<(), Refusal>,
    show: fn(&Config) -> Value,
    is_same: fn(&Config, &Config) -> bool,
}

impl Key {
    /// The variable that sets it: `ORLOP_UPSTREAM_STALL_TIMEOUT`.
    pub fn variable(&self) -> String {
        format!("ORLOP_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// Its table, empty for the top, and its name there.
    pub fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// Its value in `config` without secrets, as it would be written in TOML. `Null`: not set.
    pub fn value(&self, config: &Config) -> Value {
        (self.show)(config)
    }

    /// The default of the module that owns the field. `Null`: not set.
    pub fn default_value(&self) -> Value {
        self.value(&Config::defaults(Path::new("")))
    }

    /// Reads `raw` and writes it into its field. A refused value leaves `config` as it was.
    pub(super) fn set(&self, config: &mut Config, raw: &Raw) -> Result<(), Refusal> {
        (self.set)(config, raw)
    }

    /// Whether both have the same value, secrets included.
    pub(super) fn is_same(&self, one: &Config, other: &Config) -> bool {
        (self.is_same)(one, other)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.path)
    }
}

/// The key with this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// A value that a source gives for a key.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) key: &'static Key,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const ZERO: Duration = Duration::ZERO;
/// A shorter timeout is a mistake in the unit.
const TICK: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// No record of people is wanted for longer.
const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// cargo gives up on a response after 30 s, so a longer wait is for no one.
const BEFORE_CARGO_GIVES_UP: Duration = Duration::from_secs(25);

/// When a new value is applied.
const RELOAD: bool = true;
const RESTART: bool = false;

/// Makes [`KEYS`] of rows: documentation, `path: field, kind, when a new value is applied`, and
/// where the default is no good example, an example and the default in words.
macro_rules! keys {
    ($(
        $(#[doc = $doc:literal])+
        $path:literal: $($field:ident).+, $kind:expr, $when:ident
        $(, example $example:literal)? $(, default $words:literal)?;
    )+) => {
        /// Every setting, in the order in which it is shown: tables stay together.
        pub static KEYS: &[Key] = &[$(
            Key {
                path: $path,
                doc: concat!($($doc),+).trim_ascii(),
                example: concat!($(stringify!($example))?),
                default_in_words: concat!($($words)?),
                is_reloadable: $when,
                set: |config, raw| {
                    config.$($field).+ = $kind.read(raw)?;
                    Ok(())
                },
                show: |config| $kind.show(&config.$($field).+),
                is_same: |one, other| one.$($field).+ == other.$($field).+,
            },
        )+];
    };
}

keys! {
    /// The directory of the store: index entries, crate files, journal. One server at a time can
    /// use it. The default is a place that a user can write to without being root.
    "data": store.dir, PATH, RESTART, example "/var/lib/orlop",
        default "`orlop` in the user's data directory ($XDG_DATA_HOME or ~/.local/share)";

    /// What happens when upstream is unreachable. "fallback" serves stale index entries with their
    /// age; "strict" never serves a stale index entry; "offline" never asks upstream. With the
    /// default, a build that worked yesterday works while upstream is down.
    "mode": app.mirror.mode, MODE, RELOAD;

    /// The URL that clients reach this server by, if they do so through a reverse proxy or under
    /// another name. Without it, each response uses the host of its request, which is right where
    /// there is no proxy.
    "public_url": http.public_url, Optional(PUBLIC_URL), RELOAD,
        example "https://crates.lab.example";

    /// Addresses and ports to listen on. "[::]:8080" is every address of the machine; port 0 is a
    /// free port. The default serves this machine only, until an administrator decides otherwise.
    "listen.addresses": listen.addresses, ADDRESSES, RESTART;

    /// Worker threads. Requests are short and CPU-bound, so more threads than cores do not help.
    "listen.workers": listen.workers, count(1, 1024), RESTART, example 4,
        default "the number of cores";

    /// How long the head of a request may take to arrive. A head is one packet, so ten seconds are
    /// enough on a bad line, and they bound how long a client can hold a connection without asking
    /// for anything.
    "listen.header_timeout": listen.header_timeout, time(TICK, HOUR), RESTART;

    /// How long a connection without a request stays open, and one whose client reads nothing. Load
    /// balancers usually close an idle connection after 60 s. If orlop closes later than they do,
    /// no request is lost on a connection that is just being closed.
    "listen.idle_timeout": listen.idle_timeout, time(TICK, HOUR), RESTART;

    /// How long one response may take in all, up to its last byte. The largest crate file
    /// (upstream.max_crate, 1 GiB) needs 14 minutes at 10 Mbit/s.
    "listen.request_timeout": listen.request_timeout, time(TICK, DAY), RESTART;

    /// Connections open at once. A further connection is refused with status 503 and Retry-After, so
    /// cargo tries again instead of hanging; in a flood it is closed without a response. cargo opens
    /// at most two connections, so this is room for two thousand builds, in about 80 MB.
    "listen.max_connections": listen.max_connections, count(1, 1_000_000), RESTART;

    /// Requests at once on one HTTP/2 connection. cargo requests several hundred index files at
    /// once, and RFC 9113 recommends to allow at least 100.
    "listen.max_streams": listen.max_streams, count(1, 65_535), RESTART;

    /// How long responses that have begun may take to finish when the server stops. Nearly every
    /// download is over by then, and service managers kill a process after 30 s (Kubernetes) or
    /// 90 s (systemd).
    "listen.shutdown_grace": listen.shutdown_grace, time(ZERO, HOUR), RESTART;

    /// Networks of the reverse proxies whose Forwarded and X-Forwarded-* headers are trusted, such
    /// as ["10.0.0.0/8", "::1"]. Any client can send these headers, so none is trusted by default.
    "listen.trusted_proxies": http.trusted_proxies, NETWORKS, RELOAD;

    /// The unix socket by which `orlop sync`, `orlop export` and the other commands reach this
    /// server. Anyone who may write to it (mode 0660: the server's user and group) can use them.
    /// Without it, the socket is admin.sock in the directory of the store, where the commands find
    /// it.
    "admin.socket": admin_socket, Optional(PATH), RESTART, example "/run/orlop/admin.sock";

    /// The sparse index of the registry that is mirrored, with or without `sparse+` before it. It
    /// can be that of any registry, also of another orlop.
    "upstream.url": upstream.index_url, INDEX_URL, RESTART,
        example "https://upstream.example/index", default "the sparse index of crates.io";

    /// A git repository with the index of the registry, as a URL (http, https, file) or as a path.
    /// orlop follows it instead of the sparse index, so it knows every name and never requests
    /// single index files. Crate files come from where its config.json says. If upstream.url names
    /// another registry than crates.io, they come from where that one says. Without this key the
    /// sparse index is used, which costs nothing before a client wants a crate.
    "upstream.git_index": upstream.git_index, Optional(GIT_INDEX), RESTART,
        example "https://git.lab.example/index.git";

    /// How often orlop fetches the git index, with 10 % jitter. A name or version that is not known
    /// yet is looked up at once. A fetch without news is one small response, and index.fresh_for
    /// leaves room for some that fail.
    "upstream.git_every": app.follow.every, time(SECOND, DAY), RESTART;

    /// How long a connection to upstream may take to open, TLS included. A lost first packet is
    /// sent again after 1 s and after 3 s; five seconds leave room for both.
    "upstream.connect_timeout": upstream.connect_timeout, time(TICK, HOUR), RESTART;

    /// How long upstream may send no byte before the attempt fails. cargo gives up after 30 s;
    /// three attempts of eight seconds end before that, with a response that says why.
    "upstream.stall_timeout": upstream.stall_timeout, time(TICK, HOUR), RESTART;

    /// How long one fetch may take with all its attempts. 1 GiB in ten minutes is 15 Mbit/s; a
    /// slower fetch would occupy its place for hours.
    "upstream.deadline": upstream.deadline, time(TICK, DAY), RESTART;

    /// How often one fetch is attempted. A short failure is over by the second or third attempt,
    /// and cargo tries again itself.
    "upstream.attempts": upstream.attempts, count(1, 20), RESTART;

    /// The wait before the second attempt; it grows with each further one. A Retry-After header of
    /// upstream is obeyed. Half a second is enough for a server that restarts, and short compared
    /// to cargo's 30 s.
    "upstream.backoff": upstream.backoff, time(ZERO, MINUTE), RESTART;

    /// Failures in a row that open the circuit breaker. One failure is chance, three in a row are
    /// an outage.
    "upstream.breaker_failures": upstream.breaker_failures, count(1, 1000), RESTART;

    /// How long the circuit breaker stays open at first, while every response comes from the store
    /// at once. A build requests 500 index files, and with the default they cost one timeout
    /// instead of 500.
    "upstream.breaker_pause": upstream.breaker_pause, time(TICK, HOUR), RESTART;

    /// Downloads from upstream at once, and as many index requests. This fills a fast line with
    /// small files, and is no burden on a public registry.
    "upstream.concurrency": upstream.concurrency, count(1, 4096), RESTART;

    /// The proxy for requests to upstream: http://, https://, socks5:// or socks5h://. It may have
    /// credentials, which are never printed. Without it, orlop connects to upstream directly; it
    /// ignores the proxy variables of the environment.
    "upstream.proxy": upstream.proxy, Optional(PROXY), RESTART,
        example "http://proxy.lab.example:3128/";

    /// A PEM file with additional certificate authorities, for networks that intercept TLS. For a
    /// public upstream, the authorities that this system trusts are enough.
    "upstream.ca_file": upstream.ca_file, Optional(PATH), RESTART, example "/etc/orlop/ca.pem";

    /// A mail address or URL for the User-Agent header, so that upstream can reach the administrator
    /// of this mirror. crates.io asks its automated clients for one.
    "upstream.contact": upstream.contact, Optional(CONTACT), RESTART, example "ops@lab.example";

    /// The largest crate file that is accepted: far above any crate of crates.io, and below what
    /// fills a disk with one request.
    "upstream.max_crate": upstream.max_crate_bytes, size(KIB, TIB), RESTART;

    /// The largest index file that is accepted, unpacked. orlop holds an index file in memory; the
    /// largest of crates.io have a few MiB.
    "upstream.max_index": upstream.max_index_bytes, size(KIB, GIB), RESTART;

    /// Whether crate files may come from private addresses other than upstream's own host. If they
    /// could, a registry outside would be able to send this server to hosts inside your network.
    "upstream.allow_private": upstream.allow_private, SWITCH, RESTART;

    /// How long an index entry is fresh and served without asking upstream, with 10 % jitter; "0s"
    /// asks every time. With the default, a new version appears within minutes, and the builds of a
    /// team cost upstream one request.
    "index.fresh_for": app.mirror.freshness.fresh_for, time(ZERO, MONTH), RELOAD;

    /// How long orlop remembers that upstream does not have a name. cargo looks for spellings that
    /// do not exist at every update, but a crate that was just published must not stay hidden.
    "index.negative_for": app.mirror.freshness.negative_for, time(ZERO, DAY), RELOAD;

    /// How long a client waits for upstream if orlop has a stale index entry. This is longer than
    /// any healthy upstream takes, and short enough that an upstream which hangs is hardly noticed.
    "index.patience": app.mirror.patience, time(ZERO, BEFORE_CARGO_GIVES_UP), RELOAD;

    /// Memory for the pages of the key-value engine (sled). The default holds the records of some
    /// 10,000 crates, which a lab uses in a day. The engine's own default is 1 GiB.
    "store.cache": store.cache_bytes, size(MIB, TIB), RESTART;

    /// Free space that is left on the disk, or 5 % of the disk if that is less. Below it nothing
    /// new is stored, and what is cached is served. A full disk harms every program on it.
    "store.reserve": store.reserve_bytes, size(0, 1024 * TIB), RESTART;

    /// Whether the index is also published as a git repository, for clients that use one: in the
    /// directory git/index of the store, one commit for each burst of changes. A damaged index
    /// database is recovered from it.
    "git.enabled": git_enabled, SWITCH, RESTART;

    /// How long the index is without changes before they become a commit. A build requests its
    /// crates without longer pauses, and becomes one commit.
    "git.quiet_for": app.git_index.quiet_for, time(TICK, HOUR), RESTART;

    /// The longest that a change waits for its commit while others keep coming: a minute, after
    /// which clients of the git index see every change.
    "git.cut_within": app.git_index.cut_within, time(TICK, DAY), RESTART;

    /// How often all saved sets are synced, with 10 % jitter; "0s": only `orlop sync` does it. With
    /// the default, what was published in the morning is here in the afternoon, and upstream is
    /// asked four times a day.
    "sync.every": app.jobs.sync.every, time(ZERO, MONTH), RELOAD;

    /// Crates that a sync fetches at once: half of upstream.concurrency, so that builds have room
    /// beside it.
    "sync.concurrency": app.jobs.sync.concurrency, count(1, 1024), RELOAD;

    /// The most bytes per second that a sync fetches. Without it, there is no limit. It never slows
    /// builds down.
    "sync.max_rate": app.jobs.sync.max_rate, Optional(size(KIB, TIB)), RELOAD, example "10MiB";

    /// The trusted keys: bundles signed with one of them are imported. `orlop key show` prints the
    /// key of a machine that writes bundles. A bundle has what others build and run, so no key is
    /// trusted by default.
    "import.trust": app.jobs.bundle.trust, PUBLIC_KEYS, RELOAD;

    /// Whether the view `held` is served at /view/held/: an index of cached versions only, so cargo
    /// chooses nothing that is not here. It costs one more small repository, and is right for a
    /// machine without a network.
    "views.held": app.views.held, SWITCH, RESTART;

    /// How long orlop records who downloaded what and when, for `orlop who` and `orlop gc`; "0s"
    /// records nothing. Three months show who still uses a version.
    "use.keep_for": app.uses.keep_for, time(ZERO, TEN_YEARS), RELOAD;

    /// Memory for the response cache: index files and small crates; "0B" turns it off. The default
    /// holds the index files and most crates of a workspace with 600 dependencies (54 MB).
    "http.hot_cache": http.hot_cache_bytes, size(0, TIB), RESTART;

    /// How log lines on stderr are written: "human" or "json". The default is for people; "json" is
    /// for log collectors.
    "log.format": log.format, LOG_FORMAT, RESTART;

    /// What is logged: a level (off, error, warn, info, debug, trace) or a list such as
    /// "info,orlop::upstream=debug". The default logs each event that an administrator may act on.
    "log.filter": log.filter, FILTER, RELOAD;
}
