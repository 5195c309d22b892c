//! The registry that orlop mirrors, as a client of it. Hides reqwest: no other module names it.
//!
//! What is asked for and what answers mean is plain values ([`sparse`], [`download`]); whether to
//! try again ([`retry`]) and whether to ask at all ([`breaker`]) are pure rules; this page puts
//! them together. Each request passes the gate of its host (a place among those under way, and the
//! breaker's leave), is bounded in time at each step and in size, and is counted once.
//!
//! This module never decides what is served, never writes to a disk, and never compares a checksum:
//! it says what upstream said, or why nothing was heard.

mod breaker;
mod client;
mod download;
mod error;
mod gate;
mod git;
pub mod probe;
mod resolve;
pub mod retry;
mod secret;
mod sparse;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use url::Url;

use crate::{
    metrics::{self, Metrics, Outcome},
    registry::{Checksum, CrateName, RegistryConfig, Release, Validators},
    util::error::{chain, one_line},
};

use client::Clients;
use download::{Frame, Tally};
use error::Subject;
use gate::{Gate, Ticket};
use resolve::Rules;
use retry::Retry;
use sparse::{Ask, Head};

pub use breaker::BreakerState;
pub use download::Download;
pub use error::{Cause, ConfigFault, Error, Kind, Stage};
pub use gate::HostHealth;
pub use git::GitAnswer;
pub use resolve::Refusal;
pub use secret::{InvalidUrl, SecretUrl};
pub use sparse::IndexAnswer;

/// How long `config.json` is believed. An hour: it changes once in years, and a download by an
/// outdated one fails loudly.
const CONFIG_FRESH_FOR: Duration = Duration::from_secs(3600);

/// How long an outdated `config.json` is used after it could not be fetched anew, before the next
/// try. A minute: it is rarely the reason for anything, and each try may cost a stall limit.
const CONFIG_PAUSE: Duration = Duration::from_secs(60);

/// What a `config.json` may have at most. It has some hundred bytes.
const MOST_CONFIG_BYTES: u64 = 64 << 10;

/// What an index file may take in all, however steadily it drips. 20 s: the largest (of crates
/// with thousands of versions) have some megabytes, and cargo itself gives up after 30 s.
const INDEX_DEADLINE: Duration = Duration::from_secs(20);

/// What is read of the body of a refusal at most: for its first words, and to keep the connection.
const MOST_REFUSAL_BYTES: u64 = 16 << 10;

/// How long the body of a refusal is waited for.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

/// How upstream is reached. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The sparse index, with or without a slash at its end.
    pub index_url: SecretUrl,
    /// The git index that is followed instead of the sparse one. `None`: none is.
    pub git_index: Option<GitIndex>,
    /// Whether the configuration of the registry comes from the git index
    /// ([`Upstream::set_config`]) and not from the sparse one, which is then never asked.
    pub given_config: bool,
    /// What a connection may take, TLS included. Less than the stall timeout, so that an address
    /// that swallows packets is told apart from a slow answer.
    pub connect_timeout: Duration,
    /// How long no byte may come.
    pub stall_timeout: Duration,
    /// What one fetch may take with its retries.
    pub deadline: Duration,
    /// How often something is tried, at least 1.
    pub attempts: u32,
    /// The pause before the second try; it doubles.
    pub backoff: Duration,
    /// After how many failures in a row the circuit breaker opens, at least 1.
    pub breaker_failures: u32,
    /// How long the circuit breaker stays open at first; it doubles up to a minute.
    pub breaker_pause: Duration,
    /// How many downloads are under way at once, and as many index requests.
    pub concurrency: usize,
    /// The proxy for all requests (`http`, `https`, `socks5`, `socks5h`). The environment is not
    /// looked at.
    pub proxy: Option<SecretUrl>,
    /// Further CA certificates, as PEM.
    pub ca_file: Option<PathBuf>,
    /// A mail address or URL for the operators of upstream; a part of the `User-Agent`.
    pub contact: Option<String>,
    /// What a crate's file may have at most.
    pub max_crate_bytes: u64,
    /// What an index file may have at most, unpacked.
    pub max_index_bytes: u64,
    /// Whether downloads may come from private addresses other than the upstream's own host.
    pub allow_private: bool,
}

