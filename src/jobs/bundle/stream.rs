//! The stream of a bundle, written and read from its first byte to its last: manifest, signature,
//! sections, crate files.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fs::File,
    io::{self, Read, Write},
    ops::Range,
};

use super::{
    ExportReport, ImportPart,
    error::Error,
    format::{
        CrateRecord, FORMAT, Id, IndexRecord, MANIFEST, Manifest, ManifestSections, Record,
        Section, Signed, expect_member, spec,
    },
    key::PublicKey,
    section::{Spooled, pieces},
};
use crate::{
    jobs::{
        JobContext,
        archive::{Reader, Writer},
    },
    registry::checksum::Hasher,
    store::Event,
};

/// What precedes the crate files.
pub(super) struct Sections {
    pub(super) crates: Spooled<CrateRecord>,
    pub(super) index: Spooled<IndexRecord>,
    pub(super) journal: Spooled<Event>,
}

impl Sections {
    /// The manifest over these sections, of a bundle with these counts.
    pub(super) fn manifest(
        &self,
        counts: &ExportReport,
        base: Option<Id>,
        public_key: Option<PublicKey>,
    ) -> Manifest {
        Manifest {
            orlop_bundle: FORMAT,
            public_key,
            base,
            crates: counts.crates,
            crate_bytes: counts.crate_bytes,
            crates_left_out: counts.crates_left_out,
            names_left_out: counts.names_left_out,
            sections: ManifestSections {
                crates: self.crates.section,
                index: self.index.section,
                journal: self.journal.section,
            },
        }
    }

    /// Writes all sections.
    pub(super) fn write(
        &mut self,
        out: &mut Writer<impl Write>,
        cx: &JobContext,
    ) -> Result<(), Error> {
        self.crates.copy_to(out, cx)?;
        self.index.copy_to(out, cx)?;
        self.journal.copy_to(out, cx)
    }
}

/// Whose bundles are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    pub(super) keys: Vec<PublicKey>,
    /// Whether unsigned ones are.
    pub(super) unsigned: bool,
}

impl Trust {
    fn check(&self, signed: &Signed<Manifest>) -> Result<(), Error> {
        let Some(key) = signed.manifest.public_key else {
            return if self.unsigned {
                Ok(())
            } else {
                Err(Error::Unsigned)
            };
        };
        let told = || key.to_string();
        if !self.keys.contains(&key) {
            return Err(Error::Untrusted { key: told() });
        }
        if !signed.is_signed_by(&key) {
            return Err(Error::Signature { key: told() });
        }
        Ok(())
    }
}

/// An archive whose first bytes were looked at.
pub(super) type Peeked<R> = Reader<io::Chain<io::Cursor<Vec<u8>>, R>>;

/// The archive of a bundle or a receipt, at its start.
///
/// # Errors
/// Where it is something else.
pub(super) fn begin<R: Read>(mut input: R, what: &'static str) -> Result<Peeked<R>, Error> {
    let mut start = Vec::new();
    let mut limited = input.by_ref().take(MANIFEST.len() as u64);
    let read = limited.read_to_end(&mut start);
    read.map_err(Error::reading(what))?;
    // What is shorter than a header is something else, or a bundle that was cut short.
    if !MANIFEST.as_bytes().starts_with(&start) {
        return Err(Error::Foreign { what });
    }
    Ok(Reader::new(io::Cursor::new(start).chain(input)))
}

/// A bundle that is being read. Nothing is handed out that was not verified, but the pieces of a
/// crate file: those count when the whole file does.
pub(super) struct BundleReader<'a, R: Read> {
    input: Peeked<R>,
    pub(super) manifest: Manifest,
    pub(super) id: Id,
    /// The files that the bundle is cut into; none: it is in one piece.
    parts: &'a [ImportPart],
}

