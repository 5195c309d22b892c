//! What can go wrong with upstream, told apart by what a caller can do about it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use crate::{metrics::Outcome, registry::entry::InvalidIndexFile};

use super::resolve::Refusal;
use crate::util::{error::chain, format::exact_span};

/// A request to upstream that came to nothing, shared by all who waited for it.
#[derive(Debug, Clone)]
pub struct Error(Arc<Inner>, u32);

#[derive(Debug)]
struct Inner {
    subject: Subject,
    /// Where it was asked for, without credentials.
    url: String,
    kind: Kind,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Entry(crate::registry::CrateName),
    File(crate::registry::Release),
    Config,
    Git,
    Settings,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Kind {
    /// No connection: the address or the TLS handshake was refused, or the name did not resolve.
    #[error("no connection could be made")]
    Refused(#[source] Cause),
    /// It took too long. Trying again at once would cost as much again.
    #[error("{stage} took more than {}", exact_span(*.limit))]
    Timeout {
        /// What took too long.
        stage: Stage,
        /// What it may take.
        limit: Duration,
    },
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke or carried something else than the answer")]
    Transport(#[source] Cause),
    /// A status that is no answer to the question.
    #[error("upstream answered with status {code}{}", Said(.said.as_deref()))]
    Status {
        /// The status.
        code: u16,
        /// When upstream wants to be asked again.
        retry_after: Option<Duration>,
        /// The beginning of its body in one line, for 4xx: there a person may be addressed.
        said: Option<Box<str>>,
    },
    /// Upstream does not have it.
    #[error("upstream does not have it (status {code})")]
    NotFound {
        /// 404, 410 or 451.
        code: u16,
    },
    /// The answer was not an index file: an HTML page, a cut line, another crate's file.
    #[error("what upstream sent is not the index file")]
    NotAnIndex(#[source] Arc<InvalidIndexFile>),
    /// The body is longer than it may be.
    #[error("the body is longer than the {limit} bytes that are allowed")]
    TooLarge {
        /// What is allowed.
        limit: u64,
        /// What upstream announced, if it did.
        announced: Option<u64>,
    },
    /// Upstream was not asked, because it failed just before or asked for a pause.
    #[error("upstream is given a rest after failures and is asked again in {}", shown_wait(*.retry_after))]
    Breaker {
        /// Time until it is asked again.
        retry_after: Duration,
        /// What made it so.
        #[source]
        last: Option<Error>,
    },
    /// A rule of ours keeps us from going there.
    #[error(transparent)]
    Forbidden(Arc<Refusal>),
    /// Our configuration or that of upstream does not allow it.
    #[error(transparent)]
    Config(ConfigFault),
}

/// What a request was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A place among the requests that may run at once.
    Turn,
    /// The connection.
    Connect,
    /// The head of the answer.
    Head,
    /// The next bytes of the body.
    Body,
    /// The whole answer.
    Whole,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Turn => "waiting for other requests to finish",
            Stage::Connect => "connecting",
            Stage::Head => "waiting for the head of the answer",
            Stage::Body => "waiting for the next bytes of the body",
            Stage::Whole => "the whole answer",
        })
    }
}

/// What is wrong with a configuration: ours, or the `config.json` of upstream.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigFault {
    /// The URL of the index is not one of HTTP.
    #[error(
        "an index is asked for by `http://` or `https://`, and `upstream.url` has `{scheme}://`"
    )]
    IndexScheme {
        /// What it has.
        scheme: String,
    },
    /// The file with further CA certificates cannot be read.
    #[error("the file of `upstream.ca_file`, `{}`, cannot be read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The file with further CA certificates has none that can be used.
    #[error("the file of `upstream.ca_file`, `{}`, holds no usable PEM certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Option<Cause>,
    },
    /// The URL of the proxy is none that can be used.
    #[error(
        "`upstream.proxy` is `{proxy}`, and a proxy is named by `http://`, `https://`, `socks5://` or `socks5h://`"
    )]
    Proxy {
        /// The URL, without credentials.
        proxy: String,
    },
    /// The contact cannot stand in a header.
    #[error("`upstream.contact` has a character that cannot stand in a header")]
    Contact,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up")]
    Client(#[source] Cause),
    /// Upstream's `config.json` is not there.
    #[error("there is no `config.json`: is this the URL of a sparse index?")]
    NoConfig,
    /// The index is followed by git, and its `config.json` was not given yet.
    #[error("the upstream's git index has not been fetched yet, or has no usable `config.json`")]
    NotFollowed,
    /// Upstream's `config.json` is not one.
    #[error("what upstream sent as `config.json` is none")]
    NotAConfig(#[source] Arc<serde_json::Error>),
    /// Upstream wants a token.
    #[error(
        "upstream wants a token with every request (`auth-required`), which orlop does not have"
    )]
    AuthRequired,
    /// The `dl` of upstream's `config.json` does not make a URL.
    #[error("the `dl` of upstream's `config.json`, `{dl}`, does not make a URL")]
    Dl {
        /// The template, without credentials where it can be read at all.
        dl: String,
    },
}

