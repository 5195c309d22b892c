//! The pages through the real program: their headers, their files, their errors and their sub-path.

use crate::support::{
    crates::{Krate, Registry},
    http::{Answer, Ask},
    orlop::{Orlop, Setup},
    upstream::Upstream,
};

fn setting() -> (Upstream, Orlop) {
    let registry = Registry::new()
        .with(&Krate::new("here", "1.0.0"))
        .with(&Krate::new("here", "1.1.0").yanked());
    let upstream = Upstream::start(registry);
    let orlop = Setup::over(&upstream)
        .config("listen.trusted_proxies", "127.0.0.0/8")
        .start();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    (upstream, orlop)
}

#[track_caller]
fn check_page(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let header = |name| answer.header(name).unwrap_or_default();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    assert_eq!(header("cache-control"), "no-store");
    let policy = header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(
            policy.split("; ").any(|one| one == part),
            "{part}: {policy}"
        );
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(answer.text().starts_with("<!DOCTYPE html>"));
}

#[test]
fn every_page_has_a_strict_policy() {
    let (_upstream, orlop) = setting();
    for target in [
        "/",
        "/?range=year",
        "/?range=nonsense",
        "/?range=day&range=week",
        "/crates",
        "/crates?q=her",
        "/crates?q=%3Cscript%3E",
        "/crates/here",
        "/crates/HERE",
    ] {
        check_page(&orlop.get(target), 200);
        assert_eq!(orlop.ask(&Ask::head(target)).status, 200, "{target}");
    }
    check_page(&orlop.get("/crates/unheard-of"), 404);
    check_page(&orlop.get("/crates/9%3Cb%3E"), 400);
    check_page(&orlop.get(&format!("/crates?q={}", "a".repeat(257))), 400);
    let hostile = orlop.ask(&Ask::get("/").header("Host", "<script>alert(1)</script>"));
    check_page(&hostile, 400);
}

#[test]
fn a_browser_that_is_lost_gets_a_page_and_a_program_a_line() {
    let (_upstream, orlop) = setting();
    let browser = Ask::get("/nowhere").header("Accept", "text/html,*/*;q=0.8");
    check_page(&orlop.ask(&browser), 404);
    let program = orlop.get("/nowhere");
    assert_eq!(program.status, 404);
    assert!(program.text().starts_with("orlop: "), "{}", program.text());
}

#[test]
fn a_crate_page_tells_of_each_version() {
    let (_upstream, orlop) = setting();
    let page = orlop.get("/crates/here").text();
    for text in ["here = &#34;1.0.0&#34;", "1.1.0", "yanked", "held"] {
        assert!(page.contains(text), "{text}: {page}");
    }
}

/// The links of a page to files of the program.
fn files_of(page: &str) -> Vec<String> {
    page.split('"')
        .filter(|text| text.contains("/static/"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn files_are_kept_for_ever_under_the_url_that_has_their_hash() {
    let (_upstream, orlop) = setting();
    let files = files_of(&orlop.get("/").text());
    assert_eq!(files.len(), 3, "{files:?}");
    for (path, kind) in files
        .iter()
        .zip(["image/svg+xml", "text/css", "text/javascript"])
    {
        let file = orlop.get(path);
        assert_eq!(file.status, 200);
        let header = |name| file.header(name).unwrap_or_default().to_owned();
        assert!(header("content-type").starts_with(kind), "{path}");
        assert_eq!(
            header("cache-control"),
            "public, max-age=31536000, immutable"
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        let known = orlop.ask(&Ask::get(path).header("If-None-Match", &header("etag")));
        assert_eq!((known.status, known.body.len()), (304, 0));
        let (plain, _hash) = path.split_once('?').expect("a hash");
        let plain = orlop.get(plain);
        assert_eq!(plain.header("cache-control"), Some("no-cache"));
        let other = orlop.get(&format!("{path}0"));
        assert_eq!(other.header("cache-control"), Some("no-cache"));
    }
    assert_eq!(orlop.get("/static/..%2forlop.css").status, 404);
    assert_eq!(orlop.get("/static/none.css").status, 404);
}

#[test]
fn below_a_sub_path_every_link_is() {
    let (_upstream, orlop) = setting();
    for target in ["/", "/crates", "/crates/here", "/crates/unheard-of"] {
        let ask = Ask::get(target).header("Accept", "text/html");
        let page = orlop.ask(&ask.header("X-Forwarded-Prefix", "/rust")).text();
        for attribute in ["href=\"", "src=\"", "action=\""] {
            for link in page.split(attribute).skip(1) {
                let good = link.starts_with("/rust/") || link.starts_with('#');
                assert!(good, "{target}: {attribute}{link:.60}");
            }
        }
    }
}
