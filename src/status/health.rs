//! The one verdict about this server: pure rules over what was gathered.
//!
//! The status page, `/status.json`, `/readyz` and the status text of the service manager all show
//! this [`Health`].

use std::time::Duration;

use serde::Serialize;

use super::{
    facts::{Facts, MAX_FAILURES, SHOWN_FOR},
    item::{HealthItem, Level},
    machine::Machine,
};
use crate::{
    git_index::GitState,
    jobs::{ServerState, upkeep::Ended},
    metrics::SetAside,
    policy::freshness::Mode,
    registry::CrateName,
    store::{FolderCondition, LogEntry, Room},
    util::format::{grouped, plural, seconds, size, span},
};

/// How well the server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Of the whole: the worst of the headline and the items.
    pub level: Level,
    /// In a few words: `Serving`.
    pub headline: String,
    /// In a line: `upstream reachable, index checked 40 s ago`.
    pub detail: String,
    /// Headline and reason in a line that changes only when the state does:
    /// `serving; upstream reachable; 1,234 crates held`.
    #[serde(skip)]
    pub summary: String,
    /// Whether it should be sent requests. A mirror without upstream should: serving what it holds
    /// is what it is for. One that is stopping should not.
    #[serde(skip)]
    pub is_ready: bool,
    /// What needs somebody, the worst first.
    #[serde(skip)]
    pub items: Vec<HealthItem>,
}

impl Health {
    /// Judges what was gathered.
    pub fn of(facts: &Facts) -> Health {
        let mut items = items(facts);
        let (level, headline, reason) = state(facts);
        let summary = summary(facts, headline, reason, &items);
        // They say nothing about what is served, so the summary is the same with them.
        items.extend(set_aside(facts));
        items.extend(facts.machine.items());
        items.sort_by_key(|one| std::cmp::Reverse(one.level));
        let worst = items.iter().map(|item| item.level).max();
        Health {
            level: level.max(worst.unwrap_or_default()),
            headline: headline.to_owned(),
            detail: reach(&facts.status),
            summary,
            is_ready: !facts.is_stopping,
            items,
        }
    }
}

/// The level and the headline, and the reason without an age.
fn state(facts: &Facts) -> (Level, &'static str, &'static str) {
    let status = &facts.status;
    let (index, mode) = (&status.upstream.index, status.mode);
    if facts.is_stopping {
        return (
            Level::Warn,
            "Stopping",
            "answers under way come to their end",
        );
    }
    if !status.totals.writable {
        let headline = "Serving, but nothing new can be kept";
        return (Level::Bad, headline, "the disk is full or failed");
    }
    match (mode, is_in_trouble(status)) {
        (Mode::Offline, _) => (
            Level::Good,
            "Serving what is held",
            "upstream is never asked",
        ),
        // No build resolves once its entries are past their time.
        (Mode::Strict, true) => (
            Level::Bad,
            "Serving crates that are held, but no index entry past its time",
            "upstream is in trouble",
        ),
        (Mode::Fallback, true) => (
            Level::Warn,
            "Serving what is held",
            "upstream is in trouble",
        ),
        (_, false) if index.last_success.is_some() => {
            (Level::Good, "Serving", "upstream reachable")
        }
        (_, false) => (Level::Good, "Serving", "upstream not asked yet"),
    }
}

fn is_in_trouble(status: &ServerState) -> bool {
    status.mode != Mode::Offline
        && (status.upstream.is_breaker_open() || status.upstream.index.failed_last().is_some())
}

fn summary(facts: &Facts, headline: &str, reason: &str, items: &[HealthItem]) -> String {
    let blobs = facts.status.totals.blobs;
    let noun = if blobs == 1 { "crate" } else { "crates" };
    let held = grouped(blobs);
    let mut summary = headline.to_owned();
    if let Some(first) = summary.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    summary = format!("{summary}; {reason}; {held} {noun} held");
    match items.iter().filter(|item| item.level > Level::Good).count() {
        0 => summary,
        1 => summary + "; 1 thing needs attention",
        count => format!("{summary}; {count} things need attention"),
    }
}

