//! Holds the order of the house: floors, never-sentences, and what no file may say.
//!
//! It reads the sources as text, which is enough for imports and names. A rule that must be bent
//! is bent here, in the table, with a reason.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Rooms by floor: an import may only go to a lower floor. Rooms of one floor do not know one
/// another.
const FLOORS: &[(&str, u8)] = &[
    ("main", 9),
    ("cli", 8),
    ("doctor", 7),
    ("config", 6),
    ("http", 5),
    ("admin", 5),
    ("status", 4),
    ("mirror", 3),
    ("store", 2),
    ("upstream", 2),
    ("git", 2),
    ("policy", 2),
    ("registry", 1),
    ("metrics", 1),
    ("util", 0),
];

/// Code that stands only where it belongs: what it is, how it looks, and the paths that may have it.
const NEVERS: &[(&str, &[&str], &[&str])] = &[
    (
        "only store names sled",
        &["sled::", "use sled"],
        &["store/"],
    ),
    (
        "only store/codec and mirror/lines name zstd",
        &["zstd::", "use zstd"],
        &["store/codec", "mirror/lines"],
    ),
    (
        "only mirror/archive names tar",
        &["tar::", "use tar"],
        &["mirror/archive"],
    ),
    (
        "only upstream names reqwest",
        &["reqwest::", "use reqwest"],
        &["upstream/"],
    ),
    (
        "only http names actix",
        &[
            "actix_web",
            "actix_http",
            "actix_server",
            "actix_service",
            "actix_rt",
            "actix_codec",
        ],
        &["http/"],
    ),
    ("only http names askama", &["askama"], &["http/"]),
    (
        "only metrics names prometheus",
        &["prometheus::", "use prometheus"],
        &["metrics/"],
    ),
    ("only git names gix", &["gix::", "use gix"], &["git/"]),
    (
        "only cli names clap",
        &["clap::", "use clap"],
        &["cli/", "cli.rs", "main.rs"],
    ),
    (
        "only cli prints",
        &["println!", "print!", "eprintln!", "eprint!", "stdout()"],
        &["cli/", "cli.rs"],
    ),
    (
        "only config reads the environment",
        &["env::var", "env::vars", "var_os("],
        &["config/", "config.rs"],
    ),
    (
        // A `Date` that is told decides nothing.
        "only mirror/tasks reads wall time, and the listener for its `Date`",
        &["SystemTime::now", "UNIX_EPOCH.elapsed"],
        &["mirror/tasks.rs", "http/listen/"],
    ),
];

/// Rooms of pure words and rules: no input, no output, no clock.
const PURE: &[&str] = &["registry", "policy"];

const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "tokio::",
    "SystemTime::now",
    "Instant::now",
    ".elapsed()",
    "fastrand",
];

/// A source file: its path below `src` with forward slashes, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The room, which is the first part of the path.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The code without comments, one entry a line, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The code before the tests at the end of the file; a file of tests has none.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let all_tests = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        self.code()
            .take_while(move |(_, line)| !all_tests && *line != "mod tests {")
    }

    /// Rooms that this file imports, with the line.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let lines: Vec<(usize, &str)> = self.code().collect();
        for (index, &(number, line)) in lines.iter().enumerate() {
            for start in self.roots() {
                for (at, _) in line.match_indices(start.as_str()) {
                    if preceded_by_word(line, at) {
                        continue;
                    }
                    let mut rest = line[at + start.len()..].to_owned();
                    for (_, more) in lines.iter().skip(index + 1).take(40) {
                        if !rest.starts_with('{') || depth(&rest) == 0 {
                            break;
                        }
                        rest.push_str(more.trim());
                    }
                    found.extend(heads(&rest).into_iter().map(|head| (number, head)));
                }
            }
        }
        found
    }

    /// How this file may write the root of the crate.
    fn roots(&self) -> Vec<String> {
        let mut depth = self.path.matches('/').count();
        if !self.path.ends_with("/mod.rs") {
            depth += 1;
        }
        vec![
            "crate::".to_owned(),
            "orlop::".to_owned(),
            "super::".repeat(depth),
        ]
    }
}

