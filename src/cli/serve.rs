//! `orlop serve`: puts the rooms together, says when it is ready, and ends them in order.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Resource;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Error;
use super::tell;
use crate::config::Config;
use crate::git::Repo;
use crate::http::Server;
use crate::metrics::Metrics;
use crate::mirror::{Clock, Mirror};
use crate::registry::client::client_config;
use crate::store::{OpenReport, Store};
use crate::upstream::Upstream;

/// How long jobs may take to end once no client waits any more: what they fetched is lost
/// otherwise, and most need only their last fsync.
const JOBS_GRACE: Duration = Duration::from_secs(5);

/// Runs the mirror until a signal ends it.
///
/// # Errors
/// Whatever kept it from starting: settings, the store, an address; and a last write that failed.
pub(super) fn serve(config: &Config) -> Result<(), Error> {
    let clock = Clock::start();
    allow_open_files();
    let metrics = Arc::new(Metrics::new().map_err(Error::Metrics)?);
    let upstream =
        Upstream::new(config.upstream(), Arc::clone(&metrics)).map_err(Error::Upstream)?;
    let (store, report) = Store::open(config.store(), clock.now()).map_err(Error::Store)?;
    tell_of_opening(config, &report);
    let repo = open_git(config)?;
    let mirror = Mirror::start(config.mirror(), store, upstream, metrics, clock, repo)
        .map_err(Error::Threads)?;
    let outcome = answer(config, &mirror);
    let ended = mirror.shut_down(JOBS_GRACE).map_err(Error::End);
    outcome.and(ended)
}

/// Takes as many open files as the system allows. Every connection is one, and the usual soft limit
/// of 1024 is a courtesy to programs that use `select`.
fn allow_open_files() {
    let mut limits = rustix::process::getrlimit(Resource::Nofile);
    limits.current = limits.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limits) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Opens the repository of the git index, if it is wanted.
fn open_git(config: &Config) -> Result<Option<Repo>, Error> {
    let Some(options) = config.git() else {
        return Ok(None);
    };
    let dir = options.dir.display().to_string();
    let (repo, report) = Repo::open(options).map_err(Error::Git)?;
    for what in &report.healed {
        tracing::warn!("healed the git index at `{dir}`: {what}");
    }
    if let Some(why) = &report.set_aside {
        tracing::error!("the git index at `{dir}` was set aside and is made again: {why}");
    }
    Ok(Some(repo))
}

fn answer(config: &Config, mirror: &Mirror) -> Result<(), Error> {
    let server =
        Server::bind(config.http(), config.listen(), mirror.clone()).map_err(Error::Listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Threads)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Threads)?;
        let addresses = server.addresses();
        mirror.set_public_base(git_base(config, &addresses));
        let (serving, stop) = server.run();
        let mut serving = tokio::spawn(serving);
        announce(config, &addresses)?;
        let signal = tokio::select! {
            ended = &mut serving => return outcome(ended),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{signal}: takes no more connections and lets answers under way end");
        stop.stop();
        let signal = tokio::select! {
            ended = serving => return outcome(ended),
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
fn local_base(address: SocketAddr) -> String {
    match address {
        any if any.ip().is_unspecified() => format!("http://localhost:{}", any.port()),
        one => format!("http://{one}"),
    }
}

/// What opening the store found: worth a line where it is not what everybody expects.
fn tell_of_opening(config: &Config, report: &OpenReport) {
    let dir = config.data.display();
    if report.created {
        tracing::info!("made a new store at `{dir}`");
    }
    if let Some(why) = &report.rebuilt {
        tracing::error!(
            names = report.rebuilt_names,
            "the index database of the store at `{dir}` did not open ({why}); it was set aside and rebuilt from the \
             journal and the crate files. Index entries come back from the git index, and are fetched again where it has none"
        );
    }
    if report.journal_skipped_bytes > 0 {
        tracing::error!(
            bytes = report.journal_skipped_bytes,
            "passed over damaged bytes in the journal"
        );
    }
    if report.replayed > 0 || report.journal_cut_bytes > 0 || report.swept > 0 {
        tracing::info!(
            replayed = report.replayed,
            cut_bytes = report.journal_cut_bytes,
            swept = report.swept,
            "put the store in order after an unclean stop"
        );
    }
}