/// How far upstream is reached, in a line.
fn reach(status: &ServerState) -> String {
    let answered = status.upstream.index.last_success.map(span);
    match (status.mode, is_in_trouble(status), answered) {
        (Mode::Offline, ..) => "mode `offline`: upstream is never asked".to_owned(),
        (_, true, Some(age)) => format!("upstream is in trouble; it last answered {age} ago"),
        (_, true, None) => "upstream is in trouble and has not answered since the start".to_owned(),
        (_, false, Some(age)) => format!("upstream reachable, index checked {age} ago"),
        (_, false, None) => "upstream has not been asked yet".to_owned(),
    }
}

/// What needs somebody, the worst first.
fn items(facts: &Facts) -> Vec<HealthItem> {
    let status = &facts.status;
    let mut all = Vec::new();
    all.extend(disk(facts.room, facts.status.totals.writable));
    all.extend(changes(facts));
    all.extend(files(facts));
    all.extend(hosts(status));
    all.extend(ahead(facts));
    all.extend(jobs(facts));
    all.extend(git(status));
    all.sort_by_key(|one| std::cmp::Reverse(one.level));
    all
}

/// Room from which on a disk that is nearly full is none of anybody's business.
const ROOM_ENOUGH_BYTES: u64 = 50 << 30;

/// How many times its time may pass before a saved set is overdue: a sync that takes long, or one
/// that failed, is no news.
const OVERDUE_TIMES: u32 = 3;

/// What there is to say about a data folder without a server: the items that a server reports, too.
pub fn store_items(folder: FolderCondition, room: Option<Room>) -> Vec<HealthItem> {
    let is_writable = room.is_none_or(|room| room.space.free_bytes > room.reserve_bytes);
    let machine = Machine {
        folder: Some(folder),
        ..Machine::default()
    };
    let mut items = machine.items_as(Level::Bad);
    items.extend(disk(room, is_writable));
    items
}

/// What there is to say about the disk of the data folder, where the store takes writes or not.
fn disk(room: Option<Room>, is_writable: bool) -> Option<HealthItem> {
    if !is_writable {
        return Some(item!(Bad,
            "The store takes no writes: the disk is full or failed. What is held is served, and nothing new is kept.";
            "Make room on the disk of the data folder; `orlop gc --unused-for 90d` removes what nobody fetched for so long. Writes come back by themselves."));
    }
    let room = room?;
    let (free, total) = (room.space.free_bytes, room.space.total_bytes);
    let is_low = free < total / 10 && free < ROOM_ENOUGH_BYTES;
    if !is_low && free >= room.reserve_bytes.saturating_mul(2) {
        return None;
    }
    Some(item!(Warn,
        "The disk of the data folder is nearly full: {} of {} are free. Below {} nothing new is kept.", size(free), size(total), size(room.reserve_bytes);
        "Make room, or remove what nobody fetched for long with `orlop gc --unused-for 90d`."))
}

/// What upstream changed that never should change, or took away.
fn changes(facts: &Facts) -> Vec<HealthItem> {
    let mut all = Vec::new();
    if let Some(last) = &facts.changed.last {
        let before = match facts.changed.count {
            1 => String::new(),
            count => format!(" It is the last of {count} within a week."),
        };
        all.push(item!(Warn,
            "A published version became another, {} ago: {}.{before}", ago(facts, last), last.text;
            "Find out why before you build with it; `orlop who {}` tells who fetched it. This note goes a week after the last change.", last.name.as_ref().map_or("NAME", CrateName::as_str)));
    }
    if let Some(last) = &facts.removed.last {
        all.push(item!(Warn,
            "{} went from upstream's index within a week, the last one {} ago: {}.", plural(facts.removed.count, "version"), ago(facts, last), last.text;
            "`orlop pin NAME@VERSION` keeps a file that you need. This note goes a week after the last removal."));
    }
    all
}

