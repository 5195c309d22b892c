//! A reverse proxy as an operator puts before orlop: takes away a path prefix and says so in headers.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{PATIENCE, http::Ask, peer_may_be_gone};

/// The running proxy; stops when dropped.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    prefix: String,
    stopped: Arc<AtomicBool>,
    target: Arc<OnceLock<SocketAddr>>,
}

impl Front {
    /// Serves everything of a target, named later, below `prefix`, which starts with a slash and
    /// does not end with one.
    pub(crate) fn below(prefix: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let stopped = Arc::new(AtomicBool::new(false));
        let target = Arc::new(OnceLock::new());
        let (ended, mine) = (Arc::clone(&stopped), prefix.to_owned());
        let there = Arc::clone(&target);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Some(&target) = there.get() else { continue };
                let prefix = mine.clone();
                std::thread::spawn(move || peer_may_be_gone(forward(client, target, &prefix)));
            }
        });
        Self {
            address,
            prefix: prefix.to_owned(),
            stopped,
            target,
        }
    }

    /// Says where the requests go. Only the first word counts.
    pub(crate) fn leads_to(&self, target: SocketAddr) {
        peer_may_be_gone(self.target.set(target));
    }

    /// The base URL that clients use, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.address, self.prefix)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        peer_may_be_gone(TcpStream::connect(self.address));
    }
}

/// Takes one request without a body, asks `target`, and closes after the answer.
fn forward(mut client: TcpStream, target: SocketAddr, prefix: &str) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let head = read_head(&mut client)?;
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
    let inner = path.strip_prefix(prefix).unwrap_or("/nowhere");
    let mut ask = Ask::new(method, inner).header("X-Forwarded-Proto", "http");
    ask = ask.header("X-Forwarded-Prefix", prefix);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name.to_ascii_lowercase().as_str() {
            "host" => ask = ask.header("X-Forwarded-Host", value),
            "connection" | "upgrade" | "http2-settings" => {}
            _ => ask = ask.header(name, value),
        }
    }
    let answer = ask.send(target)?;
    let mut reply = format!("HTTP/1.1 {} Passed\r\n", answer.status);
    for (name, value) in &answer.headers {
        match name.to_ascii_lowercase().as_str() {
            "connection" | "transfer-encoding" | "content-length" => {}
            _ => reply += &format!("{name}: {value}\r\n"),
        }
    }
    if answer.status != 304 {
        reply += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    reply += "Connection: close\r\n\r\n";
    client.write_all(reply.as_bytes())?;
    client.write_all(&answer.body)
}

fn read_head(client: &mut TcpStream) -> io::Result<String> {
    use std::io::Read as _;

    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
