//! The guarded connection: replays the bytes already read, and knows when nothing moves any more.
//!
//! A [`Watch`] is the memory of one connection: answers under way, since when that is so, and
//! since when the socket has taken no byte. The dispatchers and [`Guarded`] only note facts in it
//! (a few cells, no timer a request); [`Watch::verdict`] turns them into the next moment at which
//! the connection may be given up.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a drained connection may stay once it has nothing to do: the round trip of a GOAWAY.
const FAREWELL: Duration = Duration::from_secs(1);

/// The time limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For the first head.
    pub(super) header: Duration,
    /// Without an answer under way, or without the socket taking a byte.
    pub(super) idle: Duration,
    /// For one answer.
    pub(super) request: Duration,
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing was under way.
    Idle,
    /// The client took no byte.
    Stalled,
    /// An answer took too long.
    Overdue,
    /// It was to leave and has nothing more to do.
    Drained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask again then.
    Wait(Instant),
    /// Give it up.
    Over(Over),
}

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    /// Whether answers come one after the other, so that [`Limits::request`] speaks of the
    /// connection; on HTTP/2 each stream has its own clock.
    serial: bool,
    in_flight: Cell<usize>,
    /// When the number in flight last left or reached zero.
    since: Cell<Instant>,
    blocked: Cell<Option<Instant>>,
    draining: Cell<Option<Instant>>,
}

impl Watch {
    pub(super) fn http1(limits: Limits, now: Instant) -> Rc<Self> {
        Self::new(limits, true, now)
    }

    pub(super) fn http2(limits: Limits, now: Instant) -> Rc<Self> {
        Self::new(limits, false, now)
    }

    fn new(limits: Limits, serial: bool, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            limits,
            serial,
            in_flight: Cell::new(0),
            since: Cell::new(now),
            blocked: Cell::new(None),
            draining: Cell::new(None),
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts an answer until the returned mark is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Flight {
        let before = self.in_flight.replace(self.in_flight.get() + 1);
        if before == 0 {
            self.since.set(Instant::now());
        }
        Flight(Rc::clone(self))
    }

    /// From now on the connection goes as soon as nothing is under way.
    pub(super) fn drain(&self, now: Instant) {
        self.draining.set(Some(now));
    }

    fn note_write<T>(&self, outcome: &Poll<io::Result<T>>) {
        match outcome {
            Poll::Ready(_) => self.blocked.set(None),
            Poll::Pending if self.blocked.get().is_none() => self.blocked.set(Some(Instant::now())),
            Poll::Pending => {}
        }
    }

    /// What the facts mean at `now`.
    pub(super) fn verdict(&self, now: Instant) -> Verdict {
        // The facts change while nobody looks, so look again before long.
        let step = match self.draining.get() {
            None => (self.limits.idle / 4).max(Duration::from_millis(10)),
            Some(_) => FAREWELL / 4,
        };
        match self.end() {
            Some((end, over)) if end <= now => Verdict::Over(over),
            Some((end, _)) => Verdict::Wait(end.min(now + step)),
            None => Verdict::Wait(now + step),
        }
    }

    /// When the connection ends if nothing changes, and why.
    fn end(&self) -> Option<(Instant, Over)> {
        let since = self.since.get();
        let stalled = self
            .blocked
            .get()
            .map(|blocked| (blocked + self.limits.idle, Over::Stalled));
        let overdue = self
            .serial
            .then(|| (since + self.limits.request, Over::Overdue));
        match (self.in_flight.get(), self.draining.get()) {
            // What the client has yet to take counts as under way.
            (0, _) if stalled.is_some() => stalled,
            (0, None) => Some((since + self.limits.idle, Over::Idle)),
            (0, Some(drained)) => Some((since.max(drained) + FAREWELL, Over::Drained)),
            _ => [stalled, overdue]
                .into_iter()
                .flatten()
                .min_by_key(|&(end, _)| end),
        }
    }

    /// Resolves when the connection is to be given up.
    pub(super) async fn over(&self) -> Over {
        loop {
            match self.verdict(Instant::now()) {
                Verdict::Wait(until) => tokio::time::sleep_until(until.into()).await,
                Verdict::Over(over) => return over,
            }
        }
    }
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Flight(Rc<Watch>);

impl Drop for Flight {
    fn drop(&mut self) {
        let left = self.0.in_flight.get().saturating_sub(1);
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.since.set(Instant::now());
        }
    }
}

/// A stream that yields `replay` before what it reads itself, and tells its [`Watch`] about writes.
#[derive(Debug)]
pub(super) struct Guarded<T> {
    replay: Bytes,
    io: T,
    watch: Rc<Watch>,
}

impl<T> Guarded<T> {
    pub(super) fn new(replay: Bytes, io: T, watch: Rc<Watch>) -> Self {
        Self { replay, io, watch }
    }

