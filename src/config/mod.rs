//! The configuration: where settings come from, which source wins, and that they make sense.
//!
//! Every key stands once, in [`KEYS`]: its field in the `Options` of a module, how it is read, and
//! its documentation. Reading, `config show`, the sample file and the manual are driven from there.
//! Defaults are those of the `Options`. Only this module reads the environment. No module below
//! imports it.

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

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use environment::{Environment, client_variables};
pub use error::{Error, Origin, Refusal};
pub use keys::{KEYS, Key};
pub use reload::{Change, changes};
pub use sample::sample;
pub use service::{NotListening, ServiceManager, inherited_sockets};
pub use value::parse_public_url;

use keys::Given;
use value::Raw;

use crate::{admin, app, git, http, listen, store, upstream};

/// Where the configuration is if no other file is named.
pub const DEFAULT_FILE: &str = "/etc/orlop/orlop.toml";

/// Every setting, read and checked: the options of each module, and what `cli` decides itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket for commands; `None`: `admin.sock` in the directory of the store.
    pub admin_socket: Option<PathBuf>,
    /// Whether the index is published as a git repository.
    pub git_enabled: bool,
    /// How requests are answered.
    pub http: http::Options,
    /// The server's side of connections.
    pub listen: listen::Options,
    /// How log lines are written.
    pub log: LogConfig,
    /// How the parts of a running orlop behave.
    pub app: app::Options,
    /// The store. Its directory is never empty.
    pub store: store::Options,
    /// How the registry behind this mirror is reached.
    pub upstream: upstream::Options,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Human,
    /// A JSON object a line.
    Json,
}

impl LogFormat {
    /// Every format.
    pub const ALL: [LogFormat; 2] = [LogFormat::Human, LogFormat::Json];
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        })
    }
}

/// The table `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line is written.
    pub format: LogFormat,
    /// What is logged, in the words of `tracing_subscriber`'s filter; it parses.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            format: LogFormat::Human,
            filter: "info".to_owned(),
        }
    }
}

impl Config {
    /// The defaults of every module. `data`: the directory of the store, empty if there is none.
    fn defaults(data: &Path) -> Config {
        Config {
            admin_socket: None,
            git_enabled: true,
            http: http::Options::default(),
            listen: listen::Options::default(),
            log: LogConfig::default(),
            app: app::Options::default(),
            store: store::Options::at(data),
            upstream: upstream::Options::default(),
        }
    }

    /// Sets the options that follow from keys of other modules.
    fn derive(&mut self) {
        let data = &self.store.dir;
        self.app.jobs.bundle.key_dir = data.join("key");
        self.app.views.dir = data.join("git/views");
        self.app.jobs.views_dir.clone_from(&self.app.views.dir);
        self.app.follow.dir = data.join("git/upstream");
        self.app.follow.max_file_bytes = self.upstream.max_index_bytes;
        self.app.follow.enabled = self.upstream.git_index.is_some();
        // A registry that `upstream.url` names says itself where its crate files are.
        let default_url = upstream::Options::default().index_url;
        self.upstream.given_config =
            self.app.follow.enabled && self.upstream.index_url == default_url;
    }

    /// The base that clients reach this server by, without a slash at its end.
    pub fn public_base(&self) -> Option<String> {
        self.http.public_url.clone()
    }

    /// The base by which this machine reaches a server with these settings; `None`: it listens on
    /// a free port.
    pub fn local_base(&self) -> Option<String> {
        let first = self.listen.addresses.first();
        let address = first.filter(|first| first.port() != 0);
        self.public_base()
            .or_else(|| address.map(|address| admin::local_base(*address)))
    }

    /// The base that the git index names: a repository cannot follow the host of a request. Where
    /// none is set, it is known only while the server listens for this machine alone.
    pub fn git_base(&self, addresses: &[SocketAddr]) -> Option<String> {
        let is_local = addresses.iter().all(|address| address.ip().is_loopback());
        let first = addresses.first().filter(|_| is_local);
        self.public_base()
            .or_else(|| first.map(|first| admin::local_base(*first)))
    }

    /// The socket by which commands reach a server of this store.
    pub fn admin_socket(&self) -> PathBuf {
        let unset = || self.store.dir.join("admin.sock");
        self.admin_socket.clone().unwrap_or_else(unset)
    }

    /// The options of the repository of the git index; `None`: it is switched off.
    pub fn git(&self) -> Option<git::Options> {
        self.git_enabled.then(|| git::Options {
            dir: self.store.dir.join("git/index"),
        })
    }
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
    /// The file that is read if it is there and no other is named; `None` reads none.
    pub default_file: Option<PathBuf>,
}

impl Sources {
    /// The sources of this process.
    pub fn of_process(flags: Flags) -> Sources {
        Sources {
            flags,
            environment: Environment::of_process(),
            default_file: Some(PathBuf::from(DEFAULT_FILE)),
        }
    }
}

/// A configuration with the origin of each value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Each value as it may be shown, in the order of [`KEYS`].
    pub settings: Vec<Setting>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is odd but may be intended, as sentences without a period.
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

