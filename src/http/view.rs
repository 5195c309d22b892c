//! What is below `/view/{view}/`: the sparse index, downloads and search as the root has them, over
//! what a view shows. Its git index is in `git`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};

use super::{
    State, api,
    cache::{Follows, Form, Ready, What},
    download, reply, sparse,
};
use crate::{
    mirror::{self, ViewEntry},
    policy::View,
    registry::{CrateName, Release, layout::parse_index_path},
};

/// How long a ready index file is good when nothing is known to have changed. The store tells of
/// every file that comes or goes through it; one that somebody removed by hand is noticed so.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(60);

/// `GET /view/{view}/index/config.json`.
pub(crate) async fn config(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<State>,
) -> HttpResponse {
    match state.mirror.view(&path) {
        Ok(view) => sparse::config_of(&request, &state, &format!("/view/{}", view.name())),
        Err(why) => reply::no_view(&why),
    }
}

/// `GET /view/{view}/index/{prefix}/{name}`.
pub(crate) async fn file(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    state: web::Data<State>,
) -> HttpResponse {
    let (view_name, path) = path.into_inner();
    let view = match state.mirror.view(&view_name) {
        Ok(view) => view,
        Err(why) => return reply::no_view(&why),
    };
    let name = match parse_index_path(&path) {
        Ok(name) => name,
        Err(error) => return reply::no_index_file(&path, error),
    };
    match ready(&request, &view, &name, &state).await {
        Ok(Some(ready)) => {
            let ready = Arc::new(ready);
            state.cache.insert(request.path(), Arc::clone(&ready));
            match ready.answer(request.head()) {
                Some(response) => response.into(),
                None => given_up(&name),
            }
        }
        Ok(None) => reply::plain(
            StatusCode::NOT_FOUND,
            format!(
                "orlop: the view `{}` has no version of `{name}`\n",
                view.name()
            ),
        ),
        Err(error) => reply::failure(&error),
    }
}

fn given_up(name: &CrateName) -> HttpResponse {
    reply::failure(&mirror::Error::Lost {
        what: name.to_string(),
    })
}

/// The answer, in the form that is asked for; `None`: the view has no version of the crate.
async fn ready(
    request: &HttpRequest,
    view: &Arc<View>,
    name: &CrateName,
    state: &State,
) -> Result<Option<Ready>, mirror::Error> {
    // The stamp is read before the entry: if that changes in between, it is looked up again.
    let stamp = state.mirror.view_stamp(name);
    let known = state.cache.get(request.path());
    let form = Form::wanted(request);
    let lost = mirror::Error::Lost {
        what: name.to_string(),
    };
    let (mirror, view, name) = (state.mirror.clone(), Arc::clone(view), name.clone());
    let built = web::block(move || {
        let Some(ViewEntry { bytes, digest }) = mirror.view_entry(&view, &name)? else {
            return Ok(None);
        };
        let mut ready = Ready {
            what: What::Index,
            name,
            follows: Follows::Held,
            stamp,
            expires: Some(Instant::now() + LOOKED_AT_EVERY),
            etag: sparse::etag(&digest, Form::Identity),
            etag_gzip: Some(sparse::etag(&digest, Form::Gzip)),
            identity: None,
            gzip: None,
        };
        ready.take(bytes, form, known.as_deref());
        Ok(Some(ready))
    });
    built.await.map_err(|_canceled| lost)?
}

/// `GET /view/{view}/api/v1/crates/{crate}/{version}/download`. Never asks upstream.
pub(crate) async fn download(
    request: HttpRequest,
    path: web::Path<(String, String, String)>,
    state: web::Data<State>,
) -> HttpResponse {
    let (view_name, name, version) = path.into_inner();
    let view = match state.mirror.view(&view_name) {
        Ok(view) => view,
        Err(why) => return reply::no_view(&why),
    };
    let release = match Release::parse(&name, &version) {
        Ok(release) => release,
        Err(why) => return reply::no_release(&name, &version, &why),
    };
    let stamp = (Follows::Held, state.mirror.view_stamp(&release.name));
    match state.mirror.view_file(&view, &release).await {
        Ok(blob) => download::held(&request, &release, &blob, stamp, &state).await,
        Err(error) => reply::failure(&error),
    }
}

/// `GET /view/{view}/api/v1/crates?q=…&per_page=…`.
pub(crate) async fn search(
    path: web::Path<String>,
    query: Option<web::Query<api::Query>>,
    state: web::Data<State>,
) -> HttpResponse {
    match state.mirror.view(&path) {
        Ok(view) => {
            let mirror = state.mirror.clone();
            api::answer_search(query, move |text, limit| {
                mirror.search_view(&view, text, limit)
            })
            .await
        }
        Err(why) => reply::no_view(&why),
    }
}

/// The rest of the web API of a view.
pub(crate) async fn refuse(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    state: web::Data<State>,
) -> HttpResponse {
    match state.mirror.view(&path.0) {
        Ok(_view) => api::refuse(request).await,
        Err(why) => reply::no_view(&why),
    }
}

/// Any other path of a view.
pub(crate) async fn unknown(
    path: web::Path<(String, String)>,
    state: web::Data<State>,
) -> HttpResponse {
    match state.mirror.view(&path.0) {
        Ok(view) => {
            let view = view.name();
            reply::plain(
                StatusCode::NOT_FOUND,
                format!(
                    "orlop: nothing is at this path; the index of the view `{view}` is at \
                     `/view/{view}/index/`, its git index at `/view/{view}/git/index`\n"
                ),
            )
        }
        Err(why) => reply::no_view(&why),
    }
}
