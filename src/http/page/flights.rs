//! Looks into the store for the pages: each once for all who want the same, and few at a time.
//!
//! A look goes on whoever hangs up, and is never more than one: who comes meanwhile waits for it.
//! It runs on a thread that may block, and a panic in it is the end of that look alone.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

/// Why nobody was told what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grounded {
    /// Too many look for something else.
    Busy,
    /// The look itself broke off; the log has why.
    Broke,
}

/// See the module's sentence.
#[derive(Debug)]
pub(crate) struct Flights<T> {
    permits: Arc<Semaphore>,
    most: usize,
    under_way: Mutex<HashMap<String, Flight<T>>>,
}

#[derive(Debug)]
struct Flight<T> {
    seen: watch::Receiver<Option<Landed<T>>>,
    keep_for: Duration,
}

#[derive(Debug)]
struct Landed<T> {
    at: Instant,
    outcome: T,
}

impl<T> Flight<T> {
    fn is_under_way(&self) -> bool {
        self.seen.borrow().is_none() && self.seen.has_changed().is_ok()
    }

    /// Whether who comes now is told what this found.
    fn is_good(&self) -> bool {
        let landed = self.seen.borrow();
        let since = landed.as_ref().map(|landed| landed.at.elapsed());
        since.map_or_else(
            || self.seen.has_changed().is_ok(),
            |since| since < self.keep_for,
        )
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// At most `at_once` looks at a time, and `most` that wait or are remembered.
    pub(crate) fn new(at_once: usize, most: usize) -> Flights<T> {
        Flights {
            permits: Arc::new(Semaphore::new(at_once)),
            most,
            under_way: Mutex::default(),
        }
    }

    /// What `look` finds, or what one of the same key found within `keep_for`.
    pub(super) async fn get(
        &self,
        key: &str,
        keep_for: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Grounded> {
        let mut seen = self.join(key, keep_for, look)?;
        let landed = seen.wait_for(Option::is_some).await;
        let landed = landed.map_err(|_broke| Grounded::Broke)?;
        let outcome = landed.as_ref().map(|landed| landed.outcome.clone());
        outcome.ok_or(Grounded::Broke)
    }

    fn join(
        &self,
        key: &str,
        keep_for: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<watch::Receiver<Option<Landed<T>>>, Grounded> {
        let mut flights = self.under_way.lock();
        flights.retain(|_key, flight| flight.is_good());
        if let Some(flight) = flights.get(key) {
            return Ok(flight.seen.clone());
        }
        if flights.len() >= self.most {
            flights.retain(|_key, flight| flight.is_under_way());
        }
        if flights.len() >= self.most {
            return Err(Grounded::Busy);
        }
        let (told, seen) = watch::channel(None);
        let flight = Flight {
            seen: seen.clone(),
            keep_for,
        };
        flights.insert(key.to_owned(), flight);
        drop(flights);
        actix_web::rt::spawn(fly(Arc::clone(&self.permits), look, told));
        Ok(seen)
    }
}

async fn fly<T: Send + Sync + 'static>(
    permits: Arc<Semaphore>,
    look: impl FnOnce() -> T + Send + 'static,
    told: watch::Sender<Option<Landed<T>>>,
) {
    let Ok(permit) = permits.acquire_owned().await else {
        return;
    };
    let looked = actix_web::web::block(move || {
        // Held for as long as the thread is, whatever becomes of who asked.
        let _permit = permit;
        look()
    });
    match looked.await {
        Ok(outcome) => {
            let at = Instant::now();
            told.send_replace(Some(Landed { at, outcome }));
        }
        Err(_canceled) => tracing::error!("a look into the store for a page broke off"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use futures_util::future::join_all;

    use super::*;

    const KEPT: Duration = Duration::from_secs(600);

    #[actix_web::test]
    async fn many_who_want_the_same_are_told_by_one_look() {
        let flights = Flights::new(2, 4);
        let looks = Arc::new(AtomicUsize::new(0));
        let look = || {
            let looks = Arc::clone(&looks);
            move || looks.fetch_add(1, Ordering::SeqCst) + 1
        };
        let told = join_all((0..100).map(|_| flights.get("a", KEPT, look()))).await;
        assert!(told.iter().all(|told| *told == Ok(1)));
        assert_eq!(flights.get("a", KEPT, look()).await, Ok(1), "it is kept");
        assert_eq!(flights.get("b", Duration::ZERO, look()).await, Ok(2));
        assert_eq!(
            flights.get("b", KEPT, look()).await,
            Ok(3),
            "it is not kept"
        );
        // What is kept gives way to what is asked for.
        for other in ["c", "d", "e", "f", "g"] {
            assert!(flights.get(other, KEPT, look()).await.is_ok());
        }
    }

    #[actix_web::test]
    async fn looks_are_few_at_a_time_and_there_is_a_bound_to_who_waits() {
        let flights = Flights::new(2, 8);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let look = |number: usize| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
                number
            }
        };
        let keys: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let asked = keys.iter().zip(0..);
        let told = join_all(asked.map(|(key, number)| flights.get(key, KEPT, look(number)))).await;
        let told_well = told.iter().filter(|told| told.is_ok()).count();
        let busy = told.iter().filter(|told| **told == Err(Grounded::Busy));
        assert_eq!((told_well, busy.count()), (8, 32));
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(
            flights.get("99", KEPT, look(99)).await,
            Ok(99),
            "it is free again"
        );
    }

    #[actix_web::test]
    async fn a_look_goes_on_when_who_asked_hangs_up() {
        let flights = Arc::new(Flights::new(1, 8));
        let (go, wait) = mpsc::channel::<()>();
        let first = flights.get("a", KEPT, move || {
            let _end = wait.recv();
            1
        });
        // It is begun, and left alone.
        assert!(
            tokio::time::timeout(Duration::from_millis(20), first)
                .await
                .is_err()
        );
        let next = flights.get("a", KEPT, || 2);
        let (next, ()) = futures_util::future::join(next, async { drop(go) }).await;
        assert_eq!(next, Ok(1));
    }

    #[actix_web::test]
    async fn a_panic_is_the_end_of_one_look_alone() {
        let flights = Flights::<u64>::new(1, 8);
        let broken = flights
            .get("a", KEPT, || panic!("as the test wants it"))
            .await;
        assert_eq!(broken, Err(Grounded::Broke));
        assert_eq!(flights.get("a", KEPT, || 1).await, Ok(1));
    }
}
