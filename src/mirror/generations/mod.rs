//! Generations: cuts the index into commits of the git index, and brings store and repository
//! together when one of them was lost.
//!
//! A cut is `Store::cut` → `Repo::commit` → `Cut::publish`. A stop between the last two leaves the
//! repository ahead of the store: it is then believed, and its generations are taken in. Either
//! rebuilds the other (what is done when is the `match` of [`Worker::reconcile`]).
//!
//! While commits that clients may have are made again, the repository has older heads than they do.
//! So it is not served then ([`GitState::BeingMade`]): who fetches is told to come back, and nobody
//! sees the history go back.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::{
    git::{self, Commit, FileChange, Head, ObjectId, Repo, blob_id},
    registry::{CrateName, IndexFile, layout::RegistryConfig, layout::parse_index_path},
    store::{self, CatchUp, CommitId, Cut, GenerationFacts, Staged, Store, Survey},
};

/// When generations are cut. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long nothing changes before one is cut.
    pub quiet_for: Duration,
    /// The longest after the first change that one is cut.
    pub cut_within: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            quiet_for: Duration::from_secs(5),
            cut_within: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// How often to look whether a cut is due.
    pub(super) fn tick(&self) -> Duration {
        (self.quiet_for / 4).clamp(SHORTEST_TICK, TICK)
    }
}

/// Whether the git index can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitState {
    /// Nobody told by which URL clients reach this server, so it has no `config.json`.
    NoBase,
    /// There is no commit yet.
    Empty,
    /// Commits that were lost are being made again, which takes seconds to minutes.
    BeingMade,
    /// There is a commit.
    Ready,
}

/// The git index, for the status page.
#[derive(Debug, Clone)]
pub struct GitStatus {
    /// Whether it can be served.
    pub state: GitState,
    /// The base that its `config.json` names.
    pub base: Option<String>,
    /// The newest commit.
    pub head: Option<Head>,
    /// When it was cut.
    pub cut: Option<SystemTime>,
    /// Bytes of the repository.
    pub size_bytes: u64,
    /// Names that wait for the next generation.
    pub staged: u64,
    /// Why the last cut failed; `None`: it did not.
    pub failing: Option<String>,
}

/// The path of the registry's own description in the tree.
pub(super) const CONFIG: &str = "config.json";

/// How many lines of a message tell what changed: what a person reads.
const MAX_LINES: usize = 100;

/// How many versions of a crate such a line names.
const MAX_VERSIONS: usize = 5;

/// How many names that were lost the log names.
const MAX_TOLD: usize = 20;

/// How many files go to the store at a time.
const FILES_AT_A_TIME: usize = 256;

/// The waits after failed cuts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often it is looked whether something changed: often enough for the shortest quiet time that
/// makes sense.
const TICK: Duration = Duration::from_millis(200);

/// The shortest tick.
const SHORTEST_TICK: Duration = Duration::from_millis(10);

/// The git index and who writes it.
#[derive(Debug)]
pub(super) struct Generations {
    pub(super) repo: Repo,
    options: Options,
    store: Store,
    worker: Mutex<Worker>,
    base: RwLock<Option<String>>,
    /// The base that the newest commit was made with; what is looked at without a lock that a cut
    /// holds.
    committed: RwLock<Option<String>>,
    failing: Mutex<Option<String>>,
    cut_at: Mutex<Option<SystemTime>>,
    is_being_made: Arc<AtomicBool>,
}

impl Generations {
    pub(super) fn new(options: Options, store: Store, repo: Repo) -> Generations {
        let is_being_made = Arc::new(AtomicBool::new(is_behind(&store, &repo)));
        let worker = Worker {
            store: store.clone(),
            repo: repo.clone(),
            is_reconciled: false,
            may: May::Look,
            is_being_made: Arc::clone(&is_being_made),
        };
        Generations {
            repo,
            options,
            store,
            worker: Mutex::new(worker),
            base: RwLock::default(),
            committed: RwLock::default(),
            failing: Mutex::default(),
            cut_at: Mutex::default(),
            is_being_made,
        }
    }

    pub(super) fn set_base(&self, base: Option<String>) {
        *self.base.write() = base;
    }

    pub(super) fn state(&self) -> GitState {
        match (self.base.read().is_some(), self.repo.head()) {
            (false, _) => GitState::NoBase,
            _ if self.is_being_made.load(Ordering::SeqCst) => GitState::BeingMade,
            (true, None) => GitState::Empty,
            (true, Some(_)) => GitState::Ready,
        }
    }

