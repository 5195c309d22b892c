//! Is it a mirror, and does it give what cargo asks of it: from `config.json` to the bytes of a crate.

use std::time::{Duration, SystemTime};

use url::Url;

use super::{Findings, network, target::Target};
use crate::{
    registry::{
        Checksum, CrateName, IndexFile, RegistryConfig, Release, Row, release::parse_version,
    },
    upstream::probe::{Probe, Reply, Trouble, Way},
};

/// How far two clocks may be apart: certificates and caches begin to suffer from there on.
const MOST_SKEW: Duration = Duration::from_secs(5 * 60);

/// Crates that nearly everybody depends on, small, for a mirror that has nothing yet.
const WELL_KNOWN: [&str; 2] = ["cfg-if", "itoa"];

/// How many names the mirror is asked for.
const NAMES: usize = 20;

/// Everything that is asked of the mirror.
pub(super) async fn examine(
    target: &Target,
    way: &Way,
    wanted: Option<&str>,
    now: SystemTime,
    findings: &mut Findings<'_>,
) {
    let probe = match Probe::new(way) {
        Ok(probe) => probe,
        Err(trouble) => {
            findings.fail(
                "client",
                trouble.to_string(),
                "correct cargo's `http.cainfo` or `http.proxy`, which name it",
            );
            return;
        }
    };
    let asking = Asking { target, way, probe };
    if !asking.greet(now, findings).await {
        return;
    }
    let Some(config) = asking.config(findings).await else {
        return;
    };
    asking.download_host(&config, findings);
    if let Some((name, row)) = asking.entry(wanted, findings).await {
        asking.download(&config, &name, &row, findings).await;
    }
    asking.git(findings).await;
}

struct Asking<'a> {
    target: &'a Target,
    way: &'a Way,
    probe: Probe,
}

