//! The texts of a selection, read: what is wrong with them is said before anything is asked for.

use semver::VersionReq;

use super::{NamedText, Selection};
use crate::{
    jobs::{
        Fault, JobError, Services,
        saved_sets::{SavedSet, saved_set},
    },
    registry::{
        CrateName,
        lockfile::{Locked, Lockfile},
    },
};

/// A selection or a saved set, read.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) latest: bool,
    pub(super) all: bool,
    pub(super) roots: Vec<Root>,
    pub(super) locked: Vec<Locked>,
    /// Packages of lockfiles without a source, in words.
    pub(super) local: Vec<String>,
}

/// A crate that somebody named, with its requirement.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) name: CrateName,
    pub(super) req: VersionReq,
    /// The requirement as it was written.
    pub(super) text: String,
}

/// The selection itself and the saved sets that it names.
pub(super) fn parts(services: &Services, selection: &Selection) -> Result<Vec<Part>, JobError> {
    let mut parts = vec![Part::read(selection)?];
    for name in &selection.sets {
        let set: SavedSet = saved_set(services, name)?.ok_or_else(|| {
            let message = format!("there is no saved set `{name}`");
            JobError::new(Fault::Usage, message).hint("`orlop sync --sets` lists them")
        })?;
        parts.push(Part::read(&set.selection)?);
    }
    Ok(parts)
}

impl Part {
    pub(super) fn read(selection: &Selection) -> Result<Part, JobError> {
        let mut part = Part {
            latest: selection.latest,
            all: selection.all,
            ..Part::default()
        };
        for text in &selection.crates {
            let root = Root::parse(text).map_err(|why| wrong(&format!("`{text}`"), &why))?;
            part.roots.push(root);
        }
        for list in &selection.lists {
            part.read_list(list)?;
        }
        for NamedText { name, text } in &selection.lockfiles {
            let lockfile = Lockfile::parse(text).map_err(|error| {
                JobError::new(
                    Fault::Usage,
                    format!("could not use `{name}` as a lockfile"),
                )
                .because(&error)
            })?;
            part.locked.extend(lockfile.packages);
            part.local.extend(lockfile.local);
        }
        Ok(part)
    }

    fn read_list(&mut self, list: &NamedText) -> Result<(), JobError> {
        for (number, line) in list.text.lines().enumerate() {
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let root = Root::parse(text)
                .map_err(|why| wrong(&format!("line {} of `{}`", number + 1, list.name), &why))?;
            self.roots.push(root);
        }
        Ok(())
    }
}

fn wrong(what: &str, why: &str) -> JobError {
    JobError::new(Fault::Usage, format!("could not use {what}: {why}"))
        .hint("a crate is given as `NAME` or `NAME@REQ`, such as `serde@1.0` or `serde@=1.0.200`")
}

impl Root {
    /// Reads `name` or `name@requirement`. The requirement is what stands in a `Cargo.toml`, as
    /// for `cargo add`: a bare `1.2.3` means `^1.2.3`.
    pub(super) fn parse(text: &str) -> Result<Root, String> {
        let (name, req) = text.split_once('@').unwrap_or((text, "*"));
        let (name, req) = (name.trim(), req.trim());
        Ok(Root {
            name: CrateName::parse(name).map_err(|error| error.to_string())?,
            req: VersionReq::parse(req).map_err(|error| error.to_string())?,
            text: req.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_is_that_of_a_manifest() {
        let check = |text: &str, req: &str| {
            assert_eq!(
                Root::parse(text).expect(text).req,
                VersionReq::parse(req).expect(req)
            );
        };
        check("serde", "*");
        check("serde@1.2.3", "^1.2.3");
        check("serde@1", "^1");
        check(" serde @ =1.2.3 ", "=1.2.3");
        check("serde@>=1, <1.5", ">=1, <1.5");
        for text in ["", "@1", "se rde", "serde@", "serde@one", "../x"] {
            assert!(Root::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_has_comments_and_its_faults_have_a_line() {
        let list = |text: &str| Selection {
            lists: vec![NamedText {
                name: "top.txt".to_owned(),
                text: text.to_owned(),
            }],
            ..Selection::default()
        };
        let part = Part::read(&list("# all\n\nserde@1 # here too\r\nrand\n")).expect("good");
        assert_eq!(part.roots.len(), 2);
        let error = Part::read(&list("serde\nno such thing\n")).expect_err("a bad line");
        assert!(
            error
                .message
                .starts_with("could not use line 2 of `top.txt`"),
            "{error}"
        );
    }
}
