//! HTTP/2: one connection of the h2 library, its streams answered by an actix service.
//!
//! actix has a dispatcher of its own, which this one replaces since it sets no limit to the
//! streams of a connection, keeps an idle connection for ever, sends no GOAWAY, leaves a stream
//! whose client stopped reading without any time limit, and asks for the room of a body in steps
//! of 16 KiB.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::PayloadError;
use actix_http::header::{HeaderName, HeaderValue};
use actix_http::{Method, Payload, Request, Response, StatusCode, Uri, Version};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::drain::Drain;
use super::guard::{Guarded, Limits, Over};
use super::service::RequestService;

/// What a client may send on one stream before somebody reads it. The only bodies are those of
/// refused publishes, so this is the default of the protocol.
const STREAM_WINDOW: u32 = 65_535;

/// The same for the whole connection, so that one unread body does not stop the others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The most a request's header fields may take, by the count of RFC 7540 §6.5.2 (32 bytes more a
/// field): a first head of 16 KiB that came in by the upgrade fits.
const HEADER_LIST: u32 = 32 * 1024;

/// What one stream may have waiting for the socket: a few writes of it. With all streams of a
/// connection that is 32 MiB for a client that opens its windows and then reads nothing. (64 KiB
/// cost a tenth more CPU than 512 KiB for bodies of 1 MiB.)
const SEND_BUFFER: usize = 128 * 1024;

/// Serves one connection; returns why if it was given up.
pub(super) async fn serve<T, S>(
    io: Guarded<T>,
    peer: Option<SocketAddr>,
    service: Rc<S>,
    max_streams: u32,
    drain: Drain,
) -> Option<Over>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: RequestService,
{
    let watch = Rc::clone(io.watch());
    let limits = *watch.limits();
    let mut connection = match begin(io, max_streams, limits.header).await {
        Ok(connection) => connection,
        Err(reason) => return reason,
    };
    let mut streams = FuturesUnordered::new();
    let mut given_up = pin!(watch.over());
    let mut drained = pin!(drain.begun());
    let mut leaving = false;
    let mut reason = None;
    loop {
        reason = tokio::select! {
            biased;
            // First, for it drives the connection: all requests that are there, then all answers.
            incoming = connection.accept() => match incoming {
                None => return reason,
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection ended early");
                    return reason;
                }
                Some(Ok((request, respond))) => {
                    let flight = watch.enter();
                    let service = Rc::clone(&service);
                    streams.push(async move {
                        stream(&*service, request, respond, peer, &limits).await;
                        drop(flight);
                    });
                    // More than may be open: some were taken back by the client since.
                    if streams.len() > max_streams as usize {
                        finish_ready(&mut streams);
                    }
                    continue;
                }
            },
            Some(()) = streams.next(), if !streams.is_empty() => {
                // Those that are ready too share the next write to the socket.
                finish_ready(&mut streams);
                continue;
            }
            () = &mut drained, if !leaving => None,
            over = &mut given_up => {
                if leaving || over != Over::Idle {
                    return reason.or(Some(over));
                }
                Some(over)
            }
        };
        leaving = true;
        watch.drain(Instant::now());
        connection.graceful_shutdown();
        given_up.set(watch.over());
    }
}

/// Exchanges the settings of both sides.
async fn begin<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    max_streams: u32,
    within: Duration,
) -> Result<Connection<T, Bytes>, Option<Over>> {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(max_streams)
        .handshake(io);
    match timeout(within, handshake).await {
        Ok(begun) => begun.map_err(|error| {
            tracing::debug!(%error, "an HTTP/2 connection did not begin");
            None
        }),
        Err(_elapsed) => Err(Some(Over::Idle)),
    }
}

/// Runs the streams that can go on until none can.
fn finish_ready<F: Future<Output = ()>>(streams: &mut FuturesUnordered<F>) {
    while let Some(Some(())) = streams.next().now_or_never() {}
}

