//! The kinds of jobs, which decide what may run beside what.

use serde::{Deserialize, Serialize};

use crate::metrics::Job as Label;

/// A kind of job. Two of one kind never run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Fetching ahead.
    Sync,
    /// Asking for index entries again.
    Refresh,
    /// Pins, made and taken back.
    Pin,
    /// Reports that only read, of which any number may run.
    Read,
    /// Hashing what is held.
    Verify,
    /// Removing.
    Gc,
    /// Writing a bundle.
    Export,
    /// Taking in a bundle or files of a lab.
    Import,
    /// Copying the store.
    Backup,
}

impl JobKind {
    /// Every kind.
    pub const ALL: &'static [JobKind] = &[
        JobKind::Sync,
        JobKind::Refresh,
        JobKind::Pin,
        JobKind::Read,
        JobKind::Verify,
        JobKind::Gc,
        JobKind::Export,
        JobKind::Import,
        JobKind::Backup,
    ];

    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        self.label().as_str()
    }

    /// The value of its label.
    pub fn label(self) -> Label {
        match self {
            JobKind::Sync => Label::Sync,
            JobKind::Refresh => Label::Refresh,
            JobKind::Pin => Label::Pin,
            JobKind::Read => Label::Read,
            JobKind::Verify => Label::Verify,
            JobKind::Gc => Label::Gc,
            JobKind::Export => Label::Export,
            JobKind::Import => Label::Import,
            JobKind::Backup => Label::Backup,
        }
    }
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
