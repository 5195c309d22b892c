//! The index of an upstream that is followed by git: looked at every so often and when somebody asks for more, and published.
//!
//! With it the store has every name, and an index entry is as fresh as the last time that all of
//! the upstream's tree was known to be in the store: one question for the whole index in the
//! stead of one for each entry. A name that is not in the store is therefore not in the registry,
//! as of that time.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read},
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::{Buf as _, Bytes};
use futures_util::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch};

use super::followed::{self, IndexDifference, Unusable};
use crate::{
    git::{
        ObjectId,
        follow::{self as git, Exchange, Followed, Follower, Reply, Source},
    },
    metrics::{FollowOutcome, Metrics},
    mirror::{self, Error, IndexScope, IndexSource, Refreshed},
    registry::{CrateName, IndexFile, Validators},
    store::{Change, Event, EventKind, LogEntry, LogKind, Store},
    upstream::{self, GitAnswer, GitIndex, HostHealth, Upstream},
    util::{
        background::Background,
        clock::Clock,
        error::one_line,
        live::Live,
        single_flight::{Leader, Role, SingleFlight},
        task,
    },
};

/// How a git index is followed; where it is, the upstream's options say. `config::KEYS` says why a
/// default is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether one is followed.
    pub enabled: bool,
    /// The folder of the bare repository.
    pub dir: PathBuf,
    /// How often it is looked at, give or take a tenth.
    pub every: Duration,
    /// What an index file may have at most.
    pub max_file_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            enabled: false,
            dir: PathBuf::new(),
            every: Duration::from_secs(60),
            max_file_bytes: upstream::Options::default().max_index_bytes,
        }
    }
}

/// How the index is followed, for the status page.
#[derive(Debug, Clone)]
pub struct FollowStatus {
    /// The commit whose changes are all published. `None`: none is yet.
    pub commit: Option<String>,
    /// When the upstream last said that it is its newest one.
    pub followed_at: Option<SystemTime>,
    /// Names that changed since the start.
    pub changed: u64,
}

/// How soon the upstream is asked again because somebody wants a name that is not here. cargo asks
/// for spellings that do not exist at every update, and a release is not installed seconds after
/// it was committed but by a script, which tries again.
const ON_DEMAND_PAUSE: Duration = Duration::from_secs(3);

/// How many names are published at a time: enough that the syncs of a batch do not count, and few
/// enough that a batch is a few megabytes.
const BATCH_NAMES: usize = 1000;

/// How many bytes of index files are published at a time.
const BATCH_BYTES: usize = 4 << 20;

/// How often a wait looks whether the end has come.
const STOP_CHECK: Duration = Duration::from_millis(200);

/// After how many failures in a row that are not the upstream's the repository is made anew.
const DAMAGE_AFTER: u32 = 2;

type Round = Option<Result<(), Error>>;

/// What following works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// How the mirror behaves: the mode, and how long failures are remembered.
    pub mirror: Arc<Live<mirror::Options>>,
    /// What is published into.
    pub store: Store,
    /// The way to the registry.
    pub upstream: Upstream,
    /// The counters of this process.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
    /// What rounds run on.
    pub background: Background,
}

/// The upstream's git index as a source of index files. Cloning it is cheap, and all clones are one.
#[derive(Debug, Clone)]
pub struct FollowedIndex {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    parts: Parts,
    what: String,
    follower: Mutex<Follower>,
    state: Mutex<State>,
    rounds: SingleFlight<(), Round>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    commit: Option<ObjectId>,
    followed_at: Option<SystemTime>,
    /// When the last round that went well began, and ended.
    last: Option<(Instant, Instant)>,
    failed: Option<(Instant, String)>,
    /// Failures in a row that are not the upstream's.
    damaged: u32,
    changed: u64,
}

