//! The command line: the ready line, help, exit codes, and what to paste into cargo's configuration.

use std::net::TcpListener;

use crate::support::{
    PATIENCE,
    cargo::Project,
    crates::{Krate, Registry},
    http::Ask,
    orlop::Setup,
    upstream::Upstream,
};

fn setting() -> Upstream {
    Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")))
}

#[test]
fn serve_prints_its_ready_line_and_nothing_else() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let expected = format!("orlop listening on http://{}/\n", orlop.address());
    assert_eq!(orlop.stdout(), expected);
    assert_ne!(orlop.address().port(), 0);
}

#[test]
fn help_and_version_are_well() {
    let setup = Setup::bare();
    for words in [
        &["--help"][..],
        &["help"],
        &["serve", "--help"],
        &["client-config", "--help"],
        &["config", "--help"],
        &["config", "check", "--help"],
        &["config", "show", "--help"],
    ] {
        let outcome = setup.run(words);
        assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
        assert!(outcome.stdout.contains("Usage"), "{words:?}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{words:?}");
    }
    let version = setup.run(&["--version"]);
    assert_eq!(version.code, Some(0));
    let expected = format!("orlop {}", env!("CARGO_PKG_VERSION"));
    assert!(version.stdout.starts_with(&expected), "{version:?}");
}

#[test]
fn the_help_of_a_job_has_its_codes_and_sets_the_settings_of_a_server_apart() {
    let setup = Setup::bare();
    let names = ["refresh", "pin", "unpin", "stats", "who", "verify", "gc"];
    for name in names {
        let help = setup.run(&[name, "--help"]).stdout;
        for word in ["Examples:", "Exit codes:", "only without a running server"] {
            assert!(help.contains(word), "{name}: no {word:?} in {help}");
        }
        let short = setup.run(&[name, "-h"]).stdout;
        assert!(!short.contains("--listen"), "{name}: {short}");
        assert!(short.contains("--data"), "{name}: {short}");
    }
    assert!(setup.run(&["serve", "-h"]).stdout.contains("--listen"));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let setup = Setup::bare();
    for words in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &[],
        &["serve", "--mode", "sometimes"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--upstream", "ftp://nowhere/"],
        &["serve", "extra"],
        &["client-config", "--url", "not a url"],
    ] {
        let outcome = setup.run(words);
        assert_eq!(outcome.code, Some(2), "{words:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{words:?}");
        assert_ne!(outcome.stderr, "", "{words:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_exit_code_3() {
    let upstream = setting();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let refused = Setup::over(&upstream)
        .config("listen.addresses", &address)
        .try_start()
        .expect_err("the port is taken");
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains(&address), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
}

#[test]
fn it_serves_whether_anybody_reads_the_ready_line_or_not() {
    let upstream = setting();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("an address");
    let setup = Setup::over(&upstream).config("listen.addresses", &address.to_string());
    drop(free);
    let mut child = setup.command(&["serve"]).spawn().expect("orlop starts");
    drop(child.stdout.take());
    let healthy = || {
        Ask::get("/healthz")
            .send(address)
            .is_ok_and(|answer| answer.status == 200)
    };
    let deadline = std::time::Instant::now() + PATIENCE;
    while !healthy() {
        let ended = child.try_wait().expect("a child can be waited for");
        assert_eq!(ended, None, "it ended");
        assert!(std::time::Instant::now() < deadline, "it does not answer");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().expect("it can be ended");
    child.wait().expect("it ends");
}

#[test]
fn an_upstream_that_is_down_does_not_keep_it_from_starting() {
    let upstream = setting();
    upstream.down();
    let orlop = Setup::over(&upstream).start();
    assert_eq!(orlop.get("/healthz").status, 200);
    upstream.up();
    crate::support::until("it serves when the upstream is up", || {
        orlop.download("here", "1.0.0").is_complete_file()
    });
}

#[test]
fn client_config_is_what_cargo_takes() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    for url in [orlop.url(), format!("{}/", orlop.url())] {
        let printed = orlop.setup().run(&["client-config", "--url", &url]);
        assert_eq!(printed.code, Some(0), "{printed:?}");
        let project = Project::new("here = \"1\"").configured(&printed.stdout);
        project.cargo(&["build"]).well();
        let found = project
            .cargo(&["search", "here", "--registry", "orlop"])
            .well();
        assert!(
            found.stdout.contains("here = \"1.0.0\""),
            "{}",
            found.stdout
        );
    }
}

#[test]
fn client_config_knows_the_default_address_and_public_url() {
    let printed = Setup::bare().run(&["client-config"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let index = "sparse+http://127.0.0.1:8080/index/";
    assert!(printed.stdout.contains(index), "{}", printed.stdout);
    let printed = Setup::bare()
        .config("public_url", "https://crates.lab/sub")
        .run(&["client-config"]);
    let index = "sparse+https://crates.lab/sub/index/";
    assert!(printed.stdout.contains(index), "{}", printed.stdout);
    let parsed: Result<toml::Table, _> = printed.stdout.parse();
    assert!(parsed.is_ok(), "{}", printed.stdout);
}
