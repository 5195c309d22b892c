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
    cache::{CachedKind, CachedResponse, Form, ResponseCache, accepts_gzip, etag},
    front::FromUpstream,
    reply,
    state::State,
    view::InView,
};
use crate::{
    mirror::{self, Mirror},
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
    match serve(&request, view, name, &state.mirror, &state.cache).await {
        Ok(response) => response,
        Err(error) => reply::failure(&error),
    }
}

async fn serve(
    request: &HttpRequest,
    view: Arc<View>,
    name: CrateName,
    mirror: &Mirror,
    cache: &ResponseCache,
) -> Result<HttpResponse, mirror::Error> {
    let form = Form::wanted(request);
    let cached = cache.get(request.path());
    let known = cached.as_deref().filter(|ready| ready.has(form));
    let known = known.and_then(|ready| match ready.kind {
        CachedKind::Index { digest } => Some(digest),
        CachedKind::Crate => None,
    });
    let file = mirror.index_file(&view, &name, known).await?;
    let lost = mirror::Error::Lost {
        what: name.to_string(),
    };
    let mut ready = CachedResponse {
        kind: CachedKind::Index {
            digest: file.digest,
        },
        name,
        view,
        stamp: file.stamp,
        expires: Some(Instant::now() + file.fresh_for),
        etag: etag_of(&file.digest, Form::Identity),
        etag_gzip: Some(etag_of(&file.digest, Form::Gzip)),
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
    cache.insert(request.path(), Arc::clone(&ready));
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

impl CachedResponse {
    fn has(&self, form: Form) -> bool {
        match form {
            Form::Identity => self.identity.is_some(),
            Form::Gzip => self.gzip.is_some(),
        }
    }
}

/// The `ETag` of an index file is made of its content, so that it stays the same over restarts and
/// between mirrors.
fn etag_of(digest: &[u8; 16], form: Form) -> HeaderValue {
    let digest = u128::from_be_bytes(*digest);
    etag(&match form {
        Form::Identity => format!("\"{digest:032x}\""),
        Form::Gzip => format!("\"{digest:032x}-gz\""),
    })
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
    use std::{
        io::Read as _,
        time::{Duration, SystemTime},
    };

    use actix_web::{body::MessageBody as _, test::TestRequest};

    use super::*;
    use crate::{
        metrics::Metrics,
        policy::rule::{Facts, IndexLine, Judgement, Rule},
        registry::{Checksum, IndexFile, Validators},
        store::{self, Change, Store},
        upstream::{self, Upstream},
        util::{background::Background, clock::Clock},
    };

    const LAST: u32 = 1;

    fn line(patch: u32) -> String {
        let sum = Checksum::of(&patch.to_be_bytes());
        format!(
            "{{\"name\":\"demo\",\"vers\":\"1.0.{patch}\",\"deps\":[],\"cksum\":\"{sum}\",\"features\":{{}},\"yanked\":false}}\n"
        )
    }

    /// A mirror that has the index file of `demo`, and never has to ask for it.
    fn mirror_of_demo(data: std::path::PathBuf) -> Mirror {
        let clock = Clock::start();
        let (store, _) = Store::open(store::Options::at(data), clock.now()).expect("a store");
        let name = CrateName::parse("demo").expect("a name");
        let lines: String = (0..=LAST).map(line).collect();
        let change = Change::Index {
            file: IndexFile::parse(&name, lines.into()).expect("a good file"),
            name,
            validators: Validators::default(),
            checked: clock.now(),
        };
        store.publish(vec![change], clock.now()).expect("published");
        let dead = url::Url::parse("http://127.0.0.1:9/").expect("a URL");
        let metrics = Arc::new(Metrics::new().expect("series"));
        let options = upstream::Options::new(dead.into());
        let upstream = Upstream::new(options, Arc::clone(&metrics)).expect("a client");
        Mirror::new(mirror::Parts {
            options: Arc::default(),
            store,
            source: Arc::new(mirror::SparseSource::new(upstream.clone())),
            upstream,
            views: mirror::Views::new(&mirror::views::Options::default()),
            metrics,
            clock,
            background: Background::start().expect("threads start"),
        })
    }

    /// Hides the last line until a time.
    #[derive(Debug)]
    struct LastHiddenUntil(SystemTime);

    impl Rule for LastHiddenUntil {
        fn judge(&self, line: &IndexLine<'_>, facts: &Facts<'_>) -> Judgement {
            let is_last = line
                .row
                .is_some_and(|row| row.version.patch == u64::from(LAST));
            let is_hidden = is_last && facts.now < self.0;
            Judgement {
                is_shown: !is_hidden,
                valid_until: is_hidden.then_some(self.0),
            }
        }
    }

    #[actix_web::test]
    async fn a_cached_answer_does_not_outlive_what_the_view_shows() {
        let dir = tempfile::tempdir().expect("a folder");
        let mirror = mirror_of_demo(dir.path().join("data"));
        let cache = ResponseCache::new(1 << 20);
        let until = Clock::start().now() + Duration::from_secs(2);
        let view = Arc::new(View::new("aged", vec![Arc::new(LastHiddenUntil(until))]));
        let name = CrateName::parse("demo").expect("a name");
        let path = "/view/aged/index/de/mo/demo";
        let ask = || async {
            let request = TestRequest::with_uri(path).to_http_request();
            let answer = serve(&request, Arc::clone(&view), name.clone(), &mirror, &cache).await;
            let response = answer.expect("it is there");
            let etag = response.headers().get(header::ETAG).cloned();
            let body = response.into_body().try_into_bytes();
            (etag, body.unwrap_or_default())
        };
        let is_ready = || {
            let stamp = mirror.stamp(&view, &name);
            let ready = cache.get(path);
            ready.is_some_and(|ready| ready.is_valid(stamp, Instant::now()))
        };
        let (etag, body) = ask().await;
        assert_eq!(body, line(0));
        assert!(is_ready());
        assert_eq!(ask().await, (etag.clone(), line(0).into()));
        tokio::time::sleep(Duration::from_millis(2050)).await;
        assert!(!is_ready());
        let (later, body) = ask().await;
        assert_eq!(body, line(0) + &line(1));
        assert_ne!(later, etag);
        assert!(is_ready());
    }

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
