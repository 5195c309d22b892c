//! The second half of a sync: what is not held is fetched, and what failed before is tried again.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    failures::{Earlier, Failures, key_of},
    report::SyncReport,
};
use crate::{
    jobs::{
        Fault, JobContext, JobError, Services, Unit,
        error::Failure,
        hold::Throttle,
        retry::{GivenUp, JobRetry},
        saved_sets::set_names,
        select::{Chosen, Everything},
        sync::set_runs::wants_of,
    },
    mirror::{Asked, Error, Pace},
    registry::{Checksum, CrateName, Release},
    store::{self, Store},
    util::{
        error::one_line,
        task::{self, Bounded, Next},
    },
};

/// How many names are looked up at a time.
const LOOKED_UP_AT_ONCE: usize = 512;

/// Of how many names of everything the releases are read at a time.
const REFILLED_AT_ONCE: usize = 16;

/// After how many failures a sync is given up: so many have one cause, and each is kept and told.
const MOST_FAILURES: usize = 50_000;

/// How long the index is waited for when a file is not what it promised.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

pub(super) struct Fetching<'a> {
    services: &'a Services,
    cx: &'a JobContext,
    retry: Arc<JobRetry>,
    pace: Arc<Pace>,
    failures: Failures,
    missing: VecDeque<(Release, Checksum)>,
    /// Of everything the names of which something is missing, with how much that was.
    later: VecDeque<(CrateName, u32)>,
    latest: bool,
    /// What failed before and is missing in this selection too, by the keys of the records.
    meant: HashSet<String>,
    /// What failed before, is tried again and is not in this selection.
    strangers: HashSet<String>,
    /// How much is to be fetched.
    total: u64,
    report: SyncReport,
}

/// How many names a dry run lists.
const MAX_LISTED_NAMES: usize = 100_000;

/// Versions with their checksums by the index.
type Releases = Vec<(semver::Version, Checksum)>;

/// What came of one release.
type Fetched = (Release, Result<Option<u64>, GivenUp>);

