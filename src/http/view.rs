//! The view that a request is for.

use std::{
    future::{Ready, ready},
    sync::Arc,
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, ResponseError, dev::Payload, http::StatusCode, web,
};

use super::{reply, state::State};
use crate::{mirror::NoView, policy::View};

/// The view that a path is in: what stands for `{view}` in its route, else the root index.
pub(crate) struct InView(pub(crate) Arc<View>);

impl FromRequest for InView {
    type Error = NoView;
    type Future = Ready<Result<InView, NoView>>;

    fn from_request(request: &HttpRequest, _body: &mut Payload) -> Self::Future {
        let name = request.match_info().get("view");
        let view = match request.app_data::<web::Data<State>>() {
            Some(state) => state.mirror.view(name),
            // Every handler has the state.
            None => Ok(Arc::new(View::all())),
        };
        ready(view.map(InView))
    }
}

impl ResponseError for NoView {
    fn status_code(&self) -> StatusCode {
        StatusCode::NOT_FOUND
    }

    fn error_response(&self) -> HttpResponse {
        reply::plain(self.status_code(), format!("orlop: {self}\n"))
    }
}
