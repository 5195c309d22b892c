//! One request at a time to any HTTP server, told in detail: for finding out what is wrong.
//!
//! Nothing here is part of how the upstream is asked: no retries, no breaker, no rules about
//! addresses. A [`Probe`] goes the way that cargo would go (its proxy, its certificates), and
//! [`Trouble`] says at which step it ended.

use std::{
    error::Error as StdError,
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Certificate, Proxy, header};
use url::Url;

use super::{client::install_crypto, secret};
use crate::registry::{Checksum, checksum::Hasher};
use crate::util::error::chain;

/// How long each step may take. 10 s: less patient than cargo's 30, longer than a slow network.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a download may take in all.
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(120);

/// What is read of an answer that is kept. The largest index files have some megabytes.
const MOST_BODY_BYTES: usize = 16 << 20;

/// What is read of a file that is hashed.
const MOST_FILE_BYTES: u64 = 1 << 30;

/// The way that requests take.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// The proxy, as a URL or `host:port`; `None`: straight.
    pub proxy: Option<String>,
    /// The certificate authorities in the stead of those of the system, as PEM.
    pub ca_file: Option<PathBuf>,
}

/// Asks.
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
    /// Whether another host answered than was asked.
    pub is_elsewhere: bool,
    /// The body, up to 16 MiB.
    pub body: Bytes,
}

impl Reply {
    /// Whether it is a page for people, as captive portals and login walls send it.
    pub fn is_page(&self) -> bool {
        let is_html = |text: &String| text.to_ascii_lowercase().contains("html");
        let start = self.body.trim_ascii_start();
        self.content_type.as_ref().is_some_and(is_html) || start.starts_with(b"<")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A file that was fetched and hashed.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The status.
    pub status: u16,
    /// What the bytes hash to.
    pub checksum: Checksum,
    /// How many there were.
    pub len: u64,
    /// How long it took.
    pub took: Duration,
    /// The beginning of the body, for refusals.
    pub start: Bytes,
    /// Where it came from after redirects, without credentials.
    pub url: String,
}

/// Where a request ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody accepts connections there.
    #[error("no connection: {0}")]
    Connect(String),
    /// The certificate was signed by nobody that is trusted here.
    #[error("the certificate was issued by an authority that is not trusted here")]
    UnknownIssuer,
    /// The certificate is over, or not valid yet.
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
    /// What was to be used for asking cannot be used.
    #[error("{0}")]
    Setup(String),
}

