//! The server under a service manager: what it tells, sockets that are handed to it, and the units.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    PATIENCE,
    crates::{Krate, Registry},
    orlop::{Orlop, Outcome, Setup, wait},
    peer_may_be_gone, until,
    upstream::Upstream,
};

/// A service manager that listens to what it is told.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn start() -> Manager {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let bounded = socket.set_read_timeout(Some(PATIENCE));
        bounded.expect("a socket has a timeout");
        Manager {
            socket,
            path,
            _dir: dir,
        }
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("it is told in time");
        let text = String::from_utf8_lossy(&bytes[..count]);
        text.trim_end().to_owned()
    }

    /// The next word with this in it.
    #[track_caller]
    fn hears(&self, part: &str) -> String {
        loop {
            let word = self.next();
            if word.contains(part) {
                return word;
            }
        }
    }
}

fn upstream() -> Upstream {
    Upstream::start(Registry::new().with(&Krate::new("demo", "1.0.0")))
}

#[test]
fn it_is_told_when_the_server_answers_how_it_goes_and_when_it_ends() {
    let (upstream, manager) = (upstream(), Manager::start());
    let setup = Setup::over(&upstream).variable("NOTIFY_SOCKET", &manager.path);
    let orlop = setup.start();
    assert_eq!(manager.next(), "STATUS=opening the store");
    assert_eq!(manager.next(), "EXTEND_TIMEOUT_USEC=60000000");
    let ready = manager.hears("READY=1");
    assert!(
        ready.contains("STATUS=serving; upstream not asked yet; 0 crates held"),
        "{ready}"
    );
    assert_eq!(orlop.download("demo", "1.0.0").status, 200);
    manager.hears("STATUS=serving; upstream reachable; 1 crate held");
    orlop.terminate();
    let stopping = manager.hears("STOPPING=1");
    // The grace of 10 s, the jobs and the last writes.
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=45000000"),
        "{stopping}"
    );
}

/// The verdict as the page, its JSON and `/readyz` show it.
#[track_caller]
fn shown(orlop: &Orlop) -> (String, String, String) {
    let json = orlop.get("/status.json").text();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let headline = json["verdict"]["headline"]
        .as_str()
        .expect("text")
        .to_owned();
    let page = orlop.get("/").text();
    assert!(page.contains(&format!("<h1>{headline}</h1>")), "{headline}");
    let ready = orlop.get("/readyz");
    assert_eq!(ready.status, 200);
    let level = json["verdict"]["level"]
        .as_str()
        .expect("a level")
        .to_owned();
    (level, headline, ready.text())
}

#[test]
fn the_pages_the_probe_and_the_manager_show_one_verdict() {
    for (mode, fault, level, headline, reason) in [
        ("fallback", false, "good", "Serving", "upstream reachable"),
        (
            "fallback",
            true,
            "warn",
            "Serving what is held",
            "upstream is in trouble",
        ),
        (
            "strict",
            true,
            "bad",
            "Serving crates that are held, but no index entry past its time",
            "upstream is in trouble",
        ),
        (
            "offline",
            true,
            "good",
            "Serving what is held",
            "upstream is never asked",
        ),
    ] {
        let (upstream, manager) = (upstream(), Manager::start());
        let setup = Setup::over(&upstream)
            .config("mode", mode)
            .config("store.reserve", "1MiB")
            .variable("NOTIFY_SOCKET", &manager.path);
        let orlop = setup.start();
        let asked = orlop.download("demo", "1.0.0").status;
        assert_eq!(asked, if mode == "offline" { 404 } else { 200 });
        if fault {
            upstream.down();
            orlop.index("unknown");
        }
        let line = format!("{}; {reason}; ", headline.to_lowercase());
        manager.hears(&format!("STATUS={line}"));
        until("the verdict is that of the manager", || {
            shown(&orlop).2.starts_with(&format!("ready\n{line}"))
        });
        let (level_shown, headline_shown, _ready) = shown(&orlop);
        assert_eq!(headline_shown, headline, "{mode}");
        // A machine whose disk is nearly full needs attention in any case.
        let expected = [level, "warn"];
        assert!(
            expected.contains(&level_shown.as_str()),
            "{mode} {level_shown}"
        );
        orlop.terminate();
    }
}

#[test]
fn the_watchdog_is_fed_again_and_again() {
    let (upstream, manager) = (upstream(), Manager::start());
    let setup = Setup::over(&upstream)
        .variable("NOTIFY_SOCKET", &manager.path)
        .variable("WATCHDOG_USEC", "2000000");
    let orlop = setup.start();
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    assert!(!orlop.stderr().contains("watchdog"), "{}", orlop.stderr());
    orlop.terminate();
}

