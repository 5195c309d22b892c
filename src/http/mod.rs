//! The public HTTP surface. Only this module and [`crate::listen`] name actix.
//!
//! - `server`: the routes over the listener; `options`: what may be set
//! - `front`: every request comes through it; it answers from the response cache, and counts
//! - `routes`: all paths; each endpoint has its file: `sparse`, `download`, `git`, `api`, `page`,
//!   `operations`
//! - `view`: finds the view that a path is in. The index, downloads, the search and the git index are
//!   served once for all views, the root index among them
//! - `state`: what every handler has at hand: the response cache (`cache`), where clients believe
//!   that they reached us (`base`), the bounds of work for git clients (`git_limits`), what was
//!   gathered for the pages a moment ago (`gathered`, by single flight over `reads`)
//! - `reply`: where an error becomes a status; `range`: ranges of bytes

mod api;
mod base;
mod cache;
mod download;
mod front;
mod gathered;
mod git;
mod git_limits;
mod operations;
mod options;
mod page;
mod range;
mod reads;
mod reply;
mod routes;
mod server;
mod sparse;
mod state;
mod view;

pub use self::{
    options::Options,
    routes::FIRST_SEGMENTS,
    server::{Live, Server, Stop},
};

/// Keeps the server library quiet in the log, in the words of a tracing filter. It reports its
/// own starting and stopping as news, and each malformed request of a stranger as an error. A
/// setting that names these targets still wins.
pub const QUIET_TARGETS: &str = "actix_server=warn,actix_http=off";
