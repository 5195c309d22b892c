//! `orlop man`: the manual pages, made from the command line and from the table of keys.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use serde_json::Value;

use crate::cli::{Args, Error};
use crate::config::{KEYS, Key};

/// Where the pages go.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  orlop man ~/.local/share/man/man1     and move orlop.toml.5 to man5")]
pub struct ManArgs {
    /// The folder for the pages, which must exist: one page a command, and orlop.toml.5.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// A page: the name of its file, and its text.
type Page = (String, Vec<u8>);

impl ManArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let (mut pages, mut shown) = (Vec::new(), Args::shown().disable_help_subcommand(true));
        shown.build();
        pages_of(shown, &mut pages)?;
        pages.push(("orlop.toml.5".to_owned(), page_of_the_file()?));
        for (name, text) in pages {
            write(&self.dir, &name, &text)?;
            writeln!(out, "{name}")?;
        }
        Ok(())
    }
}

fn write(dir: &Path, name: &str, text: &[u8]) -> Result<(), Error> {
    let path = dir.join(name);
    fs::write(&path, text).map_err(|source| Error::Page { path, source })
}

/// The pages of a command and of those below it.
fn pages_of(command: clap::Command, pages: &mut Vec<Page>) -> io::Result<()> {
    for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        pages_of(below.clone(), pages)?;
    }
    // As one text with the version; the generator would name each command as a program.
    let source = format!("orlop {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).source(source).manual("Manual of orlop");
    let mut text = Vec::new();
    man.render(&mut text)?;
    pages.push((man.get_filename(), text));
    Ok(())
}

const OPENING: &str = "The configuration of orlop is a TOML file. From the strongest down, a value \
comes from a flag of the command line, the environment, this file (the one that --config or \
ORLOP_CONFIG names, otherwise /etc/orlop/orlop.toml if it is there), and the default. A key with \
a dot stands without what is before the dot in the table of that name. Unknown keys are refused. \
In a variable, lists are separated by commas.";

const CHECKING: &str = "orlop config check tells what is wrong with a file, orlop config show where \
each value comes from, and systemctl reload orlop applies what can change while the server runs.";

/// orlop.toml(5), which has every key there is.
fn page_of_the_file() -> io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    let source = concat!("orlop ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["orlop.toml", "5", "", source, "Manual of orlop"])
        .control("SH", ["NAME"])
        .text([roman("orlop.toml - the configuration of orlop")])
        .control("SH", ["SYNOPSIS"])
        .text([bold("/etc/orlop/orlop.toml")])
        .control("SH", ["DESCRIPTION"])
        .text([roman(OPENING)])
        .control("PP", [])
        .text([roman(CHECKING)])
        .control("SH", ["KEYS"]);
    for key in KEYS {
        describe(key, &mut roff);
    }
    roff.control("SH", ["SEE ALSO"]).text([
        bold("orlop"),
        roman("(1), "),
        bold("orlop-config"),
        roman("(1), "),
        bold("orlop-serve"),
        roman("(1)"),
    ]);
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn describe(key: &Key, roff: &mut Roff) {
    roff.control("TP", [])
        .text([bold(key.path)])
        .text([roman(key.doc)])
        .control("IP", [])
        .text([
            roman("Default: "),
            roman(default_of(key)),
            roman(". Variable: "),
            roman(key.variable()),
            roman("."),
        ]);
}

fn default_of(key: &Key) -> String {
    match (key.default_in_words, key.default_value()) {
        ("", Value::Null) => "none".to_owned(),
        ("", Value::Array(items)) if items.is_empty() => "an empty list".to_owned(),
        ("", Value::String(text)) => text,
        ("", value) => value.to_string(),
        (words, _) => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(command: &clap::Command) -> Vec<String> {
        let mut names = vec![format!(
            "{}.1",
            command.get_display_name().unwrap_or("orlop")
        )];
        names.extend(command.get_subcommands().flat_map(names_of));
        names
    }

    #[test]
    fn every_command_has_its_page_and_the_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let args = ManArgs {
            dir: folder.path().to_owned(),
        };
        args.run(&mut io::sink()).unwrap();
        let mut command = Args::shown().disable_help_subcommand(true);
        command.build();
        for name in names_of(&command) {
            let text = fs::read_to_string(folder.path().join(&name)).expect(&name);
            assert!(text.contains(".SH NAME"), "{name}: {text}");
        }
        let text = fs::read_to_string(folder.path().join("orlop.toml.5")).unwrap();
        for key in KEYS {
            assert!(text.contains(&key.variable()), "{}", key.path);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let args = ManArgs {
            dir: PathBuf::from("/no/such/folder"),
        };
        let error = args.run(&mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
