//! The verdict and what needs somebody: pure rules over what was gathered.

use std::time::Duration;

use super::model::{Attention, Level, Verdict};
use crate::{
    mirror::{
        GitState, Status,
        overview::{MOST_FAILURES, Overview, SHOWN_FOR},
        upkeep::Ended,
    },
    policy::freshness::Mode,
    registry::CrateName,
    store::LogEntry,
    util::format::{plural, seconds, size, span},
};

/// The one thing to know first. Something that needs somebody shows in its level.
pub(super) fn verdict(status: &Status, attention: &[Attention]) -> Verdict {
    let (level, headline, detail) = state(status);
    let worst = attention.iter().map(|one| one.level).max();
    Verdict {
        level: level.max(worst.unwrap_or_default()),
        headline: headline.to_owned(),
        detail,
    }
}

fn state(status: &Status) -> (Level, &'static str, String) {
    let reach = reach(status);
    if !status.totals.writable {
        return (Level::Bad, "Serving, but nothing new can be kept", reach);
    }
    let is_troubled = status.mode != Mode::Offline
        && (status.upstream.is_breaker_open() || status.upstream.index.failed_last().is_some());
    match (is_troubled, status.mode) {
        (false, Mode::Offline) => (Level::Good, "Serving what is held", reach),
        (false, _) => (Level::Good, "Serving", reach),
        // No build resolves once its entries are past their time.
        (true, Mode::Strict) => (
            Level::Bad,
            "Serving crates that are held, but no index entry past its time",
            reach,
        ),
        (true, _) => (Level::Warn, "Serving what is held", reach),
    }
}

/// How far upstream is reached, in a line.
fn reach(status: &Status) -> String {
    let index = &status.upstream.index;
    if status.mode == Mode::Offline {
        return "mode `offline`: upstream is never asked".to_owned();
    }
    if status.upstream.is_breaker_open() || index.failed_last().is_some() {
        return match index.last_success {
            Some(age) => format!("upstream is in trouble; it last answered {} ago", span(age)),
            None => "upstream is in trouble and has not answered since the start".to_owned(),
        };
    }
    match index.last_success {
        Some(age) => format!("upstream reachable, index checked {} ago", span(age)),
        None => "upstream has not been asked yet".to_owned(),
    }
}

/// What needs somebody, the worst first.
pub(super) fn attention(overview: &Overview) -> Vec<Attention> {
    let status = &overview.status;
    let mut all = Vec::new();
    all.extend(disk(overview));
    all.extend(changes(overview));
    all.extend(files(overview));
    all.extend(hosts(status));
    all.extend(ahead(overview));
    all.extend(jobs(overview));
    all.extend(git(status));
    all.sort_by_key(|one| std::cmp::Reverse(one.level));
    all
}

/// Room from which on a disk that is nearly full is none of anybody's business.
const ROOM_ENOUGH_BYTES: u64 = 50 << 30;

/// How many times its time may pass before a saved set is overdue: a sync that takes long, or one
/// that failed, is no news.
const OVERDUE_TIMES: u32 = 3;

fn disk(overview: &Overview) -> Option<Attention> {
    if !overview.status.totals.writable {
        return Some(item(
            Level::Bad,
            "The store takes no writes: the disk is full or failed. What is held is served, and nothing new is kept.",
            "Make room on the disk of the data folder; `orlop gc --unused-for 90d` removes what nobody fetched for so long. Writes come back by themselves.",
        ));
    }
    let room = overview.room?;
    let (free, total) = (room.space.free_bytes, room.space.total_bytes);
    let is_low = free < total / 10 && free < ROOM_ENOUGH_BYTES;
    if !is_low && free >= room.reserve_bytes.saturating_mul(2) {
        return None;
    }
    Some(item(
        Level::Warn,
        format!(
            "The disk of the data folder is nearly full: {} of {} are free. Below {} nothing new is kept.",
            size(free),
            size(total),
            size(room.reserve_bytes)
        ),
        "Make room, or remove what nobody fetched for long with `orlop gc --unused-for 90d`.",
    ))
}

