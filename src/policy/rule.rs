//! What a rule of a view is: a reason to leave whole lines out of an index file.
//!
//! A rule is a file of its own beside this one, which implements [`Rule`].

use std::{fmt, time::SystemTime};

use crate::registry::{Checksum, entry::Row};

/// A rule of a view. What it says follows from the line and the facts alone.
pub trait Rule: fmt::Debug + Send + Sync {
    /// Whether `line` is shown.
    fn judge(&self, line: &IndexLine<'_>, facts: &Facts<'_>) -> Judgement;

    /// Whether it shows cached versions only. A view with such a rule asks no upstream.
    fn is_cached_only(&self) -> bool {
        false
    }
}

/// A line of an index file.
#[derive(Debug, Clone, Copy)]
pub struct IndexLine<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What orlop reads of it. `None`: its format is newer than this build.
    pub row: Option<&'a Row>,
}

/// What is known beside the index file.
pub struct Facts<'a> {
    /// Whether the file with this checksum is cached.
    pub is_cached: &'a dyn Fn(&Checksum) -> bool,
    /// The time of day.
    pub now: SystemTime,
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Facts").finish_non_exhaustive()
    }
}

/// What a rule says about a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the line is shown.
    pub is_shown: bool,
    /// When the rule may say something else about the same line. `None`: not before the facts other
    /// than the time change.
    pub valid_until: Option<SystemTime>,
}

impl Judgement {
    /// Says so whatever the time is.
    pub fn at_any_time(is_shown: bool) -> Judgement {
        Judgement {
            is_shown,
            valid_until: None,
        }
    }

    /// What all rules say together: a line is shown if each shows it.
    pub(super) fn of_all<'a>(judged: impl IntoIterator<Item = Judgement> + 'a) -> Judgement {
        let mut all = Judgement::at_any_time(true);
        for one in judged {
            if !one.is_shown {
                return one;
            }
            all.valid_until = earlier(all.valid_until, one.valid_until);
        }
        all
    }
}

/// The earlier one of two times, where `None` is never.
pub(super) fn earlier(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    one.into_iter().chain(other).min()
}
