//! What several modules do with files.

use std::{fs::File, io, path::Path};

/// Syncs the entries of a directory: what was created, renamed or removed in it survives a power
/// cut.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
