//! Events in words: what the log and the status page tell of them.

use std::fmt;

use super::{EntryFacts, Event, EventKind, codec};

impl EntryFacts {
    /// Whether `bytes` are the entry's, by its digest.
    pub fn describes(&self, bytes: &[u8]) -> bool {
        self.has_snapshot && self.digest == codec::digest_of(bytes)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            EventKind::FirstSeen { versions: 1 } => {
                write!(f, "`{name}` seen for the first time, with 1 version")
            }
            EventKind::FirstSeen { versions } => write!(
                f,
                "`{name}` seen for the first time, with {versions} versions"
            ),
            EventKind::NewVersion {
                version,
                yanked: false,
                ..
            } => write!(f, "`{name}` {version} is new"),
            EventKind::NewVersion {
                version,
                yanked: true,
                ..
            } => write!(f, "`{name}` {version} is new, and yanked"),
            EventKind::Yanked { version } => write!(f, "`{name}` {version} was yanked"),
            EventKind::Unyanked { version } => write!(f, "`{name}` {version} is no longer yanked"),
            EventKind::ChecksumChanged { version, old, new } => {
                write!(
                    f,
                    "`{name}` {version} has another checksum upstream: {new} instead of {old}; the file held before is kept"
                )
            }
            EventKind::VersionRemoved { version, .. } => {
                write!(
                    f,
                    "`{name}` {version} is no longer in upstream's index; its file is kept"
                )
            }
            EventKind::NameGone => write!(
                f,
                "`{name}` is no longer in upstream's index; what is held of it is kept and served"
            ),
            EventKind::NameBack => write!(f, "`{name}` is in upstream's index again"),
        }
    }
}
