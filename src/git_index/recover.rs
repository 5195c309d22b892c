//! Gives the store the index files back that it lost and the repository of the root index has.

use std::{ops::ControlFlow, time::SystemTime};

use bytes::Bytes;

use super::Fault;
use crate::{
    git::{self, Head, ObjectId, Repo},
    registry::{CrateName, layout::parse_index_path},
    store::Store,
};

/// How many files go to the store at a time.
const BATCH_FILES: usize = 256;

/// How many names that were lost the log names.
const MAX_LOGGED_NAMES: usize = 20;

/// Whether the store needs the file of this name.
type IsWanted<'a> = &'a dyn Fn(&CrateName) -> Result<bool, Fault>;

/// Gives the store the wanted files of a commit that can be read. What it has and checked after the
/// commit was made stays.
pub(super) fn give_all(
    store: &Store,
    repo: &Repo,
    head: Head,
    is_wanted: IsWanted<'_>,
) -> Result<(), Fault> {
    match read_all(store, repo, head, is_wanted) {
        Err(Fault::Git(error)) if error.is_damage() => {
            tracing::error!(
                %error,
                "the index database lost index files, and the git index cannot be read: they are \
                 fetched from upstream when they are next needed"
            );
            Ok(())
        }
        read => read,
    }
}

fn read_all(store: &Store, repo: &Repo, head: Head, is_wanted: IsWanted<'_>) -> Result<(), Fault> {
    let mut recovery = Recovery::start(store, repo, head)?;
    let mut outcome = Ok(());
    let folders = repo.readable_files(head.id, &mut |file| {
        let Ok(name) = parse_index_path(&file.path) else {
            return ControlFlow::Continue(());
        };
        outcome = is_wanted(&name).and_then(|is_wanted| {
            if is_wanted {
                recovery.give(name, file.id)
            } else {
                Ok(())
            }
        });
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    outcome?;
    recovery.end(folders).map(drop)
}

/// Gives the store those of these files of a commit that can be read.
///
/// # Errors
/// Also damage of one of them: the others are in the store then.
pub(super) fn give(
    store: &Store,
    repo: &Repo,
    head: Head,
    files: Vec<(CrateName, ObjectId)>,
) -> Result<(), Fault> {
    if files.is_empty() {
        return Ok(());
    }
    let mut recovery = Recovery::start(store, repo, head)?;
    for (name, id) in files {
        recovery.give(name, id)?;
    }
    match recovery.end(0)? {
        Some(damage) => Err(damage.into()),
        None => Ok(()),
    }
}

/// Files on their way from the repository to the store, some at a time.
struct Recovery<'a> {
    store: &'a Store,
    repo: &'a Repo,
    head: Head,
    /// When the commit was made. That is long ago: upstream is asked again.
    time: SystemTime,
    batch: Vec<(CrateName, Bytes)>,
    read: usize,
    unreadable: u64,
    /// The first of those that could not be read.
    names: Vec<String>,
    damage: Option<git::Error>,
}

impl<'a> Recovery<'a> {
    fn start(store: &'a Store, repo: &'a Repo, head: Head) -> Result<Recovery<'a>, Fault> {
        Ok(Recovery {
            store,
            repo,
            head,
            time: repo.commit_facts(head.id)?.time,
            batch: Vec::new(),
            read: 0,
            unreadable: 0,
            names: Vec::new(),
            damage: None,
        })
    }

    fn give(&mut self, name: CrateName, id: ObjectId) -> Result<(), Fault> {
        match self.repo.blob(id) {
            Ok(bytes) => {
                self.read = self.read.saturating_add(1);
                self.batch.push((name, bytes));
                if self.batch.len() >= BATCH_FILES {
                    let files = std::mem::take(&mut self.batch);
                    self.store.restore(files, self.time)?;
                }
            }
            Err(error) if error.is_unreadable() => {
                self.unreadable = self.unreadable.saturating_add(1);
                if self.names.len() < MAX_LOGGED_NAMES {
                    self.names.push(name.to_string());
                }
                self.damage.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Logs what could be recovered. `folders` could not be read: which names they had is not known.
    /// Returns why the first file could not be read.
    fn end(self, folders: u64) -> Result<Option<git::Error>, Fault> {
        self.store.restore(self.batch, self.time)?;
        if self.read > 0 {
            tracing::warn!(
                generation = self.head.generation,
                files = self.read,
                "the index database lost index files: they were recovered from the git index"
            );
        }
        if self.unreadable > 0 || folders > 0 {
            tracing::error!(
                files = self.unreadable,
                folders,
                names = self.names.join(", "),
                "the git index is damaged as well: these files of it could not be read, and are \
                 fetched from upstream when they are next needed"
            );
        }
        Ok(self.damage)
    }
}
