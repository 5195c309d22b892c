//! Taking in what a lab already has: crate files out of caches, vendor folders and other mirrors.
//!
//! The command walks the folder and sends a tar over a pipe; the job believes nothing of it:
//!
//! ```text
//! group.json     what comes next, and what was found and cannot be taken ([`Group`])
//! index/NAME     an index file that was found in the folder
//! crate          a crate file of the group, in its order; the members repeat
//! ```
//!
//! A crate file is taken where its sha256 is the one that the index gives, or gave, to one of the
//! releases that it may be.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::File,
    io::{self, BufReader, Read},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::archive::Reader;
use crate::{
    jobs::{
        Fault, JobContext, JobError, Services, Unit,
        cancellable_io::CancellableIo,
        job::{Job, JobReport},
        kind::JobKind,
    },
    mirror::Error,
    registry::{Checksum, CrateName, IndexFile, Release},
    store::{Change, Reservation, Validators},
    util::task::{self, Bounded, Next},
};

/// The member that begins a group.
pub const GROUP: &str = "group.json";

/// Where the index files of a group are.
pub const INDEX: &str = "index/";

/// A crate file of a group.
pub const CRATE: &str = "crate";

/// The longest [`Group`].
const MAX_GROUP_BYTES: u64 = 4 << 20;

/// The longest index file that is taken from a folder.
pub const MOST_INDEX_BYTES: u64 = 64 << 20;

/// Index entries asked for at the same time.
const ASKED_AT_ONCE: usize = 16;

/// Crate files that are made durable at the same time: they share the syncs of the disk.
const COMMITTED_AT_ONCE: usize = 8;

/// How many files that did not fit are listed; the rest is counted.
const MOST_LISTED: usize = 10_000;

const BUFFER: usize = 256 << 10;

/// What to take in. One file: the reading end of a pipe, for a tar.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SeedRequest {
    /// How many crate files will come, for the progress.
    #[serde(default)]
    pub files: u64,
}

/// Some files of a folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The crates that the files may be of.
    pub names: Vec<String>,
    /// The crate files that follow.
    pub crates: Vec<FoundCrate>,
    /// What was found and cannot be taken.
    pub refused: Vec<FoundMisfit>,
}

/// A crate file that was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundCrate {
    /// Where.
    pub path: String,
    /// Its sha256.
    pub sha256: Checksum,
    /// The names and versions that it may have.
    pub releases: Vec<(String, String)>,
}

/// Something that was found and cannot be taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundMisfit {
    /// Where.
    pub path: String,
    /// Why not.
    pub why: Refusal,
    /// Which release it is, as `NAME@=VERSION`, where that is known.
    pub release: Option<String>,
}

/// Why something does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The index does not know the crate.
    UnknownCrate,
    /// The index does not know the version.
    UnknownVersion,
    /// The index gives the release another checksum.
    OtherChecksum,
    /// It is no crate file.
    NotACrate,
    /// It is unpacked, and the file that it came from cannot be made again.
    Vendored,
    /// It cannot be read.
    Unreadable,
    /// The index could not be asked.
    Unasked,
}

impl Refusal {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::UnknownCrate => "the index does not know the crate",
            Refusal::UnknownVersion => "the index does not know the version",
            Refusal::OtherChecksum => "its checksum is not that of the index",
            Refusal::NotACrate => "it is no crate file",
            Refusal::Vendored => "vendored without its crate file",
            Refusal::Unreadable => "it cannot be read",
            Refusal::Unasked => "the index could not be asked",
        }
    }
}

/// Something that did not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misfit {
    /// Where it was found.
    pub path: String,
    /// Why it does not fit.
    pub why: Refusal,
}

