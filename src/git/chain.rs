//! The packs of the repository in the order of their generations: taken in, put together, served.
//!
//! Which pack holds which generations is not written down: a pack holds a generation when it has
//! its commit, and of two that do (a merge that a crash cut short) the larger one counts.

#![warn(clippy::arithmetic_side_effects)]

use std::{
    collections::HashMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compress, Decompress};
use parking_lot::{Mutex, RwLock};

use super::{
    Error, ObjectId, delta,
    entry::{self, Form, HEADER_MAX, Header, Kind},
    log::{Appender, End, Files, Log, Record},
    merge::{self, Weight},
    objects::Packs,
    pack,
    pack_file::PackFile,
    serve::{History, Serving},
    tip::Tip,
    types::Head,
};

/// Deltas in a row that a client must follow to make an object, as many as git itself makes.
const DEPTH_MAX: u8 = 50;

/// The packs and what is served from them.
#[derive(Debug)]
pub(super) struct Chain {
    repository: PathBuf,
    state: Mutex<State>,
    serving: RwLock<Arc<Serving>>,
}

/// A pack that a new generation came with.
#[derive(Debug, Clone)]
pub(super) struct NewPack {
    /// The `.pack`, in its place, with its index beside it.
    pub(super) path: PathBuf,
    /// The generation.
    pub(super) head: Head,
    /// New blobs and trees with those that they replace at the same path.
    pub(super) bases: Vec<(ObjectId, ObjectId)>,
}

/// What tidying did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tidied {
    /// Packs that are gone: they became part of others.
    pub(super) removed: Vec<PathBuf>,
    /// Packs that took their place.
    pub(super) made: Vec<PathBuf>,
    /// Bytes written for that.
    pub(super) written_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    log: Option<Log>,
    tip: Arc<Mutex<Option<Tip>>>,
    head: Option<Head>,
}

/// A pack and its generations.
#[derive(Debug)]
struct Member {
    generations: RangeInclusive<u64>,
    pack: Arc<PackFile>,
    /// Whether it cannot be merged: the first pack, or its generations have gaps.
    fixed: bool,
}

impl Chain {
    /// Opens the catalogue of the packs that hold the linear history ending at `head` (`None`: empty).
    /// Side files that are missing or damaged are made anew from packs and commits. Packs that
    /// belong to no generation up to head are returned, for the caller to remove.
    pub(super) fn open(
        repository: &Path,
        head: Option<ObjectId>,
    ) -> Result<(Chain, Vec<PathBuf>), Error> {
        let chain = Chain::empty(repository);
        let (packs, mut left) = open_packs(&chain.folder())?;
        let Some(head) = head else {
            left.extend(packs.iter().map(|pack| pack.path().to_owned()));
            return Ok((chain, left));
        };
        let log = Log::open(repository, &packs)?;
        let packs = Packs(packs);
        let (log, commits, root) = history(&packs, log, head)?;
        let count = commits.len() as u64;
        let newest = root.saturating_add(count).saturating_sub(1);
        let members = members(&packs, &commits, root)?;
        let used =
            |pack: &Arc<PackFile>| members.iter().any(|member| Arc::ptr_eq(&member.pack, pack));
        left.extend(
            packs
                .0
                .iter()
                .filter(|pack| !used(pack))
                .map(|pack| pack.path().to_owned()),
        );
        let mut state = State {
            members: Vec::new(),
            log,
            ..State::default()
        };
        for member in members {
            chain.take_in_again(&mut state, member, &commits, root)?;
        }
        *chain.state.lock() = state;
        chain.publish(Head {
            id: head,
            generation: newest,
        });
        Ok((chain, left))
    }

    /// The catalogue of no pack.
    pub(super) fn empty(repository: &Path) -> Chain {
        Chain {
            repository: repository.to_owned(),
            state: Mutex::default(),
            serving: RwLock::new(Arc::new(Serving::new(None, None))),
        }
    }

    fn folder(&self) -> PathBuf {
        self.repository.join("objects").join("pack")
    }

