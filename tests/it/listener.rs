//! The listener: HTTP/1.1 and HTTP/2 in every way a client may begin it, its timers and its end.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, response::Parts};
use rustix::process::Signal;

use crate::support::{
    PATIENCE,
    crates::{Krate, Registry, index_path},
    http::{Ask, Connection},
    orlop::{Orlop, Setup, download_path},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

fn setting() -> Upstream {
    Upstream::start(
        Registry::new()
            .with(&Krate::new("small", "1.0.0").size(20_000))
            .with(&Krate::new("large", "1.0.0").size(3_000_000)),
    )
}

fn connect(orlop: &Orlop) -> Connection {
    Connection::open(orlop.address(), PATIENCE).expect("orlop takes connections")
}

#[test]
fn an_http1_connection_is_kept_for_many_requests() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut client = connect(&orlop);
    let release = upstream.registry().release("small", "1.0.0");
    for _ in 0..5 {
        for path in [
            format!("/index/{}", index_path("small")),
            download_path("small", "1.0.0"),
            "/index/config.json".to_owned(),
            "/index/no/on/no-one-knows".to_owned(),
        ] {
            client
                .send(&Ask::get(&path).bytes(orlop.address(), false))
                .expect("the connection is open");
            let answer = client.answer(false).expect("an answer");
            assert!(answer.whole);
            if path.ends_with("download") {
                assert!(answer.body == *release.bytes);
            }
        }
    }
    assert!(orlop.metric("orlop_http_requests_total", &["protocol=\"h1\""]) >= 20.0);
}

/// A runtime for the HTTP/2 clients of this file.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

async fn http2(orlop: &Orlop) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(orlop.address())
        .await
        .expect("orlop takes connections");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await
        .expect("orlop speaks HTTP/2");
    tokio::spawn(connection);
    client
}

async fn http2_get(client: &SendRequest<Bytes>, url: String) -> (u16, usize) {
    let mut client = client.clone().ready().await.expect("room for a stream");
    let request = Request::get(url).body(()).expect("a request");
    let (response, _) = client.send_request(request, true).expect("a stream");
    let (head, body) = http2_read(response).await;
    (head.status.as_u16(), body.len())
}

async fn http2_read(response: ResponseFuture) -> (Parts, Vec<u8>) {
    let (head, mut body) = response.await.expect("an answer").into_parts();
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a piece of the body");
        whole.extend_from_slice(&piece);
        body.flow_control()
            .release_capacity(piece.len())
            .expect("capacity goes back");
    }
    (head, whole)
}

#[test]
fn http2_by_prior_knowledge_serves_many_streams_at_once() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let release = upstream.registry().release("small", "1.0.0");
    assert!(orlop.download("small", "1.0.0").is_complete_file());
    let connections = orlop.metric("orlop_connections_total", &[]);
    let url = format!("{}{}", orlop.url(), download_path("small", "1.0.0"));
    runtime().block_on(async {
        let client = http2(&orlop).await;
        let streams = (0..128).map(|_| http2_get(&client, url.clone()));
        let answers = tokio::time::timeout(PATIENCE, futures_util::future::join_all(streams))
            .await
            .expect("all streams end");
        for answer in answers {
            assert_eq!(answer, (200, release.bytes.len()));
        }
    });
    assert!(orlop.metric("orlop_http_requests_total", &["protocol=\"h2\""]) >= 128.0);
    assert!(orlop.metric("orlop_connections_total", &[]) <= connections + 3.0);
}

#[test]
fn a_large_crate_is_not_throttled_by_the_windows_of_http2() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let release = upstream.registry().release("large", "1.0.0");
    let url = format!("{}{}", orlop.url(), download_path("large", "1.0.0"));
    runtime().block_on(async {
        let client = http2(&orlop).await;
        for _ in 0..2 {
            let answer = tokio::time::timeout(PATIENCE, http2_get(&client, url.clone())).await;
            assert_eq!(answer.ok(), Some((200, release.bytes.len())));
        }
    });
}

