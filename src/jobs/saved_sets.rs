//! Saved sets: selections that are kept current, under names.
//!
//! One is kept in the store's journal as JSON, [`SavedSet`]. Files are saved by their text.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::{
    error::{Fault, JobError},
    selection::Selection,
    services::Services,
};
use crate::{store::Table, util::format::seconds};

/// The version of what is written here.
const FORMAT: u32 = 1;

/// The longest name of a set.
const MOST_NAME_BYTES: usize = 64;

/// How many sets there may be.
const MOST_SETS: usize = 1000;

/// A saved set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSet {
    /// The version of this format.
    pub format: u32,
    /// What it stands for; it names no other sets.
    pub selection: Selection,
    /// When it was saved, in seconds since 1970.
    pub saved_at: u64,
}

/// The saved set of this name; `None`: there is none.
pub(in crate::jobs) fn saved_set(
    services: &Services,
    name: &str,
) -> Result<Option<SavedSet>, JobError> {
    let kept = services.store.kept(Table::Sets, name);
    let kept = kept.map_err(|error| JobError::store("the saved sets", &error))?;
    kept.map(|bytes| read(name, &bytes)).transpose()
}

/// The names of the saved sets, in order.
pub(in crate::jobs) fn set_names(services: &Services) -> Result<Vec<String>, JobError> {
    let mut names = Vec::new();
    let walk = services.store.kept_all(Table::Sets, "", |name, _bytes| {
        names.push(name.to_owned());
        ControlFlow::Continue(())
    });
    walk.map_err(|error| JobError::store("the saved sets", &error))?;
    Ok(names)
}

/// Keeps a selection under a name. Returns whether another one had it.
pub(in crate::jobs) fn save_set(
    services: &Services,
    name: &str,
    selection: &Selection,
) -> Result<bool, JobError> {
    check_name(name)?;
    if !selection.sets.is_empty() {
        let message = "a saved set cannot be made of saved sets";
        return Err(JobError::new(Fault::Usage, message).hint("leave out `--set` or `--save`"));
    }
    let is_there = saved_set(services, name)?.is_some();
    if !is_there && set_names(services)?.len() >= MOST_SETS {
        let message = format!("there are {MOST_SETS} saved sets already");
        return Err(JobError::new(Fault::Usage, message).hint("`--forget` some"));
    }
    let now = services.clock.now();
    let set = SavedSet {
        format: FORMAT,
        selection: selection.clone(),
        saved_at: seconds(now),
    };
    let bytes = serde_json::to_vec(&set).map_err(|error| {
        JobError::new(Fault::Usage, format!("could not save the set `{name}`")).because(&error)
    })?;
    keep_set(services, name, Some(bytes))?;
    Ok(is_there)
}

/// Writes the value of a set; `None` forgets it.
pub(super) fn keep_set(
    services: &Services,
    name: &str,
    value: Option<Vec<u8>>,
) -> Result<(), JobError> {
    let pairs = vec![(name.to_owned(), value)];
    let kept = services.store.keep(Table::Sets, pairs);
    kept.map_err(|error| JobError::store(&format!("the set `{name}`"), &error))
}

fn read(name: &str, bytes: &[u8]) -> Result<SavedSet, JobError> {
    let set: SavedSet = serde_json::from_slice(bytes).map_err(|error| {
        JobError::new(Fault::Damaged, format!("the saved set `{name}` is damaged"))
            .because(&error)
            .hint(format!("`orlop sync --forget {name}` and save it again"))
    })?;
    if set.format > FORMAT {
        let message = format!(
            "the saved set `{name}` has format {}, and this build reads up to {FORMAT}",
            set.format
        );
        return Err(JobError::new(Fault::Damaged, message).hint("install a newer orlop"));
    }
    Ok(set)
}

fn check_name(name: &str) -> Result<(), JobError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=MOST_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_good) {
        return Ok(());
    }
    Err(
        JobError::new(Fault::Usage, "the name of a saved set cannot be that").hint(format!(
            "it has 1 to {MOST_NAME_BYTES} letters, digits, `-`, `_` and `.`"
        )),
    )
}
