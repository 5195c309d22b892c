//! The view of what is held: cargo behind it resolves to what is here, over the sparse index and
//! over git, and fails at resolution where something is missing, never at a download.

use std::{fs, path::Path, process::Command};

use flate2::read::GzDecoder;

use crate::support::{
    cargo::{Project, Run},
    crates::{Krate, Registry, index_path},
    git::Git,
    http::{Answer, Ask},
    orlop::{Orlop, Setup, download_path},
    until,
    upstream::{Kind, Upstream},
};

/// What the mirror knows: `demo` with a release that is held and one that is not, `app` with a way
/// out, `stuck` without one, and `lost`, of which nothing is held.
fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("demo", "1.0.0").size(300_000))
        .with(&Krate::new("demo", "1.1.0"))
        .with(&Krate::new("app", "0.1.0").dep("demo", "1"))
        .with(&Krate::new("stuck", "0.1.0").dep("lost", "1"))
        .with(&Krate::new("lost", "1.0.0"))
}

const NAMES: [&str; 4] = ["demo", "app", "stuck", "lost"];

fn over(upstream: &Upstream) -> Setup {
    Setup::over(upstream)
        .config("git.quiet_for", "200ms")
        .config("git.cut_within", "1s")
}

/// With every index entry known, and the files of `demo` 1.0.0, `app` and `stuck` held.
fn filled(upstream: &Upstream, setup: Setup) -> Orlop {
    let orlop = setup.start();
    for name in NAMES {
        assert_eq!(orlop.index(name).status, 200, "{name}");
    }
    for (name, version) in [("demo", "1.0.0"), ("app", "0.1.0"), ("stuck", "0.1.0")] {
        assert!(orlop.download(name, version).is_complete_file(), "{name}");
    }
    assert_eq!(upstream.count(Kind::Crate), 3);
    orlop
}

fn setting() -> (Upstream, Orlop) {
    let upstream = Upstream::start(registry());
    let orlop = filled(&upstream, over(&upstream));
    (upstream, orlop)
}

fn view_url(orlop: &Orlop) -> String {
    format!("{}/view/held", orlop.url())
}

fn view_path(name: &str) -> String {
    format!("/view/held/index/{}", index_path(name))
}

fn view_file(orlop: &Orlop, name: &str) -> Answer {
    orlop.get(&view_path(name))
}

fn versions(file: &str) -> Vec<String> {
    file.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            line["vers"].as_str().expect("a version").to_owned()
        })
        .collect()
}

/// The versions of a name in the sparse index of the view.
fn listed(orlop: &Orlop, name: &str) -> Vec<String> {
    let answer = view_file(orlop, name);
    match answer.status {
        200 => versions(&answer.text()),
        404 => Vec::new(),
        other => panic!("{other}: {}", answer.text()),
    }
}

/// What the git index of the view has.
struct Twin {
    git: Git,
}

impl Twin {
    fn new() -> Self {
        let git = Git::new();
        git.run(&["init", "-q", "--bare", "probe"]).well();
        Self { git }
    }

    fn fetch(&self, orlop: &Orlop) -> bool {
        let url = format!("{}/git/index", view_url(orlop));
        self.git
            .at("probe", &["fetch", "-q", &url, "+master:master"])
            .well
    }

    fn show(&self, path: &str) -> Option<String> {
        let shown = self.git.at("probe", &["show", &format!("master:{path}")]);
        shown.well.then_some(shown.stdout)
    }

    fn versions(&self, name: &str) -> Vec<String> {
        versions(&self.show(&index_path(name)).unwrap_or_default())
    }

    /// Waits until the git index has these versions of a name.
    #[track_caller]
    fn until(&self, orlop: &Orlop, name: &str, expected: &[&str]) {
        until("the git index of the view has it", || {
            self.fetch(orlop) && self.versions(name) == expected
        });
    }

    fn names(&self) -> Vec<String> {
        let tree = self
            .git
            .at("probe", &["ls-tree", "-r", "--name-only", "master"])
            .well();
        tree.stdout.lines().map(str::to_owned).collect()
    }

    fn commits(&self) -> usize {
        let count = self
            .git
            .at("probe", &["rev-list", "--count", "master"])
            .well();
        count.stdout.trim().parse().expect("a number")
    }
}

