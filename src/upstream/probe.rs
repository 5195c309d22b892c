//! One request at a time to any HTTP server, with the exact reason of a failure, for `orlop doctor`.
//!
//! Nothing here is part of how upstream is asked: no retries, no circuit breaker, no rules about
//! addresses. A [`Probe`] uses the proxy and the certificates that cargo would use, and
//! [`ProbeError`] says which step failed.

use std::{
    error::Error as StdError,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Certificate, Proxy, header};
use url::Url;

use super::{client::install_crypto, secret};
use crate::registry::{Checksum, checksum::Hasher};
use crate::util::error::chain;

/// How long connecting, and each read, may take. 10 s: less than cargo's 30, more than a slow
/// network needs.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a whole answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How much of a body is kept. The largest index files have some megabytes.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// How much of a body is read and hashed.
const MAX_READ_BYTES: u64 = 1 << 30;

/// The way that requests take.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// The proxy, as a URL or `host:port`; `None`: none.
    pub proxy: Option<String>,
    /// The certificate authorities to trust instead of the system's, as PEM.
    pub ca_file: Option<PathBuf>,
}

/// Sends requests.
#[derive(Debug, Clone)]
pub struct Probe {
    client: reqwest::Client,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// The `Date` header.
    pub date: Option<String>,
    /// The `Content-Type` header.
    pub content_type: Option<String>,
    /// Where the answer came from after redirects, without credentials.
    pub url: String,
    /// Whether the answer came from another host after redirects.
    pub is_elsewhere: bool,
    /// The first 16 MiB of the body.
    pub body: Bytes,
    /// The length of the whole body.
    pub len: u64,
    /// The sha256 of the whole body.
    pub checksum: Checksum,
    /// How long it took.
    pub took: Duration,
}

impl Reply {
    /// Whether it is a page for people, as captive portals and login walls send it.
    pub fn is_page(&self) -> bool {
        let is_html = |text: &String| text.to_ascii_lowercase().contains("html");
        let start = self.body.trim_ascii_start();
        self.content_type.as_ref().is_some_and(is_html) || start.starts_with(b"<")
    }
}

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The connection was refused, or the host does not resolve.
    #[error("no connection: {0}")]
    Connect(String),
    /// No authority that is trusted here signed the certificate.
    #[error("the certificate was issued by an authority that is not trusted here")]
    UnknownIssuer,
    /// The certificate has expired, or is not valid yet.
    #[error("the certificate {0}")]
    CertificateTime(&'static str),
    /// The certificate is for another name.
    #[error("the certificate is for another name: {0}")]
    WrongName(String),
    /// TLS failed otherwise.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The body broke off or was too long.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// The proxy or the certificates cannot be used.
    #[error("{0}")]
    Setup(String),
}

impl Probe {
    /// A probe that goes this way.
    ///
    /// # Errors
    /// [`ProbeError::Setup`] for a proxy or certificates that cannot be used.
    pub fn new(way: &Way) -> Result<Probe, ProbeError> {
        install_crypto();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("orlop-doctor/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(STEP_TIMEOUT)
            .read_timeout(STEP_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .gzip(false)
            .no_proxy();
        if let Some(proxy) = &way.proxy {
            let proxy = Proxy::all(proxy).map_err(|error| {
                ProbeError::Setup(format!("the proxy cannot be used: {}", innermost(&error)))
            })?;
            builder = builder.proxy(proxy);
        }
        if let Some(path) = &way.ca_file {
            builder = builder.tls_certs_only(read_pem(path)?);
        }
        let client = builder
            .build()
            .map_err(|error| ProbeError::Setup(innermost(&error)))?;
        Ok(Probe { client })
    }

    /// Sends a GET and reads the whole answer.
    ///
    /// # Errors
    /// [`ProbeError`], if no whole answer came.
    pub async fn get(&self, url: &Url) -> Result<Reply, ProbeError> {
        let started = Instant::now();
        let sent = self.client.get(url.clone()).send().await;
        let mut response = sent.map_err(|error| probe_error(&error))?;
        let (mut hasher, mut len, mut body) = (Hasher::default(), 0, Vec::new());
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| probe_error(&error))?
        {
            hasher.update(&piece);
            len += piece.len() as u64;
            if len > MAX_READ_BYTES {
                let text = format!("it is longer than {MAX_READ_BYTES} bytes");
                return Err(ProbeError::Broken(text));
            }
            let rest = MAX_KEPT_BYTES.saturating_sub(body.len()).min(piece.len());
            body.extend_from_slice(piece.get(..rest).unwrap_or_default());
        }
        let text = |name| {
            let value: Option<&header::HeaderValue> = response.headers().get(name);
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Ok(Reply {
            status: response.status().as_u16(),
            protocol: format!("{:?}", response.version()),
            date: text(header::DATE),
            content_type: text(header::CONTENT_TYPE),
            url: secret::shown(response.url()),
            is_elsewhere: response.url().host() != url.host(),
            body: body.into(),
            len,
            checksum: hasher.finish(),
            took: started.elapsed(),
        })
    }
}

fn read_pem(path: &Path) -> Result<Vec<Certificate>, ProbeError> {
    let shown = path.display();
    let pem = std::fs::read(path)
        .map_err(|error| ProbeError::Setup(format!("`{shown}` cannot be read: {error}")))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_none) => Err(ProbeError::Setup(format!(
            "`{shown}` has no PEM certificate"
        ))),
        Err(error) => Err(ProbeError::Setup(format!(
            "`{shown}` has no usable PEM certificate: {}",
            innermost(&error)
        ))),
    }
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Which step failed.
fn probe_error(error: &reqwest::Error) -> ProbeError {
    if let Some(found) = chain(error).find_map(|error| tls_error(error)) {
        return tls_probe_error(found);
    }
    let text = innermost(error);
    if error.is_timeout() {
        return ProbeError::Timeout;
    }
    if error.is_connect() {
        return ProbeError::Connect(text);
    }
    ProbeError::Broken(text)
}

/// The error of rustls, which travels inside errors of I/O.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    let inner: &(dyn StdError + 'static) = inner;
    tls_error(inner)
}

fn tls_probe_error(error: &rustls::Error) -> ProbeError {
    use rustls::CertificateError as Fault;
    let rustls::Error::InvalidCertificate(fault) = error else {
        return ProbeError::Tls(error.to_string());
    };
    match fault {
        Fault::UnknownIssuer => ProbeError::UnknownIssuer,
        Fault::Expired | Fault::ExpiredContext { .. } => ProbeError::CertificateTime("has expired"),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            ProbeError::CertificateTime("is not valid yet")
        }
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            ProbeError::WrongName(fault.to_string())
        }
        other => ProbeError::Tls(other.to_string()),
    }
}
