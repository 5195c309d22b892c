//! How sizes, counts, spans and times are written: one way for the pages, the commands and the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A size with one digit and a decimal unit: `512 bytes`, `3.4 MB`, `1.2 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return plural(bytes, "byte");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    let name = UNITS.get(unit).unwrap_or(&"kB");
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// `1 crate`, `2 crates`.
pub fn plural(count: u64, noun: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{end}")
}

/// A number with its thousands apart: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A span in its largest unit: `40 s`, `3 min`, `5 h`, `12 days`.
pub fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..MINUTE => format!("{seconds} s"),
        seconds @ MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        seconds @ HOUR..DAY => format!("{} h", seconds / HOUR),
        seconds => plural(seconds / DAY, "day"),
    }
}

/// A span in all its units: `3m 20s`.
pub fn exact_span(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

/// Seconds since 1970; 0 for a time before.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The time of so many seconds since 1970; 1970 where that cannot be expressed.
pub fn from_seconds(seconds: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

/// Seconds since 1970 as a time for programs: `2027-01-15T08:00:00Z`.
pub fn rfc3339(seconds: u64) -> String {
    // The formatter panics beyond the year 9999.
    const LAST_SECOND: u64 = 253_402_300_799;
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Seconds since 1970 as a time in UTC: `2027-01-15 08:00:00`.
pub fn time(seconds: u64) -> String {
    rfc3339(seconds).replace('T', " ").replace('Z', "")
}

/// Seconds since 1970 as a time to the minute: `2027-01-15 08:00 UTC`.
pub fn minute(seconds: u64) -> String {
    let text = time(seconds);
    format!("{} UTC", text.get(..16).unwrap_or(&text))
}

/// Seconds since 1970 as a day in UTC: `2027-01-15`.
pub fn day(seconds: u64) -> String {
    let text = time(seconds);
    text.get(..10).unwrap_or(&text).to_owned()
}

/// Text from outside in one line: the name of a file or of a crate must not move the cursor, nor
/// change the direction of the text.
pub fn one_line(text: &str) -> String {
    escaped(text, |_letter| false)
}

/// The same for a text of several lines.
pub fn lines(text: &str) -> String {
    escaped(text, |letter| matches!(letter, '\n' | '\t'))
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_kept(letter) || !is_hidden(letter) {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_default());
        }
    }
    shown
}

/// Whether a letter moves the cursor, changes how others are shown, or is not seen itself.
pub fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_digit() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (1_290, "1.2 kB"),
            (3_400_000, "3.4 MB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1234, "1,234"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn spans_have_one_unit() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (86_399, "23 h"),
            (86_400, "1 day"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn seconds_begin_in_1970() {
        assert_eq!(seconds(UNIX_EPOCH + Duration::from_millis(1999)), 1);
        assert_eq!(seconds(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(seconds(from_seconds(7)), 7);
        assert_eq!(seconds(from_seconds(u64::MAX)), 0);
    }

    #[test]
    fn text_from_outside_does_not_move_the_cursor() {
        let bad = "a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}1m é 中";
        assert_eq!(one_line(bad), "a\\u{1b}[2Jb\\r\\nc\\u{202e}d\\u{9b}1m é 中");
        assert_eq!(lines("a\u{7}\n\tb\n"), "a\\u{7}\n\tb\n");
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(rfc3339(1_800_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(time(1_800_000_000), "2027-01-15 08:00:00");
        assert_eq!(minute(1_800_000_059), "2027-01-15 08:00 UTC");
        assert_eq!(day(1_800_000_000), "2027-01-15");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(exact_span(Duration::from_secs(200)), "3m 20s");
    }
}
