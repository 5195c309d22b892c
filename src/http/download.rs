//! The download endpoint: a crate's file, from the store or while it comes.

use std::{ops::Range, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodyStream, BoxBody, SizedStream},
    http::{
        Method, StatusCode, Version,
        header::{self, HeaderMap, HeaderValue},
    },
    web,
};
use bytes::Bytes;
use futures_util::{Stream, stream};

use super::{
    cache::{CachedKind, CachedResponse, etag, etag_matches, write_crate_headers},
    front::FromUpstream,
    range::{self, Wanted},
    reply,
    state::State,
    view::InView,
};
use crate::{
    mirror::{CrateAnswer, CrateFile, Follower},
    policy::View,
    registry::{Checksum, Release},
    store::BlobReader,
};

/// How much of a file is read at a time; a smaller one is read whole. Large enough that a hop to
/// a blocking thread is small beside the copy, small enough that it stays in the processor's
/// cache on its way to the socket, and that a slow client holds little.
const READ_BYTES: usize = 128 * 1024;

/// The crate version that a path names.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Named {
    #[serde(rename = "crate")]
    name: String,
    version: String,
}

/// `GET /api/v1/crates/{crate}/{version}/download`.
pub(crate) async fn download(
    request: HttpRequest,
    InView(view): InView,
    path: web::Path<Named>,
    state: web::Data<State>,
) -> HttpResponse {
    let Named { name, version } = path.into_inner();
    let release = match Release::parse(&name, &version) {
        Ok(release) => release,
        Err(why) => return reply::no_release(&name, &version, &why),
    };
    let stamp = (&view, state.mirror.stamp(&view, &release.name));
    let CrateAnswer {
        file, is_fetched, ..
    } = match state.mirror.crate_file(&view, &release).await {
        Ok(answer) => answer,
        Err(error) => return reply::failure(&error),
    };
    let mut response = match file {
        CrateFile::Held(blob) => held(&request, &release, &blob, stamp, &state).await,
        // HTTP/1.0 ends a body of unknown length by closing, be it whole or broken off.
        CrateFile::Coming(follower)
            if follower.len().is_none() && request.version() <= Version::HTTP_10 =>
        {
            match follower.end().await {
                Ok(blob) => held(&request, &release, &blob, stamp, &state).await,
                Err(error) => reply::failure(&error),
            }
        }
        CrateFile::Coming(follower) => coming(&request, &release, follower),
    };
    if is_fetched {
        response.extensions_mut().insert(FromUpstream);
    }
    response
}

/// The file is in the store: whole or in part, or not at all if the client has it. `stamp`: that of
/// the crate in its view.
async fn held(
    request: &HttpRequest,
    release: &Release,
    blob: &BlobReader,
    stamp: (&Arc<View>, u64),
    state: &State,
) -> HttpResponse {
    let etag = etag_of(blob.checksum());
    let known = request.headers().get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| etag_matches(known, &etag)) {
        let mut response = HttpResponse::NotModified().finish();
        write_headers(response.headers_mut(), etag);
        return response;
    }
    match wanted(request, &etag, blob.len()) {
        Wanted::Whole => whole(request, release, blob, etag, stamp, state).await,
        Wanted::Part(part) => {
            let body = match body_of(request, blob, part.clone()).await {
                Ok(body) => body,
                Err(error) => return unreadable(release, &error),
            };
            let mut response = HttpResponse::PartialContent().body(body);
            let place = format!(
                "bytes {}-{}/{}",
                part.start,
                part.end.saturating_sub(1),
                blob.len()
            );
            insert(response.headers_mut(), header::CONTENT_RANGE, &place);
            write_headers(response.headers_mut(), etag);
            response
        }
        Wanted::Nothing => {
            let mut response = HttpResponse::RangeNotSatisfiable().finish();
            insert(
                response.headers_mut(),
                header::CONTENT_RANGE,
                &format!("bytes */{}", blob.len()),
            );
            response
        }
    }
}

/// The range that is asked for; `If-Range` with another `ETag` means the whole.
fn wanted(request: &HttpRequest, etag: &HeaderValue, len: u64) -> Wanted {
    let headers = request.headers();
    let other = headers
        .get(header::IF_RANGE)
        .is_some_and(|known| known != etag);
    match headers.get(header::RANGE) {
        Some(range) if !other && request.method() == Method::GET => {
            range::parse(range.as_bytes(), len)
        }
        _ => Wanted::Whole,
    }
}