fn git_config(orlop: &Orlop) -> String {
    format!(
        "[source.crates-io]\nreplace-with = \"orlop\"\n\n\
         [registries.orlop]\nindex = \"{}/git/index\"\n",
        view_url(orlop)
    )
}

/// A cargo that resolves, over one way to the index.
struct Client {
    name: &'static str,
    setting: &'static str,
    nightly: Option<&'static str>,
}

const CLIENTS: [Client; 3] = [
    Client {
        name: "libgit2",
        setting: "",
        nightly: None,
    },
    Client {
        name: "the git program",
        setting: "\n[net]\ngit-fetch-with-cli = true\n",
        nightly: None,
    },
    Client {
        name: "gitoxide",
        setting: "",
        nightly: Some("-Zgitoxide=fetch"),
    },
];

impl Client {
    #[track_caller]
    fn run(&self, project: &Project, words: &[&str]) -> Run {
        match self.nightly {
            Some(flag) => project.cargo_nightly(&[&[flag], words].concat()),
            None => project.cargo(words),
        }
    }
}

#[track_caller]
fn chose_what_is_held(project: &Project) {
    let lock = project.read("Cargo.lock");
    assert!(
        lock.contains("name = \"demo\"\nversion = \"1.0.0\""),
        "{lock}"
    );
}

