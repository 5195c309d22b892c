//! What may be typed. Reading it cannot fail for a reason outside the command line, so that
//! `--help` always works; [`config`](crate::config) makes settings of it.

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::{
    commands::{self, KeyCommand},
    setting_args::SettingArgs,
};
use crate::policy::view;

/// The arguments of one run.
#[derive(Debug, Parser)]
#[command(
    name = "orlop",
    version,
    about = "A crates.io mirror that a lab installs and forgets",
    long_about = "A crates.io mirror that a lab installs and forgets: it fetches what cargo asks \
                  for once, verifies it, keeps it, and goes on serving when the upstream is gone.",
    after_help = "\
Examples:
  orlop serve                        mirror crates.io for this machine on port 8080
  orlop serve --listen '[::]:8080'   the same for the whole network
  orlop client-config                what to put into cargo's configuration
  orlop sync --lockfile Cargo.lock   fetch ahead what a build needs
  orlop export --out bundle.orlop    carry it to machines without a network
  orlop stats                        what is held, and what runs

Commands about the store ask the running `orlop serve` by its admin socket, and
open the store themselves where none runs. Ctrl-C cancels; what was done is kept.
With --json each event is one line on stdout, and the report, or
{\"error\": ...} with its exit code, the last one.

Exit codes: 0 well; 1 the command looked for problems and found some, or something
of what it was asked for failed; 2 usage or configuration; 3 unavailable (lock,
port, upstream, daemon); 4 the store, a bundle or a backup is damaged, so that the
command could not do its work; 130 cancelled.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Settings that a command needs only where it opens the store itself.
const OF_THE_SERVER: [&str; 4] = ["listen", "upstream", "public_url", "mode"];

/// Their heading in the help of such a command.
const SERVER_HEADING: &str = "Settings (as for serve; only without a running server)";

impl Args {
    /// Reads the arguments of the process.
    ///
    /// # Errors
    /// What clap has to say: wrong usage, help, the version.
    pub(super) fn of_process() -> Result<Args, clap::Error> {
        let matches = Args::shown().try_get_matches()?;
        Args::from_arg_matches(&matches)
    }

    /// The command line as its help tells it.
    pub(super) fn shown() -> clap::Command {
        Args::command().mut_subcommands(|command| match command.get_name() {
            "serve" | "reload" | "config" | "client-config" | "doctor" | "completions" | "man" => {
                command
            }
            _ => below_a_heading(command),
        })
    }
}

/// A running server has these settings of its own.
fn below_a_heading(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        if OF_THE_SERVER.contains(&arg.get_id().as_str()) {
            arg.help_heading(SERVER_HEADING).hide_short_help(true)
        } else {
            arg
        }
    });
    command.mut_subcommands(below_a_heading)
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the mirror.
    ///
    /// When it is ready, it prints one line an address on stdout: `orlop listening on
    /// http://ADDR:PORT/`. Logs go to stderr. SIGTERM and SIGINT let the answers under way end;
    /// a second one cuts them off.
    #[command(after_help = "\
Examples:
  orlop serve --listen 127.0.0.1:0 --data /tmp/store
  orlop serve --upstream https://other.example/index/ --mode strict
  ORLOP_UPSTREAM_PROXY=http://proxy:3128 orlop serve")]
    Serve(SettingArgs),

    /// Have the running server read its configuration again.
    Reload(commands::ReloadArgs),

    /// Print the lines of cargo configuration that send cargo to this mirror.
    ///
    /// The mirror's URL is --url, else the setting `public_url`, else the first address it
    /// listens on.
    #[command(after_help = "\
Examples:
  orlop client-config >> ~/.cargo/config.toml
  orlop client-config --url http://mirror.lab:8080
  orlop client-config --git             for the git index
  orlop client-config --view held       for what the mirror has, and nothing else")]
    ClientConfig {
        /// The URL that cargo reaches the mirror by.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// For the git index instead of the sparse one.
        #[arg(long)]
        git: bool,
        /// For a view of the index: `held` has only versions whose files the mirror has.
        #[arg(
            long,
            value_name = "NAME",
            value_parser = PossibleValuesParser::new(view::KNOWN.iter().copied())
        )]
        view: Option<String>,
        /// Where the settings come from.
        #[command(flatten)]
        settings: SettingArgs,
    },

    /// Fetch a selection of crates ahead, with all that they depend on.
    Sync(commands::SyncArgs),

    /// Ask upstream for index entries again, now.
    Refresh(commands::RefreshArgs),

    /// Write a signed bundle for machines without a network.
    Export(commands::ExportArgs),

    /// Take in a bundle, or the crate files that a lab already has.
    Import(commands::ImportArgs),

    /// Make or show the key that bundles are signed with.
    Key(commands::KeyArgs),

    /// Show the mirror in numbers.
    Stats(commands::StatsArgs),

    /// Show who fetched a crate.
    Who(commands::WhoArgs),

    /// Keep releases whatever happens, or show which are kept.
    Pin(commands::PinArgs),

    /// Take pins back.
    Unpin(commands::UnpinArgs),

    /// Hash everything that is held.
    Verify(commands::VerifyArgs),

    /// Remove what nobody needs.
    Gc(commands::GcArgs),

    /// Copy the store while it is used.
    Backup(commands::BackupArgs),

    /// Make a store of a backup.
    Restore(commands::RestoreArgs),

    /// Find out why cargo, or this mirror, does not get its crates.
    Doctor(commands::DoctorArgs),

    /// Check or show the configuration.
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),

    /// Print the completions of a shell.
    Completions(commands::CompletionsArgs),

    /// Write the manual pages into a folder.
    Man(commands::ManArgs),
}

impl Command {
    /// Whether a program reads what is printed.
    pub(super) fn is_json(&self) -> bool {
        match self {
            Command::Serve(_)
            | Command::ClientConfig { .. }
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Config(ConfigCommand::Check(_)) => false,
            Command::Config(ConfigCommand::Show { json, .. }) => *json,
            Command::Sync(args) => args.job.json,
            Command::Refresh(args) => args.job.json,
            Command::Export(args) => args.job.json,
            Command::Import(args) => args.job.json,
            Command::Key(args) => match &args.command {
                KeyCommand::Generate { job, .. } | KeyCommand::Show { job } => job.json,
            },
            Command::Stats(args) => args.job.json,
            Command::Who(args) => args.job.json,
            Command::Pin(args) => args.job.json,
            Command::Unpin(args) => args.job.json,
            Command::Verify(args) => args.job.json,
            Command::Gc(args) => args.job.json,
            Command::Backup(args) => args.job.json,
            Command::Restore(args) => args.json,
            Command::Reload(args) => args.json,
            Command::Doctor(args) => args.json,
        }
    }
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the configuration is good, and everything that is wrong with it.
    #[command(after_help = "\
Example:
  orlop config check --config ./orlop.toml && systemctl restart orlop")]
    Check(SettingArgs),

    /// Show every setting with its value and where that comes from.
    #[command(after_help = "\
Examples:
  orlop config show
  ORLOP_MODE=strict orlop config show | grep mode")]
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Where the settings come from.
        #[command(flatten)]
        settings: SettingArgs,
    },
}
