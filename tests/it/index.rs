//! The sparse index: the upstream's bytes, conditional requests, staleness, modes, names and Host.

use std::time::{Duration, Instant};

use crate::support::{
    all_at_once,
    crates::{Krate, Registry, index_path},
    four_at_a_time,
    http::Ask,
    orlop::{Orlop, Setup},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("foobar", "1.0.0"))
        .with(&Krate::new("foobar", "1.1.0").dep("other", "^0.3"))
        .with(&Krate::new("other", "0.3.1"))
        .with(&Krate::new("Under_Score", "0.1.0"))
        .with(&Krate::new("abc", "0.1.0"))
        .with(&Krate::new("ab", "0.1.0"))
        .with(&Krate::new("a", "0.1.0"))
}

/// Every request of a client asks the upstream again.
fn always_stale(upstream: &Upstream) -> Setup {
    Setup::over(upstream).config("index.fresh_for", "0s")
}

#[track_caller]
fn check_bytes(orlop: &Orlop, upstream: &Upstream, name: &str) {
    let answer = orlop.index(name);
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    assert_eq!(answer.text(), upstream.index_file(name), "{name}");
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
}

#[test]
fn index_files_are_served_byte_for_byte() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    for name in ["foobar", "other", "under_score", "abc", "ab", "a"] {
        check_bytes(&orlop, &upstream, name);
    }
    let odd = Upstream::start(registry());
    odd.manners(|manners| {
        manners.spaced = true;
        manners.gzip = true;
        manners.chunked = true;
    });
    let orlop = Setup::over(&odd).start();
    for name in ["foobar", "under_score", "a"] {
        check_bytes(&orlop, &odd, name);
    }
}

#[test]
fn an_entry_has_an_etag_that_answers_conditional_requests() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let path = format!("/index/{}", index_path("foobar"));
    let etag = orlop.get(&path).header("etag").expect("an etag").to_owned();
    upstream.forget_seen();
    let ask = |value: &str| orlop.ask(&Ask::get(&path).header("If-None-Match", value));
    for same in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"else\", {etag}"),
        "*".to_owned(),
    ] {
        let answer = ask(&same);
        assert_eq!(answer.status, 304, "{same}");
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    }
    for other in ["\"else\"", "", "garbage"] {
        assert_eq!(ask(other).status, 200, "{other:?}");
    }
    assert_eq!(upstream.seen().len(), 0, "fresh entries ask nobody");

    let head = orlop.ask(&Ask::head(&path));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("etag"), Some(etag.as_str()));
    assert_eq!(
        head.header("content-length"),
        Some(upstream.index_file("foobar").len().to_string().as_str())
    );
}

#[test]
fn the_etag_comes_from_the_content_alone() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let before = orlop.index("foobar").header("etag").map(str::to_owned);
    let orlop = orlop.restart();
    let after = orlop.index("foobar").header("etag").map(str::to_owned);
    assert!(before.is_some());
    assert_eq!(before, after);
    let elsewhere = Setup::over(&upstream).start();
    let there = elsewhere.index("foobar").header("etag").map(str::to_owned);
    assert_eq!(before, there, "another machine makes the same one");
}

#[test]
fn the_gzip_form_is_the_same_text_below_another_etag() {
    use std::io::Read as _;

    let upstream = Upstream::start(registry());
    for version in 2..200 {
        let krate = Krate::new("foobar", &format!("1.{version}.0"));
        upstream.edit(|registry| registry.put(&krate));
    }
    let orlop = Setup::over(&upstream).start();
    let path = format!("/index/{}", index_path("foobar"));
    let plain = orlop.get(&path);
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    let ask = Ask::get(&path).header("Accept-Encoding", "deflate, gzip");
    let gzip = orlop.ask(&ask);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    assert_eq!(gzip.header("vary"), Some("Accept-Encoding"));
    assert!(gzip.body.len() < plain.body.len() / 2);
    let mut text = String::new();
    flate2::read::GzDecoder::new(gzip.body.as_slice())
        .read_to_string(&mut text)
        .expect("the body is gzip");
    assert_eq!(text, upstream.index_file("foobar"));
    let etag = gzip.header("etag").expect("an etag");
    assert_ne!(Some(etag), plain.header("etag"));
    let again = orlop.ask(&ask.clone().header("If-None-Match", etag));
    assert_eq!(again.status, 304);
    assert_eq!(again.header("etag"), Some(etag));
    let refused = Ask::get(&path).header("Accept-Encoding", "gzip;q=0, identity");
    assert_eq!(orlop.ask(&refused).header("content-encoding"), None);
}

