//! The harness: a fake upstream, crates built in code, the real orlop and real cargo in temporary folders.

pub(crate) mod cargo;
pub(crate) mod crates;
pub(crate) mod front;
pub(crate) mod git;
pub(crate) mod git_index;
pub(crate) mod http;
pub(crate) mod orlop;
pub(crate) mod proxy;
pub(crate) mod recipe;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod upstream;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

/// How long a test waits for what must happen: generous, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`, and fails the test with `what` if it does not within [`PATIENCE`].
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lower-case hexadecimal sha256, as the index writes checksums.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes every write");
            hex
        })
}

/// Ignores a failure to talk to a peer that may be gone, which is what many tests are about.
pub(crate) fn peer_may_be_gone<T, E>(_: Result<T, E>) {}

/// All files below `folder`, as paths relative to it, in order. A missing folder has none.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// Runs `work` on each of `cases`, four at a time: for cases that mostly wait.
pub(crate) fn four_at_a_time<T: Sync>(cases: &[T], work: impl Fn(&T) + Sync) {
    for some in cases.chunks(4) {
        std::thread::scope(|scope| {
            for case in some {
                scope.spawn(|| work(case));
            }
        });
    }
}

/// Runs `count` copies of `work` at the same time and returns what each returned, in order.
pub(crate) fn all_at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..count)
            .map(|number| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    start.wait();
                    work(number)
                })
            })
            .collect();
        hands
            .into_iter()
            .map(|hand| hand.join().expect("a client thread does not panic"))
            .collect()
    })
}
