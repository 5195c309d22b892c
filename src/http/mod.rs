//! The public HTTP surface. Only this module and [`crate::listen`] name actix.
//!
//! `front` is the door and answers from `cache` what is ready; `routes` lists all else, and each
//! endpoint has its file. The index, downloads, the search and the git index are served once for
//! all views, the root index among them: `view` finds out which one a path is in. `reply` is where an
//! error becomes a status.

mod api;
mod base;
mod cache;
mod download;
mod front;
mod git;
mod operations;
mod page;
mod range;
mod reply;
mod routes;
mod sparse;
mod view;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use actix_http::Request;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, map_config};
use actix_web::{App, dev::AppConfig, web};
use ipnet::IpNet;

use self::{
    base::{Bases, LiveBases},
    cache::ReadyCache,
    front::FrontFactory,
};
use crate::{app, jobs::Services, listen, mirror::Mirror, status::Status};

/// Keeps the server library quiet in the log, in the words of a tracing filter. It reports its
/// own starting and stopping as news, and each malformed request of a stranger as an error. A
/// setting that names these targets still wins.
pub const QUIET_TARGETS: &str = "actix_server=warn,actix_http=off";

pub use routes::FIRST_SEGMENTS;

/// What may be set about the answers; the listener has its own [`listen::Options`]. `config::KEYS`
/// says why a default is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The URL that clients reach this mirror by, without a slash at its end. `None`: whatever
    /// host they came by.
    pub public_url: Option<String>,
    /// Proxies that are believed about the host, scheme and prefix that a client came by.
    pub trusted_proxies: Vec<IpNet>,
    /// Memory for ready answers; zero keeps none.
    pub hot_cache_bytes: u64,
}

impl Options {
    fn bases(&self) -> Bases {
        Bases {
            public_url: self.public_url.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            public_url: None,
            trusted_proxies: Vec::new(),
            hot_cache_bytes: 64 << 20,
        }
    }
}

/// What every handler has at hand.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) mirror: Mirror,
    pub(crate) services: Services,
    pub(crate) status: Status,
    pub(crate) cache: ReadyCache,
    pub(crate) bases: LiveBases,
    pub(crate) listen: Arc<listen::Stats>,
    pub(crate) git: git::Places,
    pub(crate) gathered: page::gather::Gathered,
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

/// A server that listens, but does not answer yet.
#[derive(Debug)]
pub struct Server {
    bound: listen::Bound,
    state: Arc<State>,
}

/// Ends a [`Server`] from elsewhere. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Stop {
    handle: listen::Handle,
    state: Arc<State>,
}

impl Stop {
    /// Takes no more connections, lets answers under way come to their end, then ends the server.
    pub fn stop(&self) {
        self.state.status.stop();
        self.handle.stop();
    }
}

/// Reaches a running [`Server`]. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Live(Arc<State>);

impl Live {
    /// Has requests that come from now on judged by the public URL and the proxies of `options`.
    /// The rest of them counts from the start only.
    pub fn apply(&self, options: &Options) {
        self.0.bases.set(options.bases());
    }

    /// How the workers are.
    pub fn pulse(&self) -> listen::Pulse {
        self.0.listen.pulse()
    }
}

impl Server {
    /// Opens the sockets, or takes `sockets`, which listen already: then no address is looked at.
    ///
    /// # Errors
    /// Where an address cannot be listened on; the error names it.
    pub fn bind(
        options: Options,
        listen: listen::Options,
        sockets: Vec<TcpListener>,
        app: &app::App,
    ) -> Result<Server, listen::Error> {
        let state = State {
            mirror: app.mirror().clone(),
            services: app.jobs().services().clone(),
            status: app.status().clone(),
            cache: ReadyCache::new(options.hot_cache_bytes),
            bases: LiveBases::new(Bases {
                public_url: options.public_url,
                trusted_proxies: options.trusted_proxies,
            }),
            listen: Arc::new(listen::Stats::default()),
            git: git::Places::default(),
            gathered: page::gather::Gathered::default(),
        };
        Ok(Server {
            bound: match sockets {
                sockets if sockets.is_empty() => listen::bind(listen)?,
                sockets => listen::adopt(listen, sockets)?,
            },
            state: Arc::new(state),
        })
    }

    /// Where it listens, with real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.addresses()
    }

    /// Changes it while it runs.
    pub fn live(&self) -> Live {
        Live(Arc::clone(&self.state))
    }

    /// Answers requests until it is stopped and drained.
    pub fn run(
        self,
    ) -> (
        impl Future<Output = Result<(), listen::Error>> + Send + 'static,
        Stop,
    ) {
        let (state, counts) = (Arc::clone(&self.state), Arc::clone(&self.state.listen));
        let factory = move |_address: SocketAddr| {
            let data = web::Data::from(Arc::clone(&state));
            let app = App::new().app_data(data).configure(routes::routes);
            let config = AppConfig::default();
            FrontFactory {
                inner: map_config(app.into_factory(), move |()| config.clone())
                    .map_init_err(|()| ()),
                state: Arc::clone(&state),
            }
        };
        let (serving, handle) = self.bound.run(listen::Plain, factory, counts);
        let stop = Stop {
            handle,
            state: self.state,
        };
        (serving, stop)
    }
}

fn path_of(url: &str) -> String {
    url::Url::parse(url).map_or_else(
        |_invalid| String::new(),
        |url| url.path().trim_end_matches('/').to_owned(),
    )
}
