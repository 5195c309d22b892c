//! Copying the store while it is used: a tar that a command makes a folder of, and the way back from
//! such a folder.
//!
//! What is small or changes is copied: the prefix of the journal that is durable, the packs of the
//! git indexes, the key that bundles are signed with, and a dump of what sled has and nothing else
//! tells (index files with their validators; small things kept). Crate files never change and are
//! only named: the command links or copies them. The folder, as the command lays it out:
//!
//! ```text
//! MANIFEST              JSON: format 1, when, counts, length and sha256 of each copied file
//! INCOMPLETE            while it is being made; a backup with it is none
//! format journal        as in the store
//! index.jsonl.zst kept.jsonl.zst   the dump ([`dump`])
//! blobs.list            sha256 and length of each crate file, a line each
//! blobs/ab/<sha256>.raw the crate files, as in the store
//! git/… key/…           the repositories without what they make anew, and the key
//! ```
//!
//! The tar has the files but `MANIFEST`, `format` and the crate files, which are only in `blobs.list`.
//! A file comes in pieces, because nobody knows how long the dump will be: a member with the path of
//! the one before goes on with its file. Only whole lines make a piece of `blobs.list`. The last member
//! is `summary.json` ([`Summary`]).

pub mod dump;
mod repository;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    ops::ControlFlow,
    path::PathBuf,
    sync::atomic::AtomicBool,
};

use serde::{Deserialize, Serialize};

use super::archive::{PUBLIC, SECRET, Writer};
use crate::{
    git::Repo,
    git_index::GitIndex,
    jobs::{
        Fault, JobContext, JobError, Services, Unit,
        cancellable_io::CancellableIo,
        job::{Job, JobReport},
        kind::JobKind,
    },
    registry::Checksum,
    store::Store,
    util::{error::one_line, task},
};

/// What is copied at once, and the longest piece.
pub const BUFFER: usize = 256 << 10;

/// The list of crate files.
pub const BLOBS: &str = "blobs.list";

/// The last member.
pub const SUMMARY: &str = "summary.json";

/// The longest file of a key.
const MOST_KEY_BYTES: u64 = 64 << 10;

/// How often progress is told, in things done.
const TOLD_EVERY: u64 = 256;

/// What to copy. One file: the writing end of a pipe, for a tar.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BackupRequest {}

/// What comes last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// When the backup began, by the clock of the job.
    pub at: std::time::SystemTime,
    /// What was copied.
    pub report: BackupReport,
}

/// A line of `blobs.list`.
pub fn blob_line(checksum: &Checksum, length: u64) -> String {
    format!("{checksum} {length}\n")
}

