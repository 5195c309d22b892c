//! Opening what lies on the disk: sweeps, repairs from what is sound, reads what is left of the rest.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Error, ObjectId,
    chain::Chain,
    commits,
    pack::{self, TEMPORARY, remove_pack, sync_folder},
    pack_file::PackFile,
    packs::{Packs, files, pack_files},
    refs::{self, Branch},
    trees,
    types::Head,
};

/// Indexes are read in full at the start up to this many bytes, newest pack first: a fifth of a
/// second. An index of 300,000 objects has 9 MB. What lies beyond is found out by who reads it.
const CHECKED_INDEX_BYTES: u64 = 64 << 20;

/// So many broken repositories are kept for who wants to know what happened.
const KEPT_BROKEN: usize = 2;

/// What opening found, for the log and the status page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was no repository before.
    pub created: bool,
    /// What was damaged and repaired from what was sound, one sentence each.
    pub repaired: Vec<String>,
}

/// Where packs are, below the repository.
const PACKS: &str = "objects/pack";

/// A repository as it was found, in memory.
pub(super) struct Found {
    pub(super) packs: Packs,
    pub(super) history: History,
    pub(super) chain: Chain,
    pub(super) damage: Option<Damage>,
}

/// Why a repository cannot be used.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) what: String,
    /// The newest commit that could be read where there is no history.
    pub(super) readable: Option<Head>,
}

/// The commits from the root to the head.
#[derive(Clone, Default)]
pub(super) struct History {
    oldest: u64,
    commits: Vec<ObjectId>,
}

impl History {
    pub(super) fn head(&self) -> Option<Head> {
        let id = *self.commits.last()?;
        let generation = self.oldest + self.commits.len() as u64 - 1;
        Some(Head { id, generation })
    }

    pub(super) fn commit_of(&self, generation: u64) -> Option<ObjectId> {
        let place = generation.checked_sub(self.oldest)?;
        self.commits.get(usize::try_from(place).ok()?).copied()
    }

    pub(super) fn push(&mut self, head: Head) {
        if self.commits.is_empty() {
            self.oldest = head.generation;
        }
        self.commits.push(head.id);
    }
}

/// Opens the repository in `dir`. One that cannot be used stays where it is, and what can be read of
/// it can be read.
pub(super) fn open(dir: &Path) -> Result<(Found, OpenReport), Error> {
    let mut report = OpenReport {
        created: !dir.exists(),
        repaired: refs::lay_out(dir)?,
    };
    sweep_all(dir)?;
    let opened = open_packs(&dir.join(PACKS), &mut report.repaired)?;
    let found = match find(dir, &opened, &mut report.repaired) {
        Err(error) if error.is_damage() => read_damaged(dir, opened, &error),
        found => found,
    };
    Ok((found?, report))
}

/// Opens what is there once more, after a commit that failed half-way.
pub(super) fn find_again(dir: &Path) -> Result<Found, Error> {
    refs::lay_out(dir)?;
    sweep_all(dir)?;
    let mut repaired = Vec::new();
    let opened = open_packs(&dir.join(PACKS), &mut repaired)?;
    find(dir, &opened, &mut repaired)
}

/// Puts an empty repository in the place of the one that is there, which is kept beside it. It may
/// be gone already.
pub(super) fn start_anew(dir: &Path) -> Result<Found, Error> {
    if dir.exists() {
        set_aside(dir)?;
    }
    find_again(dir)
}

/// The folder beside `dir` whose name is that of `dir` and this ending.
fn beside(dir: &Path, ending: &str) -> Option<PathBuf> {
    let mut name = OsString::from(dir.file_name()?);
    name.push(ending);
    Some(dir.with_file_name(name))
}

/// Renames the repository to `….broken-<n>` and removes all but the newest of those.
fn set_aside(dir: &Path) -> Result<(), Error> {
    let mut broken = broken_ones(dir)?;
    let number = broken.last().map_or(1, |(number, _)| number + 1);
    let Some(aside) = beside(dir, &format!(".broken-{number}")) else {
        return Ok(());
    };
    fs::rename(dir, &aside).map_err(Error::io("set aside the repository", dir))?;
    dir.parent().map_or(Ok(()), sync_folder)?;
    broken.push((number, aside));
    let extra = broken.len().saturating_sub(KEPT_BROKEN);
    for (_, path) in broken.iter().take(extra) {
        drop(fs::remove_dir_all(path));
    }
    Ok(())
}

/// How many repositories lie aside.
pub(super) fn count_set_aside(dir: &Path) -> u64 {
    broken_ones(dir).map_or(0, |broken| broken.len() as u64)
}

