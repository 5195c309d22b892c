//! `orlop doctor`: find out what is wrong.

use std::io::Write;

use crate::cli::{Error, SettingArgs, doctor};

/// Find out what is wrong.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Each check is one line: ok, warn, FAIL or skip, what was found, and what to do about it.
Without URL, the mirror is the one that cargo's configuration names here, else the one of the
settings. Where the store of the settings is on this machine, it is looked at, too.

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
        doctor::examine(
            &doctor::Questions {
                url: self.url.as_deref(),
                probe: self.probe.as_deref(),
                json: self.json,
                settings: &self.settings,
            },
            out,
        )
    }
}