impl<'a> Fetching<'a> {
    /// Finds out what is not held of `chosen` and of what failed before.
    pub(super) async fn plan(
        services: &'a Services,
        chosen: Chosen,
        retry: &'a Arc<JobRetry>,
        dry_run: bool,
    ) -> Result<Fetching<'a>, JobError> {
        let store = services.store.clone();
        let failures = blocking(move || Failures::open(store)).await?;
        let mut fetching = Fetching {
            services,
            cx: retry.cx(),
            retry: Arc::clone(retry),
            pace: Arc::new(Pace::new(services.options.get().sync.max_rate)),
            failures,
            missing: VecDeque::new(),
            later: VecDeque::new(),
            latest: false,
            meant: HashSet::new(),
            strangers: HashSet::new(),
            total: 0,
            report: SyncReport {
                notes: chosen.notes,
                failed: chosen.failed,
                dry_run,
                ..SyncReport::default()
            },
        };
        let mut names = chosen.names;
        if let Some(everything) = chosen.everything {
            fetching.plan_everything(everything, &mut names).await?;
        }
        fetching.leave_out_held(names).await?;
        if !dry_run {
            fetching.note_unresolved();
        }
        if let Err(error) = fetching.retry(dry_run).await {
            blocking(fetching.failures.take_changes()).await?;
            return Err(with_counts(error, 0, fetching.total));
        }
        fetching.report.would_fetch = fetching.total;
        fetching.report.would_fetch_names.sort();
        Ok(fetching)
    }

    async fn leave_out_held(
        &mut self,
        names: BTreeMap<CrateName, Releases>,
    ) -> Result<(), JobError> {
        let mut names = names.into_iter();
        loop {
            self.cx.check_cancelled()?;
            let some: Vec<_> = names.by_ref().take(LOOKED_UP_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.report.names += some.len() as u64;
            let (store, telling) = (self.services.store.clone(), self.is_telling());
            let found = blocking(move || {
                let mut found = LookedUp::default();
                for (name, versions) in some {
                    let missing = found.look_up(&store, &name, versions, telling)?;
                    found.missing.extend(missing);
                }
                Ok(found)
            });
            self.take_up(found.await?);
        }
    }

    /// Counts what is missing of everything, and remembers the names. What `besides` has of them is
    /// taken out of it and planned with them.
    async fn plan_everything(
        &mut self,
        everything: Everything,
        besides: &mut BTreeMap<CrateName, Releases>,
    ) -> Result<(), JobError> {
        let Everything { names, latest } = everything;
        self.latest = latest;
        let mut names = names.into_iter();
        loop {
            self.cx.check_cancelled()?;
            let some = names.by_ref().take(LOOKED_UP_AT_ONCE);
            let some: Vec<_> = some
                .map(|name| {
                    let besides = besides.remove(&name).unwrap_or_default();
                    (name, besides)
                })
                .collect();
            if some.is_empty() {
                return Ok(());
            }
            self.report.names += some.len() as u64;
            let (store, telling) = (self.services.store.clone(), self.is_telling());
            let found = blocking(move || look_up_everything(&store, some, latest, telling));
            self.take_up(found.await?);
        }
    }

    /// Whether somebody wants to know releases by their names.
    fn is_telling(&self) -> bool {
        self.failures.len() > 0 || self.report.dry_run
    }

    fn take_up(&mut self, found: LookedUp) {
        let missing = found.later.iter().map(|(_, count)| u64::from(*count));
        let missing = missing.sum::<u64>() + found.missing.len() as u64;
        self.total += missing;
        self.report.releases += found.held + missing;
        self.report.held += found.held;
        for what in found.told {
            self.failures.is_well(&what);
        }
        for what in found.told_missing {
            if self.failures.is_known(&what) {
                self.meant.insert(key_of(&what));
            }
            self.would_fetch(what);
        }
        self.missing.extend(found.missing);
        self.later.extend(found.later);
    }

    fn would_fetch(&mut self, what: String) {
        if self.report.dry_run && self.report.would_fetch_names.len() < MAX_LISTED_NAMES {
            self.report.would_fetch_names.push(what);
        }
    }

    /// Of the next names the releases that are missing now. What became of them since they were
    /// counted is made good for.
    async fn refill(&mut self) -> Result<(), JobError> {
        let some: Vec<_> = (0..REFILLED_AT_ONCE)
            .map_while(|_| self.later.pop_front())
            .collect();
        let counted: u64 = some.iter().map(|(_, count)| u64::from(*count)).sum();
        let (store, latest) = (self.services.store.clone(), self.latest);
        let missing = blocking(move || {
            let mut missing = Vec::new();
            for (name, _count) in some {
                let releases = Everything::releases(latest, &store, &name)?;
                missing.extend(LookedUp::default().look_up(&store, &name, releases, false)?);
            }
            Ok(missing)
        });
        let missing = missing.await?;
        let found = missing.len() as u64;
        // A client was faster, or upstream published more.
        self.report.held += counted.saturating_sub(found);
        self.report.releases += found.saturating_sub(counted);
        self.total = (self.total + found).saturating_sub(counted);
        self.missing.extend(missing);
        Ok(())
    }

    /// Keeps what could not even be resolved.
    fn note_unresolved(&mut self) {
        let now = self.services.clock.now();
        for failure in &self.report.failed {
            self.failures.failed(failure, now);
            self.cx.failed(&failure.what, &failure.cause);
        }
    }

    /// Adds what failed at an earlier time, unless it is in this selection anyhow. What was not
    /// there at all is not asked for: the saved set that wants it does so itself.
    async fn retry(&mut self, dry_run: bool) -> Result<(), JobError> {
        if self.failures.len() == 0 {
            return Ok(());
        }
        let mut meant = std::mem::take(&mut self.meant);
        meant.extend(
            self.report
                .failed
                .iter()
                .map(|failure| key_of(&failure.what)),
        );
        let mut earlier = self.failures.all();
        earlier.retain(|one| !meant.contains(&one.key));
        if earlier.iter().any(|one| one.lasting) {
            let sets = set_names(self.services)?;
            let wants = wants_of(self.services, &sets, self.cx).await;
            self.cx.check_cancelled()?;
            // Where the sets cannot be resolved all stays as it is.
            if let Ok(wants) = wants {
                let unwanted = |one: &&Earlier| one.lasting && !wants.lacks(&one.what);
                for one in earlier.iter().filter(unwanted) {
                    self.failures.drop(&one.key);
                }
            }
        }
        for Earlier { key, what, .. } in earlier.into_iter().filter(|one| !one.lasting) {
            self.cx.check_cancelled()?;
            let release = what
                .split_once('@')
                .and_then(|(name, version)| Release::parse(name, version).ok());
            match (release, CrateName::parse(&what)) {
                (Some(release), _) => self.retry_release(&key, release).await?,
                (None, Ok(name)) if !dry_run => self.retry_name(&key, &name).await?,
                (None, Ok(_)) => {}
                // A requirement that nothing met: whoever still has it says so again.
                (None, Err(_)) => self.failures.drop(&key),
            }
        }
        Ok(())
    }

    async fn retry_release(&mut self, key: &str, release: Release) -> Result<(), JobError> {
        let (store, asked) = (self.services.store.clone(), release.clone());
        let missing = blocking(move || {
            let facts = store.release(&asked)?;
            // What the index has noted of the file is only a hint.
            Ok(facts.filter(|facts| !facts.removed && !store.holds(&facts.checksum)))
        });
        match missing.await? {
            Some(facts) => {
                self.strangers.insert(key.to_owned());
                self.report.retried += 1;
                self.report.releases += 1;
                self.total += 1;
                self.would_fetch(key.to_owned());
                self.missing.push_back((release, facts.checksum));
            }
            None => self.failures.drop(key),
        }
        Ok(())
    }

    async fn retry_name(&mut self, key: &str, name: &CrateName) -> Result<(), JobError> {
        self.strangers.insert(key.to_owned());
        self.report.retried += 1;
        let asked = self
            .retry
            .on(|| self.services.mirror.refresh(name, ANSWER_WITHIN))
            .await;
        match asked {
            Ok(Asked::Present { .. }) => self.failures.is_well(key),
            // Nobody wants it, as far as is known, and it is not there.
            Ok(Asked::Absent) => self.failures.drop(key),
            Err(given_up) => self.give_up(key.to_owned(), given_up)?,
        }
        Ok(())
    }

    fn give_up(&mut self, what: String, given_up: GivenUp) -> Result<(), JobError> {
        let cause = match given_up {
            GivenUp::One(error) => one_line(&error),
            // Of what is not in this selection nothing ends the job, but who waits for it.
            GivenUp::All(error)
                if error.fault != Fault::Cancelled && self.strangers.contains(&what) =>
            {
                let causes = error.causes.iter().cloned();
                let parts: Vec<String> = std::iter::once(error.message).chain(causes).collect();
                parts.join(": ")
            }
            GivenUp::All(error) => return Err(error),
        };
        let failure = Failure {
            what,
            cause,
            lasting: false,
        };
        self.cx.failed(&failure.what, &failure.cause);
        self.failures.failed(&failure, self.services.clock.now());
        if self.strangers.contains(&failure.what) {
            self.report.retried_failed.push(failure);
        } else {
            self.report.failed.push(failure);
        }
        Ok(())
    }

    /// Fetches what is missing.
    pub(super) async fn run(&mut self) -> Result<(), JobError> {
        let outcome = self.fetch_all().await;
        let written = blocking(self.failures.take_changes()).await;
        let metrics = &self.services.metrics;
        metrics.synced(
            self.report.fetched,
            self.report.held,
            (self.report.failed.len() + self.report.retried_failed.len()) as u64,
        );
        metrics.sync_failures(self.failures.len() as u64);
        outcome?;
        written
    }

    async fn fetch_all(&mut self) -> Result<(), JobError> {
        self.cx.phase("fetching", Unit::Crates, Some(self.total));
        let most = self.pace.fetches(self.services.places());
        let mut running = Bounded::new(most);
        let mut throttle = Throttle::default();
        let mut done: u64 = 0;
        loop {
            if self.report.failed.len() > MOST_FAILURES {
                return Err(too_many(self.report.fetched, self.total));
            }
            while self.missing.len() < most && !self.later.is_empty() {
                self.refill().await?;
            }
            running.fill(|| {
                let (release, checksum) = self.missing.pop_front()?;
                let (retry, pace) = (Arc::clone(&self.retry), Arc::clone(&self.pace));
                Some(fetch(self.services, retry, pace, release, checksum))
            });
            match self.cx.unless_cancelled(running.next()).await? {
                Next::Done(fetched) => {
                    done += 1;
                    self.settle(fetched)
                        .map_err(|error| with_counts(error, self.report.fetched, self.total))?;
                    if self.failures.is_worth_writing() {
                        blocking(self.failures.take_changes()).await?;
                    }
                }
                Next::Tick => {}
                Next::Empty => break,
            }
            if throttle.is_due() {
                self.cx.progress(done, Some(self.total), self.pace.bytes());
            }
        }
        self.cx.progress(done, Some(self.total), self.pace.bytes());
        Ok(())
    }

    fn settle(&mut self, (release, outcome): Fetched) -> Result<(), JobError> {
        match outcome {
            Ok(bytes) => {
                match bytes {
                    Some(bytes) => {
                        self.report.fetched += 1;
                        self.report.fetched_bytes += bytes;
                    }
                    // A client was faster.
                    None => self.report.held += 1,
                }
                self.failures.is_well(&what(&release));
            }
            Err(given_up) => self.give_up(what(&release), given_up)?,
        }
        Ok(())
    }

    /// Takes what would be fetched next, as [`run`](Fetching::run) does; `None`: that was all.
    #[cfg(test)]
    pub(super) async fn take_some(&mut self) -> Option<u64> {
        while self.missing.is_empty() && !self.later.is_empty() {
            self.refill().await.expect("the store is readable");
        }
        let taken = std::mem::take(&mut self.missing).len() as u64;
        (taken > 0).then_some(taken)
    }

    /// What is known before anything is fetched.
    pub(super) fn planned(&self) -> &SyncReport {
        &self.report
    }

    pub(super) fn into_report(self) -> SyncReport {
        self.report
    }
}

