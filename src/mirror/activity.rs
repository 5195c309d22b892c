//! What the mirror did of late, for people who look at the status page: kept in memory, and bounded.
//!
//! Many of one kind within a short time are told as one ("240 crates fetched"), so that a burst
//! hides nothing else; trouble is kept apart, so that it is not pushed off by what goes well.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use crate::{
    registry::{CrateName, Release, words::size},
    store::{Event, EventKind},
};

/// How much is remembered of each kind.
const REMEMBERED: usize = 50;

/// What follows one another within so long is told as one.
const RUN: Duration = Duration::from_secs(120);

/// How many names of a run are told.
const TOLD_NAMES: usize = 3;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Happened {
    /// A name was seen for the first time.
    New,
    /// A version came.
    Version,
    /// A version was yanked.
    Yanked,
    /// A version is no longer yanked.
    Unyanked,
    /// A version went from the index.
    Removed,
    /// A version has another checksum.
    Changed,
    /// A name went from the index.
    Gone,
    /// A name came back.
    Back,
    /// A crate file was fetched.
    Fetched,
    /// Something went wrong.
    Trouble,
    /// A job ended.
    Job,
    /// A git index that is followed brought changes.
    Followed,
}

impl Happened {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Happened::New => "new",
            Happened::Version => "version",
            Happened::Yanked => "yanked",
            Happened::Unyanked => "unyanked",
            Happened::Removed => "removed",
            Happened::Changed => "changed",
            Happened::Gone => "gone",
            Happened::Back => "back",
            Happened::Fetched => "fetched",
            Happened::Trouble => "trouble",
            Happened::Job => "job",
            Happened::Followed => "followed",
        }
    }

    /// Whether it must not be pushed off by what is usual.
    pub fn is_notable(self) -> bool {
        matches!(
            self,
            Happened::Removed | Happened::Changed | Happened::Gone | Happened::Trouble
        )
    }

    /// What an event of the journal is.
    pub fn of(event: &EventKind) -> Happened {
        match event {
            EventKind::FirstSeen { .. } => Happened::New,
            EventKind::NewVersion { .. } => Happened::Version,
            EventKind::Yanked { .. } => Happened::Yanked,
            EventKind::Unyanked { .. } => Happened::Unyanked,
            EventKind::ChecksumChanged { .. } => Happened::Changed,
            EventKind::VersionRemoved { .. } => Happened::Removed,
            EventKind::NameGone => Happened::Gone,
            EventKind::NameBack => Happened::Back,
        }
    }
}

/// One thing that happened, in words, or a run of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// When; of a run: the last of it.
    pub at: SystemTime,
    /// What kind of thing.
    pub kind: Happened,
    /// The crate, if it is about one.
    pub name: Option<CrateName>,
    /// What; names and versions stand in backticks.
    pub what: String,
}

impl Activity {
    /// An event of the journal.
    pub(super) fn of(event: &Event) -> Activity {
        Activity {
            at: event.at,
            kind: Happened::of(&event.kind),
            name: Some(event.name.clone()),
            what: event.to_string(),
        }
    }
}

/// How often something happened since the start, and when it last did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// When it last did; `None`: never.
    pub last: Option<SystemTime>,
}

impl Tally {
    fn note(&mut self, at: SystemTime) {
        self.count = self.count.saturating_add(1);
        self.last = Some(at);
    }
}

/// What went wrong with files since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// Upstream sent something else than the index promises.
    pub mismatches: Tally,
    /// A file that was held was damaged.
    pub damaged: Tally,
}

/// Some of the same kind, shortly after one another.
#[derive(Debug)]
struct Run {
    last: SystemTime,
    count: u64,
    bytes: u64,
    /// Whether all are of one crate.
    is_of_one: bool,
    /// The last ones, the newest first.
    releases: VecDeque<Release>,
    /// The text of the last one.
    what: String,
}

#[derive(Debug, Default)]
struct Kept {
    others: VecDeque<Activity>,
    fetched: VecDeque<Run>,
    troubles: VecDeque<Run>,
    wrongs: Wrongs,
    /// Names of crates that were fetched, the newest last and each once.
    lately: VecDeque<CrateName>,
}

/// What happened of late.
#[derive(Debug, Default)]
pub(super) struct Activities(Mutex<Kept>);

impl Activities {
    /// Something that stands for itself.
    pub(super) fn note(&self, at: SystemTime, kind: Happened, what: String) {
        let mut kept = self.0.lock();
        let activity = Activity {
            at,
            kind,
            name: None,
            what,
        };
        push(&mut kept.others, activity);
    }

    /// A crate file of so many bytes came in.
    pub(super) fn fetched(&self, at: SystemTime, release: &Release, bytes: u64) {
        let what = format!("`{}` {} fetched", release.name, release.version);
        let mut kept = self.0.lock();
        run(&mut kept.fetched, at, release, bytes, what);
    }

    /// A file of a crate came in, in whatever way.
    pub(super) fn came(&self, name: &CrateName) {
        let mut kept = self.0.lock();
        if kept.lately.back() != Some(name) {
            kept.lately.retain(|known| known != name);
            push(&mut kept.lately, name.clone());
        }
    }

    /// Names of crates of which a file came in, the newest first.
    pub(super) fn lately(&self) -> Vec<CrateName> {
        self.0.lock().lately.iter().rev().cloned().collect()
    }