    pub(super) fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replay.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let taken = self.replay.len().min(buf.remaining());
        buf.put_slice(self.replay.get(..taken).unwrap_or_default());
        self.replay.advance(taken);
        if self.replay.is_empty() {
            self.replay = Bytes::new(); // gives the memory back
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch.note_write(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.watch.note_write(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(40),
        request: Duration::from_secs(900),
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn an_idle_connection_ends_after_the_idle_time_and_not_before() {
        let start = Instant::now();
        let watch = Watch::http1(LIMITS, start);
        assert_eq!(watch.verdict(start), Verdict::Wait(start + seconds(10)));
        assert_eq!(
            watch.verdict(start + seconds(39)),
            Verdict::Wait(start + seconds(40))
        );
        assert_eq!(
            watch.verdict(start + seconds(40)),
            Verdict::Over(Over::Idle)
        );
    }

    #[test]
    fn an_answer_under_way_holds_the_connection_until_the_request_time() {
        let watch = Watch::http1(LIMITS, Instant::now());
        let flight = watch.enter();
        let start = watch.since.get();
        assert!(matches!(
            watch.verdict(start + seconds(899)),
            Verdict::Wait(_)
        ));
        assert_eq!(
            watch.verdict(start + seconds(900)),
            Verdict::Over(Over::Overdue)
        );
        let second = watch.enter();
        drop(flight);
        assert_eq!(watch.since.get(), start, "one is still under way");
        drop(second);
        assert_eq!(
            watch.verdict(watch.since.get() + seconds(40)),
            Verdict::Over(Over::Idle)
        );
    }

    #[test]
    fn a_client_that_takes_nothing_is_given_up_and_one_that_takes_a_little_is_not() {
        let watch = Watch::http1(LIMITS, Instant::now());
        let _flight = watch.enter();
        watch.note_write(&Poll::<io::Result<usize>>::Pending);
        let blocked = watch.blocked.get().unwrap();
        watch.note_write(&Poll::<io::Result<usize>>::Pending);
        assert_eq!(watch.blocked.get(), Some(blocked), "the first time counts");
        assert_eq!(
            watch.verdict(blocked + seconds(40)),
            Verdict::Over(Over::Stalled)
        );
        watch.note_write(&Poll::Ready(Ok(1)));
        assert!(matches!(
            watch.verdict(blocked + seconds(40)),
            Verdict::Wait(_)
        ));
    }

    #[test]
    fn a_drained_connection_goes_soon_but_not_before_its_answer_is_taken() {
        let start = Instant::now();
        let watch = Watch::http1(LIMITS, start);
        watch.drain(start + seconds(5));
        assert!(matches!(
            watch.verdict(start + seconds(5)),
            Verdict::Wait(_)
        ));
        assert_eq!(
            watch.verdict(start + seconds(6)),
            Verdict::Over(Over::Drained)
        );
        watch.note_write(&Poll::<io::Result<usize>>::Pending);
        assert!(matches!(
            watch.verdict(start + seconds(6)),
            Verdict::Wait(_)
        ));
    }
}
