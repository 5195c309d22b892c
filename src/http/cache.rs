//! The response cache: an index file or a crate as it goes out, found by the path of the request.
//!
//! A response is valid as long as its stamp is the store's stamp of its crate and, for index files,
//! its time has not run out; both are looked at on every use, so that nothing has to be
//! thrown out when an entry changes.

use std::{sync::Arc, time::Instant};

use actix_http::{
    Request, RequestHead, Response, StatusCode,
    body::BoxBody,
    header::{self, HeaderMap, HeaderValue},
};
use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use crate::{policy::View, registry::CrateName};

/// The largest body that is kept ready, as a part of the cache: a larger one would push out a
/// hundred small ones, and reading it from a file costs little beside sending it.
const LARGEST_PART: u64 = 16;

/// What an answer takes beside its bodies: the path, the header values, the entry in the map.
const OVERHEAD_BYTES: u64 = 512;

/// How many answers the map is laid out for; it grows past that.
const EXPECTED_ANSWERS: usize = 4096;

/// The response cache. A handle: cloning it is cheap.
#[derive(Debug, Clone)]
pub(crate) struct ResponseCache {
    /// `None`: set to zero bytes in the configuration.
    answers: Option<Arc<Answers>>,
    /// The largest body that is kept, in bytes.
    largest: u64,
}

/// Answers by the path asked for.
type Answers = Cache<Box<str>, Arc<CachedResponse>, ByBytes>;

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Box<str>, Arc<CachedResponse>> for ByBytes {
    fn weight(&self, path: &Box<str>, ready: &Arc<CachedResponse>) -> u64 {
        let bodies = ready.identity.as_ref().map_or(0, Bytes::len)
            + ready.gzip.as_ref().map_or(0, Bytes::len);
        OVERHEAD_BYTES + path.len() as u64 + bodies as u64
    }
}

/// The kind of a cached response; it decides the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CachedKind {
    /// An index file: two forms, and to be asked for again.
    Index {
        /// What the bytes are; the `ETag`s are made of it.
        digest: [u8; 16],
    },
    /// A crate: one form, for ever.
    Crate,
}

/// An answer as it goes out.
#[derive(Debug, Clone)]
pub(crate) struct CachedResponse {
    pub(crate) kind: CachedKind,
    /// The crate whose stamp it carries.
    pub(crate) name: CrateName,
    /// The view in which that is looked up.
    pub(crate) view: Arc<View>,
    /// The stamp of the crate in the view when this was made.
    pub(crate) stamp: u64,
    /// When an index file has to be looked up again: it is no longer fresh, or its view may show other
    /// lines. `None`: never.
    pub(crate) expires: Option<Instant>,
    /// The `ETag` of the body as it is.
    pub(crate) etag: HeaderValue,
    /// The `ETag` of the compressed form.
    pub(crate) etag_gzip: Option<HeaderValue>,
    /// The body as it is; `None` until a client asks for it.
    pub(crate) identity: Option<Bytes>,
    /// The body compressed; `None` until a client asks for it.
    pub(crate) gzip: Option<Bytes>,
}

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Identity,
    Gzip,
}

impl ResponseCache {
    /// A cache of at most so many bytes; none at all for zero.
    pub(crate) fn new(bytes: u64) -> ResponseCache {
        let cache = || Arc::new(Cache::with_weighter(EXPECTED_ANSWERS, bytes, ByBytes));
        ResponseCache {
            answers: (bytes > 0).then(cache),
            largest: bytes / LARGEST_PART,
        }
    }

    /// Whether a body of so many bytes is ever kept.
    pub(crate) fn keeps(&self, bytes: u64) -> bool {
        self.answers.is_some() && bytes <= self.largest
    }

    /// The answer for a path, good or not.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<CachedResponse>> {
        self.answers.as_ref()?.get(path)
    }

    /// Keeps an answer, unless it is too large.
    pub(crate) fn insert(&self, path: &str, ready: Arc<CachedResponse>) {
        let size = |body: &Option<Bytes>| body.as_ref().map_or(0, Bytes::len) as u64;
        if let Some(answers) = &self.answers
            && size(&ready.identity).max(size(&ready.gzip)) <= self.largest
        {
            answers.insert(path.into(), ready);
        }
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.answers.as_ref().map_or(0, |answers| answers.weight())
    }
}

impl CachedResponse {
    /// Whether this may be sent now, given the store's stamp of its crate.
    pub(crate) fn is_valid(&self, stamp: u64, now: Instant) -> bool {
        self.stamp == stamp && self.expires.is_none_or(|expires| now < expires)
    }

    /// The answer to a GET with these headers. `None`: the form asked for is not here.
    pub(crate) fn answer(&self, head: &RequestHead) -> Option<Response<BoxBody>> {
        let form = match self.etag_gzip {
            Some(_) if accepts_gzip(&head.headers) => Form::Gzip,
            _ => Form::Identity,
        };
        if let Some(etag) = self.matching(&head.headers) {
            let mut response = Response::with_body(StatusCode::NOT_MODIFIED, BoxBody::new(()));
            self.write_headers(response.headers_mut(), etag.clone());
            return Some(response);
        }
        let (body, etag) = match (form, &self.etag_gzip) {
            (Form::Gzip, Some(etag)) => (self.gzip.as_ref()?, etag),
            _ => (self.identity.as_ref()?, &self.etag),
        };
        let mut response = Response::with_body(StatusCode::OK, BoxBody::new(body.clone()));
        let headers = response.headers_mut();
        if form == Form::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        self.write_headers(headers, etag.clone());
        Some(response)
    }

