//! Index files: from the store while fresh, asked for once for all who wait, stale when upstream is in trouble.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Inner, Mirror,
    error::Error,
    source::{IndexScope, IndexSource, Refreshed, what},
    views::lines_of,
};
use crate::{
    metrics::{CacheResult, Kind},
    policy::{
        freshness::{self, AfterFailure, Decision, Held},
        view::View,
    },
    registry::{Checksum, CrateName, IndexFile, Validators},
    store::{Change, EntryFacts, Snapshot},
    util::{
        single_flight::{Leader, Role},
        task,
    },
};

/// How long an index file of a view that asks no upstream is good when nothing is known to have
/// changed. The store tells of every file that comes or goes through it; one that was removed by hand
/// is noticed so.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);

/// An index file as a view shows it, which may be served now.
#[derive(Debug, Clone)]
pub struct IndexFileAnswer {
    /// Its lines, byte for byte; `None`: unchanged, they are those of the digest that the caller
    /// knows.
    pub bytes: Option<Bytes>,
    /// The first half of the sha256 of its lines: what an `ETag` is made of.
    pub digest: [u8; 16],
    /// The answer may be served again while [`Mirror::stamp`] gives this number.
    pub stamp: u64,
    /// How long it may be served again without asking. Zero when it is stale. No longer than the
    /// rules of the view show the same lines.
    pub fresh_for: Duration,
    /// `Some`: upstream could not be asked, and this long ago it last was.
    pub stale_for: Option<Duration>,
    /// Whether upstream sent the bytes for this very answer, not for another that it waited with.
    pub is_fetched: bool,
}

/// An index entry that may be served now, without its bytes.
#[derive(Debug, Clone)]
struct EntryAnswer {
    digest: [u8; 16],
    fresh_for: Duration,
    stale_for: Option<Duration>,
    result: CacheResult,
    is_fetched: bool,
}

/// The lines that a view shows of an index file.
struct ShownLines {
    bytes: Bytes,
    digest: [u8; 16],
    /// When the rules may show others. `None`: until the file or what is cached changes.
    valid_until: Option<SystemTime>,
}

/// What the store has of a name after its source was asked.
#[derive(Debug, Clone)]
pub enum Asked {
    /// The source has it, and so does the store now.
    Present {
        /// Whether the store had it already.
        result: CacheResult,
        /// Whether upstream sent the file, be it one that the store had already.
        was_sent: bool,
    },
    /// The source does not have it, and neither does the store.
    Absent,
}

impl Asked {
    /// What the store has is still right, and upstream sent nothing of it.
    const CONFIRMED: Asked = Asked::Present {
        result: CacheResult::Revalidated,
        was_sent: false,
    };
}

type Watch = watch::Receiver<Option<Result<Asked, Error>>>;

impl Mirror {
    /// The index file of `name` as `view` shows it. `known`: the digest of lines that the caller
    /// has, which are not read again where nothing changed.
    ///
    /// A view that shows only what is cached takes the entry as the store has it; any other filters
    /// what the root index serves, which is as fresh as the mode and upstream allow.
    ///
    /// Cancel safe: the request to upstream runs on a task of its own and serves the next who asks.
    ///
    /// # Errors
    /// [`Error::NoVersionInView`] where the rules leave nothing. [`Error::UnknownCrate`] where
    /// upstream says so, [`Error::NotHeld`] and [`Error::LostEntry`] in mode `offline`, and
    /// [`Error::Upstream`], [`Error::Slow`] or [`Error::Busy`] where upstream is in trouble and
    /// nothing is held that the mode lets us serve.
    pub async fn index_file(
        &self,
        view: &Arc<View>,
        name: &CrateName,
        known: Option<[u8; 16]>,
    ) -> Result<IndexFileAnswer, Error> {
        let answer = self.index_file_uncounted(view, name, known).await;
        self.counted(answer)
    }

