//! What may be typed. Reading it cannot fail for a reason outside the command line, so that
//! `--help` always works; [`config`](crate::config) makes settings of it.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

use crate::{config::Flags, policy::Mode};

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

Exit codes: 0 well, 1 problems found, 2 usage or configuration, 3 unavailable
(lock, port, upstream), 4 data damaged.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
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

    /// Print the lines of cargo configuration that send cargo to this mirror.
    ///
    /// The mirror's URL is --url, else the setting `public_url`, else the first address it
    /// listens on.
    #[command(after_help = "\
Examples:
  orlop client-config >> ~/.cargo/config.toml
  orlop client-config --url http://mirror.lab:8080
  orlop client-config --git             for the git index")]
    ClientConfig {
        /// The URL that cargo reaches the mirror by.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// For the git index instead of the sparse one.
        #[arg(long)]
        git: bool,
        /// Where the settings come from.
        #[command(flatten)]
        settings: SettingArgs,
    },

    /// Check or show the configuration.
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
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

/// The flags that settings come from, the same for each command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SettingArgs {
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration file [default: $ORLOP_CONFIG, else /etc/orlop/orlop.toml if it \
                is there]"
    )]
    pub config: Option<PathBuf>,

    /// An address with a port to listen on; may be repeated [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,

    /// The folder of the store [default: orlop in the user's data folder].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The sparse index to mirror [default: that of crates.io].
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,

    /// The URL that clients reach the mirror by [default: the host of each request].
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,

    /// What happens when the upstream cannot be asked [default: fallback].
    #[arg(
        long,
        value_name = "MODE",
        value_parser = PossibleValuesParser::new(Mode::ALL.iter().map(|mode| mode.as_str()))
    )]
    pub mode: Option<String>,
}

impl SettingArgs {
    /// The flags as [`config`](crate::config) takes them.
    pub fn to_flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            listen: self.listen.clone(),
            data: self.data.clone(),
            upstream: self.upstream.clone(),
            public_url: self.public_url.clone(),
            mode: self.mode.clone(),
        }
    }
}
