//! Making a store of a backup: a mark in the folder, which every other open refuses, until all is there.

use std::{
    fs::{self, File},
    io::{ErrorKind::NotFound, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    error::Error,
    facts::OpenReport,
    folder::{
        Folder, MARK, check_owner, found_format, is_ours, names, remove_any, sync_folder, take_lock,
    },
    handle::Store,
    options::Options,
};

const TEXT: &str =
    "`orlop restore` did not come to its end: run it again, or remove this folder.\n";

/// A folder that a store is restored into: ours, locked, marked, and empty but for that.
#[derive(Debug)]
pub struct Restoring {
    dir: PathBuf,
    lock: File,
}

impl Restoring {
    /// Whether a backup may be restored into a folder, which is left as it is.
    ///
    /// # Errors
    /// [`Error::OtherOwner`], [`Error::NotEmpty`], [`Error::NotAStore`] or [`Error::Io`].
    pub fn check(dir: &Path) -> Result<(), Error> {
        match fs::metadata(dir) {
            Ok(_) => {
                check_owner(dir)?;
                leftovers(dir).map(drop)
            }
            Err(error) if error.kind() == NotFound => Ok(()),
            Err(error) => Err(Error::io("look at the data folder", dir)(error)),
        }
    }

    /// Whether this build reads the format of a store that a file tells.
    ///
    /// # Errors
    /// [`Error::NewerFormat`] or [`Error::Io`].
    pub fn check_format(path: &Path) -> Result<(), Error> {
        found_format(path).map(drop)
    }

    /// Takes a folder, making it if there is none. What an earlier restore left half done goes.
    ///
    /// # Errors
    /// As [`Restoring::check`], and [`Error::Locked`].
    pub fn begin(dir: &Path) -> Result<Restoring, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create the data folder", dir))?;
        check_owner(dir)?;
        let (lock, _was_clean) = take_lock(dir)?;
        // Under the lock: nobody begins a store here any more.
        let leftovers = leftovers(dir)?;
        write_mark(dir)?;
        for path in leftovers {
            remove_any(&path).map_err(Error::io("remove what an earlier restore left", &path))?;
        }
        Ok(Restoring {
            dir: dir.to_owned(),
            lock,
        })
    }

    /// Opens the store that was laid out here; it stays marked, and the lock goes with it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(self, options: Options, now: SystemTime) -> Result<(Store, OpenReport), Error> {
        let folder = Folder::settle(&self.dir, self.lock, false, false)?;
        Store::open_in(folder, options, now)
    }

    /// Takes the mark away, when the store was closed.
    ///
    /// # Errors
    /// [`Error::Locked`]: somebody restores into it anew; [`Error::Io`].
    pub fn end(dir: &Path) -> Result<(), Error> {
        let (lock, was_clean) = take_lock(dir)?;
        let folder = Folder::settle(dir, lock, was_clean, false)?;
        sync_folder(dir)?;
        let mark = dir.join(MARK);
        fs::remove_file(&mark).map_err(Error::io("remove the mark", &mark))?;
        sync_folder(dir)?;
        if was_clean {
            folder.note_clean()?;
        }
        Ok(())
    }
}

/// What an interrupted restore left in a folder, which else has to be empty.
fn leftovers(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let names = names(dir)?;
    let is_marked = names.iter().any(|name| name == MARK);
    let mut found = Vec::new();
    for name in names {
        match name.as_str() {
            // Made before the mark is.
            MARK | "lock" | "lost+found" => {}
            _ if !is_marked => {
                return Err(Error::NotEmpty {
                    dir: dir.to_owned(),
                });
            }
            ours if is_ours(ours) => found.push(dir.join(name)),
            _ => {
                return Err(Error::NotAStore {
                    dir: dir.to_owned(),
                    found: name,
                });
            }
        }
    }
    Ok(found)
}

fn write_mark(dir: &Path) -> Result<(), Error> {
    let mark = dir.join(MARK);
    let write = || {
        let mut file = File::create(&mark)?;
        file.write_all(TEXT.as_bytes())?;
        file.sync_all()
    };
    write().map_err(Error::io("write the mark", &mark))?;
    sync_folder(dir)
}
