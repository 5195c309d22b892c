//! HTTP/1.1: actix's dispatcher, with the answers under way made known to the connection's watch.
//!
//! actix's own timers are off: they cover the first head only, and a kept connection that has
//! sent one byte of its next request has none at all. The watch covers both.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::{ConnectionType, HttpService, KeepAlive, Request, Response};
use actix_service::{Service, ServiceFactory as _, fn_service};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::drain::Drain;
use super::guard::{Flight, Guarded, Over, Watch};
use super::service::RequestService;

/// How long a client may go on sending a body that nobody reads, after its answer: long enough
/// for `cargo publish` to see a refusal and not a reset.
const LINGER: Duration = Duration::from_secs(5);

/// Takes connections of HTTP/1.1, each with the address of its client.
pub(super) trait Dispatcher<T>:
    Service<(Guarded<T>, Option<SocketAddr>), Response = (), Error = DispatchError>
{
}

impl<T, D> Dispatcher<T> for D where
    D: Service<(Guarded<T>, Option<SocketAddr>), Response = (), Error = DispatchError>
{
}

/// Makes the service that takes connections of HTTP/1.1. It counts a response as under way until
/// its body is gone.
pub(super) async fn dispatcher<T, S>(service: Rc<S>, drain: Drain) -> Result<impl Dispatcher<T>, ()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: RequestService,
{
    let draining = drain.clone();
    let tracked = fn_service(move |request: Request| {
        let flight = request.conn_data::<Rc<Watch>>().map(Watch::enter);
        let offers_upgrade = request.head().upgrade();
        let (response, drain) = (service.call(request), draining.clone());
        async move {
            let mut response: Response<BoxBody> = response.await?.into();
            // An offer that is not the connection's first request is passed over. actix closes the
            // connection then, but would say `upgrade` of it. At the end every answer is the last.
            if offers_upgrade || drain.has_begun() {
                let head = response.head_mut();
                head.set_connection_type(ConnectionType::Close);
            }
            Ok::<_, S::Error>(response.map_body(|_, body| TrackedBody {
                body,
                _flight: flight,
            }))
        }
    });
    HttpService::build()
        .keep_alive(KeepAlive::Os) // kept, without a timer
        .client_request_timeout(Duration::ZERO) // none
        .client_disconnect_timeout(LINGER)
        .graceful_shutdown_signal(move || {
            let drain = drain.clone();
            // From then on actix drops requests that it has and has not begun with: a client that has just
            // sent one gets an answer first, marked as the last.
            async move { drain.silent().await }
        })
        .on_connect_ext(|io: &Guarded<T>, data| {
            data.insert(Rc::clone(io.watch()));
        })
        .h1(tracked)
        .new_service(())
        .await
}

/// Serves one connection; returns why if it was given up.
pub(super) async fn serve<T, D: Dispatcher<T>>(
    dispatcher: &D,
    io: Guarded<T>,
    peer: Option<SocketAddr>,
    drain: Drain,
) -> Option<Over> {
    let watch = Rc::clone(io.watch());
    let given_up = async {
        tokio::select! {
            biased;
            over = watch.over() => return over,
            () = drain.begun() => watch.drain(std::time::Instant::now()),
        }
        watch.over().await
    };
    tokio::select! {
        biased;
        outcome = dispatcher.call((io, peer)) => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a connection of HTTP/1.1 ended early");
            }
            None
        }
        over = given_up => Some(over),
    }
}

/// A body that ends the flight of its answer with itself.
struct TrackedBody {
    body: BoxBody,
    _flight: Option<Flight>,
}

impl MessageBody for TrackedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
