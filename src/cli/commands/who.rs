//! `orlop who`: who fetched a crate.

use std::io::{self, Write};

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::upkeep::{WhoRelease, WhoReport, WhoRequest};
use crate::util::format::{plural, time};

/// Who fetched a crate, and what else wants it: pins and saved sets. The address of a client is
/// the one that its connection, or a trusted proxy, tells; it is kept for as long as
/// `use.keep_for` says.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop who serde
  orlop who serde@1.0.219 --json

Exit codes: 0 well, also where nobody is known; 2 usage; 3 unavailable.")]
pub struct WhoArgs {
    /// `NAME` or `NAME@VERSION`.
    #[arg(value_name = "RELEASE")]
    pub release: String,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl WhoArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = WhoRequest {
            release: self.release.clone(),
        };
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, &self.release, out)
        })
    }
}

fn print(report: &WhoReport, asked: &str, out: &mut dyn Write) -> io::Result<()> {
    if !report.recorded {
        writeln!(
            out,
            "who fetches what is not recorded (`use.keep_for` is 0s)"
        )?;
    }
    if report.releases.is_empty() {
        return writeln!(out, "nobody is known to have fetched or to want {asked}");
    }
    for release in &report.releases {
        print_release(release, out)?;
    }
    Ok(())
}

fn print_release(release: &WhoRelease, out: &mut dyn Write) -> io::Result<()> {
    let held = if release.held { "held" } else { "not held" };
    writeln!(out, "{} ({held})", release.release)?;
    for pin in &release.pins {
        writeln!(out, "  pinned as {pin}")?;
    }
    for set in &release.sets {
        writeln!(out, "  wanted by the saved set {set}")?;
    }
    let width = release
        .clients
        .iter()
        .map(|client| client.client.to_string().len());
    let width = width.max().unwrap_or(0);
    for client in &release.clients {
        writeln!(
            out,
            "  {:width$}  {}, first {}, last {}",
            client.client.to_string(),
            plural(client.count, "time"),
            time(client.first),
            time(client.last),
        )?;
    }
    if release.clients.is_empty() {
        writeln!(out, "  no client is known to have fetched it")?;
    }
    Ok(())
}