fn preceded_by_word(line: &str, at: usize) -> bool {
    line[..at]
        .chars()
        .next_back()
        .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':')
}

/// Braces that are open at the end.
fn depth(text: &str) -> usize {
    text.matches('{')
        .count()
        .saturating_sub(text.matches('}').count())
}

/// The first words of a path or of each path in a group: `{a::B, c}` has `a` and `c`.
fn heads(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let mut heads = vec![word(group)];
    let mut depth = 0;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn floor(room: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == room)
        .map(|(_, floor)| *floor)
}

/// The imports of a file that go up or sideways.
fn climbs(source: &Source) -> Vec<String> {
    let Some(mine) = floor(source.room()) else {
        return Vec::new();
    };
    source
        .imports()
        .into_iter()
        .filter(|(_, to)| to != source.room())
        .filter(|(_, to)| floor(to).is_some_and(|theirs| theirs >= mine))
        .map(|(line, to)| format!("src/{}:{line} imports {to}", source.path))
        .collect()
}

fn broken_nevers(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for (sentence, looks, homes) in NEVERS {
        if homes.iter().any(|home| source.path.starts_with(home)) {
            continue;
        }
        for (number, line) in source.product() {
            for look in *looks {
                if line
                    .match_indices(look)
                    .any(|(at, _)| !preceded_by_letter(line, at))
                {
                    broken.push(format!("src/{}:{number}: {sentence}", source.path));
                }
            }
        }
    }
    broken
}

fn preceded_by_letter(line: &str, at: usize) -> bool {
    line[..at]
        .chars()
        .next_back()
        .is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let folder = root().join("src");
    let mut sources: Vec<Source> = files_below(&folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("a source file is text"),
            path: path
                .strip_prefix(&folder)
                .expect("it lies below src")
                .to_string_lossy()
                .replace('\\', "/"),
        })
        .collect();
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(sources.len() > 1, "the sources are found");
    sources
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                files.extend(files_below(&path));
            }
        } else {
            files.push(path);
        }
    }
    files
}

/// What git tracks; where there is no git, everything but build output.
fn tracked() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    match listed {
        Some(output) => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(|path| root().join(path))
            .filter(|path| path.is_file())
            .collect(),
        None => files_below(&root()),
    }
}

/// Lines of tracked files that contain one of these texts.
fn lines_with(texts: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in tracked() {
        let bytes = fs::read(&path).expect("a tracked file can be read");
        let content = String::from_utf8_lossy(&bytes);
        for (index, line) in content.lines().enumerate() {
            for text in texts.iter().filter(|text| line.contains(text.as_str())) {
                found.push(format!("{}:{}: {text}", path.display(), index + 1));
            }
        }
    }
    found
}

#[track_caller]
fn check_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn imports_only_go_down() {
    let climbs: Vec<String> = sources().iter().flat_map(climbs).collect();
    check_none("imports that go up or sideways", &climbs);
}

#[test]
fn every_room_has_a_floor() {
    let rooms: BTreeSet<String> = sources()
        .iter()
        .map(|source| source.room().to_owned())
        .filter(|room| room != "lib" && floor(room).is_none())
        .collect();
    assert!(rooms.is_empty(), "rooms without a floor: {rooms:?}");
}

#[test]
fn the_never_sentences_are_true() {
    let broken: Vec<String> = sources().iter().flat_map(broken_nevers).collect();
    check_none("never-sentences that are not true", &broken);
}

#[test]
fn rooms_of_pure_words_stay_pure() {
    let mut impure = Vec::new();
    for source in sources() {
        if PURE.contains(&source.room()) {
            for (number, line) in source.product() {
                if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                    impure.push(format!("src/{}:{number}: {word}", source.path));
                }
            }
        }
    }
    check_none("input, output or time in a pure room", &impure);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let mute: Vec<String> = tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a source file is text");
            !text.starts_with("//! ")
        })
        .map(|path| path.display().to_string())
        .collect();
    check_none("files that do not say what they are", &mute);
}

