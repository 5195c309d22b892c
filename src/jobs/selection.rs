//! Which crates a person means, as text.

use serde::{Deserialize, Serialize};

/// Which crates are meant. Files are given by their text: the command read them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// `Cargo.lock` files.
    pub lockfiles: Vec<NamedText>,
    /// `name` or `name@requirement`.
    pub crates: Vec<String>,
    /// Lists with one `name[@requirement]` a line; `#` begins a comment.
    pub lists: Vec<NamedText>,
    /// Every name known.
    pub all: bool,
    /// Only the newest version that matches.
    pub latest: bool,
    /// Saved sets, by name.
    pub sets: Vec<String>,
}

/// A text and what it is called in messages, such as the path it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedText {
    /// What it is called.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Selection {
    /// Whether nothing is meant.
    pub fn is_empty(&self) -> bool {
        self.lockfiles.is_empty()
            && self.crates.is_empty()
            && self.lists.is_empty()
            && self.sets.is_empty()
            && !self.all
    }
}
