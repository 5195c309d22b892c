//! What a fetch is answered with: which objects, in which form, as one pack stream.
//!
//! A [`Plan`] says which entries of the run (see `log`) go out; their bytes are made as they are
//! read, so that a stream of 300,000 objects needs a table of where they begin and no more. A clone
//! is the run as it is. In every other stream the bodies are copied and the headers written anew:
//! an `OFS_DELTA` gets its new distance; a delta whose base the client has becomes a `REF_DELTA` if
//! the client takes those. If it does not, the older objects that the deltas need come along: they
//! are copied too, and nothing needs to be compressed. Only of a shallow history no older trees may
//! come, since git asks for what they name: there such trees are given whole. No plan names an object twice, and none
//! sends a `REF_DELTA` whose base it sends too.

#![warn(clippy::arithmetic_side_effects)]

use std::{
    collections::{HashSet, VecDeque},
    io,
    ops::{Range, RangeInclusive},
    sync::{Arc, OnceLock},
};

use flate2::Decompress;
use parking_lot::{Mutex, RwLock};
use sha1::{Digest, Sha1};

use super::{
    Error, ObjectId,
    entry::{self, Form, Header, Kind, PACK_HEADER},
    log::{End, Files, Generations, Reader, Record, copy},
    objects::Packs,
    tip::Tip,
    types::Head,
};

/// Plans that are kept, with the SHA-1 of their streams, while head and packs stay.
const PLANS_KEPT: usize = 8;
/// A plan with a longer list of entries is not kept: 4 MiB.
const KEPT_ENTRIES_MAX: usize = 1 << 20;
/// A shallow history longer than this is sent in full: finding out what to leave out would cost
/// more than it saves.
const SHALLOW_COMMITS_MAX: u64 = 1000;
/// Records read at once for entries that lie apart.
const RECORDS_APART: u32 = 512;
/// The same for entries in a row.
const RECORDS_IN_A_ROW: u32 = 4096;
/// The beginning of the run.
const START: End = End {
    entry: 0,
    position: PACK_HEADER,
};

/// The history and its packs at one moment. Holds its files open (or keeps them from being
/// removed) as long as it lives.
#[derive(Debug)]
pub struct Serving {
    head: Option<Head>,
    history: Option<History>,
}

/// What there is to serve from.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) files: Arc<Files>,
    /// Shared with the writer: may know generations beyond the head.
    pub(super) generations: Arc<RwLock<Generations>>,
    pub(super) packs: Packs,
    pub(super) plans: Arc<Plans>,
    /// The tree of the newest generation, if anybody needed it.
    pub(super) tip: Arc<Mutex<Option<Tip>>>,
}

/// Which objects a client is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything of the history up to the head that a client with `have` lacks, and whatever
    /// more is cheap to send along. `None`: the client has nothing.
    History {
        /// The newest generation of ours that the client has in full, with its whole history.
        have: Option<u64>,
    },
    /// The commits from `oldest` to the head and what their trees hold, less the trees of the
    /// commits in `have`.
    Shallow {
        /// The generation of the oldest commit sent.
        oldest: u64,
        /// Generations whose commits and trees the client has.
        have: Vec<u64>,
    },
}

/// What the client said that it understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `ofs-delta`.
    pub ofs_delta: bool,
    /// `thin-pack`: a `REF_DELTA` may have its base outside of the pack.
    pub thin_pack: bool,
}

impl Serving {
    pub(super) fn new(head: Option<Head>, history: Option<History>) -> Serving {
        Serving { head, history }
    }

    /// The newest commit.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// What was found damaged by who read from it.
    pub(super) fn damage(&self) -> Option<String> {
        Some(self.history.as_ref()?.files.damage()?.to_owned())
    }

    /// The generation of a commit of our history; `None`: it is not ours.
    pub fn generation_of(&self, commit: &ObjectId) -> Option<u64> {
        let generation = self
            .history
            .as_ref()?
            .generations
            .read()
            .number_of(commit)?;
        self.head
            .filter(|head| generation <= head.generation)
            .map(|_| generation)
    }

