//! Pins: releases that are kept whatever happens.
//!
//! In [`Table::Pins`], under `name` or `name@version` with the name in lower case:
//! `{"release":"name@version","since":SECONDS}`, the release in the spelling of the index.

use std::{collections::HashSet, ops::ControlFlow};

use serde::{Deserialize, Serialize};

use crate::util::json::read_json;
use crate::{
    jobs::{
        JobContext, JobError, Services,
        hold::hold_all,
        job::{Job, JobReport},
        kind::JobKind,
        upkeep::target::Target,
    },
    registry::{CrateName, Release},
    store::{ReleaseFacts, Table},
    util::{error::one_line, format::seconds, json::to_json, task::blocking},
};

/// Which releases, as `name` or `name@version`; a name alone means all its versions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PinRequest {
    /// The releases; none: nothing changes, and the report has the pins.
    pub releases: Vec<String>,
}

/// Which pins to take back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UnpinRequest {
    /// The releases, as for [`PinRequest`].
    pub releases: Vec<String>,
}

/// The pins in force.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PinReport {
    /// All pins, in order.
    pub pins: Vec<Pin>,
    /// Pins that were made or taken back.
    pub changed: Vec<String>,
    /// Crate files that were fetched for new pins.
    #[serde(default)]
    pub fetched: u64,
    /// What could not be done.
    #[serde(default)]
    pub problems: Vec<String>,
}

impl JobReport for PinReport {
    const NAME: &'static str = "pins";

    fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// `name` or `name@version`.
    pub release: String,
    /// When it was made, in seconds since 1970.
    pub since: u64,
    /// How many crate files it stands for.
    #[serde(default)]
    pub releases: u64,
    /// How many of them are held.
    #[serde(default)]
    pub held: u64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    release: String,
    since: u64,
}

/// Which pins there are, for who must not remove what is pinned.
#[derive(Debug, Default)]
pub(super) struct Pinned(HashSet<String>);

impl Pinned {
    pub(super) fn has(&self, name: &CrateName, release_key: &str) -> bool {
        !self.0.is_empty() && (self.0.contains(name.key()) || self.0.contains(release_key))
    }

    /// The pins that want a release.
    pub(super) fn of(&self, name: &CrateName, release_key: &str) -> Vec<String> {
        let keys = [name.key(), release_key];
        let there = keys.into_iter().filter(|key| self.0.contains(*key));
        there.map(str::to_owned).collect()
    }
}

impl Job for PinRequest {
    const NAME: &'static str = "pin";
    type Report = PinReport;

    fn kind(&self) -> JobKind {
        JobKind::Pin
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<PinReport, JobError> {
        let (request, services) = (self, &services);
        let targets = parse_all(&request.releases)?;
        let mut report = PinReport::default();
        for target in targets {
            cx.check_cancelled()?;
            match pin_one(services, &target).await? {
                Ok(releases) => {
                    report.changed.push(target.key());
                    fetch_pinned(services, &releases, &mut report, &cx).await?;
                }
                Err(problem) => report.problems.push(problem),
            }
        }
        with_pins(services, report).await
    }
}

/// Makes a pin. Returns the releases that it stands for, or why it cannot be made.
async fn pin_one(
    services: &Services,
    target: &Target,
) -> Result<Result<Vec<ReleaseFacts>, String>, JobError> {
    let asks = services.mirror.asks_upstream();
    let asked = if asks {
        services.mirror.index_entry(&target.name).await
    } else {
        Ok(())
    };
    let releases = wanted(services, target)?;
    if releases.is_empty() {
        return Ok(Err(match asked {
            Err(error) => format!("`{}` was not pinned: {}", target.key(), one_line(&error)),
            Ok(()) => format!("`{}` was not pinned: no index entry has it", target.key()),
        }));
    }
    let kept = Kept {
        release: spelling(target, &releases),
        since: seconds(services.clock.now()),
    };
    let (store, key) = (services.store.clone(), target.key());
    blocking(move || {
        let was = store
            .kept(Table::Pins, &key)
            .map_err(|error| JobError::store(&key, &error))?;
        if was.is_some() {
            return Ok(());
        }
        store
            .keep(Table::Pins, vec![(key.clone(), Some(to_json(&kept)))])
            .map_err(|error| JobError::store(&key, &error))
    })
    .await??;
    Ok(Ok(releases))
}

/// The releases that a target stands for.
fn wanted(services: &Services, target: &Target) -> Result<Vec<ReleaseFacts>, JobError> {
    let releases = services
        .store
        .releases(&target.name)
        .map_err(|error| JobError::store(target.name.as_str(), &error))?;
    Ok(releases
        .into_iter()
        .filter(|facts| match &target.version {
            Some(version) => facts.version == *version,
            None => true,
        })
        .collect())
}

async fn fetch_pinned(
    services: &Services,
    releases: &[ReleaseFacts],
    report: &mut PinReport,
    cx: &JobContext,
) -> Result<(), JobError> {
    let mut missing: Vec<_> = releases
        .iter()
        .filter(|facts| !services.store.holds(&facts.checksum) && !facts.removed)
        .collect();
    missing.sort_by(|a, b| a.version.cmp(&b.version));
    if missing.is_empty() {
        return Ok(());
    }
    if !services.mirror.asks_upstream() {
        report.problems.extend(missing.iter().map(|facts| {
            format!(
                "`{}@{}` is pinned and not held, and upstream is never asked",
                facts.name, facts.version
            )
        }));
        return Ok(());
    }
    let missing = missing.into_iter().map(|facts| {
        let release = Release {
            name: facts.name.clone(),
            version: facts.version.clone(),
        };
        (release, facts.checksum)
    });
    hold_all(
        services,
        missing.collect(),
        cx,
        |release, held| match held {
            Ok(_bytes) => report.fetched += 1,
            Err(error) => report.problems.push(format!(
                "`{}@{}` is pinned and could not be fetched: {}",
                release.name,
                release.version,
                one_line(&error)
            )),
        },
    )
    .await
}

impl Job for UnpinRequest {
    const NAME: &'static str = "unpin";
    type Report = PinReport;