impl Probe {
    /// A probe that goes this way.
    ///
    /// # Errors
    /// [`Trouble::Setup`] for a proxy or certificates that cannot be used.
    pub fn new(way: &Way) -> Result<Probe, Trouble> {
        install_crypto();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("orlop-doctor/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .timeout(DOWNLOAD_PATIENCE)
            .gzip(false)
            .no_proxy();
        if let Some(proxy) = &way.proxy {
            let proxy = Proxy::all(proxy).map_err(|error| {
                Trouble::Setup(format!("the proxy cannot be used: {}", innermost(&error)))
            })?;
            builder = builder.proxy(proxy);
        }
        if let Some(path) = &way.ca_file {
            builder = builder.tls_certs_only(read_pem(path)?);
        }
        let client = builder
            .build()
            .map_err(|error| Trouble::Setup(innermost(&error)))?;
        Ok(Probe { client })
    }

    /// Asks for `url`, with further headers.
    ///
    /// # Errors
    /// [`Trouble`], where no whole answer came.
    pub async fn get(&self, url: &Url, headers: &[(&str, &str)]) -> Result<Reply, Trouble> {
        let mut response = self.send(url, headers).await?;
        let text = |name| {
            let value: Option<&header::HeaderValue> = response.headers().get(name);
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let mut reply = Reply {
            status: response.status().as_u16(),
            protocol: format!("{:?}", response.version()),
            date: text(header::DATE),
            content_type: text(header::CONTENT_TYPE),
            url: secret::shown(response.url()),
            is_elsewhere: response.url().host() != url.host(),
            body: Bytes::new(),
        };
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| trouble(&error))? {
            if body.len() + piece.len() > MOST_BODY_BYTES {
                return Err(Trouble::Broken(format!(
                    "it is longer than {MOST_BODY_BYTES} bytes"
                )));
            }
            body.extend_from_slice(&piece);
        }
        reply.body = body.into();
        Ok(reply)
    }

    /// Fetches the file at `url` and hashes it.
    ///
    /// # Errors
    /// [`Trouble`], where no whole answer came.
    pub async fn fetch(&self, url: &Url) -> Result<Fetched, Trouble> {
        let started = Instant::now();
        let mut response = self.send(url, &[]).await?;
        let (mut hasher, mut len, mut start) = (Hasher::default(), 0, Bytes::new());
        while let Some(piece) = response.chunk().await.map_err(|error| trouble(&error))? {
            hasher.update(&piece);
            len += piece.len() as u64;
            if len > MOST_FILE_BYTES {
                return Err(Trouble::Broken(format!(
                    "it is longer than {MOST_FILE_BYTES} bytes"
                )));
            }
            if start.is_empty() {
                start = piece.slice(..piece.len().min(400));
            }
        }
        Ok(Fetched {
            status: response.status().as_u16(),
            checksum: hasher.finish(),
            len,
            took: started.elapsed(),
            start,
            url: secret::shown(response.url()),
        })
    }

    async fn send(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
    ) -> Result<reqwest::Response, Trouble> {
        let mut request = self.client.get(url.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.map_err(|error| trouble(&error))
    }
}

fn read_pem(path: &Path) -> Result<Vec<Certificate>, Trouble> {
    let shown = path.display();
    let pem = std::fs::read(path)
        .map_err(|error| Trouble::Setup(format!("`{shown}` cannot be read: {error}")))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_none) => Err(Trouble::Setup(format!(
            "`{shown}` holds no PEM certificate"
        ))),
        Err(error) => Err(Trouble::Setup(format!(
            "`{shown}` holds no usable PEM certificate: {}",
            innermost(&error)
        ))),
    }
}

/// The addresses of a host, or why there are none. The system's resolver has no limit of its own
/// that a person would wait for.
///
/// # Errors
/// Of the system's resolver, or that it does not answer.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let place = (
        host.trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port,
    );
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let found = place.to_socket_addrs().map(Iterator::collect);
        // Nobody waits any more when the time is over.
        let _nobody = tell.send(found);
    });
    told.recv_timeout(PATIENCE)
        .unwrap_or_else(|_late| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// How long it takes to connect to an address.
///
/// # Errors
/// Why nobody is there.
pub fn connect(address: SocketAddr) -> io::Result<Duration> {
    let started = Instant::now();
    TcpStream::connect_timeout(&address, PATIENCE / 2)?;
    Ok(started.elapsed())
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Which step failed.
fn trouble(error: &reqwest::Error) -> Trouble {
    if let Some(found) = chain(error).find_map(|error| tls_error(error)) {
        return tls_trouble(found);
    }
    let text = innermost(error);
    if error.is_timeout() {
        return Trouble::Timeout;
    }
    if error.is_connect() {
        return Trouble::Connect(text);
    }
    Trouble::Broken(text)
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

fn tls_trouble(error: &rustls::Error) -> Trouble {
    use rustls::CertificateError as Fault;
    let rustls::Error::InvalidCertificate(fault) = error else {
        return Trouble::Tls(error.to_string());
    };
    match fault {
        Fault::UnknownIssuer => Trouble::UnknownIssuer,
        Fault::Expired | Fault::ExpiredContext { .. } => Trouble::CertificateTime("has expired"),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            Trouble::CertificateTime("is not valid yet")
        }
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            Trouble::WrongName(fault.to_string())
        }
        other => Trouble::Tls(other.to_string()),
    }
}
