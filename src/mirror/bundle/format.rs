//! The words of format 1: first lines, the manifest, and the records of the sections, with a bound
//! on every length that is read.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    io::{self, Read, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use semver::Version;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{error::Error, key::PublicKey};
use crate::registry::{Checksum, CrateName, Release, checksum::Hasher, release::parse_version};

/// The format that this build writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// The first words of a bundle.
pub(super) const BUNDLE: &str = "orlop bundle format ";

/// The longest first line that is looked at: the longest words, ten digits and a line feed.
const MAX_LINE_BYTES: usize = 40;

/// Some hundred bytes are usual.
const MAX_MANIFEST_BYTES: u32 = 64 << 10;

/// What is told of an index entry: names and two validators.
const MAX_FACTS_BYTES: u32 = 16 << 10;

/// The largest index file that a store keeps.
pub(super) const MAX_FILE_BYTES: u32 = 256 << 20;

/// One event. The first sight of a name with 10,000 versions has about a megabyte.
const MAX_EVENT_BYTES: u32 = 16 << 20;

/// The longest section, packed or not: a hundred times what all of crates.io takes.
const MAX_SECTION_BYTES: u64 = 64 << 30;

/// A crate file larger than that is none. crates.io's limit is 10 MiB, exceptions have ten times that.
const MAX_CRATE_BYTES: u64 = 8 << 30;

/// More crate files than that no bundle has: ten times all of crates.io.
const MAX_CRATES: u64 = 32 << 20;

/// What ends a bundle; the number of crate files and of their bytes follow.
pub(super) const END: &[u8; 8] = b"\nthe end";

/// Bytes of the end.
pub(super) const END_BYTES: usize = 24;

/// An ed25519 signature.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// The first line of a file of format 1.
pub(super) fn first_line(words: &str) -> String {
    format!("{words}{FORMAT}\n")
}

/// Reads a first line, byte for byte so that nothing behind it is taken. `what`: what the file
/// should be.
pub(super) fn read_first_line(
    input: &mut impl Read,
    words: &str,
    what: &'static str,
) -> Result<(), Error> {
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    let mut byte = [0; 1];
    while line.len() < MAX_LINE_BYTES && line.last() != Some(&b'\n') {
        if input.read(&mut byte).map_err(Error::reading(what))? == 0 {
            break;
        }
        line.push(byte[0]);
    }
    let number = line
        .strip_prefix(words.as_bytes())
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .and_then(|digits| str::from_utf8(digits).ok())
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u32>().ok());
    match number {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(Error::Newer {
            what,
            found,
            known: FORMAT,
        }),
        Some(_) | None if words.as_bytes().starts_with(&line) => Err(Error::truncated(what)),
        Some(_) | None => Err(Error::Foreign { what }),
    }
}

/// What identifies a bundle or a receipt: the sha256 of what it says.
pub(super) type Id = Checksum;

/// One section: what stands in the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// The sha256 of the bytes as they stand in the bundle.
    #[serde(with = "checksum_text")]
    pub(super) sha256: Checksum,
    /// How many there are.
    pub(super) bytes: u64,
    /// How many they are unpacked.
    pub(super) unpacked_bytes: u64,
    /// How many records they are.
    pub(super) records: u64,
}

/// What the signature is for. Everything else in the bundle follows from it by hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Who signed; `None`: nobody.
    pub(super) public_key: Option<PublicKey>,
    /// The receipt that this is a delta against; `None`: it is whole.
    #[serde(with = "hex_or_none")]
    pub(super) base: Option<Id>,
    /// Crate files that follow, and their bytes.
    pub(super) crates: u64,
    pub(super) crate_bytes: u64,
    /// Crate files and index entries that the receiver has by its receipt.
    pub(super) crates_left_out: u64,
    pub(super) names_left_out: u64,
    /// The sections, in the order of the bundle.
    pub(super) table: Section,
    pub(super) index: Section,
    pub(super) journal: Section,
}

impl Manifest {
    /// The first line, the length, and the manifest itself: what is signed, and hashed to the id.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = first_line(BUNDLE).into_bytes();
        let body = serde_json::to_vec(self).map_err(|error| Error::writing(error.into()))?;
        put_bytes(&mut out, &body)?;
        Ok(out)
    }

    /// Reads what [`encode`](Self::encode) wrote. The second: its bytes as they stood there.
    pub(super) fn read(input: &mut impl Read) -> Result<(Manifest, Vec<u8>), Error> {
        const WHAT: &str = "the manifest";
        read_first_line(input, BUNDLE, "a bundle")?;
        let mut signed = first_line(BUNDLE).into_bytes();
        let body = read_bytes(input, MAX_MANIFEST_BYTES, WHAT)?;
        put_bytes(&mut signed, &body)?;
        let manifest: Manifest =
            serde_json::from_slice(&body).map_err(|error| Error::malformed(WHAT, error))?;
        manifest.check()?;
        Ok((manifest, signed))
    }

    fn check(&self) -> Result<(), Error> {
        let sections = [&self.table, &self.index, &self.journal];
        let sound = sections.iter().all(|section| {
            section.bytes <= MAX_SECTION_BYTES && section.unpacked_bytes <= MAX_SECTION_BYTES
        });
        let rows = self.crates.checked_add(self.crates_left_out);
        if sound && self.crates <= MAX_CRATES && rows == Some(self.table.records) {
            return Ok(());
        }
        Err(Error::malformed(
            "the manifest",
            "its numbers do not fit together",
        ))
    }
}