async fn whole(
    request: &HttpRequest,
    release: &Release,
    blob: &BlobReader,
    etag: HeaderValue,
    stamp: (&Arc<View>, u64),
    state: &State,
) -> HttpResponse {
    if !(state.cache.keeps(blob.len()) && request.method() == Method::GET) {
        let body = match body_of(request, blob, 0..blob.len()).await {
            Ok(body) => body,
            Err(error) => return unreadable(release, &error),
        };
        let mut response = HttpResponse::Ok().body(body);
        write_headers(response.headers_mut(), etag);
        return response;
    }
    let bytes = match read(blob, 0, at_most(blob.len(), usize::MAX)).await {
        Ok(bytes) => bytes,
        Err(error) => return unreadable(release, &error),
    };
    let (view, stamp) = stamp;
    let ready = Arc::new(CachedResponse {
        kind: CachedKind::Crate,
        name: release.name.clone(),
        view: Arc::clone(view),
        stamp,
        expires: None,
        etag,
        etag_gzip: None,
        identity: Some(bytes),
        gzip: None,
    });
    state.cache.insert(request.path(), Arc::clone(&ready));
    match ready.answer(request.head()) {
        Some(response) => response.into(),
        None => reply::plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "orlop: an answer without a body\n".into(),
        ),
    }
}

fn unreadable(release: &Release, error: &std::io::Error) -> HttpResponse {
    tracing::error!(%release, %error, "could not read the file of {release} from the store");
    reply::plain(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("orlop: could not read the file of {release} from the store: {error}\n"),
    )
}

/// The body of a part of a stored file.
async fn body_of(
    request: &HttpRequest,
    blob: &BlobReader,
    part: Range<u64>,
) -> Result<BoxBody, std::io::Error> {
    let len = part.end.saturating_sub(part.start);
    if request.method() == Method::HEAD {
        // The dispatcher writes the length of a body that it does not send.
        let nothing = stream::empty::<Result<Bytes, std::io::Error>>();
        return Ok(BoxBody::new(SizedStream::new(len, nothing)));
    }
    if len <= READ_BYTES as u64 {
        let bytes = read(blob, part.start, at_most(len, READ_BYTES)).await?;
        return Ok(BoxBody::new(bytes));
    }
    Ok(BoxBody::new(SizedStream::new(
        len,
        pieces(blob.clone(), part),
    )))
}

/// A part of a stored file in pieces. An error breaks the transfer off.
fn pieces(blob: BlobReader, part: Range<u64>) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::try_unfold(part, move |part| {
        let blob = blob.clone();
        async move {
            if part.is_empty() {
                return Ok(None);
            }
            let left = part.end.saturating_sub(part.start);
            let bytes = read(&blob, part.start, at_most(left, READ_BYTES)).await?;
            let next = part.start.saturating_add(bytes.len() as u64);
            Ok(Some((bytes, next..part.end)))
        }
    })
}

/// Up to `len` bytes from `offset` on: at once if the page cache has them, which it nearly always
/// does, else on a blocking thread, so that a worker never waits for a disk.
async fn read(blob: &BlobReader, offset: u64, len: usize) -> Result<Bytes, std::io::Error> {
    let len = at_most(blob.len().saturating_sub(offset), len);
    if let Some(bytes) = blob.read_range_now(offset, len)? {
        return Ok(bytes);
    }
    let blob = blob.clone();
    web::block(move || blob.read_range(offset, len))
        .await
        .map_err(std::io::Error::other)?
}

fn at_most(left: u64, most: usize) -> usize {
    usize::try_from(left).map_or(most, |left| left.min(most))
}

/// The file is on its way: the client reads behind the leader. A range is not looked at: the
/// whole is a valid answer to it (RFC 9110 §14.2).
fn coming(request: &HttpRequest, release: &Release, follower: Follower) -> HttpResponse {
    let (len, checksum) = (follower.len(), *follower.checksum());
    let release = release.to_string();
    let body = stream::try_unfold(follower, move |mut follower| {
        let release = release.clone();
        async move {
            match follower.next().await {
                Ok(Some(bytes)) => Ok(Some((bytes, follower))),
                Ok(None) => Ok(None),
                Err(error) => {
                    tracing::debug!(%release, %error, "broke off the transfer of {release}");
                    Err(std::io::Error::other(error))
                }
            }
        }
    });
    let body = match len {
        Some(len) if request.method() == Method::HEAD => BoxBody::new(SizedStream::new(
            len,
            stream::empty::<Result<Bytes, std::io::Error>>(),
        )),
        Some(len) => BoxBody::new(SizedStream::new(len, body)),
        None => BoxBody::new(BodyStream::new(body)),
    };
    let mut response = HttpResponse::Ok().body(body);
    // A cache on the way may keep what came whole: it is, by then, what the checksum promises.
    write_headers(response.headers_mut(), etag_of(&checksum));
    response
}

fn etag_of(checksum: &Checksum) -> HeaderValue {
    etag(&format!("\"{checksum}\""))
}

fn write_headers(headers: &mut HeaderMap, etag: HeaderValue) {
    headers.insert(header::ETAG, etag);
    write_crate_headers(headers);
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
