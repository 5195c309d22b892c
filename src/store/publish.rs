//! Publishing: the one way by which index files change.

use std::{path::Path, time::SystemTime};

use bytes::Bytes;

use super::{
    codec::{MAX_SNAPSHOT_BYTES, View, compress},
    error::Error,
    facts::{Change, Event},
    fields::digest_of,
    handle::Store,
    queue::{Job, Prepared, Publish},
};
use crate::registry::CrateName;

/// How many changes at a time are worth a second thread.
const WORTH_A_THREAD: usize = 32;

impl Store {
    /// Takes in what upstream says, durably: the one door by which index readers see change.
    /// Returns what happened, in the order of the changes. Blocks for the disk; callers at the same
    /// time share its syncs.
    ///
    /// # Errors
    /// See [`Error`]; nothing of `changes` is visible then. After [`Error::Wedged`] it may become
    /// so later.
    pub fn publish(&self, changes: Vec<Change>, now: SystemTime) -> Result<Vec<Event>, Error> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.shared().check_record_space()?;
        let changes = self.prepare_all(changes)?;
        self.shared().queue.call(|reply| {
            Job::Publish(Publish {
                changes,
                now,
                reply,
            })
        })
    }

    /// Many are compressed by two threads: more would take the cores from those who are served.
    fn prepare_all(&self, mut changes: Vec<Change>) -> Result<Vec<Prepared>, Error> {
        let all = |changes: Vec<Change>| {
            let prepared = changes.into_iter().map(|change| self.prepare(change));
            prepared.collect::<Result<Vec<_>, Error>>()
        };
        if changes.len() < WORTH_A_THREAD {
            return all(changes);
        }
        let second = changes.split_off(changes.len() / 2);
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| all(second));
            (all(changes), second.join())
        });
        let mut prepared = first?;
        prepared.extend(second.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok(prepared)
    }

    /// Compresses here, so that callers do it side by side.
    fn prepare(&self, change: Change) -> Result<Prepared, Error> {
        match change {
            Change::Gone { name, checked } => Ok(Prepared::Gone { name, checked }),
            Change::Index {
                name,
                file,
                validators,
                checked,
            } => {
                if file.bytes().len() > MAX_SNAPSHOT_BYTES {
                    return Err(Error::TooLarge { name });
                }
                let digest = digest_of(file.bytes());
                let frame = if self.has_bytes(&name, &digest, file.bytes()) {
                    None
                } else {
                    let frame = compress(file.bytes())
                        .map_err(Error::io("compress", Path::new(&name.index_path())))?;
                    Some(frame)
                };
                Ok(Prepared::Index {
                    name,
                    file,
                    digest,
                    frame,
                    validators,
                    checked,
                })
            }
        }
    }

    /// Opens the frame, so that one that is damaged is made anew.
    pub(super) fn has_bytes(&self, name: &CrateName, digest: &[u8; 16], bytes: &Bytes) -> bool {
        let Some(record) = self.shared().record(name.key()) else {
            return false;
        };
        View::read(&record).is_ok_and(|view| {
            view.digest == *digest && view.decompress().is_ok_and(|had| had == *bytes)
        })
    }
}
