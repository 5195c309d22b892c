//! The handle of the store: opening, closing, and what it says about itself.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::SystemTime,
};

use super::{
    catalogue::Tree,
    changes::Changes,
    codec::View,
    commit::Committer,
    condition::FolderCondition,
    error::Error,
    facts::{OpenReport, Totals},
    folder::{Folder, sweep},
    options::Options,
    queue::Job,
    raw_files::Blobs,
    rebuild,
    shared::Shared,
    space::Room,
    state::State,
};
use crate::registry::CrateName;

/// The store: a handle that is cheap to clone. All methods block for the disk; those that may do so
/// for long say it.
///
/// When the last clone is dropped the store is closed, as [`Store::close`] does.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

/// Closes the store when the last clone goes.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.shared.queue.call(Job::Close) {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => tracing::error!(%error, "could not close the store in order"),
        }
    }
}

impl Store {
    /// Opens the store, or makes one. Blocks for as long as sled takes, and for longer if it has to
    /// be rebuilt.
    ///
    /// # Errors
    /// See [`Error`]; what can be healed is healed and told in the [`OpenReport`].
    pub fn open(options: Options, now: SystemTime) -> Result<(Store, OpenReport), Error> {
        let folder = Folder::take(&options.dir)?;
        Store::open_in(folder, options, now)
    }

    /// Opens the store in a folder that is locked already.
    pub(super) fn open_in(
        folder: Folder,
        options: Options,
        now: SystemTime,
    ) -> Result<(Store, OpenReport), Error> {
        let mut report = OpenReport {
            created: folder.created,
            swept: sweep(&folder.dir.join("spool"))?,
            ..OpenReport::default()
        };
        let blobs = Blobs::open_folder(folder.dir.join("blobs"))?;
        let (catalogue, journal, recovered) =
            rebuild::open(&folder, &options, &blobs, now, &mut report)?;
        let change_number = recovered.change_number;
        let shared = Arc::new(Shared::new(
            options,
            folder,
            blobs,
            catalogue,
            change_number,
        ));
        let committer = Committer::new(Arc::clone(&shared), journal, &recovered, now);
        std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(Error::io("start a thread", Path::new("store-commit")))?;
        let handle = Arc::new(Handle { shared });
        Ok((Store { handle }, report))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    pub(super) fn share(&self) -> Arc<Shared> {
        Arc::clone(&self.handle.shared)
    }

    /// Whether there is room for what is not a record and can wait: the reserve is left alone.
    ///
    /// # Errors
    /// [`Error::Full`], or [`Error::Io`] where the file system does not tell.
    pub fn check_room(&self) -> Result<(), Error> {
        self.shared().check_space(0)
    }

    /// Hands every record to `visit` until it says `false`; damaged ones are passed over.
    pub(super) fn visit(
        &self,
        visit: &mut dyn FnMut(&str, &View<'_>) -> bool,
    ) -> Result<(), Error> {
        let shared = self.shared();
        let Some(catalogue) = shared.catalogue() else {
            return Ok(());
        };
        catalogue.visit(&mut |key, record| {
            let key = str::from_utf8(key).unwrap_or_default();
            shared
                .view(key, &record)
                .is_none_or(|view| visit(key, &view))
        })
    }

    /// A number that changes whenever the index entry of the name or which of its crate files are
    /// held does: what [`stamp`](Store::stamp) is for the entry alone, at the same cost.
    pub fn held_stamp(&self, name: &CrateName) -> u64 {
        self.shared().watchers.stamp(name)
    }

    /// Subscribes to what changes from now on: names whose index entry or whose held crate files
    /// became others. At most 16,384 names wait for each subscriber.
    pub fn changes(&self) -> Changes {
        self.shared().watchers.subscribe()
    }
    /// A number that changes whenever [`snapshot`](Store::snapshot) of the name would give other
    /// bytes, or the name is gone or back. Not for a touch, nor for a crate file that came in.
    /// One atomic load, so that ready answers can be checked by it; other names may share it.
    pub fn stamp(&self, name: &CrateName) -> u64 {
        self.shared().stamp(name)
    }

    /// Whether the store can be read: a record somewhere in sled, another each time, and a file of
    /// the data folder. Blocks for as long as they take, which is how one hears of a disk that
    /// hangs; it does not hear of one whose bytes are all in memory still. While sled is opened anew
    /// or rebuilt there is no record to read, and only the file is: that takes as long as it takes.
    ///
    /// # Errors
    /// [`Error::Engine`] where sled fails, which is then opened anew, and [`Error::Io`].
    pub fn look(&self) -> Result<(), Error> {
        let shared = self.shared();
        if let Some(catalogue) = shared.catalogue() {
            let somewhere = [fastrand::u8(b'a'..=b'z'), fastrand::u8(b'a'..=b'z')];
            let from = std::ops::Bound::Included(&somewhere[..]);
            let read = catalogue.page(Tree::Crates, from, 1);
            read.inspect_err(|error| shared.note_suspect(error))?;
        }
        shared.look()
    }

    /// The store in numbers. Cheap.
    pub fn totals(&self) -> Totals {
        let shared = self.shared();
        let State {
            names,
            held,
            counts,
            ..
        } = shared.totals();
        let counts = counts.unwrap_or_default();
        Totals {
            names,
            versions: counts.versions,
            held: counts.held,
            index_raw_bytes: counts.index_raw_bytes,
            index_stored_bytes: counts.index_stored_bytes,
            blobs: held.blobs,
            blob_bytes: held.bytes,
            free_bytes: shared.free_bytes(),
            writable: shared.writable(),
            damaged: shared.damaged(),
        }
    }

    /// The room on the disk; `None`: the file system does not tell. Cheap.
    pub fn room(&self) -> Option<Room> {
        self.shared().options.room()
    }

    /// Bytes of the whole file system of the store; 0 where the file system does not report them.
    pub fn disk_bytes(&self) -> u64 {
        self.room().map_or(0, |room| room.space.total_bytes)
    }

    /// How often the index database was opened anew since the start. What tables kept may be gone
    /// then: whoever writes only what changed writes everything once.
    pub fn reopened(&self) -> u64 {
        self.shared().reopened.load(SeqCst)
    }

    /// What can be seen of the data folder from outside.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn condition(&self) -> io::Result<FolderCondition> {
        FolderCondition::read(&self.shared().folder.dir)
    }

    /// How many index databases that could not be used are kept to be looked into.
    pub fn set_aside(&self) -> u64 {
        rebuild::count_set_aside(&self.shared().folder.dir)
    }

    /// Writes what is only in memory, flushes and syncs, and takes no more writes. Other clones can
    /// still read; the folder is free for another process when all of them are dropped.
    ///
    /// # Errors
    /// See [`Error`]; what was published and committed before is on the disk all the same.
    pub fn close(self) -> Result<(), Error> {
        self.shared().queue.call(Job::Close)
    }
}