    /// The commit of a generation.
    pub fn commit_of(&self, generation: u64) -> Option<ObjectId> {
        self.head.filter(|head| generation <= head.generation)?;
        let (commit, _) = self.history.as_ref()?.generations.read().get(generation)?;
        Some(commit)
    }

    /// The generation of the root commit; `None`: there is no commit yet.
    pub fn oldest(&self) -> Option<u64> {
        self.head?;
        Some(self.history.as_ref()?.generations.read().root)
    }

    /// The pack for a selection. Blocks for the disk, but shortly: the bytes are read as the
    /// stream is.
    pub fn pack(&self, selection: &Selection, wishes: Wishes) -> Result<PackStream, Error> {
        let (Some(head), Some(history)) = (self.head, &self.history) else {
            return Ok(PackStream::new(Arc::new(Plan::empty()), None));
        };
        let key = Key {
            head: head.id,
            selection: selection.clone(),
            wishes,
        };
        let plan = if let Some(plan) = history.plans.get(&key) {
            plan
        } else {
            let plan = history.plan(head, selection, wishes);
            let plan = Arc::new(plan.inspect_err(|error| history.files.report(error))?);
            history.plans.keep(key, &plan);
            plan
        };
        Ok(PackStream::new(plan, Some(history.clone())))
    }
}

impl History {
    fn plan(&self, head: Head, selection: &Selection, wishes: Wishes) -> Result<Plan, Error> {
        let end = self.end_of(head.generation);
        match selection {
            Selection::History { have } => {
                let have = have.map(|have| have.min(head.generation));
                self.plan_range(have.map_or(START, |have| self.end_of(have)), end, wishes)
            }
            Selection::Shallow { oldest, have } => {
                let root = self.generations.read().root;
                let oldest = (*oldest).clamp(root, head.generation);
                let commits = head.generation.saturating_sub(oldest);
                if oldest == root || commits > SHALLOW_COMMITS_MAX {
                    return self.plan_range(START, end, wishes);
                }
                if commits == 0 && have.is_empty() {
                    let entries = self.tip(head, end)?;
                    return self.plan_entries(entries, end, &HashSet::new(), wishes);
                }
                let (ids, client) = self.shallow(oldest..=head.generation, have)?;
                let count = ids.len();
                let located = self.files.locate(end, |id| ids.contains(id), count)?;
                let mut entries: Vec<_> = located.into_iter().map(|(_, entry)| entry).collect();
                entries.sort_unstable();
                if entries.len() != count {
                    return Err(self.files.missing());
                }
                self.plan_entries(entries, end, &client, wishes)
            }
        }
    }

    /// The entries of the head and of its tree.
    fn tip(&self, head: Head, end: End) -> Result<Vec<u32>, Error> {
        let mut known = self.tip.lock();
        let mut entries = match &*known {
            Some(tip) if tip.generation == head.generation => tip.entries(),
            _ => {
                let tip = Tip::load(&self.packs, &self.files, end, (head.generation, head.id))?;
                let entries = tip.entries();
                if known
                    .as_ref()
                    .is_none_or(|known| known.generation < tip.generation)
                {
                    *known = Some(tip);
                }
                entries
            }
        };
        let commit = self.files.locate(end, |id| *id == head.id, 1)?;
        let (_, commit) = commit.first().ok_or_else(|| self.files.missing())?;
        let place = entries.binary_search(commit).unwrap_or_else(|place| place);
        entries.insert(place, *commit);
        Ok(entries)
    }

    /// Where a generation ends; the beginning, if it is older than all of ours.
    fn end_of(&self, generation: u64) -> End {
        let end = self.generations.read().get(generation);
        end.map_or(START, |(_, end)| end)
    }