impl Default for Options {
    fn default() -> Options {
        let index_url = tame_index::CRATES_IO_HTTP_INDEX.parse();
        Options::new(index_url.expect("a constant that a test parses"))
    }
}

impl Options {
    /// The defaults for the upstream whose sparse index is at `index_url`.
    pub fn new(index_url: SecretUrl) -> Options {
        Options {
            index_url,
            git_index: None,
            given_config: false,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(8),
            deadline: Duration::from_secs(10 * 60),
            attempts: 3,
            backoff: Duration::from_millis(500),
            breaker_failures: 3,
            breaker_pause: Duration::from_secs(10),
            concurrency: 64,
            proxy: None,
            ca_file: None,
            contact: None,
            max_crate_bytes: 1 << 30,
            max_index_bytes: 64 << 20,
            allow_private: false,
        }
    }
}

/// Where a git index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitIndex {
    /// At a URL of HTTP, perhaps with credentials.
    Url(SecretUrl),
    /// In a folder of this machine.
    Path(PathBuf),
}

impl std::fmt::Display for GitIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GitIndex::Url(url) => url.fmt(f),
            GitIndex::Path(path) => path.display().fmt(f),
        }
    }
}

/// What a git index in a folder of this machine is trusted with, as an index at these hosts would
/// be: that downloads come from this machine too.
const OWN_HOSTS: &[&str] = &["localhost", "127.0.0.1", "[::1]"];

/// How upstream fares, as the status page shows it.
#[derive(Debug, Clone)]
pub struct Health {
    /// The host of the index.
    pub index: HostHealth,
    /// The host that downloads are asked of.
    pub downloads: HostHealth,
}

impl Health {
    /// Whether either is being given a rest: the gauge of the metrics.
    pub fn is_breaker_open(&self) -> bool {
        [&self.index, &self.downloads]
            .iter()
            .any(|host| host.breaker != BreakerState::Closed)
    }
}

/// A registry with a sparse index. A handle: clones share connections, breakers and limits.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    /// The index, credentials included; ends in a slash.
    base: SecretUrl,
    clients: Clients,
    rules: Arc<Rules>,
    metrics: Arc<Metrics>,
    index: Arc<Gate>,
    downloads: Arc<Gate>,
    config: ConfigCache,
}

#[derive(Debug, Default)]
struct ConfigCache {
    /// What somebody else has read.
    given: Mutex<Option<Arc<RegistryConfig>>>,
    slot: Mutex<Slot>,
    /// Held by whoever fetches.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone)]
struct Slot {
    good: Option<(Instant, Arc<RegistryConfig>)>,
    bad: Option<(Instant, Error)>,
}

impl Upstream {
    /// A client of the upstream that `options` name. Sends nothing yet.
    ///
    /// # Errors
    /// [`Kind::Config`]: a URL, the contact or the file with CA certificates cannot be used.
    pub fn new(options: Options, metrics: Arc<Metrics>) -> Result<Upstream, Error> {
        let index_url = options.index_url.clone();
        Upstream::build(options, metrics).map_err(|fault| {
            Error::new(&Subject::Settings, index_url.expose(), Kind::Config(fault))
        })
    }

    fn build(options: Options, metrics: Arc<Metrics>) -> Result<Upstream, ConfigFault> {
        let base = match &options.git_index {
            Some(GitIndex::Url(url)) if options.given_config => sparse::base(url.expose())?,
            _ => sparse::base(options.index_url.expose())?,
        };
        let rules = Arc::new(rules(&options));
        let gate = || {
            let pause = options.breaker_pause;
            let limits =
                breaker::Limits::new(options.breaker_failures, pause, options.stall_timeout);
            Gate::new(limits, pause, options.concurrency)
        };
        Ok(Upstream(Arc::new(Shared {
            base: base.into(),
            clients: Clients::new(&options, &rules)?,
            rules,
            metrics,
            index: gate(),
            downloads: gate(),
            config: ConfigCache::default(),
            options,
        })))
    }

