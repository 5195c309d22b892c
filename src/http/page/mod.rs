//! The pages for people, and the same data as JSON for scripts: `gather` makes the data, the
//! templates show it. Each page has one handler for both.

mod assets;
mod charts;
mod facts;
pub(super) mod gather;
pub(crate) mod model;
mod render;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
mod text;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, Bytes},
};
use serde::Serialize;

pub(crate) use self::assets::file;
use self::render::{CratesPage, OneCratePage, OverviewPage, ProblemPage, answer};
use super::{base::path_of, gathered::Looked, reply, state::State};
use crate::{registry::CrateName, status::Range};

/// The longest query that is looked for, in bytes: no name is longer than 64.
const MAX_QUERY_BYTES: usize = 256;

/// When a client comes again after too many looked at once.
const BUSY_RETRY_SECONDS: u64 = 2;

#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct OverviewQuery {
    #[serde(default)]
    range: String,
}

#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct SearchQuery {
    #[serde(default)]
    q: String,
}

/// `GET /` and `GET /status.json?range=day`: how the mirror fares.
pub(crate) async fn overview(
    request: HttpRequest,
    query: Option<web::Query<OverviewQuery>>,
    state: web::Data<State>,
) -> HttpResponse {
    let format = Format::of(&request, &state);
    let base = match state.bases.of(request.head()) {
        Ok(base) => base,
        Err(error) => return format.refusal(error.to_string()),
    };
    let range = query.map_or(Range::Day, |query| Range::parse(&query.range));
    let data = gather::overview(&state, &base, range).await;
    let page = data.and_then(|data| match &format {
        Format::Html { root } => render::written(&OverviewPage::new(root, data)),
        Format::Json => written(&data),
    });
    format.answer(page.map_or(Looked::Broke, Looked::Written), "")
}

/// `GET /crates?q=` and `GET /crates.json?q=`: the crates that are known here.
pub(crate) async fn crates(
    request: HttpRequest,
    query: Option<web::Query<SearchQuery>>,
    state: web::Data<State>,
) -> HttpResponse {
    let format = Format::of(&request, &state);
    let query = query.map(web::Query::into_inner).unwrap_or_default();
    if query.q.len() > MAX_QUERY_BYTES {
        let why = "a search has a `q` of at most 256 bytes; the name of a crate has at most 64";
        return format.refusal(why.to_owned());
    }
    let written_as = format.clone();
    let write = move |found| match &written_as {
        Format::Html { root } => render::written(&CratesPage::new(root, found)),
        Format::Json => written(&found),
    };
    let looked = gather::search(&state, &query.q, &format.key(), write).await;
    format.answer(looked, "")
}

/// `GET /crates/{name}` and `GET /crates/{name}.json`: what is known of a crate.
pub(crate) async fn krate(
    request: HttpRequest,
    name: web::Path<String>,
    state: web::Data<State>,
) -> HttpResponse {
    let format = Format::of(&request, &state);
    let name = match CrateName::parse(&name) {
        Ok(name) => name,
        Err(error) => return format.refusal(format!("this is not a crate name: {error}")),
    };
    let written_as = format.clone();
    let write = move |data, now| match &written_as {
        Format::Html { root } => render::written(&OneCratePage::new(root, data, now)),
        Format::Json => written(&data),
    };
    let looked = gather::krate(&state, &name, &format.key(), write).await;
    let unknown = format!(
        "nothing is known of crate `{name}` here yet: it appears once a cargo asks this mirror for it"
    );
    format.answer(looked, &unknown)
}

/// A path that has no page, where a browser asks; `None`: something else asks.
pub(crate) fn nowhere(request: &HttpRequest, state: &State) -> Option<HttpResponse> {
    let accepted = request.headers().get(header::ACCEPT)?.to_str().ok()?;
    accepted.contains("text/html").then(|| {
        let why = "Nothing is at this address of the mirror.";
        Format::html(request, state).not_found(why.to_owned())
    })
}

