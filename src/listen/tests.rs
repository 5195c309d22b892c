//! The listener with real sockets on loopback.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll, ready},
    time::{Duration, Instant},
};

use actix_http::{
    HttpMessage as _, Method, Request, Response, StatusCode,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    header::HeaderName,
};
use actix_service::fn_service;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use super::{stats::Slot, *};

const BIG: usize = 2 * 1024 * 1024;
const OFFER: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n";

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Handlers of `/held` that have neither ended nor been dropped.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Requests for `/gated` that came, and the gate that keeps their answers: for one test.
static GATED: AtomicUsize = AtomicUsize::new(0);
static GATE: Semaphore = Semaphore::const_new(0);

/// Requests for `/waiting` that came: for one test.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Waits until so many requests were counted.
async fn counted(requests: &AtomicUsize, count: usize) -> Result<()> {
    let all = async {
        while requests.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    Ok(timeout(PATIENCE, all).await?)
}

type Answer = Result<Response<BoxBody>, Infallible>;

/// Answers for all tests: the path chooses what.
async fn answer(mut request: Request) -> Answer {
    let ok = |body: BoxBody| Ok(Response::with_body(StatusCode::OK, body));
    match request.path() {
        "/big" => ok(BoxBody::new(Bytes::from(vec![b'x'; BIG]))),
        "/stream" => {
            let chunks = (0..64).map(|n| Ok::<_, io::Error>(Bytes::from(vec![n; 5000])));
            ok(BoxBody::new(BodyStream::new(futures_util::stream::iter(
                chunks,
            ))))
        }
        "/cut" => {
            let chunks = [
                Ok(Bytes::from_static(b"half")),
                Err(io::Error::other("a test fails it")),
            ];
            ok(BoxBody::new(BodyStream::new(futures_util::stream::iter(
                chunks,
            ))))
        }
        "/short" => ok(BoxBody::new(Short)),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            ok(BoxBody::new("slow"))
        }
        "/never" => std::future::pending().await,
        "/gated" => {
            GATED.fetch_add(1, Ordering::SeqCst);
            GATE.acquire().await.expect("the gate stays").forget();
            ok(BoxBody::new("late"))
        }
        "/waiting" => {
            WAITING.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
        "/held" => {
            HELD.fetch_add(1, Ordering::SeqCst);
            let _slot = Slot(&HELD);
            std::future::pending().await
        }
        "/panic" => panic!("a test asks for it"),
        "/peer" => ok(BoxBody::new(format!("{:?}", request.peer_addr()))),
        "/upload" => {
            let body: BytesMut = request
                .take_payload()
                .try_collect()
                .await
                .unwrap_or_default();
            ok(BoxBody::new(body.len().to_string()))
        }
        path => {
            let host = request
                .headers()
                .get("host")
                .map(|host| host.to_str().unwrap());
            let host = host.or_else(|| request.uri().host()).unwrap_or("-");
            let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            let text = format!(
                "{} {path} {:?} {host} {}",
                request.method(),
                request.version(),
                names.join(",")
            );
            assert!(request.method() != Method::PATCH);
            ok(BoxBody::new(text))
        }
    }
}

/// A body that says ten bytes and has four.
struct Short;

impl MessageBody for Short {
    type Error = Infallible;
    fn size(&self) -> BodySize {
        BodySize::Sized(10)
    }
    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Task<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}

struct Server {
    address: SocketAddr,
    stats: Arc<Stats>,
    handle: Handle,
    ended: JoinHandle<Result<(), Error>>,
}

impl Server {
    fn start(change: impl FnOnce(&mut Options)) -> Result<Self> {
        Server::start_over(Plain, change)
    }

    fn start_over(acceptor: impl Acceptor, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let mut options = Options {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            workers: 1,
            ..Options::default()
        };
        change(&mut options);
        let bound = bind(options)?;
        let address = bound.addresses()[0];
        let stats = Arc::new(Stats::default());
        let (serving, handle) = bound.run(acceptor, |_| fn_service(answer), Arc::clone(&stats));
        Ok(Self {
            address,
            stats,
            handle,
            ended: tokio::spawn(serving),
        })
    }

    async fn connect(&self) -> Result<TcpStream> {
        Ok(TcpStream::connect(self.address).await?)
    }

    /// Waits until no connection is left, and with it until all is counted.
    async fn emptied(&self) -> Result<()> {
        let gone = async {
            while self.stats.open() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        Ok(timeout(PATIENCE, gone).await?)
    }

    async fn stop(self) -> Result<Duration> {
        let start = Instant::now();
        self.handle.stop();
        timeout(PATIENCE, self.ended).await???;
        Ok(start.elapsed())
    }
}

/// Reads one answer with a Content-Length; status line and body.
async fn read_answer(io: &mut (impl AsyncRead + Unpin)) -> Result<(String, String)> {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await?);
        }
        let head = String::from_utf8(head)?.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(Ok(0), str::parse)?];
        io.read_exact(&mut body).await?;
        anyhow::Ok((head, String::from_utf8(body)?))
    };
    timeout(PATIENCE, reading).await?
}

