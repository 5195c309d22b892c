//! Format 1: the manifest, and the records of the sections.
#![warn(clippy::arithmetic_side_effects)]

use std::io::{Read, Write};

use semver::Version;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    error::Error,
    key::{PublicKey, SIGNATURE_BYTES, SigningKey},
};
use crate::{
    jobs::{
        archive::{PUBLIC, Reader, Writer},
        lines::ExactBytes,
    },
    registry::{Checksum, CrateName, Release, release::version_text},
    store::Event,
};

/// The format that this build writes, and the newest that it reads.
pub(super) const FORMAT: u64 = 1;

/// The first member.
pub(super) const MANIFEST: &str = "manifest.json";

/// The ed25519 signature of the manifest.
const SIGNATURE: &str = "manifest.sig";

/// What stands for the signature of an unsigned bundle: `sha256sum -c` reads it.
const SUM: &str = "manifest.sha256";

/// Some hundred bytes are usual.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;

/// The longest section, packed and unpacked: a hundred times what all of crates.io takes. A few
/// packed bytes can unpack to any number.
pub(super) const MAX_SECTION_BYTES: u64 = 64 << 30;

/// The most records of a section: ten times the crate files of crates.io. Some of them are kept in
/// memory.
pub(super) const MAX_RECORDS: u64 = 32 << 20;

/// The longest `etag` or `last_modified`. It comes from one line of an HTTP header, for which 16 KiB
/// are more than servers send.
const MAX_VALIDATOR_BYTES: usize = 16 << 10;

/// The largest crate file. crates.io's limit is 10 MiB, exceptions have ten times that.
const MAX_CRATE_BYTES: u64 = 8 << 30;

/// What identifies a bundle or a receipt: the sha256 of its manifest.
pub(super) type Id = Checksum;

/// A section as the manifest describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// The sha256 of its bytes, packed as they are.
    pub(super) sha256: Checksum,
    /// How many there are.
    pub(super) bytes: u64,
    /// How many records they have.
    pub(super) records: u64,
}

/// What the signature covers. Everything else in the bundle follows from it by checksums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The format.
    pub(super) orlop_bundle: u64,
    /// The key of the signature; `None`: unsigned.
    pub(super) public_key: Option<PublicKey>,
    /// The receipt that this is a delta against; `None`: it is whole.
    pub(super) base: Option<Id>,
    /// Crate files in the bundle, and their bytes.
    pub(super) crates: u64,
    pub(super) crate_bytes: u64,
    /// Crate files and index entries that the receiver has by its receipt.
    pub(super) crates_left_out: u64,
    pub(super) names_left_out: u64,
    /// The sections, in the order of the bundle.
    pub(super) sections: ManifestSections,
}

/// The sections by their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManifestSections {
    #[serde(rename = "crates.jsonl.zst")]
    pub(super) crates: Section,
    #[serde(rename = "index.jsonl.zst")]
    pub(super) index: Section,
    #[serde(rename = "journal.jsonl.zst")]
    pub(super) journal: Section,
}

/// What the manifest of an archive is of.
pub(super) trait Described: Serialize + DeserializeOwned {
    /// Its field with the number of the format.
    const FIELD: &'static str;
    /// What it describes, for messages.
    const WHAT: &'static str;

    /// The key of the signature; `None`: unsigned.
    fn public_key(&self) -> Option<PublicKey>;

    /// Whether its numbers fit together.
    fn is_sound(&self) -> bool;
}

impl Described for Manifest {
    const FIELD: &'static str = "orlop_bundle";
    const WHAT: &'static str = "a bundle";

    fn public_key(&self) -> Option<PublicKey> {
        self.public_key
    }

    fn is_sound(&self) -> bool {
        let ManifestSections {
            crates,
            index,
            journal,
        } = &self.sections;
        let fits = [crates, index, journal]
            .iter()
            .all(|section| section.bytes <= MAX_SECTION_BYTES && section.records <= MAX_RECORDS);
        fits && self.crates.checked_add(self.crates_left_out) == Some(crates.records)
    }
}

/// A manifest and its exact bytes.
pub(super) struct Signed<T> {
    pub(super) manifest: T,
    pub(super) id: Id,
    bytes: Vec<u8>,
    /// Of the manifest; empty where there is none.
    signature: Vec<u8>,
}

impl<T: Described> Signed<T> {
    /// Signs a manifest.
    pub(super) fn new(manifest: T, key: Option<&SigningKey>) -> Result<Signed<T>, Error> {
        let json = serde_json::to_vec_pretty(&manifest);
        let mut bytes = json.map_err(|error| Error::writing(error.into()))?;
        bytes.push(b'\n');
        let signature = key.map(|key| key.sign(&bytes).to_vec());
        Ok(Signed {
            manifest,
            id: Checksum::of(&bytes),
            bytes,
            signature: signature.unwrap_or_default(),
        })
    }

    /// Writes the first two members.
    pub(super) fn write(&self, out: &mut Writer<impl Write>) -> Result<(), Error> {
        out.member(MANIFEST, PUBLIC, &self.bytes)
            .and_then(|()| match self.manifest.public_key() {
                Some(_) => out.member(SIGNATURE, PUBLIC, &self.signature),
                None => out.member(SUM, PUBLIC, sum_line(&self.id).as_bytes()),
            })
            .map_err(Error::writing)
    }

