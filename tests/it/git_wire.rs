//! What clients of the git index send, and what is answered before the pack: recorded talks,
//! requests that are refused, and any bytes at all.

use std::{fs, path::PathBuf};

use orlop::git::{
    Selection, Wishes,
    pkt::{self, Sideband},
    upload_pack::{Answer, Asked, History as _, PackPlan, Version, advertise, answer},
};

use crate::support::git::Git;

#[path = "../fuzz/check.rs"]
mod check;

use check::{Linear, VERSIONS, check};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/upload-pack")
}

fn read(name: &str) -> Vec<u8> {
    let path = corpus().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn history() -> Linear {
    Linear::of_lines(&String::from_utf8(read("history.txt")).expect("text"))
}

fn requests() -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<String> = fs::read_dir(corpus())
        .expect("the corpus is there")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.ends_with(".request"))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| (name.clone(), read(&name)))
        .collect()
}

/// `talks.txt` has a line for each talk: its name, the version of the protocol, how many commits
/// there were, and whether the recorded answer went on with a pack.
#[test]
fn recorded_clients_are_answered_as_git_answers_them() {
    let whole = history();
    let talks = String::from_utf8(read("talks.txt")).expect("text");
    for talk in talks.lines() {
        let words: Vec<&str> = talk.split(' ').collect();
        let [name, version, commits, goes_on] = words[..] else {
            panic!("not a talk: {talk}");
        };
        let commits: usize = commits.parse().expect("a number");
        let history = Linear {
            commits: whole.commits[..commits].to_vec(),
            first: 1,
        };
        let version = VERSIONS[version.parse::<usize>().expect("a version")];
        let answered = answer(&history, version, &read(&format!("{name}.request")));
        let recorded = read(&format!("{name}.answer"));
        assert_eq!(answered.pack.is_some(), goes_on == "pack", "{name}");
        assert_eq!(
            String::from_utf8_lossy(&answered.head),
            String::from_utf8_lossy(&recorded),
            "{name}"
        );
    }
    assert!(talks.lines().count() > 50);
}

#[test]
fn any_bytes_are_answered_or_refused() {
    let history = history();
    let requests = requests();
    let mut random = fastrand::Rng::with_seed(15);
    for (name, request) in &requests {
        check(&history, request);
        for _ in 0..100 {
            let (_, other) = &requests[random.usize(..requests.len())];
            check(&history, &mutated(&mut random, request, other));
        }
        assert!(!request.is_empty(), "{name}");
    }
    assert!(requests.len() > 50);
}

/// A request with some of its parts changed, doubled, cut, or mixed with those of another.
fn mutated(random: &mut fastrand::Rng, request: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = request.to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=bytes.len());
        match random.u8(..6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 if at < bytes.len() => bytes[at] = b"0123456789abcdef \n"[random.usize(..18)],
            3 => bytes.insert(at, random.u8(..)),
            4 => {
                let rest = bytes.split_off(at);
                bytes.extend_from_slice(&other[random.usize(..=other.len())..]);
                bytes.extend_from_slice(&rest);
            }
            _ => bytes.extend_from_slice(&request[at.min(request.len())..]),
        }
    }
    bytes
}

/// A request in the words of the protocol: `.` is a flush, `|` a delimiter.
fn packets(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        match *line {
            "." => out.extend_from_slice(pkt::FLUSH),
            "|" => out.extend_from_slice(pkt::DELIM),
            line => pkt::write(&mut out, line.as_bytes()),
        }
    }
    out
}

fn id(history: &Linear, generation: u64) -> String {
    history
        .commit_of(generation)
        .expect("it is there")
        .to_string()
}

/// A fetch in protocol 2: `W7` wants generation 7, `H3` has 3, `S2` ends at 2, all else as it is.
fn fetch_v2(history: &Linear, words: &[&str]) -> Answer {
    let lines: Vec<String> = words.iter().map(|word| spelt(history, word)).collect();
    let mut all = vec!["command=fetch", "object-format=sha1", "|"];
    all.extend(lines.iter().map(String::as_str));
    all.push(".");
    answer(history, Version::V2, &packets(&all))
}