/// What a line of `blobs.list` says; `None`: it is none.
pub fn parse_blob_line(line: &str) -> Option<(Checksum, u64)> {
    let (sum, length) = line.trim_end().split_once(' ')?;
    Some((sum.parse().ok()?, length.parse().ok()?))
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupReport {
    /// Index entries in the dump.
    pub names: u64,
    /// Crate files named.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Files copied byte for byte.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// A generation that the copied git index has, its newest or nearly so; `None`: there is none.
    pub generation: Option<u64>,
    /// Whether there is a key that bundles are signed with, which this caller does not get.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub key_left_out: bool,
}

impl JobReport for BackupReport {
    const NAME: &'static str = "backup";
}

impl Job for BackupRequest {
    const NAME: &'static str = "backup";
    type Report = BackupReport;

    fn kind(&self) -> JobKind {
        JobKind::Backup
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<BackupReport, JobError> {
        let pipe = cx.take_only_file()?;
        let options = services.options.get();
        let repo = services.git_index.root().and_then(GitIndex::repo);
        let backup = Backup {
            store: services.store.clone(),
            repo: repo.cloned(),
            views: options.views_dir.clone(),
            keys: options.bundle.key_dir.clone(),
            with_keys: cx.caller().is_owner(),
            now: services.clock.now(),
            cx,
        };
        task::blocking(move || {
            let written = backup.write(File::from(pipe));
            // Whatever broke because of it.
            written.map_err(|error| match backup.cx.check_cancelled() {
                Ok(()) => error,
                Err(cancelled) => cancelled,
            })
        })
        .await?
    }
}

struct Backup {
    store: Store,
    repo: Option<Repo>,
    /// Where the repositories of views are.
    views: PathBuf,
    /// The folder of the key.
    keys: PathBuf,
    /// Whether they may be had: with the key, anybody can sign what others believe.
    with_keys: bool,
    now: std::time::SystemTime,
    cx: JobContext,
}

impl Backup {
    fn write(&self, pipe: File) -> Result<BackupReport, JobError> {
        let pipe = CancellableIo::new(pipe, self.cx.clone());
        let mut sender = Sender::new(BufWriter::with_capacity(BUFFER, pipe));
        let mut report = BackupReport::default();
        let moment = self.moment()?;
        self.send_moment(moment, &mut sender, &mut report)?;
        self.send_keys(&mut sender, &mut report)?;
        self.send_dump(&mut sender, &mut report)?;
        self.send_blobs(&mut sender, &mut report)?;
        let summary = Summary {
            at: self.now,
            report: report.clone(),
        };
        let sent = serde_json::to_vec(&summary)
            .map_err(io::Error::from)
            .and_then(|json| sender.member(SUMMARY, PUBLIC, &json))
            .and_then(|()| sender.finish());
        sent.map_err(|error| gone(&error))?;
        Ok(report)
    }

    /// The repositories, and then the journal. The dump comes after both: what the git indexes have
    /// is in the store before, so the dump has it as well.
    fn moment(&self) -> Result<Moment, JobError> {
        let head = self.repo.as_ref().and_then(Repo::head);
        let mut files = Vec::new();
        if let Some(repo) = &self.repo {
            let found = repository::open(repo.dir(), "git/index");
            files.extend(found.map_err(|error| unreadable("the git index", &error))?);
        }
        let views = repository::open_all(&self.views, "git/views");
        files.extend(views.map_err(|error| unreadable("the git index of a view", &error))?);
        let (journal, length) = self
            .store
            .journal_file()
            .map_err(|error| JobError::store("the journal", &error))?;
        Ok(Moment {
            files,
            journal,
            length,
            generation: head.map(|head| head.generation),
        })
    }

    fn send_moment(
        &self,
        moment: Moment,
        sender: &mut Sender,
        report: &mut BackupReport,
    ) -> Result<(), JobError> {
        report.generation = moment.generation;
        let bytes = moment.files.iter().map(|file| file.len).sum::<u64>() + moment.length;
        self.cx.phase(
            "copying the journal and the git index",
            Unit::Bytes,
            Some(bytes),
        );
        self.send_file(
            "journal",
            false,
            moment.journal,
            moment.length,
            sender,
            report,
        )?;
        for file in moment.files {
            self.send_file(&file.path, false, file.file, file.len, sender, report)?;
            self.cx
                .progress(report.file_bytes, Some(bytes), report.file_bytes);
        }
        Ok(())
    }

    fn send_file(
        &self,
        path: &str,
        is_secret: bool,
        file: impl Read,
        length: u64,
        sender: &mut Sender,
        report: &mut BackupReport,
    ) -> Result<(), JobError> {
        let mut pieces = Pieces::begin(sender, path, if is_secret { SECRET } else { PUBLIC });
        let mut file = file.take(length);
        let mut buffer = vec![0; BUFFER];
        let mut sent = 0;
        loop {
            self.cx.check_cancelled()?;
            let read = match file.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(path, &error)),
            };
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            pieces.write_all(piece).map_err(|error| gone(&error))?;
            sent += piece.len() as u64;
        }
        if sent != length {
            let message = format!("`{path}` became shorter while it was copied");
            return Err(JobError::new(Fault::Damaged, message));
        }
        pieces.finish().map_err(|error| gone(&error))?;
        report.files += 1;
        report.file_bytes += sent;
        Ok(())
    }

    fn send_keys(&self, sender: &mut Sender, report: &mut BackupReport) -> Result<(), JobError> {
        let entries = match fs::read_dir(&self.keys) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unreadable("the folder of the key", &error)),
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let opened = File::open(entry.path()).and_then(|file| Ok((file.metadata()?, file)));
            let (found, file) = opened.map_err(|error| unreadable("the key", &error))?;
            if found.is_file() && !self.with_keys {
                report.key_left_out = true;
            } else if found.is_file() && found.len() <= MOST_KEY_BYTES {
                let path = format!("key/{name}");
                self.send_file(&path, true, file, found.len(), sender, report)?;
            }
        }
        Ok(())
    }

    fn send_dump(&self, sender: &mut Sender, report: &mut BackupReport) -> Result<(), JobError> {
        let total = self.store.totals().names;
        self.cx
            .phase("copying the index entries", Unit::Names, Some(total));
        let mut told = |names: u64| {
            if names.is_multiple_of(TOLD_EVERY) {
                self.cx.progress(names, Some(total), 0);
            }
            self.cx.is_cancelled()
        };
        let mut pieces = Pieces::begin(sender, dump::INDEX, PUBLIC);
        let written = dump::write_index(&self.store, &mut pieces, &mut told);
        report.names = written.map_err(|error| self.dump_error(&error))?;
        self.cx.progress(report.names, Some(report.names), 0);
        pieces.finish().map_err(|error| gone(&error))?;
        // It has the addresses of clients.
        let mut pieces = Pieces::begin(sender, dump::KEPT, SECRET);
        dump::write_kept(&self.store, &mut pieces).map_err(|error| self.dump_error(&error))?;
        pieces.finish().map_err(|error| gone(&error))?;
        report.files += 2;
        Ok(())
    }

    fn dump_error(&self, error: &dump::Error) -> JobError {
        match error {
            _ if self.cx.is_cancelled() => JobError::cancelled(),
            dump::Error::Store(error) => JobError::store("the dump", error),
            dump::Error::Io(error) => gone(error),
        }
    }

    fn send_blobs(&self, sender: &mut Sender, report: &mut BackupReport) -> Result<(), JobError> {
        let total = self.store.totals().blobs;
        self.cx
            .phase("naming the crate files", Unit::Crates, Some(total));
        let stop = AtomicBool::new(false);
        let mut trouble = None;
        let mut pieces = Pieces::begin(sender, BLOBS, PUBLIC);
        let visited = self.store.visit_blobs(&stop, |checksum, length| {
            if length == 0 {
                // An empty one counts as not cached; one that cannot be looked at does not.
                if let Err(error) = self.store.blob_bytes(&checksum) {
                    self.cx.failed(checksum, one_line(&error));
                }
                return ControlFlow::Continue(());
            }
            let sent = self.cx.check_cancelled().and_then(|()| {
                let line = blob_line(&checksum, length);
                pieces.whole(line.as_bytes()).map_err(|error| gone(&error))
            });
            if let Err(error) = sent {
                trouble = Some(error);
                return ControlFlow::Break(());
            }
            report.blobs += 1;
            report.blob_bytes += length;
            if report.blobs.is_multiple_of(TOLD_EVERY) {
                self.cx
                    .progress(report.blobs, Some(total), report.blob_bytes);
            }
            ControlFlow::Continue(())
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        visited.map_err(|error| JobError::store("the crate files", &error))?;
        pieces.finish().map_err(|error| gone(&error))?;
        self.cx
            .progress(report.blobs, Some(total), report.blob_bytes);
        Ok(())
    }
}

/// The job's end of the pipe.
type Sender = Writer<BufWriter<CancellableIo<File>>>;

/// A file on its way, in pieces.
struct Pieces<'a> {
    sender: &'a mut Sender,
    path: &'a str,
    mode: u32,
    /// What no piece has yet.
    piece: Vec<u8>,
    is_begun: bool,
}

