//! `orlop refresh`: ask upstream for index entries again.

use std::io::{self, Write};

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::upkeep::{Outcome, RefreshReport, RefreshRequest, RefreshedName};

/// Ask upstream for index entries now, whatever their age, and say what changed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop refresh serde tokio
  orlop refresh serde --json

Exit codes: 0 all were asked for; 1 upstream could not be asked for one, or does not
have it (any more); 2 usage; 3 unavailable; 130 cancelled.")]
pub struct RefreshArgs {
    /// Names of crates.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// How to reach the store and what to print.
    #[command(flatten)]
    pub job: JobArgs,
}

impl RefreshArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let request = RefreshRequest {
            names: self.names.clone(),
        };
        job::run(&self.job, request, Vec::new(), out, |report, out| {
            print(report, out)
        })
    }
}

fn print(report: &RefreshReport, out: &mut dyn Write) -> io::Result<()> {
    let width = report.names.iter().map(|name| name.name.len()).max();
    for name in &report.names {
        let width = width.unwrap_or(0);
        writeln!(out, "{:width$}  {}", name.name, words(name))?;
    }
    Ok(())
}

fn words(name: &RefreshedName) -> String {
    match name.outcome {
        Outcome::Unchanged => "unchanged".to_owned(),
        Outcome::Added => format!("was not here before, {}", changes(name)),
        Outcome::Changed => {
            let changes = changes(name);
            if changes.is_empty() {
                "changed".to_owned()
            } else {
                changes
            }
        }
        Outcome::Gone => {
            "problem: upstream no longer has it; what is held is kept and served".to_owned()
        }
        Outcome::Unknown => "problem: upstream does not have it".to_owned(),
        Outcome::Failed => {
            let cause = name.cause.as_deref().unwrap_or("no cause is known");
            format!("problem: {cause}")
        }
    }
}

/// How many versions of one kind a line names.
const MAX_NAMED: usize = 8;

fn changes(name: &RefreshedName) -> String {
    let lists = [
        ("new", &name.new),
        ("yanked", &name.yanked),
        ("no longer yanked", &name.unyanked),
        ("with another checksum", &name.replaced),
        ("removed", &name.removed),
    ];
    let told: Vec<String> = lists
        .into_iter()
        .filter(|(_, versions)| !versions.is_empty())
        .map(|(word, versions)| format!("{word}: {}", named(versions)))
        .collect();
    told.join("; ")
}

/// The newest are the last.
fn named(versions: &[String]) -> String {
    let more = versions.len().saturating_sub(MAX_NAMED);
    let last = versions.iter().skip(more).map(String::as_str);
    let last = last.collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{more} others and {last}")
    } else {
        last
    }
}
