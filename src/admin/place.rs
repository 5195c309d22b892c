//! Where the socket is: paths of any length, though the system takes 107 bytes.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// The longest path that the system takes.
const MOST_BYTES: usize = 107;

/// A path of a socket, short enough for the system for as long as this is kept.
#[derive(Debug)]
pub(super) struct Place {
    /// The way in, where the path itself is too long.
    _folder: Option<OwnedFd>,
    short: PathBuf,
}

impl Place {
    /// # Errors
    /// What the system says of the folder; [`Errno::NAMETOOLONG`] where even the name alone is too
    /// long.
    pub(super) fn of(path: &Path) -> Result<Place, Errno> {
        if path.as_os_str().as_bytes().len() <= MOST_BYTES {
            return Ok(Place {
                _folder: None,
                short: path.to_owned(),
            });
        }
        let name = path.file_name().unwrap_or(OsStr::new("admin.sock"));
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        if short.as_os_str().as_bytes().len() > MOST_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(Place {
            _folder: Some(folder),
            short,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.short
    }
}