    /// Takes in the pack of a new generation, which is whole and synced in its place but not yet
    /// visible; durable on return.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the caller has no use for it afterwards"
    )]
    pub(super) fn append(&self, new: NewPack) -> Result<(), Error> {
        let mut state = self.state.lock();
        let generation = new.head.generation;
        state.roll_back(generation)?;
        let pack = Arc::new(PackFile::open(&new.path)?);
        if pack.find(&new.head.id).is_none() {
            return Err(Error::damaged(&new.path, "its commit is missing"));
        }
        state.take_in(
            &self.repository,
            generation,
            &pack,
            &[new.head.id],
            &new.bases,
        )?;
        let fixed = state.members.is_empty();
        state.members.push(Member {
            generations: generation..=generation,
            pack,
            fixed,
        });
        state.move_tip(generation, new.head.id);
        Ok(())
    }

    /// Makes the newest appended pack the head that `serving` shows.
    pub(super) fn publish(&self, head: Head) {
        let mut state = self.state.lock();
        state.head = Some(head);
        *self.serving.write() = Arc::new(state.serving());
    }

    /// What requests are answered from, as it is now.
    pub(super) fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.read())
    }

    /// What serving found damaged, in its own files or in the packs.
    pub(super) fn damage(&self) -> Option<String> {
        self.serving().damage()
    }

    /// Whether all packs are still in their places: somebody may have run `git gc`.
    pub(super) fn is_in_place(&self) -> bool {
        let state = self.state.lock();
        state
            .members
            .iter()
            .all(|member| member.pack.path().try_exists().unwrap_or(true))
    }

    /// Merges packs when there are too many. What a merge writes is synced before the packs go
    /// that it came from; a crash leaves them, and the next `open` names them to its caller. What
    /// is being read stays readable.
    pub(super) fn tidy(&self) -> Result<Tidied, Error> {
        let mut state = self.state.lock();
        let mut tidied = Tidied::default();
        loop {
            let weights: Vec<_> = state.members.iter().map(Member::weight).collect();
            let Some(range) = merge::next(&weights) else {
                return Ok(tidied);
            };
            let members = state.members.get(range.clone()).unwrap_or_default();
            let (Some(history), Some(first), Some(last)) =
                (state.history(), members.first(), members.last())
            else {
                return Ok(tidied);
            };
            let generations = *first.generations.start()..=*last.generations.end();
            let (start, end) = state.span(&generations);
            let stream = history.self_contained(start, end);
            let written = merge::write(&self.folder(), stream);
            // What does not come out right was wrong in the run: it has to be made anew.
            let (path, bytes) = written.inspect_err(|error| history.files.report(error))?;
            let pack = Arc::new(PackFile::open(&path)?);
            let merged = Member {
                generations,
                pack,
                fixed: false,
            };
            let old: Vec<_> = state.members.splice(range, [merged]).collect();
            *self.serving.write() = Arc::new(state.serving());
            for member in old {
                pack::remove_pack(member.pack.path());
                tidied.removed.push(member.pack.path().to_owned());
            }
            pack::sync_folder(&self.folder())?;
            tidied.made.push(path);
            tidied.written_bytes = tidied.written_bytes.saturating_add(bytes);
        }
    }

    /// Adds a pack that was found, to the run too if that does not go so far.
    fn take_in_again(
        &self,
        state: &mut State,
        member: Member,
        commits: &[ObjectId],
        root: u64,
    ) -> Result<(), Error> {
        let known = state
            .log
            .as_ref()
            .and_then(|log| log.generations().read().last());
        let first = *member.generations.start();
        if known.is_none_or(|(known, _)| known < *member.generations.end()) {
            if let Some(log) = state
                .log
                .as_ref()
                .filter(|_| known.is_some_and(|(known, _)| known >= first))
            {
                log.truncate(first)?;
            }
            let numbers = member
                .generations
                .clone()
                .map(|number| usize::try_from(number.saturating_sub(root)).unwrap_or(usize::MAX));
            let commits: Vec<_> = numbers
                .filter_map(|index| commits.get(index).copied())
                .collect();
            state.take_in(&self.repository, first, &member.pack, &commits, &[])?;
        }
        state.members.push(member);
        Ok(())
    }
}

