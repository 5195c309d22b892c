//! How a sync ends that comes to no end, and what a plan of everything weighs.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use super::{failures::Failures, fetching::Fetching, *};
use crate::{
    jobs::{
        JobRecord,
        error::Failure,
        saved_sets::set_names,
        select::{
            Chosen, Everything,
            world::{World, change, crates, line, lockfile, name, sum},
        },
    },
    store::Table,
};

fn kept(world: &World, table: Table) -> Vec<String> {
    let mut keys = Vec::new();
    let walk = world.store().kept_all(table, "", |key, _bytes| {
        keys.push(key.to_owned());
        std::ops::ControlFlow::Continue(())
    });
    walk.expect("readable");
    keys
}

#[tokio::test]
async fn a_sync_that_waited_in_vain_leaves_word_of_how_far_it_came() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &[]), ("1.1.0", &[])]);
    world.hold("a", "1.0.0");
    let locked = ["1.0.0", "1.1.0"].map(|version| ("a", version, sum("a", version)));
    let mut request = SyncRequest {
        save: Some("mine".to_owned()),
        ..SyncRequest::default()
    };
    request.selection.lockfiles = vec![lockfile(&locked)];
    let outcome = world.jobs.run(request, JobContext::of_test()).await;
    let error = outcome.expect_err("upstream is away");
    assert_eq!(error.fault, Fault::Unavailable, "exit 3");
    let bytes = world
        .store()
        .kept(Table::Reports, "sync")
        .expect("readable");
    let record: JobRecord = serde_json::from_slice(&bytes.expect("kept")).expect("a record");
    let said = record.error.expect("an error").message;
    assert!(said.ends_with("; 0 of 1 were fetched"), "{said}");
    let run = set_run(&world.services, "mine");
    assert_eq!((run.ok_at, run.error), (None, Some(said)));
    // Where the names themselves cannot be asked for, it says so too.
    let selection = crates(&["b", "c"]);
    let outcome = select::choose(&world.services, &selection, true, &JobContext::of_test()).await;
    let said = outcome.expect_err("upstream is away").message;
    assert!(said.ends_with("; 0 of 2 names were resolved"), "{said}");
}

#[tokio::test]
async fn so_many_failures_that_they_have_one_cause_end_a_sync_and_are_kept() {
    let world = World::new();
    let failed = (0..=50_000).map(|number| Failure {
        what: format!("k{number}@1.0.0"),
        cause: "the index has no such version".to_owned(),
        lasting: true,
    });
    let chosen = Chosen {
        failed: failed.collect(),
        ..Chosen::default()
    };
    let retry = JobRetry::start(&world.services, &JobContext::of_test());
    let fetching = Fetching::plan(&world.services, chosen, &retry, false).await;
    let error = fetching
        .expect("planned")
        .run()
        .await
        .expect_err("too many");
    assert_eq!(error.fault, Fault::Unavailable, "exit 3");
    assert_eq!(
        error.message,
        "more than 50000 releases failed; 0 of 0 were fetched"
    );
    assert_eq!(kept(&world, Table::Failures).len(), 50_001);
}

#[tokio::test]
async fn a_failure_that_cannot_be_kept_takes_no_other_with_it() {
    let world = World::new();
    // As a requirement may be: the store takes keys of 512 bytes.
    let long = format!("a@=1.0.0-{}", "x".repeat(600));
    let failure = |what: &str| Failure {
        what: what.to_owned(),
        cause: "the index has no such version".to_owned(),
        lasting: true,
    };
    let chosen = || Chosen {
        failed: [&long, "", "b@1.0.0", "c@1.0.0"].map(failure).into(),
        ..Chosen::default()
    };
    for _time in 0..2 {
        let retry = JobRetry::start(&world.services, &JobContext::of_test());
        let fetching = Fetching::plan(&world.services, chosen(), &retry, false).await;
        fetching.expect("planned").run().await.expect("it ends");
    }
    let keys = kept(&world, Table::Failures);
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert!(keys[0].starts_with("a@=1.0.0-xxx") && keys[0].len() < 200);
    let record = world.store().kept(Table::Failures, &keys[0]);
    let record = record.expect("readable").expect("kept");
    let record: FailureRecord = serde_json::from_slice(&record).expect("a record");
    assert_eq!((record.what, record.count), (Some(long), 2));
}

#[tokio::test]
async fn a_set_is_forgotten_where_no_client_waits() {
    let world = World::new();
    let selection = crates(&["a"]);
    save_set(&world.services, "mine", &selection).expect("saved");
    let request = SyncRequest {
        forget: Some("mine".to_owned()),
        ..SyncRequest::default()
    };
    let mut forgetting = Box::pin(request.run(JobContext::of_test(), world.services.clone()));
    assert!(
        (&mut forgetting).now_or_never().is_none(),
        "it is forgotten by another thread"
    );
    forgetting.await.expect("forgotten");
    assert!(set_names(&world.services).expect("readable").is_empty());
}

/// An upstream that answers so many requests with a 429 that wants `rest` seconds, and 404 then.
fn restful(times: usize, rest: u64) -> url::Url {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            let asked = head.take_while(|line| !line.is_empty()).count();
            let answer = if number < times {
                format!(
                    "429 Rest
Retry-After: {rest}"
                )
            } else {
                "404 None".to_owned()
            };
            let close = "Connection: close
Content-Length: 0

";
            let sent = write!(
                &stream,
                "HTTP/1.1 {answer}
{close}"
            );
            drop((sent, asked));
        }
    });
    url::Url::parse(&format!("http://{address}/")).expect("a URL")
}

