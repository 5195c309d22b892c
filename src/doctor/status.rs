//! What a running orlop reports about itself in `/status.json`, as findings.

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    address::below,
    finding::{Finding, Findings},
};
use crate::{
    status::{HealthItem, Level},
    upstream::probe::Probe,
};

/// How old the server's last success with upstream may be: one that is older says nothing about now.
const MAX_SUCCESS_AGE_SECONDS: u64 = 300;

/// `/status.json`. A field that another version lacks counts as empty.
#[derive(Debug)]
pub(super) struct ServerStatus(Value);

impl ServerStatus {
    /// Asks the server at `base`; `None`: it is not orlop.
    pub(super) async fn fetch(probe: &Probe, base: &Url) -> Option<ServerStatus> {
        let reply = probe.get(&below(base, "status.json")).await.ok()?;
        let status: Value = serde_json::from_slice(&reply.body).ok()?;
        let is_orlop = reply.status == 200 && status.pointer("/verdict/headline").is_some();
        is_orlop.then_some(ServerStatus(status))
    }

    fn get<'a, T: Deserialize<'a> + Default>(&'a self, pointer: &str) -> T {
        let value = self.0.pointer(pointer);
        value
            .and_then(|value| T::deserialize(value).ok())
            .unwrap_or_default()
    }

    /// Adds the verdict and everything that needs attention.
    pub(super) fn report(&self, findings: &mut Findings<'_>) {
        let items: Vec<Value> = self.get("/attention");
        let items = items.into_iter().map(HealthItem::deserialize);
        let items: Vec<HealthItem> = items.filter_map(Result::ok).collect();
        let level: Level = self.get("/verdict/level");
        let [version, headline, detail] =
            ["/version", "/verdict/headline", "/verdict/detail"].map(|it| self.get::<&str>(it));
        let mut server = finding!(Ok, "server" => "orlop {version}: {headline}; {detail}");
        // What an item explains is counted there.
        if level != Level::Good && !items.iter().any(|item| item.level == level) {
            server.severity = level.into();
            server.remedy = Some("the mirror's status page has the details".to_owned());
        }
        findings.add(server);
        for item in items {
            findings.add(Finding::of("attention", item));
        }
    }

    /// Whether both are of one run of one server.
    pub(super) fn is_same_run(&self, other: &ServerStatus) -> bool {
        let started = |it: &ServerStatus| -> u64 {
            it.get::<u64>("/now_seconds")
                .saturating_sub(it.get("/uptime_seconds"))
        };
        started(self).abs_diff(started(other)) <= 1
    }

    /// How the server reached upstream's index; `None`: it did not when it last tried, or that is
    /// long ago, or it never tried.
    pub(super) fn reached_upstream(&self) -> Option<String> {
        let last: Option<u64> = self.get("/upstream/index/last_success_seconds");
        let level: Level = self.get("/upstream/index/level");
        let [url, text] = ["/upstream/url", "/upstream/index/text"].map(|it| self.get::<&str>(it));
        let is_recent = last.is_some_and(|age| age <= MAX_SUCCESS_AGE_SECONDS);
        (level == Level::Good && is_recent).then(|| format!("`{url}` {text}"))
    }
}