    /// A stretch of the run, for a client that has all before it.
    fn plan_range(&self, start: End, end: End, wishes: Wishes) -> Result<Plan, Error> {
        let entries = start.entry..end.entry.max(start.entry);
        let is_copy = wishes.ofs_delta && start == START;
        if is_copy || !wishes.ofs_delta || wishes.thin_pack {
            return Ok(Plan {
                objects: entries.end.saturating_sub(entries.start),
                entries: if is_copy {
                    Entries::AsTheyAre
                } else {
                    Entries::Range(entries)
                },
                end,
                forms: Forms::of(wishes),
                trailer: OnceLock::new(),
            });
        }
        let mut chosen = vec![false; end.entry as usize];
        chosen
            .iter_mut()
            .skip(start.entry as usize)
            .for_each(|chosen| *chosen = true);
        let entries = self.with_bases(chosen, end, &HashSet::new(), true)?;
        Ok(Plan::of_these(entries, end, wishes))
    }

    /// A stretch of the run as a pack that needs no other and has nothing more. It notes its
    /// objects.
    pub(super) fn self_contained(&self, start: End, end: End) -> PackStream {
        let plan = Plan {
            objects: end.entry.saturating_sub(start.entry),
            entries: Entries::Range(start.entry..end.entry),
            end,
            forms: Forms {
                offset: true,
                reference: false,
                tree_reference: false,
            },
            trailer: OnceLock::new(),
        };
        let mut stream = PackStream::new(Arc::new(plan), Some(self.clone()));
        stream.ids = Some(Vec::new());
        stream
    }

    /// Some entries of a shallow history, in their order, for a client that has the objects `client`.
    fn plan_entries(
        &self,
        entries: Vec<u32>,
        end: End,
        client: &HashSet<ObjectId>,
        wishes: Wishes,
    ) -> Result<Plan, Error> {
        if !wishes.ofs_delta {
            return Ok(Plan::of_these(entries, end, wishes));
        }
        let mut chosen = vec![false; end.entry as usize];
        for entry in entries {
            if let Some(chosen) = chosen.get_mut(entry as usize) {
                *chosen = true;
            }
        }
        let nobody = HashSet::new();
        let client = if wishes.thin_pack { client } else { &nobody };
        let entries = self.with_bases(chosen, end, client, false)?;
        let mut plan = Plan::of_these(entries, end, wishes);
        // Whether the client has the old tree is not known.
        plan.forms.tree_reference = false;
        Ok(plan)
    }

    /// The chosen entries and all that their deltas need (for trees: if they may), less what the
    /// client has.
    fn with_bases(
        &self,
        mut chosen: Vec<bool>,
        end: End,
        client: &HashSet<ObjectId>,
        older_trees: bool,
    ) -> Result<Vec<u32>, Error> {
        let mut last = end.entry;
        while last > 0 {
            let first = last.saturating_sub(RECORDS_IN_A_ROW);
            let part = chosen.get(first as usize..last as usize);
            if part.is_some_and(|part| part.contains(&true)) {
                let records = self.files.read_records(first..last)?;
                for (number, record) in (first..last).zip(&records).rev() {
                    let may = older_trees || record.kind != Kind::Tree;
                    if !may || chosen.get(number as usize) != Some(&true) {
                        continue;
                    }
                    let Some(base) = record.base.filter(|base| *base < number) else {
                        continue;
                    };
                    let has = !client.is_empty() && client.contains(&self.files.record(base)?.id);
                    if let Some(chosen) = chosen.get_mut(base as usize).filter(|_| !has) {
                        *chosen = true;
                    }
                }
            }
            last = first;
        }
        let entries = (0..end.entry).zip(&chosen);
        Ok(entries
            .filter(|(_, is)| **is)
            .map(|(entry, _)| entry)
            .collect())
    }

