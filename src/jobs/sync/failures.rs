//! What could not be fetched, kept until it can.
//!
//! Kept in the store as JSON under `name@version` or `name`, [`FailureRecord`]; of a long text (a
//! requirement) under its beginning and its hash.

use std::{collections::BTreeMap, ops::ControlFlow, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    jobs::error::Failure,
    registry::Checksum,
    store::{self, Store, Table},
    util::format::seconds,
};

/// How many failures are written at a time, and how many are kept in memory before they are.
const WRITTEN_AT_ONCE: usize = 256;

/// How long a cause may be: a chain of errors with URLs, not a page.
const MOST_CAUSE_CHARS: usize = 1000;

/// The longest text that is a key by itself, in bytes: the store takes 512.
const LONGEST_PLAIN_KEY: usize = 400;

/// How much of a longer text its key begins with.
const KEPT_KEY_CHARS: usize = 64;

/// How much of a longer text is kept with the record.
const MOST_WHAT_CHARS: usize = 4000;

/// A failure as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureRecord {
    /// Why, the last time.
    pub cause: String,
    /// When it first failed, in seconds since 1970.
    pub first: u64,
    /// When it last failed, in seconds since 1970.
    pub last: u64,
    /// How often it failed.
    pub count: u64,
    /// Whether nothing was there to be fetched: asking again by itself changes nothing.
    pub lasting: bool,
    /// What failed, where that is too long for a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// What failed earlier.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) key: String,
    pub(super) what: String,
    pub(super) lasting: bool,
}

/// What the record of this is kept under.
pub(super) fn key_of(what: &str) -> String {
    if what.len() <= LONGEST_PLAIN_KEY {
        return what.to_owned();
    }
    let begin: String = what.chars().take(KEPT_KEY_CHARS).collect();
    format!("{begin}… #{}", Checksum::of(what.as_bytes()))
}

/// The failures as they were when the job began, and what became of them.
#[derive(Debug)]
pub(super) struct Failures {
    store: Store,
    known: BTreeMap<String, FailureRecord>,
    changed: BTreeMap<String, Option<FailureRecord>>,
}

impl Failures {
    /// Reads them. Blocks for the disk.
    pub(super) fn open(store: Store) -> Result<Failures, store::Error> {
        let mut known = BTreeMap::new();
        store.kept_all(Table::Failures, "", |key, bytes| {
            // Of a record that cannot be read only the fact is left.
            let record = serde_json::from_slice(bytes).unwrap_or_default();
            known.insert(key.to_owned(), record);
            ControlFlow::Continue(())
        })?;
        Ok(Failures {
            store,
            known,
            changed: BTreeMap::new(),
        })
    }

    /// All of them, by their keys.
    pub(super) fn all(&self) -> Vec<Earlier> {
        let all = self.known.iter().map(|(key, record)| Earlier {
            key: key.clone(),
            what: record.what.as_ref().unwrap_or(key).clone(),
            lasting: record.lasting,
        });
        all.collect()
    }

    pub(super) fn is_known(&self, what: &str) -> bool {
        self.known.contains_key(&key_of(what))
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn failed(&mut self, failure: &Failure, now: SystemTime) {
        let now = seconds(now);
        let key = key_of(&failure.what);
        let record = self.known.entry(key.clone()).or_default();
        if record.count == 0 {
            record.first = now;
        }
        record.last = now;
        record.count = record.count.saturating_add(1);
        record.cause = failure.cause.chars().take(MOST_CAUSE_CHARS).collect();
        record.lasting = failure.lasting;
        record.what =
            (key != failure.what).then(|| failure.what.chars().take(MOST_WHAT_CHARS).collect());
        self.changed.insert(key, Some(record.clone()));
    }

    /// It is well now.
    pub(super) fn is_well(&mut self, what: &str) {
        self.drop(&key_of(what));
    }

    /// It is well now, or nobody wants it any more.
    pub(super) fn drop(&mut self, key: &str) {
        if self.known.remove(key).is_some() {
            self.changed.insert(key.to_owned(), None);
        }
    }

    pub(super) fn is_worth_writing(&self) -> bool {
        self.changed.len() >= WRITTEN_AT_ONCE
    }

    /// What is to be written, as a job for a thread that may block.
    pub(super) fn take_changes(&mut self) -> impl FnOnce() -> Result<(), store::Error> + use<> {
        let changed: Vec<_> = std::mem::take(&mut self.changed).into_iter().collect();
        let store = self.store.clone();
        move || {
            for some in changed.chunks(WRITTEN_AT_ONCE) {
                write(&store, some)?;
            }
            Ok(())
        }
    }
}

/// Writes some of them. What cannot be kept is passed over: it is to take no other with it.
fn write(store: &Store, some: &[(String, Option<FailureRecord>)]) -> Result<(), store::Error> {
    let pair = |(key, record): &(String, Option<FailureRecord>)| {
        let bytes = record.as_ref();
        let bytes = bytes.and_then(|record| serde_json::to_vec(record).ok());
        (key.clone(), bytes)
    };
    match store.keep(Table::Failures, some.iter().map(pair).collect()) {
        Err(error @ store::Error::TooLargeToKeep { .. }) => {
            let (one, rest) = some.split_at(some.len() / 2);
            if one.is_empty() {
                tracing::warn!(%error, "could not note a failure");
                return Ok(());
            }
            write(store, one)?;
            write(store, rest)
        }
        written => written,
    }
}
