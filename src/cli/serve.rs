//! `orlop serve`: opens and starts the parts, says when it is ready, and ends them in order.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    error::Error,
    logs::Chooser,
    notify::{MoreTime, Notify},
    open,
    reload::Running,
    tell, vitals,
    vitals::Vitals,
};
use crate::{
    admin::{self, Daemon as _},
    app::App,
    config::{Config, Loaded, ServiceManager, Sources},
    http::Server,
    listen,
    registry::client::client_config,
};

/// How long jobs may take to end once no client waits any more: what they fetched is lost
/// otherwise, and most need only their last fsync.
const JOBS_GRACE: Duration = Duration::from_secs(5);

/// How long the last writes of a stop may take beside the rest, for the service manager: what a
/// write may take at most (20 s), and some more.
const LAST_WRITES: Duration = Duration::from_secs(30);

/// How long what still blocks at the end is waited for.
const BLOCKED_GRACE: Duration = Duration::from_secs(1);

/// What a server starts from.
pub(super) struct Start {
    pub(super) sources: Sources,
    pub(super) loaded: Loaded,
    pub(super) log: Chooser,
    /// Sockets that listen already.
    pub(super) sockets: Vec<TcpListener>,
    pub(super) manager: ServiceManager,
    pub(super) notify: Notify,
}

/// Runs the mirror until a signal ends it.
///
/// # Errors
/// Whatever kept it from starting: settings, the store, an address; and a last write that failed.
pub(super) fn serve(start: Start) -> Result<(), Error> {
    let notify = start.notify.clone();
    let runtime = open::runtime()?;
    // From here on, because a SIGHUP that nobody takes ends a process.
    let signals = runtime.block_on(async { Signals::take() })?;
    let config = start.loaded.config.clone();
    let more_time = notify.more_time("opening the store");
    let app = open::app(&config, config.app.clone())?;
    let outcome =
        admin(&config).and_then(|admin| answer(start, &runtime, signals, &app, admin, more_time));
    notify.stopping(JOBS_GRACE + LAST_WRITES);
    let ended = app.shut_down(JOBS_GRACE).map_err(Error::End);
    // A read of a disk that hangs does not hold up the end.
    runtime.shutdown_timeout(BLOCKED_GRACE);
    outcome.and(ended)
}

/// The signals that a server knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> Result<Signals, Error> {
        let take = |kind| signal(kind).map_err(Error::Threads);
        Ok(Signals {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// The next that asks for the end. Cancel safe.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// The next that asks for the end; meanwhile each SIGHUP reloads. Cancel safe.
    async fn end_or_reload(&mut self, running: &Arc<Running>) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    let running = Arc::clone(running);
                    // What came of it is in the log and in the status text.
                    drop(tokio::task::spawn_blocking(move || running.reload("SIGHUP")));
                }
            }
        }
    }
}

/// The socket for commands. Its default place is nobody's wish: where it cannot be, commands wait
/// until the server ends, and it serves without.
fn admin(config: &Config) -> Result<Option<admin::Server>, Error> {
    match admin::Server::bind(&config.admin_socket(), &config.store.dir) {
        Ok(server) => Ok(Some(server)),
        Err(error) if config.admin_socket.is_none() => {
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

/// Opens the sockets, and makes what a reload of the server works on.
fn bind(start: Start, app: &App) -> Result<(Server, Arc<Running>), Error> {
    let config = start.loaded.config.clone();
    let watchdog = start.manager.watchdog.filter(|_| start.notify.is_wanted());
    let listen = listen::Options {
        heartbeat: watchdog.map(vitals::heartbeat),
        ..config.listen.clone()
    };
    let is_handed = !start.sockets.is_empty();
    let server = Server::bind(&config.http, listen, start.sockets, app);
    let server = server.map_err(Error::Listen)?;
    let addresses = server.addresses();
    if is_handed {
        tracing::info!(
            ?addresses,
            "listens on the sockets that the service manager handed over; `listen.addresses` is not looked at"
        );
    }
    let running = Running {
        sources: start.sources,
        now: Mutex::new(start.loaded.clone()),
        started: start.loaded,
        log: start.log,
        reached: Mutex::new(admin::Reached {
            addresses,
            base: config.public_base(),
        }),
        vitals: Arc::new(Vitals::new(app, server.live(), start.notify, watchdog)),
        is_stopping: AtomicBool::new(false),
    };
    Ok((server, Arc::new(running)))
}

fn answer(
    start: Start,
    runtime: &Runtime,
    mut signals: Signals,
    app: &App,
    admin: Option<admin::Server>,
    more_time: MoreTime,
) -> Result<(), Error> {
    let (config, notify) = (start.loaded.config.clone(), start.notify.clone());
    let (server, running) = bind(start, app)?;
    let (addresses, vitals) = (server.addresses(), Arc::clone(&running.vitals));
    runtime.block_on(async {
        app.set_public_base(config.git_base(&addresses).as_deref());
        let (serving, stop) = server.run();
        let mut serving = tokio::spawn(serving);
        let (stop_admin, stopped) = watch::channel(false);
        let daemon: Arc<dyn admin::Daemon> = Arc::clone(&running) as _;
        let admin = admin.map(|admin| tokio::spawn(admin.run(app.jobs().clone(), daemon, stopped)));
        announce(&config, &addresses)?;
        drop(more_time);
        notify.ready(&vitals.status());
        let keeping = tokio::spawn(vitals.keep());
        let signal = tokio::select! {
            ended = &mut serving => return outcome(ended),
            signal = signals.end_or_reload(&running) => signal,
        };
        keeping.abort();
        running.stop();
        notify.stopping(config.listen.shutdown_grace + JOBS_GRACE + LAST_WRITES);
        tracing::info!("{signal}: takes no more connections and lets answers under way end");
        stop.stop();
        app.jobs().services().running.stop();
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
            signal = signals.end() => signal,
        };
        tracing::warn!("{signal}, the second signal: cuts off the answers under way");
        Ok(())
    })
}

type Ended = Result<Result<(), listen::Error>, tokio::task::JoinError>;

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
        let base = config.public_base();
        let base = base.unwrap_or_else(|| admin::local_base(*address));
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