    /// The objects of some commits less those of the newest commit in `have`, and objects that the
    /// client has.
    fn shallow(
        &self,
        commits: RangeInclusive<u64>,
        have: &[u64],
    ) -> Result<(HashSet<ObjectId>, HashSet<ObjectId>), Error> {
        let mut zlib = Decompress::new(true);
        let mut client = HashSet::new();
        let (mut ids, mut parent) = (HashSet::new(), None);
        let commit_of = |generation| self.generations.read().get(generation).map(|(id, _)| id);
        let newest = have
            .iter()
            .copied()
            .filter(|have| have <= commits.end())
            .max();
        if let Some(newest) = newest.and_then(commit_of) {
            parent = Some(self.packs.commit(&mut zlib, &newest)?.0);
        }
        // Only what the first of the diffs finds gone is surely at the client.
        let mut first = parent.is_some();
        for generation in commits {
            let Some(commit) = commit_of(generation) else {
                continue;
            };
            let (tree, _) = self.packs.commit(&mut zlib, &commit)?;
            if !have.contains(&generation) {
                ids.insert(commit);
            }
            let mut added = |id| {
                ids.insert(id);
            };
            let mut gone = |id| {
                if first {
                    client.insert(id);
                }
            };
            match parent {
                None => self.packs.walk(&mut zlib, tree, &mut added)?,
                Some(parent) => self
                    .packs
                    .diff(&mut zlib, parent, tree, &mut added, &mut gone)?,
            }
            parent = Some(tree);
            first = false;
        }
        ids.retain(|id| !client.contains(id));
        Ok((ids, client))
    }
}

/// Which objects a stream has, and how it gives them.
#[derive(Debug)]
struct Plan {
    objects: u32,
    entries: Entries,
    /// The end of the run for this stream.
    end: End,
    forms: Forms,
    /// The SHA-1 of all before, known once a stream came so far.
    trailer: OnceLock<[u8; 20]>,
}

#[derive(Debug)]
enum Entries {
    /// The run up to the end, byte by byte.
    AsTheyAre,
    /// A stretch of it.
    Range(Range<u32>),
    /// Some, in their order.
    These(Vec<u32>),
}

/// How an object may be given that the run has as a delta. Without any of these it is given whole.
#[derive(Debug, Clone, Copy)]
struct Forms {
    /// By an `OFS_DELTA`, if its base is in the stream.
    offset: bool,
    /// By a `REF_DELTA`, if it is not.
    reference: bool,
    /// The same for trees.
    tree_reference: bool,
}

impl Forms {
    fn of(wishes: Wishes) -> Forms {
        Forms {
            offset: wishes.ofs_delta,
            // Without `ofs-delta` some bases would come whole, in the same stream.
            reference: wishes.ofs_delta && wishes.thin_pack,
            tree_reference: wishes.ofs_delta && wishes.thin_pack,
        }
    }

    fn may_refer(self, kind: Kind) -> bool {
        match kind {
            Kind::Tree => self.tree_reference,
            _ => self.reference,
        }
    }
}

impl Plan {
    fn empty() -> Plan {
        Plan::of_these(Vec::new(), START, Wishes::default())
    }

    fn of_these(entries: Vec<u32>, end: End, wishes: Wishes) -> Plan {
        Plan {
            objects: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            entries: Entries::These(entries),
            end,
            forms: Forms::of(wishes),
            trailer: OnceLock::new(),
        }
    }

    /// The numbers of the entries from the `done`th on that are near enough to be read at once: the
    /// stretch that they lie in, and how many they are.
    fn next(&self, done: usize) -> Option<(Range<u32>, usize)> {
        match &self.entries {
            Entries::AsTheyAre => None,
            Entries::Range(range) => {
                let first = range.start.saturating_add(u32::try_from(done).ok()?);
                let stretch = first..first.saturating_add(RECORDS_IN_A_ROW).min(range.end);
                let count = stretch.len();
                Some((stretch, count)).filter(|_| count > 0)
            }
            Entries::These(these) => {
                let rest = these.get(done..)?;
                let first = *rest.first()?;
                let end = first.saturating_add(RECORDS_APART).min(self.end.entry);
                let count = rest.partition_point(|entry| *entry < end);
                let last = *rest.get(count.checked_sub(1)?)?;
                Some((first..last.saturating_add(1), count))
            }
        }
    }

