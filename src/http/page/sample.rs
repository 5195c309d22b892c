//! Pages of data for the tests: an empty store, a busy one, one in trouble, and what is hostile.

use super::model::{
    ClientWay, Clients, FollowFacts, GitFacts, HeldFacts, HostFacts, JobFacts, LastJobFacts,
    Overview, UpstreamFacts,
};
use crate::{
    metrics::Traffic,
    registry::client::{client_config, git_client_config, view_base},
    status::{
        CratePage, EventFacts, FoundCrate, Health, HealthItem, Level, Point, Range, SearchPage,
        TrafficSeries, VersionFacts,
    },
};

/// A Monday in November.
pub(super) const NOW: u64 = 1_795_395_861;

const BASE: &str = "http://mirror.lab:8080";

/// A store that nobody has used.
pub(super) fn empty() -> Overview {
    Overview {
        version: "0.1.0".into(),
        now_seconds: NOW,
        uptime_seconds: 75,
        verdict: Health {
            level: Level::Good,
            headline: "Serving".into(),
            detail: "upstream has not been asked yet".into(),
            ..Health::default()
        },
        upstream: UpstreamFacts {
            name: "index.example".into(),
            url: "sparse+https://index.example/".into(),
            mode: "fallback".into(),
            index: host(Level::Good, "not asked yet"),
            downloads: host(Level::Good, "not asked yet"),
            ..UpstreamFacts::default()
        },
        held: HeldFacts {
            free_bytes: 96 << 30,
            disk_bytes: 240 << 30,
            writable: true,
            held_names: Some(0),
            ..HeldFacts::default()
        },
        git: Some(GitFacts {
            state: "no-base".into(),
            ..GitFacts::default()
        }),
        traffic: traffic(|_| Traffic::default()),
        clients: clients(),
        ..Overview::default()
    }
}

/// A day in a lab.
pub(super) fn busy() -> Overview {
    Overview {
        uptime_seconds: 12 * 86_400 + 5 * 3600,
        verdict: Health {
            level: Level::Good,
            headline: "Serving".into(),
            detail: "upstream reachable, index checked 40 s ago".into(),
            ..Health::default()
        },
        upstream: busy_upstream(),
        held: busy_store(),
        git: Some(busy_git()),
        traffic: traffic(workday),
        events: events(),
        jobs: vec![JobFacts {
            kind: "sync".into(),
            command: "orlop sync --lockfile Cargo.lock".into(),
            since_seconds: NOW - 190,
            phase: "fetching crate files".into(),
            done: 1_288,
            total: Some(1_931),
            bytes: 402_653_184,
        }],
        last_jobs: vec![
            last("verify", "well", Level::Good, 4 * 3600, Some(4 * 3600)),
            last(
                "refresh",
                "problems",
                Level::Warn,
                9 * 3600,
                Some(33 * 3600),
            ),
        ],
        ..empty()
    }
}

fn busy_upstream() -> UpstreamFacts {
    UpstreamFacts {
        name: "index.example".into(),
        url: "sparse+https://index.example/".into(),
        mode: "fallback".into(),
        index: host(Level::Good, "answered 40 s ago in 38 ms"),
        downloads: host(Level::Good, "answered 6 min ago in 52 ms"),
        follow: Some(FollowFacts {
            commit: Some("8d1f0c2b7a6e5d4c3b2a190817263544f5e6d7c8".into()),
            age_seconds: Some(130),
            changed: 4812,
        }),
        refreshing: 2,
        fetching: 1,
        oldest_stale_seconds: None,
    }
}

fn busy_store() -> HeldFacts {
    HeldFacts {
        names: 1_683,
        files: 2_941,
        stored_bytes: 1_572_864_000,
        raw_bytes: 1_572_864_000,
        index_stored_bytes: 14_680_064,
        index_raw_bytes: 101_711_872,
        versions: 61_320,
        held_versions: 2_941,
        free_bytes: 96 << 30,
        disk_bytes: 240 << 30,
        writable: true,
        held_names: Some(1_204),
        held_index: Some(format!("{BASE}/view/held/index/")),
    }
}

fn busy_git() -> GitFacts {
    GitFacts {
        state: "ready".into(),
        url: Some(format!("{BASE}/git/index")),
        commit: Some("1c9a3f5e7d2b4a6c8e0f1a2b3c4d5e6f70819203".into()),
        generation: 318,
        cut_seconds: Some(NOW - 1_530),
        bytes: 231_735_296,
        staged: 12,
        failing: None,
    }
}