#[test]
fn modules_are_folders_with_a_mod_file() {
    let doubled: Vec<String> = sources()
        .iter()
        .filter_map(|source| source.path.strip_suffix(".rs").map(str::to_owned))
        .filter(|stem| root().join("src").join(stem).is_dir())
        .collect();
    check_none("a file beside a folder of its name", &doubled);
}

#[test]
fn no_file_names_the_host_of_a_registry() {
    let name = ["crates", "io"].join(".");
    let hosts: Vec<String> = ["index.", "static.", "www.", "://"]
        .iter()
        .map(|before| format!("{before}{name}"))
        .collect();
    check_none("hosts of a registry", &lines_with(&hosts));
}

#[test]
fn no_file_names_a_path_of_this_machine() {
    let mut paths = vec![format!("{}/", root().display())];
    if let Some(parent) = root().parent() {
        paths.push(format!("{}/", parent.display()));
    }
    if let Some(home) = std::env::var_os("HOME") {
        paths.push(format!("{}/", home.to_string_lossy().trim_end_matches('/')));
    }
    paths.retain(|path| path.len() > 2);
    check_none("paths of this machine", &lines_with(&paths));
}

/// The checks checked: each finds what it is there to find.
mod finds {
    use super::{Source, broken_nevers, climbs};

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[track_caller]
    fn check_climbs(path: &str, text: &str, expected: &[&str]) {
        let found = climbs(&source(path, text));
        let rooms: Vec<&str> = found
            .iter()
            .filter_map(|climb| climb.rsplit(' ').next())
            .collect();
        assert_eq!(rooms, expected, "{path}: {text}");
    }

    #[test]
    fn an_import_that_climbs() {
        check_climbs(
            "store/mod.rs",
            "use crate::upstream::Sparse;",
            &["upstream"],
        );
        check_climbs("store/keys.rs", "use super::super::http::Reply;", &["http"]);
        check_climbs(
            "store/mod.rs",
            "use super::{mirror, registry::Name};",
            &["mirror"],
        );
        check_climbs(
            "registry/name.rs",
            "use crate::{\n    store::{Store, Options},\n    metrics,\n};",
            &["store", "metrics"],
        );
        check_climbs("http/reply.rs", "    let x = crate::cli::run();", &["cli"]);
        check_climbs(
            "mirror/a/b.rs",
            "use super::super::super::config::X;",
            &["config"],
        );
    }

    #[test]
    fn not_an_import_that_goes_down() {
        check_climbs("main.rs", "use orlop::{cli, config};", &[]);
        check_climbs(
            "http/reply.rs",
            "use crate::{mirror::Error, registry};",
            &[],
        );
        check_climbs(
            "store/keys.rs",
            "use super::catalogue;\n// crate::http\n",
            &[],
        );
        check_climbs("store/keys.rs", "use crate::store::catalogue;", &[]);
        check_climbs(
            "http/mod.rs",
            "mod tests { use super::config; }",
            &["config"],
        );
    }

    #[track_caller]
    fn check_never(path: &str, text: &str, broken: bool) {
        let found = broken_nevers(&source(path, text));
        assert_eq!(!found.is_empty(), broken, "{path}: {text}: {found:?}");
    }

    #[test]
    fn a_never_that_is_broken() {
        check_never("store/mod.rs", "let db: sled::Db;", false);
        check_never("mirror/fetch.rs", "let db: sled::Db;", true);
        check_never("store/keys.rs", "zstd::encode_all(x, 3)", true);
        check_never("store/codec/mod.rs", "zstd::encode_all(x, 3)", false);
        check_never("mirror/fetch.rs", "let now = SystemTime::now();", true);
        check_never("mirror/tasks.rs", "let now = SystemTime::now();", false);
        check_never("http/mod.rs", "println!(\"x\");", true);
        check_never("cli/mod.rs", "println!(\"x\");", false);
        check_never("cli/mod.rs", "std::env::var(\"X\")", true);
        check_never("config/environment.rs", "std::env::var_os(\"X\")", false);
        check_never("http/mod.rs", "// println!(\"x\")", false);
        check_never(
            "http/mod.rs",
            "let x = 1;\n#[cfg(test)]\nmod tests {\n    println!();\n}",
            false,
        );
    }
}
