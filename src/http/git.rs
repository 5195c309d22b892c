//! The git index over smart HTTP: refs and packs for git, and for what cargo has of git inside.
//!
//! Source: gitprotocol-http of git. What the bytes mean is known in [`crate::git::upload_pack`].

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::BodyStream,
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;
use flate2::write::GzDecoder;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{git_limits::GitLimits, reply, state::State, view::InView};
use crate::{
    git::{
        self, PackStream, Repo, Serving,
        frames::{End, Frames},
        upload_pack::{self, Answer, Asked, PackPlan, Version},
    },
    git_index::{GitIndexes, GitState},
    metrics::{GitProtocol, GitRequest, GitResult},
    mirror::NoView,
};

/// The longest request, inflated or not: room for over 300,000 commits that a client has.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// A request longer than this waits for one of few permits. Most have under 4 KiB.
const LARGE_BODY_BYTES: usize = 256 * 1024;

/// How long a client may take to send its request.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// When a client that gets no permit comes again.
const COME_AGAIN_SECONDS: u64 = 5;

const SERVICE: &str = "git-upload-pack";
const REQUEST_TYPE: &str = "application/x-git-upload-pack-request";
const REFS_TYPE: &str = "application/x-git-upload-pack-advertisement";
const RESULT_TYPE: &str = "application/x-git-upload-pack-result";

/// What `info/refs` is asked with.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Query {
    service: Option<String>,
}

/// `GET /git/index/info/refs?service=git-upload-pack`.
pub(crate) async fn info_refs(
    request: HttpRequest,
    view: Result<InView, NoView>,
    query: Option<web::Query<Query>>,
    state: web::Data<State>,
) -> HttpResponse {
    let talk = Talk::new(GitRequest::Refs, &request, &state);
    match query.as_ref().and_then(|query| query.service.as_deref()) {
        Some(SERVICE) => {}
        Some("git-receive-pack") => return talk.refuse(read_only()),
        Some(_) | None => return talk.refuse(not_dumb()),
    }
    let (refs, result) = match repo(&state.services.git_index, view) {
        Ok(repo) => {
            let refs = upload_pack::advertise(repo.serving().as_ref(), talk.version);
            (refs, GitResult::Ok)
        }
        // libgit2 and gitoxide hide the text of a status, and cargo then suspects the network; the
        // text of an error packet is shown by all.
        Err(refusal) => {
            let text = format!("orlop: {}", refusal.text);
            (upload_pack::refuse(&text), refusal.result)
        }
    };
    talk.ended(result);
    HttpResponse::Ok()
        .content_type(REFS_TYPE)
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::VARY, "git-protocol"))
        .body(refs)
}

/// `POST /git/index/git-upload-pack`.
pub(crate) async fn upload_pack(
    request: HttpRequest,
    view: Result<InView, NoView>,
    body: web::Payload,
    state: web::Data<State>,
) -> HttpResponse {
    let mut talk = Talk::new(GitRequest::Fetch, &request, &state);
    let repo = match repo(&state.services.git_index, view) {
        Ok(repo) => repo,
        Err(refusal) => return talk.refuse(refusal),
    };
    let body = match read(&request, body, &state.git).await {
        Ok(body) => body,
        Err(refusal) => return talk.refuse(refusal),
    };
    let version = talk.version;
    let planned = web::block(move || {
        if let Err(error) = repo.repair() {
            tracing::debug!(%error, "the git index is still damaged");
        }
        let serving = repo.serving();
        let answer = upload_pack::answer(serving.as_ref(), version, &body);
        (serving, answer)
    });
    let Ok((serving, answer)) = planned.await else {
        return talk.refuse(Refusal::given_up());
    };
    if answer.asked == Asked::LsRefs {
        talk.request = GitRequest::LsRefs;
    }
    match answer {
        Answer {
            head,
            pack: Some(plan),
            ..
        } => send(talk, serving, head, plan).await,
        Answer { asked, head, .. } => {
            talk.ended(if asked == Asked::Refused {
                GitResult::Refused
            } else {
                GitResult::Ok
            });
            result().body(head)
        }
    }
}

/// `git-receive-pack`, which is what a push asks for.
pub(crate) async fn refuse_push() -> HttpResponse {
    read_only().response()
}

/// Anything else below the index: what a client without smart HTTP asks for.
pub(crate) async fn refuse_files() -> HttpResponse {
    not_dumb().response()
}

/// Any other path of git's. One repository has one address: were `index.git` served beside
/// `index`, cargo would take them for one and mix what it knows of them.
pub(crate) async fn elsewhere(request: HttpRequest) -> HttpResponse {
    let path = request.path();
    let place = path.split_once("/git").map_or("", |(place, _rest)| place);
    let text = if path.trim_end_matches('/').ends_with("/git/index") {
        "this is the git index, for git and cargo: the status page shows how cargo is given it"
            .to_owned()
    } else {
        format!("there is one git index here, at {place}/git/index")
    };
    Refusal::new(StatusCode::NOT_FOUND, &text).response()
}