impl<'a> Pieces<'a> {
    fn begin(sender: &'a mut Sender, path: &'a str, mode: u32) -> Pieces<'a> {
        Pieces {
            sender,
            path,
            mode,
            piece: Vec::new(),
            is_begun: false,
        }
    }

    fn send(&mut self) -> io::Result<()> {
        self.is_begun = true;
        self.sender.member(self.path, self.mode, &self.piece)?;
        self.piece.clear();
        Ok(())
    }

    /// Writes bytes that are not cut between two pieces.
    fn whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.piece.len() + bytes.len() > BUFFER {
            self.send()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if self.piece.is_empty() && self.is_begun {
            return Ok(());
        }
        self.send()
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.get(..BUFFER).unwrap_or(bytes);
        self.whole(some)?;
        Ok(some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What belongs together, opened so that nothing can take it away.
struct Moment {
    files: Vec<repository::Opened>,
    journal: File,
    length: u64,
    generation: Option<u64>,
}

fn gone(error: &io::Error) -> JobError {
    JobError::new(
        Fault::Unavailable,
        "the command that asked for the backup takes no more of it",
    )
    .because(error)
}

fn unreadable(what: &str, error: &io::Error) -> JobError {
    JobError::new(Fault::Unavailable, format!("{what} cannot be read")).because(error)
}

/// What a manifest says. Format 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the backup.
    pub format: u32,
    /// The version of orlop that made it.
    pub version: String,
    /// When, for people.
    pub at: String,
    /// What was copied.
    pub copied: BackupReport,
    /// The files but the crate files, in the order in which they were written.
    pub files: Vec<ManifestFile>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its path in the backup, and in the store that is made of it.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// Its sha256.
    pub sha256: String,
}

/// The format of backups that this build writes and reads.
pub const FORMAT: u32 = 1;
