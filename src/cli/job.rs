//! Runs a job for a command: through the admin socket of the daemon that has the store, else by
//! opening the store here; shows its progress, and prints its report.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error, logs, open,
    progress::{Amount, Look, Printer},
    setting_args::SettingArgs,
};
use crate::{
    admin::{Client, Word},
    app,
    config::{Config, Loaded, LogConfig, Origin},
    jobs::{
        Caller, ENDED, Event, Fault, Files, Job, JobError, JobKind, JobReport as _, JobRequest,
        Jobs, Outbox, PrintedReport, ReportJson,
    },
    store,
    util::format,
};

/// What a job that was opened here gets for its last writes.
const GRACE: Duration = Duration::from_secs(5);

/// How long a daemon may take for its last words once the job was cancelled.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(10);

/// How a line of a report begins that lists a failure which was an event, too.
const TOLD_FAILURE: &str = "failed: ";

/// Between two looks at the events of a job in this process.
const EVENT_PAUSE: Duration = Duration::from_millis(100);

/// The flags of every command that is a job.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct JobArgs {
    /// Print events and the report as JSON, one object a line.
    #[arg(long)]
    pub json: bool,
    /// Show no progress, only the report and what failed.
    #[arg(long, short)]
    pub quiet: bool,
    /// Where the settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

impl JobArgs {
    fn amount(&self) -> Amount {
        match self {
            JobArgs { json: true, .. } => Amount::Json,
            JobArgs { quiet: true, .. } => Amount::Quiet,
            _ => Amount::Full,
        }
    }
}

/// Runs `job` to its end. Events go to stderr (as JSON lines to `out` with `--json`), the report to
/// `out`, as `print` writes it for a person. A report with problems is [`Error::Problems`] after it
/// was printed.
///
/// # Errors
/// Whatever kept it from its end.
pub(super) fn run<J: Job>(
    args: &JobArgs,
    job: J,
    files: Files,
    out: &mut dyn Write,
    print: impl FnOnce(&J::Report, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    run_then(args, job, files, out, |_report| Ok(()), print)
}

/// The same for a command that still does something after its job and adds it to the report, before
/// that is printed.
///
/// # Errors
/// As [`run`], and what `complete` says.
pub(super) fn run_then<J: Job>(
    args: &JobArgs,
    job: J,
    files: Files,
    out: &mut dyn Write,
    complete: impl FnOnce(&mut J::Report) -> Result<(), Error>,
    print: impl FnOnce(&J::Report, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let loaded = super::load_and_warn(&args.settings)?;
    let runtime = open::runtime()?;
    let mut screen = Screen {
        printer: Printer::new(Look {
            amount: args.amount(),
            no_color: loaded.no_color,
            is_dumb: loaded.is_dumb,
        }),
        out,
        has_failures: false,
    };
    let mut report = match reach(&runtime, &loaded)? {
        Some(client) => ask(&runtime, client, &job, files, &mut screen)?,
        None => run_here(&runtime, &loaded, job, files, &mut screen)?,
    };
    complete(&mut report)?;
    let is_told = screen.has_failures && screen.printer.shows_failures();
    if args.json {
        let printed = PrintedReport::of(&report);
        serde_json::to_writer(&mut *out, &printed).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let mut text = Vec::new();
        print(&report, &mut text)?;
        let text = String::from_utf8_lossy(&text);
        out.write_all(shown(&text, is_told).as_bytes())?;
    }
    if report.has_problems() {
        return Err(Error::Problems);
    }
    Ok(())
}

/// A report without what would move the cursor, and without the failures that were told already
/// while the job ran: it counts them.
fn shown(report: &str, is_told: bool) -> String {
    let mut shown = format::lines(report);
    if is_told {
        let is_new = |line: &&str| !line.starts_with(TOLD_FAILURE);
        shown = shown.split_inclusive('\n').filter(is_new).collect();
    }
    shown
}

/// Where events go.
struct Screen<'a> {
    printer: Printer,
    out: &'a mut dyn Write,
    /// Whether something failed.
    has_failures: bool,
}

impl Screen<'_> {
    fn show(&mut self, event: &Event) -> io::Result<()> {
        self.has_failures |= matches!(event, Event::Failed { .. });
        self.printer.event(event, self.out)
    }
}

/// Ctrl-C, and what service managers send.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, Error> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(Error::Threads)?,
            terminate: signal(SignalKind::terminate()).map_err(Error::Threads)?,
        })
    }

    /// Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn cancelled() -> Error {
    Error::Job(JobError::cancelled())
}

