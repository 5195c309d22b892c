//! Every lie and failure of an upstream that a download can meet: nothing bad is served or kept.

use std::time::{Duration, Instant};

use crate::support::{
    crates::{Krate, Registry},
    four_at_a_time,
    http::Answer,
    orlop::{Orlop, Setup},
    sha256, until,
    upstream::{Fault, Kind, On, Upstream},
};

/// Bodies up to 256 KiB are verified before a client sees any of them.
const SMALL: usize = 30_000;
const LARGE: usize = 1_000_000;

/// What a client must be told about a small crate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// 502: the upstream sent something that is not the crate.
    Lie,
    /// 503 with Retry-After: the upstream did not manage to answer.
    Trouble,
    /// Either, where the two cannot be told apart for sure.
    Bad,
    /// The upstream says that it has no such file: 404, or one of the above.
    Missing,
}

fn faults() -> Vec<(Fault, Told)> {
    vec![
        (Fault::Flip, Told::Lie),
        (Fault::Short, Told::Lie),
        (Fault::Long, Told::Lie),
        (Fault::Html, Told::Lie),
        (Fault::Cut, Told::Bad),
        (Fault::CutChunked, Told::Bad),
        (Fault::Gibberish, Told::Bad),
        (Fault::HangUp, Told::Trouble),
        (Fault::RedirectLoop, Told::Bad),
        (Fault::Status(403), Told::Missing),
        (Fault::Status(404), Told::Missing),
        (Fault::RetryAfter(429, 1), Told::Trouble),
        (Fault::Status(500), Told::Trouble),
        (Fault::RetryAfter(503, 1), Told::Trouble),
        (Fault::StallBeforeHead, Told::Trouble),
        (Fault::StallInBody, Told::Trouble),
    ]
}

/// Asserts that nobody could take `answer` for the crate.
#[track_caller]
fn check_refused(answer: &Answer, small: bool, told: Told, fault: &Fault) {
    let (status, text) = (answer.status, answer.text());
    if !small && status == 200 {
        // The body was under way: it must be cut where any client notices.
        assert!(!answer.whole, "{fault:?}: a whole answer of wrong bytes");
        return;
    }
    match told {
        Told::Lie => assert_eq!(status, 502, "{fault:?}: {text}"),
        Told::Trouble => assert_eq!(status, 503, "{fault:?}: {text}"),
        Told::Bad => assert!([502, 503].contains(&status), "{fault:?}: {status} {text}"),
        Told::Missing => assert!(
            [404, 502, 503].contains(&status),
            "{fault:?}: {status} {text}"
        ),
    }
    if status == 503 {
        let wait = answer
            .header("retry-after")
            .and_then(|wait| wait.parse::<u64>().ok());
        assert!(wait.is_some_and(|wait| wait > 0), "{fault:?}");
    }
    assert!(
        text.contains("victim"),
        "{fault:?}: the release is named: {text}"
    );
    let content_type = answer.header("content-type").unwrap_or_default();
    assert!(
        content_type.starts_with("text/plain"),
        "{fault:?}: {content_type}"
    );
}

#[track_caller]
fn check_nothing_kept(orlop: &Orlop, fault: &Fault) {
    assert_eq!(orlop.blobs(), Vec::<String>::new(), "{fault:?}");
    until("the spool is empty", || orlop.spool().is_empty());
}

