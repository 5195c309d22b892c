//! The way to the upstream: TLS under a private authority, HTTP/2, and the proxies of a lab.

use crate::support::{
    crates::{Krate, Registry},
    orlop::{Orlop, Setup},
    proxy::Proxy,
    tls::Tls,
    upstream::{Dl, Kind, Upstream},
};

fn setting() -> Upstream {
    Upstream::start(
        Registry::new()
            .with(&Krate::new("small", "1.0.0").size(20_000))
            .with(&Krate::new("large", "1.0.0").size(1_500_000)),
    )
}

fn behind_tls() -> (Upstream, Tls) {
    let upstream = setting();
    let tls = Tls::over(&upstream);
    let dl = format!("{}/api/v1/crates", tls.base());
    upstream.manners(|manners| manners.dl = Dl::Literal(dl));
    (upstream, tls)
}

#[track_caller]
fn check_both(orlop: &Orlop, upstream: &Upstream) {
    for name in ["small", "large"] {
        let release = upstream.registry().release(name, "1.0.0");
        let answer = orlop.download(name, "1.0.0");
        assert!(answer.is_complete_file(), "{name}: {}", answer.text());
        assert!(answer.body == *release.bytes, "{name}: other bytes");
        assert_eq!(orlop.index(name).text(), upstream.index_file(name));
    }
}

#[test]
fn an_upstream_under_a_private_authority_is_asked_in_http2() {
    let (upstream, tls) = behind_tls();
    let orlop = Setup::over_url(&format!("sparse+{}/index/", tls.base()))
        .config("upstream.ca_file", &tls.ca_file().display().to_string())
        .start();
    check_both(&orlop, &upstream);
    let spoken = tls.spoken();
    assert!(!spoken.is_empty());
    assert!(spoken.iter().all(|protocol| protocol == "h2"), "{spoken:?}");
    assert!(
        spoken.len() <= 2,
        "one connection for index files, one for crates: {spoken:?}"
    );
}

#[test]
fn an_authority_that_nobody_vouched_for_is_not_trusted() {
    let (upstream, tls) = behind_tls();
    let (_, other) = behind_tls();
    let setup = Setup::over_url(&format!("{}/index/", tls.base()));
    let with_another = setup
        .clone()
        .config("upstream.ca_file", &other.ca_file().display().to_string());
    for setup in [setup, with_another] {
        let orlop = setup.start();
        let refused = orlop.download("small", "1.0.0");
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains("small"), "{}", refused.text());
        assert!(
            refused.text().to_lowercase().contains("certificate"),
            "{}",
            refused.text()
        );
        drop(orlop.terminate());
    }
    assert_eq!(upstream.seen().len(), 0, "{:?}", upstream.seen());
}

#[test]
fn an_http_proxy_is_asked_for_everything_by_name() {
    let upstream = setting();
    let dl = "http://files.test/api/v1/crates".to_owned();
    upstream.manners(|manners| manners.dl = Dl::Literal(dl));
    let proxy = Proxy::http(upstream.address());
    let orlop = Setup::over_url("http://index.test/index/")
        .config("upstream.proxy", &format!("http://{}", proxy.address()))
        .start();
    check_both(&orlop, &upstream);
    let asked = proxy.asked();
    for url in [
        "http://index.test/index/config.json",
        "http://index.test/index/sm/al/small",
        "http://files.test/api/v1/crates/small/1.0.0/download",
        "http://files.test/api/v1/crates/large/1.0.0/download",
    ] {
        assert!(asked.iter().any(|asked| asked == url), "{url}: {asked:?}");
    }
    assert_eq!(asked.len(), upstream.seen().len(), "nothing goes around it");
}

#[test]
fn a_socks5_proxy_is_asked_for_everything() {
    let upstream = setting();
    let proxy = Proxy::socks5(upstream.address());
    let orlop = Setup::over(&upstream)
        .config("upstream.proxy", &format!("socks5://{}", proxy.address()))
        .start();
    check_both(&orlop, &upstream);
    let there = upstream.address().to_string();
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| *asked == there), "{asked:?}");
}

#[test]
fn socks5h_lets_the_proxy_find_the_name() {
    let upstream = setting();
    let dl = "http://files.test:81/api/v1/crates".to_owned();
    upstream.manners(|manners| manners.dl = Dl::Literal(dl));
    let proxy = Proxy::socks5(upstream.address());
    let orlop = Setup::over_url("http://index.test/index/")
        .config("upstream.proxy", &format!("socks5h://{}", proxy.address()))
        .start();
    check_both(&orlop, &upstream);
    let asked = proxy.asked();
    for there in ["index.test:80", "files.test:81"] {
        assert!(
            asked.iter().any(|asked| asked == there),
            "{there}: {asked:?}"
        );
    }
}

#[test]
fn nothing_goes_around_a_proxy_that_is_down() {
    let upstream = setting();
    let gone = Upstream::start(Registry::new());
    gone.down();
    for scheme in ["http", "socks5"] {
        let orlop = Setup::over(&upstream)
            .config("upstream.proxy", &format!("{scheme}://{}", gone.address()))
            .start();
        let refused = orlop.download("small", "1.0.0");
        assert_eq!(refused.status, 503, "{scheme}: {}", refused.text());
        assert!(refused.header("retry-after").is_some(), "{scheme}");
    }
    assert_eq!(upstream.count(Kind::Index), 0, "{:?}", upstream.seen());
}
