//! Bringing a commit from one repository of this machine into another, as one pack.

use std::{
    collections::HashSet,
    io::{self, BufReader, Read},
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use gix::ObjectId;

use super::{Error, Reader, pack_dir, repository, set_tip, tip, tree, tree_of};
use crate::util::fs::sync_dir;

/// How deep trees are copied: an index has three levels, and what else lies in the tree of one is
/// not read.
const DEPTH: usize = tree::INDEX_DEPTH;

/// How many objects a pack gets: some fifty megabytes of index files.
const PACK_OBJECTS: usize = 50_000;

/// Brings the commit of `HEAD` of the repository at `path` here.
pub(super) fn from_path(
    here: &gix::Repository,
    path: &Path,
    stop: &AtomicBool,
) -> Result<ObjectId, Error> {
    let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unreachable {
        what: path.display().to_string(),
        source,
    };
    let there = super::open_options()
        .open_path_as_is(false)
        .open(path)
        .map_err(|error| unreachable(error.into()))?
        .to_thread_local();
    if there.object_hash() != here.object_hash() {
        return Err(unreachable(
            "it names its objects by another hash than SHA-1".into(),
        ));
    }
    let head = there.head().map_err(|error| unreachable(error.into()))?;
    if head.is_unborn() {
        return Err(Error::NoHead);
    }
    let head = there
        .head_commit()
        .map_err(|error| unreachable(error.into()))?
        .id;
    match copy(&there, here, head, stop) {
        // While the upstream is being repacked an object may be nowhere for a moment.
        Err(Error::Repository { source }) => Err(unreachable(source)),
        copied => copied.map(|()| head),
    }
}

/// Brings `commit` and what of its tree is not here from `there`, and makes it the tip.
pub(super) fn copy(
    there: &gix::Repository,
    here: &gix::Repository,
    commit: ObjectId,
    stop: &AtomicBool,
) -> Result<(), Error> {
    if !here.has_object(commit) {
        // The commit comes last and a tree after what it names: whatever is here when this is broken
        // off is whole.
        let mut missing = missing(there, here, commit)?;
        missing.reverse();
        let mut reader = Reader::of(there)?;
        for some in missing.chunks(PACK_OBJECTS) {
            write(&mut reader, here, some, stop)?;
        }
    }
    set_tip(here, commit)
}

/// The commit, the trees and the files that are not here.
fn missing(
    there: &gix::Repository,
    here: &gix::Repository,
    commit: ObjectId,
) -> Result<Vec<ObjectId>, Error> {
    let base = tip(here).and_then(|tip| tree_of(here, tip).ok());
    let root = tree_of(there, commit)?;
    let mut found = Found {
        seen: HashSet::new(),
        order: Vec::new(),
    };
    found.add(commit);
    trees(there, here, root, DEPTH, &mut found)?;
    tree::differences((here, base), (there, root), DEPTH, &mut |difference| {
        if let Some((_, id)) = difference.new.filter(|(kind, _)| kind.is_blob()) {
            found.add(id);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found.order)
}

/// Every object once: a pack must not hold one twice.
struct Found {
    seen: HashSet<ObjectId>,
    order: Vec<ObjectId>,
}

impl Found {
    fn add(&mut self, id: ObjectId) -> bool {
        let is_new = self.seen.insert(id);
        if is_new {
            self.order.push(id);
        }
        is_new
    }
}

fn trees(
    there: &gix::Repository,
    here: &gix::Repository,
    tree: ObjectId,
    depth: usize,
    found: &mut Found,
) -> Result<(), Error> {
    if depth == 0 || here.has_object(tree) || !found.add(tree) {
        return Ok(());
    }
    for entry in tree::entries(there, tree)? {
        if entry.kind.is_tree() {
            trees(there, here, entry.id, depth.saturating_sub(1), found)?;
        }
    }
    Ok(())
}

fn write(
    there: &mut Reader,
    here: &gix::Repository,
    objects: &[ObjectId],
    stop: &AtomicBool,
) -> Result<(), Error> {
    let dir = pack_dir(here.git_dir());
    let stream =
        PackStream::new(there, objects, stop).map_err(Error::io("begin a pack in", &dir))?;
    let written = gix::odb::pack::Bundle::write_to_directory(
        &mut BufReader::new(stream),
        Some(&dir),
        &mut gix::progress::Discard,
        stop,
        None::<gix::OdbHandle>,
        here.object_hash(),
        write_options(),
    )
    .map_err(repository)?;
    settle(&dir, &written)
}

pub(super) fn write_options() -> gix::odb::pack::bundle::write::Options {
    gix::odb::pack::bundle::write::Options {
        thread_limit: Some(1),
        iteration_mode: gix::odb::pack::data::input::Mode::Verify,
        ..Default::default()
    }
}

/// Syncs a pack that came in, and removes the `.keep` that gix leaves beside it.
pub(super) fn settle(
    dir: &Path,
    written: &gix::odb::pack::bundle::write::Outcome,
) -> Result<(), Error> {
    for path in [&written.data_path, &written.index_path]
        .into_iter()
        .flatten()
    {
        let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
        synced.map_err(Error::io("sync", path))?;
    }
    if let Some(keep) = written.keep_path.as_ref().filter(|keep| keep.exists()) {
        std::fs::remove_file(keep).map_err(Error::io("remove", keep))?;
    }
    sync_dir(dir).map_err(Error::io("sync", dir))
}

/// A pack that is made while it is read: no delta, each object as it comes from its repository.
///
/// Source of the format: gitformat-pack(5).
struct PackStream<'a> {
    there: &'a mut Reader,
    objects: std::slice::Iter<'a, ObjectId>,
    hasher: Option<gix::hash::Hasher>,
    ready: Vec<u8>,
    read: usize,
    stop: &'a AtomicBool,
}

impl<'a> PackStream<'a> {
    fn new(
        there: &'a mut Reader,
        objects: &'a [ObjectId],
        stop: &'a AtomicBool,
    ) -> io::Result<PackStream<'a>> {
        let count = u32::try_from(objects.len()).map_err(io::Error::other)?;
        let mut ready = b"PACK\0\0\0\x02".to_vec();
        ready.extend(count.to_be_bytes());
        let mut hasher = gix::hash::hasher(there.repo.object_hash());
        hasher.update(&ready);
        Ok(PackStream {
            there,
            objects: objects.iter(),
            hasher: Some(hasher),
            ready,
            read: 0,
            stop,
        })
    }

    fn refill(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.read = 0;
        if self.stop.load(Relaxed) {
            return Err(io::Error::other("told to stop"));
        }
        let Some(hasher) = self.hasher.as_mut() else {
            return Ok(());
        };
        if let Some(id) = self.objects.next() {
            let object = self.there.object(*id).map_err(io::Error::other)?;
            append_entry(&mut self.ready, object.kind, &object.data)?;
            hasher.update(&self.ready);
        } else if let Some(hasher) = self.hasher.take() {
            let sum = hasher.try_finalize().map_err(io::Error::other)?;
            self.ready.extend_from_slice(sum.as_slice());
        }
        Ok(())
    }
}

impl Read for PackStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.ready.len() {
            self.refill()?;
        }
        let mut left = self.ready.get(self.read..).unwrap_or_default();
        let count = left.read(buffer)?;
        self.read = self.read.saturating_add(count);
        Ok(count)
    }
}

fn append_entry(pack: &mut Vec<u8>, kind: gix::objs::Kind, data: &[u8]) -> io::Result<()> {
    use gix::odb::pack::data::entry::Header;
    let header = match kind {
        gix::objs::Kind::Commit => Header::Commit,
        gix::objs::Kind::Tree => Header::Tree,
        gix::objs::Kind::Blob => Header::Blob,
        gix::objs::Kind::Tag => Header::Tag,
    };
    header.write_to(data.len() as u64, pack)?;
    let mut encoder = flate2::write::ZlibEncoder::new(pack, flate2::Compression::fast());
    io::Write::write_all(&mut encoder, data)?;
    encoder.finish().map(drop)
}