    /// The options that it was made with.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// How it fares.
    pub fn health(&self) -> Health {
        Health {
            index: self.0.index.health(),
            downloads: self.0.downloads.health(),
        }
    }

    /// Asks for the index file of `name`, unless it is still the one that `known` came with.
    /// Tries again by itself as long as a waiting client may be kept waiting.
    ///
    /// Cancel safe.
    pub async fn index_entry(
        &self,
        name: &CrateName,
        known: &Validators,
    ) -> Result<IndexAnswer, Error> {
        let ask = sparse::ask_entry(self.0.base.expose(), name, known);
        let read = |head: &Head, body| {
            let answer = sparse::read_entry(name, &ask, head, body)?;
            let outcome = match &answer {
                IndexAnswer::NotModified => Outcome::NotModified,
                IndexAnswer::Changed { .. } => Outcome::Ok,
                IndexAnswer::NotFound => Outcome::NotFound,
            };
            Ok((answer, outcome))
        };
        let request = IndexRequest {
            kind: metrics::Kind::Index,
            subject: Subject::Entry(name.clone()),
            ask: &ask,
            most_bytes: self.0.options.max_index_bytes,
        };
        self.retrying(|| self.ask_index(&request, &read)).await
    }

    /// What upstream says of itself: believed for an hour, fetched by one for all who wait, and
    /// used beyond its hour where it cannot be fetched anew.
    ///
    /// Cancel safe: who waited goes on with the fetch.
    pub async fn config(&self) -> Result<Arc<RegistryConfig>, Error> {
        if self.0.options.given_config {
            let given = self.0.config.given.lock().clone();
            return given.ok_or_else(|| {
                let fault = Kind::Config(ConfigFault::NotFollowed);
                Error::new(&Subject::Config, self.0.base.expose(), fault)
            });
        }
        let arrived = Instant::now();
        let cache = &self.0.config;
        let before = cache.slot.lock().clone();
        if let Some(config) = before.usable(arrived) {
            return Ok(config);
        }
        let _fetching = match (cache.fetching.try_lock(), before.good) {
            (Ok(guard), _) => guard,
            (Err(_busy), Some((_, outdated))) => return Ok(outdated),
            (Err(_busy), None) => cache.fetching.lock().await,
        };
        let meanwhile = cache.slot.lock().clone();
        match (meanwhile.usable(Instant::now()), meanwhile.bad) {
            (Some(config), _) => return Ok(config),
            (None, Some((then, error))) if then >= arrived => return Err(error),
            (None, _) => {}
        }
        let fetched = self.fetch_config().await;
        cache.slot.lock().take(fetched, Instant::now())
    }

    /// Says what upstream's git index says of the registry; counts where the options say so.
    pub fn set_config(&self, config: RegistryConfig) {
        *self.0.config.given.lock() = Some(Arc::new(config));
    }

