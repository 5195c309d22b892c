//! Copying the store while it is used: a stream of frames that a command makes a folder of, and the
//! way back from such a folder.
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
//! index.gz kept.gz      the dump ([`dump`])
//! blobs.list            sha256 and length of each crate file, a line each
//! blobs/ab/<sha256>.raw the crate files, as in the store
//! git/… key/…           the repositories without what they make anew, and the key
//! ```

pub mod dump;
pub mod frames;
mod repository;

use std::{
    fs::{self, File},
    io::{self, Read},
    ops::ControlFlow,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::atomic::AtomicBool,
};

use serde::{Deserialize, Serialize};

use self::frames::{Sender, Summary};
use super::{
    Mirror,
    jobs::{Asker, Fault, Files, JobError, Teller, Unit},
    patient::Patient,
};
use crate::{git::Repo, store::Store};

/// How often the repository and the journal are looked at again because a generation was cut in
/// between. One is cut only after a quiet time of seconds.
const TRIES: usize = 20;

/// What is copied at once.
const BUFFER: usize = 256 << 10;

/// The longest file of a key.
const MOST_KEY_BYTES: u64 = 64 << 10;

/// How often progress is told, in things done.
const TOLD_EVERY: u64 = 256;

/// What to copy. One file: the writing end of a pipe, for a stream of [`frames`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BackupRequest {}

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
    /// The newest generation of the git index; `None`: there is none.
    pub generation: Option<u64>,
    /// Whether there is a key that bundles are signed with, which this asker does not get.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub key_left_out: bool,
}

impl Mirror {
    pub(super) async fn backup(
        &self,
        _request: BackupRequest,
        asker: &Asker,
        files: Files,
        teller: Teller,
    ) -> Result<BackupReport, JobError> {
        let pipe = one_file(files)?;
        let inner = &self.inner;
        let backup = Backup {
            store: inner.store.clone(),
            repo: self.git().cloned(),
            views: inner.options().views.dir.clone(),
            keys: inner.options().bundle.key_dir.clone(),
            with_keys: asker.is_owner(),
            now: inner.clock.now(),
            teller,
        };
        let job = tokio::task::spawn_blocking(move || {
            let written = backup.write(File::from(pipe));
            // Whatever broke because of it.
            written.map_err(|error| match backup.teller.go_on() {
                Ok(()) => error,
                Err(cancelled) => cancelled,
            })
        });
        job.await.unwrap_or_else(|_panicked| {
            let message = "the backup panicked, which is a defect of orlop";
            Err(JobError::new(Fault::Unavailable, message))
        })
    }
}

/// The one file that a request comes with.
pub(super) fn one_file(files: Files) -> Result<OwnedFd, JobError> {
    let mut files = files.into_iter();
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(JobError::new(
            Fault::Usage,
            "this request comes with exactly one file",
        )),
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
    teller: Teller,
}

impl Backup {
    fn write(&self, pipe: File) -> Result<BackupReport, JobError> {
        let pipe = Patient::new(pipe, self.teller.clone());
        let mut sender = Sender::start(pipe).map_err(|error| gone(&error))?;
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
        sender.end(&summary).map_err(|error| gone(&error))?;
        Ok(report)
    }

    /// The repositories and the journal of one moment: of the git index, the journal never tells a
    /// generation that the copy does not have, or its history would have to begin anew.
    fn moment(&self) -> Result<Moment, JobError> {
        for _ in 0..TRIES {
            self.teller.go_on()?;
            let before = self.repo.as_ref().and_then(Repo::head);
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
            if self.repo.as_ref().and_then(Repo::head) == before {
                return Ok(Moment {
                    files,
                    journal,
                    length,
                    generation: before.map(|head| head.generation),
                });
            }
        }
        Err(JobError::new(
            Fault::Unavailable,
            "the git index changed each time that it was looked at",
        )
        .hint("try again when less is published"))
    }

    fn send_moment(
        &self,
        moment: Moment,
        sender: &mut Sender,
        report: &mut BackupReport,
    ) -> Result<(), JobError> {
        report.generation = moment.generation;
        let bytes = moment.files.iter().map(|file| file.len).sum::<u64>() + moment.length;
        self.teller.phase(
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
            self.teller
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
        sender.file(path, is_secret).map_err(|error| gone(&error))?;
        let mut file = file.take(length);
        let mut buffer = vec![0; BUFFER];
        let mut sent = 0;
        loop {
            self.teller.go_on()?;
            let read = match file.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(path, &error)),
            };
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            sender.data(piece).map_err(|error| gone(&error))?;
            sent += piece.len() as u64;
        }
        if sent != length {
            let message = format!("`{path}` became shorter while it was copied");
            return Err(JobError::new(Fault::Damaged, message));
        }
        sender.file_end().map_err(|error| gone(&error))?;
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
        self.teller
            .phase("copying the index entries", Unit::Names, Some(total));
        let mut told = |names: u64| {
            if names.is_multiple_of(TOLD_EVERY) {
                self.teller.progress(names, Some(total), 0);
            }
            self.teller.is_cancelled()
        };
        sender
            .file("index.gz", false)
            .map_err(|error| gone(&error))?;
        let written = dump::write_index(&self.store, &mut *sender, &mut told);
        report.names = written.map_err(|error| self.dump_error(&error))?;
        self.teller.progress(report.names, Some(report.names), 0);
        sender.file_end().map_err(|error| gone(&error))?;
        sender
            // It has the addresses of clients.
            .file("kept.gz", true)
            .map_err(|error| gone(&error))?;
        dump::write_kept(&self.store, &mut *sender).map_err(|error| self.dump_error(&error))?;
        sender.file_end().map_err(|error| gone(&error))?;
        report.files += 2;
        Ok(())
    }

    fn dump_error(&self, error: &dump::Error) -> JobError {
        match error {
            _ if self.teller.is_cancelled() => JobError::cancelled(),
            dump::Error::Store(error) => JobError::store("the dump", error),
            dump::Error::Io(error) => gone(error),
            dump::Error::Damaged(_) => {
                JobError::new(Fault::Damaged, "the dump cannot be written").because(error)
            }
        }
    }

    fn send_blobs(&self, sender: &mut Sender, report: &mut BackupReport) -> Result<(), JobError> {
        let total = self.store.totals().blobs;
        self.teller
            .phase("naming the crate files", Unit::Crates, Some(total));
        let stop = AtomicBool::new(false);
        let mut trouble = None;
        let visited = self.store.visit_blobs(&stop, |checksum, length| {
            if length == 0 {
                return ControlFlow::Continue(());
            }
            let sent = self
                .teller
                .go_on()
                .and_then(|()| sender.blob(&checksum, length).map_err(|error| gone(&error)));
            if let Err(error) = sent {
                trouble = Some(error);
                return ControlFlow::Break(());
            }
            report.blobs += 1;
            report.blob_bytes += length;
            if report.blobs.is_multiple_of(TOLD_EVERY) {
                self.teller
                    .progress(report.blobs, Some(total), report.blob_bytes);
            }
            ControlFlow::Continue(())
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        visited.map_err(|error| JobError::store("the crate files", &error))?;
        self.teller
            .progress(report.blobs, Some(total), report.blob_bytes);
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
