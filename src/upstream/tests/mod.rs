//! The client against an upstream that misbehaves, over real sockets on loopback.

mod fake;

use std::sync::atomic::{AtomicU32, Ordering};

use fake::{Act, Fake, Request, raw, reply};

use super::*;
use crate::metrics::Gauges;

const SUM: &str = "be72e7128262fbd8dcb2e3eecee6135ed1611e0a9d63feca600b4a19f297eb49";
const ENTRY: &str = "/index/de/mo/demo";
const CONFIG: &str = "/index/config.json";
const FILE: &str = "/dl/demo/0.1.0/download";

/// A time that never passes in a test that goes well.
const LONG: Duration = Duration::from_secs(60);
/// A time that is waited out.
const SHORT: Duration = Duration::from_millis(200);

struct Rig {
    upstream: Upstream,
    metrics: Arc<Metrics>,
}

impl Rig {
    fn new(fake: &Fake, adjust: impl FnOnce(&mut Options)) -> Rig {
        Rig::at(&format!("sparse+http://{}/index/", fake.address), adjust)
    }

    fn at(url: &str, adjust: impl FnOnce(&mut Options)) -> Rig {
        let metrics = Arc::new(Metrics::new().expect("good series"));
        let mut options = options(url);
        adjust(&mut options);
        let upstream = Upstream::new(options, Arc::clone(&metrics)).expect("good options");
        Rig { upstream, metrics }
    }

    async fn entry(&self) -> Result<IndexAnswer, Error> {
        self.entry_of("demo", &Validators::default()).await
    }

    async fn entry_of(&self, name: &str, known: &Validators) -> Result<IndexAnswer, Error> {
        let name = CrateName::parse(name).expect("a good name");
        self.upstream.index_entry(&name, known).await
    }

    async fn download(&self, from: u64) -> Result<Download, Error> {
        let release = Release::parse("demo", "0.1.0").expect("a good release");
        self.upstream
            .download(&release, &Checksum::of(b""), from)
            .await
    }

    /// The value of the counter of upstream requests; a pair that cannot occur is not exported.
    fn counted(&self, kind: &str, outcome: &str) -> u64 {
        let series =
            format!("orlop_upstream_requests_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} ");
        let text = self.metrics.render(&Gauges::default());
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |line| line.parse().expect("a number"))
    }

    /// How many requests of `kind` were counted in all.
    fn counted_in_all(&self, kind: &str) -> u64 {
        let all = Outcome::ALL.iter();
        all.map(|outcome| self.counted(kind, outcome.as_str()))
            .sum()
    }
}

fn options(url: &str) -> Options {
    Options {
        connect_timeout: LONG,
        stall_timeout: LONG,
        backoff: Duration::from_millis(1),
        breaker_pause: LONG,
        ..Options::new(url.parse().expect("a good URL"))
    }
}

fn line(name: &str, version: &str) -> String {
    format!(
        r#"{{"name":"{name}","vers":"{version}","deps":[],"cksum":"{SUM}","features":{{}},"yanked":false}}"#
    )
}

fn config_of(request: &Request) -> Act {
    let host = request.header("host").expect("a host");
    reply(200, "", format!("{{\"dl\":\"http://{host}/dl\"}}"))
}

/// A fake whose `config.json` is good, and whose other answers are `act`.
async fn serving(act: Act) -> Fake {
    Fake::start(move |request| match request.target.as_str() {
        CONFIG => config_of(request),
        _ => act.clone(),
    })
    .await
}

/// A fake that answers the n-th request (from 1) by `script`.
async fn in_turn(script: impl Fn(u32) -> Act + Send + Sync + 'static) -> Fake {
    let turn = AtomicU32::new(0);
    Fake::start(move |_| script(turn.fetch_add(1, Ordering::Relaxed) + 1)).await
}

fn bytes_of(answer: IndexAnswer) -> Bytes {
    match answer {
        IndexAnswer::Changed { file, .. } => file.bytes().clone(),
        other => panic!("not a file: {other:?}"),
    }
}