#[test]
fn a_lie_of_the_upstream_resets_the_stream_of_http2() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Flip);
    let url = format!("{}{}", orlop.url(), download_path("large", "1.0.0"));
    runtime().block_on(async {
        let client = http2(&orlop).await;
        let request = Request::get(&url).body(()).expect("a good request");
        let mut client = client.ready().await.expect("the connection is open");
        let (answer, _) = client.send_request(request, true).expect("it is sent");
        let answer = answer.await.expect("an answer begins");
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let (mut bytes, mut failed) = (0, false);
        while let Some(piece) = body.data().await {
            match piece {
                Ok(piece) => {
                    bytes += piece.len();
                    body.flow_control()
                        .release_capacity(piece.len())
                        .expect("it was received");
                }
                Err(_reset) => {
                    failed = true;
                    break;
                }
            }
        }
        assert!(failed, "{bytes} bytes looked whole");
        let (status, _) = http2_get(&client, format!("{}/healthz", orlop.url())).await;
        assert_eq!(status, 200, "the other streams go on");
    });
}

/// The head of cargo's first request on plain http.
fn upgrade(orlop: &Orlop, target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n{more}\r\n",
        orlop.address()
    )
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// One HTTP/2 frame: type, flags, stream, payload.
fn frame(client: &mut Connection) -> (u8, u8, u32, Vec<u8>) {
    let head = client.exactly(9).expect("a frame");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let payload = client.exactly(length).expect("the payload of a frame");
    (head[3], head[4], stream, payload)
}

#[test]
fn the_h2c_upgrade_answers_the_first_request_as_stream_one() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;

    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut client = connect(&orlop);
    client
        .send(upgrade(&orlop, "/index/config.json", "").as_bytes())
        .expect("the request is taken");
    let (status, headers) = client.head().expect("an answer");
    assert_eq!(status, 101);
    let upgraded = headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("upgrade") && value == "h2c");
    assert!(upgraded, "{headers:?}");
    client.send(PREFACE).expect("the connection is open");
    client.send(EMPTY_SETTINGS).expect("the connection is open");
    let mut body = Vec::new();
    let mut status_200 = false;
    loop {
        let (kind, flags, stream, payload) = frame(&mut client);
        if stream == 1 && kind == HEADERS {
            // 0x88 is `:status 200` in HPACK's static table.
            status_200 = payload.contains(&0x88);
        }
        if stream == 1 && kind == DATA {
            body.extend(payload);
        }
        if stream == 1 && flags & END_STREAM != 0 && (kind == DATA || kind == HEADERS) {
            break;
        }
    }
    assert!(status_200);
    assert_eq!(body, orlop.get("/index/config.json").body);
    assert!(orlop.metric("orlop_connections_total", &["h2c_upgrade"]) >= 1.0);
}

#[test]
fn an_upgrade_that_cannot_be_is_answered_in_http1() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let twice = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let body = "Content-Length: 3\r\n\r\nabc";
    for more in [twice, body] {
        let mut client = connect(&orlop);
        client
            .send(upgrade(&orlop, "/healthz", more).as_bytes())
            .expect("the request is taken");
        let (status, _) = client.head().expect("an answer");
        assert!([200, 400].contains(&status), "{more:?}: {status}");
    }
    let mut client = connect(&orlop);
    let websocket = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        orlop.address()
    );
    client
        .send(websocket.as_bytes())
        .expect("the request is taken");
    let (status, _) = client.head().expect("an answer");
    assert_eq!(status, 200);
}

