//! One attempt at a crate's file: its head as a value, its body piece by piece.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE,
};
use url::Url;

use crate::metrics::{self, Metrics, Outcome};

use super::{
    error::{Cause, Error, Kind, Stage, Subject},
    gate::Ticket,
    secret::SecretUrl,
    sparse::{Ask, Head},
    transport_kind,
};

/// A crate's file on its way, whose head was good. What its bytes are worth only the checksum
/// tells, which is the caller's to compare.
///
/// It counts once in the metrics when it is dropped: as a whole answer after
/// [`next`](Download::next) gave `None`, as a lie after [`mismatch`](Download::mismatch), else by
/// its error, or as a broken connection where the caller gave up before the end.
#[derive(Debug)]
pub struct Download {
    start: u64,
    len: Option<u64>,
    /// How many bytes came.
    received: u64,
    body: reqwest::Response,
    limits: Limits,
    /// Gone when the request is over.
    ticket: Option<Ticket>,
    ended: Option<Ended>,
    tally: Tally,
}

/// What bounds a download.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connect: Duration,
    pub(super) stall: Duration,
    pub(super) deadline: Duration,
    pub(super) most_bytes: u64,
}

#[derive(Debug, Clone)]
enum Ended {
    Whole,
    Failed(Error),
}

impl Download {
    pub(super) fn new(
        body: reqwest::Response,
        frame: Frame,
        limits: Limits,
        ticket: Ticket,
        tally: Tally,
    ) -> Download {
        Download {
            start: frame.start,
            len: frame.len,
            received: 0,
            body,
            limits,
            ticket: Some(ticket),
            ended: None,
            tally,
        }
    }

    /// The place of the first byte in the file: what was asked for, or 0 where upstream sends all.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The length of the whole file. `None`: upstream did not say.
    #[expect(
        clippy::len_without_is_empty,
        reason = "it is the length of the file, announced"
    )]
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// The next piece. `None`: the end, and not short of what upstream announced.
    ///
    /// Cancel safe: no piece is lost. After an error or the end it gives the same again.
    ///
    /// # Errors
    /// No byte within the stall limit, the deadline, a broken connection, or more bytes than may be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match &self.ended {
            Some(Ended::Whole) => return Ok(None),
            Some(Ended::Failed(error)) => return Err(error.clone()),
            None => {}
        }
        match self.piece().await {
            Ok(Some(piece)) => Ok(Some(piece)),
            Ok(None) => {
                self.ended = Some(Ended::Whole);
                self.tally.set(Outcome::Ok);
                if let Some(ticket) = self.ticket.take() {
                    ticket.answered();
                }
                Ok(None)
            }
            Err(kind) => {
                let error = self.tally.error(kind);
                self.ended = Some(Ended::Failed(error.clone()));
                if let Some(ticket) = self.ticket.take() {
                    ticket.broke_off(&error);
                }
                Err(error)
            }
        }
    }

    /// Takes note that the file is not what the index promises.
    pub fn mismatch(&mut self) {
        self.tally.set(Outcome::Mismatch);
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Kind> {
        let left = self.limits.deadline.saturating_sub(self.tally.elapsed());
        let (stage, limit, wait) = if left < self.limits.stall {
            (Stage::Whole, self.limits.deadline, left)
        } else {
            (Stage::Body, self.limits.stall, self.limits.stall)
        };
        let piece = tokio::time::timeout(wait, self.body.chunk())
            .await
            .map_err(|_elapsed| Kind::Timeout { stage, limit })?
            .map_err(|error| {
                transport_kind(&error, Stage::Body, self.limits.connect, self.limits.stall)
            })?;
        let Some(piece) = piece else {
            return self.end();
        };
        if let Some(ticket) = &mut self.ticket {
            ticket.heard();
        }
        self.received = self.received.saturating_add(piece.len() as u64);
        self.tally.bytes(piece.len() as u64);
        let place = self.start.saturating_add(self.received);
        if place > self.limits.most_bytes || self.len.is_some_and(|len| place > len) {
            return Err(Kind::TooLarge {
                limit: self.len.unwrap_or(self.limits.most_bytes),
                announced: self.len,
            });
        }
        Ok(Some(piece))
    }

    /// A part (206) may end before the file does, and then nothing in the protocol is wrong.
    fn end(&self) -> Result<Option<Bytes>, Kind> {
        let place = self.start.saturating_add(self.received);
        if self.len.is_some_and(|len| place < len) {
            return Err(Kind::Transport(Cause::text(
                "the body ended before the file",
            )));
        }
        Ok(None)
    }
}

