//! `orlop sync`: fetch a selection ahead, and the arguments by which any command names one.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::stats::set_run;
use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::{
    Failure as Failed, Fault, JobError,
    select::{NamedText, Selection},
    sync::{SetInfo, SyncReport, SyncRequest},
};
use crate::util::format::{size, time};

/// What a file of a selection may have at most: ten times the largest lockfile that people have.
const MOST_FILE_BYTES: u64 = 16 << 20;

/// How many failures are printed; the rest are in the store (`orlop stats`) and in `--json`.
const SHOWN_FAILURES: usize = 20;

/// What a selection means, for `--help`.
pub(super) const SELECTION_HELP: &str = "\
What is selected:
  A lockfile stands for exactly the releases that it names, yanked ones too; their checksums are
  compared with the index. Git and path dependencies and other registries are passed over, and
  said. All formats of Cargo.lock (1 to 4) are read.

  `--crate NAME[@REQ]` and the lines of `--list` stand for every version that matches and is not
  yanked, with its dependencies: whatever cargo could choose for any target, with any feature and
  any optional dependency, is there. Normal and build dependencies are followed, dev-dependencies
  are not. REQ is what stands in a Cargo.toml: `1.2.3` means `^1.2.3` as with `cargo add`, `=1.2.3`
  that version alone, no REQ any version. Prereleases come only where a requirement names one.

  `--latest` takes only the newest version that matches each requirement: much less, enough to
  build with new lockfiles, but not for older ones.

  A lockfile is the smallest by far, often some hundred releases. By comparison, in autumn 2026
  `--crate serde@1 --crate tokio@1` was 28,548 releases, because optional dependencies lead far, and
  `--crate serde_json@1.0.154 --latest` 2,038 crates of 349 MB. How much it is, is said before the
  first file is fetched; `--dry-run` says it and ends there.

  `--all` takes every version of every name that the mirror knows, yanked ones too. With an
  upstream git index (`upstream.git_index`) these are all names of the registry; without one, those
  that were asked for so far.

Exit codes: 0 all is held; 1 something failed (it is listed, recorded and tried again at the next
sync of anything, whose exit code it does not decide; what clients brought meanwhile, and what is
not in the index and no saved set wants, is cleared by it); 2 wrong usage; 3 unavailable; 4 damaged data; 130 cancelled (what was fetched is kept).";

/// Which crates are meant.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Selection")]
pub struct SelectionArgs {
    /// The releases that a Cargo.lock names; `-` is stdin. May be given often.
    #[arg(long, value_name = "FILE")]
    pub lockfile: Vec<PathBuf>,
    /// A crate, or `NAME@REQ`, with its dependencies. May be given often.
    #[arg(long = "crate", value_name = "NAME[@REQ]")]
    pub krate: Vec<String>,
    /// A file with one `NAME[@REQ]` a line, `#` begins a comment; `-` is stdin. May be given often.
    #[arg(long, value_name = "FILE")]
    pub list: Vec<PathBuf>,
    /// Every name that the mirror knows.
    #[arg(long)]
    pub all: bool,
    /// Only the newest version that matches.
    #[arg(long)]
    pub latest: bool,
    /// A saved set (`orlop sync --save NAME`). May be given often.
    #[arg(long = "set", value_name = "NAME")]
    pub set: Vec<String>,
}

impl SelectionArgs {
    fn names_something(&self) -> bool {
        let given = [&self.lockfile, &self.list].map(Vec::is_empty);
        let named = [&self.krate, &self.set].map(Vec::is_empty);
        self.all || given.contains(&false) || named.contains(&false)
    }

    /// Reads the files that are named, and makes a selection of all.
    ///
    /// # Errors
    /// A file cannot be read, is too large or is no text; stdin is named twice.
    pub fn read(&self) -> Result<Selection, Error> {
        let is_stdin = |path: &&PathBuf| path.as_os_str() == "-";
        if self
            .lockfile
            .iter()
            .chain(&self.list)
            .filter(is_stdin)
            .count()
            > 1
        {
            return Err(usage("stdin (`-`) can be named once only").into());
        }
        if self.latest && !self.names_something() {
            return Err(usage("`--latest` alone does not say which crates are meant")
                .hint("name them: `--crate tokio@1 --latest`, `--list FILE --latest` or `--all --latest`")
                .into());
        }
        Ok(Selection {
            lockfiles: read_all(&self.lockfile)?,
            crates: self.krate.clone(),
            lists: read_all(&self.list)?,
            all: self.all,
            latest: self.latest,
            sets: self.set.clone(),
        })
    }
}

fn usage(message: impl Into<String>) -> JobError {
    JobError::new(Fault::Usage, message)
}