fn spelt(history: &Linear, word: &str) -> String {
    let of = |name: &str, number: &str| {
        let generation = number.parse().expect("a number");
        format!("{name} {}", id(history, generation))
    };
    match word.split_at(1) {
        ("W", number) => of("want", number),
        ("H", number) => of("have", number),
        ("S", number) => of("shallow", number),
        _ => word.to_owned(),
    }
}

/// Sixteen generations, the first of which is the tenth.
fn tenth_on() -> Linear {
    Linear {
        first: 10,
        ..history()
    }
}

fn shallow(oldest: u64, have: &[u64]) -> Selection {
    Selection::Shallow {
        oldest,
        have: have.to_vec(),
    }
}

#[test]
fn the_newest_common_commit_decides_what_is_sent() {
    let history = tenth_on();
    let from = |have| Selection::History { have };
    let other = "have 1111111111111111111111111111111111111111";
    let cases: &[(&[&str], Selection)] = &[
        (&["W25", "done"], from(None)),
        (&["W25", "W25", "done"], from(None)),
        (&["W25", "W20", other, "done"], from(None)),
        (&["W25", "H12", "H20", other, "H15", "done"], from(Some(20))),
        (&["W25", "H25", "done"], from(Some(25))),
        (&["W20", "H22", "done"], from(Some(22))),
        // A client with a short history gets what is new, and its boundary stays where it is.
        (&["W25", "S20", "H20", "done"], shallow(21, &[20])),
        (&["W25", "S20", "H23", "done"], shallow(24, &[23])),
        (&["W25", "S20", "S23", "H21", "done"], shallow(23, &[21])),
        (&["W25", "S20", "done"], shallow(20, &[])),
        (&["W25", "S25", "H25", "done"], shallow(26, &[25])),
        (&["W20", "S25", "H25", "done"], from(None)),
        (
            &[
                "W25",
                "shallow 1111111111111111111111111111111111111111",
                "H23",
                "done",
            ],
            shallow(24, &[23]),
        ),
        // A first fetch of some depth, and one of a client that has everything.
        (&["W25", "deepen 1", "done"], shallow(25, &[])),
        (&["W25", "deepen 3", "done"], shallow(23, &[])),
        (&["W24", "deepen 3", "done"], shallow(22, &[])),
        (&["W25", "deepen 1", "H24", "done"], shallow(25, &[24])),
        (&["W25", "deepen 1", "H25", "done"], shallow(26, &[25])),
        // Deeper, by depth and by difference; beyond the root it is everything.
        (
            &["W25", "S25", "H25", "deepen 3", "done"],
            shallow(23, &[25]),
        ),
        (
            &["W25", "S20", "H23", "deepen 10", "done"],
            shallow(16, &[20, 23]),
        ),
        (
            &["W25", "S20", "H23", "deepen 2", "deepen-relative", "done"],
            shallow(18, &[20, 23]),
        ),
        (
            &["W25", "S20", "H23", "deepen 10", "deepen-relative", "done"],
            shallow(10, &[20, 23]),
        ),
        (
            &["W25", "S20", "H23", "deepen 11", "deepen-relative", "done"],
            from(None),
        ),
        (
            &["W25", "S20", "H23", "deepen 16", "done"],
            shallow(10, &[20, 23]),
        ),
        (&["W25", "S20", "H23", "deepen 17", "done"], from(None)),
        (
            &["W25", "S20", "H23", "deepen 2147483647", "done"],
            from(None),
        ),
        (&["W25", "H23", "deepen 2147483647", "done"], from(Some(23))),
        (
            &["W25", "H23", "deepen 18446744073709551615", "done"],
            from(Some(23)),
        ),
        // Shorter than before.
        (
            &["W25", "S12", "H23", "deepen 1", "done"],
            shallow(25, &[23]),
        ),
        (
            &["W25", "S12", "H23", "deepen 5", "done"],
            shallow(24, &[23]),
        ),
    ];
    for (words, selection) in cases {
        let plan = fetch_v2(&history, words).pack.expect("a pack");
        assert_eq!(plan.selection, *selection, "{words:?}");
    }
}

