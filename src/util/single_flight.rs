//! Single flight: one task for all who want the same thing. The first caller leads, the others
//! follow, and a result can be kept for a moment.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Flights by key. The state of a flight is a `V` that its leader sets and all others watch.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    max: usize,
}

#[derive(Debug)]
struct Flight<V> {
    state: watch::Receiver<V>,
    /// Set when the flight is over: until then its last state answers later callers.
    kept_until: Option<Instant>,
}

impl<V> Flight<V> {
    fn is_under_way(&self) -> bool {
        self.kept_until.is_none()
    }

    fn is_current(&self, now: Instant) -> bool {
        self.kept_until.is_none_or(|until| now < until)
    }
}

/// What a caller is.
#[derive(Debug)]
pub enum Role<K: Eq + Hash, V> {
    /// The flight is under way, or its last state is kept.
    Follower(watch::Receiver<V>),
    /// There was no flight: the caller must start it, on a task of its own.
    Leader(Leader<K, V>, watch::Receiver<V>),
    /// Too many flights are under way.
    Full,
}

impl<K: Eq + Hash + Clone, V> SingleFlight<K, V> {
    /// At most `max` flights are under way or kept.
    pub fn new(max: usize) -> SingleFlight<K, V> {
        SingleFlight {
            flights: Arc::default(),
            max,
        }
    }

    /// How many flights are under way.
    pub fn under_way(&self) -> usize {
        let flights = self.flights.lock();
        flights.values().filter(|one| one.is_under_way()).count()
    }

    /// Drops the states that are no longer kept. [`join`](SingleFlight::join) does so only where
    /// there is no room.
    pub fn purge(&self) {
        let now = Instant::now();
        self.flights
            .lock()
            .retain(|_, flight| flight.is_current(now));
    }

    /// Joins the flight of `key`, or makes the caller its leader, with `start` as its first state.
    pub fn join(&self, key: &K, start: impl FnOnce() -> V) -> Role<K, V> {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(key)
            && flight.is_current(now)
        {
            return Role::Follower(flight.state.clone());
        }
        if flights.len() >= self.max {
            flights.retain(|_, flight| flight.is_current(now));
        }
        if flights.len() >= self.max {
            // A kept state is worth less than a new one.
            flights.retain(|_, flight| flight.is_under_way());
        }
        if flights.len() >= self.max {
            return Role::Full;
        }
        let (sender, state) = watch::channel(start());
        let flight = Flight {
            state: state.clone(),
            kept_until: None,
        };
        flights.insert(key.clone(), flight);
        let leader = Leader {
            key: key.clone(),
            state: sender,
            flights: Arc::clone(&self.flights),
            keep_for: None,
            has_left: false,
        };
        Role::Leader(leader, state)
    }
}

/// The right and the duty to bring a flight to its end. When it is dropped the flight is over: a
/// leader that panicked leaves followers with a closed channel, never with an endless wait.
#[derive(Debug)]
pub struct Leader<K: Eq + Hash, V> {
    key: K,
    state: watch::Sender<V>,
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    keep_for: Option<Duration>,
    /// The flight of this key is no longer ours: it may be another leader's.
    has_left: bool,
}

impl<K: Eq + Hash, V> Leader<K, V> {
    /// Changes the state, and wakes all followers if `change` returns that it matters to them.
    pub fn update(&self, change: impl FnOnce(&mut V) -> bool) {
        self.state.send_if_modified(change);
    }

    /// Whether at most one caller waits for the flight. The list of flights has a receiver too.
    pub fn has_one_follower(&self) -> bool {
        self.state.receiver_count() <= 2
    }

    /// Sets the last state. Later callers start a new flight or get this state if it is kept, so
    /// an answer never predates its request.
    pub fn end(mut self, change: impl FnOnce(&mut V)) {
        self.leave();
        self.state.send_modify(change);
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        let mut flights = self.flights.lock();
        match (self.keep_for, flights.get_mut(&self.key)) {
            (Some(keep_for), Some(flight)) => flight.kept_until = Some(Instant::now() + keep_for),
            (None, Some(_)) => drop(flights.remove(&self.key)),
            (_, None) => {}
        }
    }

    /// Lets the last state answer later callers for `keep_for`, instead of a new flight.
    pub fn keep(&mut self, keep_for: Duration) {
        self.keep_for = Some(keep_for);
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

    fn lead(flights: &SingleFlight<&'static str, u32>) -> Leader<&'static str, u32> {
        match flights.join(&"a", || 0) {
            Role::Leader(leader, _) => leader,
            other => panic!("expected to lead, got {other:?}"),
        }
    }

    #[test]
    fn the_second_follows_the_first() {
        let flights = SingleFlight::new(8);
        let leader = lead(&flights);
        let Role::Follower(state) = flights.join(&"a", || 7) else {
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
    fn a_last_state_is_kept_for_a_moment_only() {
        let flights = SingleFlight::new(8);
        let mut leader = lead(&flights);
        leader.keep(Duration::from_secs(60));
        assert_eq!(flights.under_way(), 1);
        drop(leader);
        assert_eq!(flights.under_way(), 0);
        assert!(matches!(flights.join(&"a", || 0), Role::Follower(_)));

        let flights = SingleFlight::new(8);
        let mut leader = lead(&flights);
        leader.keep(Duration::ZERO);
        drop(leader);
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_lost_leader_wakes_its_followers() {
        let flights = SingleFlight::new(8);
        let leader = lead(&flights);
        let Role::Follower(mut state) = flights.join(&"a", || 7) else {
            panic!("expected to join");
        };
        drop(leader);
        assert!(state.changed().await.is_err());
    }

    #[test]
    fn after_the_end_a_new_flight_starts() {
        let flights = SingleFlight::new(8);
        let Role::Leader(leader, state) = flights.join(&"a", || 0) else {
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
    fn kept_states_give_way_and_flights_under_way_do_not() {
        let flights: SingleFlight<usize, ()> = SingleFlight::new(8);
        for key in 0..8 {
            let Role::Leader(mut leader, _) = flights.join(&key, || ()) else {
                panic!("expected to lead");
            };
            leader.keep(Duration::from_secs(60));
        }
        assert!(matches!(flights.join(&0, || ()), Role::Follower(_)));
        let leaders: Vec<_> = (8..16).map(|key| flights.join(&key, || ())).collect();
        assert!(matches!(flights.join(&16, || ()), Role::Full));
        drop(leaders);
        assert!(matches!(flights.join(&16, || ()), Role::Leader(..)));
    }
}