#[test]
fn a_store_that_cannot_be_read_is_named_and_the_watchdog_starves() {
    let (upstream, manager) = (upstream(), Manager::start());
    let setup = Setup::over(&upstream)
        .variable("NOTIFY_SOCKET", &manager.path)
        .variable("WATCHDOG_USEC", "1000000");
    let orlop = setup.start();
    manager.hears("WATCHDOG=1");
    let format = orlop.data().join("format");
    let text = std::fs::read(&format).expect("the file is there");
    // A pipe that nobody writes into: a read hangs as it does on a dead disk.
    let pipe = orlop.data().join("spool").join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    std::fs::rename(&pipe, &format).expect("the pipe takes its place");
    let stalled = manager.hears("STATUS=stalled: ");
    assert!(
        stalled.contains("no read of the store came back"),
        "{stalled}"
    );
    // It recovers when the disk does.
    std::fs::write(&pipe, &text).expect("a folder takes files");
    let mut hanging = std::fs::File::create(&format).expect("somebody reads");
    std::fs::rename(&pipe, &format).expect("the file is back");
    hanging
        .write_all(&text)
        .expect("the read that hangs gets its bytes");
    drop(hanging);
    manager.hears("WATCHDOG=1");
    assert!(orlop.stderr().contains("no read of the store came back"));
    orlop.terminate();
}

#[test]
fn a_reload_is_told_and_so_is_one_that_is_refused() {
    let (upstream, manager) = (upstream(), Manager::start());
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("orlop.toml");
    std::fs::write(&file, "").expect("a folder takes files");
    let setup = Setup::over(&upstream)
        .variable("NOTIFY_SOCKET", &manager.path)
        .argument("--config")
        .argument(&file.display().to_string());
    let orlop = setup.start();
    manager.hears("READY=1");
    std::fs::write(&file, "mode = \"strikt\"\n").expect("a folder takes files");
    assert_eq!(orlop.setup().run(&["reload"]).code, Some(2));
    manager.hears("RELOADING=1");
    let ready = manager.hears("READY=1");
    assert!(
        ready.contains("the last reload was refused") && ready.contains("strikt"),
        "{ready}"
    );
    std::fs::write(&file, "mode = \"strict\"\n").expect("a folder takes files");
    assert_eq!(orlop.setup().run(&["reload"]).code, Some(0));
    manager.hears("RELOADING=1");
    let ready = manager.hears("READY=1");
    assert!(!ready.contains("refused"), "{ready}");
    orlop.terminate();
}

#[test]
fn a_manager_that_is_not_there_harms_nothing() {
    let upstream = upstream();
    let setup = Setup::over(&upstream).variable("NOTIFY_SOCKET", "/nobody/is/here");
    setup.start().terminate();
}

/// `orlop serve` with `socket` as the descriptor 3, and `second`, where there is one, as 4.
fn with_socket(setup: &Setup, socket: OwnedFd, second: Option<OwnedFd>) -> Command {
    let plain = setup.command(&["serve"]);
    let count = if second.is_some() { "2" } else { "1" };
    // A shell moves them to where they belong; what was on stderr is lost with two.
    let script = match second {
        Some(_) => "exec 3<&0 4<&2 0</dev/null 2>/dev/null; exec \"$@\"",
        None => "exec 3<&0 0</dev/null; exec \"$@\"",
    };
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(plain.get_program());
    command.args(plain.get_args()).env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("LISTEN_FDS", count).stdin(Stdio::from(socket));
    command.stdout(Stdio::piped());
    command.stderr(second.map_or_else(Stdio::piped, Stdio::from));
    command
}

fn loopback() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free")
}

/// Starts it, and waits for its first ready lines.
#[track_caller]
fn started(mut command: Command, lines: usize) -> (Child, Vec<String>) {
    let mut child = command.spawn().expect("a shell");
    let stdout = child.stdout.take().expect("a pipe");
    let ready = BufReader::new(stdout).lines().take(lines);
    let ready: Vec<String> = ready.map_while(Result::ok).collect();
    (child, ready)
}

#[track_caller]
fn ended(mut child: Child) {
    let pid = i32::try_from(child.id()).expect("a pid is an i32");
    let pid = Pid::from_raw(pid).expect("a pid is not zero");
    peer_may_be_gone(kill_process(pid, Signal::TERM));
    assert!(wait(&mut child, PATIENCE).success());
}

fn asked(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    let bounded = stream.set_read_timeout(Some(PATIENCE));
    bounded.expect("a socket has a timeout");
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("it is taken");
    stream
}

