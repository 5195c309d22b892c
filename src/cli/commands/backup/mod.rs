//! `orlop backup`: copy the store while it is used.

pub(super) mod folder;

use std::{io::Write, path::PathBuf};

use self::folder::{Folder, Laid};
use crate::{
    cli::{
        Error,
        job::{self, JobArgs},
        load,
    },
    jobs::{Fault, JobError, backup::BackupRequest},
    util::format::size,
};

/// Copy the store while it is used.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
A folder of an earlier backup is brought up to date: crate files that it has are not copied
again, and those that the store no longer has stay. On the file system of the store, crate files
are hard links and take no room; a copy elsewhere is what survives a broken disk.
The key that bundles are signed with is in it only where the user of the server, or root, makes it.
While it is being made the folder has a file INCOMPLETE, and `orlop restore` refuses it.

Examples:
  orlop backup /mnt/backup/orlop
  orlop restore /mnt/backup/orlop --data /srv/orlop

Exit codes: 0 well, 2 usage, 3 unavailable, 4 damaged data, 130 cancelled.")]
pub struct BackupArgs {
    /// The folder of the backup; it is made where there is none.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl BackupArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let data = load(&self.job.settings)?.config.store.dir;
        let folder = Folder::begin(&self.dir, &data).map_err(Error::Job)?;
        let (reader, writer) = std::io::pipe().map_err(|error| {
            let message = "could not make a pipe";
            Error::Job(JobError::new(Fault::Unavailable, message).because(&error))
        })?;
        let laying = std::thread::spawn(move || folder.lay(reader));
        let request = BackupRequest::default();
        let mut report = None;
        let ran = job::run(
            &self.job,
            request,
            vec![writer.into()],
            out,
            |told, _out| {
                report = Some(told.clone());
                Ok(())
            },
        );
        let laid = laying.join().unwrap_or_else(|_panicked| {
            let message = "writing the backup panicked, which is a defect of orlop";
            Err(JobError::new(Fault::Unavailable, message))
        });
        let laid = sorted_out(ran, laid)?;
        if let Some(report) = report {
            print(&report, &laid, out)?;
        }
        Ok(())
    }
}

/// Each end fails when the other does: what is told is what failed first.
fn sorted_out(ran: Result<(), Error>, laid: Result<Laid, JobError>) -> Result<Laid, Error> {
    match (ran, laid) {
        (Ok(()), laid) => laid.map_err(Error::Job),
        (Err(error), Ok(_)) => Err(error),
        (Err(job), Err(folder)) if folder::is_consequence(&folder) => Err(job),
        (Err(Error::Job(job)), Err(_)) if job.fault == Fault::Cancelled => Err(Error::Job(job)),
        (Err(_job), Err(folder)) => Err(Error::Job(folder)),
    }
}

fn print(
    report: &crate::jobs::backup::BackupReport,
    laid: &Laid,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let generation = match report.generation {
        Some(number) => format!("generation {number}"),
        None => "none".to_owned(),
    };
    writeln!(out, "index entries   {}", report.names)?;
    writeln!(out, "git index       {generation}")?;
    writeln!(
        out,
        "crate files     {} ({}): {} linked, {} copied, {} there before",
        report.blobs,
        size(report.blob_bytes),
        laid.linked,
        laid.copied,
        laid.kept
    )?;
    if report.key_left_out {
        writeln!(
            out,
            "signing key     left out: only the user of the server and root get it"
        )?;
    }
    if laid.left > 0 {
        let left = laid.left;
        writeln!(
            out,
            "left            {left} crate files that the store no longer has"
        )?;
    }
    writeln!(out, "the backup in `{}` is whole", laid.dir.display())
}
