//! Small jobs over what is held: reports, pins, hashing, removing; and the record of who fetched
//! what.

mod gc;
mod pins;
mod refresh;
mod stats;
mod uses;
mod verify;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::uses::downloads_in;
pub(super) use self::uses::{RECORDED_SINCE, Uses};
pub use self::{
    gc::{GcReport, GcRequest, Removed},
    pins::{Pin, PinReport, PinRequest},
    refresh::{Outcome, RefreshReport, RefreshRequest, RefreshedName},
    stats::{
        Ended, Followed, GitIndex, JobStats, RecordedFailure, SetStats, StatsReport, StatsRequest,
        UpstreamHost, Verified,
    },
    uses::{Client, WhoRelease, WhoReport, WhoRequest},
    verify::{BadBlob, BadKind, VerifyReport, VerifyRequest},
};
use super::{
    CrateFile, Error, Mirror,
    jobs::{Fault, JobError},
};
use crate::{
    policy::View,
    registry::{Checksum, CrateName, Release, release::parse_version},
    store::Blob,
};

/// How long things are kept. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long it is kept who fetched what; zero: it is not recorded.
    pub keep_uses_for: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keep_uses_for: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }
}

/// A crate, or one of its versions, as a person names it: `name` or `name@version`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: CrateName,
    version: Option<semver::Version>,
}

impl Target {
    fn parse(text: &str) -> Result<Target, JobError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let wrong = |why: &dyn std::error::Error| {
            JobError::new(
                Fault::Usage,
                format!("`{text}` is neither a crate's name nor `name@version`"),
            )
            .because(why)
            .hint(format!(
                "`{name}@1.2.3` names one version, whole and without a requirement, and `{name}` all"
            ))
        };
        Ok(Target {
            name: CrateName::parse(name).map_err(|error| wrong(&error))?,
            version: version
                .map(parse_version)
                .transpose()
                .map_err(|error| wrong(&error))?,
        })
    }

    /// What it is kept under: the same for all spellings.
    fn key(&self) -> String {
        match &self.version {
            Some(version) => format!("{}@{version}", self.name.key()),
            None => self.name.key().to_owned(),
        }
    }
}

fn release_key(release: &Release) -> String {
    format!("{}@{}", release.name.key(), release.version)
}

fn offline(what: &str) -> JobError {
    JobError::new(
        Fault::Unavailable,
        format!("{what}: this mirror is in mode `offline` and never asks upstream"),
    )
    .hint("take a bundle in with `orlop import`, or set `mode` to another one")
}

impl Mirror {
    /// Fetches a release to its end, if it is not held.
    async fn fetch_whole(&self, release: &Release) -> Result<Blob, Error> {
        match self.crate_file(&View::all(), release).await?.file {
            CrateFile::Held(blob) => Ok(blob),
            CrateFile::Coming(follower) => follower.end().await,
        }
    }

    /// Forgets what is remembered of a stored file that goes away.
    fn forget_blob(&self, checksum: &Checksum) {
        self.inner.open.remove(checksum);
        self.inner.sound.remove(checksum);
    }
}

/// A value of a table that is JSON. What cannot be read counts as absent.
fn read_json<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
