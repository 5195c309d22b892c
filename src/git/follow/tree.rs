//! The differences of two trees, found by walking both at once: what has the same id is not opened.

use std::{collections::BTreeMap, ops::ControlFlow};

use gix::{ObjectId, bstr::BString, objs::tree::EntryMode};

use super::{Error, repository};

/// How deep an index goes: `ab/cd/abcd`.
pub(super) const INDEX_DEPTH: usize = 3;

/// What a tree may have at most. The largest of a real index, with thousands of folders, has some
/// hundred kilobytes.
const MOST_TREE_BYTES: u64 = 64 << 20;

/// One entry of a tree.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: BString,
    pub(super) kind: EntryMode,
    pub(super) id: ObjectId,
}

/// A path at which two trees differ, and what is there that is no tree.
#[derive(Debug)]
pub(super) struct Difference<'a> {
    pub(super) path: &'a str,
    pub(super) old: Option<(EntryMode, ObjectId)>,
    pub(super) new: Option<(EntryMode, ObjectId)>,
}

/// What is called for each difference.
pub(super) type Look<'a> = dyn FnMut(Difference<'_>) -> Result<ControlFlow<()>, Error> + 'a;

/// A tree and the repository that has it.
type Side<'a> = (&'a gix::Repository, Option<ObjectId>);

/// The entries of a tree, in its order.
pub(super) fn entries(repo: &gix::Repository, tree: ObjectId) -> Result<Vec<Entry>, Error> {
    let header = repo.find_header(tree).map_err(repository)?;
    if !header.kind().is_tree() || header.size() > MOST_TREE_BYTES {
        return Err(repository(format!(
            "object {tree} is no tree of a usable size"
        )));
    }
    let object = repo.find_object(tree).map_err(repository)?;
    gix::objs::TreeRefIter::from_bytes(&object.data, repo.object_hash())
        .map(|entry| {
            let entry = entry.map_err(repository)?;
            Ok(Entry {
                name: entry.filename.to_owned(),
                kind: entry.mode,
                id: entry.oid.to_owned(),
            })
        })
        .collect()
}

/// Calls `look` for every file in which the tree `new` differs from the tree `old`, in the order
/// of `new` within a folder, those that went after the others. Goes `depth` levels deep.
pub(super) fn differences(
    old: Side<'_>,
    new: (&gix::Repository, ObjectId),
    depth: usize,
    look: &mut Look<'_>,
) -> Result<(), Error> {
    let mut walk = Walk {
        old: old.0,
        new: new.0,
        path: String::new(),
        look,
    };
    walk.folder(old.1, Some(new.1), depth).map(drop)
}

struct Walk<'a, 'b> {
    old: &'a gix::Repository,
    new: &'a gix::Repository,
    path: String,
    look: &'a mut Look<'b>,
}

impl Walk<'_, '_> {
    fn folder(
        &mut self,
        old: Option<ObjectId>,
        new: Option<ObjectId>,
        depth: usize,
    ) -> Result<ControlFlow<()>, Error> {
        if old == new || depth == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let mut left: BTreeMap<BString, Entry> = match old {
            Some(old) => entries(self.old, old)?
                .into_iter()
                .map(|entry| (entry.name.clone(), entry))
                .collect(),
            None => BTreeMap::new(),
        };
        let new = match new {
            Some(new) => entries(self.new, new)?,
            None => Vec::new(),
        };
        for entry in new {
            let before = left.remove(&entry.name);
            if self.entry(before.as_ref(), Some(&entry), depth)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for before in left.into_values() {
            if self.entry(Some(&before), None, depth)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn entry(
        &mut self,
        old: Option<&Entry>,
        new: Option<&Entry>,
        depth: usize,
    ) -> Result<ControlFlow<()>, Error> {
        let fact = |entry: Option<&Entry>| entry.map(|entry| (entry.kind, entry.id));
        let Some(name) = new.or(old).map(|entry| &entry.name) else {
            return Ok(ControlFlow::Continue(()));
        };
        if fact(old) == fact(new) {
            return Ok(ControlFlow::Continue(()));
        }
        let length = self.path.len();
        if length > 0 {
            self.path.push('/');
        }
        // A name that is no text is no crate's: the marks that stand in for its bytes say so.
        self.path.push_str(&name.to_string());
        let flow = self.both(fact(old), fact(new), depth);
        self.path.truncate(length);
        flow
    }

    /// Folders are gone into, and all else is looked at; what was the one may now be the other.
    fn both(
        &mut self,
        old: Option<(EntryMode, ObjectId)>,
        new: Option<(EntryMode, ObjectId)>,
        depth: usize,
    ) -> Result<ControlFlow<()>, Error> {
        let folder = |fact: Option<(EntryMode, ObjectId)>| {
            fact.and_then(|(kind, id)| kind.is_tree().then_some(id))
        };
        let other = |fact: Option<(EntryMode, ObjectId)>| fact.filter(|(kind, _)| !kind.is_tree());
        if (other(old).is_some() || other(new).is_some())
            && self.look_at(other(old), other(new))?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        self.folder(folder(old), folder(new), depth.saturating_sub(1))
    }

    fn look_at(
        &mut self,
        old: Option<(EntryMode, ObjectId)>,
        new: Option<(EntryMode, ObjectId)>,
    ) -> Result<ControlFlow<()>, Error> {
        (self.look)(Difference {
            path: &self.path,
            old,
            new,
        })
    }
}
