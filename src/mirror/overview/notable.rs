//! Events that people must not miss: checksums that changed, versions and names that went. Read off
//! the journal as it grows, so that no burst and no restart hides them.
//!
//! In [`Table::History`] under `notable`, as JSON: `{"upto":BYTES,"events":[{"at":SECONDS,
//! "kind":"changed","name":"demo","what":"…"}]}`, the newest first and at most 100. `upto` is how
//! far the journal was read; what is lost is read again.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    time::{Duration, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use crate::{
    mirror::activity::{Activity, Happened},
    registry::{CrateName, words::seconds},
    store::{self, Event, Store, Table},
};

const KEY: &str = "notable";

/// How many are kept.
const KEPT: usize = 100;

/// How much of the journal somebody who looks at a page may wait for, which is a part of a second.
/// What is more is read by the minute.
const AT_ONCE_BYTES: u64 = 8 << 20;

/// How far reading may run ahead of what was written: what a crash makes us read again.
const WRITE_EVERY_BYTES: u64 = 1 << 20;

/// See the module's sentence.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Notables {
    /// Held by who reads on; all others have meanwhile what is there.
    reading: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    upto: u64,
    events: VecDeque<Notable>,
    #[serde(skip)]
    written: u64,
    #[serde(skip)]
    is_changed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Notable {
    at: u64,
    kind: String,
    name: String,
    what: String,
}

impl Notables {
    pub(in crate::mirror) fn load(store: &Store) -> Notables {
        let kept = store.kept(Table::History, KEY).ok().flatten();
        let state = kept.and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let mut state = state.unwrap_or_default();
        state.written = state.upto;
        Notables {
            reading: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    /// Reads on in the journal, and writes what that brought. For jobs, not for requests.
    pub(in crate::mirror) fn catch_up(&self, store: &Store) -> Result<(), store::Error> {
        let reading = self.reading.lock();
        self.read(&reading, store)?;
        let (upto, bytes) = {
            let state = self.state.lock();
            if !state.is_changed && state.upto.abs_diff(state.written) <= WRITE_EVERY_BYTES {
                return Ok(());
            }
            let bytes = serde_json::to_vec(&*state).unwrap_or_default();
            (state.upto, bytes)
        };
        // No other changes it meanwhile: whoever would needs `reading`.
        store.keep(Table::History, vec![(KEY.to_owned(), Some(bytes))])?;
        let mut state = self.state.lock();
        state.written = upto;
        state.is_changed = false;
        Ok(())
    }

    /// The newest first, as far as the journal can be read at once. Blocks for the disk.
    pub(super) fn newest(&self, store: &Store) -> Vec<Activity> {
        if let Some(reading) = self.reading.try_lock() {
            let upto = self.state.lock().upto;
            let end = store.journal_file().map(|(_file, end)| end);
            if end.is_ok_and(|end| end.saturating_sub(upto) <= AT_ONCE_BYTES)
                && let Err(error) = self.read(&reading, store)
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not read what upstream changed"
                );
            }
        }
        self.told()
    }

    fn told(&self) -> Vec<Activity> {
        let state = self.state.lock();
        state.events.iter().filter_map(Notable::told).collect()
    }

    fn read(&self, reading: &MutexGuard<'_, ()>, store: &Store) -> Result<(), store::Error> {
        let (_file, end) = store.journal_file()?;
        self.take(reading, end, |from, note| {
            store.events(from, |after, event| {
                note(after, &event);
                ControlFlow::Continue(())
            })
        })
    }

    /// Takes in what `events` hands over: all of it, or nothing where it fails.
    fn take<E>(
        &self,
        _reading: &MutexGuard<'_, ()>,
        end: u64,
        events: impl FnOnce(u64, &mut dyn FnMut(u64, &Event)) -> Result<(), E>,
    ) -> Result<(), E> {
        let upto = self.state.lock().upto;
        // An end before that is of another journal than the one that was read.
        let is_other = end < upto;
        if end == upto {
            return Ok(());
        }
        // What came since `end` was asked for is handed over, too.
        let (mut read_to, mut fresh) = (end, VecDeque::new());
        events(if is_other { 0 } else { upto }, &mut |after, event| {
            read_to = read_to.max(after);
            if Happened::of(&event.kind).is_notable() {
                fresh.push_front(Notable::of(&Activity::of(event)));
                fresh.truncate(KEPT);
            }
        })?;
        let mut state = self.state.lock();
        if is_other {
            *state = State::default();
        }
        state.is_changed |= is_other || !fresh.is_empty();
        fresh.append(&mut state.events);
        fresh.truncate(KEPT);
        state.events = fresh;
        state.upto = read_to;
        Ok(())
    }
}

impl Notable {
    fn of(activity: &Activity) -> Notable {
        Notable {
            at: seconds(activity.at),
            kind: activity.kind.as_str().to_owned(),
            name: activity
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            what: activity.what.clone(),
        }
    }

    fn told(&self) -> Option<Activity> {
        let kinds = [Happened::Changed, Happened::Removed, Happened::Gone];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == self.kind)?;
        Some(Activity {
            at: UNIX_EPOCH
                .checked_add(Duration::from_secs(self.at))
                .unwrap_or(UNIX_EPOCH),
            kind,
            name: Some(CrateName::parse(&self.name).ok()?),
            what: self.what.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EventKind;

    fn event(name: &str, kind: EventKind) -> Event {
        Event {
            at: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            name: CrateName::parse(name).expect("a name"),
            kind,
        }
    }

    fn names(notables: &Notables) -> Vec<String> {
        let told = notables.told().into_iter();
        told.filter_map(|one| Some(one.name?.to_string())).collect()
    }

    #[test]
    fn what_a_failed_read_brought_is_not_told_twice() {
        let notables = Notables::default();
        let reading = notables.reading.lock();
        let gone = [
            event("a", EventKind::NameGone),
            event("b", EventKind::NameGone),
        ];
        let failed = notables.take(&reading, 90, |from, note| {
            assert_eq!(from, 0);
            note(40, &gone[0]);
            // Who looks meanwhile does not wait.
            assert!(names(&notables).is_empty());
            Err("the disk failed")
        });
        assert_eq!(failed, Err("the disk failed"));
        let read = |end, places: &[(u64, &Event)], from_expected| {
            let well = notables.take(&reading, end, |from, note| {
                assert_eq!(from, from_expected);
                for (after, event) in places {
                    note(*after, event);
                }
                Ok::<(), ()>(())
            });
            assert_eq!(well, Ok(()));
        };
        read(90, &[(40, &gone[0]), (90, &gone[1])], 0);
        assert_eq!(names(&notables), ["b", "a"]);
        // One that came after the end was asked for is not read again.
        read(
            120,
            &[(120, &event("c", EventKind::NameBack)), (150, &gone[0])],
            90,
        );
        read(150, &[], 150);
        assert_eq!(names(&notables), ["a", "b", "a"]);
        // Another journal, which is shorter.
        read(60, &[(60, &gone[1])], 0);
        assert_eq!(names(&notables), ["b"]);
    }
}