#[track_caller]
fn answered(mut stream: TcpStream) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn sockets_that_are_handed_over_are_used_and_no_address_is() {
    let upstream = upstream();
    let (one, other) = (loopback(), loopback());
    let taken = loopback();
    let busy = taken.local_addr().expect("an address").to_string();
    let setup = Setup::over(&upstream).config("listen.addresses", &busy);
    let addresses = [&one, &other].map(|it| it.local_addr().expect("an address"));
    let (child, ready) = started(with_socket(&setup, one.into(), Some(other.into())), 2);
    let expected = addresses.map(|address| format!("orlop listening on http://{address}/"));
    assert_eq!(ready, expected);
    for address in addresses {
        answered(asked(address));
    }
    ended(child);
}

#[test]
fn a_connection_made_between_a_stop_and_a_start_waits_where_the_socket_outlives_them() {
    let upstream = upstream();
    let socket = loopback();
    let address = socket.local_addr().expect("an address");
    let setup = Setup::over(&upstream);
    let copy = || OwnedFd::from(socket.try_clone().expect("a copy"));
    let (child, _) = started(with_socket(&setup, copy(), None), 1);
    answered(asked(address));
    // One that was accepted, and whose request is on its way when the end begins.
    let early = TcpStream::connect(address).expect("it listens");
    ended(child);
    drop(early);
    let waiting = asked(address);
    let (child, _) = started(with_socket(&setup, copy(), None), 1);
    answered(waiting);
    ended(child);
}

#[test]
fn a_descriptor_of_another_kind_is_refused_with_what_to_set() {
    let setup = Setup::over_url("http://127.0.0.1:9/");
    let dir = tempfile::tempdir().expect("a folder");
    let unix = UnixListener::bind(dir.path().join("socket")).expect("a socket");
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let listener = loopback();
    let address = listener.local_addr().expect("an address");
    let connection = TcpStream::connect(address).expect("it listens");
    let file = tempfile::tempfile().expect("a file");
    for (descriptor, why, remedy) in [
        (OwnedFd::from(unix), "is no TCP socket", "ListenStream="),
        (datagrams.into(), "is no TCP socket", "ListenStream="),
        (file.into(), "is no TCP socket", "ListenStream="),
        (connection.into(), "does not listen", "Accept=no"),
    ] {
        let outcome = Outcome::of(with_socket(&setup, descriptor, None));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(why), "{outcome:?}");
        assert!(outcome.stderr.contains(remedy), "{outcome:?}");
    }
}

#[test]
fn a_stop_is_bounded_though_a_client_never_ends() {
    let (upstream, manager) = (upstream(), Manager::start());
    let setup = Setup::over(&upstream)
        .config("listen.shutdown_grace", "1s")
        .variable("NOTIFY_SOCKET", &manager.path);
    let orlop = setup.start();
    let mut half = TcpStream::connect(orlop.address()).expect("it listens");
    half.write_all(b"GET /healthz HTTP/1.1\r\n")
        .expect("it is taken");
    let mut silent = TcpStream::connect(orlop.address()).expect("it listens");
    manager.hears("READY=1");
    orlop.terminate();
    let mut rest = Vec::new();
    peer_may_be_gone(silent.read_to_end(&mut rest));
    let stopping = manager.hears("STOPPING=1");
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=36000000"),
        "{stopping}"
    );
}

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd")
}

#[test]
fn the_units_name_each_other_and_the_folders_of_the_package() {
    let read = |name: &str| std::fs::read_to_string(units().join(name)).expect("it is there");
    let service = read("orlop.service");
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/orlop serve",
        "ExecReload=/usr/bin/orlop reload",
        "User=orlop",
        "StateDirectory=orlop",
        "RuntimeDirectory=orlop",
    ] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
    assert!(read("orlop.socket").contains("\nListenStream=[::]:8080\n"));
    assert!(read("orlop.sysusers").contains("/var/lib/orlop"));
    let gap = read("orlop.service.d/air-gap.conf.example");
    assert!(gap.contains("\nIPAddressDeny=any\nIPAddressAllow=localhost\n"));
}

#[test]
#[ignore = "needs systemd-analyze, of systemd 252 or newer"]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn the_unit_is_as_hard_as_it_is_meant_to_be() {
    let service = units().join("orlop.service");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=yes", "--threshold=12", "--no-pager"]);
    let Ok(judged) = command.arg(&service).output() else {
        eprintln!("!!! SKIPPED: the hardening of the unit, because systemd-analyze is not here");
        return;
    };
    let text = String::from_utf8_lossy(&judged.stdout).into_owned();
    assert!(judged.status.success(), "{text}");
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args([service, units().join("orlop.socket")])
        .output()
        .expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // The program is not installed where this is built.
    let ours = |line: &&str| line.contains("orlop") && !line.contains("is not executable");
    let trouble: Vec<&str> = said.lines().filter(ours).collect();
    assert!(trouble.is_empty(), "{trouble:?}");
}
