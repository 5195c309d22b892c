//! HTTP/1.1: actix's dispatcher, with the answers under way made known to the connection's watch.
//!
//! actix's own timers are off: they cover the first head only, and a kept connection that has
//! sent one byte of its next request has none at all. The watch covers both.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::{ConnectionType, HttpService, KeepAlive, Request, Response};
use actix_service::{Service, ServiceFactory as _, fn_factory};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::drain::Drain;
use super::guard::{Flight, Guarded, Over, Watch};

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

/// Makes the service that takes connections of HTTP/1.1.
pub(super) async fn dispatcher<T, S, B>(
    service: Rc<S>,
    drain: Drain,
) -> Result<impl Dispatcher<T>, ()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request> + 'static,
    S::Response: Into<Response<B>> + 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let draining = drain.clone();
    let tracked = fn_factory(move || {
        let tracked = Tracked {
            service: Rc::clone(&service),
            drain: draining.clone(),
            body: std::marker::PhantomData::<B>,
        };
        async move { Ok::<_, ()>(tracked) }
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

/// A service that counts its answers as under way until their bodies are gone.
struct Tracked<S, B> {
    service: Rc<S>,
    drain: Drain,
    body: std::marker::PhantomData<B>,
}

impl<S, B> Service<Request> for Tracked<S, B>
where
    S: Service<Request>,
    S::Response: Into<Response<B>>,
    S::Error: 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = Response<TrackedBody>;
    type Error = S::Error;
    type Future = Tracking<S::Future, B>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: Request) -> Self::Future {
        let flight = request.conn_data::<Rc<Watch>>().map(Watch::enter);
        let offers_upgrade = request.head().upgrade();
        Tracking {
            answer: self.service.call(request),
            flight,
            offers_upgrade,
            drain: self.drain.clone(),
            body: std::marker::PhantomData,
        }
    }
}

pin_project_lite::pin_project! {
    /// An answer in the making; its body takes the flight over.
    struct Tracking<F, B> {
        #[pin]
        answer: F,
        flight: Option<Flight>,
        offers_upgrade: bool,
        drain: Drain,
        body: std::marker::PhantomData<B>,
    }
}

impl<F, R, E, B> Future for Tracking<F, B>
where
    F: Future<Output = Result<R, E>>,
    R: Into<Response<B>>,
    B: MessageBody + 'static,
{
    type Output = Result<Response<TrackedBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer: Response<B> = ready!(this.answer.poll(cx))?.into();
        // An offer that is not the connection's first request is passed over. actix closes the
        // connection then, but would say `upgrade` of it. At the end every answer is the last.
        if *this.offers_upgrade || this.drain.has_begun() {
            let head = answer.head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        let flight = this.flight.take();
        Poll::Ready(Ok(answer.map_body(|_, body| TrackedBody {
            body: body.boxed(),
            _flight: flight,
        })))
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
