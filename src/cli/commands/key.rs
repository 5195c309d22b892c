//! `orlop key`: the key that bundles are signed with.

use std::io::Write;

use crate::cli::{
    Error,
    job::{self, JobArgs},
};
use crate::jobs::bundle::KeyRequest;

/// The key that bundles are signed with.
#[derive(Debug, Clone, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct KeyArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What to do with the key.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key, and print its public half.
    ///
    /// The first export makes one, too. The private half stays in the store's folder, in
    /// `key/bundle.key`: whoever has it can sign bundles that other machines take.
    Generate {
        /// Replace the key that is there. Every machine that trusts it has to be told the new one.
        #[arg(long)]
        force: bool,
        /// How to reach the store and what to print.
        #[command(flatten)]
        job: JobArgs,
    },
    /// Print the public half of the key, for `import.trust` of other machines.
    Show {
        /// How to reach the store and what to print.
        #[command(flatten)]
        job: JobArgs,
    },
}

impl KeyArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let (request, job) = match &self.command {
            KeyCommand::Generate { force, job } => (
                KeyRequest {
                    generate: true,
                    force: *force,
                },
                job,
            ),
            KeyCommand::Show { job } => (KeyRequest::default(), job),
        };
        job::run(job, request, Vec::new(), out, |report, out| {
            writeln!(out, "{}", report.public_key)
        })
    }
}
