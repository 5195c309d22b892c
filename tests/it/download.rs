//! Downloads from a sound upstream: bytes, headers, ranges, streaming, and versions that change.

use std::time::Duration;

use crate::support::{
    PATIENCE, all_at_once,
    crates::{Krate, Registry, Release},
    http::{Ask, Connection},
    orlop::{Orlop, Setup, download_path},
    until,
    upstream::{Dl, Fault, Kind, On, Upstream},
};

fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("small", "1.0.0").size(20_000))
        .with(&Krate::new("middle", "1.0.0").size(300_000))
        .with(&Krate::new("large", "1.0.0").size(3_000_000))
        .with(&Krate::new("Mixed_Case", "0.1.0-beta.2+build.7"))
}

#[track_caller]
fn check(orlop: &Orlop, name: &str, version: &str, release: &Release) {
    let answer = orlop.download(name, version);
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    assert!(answer.whole, "{name}");
    assert!(answer.body == *release.bytes, "{name}: other bytes");
}

#[test]
fn a_download_has_the_right_bytes_and_headers_cold_and_warm() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    for name in ["small", "middle", "large"] {
        let release = upstream.registry().release(name, "1.0.0");
        for _ in 0..3 {
            let answer = orlop.download(name, "1.0.0");
            assert!(answer.is_complete_file());
            assert!(answer.body == *release.bytes);
            let length = release.bytes.len().to_string();
            assert_eq!(answer.header("content-length"), Some(length.as_str()));
            let etag = format!("\"{}\"", release.sha256);
            assert_eq!(answer.header("etag"), Some(etag.as_str()));
            assert_eq!(
                answer.header("cache-control"),
                Some("public, max-age=31536000, immutable")
            );
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("content-encoding"), None);
        }
        assert_eq!(upstream.count_path(&download_path(name, "1.0.0")), 1);
    }
    assert_eq!(orlop.blobs().len(), 3);
    assert!((orlop.metric("orlop_store_blobs", &[]) - 3.0).abs() < 0.1);
    until("the spool is empty", || orlop.spool().is_empty());
}

#[test]
fn a_blob_is_named_by_its_sha256() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let release = upstream.registry().release("small", "1.0.0");
    check(&orlop, "small", "1.0.0", &release);
    let sha = &release.sha256;
    assert_eq!(orlop.blobs(), [format!("{}/{sha}.raw", &sha[..2])]);
}

#[test]
fn head_answers_like_get_without_the_body() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let path = download_path("middle", "1.0.0");
    let cold = orlop.ask(&Ask::head(&path));
    assert_eq!((cold.status, cold.body.len()), (200, 0));
    let get = orlop.get(&path);
    let warm = orlop.ask(&Ask::head(&path));
    for name in ["content-length", "etag", "cache-control", "content-type"] {
        assert_eq!(warm.header(name), get.header(name), "{name}");
        assert!(warm.header(name).is_some(), "{name}");
    }
    assert_eq!(
        orlop
            .ask(&Ask::head(&download_path("middle", "9.9.9")))
            .status,
        404
    );
}

#[test]
fn ranges_are_parts_of_the_file() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    for name in ["small", "large"] {
        let release = upstream.registry().release(name, "1.0.0");
        let bytes = &release.bytes;
        let (length, path) = (bytes.len(), download_path(name, "1.0.0"));
        check(&orlop, name, "1.0.0", &release);
        let part = |range: &str| orlop.ask(&Ask::get(&path).header("Range", range));
        for (range, from, to) in [
            ("bytes=0-0", 0, 0),
            ("bytes=0-99", 0, 99),
            ("bytes=1000-1999", 1000, 1999),
            ("bytes=100-", 100, length - 1),
            ("bytes=-100", length - 100, length - 1),
            ("bytes=100-99999999", 100, length - 1),
            ("bytes=-99999999", 0, length - 1),
        ] {
            let answer = part(range);
            assert_eq!(answer.status, 206, "{range}: {}", answer.text());
            assert!(answer.body == bytes[from..=to], "{range}");
            let content_range = format!("bytes {from}-{to}/{length}");
            assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
        }
        for range in ["bytes=99999999-", "bytes=-0"] {
            let answer = part(range);
            assert_eq!(answer.status, 416, "{range}");
            let content_range = format!("bytes */{length}");
            assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
        }
        for range in [
            "bytes=5-2",
            "bytes=a-b",
            "lines=1-2",
            "bytes",
            "bytes=0-1,5-6",
            "",
        ] {
            let answer = part(range);
            assert!([200, 206, 400, 416].contains(&answer.status), "{range}");
            if answer.status == 200 {
                assert!(answer.body == **bytes, "{range}");
            }
        }
        let other = Ask::get(&path)
            .header("Range", "bytes=0-9")
            .header("If-Range", "\"something-else\"");
        assert_eq!(orlop.ask(&other).status, 200, "If-Range of other bytes");
    }
}

