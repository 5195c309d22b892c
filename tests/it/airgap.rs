//! The day in the lab without a network: real cargo builds from what a bundle brought, in a network
//! namespace in which there is nothing but loopback.

use std::{
    env, fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry},
    orlop::{Outcome, Setup, wait},
    peer_may_be_gone, until,
    upstream::Upstream,
};

/// Where the test inside finds what the test outside made.
const PLACE: &str = "ORLOP_TEST_AIRGAP";

/// The loopback device is down in a new namespace; one of these brings it up, wherever it is.
const INSIDE: &str = r#"
PATH="$PATH:/usr/sbin:/sbin"
ip link set lo up 2>/dev/null || busybox ip link set lo up 2>/dev/null || python3 -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x49))
' 2>/dev/null || exit 77
exec "$@"
"#;

fn in_a_namespace(words: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", INSIDE, "sh"]).args(words);
    command.stdin(Stdio::null());
    command
}

fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("top", "1.0.0").dep("Middle_One", "^0.2"))
        .with(&Krate::new("Middle_One", "0.2.5").dep("bottom-one", "~3.1"))
        .with(&Krate::new("bottom-one", "3.1.4").size(400_000))
        .with(&Krate::new("unrelated", "1.0.0"))
}

#[test]
fn cargo_builds_by_both_indexes_where_there_is_no_network() {
    let possible = in_a_namespace(&["true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !possible {
        let text =
            "SKIPPED, because no network namespace can be made here: the build behind the air gap";
        peer_may_be_gone(writeln!(std::io::stderr(), "{text}"));
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder can be made");
    let upstream = Upstream::start(registry());
    make_bundle(&upstream, place.path());
    let address = upstream.address().to_string();
    fs::write(place.path().join("upstream"), address).expect("written");
    let this = env::current_exe().expect("this test has a file");
    let this = this.to_str().expect("its path is text");
    let name = "airgap::behind_the_air_gap";
    let mut command = in_a_namespace(&[this, "--exact", name, "--ignored", "--nocapture"]);
    command
        .env(PLACE, place.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("unshare can be started");
    let (stdout, stderr) = (
        crate::support::orlop::gather(child.stdout.take()),
        crate::support::orlop::gather(child.stderr.take()),
    );
    let status = wait(&mut child, Duration::from_secs(300));
    let told = stdout.join().expect("read") + &stderr.join().expect("read");
    assert!(status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
    assert!(place.path().join("built").exists(), "{told}");
}

/// A lockfile, and a bundle of exactly what it needs.
fn make_bundle(upstream: &Upstream, place: &Path) {
    let orlop = Setup::over(upstream).start();
    let project = Project::new("top = \"1\"").through(&orlop.url());
    project.cargo(&["generate-lockfile"]).well();
    let lock = place.join("Cargo.lock");
    fs::write(&lock, project.read("Cargo.lock")).expect("written");
    assert_eq!(orlop.index("unrelated").status, 200);
    let lock = lock.to_str().expect("text").to_owned();
    let well = |outcome: Outcome| {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    let setup = orlop.setup();
    well(setup.run(&["sync", "--lockfile", &lock]));
    let out = place.join("lab.orlop");
    let out = out.to_str().expect("text");
    well(setup.run(&["export", "--out", out, "--lockfile", &lock]));
    let key = well(setup.run(&["key", "show"]));
    fs::write(place.join("key"), key.trim()).expect("written");
}

/// Run by the test above, in the namespace.
#[test]
#[ignore = "it is run in a namespace, by another test"]
fn behind_the_air_gap() {
    let place = env::var_os(PLACE).expect("this is run by another test");
    let place = PathBuf::from(place);
    let read = |name: &str| fs::read_to_string(place.join(name)).expect("it was made");
    check_alone(&read("upstream"));
    let setup = Setup::quick()
        .config("mode", "offline")
        .config("git.quiet_for", "200ms")
        .config("git.cut_within", "1s")
        .config("import.trust", read("key").trim());
    let bundle = place.join("lab.orlop");
    let taken = setup.run(&["import", bundle.to_str().expect("text")]);
    assert_eq!(taken.code, Some(0), "{taken:?}");
    let orlop = setup.start();
    assert_eq!(orlop.index("unrelated").status, 404, "it was not asked for");

    let sparse = Project::new("top = \"1\"").through(&orlop.url());
    check_builds(&sparse, &read("Cargo.lock"));
    let refs = "/git/index/info/refs?service=git-upload-pack";
    until("the git index has a commit", || {
        orlop.get(refs).text().contains("refs/heads/master")
    });
    let git = Project::new("top = \"1\"").configured(&format!(
        "[source.crates-io]\nreplace-with = \"orlop\"\n\n\
         [source.orlop]\nregistry = \"{}/git/index\"\n",
        orlop.url()
    ));
    until("the git index has the import", || {
        git.cargo(&["generate-lockfile"]).is_well()
    });
    check_builds(&git, &read("Cargo.lock"));
    check_alone(&read("upstream"));
    fs::write(place.join("built"), "").expect("written");
}

#[track_caller]
fn check_builds(project: &Project, lock: &str) {
    project.write("Cargo.lock", lock);
    let ran = project.cargo(&["run", "--locked"]).well();
    assert_eq!(ran.stdout.trim(), "built");
    assert_eq!(project.read("Cargo.lock"), lock);
}

/// Nothing but loopback, and on it nothing of the world outside.
#[track_caller]
fn check_alone(upstream: &str) {
    let devices = fs::read_to_string("/proc/self/net/dev").expect("Linux tells its devices");
    let devices: Vec<&str> = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(str::trim)
        .collect();
    assert_eq!(devices, ["lo"]);
    let routes = fs::read_to_string("/proc/self/net/route").expect("Linux tells its routes");
    assert_eq!(routes.lines().count(), 1, "{routes}");
    let reach = |address: &str| {
        let address: SocketAddr = address.parse().expect("an address");
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
    };
    assert!(!reach(upstream), "the upstream of the world outside");
    assert!(!reach("192.0.2.1:80") && !reach("[2001:db8::1]:80"));
}
