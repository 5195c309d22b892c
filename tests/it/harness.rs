//! The harness tested against itself: what a fault claims to be, it is, without any orlop between.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry, knots},
    http::{Answer, Ask},
    orlop::download_path,
    sha256,
    tcp::Wire,
    until,
    upstream::{Dl, Fault, Kind, On, Upstream},
};

fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("small", "1.0.0").dep("Large_One", "^2"))
        .with(
            &Krate::new("Large_One", "2.1.0+build.5")
                .size(300_000)
                .feature("more", &[]),
        )
}

fn get(upstream: &Upstream, path: &str) -> Answer {
    Ask::get(path)
        .send(upstream.address())
        .expect("the fake upstream answers")
}

fn get_small(upstream: &Upstream) -> Answer {
    get(upstream, &download_path("small", "1.0.0"))
}

#[test]
fn real_cargo_builds_from_the_fake_upstream_whatever_its_dl_is() {
    for dl in [Dl::Plain, Dl::Template, Dl::Markers] {
        let upstream = Upstream::start(registry());
        upstream.manners(|manners| manners.dl = dl);
        let project =
            Project::new("small = \"1\"").through(&format!("http://{}", upstream.address()));
        project.cargo(&["build"]).well();
        assert_eq!(upstream.count(Kind::Crate), 2);
        assert!(project.read("Cargo.lock").contains("2.1.0+build.5"));
    }
}

#[test]
fn the_web_of_knots_resolves_in_full() {
    let upstream = Upstream::start(knots(60));
    let wire = Wire::to(upstream.address());
    let project = Project::new("knot-000 = \"1\"").through(&format!("http://{}", wire.address()));
    project.cargo(&["fetch"]).well();
    assert_eq!(upstream.count(Kind::Crate), 60);
    assert!(wire.connections() >= 1);
    assert!(wire.talks().iter().all(|talk| !talk.was_upgraded()));
    let offer = wire
        .talks()
        .iter()
        .any(|talk| String::from_utf8_lossy(&talk.sent).contains("h2c"));
    assert!(offer, "cargo offers the upgrade on plain http");
}

#[test]
fn an_upstream_that_is_down_refuses_and_comes_back_on_its_port() {
    let upstream = Upstream::start(registry());
    for _ in 0..5 {
        upstream.down();
        assert!(TcpStream::connect(upstream.address()).is_err());
        upstream.up();
        assert_eq!(get_small(&upstream).status, 200);
    }
}

#[test]
fn every_fault_is_what_it_says() {
    let upstream = Upstream::start(registry());
    let right = upstream.registry().release("small", "1.0.0");
    let half = right.bytes.len() / 2;
    let spoilt = |fault: Fault| {
        upstream.behave();
        upstream.misbehave_times(1, On::Kind(Kind::Crate), fault);
        get_small(&upstream)
    };

    let cut = spoilt(Fault::Cut);
    assert!(!cut.whole && cut.status == 200 && cut.body.len() == half);
    let cut = spoilt(Fault::CutChunked);
    assert!(!cut.whole && cut.body.len() == half);
    let short = spoilt(Fault::Short);
    assert!(short.whole && short.body.len() == half);
    let long = spoilt(Fault::Long);
    assert!(long.whole && long.body.starts_with(&right.bytes) && long.body.len() > half * 2);
    let flipped = spoilt(Fault::Flip);
    assert!(flipped.whole && flipped.body.len() == right.bytes.len());
    assert_ne!(sha256(&flipped.body), right.sha256);
    assert_eq!(
        spoilt(Fault::Html).header("content-type"),
        Some("text/html")
    );
    assert_eq!(spoilt(Fault::Status(503)).status, 503);
    assert_eq!(
        spoilt(Fault::RetryAfter(429, 7)).header("retry-after"),
        Some("7")
    );
    let redirect = spoilt(Fault::Redirect);
    let elsewhere = redirect
        .header("location")
        .expect("a redirect says where")
        .to_owned();
    assert_eq!(sha256(&get(&upstream, &elsewhere).body), right.sha256);
    let drip = spoilt(Fault::Drip(half / 2, Duration::from_millis(1)));
    assert_eq!(sha256(&drip.body), right.sha256);
    upstream.misbehave_times(1, On::All, Fault::HangUp);
    let nothing = Ask::get("/index/config.json").send(upstream.address());
    assert!(nothing.is_err());

    assert_eq!(
        sha256(&get_small(&upstream).body),
        right.sha256,
        "sound again"
    );
}

#[test]
fn stalls_and_gates_hold_until_the_test_ends_them() {
    let upstream = Upstream::start(registry());
    upstream.misbehave_times(1, On::Kind(Kind::Crate), Fault::StallInBody);
    upstream.misbehave_times(1, On::Kind(Kind::Index), Fault::StallBeforeHead);
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| get_small(&upstream));
        let silent = scope.spawn(|| Ask::get("/index/sm/al/small").send(upstream.address()));
        until("both are stalled", || upstream.stalled() == 2);
        assert!(!stalled.is_finished() && !silent.is_finished());
        upstream.behave();
        assert!(!stalled.join().expect("the client does not panic").whole);
        assert!(silent.join().expect("the client does not panic").is_err());
    });
    upstream.misbehave_times(1, On::Kind(Kind::Crate), Fault::Gate);
    std::thread::scope(|scope| {
        let asked = upstream.count(Kind::Crate);
        let waits = scope.spawn(|| get_small(&upstream));
        until("it has asked", || upstream.count(Kind::Crate) > asked);
        assert!(!waits.is_finished());
        upstream.open_gate();
        assert!(waits.join().expect("the client does not panic").whole);
    });
    assert_eq!(upstream.most_at_once("small/1.0.0"), 1);
}

#[test]
fn conditional_requests_work_as_the_manners_say() {
    let upstream = Upstream::start(registry());
    let path = "/index/sm/al/small";
    let first = get(&upstream, path);
    let etag = first.header("etag").expect("an etag").to_owned();
    let date = first.header("last-modified").expect("a date").to_owned();
    let ask = |name: &str, value: &str| {
        Ask::get(path)
            .header(name, value)
            .send(upstream.address())
            .expect("the fake upstream answers")
            .status
    };
    assert_eq!(ask("If-None-Match", &etag), 304);
    assert_eq!(ask("If-Modified-Since", &date), 304);
    upstream.edit(|registry| registry.yank("small", "1.0.0"));
    assert_eq!(ask("If-None-Match", &etag), 200);
    assert_eq!(ask("If-Modified-Since", &date), 200);
    upstream.manners(|manners| manners.not_modified = false);
    let etag = get(&upstream, path)
        .header("etag")
        .expect("an etag")
        .to_owned();
    assert_eq!(ask("If-None-Match", &etag), 200);
    upstream.manners(|manners| {
        manners.spaced = true;
        manners.chunked = true;
    });
    let spaced = get(&upstream, path);
    assert!(spaced.whole && spaced.text().contains(r#""yanked": true"#));
}

#[test]
fn an_early_end_is_seen_at_once() {
    let upstream = Upstream::start(registry());
    upstream.misbehave(On::All, Fault::Cut);
    let start = Instant::now();
    assert!(!get_small(&upstream).whole);
    assert!(start.elapsed() < Duration::from_secs(20));
}
