//! `orlop gc`: remove what nobody needs.

use std::{
    io::{self, Write},
    time::Duration,
};

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::upkeep::{GcReport, GcRequest, Removed};
use crate::util::format::{plural, size};

/// Remove crate files that no index entry names, and what was set aside as damaged over a week ago.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop gc --dry-run
  orlop gc --unused-for 180d

Exit codes: 0 well, also where nothing is removed; 2 usage; 3 unavailable; 130 cancelled.")]
pub struct GcArgs {
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove also crate files that no client fetched for so long (`90d`), but for those that are
    /// pinned or that a saved set wants. What came in less than an hour ago stays in any case.
    /// Upstream is asked for them again when they are wanted.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub unused_for: Option<Duration>,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl GcArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = GcRequest {
            dry_run: self.dry_run,
            unused_for: self.unused_for.map(|time| time.as_secs()),
        };
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, out)
        })
    }
}

fn print(report: &GcReport, out: &mut dyn Write) -> io::Result<()> {
    let done = if report.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    for release in &report.releases {
        writeln!(out, "unused  {release}")?;
    }
    let kinds = [
        (report.unknown, "crate file", "that no index entry names"),
        (report.unused, "crate file", "that nobody used for long"),
        (report.quarantined, "damaged file", "set aside"),
        (report.broken, "broken index database", "set aside"),
    ];
    let mut total = Removed::default();
    for (removed, noun, which) in kinds.iter().filter(|(removed, ..)| removed.count > 0) {
        let (count, bytes) = (plural(removed.count, noun), size(removed.bytes));
        writeln!(out, "{done}: {count} {which}, {bytes}")?;
        total.count += removed.count;
        total.bytes += removed.bytes;
    }
    if report.young > 0 {
        let files = plural(report.young, "file");
        writeln!(out, "{files} kept: they came in less than an hour ago")?;
    }
    if total.count == 0 {
        return writeln!(out, "there is nothing to remove");
    }
    writeln!(out, "{done}: {} in all", size(total.bytes))
}
