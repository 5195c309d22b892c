//! Generations: which states of the index were published as commits of the git index, and the way
//! back from each to the one before.
//!
//! A generation's record has its facts; its patches ([`patch`](super::patch)) tell what the files
//! of the names that changed in it were before. They are one stream of entries in the order of the
//! names, cut into parts of 48 KiB, each with its crc32 before it, because sled keeps values
//! beside others and large ones badly. The record is written last, so that parts without a record
//! are leftovers. All numbers are little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 1 | flags: 1 its patches are here, 2 it has a parent, 4 `config.json` changed in it |
//! | 2 | 8 | time, milliseconds since 1970 |
//! | 10 | 20 | id of the commit |
//! | 30 | 20 | id of the parent, zeroes where it has none |
//! | 50 | 8 | number of names that changed |
//! | 58 | 4 | number of parts |
//! | 62 | 8 | bytes of the stream |
//! | 70 | 8 | bytes of its stream and of all before it, also of those that are gone |
//! | 78 | 8 | epoch: what was staged before it is of no use ([`staged`](super::staged)) |
//! | 86 | 4 | `m`: length of the message |
//! | 90 | 4 | `c`: length of the new `config.json` |
//! | 94 | 4 | crc32 of all other bytes |
//! | 98 | m | message |
//! | | c | the new `config.json` |
#![warn(clippy::arithmetic_side_effects)]

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    ops::Bound,
    sync::atomic::Ordering::SeqCst,
    time::SystemTime,
};

use bytes::Bytes;

use super::{
    Store,
    catalogue::{Catalogue, Pairs, Tree, Value},
    codec::{Damaged, Reader, View, compress, digest_of, from_millis, to_millis},
    commit::{Job, Restored, Step},
    error::{EngineError, Error},
    journal::GenerationLine,
    keys::{generation_key, read_generation_key, read_staged_key, staged_key},
    patch::{self, ENTRY_HEAD_BYTES, EntryHead, put_entry},
    shared::Shared,
    staged::{Older, bound},
};
use crate::registry::{CrateName, IndexFile};

const FORMAT: u8 = 1;
const CRC_AT: usize = 94;
const HEAD_BYTES: usize = 98;

const HAS_PATCHES: u8 = 1;
const HAS_PARENT: u8 = 2;
const HAS_CONFIG: u8 = 4;

/// A part must stay below what sled puts aside, beside the 15 others of its leaf.
const PART_BYTES: usize = 48 << 10;

/// How many parts go to the committer at a time.
const PARTS_AT_A_TIME: usize = 16;

/// How many keys are looked at together.
const PAGE: usize = 256;

/// How many bytes of patches are kept: those of 20,000 generations of 250 names. When it is
/// passed the oldest generations go, and a repository that is lost starts with a new root.
pub(super) const MAX_PATCH_BYTES: u64 = 512 << 20;

/// How many bytes of files on the way back are remembered, so that a name with a long history is
/// not walked from its end again for each of its generations.
const MAX_STAGE_BYTES: usize = 64 << 20;

/// The id of a commit.
pub type CommitId = [u8; 20];

/// What a generation is, beside the files that changed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationFacts {
    /// Its number.
    pub number: u64,
    /// When it was cut, in whole seconds.
    pub time: SystemTime,
    /// Its commit.
    pub commit: CommitId,
    /// The commit before it; `None`: its history starts with it.
    pub parent: Option<CommitId>,
    /// The message of the commit.
    pub message: String,
    /// `config.json`, where it changed.
    pub config: Option<Bytes>,
}

/// A generation that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// What it is.
    pub facts: GenerationFacts,
    /// How many names changed in it.
    pub names: u64,
    /// Whether the way back to the generation before it is known.
    pub has_patches: bool,
    parts: u32,
    bytes: u64,
    running: u64,
    epoch: u64,
}

/// What is to go into the next generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// How many names, about: one that changed during a cut counts twice.
    pub names: u64,
    /// A number that grows with each change of a file.
    pub changes: u64,
}

impl Generation {
    pub(super) fn of_journal(line: &GenerationLine) -> Generation {
        Generation::bare(GenerationFacts {
            number: line.number,
            time: line.at,
            commit: line.commit,
            parent: line.parent,
            message: line.message.clone(),
            config: None,
        })
    }

    fn bare(facts: GenerationFacts) -> Generation {
        Generation {
            facts,
            names: 0,
            has_patches: false,
            parts: 0,
            bytes: 0,
            running: 0,
            epoch: 1,
        }
    }

    fn line(&self) -> GenerationLine {
        GenerationLine {
            at: self.facts.time,
            number: self.facts.number,
            commit: self.facts.commit,
            parent: self.facts.parent,
            message: self.facts.message.clone(),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its key and value.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let facts = &self.facts;
        let config = facts.config.as_deref();
        let mut out = vec![FORMAT];
        out.push(
            flag(self.has_patches, HAS_PATCHES)
                | flag(facts.parent.is_some(), HAS_PARENT)
                | flag(config.is_some(), HAS_CONFIG),
        );
        out.extend_from_slice(&to_millis(facts.time).to_le_bytes());
        out.extend_from_slice(&facts.commit);
        out.extend_from_slice(&facts.parent.unwrap_or([0; 20]));
        out.extend_from_slice(&self.names.to_le_bytes());
        out.extend_from_slice(&self.parts.to_le_bytes());
        for number in [self.bytes, self.running, self.epoch] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let (message, config) = (facts.message.as_bytes(), config.unwrap_or_default());
        for part in [message, config] {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_le_bytes());
        }
        let crc = crc_of(&out, message, config);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(message);
        out.extend_from_slice(config);
        (generation_key(facts.number, 0).to_vec(), out)
    }

