//! What differs between two configurations.

use serde_json::Value;

use super::{KEYS, Key, Loaded};

/// A value that is another now.
#[derive(Debug, Clone)]
pub struct Change {
    /// Whose.
    pub key: &'static Key,
    /// What it was, as it may be shown.
    pub from: Value,
    /// What it is, as it may be shown. The same where only its secret part changed.
    pub to: Value,
}

/// What differs between two configurations, in the order of the keys.
pub fn changes(from: &Loaded, to: &Loaded) -> Vec<Change> {
    let (from, to) = (&from.config, &to.config);
    let differing = KEYS.iter().filter(|key| !key.is_same(from, to));
    let change = |key: &'static Key| Change {
        key,
        from: key.value(from),
        to: key.value(to),
    };
    differing.map(change).collect()
}