    /// Reads the first two members. The signature is not verified yet, only there.
    pub(super) fn read(input: &mut Reader<impl Read>) -> Result<Signed<T>, Error> {
        let foreign = || Error::Foreign { what: T::WHAT };
        let member = input.next_member().map_err(Error::reading(T::WHAT))?;
        let is_manifest = member.is_some_and(|member| member.path == MANIFEST);
        let bytes = read_small(input, MANIFEST)?;
        let json = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let format = json.and_then(|json| json.get(T::FIELD)?.as_u64());
        match format.filter(|_| is_manifest) {
            None => return Err(foreign()),
            Some(found) if found > FORMAT => {
                return Err(Error::Newer {
                    what: T::WHAT,
                    found,
                    known: FORMAT,
                });
            }
            Some(_) => {}
        }
        let manifest: T = serde_json::from_slice(&bytes)
            .map_err(|error| Error::malformed("the manifest", error))?;
        if !manifest.is_sound() {
            let why = "its numbers do not fit together";
            return Err(Error::malformed("the manifest", why));
        }
        let id = Checksum::of(&bytes);
        let signature = if manifest.public_key().is_some() {
            read_member(input, SIGNATURE, SIGNATURE_BYTES as u64)?
        } else {
            let sum = sum_line(&id);
            if read_member(input, SUM, sum.len() as u64)? != sum.as_bytes() {
                return Err(Error::altered("the manifest"));
            }
            Vec::new()
        };
        Ok(Signed {
            manifest,
            id,
            bytes,
            signature,
        })
    }

    /// Whether `key` signed it.
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.has_signed(&self.bytes, &self.signature)
    }
}

fn sum_line(id: &Id) -> String {
    format!("{id}  {MANIFEST}\n")
}

/// Goes to the next member, which must be this one.
pub(super) fn expect_member(
    input: &mut Reader<impl Read>,
    path: &str,
    len: u64,
) -> Result<(), Error> {
    let wrong = |why: String| Err(Error::malformed("the tar", why));
    match input.next_member().map_err(Error::reading(path))? {
        Some(member) if member.path != path => {
            wrong(format!("it has `{}` where `{path}` is listed", member.path))
        }
        Some(member) if member.len != len => {
            wrong(format!("`{path}` has another length than is listed"))
        }
        Some(_) => Ok(()),
        None => wrong(format!("`{path}` is missing")),
    }
}

fn read_member(input: &mut Reader<impl Read>, path: &str, len: u64) -> Result<Vec<u8>, Error> {
    expect_member(input, path, len)?;
    read_small(input, path)
}

/// Reads a member that fits in memory.
fn read_small(input: &mut Reader<impl Read>, path: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let limited = input.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes);
    limited.map_err(Error::reading(path))?;
    Ok(bytes)
}

/// A kind of record, which is a kind of section.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The member with these records.
    const FILE: &'static str;

    /// What is wrong with its values.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// One crate file of the state that the bundle describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CrateRecord {
    pub(super) name: CrateName,
    #[serde(with = "version_text")]
    pub(super) version: Version,
    pub(super) sha256: Checksum,
    pub(super) size: u64,
    /// Whether the receiver has it by its receipt, so that it is not in the bundle.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) left_out: bool,
}

impl CrateRecord {
    pub(super) fn release(&self) -> Release {
        Release {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }

    /// The member with the crate file.
    pub(super) fn path(&self) -> String {
        format!("crates/{}-{}.crate", self.name, self.version)
    }
}

impl Record for CrateRecord {
    const FILE: &'static str = "crates.jsonl.zst";

    fn check(&self) -> Result<(), &'static str> {
        match self.size {
            1..=MAX_CRATE_BYTES => Ok(()),
            _ => Err("the size of a crate file makes no sense"),
        }
    }
}

/// An index entry. What moves although the entry stays as it is, such as the time of the last check,
/// is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexRecord {
    /// The name in the spelling of the index.
    pub(super) name: CrateName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
    /// When this file was seen, in milliseconds since 1970.
    pub(super) seen: u64,
    /// Whether upstream no longer knows the name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gone: bool,
    /// `Some`: the receiver has the file by its receipt, with this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left_out: Option<Digest>,
    /// The index file, byte for byte, where it is not left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<ExactBytes>,
}

impl Record for IndexRecord {
    const FILE: &'static str = "index.jsonl.zst";

    fn check(&self) -> Result<(), &'static str> {
        if self.left_out.is_some() == self.file.is_some() {
            return Err("an index file is missing, or one too many");
        }
        let mut validators = [&self.etag, &self.last_modified].into_iter().flatten();
        if validators.any(|text| text.len() > MAX_VALIDATOR_BYTES) {
            return Err("an `etag` or `last_modified` is too long");
        }
        Ok(())
    }
}

impl Record for Event {
    const FILE: &'static str = "journal.jsonl.zst";
}

/// The first half of a sha256: no two files ever shared one, and it takes half the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest(pub(super) [u8; 16]);

impl Digest {
    pub(super) fn of(checksum: &Checksum) -> Digest {
        let whole = checksum.as_bytes();
        Digest(std::array::from_fn(|at| {
            whole.get(at).copied().unwrap_or_default()
        }))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        format!("{:032x}", u128::from_be_bytes(digest.0))
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(digits: String) -> Result<Digest, &'static str> {
        let number = u128::from_str_radix(&digits, 16).ok();
        let number = number.filter(|_| digits.len() == 32 && !digits.starts_with('+'));
        let number = number.ok_or("a digest is 32 hexadecimal digits")?;
        Ok(Digest(number.to_be_bytes()))
    }
}

/// A version, for messages.
pub(super) fn spec(name: &CrateName, version: &Version) -> String {
    format!("{name}@{version}")
}
