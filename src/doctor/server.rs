//! The server's machine: the process that has the store, its socket, upstream as it is seen from
//! here. What a running server reports about itself is not checked again.

use std::{fs, sync::Arc};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use url::Url;

use super::{
    finding::{Finding, Findings},
    status::ServerStatus,
};
use crate::{
    admin::{self, Client},
    config::Loaded,
    metrics::Metrics,
    policy::Mode,
    status::store_items,
    store::{self, FolderCondition},
    upstream::{
        Upstream,
        probe::{Probe, Way},
    },
    util::{error::one_line, format::size},
};

/// Whether the store of these settings is on this machine.
pub(super) fn has_store(loaded: &Loaded) -> bool {
    loaded.config.store.dir.join("format").exists()
}

/// Checks the machine of the store, if this is the one. `shown` is the report of a server that is
/// among the findings already.
pub(super) async fn examine(
    loaded: &Loaded,
    socket: &Result<Option<Client>, admin::Error>,
    shown: Option<&ServerStatus>,
    findings: &mut Findings<'_>,
) {
    let data = &loaded.config.store.dir;
    if !has_store(loaded) {
        let data = data.display();
        return findings.add(finding!(Skip, "store" => "no store at `{data}`: this is a client, or no server was started yet"));
    }
    for warning in &loaded.warnings {
        findings.add(finding!(Warn, "settings" => "{warning}"; "see `orlop config check`"));
    }
    let lock = fs::read_to_string(data.join("lock")).unwrap_or_default();
    let process = running(&lock);
    findings.add(daemon(process, &lock));
    findings.add(admin_socket(loaded, socket, process.is_some()));
    let status = match socket {
        Ok(Some(client)) => status_of(client).await,
        Ok(None) | Err(_) => None,
    };
    match &status {
        Some(status) if shown.is_some_and(|shown| shown.is_same_run(status)) => {}
        Some(status) => status.report(findings),
        None => folder(&loaded.config.store, findings),
    }
    findings.add(upstream(loaded, status.as_ref()).await);
}

async fn status_of(client: &Client) -> Option<ServerStatus> {
    let address = client.http().addresses.first()?;
    let base = Url::parse(&admin::local_base(*address)).ok()?;
    ServerStatus::fetch(&Probe::new(&Way::default()).ok()?, &base).await
}

/// Checks the data folder of a store whose server reports nothing.
fn folder(store: &store::Options, findings: &mut Findings<'_>) {
    const CHECK: &str = "store";
    let data = store.dir.display();
    let folder = match FolderCondition::read(&store.dir) {
        Ok(folder) => folder,
        Err(error) => {
            return findings.add(finding!(Fail, CHECK => "`{data}` cannot be read: {error}"; "run as the user of the server"));
        }
    };
    let (owner, mode, room) = (folder.owner, folder.mode, store.room());
    let is_ours = owner == rustix::process::geteuid().as_raw();
    let whose = if is_ours { "this user" } else { "another user" };
    findings.add(finding!(Ok, CHECK => "`{data}` belongs to {whose} (uid {owner}, mode {mode:o})"));
    if let Some(room) = room.filter(|room| room.space.free_bytes > room.reserve_bytes) {
        let (free, reserve) = (size(room.space.free_bytes), size(room.reserve_bytes));
        findings.add(finding!(Ok, "disk" => "{free} free, {reserve} are kept free"));
    }
    for item in store_items(folder, room) {
        findings.add(Finding::of(CHECK, item));
    }
}

/// The process that has the store.
fn running(lock: &str) -> Option<Pid> {
    let pid = lock.trim().parse().ok().and_then(Pid::from_raw)?;
    // A process of another user cannot be signalled, and exists.
    matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)).then_some(pid)
}

fn daemon(process: Option<Pid>, lock: &str) -> Finding {
    match process.map(Pid::as_raw_nonzero) {
        Some(pid) => finding!(Ok, "daemon" => "process {pid} has the store"),
        None if lock.trim() == "clean" => {
            finding!(Warn, "daemon" => "no server runs; the last one shut down in order";
                "start it: `orlop serve`")
        }
        None => {
            finding!(Warn, "daemon" => "no server runs, and the last one did not shut down in order";
                "start it: `orlop serve` repairs the store; the log of the last one has the reason")
        }
    }
}

/// Whether commands reach the process that has the store.
fn admin_socket(
    loaded: &Loaded,
    socket: &Result<Option<Client>, admin::Error>,
    is_running: bool,
) -> Finding {
    const CHECK: &str = "admin socket";
    let path = loaded.config.admin_socket();
    let path = path.display();
    match socket {
        Ok(Some(client)) => {
            let addresses = client.http().addresses.iter();
            let urls: Vec<String> = addresses.map(|it| format!("http://{it}/")).collect();
            let urls = urls.join(", ");
            finding!(Ok, CHECK => "`{path}` answers; the server listens on {urls}")
        }
        Ok(None) if is_running => {
            finding!(Warn, CHECK => "no server answers at `{path}`: commands such as `orlop sync` cannot be used";
                "if the server has its socket at another path, name that with `--admin-socket`; its log says whether it could create one")
        }
        Ok(None) => finding!(Skip, CHECK => "no server runs"),
        Err(error) => {
            let remedy = error.hint().unwrap_or("look at the log of the server");
            finding!(Warn, CHECK => "{error}"; "{remedy}")
        }
    }
}

/// Whether upstream answers: as the server reports, and where it did not reach it, or none runs,
/// by a request from here, which has the exact reason.
async fn upstream(loaded: &Loaded, status: Option<&ServerStatus>) -> Finding {
    const CHECK: &str = "upstream";
    if loaded.config.app.mirror.mode == Mode::Offline {
        return finding!(Skip, CHECK => "no request is sent to it in mode `offline`");
    }
    if let Some(reached) = status.and_then(ServerStatus::reached_upstream) {
        return finding!(Ok, CHECK => "{reached}");
    }
    if loaded.config.upstream.git_index.is_some() {
        return finding!(Skip, CHECK => "its git index is followed: see the mirror's page");
    }
    let options = loaded.config.upstream.clone();
    let url = options.index_url.to_string();
    let Ok(metrics) = Metrics::new() else {
        return finding!(Skip, CHECK => "not checked");
    };
    let answer = match Upstream::new(options, Arc::new(metrics)) {
        Ok(upstream) => upstream.config().await.map(|_config| ()),
        Err(error) => Err(error),
    };
    match answer.map_err(|error| one_line(&error)) {
        Ok(()) => finding!(Ok, CHECK => "`{url}` answers"),
        Err(error) => finding!(Fail, CHECK => "{error}";
            "check the network of this machine, and `upstream.url`, `upstream.proxy` and `upstream.ca_file`; cached crates are served meanwhile"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[track_caller]
    fn check(finding: &Finding, severity: Severity, word: &str) {
        assert_eq!(finding.severity, severity, "{finding:?}");
        let remedy = finding.remedy.as_deref().unwrap_or_default();
        let text = format!("{} {remedy}", finding.found);
        assert!(text.contains(word), "no {word:?} in {text}");
    }

    #[test]
    fn a_server_that_crashed_is_told_from_one_that_shut_down() {
        let daemon_of = |lock: &str| daemon(running(lock), lock);
        let own = std::process::id().to_string();
        check(&daemon_of(&own), Severity::Ok, &own);
        check(&daemon_of("clean"), Severity::Warn, "shut down in order");
        // Higher than any process may have.
        check(
            &daemon_of("2147483646"),
            Severity::Warn,
            "did not shut down",
        );
    }
}
