//! Reads a `Cargo.lock` of any format: which releases of which sources it names.
//!
//! ```text
//! format 1       checksums stand apart, in [metadata]: "checksum NAME VERSION (SOURCE)" = "…"
//! format 2       no number; the checksum is a field of [[package]]
//! format 3, 4    version = 3 | 4; as 2, for us
//! ```
//!
//! The dependencies between packages are not read: a lockfile names them all. That is why the
//! `cargo-lock` crate is not used, which resolves them and refuses a file where it cannot.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use url::Url;

use super::{Checksum, Release, checksum::InvalidChecksum, release::InvalidRelease};

/// The newest format that this build reads.
pub const KNOWN_LOCK_FORMAT: i64 = 4;

/// What a lockfile names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lockfile {
    /// Packages with a source, in the file's order, none twice.
    pub packages: Vec<Locked>,
    /// Packages without a source, `name version`: the workspace's own and those in folders.
    pub local: Vec<String>,
}

/// One package of a lockfile that comes from somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// The name and the version.
    pub release: Release,
    /// Where it comes from.
    pub source: Source,
    /// The sha256 of its file. `None`: the lockfile has none, as with replaced sources.
    pub checksum: Option<Checksum>,
}

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A registry, by the URL of its index, without a kind before it.
    Registry(String),
    /// A git repository.
    Git(String),
    /// Something else: a folder, a local registry.
    Other(String),
}

/// Why a text is no lockfile that can be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLockfile {
    /// Somebody's merge is not done.
    #[error("line {line} is a mark of a merge conflict")]
    Conflict {
        /// The number of the line, from 1.
        line: usize,
    },
    /// Not TOML, or not what cargo writes.
    #[error("it is not TOML as cargo writes it")]
    Toml(#[source] Box<toml::de::Error>),
    /// A format from the future, or none.
    #[error("it has format {found}, and this build reads 1 to {KNOWN_LOCK_FORMAT}")]
    Format {
        /// The number that it gives.
        found: i64,
    },
    /// A package's name or version is none.
    #[error("the package `{name} {version}` has no good name or version")]
    Package {
        /// The name as it stands there.
        name: String,
        /// The version as it stands there.
        version: String,
        /// What is wrong with it.
        #[source]
        source: InvalidRelease,
    },
    /// A checksum is none.
    #[error("the checksum of `{release}` is none")]
    Checksum {
        /// The package.
        release: Box<Release>,
        /// What is wrong with it.
        #[source]
        source: InvalidChecksum,
    },
}

#[derive(Deserialize)]
struct File {
    version: Option<i64>,
    /// In early files of format 1 the workspace's own package stands apart.
    root: Option<Package>,
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    metadata: HashMap<String, toml::Value>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

impl Lockfile {
    /// Reads the text of a lockfile.
    ///
    /// # Errors
    /// [`InvalidLockfile`].
    pub fn parse(text: &str) -> Result<Lockfile, InvalidLockfile> {
        if let Some(line) = conflict(text) {
            return Err(InvalidLockfile::Conflict { line });
        }
        let file: File =
            toml::from_str(text).map_err(|error| InvalidLockfile::Toml(Box::new(error)))?;
        let found = file.version.unwrap_or(1);
        if !(1..=KNOWN_LOCK_FORMAT).contains(&found) {
            return Err(InvalidLockfile::Format { found });
        }
        let mut packages = Vec::with_capacity(file.package.len());
        let mut local = Vec::new();
        let mut seen = BTreeSet::new();
        for package in file.root.iter().chain(&file.package) {
            // The workspace's own packages and path dependencies have none.
            let Some(source) = &package.source else {
                local.push(format!("{} {}", package.name, package.version));
                continue;
            };
            let locked = locked(package, source, &file.metadata)?;
            if seen.insert((locked.release.clone(), locked.source.clone())) {
                packages.push(locked);
            }
        }
        Ok(Lockfile { packages, local })
    }
}

fn locked(
    package: &Package,
    source: &str,
    metadata: &HashMap<String, toml::Value>,
) -> Result<Locked, InvalidLockfile> {
    let Package { name, version, .. } = package;
    let release = Release::parse(name, version).map_err(|source| InvalidLockfile::Package {
        name: name.clone(),
        version: version.clone(),
        source,
    })?;
    let apart = || {
        let key = format!("checksum {name} {version} ({source})");
        metadata.get(&key)?.as_str()
    };
    // Format 1 writes `<none>` for what has no file.
    let text = package.checksum.as_deref().or_else(apart);
    let checksum = text.filter(|text| *text != "<none>").map(str::parse);
    let checksum = checksum
        .transpose()
        .map_err(|source| InvalidLockfile::Checksum {
            release: Box::new(release.clone()),
            source,
        })?;
    Ok(Locked {
        release,
        source: Source::parse(source),
        checksum,
    })
}

/// The line of the first mark of a merge conflict.
fn conflict(text: &str) -> Option<usize> {
    let is_mark = |line: &str| {
        ["<<<<<<< ", ">>>>>>> ", "||||||| "]
            .iter()
            .any(|mark| line.starts_with(mark))
            || line == "======="
    };
    text.lines().position(is_mark).map(|line| line + 1)
}

impl Source {
    /// Reads the source of a package. Never fails: what is not known is [`Source::Other`].
    pub fn parse(text: &str) -> Source {
        let shown = text.split('#').next().unwrap_or(text);
        if let Some(url) = shown.strip_prefix("registry+") {
            return Source::Registry(url.to_owned());
        }
        if shown.starts_with("sparse+") {
            return Source::Registry(shown.to_owned());
        }
        match shown.strip_prefix("git+") {
            Some(url) => Source::Git(url.to_owned()),
            None => Source::Other(shown.to_owned()),
        }
    }

