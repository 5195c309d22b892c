//! The settings of one run: where they come from, which source wins, and that they make sense.
//!
//! Every key stands once, in [`KEYS`], with its kind, default and reason; reading, `config show`
//! and the sample file are driven from there. This is the only room that reads the environment.
//! It assembles each room's options, and no room imports it.

mod check;
mod environment;
mod error;
mod file;
mod keys;
mod reload;
mod sample;
mod service;
mod suggest;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use url::Url;

pub use environment::{ClientEnvironment, Environment, Machine};
pub use error::{Error, Origin, Refusal};
pub use keys::{KEYS, Key, Preset, Which};
pub use reload::{CHANGEABLE, Change, changes};
pub use sample::sample;
pub use service::{NotListening, ServiceManager, inherited_sockets};
pub use value::parse_public_url;

use file::Found;
use value::Raw;

use crate::{
    git, http, mirror,
    policy::{self, Mode},
    store,
    upstream::{self, GitIndex, SecretUrl},
};

/// Where the configuration is looked for when nobody names a file.
pub const DEFAULT_FILE: &str = "/etc/orlop/orlop.toml";

/// Every setting, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The folder of the store.
    pub data: PathBuf,
    /// What happens when the upstream cannot be asked.
    pub mode: Mode,
    /// The URL that clients reach this server by: http(s), no query, no fragment, no slash at the
    /// end of a path. `None`: the host of each request is used.
    pub public_url: Option<Url>,
    /// The table `[listen]`.
    pub listen: ListenConfig,
    /// The table `[admin]`.
    pub admin: AdminConfig,
    /// The table `[upstream]`.
    pub upstream: UpstreamConfig,
    /// The table `[index]`.
    pub index: IndexConfig,
    /// The table `[store]`.
    pub store: StoreConfig,
    /// The table `[git]`.
    pub git: GitConfig,
    /// The table `[sync]`.
    pub sync: SyncConfig,
    /// The table `[import]`.
    pub import: ImportConfig,
    /// The table `[views]`.
    pub views: ViewsConfig,
    /// The table `[use]`.
    pub uses: UseConfig,
    /// The table `[http]`.
    pub http: HttpConfig,
    /// The table `[log]`.
    pub log: LogConfig,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

/// The table `[listen]`: the server's side of connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenConfig {
    /// Where to listen; never empty. Port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// Threads that answer requests.
    pub workers: u32,
    /// How long the head of a request may take to arrive.
    pub header_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long one answer may take in all.
    pub request_timeout: Duration,
    /// Connections open at once.
    pub max_connections: u32,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// How long answers under way may take to end when the server stops.
    pub shutdown_grace: Duration,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// The table `[upstream]`: how the registry behind this mirror is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The base of the sparse index: http(s), no `sparse+` before it, a slash at its end.
    pub url: Url,
    /// The git index that is followed in the stead of the sparse one.
    pub git_index: Option<GitIndex>,
    /// How often the git index is looked at.
    pub git_every: Duration,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long no byte may come.
    pub stall_timeout: Duration,
    /// How long one fetch may take with its retries.
    pub deadline: Duration,
    /// Tries of one fetch, at least 1.
    pub attempts: u32,
    /// The wait before the second try.
    pub backoff: Duration,
    /// Failures in a row after which the upstream counts as down, at least 1.
    pub breaker_failures: u32,
    /// How long an upstream that counts as down is left alone.
    pub breaker_pause: Duration,
    /// Requests at once, at least 1.
    pub concurrency: u32,
    /// The proxy on the way out, perhaps with credentials.
    pub proxy: Option<SecretUrl>,
    /// A PEM file with further certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// Whom the upstream may write to; fits into a header.
    pub contact: Option<String>,
    /// The largest crate file that is taken.
    pub max_crate_bytes: u64,
    /// The largest index file that is taken.
    pub max_index_bytes: u64,
    /// Whether download hosts at private addresses are asked.
    pub allow_private: bool,
}

