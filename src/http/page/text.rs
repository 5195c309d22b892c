//! Numbers, sizes, spans and sentences as the pages show them.
//!
//! The templates call these; askama hands over fields by reference and variables by value, hence
//! [`Value`].

use std::time::Duration;

use crate::{status::Level, util::format};

/// How much of a commit's id or a checksum is shown; enough to tell it from all others here.
const SHOWN_ID_CHARACTERS: usize = 12;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A value, or a reference to one, or to that.
pub(super) trait Value<T> {
    fn value(&self) -> T;
}

impl Value<u64> for u64 {
    fn value(&self) -> u64 {
        *self
    }
}

impl Value<Level> for Level {
    fn value(&self) -> Level {
        *self
    }
}

impl<T, V: Value<T> + ?Sized> Value<T> for &V {
    fn value(&self) -> T {
        (**self).value()
    }
}

/// A piece of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'text> {
    /// Whether it is a name, version or command.
    pub(super) is_code: bool,
    /// The piece, not escaped.
    pub(super) text: &'text str,
}

/// The pieces of a sentence in which names, versions and commands stand in backticks. A backtick
/// without its second stays what it is.
pub(super) fn parts(text: &str) -> Vec<Part<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, opened)) = rest.split_once('`') {
        let Some((code, after)) = opened.split_once('`') else {
            break;
        };
        found.push((false, before));
        found.push((true, code));
        rest = after;
    }
    found.push((false, rest));
    found
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(is_code, text)| Part { is_code, text })
        .collect()
}

/// A number with its thousands apart: `1,234,567`.
pub(super) fn count(number: impl Value<u64>) -> String {
    format::grouped(number.value())
}

/// A count and its noun, which gets an `s` where there are more or fewer than one.
pub(super) fn counted(number: impl Value<u64>, noun: &str) -> String {
    match number.value() {
        1 => format!("1 {noun}"),
        other => format!("{} {noun}s", count(other)),
    }
}

/// A size with a decimal unit: `1.4 GB`.
pub(super) fn size(bytes: impl Value<u64>) -> String {
    format::size(bytes.value())
}

/// A span in its largest unit: `40 s`, `3 min`, `5 h`, `12 days`.
pub(super) fn span(seconds: impl Value<u64>) -> String {
    format::span(Duration::from_secs(seconds.value()))
}

/// A span in its two largest units: `3 days 4 h`.
pub(super) fn long_span(seconds: impl Value<u64>) -> String {
    let seconds = seconds.value();
    let rest = match seconds {
        0..HOUR => 0,
        HOUR..DAY => seconds % HOUR / MINUTE * MINUTE,
        _ => seconds % DAY / HOUR * HOUR,
    };
    match rest {
        0 => span(seconds),
        rest => format!("{} {}", span(seconds), span(rest)),
    }
}

