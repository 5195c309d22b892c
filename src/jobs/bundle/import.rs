//! Takes a bundle in: nothing of it is visible before all that it is made of is here and verified.
//!
//! The order: manifest and signature; the sections into unnamed files, by their checksums; a look
//! through all their records; for a delta, a look whether what it leaves out is here; the crate
//! files, each by its sha256, through the store's door; the end of the bundle; and only then the
//! index entries, and the journal. What was taken in before an interruption is held and passed
//! over the next time.

use std::{
    collections::BTreeSet,
    io::{BufReader, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::SystemTime,
};

use parking_lot::Mutex;

use super::{
    ImportPart, ImportReport, MAX_TOLD,
    error::Error,
    format::{CrateRecord, Digest, Id, IndexRecord, Record as _, spec},
    pace::Pace,
    rank::{Mark, Rank, Word, content},
    section::PIECE_BYTES,
    stream::{BundleReader, Sections, Trust},
};
use crate::{
    jobs::{JobContext, Unit, lines::ExactBytes},
    registry::{CrateName, IndexFile, Release},
    store::{Change, EntryFacts, Event, Reservation, Store, Table, Validators, from_millis},
    util::error::one_line,
};

/// Threads that wait for the disk: the store syncs once for all who come together.
const COMMITTERS: usize = 8;

/// Crate files that are whole and wait for a committer. They are in files: each takes a descriptor.
const WAITING: usize = 32;

/// How many names go to the store at a time, and how many bytes of index files.
const NAMES_AT_A_TIME: usize = 1000;
const BYTES_AT_A_TIME: usize = 32 << 20;

/// How many events go to the store at a time: it reads its journal once for each lot. 20 MB.
const EVENTS_AT_A_TIME: usize = 100_000;

/// Examples in a message.
const EXAMPLES: usize = 3;

/// Where a bundle goes, and on whose word.
pub(super) struct Import<'a> {
    pub(super) store: &'a Store,
    pub(super) trust: &'a Trust,
    /// The files that the bundle is cut into; none: it is in one piece.
    pub(super) parts: &'a [ImportPart],
    /// Whether everything is only looked at.
    pub(super) dry_run: bool,
    pub(super) now: SystemTime,
    pub(super) cx: &'a JobContext,
}

/// An index entry of the bundle, with its file where it is not left out.
struct Entry {
    record: IndexRecord,
    file: Option<IndexFile>,
}

impl Entry {
    fn read(record: IndexRecord) -> Result<Entry, Error> {
        Ok(Entry {
            file: parse(&record)?,
            record,
        })
    }
}

/// What goes to the store at a time.
#[derive(Default)]
struct Plan {
    changes: Vec<Change>,
    marks: Vec<(String, Option<Vec<u8>>)>,
}

