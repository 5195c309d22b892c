//! Fetches releases that somebody named, as many at a time as a sync does.

use std::sync::Arc;

use super::{Pace, Throttle};
use crate::{
    mirror::{
        Mirror,
        error::Error,
        jobs::{JobError, Teller, Unit},
    },
    registry::{Checksum, Release},
    util::task::{Bounded, Next},
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
        let mut waiting = releases.into_iter();
        let mut fetches = Bounded::new(pace.fetches(self.places()));
        let mut throttle = Throttle::default();
        let mut done: u64 = 0;
        loop {
            fetches.fill(|| {
                let (release, checksum) = waiting.next()?;
                let pace = Arc::clone(&pace);
                Some(async move {
                    let held = self.hold(&release, &checksum, &pace).await;
                    (release, held)
                })
            });
            match teller.unless_cancelled(fetches.next()).await? {
                Next::Done((release, held)) => {
                    done += 1;
                    each(release, held);
                }
                Next::Tick => {}
                Next::Empty => break,
            }
            if throttle.is_due() {
                teller.progress(done, total, pace.bytes());
            }
        }
        teller.progress(done, total, pace.bytes());
        Ok(())
    }
}
