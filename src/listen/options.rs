//! What may be set about the listener.

use std::{net::SocketAddr, time::Duration};

use super::guard::Limits;

/// The longest time limit: a longer one is none, and a clock can be counted on by so much.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What may be set about the listener. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where to listen. A port of 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// Threads that serve, 1 to 512.
    pub workers: usize,
    /// For the first request head of a connection, and the opening of HTTP/2.
    pub header_timeout: Duration,
    /// For a connection with nothing under way, and for one whose client takes no byte.
    pub idle_timeout: Duration,
    /// For one request with its whole answer.
    pub request_timeout: Duration,
    /// Connections at one time; others are refused with status 503.
    pub max_connections: usize,
    /// Streams at one time on one connection of HTTP/2.
    pub max_streams: u32,
    /// How long a stop waits for the answers under way.
    pub shutdown_grace: Duration,
    /// How often each worker shows that it is alive. `None`: it does not.
    pub heartbeat: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            request_timeout: Duration::from_secs(15 * 60),
            max_connections: 4096,
            max_streams: 256,
            shutdown_grace: Duration::from_secs(20),
            heartbeat: None,
        }
    }
}

impl Options {
    pub(super) fn grace(&self) -> Duration {
        self.shutdown_grace.min(MAX_TIME_LIMIT)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            header: self.header_timeout.min(MAX_TIME_LIMIT),
            idle: self.idle_timeout.min(MAX_TIME_LIMIT),
            request: self.request_timeout.min(MAX_TIME_LIMIT),
        }
    }
}
