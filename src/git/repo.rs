//! The bare repository: opened or made, repaired, committed to, read from.

use std::{
    fmt, fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use gix::objs::Kind;
use parking_lot::{Mutex, RwLock};

use super::{
    Error, ObjectId,
    chain::{Chain, NewPack},
    commits,
    log::Log,
    open::{self, Damage, Found, History, OpenReport},
    pack::{PackWriter, Packed, id_of, remove_pack},
    packs::{Packs, files},
    refs::{self, Branch},
    serve::Serving,
    trees::{self, Change, Editor},
    types::{Commit, FileChange, Head, TreeFile},
};

/// How the repository is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the bare repository. It is made if it is not there.
    pub dir: PathBuf,
}

/// The repository: a handle, cheap to clone. Its methods block for the disk.
#[derive(Clone)]
pub struct Repo {
    inner: Arc<Inner>,
}

impl fmt::Debug for Repo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Repo")
            .field("dir", &self.inner.dir)
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

struct Inner {
    dir: PathBuf,
    /// What readers see. Exchanged as a whole when the repository is opened anew.
    state: RwLock<State>,
    /// Held by who commits or sets aside: one at a time.
    writing: Mutex<Writing>,
    size_bytes: AtomicU64,
}

#[derive(Clone)]
struct State {
    packs: Arc<Packs>,
    chain: Arc<Chain>,
    history: Arc<History>,
    /// What cannot be made anew from the packs: the repository has to be set aside.
    damage: Option<Arc<Damage>>,
}

/// What is known only to the one who writes.
#[derive(Debug, Default)]
struct Writing {
    /// A commit failed half-way: what is on the disk has to be looked at again before the next.
    failed: bool,
}

