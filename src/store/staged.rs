//! What the files of names were at the last generation: kept from their first change after it.
//!
//! Time is cut into epochs, which are numbers: a new one begins with every cut. The first change of
//! a name's file in an epoch keeps the file as it was before, in the same batch, under the name and
//! the epoch. So of a name, the entry of the oldest epoch since the last generation is its file at
//! that generation, and while a cut is under way, the entry of the newest epoch, or else the record,
//! is its file at the cut. Entries of epochs before the last generation's are of no use and go.
//!
//! A store without a generation keeps nothing: its first generation takes all names.
//!
//! All numbers are little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 1 | 1: there was a file, 0: there was none |
//! | 2 | 1 | dictionary of the frame ([`codec`](super::codec)) |
//! | 3 | 16 | digest of the file |
//! | 19 | 4 | length of the file |
//! | 23 | 4 | crc32 of the bytes before |
//! | 27 | | the frame |
#![warn(clippy::arithmetic_side_effects)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use bytes::Bytes;

use super::{
    catalogue::{Catalogue, NewPairs, Tree},
    codec::{Damaged, Frame, Reader, View, compress, decompress_frame, digest_of},
    edits::Encoded,
    error::Error,
    keys::{read_staged_key, staged_key},
};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 23;

/// How many keys are looked at together.
const PAGE: usize = 512;

/// The epochs, and how much is staged.
#[derive(Debug, Default)]
pub(super) struct Staging {
    /// The epoch of the next change. 0: nothing is staged.
    pub(super) epoch: AtomicU64,
    /// Entries of earlier epochs are of no use.
    pub(super) floor: AtomicU64,
    /// Entries of epochs that a cut looked at already.
    pub(super) before: AtomicU64,
    /// Entries of the present epoch.
    pub(super) now: AtomicU64,
    /// Changes of files since the start, staged or not.
    pub(super) changes: AtomicU64,
}

impl Staging {
    /// Finds out where an earlier run ended.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn recover(&self, catalogue: &Catalogue, floor: u64) -> Result<(), Error> {
        let mut epoch = floor;
        let mut count: u64 = 0;
        let mut useless = Vec::new();
        for_each_key(catalogue, &mut |key| {
            match read_staged_key(key) {
                Some((_name, of)) if floor > 0 && of >= floor => {
                    epoch = epoch.max(of);
                    count = count.saturating_add(1);
                }
                _ => useless.push((key.to_vec(), None)),
            }
            if useless.len() >= PAGE {
                catalogue.put(Tree::Staged, std::mem::take(&mut useless))?;
            }
            Ok(())
        })?;
        catalogue.put(Tree::Staged, useless)?;
        self.floor.store(floor, SeqCst);
        self.epoch.store(epoch, SeqCst);
        self.before.store(0, SeqCst);
        self.now.store(count, SeqCst);
        Ok(())
    }

    /// How many names are staged; one that changed before and during a cut counts twice.
    pub(super) fn count(&self) -> u64 {
        self.before
            .load(SeqCst)
            .saturating_add(self.now.load(SeqCst))
    }

    /// What a batch has to stage: its names whose files change for the first time in this epoch.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub(super) fn of_batch(
        &self,
        catalogue: &Catalogue,
        encoded: &Encoded,
    ) -> Result<NewPairs, Error> {
        let epoch = self.epoch.load(SeqCst);
        let mut staged = Vec::new();
        for (name, record) in &encoded.records {
            let before = encoded.before.get(name).and_then(Option::as_deref);
            if !is_other_file(before, record) {
                continue;
            }
            self.changes.fetch_add(1, SeqCst);
            let key = staged_key(name, epoch);
            if epoch > 0 && catalogue.read(Tree::Staged, &key)?.is_none() {
                let older = before.and_then(|bytes| View::read(bytes).ok());
                staged.push((key, Older::of_record(older.as_ref()).encode()));
            }
        }
        Ok(staged)
    }
}