/// What was taken in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SeedReport {
    /// Crate files taken in.
    pub taken: u64,
    /// Their bytes.
    pub taken_bytes: u64,
    /// Crate files that were held already.
    pub held: u64,
    /// Index entries that came from the folder, because nobody else could be asked.
    pub entries: u64,
    /// What did not fit, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// The same by path, the first ten thousand.
    pub misfits: Vec<Misfit>,
    /// The releases that are vendored without their crate files, as `NAME@=VERSION`: lines for
    /// `orlop sync --list`. The first ten thousand.
    pub vendored: Vec<String>,
}

impl JobReport for SeedReport {
    const NAME: &'static str = "seed";

    fn has_problems(&self) -> bool {
        !self.refused.is_empty()
    }
}

impl Job for SeedRequest {
    const NAME: &'static str = "seed";
    const COMMAND: &'static str = "import --from-dir";
    type Report = SeedReport;

    fn kind(&self) -> JobKind {
        JobKind::Import
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<SeedReport, JobError> {
        let pipe = File::from(cx.take_only_file()?);
        task::blocking(move || {
            let seeding = Seeding {
                services: &services,
                cx: &cx,
                total: self.files,
                given: HashMap::new(),
                has_asked: false,
                faults: HashMap::new(),
                waiting: Vec::new(),
                report: SeedReport::default(),
                done: 0,
            };
            let pipe = CancellableIo::new(pipe, cx.clone());
            let run = seeding.run(BufReader::with_capacity(BUFFER, pipe));
            // Whatever broke because of it.
            run.map_err(|error| match cx.check_cancelled() {
                Ok(()) => error,
                Err(cancelled) => cancelled,
            })
        })
        .await?
    }
}

struct Seeding<'a> {
    services: &'a Services,
    cx: &'a JobContext,
    total: u64,
    /// Index files of the folder, of the crates that come next.
    given: HashMap<CrateName, Bytes>,
    /// Whether a group asked for index entries.
    has_asked: bool,
    /// Why the index of a crate could not be asked.
    faults: HashMap<CrateName, Refusal>,
    /// Received, and to be made durable together.
    waiting: Vec<(Reservation, Release)>,
    report: SeedReport,
    done: u64,
}