impl FollowedIndex {
    /// Opens the repository, and gives `upstream` the registry's configuration that is in it. Asks
    /// no server. `None`: the upstream is not one that is followed.
    ///
    /// # Errors
    /// Where the repository can be neither opened nor made.
    pub fn open(options: &Options, parts: Parts) -> io::Result<Option<FollowedIndex>> {
        let place = parts.upstream.options().git_index.clone();
        let Some(place) = place.filter(|_| options.enabled) else {
            return Ok(None);
        };
        let stop = parts.background.stop_flag();
        let source = match &place {
            GitIndex::Path(path) => Source::Path(path.clone()),
            GitIndex::Url(url) => Source::Http(Arc::new(Wire {
                url: url.to_string(),
                upstream: parts.upstream.clone(),
                base: Mutex::default(),
                stop: Arc::clone(&stop),
            })),
        };
        let follower = Follower::open(git::Options {
            dir: options.dir.clone(),
            source,
            most_file_bytes: options.max_file_bytes,
        })
        .map_err(io::Error::other)?;
        let published = follower.published();
        if let Some(published) = published {
            give_config(&follower, published.commit, &parts.upstream);
        }
        let state = State {
            commit: published.map(|published| published.commit),
            followed_at: published.map(|published| published.at),
            ..State::default()
        };
        let inner = Arc::new(Inner {
            options: options.clone(),
            parts,
            what: format!("the git index at `{place}`"),
            follower: Mutex::new(follower),
            state: Mutex::new(state),
            rounds: SingleFlight::new(1),
            stop,
        });
        Ok(Some(FollowedIndex { inner }))
    }

    /// Follows every so often until the end.
    pub fn start(&self) {
        // Weak: the runtime belongs to what this would keep alive.
        let inner = Arc::downgrade(&self.inner);
        let (stop, every) = (Arc::clone(&self.inner.stop), self.inner.options.every);
        let mirror = Arc::clone(&self.inner.parts.mirror);
        drop(self.inner.parts.background.spawn(async move {
            while !stop.load(Relaxed) {
                let Some(inner) = inner.upgrade() else { return };
                // Before the mode is read: a change in between is not slept over.
                let mut changed = std::pin::pin!(mirror.changed());
                changed.as_mut().enable();
                // A mode that is set while the program runs counts from the next turn on.
                if mirror.get().mode.asks() {
                    // What failed was logged by whoever led, and the next round is the remedy.
                    drop(FollowedIndex { inner }.round().await);
                } else {
                    drop(inner);
                }
                let jitter = 0.9 + fastrand::f64() / 5.0;
                tokio::select! {
                    () = tokio::time::sleep(every.mul_f64(jitter)) => {}
                    () = changed => {}
                }
            }
        }));
    }

    /// A handle that does not keep it alive, for what runs until the end.
    pub fn downgrade(&self) -> WeakFollowedIndex {
        WeakFollowedIndex(Arc::downgrade(&self.inner))
    }

    /// Whether a round is under way.
    pub fn is_under_way(&self) -> bool {
        self.inner.rounds.under_way() > 0
    }

    /// Whether the first round is still to come, or under way.
    pub fn is_filling(&self) -> bool {
        let (is_first, has_failed) = {
            let state = self.inner.state.lock();
            (state.followed_at.is_none(), state.failed.is_some())
        };
        is_first && (!has_failed || self.is_under_way())
    }

    /// What the status page shows.
    pub fn status(&self) -> FollowStatus {
        let state = self.inner.state.lock();
        FollowStatus {
            commit: state.commit.map(|id| id.to_string()),
            followed_at: state.followed_at,
            changed: state.changed,
        }
    }

    /// What following says of the upstream's host, over what its HTTP says, if there is any.
    pub fn report_health(&self, health: &mut HostHealth) {
        let state = self.inner.state.lock();
        health.last_success = state.last.map(|(_, end)| end.elapsed());
        let failed = state.failed.as_ref();
        health.last_failure = failed.map(|(then, why)| (then.elapsed(), why.clone()));
    }

    /// Makes sure that the store has what the upstream had when this was called, or some seconds
    /// before. One round for all who wait.
    async fn follow_recently(&self) -> Result<(), Error> {
        // A round that was under way may have asked before the question came: then one more.
        for _ in 0..2 {
            if self.inner.was_just_now() {
                return Ok(());
            }
            self.round().await?;
        }
        Ok(())
    }