    pub(super) fn status(&self) -> GitStatus {
        GitStatus {
            state: self.state(),
            base: self.base.read().clone(),
            head: self.repo.head(),
            cut: *self.cut_at.lock(),
            size_bytes: self.repo.size_bytes(),
            staged: self.store.staged().names,
            failing: self.failing.lock().clone(),
        }
    }

    /// Gives the store the index files back that it lost. Blocks for seconds when there are many,
    /// and returns at once when there are none.
    pub(super) fn restore_index(&self) -> Result<(), Fault> {
        self.worker.lock().restore_index()
    }

    /// How often [`Pace::is_due`] should be asked.
    pub(super) fn tick(&self) -> Duration {
        self.options.tick()
    }

    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.options.clone())
    }

    /// Whether a cut should not wait: the last one failed, the repository may have the wrong
    /// `config.json` or was found damaged, or the store lost index files that the repository has.
    pub(super) fn is_urgent(&self) -> bool {
        let base = self.base.read();
        let is_new_base = base.is_some() && *base != *self.committed.read();
        is_new_base
            || self.repo.is_damaged()
            || self.failing.lock().is_some()
            || self.store.may_lack_index()
    }

    /// Whether the last run failed, which is tried again as a whole.
    fn has_failed(&self) -> bool {
        self.failing.lock().is_some()
    }

    pub(super) fn staged(&self) -> Staged {
        self.store.staged()
    }

    /// Whether there is no commit yet.
    fn is_at_the_beginning(&self) -> bool {
        self.repo.head().is_none()
    }

    /// Brings the repository to what the store has, as far as it may. Blocks for the disk.
    pub(super) fn run(
        &self,
        now: SystemTime,
        may: May,
        stop: &AtomicBool,
    ) -> Result<Cutting, Fault> {
        let base = self.base.read().clone();
        let outcome = {
            let mut worker = self.worker.lock();
            worker.may = may;
            worker.run(now, base.as_deref(), stop)
        };
        match &outcome {
            Ok(_) => {
                *self.committed.write() = base;
                *self.failing.lock() = None;
                let facts = self.repo.head().map(|head| self.repo.commit_facts(head.id));
                *self.cut_at.lock() = facts.and_then(Result::ok).map(|commit| commit.time);
            }
            Err(Fault::Stopped) => {}
            Err(fault) => {
                let text = with_sources(fault);
                let mut failing = self.failing.lock();
                if failing.as_ref() == Some(&text) {
                    tracing::debug!(error = text, "the git index still cannot follow");
                } else {
                    tracing::error!(
                        error = text,
                        "could not bring the git index up to date; it is tried again (told once)"
                    );
                }
                *failing = Some(text);
            }
        }
        outcome
    }
}

pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// How much a run may commit: each also what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum May {
    /// Bring store and repository together, and mend `config.json`. What is staged waits for its
    /// time: the first look after a start would cut a burst in two.
    Look,
    /// Commit what is staged.
    Cut,
    /// Make the first commit of all; what comes shortly after it would be in two packs.
    Begin,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cutting {
    /// A commit was made.
    Cut(Head),
    /// There was nothing to commit.
    Nothing,
}

