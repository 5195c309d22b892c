//! The front service: answers from the response cache before any routing, and counts every request.
//!
//! This is an actix service in front of actix-web's. A warm `cargo fetch` is made of some
//! thousand small answers that are the same for everybody, and taking each through routing,
//! extractors and a handler is work that none of them needs.

use std::{
    future::{Ready as ReadyFuture, ready},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use actix_http::{
    Method, Request, Response, StatusCode, Version,
    body::{BodySize, BoxBody, MessageBody},
};
use actix_service::{Service, ServiceFactory};
use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture};

use super::{
    cache::{CachedKind, may_be_ready},
    state::State,
};
use crate::metrics::{BodyCounters, Endpoint, Kind, Metrics, Protocol, ReadyCounters};

/// Makes a [`Front`] over a new service of `inner` for each worker.
pub(crate) struct FrontFactory<F> {
    pub(crate) inner: F,
    pub(crate) state: Arc<State>,
}

impl<F, S> ServiceFactory<Request> for FrontFactory<F>
where
    F: ServiceFactory<Request, Config = (), Service = S>,
    S: Service<Request> + 'static,
    S::Response: Into<Response<BoxBody>>,
    F::Future: 'static,
    F: 'static,
{
    type Response = Response<BoxBody>;
    type Error = S::Error;
    type Config = ();
    type Service = Front<S>;
    type InitError = F::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (inner, state) = (self.inner.new_service(()), Arc::clone(&self.state));
        Box::pin(async move {
            Ok(Front {
                inner: inner.await?,
                counters: Counters::new(&state),
                state,
            })
        })
    }
}

/// The service of one worker.
pub(crate) struct Front<S> {
    inner: S,
    state: Arc<State>,
    counters: Counters,
}

impl<S> Service<Request> for Front<S>
where
    S: Service<Request> + 'static,
    S::Response: Into<Response<BoxBody>>,
    S::Future: 'static,
{
    type Response = Response<BoxBody>;
    type Error = S::Error;
    type Future = Either<
        ReadyFuture<Result<Response<BoxBody>, S::Error>>,
        LocalBoxFuture<'static, Result<Response<BoxBody>, S::Error>>,
    >;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&self, mut request: Request) -> Self::Future {
        let started = Instant::now();
        self.state.strip_prefix(&mut request);
        if let Some(response) = self.cached_response(&request, started) {
            return Either::Left(ready(Ok(response)));
        }
        let (endpoint, protocol) = (endpoint(request.path()), protocol(&request));
        let is_head = request.method() == Method::HEAD;
        let state = Arc::clone(&self.state);
        let fetched = (endpoint == Endpoint::Download)
            .then(|| Fetched::of(&request, &state))
            .flatten();
        let answer = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let response: Response<BoxBody> = answer.await?.into();
            if let Some(Fetched { path, client }) = fetched
                && matches!(response.status().as_u16(), 200 | 206)
            {
                state.services.uses.note(&path, client);
            }
            let metrics = &state.services.metrics;
            metrics.request(
                endpoint,
                protocol,
                response.status().as_u16(),
                started.elapsed(),
            );
            Ok(counted(response, endpoint, is_head, metrics))
        }))
    }
}

impl<S> Front<S> {
    fn cached_response(&self, request: &Request, started: Instant) -> Option<Response<BoxBody>> {
        if !may_be_ready(request) {
            return None;
        }
        let ready = self.state.cache.get(request.path())?;
        let stamp = self.state.mirror.stamp(&ready.view, &ready.name);
        if !ready.is_valid(stamp, started) {
            return None;
        }
        let response = ready.answer(request.head())?;
        let bytes = match response.body().size() {
            BodySize::Sized(bytes) => bytes,
            BodySize::None | BodySize::Stream => 0,
        };
        let counters = self
            .counters
            .of(ready.kind, protocol(request), response.status().as_u16());
        counters.answered(bytes, started.elapsed());
        if ready.kind == CachedKind::Crate
            && response.status() == StatusCode::OK
            && self.state.services.uses.is_on()
            && let Some(client) = self.state.bases.client(request.head())
        {
            self.state.services.uses.note(request.path(), client);
        }
        Some(response)
    }
}

/// Put on an answer for whose body upstream sent one.
pub(crate) struct FromUpstream;

/// The answer, with the bytes of its body counted: at once where they are in memory, else as they
/// go out, since a client may go away in the middle.
fn counted(
    response: Response<BoxBody>,
    endpoint: Endpoint,
    is_head: bool,
    metrics: &Metrics,
) -> Response<BoxBody> {
    let is_ours =
        response.status().is_success() && response.extensions().get::<FromUpstream>().is_none();
    let saved = kind(endpoint).filter(|_| is_ours);
    if is_head || response.body().size() == BodySize::None {
        return response;
    }
    let counters = metrics.body(endpoint, saved);
    response.map_body(|_head, body| match body.try_into_bytes() {
        Ok(bytes) => {
            counters.passed(bytes.len() as u64);
            BoxBody::new(bytes)
        }
        Err(body) => BoxBody::new(Counted { body, counters }),
    })
}

