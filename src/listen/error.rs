//! Why there is no listener.

use std::{io, net::SocketAddr};

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No address was given.
    #[error("no address to listen on: set listen.addresses or --listen")]
    NoAddress,
    /// Another process listens there.
    #[error(
        "{address} is taken: stop what listens there, or choose another port with --listen or listen.addresses"
    )]
    Taken {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not let this user listen there.
    #[error(
        "no right to listen on {address}: choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
    )]
    Denied {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No interface has the address.
    #[error(
        "{address} is no address of this machine: choose one that it has, or 0.0.0.0 or [::] for all"
    )]
    Absent {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Anything else about one address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over tells no address.
    #[error("cannot listen on a socket that was handed over")]
    Adopt {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The workers did not start, or ended by themselves.
    #[error("the workers of the listener failed")]
    Workers {
        /// What actix said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn listen(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { address, source },
            io::ErrorKind::PermissionDenied => Self::Denied { address, source },
            io::ErrorKind::AddrNotAvailable => Self::Absent { address, source },
            _ => Self::Listen { address, source },
        }
    }
}