impl From<JobError> for Error {
    fn from(error: JobError) -> Error {
        Error::Job(error)
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<NamedText>, Error> {
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<NamedText, Error> {
    let (name, text) = if path.as_os_str() == "-" {
        ("stdin".to_owned(), read_some(io::stdin()))
    } else {
        let name = path.display().to_string();
        (name, fs::File::open(path).and_then(read_some))
    };
    let text = text.map_err(|error| usage(format!("could not read `{name}`")).because(&error))?;
    Ok(NamedText { name, text })
}

fn read_some(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MOST_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it has more than {} MiB",
            MOST_FILE_BYTES >> 20
        )));
    }
    Ok(text)
}

/// Fetch a selection ahead, and keep saved ones current.
///
/// Without a selection all saved sets are brought up to date.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = SELECTION_HELP)]
pub struct SyncArgs {
    /// Save the selection under this name, to be kept current by `orlop sync` and by the daemon
    /// (`sync.every`). A set keeps a copy of the files that it is made of: where a lockfile or a
    /// list changed, save it again under the same name.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["forget", "sets"])]
    pub save: Option<String>,
    /// Forget the saved set of this name. What it brought stays.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["sets", "dry_run", "lockfile", "krate", "list", "all", "set", "latest"])]
    pub forget: Option<String>,
    /// List the saved sets.
    #[arg(long, conflicts_with_all = ["dry_run", "lockfile", "krate", "list", "all", "set", "latest"])]
    pub sets: bool,
    /// Say what would be fetched, and fetch no crate file. Index entries are asked for, and what
    /// comes of that is kept. The names are in `--json`.
    #[arg(long)]
    pub dry_run: bool,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
    /// Which crates; at the end, because its heading would stand over what follows.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

impl SyncArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = SyncRequest {
            selection: self.selection.read()?,
            save: self.save.clone(),
            forget: self.forget.clone(),
            list_sets: self.sets,
            dry_run: self.dry_run,
        };
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, out)
        })
    }
}

fn print(report: &SyncReport, out: &mut dyn Write) -> io::Result<()> {
    if let Some(sets) = &report.sets {
        return print_sets(sets, out);
    }
    if let Some(name) = &report.forgotten {
        return writeln!(out, "forgot the saved set `{name}`; what it brought stays");
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    for Failed { what, cause, .. } in report.failed.iter().take(SHOWN_FAILURES) {
        writeln!(out, "failed: {what}: {cause}")?;
    }
    if report.failed.len() > SHOWN_FAILURES {
        let more = report.failed.len() - SHOWN_FAILURES;
        writeln!(out, "failed: {more} more, which `--json` lists")?;
    }
    let row =
        |out: &mut dyn Write, what: &str, value: String| writeln!(out, "{what:<12}{value:>12}");
    row(out, "crates", report.names.to_string())?;
    row(out, "releases", report.releases.to_string())?;
    row(out, "held before", report.held.to_string())?;
    if report.dry_run {
        row(out, "to fetch", report.would_fetch.to_string())?;
        return writeln!(
            out,
            "index entries that were asked for are kept; no crate file was fetched"
        );
    }
    let bytes = size(report.fetched_bytes);
    row(out, "fetched", format!("{} ({bytes})", report.fetched))?;
    if report.retried > 0 {
        row(out, "retried", report.retried.to_string())?;
    }
    if !report.retried_failed.is_empty() {
        let count = report.retried_failed.len();
        row(out, "  in vain", count.to_string())?;
    }
    row(out, "failed", report.failed.len().to_string())?;
    if let Some(name) = &report.saved {
        let what = if report.replaced {
            "replaced the saved set"
        } else {
            "saved as"
        };
        writeln!(out, "{what} `{name}`; `orlop sync` keeps it current")?;
    }
    Ok(())
}

fn print_sets(sets: &[SetInfo], out: &mut dyn Write) -> io::Result<()> {
    if sets.is_empty() {
        return writeln!(
            out,
            "there are no saved sets; `orlop sync … --save NAME` makes one"
        );
    }
    for set in sets {
        let mut parts = Vec::new();
        parts.extend(
            set.lockfiles
                .iter()
                .map(|name| format!("--lockfile {name}")),
        );
        parts.extend(set.crates.iter().map(|name| format!("--crate {name}")));
        parts.extend(set.lists.iter().map(|name| format!("--list {name}")));
        parts.extend(set.all.then(|| "--all".to_owned()));
        parts.extend(set.latest.then(|| "--latest".to_owned()));
        if !(set.lockfiles.is_empty() && set.lists.is_empty()) {
            let day: String = time(set.saved_at).chars().take(10).collect();
            parts.push(format!("copied on {day}"));
        }
        let run = set_run(&set.run);
        writeln!(out, "{:<20} {} ({run})", set.name, parts.join(" "))?;
    }
    Ok(())
}
