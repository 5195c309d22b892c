//! An upstream on loopback that answers HTTP/1.1 by hand, and misbehaves on request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A request, as far as the tests look at it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// What stands after the method: the path, or a whole URL for a proxy.
    pub(super) target: String,
    head: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What is done with a request. The connection is kept after [`Act::Send`] alone.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Send(Vec<u8>),
    SendAndStall(Vec<u8>),
    SendAndClose(Vec<u8>),
}

/// A whole answer.
pub(super) fn reply(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Act {
    let length = format!("Content-Length: {}\r\n", body.as_ref().len());
    Act::Send(raw(status, &format!("{headers}{length}"), body))
}

/// An answer with the headers that are given and no others, each ending in `\r\n`.
pub(super) fn raw(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Whatever\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body.as_ref());
    bytes
}

type Script = dyn Fn(&Request) -> Act + Send + Sync;

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Listens, and answers each request by `script`, until the test's runtime ends.
    pub(super) async fn start(script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let fake = Fake {
            address: listener.local_addr().expect("an address"),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&fake.seen);
        let script: Arc<Script> = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&seen), Arc::clone(&script)));
            }
        });
        fake
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no test panics with it").clone()
    }

    /// How often the target was asked for.
    pub(super) fn count(&self, target: &str) -> usize {
        let seen = self.seen();
        seen.iter()
            .filter(|request| request.target == target)
            .count()
    }
}

async fn converse(mut stream: TcpStream, seen: Arc<Mutex<Vec<Request>>>, script: Arc<Script>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock()
            .expect("no test panics with it")
            .push(request.clone());
        match script(&request) {
            Act::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Act::SendAndStall(bytes) => {
                drop(stream.write_all(&bytes).await);
                std::future::pending::<()>().await;
            }
            Act::SendAndClose(bytes) => {
                drop(stream.write_all(&bytes).await);
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let target = head.split(' ').nth(1)?.to_owned();
    Some(Request { target, head })
}