/// Reads every source and lets the strongest win, from the strongest down:
///
/// 1. flags of the command line;
/// 2. `ORLOP_*` variables of the environment;
/// 3. the TOML file: the one that `--config` names, else `ORLOP_CONFIG` (empty: no file), else
///    [`Sources::default_file`] if it is there;
/// 4. the defaults of each module's `Options`.
///
/// A weaker value that a stronger one covers must be right too, because it would fail on the day
/// the stronger one goes.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Error>> {
    let environment = &sources.environment;
    let mut read = read(sources);
    let mut config = Config::defaults(environment.data_dir.as_deref().unwrap_or(Path::new("")));
    let settings = apply(read.given, &mut config, &mut read.errors);
    if read.errors.is_empty() && config.store.dir.as_os_str().is_empty() {
        read.errors.push(Error::NoDefault { key: "data" });
    }
    if read.errors.is_empty() {
        config.derive();
        check::contradictions(&config, &mut read.errors);
        check::oddities(&config, &mut read.warnings);
    }
    if !read.errors.is_empty() {
        return Err(read.errors);
    }
    Ok(Loaded {
        config,
        settings,
        file: read.file,
        warnings: read.warnings,
        no_color: environment.no_color,
        is_dumb: environment.is_dumb,
    })
}

/// Where the admin socket of a server with these sources may be, the likeliest first: a configuration
/// that is wrong somewhere is understood as far as it goes, and below a service manager the socket
/// is in the directory that it made.
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
    let read = read(sources);
    let is_unreadable = |error: &Error| matches!(error, Error::File { .. } | Error::Syntax { .. });
    let data = sources.environment.data_dir.as_deref();
    let data = data.filter(|_| !read.errors.iter().any(is_unreadable));
    let mut config = Config::defaults(data.unwrap_or(Path::new("")));
    for path in ["admin.socket", "data"] {
        if config.admin_socket.is_some() {
            break;
        }
        // The strongest only: a weaker one may be wrong.
        if let Some(given) = read.given.iter().rfind(|given| given.key.path == path) {
            given.key.set(&mut config, &given.raw).ok()?;
        }
    }
    let is_known = config.admin_socket.is_some() || !config.store.dir.as_os_str().is_empty();
    // Relative to the directory that this command was started in, as everywhere else.
    is_known.then(|| std::path::absolute(config.admin_socket()).ok())?
}

/// What the sources say, right or wrong.
#[derive(Default)]
struct ReadSources {
    /// The weakest first.
    given: Vec<Given>,
    file: Option<PathBuf>,
    errors: Vec<Error>,
    warnings: Vec<String>,
}

fn read(sources: &Sources) -> ReadSources {
    let mut read = ReadSources::default();
    let mut found = Vec::new();
    match read_file(sources) {
        Ok(Some((path, text))) => {
            found.extend(file::values(&path, &text));
            read.file = Some(path);
        }
        Ok(None) => {}
        Err(error) => read.errors.push(error),
    }
    found.extend(environment::values(
        &sources.environment,
        &mut read.warnings,
    ));
    for item in found {
        match item {
            Ok(given) => read.given.push(given),
            Err(error) => read.errors.push(error),
        }
    }
    read.given.extend(flags(&sources.flags));
    read
}

/// The file to read and its text; `None` where no file is named and none is at the default place.
fn read_file(sources: &Sources) -> Result<Option<(PathBuf, String)>, Error> {
    let named = sources.flags.config.as_ref();
    let named = named.or(sources.environment.file.as_ref());
    let Some(path) = named.or(sources.default_file.as_ref()) else {
        return Ok(None);
    };
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = file::read(path, named.is_none())?;
    Ok(text.map(|text| (path.clone(), text)))
}

fn flags(flags: &Flags) -> Vec<Given> {
    let text = |text: &String| Raw::Typed(text.into());
    let path = |path: &PathBuf| Raw::Typed(path.into());
    let listen = (!flags.listen.is_empty()).then(|| Raw::List(flags.listen.clone()));
    let all = [
        (
            "admin.socket",
            "--admin-socket",
            flags.admin_socket.as_ref().map(path),
        ),
        ("data", "--data", flags.data.as_ref().map(path)),
        ("listen.addresses", "--listen", listen),
        ("mode", "--mode", flags.mode.as_ref().map(text)),
        (
            "public_url",
            "--public-url",
            flags.public_url.as_ref().map(text),
        ),
        (
            "upstream.url",
            "--upstream",
            flags.upstream.as_ref().map(text),
        ),
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

/// Writes the values into `config`, the weakest first, and says what holds in the end.
fn apply(given: Vec<Given>, config: &mut Config, errors: &mut Vec<Error>) -> Vec<Setting> {
    let mut origins = BTreeMap::new();
    for Given { key, raw, origin } in given {
        match key.set(config, &raw) {
            Ok(()) => drop(origins.insert(key.path, origin)),
            Err(why) => errors.push(Error::Value {
                key: key.path,
                origin,
                why,
            }),
        }
    }
    let setting = |key: &'static Key| Setting {
        key,
        value: key.value(config),
        origin: origins.remove(key.path).unwrap_or(Origin::Default),
    };
    KEYS.iter().map(setting).collect()
}

#[cfg(test)]
mod tests;