    async fn index_file_uncounted(
        &self,
        view: &Arc<View>,
        name: &CrateName,
        known: Option<[u8; 16]>,
    ) -> Result<(IndexFileAnswer, CacheResult), Error> {
        let nothing = || Error::NoVersionInView {
            name: name.clone(),
            view: view.name().to_owned(),
        };
        // It is read before the entry: if that changes in between, the answer is looked up again.
        let stamp = self.stamp(view, name);
        let entry = if view.is_cached_only() {
            let held = self.inner.held(name)?.ok_or_else(nothing)?;
            fresh(&held, RECHECK_INTERVAL, CacheResult::Hit)
        } else {
            self.index_entry_uncounted(name).await?
        };
        let unchanged = IndexFileAnswer {
            bytes: None,
            digest: entry.digest,
            stamp,
            fresh_for: entry.fresh_for,
            stale_for: entry.stale_for,
            is_fetched: entry.is_fetched,
        };
        if view.is_unfiltered() && known == Some(entry.digest) {
            return Ok((unchanged, entry.result));
        }
        let shown = self.shown_lines(view, name).await?.ok_or_else(nothing)?;
        let now = self.inner.clock.now();
        let until = shown.valid_until;
        let valid_for = until.map(|until| until.duration_since(now).unwrap_or_default());
        let valid_for = valid_for.unwrap_or(Duration::MAX);
        let answer = IndexFileAnswer {
            bytes: (known != Some(shown.digest)).then_some(shown.bytes),
            digest: shown.digest,
            fresh_for: entry.fresh_for.min(valid_for),
            ..unchanged
        };
        Ok((answer, entry.result))
    }

    /// Whether the store has the index entry of `name` with its bytes.
    pub fn has_entry(&self, name: &CrateName) -> bool {
        self.inner.held(name).is_ok_and(|held| held.is_some())
    }

    /// What `view` shows of the index file that the store has now; `None`: nothing.
    async fn shown_lines(
        &self,
        view: &Arc<View>,
        name: &CrateName,
    ) -> Result<Option<ShownLines>, Error> {
        let now = self.inner.clock.now();
        let (store, view, name) = (self.inner.store.clone(), Arc::clone(view), name.clone());
        let gone = Error::Lost { what: what(&name) };
        let lost = gone.clone();
        let read = task::blocking(move || {
            let snapshot = store.snapshot(&name);
            let snapshot = snapshot.map_err(|error| Error::store(&name, error))?;
            let Snapshot { facts, bytes } = snapshot.ok_or(gone)?;
            let shown = lines_of(&store, &view, &name, bytes, now);
            let valid_until = shown.valid_until;
            Ok(shown.bytes.map(|bytes| ShownLines {
                digest: if shown.dropped {
                    digest_of(&bytes)
                } else {
                    facts.digest
                },
                bytes,
                valid_until,
            }))
        });
        read.await.map_err(|_aborted| lost)?
    }

    /// Makes the index entry of `name` as fresh as the mode and upstream allow.
    ///
    /// # Errors
    /// As [`index_file`](Mirror::index_file).
    pub async fn index_entry(&self, name: &CrateName) -> Result<(), Error> {
        let entry = self.index_entry_uncounted(name).await;
        self.counted(entry.map(|entry| ((), entry.result)))
    }

    fn counted<T>(&self, answer: Result<(T, CacheResult), Error>) -> Result<T, Error> {
        let result = match &answer {
            Ok((_answer, result)) => *result,
            Err(error) => error.cache_result(),
        };
        self.inner.metrics.cache(Kind::Index, result);
        answer.map(|(answer, _result)| answer)
    }

