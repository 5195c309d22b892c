//! The sparse index: `config.json` and the index files.
//!
//! Source: the [sparse protocol](https://doc.rust-lang.org/cargo/reference/registry-index.html#sparse-protocol).

use std::{io::Write as _, sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::{
    State,
    cache::{Form, Ready, What, accepts_gzip},
    front::FromUpstream,
    reply,
    view::InView,
};
use crate::{
    mirror,
    policy::View,
    registry::{CrateName, RegistryConfig, layout::parse_index_path},
};

/// Says how many seconds ago upstream was last asked with success, on entries older than they should be.
const STALE: HeaderName = HeaderName::from_static("x-orlop-stale");

/// The level of gzip for index files. They are compressed once for many clients, but in the path
/// of the first one, hence a little below zlib's default of 6.
const GZIP_LEVEL: u32 = 5;

/// `GET /index/config.json`.
pub(crate) async fn config(
    request: HttpRequest,
    InView(view): InView,
    state: web::Data<State>,
) -> HttpResponse {
    match state.bases.of(request.head()) {
        Ok(base) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-cache"))
            .insert_header((header::VARY, "host"))
            .json(RegistryConfig::of_mirror(&view.base_url(&base))),
        Err(error) => reply::plain(
            StatusCode::BAD_REQUEST,
            format!("orlop: {error}\nhint: set `public_url` in the mirror's configuration\n"),
        ),
    }
}

/// The part of a path that names an index file.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Named {
    path: String,
}

/// `GET /index/{prefix}/{name}`.
pub(crate) async fn file(
    request: HttpRequest,
    InView(view): InView,
    path: web::Path<Named>,
    state: web::Data<State>,
) -> HttpResponse {
    let name = match parse_index_path(&path.path) {
        Ok(name) => name,
        Err(error) => return reply::no_index_file(&path.path, error),
    };
    match serve(&request, view, name, &state).await {
        Ok(response) => response,
        Err(error) => reply::failure(&error),
    }
}

async fn serve(
    request: &HttpRequest,
    view: Arc<View>,
    name: CrateName,
    state: &State,
) -> Result<HttpResponse, mirror::Error> {
    // The stamp is read before the file: if that changes in between, the answer is looked up again.
    let stamp = state.mirror.stamp(&view, &name);
    let form = Form::wanted(request);
    let cached = state.cache.get(request.path());
    let known = cached.as_deref().filter(|ready| ready.has(form));
    let known = known.and_then(|ready| match ready.what {
        What::Index { digest } => Some(digest),
        What::Crate => None,
    });
    let file = state.mirror.index_file(&view, &name, known).await?;
    let lost = mirror::Error::Lost {
        what: name.to_string(),
    };
    let mut ready = Ready {
        what: What::Index {
            digest: file.digest,
        },
        name,
        view,
        stamp,
        expires: Some(Instant::now() + file.fresh_for),
        etag: etag(&file.digest, Form::Identity),
        etag_gzip: Some(etag(&file.digest, Form::Gzip)),
        identity: None,
        gzip: None,
    };
    if let Some(same) = cached.filter(|cached| cached.etag == ready.etag) {
        ready.identity.clone_from(&same.identity);
        ready.gzip.clone_from(&same.gzip);
    }
    match (form, file.bytes) {
        (Form::Identity, Some(bytes)) => ready.identity = Some(bytes),
        (Form::Gzip, Some(bytes)) if ready.gzip.is_none() => {
            let packed = web::block(move || gzip(&bytes)).await;
            ready.gzip = Some(packed.map_err(|_canceled| lost.clone())?);
        }
        _ => {}
    }
    let ready = Arc::new(ready);
    state.cache.insert(request.path(), Arc::clone(&ready));
    let mut response = ready.answer(request.head()).ok_or(lost)?;
    if let Some(age) = file.stale_for {
        response
            .headers_mut()
            .insert(STALE, HeaderValue::from(age.as_secs()));
    }
    if file.is_fetched {
        response.extensions_mut().insert(FromUpstream);
    }
    Ok(response.into())
}

impl Form {
    /// The form that a client asks for.
    fn wanted(request: &HttpRequest) -> Form {
        if accepts_gzip(request.headers()) {
            Form::Gzip
        } else {
            Form::Identity
        }
    }
}

impl Ready {
    fn has(&self, form: Form) -> bool {
        match form {
            Form::Identity => self.identity.is_some(),
            Form::Gzip => self.gzip.is_some(),
        }
    }
}

/// The `ETag` of an index file is made of its content, so that it stays the same over restarts and
/// between mirrors.
fn etag(digest: &[u8; 16], form: Form) -> HeaderValue {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(40);
    text.push('"');
    for byte in digest {
        // Writing to a String cannot fail.
        if write!(text, "{byte:02x}").is_err() {
            break;
        }
    }
    text.push_str(match form {
        Form::Identity => "\"",
        Form::Gzip => "-gz\"",
    });
    HeaderValue::from_str(&text).unwrap_or_else(|_invalid| HeaderValue::from_static("\"\""))
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(
        Vec::with_capacity(bytes.len() / 8),
        Compression::new(GZIP_LEVEL),
    );
    // Writing to a Vec cannot fail; should it ever, an empty gzip is refused by every client.
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    packed.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_compressed_comes_out_again() {
        let text = b"{\"name\":\"demo\"}\n".repeat(1000);
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(gzip(&text).as_ref())
            .read_to_end(&mut plain)
            .expect("good gzip");
        assert_eq!(plain, text);
    }
}