impl Repo {
    /// Opens the repository, or makes one; repairs what can be repaired from what is sound. One that
    /// cannot be used [is damaged](Repo::is_damaged) and has no head. It stays as it is until it is
    /// [set aside](Repo::set_aside), so that what can be read of it can be recovered.
    pub fn open(options: Options) -> Result<(Repo, OpenReport), Error> {
        let Options { dir } = options;
        let (found, report) = open::open(&dir)?;
        let inner = Inner {
            dir,
            state: RwLock::new(State::of(found)),
            writing: Mutex::default(),
            size_bytes: AtomicU64::new(0),
        };
        inner.measure();
        let inner = Arc::new(inner);
        Ok((Repo { inner }, report))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The newest commit; `None`: there is none yet.
    pub fn head(&self) -> Option<Head> {
        self.inner.state.read().history.head()
    }

    /// The newest commit that can be read: the head, or what is left of the history of a repository
    /// that was found damaged when it was opened.
    pub fn readable_head(&self) -> Option<Head> {
        let state = self.inner.state();
        let head = state.history.head();
        head.or_else(|| state.damage?.readable)
    }

    /// Writes one commit on top of the head, durably (pack and ref are synced), and makes it the
    /// head. A change that leaves a file as it is changes nothing; a commit without any change is
    /// made nevertheless. `changes` may be long and is read once, in any order; of two changes of
    /// one path the last one counts. `facts` is called when all of it was read, and nothing becomes
    /// visible if it fails.
    pub fn commit<E: From<Error>>(
        &self,
        changes: &mut dyn Iterator<Item = FileChange>,
        facts: impl FnOnce() -> Result<Commit, E>,
    ) -> Result<Head, E> {
        let mut writing = self.inner.writing.lock();
        self.inner.repair()?;
        if !self.inner.state().chain.is_in_place() {
            tracing::info!(
                "the packs of the git index were put together by somebody else: they are read anew"
            );
            writing.failed = true;
        }
        let before = self.head();
        if writing.failed {
            self.inner.look_again()?;
            writing.failed = false;
        }
        let state = self.inner.state();
        let parent = state.history.head();
        if before.is_some() && parent.is_none() {
            // The changes are those since a head that somebody took away.
            return Err(Error::damaged(&self.inner.dir, "its commits are gone").into());
        }
        let new = write_pack(&state.packs, parent, changes, facts)?;
        let head = new.head;
        if let Err(error) = self.inner.make_head(&state, parent, new) {
            writing.failed = true;
            return Err(error.into());
        }
        self.inner.tidy(&state);
        Ok(head)
    }

    /// The bytes of a file in the tree of `commit`; `None`: it is not there.
    pub fn file(&self, commit: ObjectId, path: &str) -> Result<Option<Bytes>, Error> {
        let blob = self.file_id(commit, path)?;
        blob.map(|blob| self.blob(blob)).transpose()
    }

    /// The blob of a file in the tree of `commit`; `None`: it is not there.
    pub fn file_id(&self, commit: ObjectId, path: &str) -> Result<Option<ObjectId>, Error> {
        let packs = self.packs();
        let tree = commits::read(&packs, &commit)?.tree;
        trees::find(&packs, tree, path)
    }

    /// The bytes of a blob.
    pub fn blob(&self, id: ObjectId) -> Result<Bytes, Error> {
        self.packs().read_as(Kind::Blob, &id).map(Bytes::from)
    }

    /// Every file of the tree of `commit`, in the tree's order.
    pub fn files(
        &self,
        commit: ObjectId,
        visit: &mut dyn FnMut(TreeFile) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let packs = self.packs();
        let tree = commits::read(&packs, &commit)?.tree;
        trees::walk(&packs, tree, visit)
    }

    /// The same as [`files`](Repo::files) of a repository that may be damaged: what cannot be read
    /// is passed over. Returns how many folders that were.
    pub fn readable_files(
        &self,
        commit: ObjectId,
        visit: &mut dyn FnMut(TreeFile) -> ControlFlow<()>,
    ) -> Result<u64, Error> {
        let packs = self.packs();
        let tree = commits::read(&packs, &commit)?.tree;
        trees::walk_readable(&packs, tree, visit)
    }

    /// A commit of the history by its generation; `None`: it is not (or no longer) here.
    pub fn commit_of(&self, generation: u64) -> Option<ObjectId> {
        self.inner.state.read().history.commit_of(generation)
    }

    /// The message and time of a commit, as given to [`commit`](Repo::commit).
    pub fn commit_facts(&self, id: ObjectId) -> Result<Commit, Error> {
        commits::read(&self.packs(), &id).map(|read| read.facts)
    }

    /// What requests are answered from: the state as it is now, and stays while it is held.
    pub fn serving(&self) -> Arc<Serving> {
        self.inner.state().chain.serving()
    }

    /// Bytes of the repository on the disk, as of the last commit.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes.load(Ordering::Relaxed)
    }

    /// Starts with an empty repository, and keeps the one that is there as `….broken-<n>`: it may
    /// hold what nothing else does. The newest of those stay.
    pub fn set_aside(&self) -> Result<(), Error> {
        let mut writing = self.inner.writing.lock();
        // Whatever fails from here on, the next commit looks at what there is.
        writing.failed = true;
        let found = open::start_anew(&self.inner.dir)?;
        *self.inner.state.write() = State::of(found);
        self.inner.measure();
        *writing = Writing::default();
        Ok(())
    }

    /// How many repositories that were set aside lie beside this one.
    pub fn count_set_aside(&self) -> u64 {
        open::count_set_aside(&self.inner.dir)
    }

    /// Whether somebody removed the folder, or what makes it a repository.
    pub fn is_gone(&self) -> bool {
        let is_there = |part| self.inner.dir.join(part).exists();
        !is_there("HEAD") || !is_there("objects/pack")
    }

    /// Makes anew what was found damaged while it was served; costs nothing when nothing was, or
    /// during a commit. Blocks for the disk.
    ///
    /// # Errors
    /// Damage that the packs themselves have: the repository has to be set aside.
    pub fn repair(&self) -> Result<(), Error> {
        if !self.is_damaged() {
            return Ok(());
        }
        let Some(_writing) = self.inner.writing.try_lock() else {
            return Ok(());
        };
        self.inner.repair()
    }

