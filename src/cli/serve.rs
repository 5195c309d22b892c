//! `orlop serve`: puts the rooms together, says when it is ready, and ends them in order.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::error::Error;
use super::{open, tell};
use crate::admin;
use crate::config::Config;
use crate::http::Server;
use crate::mirror::Mirror;
use crate::registry::client::client_config;

/// How long jobs may take to end once no client waits any more: what they fetched is lost
/// otherwise, and most need only their last fsync.
const JOBS_GRACE: Duration = Duration::from_secs(5);

/// Runs the mirror until a signal ends it.
///
/// # Errors
/// Whatever kept it from starting: settings, the store, an address; and a last write that failed.
pub(super) fn serve(config: &Config) -> Result<(), Error> {
    let mirror = open::mirror(config, config.mirror())?;
    let outcome = admin(config).and_then(|admin| answer(config, &mirror, admin));
    let ended = mirror.shut_down(JOBS_GRACE).map_err(Error::End);
    outcome.and(ended)
}

/// The socket for commands. Its default place is nobody's wish: where it cannot be, commands wait
/// until the server ends, and it serves without.
fn admin(config: &Config) -> Result<Option<admin::Server>, Error> {
    match admin::Server::bind(&config.admin_socket(), &config.data) {
        Ok(server) => Ok(Some(server)),
        Err(error) if config.admin.socket.is_none() => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "there is no admin socket, so commands such as `orlop sync` cannot reach this \
                 server; name a place for it with `admin.socket`"
            );
            Ok(None)
        }
        Err(error) => Err(Error::Admin(error)),
    }
}

fn answer(config: &Config, mirror: &Mirror, admin: Option<admin::Server>) -> Result<(), Error> {
    let server =
        Server::bind(config.http(), config.listen(), mirror.clone()).map_err(Error::Listen)?;
    let runtime = open::runtime()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Threads)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Threads)?;
        let addresses = server.addresses();
        mirror.set_public_base(git_base(config, &addresses));
        let (serving, stop) = server.run();
        let mut serving = tokio::spawn(serving);
        let (stop_admin, stopped) = watch::channel(false);
        let http = admin::Reached {
            addresses: addresses.clone(),
            base: config.public_base(),
        };
        let admin = admin.map(|admin| tokio::spawn(admin.run(mirror.clone(), http, stopped)));
        announce(config, &addresses)?;
        let signal = tokio::select! {
            ended = &mut serving => return outcome(ended),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{signal}: takes no more connections and lets answers under way end");
        stop.stop();
        mirror.stop_jobs();
        let ending = async {
            let ended = serving.await;
            // Until now a command heard that the server is stopping.
            stop_admin.send_replace(true);
            if let Some(admin) = admin {
                // Those who asked for jobs hear how they ended.
                let told = tokio::time::timeout(JOBS_GRACE, admin).await;
                tracing::debug!(?told, "the admin socket is closed");
            }
            ended
        };
        let signal = tokio::select! {
            ended = ending => return outcome(ended),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::warn!("{signal}, the second signal: cuts off the answers under way");
        Ok(())
    })
}

type Ended = Result<Result<(), crate::http::listen::Error>, tokio::task::JoinError>;

fn outcome(ended: Ended) -> Result<(), Error> {
    match ended {
        Ok(outcome) => outcome.map_err(Error::Listen),
        Err(panicked) => Err(Error::Threads(io::Error::other(panicked))),
    }
}

/// The ready lines, which scripts wait for, and for a person at a terminal what to do next.
fn announce(config: &Config, addresses: &[SocketAddr]) -> Result<(), Error> {
    match print_addresses(addresses) {
        // Whoever started it does not read them: no reason not to serve.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        printed => printed?,
    }
    if io::stderr().is_terminal()
        && let Some(address) = addresses.first()
    {
        let base = config.public_base().unwrap_or_else(|| local_base(*address));
        tell(&format!("\n{}\n", client_config(&base)));
    }
    Ok(())
}

fn print_addresses(addresses: &[SocketAddr]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for address in addresses {
        writeln!(out, "orlop listening on http://{address}/")?;
    }
    out.flush()
}

/// The base that the git index names: a repository cannot follow the host of a request. Where
/// nobody set one it is known only while this machine alone is served.
fn git_base(config: &Config, addresses: &[SocketAddr]) -> Option<String> {
    config.public_base().or_else(|| {
        let first = addresses.first()?;
        let is_local = addresses.iter().all(|address| address.ip().is_loopback());
        is_local.then(|| local_base(*first))
    })
}

/// How this machine reaches what listens at `address`.
pub(super) fn local_base(address: SocketAddr) -> String {
    match address {
        any if any.ip().is_unspecified() => format!("http://localhost:{}", any.port()),
        one => format!("http://{one}"),
    }
}