impl State {
    /// Forgets what was appended and never published.
    fn roll_back(&mut self, generation: u64) -> Result<(), Error> {
        self.members
            .retain(|member| *member.generations.end() < generation);
        if self.members.is_empty() {
            self.log = None;
        }
        if let Some(log) = &self.log {
            log.truncate(generation)?;
        }
        let mut tip = self.tip.lock();
        if tip.as_ref().is_some_and(|tip| tip.generation >= generation) {
            *tip = None;
        }
        Ok(())
    }

    /// Brings the tip to a new generation, if it is known. If that fails it is made anew when it is
    /// needed.
    fn move_tip(&self, generation: u64, commit: ObjectId) {
        let mut known = self.tip.lock();
        let Some(mut tip) = known
            .take()
            .filter(|tip| tip.generation.checked_add(1) == Some(generation))
        else {
            return;
        };
        let Some(log) = &self.log else { return };
        let Some((parent, _)) = log.generations().read().get(tip.generation) else {
            return;
        };
        let span = self.span(&(generation..=generation));
        if tip
            .go_on(&self.packs(), log.files(), span, (parent, commit))
            .is_ok()
        {
            *known = Some(tip);
        }
    }

    fn packs(&self) -> Packs {
        Packs(
            self.members
                .iter()
                .map(|member| Arc::clone(&member.pack))
                .collect(),
        )
    }

    fn history(&self) -> Option<History> {
        let log = self.log.as_ref()?;
        Some(History {
            files: Arc::clone(log.files()),
            generations: Arc::clone(log.generations()),
            packs: self.packs(),
            // The bytes of a stream may depend on the packs: its SHA-1 is kept only as long as they stay.
            plans: Arc::default(),
            tip: Arc::clone(&self.tip),
        })
    }

    fn serving(&self) -> Serving {
        Serving::new(self.head, self.history())
    }

    /// Where the entries of some generations begin and end in the run.
    fn span(&self, generations: &RangeInclusive<u64>) -> (End, End) {
        let zero = End {
            entry: 0,
            position: 0,
        };
        let Some(log) = &self.log else {
            return (zero, zero);
        };
        let known = log.generations().read();
        let end = |generation| known.get(generation).map_or(zero, |(_, end)| end);
        (
            end(generations.start().saturating_sub(1)),
            end(*generations.end()),
        )
    }

    /// Writes the objects of a pack behind the run.
    fn take_in(
        &mut self,
        repository: &Path,
        first: u64,
        pack: &Arc<PackFile>,
        commits: &[ObjectId],
        bases: &[(ObjectId, ObjectId)],
    ) -> Result<(), Error> {
        let Some(log) = &self.log else {
            let log = Log::create(repository, first, Arc::clone(pack))?;
            note_base(&log, pack, commits)?;
            self.log = Some(log);
            return Ok(());
        };
        let expected = log
            .generations()
            .read()
            .last()
            .and_then(|(last, _)| last.checked_add(1));
        if expected != Some(first) {
            return Err(Error::damaged(
                pack.path(),
                format!("generation {first} does not follow the one before"),
            ));
        }
        let earlier = self.packs();
        // Without the bases the new objects are whole, and the commit stands.
        let bases = self
            .entries_of(log, &earlier, bases)
            .unwrap_or_else(|error| {
                log.files().report(&error);
                HashMap::new()
            });
        let mut taker = Taker {
            files: log.files(),
            appender: log.appender(),
            inflater: Decompress::new(true),
            deflater: entry::deflater(),
            earlier: &earlier,
            bases: &bases,
            pack,
            numbers: Vec::new(),
        };
        let places = pack.places();
        let ends = places
            .iter()
            .skip(1)
            .map(|(place, _)| *place)
            .chain([pack.end()]);
        for ((place, id), end) in places.iter().zip(ends) {
            if earlier.find(id).is_none() {
                taker.take(*place, *id, end)?;
            }
        }
        taker.appender.finish(commits)
    }
}

