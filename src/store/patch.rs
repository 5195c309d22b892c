//! How to get the older bytes of an index file from the newer ones: the entries of a generation.
//!
//! All numbers are little-endian. An entry tells what a name's file was before a generation:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | kind: 0 it was absent, 1 the file whole, 2 a patch against the newer file, 3 it is lost |
//! | 1 | 1 | `k`: length of the key |
//! | 2 | 4 | length of the older file |
//! | 6 | 4 | crc32 of the older file |
//! | 10 | 4 | `d`: length of the data |
//! | 14 | k | the key: the crate's lower-case name |
//! | | d | kinds 1 and 2: one zstd frame, of kind 2 made with the newer file as its prefix |
//!
//! Files mostly grow at their end, so that a patch has some 30 bytes.
#![warn(clippy::arithmetic_side_effects)]

use std::io;

use super::codec::{Damaged, MAX_SNAPSHOT_BYTES, Reader, compress_against, decompress_against};

const ABSENT: u8 = 0;
const WHOLE: u8 = 1;
const PATCH: u8 = 2;
const LOST: u8 = 3;

pub(super) const ENTRY_HEAD_BYTES: usize = 14;

/// What a file was before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Older<'a> {
    Absent,
    Bytes(&'a [u8]),
    /// Nobody knows.
    Lost,
}

/// Appends the entry of one name.
///
/// # Errors
/// Only for want of memory, or where something is longer than the layout holds.
pub(super) fn put_entry(
    out: &mut Vec<u8>,
    key: &str,
    older: Older<'_>,
    newer: Option<&[u8]>,
) -> io::Result<()> {
    let (kind, bytes, data) = match (older, newer) {
        (Older::Absent, _) => (ABSENT, &[][..], Vec::new()),
        (Older::Lost, _) => (LOST, &[][..], Vec::new()),
        (Older::Bytes(bytes), None) => (WHOLE, bytes, compress_against(bytes, &[])?),
        (Older::Bytes(bytes), Some(newer)) => (PATCH, bytes, compress_against(bytes, newer)?),
    };
    let long = |_long| io::Error::other("an entry is longer than its layout holds");
    out.push(kind);
    out.push(u8::try_from(key.len()).map_err(long)?);
    out.extend_from_slice(&u32::try_from(bytes.len()).map_err(long)?.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).map_err(long)?.to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(&data);
    Ok(())
}

/// The start of an entry, which tells how long the rest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHead {
    kind: u8,
    pub(super) key_len: usize,
    raw_len: usize,
    crc: u32,
    pub(super) data_len: usize,
}

impl EntryHead {
    pub(super) fn read(bytes: &[u8]) -> Result<EntryHead, Damaged> {
        let mut reader = Reader(bytes);
        let [kind, key_len] = reader.array()?;
        let raw_len = u32::from_le_bytes(reader.array()?);
        let crc = u32::from_le_bytes(reader.array()?);
        let data_len = u32::from_le_bytes(reader.array()?);
        let head = EntryHead {
            kind,
            key_len: usize::from(key_len),
            raw_len: usize::try_from(raw_len).map_err(|_large| Damaged)?,
            crc,
            data_len: usize::try_from(data_len).map_err(|_large| Damaged)?,
        };
        if head.raw_len > MAX_SNAPSHOT_BYTES || head.data_len > MAX_SNAPSHOT_BYTES {
            return Err(Damaged);
        }
        Ok(head)
    }

    /// The older file; `Ok(None)`: there was none.
    ///
    /// # Errors
    /// [`Damaged`] if it cannot be known any more.
    pub(super) fn older(
        &self,
        data: &[u8],
        newer: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, Damaged> {
        let prefix = match (self.kind, newer) {
            (ABSENT, _) => return Ok(None),
            (WHOLE, _) => &[][..],
            (PATCH, Some(newer)) => newer,
            _ => return Err(Damaged),
        };
        let bytes = decompress_against(data, prefix, self.raw_len).map_err(|_broken| Damaged)?;
        if bytes.len() == self.raw_len && crc32fast::hash(&bytes) == self.crc {
            Ok(Some(bytes))
        } else {
            Err(Damaged)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(older: Older<'_>, newer: Option<&[u8]>) -> (Result<Option<Vec<u8>>, Damaged>, usize) {
        let mut out = Vec::new();
        put_entry(&mut out, "demo", older, newer).expect("fits");
        let head = EntryHead::read(&out).expect("a good head");
        let data = &out[ENTRY_HEAD_BYTES.saturating_add(head.key_len)..];
        assert_eq!(data.len(), head.data_len);
        (head.older(data, newer), out.len())
    }

    #[test]
    fn a_line_more_costs_some_bytes() {
        let line = |at: u64| {
            format!(
                "{{\"vers\":\"1.0.{at}\",\"cksum\":\"{:x}\"}}\n",
                at.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            )
        };
        let older: String = (0..20_000).map(line).collect();
        let newer = format!("{older}{}", line(20_000));
        let (back, size) = round(Older::Bytes(older.as_bytes()), Some(newer.as_bytes()));
        assert_eq!(back, Ok(Some(older.into_bytes())));
        assert!(size < 256, "{size} bytes");
    }

    #[test]
    fn what_is_lost_is_told() {
        assert_eq!(round(Older::Absent, Some(b"new")).0, Ok(None));
        assert_eq!(round(Older::Lost, Some(b"new")).0, Err(Damaged));
        assert_eq!(
            round(Older::Bytes(b"old"), None).0,
            Ok(Some(b"old".to_vec()))
        );
        assert_eq!(
            round(Older::Bytes(b""), Some(b"new")).0,
            Ok(Some(Vec::new()))
        );
        assert_eq!(
            round(Older::Bytes(b"old"), Some(b"")).0,
            Ok(Some(b"old".to_vec()))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn patches_give_the_older_bytes(
            older in proptest::collection::vec(any::<u8>(), 0..4000),
            newer in proptest::collection::vec(any::<u8>(), 0..4000),
            shared in proptest::collection::vec(any::<u8>(), 0..4000),
        ) {
            let older = [shared.clone(), older].concat();
            let newer = [shared, newer].concat();
            let (back, _size) = round(Older::Bytes(&older), Some(&newer));
            prop_assert_eq!(back, Ok(Some(older)));
        }

        #[test]
        fn damage_is_found(bytes in proptest::collection::vec(any::<u8>(), 0..200), newer in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(head) = EntryHead::read(&bytes) {
                let rest = bytes.get(ENTRY_HEAD_BYTES..).unwrap_or_default();
                drop(head.older(rest, Some(&newer)));
            }
        }
    }
}