// Through the daemon.

/// The daemon that has the store; `None`: nobody answers.
pub(super) fn reach(runtime: &Runtime, loaded: &Loaded) -> Result<Option<Client>, Error> {
    let socket = loaded.config.admin_socket();
    let client = runtime.block_on(Client::connect(&socket));
    let Some(client) = client.map_err(Error::Admin)? else {
        return Ok(None);
    };
    match strayed(loaded, client.data()) {
        None => Ok(Some(client)),
        Some(ours) => Err(Error::Job(
            JobError::new(
                Fault::Usage,
                format!(
                    "the daemon at `{}` has the store `{}`, not `{}`",
                    socket.display(),
                    client.data().display(),
                    ours.display()
                ),
            )
            .hint("name one of them only: the store with `--data`, or the daemon with `--admin-socket`"),
        )),
    }
}

/// The store that was named, where it is not that of the daemon. A default names none.
fn strayed<'a>(loaded: &'a Loaded, theirs: &Path) -> Option<&'a Path> {
    let data = loaded.settings.iter().find(|it| it.key.path == "data")?;
    if data.origin == Origin::Default {
        return None;
    }
    let ours = &loaded.config.store.dir;
    let is_other = match std::fs::canonicalize(ours) {
        Ok(ours) => ours != theirs,
        // Who may not look into the folder cannot compare.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    is_other.then_some(ours)
}

fn ask<J: Job>(
    runtime: &Runtime,
    mut client: Client,
    job: &J,
    files: Files,
    screen: &mut Screen<'_>,
) -> Result<J::Report, Error> {
    let request = JobRequest::of(job).map_err(Error::Job)?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        client.ask(&request, files).await.map_err(Error::Admin)?;
        listen(&mut client, &mut signals, screen).await
    });
    screen.printer.end();
    outcome?.read().map_err(Error::Job)
}

async fn listen(
    client: &mut Client,
    signals: &mut Signals,
    screen: &mut Screen<'_>,
) -> Result<ReportJson, Error> {
    // Set once it is cancelled: when no last words are waited for any more.
    let mut patience: Option<Instant> = None;
    // Set when nobody reads what is printed.
    let mut unread = None;
    loop {
        let word = tokio::select! {
            biased;
            () = signals.next() => {
                if patience.is_some() {
                    return Err(cancelled());
                }
                patience = Some(Instant::now() + LAST_WORDS_TIMEOUT);
                screen.printer.cancelling();
                client.cancel().await;
                continue;
            }
            word = client.next() => word,
            () = until(patience) => return Err(cancelled()),
        };
        match word {
            Ok(Word::Event(event)) if unread.is_none() => {
                if let Err(error) = screen.show(&event) {
                    unread = Some(error);
                    client.cancel().await;
                    patience = Some(Instant::now() + LAST_WORDS_TIMEOUT);
                }
            }
            Ok(Word::Event(_)) => {}
            Ok(Word::End(outcome)) => {
                return match unread {
                    Some(error) => Err(Error::Output(error)),
                    None => outcome.map(|report| *report).map_err(Error::Job),
                };
            }
            Err(_) if patience.is_some() => return Err(cancelled()),
            Err(error) => return Err(Error::Admin(error)),
        }
    }
}

/// Never, where there is no end.
async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

// Here.

/// Opens the store in this process and runs the job.
fn run_here<J: Job>(
    runtime: &Runtime,
    loaded: &Loaded,
    job: J,
    files: Files,
    screen: &mut Screen<'_>,
) -> Result<J::Report, Error> {
    let config = &loaded.config;
    let _chooser = logs::start(&warnings_only(&config.log), loaded.no_color)?;
    open::refuse_backup(&config.store.dir)?;
    let makes_one = match config.store.dir.join("format").try_exists() {
        Ok(false) if makes_a_store(job.kind()) => true,
        Ok(false) => return Err(no_store(&config.store.dir)),
        // What is wrong with it is told when it is opened.
        Ok(true) | Err(_) => false,
    };
    let app = open::app(config, options(config, job.kind()))
        .map_err(|error| closed(error, &config.admin_socket()))?;
    if makes_one {
        let text = format!("made a new store at `{}`", config.store.dir.display());
        screen.show(&Event::Note { text })?;
    }
    // Where nobody set one, the base that the git index has stays as it is.
    app.set_public_base(config.public_base().as_deref());
    let ended = runtime.block_on(attend(app.jobs(), job, files, screen));
    screen.printer.end();
    let Some(outcome) = ended else {
        // The store is in order after a kill too; closing it would take time.
        std::mem::forget(app);
        return Err(cancelled());
    };
    let ended = app.shut_down(GRACE).map_err(Error::End);
    let report = outcome?;
    ended.map(|()| report)
}