impl State {
    /// What is replaced with the entry that it is: looked up in the tree of the newest generation.
    fn entries_of(
        &self,
        log: &Log,
        packs: &Packs,
        bases: &[(ObjectId, ObjectId)],
    ) -> Result<HashMap<ObjectId, (ObjectId, u32)>, Error> {
        let mut tip = self.tip.lock();
        if bases.is_empty() {
            return Ok(HashMap::new());
        }
        let Some(newest) = log.generations().read().last() else {
            return Ok(HashMap::new());
        };
        if tip.as_ref().is_none_or(|tip| tip.generation != newest.0) {
            *tip = Some(Tip::load(packs, log.files(), log.end(), newest)?);
        }
        let tip = tip.as_ref();
        let entry_of =
            |(new, old): &(ObjectId, ObjectId)| Some((*new, (*old, tip?.entry_of(old)?)));
        Ok(bases.iter().filter_map(entry_of).collect())
    }
}

impl Member {
    fn weight(&self) -> Weight {
        Weight {
            generations: self
                .generations
                .end()
                .saturating_sub(*self.generations.start())
                .saturating_add(1),
            bytes: self.pack.end(),
            objects: self.pack.objects(),
            fixed: self.fixed,
        }
    }
}

/// Writes the entries of a pack behind the run.
struct Taker<'a> {
    files: &'a Files,
    appender: Appender<'a>,
    inflater: Decompress,
    deflater: Compress,
    /// The packs before.
    earlier: &'a Packs,
    /// What an object of this pack replaces, and the entry of that.
    bases: &'a HashMap<ObjectId, (ObjectId, u32)>,
    pack: &'a PackFile,
    /// Entries of this pack: where they stand in it, and their records.
    numbers: Vec<(u64, u32, Record)>,
}

/// An entry made a delta.
struct Short {
    record: Record,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Taker<'_> {
    fn take(&mut self, place: u64, id: ObjectId, end: u64) -> Result<(), Error> {
        let bytes = self.pack.bytes(place, end.saturating_sub(place))?;
        let bad = || Error::damaged(self.pack.path(), format!("the entry at {place}"));
        if self.pack.crc32_of(&id) != Some(crc32fast::hash(&bytes)) {
            return Err(bad());
        }
        let (header, length) = Header::read(&bytes).ok_or_else(bad)?;
        let (head, body) = bytes.split_at_checked(length).ok_or_else(bad)?;
        let position = self.appender.position();
        let base = match header.form {
            Form::Offset(distance) => self.taken(place.saturating_sub(distance)),
            _ => None,
        };
        let (number, mut record) = match (header.form, base) {
            (Form::Whole(kind), _) => {
                let record = whole(id, kind, header.size).ok_or_else(bad)?;
                self.append_whole(record, head, body)?
            }
            (_, Some((base, of))) => {
                let record = Record {
                    base: Some(base),
                    depth: of.depth.saturating_add(1),
                    ..whole(id, of.kind, header.size).ok_or_else(bad)?
                };
                let form = Form::Offset(position.checked_sub(of.position).ok_or_else(bad)?);
                let head = Header { form, ..header }.bytes();
                (self.appender.entry(record, &head, body)?, record)
            }
            (_, None) => {
                let (kind, data) = self.pack.object(&mut self.inflater, &id, place)?;
                let (form, size) = (Form::Whole(kind), data.len() as u64);
                let record = whole(id, kind, size).ok_or_else(bad)?;
                let head = Header { form, size }.bytes();
                let mut body = Vec::new();
                entry::deflate(&mut self.deflater, &data, &mut body);
                (self.appender.entry(record, &head, &body)?, record)
            }
        };
        record.position = position;
        self.numbers.push((place, number, record));
        Ok(())
    }

