//! The real orlop as a child process: started with a data folder of its own, killed when dropped.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    PATIENCE,
    http::{Answer, Ask},
    peer_may_be_gone,
    upstream::{Fault, Upstream},
};

/// A download path of the public surface.
pub(crate) fn download_path(name: &str, version: &str) -> String {
    format!("/api/v1/crates/{name}/{version}/download")
}

/// How orlop is to be started. Pauses are short, so that faults cost a test little time.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    data: Arc<TempDir>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    disk_mib: Option<u32>,
}

impl Setup {
    pub(crate) fn over(upstream: &Upstream) -> Self {
        Self::over_url(&upstream.url())
    }

    /// An upstream by the URL of its index.
    pub(crate) fn over_url(upstream: &str) -> Self {
        Self::quick().config("upstream.url", upstream)
    }

    /// Short waits, and no upstream named.
    pub(crate) fn quick() -> Self {
        Self::bare()
            .config("listen.addresses", "127.0.0.1:0")
            .config("listen.workers", "2")
            .config("listen.shutdown_grace", "10s")
            // Longer than a busy machine leaves a thread of the fake upstream waiting.
            .config("upstream.connect_timeout", "20s")
            .config("upstream.stall_timeout", "20s")
            .config("upstream.deadline", "25s")
            .config("upstream.attempts", "2")
            .config("upstream.backoff", "50ms")
            .config("upstream.breaker_pause", "500ms")
            .config("index.fresh_for", "1h")
            .config("index.patience", "20s")
            .config("store.reserve", "1MiB")
    }

    /// Gives an upstream that falls silent up after a second, where that is what is tested: sound
    /// answers that take longer count as silence, too.
    pub(crate) fn impatient(self) -> Self {
        self.config("upstream.connect_timeout", "1s")
            .config("upstream.stall_timeout", "1s")
            .config("upstream.deadline", "10s")
            .config("index.patience", "3s")
    }

    /// As patient as `fault` allows.
    pub(crate) fn facing(self, fault: &Fault) -> Self {
        match fault {
            Fault::StallBeforeHead | Fault::StallInBody => self.impatient(),
            _ => self,
        }
    }

    /// Nothing set but a data folder.
    pub(crate) fn bare() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder can be made");
        Self {
            data: Arc::new(data),
            arguments: Vec::new(),
            environment: Vec::new(),
            disk_mib: None,
        }
    }

    /// Puts the data folder on a disk of its own, so small that it can be filled. The disk is
    /// memory in a namespace of the process and goes with it.
    pub(crate) fn small_disk(mut self, mib: u32) -> Self {
        self.disk_mib = Some(mib);
        self
    }

    /// Sets a configuration key, written as in the file: `upstream.stall_timeout`.
    pub(crate) fn config(mut self, key: &str, value: &str) -> Self {
        let variable = format!("ORLOP_{}", key.to_uppercase().replace('.', "_"));
        self.environment.retain(|(name, _)| *name != variable);
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// Sets a variable that is no setting, such as those of a service manager.
    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        let value = value.as_ref().display().to_string();
        self.environment.push((name.to_owned(), value));
        self
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// A command of orlop's in this setup, not run yet.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program();
        command
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.data.path())
            .env("ORLOP_CONFIG", "")
            .env("ORLOP_DATA", self.data())
            .envs(self.environment.clone())
            .current_dir(self.data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn program(&self) -> Command {
        let orlop = binary();
        let Some(mib) = self.disk_mib else {
            return Command::new(orlop);
        };
        std::fs::create_dir_all(self.data()).expect("a temporary folder takes folders");
        let script = "mount -t tmpfs -o size=\"$0\" orlop \"$ORLOP_DATA\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, &format!("{mib}m")]);
        command.arg(orlop);
        command
    }

    /// Runs a command of orlop's to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        Outcome::of(self.command(words))
    }

    /// Starts `orlop serve` and waits for its ready line.
    #[track_caller]
    pub(crate) fn start(self) -> Orlop {
        match self.try_start() {
            Ok(orlop) => orlop,
            Err(outcome) => panic!("orlop did not start: {outcome:?}"),
        }
    }

    /// The same where a refusal is what is tested: `Err` is how the process ended.
    #[track_caller]
    pub(crate) fn try_start(self) -> Result<Orlop, Outcome> {
        let mut words = vec!["serve"];
        words.extend(self.arguments.iter().map(String::as_str));
        let mut child = self.command(&words).spawn().expect("orlop can be started");
        let (errors, errors_end) = follow(child.stderr.take());
        let output = Arc::new(Mutex::new(String::new()));
        let ready = ready_lines(&mut child, &output);
        let deadline = Instant::now() + PATIENCE;
        let line = loop {
            if let Ok(line) = ready.recv_timeout(Duration::from_millis(50)) {
                break line;
            }
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                // The reader may still be on its way to the last line.
                peer_may_be_gone(errors_end.join());
                return Err(Outcome {
                    code: status.code(),
                    stdout: output.lock().clone(),
                    stderr: errors.lock().clone(),
                });
            }
            if Instant::now() > deadline {
                peer_may_be_gone(child.kill());
                peer_may_be_gone(child.wait());
                panic!("no ready line within {PATIENCE:?}: {}", errors.lock());
            }
        };
        let address = line
            .strip_prefix("orlop listening on http://")
            .and_then(|rest| rest.strip_suffix('/'))
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("not a ready line: {line:?}"));
        Ok(Orlop {
            setup: self,
            child,
            address,
            errors,
            output,
        })
    }
}

