//! The server: runs the workers over the sockets, and stops them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_service::fn_factory;
use tokio::{sync::watch, time::timeout};

use super::{
    acceptor::Acceptor,
    drain::Drain,
    error::Error,
    options::Options,
    service::RequestServiceFactory,
    sockets::{self, Socket},
    stats::Stats,
    worker::{MAX_REFUSALS, Shared, worker},
};

/// The most workers actix-server takes.
const MAX_WORKERS: usize = 512;

/// How long the workers are given at the end to take what was accepted for them already, where
/// others that come meanwhile wait in a queue that outlives this process.
const TAKE_IN_TIME: Duration = Duration::from_millis(100);

/// Stops a running listener.
#[derive(Debug, Clone)]
pub struct Handle(Arc<watch::Sender<bool>>);

impl Handle {
    /// Accepts no more, and lets what is under way end; the future of [`Bound::run`] resolves then.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Sockets that listen already; connections wait in the system's queue until [`Bound::run`].
#[derive(Debug)]
pub struct Bound {
    options: Options,
    sockets: Vec<Socket>,
    /// Whether the sockets were handed over, and listen on when this process is gone.
    outlive: bool,
}

/// Listens on all addresses, or on none.
pub fn bind(options: Options) -> Result<Bound, Error> {
    Ok(Bound {
        sockets: sockets::open(&options.addresses)?,
        options,
        outlive: false,
    })
}

/// Takes sockets that listen already, instead of the addresses.
pub fn adopt(options: Options, sockets: Vec<TcpListener>) -> Result<Bound, Error> {
    Ok(Bound {
        sockets: sockets::adopt(sockets)?,
        options,
        outlive: true,
    })
}

impl Bound {
    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|&(address, _)| address).collect()
    }

    /// Serves until the handle says stop, and then until the answers under way are done, at most
    /// for the grace time.
    ///
    /// `acceptor` makes connections out of sockets. `make` is called with the local address, once
    /// per worker and address, on that worker.
    /// Nothing happens before the future is polled; it needs a tokio runtime. A body of known
    /// size is dropped after its last byte, without being asked for the end.
    pub fn run<A, M, F>(
        self,
        acceptor: A,
        make: M,
        stats: Arc<Stats>,
    ) -> (
        impl Future<Output = Result<(), Error>> + Send + 'static,
        Handle,
    )
    where
        A: Acceptor,
        M: Fn(SocketAddr) -> F + Send + Clone + 'static,
        F: RequestServiceFactory,
    {
        let (sender, receiver) = watch::channel(false);
        let handle = Handle(Arc::new(sender));
        let keep = handle.clone();
        let drain = Drain(receiver);
        let grace = self.options.grace();
        let outlive = self.outlive;
        let server = self.into_server(acceptor, &make, &drain, &stats);
        let serving = async move {
            let _keep = keep;
            let server = server.map_err(Error::Workers)?;
            let stop = server.handle();
            let mut server = Box::pin(server);
            tokio::select! {
                outcome = &mut server => return outcome.map_err(Error::Workers),
                () = drain.begun() => {}
            }
            if outlive {
                let paused = async {
                    stop.pause().await;
                    tokio::time::sleep(TAKE_IN_TIME).await;
                };
                // The server itself has to be polled for it.
                tokio::select! {
                    outcome = &mut server => return outcome.map_err(Error::Workers),
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

    fn into_server<A, M, F>(
        self,
        acceptor: A,
        make: &M,
        drain: &Drain,
        stats: &Arc<Stats>,
    ) -> io::Result<actix_server::Server>
    where
        A: Acceptor,
        M: Fn(SocketAddr) -> F + Send + Clone + 'static,
        F: RequestServiceFactory,
    {
        let options = self.options;
        let workers = options.workers.clamp(1, MAX_WORKERS);
        let mut builder = actix_server::Server::build()
            .workers(workers)
            .max_concurrent_connections(options.max_connections.saturating_add(2 * MAX_REFUSALS))
            .shutdown_timeout(options.shutdown_grace.as_secs().saturating_add(2))
            .disable_signals();
        if options.heartbeat.is_some() {
            stats.beats.expect(workers * self.sockets.len());
        }
        let shared = Shared {
            acceptor,
            limits: options.limits(),
            max_connections: options.max_connections,
            max_streams: options.max_streams,
            drain: drain.clone(),
            stats: Arc::clone(stats),
            heartbeat: options.heartbeat,
        };
        for (address, socket) in self.sockets {
            let (make, shared) = (make.clone(), shared.clone());
            builder = builder.listen("http", socket, move || {
                let (make, shared) = (make.clone(), shared.clone());
                fn_factory(move || worker(make(address), shared.clone()))
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