fn result() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .content_type(RESULT_TYPE)
        .insert_header((header::CACHE_CONTROL, "no-cache"));
    response
}

/// Sends a pack, when there is a place for one more.
async fn send(talk: Talk, serving: Arc<Serving>, head: Vec<u8>, plan: PackPlan) -> HttpResponse {
    let Some(permit) = talk.state.git.pack().await else {
        return talk.refuse(Refusal::busy());
    };
    let opened = web::block(move || {
        let pack = serving.pack(&plan.selection, plan.wishes)?;
        let progress = plan.progress.then(|| progress(&pack));
        Ok::<_, git::Error>(Frames::new(pack, plan.sideband, progress))
    });
    let frames = match opened.await {
        Ok(Ok(frames)) => frames,
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "could not make a pack for a git client"
            );
            let text = "the pack could not be read; the mirror's log says why";
            return talk.refuse(Refusal::unavailable(GitResult::Failed, text));
        }
        Err(_canceled) => return talk.refuse(Refusal::given_up()),
    };
    let sending = Sending {
        frames: Some(frames),
        sent: Sent {
            talk,
            result: GitResult::Aborted,
        },
        _permit: permit,
    };
    result().body(BodyStream::new(pieces(Bytes::from(head), sending)))
}

fn progress(pack: &PackStream) -> String {
    let objects = pack.objects();
    let noun = if objects == 1 { "object" } else { "objects" };
    format!("orlop: {objects} {noun}\n")
}

/// A pack on its way. Dropping it ends the reading and gives its place to the next.
struct Sending {
    /// `None`: a blocking thread has it, or had it and panicked.
    frames: Option<Frames<PackStream>>,
    sent: Sent,
    _permit: OwnedSemaphorePermit,
}

/// Counts a pack when it is over, however that comes.
struct Sent {
    talk: Talk,
    result: GitResult,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.talk.ended(self.result);
    }
}

/// The head of an answer, then its pack in pieces. Each piece is read on a blocking thread when
/// the one before was taken, so that a slow client keeps neither a thread nor memory.
fn pieces(head: Bytes, sending: Sending) -> impl Stream<Item = Result<Bytes, io::Error>> {
    let head =
        stream::iter(Some(Ok(head)).filter(|head| !matches!(head, Ok(bytes) if bytes.is_empty())));
    head.chain(stream::try_unfold(sending, |mut sending| async move {
        let piece = sending.piece().await?;
        Ok(piece.map(|piece| (piece, sending)))
    }))
}

impl Sending {
    async fn piece(&mut self) -> Result<Option<Bytes>, io::Error> {
        let Some(mut frames) = self.frames.take() else {
            return Ok(None);
        };
        let (before, was_over) = (frames.pack_bytes(), frames.end().is_some());
        let read = web::block(move || {
            let piece = frames.piece();
            (piece, frames)
        });
        let (piece, frames) = read.await.map_err(io::Error::other)?;
        let metrics = &self.sent.talk.state.services.metrics;
        metrics.git_pack_bytes(frames.pack_bytes().saturating_sub(before));
        match frames.end() {
            None => {}
            Some(End::Whole) => self.sent.result = GitResult::Pack,
            Some(End::Broken(error)) => {
                self.sent.result = GitResult::Failed;
                if !was_over {
                    tracing::error!(%error, "could not read a pack to its end for a git client");
                }
                // Without a side-band only a broken connection says that the pack is not whole;
                // with one it would hide what the client was told.
                if piece.is_none() && !frames.tells() {
                    return Err(io::Error::other("the pack could not be read"));
                }
            }
        }
        self.frames = Some(frames);
        Ok(piece.map(Bytes::from))
    }
}

/// A request, as the metrics know it.
struct Talk {
    request: GitRequest,
    version: Version,
    state: web::Data<State>,
}

impl Talk {
    fn new(kind: GitRequest, request: &HttpRequest, state: &web::Data<State>) -> Talk {
        let asked = request.headers().get("git-protocol");
        Talk {
            request: kind,
            version: asked.map_or(Version::V0, |value| Version::of_header(value.as_bytes())),
            state: state.clone(),
        }
    }

    fn ended(&self, result: GitResult) {
        let protocol = match self.version {
            Version::V0 => GitProtocol::V0,
            Version::V1 => GitProtocol::V1,
            Version::V2 => GitProtocol::V2,
        };
        let metrics = &self.state.services.metrics;
        metrics.git_request(self.request, protocol, result);
    }

    fn refuse(self, refusal: Refusal) -> HttpResponse {
        self.ended(refusal.result);
        refusal.response()
    }
}

/// The repository of a view, if it can be served.
fn repo(git_index: &GitIndexes, view: Result<InView, NoView>) -> Result<Repo, Refusal> {
    let forbidden = |text| Refusal::new(StatusCode::FORBIDDEN, text);
    let InView(view) = view.map_err(|no| Refusal::new(StatusCode::NOT_FOUND, &no.to_string()))?;
    let Some((repo, state)) = git_index.repository(&view) else {
        return Err(forbidden(
            "this mirror serves no git index (`git.enabled` is false); use its sparse index",
        ));
    };
    match state {
        GitState::Ready => repo.ok_or_else(Refusal::given_up),
        GitState::NoBase => Err(forbidden(
            "the git index needs `public_url` in the mirror's configuration: its config.json \
             cannot follow the host of a request",
        )),
        GitState::Empty => Err(forbidden(
            "the git index has no commit yet; it gets its first within a minute",
        )),
        GitState::BeingMade => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the git index was lost and is being made again; ask again in a minute",
        )),
    }
}

