//! The admin socket: how a command reaches the server that has the store. Hides the protocol.
//!
//! A unix socket of mode 0660: whoever the file system lets write to it may ask for any job. One
//! connection is one job, and who closes it (or its own half) cancels the job.
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
use crate::mirror::jobs::{Event, JobError, Report, Request};

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

/// What the server says, a line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Hello(Hello),
    Event(Event),
    Report(Box<Report>),
    Error(JobError),
}

/// What a client asks.
#[derive(Debug, Serialize)]
struct Ask<'a> {
    orlop: &'a str,
    request: &'a Request,
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
}
