//! `orlop verify`: hash what is held.

use std::io::{self, Write};

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::upkeep::{BadBlob, BadKind, VerifyReport, VerifyRequest};
use crate::util::format::{plural, size};

/// Hash every crate file that is held, read every index file, and compare both.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop verify
  orlop verify --repair

Exit codes: 0 all is good; 1 the command looked for problems and found some: damaged,
unreadable or missing files, index files that do not read, a git index that fails;
2 usage; 3 unavailable; 4 the store itself is damaged, so that it cannot be looked
through; 130 cancelled.")]
pub struct VerifyArgs {
    /// Set aside what is damaged, and fetch it again where upstream may be asked.
    #[arg(long)]
    pub repair: bool,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl VerifyArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = VerifyRequest {
            repair: self.repair,
        };
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, out)
        })
    }
}

fn print(report: &VerifyReport, out: &mut dyn Write) -> io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{}", words(finding))?;
    }
    for name in &report.damaged_entries {
        writeln!(out, "damaged     the index file of {name}")?;
    }
    if let Some(why) = &report.git {
        writeln!(out, "failing     the git index: {why}")?;
    }
    writeln!(
        out,
        "{} good ({} hashed), {} damaged, {} unreadable, {} missing, {} unknown; {} read, {} damaged",
        plural(report.good, "crate file"),
        size(report.bytes),
        report.damaged,
        report.unreadable,
        report.missing,
        report.unknown,
        plural(report.entries, "index file"),
        report.damaged_entries.len(),
    )?;
    if report.set_aside > 0 {
        let files = plural(report.set_aside, "damaged file");
        writeln!(out, "{files} set aside in `quarantine`, and not served")?;
    }
    if report.repaired > 0 {
        writeln!(out, "{} fetched again", plural(report.repaired, "file"))?;
    }
    if report.unknown > 0 {
        writeln!(out, "unknown files can be removed by `orlop gc`")?;
    }
    Ok(())
}

fn words(finding: &BadBlob) -> String {
    let kind = match finding.kind {
        BadKind::Damaged => "damaged",
        BadKind::Unreadable => "unreadable",
        BadKind::Unknown => "unknown",
        BadKind::Missing => "missing",
    };
    let what = finding.release.as_deref().unwrap_or(&finding.checksum);
    let cause = finding.cause.as_deref();
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    let after = if finding.repaired {
        ", fetched again"
    } else {
        ""
    };
    format!("{kind:10}  {what}{cause}{after}")
}