    /// Whether something was found damaged when it was opened or while it was served, and is not
    /// yet made anew.
    pub fn is_damaged(&self) -> bool {
        let state = self.inner.state();
        state.damage.is_some() || state.chain.damage().is_some()
    }

    fn packs(&self) -> Arc<Packs> {
        Arc::clone(&self.inner.state.read().packs)
    }
}

impl State {
    fn of(found: Found) -> State {
        State {
            packs: Arc::new(found.packs),
            chain: Arc::new(found.chain),
            history: Arc::new(found.history),
            damage: found.damage.map(Arc::new),
        }
    }
}

impl Inner {
    fn state(&self) -> State {
        self.state.read().clone()
    }

    /// Opens what is on the disk anew, after a failure that left it unknown.
    fn look_again(&self) -> Result<(), Error> {
        let found = open::find_again(&self.dir)?;
        *self.state.write() = State::of(found);
        Ok(())
    }

    /// Makes anew what serving found damaged: its own files, and the indexes of packs.
    fn repair(&self) -> Result<(), Error> {
        let state = self.state();
        if let Some(damage) = state.damage {
            return Err(Error::damaged(&self.dir, &damage.what));
        }
        let Some(damage) = state.chain.damage() else {
            return Ok(());
        };
        tracing::warn!(
            damage,
            "the git index was damaged: what is served is made anew"
        );
        Log::discard(&self.dir)?;
        self.look_again().inspect_err(|error| {
            if error.is_damage() {
                self.state.write().damage = Some(Arc::new(Damage {
                    what: error.to_string(),
                    readable: None,
                }));
            }
        })
    }

    /// Makes a pack that is in its place the head: on the disk, then in memory.
    fn make_head(&self, state: &State, parent: Option<Head>, new: NewPack) -> Result<(), Error> {
        let (head, path) = (new.head, new.path.clone());
        let written = state
            .chain
            .append(new)
            .and_then(|()| refs::write(&self.dir, head.id));
        if let Err(error) = written {
            // As long as the branch may say the new head, its pack must stay.
            let old = parent.map_or(Branch::Missing, |parent| Branch::At(parent.id));
            if refs::restore(&self.dir, old).is_ok() {
                remove_pack(&path);
            }
            return Err(error);
        }
        state.packs.refresh()?;
        let mut history = History::clone(&state.history);
        history.push(head);
        self.state.write().history = Arc::new(history);
        state.chain.publish(head);
        Ok(())
    }

    /// The commit stands; that old packs could not be merged now is no reason to fail it.
    fn tidy(&self, state: &State) {
        let tidied = state.chain.tidy().and_then(|_| state.packs.refresh());
        if let Err(error) = tidied {
            tracing::warn!(%error, "could not merge packs of the git index");
        }
        self.measure();
    }

    fn measure(&self) {
        self.size_bytes
            .store(bytes_below(&self.dir, 0), Ordering::Relaxed);
    }
}

/// Writes the pack of a new generation; it is in its place, and nothing names it yet.
fn write_pack<E: From<Error>>(
    packs: &Packs,
    parent: Option<Head>,
    changes: &mut dyn Iterator<Item = FileChange>,
    facts: impl FnOnce() -> Result<Commit, E>,
) -> Result<NewPack, E> {
    packs.refresh()?;
    let old_tree = match parent {
        Some(parent) => Some(commits::read(packs, &parent.id)?.tree),
        None => None,
    };
    let mut pack = PackWriter::create(packs.dir())?;
    let files = write_blobs(packs, &mut pack, changes)?;
    let mut editor = Editor {
        packs,
        pack: &mut pack,
        bases: Vec::new(),
    };
    let tree = editor.root(old_tree, &files)?;
    let bases = editor.bases;
    let commit = facts()?;
    check_generation(parent, commit.generation)?;
    let data = commits::to_bytes(&commit, tree, parent.map(|parent| parent.id));
    let id = id_of(Kind::Commit, &data)?;
    pack.add(&compress(packs, Kind::Commit, id, &data)?)?;
    Ok(NewPack {
        path: pack.finish()?.path,
        head: Head {
            id,
            generation: commit.generation,
        },
        bases,
    })
}