impl Seeding<'_> {
    fn run(mut self, input: impl Read) -> Result<SeedReport, JobError> {
        self.cx
            .phase("taking crate files in", Unit::Crates, Some(self.total));
        let mut input = Reader::new(input);
        let mut coming = VecDeque::new();
        while let Some(member) = input.next_member().map_err(|error| broke_off(&error))? {
            self.cx.check_cancelled()?;
            if member.path == GROUP {
                coming = self.begin_group(&mut input)?;
            } else if let Some(name) = member.path.strip_prefix(INDEX) {
                self.take_index(name, member.len, &mut input)?;
            } else {
                let found = coming.pop_front().filter(|_| member.path == CRATE);
                let unknown = || broke_off(&io::Error::other("a file came that is in no group"));
                self.take_crate(found.ok_or_else(unknown)?, member.len, &mut input)?;
            }
        }
        self.commit()?;
        self.told();
        Ok(self.report)
    }

    fn begin_group(&mut self, input: &mut impl Read) -> Result<VecDeque<FoundCrate>, JobError> {
        let group = serde_json::from_reader(input.take(MAX_GROUP_BYTES));
        let group: Group = group.map_err(|error| broke_off(&error.into()))?;
        self.ask_for(&group.names);
        for misfit in group.refused {
            self.note_vendored(misfit.why, misfit.release);
            self.refuse(misfit.path, misfit.why);
        }
        Ok(group.crates.into())
    }

    fn told(&self) {
        self.cx
            .progress(self.done, Some(self.total), self.report.taken_bytes);
    }

    fn refuse(&mut self, path: String, why: Refusal) {
        self.cx.failed(&path, why.as_str());
        *self.report.refused.entry(why).or_default() += 1;
        if self.report.misfits.len() < MOST_LISTED {
            self.report.misfits.push(Misfit { path, why });
        }
    }

    fn note_vendored(&mut self, why: Refusal, release: Option<String>) {
        let vendored = release.filter(|_| why == Refusal::Vendored);
        if self.report.vendored.len() < MOST_LISTED {
            self.report.vendored.extend(vendored);
        }
    }

    /// Brings the entries of these names into the store, many at a time.
    fn ask_for(&mut self, names: &[String]) {
        self.given.clear();
        self.faults.clear();
        let mut names = names.iter().filter_map(|name| CrateName::parse(name).ok());
        let services = self.services;
        // Only the first group of all may have to open a connection.
        let mut running = if std::mem::replace(&mut self.has_asked, true) {
            Bounded::without_head_start(ASKED_AT_ONCE)
        } else {
            Bounded::new(ASKED_AT_ONCE)
        };
        tokio::runtime::Handle::current().block_on(async {
            loop {
                running.fill(|| {
                    let name = names.next()?;
                    Some(async move {
                        let fault = services.mirror.index_entry(&name).await.err();
                        (name, fault)
                    })
                });
                let (name, why) = match running.next().await {
                    Next::Done((_, None)) | Next::Tick => continue,
                    Next::Done((name, Some(Error::UnknownCrate { .. }))) => {
                        (name, Refusal::UnknownCrate)
                    }
                    Next::Done((name, Some(_))) => (name, Refusal::Unasked),
                    Next::Empty => return,
                };
                self.faults.insert(name, why);
            }
        });
    }

    fn take_index(&mut self, name: &str, len: u64, input: &mut impl Read) -> Result<(), JobError> {
        if len > MOST_INDEX_BYTES {
            return Err(broke_off(&io::Error::other("an index file is too long")));
        }
        let mut bytes = Vec::new();
        let read = input.take(len).read_to_end(&mut bytes);
        read.map_err(|error| broke_off(&error))?;
        if let Ok(name) = CrateName::parse(name) {
            self.given.insert(name, bytes.into());
        }
        Ok(())
    }

    fn take_crate(
        &mut self,
        found: FoundCrate,
        len: u64,
        body: &mut impl Read,
    ) -> Result<(), JobError> {
        self.done += 1;
        let checksum = found.sha256;
        match self.find(&checksum, &found.releases)? {
            Err(why) => self.refuse(found.path, why),
            Ok(_) if self.holds(&checksum)? => self.report.held += 1,
            Ok(release) => self.receive(found.path, release, &checksum, len, body)?,
        }
        if self.done.is_multiple_of(32) {
            self.told();
        }
        Ok(())
    }

    fn holds(&self, checksum: &Checksum) -> Result<bool, JobError> {
        let is_waiting =
            |(reservation, _): &(Reservation, Release)| reservation.expected() == checksum;
        if self.waiting.iter().any(is_waiting) {
            return Ok(true);
        }
        let held = self.services.store.blob_blocking(checksum);
        let held = held.map_err(|error| JobError::store("a crate file", &error))?;
        Ok(held.is_some())
    }

    /// The release whose checksum it is, of those that it may be.
    fn find(
        &mut self,
        checksum: &Checksum,
        releases: &[(String, String)],
    ) -> Result<Result<Release, Refusal>, JobError> {
        let mut why = None;
        for (name, version) in releases {
            let Ok(release) = Release::parse(name, version) else {
                continue;
            };
            match self.compare(checksum, &release)? {
                Ok(()) => return Ok(Ok(release)),
                // The one that is nearest to fitting says most.
                Err(refusal) => why = why.max(Some((nearness(refusal), refusal))),
            }
        }
        Ok(Err(why.map_or(Refusal::NotACrate, |(_, refusal)| refusal)))
    }

    fn compare(
        &mut self,
        checksum: &Checksum,
        release: &Release,
    ) -> Result<Result<(), Refusal>, JobError> {
        let fault = |error: &crate::store::Error| JobError::store(release.name.as_str(), error);
        let store = &self.services.store;
        let known = store.checksums(release).map_err(|error| fault(&error))?;
        if known.iter().any(|known| known.checksum == *checksum) {
            return Ok(Ok(()));
        }
        if !known.is_empty() {
            return Ok(Err(Refusal::OtherChecksum));
        }
        if store
            .entry(&release.name)
            .map_err(|error| fault(&error))?
            .is_some()
        {
            return Ok(Err(Refusal::UnknownVersion));
        }
        match self.faults.get(&release.name) {
            Some(Refusal::Unasked) => self.believe(checksum, release),
            Some(why) => Ok(Err(*why)),
            None => Ok(Err(Refusal::UnknownCrate)),
        }
    }

    /// Takes the folder's own index file, where nobody else can be asked and the file fits to it.
    fn believe(
        &mut self,
        checksum: &Checksum,
        release: &Release,
    ) -> Result<Result<(), Refusal>, JobError> {
        let Some(bytes) = self.given.get(&release.name) else {
            return Ok(Err(Refusal::Unasked));
        };
        let Ok(file) = IndexFile::parse(&release.name, bytes.clone()) else {
            return Ok(Err(Refusal::Unasked));
        };
        match file.row(&release.version) {
            None => return Ok(Err(Refusal::UnknownVersion)),
            Some(row) if row.checksum != *checksum => return Ok(Err(Refusal::OtherChecksum)),
            Some(_) => {}
        }
        let change = Change::Index {
            name: release.name.clone(),
            file,
            validators: Validators::default(),
            // Long ago: upstream is asked as soon as it can be.
            checked: UNIX_EPOCH,
        };
        let now = self.services.clock.now();
        let published = self.services.store.publish(vec![change], now);
        published.map_err(|error| JobError::store(release.name.as_str(), &error))?;
        self.report.entries += 1;
        Ok(Ok(()))
    }

    fn receive(
        &mut self,
        path: String,
        release: Release,
        checksum: &Checksum,
        len: u64,
        body: &mut impl Read,
    ) -> Result<(), JobError> {
        let fault = |error: &crate::store::Error| JobError::store(&path, error);
        let reserved = self.services.store.reserve(checksum, Some(len));
        let mut reservation = reserved.map_err(|error| fault(&error))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            self.cx.check_cancelled()?;
            let read = body.read(&mut buffer).map_err(|error| broke_off(&error))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            reservation.write(piece).map_err(|error| fault(&error))?;
        }
        if reservation.verify().is_err() {
            // It changed after it was looked at.
            self.refuse(path, Refusal::OtherChecksum);
            return Ok(());
        }
        self.report.taken += 1;
        self.report.taken_bytes += len;
        self.waiting.push((reservation, release));
        if self.waiting.len() >= COMMITTED_AT_ONCE {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), JobError> {
        let now = self.services.clock.now();
        let waiting = std::mem::take(&mut self.waiting);
        let commit = |(reservation, release): (Reservation, Release)| {
            let committed = reservation.commit(&release, now);
            committed.map_err(|error| JobError::store(&release.to_string(), &error))
        };
        std::thread::scope(|scope| {
            let hands: Vec<_> = waiting
                .into_iter()
                .map(|one| scope.spawn(move || commit(one).map(drop)))
                .collect();
            hands.into_iter().try_for_each(|hand| {
                hand.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }
}

fn nearness(why: Refusal) -> u8 {
    match why {
        Refusal::OtherChecksum => 4,
        Refusal::UnknownVersion => 3,
        Refusal::Unasked => 2,
        Refusal::UnknownCrate => 1,
        Refusal::NotACrate | Refusal::Vendored | Refusal::Unreadable => 0,
    }
}

fn broke_off(error: &io::Error) -> JobError {
    JobError::new(Fault::Unavailable, "the files of the folder stopped coming")
        .because(error)
        .hint("what was taken in is kept: run the same command again")
}
