//! Receipts: what a machine truly has after an import, so that the next bundle brings only the rest.
//!
//! ```text
//! orlop receipt format 1\n
//! sha256 of the rest                          32   the receipt's id
//! zstd:  crate files: their number             8
//!        the first half of each sha256        16 each, in order
//!        names: their number                   8
//!        length of the name, the name,  1, up to 64
//!        the first half of its file's sha256  16      in order of the lower-case names
//! ```
//!
//! It is not signed: one that was changed makes a delta that the other side refuses, and nothing
//! else. The exporting side holds it in memory: 50 MB for three million crate files.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    collections::BTreeMap,
    io::{BufReader, Read, Write},
};

use zstd::stream::{read::Decoder, write::Encoder};

use super::{
    error::Error,
    format::{Counted, Id, first_line, read_array, read_first_line},
};
use crate::registry::Checksum;

/// The first words of a receipt.
const WORDS: &str = "orlop receipt format ";
const WHAT: &str = "a receipt";

const LEVEL: i32 = 3;
const MAX_WINDOW_LOG: u32 = 23;

/// The most that is read: 30 million crate files.
const MAX_BYTES: u64 = 512 << 20;

/// The first half of a sha256: no two crate files ever shared one, and half the bytes.
pub(super) type Half = [u8; 16];

/// What a machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Sorted.
    crates: Vec<Half>,
    /// By lower-case name.
    names: BTreeMap<String, Half>,
}

/// The half of a checksum that receipts tell.
pub(super) fn half(checksum: &Checksum) -> Half {
    let mut half = [0; 16];
    for (byte, of) in half.iter_mut().zip(checksum.as_bytes()) {
        *byte = *of;
    }
    half
}

impl Receipt {
    /// What a machine with these crate files and index entries has.
    pub(super) fn new(mut crates: Vec<Half>, names: BTreeMap<String, Half>) -> Receipt {
        crates.sort_unstable();
        crates.dedup();
        Receipt { crates, names }
    }

    pub(super) fn has_crate(&self, checksum: &Checksum) -> bool {
        self.crates.binary_search(&half(checksum)).is_ok()
    }

    /// Whether the file of a name is there with this digest.
    pub(super) fn has_name(&self, key: &str, digest: &Half) -> bool {
        self.names.get(key) == Some(digest)
    }

    /// Writes it. Returns its id.
    pub(super) fn write(&self, out: &mut impl Write) -> Result<Id, Error> {
        let mut packer = Encoder::new(Counted::new(Vec::new()), LEVEL).map_err(Error::writing)?;
        self.write_body(&mut packer).map_err(Error::writing)?;
        let body = packer.finish().map_err(Error::writing)?;
        let id = body.hasher.finish();
        out.write_all(first_line(WORDS).as_bytes())
            .and_then(|()| out.write_all(id.as_bytes()))
            .and_then(|()| out.write_all(&body.inner))
            .and_then(|()| out.flush())
            .map_err(Error::writing)?;
        Ok(id)
    }

    fn write_body(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&(self.crates.len() as u64).to_le_bytes())?;
        for half in &self.crates {
            out.write_all(half)?;
        }
        out.write_all(&(self.names.len() as u64).to_le_bytes())?;
        for (name, digest) in &self.names {
            out.write_all(&[u8::try_from(name.len()).unwrap_or(u8::MAX)])?;
            out.write_all(name.as_bytes())?;
            out.write_all(digest)?;
        }
        Ok(())
    }

    /// Reads one, whole.
    pub(super) fn read(mut input: impl Read) -> Result<(Receipt, Id), Error> {
        read_first_line(&mut input, WORDS, WHAT)?;
        let id = Checksum::from_bytes(read_array(&mut input, WHAT)?);
        let mut body = Vec::new();
        let limited = input.take(MAX_BYTES).read_to_end(&mut body);
        limited.map_err(Error::reading(WHAT))?;
        if Checksum::of(&body) != id {
            return Err(Error::altered("the receipt"));
        }
        let mut unpacker = Decoder::with_buffer(body.as_slice()).map_err(Error::reading(WHAT))?;
        unpacker
            .window_log_max(MAX_WINDOW_LOG)
            .map_err(Error::reading(WHAT))?;
        let receipt = Receipt::read_body(&mut BufReader::new(unpacker).take(MAX_BYTES))?;
        Ok((receipt, id))
    }

    fn read_body(input: &mut impl Read) -> Result<Receipt, Error> {
        let count = u64::from_le_bytes(read_array(input, WHAT)?);
        let mut receipt = Receipt::default();
        for _each in 0..count {
            receipt.crates.push(read_array(input, WHAT)?);
        }
        let count = u64::from_le_bytes(read_array(input, WHAT)?);
        for _each in 0..count {
            let [len] = read_array(input, WHAT)?;
            let mut name = vec![0; usize::from(len)];
            input.read_exact(&mut name).map_err(Error::reading(WHAT))?;
            let name = String::from_utf8(name).map_err(|error| Error::malformed(WHAT, error))?;
            receipt.names.insert(name, read_array(input, WHAT)?);
        }
        if !receipt.crates.is_sorted() {
            return Err(Error::malformed(WHAT, "it is out of order"));
        }
        Ok(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Receipt {
        let crates = (0..100u8)
            .rev()
            .map(|n| half(&Checksum::of(&[n])))
            .collect();
        let names = [("a".to_owned(), [1; 16]), ("b".to_owned(), [2; 16])];
        Receipt::new(crates, names.into())
    }

    #[test]
    fn a_receipt_reads_what_it_writes() {
        let receipt = some();
        let mut bytes = Vec::new();
        let id = receipt.write(&mut bytes).expect("memory takes it");
        let (read, read_id) = Receipt::read(bytes.as_slice()).expect("a good receipt");
        assert_eq!((&read, read_id), (&receipt, id));
        assert!(read.has_crate(&Checksum::of(&[7])));
        assert!(!read.has_crate(&Checksum::of(&[107])));
        assert!(read.has_name("a", &[1; 16]));
        assert!(!read.has_name("a", &[2; 16]) && !read.has_name("c", &[1; 16]));
    }

    #[test]
    fn a_receipt_that_was_changed_or_cut_is_refused() {
        let mut bytes = Vec::new();
        some().write(&mut bytes).expect("memory takes it");
        for at in 0..bytes.len() {
            assert!(Receipt::read(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(Receipt::read(flipped.as_slice()).is_err(), "byte {at}");
        }
        assert!(matches!(
            Receipt::read(&b"orlop receipt format 2\n"[..]),
            Err(Error::Newer { found: 2, .. })
        ));
        assert!(matches!(
            Receipt::read(&b"something else altogether"[..]),
            Err(Error::Foreign { .. })
        ));
    }
}
