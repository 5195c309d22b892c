//! Receipts: what a machine truly has after an import, so that the next bundle brings only the rest.
//!
//! ```text
//! manifest.json        the format, and of the section its sha256, length and records
//! manifest.sha256      for `sha256sum -c`
//! receipt.jsonl.zst    {"crate":DIGEST} of each crate file, {"name":[NAME,DIGEST]} of each index file;
//!                      a digest is the first half of a sha256
//! ```
//!
//! A receipt is a tar like a bundle. It is not signed: one that was changed makes a delta that the
//! other side refuses, and nothing else. The exporting side keeps it in memory: 50 MB for three
//! million crate files.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Read},
    ops::ControlFlow,
    sync::atomic::AtomicBool,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{
    error::{Error, RECEIPT},
    format::{Described, Digest, FORMAT, Id, MAX_RECORDS, Record, Section, Signed},
    key::PublicKey,
    section::{SectionWriter, Spooled},
    stream::begin,
};
use crate::{
    jobs::{Caller, JobContext, archive::Writer},
    registry::{Checksum, CrateName},
    store::{Store, Table, to_millis},
};

/// The longest section: 30 million crate files.
const MAX_BYTES: u64 = 512 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    orlop_receipt: u64,
    #[serde(rename = "receipt.jsonl.zst")]
    section: Section,
}

impl Described for Manifest {
    const FIELD: &'static str = "orlop_receipt";
    const WHAT: &'static str = RECEIPT;

    fn public_key(&self) -> Option<PublicKey> {
        None
    }

    fn is_sound(&self) -> bool {
        // Nothing signs a receipt, and all its records are kept in memory.
        self.section.bytes <= MAX_BYTES && self.section.records <= MAX_RECORDS
    }
}

/// Something that is there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Holding {
    Crate(Digest),
    /// By its lower-case name.
    Name(String, Digest),
}

impl Record for Holding {
    const FILE: &'static str = "receipt.jsonl.zst";

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Holding::Crate(_) => Ok(()),
            // This also bounds its length, and with it the memory that a record takes.
            Holding::Name(name, _) => match CrateName::parse(name) {
                Ok(parsed) if parsed.key() == name => Ok(()),
                _ => Err("a name is not the lower-case name of a crate"),
            },
        }
    }
}

/// What a machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Sorted.
    crates: Vec<Digest>,
    /// By lower-case name.
    names: BTreeMap<String, Digest>,
}

impl Receipt {
    pub(super) fn has_crate(&self, checksum: &Checksum) -> bool {
        self.crates.binary_search(&Digest::of(checksum)).is_ok()
    }

    /// Whether the file of a name is there with this digest.
    pub(super) fn has_name(&self, key: &str, digest: Digest) -> bool {
        self.names.get(key) == Some(&digest)
    }

    /// Reads one, whole, with the help of a file on the store's disk.
    pub(super) fn read(
        input: impl Read,
        store: &Store,
        cx: &JobContext,
    ) -> Result<(Receipt, Id), Error> {
        let mut input = begin(BufReader::new(input), RECEIPT)?;
        let signed = Signed::<Manifest>::read(&mut input)?;
        let section = signed.manifest.section;
        let mut spooled = Spooled::<Holding>::take(&mut input, section, store.scratch()?, cx)?;
        let is_end = input.next_member().map_err(Error::reading(RECEIPT))?;
        if is_end.is_some() || input.expect_eof().is_err() {
            return Err(Error::Trailing);
        }
        let mut receipt = Receipt::default();
        let mut records = spooled.records()?;
        while let Some(record) = records.next()? {
            if cx.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match record {
                Holding::Crate(digest) => receipt.crates.push(digest),
                Holding::Name(name, digest) => drop(receipt.names.insert(name, digest)),
            }
        }
        receipt.crates.sort_unstable();
        Ok((receipt, signed.id))
    }

    /// Writes what the store truly has, and remembers in the store that it did. Returns the
    /// receipt's id.
    pub(super) fn write(
        store: &Store,
        out: &mut File,
        bundle: &str,
        now: SystemTime,
    ) -> Result<Id, Error> {
        let mut section = holdings(store)?;
        let manifest = Manifest {
            orlop_receipt: FORMAT,
            section: section.section,
        };
        let signed = Signed::new(manifest, None)?;
        let mut archive = Writer::new(BufWriter::new(&mut *out));
        signed.write(&mut archive)?;
        // A receipt is short, and a cancel comes too late for it.
        let cx = JobContext::unattended(Caller::owner("orlop itself"));
        section.copy_to(&mut archive, &cx)?;
        archive.finish().map_err(Error::writing)?;
        out.sync_all().map_err(Error::writing)?;
        let fact = serde_json::json!({ "at": to_millis(now), "bundle": bundle });
        let kept = vec![(
            key(&signed.id.to_hex()),
            Some(fact.to_string().into_bytes()),
        )];
        store.keep(Table::Imports, kept)?;
        Ok(signed.id)
    }
}

fn holdings(store: &Store) -> Result<Spooled<Holding>, Error> {
    let mut section = SectionWriter::new(store)?;
    let mut outcome = Ok(());
    let mut put = |holding: Holding| {
        if outcome.is_ok() {
            outcome = section.put(&holding);
        }
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    store.visit_blobs(&AtomicBool::new(false), |checksum, len| match len {
        0 => ControlFlow::Continue(()),
        _ => put(Holding::Crate(Digest::of(&checksum))),
    })?;
    store.names(|facts| {
        if !facts.has_snapshot {
            return ControlFlow::Continue(());
        }
        let name = facts.name.key().to_owned();
        put(Holding::Name(name, Digest(facts.digest)))
    })?;
    outcome?;
    section.finish()
}

fn key(id: &str) -> String {
    format!("receipt/{id}")
}

/// Whether the store wrote the receipt with this id.
pub(super) fn is_own(store: &Store, id: &str) -> bool {
    let kept = store.kept(Table::Imports, &key(id));
    kept.is_ok_and(|kept| kept.is_some())
}