#[test]
fn the_sparse_view_has_the_lines_of_what_is_held_byte_for_byte() {
    let (upstream, orlop) = setting();
    let root = orlop.index("demo").text();
    assert_eq!(versions(&root), ["1.0.0", "1.1.0"], "the root has all");
    let view = view_file(&orlop, "demo");
    assert_eq!(view.status, 200);
    let first = root.split_inclusive('\n').next().expect("a line");
    assert_eq!(view.text(), first);
    let lost = view_file(&orlop, "lost");
    assert_eq!(lost.status, 404);
    assert!(lost.text().contains("no version of `lost`"));
    assert_eq!(view_file(&orlop, "never-heard-of").status, 404);
    assert_eq!(
        upstream.count_path("never-heard-of"),
        0,
        "a view asks nobody"
    );
    // All held: the very bytes of the root, under the same ETag.
    let (view, root) = (view_file(&orlop, "app"), orlop.index("app"));
    assert_eq!(view.body, root.body);
    assert_eq!(view.header("etag"), root.header("etag"));
    let config = orlop.get("/view/held/index/config.json").text();
    let base = view_url(&orlop);
    assert_eq!(
        config,
        format!(r#"{{"dl":"{base}/api/v1/crates","api":"{base}"}}"#)
    );
}

#[test]
fn conditional_compressed_and_head_requests_work_as_at_the_root() {
    let (_upstream, orlop) = setting();
    let path = view_path("demo");
    let plain = orlop.get(&path);
    let etag = plain.header("etag").expect("an ETag").to_owned();
    // Twice: from the store, and ready.
    for _ in 0..2 {
        let packed = orlop.ask(&Ask::get(&path).header("accept-encoding", "gzip"));
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        let text = std::io::read_to_string(GzDecoder::new(packed.body.as_slice()));
        assert_eq!(text.expect("good gzip"), plain.text());
        let known = orlop.ask(&Ask::get(&path).header("if-none-match", &etag));
        assert_eq!((known.status, known.body.len()), (304, 0));
        let head = orlop.ask(&Ask::head(&path));
        assert_eq!((head.status, head.header("etag")), (200, Some(&*etag)));
    }
    let hot = orlop.metric(
        "orlop_cache_results_total",
        &["kind=\"index\"", "result=\"hot\""],
    );
    assert!(hot >= 2.0, "{hot} ready answers");
    let index = orlop.metric("orlop_http_requests_total", &["endpoint=\"index\""]);
    assert!(index >= 7.0, "{index}");
    // A new file is seen at once, by a ready answer too.
    assert!(orlop.download("demo", "1.1.0").is_complete_file());
    let now = orlop.ask(&Ask::get(&path).header("if-none-match", &etag));
    assert_eq!(now.status, 200);
    assert_eq!(versions(&now.text()), ["1.0.0", "1.1.0"]);
}

#[test]
fn a_download_of_the_view_is_served_as_at_the_root_or_refused_without_asking() {
    let (upstream, orlop) = setting();
    let path = |name, version| format!("/view/held{}", download_path(name, version));
    let whole = orlop.get(&path("demo", "1.0.0"));
    let root = orlop.download("demo", "1.0.0");
    assert_eq!((whole.status, &whole.body), (200, &root.body));
    assert_eq!(whole.header("etag"), root.header("etag"));
    let part = Ask::get(&path("demo", "1.0.0")).header("range", "bytes=10-19");
    let part = orlop.ask(&part);
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, &root.body[10..20])
    );
    let head = orlop.ask(&Ask::head(&path("demo", "1.0.0")));
    assert_eq!(head.status, 200);
    let asked = upstream.count(Kind::Crate);
    for (name, version) in [("demo", "1.1.0"), ("demo", "9.9.9"), ("nobody", "1.0.0")] {
        let answer = orlop.get(&path(name, version));
        assert_eq!(answer.status, 404, "{}", answer.text());
        assert!(
            answer.text().contains("is not held by this mirror"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(upstream.count(Kind::Crate), asked);
    assert_eq!(upstream.count_path("nobody"), 0);
}

#[test]
fn cargo_behind_the_sparse_view_chooses_what_is_held() {
    let (upstream, orlop) = setting();
    upstream.down();
    let project = Project::new("app = \"0.1\"").through(&view_url(&orlop));
    project.cargo(&["build"]).well();
    chose_what_is_held(&project);
    let project = Project::new("stuck = \"0.1\"").through(&view_url(&orlop));
    let run = project
        .cargo(&["fetch"])
        .refused_with(&["no matching package named `lost` found"]);
    assert!(!run.stderr.contains("download"), "{}", run.stderr);
    let project = Project::new("demo = \"1.1\"").through(&view_url(&orlop));
    project
        .cargo(&["fetch"])
        .refused_with(&["failed to select a version", "1.0.0"]);
    let project = Project::new("").through(&view_url(&orlop));
    let search = project
        .cargo(&["search", "o", "--registry", "orlop"])
        .well();
    assert!(search.stdout.contains("demo = \"1.0.0\""));
    assert!(!search.stdout.contains("lost"), "{}", search.stdout);
    project
        .cargo(&[
            "owner",
            "--list",
            "demo",
            "--registry",
            "orlop",
            "--token",
            "x",
        ])
        .refused_with(&["403", "mirror"]);
}

#[test]
fn cargo_behind_the_git_view_chooses_what_is_held() {
    let (upstream, orlop) = setting();
    Twin::new().until(&orlop, "app", &["0.1.0"]);
    upstream.down();
    for client in &CLIENTS {
        let config = git_config(&orlop);
        let project = Project::new("app = \"0.1\"").configured(&config);
        if !client.setting.is_empty() {
            project.write(".cargo/config.toml", &format!("{config}{}", client.setting));
        }
        client.run(&project, &["fetch"]).well();
        chose_what_is_held(&project);
        project.write(
            "Cargo.toml",
            "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n\
             [dependencies]\nstuck = \"0.1\"\n\n[workspace]\n",
        );
        fs::remove_file(project.path().join("Cargo.lock")).expect("a lock file");
        let run = client
            .run(&project, &["fetch"])
            .refused_with(&["no matching package named `lost` found"]);
        assert!(
            !run.stderr.contains("ownloading"),
            "{}: {}",
            client.name,
            run.stderr
        );
    }
}

#[test]
fn a_file_that_comes_in_is_listed_in_both_indexes() {
    let (_upstream, orlop) = setting();
    let twin = Twin::new();
    twin.until(&orlop, "demo", &["1.0.0"]);
    let before = twin.commits();
    assert_eq!(
        twin.show("config.json").expect("it is there"),
        orlop.get("/view/held/index/config.json").text()
    );
    assert_eq!(
        twin.show(&index_path("demo")),
        Some(view_file(&orlop, "demo").text())
    );
    assert!(orlop.download("demo", "1.1.0").is_complete_file());
    assert_eq!(listed(&orlop, "demo"), ["1.0.0", "1.1.0"]);
    twin.until(&orlop, "demo", &["1.0.0", "1.1.0"]);
    assert!(orlop.download("lost", "1.0.0").is_complete_file());
    assert_eq!(listed(&orlop, "lost"), ["1.0.0"]);
    twin.until(&orlop, "lost", &["1.0.0"]);
    assert!(twin.commits() > before, "on top of what was there");
    twin.git.at("probe", &["fsck", "--strict", "--full"]).well();
    let message = twin
        .git
        .at("probe", &["log", "-1", "--format=%B", "master"]);
    assert!(
        message.stdout.contains("lost: new, 1 version"),
        "{}",
        message.stdout
    );
    let page = orlop.get("/status.json").text();
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["held"]["held_names"], 4);
    let index = page["held"]["held_index"].as_str().expect("a base");
    assert!(index.ends_with("/view/held/index/"), "{index}");
}

#[test]
fn the_root_index_stays_as_it_is() {
    let upstream = Upstream::start(registry());
    let orlop = filled(&upstream, over(&upstream).config("index.fresh_for", "1h"));
    Twin::new().until(&orlop, "demo", &["1.0.0"]);
    for name in NAMES {
        assert_eq!(orlop.index(name).text(), upstream.index_file(name));
    }
    let data = orlop.data();
    let tree = |repository: &str| {
        let output = Command::new("git")
            .args(["-c", "safe.directory=*", "--git-dir"])
            .arg(data.join(repository))
            .args(["ls-tree", "-r", "--name-only", "HEAD"])
            .output()
            .expect("git can be run");
        String::from_utf8(output.stdout).expect("text")
    };
    until("the root has all names", || {
        tree("git/index").lines().count() == 1 + NAMES.len()
    });
    assert_eq!(tree("git/views/held").lines().count(), 4);
}

#[test]
fn the_view_survives_a_restart_and_an_upstream_that_is_gone() {
    let (upstream, orlop) = setting();
    let twin = Twin::new();
    twin.until(&orlop, "app", &["0.1.0"]);
    let setup = orlop.terminate();
    upstream.down();
    let orlop = setup.config("public_url", "http://mirror.test").start();
    assert_eq!(listed(&orlop, "demo"), ["1.0.0"]);
    until("the new base is committed on top", || {
        twin.fetch(&orlop)
            && twin
                .show("config.json")
                .is_some_and(|config| config.contains("http://mirror.test/view/held/api"))
    });
    assert_eq!(twin.versions("demo"), ["1.0.0"]);
    let commits = twin.commits();
    let orlop = orlop.restart();
    until("it is served", || twin.fetch(&orlop));
    assert_eq!(twin.commits(), commits, "nothing changed");
    let page = orlop.get("/").text();
    assert!(
        page.contains("http://mirror.test/view/held/index/"),
        "{page}"
    );
}

#[track_caller]
fn remove(path: &Path) {
    fs::remove_dir_all(path).expect("it can be removed");
}

#[test]
fn a_repository_that_is_lost_or_damaged_begins_anew() {
    let upstream = Upstream::start(registry());
    let setup = over(&upstream).config("public_url", "http://mirror.test");
    let orlop = filled(&upstream, setup);
    let twin = Twin::new();
    twin.until(&orlop, "stuck", &["0.1.0"]);
    assert!(orlop.download("lost", "1.0.0").is_complete_file());
    twin.until(&orlop, "lost", &["1.0.0"]);
    let names = twin.names();
    let setup = orlop.terminate();
    upstream.down();
    remove(&setup.data().join("git/views"));
    let orlop = setup.start();
    until("it is there again", || twin.fetch(&orlop));
    assert_eq!((twin.commits(), twin.names()), (1, names.clone()));
    let setup = orlop.terminate();
    let packs = setup.data().join("git/views/held/objects/pack");
    for pack in fs::read_dir(packs).expect("readable") {
        fs::write(pack.expect("readable").path(), "rubbish").expect("written");
    }
    let orlop = setup.start();
    until("it is there again", || twin.fetch(&orlop));
    assert_eq!((twin.commits(), twin.names()), (1, names.clone()));
    // And under way.
    remove(&orlop.data().join("git/views/held"));
    upstream.up();
    assert!(orlop.download("demo", "1.1.0").is_complete_file());
    twin.until(&orlop, "demo", &["1.0.0", "1.1.0"]);
    assert_eq!((twin.commits(), twin.names()), (1, names));
}

#[test]
fn a_release_whose_line_names_another_file_now_is_not_listed() {
    let upstream = Upstream::start(registry());
    let orlop = filled(&upstream, over(&upstream).config("index.fresh_for", "0s"));
    let twin = Twin::new();
    twin.until(&orlop, "demo", &["1.0.0"]);
    assert_eq!(listed(&orlop, "demo"), ["1.0.0"]);
    upstream.edit(|registry| registry.put(&Krate::new("demo", "1.0.0").size(1_000)));
    assert_eq!(orlop.index("demo").text(), upstream.index_file("demo"));
    assert!(listed(&orlop, "demo").is_empty());
    twin.until(&orlop, "demo", &[]);
    let refused = orlop.get(&format!("/view/held{}", download_path("demo", "1.0.0")));
    assert_eq!(refused.status, 404, "{}", refused.text());
    assert!(orlop.download("demo", "1.0.0").is_complete_file());
    assert_eq!(listed(&orlop, "demo"), ["1.0.0"]);
}

#[test]
fn a_yank_is_shown_as_last_known() {
    let upstream = Upstream::start(registry());
    let orlop = filled(&upstream, over(&upstream).config("index.fresh_for", "0s"));
    upstream.edit(|registry| registry.yank("demo", "1.0.0"));
    assert!(
        view_file(&orlop, "demo")
            .text()
            .contains("\"yanked\":false")
    );
    assert!(orlop.index("demo").text().contains("\"yanked\":true"));
    assert!(view_file(&orlop, "demo").text().contains("\"yanked\":true"));
}

#[test]
fn a_file_that_is_gone_leaves_the_view() {
    let (_upstream, orlop) = setting();
    let twin = Twin::new();
    twin.until(&orlop, "app", &["0.1.0"]);
    let setup = orlop.terminate();
    let app = setup.data().join("blobs");
    let release = registry().release("app", "0.1.0");
    let file = app
        .join(&release.sha256[..2])
        .join(format!("{}.raw", release.sha256));
    fs::remove_file(file).expect("it is there");
    let orlop = setup.start();
    assert!(listed(&orlop, "app").is_empty());
    twin.until(&orlop, "app", &[]);
    assert_eq!(twin.versions("demo"), ["1.0.0"]);
    assert!(!twin.names().contains(&index_path("app")));
}

#[test]
fn a_view_that_is_not_there_is_refused_by_name() {
    let upstream = Upstream::start(registry());
    let orlop = over(&upstream).start();
    for path in [
        "/view/other/index/config.json",
        "/view/other/index/de/mo/demo",
        "/view/other/api/v1/crates?q=x",
        "/view/other/api/v1/crates/demo/1.0.0/download",
        "/view/other/api/v1/me",
        "/view/other/",
        "/view/other",
    ] {
        let answer = orlop.get(path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        let text = "there is no view `other`; there is `held`";
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    // The root index has one address.
    assert_eq!(orlop.get("/view/all/index/config.json").status, 404);
    let below = orlop.get("/view/held").text();
    assert!(below.contains("/view/held/index/"), "{below}");
    let git = Git::new();
    let refs = |url: String| git.run(&["ls-remote", &url]);
    refs(format!("{}/view/other/git/index", orlop.url()))
        .refused_with(&["there is no view `other`"]);
    let setup = orlop.terminate().config("views.held", "false");
    let orlop = setup.start();
    let answer = orlop.get("/view/held/index/config.json");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("switched off"), "{}", answer.text());
    refs(format!("{}/git/index", view_url(&orlop))).refused_with(&["switched off"]);
}

#[test]
fn a_git_view_without_a_public_url_says_what_to_set() {
    let upstream = Upstream::start(registry());
    let orlop = over(&upstream)
        .config("listen.addresses", "0.0.0.0:0")
        .start();
    let url = orlop.url().replace("0.0.0.0", "127.0.0.1");
    Git::new()
        .run(&["ls-remote", &format!("{url}/view/held/git/index")])
        .refused_with(&["public_url"]);
}

#[test]
fn client_config_leads_to_the_view() {
    let setup = Setup::quick();
    let of = |words: &[&str]| {
        let url = ["client-config", "--url", "http://mirror.lab"];
        setup.run(&[&url, words].concat())
    };
    let sparse = of(&["--view", "held"]);
    let index = "index = \"sparse+http://mirror.lab/view/held/index/\"";
    assert!(sparse.stdout.contains(index), "{sparse:?}");
    let git = of(&["--view", "held", "--git"]);
    let index = "index = \"http://mirror.lab/view/held/git/index\"";
    assert!(git.stdout.contains(index), "{git:?}");
    let unknown = of(&["--view", "other"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("held"), "{unknown:?}");
}
