//! The listener: sockets, workers, limits, and one port for HTTP/1.1, HTTP/2 and the h2c upgrade.
//!
//! - `upgrade`: what the first bytes of a connection ask for (pure)
//! - `first`: reads them, answers `101` or a refusal
//! - `guard`: the memory of a connection and its time limits
//! - `http1`: actix's dispatcher under that guard
//! - `pulse`: whether each worker still gets its turn
//! - `http2`: our dispatcher over the h2 library, for prior knowledge and the upgrade alike
//!
//! ```text
//! accept (actix-server) ─▶ cap ─▶ first ─┬─▶ http1 ─┬─▶ actix service of the worker
//!                            └▶ 503      └─▶ http2 ─┘
//! ```
//!
//! A client that offers the upgrade again on a connection that stayed on HTTP/1.1 (its first
//! request had a body, say) gets its answer, and actix then closes the connection.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_http::body::{BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::{Request, Response};
use actix_service::{Service, ServiceFactory, fn_factory, fn_service};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use first::First;
use guard::{Guarded, Limits, Over, Watch};
pub use pulse::Pulse;

mod first;
mod guard;
mod http1;
mod http2;
mod pulse;
#[cfg(test)]
mod tests;
mod upgrade;

/// The most workers actix-server takes.
const WORKERS_LIMIT: usize = 512;

/// The longest time limit: a longer one is none, and a clock can be counted on by so much.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a connection that was accepted just before the end may take for its first request, which
/// may be on its way.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// How long the workers are given at the end to take what was accepted for them already, where
/// others that come meanwhile wait in a queue that outlives this process.
const TAKEN_IN: Duration = Duration::from_millis(100);

/// Connections that are told at one time that there are too many; all others are just closed.
const REFUSALS: usize = 64;

/// What may be set about the listener. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to listen. A port of 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// Threads that serve, 1 to 512.
    pub workers: usize,
    /// For the first request head of a connection, and the opening of HTTP/2.
    pub header_timeout: Duration,
    /// For a connection with nothing under way, and for one whose client takes no byte.
    pub idle_timeout: Duration,
    /// For one request with its whole answer.
    pub request_timeout: Duration,
    /// Connections at one time; others are refused with status 503.
    pub max_connections: usize,
    /// Streams at one time on one connection of HTTP/2.
    pub max_streams: u32,
    /// How long a stop waits for the answers under way.
    pub shutdown_grace: Duration,
    /// How often each worker shows that it is alive. `None`: nobody looks.
    pub heartbeat: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            request_timeout: Duration::from_secs(15 * 60),
            max_connections: 4096,
            max_streams: 256,
            shutdown_grace: Duration::from_secs(20),
            heartbeat: None,
        }
    }
}

impl Options {
    fn limits(&self) -> Limits {
        Limits {
            header: self.header_timeout.min(TIME_LIMIT),
            idle: self.idle_timeout.min(TIME_LIMIT),
            request: self.request_timeout.min(TIME_LIMIT),
        }
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No address was given.
    #[error("no address to listen on: set listen.addresses or --listen")]
    NoAddress,
    /// Somebody else listens there.
    #[error(
        "{address} is taken: stop what listens there, or choose another port with --listen or listen.addresses"
    )]
    Taken {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not let this user listen there.
    #[error(
        "no right to listen on {address}: choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No interface has the address.
    #[error(
        "{address} is no address of this machine: choose one that it has, or 0.0.0.0 or [::] for all"
    )]
    Absent {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Anything else about one address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over tells no address.
    #[error("cannot listen on a socket that was handed over")]
    Adopt {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The workers did not start, or ended by themselves.
    #[error("the workers of the listener failed")]
    Workers {
        /// What actix said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn listen(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { address, source },
            io::ErrorKind::PermissionDenied => Self::Denied { address, source },
            io::ErrorKind::AddrNotAvailable => Self::Absent { address, source },
            _ => Self::Listen { address, source },
        }
    }
}

/// What the listener counts; read whenever somebody asks.
#[derive(Debug, Default)]
pub struct Stats {
    open: AtomicUsize,
    refusing: AtomicUsize,
    http1: AtomicU64,
    http2: AtomicU64,
    upgraded: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    beats: pulse::Beats,
}

