//! The message of a commit: what changed, for people.

use std::collections::HashMap;

use bytes::Bytes;

use super::CONFIG;
use crate::registry::{CrateName, IndexFile};

/// How many lines of a message say what changed: what a person reads.
const MAX_LINES: usize = 100;

/// How many versions of a crate such a line names.
const MAX_VERSIONS: usize = 5;

/// What changes in a commit, as its message says it.
#[derive(Debug, Default)]
pub(super) struct Summary {
    new: u64,
    updated: u64,
    removed: u64,
    lines: Vec<String>,
}

impl Summary {
    /// Counts a name: whether it had a file, and whether it has one now.
    pub(super) fn add(&mut self, before: bool, now: bool) {
        let count = match (before, now) {
            (false, _) => &mut self.new,
            (true, true) => &mut self.updated,
            (true, false) => &mut self.removed,
        };
        *count = count.saturating_add(1);
    }

    /// Whether there is room for a line.
    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < MAX_LINES
    }

    /// Says in a line how the file of a name changed.
    pub(super) fn describe(
        &mut self,
        name: &CrateName,
        older: Option<&Bytes>,
        newer: Option<&Bytes>,
    ) {
        self.lines.push(line(name, older, newer));
    }

    /// How many names a tree with so many has after it.
    pub(super) fn names_after(&self, names: u64) -> u64 {
        names.saturating_add(self.new).saturating_sub(self.removed)
    }

    fn names(&self) -> u64 {
        self.new
            .saturating_add(self.updated)
            .saturating_add(self.removed)
    }

    /// The first line: how many crates are new, updated and removed.
    pub(super) fn subject(&self) -> String {
        let names = self.names();
        if names == 0 {
            return format!("`{CONFIG}` changed");
        }
        let counts = [
            (self.new, "new"),
            (self.updated, "updated"),
            (self.removed, "removed"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _what)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let crates = if names == 1 { "crate" } else { "crates" };
        format!("{names} {crates}: {}", counts.join(", "))
    }

    /// The message. `base`: where `config.json` points now, if it changed.
    pub(super) fn message(&self, base: Option<&str>) -> String {
        let mut text = self.subject();
        let mut add = |line: &str| {
            // `Repo::commit` puts the blank line after the first.
            text.push('\n');
            text.push_str(line);
        };
        if let Some(base) = base {
            add(&format!("{CONFIG}: {base}"));
        }
        for line in &self.lines {
            add(line);
        }
        let left_out = self.names().saturating_sub(self.lines.len() as u64);
        if left_out > 0 {
            add(&format!("and {left_out} more"));
        }
        text
    }
}

fn line(name: &CrateName, older: Option<&Bytes>, newer: Option<&Bytes>) -> String {
    let parse = |bytes: &Bytes| IndexFile::parse(name, bytes.clone()).ok();
    let (old, new) = (older.and_then(parse), newer.and_then(parse));
    let spelled = new
        .as_ref()
        .and_then(|file| file.rows().last().map(|row| row.name.clone()))
        .unwrap_or_else(|| name.clone());
    match (old, new) {
        (_, None) if newer.is_none() => format!("{spelled}: removed"),
        (None, Some(new)) if older.is_none() => match new.rows().len() {
            1 => format!("{spelled}: new, 1 version"),
            versions => format!("{spelled}: new, {versions} versions"),
        },
        (Some(old), Some(new)) => format!("{spelled}: {}", differences(&old, &new)),
        _ => format!("{spelled}: changed"),
    }
}

fn differences(old: &IndexFile, new: &IndexFile) -> String {
    let olds: HashMap<_, _> = old.rows().iter().map(|row| (&row.version, row)).collect();
    let news: HashMap<_, _> = new.rows().iter().map(|row| (&row.version, row)).collect();
    let mut changes = Vec::new();
    for row in new.rows() {
        let what = match olds.get(&row.version) {
            None => "published",
            Some(old) if old.checksum != row.checksum => "another checksum of",
            Some(old) if !old.yanked && row.yanked => "yanked",
            Some(old) if old.yanked && !row.yanked => "unyanked",
            Some(_) => continue,
        };
        changes.push(format!("{what} {}", row.version));
    }
    let gone = old
        .rows()
        .iter()
        .filter(|row| !news.contains_key(&row.version));
    changes.extend(gone.map(|row| format!("removed {}", row.version)));
    if changes.is_empty() {
        return "changed".to_owned();
    }
    let more = changes.len().saturating_sub(MAX_VERSIONS);
    changes.truncate(MAX_VERSIONS);
    if more > 0 {
        changes.push(format!("and {more} more"));
    }
    changes.join(", ")
}