/// How long before `now` something was: `3 min ago`.
pub(super) fn ago(now: impl Value<u64>, at: impl Value<u64>) -> String {
    match now.value().saturating_sub(at.value()) {
        0..5 => "just now".to_owned(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// When something was that is so many seconds old.
pub(super) fn before(now: impl Value<u64>, age: impl Value<u64>) -> u64 {
    now.value().saturating_sub(age.value())
}

/// A time for machines: `2026-11-23T01:04:21Z`.
pub(super) fn iso(at_seconds: impl Value<u64>) -> String {
    format::rfc3339(at_seconds.value())
}

/// A time for people: `2026-11-23 01:04 UTC`.
pub(super) fn utc(at_seconds: impl Value<u64>) -> String {
    format::minute(at_seconds.value())
}

/// A day: `2026-11-23`.
pub(super) fn day(at_seconds: impl Value<u64>) -> String {
    format::day(at_seconds.value())
}

/// A share of a whole: `97.4 %`. Only all of it is `100 %`, and only none of it `0 %`.
pub(super) fn share(part: impl Value<u64>, whole: impl Value<u64>) -> String {
    let (part, whole) = (u128::from(part.value()), u128::from(whole.value()));
    if whole == 0 {
        return "–".to_owned();
    }
    match part * 1000 / whole {
        0 if part > 0 => "< 0.1 %".to_owned(),
        0 => "0 %".to_owned(),
        1000.. => "100 %".to_owned(),
        tenths => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

/// A text as the value in a query.
pub(super) fn in_query(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The beginning of a commit's id or a checksum.
pub(super) fn short(id: &str) -> &str {
    id.get(..SHOWN_ID_CHARACTERS).unwrap_or(id)
}

/// The class of a level.
pub(super) fn class(level: impl Value<Level>) -> &'static str {
    match level.value() {
        Level::Good => "good",
        Level::Warn => "warn",
        Level::Bad => "bad",
    }
}

/// The word for a level, for those who cannot see the mark.
pub(super) fn word(level: impl Value<Level>) -> &'static str {
    match level.value() {
        Level::Good => "Well",
        Level::Warn => "Warning",
        Level::Bad => "Trouble",
    }
}

/// How much something needs somebody.
pub(super) fn urgency(level: impl Value<Level>) -> &'static str {
    match level.value() {
        Level::Good => "Note",
        Level::Warn => "Warning",
        Level::Bad => "Trouble",
    }
}

/// Whether a part of an event's text is the crate that it is about.
#[expect(clippy::ref_option, reason = "what a template hands over")]
pub(super) fn is_named(name: &Option<String>, part: &str) -> bool {
    name.as_deref() == Some(part)
}

/// The sign of an event's kind, beside its word.
pub(super) fn sign(kind: &str) -> &'static str {
    match kind {
        "new" => "+",
        "version" => "↑",
        "yanked" => "×",
        "unyanked" | "back" => "↺",
        "removed" | "gone" => "−",
        "changed" => "≠",
        "fetched" => "↓",
        "followed" => "↻",
        "job" => "▸",
        "trouble" => "!",
        _ => "·",
    }
}

/// How a job ended, in words.
pub(super) fn ended(how: &str) -> &str {
    match how {
        "well" => "ended well",
        "problems" => "ended with problems",
        other => other,
    }
}

/// How upstream is used, in words.
pub(super) fn mode(mode: &str) -> &str {
    match mode {
        "fallback" => "fallback: stale entries are served when it does not answer",
        "strict" => "strict: no entry is served past its time",
        "offline" => "offline: it is never asked",
        other => other,
    }
}

/// A git state, in words.
pub(super) fn git_state(state: &str) -> &str {
    match state {
        "no-base" => "needs a public URL",
        "being-made" => "being made",
        other => other,
    }
}

/// Of 1,000 how many a part is of its whole: the width of a bar.
pub(super) fn per_mille(part: impl Value<u64>, whole: impl Value<u64>) -> u64 {
    let (part, whole) = (u128::from(part.value()), u128::from(whole.value()));
    let share = (part * 1000).checked_div(whole).unwrap_or_default();
    u64::try_from(share.min(1000)).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(1, "crate"), "1 crate");
        assert_eq!(counted(1_500, "crate"), "1,500 crates");
    }

    #[test]
    fn spans_are_readable() {
        let check = |seconds: u64, short: &str, long: &str| {
            assert_eq!(
                (span(seconds), long_span(seconds)),
                (short.into(), long.into())
            );
        };
        check(0, "0 s", "0 s");
        check(59, "59 s", "59 s");
        check(200, "3 min", "3 min");
        check(2 * HOUR + 59, "2 h", "2 h");
        check(2 * HOUR + 61, "2 h", "2 h 1 min");
        check(DAY + 5 * HOUR, "1 day", "1 day 5 h");
        assert_eq!(ago(100, 98), "just now");
        assert_eq!(ago(100, 40), "1 min ago");
        assert_eq!(ago(100, 4000), "just now", "a clock that went back");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(iso(86_399), "1970-01-01T23:59:59Z");
        assert_eq!(day(86_400), "1970-01-02");
        assert_eq!(day(u64::MAX), "9999-12-31");
    }

    #[test]
    fn shares_are_exact_at_their_ends() {
        assert_eq!(share(1, 0), "–");
        assert_eq!(share(0, 9), "0 %");
        assert_eq!(share(1, 100_000), "< 0.1 %");
        assert_eq!(share(99_999, 100_000), "99.9 %");
        assert_eq!(share(5, 5), "100 %");
        assert_eq!(per_mille(u64::MAX, u64::MAX), 1000);
        assert_eq!(per_mille(7, 0), 0);
    }

    #[test]
    fn what_stands_in_backticks_is_code() {
        let shown = |text| -> String {
            let part = |part: &Part<'_>| {
                if part.is_code {
                    format!("[{}]", part.text)
                } else {
                    part.text.to_owned()
                }
            };
            parts(text).iter().map(part).collect()
        };
        assert_eq!(
            shown("fetched `serde` `1.0.0`."),
            "fetched [serde] [1.0.0]."
        );
        assert_eq!(shown("`a`"), "[a]");
        assert_eq!(shown("a `b"), "a `b");
        assert_eq!(shown("a `b` c ` d"), "a [b] c ` d");
        assert_eq!(shown(""), "");
    }

    proptest! {
        #[test]
        fn no_text_is_lost_between_the_backticks(text in "[a-z`<>é ]{0,40}") {
            let all: String = parts(&text).iter().map(|part| part.text).collect();
            let kept = text.chars().filter(|letter| *letter != '`').count();
            prop_assert_eq!(all.chars().filter(|letter| *letter != '`').count(), kept);
        }

        #[test]
        fn a_share_is_never_more_than_all(part: u64, whole: u64) {
            prop_assert!(per_mille(part, whole) <= 1000);
        }
    }
}
