//! An upstream's git index, made with `git`, and a server for it that can misbehave.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{
    PATIENCE, crates::index_path, orlop::write_file, peer_may_be_gone, upstream::Upstream,
};

/// A repository with an index.
#[derive(Debug)]
pub(crate) struct GitIndex {
    folder: TempDir,
}

impl GitIndex {
    /// The index of what `crates` serves, and with its `dl`.
    pub(crate) fn of(crates: &Upstream, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let index = Self { folder };
        write_file(index.folder.path(), "index/.keep", "");
        index.git(&["init", "-q", "-b", "master"]);
        let dl = format!("{{\"dl\":\"http://{}/api/v1/crates\"}}", crates.address());
        write_file(&index.path(), "config.json", &dl);
        for name in names {
            index.take(crates, name);
        }
        index.commit();
        index
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    /// Takes the file of a crate as `crates` has it now.
    pub(crate) fn take(&self, crates: &Upstream, name: &str) {
        write_file(&self.path(), &index_path(name), &crates.index_file(name));
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(index_path(name))).expect("it was there");
    }

    pub(crate) fn commit(&self) {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "-m", "a change"]);
    }

    /// A history of one commit takes the place of the old one.
    pub(crate) fn squash(&self) {
        let tree = self.git(&["rev-parse", "HEAD^{tree}"]);
        let root = self.git(&["commit-tree", "-m", "squashed", &tree]);
        self.git(&["reset", "-q", "--hard", &root]);
        self.git(&["reflog", "expire", "--expire=now", "--all"]);
        self.git(&["gc", "-q", "--prune=now"]);
    }

    /// Takes it away, or brings it back.
    pub(crate) fn away(&self, is_away: bool) {
        let (here, there) = (self.path(), self.folder.path().join("away"));
        let (from, to) = if is_away {
            (here, there)
        } else {
            (there, here)
        };
        std::fs::rename(from, to).expect("a temporary folder can be renamed");
    }

    pub(crate) fn git(&self, words: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=u", "-c", "user.email=u@localhost"])
            .args(words)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("git can be started");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "git {words:?}: {output:?}");
        text
    }
}

/// How the git server breaks its word about packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GitFault {
    /// Half of the pack, and the connection closed.
    Cut,
    /// Half of the pack as if that were all.
    Short,
    /// Half of the pack, and nothing more.
    Stall,
    /// A byte in the middle of the pack is another.
    Flip,
    /// This status, for every request.
    Status(u16),
}

/// Smart HTTP for a repository, by `git http-backend`.
#[derive(Debug)]
pub(crate) struct GitServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    root: PathBuf,
    fault: Mutex<Option<GitFault>>,
    /// What `Authorization` must say.
    password: Mutex<Option<String>>,
    seen: Mutex<Vec<String>>,
}

impl GitServer {
    pub(crate) fn of(index: &GitIndex) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("it is bound"),
            root: index.path().parent().expect("a folder").to_owned(),
            fault: Mutex::default(),
            password: Mutex::default(),
            seen: Mutex::default(),
        });
        let mine = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&mine);
                std::thread::spawn(move || peer_may_be_gone(shared.answer(stream)));
            }
        });
        Self { shared }
    }

    /// The URL of the repository.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/index", self.shared.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// A URL of it that leads elsewhere, to [`GitServer::url`].
    pub(crate) fn moved_url(&self) -> String {
        format!("http://{}/moved/index", self.shared.address)
    }

    /// The same with credentials, which it wants from now on.
    pub(crate) fn url_with_password(&self) -> String {
        // The words of RFC 7617.
        *self.shared.password.lock() = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
        format!("http://Aladdin:open%20sesame@{}/index", self.shared.address)
    }

    pub(crate) fn misbehave(&self, fault: GitFault) {
        *self.shared.fault.lock() = Some(fault);
    }

    pub(crate) fn behave(&self) {
        *self.shared.fault.lock() = None;
    }

    /// Requests so far, as method and target.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().clone()
    }
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &TcpStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next(), words.next());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self {
            method: method.unwrap_or_default(),
            target: target.unwrap_or_default(),
            headers,
            body: Vec::new(),
        };
        let length = request.header("content-length").parse().unwrap_or(0);
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body)?;
        Ok(request)
    }

    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = Request::read(&stream)?;
        self.seen
            .lock()
            .push(format!("{} {}", request.method, request.target));
        let password = self.password.lock().clone();
        if password.is_some_and(|password| request.header("authorization") != password) {
            return stream.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
        if let Some(rest) = request.target.strip_prefix("/moved") {
            let text = format!(
                "HTTP/1.1 301 Moved\r\nLocation: {rest}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return stream.write_all(text.as_bytes());
        }
        let fault = *self.fault.lock();
        if let Some(GitFault::Status(code)) = fault {
            let text =
                format!("HTTP/1.1 {code} No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
            return stream.write_all(text.as_bytes());
        }
        let output = backend(&self.root, &request)?;
        let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let (head, body) = output.split_at(end.map_or(0, |end| end + 4));
        let head = String::from_utf8_lossy(head);
        let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
        write!(
            stream,
            "HTTP/1.1 {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{head}",
            status.unwrap_or("200 OK")
        )?;
        let is_pack = request
            .body
            .windows(13)
            .any(|bytes| bytes == b"command=fetch");
        send(&mut stream, body, fault.filter(|_| is_pack))
    }
}

fn send(stream: &mut TcpStream, body: &[u8], fault: Option<GitFault>) -> io::Result<()> {
    let (first, second) = body.split_at(body.len() / 2);
    chunk(stream, first)?;
    match fault {
        Some(GitFault::Cut) => return Ok(()),
        Some(GitFault::Stall) => {
            std::thread::sleep(PATIENCE);
            return Ok(());
        }
        Some(GitFault::Short) => {}
        Some(GitFault::Flip) => {
            let mut other = second.to_vec();
            other[second.len() / 4] ^= 0x55;
            chunk(stream, &other)?;
        }
        Some(GitFault::Status(_)) | None => chunk(stream, second)?,
    }
    stream.write_all(b"0\r\n\r\n")
}

fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    write!(stream, "{:x}\r\n", bytes.len())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}

fn backend(root: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", request.header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
        .env("GIT_PROTOCOL", request.header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&request.body)?;
    }
    let mut output = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut output)?;
    }
    child.wait()?;
    Ok(output)
}

/// How often orlop looks at a git index in a test.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
