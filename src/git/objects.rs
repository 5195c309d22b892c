//! Objects by their id out of the packs, and which objects the trees of commits hold.

#![warn(clippy::arithmetic_side_effects)]

use std::{path::Path, sync::Arc};

use flate2::Decompress;

use super::{Error, ObjectId, entry::Kind, pack_file::PackFile};

/// The packs of the repository, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Packs(pub(super) Vec<Arc<PackFile>>);

/// What a tree names.
struct Named {
    name: Vec<u8>,
    is_tree: bool,
    id: ObjectId,
}

impl Packs {
    /// The pack that has an object, and where; the newest such pack.
    pub(super) fn find(&self, id: &ObjectId) -> Option<(&Arc<PackFile>, u64)> {
        self.0
            .iter()
            .rev()
            .find_map(|pack| pack.find(id).map(|place| (pack, place)))
    }

    /// An object.
    pub(super) fn object(
        &self,
        zlib: &mut Decompress,
        id: &ObjectId,
    ) -> Result<(Kind, Vec<u8>), Error> {
        let (pack, place) = self
            .find(id)
            .ok_or_else(|| Error::damaged(Path::new("objects"), format!("{id} is missing")))?;
        pack.object(zlib, id, place)
    }

    /// The tree of a commit and its first parent.
    pub(super) fn commit(
        &self,
        zlib: &mut Decompress,
        id: &ObjectId,
    ) -> Result<(ObjectId, Option<ObjectId>), Error> {
        let bad = || Error::damaged(Path::new("objects"), format!("{id} is no commit"));
        let (kind, data) = self.object(zlib, id)?;
        if kind != Kind::Commit {
            return Err(bad());
        }
        let mut lines = data.split(|byte| *byte == b'\n');
        let mut line = |word: &[u8]| ObjectId::from_hex(lines.next()?.strip_prefix(word)?).ok();
        let tree = line(b"tree ").ok_or_else(bad)?;
        Ok((tree, line(b"parent ")))
    }

    /// The generation in the subject of a commit.
    pub(super) fn generation(&self, zlib: &mut Decompress, id: &ObjectId) -> Result<u64, Error> {
        let (_, data) = self.object(zlib, id)?;
        let text = String::from_utf8_lossy(&data);
        let number = text.split_once("\n\ngeneration ").and_then(|(_, subject)| {
            subject
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        });
        number.ok_or_else(|| {
            Error::damaged(Path::new("objects"), format!("{id} names no generation"))
        })
    }

    fn tree(&self, zlib: &mut Decompress, id: &ObjectId) -> Result<Vec<Named>, Error> {
        let (kind, data) = self.object(zlib, id)?;
        let mut named = Vec::with_capacity(data.len() / 28);
        let mut rest = &*data;
        while !rest.is_empty() {
            let entry = read_named(&mut rest).filter(|_| kind == Kind::Tree);
            named.push(
                entry.ok_or_else(|| {
                    Error::damaged(Path::new("objects"), format!("{id} is no tree"))
                })?,
            );
        }
        Ok(named)
    }

    /// The tree and all that it holds.
    pub(super) fn walk(
        &self,
        zlib: &mut Decompress,
        tree: ObjectId,
        visit: &mut dyn FnMut(ObjectId),
    ) -> Result<(), Error> {
        let mut trees = vec![tree];
        while let Some(tree) = trees.pop() {
            visit(tree);
            for entry in self.tree(zlib, &tree)? {
                if entry.is_tree {
                    trees.push(entry.id);
                } else {
                    visit(entry.id);
                }
            }
        }
        Ok(())
    }

    /// What the tree `new` holds at other places than `old` does, itself included, goes to
    /// `added`; what `old` held there, to `gone`.
    pub(super) fn diff(
        &self,
        zlib: &mut Decompress,
        old: ObjectId,
        new: ObjectId,
        added: &mut dyn FnMut(ObjectId),
        gone: &mut dyn FnMut(ObjectId),
    ) -> Result<(), Error> {
        let mut pairs = vec![(old, new)];
        while let Some((old, new)) = pairs.pop() {
            if old == new {
                continue;
            }
            gone(old);
            added(new);
            let mut before = self.tree(zlib, &old)?.into_iter().peekable();
            for entry in self.tree(zlib, &new)? {
                while let Some(left) = before.next_if(|left| left.order(&entry).is_lt()) {
                    self.all_below(zlib, &left, gone)?;
                }
                match before.next_if(|left| left.order(&entry).is_eq()) {
                    Some(left) if left.id == entry.id => {}
                    Some(left) if entry.is_tree => pairs.push((left.id, entry.id)),
                    Some(left) => {
                        gone(left.id);
                        added(entry.id);
                    }
                    None => self.all_below(zlib, &entry, added)?,
                }
            }
            for left in before {
                self.all_below(zlib, &left, gone)?;
            }
        }
        Ok(())
    }

    fn all_below(
        &self,
        zlib: &mut Decompress,
        entry: &Named,
        visit: &mut dyn FnMut(ObjectId),
    ) -> Result<(), Error> {
        if entry.is_tree {
            return self.walk(zlib, entry.id, visit);
        }
        visit(entry.id);
        Ok(())
    }
}

impl Named {
    /// The order of a tree: by names, those of trees with a slash behind.
    fn order(&self, other: &Named) -> std::cmp::Ordering {
        let slash = |named: &Named| named.is_tree.then_some(b'/');
        self.name
            .iter()
            .copied()
            .chain(slash(self))
            .cmp(other.name.iter().copied().chain(slash(other)))
    }
}

fn read_named(rest: &mut &[u8]) -> Option<Named> {
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let (mode, after) = rest.split_at_checked(space)?;
    let after = after.get(1..)?;
    let zero = after.iter().position(|byte| *byte == 0)?;
    let (name, after) = after.split_at_checked(zero)?;
    let (id, after) = after.get(1..)?.split_first_chunk::<20>()?;
    *rest = after;
    Some(Named {
        name: name.to_vec(),
        is_tree: mode == b"40000",
        id: ObjectId::from(*id),
    })
}
