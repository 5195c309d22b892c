//! Events on their way to somebody who may be slow: the job never waits, and memory has a bound.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::context::{Caller, Event, JobContext};

/// How many notes and failures wait at most. A report has its failures whole.
const MOST_WAITING: usize = 4096;

/// Events of one job between it and whoever shows them. Of progress only the newest waits.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    progress: Option<Event>,
    /// How many found no room.
    dropped: u64,
}

impl Waiting {
    fn take_in(&mut self, event: Event) {
        match event {
            Event::Progress { .. } => self.progress = Some(event),
            Event::Phase { .. } => {
                // The last word on the phase before comes before this one.
                let last = self.progress.take();
                // A job has few phases: they find room always.
                self.events.extend(last.into_iter().chain([event]));
            }
            Event::Note { .. } | Event::Failed { .. } => self.append(event),
        }
    }

    fn append(&mut self, event: Event) {
        if self.events.len() < MOST_WAITING {
            self.events.push_back(event);
        } else {
            self.dropped += 1;
        }
    }

    fn take_out(&mut self) -> Vec<Event> {
        let mut events: Vec<Event> = self.events.drain(..).collect();
        events.extend(self.progress.take());
        match std::mem::take(&mut self.dropped) {
            0 => {}
            dropped => events.push(Event::Note {
                text: format!("{dropped} more events came faster than they could be shown"),
            }),
        }
        events
    }
}

impl Outbox {
    /// The context of a job whose events go here; cancelling `cancel` asks the job to end.
    pub fn context(self: &Arc<Self>, caller: Caller, cancel: &CancellationToken) -> JobContext {
        let outbox = Arc::clone(self);
        let listener = move |event| outbox.take_in(event);
        JobContext::new(caller, Arc::new(listener), cancel.clone())
    }

    fn take_in(&self, event: Event) {
        self.waiting.lock().take_in(event);
        self.changed.notify_one();
    }

    /// No event comes any more.
    pub fn close(&self) {
        self.closed.cancel();
        self.changed.notify_one();
    }

    /// Waits until it is closed. Cancel safe.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// What came since the last call, never nothing; `None`: it is closed and empty. For one
    /// taker. Cancel safe.
    pub async fn take(&self) -> Option<Vec<Event>> {
        loop {
            // Read first: an event that comes before the close is not lost.
            let is_closed = self.closed.is_cancelled();
            let events = self.waiting.lock().take_out();
            if !events.is_empty() {
                return Some(events);
            }
            if is_closed {
                return None;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Event {
        Event::Note { text: text.into() }
    }

    fn progress(done: u64) -> Event {
        Event::Progress {
            done,
            total: None,
            bytes: 0,
        }
    }

    fn phase(phase: &str) -> Event {
        Event::Phase {
            phase: phase.into(),
            unit: super::super::Unit::Crates,
            total: None,
        }
    }

    #[tokio::test]
    async fn of_progress_the_newest_waits_and_it_stays_with_its_phase() {
        let outbox = Arc::new(Outbox::default());
        for event in [
            phase("a"),
            progress(1),
            note("x"),
            progress(2),
            phase("b"),
            progress(3),
            progress(4),
        ] {
            outbox.take_in(event);
        }
        let expected = vec![phase("a"), note("x"), progress(2), phase("b"), progress(4)];
        assert_eq!(outbox.take().await, Some(expected));
        outbox.take_in(note("last"));
        outbox.close();
        assert_eq!(outbox.take().await, Some(vec![note("last")]));
        assert_eq!(outbox.take().await, None);
    }

    #[tokio::test]
    async fn more_than_fit_are_counted() {
        let outbox = Outbox::default();
        for count in 0..MOST_WAITING + 7 {
            outbox.take_in(note(&count.to_string()));
        }
        let events = outbox.take().await.unwrap();
        assert_eq!(events.len(), MOST_WAITING + 1);
        assert!(format!("{:?}", events.last()).contains("\"7 more"));
    }
}
