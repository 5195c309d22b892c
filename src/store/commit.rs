//! The committer: one thread that does all writes to sled and the journal, many at a time.
//!
//! What waits in the queue becomes one batch, and everybody in it shares its syncs. In this order:
//!
//! 1. synced spool files are renamed to their places, and each folder is synced once;
//! 2. the journal gets what happened, and is synced;
//! 3. readers go on seeing the records as they were, while the new ones are put into sled, sled is
//!    flushed, and its files and folder are synced;
//! 4. readers see the new records, stamps move, and everybody is answered.
//!
//! A stop after 1 leaves crate files that no record knows: adoption finds them. A stop after 2
//! leaves a journal that is ahead of sled: it is replayed at open. So batches that only bring crate
//! files end after 1: their marks wait for the next quiet second, for the next batch that is
//! written anyway, or until there are many. A crate with thousands of versions has a record of some
//! hundred kilobytes, and each mark alone would write it anew. Until then readers take the files
//! for held all the same, and sled's count of the files is behind as well, so that adoption looks.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
        mpsc::sync_channel,
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    blobs::{Removal, Walk, sync_folders},
    catalogue::{Catalogue, panic_text},
    codec::{HELD, Record, View, compress},
    edits::Edits,
    error::{EngineError, Error},
    facts::Event,
    journal::{Entry, Journal, encode_told},
    ledger,
    queue::{Freed, Hold, Job, Mark, Prepared, Publish, Reply, Restored, Step, Touch, Touches},
    rebuild::{self, Recovered},
    shared::Shared,
    state::{Counts, Held, State, prefix_of},
    table::{Kept, KeptBatch},
};
use crate::registry::{Checksum, CrateName};

/// How many marks wait at most.
const MAX_UNMARKED: usize = 1024;

/// How long the queue is quiet before what was put off is flushed.
const QUIET: Duration = Duration::from_secs(1);

/// What a time in whole seconds may be behind.
const SECOND: Duration = Duration::from_secs(1);

/// How long after opening sled anew it is not tried again.
const HEAL_PAUSE: Duration = Duration::from_secs(10);

// --- the thread

/// What the committer's thread owns.
pub(super) struct Committer {
    shared: Arc<Shared>,
    journal: Journal,
    state: State,
    /// Something was applied to sled and not flushed, or a write failed.
    dirty: bool,
    healed_at: Option<Instant>,
    /// The journal has entries that sled may not have: they are replayed at the next open.
    behind: bool,
    /// The number of the last change of an index file that was written.
    change_number: u64,
    /// The latest time that a job brought: for the name of a folder that is set aside.
    now: SystemTime,
    /// Crate files that came or went, and whose marks do not tell so yet. What was written of them
    /// in a batch that failed is written again.
    unmarked: BTreeMap<CrateName, BTreeSet<Checksum>>,
    unmarked_count: usize,
    /// Those of them that went.
    gone: HashSet<Checksum>,
    /// The first 8 bytes of all checksums that records name, sorted; `None`: not looked through
    /// since a record changed.
    named: Option<Vec<u64>>,
    /// Checksums that came in or went since a walk began.
    since_walk: Option<Vec<(Checksum, u64)>>,
    counting: Counting,
}

/// How far the counts of the state can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// They may be a little off.
    Doubtful,
    /// They were counted anew, and that is not in sled yet.
    Anew,
    /// They are right, and sled has them.
    Kept,
}

impl Counting {
    fn of(is_miscounted: bool) -> Counting {
        if is_miscounted {
            Counting::Doubtful
        } else {
            Counting::Kept
        }
    }
}

/// A batch, sorted.
#[derive(Default)]
struct Work {
    publishes: Vec<Publish>,
    holds: Vec<Hold>,
    touches: Vec<(Touches, Reply<()>)>,
    marks: Vec<(Vec<Mark>, Reply<()>)>,
    keeps: Vec<(Vec<Kept>, Reply<()>)>,
    told: Vec<(Vec<Event>, Reply<()>)>,
    removals: Vec<(Vec<Removal>, Reply<Freed>)>,
    walk_begins: Vec<Reply<()>>,
    walk_ends: Vec<(Walk, Reply<()>)>,
    steps: Vec<(Box<Step>, Reply<u64>)>,
    closes: Vec<Reply<()>>,
}