#[test]
fn an_offer_of_h2c_on_a_kept_connection_costs_a_new_connection_at_most() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut client = connect(&orlop);
    client
        .send(&Ask::get("/healthz").bytes(orlop.address(), false))
        .expect("the request is taken");
    let first = client.answer(false).expect("an answer");
    assert_eq!((first.status, first.header("connection")), (200, None));

    // The offer is for the first request only; here it is one that may be ignored.
    client
        .send(upgrade(&orlop, "/index/config.json", "").as_bytes())
        .expect("the connection is kept");
    let answer = client.answer(false).expect("an answer in HTTP/1.1");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, orlop.get("/index/config.json").body);

    // Kept or closed, but as the answer says.
    let closes = answer.header("connection") == Some("close");
    let sent = client.send(&Ask::get("/healthz").bytes(orlop.address(), false));
    let again = sent.and_then(|()| client.answer(false));
    assert_eq!(again.is_err(), closes, "{answer:?}: {again:?}");
    let mut client = connect(&orlop);
    client
        .send(upgrade(&orlop, "/healthz", "").as_bytes())
        .expect("the request is taken");
    assert_eq!(client.head().expect("an answer").0, 101);
}

#[test]
fn index_files_over_http2_come_compressed() {
    use std::io::Read as _;

    let upstream = setting();
    for version in 1..100 {
        let krate = Krate::new("small", &format!("1.0.{version}"));
        upstream.edit(|registry| registry.put(&krate));
    }
    let orlop = Setup::over(&upstream).start();
    let url = format!("{}/index/{}", orlop.url(), index_path("small"));
    runtime().block_on(async {
        let client = http2(&orlop).await;
        for _ in 0..2 {
            let request = Request::get(&url)
                .header("accept-encoding", "deflate, gzip")
                .body(())
                .expect("a request");
            let mut client = client.clone().ready().await.expect("room for a stream");
            let (response, _) = client.send_request(request, true).expect("a stream");
            let (head, body) = http2_read(response).await;
            assert_eq!(head.headers["content-encoding"], "gzip");
            assert_eq!(head.headers["vary"], "Accept-Encoding");
            let mut text = String::new();
            flate2::read::GzDecoder::new(body.as_slice())
                .read_to_string(&mut text)
                .expect("the body is gzip");
            assert_eq!(text, upstream.index_file("small"));
            assert!(body.len() < text.len() / 2);
        }
    });
}

#[test]
fn connections_over_the_limit_are_told_so_and_hurt_nobody() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("listen.max_connections", "2")
        .start();
    let kept = |client: &mut Connection| {
        client
            .send(&Ask::get("/healthz").bytes(orlop.address(), false))
            .expect("the connection is open");
        client.answer(false).expect("an answer").status
    };
    let (mut one, mut two) = (connect(&orlop), connect(&orlop));
    assert_eq!((kept(&mut one), kept(&mut two)), (200, 200));
    for _ in 0..5 {
        let refused = orlop.get("/healthz");
        assert_eq!(refused.status, 503);
        assert!(refused.header("retry-after").is_some());
        assert!(
            refused.text().contains("max_connections"),
            "{}",
            refused.text()
        );
    }
    assert_eq!((kept(&mut one), kept(&mut two)), (200, 200));
    drop(one);
    until("there is room again", || {
        orlop.get("/healthz").status == 200
    });
}

#[test]
fn an_answer_over_the_request_timeout_is_broken_off_and_the_fetch_goes_on() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("listen.request_timeout", "1s")
        .config("upstream.stall_timeout", "30s")
        .config("upstream.deadline", "60s")
        .start();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
    let mut client = connect(&orlop);
    client
        .send(&Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), false))
        .expect("the request is taken");
    let answer = client.answer(false).expect("an answer begins");
    assert!(answer.status == 200 && !answer.whole);
    upstream.open_gate();
    until("the crate is kept", || orlop.blobs().len() == 1);
    assert!(orlop.download("large", "1.0.0").is_complete_file());
    assert_eq!(upstream.count(Kind::Crate), 1);
}