    /// A release is in trouble.
    pub(super) fn trouble(&self, at: SystemTime, release: &Release, what: String) {
        let mut kept = self.0.lock();
        run(&mut kept.troubles, at, release, 0, what);
    }

    pub(super) fn mismatch(&self, at: SystemTime) {
        self.0.lock().wrongs.mismatches.note(at);
    }

    pub(super) fn damaged(&self, at: SystemTime) {
        self.0.lock().wrongs.damaged.note(at);
    }

    pub(super) fn wrongs(&self) -> Wrongs {
        self.0.lock().wrongs
    }

    /// All that is remembered, in no order.
    pub(super) fn all(&self) -> Vec<Activity> {
        let kept = self.0.lock();
        let fetched = kept.fetched.iter().map(|run| run.told(Happened::Fetched));
        let troubles = kept.troubles.iter().map(|run| run.told(Happened::Trouble));
        kept.others
            .iter()
            .cloned()
            .chain(fetched)
            .chain(troubles)
            .collect()
    }
}

fn push<T>(to: &mut VecDeque<T>, one: T) {
    if to.len() >= REMEMBERED {
        to.pop_front();
    }
    to.push_back(one);
}

fn run(runs: &mut VecDeque<Run>, at: SystemTime, release: &Release, bytes: u64, what: String) {
    let is_near = |run: &&mut Run| match at.duration_since(run.last) {
        Ok(since) => since < RUN,
        Err(back) => back.duration() < RUN,
    };
    if let Some(run) = runs.back_mut().filter(is_near) {
        run.last = run.last.max(at);
        run.count = run.count.saturating_add(1);
        run.bytes = run.bytes.saturating_add(bytes);
        let last = run.releases.front();
        run.is_of_one &= last.is_some_and(|last| last.name == release.name);
        run.releases.push_front(release.clone());
        run.releases.truncate(TOLD_NAMES);
        run.what = what;
        return;
    }
    let one = Run {
        last: at,
        count: 1,
        bytes,
        is_of_one: true,
        releases: VecDeque::from([release.clone()]),
        what,
    };
    push(runs, one);
}

impl Run {
    fn told(&self, kind: Happened) -> Activity {
        let one = self.releases.front().filter(|_| self.is_of_one);
        Activity {
            at: self.last,
            kind,
            name: one.map(|release| release.name.clone()),
            what: match (self.count, kind) {
                (1, _) => self.what.clone(),
                (count, Happened::Fetched) => {
                    format!(
                        "{count} crates fetched, {}: {}",
                        size(self.bytes),
                        self.names()
                    )
                }
                (count, _) => format!("{count} times trouble, the last: {}", self.what),
            },
        }
    }

    fn names(&self) -> String {
        let told: Vec<String> = self
            .releases
            .iter()
            .map(|release| format!("`{}` {}", release.name, release.version))
            .collect();
        let more = self.count > told.len() as u64;
        let names = told.join(", ");
        if more { format!("{names}, …") } else { names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn release(version: u64) -> Release {
        Release::parse("demo", &format!("1.{version}.0")).expect("a release")
    }

    fn texts(activities: &Activities) -> Vec<String> {
        let mut all = activities.all();
        all.sort_by_key(|activity| activity.at);
        all.into_iter().map(|activity| activity.what).collect()
    }

    #[test]
    fn a_burst_of_fetches_is_one_line_and_hides_nothing() {
        let activities = Activities::default();
        activities.note(at(0), Happened::Job, "`verify` ended well".to_owned());
        activities.trouble(
            at(1),
            &release(7),
            "`demo 1.7.0` could not be fetched".to_owned(),
        );
        for number in 0..10_000 {
            activities.fetched(at(2 + number / 100), &release(number), 1024);
        }
        assert_eq!(
            texts(&activities),
            [
                "`verify` ended well",
                "`demo 1.7.0` could not be fetched",
                "10000 crates fetched, 10.2 MB: `demo` 1.9999.0, `demo` 1.9998.0, `demo` 1.9997.0, …"
            ]
        );
    }

    #[test]
    fn what_is_alone_is_told_as_it_is() {
        let activities = Activities::default();
        activities.fetched(at(0), &release(1), 5);
        activities.fetched(at(1000), &release(2), 5);
        let all = activities.all();
        assert_eq!(
            texts(&activities),
            ["`demo` 1.1.0 fetched", "`demo` 1.2.0 fetched"]
        );
        assert!(all.iter().all(|one| one.name.is_some()));
        activities.fetched(at(1001), &release(3), 5);
        assert_eq!(
            texts(&activities)[1],
            "2 crates fetched, 10 bytes: `demo` 1.3.0, `demo` 1.2.0"
        );
        let name = |activities: &Activities| activities.all().pop().and_then(|one| one.name);
        assert!(name(&activities).is_some(), "all are of one crate");
        let other = Release::parse("other", "1.0.0").expect("a release");
        activities.fetched(at(1002), &other, 5);
        assert_eq!(name(&activities), None);
    }

    #[test]
    fn there_is_a_bound() {
        let activities = Activities::default();
        for number in 0..1000 {
            let time = at(number * 1000);
            activities.note(time, Happened::Job, String::new());
            activities.fetched(time, &release(number), 1);
            activities.trouble(time, &release(number), String::new());
        }
        assert_eq!(activities.all().len(), 3 * REMEMBERED);
    }
}