impl Asking<'_> {
    fn at(&self, path: &str) -> Url {
        below(&self.target.base, path)
    }

    /// Whether anybody answers, who that is, and what time it is there.
    async fn greet(&self, now: SystemTime, findings: &mut Findings<'_>) -> bool {
        const CHECK: &str = "answer";
        let url = self.at("healthz");
        let reply = match self.probe.get(&url, &[]).await {
            Ok(reply) => reply,
            Err(trouble) => {
                self.explain(CHECK, &trouble, findings);
                self.try_straight(&url, findings).await;
                return false;
            }
        };
        if self.target.base.scheme() == "https" {
            let by = match &self.way.ca_file {
                Some(path) => format!("`{}`", path.display()),
                None => "the authorities of this system".to_owned(),
            };
            findings.ok("TLS", format!("the certificate is vouched for by {by}"));
        }
        tell_clock(&reply, now, findings);
        if reply.status == 200 && reply.text().trim() == "ok" {
            findings.ok(CHECK, format!("`{url}` says ok over {}", reply.protocol));
            self.who_is_it(findings).await;
            return true;
        }
        if reply.is_page() || reply.is_elsewhere {
            portal(CHECK, &reply, findings);
            return false;
        }
        findings.warn(
            CHECK,
            format!(
                "`{url}` answers with status {} and not with `ok`",
                reply.status
            ),
            "this is another server than orlop, or a proxy before it that has no mirror to ask; \
             check the URL",
        );
        true
    }

    async fn who_is_it(&self, findings: &mut Findings<'_>) {
        const CHECK: &str = "server";
        let reply = self.probe.get(&self.at("metrics"), &[]).await;
        let version = reply.ok().and_then(|reply| version_of(&reply.text()));
        match version {
            Some(version) => findings.ok(CHECK, format!("orlop {version}")),
            None => findings.skip(CHECK, "it does not tell its version in `/metrics`"),
        }
    }

    /// Whether it is the proxy that is in the way.
    async fn try_straight(&self, url: &Url, findings: &mut Findings<'_>) {
        if self.way.proxy.is_none() {
            return;
        }
        let way = Way {
            proxy: None,
            ..self.way.clone()
        };
        let Ok(probe) = Probe::new(&way) else { return };
        if probe
            .get(url, &[])
            .await
            .is_ok_and(|reply| reply.status == 200)
        {
            findings.fail(
                "proxy",
                "the mirror answers without the proxy, and not through it",
                format!("add `{}` to the variable `no_proxy`", self.target.host()),
            );
        }
    }

    async fn config(&self, findings: &mut Findings<'_>) -> Option<RegistryConfig> {
        const CHECK: &str = "config.json";
        let url = below(&self.target.sparse, "config.json");
        let reply = self.answer(CHECK, &url, findings).await?;
        if reply.status != 200 {
            findings.fail(
                CHECK,
                format!(
                    "`{url}` answers with status {}: {}",
                    reply.status,
                    first_line(&reply.body)
                ),
                "check the path of the index: that of orlop ends in `/index/`",
            );
            return None;
        }
        match serde_json::from_slice::<RegistryConfig>(&reply.body) {
            Ok(config) if config.auth_required => {
                findings.warn(
                    CHECK,
                    "the registry wants a token with every request",
                    "`cargo login`",
                );
                Some(config)
            }
            Ok(config) => {
                findings.ok(CHECK, format!("downloads come from `{}`", config.dl));
                Some(config)
            }
            Err(error) => {
                findings.fail(
                    CHECK,
                    format!("`{url}` is no configuration of a registry: {error}"),
                    "something between alters it, or this is no index: check the URL",
                );
                None
            }
        }
    }

    /// cargo goes wherever `dl` says, so that must be somewhere.
    fn download_host(&self, config: &RegistryConfig, findings: &mut Findings<'_>) {
        const CHECK: &str = "download host";
        let sample = Release::parse("cfg-if", "1.0.0").ok();
        let text = sample.map(|release| config.download_url(&release, &Checksum::of(b"")));
        let remedy = "on the mirror, set `public_url` to the URL that clients reach it by; behind \
                      a reverse proxy, let that pass the `Host` on";
        let Some(Ok(url)) = text.map(|text| Url::parse(&text)) else {
            let found = format!("the `dl` of config.json, `{}`, makes no URL", config.dl);
            findings.fail(CHECK, found, remedy);
            return;
        };
        let is_other = (url.host(), url.port_or_known_default())
            != (
                self.target.base.host(),
                self.target.base.port_or_known_default(),
            );
        if !is_other || self.way.proxy.is_some() {
            return;
        }
        match network::is_reachable(&url) {
            Ok(address) => findings.ok(
                CHECK,
                format!("`dl` leads to another host, and {address} answers"),
            ),
            Err(why) => findings.fail(
                CHECK,
                format!(
                    "`dl` leads to `{}`, and {why}",
                    url.host_str().unwrap_or_default()
                ),
                remedy,
            ),
        }
    }

    /// The index entry of the crate to probe with, and the version to take.
    async fn entry(
        &self,
        wanted: Option<&str>,
        findings: &mut Findings<'_>,
    ) -> Option<(CrateName, Row)> {
        let (names, version) = match wanted {
            Some(wanted) => {
                let (name, version) = wanted.split_once('@').unzip();
                (vec![name.unwrap_or(wanted).to_owned()], version)
            }
            None => (self.names().await, None),
        };
        let mut last = None;
        for text in names {
            match self.entry_of(&text, version).await {
                Ok(Some((name, row))) => {
                    findings.ok(
                        "index",
                        format!("{name} is there, {} is its file", row.version),
                    );
                    return Some((name, row));
                }
                Ok(None) => last = Some(format!("`{text}` has no version to take")),
                Err(why) => last = Some(why),
            }
        }
        findings.fail(
            "index",
            last.unwrap_or_default(),
            "name a crate that the mirror should have with --probe NAME; a mirror that is offline \
             has only what was synced or imported (`orlop stats`)",
        );
        None
    }

    /// Names that the mirror has, then names that everybody has.
    async fn names(&self) -> Vec<String> {
        let mut url = self.at("api/v1/crates");
        url.set_query(Some(&format!("q=&per_page={NAMES}")));
        let reply = self.probe.get(&url, &[]).await;
        let mut names = reply
            .ok()
            .map(|reply| names_in(&reply.body))
            .unwrap_or_default();
        names.extend(WELL_KNOWN.map(ToOwned::to_owned));
        names
    }

    async fn entry_of(
        &self,
        text: &str,
        version: Option<&str>,
    ) -> Result<Option<(CrateName, Row)>, String> {
        let name = CrateName::parse(text).map_err(|error| format!("`{text}`: {error}"))?;
        let url = below(&self.target.sparse, &name.index_path());
        let reply = self.probe.get(&url, &[]).await;
        let reply = reply.map_err(|trouble| format!("the entry of `{text}`: {trouble}"))?;
        if reply.status != 200 {
            let said = first_line(&reply.body);
            return Err(format!(
                "the entry of `{text}`: status {}: {said}",
                reply.status
            ));
        }
        let file = IndexFile::parse(&name, reply.body)
            .map_err(|error| format!("the entry of `{text}`: {error}"))?;
        let row = match version {
            Some(version) => {
                let version =
                    parse_version(version).map_err(|error| format!("`{version}`: {error}"))?;
                file.row(&version)
            }
            None => file
                .rows()
                .iter()
                .filter(|row| !row.yanked)
                .max_by(|a, b| a.version.cmp(&b.version)),
        };
        Ok(row.map(|row| (name, row.clone())))
    }

    async fn download(
        &self,
        config: &RegistryConfig,
        name: &CrateName,
        row: &Row,
        findings: &mut Findings<'_>,
    ) {
        const CHECK: &str = "download";
        let Ok(release) = Release::parse(row.name.as_str(), &row.version.to_string()) else {
            return;
        };
        let text = config.download_url(&release, &row.checksum);
        let Ok(url) = Url::parse(&text) else { return };
        let fetched = match self.probe.fetch(&url).await {
            Ok(fetched) => fetched,
            Err(trouble) => return self.explain(CHECK, &trouble, findings),
        };
        if fetched.status != 200 {
            findings.fail(
                CHECK,
                format!(
                    "`{}` answers with status {}: {}",
                    fetched.url,
                    fetched.status,
                    first_line(&fetched.start)
                ),
                "the reason stands in the answer and in the mirror's log; an upstream that is away \
                 is seen on the mirror's page",
            );
        } else if fetched.checksum != row.checksum {
            findings.fail(
                CHECK,
                format!(
                    "{name} {} came damaged: its sha256 is {}, and the index promises {}",
                    row.version,
                    fetched.checksum.to_hex(),
                    row.checksum.to_hex()
                ),
                "on the mirror: `orlop verify --repair`; if that finds nothing, something between \
                 alters the bytes (a proxy that scans or compresses)",
            );
        } else {
            let (kib, ms) = (fetched.len.div_ceil(1024), fetched.took.as_millis());
            findings.ok(
                CHECK,
                format!(
                    "{name} {}, {kib} KiB in {ms} ms, its checksum is right",
                    row.version
                ),
            );
        }
    }

    async fn git(&self, findings: &mut Findings<'_>) {
        const CHECK: &str = "git index";
        let view = self
            .target
            .sparse
            .path()
            .trim_start_matches(self.target.base.path());
        let view = view.strip_suffix("index/").unwrap_or_default();
        let mut url = self.at(&format!("{view}git/index/info/refs"));
        url.set_query(Some("service=git-upload-pack"));
        let reply = match self.probe.get(&url, &[]).await {
            Ok(reply) => reply,
            Err(trouble) => return self.explain(CHECK, &trouble, findings),
        };
        match (reply.status, head_of(&reply.body)) {
            (200, Some(head)) => findings.ok(CHECK, format!("its head is {head}")),
            (status, _) if !self.target.is_git => {
                let said = first_line(&reply.body);
                findings.skip(CHECK, format!("none is served (status {status}: {said})"));
            }
            (status, _) => findings.fail(
                CHECK,
                format!(
                    "no git index is served (status {status}: {})",
                    first_line(&reply.body)
                ),
                "use the sparse index (`orlop client-config`), or set `git.enabled` and \
                 `public_url` on the mirror",
            ),
        }
    }

    async fn answer(
        &self,
        check: &'static str,
        url: &Url,
        findings: &mut Findings<'_>,
    ) -> Option<Reply> {
        match self.probe.get(url, &[]).await {
            Ok(reply) if reply.is_page() => {
                portal(check, &reply, findings);
                None
            }
            Ok(reply) => Some(reply),
            Err(trouble) => {
                self.explain(check, &trouble, findings);
                None
            }
        }
    }

    /// What to do about a request without an answer.
    fn explain(&self, check: &'static str, trouble: &Trouble, findings: &mut Findings<'_>) {
        let host = self.target.host();
        let (check, remedy) = match trouble {
            Trouble::UnknownIssuer => (
                "TLS",
                "give cargo the certificate of your authority: `http.cainfo = \"/path/to/ca.pem\"` \
                 in its configuration, or install it in the system"
                    .to_owned(),
            ),
            Trouble::CertificateTime(_) => (
                "TLS",
                "renew the certificate of the server; if it is new, check the clock of this machine"
                    .to_owned(),
            ),
            Trouble::WrongName(_) => (
                "TLS",
                format!("get a certificate that names `{host}`, or use the name that it has"),
            ),
            Trouble::Tls(_) => (
                "TLS",
                "is this port one of HTTPS? A mirror without a TLS proxy before it is reached by \
                 http://"
                    .to_owned(),
            ),
            Trouble::Connect(_) => (check, "is the server (or the proxy) running?".to_owned()),
            Trouble::Timeout => (
                check,
                "the server, or a firewall between, takes connections and says nothing: look at \
                 the server's log and load"
                    .to_owned(),
            ),
            Trouble::Broken(_) => (
                check,
                "what answers there is no HTTP server, or something between cuts it: check the \
                 port and http/https"
                    .to_owned(),
            ),
            Trouble::Setup(_) => (check, "correct cargo's `http.proxy` and `http.cainfo`".to_owned()),
        };
        findings.fail(check, trouble.to_string(), remedy);
    }
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path()));
    url
}

