//! Writes a bundle: what was chosen, or everything held, as the store has it.

use std::{
    collections::BTreeSet,
    io::{BufWriter, Write},
    ops::ControlFlow,
};

use semver::Version;

use super::{
    ExportReport, MAX_TOLD,
    error::Error,
    format::{CrateRecord, Digest, Id, IndexRecord, Signed, spec},
    key::SigningKey,
    pace::Pace,
    receipt::Receipt,
    section::{PIECE_BYTES, SectionWriter, Spooled},
    stream::Sections,
};
use crate::{
    jobs::{
        JobContext, Unit,
        archive::{PUBLIC, Writer},
        lines::ExactBytes,
        select::{Chosen, NOT_HELD},
    },
    registry::{Checksum, CrateName, checksum::Hasher},
    store::{EntryFacts, Event, Store, to_millis},
};

/// What goes into a bundle, besides what the store has.
pub(super) struct Export<'a> {
    pub(super) store: &'a Store,
    /// `None`: everything held.
    pub(super) chosen: Option<&'a Chosen>,
    /// What the receiver has.
    pub(super) receipt: Option<&'a (Receipt, Id)>,
    /// `None`: it goes unsigned.
    pub(super) key: Option<&'a SigningKey>,
    pub(super) cx: &'a JobContext,
}

/// The sections while the names are gone through.
struct Plan<'a> {
    export: &'a Export<'a>,
    crates: SectionWriter<CrateRecord>,
    index: SectionWriter<IndexRecord>,
    /// Names whose entries follow: their events do, too.
    told: BTreeSet<CrateName>,
    report: ExportReport,
    pace: Pace<'a>,
}

impl Export<'_> {
    /// Writes the bundle to `out`, from its first byte to its last.
    pub(super) fn write(&self, out: impl Write) -> Result<ExportReport, Error> {
        let mut out = Writer::new(BufWriter::with_capacity(PIECE_BYTES, out));
        let mut plan = Plan::new(self)?;
        match self.chosen {
            Some(chosen) => plan.take_chosen(chosen)?,
            None => plan.take_all()?,
        }
        plan.pace.end();
        if plan.is_empty() {
            plan.report.nothing = true;
            return Ok(plan.report);
        }
        let journal = plan.journal()?;
        let mut sections = Sections {
            crates: plan.crates.finish()?,
            index: plan.index.finish()?,
            journal,
        };
        let mut report = plan.report;
        let base = self.receipt.map(|(_receipt, id)| *id);
        let key = self.key.map(SigningKey::public);
        let signed = Signed::new(sections.manifest(&report, base, key), self.key)?;
        signed.write(&mut out)?;
        sections.write(&mut out, self.cx)?;
        self.write_crates(&mut sections, report.crate_bytes, &mut out)?;
        out.finish().map_err(Error::writing)?;
        report.id = signed.id.to_hex();
        report.key = key.map(|key| key.to_string());
        report.base = base.map(Checksum::to_hex);
        report.names = sections.index.section.records - report.names_left_out;
        report.events = sections.journal.section.records;
        Ok(report)
    }

    fn write_crates(
        &self,
        sections: &mut Sections,
        total: u64,
        out: &mut Writer<impl Write>,
    ) -> Result<(), Error> {
        let mut pace = Pace::begin(self.cx, "writing", Unit::Bytes, Some(total));
        let mut records = sections.crates.records()?;
        while let Some(record) = records.next()? {
            if !record.left_out {
                self.write_crate(&record, out, &mut pace)?;
            }
        }
        pace.end();
        Ok(())
    }

    /// A file that is damaged on the disk ends the export before the bundle is whole.
    fn write_crate(
        &self,
        record: &CrateRecord,
        out: &mut Writer<impl Write>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Error> {
        let what = spec(&record.name, &record.version);
        let damaged = || Error::DamagedHere { what: what.clone() };
        let blob = self
            .store
            .blob_blocking(&record.sha256)?
            .ok_or_else(damaged)?;
        if blob.len() != record.size {
            return Err(damaged());
        }
        out.begin(&record.path(), PUBLIC, record.size)
            .map_err(Error::writing)?;
        let mut hasher = Hasher::default();
        let mut at = 0;
        while at < record.size {
            if self.cx.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let len =
                usize::try_from(record.size - at).map_or(PIECE_BYTES, |len| len.min(PIECE_BYTES));
            let piece = blob
                .read_range(at, len)
                .map_err(Error::reading(format!("the crate file of {what}")))?;
            hasher.update(&piece);
            at += piece.len() as u64;
            if at == record.size && std::mem::take(&mut hasher).finish() != record.sha256 {
                return Err(damaged());
            }
            out.write_all(&piece).map_err(Error::writing)?;
            pace.add(piece.len() as u64, piece.len() as u64);
        }
        Ok(())
    }
}

