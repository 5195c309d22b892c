//! The flags that settings come from.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

use crate::{config::Flags, policy::Mode};

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

    /// The socket by which commands reach a running server [default: admin.sock in the store].
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
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
            admin_socket: self.admin_socket.clone(),
        }
    }
}
