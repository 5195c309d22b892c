//! Resolving: index entries are asked for as they are needed, many at once, each once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use semver::Version;

use super::{Basis, Chosen, Everything, Root};
use crate::{
    jobs::{
        Fault, JobContext, JobError, Services, Unit,
        hold::Throttle,
        retry::{GivenUp, JobRetry},
    },
    mirror::{Asked, Error},
    policy::closure::{Closure, Offer, Tally},
    registry::{
        Checksum, CrateName, IndexFile,
        lockfile::{Locked, Source},
    },
    store::{self, Store},
    upstream::GitIndex,
    util::{
        error::one_line,
        task::{self, Bounded, Next},
    },
};

/// How long one request for an index entry is waited for, with the attempts that `upstream` makes.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// How many releases of lockfiles are looked up at a time.
const LOOKED_UP_AT_ONCE: usize = 1024;

/// What comes of asking for an index entry.
enum Loaded<T> {
    /// It is in the store, and this was read of it.
    There(T),
    /// There is no such crate.
    Unknown,
    /// It failed, with its cause.
    Failed(String),
}

/// What the store says of a release in a lockfile.
enum Verdict {
    /// It is meant, with this checksum.
    Good(Checksum),
    /// The index gave it another checksum later, and the file of the lockfile is held.
    Older(Checksum),
    /// The index has another checksum.
    Differs(Checksum),
    Unlisted,
    NotHeld,
}