fn read_only() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "this is a mirror: nothing can be pushed to it",
    )
}

fn not_dumb() -> Refusal {
    let text = "the git index needs a client with smart HTTP: git 1.6.6 or newer, or cargo";
    Refusal::new(StatusCode::FORBIDDEN, text)
}

/// A request that is answered with a status and a sentence.
struct Refusal {
    status: StatusCode,
    text: String,
    result: GitResult,
}

impl Refusal {
    fn new(status: StatusCode, text: &str) -> Refusal {
        Refusal {
            status,
            text: text.to_owned(),
            result: GitResult::Refused,
        }
    }

    fn unavailable(result: GitResult, text: &str) -> Refusal {
        Refusal {
            result,
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }

    fn busy() -> Refusal {
        let text = "too many git clients fetch at the same time; try again in some seconds";
        Refusal::unavailable(GitResult::Busy, text)
    }

    fn given_up() -> Refusal {
        Refusal::unavailable(GitResult::Failed, "the answer was given up")
    }

    fn response(self) -> HttpResponse {
        let mut response = reply::plain(self.status, format!("orlop: {}\n", self.text));
        let headers = response.headers_mut();
        headers.insert(
            header::CACHE_CONTROL,
            header::HeaderValue::from_static("no-cache"),
        );
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, COME_AGAIN_SECONDS.into());
        }
        response
    }
}

/// The whole body of a request, inflated.
async fn read(
    request: &HttpRequest,
    body: web::Payload,
    limits: &GitLimits,
) -> Result<Vec<u8>, Refusal> {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != REQUEST_TYPE {
        let text = format!("a request for a pack has the content type {REQUEST_TYPE}");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text));
    }
    let mut sink = match text(header::CONTENT_ENCODING).unwrap_or("identity") {
        "gzip" | "x-gzip" => Sink::Gzip(Box::new(GzDecoder::new(Capped::default()))),
        "identity" | "" => Sink::Plain(Capped::default()),
        _ => {
            let text = "a request for a pack is gzip or not compressed";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
    };
    match timeout(BODY_WITHIN, fill(&mut sink, body, limits)).await {
        Ok(filled) => filled?,
        Err(_elapsed) => {
            let text = "the request did not come within a minute";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
        }
    }
    sink.finish()
}

async fn fill(sink: &mut Sink, mut body: web::Payload, limits: &GitLimits) -> Result<(), Refusal> {
    let (mut received, mut large) = (0_usize, None);
    while let Some(bytes) = body.next().await {
        let bytes = bytes
            .map_err(|_broken| Refusal::new(StatusCode::BAD_REQUEST, "the request broke off"))?;
        received = received.saturating_add(bytes.len());
        if received > MAX_BODY_BYTES {
            return Err(too_large());
        }
        // Inflated in small steps, so that what is to become large waits before it is.
        for part in bytes.chunks(INFLATED_AT_ONCE) {
            if sink.len() > LARGE_BODY_BYTES && large.is_none() {
                let permit = limits.large_body().await;
                large = Some(permit.ok_or_else(Refusal::busy)?);
            }
            sink.write(part)?;
        }
    }
    Ok(())
}

/// At gzip's best ratio of about 1000 this becomes half a mebibyte.
const INFLATED_AT_ONCE: usize = 512;

fn too_large() -> Refusal {
    let text = format!("a request for a pack has at most {MAX_BODY_BYTES} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, &text)
}

/// Where a body goes.
enum Sink {
    Plain(Capped),
    Gzip(Box<GzDecoder<Capped>>),
}

impl Sink {
    fn len(&self) -> usize {
        match self {
            Sink::Plain(capped) => capped.bytes.len(),
            Sink::Gzip(decoder) => decoder.get_ref().bytes.len(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let written = match self {
            Sink::Plain(capped) => capped.write_all(bytes),
            Sink::Gzip(decoder) => decoder.write_all(bytes),
        };
        written.map_err(|error| Sink::refusal(&error))
    }

    fn finish(self) -> Result<Vec<u8>, Refusal> {
        match self {
            Sink::Plain(capped) => Ok(capped.bytes),
            Sink::Gzip(decoder) => match decoder.finish() {
                Ok(capped) => Ok(capped.bytes),
                Err(error) => Err(Sink::refusal(&error)),
            },
        }
    }

    fn refusal(error: &io::Error) -> Refusal {
        if error.kind() == io::ErrorKind::FileTooLarge {
            return too_large();
        }
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "the request says that it is gzip, and is not",
        )
    }
}

/// Takes so many bytes and no more.
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > MAX_BODY_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
