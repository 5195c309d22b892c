//! What the journal tells, for those who carry it elsewhere or bring it here.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    ops::ControlFlow,
    sync::atomic::Ordering::SeqCst,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Store,
    commit::Job,
    error::Error,
    facts::{Event, EventKind},
    journal,
};

/// How many events go to the committer at a time.
const EVENTS_AT_A_TIME: usize = 2048;

impl Store {
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
            self.shared().queue.call(|reply| Job::Learn(part, reply))?;
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
