//! The recipes of `packaging/` with real nginx, real Caddy, real cargo and real git.

use reqwest::{Method, Version};

use crate::support::{
    crates::{Krate, Registry},
    git::Git,
    http::Ask,
    orlop::{Orlop, Setup, download_path},
    recipe::{Behind, Program, RECIPES, Recipe},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

fn registry() -> Registry {
    Registry::new()
        .with(&Krate::new("top", "1.0.0").dep("bottom-one", "~3.1"))
        .with(&Krate::new("bottom-one", "3.1.4").size(400_000))
        .with(&Krate::new("built", "0.1.0+meta.1"))
        .with(&Krate::new("large", "1.0.0").size(4_000_000))
}

fn setting() -> (Upstream, Setup) {
    let upstream = Upstream::start(registry());
    let setup = Setup::over(&upstream)
        .config("git.quiet_for", "200ms")
        .config("git.cut_within", "1s");
    (upstream, setup)
}

#[expect(
    clippy::print_stderr,
    reason = "a failed test shows which recipe it is"
)]
fn with_each_recipe(check: impl Fn(Recipe)) {
    for recipe in RECIPES {
        eprintln!("--- {}", recipe.file);
        check(recipe);
    }
}

fn sparse(behind: &Behind) -> String {
    format!("sparse+{}/index/", behind.url())
}

