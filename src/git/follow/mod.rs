//! Following an upstream's git index: a bare repository that holds the upstream's newest tree, and what changed in it.
//!
//! ```text
//! DATA/git/upstream/              a bare, shallow repository: the newest commit that was fetched
//! DATA/git/upstream.published     `COMMIT SECONDS TAKER`: the commit whose changes are all in the
//!                                 store, when the upstream last said that it is its newest one,
//!                                 and which store that is
//! DATA/git/upstream.new, .old     leftovers of a crash while the repository was made anew; swept
//! ```
//!
//! Every fetch is of depth 1, so that history neither arrives nor piles up, and a squashed or
//! rewritten history is nothing special: what changed is the difference of two trees, both of
//! which are here. Over HTTP gix speaks the protocol and its caller the HTTP ([`Exchange`]); from a
//! folder the objects that are missing are copied, so that no `git` program is needed.
//!
//! The pages of a pack that was read count as this process's memory until the pack is closed. So the
//! repository is open only while it is used, is opened anew after some megabytes ([`Reader`]), and
//! what is copied comes in packs of some megabytes.
//!
//! The repository is a cache. Whatever is wrong with it is mended by making it anew
//! ([`Follower::reset`]), which costs a fetch and a comparison of every file with the store.

mod fill;
mod http;
mod tree;

use std::{
    fs, io,
    io::Write as _,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gix::ObjectId;

pub use http::{Exchange, Reply};

use super::{Error, packs::files};
use crate::util::fs::sync_dir;

/// The reference of the newest commit that was fetched.
const TIP: &str = "refs/orlop/upstream";

/// How many packs there may be before the repository is made anew from its newest commit. Each
/// fetch adds one; at one a minute it is made anew every two hours, which takes seconds.
const MOST_PACKS: usize = 100;

/// How many packs gix can have open: by default some more than there are when the repository is
/// opened, and fetches bring further ones.
const PACK_SLOTS: u16 = 512;

/// After how many bytes of objects a repository is opened anew.
const READ_BYTES: u64 = 64 << 20;

/// Where the upstream's index is.
#[derive(Debug, Clone)]
pub enum Source {
    /// A repository on this machine, bare or not.
    Path(PathBuf),
    /// A repository that is reached by smart HTTP.
    Http(Arc<dyn Exchange>),
}

/// How an upstream is followed.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the bare repository. It is made if it is not there.
    pub dir: PathBuf,
    /// Where the upstream's index is.
    pub source: Source,
    /// What an index file may have at most; larger ones are passed over.
    pub most_file_bytes: u64,
}

/// What a fetch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// The commit whose changes are all published. `None`: there is none, or it is not here.
    pub old: Option<ObjectId>,
    /// The upstream's newest commit.
    pub new: ObjectId,
}

/// The last commit whose changes are all in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its id.
    pub commit: ObjectId,
    /// When the upstream last said that it is its newest one.
    pub at: SystemTime,
    /// Which store has them: a number of the caller's.
    pub taker: u64,
}

/// A file in which two trees differ.
#[derive(Debug)]
pub struct Followed<'a> {
    /// Its path.
    pub path: &'a str,
    /// What is there in the newer tree.
    pub state: FileState,
}

/// What a tree has at a path.
#[derive(Debug)]
pub enum FileState {
    /// A file that is new or has other bytes.
    Changed(Bytes),
    /// Something that cannot be an index file, and why.
    Unusable(&'static str),
    /// Nothing: the file was removed.
    Gone,
}

/// An upstream that is followed. Its methods block for the disk and the network.
#[derive(Debug)]
pub struct Follower {
    options: Options,
    published: Option<Published>,
}

impl Follower {
    /// Opens the repository, sweeping what an earlier process left behind, or makes one. Asks
    /// nobody.
    ///
    /// Only one process may have it, which the lock of the data folder sees to.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Repository`] where none can be made either.
    pub fn open(options: Options) -> Result<Follower, Error> {
        let dir = &options.dir;
        let (new, old) = (beside(dir, "new"), beside(dir, "old"));
        if old.exists() && !dir.exists() {
            fs::rename(&old, dir).map_err(Error::io("rename", &old))?;
        }
        remove(&new)?;
        remove(&old)?;
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
        }
        if sweep(dir).and_then(|()| open_bare(dir)).is_err() {
            remove(dir)?;
            make_bare(dir)?;
        }
        let published = read_published(dir);
        let mut follower = Follower { options, published };
        follower.published = published.filter(|known| follower.tree_of(known.commit).is_ok());
        Ok(follower)
    }