#[test]
fn the_etag_answers_conditional_requests() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let release = upstream.registry().release("small", "1.0.0");
    check(&orlop, "small", "1.0.0", &release);
    let path = download_path("small", "1.0.0");
    let etag = format!("\"{}\"", release.sha256);
    let same = orlop.ask(&Ask::get(&path).header("If-None-Match", &etag));
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(same.header("etag"), Some(etag.as_str()));
    let other = orlop.ask(&Ask::get(&path).header("If-None-Match", "\"0\""));
    assert_eq!(other.status, 200);
}

#[test]
fn a_large_crate_streams_while_the_upstream_still_sends() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("upstream.stall_timeout", "30s")
        .config("upstream.deadline", "60s")
        .start();
    let release = upstream.registry().release("large", "1.0.0");
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
    let mut client = Connection::open(orlop.address(), PATIENCE).expect("a connection");
    client
        .send(&Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), true))
        .expect("the request is taken");
    let (status, _) = client.head().expect("a head before the upstream has ended");
    assert_eq!(status, 200);
    // Half of it has come; what is held back of that is far less.
    let begun = client
        .exactly(1_000_000)
        .expect("bytes before the upstream has ended");
    assert!(begun == release.bytes[..1_000_000]);
    upstream.open_gate();
    let rest = client
        .exactly(release.bytes.len() - begun.len())
        .expect("the rest after the gate");
    assert!(rest == release.bytes[begun.len()..]);
}

#[test]
fn those_who_come_late_to_a_fetch_get_the_whole_file() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("upstream.stall_timeout", "30s")
        .config("upstream.deadline", "60s")
        .start();
    let release = upstream.registry().release("large", "1.0.0");
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| orlop.download("large", "1.0.0"));
        until("the fetch is under way", || {
            upstream.count(Kind::Crate) == 1
        });
        let late = scope.spawn(|| orlop.download("large", "1.0.0"));
        std::thread::sleep(Duration::from_millis(200));
        upstream.open_gate();
        for client in [first, late] {
            let answer = client.join().expect("the client does not panic");
            assert!(answer.is_complete_file() && answer.body == *release.bytes);
        }
    });
    assert_eq!(upstream.count(Kind::Crate), 1);
}

#[test]
fn http_1_0_never_sees_an_end_that_is_none() {
    let upstream = Upstream::start(registry());
    upstream.manners(|manners| manners.chunked = true);
    let orlop = Setup::over(&upstream).start();
    let ask = || {
        let mut client = Connection::open(orlop.address(), PATIENCE).expect("a connection");
        let bytes = Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), true);
        let bytes = String::from_utf8(bytes).expect("text");
        let bytes = bytes.replace("HTTP/1.1", "HTTP/1.0");
        client.send(bytes.as_bytes()).expect("the request is taken");
        client.answer(false).expect("an answer")
    };
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Flip);
    let lie = ask();
    assert_eq!(lie.status, 502, "{} bytes", lie.body.len());
    upstream.behave();
    until("the failure is forgotten", || ask().status == 200);
    let release = upstream.registry().release("large", "1.0.0");
    assert!(ask().body == *release.bytes);
}

