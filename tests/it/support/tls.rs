//! TLS and HTTP/2 in front of the fake upstream, under a certificate authority made for the test.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use h2::server::SendResponse;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use super::{http::Ask, orlop::write_file, peer_may_be_gone, upstream::Upstream};

/// The running server; stops when dropped.
#[derive(Debug)]
pub(crate) struct Tls {
    address: SocketAddr,
    folder: TempDir,
    spoken: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

impl Tls {
    /// Serves everything of `upstream`, whose `dl` is to lead here: [`Tls::base`].
    pub(crate) fn over(upstream: &Upstream) -> Self {
        Self::named("127.0.0.1", (1975, 4096), upstream)
    }

    /// The same with a certificate for another name, or for other years.
    pub(crate) fn named(name: &str, years: (i32, i32), upstream: &Upstream) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let papers = Papers::new(name, years);
        let config = papers.server().expect("the key fits its certificate");
        write_file(folder.path(), "ca.pem", &papers.ca);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let spoken = Arc::default();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(accept(
            listener,
            acceptor,
            upstream.address(),
            Arc::clone(&spoken),
        ));
        Self {
            address,
            folder,
            spoken,
            runtime: Some(runtime),
        }
    }

    /// Scheme, address and port.
    pub(crate) fn base(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of the authority, as PEM.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What was agreed on by ALPN, once a connection that came as far as that.
    pub(crate) fn spoken(&self) -> Vec<String> {
        self.spoken.lock().clone()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A certificate for loopback and the authority that vouches for it.
#[derive(Debug)]
pub(crate) struct Papers {
    /// The certificate of the authority, as PEM.
    pub(crate) ca: String,
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Papers {
    /// For a server of this name or address, valid in these years.
    pub(crate) fn new(name: &str, years: (i32, i32)) -> Self {
        Self::made(name, years).expect("keys and certificates can be made")
    }

    fn made(name: &str, years: (i32, i32)) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Not the name that the server's certificate has: OpenSSL would take that for its own issuer.
        params
            .distinguished_name
            .push(DnType::CommonName, "the authority of a test");
        let ca_key = KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Self {
            ca,
            certificate,
            key,
        })
    }

    fn server(&self) -> Result<ServerConfig, rustls::Error> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    upstream: SocketAddr,
    spoken: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, spoken) = (acceptor.clone(), Arc::clone(&spoken));
        tokio::spawn(async move {
            peer_may_be_gone(converse(stream, acceptor, upstream, &spoken).await);
        });
    }
}

async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    upstream: SocketAddr,
    spoken: &Mutex<Vec<String>>,
) -> anyhow::Result<()> {
    let stream = acceptor.accept(stream).await?;
    let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default();
    spoken
        .lock()
        .push(String::from_utf8_lossy(agreed).into_owned());
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let mut ask = Ask::new(request.method().as_str(), request.uri().path());
        for (name, value) in request.headers() {
            ask = ask.header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
        tokio::spawn(async move { peer_may_be_gone(answer(ask, upstream, respond).await) });
    }
    Ok(())
}

async fn answer(
    ask: Ask,
    upstream: SocketAddr,
    mut respond: SendResponse<Bytes>,
) -> anyhow::Result<()> {
    let answer = tokio::task::spawn_blocking(move || -> io::Result<_> { ask.send(upstream) });
    let answer = answer.await??;
    let mut response = ::http::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        if !["connection", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
            response = response.header(name, value);
        }
    }
    let ended = answer.body.is_empty();
    let mut body = respond.send_response(response.body(())?, ended)?;
    if !ended {
        body.send_data(answer.body.into(), true)?;
    }
    Ok(())
}