fn has_a_commit(orlop: &Orlop) -> bool {
    let refs = orlop.get("/git/index/info/refs?service=git-upload-pack");
    refs.text().contains("refs/heads/master")
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn cargo_builds_over_tls_and_http2_from_the_sparse_index() {
    with_each_recipe(|recipe| {
        let (upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        let dependencies = "top = \"1\"\nbuilt = \"0.1\"";
        let project = behind.project(dependencies, &sparse(&behind));
        project.cargo(&["build"]).well();
        upstream.down();
        project.forget();
        let ran = project.cargo(&["run", "--locked"]).well();
        assert_eq!(ran.stdout.trim(), "built");

        let words = ["search", "bottom", "--registry", "orlop"];
        let search = project.cargo(&words).well();
        assert!(
            search.stdout.contains("bottom-one = \"3.1.4\""),
            "{search:?}"
        );
        let info = ["info", "top", "--registry", "orlop"];
        project.cargo(&info).well();
        if recipe.program == Program::Nginx {
            let log = behind.log();
            assert!(log.contains("download"), "{log}");
            assert!(log.lines().all(|line| line.starts_with("HTTP/2")), "{log}");
        }
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn cargo_and_git_fetch_the_git_index() {
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        for path in ["/index/3/t/top", "/index/bo/tt/bottom-one"] {
            behind.get(path, &[]);
        }
        until("the git index has a commit", || has_a_commit(&behind.orlop));
        let url = format!("{}/git/index", behind.url());
        let git = Git::new().config(&format!("http.sslCAInfo={}", behind.ca_file().display()));
        until("the git index has both names", || {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            let place = folder.path().join("clone");
            git.run(&["clone", "-q", &url, &place.to_string_lossy()])
                .well();
            place.join("3/t/top").exists() && place.join("bo/tt/bottom-one").exists()
        });
        for fetched_with_git in ["false", "true"] {
            let project = behind.project("top = \"1\"", &url);
            let config = project.read(".cargo/config.toml");
            let net = format!("[net]\ngit-fetch-with-cli = {fetched_with_git}\n");
            project.write(".cargo/config.toml", &config.replace("[net]\n", &net));
            let ran = project.cargo(&["run"]).well();
            assert_eq!(ran.stdout.trim(), "built");
        }
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn an_answer_is_what_it_is_without_a_proxy() {
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        let long = "/index/bo/tt/bottom-one";
        for headers in [
            &[][..],
            &[("accept-encoding", "deflate, gzip")],
            &[("accept-encoding", "gzip")],
        ] {
            same(&behind, long, headers);
            same(&behind, "/index/config.json", headers);
            same(&behind, "/index/3/n/no", headers);
            same(&behind, "/", &[]);
        }
        let file = download_path("bottom-one", "3.1.4");
        same(&behind, &file, &[]);
        same(&behind, &file, &[("range", "bytes=100-299")]);
        same(&behind, &file, &[("range", "bytes=-300")]);
        same(&behind, &file, &[("range", "bytes=9999999-")]);
        let part = behind.get(&file, &[("range", "bytes=100-299")]);
        assert_eq!((part.status, part.body.len()), (206, 200));
        let plus = behind.get(&download_path("built", "0.1.0+meta.1"), &[]);
        assert_eq!(plus.status, 200);

        let got = behind.get(long, &[("accept-encoding", "gzip")]);
        assert_eq!(got.version, Version::HTTP_2);
        let known = ("if-none-match", got.header("etag"));
        let again = behind.get(long, &[("accept-encoding", "gzip"), known]);
        assert_eq!((again.status, again.body.len()), (304, 0));
        let head = behind.ask(Method::HEAD, &file, &[], Vec::new());
        let head = head.expect("an answer");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(
            head.header("content-length"),
            behind.get(&file, &[]).body.len().to_string()
        );
    });
}

/// Through the proxy and without it.
#[track_caller]
fn same(behind: &Behind, path: &str, headers: &[(&str, &str)]) {
    let mut ask = Ask::get(path);
    for (name, value) in headers {
        ask = ask.header(name, value);
    }
    let (there, here) = (behind.get(path, headers), behind.orlop.ask(&ask));
    assert_eq!(there.status, here.status, "{path} {headers:?}");
    if path != "/" {
        assert_eq!(there.body, here.body, "{path} {headers:?}");
    }
    for name in [
        "etag",
        "content-length",
        "content-type",
        "content-encoding",
        "content-range",
        "cache-control",
        "content-security-policy",
        "vary",
    ] {
        let expected = here.header(name).unwrap_or_default();
        if path != "/" || name != "content-length" {
            assert_eq!(there.header(name), expected, "{name} of {path} {headers:?}");
        }
    }
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn the_page_and_what_it_links_to_are_below_the_base() {
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        let page = behind.get("/", &[]);
        assert_eq!(page.status, 200);
        let html = page.text();
        assert!(html.contains(&sparse(&behind)), "the client configuration");
        let mut sheets = 0;
        for link in links(&html) {
            let path = link.strip_prefix(recipe.prefix);
            let path = path.unwrap_or_else(|| panic!("{link} is not below {}", recipe.prefix));
            if path.starts_with('#') {
                continue;
            }
            let got = behind.get(path, &[]);
            assert_eq!(got.status, 200, "{link}");
            sheets += usize::from(got.header("content-type").starts_with("text/css"));
        }
        assert!(sheets > 0, "the style sheet");
        if !recipe.prefix.is_empty() {
            let short = behind.get("", &[]);
            let place = format!("{}/", recipe.prefix);
            assert_eq!((short.status, short.header("location")), (308, &*place));
        }
    });
}

/// The recipes of a path, with the path that is shipped and with some that orlop has itself.
fn with_each_path(check: impl Fn(Recipe)) {
    with_each_recipe(|recipe| {
        if !recipe.prefix.is_empty() {
            check(recipe);
            for prefix in ["/crates", "/index", "/p"] {
                check(recipe.below(prefix));
            }
        }
    });
}

/// Takes the mark from the line that hides the metrics.
fn hide(text: String) -> String {
    let marked = ["#location = ", "#respond /metrics"].into_iter();
    let count: usize = marked.clone().map(|mark| text.matches(mark).count()).sum();
    assert_eq!(count, 1, "one line to take a # from");
    marked.fold(text, |text, mark| text.replace(mark, &mark[1..]))
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn a_path_is_taken_off_once_whatever_it_is() {
    with_each_path(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::changed(recipe, &setup, hide, |settings| settings);
        assert_eq!(behind.get("/index/3/t/top", &[]).status, 200);
        assert_eq!(behind.get("/index/config.json", &[]).status, 200);
        for (path, title) in [
            ("/crates?q=to", "<title>to · "),
            ("/crates/top", "<title>top"),
        ] {
            let page = behind.get(path, &[]);
            assert_eq!(page.status, 200, "{}{path}", recipe.prefix);
            assert!(
                page.text().contains(title),
                "{path}: {}",
                title_of(&page.text())
            );
        }
        let again = recipe.prefix;
        for path in [
            "/metrics",
            &format!("{again}/metrics"),
            &format!("{again}{again}/metrics"),
            "//metrics",
            "/%6detrics",
            "/x/../metrics",
        ] {
            let got = behind.get(path, &[("x-forwarded-prefix", "/evil")]);
            assert_eq!(got.status, 404, "{again}{path}");
        }
    });
}

fn title_of(html: &str) -> &str {
    let rest = html.split("<title>").nth(1).unwrap_or_default();
    rest.split('<').next().unwrap_or_default()
}

#[test]
#[ignore = "needs nginx"]
fn a_location_of_the_server_for_styles_does_not_take_those_below_the_path() {
    let (_upstream, setup) = setting();
    let recipe = RECIPES[1];
    assert_eq!(recipe.file, "nginx/orlop-sub-path.conf");
    let beside = |text: String| {
        let styles = "location ~* \\.(css|js|svg)$ { return 418; }\n    location = /rust {";
        assert!(text.contains("location = /rust {"));
        text.replace("location = /rust {", styles)
    };
    let behind = Behind::changed(recipe, &setup, beside, |settings| settings);
    let page = behind.get("/", &[]).text();
    let styles = links(&page)
        .into_iter()
        .filter(|link| link.contains(".css"));
    let mut count = 0;
    for link in styles {
        let path = link.strip_prefix(recipe.prefix).expect("it is below");
        assert_eq!(behind.get(path, &[]).status, 200, "{link}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn a_path_that_is_a_route_too_is_taken_off_by_the_proxy_or_here_and_never_twice() {
    let (_upstream, setup) = setting();
    let orlop = setup
        .config("public_url", "https://tools.lab/crates")
        .config("listen.trusted_proxies", "127.0.0.1/32")
        .start();
    let stripped = |path: &str| orlop.ask(&Ask::get(path).header("x-forwarded-prefix", "/crates"));
    let passed_on = |path: &str| orlop.get(path);
    assert_eq!(orlop.index("top").status, 200);
    for got in [stripped("/crates/top"), passed_on("/crates/crates/top")] {
        assert_eq!(got.status, 200);
        assert!(
            got.text().contains("<title>top"),
            "{}",
            title_of(&got.text())
        );
    }
    for got in [stripped("/crates?q=to"), passed_on("/crates/crates?q=to")] {
        assert!(
            got.text().contains("<title>to"),
            "{}",
            title_of(&got.text())
        );
    }
    assert_eq!(passed_on("/crates/metrics").status, 200);
    assert_eq!(stripped("/metrics").status, 200);
    // What a proxy hides is not reached by writing the path twice.
    assert_eq!(passed_on("/crates/crates/metrics").status, 404);
    assert_eq!(stripped("/crates/metrics").status, 404);
}

/// What a page refers to on its own server: links, sheets, scripts, pictures.
fn links(html: &str) -> Vec<String> {
    let after = ["href=\"", "src=\"", "action=\""].into_iter();
    let found = after.flat_map(|mark| html.split(mark).skip(1));
    let links = found.filter_map(|rest| rest.split('"').next());
    let own = links.filter(|link| link.starts_with('/') && !link.starts_with("//"));
    own.map(|link| link.split(['?', '#']).next().unwrap_or(link).to_owned())
        .collect()
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn without_a_public_url_the_headers_of_the_proxy_say_it() {
    let evil = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6;host=evil.example;proto=http"),
    ];
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let told = |settings: String| settings.replace("public_url", "#");
        let behind = Behind::changed(recipe, &setup, |text| text, told);
        for headers in [&[][..], &evil] {
            let config = behind.get("/index/config.json", headers).text();
            let expected = format!("\"{}/api/v1/crates\"", behind.url());
            assert!(config.contains(&expected), "{config}");
            assert!(!config.contains("evil"), "{config}");
        }
        behind
            .project("top = \"1\"", &sparse(&behind))
            .cargo(&["build"])
            .well();
        behind.get(&download_path("built", "0.1.0+meta.1"), &evil);
        let who = behind.orlop.setup().run(&["who", "built"]);
        assert!(who.stdout.contains("127.0.0.1"), "{who:?}");
        assert!(!who.stdout.contains("6.6.6.6"), "{who:?}");

        // An orlop that trusts somebody else believes nothing.
        let (_upstream, setup) = setting();
        let stranger = |settings: String| {
            let settings = told(settings);
            let trusted = "[\"127.0.0.1\", \"::1\"]";
            assert!(settings.contains(trusted));
            settings.replace(trusted, "[\"10.0.0.0/8\"]")
        };
        let behind = Behind::changed(recipe, &setup, |text| text, stranger);
        let config = behind.get("/index/config.json", &evil).text();
        assert!(config.contains("\"http://localhost:"), "{config}");
        assert!(config.contains("/api/v1/crates"), "{config}");
        for word in ["evil", "https", "/rust/api"] {
            assert!(!config.contains(word), "{word}: {config}");
        }
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn what_is_meant_for_others_does_not_come_as_far_as_orlop() {
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        for _ in 0..30 {
            let headers = [
                ("cookie", "session=1"),
                ("authorization", "secret-token"),
                ("forwarded", "host=evil.example"),
            ];
            assert_eq!(behind.get("/index/3/t/top", &headers).status, 200);
        }
        let talks = behind.wire.talks();
        let sent: Vec<String> = talks
            .iter()
            .map(|talk| String::from_utf8_lossy(&talk.sent).into_owned())
            .collect();
        assert!(
            sent.iter()
                .any(|head| head.starts_with("GET /index/3/t/top")),
            "{sent:?}"
        );
        for head in &sent {
            let head = head.to_ascii_lowercase();
            for word in [
                "cookie",
                "authorization",
                "connection: close",
                "\nforwarded",
            ] {
                assert!(!head.contains(word), "{word}: {head}");
            }
        }
        assert!(talks.len() <= 2, "{} connections", talks.len());
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn a_large_crate_comes_as_it_is_fetched_and_a_lie_never_comes_whole() {
    with_each_recipe(|recipe| {
        let (upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        let path = download_path("large", "1.0.0");
        upstream.misbehave(On::Kind(Kind::Crate), Fault::Flip);
        let lie = behind.ask(Method::GET, &path, &[], Vec::new());
        assert!(
            lie.as_ref().is_err() || lie.as_ref().is_ok_and(|got| got.status >= 500),
            "{lie:?}"
        );
        let (upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        upstream.misbehave(On::Kind(Kind::Crate), Fault::Gate);
        let body = behind.in_two_parts(&path, 1_000_000, || upstream.open_gate());
        assert!(body.len() > 4_000_000, "{} bytes", body.len());
        assert_eq!(body, behind.orlop.download("large", "1.0.0").body);
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn what_git_sends_is_bounded_by_orlop_alone() {
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        behind.get("/index/3/t/top", &[]);
        until("the git index has a commit", || has_a_commit(&behind.orlop));
        let kind = ("content-type", "application/x-git-upload-pack-request");
        let post = |size: usize| {
            let body = vec![b'0'; size];
            behind.ask(Method::POST, "/git/index/git-upload-pack", &[kind], body)
        };
        let answer = post(8 << 20).expect("an answer");
        let direct = Ask::new("POST", "/git/index/git-upload-pack")
            .header(kind.0, kind.1)
            .body(&vec![b'0'; 8 << 20]);
        let direct = behind.orlop.ask(&direct);
        assert_eq!(answer.status, direct.status, "{}", answer.text());
        assert_ne!(answer.status, 413, "{}", answer.text());
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn the_metrics_can_be_hidden() {
    with_each_recipe(|recipe| {
        let (_upstream, setup) = setting();
        let behind = Behind::new(recipe, &setup);
        assert_eq!(behind.get("/metrics", &[]).status, 200);
        let (_upstream, setup) = setting();
        let behind = Behind::changed(recipe, &setup, hide, |settings| settings);
        assert_eq!(behind.get("/metrics", &[]).status, 404);
        assert_eq!(behind.get("/healthz", &[]).status, 200);
        assert_eq!(behind.orlop.get("/metrics").status, 200);
    });
}

#[test]
#[ignore = "needs nginx and Caddy"]
fn plain_http_leads_to_https() {
    let (_upstream, setup) = setting();
    let behind = Behind::new(RECIPES[0], &setup);
    let answer = Ask::get("/crates/serde?x=1").header("Host", "localhost");
    let answer = answer.send(behind.plain).expect("an answer");
    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.header("location"),
        Some("https://localhost/crates/serde?x=1")
    );
}
