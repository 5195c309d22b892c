//! Who fetched a crate, and what else wants it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    jobs::{
        JobContext, JobError,
        job::{Job, JobReport},
        kind::JobKind,
        saved_sets::set_names,
        select::{Selection, choose},
        services::Services,
        upkeep::{pins::pinned, target::Target},
    },
    mirror::uses::Client,
};

/// Whose downloads are asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WhoRequest {
    /// `name` or `name@version`.
    pub release: String,
}

/// Who fetched it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WhoReport {
    /// Whether it is recorded at all.
    pub recorded: bool,
    /// Each release that somebody fetched or wants.
    pub releases: Vec<WhoRelease>,
}

/// Who fetched a release, and what else wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoRelease {
    /// `name@version`.
    pub release: String,
    /// Whether its crate file is held.
    pub held: bool,
    /// Who fetched it, the newest first.
    pub clients: Vec<Client>,
    /// Pins that want it.
    pub pins: Vec<String>,
    /// Saved sets that want it.
    pub sets: Vec<String>,
}

impl JobReport for WhoReport {
    const NAME: &'static str = "who";
}

impl Job for WhoRequest {
    const NAME: &'static str = "who";
    type Report = WhoReport;

    fn kind(&self) -> JobKind {
        JobKind::Read
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<WhoReport, JobError> {
        let (request, services) = (self, &services);
        let target = Target::parse(&request.release)?;
        let wanted_by = sets_that_want(services, &target, &cx.silenced()).await?;
        let who = move |services: &Services| who_now(services, &target, &wanted_by);
        services.blocking(who).await?
    }
}

fn who_now(
    services: &Services,
    target: &Target,
    wanted_by: &BTreeMap<String, Vec<String>>,
) -> Result<WhoReport, JobError> {
    let fault = |error| JobError::store("the record of uses", &error);
    services.uses.flush().map_err(fault)?;
    let mut used = services.uses.clients_of(&target.name).map_err(fault)?;
    let pinned = pinned(services)?;
    let releases = services.store.releases(&target.name).map_err(fault)?;
    let mut report = WhoReport {
        recorded: services.uses.is_on(),
        releases: Vec::new(),
    };
    for facts in releases {
        let key = format!("{}@{}", facts.name.key(), facts.version);
        let is_meant = target.version.as_ref().is_none_or(|v| *v == facts.version);
        if !is_meant {
            continue;
        }
        let told = WhoRelease {
            release: format!("{}@{}", facts.name, facts.version),
            held: facts.held,
            clients: used.remove(&key).unwrap_or_default(),
            pins: pinned.of(&target.name, &key),
            sets: wanted_by.get(&key).cloned().unwrap_or_default(),
        };
        let is_wanted = !(told.clients.is_empty() && told.pins.is_empty() && told.sets.is_empty());
        if is_wanted || target.version.is_some() {
            report.releases.push(told);
        }
    }
    Ok(report)
}

/// Which saved sets want releases of a crate, as far as the index that is held tells.
async fn sets_that_want(
    services: &Services,
    target: &Target,
    cx: &JobContext,
) -> Result<BTreeMap<String, Vec<String>>, JobError> {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for set in set_names(services)? {
        let selection = Selection {
            sets: vec![set.clone()],
            ..Selection::default()
        };
        let chosen = choose(services, &selection, false, cx).await?;
        for (version, _checksum) in chosen.names.get(&target.name).into_iter().flatten() {
            let key = format!("{}@{version}", target.name.key());
            wanted.entry(key).or_default().push(set.clone());
        }
    }
    Ok(wanted)
}
