//! Everything on disk. Hides sled and zstd: no other module names them.
//!
//! ```text
//! DATA/
//!   format      orlop store format 1
//!   lock        held by the one process that has the store; its process id, or `clean`
//!   sled/       one record per crate name: the index file, its validators, the version table;
//!               the change number, and what was published as a commit    (catalogue, published)
//!   blobs/      crate files by their sha256                                  (raw_files)
//!   quarantine/ damaged crate files that were set aside; never served        (raw_files)
//!   spool/      crate files that are coming in; swept at start
//!   journal     what can neither be derived nor fetched again                  (journal)
//!   sled.broken-TIME/   a sled that did not open and was rebuilt; at most 2 are kept
//! ```
//!
//! sled is the key-value engine; large values are separated from it into blobs, because large
//! values inside sled 0.34 cost four times their size in writes and more memory than they have.
//!
//! What holds:
//! - **Durable before visible.** What [`Store::publish`] and [`Reservation::commit`] return is on
//!   the disk, and readers do not see it before. The order of the syncs is in `commit`.
//! - **The file system is the truth about crate files.** A file in its place under its sha256 is
//!   held; the records follow it ([`Store::adopt`]).
//! - **Damage heals.** A damaged record counts as absent and is fetched again. A sled that does not
//!   open, panics or hangs is set aside and rebuilt from the journal and the blobs; the index
//!   files themselves come back through [`Store::restore`], or are fetched again.
//! - **A full disk degrades.** Below the reserve nothing is written, what is held is served, and
//!   writes come back with the room.
//!
//! The files in their order; a file imports only from rows above its own:
//!
//! | files | what they are |
//! |---|---|
//! | `condition` `error` `fields` `keys` `space` `stamps` | the look of a data folder from outside, errors, fields of the formats, sled's keys, free space, version counters |
//! | `options` `state` `facts` `changes` `folder` | options, counts, public values, subscriptions, the data folder |
//! | `codec` `blob_store` `journal` `catalogue` | records, what a tier of blobs can do, the journal, sled |
//! | `raw_files` `table` `ledger` `edits` `events` | the first tier of blobs, small values, the rules of a publish, records of a batch, the event log |
//! | `rebuild` `queue` | recovery from the journal; what waits to be written |
//! | `shared` | what readers and the committer share |
//! | `owners` `reservation` | who refers to a blob; crate files that are coming in |
//! | `commit` | the thread that writes |
//! | `handle` | [`Store`]: open, close, totals |
//! | `entries` `publish` `releases` `blobs` `adoption` `kept` `history` `published` `scratch` `restoring` | the methods of [`Store`], by subject |
//!
//! A blob is read as it is: its bytes were verified before it got its name, and every client
//! verifies them again.

mod adoption;
mod blob_store;
mod blobs;
mod catalogue;
mod changes;
mod codec;
mod commit;
mod condition;
mod edits;
mod entries;
mod error;
mod events;
mod facts;
mod fields;
mod folder;
mod handle;
mod history;
mod journal;
mod kept;
mod keys;
mod ledger;
mod options;
mod owners;
mod publish;
mod published;
mod queue;
mod raw_files;
mod rebuild;
mod releases;
mod reservation;
mod restoring;
mod scratch;
mod shared;
mod space;
mod stamps;
mod state;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upkeep_tests;

pub use self::{
    blob_store::{BlobReader, Removal},
    blobs::{Leftover, LeftoverKind},
    changes::{Changed, Changes, Waiting},
    codec::MAX_SNAPSHOT_BYTES,
    condition::FolderCondition,
    error::{EngineError, Error, Mismatch},
    events::{CrateHistory, EventLog, LogEntry, LogKind, Occurrences},
    facts::{
        Adoption, Change, EntryFacts, Event, EventKind, Found, KnownChecksum, OpenReport,
        ReleaseFacts, Snapshot, Totals, Validators,
    },
    fields::{from_millis, to_millis},
    handle::Store,
    options::Options,
    owners::BlobOwner,
    published::{CommitId, Published},
    reservation::{Reservation, SpoolReader},
    restoring::Restoring,
    space::{Room, Space, SpaceProbe},
    table::Table,
};
