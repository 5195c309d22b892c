//! The command line: what was typed, what is printed, and the exit code. The only module that prints.
//!
//! Results go to stdout; logs, warnings and errors to stderr. An error is shown in one place,
//! [`Error::render`], and becomes an exit code in one place, [`Error::exit`].

mod args;
mod client_config;
pub mod commands;
mod error;
pub mod job;
mod logs;
mod notify;
mod open;
mod progress;
mod reload;
mod serve;
mod setting_args;
mod settings;
mod vitals;

use std::io::{self, Write};
use std::process::ExitCode;

pub use args::{Args, Command, ConfigCommand};
pub use error::{Error, Exit};
pub use setting_args::SettingArgs;

use crate::config::{self, Loaded, ServiceManager, Sources};
use crate::util::format;

/// Reads the arguments of the process, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let args = match Args::of_process() {
        Ok(args) => args,
        Err(error) => return usage(&error).into(),
    };
    // Unlocked: the ready lines of `serve` may come from another thread.
    let outcome = run(&args, &mut io::stdout()).and_then(|()| Ok(io::stdout().flush()?));
    match outcome {
        Ok(()) => Exit::Well,
        // `orlop config show | head` has seen what it wanted. Rust ignores SIGPIPE, so it is for
        // us to tell this from trouble: https://github.com/rust-lang/rust/issues/62569.
        Err(error) if error.is_broken_pipe() => Exit::Well,
        Err(error) => {
            tell(&format::lines(&error.render()));
            error.exit()
        }
    }
    .into()
}

/// Runs one command; its results go to `out`.
///
/// # Errors
/// Whatever kept the command from its result.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    match dispatch(args, out) {
        // What a program reads ends in one line of JSON, whatever went wrong.
        Err(error)
            if args.command.is_json()
                && !matches!(error, Error::Problems | Error::Told(_) | Error::Output(_)) =>
        {
            writeln!(out, "{}", serde_json::json!({ "error": error.to_json() }))?;
            Err(Error::Told(error.exit()))
        }
        outcome => outcome,
    }
}

fn dispatch(args: &Args, out: &mut dyn Write) -> Result<(), Error> {
    match &args.command {
        Command::Serve(settings) => serve(settings),
        Command::Reload(args) => args.run(out),
        Command::ClientConfig {
            url,
            git,
            view,
            settings,
        } => client_config::print(
            url.as_deref(),
            *git,
            view.as_deref(),
            || load_and_warn(settings),
            out,
        ),
        Command::Sync(args) => args.run(out),
        Command::Refresh(args) => args.run(out),
        Command::Export(args) => args.run(out),
        Command::Import(args) => args.run(out),
        Command::Key(args) => args.run(out),
        Command::Stats(args) => args.run(out),
        Command::Who(args) => args.run(out),
        Command::Pin(args) => args.run(out),
        Command::Unpin(args) => args.run(out),
        Command::Verify(args) => args.run(out),
        Command::Gc(args) => args.run(out),
        Command::Backup(args) => args.run(out),
        Command::Restore(args) => args.run(out),
        Command::Doctor(args) => args.run(out),
        Command::Completions(args) => args.run(out),
        Command::Man(args) => args.run(out),
        Command::Config(ConfigCommand::Check(settings)) => {
            settings::check(&load_and_warn(settings)?, out)
        }
        Command::Config(ConfigCommand::Show { json, settings }) => {
            settings::show(&load_and_warn(settings)?, *json, out)
        }
    }
}

fn load(settings: &SettingArgs) -> Result<Loaded, Error> {
    let sources = Sources::of_process(settings.to_flags());
    config::load(&sources).map_err(Error::Config)
}

/// For commands that keep no log: warnings are shown as they are.
fn load_and_warn(settings: &SettingArgs) -> Result<Loaded, Error> {
    let loaded = load(settings)?;
    for warning in &loaded.warnings {
        tell(&format!("warning: {warning}\n"));
    }
    Ok(loaded)
}

fn serve(settings: &SettingArgs) -> Result<(), Error> {
    let manager = ServiceManager::of_process();
    let notify = notify::Notify::to(&manager);
    let served = serve_told(settings, manager, notify.clone());
    if let Err(error) = &served {
        notify.status(&format!("failed: {error}"));
        notify.flush();
    }
    served
}

fn serve_told(
    settings: &SettingArgs,
    manager: ServiceManager,
    notify: notify::Notify,
) -> Result<(), Error> {
    // Before anything else starts a thread: what handed them over is taken out of the environment.
    let sockets = config::inherited_sockets().map_err(Error::Inherited)?;
    let sources = Sources::of_process(settings.to_flags());
    let loaded = config::load(&sources).map_err(Error::Config)?;
    let log = logs::start(&loaded.config.log, loaded.no_color)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    serve::serve(serve::Start {
        sources,
        loaded,
        log,
        sockets,
        manager,
        notify,
    })
}

/// Help and the version are results; the rest is wrong usage. clap knows where each is printed.
fn usage(error: &clap::Error) -> Exit {
    match error.print() {
        Err(trouble) if trouble.kind() != io::ErrorKind::BrokenPipe => Exit::Unavailable,
        _ if error.use_stderr() => Exit::Usage,
        _ => Exit::Well,
    }
}

/// Writes to stderr. Where that is closed, there is nobody left to tell.
fn tell(text: &str) {
    match io::stderr().write_all(text.as_bytes()) {
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