#[test]
fn a_boundary_is_told_as_git_tells_it() {
    let history = tenth_on();
    let told = |words: &[&str]| {
        let answer = fetch_v2(&history, words);
        let text = String::from_utf8(answer.head).expect("text");
        let info = text
            .split_once("shallow-info\n")
            .map(|(_, rest)| rest.split("0001").next());
        let mut lines = info.flatten().unwrap_or("none").to_owned();
        for generation in 10..26 {
            lines = lines.replace(&id(&history, generation), &generation.to_string());
        }
        lines
    };
    assert_eq!(told(&["W25", "done"]), "none");
    assert_eq!(told(&["W25", "deepen 3", "done"]), "0034shallow 23");
    assert_eq!(told(&["W25", "deepen 99", "done"]), "");
    assert_eq!(told(&["W25", "S20", "H23", "done"]), "");
    assert_eq!(told(&["W25", "S23", "deepen 3", "done"]), "");
    assert_eq!(
        told(&["W25", "S24", "deepen 3", "done"]),
        "0034shallow 230036unshallow 24"
    );
    assert_eq!(
        told(&["W25", "S24", "S12", "deepen 3", "done"]),
        "0034shallow 230036unshallow 24"
    );
    assert_eq!(
        told(&["W25", "S24", "deepen 99", "done"]),
        "0036unshallow 24"
    );
    assert_eq!(
        told(&["W25", "S24", "deepen 2147483647", "done"]),
        "0036unshallow 24"
    );
    assert_eq!(told(&["W20", "S24", "deepen 2", "done"]), "0034shallow 19");
    assert_eq!(
        told(&["W25", "S24", "deepen 2", "deepen-relative", "done"]),
        "0034shallow 220036unshallow 24"
    );
}

#[test]
fn what_a_client_understands_reaches_the_plan() {
    let history = history();
    let want = |features: &str| {
        let want = format!("want {} {features}\n", id(&history, 16));
        let body = packets(&[&want, ".", "done"]);
        answer(&history, Version::V0, &body).pack.expect("a pack")
    };
    let plan = |sideband, thin_pack, ofs_delta, progress| PackPlan {
        selection: Selection::History { have: None },
        wishes: Wishes {
            ofs_delta,
            thin_pack,
        },
        sideband,
        progress,
    };
    assert_eq!(want(""), plan(None, false, false, true));
    assert_eq!(
        want("side-band"),
        plan(Some(Sideband::Small), false, false, true)
    );
    assert_eq!(
        want("side-band-64k side-band thin-pack ofs-delta no-progress agent=x unheard-of"),
        plan(Some(Sideband::Large), true, true, false)
    );
    let v2 = fetch_v2(
        &history,
        &[
            "W16",
            "thin-pack",
            "ofs-delta",
            "no-progress",
            "include-tag",
            "done",
        ],
    );
    assert_eq!(
        v2.pack,
        Some(plan(Some(Sideband::Large), true, true, false))
    );
}

