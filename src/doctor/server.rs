//! The server's machine: the store's folder, the process, its socket and limits, the disk. What a
//! running server reports about itself is not checked again.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use rustix::{
    fs::statvfs,
    io::Errno,
    process::{Pid, test_kill_process},
};
use url::Url;

use super::{Finding, Findings, status::ServerStatus};
use crate::{
    admin::{self, Client},
    config::Loaded,
    metrics::Metrics,
    policy::Mode,
    upstream::{
        Upstream,
        probe::{Probe, Way},
    },
    util::{error::one_line, format::size},
};

/// Open files that the server of a lab needs for its connections, blobs and packs.
const MIN_OPEN_FILES: u64 = 4096;

/// A mirror that fills creates so many files within days.
const MIN_INODES: u64 = 10_000;

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
        return findings.add(finding!(Skip, "store" =>
            "no store at `{data}`: this is a client, or no server was started yet"));
    }
    for warning in &loaded.warnings {
        findings.add(finding!(Warn, "settings" => "{warning}"; "see `orlop config check`"));
    }
    findings.add(owner(data).unwrap_or_else(|finding| finding));
    let lock = fs::read_to_string(data.join("lock")).unwrap_or_default();
    let process = running(&lock);
    findings.add(daemon(process, &lock));
    findings.add(admin_socket(loaded, socket, process.is_some()));
    let status = match socket {
        Ok(Some(client)) => status_of(client).await,
        Ok(None) | Err(_) => None,
    };
    if let Some(status) = &status
        && !shown.is_some_and(|shown| shown.is_same_run(status))
    {
        status.report(findings);
    }
    for finding in disk(loaded, status.is_some()) {
        findings.add(finding);
    }
    if let Some(max) = max_open_files(process) {
        findings.add(open_files(max));
    }
    findings.add(upstream(loaded, status.as_ref()).await);
}

async fn status_of(client: &Client) -> Option<ServerStatus> {
    let address = client.http().addresses.first()?;
    let base = Url::parse(&admin::local_base(*address)).ok()?;
    ServerStatus::fetch(&Probe::new(&Way::default()).ok()?, &base).await
}

fn owner(data: &Path) -> Result<Finding, Finding> {
    let shown = data.display();
    let folder = fs::metadata(data).map_err(|error| {
        finding!(Fail, "store" =>
            "`{shown}` cannot be read: {error}"; "run as the user of the server")
    })?;
    let (owner, mode) = (folder.uid(), folder.mode() & 0o7777);
    if mode & 0o002 != 0 {
        return Err(finding!(Fail, "store" =>
            "every user may write into `{shown}` (mode {mode:o})"; "chmod o-w {shown}"));
    }
    if let Some((path, uid)) = foreign_file(data, owner) {
        return Err(finding!(Fail, "store" =>
            "`{path}` belongs to uid {uid}, and the store to uid {owner}";
            "with the server stopped: chown -R {owner} {shown}"));
    }
    let is_ours = owner == rustix::process::geteuid().as_raw();
    let whose = if is_ours { "this user" } else { "another user" };
    Ok(finding!(Ok, "store" => "`{shown}` belongs to {whose} (uid {owner}, mode {mode:o})"))
}

/// A file at the top of the store that another user made: `sudo orlop` leaves them behind.
fn foreign_file(data: &Path, owner: u32) -> Option<(String, u32)> {
    fs::read_dir(data).ok()?.flatten().find_map(|entry| {
        let uid = entry.metadata().ok()?.uid();
        (uid != owner).then(|| (entry.path().display().to_string(), uid))
    })
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
            finding!(Warn, "daemon" =>
                "no server runs, and the last one did not shut down in order";
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
            finding!(Warn, CHECK =>
                "no server answers at `{path}`: commands such as `orlop sync` cannot be used";
            "if the server has its socket at another path, name that with `--admin-socket`; its \
             log says whether it could create one")
        }
        Ok(None) => finding!(Skip, CHECK => "no server runs"),
        Err(error) => {
            let remedy = error.hint().unwrap_or("look at the log of the server");
            finding!(Warn, CHECK => "{error}"; "{remedy}")
        }
    }
}