#[test]
fn a_client_that_hangs_up_does_not_stop_the_download() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("upstream.stall_timeout", "30s")
        .config("upstream.deadline", "60s")
        .start();
    upstream.misbehave_times(1, On::Kind(Kind::Crate), Fault::Gate);
    {
        let mut client = Connection::open(orlop.address(), PATIENCE).expect("a connection");
        client
            .send(&Ask::get(&download_path("large", "1.0.0")).bytes(orlop.address(), true))
            .expect("the request is taken");
        client.exactly(1000).expect("the beginning of the answer");
    }
    upstream.open_gate();
    until("the crate is kept", || orlop.blobs().len() == 1);
    upstream.down();
    let release = upstream.registry().release("large", "1.0.0");
    check(&orlop, "large", "1.0.0", &release);
    assert_eq!(upstream.count(Kind::Crate), 1);
}

#[test]
fn a_slow_client_slows_nobody() {
    let upstream =
        Upstream::start(registry().with(&Krate::new("larger", "1.0.0").size(12_000_000)));
    let orlop = Setup::over(&upstream).start();
    let mut slow: Vec<Connection> = Vec::new();
    for _ in 0..4 {
        let mut client = Connection::open(orlop.address(), PATIENCE).expect("a connection");
        client
            .send(&Ask::get(&download_path("larger", "1.0.0")).bytes(orlop.address(), true))
            .expect("the request is taken");
        client.head().expect("an answer begins");
        slow.push(client);
    }
    let release = upstream.registry().release("larger", "1.0.0");
    check(&orlop, "larger", "1.0.0", &release);
    for mut client in slow {
        let rest = client.exactly(release.bytes.len() - 100);
        assert!(rest.is_ok(), "slow clients get theirs when they want it");
    }
    assert_eq!(upstream.count(Kind::Crate), 1);
}

#[test]
fn a_version_that_the_held_entry_does_not_know_is_looked_up_once() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    assert_eq!(orlop.index("small").status, 200);
    let krate = Krate::new("small", "1.1.0");
    upstream.edit(|registry| registry.put(&krate));
    upstream.forget_seen();
    check(&orlop, "small", "1.1.0", &krate.build());
    assert_eq!(upstream.count(Kind::Index), 1, "{:?}", upstream.seen());
    assert!(orlop.index("small").text().contains("1.1.0"));

    for _ in 0..5 {
        let missing = orlop.download("small", "7.7.7");
        assert_eq!(missing.status, 404);
        assert!(missing.text().contains("small") && missing.text().contains("7.7.7"));
    }
    assert!(upstream.count(Kind::Index) <= 3, "{:?}", upstream.seen());
    assert_eq!(upstream.count(Kind::Crate), 1);
}

#[test]
fn unknown_crates_and_bad_names_are_refused_without_a_download() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let unknown = orlop.download("nobody", "1.0.0");
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("nobody"), "{}", unknown.text());
    let long = "a".repeat(65);
    for (name, version) in [
        ("small", "1.0"),
        ("small", "one"),
        ("small", "1.0.0%00"),
        ("small", "..%2f1.0.0"),
        ("small", "1.0.0%0d%0aX:%20y"),
        ("small", "v1.0.0"),
        ("small", "99999999999999999999.0.0"),
        ("..", "1.0.0"),
        ("%2e%2e%2f%2e%2e", "1.0.0"),
        ("sm%2fall", "1.0.0"),
        ("sm all", "1.0.0"),
        ("gr%C3%BC%C3%9Fe", "1.0.0"),
        (long.as_str(), "1.0.0"),
        ("", ""),
    ] {
        let answer = orlop.get(&download_path(name, version));
        assert!(
            [400, 404].contains(&answer.status),
            "{name} {version}: {}",
            answer.status
        );
    }
    assert_eq!(upstream.count(Kind::Crate), 0, "{:?}", upstream.seen());
    assert!(orlop.blobs().is_empty());
}

#[test]
fn a_crate_that_upstream_does_not_have_is_asked_for_once_in_its_time() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("index.negative_for", "1h")
        .start();
    for version in ["1.0.0", "1.0.0", "2.0.0"] {
        let missing = orlop.download("nobody", version);
        assert_eq!(missing.status, 404);
        assert!(missing.text().contains("nobody"), "{}", missing.text());
    }
    assert_eq!(orlop.index("nobody").status, 404);
    assert_eq!(upstream.count(Kind::Index), 1, "{:?}", upstream.seen());
}

