//! Numbers that change when something about a name does, cheap enough to be read for every answer.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// How many stamps there are. A name shares its stamp with every 4096th other: what is lost by
/// that is one look into the store.
const STAMPS: usize = 4096;

/// A stamp for each name. It only ever grows.
#[derive(Debug)]
pub(super) struct Stamps(Box<[AtomicU64]>);

impl Default for Stamps {
    fn default() -> Stamps {
        Stamps((0..STAMPS).map(|_index| AtomicU64::new(1)).collect())
    }
}

impl Stamps {
    pub(super) fn of(&self, key: &str) -> u64 {
        self.place(key).map_or(0, |stamp| stamp.load(SeqCst))
    }

    pub(super) fn bump(&self, key: &str) {
        if let Some(stamp) = self.place(key) {
            stamp.fetch_add(1, SeqCst);
        }
    }

    pub(super) fn bump_all(&self) {
        for stamp in &self.0 {
            stamp.fetch_add(1, SeqCst);
        }
    }

    fn place(&self, key: &str) -> Option<&AtomicU64> {
        // FNV-1a: a name is short, and the choice is no secret.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let index = usize::try_from(hash >> 32).unwrap_or(0) % STAMPS;
        self.0.get(index)
    }
}