    /// The last commit whose changes are all in the store.
    pub fn published(&self) -> Option<Published> {
        self.published
    }

    /// Notes, durably, that all changes up to `commit` are in the store `taker`, and that at `at` it
    /// was the upstream's newest commit. May then make the repository anew, so that it does not grow
    /// for ever.
    ///
    /// # Errors
    /// [`Error::Io`], and what [`Follower::fetch`] says of the repository.
    pub fn set_published(
        &mut self,
        commit: ObjectId,
        at: SystemTime,
        taker: u64,
    ) -> Result<(), Error> {
        let is_same = |known: Published| (known.commit, known.taker) == (commit, taker);
        let is_new = !self.published.is_some_and(is_same);
        let published = Published { commit, at, taker };
        write_published(&self.options.dir, published, is_new)?;
        self.published = Some(published);
        if is_new && self.packs()? > MOST_PACKS {
            self.make_anew(commit)?;
        }
        Ok(())
    }

    /// Brings the upstream's newest commit here, with its tree. `stop` ends it early.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the upstream is in trouble, [`Error::NoHead`] where it is
    /// empty, else [`Error::Repository`]: if that lasts, [`Follower::reset`] mends it.
    pub fn fetch(&mut self, stop: &AtomicBool) -> Result<Fetched, Error> {
        let new = match &self.options.source {
            Source::Path(path) => fill::from_path(&self.repo()?, path, stop)?,
            Source::Http(exchange) => http::fetch(&self.repo()?, exchange, stop)?,
        };
        self.tree_of(new)?;
        let old = self.published.map(|known| known.commit);
        Ok(Fetched { old, new })
    }

    /// Hands the files in which `new` differs from `old` (`None`: from an empty tree) to `visit`, until
    /// it breaks. The top of the tree has no index file, and what lies there is left out.
    ///
    /// # Errors
    /// [`Error::Repository`]: an object is missing or damaged; [`Follower::reset`] mends it.
    pub fn changes(
        &self,
        old: Option<ObjectId>,
        new: ObjectId,
        visit: &mut dyn FnMut(Followed<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let repo = self.repo()?;
        let old = old.map(|old| tree_of(&repo, old)).transpose()?;
        let new = tree_of(&repo, new)?;
        let mut reader = Reader::of(&repo)?;
        let mut look = |difference: tree::Difference<'_>| {
            let path = difference.path;
            let state = self.read(&mut reader, &difference)?;
            let followed = state.map(|state| Followed { path, state });
            Ok(followed.map_or(ControlFlow::Continue(()), &mut *visit))
        };
        tree::differences((&repo, old), (&repo, new), tree::INDEX_DEPTH, &mut look)
    }

    /// What the newer tree has. `None`: nothing that matters.
    fn read(
        &self,
        reader: &mut Reader,
        difference: &tree::Difference<'_>,
    ) -> Result<Option<FileState>, Error> {
        if !difference.path.contains('/') {
            return Ok(None);
        }
        let Some((kind, id)) = difference.new else {
            let was_file = difference.old.is_some_and(|(kind, _)| kind.is_blob());
            return Ok(was_file.then_some(FileState::Gone));
        };
        if !kind.is_blob() {
            return Ok(Some(FileState::Unusable("not a regular file")));
        }
        let bytes = reader.blob(id, self.options.most_file_bytes)?;
        Ok(Some(bytes.map_or(
            FileState::Unusable("larger than `upstream.max_index`"),
            FileState::Changed,
        )))
    }