fn portal(check: &'static str, reply: &Reply, findings: &mut Findings<'_>) {
    findings.fail(
        check,
        format!(
            "a page for people answers (status {}, from `{}`) and no mirror",
            reply.status, reply.url
        ),
        "a captive portal, a login wall or a proxy is in between, or the URL is that of another \
         server: open it in a browser",
    );
}

fn tell_clock(reply: &Reply, now: SystemTime, findings: &mut Findings<'_>) {
    const CHECK: &str = "clock";
    let theirs = reply.date.as_deref().map(httpdate::parse_http_date);
    let Some(Ok(theirs)) = theirs else {
        findings.skip(CHECK, "the server does not tell its time");
        return;
    };
    let ahead = theirs.duration_since(now);
    let (apart, word) = match ahead {
        Ok(apart) => (apart, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if apart > MOST_SKEW {
        let shown = humantime::format_duration(Duration::from_secs(apart.as_secs()));
        findings.warn(
            CHECK,
            format!("the server's clock is {shown} {word} ours"),
            "let both machines follow a time server (NTP): certificates and caches go by the clock",
        );
    } else {
        findings.ok(CHECK, format!("{} s {word} ours", apart.as_secs()));
    }
}

fn version_of(metrics: &str) -> Option<String> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with("orlop_build_info{"))?;
    let (_, rest) = line.split_once("version=\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

fn names_in(body: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Crates {
        crates: Vec<Crate>,
    }
    #[derive(serde::Deserialize)]
    struct Crate {
        name: String,
    }
    let crates = serde_json::from_slice::<Crates>(body).map(|found| found.crates);
    let names = crates
        .unwrap_or_default()
        .into_iter()
        .map(|found| found.name);
    names.take(NAMES).collect()
}

/// The commit of `HEAD` in an advertisement of refs.
fn head_of(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let at = text.find(" HEAD")?;
    let commit = text.get(at.checked_sub(40)?..at)?;
    commit
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| commit.to_owned())
}

fn first_line(body: &[u8]) -> String {
    const MOST_LETTERS: usize = 200;
    let text = String::from_utf8_lossy(body.get(..4096).unwrap_or(body)).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("without a word")
        .trim()
        .chars()
        .take(MOST_LETTERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_git_index_is_found_in_its_refs() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let body = format!("001e# service=git-upload-pack\n00000065{commit} HEAD\0caps\n");
        assert_eq!(head_of(body.as_bytes()).as_deref(), Some(commit));
        assert_eq!(head_of(b"<html>no HEAD here"), None);
        assert_eq!(head_of(b" HEAD"), None);
    }

    #[test]
    fn the_version_of_an_orlop_stands_in_its_metrics() {
        let text = "# HELP\norlop_build_info{version=\"0.1.0\"} 1\n";
        assert_eq!(version_of(text).as_deref(), Some("0.1.0"));
        assert_eq!(version_of("other 1"), None);
    }
}
