//! The admin socket: how a command reaches the server that has the store. Hides the protocol.
//!
//! A unix socket of mode 0660: whoever the file system lets write to it may ask for any job. One
//! connection is one job, and who closes it (or its own half) cancels the job. A reload of the
//! configuration is asked for like a job, and answered with `{"reloaded":{…}}`.
//!
//! ```text
//! client                                        server
//!    │ ◀──────── line  {"hello":{…}}  ───────────  │  at once: protocol, version, data folder
//!    │ ─────────  head, with the files ─────────▶  │  24 bytes; descriptors ride on them
//!    │ ─────────  body  {"orlop":…,"request":…} ▶  │  JSON, as many bytes as the head says
//!    │ ◀──────── line  {"event":{…}}  ───────────  │  any number
//!    │ ◀──────── line  {"report":{…}} ───────────  │  or {"error":{…}}: the last one
//!
//! head, integers little-endian:
//!   0   8   "orlopadm"
//!   8   4   protocol, 1
//!   12  4   how many files (SCM_RIGHTS), at most 250
//!   16  8   length of the body, at most 64 MiB
//! ```
//!
//! The first line of the server stays readable for all versions to come. Beyond it both sides must
//! be of one version of orlop: an older server would silently pass over a field that it does not
//! know, and a dry run would be none.

mod ancillary;
mod client;
mod error;
mod place;
mod server;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{Client, Word},
    error::Error,
    server::Server,
};
use crate::jobs::{Event, JobError, ReportJson};

/// The version of the framing.
pub const PROTOCOL: u32 = 1;

const MAGIC: [u8; 8] = *b"orlopadm";

const HEAD_LEN: usize = 24;

/// How many files go with a request; the kernel takes 253.
const MOST_FILES: usize = 250;

/// The longest body: lockfiles travel in it.
const MOST_BODY_BYTES: u64 = 64 << 20;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the server says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
    orlop: String,
    /// The folder of the store that it has.
    #[serde(default)]
    data: String,
    /// How it is reached otherwise.
    #[serde(default)]
    http: Reached,
}

/// How clients of cargo reach a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// What it listens on.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
    /// The base that is set for it, without a slash at its end.
    #[serde(default)]
    pub base: Option<String>,
}

impl Reached {
    /// The base by which this machine reaches the server; `None`: it does not listen.
    pub fn local_base(&self) -> Option<String> {
        let address = self.addresses.first();
        self.base
            .clone()
            .or_else(|| address.map(|address| local_base(*address)))
    }
}

/// The base by which this machine reaches a server that listens on `address`.
pub fn local_base(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    }
}

/// What a new configuration changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read; `None`: there is none.
    pub file: Option<String>,
    /// What holds from now on.
    pub applied: Vec<Changed>,
    /// What holds from the next start of the server on.
    pub needs_restart: Vec<Changed>,
    /// What is odd and yet no mistake for certain.
    pub warnings: Vec<String>,
}

/// A setting that is another now, as it may be shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Which.
    pub key: String,
    /// What it was; null: not set.
    pub from: serde_json::Value,
    /// What it is; the same where only its secret part changed.
    pub to: serde_json::Value,
}

/// What a server is asked beside its jobs.
pub trait Daemon: Send + Sync {
    /// How clients of cargo reach it.
    fn reached(&self) -> Reached;

    /// Reads the configuration again and takes it on, or refuses it as a whole. Blocks.
    ///
    /// # Errors
    /// All that is wrong with it, of [`Fault::Usage`](crate::jobs::Fault::Usage).
    fn reload(&self, caller: &str) -> Result<Reloaded, JobError>;
}

/// What is asked of the server itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
enum Order {
    Reload,
}

/// What the server says, a line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Hello(Hello),
    Event(Event),
    Report(Box<ReportJson>),
    Reloaded(Reloaded),
    Error(JobError),
}

/// What a client asks.
#[derive(Debug, Serialize)]
struct Ask<'a, T> {
    orlop: &'a str,
    request: &'a T,
}

/// The head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    protocol: u32,
    files: u32,
    body_len: u64,
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD_LEN] {
        let mut bytes = Vec::with_capacity(HEAD_LEN);
        bytes.extend(MAGIC);
        bytes.extend(self.protocol.to_le_bytes());
        bytes.extend(self.files.to_le_bytes());
        bytes.extend(self.body_len.to_le_bytes());
        // The lengths above add up to it.
        bytes.try_into().unwrap_or([0; HEAD_LEN])
    }

    /// `None`: this is no head at all.
    fn read(bytes: &[u8; HEAD_LEN]) -> Option<Head> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (protocol, rest) = rest.split_first_chunk::<4>()?;
        let (files, rest) = rest.split_first_chunk::<4>()?;
        let (body_len, _) = rest.split_first_chunk::<8>()?;
        Some(Head {
            protocol: u32::from_le_bytes(*protocol),
            files: u32::from_le_bytes(*files),
            body_len: u64::from_le_bytes(*body_len),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_nothing_else_is_one() {
        let head = Head {
            protocol: 1,
            files: 3,
            body_len: 1 << 33,
        };
        let bytes = head.to_bytes();
        assert_eq!(Head::read(&bytes), Some(head));
        assert_eq!(
            bytes, *b"orlopadm\x01\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0",
            "the bytes are what older and newer builds read"
        );
        assert_eq!(Head::read(b"GET / HTTP/1.1\r\nHost: x\r"), None);
    }

    #[test]
    fn an_address_becomes_a_url_that_can_be_reached() {
        let check = |address: &str, base: &str| {
            assert_eq!(local_base(address.parse().unwrap()), base);
        };
        check("127.0.0.1:8080", "http://127.0.0.1:8080");
        check("[::1]:8080", "http://[::1]:8080");
        check("[::]:8080", "http://localhost:8080");
        check("0.0.0.0:80", "http://localhost:80");
    }
}
