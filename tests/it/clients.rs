//! Real cargo through orlop: every command that people use, and the day the upstream is gone.

use std::fs;

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry, knots},
    front::Front,
    orlop::{Orlop, Setup},
    tcp::{Talk, Wire},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

fn registry() -> Registry {
    Registry::new()
        .with(
            &Krate::new("top", "1.0.0")
                .dep("Middle_One", "^0.2")
                .optional_dep("extra", "*")
                .feature("with-extra", &["dep:extra"]),
        )
        .with(&Krate::new("Middle_One", "0.2.5").dep("bottom-one", "~3.1"))
        .with(&Krate::new("bottom-one", "3.1.4").size(400_000))
        .with(&Krate::new("bottom-one", "3.2.0").yanked())
        .with(&Krate::new("extra", "0.0.1"))
}

fn setting() -> (Upstream, Orlop) {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    (upstream, orlop)
}

#[test]
fn cargo_builds_through_the_mirror_and_again_without_an_upstream() {
    let (upstream, orlop) = setting();
    let project = Project::new("top = \"1\"").through(&orlop.url());
    project.cargo(&["build"]).well();
    let lock = project.read("Cargo.lock");
    assert_eq!(upstream.count(Kind::Crate), 3);
    upstream.down();
    project.forget();
    let ran = project.cargo(&["run", "--locked"]).well();
    assert_eq!(ran.stdout.trim(), "built");
    assert_eq!(project.read("Cargo.lock"), lock);

    let orlop = orlop.restart();
    project.forget();
    let project = project.through(&orlop.url());
    fs::remove_file(project.path().join("Cargo.lock")).expect("there is a lock file");
    project.cargo(&["build"]).well();
    assert_eq!(
        project.read("Cargo.lock"),
        lock,
        "resolved anew, to the same"
    );
}

#[test]
fn the_lock_file_is_the_one_that_cargo_writes_without_a_mirror() {
    let (_upstream, orlop) = setting();
    let project = Project::new("top = \"1\"").through(&orlop.url());
    project.cargo(&["generate-lockfile"]).well();
    let lock = project.read("Cargo.lock");
    assert!(!lock.contains(&orlop.address().to_string()), "{lock}");
    // A lock file written through the mirror is good for those who have none.
    assert_eq!(lock.matches("source = \"registry+").count(), 3, "{lock}");
}

#[test]
fn a_bare_source_works_as_well_as_a_named_registry() {
    let (_upstream, orlop) = setting();
    let project = Project::new("top = \"1\"").configured(&format!(
        "[source.crates-io]\nreplace-with = \"mirror\"\n\n\
         [source.mirror]\nregistry = \"sparse+{}/index/\"\n",
        orlop.url()
    ));
    project.cargo(&["fetch"]).well();
}

#[test]
fn the_registry_works_as_an_alternative_one() {
    let (_upstream, orlop) = setting();
    let project =
        Project::new("top = { version = \"1\", registry = \"orlop\" }").configured(&format!(
            "[registries.orlop]\nindex = \"sparse+{}/index/\"\n",
            orlop.url()
        ));
    // The dependencies of a release without `registry` are of the same registry.
    project.cargo(&["build"]).well();
    assert!(
        project
            .read("Cargo.lock")
            .contains(&orlop.address().to_string())
    );
}

#[test]
fn cargo_update_sees_a_new_version() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("index.fresh_for", "0s")
        .start();
    let project = Project::new("top = \"1\"").through(&orlop.url());
    project.cargo(&["generate-lockfile"]).well();
    upstream.edit(|registry| registry.put(&Krate::new("top", "1.0.1")));
    project.cargo(&["update"]).well();
    assert!(project.read("Cargo.lock").contains("1.0.1"));
    upstream.edit(|registry| registry.yank("top", "1.0.1"));
    fs::remove_file(project.path().join("Cargo.lock")).expect("there is a lock file");
    project.cargo(&["update"]).well();
    assert!(!project.read("Cargo.lock").contains("1.0.1"), "yanked");
}

