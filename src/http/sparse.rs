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
    cache::{Follows, Form, Ready, What, accepts_gzip},
    front::FromUpstream,
    reply,
};
use crate::{
    mirror::{self, IndexEntry, Mirror},
    registry::{CrateName, RegistryConfig, layout::parse_index_path},
};

/// Says how many seconds ago upstream was last asked with success, on entries older than they should be.
const STALE: HeaderName = HeaderName::from_static("x-orlop-stale");

/// The level of gzip for index files. They are compressed once for many clients, but in the path
/// of the first one, hence a little below zlib's default of 6.
const GZIP_LEVEL: u32 = 5;

/// `GET /index/config.json`.
pub(crate) async fn config(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    config_of(&request, &state, "")
}

/// The `config.json` of what is below `place` (empty, or with a slash at its beginning).
pub(super) fn config_of(request: &HttpRequest, state: &State, place: &str) -> HttpResponse {
    match state.bases.of(request.head()) {
        Ok(base) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-cache"))
            .insert_header((header::VARY, "host"))
            .json(RegistryConfig::of_mirror(&format!("{base}{place}"))),
        Err(error) => reply::plain(
            StatusCode::BAD_REQUEST,
            format!("orlop: {error}\nhint: set `public_url` in the mirror's configuration\n"),
        ),
    }
}

/// `GET /index/{prefix}/{name}`.
pub(crate) async fn file(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> HttpResponse {
    let name = match parse_index_path(&path) {
        Ok(name) => name,
        Err(error) => return reply::no_index_file(&path, error),
    };
    match serve(&request, &name, &state).await {
        Ok(response) => response,
        Err(error) => reply::failure(&error),
    }
}

async fn serve(
    request: &HttpRequest,
    name: &CrateName,
    state: &State,
) -> Result<HttpResponse, mirror::Error> {
    // The stamp is read before the entry: if that changes in between, the answer is looked up again.
    let stamp = state.mirror.stamp(name);
    let entry = state.mirror.index_entry(name).await?;
    let form = Form::wanted(request);
    let ready = match state.cache.get(request.path()) {
        Some(known)
            if known.etag == etag(&entry.facts.digest, Form::Identity) && known.has(form) =>
        {
            renewed(&known, &entry, stamp)
        }
        known => build(&state.mirror, name, entry.clone(), stamp, form, known).await?,
    };
    let ready = Arc::new(ready);
    state.cache.insert(request.path(), Arc::clone(&ready));
    let mut response = ready
        .answer(request.head())
        .ok_or_else(|| mirror::Error::Lost {
            what: name.to_string(),
        })?;
    if let Some(age) = entry.stale_for {
        response
            .headers_mut()
            .insert(STALE, HeaderValue::from(age.as_secs()));
    }
    if entry.is_fetched {
        response.extensions_mut().insert(FromUpstream);
    }
    Ok(response.into())
}

/// The same bodies for as long as the entry is good again.
fn renewed(known: &Ready, entry: &IndexEntry, stamp: u64) -> Ready {
    Ready {
        stamp,
        expires: Some(Instant::now() + entry.fresh_for),
        ..known.clone()
    }
}

/// Makes the form that is asked for, keeping the other one if it is known and of the same bytes.
async fn build(
    mirror: &Mirror,
    name: &CrateName,
    entry: IndexEntry,
    stamp: u64,
    form: Form,
    known: Option<Arc<Ready>>,
) -> Result<Ready, mirror::Error> {
    let (mirror, name) = (mirror.clone(), name.clone());
    let lost = mirror::Error::Lost {
        what: name.to_string(),
    };
    let built = web::block(move || {
        let snapshot = mirror.snapshot(&name)?;
        let entry = IndexEntry {
            facts: snapshot.facts,
            ..entry
        };
        let mut ready = Ready {
            what: What::Index,
            name,
            follows: Follows::Entry,
            stamp,
            expires: Some(Instant::now() + entry.fresh_for),
            etag: etag(&entry.facts.digest, Form::Identity),
            etag_gzip: Some(etag(&entry.facts.digest, Form::Gzip)),
            identity: None,
            gzip: None,
        };
        ready.take(snapshot.bytes, form, known.as_deref());
        Ok(ready)
    });
    built.await.map_err(|_canceled| lost)?
}

impl Form {
    /// The form that a client asks for.
    pub(super) fn wanted(request: &HttpRequest) -> Form {
        if accepts_gzip(request.headers()) {
            Form::Gzip
        } else {
            Form::Identity
        }
    }
}

impl Ready {
    /// Takes the bytes in the form that is asked for, and the other one from what is known, if that
    /// is the same.
    pub(super) fn take(&mut self, bytes: Bytes, form: Form, known: Option<&Ready>) {
        if let Some(known) = known.filter(|known| known.etag == self.etag) {
            self.identity.clone_from(&known.identity);
            self.gzip.clone_from(&known.gzip);
        }
        match form {
            Form::Identity => self.identity = Some(bytes),
            Form::Gzip if self.gzip.is_none() => self.gzip = Some(gzip(&bytes)),
            Form::Gzip => {}
        }
    }

    fn has(&self, form: Form) -> bool {
        match form {
            Form::Identity => self.identity.is_some(),
            Form::Gzip => self.gzip.is_some(),
        }
    }
}

/// The `ETag` of an index file is made of its content, so that it stays the same over restarts and
/// between mirrors.
pub(super) fn etag(digest: &[u8; 16], form: Form) -> HeaderValue {
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
