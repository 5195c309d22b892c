//! Any bytes as a request for a pack. The corpus is `tests/corpus/upload-pack`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../check.rs"]
mod check;

static HISTORY: LazyLock<check::Linear> =
    LazyLock::new(|| check::Linear::of_lines(include_str!("../../corpus/upload-pack/history.txt")));

fuzz_target!(|body: &[u8]| check::check(&HISTORY, body));