/// A selection on its way to releases.
pub(super) struct Chooser<'a> {
    services: &'a Services,
    basis: Basis,
    cx: &'a JobContext,
    retry: Arc<JobRetry>,
    /// Names that upstream was asked for.
    asked: HashSet<CrateName>,
    chosen: Chosen,
    met: u64,
    done: u64,
    throttle: Throttle,
    git: Tally,
    elsewhere: Tally,
    other: Tally,
    local: Tally,
    older: Tally,
    foreign: Tally,
    unmet: Tally,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        services: &'a Services,
        basis: Basis,
        retry: &'a Arc<JobRetry>,
    ) -> Chooser<'a> {
        Chooser {
            services,
            basis,
            cx: retry.cx(),
            retry: Arc::clone(retry),
            asked: HashSet::new(),
            chosen: Chosen::default(),
            met: 0,
            done: 0,
            throttle: Throttle::default(),
            git: Tally::default(),
            elsewhere: Tally::default(),
            other: Tally::default(),
            local: Tally::default(),
            older: Tally::default(),
            foreign: Tally::default(),
            unmet: Tally::default(),
        }
    }

    pub(super) fn begin(&self) {
        self.cx.phase("resolving", Unit::Names, None);
    }

    /// Has the index entries of `first`, and of what `each` asks for besides, and reads each.
    async fn load_all<T: Send + 'static>(
        &mut self,
        first: Vec<CrateName>,
        read: fn(&Store, &CrateName) -> Result<Option<T>, store::Error>,
        mut each: impl FnMut(&mut Chooser<'a>, CrateName, Loaded<T>) -> Vec<CrateName>,
    ) -> Result<(), JobError> {
        self.met += first.len() as u64;
        let mut waiting = VecDeque::from(first);
        let mut loads = Bounded::new(self.services.places());
        loop {
            loads.fill(|| {
                let name = waiting.pop_front()?;
                let ask = self.basis == Basis::Upstream && self.asked.insert(name.clone());
                let retry = ask.then(|| Arc::clone(&self.retry));
                Some(load(self.services, retry, name, read))
            });
            let (name, loaded) = match self.cx.unless_cancelled(loads.next()).await? {
                Next::Done(loaded) => loaded.map_err(|error| self.with_counts(error))?,
                Next::Tick => continue,
                Next::Empty => return Ok(()),
            };
            self.done += 1;
            let more = each(self, name, loaded);
            self.met += more.len() as u64;
            waiting.extend(more);
            if self.throttle.is_due() {
                self.cx.progress(self.done, Some(self.met), 0);
            }
        }
    }

    /// An error that ended the job says how far it came.
    fn with_counts(&self, mut error: JobError) -> JobError {
        if error.fault != Fault::Cancelled {
            let (done, met) = (self.done, self.met);
            error.message = format!("{}; {done} of {met} names were resolved", error.message);
        }
        error
    }

    // --- lockfiles

    /// Notes packages of lockfiles that come from nowhere: those of the workspace itself among them.
    pub(super) fn note_local(&mut self, local: &[String]) {
        for one in local {
            self.local.add(format!("`{one}`"));
        }
    }

    pub(super) async fn lockfiles(&mut self, locked: &[Locked]) -> Result<(), JobError> {
        let ours = self.our_indexes();
        let mut open = Vec::new();
        for one in locked {
            match &one.source {
                source if source.is_of(&ours) => open.push(one.clone()),
                Source::Git(url) => self.git.add(format!("`{}` from {url}", one.release)),
                Source::Registry(url) => {
                    self.elsewhere.add(format!("`{}` from {url}", one.release));
                }
                Source::Other(what) => self.other.add(format!("`{}` from {what}", one.release)),
            }
        }
        let unsettled = self.judge(open, self.basis == Basis::Upstream).await?;
        let names: HashSet<CrateName> = unsettled
            .iter()
            .map(|one| one.release.name.clone())
            .collect();
        let mut names: Vec<CrateName> = names.into_iter().collect();
        names.sort();
        let mut failures = HashMap::new();
        self.load_all(names, there, |_chooser, name, loaded| {
            match loaded {
                Loaded::There(()) => {}
                Loaded::Unknown => {
                    failures.insert(name, None);
                }
                Loaded::Failed(cause) => {
                    failures.insert(name, Some(cause));
                }
            }
            Vec::new()
        })
        .await?;
        let mut listed = Vec::new();
        for one in unsettled {
            match failures.get(&one.release.name) {
                Some(Some(cause)) => self.chosen.fail(&told(&one), cause.clone()),
                Some(None) => (self.chosen).lacks(&told(&one), "the registry has no such crate"),
                None => listed.push(one),
            }
        }
        let none = self.judge(listed, false).await?;
        debug_assert!(none.is_empty(), "what is judged for good is settled");
        Ok(())
    }

    /// Settles what the store can settle. `may_ask`: whether the rest is handed back, to be asked
    /// for; otherwise it failed.
    async fn judge(&mut self, locked: Vec<Locked>, may_ask: bool) -> Result<Vec<Locked>, JobError> {
        let mut rest = Vec::new();
        for some in locked.chunks(LOOKED_UP_AT_ONCE) {
            self.cx.check_cancelled()?;
            let (store, batch, basis) = (self.services.store.clone(), some.to_vec(), self.basis);
            let verdicts = task::blocking(move || {
                let verdicts = batch.iter().map(|one| verdict(&store, one, basis));
                verdicts.collect::<Result<Vec<_>, store::Error>>()
            });
            let verdicts = verdicts.await?;
            let verdicts = verdicts.map_err(|error| JobError::store("the lockfile", &error))?;
            for (one, verdict) in some.iter().zip(verdicts) {
                if let Some(one) = self.settle(one, &verdict, may_ask) {
                    rest.push(one);
                }
            }
        }
        Ok(rest)
    }

    fn settle(&mut self, one: &Locked, verdict: &Verdict, may_ask: bool) -> Option<Locked> {
        let release = &one.release;
        let cause = match verdict {
            Verdict::Good(checksum) => {
                self.chosen
                    .add(&release.name, release.version.clone(), *checksum);
                return None;
            }
            Verdict::Older(checksum) => {
                self.older.add(format!("`{release}`"));
                self.chosen
                    .add(&release.name, release.version.clone(), *checksum);
                return None;
            }
            _ if may_ask => return Some(one.clone()),
            Verdict::Differs(listed) => {
                let locked = one.checksum.map(Checksum::to_hex).unwrap_or_default();
                format!("the lockfile has the checksum {locked}, and the index has {listed}")
            }
            Verdict::Unlisted => "the index has no such version".to_owned(),
            Verdict::NotHeld => super::NOT_HELD.to_owned(),
        };
        self.chosen.lacks(&told(one), cause);
        None
    }

    fn our_indexes(&self) -> Vec<String> {
        let options = self.services.upstream.options();
        let mut ours = vec![options.index_url.to_string()];
        if let Some(GitIndex::Url(url)) = &options.git_index {
            ours.push(url.to_string());
        }
        ours
    }

    // --- closures

    pub(super) async fn close(&mut self, roots: &[&Root], latest: bool) -> Result<(), JobError> {
        if roots.is_empty() {
            return Ok(());
        }
        let mut closure = Closure::new(latest);
        for root in roots {
            closure.want(&root.name, &root.text);
        }
        let read = match self.basis {
            Basis::Upstream | Basis::Index => offers,
            Basis::Held => held_offers,
        };
        let mut failed = HashSet::new();
        let mut unknown = HashSet::new();
        let first = closure.wanted();
        self.load_all(first, read, |chooser, name, loaded| {
            match loaded {
                Loaded::There(offers) => closure.take(&name, offers),
                Loaded::Unknown => {
                    closure.without(&name);
                    unknown.insert(name);
                }
                Loaded::Failed(cause) => {
                    closure.without(&name);
                    chooser.chosen.fail(&name, cause);
                    failed.insert(name);
                }
            }
            closure.wanted()
        })
        .await?;
        for root in roots {
            if !failed.contains(&root.name) && closure.matches(&root.name, &root.req) == 0 {
                let why = self.why_none(root, &closure, unknown.contains(&root.name));
                let what = if root.text == "*" {
                    root.name.to_string()
                } else {
                    format!("{}@{}", root.name, root.text)
                };
                self.chosen.lacks(&what, why);
            }
        }
        let closed = closure.finish();
        for (name, versions) in closed.chosen {
            self.chosen.names.entry(name).or_default().extend(versions);
        }
        self.foreign.merge(closed.elsewhere);
        self.unmet.merge(closed.unmet);
        Ok(())
    }

    fn why_none(&self, root: &Root, closure: &Closure, unknown: bool) -> String {
        match (self.basis, unknown) {
            (Basis::Upstream, true) => "the registry has no such crate".to_owned(),
            (_, true) => "the mirror knows no such crate".to_owned(),
            (_, false) if closure.is_all_prereleases(&root.name) => {
                "it has only prereleases, which come when a requirement names one".to_owned()
            }
            (Basis::Held, false) if closure.is_empty_of(&root.name) => {
                "no version of it is held".to_owned()
            }
            (Basis::Held, false) => "no version that is held matches".to_owned(),
            (_, false) => "no version that is not yanked matches".to_owned(),
        }
    }

    // --- everything

    pub(super) async fn everything(&mut self, latest: bool) -> Result<(), JobError> {
        let asks = self.basis == Basis::Upstream;
        let follows = self.services.mirror.scope().is_whole();
        if follows && asks {
            self.look_at_index().await?;
        }
        let names = self.all_names().await?;
        if names.is_empty() {
            return Err(JobError::new(Fault::Usage, "the mirror knows no names yet").hint(
                "follow an upstream git index (`upstream.git_index`), or name crates with `--list`",
            ));
        }
        if asks && !follows {
            self.chosen.notes.push(format!(
                "everything is the {} names that this mirror knows; it follows no upstream git index (`upstream.git_index`), which would name all",
                names.len()
            ));
        }
        match self.basis {
            Basis::Upstream if !follows => self.ask_for_all(names, latest).await,
            Basis::Upstream | Basis::Index => {
                self.chosen.everything = Some(Everything { names, latest });
                Ok(())
            }
            Basis::Held => self.all_held(names, latest).await,
        }
    }

    /// One look at the index brings all names.
    async fn look_at_index(&mut self) -> Result<(), JobError> {
        let mirror = &self.services.mirror;
        let refreshed = self.retry.on(|| mirror.refresh_all(ANSWER_WITHIN));
        match self.cx.unless_cancelled(refreshed).await? {
            Ok(()) => {}
            Err(GivenUp::One(error)) => {
                let what = "the upstream's git index".to_owned();
                self.chosen.fail(&what, one_line(&error));
            }
            Err(GivenUp::All(error)) => return Err(error),
        }
        Ok(())
    }

    async fn ask_for_all(&mut self, names: Vec<CrateName>, latest: bool) -> Result<(), JobError> {
        let mut answered = Vec::with_capacity(names.len());
        self.load_all(names, there, |chooser, name, loaded| {
            match loaded {
                Loaded::There(()) => answered.push(name),
                Loaded::Unknown => {}
                Loaded::Failed(cause) => chooser.chosen.fail(&name, cause),
            }
            Vec::new()
        })
        .await?;
        answered.sort();
        self.chosen.everything = Some(Everything {
            names: answered,
            latest,
        });
        Ok(())
    }

    async fn all_held(&mut self, names: Vec<CrateName>, latest: bool) -> Result<(), JobError> {
        let read = if latest {
            newest_held_release
        } else {
            every_held_release
        };
        self.load_all(names, read, |chooser, name, loaded| {
            match loaded {
                Loaded::There(versions) => {
                    let known = chooser.chosen.names.entry(name).or_default();
                    known.extend(versions);
                }
                Loaded::Unknown => {}
                Loaded::Failed(cause) => chooser.chosen.fail(&name, cause),
            }
            Vec::new()
        })
        .await
    }

    async fn all_names(&self) -> Result<Vec<CrateName>, JobError> {
        let (store, cx) = (self.services.store.clone(), self.cx.clone());
        let walk = task::blocking(move || {
            let mut names = Vec::new();
            store.names(|facts| {
                if facts.has_snapshot {
                    names.push(facts.name);
                }
                if cx.is_cancelled() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
            Ok::<_, store::Error>(names)
        });
        let names = walk.await?;
        self.cx.check_cancelled()?;
        names.map_err(|error| JobError::store("the list of names", &error))
    }

    // --- the end

    pub(super) fn finish(mut self) -> Result<Chosen, JobError> {
        self.cx.check_cancelled()?;
        self.cx.progress(self.done, Some(self.met), 0);
        let notes = [
            (
                &self.git,
                "package of a lockfile comes from git and is passed over",
                "packages of lockfiles come from git and are passed over",
            ),
            (
                &self.elsewhere,
                "package of a lockfile comes from another registry and is passed over",
                "packages of lockfiles come from other registries and are passed over",
            ),
            (
                &self.other,
                "package of a lockfile comes from elsewhere and is passed over",
                "packages of lockfiles come from elsewhere and are passed over",
            ),
            (
                &self.local,
                "package of a lockfile is the workspace's own or lies in a folder, and is passed over",
                "packages of lockfiles are the workspace's own or lie in folders, and are passed over",
            ),
            (
                &self.older,
                "release has another checksum in the index by now; what is held of it fits the lockfile",
                "releases have another checksum in the index by now; what is held of them fits the lockfile",
            ),
            (
                &self.foreign,
                "dependency is in another registry and is passed over",
                "dependencies are in other registries and are passed over",
            ),
            (
                &self.unmet,
                "requirement of a dependency is met by no version that is not yanked",
                "requirements of dependencies are met by no version that is not yanked",
            ),
        ];
        for (tally, one, many) in notes {
            if tally.count > 0 {
                let text = if tally.count == 1 { one } else { many };
                let note = format!("{} {text}: {}", tally.count, tally.shown());
                self.chosen.notes.push(note);
            }
        }
        self.chosen.tidy();
        Ok(self.chosen)
    }
}

/// The index entry of one name: asked for with `retry`, and read.
async fn load<T: Send + 'static>(
    services: &Services,
    retry: Option<Arc<JobRetry>>,
    name: CrateName,
    read: fn(&Store, &CrateName) -> Result<Option<T>, store::Error>,
) -> Result<(CrateName, Loaded<T>), JobError> {
    if let Some(retry) = retry {
        match retry
            .on(|| services.mirror.refresh(&name, ANSWER_WITHIN))
            .await
        {
            Ok(Asked::Present { .. }) => {}
            Ok(Asked::Absent) | Err(GivenUp::One(Error::UnknownCrate { .. })) => {
                return Ok((name, Loaded::Unknown));
            }
            Err(GivenUp::One(error)) => return Ok((name, Loaded::Failed(one_line(&error)))),
            Err(GivenUp::All(error)) => return Err(error),
        }
    }
    let store = services.store.clone();
    let reading = task::blocking(move || {
        let found = read(&store, &name);
        (name, found)
    });
    let (name, found) = reading.await?;
    let found = found.map_err(|error| JobError::store(&format!("`{name}`"), &error))?;
    Ok((name, found.map_or(Loaded::Unknown, Loaded::There)))
}

