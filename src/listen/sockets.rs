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
        let socket = listen(address, only_v6).map_err(|source| Error::listen(address, source))?;
        let actual = socket
            .local_addr()
            .map_err(|source| Error::listen(address, source))?;
        Ok((actual, socket))
    };
    addresses.iter().map(listen).collect()
}

/// Looks up the addresses of sockets that were handed over.
pub(super) fn adopt(sockets: Vec<TcpListener>) -> Result<Vec<Socket>, Error> {
    let adopted = |socket: TcpListener| match socket.local_addr() {
        Ok(address) => Ok((address, socket)),
        Err(source) => Err(Error::Adopt { source }),
    };
    sockets.into_iter().map(adopted).collect()
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
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
    Ok(TcpListener::from(socket))
}
