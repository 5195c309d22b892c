//! The pages as JSON, for scripts: the same data that the templates get.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, Bytes},
};
use serde::Serialize;

use super::gather::{self, Looked};
use crate::{
    http::{State, reply},
    mirror,
    registry::CrateName,
    status::Range,
};

/// The longest query that is looked for, in bytes: no name is longer than 64.
pub(crate) const MAX_QUERY_BYTES: usize = 256;

/// What is said where too many look at once, and when to come again.
pub(super) const TOO_MANY: &str = "too many look for crates at once";
pub(super) const COME_AGAIN_SECONDS: u16 = 2;

/// What is said where gathering broke off.
pub(super) const BROKEN: &str = "this could not be looked up: the look into the store broke off";

#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct OverviewQuery {
    #[serde(default)]
    pub(super) range: String,
}

#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct SearchQuery {
    #[serde(default)]
    pub(super) q: String,
}

/// `GET /status.json?range=day`.
pub(crate) async fn overview(
    request: HttpRequest,
    query: Option<web::Query<OverviewQuery>>,
    state: web::Data<State>,
) -> HttpResponse {
    let base = match state.bases.of(request.head()) {
        Ok(base) => base,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let range = query.map_or(Range::Day, |query| Range::parse(&query.range));
    match gather::overview(&state, &base, range).await {
        Some(page) => text(&page).map_or_else(broken, json),
        None => broken(),
    }
}

/// `GET /crates.json?q=`.
pub(crate) async fn search(
    query: Option<web::Query<SearchQuery>>,
    state: web::Data<State>,
) -> HttpResponse {
    let query = query.map(web::Query::into_inner).unwrap_or_default();
    if query.q.len() > MAX_QUERY_BYTES {
        return refusal(
            StatusCode::BAD_REQUEST,
            "a search has a `q` of at most 256 bytes",
        );
    }
    let write = |page| text(&page);
    looked_for(gather::search(&state, &query.q, "json", write).await, "")
}

/// `GET /crates/{name}.json`.
pub(crate) async fn krate(name: web::Path<String>, state: web::Data<State>) -> HttpResponse {
    let name = match CrateName::parse(&name) {
        Ok(name) => name,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let write = |page, _now| text(&page);
    let looked = gather::krate(&state, &name, "json", write).await;
    looked_for(looked, &unknown_crate(&name))
}

/// The answer of what was looked for. `unknown`: what is said where there is no such thing.
fn looked_for(looked: Looked, unknown: &str) -> HttpResponse {
    match looked {
        Looked::Written(page) => json(page),
        Looked::Unknown => refusal(StatusCode::NOT_FOUND, unknown),
        Looked::Failed(error) => failure(&error),
        Looked::Busy => again(
            refusal(StatusCode::SERVICE_UNAVAILABLE, TOO_MANY),
            COME_AGAIN_SECONDS.into(),
        ),
        Looked::Broke => broken(),
    }
}

fn failure(error: &mirror::Error) -> HttpResponse {
    let refused = refusal(reply::status(error), &error.to_string());
    match error.retry_after() {
        Some(pause) => again(refused, pause.as_secs().max(1)),
        None => refused,
    }
}

fn again(mut response: HttpResponse, seconds: u64) -> HttpResponse {
    let pause = header::HeaderValue::from(seconds);
    response.headers_mut().insert(header::RETRY_AFTER, pause);
    response
}

fn broken() -> HttpResponse {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, BROKEN)
}

/// Why there is no page for a crate.
pub(crate) fn unknown_crate(name: &CrateName) -> String {
    format!(
        "nothing is known of crate `{name}` here yet: it appears once a cargo asks this mirror for it"
    )
}

/// A page as JSON; `None`: it could not be written, and the log says why.
fn text(page: &impl Serialize) -> Option<Bytes> {
    let text = serde_json::to_vec(page);
    let text = text.inspect_err(|error| tracing::error!(%error, "could not write a page"));
    text.ok().map(Bytes::from)
}

fn json(text: Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type(header::ContentType::json())
        .body(text)
}

fn refusal(status: StatusCode, detail: &str) -> HttpResponse {
    let mut response = HttpResponse::build(status);
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    response.json(serde_json::json!({ "error": detail }))
}