/// The table `[index]`: how long index entries are good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexConfig {
    /// How long an entry is served unasked; zero asks every time.
    pub fresh_for: Duration,
    /// How long a name that the upstream does not have is remembered.
    pub negative_for: Duration,
    /// How long a client waits for the upstream when an older entry is held.
    pub patience: Duration,
}

/// The table `[store]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreConfig {
    /// Memory for the pages of the key-value engine.
    pub cache_bytes: u64,
    /// Room on the disk that is left free, or 5 % of the disk if that is less.
    pub reserve_bytes: u64,
}

/// The table `[git]`: the index as a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// How long nothing changes before a commit.
    pub quiet_for: Duration,
    /// The longest that a change waits for its commit.
    pub cut_within: Duration,
}

/// The table `[admin]`: how commands reach a running server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdminConfig {
    /// The socket; `None`: `admin.sock` in the folder of the store.
    pub socket: Option<PathBuf>,
}

/// The table `[sync]`: fetching ahead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncConfig {
    /// How often saved sets are fetched again; zero never does.
    pub every: Duration,
    /// Crates asked for at once, at least 1.
    pub concurrency: u32,
    /// The most bytes a second.
    pub max_rate: Option<u64>,
}

/// The table `[import]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportConfig {
    /// Public keys whose bundles are taken in.
    pub trust: Vec<String>,
}

/// The table `[views]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ViewsConfig {
    /// Whether the index of what is held is served.
    pub held: bool,
}

/// The table `[use]`: who fetched what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UseConfig {
    /// How long it is kept; zero records nothing.
    pub keep_for: Duration,
}

/// The table `[http]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpConfig {
    /// Memory for ready answers; zero keeps none.
    pub hot_cache_bytes: u64,
}

/// The table `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// How a line is written.
    pub format: LogFormat,
    /// What is logged, in the words of `tracing_subscriber`'s filter; it parses.
    pub filter: String,
}

