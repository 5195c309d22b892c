//! What the pages are made of beside their text: in the program, and named by their content.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use sha2::{Digest as _, Sha256};

use crate::http::reply;

/// How much of the hash of a file is in its URL.
const HASH_BYTES: usize = 8;

/// A file that the program brings along.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    content_type: &'static str,
    body: &'static str,
    hash: String,
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        asset(
            "orlop.css",
            "text/css; charset=utf-8",
            include_str!("../../../static/orlop.css"),
        ),
        asset(
            "orlop.js",
            "text/javascript; charset=utf-8",
            include_str!("../../../static/orlop.js"),
        ),
        asset(
            "favicon.svg",
            "image/svg+xml",
            include_str!("../../../static/favicon.svg"),
        ),
    ]
});

fn asset(name: &'static str, content_type: &'static str, body: &'static str) -> Asset {
    use std::fmt::Write as _;

    let mut hash = String::with_capacity(2 * HASH_BYTES);
    for byte in Sha256::digest(body.as_bytes()).iter().take(HASH_BYTES) {
        let written = write!(hash, "{byte:02x}");
        debug_assert!(written.is_ok(), "a string takes every write");
    }
    Asset {
        name,
        content_type,
        body,
        hash,
    }
}

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// The path of a file below `root`, which changes when the file does.
pub(super) fn path(root: &str, name: &str) -> String {
    let hash = find(name).map_or("", |asset| asset.hash.as_str());
    format!("{root}/static/{name}?v={hash}")
}

/// `GET /static/{file}`: kept for ever under the URL that the pages name, else asked for again.
pub(crate) async fn file(request: HttpRequest, file: web::Path<String>) -> HttpResponse {
    let Some(asset) = find(&file) else {
        return reply::plain(
            StatusCode::NOT_FOUND,
            "orlop: there is no such file\n".into(),
        );
    };
    let named = request.query_string().strip_prefix("v=") == Some(asset.hash.as_str());
    let lasting = if named {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let tag = format!("\"{}\"", asset.hash);
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|one| is_same(one.trim(), &tag)));
    let mut response = HttpResponse::build(if known {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    });
    response
        .insert_header((header::ETAG, tag))
        .insert_header((header::CACHE_CONTROL, lasting))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    if known {
        return response.finish();
    }
    response.content_type(asset.content_type).body(asset.body)
}

/// Weakly, as If-None-Match compares.
fn is_same(told: &str, tag: &str) -> bool {
    told == "*" || told.strip_prefix("W/").unwrap_or(told) == tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_hash_of_its_content() {
        let path = path("/sub", "orlop.css");
        let hash = path.strip_prefix("/sub/static/orlop.css?v=");
        assert_eq!(hash.map(str::len), Some(2 * HASH_BYTES));
    }

    #[test]
    fn tags_are_compared_weakly() {
        assert!(is_same("W/\"a\"", "\"a\""));
        assert!(is_same("*", "\"a\""));
        assert!(!is_same("\"b\"", "\"a\""));
    }
}