#[test]
fn a_fresh_entry_asks_nobody_and_a_stale_one_asks_once_with_its_etag() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    for _ in 0..5 {
        check_bytes(&orlop, &upstream, "foobar");
    }
    assert_eq!(upstream.count(Kind::Index), 1);

    let upstream = Upstream::start(registry());
    let orlop = always_stale(&upstream).start();
    check_bytes(&orlop, &upstream, "foobar");
    upstream.forget_seen();
    check_bytes(&orlop, &upstream, "foobar");
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(
        seen[0]
            .header("if-none-match")
            .is_some_and(|etag| etag.starts_with("\"up-"))
    );
    assert!(orlop.metric("orlop_cache_results_total", &["revalidated"]) >= 1.0);
    assert!(orlop.metric("orlop_upstream_requests_total", &["not_modified"]) >= 1.0);
}

#[test]
fn an_upstream_without_validators_is_compared_by_content() {
    for (etag, last_modified, not_modified) in [
        (false, true, true),
        (false, false, true),
        (true, true, false),
    ] {
        let upstream = Upstream::start(registry());
        upstream.manners(|manners| {
            manners.etag = etag;
            manners.last_modified = last_modified;
            manners.not_modified = not_modified;
        });
        let orlop = always_stale(&upstream).start();
        let first = orlop.index("foobar");
        upstream.forget_seen();
        let second = orlop.index("foobar");
        assert_eq!(first.header("etag"), second.header("etag"));
        assert_eq!(second.text(), upstream.index_file("foobar"));
        assert_eq!(second.header("x-orlop-stale"), None);
        let seen = upstream.seen();
        assert_eq!(seen.len(), 1);
        let asked_by_date = seen[0].header("if-modified-since").is_some();
        assert_eq!(asked_by_date, last_modified && !etag, "{:?}", seen[0]);
    }
}

#[test]
fn a_change_upstream_arrives_when_the_entry_is_stale() {
    let upstream = Upstream::start(registry());
    let orlop = always_stale(&upstream).start();
    check_bytes(&orlop, &upstream, "foobar");
    let before = orlop.index("foobar").header("etag").map(str::to_owned);
    upstream.edit(|registry| registry.yank("foobar", "1.0.0"));
    check_bytes(&orlop, &upstream, "foobar");
    upstream.edit(|registry| registry.put(&Krate::new("foobar", "2.0.0")));
    check_bytes(&orlop, &upstream, "foobar");
    assert_ne!(
        before,
        orlop.index("foobar").header("etag").map(str::to_owned)
    );
}

#[test]
fn all_who_wait_for_one_entry_share_one_upstream_request() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    upstream.misbehave(
        On::Kind(Kind::Index),
        Fault::Slow(Duration::from_millis(500)),
    );
    let answers = all_at_once(20, |_| orlop.index("foobar"));
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(upstream.count(Kind::Index), 1);
}

#[test]
fn a_stale_entry_is_served_with_its_age_whatever_is_wrong_upstream() {
    let faults = [
        Fault::Status(500),
        Fault::Status(503),
        Fault::RetryAfter(429, 1),
        Fault::Status(403),
        Fault::Html,
        Fault::Short,
        Fault::Cut,
        Fault::CutChunked,
        Fault::Gibberish,
        Fault::HangUp,
        Fault::RedirectLoop,
        Fault::StallBeforeHead,
        Fault::StallInBody,
    ];
    four_at_a_time(&faults, |fault| {
        let upstream = Upstream::start(registry());
        let orlop = always_stale(&upstream).facing(fault).start();
        check_bytes(&orlop, &upstream, "foobar");
        upstream.edit(|registry| registry.put(&Krate::new("other", "0.3.2")));
        let held = upstream.index_file("foobar");
        // What the upstream lies about must be a new text, or a 304 would hide the fault.
        upstream.edit(|registry| registry.put(&Krate::new("foobar", "2.0.0")));
        upstream.misbehave(On::Kind(Kind::Index), fault.clone());
        let stale = orlop.index("foobar");
        assert_eq!(stale.status, 200, "{fault:?}: {}", stale.text());
        assert_eq!(stale.text(), held, "{fault:?}");
        let age = stale
            .header("x-orlop-stale")
            .and_then(|age| age.parse::<u64>().ok());
        assert!(age.is_some_and(|age| age < 60), "{fault:?}: {age:?}");
        assert!(orlop.metric("orlop_cache_results_total", &["\"stale\"", "\"index\""]) >= 1.0);

        upstream.behave();
        until("the sound upstream is asked again", || {
            orlop.index("foobar").header("x-orlop-stale").is_none()
        });
        check_bytes(&orlop, &upstream, "foobar");
    });
}

