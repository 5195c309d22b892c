//! The data of the pages, by their JSON twins.

use serde_json::Value;

use crate::support::{
    all_at_once,
    crates::{Krate, Registry},
    http::Ask,
    orlop::{Orlop, Setup},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

fn setting() -> (Upstream, Orlop) {
    let mut registry = Registry::new();
    registry.put(&Krate::new("demo-one", "1.0.0").size(20_000));
    registry.put(&Krate::new("demo-one", "1.1.0").size(5_000));
    registry.put(&Krate::new("demo-one", "2.0.0-rc.1"));
    registry.put(&Krate::new("other", "0.1.0"));
    let upstream = Upstream::start(registry);
    let orlop = Setup::over(&upstream).start();
    (upstream, orlop)
}

#[track_caller]
fn json(orlop: &Orlop, target: &str) -> Value {
    told(orlop, &Ask::get(target), 200)
}

#[track_caller]
fn told(orlop: &Orlop, ask: &Ask, status: u16) -> Value {
    let answer = orlop.ask(ask);
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// What went through, in the order of the fields of a point.
fn traffic(orlop: &Orlop) -> [u64; 5] {
    let total = json(orlop, "/status.json?range=week")["traffic"]["total"].clone();
    [
        "index_hits",
        "index_misses",
        "crate_hits",
        "crate_misses",
        "saved_bytes",
    ]
    .map(|field| total[field].as_u64().expect("a number"))
}

fn attention(orlop: &Orlop, text: &str) -> Option<Value> {
    let page = json(orlop, "/status.json");
    let all = page["attention"].as_array().expect("a list").clone();
    let has = |one: &Value| one["text"].as_str().is_some_and(|said| said.contains(text));
    all.into_iter().find(has)
}

fn events(orlop: &Orlop, kind: &str) -> Vec<String> {
    let page = json(orlop, "/status.json");
    let all = page["events"].as_array().expect("a list").clone();
    let of_kind = all.into_iter().filter(|event| event["kind"] == kind);
    of_kind
        .map(|event| event["text"].as_str().expect("text").to_owned())
        .collect()
}

#[test]
fn what_went_through_adds_up_and_survives_restarts() {
    let (upstream, orlop) = setting();
    let index_bytes = upstream.index_file("demo-one").len() as u64;
    for _time in 0..3 {
        assert_eq!(orlop.index("demo-one").status, 200);
        assert!(orlop.download("demo-one", "1.0.0").is_complete_file());
    }
    let file_bytes = orlop.download("demo-one", "1.0.0").body.len() as u64;
    let saved = 2 * index_bytes + 3 * file_bytes;
    until("the traffic is told", || {
        traffic(&orlop) == [2, 1, 3, 1, saved]
    });
    let day = json(&orlop, "/status.json?range=day")["traffic"].clone();
    assert_eq!(day["points"].as_array().map(Vec::len), Some(288));
    let since = day["since_seconds"].clone();
    for range in ["day", "week", "month", "year"] {
        let page = json(&orlop, &format!("/status.json?range={range}"));
        let (traffic, now) = (&page["traffic"], page["now_seconds"].as_u64());
        assert_eq!(traffic["range"], range);
        assert_eq!(traffic["total"]["crate_hits"], 3, "{range}");
        let last = traffic["points"]
            .as_array()
            .expect("points")
            .last()
            .cloned();
        let last = last.expect("a point")["at_seconds"].as_u64();
        let step = traffic["step_seconds"].as_u64();
        assert!(last <= now && now < last.zip(step).map(|(last, step)| last + step));
    }
    let orlop = orlop.restart();
    assert_eq!(traffic(&orlop), [2, 1, 3, 1, saved], "a clean end writes");
    assert!(orlop.download("demo-one", "1.0.0").is_complete_file());
    let more = [2, 1, 4, 1, saved + file_bytes];
    until("it counts on", || traffic(&orlop) == more);
    let orlop = orlop.kill9().start();
    let after = traffic(&orlop);
    assert!(
        after == more || after == [2, 1, 3, 1, saved],
        "a crash costs at most the last minute: {after:?}"
    );
    assert_eq!(
        json(&orlop, "/status.json")["traffic"]["since_seconds"],
        since
    );
}

#[test]
fn a_crate_has_a_page_once_it_was_asked_for() {
    let (upstream, orlop) = setting();
    let unknown = told(&orlop, &Ask::get("/crates/demo-one.json"), 404);
    let hint = unknown["error"].as_str().expect("text");
    assert!(hint.contains("once a cargo asks"), "{hint}");
    for name in ["no%20name", "%3Cscript%3E", "a%2Fb", &"x".repeat(65)] {
        let answer = orlop.get(&format!("/crates/{name}.json"));
        assert!([400, 404].contains(&answer.status), "{name}");
        assert!(!answer.text().contains("<script>"), "{name}");
    }
    assert!(orlop.download("demo-one", "1.0.0").is_complete_file());
    let page = json(&orlop, "/crates/Demo-One.json");
    assert_eq!(page["name"], "demo-one");
    assert_eq!(page["max_version"], "1.1.0");
    assert_eq!(page["dependency"], "demo-one = \"1.1.0\"");
    assert_eq!(
        (&page["versions_count"], &page["held_count"]),
        (&3.into(), &1.into())
    );
    let versions = page["versions"].as_array().expect("a list");
    let names: Vec<_> = versions.iter().map(|one| one["version"].clone()).collect();
    assert_eq!(names, ["2.0.0-rc.1", "1.1.0", "1.0.0"]);
    let held = &versions[2];
    let bytes = upstream.registry().release("demo-one", "1.0.0").bytes.len();
    assert_eq!(
        (&held["held"], &held["bytes"]),
        (&true.into(), &bytes.into())
    );
    assert_eq!(page["held_bytes"], bytes);
    assert_eq!(
        (&versions[0]["held"], &versions[0]["bytes"]),
        (&false.into(), &Value::Null)
    );
    assert!(held["first_seen_seconds"].as_u64() > Some(1_600_000_000));
    assert!(page["counted_since_seconds"].as_u64() > Some(1_600_000_000));
    assert_eq!(page["events"][0]["kind"], "new");

    upstream.edit(|registry| registry.yank("demo-one", "1.1.0"));
    upstream.edit(|registry| registry.put(&Krate::new("demo-one", "1.2.0")));
    let orlop = orlop.terminate().config("index.fresh_for", "0s").start();
    assert_eq!(orlop.index("demo-one").status, 200);
    let page = json(&orlop, "/crates/demo-one.json");
    assert_eq!(page["max_version"], "1.2.0");
    assert_eq!(page["downloads"], 1, "a clean end writes who fetched what");
    let kinds: Vec<_> = page["events"].as_array().expect("a list").iter().collect();
    let kinds: Vec<_> = kinds.iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    assert!(kinds.contains(&"yanked".into()) && kinds.contains(&"version".into()));
    let yanked = &page["versions"][2];
    assert_eq!(
        (&yanked["version"], &yanked["yanked"]),
        (&"1.1.0".into(), &true.into())
    );
}

#[test]
fn a_search_finds_the_best_first_and_nothing_asked_is_what_came_of_late() {
    let (upstream, orlop) = setting();
    upstream.edit(|registry| {
        for name in ["demo-one-more", "my-demo-one", "demo", "zz"] {
            registry.put(&Krate::new(name, "1.0.0"));
        }
    });
    for name in ["my-demo-one", "demo-one-more", "demo-one", "demo", "zz"] {
        assert_eq!(orlop.index(name).status, 200);
    }
    assert!(orlop.download("demo", "1.0.0").is_complete_file());
    let found = |query: &str| {
        let page = json(&orlop, &format!("/crates.json?q={query}"));
        let found = page["found"].as_array().expect("a list").clone();
        let names = found
            .iter()
            .map(|one| one["name"].as_str().expect("a name").to_owned());
        (names.collect::<Vec<_>>(), page["total"].clone())
    };
    let names = ["demo-one", "demo-one-more", "my-demo-one"].map(str::to_owned);
    assert_eq!(found("DEMO_one"), (names.to_vec(), 3.into()));
    assert_eq!(found("none-such").1, 0);
    let (lately, total) = found("");
    assert_eq!((lately, total), (vec!["demo".to_owned()], 1.into()));
    assert!(orlop.download("zz", "1.0.0").is_complete_file());
    assert_eq!(found("").0, ["zz", "demo"], "the last that came in first");
    let page = json(&orlop, "/crates.json?q=%00demo-%E2%80%AEone");
    assert_eq!(page["query"], "demo-one");
    assert_eq!(page["found"][0]["versions"], 3);
    assert_eq!(page["found"][0]["held"], 0);
    let long = format!("/crates.json?q={}", "x".repeat(257));
    told(&orlop, &Ask::get(&long), 400);
}

#[test]
fn a_checksum_that_changed_needs_somebody_and_no_burst_and_no_restart_hides_it() {
    let (upstream, orlop) = setting();
    assert_eq!(orlop.index("demo-one").status, 200);
    upstream.edit(|registry| registry.put(&Krate::new("demo-one", "1.0.0").size(21_000)));
    upstream.edit(|registry| {
        for number in 0..300 {
            registry.put(&Krate::new(&format!("burst-{number}"), "1.0.0"));
        }
    });
    assert!(orlop.download("demo-one", "1.0.0").is_complete_file());
    all_at_once(10, |part| {
        for number in part * 30..(part + 1) * 30 {
            assert_eq!(orlop.index(&format!("burst-{number}")).status, 200);
        }
    });
    let check = |orlop: &Orlop| {
        until("the burst is told", || !events(orlop, "new").is_empty());
        let told = attention(orlop, "another checksum").expect("it needs somebody");
        assert_eq!(told["level"], "warn");
        let remedy = told["remedy"].as_str().expect("a remedy");
        assert!(remedy.contains("`orlop who demo-one`"), "{remedy}");
        assert_eq!(events(orlop, "changed").len(), 1);
        let new = events(orlop, "new");
        assert!(new.len() <= 3 && new[0].starts_with("30"), "{new:?}");
        assert_eq!(json(orlop, "/status.json")["verdict"]["level"], "warn");
    };
    check(&orlop);
    let orlop = orlop.restart();
    check(&orlop);
    check(&orlop.kill9().start());
}

#[test]
fn what_upstream_sends_wrongly_needs_somebody() {
    let (upstream, orlop) = setting();
    upstream.misbehave(On::Kind(Kind::Crate), Fault::Flip);
    assert_eq!(orlop.download("demo-one", "1.0.0").status, 502);
    until("it is told", || {
        attention(&orlop, "does not promise").is_some()
    });
    let trouble = events(&orlop, "trouble");
    assert!(trouble[0].contains("demo-one 1.0.0"), "{trouble:?}");
}

#[test]
fn a_client_is_set_up_for_the_host_that_it_came_by() {
    let (_upstream, orlop) = setting();
    let ask = |headers: &[(&str, &str)]| {
        let ask = Ask::get("/status.json");
        headers
            .iter()
            .fold(ask, |ask, (name, value)| ask.header(name, value))
    };
    let page = told(&orlop, &ask(&[("Host", "Mirror.Lab:8080")]), 200);
    assert_eq!(page["clients"]["base"], "http://mirror.lab:8080");
    let ways = page["clients"]["ways"].as_array().expect("a list").clone();
    let ids: Vec<_> = ways.iter().map(|way| way["id"].clone()).collect();
    assert_eq!(ids, ["sparse", "git", "held", "held-git"]);
    let config = |number: usize| ways[number]["config"].as_str().map(str::to_owned);
    let note = |number: usize| ways[number]["note"].as_str().map(str::to_owned);
    let index = |path: &str| format!("index = \"sparse+http://mirror.lab:8080{path}/index/\"");
    assert!(config(0).is_some_and(|text| text.contains(&index(""))));
    assert!(config(2).is_some_and(|text| text.contains(&index("/view/held"))));
    let git = config(1).expect("the git index is served");
    assert!(git.contains(&format!("{}/git/index", orlop.url())), "{git}");
    let elsewhere = note(1).expect("a note");
    assert!(elsewhere.contains(&orlop.url()), "{elsewhere}");
    assert!(elsewhere.contains("`public_url`"), "{elsewhere}");
    // Nobody who is not trusted says where a client came in.
    let told_so = [
        ("Host", "a"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Proto", "https"),
    ];
    assert_eq!(
        told(&orlop, &ask(&told_so), 200)["clients"]["base"],
        "http://a"
    );
    for hostile in [
        "a\"b",
        "<script>alert(1)</script>",
        "a b",
        "ä.example",
        "u@h",
        &"h".repeat(300),
    ] {
        let refused = told(&orlop, &ask(&[("Host", hostile)]), 400);
        assert!(
            refused["error"]
                .as_str()
                .is_some_and(|why| why.contains("host"))
        );
    }
    let proxied = orlop
        .terminate()
        .config("listen.trusted_proxies", "127.0.0.1")
        .start();
    let page = told(&proxied, &ask(&told_so), 200);
    assert_eq!(page["clients"]["base"], "https://evil");
}

#[test]
fn where_nobody_said_by_which_url_it_is_reached_the_git_index_tells_what_to_set() {
    let upstream = Upstream::start(Registry::new());
    let orlop = Setup::over(&upstream)
        .config("listen.addresses", "0.0.0.0:0")
        .start();
    let page = json(&orlop, "/status.json");
    for number in [1, 3] {
        let way = &page["clients"]["ways"][number];
        assert_eq!(way["config"], Value::Null);
        let note = way["note"].as_str().expect("text");
        assert!(note.contains("`public_url`"), "{note}");
    }
    let told = attention(&orlop, "git index").expect("it is worth knowing");
    assert_eq!(told["level"], "good");
    assert!(
        told["remedy"]
            .as_str()
            .is_some_and(|what| what.contains("`public_url`"))
    );
}

#[test]
fn what_was_set_aside_needs_attention_until_it_is_deleted() {
    let (upstream, orlop) = setting();
    assert!(attention(&orlop, "set aside").is_none());
    let setup = orlop.terminate();
    let broken = ["sled.broken-1", "git/index.broken-1"].map(|name| setup.data().join(name));
    for dir in &broken {
        std::fs::create_dir_all(dir).expect("a folder in the data folder");
    }
    let orlop = setup.start();
    for text in [
        "1 index database of the store",
        "git index could not be used",
    ] {
        let item = attention(&orlop, text).expect("it needs attention");
        assert_eq!(item["level"], "warn");
        let remedy = item["remedy"].as_str().expect("text");
        assert!(remedy.contains("Delete"), "{remedy}");
    }
    assert_eq!(orlop.get("/readyz").status, 200);
    let setup = orlop.terminate();
    for dir in &broken {
        std::fs::remove_dir_all(dir).expect("nobody needs it");
    }
    assert!(attention(&setup.start(), "set aside").is_none());
    drop(upstream);
}

#[test]
fn many_who_look_at_once_are_all_answered() {
    let (_upstream, orlop) = setting();
    let answers = all_at_once(32, |_client| {
        (0..5).all(|_time| {
            orlop.index("demo-one").status == 200 && orlop.get("/status.json").status == 200
        })
    });
    assert!(answers.into_iter().all(|well| well));
    let [hits, misses, ..] = traffic(&orlop);
    assert_eq!(hits + misses, 32 * 5, "{hits} hits and {misses} misses");
}

/// Each address has its own connections, and all want what is large.
#[test]
fn many_who_look_for_crates_at_once_are_answered_or_told_when_to_come_again() {
    let mut registry = Registry::new();
    for version in 0..300 {
        registry.put(&Krate::new("large", &format!("1.{version}.0")));
    }
    let upstream = Upstream::start(registry);
    let orlop = Setup::over(&upstream).start();
    assert_eq!(orlop.index("large").status, 200);
    let answers = all_at_once(48, |client| {
        let ask = |time: usize| match (client + time) % 4 {
            0 => orlop.get("/crates/large.json"),
            1 => orlop.get("/crates/large"),
            2 => orlop.get(&format!("/crates?q=l{client}x{time}")),
            _ => orlop.get(&format!("/crates/none{client}x{time}.json")),
        };
        (0..4).map(ask).collect::<Vec<_>>()
    });
    for answer in answers.into_iter().flatten() {
        match answer.status {
            503 => assert!(answer.header("retry-after").is_some()),
            status => assert!([200, 404].contains(&status), "{}", answer.text()),
        }
    }
    assert_eq!(json(&orlop, "/crates/large.json")["versions_count"], 300);
    assert_eq!(orlop.get("/healthz").status, 200);
}

/// Lists that are empty on some machines and at some times.
const OPEN_LISTS: [&str; 3] = [".attention", ".jobs", ".last_jobs"];

/// The names of the fields; of a list those of its first element.
fn shape(value: &Value, path: &str, out: &mut String) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                shape(value, &format!("{path}.{name}"), out);
            }
        }
        Value::Array(all) if !OPEN_LISTS.contains(&path) => {
            let first = all.first().unwrap_or(&Value::Null);
            shape(first, &format!("{path}[]"), out);
        }
        _ => *out += &format!("{path}\n"),
    }
}

#[test]
fn scripts_find_the_fields_that_they_know() {
    let (_upstream, orlop) = setting();
    assert!(orlop.download("demo-one", "1.0.0").is_complete_file());
    let mut shapes = String::new();
    for target in ["/status.json", "/crates.json", "/crates/demo-one.json"] {
        shapes += &format!("{target}\n");
        shape(&json(&orlop, target), "", &mut shapes);
    }
    insta::assert_snapshot!(shapes);
}
