//! The tables of small values that other modules keep here: their bytes on disk.
//!
//! A value in the tree `kept`, under the table's number as one byte and the key:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 4 | crc32 of the key (with the table's number) and of the bytes that follow |
//! | 5 | | the value |
//!
//! Tables that can neither be derived nor fetched again are in the journal too, and come back from
//! it when sled is lost; of the others only what is in sled is left. A damaged value counts as
//! absent.
#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use super::{
    catalogue::{Catalogue, Tree, Value},
    error::Error,
    fields::digest_of,
    journal::KeptLine,
};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 5;

/// The longest key: a name, an `@` and a version are less.
const MAX_KEY_BYTES: usize = 512;

/// The largest value of most tables.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// The largest saved set, which may have the texts of many lockfiles.
const MAX_SET_BYTES: usize = 16 << 20;

/// A value goes into the journal in parts of so many bytes: the journal finds the next good frame
/// after damage only within 4 MiB.
const PART_BYTES: usize = 1 << 20;

/// Which of the small things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// What could not be fetched ahead, and why.
    Failures = 1,
    /// The last report of each kind of job.
    Reports = 2,
    /// What was taken in from bundles.
    Imports = 3,
    /// Which clients fetched which releases.
    Uses = 4,
    /// Saved selections. In the journal too.
    Sets = 5,
    /// Releases that are kept whatever happens. In the journal too.
    Pins = 6,
    /// The traffic history.
    History = 7,
    /// Which commit of each view's git index was published.
    Published = 8,
}

impl Table {
    const ALL: [Table; 8] = [
        Table::Failures,
        Table::Reports,
        Table::Imports,
        Table::Uses,
        Table::Sets,
        Table::Pins,
        Table::History,
        Table::Published,
    ];

    /// Its number on disk. Below every byte that a crate's name can start with.
    pub(super) fn tag(self) -> u8 {
        self as u8
    }

    fn of_tag(tag: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| table.tag() == tag)
    }

    /// Whether the journal has it too.
    pub(super) fn is_journaled(self) -> bool {
        matches!(self, Table::Sets | Table::Pins)
    }

    fn max_value_bytes(self) -> usize {
        match self {
            Table::Sets => MAX_SET_BYTES,
            _ => MAX_VALUE_BYTES,
        }
    }
}

/// One thing to keep, or (`None`) to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) value: Option<Vec<u8>>,
}

impl Kept {
    /// Its key in sled.
    pub(super) fn sled_key(&self) -> String {
        sled_key(self.table, &self.key)
    }

    /// Its value in sled.
    pub(super) fn sled_value(&self) -> Option<Vec<u8>> {
        let value = self.value.as_deref()?;
        Some(encode(&self.sled_key(), value))
    }

    /// Whether it is small enough.
    ///
    /// # Errors
    /// [`Error::TooLargeToKeep`].
    pub(super) fn check(&self) -> Result<(), Error> {
        let length = self.value.as_ref().map_or(0, Vec::len);
        let fits = !self.key.is_empty()
            && self.key.len() <= MAX_KEY_BYTES
            && length <= self.table.max_value_bytes();
        if fits {
            Ok(())
        } else {
            Err(Error::TooLargeToKeep {
                key: self.key.chars().take(64).collect(),
            })
        }
    }

    /// The frames that the journal gets.
    pub(super) fn lines(&self) -> Vec<KeptLine> {
        let line = |part, parts, digest, bytes: &[u8]| KeptLine {
            table: self.table.tag(),
            key: self.key.clone(),
            part,
            parts,
            digest,
            bytes: bytes.to_vec(),
        };
        let Some(value) = &self.value else {
            return vec![line(0, 0, [0; 16], &[])];
        };
        let digest = digest_of(value);
        if value.is_empty() {
            return vec![line(0, 1, digest, &[])];
        }
        let parts = value.len().div_ceil(PART_BYTES);
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        (0..)
            .zip(value.chunks(PART_BYTES))
            .map(|(part, bytes)| line(part, parts, digest, bytes))
            .collect()
    }
}

/// Puts values together again from the journal's frames. What misses a part is passed over: the
/// value before it stays.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    begun: Option<KeptLine>,
}

impl Assembly {
    /// Takes the next frame; what it completes is returned.
    pub(super) fn take(&mut self, line: KeptLine) -> Option<Kept> {
        let table = Table::of_tag(line.table)?;
        if line.parts == 0 {
            self.begun = None;
            return Some(Kept {
                table,
                key: line.key,
                value: None,
            });
        }
        let whole = self.join(line)?;
        if whole.part.saturating_add(1) < whole.parts {
            self.begun = Some(whole);
            return None;
        }
        (digest_of(&whole.bytes) == whole.digest).then_some(Kept {
            table,
            key: whole.key,
            value: Some(whole.bytes),
        })
    }

