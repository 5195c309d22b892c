//! `orlop doctor` against mirrors that are well and servers that are not: each trouble is named, with its remedy.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
};

use crate::support::{
    crates::{Krate, Registry},
    orlop::{Orlop, Outcome, Setup, write_file},
    peer_may_be_gone, sha256,
    tls::Tls,
    upstream::Upstream,
};

type Answer = (u16, String, Vec<u8>);

/// A server that answers each path as the closure says: status, further head lines, body. Its
/// thread ends with the test's process.
fn server(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut piece = [0; 1024];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => return,
                        Ok(len) => head.extend_from_slice(&piece[..len]),
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let (status, lines, body) = answer(path);
                let len = body.len();
                let head = format!(
                    "HTTP/1.1 {status} X\r\n{lines}Content-Length: {len}\r\nConnection: close\r\n\r\n"
                );
                peer_may_be_gone(stream.write_all(head.as_bytes()));
                peer_may_be_gone(stream.write_all(&body));
            });
        }
    });
    address
}

/// A little mirror of one crate, of which each answer may be changed.
fn little_mirror(change: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> SocketAddr {
    let line = format!(
        "{{\"name\":\"little\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{}\",\"features\":{{}},\"yanked\":false}}\n",
        sha256(b"the bytes of a crate")
    );
    server(move |path| {
        if let Some(changed) = change(path) {
            return changed;
        }
        let ok = |body: &str| (200, String::new(), body.as_bytes().to_vec());
        match path {
            "/healthz" => ok("ok\n"),
            "/index/config.json" => ok("{\"dl\":\"/nowhere\"}"),
            "/index/li/tt/little" => ok(&line),
            path if path.starts_with("/api/v1/crates?") => {
                ok("{\"crates\":[{\"name\":\"little\"}]}")
            }
            _ => (404, String::new(), b"not here\n".to_vec()),
        }
    })
}

/// Runs the doctor on a machine that is only a client.
fn doctor(words: &[&str]) -> Outcome {
    let mut all = vec!["doctor"];
    all.extend(words);
    Setup::bare().run(&all)
}

/// A mirror that is well.
fn setting() -> (Upstream, Orlop) {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let orlop = Setup::over(&upstream).start();
    (upstream, orlop)
}

/// An address where nobody listens.
fn dead() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a listener has an address")
}

#[test]
fn a_mirror_that_is_well_is_said_to_be_well_end_to_end() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let setup = Setup::over(&upstream);
    let orlop = setup.clone().start();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let url = orlop.url();
    let outcome = setup.run(&["doctor", &url]);
    let version = concat!("orlop ", env!("CARGO_PKG_VERSION"));
    outcome.told(
        0,
        &[
            "ok    name resolution",
            "ok    answer",
            version,
            "ok    clock",
            "ok    config.json",
            "ok    index: here",
            "ok    download: here 1.0.0",
            "its checksum is right",
            "git index",
            "ok    daemon: process",
            "ok    upstream",
        ],
    );
    // On the machine itself the daemon says where it listens, whatever the settings say.
    let listens = format!("answers; the server listens on http://{}/", orlop.address());
    let own = setup.run(&["doctor"]);
    let words = ["ok    answer", "ok    admin socket", &listens];
    for word in words {
        assert!(own.stdout.contains(word), "no {word:?} in {own:?}");
    }
    let config = setup.run(&["client-config"]);
    let index = format!("sparse+http://{}/index/", orlop.address());
    assert!(config.stdout.contains(&index), "{config:?}");
    let outcome = setup.run(&["doctor", &url, "--json", "--probe", "here@1.0.0"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(report["problems"], 0);
    let findings = report["findings"].as_array().expect("a list");
    assert!(
        findings
            .iter()
            .any(|one| one["check"] == "download" && one["verdict"] == "ok")
    );
    let outcome = setup.run(&["doctor", &url, "--probe", "nobody-has-this"]);
    outcome.told(1, &["FAIL  index", "nobody-has-this", "--probe NAME"]);
}

#[test]
fn what_a_server_reports_about_itself_is_among_the_findings_once() {
    let (upstream, orlop) = setting();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    upstream.down();
    assert_ne!(orlop.index("gone").status, 200);
    let url = orlop.url();
    let reported = [
        "ok    server: orlop",
        "warn  attention: Upstream's index failed",
    ];
    // A client sees it, and can use the mirror.
    doctor(&[&url, "--probe", "here"]).told(0, &reported);
    // On the server's machine the exact reason is looked for, and nothing is shown twice.
    let outcome = orlop.setup().run(&["doctor", &url, "--probe", "here"]);
    outcome.told(1, &reported);
    outcome.told(1, &["FAIL  upstream", "`upstream.url`"]);
    assert_eq!(
        outcome.stdout.matches("server: orlop").count(),
        1,
        "{outcome:?}"
    );
}

#[test]
fn a_store_without_a_server_is_examined_from_outside() {
    let (upstream, orlop) = setting();
    let setup = orlop.terminate();
    let outcome = setup.run(&["doctor", &upstream.url()]);
    let found = [
        "warn  daemon: no server runs; the last one shut down in order",
        "skip  admin socket",
        "start it: `orlop serve`",
        "ok    store",
        "ok    disk",
        "ok    upstream",
    ];
    outcome.told(outcome.code.unwrap_or(9), &found);
    upstream.down();
    let outcome = setup.run(&["doctor", &upstream.url()]);
    outcome.told(1, &["FAIL  upstream"]);
}

/// The same items with a server, which reports them, and without one.
#[test]
fn what_is_wrong_with_the_data_folder_is_found_with_a_server_and_without() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let setup = Setup::over(&upstream).start().terminate();
    let everyone = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(setup.data(), everyone).expect("the folder is ours");
    let open = "Every user may write into the data folder";
    setup.run(&["doctor", &upstream.url()]).told(
        1,
        &["warn  daemon", &format!("FAIL  store: {open}"), "chmod o-w"],
    );
    let orlop = setup.start();
    let found = [&format!("warn  attention: {open}"), "chmod o-w"];
    let outcome = doctor(&[&orlop.url(), "--probe", "here"]);
    outcome.told(0, &found);
    let outcome = orlop
        .setup()
        .run(&["doctor", &orlop.url(), "--probe", "here"]);
    outcome.told(0, &found);
    assert_eq!(outcome.stdout.matches(open).count(), 1, "{outcome:?}");
    // It is served all the same.
    let ready = orlop.get("/readyz");
    assert_eq!(ready.status, 200);
    assert!(!ready.text().contains("attention"), "{}", ready.text());
}

