//! The pages for people, and their JSON twins: `gather` makes the data, the templates show it.

mod assets;
mod charts;
mod facts;
pub(super) mod gather;
pub(crate) mod model;
mod reads;
mod render;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod twin;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};

pub(crate) use self::assets::file;
use self::{
    gather::Looked,
    render::{CratesPage, OneCratePage, OverviewPage, ProblemPage, answer},
    twin::{
        BROKEN, COME_AGAIN_SECONDS, MAX_QUERY_BYTES, OverviewQuery, SearchQuery, TOO_MANY,
        unknown_crate,
    },
};
use super::{State, path_of, reply};
use crate::{mirror, registry::CrateName, status::Range};

/// `GET /`: how the mirror fares.
pub(crate) async fn overview(
    request: HttpRequest,
    query: Option<web::Query<OverviewQuery>>,
    state: web::Data<State>,
) -> HttpResponse {
    let base = match state.bases.of(request.head()) {
        Ok(base) => base,
        Err(error) => return unreadable("", &format!("{error}.")),
    };
    let range = query.map_or(Range::Day, |query| Range::parse(&query.range));
    let root = path_of(&base);
    match gather::overview(&state, &base, range).await {
        Some(data) => answer(StatusCode::OK, &OverviewPage::new(&root, data)),
        None => broken(&root),
    }
}

/// `GET /crates?q=`: the crates that are known here.
pub(crate) async fn crates(
    request: HttpRequest,
    query: Option<web::Query<SearchQuery>>,
    state: web::Data<State>,
) -> HttpResponse {
    let root = root(&request, &state);
    let query = query.map(web::Query::into_inner).unwrap_or_default();
    if query.q.len() > MAX_QUERY_BYTES {
        let why = "A search is for at most 256 bytes; the name of a crate has at most 64.";
        return unreadable(&root, why);
    }
    let below = root.clone();
    let write = move |found| render::written(&CratesPage::new(&below, found));
    let looked = gather::search(&state, &query.q, &format!("html {root}"), write).await;
    looked_for(looked, &root, "")
}

/// `GET /crates/{name}`: what is known of a crate.
pub(crate) async fn krate(
    request: HttpRequest,
    name: web::Path<String>,
    state: web::Data<State>,
) -> HttpResponse {
    let root = root(&request, &state);
    let name = match CrateName::parse(&name) {
        Ok(name) => name,
        Err(error) => return unreadable(&root, &format!("This is not a crate name: {error}.")),
    };
    let below = root.clone();
    let write = move |data, now| render::written(&OneCratePage::new(&below, data, now));
    let looked = gather::krate(&state, &name, &format!("html {root}"), write).await;
    looked_for(looked, &root, &sentence(&unknown_crate(&name)))
}

/// The page of what was looked for. `unknown`: what is said where there is no such thing.
fn looked_for(looked: Looked, root: &str, unknown: &str) -> HttpResponse {
    match looked {
        Looked::Written(html) => render::html_answer(StatusCode::OK, html),
        Looked::Unknown => not_found(root, unknown),
        Looked::Failed(error) => failed(root, &error),
        Looked::Busy => busy(root),
        Looked::Broke => broken(root),
    }
}

fn busy(root: &str) -> HttpResponse {
    let (why, remedy) = (sentence(TOO_MANY), "Try again in a moment.".to_owned());
    let page = ProblemPage::new(root, "Too many at once", why, remedy);
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, &page);
    let pause = header::HeaderValue::from(COME_AGAIN_SECONDS);
    response.headers_mut().insert(header::RETRY_AFTER, pause);
    response
}

fn broken(root: &str) -> HttpResponse {
    let (why, remedy) = (sentence(BROKEN), "The log says more.".to_owned());
    let page = ProblemPage::new(root, "Could not look this up", why, remedy);
    answer(StatusCode::INTERNAL_SERVER_ERROR, &page)
}

/// A path that has no page, where a browser asks; `None`: something else asks.
pub(crate) fn nowhere(request: &HttpRequest, state: &State) -> Option<HttpResponse> {
    let accepted = request.headers().get(header::ACCEPT)?.to_str().ok()?;
    accepted.contains("text/html").then(|| {
        let why = "Nothing is at this address of the mirror.";
        not_found(&root(request, state), why)
    })
}

/// The path of the base. A host that is not one has none, and its page is answered as well as can be.
fn root(request: &HttpRequest, state: &State) -> String {
    let base = state.bases.of(request.head());
    base.map_or_else(|_invalid| String::new(), |base| path_of(&base))
}

fn not_found(root: &str, why: &str) -> HttpResponse {
    let remedy = "Look for a crate in the search above.";
    let page = ProblemPage::new(root, "Not found", why.to_owned(), remedy.to_owned());
    answer(StatusCode::NOT_FOUND, &page)
}

fn unreadable(root: &str, why: &str) -> HttpResponse {
    let remedy = "Look for a crate in the search above.";
    let page = ProblemPage::new(root, "Not understood", sentence(why), remedy.to_owned());
    answer(StatusCode::BAD_REQUEST, &page)
}

fn failed(root: &str, error: &mirror::Error) -> HttpResponse {
    let remedy = error
        .remedy()
        .map_or_else(|| "The log says more.".to_owned(), sentence);
    let (status, why) = (reply::status(error), sentence(&error.to_string()));
    answer(
        status,
        &ProblemPage::new(root, "Could not look this up", why, remedy),
    )
}

/// A fragment as a sentence.
fn sentence(fragment: &str) -> String {
    let mut letters = fragment.chars();
    let first: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    let end = if fragment.ends_with('.') { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}
