//! What went in and out since the start, as a few sums: for whoever keeps its history.

use serde::{Deserialize, Serialize};

use super::{CacheResult, Endpoint, Kind, Metrics, Outcome};

/// Declares the numbers of [`Traffic`] once: whatever works on all of them goes through [`Traffic::zip`].
macro_rules! traffic {
    ($($(#[$doc:meta])* $field:ident,)+) => {
        /// Sums since the start, or of some time. Those since the start only grow; a restart begins
        /// at zero again.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Traffic {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl Traffic {
            /// What `combine` makes of each number of `self` and the same one of `other`.
            #[must_use]
            pub fn zip(self, other: Traffic, combine: impl Fn(u64, u64) -> u64) -> Traffic {
                Traffic {
                    $($field: combine(self.$field, other.$field),)+
                }
            }
        }
    };
}

traffic! {
    /// Index entries served from memory or the store, fresh or confirmed by upstream.
    index_hits,
    /// Index entries that upstream had to send, or did not have.
    index_misses,
    /// Index entries served too old, because upstream could not be asked.
    index_stale,
    /// Crate files served from memory or the store.
    crate_hits,
    /// Crate files that upstream had to send, or that were not to be had.
    crate_misses,
    /// Bytes of bodies of index, config, download and git answers to clients.
    served_bytes,
    /// Bytes received from upstream, unpacked where they came compressed.
    fetched_bytes,
    /// Of the served bytes those for which upstream sent nothing.
    saved_bytes,
    /// Requests to upstream that failed.
    upstream_failures,
    /// Index entries and crate files that could not be answered: 5xx.
    failed,
}

impl Traffic {
    /// Both together.
    #[must_use]
    pub fn plus(self, more: Traffic) -> Traffic {
        self.zip(more, u64::saturating_add)
    }

    /// Requests that were answered from here, but not past their time.
    pub fn hits(&self) -> u64 {
        self.index_hits.saturating_add(self.crate_hits)
    }

    /// Requests for which upstream was asked.
    pub fn misses(&self) -> u64 {
        self.index_misses.saturating_add(self.crate_misses)
    }

    /// All requests, those that failed among them.
    pub fn requests(&self) -> u64 {
        let answered = self.hits().saturating_add(self.misses());
        answered
            .saturating_add(self.index_stale)
            .saturating_add(self.failed)
    }
}

/// What clients of the registry are served by.
const SERVED: [Endpoint; 4] = [
    Endpoint::Index,
    Endpoint::Config,
    Endpoint::Download,
    Endpoint::Git,
];

const HITS: &[CacheResult] = &[CacheResult::Hot, CacheResult::Hit, CacheResult::Revalidated];
const FAILED: &[CacheResult] = &[CacheResult::Failed];
const MISSES: &[CacheResult] = &[CacheResult::Miss, CacheResult::Negative];

impl Metrics {
    /// The sums as they are now. Looks some dozens of series up: for once a second, not for
    /// every request.
    pub fn traffic(&self) -> Traffic {
        let bytes = |endpoint: &Endpoint| {
            let served = &self.http_body_bytes;
            served.with_label_values(&[endpoint.as_str()]).get()
        };
        let fetched = |kind: &Kind| {
            self.upstream_bytes
                .with_label_values(&[kind.as_str()])
                .get()
        };
        let saved = |kind: &Kind| self.saved_bytes.with_label_values(&[kind.as_str()]).get();
        Traffic {
            index_hits: self.results(Kind::Index, HITS),
            index_misses: self.results(Kind::Index, MISSES),
            index_stale: self.results(Kind::Index, &[CacheResult::Stale]),
            crate_hits: self.results(Kind::Crate, HITS),
            crate_misses: self.results(Kind::Crate, MISSES),
            served_bytes: SERVED.iter().map(bytes).sum(),
            fetched_bytes: Kind::ALL.iter().map(fetched).sum(),
            saved_bytes: super::SAVED.iter().map(saved).sum(),
            upstream_failures: self.upstream_failures(),
            failed: self.results(Kind::Index, FAILED) + self.results(Kind::Crate, FAILED),
        }
    }

    fn results(&self, kind: Kind, results: &[CacheResult]) -> u64 {
        let count = |result: &CacheResult| {
            let labels = [kind.as_str(), result.as_str()];
            self.cache_results.with_label_values(&labels).get()
        };
        // To look a series up is to export it: not those that cannot be.
        let can_be = |result: &&CacheResult| kind.results().contains(result);
        results.iter().filter(can_be).map(count).sum()
    }

    fn upstream_failures(&self) -> u64 {
        let failures = Outcome::ALL.iter().filter(|outcome| outcome.is_failure());
        let count = |outcome: &Outcome| -> u64 {
            let of = |kind: &Kind| {
                let labels = [kind.as_str(), outcome.as_str()];
                self.upstream_requests.with_label_values(&labels).get()
            };
            Kind::ALL.iter().map(of).sum()
        };
        failures.map(count).sum()
    }
}

impl Outcome {
    /// Whether a request was sent and did not get what it was for.
    pub const fn is_failure(self) -> bool {
        match self {
            Outcome::Ok | Outcome::NotModified | Outcome::NotFound | Outcome::Breaker => false,
            Outcome::Refused
            | Outcome::Timeout
            | Outcome::Transport
            | Outcome::Status
            | Outcome::Mismatch => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Protocol;

    #[test]
    fn the_sums_are_those_of_the_series() {
        let metrics = Metrics::new().expect("declared well");
        assert_eq!(metrics.traffic(), Traffic::default());
        let ready = metrics.ready(Endpoint::Index, Kind::Index, Protocol::H1, 200);
        ready.answered(100, Duration::ZERO);
        metrics.cache(Kind::Index, CacheResult::Revalidated);
        metrics.cache(Kind::Index, CacheResult::Negative);
        metrics.cache(Kind::Index, CacheResult::Stale);
        metrics.cache(Kind::Crate, CacheResult::Hit);
        metrics.cache(Kind::Crate, CacheResult::Miss);
        metrics.cache(Kind::Crate, CacheResult::NotHeld);
        metrics.cache(Kind::Crate, CacheResult::Failed);
        metrics.response_bytes(Endpoint::Download, 50);
        metrics.response_bytes(Endpoint::Config, 7);
        metrics.response_bytes(Endpoint::Status, 1_000_000);
        metrics.body(Endpoint::Git, Some(Kind::Git)).passed(1000);
        metrics.body(Endpoint::Download, None).passed(3);
        metrics.upstream_bytes(Kind::Crate, 50);
        for outcome in Outcome::ALL {
            metrics.upstream(Kind::Index, *outcome, Duration::ZERO);
        }
        let sums = Traffic {
            index_hits: 2,
            index_misses: 1,
            index_stale: 1,
            crate_hits: 1,
            crate_misses: 1,
            served_bytes: 1160,
            fetched_bytes: 50,
            saved_bytes: 1100,
            upstream_failures: 5,
            failed: 1,
        };
        assert_eq!(metrics.traffic(), sums);
    }
}
