//! A new configuration for a running server: read from where the old one came from, judged as a
//! whole, and taken on in one order, so that a request sees the old or the new of each module.
//!
//! 1. Everything is read and judged; where anything is wrong, nothing below happens.
//! 2. The filter of the log, so that what follows is told in the lines that are wanted.
//! 3. The public URL and the proxies of the answers, then the base that the git index names.
//! 4. The options of the mirror, and with them the end of all ready answers made before.
//!
//! A request under way ends with what it took at its beginning.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::{Error, logs::Chooser, vitals::Vitals};
use crate::{
    admin::{self, Changed, Reached, Reloaded},
    config::{self, Change, Loaded, Sources},
    jobs::{self, Fault, JobError},
    metrics::Metrics,
    upstream::Upstream,
};

/// A running server, as what changes it needs it.
pub(super) struct Running {
    /// What the configuration was read from.
    pub(super) sources: Sources,
    /// What it started with.
    pub(super) started: Loaded,
    /// What was read last. Reloads take turns by it.
    pub(super) now: Mutex<Loaded>,
    pub(super) log: Chooser,
    /// How clients reach it. Held for moments, so that a reload that takes long holds nobody up.
    pub(super) reached: Mutex<Reached>,
    pub(super) vitals: Arc<Vitals>,
    /// It is on its way out, and takes on nothing new.
    pub(super) is_stopping: AtomicBool,
}

impl admin::Daemon for Running {
    fn reached(&self) -> Reached {
        self.reached.lock().clone()
    }

    fn reload(&self, caller: &str) -> Result<Reloaded, JobError> {
        if self.is_stopping.load(Ordering::SeqCst) {
            return Err(jobs::stopping());
        }
        self.vitals.notify.reloading();
        let outcome = self.take_on();
        match &outcome {
            Ok(reloaded) => tell(caller, reloaded),
            Err(error) => tracing::error!(
                causes = error.causes.join("; "),
                "reload for {caller} refused: {error}"
            ),
        }
        let refused = outcome.as_ref().err();
        self.vitals
            .reloaded(refused.map(|error| match error.causes.first() {
                Some(cause) => cause.clone(),
                None => error.to_string(),
            }));
        outcome
    }
}

impl Running {
    /// From here on reloads are refused.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    fn take_on(&self) -> Result<Reloaded, JobError> {
        let mut now = self.now.lock();
        let new = config::load(&self.sources).map_err(|errors| refusal(&Error::Config(errors)))?;
        self.judge(&new).map_err(|error| refusal(&error))?;
        let chosen = self.log.choose(&new.config.log.filter);
        chosen.map_err(|error| refusal(&Error::Log(error)))?;
        let (vitals, config) = (&self.vitals, &new.config);
        vitals.http.apply(&config.http);
        if config.http.public_url != now.config.http.public_url {
            let mut reached = self.reached.lock();
            reached.base = config.public_base();
            vitals
                .app
                .set_public_base(config.git_base(&reached.addresses).as_deref());
        }
        vitals.app.reload(&config.app);
        let reloaded = self.told(&now, &new);
        *now = new;
        Ok(reloaded)
    }

    /// What a restart with this would stumble over, as far as that can be tried here.
    fn judge(&self, new: &Loaded) -> Result<(), Error> {
        if new.config.upstream != self.started.config.upstream {
            let metrics = Metrics::new().map_err(Error::Metrics)?;
            Upstream::new(new.config.upstream.clone(), Arc::new(metrics))
                .map_err(Error::Upstream)?;
        }
        Ok(())
    }

    fn told(&self, now: &Loaded, new: &Loaded) -> Reloaded {
        let applied = config::changes(now, new);
        let restart = config::changes(&self.started, new);
        Reloaded {
            file: new.file.as_ref().map(|path| path.display().to_string()),
            applied: changed(applied, |change| change.key.is_reloadable),
            needs_restart: changed(restart, |change| !change.key.is_reloadable),
            warnings: new.warnings.clone(),
        }
    }
}

fn changed(changes: Vec<Change>, is_wanted: impl Fn(&Change) -> bool) -> Vec<Changed> {
    let wanted = changes.into_iter().filter(is_wanted);
    let shown = |change: Change| Changed {
        key: change.key.path.to_owned(),
        from: change.from,
        to: change.to,
    };
    wanted.map(shown).collect()
}

/// The error of the server as one that crosses the socket.
fn refusal(error: &Error) -> JobError {
    let told = error.to_json();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let causes = told.get("causes").and_then(serde_json::Value::as_array);
    let hint = match error {
        // One cannot answer for all.
        Error::Config(errors) if errors.len() > 1 => {
            Some("`orlop config check` says of each what to do about it".to_owned())
        }
        _ => told.get("hint").and_then(text),
    };
    JobError {
        fault: Fault::Usage,
        message: format!("nothing was changed: {error}"),
        causes: causes.into_iter().flatten().filter_map(text).collect(),
        hint,
    }
}

fn tell(caller: &str, reloaded: &Reloaded) {
    for warning in &reloaded.warnings {
        tracing::warn!("{warning}");
    }
    let keys = |changed: &[Changed]| {
        let keys: Vec<&str> = changed.iter().map(|one| one.key.as_str()).collect();
        keys.join(", ")
    };
    tracing::info!(
        applied = keys(&reloaded.applied),
        "read the configuration again for {caller}"
    );
    if !reloaded.needs_restart.is_empty() {
        tracing::warn!(
            keys = keys(&reloaded.needs_restart),
            "some settings that changed hold from the next start on"
        );
    }
}