/// Reads nothing: that the entry is there is enough.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands where others read the store"
)]
fn there(_store: &Store, _name: &CrateName) -> Result<Option<()>, store::Error> {
    Ok(Some(()))
}

fn offers(store: &Store, name: &CrateName) -> Result<Option<Vec<Offer>>, store::Error> {
    Ok(store
        .snapshot(name)?
        .map(|snapshot| read_offers(name, snapshot.bytes)))
}

/// As if the index had only what is held.
fn held_offers(store: &Store, name: &CrateName) -> Result<Option<Vec<Offer>>, store::Error> {
    let held: HashSet<(Version, Checksum)> = every_held_release(store, name)?
        .unwrap_or_default()
        .into_iter()
        .collect();
    let mut offers = offers(store, name)?;
    if let Some(offers) = &mut offers {
        offers.retain(|offer| held.contains(&(offer.version.clone(), offer.checksum)));
    }
    Ok(offers)
}

/// What the store has as an index file was looked through when it came.
fn read_offers(name: &CrateName, bytes: Bytes) -> Vec<Offer> {
    match IndexFile::parse(name, bytes) {
        Ok(file) => Offer::all(&file),
        Err(error) => {
            tracing::warn!(krate.name = %name, %error, "the index file of `{name}` in the store is not readable");
            Vec::new()
        }
    }
}

