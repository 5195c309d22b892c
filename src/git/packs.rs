//! Reads objects out of the packs of the repository, a piece at a time.
//!
//! Not gix's own object database: that maps whole packs into memory (a rebuild that reads every
//! blob would hold half a gigabyte of pages), has a number of slots that is fixed when it is
//! opened, and must guess when packs are merged under it.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::Decompress;
use gix::objs::Kind;
use parking_lot::{Mutex, RwLock};

use super::{Error, ObjectId, pack_file::PackFile};

/// The packs that there are, newest first. Reads are by open descriptors, so a pack that is
/// merged away stays readable for who is at it.
#[derive(Debug)]
pub(super) struct Packs {
    dir: PathBuf,
    list: RwLock<Arc<Vec<Arc<PackFile>>>>,
    /// Damaged packs that [`refresh`](Packs::refresh) does not open again. One refreshes at a time.
    passed_over: Mutex<HashSet<PathBuf>>,
}

/// An object, inflated and with the right hash.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

impl Packs {
    /// `dir` is `objects/pack`. Nothing is opened yet.
    pub(super) fn new(dir: PathBuf) -> Packs {
        Packs {
            dir,
            list: RwLock::default(),
            passed_over: Mutex::default(),
        }
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The packs as they are now.
    pub(super) fn list(&self) -> Arc<Vec<Arc<PackFile>>> {
        Arc::clone(&self.list.read())
    }

    /// Takes this list of packs, found sound.
    pub(super) fn set(&self, packs: Vec<Arc<PackFile>>) {
        *self.list.write() = Arc::new(packs);
    }

    /// Looks for packs that came and went. One that is damaged is passed over: what only it holds
    /// is then unknown.
    ///
    /// # Errors
    /// [`Error::Io`] also for a pack that cannot be opened now: what it holds is not unknown.
    pub(super) fn refresh(&self) -> Result<(), Error> {
        let mut passed_over = self.passed_over.lock();
        let old = self.list();
        let mut new = Vec::new();
        let mut kept = Vec::new();
        let paths = pack_files(&self.dir)?;
        for path in &paths {
            if old.iter().any(|pack| pack.path() == path) || passed_over.contains(path) {
                continue;
            }
            match PackFile::open(path) {
                Ok(pack) => new.push(Arc::new(pack)),
                // Merged away since the folder was read.
                Err(_) if path.try_exists().is_ok_and(|exists| !exists) => {}
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "passed over a pack of the git index");
                    passed_over.insert(path.clone());
                }
                Err(error) => return Err(error),
            }
        }
        for pack in old.iter() {
            if paths.iter().any(|path| path == pack.path()) {
                kept.push(Arc::clone(pack));
            }
        }
        if !new.is_empty() || kept.len() != old.len() {
            new.extend(kept);
            self.set(new);
        }
        Ok(())
    }

    /// Whether an object is in one of the packs, as far as they are known.
    pub(super) fn contains(&self, id: &ObjectId) -> bool {
        self.list().iter().any(|pack| pack.find(id).is_some())
    }

    /// An object.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Damaged`], [`Error::Io`].
    pub(super) fn read(&self, id: &ObjectId) -> Result<Object, Error> {
        if let Some(found) = self.read_known(id) {
            return found;
        }
        // Merged or written since we looked.
        self.refresh()?;
        self.read_known(id)
            .unwrap_or(Err(Error::Unknown { id: *id }))
    }

    /// The bytes of an object that must be of this kind.
    pub(super) fn read_as(&self, kind: Kind, id: &ObjectId) -> Result<Vec<u8>, Error> {
        let object = self.read(id)?;
        if object.kind == kind {
            return Ok(object.data);
        }
        let what = format!("`{id}` is a {}, not a {kind}", object.kind);
        Err(Error::damaged(&self.dir, what))
    }

    fn read_known(&self, id: &ObjectId) -> Option<Result<Object, Error>> {
        self.list()
            .iter()
            .find_map(|pack| Some((pack, pack.find(id)?)))
            .map(|(pack, place)| {
                let (kind, data) = pack.object(&mut Decompress::new(true), id, place)?;
                Ok(Object {
                    kind: kind.into(),
                    data,
                })
            })
    }
}

/// The `.pack` files in a folder, newest first.
pub(super) fn pack_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for path in files(dir)? {
        let is_pack = path
            .extension()
            .is_some_and(|extension| extension == "pack")
            && stem(&path).starts_with("pack-");
        if is_pack {
            let changed = fs::metadata(&path).and_then(|facts| facts.modified()).ok();
            found.push((std::cmp::Reverse(changed), path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Everything in a folder; nothing if it is not there.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let fault = Error::io("look into the folder", dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fault(error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(&fault))
        .collect()
}

/// The name of a file less its extension; empty if it is no text.
pub(super) fn stem(path: &Path) -> &str {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default()
}
