//! Errors become statuses here, and nowhere else; the bodies that cargo prints are written here.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};

use crate::{
    mirror,
    registry::{layout::InvalidIndexPath, name::InvalidName, release::InvalidRelease},
    util::error::messages,
};

/// The answer that tells a client why there is no index file or crate.
///
/// Cargo hides the body of a 404 on an index file (it prints "no matching package named …") and
/// prints every other; it retries 5xx and 429, and nothing else.
pub(crate) fn failure(error: &mirror::Error) -> HttpResponse {
    let mut response = HttpResponse::build(status(error));
    response.content_type("text/plain; charset=utf-8");
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    if let Some(pause) = error.retry_after() {
        response.insert_header((header::RETRY_AFTER, pause.as_secs().max(1)));
    }
    response.body(explain(error))
}

pub(super) fn status(error: &mirror::Error) -> StatusCode {
    match error {
        mirror::Error::UnknownCrate { .. }
        | mirror::Error::UnknownVersion { .. }
        | mirror::Error::NotHeld { .. }
        | mirror::Error::NotInView { .. }
        | mirror::Error::NoVersionInView { .. } => StatusCode::NOT_FOUND,
        mirror::Error::Mismatch { .. } | mirror::Error::MissingUpstream { .. } => {
            StatusCode::BAD_GATEWAY
        }
        mirror::Error::Upstream { .. }
        | mirror::Error::Follow { .. }
        | mirror::Error::Slow { .. }
        | mirror::Error::Busy { .. }
        | mirror::Error::Lost { .. }
        | mirror::Error::LostEntry { .. }
        | mirror::Error::Damaged { .. }
        | mirror::Error::Store { .. }
        | mirror::Error::Unreadable { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// What happened, why, and what to do: the same three things that the command line tells.
fn explain(error: &mirror::Error) -> String {
    let mut messages = messages(error).into_iter();
    let mut lines: Vec<String> = messages
        .by_ref()
        .take(1)
        .map(|first| format!("orlop: {first}"))
        .collect();
    lines.extend(messages.map(|cause| format!("  caused by: {cause}")));
    lines.extend(error.remedy().map(|remedy| format!("hint: {remedy}")));
    lines.push(String::new());
    lines.join("\n")
}

/// A request that cannot be about anything: a name, version or path that is none.
pub(crate) fn nonsense(what: &str, text: &str, why: &dyn std::error::Error) -> HttpResponse {
    plain(
        StatusCode::BAD_REQUEST,
        format!("orlop: {:?} is not {what}: {why}\n", shortened(text)),
    )
}

/// A name that is none, in the place of a crate's name.
pub(crate) fn no_name(text: &str, why: &InvalidName) -> HttpResponse {
    nonsense("a crate name", text, why)
}

/// A path that no index file is at.
pub(crate) fn no_index_file(path: &str, error: InvalidIndexPath) -> HttpResponse {
    match error {
        // Copied from cargo's configuration into a browser.
        InvalidIndexPath::Name(_) if path.is_empty() => plain(
            StatusCode::NOT_FOUND,
            "orlop: this is the sparse index, for cargo: the status page shows how cargo is given it\n"
                .to_owned(),
        ),
        InvalidIndexPath::Name(why) => no_name(path, &why),
        elsewhere @ InvalidIndexPath::Elsewhere { .. } => {
            plain(StatusCode::NOT_FOUND, format!("orlop: {elsewhere}\n"))
        }
    }
}

/// A name and a version that no release has.
pub(crate) fn no_release(name: &str, version: &str, why: &InvalidRelease) -> HttpResponse {
    nonsense("a release", &format!("{name}/{version}"), why)
}

/// A short plain answer.
pub(crate) fn plain(status: StatusCode, text: String) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/plain; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text)
}

/// An error in the JSON that cargo reads from a registry's web API.
///
/// Source: the [web API](https://doc.rust-lang.org/cargo/reference/registry-web-api.html).
pub(crate) fn api_error(status: StatusCode, detail: &str) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(serde_json::json!({ "errors": [{ "detail": detail }] }))
}

/// How much of a wrong text is shown back.
const SHOWN_CHARACTERS: usize = 80;

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}
