//! Crate files: read from the store, or fetched by one leader while every client follows behind.
//!
//! The leader writes what upstream sends into a spool file and says how far clients may read (the
//! *release mark*). They read the spool by themselves: a slow client neither slows the leader nor
//! holds memory, one that hangs up is not missed.
//!
//! **What a client may see before the verdict.** A sha256 is known to be right only at the last
//! byte. A body of up to [`VERIFIED_FIRST_BYTES`] is verified and stored before its first byte is
//! shown, so that a lie of upstream is a clean error with a status. Of a larger one the last
//! [`HELD_BACK_BYTES`] stay back until it is verified and stored; when it is not, the transfer is
//! broken off, which no client takes for a whole file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Inner, Mirror, error::Error, index::Asked, pace::Pace};
use crate::{
    metrics::{CacheResult, Kind},
    policy::{View, freshness::Decision},
    registry::{Checksum, Release, checksum::Hasher},
    store::{BlobReader, LogEntry, LogKind, ReleaseFacts, Reservation, SpoolReader},
    upstream::{
        self, Download,
        retry::{Budget, Policy, Retry},
    },
    util::{
        single_flight::{Leader, Role},
        task,
    },
};

/// Up to this size a body is verified before a byte of it is shown. Nine in ten crates are
/// smaller, and at 10 Mbit/s one of this size costs its first client a fifth of a second.
const VERIFIED_FIRST_BYTES: u64 = 256 * 1024;

/// How much of a larger body is held back until the verdict: more than any buffer between us and
/// a client, so that a transfer cannot look whole by accident.
const HELD_BACK_BYTES: u64 = 64 * 1024;

/// How much a follower reads from the spool at a time.
const FOLLOWER_READ_BYTES: usize = 64 * 1024;

/// How much of a stored file is read at a time to hash it.
const HASHED_AT_ONCE_BYTES: usize = 1024 * 1024;

/// How long an open file is used without looking at its name again. Opening and closing cost an
/// eighth of a small answer from a file; a second is soon enough to notice that a file is gone.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// A crate file that may be served, and where it came from.
#[derive(Debug)]
pub struct CrateAnswer {
    /// The file.
    pub file: CrateFile,
    /// Whether upstream sends it for this very answer, not for another that it waits with.
    pub is_fetched: bool,
    /// Where it came from.
    pub result: CacheResult,
}

impl CrateAnswer {
    fn stored(blob: BlobReader) -> CrateAnswer {
        CrateAnswer {
            file: CrateFile::Held(blob),
            is_fetched: false,
            result: CacheResult::Hit,
        }
    }
}

/// A crate file that may be served.
#[derive(Debug)]
pub enum CrateFile {
    /// It is in the store.
    Held(BlobReader),
    /// It is on its way, and the first bytes may be sent.
    Coming(Follower),
}

/// What the leader of a fetch tells those who wait.
#[derive(Debug, Clone, Default)]
pub(super) struct FetchProgress {
    /// The whole length, where upstream tells it.
    len: Option<u64>,
    /// How far clients may read.
    released: u64,
    /// What to read from; set before `released` grows.
    reader: Option<SpoolReader>,
    /// How it ended.
    end: Option<Result<BlobReader, Error>>,
}

impl FetchProgress {
    /// Lets clients read as far as they may when `written` bytes are there. Whether that is further
    /// than before.
    fn release(&mut self, written: u64) -> bool {
        let mark = release_mark(self.len, written);
        let further = mark > self.released;
        self.released = self.released.max(mark);
        further
    }

    fn may_be_answered(&self) -> bool {
        self.released > 0 || self.end.is_some()
    }
}

