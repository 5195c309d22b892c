//! What a publish changes: pure rules over the record as it was and the entry as it is.

use std::{collections::BTreeMap, time::SystemTime};

use semver::Version;

use super::{
    codec::{HELD, REMOVED, Record, RowRecord, SUPERSEDED, YANKED},
    facts::EventKind,
    journal::{Body, Entry, LedgerRow},
};
use crate::registry::{Checksum, CrateName, Row, release::parse_version};

/// Tells whether the crate file with a checksum is here.
pub(super) type IsHeld<'a> = &'a dyn Fn(&Checksum) -> bool;

/// The checksums that a crate's versions have and had, by the version's text; of one version the
/// one in force is first.
struct Ledger(BTreeMap<String, Vec<RowRecord>>);

impl Ledger {
    fn of(rows: Vec<RowRecord>) -> Ledger {
        let mut ledger: BTreeMap<String, Vec<RowRecord>> = BTreeMap::new();
        for row in rows {
            ledger.entry(row.version.clone()).or_default().push(row);
        }
        Ledger(ledger)
    }

    fn into_rows(self) -> Vec<RowRecord> {
        self.0.into_values().flatten().collect()
    }

    /// The row in force, if the version was ever seen.
    fn current(&mut self, version: &str) -> Option<&mut RowRecord> {
        self.0.get_mut(version).and_then(|rows| rows.first_mut())
    }

    /// Puts the checksum of a version in force; what was in force is superseded, and stays known.
    fn see(&mut self, row: &LedgerRow, is_held: IsHeld<'_>) {
        let version = row.version.to_string();
        let rows = self.0.entry(version.clone()).or_default();
        let known = rows.iter().position(|known| known.checksum == row.checksum);
        let mut now = match known {
            Some(at) => rows.remove(at),
            None => new_row(version, row.checksum, is_held),
        };
        for older in rows.iter_mut() {
            older.set(SUPERSEDED, true);
        }
        now.set(YANKED, row.yanked);
        now.set(SUPERSEDED | REMOVED, false);
        rows.insert(0, now);
    }

    /// Makes a checksum known that was in force before the journal tells.
    fn remember(&mut self, version: &Version, checksum: Checksum, is_held: IsHeld<'_>) {
        let version = version.to_string();
        let rows = self.0.entry(version.clone()).or_default();
        if rows.iter().all(|known| known.checksum != checksum) {
            let mut row = new_row(version, checksum, is_held);
            row.set(SUPERSEDED, !rows.is_empty());
            rows.push(row);
        }
    }
}

fn new_row(version: String, checksum: Checksum, is_held: IsHeld<'_>) -> RowRecord {
    RowRecord {
        version,
        checksum,
        flags: if is_held(&checksum) { HELD } else { 0 },
        codec: 0,
    }
}

/// Brings the version table of a record to what an index file says. Returns what happened.
pub(super) fn update(
    record: &mut Record,
    first: bool,
    rows: &[Row],
    now: SystemTime,
    is_held: IsHeld<'_>,
) -> Vec<Entry> {
    let seen = last_of_each(rows);
    let mut ledger = Ledger::of(std::mem::take(&mut record.rows));
    let mut bodies = Vec::new();
    if record.gone {
        record.gone = false;
        bodies.push(Body::NameBack);
    }
    if first {
        bodies.push(Body::FirstSeen(seen.values().cloned().collect()));
    } else {
        for (text, row) in &seen {
            bodies.extend(difference(ledger.current(text), row));
        }
        bodies.extend(removals(&mut ledger, &seen));
    }
    for row in seen.values() {
        ledger.see(row, is_held);
    }
    record.rows = ledger.into_rows();
    entries(&record.name, bodies, now)
}

/// Makes known what an older index file says and the record does not. The record may have seen more
/// since, so that nothing that it knows is changed.
pub(super) fn restore(record: &mut Record, rows: &[Row], is_held: IsHeld<'_>) {
    let mut ledger = Ledger::of(std::mem::take(&mut record.rows));
    for (text, row) in &last_of_each(rows) {
        if ledger.current(text).is_none() {
            ledger.see(row, is_held);
        }
    }
    record.rows = ledger.into_rows();
}