impl<'a, R: Read> BundleReader<'a, R> {
    /// Reads the manifest and checks its signature.
    pub(super) fn open(
        input: R,
        parts: &'a [ImportPart],
        trust: &Trust,
    ) -> Result<BundleReader<'a, R>, Error> {
        let mut input = begin(input, "a bundle").map_err(|error| match (error, parts) {
            (Error::Foreign { .. }, [first, ..]) => Error::Parts(format!(
                "`{}` is not the first part of a bundle: name all its parts",
                first.name
            )),
            (error, _) => error,
        })?;
        let signed = Signed::<Manifest>::read(&mut input)?;
        trust.check(&signed)?;
        Ok(BundleReader {
            input,
            manifest: signed.manifest,
            id: signed.id,
            parts,
        })
    }

    /// Takes the sections into unnamed files, which `scratch` makes.
    pub(super) fn sections(
        &mut self,
        scratch: &mut dyn FnMut() -> Result<File, Error>,
        cx: &JobContext,
    ) -> Result<Sections, Error> {
        let sections = self.manifest.sections.clone();
        Ok(Sections {
            crates: self.section(sections.crates, scratch()?, cx)?,
            index: self.section(sections.index, scratch()?, cx)?,
            journal: self.section(sections.journal, scratch()?, cx)?,
        })
    }

    fn section<T: Record>(
        &mut self,
        section: Section,
        file: File,
        cx: &JobContext,
    ) -> Result<Spooled<T>, Error> {
        self.located(|input| Spooled::take(input, section, file, cx))
    }

    /// Reads the crate file of a record, which must be next, and hands its pieces to `take`. It has
    /// the checksum of the record if this returns well.
    pub(super) fn crate_file(
        &mut self,
        record: &CrateRecord,
        cx: &JobContext,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.located(|input| {
            let what = format!("the crate file of {}", spec(&record.name, &record.version));
            let path = record.path();
            expect_member(input, &path, record.size).map_err(|error| error.within(&what))?;
            let mut hasher = Hasher::default();
            let mut both = |piece: &[u8]| {
                hasher.update(piece);
                take(piece)
            };
            pieces(input, record.size, &what, cx, &mut both)?;
            if hasher.finish() == record.sha256 {
                return Ok(());
            }
            Err(Error::altered(what))
        })
    }

    /// Reads the end, behind which there must be nothing.
    pub(super) fn end(mut self) -> Result<(), Error> {
        self.located(|input| {
            let next = input.next_member().map_err(Error::reading("its end"))?;
            if let Some(member) = next {
                let why = format!("it has `{}`, which is not listed", member.path);
                return Err(Error::malformed("the tar", why));
            }
            input.expect_eof().map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => Error::Trailing,
                _ => Error::reading("its end")(error),
            })
        })
    }

    /// Adds to a failure in which parts its bytes are.
    fn located<T>(
        &mut self,
        read: impl FnOnce(&mut Peeked<R>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let start = self.input.position();
        let outcome = read(&mut self.input);
        let end = self.input.position();
        outcome.map_err(|error| locate(error, start..end.max(start.saturating_add(1)), self.parts))
    }
}

fn locate(error: Error, bytes: Range<u64>, parts: &[ImportPart]) -> Error {
    if parts.is_empty() || !error.is_damage() {
        return error;
    }
    if let Error::Truncated { .. } = error
        && let ([.., last], Some(first)) = (parts, parts.first())
        && last.bytes == first.bytes
    {
        let next = parts.len().saturating_add(1);
        return Error::Parts(format!(
            "part {next} of the bundle is missing: name all its parts"
        ));
    }
    let mut at: u64 = 0;
    let mut files = Vec::new();
    for part in parts {
        let end = at.saturating_add(part.bytes);
        if at < bytes.end && bytes.start < end {
            files.push(format!("`{}`", part.name));
        }
        at = end;
    }
    if bytes.start >= at {
        files.extend(parts.last().map(|last| format!("`{}`", last.name)));
    }
    Error::InParts {
        files: files.join(" or "),
        source: Box::new(error),
    }
}
