//! `orlop export`: write a bundle.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use super::{
    media::{NewFile, NewParts, check_free, fault, parse_size},
    sync::SelectionArgs,
};
use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::{
    Fault, Files, JobError,
    bundle::{ExportReport, ExportRequest},
};
use crate::util::format::size;

/// Write a bundle.
#[derive(Debug, Clone, clap::Args)]
#[command(
    long_about = "\
Write a signed bundle for machines without a network: index entries, crate files and the journal, \
of a selection or of everything held.

Nothing is asked upstream: fetch what is missing with `orlop sync` first. The same state, selection \
and key give the same bytes.",
    after_help = "\
Examples:
  orlop export --out /media/lab.orlop                       everything held
  orlop export --out lab.orlop --lockfile Cargo.lock        what one lockfile needs
  orlop export --out /media/lab.orlop --split 4G            in parts lab.orlop.001, .002, …
  orlop export --out new.orlop --since lab.orlop.receipt    what the other side does not have yet
  orlop export --out - | ssh airlock 'cat > lab.orlop'

The first export makes the key of this store; machines that import name its public half
(`orlop key show`) in `import.trust`, or with `--trust`.

Exit codes: 0 well; 1 something chosen is not held (it is listed, and the bundle is good for the
rest; where nothing of it is held, there is no bundle); 2 wrong usage; 3 unavailable, such as a full disk; 4 damaged data; 130 cancelled."
)]
pub struct ExportArgs {
    /// Where the bundle goes; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The receipt of an import: what the machine that wrote it has is left out.
    #[arg(long, value_name = "RECEIPT")]
    pub since: Option<PathBuf>,
    /// Cut the bundle into parts of at most this size: `700M`, `4G`.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub split: Option<u64>,
    /// Sign with this key instead of the store's.
    #[arg(long, value_name = "KEYFILE", conflicts_with = "unsigned")]
    pub sign: Option<PathBuf>,
    /// Do not sign; the import has to say so, too.
    #[arg(long)]
    pub unsigned: bool,
    /// Replace files that are there.
    #[arg(long)]
    pub force: bool,
    /// What is in it; nothing said: everything held.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Where the bundle goes.
enum Out {
    Stdout,
    File(NewFile),
    Parts(NewParts),
}

impl ExportArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let selection = self.selection.read()?;
        let (mut target, bundle) = self.begin().map_err(Error::Job)?;
        let mut files: Files = vec![bundle];
        for path in [&self.since, &self.sign].into_iter().flatten() {
            let file = File::open(path).map_err(|error| Error::Job(fault("open", path, &error)))?;
            files.push(file.into());
        }
        let request = ExportRequest {
            selection,
            since: self.since.is_some(),
            key: self.sign.is_some(),
            unsigned: self.unsigned,
        };
        let keep = |report: &mut ExportReport| {
            if report.nothing {
                return Ok(());
            }
            target.keep_for(report)
        };
        // Where stdout is the bundle, what is told goes to stderr.
        let mut stderr = io::stderr();
        let is_stdout = self.out.as_os_str() == "-";
        let out = if is_stdout { &mut stderr } else { out };
        let outcome = job::run_then(&self.job, request, files, out, keep, print);
        match outcome {
            Ok(()) => Ok(()),
            Err(Error::Job(error)) => Err(Error::Job(target.explain(error))),
            Err(error) => Err(error),
        }
    }

    fn begin(&self) -> Result<(Out, std::os::fd::OwnedFd), JobError> {
        if self.out.as_os_str() == "-" {
            return self.begin_stdout();
        }
        if self.out.is_dir() {
            let text = format!("`{}` is a folder", self.out.display());
            let hint = "name the file that the bundle is to be: `--out FOLDER/lab.orlop`";
            return Err(JobError::new(Fault::Usage, text).hint(hint));
        }
        check_free(&self.out, self.split.is_some(), self.force)?;
        if let Some(part_bytes) = self.split {
            let (parts, bundle) = NewParts::begin(&self.out, part_bytes)?;
            return Ok((Out::Parts(parts), bundle));
        }
        let (file, bundle) = NewFile::begin(&self.out)?;
        Ok((Out::File(file), bundle))
    }

    fn begin_stdout(&self) -> Result<(Out, std::os::fd::OwnedFd), JobError> {
        let usage = |text: &str| Err(JobError::new(Fault::Usage, text));
        if self.split.is_some() {
            return usage("stdout cannot be split: name a file with `--out`");
        }
        if io::stdout().is_terminal() {
            return usage("a bundle is no text for a terminal: send stdout elsewhere");
        }
        let bundle = io::stdout().as_fd().try_clone_to_owned();
        let bundle = bundle.map_err(|error| fault("use", Path::new("stdout"), &error))?;
        Ok((Out::Stdout, bundle))
    }
}