impl Mirror {
    /// The file of `release` in `view`. One that shows only what is cached asks no upstream.
    ///
    /// Cancel safe: a fetch runs on a task of its own, and what it gets is kept.
    ///
    /// # Errors
    /// [`Error::NotInView`] and [`Error::Damaged`] in a view that shows only what is cached;
    /// [`Error::UnknownCrate`] and [`Error::UnknownVersion`] where the index, asked again, does
    /// not have it; [`Error::NotHeld`] in mode `offline`; [`Error::Mismatch`] where upstream lied;
    /// [`Error::Upstream`] and the like where upstream is in trouble; [`Error::Store`].
    pub async fn crate_file(&self, view: &View, release: &Release) -> Result<CrateAnswer, Error> {
        let answer = self.crate_file_uncounted(view, release).await;
        let result = match &answer {
            Ok(answer) => answer.result,
            Err(error) => error.cache_result(),
        };
        self.inner.metrics.cache(Kind::Crate, result);
        answer
    }

    async fn crate_file_uncounted(
        &self,
        view: &View,
        release: &Release,
    ) -> Result<CrateAnswer, Error> {
        let inner = &self.inner;
        let listed = inner.listed(release)?;
        if let Some(blob) = inner.sound_blob(release, listed.as_ref()).await? {
            return Ok(CrateAnswer::stored(blob));
        }
        if view.is_cached_only() {
            return Err(inner.not_in_view(view, release, listed.as_ref()));
        }
        // A version that upstream took out of its index is served as long as its file is here.
        let facts = if let Some(facts) = listed.filter(|facts| !facts.removed) {
            facts
        } else {
            let facts = self.look_again(release).await?;
            if let Some(blob) = inner.sound_blob(release, Some(&facts)).await? {
                return Ok(CrateAnswer::stored(blob));
            }
            facts
        };
        if !inner.options.get().mode.asks() {
            return Err(Error::NotHeld {
                what: release.to_string(),
            });
        }
        match self.fetch(release, &facts).await {
            Err(lie @ Error::Mismatch { .. }) => self.fetch_anew(release, &facts, lie).await,
            fetched => fetched,
        }
    }

    /// Upstream's file is not what its index promised when that was last asked for: perhaps the
    /// version was published anew since, so the index is asked again, and believed if it changed.
    async fn fetch_anew(
        &self,
        release: &Release,
        known: &ReleaseFacts,
        lie: Error,
    ) -> Result<CrateAnswer, Error> {
        let asked = self
            .refresh(&release.name, self.inner.options.get().patience)
            .await;
        let listed = self.inner.listed(release)?;
        match (asked, listed) {
            (Ok(_), Some(listed)) if !listed.removed && listed.checksum != known.checksum => {
                self.fetch(release, &listed).await
            }
            _ => Err(lie),
        }
    }

    /// The index does not list `release`: perhaps it was published a moment ago, so the entry is
    /// asked for again, once, unless that was done within the negative time.
    async fn look_again(&self, release: &Release) -> Result<ReleaseFacts, Error> {
        let inner = &self.inner;
        if !inner.options.get().mode.asks() {
            return Err(Error::NotHeld {
                what: release.to_string(),
            });
        }
        if inner.was_absent(release) {
            return Err(Error::UnknownVersion {
                release: release.clone(),
            });
        }
        let known = inner.decide(&release.name, inner.held(&release.name)?.as_ref());
        if let Decision::Absent { .. } = known {
            return Err(Error::UnknownCrate {
                name: release.name.clone(),
            });
        }
        if let Asked::Absent = self
            .refresh(&release.name, inner.options.get().answer_within)
            .await?
        {
            return Err(Error::UnknownCrate {
                name: release.name.clone(),
            });
        }
        let listed = inner.listed(release)?.filter(|facts| !facts.removed);
        listed.ok_or_else(|| {
            // A source of all names is asked for all releases at once, and that has its own pause.
            if !inner.scope().is_whole() {
                inner
                    .absent_releases
                    .insert(release.clone(), inner.clock.now());
            }
            Error::UnknownVersion {
                release: release.clone(),
            }
        })
    }