/// A few hundred files at most: the packs are merged.
fn bytes_below(dir: &Path, depth: usize) -> u64 {
    const DEPTH_MAX: usize = 4;
    let mut bytes = 0;
    for path in files(dir).unwrap_or_default() {
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() && depth < DEPTH_MAX => {
                bytes += bytes_below(&path, depth + 1);
            }
            Ok(facts) if facts.is_file() => bytes += facts.len(),
            _ => {}
        }
    }
    bytes
}

fn check_generation(parent: Option<Head>, given: u64) -> Result<(), Error> {
    let next = parent.map_or(given, |parent| parent.generation.saturating_add(1));
    if given == next {
        return Ok(());
    }
    Err(Error::Generation { given, next })
}

/// Writes the blobs of the changes as they come, and keeps only their ids.
fn write_blobs(
    packs: &Packs,
    pack: &mut PackWriter,
    changes: &mut dyn Iterator<Item = FileChange>,
) -> Result<Vec<Change>, Error> {
    let mut files = Vec::new();
    loop {
        let batch = next_batch(changes)?;
        if batch.is_empty() {
            break;
        }
        for (file, (blob, packed)) in batch.iter().zip(compress_batch(packs, pack, &batch)?) {
            if let Some(packed) = packed {
                pack.add(&packed)?;
            }
            files.push(Change {
                path: file.path.as_str().into(),
                blob,
            });
        }
    }
    trees::put_in_order(&mut files);
    Ok(files)
}

/// Files compressed at a time: enough that the threads are worth their start.
const BATCH_BYTES: usize = 2 << 20;
const BATCH_FILES: usize = 1024;

fn next_batch(changes: &mut dyn Iterator<Item = FileChange>) -> Result<Vec<FileChange>, Error> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES && batch.len() < BATCH_FILES {
        let Some(change) = changes.next() else {
            break;
        };
        trees::check_path(&change.path)?;
        bytes += change.bytes.as_ref().map_or(0, Bytes::len);
        batch.push(change);
    }
    Ok(batch)
}

/// A blob's id, and its entry unless it is in the repository already. `None`: the file goes.
type Compressed = (Option<ObjectId>, Option<Packed>);

/// Hashes and compresses on two threads: more would take the cores from those who are served.
fn compress_batch(
    packs: &Packs,
    pack: &PackWriter,
    batch: &[FileChange],
) -> Result<Vec<Compressed>, Error> {
    let blob = |change: &FileChange| compress_blob(packs, pack, change);
    let all = |part: &[FileChange]| part.iter().map(blob).collect::<Result<Vec<_>, _>>();
    let (first, second) = batch.split_at(batch.len() / 2);
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| all(first));
        let second = all(second);
        (first.join(), second)
    });
    let mut compressed = first.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    compressed.extend(second?);
    Ok(compressed)
}

fn compress_blob(
    packs: &Packs,
    pack: &PackWriter,
    change: &FileChange,
) -> Result<Compressed, Error> {
    let Some(bytes) = &change.bytes else {
        return Ok((None, None));
    };
    let id = id_of(Kind::Blob, bytes)?;
    if pack.has(&id) || packs.contains(&id) {
        return Ok((Some(id), None));
    }
    Ok((Some(id), Some(compress(packs, Kind::Blob, id, bytes)?)))
}

fn compress(packs: &Packs, kind: Kind, id: ObjectId, data: &[u8]) -> Result<Packed, Error> {
    Packed::new(kind, id, data).map_err(Error::io("compress an object for", packs.dir()))
}
