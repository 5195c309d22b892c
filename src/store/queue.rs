//! What waits to be written: the jobs, and the queue from which the committer takes them.

use std::{
    collections::VecDeque,
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Condvar, Mutex};

use super::{
    blob_store::{BlobWalk, Removal, SpooledBlob},
    codec::Frame,
    error::Error,
    facts::{Event, Validators},
    table::Kept,
};
use crate::registry::{Checksum, CrateName, IndexFile};

/// How many writes may wait. More wait for room, within the write deadline.
const MAX_QUEUED: usize = 1024;

/// How many writes share a batch: enough to make the syncs cheap, few enough that the first of them
/// does not wait long.
const MAX_BATCH: usize = 256;

/// What upstream said when nothing had changed.
#[derive(Debug, Clone)]
pub(super) struct Touch {
    pub(super) checked: SystemTime,
    pub(super) validators: Option<Validators>,
}

/// What one caller touched.
pub(super) type Touches = Vec<(CrateName, Touch)>;

/// Where an answer goes.
pub(super) type Reply<T> = SyncSender<Result<T, Error>>;

/// The length of each file that was to go; `None`: it was not there.
pub(super) type Freed = Vec<Option<u64>>;

/// One thing to write.
pub(super) enum Job {
    Publish(Publish),
    Hold(Hold),
    Edit(RecordEdit, Reply<()>),
    Remove(Vec<Removal>, Reply<Freed>),
    WalkBegin(Reply<()>),
    /// One step beside the batches. The answer is the change number.
    Step(Box<Step>, Reply<u64>),
    Close(Reply<()>),
}

/// What changes records and values without an answer of its own.
pub(super) enum RecordEdit {
    Touch(Touches),
    Mark(Vec<Mark>),
    Keep(Vec<Kept>),
    Learn(Vec<Event>),
    WalkEnd(BlobWalk),
}

/// What is done by itself, between batches.
pub(super) enum Step {
    /// Makes durable all that was written before.
    MakeDurable,
    /// Gives index files back that were lost.
    Restore(Vec<Restored>),
    /// All index files that were lost are back, and with them the changes up to this number.
    Back { change: u64 },
}

/// An index file that was lost and found again.
pub(super) struct Restored {
    pub(super) name: CrateName,
    pub(super) file: IndexFile,
    pub(super) digest: [u8; 16],
    pub(super) frame: Frame,
    pub(super) checked: SystemTime,
}

/// Index changes of one caller.
pub(super) struct Publish {
    pub(super) changes: Vec<Prepared>,
    pub(super) now: SystemTime,
    pub(super) reply: Reply<Vec<Event>>,
}

/// An index change, compressed by its caller.
pub(super) enum Prepared {
    Index {
        name: CrateName,
        file: IndexFile,
        digest: [u8; 16],
        /// `None`: the caller saw the same bytes in the store, in a good frame.
        frame: Option<Frame>,
        validators: Validators,
        checked: SystemTime,
    },
    Gone {
        name: CrateName,
        checked: SystemTime,
    },
}

/// A blob of a crate that is to be taken in.
pub(super) struct Hold {
    pub(super) name: CrateName,
    pub(super) spooled: SpooledBlob,
    pub(super) now: SystemTime,
    pub(super) reply: Reply<()>,
}

/// Crate files of a name that came or went, as adoption found it.
pub(super) struct Mark {
    pub(super) name: CrateName,
    pub(super) checksums: Vec<Checksum>,
}

/// What waits to be written.
pub(super) struct Queue {
    inside: Mutex<Waiting>,
    changed: Condvar,
    deadline: Duration,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
    nudged: bool,
    /// Since when the committer has been at its batch.
    busy_since: Option<Instant>,
}

impl Queue {
    pub(super) fn new(deadline: Duration) -> Queue {
        Queue {
            inside: Mutex::default(),
            changed: Condvar::new(),
            deadline,
        }
    }

    /// Hands a job in and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Wedged`] after the write deadline (at once while an earlier batch is over it),
    /// [`Error::Closed`], and what the job says.
    pub(super) fn call<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, Error> {
        let (reply, answer) = sync_channel(1);
        let until = Instant::now() + self.deadline;
        self.push(job(reply), until)?;
        match answer.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(self.wedged()),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Closed),
        }
    }

    fn push(&self, job: Job, until: Instant) -> Result<(), Error> {
        let mut inside = self.inside.lock();
        loop {
            if inside.closed {
                return Err(Error::Closed);
            }
            if inside.is_stuck(self.deadline) {
                return Err(self.wedged());
            }
            if inside.jobs.len() < MAX_QUEUED {
                break;
            }
            if self.changed.wait_until(&mut inside, until).timed_out() {
                return Err(self.wedged());
            }
        }
        inside.closed = matches!(job, Job::Close(_));
        inside.jobs.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    fn wedged(&self) -> Error {
        Error::Wedged {
            waited: self.deadline,
        }
    }

    /// Asks the committer to look at sled.
    pub(super) fn nudge(&self) {
        self.inside.lock().nudged = true;
        self.changed.notify_all();
    }

    /// Whether the committer has been at one batch for longer than the write deadline.
    pub(super) fn is_stuck(&self) -> bool {
        self.inside.lock().is_stuck(self.deadline)
    }

    /// The next batch; empty: nudged, or nothing came for as long as `quiet`.
    pub(super) fn drain(&self, quiet: Option<Duration>) -> Vec<Job> {
        let mut inside = self.inside.lock();
        inside.busy_since = None;
        let until = quiet.map(|quiet| Instant::now() + quiet);
        while inside.jobs.is_empty() && !inside.nudged {
            let Some(until) = until else {
                self.changed.wait(&mut inside);
                continue;
            };
            if self.changed.wait_until(&mut inside, until).timed_out() {
                break;
            }
        }
        inside.nudged = false;
        inside.busy_since = Some(Instant::now());
        let take = inside.jobs.len().min(MAX_BATCH);
        let jobs = inside.jobs.drain(..take).collect();
        self.changed.notify_all();
        jobs
    }
}

impl Waiting {
    fn is_stuck(&self, deadline: Duration) -> bool {
        self.busy_since
            .is_some_and(|since| since.elapsed() > deadline)
    }
}