    /// Asks for the file of `release`, from the byte at `from` on: one attempt. The checksum only
    /// fills in upstream's template; comparing it is the caller's.
    ///
    /// Waits for its turn as long as the deadline allows. Cancel safe.
    ///
    /// # Errors
    /// Of [`config`](Upstream::config), of the breaker, of the connection; [`Kind::NotFound`];
    /// [`Kind::TooLarge`] before a byte of the body is read.
    pub async fn download(
        &self,
        release: &Release,
        checksum: &Checksum,
        from: u64,
    ) -> Result<Download, Error> {
        let subject = Subject::File(release.clone());
        let config = self.config().await?;
        let url = self
            .download_url(&config, release, checksum)
            .map_err(|kind| Error::new(&subject, self.0.base.expose(), kind))?;
        let gate = &self.0.downloads;
        let patience = self.0.options.deadline;
        let (ticket, mut tally) = self
            .enter(gate, metrics::Kind::Crate, &subject, &url, patience)
            .await?;
        let ask = download::ask(url, from);
        match self.begin_download(ask, from, &ticket, &tally).await {
            Ok((response, frame)) => {
                let limits = download::Limits {
                    connect: self.0.options.connect_timeout,
                    stall: self.0.options.stall_timeout,
                    deadline: self.0.options.deadline,
                    most_bytes: self.0.options.max_crate_bytes,
                };
                Ok(Download::new(response, frame, limits, ticket, tally))
            }
            Err(kind) => {
                let error = tally.error(kind);
                ticket.failed(&error);
                Err(error)
            }
        }
    }

    fn download_url(
        &self,
        config: &RegistryConfig,
        release: &Release,
        checksum: &Checksum,
    ) -> Result<Url, Kind> {
        let text = config.download_url(release, checksum);
        let mut url = Url::parse(&text).map_err(|_invalid| {
            let dl = shown_template(&config.dl);
            Kind::Config(ConfigFault::Dl { dl })
        })?;
        self.0.rules.check(&url).map_err(forbidden)?;
        lend_credentials(self.0.base.expose(), &mut url);
        Ok(url)
    }

    async fn begin_download(
        &self,
        ask: Ask,
        from: u64,
        ticket: &Ticket,
        tally: &Tally,
    ) -> Result<(reqwest::Response, Frame), Kind> {
        let (head, response) = self
            .send(&self.0.clients.verbatim, ask, ticket, tally)
            .await?;
        let most_bytes = self.0.options.max_crate_bytes;
        if let Some(frame) = download::read_head(&head, from, most_bytes) {
            return Ok((response, frame?));
        }
        let body = self.refusal_body(response).await;
        Err(head.failure(sparse::one_line(&body)))
    }

    async fn fetch_config(&self) -> Result<RegistryConfig, Error> {
        let ask = sparse::ask_config(self.0.base.expose());
        let read = |head: &Head, body| {
            let config = sparse::read_config(head, &body)?;
            Ok((config, Outcome::Ok))
        };
        let request = IndexRequest {
            kind: metrics::Kind::Config,
            subject: Subject::Config,
            ask: &ask,
            most_bytes: MOST_CONFIG_BYTES,
        };
        self.retrying(|| self.ask_index(&request, &read)).await
    }