    fn kind(&self) -> JobKind {
        JobKind::Pin
    }

    async fn run(self, _cx: JobContext, services: Services) -> Result<PinReport, JobError> {
        let (request, services) = (self, &services);
        let targets = parse_all(&request.releases)?;
        let store = services.store.clone();
        let report = blocking(move || {
            let mut report = PinReport::default();
            for key in targets.iter().map(Target::key) {
                let fault = |error| JobError::store(&key, &error);
                if store.kept(Table::Pins, &key).map_err(fault)?.is_none() {
                    report.problems.push(format!("`{key}` is not pinned"));
                    continue;
                }
                store
                    .keep(Table::Pins, vec![(key.clone(), None)])
                    .map_err(fault)?;
                report.changed.push(key);
            }
            Ok::<_, JobError>(report)
        })
        .await??;
        with_pins(services, report).await
    }
}

async fn with_pins(services: &Services, mut report: PinReport) -> Result<PinReport, JobError> {
    report.pins = services.blocking(pins).await??;
    Ok(report)
}

fn pins(services: &Services) -> Result<Vec<Pin>, JobError> {
    let mut pins = Vec::new();
    visit_pins(services, &mut |key, bytes| {
        let kept = read_json::<Kept>(bytes).unwrap_or_else(|| Kept {
            release: key.to_owned(),
            since: 0,
        });
        pins.push(Pin {
            release: kept.release,
            since: kept.since,
            releases: 0,
            held: 0,
        });
    })?;
    for pin in &mut pins {
        let releases = wanted(services, &Target::parse(&pin.release)?)?;
        let wanted = releases.iter().filter(|facts| facts.held || !facts.removed);
        for facts in wanted {
            pin.releases += 1;
            pin.held += u64::from(facts.held);
        }
    }
    Ok(pins)
}

pub(super) fn pinned(services: &Services) -> Result<Pinned, JobError> {
    let mut keys = HashSet::new();
    visit_pins(services, &mut |key, _bytes| {
        keys.insert(key.to_owned());
    })?;
    Ok(Pinned(keys))
}

fn visit_pins(services: &Services, visit: &mut dyn FnMut(&str, &[u8])) -> Result<(), JobError> {
    services
        .store
        .kept_all(Table::Pins, "", |key, bytes| {
            visit(key, bytes);
            ControlFlow::Continue(())
        })
        .map_err(|error| JobError::store("the pins", &error))
}

fn parse_all(texts: &[String]) -> Result<Vec<Target>, JobError> {
    texts.iter().map(|text| Target::parse(text)).collect()
}

fn spelling(target: &Target, releases: &[ReleaseFacts]) -> String {
    let name = releases.first().map_or(&target.name, |facts| &facts.name);
    match &target.version {
        Some(version) => format!("{name}@{version}"),
        None => name.to_string(),
    }
}
