//! Events of the journal as a bundle tells them.

use semver::Version;
use serde::{Deserialize, Serialize};

use super::format::{checksum_text, from_millis, name_text, to_millis, version_text};
use crate::{
    registry::{Checksum, CrateName},
    store::{Event, EventKind},
};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventWords {
    /// In milliseconds since 1970.
    at: u64,
    #[serde(with = "name_text")]
    name: CrateName,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum What {
    FirstSeen {
        versions: usize,
    },
    NewVersion {
        #[serde(with = "version_text")]
        version: Version,
        #[serde(with = "checksum_text")]
        checksum: Checksum,
        yanked: bool,
    },
    Yanked {
        #[serde(with = "version_text")]
        version: Version,
    },
    Unyanked {
        #[serde(with = "version_text")]
        version: Version,
    },
    ChecksumChanged {
        #[serde(with = "version_text")]
        version: Version,
        #[serde(with = "checksum_text")]
        old: Checksum,
        #[serde(with = "checksum_text")]
        new: Checksum,
    },
    VersionRemoved {
        #[serde(with = "version_text")]
        version: Version,
        #[serde(with = "checksum_text")]
        checksum: Checksum,
    },
    NameGone,
    NameBack,
}

impl From<Event> for EventWords {
    fn from(event: Event) -> EventWords {
        EventWords {
            at: to_millis(event.at),
            name: event.name,
            what: match event.kind {
                EventKind::FirstSeen { versions } => What::FirstSeen { versions },
                EventKind::NewVersion {
                    version,
                    checksum,
                    yanked,
                } => What::NewVersion {
                    version,
                    checksum,
                    yanked,
                },
                EventKind::Yanked { version } => What::Yanked { version },
                EventKind::Unyanked { version } => What::Unyanked { version },
                EventKind::ChecksumChanged { version, old, new } => {
                    What::ChecksumChanged { version, old, new }
                }
                EventKind::VersionRemoved { version, checksum } => {
                    What::VersionRemoved { version, checksum }
                }
                EventKind::NameGone => What::NameGone,
                EventKind::NameBack => What::NameBack,
            },
        }
    }
}

impl From<EventWords> for Event {
    fn from(words: EventWords) -> Event {
        Event {
            at: from_millis(words.at),
            name: words.name,
            kind: match words.what {
                What::FirstSeen { versions } => EventKind::FirstSeen { versions },
                What::NewVersion {
                    version,
                    checksum,
                    yanked,
                } => EventKind::NewVersion {
                    version,
                    checksum,
                    yanked,
                },
                What::Yanked { version } => EventKind::Yanked { version },
                What::Unyanked { version } => EventKind::Unyanked { version },
                What::ChecksumChanged { version, old, new } => {
                    EventKind::ChecksumChanged { version, old, new }
                }
                What::VersionRemoved { version, checksum } => {
                    EventKind::VersionRemoved { version, checksum }
                }
                What::NameGone => EventKind::NameGone,
                What::NameBack => EventKind::NameBack,
            },
        }
    }
}