/// The id of a bundle by its signed bytes.
pub(super) fn id_of(signed: &[u8]) -> Id {
    Checksum::of(signed)
}

/// One crate file of the state that the bundle tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRow {
    pub(super) release: Release,
    pub(super) checksum: Checksum,
    pub(super) len: u64,
    /// Whether it follows in this bundle. Otherwise the receiver has it by its receipt.
    pub(super) follows: bool,
}

impl TableRow {
    pub(super) fn put(&self, out: &mut impl Write) -> Result<(), Error> {
        let version = self.release.version.to_string();
        let mut bytes = vec![if self.follows { FOLLOWS } else { LEFT_OUT }];
        put_short(&mut bytes, self.release.name.as_str())?;
        put_short(&mut bytes, &version)?;
        bytes.extend_from_slice(self.checksum.as_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        out.write_all(&bytes).map_err(Error::writing)
    }

    /// `None`: the section ends here.
    pub(super) fn read(input: &mut impl Read) -> Result<Option<TableRow>, Error> {
        const WHAT: &str = "the table of crate files";
        let [kind] = read_array(input, WHAT)?;
        if kind == LAST {
            return Ok(None);
        }
        let name = read_short(input, WHAT)?;
        let version = read_short(input, WHAT)?;
        let row = TableRow {
            release: Release {
                name: CrateName::parse(&name).map_err(|error| Error::malformed(WHAT, error))?,
                version: parse_version(&version).map_err(|error| Error::malformed(WHAT, error))?,
            },
            checksum: Checksum::from_bytes(read_array(input, WHAT)?),
            len: u64::from_le_bytes(read_array(input, WHAT)?),
            follows: kind == FOLLOWS,
        };
        if kind > LEFT_OUT || row.len == 0 || row.len > MAX_CRATE_BYTES {
            return Err(Error::malformed(WHAT, "a row of it makes no sense"));
        }
        Ok(Some(row))
    }
}

const LAST: u8 = 0;
const FOLLOWS: u8 = 1;
const LEFT_OUT: u8 = 2;

/// What is told of an index entry. What moves although the entry stays as it is, such as the time
/// of the last check, is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryWords {
    /// The name in the spelling of the index.
    #[serde(with = "name_text")]
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
    /// `Some`: the receiver has the file by its receipt, with this digest, and it does not follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left_out: Option<String>,
}

/// An index entry in the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexRecord {
    pub(super) words: EntryWords,
    /// The index file, byte for byte; empty where it is left out.
    pub(super) file: Vec<u8>,
}

impl IndexRecord {
    pub(super) fn put(&self, out: &mut impl Write) -> Result<(), Error> {
        put_json(out, &self.words)?;
        let mut head = Vec::new();
        let len = u32::try_from(self.file.len()).map_err(|_long| too_long())?;
        head.extend_from_slice(&len.to_le_bytes());
        out.write_all(&head).map_err(Error::writing)?;
        out.write_all(&self.file).map_err(Error::writing)
    }

    /// `None`: the section ends here.
    pub(super) fn read(input: &mut impl Read) -> Result<Option<IndexRecord>, Error> {
        const WHAT: &str = "the index";
        let Some(words) = read_json::<EntryWords>(input, MAX_FACTS_BYTES, WHAT)? else {
            return Ok(None);
        };
        let file = read_bytes(input, MAX_FILE_BYTES, WHAT)?;
        if words.left_out.is_some() != file.is_empty() {
            return Err(Error::malformed(WHAT, "a file is missing, or one too many"));
        }
        Ok(Some(IndexRecord { words, file }))
    }
}

/// Ends a section of records.
pub(super) fn put_last(out: &mut impl Write, kind: Last) -> Result<(), Error> {
    let zeros: &[u8] = match kind {
        Last::Row => &[LAST],
        Last::Json => &[0; 4],
    };
    out.write_all(zeros).map_err(Error::writing)
}

/// What kind of record a section ends instead of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Last {
    Row,
    Json,
}