    /// The bytes of a file in the tree of `commit`; `None`: it is not there, or has more than
    /// `max_bytes`.
    ///
    /// # Errors
    /// [`Error::Repository`].
    pub fn file(
        &self,
        commit: ObjectId,
        path: &str,
        max_bytes: u64,
    ) -> Result<Option<Bytes>, Error> {
        let repo = self.repo()?;
        let mut at = Some(tree_of(&repo, commit)?);
        let mut is_file = false;
        for part in path.split('/') {
            let Some(folder) = at.filter(|_| !is_file) else {
                return Ok(None);
            };
            let entries = tree::entries(&repo, folder)?;
            let found = entries.into_iter().find(|entry| entry.name == part);
            let found = found.filter(|entry| entry.kind.is_blob() || entry.kind.is_tree());
            is_file = found.as_ref().is_some_and(|entry| entry.kind.is_blob());
            at = found.map(|entry| entry.id);
        }
        match at.filter(|_| is_file) {
            Some(id) => Reader::of(&repo)?.blob(id, max_bytes),
            None => Ok(None),
        }
    }

    /// Throws the repository away: the next fetch is a first one.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Repository`].
    pub fn reset(&mut self) -> Result<(), Error> {
        let dir = &self.options.dir;
        self.published = None;
        remove(dir)?;
        make_bare(dir)
    }

    /// Bytes of the repository on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn size_bytes(&self) -> Result<u64, Error> {
        let mut sum: u64 = 0;
        for path in files(&pack_dir(&self.options.dir))? {
            let length = fs::metadata(&path).map_or(0, |facts| facts.len());
            sum = sum.saturating_add(length);
        }
        Ok(sum)
    }

    fn packs(&self) -> Result<usize, Error> {
        let files = files(&pack_dir(&self.options.dir))?;
        Ok(files.iter().filter(|path| is_pack(path)).count())
    }

    fn repo(&self) -> Result<gix::Repository, Error> {
        open_bare(&self.options.dir)
    }

    fn tree_of(&self, commit: ObjectId) -> Result<ObjectId, Error> {
        tree_of(&self.repo()?, commit)
    }

    /// Puts a repository in the place of this one that has nothing but `commit`, in one pack.
    fn make_anew(&mut self, commit: ObjectId) -> Result<(), Error> {
        let dir = self.options.dir.clone();
        let (new, old) = (beside(&dir, "new"), beside(&dir, "old"));
        remove(&new)?;
        make_bare(&new)?;
        let stop = AtomicBool::new(false);
        fill::copy(&self.repo()?, &open_bare(&new)?, commit, &stop)?;
        fs::rename(&dir, &old).map_err(Error::io("rename", &dir))?;
        fs::rename(&new, &dir).map_err(Error::io("rename", &new))?;
        remove(&old)
    }
}

fn beside(dir: &Path, ending: &str) -> PathBuf {
    dir.with_extension(ending)
}

fn pack_dir(dir: &Path) -> PathBuf {
    dir.join("objects").join("pack")
}

fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "pack")
}

fn repository<E>(error: E) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Error::Repository {
        source: error.into(),
    }
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Nothing but the repository's own configuration counts, and whoever owns it.
fn open_options() -> gix::open::Options {
    gix::open::Options::isolated()
        .with(gix::sec::Trust::Full)
        .open_path_as_is(true)
        .object_store_slots(gix::odb::store::init::Slots::Given(PACK_SLOTS))
}

fn open_bare(dir: &Path) -> Result<gix::Repository, Error> {
    let repo = open_options().open(dir).map_err(repository)?;
    Ok(repo.to_thread_local())
}

fn make_bare(dir: &Path) -> Result<(), Error> {
    gix::init_bare(dir).map(drop).map_err(repository)
}

/// Reads many objects of a repository, which it opens anew after every [`READ_BYTES`].
struct Reader {
    dir: PathBuf,
    repo: gix::Repository,
    read_bytes: u64,
}

impl Reader {
    /// Another handle of a repository that is open.
    fn of(repo: &gix::Repository) -> Result<Reader, Error> {
        let dir = repo.git_dir().to_owned();
        Ok(Reader {
            repo: open_bare(&dir)?,
            dir,
            read_bytes: 0,
        })
    }