/// One fault, from the first refusal to the day when the upstream is sound again.
fn check(fault: &Fault, told: Told, size: usize) {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("victim", "1.0.0").size(size)));
    let release = upstream.registry().release("victim", "1.0.0");
    let orlop = Setup::over(&upstream).facing(fault).start();
    assert_eq!(orlop.index("victim").status, 200);
    upstream.misbehave(On::Kind(Kind::Crate), fault.clone());
    for _ in 0..2 {
        let answer = orlop.download("victim", "1.0.0");
        check_refused(&answer, size == SMALL, told, fault);
    }
    check_nothing_kept(&orlop, fault);
    if told == Told::Lie && size == SMALL {
        let mismatches = orlop.metric("orlop_store_mismatches_total", &[]);
        assert!(mismatches >= 1.0, "{fault:?}: counted");
    }
    upstream.behave();
    until("the crate comes when the upstream is sound", || {
        let answer = orlop.download("victim", "1.0.0");
        assert!(
            !answer.is_complete_file() || sha256(&answer.body) == release.sha256,
            "{fault:?}"
        );
        answer.is_complete_file()
    });
    assert_eq!(orlop.blobs().len(), 1, "{fault:?}");
    upstream.down();
    let held = orlop.download("victim", "1.0.0");
    assert!(
        held.is_complete_file() && held.body == *release.bytes,
        "{fault:?}"
    );
}

#[test]
fn no_fault_of_the_upstream_makes_a_small_crate_wrong() {
    four_at_a_time(&faults(), |(fault, told)| check(fault, *told, SMALL));
}

#[test]
fn no_fault_of_the_upstream_makes_a_large_crate_wrong() {
    four_at_a_time(&faults(), |(fault, told)| check(fault, *told, LARGE));
}

#[test]
fn a_fault_that_passes_is_not_seen_by_the_client() {
    // Not a stall: that is not tried again while clients wait, so that each has its answer within
    // about the stall limit.
    let faults = [Fault::Status(500), Fault::Cut, Fault::HangUp];
    four_at_a_time(&faults, |fault| {
        let krate = Krate::new("victim", "1.0.0").size(SMALL);
        let upstream = Upstream::start(Registry::new().with(&krate));
        let orlop = Setup::over(&upstream).start();
        upstream.misbehave_times(1, On::Kind(Kind::Crate), fault.clone());
        let answer = orlop.download("victim", "1.0.0");
        assert!(answer.is_complete_file(), "{fault:?}: {}", answer.text());
        assert!(answer.body == *krate.build().bytes, "{fault:?}");
        assert_eq!(upstream.count(Kind::Crate), 2, "{fault:?}");
    });
}

#[test]
fn retry_after_is_honoured() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("victim", "1.0.0")));
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave_times(1, On::Kind(Kind::Crate), Fault::RetryAfter(429, 2));
    let answer = orlop.download("victim", "1.0.0");
    assert!(answer.is_complete_file(), "{}", answer.text());
    let asked: Vec<Instant> = upstream
        .seen()
        .iter()
        .filter(|seen| seen.kind == Kind::Crate)
        .map(|seen| seen.at)
        .collect();
    assert_eq!(asked.len(), 2);
    let pause = asked[1] - asked[0];
    assert!(pause >= Duration::from_millis(1900), "{pause:?}");
}

#[test]
fn a_retry_after_beyond_the_deadline_is_passed_on_and_not_waited_for() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("victim", "1.0.0")));
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::RetryAfter(503, 4000));
    let start = Instant::now();
    let answer = orlop.download("victim", "1.0.0");
    assert_eq!(answer.status, 503);
    assert!(start.elapsed() < Duration::from_secs(25));
    assert!(upstream.count(Kind::Crate) <= 2, "{:?}", upstream.seen());
}

#[test]
fn trouble_with_the_upstreams_config_is_503_and_passes() {
    for fault in [
        Fault::Status(500),
        Fault::Html,
        Fault::Short,
        Fault::StallBeforeHead,
    ] {
        let krate = Krate::new("victim", "1.0.0");
        let upstream = Upstream::start(Registry::new().with(&krate));
        let orlop = Setup::over(&upstream).facing(&fault).start();
        upstream.misbehave(On::Kind(Kind::Config), fault.clone());
        let answer = orlop.download("victim", "1.0.0");
        assert!(
            [502, 503].contains(&answer.status),
            "{fault:?}: {}",
            answer.text()
        );
        upstream.behave();
        until("the crate comes when the config is there", || {
            orlop.download("victim", "1.0.0").is_complete_file()
        });
    }
}

