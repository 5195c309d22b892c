//! What the files of a followed tree mean to an index.

use crate::{
    git::{self, ObjectId, follow as git_follow},
    registry::{CrateName, IndexFile, RegistryConfig, layout::parse_index_path},
};

/// How many unusable files the log names.
const MAX_LOGGED_FILES: usize = 5;

/// What a `config.json` may have at most. It has some hundred bytes.
const MAX_CONFIG_BYTES: u64 = 64 << 10;

/// An index file that differs in two trees.
#[derive(Debug)]
pub(super) enum IndexDifference {
    /// It is new or has other bytes.
    Changed { name: CrateName, file: IndexFile },
    /// It was removed.
    Gone { name: CrateName },
}

/// The files of a tree that are no index files, however they got into it. They are skipped.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    pub(super) count: u64,
    /// The first of them, each with the reason.
    pub(super) first: Vec<String>,
}

impl Unusable {
    fn note(&mut self, path: &str, why: &dyn std::fmt::Display) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < MAX_LOGGED_FILES {
            self.first.push(format!("{path:?}: {why}"));
        }
    }

    /// What a difference means. `None`: nothing to an index.
    pub(super) fn read(&mut self, followed: git_follow::Followed<'_>) -> Option<IndexDifference> {
        let git_follow::Followed { path, state } = followed;
        let name = match parse_index_path(path) {
            Ok(name) => name,
            Err(why) => {
                if !matches!(state, git_follow::FileState::Gone) {
                    self.note(path, &why);
                }
                return None;
            }
        };
        match state {
            git_follow::FileState::Changed(bytes) => match IndexFile::parse(&name, bytes) {
                Ok(file) => return Some(IndexDifference::Changed { name, file }),
                Err(why) => self.note(path, &why),
            },
            git_follow::FileState::Unusable(why) => self.note(path, &why),
            git_follow::FileState::Gone => return Some(IndexDifference::Gone { name }),
        }
        None
    }
}

/// Why a tree has no configuration of the registry.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error(transparent)]
    Git(#[from] git::Error),
    #[error("the upstream's tree has no `config.json`")]
    Missing,
    #[error("the upstream's tree has no usable `config.json`")]
    Malformed(#[from] serde_json::Error),
}

/// What the registry says of itself in the tree of a commit.
pub(super) fn config(
    follower: &git_follow::Follower,
    commit: ObjectId,
) -> Result<RegistryConfig, ConfigError> {
    let bytes = follower.file(commit, super::CONFIG, MAX_CONFIG_BYTES)?;
    let bytes = bytes.ok_or(ConfigError::Missing)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_index_file_is_skipped_and_counted() {
        let line = r#"{"name":"serde","vers":"1.0.0","deps":[],"cksum":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","features":{},"yanked":false}"#;
        let mut unusable = Unusable::default();
        let mut read = |path, state| {
            let followed = git_follow::Followed { path, state };
            match unusable.read(followed)? {
                IndexDifference::Changed { name, file } => {
                    Some(format!("{name} {}", file.rows().len()))
                }
                IndexDifference::Gone { name } => Some(format!("{name} gone")),
            }
        };
        let changed = |text: &str| git_follow::FileState::Changed(text.to_owned().into());
        let file = changed(&format!("{line}\n"));
        assert_eq!(read("se/rd/serde", file).as_deref(), Some("serde 1"));
        let gone = read("se/rd/serde", git_follow::FileState::Gone);
        assert_eq!(gone.as_deref(), Some("serde gone"));
        assert_eq!(read("se/rd/other", git_follow::FileState::Gone), None);
        for path in ["se/rd/serge", "se/rd/other", "se/rd/s.e", "1/ä", "2/ab/in"] {
            assert_eq!(read(path, changed("<html>")), None);
        }
        let why = git_follow::FileState::Unusable("not a regular file");
        assert_eq!(read("se/rd/serlink", why), None);
        assert_eq!(unusable.count, 6, "{unusable:?}");
        assert_eq!(unusable.first.len(), MAX_LOGGED_FILES);
    }
}
