//! Black-box tests: the real binary, a fake upstream that can misbehave, and real cargo.
//!
//! Everything is on loopback and in temporary folders; only `live` asks the live registry, and
//! only when ignored tests are run. One file a feature; `harness` tests the harness itself.
#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "texts of a test are short, and read better this way"
)]

mod admin;
mod airgap;
mod backup;
mod browser;
mod bundle;
mod cli;
mod clients;
mod config;
mod crash;
mod doctor;
mod download;
mod faults;
mod follow;
mod generations;
mod git;
mod git_wire;
mod harness;
mod herd;
mod index;
mod listener;
mod live;
mod metrics;
mod outbound;
mod package;
mod page;
mod page_html;
mod prometheus;
mod proxies;
mod reload;
mod seed;
mod size;
mod store;
mod support;
mod sync;
mod systemd;
mod upkeep;
mod views;