#[test]
fn a_client_that_never_ends_its_head_is_shown_the_door() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("listen.header_timeout", "1s")
        .start();
    let beginnings: [&[u8]; 5] = [
        b"",
        b"G",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"PRI * HT",
    ];
    let mut clients: Vec<Connection> = beginnings
        .iter()
        .map(|beginning| {
            let mut client = connect(&orlop);
            client.send(beginning).expect("bytes are taken");
            client
        })
        .collect();
    let start = Instant::now();
    for (client, beginning) in clients.iter_mut().zip(beginnings) {
        let (said, _) = client.rest();
        let said = String::from_utf8_lossy(&said).into_owned();
        let text = String::from_utf8_lossy(beginning).into_owned();
        assert!(!said.contains("200 OK"), "{text:?}: {said}");
        assert!(start.elapsed() < Duration::from_secs(20), "{text:?}");
    }
    assert_eq!(orlop.get("/healthz").status, 200);
}

#[test]
fn an_idle_connection_is_closed() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("listen.idle_timeout", "1s")
        .start();
    let mut client = connect(&orlop);
    client
        .send(&Ask::get("/healthz").bytes(orlop.address(), false))
        .expect("the request is taken");
    assert_eq!(
        client.answer(false).map(|answer| answer.status).ok(),
        Some(200)
    );
    let start = Instant::now();
    let (rest, closed) = client.rest();
    assert!(closed && rest.is_empty());
    assert!(start.elapsed() < Duration::from_secs(20));
    until("the gauge follows", || {
        orlop.metric("orlop_connections_open", &[]) <= 1.5
    });
}

#[test]
fn heads_without_measure_are_refused() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let many: String = (0..200_000).map(|_| "X-More: y\r\n").collect();
    for head in [
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(500_000)),
    ] {
        let mut client = connect(&orlop);
        // It may be refused before it has been sent to its end.
        crate::support::peer_may_be_gone(client.send(head.as_bytes()));
        if let Ok((status, _)) = client.head() {
            assert!((400..500).contains(&status), "{status}");
        }
    }
    assert_eq!(orlop.get("/healthz").status, 200);
}

#[test]
fn hundreds_of_connections_at_once_are_served() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut clients: Vec<Connection> = (0..200).map(|_| connect(&orlop)).collect();
    for client in &mut clients {
        client
            .send(&Ask::get("/healthz").bytes(orlop.address(), false))
            .expect("the request is taken");
    }
    for client in &mut clients {
        let answer = client.answer(false).expect("an answer");
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn sigterm_lets_a_download_under_way_come_to_its_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = setting();
        let mut orlop = Setup::over(&upstream)
            .config("listen.shutdown_grace", "30s")
            .config("upstream.stall_timeout", "30s")
            .config("upstream.deadline", "60s")
            .start();
        let release = upstream.registry().release("large", "1.0.0");
        upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
        let mut client = connect(&orlop);
        client
            .send(&Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), true))
            .expect("the request is taken");
        let (status, _) = client.head().expect("an answer begins");
        assert_eq!(status, 200);
        orlop.signal(signal);
        until("new connections are refused", || {
            TcpStream::connect(orlop.address()).is_err()
        });
        upstream.open_gate();
        let body = client
            .exactly(release.bytes.len())
            .expect("the whole crate");
        assert!(body == *release.bytes);
        let status = orlop.wait();
        assert_eq!(status.code(), Some(0), "{}", orlop.stderr());
    }
}

#[test]
fn shutdown_does_not_wait_for_ever_for_a_client_that_reads_nothing() {
    let upstream = setting();
    let mut orlop = Setup::over(&upstream)
        .config("listen.shutdown_grace", "1s")
        .start();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::StallInBody);
    let mut client = connect(&orlop);
    client
        .send(&Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), true))
        .expect("the request is taken");
    let idle = connect(&orlop);
    until("the fetch is under way", || upstream.count(Kind::Crate) > 0);
    let start = Instant::now();
    orlop.signal(Signal::TERM);
    let status = orlop.wait();
    assert_eq!(status.code(), Some(0), "{}", orlop.stderr());
    assert!(start.elapsed() < Duration::from_secs(20));
    drop((client, idle));
}

