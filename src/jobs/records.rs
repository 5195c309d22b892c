//! What is kept of the last job of each kind.

use serde::{Deserialize, Serialize};

use super::{error::JobError, kind::JobKind};
use crate::{
    store::{self, Store, Table},
    util::json::to_json,
};

/// The largest report that is kept for `orlop stats`; of a larger one the lists are shortened.
const MOST_KEPT_BYTES: usize = 512 * 1024;

/// How much of a list stays when a report is too large.
const KEPT_OF_LISTS: usize = 100;

/// What is kept of the last job of a kind, in [`Table::Reports`] under the word for the kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobRecord {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// When one last ended well and without problems.
    pub ok_at: Option<u64>,
    /// How long it took.
    #[serde(default)]
    pub seconds: u64,
    /// What came of it; very long lists are cut. `None`: an error did.
    #[serde(default)]
    pub report: Option<serde_json::Value>,
    /// The error.
    #[serde(default)]
    pub error: Option<JobError>,
}

/// What is kept of the last job of a kind.
pub(super) fn last_of(store: &Store, kind: JobKind) -> Result<Option<JobRecord>, store::Error> {
    let last = store.kept(Table::Reports, kind.as_str())?;
    Ok(last.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

pub(super) fn keep(
    store: &Store,
    kind: JobKind,
    mut record: JobRecord,
) -> Result<(), store::Error> {
    if record.ok_at.is_none() {
        record.ok_at = last_of(store, kind)?.and_then(|last| last.ok_at);
    }
    record.report = record.report.map(fitting);
    let pair = (kind.as_str().to_owned(), Some(to_json(&record)));
    store.keep(Table::Reports, vec![pair])
}

/// The report, with its lists cut short where it is too large to keep.
fn fitting(mut report: serde_json::Value) -> serde_json::Value {
    if report.to_string().len() > MOST_KEPT_BYTES {
        shorten(&mut report);
    }
    if report.to_string().len() > MOST_KEPT_BYTES {
        return serde_json::Value::Null;
    }
    report
}

fn shorten(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => {
            items.truncate(KEPT_OF_LISTS);
            items.iter_mut().for_each(shorten);
        }
        serde_json::Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_too_large_keeps_the_begin_of_its_lists() {
        let long = vec!["x".repeat(100); 10_000];
        let kept = fitting(serde_json::json!({"failed": long, "fetched": 7}));
        assert_eq!(kept["failed"].as_array().unwrap().len(), KEPT_OF_LISTS);
        assert_eq!(kept["fetched"], 7);
    }
}
