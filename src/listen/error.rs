//! Why there is no listener.

use std::{io, net::SocketAddr};

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No address was given.
    #[error("no address to listen on: set listen.addresses or --listen")]
    NoAddress,
    /// The system refuses an address.
    #[error("{}", refusal(*address, source.kind()))]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over has no address.
    #[error("cannot listen on a socket that was handed over")]
    Adopt(#[source] io::Error),
    /// The workers did not start, or ended by themselves.
    #[error("the workers of the listener failed")]
    Workers(#[source] io::Error),
}

/// Why the system refuses `address`, and what to do about it.
fn refusal(address: SocketAddr, kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::AddrInUse => format!(
            "{address} is taken: stop what listens there, or choose another port with --listen or listen.addresses"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no right to listen on {address}: choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{address} is no address of this machine: choose one that it has, or 0.0.0.0 or [::] for all"
        ),
        _ => format!("cannot listen on {address}"),
    }
}
