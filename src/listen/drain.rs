//! The drain: how connections learn that the server is to end.

use std::time::Duration;

use tokio::sync::watch;

/// How long a connection that was accepted just before the end may take for its first request, which
/// may be on its way.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether the server is to end.
#[derive(Debug, Clone)]
pub(super) struct Drain(pub(super) watch::Receiver<bool>);

impl Drain {
    /// Resolves when it is to end.
    pub(super) async fn begun(&self) {
        if self.0.clone().wait_for(|&begun| begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it is to end, and a client that has sent nothing yet has had time for it.
    pub(super) async fn silent(&self) {
        self.begun().await;
        tokio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
    }
}
