//! One version of one crate, as a request or an index line names it.

use std::fmt;

use semver::Version;

use super::name::{CrateName, InvalidName};

/// The longest version text that is looked at, in bytes. Semver sets no limit; the longest on
/// crates.io has fewer than 100, and a request line should not decide how much we parse.
pub const MAX_VERSION_BYTES: usize = 255;

/// A crate and a version: `serde 1.0.219`. It says *which* file is meant, never which bytes: a
/// version may be deleted and published anew, so bytes are known by their [`Checksum`](super::Checksum).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Release {
    /// The crate.
    pub name: CrateName,
    /// The version, build metadata included: the index treats `1.0.0+a` and `1.0.0` as two.
    pub version: Version,
}

impl Release {
    /// Parses the two segments of a download path, already percent-decoded.
    ///
    /// # Errors
    /// [`InvalidRelease`] says which of the two is wrong.
    pub fn parse(name: &str, version: &str) -> Result<Release, InvalidRelease> {
        Ok(Release {
            name: CrateName::parse(name)?,
            version: parse_version(version)?,
        })
    }

    /// What facts about it are kept under, the same for all spellings of the name: `name@version`.
    pub fn key(&self) -> String {
        format!("{}@{}", self.name.key(), self.version)
    }
}

/// Parses a version as the index writes it.
///
/// # Errors
/// [`InvalidRelease::Version`] where it is not semantic versioning 2.0, and
/// [`InvalidRelease::VersionLength`] where it is over [`MAX_VERSION_BYTES`].
pub fn parse_version(text: &str) -> Result<Version, InvalidRelease> {
    if text.len() > MAX_VERSION_BYTES {
        return Err(InvalidRelease::VersionLength { bytes: text.len() });
    }
    Ok(Version::parse(text)?)
}

/// For `#[serde(with)]`: a version as its text, at most [`MAX_VERSION_BYTES`] of it.
pub mod version_text {
    use semver::Version;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    /// Parses the text.
    ///
    /// # Errors
    /// For a text that is not a version.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_version(&text).map_err(D::Error::custom)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Why a name and a version do not make a release.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRelease {
    /// The name is wrong.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The version is wrong.
    #[error("a version is written like `1.2.3` (semver.org)")]
    Version(#[from] semver::Error),
    /// The version is too long to look at.
    #[error("a version has at most {MAX_VERSION_BYTES} characters, and this one has {bytes}")]
    VersionLength {
        /// How many there were.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_keeps_its_build_metadata() {
        let release = Release::parse("libgit2-sys", "0.18.0+1.9.0").expect("a good release");
        assert_eq!(release.to_string(), "libgit2-sys 0.18.0+1.9.0");
        assert_ne!(
            release,
            Release::parse("libgit2-sys", "0.18.0").expect("another")
        );
    }

    #[test]
    fn what_is_no_release_is_refused() {
        for (name, version) in [
            ("..", "1.0.0"),
            ("a", "1.0"),
            ("a", "../1.0.0"),
            ("a", ""),
            ("a", "01.0.0"),
        ] {
            assert!(Release::parse(name, version).is_err(), "{name} {version}");
        }
        let long = format!("1.0.0-{}", "a".repeat(300));
        assert!(matches!(
            Release::parse("a", &long),
            Err(InvalidRelease::VersionLength { .. })
        ));
    }
}