    fn object(&mut self, id: ObjectId) -> Result<gix::Object<'_>, Error> {
        if self.read_bytes > READ_BYTES {
            self.repo = open_bare(&self.dir)?;
            self.read_bytes = 0;
        }
        let object = self.repo.find_object(id).map_err(repository)?;
        self.read_bytes = self.read_bytes.saturating_add(object.data.len() as u64);
        Ok(object)
    }

    fn blob(&mut self, id: ObjectId, most: u64) -> Result<Option<Bytes>, Error> {
        if self.repo.find_header(id).map_err(repository)?.size() > most {
            return Ok(None);
        }
        let mut blob = self.object(id)?;
        Ok(Some(Bytes::from(std::mem::take(&mut blob.data))))
    }
}

/// Removes what a process that was killed left behind: locks, packs that were coming in, packs
/// without their index, and the `.keep` files that gix leaves.
fn sweep(dir: &Path) -> Result<(), Error> {
    let packs = files(&pack_dir(dir))?;
    let is_whole = |path: &Path| match path.extension().and_then(|ending| ending.to_str()) {
        Some("pack") => path.with_extension("idx").exists(),
        Some("idx") => path.with_extension("pack").exists(),
        _ => false,
    };
    let mut left: Vec<PathBuf> = packs.into_iter().filter(|path| !is_whole(path)).collect();
    for folder in [
        dir.to_owned(),
        dir.join("refs"),
        dir.join("refs").join("orlop"),
    ] {
        let is_lock = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "lock");
        left.extend(files(&folder)?.into_iter().filter(is_lock));
    }
    for path in left.iter().filter(|path| path.is_file()) {
        fs::remove_file(path).map_err(Error::io("remove", path))?;
    }
    Ok(())
}

/// The tree of a commit.
fn tree_of(repo: &gix::Repository, commit: ObjectId) -> Result<ObjectId, Error> {
    let commit = repo.find_commit(commit).map_err(repository)?;
    let tree = commit.tree_id().map_err(repository)?.detach();
    repo.find_header(tree).map_err(repository)?;
    Ok(tree)
}

/// Makes `commit` the newest one that was fetched, and the only one that has no parents here.
fn set_tip(repo: &gix::Repository, commit: ObjectId) -> Result<(), Error> {
    repo.reference(
        TIP,
        commit,
        gix::refs::transaction::PreviousValue::Any,
        "followed",
    )
    .map_err(repository)?;
    write_shallow(repo, Some(commit))
}

fn tip(repo: &gix::Repository) -> Option<ObjectId> {
    let tip = repo.try_find_reference(TIP).ok()??;
    Some(tip.try_id()?.detach())
}

/// Says of which commit the parents are not here. Of one only: the file would grow with each fetch.
fn write_shallow(repo: &gix::Repository, commit: Option<ObjectId>) -> Result<(), Error> {
    let path = repo.git_dir().join("shallow");
    let text = commit.map(|id| format!("{id}\n")).unwrap_or_default();
    if text.is_empty() {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            _ => Ok(()),
        };
    }
    fs::write(&path, text).map_err(Error::io("write", &path))
}

fn read_published(dir: &Path) -> Option<Published> {
    let text = fs::read_to_string(beside(dir, "published")).ok()?;
    let mut words = text.split_whitespace();
    let commit = ObjectId::from_hex(words.next()?.as_bytes()).ok()?;
    let seconds = Duration::from_secs(words.next()?.parse().ok()?);
    Some(Published {
        commit,
        at: SystemTime::UNIX_EPOCH.checked_add(seconds)?,
        taker: words.next()?.parse().ok()?,
    })
}

/// Only another commit is worth a sync: a time that is lost makes the index look older than it is.
fn write_published(dir: &Path, published: Published, durably: bool) -> Result<(), Error> {
    let (path, new) = (beside(dir, "published"), beside(dir, "published-new"));
    let since = published.at.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&new)?;
        writeln!(file, "{} {seconds} {}", published.commit, published.taker)?;
        if durably {
            file.sync_all()?;
        }
        fs::rename(&new, &path)?;
        if durably && let Some(parent) = path.parent() {
            sync_dir(parent)?;
        }
        Ok(())
    };
    write().map_err(Error::io("write", &path))
}

#[cfg(test)]
mod tests;