/// Shows the job until it ends; `None`: the second Ctrl-C.
async fn attend<J: Job>(
    jobs: &Jobs,
    job: J,
    files: Files,
    screen: &mut Screen<'_>,
) -> Option<Result<J::Report, Error>> {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return Some(Err(error)),
    };
    let cancelled = CancellationToken::new();
    let outbox = Arc::new(Outbox::default());
    let caller = Caller::owner("this command");
    let cx = outbox.context(caller, &cancelled).with_files(files);
    let mut job = std::pin::pin!(async {
        let outcome = jobs.run(job, cx).await;
        outbox.close();
        outcome
    });
    let mut outcome = None;
    let mut unread = None;
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                if cancelled.is_cancelled() {
                    return None;
                }
                cancelled.cancel();
                screen.printer.cancelling();
            }
            ended = &mut job, if outcome.is_none() => outcome = Some(ended),
            events = paced(&outbox) => {
                let Some(events) = events else { break };
                if let Err(error) = events.iter().try_for_each(|event| screen.show(event)) {
                    cancelled.cancel();
                    unread = Some(error);
                }
            }
        }
    }
    Some(match (unread, outcome) {
        (Some(error), _) => Err(Error::Output(error)),
        (None, Some(outcome)) => outcome.map_err(Error::Job),
        // The outbox is closed by the end of the job only.
        (None, None) => Err(Error::Job(JobError::cancelled())),
    })
}

/// What came, a few times a second. Cancel safe: events are taken last.
async fn paced(outbox: &Outbox) -> Option<Vec<Event>> {
    tokio::select! {
        () = sleep(EVENT_PAUSE) => {}
        () = outbox.closed() => {}
    }
    outbox.take().await
}

/// Why the store does not open for a command, which is told otherwise than for a server.
fn closed(error: Error, socket: &Path) -> Error {
    let Error::Store(why) = &error else {
        return error;
    };
    let hint = match why {
        store::Error::Locked { .. } => format!(
            "nobody answers at the admin socket `{}`: if that process is `orlop serve`, name its \
             socket with `--admin-socket`; if it is just starting or stopping, or is another \
             command, try again in a moment",
            socket.display()
        ),
        store::Error::OtherOwner { owner, .. } => format!(
            "start the daemon, which does it for you, or run the command as user {owner} \
             (`sudo -u '#{owner}' orlop …`)"
        ),
        _ => return error,
    };
    let job = JobError::new(Fault::Unavailable, "could not open the store").because(why);
    Error::Job(job.hint(hint))
}

/// The log of a command that shows progress: no line a crate, but what went wrong. How the job
/// ends is for the command itself to say.
fn warnings_only(log: &LogConfig) -> LogConfig {
    let is_default = log.filter == LogConfig::default().filter;
    let filter = if is_default { "warn" } else { &log.filter };
    LogConfig {
        filter: format!("{filter},{ENDED}=off"),
        ..log.clone()
    }
}

/// Whether a store may be made where there is none: who only looks into one has mistyped its path.
fn makes_a_store(kind: JobKind) -> bool {
    matches!(kind, JobKind::Sync | JobKind::Refresh | JobKind::Import)
}

fn no_store(data: &Path) -> Error {
    Error::Job(
        JobError::new(
            Fault::Unavailable,
            format!("there is no store at `{}`", data.display()),
        )
        .hint("name its folder with `--data`, or the file with its settings with `--config`"),
    )
}

/// The parts for one job: nothing that runs by itself.
fn options(config: &Config, kind: JobKind) -> app::Options {
    let mut options = config.app.clone();
    options.jobs.sync.every = Duration::ZERO;
    let asks = matches!(
        kind,
        JobKind::Sync | JobKind::Refresh | JobKind::Verify | JobKind::Import
    );
    options.follow.enabled &= asks;
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lists_no_failure_twice_and_moves_no_cursor() {
        let report = "failed: a@1.0.0: no \u{1b}[2J\nfailed          1\n";
        assert_eq!(shown(report, true), "failed          1\n");
        let all = "failed: a@1.0.0: no \\u{1b}[2J\nfailed          1\n";
        assert_eq!(shown(report, false), all);
    }
}
