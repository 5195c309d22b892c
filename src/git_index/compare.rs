//! Compares what a view shows with the tree of a commit.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use bytes::Bytes;

use super::{Fault, message::Summary};
use crate::{
    git::{self, Head, ObjectId, Repo, blob_id},
    mirror::views::shown,
    policy::View,
    registry::{CrateName, layout::parse_index_path},
    store::Store,
};

/// How many names are looked up in the tree one by one. More are worth reading the whole tree once:
/// a lookup reads a folder with up to thousands of names.
const MAX_LOOKUPS: usize = 512;

/// A comparison under way, and what it found.
pub(super) struct Comparison<'a> {
    pub(super) store: &'a Store,
    pub(super) view: &'a View,
    pub(super) repo: &'a Repo,
    /// `None`: there is no commit yet.
    pub(super) head: Option<Head>,
    pub(super) stop: &'a AtomicBool,
    /// The time that the rules of the view go by.
    pub(super) now: SystemTime,
    /// When the view may first show other lines of these names though nothing changed.
    pub(super) valid_until: Option<SystemTime>,
    /// The names whose files differ.
    pub(super) changed: Vec<CrateName>,
    pub(super) summary: Summary,
    /// Files that the tree has and the store lacks. The root index loses no entry, so it has none to
    /// remove; a view does not show them.
    pub(super) lacking: Vec<(CrateName, ObjectId)>,
}

impl Comparison<'_> {
    /// Compares these names.
    pub(super) fn names(&mut self, names: &[CrateName]) -> Result<(), Fault> {
        let whole = (names.len() > MAX_LOOKUPS)
            .then(|| self.tree())
            .transpose()?;
        for name in names {
            let older = match (&whole, self.head) {
                (Some(blobs), _) => blobs.get(name.key()).copied(),
                (None, Some(head)) => self.repo.file_id(head.id, &name.index_path())?,
                (None, None) => None,
            };
            self.name(name, older)?;
        }
        Ok(())
    }

    /// Compares all names. Returns how many the tree has.
    pub(super) fn all(&mut self) -> Result<u64, Fault> {
        let mut blobs = self.tree()?;
        let count = blobs.len() as u64;
        for name in self.candidates()? {
            let older = blobs.remove(name.key());
            self.name(&name, older)?;
        }
        // Names that have no file any more, or whose records do not tell yet that they have one.
        let mut rest: Vec<_> = blobs.into_iter().collect();
        rest.sort_unstable();
        for (key, older) in rest {
            if let Ok(name) = CrateName::parse(&key) {
                self.name(&name, Some(older))?;
            }
        }
        Ok(count)
    }

    fn name(&mut self, name: &CrateName, older: Option<ObjectId>) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::Stopped);
        }
        let shown = shown(self.store, self.view, name, self.now)?;
        self.valid_until = self.valid_until.into_iter().chain(shown.valid_until).min();
        let newer = shown.bytes;
        let id = newer.as_ref().map(|bytes| blob_id(bytes)).transpose()?;
        match (older, id) {
            (Some(older), None) if self.view.is_unfiltered() => {
                self.lacking.push((name.clone(), older));
                Ok(())
            }
            _ if older == id => Ok(()),
            _ => self.differs(name, older, newer.as_ref()),
        }
    }

    fn differs(
        &mut self,
        name: &CrateName,
        older: Option<ObjectId>,
        newer: Option<&Bytes>,
    ) -> Result<(), Fault> {
        self.summary.add(older.is_some(), newer.is_some());
        if self.summary.has_room() {
            // A damaged file is replaced: that it cannot be described is no reason to fail.
            let older = older.map(|older| self.repo.blob(older).map(Some));
            let older = older.map(|older| older.or_else(git::Error::unless_damage));
            self.summary
                .describe(name, older.transpose()?.flatten().as_ref(), newer);
        }
        self.changed.push(name.clone());
        Ok(())
    }

    /// The blobs of the tree by lower-case name: of 250,000 names some 20 MB, for as long as they
    /// are compared.
    fn tree(&self) -> Result<HashMap<Box<str>, ObjectId>, Fault> {
        let mut blobs = HashMap::new();
        let Some(head) = self.head else {
            return Ok(blobs);
        };
        self.repo.files(head.id, &mut |file| {
            if let Ok(name) = parse_index_path(&file.path) {
                blobs.insert(name.key().into(), file.id);
            }
            ControlFlow::Continue(())
        })?;
        Ok(blobs)
    }

    /// The names that the view may show, by what their records say, in order.
    fn candidates(&self) -> Result<Vec<CrateName>, Fault> {
        let mut names = Vec::new();
        if self.view.is_cached_only() {
            self.store.visit_releases(|entry, releases| {
                if releases.iter().any(|release| release.held) {
                    names.push(entry.name.clone());
                }
                ControlFlow::Continue(())
            })?;
        } else {
            self.store.names(|entry| {
                if entry.has_snapshot {
                    names.push(entry.name);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(names)
    }
}
