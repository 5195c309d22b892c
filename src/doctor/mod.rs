//! Finds out why a client does not get its crates, and what is wrong on the server's machine.
//!
//! The checks follow a request of cargo: its configuration, the proxy, the connection, the answer,
//! the index, a download. What a running orlop knows comes from its `/status.json`; checked here is
//! only what it cannot know, and where no server runs, what needs none. Nothing is printed: the result is a [`Diagnosis`].

#[macro_use]
mod finding;

mod address;
mod cargo;
mod mirror;
mod network;
mod server;
mod status;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

pub use self::finding::{Finding, Severity};
use self::{address::MirrorUrls, cargo::CargoConfig, finding::Findings};
use crate::{admin::Client, config::Loaded, upstream::probe::Way};

/// What to examine.
#[derive(Debug)]
pub struct Options {
    /// The mirror, or its index as cargo's configuration names it; `None`: the one that cargo
    /// uses, else the one on this machine.
    pub url: Option<String>,
    /// The crate to download, `NAME[@VERSION]`; `None`: one that the mirror knows.
    pub probe: Option<String>,
    /// The folder that cargo runs in.
    pub folder: PathBuf,
    /// The environment that cargo runs in.
    pub variables: BTreeMap<String, String>,
    /// The settings of the server on this machine, or what is wrong with them.
    pub settings: Result<Loaded, String>,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
#[serde(tag = "report", rename = "doctor")]
pub struct Diagnosis {
    /// How many checks failed.
    pub problems: usize,
    /// Every check, in its order.
    pub findings: Vec<Finding>,
}

/// Runs every check that makes sense on this machine. Checks of the network take their time, so
/// each finding is passed on at once.
pub async fn examine(options: &Options, on_finding: &mut dyn FnMut(&Finding)) -> Diagnosis {
    let list = Vec::new();
    let mut findings = Findings { list, on_finding };
    examine_all(options, &mut findings).await;
    let findings = findings.list;
    let failed = |finding: &&Finding| finding.severity == Severity::Fail;
    let problems = findings.iter().filter(failed).count();
    Diagnosis { problems, findings }
}

async fn examine_all(options: &Options, findings: &mut Findings<'_>) {
    let settings = options.settings.as_ref().ok();
    let local = settings.filter(|loaded| server::has_store(loaded));
    let socket = match local {
        Some(loaded) => Client::connect(&loaded.config.admin_socket()).await,
        None => Ok(None),
    };
    let cargo = CargoConfig::read(&options.folder, &options.variables);
    let index = cargo.examine(options.url.is_some() || local.is_some(), findings);
    let of_socket = || socket.as_ref().ok()?.as_ref()?.http().local_base();
    let of_settings = || local?.config.local_base();
    let named = options.url.as_ref().or(index.as_ref()).cloned();
    let address = named.or_else(of_socket).or_else(of_settings);
    let mut status = None;
    match address.as_deref().map(MirrorUrls::parse) {
        Some(Ok(urls)) => {
            let is_sparse = index.map_or(!urls.is_git, |index| index.starts_with("sparse+"));
            findings.add(cargo::examine_version(is_sparse));
            let way = Way {
                proxy: network::proxy(&urls, &cargo, findings),
                ca_file: cargo.ca_file(),
            };
            if way.proxy.is_some() || network::is_reachable(&urls.base, findings).await {
                let wanted = options.probe.as_deref();
                status = mirror::examine(&urls, &way, wanted, findings).await;
            }
        }
        Some(Err(finding)) => findings.add(finding),
        None => findings.add(finding!(Skip, "address" => "neither the command nor cargo's configuration names a mirror")),
    }
    match &options.settings {
        Ok(loaded) => server::examine(loaded, &socket, status.as_ref(), findings).await,
        Err(errors) => {
            let errors = errors.trim_end().replace('\n', "; ");
            findings.add(finding!(Fail, "settings" => "{errors}";
                "`orlop config check` shows the same with the places"));
        }
    }
}