#[test]
fn cargo_add_finds_a_crate_in_either_spelling() {
    let (_upstream, orlop) = setting();
    let project = Project::new("").through(&orlop.url());
    project
        .cargo(&["add", "top", "--features", "with-extra"])
        .well();
    project.cargo(&["add", "bottom_one"]).well();
    let manifest = project.read("Cargo.toml");
    assert!(
        manifest.contains("top = { version = \"1.0.0\""),
        "{manifest}"
    );
    assert!(manifest.contains("bottom-one = \"3.1.4\""), "{manifest}");
    assert!(!manifest.contains("registry ="), "{manifest}");
    project.cargo(&["build"]).well();
    project
        .cargo(&["add", "no-such-crate-anywhere"])
        .refused_with(&["no-such-crate-anywhere"]);
}

#[test]
fn cargo_info_and_search_work_with_the_named_registry() {
    let (_upstream, orlop) = setting();
    let project = Project::new("top = \"1\"").through(&orlop.url());
    let info = project
        .cargo(&["info", "top", "--registry", "orlop"])
        .well();
    assert!(info.stdout.contains("1.0.0"), "{}", info.stdout);
    project.cargo(&["fetch"]).well();
    let search = project
        .cargo(&["search", "bottom", "--registry", "orlop"])
        .well();
    assert!(
        search.stdout.contains("bottom-one = \"3.1.4\""),
        "{}",
        search.stdout
    );
    let none = project
        .cargo(&["search", "zzz-nothing", "--registry", "orlop"])
        .well();
    assert!(!none.stdout.contains(" = "), "{}", none.stdout);
}

#[test]
fn cargo_vendor_writes_every_crate() {
    let (_upstream, orlop) = setting();
    let project = Project::new("top = \"1\"").through(&orlop.url());
    // Without that flag `cargo vendor` does not look at the source replacement.
    project
        .cargo(&["vendor", "--versioned-dirs", "--respect-source-config"])
        .well();
    for folder in ["top-1.0.0", "Middle_One-0.2.5", "bottom-one-3.1.4"] {
        assert!(
            project.path().join("vendor").join(folder).is_dir(),
            "{folder}"
        );
    }
}

#[test]
fn a_fetch_of_many_crates_runs_in_http2_streams_over_a_handful_of_connections() {
    let upstream = Upstream::start(knots(60));
    let orlop = Setup::over(&upstream).start();
    let wire = Wire::to(orlop.address());
    let project = Project::new("knot-000 = \"1\"").through(&format!("http://{}", wire.address()));
    project.cargo(&["fetch"]).well();
    assert_eq!(upstream.count(Kind::Crate), 60);
    assert!(
        wire.connections() <= 5,
        "{} connections",
        wire.connections()
    );
    let talks = wire.talks();
    assert!(talks.iter().any(Talk::was_upgraded));
    for talk in &talks {
        assert_eq!(talk.was_upgraded(), talk.spoke_http2());
    }
    let streams = orlop.metric(
        "orlop_http_requests_total",
        &["endpoint=\"download\"", "protocol=\"h2\""],
    );
    assert!(streams >= 58.0, "{streams} downloads in HTTP/2 streams");
    assert!(orlop.metric("orlop_connections_total", &["h2c_upgrade"]) >= 1.0);

    // Warm, and resolved anew: the same again.
    project.forget();
    let before = wire.connections();
    project.cargo(&["fetch", "--locked"]).well();
    assert!(wire.connections() - before <= 5);
}

#[test]
fn sixty_crates_that_need_one_another_build() {
    let upstream = Upstream::start(knots(60));
    let orlop = Setup::over(&upstream).start();
    let project = Project::new("knot-000 = \"1\"").through(&orlop.url());
    project.cargo(&["check"]).well();
    upstream.down();
    project.forget();
    project.cargo(&["fetch", "--locked"]).well();
}