/// Fetches one release. Where upstream's file is not what its index promised when that was last
/// asked for, the version was perhaps published anew since: the index is asked, and believed if it
/// changed.
async fn fetch(
    services: &Services,
    retry: Arc<JobRetry>,
    pace: Arc<Pace>,
    release: Release,
    checksum: Checksum,
) -> Fetched {
    let held = retry
        .on(|| services.mirror.hold(&release, &checksum, &pace))
        .await;
    let Err(GivenUp::One(lie @ Error::Mismatch { .. })) = held else {
        return (release, held);
    };
    let asked = retry
        .on(|| services.mirror.refresh(&release.name, ANSWER_WITHIN))
        .await;
    let (store, fetched) = (services.store.clone(), release.clone());
    let listed = blocking(move || store.release(&fetched)).await;
    let held = match (asked, listed) {
        (Ok(_), Ok(Some(facts))) if !facts.removed && facts.checksum != checksum => {
            retry
                .on(|| services.mirror.hold(&release, &facts.checksum, &pace))
                .await
        }
        _ => Err(GivenUp::One(lie)),
    };
    (release, held)
}

/// What the store says of some releases.
#[derive(Default)]
struct LookedUp {
    held: u64,
    missing: Vec<(Release, Checksum)>,
    /// Of everything the names of which something is missing, with how much.
    later: Vec<(CrateName, u32)>,
    /// The held ones, where somebody wants to know which.
    told: Vec<String>,
    /// The missing ones, where somebody wants to know which.
    told_missing: Vec<String>,
}