/// How the data of a page is written.
#[derive(Debug, Clone)]
enum Format {
    /// For people.
    Html {
        /// The path of the base, for links.
        root: String,
    },
    /// For scripts.
    Json,
}

/// Why there is no page.
struct Problem {
    status: StatusCode,
    title: &'static str,
    why: String,
    /// What to do about it, for people.
    remedy: &'static str,
    retry_seconds: Option<u64>,
}

impl Format {
    /// The format that a path asks for.
    fn of(request: &HttpRequest, state: &State) -> Format {
        match request.match_info().as_str().rsplit_once('.') {
            Some((_, "json")) => Format::Json,
            _ => Format::html(request, state),
        }
    }

    /// A host that is not one has no base, and its page is answered as well as can be.
    fn html(request: &HttpRequest, state: &State) -> Format {
        let base = state.bases.of(request.head());
        Format::Html {
            root: base.map_or_else(|_invalid| String::new(), |base| path_of(&base)),
        }
    }

    /// Tells apart what is written of the same data.
    fn key(&self) -> String {
        match self {
            Format::Html { root } => format!("html {root}"),
            Format::Json => "json".to_owned(),
        }
    }

    /// The answer of what was looked for. `unknown`: what is said where there is no such thing.
    fn answer(&self, looked: Looked, unknown: &str) -> HttpResponse {
        let failed = |status, why, remedy, retry_seconds| {
            self.problem(Problem {
                status,
                title: "Could not look this up",
                why,
                remedy,
                retry_seconds,
            })
        };
        match looked {
            Looked::Written(html) if matches!(self, Format::Html { .. }) => {
                render::html_answer(StatusCode::OK, html)
            }
            Looked::Written(text) => json(StatusCode::OK, text),
            Looked::Unknown => self.not_found(unknown.to_owned()),
            Looked::Failed(error) => failed(
                reply::status(&error),
                error.to_string(),
                error.remedy().unwrap_or("the log says more"),
                error.retry_after().map(|pause| pause.as_secs().max(1)),
            ),
            Looked::Busy => self.problem(Problem {
                status: StatusCode::SERVICE_UNAVAILABLE,
                title: "Too many at once",
                why: "too many look for crates at once".to_owned(),
                remedy: "try again in a moment",
                retry_seconds: Some(BUSY_RETRY_SECONDS),
            }),
            Looked::Broke => failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                "this could not be looked up: the look into the store broke off".to_owned(),
                "the log says more",
                None,
            ),
        }
    }

    fn not_found(&self, why: String) -> HttpResponse {
        self.problem(Problem {
            status: StatusCode::NOT_FOUND,
            title: "Not found",
            why,
            remedy: "look for a crate in the search above",
            retry_seconds: None,
        })
    }

    /// A request that cannot be about anything.
    fn refusal(&self, why: String) -> HttpResponse {
        self.problem(Problem {
            status: StatusCode::BAD_REQUEST,
            title: "Not understood",
            why,
            remedy: "look for a crate in the search above",
            retry_seconds: None,
        })
    }

    fn problem(&self, problem: Problem) -> HttpResponse {
        let Problem { status, why, .. } = problem;
        let mut response = match self {
            Format::Html { root } => {
                let (why, remedy) = (sentence(&why), sentence(problem.remedy));
                answer(status, &ProblemPage::new(root, problem.title, why, remedy))
            }
            Format::Json => {
                let error = serde_json::json!({ "error": why });
                json(status, error.to_string().into())
            }
        };
        if let Some(seconds) = problem.retry_seconds {
            let seconds = header::HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// The data of a page as JSON; `None`: it could not be written, and the log says why.
fn written(data: &impl Serialize) -> Option<Bytes> {
    let text = serde_json::to_vec(data);
    let text = text.inspect_err(|error| tracing::error!(%error, "could not write a page"));
    text.ok().map(Bytes::from)
}

fn json(status: StatusCode, text: Bytes) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type(header::ContentType::json())
        .body(text)
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