/// What is wrong with files: what upstream sent, and what is held.
fn files(facts: &Facts) -> Vec<HealthItem> {
    let status = &facts.status;
    let mut all = Vec::new();
    if let Some(last) = &facts.mismatches.last {
        all.push(item!(Warn,
            "Upstream sent {} that the index does not promise, the last one {} ago. Nothing of it was kept.", plural(facts.mismatches.count, "file"), ago(facts, last);
            "The log names each; something between here and upstream may change what passes. This note goes a week after the last one, or with the next start."));
    }
    if let Some(last) = &facts.damaged.last {
        let ago = ago(facts, last);
        let text = match facts.damaged.count {
            1 => format!("A file that is held was found damaged, {ago} ago. It is fetched again."),
            count => format!(
                "{count} files that are held were found damaged, the last one {ago} ago. They are fetched again."
            ),
        };
        all.push(item!(Warn,
            "{text}";
            "Look at the health of the disk, and run `orlop verify --repair`. This note goes a week after the last one, or with the next start."));
    }
    if status.totals.damaged > 0 {
        all.push(item!(Warn,
            "Damage was met {} in the records of the store since the start. What they told is fetched again.", plural(status.totals.damaged, "time");
            "Look at the health of the disk, and run `orlop verify`. This note goes with the next start."));
    }
    let verified = facts.recorded.verified.as_ref();
    if let Some(verified) = verified.filter(|verified| verified.problems > 0) {
        all.push(item!(Warn,
            "`orlop verify` found {} bad, {} ago.", plural(verified.problems, "file"), span(since(status, verified.at));
            "`orlop verify --repair` fetches them again. This note goes when a verify finds none."));
    }
    all
}

/// What is to be fetched ahead.
fn ahead(facts: &Facts) -> Vec<HealthItem> {
    let (status, recorded) = (&facts.status, &facts.recorded);
    let mut all = Vec::new();
    if recorded.failures > 0 {
        let more_than = match recorded.failures {
            MAX_FAILURES.. => "At least ",
            _ => "",
        };
        let first = recorded.first_failures.first();
        let first = first.map(|one| format!(", among them `{}` ({})", one.what, one.cause));
        all.push(item!(Warn,
            "{more_than}{} could not be fetched ahead{}.", plural(recorded.failures, "crate"), first.unwrap_or_default();
            "`orlop stats` lists them, and every `orlop sync` tries them again. This note goes with the last of them."));
    }
    let every = facts.sync_every.filter(|_| status.mode != Mode::Offline);
    for set in every.map_or(&[][..], |_every| &recorded.sets) {
        let good = set.run.ok_at.unwrap_or(set.saved);
        let late = since(status, good);
        if every.is_none_or(|every| late < every.saturating_mul(OVERDUE_TIMES)) {
            continue;
        }
        let why = set.run.error.as_ref().map(|why| format!(" ({why})"));
        all.push(item!(Warn,
            "The saved set `{}` was last whole {} ago{}.", set.name, span(late), why.unwrap_or_default();
            "`orlop sync` brings it up to date now and says what fails; `orlop sync --forget NAME` drops a set that nobody needs."));
    }
    all
}

/// Jobs whose last run failed. What a sync or a verify found is told by itself.
fn jobs(facts: &Facts) -> Vec<HealthItem> {
    let told = facts.recorded.last.iter().filter_map(|job| {
        let how = match job.ended {
            Ended::Failed => "failed",
            Ended::Problems if !["sync", "verify"].contains(&job.kind.as_str()) => "found problems",
            _ => return None,
        };
        let ago = since(&facts.status, job.at?);
        let text = format!("The last job `{}` {how}, {} ago.", job.kind, span(ago));
        (ago < SHOWN_FOR).then(|| {
            item!(Warn,
                "{text}";
                "The log tells why. This note goes when one ends well, or after a week.")
        })
    });
    told.collect()
}

