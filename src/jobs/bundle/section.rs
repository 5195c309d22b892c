//! Sections: records that are packed into an unnamed file before they go into a bundle, and after
//! they come out of one.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek as _, SeekFrom, Write},
    marker::PhantomData,
};

use super::{
    error::Error,
    format::{MAX_SECTION_BYTES, Record, Section, expect_member},
};
use crate::{
    jobs::{
        JobContext,
        archive::{PUBLIC, Reader, Writer},
        lines::{LineReader, LineWriter},
    },
    registry::checksum::Hasher,
    store::Store,
};

/// How much is moved at a time.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// How much of a section is written between two looks at the room on the disk.
const ROOM_EVERY: u64 = 4 << 20;

/// A section in the making.
pub(super) struct SectionWriter<T> {
    store: Store,
    /// How many bytes there may be before there is another look at the room.
    roomy_until: u64,
    lines: LineWriter<Hashed>,
    kind: PhantomData<T>,
}

impl<T: Record> SectionWriter<T> {
    /// A section that grows on the store's disk, as long as there is room.
    pub(super) fn new(store: &Store) -> Result<SectionWriter<T>, Error> {
        let lines = LineWriter::new(Hashed {
            file: BufWriter::new(store.scratch()?),
            hasher: Hasher::default(),
            bytes: 0,
        });
        Ok(SectionWriter {
            store: store.clone(),
            roomy_until: ROOM_EVERY,
            lines: lines.map_err(Error::writing)?,
            kind: PhantomData,
        })
    }

    pub(super) fn put(&mut self, record: &T) -> Result<(), Error> {
        self.lines.put(record).map_err(Error::writing)?;
        let bytes = self.lines.get_ref().bytes;
        if bytes >= self.roomy_until {
            self.store.check_room()?;
            self.roomy_until = bytes.saturating_add(ROOM_EVERY);
        }
        Ok(())
    }

    /// Ends the section.
    pub(super) fn finish(self) -> Result<Spooled<T>, Error> {
        let records = self.lines.count;
        let hashed = self.lines.finish().map_err(Error::writing)?;
        let file = hashed.file.into_inner();
        Ok(Spooled {
            file: file.map_err(|error| Error::writing(error.into_error()))?,
            section: Section {
                sha256: hashed.hasher.finish(),
                bytes: hashed.bytes,
                records,
            },
            kind: PhantomData,
        })
    }
}

/// Hashes and counts what goes into a file.
struct Hashed {
    file: BufWriter<File>,
    hasher: Hasher,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A section in a file, as it stands in a bundle.
#[derive(Debug)]
pub(super) struct Spooled<T> {
    file: File,
    pub(super) section: Section,
    kind: PhantomData<T>,
}

impl<T: Record> Spooled<T> {
    /// Takes a section, which must be next, out of a bundle into `file`, which is empty. Its checksum
    /// is verified on return.
    pub(super) fn take(
        input: &mut Reader<impl Read>,
        section: Section,
        mut file: File,
        cx: &JobContext,
    ) -> Result<Spooled<T>, Error> {
        expect_member(input, T::FILE, section.bytes)?;
        let mut hasher = Hasher::default();
        let mut put = |piece: &[u8]| {
            hasher.update(piece);
            file.write_all(piece).map_err(Error::writing)
        };
        pieces(input, section.bytes, T::FILE, cx, &mut put)?;
        if hasher.finish() != section.sha256 {
            return Err(Error::altered(T::FILE));
        }
        Ok(Spooled {
            file,
            section,
            kind: PhantomData,
        })
    }

    /// Puts the section into a bundle.
    pub(super) fn copy_to(
        &mut self,
        out: &mut Writer<impl Write>,
        cx: &JobContext,
    ) -> Result<(), Error> {
        let bytes = self.section.bytes;
        out.begin(T::FILE, PUBLIC, bytes).map_err(Error::writing)?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::writing)?;
        let mut put = |piece: &[u8]| out.write_all(piece).map_err(Error::writing);
        pieces(&mut self.file, bytes, T::FILE, cx, &mut put)
    }

    /// The records, from the first on. Only one at a time can be read.
    pub(super) fn records(&mut self) -> Result<Records<'_, T>, Error> {
        let start = self.file.seek(SeekFrom::Start(0));
        let lines = start.and_then(|_start| LineReader::new(&self.file));
        let lines = lines.map_err(Error::reading(T::FILE))?;
        Ok(Records {
            lines: lines.limit(MAX_SECTION_BYTES),
            count: self.section.records,
            kind: PhantomData,
        })
    }
}

/// The records of a section, one in memory at a time.
pub(super) struct Records<'a, T> {
    lines: LineReader<&'a File>,
    count: u64,
    kind: PhantomData<T>,
}

impl<T: Record> Records<'_, T> {
    /// The next record; `None`: that was all of them.
    pub(super) fn next(&mut self) -> Result<Option<T>, Error> {
        let record: Option<T> = self.lines.next().map_err(Error::reading(T::FILE))?;
        let read = self.lines.count;
        if read > self.count || (record.is_none() && read < self.count) {
            let why = "it has another number of records than the manifest says";
            return Err(Error::malformed(T::FILE, why));
        }
        if let Some(Err(why)) = record.as_ref().map(Record::check) {
            return Err(Error::malformed(T::FILE, why));
        }
        Ok(record)
    }
}

/// Hands `len` bytes to `take`, a piece at a time.
pub(super) fn pieces(
    input: &mut impl Read,
    len: u64,
    what: &str,
    cx: &JobContext,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = len;
    while left > 0 {
        if cx.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let most = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let room = piece.get_mut(..most).unwrap_or_default();
        let read = match input.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(Error::reading(what))?,
        };
        if read == 0 {
            return Err(Error::truncated(what));
        }
        take(room.get(..read).unwrap_or_default())?;
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}