/// Why the git index could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the store failed")]
    Store(#[from] store::Error),
    #[error("the repository failed")]
    Git(#[from] git::Error),
    #[error("it was told to stop")]
    Stopped,
    #[error("`{CONFIG}` could not be written")]
    Config(#[from] serde_json::Error),
}

// --- when

/// When a generation is due: a pure rule over what is staged and the time.
#[derive(Debug)]
pub(super) struct Pace {
    options: Options,
    first: Option<Instant>,
    last: Option<Instant>,
    seen: u64,
    /// A cut at this number of changes found nothing: another one would find nothing either.
    settled: Option<u64>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Pace {
    pub(super) fn new(options: Options) -> Pace {
        Pace {
            options,
            first: None,
            last: None,
            seen: 0,
            settled: None,
            failures: 0,
            not_before: None,
        }
    }

    /// Takes in what is staged now, and tells whether to cut.
    pub(super) fn is_due(&mut self, staged: Staged, is_urgent: bool, now: Instant) -> bool {
        if self.not_before.is_some_and(|until| now < until) {
            return false;
        }
        if is_urgent {
            return true;
        }
        if staged.names == 0 || self.settled == Some(staged.changes) {
            self.first = None;
            return false;
        }
        let first = *self.first.get_or_insert(now);
        let last = match self.last {
            Some(last) if self.seen == staged.changes && last >= first => last,
            _ => now,
        };
        self.seen = staged.changes;
        self.last = Some(last);
        now.saturating_duration_since(last) >= self.options.quiet_for
            || now.saturating_duration_since(first) >= self.options.cut_within
    }

    /// Takes in how a cut ended that began with `changes`.
    pub(super) fn ended(&mut self, cut_anything: Option<bool>, changes: u64, now: Instant) {
        self.first = None;
        self.last = None;
        if let Some(cut) = cut_anything {
            self.failures = 0;
            self.not_before = None;
            self.settled = (!cut).then_some(changes);
        } else {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(6));
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + pause.min(LONGEST_PAUSE));
        }
    }
}

// --- what

#[derive(Debug)]
struct Worker {
    store: Store,
    repo: Repo,
    /// Whether store and repository are known to agree about the last generation.
    is_reconciled: bool,
    /// How much it may commit now.
    may: May,
    /// Whether the head is one that clients may be ahead of.
    is_being_made: Arc<AtomicBool>,
}

/// Whether the repository lacks commits that the store knows of: clients may have them.
fn is_behind(store: &Store, repo: &Repo) -> bool {
    // A store that cannot be read now is looked at by the first run.
    let last = store.last_generation().ok().flatten();
    last.is_some_and(|last| repo.commit_of(last.facts.number).is_none())
}

impl Worker {
    fn run(
        &mut self,
        now: SystemTime,
        base: Option<&str>,
        stop: &AtomicBool,
    ) -> Result<Cutting, Fault> {
        let outcome = self.reconcile_and_cut(now, base, stop);
        if let Err(Fault::Git(error)) = &outcome
            && error.is_damage()
            // While the store has no index, the repository is all that there is of it.
            && !self.store.index_was_lost()?
        {
            tracing::error!(
                %error,
                "the git index is damaged: it is set aside as `….broken-<n>`, and made again"
            );
            self.begin_anew()?;
        }
        if outcome.is_ok() {
            self.is_being_made.store(false, Ordering::SeqCst);
        }
        outcome
    }

    /// Empties the repository, which is kept aside, so that the next run makes it again.
    fn begin_anew(&mut self) -> Result<(), Fault> {
        self.is_reconciled = false;
        self.is_being_made.store(true, Ordering::SeqCst);
        Ok(self.repo.set_aside()?)
    }

    fn reconcile_and_cut(
        &mut self,
        now: SystemTime,
        base: Option<&str>,
        stop: &AtomicBool,
    ) -> Result<Cutting, Fault> {
        // First of all: mending may end in a repository that is set aside.
        self.restore_index()?;
        if self.repo.is_gone() {
            tracing::error!("somebody removed the git index: it is made again");
            self.begin_anew()?;
        }
        self.repo.mend()?;
        if !self.is_reconciled {
            self.reconcile(stop)?;
            self.is_reconciled = true;
        }
        self.cut(now, base)
    }

    fn cut(&mut self, now: SystemTime, base: Option<&str>) -> Result<Cutting, Fault> {
        let head = self.repo.head();
        let config = self.new_config(head, base)?;
        let whole = head.is_none();
        if whole && self.may < May::Begin && self.store.last_generation()?.is_none() {
            return Ok(Cutting::Nothing);
        }
        if config.is_none() && self.may < May::Cut {
            return Ok(Cutting::Nothing);
        }
        if config.is_none() && self.store.staged().names == 0 {
            return Ok(Cutting::Nothing);
        }
        let mut cut = self.store.cut(whole)?;
        let mut story = Story::default();
        let survey = cut.survey(&mut |name, older, newer| story.tell(name, older, newer))?;
        if survey.is_empty() && config.is_none() {
            if !whole {
                cut.settle()?;
            }
            return Ok(Cutting::Nothing);
        }
        let commit = Commit {
            generation: cut.number(),
            time: whole_seconds(now),
            message: story.message(survey, config.is_some().then_some(base).flatten()),
        };
        self.is_reconciled = false;
        let head = self.commit(&commit, &mut cut, config.clone())?;
        cut.publish(GenerationFacts {
            number: commit.generation,
            time: commit.time,
            commit: id_of(head.1),
            parent: head.0.map(id_of),
            message: commit.message,
            config,
        })?;
        self.is_reconciled = true;
        tracing::info!(
            generation = commit.generation,
            new = survey.new,
            updated = survey.updated,
            removed = survey.removed,
            "published generation {} of the index: {}",
            commit.generation,
            summary(survey)
        );
        Ok(Cutting::Cut(Head {
            id: head.1,
            generation: commit.generation,
        }))
    }

    /// The parent and the new commit.
    fn commit(
        &self,
        commit: &Commit,
        cut: &mut Cut,
        config: Option<Bytes>,
    ) -> Result<(Option<ObjectId>, ObjectId), Fault> {
        let parent = self.repo.head().map(|head| head.id);
        let files = cut.map(|file| change_of(&file.name, file.bytes));
        let head = self.repo.commit(
            commit,
            &mut config.map(config_change).into_iter().chain(files),
        )?;
        cut.check()?;
        Ok((parent, head.id))
    }

    /// `config.json`, if the repository has another one than it should.
    fn new_config(&self, head: Option<Head>, base: Option<&str>) -> Result<Option<Bytes>, Fault> {
        let Some(base) = base else {
            return Ok(None);
        };
        let config = Bytes::from(serde_json::to_vec(&RegistryConfig::of_mirror(base))?);
        let committed = match head {
            Some(head) => self.repo.file(head.id, CONFIG)?,
            None => None,
        };
        Ok((committed.as_ref() != Some(&config)).then_some(config))
    }

    // --- bringing both together

    fn restore_index(&mut self) -> Result<(), Fault> {
        if !self.store.index_was_lost()? {
            return Ok(());
        }
        if let Some(head) = self.repo.head() {
            let salvaged = self.salvage(head)?;
            tracing::warn!(
                generation = head.generation,
                files = salvaged.taken,
                "the index files that the index database lost were taken from the git index"
            );
            if salvaged.unreadable > 0 || salvaged.folders > 0 {
                tracing::error!(
                    files = salvaged.unreadable,
                    folders = salvaged.folders,
                    names = salvaged.names.join(", "),
                    "the git index is damaged as well: these files of it could not be read, and \
                     are asked for upstream when they are next needed"
                );
            }
        }
        self.store.index_is_back()?;
        Ok(())
    }

    /// Gives the store all files of a commit that can be read.
    fn salvage(&self, head: Head) -> Result<Salvaged, Fault> {
        // Long ago: upstream is asked again.
        let time = self.repo.commit_facts(head.id);
        let time = time.map_or(UNIX_EPOCH, |commit| commit.time);
        let (mut salvaged, mut files) = (Salvaged::default(), Vec::new());
        let mut outcome = Ok(());
        let folders = self.repo.readable_files(head.id, &mut |file| {
            let Ok(name) = parse_index_path(&file.path) else {
                return ControlFlow::Continue(());
            };
            match self.repo.blob(file.id) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) if error.is_damage() => salvaged.miss(&name),
                Err(error) => outcome = Err(error.into()),
            }
            if files.len() >= FILES_AT_A_TIME && outcome.is_ok() {
                salvaged.taken += files.len();
                let taken = self.store.restore(std::mem::take(&mut files), time);
                outcome = taken.map_err(Fault::from);
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        salvaged.folders = folders?;
        outcome?;
        salvaged.taken += files.len();
        self.store.restore(files, time)?;
        Ok(salvaged)
    }

    fn reconcile(&mut self, stop: &AtomicBool) -> Result<(), Fault> {
        let last = self.store.last_generation()?.map(|last| last.facts);
        match (last, self.repo.head()) {
            (None, None) => Ok(()),
            (Some(last), Some(head)) if is_same(&last, head) => Ok(()),
            // A stop between commit and record, or an older store that was put back.
            (Some(last), Some(head)) if self.has(&last) => self.adopt(&last, head),
            // An older repository that was put back.
            (Some(last), Some(head)) if self.is_recorded(head)? => {
                tracing::warn!(
                    from = head.generation,
                    to = last.number,
                    "the git index is behind: its newer commits are made again"
                );
                self.replay(Some(head.generation.saturating_add(1)), stop)
            }
            (Some(last), None) => {
                tracing::warn!(
                    generation = last.number,
                    "the git index is gone: it is made again"
                );
                self.replay(None, stop)
            }
            (None, Some(head)) => self.accept(head, false),
            (Some(last), Some(head)) if head.generation >= last.number => {
                tracing::warn!("the git index is not ours: the next commit makes it so");
                self.accept(head, true)
            }
            // Its numbers are taken by other generations of ours.
            (Some(_), Some(_)) => {
                tracing::warn!("the git index is not ours: it is made again");
                self.begin_anew()?;
                self.replay(None, stop)
            }
        }
    }

    fn has(&self, last: &GenerationFacts) -> bool {
        self.repo.commit_of(last.number).map(id_of) == Some(last.commit)
    }

    fn is_recorded(&self, head: Head) -> Result<bool, Fault> {
        let recorded = self.store.generation(head.generation)?;
        Ok(recorded.is_some_and(|recorded| is_same(&recorded.facts, head)))
    }

    /// Takes in the generations that the repository has and the store does not.
    fn adopt(&self, last: &GenerationFacts, head: Head) -> Result<(), Fault> {
        let catch_up = self.store.catch_up()?;
        let mut names = Names::default();
        self.store.staged_names(&mut |name| names.insert(&name))?;
        for number in last.number.saturating_add(1)..=head.generation {
            let Some(id) = self.repo.commit_of(number) else {
                continue;
            };
            let parent = self.repo.commit_of(number.saturating_sub(1));
            let mut facts = self.facts_of(id, parent)?;
            let mut patches = catch_up.patches(number);
            for (name, newer) in self.changes(parent, id, &mut facts.config)? {
                let older = match parent {
                    Some(parent) => self.repo.file(parent, &name.index_path())?,
                    None => None,
                };
                let newer = newer.map(|newer| self.repo.blob(newer)).transpose()?;
                patches.add(&name, older.as_deref(), newer.as_deref())?;
                names.insert(&name);
            }
            catch_up.record(facts, Some(patches))?;
        }
        let theirs = self.blobs_of(head, &|name| names.has(name))?;
        self.stage_differences(&catch_up, theirs, &|name| names.has(name))?;
        catch_up.finish()?;
        tracing::info!(
            generation = head.generation,
            "took in what the git index had and the store had not"
        );
        Ok(())
    }

    /// The names that changed from one commit to the next, in order, with their new blobs. `config`
    /// gets the new `config.json`.
    fn changes(
        &self,
        old: Option<ObjectId>,
        new: ObjectId,
        config: &mut Option<Bytes>,
    ) -> Result<Vec<(CrateName, Option<ObjectId>)>, Fault> {
        let mut changes = Vec::new();
        for (path, id) in self.repo.diff(old, new)? {
            if path == CONFIG {
                *config = id.map(|id| self.repo.blob(id)).transpose()?;
            } else if let Ok(name) = parse_index_path(&path) {
                changes.push((name, id));
            }
        }
        changes.sort_by(|a, b| a.0.key().cmp(b.0.key()));
        Ok(changes)
    }

    /// Takes the head for the last generation, whatever it is, and stages all that differs.
    /// `foreign`: what the store does not have goes; else the store gets it.
    fn accept(&self, head: Head, foreign: bool) -> Result<(), Fault> {
        let catch_up = self.store.catch_up()?;
        let parent = self.repo.commit_of(head.generation.saturating_sub(1));
        let mut facts = self.facts_of(head.id, parent)?;
        let mut patches = None;
        if parent.is_none() && !foreign {
            // A stop between the first commit and its record: it can be made again like any.
            let mut all = catch_up.patches(head.generation);
            for (name, newer) in self.changes(None, head.id, &mut facts.config)? {
                let newer = newer.map(|newer| self.repo.blob(newer)).transpose()?;
                all.add(&name, None, newer.as_deref())?;
            }
            patches = Some(all);
        }
        catch_up.record(facts, patches)?;
        let theirs = self.blobs_of(head, &|_all| true)?;
        let rest = self.stage_differences(&catch_up, theirs, &|_all| true)?;
        if !rest.blobs.is_empty() {
            self.take_rest(&catch_up, head, &rest, foreign)?;
        }
        catch_up.finish()?;
        Ok(())
    }

    /// Stages the names that the store has another file of than `theirs`. Returns what is left of
    /// them: those that the store does not have.
    fn stage_differences(
        &self,
        catch_up: &CatchUp,
        mut theirs: Blobs,
        is_meant: &dyn Fn(&CrateName) -> bool,
    ) -> Result<Blobs, Fault> {
        let mut staging = Staging::new(self, catch_up);
        let mut outcome = Ok(());
        self.store.names(|facts| {
            if !facts.has_snapshot || !is_meant(&facts.name) {
                return ControlFlow::Continue(());
            }
            let snapshot = match self.store.snapshot(&facts.name) {
                Ok(Some(snapshot)) => snapshot,
                // A damaged record: it is as if the store did not have it.
                Ok(None) => return ControlFlow::Continue(()),
                Err(error) => {
                    outcome = Err(error.into());
                    return ControlFlow::Break(());
                }
            };
            let their = theirs.take(&facts.name);
            if their.is_none() || their != blob_id(&snapshot.bytes).ok() {
                outcome = staging.push(facts.name, their);
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome?;
        staging.end()?;
        Ok(theirs)
    }

    /// What the repository has and the store has not: it goes with the next generation
    /// (`foreign`), or the store gets it.
    fn take_rest(
        &self,
        catch_up: &CatchUp,
        head: Head,
        rest: &Blobs,
        foreign: bool,
    ) -> Result<(), Fault> {
        let time = self.repo.commit_facts(head.id)?.time;
        let mut staging = Staging::new(self, catch_up);
        let mut files = Vec::new();
        self.each_name(head, &mut |name, id| {
            if !rest.has(&name) {
                return Ok(());
            }
            if foreign {
                return staging.push(name, Some(id));
            }
            files.push((name, self.repo.blob(id)?));
            if files.len() >= FILES_AT_A_TIME {
                self.store.restore(std::mem::take(&mut files), time)?;
            }
            Ok(())
        })?;
        self.store.restore(files, time)?;
        staging.end()
    }

    /// Makes the commits from a generation on again (`None`: from the first). Where that cannot be
    /// done as it was, the repository is emptied, and the next cut makes a new root.
    fn replay(&self, first: Option<u64>, stop: &AtomicBool) -> Result<(), Fault> {
        if self.replay_all(first, stop)? {
            return Ok(());
        }
        tracing::warn!(
            "the history of the git index cannot be made again: it starts anew, and git clients \
             fetch all of it once"
        );
        if first.is_some() {
            self.repo.set_aside()?;
        } else {
            self.repo.reset()?;
        }
        Ok(())
    }

    fn replay_all(&self, first: Option<u64>, stop: &AtomicBool) -> Result<bool, Fault> {
        self.is_being_made.store(true, Ordering::SeqCst);
        let Some(mut history) = self.store.history(first)? else {
            return Ok(false);
        };
        for place in 0..history.count() {
            let Some(facts) = history.generation(place)? else {
                return Ok(false);
            };
            if stop.load(Ordering::Relaxed) {
                return Err(Fault::Stopped);
            }
            let commit = Commit {
                generation: facts.number,
                time: facts.time,
                message: facts.message,
            };
            let mut files = history.files(place);
            let changes = files.by_ref().map(|file| change_of(&file.name, file.bytes));
            let head = self.repo.commit(
                &commit,
                &mut facts.config.map(config_change).into_iter().chain(changes),
            )?;
            if !files.check()? || id_of(head.id) != facts.commit {
                tracing::error!(
                    generation = facts.number,
                    "generation {} of the git index came out as another commit",
                    facts.number
                );
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The blobs of the names in the tree of a commit that are meant.
    fn blobs_of(&self, head: Head, is_meant: &dyn Fn(&CrateName) -> bool) -> Result<Blobs, Fault> {
        let mut blobs = Blobs::default();
        self.each_name(head, &mut |name, id| {
            if is_meant(&name) {
                blobs.insert(&name, id);
            }
            Ok(())
        })?;
        Ok(blobs)
    }

    /// Hands each name in the tree of a commit to `take`, with its blob, until it fails.
    fn each_name(
        &self,
        head: Head,
        take: &mut dyn FnMut(CrateName, ObjectId) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut outcome = Ok(());
        self.repo.files(head.id, &mut |file| {
            if let Ok(name) = parse_index_path(&file.path) {
                outcome = take(name, file.id);
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome
    }

    fn facts_of(&self, id: ObjectId, parent: Option<ObjectId>) -> Result<GenerationFacts, Fault> {
        let commit = self.repo.commit_facts(id)?;
        Ok(GenerationFacts {
            number: commit.generation,
            time: commit.time,
            commit: id_of(id),
            parent: parent.map(id_of),
            message: commit.message,
            config: None,
        })
    }
}

/// What a store that lost its index got back.
#[derive(Debug, Default)]
struct Salvaged {
    taken: usize,
    unreadable: u64,
    /// The first of those that could not be read.
    names: Vec<String>,
    /// Folders that could not be read: which names they had is not known.
    folders: u64,
}

impl Salvaged {
    fn miss(&mut self, name: &CrateName) {
        self.unreadable += 1;
        if self.names.len() < MAX_TOLD {
            self.names.push(name.to_string());
        }
    }
}

/// Names, by eight bytes of each: a whole index has hundreds of thousands. Two that are alike are
/// met once in a billion registries, and cost a look at a file that did not change.
#[derive(Debug, Default)]
struct Names {
    hashes: HashSet<u64>,
    by: RandomState,
}

impl Names {
    fn insert(&mut self, name: &CrateName) {
        let hash = self.by.hash_one(name.key());
        self.hashes.insert(hash);
    }

    fn has(&self, name: &CrateName) -> bool {
        self.hashes.contains(&self.by.hash_one(name.key()))
    }
}

/// The blobs of names, by sixteen bytes of each name, which no two names share.
#[derive(Debug, Default)]
struct Blobs {
    blobs: HashMap<[u64; 2], CommitId>,
    by: (RandomState, RandomState),
}

impl Blobs {
    fn key(&self, name: &CrateName) -> [u64; 2] {
        let name = name.key();
        [self.by.0.hash_one(name), self.by.1.hash_one(name)]
    }

    fn insert(&mut self, name: &CrateName, blob: ObjectId) {
        let key = self.key(name);
        self.blobs.insert(key, id_of(blob));
    }

    fn take(&mut self, name: &CrateName) -> Option<ObjectId> {
        let key = self.key(name);
        self.blobs.remove(&key).map(ObjectId::from)
    }

    fn has(&self, name: &CrateName) -> bool {
        self.blobs.contains_key(&self.key(name))
    }
}

/// Names on their way to be staged, some at a time.
struct Staging<'a> {
    worker: &'a Worker,
    catch_up: &'a CatchUp,
    files: Vec<(CrateName, Option<Bytes>)>,
}

impl<'a> Staging<'a> {
    fn new(worker: &'a Worker, catch_up: &'a CatchUp) -> Staging<'a> {
        Staging {
            worker,
            catch_up,
            files: Vec::new(),
        }
    }

    /// A name and the file that the repository has of it.
    fn push(&mut self, name: CrateName, blob: Option<ObjectId>) -> Result<(), Fault> {
        let bytes = blob.map(|id| self.worker.repo.blob(id)).transpose()?;
        self.files.push((name, bytes));
        if self.files.len() >= FILES_AT_A_TIME {
            self.catch_up.stage(std::mem::take(&mut self.files))?;
        }
        Ok(())
    }

    fn end(self) -> Result<(), Fault> {
        Ok(self.catch_up.stage(self.files)?)
    }
}

fn is_same(facts: &GenerationFacts, head: Head) -> bool {
    facts.number == head.generation && facts.commit == id_of(head.id)
}

fn id_of(id: ObjectId) -> CommitId {
    id.as_slice().try_into().unwrap_or_default()
}

fn change_of(name: &CrateName, bytes: Option<Bytes>) -> FileChange {
    FileChange {
        path: name.index_path(),
        bytes,
    }
}

pub(super) fn config_change(bytes: Bytes) -> FileChange {
    FileChange {
        path: CONFIG.to_owned(),
        bytes: Some(bytes),
    }
}

pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

// --- the message

/// What changed, for people.
#[derive(Debug, Default)]
pub(super) struct Story {
    lines: Vec<String>,
}

impl Story {
    /// `false`: enough is told.
    pub(super) fn tell(
        &mut self,
        name: &CrateName,
        older: Option<&Bytes>,
        newer: Option<&Bytes>,
    ) -> bool {
        self.lines.push(line(name, older, newer));
        self.lines.len() < MAX_LINES
    }

    pub(super) fn message(mut self, survey: Survey, base: Option<&str>) -> String {
        let names = survey.new + survey.updated + survey.removed;
        let subject = summary(survey);
        let told = self.lines.len() as u64;
        if names > told {
            self.lines.push(format!("and {} more", names - told));
        }
        if let Some(base) = base {
            self.lines.insert(0, format!("{CONFIG}: {base}"));
        }
        // `commit` puts the blank line after the first.
        self.lines.insert(0, subject);
        self.lines.join("\n")
    }
}

/// What changed, in a phrase.
pub(super) fn summary(survey: Survey) -> String {
    let names = survey.new + survey.updated + survey.removed;
    if names == 0 {
        return format!("`{CONFIG}` changed");
    }
    let counts = [
        (survey.new, "new"),
        (survey.updated, "updated"),
        (survey.removed, "removed"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _what)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let crates = if names == 1 { "crate" } else { "crates" };
    format!("{names} {crates}: {}", counts.join(", "))
}

fn line(name: &CrateName, older: Option<&Bytes>, newer: Option<&Bytes>) -> String {
    let parse = |bytes: &Bytes| IndexFile::parse(name, bytes.clone()).ok();
    let (old, new) = (older.and_then(parse), newer.and_then(parse));
    let spelled = new
        .as_ref()
        .and_then(|file| file.rows().last().map(|row| row.name.clone()))
        .unwrap_or_else(|| name.clone());
    match (old, new) {
        (_, None) if newer.is_none() => format!("{spelled}: removed"),
        (None, Some(new)) if older.is_none() => match new.rows().len() {
            1 => format!("{spelled}: new, 1 version"),
            versions => format!("{spelled}: new, {versions} versions"),
        },
        (Some(old), Some(new)) => format!("{spelled}: {}", differences(&old, &new)),
        _ => format!("{spelled}: changed"),
    }
}

fn differences(old: &IndexFile, new: &IndexFile) -> String {
    let olds: HashMap<_, _> = old.rows().iter().map(|row| (&row.version, row)).collect();
    let news: HashMap<_, _> = new.rows().iter().map(|row| (&row.version, row)).collect();
    let mut told = Vec::new();
    for row in new.rows() {
        let what = match olds.get(&row.version) {
            None => "published",
            Some(old) if old.checksum != row.checksum => "another checksum of",
            Some(old) if !old.yanked && row.yanked => "yanked",
            Some(old) if old.yanked && !row.yanked => "unyanked",
            Some(_) => continue,
        };
        told.push(format!("{what} {}", row.version));
    }
    let gone = old
        .rows()
        .iter()
        .filter(|row| !news.contains_key(&row.version));
    told.extend(gone.map(|row| format!("removed {}", row.version)));
    if told.is_empty() {
        return "changed".to_owned();
    }
    let more = told.len().saturating_sub(MAX_VERSIONS);
    told.truncate(MAX_VERSIONS);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join(", ")
}

/// The loop: cuts when it is due, until the end. The first commit of all waits while `is_filling`:
/// it becomes the large pack that everybody clones, and all that is to be in it is there.
pub(super) async fn keep_cutting(
    generations: Arc<Generations>,
    clock: super::Clock,
    metrics: Arc<crate::metrics::Metrics>,
    is_filling: impl Fn() -> bool,
    stop: Arc<AtomicBool>,
) {
    let mut pace = generations.pace();
    let mut beginning = generations.pace();
    let mut is_first = true;
    loop {
        let staged = generations.staged();
        let (is_urgent, now) = (is_first || generations.is_urgent(), Instant::now());
        let may_begin = generations.is_at_the_beginning()
            // The start counts like a change: an index without a name has its `config.json`.
            && beginning.is_due(Staged { names: staged.names.max(1), ..staged }, false, now)
            && !is_filling();
        let may_cut = generations.has_failed() || pace.is_due(staged, false, now);
        let may = match (may_begin, may_cut) {
            (true, _) => May::Begin,
            (false, true) => May::Cut,
            (false, false) => May::Look,
        };
        if pace.is_due(staged, is_urgent || may > May::Look, now) {
            is_first = false;
            let outcome = cut_once(&generations, clock, &metrics, may, &stop).await;
            let cut = outcome.map(|cutting| matches!(cutting, Cutting::Cut(_)));
            if may_begin {
                beginning.ended(cut, staged.changes, Instant::now());
            } else {
                // Perhaps there is a base now.
                beginning.settled = None;
            }
            // A look that found nothing to mend says nothing about what is staged.
            if may > May::Look || cut != Some(false) {
                pace.ended(cut, staged.changes, Instant::now());
            }
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(generations.tick()).await;
    }
}

/// Cuts now, on a blocking thread. `None`: it failed.
pub(super) async fn cut_once(
    generations: &Arc<Generations>,
    clock: super::Clock,
    metrics: &crate::metrics::Metrics,
    may: May,
    stop: &Arc<AtomicBool>,
) -> Option<Cutting> {
    let (work, stop) = (Arc::clone(generations), Arc::clone(stop));
    let start = Instant::now();
    let outcome = tokio::task::spawn_blocking(move || work.run(clock.now(), may, &stop)).await;
    match outcome {
        Ok(Ok(cutting)) => {
            if matches!(cutting, Cutting::Cut(_)) {
                metrics.generation(start.elapsed());
            }
            Some(cutting)
        }
        Ok(Err(Fault::Stopped)) => None,
        Ok(Err(_told)) => {
            metrics.generation_failure();
            None
        }
        Err(error) => {
            if error.is_panic() {
                tracing::error!("cutting a generation panicked; it is tried again");
            }
            metrics.generation_failure();
            None
        }
    }
}

#[cfg(test)]
mod tests;
