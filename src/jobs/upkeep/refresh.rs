//! Asks upstream for index entries now, whatever their age, and says what changed.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    jobs::{
        JobContext, JobError, Services, Unit,
        job::{Job, JobReport},
        kind::JobKind,
        upkeep::target::offline,
    },
    mirror::Asked,
    registry::CrateName,
    store::ReleaseFacts,
    util::{
        error::one_line,
        task::{Bounded, Next},
    },
};

/// How many names are asked for at once.
const AT_ONCE: usize = 16;

/// Which index entries to ask for again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RefreshRequest {
    /// Names of crates.
    pub names: Vec<String>,
}

/// What asking brought.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RefreshReport {
    /// Each name that was asked for.
    pub names: Vec<RefreshedName>,
}

/// What asking for one name brought.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefreshedName {
    /// The name, as it was given or as the index spells it.
    pub name: String,
    /// In a word.
    pub outcome: Outcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Versions that were not known before.
    #[serde(default)]
    pub new: Vec<String>,
    /// Versions that were yanked.
    #[serde(default)]
    pub yanked: Vec<String>,
    /// Versions that are no longer yanked.
    #[serde(default)]
    pub unyanked: Vec<String>,
    /// Versions with another checksum than before.
    #[serde(default)]
    pub replaced: Vec<String>,
    /// Versions that are no longer in the index.
    #[serde(default)]
    pub removed: Vec<String>,
}

/// What became of an index entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as it was.
    Unchanged,
    /// It changed.
    Changed,
    /// It was not here before.
    Added,
    /// Upstream no longer has it; what is held is kept.
    Gone,
    /// Upstream does not have it, and neither do we.
    Unknown,
    /// It could not be asked for.
    Failed,
}

impl JobReport for RefreshReport {
    const NAME: &'static str = "refresh";

    fn has_problems(&self) -> bool {
        self.names.iter().any(|name| {
            matches!(
                name.outcome,
                Outcome::Unknown | Outcome::Failed | Outcome::Gone
            )
        })
    }
}

impl RefreshedName {
    fn of(name: &str, outcome: Outcome) -> RefreshedName {
        RefreshedName {
            name: name.to_owned(),
            outcome,
            cause: None,
            new: Vec::new(),
            yanked: Vec::new(),
            unyanked: Vec::new(),
            replaced: Vec::new(),
            removed: Vec::new(),
        }
    }

    fn failed(name: &str, error: &dyn std::error::Error) -> RefreshedName {
        RefreshedName {
            cause: Some(one_line(error)),
            ..RefreshedName::of(name, Outcome::Failed)
        }
    }

    fn is_same(&self) -> bool {
        [
            &self.new,
            &self.yanked,
            &self.unyanked,
            &self.replaced,
            &self.removed,
        ]
        .into_iter()
        .all(Vec::is_empty)
    }

    /// Notes how the releases differ.
    fn compare(&mut self, before: &Facts, after: &Facts) {
        for (version, now) in after {
            let text = version.to_string();
            let Some(was) = before.get(version) else {
                self.new.push(text);
                continue;
            };
            if was.removed != now.removed {
                let list = if now.removed {
                    &mut self.removed
                } else {
                    &mut self.new
                };
                list.push(text);
            } else if was.checksum != now.checksum {
                self.replaced.push(text);
            } else if was.yanked != now.yanked {
                let list = if now.yanked {
                    &mut self.yanked
                } else {
                    &mut self.unyanked
                };
                list.push(text);
            }
        }
    }
}

type Facts = BTreeMap<Version, ReleaseFacts>;

impl Job for RefreshRequest {
    const NAME: &'static str = "refresh";
    type Report = RefreshReport;

    fn kind(&self) -> JobKind {
        JobKind::Refresh
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<RefreshReport, JobError> {
        let (request, services) = (self, &services);
        if !services.mirror.asks_upstream() {
            return Err(offline("index entries cannot be asked for"));
        }
        let total = u64::try_from(request.names.len()).ok();
        cx.phase("asking", Unit::Names, total);
        let mut names = request.names.into_iter().enumerate();
        let mut running = Bounded::new(AT_ONCE);
        let mut refreshed = BTreeMap::new();
        loop {
            running.fill(|| {
                let (at, name) = names.next()?;
                Some(async move { (at, refresh_one(services, name).await) })
            });
            match cx.unless_cancelled(running.next()).await? {
                Next::Done((at, name)) => refreshed.insert(at, name),
                Next::Tick => continue,
                Next::Empty => break,
            };
            let done = u64::try_from(refreshed.len()).ok();
            cx.progress(done.unwrap_or(u64::MAX), total, 0);
        }
        Ok(RefreshReport {
            names: refreshed.into_values().collect(),
        })
    }
}

async fn refresh_one(services: &Services, text: String) -> RefreshedName {
    let text = text.as_str();
    let name = match CrateName::parse(text) {
        Ok(name) => name,
        Err(error) => return RefreshedName::failed(text, &error),
    };
    let before = facts_of(services, &name);
    let was_here = services.mirror.has_entry(&name);
    let patience = services.mirror.options().answer_within;
    match services.mirror.refresh(&name, patience).await {
        Err(error) => RefreshedName::failed(text, &error),
        Ok(Asked::Absent) => RefreshedName::of(text, Outcome::Unknown),
        Ok(Asked::Present { .. }) => difference(services, &name, &before, was_here),
    }
}

fn difference(
    services: &Services,
    name: &CrateName,
    before: &Facts,
    was_here: bool,
) -> RefreshedName {
    let after = facts_of(services, name);
    let entry = services.store.entry(name).ok().flatten();
    let is_gone = entry.as_ref().is_some_and(|entry| entry.gone);
    let spelling = entry.map_or_else(|| name.clone(), |entry| entry.name);
    let mut told = RefreshedName::of(spelling.as_str(), Outcome::Unchanged);
    told.compare(before, &after);
    told.outcome = match (is_gone, was_here, told.is_same()) {
        (true, _, _) => Outcome::Gone,
        (false, false, _) => Outcome::Added,
        (false, true, false) => Outcome::Changed,
        (false, true, true) => Outcome::Unchanged,
    };
    told
}

fn facts_of(services: &Services, name: &CrateName) -> Facts {
    let releases = services.store.releases(name).unwrap_or_default();
    releases
        .into_iter()
        .map(|facts| (facts.version.clone(), facts))
        .collect()
}
