//! The first exchange on a connection: reads what it asks for, accepts the upgrade, or refuses.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::upgrade::{self, Decision, HEAD_LIMIT, Opening};

/// How long a client that is refused may take to read why.
const REFUSAL: Duration = Duration::from_secs(1);

/// How much of what it still sends is read, lest a reset overtake the refusal.
const REFUSAL_BYTES: u64 = 64 * 1024;

pub(super) const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 54\r\n\r\ntoo many connections (listen.max_connections): retry.\n";
pub(super) const SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const BAD: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What a connection turned out to be, with the bytes its dispatcher is to read first.
#[derive(Debug)]
pub(super) enum First {
    Http1(Bytes),
    Http2(Bytes),
    Upgraded(Bytes),
    /// Answer this and close.
    Refuse(&'static [u8]),
    /// The client left, or broke the protocol where there is no answer.
    Close,
}

/// Reads the first head, and behind a `101` the client's opening. `in_head` tells whether a head
/// has begun and is not over, so that HTTP/1.1 can answer when the time is up.
pub(super) async fn read(io: &mut TcpStream, in_head: &mut bool) -> io::Result<First> {
    io.readable().await?; // an idle connection needs no buffer
    let mut seen = BytesMut::with_capacity(4096);
    loop {
        if io.read_buf(&mut seen).await? == 0 {
            return Ok(First::Close);
        }
        *in_head = true;
        match upgrade::decide(&seen) {
            Decision::NeedMore => {}
            Decision::Http2 => return Ok(First::Http2(seen.freeze())),
            Decision::Http1 { taken: 0, .. } => return Ok(First::Http1(seen.freeze())),
            Decision::Http1 { head, taken } => {
                return Ok(First::Http1(joined(&[&head, &seen.split_off(taken)])));
            }
            Decision::Upgrade { headers, taken } => {
                *in_head = false;
                return switch(io, seen.split_off(taken), &headers).await;
            }
            Decision::TooLarge => return Ok(First::Refuse(LARGE)),
            Decision::Bad => return Ok(First::Refuse(BAD)),
        }
    }
}

/// Accepts the upgrade and puts the request behind the client's SETTINGS.
async fn switch(io: &mut TcpStream, mut seen: BytesMut, headers: &[u8]) -> io::Result<First> {
    io.write_all(upgrade::SWITCHING).await?;
    loop {
        match upgrade::opening(&seen) {
            Opening::Ready(end) => {
                let rest = seen.split_off(end);
                return Ok(First::Upgraded(joined(&[&seen, headers, &rest])));
            }
            Opening::Bad => return Ok(First::Close),
            Opening::NeedMore if seen.len() > 2 * HEAD_LIMIT => return Ok(First::Close),
            Opening::NeedMore => {}
        }
        if io.read_buf(&mut seen).await? == 0 {
            return Ok(First::Close);
        }
    }
}

fn joined(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

/// Answers, closes, and waits a moment for the client to read it.
pub(super) async fn refuse(io: &mut TcpStream, answer: &[u8]) {
    let farewell = async {
        io.write_all(answer).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(REFUSAL_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(REFUSAL, farewell).await {
        tracing::debug!(%error, "a refused client did not wait for the reason");
    }
}