/// The program that is tested: for runs at size one of a release build may be named.
fn binary() -> PathBuf {
    let named = std::env::var_os("ORLOP_TEST_BINARY").map(PathBuf::from);
    let named = named.map(|path| path.canonicalize().expect("the named program is there"));
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_orlop").into())
}

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Runs a command to its end, which must come within [`PATIENCE`].
    #[track_caller]
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("orlop can be started");
        let (stdout, stderr) = (gather(child.stdout.take()), gather(child.stderr.take()));
        let status = wait(&mut child, PATIENCE);
        Self {
            code: status.code(),
            stdout: stdout.join().expect("the reader does not panic"),
            stderr: stderr.join().expect("the reader does not panic"),
        }
    }

    /// Asserts that it ended so, and said these words on stdout.
    #[track_caller]
    pub(crate) fn told(&self, code: i32, words: &[&str]) {
        self.said(code, words, &self.stdout);
    }

    /// Asserts that it ended so, and said these words on stderr.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        self.said(code, words, &self.stderr);
    }

    #[track_caller]
    fn said(&self, code: i32, words: &[&str], text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// A running orlop.
#[derive(Debug)]
pub(crate) struct Orlop {
    setup: Setup,
    child: Child,
    address: SocketAddr,
    errors: Arc<Mutex<String>>,
    output: Arc<Mutex<String>>,
}

impl Orlop {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.setup.data()
    }

    /// The data folder as the process sees it, where it has a disk of its own.
    pub(crate) fn data_inside(&self) -> PathBuf {
        let root = format!("/proc/{}/root{}", self.child.id(), self.data().display());
        PathBuf::from(root)
    }

    /// What it wrote to stderr so far, in whole lines. Its last words may still be on their way.
    pub(crate) fn stderr(&self) -> String {
        let said = self.errors.lock();
        let whole = said.rfind('\n').map_or(0, |end| end + 1);
        said[..whole].to_owned()
    }

    /// What it wrote to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.output.lock().clone()
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask(&Ask::get(target))
    }

    /// Sends a request that must get an answer, be it cut short.
    #[track_caller]
    pub(crate) fn ask(&self, ask: &Ask) -> Answer {
        match ask.send(self.address) {
            Ok(answer) => answer,
            Err(error) => panic!("no answer to {ask:?}: {error}"),
        }
    }

    #[track_caller]
    pub(crate) fn download(&self, name: &str, version: &str) -> Answer {
        self.get(&download_path(name, version))
    }

    #[track_caller]
    pub(crate) fn index(&self, name: &str) -> Answer {
        self.get(&format!("/index/{}", super::crates::index_path(name)))
    }

    /// The sum of all series of that name that carry all those labels (`kind="crate"`).
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
            .text()
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                (rest.starts_with('{') || rest.starts_with(' ')).then_some(())?;
                let (series, value) = rest.rsplit_once(' ')?;
                labels
                    .iter()
                    .all(|label| series.contains(label))
                    .then(|| value.parse::<f64>().expect("a value is a number"))
            })
            .sum()
    }

    /// The files of the blobs, named as in the data folder.
    pub(crate) fn blobs(&self) -> Vec<String> {
        super::files_below(&self.data().join("blobs"))
    }

    /// What lies in the spool.
    pub(crate) fn spool(&self) -> Vec<String> {
        super::files_below(&self.data().join("spool"))
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let kib = self.of_the_process("VmRSS:");
        kib.trim_end_matches(" kB")
            .parse()
            .map_or(0, |kib: u64| kib * 1024)
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        let threads = self.of_the_process("Threads:");
        threads.parse().expect("a number")
    }

    fn of_the_process(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("a running process has a status");
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        value.unwrap_or_default().trim().to_owned()
    }

    /// Sends a signal and goes on.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is an i32");
        let pid = Pid::from_raw(pid).expect("a pid is not zero");
        peer_may_be_gone(kill_process(pid, signal));
    }

    /// Waits for the end that somebody else asked for.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child, PATIENCE)
    }

    /// SIGKILL: no farewell. Returns the setup, for a next life in the same data folder.
    pub(crate) fn kill9(mut self) -> Setup {
        peer_may_be_gone(self.child.kill());
        peer_may_be_gone(self.child.wait());
        self.setup.clone()
    }

    /// SIGTERM, which must end well. Returns the setup, for a next life in the same data folder.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> Setup {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}: {}", self.stderr());
        self.setup.clone()
    }

    /// Ends and begins again on the same data folder; the port may be another.
    #[track_caller]
    pub(crate) fn restart(self) -> Self {
        self.terminate().start()
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }
}

