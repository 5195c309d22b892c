//! What the store tells and is told: plain data, without a word of how it is kept.

use std::time::SystemTime;

use bytes::Bytes;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::fields::digest_of;
pub use crate::registry::Validators;
use crate::registry::{Checksum, CrateName, IndexFile, release::version_text};

/// What is known of an index entry, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFacts {
    /// The name in the spelling of the index.
    pub name: CrateName,
    /// Upstream's `ETag`; `None`: it sent none.
    pub etag: Option<String>,
    /// Upstream's `Last-Modified`; `None`: it sent none.
    pub last_modified: Option<String>,
    /// When upstream last confirmed the entry.
    pub checked: SystemTime,
    /// When the entry last became another.
    pub changed: SystemTime,
    /// The first half of the sha256 of the entry's bytes: what our own `ETag` is made of.
    pub digest: [u8; 16],
    /// The length of the entry's bytes.
    pub raw_len: u64,
    /// Whether upstream has since answered that it does not know the name.
    pub gone: bool,
    /// Whether the bytes are here. `false`: the record was rebuilt or found damaged, and upstream
    /// has to be asked, without validators.
    pub has_snapshot: bool,
}

impl EntryFacts {
    /// Whether `bytes` are the entry's, by its digest.
    pub fn describes(&self, bytes: &[u8]) -> bool {
        self.has_snapshot && self.digest == digest_of(bytes)
    }
}

/// An index entry with its bytes, exactly as upstream sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What is known of it.
    pub facts: EntryFacts,
    /// The index file.
    pub bytes: Bytes,
}

/// What is known of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseFacts {
    /// The name in the spelling of the index.
    pub name: CrateName,
    /// The version.
    pub version: Version,
    /// The checksum that the index gives it (of a removed version: gave it last).
    pub checksum: Checksum,
    /// Whether new resolutions must leave it alone.
    pub yanked: bool,
    /// Whether its crate file was held when the record was written. The truth is
    /// [`Store::blob`](super::Store::blob).
    pub held: bool,
    /// Whether the version is no longer in the index.
    pub removed: bool,
}

/// One checksum that a release was seen with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownChecksum {
    /// The checksum.
    pub checksum: Checksum,
    /// Whether its crate file was held when the record was written.
    pub held: bool,
    /// Whether the version had another checksum later.
    pub superseded: bool,
    /// Whether the version is no longer in the index.
    pub removed: bool,
}

/// One thing to publish.
#[derive(Debug, Clone)]
pub enum Change {
    /// Upstream's index file of a name.
    Index {
        /// The crate.
        name: CrateName,
        /// Its file.
        file: IndexFile,
        /// What to ask with next time.
        validators: Validators,
        /// When upstream sent it.
        checked: SystemTime,
    },
    /// Upstream does not know the name. What is held of it is kept; a name that was never known
    /// stays unknown.
    Gone {
        /// The crate.
        name: CrateName,
        /// When upstream said so.
        checked: SystemTime,
    },
}

impl Change {
    /// The crate that it is about.
    pub fn name(&self) -> &CrateName {
        match self {
            Change::Index { name, .. } | Change::Gone { name, .. } => name,
        }
    }
}

/// Something that upstream did, as the journal keeps it. Its JSON is part of the bundle format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When it was noticed.
    #[serde(with = "millis")]
    pub at: SystemTime,
    /// The crate.
    pub name: CrateName,
    /// What happened.
    pub kind: EventKind,
}

/// What upstream did.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EventKind {
    /// The name was seen for the first time, with so many versions.
    FirstSeen {
        /// How many.
        versions: usize,
    },
    /// A version was published (or came back after a removal).
    NewVersion {
        /// The version.
        #[serde(with = "version_text")]
        version: Version,
        /// Its checksum.
        checksum: Checksum,
        /// Whether it was yanked when it was first seen.
        yanked: bool,
    },
    /// A version was yanked.
    Yanked {
        /// The version.
        #[serde(with = "version_text")]
        version: Version,
    },
    /// A version is no longer yanked.
    Unyanked {
        /// The version.
        #[serde(with = "version_text")]
        version: Version,
    },
    /// A version has another checksum than before. The old crate file stays.
    ChecksumChanged {
        /// The version.
        #[serde(with = "version_text")]
        version: Version,
        /// What it was.
        old: Checksum,
        /// What it is.
        new: Checksum,
    },
    /// A version is no longer in the index. Its crate file stays.
    VersionRemoved {
        /// The version.
        #[serde(with = "version_text")]
        version: Version,
        /// Its checksum.
        checksum: Checksum,
    },
    /// Upstream no longer knows the name.
    NameGone,
    /// Upstream knows the name again.
    NameBack,
}

/// For `#[serde(with)]`: a time as milliseconds since 1970.
mod millis {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::store::fields::{from_millis, to_millis};

    pub(super) fn serialize<S: Serializer>(
        at: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(to_millis(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        u64::deserialize(deserializer).map(from_millis)
    }
}

impl EventKind {
    /// The version that it is about; `None`: it is about a name.
    pub fn version(&self) -> Option<&Version> {
        match self {
            EventKind::NewVersion { version, .. }
            | EventKind::Yanked { version }
            | EventKind::Unyanked { version }
            | EventKind::ChecksumChanged { version, .. }
            | EventKind::VersionRemoved { version, .. } => Some(version),
            EventKind::FirstSeen { .. } | EventKind::NameGone | EventKind::NameBack => None,
        }
    }
}

/// A name that a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name in the spelling of the index.
    pub name: CrateName,
    /// Its highest version that is not yanked; `None`: there is none.
    pub max_version: Option<Version>,
}

/// The store in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Names known.
    pub names: u64,
    /// Releases that were ever seen in the index. Counted anew in the first seconds after a stop in the middle of a write.
    pub versions: u64,
    /// Those of them whose crate file is held, as of the last quiet second.
    pub held: u64,
    /// Bytes of the index files, as upstream sent them.
    pub index_raw_bytes: u64,
    /// Bytes that the index files take, compressed.
    pub index_stored_bytes: u64,
    /// Value files held.
    pub blobs: u64,
    /// Bytes of the value files.
    pub blob_bytes: u64,
    /// Bytes that may still be written before the reserve is touched.
    pub free_bytes: u64,
    /// Whether writes are taken now. It comes back by itself when there is room again.
    pub writable: bool,
    /// Records and frames found damaged since the start.
    pub damaged: u64,
}

/// What looking through the value files brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Value files found.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Files that no record knew to be held and that were taken in.
    pub adopted: u64,
    /// Files that records took for held and that are not there.
    pub lost: u64,
    /// Files and folders that are no value file of a kind that this build knows: left alone.
    pub not_understood: u64,
    /// Whether it was stopped before the end. Nothing was changed then.
    pub stopped: bool,
}

/// What opening the store found, for the log and the status page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was no store before.
    pub created: bool,
    /// Why sled was set aside and rebuilt; `None`: it opened.
    pub rebuilt: Option<String>,
    /// Names that the rebuild brought back. Their index entries have to be fetched again.
    pub rebuilt_names: u64,
    /// Journal entries that sled had not taken in and that were taken in now. Their index entries
    /// are asked for again.
    pub replayed: u64,
    /// Bytes of a half-written end that were cut from the journal.
    pub journal_cut_bytes: u64,
    /// Damaged bytes in the middle of the journal that were passed over.
    pub journal_skipped_bytes: u64,
    /// Half-received files that were removed.
    pub swept: u64,
}