/// Upstream is gone, the disk is full, and a file was not what it was to be.
pub(super) fn trouble() -> Overview {
    let mut page = busy();
    page.verdict = Health {
        level: Level::Bad,
        headline: "Serving, but nothing new can be kept".into(),
        detail: "upstream is in trouble; it last answered 3 h ago".into(),
        ..Health::default()
    };
    page.attention = vec![
        HealthItem {
            level: Level::Bad,
            text: "The store takes no writes: the disk is full or failed. What is held is served, and nothing new is kept.".into(),
            remedy: Some("Make room on the disk of the data folder; `orlop gc --unused-for 90d` removes what nobody fetched for so long. Writes come back by themselves.".into()),
        },
        HealthItem {
            level: Level::Bad,
            text: "The file of `left-pad` `1.2.0` does not have the checksum that the index names; it was not kept.".into(),
            remedy: Some("Somebody between here and upstream changes files, or upstream is damaged. Look at `orlop who left-pad@1.2.0`.".into()),
        },
        HealthItem {
            level: Level::Warn,
            text: "Upstream's index failed 12 s ago: connection refused (os error 111). What is held is served.".into(),
            remedy: Some("`orlop doctor` tells how far the network goes.".into()),
        },
        HealthItem {
            level: Level::Good,
            text: "`tokio` `1.48.0` was yanked upstream; it is pinned here and served on.".into(),
            remedy: None,
        },
    ];
    page.upstream.index = host(Level::Warn, "left alone for 30 s; answered 3 h ago");
    page.upstream.downloads = host(Level::Warn, "failed 2 min ago; answered 3 h ago");
    page.upstream.oldest_stale_seconds = Some(3 * 3600 + 120);
    page.held.free_bytes = 0;
    page.held.writable = false;
    page.traffic = traffic(|step| Traffic {
        index_stale: if step > 250 { 40 + step % 7 * 9 } else { 0 },
        index_misses: if step > 250 { 0 } else { step % 5 * 8 },
        upstream_failures: u64::from(step > 250) * 3,
        ..workday(step)
    });
    page.events.insert(0, event(4, "trouble", Level::Bad, "the file of `left-pad` `1.2.0` was refused: its checksum is not the one that the index names"));
    page
}

/// All names and texts try to get out of where they are.
pub(super) fn hostile() -> Overview {
    let evil = "<script>alert(\"1\")</script>'&";
    let mut page = busy();
    page.verdict.headline = evil.into();
    page.verdict.detail = format!("`{evil}`");
    page.attention = vec![HealthItem {
        level: Level::Warn,
        text: format!("{evil} `{evil}`"),
        remedy: Some(evil.into()),
    }];
    page.upstream.url = evil.into();
    page.upstream.index.text = evil.into();
    page.jobs = vec![JobFacts {
        kind: evil.into(),
        command: evil.into(),
        phase: evil.into(),
        ..JobFacts::default()
    }];
    page.events = vec![event(1, evil, Level::Good, evil)];
    page.clients.ways = vec![way(evil, evil, evil, Some(evil.into()))];
    page.git = Some(GitFacts {
        failing: Some(evil.into()),
        state: evil.into(),
        ..GitFacts::default()
    });
    page
}

/// A crate with all that a version can be.
pub(super) fn krate() -> CratePage {
    let versions = (0..40_u64).map(|back| {
        let is_held = back % 3 == 0;
        VersionFacts {
            version: format!("1.0.{}", 228 - back),
            checksum: crate::registry::Checksum::of(&back.to_be_bytes()).to_string(),
            yanked: back == 4,
            removed: back == 7,
            held: is_held,
            pinned: back == 3,
            bytes: is_held.then_some(78_983 - back * 311),
            published_seconds: Some(NOW - 86_400 * (20 + back * 17)),
            first_seen_seconds: Some(NOW - 86_400 * 12),
            downloads: if is_held { 412 / (back + 1) } else { 0 },
            rust_version: (back < 30).then(|| "1.56".to_owned()),
        }
    });
    CratePage {
        name: "serde".into(),
        is_gone: false,
        checked_seconds: Some(40),
        max_version: Some("1.0.228".into()),
        held_version: Some("1.0.217".into()),
        versions_count: 312,
        held_count: 14,
        held_bytes: 1_071_234,
        downloads: 1_327,
        counted_since_seconds: Some(NOW - 86_400 * 12),
        versions: versions.collect(),
        events: events().into_iter().take(3).collect(),
        dependency: "serde = \"1.0.228\"".into(),
    }
}

