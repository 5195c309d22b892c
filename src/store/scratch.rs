//! Files without a name on the store's disk, for jobs that sort or check more than fits in memory.

use std::{
    fs::{self, File, OpenOptions},
    sync::atomic::Ordering::Relaxed,
};

use super::{error::Error, handle::Store};

impl Store {
    /// A new, empty file that goes when it is closed. Takes no room below the reserve when it is
    /// made; who writes much into it asks [`check_room`](Store::check_room) now and then.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`].
    pub fn scratch(&self) -> Result<File, Error> {
        self.check_room()?;
        let shared = self.shared();
        let number = shared.spooled.fetch_add(1, Relaxed);
        let spool = shared.folder.dir.join("spool");
        let path = spool.join(format!("{number}.scratch"));
        let fault = Error::io("make a file without a name", &path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(&fault)?;
        // What a kill between the two leaves is swept at the next start.
        fs::remove_file(&path).map_err(&fault)?;
        Ok(file)
    }
}
