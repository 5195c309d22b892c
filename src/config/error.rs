//! What can be wrong with a configuration, each with the thing, the place, the reason and a remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Something that is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there or may not be read.
    #[error("could not read the configuration file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("could not understand line {line} of `{}` as TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said; never the line itself, which may hold a secret.
        #[source]
        why: Refusal,
    },
    /// A key or variable that orlop does not have.
    #[error("`{name}` ({}) is no setting of orlop", place(name, origin))]
    Unknown {
        /// The key or variable as it was written.
        name: String,
        /// Where it was written.
        origin: Origin,
        /// What was perhaps meant.
        suggestion: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("could not use the value of `{key}` ({origin})")]
    Value {
        /// The key.
        key: &'static str,
        /// Where the value was written.
        origin: Origin,
        /// What is wrong with it.
        #[source]
        why: Refusal,
    },
    /// Two values that are right alone and wrong together.
    #[error("`{key}` does not go with `{other}`")]
    Contradiction {
        /// The key.
        key: &'static str,
        /// The other key.
        other: &'static str,
        /// What happens if both stand.
        #[source]
        why: Refusal,
    },
    /// A value that this machine gives no default for.
    #[error("could not find a default for `{key}`")]
    NoDefault {
        /// The key.
        key: &'static str,
    },
}

/// Why a value is refused, and what would be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// What is wrong, as a fragment.
    pub why: String,
    /// What to do, as an imperative; empty where the reason says it.
    pub remedy: String,
}

impl Refusal {
    pub(super) fn new(why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal {
            why: why.into(),
            remedy: remedy.into(),
        }
    }
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// In the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In a variable.
    Environment(String),
    /// On the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "file {}, line {line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// The origin, without a variable's name where that has just been said.
fn place(name: &str, origin: &Origin) -> String {
    match origin {
        Origin::Environment(variable) if variable == name => "environment".to_owned(),
        origin => origin.to_string(),
    }
}

impl Error {
    /// What to try.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::File { source, .. } => file_hint(source.kind()).to_owned(),
            Error::Syntax { why, .. }
            | Error::Value { why, .. }
            | Error::Contradiction { why, .. } => why.remedy.clone(),
            Error::Unknown { suggestion, .. } => match suggestion {
                Some(name) => format!("did you mean `{name}`?"),
                None => "`orlop config show` lists every setting".to_owned(),
            },
            Error::NoDefault { key } => format!(
                "there is no home folder to put it in; set `{key}`, for example with --data DIR"
            ),
        };
        (!hint.is_empty()).then_some(hint)
    }
}

fn file_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "check the path that --config or ORLOP_CONFIG names",
        io::ErrorKind::PermissionDenied => {
            "run orlop as a user who may read it, or name another file with --config"
        }
        _ => "name a readable TOML file with --config",
    }
}