impl Work {
    fn of(jobs: Vec<Job>) -> Work {
        let mut work = Work::default();
        for job in jobs {
            match job {
                Job::Publish(publish) => work.publishes.push(publish),
                Job::Hold(hold) => work.holds.push(hold),
                Job::Touch(touches, reply) => work.touches.push((touches, reply)),
                Job::Mark(marks, reply) => work.marks.push((marks, reply)),
                Job::Keep(kept, reply) => work.keeps.push((kept, reply)),
                Job::Learn(told, reply) => work.told.push((told, reply)),
                Job::Remove(removals, reply) => work.removals.push((removals, reply)),
                Job::WalkBegin(reply) => work.walk_begins.push(reply),
                Job::WalkEnd(walk, reply) => work.walk_ends.push((walk, reply)),
                Job::Step(step, reply) => work.steps.push((step, reply)),
                Job::Close(reply) => work.closes.push(reply),
            }
        }
        work
    }

    /// Whether somebody waits for records to be durable.
    fn needs_flush(&self) -> bool {
        !(self.publishes.is_empty()
            && self.touches.is_empty()
            && self.marks.is_empty()
            && self.keeps.is_empty()
            && self.told.is_empty()
            && self.removals.is_empty()
            && self.walk_ends.is_empty())
    }
}

/// What a batch did, for the answers.
#[derive(Default)]
struct Done {
    /// One for each publish.
    events: Vec<Vec<Event>>,
}

