//! The table of keys: every setting once, with its kind, its default and the reason for it.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use url::Url;

use super::environment::Machine;
use super::error::{Error, Origin};
use super::value::{self, Place, Raw};

/// One setting.
pub struct Key {
    /// Its name with its table: `upstream.stall_timeout`.
    pub path: &'static str,
    /// What it sets, as sentences.
    pub doc: &'static str,
    /// Why its default is what it is, as a sentence.
    pub reason: &'static str,
    /// What holds where nobody sets it.
    pub preset: Preset,
    /// Its kind, its bounds and where its value goes.
    pub(super) place: Place,
}

/// What holds where nobody sets a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// This value, written as in a variable.
    Fixed(&'static str),
    /// A value that this machine or the registry's own crate gives.
    Found {
        /// What it is, in words.
        words: &'static str,
        /// A value somebody might write, for the sample file.
        example: &'static str,
        /// Which one it is.
        which: Which,
    },
    /// No value.
    Unset {
        /// A value somebody might write, for the sample file.
        example: &'static str,
    },
}

/// A default that is not a fixed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The user's data folder.
    DataFolder,
    /// The number of cores.
    Cores,
    /// The sparse index of crates.io.
    CratesIo,
}

impl Preset {
    /// The default, as in a variable; empty for none. `None`: this machine has no default.
    pub(super) fn text(&self, machine: &Machine) -> Option<OsString> {
        match self {
            Preset::Fixed(text) => Some(OsString::from(text)),
            Preset::Unset { .. } => Some(OsString::new()),
            Preset::Found { which, .. } => match which {
                Which::DataFolder => machine.data.clone().map(OsString::from),
                Which::Cores => Some(machine.cores.to_string().into()),
                Which::CratesIo => Some(tame_index::CRATES_IO_HTTP_INDEX.into()),
            },
        }
    }
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

/// The upstream that holds where nobody names another.
pub(super) fn default_upstream() -> Result<Url, Error> {
    let raw = Raw::Typed(tame_index::CRATES_IO_HTTP_INDEX.into());
    value::index_url(&raw).map_err(|why| Error::Value {
        key: "upstream.url",
        origin: Origin::Default,
        why,
    })
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Timers below this are a slip of the unit.
const TICK: Duration = Duration::from_millis(10);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// No record of people is wanted for longer than ten years.
const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// cargo gives up on an answer after 30 s: who waits longer waits for nobody.
const BEFORE_CARGO_GIVES_UP: Duration = Duration::from_secs(25);

/// Every setting, in the order in which people are shown them: tables stay together.
pub static KEYS: &[Key] = &[
    Key {
        path: "data",
        doc: "The folder of the store: index entries, crates, journal. One server at a time \
              may use it.",
        reason: "The user's own data folder can be written without being root.",
        preset: Preset::Found {
            words: "`orlop` in the user's data folder ($XDG_DATA_HOME or ~/.local/share)",
            example: "/var/lib/orlop",
            which: Which::DataFolder,
        },
        place: Place::Path(|c| &mut c.data),
    },
    Key {
        path: "mode",
        doc: "What happens when the upstream cannot be asked. \"fallback\" serves what is held \
              and says how old it is; \"strict\" never serves an index entry that is past its \
              time; \"offline\" never asks the upstream.",
        reason: "What built yesterday should build while the upstream is down.",
        preset: Preset::Fixed("fallback"),
        place: Place::Mode(|c| &mut c.mode),
    },
    Key {
        path: "public_url",
        doc: "The URL that clients reach this server by, where a reverse proxy or another name \
              stands before it.",
        reason: "Unset, each answer uses the host that the request asked for, which is right \
                 without a proxy.",
        preset: Preset::Unset {
            example: "https://crates.lab.example",
        },
        place: Place::PublicUrl(|c| &mut c.public_url),
    },
    Key {
        path: "listen.addresses",
        doc: "Addresses and ports to listen on; \"[::]:8080\" is every address of the machine, \
              port 0 a free port.",
        reason: "Only this machine is served until somebody decides to serve others.",
        preset: Preset::Fixed("127.0.0.1:8080"),
        place: Place::Addresses(|c| &mut c.listen.addresses),
    },
    Key {
        path: "listen.workers",
        doc: "Threads that answer requests.",
        reason: "Answers are short and take the processor, so more threads than cores only get \
                 in each other's way.",
        preset: Preset::Found {
            words: "the number of cores",
            example: "4",
            which: Which::Cores,
        },
        place: Place::Count(|c| &mut c.listen.workers, (1, 1024)),
    },
    Key {
        path: "listen.header_timeout",
        doc: "How long the head of a request may take to arrive.",
        reason: "A head is one packet: ten seconds forgive a bad line and bound who holds \
                 connections open on purpose.",
        preset: Preset::Fixed("10s"),
        place: Place::Duration(|c| &mut c.listen.header_timeout, (TICK, HOUR)),
    },
    Key {
        path: "listen.idle_timeout",
        doc: "How long a connection without a request is kept open.",
        reason: "Load balancers close theirs after 60 s as a rule; whoever closes second never \
                 loses a request.",
        preset: Preset::Fixed("75s"),
        place: Place::Duration(|c| &mut c.listen.idle_timeout, (TICK, HOUR)),
    },
    Key {
        path: "listen.request_timeout",
        doc: "How long one answer may take in all, up to its last byte.",
        reason: "The largest crate that is taken, 1 GiB, needs 14 minutes at 10 Mbit/s.",
        preset: Preset::Fixed("15m"),
        place: Place::Duration(|c| &mut c.listen.request_timeout, (TICK, DAY)),
    },
    Key {
        path: "listen.max_connections",
        doc: "Connections open at once; further ones wait until one ends.",
        reason: "cargo opens two at most, so this is room for two thousand builds, and a bound \
                 on memory.",
        preset: Preset::Fixed("4096"),
        place: Place::Count(|c| &mut c.listen.max_connections, (1, 1_000_000)),
    },
    Key {
        path: "listen.max_streams",
        doc: "Requests at once on one HTTP/2 connection.",
        reason: "cargo asks for hundreds of files at once; with fewer than 128 it would wait for \
                 its turn.",
        preset: Preset::Fixed("256"),
        place: Place::Count(|c| &mut c.listen.max_streams, (1, 65_535)),
    },
    Key {
        path: "listen.shutdown_grace",
        doc: "How long answers that are under way may take to end when the server is told to \
              stop.",
        reason: "Nearly every download ends within seconds, and service managers kill after 90 s \
                 as a rule.",
        preset: Preset::Fixed("20s"),
        place: Place::Duration(|c| &mut c.listen.shutdown_grace, (Duration::ZERO, HOUR)),
    },
    Key {
        path: "listen.trusted_proxies",
        doc: "Networks of the reverse proxies whose Forwarded and X-Forwarded-* headers are \
              believed, such as [\"10.0.0.0/8\", \"::1\"].",
        reason: "Anybody can write these headers, so nobody is believed until named.",
        preset: Preset::Fixed(""),
        place: Place::Networks(|c| &mut c.listen.trusted_proxies),
    },
    Key {
        path: "admin.socket",
        doc: "The unix socket by which `orlop sync`, `orlop export` and the other commands reach \
              this server. Whoever may write to it (mode 0660: the server's user and group) may \
              use them.",
        reason: "Unset, it is admin.sock in the folder of the store, where the commands find it \
                 without a word.",
        preset: Preset::Unset {
            example: "/run/orlop/admin.sock",
        },
        place: Place::OptionalPath(|c| &mut c.admin.socket),
    },
    Key {
        path: "upstream.url",
        doc: "The sparse index of the registry that is mirrored, with or without `sparse+` before \
              it.",
        reason: "Any sparse registry will do, another orlop too; crates.io is what most want.",
        preset: Preset::Found {
            words: "the sparse index of crates.io",
            example: "https://upstream.example/index/",
            which: Which::CratesIo,
        },
        place: Place::IndexUrl(|c| &mut c.upstream.url),
    },
    Key {
        path: "upstream.git_index",
        doc: "A git repository with the registry's index, by the URL (http, https, file) or path \
              where it is. It is followed in the stead of the sparse index, which is then never \
              asked for entries, so this mirror knows every name. Crates come from where its \
              config.json says, or, if upstream.url names another registry than crates.io, from \
              where that one says.",
        reason: "Unset, the sparse index is asked, which costs nothing before somebody wants a \
                 crate.",
        preset: Preset::Unset {
            example: "https://git.lab.example/index.git",
        },
        place: Place::GitIndex(|c| &mut c.upstream.git_index),
    },
    Key {
        path: "upstream.git_every",
        doc: "How often the git index is looked at, a tenth more or less by chance. A name or \
              version that is not known yet is looked for at once.",
        reason: "Asking costs the upstream one small answer, and index.fresh_for forgives some \
                 that fail.",
        preset: Preset::Fixed("1m"),
        place: Place::Duration(|c| &mut c.upstream.git_every, (Duration::from_secs(1), DAY)),
    },
    Key {
        path: "upstream.connect_timeout",
        doc: "How long a connection to the upstream may take to open.",
        reason: "A lost first packet is sent again after 1 s and after 3 s; five seconds leave \
                 room for both.",
        preset: Preset::Fixed("5s"),
        place: Place::Duration(|c| &mut c.upstream.connect_timeout, (TICK, HOUR)),
    },
    Key {
        path: "upstream.stall_timeout",
        doc: "How long the upstream may send no byte before the try counts as failed.",
        reason: "cargo gives up after 30 s; three tries of eight seconds end before that, with an \
                 answer that says why.",
        preset: Preset::Fixed("8s"),
        place: Place::Duration(|c| &mut c.upstream.stall_timeout, (TICK, HOUR)),
    },
    Key {
        path: "upstream.deadline",
        doc: "How long one fetch may take with all its tries.",
        reason: "1 GiB in ten minutes is 15 Mbit/s; what is slower than that would hold its place \
                 for hours.",
        preset: Preset::Fixed("10m"),
        place: Place::Duration(|c| &mut c.upstream.deadline, (TICK, DAY)),
    },
    Key {
        path: "upstream.attempts",
        doc: "How often one fetch is tried.",
        reason: "Passing trouble is over by the second or third try, and cargo tries again itself.",
        preset: Preset::Fixed("3"),
        place: Place::Count(|c| &mut c.upstream.attempts, (1, 20)),
    },
    Key {
        path: "upstream.backoff",
        doc: "The wait before the second try; it grows with each further one. A Retry-After of \
              the upstream is honoured.",
        reason: "Half a second lets a restarted server come back and is short beside cargo's 30 s.",
        preset: Preset::Fixed("500ms"),
        place: Place::Duration(|c| &mut c.upstream.backoff, (Duration::ZERO, MINUTE)),
    },
    Key {
        path: "upstream.breaker_failures",
        doc: "Failures in a row after which the upstream counts as down.",
        reason: "One failure is chance, three in a row are an outage.",
        preset: Preset::Fixed("3"),
        place: Place::Count(|c| &mut c.upstream.breaker_failures, (1, 1000)),
    },
    Key {
        path: "upstream.breaker_pause",
        doc: "How long an upstream that counts as down is left alone; meanwhile every answer \
              comes from what is held, at once.",
        reason: "A build asks for 500 entries: one time-out in ten seconds, not 500 of them.",
        preset: Preset::Fixed("10s"),
        place: Place::Duration(|c| &mut c.upstream.breaker_pause, (TICK, HOUR)),
    },
    Key {
        path: "upstream.concurrency",
        doc: "Requests to the upstream at once.",
        reason: "Enough to fill a fast line with small files, and no burden on a public registry.",
        preset: Preset::Fixed("64"),
        place: Place::Count(|c| &mut c.upstream.concurrency, (1, 4096)),
    },
    Key {
        path: "upstream.proxy",
        doc: "The proxy on the way to the upstream: http://, https://, socks5:// or socks5h://. \
              It may hold credentials, which are never printed.",
        reason: "Unset, the upstream is asked directly.",
        preset: Preset::Unset {
            example: "http://proxy.lab.example:3128",
        },
        place: Place::Proxy(|c| &mut c.upstream.proxy),
    },
    Key {
        path: "upstream.ca_file",
        doc: "A PEM file with further certificate authorities, for networks that open TLS on the \
              way.",
        reason: "The authorities that this system trusts are enough for a public upstream.",
        preset: Preset::Unset {
            example: "/etc/orlop/ca.pem",
        },
        place: Place::OptionalPath(|c| &mut c.upstream.ca_file),
    },
    Key {
        path: "upstream.contact",
        doc: "A mail address or URL that goes into the User-Agent, so that the upstream can reach \
              whoever runs this mirror.",
        reason: "Nobody's address can be guessed; crates.io asks its automated clients for one.",
        preset: Preset::Unset {
            example: "ops@lab.example",
        },
        place: Place::Contact(|c| &mut c.upstream.contact),
    },
    Key {
        path: "upstream.max_crate",
        doc: "The largest crate file that is taken.",
        reason: "Far above any crate of crates.io, and below what fills a disk in one request.",
        preset: Preset::Fixed("1GiB"),
        place: Place::Size(|c| &mut c.upstream.max_crate_bytes, (KIB, TIB)),
    },
    Key {
        path: "upstream.max_index",
        doc: "The largest index file that is taken.",
        reason: "An index file is held in memory; the largest of crates.io have a few MiB.",
        preset: Preset::Fixed("64MiB"),
        place: Place::Size(|c| &mut c.upstream.max_index_bytes, (KIB, GIB)),
    },
    Key {
        path: "upstream.allow_private",
        doc: "Whether crates may be fetched from private addresses other than the upstream's own \
              host.",
        reason: "A registry outside must not be able to send this server to hosts inside your \
                 network.",
        preset: Preset::Fixed("false"),
        place: Place::Switch(|c| &mut c.upstream.allow_private),
    },
    Key {
        path: "index.fresh_for",
        doc: "How long an index entry is served without asking the upstream, a tenth more or less \
              by chance; \"0s\" asks every time.",
        reason: "A new release is seen within minutes, and a team's builds cost the upstream one \
                 request.",
        preset: Preset::Fixed("5m"),
        place: Place::Duration(|c| &mut c.index.fresh_for, (Duration::ZERO, MONTH)),
    },
    Key {
        path: "index.negative_for",
        doc: "How long a name that the upstream does not have is remembered.",
        reason: "cargo asks for spellings that do not exist at every update; a crate published a \
                 moment ago must not stay hidden.",
        preset: Preset::Fixed("1m"),
        place: Place::Duration(|c| &mut c.index.negative_for, (Duration::ZERO, DAY)),
    },
    Key {
        path: "index.patience",
        doc: "How long a client waits for the upstream when an older index entry is held.",
        reason: "Longer than any healthy upstream takes, and short enough that a hanging one is \
                 hardly felt.",
        preset: Preset::Fixed("4s"),
        place: Place::Duration(
            |c| &mut c.index.patience,
            (Duration::ZERO, BEFORE_CARGO_GIVES_UP),
        ),
    },
    Key {
        path: "store.cache",
        doc: "Memory for the pages of the key-value engine (sled).",
        reason: "Holds what a lab's builds touch; the engine's own default would be 1 GiB.",
        preset: Preset::Fixed("32MiB"),
        place: Place::Size(|c| &mut c.store.cache_bytes, (MIB, TIB)),
    },
    Key {
        path: "store.reserve",
        doc: "Room on the disk that is left free, or 5 % of the disk if that is less. Below it \
              nothing new is kept, and what is held is served.",
        reason: "A full disk harms every program on it, this store first.",
        preset: Preset::Fixed("1GiB"),
        place: Place::Size(|c| &mut c.store.reserve_bytes, (0, 1024 * TIB)),
    },
    Key {
        path: "git.enabled",
        doc: "Whether the index is kept as a git repository too, for clients that use one: in the \
              folder git/index of the store, one commit for each burst of changes.",
        reason: "It doubles as the copy from which a broken index database gets its files back.",
        preset: Preset::Fixed("true"),
        place: Place::Switch(|c| &mut c.git.enabled),
    },
    Key {
        path: "git.quiet_for",
        doc: "How long nothing changes in the index before the changes become a commit.",
        reason: "A build asks for its crates without longer pauses, and becomes one commit.",
        preset: Preset::Fixed("5s"),
        place: Place::Duration(|c| &mut c.git.quiet_for, (TICK, HOUR)),
    },
    Key {
        path: "git.cut_within",
        doc: "The longest that a change waits for its commit while others keep coming.",
        reason: "Who waits for a change in the git index waits a minute at most.",
        preset: Preset::Fixed("1m"),
        place: Place::Duration(|c| &mut c.git.cut_within, (TICK, DAY)),
    },
    Key {
        path: "sync.every",
        doc: "How often all saved sets are fetched ahead again, a tenth more or less by chance; \
              \"0s\": only when `orlop sync` asks for it.",
        reason: "What was published in the morning is here in the afternoon, and the upstream is \
                 asked four times a day.",
        preset: Preset::Fixed("6h"),
        place: Place::Duration(|c| &mut c.sync.every, (Duration::ZERO, MONTH)),
    },
    Key {
        path: "sync.concurrency",
        doc: "Crates that fetching ahead asks for at once.",
        reason: "Half of upstream.concurrency, so that builds find room beside it.",
        preset: Preset::Fixed("32"),
        place: Place::Count(|c| &mut c.sync.concurrency, (1, 1024)),
    },
    Key {
        path: "sync.max_rate",
        doc: "The most that fetching ahead takes from the line, in bytes a second.",
        reason: "Unset, it takes what the upstream gives; builds are never held back by it.",
        preset: Preset::Unset { example: "10MiB" },
        place: Place::OptionalSize(|c| &mut c.sync.max_rate, (KIB, TIB)),
    },
    Key {
        path: "import.trust",
        doc: "The public keys whose bundles are taken in, as `orlop key show` prints them on the \
              machine that writes the bundles.",
        reason: "A bundle carries what others will build and run, so nobody is trusted until \
                 named.",
        preset: Preset::Fixed(""),
        place: Place::PublicKeys(|c| &mut c.import.trust),
    },
    Key {
        path: "views.held",
        doc: "Whether the index of what is held is served at /view/held/: cargo behind it chooses \
              only versions whose files are here.",
        reason: "It costs one small repository more, and is what a machine without a network \
                 wants.",
        preset: Preset::Fixed("true"),
        place: Place::Switch(|c| &mut c.views.held),
    },
    Key {
        path: "use.keep_for",
        doc: "How long it is kept who fetched what and when, for `orlop who` and for `orlop gc`; \
              \"0s\" records nothing.",
        reason: "A quarter tells who still uses a version; longer is nobody's business.",
        preset: Preset::Fixed("90d"),
        place: Place::Duration(|c| &mut c.uses.keep_for, (Duration::ZERO, TEN_YEARS)),
    },
    Key {
        path: "http.hot_cache",
        doc: "Memory for ready answers: index entries and small crates; \"0B\" turns it off.",
        reason: "Holds the index entries and small crates of many builds, and fits a small \
                 machine.",
        preset: Preset::Fixed("64MiB"),
        place: Place::Size(|c| &mut c.http.hot_cache_bytes, (0, TIB)),
    },
    Key {
        path: "log.format",
        doc: "How lines of the log on stderr are written: \"human\" or \"json\".",
        reason: "People read it first; \"json\" is for those who collect logs.",
        preset: Preset::Fixed("human"),
        place: Place::LogFormat(|c| &mut c.log.format),
    },
    Key {
        path: "log.filter",
        doc: "What is logged: a level (off, error, warn, info, debug, trace) or a list such as \
              \"info,orlop::upstream=debug\".",
        reason: "At this level there is a line for each event that somebody may act on.",
        preset: Preset::Fixed("info"),
        place: Place::Filter(|c| &mut c.log.filter),
    },
];