async fn get(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
) -> Result<(String, String)> {
    io.write_all(format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n").as_bytes())
        .await?;
    read_answer(io).await
}

/// Whether the server has closed the connection, with or without more bytes before.
async fn closed(io: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut rest = Vec::new();
    match timeout(PATIENCE, io.read_to_end(&mut rest)).await? {
        Ok(_) => Ok(rest),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(rest),
        Err(error) => Err(error.into()),
    }
}

async fn http2(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>)> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .handshake(io)
        .await?;
    Ok((client, tokio::spawn(connection)))
}

async fn fetch(client: &SendRequest<Bytes>, path: &str) -> Result<(u16, Bytes)> {
    let fetching = async {
        let mut client = client.clone().ready().await?;
        let request = http::Request::get(format!("http://mirror{path}")).body(())?;
        let response = client.send_request(request, true)?.0.await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut all = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            all.extend_from_slice(&chunk);
        }
        anyhow::Ok((status, all.freeze()))
    };
    timeout(PATIENCE, fetching).await?
}

/// One frame: kind, flags, stream, payload.
async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> Result<(u8, u8, u32, Vec<u8>)> {
    let reading = async {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length)?];
        io.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        anyhow::Ok((head[3], head[4], stream, payload))
    };
    timeout(PATIENCE, reading).await?
}

/// Sends a request with the offer and reads the `101`.
async fn upgrade(io: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\nX-Mark: 1\r\n{OFFER}\r\n");
    io.write_all(request.as_bytes()).await?;
    let mut switching = vec![0; upgrade::SWITCHING.len()];
    timeout(PATIENCE, io.read_exact(&mut switching)).await??;
    ensure!(
        switching == upgrade::SWITCHING,
        "{}",
        String::from_utf8_lossy(&switching)
    );
    Ok(())
}

