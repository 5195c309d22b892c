//! Publishes views as git repositories, in one direction: what the store has goes into the repository.
//!
//! A run is `Changes::take` → `Repo::commit` → `Store::note_published`. It compares the names that
//! changed with the tree of the head, or all names where it does not know what changed. The
//! repository of each view is its own; the one of [`View::all`] has every index file, so a store that
//! lost index files gets them back from it ([`recover`]), and from it alone.
//!
//! The guard that keeps the direction safe: each commit carries a change number, and the store is
//! durable up to it before the branch moves. A head with a higher number than sled had when it was
//! opened tells that sled lost changes. They are recovered from the head before anything else. Only
//! then may a repository count as foreign or damaged: it is set aside, and begins anew with one root
//! commit, which clients fetch whole.

mod compare;
pub mod follow;
mod followed;
mod message;
mod pace;
mod publish;
mod recover;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use tokio::{sync::Notify, task::JoinHandle};

pub use self::pace::Options;
use self::{
    pace::{Pace, Waiting},
    publish::Work,
};
use crate::{
    git::{self, Head, Repo},
    metrics::Metrics,
    policy::View,
    store::{self, Changed, Changes, Store},
    util::{background::Background, clock::Clock, task},
};

/// The path of the registry's own description in the tree.
const CONFIG: &str = "config.json";

/// How many names are compared at the end of the program at most. More are left to the next start.
const MAX_LAST_NAMES: u64 = 4096;

/// How often the end looks whether the last commits are made.
const END_CHECK: Duration = Duration::from_millis(5);

/// Whether a git index can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitState {
    /// No URL is known by which clients reach this server, so it has no `config.json`.
    NoBase,
    /// There is no commit yet.
    Empty,
    /// The commits that clients may have were lost, and a new root commit is being made.
    BeingMade,
    /// There is a commit.
    Ready,
}

/// A git index, for the status page.
#[derive(Debug, Clone)]
pub struct GitStatus {
    /// Whether it can be served.
    pub state: GitState,
    /// The base that its `config.json` names.
    pub base: Option<String>,
    /// The newest commit.
    pub head: Option<Head>,
    /// When it was made.
    pub cut: Option<SystemTime>,
    /// Bytes of the repository.
    pub size_bytes: u64,
    /// Names that wait for the next commit.
    pub staged: u64,
    /// Why publishing failed the last time; `None`: it did not.
    pub failing: Option<String>,
}

