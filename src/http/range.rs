//! `Range` headers: which part of a file is asked for.
#![warn(clippy::arithmetic_side_effects)]

use std::ops::Range;

/// What a request wants of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes, never none.
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Nothing,
}

/// Reads a `Range` header for a file of `len` bytes (RFC 9110 §14.1.2).
///
/// One range of bytes is understood. Several, another unit and what is no range are answered with
/// the whole, which the RFC allows and every client takes.
pub(crate) fn parse(header: &[u8], len: u64) -> Wanted {
    let Some((first, last)) = one_range(header) else {
        return Wanted::Whole;
    };
    let part = match (first, last) {
        (Some(first), Some(last)) if first > last => return Wanted::Whole,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(len),
        (Some(first), None) => first..len,
        (None, Some(suffix)) => len.saturating_sub(suffix)..len,
        (None, None) => return Wanted::Whole,
    };
    if part.start < part.end {
        Wanted::Part(part)
    } else {
        Wanted::Nothing
    }
}

/// The first and the last position; either may be left out.
type Bounds = (Option<u64>, Option<u64>);

fn one_range(header: &[u8]) -> Option<Bounds> {
    let text = std::str::from_utf8(header).ok()?;
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.split_once('-')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(())?;
    let (first, last) = (first.trim(), last.trim());
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(first) && digits(last)).then(|| (position(first), position(last)))
}

/// `None`: left out. A number beyond all files is as good as the last one there could be.
fn position(digits: &str) -> Option<u64> {
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_read_as_the_rfc_has_it() {
        let check = |header: &str, expected| {
            assert_eq!(parse(header.as_bytes(), 100), expected, "{header}");
        };
        check("bytes=0-9", Wanted::Part(0..10));
        check("bytes=90-", Wanted::Part(90..100));
        check("bytes=90-1000", Wanted::Part(90..100));
        check("bytes=-10", Wanted::Part(90..100));
        check("bytes=-1000", Wanted::Part(0..100));
        check("bytes=100-", Wanted::Nothing);
        check("bytes=-0", Wanted::Nothing);
        check("bytes=99999999999999999999999-", Wanted::Nothing);
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-1",
            "bytes=a-b",
            "bytes=0-1,5-6",
            "lines=0-1",
            "bytes=+1-2",
        ] {
            check(header, Wanted::Whole);
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(header in "\\PC{0,30}|bytes=[0-9]{0,21}-[0-9]{0,21}", len in any::<u64>()) {
            if let Wanted::Part(part) = parse(header.as_bytes(), len) {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }
}
