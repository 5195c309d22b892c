//! What a mirror serves to cargo: `config.json`, an index file, a crate file, the git index.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use url::Url;

use super::{
    address::{MirrorUrls, below},
    finding::{Finding, Findings},
    status::ServerStatus,
};
use crate::{
    registry::{CrateName, IndexFile, RegistryConfig, Release, Row, release::parse_version},
    upstream::probe::{Probe, ProbeError, Reply, Way},
    util::{clock::Clock, format::exact_span},
};

/// How far two clocks may be apart. Certificates and caches fail beyond it.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Small crates that nearly every build needs, for a mirror that has none yet.
const WELL_KNOWN: [&str; 2] = ["cfg-if", "itoa"];

/// How many names the mirror is asked for.
const MAX_NAMES: usize = 20;

/// How much of a refusal is shown.
const MAX_SHOWN_LETTERS: usize = 200;

/// Sends cargo's requests to a mirror, in cargo's order. Returns what the server reports about
/// itself, if it is orlop. `wanted`: the crate to download, `NAME[@VERSION]`.
pub(super) async fn examine(
    urls: &MirrorUrls,
    way: &Way,
    wanted: Option<&str>,
    findings: &mut Findings<'_>,
) -> Option<ServerStatus> {
    let probe = match Probe::new(way) {
        Ok(probe) => probe,
        Err(error) => {
            findings.add(explain("client", urls, &error));
            return None;
        }
    };
    let mirror = MirrorProbe { urls, way, probe };
    let status = match mirror.greet(findings).await {
        Ok(status) => status,
        Err(finding) => {
            findings.add(finding);
            mirror.try_without_proxy(findings).await;
            return None;
        }
    };
    if let Err(finding) = mirror.fetch_crate(wanted, findings).await {
        findings.add(finding);
    }
    status
}

struct MirrorProbe<'a> {
    urls: &'a MirrorUrls,
    way: &'a Way,
    probe: Probe,
}