type Releases = Vec<(Version, Checksum)>;

fn every_held_release(store: &Store, name: &CrateName) -> Result<Option<Releases>, store::Error> {
    let held = store.releases(name)?.into_iter().filter(|one| one.held);
    Ok(Some(held.map(|one| (one.version, one.checksum)).collect()))
}

fn newest_held_release(store: &Store, name: &CrateName) -> Result<Option<Releases>, store::Error> {
    let newest = newest(store.releases(name)?, |one| one.held);
    Ok(Some(newest.into_iter().collect()))
}

impl Everything {
    /// What it means of `name` now, in order.
    pub(in crate::jobs) fn releases(
        latest: bool,
        store: &Store,
        name: &CrateName,
    ) -> Result<Releases, store::Error> {
        let releases = store.releases(name)?;
        if latest {
            return Ok(newest(releases, |one| !one.removed).into_iter().collect());
        }
        let wanted = releases
            .into_iter()
            .filter(|one| !one.removed || store.holds(&one.checksum))
            .map(|one| (one.version, one.checksum));
        let mut wanted: Releases = wanted.collect();
        wanted.sort();
        wanted.dedup();
        Ok(wanted)
    }
}

/// The newest that is not yanked: a prerelease only where there is nothing else.
fn newest(
    releases: Vec<store::ReleaseFacts>,
    counts: fn(&store::ReleaseFacts) -> bool,
) -> Option<(Version, Checksum)> {
    releases
        .into_iter()
        .filter(|one| counts(one) && !one.yanked)
        .max_by(|a, b| {
            let is_release = |one: &store::ReleaseFacts| one.version.pre.is_empty();
            let by_kind = is_release(a).cmp(&is_release(b));
            by_kind.then_with(|| a.version.cmp(&b.version))
        })
        .map(|one| (one.version, one.checksum))
}

fn verdict(store: &Store, one: &Locked, basis: Basis) -> Result<Verdict, store::Error> {
    let Some(facts) = store.release(&one.release)? else {
        return Ok(Verdict::Unlisted);
    };
    let locked = one.checksum.unwrap_or(facts.checksum);
    if locked != facts.checksum {
        let known = store.checksums(&one.release)?;
        let is_held = known
            .iter()
            .any(|known| known.checksum == locked && store.holds(&locked));
        return Ok(if is_held {
            Verdict::Older(locked)
        } else {
            Verdict::Differs(facts.checksum)
        });
    }
    // What the index has noted of its file is only a hint.
    Ok(match (store.holds(&locked), facts.removed) {
        (false, true) => Verdict::Unlisted,
        (false, false) if basis == Basis::Held => Verdict::NotHeld,
        (true, _) | (false, false) => Verdict::Good(locked),
    })
}

fn told(one: &Locked) -> String {
    format!("{}@{}", one.release.name, one.release.version)
}