    /// Whether packages from there are those of crates.io, however it is spelled, or of a
    /// registry with one of the indexes `ours`.
    pub fn is_of(&self, ours: &[String]) -> bool {
        let Source::Registry(index) = self else {
            return false;
        };
        let index = canonical(index);
        let known = [
            tame_index::CRATES_IO_HTTP_INDEX,
            tame_index::CRATES_IO_INDEX,
        ];
        known
            .into_iter()
            .chain(ours.iter().map(String::as_str))
            .any(|known| canonical(known) == index)
    }
}

/// One spelling for all of one index: no kind, no credentials, no slash or `.git` at its end.
fn canonical(index: &str) -> String {
    let index = index.strip_prefix("registry+").unwrap_or(index);
    let index = index.strip_prefix("sparse+").unwrap_or(index);
    let text = match Url::parse(index) {
        Ok(url) => format!(
            "{}://{}{}{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.port()
                .map(|port| format!(":{port}"))
                .unwrap_or_default(),
            url.path()
        ),
        Err(_other) => index.to_owned(),
    };
    let text = text.trim_end_matches('/');
    text.strip_suffix(".git").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "be72e7128262fbd8dcb2e3eecee6135ed1611e0a9d63feca600b4a19f297eb49";

    fn of_crates_io() -> String {
        format!("registry+{}", tame_index::CRATES_IO_INDEX)
    }

    fn parse(text: &str) -> Result<Lockfile, InvalidLockfile> {
        Lockfile::parse(&text.replace("SOURCE", &of_crates_io()).replace("SUM", SUM))
    }

    /// As cargo writes format 2 and, after `version = …`, 3 and 4.
    const PACKAGES: &str = r#"
[[package]]
name = "app"
version = "0.1.0"
dependencies = ["serde", "thing 1.0.0", "ghost of no package"]

[[package]]
name = "serde"
version = "1.0.0+b"
source = "SOURCE"
checksum = "SUM"

[[package]]
name = "thing"
version = "1.0.0"
source = "git+https://example.com/thing?branch=x#0123456789"
"#;

    #[test]
    fn all_formats_name_the_same() {
        let first = r#"
[root]
name = "app"
version = "0.1.0"

[[package]]
name = "serde"
version = "1.0.0+b"
source = "SOURCE"
dependencies = ["thing 1.0.0 (git+https://example.com/thing?branch=x#0123456789)"]

[[package]]
name = "thing"
version = "1.0.0"
source = "git+https://example.com/thing?branch=x#0123456789"

[metadata]
"checksum serde 1.0.0+b (SOURCE)" = "SUM"
"checksum thing 1.0.0 (git+https://example.com/thing?branch=x#0123456789)" = "<none>"
"#;
        let first = parse(first).expect("format 1");
        assert_eq!(first, parse(PACKAGES).expect("format 2"));
        for version in 3..=4 {
            let text = format!("version = {version}\n{PACKAGES}");
            assert_eq!(first, parse(&text).expect("a later format"));
        }
        let [serde, thing] = first.packages.as_slice() else {
            panic!("{first:?}")
        };
        assert_eq!(serde.release.to_string(), "serde 1.0.0+b");
        assert_eq!(serde.checksum, SUM.parse().ok());
        let git = "https://example.com/thing?branch=x".to_owned();
        assert_eq!(thing.source, Source::Git(git));
        assert_eq!(thing.checksum, None);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let check = |text: &str, message: &str| {
            let error = parse(text).expect_err(text).to_string();
            assert_eq!(error, message);
        };
        check(
            "version = 5\n",
            "it has format 5, and this build reads 1 to 4",
        );
        check(
            "version = 4\n\n<<<<<<< HEAD\n",
            "line 3 is a mark of a merge conflict",
        );
        check("[[package]]\n", "it is not TOML as cargo writes it");
        check("not a lockfile", "it is not TOML as cargo writes it");
        check(
            "[[package]]\nname = \"..\"\nversion = \"1.0.0\"\nsource = \"SOURCE\"\n",
            "the package `.. 1.0.0` has no good name or version",
        );
        check(
            &PACKAGES.replace("SUM", "SU"),
            "the checksum of `serde 1.0.0+b` is none",
        );
    }

    #[test]
    fn crates_io_is_known_in_every_spelling() {
        let check = |text: &str, is: bool| {
            let ours = ["https://user:secret@lab.test:8080/index/".to_owned()];
            assert_eq!(Source::parse(text).is_of(&ours), is, "{text}");
        };
        let (git, sparse) = (
            tame_index::CRATES_IO_INDEX,
            tame_index::CRATES_IO_HTTP_INDEX,
        );
        check(&format!("registry+{git}"), true);
        check(&format!("registry+{git}/"), true);
        check(&format!("registry+{git}.git"), true);
        check(&format!("registry+{git}#0123"), true);
        check(sparse, true);
        check(sparse.trim_end_matches('/'), true);
        check(&format!("registry+{sparse}"), true);
        check("sparse+https://lab.test:8080/index/", true);
        check("sparse+https://lab.test/index/", false);
        check("registry+https://other.test/index", false);
        check(&format!("git+{git}"), false);
        check("", false);
    }

    #[test]
    fn a_package_that_is_named_twice_is_one() {
        let serde = "[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\nsource = \"SOURCE\"\n";
        let lockfile = parse(&serde.repeat(2)).expect("odd but readable");
        assert_eq!(lockfile.packages.len(), 1);
    }
}