/// The innermost cause of a failure of the HTTP client, as text: what lies between says no more
/// than "error sending request", and may carry URLs with credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(Arc<str>);

impl Cause {
    pub(super) fn text(text: &str) -> Cause {
        Cause(text.into())
    }

    /// The end of the chain below `error`.
    pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> Cause {
        chain(error)
            .last()
            .map_or_else(|| Cause::text(""), |last| Cause(last.to_string().into()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// What upstream said, after a colon.
struct Said<'a>(Option<&'a str>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |said| write!(f, ": {said}"))
    }
}

/// Whole seconds, at least one: nobody acts on less.
fn shown_wait(wait: Duration) -> String {
    format!("{} s", wait.as_millis().div_ceil(1000).max(1))
}

impl Error {
    pub(super) fn new(subject: &Subject, url: &url::Url, kind: Kind) -> Error {
        let inner = Inner {
            subject: subject.clone(),
            url: super::secret::shown(url),
            kind,
        };
        Error(Arc::new(inner), 1)
    }

    /// The same error, after so many attempts.
    pub(super) fn after(&self, attempts: u32) -> Error {
        Error(Arc::clone(&self.0), attempts)
    }

    /// How many attempts failed with it.
    pub fn attempts(&self) -> u32 {
        self.1
    }

    /// What went wrong.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The URL that was asked, without credentials.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The label under which it is counted.
    pub fn outcome(&self) -> Outcome {
        match self.kind() {
            Kind::Refused(_) | Kind::Forbidden(_) => Outcome::Refused,
            Kind::Timeout { .. } => Outcome::Timeout,
            Kind::Transport(_) => Outcome::Transport,
            Kind::Status { .. } => Outcome::Status,
            Kind::NotFound { .. } | Kind::Config(ConfigFault::NoConfig) => Outcome::NotFound,
            Kind::NotAnIndex(_) | Kind::TooLarge { .. } | Kind::Config(_) => Outcome::Mismatch,
            Kind::Breaker { .. } => Outcome::Breaker,
        }
    }

    /// When it may go better, as far as it is known: for the `Retry-After` of our own answer.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind() {
            Kind::Status { retry_after, .. } => *retry_after,
            Kind::Breaker { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether upstream said that it does not have the file.
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind(), Kind::NotFound { .. })
    }

    /// Whether upstream answered, and what it sent was not what it should be: a lie, not trouble.
    pub fn is_lie(&self) -> bool {
        matches!(
            self.kind(),
            Kind::NotAnIndex(_)
                | Kind::TooLarge { .. }
                | Kind::Config(ConfigFault::NotAConfig(_) | ConfigFault::Dl { .. })
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.0.url;
        match &self.0.subject {
            Subject::Entry(name) => {
                write!(f, "could not get the index file of `{name}` from `{url}`")
            }
            Subject::File(release) => write!(f, "could not get `{release}` from `{url}`"),
            Subject::Config => write!(f, "could not get the registry's configuration from `{url}`"),
            Subject::Git => write!(f, "could not ask the git repository at `{url}`"),
            Subject::Settings => write!(f, "could not make a client for the upstream `{url}`"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.kind)
    }
}