    /// The `ETag` that the client has, if it is one of ours. Both forms have the same content, so
    /// either is a match whatever form would be sent.
    fn matching(&self, headers: &HeaderMap) -> Option<&HeaderValue> {
        let asked = headers.get(header::IF_NONE_MATCH)?;
        [Some(&self.etag), self.etag_gzip.as_ref()]
            .into_iter()
            .flatten()
            .find(|etag| etag_matches(asked, etag))
    }

    pub(crate) fn write_headers(&self, headers: &mut HeaderMap, etag: HeaderValue) {
        headers.insert(header::ETAG, etag);
        match self.kind {
            CachedKind::Index { .. } => write_index_headers(headers),
            CachedKind::Crate => write_crate_headers(headers),
        }
    }
}

pub(crate) fn write_index_headers(headers: &mut HeaderMap) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

pub(crate) fn write_crate_headers(headers: &mut HeaderMap) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/gzip"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// Whether a path can be answered ready at all: a plain GET of the whole.
pub(crate) fn may_be_ready(request: &Request) -> bool {
    let head = request.head();
    head.method == actix_http::Method::GET
        && head.uri.query().is_none()
        && !head.headers.contains_key(header::RANGE)
}

/// The value of an `ETag` header.
pub(crate) fn etag(quoted: &str) -> HeaderValue {
    // No digest has bytes that a header cannot have.
    HeaderValue::from_str(quoted).unwrap_or_else(|_invalid| HeaderValue::from_static("\"\""))
}

/// Whether `If-None-Match` names `etag` (weak comparison, RFC 9110 §13.1.2).
pub(crate) fn etag_matches(if_none_match: &HeaderValue, etag: &HeaderValue) -> bool {
    if if_none_match == etag {
        return true;
    }
    let list = if_none_match.to_str().unwrap_or_default();
    let etag = etag.to_str().unwrap_or_default();
    list.split(',')
        .map(str::trim)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == etag)
}

/// Whether `Accept-Encoding` takes gzip (RFC 9110 §12.5.3). Cargo says `deflate, gzip`.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let Some(accepted) = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    accepted.split(',').any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        let refused = weight
            .trim()
            .strip_prefix("q=")
            .is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_http::body::MessageBody as _;

    use super::*;

    fn ready() -> CachedResponse {
        CachedResponse {
            kind: CachedKind::Index { digest: [0; 16] },
            name: CrateName::parse("demo").expect("a name"),
            view: Arc::new(View::all()),
            stamp: 7,
            expires: None,
            etag: HeaderValue::from_static("\"abc\""),
            etag_gzip: Some(HeaderValue::from_static("\"abc-gz\"")),
            identity: Some(Bytes::from_static(b"plain")),
            gzip: Some(Bytes::from_static(b"packed")),
        }
    }

    fn ask(
        ready: &CachedResponse,
        headers: &[(header::HeaderName, &'static str)],
    ) -> (u16, Vec<u8>) {
        let mut request = Request::new();
        for (name, value) in headers {
            request
                .head_mut()
                .headers
                .append(name.clone(), HeaderValue::from_static(value));
        }
        let response = ready.answer(request.head()).expect("both forms are there");
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .try_into_bytes()
            .map(|body| body.to_vec());
        (status, body.unwrap_or_default())
    }

    #[test]
    fn the_form_follows_accept_encoding() {
        let accept = |value| ask(&ready(), &[(header::ACCEPT_ENCODING, value)]);
        assert_eq!(ask(&ready(), &[]), (200, b"plain".to_vec()));
        assert_eq!(accept("deflate, gzip"), (200, b"packed".to_vec()));
        assert_eq!(accept("gzip;q=0.5"), (200, b"packed".to_vec()));
        assert_eq!(accept("gzip;q=0"), (200, b"plain".to_vec()));
        assert_eq!(accept("br"), (200, b"plain".to_vec()));
    }

    #[test]
    fn a_known_etag_of_either_form_is_a_304() {
        for etag in ["\"abc\"", "\"abc-gz\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert_eq!(
                ask(&ready(), &[(header::IF_NONE_MATCH, etag)]),
                (304, Vec::new()),
                "{etag}"
            );
        }
        assert_eq!(ask(&ready(), &[(header::IF_NONE_MATCH, "\"abcd\"")]).0, 200);
    }

    #[test]
    fn an_answer_is_valid_while_its_stamp_and_time_hold() {
        let now = Instant::now();
        assert!(ready().is_valid(7, now));
        assert!(!ready().is_valid(8, now));
        let later = now + Duration::from_secs(1);
        let expiring = CachedResponse {
            expires: Some(later),
            ..ready()
        };
        assert!(!expiring.is_valid(7, later));
        assert!(expiring.is_valid(7, now));
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        let cache = ResponseCache::new(100 * 1024);
        for number in 0..1000 {
            let body = Bytes::from(vec![0; 4096]);
            let answer = CachedResponse {
                identity: Some(body),
                ..ready()
            };
            cache.insert(&format!("/{number}"), Arc::new(answer));
        }
        assert!(
            cache.bytes() > 4096 && cache.bytes() <= 100 * 1024,
            "{}",
            cache.bytes()
        );
        assert!(ResponseCache::new(0).get("/1").is_none());
    }
}
