//! The few tests that ask the live registry: `cargo test --test it live -- --ignored`.

use std::time::Duration;

use crate::support::{
    cargo::Project,
    orlop::{Orlop, Setup},
    sha256, until,
};

/// The default upstream, with the waits that people have.
fn live() -> Setup {
    Setup::bare()
        .config("listen.addresses", "127.0.0.1:0")
        .config("store.reserve", "1MiB")
}

/// The same, with a proxy on the way to the upstream at which nobody listens.
fn cut_off(orlop: Orlop) -> Orlop {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port");
    orlop
        .terminate()
        .config("upstream.proxy", &format!("http://{closed}/"))
        .config("index.fresh_for", "0s")
        .start()
}

#[test]
#[ignore = "asks the live registry"]
fn a_project_of_2015_builds_through_the_mirror_and_again_without_a_registry() {
    let orlop = live().start();
    let project = Project::new("libc = \"=0.1.10\"").through(&orlop.url());
    project.cargo(&["build"]).well();

    let orlop = cut_off(orlop);
    project.forget();
    let project = project.through(&orlop.url());
    project.cargo(&["build"]).well();
    assert!(orlop.index("libc").header("x-orlop-stale").is_some());
    assert_eq!(orlop.index("a-crate-never-asked-for").status, 503);
}

#[test]
#[ignore = "asks the live registry"]
fn a_project_of_2015_builds_through_the_git_index() {
    let orlop = live().config("git.quiet_for", "200ms").start();
    // git clients see the names that were asked for so far.
    let libc = orlop.index("libc");
    assert_eq!(libc.status, 200, "{}", libc.text());
    until("the git index has the name", || {
        orlop.metric("orlop_generation", &[]) >= 1.0
            && orlop.metric("orlop_generation_staged_names", &[]) < 1.0
    });
    let project = Project::new("libc = \"=0.1.10\"").configured(&format!(
        "[source.crates-io]\nreplace-with = \"orlop\"\n\n\
         [source.orlop]\nregistry = \"{}/git/index\"\n",
        orlop.url()
    ));
    project.cargo(&["build"]).well();
    assert!(project.read("Cargo.lock").contains("\"0.1.10\""));
}

#[test]
#[ignore = "asks the live registry"]
fn the_index_file_of_sysconf_is_what_the_registry_sends() {
    const CHECKSUM: &str = "be72e7128262fbd8dcb2e3eecee6135ed1611e0a9d63feca600b4a19f297eb49";

    let orlop = live().start();
    let url = format!("{}sy/sc/sysconf", tame_index::CRATES_IO_HTTP_INDEX);
    let upstream = fetch(url.trim_start_matches("sparse+"));
    let ours = orlop.index("sysconf");
    assert_eq!(ours.status, 200, "{}", ours.text());
    assert_eq!(ours.body, upstream);
    let text = ours.text();
    let line = text
        .lines()
        .find(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|release| release["vers"] == "0.1.0")
        })
        .unwrap_or_else(|| panic!("sysconf 0.1.0 is in the index:\n{text}"));
    assert!(line.contains(CHECKSUM), "{line}");
    let file = orlop.download("sysconf", "0.1.0");
    assert!(file.is_complete_file(), "{}", file.text());
    assert_eq!(sha256(&file.body), CHECKSUM);

    let orlop = cut_off(orlop);
    assert_eq!(orlop.index("sysconf").body, upstream);
    assert_eq!(sha256(&orlop.download("sysconf", "0.1.0").body), CHECKSUM);
}

#[test]
#[ignore = "asks the live registry"]
fn cargo_info_and_add_work_against_the_live_registry() {
    let orlop = live().start();
    let project = Project::new("").through(&orlop.url());
    let info = project
        .cargo(&["info", "sysconf", "--registry", "orlop"])
        .well();
    assert!(info.stdout.contains("sysconf"), "{}", info.stdout);
    project.cargo(&["add", "sysconf@0.1.0"]).well();
    project.cargo(&["fetch"]).well();
    until("the crates are on disk", || !orlop.blobs().is_empty());
}

/// What the registry itself sends, without orlop.
fn fetch(url: &str) -> Vec<u8> {
    // Whoever comes first installs it; the second attempt of another test is no error.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client can be made");
        let response = client.get(url).send().await.expect("the registry answers");
        assert!(response.status().is_success(), "{}", response.status());
        response.bytes().await.expect("a whole body").to_vec()
    })
}
