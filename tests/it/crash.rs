//! SIGKILL again and again under cold downloads: what a client got whole is there in the next life.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::support::{
    PATIENCE,
    crates::{Krate, Registry},
    http::Ask,
    orlop::{Orlop, Setup, download_path},
    upstream::{Fault, Kind, On, Upstream},
};

const ROUNDS: usize = 30;
const CRATES_A_ROUND: usize = 10;
const CLIENTS: usize = 4;

/// When the kill comes: after so many acknowledged crates, and a moment.
struct End {
    after: usize,
    and_then: Duration,
}

fn name(number: usize) -> String {
    format!("crash-{number:03}")
}

/// Downloads new crates with some clients until orlop is killed; returns whose crate came whole.
fn download_until_killed(
    orlop: Orlop,
    registry: &Registry,
    next: &AtomicUsize,
    last: usize,
    end: &End,
) -> (Setup, Vec<usize>) {
    let address = orlop.address();
    let acknowledged = Mutex::new(Vec::new());
    let setup = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= last {
                        return;
                    }
                    let path = download_path(&name(number), "1.0.0");
                    let Ok(answer) = Ask::get(&path).send(address) else {
                        return;
                    };
                    if answer.is_complete_file() {
                        let right = registry.release(&name(number), "1.0.0").bytes;
                        assert!(answer.body == *right, "wrong bytes of {path}");
                        acknowledged.lock().push(number);
                    }
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        while acknowledged.lock().len() < end.after && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(end.and_then);
        orlop.kill9()
    });
    (setup, acknowledged.into_inner())
}

#[track_caller]
fn check_held(orlop: &Orlop, registry: &Registry, numbers: &[usize], round: usize) {
    for &number in numbers {
        let answer = orlop.download(&name(number), "1.0.0");
        assert!(
            answer.is_complete_file(),
            "round {round}: {} was acknowledged and is gone: {} {}",
            name(number),
            answer.status,
            answer.text()
        );
        let right = registry.release(&name(number), "1.0.0").bytes;
        assert!(answer.body == *right, "round {round}: wrong bytes");
    }
}

#[test]
fn whatever_was_acknowledged_before_a_kill_is_served_after_it() {
    let mut registry = Registry::new();
    for number in 0..ROUNDS * CRATES_A_ROUND {
        // Both kinds: verified before the first byte, and streamed while they come.
        let size = if number % 3 == 0 { 300_000 } else { 30_000 };
        registry.put(&Krate::new(&name(number), "1.0.0").size(size));
    }
    let upstream = Upstream::start(registry.clone());
    let drip = Fault::Drip(20_000, Duration::from_millis(2));
    upstream.misbehave(On::Kind(Kind::Crate), drip);
    let mut random = fastrand::Rng::with_seed(20_151_122);
    let mut setup = Setup::over(&upstream);
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let orlop = setup.start();
        let next = AtomicUsize::new(round * CRATES_A_ROUND);
        let last = (round + 1) * CRATES_A_ROUND;
        let end = End {
            after: random.usize(0..CRATES_A_ROUND - CLIENTS),
            and_then: Duration::from_millis(random.u64(0..40)),
        };
        let (after, new) = download_until_killed(orlop, &registry, &next, last, &end);
        upstream.down();
        let orlop = after.start();
        check_held(&orlop, &registry, &new, round);
        acknowledged.extend(new);
        setup = orlop.kill9();
        upstream.up();
    }
    assert!(
        acknowledged.len() > ROUNDS,
        "the kills left time for some downloads: {}",
        acknowledged.len()
    );
    upstream.down();
    let orlop = setup.start();
    check_held(&orlop, &registry, &acknowledged, ROUNDS);
    assert!(orlop.spool().is_empty());
}