    /// Appends a whole entry, as a delta if that is possible.
    fn append_whole(
        &mut self,
        record: Record,
        head: &[u8],
        body: &[u8],
    ) -> Result<(u32, Record), Error> {
        let short = self.delta(&record, body).unwrap_or_else(|error| {
            self.files.report(&error);
            None
        });
        let Some(short) = short else {
            return Ok((self.appender.entry(record, head, body)?, record));
        };
        let number = self
            .appender
            .entry(short.record, &short.head, &short.body)?;
        Ok((number, short.record))
    }

    /// The entry as a delta on what it replaces; `None`: that would be no
    /// shorter, or too many deltas in a row.
    fn delta(&mut self, record: &Record, body: &[u8]) -> Result<Option<Short>, Error> {
        let Some((old, number)) = self.bases.get(&record.id) else {
            return Ok(None);
        };
        let base = self.files.record(*number)?;
        if base.depth >= DEPTH_MAX || base.kind != record.kind {
            return Ok(None);
        }
        let mut data = Vec::new();
        let inflated = entry::inflate(&mut self.inflater, body, u64::from(record.size), &mut data);
        inflated.ok_or_else(|| Error::damaged(self.pack.path(), format!("{}", record.id)))?;
        let (_, old) = self.earlier.object(&mut self.inflater, old)?;
        let Some(delta) = delta::make(&old, &data, data.len() / 2) else {
            return Ok(None);
        };
        let mut short = Vec::with_capacity(delta.len());
        entry::deflate(&mut self.deflater, &delta, &mut short);
        let form = self.appender.position().checked_sub(base.position);
        let Some(form) = form.map(Form::Offset) else {
            return Ok(None);
        };
        let head = Header {
            form,
            size: delta.len() as u64,
        }
        .bytes();
        let Ok(size) = u32::try_from(delta.len()) else {
            return Ok(None);
        };
        let record = Record {
            base: Some(*number),
            depth: base.depth.saturating_add(1),
            size,
            ..*record
        };
        let shorter = head.len().saturating_add(short.len()) < body.len();
        Ok(shorter.then_some(Short {
            record,
            head,
            body: short,
        }))
    }

    /// The entry that an earlier entry of this pack became.
    fn taken(&self, place: u64) -> Option<(u32, Record)> {
        let index = self
            .numbers
            .binary_search_by_key(&place, |(place, ..)| *place)
            .ok()?;
        self.numbers
            .get(index)
            .map(|(_, number, record)| (*number, *record))
    }
}

/// The record of an object that is no delta; `None`: it is too large.
fn whole(id: ObjectId, kind: Kind, size: u64) -> Option<Record> {
    Some(Record {
        id,
        position: 0,
        base: None,
        size: u32::try_from(size).ok()?,
        depth: 0,
        kind,
        header: 0,
    })
}

/// Takes in the first pack, which becomes the beginning of the run as it is.
fn note_base(log: &Log, pack: &PackFile, commits: &[ObjectId]) -> Result<(), Error> {
    let mut appender = log.appender();
    pack.read_all(&mut |bytes| appender.note_bytes(bytes))?;
    let places = pack.places();
    let ends = places
        .iter()
        .skip(1)
        .map(|(place, _)| *place)
        .chain([pack.end()]);
    let mut known: Vec<(Kind, u8)> = Vec::with_capacity(places.len());
    for ((place, id), end) in places.iter().zip(ends) {
        let bad = || Error::damaged(pack.path(), format!("the entry at {place}"));
        let bytes = pack.bytes(*place, HEADER_MAX as u64)?;
        let (header, length) = Header::read(&bytes).ok_or_else(bad)?;
        let (base, kind, depth) = match header.form {
            Form::Whole(kind) => (None, kind, 0),
            Form::Offset(distance) => {
                let base = place.checked_sub(distance).ok_or_else(bad)?;
                let index = places
                    .binary_search_by_key(&base, |(place, _)| *place)
                    .map_err(|_none| bad())?;
                let (kind, depth) = known.get(index).copied().ok_or_else(bad)?;
                (
                    Some(u32::try_from(index).map_err(|_large| bad())?),
                    kind,
                    depth.saturating_add(1),
                )
            }
            // A clone is this pack as it is, and no client may meet a REF_DELTA in one.
            Form::Reference(_) => return Err(Error::damaged(pack.path(), "it has a REF_DELTA")),
        };
        known.push((kind, depth));
        let size = u32::try_from(header.size).map_err(|_large| bad())?;
        let header = u8::try_from(length).map_err(|_large| bad())?;
        appender.note(
            &Record {
                id: *id,
                position: *place,
                base,
                size,
                depth,
                kind,
                header,
            },
            end,
        )?;
    }
    appender.finish(commits)
}

