//! Saved sets: selections that are kept current, under names.
//!
//! One is kept in the store's journal as JSON, [`SavedSet`]. Files are saved by their text.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::{SetInfo, SetRun, SyncReport, SyncRequest, failures::Failures};
use crate::{
    mirror::{
        Mirror,
        jobs::{Fault, JobError, Teller},
        select::{NamedText, Selection},
    },
    store::Table,
    util::format::seconds,
};

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

impl Mirror {
    /// The saved set of this name; `None`: there is none.
    pub(in crate::mirror) fn saved_set(&self, name: &str) -> Result<Option<SavedSet>, JobError> {
        let kept = self.inner.store.kept(Table::Sets, name);
        let kept = kept.map_err(|error| JobError::store("the saved sets", &error))?;
        kept.map(|bytes| read(name, &bytes)).transpose()
    }

    /// The names of the saved sets, in order.
    pub(in crate::mirror) fn set_names(&self) -> Result<Vec<String>, JobError> {
        let mut names = Vec::new();
        let walk = self.inner.store.kept_all(Table::Sets, "", |name, _bytes| {
            names.push(name.to_owned());
            ControlFlow::Continue(())
        });
        walk.map_err(|error| JobError::store("the saved sets", &error))?;
        Ok(names)
    }

    pub(super) fn list_sets(&self) -> Result<SyncReport, JobError> {
        let mut sets = Vec::new();
        for name in self.set_names()? {
            if let Some(set) = self.saved_set(&name)? {
                let run = self.set_run(&name);
                sets.push(SetInfo {
                    saved_at: set.saved_at,
                    ..info(name, set.selection, run)
                });
            }
        }
        Ok(SyncReport {
            sets: Some(sets),
            ..SyncReport::default()
        })
    }

    /// Forgets a set, and what failed of it and is wanted by no other.
    pub(super) async fn forget_set(
        &self,
        name: &str,
        teller: &Teller,
    ) -> Result<SyncReport, JobError> {
        if self.saved_set(name)?.is_none() {
            return Err(no_such(name));
        }
        let store = self.inner.store.clone();
        let failures = self.off_worker(move |_mirror| Failures::open(store));
        let failures = failures.await?;
        let mut failures = failures.map_err(|error| JobError::store("its failures", &error))?;
        if failures.len() > 0
            && let Err(error) = self.drop_failures_of(name, &mut failures, teller).await
        {
            teller.go_on()?;
            tracing::warn!("could not tell what failed of the saved set `{name}`: {error}");
        }
        let (forgotten, left) = (name.to_owned(), failures.len() as u64);
        let write = failures.take_changes();
        let done = self.off_worker(move |mirror| {
            mirror.keep_set(&forgotten, None)?;
            mirror.forget_set_run(&forgotten);
            write().map_err(|error| JobError::store("its failures", &error))
        });
        done.await??;
        self.metrics().sync_failures(left);
        Ok(SyncReport {
            forgotten: Some(name.to_owned()),
            ..SyncReport::default()
        })
    }

    async fn drop_failures_of(
        &self,
        name: &str,
        failures: &mut Failures,
        teller: &Teller,
    ) -> Result<(), JobError> {
        let mut others = self.set_names()?;
        others.retain(|other| other != name);
        let wanted = self.wants_of(&[name.to_owned()], teller).await?;
        let besides = self.wants_of(&others, teller).await?;
        for one in failures.all() {
            if wanted.has(&one.what) && !besides.has(&one.what) {
                failures.drop(&one.key);
            }
        }
        Ok(())
    }

    /// Keeps a selection under a name. Returns whether another one had it.
    pub(in crate::mirror) fn save_set(
        &self,
        name: &str,
        selection: &Selection,
    ) -> Result<bool, JobError> {
        check_name(name)?;
        if !selection.sets.is_empty() {
            let message = "a saved set cannot be made of saved sets";
            return Err(JobError::new(Fault::Usage, message).hint("leave out `--set` or `--save`"));
        }
        let is_there = self.saved_set(name)?.is_some();
        if !is_there && self.set_names()?.len() >= MOST_SETS {
            let message = format!("there are {MOST_SETS} saved sets already");
            return Err(JobError::new(Fault::Usage, message).hint("`--forget` some"));
        }
        let now = self.inner.clock.now();
        let set = SavedSet {
            format: FORMAT,
            selection: selection.clone(),
            saved_at: seconds(now),
        };
        let bytes = serde_json::to_vec(&set).map_err(|error| {
            JobError::new(Fault::Usage, format!("could not save the set `{name}`")).because(&error)
        })?;
        self.keep_set(name, Some(bytes))?;
        Ok(is_there)
    }

    fn keep_set(&self, name: &str, value: Option<Vec<u8>>) -> Result<(), JobError> {
        let pairs = vec![(name.to_owned(), value)];
        let kept = self.inner.store.keep(Table::Sets, pairs);
        kept.map_err(|error| JobError::store(&format!("the set `{name}`"), &error))
    }

    /// All saved sets, for a sync without a selection.
    pub(super) fn all_sets(&self, request: &SyncRequest) -> Result<Selection, JobError> {
        let sets = self.set_names()?;
        if sets.is_empty() || request.save.is_some() {
            let message = match &request.save {
                Some(_) => "nothing is selected that could be saved",
                None => "nothing is selected, and there is no saved set",
            };
            return Err(JobError::new(Fault::Usage, message).hint(
                "name crates with `--lockfile`, `--crate`, `--list` or `--all`; `--save NAME` keeps them current",
            ));
        }
        Ok(Selection {
            sets,
            ..Selection::default()
        })
    }
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

fn no_such(name: &str) -> JobError {
    JobError::new(Fault::Usage, format!("there is no saved set `{name}`"))
        .hint("`orlop sync --sets` lists them")
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

fn info(name: String, selection: Selection, run: SetRun) -> SetInfo {
    let names = |texts: Vec<NamedText>| texts.into_iter().map(|text| text.name).collect();
    SetInfo {
        name,
        lockfiles: names(selection.lockfiles),
        lists: names(selection.lists),
        crates: selection.crates,
        all: selection.all,
        latest: selection.latest,
        saved_at: 0,
        run,
    }
}
