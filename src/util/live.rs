//! Options that may be replaced while the program runs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use parking_lot::RwLock;
use tokio::sync::{Notify, futures::Notified};

/// A value that whoever decides by it reads once and keeps to the end of its decision.
#[derive(Debug)]
pub struct Live<T> {
    now: RwLock<Arc<T>>,
    changes: AtomicU64,
    changed: Notify,
}

impl<T: Default> Default for Live<T> {
    fn default() -> Live<T> {
        Live::new(T::default())
    }
}

impl<T> Live<T> {
    /// A value that was not replaced yet.
    pub fn new(value: T) -> Live<T> {
        Live {
            now: RwLock::new(Arc::new(value)),
            changes: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// The value of now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.now.read())
    }

    /// Replaces the value by what `change` makes of it, and wakes who waits for that.
    pub fn update(&self, change: impl FnOnce(&T) -> T) {
        let mut now = self.now.write();
        *now = Arc::new(change(&now));
        // After the value: who reads the new count decides by the new value.
        self.changes.fetch_add(1, SeqCst);
        drop(now);
        self.changed.notify_waiters();
    }

    /// How often the value was replaced.
    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    /// Ends when the value is replaced. Only replacements after its first poll count, or after
    /// `enable` was called on it.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}
