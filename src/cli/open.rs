//! Opens the parts of a running orlop: the store, the git index, the upstream, the mirror.

use std::{path::Path, sync::Arc};

use rustix::process::Resource;
use tokio::runtime::Runtime;

use super::Error;
use crate::{
    app::{self, App, Opened},
    config::Config,
    git_index,
    jobs::{Fault, JobError},
    metrics::Metrics,
    policy::View,
    store::{OpenReport, Store},
    upstream::Upstream,
    util::clock::Clock,
};

/// A backup is no store: to open it as one would write into it.
///
/// # Errors
/// It is one, and what to do.
pub(super) fn refuse_backup(data: &Path) -> Result<(), Error> {
    if data.join("sled").exists() || !data.join("MANIFEST").exists() {
        return Ok(());
    }
    let message = format!("`{}` is a backup, not a store", data.display());
    Err(Error::Job(JobError::new(Fault::Usage, message).hint(
        "`orlop restore` makes a store of it; name a store with `--data`",
    )))
}

/// A runtime for the surface itself: the jobs have their own.
pub(super) fn runtime() -> Result<Runtime, Error> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    built.map_err(Error::Threads)
}

/// Opens the store and starts the parts over it.
///
/// # Errors
/// Whatever keeps it from starting: settings, the store, the git index, threads.
pub(super) fn app(config: &Config, options: app::Options) -> Result<App, Error> {
    refuse_backup(&config.store.dir)?;
    allow_open_files();
    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new().map_err(Error::Metrics)?);
    let upstream =
        Upstream::new(config.upstream.clone(), Arc::clone(&metrics)).map_err(Error::Upstream)?;
    let (store, report) = Store::open(config.store.clone(), clock.now()).map_err(Error::Store)?;
    tell_of_opening(config, &report);
    let repo = config
        .git()
        .map(|options| git_index::open_repository(options, &View::all()));
    let repo = repo.transpose().map_err(Error::Git)?;
    let opened = Opened {
        store,
        upstream,
        metrics,
        clock,
        repo,
    };
    App::start(options, opened).map_err(Error::Threads)
}

/// Takes as many open files as the system allows. Every connection is one, so is
/// every crate that is fetched, and the usual soft limit
/// of 1024 is a courtesy to programs that use `select`.
fn allow_open_files() {
    let mut limits = rustix::process::getrlimit(Resource::Nofile);
    // A sandbox may have taken the right to set them.
    if limits.current == limits.maximum {
        return;
    }
    limits.current = limits.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limits) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// What opening the store found: worth a line where it is not what everybody expects.
fn tell_of_opening(config: &Config, report: &OpenReport) {
    let dir = config.store.dir.display();
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
