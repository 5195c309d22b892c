//! Acceptors: what makes the byte stream of a connection out of an accepted socket.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Makes connections out of sockets. One over TLS does the handshake, and wraps the socket.
pub trait Acceptor: Clone + Send + 'static {
    /// The stream that requests are read from and responses are written to.
    type Io: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Makes the connection. The listener drops the future when the header time is over.
    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<Connection<Self::Io>>>;
}

/// A connection that was accepted, before its first request.
#[derive(Debug)]
pub struct Connection<T> {
    /// The stream.
    pub io: T,
    /// The address of the client.
    pub peer: Option<SocketAddr>,
    /// What client and server agreed to speak.
    pub protocol: Protocol,
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// None was agreed on: the first bytes tell, and a client may upgrade to HTTP/2.
    Undecided,
    /// HTTP/1.1, without an upgrade.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Connections over TCP as it is.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Acceptor for Plain {
    type Io = TcpStream;

    async fn accept(&self, socket: TcpStream) -> io::Result<Connection<TcpStream>> {
        socket.set_nodelay(true)?;
        Ok(Connection {
            peer: socket.peer_addr().ok(),
            io: socket,
            protocol: Protocol::Undecided,
        })
    }
}