fn for_each_key(
    catalogue: &Catalogue,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut from = std::ops::Bound::Unbounded;
    loop {
        let page = catalogue.page(Tree::Staged, bound(&from), PAGE)?;
        let Some((last, _value)) = page.last() else {
            return Ok(());
        };
        from = std::ops::Bound::Excluded(last.to_vec());
        for (key, _value) in &page {
            take(key)?;
        }
    }
}

/// The same bound by reference.
pub(super) fn bound(bound: &std::ops::Bound<Vec<u8>>) -> std::ops::Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn is_other_file(before: Option<&[u8]>, record: &[u8]) -> bool {
    let before = before.and_then(|bytes| View::read(bytes).ok());
    let Ok(now) = View::read(record) else {
        return false;
    };
    match before.filter(View::has_snapshot) {
        None => now.has_snapshot(),
        // A frame that was made anew replaces a damaged one, which no generation could read.
        Some(before) => before.digest != now.digest || before.frame() != now.frame(),
    }
}

/// A name's file as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Older {
    /// `None`: there was none.
    file: Option<OlderFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OlderFile {
    digest: [u8; 16],
    raw_len: u32,
    frame: Frame,
}

impl Older {
    fn of_record(view: Option<&View<'_>>) -> Older {
        Older {
            file: view
                .filter(|view| view.has_snapshot())
                .map(|view| OlderFile {
                    digest: view.digest,
                    raw_len: view.raw_len,
                    frame: view.frame(),
                }),
        }
    }

    /// A file as it was, by its bytes.
    ///
    /// # Errors
    /// Only for want of memory.
    pub(super) fn of_bytes(bytes: Option<&[u8]>) -> std::io::Result<Older> {
        let file = |bytes: &[u8]| {
            Ok::<_, std::io::Error>(OlderFile {
                digest: digest_of(bytes),
                raw_len: u32::try_from(bytes.len()).map_err(std::io::Error::other)?,
                frame: compress(bytes)?,
            })
        };
        Ok(Older {
            file: bytes.map(file).transpose()?,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.file.is_some())];
        let dictionary = self.file.as_ref().map_or(0, |file| file.frame.dictionary);
        out.push(dictionary);
        out.extend_from_slice(&self.digest().unwrap_or([0; 16]));
        let raw_len = self.file.as_ref().map_or(0, |file| file.raw_len);
        out.extend_from_slice(&raw_len.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        if let Some(file) = &self.file {
            out.extend_from_slice(&file.frame.bytes);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Older, Damaged> {
        let head = bytes.get(..HEAD_BYTES).ok_or(Damaged)?;
        let mut reader = Reader(bytes);
        let [format, has, dictionary] = reader.array()?;
        let digest = reader.array()?;
        let raw_len = u32::from_le_bytes(reader.array()?);
        let crc = u32::from_le_bytes(reader.array()?);
        if format != FORMAT || crc32fast::hash(head) != crc {
            return Err(Damaged);
        }
        let file = OlderFile {
            digest,
            raw_len,
            frame: Frame {
                dictionary,
                bytes: reader.0.to_vec(),
            },
        };
        Ok(Older {
            file: (has != 0).then_some(file),
        })
    }

    /// The digest of the file; `None`: there was none.
    pub(super) fn digest(&self) -> Option<[u8; 16]> {
        self.file.as_ref().map(|file| file.digest)
    }

    /// The file; `Ok(None)`: there was none.
    pub(super) fn bytes(&self) -> Result<Option<Bytes>, Damaged> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let bytes = decompress_frame(&file.frame, file.raw_len)?;
        Ok(Some(Bytes::from(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_staged_comes_back_and_damage_is_found() {
        for bytes in [None, Some(&b"a line\n"[..]), Some(&b""[..])] {
            let older = Older::of_bytes(bytes).expect("compressed");
            let encoded = older.encode();
            assert_eq!(Older::decode(&encoded), Ok(older.clone()));
            assert_eq!(older.bytes().expect("good").as_deref(), bytes);
            for at in 0..HEAD_BYTES {
                let mut flipped = encoded.clone();
                flipped[at] ^= 1;
                assert_eq!(Older::decode(&flipped), Err(Damaged), "byte {at}");
            }
        }
        assert_eq!(Older::decode(b""), Err(Damaged));
    }
}
