//! The store's side of the git index: change numbers, what was published, and index files given back.
//!
//! The change number counts the index files that changed. It is written in the same batch as the
//! files, so after any stop sled has every change up to its number. A commit of the git index carries
//! the number, and [`Store::make_durable`] comes before it: a commit with a higher number than sled
//! tells that sled lost changes, which the commit still has.
//!
//! What was published is kept in [`Table::Published`] under the name of the view, 36 bytes,
//! little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | change number: the commit has every change up to it |
//! | 8 | 8 | generation of the commit |
//! | 16 | 20 | id of the commit |
#![warn(clippy::arithmetic_side_effects)]

use std::{sync::atomic::Ordering::SeqCst, time::SystemTime};

use bytes::Bytes;

use super::{
    codec::compress,
    error::Error,
    fields::{Reader, digest_of},
    handle::Store,
    queue::{Job, Restored, Step},
    table::Table,
};
use crate::registry::{CrateName, IndexFile};

/// The id of a commit.
pub type CommitId = [u8; 20];

/// The newest commit of a view's repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Every change of an index file up to this number is in the commit.
    pub change: u64,
    /// Its generation.
    pub generation: u64,
    /// The commit.
    pub commit: CommitId,
}

impl Published {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.change.to_le_bytes().to_vec();
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.commit);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Published> {
        let mut reader = Reader(bytes);
        let published = Published {
            change: u64::from_le_bytes(reader.array().ok()?),
            generation: u64::from_le_bytes(reader.array().ok()?),
            commit: reader.array().ok()?,
        };
        reader.0.is_empty().then_some(published)
    }
}

impl Store {
    /// The number of the last change of an index file that readers see, and that
    /// [`changes`](Store::changes) told of. From memory.
    pub fn change_number(&self) -> u64 {
        self.shared().change_number.load(SeqCst)
    }

    /// The change number that sled had when it was last opened. From memory.
    pub fn change_number_at_open(&self) -> u64 {
        self.shared().change_number_at_open.load(SeqCst)
    }

    /// Whether all reads since [`reopened`](Store::reopened) returned `since` had a database that
    /// could be read. If not, what was not found then may be there.
    pub fn has_read_soundly(&self, since: u64) -> bool {
        let shared = self.shared();
        !shared.suspect.load(SeqCst) && shared.catalogue().is_some() && self.reopened() == since
    }

    /// Makes durable all that readers may have seen until now. Returns the change number.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn make_durable(&self) -> Result<u64, Error> {
        self.step(Step::MakeDurable)
    }

    /// The commit that was last published of a view; `None`: none is known.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn published(&self, view: &str) -> Result<Option<Published>, Error> {
        let value = self.kept(Table::Published, view)?;
        Ok(value.and_then(|bytes| Published::decode(&bytes)))
    }

    /// Notes which commit was published of a view, durably. `None` forgets it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn note_published(&self, view: &str, published: Option<&Published>) -> Result<(), Error> {
        let value = published.map(Published::encode);
        self.keep(Table::Published, vec![(view.to_owned(), value)])
    }

    /// Whether index files were lost with an older sled and have not been given back yet.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn index_was_lost(&self) -> Result<bool, Error> {
        self.shared().open_catalogue()?.is_lost()
    }

    /// Whether [`index_was_lost`](Store::index_was_lost) has to be asked. Reads memory only.
    pub fn may_lack_index(&self) -> bool {
        self.shared().lacks_index.load(SeqCst)
    }

    /// A number that changes when the index database is made anew, or was found older than the head
    /// of the git index. A caller that notes what it gave to the store notes this number with it.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn born(&self) -> Result<u64, Error> {
        self.shared().open_catalogue()?.born()
    }

    /// Gives index files back that the store had at the time `checked`. A file that the store has
    /// and that was checked after that time stays. Upstream is asked again for each file given back
    /// when it is next needed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn restore(
        &self,
        files: Vec<(CrateName, Bytes)>,
        checked: SystemTime,
    ) -> Result<(), Error> {
        let restored: Vec<_> = files
            .into_iter()
            .filter_map(|(name, bytes)| self.restored(&name, bytes, checked))
            .collect();
        if restored.is_empty() {
            return Ok(());
        }
        self.step(Step::Restore(restored)).map(drop)
    }

    fn restored(&self, name: &CrateName, bytes: Bytes, checked: SystemTime) -> Option<Restored> {
        let digest = digest_of(&bytes);
        if self.has_bytes(name, &digest, &bytes) {
            return None;
        }
        let frame = compress(&bytes).ok()?;
        match IndexFile::parse(name, bytes) {
            Ok(file) => Some(Restored {
                name: name.clone(),
                file,
                digest,
                frame,
                checked,
            }),
            Err(error) => {
                tracing::warn!(krate.name = %name, %error, "the git index has no good file for `{name}`");
                None
            }
        }
    }

    /// Notes that all index files are back, and that the changes up to `change` are among them.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn index_is_back(&self, change: u64) -> Result<(), Error> {
        self.step(Step::Back { change }).map(drop)
    }

    fn step(&self, step: Step) -> Result<u64, Error> {
        self.shared()
            .queue
            .call(|reply| Job::Step(Box::new(step), reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_without_a_database_are_not_sound() {
        let place = tempfile::tempdir().expect("a folder");
        let options = crate::store::Options::at(place.path());
        let (store, _report) = Store::open(options, SystemTime::UNIX_EPOCH).expect("a new store");
        let since = store.reopened();
        assert!(store.has_read_soundly(since));
        store.shared().set_catalogue(None);
        assert!(!store.has_read_soundly(since));
    }

    #[test]
    fn what_was_published_is_read_as_it_was_written_and_no_other_way() {
        let published = Published {
            change: 7,
            generation: 3,
            commit: [9; 20],
        };
        let bytes = published.encode();
        assert_eq!(bytes.len(), 36);
        assert_eq!(Published::decode(&bytes), Some(published));
        assert_eq!(Published::decode(&bytes[1..]), None);
        assert_eq!(Published::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