    pub(super) fn decode(number: u64, bytes: &[u8]) -> Result<Generation, Damaged> {
        let mut reader = Reader(bytes);
        let [format, flags] = reader.array()?;
        if format != FORMAT {
            return Err(Damaged);
        }
        let time = from_millis(u64::from_le_bytes(reader.array()?));
        let commit = reader.array()?;
        let parent = reader.array()?;
        let names = u64::from_le_bytes(reader.array()?);
        let parts = u32::from_le_bytes(reader.array()?);
        let mut long = || reader.array().map(u64::from_le_bytes);
        let (bytes_of, running, epoch) = (long()?, long()?, long()?);
        let message_len = u32::from_le_bytes(reader.array()?);
        let config_len = u32::from_le_bytes(reader.array()?);
        let crc = u32::from_le_bytes(reader.array()?);
        let length = |length: u32| usize::try_from(length).map_err(|_large| Damaged);
        let message = reader.take(length(message_len)?)?;
        let config = reader.take(length(config_len)?)?;
        let head = bytes.get(..CRC_AT).ok_or(Damaged)?;
        if !reader.0.is_empty() || crc_of(head, message, config) != crc {
            return Err(Damaged);
        }
        Ok(Generation {
            facts: GenerationFacts {
                number,
                time,
                commit,
                parent: (flags & HAS_PARENT != 0).then_some(parent),
                message: String::from_utf8(message.to_vec()).map_err(|_not_text| Damaged)?,
                config: (flags & HAS_CONFIG != 0).then(|| Bytes::copy_from_slice(config)),
            },
            names,
            has_patches: flags & HAS_PATCHES != 0,
            parts,
            bytes: bytes_of,
            running,
            epoch,
        })
    }
}

fn flag(on: bool, flag: u8) -> u8 {
    if on { flag } else { 0 }
}

fn crc_of(head: &[u8], message: &[u8], config: &[u8]) -> u32 {
    debug_assert_eq!(head.len().saturating_add(4), HEAD_BYTES);
    let mut crc = crc32fast::Hasher::new();
    for part in [head, message, config] {
        crc.update(part);
    }
    crc.finalize()
}

// --- reading records

/// The newest generation; `None`: there is none that can be trusted. Parts that a failed cut left
/// may lie behind its record.
pub(super) fn last_of(catalogue: &Catalogue) -> Result<Option<Generation>, Error> {
    let last = catalogue.last(Tree::Generation)?;
    let mut number = last
        .and_then(|(key, _value)| read_generation_key(&key))
        .map(|(number, _part)| number);
    while let Some(at) = number {
        let value = catalogue.read(Tree::Generation, &generation_key(at, 0))?;
        let found = value.and_then(|value| Generation::decode(at, &value).ok());
        if found.is_some() || is_first(catalogue, at)? {
            return Ok(found);
        }
        number = at.checked_sub(1);
    }
    Ok(None)
}

fn is_first(catalogue: &Catalogue, number: u64) -> Result<bool, Error> {
    let first = catalogue.page(Tree::Generation, Bound::Unbounded, 1)?;
    let first = first
        .first()
        .and_then(|(key, _value)| read_generation_key(key));
    Ok(first.is_none_or(|(first, _part)| first >= number))
}

/// The keys of the oldest generations, to be removed so that the patches up to `running` are not
/// over the bound.
pub(super) fn too_old(catalogue: &Catalogue, newest: &Generation) -> Result<Vec<Vec<u8>>, Error> {
    let page = catalogue.page(Tree::Generation, Bound::Unbounded, PAGE)?;
    let mut keys = Vec::new();
    for (key, value) in &page {
        let Some((number, part)) = read_generation_key(key) else {
            continue;
        };
        if number >= newest.facts.number {
            break;
        }
        if part == 0 {
            let Ok(oldest) = Generation::decode(number, value) else {
                break;
            };
            let kept = newest
                .running
                .saturating_sub(oldest.running)
                .saturating_add(oldest.bytes);
            if kept <= MAX_PATCH_BYTES {
                break;
            }
        }
        keys.push(key.to_vec());
    }
    Ok(keys)
}

/// The keys of parts that a failed cut left behind the newest record.
pub(super) fn leftovers(catalogue: &Catalogue, newest: u64) -> Result<Vec<Vec<u8>>, Error> {
    let from = generation_key(newest, u32::MAX);
    let page = catalogue.page(Tree::Generation, Bound::Excluded(&from), PAGE)?;
    Ok(page.into_iter().map(|(key, _value)| key.to_vec()).collect())
}

impl Store {
    /// What is to go into the next generation. Cheap. Before the first generation that is all
    /// names.
    pub fn staged(&self) -> Staged {
        let staging = &self.shared().staging;
        Staged {
            names: if staging.floor.load(SeqCst) == 0 {
                self.shared().name_count()
            } else {
                staging.count()
            },
            changes: staging.changes.load(SeqCst),
        }
    }

