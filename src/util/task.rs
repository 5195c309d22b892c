//! How tasks run: blocking work, and futures side by side.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::task::JoinError;

/// How often [`Bounded::next`] returns though nothing ended.
const TICK: Duration = Duration::from_millis(100);

/// How long the first future may run alone.
const HEAD_START: Duration = Duration::from_secs(1);

/// A task ended without a result: it panicked, or the runtime stopped.
#[derive(Debug, thiserror::Error)]
#[error("internal error: a background task was aborted")]
pub struct Aborted(#[from] JoinError);

impl Aborted {
    /// Whether it panicked, which is a defect; otherwise the program is about to end.
    pub fn is_panic(&self) -> bool {
        self.0.is_panic()
    }
}

/// Runs `work` on a thread for blocking calls.
///
/// Cancel safe: where the caller no longer waits, `work` runs to its end.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Aborted> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

/// Futures that run side by side, at most so many at a time.
///
/// The first one gets a head start until it ends, of a second at most: requests after it find its
/// connection and share it (HTTP/2), while all at once would open one each.
#[derive(Debug)]
pub struct Bounded<F> {
    running: FuturesUnordered<F>,
    max: usize,
    alone_until: Option<Instant>,
}

/// What [`Bounded::next`] waited for.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// A future ended.
    Done(T),
    /// Nothing ended for a moment: time to report progress.
    Tick,
    /// No future is running.
    Empty,
}

impl<F: Future> Bounded<F> {
    /// At most `max` futures run at a time, and at least one.
    pub fn new(max: usize) -> Bounded<F> {
        Bounded {
            running: FuturesUnordered::new(),
            max: max.max(1),
            alone_until: Some(Instant::now() + HEAD_START),
        }
    }

    /// The same without a head start: a connection is known to be there.
    pub fn without_head_start(max: usize) -> Bounded<F> {
        Bounded {
            alone_until: None,
            ..Bounded::new(max)
        }
    }

    /// Takes futures from `source` while it has any and fewer than `max` run.
    pub fn fill(&mut self, mut source: impl FnMut() -> Option<F>) {
        let is_alone = self.alone_until.is_some_and(|end| Instant::now() < end);
        let max = if is_alone { 1 } else { self.max };
        while self.running.len() < max
            && let Some(future) = source()
        {
            self.running.push(future);
        }
    }

    /// Waits until a future ends, or for a moment.
    ///
    /// Cancel safe: what runs goes on at the next call.
    pub async fn next(&mut self) -> Next<F::Output> {
        match tokio::time::timeout(TICK, self.running.next()).await {
            Ok(Some(output)) => {
                self.alone_until = None;
                Next::Done(output)
            }
            Ok(None) => Next::Empty,
            Err(_elapsed) => Next::Tick,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::util::error::messages;

    #[tokio::test]
    async fn blocking_work_that_panics_is_an_error() {
        assert_eq!(blocking(|| 7).await.expect("it returns"), 7);
        let aborted: Result<(), Aborted> = blocking(|| panic!("a defect")).await;
        let aborted = aborted.expect_err("it panics");
        assert!(aborted.is_panic());
        let messages = messages(&aborted);
        assert_eq!(messages[0], "internal error: a background task was aborted");
        assert!(messages[1].contains("a defect"), "{messages:?}");
    }

    #[tokio::test]
    async fn futures_run_side_by_side_and_the_first_runs_alone() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let work = |number: u64| {
            let (running, most) = (&running, &most);
            async move {
                running.set(running.get() + 1);
                most.set(running.get().max(most.get()));
                tokio::time::sleep(Duration::from_millis(150)).await;
                running.set(running.get() - 1);
                number
            }
        };
        let mut numbers = 0..10;
        let mut bounded = Bounded::new(4);
        let (mut done, mut ticks) = (Vec::new(), 0);
        loop {
            bounded.fill(|| numbers.next().map(work));
            match bounded.next().await {
                Next::Done(number) => {
                    if number == 0 {
                        assert_eq!(most.get(), 1);
                    }
                    done.push(number);
                }
                Next::Tick => ticks += 1,
                Next::Empty => break,
            }
        }
        done.sort_unstable();
        assert_eq!(done, (0..10).collect::<Vec<_>>());
        assert_eq!(most.get(), 4);
        assert!(ticks >= 2);
    }
}
