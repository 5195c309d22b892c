//! What this user's cargo is set to do in this folder, by cargo's own rules of precedence.
//!
//! Source: [configuration](https://doc.rust-lang.org/cargo/reference/config.html#hierarchical-structure)
//! and [source replacement](https://doc.rust-lang.org/cargo/reference/source-replacement.html).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use semver::Version;
use toml::{Table, Value};

use super::{Findings, target::Target};
use crate::config::ClientEnvironment;

/// The largest configuration file that is read.
const MOST_CONFIG_BYTES: u64 = 1 << 20;

/// How many files of configuration are read, with those that they include.
const MOST_INCLUDES: usize = 64;

/// How many replacements may follow one another.
const MOST_REPLACEMENTS: usize = 16;

/// cargo's configuration files, the strongest first, and the variables above them.
#[derive(Debug)]
pub(super) struct CargoConfig {
    files: Vec<(PathBuf, Table)>,
    unreadable: Vec<(PathBuf, String)>,
    environment: ClientEnvironment,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) value: String,
    pub(super) from: String,
}

/// Where cargo goes in the stead of crates.io.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// To crates.io itself.
    Direct,
    /// To a registry with this index.
    Registry { index: String, from: String },
    /// To a folder, vendored or a local registry.
    Folder {
        kind: &'static str,
        path: String,
        from: String,
    },
    /// Nowhere: what is named is not there.
    Nowhere { name: String, from: String },
}

impl CargoConfig {
    /// Reads the files that count for `here`.
    pub(super) fn read(here: &Path, environment: ClientEnvironment) -> CargoConfig {
        let mut config = CargoConfig {
            files: Vec::new(),
            unreadable: Vec::new(),
            environment,
        };
        let mut folders: Vec<PathBuf> = here.ancestors().map(|dir| dir.join(".cargo")).collect();
        folders.extend(config.environment.cargo_home.clone());
        for folder in folders {
            config.take(&folder);
        }
        config
    }

    /// Of `config` and `config.toml` in one folder, cargo reads the first that is there.
    fn take(&mut self, folder: &Path) {
        let paths = ["config", "config.toml"].map(|name| folder.join(name));
        let Some(path) = paths.into_iter().find(|path| path.is_file()) else {
            return;
        };
        self.take_file(path);
    }

    /// One file, and after it, because they are weaker, those that it includes: the last first.
    fn take_file(&mut self, path: PathBuf) {
        if self.files.iter().any(|(known, _)| *known == path) {
            return;
        }
        let included = match read_table(&path) {
            Ok(table) => {
                let included = included(&table, &path);
                self.files.push((path, table));
                included
            }
            Err(why) => return self.unreadable.push((path, why)),
        };
        for (path, is_optional) in included.into_iter().rev() {
            let has_room = self.files.len() + self.unreadable.len() < MOST_INCLUDES;
            if has_room && (path.is_file() || !is_optional) {
                self.take_file(path);
            }
        }
    }

    /// The strongest value for a key.
    fn text(&self, path: &[&str]) -> Option<Found> {
        let name = path.join("_").replace('-', "_").to_uppercase();
        let name = format!("CARGO_{name}");
        // cargo has no variables for sources.
        if path.first() != Some(&"source")
            && let Some((_, value)) = self.environment.first(&[&name])
        {
            return Some(Found {
                value: value.to_owned(),
                from: format!("the variable `{name}`"),
            });
        }
        self.files.iter().find_map(|(file, table)| {
            Some(Found {
                value: shown(lookup(table, path)?)?,
                from: format!("`{}`", file.display()),
            })
        })
    }

    /// The environment that the configuration was read in.
    pub(super) fn environment(&self) -> &ClientEnvironment {
        &self.environment
    }

    /// The proxy of cargo's own.
    pub(super) fn proxy(&self) -> Option<Found> {
        self.text(&["http", "proxy"])
            .filter(|found| !found.value.is_empty())
    }

    /// The proxy of git's configuration, which cargo uses where its own names none.
    pub(super) fn proxy_of_git() -> Option<Found> {
        let ask = |place: &str| {
            let words = ["config", place, "--includes", "--get", "http.proxy"];
            let output = Command::new("git").args(words).output().ok()?;
            let value = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            (output.status.success() && !value.is_empty()).then_some(value)
        };
        let value = ask("--global").or_else(|| ask("--system"))?;
        Some(Found {
            value,
            from: "`http.proxy` of git's configuration".to_owned(),
        })
    }

    /// The authorities that cargo trusts in the stead of the system's.
    pub(super) fn authorities(&self) -> Option<Found> {
        let of_variable = || {
            let (name, value) = self.environment.first(&["SSL_CERT_FILE"])?;
            Some(Found {
                value: value.to_owned(),
                from: format!("the variable `{name}`"),
            })
        };
        self.text(&["http", "cainfo"]).or_else(of_variable)
    }

