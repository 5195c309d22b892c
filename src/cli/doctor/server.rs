//! The server's side, where its store is on this machine: folder, disk, daemon, limits, upstream.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use rustix::{
    fs::statvfs,
    process::{Pid, test_kill_process},
};

use super::Findings;
use crate::{
    admin::Client, cli::commands::text::size, config::Loaded, metrics::Metrics, policy::Mode,
    upstream::Upstream,
};

/// Open files that a server of a lab comes by with: its connections, blobs and packs.
const ENOUGH_FILES: u64 = 4096;

/// So few more files are a matter of days for a mirror that fills.
const FEW_INODES: u64 = 10_000;

/// Looks at the store of the settings; nothing is said where there is none and nobody meant one.
pub(super) async fn examine(loaded: &Loaded, findings: &mut Findings<'_>) {
    let data = &loaded.config.store.dir;
    if !data.join("format").exists() {
        findings.skip(
            "store",
            format!(
                "no store at `{}`: this is a client, or it was never started",
                data.display()
            ),
        );
        return;
    }
    for warning in &loaded.warnings {
        findings.warn("settings", warning.clone(), "see `orlop config check`");
    }
    examine_owner(data, findings);
    let daemon = examine_daemon(data, findings);
    examine_socket(loaded, daemon.is_some(), findings).await;
    examine_disk(loaded, findings);
    examine_limits(daemon, findings);
    examine_upstream(loaded, findings).await;
}

fn examine_owner(data: &Path, findings: &mut Findings<'_>) {
    const CHECK: &str = "store";
    let shown = data.display();
    let found = match fs::metadata(data) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "run as the user of the server";
            return findings.fail(
                CHECK,
                format!("`{shown}` cannot be looked at: {error}"),
                remedy,
            );
        }
    };
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let user = rustix::process::geteuid().as_raw();
    if mode & 0o002 != 0 {
        let found = format!("everybody may write into `{shown}` (mode {mode:o})");
        return findings.fail(CHECK, found, format!("chmod o-w {shown}"));
    }
    let stranger = stranger_in(data, owner);
    if let Some((path, uid)) = stranger {
        return findings.fail(
            CHECK,
            format!("`{path}` belongs to uid {uid}, and the store to uid {owner}"),
            format!("with the server stopped: chown -R {owner} {shown}"),
        );
    }
    let whose = if owner == user {
        "ours".to_owned()
    } else {
        format!("of uid {owner}")
    };
    findings.ok(CHECK, format!("`{shown}` is {whose} (mode {mode:o})"));
}

/// Something at the top of the store that another user made: what `sudo orlop` leaves behind.
fn stranger_in(data: &Path, owner: u32) -> Option<(String, u32)> {
    let entries = fs::read_dir(data).ok()?;
    let mut strangers = entries.flatten().filter_map(|entry| {
        let uid = entry.metadata().ok()?.uid();
        (uid != owner).then(|| (entry.path().display().to_string(), uid))
    });
    strangers.next()
}

/// The process that has the store.
fn examine_daemon(data: &Path, findings: &mut Findings<'_>) -> Option<Pid> {
    const CHECK: &str = "daemon";
    let said = fs::read_to_string(data.join("lock")).unwrap_or_default();
    let pid = said.trim().parse().ok().and_then(Pid::from_raw);
    // One of another user cannot be signalled, and is there.
    let lives = |pid: &Pid| {
        let answer = test_kill_process(*pid);
        answer.is_ok() || answer == Err(rustix::io::Errno::PERM)
    };
    match pid.filter(lives) {
        Some(pid) => {
            findings.ok(
                CHECK,
                format!("process {} has the store", pid.as_raw_nonzero()),
            );
            Some(pid)
        }
        None if said.trim() == "clean" => {
            findings.warn(
                CHECK,
                "none runs; the last one ended well",
                "start it: `orlop serve`",
            );
            None
        }
        None => {
            findings.warn(
                CHECK,
                "none runs, and the last one did not end in order",
                "start it: `orlop serve` puts the store in order; its log of the last time says \
                 why it ended",
            );
            None
        }
    }
}

