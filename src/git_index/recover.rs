//! Gives the store the index files back that it lost and the repository of the root index has.

use std::{ops::ControlFlow, time::SystemTime};

use bytes::Bytes;

use super::Fault;
use crate::{
    git::{Head, ObjectId, Repo},
    registry::{CrateName, layout::parse_index_path},
    store::Store,
};

/// How many files go to the store at a time.
const BATCH_FILES: usize = 256;

/// How many names that were lost the log names.
const MAX_LOGGED_NAMES: usize = 20;

/// What could be given back.
#[derive(Debug, Default)]
struct Report {
    read: usize,
    unreadable: u64,
    /// The first of those that could not be read.
    names: Vec<String>,
    /// Folders that could not be read: which names they had is not known.
    folders: u64,
}

/// Gives the store all files of a commit that can be read. What it has and checked after the commit
/// was made stays.
pub(super) fn give_all(store: &Store, repo: &Repo, head: Head) -> Result<(), Fault> {
    let report = match read_all(store, repo, head) {
        Err(Fault::Git(error)) if error.is_damage() => {
            tracing::error!(
                %error,
                "the index database lost index files, and the git index cannot be read: they are \
                 fetched from upstream when they are next needed"
            );
            return Ok(());
        }
        read => read?,
    };
    tracing::warn!(
        generation = head.generation,
        files = report.read,
        "the index database lost index files: they were recovered from the git index"
    );
    if report.unreadable > 0 || report.folders > 0 {
        tracing::error!(
            files = report.unreadable,
            folders = report.folders,
            names = report.names.join(", "),
            "the git index is damaged as well: these files of it could not be read, and are fetched \
             from upstream when they are next needed"
        );
    }
    Ok(())
}

fn read_all(store: &Store, repo: &Repo, head: Head) -> Result<Report, Fault> {
    // Long ago: upstream is asked again.
    let time = repo.commit_facts(head.id)?.time;
    let mut report = Report::default();
    let mut batch = Batch::new(store, time);
    let mut outcome = Ok(());
    report.folders = repo.readable_files(head.id, &mut |file| {
        let Ok(name) = parse_index_path(&file.path) else {
            return ControlFlow::Continue(());
        };
        outcome = match repo.blob(file.id) {
            Ok(bytes) => {
                report.read = report.read.saturating_add(1);
                batch.add(name, bytes)
            }
            Err(error) if error.is_damage() => {
                report.unreadable = report.unreadable.saturating_add(1);
                if report.names.len() < MAX_LOGGED_NAMES {
                    report.names.push(name.to_string());
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    outcome?;
    batch.end()?;
    Ok(report)
}

/// Gives the store these files of a commit.
pub(super) fn give(
    store: &Store,
    repo: &Repo,
    head: Head,
    files: &[(CrateName, ObjectId)],
) -> Result<(), Fault> {
    if files.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        files = files.len(),
        "index files that the index database lacks are recovered from the git index"
    );
    let mut batch = Batch::new(store, repo.commit_facts(head.id)?.time);
    for (name, id) in files {
        batch.add(name.clone(), repo.blob(*id)?)?;
    }
    batch.end()
}

/// Files on their way to the store, some at a time.
struct Batch<'a> {
    store: &'a Store,
    time: SystemTime,
    files: Vec<(CrateName, Bytes)>,
}

impl<'a> Batch<'a> {
    fn new(store: &'a Store, time: SystemTime) -> Batch<'a> {
        Batch {
            store,
            time,
            files: Vec::new(),
        }
    }

    fn add(&mut self, name: CrateName, bytes: Bytes) -> Result<(), Fault> {
        self.files.push((name, bytes));
        if self.files.len() >= BATCH_FILES {
            let files = std::mem::take(&mut self.files);
            self.store.restore(files, self.time)?;
        }
        Ok(())
    }

    fn end(self) -> Result<(), Fault> {
        Ok(self.store.restore(self.files, self.time)?)
    }
}