/// A talk in protocol 0: what is answered to haves, by the kind of acknowledgment.
#[test]
fn haves_are_acknowledged_as_the_client_understands_it() {
    let history = history();
    let other = "1".repeat(40);
    let talk = |features: &str, words: &[&str]| {
        let want = format!("want {} {features}\n", id(&history, 16));
        let words: Vec<String> = words
            .iter()
            .map(|word| match *word {
                "Hx" => format!("have {other}\n"),
                word => spelt(&history, word),
            })
            .collect();
        let mut lines = vec![want.as_str(), "."];
        lines.extend(words.iter().map(String::as_str));
        let answer = answer(&history, Version::V0, &packets(&lines));
        let mut text = String::from_utf8(answer.head)
            .expect("text")
            .replace(&other, "x");
        for generation in 1..17 {
            text = text.replace(&id(&history, generation), &generation.to_string());
        }
        let lines: Vec<&str> = text.lines().map(|line| &line[4..]).collect();
        format!(
            "{}{}",
            lines.join(", "),
            if answer.pack.is_some() { ", pack" } else { "" }
        )
    };
    let check = |features: &str, words: &[&str], expected: &str| {
        assert_eq!(talk(features, words), expected, "{features} {words:?}");
    };
    check("", &["Hx", "."], "NAK");
    check("", &["H9", "H8", "."], "ACK 9");
    check("", &["H9", "Hx", "done"], "ACK 9, pack");
    check("", &["Hx", "done"], "NAK, pack");
    check(
        "multi_ack",
        &["H9", "Hx", "."],
        "ACK 9 continue, ACK x continue, NAK",
    );
    check("multi_ack", &["H9", "done"], "ACK 9 continue, ACK 9, pack");
    let detailed = "multi_ack multi_ack_detailed";
    check(detailed, &["Hx", "H9", "."], "ACK 9 common, NAK");
    check(detailed, &["H9", "."], "ACK 9 common, ACK 9 ready, NAK");
    check(
        detailed,
        &["H9", "Hx", "."],
        "ACK 9 common, ACK x ready, NAK",
    );
    check(
        detailed,
        &["H9", "H4", "done"],
        "ACK 9 common, ACK 4 common, ACK 4, pack",
    );
    check(
        "multi_ack_detailed no-done",
        &["H9", "."],
        "ACK 9 common, ACK 9 ready, NAK, ACK 9, pack",
    );
    // The first flush ends a request, as it does with git.
    check(detailed, &["Hx", ".", "H9", "done"], "NAK");
}

#[test]
fn refs_are_listed_as_they_are_asked_for() {
    let history = history();
    let head = id(&history, 16);
    let list = |history: &Linear, arguments: &[&str]| {
        let mut lines = vec!["command=ls-refs", "agent=x", "object-format=sha1", "|"];
        lines.extend(arguments);
        lines.push(".");
        let answer = answer(history, Version::V2, &packets(&lines));
        assert_eq!(answer.asked, Asked::LsRefs);
        String::from_utf8(answer.head)
            .expect("text")
            .replace(&head, "ID")
    };
    let both = "0032ID HEAD\n003fID refs/heads/master\n0000";
    assert_eq!(list(&history, &[]), both);
    assert_eq!(
        list(
            &history,
            &["peel", "ref-prefix HEAD", "ref-prefix refs/heads/"]
        ),
        both
    );
    assert_eq!(
        list(&history, &["symrefs", "ref-prefix HEAD"]),
        "0052ID HEAD symref-target:refs/heads/master\n0000"
    );
    assert_eq!(list(&history, &["ref-prefix refs/tags/"]), "0000");
    let none = Linear::of_lines("");
    assert_eq!(list(&none, &["symrefs"]), "0000");
    let unborn = "0030unborn HEAD symref-target:refs/heads/master\n0000";
    assert_eq!(list(&none, &["symrefs", "unborn"]), unborn);
    let without = answer(&history, Version::V2, &packets(&["command=ls-refs", "."]));
    assert_eq!(without.asked, Asked::LsRefs);
}

#[test]
fn the_advertisement_says_what_there_is_and_what_can_be() {
    let history = history();
    let text = |history: &Linear, version| {
        let text = String::from_utf8(advertise(history, version)).expect("text");
        text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
            .replace('\0', "\\0")
    };
    let head = id(&history, 16);
    let v0 = text(&history, Version::V0);
    assert!(
        v0.starts_with("001e# service=git-upload-pack\n0000"),
        "{v0}"
    );
    assert!(
        v0.contains(&format!("{head} HEAD\\0multi_ack thin-pack")),
        "{v0}"
    );
    assert!(v0.contains(" symref=HEAD:refs/heads/master object-format=sha1 agent=orlop/VERSION\n"));
    assert!(
        v0.ends_with(&format!("003f{head} refs/heads/master\n0000")),
        "{v0}"
    );
    let v1 = text(&history, Version::V1);
    assert_eq!(v1.replace("000eversion 1\n", ""), v0);
    let v2 = text(&history, Version::V2);
    assert!(
        v2.starts_with("000eversion 2\n") && v2.contains("fetch=shallow\n"),
        "{v2}"
    );
    let none = text(&Linear::of_lines(""), Version::V0);
    assert!(
        none.contains(&format!("{} capabilities^{{}}\\0multi_ack", "0".repeat(40))),
        "{none}"
    );
}

