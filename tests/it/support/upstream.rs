//! A fake upstream registry: HTTP/1.1 by hand, so that it can misbehave in every byte.
//!
//! It serves a sparse index, its config.json and crates on loopback, counts and remembers every
//! request, and breaks its word on command: by kind of request or by path, for ever or for the
//! next few requests only. Threads and plain sockets; it stops when dropped.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use parking_lot::{Condvar, Mutex};

use super::{
    crates::{Registry, index_path, prefix},
    peer_may_be_gone, sha256,
};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Config,
    Index,
    Crate,
    Other,
}

/// Which requests a fault touches.
#[derive(Clone, Debug)]
pub(crate) enum On {
    All,
    Kind(Kind),
    /// Requests whose path contains this text.
    Path(String),
}

/// How the upstream breaks its word.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Waits, then answers well.
    Slow(Duration),
    /// Takes the request and never answers.
    StallBeforeHead,
    /// Sends the head and half of the body, then nothing more, with the connection open.
    StallInBody,
    /// Sends the head and half of the body, and the rest after [`Upstream::open_gate`].
    Gate,
    /// Promises the whole body, sends half of it, closes.
    Cut,
    /// The same without a promise: half of a chunked body, and no last chunk.
    CutChunked,
    /// Sends half of the body as if that were all.
    Short,
    /// Sends the body and more, as if all of it belonged together.
    Long,
    /// A chunked body that never ends.
    Endless,
    /// Changes one byte in the middle of the body.
    Flip,
    /// Status 200 and a page for people, as captive portals do.
    Html,
    /// A status with a short text.
    Status(u16),
    /// A status with `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// Redirects to itself, for ever.
    RedirectLoop,
    /// Redirects once, to the same bytes elsewhere.
    Redirect,
    /// Redirects to this prefix of URL, the path appended.
    RedirectTo(String),
    /// Sends everything, in pieces of so many bytes with a pause after each.
    Drip(usize, Duration),
    /// Answers with bytes that are not HTTP.
    Gibberish,
    /// Closes without a word.
    HangUp,
}

/// The `dl` of config.json.
#[derive(Clone, Debug)]
pub(crate) enum Dl {
    /// No marker: clients append `/{crate}/{version}/download`.
    Plain,
    /// `{crate}` and `{version}`.
    Template,
    /// All five markers.
    Markers,
    /// This text.
    Literal(String),
}

/// What the upstream does when it behaves.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    pub(crate) etag: bool,
    pub(crate) last_modified: bool,
    /// Answers conditional requests with 304.
    pub(crate) not_modified: bool,
    pub(crate) gzip: bool,
    /// Sends bodies chunked, without a length.
    pub(crate) chunked: bool,
    /// Puts spaces into its JSON.
    pub(crate) spaced: bool,
    pub(crate) dl: Dl,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            etag: true,
            last_modified: true,
            not_modified: true,
            gzip: false,
            chunked: false,
            spaced: false,
            dl: Dl::Plain,
        }
    }
}

/// A request as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) path: String,
    pub(crate) at: Instant,
    headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The running upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    /// Bound and never listening: keeps the port ours while the upstream is down.
    _port: tokio::net::TcpSocket,
}

impl Upstream {
    pub(crate) fn start(registry: Registry) -> Self {
        Self::start_on("127.0.0.1", registry)
    }