    /// One round for all who want that now.
    async fn round(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let mut watch = match inner.rounds.join(&(), || None) {
            Role::Follower(watch) => watch,
            Role::Leader(leader, watch) => {
                let leading = Arc::clone(inner);
                let round = async move { leading.lead_round(leader).await };
                drop(inner.parts.background.spawn(round));
                watch
            }
            Role::Full => {
                return Err(Error::Busy {
                    what: inner.what.clone(),
                });
            }
        };
        outcome(&inner.what, &mut watch).await
    }

    async fn refresh_name(&self, name: &CrateName) -> Result<Refreshed, Error> {
        self.follow_recently().await?;
        if self.inner.is_stored(name)? {
            return Ok(Refreshed::Unchanged);
        }
        if self.is_under_way() {
            // It has the tree: waiting for it here takes no thread for blocking calls.
            drop(self.round().await);
        }
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        let restored = task::blocking(move || inner.restore(&name)).await;
        restored.unwrap_or_else(|_aborted| Err(self.inner.lost()))
    }
}

/// A [`FollowedIndex`] that does not keep it alive.
#[derive(Debug, Clone)]
pub struct WeakFollowedIndex(Weak<Inner>);

impl WeakFollowedIndex {
    /// The index, while the program has it.
    pub fn upgrade(&self) -> Option<FollowedIndex> {
        Some(FollowedIndex {
            inner: self.0.upgrade()?,
        })
    }
}

impl IndexSource for FollowedIndex {
    fn refresh<'a>(
        &'a self,
        name: &'a CrateName,
        _known: Option<&'a Validators>,
    ) -> BoxFuture<'a, Result<Refreshed, Error>> {
        self.refresh_name(name).boxed()
    }

    fn scope(&self) -> IndexScope {
        IndexScope::Whole {
            complete_at: self.inner.state.lock().followed_at,
        }
    }

    fn refresh_all(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.follow_recently().boxed()
    }
}

async fn outcome(what: &str, watch: &mut watch::Receiver<Round>) -> Result<(), Error> {
    let lost = || Error::Lost {
        what: what.to_owned(),
    };
    match watch.wait_for(Option::is_some).await {
        Ok(round) => round.clone().unwrap_or_else(|| Err(lost())),
        Err(_closed) => Err(lost()),
    }
}

impl Inner {
    fn lost(&self) -> Error {
        Error::Lost {
            what: self.what.clone(),
        }
    }

    /// Whether a round that went well began so recently that another would be a burden.
    fn was_just_now(&self) -> bool {
        let last = self.state.lock().last;
        last.is_some_and(|(began, _)| began.elapsed() < ON_DEMAND_PAUSE)
    }

    async fn lead_round(self: Arc<Self>, mut leader: Leader<(), Round>) {
        let inner = Arc::clone(&self);
        let round = task::blocking(move || inner.round()).await;
        let round = round.unwrap_or_else(|_aborted| Err(self.lost()));
        if let Err(error) = &round {
            leader.keep(self.parts.mirror.get().remember_failure);
            self.log_failure(error);
        }
        leader.end(|state| *state = Some(round));
    }

    fn log_failure(&self, error: &Error) {
        if self.stop.load(Relaxed) {
            return;
        }
        self.parts.metrics.followed(FollowOutcome::Failed, 0);
        // Its own words are those of the line.
        let cause = std::error::Error::source(error);
        let why = cause.map_or_else(|| error.to_string(), one_line);
        let before = self
            .state
            .lock()
            .failed
            .replace((Instant::now(), why.clone()));
        // One line for an outage, not one a minute.
        if before.is_none_or(|(_, before)| before != why) {
            tracing::warn!(error = %why, "could not follow {}", self.what);
        } else {
            tracing::debug!(error = %why, "could not follow {}", self.what);
        }
    }

