//! What cargo's configuration says for one folder, by cargo's own rules of precedence.
//!
//! Source: [configuration](https://doc.rust-lang.org/cargo/reference/config.html#hierarchical-structure)
//! and [source replacement](https://doc.rust-lang.org/cargo/reference/source-replacement.html).
//! The crate `cargo-config2` reads no `include` and stops at the first damaged file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use semver::Version;
use toml::{Table, Value};

use super::finding::{Finding, Findings, Severity};

/// How many configuration files are read, included ones among them.
const MAX_FILES: usize = 64;

/// The largest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// How many replacements may follow one another.
const MAX_REPLACEMENTS: usize = 16;

/// What the checks of cargo's configuration are called.
const CHECK: &str = "cargo configuration";

/// cargo's configuration files, the strongest first, and the variables above them.
#[derive(Debug)]
pub(super) struct CargoConfig<'a> {
    files: Vec<(PathBuf, Value)>,
    unreadable: Vec<(PathBuf, String)>,
    variables: &'a BTreeMap<String, String>,
}

/// A value, and the file or variable that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CargoValue {
    pub(super) value: String,
    pub(super) place: String,
}

impl CargoConfig<'_> {
    /// Reads the files that cargo reads in `folder`.
    pub(super) fn read<'a>(
        folder: &Path,
        variables: &'a BTreeMap<String, String>,
    ) -> CargoConfig<'a> {
        let mut config = CargoConfig {
            files: Vec::new(),
            unreadable: Vec::new(),
            variables,
        };
        let path_of = |name: &str| Some(PathBuf::from(config.variable(&[name])?.value));
        let below_home = || Some(path_of("HOME")?.join(".cargo"));
        let home = path_of("CARGO_HOME").or_else(below_home);
        let folders = folder.ancestors().map(|folder| folder.join(".cargo"));
        for folder in folders.chain(home) {
            // cargo reads the first of the two that exists.
            let paths = ["config", "config.toml"].map(|name| folder.join(name));
            if let Some(path) = paths.into_iter().find(|path| path.is_file()) {
                config.read_file(path);
            }
        }
        config
    }

    /// Reads a file, and after it, because they are weaker, the ones it includes: the last first.
    fn read_file(&mut self, path: PathBuf) {
        let is_known = self.files.iter().any(|(known, _)| *known == path);
        if is_known || self.files.len() + self.unreadable.len() >= MAX_FILES {
            return;
        }
        let table = match read_table(&path) {
            Ok(table) => table,
            Err(why) => return self.unreadable.push((path, why)),
        };
        let included = included(&table, &path);
        self.files.push((path, table));
        for (path, is_optional) in included.into_iter().rev() {
            if path.is_file() || !is_optional {
                self.read_file(path);
            }
        }
    }

    /// The strongest value of a key.
    fn value(&self, key: &[&str]) -> Option<CargoValue> {
        let variable = format!("CARGO_{}", key.join("_").replace('-', "_").to_uppercase());
        // cargo has no variables for sources.
        if key.first() != Some(&"source")
            && let Some(found) = self.variable(&[&variable])
        {
            return Some(found);
        }
        self.files.iter().find_map(|(file, table)| {
            let value = key.iter().try_fold(table, |value, part| value.get(*part))?;
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Boolean(_) | Value::Integer(_) => value.to_string(),
                _ => return None,
            };
            let place = format!("`{}`", file.display());
            Some(CargoValue { value, place })
        })
    }

    /// The first of these variables that is set and not empty.
    pub(super) fn variable(&self, names: &[&str]) -> Option<CargoValue> {
        names.iter().find_map(|name| {
            let value = self.variables.get(*name)?.clone();
            let place = format!("the variable `{name}`");
            (!value.is_empty()).then_some(CargoValue { value, place })
        })
    }

    /// The proxy of cargo's configuration, else that of git's, which cargo uses too.
    pub(super) fn proxy(&self) -> Option<CargoValue> {
        let own = self.value(&["http", "proxy"]);
        own.filter(|proxy| !proxy.value.is_empty())
            .or_else(proxy_of_git)
    }

    /// The file with the authorities that cargo trusts instead of the system's.
    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        let file = self.value(&["http", "cainfo"]);
        let file = file.or_else(|| self.variable(&["SSL_CERT_FILE"]))?;
        Some(file.value.into())
    }

    /// The index that replaces crates.io; `None`: cargo uses crates.io itself. An error: cargo
    /// uses no index.
    fn index(&self) -> Result<Option<CargoValue>, Finding> {
        let (mut name, mut place) = ("crates-io".to_owned(), String::new());
        for _ in 0..MAX_REPLACEMENTS {
            let of_source = |key: &str| self.value(&["source", &name, key]);
            if let Some(next) = of_source("replace-with") {
                (name, place) = (next.value, next.place);
                continue;
            }
            if name == "crates-io" {
                return Ok(None);
            }
            let folder = of_source("directory").or_else(|| of_source("local-registry"));
            if let Some(CargoValue { value, place }) = folder {
                return Err(
                    finding!(Warn, CHECK => "crates.io is replaced by the crates in `{value}` (in {place}): cargo uses no mirror";
                        "take the replacement out of {place} to use a mirror here"),
                );
            }
            let index = of_source("registry");
            let index = index.or_else(|| self.value(&["registries", &name, "index"]));
            if index.is_some() {
                return Ok(index);
            }
            break;
        }
        Err(
            finding!(Fail, CHECK => "crates.io is replaced by `{name}` (in {place}), which is not defined";
                "add `[registries.{name}]` with its `index` there; `orlop client-config` prints both"),
        )
    }

    /// Checks the configuration, and returns the index that cargo uses. A cargo that uses no
    /// mirror is a failure only where no other mirror is examined.
    pub(super) fn examine(&self, has_other: bool, findings: &mut Findings<'_>) -> Option<String> {
        for (path, why) in &self.unreadable {
            let path = path.display();
            findings.add(finding!(Fail, CHECK => "`{path}` cannot be used: {why}";
                "correct the file; cargo refuses to run with it"));
        }
        let index = self.index();
        findings.add(match &index {
            Ok(Some(CargoValue { value, place })) => {
                let index = without_password(value);
                finding!(Ok, CHECK => "crates.io is replaced by `{index}` (in {place})")
            }
            Ok(None) => {
                let mut none = finding!(Fail, CHECK => "cargo uses crates.io itself: nothing replaces it in this folder";
                    "on a client: `orlop client-config --url URL >> ~/.cargo/config.toml`");
                if has_other {
                    none.severity = Severity::Warn;
                }
                none
            }
            Err(finding) => finding.clone(),
        });
        let offline = self.value(&["net", "offline"]);
        if let Some(CargoValue { place, .. }) = offline.filter(|found| found.value == "true") {
            findings.add(finding!(Fail, "cargo offline" => "`net.offline = true` in {place}: cargo sends no request";
                "take `offline` out of {place}, unless cargo is to use only what it has"));
        }
        index.ok().flatten().map(|index| index.value)
    }
}