    pub(crate) fn start_on(address: &str, registry: Registry) -> Self {
        let port = tokio::net::TcpSocket::new_v4().expect("a socket can be made");
        port.set_reuseaddr(true).expect("a socket takes options");
        let any = SocketAddr::new(address.parse().expect("an address"), 0);
        port.bind(any).expect("loopback has a free port");
        let address = port.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            address,
            state: Mutex::new(State::new(registry)),
            gate: Condvar::new(),
            ended: Condvar::new(),
        });
        let upstream = Self {
            shared,
            _port: port,
        };
        upstream.up();
        upstream
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The URL of the sparse index, without `sparse+`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/index/", self.shared.address)
    }

    /// Breaks its word on these requests until [`Upstream::behave`].
    pub(crate) fn misbehave(&self, on: On, fault: Fault) {
        self.rule(on, fault, usize::MAX);
    }

    /// Breaks its word on the next `times` of these requests.
    pub(crate) fn misbehave_times(&self, times: usize, on: On, fault: Fault) {
        self.rule(on, fault, times);
    }

    fn rule(&self, on: On, fault: Fault, left: usize) {
        let mut state = self.shared.state.lock();
        state.gate_open = false;
        state.rules.push(Rule { on, fault, left });
    }

    /// Ends all faults; connections that stall are closed.
    pub(crate) fn behave(&self) {
        let mut state = self.shared.state.lock();
        state.rules.clear();
        state.close_stalled();
    }

    /// Lets [`Fault::Gate`] answers go on.
    pub(crate) fn open_gate(&self) {
        self.shared.state.lock().gate_open = true;
        self.shared.gate.notify_all();
    }

    /// Refuses connections from now on, and closes those that are open.
    pub(crate) fn down(&self) {
        self.shared.close();
    }

    /// Listens (again), on the same port.
    pub(crate) fn up(&self) {
        let listener = TcpListener::bind(self.shared.address).expect("the port is ours");
        let epoch = {
            let mut state = self.shared.state.lock();
            state.listening = true;
            state.epoch += 1;
            state.epoch
        };
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || shared.accept(&listener, epoch));
    }

    pub(crate) fn manners(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.shared.state.lock().manners);
    }

    /// Changes what is published.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Registry)) {
        let mut state = self.shared.state.lock();
        change(&mut state.registry);
        state.edits += 1;
    }

    /// What is published now.
    pub(crate) fn registry(&self) -> Registry {
        self.shared.state.lock().registry.clone()
    }

    /// The index file of a crate, exactly as it is sent.
    #[track_caller]
    pub(crate) fn index_file(&self, name: &str) -> String {
        self.shared
            .state
            .lock()
            .index_file(&name.to_lowercase())
            .unwrap_or_else(|| panic!("the registry of this test has no {name}"))
    }

    /// Every request so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().seen.clone()
    }

    pub(crate) fn forget_seen(&self) {
        let mut state = self.shared.state.lock();
        state.seen.clear();
        state.most_busy.clear();
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.shared
            .state
            .lock()
            .seen
            .iter()
            .filter(|seen| seen.kind == kind)
            .count()
    }

    /// How often a path that contains `part` was asked for.
    pub(crate) fn count_path(&self, part: &str) -> usize {
        self.shared
            .state
            .lock()
            .seen
            .iter()
            .filter(|seen| seen.path.contains(part))
            .count()
    }

    /// How many connections are held open and silent now.
    pub(crate) fn stalled(&self) -> usize {
        self.shared.state.lock().stalled.len()
    }

    /// How many requests for one path were in work at the same time, at most.
    pub(crate) fn most_at_once(&self, part: &str) -> usize {
        self.shared
            .state
            .lock()
            .most_busy
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, &count)| count)
            .max()
            .unwrap_or_default()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    gate: Condvar,
    ended: Condvar,
}

/// How long a request waits for an earlier one of the same path that looks unfinished.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct State {
    registry: Registry,
    manners: Manners,
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    busy: HashMap<String, usize>,
    most_busy: HashMap<String, usize>,
    gate_open: bool,
    listening: bool,
    /// Counts the times of listening, so that an old listener does not serve a new time.
    epoch: u64,
    /// Counts the changes of the registry, for `Last-Modified`.
    edits: u64,
    open: Vec<TcpStream>,
    stalled: Vec<TcpStream>,
    /// Counts how often the stalled connections were closed.
    era: u64,
}

