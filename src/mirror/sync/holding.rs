//! Fetches releases that somebody named, as many at a time as a sync does.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{LOOK, Pace, Throttle};
use crate::{
    mirror::{
        Mirror,
        error::Error,
        jobs::{JobError, Teller, Unit},
    },
    registry::{Checksum, Release},
};

impl Mirror {
    /// Makes sure that the files of `releases` are held, and says of each how that went: the length
    /// of what came now, or why it did not.
    ///
    /// # Errors
    /// When the job is cancelled; what came is kept.
    pub(in crate::mirror) async fn hold_all(
        &self,
        releases: Vec<(Release, Checksum)>,
        teller: &Teller,
        mut each: impl FnMut(Release, Result<Option<u64>, Error>),
    ) -> Result<(), JobError> {
        let total = u64::try_from(releases.len()).ok();
        teller.phase("fetching", Unit::Crates, total);
        let pace = Arc::new(Pace::new(self.inner.options().sync.max_rate));
        let most = pace.fetches(self.places());
        let mut waiting = releases.into_iter();
        let mut flying = FuturesUnordered::new();
        let mut throttle = Throttle::default();
        let mut done: u64 = 0;
        loop {
            teller.go_on()?;
            while flying.len() < most
                && let Some((release, checksum)) = waiting.next()
            {
                let pace = Arc::clone(&pace);
                flying.push(async move {
                    let held = self.hold(&release, &checksum, &pace).await;
                    (release, held)
                });
            }
            match tokio::time::timeout(LOOK, flying.next()).await {
                Ok(Some((release, held))) => {
                    done += 1;
                    each(release, held);
                }
                Ok(None) => break,
                Err(_elapsed) => {}
            }
            if throttle.is_due() {
                teller.progress(done, total, pace.bytes());
            }
        }
        teller.progress(done, total, pace.bytes());
        Ok(())
    }
}
