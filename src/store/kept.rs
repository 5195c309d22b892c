//! Small values that other modules keep here under a text key.

use std::{
    ops::{Bound, ControlFlow},
    sync::atomic::Ordering::SeqCst,
};

use super::{
    catalogue::{Tree, Value},
    error::Error,
    fields::Damaged,
    handle::Store,
    queue::{Job, RecordEdit},
    shared::Shared,
    table::{Kept, Table, decode, sled_key},
};

/// How many pairs are read at a time.
const PAGE: usize = 256;

impl Store {
    /// Keeps small values under their keys (`None` removes one), durably: all of them or, after an
    /// error, perhaps none.
    ///
    /// # Errors
    /// [`Error::TooLargeToKeep`] for a key over 512 bytes or a value over 1 MiB (16 MiB for
    /// [`Table::Sets`]), and what the disk says.
    pub fn keep(&self, table: Table, pairs: Vec<(String, Option<Vec<u8>>)>) -> Result<(), Error> {
        if pairs.is_empty() {
            return Ok(());
        }
        let kept = pairs.into_iter().map(|(key, value)| {
            let kept = Kept { table, key, value };
            kept.check().map(|()| kept)
        });
        let kept = kept.collect::<Result<Vec<_>, Error>>()?;
        let shared = self.shared();
        let edit = RecordEdit::Keep(kept);
        let outcome = shared.queue.call(|reply| Job::Edit(edit, reply));
        // After a failure it is unknown what was written.
        if let Some(changes) = shared.kept_changes.get(usize::from(table.tag())) {
            changes.fetch_add(1, SeqCst);
        }
        outcome
    }

    /// A number that rises with every change of these tables: what was read of them is current as
    /// long as it stays the same.
    pub fn kept_changes(&self, tables: &[Table]) -> u64 {
        let changes = &self.shared().kept_changes;
        let counts = tables
            .iter()
            .filter_map(|table| changes.get(usize::from(table.tag())));
        counts.fold(self.reopened(), |sum, count| {
            sum.wrapping_add(count.load(SeqCst))
        })
    }

    /// The value under a key; `None`: there is none.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn kept(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let shared = self.shared();
        let key = sled_key(table, key);
        Ok(shared
            .kept(&key)
            .and_then(|bytes| shared.kept_value(&key, &bytes).map(<[u8]>::to_vec)))
    }

    /// Hands all values whose keys start with `prefix` to `visit`, in the order of their keys, until
    /// it breaks.
    ///
    /// # Errors
    /// If sled cannot be read; damaged values are passed over.
    pub fn kept_all(
        &self,
        table: Table,
        prefix: &str,
        mut visit: impl FnMut(&str, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let shared = self.shared();
        let Some(catalogue) = shared.catalogue() else {
            return Ok(());
        };
        let prefix = sled_key(table, prefix);
        let mut from = Bound::Included(prefix.clone());
        loop {
            let bound = from.as_ref().map(String::as_bytes);
            let page = catalogue.page(Tree::Kept, bound, PAGE)?;
            let Some((last, _value)) = page.last() else {
                return Ok(());
            };
            let last = String::from_utf8_lossy(last).into_owned();
            for (key, value) in page {
                let key = str::from_utf8(&key).unwrap_or_default();
                if !key.starts_with(&prefix) {
                    return Ok(());
                }
                let value = shared.durable(key, Some(value));
                let Some(bytes) = value.as_deref().and_then(|v| shared.kept_value(key, v)) else {
                    continue;
                };
                if visit(key.get(1..).unwrap_or_default(), bytes).is_break() {
                    return Ok(());
                }
            }
            from = Bound::Excluded(last);
        }
    }
}

impl Shared {
    fn kept(&self, key: &str) -> Option<Value> {
        let found = self.catalogue()?.read(Tree::Kept, key.as_bytes());
        let found = found.unwrap_or_else(|error| {
            self.note_suspect(&error);
            None
        });
        self.durable(key, found)
    }

    fn kept_value<'a>(&self, key: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let value = decode(key, bytes);
        if value.is_none() {
            self.note_damage(key.get(1..).unwrap_or_default(), &Damaged);
        }
        value
    }
}