    fn join(&mut self, line: KeptLine) -> Option<KeptLine> {
        let begun = self.begun.take();
        if line.part == 0 {
            return Some(line);
        }
        let mut begun = begun?;
        let follows = begun.part.saturating_add(1) == line.part
            && begun.parts == line.parts
            && begun.digest == line.digest
            && begun.table == line.table
            && begun.key == line.key
            && begun.bytes.len() <= MAX_SET_BYTES;
        if !follows {
            return None;
        }
        begun.part = line.part;
        begun.bytes.extend_from_slice(&line.bytes);
        Some(begun)
    }
}

/// The key in sled.
pub(super) fn sled_key(table: Table, key: &str) -> String {
    let mut whole = String::with_capacity(key.len().saturating_add(1));
    whole.push(char::from(table.tag()));
    whole.push_str(key);
    whole
}

fn crc_of(key: &str, value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.as_bytes());
    crc.update(value);
    crc.finalize()
}

fn encode(key: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len().saturating_add(HEAD_BYTES));
    out.push(FORMAT);
    out.extend_from_slice(&crc_of(key, value).to_le_bytes());
    out.extend_from_slice(value);
    out
}

/// The value; `None`: it is damaged, or of a later format.
pub(super) fn decode<'a>(key: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let ([format], rest) = bytes.split_first_chunk()?;
    let (crc, value) = rest.split_first_chunk()?;
    let good = *format == FORMAT && crc_of(key, value) == u32::from_le_bytes(*crc);
    good.then_some(value)
}

/// What a batch changes: pairs for sled, frames for the journal, and what readers see until it is
/// durable.
#[derive(Default)]
pub(super) struct KeptBatch {
    pub(super) pairs: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) lines: Vec<KeptLine>,
    pub(super) before: BTreeMap<String, Option<Value>>,
}

impl KeptBatch {
    /// What stays as it is costs nothing.
    pub(super) fn add(&mut self, catalogue: &Catalogue, kept: &Kept) -> Result<(), Error> {
        let key = kept.sled_key();
        let before = catalogue.read(Tree::Kept, key.as_bytes())?;
        let after = kept.sled_value();
        if self.before.contains_key(&key) || before.as_deref() != after.as_deref() {
            if kept.table.is_journaled() {
                self.lines.extend(kept.lines());
            }
            self.pairs.push((key.clone().into_bytes(), after));
            self.before.entry(key).or_insert(before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(length: usize) -> Kept {
        Kept {
            table: Table::Sets,
            key: "ci".to_owned(),
            value: Some((0..=250).cycle().take(length).collect()),
        }
    }

    fn assembled(lines: impl IntoIterator<Item = KeptLine>) -> Vec<Kept> {
        let mut assembly = Assembly::default();
        lines
            .into_iter()
            .filter_map(|line| assembly.take(line))
            .collect()
    }

    #[test]
    fn the_bytes_of_a_value_are_as_drawn() {
        let mut drawn = vec![1];
        drawn.extend(crc32fast::hash(b"\x06demo{}").to_le_bytes());
        drawn.extend(b"{}");
        assert_eq!(encode("\u{6}demo", b"{}"), drawn);
        assert_eq!(decode("\u{6}demo", &drawn), Some(&b"{}"[..]));
        assert_eq!(decode("\u{5}demo", &drawn), None, "of another table");
        for at in 0..drawn.len() {
            let mut flipped = drawn.clone();
            flipped[at] ^= 4;
            assert_eq!(decode("\u{6}demo", &flipped), None, "byte {at}");
        }
    }

    #[test]
    fn a_value_of_any_length_is_put_together_again() {
        for length in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES] {
            let one = kept(length);
            assert_eq!(assembled(one.lines()), [one], "{length} bytes");
        }
        let gone = Kept {
            value: None,
            ..kept(0)
        };
        assert_eq!(assembled(gone.lines()), [gone]);
    }

    #[test]
    fn a_value_that_misses_a_part_is_passed_over() {
        let (one, other) = (kept(3 * PART_BYTES), kept(3 * PART_BYTES - 1));
        for missing in 0..3 {
            let mut lines = one.lines();
            lines.remove(missing);
            lines.extend(other.lines());
            assert_eq!(
                assembled(lines),
                std::slice::from_ref(&other),
                "part {missing}"
            );
        }
        let mixed = one.lines().into_iter().take(1);
        let mixed = mixed.chain(other.lines().into_iter().skip(1));
        assert_eq!(assembled(mixed), []);
    }
}