#[tokio::test]
async fn a_connection_of_http1_serves_several_requests() -> Result<()> {
    let server = Server::start(|_| {})?;
    let mut io = server.connect().await?;
    for n in 0..3 {
        let (head, body) = get(&mut io, &format!("/{n}")).await?;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(body, format!("GET /{n} HTTP/1.1 mirror host"));
    }
    assert_eq!(get(&mut io, "/big").await?.1.len(), BIG);
    assert_eq!((server.stats.http1(), server.stats.open()), (1, 1));
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn two_requests_in_one_packet_are_both_answered() -> Result<()> {
    let server = Server::start(|_| {})?;
    let mut io = server.connect().await?;
    io.write_all(b"\r\nGET /a HTTP/1.1\r\nHost: m\r\n\r\nGET /b HTTP/1.1\r\nHost: m\r\n\r\n")
        .await?;
    assert!(read_answer(&mut io).await?.1.starts_with("GET /a"));
    assert!(read_answer(&mut io).await?.1.starts_with("GET /b"));
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_served() -> Result<()> {
    let server = Server::start(|_| {})?;
    let (client, _driver) = http2(server.connect().await?).await?;
    assert_eq!(
        fetch(&client, "/a").await?,
        (200, "GET /a HTTP/2.0 mirror ".into())
    );
    let stream = fetch(&client, "/stream").await?.1;
    assert_eq!(
        (stream.len(), stream[4999], stream[5000]),
        (64 * 5000, 0, 1)
    );
    assert_eq!(fetch(&client, "/big").await?.1.len(), BIG);
    assert_eq!(server.stats.http2(), 1);
    server.stop().await?;
    Ok(())
}

/// Preface, SETTINGS with a stream window of 16 MiB, the same room for the connection; in pieces.
async fn open_wide(io: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let mut opening = upgrade::PREFACE.to_vec();
    opening.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0]);
    opening.extend([0, 0, 4, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    for piece in opening.chunks(7) {
        io.write_all(piece).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The body of the answer on a stream of a connection spoken by hand.
async fn read_stream(io: &mut (impl AsyncRead + Unpin), wanted: u32) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (kind, flags, stream, payload) = read_frame(io).await?;
        match kind {
            0 if stream == wanted => body.extend(payload),
            1 if stream == wanted => ensure!(payload[0] == 0x88, "not `:status: 200`: {payload:?}"),
            0 | 1 | 3 | 7 => bail!("frame {kind} on {stream}: {payload:?}"),
            _ => {}
        }
        if kind <= 1 && flags & 1 == 1 {
            return Ok(body);
        }
    }
}

/// A HEADERS frame as the client would send it.
fn headers_of(path: &str, stream: u8) -> Result<Vec<u8>> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\nX-Mark: 1\r\n{OFFER}\r\n");
    let upgrade::Decision::Upgrade { headers, .. } =
        upgrade::decide(head.as_bytes(), Protocol::Undecided)
    else {
        bail!("no upgrade");
    };
    let mut frame = headers.to_vec();
    frame[8] = stream;
    Ok(frame)
}

#[tokio::test]
async fn the_request_that_carried_the_offer_is_stream_1_and_others_follow() -> Result<()> {
    let server = Server::start(|_| {})?;
    let mut io = server.connect().await?;
    upgrade(&mut io, "/big").await?;
    open_wide(&mut io).await?;
    assert!(read_stream(&mut io, 1).await? == vec![b'x'; BIG]);
    for stream in [3, 5] {
        io.write_all(&headers_of("/x?y=1", stream)?).await?;
        let body = String::from_utf8(read_stream(&mut io, stream.into()).await?)?;
        assert_eq!(body, "GET /x HTTP/2.0 mirror x-mark");
    }
    assert_eq!(
        (
            server.stats.upgraded(),
            server.stats.http1(),
            server.stats.http2()
        ),
        (1, 0, 0)
    );
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn another_opening_than_that_of_http2_after_the_101_closes() -> Result<()> {
    let server = Server::start(|options| options.header_timeout = PATIENCE * 10)?;
    let mut io = server.connect().await?;
    upgrade(&mut io, "/").await?;
    io.write_all(b"GET / HTTP/1.1\r\nHost: m\r\n\r\n").await?;
    assert_eq!(closed(&mut io).await?, b"");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_request_with_a_body_stays_on_http1_and_the_connection_is_kept() -> Result<()> {
    let server = Server::start(|_| {})?;
    let mut io = server.connect().await?;
    let head = format!("POST /upload HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n{OFFER}\r\nhello");
    io.write_all(head.as_bytes()).await?;
    let (head, body) = read_answer(&mut io).await?;
    assert!(
        head.starts_with("http/1.1 200") && !head.contains("connection: close"),
        "{head}"
    );
    assert_eq!(body, "5");
    assert_eq!(
        get(&mut io, "/next").await?.1,
        "GET /next HTTP/1.1 mirror host"
    );
    assert_eq!((server.stats.upgraded(), server.stats.http1()), (0, 1));
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_body_over_http2_is_read() -> Result<()> {
    let server = Server::start(|_| {})?;
    let (client, _driver) = http2(server.connect().await?).await?;
    let request = http::Request::put("http://mirror/upload").body(())?;
    let (response, mut out) = client.ready().await?.send_request(request, false)?;
    out.send_data(Bytes::from(vec![1; 300_000]), true)?;
    let mut body = timeout(PATIENCE, response).await??.into_body();
    assert_eq!(body.data().await.context("no body")??, "300000");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_hurt_the_answer() -> Result<()> {
    let server = Server::start(|_| {})?;
    let mut io = server.connect().await?;
    io.write_all(b"PUT /x HTTP/1.1\r\nHost: m\r\nContent-Length: 3000000\r\n\r\n")
        .await?;
    io.write_all(&vec![1; 3_000_000]).await?;
    let (head, body) = read_answer(&mut io).await?;
    assert!(
        head.starts_with("http/1.1 200") && body.starts_with("PUT /x"),
        "{head}{body}"
    );

    let (client, _driver) = http2(server.connect().await?).await?;
    for _ in 0..8 {
        let request = http::Request::put("http://mirror/x").body(())?;
        let (response, mut out) = client.clone().ready().await?.send_request(request, false)?;
        // The stream may be over before its body is.
        let _sent = out.send_data(Bytes::from(vec![1; 300_000]), true);
        assert_eq!(timeout(PATIENCE, response).await??.status(), 200);
    }
    assert_eq!(fetch(&client, "/after").await?.0, 200);
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn streams_taken_back_leave_nothing_behind() -> Result<()> {
    let server = Server::start(|options| options.max_streams = 4)?;
    let (client, _driver) = http2(server.connect().await?).await?;
    for _ in 0..50 {
        let request = http::Request::get("http://mirror/held").body(())?;
        let (response, _) = client.clone().ready().await?.send_request(request, true)?;
        while HELD.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(response); // takes it back
        assert_eq!(fetch(&client, "/a").await?.0, 200);
        let released = async {
            while HELD.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, released).await?;
    }
    assert!(server.stop().await? < Options::default().shutdown_grace / 2);
    Ok(())
}

#[tokio::test]
async fn a_panic_over_http1_costs_its_own_connection_only() -> Result<()> {
    let server = Server::start(|_| {})?;
    let (mut one, mut other) = (server.connect().await?, server.connect().await?);
    get(&mut other, "/a").await?;
    one.write_all(b"GET /panic HTTP/1.1\r\nHost: m\r\n\r\n")
        .await?;
    assert_eq!(closed(&mut one).await?, b"");
    assert!(get(&mut other, "/b").await?.0.starts_with("http/1.1 200"));
    drop(other);
    server.emptied().await?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_head_answer_over_http2_has_a_length_and_no_body() -> Result<()> {
    let server = Server::start(|_| {})?;
    let (client, _driver) = http2(server.connect().await?).await?;
    let request = http::Request::head("http://mirror/big").body(())?;
    let (response, _) = client.ready().await?.send_request(request, true)?;
    let response = timeout(PATIENCE, response).await??;
    assert_eq!(response.headers()["content-length"], BIG.to_string());
    assert!(response.headers().contains_key("date"));
    assert!(response.into_body().is_end_stream());
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn many_streams_of_one_connection_are_answered_together() -> Result<()> {
    let server = Server::start(|_| {})?;
    let (client, _driver) = http2(server.connect().await?).await?;
    fetch(&client, "/").await?; // the server's SETTINGS are known from here on
    let start = Instant::now();
    let fetches = (0..128).map(|_| fetch(&client, "/slow"));
    let answers = futures_util::future::try_join_all(fetches).await?;
    assert!(
        answers
            .iter()
            .all(|answer| answer == &(200, Bytes::from("slow")))
    );
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "128 half seconds one by one are 64"
    );
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_limit_of_streams_is_told_to_the_client() -> Result<()> {
    let server = Server::start(|options| options.max_streams = 7)?;
    let (client, _driver) = http2(server.connect().await?).await?;
    fetch(&client, "/").await?;
    assert_eq!(client.current_max_send_streams(), 7);
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_failing_answer_costs_its_own_stream_only() -> Result<()> {
    let server = Server::start(|_| {})?;
    let (client, driver) = http2(server.connect().await?).await?;
    for path in ["/cut", "/short", "/panic"] {
        let error = fetch(&client, path).await.expect_err(path);
        let reason = error.downcast::<h2::Error>()?.reason();
        assert_eq!(reason, Some(h2::Reason::INTERNAL_ERROR), "{path}");
    }
    assert_eq!(fetch(&client, "/after").await?.0, 200);
    assert!(!driver.is_finished());
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_taken_back() -> Result<()> {
    let server = Server::start(|options| options.request_timeout = Duration::from_secs(1))?;
    let (client, driver) = http2(server.connect().await?).await?;
    let error = fetch(&client, "/never")
        .await
        .expect_err("it never answers");
    assert_eq!(
        error.downcast::<h2::Error>()?.reason(),
        Some(h2::Reason::CANCEL)
    );
    assert_eq!(fetch(&client, "/after").await?.0, 200);
    let mut io = server.connect().await?;
    io.write_all(b"GET /never HTTP/1.1\r\nHost: m\r\n\r\n")
        .await?;
    assert_eq!(closed(&mut io).await?, b"");
    drop((client, driver));
    server.emptied().await?;
    assert_eq!(server.stats.timed_out(), 1);
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_head_that_drips_is_cut_off() -> Result<()> {
    let server = Server::start(|options| options.header_timeout = Duration::from_secs(1))?;
    let start = Instant::now();
    let mut slow = server.connect().await?;
    let mut silent = server.connect().await?;
    let mut after_101 = server.connect().await?;
    upgrade(&mut after_101, "/").await?;
    let (mut reading, mut writing) = slow.split();
    let drip = async {
        for byte in b"GET / HTTP/1.1\r\nX-Long: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        biased; // the word may be there when the next byte finds the way closed
        read = reading.read_exact(&mut answer) => { read?; }
        () = drip => bail!("cut without a word"),
        () = tokio::time::sleep(PATIENCE) => bail!("not cut"),
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(start.elapsed() >= Duration::from_millis(900));
    assert_eq!(closed(&mut silent).await?, b"");
    assert_eq!(
        closed(&mut after_101).await?,
        b"",
        "HTTP/1.1 is no answer here any more"
    );
    drop(slow);
    server.emptied().await?;
    assert_eq!(server.stats.timed_out(), 3);
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_that_drips_its_next_request_too() -> Result<()> {
    let server = Server::start(|options| options.idle_timeout = Duration::from_secs(1))?;
    let mut idle = server.connect().await?;
    get(&mut idle, "/").await?;
    let mut dripping = server.connect().await?;
    get(&mut dripping, "/").await?;
    dripping.write_all(b"GET / HT").await?;
    let (client, driver) = http2(server.connect().await?).await?;
    fetch(&client, "/").await?;
    assert_eq!(closed(&mut idle).await?, b"");
    assert_eq!(closed(&mut dripping).await?, b"");
    timeout(PATIENCE, driver).await???; // a GOAWAY, not an error
    server.emptied().await?;
    assert_eq!(server.stats.timed_out(), 3);
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() -> Result<()> {
    let server = Server::start(|options| options.idle_timeout = Duration::from_millis(500))?;
    // More than the system's buffers hold is asked for and never read.
    let mut io = server.connect().await?;
    for _ in 0..16 {
        io.write_all(b"GET /big HTTP/1.1\r\nHost: m\r\n\r\n")
            .await?;
    }
    // A stream without a window, on a connection that is well otherwise.
    let io2 = server.connect().await?;
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(io2)
        .await?;
    let _driver = tokio::spawn(connection);
    let error = fetch(&client, "/big").await.expect_err("there is no room");
    assert_eq!(
        error.downcast::<h2::Error>()?.reason(),
        Some(h2::Reason::CANCEL)
    );
    server.emptied().await?;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn connections_over_the_cap_are_told_so() -> Result<()> {
    let server = Server::start(|options| options.max_connections = 2)?;
    let (mut one, mut two) = (server.connect().await?, server.connect().await?);
    get(&mut one, "/").await?;
    get(&mut two, "/").await?;
    let mut three = server.connect().await?;
    let (head, body) = get(&mut three, "/").await?;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after"),
        "{head}"
    );
    assert!(body.ends_with("retry.\n"), "{body}");
    assert_eq!(closed(&mut three).await?, b"");
    assert_eq!((server.stats.refused(), server.stats.http1()), (1, 2));
    drop(one);
    let admitted = async {
        loop {
            let mut four = server.connect().await?;
            if get(&mut four, "/").await?.0.starts_with("http/1.1 200") {
                return anyhow::Ok(());
            }
        }
    };
    timeout(PATIENCE, admitted).await??;
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_request_is_refused() -> Result<()> {
    let server = Server::start(|_| {})?;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let two_hosts = format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{OFFER}\r\n");
    let no_host = format!("GET / HTTP/1.1\r\n{OFFER}\r\n");
    for (sent, status) in [
        (long.as_str(), "http/1.1 431"),
        ("\u{16}\u{3}\u{1}", "http/1.1 400"),
        (&two_hosts, "http/1.1 400"),
        (&no_host, "http/1.1 400"),
        ("GET / FTP/7\r\n\r\n", "http/1.1 400"),
    ] {
        let mut io = server.connect().await?;
        io.write_all(sent.as_bytes()).await?;
        let head = read_answer(&mut io).await?.0;
        assert!(head.starts_with(status), "{sent:.40}: {head}");
        assert_eq!(closed(&mut io).await?, b"");
    }
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once_and_lets_busy_ones_finish() -> Result<()> {
    let server = Server::start(|_| {})?;
    let address = server.address;
    let mut silent = server.connect().await?;
    let mut idle = server.connect().await?;
    get(&mut idle, "/").await?;
    let (idle2, idle2_driver) = http2(server.connect().await?).await?;
    fetch(&idle2, "/").await?;
    let mut busy = server.connect().await?;
    busy.write_all(b"GET /gated HTTP/1.1\r\nHost: m\r\n\r\n")
        .await?;
    let (busy2, busy2_driver) = http2(server.connect().await?).await?;
    fetch(&busy2, "/").await?;
    let slow = tokio::spawn({
        let busy2 = busy2.clone();
        async move { fetch(&busy2, "/gated").await }
    });
    let mut upgraded = server.connect().await?;
    upgrade(&mut upgraded, "/gated").await?;
    open_wide(&mut upgraded).await?;
    counted(&GATED, 3).await?;

    let release = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        GATE.add_permits(3);
    };
    let (taken, ()) = tokio::join!(server.stop(), release);
    let taken = taken?;
    assert!(taken < Options::default().shutdown_grace / 2, "{taken:?}");
    let (head, body) = read_answer(&mut busy).await?;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body, "late");
    assert_eq!(slow.await??, (200, "late".into()));
    let rest = closed(&mut upgraded).await?;
    let (mut rest, mut kinds) = (&rest[..], Vec::new());
    while let [l1, l2, l3, kind, ..] = *rest {
        kinds.push(kind);
        rest = &rest[9 + usize::try_from(u32::from_be_bytes([0, l1, l2, l3]))?..];
    }
    let headers = kinds.iter().position(|&kind| kind == 1);
    let data = kinds.iter().position(|&kind| kind == 0);
    assert!(
        headers < data && data.is_some() && kinds.contains(&7),
        "no GOAWAY: {kinds:?}"
    );
    assert_eq!(closed(&mut silent).await?, b"");
    assert_eq!(closed(&mut idle).await?, b"");
    timeout(PATIENCE, idle2_driver).await???;
    timeout(PATIENCE, busy2_driver).await???;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the socket is closed"
    );
    Ok(())
}

#[tokio::test]
async fn a_stop_waits_no_longer_than_the_grace_time() -> Result<()> {
    let server = Server::start(|options| options.shutdown_grace = Duration::from_millis(300))?;
    let mut never = server.connect().await?;
    never
        .write_all(b"GET /waiting HTTP/1.1\r\nHost: m\r\n\r\n")
        .await?;
    counted(&WAITING, 1).await?;
    let taken = server.stop().await?;
    assert!(
        taken >= Duration::from_millis(300) && taken < Duration::from_secs(10),
        "{taken:?}"
    );
    assert_eq!(closed(&mut never).await?, b"");
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_remedy() -> Result<()> {
    let first = bind(Options {
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..Options::default()
    })?;
    let address = first.addresses()[0];
    let error = bind(Options {
        addresses: vec![address],
        ..Options::default()
    })
    .unwrap_err();
    assert!(error.to_string().contains("is taken"), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let absent = "192.0.2.1:0".parse()?;
    let error = bind(Options {
        addresses: vec![absent],
        ..Options::default()
    })
    .unwrap_err();
    let said = "is no address of this machine";
    assert!(error.to_string().contains(said), "{error:?}");
    let error = bind(Options {
        addresses: vec![],
        ..Options::default()
    })
    .unwrap_err();
    assert!(matches!(&error, Error::NoAddress), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn both_families_may_listen_on_one_port() -> Result<()> {
    let options = |addresses: &[SocketAddr]| Options {
        addresses: addresses.to_vec(),
        ..Options::default()
    };
    if bind(options(&["[::]:0".parse()?])).is_err() {
        return Ok(()); // a machine without IPv6
    }
    // Somebody may take the port in between, but not each time.
    for _ in 0..5 {
        let port = bind(options(&["0.0.0.0:0".parse()?]))?.addresses()[0].port();
        let both = [
            format!("0.0.0.0:{port}").parse()?,
            format!("[::]:{port}").parse()?,
        ];
        if let Ok(bound) = bind(options(&both)) {
            assert_eq!(bound.addresses(), both);
            return Ok(());
        }
    }
    bail!("IPv4 and IPv6 exclude each other")
}

#[tokio::test]
async fn an_app_of_actix_web_is_a_service() -> Result<()> {
    use actix_service::{IntoServiceFactory as _, map_config};
    use actix_web::{App, HttpRequest, dev::AppConfig, web};

    let who = |request: HttpRequest| async move {
        let info = request.connection_info();
        let peer = request.peer_addr().map(|peer| peer.ip().to_string());
        format!(
            "{}://{} {}",
            info.scheme(),
            info.host(),
            peer.unwrap_or_default()
        )
    };
    let options = Options {
        addresses: vec!["127.0.0.1:0".parse()?],
        workers: 1,
        ..Options::default()
    };
    let bound = bind(options)?;
    let address = bound.addresses()[0];
    let make = move |_| {
        let app = App::new().route("/who", web::get().to(who));
        map_config(app.into_factory(), |()| AppConfig::default())
    };
    let (serving, handle) = bound.run(Plain, make, Arc::new(Stats::default()));
    let ended = tokio::spawn(serving);
    let mut io = TcpStream::connect(address).await?;
    assert_eq!(get(&mut io, "/who").await?.1, "http://mirror 127.0.0.1");
    assert!(get(&mut io, "/else").await?.0.starts_with("http/1.1 404"));
    let (client, _driver) = http2(TcpStream::connect(address).await?).await?;
    assert_eq!(
        fetch(&client, "/who").await?,
        (200, "http://mirror 127.0.0.1".into())
    );
    assert_eq!(fetch(&client, "/else").await?.0, 404);
    handle.stop();
    timeout(PATIENCE, ended).await???;
    Ok(())
}

/// The other end of [`Flipping`]: every bit of the bytes is the other way round, as if encrypted.
struct Flipped(TcpStream);

impl AsyncRead for Flipped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        for byte in &mut buf.filled_mut()[before..] {
            *byte = !*byte;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flipped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flipped: Vec<u8> = bytes.iter().map(|byte| !*byte).collect();
        Pin::new(&mut self.0).poll_write(cx, &flipped)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// An acceptor with a handshake of one byte, which knows the client by another address.
#[derive(Clone)]
struct Flipping(Protocol);

const FLIPPED_PEER: &str = "192.0.2.7:77";

impl Acceptor for Flipping {
    type Io = Flipped;

    async fn accept(&self, mut socket: TcpStream) -> io::Result<Connection<Flipped>> {
        let hello = socket.read_u8().await?;
        if hello != b'?' {
            return Err(io::ErrorKind::InvalidData.into());
        }
        socket.write_all(b"!").await?;
        Ok(Connection {
            io: Flipped(socket),
            peer: FLIPPED_PEER.parse().ok(),
            protocol: self.0,
        })
    }
}

impl Server {
    async fn connect_flipped(&self) -> Result<Flipped> {
        let mut socket = self.connect().await?;
        socket.write_all(b"?").await?;
        let answer = timeout(PATIENCE, socket.read_u8()).await??;
        ensure!(answer == b'!', "another handshake");
        Ok(Flipped(socket))
    }
}

#[tokio::test]
async fn another_acceptor_serves_every_protocol() -> Result<()> {
    let peer = format!("Some({FLIPPED_PEER})");
    let server = Server::start_over(Flipping(Protocol::Undecided), |_| {})?;
    let mut io = server.connect_flipped().await?;
    for _ in 0..2 {
        assert_eq!(get(&mut io, "/peer").await?.1, peer);
    }
    assert_eq!(get(&mut io, "/big").await?.1.len(), BIG);
    let (client, _driver) = http2(server.connect_flipped().await?).await?;
    assert_eq!(fetch(&client, "/peer").await?, (200, peer.into()));
    assert_eq!(fetch(&client, "/big").await?.1.len(), BIG);
    let mut upgraded = server.connect_flipped().await?;
    upgrade(&mut upgraded, "/big").await?;
    open_wide(&mut upgraded).await?;
    assert!(read_stream(&mut upgraded, 1).await? == vec![b'x'; BIG]);
    let stats = &server.stats;
    let counted = (stats.http1(), stats.http2(), stats.upgraded());
    assert_eq!(counted, (1, 1, 1));
    assert!(server.stop().await? < Options::default().shutdown_grace / 2);
    assert_eq!(closed(&mut io).await?, b"");
    Ok(())
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_off_and_one_that_fails_too() -> Result<()> {
    let server = Server::start_over(Flipping(Protocol::Undecided), |options| {
        options.header_timeout = Duration::from_millis(100);
        options.max_connections = 1;
    })?;
    let mut silent = server.connect().await?;
    assert_eq!(closed(&mut silent).await?, b"");
    server.emptied().await?;
    assert_eq!(server.stats.timed_out(), 1);
    let mut plain = server.connect().await?;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    assert_eq!(closed(&mut plain).await?, b"");
    server.emptied().await?;
    let mut one = server.connect_flipped().await?;
    get(&mut one, "/").await?;
    let mut two = server.connect_flipped().await?;
    let refused = get(&mut two, "/").await?.0;
    assert!(refused.starts_with("http/1.1 503"), "{refused}");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_was_agreed_on_is_spoken() -> Result<()> {
    let server = Server::start_over(Flipping(Protocol::Http1), |_| {})?;
    let mut io = server.connect_flipped().await?;
    let offer = format!("GET /a HTTP/1.1\r\nHost: mirror\r\n{OFFER}\r\n");
    io.write_all(offer.as_bytes()).await?;
    let expected = "GET /a HTTP/1.1 mirror host";
    assert_eq!(read_answer(&mut io).await?.1, expected);
    let mut io = server.connect_flipped().await?;
    io.write_all(upgrade::PREFACE).await?;
    assert!(read_answer(&mut io).await?.0.starts_with("http/1.1 400"));
    server.stop().await?;

    let server = Server::start_over(Flipping(Protocol::Http2), |_| {})?;
    let (client, _driver) = http2(server.connect_flipped().await?).await?;
    assert_eq!(fetch(&client, "/a").await?.0, 200);
    let mut io = server.connect_flipped().await?;
    io.write_all(offer.as_bytes()).await?;
    let rest = closed(&mut io).await?;
    assert!(!rest.starts_with(b"HTTP/1.1"), "{rest:?}");
    server.stop().await?;
    Ok(())
}

/// Only where there is a curl that knows HTTP/2.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn curl_takes_the_upgrade() -> Result<()> {
    let server = Server::start(|_| {})?;
    let urls = ["/a", "/b", "/big"].map(|path| format!("http://{}{path}", server.address));
    let curl = std::process::Command::new("curl")
        .args([
            "--http2",
            "--noproxy",
            "*",
            "-sS",
            "-w",
            "[%{http_version} %{num_connects}]",
        ])
        .args(urls)
        .output();
    let Ok(output) = curl else { return Ok(()) };
    let text = String::from_utf8_lossy(&output.stdout);
    if server.stats.upgraded() == 1 {
        assert!(text.starts_with("GET /a HTTP/2.0"), "{text:.200}");
        assert!(text.ends_with("x[2 0]"), "{text:.200}");
        assert!(text.len() > BIG);
    }
    server.stop().await?;
    Ok(())
}
