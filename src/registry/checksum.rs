//! A sha256, the only identity that a crate file has here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// The sha256 of a `.crate` file: what an index line calls `cksum`, and the name of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum([u8; 32]);

impl Checksum {
    /// The checksum with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Checksum {
        Checksum(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 bytes: a quarter of the memory, where two of millions of checksums that share
    /// them do no harm.
    pub fn prefix(&self) -> u64 {
        let prefix = self.0.first_chunk();
        prefix.map_or(0, |prefix| u64::from_be_bytes(*prefix))
    }

    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(Sha256::digest(bytes).into())
    }

    /// The 64 lower-case hexadecimal digits, as the index writes them.
    pub fn to_hex(self) -> String {
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(u32::from(digit), 16))
            .collect()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

/// As its hexadecimal digits.
impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checksum, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The text was not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is 64 hexadecimal digits")]
pub struct InvalidChecksum;

impl FromStr for Checksum {
    type Err = InvalidChecksum;

    fn from_str(text: &str) -> Result<Checksum, InvalidChecksum> {
        if text.len() != 64 {
            return Err(InvalidChecksum);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = match pair {
                [high, low] => (digit(*high)? << 4) | digit(*low)?,
                _ => return Err(InvalidChecksum),
            };
        }
        Ok(Checksum(bytes))
    }
}

fn digit(ascii: u8) -> Result<u8, InvalidChecksum> {
    char::from(ascii)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
        .ok_or(InvalidChecksum)
}

/// A sha256 in the making, for bytes that arrive in pieces.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes taken.
    pub fn finish(self) -> Checksum {
        Checksum(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_checksum_reads_what_it_writes() {
        assert_eq!(Checksum::of(b"").to_hex(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Checksum::of(b"")));
        assert_eq!(EMPTY.to_uppercase().parse(), Ok(Checksum::of(b"")));
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        for text in [
            "",
            "e3",
            &EMPTY[1..],
            &format!("{EMPTY}0"),
            &EMPTY.replace('e', "g"),
        ] {
            assert_eq!(text.parse::<Checksum>(), Err(InvalidChecksum), "{text:?}");
        }
        assert_eq!("é".repeat(32).parse::<Checksum>(), Err(InvalidChecksum));
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = Hasher::default();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Checksum::of(b"abc"));
    }
}
