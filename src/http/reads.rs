//! Reads of the store for the pages: single flight, and few at a time.
//!
//! A read goes on whoever hangs up. It runs on a thread for blocking calls, and a panic in it ends
//! that read alone.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::util::{
    single_flight::{Leader, Role, SingleFlight},
    task,
};

/// Why a read has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Too many other reads wait.
    Busy,
    /// The read panicked; the log has why.
    Aborted,
}

/// Reads by key.
#[derive(Debug)]
pub(crate) struct Reads<T> {
    permits: Arc<Semaphore>,
    flights: SingleFlight<String, Option<T>>,
}

impl<T: Clone + Send + Sync + 'static> Reads<T> {
    /// At most `max_running` reads at a time, and `max` that wait or are kept.
    pub(crate) fn new(max_running: usize, max: usize) -> Reads<T> {
        Reads {
            permits: Arc::new(Semaphore::new(max_running)),
            flights: SingleFlight::new(max),
        }
    }

    /// What `read` returns, or what one of the same key returned within `keep_for`.
    pub(super) async fn get(
        &self,
        key: &str,
        keep_for: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        // Pages are large, so none is kept for longer than it may be shown.
        self.flights.purge();
        let mut state = match self.flights.join(&key.to_owned(), || None) {
            Role::Follower(state) => state,
            Role::Leader(leader, state) => {
                let permits = Arc::clone(&self.permits);
                actix_web::rt::spawn(lead(permits, keep_for, read, leader));
                state
            }
            Role::Full => return Err(ReadError::Busy),
        };
        let ended = state.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_closed| ReadError::Aborted)?;
        ended.clone().ok_or(ReadError::Aborted)
    }
}

async fn lead<T: Send + Sync + 'static>(
    permits: Arc<Semaphore>,
    keep_for: Duration,
    read: impl FnOnce() -> T + Send + 'static,
    mut leader: Leader<String, Option<T>>,
) {
    let Ok(permit) = permits.acquire_owned().await else {
        return;
    };
    let outcome = task::blocking(move || {
        // The thread has it for as long as it reads, whatever becomes of the caller.
        let _permit = permit;
        read()
    });
    match outcome.await {
        Ok(outcome) => {
            leader.keep(keep_for);
            leader.end(|state| *state = Some(outcome));
        }
        Err(_aborted) => tracing::error!("a read of the store for a page was aborted"),
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
    async fn many_callers_for_the_same_share_one_read() {
        let reads = Reads::new(2, 4);
        let looks = Arc::new(AtomicUsize::new(0));
        let look = || {
            let looks = Arc::clone(&looks);
            move || looks.fetch_add(1, Ordering::SeqCst) + 1
        };
        let told = join_all((0..100).map(|_| reads.get("a", KEPT, look()))).await;
        assert!(told.iter().all(|told| *told == Ok(1)));
        assert_eq!(reads.get("a", KEPT, look()).await, Ok(1), "it is kept");
        assert_eq!(reads.get("b", Duration::ZERO, look()).await, Ok(2));
        assert_eq!(reads.get("b", KEPT, look()).await, Ok(3), "it is not kept");
        // What is kept gives way to what is asked for.
        for other in ["c", "d", "e", "f", "g"] {
            assert!(reads.get(other, KEPT, look()).await.is_ok());
        }
    }

    #[actix_web::test]
    async fn reads_are_few_at_a_time_and_the_queue_has_a_bound() {
        let reads = Reads::new(2, 8);
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
        let told = join_all(asked.map(|(key, number)| reads.get(key, KEPT, look(number)))).await;
        let told_well = told.iter().filter(|told| told.is_ok()).count();
        let busy = told.iter().filter(|told| **told == Err(ReadError::Busy));
        assert_eq!((told_well, busy.count()), (8, 32));
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(
            reads.get("99", KEPT, look(99)).await,
            Ok(99),
            "it is free again"
        );
    }

    #[actix_web::test]
    async fn a_read_goes_on_when_its_caller_hangs_up() {
        let reads = Arc::new(Reads::new(1, 8));
        let (go, wait) = mpsc::channel::<()>();
        let first = reads.get("a", KEPT, move || {
            let _end = wait.recv();
            1
        });
        // It is begun, and left alone.
        assert!(
            tokio::time::timeout(Duration::from_millis(20), first)
                .await
                .is_err()
        );
        let next = reads.get("a", KEPT, || 2);
        let (next, ()) = futures_util::future::join(next, async { drop(go) }).await;
        assert_eq!(next, Ok(1));
    }

    #[actix_web::test]
    async fn a_panic_ends_one_read_alone() {
        let reads = Reads::<u64>::new(1, 8);
        let broken = reads
            .get("a", KEPT, || panic!("as the test wants it"))
            .await;
        assert_eq!(broken, Err(ReadError::Aborted));
        assert_eq!(reads.get("a", KEPT, || 1).await, Ok(1));
    }
}
