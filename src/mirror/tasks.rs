//! The clock, the runtime that jobs run on, and the loops that run by themselves until the end.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::util::task;
use tokio::{runtime::Runtime, task::JoinHandle};

/// How many threads carry fetches and jobs. They wait far more than they work: two keep one busy
/// sha256 from stalling every other stream, and a two-core appliance has its cores for answers.
const RUNTIME_THREADS: usize = 2;

/// How many blocking calls (fsyncs, sled, large files) may run at once. Each has a stack; a burst
/// of a hundred cold crates syncs in groups anyhow.
const MAX_BLOCKING_THREADS: usize = 32;

/// The wall clock: the one place that reads it for a decision.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that counts the uptime from now on.
    pub fn start() -> Clock {
        Clock {
            started: Instant::now(),
        }
    }

    /// The time of day.
    pub fn now(self) -> SystemTime {
        SystemTime::now()
    }

    /// Time since the program was started.
    pub fn uptime(self) -> Duration {
        self.started.elapsed()
    }
}

/// The runtime of fetch leaders and jobs. It is not actix': a worker that answers from memory
/// never waits behind a download, and a client that hangs up takes no job with it.
#[derive(Debug)]
pub(super) struct Tasks {
    /// `None` once shut down.
    runtime: Option<Runtime>,
    stop: Arc<AtomicBool>,
}

impl Tasks {
    pub(super) fn start() -> std::io::Result<Tasks> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .thread_name("orlop-mirror")
            .enable_all()
            .build()?;
        Ok(Tasks {
            runtime: Some(runtime),
            stop: Arc::default(),
        })
    }

    /// Set when the end has come; long blocking jobs look at it.
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Runs a job to its end, whoever waits for it.
    pub(super) fn spawn<F>(&self, job: F) -> Option<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Some(self.runtime.as_ref()?.spawn(job))
    }

    /// Calls `work` every `period` until the end, never twice at a time.
    pub(super) fn every(&self, period: Duration, work: impl Fn() + Send + Sync + 'static) {
        let work = Arc::new(work);
        let stop = self.stop_flag();
        drop(self.spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks.tick().await;
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let work = Arc::clone(&work);
                if task::blocking(move || work()).await.is_err() {
                    tracing::error!("a periodic job panicked; it is tried again in {period:?}");
                }
            }
        }));
    }

    /// Tells the loops and long blocking jobs to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Drops every job where it waits, and gives blocking calls `grace` to end.
    pub(super) fn shut_down(&mut self, grace: Duration) {
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(grace);
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // A runtime must not be dropped from within an async context, where it would block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