impl Import<'_> {
    /// Reads the bundle from `input`, from its first byte to its last.
    pub(super) fn read(&self, input: impl Read) -> Result<ImportReport, Error> {
        let input = BufReader::with_capacity(PIECE_BYTES, input);
        let mut reader = BundleReader::open(input, self.parts, self.trust)?;
        let mut report = ImportReport {
            id: reader.id.to_hex(),
            key: reader.manifest.public_key.map(|key| key.to_string()),
            base: reader.manifest.base.map(Id::to_hex),
            dry_run: self.dry_run,
            ..ImportReport::default()
        };
        self.cx.phase("verifying", Unit::Names, None);
        let sections = &reader.manifest.sections;
        let spooled = [sections.crates, sections.index, sections.journal];
        let bytes = spooled.iter().map(|section| section.bytes);
        self.check_room(bytes.fold(0, u64::saturating_add))?;
        let mut sections = reader.sections(&mut || Ok(self.store.scratch()?), self.cx)?;
        self.check_index(&mut sections, reader.manifest.base)?;
        self.check_events(&mut sections)?;
        let missing_bytes = self.check_crates(&mut sections, reader.manifest.base)?;
        if !self.dry_run {
            // What is in the index and the journal goes into the store, too.
            let records = sections.index.section.bytes;
            let records = records.saturating_add(sections.journal.section.bytes);
            self.check_room(missing_bytes.saturating_add(records))?;
        }
        self.take_crates(&mut reader, &mut sections, &mut report)?;
        reader.end()?;
        self.publish(&mut sections, &mut report)?;
        if !self.dry_run {
            self.merge(&mut sections, &mut report)?;
            self.note_unlisted(&mut sections, &mut report)?;
            self.note_absent(&mut sections, &mut report)?;
        }
        Ok(report)
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.cx.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn check_room(&self, needed_bytes: u64) -> Result<(), Error> {
        let free_bytes = self.store.totals().free_bytes;
        if needed_bytes > free_bytes {
            return Err(Error::NoRoom {
                needed_bytes,
                free_bytes,
            });
        }
        Ok(())
    }

    // --- before anything is taken

    /// Every index file is one, and those that are left out are here.
    fn check_index(&self, sections: &mut Sections, base: Option<Id>) -> Result<(), Error> {
        let mut lacking = Lacking::default();
        let mut last: Option<CrateName> = None;
        let mut records = sections.index.records()?;
        while let Some(record) = records.next()? {
            self.go_on()?;
            let name = &record.name;
            if last.as_ref().is_some_and(|last| last.key() >= name.key()) {
                return Err(Error::malformed(
                    IndexRecord::FILE,
                    "its names are out of order",
                ));
            }
            match record.left_out {
                Some(digest) => {
                    let held = self.store.entry(name)?.filter(|held| held.has_snapshot);
                    let is_here = match &held {
                        Some(held) if Digest(held.digest) == digest => true,
                        Some(held) => self.rank(held, &record, None)? == Rank::Older,
                        None => false,
                    };
                    lacking.note(is_here, || format!("the index entry of {name}"));
                }
                None => drop(parse(&record)?),
            }
            last = Some(record.name);
        }
        lacking.check(base)
    }

    fn check_events(&self, sections: &mut Sections) -> Result<(), Error> {
        let mut events = sections.journal.records()?;
        while let Some(_event) = events.next()? {
            self.go_on()?;
        }
        Ok(())
    }

    /// The crate files are in order, none is listed twice, and those that are left out are here.
    /// Returns the bytes of the others that are not.
    fn check_crates(&self, sections: &mut Sections, base: Option<Id>) -> Result<u64, Error> {
        let mut missing_bytes: u64 = 0;
        let mut lacking = Lacking::default();
        let mut last: Option<CrateName> = None;
        let mut versions = BTreeSet::new();
        let mut records = sections.crates.records()?;
        while let Some(record) = records.next()? {
            self.go_on()?;
            if last.as_ref() != Some(&record.name) {
                versions.clear();
            }
            let is_after = last.is_none_or(|last| record.name.key() >= last.key());
            if !is_after || !versions.insert(record.version.clone()) {
                let why = "its crate files are out of order, or one is listed twice";
                return Err(Error::malformed(CrateRecord::FILE, why));
            }
            let is_here = self.store.blob_blocking(&record.sha256)?.is_some();
            if record.left_out {
                lacking.note(is_here, || spec(&record.name, &record.version));
            } else if !is_here {
                missing_bytes = missing_bytes.saturating_add(record.size);
            }
            last = Some(record.name);
        }
        lacking.check(base)?;
        Ok(missing_bytes)
    }

    // --- crate files

    /// Takes the crate files in. All of them are durable on return.
    fn take_crates<R: Read>(
        &self,
        reader: &mut BundleReader<'_, R>,
        sections: &mut Sections,
        report: &mut ImportReport,
    ) -> Result<(), Error> {
        let (whole, waiting) = sync_channel(WAITING);
        let waiting = Mutex::new(waiting);
        let failed = Mutex::new(None);
        let outcome = std::thread::scope(|scope| {
            for _each in 0..COMMITTERS {
                scope.spawn(|| self.commit_all(&waiting, &failed));
            }
            let outcome = self.read_crates(reader, sections, report, &failed, &whole);
            // Then the committers have nothing to wait for.
            drop(whole);
            outcome
        });
        // What the disk said explains why nobody took what was read.
        match failed.into_inner() {
            Some(error) => Err(error),
            None => outcome,
        }
    }

    fn read_crates<R: Read>(
        &self,
        reader: &mut BundleReader<'_, R>,
        sections: &mut Sections,
        report: &mut ImportReport,
        failed: &Mutex<Option<Error>>,
        whole: &SyncSender<Whole>,
    ) -> Result<(), Error> {
        let (crates, bytes) = (reader.manifest.crates, reader.manifest.crate_bytes);
        let mut pace = Pace::begin(self.cx, "taking in", Unit::Bytes, Some(bytes));
        let mut count: u64 = 0;
        let mut records = sections.crates.records()?;
        while let Some(record) = records.next()? {
            if failed.lock().is_some() {
                return Ok(());
            }
            if record.left_out {
                continue;
            }
            count += 1;
            let received = self.read_crate(reader, &record, report)?;
            pace.add(record.size, record.size);
            if let Some(reservation) = received
                && whole.send(Whole(reservation, record.release())).is_err()
            {
                return Ok(());
            }
        }
        pace.end();
        if count != crates || report.crate_bytes + report.held_bytes != bytes {
            let why = "it does not add up to what the manifest says";
            return Err(Error::malformed(CrateRecord::FILE, why));
        }
        Ok(())
    }

    /// `None`: it is held, or only looked at.
    fn read_crate<R: Read>(
        &self,
        reader: &mut BundleReader<'_, R>,
        record: &CrateRecord,
        report: &mut ImportReport,
    ) -> Result<Option<Reservation>, Error> {
        let cached = self.store.blob_blocking(&record.sha256)?;
        if cached.is_some_and(|blob| blob.len() == record.size) {
            report.crates_held += 1;
            report.held_bytes += record.size;
            reader.crate_file(record, self.cx, &mut |_piece| Ok(()))?;
            return Ok(None);
        }
        report.crates += 1;
        report.crate_bytes += record.size;
        if self.dry_run {
            reader.crate_file(record, self.cx, &mut |_piece| Ok(()))?;
            return Ok(None);
        }
        let mut reservation = self.store.reserve(&record.sha256, Some(record.size))?;
        reader.crate_file(record, self.cx, &mut |piece| Ok(reservation.write(piece)?))?;
        Ok(Some(reservation))
    }

    fn commit_all(&self, waiting: &Mutex<Receiver<Whole>>, failed: &Mutex<Option<Error>>) {
        loop {
            let next = waiting.lock().recv();
            let Ok(Whole(reservation, release)) = next else {
                return;
            };
            // After a failure the rest is only dropped, so that the reader is not kept waiting.
            if failed.lock().is_none()
                && let Err(error) = reservation.commit(&release, self.now)
            {
                failed.lock().get_or_insert(error.into());
            }
        }
    }

    // --- the index and the journal

    fn publish(&self, sections: &mut Sections, report: &mut ImportReport) -> Result<(), Error> {
        let total = sections.index.section.records;
        let mut pace = Pace::begin(self.cx, "publishing", Unit::Names, Some(total));
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut records = sections.index.records()?;
        while let Some(record) = records.next()? {
            self.go_on()?;
            bytes += record.file.as_ref().map_or(0, |file| file.0.len());
            batch.push(Entry::read(record)?);
            if batch.len() >= NAMES_AT_A_TIME || bytes >= BYTES_AT_A_TIME {
                self.publish_batch(&mut batch, report)?;
                bytes = 0;
            }
            pace.add(1, 0);
        }
        self.publish_batch(&mut batch, report)?;
        pace.end();
        if report.names_kept > 0 {
            report.notes.push(format!(
                "kept {} index entries as they are here: they were confirmed, by upstream or by a \
                 later bundle, after those of this bundle were seen",
                report.names_kept
            ));
        }
        Ok(())
    }

    /// What is to be done is decided when all the slow work is: upstream may be asked meanwhile. An
    /// answer that comes between the decision and the record of the store is overwritten, and asked
    /// for again with the next request, because the bundle's time is older than its own.
    fn publish_batch(
        &self,
        batch: &mut Vec<Entry>,
        report: &mut ImportReport,
    ) -> Result<(), Error> {
        let mut plan = Plan::default();
        for entry in batch.drain(..) {
            self.take_entry(entry, &mut plan, report)?;
        }
        // First the marks: one whose entry did not come in fits no entry, and means nothing.
        self.store.keep(Table::Imports, plan.marks)?;
        self.store.publish(plan.changes, self.now)?;
        Ok(())
    }

    /// Which of two index entries of a name is newer. `file`: the bundle's, where it is in it.
    fn rank(
        &self,
        held: &EntryFacts,
        record: &IndexRecord,
        file: Option<&IndexFile>,
    ) -> Result<Rank, Error> {
        let name = &record.name;
        let kept = self.store.kept(Table::Imports, &Mark::key(name))?;
        let word = Word::of(held, kept.as_deref(), self.now);
        Ok(word.rank(record.seen, self.now, || {
            let had = self.store.releases(name).unwrap_or_default();
            file.map(|file| content(file, &had))
        }))
    }

    fn take_entry(
        &self,
        entry: Entry,
        plan: &mut Plan,
        report: &mut ImportReport,
    ) -> Result<(), Error> {
        let Entry { record, file } = entry;
        let name = record.name.clone();
        let held = self.store.entry(&name)?.filter(|held| held.has_snapshot);
        let is_same = held.as_ref().is_some_and(|held| is_same(&record, held));
        let is_older = match &held {
            Some(held) => self.rank(held, &record, file.as_ref())? == Rank::Older,
            None => false,
        };
        match (is_same, is_older) {
            (true, _) => report.names_held += 1,
            (false, true) => report.names_kept += 1,
            (false, false) => report.names += 1,
        }
        if self.dry_run || is_older {
            return Ok(());
        }
        let was_gone = held.as_ref().is_some_and(|held| held.gone);
        // One that came back has to be told even if its file is the same, and was left out.
        let is_back = is_same && was_gone && !record.gone;
        let file = match file {
            None if is_back => self.own_file(&name)?,
            file => file,
        };
        let checked = from_millis(record.seen).min(self.now);
        let mut confirmed = held
            .as_ref()
            .map_or(checked, |held| held.checked.max(checked));
        let mut changes = Vec::new();
        if let Some(file) = file.filter(|_file| !is_same || is_back) {
            confirmed = checked;
            changes.push(Change::Index {
                name: name.clone(),
                file,
                validators: Validators {
                    etag: record.etag.clone(),
                    last_modified: record.last_modified.clone(),
                },
                checked,
            });
        }
        if record.gone && !was_gone {
            let name = name.clone();
            changes.push(Change::Gone { name, checked });
        }
        if !changes.is_empty() {
            let mark = Mark::new(record.seen, confirmed, self.now);
            plan.marks.push((Mark::key(&name), Some(mark.encode())));
            plan.changes.append(&mut changes);
        }
        Ok(())
    }

    fn own_file(&self, name: &CrateName) -> Result<Option<IndexFile>, Error> {
        let snapshot = self.store.snapshot(name)?;
        Ok(snapshot.and_then(|snapshot| IndexFile::parse(name, snapshot.bytes).ok()))
    }

    /// Lists the crate files of the bundle that nobody can ask for, because the index here has
    /// another entry than the bundle.
    fn note_unlisted(
        &self,
        sections: &mut Sections,
        report: &mut ImportReport,
    ) -> Result<(), Error> {
        let mut records = sections.crates.records()?;
        while let Some(record) = records.next()? {
            self.go_on()?;
            let listed = self.store.release(&record.release())?;
            if record.left_out
                || listed.is_some_and(|facts| facts.checksum == record.sha256 && !facts.removed)
            {
                continue;
            }
            report.unlisted_count += 1;
            if report.unlisted.len() < MAX_TOLD {
                report.unlisted.push(spec(&record.name, &record.version));
            }
        }
        Ok(())
    }

    fn merge(&self, sections: &mut Sections, report: &mut ImportReport) -> Result<(), Error> {
        let mut events: Vec<Event> = Vec::new();
        let mut records = sections.journal.records()?;
        while let Some(record) = records.next()? {
            self.go_on()?;
            events.push(record);
            if events.len() >= EVENTS_AT_A_TIME {
                report.events += self.store.merge_events(std::mem::take(&mut events))?;
            }
        }
        report.events += self.store.merge_events(events)?;
        Ok(())
    }

    /// Counts the versions of the bundle's index entries whose files are not here: the index lists
    /// them all the same, as upstream's does.
    fn note_absent(&self, sections: &mut Sections, report: &mut ImportReport) -> Result<(), Error> {
        let mut records = sections.index.records()?;
        while let Some(record) = records.next()? {
            self.go_on()?;
            let releases = self.store.releases(&record.name)?;
            let absent = releases
                .iter()
                .filter(|facts| !facts.held && !facts.removed);
            report.absent += absent.count() as u64;
        }
        Ok(())
    }
}