#[test]
fn publish_yank_and_owner_get_a_readable_refusal() {
    let (_upstream, orlop) = setting();
    let project = Project::new("").through(&orlop.url());
    project.write(
        "Cargo.toml",
        "[package]\nname = \"mine\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         description = \"x\"\nlicense = \"MIT\"\n\n[workspace]\n",
    );
    for words in [
        &["publish", "--allow-dirty", "--no-verify"][..],
        &["yank", "top", "--version", "1.0.0"],
        &["yank", "top", "--version", "1.0.0", "--undo"],
        &["owner", "--add", "somebody", "top"],
        &["owner", "--remove", "somebody", "top"],
        &["owner", "--list", "top"],
    ] {
        let mut words = words.to_vec();
        words.extend(["--registry", "orlop", "--token", "none"]);
        project.cargo(&words).refused_with(&["403", "mirror"]);
    }
}

#[test]
fn the_mirror_works_below_a_sub_path_behind_a_trusted_proxy() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("listen.trusted_proxies", "127.0.0.1/32")
        .start();
    let front = Front::below("/tools/rust");
    front.leads_to(orlop.address());
    let project = Project::new("top = \"1\"").through(&front.url());
    project.cargo(&["build"]).well();
    let config = orlop.get("/index/config.json").text();
    assert!(!config.contains("tools"), "{config}");
}

#[test]
fn public_url_serves_a_sub_path_behind_any_proxy() {
    let upstream = Upstream::start(registry());
    let front = Front::below("/mirror");
    let orlop = Setup::over(&upstream)
        .config("public_url", &front.url())
        .start();
    front.leads_to(orlop.address());
    let project = Project::new("top = \"1\"").through(&front.url());
    project.cargo(&["fetch"]).well();
}

#[test]
fn an_orlop_can_be_the_upstream_of_another() {
    let upstream = Upstream::start(registry());
    let first = Setup::over(&upstream).start();
    let second = Setup::over_url(&format!("sparse+{}/index/", first.url())).start();
    let project = Project::new("top = \"1\"").through(&second.url());
    project.cargo(&["build"]).well();
    let file = second.index("top");
    assert_eq!(file.text(), upstream.index_file("top"));
    assert_eq!(upstream.count(Kind::Crate), 3);
    drop(first);
    upstream.down();
    project.forget();
    project.cargo(&["build", "--locked"]).well();
}

#[test]
fn cargo_shows_why_a_download_failed() {
    let (upstream, orlop) = setting();
    let project = Project::new("bottom-one = \"3.1\"").through(&orlop.url());
    project.cargo(&["generate-lockfile"]).well();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Status(500));
    project
        .cargo(&["fetch"])
        .refused_with(&["bottom-one", "503"]);
    upstream.behave();
    until("cargo gets it when the upstream is sound", || {
        orlop.download("bottom-one", "3.1.4").is_complete_file()
    });
    project.cargo(&["fetch"]).well();
}

#[test]
fn cargo_never_takes_a_lie_for_a_crate() {
    for fault in [Fault::Flip, Fault::Short, Fault::Html] {
        let (upstream, orlop) = setting();
        let project = Project::new("top = \"1\"").through(&orlop.url());
        project.cargo(&["generate-lockfile"]).well();
        upstream.misbehave(On::Kind(Kind::Crate), fault);
        let run = project.cargo(&["fetch"]).refused_with(&[]);
        assert!(
            !run.stderr.contains("failed to verify the checksum"),
            "the lie came as far as cargo:\n{}",
            run.stderr
        );
        assert!(orlop.blobs().is_empty());
    }
}

#[test]
fn an_unknown_crate_is_no_matching_package() {
    let (_upstream, orlop) = setting();
    let project = Project::new("no-such-crate = \"1\"").through(&orlop.url());
    project
        .cargo(&["fetch"])
        .refused_with(&["no matching package", "no-such-crate"]);
}
