//! Entries of the event log as the pages and their JSON show them.

use serde::Serialize;

use super::item::Level;
use crate::{
    store::{Event, LogEntry, LogKind},
    util::format::seconds,
};

/// Something that happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EventFacts {
    /// When.
    pub at_seconds: u64,
    /// In a word: `new`, `version`, `yanked`, `unyanked`, `removed`, `changed`, `gone`, `back`,
    /// `fetched`, `trouble`, `job` (one ended), `followed` (a git index brought changes).
    pub kind: String,
    /// How bad it is.
    pub level: Level,
    /// In words; names and versions stand in backticks.
    pub text: String,
    /// The crate, if it is about one.
    pub name: Option<String>,
}

impl EventFacts {
    /// An event of the journal.
    pub(super) fn of(event: &Event) -> EventFacts {
        EventFacts::from(&LogEntry::of(event))
    }
}

impl From<&LogEntry> for EventFacts {
    fn from(entry: &LogEntry) -> EventFacts {
        use LogKind::{Changed, Damage, Failure, Gone, Mismatch, Removed};
        EventFacts {
            at_seconds: seconds(entry.at),
            kind: entry.kind.as_str().to_owned(),
            level: match entry.kind {
                Changed => Level::Bad,
                Removed | Gone | Failure | Mismatch | Damage => Level::Warn,
                _ => Level::Good,
            },
            text: entry.text.clone(),
            name: entry.name.as_ref().map(ToString::to_string),
        }
    }
}
