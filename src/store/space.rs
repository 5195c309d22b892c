//! How much room there is, and how much of it is left alone.

use std::{fmt, io, path::Path, sync::Arc};

/// The room of the file system that holds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an ordinary user may still write.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// The room of the file system, and what of it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The whole of it.
    pub space: Space,
    /// Bytes that the store leaves alone.
    pub reserve_bytes: u64,
}

/// Tells how much room there is. The default asks the file system; a test may say otherwise.
#[derive(Clone)]
pub struct SpaceProbe(Arc<Ask>);

type Ask = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

impl SpaceProbe {
    /// A probe that answers with `probe`.
    pub fn new(probe: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static) -> SpaceProbe {
        SpaceProbe(Arc::new(probe))
    }

    /// The room where `path` is.
    ///
    /// # Errors
    /// If the file system does not tell.
    pub fn ask(&self, path: &Path) -> io::Result<Space> {
        (self.0)(path)
    }
}

impl Default for SpaceProbe {
    fn default() -> SpaceProbe {
        SpaceProbe::new(|path| {
            let stat = rustix::fs::statvfs(path)?;
            Ok(Space {
                free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
                total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            })
        })
    }
}

impl fmt::Debug for SpaceProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpaceProbe")
    }
}

/// The reserve that holds on a disk of this size: what was asked for, or 5 % of it if that is less.
pub(super) fn reserve_of(asked_bytes: u64, space: Space) -> u64 {
    asked_bytes.min(space.total_bytes / 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_keeps_a_small_reserve() {
        let space = |total_bytes| Space {
            free_bytes: 0,
            total_bytes,
        };
        assert_eq!(reserve_of(1 << 30, space(1 << 40)), 1 << 30);
        assert_eq!(reserve_of(1 << 30, space(2_000)), 100);
    }

    #[test]
    fn the_file_system_tells_its_room() {
        let space = SpaceProbe::default()
            .ask(Path::new("/"))
            .expect("the root is there");
        assert!(space.total_bytes >= space.free_bytes && space.total_bytes > 0);
    }
}
