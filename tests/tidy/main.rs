//! Holds the structure of the code: layers, cycles, invariants, and what no file may say.
//!
//! Imports are parsed ([`imports`]); the rest is read as text. A rule that must be bent is bent here,
//! in the table, with a reason.

mod imports;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use self::imports::Imports;

/// The modules of the crate in layers, the highest first: an import may only go to a lower layer.
/// Modules of one layer do not import one another.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["doctor"],
    &["config"],
    &["http", "admin"],
    &["app"],
    &["status"],
    &["jobs"],
    &["git_index"],
    &["mirror"],
    &["store", "upstream", "git", "policy"],
    &["listen", "registry", "metrics"],
    &["util"],
];

/// Modules that import nothing of the crate but `util`.
const UTIL_ONLY: &[&str] = &["git", "listen"];

/// The files of a module in layers, the highest first; a name stands for a file or a folder. What is
/// not listed is free of an order but for that there is no cycle.
const INNER_LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "config",
        &[
            &["mod"],
            &["environment", "file", "reload", "sample"],
            &["keys"],
            &["check", "value"],
            &["error", "service", "suggest"],
        ],
    ),
    (
        "jobs",
        &[
            &["table"],
            &["upkeep"],
            &["backup", "bundle", "seed", "sync"],
            &["select"],
            &["hold", "retry", "runner", "saved_sets"],
            &["json"],
            &["job"],
            &["services"],
            &["cancellable_io", "outbox", "running"],
            &["context", "records"],
            &["archive", "error", "kind", "lines", "options", "selection"],
        ],
    ),
    (
        "git_index",
        &[
            &["mod"],
            &["publish"],
            &["compare"],
            &["follow", "message", "pace", "recover"],
            &["followed"],
        ],
    ),
    (
        "git",
        &[
            &["repo", "upload_pack"],
            &["follow", "open"],
            &["chain", "commits", "trees"],
            &["merge"],
            &["frames", "packs", "refs", "serve"],
            &["pkt", "tip"],
            &["log", "objects", "pack"],
            &["pack_file"],
            &["delta", "entry"],
            &["error", "types"],
        ],
    ),
    (
        "mirror",
        &[
            &["mod"],
            &["fetch"],
            &["index"],
            &["source", "views"],
            &["error", "options", "pace", "stale", "uses"],
        ],
    ),
    (
        "store",
        &[
            &[
                "adoption",
                "blobs",
                "entries",
                "history",
                "kept",
                "publish",
                "published",
                "releases",
                "restoring",
                "scratch",
            ],
            &["handle"],
            &["commit"],
            &["owners", "reservation"],
            &["shared"],
            &["queue", "rebuild"],
            &["edits", "events", "ledger", "raw_files", "table"],
            &["blob_store", "catalogue", "codec", "journal"],
            &["changes", "facts", "folder", "options", "state"],
            &["condition", "error", "fields", "keys", "space", "stamps"],
        ],
    ),
    (
        "upstream",
        &[
            &["git", "mod"],
            &["download"],
            &["gate"],
            &["breaker", "probe", "sparse"],
            &["client", "retry"],
            &["error"],
            &["resolve"],
            &["secret"],
        ],
    ),
    (
        "http",
        &[
            &["server"],
            &["routes"],
            &["sparse", "download", "git", "api", "operations"],
            &["page", "front", "view"],
            &["state"],
            &["base", "cache", "gathered", "git_limits", "range", "reply"],
            &["reads"],
        ],
    ),
    (
        "listen",
        &[
            &["server"],
            &["worker"],
            &["first", "http1", "http2"],
            &["upgrade", "stats", "options", "sockets"],
            &[
                "acceptor",
                "drain",
                "error",
                "guard",
                "heartbeat",
                "service",
            ],
        ],
    ),
    (
        "policy",
        &[
            &["view"],
            &["cached_only", "closure", "freshness"],
            &["rule"],
        ],
    ),
];

/// Code that stands only where it belongs: what it is, how it looks, and the paths that may have it.
const INVARIANTS: &[(&str, &[&str], &[&str])] = &[
    (
        "only store names sled",
        &["sled::", "use sled"],
        &["store/"],
    ),
    (
        "only store/codec and jobs/lines name zstd",
        &["zstd::", "use zstd"],
        &["store/codec", "jobs/lines"],
    ),
    (
        "only jobs/archive names tar",
        &["tar::", "use tar"],
        &["jobs/archive"],
    ),
    (
        "only upstream names reqwest",
        &["reqwest::", "use reqwest"],
        &["upstream/"],
    ),
    (
        "only http and listen name actix",
        &[
            "actix_web",
            "actix_http",
            "actix_server",
            "actix_service",
            "actix_rt",
            "actix_codec",
        ],
        &["http/", "listen/"],
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
        "only util/clock reads the time of day, and the listener for its `Date`",
        &["SystemTime::now", "UNIX_EPOCH.elapsed"],
        &["util/clock.rs", "listen/"],
    ),
];

/// Modules of pure types and rules: no input, no output, no clock.
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
    /// The module, which is the first part of the path.
    fn module(&self) -> &str {
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
}

/// The layer of a module; a higher one is a smaller number.
fn layer(layers: &[&[&str]], name: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&name))
}

