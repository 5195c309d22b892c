//! What bounds the work for git clients.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How many packs are sent at a time. Each has a piece in memory and some open files.
const MAX_PACKS: usize = 64;

/// How many requests that are long may be read at a time: those who send the most cannot take more
/// memory than this many times the longest.
const MAX_LARGE_BODIES: usize = 4;

/// How long one more waits.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Permits for the work that takes the most.
#[derive(Debug)]
pub(crate) struct GitLimits {
    packs: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
}

impl Default for GitLimits {
    fn default() -> GitLimits {
        GitLimits {
            packs: Arc::new(Semaphore::new(MAX_PACKS)),
            large_bodies: Arc::new(Semaphore::new(MAX_LARGE_BODIES)),
        }
    }
}

impl GitLimits {
    /// Permits to send a pack; `None`: others take too long.
    pub(crate) async fn pack(&self) -> Option<OwnedSemaphorePermit> {
        permit(&self.packs).await
    }

    /// Permits to read a long request; `None`: others take too long.
    pub(crate) async fn large_body(&self) -> Option<OwnedSemaphorePermit> {
        permit(&self.large_bodies).await
    }
}

async fn permit(permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let permit = timeout(PERMIT_TIMEOUT, Arc::clone(permits).acquire_owned()).await;
    permit.ok()?.ok()
}
