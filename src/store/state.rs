//! What the store knows about itself, and the numbers that it is made of.
#![warn(clippy::arithmetic_side_effects)]

use super::fields::{Damaged, Reader};
use crate::registry::Checksum;

const STATE_FORMAT: u8 = 1;

/// What the store knows about itself, written with every batch.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 1 | format: 1 |
/// | 1 | 8 | length of the journal that this state has taken in |
/// | 9 | 8 | zero |
/// | 17 | 8 | number of names |
/// | 25 | 8 | number of value files |
/// | 33 | 8 | bytes of the value files |
/// | 41 | 8 | fingerprint: exclusive or of the first 8 bytes of the value files' checksums |
/// | 49 | 8 | number of releases ([`Counts`]); this and the next three are absent while they are not known |
/// | 57 | 8 | number of releases whose crate file is held |
/// | 65 | 8 | bytes of the index files, as they came |
/// | 73 | 8 | bytes of the index files, compressed |
/// | 49 or 81 | 4 | crc32 of the bytes before |
///
/// A build that does not know the counts passes over them, and writes a state without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) journal_len: u64,
    pub(super) names: u64,
    pub(super) held: Held,
    /// `None`: they have to be counted.
    pub(super) counts: Option<Counts>,
}

/// The records in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Releases that were ever seen.
    pub(super) versions: u64,
    /// Those of them that are marked as held.
    pub(super) held: u64,
    /// Bytes of the index files, as they came.
    pub(super) index_raw_bytes: u64,
    /// Bytes of the index files, compressed.
    pub(super) index_stored_bytes: u64,
}

impl Counts {
    /// Takes in a record.
    pub(super) fn add(&mut self, record: Counts) {
        self.versions = self.versions.saturating_add(record.versions);
        self.held = self.held.saturating_add(record.held);
        self.index_raw_bytes = self.index_raw_bytes.saturating_add(record.index_raw_bytes);
        let stored = self.index_stored_bytes;
        self.index_stored_bytes = stored.saturating_add(record.index_stored_bytes);
    }

    /// Takes off a record that another takes the place of.
    pub(super) fn remove(&mut self, record: Counts) {
        self.versions = self.versions.saturating_sub(record.versions);
        self.held = self.held.saturating_sub(record.held);
        self.index_raw_bytes = self.index_raw_bytes.saturating_sub(record.index_raw_bytes);
        let stored = self.index_stored_bytes;
        self.index_stored_bytes = stored.saturating_sub(record.index_stored_bytes);
    }
}

/// What can be said about a set of value files without a list of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    pub(super) fingerprint: u64,
}

impl Held {
    /// Takes in one more file.
    pub(super) fn add(&mut self, checksum: &Checksum, bytes: u64) {
        self.blobs = self.blobs.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.fingerprint ^= checksum.prefix();
    }

    /// Takes off a file that went.
    pub(super) fn remove(&mut self, checksum: &Checksum, bytes: u64) {
        self.blobs = self.blobs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.fingerprint ^= checksum.prefix();
    }
}

impl State {
    /// The state of a store without records.
    pub(super) fn of_none() -> State {
        State {
            counts: Some(Counts::default()),
            ..State::default()
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![STATE_FORMAT];
        for number in [
            self.journal_len,
            0,
            self.names,
            self.held.blobs,
            self.held.bytes,
            self.held.fingerprint,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in self.counts.iter().flat_map(|counts| {
            [
                counts.versions,
                counts.held,
                counts.index_raw_bytes,
                counts.index_stored_bytes,
            ]
        }) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<State, Damaged> {
        let (body, crc) = bytes.split_last_chunk().ok_or(Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(Damaged);
        }
        let mut reader = Reader(body);
        let [format] = reader.array()?;
        if format != STATE_FORMAT {
            return Err(Damaged);
        }
        let mut number = || reader.array().map(u64::from_le_bytes);
        let journal_len = number()?;
        number()?;
        let mut state = State {
            journal_len,
            names: number()?,
            held: Held {
                blobs: number()?,
                bytes: number()?,
                fingerprint: number()?,
            },
            counts: None,
        };
        let mut counts = || {
            Ok::<_, Damaged>(Counts {
                versions: number()?,
                held: number()?,
                index_raw_bytes: number()?,
                index_stored_bytes: number()?,
            })
        };
        state.counts = counts().ok();
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_as_it_was_written_and_no_other_way() {
        let mut state = State {
            journal_len: 16,
            names: 3,
            held: Held::default(),
            counts: None,
        };
        state.held.add(&Checksum::of(b"a"), 7);
        assert_eq!(State::decode(&state.encode()), Ok(state));
        state.counts = Some(Counts {
            versions: 9,
            held: 8,
            index_raw_bytes: 7,
            index_stored_bytes: 6,
        });
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Ok(state));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 16;
            assert_eq!(State::decode(&flipped), Err(Damaged), "byte {at}");
        }
        assert_eq!(State::decode(b""), Err(Damaged));
    }
}