#[derive(Debug)]
struct Rule {
    on: On,
    fault: Fault,
    left: usize,
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, epoch: u64) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            {
                let mut state = self.state.lock();
                if !state.listening || state.epoch != epoch {
                    return;
                }
                state.open.extend(stream.try_clone());
            }
            let shared = Arc::clone(self);
            std::thread::spawn(move || peer_may_be_gone(shared.converse(stream)));
        }
    }

    fn close(&self) {
        let was_listening = {
            let mut state = self.state.lock();
            state.close_stalled();
            for stream in state.open.drain(..) {
                peer_may_be_gone(stream.shutdown(Shutdown::Both));
            }
            state.gate_open = true;
            std::mem::replace(&mut state.listening, false)
        };
        self.gate.notify_all();
        if was_listening {
            // Wakes the accepting thread, which sees that its time is over and drops the listener.
            peer_may_be_gone(TcpStream::connect(self.address));
            let gone = || TcpStream::connect(self.address).is_err();
            super::until("the upstream refuses connections", gone);
        }
    }

    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer)? {
            let (reply, fault, era) = self.take(&request);
            let sent = self.answer(&mut stream, &request, reply, fault, era);
            self.state.lock().done(&request.path);
            self.ended.notify_all();
            if !sent? {
                break;
            }
        }
        stream.shutdown(Shutdown::Both)
    }

    /// Counts the request. A peer may see the end of an answer, and ask again, before the thread
    /// that sent it has said that it is done: that thread is given a moment, so that only requests
    /// that really are in work together count as such.
    fn take(&self, request: &Request) -> (Reply, Option<Fault>, u64) {
        let mut state = self.state.lock();
        self.ended.wait_while_for(
            &mut state,
            |state| state.busy.get(&request.path).is_some_and(|&busy| busy > 0),
            LAST_WORDS,
        );
        let (reply, fault) = state.take(request);
        (reply, fault, state.era)
    }

    /// Answers well or badly. `false`: the connection is to be closed.
    fn answer(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        mut reply: Reply,
        fault: Option<Fault>,
        era: u64,
    ) -> io::Result<bool> {
        let half = reply.body.len() / 2;
        match fault {
            None => reply.send(stream, request),
            Some(Fault::Slow(pause)) => {
                std::thread::sleep(pause);
                reply.send(stream, request)
            }
            Some(Fault::StallBeforeHead) => self.stall(stream, era),
            Some(Fault::StallInBody) => {
                stream.write_all(&reply.head(Framing::Length(reply.body.len())))?;
                stream.write_all(&reply.body[..half])?;
                self.stall(stream, era)
            }
            Some(Fault::Gate) => {
                stream.write_all(&reply.head(Framing::Length(reply.body.len())))?;
                stream.write_all(&reply.body[..half])?;
                self.wait_at_gate();
                stream.write_all(&reply.body[half..])?;
                Ok(true)
            }
            Some(Fault::Cut) => {
                stream.write_all(&reply.head(Framing::Length(reply.body.len())))?;
                stream.write_all(&reply.body[..half])?;
                Ok(false)
            }
            Some(Fault::CutChunked) => {
                stream.write_all(&reply.head(Framing::Chunked))?;
                stream.write_all(&chunk(&reply.body[..half]))?;
                Ok(false)
            }
            Some(Fault::Short) => {
                reply.body.truncate(half);
                reply.send(stream, request)
            }
            Some(Fault::Long) => {
                reply.body.extend_from_slice(&[b'x'; 1000]);
                reply.send(stream, request)
            }
            Some(Fault::Endless) => {
                stream.write_all(&reply.head(Framing::Chunked))?;
                stream.write_all(&chunk(&reply.body))?;
                let more = chunk(&b"x".repeat(64 * 1024));
                loop {
                    stream.write_all(&more)?;
                }
            }
            Some(Fault::Flip) => {
                reply.body[half] ^= 0x20;
                reply.send(stream, request)
            }
            Some(Fault::Html) => Reply::html().send(stream, request),
            Some(Fault::Status(status)) => {
                Reply::text(status, "the fake upstream says no").send(stream, request)
            }
            Some(Fault::RetryAfter(status, seconds)) => {
                Reply::text(status, "the fake upstream says later")
                    .with("Retry-After", &seconds.to_string())
                    .send(stream, request)
            }
            Some(Fault::RedirectLoop) => Reply::redirect(&request.path).send(stream, request),
            Some(Fault::Redirect) => {
                let elsewhere = format!("/elsewhere{}", request.path);
                Reply::redirect(&elsewhere).send(stream, request)
            }
            Some(Fault::RedirectTo(base)) => {
                Reply::redirect(&format!("{base}{}", request.path)).send(stream, request)
            }
            Some(Fault::Drip(size, pause)) => {
                stream.write_all(&reply.head(Framing::Length(reply.body.len())))?;
                for piece in reply.body.chunks(size) {
                    stream.write_all(piece)?;
                    std::thread::sleep(pause);
                }
                Ok(true)
            }
            Some(Fault::Gibberish) => {
                stream.write_all(b"\x16\x03\x01 is not HTTP, whatever you think\r\n\r\n")?;
                Ok(false)
            }
            Some(Fault::HangUp) => Ok(false),
        }
    }

    /// Holds the connection open and silent until the peer or the test closes it, which the test
    /// may have done since the request was taken.
    fn stall(&self, stream: &mut TcpStream, era: u64) -> io::Result<bool> {
        {
            let mut state = self.state.lock();
            if state.era != era {
                return Ok(false);
            }
            state.stalled.extend(stream.try_clone());
        }
        let mut rest = [0; 1024];
        while stream.read(&mut rest)? > 0 {}
        Ok(false)
    }

    fn wait_at_gate(&self) {
        let mut state = self.state.lock();
        while !state.gate_open {
            self.gate.wait(&mut state);
        }
    }
}

