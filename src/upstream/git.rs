//! The HTTP of a git client: requests below the URL of the git index, and bodies piece by piece.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use url::Url;

use crate::metrics::{self, Outcome};

use super::{
    GitIndex, Upstream,
    download::Tally,
    error::{ConfigFault, Error, Kind, Stage, Subject},
    gate::Ticket,
    lend_credentials, sparse,
    sparse::Head,
};

/// How many times the stall limit a git server may be silent: it may pack before it sends, where a
/// file server has the file.
const PACKING_FACTOR: u32 = 4;

/// What one request may take in all. An hour: the whole index of a large registry over 1 Mbit/s.
const DEADLINE: Duration = Duration::from_secs(60 * 60);

/// What an answer may have at most. 8 GiB: ten times a whole index with its history.
const MOST_BYTES: u64 = 8 << 30;

/// A good answer to a git client. It counts once in the metrics when it is dropped.
#[derive(Debug)]
pub struct GitAnswer {
    content_type: String,
    base: Url,
    body: reqwest::Response,
    stall: Duration,
    received: u64,
    ticket: Option<Ticket>,
    tally: Tally,
    upstream: Upstream,
}

impl Upstream {
    /// Sends a GET, or a POST with `body`, to `tail` below the git index, or below `base` if an
    /// earlier answer was redirected there. Waits for a head of success.
    ///
    /// # Errors
    /// As of other requests; [`Kind::Config`] where no git index is at a URL.
    pub async fn git(
        &self,
        base: Option<&Url>,
        tail: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
    ) -> Result<GitAnswer, Error> {
        let url = self.git_url(base, tail).map_err(|fault| {
            Error::new(&Subject::Git, self.0.base.expose(), Kind::Config(fault))
        })?;
        let gate = &self.0.index;
        let stall = self.0.options.stall_timeout.saturating_mul(PACKING_FACTOR);
        let (ticket, mut tally) = self
            .enter(gate, metrics::Kind::Git, &Subject::Git, &url, stall)
            .await?;
        match self.git_head(&url, headers, body, stall).await {
            Ok((head, response)) => {
                ticket.head_came(tally.elapsed());
                let content_type = head.text(&CONTENT_TYPE).unwrap_or_default().to_owned();
                Ok(GitAnswer {
                    content_type,
                    base: self.base_of_answer(response.url(), tail, &url),
                    body: response,
                    stall,
                    received: 0,
                    ticket: Some(ticket),
                    tally,
                    upstream: self.clone(),
                })
            }
            Err(kind) => {
                let error = tally.error(kind);
                ticket.failed(&error);
                Err(error)
            }
        }
    }

    fn git_url(&self, base: Option<&Url>, tail: &str) -> Result<Url, ConfigFault> {
        let Some(GitIndex::Url(configured)) = &self.0.options.git_index else {
            return Err(ConfigFault::NotFollowed);
        };
        let base = sparse::base(base.unwrap_or(configured.expose()))?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let mut url = base.clone();
        url.set_path(&format!("{}{path}", base.path()));
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        lend_credentials(configured.expose(), &mut url);
        Ok(url)
    }

    /// Where the repository turned out to be: a POST must go there by itself.
    #[expect(clippy::unused_self, reason = "reads as a part of the request")]
    fn base_of_answer(&self, answered: &Url, tail: &str, asked: &Url) -> Url {
        let (path, _query) = tail.split_once('?').unwrap_or((tail, ""));
        let mut base = if answered.path().ends_with(path) {
            answered.clone()
        } else {
            asked.clone()
        };
        let folder = base.path().strip_suffix(path).unwrap_or("/").to_owned();
        base.set_path(&folder);
        base.set_query(None);
        base
    }

    async fn git_head(
        &self,
        url: &Url,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
        stall: Duration,
    ) -> Result<(Head, reqwest::Response), Kind> {
        let client = &self.0.clients.verbatim;
        let request = match body {
            Some(body) => client.post(url.clone()).body(body),
            None => client.get(url.clone()),
        };
        let request = request.headers(git_headers(headers));
        let response = tokio::time::timeout(stall, request.send())
            .await
            .map_err(|_elapsed| Kind::Timeout {
                stage: Stage::Head,
                limit: stall,
            })?
            .map_err(|error| self.failure(&error, Stage::Head))?;
        let head = Head {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
        };
        if head.status == 200 {
            return Ok((head, response));
        }
        let said = self.refusal_body(response).await;
        Err(head.failure(sparse::one_line(&said)))
    }
}

/// The protocol's headers; who we are is the client's own to say, and a body comes as it is.
fn git_headers(given: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value))
            && name != USER_AGENT
        {
            headers.insert(name, value);
        }
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

impl GitAnswer {
    /// Its `Content-Type`.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Where the repository is, after redirects.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The next piece. `None`: the end.
    ///
    /// Cancel safe: no piece is lost. The stall limit begins anew with each call.
    ///
    /// # Errors
    /// No byte within the stall limit, the deadline, a broken connection, or more bytes than may be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.piece().await {
            Ok(Some(piece)) => Ok(Some(piece)),
            Ok(None) => {
                self.tally.set(Outcome::Ok);
                if let Some(ticket) = self.ticket.take() {
                    ticket.answered();
                }
                Ok(None)
            }
            Err(kind) => {
                let error = self.tally.error(kind);
                if let Some(ticket) = self.ticket.take() {
                    ticket.broke_off(&error);
                }
                Err(error)
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Kind> {
        let left = DEADLINE.saturating_sub(self.tally.elapsed());
        let (stage, limit) = if left < self.stall {
            (Stage::Whole, left)
        } else {
            (Stage::Body, self.stall)
        };
        let piece = tokio::time::timeout(limit, self.body.chunk())
            .await
            .map_err(|_elapsed| Kind::Timeout { stage, limit })?
            .map_err(|error| self.upstream.failure(&error, stage))?;
        let Some(piece) = piece else { return Ok(None) };
        let bytes = piece.len() as u64;
        self.tally.bytes(bytes);
        if let Some(ticket) = &mut self.ticket {
            ticket.heard();
        }
        self.received = self.received.saturating_add(bytes);
        if self.received > MOST_BYTES {
            return Err(Kind::TooLarge {
                limit: MOST_BYTES,
                announced: None,
            });
        }
        Ok(Some(piece))
    }
}
