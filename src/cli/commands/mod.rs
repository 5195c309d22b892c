//! One file a command: its arguments, the request that they make, and how its report is printed.

pub(super) mod backup;
pub(super) mod completions;
pub(super) mod doctor;
pub(super) mod export;
pub(super) mod gc;
pub(super) mod import;
pub(super) mod key;
pub(super) mod man;
mod media;
pub(super) mod pin;
pub(super) mod refresh;
pub(super) mod reload;
pub(super) mod restore;
mod seed;
pub(super) mod stats;
pub(super) mod sync;
pub(super) mod verify;
pub(super) mod who;

pub use self::{
    backup::BackupArgs,
    completions::{CompletionsArgs, KnownShell},
    doctor::DoctorArgs,
    export::ExportArgs,
    gc::GcArgs,
    import::ImportArgs,
    key::{KeyArgs, KeyCommand},
    man::ManArgs,
    pin::{PinArgs, UnpinArgs},
    refresh::RefreshArgs,
    reload::{PlaceArgs, ReloadArgs},
    restore::RestoreArgs,
    stats::StatsArgs,
    sync::{SelectionArgs, SyncArgs},
    verify::VerifyArgs,
    who::WhoArgs,
};