/// Counts one request, when it is dropped.
#[derive(Debug)]
pub(super) struct Tally {
    metrics: Arc<Metrics>,
    kind: metrics::Kind,
    subject: Subject,
    url: SecretUrl,
    started: Instant,
    /// How it ended, and after how long.
    ended: Option<(Outcome, Duration)>,
}

impl Tally {
    pub(super) fn start(
        metrics: &Arc<Metrics>,
        kind: metrics::Kind,
        subject: Subject,
        url: Url,
    ) -> Tally {
        Tally {
            metrics: Arc::clone(metrics),
            kind,
            subject,
            url: url.into(),
            started: Instant::now(),
            ended: None,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes how it ended; the last word counts, with the time of the first.
    pub(super) fn set(&mut self, outcome: Outcome) {
        let after = self
            .ended
            .map_or_else(|| self.elapsed(), |(_, after)| after);
        self.ended = Some((outcome, after));
    }

    /// Notes that it failed, and makes the error of it.
    pub(super) fn error(&mut self, kind: Kind) -> Error {
        let error = Error::new(&self.subject, self.url.expose(), kind);
        self.set(error.outcome());
        error
    }

    pub(super) fn bytes(&self, bytes: u64) {
        self.metrics.upstream_bytes(self.kind, bytes);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let given_up = (Outcome::Transport, self.elapsed());
        let (outcome, after) = self.ended.unwrap_or(given_up);
        self.metrics.upstream(self.kind, outcome, after);
    }
}

/// Where the bytes of a body belong in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) start: u64,
    pub(super) len: Option<u64>,
}

/// Asks for the file at `url`, from the byte at `from` on.
pub(super) fn ask(url: Url, from: u64) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if from > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
    {
        headers.insert(RANGE, range);
    }
    Ask { url, headers }
}

/// Reads the head of the answer to [`ask`]. `None`: its status is no success.
pub(super) fn read_head(head: &Head, from: u64, most_bytes: u64) -> Option<Result<Frame, Kind>> {
    let frame = match head.status {
        200 => Frame {
            start: 0,
            len: head
                .text(&CONTENT_LENGTH)
                .and_then(|text| text.trim().parse().ok()),
        },
        206 => match head.text(&CONTENT_RANGE).and_then(parse_content_range) {
            Some(frame) if frame.start == from => frame,
            _ => {
                return Some(Err(Kind::Transport(Cause::text(
                    "it sent another part of the file (206) than was asked for",
                ))));
            }
        },
        _ => return None,
    };
    Some(match frame.len {
        Some(len) if len > most_bytes => Err(Kind::TooLarge {
            limit: most_bytes,
            announced: Some(len),
        }),
        _ => Ok(frame),
    })
}

/// Reads `bytes 100-199/200`; the length may be `*`.
fn parse_content_range(text: &str) -> Option<Frame> {
    let (range, len) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let start = start.trim().parse().ok()?;
    let end: u64 = end.trim().parse().ok()?;
    let len = match len.trim() {
        "*" => None,
        len => Some(len.parse().ok()?),
    };
    let is_sound = start <= end && len.is_none_or(|len| end < len);
    is_sound.then_some(Frame { start, len })
}
