//! The listener: sockets, workers, limits, and one port for HTTP/1.1, HTTP/2 and the h2c upgrade.
//! It knows nothing of orlop.
//!
//! - `options`, `error`: what may be set, and why there is no listener
//! - `sockets`: opens sockets, or takes those that were handed over
//! - `acceptor`: makes a stream of bytes out of an accepted socket; the only file after `sockets`
//!   that knows what a connection runs over
//! - `upgrade`: what the first bytes of a connection ask for (pure)
//! - `first`: reads them, answers `101` or a refusal
//! - `guard`: the memory of a connection and its time limits
//! - `http1`: actix's dispatcher under that guard
//! - `http2`: our dispatcher over the h2 library, for prior knowledge and the upgrade alike
//! - `drain`: how connections learn that the server is to end
//! - `heartbeat`: whether each worker still gets its turn
//! - `stats`: what the listener counts
//! - `service`: what answers requests
//! - `worker`: takes a connection through all of this
//! - `server`: runs the workers, and stops them
//!
//! ```text
//! socket (actix-server) ─▶ cap ─▶ acceptor ─▶ first ─┬─▶ http1 ─┬─▶ actix service of the worker
//!                            └▶ 503                  └─▶ http2 ─┘
//! ```
//!
//! A client that offers the upgrade again on a connection that stayed on HTTP/1.1 (its first
//! request had a body, say) gets its answer, and actix then closes the connection.

mod acceptor;
mod drain;
mod error;
mod first;
mod guard;
mod heartbeat;
mod http1;
mod http2;
mod options;
mod server;
mod service;
mod sockets;
mod stats;
#[cfg(test)]
mod tests;
mod upgrade;
mod worker;

pub use acceptor::{Acceptor, Connection, Plain, Protocol};
pub use error::Error;
pub use heartbeat::Pulse;
pub use options::Options;
pub use server::{Bound, Handle, adopt, bind};
pub use service::{RequestService, RequestServiceFactory};
pub use stats::Stats;
