//! What a repository has: commits, and the files of their trees.

use std::time::SystemTime;

use bytes::Bytes;

use super::ObjectId;

/// The newest commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub id: ObjectId,
    /// Its generation.
    pub generation: u64,
}

/// The facts of a commit but its tree: with the parent and the tree they determine its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The number of the generation. The first commit of a repository may have any, each later
    /// one has its parent's plus one.
    pub generation: u64,
    /// No change of an index file after this number is in it.
    pub change: u64,
    /// When it was made; whole seconds count.
    pub time: SystemTime,
    /// What changed, for people. The first line is made by `commit`: `generation N: …`.
    pub message: String,
}

/// One file of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Its path: `config.json`, or what `CrateName::index_path` gives.
    pub path: String,
    /// Its new bytes; `None`: it goes.
    pub bytes: Option<Bytes>,
}

/// One file of a commit's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Its path.
    pub path: String,
    /// Its blob.
    pub id: ObjectId,
}