#[test]
fn a_stale_entry_is_served_when_the_upstream_is_down_and_after_a_restart() {
    let upstream = Upstream::start(registry());
    let orlop = always_stale(&upstream).start();
    check_bytes(&orlop, &upstream, "foobar");
    upstream.down();
    for _ in 0..2 {
        let stale = orlop.index("foobar");
        assert_eq!(stale.text(), upstream.index_file("foobar"));
        assert!(stale.header("x-orlop-stale").is_some());
    }
    let orlop = orlop.restart();
    let stale = orlop.index("foobar");
    assert_eq!(stale.text(), upstream.index_file("foobar"));
    assert!(stale.header("x-orlop-stale").is_some());
    let etag = stale.header("etag").expect("an etag");
    let path = format!("/index/{}", index_path("foobar"));
    let unchanged = orlop.ask(&Ask::get(&path).header("If-None-Match", etag));
    assert_eq!(unchanged.status, 304, "stale entries are still validated");
}

#[test]
fn strict_mode_does_not_serve_stale_entries() {
    let upstream = Upstream::start(registry());
    let setup = always_stale(&upstream).config("mode", "strict");
    let orlop = setup.start();
    check_bytes(&orlop, &upstream, "foobar");
    upstream.down();
    let refused = orlop.index("foobar");
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert!(refused.text().contains("foobar"), "{}", refused.text());
    upstream.up();
    until("strict mode goes on with the upstream", || {
        orlop.index("foobar").status == 200
    });

    let fresh = Setup::over(&upstream).config("mode", "strict").start();
    check_bytes(&fresh, &upstream, "foobar");
    upstream.down();
    check_bytes(&fresh, &upstream, "foobar");
}

#[test]
fn offline_mode_never_asks_upstream() {
    let upstream = Upstream::start(registry());
    let setup = {
        let orlop = always_stale(&upstream).start();
        check_bytes(&orlop, &upstream, "foobar");
        orlop.terminate()
    };
    upstream.forget_seen();
    let orlop = setup.config("mode", "offline").start();
    check_bytes(&orlop, &upstream, "foobar");
    assert_eq!(orlop.get("/index/config.json").status, 200);
    let unknown = orlop.index("other");
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("offline"), "{}", unknown.text());
    assert_eq!(upstream.seen().len(), 0, "{:?}", upstream.seen());
}

#[test]
fn a_name_that_upstream_does_not_have_is_remembered_for_its_own_time() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("index.negative_for", "1h")
        .start();
    for _ in 0..5 {
        let missing = orlop.index("no-such-crate");
        assert_eq!(missing.status, 404);
        assert!(missing.text().contains("no-such-crate"));
    }
    assert_eq!(upstream.count_path("no-such-crate"), 1);
    assert!(orlop.metric("orlop_cache_results_total", &["negative"]) >= 1.0);

    let orlop = Setup::over(&upstream)
        .config("index.negative_for", "1s")
        .start();
    assert_eq!(orlop.index("new-crate").status, 404);
    upstream.edit(|registry| registry.put(&Krate::new("new-crate", "1.0.0")));
    until("the new crate appears", || {
        orlop.index("new-crate").status == 200
    });
}

#[test]
fn upstream_trouble_with_nothing_held_is_503_and_never_404() {
    let faults = [
        Fault::Status(500),
        Fault::RetryAfter(503, 3),
        Fault::RetryAfter(429, 3),
        Fault::Status(403),
        Fault::Html,
        Fault::Short,
        Fault::Cut,
        Fault::Gibberish,
        Fault::HangUp,
        Fault::RedirectLoop,
        Fault::StallBeforeHead,
        Fault::StallInBody,
    ];
    four_at_a_time(&faults, |fault| {
        let upstream = Upstream::start(registry());
        let orlop = Setup::over(&upstream).facing(fault).start();
        upstream.misbehave(On::Kind(Kind::Index), fault.clone());
        let trouble = orlop.index("foobar");
        assert_eq!(trouble.status, 503, "{fault:?}: {}", trouble.text());
        assert!(trouble.header("retry-after").is_some(), "{fault:?}");
        assert!(trouble.text().contains("foobar"), "{}", trouble.text());
        upstream.behave();
        until("the entry comes when the upstream is sound", || {
            orlop.index("foobar").status == 200
        });
        check_bytes(&orlop, &upstream, "foobar");
    });
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    upstream.down();
    assert_eq!(orlop.index("foobar").status, 503);
    assert_eq!(orlop.index("never-heard-of").status, 503);
}