impl LookedUp {
    /// Counts what is held, and says what is missing.
    fn look_up(
        &mut self,
        store: &Store,
        name: &CrateName,
        versions: Releases,
        telling: bool,
    ) -> Result<Vec<(Release, Checksum)>, store::Error> {
        let mut missing = Vec::new();
        for (version, checksum) in versions {
            let release = Release {
                name: name.clone(),
                version,
            };
            let is_held = store.blob_blocking(&checksum)?.is_some();
            if telling {
                let told = if is_held {
                    &mut self.told
                } else {
                    &mut self.told_missing
                };
                told.push(what(&release));
            }
            if is_held {
                self.held += 1;
            } else {
                missing.push((release, checksum));
            }
        }
        Ok(missing)
    }
}

/// The same of all releases of each name, of which the missing ones are counted only; and of what
/// is wanted besides and is not among them.
fn look_up_everything(
    store: &Store,
    names: Vec<(CrateName, Releases)>,
    latest: bool,
    telling: bool,
) -> Result<LookedUp, store::Error> {
    let mut found = LookedUp::default();
    for (name, mut besides) in names {
        let releases = Everything::releases(latest, store, &name)?;
        besides.retain(|one| releases.binary_search(one).is_err());
        let missing = found.look_up(store, &name, besides, telling)?;
        found.missing.extend(missing);
        let missing = found.look_up(store, &name, releases, telling)?;
        if !missing.is_empty() {
            let count = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            found.later.push((name, count));
        }
    }
    Ok(found)
}

fn what(release: &Release) -> String {
    format!("{}@{}", release.name, release.version)
}

fn too_many(fetched: u64, total: u64) -> JobError {
    let error = JobError::new(
        Fault::Unavailable,
        format!("more than {MOST_FAILURES} releases failed"),
    );
    with_counts(error, fetched, total)
        .hint("`orlop stats` has their causes; what was fetched is kept")
}

/// An error that ended the job says how far it came.
fn with_counts(mut error: JobError, fetched: u64, total: u64) -> JobError {
    if error.fault != Fault::Cancelled {
        error.message = format!("{}; {fetched} of {total} were fetched", error.message);
    }
    error
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, JobError> {
    let done = task::blocking(work).await?;
    done.map_err(|error| JobError::store("the sync", &error))
}