impl Drop for Orlop {
    #[expect(clippy::print_stderr, reason = "a failed test shows what orlop said")]
    fn drop(&mut self) {
        peer_may_be_gone(self.child.kill());
        peer_may_be_gone(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- orlop's stderr:\n{}", self.stderr());
        }
    }
}

/// Waits for the end of a child; a child that does not end is killed, and the test fails.
#[track_caller]
pub(crate) fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            peer_may_be_gone(child.kill());
            peer_may_be_gone(child.wait());
            panic!("did not end within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads a pipe to its end on a thread of its own.
pub(crate) fn gather(
    pipe: Option<impl std::io::Read + Send + 'static>,
) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            peer_may_be_gone(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Gathers what a pipe says while the process runs.
fn follow(
    pipe: Option<impl std::io::Read + Send + 'static>,
) -> (Arc<Mutex<String>>, std::thread::JoinHandle<()>) {
    let said = Arc::new(Mutex::new(String::new()));
    let mine = Arc::clone(&said);
    let reader = std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut piece) {
            mine.lock()
                .push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    });
    (said, reader)
}

/// Sends the first line of stdout when it comes, and gathers all of them.
fn ready_lines(child: &mut Child, output: &Arc<Mutex<String>>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let (pipe, output) = (child.stdout.take(), Arc::clone(output));
    std::thread::spawn(move || {
        let Some(pipe) = pipe else { return };
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            peer_may_be_gone(writeln!(output.lock(), "{line}"));
            peer_may_be_gone(sender.send(line));
        }
    });
    receiver
}

/// Writes a file into a folder of the setup and returns its path.
pub(crate) fn write_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).expect("a temporary folder takes folders");
    }
    std::fs::write(&path, text).expect("a temporary folder takes files");
    path
}