/// Writes a record in JSON, after its length.
pub(super) fn put_json(out: &mut impl Write, value: &impl Serialize) -> Result<(), Error> {
    let body = serde_json::to_vec(value).map_err(|error| Error::writing(error.into()))?;
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, &body)?;
    out.write_all(&bytes).map_err(Error::writing)
}

/// Reads an event of the journal; `None`: the section ends here.
pub(super) fn read_event<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<T>, Error> {
    read_json(input, MAX_EVENT_BYTES, "the journal")
}

fn read_json<T: DeserializeOwned>(
    input: &mut impl Read,
    max: u32,
    what: &'static str,
) -> Result<Option<T>, Error> {
    let body = read_bytes(input, max, what)?;
    if body.is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&body).map_err(|error| Error::malformed(what, error))?;
    Ok(Some(value))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Error> {
    let len = u32::try_from(bytes.len()).map_err(|_long| too_long())?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_short(out: &mut Vec<u8>, text: &str) -> Result<(), Error> {
    out.push(u8::try_from(text.len()).map_err(|_long| too_long())?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn too_long() -> Error {
    Error::writing(io::Error::other(
        "something is longer than the format holds",
    ))
}

pub(super) fn read_array<const N: usize>(
    input: &mut impl Read,
    what: &'static str,
) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(Error::reading(what))?;
    Ok(bytes)
}

/// Bytes after their length. Memory is taken as they come, not as they are promised.
pub(super) fn read_bytes(
    input: &mut impl Read,
    max: u32,
    what: &'static str,
) -> Result<Vec<u8>, Error> {
    let len = u32::from_le_bytes(read_array(input, what)?);
    if len > max {
        return Err(Error::malformed(what, "a length in it makes no sense"));
    }
    let mut bytes = Vec::new();
    let read = input.take(u64::from(len)).read_to_end(&mut bytes);
    if read.map_err(Error::reading(what))? as u64 == u64::from(len) {
        return Ok(bytes);
    }
    Err(Error::truncated(what))
}

fn read_short(input: &mut impl Read, what: &'static str) -> Result<String, Error> {
    let [len] = read_array(input, what)?;
    let mut bytes = vec![0; usize::from(len)];
    input.read_exact(&mut bytes).map_err(Error::reading(what))?;
    String::from_utf8(bytes).map_err(|error| Error::malformed(what, error))
}

/// Milliseconds since 1970; 0 before.
pub(super) fn to_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time of so many milliseconds since 1970; nonsense becomes 1970.
pub(super) fn from_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH)
}

/// Hexadecimal digits of some bytes.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Counts and hashes what is written through it.
#[derive(Debug)]
pub(super) struct Counted<W> {
    pub(super) inner: W,
    pub(super) hasher: Hasher,
    pub(super) bytes: u64,
}

impl<W> Counted<W> {
    pub(super) fn new(inner: W) -> Counted<W> {
        Counted {
            inner,
            hasher: Hasher::default(),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(super) mod checksum_text {
    use serde::Deserialize;

    use crate::registry::Checksum;

    pub(in crate::mirror::bundle) fn serialize<S: serde::Serializer>(
        checksum: &Checksum,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(checksum)
    }

    pub(in crate::mirror::bundle) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Checksum, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

mod hex_or_none {
    use super::{Checksum, Deserialize, Serialize};

    #[expect(clippy::ref_option, reason = "serde hands out references")]
    pub(super) fn serialize<S: serde::Serializer>(
        checksum: &Option<Checksum>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        checksum.map(Checksum::to_hex).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Checksum>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let parse = |text: String| text.parse().map_err(serde::de::Error::custom);
        text.map(parse).transpose()
    }
}

pub(super) mod name_text {
    use serde::Deserialize;

    use crate::registry::CrateName;

    pub(in crate::mirror::bundle) fn serialize<S: serde::Serializer>(
        name: &CrateName,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(in crate::mirror::bundle) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<CrateName, D::Error> {
        let text = String::deserialize(deserializer)?;
        CrateName::parse(&text).map_err(serde::de::Error::custom)
    }
}

pub(super) mod version_text {
    use semver::Version;
    use serde::Deserialize;

    use crate::registry::release::parse_version;

    pub(in crate::mirror::bundle) fn serialize<S: serde::Serializer>(
        version: &Version,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    pub(in crate::mirror::bundle) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Version, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_version(&text).map_err(serde::de::Error::custom)
    }
}

/// The place of a row in the order of the table: by name, and within a name as the index has them.
pub(super) fn is_after(row: &CrateName, last: Option<&CrateName>) -> bool {
    last.is_none_or(|last| row.key() >= last.key())
}

/// A version, for messages.
pub(super) fn spec(name: &CrateName, version: &Version) -> String {
    format!("{name}@{version}")
}