    /// Joins the fetch of these bytes or begins it, and waits until the first may be sent.
    async fn fetch(&self, release: &Release, facts: &ReleaseFacts) -> Result<CrateAnswer, Error> {
        let (progress, is_fetched) = self.join_fetch(release, &facts.checksum, None)?;
        let within = self.inner.options.get().answer_within;
        let file = first_bytes(release, &facts.checksum, progress, within).await?;
        Ok(CrateAnswer {
            file,
            is_fetched,
            result: CacheResult::Miss,
        })
    }
}

impl Mirror {
    /// Fetches a release to its end, if it is not stored.
    ///
    /// # Errors
    /// As [`crate_file`](Mirror::crate_file).
    pub async fn fetch_whole(&self, release: &Release) -> Result<BlobReader, Error> {
        match self.crate_file(&View::all(), release).await?.file {
            CrateFile::Held(blob) => Ok(blob),
            CrateFile::Coming(follower) => follower.end().await,
        }
    }

    /// Joins the fetch of these bytes or begins it, which the second tells. `pace`: what a job's
    /// fetch is slowed by.
    fn join_fetch(
        &self,
        release: &Release,
        checksum: &Checksum,
        pace: Option<&Arc<Pace>>,
    ) -> Result<(watch::Receiver<FetchProgress>, bool), Error> {
        match self.inner.fetches.join(checksum, FetchProgress::default) {
            Role::Follower(progress) => Ok((progress, false)),
            Role::Leader(leader, progress) => {
                let (inner, pace) = (Arc::clone(&self.inner), pace.cloned());
                let (release, checksum) = (release.clone(), *checksum);
                let led = self.inner.background.spawn(async move {
                    inner
                        .lead_fetch(&release, &checksum, leader, pace.as_deref())
                        .await;
                });
                drop(led);
                Ok((progress, true))
            }
            Role::Full => Err(Error::Busy {
                what: release.to_string(),
            }),
        }
    }

    /// Makes sure that the file of a release is held, for a job: by the same fetch that clients
    /// wait for, and without looking into a file that is here. Its length, if it came now.
    ///
    /// Cancel safe: a fetch that began goes on, and what it gets is kept.
    ///
    /// # Errors
    /// As [`crate_file`](Mirror::crate_file), but for what the index would have to be asked.
    pub async fn hold(
        &self,
        release: &Release,
        checksum: &Checksum,
        pace: &Arc<Pace>,
    ) -> Result<Option<u64>, Error> {
        let held = self.inner.store.blob(checksum).await;
        if held
            .map_err(|error| Error::store(release, error))?
            .is_some()
        {
            return Ok(None);
        }
        let (mut progress, _has_led) = self.join_fetch(release, checksum, Some(pace))?;
        let ended = |progress: &FetchProgress| progress.end.is_some();
        let end = match progress.wait_for(ended).await {
            Ok(progress) => progress.end.clone(),
            Err(_closed) => None,
        };
        match end {
            Some(end) => end.map(|blob| Some(blob.len())),
            None => Err(Error::Lost {
                what: release.to_string(),
            }),
        }
    }
}

async fn first_bytes(
    release: &Release,
    checksum: &Checksum,
    mut progress: watch::Receiver<FetchProgress>,
    patience: Duration,
) -> Result<CrateFile, Error> {
    let lost = || Error::Lost {
        what: release.to_string(),
    };
    match tokio::time::timeout(patience, progress.wait_for(FetchProgress::may_be_answered)).await {
        Ok(Ok(_there)) => {}
        Ok(Err(_closed)) => return Err(lost()),
        Err(_elapsed) => {
            return Err(Error::Slow {
                what: release.to_string(),
                waited: patience,
            });
        }
    }
    let state = progress.borrow().clone();
    match (state.end, state.reader) {
        (Some(Ok(blob)), _) => Ok(CrateFile::Held(blob)),
        (Some(Err(error)), _) => Err(error),
        (None, Some(reader)) => Ok(CrateFile::Coming(Follower {
            what: release.to_string(),
            checksum: *checksum,
            len: state.len,
            read: 0,
            reader,
            progress,
        })),
        (None, None) => Err(lost()),
    }
}