#[test]
fn a_dead_port_and_a_name_that_is_none_are_told_apart() {
    let port = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound");
    let outcome = doctor(&[&format!("http://{port}")]);
    outcome.told(
        1,
        &[
            "FAIL  connection",
            "no address accepts connections",
            "orlop serve",
            "firewall",
        ],
    );
    let outcome = doctor(&["http://mirror.invalid:8080"]);
    outcome.told(
        1,
        &["FAIL  name resolution", "mirror.invalid", "/etc/hosts"],
    );
    let outcome = doctor(&["mirror:8080"]);
    outcome.told(1, &["FAIL  address", "http://mirror.lab:8080"]);
}

#[test]
fn an_authority_that_is_unknown_is_named_and_one_that_cargo_knows_is_used() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let tls = Tls::over(&upstream);
    let outcome = doctor(&[&tls.base()]);
    outcome.told(
        1,
        &["FAIL  TLS", "authority that is not trusted", "http.cainfo"],
    );

    let setup = Setup::bare();
    let ca = tls.ca_file();
    write_file(
        setup.data().parent().expect("a folder"),
        ".cargo/config.toml",
        &format!("[http]\ncainfo = \"{}\"\n", ca.display()),
    );
    let outcome = setup.run(&["doctor", &tls.base()]);
    outcome.told(outcome.code.unwrap_or(9), &["ok    TLS"]);
}

/// Examines a mirror behind TLS, whose authority this client trusts.
fn doctor_trusting(tls: &Tls) -> Outcome {
    let setup = Setup::bare();
    write_file(
        setup.data().parent().expect("a folder"),
        ".cargo/config.toml",
        &format!("[http]\ncainfo = \"{}\"\n", tls.ca_file().display()),
    );
    setup.run(&["doctor", &tls.base()])
}

#[test]
fn a_certificate_of_another_time_or_name_is_told_apart() {
    let upstream = Upstream::start(Registry::new().with(&Krate::new("here", "1.0.0")));
    let check_tls = |name: &str, years, words: &[&str]| {
        let tls = Tls::named(name, years, &upstream);
        doctor_trusting(&tls).told(1, words);
    };
    let time = [
        "FAIL  TLS",
        "renew the certificate",
        "clock of this machine",
    ];
    check_tls(
        "127.0.0.1",
        (1999, 2001),
        &[&time[..], &["expired"]].concat(),
    );
    check_tls("127.0.0.1", (4000, 4096), &time);
    check_tls(
        "mirror.test",
        (1975, 4096),
        &[
            "FAIL  TLS",
            "mirror.test",
            "certificate that names `127.0.0.1`",
        ],
    );
}

