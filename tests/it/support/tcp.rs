//! A TCP proxy on loopback that counts connections and remembers how each began.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use parking_lot::Mutex;

use super::peer_may_be_gone;

/// How much of each direction of a connection is remembered: heads, and the start of HTTP/2.
const REMEMBERED_BYTES: usize = 4096;

/// The running proxy; stops when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: Mutex<bool>,
    talks: Mutex<Vec<Arc<Mutex<Talk>>>>,
    streams: Mutex<Vec<TcpStream>>,
}

/// The first bytes of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Talk {
    pub(crate) sent: Vec<u8>,
    pub(crate) received: Vec<u8>,
}

impl Talk {
    /// Whether the server agreed to go on in HTTP/2.
    pub(crate) fn was_upgraded(&self) -> bool {
        self.received.starts_with(b"HTTP/1.1 101")
    }

    /// Whether the client spoke HTTP/2, after an upgrade or from the start.
    pub(crate) fn spoke_http2(&self) -> bool {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        self.sent
            .windows(preface.len())
            .any(|window| window == preface)
    }
}

impl Wire {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared::default());
        let mine = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *mine.stopped.lock() {
                    return;
                }
                peer_may_be_gone(mine.join(&client, target));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How each connection so far began.
    pub(crate) fn talks(&self) -> Vec<Talk> {
        let talks = self.shared.talks.lock();
        talks.iter().map(|talk| talk.lock().clone()).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.talks.lock().len()
    }

    /// Cuts every connection that is open; new ones are welcome.
    pub(crate) fn cut(&self) {
        for stream in self.shared.streams.lock().drain(..) {
            peer_may_be_gone(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        *self.shared.stopped.lock() = true;
        peer_may_be_gone(TcpStream::connect(self.address));
        self.cut();
    }
}

impl Shared {
    fn join(&self, client: &TcpStream, target: SocketAddr) -> io::Result<()> {
        let server = TcpStream::connect(target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let talk = Arc::new(Mutex::new(Talk::default()));
        self.talks.lock().push(Arc::clone(&talk));
        self.streams
            .lock()
            .extend([client.try_clone()?, server.try_clone()?]);
        let (from_client, to_client) = (client.try_clone()?, client.try_clone()?);
        let (from_server, to_server) = (server.try_clone()?, server);
        let sent = Arc::clone(&talk);
        std::thread::spawn(move || {
            copy(from_client, to_server, |bytes| {
                remember(&mut sent.lock().sent, bytes);
            });
        });
        std::thread::spawn(move || {
            copy(from_server, to_client, |bytes| {
                remember(&mut talk.lock().received, bytes);
            });
        });
        Ok(())
    }
}

/// Passes bytes on until one side ends, and then closes that direction.
pub(super) fn copy(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut piece = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        note(&piece[..count]);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    peer_may_be_gone(to.shutdown(Shutdown::Write));
}

fn remember(begun: &mut Vec<u8>, bytes: &[u8]) {
    let room = REMEMBERED_BYTES.saturating_sub(begun.len());
    begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