    /// Follows the replacements from crates.io on.
    fn source(&self) -> Source {
        let (mut name, mut place) = ("crates-io".to_owned(), String::new());
        for _ in 0..MOST_REPLACEMENTS {
            let of = |key: &str| self.text(&["source", &name, key]);
            if let Some(next) = of("replace-with") {
                (name, place) = (next.value, next.from);
                continue;
            }
            if name == "crates-io" {
                return Source::Direct;
            }
            for (key, kind) in [
                ("directory", "vendored crates"),
                ("local-registry", "a local registry"),
            ] {
                if let Some(found) = of(key) {
                    return Source::Folder {
                        kind,
                        path: found.value,
                        from: found.from,
                    };
                }
            }
            let index = of("registry").or_else(|| self.text(&["registries", &name, "index"]));
            return match index {
                Some(found) => Source::Registry {
                    index: found.value,
                    from: found.from,
                },
                None => Source::Nowhere { name, from: place },
            };
        }
        Source::Nowhere { name, from: place }
    }

    /// Says what is configured, and returns where it leads. `elsewhere`: there is another reason
    /// to examine a mirror, so that a cargo that does not use it is no failure.
    pub(super) fn examine(&self, elsewhere: bool, findings: &mut Findings<'_>) -> Source {
        for (path, why) in &self.unreadable {
            findings.fail(
                "cargo configuration",
                format!("`{}` cannot be used: {why}", path.display()),
                "correct the file; cargo refuses to run with it",
            );
        }
        let source = self.source();
        tell_of(&source, elsewhere, findings);
        self.examine_offline(findings);
        source
    }

    fn examine_offline(&self, findings: &mut Findings<'_>) {
        if let Some(found) = self
            .text(&["net", "offline"])
            .filter(|found| found.value == "true")
        {
            findings.fail(
                "cargo offline",
                format!(
                    "`net.offline = true` in {}: cargo asks no mirror at all",
                    found.from
                ),
                format!(
                    "take `offline` out of {}, unless cargo is to use only what it has",
                    found.from
                ),
            );
        }
    }

    /// Says whether this cargo can use the index that is configured.
    pub(super) fn examine_version(target: &Target, source: &Source, findings: &mut Findings<'_>) {
        const CHECK: &str = "cargo version";
        let is_sparse = match source {
            Source::Registry { index, .. } => index.starts_with("sparse+"),
            _ => !target.is_git,
        };
        let Some(version) = version_of_cargo() else {
            findings.skip(CHECK, "there is no cargo on the PATH");
            return;
        };
        if version.major == 1 && version.minor < 68 && is_sparse {
            findings.fail(
                CHECK,
                format!("cargo {version} does not know sparse indexes (1.68 and newer do)"),
                "use a newer toolchain, or the git index: `orlop client-config --git`",
            );
        } else {
            findings.ok(CHECK, format!("cargo {version}"));
        }
    }
}

fn tell_of(source: &Source, elsewhere: bool, findings: &mut Findings<'_>) {
    const CHECK: &str = "cargo configuration";
    match source {
        Source::Registry { index, from } => findings.ok(
            CHECK,
            format!("crates.io is replaced by `{}` (in {from})", without_password(index)),
        ),
        Source::Folder { kind, path, from } => findings.warn(
            CHECK,
            format!("crates.io is replaced by {kind} in `{path}` (in {from}): no mirror is asked"),
            format!("take the replacement out of {from} to use a mirror here"),
        ),
        Source::Nowhere { name, from } => findings.fail(
            CHECK,
            format!("crates.io is replaced by `{name}` (in {from}), which is defined nowhere"),
            format!("add `[registries.{name}]` with its `index` there; `orlop client-config` prints both"),
        ),
        Source::Direct => {
            let found = "cargo asks crates.io itself: nothing replaces it in this folder";
            let remedy = "`orlop client-config --url URL >> ~/.cargo/config.toml`";
            if elsewhere {
                findings.warn(CHECK, found, format!("on a client: {remedy}"));
            } else {
                findings.fail(CHECK, found, remedy);
            }
        }
    }
}

fn without_password(text: &str) -> String {
    let (before, text) = match text.strip_prefix("sparse+") {
        Some(rest) => ("sparse+", rest),
        None => ("", text),
    };
    match text.parse::<crate::upstream::SecretUrl>() {
        Ok(url) => format!("{before}{url}"),
        Err(_) => format!("{before}{text}"),
    }
}