fn ago(facts: &Facts, entry: &LogEntry) -> String {
    let age = facts.status.now.duration_since(entry.at);
    span(age.unwrap_or_default())
}

fn since(status: &ServerState, at_seconds: u64) -> Duration {
    Duration::from_secs(seconds(status.now).saturating_sub(at_seconds))
}

fn git(status: &ServerState) -> Vec<HealthItem> {
    let mut all = Vec::new();
    let git = status.git.as_ref();
    if let Some(why) = git.and_then(|git| git.failing.as_ref()) {
        all.push(item!(Warn,
            "The git index does not follow, and is tried again: {why}.";
            "The sparse index is not concerned. The log has the details."));
    }
    if git.is_some_and(|git| git.state == GitState::NoBase) {
        all.push(item!(Good,
            "The git index is not served: it names the URL that clients reach this mirror by, and none is set.";
            "Set `public_url` in the configuration, or `git.enabled = false` if nobody wants it."));
    }
    if git.is_some_and(|git| git.state == GitState::BeingMade) {
        all.push(item!(Good,
            "The git index is being made: its clients get status 503 until the first commit is there.";
            "Wait: the first commit comes within a minute, on a large store later. The sparse index is not concerned."));
    }
    for view in &status.views {
        if let Some(why) = &view.failing {
            all.push(item!(Warn,
                "The git index of the view `{}` does not follow, and is tried again: {why}.", view.name;
                "The sparse index of the view is not concerned. The log has the details."));
        }
    }
    all
}

/// What could not be used and was renamed, so that a new one took its place.
fn set_aside(facts: &Facts) -> Vec<HealthItem> {
    let items = facts
        .machine
        .set_aside
        .iter()
        .filter(|(_what, count)| *count > 0);
    let items = items.map(|(what, count)| match what {
        SetAside::Database => item!(Warn,
            "{} of the store could not be used and was set aside as `sled.broken-…` in the data folder.", plural(*count, "index database");
            "The log of that start has the reason: look at the health of the disk, and run `orlop verify`. Index files and crates came back or are fetched again; who fetched what, the traffic before and the last reports are in it alone. Delete it when they are not missed; `orlop gc` deletes it after a week."),
        SetAside::Repository => item!(Warn,
            "The git index could not be used and was set aside as `….broken-…` beside it, {}.", plural(*count, "time");
            "The log has the reason: look at the health of the disk. What could be read of it is in the store, and clients fetched the new one whole. Delete the folders `….broken-…` when builds work."),
    });
    items.collect()
}

fn hosts(status: &ServerState) -> Vec<HealthItem> {
    if status.mode == Mode::Offline {
        return Vec::new();
    }
    let hosts = [
        ("index", &status.upstream.index),
        ("downloads", &status.upstream.downloads),
    ];
    let troubled = hosts.into_iter().filter_map(|(host, health)| {
        let (age, why) = health.failed_last()?;
        let text = format!(
            "Upstream's {host} failed {} ago: {why}. {}",
            span(*age),
            served_meanwhile(status.mode)
        );
        Some(item!(Warn,
            "{text}";
            "Check the network of the server, and `upstream.url`, `upstream.proxy` and `upstream.ca_file`; `orlop doctor` there has the exact reason."))
    });
    troubled.collect()
}