impl MirrorProbe<'_> {
    async fn get(&self, check: &'static str, url: &Url) -> Result<Reply, Finding> {
        let reply = self.probe.get(url).await;
        reply.map_err(|error| explain(check, self.urls, &error))
    }

    /// Checks who answers, and what time it is there.
    async fn greet(&self, findings: &mut Findings<'_>) -> Result<Option<ServerStatus>, Finding> {
        let url = below(&self.urls.base, "healthz");
        let reply = self.get("answer", &url).await?;
        if url.scheme() == "https" {
            let file = self.way.ca_file.as_deref().map(Path::display);
            let by = file.map_or("this system".to_owned(), |file| format!("`{file}`"));
            findings.add(finding!(Ok, "TLS" => "an authority of {by} signed the certificate"));
        }
        findings.add(clock(&reply, Clock::start().now()));
        let (status, protocol) = (reply.status, &reply.protocol);
        if status == 200 && reply.body.trim_ascii() == b"ok" {
            findings.add(finding!(Ok, "answer" => "`{url}` answers `ok` over {protocol}"));
            let status = ServerStatus::fetch(&self.probe, &self.urls.base).await;
            match &status {
                Some(status) => status.report(findings),
                None => findings.add(finding!(Skip, "server" => "not orlop: no `/status.json`")),
            }
            return Ok(status);
        }
        if reply.is_page() || reply.is_elsewhere {
            return Err(portal("answer", &reply));
        }
        findings.add(finding!(Warn, "answer" =>
            "`{url}` answers with status {status} instead of `ok`";
            "this server is not orlop, or a proxy in front of it reaches no mirror; check the URL"));
        Ok(None)
    }

    /// Checks whether it is the proxy that fails.
    async fn try_without_proxy(&self, findings: &mut Findings<'_>) {
        let mut way = self.way.clone();
        let (Some(_proxy), Ok(probe)) = (way.proxy.take(), Probe::new(&way)) else {
            return;
        };
        let reply = probe.get(&below(&self.urls.base, "healthz")).await;
        if reply.is_ok_and(|reply| reply.status == 200) {
            let host = self.urls.base.host_str().unwrap_or_default();
            findings.add(finding!(Fail, "proxy" => "the mirror answers without the proxy, and not through it";
                "add `{host}` to the variable `no_proxy`"));
        }
    }

    /// From `config.json` to the bytes of a crate, and the git index.
    async fn fetch_crate(
        &self,
        wanted: Option<&str>,
        findings: &mut Findings<'_>,
    ) -> Result<(), Finding> {
        let config = self.config(findings).await?;
        match self.find_row(wanted).await {
            Ok(row) => {
                let Row { name, version, .. } = &row;
                findings.add(finding!(Ok, "index" => "{name} is there, with version {version}"));
                let download = self.download(&config, &row).await;
                findings.add(download.unwrap_or_else(|finding| finding));
            }
            Err(why) => findings.add(finding!(Fail, "index" => "{why}";
                "name a crate that the mirror should have with --probe NAME; a mirror that is offline has only what was synced or imported (`orlop stats`)")),
        }
        findings.add(self.git().await?);
        Ok(())
    }

    async fn config(&self, findings: &mut Findings<'_>) -> Result<RegistryConfig, Finding> {
        const CHECK: &str = "config.json";
        let url = below(&self.urls.sparse, CHECK);
        let reply = self.get(CHECK, &url).await?;
        if reply.is_page() {
            return Err(portal(CHECK, &reply));
        }
        if reply.status != 200 {
            let refusal = refusal(&reply);
            return Err(finding!(Fail, CHECK => "{refusal}";
                "check the path of the index: that of orlop ends in `/index/`"));
        }
        let config: RegistryConfig = serde_json::from_slice(&reply.body).map_err(|error| {
            finding!(Fail, CHECK => "`{url}` is not the configuration of a registry: {error}";
                "something in between changes it, or this is no index: check the URL")
        })?;
        let dl = &config.dl;
        findings.add(if config.auth_required {
            finding!(Warn, CHECK => "the registry wants a token with every request"; "`cargo login`")
        } else {
            finding!(Ok, CHECK => "downloads come from `{dl}`")
        });
        Ok(config)
    }

    /// A version to download, in the index file of the crate that is wanted, or of one that the
    /// mirror may have.
    async fn find_row(&self, wanted: Option<&str>) -> Result<Row, String> {
        let (names, version) = match wanted.map(|wanted| (wanted, wanted.split_once('@'))) {
            Some((_, Some((name, version)))) => (vec![name.to_owned()], Some(version)),
            Some((name, None)) => (vec![name.to_owned()], None),
            None => (self.names().await, None),
        };
        let mut last = String::new();
        for name in names {
            match self.row(&name, version).await {
                Ok(row) => return Ok(row),
                Err(why) => last = format!("the index file of `{name}`: {why}"),
            }
        }
        Err(last)
    }

    /// Names that the mirror has, then names that every registry has.
    async fn names(&self) -> Vec<String> {
        let mut url = below(&self.urls.base, "api/v1/crates");
        url.set_query(Some(&format!("q=&per_page={MAX_NAMES}")));
        let body = self.probe.get(&url).await.map(|reply| reply.body);
        let found: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let crates = found.get("crates").and_then(Value::as_array);
        let names = crates
            .into_iter()
            .flatten()
            .filter_map(|one| one.get("name")?.as_str());
        let names = names.take(MAX_NAMES).chain(WELL_KNOWN);
        names.map(str::to_owned).collect()
    }

    async fn row(&self, name: &str, version: Option<&str>) -> Result<Row, String> {
        let name = CrateName::parse(name).map_err(|error| error.to_string())?;
        let version = version.map(parse_version).transpose();
        let version = version.map_err(|error| error.to_string())?;
        let url = below(&self.urls.sparse, &name.index_path());
        let reply = self.probe.get(&url).await;
        let reply = reply.map_err(|error| error.to_string())?;
        if reply.status != 200 {
            return Err(refusal(&reply));
        }
        let file = IndexFile::parse(&name, reply.body).map_err(|error| error.to_string())?;
        let usable = file.rows().iter().filter(|row| !row.yanked);
        let row = match &version {
            Some(version) => file.row(version),
            None => usable.max_by(|a, b| a.version.cmp(&b.version)),
        };
        row.cloned()
            .ok_or_else(|| "it has no such version".to_owned())
    }

    async fn download(&self, config: &RegistryConfig, row: &Row) -> Result<Finding, Finding> {
        const CHECK: &str = "download";
        let (name, version, expected) = (&row.name, &row.version, &row.checksum);
        let release = Release {
            name: name.clone(),
            version: version.clone(),
        };
        let url = config.download_url(&release, expected);
        let leads_elsewhere = |why: &str| {
            finding!(Fail, "download host" => "`dl` of config.json leads to `{url}`: {why}";
                "on the mirror, set `public_url` to the URL that clients reach it by; a reverse proxy has to pass the `Host` on")
        };
        let parsed = Url::parse(&url).map_err(|error| leads_elsewhere(&error.to_string()))?;
        let is_elsewhere = parsed.authority() != self.urls.base.authority();
        let is_elsewhere = is_elsewhere && self.way.proxy.is_none();
        let reply = match self.probe.get(&parsed).await {
            Err(error @ (ProbeError::Connect(_) | ProbeError::Timeout)) if is_elsewhere => {
                return Err(leads_elsewhere(&error.to_string()));
            }
            reply => reply.map_err(|error| explain(CHECK, self.urls, &error))?,
        };
        if reply.status != 200 {
            let refusal = refusal(&reply);
            return Err(finding!(Fail, CHECK => "{refusal}";
                "the answer and the mirror's log have the reason; the mirror's page shows whether upstream is reachable"));
        }
        if reply.checksum != *expected {
            let (found, expected) = (reply.checksum.to_hex(), expected.to_hex());
            return Err(
                finding!(Fail, CHECK => "{name} {version} is damaged: its sha256 is {found}, the index says {expected}";
                    "on the mirror: `orlop verify --repair`; if that finds nothing, something in between changes the bytes (a proxy that scans or compresses)"),
            );
        }
        let (kib, ms) = (reply.len.div_ceil(1024), reply.took.as_millis());
        Ok(finding!(Ok, CHECK => "{name} {version}, {kib} KiB in {ms} ms, its checksum is right"))
    }

    async fn git(&self) -> Result<Finding, Finding> {
        const CHECK: &str = "git index";
        let mut url = below(&self.urls.git, "info/refs");
        url.set_query(Some("service=git-upload-pack"));
        let reply = self.get(CHECK, &url).await?;
        let refusal = refusal(&reply);
        Ok(match head_of(&reply.body).filter(|_| reply.status == 200) {
            Some(head) => finding!(Ok, CHECK => "its head is {head}"),
            None if reply.status == 200
                && reply.body.starts_with(b"001e# service=git-upload-pack") =>
            {
                finding!(Skip, CHECK => "it has no commit yet: the first is made some seconds after a crate was requested")
            }
            None if !self.urls.is_git => finding!(Skip, CHECK => "{refusal}"),
            None => finding!(Fail, CHECK => "{refusal}";
                "use the sparse index (`orlop client-config`), or set `git.enabled` and `public_url` on the mirror"),
        })
    }
}