/// Once a single 429 ended a sync that asked for more time than an upstream is waited for that was
/// never heard.
#[tokio::test]
async fn a_rest_that_upstream_asks_for_is_no_silence_however_long() {
    // Each of them longer than this world waits for upstream, which is a second.
    let world = World::over(restful(2, 2));
    let retry = JobRetry::start(&world.services, &JobContext::of_test());
    let name = name("a");
    let asked = retry.on(|| {
        world
            .services
            .mirror
            .refresh(&name, Duration::from_secs(30))
    });
    let asked = asked.await;
    assert!(
        matches!(asked, Ok(crate::mirror::Asked::Absent)),
        "{asked:?}"
    );
}

/// Once a file that was lost was held for ever, as far as a sync could tell.
#[tokio::test]
async fn what_failed_and_is_lost_is_fetched_whatever_the_index_has_noted() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &[]), ("1.1.0", &[])]);
    for version in ["1.0.0", "1.1.0"] {
        world.hold("a", version);
    }
    let mut failures = Failures::open(world.store().clone()).expect("readable");
    for what in ["a@1.0.0", "a@1.1.0"] {
        let failure = Failure {
            what: what.to_owned(),
            cause: "upstream sent something else".to_owned(),
            lasting: false,
        };
        failures.failed(&failure, world.services.clock.now());
    }
    // The marks of what is held are written with it.
    failures.take_changes()().expect("written");
    world.lose("a", "1.0.0");
    let retry = JobRetry::start(&world.services, &JobContext::of_test());
    let fetching = Fetching::plan(&world.services, Chosen::default(), &retry, true).await;
    let report = fetching.expect("planned").into_report();
    assert_eq!(report.would_fetch_names, ["a@1.0.0"]);
    assert_eq!(report.retried, 1);
}

/// Memory of this process in KiB, by the name of the line in `status`.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Measured with 250,000 names of 12 versions each.
///
/// ```text
/// ORLOP_TEST_CRATES=250000 cargo test --lib weighs -- --ignored --nocapture
/// ```
#[tokio::test]
#[ignore = "minutes; the line that runs it is above"]
#[expect(clippy::print_stderr, reason = "the figures are what it is for")]
async fn a_plan_of_everything_weighs_no_more_than_its_names() {
    const VERSIONS: u64 = 12;
    let crates = std::env::var("ORLOP_TEST_CRATES").ok();
    let crates: u64 = crates.and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let world = World::new();
    let now = world.services.clock.now();
    let names: Vec<String> = (0..crates)
        .map(|number| format!("weight-{number:06}"))
        .collect();
    let began = Instant::now();
    for some in names.chunks(1000) {
        let lines = |krate: &String| {
            (0..VERSIONS).fold(String::new(), |mut text, minor| {
                let line = line(krate, &format!("1.{minor}.0"), &[]);
                text.write_str(&line).expect("a string takes every write");
                text
            })
        };
        let changes = some.iter().map(|krate| change(krate, lines(krate), now));
        world
            .store()
            .publish(changes.collect(), now)
            .expect("published");
    }
    let published = began.elapsed();
    let names = names.iter().map(|krate| name(krate)).collect();
    let everything = Some(Everything {
        names,
        latest: false,
    });
    let chosen = Chosen {
        everything,
        ..Chosen::default()
    };
    let retry = JobRetry::start(&world.services, &JobContext::of_test());
    // What sled and the allocator keep of reading all that is there before.
    let first = Fetching::plan(&world.services, chosen.clone(), &retry, false).await;
    drop(first.expect("planned"));
    let (before, began) = (memory("VmRSS:"), Instant::now());
    let mut fetching = Fetching::plan(&world.services, chosen, &retry, false)
        .await
        .expect("planned");
    let (after, planned) = (memory("VmRSS:"), began.elapsed());
    let mut most = 0;
    let mut taken = 0;
    let began = Instant::now();
    while let Some(count) = fetching.take_some().await {
        (taken, most) = (taken + count, most.max(memory("VmRSS:")));
    }
    assert_eq!(taken, crates * VERSIONS);
    eprintln!(
        "{taken} releases of {crates} names, published in {published:.1?}: planned in {planned:.1?} \
         with {} KiB more than before, taken in {:.1?} with {} KiB more at most",
        after.saturating_sub(before),
        began.elapsed(),
        most.saturating_sub(before),
    );
}

#[test]
fn how_much_is_selected_is_said_and_how_less_would_do() {
    let report = |releases, names, would_fetch| SyncReport {
        names,
        releases,
        would_fetch,
        ..SyncReport::default()
    };
    let small = extent(&report(1, 1, 0), true);
    assert_eq!(
        small,
        "the selection is 1 release of 1 crate; 0 are to be fetched"
    );
    let large = report(28_548, 2000, 1);
    let told = extent(&large, true);
    let begin = "the selection is 28548 releases of 2000 crates; 1 is to be fetched; every version";
    assert!(told.starts_with(begin), "{told}");
    assert!(told.contains("`--lockfile`"), "{told}");
    assert!(!extent(&large, false).contains("--lockfile"));
}