    /// The newest generation; `None`: none was published yet.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn last_generation(&self) -> Result<Option<Generation>, Error> {
        last_of(&*self.catalogue()?)
    }

    /// The generation with a number; `None`: it is not (or no longer) known.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn generation(&self, number: u64) -> Result<Option<Generation>, Error> {
        let value = self
            .catalogue()?
            .read(Tree::Generation, &generation_key(number, 0))?;
        Ok(value.and_then(|value| Generation::decode(number, &value).ok()))
    }

    /// Whether index files were lost with an older sled and have not been given back yet.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn index_was_lost(&self) -> Result<bool, Error> {
        self.catalogue()?.is_lost()
    }

    /// Whether [`index_was_lost`](Store::index_was_lost) has to be asked. Reads memory only.
    pub fn may_lack_index(&self) -> bool {
        self.shared().lacks_index.load(SeqCst)
    }

    /// A number that is another one when the index database was made anew: who remembers what he
    /// gave to the store remembers it together with this.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn born(&self) -> Result<u64, Error> {
        self.catalogue()?.born()
    }

    /// Gives index files back that were lost: those whose bytes the store has stay as they are.
    /// Upstream is asked again for each when it is next needed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn restore(
        &self,
        files: Vec<(CrateName, Bytes)>,
        checked: SystemTime,
    ) -> Result<(), Error> {
        let restored = files
            .into_iter()
            .filter_map(|(name, bytes)| restored(&name, bytes, checked))
            .collect();
        self.step(Step::Restore(restored)).map(drop)
    }

    /// Notes that all index files are back.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn index_is_back(&self) -> Result<(), Error> {
        self.step(Step::Back).map(drop)
    }

    /// Begins a cut: fixes what every file is now. `whole`: all names go into it, as into the first
    /// generation of a history; else those that are staged. One at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn cut(&self, whole: bool) -> Result<Cut, Error> {
        let floor = self.shared().staging.floor.load(SeqCst);
        let epoch = self.step(Step::Begin)?;
        let last = self.last_generation()?;
        let number = last.map_or(1, |last| last.facts.number.saturating_add(1));
        Ok(Cut {
            whole,
            floor,
            epoch,
            walk: Walk::new(self, whole),
            patches: PatchWriter::new(self, number),
            unreadable: Vec::new(),
            failure: None,
            store: self.clone(),
        })
    }

    /// Begins to take in generations that the repository has and the store does not.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn catch_up(&self) -> Result<CatchUp, Error> {
        Ok(CatchUp {
            epoch: self.step(Step::Begin)?,
            store: self.clone(),
        })
    }

    /// Hands the names that are staged to `take`.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn staged_names(&self, take: &mut dyn FnMut(CrateName)) -> Result<(), Error> {
        let mut walk = Walk::new(self, false);
        while let Some((key, _value)) = walk.next()? {
            if let Some((name, _epoch)) = read_staged_key(&key)
                && let Ok(name) = CrateName::parse(name)
            {
                take(name);
            }
        }
        Ok(())
    }

    fn catalogue(&self) -> Result<std::sync::Arc<Catalogue>, Error> {
        self.shared().catalogue().ok_or_else(|| Error::Engine {
            doing: "be used: it is being opened anew",
            source: EngineError("not open".into()),
        })
    }

    /// Loses the patches of a generation, as damage would.
    #[cfg(test)]
    pub(crate) fn forget_generation_for_test(&self, number: u64) {
        let parts = vec![(generation_key(number, 1).to_vec(), None)];
        self.step(Step::Parts(parts)).expect("written");
    }

    fn step(&self, step: Step) -> Result<u64, Error> {
        self.shared()
            .queue
            .call(|reply| Job::Step(Box::new(step), reply))
    }
}

fn restored(name: &CrateName, bytes: Bytes, checked: SystemTime) -> Option<Restored> {
    let digest = digest_of(&bytes);
    let frame = compress(&bytes).ok()?;
    match IndexFile::parse(name, bytes) {
        Ok(file) => Some(Restored {
            name: name.clone(),
            file,
            digest,
            frame,
            checked,
        }),
        Err(error) => {
            tracing::warn!(krate.name = %name, %error, "the git index has no good file for `{name}`");
            None
        }
    }
}

/// The pairs of a tree, read in pages.
#[derive(Debug)]
struct Walk {
    store: Store,
    tree: Tree,
    from: Bound<Vec<u8>>,
    page: VecDeque<(Value, Value)>,
    /// The name of the last pair that was staged.
    last: Option<String>,
}

impl Walk {
    fn new(store: &Store, whole: bool) -> Walk {
        Walk {
            store: store.clone(),
            tree: if whole { Tree::Crates } else { Tree::Staged },
            from: Bound::Unbounded,
            page: VecDeque::new(),
            last: None,
        }
    }

    fn next(&mut self) -> Result<Option<(Value, Value)>, Error> {
        if self.page.is_empty() {
            let catalogue = self.store.catalogue()?;
            self.page = catalogue.page(self.tree, bound(&self.from), PAGE)?.into();
            if let Some((last, _value)) = self.page.back() {
                self.from = Bound::Excluded(last.to_vec());
            }
        }
        Ok(self.page.pop_front())
    }
}

// --- cutting