    /// Fetches, publishes what changed, and notes that it did. Blocks.
    fn round(&self) -> Result<(), Error> {
        let (began, at) = (Instant::now(), self.parts.clock.now());
        let mut follower = self.follower.lock();
        let done = self.fetch_and_publish(&mut follower, at);
        let mut state = self.state.lock();
        match &done {
            Ok((commit, changed)) => {
                state.commit = Some(*commit);
                state.followed_at = Some(at);
                state.last = Some((began, Instant::now()));
                state.failed = None;
                state.damaged = 0;
                state.changed = state.changed.saturating_add(*changed);
                drop(state);
                self.log_success(*commit, *changed, began);
            }
            Err(Error::Follow { source, .. })
                if matches!(**source, crate::git::Error::Repository { .. }) =>
            {
                state.damaged = state.damaged.saturating_add(1);
                if state.damaged >= DAMAGE_AFTER && !self.stop.load(Relaxed) {
                    state.damaged = 0;
                    drop(state);
                    self.start_anew(&mut follower);
                }
            }
            Err(_) => {}
        }
        done.map(drop)
    }

    fn log_success(&self, commit: ObjectId, changed: u64, began: Instant) {
        if changed == 0 {
            self.parts.metrics.followed(FollowOutcome::Unchanged, 0);
            return;
        }
        self.parts.metrics.followed(FollowOutcome::Changed, changed);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(%commit, changed, duration_ms, "followed {}", self.what);
        let what = format!("{changed} names changed in {}", self.what);
        let now = self.parts.clock.now();
        self.parts
            .store
            .note(LogEntry::new(now, LogKind::Followed, what));
    }

    /// The upstream's commit whose tree the store now has, and how many names changed.
    fn fetch_and_publish(
        &self,
        follower: &mut Follower,
        at: SystemTime,
    ) -> Result<(ObjectId, u64), Error> {
        let failed = |error| Error::follow(&self.what, error);
        let full = |error| Error::store(&self.what, error);
        // What is fetched is a copy, and never takes the room of what cannot be fetched again.
        self.parts.store.check_room().map_err(full)?;
        // Looked at before: a store that is made anew meanwhile is another one in the next round.
        let taker = self.parts.store.born().map_err(full)?;
        let fetched = follower.fetch(&self.stop).map_err(failed)?;
        let known = follower.published().filter(|known| known.taker == taker);
        let old = fetched.old.filter(|_| known.is_some());
        let mut changed = 0;
        if old != Some(fetched.new) {
            changed = self.publish_changes(follower, old, fetched.new)?;
        }
        give_config(follower, fetched.new, &self.parts.upstream);
        follower
            .set_published(fetched.new, at, taker)
            .map_err(failed)?;
        Ok((fetched.new, changed))
    }

    /// Whether the store has the index file of a name.
    fn is_stored(&self, name: &CrateName) -> Result<bool, Error> {
        let stored = self.parts.store.entry(name);
        let stored = stored.map_err(|error| Error::store(&self.what, error))?;
        Ok(stored.is_some_and(|facts| facts.has_snapshot))
    }

    /// Gives the store the file of a name that it lacks, if the tree that was followed last has it: a
    /// record may be found damaged at any time. Under the lock of a round, so that no older file comes
    /// after a newer one. Blocks.
    fn restore(&self, name: &CrateName) -> Result<Refreshed, Error> {
        let follower = self.follower.lock();
        if self.is_stored(name)? {
            return Ok(Refreshed::Unchanged);
        }
        let Some(published) = follower.published() else {
            return Ok(Refreshed::NotFound);
        };
        let bytes = follower.file(
            published.commit,
            &name.index_path(),
            self.options.max_file_bytes,
        );
        let bytes = bytes.map_err(|error| Error::follow(&self.what, error))?;
        let file = bytes.and_then(|bytes| IndexFile::parse(name, bytes).ok());
        let Some(file) = file else {
            return Ok(Refreshed::NotFound);
        };
        let change = Change::Index {
            name: name.clone(),
            file,
            validators: Validators::default(),
            checked: published.at,
        };
        let published = self
            .parts
            .store
            .publish(vec![change], self.parts.clock.now());
        let events = published.map_err(|error| Error::store(&self.what, error))?;
        events.iter().for_each(tell_event);
        Ok(Refreshed::Unchanged)
    }

