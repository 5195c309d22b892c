//! The environment of the process, read once: `ORLOP_*`, `NO_COLOR`, `TERM`, and what the defaults need.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use super::error::{Error, Origin};
use super::keys::{Given, KEYS, Key};
use super::suggest;
use super::value::Raw;

const PREFIX: &str = "ORLOP_";

/// The variable that names the file.
const FILE: &str = "ORLOP_CONFIG";

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The variables that begin with `ORLOP_`, in the order of their names.
    pub variables: Vec<(String, OsString)>,
    /// `ORLOP_CONFIG`; empty: read no file.
    pub file: Option<PathBuf>,
    /// Whether `NO_COLOR` is set to something.
    pub no_color: bool,
    /// Whether `TERM` says that the terminal cannot move its cursor.
    pub is_dumb: bool,
    /// `RUNTIME_DIRECTORY`: the folder in /run that a service manager made for this service.
    pub runtime_dir: Option<PathBuf>,
    /// The user's data directory for orlop. `None`: there is no home.
    pub data_dir: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        let strategy = etcetera::choose_base_strategy().ok();
        Environment {
            data_dir: strategy.and_then(|strategy| folder_below(&strategy.data_dir())),
            ..Environment::of(std::env::vars_os())
        }
    }

    /// The environment that `variables` make, without a home.
    pub fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in variables {
            match name.to_str() {
                Some("NO_COLOR") => environment.no_color = !value.is_empty(),
                Some("TERM") => environment.is_dumb = value == "dumb",
                Some("RUNTIME_DIRECTORY") => {
                    environment.runtime_dir =
                        Some(PathBuf::from(value)).filter(|dir| dir.is_absolute());
                }
                Some(FILE) => environment.file = Some(PathBuf::from(value)),
                Some(name) if name.starts_with(PREFIX) => {
                    environment.variables.push((name.to_owned(), value));
                }
                _ => {}
            }
        }
        environment.variables.sort();
        environment
    }
}

/// The folder for orlop's data. A `HOME` that is no full path would put the store wherever one
/// happens to stand.
fn folder_below(data: &Path) -> Option<PathBuf> {
    data.is_absolute().then(|| data.join("orlop"))
}

/// The environment of this process as cargo would have it; what is no text is left out.
pub fn client_variables() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Every value in the variables, or what is wrong with them.
pub(super) fn values(
    environment: &Environment,
    warnings: &mut Vec<String>,
) -> Vec<Result<Given, Error>> {
    let mut found = Vec::new();
    for (name, value) in &environment.variables {
        match KEYS.iter().find(|key| key.variable() == *name) {
            Some(key) => found.push(Ok(Given {
                key,
                raw: Raw::Typed(value.clone()),
                origin: Origin::Environment(name.clone()),
            })),
            None => match unknown(name) {
                Some(error) => found.push(Err(error)),
                None if is_service_link(name) => {}
                None => warnings.push(format!(
                    "the variable `{name}` is no setting of orlop and has no effect"
                )),
            },
        }
    }
    found
}

/// A variable that is nearly one of ours is a slip and refused; what is far from all of ours may
/// be anybody's.
fn unknown(name: &str) -> Option<Error> {
    let names: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known = names.iter().map(String::as_str).chain([FILE]);
    // Without the prefix, which would make everything look alike.
    let bare = known.filter_map(|name| name.strip_prefix(PREFIX));
    let word = suggest::closest(name.strip_prefix(PREFIX)?, bare)?;
    Some(Error::Unknown {
        name: name.to_owned(),
        origin: Origin::Environment(name.to_owned()),
        suggestion: Some(format!("{PREFIX}{word}")),
    })
}

/// Kubernetes and Docker set these for a service that is called `orlop`.
fn is_service_link(name: &str) -> bool {
    name == "ORLOP_PORT" || name.starts_with("ORLOP_PORT_") || name.starts_with("ORLOP_SERVICE_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_never_put_where_one_happens_to_stand() {
        let folder = folder_below(Path::new("/home/me/.local/share"));
        assert_eq!(folder, Some(PathBuf::from("/home/me/.local/share/orlop")));
        assert_eq!(folder_below(Path::new("me/.local/share")), None);
    }

    #[test]
    fn only_our_own_variables_are_kept() {
        let of = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let variables = [
            of("PATH", "/bin"),
            of("ORLOP_MODE", "strict"),
            of("NO_COLOR", ""),
        ];
        let environment = Environment::of(variables.into_iter());
        assert_eq!(
            environment.variables,
            [("ORLOP_MODE".to_owned(), "strict".into())]
        );
        assert!(!environment.no_color, "an empty NO_COLOR asks for nothing");
        assert!(Environment::of([of("NO_COLOR", "1")].into_iter()).no_color);
    }
}