impl Inner {
    fn listed(&self, release: &Release) -> Result<Option<ReleaseFacts>, Error> {
        self.store
            .release(release)
            .map_err(|error| Error::store(release, error))
    }

    /// Why a view that shows only what is cached has no file of `release`.
    fn not_in_view(&self, view: &View, release: &Release, listed: Option<&ReleaseFacts>) -> Error {
        let release = release.clone();
        if listed.is_some_and(|facts| self.store.holds(&facts.checksum)) {
            return Error::Damaged { release };
        }
        Error::NotInView {
            release,
            view: view.name().to_owned(),
        }
    }

    /// The file of a release, if it is held and is still what it was when it was stored.
    ///
    /// Whatever happened to the disk meanwhile, a file is read and hashed once before it is served
    /// for the first time since the start; a damaged one counts as not held, and fetching it anew
    /// replaces it.
    async fn sound_blob(
        &self,
        release: &Release,
        facts: Option<&ReleaseFacts>,
    ) -> Result<Option<BlobReader>, Error> {
        let Some(checksum) = facts.map(|facts| facts.checksum) else {
            return Ok(None);
        };
        if let Some((blob, opened)) = self.open.get(&checksum)
            && opened.elapsed() < OPEN_FOR
        {
            return Ok(Some(blob));
        }
        let held = self
            .store
            .blob(&checksum)
            .await
            .map_err(|error| Error::store(release, error))?;
        let Some(blob) = held else {
            return Ok(None);
        };
        if self.sound.get(&checksum) == Some(blob.len()) {
            self.open.insert(checksum, (blob.clone(), Instant::now()));
            return Ok(Some(blob));
        }
        let read = blob.clone();
        let found = task::blocking(move || hash(&read))
            .await
            .map_err(|_aborted| Error::Lost {
                what: release.to_string(),
            })?;
        match found {
            Ok(found) if found == checksum => {
                self.sound.insert(checksum, blob.len());
                return Ok(Some(blob));
            }
            Ok(found) => {
                tracing::error!(%release, %checksum, %found, size_bytes = blob.len(), "the stored file of {release} is damaged; it is fetched again");
            }
            // What the disk cannot read is fetched again like what it reads wrongly.
            Err(error) => {
                tracing::error!(%release, %checksum, %error, "the stored file of {release} cannot be read; it is fetched again");
            }
        }
        self.metrics.damaged_blob();
        let (now, what) = (
            self.clock.now(),
            format!("the stored file of `{release}` is damaged and is fetched again"),
        );
        let entry = LogEntry::about(now, LogKind::Damage, release, what);
        self.store.note(entry);
        Ok(None)
    }

    /// Whether the index was asked for this release in vain within the negative time.
    fn was_absent(&self, release: &Release) -> bool {
        self.absent_releases.get(release).is_some_and(|asked| {
            let age = self.clock.now().duration_since(asked);
            age.is_ok_and(|age| age < self.options.get().freshness.negative_for)
        })
    }

    async fn lead_fetch(
        self: Arc<Self>,
        release: &Release,
        checksum: &Checksum,
        mut leader: Leader<Checksum, FetchProgress>,
        pace: Option<&Pace>,
    ) {
        let started = Instant::now();
        let end = self.fetch_now(release, checksum, &leader, pace).await;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if end.is_ok() {
            self.store.note_file(&release.name);
        }
        match &end {
            // A job tells of its own fetches, and of all that failed.
            Ok(blob) if pace.is_some() => {
                tracing::debug!(%release, size_bytes = blob.len(), duration_ms, "fetched {release}");
            }
            Ok(blob) => {
                tracing::info!(krate.name = %release.name, krate.version = %release.version, size_bytes = blob.len(), duration_ms, "fetched {release}");
                let what = format!("`{}` {} fetched", release.name, release.version);
                self.store.note(LogEntry {
                    bytes: blob.len(),
                    ..LogEntry::about(self.clock.now(), LogKind::Fetched, release, what)
                });
            }
            Err(error) if error.is_rest_of_upstream() => {
                leader.keep(self.options.get().remember_failure);
                tracing::debug!(%release, "did not ask for {release}");
            }
            Err(error) => {
                leader.keep(self.options.get().remember_failure);
                tracing::warn!(krate.name = %release.name, krate.version = %release.version, duration_ms, error = error as &dyn std::error::Error, "could not fetch {release}");
                let kind = match error {
                    Error::Mismatch { .. } => LogKind::Mismatch,
                    _ => LogKind::Failure,
                };
                let what = format!("`{release}` could not be fetched: {error}");
                let now = self.clock.now();
                self.store.note(LogEntry::about(now, kind, release, what));
            }
        }
        leader.end(|progress| {
            if let Ok(blob) = &end {
                progress.released = blob.len();
            }
            progress.end = Some(end);
        });
    }

