//! What a service manager hands to this process: where it is told how things go, how often it wants
//! to hear, and sockets that listen already.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use listenfd::ListenFd;
use rustix::net::sockopt;

/// The number of the first descriptor that is handed over.
const FIRST: usize = 3;

/// What the environment says of a service manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceManager {
    /// `NOTIFY_SOCKET`: the path of the manager's socket. `None`: there is no manager to report to.
    /// An abstract socket (`@NAME`) is not supported: the crate `sd-notify` connects to paths only.
    pub notify: Option<OsString>,
    /// How long it waits for a sign of life. `None`: for ever.
    pub watchdog: Option<Duration>,
}

impl ServiceManager {
    /// That of this process.
    pub fn of_process() -> ServiceManager {
        ServiceManager::of(std::env::vars_os(), std::process::id())
    }

    /// What `variables` say to the process `pid`.
    fn of(variables: impl Iterator<Item = (OsString, OsString)>, pid: u32) -> ServiceManager {
        let mut manager = ServiceManager::default();
        let mut is_ours = true;
        for (name, value) in variables {
            let number = || value.to_str()?.parse::<u64>().ok();
            match name.to_str() {
                Some("NOTIFY_SOCKET") if !value.is_empty() => manager.notify = Some(value),
                Some("WATCHDOG_USEC") => {
                    manager.watchdog = number()
                        .filter(|&micros| micros > 0)
                        .map(Duration::from_micros);
                }
                // A child has the variables of its parent.
                Some("WATCHDOG_PID") => is_ours = number() == Some(u64::from(pid)),
                _ => {}
            }
        }
        manager.watchdog = manager.watchdog.filter(|_| is_ours);
        manager
    }
}

/// Why a descriptor that was handed over is no use.
#[derive(Debug, thiserror::Error)]
pub enum NotListening {
    /// It is no socket of TCP.
    #[error("descriptor {number}, which the service manager handed over, is no TCP socket")]
    Kind {
        /// Its number.
        number: usize,
        /// What it is not.
        #[source]
        source: io::Error,
    },
    /// It does not listen: a connection, say.
    #[error("descriptor {number}, which the service manager handed over, does not listen")]
    Connected {
        /// Its number.
        number: usize,
    },
}

impl NotListening {
    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            NotListening::Kind { .. } => {
                "give the socket unit only `ListenStream=` with a port, such as \
                 `ListenStream=[::]:8080`; a path makes a unix socket, and `ListenDatagram=` one of UDP"
            }
            NotListening::Connected { .. } => "set `Accept=no` in the socket unit",
        }
    }
}

/// The sockets that listen already; empty: none was handed over. Only the first call gets them.
///
/// # Errors
/// The first that is no use: one that is left out would be a service that does not answer.
pub fn inherited_sockets() -> Result<Vec<TcpListener>, NotListening> {
    let mut handed = ListenFd::from_env();
    (0..handed.len())
        .filter_map(|index| taken(&mut handed, index).transpose())
        .collect()
}

fn taken(handed: &mut ListenFd, index: usize) -> Result<Option<TcpListener>, NotListening> {
    let number = FIRST + index;
    let kind = |source| NotListening::Kind { number, source };
    let Some(socket) = handed.take_tcp_listener(index).map_err(kind)? else {
        return Ok(None);
    };
    let listens = sockopt::socket_acceptconn(&socket).map_err(|error| kind(error.into()))?;
    let address: io::Result<SocketAddr> = socket.local_addr();
    match (listens, address) {
        (true, Ok(_)) => Ok(Some(socket)),
        (true, Err(error)) => Err(kind(error)),
        (false, _) => Err(NotListening::Connected { number }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> ServiceManager {
        let pairs = variables.iter();
        let pairs = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        ServiceManager::of(pairs, 7)
    }

    #[test]
    fn a_watchdog_counts_only_for_the_process_that_it_watches() {
        let watched = |variables| told(variables).watchdog;
        let second = Some(Duration::from_secs(1));
        assert_eq!(watched(&[("WATCHDOG_USEC", "1000000")]), second);
        let ours = [("WATCHDOG_PID", "7"), ("WATCHDOG_USEC", "1000000")];
        assert_eq!(watched(&ours), second);
        let parents = [("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "8")];
        assert_eq!(watched(&parents), None);
        assert_eq!(watched(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(watched(&[("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(told(&[("NOTIFY_SOCKET", "")]), ServiceManager::default());
    }
}
