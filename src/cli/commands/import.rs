//! `orlop import`: take a bundle in, or what a lab already has.

use std::{
    io::{self, Write},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::media::{Feed, NewFile, fault, receipt_path};
use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::{
    Fault, Files, JobError,
    bundle::{ImportReport, ImportRequest},
};
use crate::util::format::size;

/// Take a bundle in.
#[derive(Debug, Clone, clap::Args)]
#[command(
    long_about = "\
Take a bundle in that `orlop export` wrote. Its signature and the hash of every byte are verified, \
and no index entry of it is visible before all that it needs is here. An import that was \
interrupted is begun again with the same command: what is here is passed over.

A bundle is taken when it is signed with a key that `import.trust` or `--trust` names, or with this \
store's own.",
    after_help = "\
Examples:
  orlop import /media/lab.orlop
  orlop import /media/lab.orlop.0*            all parts, in any order
  orlop import lab.orlop --trust orlop-ed25519:…
  orlop import lab.orlop --dry-run            verify it, and change nothing
  ssh airlock cat lab.orlop | orlop import -
  orlop import --from-dir ~/.cargo            what this machine has already

The receipt tells what this machine has now. Carry it back: `orlop export --since RECEIPT` then
writes only what is missing here.

Exit codes: 0 well; 1 crate files came in that the index here does not list, because its entry was
confirmed later than the bundle's, or with `--from-dir` something did not fit (it is listed);
2 wrong usage: a key that is not trusted, a newer format, a delta for another
state; 3 unavailable, such as a full disk; 4 the bundle is cut short or altered, or is none; 130
cancelled (what was taken in is kept)."
)]
pub struct ImportArgs {
    /// The bundle, or all its parts; `-` is stdin.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Take in the crate files that a folder has: a cargo cache, a local registry, another
    /// mirror's tree, plain files. Each must have the checksum that the index gives it.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["files", "trust", "unsigned", "receipt", "dry_run"]
    )]
    pub from_dir: Option<PathBuf>,
    /// With `--from-dir`: write the vendored crates, whose crate files cannot be made again, to this
    /// file, for `orlop sync --list FILE`.
    #[arg(long, value_name = "FILE", requires = "from_dir")]
    pub vendored_list: Option<PathBuf>,
    /// A public key to trust this time, as `orlop key show` prints it. May be given often.
    #[arg(long, value_name = "PUBKEY")]
    pub trust: Vec<String>,
    /// Take a bundle that nobody signed.
    #[arg(long)]
    pub unsigned: bool,
    /// Where the receipt goes [default: FILE.receipt next to the bundle].
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Verify the bundle, say what it would bring, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl ImportArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        if let Some(dir) = &self.from_dir {
            return super::seed::run(&self.job, dir, self.vendored_list.as_deref(), out);
        }
        if self.files.is_empty() {
            let error = JobError::new(Fault::Usage, "nothing is named that could be taken in");
            return Err(Error::Job(error.hint(
                "`orlop import FILE` takes a bundle, `orlop import --from-dir DIR` the crate files of a folder",
            )));
        }
        let (mut feed, bundle) = self.begin().map_err(Error::Job)?;
        let mut receipt = self.begin_receipt().map_err(Error::Job)?;
        let mut files: Files = vec![bundle];
        let mut new_receipt = None;
        if let Some((new, file)) = receipt.take() {
            files.push(file);
            new_receipt = Some(new);
        }
        let request = ImportRequest {
            trust: self.trust.clone(),
            unsigned: self.unsigned,
            dry_run: self.dry_run,
            receipt: new_receipt.is_some(),
            parts: feed
                .as_ref()
                .map(|feed| feed.parts.clone())
                .unwrap_or_default(),
        };
        let path = new_receipt.as_ref().map(|new| new.path().to_owned());
        // The report comes last: then the receipt has its name.
        let keep = |_report: &mut ImportReport| match new_receipt.as_mut() {
            Some(new) => new.keep(),
            None => Ok(()),
        };
        let print =
            |report: &ImportReport, out: &mut dyn Write| print(report, path.as_deref(), out);
        match job::run_then(&self.job, request, files, out, keep, print) {
            Err(Error::Job(error)) => Err(Error::Job(match &mut feed {
                Some(feed) => feed.explain(error),
                None => error,
            })),
            outcome => outcome,
        }
    }

    fn is_stdin(&self) -> bool {
        self.files.iter().any(|path| path.as_os_str() == "-")
    }

    fn begin(&self) -> Result<(Option<Feed>, OwnedFd), JobError> {
        if !self.is_stdin() {
            let (feed, bundle) = Feed::begin(&self.files)?;
            return Ok((Some(feed), bundle));
        }
        if self.files.len() > 1 {
            let text = "stdin is a whole bundle: name no file besides `-`";
            return Err(JobError::new(Fault::Usage, text));
        }
        let bundle = io::stdin().as_fd().try_clone_to_owned();
        let bundle = bundle.map_err(|error| fault("use", Path::new("stdin"), &error))?;
        Ok((None, bundle))
    }

    /// Where nobody asked for a receipt, media that cannot be written to are no reason to stop.
    fn begin_receipt(&self) -> Result<Option<(NewFile, OwnedFd)>, JobError> {
        if self.dry_run {
            return Ok(None);
        }
        if let Some(path) = &self.receipt {
            return NewFile::begin(path).map(Some);
        }
        let Some(first) = self.files.first().filter(|_| !self.is_stdin()) else {
            return Ok(None);
        };
        let path = receipt_path(first);
        Ok(NewFile::begin(&path)
            .inspect_err(|error| {
                crate::cli::tell(&format!(
                    "note: no receipt is written next to the bundle ({}); name a place for it with \
                     `--receipt`\n",
                    error.causes.join(": ")
                ));
            })
            .ok())
    }
}