/// A file may name a version twice; the last line counts, as for cargo.
fn last_of_each(rows: &[Row]) -> BTreeMap<String, LedgerRow> {
    rows.iter()
        .map(|row| {
            let seen = LedgerRow {
                version: row.version.clone(),
                yanked: row.yanked,
                checksum: row.checksum,
            };
            (row.version.to_string(), seen)
        })
        .collect()
}

fn difference(old: Option<&mut RowRecord>, new: &LedgerRow) -> Option<Body> {
    let Some(old) = old else {
        return Some(Body::NewVersion(new.clone()));
    };
    if old.checksum != new.checksum {
        return Some(Body::ChecksumChanged {
            row: new.clone(),
            old: old.checksum,
        });
    }
    if old.has(REMOVED) {
        return Some(Body::NewVersion(new.clone()));
    }
    match (old.has(YANKED), new.yanked) {
        (false, true) => Some(Body::Yanked(new.version.clone())),
        (true, false) => Some(Body::Unyanked(new.version.clone())),
        _ => None,
    }
}

fn removals(ledger: &mut Ledger, seen: &BTreeMap<String, LedgerRow>) -> Vec<Body> {
    let mut bodies = Vec::new();
    for (text, rows) in &mut ledger.0 {
        let Some(row) = rows.first_mut() else {
            continue;
        };
        if seen.contains_key(text) || row.has(REMOVED) {
            continue;
        }
        row.set(REMOVED, true);
        if let Ok(version) = parse_version(text) {
            bodies.push(Body::VersionRemoved(LedgerRow {
                version,
                yanked: row.has(YANKED),
                checksum: row.checksum,
            }));
        }
    }
    bodies
}

/// Notes that upstream no longer knows the name. Returns what happened.
pub(super) fn gone(record: &mut Record, now: SystemTime) -> Vec<Entry> {
    if record.gone {
        return Vec::new();
    }
    record.gone = true;
    entries(&record.name, vec![Body::NameGone], now)
}

fn entries(name: &CrateName, bodies: Vec<Body>, at: SystemTime) -> Vec<Entry> {
    let entry = |body| Entry {
        at,
        name: name.clone(),
        body,
    };
    bodies.into_iter().map(entry).collect()
}

/// Does to a record what a journal entry says. Doing it twice changes nothing.
pub(super) fn replay(record: &mut Record, body: &Body, is_held: IsHeld<'_>) {
    let mut ledger = Ledger::of(std::mem::take(&mut record.rows));
    match body {
        Body::FirstSeen(rows) => rows.iter().for_each(|row| ledger.see(row, is_held)),
        Body::NewVersion(row) => ledger.see(row, is_held),
        Body::Yanked(version) => flag(&mut ledger, version, YANKED, true),
        Body::Unyanked(version) => flag(&mut ledger, version, YANKED, false),
        Body::ChecksumChanged { row, old } => {
            ledger.remember(&row.version, *old, is_held);
            ledger.see(row, is_held);
        }
        Body::VersionRemoved(row) => {
            ledger.remember(&row.version, row.checksum, is_held);
            flag(&mut ledger, &row.version, REMOVED, true);
        }
        Body::NameGone => record.gone = true,
        Body::NameBack => record.gone = false,
    }
    record.rows = ledger.into_rows();
}

/// Makes known what another store saw happen, as far as it is about checksums that are no longer in
/// force: nothing that the record knows is changed, so that it agrees with its index file. Returns
/// whether something was new.
pub(super) fn learn(record: &mut Record, kind: &EventKind, is_held: IsHeld<'_>) -> bool {
    let (version, checksum, flags) = match kind {
        EventKind::ChecksumChanged { version, old, .. } => (version, *old, SUPERSEDED),
        EventKind::VersionRemoved { version, checksum } => (version, *checksum, REMOVED),
        _ => return false,
    };
    let text = version.to_string();
    let is_known = record.rows.iter().any(|row| row.version == text);
    let is_same = |row: &RowRecord| row.version == text && row.checksum == checksum;
    if record.rows.iter().any(is_same) || (!is_known && flags == SUPERSEDED) {
        return false;
    }
    let mut row = new_row(text, checksum, is_held);
    // What is in force is first, and stays so.
    row.set(if is_known { SUPERSEDED } else { REMOVED }, true);
    record.rows.push(row);
    true
}

fn flag(ledger: &mut Ledger, version: &Version, flag: u8, on: bool) {
    if let Some(row) = ledger.current(&version.to_string()) {
        row.set(flag, on);
    }
}
