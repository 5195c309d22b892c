//! `orlop completions`: what a shell needs to complete the command line.

use std::io::Write;

use clap_complete::{Shell, generate};

use crate::cli::{Args, Error};

/// Which shell.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop completions bash > ~/.local/share/bash-completion/completions/orlop
  orlop completions zsh > ~/.zfunc/_orlop
  orlop completions fish > ~/.config/fish/completions/orlop.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: KnownShell,
}

/// The shells that are looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KnownShell {
    /// The Bourne-again shell.
    #[value(help = None)]
    Bash,
    /// The Z shell.
    #[value(help = None)]
    Zsh,
    /// The friendly interactive shell.
    #[value(help = None)]
    Fish,
}

impl From<KnownShell> for Shell {
    fn from(known: KnownShell) -> Shell {
        match known {
            KnownShell::Bash => Shell::Bash,
            KnownShell::Zsh => Shell::Zsh,
            KnownShell::Fish => Shell::Fish,
        }
    }
}

impl CompletionsArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        // Made in memory, because the generator panics where it cannot write.
        let mut script = Vec::new();
        generate(
            Shell::from(self.shell),
            &mut Args::shown(),
            "orlop",
            &mut script,
        );
        Ok(out.write_all(&script)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_every_command() {
        for shell in [KnownShell::Bash, KnownShell::Zsh, KnownShell::Fish] {
            let mut out = Vec::new();
            CompletionsArgs { shell }.run(&mut out).unwrap();
            let script = String::from_utf8(out).unwrap();
            for command in Args::shown().get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell:?} does not know {name}");
            }
        }
    }
}