    fn publish_changes(
        &self,
        follower: &Follower,
        old: Option<ObjectId>,
        new: ObjectId,
    ) -> Result<u64, Error> {
        let mut batch = Batch {
            inner: self,
            changes: Vec::new(),
            bytes: 0,
            changed: 0,
            // What is not in a whole tree is gone; of a difference the tree says it.
            seen: old.is_none().then(Seen::default),
            unusable: Unusable::default(),
            outcome: Ok(()),
        };
        follower
            .changes(old, new, &mut |followed| batch.take(followed))
            .map_err(|error| Error::follow(&self.what, error))?;
        batch.send();
        std::mem::replace(&mut batch.outcome, Ok(()))?;
        batch.let_go_of_the_rest()?;
        let Unusable { count, first } = &batch.unusable;
        if *count > 0 {
            tracing::warn!(
                count,
                "passed over what is no index file in {}: {}",
                self.what,
                first.join("; ")
            );
        }
        Ok(batch.changed)
    }

    fn start_anew(&self, follower: &mut Follower) {
        tracing::error!("the copy of {} is damaged and is fetched anew", self.what);
        if let Err(error) = follower.reset() {
            tracing::error!(error = %one_line(&error), "could not make a new repository");
        }
    }
}

/// The names of a tree, by eight bytes of each: of 250,000 two are alike in one of a billion
/// registries, and then one that went is kept without a note that it did.
#[derive(Debug, Default)]
struct Seen {
    hashes: HashSet<u64>,
    by: RandomState,
}

impl Seen {
    fn insert(&mut self, name: &CrateName) {
        let hash = self.by.hash_one(name.key());
        self.hashes.insert(hash);
    }

    fn has(&self, name: &CrateName) -> bool {
        self.hashes.contains(&self.by.hash_one(name.key()))
    }
}

/// Changes on their way into the store, some at a time.
struct Batch<'a> {
    inner: &'a Inner,
    changes: Vec<Change>,
    bytes: usize,
    changed: u64,
    seen: Option<Seen>,
    unusable: Unusable,
    outcome: Result<(), Error>,
}

impl Batch<'_> {
    fn take(&mut self, followed: Followed<'_>) -> ControlFlow<()> {
        let change = self
            .unusable
            .read(followed)
            .and_then(|difference| match difference {
                IndexDifference::Changed { name, file } => {
                    if let Some(seen) = &mut self.seen {
                        seen.insert(&name);
                    }
                    let held = self.inner.parts.store.entry(&name).ok().flatten();
                    let is_known = held.is_some_and(|facts| {
                        facts.has_snapshot && !facts.gone && facts.describes(file.bytes())
                    });
                    (!is_known).then(|| Change::Index {
                        name,
                        file,
                        validators: Validators::default(),
                        checked: self.inner.parts.clock.now(),
                    })
                }
                IndexDifference::Gone { name } => self.gone(name),
            });
        if let Some(change) = change {
            self.push(change);
        }
        if self.inner.stop.load(Relaxed) && self.outcome.is_ok() {
            self.outcome = Err(Error::Lost {
                what: self.inner.what.clone(),
            });
        }
        match self.outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// A name that the store never had is not worth a word.
    fn gone(&self, name: CrateName) -> Option<Change> {
        let held = self.inner.parts.store.entry(&name).ok().flatten();
        held.filter(|facts| !facts.gone)?;
        Some(Change::Gone {
            name,
            checked: self.inner.parts.clock.now(),
        })
    }

    fn push(&mut self, change: Change) {
        if let Change::Index { file, .. } = &change {
            self.bytes = self.bytes.saturating_add(file.bytes().len());
        }
        self.changes.push(change);
        if self.changes.len() >= BATCH_NAMES || self.bytes >= BATCH_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        if self.outcome.is_err() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        let count = changes.len() as u64;
        self.bytes = 0;
        match self
            .inner
            .parts
            .store
            .publish(changes, self.inner.parts.clock.now())
        {
            Ok(events) => {
                self.changed = self.changed.saturating_add(count);
                events.iter().for_each(tell_event);
            }
            Err(error) => self.outcome = Err(Error::store(&self.inner.what, error)),
        }
    }

    /// Names that the store has and the whole tree has not: they went while nobody looked.
    fn let_go_of_the_rest(&mut self) -> Result<(), Error> {
        let Some(seen) = self.seen.take() else {
            return Ok(());
        };
        let mut rest = Vec::new();
        let looked = self.inner.parts.store.names(|facts| {
            if !facts.gone && facts.has_snapshot && !seen.has(&facts.name) {
                rest.push(facts.name);
            }
            ControlFlow::Continue(())
        });
        looked.map_err(|error| Error::store(&self.inner.what, error))?;
        for name in rest {
            if let Some(change) = self.gone(name) {
                self.push(change);
            }
        }
        self.send();
        std::mem::replace(&mut self.outcome, Ok(()))
    }
}

