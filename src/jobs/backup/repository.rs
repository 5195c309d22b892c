//! The files of a bare repository that make it what it is, opened so that a merge of packs cannot
//! take them away.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// How often a repository is listed anew because a pack went meanwhile: merges come one after the
/// other, seconds apart.
const TRIES: usize = 20;

/// The files beside the packs. What is below `orlop/` is made anew from the packs.
const SMALL: [&str; 4] = ["HEAD", "config", "packed-refs", "refs/heads/master"];

/// The branch, which must be the same before and after.
const BRANCH: &str = "refs/heads/master";

/// How deep repositories of views lie.
const DEPTH: usize = 3;

/// A file to copy.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its path in the backup.
    pub(super) path: String,
    pub(super) file: File,
    pub(super) len: u64,
}

/// The files of the repository in `dir`, as they belong together; none where there is no commit.
pub(super) fn open(dir: &Path, name: &str) -> io::Result<Vec<Opened>> {
    let mut last = None;
    for _ in 0..TRIES {
        let before = branch(dir)?;
        if before.is_none() && !dir.join("packed-refs").exists() {
            return Ok(Vec::new());
        }
        match open_once(dir, name) {
            Ok(files) if branch(dir)? == before => return Ok(files),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("it changed each time that it was looked at")))
}

/// The same for all repositories below `dir`.
pub(super) fn open_all(dir: &Path, name: &str) -> io::Result<Vec<Opened>> {
    let mut found = Vec::new();
    open_below(dir, name, DEPTH, &mut found)?;
    Ok(found)
}

fn open_below(dir: &Path, name: &str, depth: usize, found: &mut Vec<Opened>) -> io::Result<()> {
    if dir.join("HEAD").exists() {
        found.extend(open(dir, name)?);
        return Ok(());
    }
    let Some(depth) = depth.checked_sub(1) else {
        return Ok(());
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // One that was set aside is no part of the state.
        if let Ok(inner) = entry.file_name().into_string()
            && entry.file_type()?.is_dir()
            && !inner.contains('.')
        {
            open_below(&entry.path(), &format!("{name}/{inner}"), depth, found)?;
        }
    }
    Ok(())
}

fn branch(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(dir.join(BRANCH)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_once(dir: &Path, name: &str) -> io::Result<Vec<Opened>> {
    let mut files = Vec::new();
    for small in SMALL {
        match open_file(dir, small, name) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for entry in fs::read_dir(dir.join("objects/pack"))? {
        let Ok(pack) = entry?.file_name().into_string() else {
            continue;
        };
        let ending = Path::new(&pack).extension();
        let is_part = ending.is_some_and(|ending| ending == "pack" || ending == "idx");
        if is_part && pack.starts_with("pack-") {
            files.push(open_file(dir, &format!("objects/pack/{pack}"), name)?);
        }
    }
    Ok(files)
}

fn open_file(dir: &Path, path: &str, name: &str) -> io::Result<Opened> {
    let file = File::open(dir.join(path))?;
    let len = file.metadata()?.len();
    Ok(Opened {
        path: format!("{name}/{path}"),
        file,
        len,
    })
}