    /// Whether the entry `number` is the `done`th.
    fn is_at(&self, done: usize, number: u32) -> bool {
        match &self.entries {
            Entries::These(these) => these.get(done) == Some(&number),
            Entries::AsTheyAre | Entries::Range(_) => true,
        }
    }

    /// At which place among the entries one is.
    fn place_of(&self, number: u32) -> Option<usize> {
        match &self.entries {
            Entries::AsTheyAre => None,
            Entries::Range(range) => Some(number.checked_sub(range.start)? as usize),
            Entries::These(these) => these.binary_search(&number).ok(),
        }
    }

    fn may_be_kept(&self) -> bool {
        match &self.entries {
            Entries::These(these) => these.len() <= KEPT_ENTRIES_MAX,
            Entries::AsTheyAre | Entries::Range(_) => true,
        }
    }
}

/// The last plans.
#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<VecDeque<(Key, Arc<Plan>)>>);

#[derive(Debug, PartialEq, Eq)]
struct Key {
    head: ObjectId,
    selection: Selection,
    wishes: Wishes,
}

impl Plans {
    fn get(&self, key: &Key) -> Option<Arc<Plan>> {
        let plans = self.0.lock();
        plans
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, plan)| Arc::clone(plan))
    }

    fn keep(&self, key: Key, plan: &Arc<Plan>) {
        if !plan.may_be_kept() {
            return;
        }
        let mut plans = self.0.lock();
        plans.push_front((key, Arc::clone(plan)));
        plans.truncate(PLANS_KEPT);
    }
}

/// A pack, read once from its start: header, entries, SHA-1 trailer. Reading blocks for the disk,
/// and fails where the disk no longer has what was written: no damage goes out.
#[derive(Debug)]
pub struct PackStream {
    plan: Arc<Plan>,
    source: Option<Source>,
    /// Bytes to give out next, and how many of them are given.
    queue: Vec<u8>,
    queue_done: usize,
    /// Then these positions of the run.
    positions: Range<u64>,
    /// Then these entries.
    window: VecDeque<(Record, u64)>,
    /// How many entries were begun or are in the window.
    taken: usize,
    /// Where the entries begun so far begin in the stream.
    starts: Vec<u64>,
    /// Where the next one begins.
    at: u64,
    /// Their ids, if anybody wants to know.
    ids: Option<Vec<ObjectId>>,
    /// `None`: the trailer is known.
    hasher: Option<Sha1>,
    is_over: bool,
}

/// What the bytes are made of.
#[derive(Debug)]
struct Source {
    history: History,
    reader: Reader,
    zlib: Decompress,
}

impl PackStream {
    fn new(plan: Arc<Plan>, history: Option<History>) -> PackStream {
        let source = history.map(|history| Source {
            reader: Reader::new(Arc::clone(&history.files)),
            history,
            zlib: Decompress::new(true),
        });
        let positions = match plan.entries {
            Entries::AsTheyAre => PACK_HEADER..plan.end.position,
            _ => 0..0,
        };
        PackStream {
            queue: entry::pack_header(plan.objects).to_vec(),
            queue_done: 0,
            positions,
            window: VecDeque::new(),
            taken: 0,
            starts: Vec::new(),
            at: PACK_HEADER,
            ids: None,
            hasher: plan.trailer.get().is_none().then(Sha1::new),
            is_over: false,
            plan,
            source,
        }
    }

    /// How many objects it has.
    pub fn objects(&self) -> u32 {
        self.plan.objects
    }

    /// The objects in the order of their entries, once all was read; only of a
    /// [`self_contained`](History::self_contained) stretch.
    pub(super) fn into_ids(self) -> Vec<ObjectId> {
        self.ids.unwrap_or_default()
    }

