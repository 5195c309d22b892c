//! What the mirror did of late, for people who look at the status page: kept in memory, and bounded.

use std::{collections::VecDeque, time::SystemTime};

use parking_lot::Mutex;

use crate::store::Event;

/// How much is remembered: more than a page shows, so that a burst of fetches does not hide a lie.
const REMEMBERED: usize = 100;

/// One thing that happened, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// When.
    pub at: SystemTime,
    /// What; names and versions stand in backticks.
    pub what: String,
}

/// What happened of late, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Activities(Mutex<VecDeque<Activity>>);

impl Activities {
    pub(super) fn note(&self, at: SystemTime, what: String) {
        let mut activities = self.0.lock();
        if activities.len() >= REMEMBERED {
            activities.pop_front();
        }
        activities.push_back(Activity { at, what });
    }

    /// The newest of these and of `events`, the newest first.
    pub(super) fn newest(&self, events: Vec<Event>, limit: usize) -> Vec<Activity> {
        let mut all: Vec<Activity> = self.0.lock().iter().cloned().collect();
        all.extend(events.into_iter().map(|event| Activity {
            at: event.at,
            what: event.to_string(),
        }));
        all.sort_by_key(|activity| std::cmp::Reverse(activity.at));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_come_first_and_there_is_a_bound() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let activities = Activities::default();
        for second in 0..1000 {
            activities.note(at(second), format!("fetched {second}"));
        }
        let newest = activities.newest(Vec::new(), 2);
        assert_eq!(
            newest.iter().map(|a| a.at).collect::<Vec<_>>(),
            [at(999), at(998)]
        );
        assert_eq!(activities.newest(Vec::new(), 5000).len(), REMEMBERED);
    }
}