/// Whether commands reach the process that has the store.
async fn examine_socket(loaded: &Loaded, has_daemon: bool, findings: &mut Findings<'_>) {
    const CHECK: &str = "admin socket";
    let socket = loaded.config.admin_socket();
    let shown = socket.display();
    match Client::connect(&socket).await {
        Ok(Some(client)) => {
            let addresses = client.http().addresses.iter();
            let urls: Vec<String> = addresses.map(|it| format!("http://{it}/")).collect();
            let found = format!(
                "`{shown}` answers; the server listens on {}",
                urls.join(", ")
            );
            findings.ok(CHECK, found);
        }
        Ok(None) if has_daemon => findings.warn(
            CHECK,
            format!("nobody answers at `{shown}`: commands such as `orlop sync` cannot be used"),
            "if the server was given another place for it, name that with `--admin-socket`; its \
             log says whether it could make one",
        ),
        Ok(None) => findings.skip(CHECK, "no server runs"),
        Err(error) => findings.warn(
            CHECK,
            error.to_string(),
            error.hint().unwrap_or("look at the log of the server"),
        ),
    }
}

fn examine_disk(loaded: &Loaded, findings: &mut Findings<'_>) {
    const CHECK: &str = "disk";
    let shown = loaded.config.store.dir.display();
    let room = match statvfs(&loaded.config.store.dir) {
        Ok(room) => room,
        Err(error) => {
            return findings.fail(
                CHECK,
                format!("`{shown}` does not tell its room: {error}"),
                "look at the mount",
            );
        }
    };
    let total = room.f_blocks.saturating_mul(room.f_frsize);
    let room = Room {
        free: room.f_bavail.saturating_mul(room.f_frsize),
        reserve: loaded.config.store.reserve_bytes.min(total / 20),
        free_inodes: (room.f_files > 0).then_some(room.f_favail),
    };
    judge_room(&room, findings);
}

/// What a file system has left.
struct Room {
    free: u64,
    reserve: u64,
    /// `None`: it has as many as it needs.
    free_inodes: Option<u64>,
}

fn judge_room(room: &Room, findings: &mut Findings<'_>) {
    const CHECK: &str = "disk";
    let &Room { free, reserve, .. } = room;
    let found = format!("{} free, {} are kept free", size(free), size(reserve));
    let remedy =
        "make room, or let `orlop gc` remove what nobody needs; until then nothing new is kept";
    if free <= reserve {
        findings.fail(CHECK, found, remedy);
    } else if free < reserve.saturating_mul(2) {
        findings.warn(CHECK, found, remedy);
    } else {
        findings.ok(CHECK, found);
    }
    if let Some(few) = room.free_inodes.filter(|free| *free < FEW_INODES) {
        findings.warn(
            CHECK,
            format!("only {few} more files fit (inodes)"),
            "each crate is a file: use a file system with more inodes",
        );
    }
}

fn examine_limits(daemon: Option<Pid>, findings: &mut Findings<'_>) {
    let of_daemon = daemon.and_then(|pid| {
        let path = format!("/proc/{}/limits", pid.as_raw_nonzero());
        let text = fs::read_to_string(path).ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with("Max open files"))?;
        line.split_whitespace().nth(4)?.parse::<u64>().ok()
    });
    let ours = || {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.maximum.unwrap_or(u64::MAX)
    };
    judge_limit(of_daemon.unwrap_or_else(ours), findings);
}

fn judge_limit(most: u64, findings: &mut Findings<'_>) {
    const CHECK: &str = "open files";
    if most < ENOUGH_FILES {
        findings.warn(
            CHECK,
            format!("the limit is {most}"),
            "raise it: `LimitNOFILE=65536` in the systemd unit, or `ulimit -Hn`",
        );
    } else {
        findings.ok(CHECK, format!("the limit is {most}"));
    }
}