    /// Some bytes; none: it is over.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            if let Some(rest) = self.queue.get(self.queue_done..).filter(|r| !r.is_empty()) {
                let count = copy(rest, buffer);
                self.queue_done = self.queue_done.saturating_add(count);
                return Ok(count);
            }
            if let Some(source) = self.source.as_mut().filter(|_| !self.positions.is_empty()) {
                let left = self.positions.end.saturating_sub(self.positions.start);
                let most = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let part = buffer.get_mut(..most).unwrap_or_default();
                let count = source.reader.read(self.positions.start, part)?;
                self.positions.start = self.positions.start.saturating_add(count as u64);
                return Ok(count);
            }
            self.queue.clear();
            self.queue_done = 0;
            if self.begin_entry()? {
                continue;
            }
            if self.is_over {
                return Ok(0);
            }
            self.is_over = true;
            let trailer = self.trailer();
            self.queue.extend_from_slice(&trailer);
        }
    }

    /// Puts the next entry in the queue; `false`: there is none.
    fn begin_entry(&mut self) -> Result<bool, Error> {
        if self.window.is_empty() {
            self.fill_window()?;
        }
        let (Some((record, end)), Some(source)) = (self.window.pop_front(), &mut self.source)
        else {
            return Ok(false);
        };
        let start = self.at;
        self.starts.push(start);
        if let Some(ids) = &mut self.ids {
            ids.push(record.id);
        }
        let form = match record.base {
            None => None,
            Some(base) => {
                let place = self.plan.place_of(base);
                let to = place.and_then(|place| self.starts.get(place));
                match to {
                    Some(to) if self.plan.forms.offset => {
                        Some(Form::Offset(start.saturating_sub(*to)))
                    }
                    None if self.plan.forms.may_refer(record.kind) => {
                        Some(Form::Reference(source.history.files.record(base)?.id))
                    }
                    _ => {
                        source.whole(&record, &mut self.queue)?;
                        self.at = start.saturating_add(self.queue.len() as u64);
                        return Ok(true);
                    }
                }
            }
        };
        let size = u64::from(record.size);
        self.positions = record.position..end;
        if let Some(form) = form {
            Header { form, size }.write(&mut self.queue);
            self.positions.start = record.position.saturating_add(u64::from(record.header));
        }
        let body = self.positions.end.saturating_sub(self.positions.start);
        self.at = start
            .saturating_add(self.queue.len() as u64)
            .saturating_add(body);
        Ok(true)
    }

    fn fill_window(&mut self) -> Result<(), Error> {
        let (Some(source), Some((stretch, count))) = (&self.source, self.plan.next(self.taken))
        else {
            return Ok(());
        };
        let files = &source.history.files;
        files.records(stretch, self.plan.end, &mut |number, record, end| {
            if self.plan.is_at(self.taken, number) {
                self.window.push_back((*record, end));
                self.taken = self.taken.saturating_add(1);
            }
            Ok(())
        })?;
        if self.window.len() == count {
            Ok(())
        } else {
            Err(files.missing())
        }
    }

    fn trailer(&mut self) -> [u8; 20] {
        if let Some(hasher) = self.hasher.take() {
            let sum: [u8; 20] = hasher.finalize().into();
            return *self.plan.trailer.get_or_init(|| sum);
        }
        self.plan.trailer.get().copied().unwrap_or_default()
    }
}

impl Source {
    /// An object that stands in the run as a delta, by its bytes.
    fn whole(&mut self, record: &Record, out: &mut Vec<u8>) -> Result<(), Error> {
        let found = self.history.packs.find(&record.id);
        let (pack, place) = found.ok_or_else(|| self.history.files.missing())?;
        pack.whole_entry(&mut self.zlib, &record.id, place, out)
    }
}

impl io::Read for PackStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0_usize;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let was_over = self.is_over;
            let count = match self.some(rest) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    if let Some(source) = &self.source {
                        source.history.files.report(&error);
                    }
                    return Err(io::Error::other(error));
                }
            };
            if let Some(hasher) = self.hasher.as_mut().filter(|_| !was_over) {
                hasher.update(rest.get(..count).unwrap_or_default());
            }
            done = done.saturating_add(count);
        }
        Ok(done)
    }
}
