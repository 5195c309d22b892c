//! One job for all who wait for the same thing: joining it, leading it, and remembering its failure for a moment.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// How many jobs of one kind may be under way or remembered. A client that asks for a hundred
/// thousand different names gets "busy" and not our memory; cargo never has more than some
/// hundreds of requests under way.
const MAX_FLIGHTS: usize = 8192;

/// Jobs by what they are about. A job's state is a `V` that its leader sets and all others watch.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

#[derive(Debug)]
struct Flight<V> {
    state: watch::Receiver<V>,
    /// Set when the job has failed: until then its failure answers those who ask again.
    remembered_until: Option<Instant>,
}

/// What one who asks for a job gets.
#[derive(Debug)]
pub(super) enum Boarding<K: Eq + Hash, V> {
    /// The job is under way, or its failure is remembered.
    Joined(watch::Receiver<V>),
    /// There was none: the caller must start it, on a task of its own.
    Lead(Leader<K, V>, watch::Receiver<V>),
    /// Too many jobs are under way.
    Full,
}

impl<K: Eq + Hash + Clone, V> Flights<K, V> {
    pub(super) fn new() -> Flights<K, V> {
        Flights {
            flights: Arc::default(),
        }
    }

    /// How many jobs are under way. Those whose failure is remembered are over.
    pub(super) fn under_way(&self) -> usize {
        let flights = self.flights.lock();
        let is_under_way = |flight: &&Flight<V>| flight.remembered_until.is_none();
        flights.values().filter(is_under_way).count()
    }

    /// Joins the job about `key`, or makes the caller its leader, beginning with the state `start`.
    pub(super) fn board(&self, key: &K, start: impl FnOnce() -> V) -> Boarding<K, V> {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(key)
            && flight.remembered_until.is_none_or(|until| now < until)
        {
            return Boarding::Joined(flight.state.clone());
        }
        if flights.len() >= MAX_FLIGHTS {
            flights.retain(|_, flight| flight.remembered_until.is_none_or(|until| now < until));
            if flights.len() >= MAX_FLIGHTS {
                return Boarding::Full;
            }
        }
        let (sender, state) = watch::channel(start());
        let flight = Flight {
            state: state.clone(),
            remembered_until: None,
        };
        flights.insert(key.clone(), flight);
        let leader = Leader {
            key: key.clone(),
            state: sender,
            flights: Arc::clone(&self.flights),
            remember_for: None,
            has_left: false,
        };
        Boarding::Lead(leader, state)
    }
}

/// The right and the duty to bring a job to its end. When it is dropped the job is over: a leader
/// that panicked leaves watchers with a closed channel, never with an endless wait.
#[derive(Debug)]
pub(super) struct Leader<K: Eq + Hash, V> {
    key: K,
    state: watch::Sender<V>,
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    remember_for: Option<Duration>,
    /// The flight under this key is no longer ours: it may be another leader's.
    has_left: bool,
}

impl<K: Eq + Hash, V> Leader<K, V> {
    /// Changes the state, and wakes all who watch it if `change` says that it matters to them.
    pub(super) fn update(&self, change: impl FnOnce(&mut V) -> bool) {
        self.state.send_if_modified(change);
    }

    /// Whether at most one waits for the job, besides the book of flights.
    pub(super) fn is_alone_with_one(&self) -> bool {
        self.state.receiver_count() <= 2
    }

    /// The last state. Whoever comes from now on gets a new job, or the failure if it is
    /// remembered: an answer is never older than the question.
    pub(super) fn end(mut self, change: impl FnOnce(&mut V)) {
        self.leave();
        self.state.send_modify(change);
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        let mut flights = self.flights.lock();
        match (self.remember_for, flights.get_mut(&self.key)) {
            (Some(pause), Some(flight)) => flight.remembered_until = Some(Instant::now() + pause),
            (None, Some(_)) => drop(flights.remove(&self.key)),
            (_, None) => {}
        }
    }

    /// Lets the last state answer whoever asks within `pause`, instead of a new job.
    pub(super) fn remember(&mut self, pause: Duration) {
        self.remember_for = Some(pause);
    }
}

impl<K: Eq + Hash, V> Drop for Leader<K, V> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Flights<&'static str, u32>) -> Leader<&'static str, u32> {
        match flights.board(&"a", || 0) {
            Boarding::Lead(leader, _) => leader,
            other => panic!("expected to lead, got {other:?}"),
        }
    }

    #[test]
    fn the_second_joins_the_first() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let Boarding::Joined(state) = flights.board(&"a", || 7) else {
            panic!("expected to join");
        };
        leader.update(|value| {
            *value = 1;
            true
        });
        assert_eq!(*state.borrow(), 1);
        drop(leader);
        drop(lead(&flights));
    }

    #[test]
    fn a_failure_is_remembered_for_a_moment_only() {
        let flights = Flights::new();
        let mut leader = lead(&flights);
        leader.remember(Duration::from_secs(60));
        assert_eq!(flights.under_way(), 1);
        drop(leader);
        assert_eq!(flights.under_way(), 0);
        assert!(matches!(flights.board(&"a", || 0), Boarding::Joined(_)));

        let flights = Flights::new();
        let mut leader = lead(&flights);
        leader.remember(Duration::ZERO);
        drop(leader);
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_leader_that_is_lost_wakes_those_who_wait() {
        let flights = Flights::new();
        let leader = lead(&flights);
        let Boarding::Joined(mut state) = flights.board(&"a", || 7) else {
            panic!("expected to join");
        };
        drop(leader);
        assert!(state.changed().await.is_err());
    }

    #[test]
    fn who_comes_after_the_end_gets_a_new_job() {
        let flights = Flights::new();
        let Boarding::Lead(leader, state) = flights.board(&"a", || 0) else {
            panic!("expected to lead");
        };
        let mut next = None;
        leader.end(|value| {
            *value = 1;
            next = Some(lead(&flights));
        });
        assert_eq!(*state.borrow(), 1);
        assert_eq!(flights.under_way(), 1, "the end took its own flight only");
        drop(next);
    }

    #[test]
    fn there_is_a_bound() {
        let flights: Flights<usize, ()> = Flights::new();
        let leaders: Vec<_> = (0..MAX_FLIGHTS)
            .map(|key| flights.board(&key, || ()))
            .collect();
        assert!(matches!(flights.board(&MAX_FLIGHTS, || ()), Boarding::Full));
        drop(leaders);
        assert!(matches!(
            flights.board(&MAX_FLIGHTS, || ()),
            Boarding::Lead(..)
        ));
    }
}
