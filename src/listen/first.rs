//! The first exchange on a connection: reads what it asks for, accepts the upgrade, or refuses.

use std::{future::poll_fn, io, pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    acceptor::{Connection, Protocol},
    upgrade::{self, Decision, HEAD_LIMIT, Opening},
};

/// How long a client that is refused may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of what it still sends is read, lest a reset overtake the refusal.
const MAX_UNREAD_BYTES: u64 = 64 * 1024;

/// Space for the first read: most heads fit.
const FIRST_READ_BYTES: usize = 4096;

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

/// Reads the first head, and behind a `101` the client's opening. `in_head` is true while a head
/// has begun and is not over, so that HTTP/1.1 can answer when the time is up.
pub(super) async fn read<T>(connection: &mut Connection<T>, in_head: &mut bool) -> io::Result<First>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Connection { io, protocol, .. } = connection;
    if *protocol == Protocol::Http2 {
        return Ok(First::Http2(Bytes::new()));
    }
    let mut seen = first_bytes(io).await?;
    let mut count = seen.len();
    while count > 0 {
        *in_head = true;
        match upgrade::decide(&seen, *protocol) {
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
        count = io.read_buf(&mut seen).await?;
    }
    Ok(First::Close)
}

/// Waits for the first bytes. An idle connection has no buffer: one that stays empty is dropped.
async fn first_bytes<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<BytesMut> {
    poll_fn(|cx| {
        let mut seen = BytesMut::with_capacity(FIRST_READ_BYTES);
        let read = pin!(io.read_buf(&mut seen)).poll(cx);
        read.map_ok(|_count| seen)
    })
    .await
}

/// Accepts the upgrade and puts the request behind the client's SETTINGS.
async fn switch<T>(io: &mut T, mut seen: BytesMut, headers: &[u8]) -> io::Result<First>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
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
pub(super) async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T, answer: &[u8]) {
    let farewell = async {
        io.write_all(answer).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(MAX_UNREAD_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, farewell).await {
        tracing::debug!(%error, "a refused client did not wait for the reason");
    }
}
