//! What the pages are made of beside their text: in the program, and named by their content.

use std::borrow::Cow;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use rust_embed::{Embed, EmbeddedFile};

use crate::{
    http::{
        cache::{etag, etag_matches},
        reply,
    },
    registry::Checksum,
};

/// How many digits of the hash of a file are in its URL.
const HASH_DIGITS: usize = 16;

/// The files that the program brings along.
#[derive(Debug, Embed)]
#[folder = "static"]
#[include = "*.css"]
#[include = "*.js"]
#[include = "*.svg"]
#[exclude = "templates/*"]
struct Assets;

fn hash(file: &EmbeddedFile) -> String {
    let hash = Checksum::from_bytes(file.metadata.sha256_hash()).to_hex();
    hash.chars().take(HASH_DIGITS).collect()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => "image/svg+xml",
    }
}

/// The path of a file below `root`, which changes when the file does.
pub(super) fn path(root: &str, name: &str) -> String {
    let hash = Assets::get(name).as_ref().map(hash).unwrap_or_default();
    format!("{root}/static/{name}?v={hash}")
}

/// `GET /static/{file}`: kept for ever under the URL that the pages name, else asked for again.
pub(crate) async fn file(request: HttpRequest, file: web::Path<String>) -> HttpResponse {
    let Some(asset) = Assets::get(&file) else {
        return reply::plain(
            StatusCode::NOT_FOUND,
            "orlop: there is no such file\n".into(),
        );
    };
    let hash = hash(&asset);
    let named = request.query_string().strip_prefix("v=") == Some(hash.as_str());
    let lasting = if named {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let tag = etag(&format!("\"{hash}\""));
    let known = request.headers().get(header::IF_NONE_MATCH);
    let known = known.is_some_and(|known| etag_matches(known, &tag));
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
    response.content_type(content_type(&file));
    match asset.data {
        Cow::Borrowed(bytes) => response.body(bytes),
        Cow::Owned(bytes) => response.body(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_browsers_ask_for_is_embedded() {
        let mut names: Vec<_> = Assets::iter().collect();
        names.sort();
        assert_eq!(names, ["favicon.svg", "orlop.css", "orlop.js"]);
    }

    #[test]
    fn a_path_has_the_hash_of_its_content() {
        let path = path("/sub", "orlop.css");
        let hash = path.strip_prefix("/sub/static/orlop.css?v=");
        assert_eq!(hash.map(str::len), Some(HASH_DIGITS));
    }
}