/// The packs of a folder that can be opened, and the paths of those that cannot.
fn open_packs(folder: &Path) -> Result<(Vec<Arc<PackFile>>, Vec<PathBuf>), Error> {
    let (mut packs, mut left) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(|source| Error::io("read", folder)(source))? {
        let path = entry
            .map_err(|source| Error::io("read", folder)(source))?
            .path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("pack-") && path.extension().is_some_and(|end| end == "pack") {
            match PackFile::open(&path) {
                Ok(pack) => packs.push(Arc::new(pack)),
                Err(error) if error.is_damage() => left.push(path),
                Err(error) => return Err(error),
            }
        }
    }
    Ok((packs, left))
}

/// The commits of the history up to `head`, oldest first, and the number of the first; the run is
/// cut where it is not of this history.
fn history(
    packs: &Packs,
    log: Option<Log>,
    head: ObjectId,
) -> Result<(Option<Log>, Vec<ObjectId>, u64), Error> {
    let mut zlib = Decompress::new(true);
    let number_of = |commit: &ObjectId| log.as_ref()?.generations().read().number_of(commit);
    let (mut newer, mut at, mut known) = (Vec::new(), Some(head), None);
    while let Some(commit) = at {
        known = number_of(&commit);
        if known.is_some() {
            break;
        }
        newer.push(commit);
        at = packs.commit(&mut zlib, &commit)?.1;
    }
    newer.reverse();
    if let (Some(log), Some(known)) = (log, known) {
        log.truncate(known.saturating_add(1))?;
        let root = log.generations().read().root;
        let older = (root..=known).filter_map(|number| log.generations().read().get(number));
        let commits = older.map(|(id, _)| id).chain(newer).collect();
        return Ok((Some(log), commits, root));
    }
    let newest = packs.generation(&mut zlib, &head)?;
    let root = newest.saturating_add(1).checked_sub(newer.len() as u64);
    let root =
        root.ok_or_else(|| Error::damaged(Path::new("objects"), "more commits than generations"))?;
    Ok((None, newer, root))
}

/// Which packs have which generations, in their order.
fn members(packs: &Packs, commits: &[ObjectId], root: u64) -> Result<Vec<Member>, Error> {
    let mut by_size: Vec<_> = packs.0.iter().collect();
    by_size.sort_by_key(|pack| std::cmp::Reverse((pack.objects(), pack.checksum())));
    let mut members: Vec<Member> = Vec::new();
    for (generation, commit) in (root..).zip(commits) {
        if let Some(last) = members
            .last_mut()
            .filter(|last| last.pack.find(commit).is_some())
        {
            last.generations = *last.generations.start()..=generation;
            continue;
        }
        let pack = by_size.iter().find(|pack| pack.find(commit).is_some());
        let pack = pack
            .ok_or_else(|| Error::damaged(Path::new("objects"), format!("{commit} is missing")))?;
        if members.iter().any(|member| Arc::ptr_eq(&member.pack, pack)) {
            return Err(Error::damaged(pack.path(), "its generations have gaps"));
        }
        let fixed = members.is_empty();
        members.push(Member {
            generations: generation..=generation,
            pack: Arc::clone(pack),
            fixed,
        });
    }
    Ok(members)
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "nothing comes from the disk"
)]
#[path = "chain_tests.rs"]
mod tests;