    async fn index_entry_uncounted(&self, name: &CrateName) -> Result<EntryAnswer, Error> {
        let inner = &self.inner;
        let held = inner.held(name)?;
        match (inner.decide(name, held.as_ref()), held) {
            (Decision::Serve { still }, Some(facts)) => Ok(fresh(&facts, still, CacheResult::Hit)),
            (Decision::Absent { .. } | Decision::Unknown, None) if inner.has_lost(name)? => {
                Err(Error::LostEntry { name: name.clone() })
            }
            (Decision::Serve { .. } | Decision::Absent { .. }, _) => {
                Err(Error::UnknownCrate { name: name.clone() })
            }
            (Decision::Unknown, _) => Err(Error::NotHeld { what: what(name) }),
            (Decision::Fetch, _) => self.ask(name, None).await,
            (Decision::Revalidate { may_serve_stale }, held) => {
                self.ask(name, held.filter(|_| may_serve_stale)).await
            }
        }
    }

    /// Asks upstream; `fallback` is what may be served when that fails or takes too long.
    async fn ask(
        &self,
        name: &CrateName,
        fallback: Option<EntryFacts>,
    ) -> Result<EntryAnswer, Error> {
        let inner = &self.inner;
        let patience = match fallback {
            Some(_) => inner.options.get().patience,
            None => inner.options.get().answer_within,
        };
        let error = match self.refresh_or_join(name, patience, inner.source()).await {
            Ok((Asked::Absent, _)) => return Err(Error::UnknownCrate { name: name.clone() }),
            Ok((Asked::Present { result, was_sent }, has_led)) => {
                let entry = inner.refreshed(name, result)?;
                return Ok(EntryAnswer {
                    is_fetched: has_led && was_sent,
                    ..entry
                });
            }
            Err(error) => error,
        };
        let held = fallback.as_ref().map(|facts| inner.known(facts));
        match (
            freshness::after_failure(inner.options.get().mode, held, inner.clock.now()),
            fallback,
        ) {
            (AfterFailure::ServeStale { age }, Some(facts)) => {
                inner
                    .stale
                    .note(inner.known(&facts).checked, Instant::now());
                tracing::debug!(krate.name = %name, stale_s = age.as_secs(), %error, "served `{name}` stale");
                Ok(EntryAnswer {
                    stale_for: Some(age),
                    ..fresh(&facts, Duration::ZERO, CacheResult::Stale)
                })
            }
            (AfterFailure::ServeStale { .. } | AfterFailure::Unavailable, _) => Err(error),
        }
    }

    /// Asks upstream for the entry of `name`, once for all who want that now, and waits at most `patience`.
    ///
    /// # Errors
    /// [`Error::Upstream`], [`Error::Follow`] and the like where upstream is in trouble,
    /// [`Error::Slow`] and [`Error::Busy`], and [`Error::NotHeld`] in mode `offline`.
    pub async fn refresh(&self, name: &CrateName, patience: Duration) -> Result<Asked, Error> {
        let source = Arc::clone(&self.inner.source);
        let asked = self.refresh_or_join(name, patience, source).await;
        asked.map(|(refreshed, _has_led)| refreshed)
    }

    /// The same; the second tells whether it was this call that asked.
    async fn refresh_or_join(
        &self,
        name: &CrateName,
        patience: Duration,
        source: Arc<dyn IndexSource>,
    ) -> Result<(Asked, bool), Error> {
        let (watch, has_led) = match self.inner.refreshes.join(name, || None) {
            Role::Follower(watch) => (watch, false),
            Role::Leader(leader, watch) => {
                let (inner, name) = (Arc::clone(&self.inner), name.clone());
                let led = self
                    .inner
                    .background
                    .spawn(async move { inner.lead_refresh(name, leader, source).await });
                drop(led);
                (watch, true)
            }
            Role::Full => return Err(Error::Busy { what: what(name) }),
        };
        Ok((outcome(name, watch, patience).await?, has_led))
    }
}

impl Inner {
    /// The entry that the store has the bytes of; a record without them (after a rebuild) counts as none.
    pub(super) fn held(&self, name: &CrateName) -> Result<Option<EntryFacts>, Error> {
        let facts = self
            .store
            .entry(name)
            .map_err(|error| Error::store(&what(name), error))?;
        Ok(facts.filter(|facts| facts.has_snapshot))
    }