/// The index as it was at one moment, less what did not change since the last generation. It is an
/// iterator over the files, in the order of the names, and writes their patches on the way.
#[derive(Debug)]
pub struct Cut {
    store: Store,
    whole: bool,
    floor: u64,
    epoch: u64,
    walk: Walk,
    patches: PatchWriter,
    /// Names whose files cannot be read, with what they were: they stay staged.
    unreadable: Vec<(String, Vec<u8>)>,
    failure: Option<Error>,
}

/// A file of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutFile {
    /// Whose.
    pub name: CrateName,
    /// What it is now; `None`: it is no more.
    pub bytes: Option<Bytes>,
}

/// How many files a cut has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// New ones.
    pub new: u64,
    /// Changed ones.
    pub updated: u64,
    /// Ones that are no more.
    pub removed: u64,
}

impl Survey {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Survey::default()
    }
}

/// Takes in a change: the name, the older and the newer file. `false`: that is enough of them.
pub type Describe<'a> = dyn FnMut(&CrateName, Option<&Bytes>, Option<&Bytes>) -> bool + 'a;

/// A file at a cut, not yet read.
enum AtCut {
    Absent,
    Record(Value),
    Staged(Older),
    Unreadable,
}

impl AtCut {
    /// The record is looked at before what was staged since: a change between the two was staged.
    fn of(shared: &Shared, catalogue: &Catalogue, key: &str, epoch: u64) -> Result<AtCut, Error> {
        let record = shared.record(key);
        if let Some(value) = catalogue.read(Tree::Staged, &staged_key(key, epoch))? {
            return Ok(match Older::decode(&value) {
                Ok(older) if older.digest().is_none() => AtCut::Absent,
                Ok(older) => AtCut::Staged(older),
                Err(Damaged) => AtCut::Unreadable,
            });
        }
        Ok(match record {
            None => AtCut::Absent,
            Some(record) if shared.has_frame(key, &record) => AtCut::Record(record),
            Some(_lost) => AtCut::Unreadable,
        })
    }

    fn digest(&self) -> Option<[u8; 16]> {
        match self {
            AtCut::Absent | AtCut::Unreadable => None,
            AtCut::Record(record) => View::read(record).ok().map(|view| view.digest),
            AtCut::Staged(older) => older.digest(),
        }
    }

    fn bytes(&self) -> Result<Option<Bytes>, Damaged> {
        match self {
            AtCut::Absent => Ok(None),
            AtCut::Unreadable => Err(Damaged),
            AtCut::Record(record) => {
                let bytes = View::read(record)?.decompress()?;
                Ok(Some(Bytes::from(bytes)))
            }
            AtCut::Staged(older) => older.bytes(),
        }
    }
}

/// A name that changed, perhaps.
struct Candidate {
    name: CrateName,
    /// `None`: it cannot be known.
    older: Option<Older>,
    /// The value that was staged.
    staged: Vec<u8>,
    newer: AtCut,
}

impl Candidate {
    fn is_change(&self) -> bool {
        match &self.older {
            Some(older) => older.digest() != self.newer.digest(),
            None => true,
        }
    }

    fn is_readable(&self) -> bool {
        !matches!(self.newer, AtCut::Unreadable)
    }
}

impl Cut {
    /// The number that the generation will have.
    pub fn number(&self) -> u64 {
        self.patches.number
    }