#[test]
fn a_name_in_other_letters_never_gets_other_bytes() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let release = upstream
        .registry()
        .release("Mixed_Case", "0.1.0-beta.2+build.7");
    check(&orlop, "Mixed_Case", "0.1.0-beta.2+build.7", &release);
    check(&orlop, "Mixed_Case", "0.1.0-beta.2%2Bbuild.7", &release);
    for name in ["mixed_case", "MIXED_CASE", "mixed-case"] {
        let answer = orlop.download(name, "0.1.0-beta.2+build.7");
        let right = answer.is_complete_file() && answer.body == *release.bytes;
        assert!(right || answer.status == 404, "{name}: {}", answer.status);
    }
    for seen in upstream.seen() {
        let asked_right = seen.kind != Kind::Crate || seen.path.contains("Mixed_Case");
        assert!(asked_right, "{seen:?}");
    }
}

#[test]
fn every_kind_of_dl_works() {
    for dl in [Dl::Plain, Dl::Template, Dl::Markers] {
        let upstream = Upstream::start(registry());
        upstream.manners(|manners| manners.dl = dl);
        let orlop = Setup::over(&upstream).start();
        let release = upstream.registry().release("small", "1.0.0");
        check(&orlop, "small", "1.0.0", &release);
        let release = upstream
            .registry()
            .release("Mixed_Case", "0.1.0-beta.2+build.7");
        check(&orlop, "Mixed_Case", "0.1.0-beta.2+build.7", &release);
    }
}

#[test]
fn chunked_bodies_and_redirects_of_the_upstream_are_followed() {
    let upstream = Upstream::start(registry());
    upstream.manners(|manners| manners.chunked = true);
    let orlop = Setup::over(&upstream).start();
    let release = upstream.registry().release("large", "1.0.0");
    check(&orlop, "large", "1.0.0", &release);
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Redirect);
    let release = upstream.registry().release("middle", "1.0.0");
    check(&orlop, "middle", "1.0.0", &release);
    assert_eq!(upstream.count_path("/elsewhere/"), 1);
}

#[test]
fn a_dl_at_a_private_address_elsewhere_is_not_asked() {
    let inside = Upstream::start_on("127.0.0.2", registry());
    let upstream = Upstream::start(registry());
    let dl = format!("http://{}/api/v1/crates", inside.address());
    upstream.manners(|manners| manners.dl = Dl::Literal(dl));
    let orlop = Setup::over(&upstream).start();
    let refused = orlop.download("small", "1.0.0");
    assert!([502, 503].contains(&refused.status), "{}", refused.status);
    assert_eq!(inside.seen().len(), 0, "{:?}", inside.seen());

    let release = upstream.registry().release("small", "1.0.0");
    let allowed = Setup::over(&upstream)
        .config("upstream.allow_private", "true")
        .start();
    check(&allowed, "small", "1.0.0", &release);
    assert_eq!(inside.count(Kind::Crate), 1);
}

#[test]
fn a_redirect_to_a_private_address_elsewhere_is_not_followed() {
    let inside = Upstream::start_on("127.0.0.2", registry());
    let upstream = Upstream::start(registry());
    let there = format!("http://{}", inside.address());
    upstream.misbehave(On::Kind(Kind::Crate), Fault::RedirectTo(there));
    let orlop = Setup::over(&upstream).start();
    let refused = orlop.download("small", "1.0.0");
    assert!([502, 503].contains(&refused.status), "{}", refused.status);
    assert_eq!(inside.seen().len(), 0, "{:?}", inside.seen());
}

#[test]
fn other_bytes_for_the_same_version_are_another_blob() {
    let upstream = Upstream::start(registry());
    let setup = Setup::over(&upstream).config("index.fresh_for", "0s");
    let orlop = setup.start();
    let first = upstream.registry().release("small", "1.0.0");
    check(&orlop, "small", "1.0.0", &first);
    upstream.edit(|registry| registry.put(&Krate::new("small", "1.0.0").size(25_000)));
    let second = upstream.registry().release("small", "1.0.0");
    assert_ne!(first.sha256, second.sha256);
    assert!(orlop.index("small").text().contains(&second.sha256));
    check(&orlop, "small", "1.0.0", &second);
    let blobs = orlop.blobs().join(" ");
    assert!(blobs.contains(&first.sha256) && blobs.contains(&second.sha256));
    let orlop = orlop.restart();
    check(&orlop, "small", "1.0.0", &second);
    assert_eq!(orlop.blobs().len(), 2);
}

