//! The git index of a view: a repository of its own, brought to what the view shows.
//!
//! It shares nothing with the root's, neither objects nor history. Its commits follow the same rule
//! of quiet time, and are kept nowhere else: what the repository lacks is found by comparing its
//! tree with the store, wholly at the start and by the names that changed after that. A repository
//! that is lost or damaged is set aside and begins anew with one root commit, which clients fetch
//! whole.

use std::{
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::shown;
use crate::{
    git::{self, Commit, FileChange, Head, ObjectId, Repo, blob_id},
    metrics::Metrics,
    mirror::{
        Clock, GitState,
        generations::{
            CONFIG, Cutting, Fault, Options, Pace, Story, config_change, summary, whole_seconds,
            with_sources,
        },
    },
    policy::View,
    registry::{CrateName, RegistryConfig, layout::parse_index_path},
    store::{Changed, Changes, Staged, Store, Survey},
};

/// How many names may wait for a commit; more are found by comparing all.
const MAX_WAITING: usize = 4096;

/// The git index of one view.
#[derive(Debug)]
pub struct ViewGit {
    view: Arc<View>,
    store: Store,
    dir: PathBuf,
    options: Options,
    /// `None` until it is opened, which waits for a base.
    repo: RwLock<Option<Repo>>,
    /// Below which clients reach the view.
    base: RwLock<Option<String>>,
    /// Held by the one run that there is.
    written: Mutex<Written>,
    /// The base that the newest commit has.
    committed: RwLock<Option<String>>,
    names: Mutex<Option<u64>>,
    failing: Mutex<Option<String>>,
    ending: Ending,
}

/// How the loop is told that nothing more will change.
#[derive(Debug, Default)]
struct Ending {
    /// What waits is committed now, and the loop ends.
    is_here: AtomicBool,
    /// Nobody waits for the last commit any more.
    is_over: Arc<AtomicBool>,
    wake: Notify,
}

/// What the last run left.
#[derive(Debug, Default)]
struct Written {
    /// The head that it left; another one was put there by somebody, and nothing is known of it.
    head: Option<ObjectId>,
    /// How many names the tree has.
    names: u64,
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    names: BTreeSet<CrateName>,
    is_everything: bool,
}

impl Waiting {
    pub(super) fn everything() -> Waiting {
        Waiting {
            is_everything: true,
            ..Waiting::default()
        }
    }

    /// `false`: nothing changed.
    pub(super) fn add(&mut self, changed: Changed) -> bool {
        match changed {
            Changed::Names(names) if names.is_empty() => return false,
            Changed::Names(names) if !self.is_everything => self.names.extend(names),
            Changed::Names(_) => {}
            Changed::Everything => self.is_everything = true,
        }
        if self.names.len() > MAX_WAITING {
            self.is_everything = true;
        }
        if self.is_everything {
            self.names.clear();
        }
        true
    }

    pub(super) fn merge(&mut self, other: Waiting) {
        if other.is_everything {
            self.add(Changed::Everything);
        }
        self.add(Changed::Names(other.names.into_iter().collect()));
    }

    pub(super) fn count(&self) -> u64 {
        if self.is_everything {
            return 1;
        }
        self.names.len() as u64
    }
}

impl ViewGit {
    pub(super) fn new(view: Arc<View>, store: Store, dir: PathBuf, options: Options) -> ViewGit {
        ViewGit {
            view,
            store,
            dir,
            options,
            repo: RwLock::default(),
            base: RwLock::default(),
            written: Mutex::default(),
            committed: RwLock::default(),
            names: Mutex::default(),
            failing: Mutex::default(),
            ending: Ending::default(),
        }
    }

    /// Has the loop commit what waits, and end. `false`: there is nothing that it could commit to.
    pub(super) fn end(&self) -> bool {
        self.ending.is_here.store(true, Ordering::Relaxed);
        self.ending.wake.notify_one();
        self.base.read().is_some()
    }

    /// Has a last commit stop where it is: the next start makes it.
    pub(super) fn give_up(&self) {
        self.ending.is_over.store(true, Ordering::Relaxed);
    }

    /// Its repository, once it is open.
    pub fn repo(&self) -> Option<Repo> {
        self.repo.read().clone()
    }

    /// Whether it can be served.
    pub fn state(&self) -> GitState {
        match (self.base.read().is_some(), self.repo()) {
            (false, _) => GitState::NoBase,
            (true, Some(repo)) if repo.head().is_some() => GitState::Ready,
            (true, _) => GitState::Empty,
        }
    }

    pub(super) fn set_base(&self, base: Option<String>) {
        *self.base.write() = base;
    }

    /// How many crates its tree has; `None`: it was not brought up to date yet.
    pub(super) fn names(&self) -> Option<u64> {
        *self.names.lock()
    }

    /// Why it cannot follow.
    pub(super) fn failing(&self) -> Option<String> {
        self.failing.lock().clone()
    }

    pub(super) fn is_urgent(&self) -> bool {
        let (base, repo) = (self.base.read().clone(), self.repo());
        let is_new_base = base != *self.committed.read();
        let is_known = self.committed.read().is_some();
        (is_new_base && is_known)
            || repo.is_none()
            || repo.is_some_and(|repo| repo.is_damaged())
            || self.failing.lock().is_some()
    }

    /// Opens the repository: it can be served then as it is.
    fn open(&self) -> Result<Repo, Fault> {
        if let Some(repo) = self.repo() {
            return Ok(repo);
        }
        let dir = self.dir.clone();
        let (repo, report) = Repo::open(git::Options { dir })?;
        let (dir, view) = (self.dir.display(), self.view.name());
        for what in &report.healed {
            tracing::warn!("healed the git index of the view `{view}` at `{dir}`: {what}");
        }
        if let Some(why) = &report.set_aside {
            tracing::error!(
                "the git index of the view `{view}` at `{dir}` was set aside and begins anew: {why}"
            );
        }
        *self.repo.write() = Some(repo.clone());
        Ok(repo)
    }

    /// Brings the repository to what the view shows. Blocks for the disk.
    pub(super) fn run(
        &self,
        now: SystemTime,
        waiting: &Waiting,
        stop: &AtomicBool,
    ) -> Result<Cutting, Fault> {
        let outcome = self.bring(now, waiting, stop);
        match &outcome {
            Ok(_) | Err(Fault::Stopped) => *self.failing.lock() = None,
            Err(fault) => {
                let text = with_sources(fault);
                let told = self.failing.lock().replace(text.clone());
                if told.as_ref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        view = self.view.name(),
                        "could not bring the git index of the view `{}` up to date; it is tried \
                         again (told once)",
                        self.view.name()
                    );
                }
            }
        }
        outcome
    }

    fn bring(
        &self,
        now: SystemTime,
        waiting: &Waiting,
        stop: &AtomicBool,
    ) -> Result<Cutting, Fault> {
        let Some(base) = self.base.read().clone() else {
            return Ok(Cutting::Nothing);
        };
        let mut written = self.written.lock();
        let repo = self.open()?;
        if repo.is_gone() {
            self.begin_anew(&repo, &"somebody removed it")?;
        }
        let first = repo
            .mend()
            .map_err(Fault::from)
            .and_then(|()| self.follow(&repo, &mut written, (now, &base), waiting, stop));
        let outcome = match first {
            Err(Fault::Git(error)) if error.is_damage() => {
                self.begin_anew(&repo, &error)?;
                self.follow(&repo, &mut written, (now, &base), waiting, stop)
            }
            other => other,
        };
        if outcome.is_ok() {
            *self.committed.write() = Some(base);
            *self.names.lock() = Some(written.names);
        } else {
            // What was written of it is not known.
            written.head = None;
        }
        outcome
    }

    fn begin_anew(&self, repo: &Repo, why: &dyn std::fmt::Display) -> Result<(), Fault> {
        tracing::error!(
            "the git index of the view `{}` begins anew, and git clients fetch all of it once: {why}",
            self.view.name()
        );
        Ok(repo.set_aside()?)
    }

    fn follow(
        &self,
        repo: &Repo,
        written: &mut Written,
        (now, base): (SystemTime, &str),
        waiting: &Waiting,
        stop: &AtomicBool,
    ) -> Result<Cutting, Fault> {
        let head = repo.head();
        let is_ours = head.is_some() && written.head == head.map(|head| head.id);
        let mut found = Found::default();
        if waiting.is_everything || !is_ours {
            written.names = self.compare_all(repo, head, &mut found, stop)?;
        } else {
            self.compare(repo, head, &mut waiting.names.iter(), &mut found, stop)?;
        }
        let config = new_config(repo, head, base)?;
        written.head = head.map(|head| head.id);
        if found.names.is_empty() && config.is_none() {
            return Ok(Cutting::Nothing);
        }
        let commit = Commit {
            generation: head.map_or(1, |head| head.generation.saturating_add(1)),
            time: whole_seconds(now),
            message: found
                .story
                .message(found.survey, config.is_some().then_some(base)),
        };
        let head = self.commit(repo, &commit, config, &found.names)?;
        written.head = Some(head.id);
        written.names = written
            .names
            .saturating_add(found.survey.new)
            .saturating_sub(found.survey.removed);
        tracing::info!(
            generation = head.generation,
            view = self.view.name(),
            "published generation {} of the view `{}`: {}",
            head.generation,
            self.view.name(),
            summary(found.survey)
        );
        Ok(Cutting::Cut(head))
    }

    /// Reads what the view shows once more while it is written, so that no file is named that went
    /// since it was compared.
    fn commit(
        &self,
        repo: &Repo,
        commit: &Commit,
        config: Option<Bytes>,
        names: &[CrateName],
    ) -> Result<Head, Fault> {
        let mut failure = None;
        let files = names.iter().map_while(|name| {
            let bytes = shown(&self.store, &self.view, name)
                .map_err(|error| failure = Some(error))
                .ok()?;
            let path = name.index_path();
            Some(FileChange { path, bytes })
        });
        let mut changes = config.map(config_change).into_iter().chain(files);
        let head = repo.commit(commit, &mut changes)?;
        drop(changes);
        match failure {
            // What was committed is right as far as it goes; the rest is compared again.
            Some(error) => Err(error.into()),
            None => Ok(head),
        }
    }

    /// Compares these names with the tree of a commit.
    fn compare(
        &self,
        repo: &Repo,
        head: Option<Head>,
        names: &mut dyn Iterator<Item = &CrateName>,
        found: &mut Found,
        stop: &AtomicBool,
    ) -> Result<(), Fault> {
        for name in names {
            check(stop)?;
            let older = match head {
                Some(head) => repo.file(head.id, &name.index_path())?,
                None => None,
            };
            let newer = shown(&self.store, &self.view, name)?;
            if older != newer {
                found.take(name, older.as_ref(), newer.as_ref());
            }
        }
        Ok(())
    }

    /// Compares all names with the tree of a commit. Returns how many the tree has.
    fn compare_all(
        &self,
        repo: &Repo,
        head: Option<Head>,
        found: &mut Found,
        stop: &AtomicBool,
    ) -> Result<u64, Fault> {
        let mut tree = Tree::of(repo, head)?;
        let count = tree.blobs.len() as u64;
        for name in self.candidates()? {
            let older = tree.blobs.remove(name.key());
            self.compare_blob(repo, &name, older, found, stop)?;
        }
        // Names that have no file any more; or the marks of the records lag.
        let mut rest: Vec<_> = tree.blobs.into_iter().collect();
        rest.sort_unstable();
        for (key, older) in rest {
            if let Ok(name) = CrateName::parse(&key) {
                self.compare_blob(repo, &name, Some(older), found, stop)?;
            }
        }
        Ok(count)
    }

    fn compare_blob(
        &self,
        repo: &Repo,
        name: &CrateName,
        older: Option<ObjectId>,
        found: &mut Found,
        stop: &AtomicBool,
    ) -> Result<(), Fault> {
        check(stop)?;
        let newer = shown(&self.store, &self.view, name)?;
        let id = newer.as_ref().map(|bytes| blob_id(bytes)).transpose()?;
        if id != older {
            let older = older.map(|older| repo.blob(older)).transpose()?;
            found.take(name, older.as_ref(), newer.as_ref());
        }
        Ok(())
    }

    /// The names that the view may show, by what their records say, in order.
    fn candidates(&self) -> Result<Vec<CrateName>, Fault> {
        let mut names = Vec::new();
        self.store.visit_releases(|entry, releases| {
            if releases.iter().any(|release| release.held) {
                names.push(entry.name.clone());
            }
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }
}

/// What differs.
#[derive(Debug, Default)]
struct Found {
    names: Vec<CrateName>,
    survey: Survey,
    story: Story,
    /// Whether the story has all that it is to have.
    is_told: bool,
}

impl Found {
    fn take(&mut self, name: &CrateName, older: Option<&Bytes>, newer: Option<&Bytes>) {
        let count = match (older, newer) {
            (None, _) => &mut self.survey.new,
            (Some(_), Some(_)) => &mut self.survey.updated,
            (Some(_), None) => &mut self.survey.removed,
        };
        *count = count.saturating_add(1);
        if !self.is_told {
            self.is_told = !self.story.tell(name, older, newer);
        }
        self.names.push(name.clone());
    }
}

/// The blobs of a tree by lower-case name: of 250,000 names some 20 MB, for as long as they are
/// compared.
#[derive(Debug, Default)]
struct Tree {
    blobs: HashMap<Box<str>, ObjectId>,
}

impl Tree {
    fn of(repo: &Repo, head: Option<Head>) -> Result<Tree, Fault> {
        let mut tree = Tree::default();
        let Some(head) = head else {
            return Ok(tree);
        };
        repo.files(head.id, &mut |file| {
            if let Ok(name) = parse_index_path(&file.path) {
                tree.blobs.insert(name.key().into(), file.id);
            }
            ControlFlow::Continue(())
        })?;
        Ok(tree)
    }
}

/// `config.json`, if the repository has another one than it should.
fn new_config(repo: &Repo, head: Option<Head>, base: &str) -> Result<Option<Bytes>, Fault> {
    let config = Bytes::from(serde_json::to_vec(&RegistryConfig::of_mirror(base))?);
    let committed = match head {
        Some(head) => repo.file(head.id, CONFIG)?,
        None => None,
    };
    Ok((committed.as_ref() != Some(&config)).then_some(config))
}

fn check(stop: &AtomicBool) -> Result<(), Fault> {
    if stop.load(Ordering::Relaxed) {
        return Err(Fault::Stopped);
    }
    Ok(())
}

/// The loop: commits when it is due, and what waits at the end. Nothing happens while no base is known.
pub(super) async fn keep_cutting(
    git: Arc<ViewGit>,
    clock: Clock,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
) {
    let mut changes: Changes = git.store.changes();
    let mut pace = Pace::new(git.options.clone());
    let mut waiting = Waiting::everything();
    let (mut count, mut is_first) = (0_u64, true);
    while !git.ending.is_here.load(Ordering::Relaxed) {
        if waiting.add(changes.take()) {
            count = count.saturating_add(1);
        }
        let staged = Staged {
            names: waiting.count(),
            changes: count,
        };
        if git.base.read().is_some() && !stop.load(Ordering::Relaxed) {
            open_early(&git).await;
            // A first commit waits until what is coming has come; one that is served already may
            // name another base, or files that went meanwhile.
            let is_behind = is_first && git.state() == GitState::Ready;
            if pace.is_due(staged, is_behind || git.is_urgent(), Instant::now()) {
                is_first = false;
                let taken = std::mem::take(&mut waiting);
                let (cut, rest) = run_once(&git, clock, &metrics, taken, &stop).await;
                waiting.merge(rest);
                pace.ended(cut, count, Instant::now());
            }
        }
        let _woken = tokio::time::timeout(git.options.tick(), git.ending.wake.notified()).await;
    }
    waiting.add(changes.take());
    commit_last(&git, clock, &metrics, waiting).await;
}

/// Commits what waits at the end of the program, so that a clone made elsewhere from the files has
/// it. Where all of a large mirror would have to be compared, that is for the next start.
async fn commit_last(git: &Arc<ViewGit>, clock: Clock, metrics: &Metrics, waiting: Waiting) {
    let is_long = waiting.is_everything && git.store.totals().names > MAX_WAITING as u64;
    if git.base.read().is_none() || waiting.count() == 0 || is_long {
        return;
    }
    let is_over = Arc::clone(&git.ending.is_over);
    let _told = run_once(git, clock, metrics, waiting, &is_over).await;
}

/// Opens the repository before it is time to compare it, so that it is served at once.
async fn open_early(git: &Arc<ViewGit>) {
    if git.repo.read().is_some() || git.failing.lock().is_some() {
        return;
    }
    let work = Arc::clone(git);
    // A failure comes again in the run that follows, which tells it.
    let _tried = tokio::task::spawn_blocking(move || work.open().map(drop)).await;
}

/// Runs once, on a blocking thread: whether anything was committed (`None`: it failed), and what
/// still has to be looked at.
async fn run_once(
    git: &Arc<ViewGit>,
    clock: Clock,
    metrics: &Metrics,
    waiting: Waiting,
    stop: &Arc<AtomicBool>,
) -> (Option<bool>, Waiting) {
    let (work, stop) = (Arc::clone(git), Arc::clone(stop));
    let ran = tokio::task::spawn_blocking(move || {
        let outcome = work.run(clock.now(), &waiting, &stop);
        (outcome, waiting)
    });
    match ran.await {
        Ok((Ok(cutting), _done)) => {
            let cut = matches!(cutting, Cutting::Cut(_));
            if cut {
                metrics.view_commit();
            }
            (Some(cut), Waiting::default())
        }
        Ok((Err(Fault::Stopped), waiting)) => (None, waiting),
        Ok((Err(_told), waiting)) => {
            metrics.view_commit_failure();
            (None, waiting)
        }
        Err(_panicked) => {
            tracing::error!(
                "bringing the git index of a view up to date panicked; it is tried again"
            );
            metrics.view_commit_failure();
            (None, Waiting::everything())
        }
    }
}
