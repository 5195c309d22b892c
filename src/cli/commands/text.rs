//! How reports of several commands write sizes, times and counts for people.

use std::time::{Duration, UNIX_EPOCH};

use crate::registry::words::is_hidden;
pub(in crate::cli) use crate::registry::words::{plural, size};

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
        if is_kept(letter) || !is_hidden(letter) {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_default());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

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