    /// Counts, and hands each change with the older and the newer file to `describe` as long as it
    /// says `true`.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn survey(&self, describe: &mut Describe<'_>) -> Result<Survey, Error> {
        let mut walk = Walk::new(&self.store, self.whole);
        let mut survey = Survey::default();
        let mut wanted = true;
        while let Some(candidate) = self.candidate(&mut walk)? {
            if !candidate.is_change() || !candidate.is_readable() {
                continue;
            }
            let had = candidate.older.as_ref().map(Older::digest);
            let counter = match (had, candidate.newer.digest()) {
                (_, None) => &mut survey.removed,
                (Some(None), Some(_)) => &mut survey.new,
                (_, Some(_)) => &mut survey.updated,
            };
            *counter = counter.saturating_add(1);
            if wanted {
                let older = candidate.older.as_ref().map(Older::bytes);
                let older = older.and_then(Result::ok).flatten();
                let newer = candidate.newer.bytes().ok().flatten();
                wanted = describe(&candidate.name, older.as_ref(), newer.as_ref());
            }
        }
        Ok(survey)
    }

    fn candidate(&self, walk: &mut Walk) -> Result<Option<Candidate>, Error> {
        let catalogue = self.store.catalogue()?;
        while let Some((key, value)) = walk.next()? {
            let Some((key, staged)) = self.of_cut(&key, &value, &mut walk.last) else {
                continue;
            };
            let Ok(name) = CrateName::parse(&key) else {
                continue;
            };
            let newer = AtCut::of(self.store.shared(), &catalogue, &key, self.epoch)?;
            if self.whole && !matches!(newer, AtCut::Record(_) | AtCut::Staged(_)) {
                continue;
            }
            return Ok(Some(Candidate {
                name,
                older: Older::decode(&staged).ok(),
                staged,
                newer,
            }));
        }
        Ok(None)
    }

    /// The name and what its file was; `None`: nothing for this cut.
    fn of_cut(
        &self,
        key: &[u8],
        value: &[u8],
        last: &mut Option<String>,
    ) -> Option<(String, Vec<u8>)> {
        if self.whole {
            let absent = Older::of_bytes(None).ok()?.encode();
            return Some((str::from_utf8(key).ok()?.to_owned(), absent));
        }
        let (name, epoch) = read_staged_key(key)?;
        // Of several epochs of a name the oldest comes first, and counts.
        if epoch < self.floor || last.as_deref() == Some(name) {
            return None;
        }
        *last = Some(name.to_owned());
        (epoch < self.epoch).then(|| (name.to_owned(), value.to_vec()))
    }

    fn advance(&mut self) -> Result<Option<CutFile>, Error> {
        loop {
            let mut walk = std::mem::replace(&mut self.walk, Walk::new(&self.store, self.whole));
            let candidate = self.candidate(&mut walk);
            self.walk = walk;
            let Some(candidate) = candidate? else {
                return Ok(None);
            };
            if !candidate.is_change() {
                continue;
            }
            let Ok(bytes) = candidate.newer.bytes() else {
                // What the git index has of it stays.
                let name = candidate.name.key().to_owned();
                self.unreadable.push((name, candidate.staged));
                self.keep_some()?;
                continue;
            };
            let older = candidate.older.and_then(|older| older.bytes().ok());
            let older = match &older {
                None => patch::Older::Lost,
                Some(None) => patch::Older::Absent,
                Some(Some(bytes)) => patch::Older::Bytes(bytes),
            };
            self.patches
                .put(candidate.name.key(), older, bytes.as_deref())?;
            return Ok(Some(CutFile {
                name: candidate.name,
                bytes,
            }));
        }
    }

    /// Stages many unreadable names before the end: their entries say what those of the oldest
    /// epoch say, which count if the cut comes to nothing.
    fn keep_some(&mut self) -> Result<(), Error> {
        if self.unreadable.len() < PAGE {
            return Ok(());
        }
        let keep = keys_at(std::mem::take(&mut self.unreadable), self.epoch);
        self.store.step(Step::Stage(keep)).map(drop)
    }

    /// Whether all files were read; an iterator cannot tell.
    ///
    /// # Errors
    /// What kept it from the end.
    pub fn check(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Records the generation that was made of the cut, durably, and forgets what was staged for
    /// it. What changed since the cut began stays staged.
    ///
    /// # Errors
    /// See [`Error`]; everything stays staged then.
    pub fn publish(mut self, facts: GenerationFacts) -> Result<(), Error> {
        self.check()?;
        let mut generation = self.patches.finish(facts)?;
        generation.epoch = self.epoch;
        let step = Step::Publish {
            line: Some(generation.line()),
            generation: Box::new(generation),
            keep: keys_at(std::mem::take(&mut self.unreadable), self.epoch),
        };
        self.store.step(step)?;
        self.store.sweep_staged(self.epoch)
    }

    /// Forgets what was staged where nothing changed in the end.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn settle(mut self) -> Result<(), Error> {
        while self.next().is_some() {}
        self.check()?;
        let keep = keys_at(std::mem::take(&mut self.unreadable), self.epoch);
        self.store.raise_floor(self.epoch, keep)
    }
}

impl Iterator for Cut {
    type Item = CutFile;

    fn next(&mut self) -> Option<CutFile> {
        if self.failure.is_some() {
            return None;
        }
        match self.advance() {
            Ok(file) => file,
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }
}

fn keys_at(names: Vec<(String, Vec<u8>)>, epoch: u64) -> Pairs {
    names
        .into_iter()
        .map(|(name, value)| (staged_key(&name, epoch), Some(value)))
        .collect()
}

impl Store {
    fn raise_floor(&self, epoch: u64, keep: Pairs) -> Result<(), Error> {
        let Some(mut last) = self.last_generation()? else {
            return Ok(());
        };
        last.epoch = epoch;
        self.step(Step::Publish {
            line: None,
            generation: Box::new(last),
            keep,
        })?;
        self.sweep_staged(epoch)
    }

    /// Removes what is of no use any more, a page at a time, so that publishers get in between.
    fn sweep_staged(&self, epoch: u64) -> Result<(), Error> {
        let mut walk = Walk::new(self, false);
        let mut useless = Vec::new();
        while let Some((key, _value)) = walk.next()? {
            if read_staged_key(&key).is_none_or(|(_name, of)| of < epoch) {
                useless.push((key.to_vec(), None));
            }
            if useless.len() >= PAGE {
                self.step(Step::Sweep(std::mem::take(&mut useless)))?;
            }
        }
        if useless.is_empty() {
            return Ok(());
        }
        self.step(Step::Sweep(useless)).map(drop)
    }
}

/// Writes the patches of one generation, part by part.
#[derive(Debug)]
pub struct PatchWriter {
    store: Store,
    number: u64,
    buffer: Vec<u8>,
    pending: Pairs,
    parts: u32,
    bytes: u64,
    names: u64,
}

impl PatchWriter {
    fn new(store: &Store, number: u64) -> PatchWriter {
        PatchWriter {
            store: store.clone(),
            number,
            buffer: Vec::new(),
            pending: Vec::new(),
            parts: 0,
            bytes: 0,
            names: 0,
        }
    }

    /// Takes in what a name's file was and is. Names come in order.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn add(
        &mut self,
        name: &CrateName,
        older: Option<&[u8]>,
        newer: Option<&[u8]>,
    ) -> Result<(), Error> {
        let older = older.map_or(patch::Older::Absent, patch::Older::Bytes);
        self.put(name.key(), older, newer)
    }