impl State {
    fn new(registry: Registry) -> Self {
        Self {
            registry,
            manners: Manners::default(),
            rules: Vec::new(),
            seen: Vec::new(),
            busy: HashMap::new(),
            most_busy: HashMap::new(),
            gate_open: false,
            listening: false,
            epoch: 0,
            edits: 0,
            open: Vec::new(),
            stalled: Vec::new(),
            era: 0,
        }
    }

    fn close_stalled(&mut self) {
        self.era += 1;
        for stream in self.stalled.drain(..) {
            peer_may_be_gone(stream.shutdown(Shutdown::Both));
        }
    }

    /// Notes the request; returns the good answer and the fault to spoil it with.
    fn take(&mut self, request: &Request) -> (Reply, Option<Fault>) {
        let kind = request.kind();
        self.seen.push(Seen {
            kind,
            path: request.path.clone(),
            at: Instant::now(),
            headers: request.headers.clone(),
        });
        let busy = self.busy.entry(request.path.clone()).or_default();
        *busy += 1;
        let most = self.most_busy.entry(request.path.clone()).or_default();
        *most = (*most).max(*busy);
        (self.reply(request), self.fault(kind, &request.path))
    }

    fn done(&mut self, path: &str) {
        if let Some(busy) = self.busy.get_mut(path) {
            *busy -= 1;
        }
    }

    /// The newest rule that fits and still has requests left.
    fn fault(&mut self, kind: Kind, path: &str) -> Option<Fault> {
        if path.starts_with("/elsewhere/") {
            return None;
        }
        let rule = self.rules.iter_mut().rev().find(|rule| {
            rule.left > 0
                && match &rule.on {
                    On::All => true,
                    On::Kind(which) => *which == kind,
                    On::Path(part) => path.contains(part.as_str()),
                }
        })?;
        if rule.left != usize::MAX {
            rule.left -= 1;
        }
        Some(rule.fault.clone())
    }

    fn reply(&self, request: &Request) -> Reply {
        let path = request.path.trim_start_matches("/elsewhere");
        let found = match request.kind() {
            Kind::Config => Some(self.config(request)),
            Kind::Index => self.entry(path, request),
            Kind::Crate => self.crate_file(path),
            Kind::Other => None,
        };
        let mut reply = found.unwrap_or_else(|| Reply::text(404, "not here"));
        reply.chunked = self.manners.chunked;
        reply
    }

    fn config(&self, request: &Request) -> Reply {
        let base = format!("http://{}", request.host());
        let dl = match &self.manners.dl {
            Dl::Plain => format!("{base}/api/v1/crates"),
            Dl::Template => format!("{base}/files/{{crate}}/{{version}}.crate"),
            Dl::Markers => format!(
                "{base}/m/{{prefix}}/{{lowerprefix}}/{{crate}}/{{version}}/{{sha256-checksum}}"
            ),
            Dl::Literal(dl) => dl.clone(),
        };
        let body = serde_json::json!({ "dl": dl, "api": base, "more": {"unknown": true} });
        Reply::new(200, "application/json", body.to_string().into_bytes())
    }

    fn index_file(&self, lower_name: &str) -> Option<String> {
        let text = self.registry.index_file(lower_name)?;
        Some(if self.manners.spaced {
            text.replace("\":", "\": ").replace(",\"", " , \"")
        } else {
            text
        })
    }

