//! What every handler has at hand.

use std::sync::Arc;

use actix_http::Request;

use super::{base::LiveBases, cache::ResponseCache, gathered::Gathered, git_limits::GitLimits};
use crate::{jobs::Services, listen, mirror::Mirror, status::Status};

/// What every handler has at hand.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) mirror: Mirror,
    pub(crate) services: Services,
    pub(crate) status: Status,
    pub(crate) cache: ResponseCache,
    pub(crate) bases: LiveBases,
    pub(crate) listen: Arc<listen::Stats>,
    pub(crate) git: GitLimits,
    pub(crate) gathered: Gathered,
}

impl State {
    /// Takes the path of `public_url` off a request that a proxy passed on as it is.
    pub(crate) fn strip_prefix(&self, request: &mut Request) {
        let Some(rest) = self.bases.below_prefix(request.head()) else {
            return;
        };
        let uri = &request.head().uri;
        let path = if rest.is_empty() { "/" } else { rest };
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = target.parse().ok();
        if let Ok(uri) = actix_http::Uri::from_parts(parts) {
            request.head_mut().uri = uri;
        }
    }
}