    fn put(
        &mut self,
        key: &str,
        older: patch::Older<'_>,
        newer: Option<&[u8]>,
    ) -> Result<(), Error> {
        put_entry(&mut self.buffer, key, older, newer)
            .map_err(Error::io("compress", std::path::Path::new(key)))?;
        self.names = self.names.saturating_add(1);
        while self.buffer.len() >= PART_BYTES {
            let rest = self.buffer.split_off(PART_BYTES);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.end_part(&part);
        }
        if self.pending.len() >= PARTS_AT_A_TIME {
            self.send()?;
        }
        Ok(())
    }

    fn end_part(&mut self, part: &[u8]) {
        self.parts = self.parts.saturating_add(1);
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        let mut value = crc32fast::hash(part).to_le_bytes().to_vec();
        value.extend_from_slice(part);
        let key = generation_key(self.number, self.parts).to_vec();
        self.pending.push((key, Some(value)));
    }

    fn send(&mut self) -> Result<(), Error> {
        let parts = std::mem::take(&mut self.pending);
        if parts.is_empty() {
            return Ok(());
        }
        self.store.step(Step::Parts(parts)).map(drop)
    }

    fn finish(&mut self, facts: GenerationFacts) -> Result<Generation, Error> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.end_part(&rest);
        }
        self.send()?;
        let before = self.store.last_generation()?;
        let before = before.map_or(0, |before| before.running);
        Ok(Generation {
            names: self.names,
            has_patches: true,
            parts: self.parts,
            bytes: self.bytes,
            running: before.saturating_add(self.bytes),
            ..Generation::bare(facts)
        })
    }
}

// --- catching up with the repository

/// Takes in generations that the repository has and the store does not, and stages where the two
/// differ.
#[derive(Debug)]
pub struct CatchUp {
    store: Store,
    epoch: u64,
}

impl CatchUp {
    /// A writer for the patches of a generation.
    pub fn patches(&self, number: u64) -> PatchWriter {
        PatchWriter::new(&self.store, number)
    }

    /// Records a generation. `None`: the way back from it is not known.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn record(
        &self,
        facts: GenerationFacts,
        patches: Option<PatchWriter>,
    ) -> Result<(), Error> {
        let mut generation = match patches {
            Some(mut patches) => patches.finish(facts)?,
            None => Generation::bare(facts),
        };
        // What is staged stays so until the end.
        generation.epoch = self.store.shared().staging.floor.load(SeqCst).max(1);
        let step = Step::Publish {
            line: Some(generation.line()),
            generation: Box::new(generation),
            keep: Vec::new(),
        };
        self.store.step(step).map(drop)
    }

    /// Says what the last generation has of names: the next one has the difference.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn stage(&self, files: Vec<(CrateName, Option<Bytes>)>) -> Result<(), Error> {
        let mut pairs = Vec::with_capacity(files.len());
        for (name, bytes) in files {
            let older = Older::of_bytes(bytes.as_deref())
                .map_err(Error::io("compress", std::path::Path::new(name.key())))?;
            pairs.push((staged_key(name.key(), self.epoch), Some(older.encode())));
        }
        self.store.step(Step::Stage(pairs)).map(drop)
    }

    /// Forgets what was staged before: only what was said to differ does.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn finish(self) -> Result<(), Error> {
        self.store.raise_floor(self.epoch, Vec::new())
    }
}

// --- the way back

/// All generations from one on, to be made again in their order.
#[derive(Debug)]
pub struct History {
    store: Store,
    generations: Vec<Streamed>,
    /// The entries of all names, those of a name (and of others with its hash) side by side, the
    /// oldest first. Sixteen bytes of each: patches of half a gigabyte may have millions.
    index: Vec<Place>,
    names: RandomState,
    /// Files on the way back that will be needed again.
    stages: HashMap<(Box<str>, usize), Option<Bytes>>,
    stage_bytes: usize,
}

/// A generation's number and the bytes of its stream.
#[derive(Debug, Clone, Copy)]
struct Streamed {
    number: u64,
    names: u64,
    bytes: u64,
}

/// Of which name, in which generation, and where in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    name: u64,
    generation: u32,
    at: u32,
}

impl Store {
    /// The generations from `first` on (`None`: from the newest one without a parent on), if the
    /// way back through them is known; else `None`.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn history(&self, first: Option<u64>) -> Result<Option<History>, Error> {
        let Some(last) = self.last_generation()? else {
            return Ok(None);
        };
        let mut generations = VecDeque::new();
        let mut number = last.facts.number;
        loop {
            let Some(generation) = self.generation(number)?.filter(|found| found.has_patches)
            else {
                return Ok(None);
            };
            let is_root = generation.facts.parent.is_none();
            generations.push_front(Streamed {
                number,
                names: generation.names,
                bytes: generation.bytes,
            });
            if first.map_or(is_root, |first| first == number) {
                break;
            }
            if is_root || number == 0 {
                return Ok(None);
            }
            number = number.saturating_sub(1);
        }
        let mut history = History {
            store: self.clone(),
            generations: generations.into(),
            index: Vec::new(),
            names: RandomState::new(),
            stages: HashMap::new(),
            stage_bytes: 0,
        };
        Ok(history.read_index()?.then_some(history))
    }
}