#[test]
fn a_dead_upstream_costs_one_time_out_and_not_one_per_entry() {
    const ENTRIES: usize = 100;
    let mut registry = Registry::new();
    for number in 0..ENTRIES {
        registry.put(&Krate::new(&format!("entry-{number:03}"), "1.0.0"));
    }
    let upstream = Upstream::start(registry);
    let orlop = always_stale(&upstream)
        .impatient()
        .config("upstream.breaker_pause", "60s")
        .start();
    let entry = |number: usize| orlop.index(&format!("entry-{number:03}"));
    for number in 0..ENTRIES {
        assert_eq!(entry(number).status, 200);
    }
    upstream.misbehave(On::All, Fault::StallBeforeHead);
    let start = Instant::now();
    for number in 0..ENTRIES {
        let stale = entry(number);
        assert_eq!(stale.status, 200, "{}", stale.text());
        assert!(stale.header("x-orlop-stale").is_some());
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(orlop.metric("orlop_upstream_breaker_open", &[]) >= 1.0);
    assert!(orlop.metric("orlop_upstream_requests_total", &["breaker"]) >= 1.0);
}

#[test]
fn a_dead_upstream_does_not_fill_the_log() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("upstream.breaker_pause", "1h")
        .start();
    upstream.down();
    for number in 0..40 {
        assert_eq!(orlop.index(&format!("crate-{number}")).status, 503);
    }
    let lines = orlop.stderr().lines().count();
    assert!(lines < 15, "{}", orlop.stderr());
}

#[test]
fn the_breaker_closes_when_the_upstream_is_back() {
    let upstream = Upstream::start(registry());
    let orlop = always_stale(&upstream).start();
    check_bytes(&orlop, &upstream, "foobar");
    upstream.down();
    for _ in 0..10 {
        assert!(orlop.index("foobar").header("x-orlop-stale").is_some());
    }
    upstream.up();
    until("the breaker lets requests through again", || {
        orlop.index("foobar").header("x-orlop-stale").is_none()
    });
    assert!(orlop.metric("orlop_upstream_breaker_open", &[]).abs() < 0.5);
}

#[test]
fn a_held_name_that_upstream_no_longer_has_is_kept() {
    let upstream = Upstream::start(registry());
    let orlop = always_stale(&upstream).start();
    let held = orlop.index("other");
    let release = upstream.registry().release("other", "0.3.1");
    assert_eq!(orlop.download("other", "0.3.1").body, *release.bytes);
    upstream.edit(|registry| registry.remove("other"));
    for _ in 0..2 {
        let kept = orlop.index("other");
        assert_eq!((kept.status, kept.body), (200, held.body.clone()));
    }
    assert_eq!(orlop.download("other", "0.3.1").body, *release.bytes);
    let orlop = orlop.restart();
    assert_eq!(orlop.index("other").body, held.body);
}

#[test]
fn a_name_that_comes_back_upstream_is_told_as_back() {
    let upstream = Upstream::start(registry());
    let orlop = always_stale(&upstream).start();
    let registry = upstream.registry();
    let held = orlop.index("other");
    upstream.edit(|registry| registry.remove("other"));
    assert_eq!(orlop.index("other").status, 200);
    upstream.edit(|now| *now = registry);
    assert_eq!(orlop.index("other").body, held.body);
    let page = orlop.get("/").text();
    assert!(page.contains("in upstream&#39;s index again"), "{page}");
}

#[test]
fn a_wrong_path_names_the_right_one_and_asks_nobody() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    for (wrong, right) in [
        ("/index/fo/o/foobar", "fo/ob/foobar"),
        ("/index/foobar", "fo/ob/foobar"),
        ("/index/3/f/foobar", "fo/ob/foobar"),
        ("/index/Fo/Ob/FooBar", "fo/ob/foobar"),
        ("/index/fo/ob/FooBar", "fo/ob/foobar"),
        ("/index/Un/de/Under_Score", "un/de/under_score"),
        ("/index/2/abc", "3/a/abc"),
        ("/index/1/ab", "2/ab"),
    ] {
        let answer = orlop.get(wrong);
        assert_eq!(answer.status, 404, "{wrong}");
        assert!(answer.text().contains(right), "{wrong}: {}", answer.text());
    }
    assert_eq!(upstream.count(Kind::Index), 0, "{:?}", upstream.seen());
}

