//! What the server says about itself: the traffic that went through, for the pages.

mod traffic;

use std::sync::Arc;

use self::traffic::TrafficHistory;
pub use self::traffic::{Point, Range, TrafficSeries};
use crate::mirror::Mirror;

/// What the server says about itself. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Status {
    mirror: Mirror,
    traffic: Arc<TrafficHistory>,
}

impl Status {
    /// Of a mirror, whose traffic it records from now on.
    pub fn new(mirror: &Mirror) -> Status {
        Status {
            traffic: TrafficHistory::record(mirror),
            mirror: mirror.clone(),
        }
    }

    /// The mirror that it is about.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The traffic of some time, up to now. From memory.
    pub fn traffic(&self, range: Range) -> TrafficSeries {
        let (now, metrics) = (self.mirror.clock().now(), self.mirror.metrics());
        self.traffic.count(now, || metrics.traffic());
        self.traffic.series(range, now)
    }
}