fn broken_ones(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.broken-");
    let mut found: Vec<_> = files(parent)?
        .into_iter()
        .filter_map(|path| {
            let number = path.file_name()?.to_str()?.strip_prefix(&prefix)?;
            Some((number.parse().ok()?, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// What is there, repaired.
///
/// # Errors
/// Damage where the head cannot be read.
fn find(dir: &Path, opened: &OpenedPacks, repaired: &mut Vec<String>) -> Result<Found, Error> {
    let packs = Packs::new(dir.join(PACKS));
    packs.set(opened.sound.clone());
    let head = match refs::read(dir)? {
        Branch::At(id) => Some(id),
        found => lost_head(dir, &packs, found, &opened.damaged, repaired)?,
    };
    let history = history(&packs, head)?;
    check_root(&packs, head)?;
    // Every pack that a generation needs has a commit, and all commits were read from sound packs:
    // what is damaged was merged or begun, and may go.
    for path in &opened.damaged {
        remove_pack(path);
    }
    let (chain, unneeded) = Chain::open(dir, head)?;
    for path in &unneeded {
        remove_pack(path);
    }
    packs.refresh()?;
    Ok(Found {
        packs,
        history,
        chain,
        damage: None,
    })
}

/// What can be read of a repository that cannot be used: objects, but no history.
fn read_damaged(dir: &Path, opened: OpenedPacks, error: &Error) -> Result<Found, Error> {
    let packs = Packs::new(dir.join(PACKS));
    let mut list = opened.sound;
    let readable = opened
        .damaged
        .iter()
        .map(|path| PackFile::open_damaged(path));
    list.extend(readable.filter_map(Result::ok).map(Arc::new));
    packs.set(list);
    let damage = Damage {
        what: error.to_string(),
        readable: newest_readable(&packs, refs::read(dir)?)?,
    };
    Ok(Found {
        packs,
        history: History::default(),
        chain: Chain::empty(dir),
        damage: Some(damage),
    })
}

/// The commit that the branch names or else the newest one, if it can be read.
fn newest_readable(packs: &Packs, branch: Branch) -> Result<Option<Head>, Error> {
    if let Branch::At(id) = branch {
        let commit = commits::read(packs, &id).map(Some);
        if let Some(commit) = commit.or_else(Error::unless_unreadable)? {
            let generation = commit.facts.generation;
            return Ok(Some(Head { id, generation }));
        }
    }
    let newest = tips(packs)?.first().copied();
    Ok(newest.map(|(generation, id)| Head { id, generation }))
}

/// Removes what a crash left of the branch and of packs.
fn sweep_all(dir: &Path) -> Result<(), Error> {
    refs::sweep(dir);
    sweep(&dir.join(PACKS))
}

/// Removes what is being written when a crash comes, and indexes that lost their pack.
fn sweep(dir: &Path) -> Result<(), Error> {
    for path in files(dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_temporary = name.is_some_and(|name| name.starts_with(TEMPORARY));
        let pack = path.with_extension("pack");
        let is_alone = path.extension().is_some_and(|extension| extension == "idx")
            && pack.try_exists().is_ok_and(|exists| !exists);
        if is_temporary || is_alone {
            fs::remove_file(&path).map_err(Error::io("sweep", &path))?;
        }
    }
    Ok(())
}

/// The packs of a repository.
struct OpenedPacks {
    /// Newest first.
    sound: Vec<Arc<PackFile>>,
    /// The paths of those that are damaged themselves.
    damaged: Vec<PathBuf>,
}

/// Opens the packs; makes indexes anew where they are missing or damaged.
fn open_packs(dir: &Path, repaired: &mut Vec<String>) -> Result<OpenedPacks, Error> {
    let (mut sound, mut damaged) = (Vec::new(), Vec::new());
    let mut left_bytes = CHECKED_INDEX_BYTES;
    for path in pack_files(dir)? {
        let fault = match open_pack(&path, &mut left_bytes) {
            Ok(pack) => {
                sound.push(Arc::new(pack));
                continue;
            }
            Err(error) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        match index_anew(&path) {
            Ok(pack) => {
                repaired.push(format!("the index of a pack was made anew: {fault}"));
                sound.push(Arc::new(pack));
            }
            Err(error) if error.is_damage() => {
                repaired.push(format!("a pack was left out: {error}"));
                damaged.push(path);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(OpenedPacks { sound, damaged })
}

/// Opens a pack and reads its index in full, as long as there are bytes left to do so.
fn open_pack(path: &Path, left_bytes: &mut u64) -> Result<PackFile, Error> {
    let pack = PackFile::open(path)?;
    let Some(left) = left_bytes.checked_sub(pack.index_bytes()) else {
        return Ok(pack);
    };
    *left_bytes = left;
    if pack.index_is_sound() {
        return Ok(pack);
    }
    let what = "its SHA-1 is not that of its bytes";
    Err(Error::damaged(&path.with_extension("idx"), what))
}

fn index_anew(path: &Path) -> Result<PackFile, Error> {
    let (mut entries, id) = pack::scan(path)?;
    pack::replace_index(path, &mut entries, &id)?;
    PackFile::open(path)
}

/// The commits up to `head`, each of which must be there and follow its parent.
fn history(packs: &Packs, head: Option<ObjectId>) -> Result<History, Error> {
    let mut commits = Vec::new();
    let mut next = head;
    let mut oldest = 0;
    while let Some(id) = next {
        let commit = commits::read(packs, &id)?;
        let generation = commit.facts.generation;
        if !commits.is_empty() && oldest != generation.saturating_add(1) {
            let what = format!("commit `{id}` has the wrong generation");
            return Err(Error::damaged(packs.dir(), what));
        }
        oldest = generation;
        commits.push(id);
        next = commit.parent;
    }
    commits.reverse();
    Ok(History { oldest, commits })
}

/// The root tree of the head must be there, and what it names.
fn check_root(packs: &Packs, head: Option<ObjectId>) -> Result<(), Error> {
    let Some(head) = head else {
        return Ok(());
    };
    let tree = commits::read(packs, &head)?.tree;
    for id in trees::children(packs, tree)? {
        if !packs.contains(&id) {
            return Err(Error::Unknown { id });
        }
    }
    Ok(())
}

/// The head of a repository whose branch is missing or garbled, if the packs tell one for sure.
/// `None`: there is nothing.
fn lost_head(
    dir: &Path,
    packs: &Packs,
    found: Branch,
    damaged: &[PathBuf],
    repaired: &mut Vec<String>,
) -> Result<Option<ObjectId>, Error> {
    if found == Branch::Missing && pack_files(packs.dir())?.is_empty() {
        return Ok(None);
    }
    // A damaged pack may have the newest commit.
    let tip = if damaged.is_empty() {
        newest_whole_tip(packs)?
    } else {
        None
    };
    let Some(head) = tip else {
        return Err(Error::damaged(
            dir,
            "its branch is lost, and no pack tells the head",
        ));
    };
    refs::write(dir, head)?;
    repaired.push(format!(
        "the branch was lost; the newest whole commit is `{head}`"
    ));
    Ok(Some(head))
}

/// The commit of the newest generation, if its history and files are all here. `None`: they are not,
/// so an older commit would lose what only the newest one has; or there are two of the generation.
fn newest_whole_tip(packs: &Packs) -> Result<Option<ObjectId>, Error> {
    let newest = match tips(packs)?[..] {
        [(_, id)] => id,
        [(newest, id), (next, _), ..] if newest > next => id,
        _ => return Ok(None),
    };
    Ok(is_whole(packs, newest)?.then_some(newest))
}

/// The readable commits that are no parent of another one, with their generations, newest first.
fn tips(packs: &Packs) -> Result<Vec<(u64, ObjectId)>, Error> {
    let mut found: HashMap<ObjectId, commits::Read> = HashMap::new();
    for pack in packs.list().iter() {
        for id in pack.commits()? {
            let commit = commits::read(packs, &id).map(Some);
            if let Some(commit) = commit.or_else(Error::unless_unreadable)? {
                found.insert(id, commit);
            }
        }
    }
    let parents: HashSet<_> = found.values().filter_map(|commit| commit.parent).collect();
    let mut tips: Vec<_> = found
        .iter()
        .filter(|(id, _)| !parents.contains(*id))
        .map(|(id, commit)| (commit.facts.generation, *id))
        .collect();
    tips.sort_unstable_by(|a, b| b.cmp(a));
    Ok(tips)
}

fn is_whole(packs: &Packs, head: ObjectId) -> Result<bool, Error> {
    let check = || {
        history(packs, Some(head))?;
        let mut all_here = true;
        trees::walk(packs, commits::read(packs, &head)?.tree, &mut |file| {
            all_here = packs.contains(&file.id);
            if all_here {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(all_here)
    };
    match check() {
        Err(error) if Error::is_damage(&error) => Ok(false),
        checked => checked,
    }
}
