//! A plain HTTP/1.1 client: sends the target as written and says whether an answer came whole.
//!
//! Not reqwest, because the tests need what a polite client hides: targets that a URL type would
//! tidy up (`..`, `%2f`), odd `Host` lines, and the difference between a body and half of one.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// One request. `Host` and `Connection: close` are added unless the headers name them.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    deadline: Duration,
}

impl Ask {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            deadline: super::PATIENCE,
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("Content-Length", &body.len().to_string())
    }

    /// Sends the request on a connection of its own and reads the answer to its end.
    ///
    /// # Errors
    /// No connection, or no complete head within the deadline. A body that stops early is not an
    /// error: see [`Answer::whole`].
    pub(crate) fn send(&self, to: SocketAddr) -> io::Result<Answer> {
        let mut connection = Connection::open(to, self.deadline)?;
        connection.send(&self.bytes(to, true))?;
        connection.answer(self.method == "HEAD")
    }

    /// The request as bytes, for connections that are kept or for clients that misbehave.
    pub(crate) fn bytes(&self, to: SocketAddr, close: bool) -> Vec<u8> {
        let named = |name: &str| {
            self.headers
                .iter()
                .any(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !named("host") {
            head += &format!("Host: {to}\r\n");
        }
        if close && !named("connection") {
            head += "Connection: close\r\n";
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended where its framing says that it ends.
    pub(crate) whole: bool,
}

impl Answer {
    /// The value of the first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether a client would take `self` for the file it asked for.
    pub(crate) fn is_complete_file(&self) -> bool {
        self.status == 200 && self.whole
    }
}

/// One connection, for requests in a row and for reading an answer in parts.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    until: Instant,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr, deadline: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, deadline)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: Vec::new(),
            until: Instant::now() + deadline,
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(super::PATIENCE))?;
        self.stream.write_all(bytes)
    }

    /// Reads one answer: head and body. `bodyless`: the request was HEAD.
    pub(crate) fn answer(&mut self, bodyless: bool) -> io::Result<Answer> {
        let (status, headers) = self.head()?;
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
            whole: true,
        };
        if bodyless || status == 304 || status == 204 {
            return Ok(answer);
        }
        let chunked = answer
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let length = answer
            .header("content-length")
            .and_then(|length| length.parse().ok());
        (answer.body, answer.whole) = match (chunked, length) {
            (true, _) => self.chunks(),
            (false, Some(length)) => self.sized(length),
            (false, None) => self.rest(),
        };
        Ok(answer)
    }

    /// Reads a head: status and headers. Skips `100 Continue`.
    pub(crate) fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut fields);
            let status = parsed
                .parse(&self.read)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let httparse::Status::Complete(length) = status {
                let code = parsed.code.unwrap_or_default();
                let headers = parsed
                    .headers
                    .iter()
                    .map(|field| {
                        let value = String::from_utf8_lossy(field.value).into_owned();
                        (field.name.to_owned(), value)
                    })
                    .collect();
                self.read.drain(..length);
                if code == 100 {
                    continue;
                }
                return Ok((code, headers));
            }
            self.fill()?;
        }
    }

    /// Reads exactly `count` bytes of what follows, without any framing.
    pub(crate) fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < count {
            self.fill()?;
        }
        Ok(self.read.drain(..count).collect())
    }

    /// Reads until the peer closes; `false`: it did not within the deadline, or with an error.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, bool) {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(error) => {
                    let body = std::mem::take(&mut self.read);
                    return (body, error.kind() == io::ErrorKind::UnexpectedEof);
                }
            }
        }
    }

    fn sized(&mut self, length: usize) -> (Vec<u8>, bool) {
        match self.exactly(length) {
            Ok(body) => (body, true),
            Err(_) => (std::mem::take(&mut self.read), false),
        }
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Ok(size) = self.line().map(|line| {
                let digits = line.split(';').next().unwrap_or_default().trim();
                usize::from_str_radix(digits, 16)
            }) else {
                return (body, false);
            };
            let Ok(size) = size else {
                return (body, false);
            };
            if size == 0 {
                return (body, self.line().is_ok());
            }
            match self.exactly(size + 2) {
                Ok(chunk) => body.extend_from_slice(&chunk[..size]),
                Err(_) => return (body, false),
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.read.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }
}