    async fn fetch_now(
        &self,
        release: &Release,
        checksum: &Checksum,
        leader: &Leader<Checksum, FetchProgress>,
        pace: Option<&Pace>,
    ) -> Result<BlobReader, Error> {
        // Between a look into the store and joining another fetch may have come to its end.
        let stored = self.store.blob(checksum).await;
        let stored = stored.map_err(|error| Error::store(release, error))?;
        if let Some(blob) = stored
            && self.sound.get(checksum) == Some(blob.len())
        {
            return Ok(blob);
        }
        let spool = self.spool(release, checksum, leader, pace).await?;
        let (release_, now) = (release.clone(), self.clock.now());
        task::blocking(move || spool.commit(&release_, now))
            .await
            .map_err(|_aborted| Error::Lost {
                what: release.to_string(),
            })?
            .map_err(|error| Error::store(release, error))
            .inspect(|blob| self.sound.insert(*checksum, blob.len()))
    }

    /// Brings the whole body into a spool file, in as many attempts as the retry policy allows. A
    /// later attempt goes on where the last one broke off: the sha256 of the whole decides anyhow.
    async fn spool(
        &self,
        release: &Release,
        checksum: &Checksum,
        leader: &Leader<Checksum, FetchProgress>,
        pace: Option<&Pace>,
    ) -> Result<Reservation, Error> {
        let options = self.upstream.options();
        let budget = Budget::client(options);
        let mut retry = Retry::new(Policy::client(options), &budget);
        let mut coming = Coming {
            spool: None,
            budget: &budget,
            pace,
        };
        loop {
            let failure = match self.attempt(release, checksum, &mut coming, leader).await {
                Ok(()) => break,
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Upstream(error)) => error,
            };
            let Ok(pause) = retry.pause(&failure, fastrand::f64()) else {
                return Err(of_upstream(release, retry.give_up(failure)));
            };
            tracing::debug!(%release, ?pause, error = &failure as &dyn std::error::Error, "tries {release} again");
            tokio::time::sleep(pause).await;
        }
        coming.spool.ok_or_else(|| Error::Lost {
            what: release.to_string(),
        })
    }

    async fn attempt(
        &self,
        release: &Release,
        checksum: &Checksum,
        coming: &mut Coming<'_>,
        leader: &Leader<Checksum, FetchProgress>,
    ) -> Result<(), Attempt> {
        let from = coming.spool.as_ref().map_or(0, Reservation::written);
        let mut body = self.upstream.download(release, checksum, from).await?;
        let mut spool = match coming.spool.take() {
            Some(spool) => spool,
            None => self.reserve(release, checksum, body.len(), leader).await?,
        };
        let received = receive(&mut body, &mut spool, from, release, leader, coming).await;
        let verified = received.and_then(|()| {
            spool.verify().map_err(|mismatch| {
                body.mismatch();
                self.metrics.mismatch();
                Attempt::Final(Error::mismatch(release, mismatch))
            })
        });
        coming.spool = Some(spool);
        verified
    }

    /// Makes the spool file, and lets those who wait read from it.
    async fn reserve(
        &self,
        release: &Release,
        checksum: &Checksum,
        len: Option<u64>,
        leader: &Leader<Checksum, FetchProgress>,
    ) -> Result<Reservation, Attempt> {
        let (store, checksum) = (self.store.clone(), *checksum);
        let reserved = task::blocking(move || store.reserve(&checksum, len))
            .await
            .map_err(|_aborted| {
                Attempt::Final(Error::Lost {
                    what: release.to_string(),
                })
            })?
            .map_err(|error| Attempt::Final(Error::store(release, error)))?;
        leader.update(|progress| {
            progress.len = len;
            progress.reader = Some(reserved.reader());
            true
        });
        Ok(reserved)
    }
}

