//! Fetches named releases, as many at a time as a sync does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    context::{JobContext, Unit},
    error::JobError,
    services::Services,
};
use crate::{
    mirror::{Error, Pace},
    registry::{Checksum, Release},
    util::task::{Bounded, Next},
};

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Makes sure that the files of `releases` are held, and says of each how that went: the length
/// of what came now, or why it did not.
///
/// # Errors
/// When the job is cancelled; what came is kept.
pub(in crate::jobs) async fn hold_all(
    services: &Services,
    releases: Vec<(Release, Checksum)>,
    cx: &JobContext,
    mut each: impl FnMut(Release, Result<Option<u64>, Error>),
) -> Result<(), JobError> {
    let total = u64::try_from(releases.len()).ok();
    cx.phase("fetching", Unit::Crates, total);
    let pace = Arc::new(Pace::new(services.options.get().sync.max_rate));
    let mut waiting = releases.into_iter();
    let mut fetches = Bounded::new(pace.fetches(services.places()));
    let mut throttle = Throttle::default();
    let mut done: u64 = 0;
    loop {
        fetches.fill(|| {
            let (release, checksum) = waiting.next()?;
            let pace = Arc::clone(&pace);
            Some(async move {
                let held = services.mirror.hold(&release, &checksum, &pace).await;
                (release, held)
            })
        });
        match cx.unless_cancelled(fetches.next()).await? {
            Next::Done((release, held)) => {
                done += 1;
                each(release, held);
            }
            Next::Tick => {}
            Next::Empty => break,
        }
        if throttle.is_due() {
            cx.progress(done, total, pace.bytes());
        }
    }
    cx.progress(done, total, pace.bytes());
    Ok(())
}

/// Lets something happen now and then.
#[derive(Debug, Default)]
pub(super) struct Throttle(Option<Instant>);

impl Throttle {
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}
