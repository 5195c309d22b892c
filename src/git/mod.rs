//! The index as a bare git repository, and how it is served. Hides gix: no other module names it.
//!
//! ```text
//! DATA/git/index/             an ordinary bare repository: `git clone file://…`, `git fsck`, `git log`
//!   HEAD                      always refs/heads/master
//!   refs/heads/master         the newest generation's commit
//!   objects/pack/pack-….pack  a generation each, whole objects; or several that were merged, with
//!                             deltas whose bases are in the same pack
//!   orlop/                    what clones and fetches are cut out of (see `log`), made anew from the
//!                             packs when it is missing or damaged; git never looks at it
//! DATA/git/index.broken-<n>/  a repository that was damaged; the newest two stay
//! DATA/git/upstream/          what a followed upstream sent, and `upstream.published` (see `follow`)
//! ```
//!
//! ```text
//! repo                                        what is committed and read
//!   └── open ── refs                          what lies on the disk: opened, repaired, set aside
//!         ├── trees, commits ── packs         the objects of a commit
//!         └── chain ── merge                  which pack has which generations; few packs
//!               └── serve ── tip ── log       what a client is sent, cut out of one long run
//! pack                                        packs and indexes written
//!   └── pack_file ── entry, delta             packs read
//! upload_pack ── frames ── pkt                the protocol, over what `serve` has
//! follow                                      an upstream's index; a repository of its own
//! types, error                                imported by all of them
//! ```

mod chain;
mod commits;
mod delta;
mod entry;
mod error;
pub mod follow;
pub mod frames;
mod log;
mod merge;
mod objects;
mod open;
mod pack;
mod pack_file;
mod packs;
pub mod pkt;
mod refs;
mod repo;
mod serve;
mod tip;
mod trees;
mod types;
pub mod upload_pack;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use gix::ObjectId;

pub use self::{
    error::Error,
    open::OpenReport,
    repo::{Options, Repo},
    serve::{PackStream, Selection, Serving, Wishes},
    types::{Commit, FileChange, Head, TreeFile},
};

/// The id that a blob with these bytes has.
///
/// # Errors
/// [`Error::Damaged`] for bytes that were made to collide with others.
pub fn blob_id(bytes: &[u8]) -> Result<ObjectId, Error> {
    pack::id_of(gix::objs::Kind::Blob, bytes)
}