/// Takes a body into the spool, which has `from` bytes already, and lets readers follow.
async fn receive(
    body: &mut Download,
    spool: &mut Reservation,
    from: u64,
    release: &Release,
    leader: &Leader<Checksum, FetchProgress>,
    coming: &mut Coming<'_>,
) -> Result<(), Attempt> {
    // An upstream without ranges begins anew: what is there already is passed over.
    let mut pass_over = from.saturating_sub(body.start());
    while let Some(mut chunk) = body.next().await? {
        let known = usize::try_from(pass_over).map_or(chunk.len(), |skip| skip.min(chunk.len()));
        drop(chunk.split_to(known));
        pass_over = pass_over.saturating_sub(known as u64);
        // The page cache takes a chunk at once, but a disk in trouble may not.
        tokio::task::block_in_place(|| spool.write(&chunk))
            .map_err(|error| Attempt::Final(Error::store(release, error)))?;
        coming.budget.heard();
        leader.update(|progress| progress.release(spool.written()));
        if let Some(pace) = coming.pace {
            pace.passed(chunk.len() as u64, leader.has_one_follower())
                .await;
        }
    }
    Ok(())
}

/// A body over its attempts.
struct Coming<'a> {
    /// What there is of it; `None` until upstream answers for the first time.
    spool: Option<Reservation>,
    /// Each byte renews it: a long download that is cut is worth going on with.
    budget: &'a Budget,
    /// What slows it, where a job began it.
    pace: Option<&'a Pace>,
}

/// How an attempt at a body failed.
enum Attempt {
    /// Upstream's fault: the retry policy decides.
    Upstream(upstream::Error),
    /// Ours: another attempt would fail too.
    Final(Error),
}

impl From<upstream::Error> for Attempt {
    fn from(error: upstream::Error) -> Attempt {
        Attempt::Upstream(error)
    }
}

fn of_upstream(release: &Release, error: upstream::Error) -> Error {
    if error.is_not_found() {
        return Error::MissingUpstream {
            release: release.clone(),
        };
    }
    Error::upstream(release, error)
}

/// The checksum of a stored file as it is on the disk now.
fn hash(blob: &BlobReader) -> std::io::Result<Checksum> {
    let mut hasher = Hasher::default();
    let mut at = 0;
    while at < blob.len() {
        let left = usize::try_from(blob.len().saturating_sub(at));
        let piece = blob.read_range(
            at,
            left.map_or(HASHED_AT_ONCE_BYTES, |left| left.min(HASHED_AT_ONCE_BYTES)),
        )?;
        if piece.is_empty() {
            break;
        }
        hasher.update(&piece);
        at = at.saturating_add(piece.len() as u64);
    }
    Ok(hasher.finish())
}

/// How far clients may read when `written` bytes are in the spool.
fn release_mark(len: Option<u64>, written: u64) -> u64 {
    let small = len.is_some_and(|len| len <= VERIFIED_FIRST_BYTES);
    if small || written <= VERIFIED_FIRST_BYTES {
        return 0;
    }
    // A later attempt may send more than the first announced, and clients were told that length.
    len.map_or(written, |len| len.min(written))
        .saturating_sub(HELD_BACK_BYTES)
}

/// A body on its way. It ends well only when the whole was verified and stored.
#[derive(Debug)]
pub struct Follower {
    what: String,
    checksum: Checksum,
    len: Option<u64>,
    read: u64,
    reader: SpoolReader,
    progress: watch::Receiver<FetchProgress>,
}