impl Out {
    /// The same, and says in the report which they are.
    fn keep_for(&mut self, report: &mut ExportReport) -> Result<(), Error> {
        let paths = self.keep()?;
        report.bundle_bytes = paths
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|file| file.len())
            .sum();
        report.files = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Ok(())
    }

    /// Gives the files their names, and returns these.
    fn keep(&mut self) -> Result<Vec<PathBuf>, Error> {
        match self {
            Out::Stdout => Ok(Vec::new()),
            Out::File(file) => {
                file.keep()?;
                Ok(vec![file.path().to_owned()])
            }
            Out::Parts(parts) => parts.keep(),
        }
    }

    /// A job that found nobody who takes the bundle does not know why.
    fn explain(&mut self, error: JobError) -> JobError {
        match self {
            Out::Parts(parts) if error.fault == Fault::Unavailable => {
                parts.trouble().unwrap_or(error)
            }
            _ => error,
        }
    }
}

fn print(report: &ExportReport, out: &mut dyn Write) -> io::Result<()> {
    if report.nothing {
        writeln!(
            out,
            "nothing of what was selected is held, so that there is no bundle"
        )?;
    } else {
        print_bundle(report, out)?;
    }
    print_rest(report, out)
}

fn print_bundle(report: &ExportReport, out: &mut dyn Write) -> io::Result<()> {
    let total = size(report.bundle_bytes);
    match report.files.as_slice() {
        [] => writeln!(out, "bundle         stdout")?,
        [one] => writeln!(out, "bundle         {one} ({total})")?,
        [first, .., last] => writeln!(
            out,
            "bundle         {first} to {last} ({} parts, {total})",
            report.files.len()
        )?,
    }
    writeln!(out, "id             {}", report.id)?;
    let key = report.key.as_deref().unwrap_or("nobody");
    writeln!(out, "signed by      {key}")?;
    if let Some(base) = &report.base {
        writeln!(out, "since          {base}")?;
    }
    writeln!(
        out,
        "index entries  {}{}",
        report.names,
        left_out(report.names_left_out)
    )?;
    writeln!(
        out,
        "crate files    {}, {}{}",
        report.crates,
        size(report.crate_bytes),
        left_out(report.crates_left_out)
    )
}

fn print_rest(report: &ExportReport, out: &mut dyn Write) -> io::Result<()> {
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for failure in &report.failed {
        writeln!(out, "not chosen: {}: {}", failure.what, failure.cause)?;
    }
    if report.missing_count > 0 {
        writeln!(
            out,
            "not held: {} of what was chosen; `orlop sync` fetches it:",
            report.missing_count
        )?;
        let shown = report.missing.iter().take(SHOWN);
        for what in shown.clone() {
            writeln!(out, "  {what}")?;
        }
        let rest = report.missing_count.saturating_sub(shown.len() as u64);
        if rest > 0 {
            writeln!(out, "  … and {rest} more")?;
        }
    }
    Ok(())
}

/// How many things that are missing are printed.
const SHOWN: usize = 20;

fn left_out(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" ({count} more are there already)"),
    }
}
