//! `orlop pin` and `orlop unpin`: keep releases whatever happens.

use std::io::{self, Write};

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::upkeep::{PinReport, PinRequest, UnpinRequest};
use crate::util::format::{plural, time};

/// Releases to keep: `gc` never removes them. `pin` fetches what is not held yet, with a name
/// alone every version that was not yet fetched; requirements such as `tokio@1` it does not take,
/// `orlop sync --crate tokio@1` does.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop pin serde@1.0.219
  orlop pin serde                  all its versions
  orlop pin                        what is pinned

Exit codes: 0 well; 1 a release is pinned and could not be fetched; 2 usage;
3 unavailable; 130 cancelled.")]
pub struct PinArgs {
    /// `NAME` (all its versions) or `NAME@VERSION`, such as `serde@1.0.200`; none: show the pins.
    #[arg(value_name = "RELEASE")]
    pub releases: Vec<String>,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Pins to take back. What they kept stays until `gc` finds that nobody uses it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop unpin serde@1.0.219
  orlop unpin serde                what `orlop pin serde` made

Exit codes: 0 well; 1 one of them was not pinned; 2 usage; 3 unavailable;
130 cancelled.")]
pub struct UnpinArgs {
    /// `NAME` or `NAME@VERSION`, as it was pinned.
    #[arg(value_name = "RELEASE", required = true)]
    pub releases: Vec<String>,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl PinArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = PinRequest {
            releases: self.releases.clone(),
        };
        let lists = self.releases.is_empty();
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, "pinned", lists, out)
        })
    }
}

impl UnpinArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = UnpinRequest {
            releases: self.releases.clone(),
        };
        let done = "no longer pinned";
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, done, false, out)
        })
    }
}

fn print(report: &PinReport, done: &str, lists: bool, out: &mut dyn Write) -> io::Result<()> {
    for release in &report.changed {
        writeln!(out, "{release} is {done}")?;
    }
    if report.fetched > 0 {
        writeln!(out, "fetched {}", plural(report.fetched, "crate"))?;
    }
    for problem in &report.problems {
        writeln!(out, "problem: {problem}")?;
    }
    if !lists {
        return Ok(());
    }
    if report.pins.is_empty() {
        return writeln!(out, "nothing is pinned");
    }
    let width = report.pins.iter().map(|pin| pin.release.len()).max();
    for pin in &report.pins {
        writeln!(
            out,
            "{:width$}  since {}  {} of {} held",
            pin.release,
            time(pin.since),
            pin.held,
            plural(pin.releases, "crate"),
            width = width.unwrap_or(0),
        )?;
    }
    Ok(())
}