impl Stats {
    /// How the workers are.
    pub fn pulse(&self) -> Pulse {
        self.beats.pulse()
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that spoke HTTP/1.1.
    pub fn http1(&self) -> u64 {
        self.http1.load(Ordering::Relaxed)
    }

    /// Connections that spoke HTTP/2 from the first byte.
    pub fn http2(&self) -> u64 {
        self.http2.load(Ordering::Relaxed)
    }

    /// Connections that went from HTTP/1.1 to HTTP/2.
    pub fn upgraded(&self) -> u64 {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Connections turned away because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections ended by a time limit, idle ones among them.
    pub fn timed_out(&self) -> u64 {
        self.timed_out.load(Ordering::Relaxed)
    }
}

/// One more in a gauge until it is dropped.
struct Slot<'a>(&'a AtomicUsize);

impl<'a> Slot<'a> {
    fn take(gauge: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let slot = (gauge.fetch_add(1, Ordering::AcqRel) < limit, Self(gauge));
        slot.0.then_some(slot.1)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Tells the connections that the server is to end.
#[derive(Debug, Clone)]
struct Drain(watch::Receiver<bool>);

impl Drain {
    /// Resolves when it is to end.
    async fn begun(&self) {
        if self.0.clone().wait_for(|&begun| begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drain {
    fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it is to end, and who has not said a word yet has had time for it.
    async fn silent(&self) {
        self.begun().await;
        tokio::time::sleep(FIRST_WORD).await;
    }
}

/// Stops a running listener.
#[derive(Debug, Clone)]
pub struct Handle(Arc<watch::Sender<bool>>);

impl Handle {
    /// Accepts no more, and lets what is under way end; the future of [`Bound::run`] tells when.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Sockets that listen already; connections wait in the system's queue until [`Bound::run`].
#[derive(Debug)]
pub struct Bound {
    options: Options,
    sockets: Vec<(SocketAddr, TcpListener)>,
    /// Whether the sockets were handed over, and listen on when this process is gone.
    outlive: bool,
}

/// Listens on all addresses, or on none.
pub fn bind(options: Options) -> Result<Bound, Error> {
    if options.addresses.is_empty() {
        return Err(Error::NoAddress);
    }
    let listen = |&address: &SocketAddr| {
        // `[::]` takes IPv4 along unless the list has that apart.
        let mut others = options.addresses.iter();
        let only_v6 = others.any(|other| other.is_ipv4() && other.port() == address.port());
        let socket = listen(address, only_v6).map_err(|source| Error::listen(address, source))?;
        let actual = socket
            .local_addr()
            .map_err(|source| Error::listen(address, source))?;
        Ok((actual, socket))
    };
    let sockets = options
        .addresses
        .iter()
        .map(listen)
        .collect::<Result<_, _>>()?;
    Ok(Bound {
        options,
        sockets,
        outlive: false,
    })
}

/// Takes sockets that listen already, in the stead of the addresses.
pub fn adopt(options: Options, sockets: Vec<TcpListener>) -> Result<Bound, Error> {
    let adopted = |socket: TcpListener| match socket.local_addr() {
        Ok(address) => Ok((address, socket)),
        Err(source) => Err(Error::Adopt { source }),
    };
    let sockets = sockets.into_iter().map(adopted);
    Ok(Bound {
        sockets: sockets.collect::<Result<_, _>>()?,
        options,
        outlive: true,
    })
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 1024)?; // the system cuts it to its own limit
    Ok(TcpListener::from(socket))
}

impl Bound {
    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|&(address, _)| address).collect()
    }

    /// Serves until the handle says stop, and then until the answers under way are done, at most
    /// for the grace time.
    ///
    /// `make` is called with the local address, once per worker and address, on that worker.
    /// Nothing happens before the future is polled; it needs a tokio runtime. A body of known
    /// size is dropped after its last byte, without being asked for the end.
    pub fn run<M, F, B>(
        self,
        make: M,
        stats: Arc<Stats>,
    ) -> (
        impl Future<Output = Result<(), Error>> + Send + 'static,
        Handle,
    )
    where
        M: Fn(SocketAddr) -> F + Send + Clone + 'static,
        F: ServiceFactory<Request, Config = ()> + 'static,
        F::Future: 'static,
        F::Service: 'static,
        F::Response: Into<Response<B>> + 'static,
        F::Error: Into<Response<BoxBody>> + 'static,
        F::InitError: fmt::Debug,
        <F::Service as Service<Request>>::Future: 'static,
        B: MessageBody + 'static,
    {
        let (sender, receiver) = watch::channel(false);
        let handle = Handle(Arc::new(sender));
        let keep = handle.clone();
        let drain = Drain(receiver);
        let grace = self.options.shutdown_grace.min(TIME_LIMIT);
        let outlive = self.outlive;
        let server = self.into_server(&make, &drain, &stats);
        let serving = async move {
            let _keep = keep;
            let server = server.map_err(|source| Error::Workers { source })?;
            let stop = server.handle();
            let mut server = Box::pin(server);
            tokio::select! {
                outcome = &mut server => return outcome.map_err(|source| Error::Workers { source }),
                () = drain.begun() => {}
            }
            if outlive {
                let paused = async {
                    stop.pause().await;
                    tokio::time::sleep(TAKEN_IN).await;
                };
                // The server itself has to be polled for it.
                tokio::select! {
                    outcome = &mut server => return outcome.map_err(|source| Error::Workers { source }),
                    () = paused => {}
                }
            }
            // This closes the sockets at once. actix looks for the end only once a second, so the
            // end is awaited here; dropping the server ends the workers.
            let stopping = stop.stop(true);
            tokio::select! {
                _ = &mut server => {}
                () = quiet(&stats, grace) => {}
            }
            drop(server);
            drop(stopping);
            Ok(())
        };
        (serving, handle)
    }

    fn into_server<M, F, B>(
        self,
        make: &M,
        drain: &Drain,
        stats: &Arc<Stats>,
    ) -> io::Result<actix_server::Server>
    where
        M: Fn(SocketAddr) -> F + Send + Clone + 'static,
        F: ServiceFactory<Request, Config = ()> + 'static,
        F::Future: 'static,
        F::Service: 'static,
        F::Response: Into<Response<B>> + 'static,
        F::Error: Into<Response<BoxBody>> + 'static,
        F::InitError: fmt::Debug,
        <F::Service as Service<Request>>::Future: 'static,
        B: MessageBody + 'static,
    {
        let options = self.options;
        let mut builder = actix_server::Server::build()
            .workers(options.workers.clamp(1, WORKERS_LIMIT))
            .max_concurrent_connections(options.max_connections.saturating_add(2 * REFUSALS))
            .shutdown_timeout(options.shutdown_grace.as_secs().saturating_add(2))
            .disable_signals();
        let workers = options.workers.clamp(1, WORKERS_LIMIT);
        if options.heartbeat.is_some() {
            stats.beats.expect(workers * self.sockets.len());
        }
        for (address, socket) in self.sockets {
            let shared = Shared {
                limits: options.limits(),
                max_connections: options.max_connections,
                max_streams: options.max_streams,
                drain: drain.clone(),
                stats: Arc::clone(stats),
                heartbeat: options.heartbeat,
            };
            let make = make.clone();
            builder = builder.listen("http", socket, move || {
                let (make, shared) = (make.clone(), shared.clone());
                fn_factory(move || worker::<F, B>(make(address), shared.clone()))
            })?;
        }
        Ok(builder.run())
    }
}

/// Resolves when no connection is left, or after the grace time.
async fn quiet(stats: &Stats, grace: Duration) {
    let all_gone = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if stats.open() == 0 {
                return;
            }
        }
    };
    if timeout(grace, all_gone).await.is_err() {
        tracing::warn!(
            open = stats.open(),
            "the grace time is over, the rest is cut off"
        );
    }
}

/// What all workers of a socket share.
#[derive(Debug, Clone)]
struct Shared {
    limits: Limits,
    max_connections: usize,
    max_streams: u32,
    drain: Drain,
    stats: Arc<Stats>,
    heartbeat: Option<Duration>,
}

/// Makes the service of one worker that takes connections.
async fn worker<F, B>(
    factory: F,
    shared: Shared,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()>
where
    F: ServiceFactory<Request, Config = ()> + 'static,
    F::Service: 'static,
    F::Response: Into<Response<B>> + 'static,
    F::Error: Into<Response<BoxBody>> + 'static,
    F::InitError: fmt::Debug,
    <F::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let service = factory.new_service(()).await.map_err(|error| {
        tracing::error!(?error, "the service of a worker cannot be made");
    })?;
    if let Some(period) = shared.heartbeat {
        pulse::beat(&shared.stats, period);
    }
    let service = Rc::new(service);
    let http1 = http1::dispatcher::<_, B>(Rc::clone(&service), shared.drain.clone()).await?;
    let worker = Rc::new(Worker {
        shared,
        service,
        http1,
    });
    Ok(fn_service(move |io: TcpStream| {
        let worker = Rc::clone(&worker);
        async move {
            worker.connection::<B>(io).await;
            Ok(())
        }
    }))
}

/// One worker: its service, and the dispatcher of HTTP/1.1 around it.
struct Worker<S, D> {
    shared: Shared,
    service: Rc<S>,
    http1: D,
}

impl<S, D> Worker<S, D>
where
    S: Service<Request> + 'static,
    S::Error: Into<Response<BoxBody>>,
    D: Service<(Guarded<TcpStream>, Option<SocketAddr>), Response = (), Error = DispatchError>,
{
    /// Serves a connection, or turns it away.
    async fn connection<B>(&self, mut io: TcpStream)
    where
        S::Response: Into<Response<B>>,
        B: MessageBody,
    {
        let stats = &*self.shared.stats;
        let Some(_open) = Slot::take(&stats.open, self.shared.max_connections) else {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(_refusing) = Slot::take(&stats.refusing, REFUSALS) {
                first::refuse(&mut io, first::BUSY).await;
            }
            return;
        };
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before its first byte");
            return;
        }
        let first = self.first(&mut io).await;
        if self
            .dispatch(first, io)
            .await
            .is_some_and(|over| over != Over::Drained)
        {
            stats.timed_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads what the connection asks for, within the header time.
    async fn first(&self, io: &mut TcpStream) -> First {
        let mut in_head = false;
        let read = tokio::select! {
            biased;
            read = timeout(self.shared.limits.header, first::read(io, &mut in_head)) => read,
            () = self.shared.drain.silent() => return First::Close,
        };
        match read {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection ended before its first request");
                First::Close
            }
            Err(_elapsed) => {
                self.shared.stats.timed_out.fetch_add(1, Ordering::Relaxed);
                if in_head {
                    First::Refuse(first::SLOW)
                } else {
                    First::Close
                }
            }
        }
    }

    /// Hands the connection to the dispatcher of its protocol; tells why if it was given up.
    async fn dispatch<B>(&self, first: First, mut io: TcpStream) -> Option<Over>
    where
        S::Response: Into<Response<B>>,
        B: MessageBody,
    {
        let Shared {
            limits,
            max_streams,
            ref drain,
            ref stats,
            ..
        } = self.shared;
        let peer = io.peer_addr().ok();
        let (counter, replay) = match first {
            First::Close => return None,
            First::Refuse(answer) => {
                first::refuse(&mut io, answer).await;
                return None;
            }
            First::Http1(replay) => {
                stats.http1.fetch_add(1, Ordering::Relaxed);
                let io = Guarded::new(replay, io, Watch::http1(limits, Instant::now()));
                return http1::serve(&self.http1, io, peer, drain.clone()).await;
            }
            First::Http2(replay) => (&stats.http2, replay),
            First::Upgraded(replay) => (&stats.upgraded, replay),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let io = Guarded::new(replay, io, Watch::http2(limits, Instant::now()));
        http2::serve(
            io,
            peer,
            Rc::clone(&self.service),
            max_streams,
            drain.clone(),
        )
        .await
    }
}
