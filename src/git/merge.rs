//! Which packs are put together, and a pack with its index written to the disk.
//!
//! Packs are counted by their generations like digits to the base eight: when eight neighbours have
//! the same number of digits, they become one. So there are at most seven of each length, 35 for
//! 20,000 generations, and a byte is written again at most once a digit. A pack that has grown
//! large stays as it is from then on and so does the first one; what lies between two such packs
//! becomes one.

use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    Error, ObjectId,
    pack::{self, IndexEntry},
    serve::PackStream,
};

/// What a merged pack is called while it is written; swept when the repository is opened.
pub(super) const TEMPORARY_PACK: &str = "tmp_orlop_merge.pack";
/// So many packs of one size become one.
const FAN: usize = 8;
/// A pack of this size is not written again: the disk is read and written for at most this long
/// in one go, and the tables of what is merged stay small.
const SEALED_BYTES: u64 = 128 << 20;
/// The same in objects.
const SEALED_OBJECTS: u32 = 500_000;
/// Bytes copied at once.
const BUFFER: usize = 1 << 18;

/// What counts about a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// Its generations.
    pub(super) generations: u64,
    /// Its length.
    pub(super) bytes: u64,
    /// How many objects it has.
    pub(super) objects: u32,
    /// Whether it must stay as it is.
    pub(super) fixed: bool,
}

impl Weight {
    fn sealed(&self) -> bool {
        self.fixed || self.bytes >= SEALED_BYTES || self.objects >= SEALED_OBJECTS
    }
}

/// The neighbours to merge next; `None`: there are few enough.
pub(super) fn next(packs: &[Weight]) -> Option<Range<usize>> {
    let mut start = 0;
    for run in packs.split_inclusive(Weight::sealed) {
        let ended = run.last().is_some_and(Weight::sealed);
        let free = run.len() - usize::from(ended);
        if ended && free > 1 && small_enough(run.get(..free)?) {
            return Some(start..start + free);
        }
        if !ended && let Some(range) = equals(run) {
            return Some(start + range.start..start + range.end);
        }
        start += run.len();
    }
    None
}

/// What is put together between two large packs must not become much larger than they are.
fn small_enough(run: &[Weight]) -> bool {
    run.iter().map(|pack| pack.bytes).sum::<u64>() < 4 * SEALED_BYTES
        && run.iter().map(|pack| u64::from(pack.objects)).sum::<u64>()
            < 4 * u64::from(SEALED_OBJECTS)
}

/// The last packs of one number of digits, if they are enough.
fn equals(run: &[Weight]) -> Option<Range<usize>> {
    let digits = |pack: &Weight| pack.generations.max(1).ilog2() / FAN.ilog2();
    let last = digits(run.last()?);
    let count = run
        .iter()
        .rev()
        .take_while(|pack| digits(pack) <= last)
        .count();
    (count >= FAN).then(|| run.len() - count..run.len())
}

/// Writes a pack that needs no other and its index into `folder`, synced, under the names that git
/// gives; gives its path and size.
pub(super) fn write(folder: &Path, stream: PackStream) -> Result<(PathBuf, u64), Error> {
    let temporary = folder.join(TEMPORARY_PACK);
    let written = write_as(folder, &temporary, stream);
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}

fn write_as(
    folder: &Path,
    temporary: &Path,
    mut stream: PackStream,
) -> Result<(PathBuf, u64), Error> {
    let bytes = copy_pack(&mut stream, temporary)?;
    let (mut entries, trailer) = read_back(temporary, &stream.into_ids())?;
    let path = folder.join(format!("pack-{trailer}.pack"));
    // The index first: git does not look at one whose pack is missing.
    pack::replace_index(&path, &mut entries, &trailer)?;
    fs::rename(temporary, &path).map_err(Error::io("rename", temporary))?;
    pack::sync_folder(folder)?;
    Ok((path, bytes))
}

/// What the index of a pack that was just written must say, and its trailer. Every object is made
/// of the bytes and hashed: the packs that it takes the place of are the only other copy.
fn read_back(path: &Path, ids: &[ObjectId]) -> Result<(Vec<IndexEntry>, ObjectId), Error> {
    let (entries, trailer) = pack::scan(path)?;
    if entries.iter().map(|entry| &entry.id).eq(ids) {
        return Ok((entries, trailer));
    }
    Err(Error::damaged(path, "its objects are not those merged"))
}

/// Copies the pack; gives its length.
fn copy_pack(stream: &mut PackStream, path: &Path) -> Result<u64, Error> {
    let mut file = File::create(path).map_err(Error::io("make", path))?;
    let mut buffer = vec![0; BUFFER];
    let mut written = 0;
    loop {
        // The stream's own errors say what is wrong with which file.
        let read = stream.read(&mut buffer).map_err(|error| {
            error
                .downcast()
                .unwrap_or_else(Error::io("read what becomes", path))
        })?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        file.write_all(bytes).map_err(Error::io("write", path))?;
        written += bytes.len() as u64;
    }
    file.sync_all().map_err(Error::io("sync", path))?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(generations: u64, bytes: u64) -> Weight {
        Weight {
            generations,
            bytes,
            objects: 1,
            fixed: false,
        }
    }

    #[test]
    fn twenty_thousand_packs_become_few_and_each_byte_is_written_a_few_times() {
        let mut packs = vec![Weight {
            fixed: true,
            ..weight(1, 1 << 30)
        }];
        let (mut most, mut written) = (0, 0);
        for number in 0..20_000_u64 {
            let large = if number % 4999 == 0 {
                SEALED_BYTES
            } else {
                20_000
            };
            packs.push(weight(1, large));
            while let Some(range) = next(&packs) {
                let merged: Vec<_> = packs.drain(range.clone()).collect();
                assert!(merged.iter().all(|pack| !pack.sealed()) && merged.len() > 1);
                let bytes = merged.iter().map(|pack| pack.bytes).sum();
                written += bytes;
                packs.insert(
                    range.start,
                    weight(merged.iter().map(|pack| pack.generations).sum(), bytes),
                );
            }
            most = most.max(packs.len());
        }
        assert!(most <= 50, "{most}");
        assert!(written <= 5 * 20_000 * 20_000, "{written}");
    }
}