/// Checks whether the cargo on the PATH knows the index that it is to use.
pub(super) fn examine_version(is_sparse: bool) -> Finding {
    const CHECK: &str = "cargo version";
    match version_of_cargo() {
        None => finding!(Skip, CHECK => "there is no cargo on the PATH"),
        Some(version) if version < Version::new(1, 68, 0) && is_sparse => {
            finding!(Fail, CHECK => "cargo {version} does not know sparse indexes (1.68 and newer do)";
                "use a newer toolchain, or the git index: `orlop client-config --git`")
        }
        Some(version) => finding!(Ok, CHECK => "cargo {version}"),
    }
}

fn version_of_cargo() -> Option<Version> {
    let mut command = Command::new("cargo");
    let output = command
        .arg("--version")
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    Version::parse(text.split_whitespace().nth(1)?).ok()
}

fn proxy_of_git() -> Option<CargoValue> {
    ["--global", "--system"].iter().find_map(|place| {
        let words = ["config", place, "--includes", "--get", "http.proxy"];
        let output = Command::new("git").args(words).output().ok()?;
        let value = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        let place = "`http.proxy` of git's configuration".to_owned();
        let is_set = output.status.success() && !value.is_empty();
        is_set.then_some(CargoValue { value, place })
    })
}

/// A URL as it may be shown: without a password and without a query, where tokens stand.
pub(super) fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _query)| url);
    let Some((before, host)) = url.rsplit_once('@') else {
        return url.to_owned();
    };
    match before.split_once("://") {
        Some((scheme, _secret)) => format!("{scheme}://***@{host}"),
        None => format!("***@{host}"),
    }
}

