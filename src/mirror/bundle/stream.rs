//! The stream of a bundle, written and read from its first byte to its last: manifest, signature,
//! sections, crate files, end.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fs::File,
    io::{Read, Write},
};

use super::{
    error::Error,
    format::{
        END, END_BYTES, Id, IndexRecord, Manifest, SIGNATURE_BYTES, TableRow, id_of, read_array,
        spec,
    },
    key::{PublicKey, SigningKey},
    section::{Record, Spooled, pieces},
    words::EventWords,
};
use crate::{mirror::jobs::Teller, registry::checksum::Hasher};

/// What precedes the crate files.
pub(super) struct Sections {
    pub(super) table: Spooled<TableRow>,
    pub(super) index: Spooled<IndexRecord>,
    pub(super) journal: Spooled<EventWords>,
}

/// What the manifest says that does not follow from the sections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) base: Option<Id>,
    pub(super) crates: u64,
    pub(super) crate_bytes: u64,
    pub(super) crates_left_out: u64,
    pub(super) names_left_out: u64,
}

impl Sections {
    /// The manifest over these sections.
    pub(super) fn manifest(&self, counts: Counts, key: Option<&SigningKey>) -> Manifest {
        Manifest {
            public_key: key.map(SigningKey::public),
            base: counts.base,
            crates: counts.crates,
            crate_bytes: counts.crate_bytes,
            crates_left_out: counts.crates_left_out,
            names_left_out: counts.names_left_out,
            table: self.table.section,
            index: self.index.section,
            journal: self.journal.section,
        }
    }

    /// Writes all that precedes the crate files. Returns the bundle's id.
    pub(super) fn write(
        &mut self,
        out: &mut impl Write,
        manifest: &Manifest,
        key: Option<&SigningKey>,
        teller: &Teller,
    ) -> Result<Id, Error> {
        let signed = manifest.encode()?;
        let signature = key.map_or_else(|| seal(&signed), |key| key.sign(&signed));
        out.write_all(&signed).map_err(Error::writing)?;
        out.write_all(&signature).map_err(Error::writing)?;
        self.table.copy_to(out, teller)?;
        self.index.copy_to(out, teller)?;
        self.journal.copy_to(out, teller)?;
        Ok(id_of(&signed))
    }
}

/// What stands for the signature where nobody signs: it finds accidents, not lies.
fn seal(signed: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut seal = [0; SIGNATURE_BYTES];
    for (byte, of) in seal.iter_mut().zip(id_of(signed).as_bytes()) {
        *byte = *of;
    }
    seal
}

/// Writes what ends a bundle.
pub(super) fn write_end(out: &mut impl Write, manifest: &Manifest) -> Result<(), Error> {
    let mut end = Vec::with_capacity(END_BYTES);
    end.extend_from_slice(END);
    end.extend_from_slice(&manifest.crates.to_le_bytes());
    end.extend_from_slice(&manifest.crate_bytes.to_le_bytes());
    out.write_all(&end).map_err(Error::writing)?;
    out.flush().map_err(Error::writing)
}

/// Whose bundles are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    pub(super) keys: Vec<PublicKey>,
    /// Whether those of nobody are.
    pub(super) unsigned: bool,
}

impl Trust {
    fn check(
        &self,
        manifest: &Manifest,
        signed: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), Error> {
        let Some(key) = manifest.public_key else {
            if !self.unsigned {
                return Err(Error::Unsigned);
            }
            if *signature != seal(signed) {
                return Err(Error::altered("the manifest"));
            }
            return Ok(());
        };
        if !self.keys.contains(&key) {
            return Err(Error::Untrusted { key });
        }
        if !key.has_signed(signed, signature) {
            return Err(Error::Signature { key });
        }
        Ok(())
    }
}

/// A bundle that is being read. Nothing is handed out that was not verified, but the pieces of a
/// crate file: those count when the whole file does.
pub(super) struct BundleReader<R> {
    input: R,
    pub(super) manifest: Manifest,
    pub(super) id: Id,
}

impl<R: Read> BundleReader<R> {
    /// Reads the manifest and checks who signed it.
    pub(super) fn open(mut input: R, trust: &Trust) -> Result<BundleReader<R>, Error> {
        let (manifest, signed) = Manifest::read(&mut input)?;
        let signature = read_array(&mut input, "the signature")?;
        trust.check(&manifest, &signed, &signature)?;
        Ok(BundleReader {
            id: id_of(&signed),
            input,
            manifest,
        })
    }

    /// Takes the sections into unnamed files, which `scratch` makes.
    pub(super) fn sections(
        &mut self,
        scratch: &mut dyn FnMut() -> Result<File, Error>,
        teller: &Teller,
    ) -> Result<Sections, Error> {
        let manifest = self.manifest.clone();
        Ok(Sections {
            table: self.section(manifest.table, scratch()?, teller)?,
            index: self.section(manifest.index, scratch()?, teller)?,
            journal: self.section(manifest.journal, scratch()?, teller)?,
        })
    }

    fn section<T: Record>(
        &mut self,
        section: super::format::Section,
        file: File,
        teller: &Teller,
    ) -> Result<Spooled<T>, Error> {
        Spooled::take(&mut self.input, section, file, teller)
    }

    /// Reads the crate file of a row, which must be the next, handing its pieces to `take`. They
    /// were what the table says if it returns well.
    pub(super) fn crate_file(
        &mut self,
        row: &TableRow,
        teller: &Teller,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let what = format!(
            "the crate file of {}",
            spec(&row.release.name, &row.release.version)
        );
        let mut hasher = Hasher::default();
        let mut both = |piece: &[u8]| {
            hasher.update(piece);
            take(piece)
        };
        pieces(&mut self.input, row.len, &what, teller, &mut both)?;
        if hasher.finish() == row.checksum {
            return Ok(());
        }
        Err(Error::altered(what))
    }

    /// Reads the end, behind which there must be nothing.
    pub(super) fn end(mut self) -> Result<(), Error> {
        const WHAT: &str = "the end of the bundle";
        let mut expected = Vec::with_capacity(END_BYTES);
        write_end(&mut expected, &self.manifest)?;
        let end: [u8; END_BYTES] = read_array(&mut self.input, WHAT)?;
        let mut more = [0; 1];
        let rest = self.input.read(&mut more).map_err(Error::reading(WHAT))?;
        if end.as_slice() == expected && rest == 0 {
            return Ok(());
        }
        if end.as_slice() == expected {
            return Err(Error::Trailing);
        }
        Err(Error::altered(WHAT))
    }
}
