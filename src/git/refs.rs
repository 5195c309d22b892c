//! The small files of a bare repository: `HEAD`, `config`, and the one branch.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{Error, ObjectId, pack::sync_folder};

/// The one branch.
const BRANCH: &str = "refs/heads/master";

const HEAD: &str = "ref: refs/heads/master\n";

const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";

const FOLDERS: [&str; 4] = ["objects/info", "objects/pack", "refs/heads", "refs/tags"];

/// Makes what a bare repository needs and this one lacks, and writes anew what is garbled. Returns
/// what was garbled.
pub(super) fn lay_out(dir: &Path) -> Result<Vec<String>, Error> {
    let is_new = !dir.exists();
    for folder in FOLDERS {
        let path = dir.join(folder);
        fs::create_dir_all(&path).map_err(Error::io("make the folder", &path))?;
    }
    let mut repaired = Vec::new();
    if fs::read_to_string(dir.join("HEAD")).ok().as_deref() != Some(HEAD) {
        replace(&dir.join("HEAD"), HEAD)?;
        repaired.push("`HEAD` was written anew".into());
    }
    if !config_is_good(&dir.join("config")) {
        replace(&dir.join("config"), CONFIG)?;
        repaired.push("`config` was written anew".into());
    }
    for folder in FOLDERS.into_iter().chain(["objects", "refs", ""]) {
        sync_folder(&dir.join(folder))?;
    }
    if is_new {
        repaired.clear();
        if let Some(parent) = dir.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(repaired)
}

/// A person may have added settings of their own; only what git itself would stumble over counts.
fn config_is_good(path: &Path) -> bool {
    let Ok(text) = fs::read_to_string(path) else {
        return false;
    };
    let Ok(config) = gix::config::File::try_from(text.as_str()) else {
        return false;
    };
    let is_bare = matches!(config.boolean("core.bare"), Ok(Some(true)));
    is_bare && matches!(config.integer("core.repositoryformatversion"), Ok(Some(0)))
}

/// What a branch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// There is none.
    Missing,
    /// There is one, and what it says is no id.
    Garbled,
    /// This commit.
    At(ObjectId),
}

/// Reads the branch, also from `packed-refs`, where git may have put it.
pub(super) fn read(dir: &Path) -> Result<Branch, Error> {
    let path = dir.join(BRANCH);
    let parse = |text: &[u8]| match ObjectId::from_hex(text.trim_ascii_end()) {
        Ok(id) if !id.is_null() => Branch::At(id),
        _ => Branch::Garbled,
    };
    match fs::read(&path) {
        Ok(text) => return Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("read the branch", &path)(error)),
    }
    let packed = fs::read(dir.join("packed-refs")).unwrap_or_default();
    let ours = packed.split(|byte| *byte == b'\n').find_map(|line| {
        let name = line.strip_suffix(BRANCH.as_bytes())?;
        name.strip_suffix(b" ")
    });
    Ok(ours.map_or(Branch::Missing, parse))
}

/// Points the branch at a commit, durably.
///
/// # Errors
/// [`Error::Io`]; the branch may then say the old or the new.
pub(super) fn write(dir: &Path, id: ObjectId) -> Result<(), Error> {
    replace(&dir.join(BRANCH), &format!("{id}\n"))
}

/// Makes the branch say again what it said before a [`write`] that failed.
pub(super) fn restore(dir: &Path, old: Branch) -> Result<(), Error> {
    if read(dir)? == old {
        return Ok(());
    }
    match old {
        Branch::At(id) => write(dir, id),
        Branch::Missing | Branch::Garbled => remove(dir),
    }
}

fn remove(dir: &Path) -> Result<(), Error> {
    let path = dir.join(BRANCH);
    fs::remove_file(&path).map_err(Error::io("remove the branch", &path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes what a write that was cut off left behind.
pub(super) fn sweep(dir: &Path) {
    for name in [BRANCH, "HEAD", "config"] {
        drop(fs::remove_file(lock_of(&dir.join(name))));
    }
}

/// The temporary name is git's lock of the file, so that a person's git and we do not cross.
fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let lock = lock_of(path);
    let write = || {
        let mut file = File::create(&lock)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&lock, path)
    };
    let written = write().map_err(Error::io("write", path));
    if written.is_err() {
        drop(fs::remove_file(&lock));
    }
    written?;
    path.parent().map_or(Ok(()), sync_folder)
}