/// Answers one stream. A handler that panics or takes too long costs its own stream only.
async fn stream<S: RequestService>(
    service: &S,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Option<SocketAddr>,
    limits: &Limits,
) {
    let answer = AssertUnwindSafe(answer(service, request, &mut respond, peer, limits.idle));
    let failure = match timeout(limits.request, answer.catch_unwind()).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(failure))) => failure,
        Ok(Err(_panic)) => Failure::Panic,
        Err(_elapsed) => Failure::Overdue,
    };
    failure.log();
    respond.send_reset(failure.reason());
}

/// Why a stream did not end as it should.
enum Failure {
    /// The client took it back, or the connection is gone.
    Gone,
    /// The client made no room for so long.
    Stalled,
    /// The answer took too long.
    Overdue,
    /// The library refused what was sent.
    Send(h2::Error),
    /// The body failed.
    Body(Box<dyn StdError>),
    /// The body was shorter or longer than its head said.
    Length,
    /// The handler panicked.
    Panic,
}

impl Failure {
    fn reason(&self) -> Reason {
        match self {
            Self::Gone | Self::Stalled | Self::Overdue => Reason::CANCEL,
            Self::Send(_) | Self::Body(_) | Self::Length | Self::Panic => Reason::INTERNAL_ERROR,
        }
    }

    fn log(&self) {
        match self {
            Self::Gone => {}
            Self::Stalled => tracing::debug!("a client left a stream unread"),
            Self::Overdue => tracing::debug!("an answer took longer than its limit"),
            Self::Send(error) => tracing::debug!(%error, "a stream ended early"),
            Self::Body(error) => tracing::warn!(error, "the body of an answer failed"),
            Self::Length => tracing::error!("the body of an answer has not its announced length"),
            // The panic hook has told the rest.
            Self::Panic => tracing::error!("a handler panicked"),
        }
    }
}

async fn answer<S: RequestService>(
    service: &S,
    request: http::Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    peer: Option<SocketAddr>,
    stall: Duration,
) -> Result<(), Failure> {
    let is_head = request.method() == http::Method::HEAD;
    let Some(request) = to_actix(request, peer) else {
        let refused = http::Response::builder().status(400).body(());
        let refused = refused.map_err(|error| Failure::Body(error.into()))?;
        respond
            .send_response(refused, true)
            .map_err(Failure::Send)?;
        return Ok(());
    };
    let is_taken_back = poll_fn(|cx| Poll::Ready(respond.poll_reset(cx).is_ready())).await;
    if is_taken_back {
        return Err(Failure::Gone); // a client may do this by the thousand: no work for it
    }
    let called = {
        let mut call = pin!(service.call(request));
        poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(called) => Poll::Ready(Ok(called)),
            Poll::Pending if respond.poll_reset(cx).is_ready() => Poll::Ready(Err(Failure::Gone)),
            Poll::Pending => Poll::Pending,
        })
        .await?
    };
    match called {
        Ok(response) => send(response.into(), respond, is_head, stall).await,
        Err(error) => send(error.into(), respond, is_head, stall).await,
    }
}

/// The same request in actix's words; none if it cannot be said in them.
fn to_actix(request: http::Request<RecvStream>, peer: Option<SocketAddr>) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let payload: Payload = if body.is_end_stream() {
        Payload::None
    } else {
        Payload::Stream {
            payload: Box::pin(Upload(body)),
        }
    };
    let mut request = Request::with_payload(payload);
    let head = request.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = Uri::try_from(parts.uri.to_string()).ok()?;
    head.version = Version::HTTP_2;
    head.peer_addr = peer;
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers
            .append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(request)
}

/// The body of a request; its room is given back as it is read.
struct Upload(RecvStream);

impl Stream for Upload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(chunk) = ready!(self.0.poll_data(cx)) else {
            return Poll::Ready(None);
        };
        let chunk = chunk.and_then(|chunk| {
            self.0.flow_control().release_capacity(chunk.len())?;
            Ok(chunk)
        });
        Poll::Ready(Some(
            chunk.map_err(|error| PayloadError::Io(std::io::Error::other(error))),
        ))
    }
}

