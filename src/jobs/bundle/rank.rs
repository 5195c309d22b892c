//! Decides which of two index entries of a name is newer: the bundle's, or the one that is here.
//!
//! - An entry that our own upstream confirmed here is newer than whatever was seen before.
//! - An entry that came from a bundle has only the word of the clock of whoever exported it, which
//!   may have been set back since. So the times decide only where the files do not: a bundle that
//!   was seen earlier and lists a version that is not here is newer all the same. Index files only
//!   grow, but for the rarest of removals.
//! - A time that lay in the future when it came in, or lies there now, is no word at all: an entry
//!   with such a time is newer only if it lists more.
#![warn(clippy::arithmetic_side_effects)]

use std::{collections::BTreeSet, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    registry::{CrateName, IndexFile},
    store::{EntryFacts, ReleaseFacts, to_millis},
};

/// What is remembered of an entry that came from a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When the exporter saw it, by its own clock.
    seen: u64,
    /// When the store holds it to be confirmed. Where the entry has another time, upstream was asked
    /// since, and the mark means nothing.
    checked: u64,
    /// Whether `seen` lay in the future.
    ahead: bool,
}

impl Mark {
    pub(super) fn new(seen: u64, checked: SystemTime, now: SystemTime) -> Mark {
        Mark {
            seen,
            checked: to_millis(checked),
            ahead: seen > to_millis(now),
        }
    }

    pub(super) fn key(name: &CrateName) -> String {
        format!("entry/{}", name.key())
    }

    pub(super) fn encode(self) -> Vec<u8> {
        serde_json::to_vec(&self).unwrap_or_default()
    }
}

/// On whose word an entry is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Our upstream's, at this time.
    Upstream { at: u64 },
    /// A bundle's, that was seen then. `ahead`: by a clock that was wrong.
    Bundle { seen: u64, ahead: bool },
}

/// Which versions the bundle's file has, beside those that are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Some that are not here.
    More,
    /// The same ones.
    Equal,
    /// Fewer, and no other.
    Fewer,
}

/// What the bundle's entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// As new as ours, or newer.
    Newer,
    /// Older than ours.
    Older,
}

impl Word {
    pub(super) fn of(held: &EntryFacts, mark: Option<&[u8]>, now: SystemTime) -> Word {
        let at = to_millis(held.checked);
        let mark = mark.and_then(|bytes| serde_json::from_slice::<Mark>(bytes).ok());
        match mark.filter(|mark| mark.checked == at) {
            Some(Mark { seen, ahead, .. }) => Word::Bundle { seen, ahead },
            None if held.checked > now => Word::Bundle {
                seen: at,
                ahead: true,
            },
            None => Word::Upstream { at },
        }
    }

    /// Ranks an entry that was seen at `seen`. `content` is asked where the times do not decide;
    /// `None`: the file is not known.
    pub(super) fn rank(
        self,
        seen: u64,
        now: SystemTime,
        content: impl FnOnce() -> Option<Content>,
    ) -> Rank {
        let (had, ahead, may_be_wrong) = match self {
            Word::Upstream { at } => (at, false, false),
            Word::Bundle { seen, ahead } => (seen, ahead, true),
        };
        // Two times of a clock that was wrong both times can be compared, too.
        let is_word = seen <= to_millis(now) || ahead;
        if seen >= had && is_word {
            return Rank::Newer;
        }
        if seen < had && !may_be_wrong {
            return Rank::Older;
        }
        let is_told = seen < had && !ahead;
        match content() {
            Some(Content::Fewer) => Rank::Older,
            Some(Content::Equal) | None if is_told => Rank::Older,
            Some(Content::More | Content::Equal) | None => Rank::Newer,
        }
    }
}

/// Compares a bundle's file with the versions that are here.
pub(super) fn content(file: &IndexFile, had: &[ReleaseFacts]) -> Content {
    let had = had.iter().filter(|facts| !facts.removed);
    let had: BTreeSet<_> = had.map(|facts| &facts.version).collect();
    let comes: BTreeSet<_> = file.rows().iter().map(|row| &row.version).collect();
    if !comes.is_subset(&had) {
        Content::More
    } else if comes.len() == had.len() {
        Content::Equal
    } else {
        Content::Fewer
    }
}
