//! The trees of commits: changed, walked, compared.

use std::{collections::BTreeMap, ops::ControlFlow};

use gix::{
    hash::Kind as HashKind,
    objs::{
        Kind, TreeRefIter,
        tree::{EntryKind, EntryMode},
    },
};

use super::{
    Error, ObjectId,
    pack::{PackWriter, Packed, id_of},
    packs::Packs,
    types::TreeFile,
};

/// An index file lies two folders deep; what is deeper is a damaged or foreign tree.
const DEPTH_MAX: usize = 8;

/// A file of the tree with its new blob; `None`: it goes.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: Box<str>,
    pub(super) blob: Option<ObjectId>,
}

/// Checks that a path may be in a tree, as git's own rules have it.
pub(super) fn check_path(path: &str) -> Result<(), Error> {
    let good = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.eq_ignore_ascii_case(".git")
            && part
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    if path.split('/').all(good) && path.split('/').count() <= DEPTH_MAX {
        return Ok(());
    }
    Err(Error::Path { path: path.into() })
}

/// Puts changes in the order in which folders are gone through; of two changes of one path the
/// last one stays.
pub(super) fn put_in_order(changes: &mut Vec<Change>) {
    // The sort is stable, so the last change of a path is the last of its run.
    changes.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    changes.dedup_by(|later, kept| {
        let same = later.path == kept.path;
        if same {
            kept.blob = later.blob;
        }
        same
    });
}

/// Makes the trees of a new commit; those that are new go into the pack.
pub(super) struct Editor<'a> {
    pub(super) packs: &'a Packs,
    pub(super) pack: &'a mut PackWriter,
    /// Each object of the pack that replaced one at the same path, with the one it replaced.
    pub(super) bases: Vec<(ObjectId, ObjectId)>,
}

impl Editor<'_> {
    /// The tree that `changes` (in order) make of `old`.
    pub(super) fn root(
        &mut self,
        old: Option<ObjectId>,
        changes: &[Change],
    ) -> Result<ObjectId, Error> {
        match self.folder(old, changes, 0)? {
            Some(tree) => Ok(tree),
            None => self.write(&Entries::default(), old),
        }
    }

    /// `None`: nothing is left in the folder, and git has no empty ones.
    fn folder(
        &mut self,
        old: Option<ObjectId>,
        changes: &[Change],
        depth: usize,
    ) -> Result<Option<ObjectId>, Error> {
        if old.is_some() && changes.is_empty() {
            return Ok(old);
        }
        let mut entries = match &old {
            Some(old) => Entries::read(self.packs, old)?,
            None => Entries::default(),
        };
        for changes in changes.chunk_by(|a, b| part(a, depth) == part(b, depth)) {
            self.entry(&mut entries, changes, depth)?;
        }
        if entries.0.is_empty() {
            return Ok(None);
        }
        self.write(&entries, old).map(Some)
    }

    /// Applies the changes of one name in a folder: of a file, or below a folder of that name.
    fn entry(
        &mut self,
        entries: &mut Entries,
        mut changes: &[Change],
        depth: usize,
    ) -> Result<(), Error> {
        let Some(name) = changes.first().and_then(|change| part(change, depth)) else {
            return Ok(());
        };
        // The path that ends here comes before those that go on.
        if let [change, rest @ ..] = changes
            && part(change, depth + 1).is_none()
        {
            self.file(entries, name, change.blob);
            changes = rest;
        }
        if changes.is_empty() {
            return Ok(());
        }
        let old = entries.get(name, EntryKind::Tree);
        match self.folder(old, changes, depth + 1)? {
            Some(tree) => entries.set(name, EntryKind::Tree, tree),
            None => entries.remove(name, EntryKind::Tree),
        }
        Ok(())
    }

    fn file(&mut self, entries: &mut Entries, name: &str, blob: Option<ObjectId>) {
        let Some(blob) = blob else {
            entries.remove(name, EntryKind::Blob);
            return;
        };
        if let Some(old) = entries.get(name, EntryKind::Blob) {
            self.note_base(blob, old);
        }
        entries.set(name, EntryKind::Blob, blob);
    }

    fn write(&mut self, entries: &Entries, old: Option<ObjectId>) -> Result<ObjectId, Error> {
        let data = entries.to_bytes();
        let id = id_of(Kind::Tree, &data)?;
        if !self.packs.contains(&id) {
            let packed = Packed::new(Kind::Tree, id, &data)
                .map_err(Error::io("compress a tree for", self.packs.dir()))?;
            self.pack.add(&packed)?;
        }
        if let Some(old) = old {
            self.note_base(id, old);
        }
        Ok(id)
    }

    fn note_base(&mut self, new: ObjectId, old: ObjectId) {
        if new != old && self.pack.has(&new) {
            self.bases.push((new, old));
        }
    }
}

/// One part of a path, by its depth.
fn part(change: &Change, depth: usize) -> Option<&str> {
    change.path.split('/').nth(depth)
}

/// The entries of one tree. The keys are names, those of folders with a `/` at the end: so they
/// sort as git wants them to.
#[derive(Debug, Default)]
struct Entries(BTreeMap<Vec<u8>, (EntryMode, ObjectId)>);

impl Entries {
    fn read(packs: &Packs, id: &ObjectId) -> Result<Entries, Error> {
        let data = packs.read_as(Kind::Tree, id)?;
        let mut entries = BTreeMap::new();
        for entry in TreeRefIter::from_bytes(&data, HashKind::Sha1) {
            let entry = entry.map_err(|error| no_tree(packs, id, &error.to_string()))?;
            let mut key = entry.filename.to_vec();
            if entry.mode.is_tree() {
                key.push(b'/');
            }
            entries.insert(key, (entry.mode, entry.oid.to_owned()));
        }
        Ok(Entries(entries))
    }