/// What upstream changed that never should change, or took away.
fn changes(overview: &Overview) -> Vec<Attention> {
    let mut all = Vec::new();
    if let Some(last) = &overview.changed.last {
        let before = match overview.changed.count {
            1 => String::new(),
            count => format!(" It is the last of {count} within a week."),
        };
        all.push(item(
            Level::Warn,
            format!(
                "A published version became another, {} ago: {}.{before}",
                ago(overview, last),
                last.text
            ),
            format!(
                "Find out why before you build with it; `orlop who {}` tells who fetched it. This note goes a week after the last change.",
                last.name.as_ref().map_or("NAME", CrateName::as_str)
            ),
        ));
    }
    if let Some(last) = &overview.removed.last {
        all.push(item(
            Level::Warn,
            format!(
                "{} went from upstream's index within a week, the last one {} ago: {}.",
                plural(overview.removed.count, "version"),
                ago(overview, last),
                last.text
            ),
            "`orlop pin NAME@VERSION` keeps a file that you need. This note goes a week after the last removal.",
        ));
    }
    all
}

/// What is wrong with files: what upstream sent, and what is held.
fn files(overview: &Overview) -> Vec<Attention> {
    let status = &overview.status;
    let mut all = Vec::new();
    if let Some(last) = &overview.mismatches.last {
        all.push(item(
            Level::Warn,
            format!(
                "Upstream sent {} that the index does not promise, the last one {} ago. Nothing of it was kept.",
                plural(overview.mismatches.count, "file"),
                ago(overview, last)
            ),
            "The log names each; something between here and upstream may change what passes. This note goes a week after the last one, or with the next start.",
        ));
    }
    if let Some(last) = &overview.damaged.last {
        let ago = ago(overview, last);
        let text = match overview.damaged.count {
            1 => format!("A file that is held was found damaged, {ago} ago. It is fetched again."),
            count => format!(
                "{count} files that are held were found damaged, the last one {ago} ago. They are fetched again."
            ),
        };
        all.push(item(
            Level::Warn,
            text,
            "Look at the health of the disk, and run `orlop verify --repair`. This note goes a week after the last one, or with the next start.",
        ));
    }
    if status.totals.damaged > 0 {
        all.push(item(
            Level::Warn,
            format!(
                "Damage was met {} in the records of the store since the start. What they told is fetched again.",
                plural(status.totals.damaged, "time")
            ),
            "Look at the health of the disk, and run `orlop verify`. This note goes with the next start.",
        ));
    }
    let verified = overview.recorded.verified.as_ref();
    if let Some(verified) = verified.filter(|verified| verified.problems > 0) {
        all.push(item(
            Level::Warn,
            format!(
                "`orlop verify` found {} bad, {} ago.",
                plural(verified.problems, "file"),
                span(since(status, verified.at))
            ),
            "`orlop verify --repair` fetches them again. This note goes when a verify finds none.",
        ));
    }
    all
}

/// What is to be fetched ahead.
fn ahead(overview: &Overview) -> Vec<Attention> {
    let (status, recorded) = (&overview.status, &overview.recorded);
    let mut all = Vec::new();
    if recorded.failures > 0 {
        let more_than = match recorded.failures {
            MOST_FAILURES.. => "At least ",
            _ => "",
        };
        let first = recorded.first_failures.first();
        let first = first.map(|one| format!(", among them `{}` ({})", one.what, one.cause));
        all.push(item(
            Level::Warn,
            format!(
                "{more_than}{} could not be fetched ahead{}.",
                plural(recorded.failures, "crate"),
                first.unwrap_or_default()
            ),
            "`orlop stats` lists them, and every `orlop sync` tries them again. This note goes with the last of them.",
        ));
    }
    let every = overview.sync_every.filter(|_| status.mode != Mode::Offline);
    for set in every.map_or(&[][..], |_every| &recorded.sets) {
        let good = set.run.ok_at.unwrap_or(set.saved);
        let late = since(status, good);
        if every.is_none_or(|every| late < every.saturating_mul(OVERDUE_TIMES)) {
            continue;
        }
        let why = set.run.error.as_ref().map(|why| format!(" ({why})"));
        all.push(item(
            Level::Warn,
            format!(
                "The saved set `{}` was last whole {} ago{}.",
                set.name,
                span(late),
                why.unwrap_or_default()
            ),
            "`orlop sync` brings it up to date now and says what fails; `orlop sync --forget NAME` drops a set that nobody needs.",
        ));
    }
    all
}