#[test]
fn bad_names_are_refused_before_anything_is_asked_or_kept() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    let long = "a".repeat(65);
    let huge = "a".repeat(3000);
    let names = [
        "fo/ob/foo.bar",
        "fo/ob/foo%20bar",
        "fo/ob/foo%00bar",
        "fo/ob/foo%2fbar",
        "fo/ob/foo%5cbar",
        "fo/ob/foo+bar",
        "fo/ob/foo%0d%0abar",
        "fo/ob/foo%25bar",
        "../config.json",
        "%2e%2e/%2e%2e/etc/passwd",
        "fo/../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "2/..",
        "gr/%C3%BC/gr%C3%BC%C3%9Fe",
        "fo/ob/%F0%9F%A6%80foobar",
        "fo/ob/foobar/extra",
        "fo/ob/",
        "",
        &format!("aa/aa/{long}"),
        &format!("aa/aa/{huge}"),
    ];
    for name in names {
        let answer = orlop.get(&format!("/index/{name}"));
        assert!(
            [400, 404, 414].contains(&answer.status),
            "{name:?}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(!answer.text().contains("root:"), "{name:?}");
    }
    assert_eq!(upstream.count(Kind::Index), 0, "{:?}", upstream.seen());
    assert_eq!(upstream.count(Kind::Other), 0, "{:?}", upstream.seen());
    check_bytes(&orlop, &upstream, "foobar");
}

#[test]
fn names_with_the_other_separator_are_other_names() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    check_bytes(&orlop, &upstream, "under_score");
    assert_eq!(orlop.index("under-score").status, 404);
    assert_eq!(orlop.index("underscore").status, 404);
}

/// What config.json says for a request with these headers, as base URL.
#[track_caller]
fn base_for(orlop: &Orlop, headers: &[(&str, &str)]) -> String {
    let ask = headers
        .iter()
        .fold(Ask::get("/index/config.json"), |ask, (name, value)| {
            ask.header(name, value)
        });
    let answer = orlop.ask(&ask);
    assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
    let config: serde_json::Value =
        serde_json::from_slice(&answer.body).expect("config.json is JSON");
    let api = config["api"].as_str().expect("api is text").to_owned();
    assert_eq!(config["dl"], format!("{api}/api/v1/crates"));
    assert!(!api.ends_with('/'));
    api
}

#[test]
fn config_json_follows_the_host_of_the_request() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    assert_eq!(base_for(&orlop, &[]), orlop.url());
    for host in [
        "mirror.lab:1234",
        "mirror.lab",
        "[::1]:8080",
        "[2001:db8::7]",
        "10.1.2.3:80",
    ] {
        let expected = format!("http://{host}");
        let base = base_for(&orlop, &[("Host", host)]);
        assert!(
            base == expected || format!("{base}:80") == expected,
            "{host}: {base}"
        );
    }
    let head = orlop.ask(&Ask::head("/index/config.json"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(upstream.seen().len(), 0, "it asks nobody");
}

#[test]
fn a_host_that_is_none_is_refused() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream).start();
    for host in [
        "evil\"host",
        "a b",
        "host/path",
        "user@host",
        "host:notaport",
        "host:99999999",
        "<script>",
        "a,b",
        "[::1",
        "h\\ost",
        "host?x",
        "host#x",
        "%41",
        "",
    ] {
        let answer = orlop.ask(&Ask::get("/index/config.json").header("Host", host));
        assert_eq!(answer.status, 400, "{host:?}: {}", answer.text());
        assert!(host.len() < 3 || !answer.text().contains("<script>"));
    }
    let twice = Ask::get("/index/config.json")
        .header("Host", "one")
        .header("Host", "two");
    assert_eq!(orlop.ask(&twice).status, 400);
}

