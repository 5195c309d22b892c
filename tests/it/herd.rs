//! Sixty-four clients that want the same crate at the same moment, in good days and bad.

use std::time::{Duration, Instant};

use crate::support::{
    all_at_once,
    crates::{Krate, Registry},
    http::Answer,
    orlop::{Orlop, Setup},
    upstream::{Fault, Kind, On, Upstream},
};

const HERD: usize = 64;

fn setting(size: usize, facing: Option<&Fault>) -> (Upstream, Orlop) {
    let krate = Krate::new("wanted", "1.0.0").size(size);
    let upstream = Upstream::start(Registry::new().with(&krate));
    let setup = Setup::over(&upstream);
    let orlop = match facing {
        Some(fault) => setup.facing(fault).start(),
        None => setup.start(),
    };
    (upstream, orlop)
}

/// What each client got, and how long the last one waited.
fn herd(orlop: &Orlop) -> (Vec<Answer>, Duration) {
    let start = Instant::now();
    let answers = all_at_once(HERD, |_| orlop.download("wanted", "1.0.0"));
    (answers, start.elapsed())
}

#[test]
fn a_herd_on_one_uncached_crate_is_one_upstream_request() {
    for size in [10_000, 1_500_000] {
        let (upstream, orlop) = setting(size, None);
        let slow = Fault::Drip(size / 10, Duration::from_millis(30));
        upstream.misbehave(On::Kind(Kind::Crate), slow);
        let (answers, _) = herd(&orlop);
        let bytes = upstream.registry().release("wanted", "1.0.0").bytes;
        for answer in answers {
            assert!(answer.is_complete_file(), "{}", answer.status);
            assert!(answer.body == *bytes);
        }
        assert_eq!(upstream.count(Kind::Crate), 1);
        assert_eq!(upstream.count(Kind::Index), 1);
        assert_eq!(upstream.count(Kind::Config), 1);
        assert_eq!(orlop.blobs().len(), 1);
    }
}

/// A herd that cannot be served: few upstream requests, an answer for everybody, nothing kept.
fn check_bad_day(size: usize, fault: &Fault) {
    let (upstream, orlop) = setting(size, Some(fault));
    upstream.misbehave(On::Kind(Kind::Crate), fault.clone());
    let (answers, took) = herd(&orlop);
    for answer in answers {
        assert!(!answer.is_complete_file(), "{fault:?}");
        assert!(
            [200, 502, 503].contains(&answer.status),
            "{fault:?}: {}",
            answer.status
        );
    }
    // Two attempts a fetch, and a failure is remembered for a second: one more fetch for those who
    // came after that, and for each second more that a busy machine took to bring all of them.
    let asked = upstream.count(Kind::Crate) as u64;
    let most = 4 + 2 * took.as_secs();
    assert!(
        (1..=most).contains(&asked),
        "{fault:?}: {asked} in {took:?}"
    );
    assert!(upstream.most_at_once("wanted/1.0.0") <= 2, "{fault:?}");
    assert!(took < Duration::from_secs(25), "{fault:?}: {took:?}");
    assert!(orlop.blobs().is_empty(), "{fault:?}");
}

#[test]
fn a_herd_under_a_stalled_failing_or_lying_upstream_asks_little_and_is_answered() {
    for fault in [
        Fault::StallBeforeHead,
        Fault::StallInBody,
        Fault::Status(500),
        Fault::Flip,
        Fault::Html,
        Fault::Cut,
    ] {
        for size in [10_000, 1_500_000] {
            check_bad_day(size, &fault);
        }
    }
}

#[test]
fn a_herd_on_a_dead_upstream_is_answered() {
    let (upstream, orlop) = setting(10_000, None);
    upstream.down();
    let (answers, took) = herd(&orlop);
    for answer in answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    assert!(took < Duration::from_secs(25), "{took:?}");
}