/// Why a git index could not be brought up to date.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the store failed")]
    Store(#[from] store::Error),
    #[error("the repository failed")]
    Git(#[from] git::Error),
    #[error("the server stops")]
    Stopped,
    #[error("internal error: publishing panicked")]
    Panicked,
    #[error("the index database could not be read meanwhile, or was opened anew")]
    Unreadable,
    #[error("`{CONFIG}` could not be written")]
    Config(#[from] serde_json::Error),
}

/// The git index of one view: its repository, and what publishes into it.
#[derive(Debug)]
pub struct GitIndex {
    view: Arc<View>,
    store: Store,
    dir: PathBuf,
    options: Options,
    /// Empty until it is opened.
    repo: OnceLock<Repo>,
    /// The URL below which clients reach the view.
    base: RwLock<Option<String>>,
    /// Whether it is known by now if there is a base. A commit before that would lack `config.json`.
    is_base_settled: AtomicBool,
    /// The base that the last run saw.
    seen_base: RwLock<Option<String>>,
    /// Whether there was a run.
    has_run: AtomicBool,
    changes: Changes,
    /// How many names the run under way took from `changes`.
    running: AtomicU64,
    /// Held by the one run that there is.
    work: Mutex<Work>,
    /// How often the store was opened anew when it was last compared with the head's number.
    guarded: AtomicU64,
    /// Whether clients may have commits that the repository lacks.
    was_published: AtomicBool,
    names: Mutex<Option<u64>>,
    /// When the rules of the view may show other lines though nothing changed; `None`: never.
    valid_until: Mutex<Option<SystemTime>>,
    failing: Mutex<Option<String>>,
    published_at: Mutex<Option<SystemTime>>,
    ending: Ending,
}

/// How the loop learns that nothing more will change.
#[derive(Debug, Default)]
struct Ending {
    /// What waits is committed now, and the loop ends.
    is_here: AtomicBool,
    /// The last commit is no longer waited for.
    is_over: Arc<AtomicBool>,
    wake: Notify,
}

/// [`GitIndex::guarded`] before the first comparison.
const NEVER: u64 = u64::MAX;

impl GitIndex {
    /// `repo`: the repository if it is open already; else it is opened in `dir` by the first run.
    fn new(
        view: Arc<View>,
        store: Store,
        dir: PathBuf,
        options: Options,
        repo: Option<Repo>,
    ) -> GitIndex {
        // A store that cannot be read now is compared wholly.
        let noted = store.published(view.name()).ok().flatten();
        let changes = store.changes();
        let is_damaged = repo.as_ref().is_some_and(Repo::is_damaged);
        let index = GitIndex {
            store,
            dir,
            options,
            repo: repo.map_or_else(OnceLock::new, OnceLock::from),
            base: RwLock::default(),
            is_base_settled: AtomicBool::new(false),
            seen_base: RwLock::default(),
            has_run: AtomicBool::new(false),
            changes,
            running: AtomicU64::new(0),
            work: Mutex::default(),
            guarded: AtomicU64::new(NEVER),
            was_published: AtomicBool::new(noted.is_some() || is_damaged),
            names: Mutex::default(),
            valid_until: Mutex::default(),
            failing: Mutex::default(),
            published_at: Mutex::default(),
            ending: Ending::default(),
            view,
        };
        index.changes.put_back(&Changed::Everything);
        index
    }

    /// Its repository, once it is open.
    pub fn repo(&self) -> Option<&Repo> {
        self.repo.get()
    }

    fn head(&self) -> Option<Head> {
        self.repo()?.head()
    }

    /// Whether it can be served.
    pub fn state(&self) -> GitState {
        match (self.base.read().is_some(), self.head()) {
            (false, _) => GitState::NoBase,
            (true, Some(_)) => GitState::Ready,
            (true, None) if self.was_published.load(Ordering::SeqCst) => GitState::BeingMade,
            (true, None) => GitState::Empty,
        }
    }

    /// What the status page shows.
    pub fn status(&self) -> GitStatus {
        GitStatus {
            state: self.state(),
            base: self.base.read().clone(),
            head: self.head(),
            cut: *self.published_at.lock(),
            size_bytes: self.repo().map_or(0, Repo::size_bytes),
            staged: self.waiting_names(),
            failing: self.failing(),
        }
    }

    /// How many crates its tree has; `None`: not counted yet.
    pub fn names(&self) -> Option<u64> {
        *self.names.lock()
    }

    /// Why it cannot be brought up to date.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().clone()
    }

    fn set_base(&self, base: Option<String>) {
        *self.base.write() = base;
        self.is_base_settled.store(true, Ordering::SeqCst);
        // The first run compares what changed before the start: not with the first requests.
        self.ending.wake.notify_one();
    }

    /// What waits for the next run.
    fn waiting(&self) -> Waiting {
        let waiting = self.changes.waiting();
        let names = waiting
            .names
            .unwrap_or_else(|| self.store.totals().names.max(1));
        Waiting {
            names,
            changes: waiting.changes,
        }
    }

    /// How many names are not in a commit yet, about.
    fn waiting_names(&self) -> u64 {
        let running = self.running.load(Ordering::SeqCst);
        self.waiting().names.saturating_add(running)
    }

    /// Whether a run should not wait: the last one failed, the repository names another base, is
    /// damaged or lacks what clients may have, or the store may have lost index files.
    fn is_urgent(&self) -> bool {
        let base = self.base.read().clone();
        let has_run = self.has_run.load(Ordering::SeqCst);
        let is_other_base = has_run && base.is_some() && *self.seen_base.read() != base;
        let is_lost = self.head().is_none() && self.was_published.load(Ordering::SeqCst);
        is_other_base
            || is_lost
            || self.repo().is_none_or(Repo::is_damaged)
            || self.failing.lock().is_some()
            || self.needs_guard()
    }

    /// Has all names compared once more when the time has come that a rule of the view named.
    fn note_time(&self, now: SystemTime) {
        let mut valid_until = self.valid_until.lock();
        if valid_until.is_some_and(|until| until <= now) {
            *valid_until = None;
            self.changes.put_back(&Changed::Everything);
        }
    }

    /// Whether the only thing that can be done waits for a base. The root index is published without
    /// one as well, because the store recovers from it.
    fn waits_for_base(&self) -> bool {
        !self.view.is_unfiltered() && self.base.read().is_none()
    }

    /// Has the loop commit what waits, and end. `false`: there is nothing that it could commit to.
    fn end(&self) -> bool {
        self.ending.is_here.store(true, Ordering::Relaxed);
        self.ending.wake.notify_one();
        !self.waits_for_base()
    }

    /// Has a last commit stop where it is: the next start makes it.
    fn give_up(&self) {
        self.ending.is_over.store(true, Ordering::Relaxed);
    }

    /// Publishes when it is due, until the end, and then what still waits. The first commit waits
    /// while `is_filling`: it becomes the large pack that every clone fetches, so all that is to be
    /// in it should be there.
    async fn keep_publishing(
        self: Arc<Self>,
        clock: Clock,
        metrics: Arc<Metrics>,
        is_filling: impl Fn() -> bool,
        stop: Arc<AtomicBool>,
    ) {
        let mut pace = Pace::new(self.options.clone());
        let mut is_first = true;
        while !self.ending.is_here.load(Ordering::Relaxed) {
            let is_settled = self.is_base_settled.load(Ordering::SeqCst);
            if is_settled && !self.waits_for_base() && !stop.load(Ordering::Relaxed) {
                self.open_early().await;
                self.note_time(clock.now());
                // What a commit has that is served already may be wrong by now.
                let is_urgent = (is_first && self.head().is_some()) || self.is_urgent();
                let is_due = pace.is_due(self.waiting(), is_urgent, Instant::now());
                let waits = !is_urgent && self.head().is_none() && is_filling();
                if is_due && !waits {
                    is_first = false;
                    let succeeded = self.run_once(clock, &metrics, &stop).await;
                    pace.ended(succeeded, Instant::now());
                }
            }
            let woken = self.ending.wake.notified();
            let _woken = tokio::time::timeout(self.options.tick(), woken).await;
        }
        self.publish_last(clock, &metrics).await;
    }

    /// Commits what waits at the end of the program, so that a clone made elsewhere from the files has
    /// it.
    async fn publish_last(self: &Arc<Self>, clock: Clock, metrics: &Metrics) {
        let waiting = self.changes.waiting();
        let total = || self.store.totals().names;
        let is_long = waiting.names.is_none() && total() > MAX_LAST_NAMES;
        if self.waits_for_base() || waiting.names == Some(0) || is_long {
            return;
        }
        let is_over = Arc::clone(&self.ending.is_over);
        let _is_logged = self.run_once(clock, metrics, &is_over).await;
    }

    /// Opens the repository before it is time to compare it, so that it is served at once.
    async fn open_early(self: &Arc<Self>) {
        if self.repo().is_some() || self.failing.lock().is_some() {
            return;
        }
        let index = Arc::clone(self);
        // A failure comes again in the run that follows, which logs it.
        let _tried = task::blocking(move || index.open().map(drop)).await;
    }

    /// Runs once, on a blocking thread. Whether it succeeded.
    async fn run_once(
        self: &Arc<Self>,
        clock: Clock,
        metrics: &Metrics,
        stop: &Arc<AtomicBool>,
    ) -> bool {
        let (index, stop) = (Arc::clone(self), Arc::clone(stop));
        let start = Instant::now();
        let ran = task::blocking(move || index.run(clock.now(), &stop)).await;
        let outcome = ran.unwrap_or_else(|error| {
            self.changes.put_back(&Changed::Everything);
            self.running.store(0, Ordering::SeqCst);
            let outcome = Err(if error.is_panic() {
                Fault::Panicked
            } else {
                Fault::Stopped
            });
            self.note(&outcome);
            outcome
        });
        self.count(&outcome, start.elapsed(), metrics);
        outcome.is_ok()
    }

    fn count(&self, outcome: &Result<Option<Head>, Fault>, duration: Duration, metrics: &Metrics) {
        match (outcome, self.view.is_unfiltered()) {
            (Ok(Some(_)), true) => metrics.generation(duration),
            (Ok(Some(_)), false) => metrics.view_commit(),
            (Ok(None) | Err(Fault::Stopped), _) => {}
            (Err(_), true) => metrics.generation_failure(),
            (Err(_), false) => metrics.view_commit_failure(),
        }
    }
}

/// The git indexes of all views; none where git is switched off. Cloning it is cheap.
#[derive(Debug, Clone, Default)]
pub struct GitIndexes {
    indexes: Arc<[Arc<GitIndex>]>,
    /// The loops that keep them up to date.
    loops: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl GitIndexes {
    /// `all`: the repository of the root index. `views`: the other views, and the folder that has
    /// their repositories.
    pub fn new(
        options: &Options,
        store: &Store,
        all: Repo,
        views: impl Iterator<Item = (Arc<View>, PathBuf)>,
    ) -> GitIndexes {
        let index = |view, dir, repo| {
            let index = GitIndex::new(view, store.clone(), dir, options.clone(), repo);
            Arc::new(index)
        };
        let dir = all.dir().to_owned();
        let mut indexes = vec![index(Arc::new(View::all()), dir, Some(all))];
        indexes.extend(views.map(|(view, dir)| index(view, dir, None)));
        GitIndexes {
            indexes: indexes.into(),
            loops: Arc::default(),
        }
    }

    fn find(&self, view: &str) -> Option<&Arc<GitIndex>> {
        self.indexes.iter().find(|index| index.view.name() == view)
    }

    /// The one of the view with this name; `None`: git is switched off, or there is no such view.
    pub fn of(&self, view: &View) -> Option<&GitIndex> {
        self.find(view.name()).map(AsRef::as_ref)
    }

    /// The one of the root index; `None`: git is switched off.
    pub fn root(&self) -> Option<&GitIndex> {
        self.indexes.first().map(AsRef::as_ref)
    }

    /// Gives the store the index files back that it lost, and keeps the git indexes up to date until
    /// the end.
    pub fn start(
        &self,
        background: &Background,
        clock: Clock,
        metrics: &Arc<Metrics>,
        is_filling: impl Fn() -> bool + Clone + Send + 'static,
    ) {
        if let Some(root) = self.root() {
            root.recover_at_start();
        }
        for index in self.indexes.iter() {
            let work = Arc::clone(index).keep_publishing(
                clock,
                Arc::clone(metrics),
                is_filling.clone(),
                background.stop_flag(),
            );
            self.loops.lock().extend(background.spawn(work));
        }
    }

    /// Says by which URL clients reach this server.
    pub fn set_base(&self, base: Option<&str>) {
        for index in self.indexes.iter() {
            index.set_base(base.map(|base| index.view.base_url(base)));
        }
    }

    /// Commits what waits, when nothing more will change. What does not fit into the time is
    /// committed after the next start.
    pub fn end(&self, until: Instant) {
        let ended: Vec<bool> = self.indexes.iter().map(|index| index.end()).collect();
        if !ended.contains(&true) {
            return;
        }
        let loops = std::mem::take(&mut *self.loops.lock());
        while !loops.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= until {
                self.indexes.iter().for_each(|index| index.give_up());
                tracing::info!("what changed last goes into the git index at the next start");
                return;
            }
            std::thread::sleep(END_CHECK);
        }
    }
}

/// Opens the repository of a view, and logs what was repaired.
///
/// # Errors
/// The operating system's. A damaged repository is opened as well, to be recovered from.
pub fn open_repository(options: git::Options, view: &View) -> Result<Repo, git::Error> {
    let (repo, report) = Repo::open(options)?;
    let (dir, view) = (repo.dir().display(), view.name());
    for what in &report.repaired {
        tracing::warn!("repaired the git index of the view `{view}` at `{dir}`: {what}");
    }
    Ok(repo)
}

impl GitIndexes {
    /// The repository of a view, once it is open, and whether it can be served; `None`: git is
    /// switched off.
    pub fn repository(&self, view: &View) -> Option<(Option<Repo>, GitState)> {
        let index = self.of(view)?;
        Some((index.repo().cloned(), index.state()))
    }
}
