//! The index as a bare git repository, and how it is served. Hides gix: no other room names it.
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
//! repo ── heal, refs, commits, trees          what is committed, and opened again after a crash
//!   └── chain ── merge, tip                   which pack has which generations; few packs
//!         └── serve ── log                    what a client is sent, cut out of one long run
//! packs, objects ── pack_file ── entry, delta packs read;   pack: packs and indexes written
//! upload_pack ── pkt, frames                  the words of the protocol;   follow: an upstream's index
//! ```

mod chain;
mod commits;
mod delta;
mod entry;
mod error;
pub mod follow;
pub mod frames;
mod heal;
mod log;
mod merge;
mod objects;
mod pack;
mod pack_file;
mod packs;
pub mod pkt;
mod refs;
mod repo;
mod serve;
mod tip;
mod trees;
pub mod upload_pack;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use gix::ObjectId;

pub use self::{
    error::Error,
    repo::{Commit, FileChange, Head, OpenReport, Options, Repo, TreeFile},
    serve::{PackStream, Selection, Serving, Wishes},
};

/// The id that a blob with these bytes has.
///
/// # Errors
/// [`Error::Damaged`] for bytes that were made to collide with others.
pub fn blob_id(bytes: &[u8]) -> Result<ObjectId, Error> {
    pack::id_of(gix::objs::Kind::Blob, bytes)
}