#[test]
fn other_bytes_under_an_unchanged_index_line_are_refused() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let first = upstream.registry().release("small", "1.0.0");
    assert!(orlop.index("small").text().contains(&first.sha256));
    upstream.edit(|registry| registry.put(&Krate::new("small", "1.0.0").size(25_000)));
    let second = upstream.registry().release("small", "1.0.0");
    let answer = orlop.download("small", "1.0.0");
    // The entry may be looked up again, and then the new bytes are the right ones.
    let new_truth = answer.is_complete_file() && answer.body == *second.bytes;
    assert!(new_truth || answer.status == 502, "{}", answer.status);
    if new_truth {
        assert!(orlop.index("small").text().contains(&second.sha256));
    }
}

#[test]
fn a_restart_keeps_everything() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let releases: Vec<_> = ["small", "middle", "large"]
        .map(|name| (name, upstream.registry().release(name, "1.0.0")))
        .into();
    for (name, release) in &releases {
        check(&orlop, name, "1.0.0", release);
    }
    upstream.down();
    let orlop = orlop.restart();
    for (name, release) in &releases {
        check(&orlop, name, "1.0.0", release);
        assert_eq!(orlop.index(name).text(), upstream.index_file(name));
    }
    let orlop = orlop.kill9().start();
    for (name, release) in &releases {
        check(&orlop, name, "1.0.0", release);
    }
    let missing = orlop.download("Mixed_Case", "0.1.0-beta.2+build.7");
    assert_eq!(missing.status, 503);
    assert!(missing.header("retry-after").is_some());
}

#[test]
fn offline_mode_serves_what_is_held_and_says_what_is_not() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let release = upstream.registry().release("small", "1.0.0");
    check(&orlop, "small", "1.0.0", &release);
    assert_eq!(orlop.index("middle").status, 200);
    let orlop = orlop.terminate().config("mode", "offline").start();
    upstream.forget_seen();
    check(&orlop, "small", "1.0.0", &release);
    for name in ["middle", "large"] {
        let missing = orlop.download(name, "1.0.0");
        assert_eq!(missing.status, 404);
        assert!(missing.text().contains("offline"), "{}", missing.text());
        assert!(missing.text().contains(name), "{}", missing.text());
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn strict_mode_serves_held_crates_when_the_upstream_is_down() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("mode", "strict")
        .config("index.fresh_for", "0s")
        .start();
    let release = upstream.registry().release("small", "1.0.0");
    check(&orlop, "small", "1.0.0", &release);
    upstream.down();
    check(&orlop, "small", "1.0.0", &release);
    assert_eq!(orlop.index("small").status, 503);
}

#[test]
fn many_clients_of_many_crates_all_get_theirs() {
    let mut registry = Registry::new();
    for number in 0..24 {
        registry.put(&Krate::new(&format!("one-of-many-{number}"), "1.0.0").size(150_000));
    }
    let upstream = Upstream::start(registry.clone());
    let orlop = Setup::over(&upstream).start();
    let answers = all_at_once(48, |client| {
        let name = format!("one-of-many-{}", client % 24);
        let answer = orlop.download(&name, "1.0.0");
        answer.is_complete_file() && answer.body == *registry.release(&name, "1.0.0").bytes
    });
    assert!(answers.iter().all(|&well| well));
    assert_eq!(upstream.count(Kind::Crate), 24);
    assert_eq!(upstream.count(Kind::Index), 24);
    assert_eq!(orlop.blobs().len(), 24);
}

#[test]
fn a_version_that_was_published_anew_is_served_anew_though_the_entry_was_fresh() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    assert_eq!(orlop.index("small").status, 200);
    let anew = Krate::new("small", "1.0.0").size(21_000);
    upstream.edit(|registry| registry.put(&anew));
    check(&orlop, "small", "1.0.0", &anew.build());
    assert!(orlop.get("/").text().contains("another checksum"));
}
