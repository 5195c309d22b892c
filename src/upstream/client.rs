//! The HTTP clients: connections, TLS, proxy and redirects, as the options say and nothing else does.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::{Certificate, ClientBuilder, Proxy, header::HeaderValue, redirect};

use super::{
    Options,
    error::{Cause, ConfigFault},
    resolve::{Resolver, Rules},
};

/// How long an unused connection is kept. 55 s: servers and middle boxes commonly close after 60,
/// and a request on a connection that is just being closed costs a round.
const KEEP_IDLE: Duration = Duration::from_secs(55);

/// The window of one HTTP/2 stream: 2 MiB fill a path of 1 Gbit/s and 16 ms.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// The window of an HTTP/2 connection: room for eight such streams, so that one download whose
/// bytes wait for our disk does not hold up index files on the same connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The two clients, which differ in what they do with an encoded body.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// Asks for gzip and undoes it: for index files.
    pub(super) decoding: reqwest::Client,
    /// Leaves bodies as they come: a `.crate` is known by its bytes.
    pub(super) verbatim: reqwest::Client,
}

impl Clients {
    pub(super) fn new(options: &Options, rules: &Arc<Rules>) -> Result<Clients, ConfigFault> {
        install_crypto();
        let certificates = match &options.ca_file {
            Some(path) => read_certificates(path)?,
            None => Vec::new(),
        };
        let build = |gzip| {
            let first = builder(options, rules, gzip)?.tls_certs_merge(certificates.clone());
            match first.build() {
                Ok(client) => Ok(client),
                Err(error) => without_system_roots(options, rules, gzip, &certificates, &error),
            }
        };
        Ok(Clients {
            decoding: build(true)?,
            verbatim: build(false)?,
        })
    }
}

/// Makes *ring* the crypto of this process, unless somebody chose before.
pub(super) fn install_crypto() {
    let installed = rustls::crypto::ring::default_provider().install_default();
    if installed.is_err() {
        tracing::trace!("a crypto provider was there already");
    }
}

fn builder(
    options: &Options,
    rules: &Arc<Rules>,
    gzip: bool,
) -> Result<ClientBuilder, ConfigFault> {
    let ping = options.stall_timeout / 3;
    let mut builder = reqwest::Client::builder()
        .user_agent(user_agent(options.contact.as_deref())?)
        .gzip(gzip)
        .referer(false)
        .redirect(redirects(rules))
        .dns_resolver(Resolver::new(Arc::clone(rules)))
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(KEEP_IDLE)
        .pool_max_idle_per_host(options.concurrency)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // A connection that went dead without a word would stay in the pool, and stall each
        // request anew: so it is asked whether it is alive, and closed before the stall limit.
        .http2_keep_alive_interval(ping)
        .http2_keep_alive_timeout(ping)
        // Nothing from the environment: the options are all there is.
        .no_proxy();
    if let Some(proxy) = &options.proxy {
        let fault = || ConfigFault::Proxy {
            proxy: proxy.to_string(),
        };
        if !matches!(
            proxy.expose().scheme(),
            "http" | "https" | "socks5" | "socks5h"
        ) {
            return Err(fault());
        }
        builder = builder.proxy(Proxy::all(proxy.expose().clone()).map_err(|_error| fault())?);
    }
    Ok(builder)
}

/// Tries again with the certificates of `ca_file` alone: a container without any of the system's
/// is enough for an upstream of plain HTTP, for one with a CA of its own, and for offline use.
fn without_system_roots(
    options: &Options,
    rules: &Arc<Rules>,
    gzip: bool,
    certificates: &[Certificate],
    error: &reqwest::Error,
) -> Result<reqwest::Client, ConfigFault> {
    let cause = Cause::innermost(error);
    let client = builder(options, rules, gzip)?
        .tls_certs_only(certificates.iter().cloned())
        .build();
    match (client, &options.ca_file) {
        (Ok(client), _) => {
            tracing::warn!(%cause, "no CA certificates of the system: `https://` upstreams need `upstream.ca_file`");
            Ok(client)
        }
        (Err(error), Some(path)) => Err(ConfigFault::NoCertificate {
            path: path.clone(),
            source: Some(Cause::innermost(&error)),
        }),
        (Err(error), None) => Err(ConfigFault::Client(Cause::innermost(&error))),
    }
}

fn user_agent(contact: Option<&str>) -> Result<HeaderValue, ConfigFault> {
    let text = match contact {
        Some(contact) => format!("orlop/{} ({contact})", env!("CARGO_PKG_VERSION")),
        None => format!("orlop/{}", env!("CARGO_PKG_VERSION")),
    };
    HeaderValue::from_str(&text).map_err(|_invalid| ConfigFault::Contact)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>, ConfigFault> {
    let pem = std::fs::read(path).map_err(|source| ConfigFault::CaFile {
        path: path.to_owned(),
        source: Arc::new(source),
    })?;
    let none = |source| ConfigFault::NoCertificate {
        path: path.to_owned(),
        source,
    };
    let found =
        Certificate::from_pem_bundle(&pem).map_err(|error| none(Some(Cause::innermost(&error))))?;
    if found.is_empty() {
        return Err(none(None));
    }
    Ok(found)
}

fn redirects(rules: &Arc<Rules>) -> redirect::Policy {
    let rules = Arc::clone(rules);
    redirect::Policy::custom(move |attempt| {
        match rules.check_redirect(attempt.previous(), attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(refusal) => attempt.error(refusal),
        }
    })
}