impl Follower {
    /// What the whole will be, or the transfer ends with an error.
    pub fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    /// The whole length in bytes, where upstream tells it.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Whether there is nothing to send, which no crate file is.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// The next bytes, waiting for them where the leader has not come so far. `None`: that was
    /// all, it is verified, and it is in the store.
    ///
    /// # Errors
    /// Whatever ended the fetch. The transfer must then be broken off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let (released, end) = {
                let progress = self.progress.borrow_and_update();
                (progress.released, progress.end.clone())
            };
            match end {
                // A later attempt brought another length than this client was told.
                Some(Ok(blob)) if self.len.is_some_and(|len| len != blob.len()) => {
                    return Err(self.lost());
                }
                // Before a failure too: the head of an answer goes out with its first bytes, and a
                // connection that closes without a word tells a client nothing.
                _ if self.read < released => return self.read_on(released).await.map(Some),
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) => return Ok(None),
                None => self
                    .progress
                    .changed()
                    .await
                    .map_err(|_closed| self.lost())?,
            }
        }
    }

    /// Waits until the whole is verified and stored, for a client to whom an end that is none
    /// cannot be shown.
    ///
    /// # Errors
    /// Whatever ended the fetch.
    pub async fn end(mut self) -> Result<BlobReader, Error> {
        let ended = |progress: &FetchProgress| progress.end.is_some();
        let end = match self.progress.wait_for(ended).await {
            Ok(progress) => progress.end.clone(),
            Err(_closed) => None,
        };
        end.unwrap_or_else(|| Err(self.lost()))
    }

    async fn read_on(&mut self, released: u64) -> Result<Bytes, Error> {
        let (reader, from) = (self.reader.clone(), self.read);
        let wanted = usize::try_from(released.saturating_sub(from))
            .map_or(FOLLOWER_READ_BYTES, |left| left.min(FOLLOWER_READ_BYTES));
        // A client so slow that the bytes have left the page cache must not hold up a worker.
        let bytes = task::blocking(move || reader.read_range(from, wanted))
            .await
            .map_err(|_aborted| self.lost())?
            .map_err(|error| Error::unreadable(&self.what, error))?;
        if bytes.is_empty() {
            return Err(self.lost());
        }
        self.read = self.read.saturating_add(bytes.len() as u64);
        Ok(bytes)
    }

    fn lost(&self) -> Error {
        Error::Lost {
            what: self.what.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_body_is_verified_before_a_byte_is_shown() {
        assert_eq!(
            release_mark(Some(VERIFIED_FIRST_BYTES), VERIFIED_FIRST_BYTES),
            0
        );
        assert_eq!(release_mark(None, VERIFIED_FIRST_BYTES), 0);
    }

    /// Upstream cannot be reached.
    fn mirror(store: crate::store::Store, clock: crate::util::clock::Clock) -> Mirror {
        // Nobody listens at port 9: asking upstream fails.
        let dead = url::Url::parse("http://127.0.0.1:9/").expect("a URL");
        let upstream = upstream::Options::new(dead.into());
        let metrics = Arc::new(crate::metrics::Metrics::new().expect("series"));
        let upstream = upstream::Upstream::new(upstream, Arc::clone(&metrics)).expect("a client");
        Mirror::new(super::super::Parts {
            options: Arc::default(),
            store,
            source: Arc::new(super::super::SparseSource::new(upstream.clone())),
            upstream,
            views: super::super::Views::new(&super::super::views::Options::default()),
            metrics,
            clock,
            background: crate::util::background::Background::start().expect("threads start"),
        })
    }

    #[tokio::test]
    async fn a_leader_that_comes_late_takes_what_the_last_one_stored() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = crate::util::clock::Clock::start();
        let options = crate::store::Options::at(dir.path().join("data"));
        let (store, _) = crate::store::Store::open(options, clock.now()).expect("a store");
        let release = Release::parse("demo", "1.0.0").expect("a release");
        let checksum = Checksum::of(b"demo");
        let mut spool = store.reserve(&checksum, None).expect("room");
        spool.write(b"demo").expect("written");
        spool.commit(&release, clock.now()).expect("committed");
        let mirror = mirror(store, clock);
        mirror.inner.sound.insert(checksum, 4);
        let Role::Leader(leader, _) = mirror.inner.fetches.join(&checksum, FetchProgress::default)
        else {
            panic!("expected to lead");
        };
        let blob = mirror
            .inner
            .fetch_now(&release, &checksum, &leader, None)
            .await;
        assert_eq!(blob.expect("it is held").len(), 4);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_not_fetched_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = crate::util::clock::Clock::start();
        let options = crate::store::Options::at(dir.path().join("data"));
        let (store, _) = crate::store::Store::open(options, clock.now()).expect("a store");
        let (name, sum) = ("demo", Checksum::of(b"demo"));
        let line = format!(
            r#"{{"name":"{name}","vers":"1.0.0","deps":[],"cksum":"{sum}","features":{{}},"yanked":false}}"#
        );
        let release = Release::parse(name, "1.0.0").expect("a release");
        let file = crate::registry::IndexFile::parse(&release.name, line.into());
        let change = crate::store::Change::Index {
            name: release.name.clone(),
            file: file.expect("a good file"),
            validators: crate::store::Validators::default(),
            checked: clock.now(),
        };
        store.publish(vec![change], clock.now()).expect("published");
        let hex = sum.to_hex();
        let place = dir
            .path()
            .join(format!("data/blobs/{}/{hex}.raw", &hex[..2]));
        std::fs::create_dir_all(&place).expect("made");
        let mirror = mirror(store, clock);
        let answer = mirror.crate_file(&View::all(), &release).await;
        assert!(matches!(answer, Err(Error::Store { .. })), "{answer:?}");
        let Role::Leader(leader, _) = mirror.inner.fetches.join(&sum, FetchProgress::default)
        else {
            panic!("expected to lead");
        };
        let fetched = mirror.inner.fetch_now(&release, &sum, &leader, None).await;
        assert!(matches!(fetched, Err(Error::Store { .. })), "{fetched:?}");
        assert!(place.is_dir());
    }

    #[tokio::test]
    async fn a_client_that_was_told_another_length_gets_no_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = crate::store::Options::at(dir.path().join("data"));
        let (now, bytes) = (std::time::SystemTime::UNIX_EPOCH, [7; 1000]);
        let (store, _) = crate::store::Store::open(options, now).expect("a store");
        let checksum = Checksum::of(&bytes);
        let mut spool = store.reserve(&checksum, None).expect("room");
        spool.write(&bytes).expect("written");
        let reader = spool.reader();
        let release = Release::parse("demo", "1.0.0").expect("a release");
        let blob = spool.commit(&release, now).expect("committed");
        let (_leader, progress) = watch::channel(FetchProgress {
            len: Some(900),
            released: blob.len(),
            reader: Some(reader.clone()),
            end: Some(Ok(blob)),
        });
        let told = |len| Follower {
            what: release.to_string(),
            checksum,
            len: Some(len),
            read: 0,
            reader: reader.clone(),
            progress: progress.clone(),
        };
        let whole = told(1000).next().await.expect("readable");
        assert_eq!(whole.as_deref(), Some(bytes.as_slice()));
        assert!(told(900).next().await.is_err());
    }

    #[test]
    fn of_a_large_body_the_end_is_held_back() {
        let len = 4 * VERIFIED_FIRST_BYTES;
        assert_eq!(release_mark(Some(len), VERIFIED_FIRST_BYTES), 0);
        assert_eq!(release_mark(Some(len), len), len - HELD_BACK_BYTES);
        assert_eq!(release_mark(None, len), len - HELD_BACK_BYTES);
        assert_eq!(release_mark(Some(len), 2 * len), len - HELD_BACK_BYTES);
    }
}
