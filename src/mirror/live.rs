//! The options that a running mirror may be given anew, and what becomes of answers made with the old.
//!
//! A request takes the options once where it decides, and keeps them to its end. Ready answers
//! carry the store's stamp with the count of changes mixed in: none outlives a change, not even
//! one that a request which began before it makes ready after it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use super::{Inner, Mirror, Options};

impl Options {
    /// These options with those of `new` that may change while the mirror runs. A sync under way
    /// keeps its pace.
    fn with(&self, new: &Options) -> Options {
        let mut options = self.clone();
        options.mode = new.mode;
        options.freshness = new.freshness;
        options.patience = new.patience;
        options.sync = new.sync.clone();
        options.bundle.trust.clone_from(&new.bundle.trust);
        options.upkeep.keep_uses_for = new.upkeep.keep_uses_for;
        options
    }
}

/// The options that hold now, and how often they changed.
#[derive(Debug)]
pub(super) struct Live {
    now: parking_lot::RwLock<Arc<Options>>,
    changes: AtomicU64,
}

impl Live {
    pub(super) fn new(options: Options) -> Live {
        Live {
            now: parking_lot::RwLock::new(Arc::new(options)),
            changes: AtomicU64::new(0),
        }
    }

    /// A stamp of the store as one under the options of now.
    pub(super) fn mark(&self, stamp: u64) -> u64 {
        // Odd and with bits all over: neighbours of one count do not meet those of the next.
        stamp
            ^ self
                .changes
                .load(SeqCst)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn change(&self, new: &Options) {
        let mut now = self.now.write();
        *now = Arc::new(now.with(new));
        // After the options: who reads the new count decides by the new options.
        self.changes.fetch_add(1, SeqCst);
    }
}

impl Inner {
    /// The options that hold now.
    pub(super) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.now.read())
    }
}

impl Mirror {
    /// Applies the options of `new` that may change while the mirror runs. What is under way ends
    /// as it began.
    pub fn apply(&self, new: &Options) {
        let keep_uses_for = new.upkeep.keep_uses_for;
        let was = self.inner.options().upkeep.keep_uses_for;
        self.inner.options.change(new);
        if was != keep_uses_for {
            self.inner.uses.keep_for(keep_uses_for);
            self.inner.note_recording();
        }
        self.inner.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Mode;

    #[test]
    fn a_stamp_of_before_a_change_is_none_of_after() {
        let live = Live::new(Options::default());
        let before = live.mark(7);
        let new = Options {
            mode: Mode::Strict,
            ..Options::default()
        };
        live.change(&new);
        assert_eq!(live.now.read().mode, Mode::Strict);
        assert_ne!(live.mark(7), before);
        for stamp in 0..10_000 {
            assert_ne!(live.mark(stamp), before, "{stamp}");
        }
    }
}
