//! orlop, a crates.io mirror that a lab installs and forgets.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::panic
    )
)]

pub mod config;
pub mod http;
pub mod metrics;
pub mod mirror;
pub mod policy;
pub mod registry;
pub mod store;
pub mod upstream;
