//! Outbound proxies on loopback, as a lab has them: one for HTTP, and one that speaks SOCKS5.
//!
//! Whatever host they are asked for, they lead to one target, so that a request that reaches it
//! under a name that nobody can resolve must have come through the proxy.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{http::Ask, peer_may_be_gone, tcp::copy};

type Serve = fn(TcpStream, SocketAddr, &Mutex<Vec<String>>) -> io::Result<()>;

/// The running proxy; stops when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy that takes requests with a whole URL as their target.
    pub(crate) fn http(target: SocketAddr) -> Self {
        Self::start(target, forward)
    }

    /// A proxy that connects without asking who it is.
    pub(crate) fn socks5(target: SocketAddr) -> Self {
        Self::start(target, connect)
    }

    fn start(target: SocketAddr, serve: Serve) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let stopped = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (ended, mine) = (Arc::clone(&stopped), Arc::clone(&asked));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let asked = Arc::clone(&mine);
                std::thread::spawn(move || peer_may_be_gone(serve(client, target, &asked)));
            }
        });
        Self {
            address,
            stopped,
            asked,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for so far: whole URLs, or `host:port` for SOCKS5.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        peer_may_be_gone(TcpStream::connect(self.address));
    }
}

/// One request with a whole URL, then the end of the connection.
fn forward(
    mut client: TcpStream,
    target: SocketAddr,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(&mut client)?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, url) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    asked.lock().push(url.to_owned());
    let path = url
        .strip_prefix("http://")
        .and_then(|rest| rest.find('/').and_then(|slash| rest.get(slash..)))
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut ask = Ask::new(method, path);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        ask = ask.header(name, value);
    }
    let answer = ask.send(target)?;
    let mut reply = format!("HTTP/1.1 {} Passed\r\n", answer.status);
    for (name, value) in &answer.headers {
        if !name.eq_ignore_ascii_case("connection") {
            reply += &format!("{name}: {value}\r\n");
        }
    }
    reply += "Connection: close\r\n\r\n";
    client.write_all(reply.as_bytes())?;
    client.write_all(&answer.body)
}

/// CONNECT of RFC 1928 to a name or an address of IPv4, without credentials.
fn connect(
    mut client: TcpStream,
    target: SocketAddr,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let [_version, methods] = bytes(&mut client)?;
    for _ in 0..methods {
        byte(&mut client)?;
    }
    client.write_all(&[5, 0])?;
    let [_version, _connect, _reserved, kind] = bytes(&mut client)?;
    let host = match kind {
        1 => Ipv4Addr::from(bytes::<4>(&mut client)?).to_string(),
        3 => {
            let mut name = vec![0; usize::from(byte(&mut client)?)];
            client.read_exact(&mut name)?;
            String::from_utf8_lossy(&name).into_owned()
        }
        _ => return client.write_all(&[5, 8, 0, 1, 0, 0, 0, 0, 0, 0]),
    };
    let port = u16::from_be_bytes(bytes(&mut client)?);
    asked.lock().push(format!("{host}:{port}"));
    let server = TcpStream::connect(target)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || copy(from_client, to_server, |_| ()));
    copy(server, client, |_| ());
    Ok(())
}

fn byte(from: &mut TcpStream) -> io::Result<u8> {
    bytes::<1>(from).map(|[byte]| byte)
}

fn bytes<const COUNT: usize>(from: &mut TcpStream) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