/// A client in the middle of a large crate whose rest does not come before the gate opens.
fn half_way(upstream: &Upstream) -> (Orlop, Connection) {
    let orlop = Setup::over(upstream)
        .config("listen.shutdown_grace", "10m")
        .config("upstream.stall_timeout", "5m")
        .config("upstream.deadline", "10m")
        .start();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
    let mut client = connect(&orlop);
    client
        .send(&Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), true))
        .expect("the request is taken");
    client.head().expect("an answer begins");
    (orlop, client)
}

#[test]
fn a_second_signal_ends_the_wait_for_answers_under_way() {
    let upstream = setting();
    let (mut orlop, client) = half_way(&upstream);
    orlop.signal(Signal::INT);
    until("new connections are refused", || {
        TcpStream::connect(orlop.address()).is_err()
    });
    orlop.signal(Signal::INT);
    assert_eq!(orlop.wait().code(), Some(0), "{}", orlop.stderr());
    assert!(orlop.stderr().contains("second"), "{}", orlop.stderr());
    drop(client);
}

#[test]
fn a_fetch_that_no_client_waits_for_may_end_before_the_program_does() {
    let upstream = setting();
    let (mut orlop, client) = half_way(&upstream);
    drop(client);
    orlop.signal(Signal::TERM);
    until("new connections are refused", || {
        TcpStream::connect(orlop.address()).is_err()
    });
    until("the clients are gone", || orlop.stderr().contains("jobs"));
    upstream.open_gate();
    assert_eq!(orlop.wait().code(), Some(0), "{}", orlop.stderr());
    assert_eq!(orlop.blobs().len(), 1, "{}", orlop.stderr());
}

#[test]
fn both_lines_of_the_readiness_probe_tell_of_the_stop() {
    let upstream = setting();
    let (mut orlop, client) = half_way(&upstream);
    let mut probe = connect(&orlop);
    let request = Ask::get("/readyz").bytes(orlop.address(), false);
    let mut ask = || {
        probe.send(&request).expect("the connection is open");
        let answer = probe.answer(false).expect("an answer");
        (answer.status, answer.text())
    };
    let (status, text) = ask();
    assert_eq!(status, 200);
    assert!(text.starts_with("ready\nserving"), "{text}");
    orlop.signal(Signal::TERM);
    until("new connections are refused", || {
        TcpStream::connect(orlop.address()).is_err()
    });
    let (status, text) = ask();
    assert_eq!(status, 503);
    assert!(text.starts_with("draining\nstopping; "), "{text}");
    upstream.open_gate();
    drop(client);
    assert_eq!(orlop.wait().code(), Some(0), "{}", orlop.stderr());
}

#[test]
fn an_idle_orlop_ends_at_once() {
    let upstream = setting();
    let mut orlop = Setup::over(&upstream)
        .config("listen.shutdown_grace", "40s")
        .start();
    assert_eq!(orlop.get("/healthz").status, 200);
    let start = Instant::now();
    orlop.signal(Signal::TERM);
    assert_eq!(orlop.wait().code(), Some(0), "{}", orlop.stderr());
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn several_addresses_have_a_ready_line_each() {
    let upstream = setting();
    let orlop = Setup::over(&upstream)
        .config("listen.addresses", "127.0.0.1:0,[::1]:0")
        .start();
    until("both lines are there", || {
        orlop.stdout().lines().count() == 2
    });
    for line in orlop.stdout().lines() {
        let address = line
            .strip_prefix("orlop listening on http://")
            .and_then(|rest| rest.strip_suffix('/'))
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("{line}"));
        let answer = Ask::get("/healthz").send(address).expect("an answer");
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn methods_and_paths_that_are_not_served_get_a_plain_answer() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    for (method, path) in [
        ("POST", "/index/config.json"),
        ("DELETE", "/healthz"),
        ("GET", "/nothing/here"),
        ("GET", "//healthz"),
        ("TRACE", "/"),
        ("OPTIONS", "/index/config.json"),
    ] {
        let answer = orlop.ask(&Ask::new(method, path));
        assert!(
            (400..500).contains(&answer.status) || method == "OPTIONS",
            "{method} {path}: {}",
            answer.status
        );
    }
}