fn read_table(path: &Path) -> Result<Table, String> {
    let len = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if len > MOST_CONFIG_BYTES {
        return Err(format!("it has {len} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse()
        .map_err(|error: toml::de::Error| error.message().to_owned())
}

/// The files that a file includes, and whether each may be missing: texts, or tables with `path`
/// and `optional`. Paths are relative to the folder of the file.
fn included(table: &Table, file: &Path) -> Vec<(PathBuf, bool)> {
    let all = match table.get("include") {
        Some(Value::Array(all)) => all.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => return Vec::new(),
    };
    let folder = file.parent().unwrap_or(file);
    let one = |value: &Value| {
        let (path, is_optional) = match value {
            Value::String(path) => (path.as_str(), false),
            Value::Table(table) => {
                let is_optional = table.get("optional").and_then(Value::as_bool);
                (table.get("path")?.as_str()?, is_optional == Some(true))
            }
            _ => return None,
        };
        Some((folder.join(path), is_optional))
    };
    all.iter().filter_map(one).collect()
}

fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (last, folders) = path.split_last()?;
    let mut table = table;
    for folder in folders {
        table = table.get(*folder)?.as_table()?;
    }
    table.get(*last)
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Boolean(is) => Some(is.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

fn version_of_cargo() -> Option<Version> {
    let output = Command::new("cargo")
        .arg("--version")
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Version::parse(text.split_whitespace().nth(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(files: &[&str], variables: &[(&str, &str)]) -> CargoConfig {
        let name = |at: usize| PathBuf::from(format!("{at}"));
        CargoConfig {
            files: files
                .iter()
                .enumerate()
                .map(|(at, text)| (name(at), text.parse().expect("TOML")))
                .collect(),
            unreadable: Vec::new(),
            environment: ClientEnvironment::of(
                variables
                    .iter()
                    .map(|(name, value)| (name.into(), value.into())),
            ),
        }
    }

    fn registry(index: &str, from: &str) -> Source {
        Source::Registry {
            index: index.to_owned(),
            from: from.to_owned(),
        }
    }

    #[test]
    fn replacements_are_followed_as_cargo_follows_them() {
        let check = |files: &[&str], variables: &[(&str, &str)], expected: Source| {
            assert_eq!(config(files, variables).source(), expected, "{files:?}");
        };
        check(&[], &[], Source::Direct);
        let replace = "[source.crates-io]\nreplace-with = \"m\"\n";
        let near = format!("{replace}[registries.m]\nindex = \"sparse+http://m/index/\"");
        let far = format!("{replace}[source.m]\nregistry = \"http://far/index\"");
        check(&[&near], &[], registry("sparse+http://m/index/", "`0`"));
        check(&[&far], &[], registry("http://far/index", "`0`"));
        check(
            &[replace, "[registries.m]\nindex = \"sparse+http://home/\""],
            &[],
            registry("sparse+http://home/", "`1`"),
        );
        check(
            &[&near],
            &[("CARGO_REGISTRIES_M_INDEX", "sparse+http://env/")],
            registry(
                "sparse+http://env/",
                "the variable `CARGO_REGISTRIES_M_INDEX`",
            ),
        );
        check(
            &[replace],
            &[],
            Source::Nowhere {
                name: "m".to_owned(),
                from: "`0`".to_owned(),
            },
        );
        let folder = format!("{replace}[source.m]\ndirectory = \"vendor\"");
        check(
            &[&folder],
            &[],
            Source::Folder {
                kind: "vendored crates",
                path: "vendor".to_owned(),
                from: "`0`".to_owned(),
            },
        );
    }

    #[test]
    fn included_files_count_below_the_one_that_names_them() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (near, home) = (place.path().join("p/.cargo"), place.path().join("home"));
        for folder in [&near, &home] {
            fs::create_dir_all(folder).expect("made");
        }
        let put = |path: PathBuf, text: &str| fs::write(path, text).expect("written");
        put(
            near.join("config.toml"),
            "include = [\"a.toml\", { path = \"b.toml\" }, { path = \"none\", optional = true }]\n\
             [source.m]\nregistry = \"http://own\"",
        );
        put(
            near.join("a.toml"),
            "include = \"config.toml\"\nx = 1\n[net]\noffline = true\n",
        );
        put(
            near.join("b.toml"),
            "x = 2\n[source.m]\nregistry = \"http://b\"\n[source.crates-io]\nreplace-with = \"m\"",
        );
        put(
            home.join("config.toml"),
            "x = 3\ny = 3\ninclude = [\"gone.toml\"]",
        );
        let environment = ClientEnvironment {
            cargo_home: Some(home),
            ..ClientEnvironment::default()
        };
        let config = CargoConfig::read(&place.path().join("p"), environment);
        let text = |path: &[&str]| config.text(path).map(|found| found.value);
        assert_eq!(text(&["x"]).as_deref(), Some("2"), "the last include wins");
        assert_eq!(text(&["y"]).as_deref(), Some("3"));
        assert_eq!(text(&["net", "offline"]).as_deref(), Some("true"));
        let from = near.join("config.toml");
        assert_eq!(
            config.source(),
            registry("http://own", &format!("`{}`", from.display()))
        );
        let gone: Vec<_> = config.unreadable.iter().map(|(path, _)| path).collect();
        assert_eq!(gone, [&place.path().join("home/gone.toml")]);
    }

    #[test]
    fn a_circle_of_replacements_ends() {
        let text = "[source.crates-io]\nreplace-with = \"a\"\n[source.a]\nreplace-with = \"b\"\n\
                    [source.b]\nreplace-with = \"a\"";
        assert!(matches!(
            config(&[text], &[]).source(),
            Source::Nowhere { .. }
        ));
    }
}
