//! Opens the sockets that listen, or takes those that were handed over.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::error::Error;

/// A socket that listens, with its address.
pub(super) type Socket = (SocketAddr, TcpListener);

/// Listens on all addresses, or on none.
pub(super) fn open(addresses: &[SocketAddr]) -> Result<Vec<Socket>, Error> {
    if addresses.is_empty() {
        return Err(Error::NoAddress);
    }
    let listen = |&address: &SocketAddr| {
        // `[::]` takes IPv4 along unless the list has that apart.
        let mut others = addresses.iter();
        let only_v6 = others.any(|other| other.is_ipv4() && other.port() == address.port());
        listen(address, only_v6).map_err(|source| Error::Listen { address, source })
    };
    addresses.iter().map(listen).collect()
}

/// Looks up the addresses of sockets that were handed over.
pub(super) fn adopt(sockets: Vec<TcpListener>) -> Result<Vec<Socket>, Error> {
    let adopted = sockets.into_iter().map(with_address);
    adopted.collect::<io::Result<_>>().map_err(Error::Adopt)
}

fn with_address(socket: TcpListener) -> io::Result<Socket> {
    Ok((socket.local_addr()?, socket))
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 1024)?; // the system cuts it to its own limit
    with_address(TcpListener::from(socket))
}