#[test]
fn a_proxy_of_git_is_one_of_cargo_too() {
    let (_upstream, orlop) = setting();
    let dead = dead();
    let client = Setup::bare();
    let home = client.data().parent().expect("a folder").to_owned();
    let proxy = format!("[http]\nproxy = http://{dead}\n");
    write_file(&home, ".gitconfig", &proxy);
    let outcome = client.run(&["doctor", &orlop.url()]);
    let found = ["warn  proxy", "`http.proxy` of git's configuration"];
    outcome.told(1, &found);
}

#[test]
fn a_clock_that_is_wrong_is_a_warning() {
    let address = server(|path| {
        let date = "Date: Thu, 01 Jan 2015 00:00:00 GMT\r\n".to_owned();
        match path {
            "/healthz" => (200, date, b"ok\n".to_vec()),
            _ => (404, date, Vec::new()),
        }
    });
    let outcome = doctor(&[&format!("http://{address}")]);
    outcome.told(1, &["warn  clock", "behind ours", "NTP"]);
}

#[test]
fn a_captive_portal_is_recognised() {
    let address = server(|_path| {
        let head = "Content-Type: text/html\r\n".to_owned();
        (200, head, b"<html>Please log in</html>".to_vec())
    });
    let outcome = doctor(&[&format!("http://{address}")]);
    outcome.told(1, &["FAIL  answer", "page for people", "captive portal"]);
}

#[test]
fn a_download_host_that_is_dead_is_found_before_cargo_finds_it() {
    let dead = dead();
    let address = little_mirror(move |path| {
        let body = format!("{{\"dl\":\"http://{dead}/dl\"}}");
        (path == "/index/config.json").then(|| (200, String::new(), body.into_bytes()))
    });
    let outcome = doctor(&[&format!("http://{address}")]);
    outcome.told(
        1,
        &[
            "ok    index: little",
            "FAIL  download host",
            "no connection",
            "public_url",
        ],
    );
}

#[test]
fn a_crate_that_comes_damaged_is_found_by_its_checksum() {
    let files = server(|_path| (200, String::new(), b"not the bytes".to_vec()));
    let address = little_mirror(move |path| {
        let body = format!("{{\"dl\":\"http://{files}/dl\"}}");
        (path == "/index/config.json").then(|| (200, String::new(), body.into_bytes()))
    });
    let outcome = doctor(&[&format!("http://{address}")]);
    outcome.told(
        1,
        &[
            "ok    index: little",
            "FAIL  download: little 1.0.0 is damaged",
            "verify --repair",
        ],
    );
}

#[test]
fn the_configuration_of_a_parent_folder_is_found_and_followed() {
    let (_upstream, orlop) = setting();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let client = Setup::bare();
    let home = client.data().parent().expect("a folder").to_owned();
    let below = home.join("work/project");
    std::fs::create_dir_all(&below).expect("a temporary folder takes folders");
    write_file(
        &home,
        "work/.cargo/config.toml",
        &format!(
            "[source.crates-io]\nreplace-with = \"lab\"\n[registries.lab]\nindex = \"sparse+{}/index/\"\n",
            orlop.url()
        ),
    );
    let mut command = client.command(&["doctor"]);
    command.current_dir(&below);
    let outcome = Outcome::of(command);
    outcome.told(
        0,
        &[
            "crates.io is replaced by",
            "work/.cargo/config.toml",
            "ok    download: here 1.0.0",
        ],
    );

    write_file(
        &home,
        "work/project/.cargo/config.toml",
        "[net]\noffline = true\n",
    );
    let mut command = client.command(&["doctor"]);
    command.current_dir(&below);
    let outcome = Outcome::of(command);
    outcome.told(1, &["FAIL  cargo offline", "project/.cargo/config.toml"]);
}

#[test]
fn a_client_that_was_never_set_up_is_told_how() {
    let outcome = doctor(&[]);
    outcome.told(
        1,
        &[
            "FAIL  cargo configuration",
            "orlop client-config",
            "skip  store",
        ],
    );
}

#[test]
fn a_proxy_in_the_way_is_named_with_its_variable() {
    let (_upstream, orlop) = setting();
    let dead = dead();
    let client = Setup::bare();
    let mut command = client.command(&["doctor", &orlop.url()]);
    command.env("http_proxy", format!("http://{dead}"));
    Outcome::of(command).told(
        1,
        &[
            "warn  proxy",
            "`http_proxy`",
            "FAIL  proxy: the mirror answers without",
            "no_proxy",
        ],
    );
    let mut command = client.command(&["doctor", &orlop.url(), "--probe", "here"]);
    command
        .env("http_proxy", format!("http://{dead}"))
        .env("no_proxy", "127.0.0.0/8");
    Outcome::of(command).told(0, &["exempt", "ok    download: here 1.0.0"]);
}