    /// Whether there once was an entry of which only the record is left, and nobody may be asked:
    /// a 404 would tell cargo that there is no such crate.
    fn has_lost(&self, name: &CrateName) -> Result<bool, Error> {
        if self.options.get().mode.asks() {
            return Ok(false);
        }
        let facts = self.store.entry(name);
        let facts = facts.map_err(|error| Error::store(&what(name), error))?;
        Ok(facts.is_some_and(|facts| !facts.has_snapshot))
    }

    pub(super) fn decide(&self, name: &CrateName, held: Option<&EntryFacts>) -> Decision {
        let known = match held {
            Some(facts) => Some(self.known(facts)),
            None => self.known_absence(name),
        };
        let options = self.options.get();
        freshness::decide(
            options.mode,
            known,
            self.clock.now(),
            &options.freshness,
            name,
        )
    }

    /// A name that turned 404 upstream has bytes to serve here, so it is not `gone` to the policy.
    /// A source that is complete confirms all names at once.
    fn known(&self, facts: &EntryFacts) -> Held {
        let complete_at = self.scope().complete_at();
        Held {
            checked: complete_at.map_or(facts.checked, |at| at.max(facts.checked)),
            gone: false,
        }
    }

    /// What is known of a name that the store does not have. Where the source is complete, the store
    /// has every name; one that is asked for all the same is looked for, unless the mode forbids it.
    fn known_absence(&self, name: &CrateName) -> Option<Held> {
        let checked = match self.scope() {
            IndexScope::EachName => self.absent.get(name),
            IndexScope::Whole { .. } if self.options.get().mode.asks() => None,
            IndexScope::Whole { complete_at } => complete_at,
        };
        checked.map(|checked| Held {
            checked,
            gone: true,
        })
    }

    /// The entry that upstream has just confirmed or sent.
    fn refreshed(&self, name: &CrateName, result: CacheResult) -> Result<EntryAnswer, Error> {
        let facts = self
            .held(name)?
            .ok_or_else(|| Error::Lost { what: what(name) })?;
        let fresh_for = match self.decide(name, Some(&facts)) {
            Decision::Serve { still } => still,
            Decision::Revalidate { .. }
            | Decision::Fetch
            | Decision::Absent { .. }
            | Decision::Unknown => Duration::ZERO,
        };
        Ok(fresh(&facts, fresh_for, result))
    }

    async fn lead_refresh(
        self: Arc<Self>,
        name: CrateName,
        mut leader: Leader<CrateName, Option<Result<Asked, Error>>>,
        source: Arc<dyn IndexSource>,
    ) {
        let refreshed = self.refresh_now(&name, source.as_ref()).await;
        if let Err(error) = &refreshed {
            // A source of all names remembers its failures itself, once for all names.
            if !self.scope().is_whole() {
                leader.keep(self.options.get().remember_failure);
            }
            if error.is_rest_of_upstream() || self.scope().is_whole() {
                // The log has one line about the whole; this would be one for each entry.
                tracing::debug!(krate.name = %name, "did not ask for the index entry of `{name}`");
            } else {
                tracing::warn!(krate.name = %name, error = error as &dyn std::error::Error, "could not refresh the index entry of `{name}`");
            }
        }
        leader.end(|state| *state = Some(refreshed));
    }