impl<'a> Plan<'a> {
    fn new(export: &'a Export<'a>) -> Result<Plan<'a>, Error> {
        let names = export.chosen.map(|chosen| chosen.names.len() as u64);
        let names = names.unwrap_or_else(|| export.store.totals().names);
        Ok(Plan {
            export,
            crates: SectionWriter::new(export.store)?,
            index: SectionWriter::new(export.store)?,
            told: BTreeSet::new(),
            report: ExportReport::default(),
            pace: Pace::begin(export.cx, "reading", Unit::Names, Some(names)),
        })
    }

    fn take_chosen(&mut self, chosen: &Chosen) -> Result<(), Error> {
        for failure in &chosen.failed {
            if failure.cause == NOT_HELD {
                self.miss(failure.what.clone());
            } else {
                self.report.failed.push(failure.clone());
            }
        }
        self.report.notes.clone_from(&chosen.notes);
        for (name, releases) in &chosen.names {
            let Some(facts) = self.export.store.entry(name)? else {
                self.miss(name.to_string());
                continue;
            };
            self.take_name(&facts)?;
            let mut releases = releases.clone();
            releases.sort();
            for (version, checksum) in releases {
                if !self.take_crate(&facts.name, &version, &checksum)? {
                    self.miss(spec(&facts.name, &version));
                }
            }
        }
        Ok(())
    }

    fn take_all(&mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        self.export.store.visit_releases(|facts, releases| {
            outcome = self.take_name(facts).and_then(|()| {
                let mut held = releases.iter().filter(|release| release.held);
                held.try_for_each(|release| {
                    self.take_crate(&facts.name, &release.version, &release.checksum)
                        .map(drop)
                })
            });
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome
    }

    fn take_name(&mut self, facts: &EntryFacts) -> Result<(), Error> {
        if self.export.cx.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.pace.add(1, 0);
        let Some(snapshot) = self.export.store.snapshot(&facts.name)? else {
            self.miss(facts.name.to_string());
            return Ok(());
        };
        let facts = snapshot.facts;
        let receipt = self.export.receipt;
        let digest = Digest(facts.digest);
        let left_out = receipt.is_some_and(|(had, _id)| had.has_name(facts.name.key(), digest));
        self.index.put(&IndexRecord {
            etag: facts.etag,
            last_modified: facts.last_modified,
            seen: to_millis(facts.changed.min(facts.checked)),
            gone: facts.gone,
            left_out: left_out.then_some(digest),
            file: (!left_out).then_some(ExactBytes(snapshot.bytes)),
            name: facts.name.clone(),
        })?;
        if left_out {
            self.report.names_left_out += 1;
        } else {
            self.told.insert(facts.name);
        }
        Ok(())
    }

    /// Whether the crate file is held.
    fn take_crate(
        &mut self,
        name: &CrateName,
        version: &Version,
        checksum: &Checksum,
    ) -> Result<bool, Error> {
        let Some(size) = self.export.store.blob_bytes(checksum)? else {
            return Ok(false);
        };
        let receipt = self.export.receipt;
        let record = CrateRecord {
            name: name.clone(),
            version: version.clone(),
            sha256: *checksum,
            size,
            left_out: receipt.is_some_and(|(had, _id)| had.has_crate(checksum)),
        };
        self.crates.put(&record)?;
        if record.left_out {
            self.report.crates_left_out += 1;
        } else {
            self.report.crates += 1;
            self.report.crate_bytes += record.size;
        }
        Ok(true)
    }

    /// Whether nothing is held of what was selected: such a bundle helps nobody.
    fn is_empty(&self) -> bool {
        let report = &self.report;
        self.export.chosen.is_some() && report.crates == 0 && report.crates_left_out == 0
    }

    fn miss(&mut self, what: String) {
        self.report.missing_count += 1;
        if self.report.missing.len() < MAX_TOLD {
            self.report.missing.push(what);
        }
    }

    fn journal(&self) -> Result<Spooled<Event>, Error> {
        let mut journal = SectionWriter::new(self.export.store)?;
        let mut outcome = Ok(());
        self.export.store.events(0, |_after, event| {
            if self.export.cx.is_cancelled() {
                outcome = Err(Error::Cancelled);
            } else if self.told.contains(&event.name) {
                outcome = journal.put(&event);
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome?;
        journal.finish()
    }
}
