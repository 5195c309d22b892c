//! The server: the routes behind the response cache, over the listener.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, map_config};
use actix_web::{App, dev::AppConfig, web};

use super::{
    base::LiveBases, cache::ResponseCache, front::FrontFactory, gathered::Gathered,
    git_limits::GitLimits, options::Options, routes, state::State,
};
use crate::{app, listen};

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
        options: &Options,
        listen: listen::Options,
        sockets: Vec<TcpListener>,
        app: &app::App,
    ) -> Result<Server, listen::Error> {
        let state = State {
            mirror: app.mirror().clone(),
            services: app.jobs().services().clone(),
            status: app.status().clone(),
            cache: ResponseCache::new(options.hot_cache_bytes),
            bases: LiveBases::new(options.bases()),
            listen: Arc::new(listen::Stats::default()),
            git: GitLimits::default(),
            gathered: Gathered::default(),
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