async fn examine_upstream(loaded: &Loaded, findings: &mut Findings<'_>) {
    const CHECK: &str = "upstream";
    if loaded.config.mirror.mode == Mode::Offline {
        return findings.skip(CHECK, "the mode is offline: it is never asked");
    }
    if loaded.config.upstream.git_index.is_some() {
        return findings.skip(CHECK, "its git index is followed: see the mirror's page");
    }
    let options = loaded.config.upstream.clone();
    let url = options.index_url.to_string();
    let asked = match Metrics::new() {
        Ok(metrics) => match Upstream::new(options, Arc::new(metrics)) {
            Ok(upstream) => upstream.config().await.map(|_config| ()),
            Err(error) => Err(error),
        },
        Err(_ours) => return,
    };
    match asked {
        Ok(()) => findings.ok(CHECK, format!("`{url}` answers")),
        Err(error) => {
            let mut words = vec![error.to_string()];
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                words.push(error.to_string());
                cause = error.source();
            }
            findings.fail(
                CHECK,
                words.join(": "),
                "check the network of this machine, and `upstream.url`, `upstream.proxy` and \
                 `upstream.ca_file`; what is held is served meanwhile",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::doctor::{Finding, Verdict};

    /// What an examination finds: verdicts, and all words in one.
    fn found(examine: impl FnOnce(&mut Findings<'_>)) -> (Vec<Verdict>, String) {
        let mut out = Vec::new();
        let mut findings = Findings {
            list: Vec::new(),
            is_json: true,
            out: &mut out,
            trouble: None,
        };
        examine(&mut findings);
        let words = |finding: &Finding| {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            format!("{} {remedy}", finding.found)
        };
        let verdicts = findings.list.iter().map(|finding| finding.verdict);
        let words: Vec<String> = findings.list.iter().map(words).collect();
        (verdicts.collect(), words.join("; "))
    }

    #[test]
    fn a_disk_that_fills_is_a_warning_and_a_full_one_a_failure() {
        let check = |free, free_inodes, expected: &[Verdict], word: &str| {
            let room = Room {
                free,
                reserve: 1 << 30,
                free_inodes,
            };
            let (verdicts, words) = found(|findings| judge_room(&room, findings));
            assert_eq!(verdicts, expected, "{free}: {words}");
            assert!(words.contains(word), "{words}");
        };
        check(10 << 30, None, &[Verdict::Ok], "10.7 GB free, 1.0 GB");
        check(3 << 29, None, &[Verdict::Warn], "orlop gc");
        check(1 << 30, None, &[Verdict::Fail], "nothing new is kept");
        check(0, None, &[Verdict::Fail], "0 bytes free");
        let few = [Verdict::Ok, Verdict::Warn];
        check(10 << 30, Some(9_999), &few, "only 9999 more files");
        check(10 << 30, Some(10_000), &[Verdict::Ok], "free");
    }

    #[test]
    fn a_low_limit_of_open_files_is_a_warning() {
        let verdicts = |most| found(|findings| judge_limit(most, findings)).0;
        assert_eq!(verdicts(1024), [Verdict::Warn]);
        assert_eq!(verdicts(ENOUGH_FILES), [Verdict::Ok]);
        let (_, words) = found(|findings| judge_limit(1024, findings));
        assert!(words.contains("LimitNOFILE"), "{words}");
    }

    #[test]
    fn a_store_that_everybody_may_write_is_a_failure_and_strangers_are_found() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        let examine = || found(|findings| examine_owner(data, findings));
        fs::write(data.join("journal"), "").unwrap();
        let (verdicts, words) = examine();
        assert_eq!(verdicts, [Verdict::Ok], "{words}");
        assert!(words.contains("is ours"), "{words}");
        fs::set_permissions(data, fs::Permissions::from_mode(0o777)).unwrap();
        let (verdicts, words) = examine();
        assert_eq!(verdicts, [Verdict::Fail], "{words}");
        assert!(words.contains("chmod o-w"), "{words}");
        // As if the folder belonged to another than what is in it.
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(stranger_in(data, user), None);
        let (path, uid) = stranger_in(data, user + 1).unwrap();
        assert!(path.ends_with("journal") && uid == user, "{path} {uid}");
        let (verdicts, words) = found(|findings| examine_owner(&data.join("none"), findings));
        assert_eq!(verdicts, [Verdict::Fail], "{words}");
    }

    #[test]
    fn a_daemon_that_is_gone_is_told_from_one_that_ended_well() {
        let place = tempfile::tempdir().unwrap();
        let examine = |text: &str| {
            fs::write(place.path().join("lock"), text).unwrap();
            found(|findings| {
                let _pid = examine_daemon(place.path(), findings);
            })
        };
        let ours = std::process::id().to_string();
        assert_eq!(examine(&ours).0, [Verdict::Ok]);
        let (verdicts, words) = examine("clean");
        assert_eq!(verdicts, [Verdict::Warn]);
        assert!(words.contains("ended well"), "{words}");
        // Higher than any process may have.
        let (verdicts, words) = examine("2147483646");
        assert_eq!(verdicts, [Verdict::Warn]);
        assert!(words.contains("did not end in order"), "{words}");
    }
}
