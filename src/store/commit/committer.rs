//! The committer's thread: its loop, its batches, the answers, damage and the end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
        mpsc::sync_channel,
    },
    time::{Duration, Instant, SystemTime},
};

use super::{stages::Progress, unmarked::Unmarked};
use crate::{
    registry::Checksum,
    store::{
        blob_store::{ChecksumSet, Removal},
        catalogue::{Durable, panic_text},
        codec::View,
        error::Error,
        facts::Event,
        journal::Journal,
        queue::{Freed, Hold, Job, Publish, RecordEdit, Reply, Step},
        rebuild::{self, Recovered},
        shared::Shared,
        state::Counts,
    },
};

/// How long the queue is quiet before what was put off is flushed.
const QUIET: Duration = Duration::from_secs(1);

/// How long after opening sled anew it is not tried again.
const HEAL_PAUSE: Duration = Duration::from_secs(10);

/// What the committer's thread owns.
pub(in crate::store) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) journal: Journal,
    pub(super) progress: Progress,
    pub(super) unmarked: Unmarked,
    /// The latest time that a job brought: for the name of a folder that is set aside.
    pub(super) now: SystemTime,
    /// The checksums of all blobs with an owner; `None`: not known since a record changed.
    pub(super) owned: Option<ChecksumSet>,
    /// Blobs that came in or went since a walk began.
    pub(super) since_walk: Option<Vec<(Checksum, u64)>>,
    healed_at: Option<Instant>,
    /// The records were counted anew, and sled does not have the counts yet.
    is_recounted: bool,
}

/// A batch, sorted.
#[derive(Default)]
pub(super) struct Work {
    pub(super) publishes: Vec<Publish>,
    pub(super) holds: Vec<Hold>,
    pub(super) edits: Vec<RecordEdit>,
    pub(super) removals: Vec<(Vec<Removal>, Reply<Freed>)>,
    /// Of the edits.
    replies: Vec<Reply<()>>,
    walk_begins: Vec<Reply<()>>,
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
                Job::Edit(edit, reply) => {
                    work.edits.push(edit);
                    work.replies.push(reply);
                }
                Job::Remove(removals, reply) => work.removals.push((removals, reply)),
                Job::WalkBegin(reply) => work.walk_begins.push(reply),
                Job::Step(step, reply) => work.steps.push((step, reply)),
                Job::Close(reply) => work.closes.push(reply),
            }
        }
        work
    }

    /// Whether someone waits for records to be durable.
    pub(super) fn needs_flush(&self) -> bool {
        !(self.publishes.is_empty() && self.removals.is_empty() && self.edits.is_empty())
    }

    fn is_idle(&self) -> bool {
        self.holds.is_empty() && self.walk_begins.is_empty() && !self.needs_flush()
    }
}

impl Committer {
    pub(in crate::store) fn new(
        shared: Arc<Shared>,
        journal: Journal,
        recovered: &Recovered,
        now: SystemTime,
    ) -> Committer {
        shared.set_totals(&recovered.state);
        let progress = Progress {
            state: recovered.counted_state(),
            change_number: recovered.change_number,
            dirty: false,
            behind: false,
        };
        shared.journal_len.store(journal.len(), SeqCst);
        Committer {
            shared,
            journal,
            progress,
            unmarked: Unmarked::default(),
            now,
            owned: None,
            since_walk: None,
            healed_at: None,
            is_recounted: false,
        }
    }

    /// Works until the store is closed.
    pub(in crate::store) fn run(mut self) {
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
                self.progress.dirty = true;
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
        let known = self.progress.state.counts;
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
        self.progress.state.counts = Some(counts);
        self.shared.set_totals(&self.progress.state);
        // Written with the next batch, or at the end.
        self.is_recounted = true;
    }