/// What an endpoint serves that upstream has as well.
fn kind(endpoint: Endpoint) -> Option<Kind> {
    match endpoint {
        Endpoint::Index => Some(Kind::Index),
        Endpoint::Download => Some(Kind::Crate),
        Endpoint::Git => Some(Kind::Git),
        _ => None,
    }
}

/// A body that is made as it goes, whose bytes are counted as they go out.
struct Counted {
    body: BoxBody,
    counters: BodyCounters,
}

impl MessageBody for Counted {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let piece = Pin::new(&mut self.body).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &piece {
            self.counters.passed(bytes.len() as u64);
        }
        piece
    }
}

/// A crate file that somebody asks for, for the record of who fetched what.
struct Fetched {
    path: String,
    client: IpAddr,
}

impl Fetched {
    fn of(request: &Request, state: &State) -> Option<Fetched> {
        if !state.services.uses.is_on() || request.method() != Method::GET {
            return None;
        }
        Some(Fetched {
            path: request.path().to_owned(),
            client: state.bases.client(request.head())?,
        })
    }
}

/// The counters of cached responses, by kind, protocol and whether the client had it already.
struct Counters {
    index: [[ReadyCounters; 2]; 2],
    download: [[ReadyCounters; 2]; 2],
}

impl Counters {
    fn new(state: &State) -> Counters {
        let metrics = &state.services.metrics;
        let of = |endpoint, kind| {
            [Protocol::H1, Protocol::H2].map(|protocol| {
                [200, 304].map(|status| metrics.ready(endpoint, kind, protocol, status))
            })
        };
        Counters {
            index: of(Endpoint::Index, Kind::Index),
            download: of(Endpoint::Download, Kind::Crate),
        }
    }

    fn of(&self, kind: CachedKind, protocol: Protocol, status: u16) -> &ReadyCounters {
        let [h1, h2] = match kind {
            CachedKind::Index { .. } => &self.index,
            CachedKind::Crate => &self.download,
        };
        let [ok, not_modified] = match protocol {
            Protocol::H1 => h1,
            Protocol::H2 => h2,
        };
        if status == 304 { not_modified } else { ok }
    }
}

fn protocol(request: &Request) -> Protocol {
    match request.version() {
        Version::HTTP_2 => Protocol::H2,
        _ => Protocol::H1,
    }
}

/// What a path is for, as the metrics call it.
fn endpoint(path: &str) -> Endpoint {
    match within_view(path) {
        "/index/config.json" => Endpoint::Config,
        "/metrics" => Endpoint::Metrics,
        "/healthz" | "/readyz" => Endpoint::Health,
        "/api/v1/crates" => Endpoint::Search,
        "/" | "/status.json" | "/crates" | "/crates.json" => Endpoint::Status,
        path if path.starts_with("/index/") => Endpoint::Index,
        path if path.starts_with("/api/v1/crates/") && path.ends_with("/download") => {
            Endpoint::Download
        }
        path if path.starts_with("/static/") || path.starts_with("/crates/") => Endpoint::Status,
        path if path.starts_with("/git/") => Endpoint::Git,
        _ => Endpoint::Other,
    }
}

/// A path of a view as the root has it: a view's index counts as an index.
fn within_view(path: &str) -> &str {
    let rest = path
        .strip_prefix("/view/")
        .and_then(|rest| rest.split_once('/'));
    match rest {
        Some((view, rest)) => path
            .get("/view/".len().saturating_add(view.len())..)
            .filter(|_| SERVED_IN_VIEWS.iter().any(|part| rest.starts_with(part)))
            .unwrap_or(path),
        None => path,
    }
}

/// What a view has of what the root has.
const SERVED_IN_VIEWS: &[&str] = &["index/", "api/", "git/"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_view_counts_like_that_of_the_root() {
        let check = |path, expected| assert_eq!(endpoint(path), expected, "{path}");
        check("/index/se/rd/serde", Endpoint::Index);
        check("/view/held/index/se/rd/serde", Endpoint::Index);
        check("/view/held/index/config.json", Endpoint::Config);
        check("/view/held/api/v1/crates", Endpoint::Search);
        check(
            "/view/held/api/v1/crates/a/1.0.0/download",
            Endpoint::Download,
        );
        check("/view/held/git/index/info/refs", Endpoint::Git);
        check("/view/held/metrics", Endpoint::Other);
        check("/view/held/", Endpoint::Other);
        check("/view/", Endpoint::Other);
    }
}