/// A search with long names.
pub(super) fn found() -> SearchPage {
    let long = "a".repeat(64);
    let names = [
        "serde",
        "serde_json",
        "serde_derive",
        "serde-wasm-bindgen",
        long.as_str(),
    ];
    let found = names.iter().enumerate().map(|(at, name)| FoundCrate {
        name: (*name).to_owned(),
        max_version: (at != 3).then(|| format!("1.{at}.0")),
        versions: 10_312 / (at as u64 + 1),
        held: 14 >> at,
    });
    SearchPage {
        query: "serde".into(),
        found: found.collect(),
        total: 73,
    }
}

fn host(level: Level, text: &str) -> HostFacts {
    HostFacts {
        level,
        text: text.into(),
        ..HostFacts::default()
    }
}

fn traffic(sums: impl Fn(u64) -> Traffic) -> TrafficSeries {
    let points: Vec<Point> = (0..288_u64)
        .map(|step| Point {
            at_seconds: NOW / 300 * 300 - (287 - step) * 300,
            sums: sums(step),
        })
        .collect();
    TrafficSeries {
        range: Range::Day,
        step_seconds: 300,
        total: Point::sum(&points),
        points,
        since_seconds: NOW - 12 * 86_400,
    }
}

/// Quiet at night, two humps by day, and a build server every hour.
fn workday(step: u64) -> Traffic {
    let of_day = (step + 15) % 288;
    let hump = |middle: u64, width: u64| width.saturating_sub(of_day.abs_diff(middle)) * 9;
    let hourly = u64::from(of_day.is_multiple_of(12)) * 260;
    let noise = step * 7919 % 41;
    let hits = hump(120, 40) + hump(190, 44) + hourly + noise;
    let misses = hits / 23 + u64::from(step % 71 == 5) * 90;
    Traffic {
        index_hits: hits * 2 / 3,
        index_misses: misses,
        crate_hits: hits / 3,
        crate_misses: misses / 4,
        served_bytes: hits * 41_000 + misses * 60_000,
        saved_bytes: hits * 41_000,
        fetched_bytes: misses * 60_000,
        ..Traffic::default()
    }
}

fn events() -> Vec<EventFacts> {
    vec![
        event(21, "fetched", Level::Good, "fetched `tokio` `1.48.0`"),
        event(
            95,
            "version",
            Level::Good,
            "`clap` has the new version `4.5.53`",
        ),
        event(
            1_260,
            "new",
            Level::Good,
            "`tower-lsp-server` is new in the index",
        ),
        event(3_700, "yanked", Level::Good, "`time` `0.3.46` was yanked"),
        event(
            3_712,
            "unyanked",
            Level::Good,
            "`zip` `6.0.1` is no longer yanked",
        ),
        event(
            9_400,
            "removed",
            Level::Warn,
            "`faster_log` `1.7.8` was removed upstream; its file is kept",
        ),
        event(
            40_000,
            "changed",
            Level::Bad,
            "the checksum of `async_println` `1.0.1` changed upstream; the file with the old one is kept",
        ),
        event(90_000, "gone", Level::Warn, "`evm-units` is gone upstream"),
        event(150_000, "job", Level::Good, "`orlop verify` ended well"),
        event(
            200_000,
            "back",
            Level::Good,
            "`uniswap-utils` is back upstream",
        ),
    ]
}

fn event(age: u64, kind: &str, level: Level, text: &str) -> EventFacts {
    EventFacts {
        at_seconds: NOW - age,
        kind: kind.into(),
        level,
        text: text.into(),
        name: text
            .split('`')
            .nth(1)
            .filter(|_| kind != "job")
            .map(str::to_owned),
    }
}

fn last(kind: &str, ended: &str, level: Level, age: u64, ok: Option<u64>) -> LastJobFacts {
    LastJobFacts {
        kind: kind.into(),
        ended: ended.into(),
        level,
        at_seconds: NOW - age,
        ok_at_seconds: ok.map(|age| NOW - age),
    }
}

fn clients() -> Clients {
    Clients {
        base: BASE.into(),
        ways: vec![
            way(
                "sparse",
                "Sparse index",
                "For cargo 1.68 and newer: only the entries that a build needs are asked for.",
                Some(client_config(BASE)),
            ),
            way(
                "git",
                "Git index",
                "For a cargo older than 1.68, and for tools that read the index as a git repository.",
                Some(git_client_config(BASE)),
            ),
            way(
                "held",
                "Held crates only",
                "Shows only versions whose files are here, so that a build never waits for upstream.",
                Some(client_config(&view_base(BASE, "held"))),
            ),
        ],
    }
}

fn way(id: &str, title: &str, note: &str, config: Option<String>) -> ClientWay {
    ClientWay {
        id: id.into(),
        title: title.into(),
        note: note.into(),
        config,
    }
}