/// A registry has hundreds of releases an hour: only what should not happen is worth a line.
fn tell_event(event: &Event) {
    match event.kind {
        EventKind::ChecksumChanged { .. }
        | EventKind::VersionRemoved { .. }
        | EventKind::NameGone => tracing::info!("{event}"),
        EventKind::FirstSeen { .. }
        | EventKind::NewVersion { .. }
        | EventKind::Yanked { .. }
        | EventKind::Unyanked { .. }
        | EventKind::NameBack => tracing::debug!("{event}"),
    }
}

fn give_config(follower: &Follower, commit: ObjectId, upstream: &Upstream) {
    match followed::config(follower, commit) {
        Ok(config) => upstream.set_config(config),
        // Downloads say so where it matters, and an earlier one goes on to count.
        Err(error) => tracing::debug!(error = %one_line(&error), "no configuration in the tree"),
    }
}

/// Speaks HTTP for the git client, with the settings of the upstream.
#[derive(Debug)]
struct Wire {
    url: String,
    upstream: Upstream,
    /// Where the first answer of a fetch came from, after redirects.
    base: Mutex<Option<url::Url>>,
    stop: Arc<AtomicBool>,
}

impl Exchange for Wire {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn ask(
        &self,
        tail: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
    ) -> io::Result<Reply> {
        // A GET is the first request of a fetch.
        let base = self.base.lock().take().filter(|_| body.is_some());
        let asked = self.upstream.git(base.as_ref(), tail, headers, body);
        let answer = wait(&self.stop, asked)?.map_err(io::Error::other)?;
        *self.base.lock() = Some(answer.base().clone());
        Ok(Reply {
            content_type: answer.content_type().to_owned(),
            body: Box::new(Body {
                answer,
                left: Bytes::new(),
                stop: Arc::clone(&self.stop),
            }),
        })
    }
}

/// The body of an answer, for somebody who blocks.
struct Body {
    answer: GitAnswer,
    left: Bytes,
    stop: Arc<AtomicBool>,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match wait(&self.stop, self.answer.next())?.map_err(io::Error::other)? {
                Some(piece) => self.left = piece,
                None => return Ok(0),
            }
        }
        let count = self.left.len().min(buffer.len());
        let (Some(place), Some(bytes)) = (buffer.get_mut(..count), self.left.get(..count)) else {
            return Ok(0);
        };
        place.copy_from_slice(bytes);
        self.left.advance(count);
        Ok(count)
    }
}

/// Blocks for a future of this thread's runtime, or until the end has come.
fn wait<T>(stop: &AtomicBool, future: impl Future<Output = T>) -> io::Result<T> {
    let handle = Handle::try_current().map_err(io::Error::other)?;
    handle.block_on(async {
        let mut future = std::pin::pin!(future);
        loop {
            if let Ok(value) = tokio::time::timeout(STOP_CHECK, future.as_mut()).await {
                return Ok(value);
            }
            if stop.load(Relaxed) {
                return Err(io::Error::other("told to stop"));
            }
        }
    })
}