#[test]
fn the_version_is_what_the_header_asks_for() {
    let check = |header: &str, version| {
        assert_eq!(Version::of_header(header.as_bytes()), version, "{header}");
    };
    check("version=2", Version::V2);
    check("version=1", Version::V1);
    check("version=0", Version::V0);
    check("version=3", Version::V0);
    check("version=1:version=2:side=x", Version::V2);
    check("side=x:version=2", Version::V2);
    check("", Version::V0);
    check("version=22", Version::V0);
}

#[track_caller]
fn refused(history: &Linear, version: Version, body: &[u8], reason: &str) {
    let answer = answer(history, version, body);
    assert_eq!(answer.asked, Asked::Refused, "{reason}");
    assert_eq!(answer.pack, None);
    let text = String::from_utf8(answer.head).expect("text");
    assert!(
        text[4..].starts_with("ERR upload-pack: ") && text.contains(reason),
        "{text}"
    );
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_reason() {
    let history = history();
    let ours = format!("want {}", id(&history, 16));
    let other = format!("want {}", "1".repeat(40));
    let refused = |version, body: &[u8], reason: &str| refused(&history, version, body, reason);
    let v0 = |lines: &[&str], reason: &str| refused(Version::V0, &packets(lines), reason);
    let v2 = |lines: &[&str], reason: &str| {
        let mut all = vec!["command=fetch", "|"];
        all.extend(lines);
        all.push(".");
        refused(Version::V2, &packets(&all), reason);
    };
    let not_ours = format!("not our ref {}", "1".repeat(40));
    v0(&[&other, "."], &not_ours);
    v0(&[&ours, &other, ".", "done"], &not_ours);
    v0(&[&ours], "breaks off after wants");
    v0(
        &[&ours, ".", "have x", "."],
        "expected an object id, got 'x'",
    );
    v0(
        &[&ours, ".", "haves\n", "."],
        "expected a have or done, got 'haves'",
    );
    v0(&[&ours, ".", "|"], "expected a have");
    v0(&[&ours, "|"], "expected a line or a flush");
    v0(&["wants", "."], "expected a want, got 'wants'");
    v0(&["want ", "."], "expected an object id");
    v0(&["want 1234", "."], "expected an object id, got '1234'");
    v0(&[&ours, "deepen 0", "."], "expected a depth");
    v0(&[&ours, "deepen -1", "."], "expected a depth");
    v0(
        &[&ours, "deepen-since 1700000000", "."],
        "deepen-since is not supported",
    );
    v0(
        &[&ours, "deepen-not master", "."],
        "deepen-not is not supported",
    );
    v0(
        &[&ours, "filter blob:none", "."],
        "a filter is not supported",
    );
    v0(
        &[&format!("{ours} object-format=sha256"), "."],
        "not 'sha256'",
    );
    v0(&["\u{1b}[2J\u{7}", "."], "got '?[2J?'");
    v0(
        &[&"long".repeat(2000), "."],
        &format!("got '{}'", "long".repeat(25)),
    );
    v2(&[&other, "done"], &not_ours);
    v2(
        &[&ours, "wait-for-done"],
        "expected an argument of fetch, got 'wait-for-done'",
    );
    v2(
        &[&ours, "filter blob:none", "done"],
        "a filter is not supported",
    );
    v2(
        &["want-ref refs/heads/master"],
        "expected an argument of fetch",
    );
    let command = |lines: &[&str], reason: &str| refused(Version::V2, &packets(lines), reason);
    command(
        &["command=push", "."],
        "expected the command ls-refs or fetch, got 'push'",
    );
    command(&["agent=x", "."], "expected a command");
    command(
        &["command=fetch", "object-format=sha256", "|", "."],
        "not 'sha256'",
    );
    command(
        &["command=ls-refs", "|", "nonsense", "."],
        "expected an argument of ls-refs",
    );
    command(&["command=ls-refs"], "breaks off after capabilities");
    command(&[], "breaks off after nothing");
    refused(Version::V0, b"0003", "a packet of 3 bytes at byte 0");
    refused(
        Version::V0,
        b"\x1f\x8b\x08\x00",
        "no packet length at byte 0",
    );
    refused(Version::V2, b"fff5", "a packet of 65525 bytes at byte 0");
}

#[test]
fn what_a_request_may_name_is_counted() {
    let history = history();
    let many = |line: String, count: usize, reason: &str| {
        let mut body = packets(&["command=fetch", "|"]);
        body.extend(packets(&[&line]).repeat(count));
        body.extend_from_slice(pkt::FLUSH);
        refused(&history, Version::V2, &body, reason);
    };
    let other = "1".repeat(40);
    many(spelt(&history, "W16"), 257, "more than 256 want lines");
    many(
        format!("shallow {other}"),
        65_537,
        "more than 65536 shallow lines",
    );
    many(
        format!("have {other}"),
        335_545,
        "more than 335544 have lines",
    );
}

#[test]
fn a_client_with_another_history_gets_everything() {
    let history = history();
    let unknown: Vec<String> = (0..10_000)
        .map(|number| format!("have {number:040x}"))
        .collect();
    let mut words = vec!["W16"];
    words.extend(unknown.iter().map(String::as_str));
    let first = fetch_v2(&history, &words);
    assert_eq!(first.pack, None);
    assert_eq!(first.head, b"0014acknowledgments\n0008NAK\n0000");
    words.push("done");
    let plan = fetch_v2(&history, &words).pack.expect("a pack");
    assert_eq!(plan.selection, Selection::History { have: None });
}

#[test]
fn nothing_is_sent_of_a_history_without_a_commit() {
    let none = Linear::of_lines("");
    let zeros = "0".repeat(40);
    let want = format!("want {zeros}");
    let answer = answer(&none, Version::V0, &packets(&[&want, ".", "done"]));
    assert_eq!((answer.asked, answer.pack), (Asked::Refused, None));
    assert_eq!(none.head(), None);
}

/// A real repository with a linear history, for the real server.
struct Real {
    git: Git,
    history: Linear,
}

impl Real {
    fn new(commits: usize) -> Real {
        let git = Git::new();
        git.run(&["init", "-q", "--bare", "repo"]).well();
        let stream: String = (1..=commits)
            .map(|number| {
                let time = 1_700_000_000 + 60 * number;
                let text = format!("state {number}\n");
                format!(
                    "commit refs/heads/master\ncommitter o <o@localhost> {time} +0000\ndata 0\n\n\
                     M 100644 inline file\ndata {}\n{text}\n",
                    text.len()
                )
            })
            .collect();
        git.feed("repo", &["fast-import", "--quiet"], stream.as_bytes())
            .well();
        let ids = git.at("repo", &["rev-list", "--reverse", "master"]).well();
        Real {
            history: Linear::of_lines(&ids.stdout),
            git,
        }
    }

    fn answer(&self, version: Version, body: &[u8]) -> Vec<u8> {
        let protocol = if version == Version::V2 {
            "version=2"
        } else {
            ""
        };
        let words = ["upload-pack", "--stateless-rpc", "."];
        self.git
            .talk("repo", &words, &[("GIT_PROTOCOL", protocol)], body)
    }
}

/// A request as a client could send it: it has what it says, down to where its history ends.
fn random_request(random: &mut fastrand::Rng, history: &Linear, version: Version) -> Vec<u8> {
    let head = history.commits.len() as u64;
    let want = random.u64(head - 2..=head);
    let have = random.bool().then(|| random.u64(1..=want));
    let shallow = have
        .filter(|_| random.bool())
        .map(|have| random.u64(1..=have));
    let strange = |random: &mut fastrand::Rng| format!("have {:040x}", random.u128(..));
    let mut first = Vec::new();
    let mut haves = Vec::new();
    first.extend(shallow.map(|shallow| spelt(history, &format!("S{shallow}"))));
    // Where a depth cuts off what is common, git asks on; this server knows enough by then.
    let deepens = random.u8(..3) == 0;
    if deepens {
        let depth = if random.u8(..4) == 0 {
            0x7fff_ffff
        } else {
            random.u64(1..=head + 2)
        };
        first.push(format!("deepen {depth}"));
    }
    for _ in 0..random.u8(..3) {
        haves.push(strange(random));
    }
    // A client names commits from the newest on, to the end of its history.
    if let Some(have) = have {
        let least = shallow
            .unwrap_or(1)
            .max(have.saturating_sub(random.u64(..4)));
        haves.extend(
            (least..=have)
                .rev()
                .map(|known| spelt(history, &format!("H{known}"))),
        );
        if !deepens {
            haves.push(strange(random));
        }
    }
    let want = spelt(history, &format!("W{want}"));
    let done = deepens || random.bool();
    let mut lines: Vec<String> = Vec::new();
    if version == Version::V2 {
        lines.extend(
            [
                "command=fetch",
                "object-format=sha1",
                "|",
                "ofs-delta",
                "no-progress",
            ]
            .map(String::from),
        );
        lines.extend(first);
        lines.push(want);
        lines.extend(haves);
        lines.extend(done.then(|| "done".to_owned()));
        lines.push(".".to_owned());
    } else {
        let acks = [
            "multi_ack",
            "multi_ack_detailed",
            "multi_ack_detailed no-done",
        ];
        let acks = acks[random.usize(..acks.len())];
        lines.push(format!(
            "{want} {acks} side-band-64k ofs-delta no-progress\n"
        ));
        lines.extend(first);
        lines.push(".".to_owned());
        lines.extend(haves);
        lines.push(if done { "done" } else { "." }.to_owned());
    }
    packets(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// An answer of protocol 2 with the first of its ACK lines alone: older versions of git repeat
/// what follows from it.
fn with_one_ack(answer: Vec<u8>) -> Vec<u8> {
    const SECTION: &[u8] = b"0014acknowledgments\n";
    const ACK_BYTES: usize = 49;
    let is_ack = |place: &[u8]| place.starts_with(b"0031ACK ");
    let Some(acks) = answer.strip_prefix(SECTION).filter(|acks| is_ack(acks)) else {
        return answer;
    };
    let (first, mut rest) = acks.split_at(ACK_BYTES);
    while is_ack(rest) {
        rest = &rest[ACK_BYTES..];
    }
    [SECTION, first, rest].concat()
}

#[test]
fn random_clients_are_answered_as_git_answers_them() {
    let real = Real::new(12);
    let mut random = fastrand::Rng::with_seed(3);
    let mut packs = 0;
    for number in 0..150 {
        let version = [Version::V0, Version::V2][number % 2];
        let body = random_request(&mut random, &real.history, version);
        let ours = answer(&real.history, version, &body);
        let theirs = with_one_ack(real.answer(version, &body));
        let head = with_one_ack(ours.head.clone());
        let rest = theirs.strip_prefix(head.as_slice()).unwrap_or_else(|| {
            panic!(
                "{number}: {}\nours: {}\ntheirs: {}",
                String::from_utf8_lossy(&body),
                String::from_utf8_lossy(&ours.head),
                String::from_utf8_lossy(&theirs)
            )
        });
        let band = rest.get(4).copied();
        assert_eq!(
            band,
            ours.pack.is_some().then_some(1),
            "{number}: what follows is the pack"
        );
        packs += usize::from(ours.pack.is_some());
    }
    assert!((50..150).contains(&packs), "{packs}");
}