/// Jobs whose last run failed. What a sync or a verify found is told by itself.
fn jobs(overview: &Overview) -> Vec<Attention> {
    let told = overview.recorded.last.iter().filter_map(|job| {
        let how = match job.ended {
            Ended::Failed => "failed",
            Ended::Problems if !["sync", "verify"].contains(&job.kind.as_str()) => "found problems",
            _ => return None,
        };
        let ago = since(&overview.status, job.at?);
        let text = format!("The last job `{}` {how}, {} ago.", job.kind, span(ago));
        (ago < SHOWN_FOR).then(|| {
            item(
                Level::Warn,
                text,
                "The log tells why. This note goes when one ends well, or after a week.",
            )
        })
    });
    told.collect()
}

fn ago(overview: &Overview, entry: &LogEntry) -> String {
    let age = overview.status.now.duration_since(entry.at);
    span(age.unwrap_or_default())
}

fn since(status: &Status, at_seconds: u64) -> Duration {
    Duration::from_secs(seconds(status.now).saturating_sub(at_seconds))
}

fn git(status: &Status) -> Vec<Attention> {
    let mut all = Vec::new();
    let git = status.git.as_ref();
    if let Some(why) = git.and_then(|git| git.failing.as_ref()) {
        all.push(item(
            Level::Warn,
            format!("The git index does not follow, and is tried again: {why}."),
            "The sparse index is not concerned. The log has the details.",
        ));
    }
    if git.is_some_and(|git| git.state == GitState::NoBase) {
        all.push(item(
            Level::Good,
            "The git index is not served: it names the URL that clients reach this mirror by, and none is set.",
            "Set `public_url` in the configuration, or `git.enabled = false` if nobody wants it.",
        ));
    }
    for view in &status.views {
        if let Some(why) = &view.failing {
            all.push(item(
                Level::Warn,
                format!(
                    "The git index of the view `{}` does not follow, and is tried again: {why}.",
                    view.name
                ),
                "The sparse index of the view is not concerned. The log has the details.",
            ));
        }
    }
    all
}

fn hosts(status: &Status) -> Vec<Attention> {
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
        Some(item(
            Level::Warn,
            text,
            "`orlop doctor` tries the way to upstream step by step.",
        ))
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

fn item(level: Level, text: impl Into<String>, remedy: impl Into<String>) -> Attention {
    Attention {
        level,
        text: text.into(),
        remedy: Some(remedy.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{
        mirror::upkeep::{JobStats, RecordedFailure, SetStats, StatsReport, Verified},
        store::{Occurrences, Room, Space, Totals},
        upstream::{BreakerState, Health, HostHealth},
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
    fn well() -> Overview {
        Overview {
            status: Status {
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
                upstream: Health {
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
        }
    }

    #[test]
    fn the_headline_says_what_is_served() {
        let check = |mode, last_failure, writable, expected: (Level, &str, &str)| {
            let mut status = well().status;
            (status.mode, status.totals.writable) = (mode, writable);
            status.upstream.index = host(Some(40), last_failure);
            let said = verdict(&status, &[]);
            let said = (said.level, said.headline.as_str(), said.detail.as_str());
            assert_eq!(said, expected);
        };
        let reached = "upstream reachable, index checked 40 s ago";
        let troubled = "upstream is in trouble; it last answered 40 s ago";
        let (fallback, strict, offline) = (Mode::Fallback, Mode::Strict, Mode::Offline);
        check(fallback, None, true, (Level::Good, "Serving", reached));
        check(fallback, Some(50), true, (Level::Good, "Serving", reached));
        let held = "Serving what is held";
        check(fallback, Some(3), true, (Level::Warn, held, troubled));
        let strictly = "Serving crates that are held, but no index entry past its time";
        check(strict, Some(3), true, (Level::Bad, strictly, troubled));
        let never = "mode `offline`: upstream is never asked";
        check(offline, Some(3), true, (Level::Good, held, never));
        let full = "Serving, but nothing new can be kept";
        check(fallback, None, false, (Level::Bad, full, reached));
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_needs_somebody_is_said_and_nothing_else() {
        let check = |change: &dyn Fn(&mut Overview), expected: &[(Level, &str)]| {
            let mut overview = well();
            change(&mut overview);
            let all = attention(&overview);
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
                is.recorded.failures = MOST_FAILURES;
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
