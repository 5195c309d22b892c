//! What a person names: a crate or one of its versions.

use crate::{
    jobs::{Fault, JobError},
    registry::{CrateName, release::parse_version},
};

/// A crate, or one of its versions, as a person names it: `name` or `name@version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: CrateName,
    pub(super) version: Option<semver::Version>,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Target, JobError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let wrong = |why: &dyn std::error::Error| {
            JobError::new(
                Fault::Usage,
                format!("`{text}` is neither a crate's name nor `name@version`"),
            )
            .because(why)
            .hint(format!(
                "`{name}@1.2.3` names one version, whole and without a requirement, and `{name}` all"
            ))
        };
        Ok(Target {
            name: CrateName::parse(name).map_err(|error| wrong(&error))?,
            version: version
                .map(parse_version)
                .transpose()
                .map_err(|error| wrong(&error))?,
        })
    }

    /// What it is kept under: the same for all spellings.
    pub(super) fn key(&self) -> String {
        match &self.version {
            Some(version) => format!("{}@{version}", self.name.key()),
            None => self.name.key().to_owned(),
        }
    }
}

pub(super) fn offline(what: &str) -> JobError {
    JobError::new(
        Fault::Unavailable,
        format!("{what}: this mirror is in mode `offline` and never asks upstream"),
    )
    .hint("take a bundle in with `orlop import`, or set `mode` to another one")
}