    fn entry(&self, path: &str, request: &Request) -> Option<Reply> {
        let name = path.rsplit('/').next()?;
        if path != format!("/index/{}", index_path(name)) {
            return None;
        }
        let text = self.index_file(name)?;
        let etag = format!("\"up-{}\"", &sha256(text.as_bytes())[..16]);
        let changed = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + self.edits);
        let changed = httpdate::fmt_http_date(changed);
        let manners = &self.manners;
        let same_etag = manners.etag && request.header("if-none-match") == Some(etag.as_str());
        let same_date = manners.last_modified
            && request.header("if-none-match").is_none()
            && request.header("if-modified-since") == Some(changed.as_str());
        let mut reply = if manners.not_modified && (same_etag || same_date) {
            Reply::new(304, "text/plain", Vec::new())
        } else {
            self.entry_body(&text, request)
        };
        if manners.etag {
            reply = reply.with("ETag", &etag);
        }
        if manners.last_modified {
            reply = reply.with("Last-Modified", &changed);
        }
        Some(reply)
    }

    fn entry_body(&self, text: &str, request: &Request) -> Reply {
        let accepts = request.header("accept-encoding").unwrap_or_default();
        if !self.manners.gzip || !accepts.contains("gzip") {
            return Reply::new(200, "text/plain", text.as_bytes().to_vec());
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text.as_bytes())
            .expect("memory takes every write");
        let body = gzip.finish().expect("memory takes every write");
        Reply::new(200, "text/plain", body).with("Content-Encoding", "gzip")
    }

    fn crate_file(&self, path: &str) -> Option<Reply> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let release = match *parts.as_slice() {
            ["api", "v1", "crates", name, version, "download"] => self.find(name, version)?,
            ["files", name, file] => self.find(name, file.strip_suffix(".crate")?)?,
            ["m", .., name, version, checksum] => {
                let release = self.find(name, version)?;
                let lower = prefix(&name.to_lowercase());
                let right = format!("/m/{}/{lower}/{name}/{version}/{checksum}", prefix(name));
                (path == right && checksum == release.sha256).then_some(release)?
            }
            _ => return None,
        };
        Some(Reply::new(200, "application/gzip", release.bytes.to_vec()))
    }

    fn find(&self, name: &str, version: &str) -> Option<super::crates::Release> {
        self.registry.find(name, &version.replace("%2B", "+"))
    }
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn host(&self) -> &str {
        self.header("host").unwrap_or("no-host")
    }

    fn kind(&self) -> Kind {
        let path = self.path.trim_start_matches("/elsewhere");
        if path == "/index/config.json" {
            Kind::Config
        } else if path.starts_with("/index/") {
            Kind::Index
        } else if ["/api/v1/crates/", "/files/", "/m/"]
            .iter()
            .any(|start| path.starts_with(start))
        {
            Kind::Crate
        } else {
            Kind::Other
        }
    }
}

/// Reads one request without a body. `None`: the peer closed.
fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut fields);
        let status = parsed
            .parse(buffer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let httparse::Status::Complete(length) = status {
            let request = Request {
                method: parsed.method.unwrap_or_default().to_owned(),
                path: parsed.path.unwrap_or_default().to_owned(),
                headers: parsed
                    .headers
                    .iter()
                    .map(|field| {
                        let value = String::from_utf8_lossy(field.value).into_owned();
                        (field.name.to_owned(), value)
                    })
                    .collect(),
            };
            buffer.drain(..length);
            return Ok(Some(request));
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            count => buffer.extend_from_slice(&piece[..count]),
        }
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Reply {
    fn new(status: u16, content_type: &str, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body,
            chunked: false,
        }
    }

    fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain", text.as_bytes().to_vec())
    }

    fn html() -> Self {
        let page = "<!DOCTYPE html><html><body>Please log in to the hotel network</body></html>\n";
        Self::new(200, "text/html", page.as_bytes().to_vec())
    }

    fn redirect(to: &str) -> Self {
        Self::text(302, "over there").with("Location", to)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn head(&self, framing: Framing) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Fake\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match framing {
            Framing::Length(_) if self.status == 304 => {}
            Framing::Length(length) => head += &format!("Content-Length: {length}\r\n"),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        }
        head += "\r\n";
        head.into_bytes()
    }

    fn send(&self, stream: &mut TcpStream, request: &Request) -> io::Result<bool> {
        let bodyless = request.method == "HEAD" || self.status == 304;
        if self.chunked && !bodyless {
            let mut bytes = self.head(Framing::Chunked);
            for piece in self.body.chunks(10_000) {
                bytes.extend(chunk(piece));
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            stream.write_all(&bytes)?;
            return Ok(true);
        }
        let mut bytes = self.head(Framing::Length(self.body.len()));
        if !bodyless {
            bytes.extend_from_slice(&self.body);
        }
        stream.write_all(&bytes)?;
        Ok(true)
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    framed
}