#[test]
fn public_url_wins_over_every_header() {
    let upstream = Upstream::start(registry());
    for url in ["https://crates.lab/sub", "https://crates.lab/sub/"] {
        let orlop = Setup::over(&upstream)
            .config("public_url", url)
            .config("listen.trusted_proxies", "127.0.0.0/8")
            .start();
        let base = base_for(
            &orlop,
            &[
                ("Host", "else:1"),
                ("X-Forwarded-Host", "third"),
                ("X-Forwarded-Prefix", "/no"),
            ],
        );
        assert_eq!(base, "https://crates.lab/sub");
    }
}

#[test]
fn forwarded_headers_count_only_from_trusted_proxies() {
    let upstream = Upstream::start(registry());
    let forwarded = [
        ("Host", "inner:1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "outer.lab"),
        ("X-Forwarded-Prefix", "/rust/"),
    ];
    let standard = [
        ("Host", "inner:1"),
        (
            "Forwarded",
            "for=10.0.0.1;proto=https;host=\"outer.lab:444\"",
        ),
    ];
    let strangers = Setup::over(&upstream)
        .config("listen.trusted_proxies", "10.0.0.0/8")
        .start();
    assert_eq!(base_for(&strangers, &forwarded), "http://inner:1");
    assert_eq!(base_for(&strangers, &standard), "http://inner:1");
    let trusted = Setup::over(&upstream)
        .config("listen.trusted_proxies", "10.0.0.0/8, 127.0.0.1/32")
        .start();
    assert_eq!(base_for(&trusted, &forwarded), "https://outer.lab/rust");
    assert_eq!(base_for(&trusted, &standard), "https://outer.lab:444");
    assert_eq!(base_for(&trusted, &[("Host", "inner:1")]), "http://inner:1");
    for (name, value) in [
        ("X-Forwarded-Host", "evil\"host"),
        ("X-Forwarded-Proto", "javascript"),
        ("X-Forwarded-Prefix", "/a\"b"),
        ("X-Forwarded-Prefix", "//evil.example"),
    ] {
        let ask = Ask::get("/index/config.json").header(name, value);
        let answer = trusted.ask(&ask);
        let text = answer.text();
        assert!(
            answer.status == 400 || !(text.contains("evil") || text.contains("javascript")),
            "{name}: {value}: {} {text}",
            answer.status
        );
    }
}

#[test]
fn an_upstream_url_works_with_and_without_prefix_and_slash() {
    let upstream = Upstream::start(registry());
    let plain = upstream.url();
    let bare = plain.trim_end_matches('/');
    for url in [
        bare,
        &plain,
        &format!("sparse+{plain}"),
        &format!("sparse+{bare}"),
    ] {
        let orlop = Setup::over_url(url).start();
        check_bytes(&orlop, &upstream, "foobar");
    }
}

#[test]
fn requests_upstream_say_who_asks() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("upstream.contact", "admin@crates.lab")
        .start();
    assert_eq!(orlop.download("foobar", "1.0.0").status, 200);
    let seen = upstream.seen();
    assert!(seen.len() >= 3, "{seen:?}");
    for request in seen {
        let agent = request.header("user-agent").unwrap_or_default();
        assert!(agent.starts_with("orlop/"), "{agent}");
        assert!(agent.contains("admin@crates.lab"), "{agent}");
        let from_client = request.header("host").unwrap_or_default();
        assert_eq!(from_client, upstream.address().to_string());
    }
}

#[test]
fn an_index_file_above_the_limit_is_not_taken() {
    let upstream = Upstream::start(registry());
    let orlop = Setup::over(&upstream)
        .config("upstream.max_index", "16KiB")
        .start();
    upstream.misbehave(On::Path("/foobar".to_owned()), Fault::Endless);
    let refused = orlop.index("foobar");
    assert!([502, 503].contains(&refused.status), "{}", refused.text());
    check_bytes(&orlop, &upstream, "other");
}

#[test]
fn an_index_file_is_measured_unpacked() {
    let mut krate = Krate::new("bomb", "1.0.0");
    for number in 0..20_000 {
        krate = krate.feature(&format!("feature-{number}"), &[]);
    }
    let upstream = Upstream::start(Registry::new().with(&krate));
    upstream.manners(|manners| manners.gzip = true);
    assert!(upstream.index_file("bomb").len() > 300 * 1024);
    let orlop = Setup::over(&upstream)
        .config("upstream.max_index", "200KiB")
        .start();
    let refused = orlop.index("bomb");
    assert!([502, 503].contains(&refused.status), "{}", refused.status);
    let roomy = Setup::over(&upstream).start();
    check_bytes(&roomy, &upstream, "bomb");
}