    /// Tries until it goes well, or a waiting client is to be answered.
    async fn retrying<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let budget = retry::Budget::client(&self.0.options);
        let mut retry = Retry::new(retry::Policy::client(&self.0.options), &budget);
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Ok(pause) = retry.pause(&error, fastrand::f64()) else {
                return Err(retry.give_up(error));
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One request to the index, from its turn to its last byte and what that means.
    async fn ask_index<T>(
        &self,
        request: &IndexRequest<'_>,
        read: &impl Fn(&Head, Bytes) -> Result<(T, Outcome), Kind>,
    ) -> Result<T, Error> {
        let patience = self.0.options.stall_timeout;
        let (mut ticket, mut tally) = self
            .enter(
                &self.0.index,
                request.kind,
                &request.subject,
                &request.ask.url,
                patience,
            )
            .await?;
        let whole = self.whole(request.ask.clone(), request.most_bytes, &mut ticket, &tally);
        let answer = tokio::time::timeout(INDEX_DEADLINE, whole)
            .await
            .unwrap_or(Err(Kind::Timeout {
                stage: Stage::Whole,
                limit: INDEX_DEADLINE,
            }));
        match answer.and_then(|(head, body)| read(&head, body)) {
            Ok((value, outcome)) => {
                tally.set(outcome);
                ticket.answered();
                Ok(value)
            }
            Err(kind) => {
                let error = tally.error(kind);
                ticket.failed(&error);
                Err(error)
            }
        }
    }

    /// A place at `gate` and a tally, or the error of not having been let in, counted.
    async fn enter(
        &self,
        gate: &Arc<Gate>,
        kind: metrics::Kind,
        subject: &Subject,
        url: &Url,
        patience: Duration,
    ) -> Result<(Ticket, Tally), Error> {
        let entered = gate.enter(patience).await;
        let mut tally = Tally::start(&self.0.metrics, kind, subject.clone(), url.clone());
        match entered {
            Ok(ticket) => Ok((ticket, tally)),
            Err(kind) => Err(tally.error(kind)),
        }
    }

    async fn send(
        &self,
        client: &reqwest::Client,
        ask: Ask,
        ticket: &Ticket,
        tally: &Tally,
    ) -> Result<(Head, reqwest::Response), Kind> {
        let stall = self.0.options.stall_timeout;
        let response = client.get(ask.url).headers(ask.headers).send();
        let response = tokio::time::timeout(stall, response)
            .await
            .map_err(|_elapsed| Kind::Timeout {
                stage: Stage::Head,
                limit: stall,
            })?
            .map_err(|error| self.failure(&error, Stage::Head))?;
        ticket.head_came(tally.elapsed());
        let head = Head {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
        };
        Ok((head, response))
    }

    /// The head and the whole body of an answer from the index.
    async fn whole(
        &self,
        ask: Ask,
        most_bytes: u64,
        ticket: &mut Ticket,
        tally: &Tally,
    ) -> Result<(Head, Bytes), Kind> {
        let (head, mut response) = self
            .send(&self.0.clients.decoding, ask, ticket, tally)
            .await?;
        if head.status != 200 {
            return Ok((head, self.refusal_body(response).await));
        }
        let announced = response.content_length();
        let too_large = Kind::TooLarge {
            limit: most_bytes,
            announced,
        };
        if announced.is_some_and(|bytes| bytes > most_bytes) {
            return Err(too_large);
        }
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece(&mut response).await? {
            ticket.heard();
            tally.bytes(piece.len() as u64);
            if (body.len() as u64).saturating_add(piece.len() as u64) > most_bytes {
                return Err(too_large);
            }
            body.extend_from_slice(&piece);
        }
        Ok((head, body.freeze()))
    }

    async fn piece(&self, response: &mut reqwest::Response) -> Result<Option<Bytes>, Kind> {
        let stall = self.0.options.stall_timeout;
        tokio::time::timeout(stall, response.chunk())
            .await
            .map_err(|_elapsed| Kind::Timeout {
                stage: Stage::Body,
                limit: stall,
            })?
            .map_err(|error| self.failure(&error, Stage::Body))
    }

    /// The beginning of the body of an answer that is no success. Reading it keeps the connection;
    /// that it cannot be read is no error of its own.
    async fn refusal_body(&self, mut response: reqwest::Response) -> Bytes {
        let mut body = BytesMut::new();
        let read = async {
            while let Ok(Some(piece)) = response.chunk().await {
                body.extend_from_slice(&piece);
                if body.len() as u64 > MOST_REFUSAL_BYTES {
                    break;
                }
            }
        };
        let patience = REFUSAL_PATIENCE.min(self.0.options.stall_timeout);
        if tokio::time::timeout(patience, read).await.is_err() {
            tracing::debug!("the body of a refusal did not come in time");
        }
        body.freeze()
    }

    fn failure(&self, error: &reqwest::Error, stage: Stage) -> Kind {
        let options = &self.0.options;
        transport_kind(error, stage, options.connect_timeout, options.stall_timeout)
    }
}

fn rules(options: &Options) -> Rules {
    let proxy = options.proxy.as_ref();
    let allow_private = options.allow_private;
    match (&options.git_index, options.given_config) {
        (None, _) => Rules::new(&options.index_url, proxy, allow_private),
        (Some(GitIndex::Url(git)), given) => {
            let sparse = (!given).then_some(&options.index_url);
            let urls = [git].into_iter().chain(sparse).chain(proxy);
            Rules::of_hosts(urls, &[], allow_private)
        }
        (Some(GitIndex::Path(_)), given) => {
            let sparse = (!given).then_some(&options.index_url);
            Rules::of_hosts(sparse.into_iter().chain(proxy), OWN_HOSTS, allow_private)
        }
    }
}

/// What is asked of the index, but for how the answer is read.
struct IndexRequest<'a> {
    kind: metrics::Kind,
    subject: Subject,
    ask: &'a Ask,
    most_bytes: u64,
}

impl Slot {
    /// The configuration that needs no asking at `now`.
    fn usable(&self, now: Instant) -> Option<Arc<RegistryConfig>> {
        let (fetched, config) = self.good.as_ref()?;
        let since = |then: Instant| now.saturating_duration_since(then);
        let is_fresh = since(*fetched) < CONFIG_FRESH_FOR;
        let was_just_tried = || {
            let tried = self.bad.as_ref();
            tried.is_some_and(|(then, _)| since(*then) < CONFIG_PAUSE)
        };
        (is_fresh || was_just_tried()).then(|| Arc::clone(config))
    }

