//! How the store is opened.

use std::{path::PathBuf, time::Duration};

use super::space::{Room, SpaceProbe, reserve_of};

/// How the store is opened. `config::KEYS` says why the default of a setting is what it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data folder. It is made if it is not there.
    pub dir: PathBuf,
    /// Bytes that sled may keep in memory.
    pub cache_bytes: u64,
    /// Bytes of the disk that are left alone, or 5 % of it if that is less.
    pub reserve_bytes: u64,
    /// How long sled may take to open before it counts as broken.
    pub open_deadline: Duration,
    /// How long a write is waited for.
    pub write_deadline: Duration,
    /// Tells the room on the disk.
    pub space: SpaceProbe,
}

impl Options {
    /// The usual options for a data folder.
    pub fn at(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            cache_bytes: 32 << 20,
            reserve_bytes: 1 << 30,
            // 250,000 names open in 0.3 s, and a slow disk may need a hundred times that.
            open_deadline: Duration::from_secs(60),
            // Longer than any disk takes that works; shorter than cargo's patience of 30 s.
            write_deadline: Duration::from_secs(20),
            space: SpaceProbe::default(),
        }
    }

    /// The space on the disk of the data folder; `None`: the file system does not report it.
    pub fn room(&self) -> Option<Room> {
        let space = self.space.ask(&self.dir).ok()?;
        Some(Room {
            space,
            reserve_bytes: reserve_of(self.reserve_bytes, space),
        })
    }
}