/// What happened in a batch, gathered while records are edited.
#[derive(Default)]
struct Happened {
    edits: Edits,
    entries: Vec<Entry>,
    /// How many of the entries each publish brought.
    counts: Vec<usize>,
    /// Names whose readers see something else now.
    visible: BTreeSet<String>,
    /// Names with a crate file that came or went.
    marked: BTreeSet<String>,
    kept: KeptBatch,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        journal: Journal,
        recovered: &Recovered,
        now: SystemTime,
    ) -> Committer {
        let Recovered {
            state,
            change_number,
            is_miscounted,
            ..
        } = *recovered;
        shared.set_totals(&state);
        shared.journal_len.store(journal.len(), SeqCst);
        Committer {
            shared,
            journal,
            state,
            dirty: false,
            healed_at: None,
            behind: false,
            change_number,
            now,
            unmarked: BTreeMap::new(),
            unmarked_count: 0,
            gone: HashSet::new(),
            named: None,
            since_walk: None,
            counting: Counting::of(is_miscounted),
        }
    }

    /// Works until the store is closed.
    pub(super) fn run(mut self) {
        self.recount();
        loop {
            let jobs = self.shared.queue.drain(self.has_more().then_some(QUIET));
            let work = Work::of(jobs);
            let closes = work.closes.clone();
            // A panic drops the replies, so that nobody waits for one.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.turn(work)));
            if let Err(panic) = outcome {
                self.shared.failing.store(true, SeqCst);
                self.shared.watchers.tell_everything();
                self.dirty = true;
                tracing::error!(
                    said = panic_text(panic.as_ref()),
                    "the store's committer panicked"
                );
            }
            if !closes.is_empty() {
                let outcome = self.finish();
                // The folder must be free when the closing caller goes on.
                drop(self);
                for reply in closes {
                    answer(&reply, outcome.clone());
                }
                return;
            }
        }
    }

    /// Counts the records, where the counts are not known: after an update from a build without
    /// them, after damage and after a stop in the middle of a write. Takes a second or two for
    /// 250,000 names, in which nothing is written. By this thread, so that no record changes
    /// meanwhile.
    fn recount(&mut self) {
        let known = self
            .state
            .counts
            .filter(|_| self.counting != Counting::Doubtful);
        let (None, Some(catalogue)) = (known, self.shared.catalogue()) else {
            return;
        };
        let mut counts = Counts::default();
        let visited = catalogue.visit(&mut |_key, record| {
            if let Ok(view) = View::read(&record) {
                counts.add(view.counts());
            }
            true
        });
        if let Err(error) = visited {
            self.shared.note_suspect(&error);
            return;
        }
        self.state.counts = Some(counts);
        self.shared.set_totals(&self.state);
        // Written with the next batch, or at the end.
        self.counting = Counting::Anew;
    }

    /// Whether there is something to do when nothing comes.
    fn has_more(&self) -> bool {
        self.dirty || self.state.counts.is_none() || self.shared.suspect.load(SeqCst)
    }

    fn turn(&mut self, mut work: Work) {
        if self.shared.suspect.load(SeqCst) {
            self.heal();
        }
        let steps = std::mem::take(&mut work.steps);
        if !work.is_idle() {
            self.batch(work);
        } else if steps.is_empty() {
            self.catch_up();
        }
        for (step, reply) in steps {
            let outcome = self.step(*step);
            if let Err(error) = &outcome {
                self.failed(error);
            }
            answer(&reply, outcome);
        }
    }

    // --- index files given back

    fn step(&mut self, step: Step) -> Result<u64, Error> {
        self.shared.check_record_space()?;
        self.settle()?;
        let catalogue = self.shared.catalogue().ok_or_else(not_open)?;
        match step {
            Step::MakeDurable => {}
            Step::Restore(files) => {
                self.dirty = true;
                self.restore(&catalogue, files)?;
                return Ok(self.change_number);
            }
            Step::Back { change } => {
                self.dirty = true;
                self.change_number = self.change_number.max(change);
                catalogue.set_change_number(self.change_number)?;
                catalogue.set_lost(false)?;
                self.shared.lacks_index.store(false, SeqCst);
            }
        }
        if self.dirty {
            catalogue.flush()?;
            self.wrote();
        }
        self.shared.change_number.store(self.change_number, SeqCst);
        Ok(self.change_number)
    }

    fn restore(&mut self, catalogue: &Catalogue, files: Vec<Restored>) -> Result<(), Error> {
        self.named = None;
        let mut edits = Edits::default();
        let mut names = Vec::new();
        let is_held = |checksum: &Checksum| {
            self.state.held.blobs > 0 && self.shared.blobs.length(checksum).is_some()
        };
        for Restored {
            name,
            file,
            digest,
            frame,
            checked,
        } in files
        {
            let before = catalogue.get(name.key())?;
            if before.is_some_and(|record| self.is_kept(&name, &record, checked)) {
                continue;
            }
            let (record, is_new) = edits.get_or_new(catalogue, &name)?;
            if let Some(row) = file.rows().last() {
                record.name = row.name.clone();
            }
            if is_new {
                record.changed = checked;
            }
            ledger::restore(record, file.rows(), &is_held);
            record.etag = None;
            record.last_modified = None;
            record.checked = checked;
            record.digest = digest;
            record.raw_len = u32::try_from(file.bytes().len()).unwrap_or(u32::MAX);
            record.snapshot = Some(frame);
            names.push(name);
        }
        let mut state = self.state;
        let encoded = edits.encode(&mut state)?;
        self.change_number = self.change_number.saturating_add(encoded.changed_files);
        catalogue.apply(
            encoded.records,
            self.change_number,
            &encoded.new_names,
            Vec::new(),
            &state,
        )?;
        self.state = state;
        self.shared.set_totals(&state);
        self.shared.add_names(&encoded.new_names);
        let keys = names.iter().map(|name| name.key().to_owned()).collect();
        for name in names {
            self.shared.forget_broken_frame(name.key());
            self.shared.bump(name.key());
        }
        self.shared.watchers.tell(&keys);
        self.shared.change_number.store(self.change_number, SeqCst);
        Ok(())
    }

    /// Whether a record has a file that is at least as new as one of the time `given`, which is of
    /// whole seconds.
    fn is_kept(&self, name: &CrateName, record: &[u8], given: SystemTime) -> bool {
        let view = self.shared.view(name.key(), record);
        let facts = view.and_then(|view| self.shared.facts(&view));
        facts
            .filter(|facts| facts.has_snapshot)
            .is_some_and(|facts| {
                let since = facts.checked.duration_since(given);
                since.is_ok_and(|since| since >= SECOND)
            })
    }

    /// Writes the marks that wait: what is written of the count of files without them would hide
    /// that they are missing.
    fn settle(&mut self) -> Result<(), Error> {
        if self.unmarked.is_empty() {
            return Ok(());
        }
        let (reply, outcome) = sync_channel(1);
        self.batch(Work::of(vec![Job::Mark(Vec::new(), reply)]));
        outcome.recv().unwrap_or(Err(Error::Closed))
    }

    /// Flushes what was put off, and finds out whether writes work again.
    fn catch_up(&mut self) {
        self.recount();
        if !self.dirty || self.shared.check_record_space().is_err() {
            return;
        }
        if !self.unmarked.is_empty() {
            // Its failure is noted already.
            drop(self.settle());
            return;
        }
        let flushed = match self.shared.catalogue() {
            Some(catalogue) => catalogue.flush(),
            None => Err(not_open()),
        };
        match flushed {
            Ok(()) => self.wrote(),
            Err(error) => self.failed(&error),
        }
    }

    /// Notes that all that was applied is durable.
    fn wrote(&mut self) {
        self.dirty = false;
        self.shared.uncover();
        let failing = self.journal.is_dead();
        if self.shared.failing.swap(failing, SeqCst) && !failing {
            // What was applied before the failure is visible from now on.
            self.shared.watchers.tell_everything();
            tracing::info!("the store takes writes again");
        }
    }

    fn failed(&mut self, error: &Error) {
        self.dirty = true;
        if matches!(error, Error::Full { .. }) {
            return;
        }
        // What was applied of it becomes visible with the next write that succeeds.
        self.shared.watchers.tell_everything();
        if !self.shared.failing.swap(true, SeqCst) {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, cause, "a write to the store failed (told once)");
        }
        if matches!(error, Error::Engine { .. }) {
            self.shared.suspect.store(true, SeqCst);
        }
    }

    fn batch(&mut self, work: Work) {
        self.shared.batches.fetch_add(1, Relaxed);
        // Before new files come in, of which one may have the checksum of one that goes.
        let removed = self.remove(&work.removals);
        let held = self.place(&work.holds);
        if !work.holds.is_empty() {
            self.hold_unmarked(&work.holds, &held);
        }
        let mut outcome = self.write(&work);
        if let Err(error) = &outcome {
            self.failed(error);
            if matches!(error, Error::Engine { .. }) && self.heal() {
                outcome = self.write(&work);
            }
        }
        self.answer(work, removed, held, &outcome);
    }

    fn answer(
        &mut self,
        work: Work,
        removed: Vec<Result<Freed, Error>>,
        held: Vec<Result<(), Error>>,
        outcome: &Result<Done, Error>,
    ) {
        for ((_removals, reply), removed) in work.removals.iter().zip(removed) {
            answer(reply, removed);
        }
        // The file is durable whatever became of the record: adoption finds it.
        for (hold, held) in work.holds.iter().zip(held) {
            answer(&hold.reply, held);
        }
        let mut events = outcome.as_ref().map(|done| done.events.iter());
        for publish in &work.publishes {
            let answered = match &mut events {
                Ok(events) => Ok(events.next().cloned().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            answer(&publish.reply, answered);
        }
        let plain = outcome.as_ref().map(drop).map_err(Clone::clone);
        for (touches, reply) in &work.touches {
            if plain.is_ok() {
                self.shared.forget_touches(touches);
            }
            answer(reply, plain.clone());
        }
        for (_marks, reply) in &work.marks {
            answer(reply, plain.clone());
        }
        for (_kept, reply) in &work.keeps {
            answer(reply, plain.clone());
        }
        for (_told, reply) in &work.told {
            answer(reply, plain.clone());
        }
        for (_walk, reply) in &work.walk_ends {
            answer(reply, plain.clone());
        }
        for reply in work.walk_begins {
            self.since_walk = Some(Vec::new());
            answer(&reply, Ok(()));
        }
    }

    // --- step 1

    fn place(&mut self, holds: &[Hold]) -> Vec<Result<(), Error>> {
        let placed: Vec<Result<bool, Error>> = holds
            .iter()
            .map(|hold| self.shared.blobs.place(&hold.spool, &hold.checksum))
            .collect();
        let moved = holds.iter().zip(&placed).filter(|(_, moved)| moved.is_ok());
        let synced = sync_folders(&self.shared.blobs, moved.map(|(hold, _)| &hold.checksum));
        self.shared
            .folder_syncs
            .fetch_add(synced.len() as u64, Relaxed);
        holds
            .iter()
            .zip(placed)
            .map(|(hold, placed)| self.count(hold, placed?, &synced))
            .collect()
    }

    /// Takes files for held that are not marked so yet.
    fn hold_unmarked(&mut self, holds: &[Hold], held: &[Result<(), Error>]) {
        let held = holds.iter().zip(held).filter(|(_, held)| held.is_ok());
        let mut names = BTreeSet::new();
        for (hold, _) in held {
            let name = &hold.release.name;
            let of_name = self.unmarked.entry(name.clone()).or_default();
            self.unmarked_count += usize::from(of_name.insert(hold.checksum));
            self.gone.remove(&hold.checksum);
            names.insert(name.key().to_owned());
        }
        self.show_unmarked(&names);
    }

    /// Lets readers see what came and went, although no record tells so yet.
    fn show_unmarked(&self, names: &BTreeSet<String>) {
        let moved = self.unmarked.values().flatten();
        let moved = moved.map(|checksum| (*checksum, !self.gone.contains(checksum)));
        self.shared.set_unmarked(moved);
        self.shared.set_totals(&self.state);
        self.shared.watchers.tell(names);
    }

    fn count(
        &mut self,
        hold: &Hold,
        is_new: bool,
        synced: &BTreeMap<u8, Result<(), Error>>,
    ) -> Result<(), Error> {
        self.now = self.now.max(hold.now);
        let [first, ..] = hold.checksum.as_bytes();
        if let Some(outcome) = synced.get(first) {
            outcome.clone()?;
        }
        if is_new {
            self.state.held.add(&hold.checksum, hold.len);
            self.note_moved(hold.checksum, hold.len);
        }
        Ok(())
    }

    /// Takes files away. Once one is gone, it is, whatever becomes of the record.
    fn remove(&mut self, removals: &[(Vec<Removal>, Reply<Freed>)]) -> Vec<Result<Freed, Error>> {
        let mut outcomes = Vec::with_capacity(removals.len());
        let mut names = BTreeSet::new();
        for (removals, _reply) in removals {
            outcomes.push(self.remove_all(removals));
            let of = removals.iter().filter_map(|removal| removal.of.as_ref());
            names.extend(of.map(|name| name.key().to_owned()));
        }
        if !removals.is_empty() {
            self.show_unmarked(&names);
        }
        outcomes
    }

    fn remove_all(&mut self, removals: &[Removal]) -> Result<Freed, Error> {
        let mut freed = Vec::with_capacity(removals.len());
        for removal in removals {
            let is_kept = removal.of.is_none() && !removal.set_aside;
            if is_kept && self.is_named(&removal.checksum)? {
                freed.push(None);
                continue;
            }
            freed.push(self.remove_one(removal)?);
        }
        let both = removals.iter().zip(&freed);
        let gone = both.filter(|(_, bytes)| bytes.is_some());
        let gone = gone.map(|(removal, _)| &removal.checksum);
        let synced = sync_folders(&self.shared.blobs, gone);
        synced.into_values().collect::<Result<(), Error>>()?;
        Ok(freed)
    }

    /// The marks follow whatever becomes of this batch, and of this removal: they are brought to
    /// what is in the folder.
    fn remove_one(&mut self, removal: &Removal) -> Result<Option<u64>, Error> {
        let checksum = removal.checksum;
        if let Some(name) = &removal.of {
            let of_name = self.unmarked.entry(name.clone()).or_default();
            self.unmarked_count += usize::from(of_name.insert(checksum));
        }
        let before = self.shared.blobs.length(&checksum);
        let outcome = self.shared.blobs.remove(removal);
        if self.shared.blobs.length(&checksum).is_none() {
            self.gone.insert(checksum);
            if let Some(bytes) = before {
                self.state.held.remove(&checksum, bytes);
                self.note_moved(checksum, bytes);
            }
        }
        outcome
    }

    /// Whether a record names a checksum by now. Who sent for its removal may have looked before
    /// the record came.
    fn is_named(&mut self, checksum: &Checksum) -> Result<bool, Error> {
        if self.named.is_none() {
            let catalogue = self.shared.catalogue().ok_or_else(not_open)?;
            let mut named = Vec::new();
            catalogue.visit(&mut |_key, record| {
                if let Ok(view) = View::read(&record) {
                    named.extend(view.rows().map(|row| prefix_of(&row.checksum)));
                }
                true
            })?;
            named.sort_unstable();
            self.named = Some(named);
        }
        let named = self.named.as_deref().unwrap_or_default();
        Ok(named.binary_search(&prefix_of(checksum)).is_ok())
    }

    fn note_moved(&mut self, checksum: Checksum, bytes: u64) {
        if let Some(since) = &mut self.since_walk {
            since.push((checksum, bytes));
        }
    }

    // --- steps 2 to 4

    fn write(&mut self, work: &Work) -> Result<Done, Error> {
        if !work.needs_flush() && self.unmarked_count < MAX_UNMARKED {
            self.dirty |= !self.unmarked.is_empty();
            return Ok(Done::default());
        }
        self.shared.check_record_space()?;
        let catalogue = self.shared.catalogue().ok_or_else(not_open)?;
        let happened = self.edit(&catalogue, work)?;
        let mut state = self.state;
        for (walk, _reply) in &work.walk_ends {
            state.held = self.counted(walk);
        }
        let encoded = happened.edits.encode(&mut state)?;
        if !encoded.records.is_empty() {
            self.named = None;
        }
        let frames = self.frames(work, &happened.kept)?;
        self.journal.append_with(&happened.entries, &frames)?;
        self.shared.journal_len.store(self.journal.len(), SeqCst);
        if !self.behind {
            state.journal_len = self.journal.len();
        }
        self.behind = true;
        let events: Vec<Event> = happened.entries.iter().map(Entry::event).collect();
        self.shared.events.count(&events);
        // What a failed batch leaves of it is passed over.
        self.change_number = self.change_number.saturating_add(encoded.changed_files);
        let KeptBatch { pairs, before, .. } = happened.kept;
        if work.needs_flush() {
            self.shared.cover(encoded.before);
            self.shared.cover(before);
        }
        self.dirty = true;
        catalogue.apply(
            encoded.records,
            self.change_number,
            &encoded.new_names,
            pairs,
            &state,
        )?;
        if work.needs_flush() {
            catalogue.flush()?;
            self.wrote();
        }
        self.behind = state.journal_len != self.journal.len();
        self.state = state;
        self.unmarked.clear();
        self.unmarked_count = 0;
        self.gone.clear();
        self.shared.set_unmarked(std::iter::empty());
        self.shared.set_totals(&state);
        self.shared.add_names(&encoded.new_names);
        for key in &happened.visible {
            self.shared.forget_broken_frame(key);
            self.shared.bump(key);
        }
        self.shared.watchers.tell(&happened.visible);
        self.shared.watchers.tell(&happened.marked);
        self.shared.change_number.store(self.change_number, SeqCst);
        Ok(Done {
            events: split(events, &happened.counts),
        })
    }

    /// What the journal gets beside the entries.
    fn frames(&self, work: &Work, kept: &KeptBatch) -> Result<Vec<u8>, Error> {
        let mut frames = Vec::new();
        for line in &kept.lines {
            line.encode(self.now, &mut frames)
                .ok_or_else(|| Error::TooLargeToKeep {
                    key: line.key.clone(),
                })?;
        }
        for event in work.told.iter().flat_map(|(told, _reply)| told) {
            encode_told(event, &mut frames).ok_or_else(|| Error::TooLarge {
                name: event.name.clone(),
            })?;
        }
        Ok(frames)
    }

    /// What a walk found, and what came in or went since it began.
    fn counted(&mut self, walk: &Walk) -> Held {
        let mut held = walk.held;
        let moved: BTreeMap<_, _> = self
            .since_walk
            .take()
            .unwrap_or_default()
            .into_iter()
            .collect();
        for (checksum, bytes) in moved {
            let is_there = self.shared.blobs.length(&checksum).is_some();
            match (walk.may_hold(&checksum), is_there) {
                (false, true) => held.add(&checksum, bytes),
                (true, false) => held.remove(&checksum, bytes),
                _ => {}
            }
        }
        held
    }

    fn edit(&mut self, catalogue: &Catalogue, work: &Work) -> Result<Happened, Error> {
        let mut happened = Happened::default();
        for publish in &work.publishes {
            self.now = self.now.max(publish.now);
            let before = happened.entries.len();
            for change in &publish.changes {
                self.publish(&mut happened, catalogue, change, publish.now)?;
            }
            happened
                .counts
                .push(happened.entries.len().saturating_sub(before));
        }
        for (touches, _reply) in &work.touches {
            for (name, touch) in touches {
                apply_touch(&mut happened.edits, catalogue, name, touch)?;
            }
        }
        for (name, files) in &self.unmarked {
            self.mark(&mut happened, catalogue, name, files)?;
        }
        for mark in work.marks.iter().flat_map(|(marks, _reply)| marks) {
            self.mark(&mut happened, catalogue, &mark.name, &mark.checksums)?;
        }
        for removal in work.removals.iter().flat_map(|(removals, _reply)| removals) {
            if let Some(name) = &removal.of {
                // Its mark may not have been written yet.
                happened.marked.insert(name.key().to_owned());
                self.mark(&mut happened, catalogue, name, [&removal.checksum])?;
            }
        }
        for event in work.told.iter().flat_map(|(told, _reply)| told) {
            self.learn(&mut happened, catalogue, event)?;
        }
        for kept in work.keeps.iter().flat_map(|(kept, _reply)| kept) {
            happened.kept.add(catalogue, kept)?;
        }
        Ok(happened)
    }

    fn learn(
        &self,
        happened: &mut Happened,
        catalogue: &Catalogue,
        event: &Event,
    ) -> Result<(), Error> {
        let is_held = |checksum: &Checksum| self.shared.blobs.length(checksum).is_some();
        if let Some(record) = happened.edits.get(catalogue, &event.name)?
            && ledger::learn(record, &event.kind, &is_held)
        {
            happened.edits.mark(&event.name);
        }
        Ok(())
    }

    /// Brings the marks of a name's rows to what is in the folder now: whoever sent for it may have
    /// looked before a file came or went.
    fn mark<'a>(
        &self,
        happened: &mut Happened,
        catalogue: &Catalogue,
        name: &CrateName,
        checksums: impl IntoIterator<Item = &'a Checksum>,
    ) -> Result<(), Error> {
        let Some(record) = happened.edits.get(catalogue, name)? else {
            return Ok(());
        };
        let mut changed = false;
        for checksum in checksums {
            let held = self.shared.blobs.length(checksum).is_some();
            for row in record
                .rows
                .iter_mut()
                .filter(|row| row.checksum == *checksum)
            {
                changed |= row.has(HELD) != held;
                row.set(HELD, held);
            }
        }
        if changed {
            happened.edits.mark(name);
            happened.marked.insert(name.key().to_owned());
        }
        Ok(())
    }

    fn publish(
        &self,
        happened: &mut Happened,
        catalogue: &Catalogue,
        change: &Prepared,
        now: SystemTime,
    ) -> Result<(), Error> {
        match change {
            Prepared::Index { name, .. } => {
                let (record, is_new) = happened.edits.get_or_new(catalogue, name)?;
                if let Some(entries) = self.apply_index(record, is_new, change, now)? {
                    happened.entries.extend(entries);
                    happened.visible.insert(name.key().to_owned());
                }
            }
            Prepared::Gone { name, checked } => {
                let Some(record) = happened.edits.get(catalogue, name)? else {
                    return Ok(());
                };
                record.checked = record.checked.max(*checked);
                let entries = ledger::gone(record, now);
                if !entries.is_empty() {
                    record.changed = now;
                    happened.visible.insert(name.key().to_owned());
                }
                happened.edits.mark(name);
                happened.entries.extend(entries);
            }
        }
        Ok(())
    }

    /// Returns what happened; `None`: readers see nothing new.
    fn apply_index(
        &self,
        record: &mut Record,
        is_new: bool,
        change: &Prepared,
        now: SystemTime,
    ) -> Result<Option<Vec<Entry>>, Error> {
        let Prepared::Index {
            name: _,
            file,
            digest,
            frame,
            validators,
            checked,
        } = change
        else {
            return Ok(None);
        };
        record.etag.clone_from(&validators.etag);
        record.last_modified.clone_from(&validators.last_modified);
        record.checked = *checked;
        let is_same = !is_new && !record.gone && record.digest == *digest;
        if is_same && record.snapshot.is_some() && frame.is_none() {
            return Ok(None);
        }
        if let Some(row) = file.rows().last() {
            record.name = row.name.clone();
        }
        let is_held = |checksum: &Checksum| {
            self.state.held.blobs > 0 && self.shared.blobs.length(checksum).is_some()
        };
        let entries = ledger::update(record, is_new, file.rows(), now, &is_held);
        record.snapshot = Some(match frame {
            Some(frame) => frame.clone(),
            None => compress(file.bytes()).map_err(Error::io("compress", Path::new("index")))?,
        });
        record.digest = *digest;
        record.raw_len = u32::try_from(file.bytes().len()).unwrap_or(u32::MAX);
        if !is_same {
            record.changed = now;
        }
        Ok(Some(entries))
    }

    // --- damage and the end

    /// Opens sled anew, rebuilding it if that is what it takes. `false`: it did not help, or was
    /// done a moment ago.
    fn heal(&mut self) -> bool {
        let pause = self
            .healed_at
            .is_some_and(|healed| healed.elapsed() < HEAL_PAUSE);
        if pause {
            return false;
        }
        self.healed_at = Some(Instant::now());
        self.shared.set_catalogue(None);
        match rebuild::reopen(
            &self.shared.folder,
            &self.shared.options,
            &self.shared.blobs,
            &self.journal,
            self.now,
        ) {
            Ok((catalogue, recovered)) => {
                let held = self.state.held;
                self.state = recovered.state;
                self.counting = Counting::of(recovered.is_miscounted);
                self.named = None;
                if recovered.rebuilt.is_none() {
                    // Sled's count is of the files that it had marks of.
                    self.state.held = held;
                }
                self.behind = false;
                self.shared.set_totals(&self.state);
                self.change_number = recovered.change_number;
                let change_number = self.change_number;
                self.shared.change_number.store(change_number, SeqCst);
                self.shared
                    .change_number_at_open
                    .store(change_number, SeqCst);
                self.shared.set_catalogue(Some(catalogue));
                self.recount();
                self.shared.forget_names();
                self.shared.uncover();
                self.shared.watchers.tell_everything();
                // In this order, so that at no moment nothing tells of the reopening.
                self.shared.reopened.fetch_add(1, SeqCst);
                self.shared.suspect.store(false, SeqCst);
                tracing::warn!(
                    rebuilt = recovered.rebuilt,
                    names = recovered.names,
                    "the index database was opened anew"
                );
                true
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "the index database could not be opened anew");
                self.dirty = true;
                false
            }
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        // On a full disk sled's flush might keep us from ending.
        self.shared.check_record_space()?;
        let touches = self.shared.touches();
        if !touches.is_empty() {
            let (reply, _nobody) = sync_channel(1);
            self.batch(Work::of(vec![Job::Touch(touches, reply)]));
        }
        self.settle()?;
        let catalogue = self.shared.catalogue().ok_or_else(not_open)?;
        if self.counting == Counting::Anew {
            catalogue.put_state(&self.state)?;
        }
        catalogue.flush()?;
        if self.shared.damaged() > 0 || self.behind || !self.unmarked.is_empty() {
            // The next start looks closely.
            return Ok(());
        }
        self.shared.folder.note_clean()
    }
}

