//! Views of the index: which there are, and what each shows of an index file.
//!
//! A view is a filter over the file that the root index serves. A view that shows only what is cached
//! is read off the store as it is now and asks no upstream: a version that upstream yanked since is
//! shown as it was last known, and a name that no client asked the root index for is not there.
//!
//! What such a view shows changes with the index entry and with the files that come and go; both
//! move [`Mirror::held_stamp`]. The truth about a file is whether it is in its place, which is looked
//! at for every version shown.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use bytes::Bytes;

use super::{Error, Inner, Mirror, options::mark};
use crate::{
    policy::{
        rule::Facts,
        view::{KNOWN, Shown, View},
    },
    registry::{CrateName, IndexFile},
    store::{Found, Snapshot, Store},
};

/// Which views there are. `config::KEYS` says why a default is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether there is one of what is held.
    pub held: bool,
    /// The folder that has the git index of each view, below its name.
    pub dir: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            held: true,
            dir: PathBuf::new(),
        }
    }
}

/// How many names a search in a view looks at. Each costs a look into the store.
const SEARCHED_NAMES: usize = 2_000;

/// Why there is no view of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// The configuration says so.
    #[error("the view `{name}` is switched off (`views.{name}` is false)")]
    Off {
        /// The view.
        name: String,
    },
    /// There is none.
    #[error("there is no view `{name}`; there {}", told(known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
}

fn told(known: &[String]) -> String {
    match known {
        [] => "are none".to_owned(),
        [one] => format!("is `{one}`"),
        many => format!("are `{}`", many.join("`, `")),
    }
}

/// All views that are served.
#[derive(Debug, Clone)]
pub struct Views {
    /// The root index.
    all: Arc<View>,
    served: Vec<Arc<View>>,
}

impl Views {
    /// The root index, and the views that are switched on.
    pub fn new(options: &Options) -> Views {
        let views = options.held.then(View::held);
        Views {
            all: Arc::new(View::all()),
            served: views.into_iter().map(Arc::new).collect(),
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<View>> {
        self.served.iter().find(|view| view.name() == name)
    }

    /// The views below `/view/`.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<View>> {
        self.served.iter()
    }
}

impl Mirror {
    /// The view of a name; where none is named, the root index.
    ///
    /// # Errors
    /// [`NoView`] says which there are.
    pub fn view(&self, name: Option<&str>) -> Result<Arc<View>, NoView> {
        let views = &self.inner.views;
        let Some(name) = name else {
            return Ok(Arc::clone(&views.all));
        };
        if let Some(view) = views.find(name) {
            return Ok(Arc::clone(view));
        }
        let name = name.to_owned();
        if KNOWN.contains(&name.as_str()) {
            return Err(NoView::Off { name });
        }
        let known = views.iter().map(|view| view.name().to_owned()).collect();
        Err(NoView::Unknown { name, known })
    }

    /// A number that changes when what `view` shows of `name` may have changed: ready answers carry
    /// it.
    pub fn stamp(&self, view: &View, name: &CrateName) -> u64 {
        if view.is_cached_only() {
            return self.held_stamp(name);
        }
        mark(self.inner.store.stamp(name), self.inner.options.changes())
    }

    /// A number that changes when the index entry of `name` or which of its files are cached may
    /// have changed.
    pub fn held_stamp(&self, name: &CrateName) -> u64 {
        let counter = self.inner.store.held_stamp(name);
        mark(counter, self.inner.options.changes())
    }

    /// Crates in the view whose name contains `query`, best first, and how many there are: of a view
    /// with rules, among the first 2,000 that the mirror knows. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn search(
        &self,
        view: &View,
        query: &str,
        limit: usize,
    ) -> Result<(Vec<Found>, usize), Error> {
        let known = |limit| {
            let found = self.inner.store.search(query, limit);
            found.map_err(|error| Error::store(&format!("the search for `{query}`"), error))
        };
        if view.is_unfiltered() {
            return known(limit);
        }
        let (candidates, _all) = known(SEARCHED_NAMES)?;
        let mut found = Vec::new();
        let mut total = 0_usize;
        for candidate in candidates {
            let Some(newest) = self.inner.newest_shown(view, &candidate.name)? else {
                continue;
            };
            total = total.saturating_add(1);
            if found.len() < limit {
                found.push(newest);
            }
        }
        Ok((found, total))
    }
}

impl Inner {
    /// A crate with the highest version that a view shows and that is not yanked; `None`: it shows
    /// nothing of it.
    fn newest_shown(&self, view: &View, name: &CrateName) -> Result<Option<Found>, Error> {
        let shown = shown(&self.store, view, name, self.clock.now())
            .map_err(|error| Error::store(name, error))?;
        let file = shown
            .bytes
            .and_then(|bytes| IndexFile::parse(name, bytes).ok());
        let found = file.and_then(|file| {
            let (rows, name) = (file.rows(), file.rows().last()?.name.clone());
            let versions = rows.iter().filter(|row| !row.yanked);
            let max_version = versions.map(|row| row.version.clone()).max();
            Some(Found { name, max_version })
        });
        Ok(found)
    }
}

/// What a view shows of the entry of `name`: nothing where there is no such entry.
pub fn shown(
    store: &Store,
    view: &View,
    name: &CrateName,
    now: SystemTime,
) -> Result<Shown, crate::store::Error> {
    let Some(Snapshot { bytes, .. }) = store.snapshot(name)? else {
        return Ok(Shown {
            bytes: None,
            dropped: false,
            valid_until: None,
        });
    };
    Ok(lines_of(store, view, name, bytes, now))
}

/// What a view shows of the index file of `name`. One without rules need not parse it.
pub fn lines_of(
    store: &Store,
    view: &View,
    name: &CrateName,
    file: Bytes,
    now: SystemTime,
) -> Shown {
    if view.is_unfiltered() {
        return Shown {
            bytes: Some(file),
            dropped: false,
            valid_until: None,
        };
    }
    // What does not parse never came in; a view that cannot tell its lines apart shows none.
    let Ok(file) = IndexFile::parse(name, file) else {
        return Shown {
            bytes: None,
            dropped: true,
            valid_until: None,
        };
    };
    let facts = Facts {
        is_cached: &|checksum| store.holds(checksum),
        now,
    };
    view.apply(&file, &facts)
}

#[cfg(test)]
mod tests;