/// Sends an answer and waits until the client has made room for all of it.
async fn send(
    response: Response<BoxBody>,
    respond: &mut SendResponse<Bytes>,
    is_head: bool,
    stall: Duration,
) -> Result<(), Failure> {
    let (response, body) = response.into_parts();
    let size = match response.status() {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => BodySize::None,
        _ => body.size(),
    };
    let head = to_head(&response, size).map_err(|error| Failure::Body(error.into()))?;
    let is_end = is_head || size.is_eof();
    let mut out = respond.send_response(head, is_end).map_err(Failure::Send)?;
    if is_end {
        Ok(())
    } else {
        send_body(body, size, &mut out, stall).await
    }
}

/// The head of an answer in the words of h2, without what HTTP/2 forbids (RFC 7540 §8.1.2.2).
fn to_head(response: &Response<()>, size: BodySize) -> Result<http::Response<()>, http::Error> {
    const CONTENT_LENGTH: http::HeaderName = http::header::CONTENT_LENGTH;
    let mut head = http::Response::builder()
        .status(response.status().as_u16())
        .body(())?;
    let headers = head.headers_mut();
    for (name, value) in response.headers() {
        let is_length = name == actix_http::header::CONTENT_LENGTH;
        if is_length && size != BodySize::Stream || is_hop_by_hop(name.as_str()) {
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes())?;
        headers.append(name, http::HeaderValue::from_bytes(value.as_bytes())?);
    }
    if let BodySize::Sized(length) = size {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    if !headers.contains_key(http::header::DATE) {
        let date = httpdate::fmt_http_date(SystemTime::now());
        headers.insert(http::header::DATE, date.try_into()?);
    }
    Ok(head)
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

async fn send_body(
    body: BoxBody,
    size: BodySize,
    out: &mut SendStream<Bytes>,
    stall: Duration,
) -> Result<(), Failure> {
    let mut body = pin!(body);
    let mut left = match size {
        BodySize::Sized(length) => Some(length),
        BodySize::None | BodySize::Stream => None,
    };
    loop {
        let next = poll_fn(|cx| match body.as_mut().poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(Ok(next)),
            Poll::Pending if out.poll_reset(cx).is_ready() => Poll::Ready(Err(Failure::Gone)),
            Poll::Pending => Poll::Pending,
        });
        let Some(chunk) = next.await? else { break };
        let chunk = chunk.map_err(Failure::Body)?;
        if let Some(left) = &mut left {
            *left = left
                .checked_sub(chunk.len() as u64)
                .ok_or(Failure::Length)?;
        }
        let is_last = left == Some(0);
        if !chunk.is_empty() {
            send_chunk(chunk, is_last, out, stall).await?;
        }
        if is_last {
            return Ok(());
        }
    }
    match left {
        None => out.send_data(Bytes::new(), true).map_err(Failure::Send),
        Some(_) => Err(Failure::Length),
    }
}

/// Sends a chunk piece by piece as the client makes room; in one piece if it has.
async fn send_chunk(
    mut chunk: Bytes,
    is_last: bool,
    out: &mut SendStream<Bytes>,
    stall: Duration,
) -> Result<(), Failure> {
    loop {
        out.reserve_capacity(chunk.len());
        let room = match out.capacity() {
            0 => timeout(stall, poll_fn(|cx| out.poll_capacity(cx)))
                .await
                .map_err(|_elapsed| Failure::Stalled)?
                .ok_or(Failure::Gone)?
                .map_err(Failure::Send)?,
            room => room,
        };
        if room >= chunk.len() {
            return out.send_data(chunk, is_last).map_err(Failure::Send);
        }
        out.send_data(chunk.split_to(room), false)
            .map_err(Failure::Send)?;
    }
}