/// A crate file that is whole, and whose it is.
struct Whole(Reservation, Release);

/// The index file, where it is not left out.
fn parse(record: &IndexRecord) -> Result<Option<IndexFile>, Error> {
    let parse = |bytes: &ExactBytes| {
        IndexFile::parse(&record.name, bytes.0.clone())
            .map_err(|error| Error::malformed(IndexRecord::FILE, one_line(&error)))
    };
    record.file.as_ref().map(parse).transpose()
}

/// Whether the store has this very file.
fn is_same(record: &IndexRecord, held: &EntryFacts) -> bool {
    match (record.left_out, &record.file) {
        (Some(digest), _) => Digest(held.digest) == digest,
        (None, Some(file)) => held.describes(&file.0),
        (None, None) => false,
    }
}

/// What a delta leaves out and this store does not have.
#[derive(Default)]
struct Lacking {
    count: u64,
    examples: Vec<String>,
}

impl Lacking {
    fn note(&mut self, is_here: bool, what: impl FnOnce() -> String) {
        if is_here {
            return;
        }
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what());
        }
    }

    fn check(self, base: Option<Id>) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        let more = if self.count > EXAMPLES as u64 {
            ", …"
        } else {
            ""
        };
        Err(Error::OtherBase {
            base: base.map_or_else(|| "none".to_owned(), short),
            missing: self.count,
            examples: format!("{}{more}", self.examples.join(", ")),
        })
    }
}

/// Enough of an id to tell it from others.
fn short(id: Id) -> String {
    id.to_hex().chars().take(16).collect()
}