impl Work {
    fn is_idle(&self) -> bool {
        self.holds.is_empty() && self.walk_begins.is_empty() && !self.needs_flush()
    }
}

fn not_open() -> Error {
    Error::Engine {
        doing: "be used: it is being opened anew",
        source: EngineError("not open".into()),
    }
}

/// Nobody may be waiting any more: the caller's deadline is over.
fn answer<T>(reply: &Reply<T>, outcome: Result<T, Error>) {
    drop(reply.send(outcome));
}

fn split(events: Vec<Event>, counts: &[usize]) -> Vec<Vec<Event>> {
    let mut events = events.into_iter();
    counts
        .iter()
        .map(|count| events.by_ref().take(*count).collect())
        .collect()
}

fn apply_touch(
    edits: &mut Edits,
    catalogue: &Catalogue,
    name: &CrateName,
    touch: &Touch,
) -> Result<(), Error> {
    let Some(record) = edits.get(catalogue, name)? else {
        return Ok(());
    };
    if touch.checked <= record.checked {
        return Ok(());
    }
    record.checked = touch.checked;
    if let Some(validators) = &touch.validators {
        record.etag.clone_from(&validators.etag);
        record.last_modified.clone_from(&validators.last_modified);
    }
    edits.mark(name);
    Ok(())
}
