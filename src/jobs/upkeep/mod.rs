//! Small jobs over what is stored: reports, pins, hashing, removing.

mod gc;
mod pins;
mod refresh;
mod stats;
mod target;
mod verify;
mod who;

pub use self::{
    gc::{GcReport, GcRequest, Removed},
    pins::{Pin, PinReport, PinRequest, UnpinRequest},
    refresh::{Outcome, RefreshReport, RefreshRequest, RefreshedName},
    stats::{
        Ended, Followed, GitIndex, JobStats, RecordedFailure, SetStats, StatsReport, StatsRequest,
        UpstreamHost, Verified, kept_stats, kept_stats_changes,
    },
    verify::{BadBlob, BadKind, VerifyReport, VerifyRequest, recall_findings},
    who::{WhoRelease, WhoReport, WhoRequest},
};
