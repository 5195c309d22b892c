//! A worker: takes each connection from the socket to the dispatcher of its protocol.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use actix_service::{Service, fn_service};
use tokio::{net::TcpStream, time::timeout};

use super::{
    acceptor::{Acceptor, Connection},
    drain::Drain,
    first::{self, First},
    guard::{Guarded, Limits, Over, Watch},
    heartbeat, http1, http2,
    service::{RequestService, RequestServiceFactory},
    stats::{Slot, Stats},
};

/// Connections that are answered at one time that there are too many; all others are just closed.
pub(super) const MAX_REFUSALS: usize = 64;

/// What all workers of a socket share.
#[derive(Debug, Clone)]
pub(super) struct Shared<A> {
    pub(super) acceptor: A,
    pub(super) limits: Limits,
    pub(super) max_connections: usize,
    pub(super) max_streams: u32,
    pub(super) drain: Drain,
    pub(super) stats: Arc<Stats>,
    pub(super) heartbeat: Option<Duration>,
}

/// Makes the service of one worker that takes connections.
pub(super) async fn worker<A, F>(
    factory: F,
    shared: Shared<A>,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()>
where
    A: Acceptor,
    F: RequestServiceFactory,
{
    let service = factory.new_service(()).await.map_err(|error| {
        tracing::error!(?error, "could not make the service of a worker");
    })?;
    if let Some(period) = shared.heartbeat {
        heartbeat::beat(&shared.stats.beats, period);
    }
    let service = Rc::new(service);
    let http1 = http1::dispatcher(Rc::clone(&service), shared.drain.clone()).await?;
    let worker = Rc::new(Worker {
        shared,
        service,
        http1,
    });
    Ok(fn_service(move |socket: TcpStream| {
        let worker = Rc::clone(&worker);
        async move {
            worker.serve(socket).await;
            Ok(())
        }
    }))
}

/// One worker: its service, and the dispatcher of HTTP/1.1 around it.
struct Worker<A, S, D> {
    shared: Shared<A>,
    service: Rc<S>,
    http1: D,
}

impl<A, S, D> Worker<A, S, D>
where
    A: Acceptor,
    S: RequestService,
    D: http1::Dispatcher<A::Io>,
{
    /// Serves the connection over a socket, or turns it away.
    async fn serve(&self, socket: TcpStream) {
        let stats = &*self.shared.stats;
        let Some(_open) = Slot::take(&stats.open, self.shared.max_connections) else {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            self.turn_away(socket).await;
            return;
        };
        let (first, Some(connection)) = self.first(socket).await else {
            return;
        };
        let ended = self.dispatch(first, connection).await;
        if ended.is_some_and(|over| over != Over::Drained) {
            stats.timed_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers that there are too many connections.
    async fn turn_away(&self, socket: TcpStream) {
        let Some(_refusing) = Slot::take(&self.shared.stats.refusing, MAX_REFUSALS) else {
            return;
        };
        let accepted = self.shared.acceptor.accept(socket);
        if let Ok(Ok(mut connection)) = timeout(self.shared.limits.header, accepted).await {
            first::refuse(&mut connection.io, first::BUSY).await;
        }
    }

    /// Accepts the connection and reads what it asks for, within the header time. `None`: it was
    /// not accepted.
    async fn first(&self, socket: TcpStream) -> (First, Option<Connection<A::Io>>) {
        let (mut accepted, mut in_head) = (None, false);
        let reading = async {
            let connection = accepted.insert(self.shared.acceptor.accept(socket).await?);
            first::read(connection, &mut in_head).await
        };
        let read = tokio::select! {
            biased;
            read = timeout(self.shared.limits.header, reading) => read,
            () = self.shared.drain.silent() => Ok(Ok(First::Close)),
        };
        let first = match read {
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
        };
        (first, accepted)
    }

    /// Hands the connection to the dispatcher of its protocol; returns why if it was given up.
    async fn dispatch(&self, first: First, connection: Connection<A::Io>) -> Option<Over> {
        let Shared {
            limits,
            max_streams,
            ref drain,
            ref stats,
            ..
        } = self.shared;
        let Connection { mut io, peer, .. } = connection;
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
        let service = Rc::clone(&self.service);
        http2::serve(io, peer, service, max_streams, drain.clone()).await
    }
}
