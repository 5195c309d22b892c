//! Sections: records, packed by zstd into an unnamed file before they go into a bundle, and after
//! they come out of one. Hides zstd.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write},
    marker::PhantomData,
};

use zstd::stream::{read::Decoder, write::Encoder};

use super::{
    error::Error,
    format::{Counted, IndexRecord, Last, Section, TableRow, put_last, read_event},
    words::EventWords,
};
use crate::{mirror::jobs::Teller, registry::checksum::Hasher, store::Store};

/// On index files level 3 is five times as fast as level 9 and packs a twelfth worse.
const LEVEL: i32 = 3;

/// Level 3 looks back 2 MiB. What looks back further than 8 MiB is not ours, and would decide how
/// much memory is taken.
const MAX_WINDOW_LOG: u32 = 23;

/// How much is moved at a time.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// How much of a section is written between two looks at the room on the disk.
const ROOM_EVERY: u64 = 4 << 20;

/// A kind of record, which is a kind of section.
pub(super) trait Record: Sized {
    /// What the section is called.
    const WHAT: &'static str;
    /// How it ends.
    const LAST: Last;

    /// Reads the next; `None`: the section ends here.
    fn read(input: &mut impl Read) -> Result<Option<Self>, Error>;
}

impl Record for TableRow {
    const WHAT: &'static str = "the table of crate files";
    const LAST: Last = Last::Row;

    fn read(input: &mut impl Read) -> Result<Option<Self>, Error> {
        TableRow::read(input)
    }
}

impl Record for IndexRecord {
    const WHAT: &'static str = "the index";
    const LAST: Last = Last::Json;

    fn read(input: &mut impl Read) -> Result<Option<Self>, Error> {
        IndexRecord::read(input)
    }
}

impl Record for EventWords {
    const WHAT: &'static str = "the journal";
    const LAST: Last = Last::Json;

    fn read(input: &mut impl Read) -> Result<Option<Self>, Error> {
        read_event(input)
    }
}

/// A section in the making.
pub(super) struct SectionWriter<T> {
    store: Store,
    /// How many bytes there may be before there is another look at the room.
    roomy_until: u64,
    packer: Encoder<'static, Counted<BufWriter<File>>>,
    unpacked_bytes: u64,
    records: u64,
    kind: PhantomData<T>,
}

impl<T: Record> SectionWriter<T> {
    /// A section that grows on the store's disk, as long as there is room.
    pub(super) fn new(store: &Store) -> Result<SectionWriter<T>, Error> {
        let file = store.scratch()?;
        let packer = Encoder::new(Counted::new(BufWriter::new(file)), LEVEL);
        Ok(SectionWriter {
            store: store.clone(),
            roomy_until: ROOM_EVERY,
            packer: packer.map_err(Error::writing)?,
            unpacked_bytes: 0,
            records: 0,
            kind: PhantomData,
        })
    }

    /// Takes a record, which `put` writes.
    pub(super) fn put(
        &mut self,
        put: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.records = self.records.saturating_add(1);
        put(self)?;
        let bytes = self.packer.get_ref().bytes;
        if bytes >= self.roomy_until {
            self.store.check_room()?;
            self.roomy_until = bytes.saturating_add(ROOM_EVERY);
        }
        Ok(())
    }

    /// Ends the section.
    pub(super) fn finish(mut self) -> Result<Spooled<T>, Error> {
        put_last(&mut self, T::LAST)?;
        let counted = self.packer.finish().map_err(Error::writing)?;
        let file = counted.inner.into_inner();
        Ok(Spooled {
            file: file.map_err(|error| Error::writing(error.into_error()))?,
            section: Section {
                sha256: counted.hasher.finish(),
                bytes: counted.bytes,
                unpacked_bytes: self.unpacked_bytes,
                records: self.records,
            },
            kind: PhantomData,
        })
    }
}

impl<T> Write for SectionWriter<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.packer.write(bytes)?;
        self.unpacked_bytes = self.unpacked_bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packer.flush()
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
    /// Takes a section out of a bundle into `file`, which is empty. It is what it should be on
    /// return.
    pub(super) fn take(
        input: &mut impl Read,
        section: Section,
        mut file: File,
        teller: &Teller,
    ) -> Result<Spooled<T>, Error> {
        let mut hasher = Hasher::default();
        let mut put = |piece: &[u8]| {
            hasher.update(piece);
            file.write_all(piece).map_err(Error::writing)
        };
        pieces(input, section.bytes, T::WHAT, teller, &mut put)?;
        if hasher.finish() != section.sha256 {
            return Err(Error::altered(T::WHAT));
        }
        Ok(Spooled {
            file,
            section,
            kind: PhantomData,
        })
    }

    /// Puts the section into a bundle.
    pub(super) fn copy_to(&mut self, out: &mut impl Write, teller: &Teller) -> Result<(), Error> {
        self.file.seek(SeekFrom::Start(0)).map_err(Error::writing)?;
        let mut put = |piece: &[u8]| out.write_all(piece).map_err(Error::writing);
        pieces(
            &mut self.file,
            self.section.bytes,
            T::WHAT,
            teller,
            &mut put,
        )
    }

    /// The records, from the first on. Only one at a time can be read.
    pub(super) fn records(&mut self) -> Result<Records<'_, T>, Error> {
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(Error::reading(T::WHAT))?;
        let packed = BufReader::new((&self.file).take(self.section.bytes));
        let mut unpacker = Decoder::with_buffer(packed).map_err(Error::reading(T::WHAT))?;
        unpacker
            .window_log_max(MAX_WINDOW_LOG)
            .map_err(Error::reading(T::WHAT))?;
        Ok(Records {
            input: BufReader::new(unpacker.single_frame()).take(self.section.unpacked_bytes),
            left: self.section.records,
            kind: PhantomData,
        })
    }
}

type Unpacker<'a> = Decoder<'static, BufReader<io::Take<&'a File>>>;

/// The records of a section, one held at a time.
pub(super) struct Records<'a, T> {
    input: io::Take<BufReader<Unpacker<'a>>>,
    left: u64,
    kind: PhantomData<T>,
}

impl<T: Record> Records<'_, T> {
    /// The next record; `None`: that was all of them, and nothing else was there.
    pub(super) fn next(&mut self) -> Result<Option<T>, Error> {
        let wrong = || Error::malformed(T::WHAT, "it has another length than the manifest says");
        if let Some(record) = T::read(&mut self.input)? {
            self.left = self.left.checked_sub(1).ok_or_else(wrong)?;
            return Ok(Some(record));
        }
        let mut more = [0; 1];
        let rest = self.input.get_mut().read(&mut more);
        let is_whole = self.left == 0 && self.input.limit() == 0;
        match rest.map_err(Error::reading(T::WHAT))? {
            0 if is_whole => Ok(None),
            _ => Err(wrong()),
        }
    }
}

/// Hands `len` bytes to `take`, a piece at a time.
pub(super) fn pieces(
    input: &mut impl Read,
    len: u64,
    what: &str,
    teller: &Teller,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = len;
    while left > 0 {
        if teller.is_cancelled() {
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