#[test]
fn a_body_without_end_is_bounded() {
    let upstream = Upstream::start(
        Registry::new()
            .with(&Krate::new("victim", "1.0.0").size(SMALL))
            .with(&Krate::new("witness", "1.0.0").size(SMALL)),
    );
    let orlop = Setup::over(&upstream)
        .config("upstream.max_crate", "2MiB")
        .start();
    upstream.misbehave(On::Path("victim/1.0.0".to_owned()), Fault::Endless);
    let answer = orlop.download("victim", "1.0.0");
    assert!(!answer.is_complete_file());
    assert!(answer.body.len() < 4 * 1024 * 1024);
    until("the spool is empty", || orlop.spool().is_empty());
    assert!(orlop.blobs().is_empty());
    assert!(orlop.download("witness", "1.0.0").is_complete_file());
}

#[test]
fn a_crate_above_the_limit_is_refused() {
    let krate = Krate::new("victim", "1.0.0").size(LARGE);
    let upstream = Upstream::start(Registry::new().with(&krate));
    let orlop = Setup::over(&upstream)
        .config("upstream.max_crate", "500KiB")
        .start();
    let answer = orlop.download("victim", "1.0.0");
    assert!([502, 503].contains(&answer.status), "{}", answer.text());
    assert!(orlop.blobs().is_empty());
}

#[test]
fn a_slow_but_steady_upstream_is_not_a_stalled_one() {
    let krate = Krate::new("victim", "1.0.0").size(60_000);
    let upstream = Upstream::start(Registry::new().with(&krate));
    let orlop = Setup::over(&upstream).start();
    let drip = Fault::Drip(2_000, Duration::from_millis(60));
    upstream.misbehave(On::Kind(Kind::Crate), drip);
    let answer = orlop.download("victim", "1.0.0");
    assert!(answer.is_complete_file(), "{}", answer.text());
    assert_eq!(
        upstream.count(Kind::Crate),
        1,
        "longer than a stall, yet no retry"
    );
}

#[test]
fn an_upstream_that_drips_for_ever_meets_the_deadline() {
    let krate = Krate::new("victim", "1.0.0").size(SMALL);
    let upstream = Upstream::start(Registry::new().with(&krate));
    let orlop = Setup::over(&upstream)
        .config("upstream.deadline", "2s")
        .start();
    let drip = Fault::Drip(10, Duration::from_millis(100));
    upstream.misbehave(On::Kind(Kind::Crate), drip);
    let start = Instant::now();
    let answer = orlop.download("victim", "1.0.0");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(start.elapsed() < Duration::from_secs(25));
    check_nothing_kept(&orlop, &Fault::Drip(10, Duration::from_millis(100)));
}

#[test]
fn a_lie_is_not_asked_for_again_by_everybody_who_wants_it() {
    let krate = Krate::new("victim", "1.0.0").size(SMALL);
    let upstream = Upstream::start(Registry::new().with(&krate));
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Flip);
    let start = Instant::now();
    for _ in 0..30 {
        assert_eq!(orlop.download("victim", "1.0.0").status, 502);
    }
    // It is remembered for a second, however long thirty requests take.
    let most = 2 + start.elapsed().as_secs();
    let asked = upstream.count(Kind::Crate);
    assert!(asked as u64 <= most, "{asked} times, not {most}");
}

#[test]
fn a_failure_of_one_crate_says_nothing_about_another() {
    let upstream = Upstream::start(
        Registry::new()
            .with(&Krate::new("victim", "1.0.0").size(SMALL))
            .with(&Krate::new("witness", "1.0.0").size(SMALL)),
    );
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave(On::Path("victim/1.0.0".to_owned()), Fault::Flip);
    for _ in 0..5 {
        assert_eq!(orlop.download("victim", "1.0.0").status, 502);
    }
    assert!(orlop.download("witness", "1.0.0").is_complete_file());
    assert_eq!(orlop.blobs().len(), 1);
}
