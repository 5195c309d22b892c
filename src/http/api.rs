//! The registry's web API: search over what is held, and a readable "no" to what changes a registry.
//!
//! Source: the [web API](https://doc.rust-lang.org/cargo/reference/registry-web-api.html).

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode},
    web,
};

use super::{page, reply, state::State, view::InView};

/// How many results a search gives at most; cargo asks for 10 and crates.io caps at 100.
const MAX_RESULTS: usize = 100;
const DEFAULT_RESULTS: usize = 10;

/// The longest query that is looked for, in bytes: no name is longer than 64.
const MAX_QUERY_BYTES: usize = 256;

/// What `cargo search` sends.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Query {
    #[serde(default)]
    q: String,
    per_page: Option<usize>,
}

/// `GET /api/v1/crates?q=…&per_page=…`: over the names that this mirror holds, in a view.
pub(crate) async fn search(
    InView(view): InView,
    query: Option<web::Query<Query>>,
    state: web::Data<State>,
) -> HttpResponse {
    let Some(query) = query.filter(|query| query.q.len() <= MAX_QUERY_BYTES) else {
        return reply::api_error(
            StatusCode::BAD_REQUEST,
            "a search has a `q` of at most 256 bytes and a number as `per_page`",
        );
    };
    let (text, limit) = (
        query.q.trim().to_owned(),
        query.per_page.unwrap_or(DEFAULT_RESULTS).min(MAX_RESULTS),
    );
    match web::block(move || state.mirror.search(&view, &text, limit)).await {
        Ok(Ok((found, total))) => {
            let crates: Vec<_> = found
                .iter()
                .map(|krate| {
                    let version = krate.max_version.as_ref().map_or_else(|| "0.0.0".to_owned(), ToString::to_string);
                    // The index has no descriptions; cargo shows the name and version without one.
                    serde_json::json!({ "name": krate.name.as_str(), "max_version": version, "description": null })
                })
                .collect();
            HttpResponse::Ok()
                .json(serde_json::json!({ "crates": crates, "meta": { "total": total } }))
        }
        Ok(Err(error)) => reply::failure(&error),
        Err(_canceled) => {
            reply::api_error(StatusCode::SERVICE_UNAVAILABLE, "the search was given up")
        }
    }
}

/// `cargo publish`, `yank`, `owner` and the rest of the web API.
pub(crate) async fn refuse(request: HttpRequest, _view: InView) -> HttpResponse {
    let path = request.path();
    let action = match *request.method() {
        Method::PUT if path.ends_with("/new") => "publish crates",
        Method::DELETE if path.ends_with("/yank") => "yank versions",
        Method::PUT if path.ends_with("/unyank") => "take back a yank",
        _ if path.ends_with("/owners") => "know or change the owners of crates",
        _ => {
            return reply::api_error(
                StatusCode::NOT_FOUND,
                "this is a mirror: it has crate files, their index and a search, and no other part of the web API",
            );
        }
    };
    reply::api_error(
        StatusCode::FORBIDDEN,
        &format!(
            "this is a mirror and cannot {action}; send it to the registry itself, e.g. with `--registry crates-io` and without source replacement"
        ),
    )
}

/// A path that nothing is at.
pub(crate) async fn unknown(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let method = request.method();
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply::plain(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("orlop: nothing here takes a {method}\n"),
        );
    }
    if let Some(page) = page::nowhere(&request, &state) {
        return page;
    }
    reply::plain(
        StatusCode::NOT_FOUND,
        "orlop: nothing is at this path; the index is at `/index/`, the state of this mirror at `/`\n".into(),
    )
}

/// A path of a view that nothing is at.
pub(crate) async fn unknown_in_view(InView(view): InView) -> HttpResponse {
    let view = view.name();
    reply::plain(
        StatusCode::NOT_FOUND,
        format!(
            "orlop: nothing is at this path; the index of the view `{view}` is at \
             `/view/{view}/index/`, its git index at `/view/{view}/git/index`\n"
        ),
    )
}