    /// Takes what a fetch brought; of a failure only what is left without it.
    fn take(
        &mut self,
        fetched: Result<RegistryConfig, Error>,
        now: Instant,
    ) -> Result<Arc<RegistryConfig>, Error> {
        match (fetched, &self.good) {
            (Ok(config), _) => {
                let config = Arc::new(config);
                self.good = Some((now, Arc::clone(&config)));
                self.bad = None;
                Ok(config)
            }
            (Err(error), Some((_, outdated))) => {
                tracing::warn!(error = %one_line(&error), "goes on with an outdated `config.json` of upstream");
                self.bad = Some((now, error));
                Ok(Arc::clone(outdated))
            }
            (Err(error), None) => {
                self.bad = Some((now, error.clone()));
                Err(error)
            }
        }
    }
}

/// What an error of the HTTP client means, which came while waiting for `stage`.
fn transport_kind(
    error: &reqwest::Error,
    stage: Stage,
    connect: Duration,
    stall: Duration,
) -> Kind {
    let refusal = chain(error).find_map(|cause| cause.downcast_ref::<Refusal>());
    if let Some(refusal) = refusal {
        return forbidden(refusal.clone());
    }
    match (error.is_timeout(), error.is_connect()) {
        (true, true) => Kind::Timeout {
            stage: Stage::Connect,
            limit: connect,
        },
        (true, false) => Kind::Timeout {
            stage,
            limit: stall,
        },
        (false, true) => Kind::Refused(Cause::innermost(error)),
        (false, false) => Kind::Transport(Cause::innermost(error)),
    }
}

fn forbidden(refusal: Refusal) -> Kind {
    Kind::Forbidden(Arc::new(refusal))
}

/// Gives `url` the credentials of the index, if it leads to the very same server.
fn lend_credentials(index: &Url, url: &mut Url) {
    let is_bare = url.username().is_empty() && url.password().is_none();
    if is_bare && url.origin() == index.origin() {
        // Of a URL with a host neither can fail.
        let password = index.password();
        let lent = url.set_username(index.username());
        let lent = lent.and_then(|()| url.set_password(password));
        debug_assert!(lent.is_ok(), "an HTTP URL has a host");
    }
}

/// What of a template may be shown: nothing before an `@`, nothing after a `?`.
fn shown_template(dl: &str) -> String {
    const MOST_CHARS: usize = 200;
    let dl = dl.split('?').next().unwrap_or_default();
    let dl = dl.rsplit('@').next().unwrap_or_default();
    dl.chars().take(MOST_CHARS).collect()
}