fn read_table(path: &Path) -> Result<Value, String> {
    let len = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if len > MAX_CONFIG_BYTES {
        return Err(format!(
            "it has {len} bytes; at most {MAX_CONFIG_BYTES} are read"
        ));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let table = text.parse::<Table>();
    table
        .map(Value::Table)
        .map_err(|error| error.message().to_owned())
}

/// The files that a file includes, and whether each may be missing: texts, or tables with `path`
/// and `optional`. Paths are relative to the folder of the file.
fn included(table: &Value, file: &Path) -> Vec<(PathBuf, bool)> {
    let all = match table.get("include") {
        Some(Value::Array(all)) => all.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let one = |value: &Value| {
        let path = value.as_str().or_else(|| value.get("path")?.as_str())?;
        let is_optional = value.get("optional").and_then(Value::as_bool);
        Some((file.with_file_name(path), is_optional == Some(true)))
    };
    all.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index that cargo uses with these files and variables, and where it is set.
    fn index(files: &[&str], variables: &[(&str, &str)]) -> Result<Option<CargoValue>, Finding> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let table = |text: &str| Value::Table(text.parse().expect("TOML"));
        let files = files.iter().enumerate();
        CargoConfig {
            files: files
                .map(|(at, text)| (PathBuf::from(at.to_string()), table(text)))
                .collect(),
            unreadable: Vec::new(),
            variables: &variables.iter().map(owned).collect(),
        }
        .index()
    }

    #[test]
    fn replacements_are_followed_as_cargo_follows_them() {
        let check = |files: &[&str], variables: &[(&str, &str)], value: &str, place: &str| {
            let expected = CargoValue {
                value: value.to_owned(),
                place: place.to_owned(),
            };
            assert_eq!(index(files, variables), Ok(Some(expected)), "{files:?}");
        };
        assert_eq!(index(&[], &[]), Ok(None));
        let replace = "[source.crates-io]\nreplace-with = \"m\"\n";
        let near = format!("{replace}[registries.m]\nindex = \"sparse+http://m/index/\"");
        let far = format!("{replace}[source.m]\nregistry = \"http://far/index\"");
        check(&[&near], &[], "sparse+http://m/index/", "`0`");
        check(&[&far], &[], "http://far/index", "`0`");
        let home = "[registries.m]\nindex = \"sparse+http://home/\"";
        check(&[replace, home], &[], "sparse+http://home/", "`1`");
        check(
            &[&near],
            &[("CARGO_REGISTRIES_M_INDEX", "sparse+http://env/")],
            "sparse+http://env/",
            "the variable `CARGO_REGISTRIES_M_INDEX`",
        );
    }

    #[test]
    fn a_replacement_that_is_no_index_is_named_with_its_place() {
        let check = |text: &str, severity: Severity, words: &[&str]| {
            let finding = index(&[text], &[]).expect_err("no index");
            assert_eq!(finding.severity, severity, "{finding:?}");
            for word in words {
                assert!(finding.found.contains(word), "no {word:?} in {finding:?}");
            }
        };
        let replace = "[source.crates-io]\nreplace-with = \"m\"\n";
        check(replace, Severity::Fail, &["`m` (in `0`)", "not defined"]);
        for key in ["directory", "local-registry"] {
            let text = format!("{replace}[source.m]\n{key} = \"vendor\"");
            check(&text, Severity::Warn, &["`vendor` (in `0`)"]);
        }
        let circle = "[source.crates-io]\nreplace-with = \"a\"\n[source.a]\nreplace-with = \"b\"\n\
                      [source.b]\nreplace-with = \"a\"";
        check(circle, Severity::Fail, &["not defined"]);
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
        let home = home.to_str().expect("a path in UTF-8").to_owned();
        let variables = BTreeMap::from([("CARGO_HOME".to_owned(), home)]);
        let config = CargoConfig::read(&place.path().join("p"), &variables);
        let value = |key: &[&str]| config.value(key).map(|found| found.value);
        assert_eq!(value(&["x"]).as_deref(), Some("2"), "the last include wins");
        assert_eq!(value(&["y"]).as_deref(), Some("3"));
        assert_eq!(value(&["net", "offline"]).as_deref(), Some("true"));
        let index = config.index().expect("an index").expect("replaced");
        let from = near.join("config.toml");
        assert_eq!(index.value, "http://own");
        assert_eq!(index.place, format!("`{}`", from.display()));
        let gone: Vec<_> = config.unreadable.iter().map(|(path, _)| path).collect();
        assert_eq!(gone, [&place.path().join("home/gone.toml")]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let check = |url: &str, shown: &str| assert_eq!(without_password(url), shown);
        check("sparse+http://me:secret@m/", "sparse+http://***@m/");
        check("me:secret@proxy:3128", "***@proxy:3128");
        check("proxy:3128", "proxy:3128");
        check("sparse+http://m/?token=secret", "sparse+http://m/");
    }
}
