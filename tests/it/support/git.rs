//! The git index of a real orlop, and the git program with a home of its own.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    crates::{Krate, Registry, index_path},
    orlop::{Orlop, Setup, gather, wait},
    peer_may_be_gone, until,
    upstream::Upstream,
};

/// How long one git command may take.
const GIT_PATIENCE: Duration = Duration::from_secs(120);

/// An orlop whose git index the tests let grow, one release at a time.
#[derive(Debug)]
pub(crate) struct GitIndex {
    pub(crate) upstream: Upstream,
    pub(crate) orlop: Orlop,
    probe: Git,
}

impl GitIndex {
    /// Over this registry. Nothing is known of it yet: see [`publish`](GitIndex::publish).
    pub(crate) fn over(registry: Registry) -> Self {
        Self::set_up(registry, |setup| setup)
    }

    pub(crate) fn set_up(registry: Registry, change: impl FnOnce(Setup) -> Setup) -> Self {
        let upstream = Upstream::start(registry);
        // A commit comes soon after a change, so that tests wait little.
        let setup = Setup::over(&upstream)
            .config("index.fresh_for", "0s")
            .config("git.quiet_for", "200ms")
            .config("git.cut_within", "1s");
        let orlop = change(setup).start();
        let probe = Git::new();
        probe.run(&["init", "-q", "--bare", "probe"]).well();
        Self {
            upstream,
            orlop,
            probe,
        }
    }

    /// With `demo` 0.1.0 and 0.1.1, one commit each at least.
    pub(crate) fn demo() -> Self {
        let index = Self::over(Registry::new());
        index.publish(&Krate::new("demo", "0.1.0"));
        index.publish(&Krate::new("demo", "0.1.1"));
        index
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/git/index", self.orlop.url())
    }

    /// Puts a release upstream and waits until the git index has it.
    #[track_caller]
    pub(crate) fn publish(&self, krate: &Krate) {
        self.upstream.edit(|registry| registry.put(krate));
        self.ask_for(&[krate.name()]);
    }

    /// Asks for index files as cargo does, and waits until the git index has the same bytes.
    #[track_caller]
    pub(crate) fn ask_for(&self, names: &[&str]) {
        let files: Vec<(String, Vec<u8>)> = names
            .iter()
            .map(|name| (index_path(name), self.orlop.index(name).body))
            .collect();
        until("the git index has what the sparse index has", || {
            let fetched = self
                .probe
                .at("probe", &["fetch", "-q", &self.url(), "master"]);
            fetched.well
                && files.iter().all(|(path, bytes)| {
                    let shown = self
                        .probe
                        .at("probe", &["show", &format!("FETCH_HEAD:{path}")]);
                    shown.well && shown.stdout.as_bytes() == bytes
                })
        });
    }

    /// The id of the newest commit.
    #[track_caller]
    pub(crate) fn head(&self) -> String {
        let refs = self.probe.run(&["ls-remote", &self.url(), "HEAD"]).well();
        refs.stdout
            .split('\t')
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// How many commits there are.
    #[track_caller]
    pub(crate) fn commits(&self) -> usize {
        self.probe
            .at("probe", &["fetch", "-q", &self.url(), "master"])
            .well();
        let count = self
            .probe
            .at("probe", &["rev-list", "--count", "FETCH_HEAD"])
            .well();
        count.stdout.trim().parse().expect("a number")
    }
}

/// The git program, with nothing in its environment but a home of its own, in a folder of its own.
#[derive(Debug)]
pub(crate) struct Git {
    folder: TempDir,
    config: Vec<String>,
}

impl Git {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
            config: vec![
                "init.defaultBranch=master".to_owned(),
                "transfer.fsckObjects=true".to_owned(),
                "fetch.fsckObjects=true".to_owned(),
                "user.name=test".to_owned(),
                "user.email=test@localhost".to_owned(),
            ],
        }
    }

    /// Sets a configuration key for all commands: `protocol.version=1`.
    pub(crate) fn config(mut self, setting: &str) -> Self {
        self.config.push(setting.to_owned());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs git in the folder.
    pub(crate) fn run(&self, words: &[&str]) -> GitRun {
        self.start(self.folder.path(), words, b"")
    }

    /// Runs git in a repository below the folder.
    pub(crate) fn at(&self, repository: &str, words: &[&str]) -> GitRun {
        self.start(&self.path(repository), words, b"")
    }

    /// The same with something to read.
    pub(crate) fn feed(&self, repository: &str, words: &[&str], input: &[u8]) -> GitRun {
        self.start(&self.path(repository), words, input)
    }

    /// Runs git as a server that reads a request and writes an answer, whatever its end.
    pub(crate) fn talk(
        &self,
        repository: &str,
        words: &[&str],
        environment: &[(&str, &str)],
        input: &[u8],
    ) -> Vec<u8> {
        let mut command = self.command(&self.path(repository), words);
        command.envs(environment.iter().copied());
        run(command, input).1
    }

    fn start(&self, folder: &Path, words: &[&str], input: &[u8]) -> GitRun {
        let (well, stdout, stderr) = run(self.command(folder, words), input);
        GitRun {
            words: words.join(" "),
            well,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr,
        }
    }

    fn command(&self, folder: &Path, words: &[&str]) -> Command {
        let settings = self.config.iter().flat_map(|setting| ["-c", setting]);
        let mut command = Command::new("git");
        command
            .args(settings)
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Runs a command to its end, with something to read: whether it was content, and what it wrote.
fn run(mut command: Command, input: &[u8]) -> (bool, Vec<u8>, String) {
    let mut child = command.spawn().expect("git can be started");
    let stdin = child.stdin.take();
    let mut stdout = child.stdout.take();
    let stderr = gather(child.stderr.take());
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = &mut stdout {
                peer_may_be_gone(pipe.read_to_end(&mut bytes));
            }
            bytes
        });
        scope.spawn(move || {
            if let Some(mut pipe) = stdin {
                peer_may_be_gone(pipe.write_all(input));
            }
        });
        let status = wait(&mut child, GIT_PATIENCE);
        (
            status.success(),
            written.join().expect("the reader does not panic"),
            stderr.join().expect("the reader does not panic"),
        )
    })
}

/// How a git command ended.
#[derive(Debug)]
pub(crate) struct GitRun {
    words: String,
    pub(crate) well: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl GitRun {
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert!(
            self.well,
            "git {}:\n{}{}",
            self.words, self.stdout, self.stderr
        );
        self
    }

    /// Asserts that git failed, and said these words on stderr.
    #[track_caller]
    pub(crate) fn refused_with(self, words: &[&str]) -> Self {
        assert!(!self.well, "git {} was content", self.words);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "git {} did not say {word:?}:\n{}",
                self.words,
                self.stderr
            );
        }
        self
    }
}
