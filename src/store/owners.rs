//! Who refers to a blob. What no one owns may be removed; everything that asks this asks here.

use std::ops::ControlFlow;

use super::{
    catalogue::Catalogue,
    codec::{REMOVED, SUPERSEDED},
    error::Error,
    facts::KnownChecksum,
    fields::Damaged,
    shared::Shared,
};
use crate::registry::{Checksum, CrateName};

/// Who refers to a blob and so keeps it. A pin or a saved set keeps a crate version, and owns no
/// blob by itself.
#[derive(Debug)]
pub enum BlobOwner<'a> {
    /// A crate version, which has or had its checksum.
    CrateVersion {
        /// The crate.
        name: &'a CrateName,
        /// The version as text.
        version: &'a str,
        /// What is known of the checksum.
        known: KnownChecksum,
    },
}

/// Hands every reference to a blob to `visit`, until it breaks.
///
/// # Errors
/// If sled cannot be read; damaged records are passed over and counted.
pub(super) fn visit(
    shared: &Shared,
    catalogue: &Catalogue,
    visit: &mut dyn FnMut(&Checksum, &BlobOwner<'_>) -> ControlFlow<()>,
) -> Result<(), Error> {
    catalogue.visit(&mut |key, record| {
        let key = str::from_utf8(key).unwrap_or_default();
        let Some(view) = shared.view(key, &record) else {
            return true;
        };
        let Ok(name) = view.name() else {
            shared.note_damage(key, &Damaged);
            return true;
        };
        view.rows().all(|row| {
            let owner = BlobOwner::CrateVersion {
                name: &name,
                version: row.version,
                known: KnownChecksum {
                    checksum: row.checksum,
                    held: shared.is_held(&row),
                    superseded: row.has(SUPERSEDED),
                    removed: row.has(REMOVED),
                },
            };
            visit(&row.checksum, &owner).is_continue()
        })
    })
}
