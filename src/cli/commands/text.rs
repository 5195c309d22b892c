//! How reports of several commands write sizes, times and counts for people.

use std::time::{Duration, UNIX_EPOCH};

/// A size with one digit: `512 bytes`, `3.4 MB`, `1.2 GB`.
pub(in crate::cli) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
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
pub(in crate::cli) fn plural(count: u64, noun: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{end}")
}

/// Seconds since 1970 as `2027-01-15 08:00:00` in UTC.
pub(in crate::cli) fn time(seconds: u64) -> String {
    let Some(at) = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) else {
        return "never".to_owned();
    };
    let at = humantime::format_rfc3339_seconds(at).to_string();
    at.replace('T', " ").replace('Z', "")
}

/// A span to the second: `3m 20s`.
pub(in crate::cli) fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// What a stranger wrote, in one line: a name of a file or of a crate must not move the cursor,
/// nor turn the text around.
pub(in crate::cli) fn one_line(text: &str) -> String {
    escaped(text, |_letter| false)
}

/// The same for a text of several lines.
pub(in crate::cli) fn lines(text: &str) -> String {
    escaped(text, |letter| matches!(letter, '\n' | '\t'))
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_kept(letter) || !(letter.is_control() || turns(letter)) {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_default());
        }
    }
    shown
}

/// Letters that change how others are shown, or that are not seen.
fn turns(letter: char) -> bool {
    matches!(
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
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn what_a_stranger_wrote_does_not_move_the_cursor() {
        let bad = "a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}1m é 中";
        assert_eq!(one_line(bad), "a\\u{1b}[2Jb\\r\\nc\\u{202e}d\\u{9b}1m é 中");
        assert_eq!(lines("a\u{7}\n\tb\n"), "a\\u{7}\n\tb\n");
    }

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(time(1_800_000_000), "2027-01-15 08:00:00");
        assert_eq!(span(200), "3m 20s");
    }
}
