//! What can be seen of a data folder from outside, by the server that has it and without one.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What can be seen of a data folder from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderCondition {
    /// Where it is.
    pub dir: PathBuf,
    /// The user that it belongs to.
    pub owner: u32,
    /// Who may do what with it, as `chmod` has it.
    pub mode: u32,
    /// A file at its top of another user, and that user. `sudo orlop` leaves them behind.
    pub foreign: Option<(PathBuf, u32)>,
    /// How many more files fit; `None`: the file system has no fixed number, or does not report it.
    pub free_inodes: Option<u64>,
}

impl FolderCondition {
    /// Looks at a data folder. Blocks for the disk.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn read(dir: &Path) -> io::Result<FolderCondition> {
        let folder = fs::metadata(dir)?;
        let stat = rustix::fs::statvfs(dir)?;
        Ok(FolderCondition {
            dir: dir.to_owned(),
            owner: folder.uid(),
            mode: folder.mode() & 0o7777,
            foreign: foreign_file(dir, folder.uid()),
            free_inodes: (stat.f_files > 0).then_some(stat.f_favail),
        })
    }

    /// Whether every user of the machine may write into it.
    pub fn is_open_to_all(&self) -> bool {
        self.mode & 0o002 != 0
    }
}

fn foreign_file(dir: &Path, owner: u32) -> Option<(PathBuf, u32)> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let uid = entry.metadata().ok()?.uid();
        // Of the file system itself, where the folder is its top.
        let is_file_system = entry.file_name() == "lost+found";
        (uid != owner && !is_file_system).then(|| (entry.path(), uid))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_that_every_user_may_write_and_foreign_files_are_seen() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        fs::write(data.join("journal"), "").unwrap();
        let user = rustix::process::geteuid().as_raw();
        let seen = FolderCondition::read(data).unwrap();
        assert_eq!((seen.owner, &seen.foreign), (user, &None));
        assert!(!seen.is_open_to_all());
        fs::set_permissions(data, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(FolderCondition::read(data).unwrap().is_open_to_all());
        // As if the folder belonged to another user than its files.
        let (path, uid) = foreign_file(data, user + 1).unwrap();
        assert!(path.ends_with("journal") && uid == user);
        assert!(FolderCondition::read(&data.join("none")).is_err());
    }
}