    /// Whether there is something to do when nothing comes.
    fn has_more(&self) -> bool {
        self.progress.dirty
            || self.progress.state.counts.is_none()
            || self.shared.suspect.load(SeqCst)
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

    /// Writes the marks that wait: what is written of the count of files without them would hide
    /// that they are missing.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.unmarked.is_empty() {
            return Ok(());
        }
        let (reply, outcome) = sync_channel(1);
        self.batch(Work::of(vec![Job::Edit(
            RecordEdit::Mark(Vec::new()),
            reply,
        )]));
        outcome.recv().unwrap_or(Err(Error::Closed))
    }

    /// Flushes what was put off, and finds out whether writes work again.
    fn catch_up(&mut self) {
        self.recount();
        if !self.progress.dirty || self.shared.check_record_space().is_err() {
            return;
        }
        if !self.unmarked.is_empty() {
            // Its failure is noted already.
            drop(self.settle());
            return;
        }
        match self
            .shared
            .open_catalogue()
            .and_then(|catalogue| catalogue.flush())
        {
            Ok(durable) => self.wrote(durable),
            Err(error) => self.failed(&error),
        }
    }

    /// Notes that all that was applied is durable.
    pub(super) fn wrote(&mut self, durable: Durable) {
        self.progress.dirty = false;
        self.shared.uncover(durable);
        let failing = self.journal.is_dead();
        if self.shared.failing.swap(failing, SeqCst) && !failing {
            // What was applied before the failure is visible from now on.
            self.shared.watchers.tell_everything();
            tracing::info!("the store takes writes again");
        }
    }

    fn failed(&mut self, error: &Error) {
        self.progress.dirty = true;
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
        let held = self.put(&work.holds);
        let mut outcome = self.write(&work);
        if let Err(error) = &outcome {
            self.failed(error);
            if matches!(error, Error::Engine { .. }) && self.heal() {
                outcome = self.write(&work);
            }
        }
        self.answer(work, removed, held, outcome);
    }

    /// `outcome` has the events of each publish.
    fn answer(
        &mut self,
        work: Work,
        removed: Vec<Result<Freed, Error>>,
        held: Vec<Result<(), Error>>,
        outcome: Result<Vec<Vec<Event>>, Error>,
    ) {
        for ((_removals, reply), removed) in work.removals.iter().zip(removed) {
            answer(reply, removed);
        }
        // The blob is durable whatever became of the record: adoption finds it.
        for (hold, held) in work.holds.iter().zip(held) {
            answer(&hold.reply, held);
        }
        let plain = outcome.as_ref().map(drop).map_err(Clone::clone);
        let mut events = outcome.unwrap_or_default().into_iter();
        for publish in &work.publishes {
            let events = events.next().unwrap_or_default();
            answer(&publish.reply, plain.clone().map(|()| events));
        }
        for (edit, reply) in work.edits.iter().zip(&work.replies) {
            if let (RecordEdit::Touch(touches), Ok(())) = (edit, &plain) {
                self.shared.forget_touches(touches);
            }
            answer(reply, plain.clone());
        }
        for reply in work.walk_begins {
            self.since_walk = Some(Vec::new());
            answer(&reply, Ok(()));
        }
    }

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
                let durable = Durable::of_opened(&catalogue);
                let held = self.progress.state.held;
                self.progress.state = recovered.counted_state();
                self.is_recounted = false;
                self.owned = None;
                if recovered.rebuilt.is_none() {
                    // Sled's count is of the files that it had marks of.
                    self.progress.state.held = held;
                }
                self.progress.behind = false;
                self.shared.set_totals(&self.progress.state);
                self.progress.change_number = recovered.change_number;
                let change_number = self.progress.change_number;
                self.shared.change_number.store(change_number, SeqCst);
                self.shared
                    .change_number_at_open
                    .store(change_number, SeqCst);
                self.shared.set_catalogue(Some(catalogue));
                self.recount();
                self.shared.forget_names();
                self.shared.uncover(durable);
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
                self.progress.dirty = true;
                false
            }
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        // On a full disk sled's flush might keep us from ending.
        self.shared.check_record_space()?;
        let touches = self.shared.touches();
        if !touches.is_empty() {
            let (reply, _unread) = sync_channel(1);
            self.batch(Work::of(vec![Job::Edit(RecordEdit::Touch(touches), reply)]));
        }
        self.settle()?;
        let catalogue = self.shared.open_catalogue()?;
        if self.is_recounted {
            catalogue.put_state(&self.progress.state)?;
        }
        catalogue.flush()?;
        if self.shared.damaged() > 0 || self.progress.behind || !self.unmarked.is_empty() {
            // The next start looks closely.
            return Ok(());
        }
        self.shared.folder.note_clean()
    }
}

/// The caller may have given up: the caller's deadline is over.
fn answer<T>(reply: &Reply<T>, outcome: Result<T, Error>) {
    drop(reply.send(outcome));
}
