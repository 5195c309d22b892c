//! Reads the fields of the store's own formats, and the values that several formats share.
#![warn(clippy::arithmetic_side_effects)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::registry::Checksum;

/// The bytes are not a record that this build can trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged")]
pub(super) struct Damaged;

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn text(&mut self, length: usize) -> Result<&'a str, Damaged> {
        str::from_utf8(self.take(length)?).map_err(|_not_text| Damaged)
    }

    pub(super) fn length(&mut self) -> Result<usize, Damaged> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_large| Damaged)
    }
}

/// Milliseconds since 1970; what lies before is 1970.
pub fn to_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

/// The time so many milliseconds after 1970; 1970 where the clock cannot tell it.
pub fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH)
}

/// The first half of the sha256 of `bytes`.
pub(super) fn digest_of(bytes: &[u8]) -> [u8; 16] {
    let checksum = Checksum::of(bytes);
    checksum
        .as_bytes()
        .first_chunk()
        .copied()
        .unwrap_or([0; 16])
}