    async fn refresh_now(
        &self,
        name: &CrateName,
        source: &dyn IndexSource,
    ) -> Result<Asked, Error> {
        let held = self.held(name)?;
        // Of a name that was gone the whole file is asked for: a 304 would not tell that it is back.
        let had = held.as_ref().filter(|facts| !facts.gone);
        let known = had.map(validators);
        let answer = source.refresh(name, known.as_ref()).await?;
        let checked = self.clock.now();
        match (answer, held) {
            (Refreshed::Unchanged, _) if self.scope().is_whole() => match self.held(name)? {
                // Perhaps it came with this very answer.
                Some(_) => Ok(Asked::CONFIRMED),
                None => Err(Error::Lost { what: what(name) }),
            },
            (Refreshed::Unchanged, Some(_)) => {
                self.store.touch(name, checked, None);
                Ok(Asked::CONFIRMED)
            }
            // `upstream` turns an unasked 304 into an error, so this is not met.
            (Refreshed::Unchanged, None) => Err(Error::Lost { what: what(name) }),
            (Refreshed::Changed { file, validators }, held) => {
                let result = self.take(name, file, validators, held).await?;
                Ok(Asked::Present {
                    result,
                    was_sent: true,
                })
            }
            (Refreshed::NotFound, None) => {
                self.absent.insert(name.clone(), checked);
                Ok(Asked::Absent)
            }
            (Refreshed::NotFound, Some(facts)) => self.keep_gone(name, &facts).await,
        }
    }

    /// Takes what upstream sent: new bytes are published, known ones only noted as checked.
    async fn take(
        &self,
        name: &CrateName,
        file: IndexFile,
        validators: Validators,
        held: Option<EntryFacts>,
    ) -> Result<CacheResult, Error> {
        let checked = self.clock.now();
        let known = held.is_some_and(|facts| !facts.gone && facts.describes(file.bytes()));
        if known {
            self.store.touch(name, checked, Some(validators));
            return Ok(CacheResult::Revalidated);
        }
        let change = Change::Index {
            name: name.clone(),
            file,
            validators,
            checked,
        };
        self.publish(name, change).await?;
        self.absent.remove(name);
        Ok(CacheResult::Miss)
    }

    /// Upstream says 404 for a name that is held: it is kept, served on, and the fact is journaled once.
    async fn keep_gone(&self, name: &CrateName, facts: &EntryFacts) -> Result<Asked, Error> {
        let checked = self.clock.now();
        if facts.gone {
            self.store.touch(name, checked, None);
        } else {
            let change = Change::Gone {
                name: name.clone(),
                checked,
            };
            self.publish(name, change).await?;
        }
        Ok(Asked::CONFIRMED)
    }

    async fn publish(&self, name: &CrateName, change: Change) -> Result<(), Error> {
        let (store, now) = (self.store.clone(), self.clock.now());
        let published = task::blocking(move || store.publish(vec![change], now)).await;
        let events = published
            .map_err(|_aborted| Error::Lost { what: what(name) })?
            .map_err(|error| Error::store(&what(name), error))?;
        for event in events {
            tracing::info!(krate.name = %name, "{event}");
        }
        Ok(())
    }
}

fn validators(facts: &EntryFacts) -> Validators {
    Validators {
        etag: facts.etag.clone(),
        last_modified: facts.last_modified.clone(),
    }
}

fn fresh(facts: &EntryFacts, fresh_for: Duration, result: CacheResult) -> EntryAnswer {
    EntryAnswer {
        digest: facts.digest,
        fresh_for,
        stale_for: None,
        result,
        is_fetched: false,
    }
}

/// The digest of lines, as the store makes that of a whole index file.
fn digest_of(bytes: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    for (to, from) in digest.iter_mut().zip(Checksum::of(bytes).as_bytes()) {
        *to = *from;
    }
    digest
}

async fn outcome(name: &CrateName, mut watch: Watch, patience: Duration) -> Result<Asked, Error> {
    match tokio::time::timeout(patience, watch.wait_for(Option::is_some)).await {
        Ok(Ok(state)) => state
            .clone()
            .unwrap_or_else(|| Err(Error::Lost { what: what(name) })),
        Ok(Err(_closed)) => Err(Error::Lost { what: what(name) }),
        Err(_elapsed) => Err(Error::Slow {
            what: what(name),
            waited: patience,
        }),
    }
}
