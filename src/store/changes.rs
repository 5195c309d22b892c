//! Tells who wants to know which names changed: names only, and not more of them than fit.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::stamps::Stamps;
use crate::registry::CrateName;

/// How many names a subscriber may have waiting. Who is further behind looks at everything, which
/// takes seconds with a whole registry: as many as a large sync changes in a minute, in a megabyte.
const MAX_NAMES: usize = 16_384;

/// What changed since somebody last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The index entry of these names, or which of their crate files are held. In order.
    Names(Vec<CrateName>),
    /// More names than are remembered.
    Everything,
}

/// One who wants to know what changes, from when it was made on.
#[derive(Debug)]
pub struct Changes {
    pending: Arc<Mutex<Pending>>,
}

/// How much waits for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// How many names; `None`: more than are remembered.
    pub names: Option<u64>,
    /// A number that grows with each change.
    pub changes: u64,
}

impl Changes {
    /// What changed since the last time.
    pub fn take(&self) -> Changed {
        let mut pending = self.pending.lock();
        let names = std::mem::take(&mut pending.names);
        if std::mem::take(&mut pending.is_everything) {
            return Changed::Everything;
        }
        let names = names.iter();
        Changed::Names(names.filter_map(|key| CrateName::parse(key).ok()).collect())
    }

    /// Has the next [`take`](Changes::take) return this as well: it was taken and not dealt with.
    pub fn put_back(&self, changed: &Changed) {
        let mut pending = self.pending.lock();
        match changed {
            Changed::Names(names) => {
                let keys: Vec<_> = names.iter().map(|name| name.key().to_owned()).collect();
                pending.add(keys.iter());
            }
            Changed::Everything => pending.set_everything(),
        }
    }

    /// How much waits.
    pub fn waiting(&self) -> Waiting {
        let pending = self.pending.lock();
        let names = u64::try_from(pending.names.len()).unwrap_or(u64::MAX);
        Waiting {
            names: (!pending.is_everything).then_some(names),
            changes: pending.changes,
        }
    }
}

#[derive(Debug, Default)]
struct Pending {
    /// Lower-case names.
    names: BTreeSet<String>,
    is_everything: bool,
    changes: u64,
}

impl Pending {
    fn add<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        self.changes = self.changes.saturating_add(1);
        if self.is_everything {
            return;
        }
        self.names.extend(names.cloned());
        if self.names.len() > MAX_NAMES {
            self.set_everything();
        }
    }

    fn set_everything(&mut self) {
        self.changes = self.changes.saturating_add(1);
        self.names.clear();
        self.is_everything = true;
    }
}

/// All who want to know.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    subscribers: Mutex<Vec<Weak<Mutex<Pending>>>>,
    /// For those who only want to know whether anything changed.
    stamps: Stamps,
}

impl Watchers {
    /// Subscribes to what changes from now on.
    pub(super) fn subscribe(&self) -> Changes {
        let pending = Arc::default();
        self.subscribers.lock().push(Arc::downgrade(&pending));
        Changes { pending }
    }

    /// A number that changes with what the name has, see [`Stamps`].
    pub(super) fn stamp(&self, name: &CrateName) -> u64 {
        self.stamps.of(name.key())
    }

    fn each(&self, tell: impl Fn(&mut Pending)) {
        self.subscribers.lock().retain(|watcher| {
            let watcher = watcher.upgrade();
            if let Some(pending) = &watcher {
                tell(&mut pending.lock());
            }
            watcher.is_some()
        });
    }

    /// Tells that names changed, once readers see it.
    pub(super) fn tell(&self, names: &BTreeSet<String>) {
        for name in names {
            self.stamps.bump(name);
        }
        if !names.is_empty() {
            self.each(|pending| pending.add(names.iter()));
        }
    }

    /// Tells that anything may have changed.
    pub(super) fn tell_everything(&self) {
        self.stamps.bump_all();
        self.each(Pending::set_everything);
    }
}