fn served_meanwhile(mode: Mode) -> &'static str {
    match mode {
        Mode::Fallback | Mode::Offline => "What is held is served.",
        Mode::Strict => {
            "Crate files that are held are served, and index entries as long as they are fresh."
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{
        jobs::upkeep::{JobStats, RecordedFailure, SetStats, StatsReport, Verified},
        store::{LogKind, Occurrences, Room, Space, Totals},
        upstream::{self, BreakerState, HostHealth},
    };

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 24 * 60 * 60;

    fn host(last_success: Option<u64>, last_failure: Option<u64>) -> HostHealth {
        HostHealth {
            breaker: BreakerState::Closed,
            last_success: last_success.map(Duration::from_secs),
            last_failure: last_failure.map(|age| (Duration::from_secs(age), "refused".to_owned())),
            latency: None,
        }
    }

    fn room(free_bytes: u64, total_bytes: u64) -> Room {
        Room {
            space: Space {
                free_bytes,
                total_bytes,
            },
            reserve_bytes: 1_000_000_000,
        }
    }

    /// A mirror that fares well.
    fn well() -> Facts {
        Facts {
            is_stopping: false,
            status: ServerState {
                totals: Totals {
                    names: 1,
                    versions: 1,
                    held: 1,
                    index_raw_bytes: 1,
                    index_stored_bytes: 1,
                    blobs: 1,
                    blob_bytes: 1,
                    free_bytes: 1,
                    writable: true,
                    damaged: 0,
                },
                upstream: upstream::Health {
                    index: host(Some(40), None),
                    downloads: host(Some(40), None),
                },
                upstream_url: String::new(),
                follow: None,
                mode: Mode::Fallback,
                fetching: 0,
                refreshing: 0,
                git: None,
                views: Vec::new(),
                now: UNIX_EPOCH + Duration::from_secs(NOW),
                uptime: Duration::ZERO,
            },
            recorded: StatsReport::default(),
            running: Vec::new(),
            events: Vec::new(),
            changed: Occurrences::default(),
            removed: Occurrences::default(),
            mismatches: Occurrences::default(),
            damaged: Occurrences::default(),
            room: Some(room(500_000_000_000, 1_000_000_000_000)),
            oldest_stale: None,
            sync_every: None,
            machine: Machine::default(),
        }
    }

    fn git_index(failing: Option<&str>) -> crate::git_index::GitStatus {
        crate::git_index::GitStatus {
            state: GitState::Ready,
            base: None,
            head: None,
            cut: None,
            size_bytes: 0,
            staged: 0,
            failing: failing.map(str::to_owned),
        }
    }

    /// What the page, `/status.json`, `/readyz` and the service manager show, in all situations.
    #[test]
    fn the_verdict_says_what_is_served() {
        let check = |change: &dyn Fn(&mut Facts), level, detail: &str, summary: &str| {
            let mut facts = well();
            change(&mut facts);
            let health = Health::of(&facts);
            let said = (
                health.level,
                health.detail.as_str(),
                health.summary.as_str(),
            );
            assert_eq!(said, (level, detail, summary));
            assert_eq!(health.is_ready, !facts.is_stopping);
            assert!(summary.starts_with(&health.headline.to_lowercase()));
        };
        let down = |mode| {
            move |is: &mut Facts| {
                is.status.mode = mode;
                is.status.upstream.index = host(Some(40), Some(3));
            }
        };
        let reached = "upstream reachable, index checked 40 s ago";
        let trouble = "upstream is in trouble; it last answered 40 s ago";
        let serving = "serving; upstream reachable; 1 crate held";
        check(&|_is| {}, Level::Good, reached, serving);
        check(
            &|is| {
                is.status.upstream.index = host(None, None);
                is.status.totals.blobs = 1234;
            },
            Level::Good,
            "upstream has not been asked yet",
            "serving; upstream not asked yet; 1,234 crates held",
        );
        check(
            &|is| is.status.upstream.index = host(Some(40), Some(50)),
            Level::Good,
            reached,
            serving,
        );
        check(
            &down(Mode::Fallback),
            Level::Warn,
            trouble,
            "serving what is held; upstream is in trouble; 1 crate held; 1 thing needs attention",
        );
        check(
            &down(Mode::Strict),
            Level::Bad,
            trouble,
            "serving crates that are held, but no index entry past its time; upstream is in trouble; 1 crate held; 1 thing needs attention",
        );
        check(
            &down(Mode::Offline),
            Level::Good,
            "mode `offline`: upstream is never asked",
            "serving what is held; upstream is never asked; 1 crate held",
        );
        check(
            &|is| is.status.totals.writable = false,
            Level::Bad,
            reached,
            "serving, but nothing new can be kept; the disk is full or failed; 1 crate held; 1 thing needs attention",
        );
        check(
            &|is| is.status.git = Some(git_index(Some("no space"))),
            Level::Warn,
            reached,
            "serving; upstream reachable; 1 crate held; 1 thing needs attention",
        );
        check(
            &|is| is.changed = once(LogKind::Changed),
            Level::Warn,
            reached,
            "serving; upstream reachable; 1 crate held; 1 thing needs attention",
        );
        check(
            &|is| {
                is.is_stopping = true;
                is.changed = once(LogKind::Changed);
                is.damaged = once(LogKind::Damage);
            },
            Level::Warn,
            reached,
            "stopping; answers under way come to their end; 1 crate held; 2 things need attention",
        );
    }

    #[test]
    fn what_the_machine_lacks_is_an_item_and_no_part_of_what_readyz_reports() {
        let (mut facts, well) = (well(), Health::of(&well()));
        facts.machine.max_open_files = Some(256);
        facts.machine.set_aside = vec![(SetAside::Database, 1), (SetAside::Repository, 2)];
        let health = Health::of(&facts);
        assert_eq!((well.level, health.level), (Level::Good, Level::Warn));
        let said: Vec<&str> = health.items.iter().map(|item| item.text.as_str()).collect();
        assert!(
            said[0].contains("1 index database of the store"),
            "{said:?}"
        );
        assert!(said[1].contains("beside it, 2 times"), "{said:?}");
        assert!(said[2].contains("only 256 files"), "{said:?}");
        assert_eq!(health.summary, well.summary);
        assert!(health.is_ready);
    }

    #[test]
    fn a_folder_without_a_server_is_judged_by_the_same_rules() {
        let folder = FolderCondition {
            dir: "/data".into(),
            owner: 7,
            mode: 0o755,
            foreign: None,
            free_inodes: None,
        };
        let levels = |mode, free_bytes| {
            let folder = FolderCondition {
                mode,
                ..folder.clone()
            };
            let items = store_items(folder, Some(room(free_bytes, 1_000_000_000_000)));
            items.iter().map(|item| item.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(0o755, 500_000_000_000), []);
        assert_eq!(levels(0o755, 1_500_000_000), [Level::Warn]);
        assert_eq!(levels(0o777, 1_000_000_000), [Level::Bad, Level::Bad]);
    }

    fn once(kind: LogKind) -> Occurrences {
        let at = UNIX_EPOCH + Duration::from_secs(NOW - 2 * DAY);
        Occurrences {
            count: 1,
            last: Some(LogEntry::new(
                at,
                kind,
                "`demo` 1.0.0 is another".to_owned(),
            )),
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_needs_somebody_is_said_and_nothing_else() {
        let check = |change: &dyn Fn(&mut Facts), expected: &[(Level, &str)]| {
            let mut facts = well();
            change(&mut facts);
            let all = items(&facts);
            let said: Vec<(Level, &str)> = all
                .iter()
                .map(|one| (one.level, one.text.as_str()))
                .collect();
            assert_eq!(said.len(), expected.len(), "{said:?}");
            for (said, expected) in said.iter().zip(expected) {
                assert_eq!(said.0, expected.0, "{said:?}");
                assert!(said.1.contains(expected.1), "{said:?}");
            }
            assert!(all.iter().all(|one| one.remedy.is_some()));
        };
        let set = |ok_at, error: Option<&str>| {
            let mut set = SetStats {
                name: "lab".to_owned(),
                saved: NOW - 90 * DAY,
                ..SetStats::default()
            };
            (set.run.ok_at, set.run.error) = (ok_at, error.map(str::to_owned));
            vec![set]
        };
        let job = |kind: &str, ended, days: u64| JobStats {
            kind: kind.to_owned(),
            at: Some(NOW - days * DAY),
            ok_at: None,
            ended,
        };
        let daily = Some(Duration::from_secs(DAY));
        check(&|_is| {}, &[]);
        // The disk.
        let nearly = "nearly full: 5.0 GB of 100.0 GB are free. Below 1.0 GB";
        check(
            &|is| is.room = Some(room(5_000_000_000, 100_000_000_000)),
            &[(Level::Warn, nearly)],
        );
        check(&|is| is.room = Some(room(60 << 30, 1 << 50)), &[]);
        check(
            &|is| is.room = Some(room(1_900_000_000, 3_000_000_000)),
            &[(Level::Warn, "nearly")],
        );
        check(
            &|is| is.status.totals.writable = false,
            &[(Level::Bad, "takes no writes")],
        );
        // Sets.
        let late = "`lab` was last whole 4 days ago (no route)";
        check(
            &|is| {
                is.sync_every = daily;
                is.recorded.sets = set(Some(NOW - 4 * DAY), Some("no route"));
            },
            &[(Level::Warn, late)],
        );
        check(
            &|is| {
                is.sync_every = daily;
                is.recorded.sets = set(Some(NOW - 2 * DAY), Some("no route"));
            },
            &[],
        );
        check(&|is| is.recorded.sets = set(None, None), &[]);
        check(
            &|is| {
                is.sync_every = daily;
                is.status.mode = Mode::Offline;
                is.recorded.sets = set(None, None);
            },
            &[],
        );
        // Events.
        check(
            &|is| is.changed = once(LogKind::Changed),
            &[(
                Level::Warn,
                "became another, 2 days ago: `demo` 1.0.0 is another.",
            )],
        );
        check(
            &|is| {
                is.removed = once(LogKind::Removed);
                is.removed.count = 7;
                is.mismatches = once(LogKind::Mismatch);
                is.damaged = once(LogKind::Damage);
            },
            &[
                (
                    Level::Warn,
                    "7 versions went from upstream's index within a week",
                ),
                (
                    Level::Warn,
                    "Upstream sent 1 file that the index does not promise",
                ),
                (
                    Level::Warn,
                    "A file that is held was found damaged, 2 days ago.",
                ),
            ],
        );
        // Jobs, and what they found.
        check(
            &|is| {
                is.recorded.last = vec![
                    job("gc", Ended::Failed, 2),
                    job("backup", Ended::Problems, 3),
                    job("sync", Ended::Problems, 1),
                    job("seed", Ended::Failed, 8),
                    job("pin", Ended::Cancelled, 1),
                ];
            },
            &[
                (Level::Warn, "`gc` failed, 2 days ago"),
                (Level::Warn, "`backup` found problems, 3 days ago"),
            ],
        );
        let verified = |problems| Verified {
            at: NOW - DAY,
            problems,
        };
        check(
            &|is| is.recorded.verified = Some(verified(1)),
            &[(Level::Warn, "found 1 file bad, 1 day ago")],
        );
        check(&|is| is.recorded.verified = Some(verified(0)), &[]);
        check(
            &|is| {
                is.recorded.failures = MAX_FAILURES;
                is.recorded.first_failures = vec![RecordedFailure {
                    what: "demo@1.0.0".to_owned(),
                    cause: "404".to_owned(),
                    ..RecordedFailure::default()
                }];
            },
            &[(
                Level::Warn,
                "At least 10000 crates could not be fetched ahead, among them `demo@1.0.0` (404)",
            )],
        );
        // What is being made again, and what was set aside for it.
        check(
            &|is| {
                let git = git_index(None);
                is.status.git = Some(crate::git_index::GitStatus {
                    state: GitState::BeingMade,
                    ..git
                });
            },
            &[(Level::Good, "git index is being made")],
        );
        // The worst comes first.
        check(
            &|is| {
                is.status.upstream.downloads = host(None, Some(3));
                is.recorded.verified = Some(verified(2));
                is.status.totals.writable = false;
            },
            &[
                (Level::Bad, "takes no writes"),
                (Level::Warn, "found 2 files bad"),
                (
                    Level::Warn,
                    "Upstream's downloads failed 3 s ago: refused. What is held is served.",
                ),
            ],
        );
    }
}
