//! `orlop doctor`: find out what is wrong.

use std::io::{self, Write};

use crate::{
    cli::{Error, SettingArgs, load, open},
    config,
    doctor::{self, Diagnosis, Finding, Severity},
    util::format::{one_line, plural},
};

/// Find out what is wrong.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Each check is one line: ok, warn, FAIL or skip, what was found, and what to do about it.
Without URL, the mirror is the one that cargo's configuration names here, else the one of the
settings. Where the store of the settings is on this machine, the server that has it is asked
for what it reports about itself and its machine; where none runs, the data folder is checked.

Examples:
  orlop doctor                             on a client: follows cargo's configuration
  orlop doctor http://mirror.lab:8080      whether that mirror can be used from here
  orlop doctor --probe serde@1.0.219 --json

Exit codes: 0 well (warnings included), 1 problems found, 2 usage.")]
pub struct DoctorArgs {
    /// The mirror, or its index as cargo's configuration names it.
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// The crate to fetch from end to end [default: one that the mirror knows].
    #[arg(long, value_name = "NAME[@VERSION]")]
    pub probe: Option<String>,
    /// Print one JSON object with all findings.
    #[arg(long)]
    pub json: bool,
    /// Where the settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

impl DoctorArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let options = doctor::Options {
            url: self.url.clone(),
            probe: self.probe.clone(),
            folder: std::env::current_dir().unwrap_or_default(),
            variables: config::client_variables(),
            settings: load(&self.settings).map_err(|error| error.render()),
        };
        let mut printed = Ok(());
        let mut print = |finding: &Finding| {
            if !self.json && printed.is_ok() {
                printed = print_finding(finding, out);
            }
        };
        let runtime = open::runtime()?;
        let diagnosis = runtime.block_on(doctor::examine(&options, &mut print));
        // The system's resolver may still be waiting.
        runtime.shutdown_background();
        printed?;
        if self.json {
            let text = serde_json::to_string(&diagnosis).map_err(io::Error::from)?;
            writeln!(out, "{text}")?;
        } else {
            writeln!(out, "\n{}", summary(&diagnosis))?;
        }
        match diagnosis.problems {
            0 => Ok(()),
            _ => Err(Error::Problems),
        }
    }
}

fn print_finding(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Warn => "warn",
        Severity::Fail => "FAIL",
        Severity::Skip => "skip",
    };
    let found = one_line(finding.found.trim());
    writeln!(out, "{severity:4}  {}: {found}", finding.check)?;
    match &finding.remedy {
        Some(remedy) => writeln!(out, "      -> {}", one_line(remedy)),
        None => Ok(()),
    }
}

fn summary(diagnosis: &Diagnosis) -> String {
    let is_warning = |finding: &&Finding| finding.severity == Severity::Warn;
    let warnings = diagnosis.findings.iter().filter(is_warning).count();
    let problems = match diagnosis.problems {
        0 if warnings == 0 => return "all is well".to_owned(),
        0 => "no problems".to_owned(),
        count => plural(count as u64, "problem"),
    };
    match warnings {
        0 => problems,
        count => format!("{problems}, {}", plural(count as u64, "warning")),
    }
}
