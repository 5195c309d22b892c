//! What a new configuration changes of the one that a server runs with, and what it can take on.

use serde_json::Value;

use super::{Config, Key, Loaded, Setting};

/// The keys whose values a running server takes on. The others count from its next start.
pub const CHANGEABLE: &[&str] = &[
    "mode",
    "public_url",
    "listen.trusted_proxies",
    "index.fresh_for",
    "index.negative_for",
    "index.patience",
    "sync.every",
    "sync.concurrency",
    "sync.max_rate",
    "import.trust",
    "use.keep_for",
    "log.filter",
];

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

impl Key {
    /// Whether a running server takes a new value on.
    pub fn is_changeable(&self) -> bool {
        CHANGEABLE.contains(&self.path)
    }
}

/// What differs between two configurations, in the order of the keys.
pub fn changes(from: &Loaded, to: &Loaded) -> Vec<Change> {
    let pairs = from.settings.iter().zip(&to.settings);
    let differs = |(old, new): &(&Setting, &Setting)| {
        old.value != new.value || is_secretly_another(old.key.path, &from.config, &to.config)
    };
    let change = |(old, new): (&Setting, &Setting)| Change {
        key: old.key,
        from: old.value.clone(),
        to: new.value.clone(),
    };
    pairs.filter(differs).map(change).collect()
}

/// Values that are shown without their credentials.
fn is_secretly_another(path: &str, from: &Config, to: &Config) -> bool {
    let (from, to) = (&from.upstream, &to.upstream);
    match path {
        "upstream.url" => from.url != to.url,
        "upstream.git_index" => from.git_index != to.git_index,
        "upstream.proxy" => from.proxy != to.proxy,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    #[test]
    fn what_may_change_are_keys() {
        for path in CHANGEABLE {
            assert!(KEYS.iter().any(|key| key.path == *path), "{path}");
        }
    }
}