/// The first part of a path below `src`, without `.rs`.
fn first_part(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Uses that go up or sideways, from module to module and inside of a module.
fn climbs(imports: &Imports) -> Vec<String> {
    let climbs = imports.edges().filter(|edge| {
        let (from, to) = (first_part(edge.from), first_part(edge.to));
        if from != to && UTIL_ONLY.contains(&from) {
            return to != "util";
        }
        if from != to {
            let (from, to) = (layer(LAYERS, from), layer(LAYERS, to));
            return from.zip(to).is_some_and(|(from, to)| to <= from);
        }
        let inner = INNER_LAYERS.iter().find(|(module, _)| *module == from);
        let Some((module, layers)) = inner else {
            return false;
        };
        let part = |path: &str| {
            let rest = path.strip_prefix(module)?.strip_prefix('/')?;
            layer(layers, first_part(rest))
        };
        let second = |path: &str| path.split('/').nth(1).map(str::to_owned);
        second(edge.from) != second(edge.to)
            && part(edge.from)
                .zip(part(edge.to))
                .is_some_and(|(from, to)| to <= from)
    });
    climbs.map(|edge| edge.to_string()).collect()
}

fn broken_invariants(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for (sentence, looks, homes) in INVARIANTS {
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
    let climbs = climbs(&Imports::of(&sources(), true));
    check_none("imports that go up or sideways", &climbs);
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let imports = Imports::of(&sources(), false);
    let mut found = Vec::new();
    for cycle in imports.cycles() {
        found.push(format!("a cycle of {} files", cycle.len()));
        let inside = imports
            .edges()
            .filter(|edge| cycle.contains(edge.from) && cycle.contains(edge.to));
        found.extend(inside.map(|edge| format!("  {edge}")));
    }
    check_none("cycles of imports", &found);
}

#[test]
fn every_module_has_a_layer() {
    let modules: BTreeSet<String> = sources()
        .iter()
        .map(|source| source.module().to_owned())
        .filter(|module| module != "lib" && layer(LAYERS, module).is_none())
        .collect();
    assert!(modules.is_empty(), "modules without a layer: {modules:?}");
}

#[test]
fn the_invariants_are_true() {
    let broken: Vec<String> = sources().iter().flat_map(broken_invariants).collect();
    check_none("invariants that are not true", &broken);
}

#[test]
fn pure_modules_stay_pure() {
    let mut impure = Vec::new();
    for source in sources() {
        if PURE.contains(&source.module()) {
            for (number, line) in source.product() {
                if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                    impure.push(format!("src/{}:{number}: {word}", source.path));
                }
            }
        }
    }
    check_none("input, output or time in a pure module", &impure);
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
    use super::{Imports, Source, broken_invariants, climbs};

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[track_caller]
    fn check_climbs(path: &str, text: &str, expected: &[&str]) {
        let others = ["http", "metrics", "mirror", "registry", "upstream"];
        let others = others.map(|module| source(&format!("{module}/mod.rs"), "pub struct It;"));
        let mut sources = vec![source(path, text)];
        sources.extend(others);
        let found = climbs(&Imports::of(&sources, true));
        let to = |climb: &String| climb.rsplit("src/").next().map(str::to_owned);
        let found: Vec<String> = found.iter().filter_map(to).collect();
        assert_eq!(found, expected, "{path}: {text}");
    }

    #[test]
    fn an_import_that_climbs() {
        check_climbs(
            "store/a.rs",
            "use crate::upstream::It;",
            &["upstream/mod.rs"],
        );
        check_climbs(
            "store/a.rs",
            "use super::super::http::It;",
            &["http/mod.rs"],
        );
        check_climbs(
            "registry/a.rs",
            "use crate::{mirror::{It, Other}, metrics::It as That};",
            &["metrics/mod.rs", "mirror/mod.rs"],
        );
        check_climbs(
            "store/a.rs",
            "fn f() { crate::http::It::new() }",
            &["http/mod.rs"],
        );
        check_climbs(
            "store/a.rs",
            "mod tests { use super::super::super::http::It; }",
            &["http/mod.rs"],
        );
    }

    #[test]
    fn not_an_import_that_goes_down() {
        check_climbs("main.rs", "use orlop::{http::It, mirror::It as That};", &[]);
        check_climbs("http/a.rs", "use crate::{mirror::It, registry};", &[]);
        check_climbs("store/a.rs", "// use crate::http::It", &[]);
        check_climbs("store/a.rs", "use crate::registry::It;", &[]);
    }

    #[track_caller]
    fn check_invariant(path: &str, text: &str, broken: bool) {
        let found = broken_invariants(&source(path, text));
        assert_eq!(!found.is_empty(), broken, "{path}: {text}: {found:?}");
    }

    #[test]
    fn an_invariant_that_is_broken() {
        check_invariant("store/mod.rs", "let db: sled::Db;", false);
        check_invariant("mirror/fetch.rs", "let db: sled::Db;", true);
        check_invariant("store/keys.rs", "zstd::encode_all(x, 3)", true);
        check_invariant("store/codec/mod.rs", "zstd::encode_all(x, 3)", false);
        check_invariant("mirror/fetch.rs", "let now = SystemTime::now();", true);
        check_invariant("util/clock.rs", "let now = SystemTime::now();", false);
        check_invariant("http/mod.rs", "println!(\"x\");", true);
        check_invariant("cli/mod.rs", "println!(\"x\");", false);
        check_invariant("cli/mod.rs", "std::env::var(\"X\")", true);
        check_invariant("config/environment.rs", "std::env::var_os(\"X\")", false);
        check_invariant("http/mod.rs", "// println!(\"x\")", false);
        check_invariant(
            "http/mod.rs",
            "let x = 1;\n#[cfg(test)]\nmod tests {\n    println!();\n}",
            false,
        );
    }
}
