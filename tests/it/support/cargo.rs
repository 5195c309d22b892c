//! Real cargo in a folder outside the checkout, with a `CARGO_HOME` of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::orlop::{gather, wait, write_file};

/// How long one cargo command may take, builds of many crates included.
const CARGO_PATIENCE: Duration = Duration::from_secs(180);

/// A project, its cargo configuration and its `CARGO_HOME`, all in one temporary folder.
#[derive(Debug)]
pub(crate) struct Project {
    folder: TempDir,
}

impl Project {
    /// A binary project with these lines under `[dependencies]`; `main` prints `built`.
    pub(crate) fn new(dependencies: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let project = Self { folder };
        project.write(
            "Cargo.toml",
            &format!(
                "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n\
                 [dependencies]\n{dependencies}\n\n[workspace]\n"
            ),
        );
        project.write("src/main.rs", "fn main() {\n    println!(\"built\");\n}\n");
        project
    }

    /// Replaces crates.io by the mirror at this base URL, as the README tells people to.
    pub(crate) fn through(self, base: &str) -> Self {
        self.configured(&format!(
            "[source.crates-io]\nreplace-with = \"orlop\"\n\n\
             [registries.orlop]\nindex = \"sparse+{base}/index/\"\n"
        ))
    }

    /// This text as `.cargo/config.toml`, and few retries.
    pub(crate) fn configured(self, config: &str) -> Self {
        self.write(
            ".cargo/config.toml",
            &format!("{config}\n[net]\nretry = 1\n"),
        );
        self
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        write_file(&self.path(), path, text);
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("cargo-home")
    }

    /// Forgets everything that cargo has downloaded and built.
    pub(crate) fn forget(&self) {
        for folder in [self.home(), self.path().join("target")] {
            if folder.exists() {
                std::fs::remove_dir_all(folder).expect("a temporary folder can be removed");
            }
        }
    }

    /// Runs cargo to its end.
    #[track_caller]
    pub(crate) fn cargo(&self, words: &[&str]) -> Run {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        self.run(&cargo, words)
    }

    /// Runs the nightly cargo that rustup has.
    #[track_caller]
    pub(crate) fn cargo_nightly(&self, words: &[&str]) -> Run {
        let all: Vec<&str> = ["+nightly"].iter().chain(words).copied().collect();
        self.run("cargo".as_ref(), &all)
    }

    #[track_caller]
    fn run(&self, cargo: &OsStr, words: &[&str]) -> Run {
        let home = self.folder.path();
        let mut child = command(cargo, &self.path(), home, &self.home())
            .args(words)
            .spawn()
            .expect("cargo can be started");
        let (stdout, stderr) = (gather(child.stdout.take()), gather(child.stderr.take()));
        let status = wait(&mut child, CARGO_PATIENCE);
        Run {
            words: words.join(" "),
            well: status.success(),
            stdout: stdout.join().expect("the reader does not panic"),
            stderr: stderr.join().expect("the reader does not panic"),
        }
    }
}

/// How a cargo command ended.
#[derive(Debug)]
pub(crate) struct Run {
    words: String,
    well: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Whether cargo was content.
    pub(crate) fn is_well(&self) -> bool {
        self.well
    }

    /// Asserts that cargo was content.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert!(
            self.well,
            "cargo {}:\n{}{}",
            self.words, self.stdout, self.stderr
        );
        self
    }

    /// Asserts that cargo refused, and said these words on stderr.
    #[track_caller]
    pub(crate) fn refused_with(self, words: &[&str]) -> Self {
        assert!(!self.well, "cargo {} was content", self.words);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "cargo {} did not say {word:?}:\n{}",
                self.words,
                self.stderr
            );
        }
        self
    }
}

/// cargo with nothing in its environment but what finds the toolchain, and a home of its own: the
/// user's `.gitconfig` is no part of a test.
fn command(cargo: &OsStr, folder: &Path, home: &Path, cargo_home: &Path) -> Command {
    let mut command = Command::new(cargo);
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            ["PATH", "LANG", "TMPDIR", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"]
                .iter()
                .any(|kept| name == kept)
        }))
        .env("HOME", home)
        .env("CARGO_HOME", cargo_home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env("CARGO_TERM_COLOR", "never")
        // Whatever would leave this machine meets a closed door.
        .env("https_proxy", "http://127.0.0.1:9/")
        .env("no_proxy", "localhost,127.0.0.1")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if std::env::var_os("RUSTUP_HOME").is_none()
        && let Some(home) = std::env::home_dir()
    {
        command.env("RUSTUP_HOME", home.join(".rustup"));
    }
    command
}