fn print(report: &ImportReport, receipt: Option<&Path>, out: &mut dyn Write) -> io::Result<()> {
    if report.dry_run {
        writeln!(
            out,
            "the bundle is good; nothing was changed. It would bring:"
        )?;
    }
    writeln!(out, "bundle         {}", report.id)?;
    let key = report.key.as_deref().unwrap_or("nobody");
    writeln!(out, "signed by      {key}")?;
    if let Some(base) = &report.base {
        writeln!(out, "since          {base}")?;
    }
    let held = |count: u64| match count {
        0 => String::new(),
        count => format!(" ({count} were here)"),
    };
    writeln!(
        out,
        "index entries  {} new{}",
        report.names,
        held(report.names_held)
    )?;
    writeln!(
        out,
        "crate files    {} new, {}{}",
        report.crates,
        size(report.crate_bytes),
        held(report.crates_held)
    )?;
    if report.absent > 0 {
        writeln!(
            out,
            "not held       {} versions that these index entries list",
            report.absent
        )?;
    }
    if let (Some(path), Some(_id)) = (receipt, &report.receipt) {
        writeln!(out, "receipt        {}", path.display())?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    print_unlisted(report, out)
}

/// How many crate files that are not listed are printed.
const SHOWN: usize = 20;

fn print_unlisted(report: &ImportReport, out: &mut dyn Write) -> io::Result<()> {
    if report.unlisted_count == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "not listed: the index here does not have {} of the crate files; `orlop refresh` asks \
         upstream, and a whole export brings what it confirms:",
        report.unlisted_count
    )?;
    let shown = report.unlisted.iter().take(SHOWN);
    for what in shown.clone() {
        writeln!(out, "  {what}")?;
    }
    let rest = report.unlisted_count.saturating_sub(shown.len() as u64);
    if rest > 0 {
        writeln!(out, "  … and {rest} more")?;
    }
    Ok(())
}