    fn get(&self, name: &str, kind: EntryKind) -> Option<ObjectId> {
        self.0.get(&key(name, kind)).map(|(_, id)| *id)
    }

    /// A name is a file or a folder, never both.
    fn set(&mut self, name: &str, kind: EntryKind, id: ObjectId) {
        self.0.remove(&key(name, other(kind)));
        self.0.insert(key(name, kind), (kind.into(), id));
    }

    fn remove(&mut self, name: &str, kind: EntryKind) {
        self.0.remove(&key(name, kind));
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 40);
        for (key, (mode, id)) in &self.0 {
            bytes.extend_from_slice(mode.as_bytes(&mut [0; 6]));
            bytes.push(b' ');
            bytes.extend_from_slice(key.strip_suffix(b"/").unwrap_or(key));
            bytes.push(0);
            bytes.extend_from_slice(id.as_slice());
        }
        bytes
    }
}

fn key(name: &str, kind: EntryKind) -> Vec<u8> {
    match kind {
        EntryKind::Tree => [name.as_bytes(), b"/"].concat(),
        _ => name.into(),
    }
}

fn other(kind: EntryKind) -> EntryKind {
    match kind {
        EntryKind::Tree => EntryKind::Blob,
        _ => EntryKind::Tree,
    }
}

/// The blob at a path of a tree; `None`: there is none.
pub(super) fn find(packs: &Packs, tree: ObjectId, path: &str) -> Result<Option<ObjectId>, Error> {
    let mut tree = tree;
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        let entries = Entries::read(packs, &tree)?;
        if parts.peek().is_none() {
            return Ok(entries.get(part, EntryKind::Blob));
        }
        match entries.get(part, EntryKind::Tree) {
            Some(below) => tree = below,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// What a tree names: its files' blobs and its folders' trees.
pub(super) fn children(packs: &Packs, tree: ObjectId) -> Result<Vec<ObjectId>, Error> {
    let entries = Entries::read(packs, &tree)?;
    Ok(entries.0.into_values().map(|(_, id)| id).collect())
}

/// Every file of a tree, in the tree's order.
pub(super) fn walk(
    packs: &Packs,
    tree: ObjectId,
    visit: &mut dyn FnMut(TreeFile) -> ControlFlow<()>,
) -> Result<(), Error> {
    walk_with(packs, tree, None, visit)
}

/// The same, but folders that are damaged or missing are passed over. Returns how many.
pub(super) fn walk_readable(
    packs: &Packs,
    tree: ObjectId,
    visit: &mut dyn FnMut(TreeFile) -> ControlFlow<()>,
) -> Result<u64, Error> {
    let mut skipped = 0;
    walk_with(packs, tree, Some(&mut skipped), visit)?;
    Ok(skipped)
}

fn walk_with(
    packs: &Packs,
    tree: ObjectId,
    skipped: Option<&mut u64>,
    visit: &mut dyn FnMut(TreeFile) -> ControlFlow<()>,
) -> Result<(), Error> {
    let place = Place {
        tree,
        prefix: "",
        depth: 0,
    };
    let walked = walk_below(packs, place, skipped, &mut |file| match visit(file) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Stop::Asked),
    });
    match walked {
        Ok(()) | Err(Stop::Asked) => Ok(()),
        Err(Stop::Fault(error)) => Err(error),
    }
}

/// Where a walk is.
#[derive(Clone, Copy)]
struct Place<'a> {
    tree: ObjectId,
    prefix: &'a str,
    depth: usize,
}

/// Why a walk ends before the end.
enum Stop {
    Asked,
    Fault(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Fault(error)
    }
}

fn walk_below(
    packs: &Packs,
    place: Place<'_>,
    mut skipped: Option<&mut u64>,
    visit: &mut dyn FnMut(TreeFile) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let Place {
        tree,
        prefix,
        depth,
    } = place;
    check_depth(packs, &tree, depth)?;
    let entries = match (Entries::read(packs, &tree), &mut skipped) {
        (Err(error), Some(skipped)) if error.is_unreadable() => {
            **skipped += 1;
            return Ok(());
        }
        (read, _) => read?,
    };
    for (key, (mode, id)) in entries.0 {
        let path = join(packs, &tree, prefix, &key)?;
        if mode.is_tree() {
            let below = Place {
                tree: id,
                prefix: &path,
                depth: depth + 1,
            };
            walk_below(packs, below, skipped.as_deref_mut(), visit)?;
        } else {
            visit(TreeFile { path, id })?;
        }
    }
    Ok(())
}

fn check_depth(packs: &Packs, tree: &ObjectId, depth: usize) -> Result<(), Error> {
    if depth < DEPTH_MAX {
        return Ok(());
    }
    Err(no_tree(packs, tree, "it lies too deep"))
}

/// The path below `prefix` (empty, or with a `/` at the end) of an entry by its key.
fn join(packs: &Packs, tree: &ObjectId, prefix: &str, key: &[u8]) -> Result<String, Error> {
    let name =
        std::str::from_utf8(key).map_err(|error| no_tree(packs, tree, &error.to_string()))?;
    Ok([prefix, name].concat())
}

fn no_tree(packs: &Packs, id: &ObjectId, what: &str) -> Error {
    Error::damaged(packs.dir(), format!("tree `{id}`: {what}"))
}
