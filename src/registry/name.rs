//! What may stand where a crate's name is expected, and the two spellings that a name has.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tame_index::KrateName;

/// The longest name that crates.io takes, in bytes (`MAX_NAME_LENGTH` of its `validate_crate_name`).
pub const MAX_NAME_BYTES: usize = 64;

/// The name of a crate, as somebody wrote it.
///
/// The grammar is the widest that a registry of cargo's kind holds: 1 to 64 ASCII letters, digits,
/// `-` and `_`. It is wider than what crates.io takes for *new* crates (reserved words, a leading
/// digit), because old crates and cargo's own `-`/`_` probing go beyond that; it is narrow enough
/// that a name is always a safe key and a safe path segment.
///
/// Two names are equal when their [`key`](CrateName::key)s are: the index knows crates by the
/// lower-case spelling, and no two crates differ in case alone. `-` and `_` stay different.
#[derive(Clone)]
pub struct CrateName {
    written: Arc<str>,
    /// The lower-case spelling; the same allocation as `written` where they agree.
    key: Arc<str>,
}

impl CrateName {
    /// Parses `text`, keeping its spelling.
    ///
    /// # Errors
    /// [`InvalidName`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<CrateName, InvalidName> {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(InvalidName::Length {
                bytes: text.chars().count(),
            });
        }
        KrateName::try_from(text).map_err(|_invalid| InvalidName::of_characters(text))?;
        let written: Arc<str> = text.into();
        let key = if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            Arc::clone(&written)
        };
        Ok(CrateName { written, key })
    }

    /// The spelling that was parsed, for messages and upstream's download URLs.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The lower-case spelling: the store's key and the last segment of the index path.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The folder part of the index path in the spelling of the name: `1`, `2`, `3/a` or `ab/cd`.
    ///
    /// Source: the [index format](https://doc.rust-lang.org/cargo/reference/registry-index.html#index-files).
    pub fn prefix(&self) -> String {
        prefix_of(&self.written)
    }

    /// The path of this crate's file in an index: `se/rd/serde`, always in lower case.
    pub fn index_path(&self) -> String {
        format!("{}/{}", prefix_of(&self.key), self.key)
    }
}

fn prefix_of(name: &str) -> String {
    let mut prefix = String::with_capacity(5);
    // `KrateName::prefix` slices by bytes: the grammar above has only ASCII.
    if let Ok(name) = KrateName::try_from(name) {
        name.prefix(&mut prefix, '/');
    }
    prefix
}

impl PartialEq for CrateName {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for CrateName {}

impl std::hash::Hash for CrateName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl PartialOrd for CrateName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CrateName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl fmt::Display for CrateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for CrateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrateName({})", self.written)
    }
}

/// In its spelling.
impl Serialize for CrateName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for CrateName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CrateName, D::Error> {
        let text = String::deserialize(deserializer)?;
        CrateName::parse(&text).map_err(D::Error::custom)
    }
}

/// Why a text is not the name of a crate. The text itself is not part of the message: whoever
/// shows the error quotes it, escaped for the place where it is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Empty, or longer than [`MAX_NAME_BYTES`].
    #[error("a crate name has 1 to {MAX_NAME_BYTES} characters, and this one has {bytes}")]
    Length {
        /// How many characters there were.
        bytes: usize,
    },
    /// A character that no crate name has.
    #[error(
        "a crate name has only ASCII letters, digits, `-` and `_`, and this one has {found:?} at position {position}"
    )]
    Character {
        /// The first such character.
        found: char,
        /// Where it stands, counted in characters from 0.
        position: usize,
    },
}

impl InvalidName {
    fn of_characters(text: &str) -> InvalidName {
        let bad = |c: &(usize, char)| !(c.1.is_ascii_alphanumeric() || c.1 == '-' || c.1 == '_');
        match text.chars().enumerate().find(bad) {
            Some((position, found)) => InvalidName::Character { found, position },
            None => InvalidName::Length {
                bytes: text.chars().count(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let path = CrateName::parse(text).ok().map(|name| name.index_path());
        assert_eq!(path.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn a_name_knows_its_index_path() {
        check("a", Some("1/a"));
        check("ab", Some("2/ab"));
        check("Abc", Some("3/a/abc"));
        check("Inflector", Some("in/fl/inflector"));
        check("serde_json", Some("se/rd/serde_json"));
        check("_a", Some("2/_a"));
        check(&"x".repeat(64), Some(&format!("xx/xx/{}", "x".repeat(64))));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "", ".", "..", "a/b", "a%2fb", "a b", "ünï", "a\0b", "a.b", "con\n",
        ] {
            check(text, None);
        }
        check(&"x".repeat(65), None);
    }

    #[test]
    fn names_are_equal_whatever_their_case_but_not_whatever_their_dash() {
        let parse = |text| CrateName::parse(text).expect("a good name");
        assert_eq!(parse("Inflector"), parse("inflector"));
        assert_ne!(parse("a-b"), parse("a_b"));
        assert_eq!(parse("Inflector").prefix(), "In/fl");
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_a_safe_path_segment(text in "\\PC{0,70}") {
            if let Ok(name) = CrateName::parse(&text) {
                prop_assert!(name.key().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'));
                prop_assert!(!name.key().is_empty() && name.key().len() <= MAX_NAME_BYTES);
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
