//! Small values that are kept as JSON.

use serde::{Deserialize, Serialize};

/// A value that was kept as JSON. One that cannot be read counts as absent.
pub fn read_json<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// A value as JSON. Plain data always becomes JSON.
pub fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
