//! What the journal tells, for those who carry it elsewhere or bring it here.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    ops::ControlFlow,
    sync::atomic::Ordering::SeqCst,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    error::Error,
    events::{CrateHistory, EventLog, LogEntry, Places, READ_AT_ONCE_BYTES},
    facts::{Event, EventKind},
    handle::Store,
    journal,
    queue::{Job, RecordEdit},
};
use crate::registry::CrateName;

/// How many events go to the committer at a time.
const EVENTS_AT_A_TIME: usize = 2048;

impl Store {
    /// The event log. Reads on in the journal, unless much of it is unread: then the log is as far
    /// as it was read in the background.
    pub fn log(&self) -> &EventLog {
        let log = &self.shared().events;
        if let Some(mut places) = log.places.try_lock()
            && self.unread(&places) <= READ_AT_ONCE_BYTES
            && let Err(error) = self.read_on(&mut places)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not read the events in the journal"
            );
        }
        log
    }

    /// Brings the event log to the end of the journal. A million events take about a second: for
    /// the background.
    ///
    /// # Errors
    /// [`Error::Io`]; damage is passed over.
    pub fn read_events(&self) -> Result<(), Error> {
        self.read_on(&mut self.shared().events.places.lock())
    }

    /// Adds what the program itself did or met to the event log. In memory only.
    pub fn note(&self, entry: LogEntry) {
        self.shared().events.note(entry);
    }

    /// Notes that a file of a crate came in, in whatever way.
    pub fn note_file(&self, name: &CrateName) {
        self.shared().events.note_file(name);
    }

    /// What the journal has of a name, at most `limit` events of it. Blocks for the disk, and while
    /// the journal is read in the background.
    ///
    /// # Errors
    /// [`Error::Io`]; damage is passed over.
    pub fn history_of(&self, name: &CrateName, limit: usize) -> Result<CrateHistory, Error> {
        let path = self.shared().folder.dir.join("journal");
        let places = {
            let mut places = self.shared().events.places.lock();
            self.read_on(&mut places)?;
            places.of(name)
        };
        let (file, _end) = self.journal_file()?;
        let mut history = CrateHistory::default();
        for place in places {
            let line = journal::line_at(&file, place);
            history.take(name, line.map_err(Error::io("read the journal", &path))?);
        }
        history.events.truncate(limit);
        Ok(history)
    }

    fn unread(&self, places: &Places) -> u64 {
        let end = self.shared().journal_len.load(SeqCst);
        end.saturating_sub(places.upto)
    }

    fn read_on(&self, places: &mut Places) -> Result<(), Error> {
        if self.unread(places) == 0 {
            return Ok(());
        }
        let (file, end) = self.journal_file()?;
        let path = self.shared().folder.dir.join("journal");
        let read = self.shared().events.read(places, &file, end);
        read.map_err(Error::io("read the journal", &path))
    }

    /// Hands what upstream did, as it was noticed, to `visit`, until it breaks: from a place in the
    /// journal on (0: the start, or what was handed with an event: after that one). With each event
    /// comes the place after it. Reads the journal: for jobs, not for requests.
    ///
    /// # Errors
    /// [`Error::Io`]; damage is passed over.
    pub fn events(
        &self,
        from: u64,
        mut visit: impl FnMut(u64, Event) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let (file, end) = self.journal_file()?;
        let path = self.shared().folder.dir.join("journal");
        journal::read_events(&file, from, end, &mut |after, event| {
            visit(after, event).is_continue()
        })
        .map_err(Error::io("read the journal", &path))
    }

    /// Takes in what another store noticed: what this one's journal does not tell yet. Returns how
    /// many events that were. They are history: what is in force is told by index files
    /// ([`publish`](Store::publish), best before this, so that what both tell is told once), and
    /// all that is learned for the records are the checksums of versions that are superseded or
    /// were removed.
    ///
    /// # Errors
    /// See [`Error`]; a part of the events may have been taken in then.
    pub fn merge_events(&self, events: Vec<Event>) -> Result<u64, Error> {
        let new = self.not_told(events)?;
        let count = new.len() as u64;
        let mut rest = new.into_iter().peekable();
        while rest.peek().is_some() {
            let part = rest.by_ref().take(EVENTS_AT_A_TIME).collect();
            self.shared()
                .queue
                .call(|reply| Job::Edit(RecordEdit::Learn(part), reply))?;
        }
        Ok(count)
    }

    fn not_told(&self, events: Vec<Event>) -> Result<Vec<Event>, Error> {
        let mut known: HashMap<&str, HashSet<Fact>> = HashMap::new();
        for event in &events {
            known.entry(event.name.key()).or_default();
        }
        self.events(0, |_after, event| {
            if let Some(facts) = known.get_mut(event.name.key()) {
                facts.insert(fact(&event));
            }
            ControlFlow::Continue(())
        })?;
        let is_new: Vec<bool> = events
            .iter()
            .map(|event| {
                known
                    .get_mut(event.name.key())
                    .is_some_and(|facts| facts.insert(fact(event)))
            })
            .collect();
        let both = events.into_iter().zip(is_new);
        Ok(both
            .filter(|(_, is_new)| *is_new)
            .map(|(event, _)| event)
            .collect())
    }

    /// The journal, to be copied, and how many bytes of it are durable. What lies beyond may be half
    /// written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn journal_file(&self) -> Result<(File, u64), Error> {
        let shared = self.shared();
        let end = shared.journal_len.load(SeqCst);
        let path = shared.folder.dir.join("journal");
        let file = File::open(&path).map_err(Error::io("open the journal", &path))?;
        Ok((file, end))
    }
}

/// What makes two events the same. Two stores notice one thing at different times, and some things
/// happen only once.
type Fact = (u128, EventKind);

fn fact(event: &Event) -> Fact {
    let happens_again = matches!(
        event.kind,
        EventKind::Yanked { .. }
            | EventKind::Unyanked { .. }
            | EventKind::NameGone
            | EventKind::NameBack
    );
    let kind = match &event.kind {
        EventKind::FirstSeen { .. } => EventKind::FirstSeen { versions: 0 },
        EventKind::NewVersion {
            version, checksum, ..
        } => EventKind::NewVersion {
            version: version.clone(),
            checksum: *checksum,
            yanked: false,
        },
        kind => kind.clone(),
    };
    (if happens_again { millis(event.at) } else { 0 }, kind)
}

fn millis(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