/// A request without an answer, and its remedy.
fn explain(check: &'static str, urls: &MirrorUrls, error: &ProbeError) -> Finding {
    let host = urls.base.host_str().unwrap_or_default();
    match error {
        ProbeError::UnknownIssuer => finding!(Fail, "TLS" => "{error}";
            "give cargo the certificate of your authority: `http.cainfo = \"/path/to/ca.pem\"` in its configuration, or install it in the system"),
        ProbeError::CertificateTime(_) => finding!(Fail, "TLS" => "{error}";
            "renew the certificate of the server; if it is new, check the clock of this machine"),
        ProbeError::WrongName(_) => finding!(Fail, "TLS" => "{error}";
            "get a certificate that names `{host}`, or use the name that it has"),
        ProbeError::Tls(_) => finding!(Fail, "TLS" => "{error}";
            "is this port one of HTTPS? A mirror without a TLS proxy before it is reached by http://"),
        ProbeError::Connect(_) => finding!(Fail, check => "{error}";
            "is the server (or the proxy) running?"),
        ProbeError::Timeout => finding!(Fail, check => "{error}";
            "the server, or a firewall in between, accepts connections and sends nothing: look at the server's log and load"),
        ProbeError::Broken(_) => finding!(Fail, check => "{error}";
            "the server does not speak HTTP, or something in between cuts it: check the port and http/https"),
        ProbeError::Setup(_) => finding!(Fail, check => "{error}";
            "correct cargo's `http.proxy` and `http.cainfo`"),
    }
}

fn portal(check: &'static str, reply: &Reply) -> Finding {
    let Reply { status, url, .. } = reply;
    finding!(Fail, check => "a page for people answers (status {status}, from `{url}`) and no mirror";
        "a captive portal, a login wall or a proxy is in between, or the URL is that of another server: open it in a browser")
}

fn clock(reply: &Reply, now: SystemTime) -> Finding {
    let theirs = reply.date.as_deref().map(httpdate::parse_http_date);
    let Some(Ok(theirs)) = theirs else {
        return finding!(Skip, "clock" => "the server sends no time");
    };
    let (skew, word) = match theirs.duration_since(now) {
        Ok(skew) => (skew, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let shown = exact_span(Duration::from_secs(skew.as_secs()));
    if skew > MAX_CLOCK_SKEW {
        return finding!(Warn, "clock" => "the server's clock is {shown} {word} ours";
            "let both machines follow a time server (NTP): certificates and caches depend on it");
    }
    finding!(Ok, "clock" => "the server's clock is {shown} {word} ours")
}

/// What an answer that is no success says.
fn refusal(reply: &Reply) -> String {
    let Reply { status, url, .. } = reply;
    let body = String::from_utf8_lossy(&reply.body);
    let line = body.trim().lines().next().unwrap_or("no text");
    let line: String = line.chars().take(MAX_SHOWN_LETTERS).collect();
    format!("`{url}` answers with status {status}: {line}")
}

/// The commit of `HEAD` in an advertisement of refs.
fn head_of(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let at = text.find(" HEAD")?;
    let commit = text.get(at.checked_sub(40)?..at)?;
    let is_hex = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| commit.to_owned())
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
}