/// A running server reports its free space, and not how many files still fit.
fn disk(loaded: &Loaded, is_space_reported: bool) -> Vec<Finding> {
    let stat = match statvfs(&loaded.config.store.dir) {
        Ok(stat) => stat,
        Err(error) => {
            return vec![
                finding!(Fail, "disk" => "its free space cannot be read: {error}";
                "look at the mount"),
            ];
        }
    };
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let reserve = loaded.config.store.reserve_bytes.min(total / 20);
    let space = (!is_space_reported).then(|| space(free, reserve));
    // A file system without a fixed number of inodes has 0.
    let inodes = if stat.f_files > 0 {
        inodes(stat.f_favail)
    } else {
        None
    };
    space.into_iter().chain(inodes).collect()
}

fn space(free: u64, reserve: u64) -> Finding {
    let severity = match free {
        free if free <= reserve => super::Severity::Fail,
        free if free < reserve.saturating_mul(2) => super::Severity::Warn,
        _ => super::Severity::Ok,
    };
    let (free, reserve) = (size(free), size(reserve));
    let mut finding = finding!(Ok, "disk" => "{free} free, {reserve} are kept free";
        "make room, or let `orlop gc` delete crates that are no longer needed; until then nothing \
         new is stored");
    finding.severity = severity;
    finding
}

fn inodes(free: u64) -> Option<Finding> {
    (free < MIN_INODES).then(|| {
        finding!(Warn, "disk" => "only {free} more files fit (inodes)";
            "each crate is a file: use a file system with more inodes")
    })
}

/// The limit of the process, or where none runs, of this one.
fn max_open_files(process: Option<Pid>) -> Option<u64> {
    let process = process.map(|pid| pid.as_raw_nonzero().to_string());
    let process = process.as_deref().unwrap_or("self");
    let text = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

fn open_files(max: u64) -> Finding {
    if max >= MIN_OPEN_FILES {
        return finding!(Ok, "open files" => "the limit is {max}");
    }
    finding!(Warn, "open files" => "the limit is {max}";
        "raise it: `LimitNOFILE=65536` in the systemd unit, or `ulimit -Hn`")
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
            "check the network of this machine, and `upstream.url`, `upstream.proxy` and \
             `upstream.ca_file`; cached crates are served meanwhile"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
    fn a_disk_that_fills_is_a_warning_and_a_full_one_a_failure() {
        let reserve = 1 << 30;
        check(&space(10 << 30, reserve), Severity::Ok, "10.7 GB free");
        check(&space(3 << 29, reserve), Severity::Warn, "orlop gc");
        check(
            &space(1 << 30, reserve),
            Severity::Fail,
            "nothing new is stored",
        );
        check(&space(0, reserve), Severity::Fail, "0 bytes free");
        let few = inodes(9_999).expect("a warning");
        check(&few, Severity::Warn, "only 9999 more files");
        assert_eq!(inodes(10_000), None);
    }

    #[test]
    fn a_low_limit_of_open_files_is_a_warning() {
        check(&open_files(1024), Severity::Warn, "LimitNOFILE");
        check(&open_files(MIN_OPEN_FILES), Severity::Ok, "4096");
        assert!(max_open_files(None).is_some_and(|max| max > 0));
    }

    #[test]
    fn a_store_that_every_user_may_write_and_foreign_files_are_failures() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        fs::write(data.join("journal"), "").unwrap();
        check(&owner(data).unwrap(), Severity::Ok, "belongs to this user");
        fs::set_permissions(data, fs::Permissions::from_mode(0o777)).unwrap();
        check(&owner(data).unwrap_err(), Severity::Fail, "chmod o-w");
        // As if the folder belonged to another user than its files.
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(foreign_file(data, user), None);
        let (path, uid) = foreign_file(data, user + 1).unwrap();
        assert!(path.ends_with("journal") && uid == user, "{path} {uid}");
        check(
            &owner(&data.join("none")).unwrap_err(),
            Severity::Fail,
            "none",
        );
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