async fn read(download: &mut Download) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(piece) = download.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn an_index_file_comes_byte_for_byte_with_its_validators() {
    let file = format!("{}\n\n{}", line("demo", "0.1.0"), line("Demo", "0.2.0"));
    let headers = "ETag: W/\"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let fake = serving(reply(200, headers, &file)).await;
    let rig = Rig::new(&fake, |_| {});
    let answer = rig.entry().await.expect("an answer");
    let IndexAnswer::Changed {
        file: got,
        validators,
    } = answer
    else {
        panic!("not a file: {answer:?}");
    };
    assert_eq!(got.bytes(), file.as_bytes());
    assert_eq!(validators.etag.as_deref(), Some("W/\"1\""));
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(validators.last_modified.as_deref(), Some(date));
    assert_eq!(rig.counted("index", "ok"), 1);
    let seen = &fake.seen()[0];
    assert_eq!(seen.target, ENTRY);
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
    let agent = format!("orlop/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(seen.header("user-agent"), Some(agent.as_str()));
    assert_eq!(seen.header("if-none-match"), None);
    let health = rig.upstream.health();
    assert!(health.index.last_success.is_some() && health.index.latency.is_some());
}

#[tokio::test]
async fn validators_make_a_request_conditional() {
    let fake = serving(reply(304, "", "")).await;
    let rig = Rig::new(&fake, |_| {});
    let date = || Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
    for (etag, last_modified) in [(Some("\"1\"".to_owned()), date()), (None, date())] {
        let known = Validators {
            etag,
            last_modified,
        };
        let answer = rig.entry_of("demo", &known).await.expect("an answer");
        assert!(matches!(answer, IndexAnswer::NotModified));
    }
    let conditions: Vec<_> = fake
        .seen()
        .iter()
        .map(|seen| {
            let header = |name| seen.header(name).map(str::to_owned);
            (header("if-none-match"), header("if-modified-since"))
        })
        .collect();
    assert_eq!(
        conditions,
        [(Some("\"1\"".to_owned()), None), (None, date())]
    );
    assert_eq!(rig.counted("index", "not_modified"), 2);
}

#[tokio::test]
async fn an_upstream_without_validators_gives_none() {
    let fake = serving(reply(200, "", line("demo", "0.1.0"))).await;
    let answer = Rig::new(&fake, |_| {}).entry().await.expect("an answer");
    let IndexAnswer::Changed { validators, .. } = answer else {
        panic!("not a file: {answer:?}");
    };
    assert_eq!(validators, Validators::default());
}

#[tokio::test]
async fn nothing_changed_is_no_answer_to_who_holds_nothing() {
    let rig = Rig::new(&serving(reply(304, "", "")).await, |_| {});
    let error = rig.entry().await.expect_err("it is none");
    assert!(matches!(error.kind(), Kind::Transport(_)), "{error:?}");
}

#[tokio::test]
async fn a_name_that_upstream_does_not_have_is_asked_for_once() {
    for status in [404, 410, 451] {
        let fake = serving(reply(status, "", "gone")).await;
        let rig = Rig::new(&fake, |_| {});
        let answer = rig.entry().await.expect("an answer");
        assert!(matches!(answer, IndexAnswer::NotFound), "{status}");
        assert_eq!(
            (fake.count(ENTRY), rig.counted("index", "not_found")),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn a_denial_is_not_tried_again_and_its_words_are_passed_on() {
    let fake = serving(reply(403, "", "ask\r\n the  admin\x07")).await;
    let rig = Rig::new(&fake, |_| {});
    let error = one_line(&rig.entry().await.expect_err("it is denied"));
    assert!(error.ends_with("status 403: ask the admin"), "{error}");
    assert_eq!((fake.count(ENTRY), rig.counted("index", "status")), (1, 1));
}

#[tokio::test]
async fn a_bad_moment_is_tried_again() {
    let fake = in_turn(|turn| match turn {
        1 => reply(500, "", ""),
        2 => Act::SendAndClose(raw(200, "Content-Length: 999\r\n", "{")),
        _ => reply(200, "", line("demo", "0.1.0")),
    })
    .await;
    let rig = Rig::new(&fake, |_| {});
    assert!(rig.entry().await.is_ok());
    let counts = ["status", "transport", "ok"].map(|outcome| rig.counted("index", outcome));
    assert_eq!(counts, [1, 1, 1]);
}

#[tokio::test]
async fn a_broken_file_is_given_up_and_the_others_are_still_asked_for() {
    let fake = serving(reply(500, "", "")).await;
    let rig = Rig::new(&fake, |_| {});
    let error = rig.entry().await.expect_err("it is broken");
    assert!(matches!(error.kind(), Kind::Status { code: 500, .. }));
    assert_eq!(fake.count(ENTRY), 3);
    assert!(!rig.upstream.health().is_breaker_open());
    drop(rig.entry_of("other", &Validators::default()).await);
    assert_eq!(fake.count("/index/ot/he/other"), 3);
}

#[tokio::test]
async fn a_host_that_asks_for_a_pause_is_not_asked_meanwhile() {
    let fake = serving(reply(429, "Retry-After: 30\r\n", "")).await;
    let rig = Rig::new(&fake, |_| {});
    let error = rig.entry().await.expect_err("too many requests");
    assert!(matches!(error.kind(), Kind::Status { code: 429, .. }));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    let error = rig.entry().await.expect_err("it has a pause");
    assert!(matches!(error.kind(), Kind::Breaker { .. }), "{error:?}");
    assert!(one_line(&error).contains("429"), "{}", one_line(&error));
    assert!(
        error
            .retry_after()
            .is_some_and(|wait| wait <= Duration::from_secs(30))
    );
    assert_eq!((fake.count(ENTRY), rig.counted("index", "breaker")), (1, 1));
}

#[tokio::test]
async fn what_is_no_index_file_is_refused_and_not_tried_again() {
    let cut = line("demo", "0.1.0").replace('}', "");
    for body in [
        "<html>Welcome to the hotel</html>",
        &cut,
        &line("other", "1.0.0"),
        "",
    ] {
        let fake = serving(reply(200, "ETag: \"1\"\r\n", body)).await;
        let rig = Rig::new(&fake, |_| {});
        let error = rig.entry().await.expect_err("it is none");
        assert!(
            matches!(error.kind(), Kind::NotAnIndex(_)) && error.is_lie(),
            "{error:?}"
        );
        assert_eq!(
            (fake.count(ENTRY), rig.counted("index", "mismatch")),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn a_stalled_answer_is_a_time_out_and_the_next_asks_nobody() {
    let midway = raw(200, "Content-Length: 999\r\n", "{\"name\"");
    for before in [Vec::new(), raw(200, "Content-Length: 9\r\n", ""), midway] {
        let fake = serving(Act::SendAndStall(before)).await;
        let rig = Rig::new(&fake, |options| options.stall_timeout = SHORT);
        let error = rig.entry().await.expect_err("it stalls");
        assert!(
            matches!(error.kind(), Kind::Timeout { limit: SHORT, .. }),
            "{error:?}"
        );
        let error = rig.entry().await.expect_err("it is given a rest");
        assert!(
            matches!(error.kind(), Kind::Breaker { last: Some(_), .. }),
            "{error:?}"
        );
        assert_eq!((fake.count(ENTRY), rig.counted("index", "timeout")), (1, 1));
        assert!(rig.upstream.health().is_breaker_open());
    }
}

#[tokio::test]
async fn a_dead_upstream_costs_a_client_one_time_out_and_not_one_per_entry() {
    let fake = serving(Act::SendAndStall(Vec::new())).await;
    let rig = Rig::new(&fake, |options| {
        options.stall_timeout = SHORT;
        options.concurrency = 4;
    });
    let names: Vec<_> = (0..100).map(|n| format!("crate-{n}")).collect();
    let known = Validators::default();
    let all = futures_util::future::join_all(names.iter().map(|name| rig.entry_of(name, &known)));
    let errors = all.await.into_iter().filter_map(Result::err);
    assert_eq!(errors.count(), 100);
    assert_eq!(fake.seen().len(), 4);
    assert_eq!(rig.counted("index", "timeout"), 4);
    assert_eq!(rig.counted_in_all("index"), 100);
}

#[tokio::test]
async fn an_upstream_that_comes_back_is_noticed_by_one_probe() {
    let fake = in_turn(|turn| match turn {
        1..=3 => Act::SendAndClose(Vec::new()),
        _ => reply(200, "", line("demo", "0.1.0")),
    })
    .await;
    let rig = Rig::new(&fake, |options| options.breaker_pause = SHORT);
    assert!(rig.entry().await.is_err());
    assert!(rig.upstream.health().is_breaker_open());
    tokio::time::sleep(2 * SHORT).await;
    assert!(rig.entry().await.is_ok());
    assert!(!rig.upstream.health().is_breaker_open());
}

#[tokio::test]
async fn a_probe_that_is_given_up_is_counted_and_keeps_nobody_out() {
    let fake = in_turn(|turn| match turn {
        1..=3 => Act::SendAndClose(Vec::new()),
        4 => Act::SendAndStall(Vec::new()),
        _ => reply(200, "", line("demo", "0.1.0")),
    })
    .await;
    let rig = Rig::new(&fake, |options| options.breaker_pause = SHORT);
    assert!(rig.entry().await.is_err());
    tokio::time::sleep(2 * SHORT).await;
    assert!(
        tokio::time::timeout(SHORT, rig.entry()).await.is_err(),
        "given up"
    );
    assert!(rig.entry().await.is_ok());
    let counts = ["transport", "ok"].map(|outcome| rig.counted("index", outcome));
    assert_eq!(counts, [4, 1]);
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_and_named() {
    let rig = Rig::at("http://127.0.0.1:1/", |_| {});
    let error = rig.entry().await.expect_err("nobody listens");
    assert!(matches!(error.kind(), Kind::Refused(_)), "{error:?}");
    let text = one_line(&error);
    assert!(
        text.contains("`demo`") && text.contains("refused"),
        "{text}"
    );
    assert_eq!(rig.counted("index", "refused"), 3);
    let error = rig.entry().await.expect_err("it is given a rest");
    assert!(matches!(error.kind(), Kind::Breaker { .. }), "{error:?}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_refused_connection() {
    // A label of over 63 letters is refused by the resolver itself, before it asks anybody.
    let url = format!("http://{}.test/", "x".repeat(64));
    let rig = Rig::at(&url, |options| options.attempts = 1);
    let error = rig.entry().await.expect_err("no such host");
    assert!(matches!(error.kind(), Kind::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_no_secure_upstream() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("https://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(&raw(400, "", "")).await);
        }
    });
    let rig = Rig::at(&url, |options| options.attempts = 1);
    let error = rig.entry().await.expect_err("no TLS");
    assert!(matches!(error.kind(), Kind::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn gzip_is_undone_and_bounded() {
    let file = line("demo", "0.1.0");
    let headers = "Content-Encoding: gzip\r\n";
    let fake = serving(reply(200, headers, gzip(file.as_bytes()))).await;
    let answer = Rig::new(&fake, |_| {}).entry().await.expect("an answer");
    assert_eq!(bytes_of(answer), file.as_bytes());

    let bomb = gzip(&vec![b' '; 4 << 20]);
    assert!(bomb.len() < 64 << 10, "it is small on the way");
    let fake = serving(reply(200, headers, bomb)).await;
    let rig = Rig::new(&fake, |options| options.max_index_bytes = 64 << 10);
    let error = rig.entry().await.expect_err("too large");
    assert!(matches!(error.kind(), Kind::TooLarge { .. }), "{error:?}");
    assert_eq!(fake.count(ENTRY), 1);
}

#[tokio::test]
async fn an_index_file_over_the_limit_is_refused_announced_or_not() {
    let body = "x".repeat(1000);
    let announced = Act::SendAndStall(raw(200, "Content-Length: 1000\r\n", ""));
    let not = Act::SendAndClose(raw(200, "Connection: close\r\n", &body));
    for act in [announced, not] {
        let rig = Rig::new(&serving(act).await, |options| options.max_index_bytes = 999);
        let error = rig.entry().await.expect_err("too large");
        assert!(
            matches!(error.kind(), Kind::TooLarge { limit: 999, .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_configuration_is_fetched_by_one_for_all() {
    let fake = serving(reply(500, "", "")).await;
    let rig = Rig::new(&fake, |_| {});
    let all = futures_util::future::join_all((0..8).map(|_| rig.upstream.config())).await;
    let expected = format!("http://{}/dl", fake.address);
    for config in all {
        assert_eq!(config.expect("a configuration").dl, expected);
    }
    assert!(rig.upstream.config().await.is_ok());
    assert_eq!((fake.count(CONFIG), rig.counted("config", "ok")), (1, 1));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_fetched_fails_all_who_wait_together() {
    let fake = Fake::start(|_| Act::SendAndStall(Vec::new())).await;
    let rig = Rig::new(&fake, |options| options.stall_timeout = SHORT);
    let all = futures_util::future::join_all((0..8).map(|_| rig.upstream.config())).await;
    assert!(all.iter().all(|config| {
        let error = config.as_ref().expect_err("it stalls");
        matches!(error.kind(), Kind::Timeout { .. })
    }));
    assert_eq!(fake.count(CONFIG), 1);
}

#[tokio::test]
async fn a_configuration_that_is_of_no_use_says_why() {
    let check = async |act: Act, expected: &str| {
        let fake = Fake::start(move |_| act.clone()).await;
        let error = Rig::new(&fake, |_| {})
            .upstream
            .config()
            .await
            .expect_err("no use");
        let text = one_line(&error);
        assert!(text.contains(expected), "{text}");
        assert_eq!(fake.count(CONFIG), 1, "{text}");
    };
    let closed = r#"{"dl":"http://host.test/dl","auth-required":true}"#;
    check(reply(200, "", closed), "`auth-required`").await;
    check(reply(200, "", "<html>"), "is none").await;
    check(reply(200, "", "{}"), "missing field `dl`").await;
    check(reply(404, "", ""), "sparse index").await;
    check(reply(200, "", "x".repeat(1 << 20)), "longer than").await;
}

#[test]
fn an_outdated_configuration_is_used_while_it_cannot_be_fetched() {
    let error = || {
        Error::new(
            &Subject::Config,
            &url("http://host.test/"),
            Kind::NotFound { code: 404 },
        )
    };
    let config = RegistryConfig::of_mirror("http://host.test");
    let mut slot = Slot::default();
    let start = Instant::now();
    assert!(slot.take(Err(error()), start).is_err());
    assert!(slot.usable(start).is_none());
    assert!(slot.take(Ok(config.clone()), start).is_ok());
    let hour = start + CONFIG_FRESH_FOR;
    assert!(slot.usable(start + CONFIG_FRESH_FOR / 2).is_some());
    assert!(slot.usable(hour).is_none());
    assert_eq!(*slot.take(Err(error()), hour).expect("the old one"), config);
    assert!(
        slot.usable(hour + CONFIG_PAUSE / 2).is_some(),
        "not asked again at once"
    );
    assert!(slot.usable(hour + CONFIG_PAUSE).is_none());
}

fn url(text: &str) -> Url {
    Url::parse(text).expect("a good URL")
}

#[tokio::test]
async fn a_file_comes_as_it_is_and_from_where_the_template_says() {
    let body = gzip(b"as it is");
    for (dl, target) in [
        ("/dl", FILE),
        (
            "/f/{lowerprefix}/{crate}-{version}.crate",
            "/f/de/mo/demo-0.1.0.crate",
        ),
    ] {
        let file = body.clone();
        let fake = Fake::start(move |request| match request.target.as_str() {
            CONFIG => {
                let host = request.header("host").expect("a host");
                reply(200, "", format!("{{\"dl\": \"http://{host}{dl}\"}}"))
            }
            _ => reply(200, "Content-Encoding: gzip\r\n", &file),
        })
        .await;
        let rig = Rig::new(&fake, |_| {});
        let mut download = rig.download(0).await.expect("a file");
        assert_eq!(
            (download.start(), download.len()),
            (0, Some(body.len() as u64))
        );
        assert_eq!(read(&mut download).await.expect("it is whole"), body);
        assert!(matches!(download.next().await, Ok(None)), "the end stays");
        drop(download);
        let seen = fake.seen().pop().expect("a request");
        assert_eq!(seen.target, target);
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert_eq!(seen.header("range"), None);
        assert_eq!(
            (rig.counted("crate", "ok"), rig.counted_in_all("crate")),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let fake = serving(reply(206, "Content-Range: bytes 3-5/6\r\n", "def")).await;
    let rig = Rig::new(&fake, |_| {});
    let mut download = rig.download(3).await.expect("a part");
    assert_eq!((download.start(), download.len()), (3, Some(6)));
    assert_eq!(read(&mut download).await.expect("it is whole"), b"def");
    assert_eq!(
        fake.seen().pop().expect("a request").header("range"),
        Some("bytes=3-")
    );

    let fake = serving(reply(200, "", "abcdef")).await;
    let download = Rig::new(&fake, |_| {})
        .download(3)
        .await
        .expect("all of it");
    assert_eq!((download.start(), download.len()), (0, Some(6)));
}

#[tokio::test]
async fn another_part_than_was_asked_for_is_refused() {
    for headers in [
        "Content-Range: bytes 2-5/6\r\n",
        "Content-Range: bytes 3-6/6\r\n",
        "Content-Range: bytes 5-3/6\r\n",
        "Content-Range: lines 3-5/6\r\n",
        "",
    ] {
        let rig = Rig::new(&serving(reply(206, headers, "def")).await, |_| {});
        let error = rig.download(3).await.expect_err("another part");
        assert!(
            matches!(error.kind(), Kind::Transport(_)),
            "{headers} {error:?}"
        );
    }
    let short = serving(reply(206, "Content-Range: bytes 3-4/6\r\n", "de")).await;
    let mut download = Rig::new(&short, |_| {}).download(3).await.expect("a part");
    assert!(
        read(&mut download).await.is_err(),
        "it ends before the file does"
    );
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_before_a_byte_or_at_the_byte() {
    let limit = |options: &mut Options| options.max_crate_bytes = 5;
    let announced = Act::SendAndStall(raw(200, "Content-Length: 6\r\n", ""));
    let rig = Rig::new(&serving(announced).await, limit);
    let error = rig.download(0).await.expect_err("too large");
    let expected = (5, Some(6));
    assert!(
        matches!(error.kind(), Kind::TooLarge { limit, announced } if (*limit, *announced) == expected),
        "{error:?}"
    );
    let silent = Act::SendAndClose(raw(200, "Connection: close\r\n", "abcdef"));
    let rig = Rig::new(&serving(silent).await, limit);
    let mut download = rig.download(0).await.expect("a head");
    let error = read(&mut download).await.expect_err("too large");
    assert!(
        matches!(
            error.kind(),
            Kind::TooLarge {
                announced: None,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_body_that_stalls_or_is_cut_is_an_error_that_stays() {
    let part = raw(200, "Content-Length: 6\r\n", "abc");
    for (act, outcome) in [
        (Act::SendAndStall(part.clone()), "timeout"),
        (Act::SendAndClose(part), "transport"),
    ] {
        let fake = serving(act).await;
        let rig = Rig::new(&fake, |options| options.stall_timeout = SHORT);
        let mut download = rig.download(0).await.expect("a head");
        assert_eq!(
            download.next().await.ok().flatten().as_deref(),
            Some(&b"abc"[..])
        );
        let error = download.next().await.expect_err("it does not go on");
        assert_eq!(error.outcome().as_str(), outcome);
        assert!(download.next().await.is_err());
        assert!(error.to_string().contains("`demo 0.1.0`"), "{error}");
        drop(download);
        assert_eq!(
            (rig.counted("crate", outcome), rig.counted_in_all("crate")),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn one_file_that_is_cut_again_and_again_does_not_keep_out_the_others() {
    let fake = serving(Act::SendAndClose(raw(200, "Content-Length: 6\r\n", "abc"))).await;
    let rig = Rig::new(&fake, |options| options.breaker_failures = 2);
    for _try in 0..4 {
        let mut download = rig.download(0).await.expect("the breaker is closed");
        assert!(read(&mut download).await.is_err());
    }
    assert!(!rig.upstream.health().is_breaker_open());
}

#[tokio::test]
async fn a_body_that_drips_ends_with_the_deadline() {
    let fake = serving(Act::SendAndStall(raw(200, "Content-Length: 6\r\n", "abc"))).await;
    let rig = Rig::new(&fake, |options| options.deadline = SHORT);
    let mut download = rig.download(0).await.expect("a head");
    let ended = tokio::time::timeout(LONG / 2, read(&mut download)).await;
    let error = ended.expect("it ends").expect_err("it takes too long");
    assert!(
        matches!(
            error.kind(),
            Kind::Timeout {
                stage: Stage::Whole,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_or_not_given_is_asked_for_once() {
    for (status, outcome) in [
        (404, "not_found"),
        (403, "status"),
        (416, "status"),
        (503, "status"),
    ] {
        let fake = serving(reply(status, "Retry-After: 7\r\n", "")).await;
        let rig = Rig::new(&fake, |_| {});
        let error = rig.download(0).await.expect_err("no file");
        assert_eq!(error.outcome().as_str(), outcome);
        assert_eq!(error.is_not_found(), status == 404);
        assert_eq!((fake.count(FILE), rig.counted("crate", outcome)), (1, 1));
    }
}

#[tokio::test]
async fn a_lie_is_counted_as_one_and_no_failure_of_the_host() {
    let rig = Rig::new(&serving(reply(200, "", "abc")).await, |_| {});
    for _ in 0..5 {
        let mut download = rig.download(0).await.expect("a file");
        read(&mut download).await.expect("it is whole");
        download.mismatch();
    }
    assert_eq!(
        (
            rig.counted("crate", "mismatch"),
            rig.counted_in_all("crate")
        ),
        (5, 5)
    );
    assert!(!rig.upstream.health().is_breaker_open());
}

#[tokio::test]
async fn a_download_has_its_place_until_it_ends_or_is_dropped() {
    let fake = serving(Act::SendAndStall(raw(200, "Content-Length: 6\r\n", "abc"))).await;
    let rig = Rig::new(&fake, |options| options.concurrency = 1);
    let first = rig.download(0).await.expect("a head");
    assert!(
        tokio::time::timeout(SHORT, rig.download(0)).await.is_err(),
        "no place"
    );
    assert_eq!(fake.count(FILE), 1);
    drop(first);
    assert!(rig.download(0).await.is_ok());
}

#[tokio::test]
async fn who_waits_for_a_place_fails_at_once_when_the_breaker_opens() {
    let fake = serving(Act::SendAndStall(raw(200, "Content-Length: 6\r\n", "abc"))).await;
    let rig = Rig::new(&fake, |options| {
        options.concurrency = 2;
        options.stall_timeout = SHORT;
    });
    let mut first = rig.download(0).await.expect("a head");
    let mut second = rig.download(0).await.expect("a head");
    let (waiting, _, _) = tokio::join!(rig.download(0), read(&mut first), read(&mut second));
    let error = waiting.expect_err("it is given a rest");
    assert!(matches!(error.kind(), Kind::Breaker { .. }), "{error:?}");
    assert_eq!(fake.count(FILE), 2);
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever_and_not_into_the_network() {
    let redirect = |to: &str| reply(302, &format!("Location: {to}\r\n"), "");
    let fake = in_turn(move |turn| match turn {
        1 => redirect("/elsewhere"),
        _ => reply(200, "", line("demo", "0.1.0")),
    })
    .await;
    assert!(Rig::new(&fake, |_| {}).entry().await.is_ok());

    let check = async |to: &str, expected: &Refusal, requests: usize| {
        let fake = serving(redirect(to)).await;
        let rig = Rig::new(&fake, |_| {});
        let error = rig.entry().await.expect_err("not followed");
        match error.kind() {
            Kind::Forbidden(refusal) => assert_eq!(**refusal, *expected),
            _ => panic!("{error:?}"),
        }
        assert_eq!(fake.seen().len(), requests, "{to}");
        assert!(!rig.upstream.health().is_breaker_open());
    };
    check(ENTRY, &Refusal::TooManyRedirects, 6).await;
    let private = Refusal::PrivateAddress {
        host: "169.254.169.254".to_owned(),
        address: "169.254.169.254".parse().expect("an address"),
    };
    check("http://169.254.169.254/latest/meta-data", &private, 1).await;
    let file = Refusal::Scheme {
        url: "ftp://host.test/".to_owned(),
    };
    check("ftp://host.test/", &file, 1).await;
}

#[tokio::test]
async fn downloads_do_not_come_from_private_addresses_unless_that_is_allowed() {
    for host in ["127.0.0.2", "localhost"] {
        let fake = Fake::start(move |request| match request.target.as_str() {
            CONFIG => {
                let own = request.header("host").expect("a host");
                let port = own.rsplit(':').next().expect("a port");
                reply(200, "", format!("{{\"dl\":\"http://{host}:{port}/dl\"}}"))
            }
            _ => reply(200, "", "abc"),
        })
        .await;
        let error = Rig::new(&fake, |_| {})
            .download(0)
            .await
            .expect_err("private");
        assert!(matches!(error.kind(), Kind::Forbidden(_)), "{error:?}");
        assert!(
            one_line(&error).contains("allow_private"),
            "{}",
            one_line(&error)
        );
        let allowed = Rig::new(&fake, |options| {
            options.allow_private = true;
            options.attempts = 1;
        });
        // On 127.0.0.2 nobody listens: what matters is that it was tried.
        let tried = allowed.download(0).await.err();
        let is_forbidden = |error: &Error| matches!(error.kind(), Kind::Forbidden(_));
        assert!(!tried.as_ref().is_some_and(is_forbidden), "{tried:?}");
    }
}

#[tokio::test]
async fn a_proxy_is_asked_for_everything_with_its_own_credentials() {
    let fake = Fake::start(|_| reply(200, "", line("demo", "0.1.0"))).await;
    let proxy = format!("http://anna:geheim@{}", fake.address);
    let rig = Rig::at("http://index.test/index/", |options| {
        options.proxy = Some(proxy.parse().expect("a good URL"));
    });
    assert!(rig.entry().await.is_ok());
    let seen = &fake.seen()[0];
    assert_eq!(seen.target, "http://index.test/index/de/mo/demo");
    assert_eq!(
        seen.header("proxy-authorization"),
        Some("Basic YW5uYTpnZWhlaW0=")
    );
}

#[tokio::test]
async fn credentials_go_to_their_server_and_into_no_message() {
    let fake = serving(reply(403, "", "")).await;
    let url = format!("http://anna:geheim@{}/index", fake.address);
    let rig = Rig::at(&url, |_| {});
    let index = rig.entry().await.expect_err("denied");
    let file = rig.download(0).await.expect_err("denied");
    for error in [index, file] {
        let texts = [
            one_line(&error),
            format!("{error:?}"),
            error.url().to_owned(),
        ];
        assert!(
            texts.iter().all(|text| !text.contains("geheim")),
            "{texts:?}"
        );
    }
    let shown = format!("{:?}", rig.upstream);
    assert!(!shown.contains("geheim"), "{shown}");
    for seen in fake.seen() {
        assert_eq!(
            seen.header("authorization"),
            Some("Basic YW5uYTpnZWhlaW0="),
            "{seen:?}"
        );
    }
}

#[test]
fn options_that_cannot_be_used_are_refused_by_name() {
    let check = |adjust: &dyn Fn(&mut Options), expected: &str| {
        let mut options = options("http://host.test/");
        adjust(&mut options);
        let metrics = Arc::new(Metrics::new().expect("good series"));
        let error = Upstream::new(options, metrics).expect_err("it cannot be used");
        let text = one_line(&error);
        assert!(
            text.contains(expected) && !text.contains("geheim"),
            "{text}"
        );
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (missing, empty, bad) = (
        folder.path().join("missing.pem"),
        folder.path().join("empty.pem"),
        folder.path().join("bad.pem"),
    );
    std::fs::write(&empty, "no PEM").expect("a file");
    std::fs::write(
        &bad,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .expect("a file");
    check(
        &|options| options.ca_file = Some(missing.clone()),
        "missing.pem",
    );
    check(
        &|options| options.ca_file = Some(empty.clone()),
        "empty.pem",
    );
    check(&|options| options.ca_file = Some(bad.clone()), "bad.pem");
    check(
        &|options| options.contact = Some("a\nb".to_owned()),
        "upstream.contact",
    );
    let proxy = |text: &str| Some(text.parse().expect("a good URL"));
    check(
        &|options| options.proxy = proxy("ftp://u:geheim@h.test/"),
        "upstream.proxy",
    );
    check(
        &|options| options.index_url = "ftp://u:geheim@h.test/".parse().expect("a good URL"),
        "upstream.url",
    );
}

#[test]
fn what_is_shown_of_a_template_has_no_secret() {
    for (dl, expected) in [
        ("u:geheim@host/{crate}?token=geheim", "host/{crate}"),
        ("no url", "no url"),
    ] {
        assert_eq!(shown_template(dl), expected);
    }
}