impl History {
    /// How many generations there are.
    pub fn count(&self) -> usize {
        self.generations.len()
    }

    /// A generation by its place, the oldest being at 0; `None`: it is not there any more.
    ///
    /// # Errors
    /// If sled cannot be read.
    pub fn generation(&self, place: usize) -> Result<Option<GenerationFacts>, Error> {
        let Some(streamed) = self.generations.get(place) else {
            return Ok(None);
        };
        let found = self.store.generation(streamed.number)?;
        Ok(found.map(|generation| generation.facts))
    }

    /// `false`: something is damaged.
    fn read_index(&mut self) -> Result<bool, Error> {
        let names = |streamed: &Streamed| streamed.names;
        let count = self.generations.iter().map(names).sum::<u64>();
        // A count that is a lie must not take the memory.
        let count = usize::try_from(count.min(1 << 24)).unwrap_or(0);
        let mut index = Vec::with_capacity(count);
        for place in 0..self.generations.len() {
            let Ok(generation) = u32::try_from(place) else {
                return Ok(false);
            };
            let mut stream = self.stream(place, 0);
            loop {
                let Ok(at) = u32::try_from(stream.position) else {
                    return Ok(false);
                };
                match stream.entry()? {
                    Found::End => break,
                    Found::Damaged => return Ok(false),
                    Found::Entry { key, .. } => index.push(Place {
                        name: self.names.hash_one(&*key),
                        generation,
                        at,
                    }),
                }
            }
        }
        index.sort_unstable();
        self.index = index;
        Ok(true)
    }

    /// The entries of a name, the oldest first. Those of another name with the same hash are told
    /// by their keys.
    fn places(&self, key: &str) -> Result<Vec<Place>, Error> {
        let hash = self.names.hash_one(key);
        let start = self.index.partition_point(|place| place.name < hash);
        let all = self.index.get(start..).unwrap_or_default();
        let alike = all.iter().take_while(|place| place.name == hash);
        let mut places: Vec<Place> = alike.copied().collect();
        let is_shared = places.windows(2).any(|pair| match pair {
            [a, b] => a.generation == b.generation,
            _ => false,
        });
        if is_shared {
            let mut own = Vec::new();
            for place in places {
                if matches!(self.entry(place)?, Found::Entry { key: found, .. } if *found == *key) {
                    own.push(place);
                }
            }
            places = own;
        }
        Ok(places)
    }

    fn entry(&self, place: Place) -> Result<Found, Error> {
        let generation = usize::try_from(place.generation).unwrap_or(usize::MAX);
        self.stream(generation, u64::from(place.at)).entry()
    }

    fn stream(&self, generation: usize, at: u64) -> Stream<'_> {
        let generation = self.generations.get(generation);
        Stream {
            store: &self.store,
            number: generation.map_or(0, |found| found.number),
            bytes: generation.map_or(0, |found| found.bytes),
            position: at,
            part: None,
        }
    }

    /// The files that changed in one of the [`generations`](History::generations), by its place
    /// among them, as they were after it.
    pub fn files(&mut self, place: usize) -> HistoryFiles<'_> {
        HistoryFiles {
            history: self,
            place,
            at: 0,
            is_sound: true,
            failure: None,
        }
    }

    /// The file of a name after a generation in which it changed.
    fn after(&mut self, key: &str, place: usize) -> Result<Result<Option<Bytes>, Damaged>, Error> {
        let entries = self.places(key)?;
        let is_wanted = |entry: &Place| usize::try_from(entry.generation) == Ok(place);
        let Some(wanted) = entries.iter().position(is_wanted) else {
            return Ok(Err(Damaged));
        };
        let last = entries.len().saturating_sub(1);
        let known = (wanted..=last).find_map(|index| {
            let stage = self.stages.get(&(Box::from(key), index))?;
            Some((index, stage.clone()))
        });
        let (mut index, mut bytes) = match known {
            Some(known) => known,
            None => match self.at_last_generation(key)? {
                Ok(bytes) => (last, bytes),
                Err(damaged) => return Ok(Err(damaged)),
            },
        };
        while index > wanted {
            self.remember(key, index, bytes.clone());
            let Some(entry) = entries.get(index) else {
                return Ok(Err(Damaged));
            };
            let found = self.entry(*entry)?;
            let Found::Entry {
                head,
                data,
                key: of,
            } = found
            else {
                return Ok(Err(Damaged));
            };
            if *of != *key {
                return Ok(Err(Damaged));
            }
            match head.older(&data, bytes.as_deref()) {
                Ok(older) => bytes = older.map(Bytes::from),
                Err(damaged) => return Ok(Err(damaged)),
            }
            index = index.saturating_sub(1);
        }
        self.forget(key, wanted);
        Ok(Ok(bytes))
    }

    fn remember(&mut self, key: &str, index: usize, bytes: Option<Bytes>) {
        let len = bytes.as_ref().map_or(0, Bytes::len);
        if self.stage_bytes.saturating_add(len) > MAX_STAGE_BYTES {
            self.stages.clear();
            self.stage_bytes = 0;
        }
        if self.stages.insert((key.into(), index), bytes).is_none() {
            self.stage_bytes = self.stage_bytes.saturating_add(len);
        }
    }

    fn forget(&mut self, key: &str, index: usize) {
        if let Some(bytes) = self.stages.remove(&(Box::from(key), index)) {
            let len = bytes.as_ref().map_or(0, Bytes::len);
            self.stage_bytes = self.stage_bytes.saturating_sub(len);
        }
    }

    fn at_last_generation(&self, key: &str) -> Result<Result<Option<Bytes>, Damaged>, Error> {
        let shared = self.store.shared();
        let catalogue = self.store.catalogue()?;
        let record = shared.record(key);
        let floor = staged_key(key, shared.staging.floor.load(SeqCst));
        let page = catalogue.page(Tree::Staged, Bound::Included(&floor), 1)?;
        let staged = page.first().filter(|(found, _value)| {
            read_staged_key(found).is_some_and(|(name, _epoch)| name == key)
        });
        if let Some((_key, value)) = staged {
            return Ok(Older::decode(value).and_then(|older| older.bytes()));
        }
        Ok(match record {
            None => Ok(None),
            Some(record) => AtCut::Record(record).bytes(),
        })
    }
}