/// What the command line said, as it was typed.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`; `None` looks at `ORLOP_CONFIG`, then at the default place.
    pub config: Option<PathBuf>,
    /// `--listen`, each time it was given.
    pub listen: Vec<String>,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--upstream`.
    pub upstream: Option<String>,
    /// `--public-url`.
    pub public_url: Option<String>,
    /// `--mode`.
    pub mode: Option<String>,
    /// `--admin-socket`.
    pub admin_socket: Option<PathBuf>,
}

/// All that a configuration is made of.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The command line.
    pub flags: Flags,
    /// The variables of the process.
    pub environment: Environment,
    /// What the defaults depend on.
    pub machine: Machine,
    /// The file that is read if it is there and no other is named; `None` reads none.
    pub default_file: Option<PathBuf>,
}

impl Sources {
    /// The sources of this process.
    pub fn of_process(flags: Flags) -> Sources {
        Sources {
            flags,
            environment: Environment::of_process(),
            machine: Machine::of_process(),
            default_file: Some(PathBuf::from(DEFAULT_FILE)),
        }
    }
}

/// A configuration with the story of each value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Each value as it may be shown, in the order of [`KEYS`].
    pub settings: Vec<Setting>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is odd and yet no mistake for certain, as sentences without a period.
    pub warnings: Vec<String>,
    /// Whether `NO_COLOR` asks for plain text.
    pub no_color: bool,
    /// Whether `TERM` says that the terminal cannot move its cursor.
    pub is_dumb: bool,
}

/// One value and where it came from.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// The value as it may be shown, without secrets. `Null`: not set.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// A value that some source gives for a key.
struct Given {
    key: &'static Key,
    raw: Raw,
    origin: Origin,
}

/// Reads every source and lets the strongest win, from the strongest down:
///
/// 1. flags of the command line;
/// 2. `ORLOP_*` variables of the environment;
/// 3. the TOML file: the one that `--config` names, else `ORLOP_CONFIG` (empty: no file), else
///    [`Sources::default_file`] if it is there;
/// 4. the defaults in [`KEYS`].
///
/// A weaker value that a stronger one covers must be right too: it would bite on the day the
/// stronger one goes.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Error>> {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let file = read_file(sources).map_err(|error| vec![error])?;
    let path = file.as_ref().map(|(path, _)| path.clone());

    let mut given = defaults(&sources.machine);
    if let Some((path, text)) = &file {
        collect(file::values(path, text), &mut given, &mut errors);
    }
    let variables = environment::values(&sources.environment, &mut warnings);
    collect(variables, &mut given, &mut errors);
    given.extend(flags(&sources.flags));

    let mut config = Config::blank().map_err(|error| vec![error])?;
    let settings = apply(given, &mut config, &mut errors);
    if errors.is_empty() {
        check::contradictions(&config, &mut errors);
        check::oddities(&config, &mut warnings);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Loaded {
        config,
        settings,
        file: path,
        warnings,
        no_color: sources.environment.no_color,
        is_dumb: sources.environment.is_dumb,
    })
}

/// Where the admin socket of a server with these sources may be, the likeliest first: a configuration
/// that is wrong somewhere is understood as far as it goes, and below a service manager the socket
/// is where that has put the folder for it.
///
/// A file that cannot be read, or that has no understandable place, leaves no default: the socket
/// there would be that of another server.
pub fn admin_sockets(sources: &Sources) -> Vec<PathBuf> {
    let given = given_socket(sources);
    let runtime = sources.environment.runtime_dir.as_ref();
    given
        .into_iter()
        .chain(runtime.map(|dir| dir.join("admin.sock")))
        .collect()
}

fn given_socket(sources: &Sources) -> Option<PathBuf> {
    let mut warnings = Vec::new();
    let mut given = Vec::new();
    if let Some(values) = values_of_file(sources) {
        given.extend(defaults(&sources.machine));
        given.extend(understood(values));
    }
    let variables = environment::values(&sources.environment, &mut warnings);
    given.extend(understood(variables));
    given.extend(flags(&sources.flags));
    let mut config = Config::blank().ok()?;
    for path in ["admin.socket", "data"] {
        // The strongest only: a weaker one may be wrong.
        if let Some(Given { key, raw, .. }) = given.iter().rfind(|given| given.key.path == path) {
            key.place.assign(raw, &mut config).ok()?;
        }
        if config.admin.socket.is_some() || !config.data.as_os_str().is_empty() {
            // Below the folder that this command was started in, as everywhere else.
            return std::path::absolute(config.admin_socket()).ok();
        }
    }
    None
}

/// What the file says, right or wrong, and nothing where there is none. `None`: there is one, and
/// nobody knows what it says.
fn values_of_file(sources: &Sources) -> Option<Vec<Result<Found, Error>>> {
    let Some((path, text)) = read_file(sources).ok()? else {
        return Some(Vec::new());
    };
    let values = file::values(&path, &text);
    let is_toml = |value: &Result<Found, Error>| !matches!(value, Err(Error::Syntax { .. }));
    values.iter().all(is_toml).then_some(values)
}

fn understood(found: Vec<Result<Found, Error>>) -> impl Iterator<Item = Given> {
    let given = |Found { key, raw, origin }| Given { key, raw, origin };
    found.into_iter().flatten().map(given)
}

/// The file to read and its text; `None` where no file is named and none is at the default place.
fn read_file(sources: &Sources) -> Result<Option<(PathBuf, String)>, Error> {
    let variable = &sources.environment.file;
    let named = sources.flags.config.as_ref().or(variable.as_ref());
    match named {
        Some(path) if path.as_os_str().is_empty() => Ok(None),
        Some(path) => Ok(Some((path.clone(), file::read(path)?))),
        None => match &sources.default_file {
            None => Ok(None),
            Some(path) => Ok(file::read_if_there(path)?.map(|text| (path.clone(), text))),
        },
    }
}

fn collect(found: Vec<Result<Found, Error>>, given: &mut Vec<Given>, errors: &mut Vec<Error>) {
    for item in found {
        match item {
            Ok(Found { key, raw, origin }) => given.push(Given { key, raw, origin }),
            Err(error) => errors.push(error),
        }
    }
}

fn defaults(machine: &Machine) -> Vec<Given> {
    let default = |key: &'static Key| {
        Some(Given {
            key,
            raw: Raw::Typed(key.preset.text(machine)?),
            origin: Origin::Default,
        })
    };
    KEYS.iter().filter_map(default).collect()
}

fn flags(flags: &Flags) -> Vec<Given> {
    let typed = |text: &String| Raw::Typed(text.into());
    let listen = (!flags.listen.is_empty()).then(|| Raw::List(flags.listen.clone()));
    let data = flags.data.as_ref().map(|path| Raw::Typed(path.into()));
    let admin_socket = flags.admin_socket.as_ref();
    let admin_socket = admin_socket.map(|path| Raw::Typed(path.into()));
    let all = [
        ("listen.addresses", "--listen", listen),
        ("data", "--data", data),
        (
            "upstream.url",
            "--upstream",
            flags.upstream.as_ref().map(typed),
        ),
        (
            "public_url",
            "--public-url",
            flags.public_url.as_ref().map(typed),
        ),
        ("mode", "--mode", flags.mode.as_ref().map(typed)),
        ("admin.socket", "--admin-socket", admin_socket),
    ];
    let given = |(path, flag, raw): (&str, &'static str, Option<Raw>)| {
        Some(Given {
            key: keys::find(path)?,
            raw: raw?,
            origin: Origin::Flag(flag),
        })
    };
    all.into_iter().filter_map(given).collect()
}

/// Writes the values into `config`, weakest first, and tells what stands in the end.
fn apply(given: Vec<Given>, config: &mut Config, errors: &mut Vec<Error>) -> Vec<Setting> {
    let mut settings: Vec<Option<Setting>> = KEYS.iter().map(|_| None).collect();
    for Given { key, raw, origin } in given {
        let slot = settings
            .iter_mut()
            .zip(KEYS)
            .find_map(|(slot, known)| (known.path == key.path).then_some(slot));
        match (key.place.assign(&raw, config), slot) {
            (Ok(value), Some(slot)) => *slot = Some(Setting { key, value, origin }),
            (Ok(_), None) => {}
            (Err(why), _) => errors.push(Error::Value {
                key: key.path,
                origin,
                why,
            }),
        }
    }
    if errors.is_empty() {
        let unset = settings.iter().zip(KEYS).filter(|(slot, _)| slot.is_none());
        errors.extend(unset.map(|(_, key)| Error::NoDefault { key: key.path }));
    }
    settings.into_iter().flatten().collect()
}

impl Config {
    /// Zeroes, for [`apply`] to write every key over.
    fn blank() -> Result<Config, Error> {
        Ok(Config {
            data: PathBuf::new(),
            mode: Mode::default(),
            public_url: None,
            listen: ListenConfig::default(),
            admin: AdminConfig::default(),
            upstream: UpstreamConfig::blank(keys::default_upstream()?),
            index: IndexConfig::default(),
            store: StoreConfig::default(),
            git: GitConfig::default(),
            sync: SyncConfig::default(),
            import: ImportConfig::default(),
            views: ViewsConfig::default(),
            uses: UseConfig::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
        })
    }
}

impl UpstreamConfig {
    fn blank(url: Url) -> UpstreamConfig {
        UpstreamConfig {
            url,
            git_index: None,
            git_every: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            stall_timeout: Duration::ZERO,
            deadline: Duration::ZERO,
            attempts: 0,
            backoff: Duration::ZERO,
            breaker_failures: 0,
            breaker_pause: Duration::ZERO,
            concurrency: 0,
            proxy: None,
            ca_file: None,
            contact: None,
            max_crate_bytes: 0,
            max_index_bytes: 0,
            allow_private: false,
        }
    }
}

/// What the rooms are given.
impl Config {
    /// The base that clients reach this server by, without a slash at its end.
    pub fn public_base(&self) -> Option<String> {
        self.public_url.as_ref().map(base_of)
    }

    /// The socket by which commands reach a server of this store.
    pub fn admin_socket(&self) -> PathBuf {
        let unset = || self.data.join("admin.sock");
        self.admin.socket.clone().unwrap_or_else(unset)
    }

    /// What the store is given.
    pub fn store(&self) -> store::Options {
        store::Options {
            cache_bytes: self.store.cache_bytes,
            reserve_bytes: self.store.reserve_bytes,
            ..store::Options::at(&self.data)
        }
    }

    /// What the repository of the git index is given; `None`: it is switched off.
    pub fn git(&self) -> Option<git::Options> {
        self.git.enabled.then(|| git::Options {
            dir: self.data.join("git").join("index"),
        })
    }

    /// What the client of the registry is given.
    pub fn upstream(&self) -> upstream::Options {
        let given = &self.upstream;
        upstream::Options {
            index_url: given.url.clone().into(),
            git_index: given.git_index.clone(),
            given_config: self.config_from_git(),
            connect_timeout: given.connect_timeout,
            stall_timeout: given.stall_timeout,
            deadline: given.deadline,
            attempts: given.attempts,
            backoff: given.backoff,
            breaker_failures: given.breaker_failures,
            breaker_pause: given.breaker_pause,
            concurrency: given.concurrency as usize,
            proxy: given.proxy.clone(),
            ca_file: given.ca_file.clone(),
            contact: given.contact.clone(),
            max_crate_bytes: given.max_crate_bytes,
            max_index_bytes: given.max_index_bytes,
            allow_private: given.allow_private,
        }
    }

    /// Whether the git index says where crates are: unless `upstream.url` names a registry of its
    /// own, which then does.
    fn config_from_git(&self) -> bool {
        let is_default = keys::default_upstream().is_ok_and(|url| url == self.upstream.url);
        self.upstream.git_index.is_some() && is_default
    }

    /// What the mirror is given.
    pub fn mirror(&self) -> mirror::Options {
        mirror::Options {
            mode: self.mode,
            freshness: policy::Options {
                fresh_for: self.index.fresh_for,
                negative_for: self.index.negative_for,
            },
            patience: self.index.patience,
            generations: mirror::GenerationOptions {
                quiet_for: self.git.quiet_for,
                cut_within: self.git.cut_within,
            },
            follow: self
                .upstream
                .git_index
                .is_some()
                .then(|| mirror::FollowOptions {
                    dir: self.data.join("git").join("upstream"),
                    every: self.upstream.git_every,
                    most_file_bytes: self.upstream.max_index_bytes,
                }),
            sync: mirror::sync::Options {
                every: self.sync.every,
                concurrency: self.sync.concurrency as usize,
                max_rate: self.sync.max_rate,
                ..mirror::sync::Options::default()
            },
            bundle: mirror::bundle::Options {
                trust: self.import.trust.clone(),
                key_dir: self.data.join("key"),
            },
            views: mirror::views::Options {
                held: self.views.held,
                dir: self.data.join("git").join("views"),
            },
            upkeep: mirror::upkeep::Options {
                keep_uses_for: self.uses.keep_for,
            },
            ..mirror::Options::default()
        }
    }

    /// What the answers are made with.
    pub fn http(&self) -> http::Options {
        http::Options {
            public_url: self.public_base(),
            trusted_proxies: self.listen.trusted_proxies.clone(),
            hot_cache_bytes: self.http.hot_cache_bytes,
        }
    }

    /// What the listener is given.
    pub fn listen(&self) -> http::listen::Options {
        let given = &self.listen;
        http::listen::Options {
            addresses: given.addresses.clone(),
            workers: given.workers as usize,
            header_timeout: given.header_timeout,
            idle_timeout: given.idle_timeout,
            request_timeout: given.request_timeout,
            max_connections: given.max_connections as usize,
            max_streams: given.max_streams,
            shutdown_grace: given.shutdown_grace,
            heartbeat: None,
        }
    }
}

/// A URL as the base of others: without a slash at its end.
pub fn base_of(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests;
