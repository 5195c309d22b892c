//! All releases of a name, or of all names, as the records have them: nothing is decompressed.

use std::ops::ControlFlow;

use super::{
    codec::{REMOVED, Row, SUPERSEDED, VersionText, View, YANKED},
    error::Error,
    facts::{EntryFacts, KnownChecksum, ReleaseFacts},
    fields::Damaged,
    handle::Store,
    shared::Shared,
};
use crate::registry::{CrateName, Release, release::parse_version};

impl Store {
    /// What is known of a release; `None`: no index entry that was seen had it.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn release(&self, release: &Release) -> Result<Option<ReleaseFacts>, Error> {
        let shared = self.shared();
        let key = release.name.key();
        Ok(shared.record(key).and_then(|record| {
            let view = shared.view(key, &record)?;
            let text = VersionText::of(&release.version);
            let row = view.rows_of(text.as_str()).next()?;
            Some(ReleaseFacts {
                name: view.name().ok()?,
                version: release.version.clone(),
                checksum: row.checksum,
                yanked: row.has(YANKED),
                held: shared.is_held(&row),
                removed: row.has(REMOVED),
            })
        }))
    }

    /// All checksums that a release was seen with, the one in force first.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn checksums(&self, release: &Release) -> Result<Vec<KnownChecksum>, Error> {
        let shared = self.shared();
        let key = release.name.key();
        let Some(record) = shared.record(key) else {
            return Ok(Vec::new());
        };
        let Some(view) = shared.view(key, &record) else {
            return Ok(Vec::new());
        };
        let text = VersionText::of(&release.version);
        let known = view.rows_of(text.as_str()).map(|row| KnownChecksum {
            checksum: row.checksum,
            held: shared.is_held(&row),
            superseded: row.has(SUPERSEDED),
            removed: row.has(REMOVED),
        });
        Ok(known.collect())
    }

    /// All releases of a name, in the order of their versions; none: the name was never seen.
    /// Removed ones are among them. Of a version with several checksums it is the one in force.
    ///
    /// # Errors
    /// None today; damage counts as absent.
    pub fn releases(&self, name: &CrateName) -> Result<Vec<ReleaseFacts>, Error> {
        let shared = self.shared();
        let key = name.key();
        Ok(shared
            .record(key)
            .and_then(|record| {
                let view = shared.view(key, &record)?;
                releases_of(shared, &view)
            })
            .unwrap_or_default())
    }

    /// Hands all entries with their releases to `visit`, in the order of the names, until it breaks.
    /// Reads the whole of sled: for jobs, not for requests.
    ///
    /// # Errors
    /// If sled cannot be read; damaged records are passed over.
    pub fn visit_releases(
        &self,
        mut visit: impl FnMut(&EntryFacts, &[ReleaseFacts]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let shared = self.shared();
        self.visit(&mut |key, view| {
            let both = shared.facts(view).zip(releases_of(shared, view));
            let Some((entry, releases)) = both else {
                shared.note_damage(key, &Damaged);
                return true;
            };
            visit(&entry, &releases).is_continue()
        })
    }
}

fn releases_of(shared: &Shared, view: &View<'_>) -> Option<Vec<ReleaseFacts>> {
    let name = view.name().ok()?;
    let mut last = None;
    // Of several rows of a version the one in force is first.
    let current = view.rows().filter(|row| {
        let is_first = last != Some(row.version);
        last = Some(row.version);
        is_first
    });
    let mut releases: Vec<ReleaseFacts> = current
        .filter_map(|row| facts_of(shared, &name, &row))
        .collect();
    releases.sort_by(|a, b| a.version.cmp(&b.version));
    Some(releases)
}

fn facts_of(shared: &Shared, name: &CrateName, row: &Row<'_>) -> Option<ReleaseFacts> {
    Some(ReleaseFacts {
        name: name.clone(),
        version: parse_version(row.version).ok()?,
        checksum: row.checksum,
        yanked: row.has(YANKED),
        held: shared.is_held(row),
        removed: row.has(REMOVED),
    })
}