/// The files that changed in a generation.
#[derive(Debug)]
pub struct HistoryFiles<'a> {
    history: &'a mut History,
    place: usize,
    at: u64,
    is_sound: bool,
    failure: Option<Error>,
}

impl HistoryFiles<'_> {
    /// Whether they were all known; an iterator cannot tell.
    ///
    /// # Errors
    /// If sled could not be read.
    pub fn check(self) -> Result<bool, Error> {
        self.failure.map_or(Ok(self.is_sound), Err)
    }

    fn advance(&mut self) -> Result<Option<CutFile>, Error> {
        let mut stream = self.history.stream(self.place, self.at);
        let key = match stream.entry()? {
            Found::Entry { key, .. } => key,
            Found::End => return Ok(None),
            Found::Damaged => {
                self.is_sound = false;
                return Ok(None);
            }
        };
        self.at = stream.position;
        let after = self.history.after(&key, self.place)?;
        let (Ok(bytes), Ok(name)) = (after, CrateName::parse(&key)) else {
            self.is_sound = false;
            return Ok(None);
        };
        Ok(Some(CutFile { name, bytes }))
    }
}

impl Iterator for HistoryFiles<'_> {
    type Item = CutFile;

    fn next(&mut self) -> Option<CutFile> {
        if self.failure.is_some() || !self.is_sound {
            return None;
        }
        self.advance().unwrap_or_else(|error| {
            self.failure = Some(error);
            None
        })
    }
}

/// The entries of one generation, from a place on.
struct Stream<'a> {
    store: &'a Store,
    number: u64,
    bytes: u64,
    position: u64,
    /// The part that was read last.
    part: Option<(u32, Vec<u8>)>,
}

enum Found {
    End,
    Damaged,
    Entry {
        head: EntryHead,
        key: Box<str>,
        data: Vec<u8>,
    },
}

impl Stream<'_> {
    fn entry(&mut self) -> Result<Found, Error> {
        if self.position >= self.bytes {
            return Ok(Found::End);
        }
        let Some(head) = self.take(ENTRY_HEAD_BYTES)? else {
            return Ok(Found::Damaged);
        };
        let Ok(head) = EntryHead::read(&head) else {
            return Ok(Found::Damaged);
        };
        let (key, data) = (self.take(head.key_len)?, self.take(head.data_len)?);
        let key = key.and_then(|key| String::from_utf8(key).ok());
        let (Some(key), Some(data)) = (key, data) else {
            return Ok(Found::Damaged);
        };
        Ok(Found::Entry {
            head,
            key: key.into(),
            data,
        })
    }

    /// The next bytes; `None`: they are not there, or damaged.
    fn take(&mut self, length: usize) -> Result<Option<Vec<u8>>, Error> {
        let part_bytes = u64::try_from(PART_BYTES).unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        while taken.len() < length {
            let part = self.position.checked_div(part_bytes).unwrap_or(0);
            let Ok(part) = u32::try_from(part.saturating_add(1)) else {
                return Ok(None);
            };
            let at = self.position.checked_rem(part_bytes).unwrap_or(0);
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let Some(bytes) = self.part(part)? else {
                return Ok(None);
            };
            let rest = bytes.get(at..).unwrap_or_default();
            let some = rest
                .get(..length.saturating_sub(taken.len()).min(rest.len()))
                .unwrap_or_default();
            if some.is_empty() {
                return Ok(None);
            }
            taken.extend_from_slice(some);
            let some = u64::try_from(some.len()).unwrap_or(u64::MAX);
            self.position = self.position.saturating_add(some);
        }
        Ok(Some(taken))
    }

    fn part(&mut self, part: u32) -> Result<Option<&[u8]>, Error> {
        if self
            .part
            .as_ref()
            .is_none_or(|(read, _bytes)| *read != part)
        {
            let key = generation_key(self.number, part);
            let value = self.store.catalogue()?.read(Tree::Generation, &key)?;
            let Some((crc, bytes)) = value.as_deref().and_then(<[u8]>::split_first_chunk) else {
                return Ok(None);
            };
            if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
                return Ok(None);
            }
            self.part = Some((part, bytes.to_vec()));
        }
        Ok(self.part.as_ref().map(|(_part, bytes)| bytes.as_slice()))
    }
}
