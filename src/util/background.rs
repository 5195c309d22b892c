//! The runtime of fetches, jobs and periodic work, and how all of it ends.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{runtime::Runtime, task::JoinHandle};

use super::task;

/// How many threads carry fetches and jobs. They wait far more than they work: two keep one busy
/// sha256 from stalling every other stream, and a two-core appliance has its cores for answers.
const RUNTIME_THREADS: usize = 2;

/// How many blocking calls (fsyncs, sled, large files) may run at once. Each has a stack; a burst
/// of a hundred new crates syncs in groups anyhow.
const MAX_BLOCKING_THREADS: usize = 32;

/// A tokio runtime beside that of the HTTP server: a worker that answers from memory never waits
/// behind a download, and a client that hangs up ends no fetch. Cloning it is cheap, and all clones
/// are one.
///
/// A future that runs until the end must hold what owns a `Background` by a `Weak` only: otherwise
/// the two keep one another alive.
#[derive(Debug, Clone)]
pub struct Background {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` once shut down.
    runtime: RwLock<Option<Runtime>>,
    stop: Arc<AtomicBool>,
}

impl Background {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where the operating system gives none.
    pub fn start() -> std::io::Result<Background> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .thread_name("orlop-mirror")
            .enable_all()
            .build()?;
        Ok(Background {
            inner: Arc::new(Inner {
                runtime: RwLock::new(Some(runtime)),
                stop: Arc::default(),
            }),
        })
    }

    /// Set when the program is about to end; long blocking work looks at it.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inner.stop)
    }

    /// Runs `future` to its end, also when its caller is gone. `None`: the program is about to end.
    pub fn spawn<F>(&self, future: F) -> Option<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Some(self.inner.runtime.read().as_ref()?.spawn(future))
    }

    /// Calls `work` every `period` until the end, on a thread that may block, never twice at a time.
    pub fn every(&self, period: Duration, work: impl Fn() + Send + Sync + 'static) {
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
                    tracing::error!("periodic work panicked; it is tried again in {period:?}");
                }
            }
        }));
    }

    /// Asks periodic and long blocking work to end.
    pub fn stop(&self) {
        self.inner.stop.store(true, Ordering::Relaxed);
    }

    /// Drops every future where it waits, and gives blocking calls `grace` to end.
    pub fn shut_down(&self, grace: Duration) {
        self.stop();
        let runtime = self.inner.runtime.write().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(grace);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A runtime must not be dropped from within an async context, where it would block.
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}
