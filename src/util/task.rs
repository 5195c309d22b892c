//! How tasks run: blocking work.

use tokio::task::JoinError;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::error::messages;

    #[tokio::test]
    async fn blocking_work_that_panics_is_an_error() {
        assert_eq!(blocking(|| 7).await.expect("it returns"), 7);
        let aborted = blocking(|| panic!("a defect"))
            .await
            .map(|()| ())
            .expect_err("it panics");
        assert!(aborted.is_panic());
        let messages = messages(&aborted);
        assert_eq!(messages[0], "internal error: a background task was aborted");
        assert!(messages[1].contains("a defect"), "{messages:?}");
    }
}
