//! The git index and its clients: git itself, and cargo with libgit2, with git, and with gitoxide.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, write::GzEncoder};

use crate::support::{
    PATIENCE, all_at_once,
    cargo::{Project, Run},
    crates::{Krate, Registry, knots},
    files_below,
    git::{Git, GitIndex, GitRun},
    http::{Answer, Ask, Connection},
    orlop::Orlop,
    peer_may_be_gone, until,
};

const REQUEST_TYPE: &str = "application/x-git-upload-pack-request";

fn demo(version: &str) -> Krate {
    Krate::new("demo", version)
}

/// A clone is what the server has, sound, down to its last object.
#[track_caller]
fn is_current(git: &Git, clone: &str, index: &GitIndex) {
    let at = |words: &[&str]| git.at(clone, words).well().stdout;
    assert_eq!(
        at(&["rev-parse", "refs/remotes/origin/master"]).trim(),
        index.head()
    );
    at(&["fsck", "--strict", "--no-dangling"]);
    let file = at(&["show", "refs/remotes/origin/master:de/mo/demo"]);
    assert_eq!(file, index.orlop.index("demo").text());
}

fn count(git: &Git, clone: &str) -> usize {
    let count = git.at(
        clone,
        &["rev-list", "--count", "refs/remotes/origin/master"],
    );
    count.well().stdout.trim().parse().expect("a number")
}

#[test]
fn git_clones_updates_and_finds_nothing_new_in_every_protocol() {
    let index = GitIndex::demo();
    for (version, next) in [("0", "0.2.0"), ("1", "0.2.1"), ("2", "0.2.2")] {
        let git = Git::new().config(&format!("protocol.version={version}"));
        git.run(&["clone", "-q", &index.url(), "clone"]).well();
        is_current(&git, "clone", &index);
        let before = index.orlop.metric("orlop_git_pack_bytes_total", &[]);
        git.at("clone", &["fetch", "-q"]).well();
        let after = index.orlop.metric("orlop_git_pack_bytes_total", &[]);
        assert!(
            (after - before).abs() < 0.5,
            "nothing is sent to who has it all"
        );
        index.publish(&demo(next));
        git.at("clone", &["fetch", "-q"]).well();
        is_current(&git, "clone", &index);
        let label = format!("protocol=\"{version}\"");
        let packs = ["request=\"fetch\"", "result=\"pack\"", &label];
        until("the packs are counted", || {
            index.orlop.metric("orlop_git_requests_total", &packs) >= 2.0
        });
        let lists = ["request=\"ls_refs\"", "result=\"ok\"", &label];
        let listed = index.orlop.metric("orlop_git_requests_total", &lists);
        assert_eq!(listed >= 3.0, version == "2", "{listed}");
    }
}

#[test]
fn git_clones_shallow_and_deepens_in_every_protocol() {
    let index = GitIndex::demo();
    for patch in 2..8 {
        index.publish(&demo(&format!("0.1.{patch}")));
    }
    for version in ["0", "1", "2"] {
        let git = Git::new().config(&format!("protocol.version={version}"));
        git.run(&["clone", "-q", "--depth", "1", &index.url(), "clone"])
            .well();
        is_current(&git, "clone", &index);
        assert_eq!(count(&git, "clone"), 1);
        git.at("clone", &["fetch", "-q"]).well();
        index.publish(&demo(&format!("0.2.{version}")));
        let news = index.commits();
        git.at("clone", &["fetch", "-q"]).well();
        is_current(&git, "clone", &index);
        assert!(count(&git, "clone") < news, "still shallow");
        let have = count(&git, "clone");
        git.at(
            "clone",
            &["fetch", "-q", "--depth", &(have + 1).to_string()],
        )
        .well();
        is_current(&git, "clone", &index);
        assert_eq!(count(&git, "clone"), have + 1);
        git.at("clone", &["fetch", "-q", "--deepen", "2"]).well();
        is_current(&git, "clone", &index);
        assert_eq!(count(&git, "clone"), have + 3);
        git.at("clone", &["fetch", "-q", "--depth", "1"]).well();
        is_current(&git, "clone", &index);
        git.at("clone", &["fetch", "-q", "--unshallow"]).well();
        is_current(&git, "clone", &index);
        assert_eq!(count(&git, "clone"), index.commits());
        assert!(!git.path("clone/.git/shallow").exists());
    }
}

#[test]
fn a_filter_is_ignored_and_the_clone_is_whole() {
    let index = GitIndex::demo();
    let git = Git::new();
    let clone = git
        .run(&["clone", "--filter=blob:none", &index.url(), "clone"])
        .well();
    assert!(
        clone.stderr.contains("filtering not recognized"),
        "{}",
        clone.stderr
    );
    is_current(&git, "clone", &index);
}

#[test]
fn git_by_http_2_works_as_well() {
    let index = GitIndex::demo();
    let git = Git::new().config("http.version=HTTP/2");
    git.run(&["clone", "-q", &index.url(), "clone"]).well();
    index.publish(&demo("0.2.0"));
    git.at("clone", &["fetch", "-q"]).well();
    is_current(&git, "clone", &index);
    let h2 = ["endpoint=\"git\"", "protocol=\"h2\""];
    assert!(index.orlop.metric("orlop_http_requests_total", &h2) >= 1.0);
}

#[test]
fn a_client_with_another_history_fetches_ours() {
    let index = GitIndex::demo();
    for version in ["0", "2"] {
        let git = Git::new().config(&format!("protocol.version={version}"));
        git.run(&["init", "-q", "other"]).well();
        git.feed(
            "other",
            &["fast-import", "--quiet"],
            strange_history(10_000).as_bytes(),
        )
        .well();
        git.at("other", &["remote", "add", "origin", &index.url()])
            .well();
        git.at("other", &["fetch", "-q", "origin"]).well();
        is_current(&git, "other", &index);
    }
}

/// Commits that nobody else has, for `git fast-import`.
fn strange_history(commits: usize) -> String {
    (0..commits)
        .map(|number| {
            format!(
                "commit refs/heads/master\ncommitter x <x@localhost> {} +0000\ndata 0\n\n",
                1_700_000_000 + number
            )
        })
        .collect()
}

#[test]
fn a_commit_that_is_not_ours_is_refused_by_name() {
    let index = GitIndex::demo();
    let other = "1".repeat(40);
    for version in ["0", "2"] {
        let git = Git::new().config(&format!("protocol.version={version}"));
        git.run(&["clone", "-q", &index.url(), "clone"]).well();
        let fetch = git.at("clone", &["fetch", "-q", "origin", &other]);
        if version == "2" {
            fetch.refused_with(&["not our ref", &other]);
        } else {
            fetch.refused_with(&[&other]);
        }
    }
    let want = format!("0031want {other}00000009done\n");
    let answer = post(&index, want.as_bytes(), &[]);
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .text()
            .contains(&format!("ERR upload-pack: not our ref {other}"))
    );
    let refused = ["request=\"fetch\"", "result=\"refused\""];
    assert!(index.orlop.metric("orlop_git_requests_total", &refused) >= 1.0);
}

#[test]
fn a_head_of_a_moment_ago_may_be_wanted() {
    let index = GitIndex::demo();
    let old = index.head();
    index.publish(&demo("0.2.0"));
    assert_ne!(index.head(), old);
    let git = Git::new();
    git.run(&["init", "-q", "clone"]).well();
    git.at("clone", &["fetch", "-q", &index.url(), &old]).well();
    let head = git.at("clone", &["rev-parse", "FETCH_HEAD"]).well();
    assert_eq!(head.stdout.trim(), old);
    git.at("clone", &["fsck", "--strict", "--no-dangling"])
        .well();
}

#[test]
fn eight_clones_at_the_same_time_are_all_whole() {
    let index = GitIndex::demo();
    let git = Git::new();
    let clones = all_at_once(8, |number| -> GitRun {
        git.run(&["clone", "-q", &index.url(), &format!("clone-{number}")])
    });
    for (number, clone) in clones.into_iter().enumerate() {
        clone.well();
        is_current(&git, &format!("clone-{number}"), &index);
    }
}

/// An index whose pack is more than the buffers of both ends of a connection take.
fn large() -> GitIndex {
    // In one generation, if the machine is not very busy.
    let index = GitIndex::set_up(Registry::new(), |setup| {
        setup
            .config("git.quiet_for", "1s")
            .config("git.cut_within", "1m")
    });
    for number in 0..12_u64 {
        let mut random = fastrand::Rng::with_seed(number);
        let mut krate = Krate::new(&format!("large-{number:02}"), "1.0.0");
        for _ in 0..200 {
            let name: String = std::iter::repeat_with(|| random.alphanumeric())
                .take(4000)
                .collect();
            krate = krate.feature(&format!("f{name}"), &[]);
        }
        index.upstream.edit(|registry| registry.put(&krate));
    }
    let names: Vec<String> = (0..12).map(|number| format!("large-{number:02}")).collect();
    index.ask_for(&names.iter().map(String::as_str).collect::<Vec<_>>());
    index
}

/// The id of the newest commit, in the words of `info/refs`.
#[track_caller]
fn advertised(orlop: &Orlop) -> String {
    let refs = orlop.get("/git/index/info/refs?service=git-upload-pack");
    let text = refs.text();
    let end = text.find(" HEAD\0").expect("a head is advertised");
    text[end - 40..end].to_owned()
}

/// A client in the middle of a pack, which it reads no further.
#[track_caller]
fn in_the_middle(orlop: &Orlop) -> Connection {
    let body = format!("0031want {}00000009done\n", advertised(orlop));
    let ask = request(body.as_bytes(), &[]);
    let to = orlop.address();
    let mut connection = Connection::open(to, PATIENCE).expect("it listens");
    connection.send(&ask.bytes(to, true)).expect("it reads");
    assert_eq!(connection.head().expect("a head").0, 200);
    connection.exactly(1000).expect("the start of a pack");
    connection
}

const ABORTED: [&str; 2] = ["request=\"fetch\"", "result=\"aborted\""];

#[track_caller]
fn until_aborted(orlop: &Orlop, count: f64) {
    until("the packs are given up", || {
        orlop.metric("orlop_git_requests_total", &ABORTED) >= count
    });
}

#[test]
fn a_client_that_leaves_or_reads_nothing_ends_only_its_own_pack() {
    let index = large();
    assert!(index.orlop.metric("orlop_git_requests_total", &ABORTED) < 1.0);
    drop(in_the_middle(&index.orlop));
    until_aborted(&index.orlop, 1.0);
    index.publish(&demo("0.1.0"));
    let git = Git::new();
    git.run(&["clone", "-q", &index.url(), "clone"]).well();
    is_current(&git, "clone", &index);
    // One that stays and takes no byte is given up like every other client.
    let orlop = index
        .orlop
        .terminate()
        .config("listen.idle_timeout", "1s")
        .start();
    let silent = in_the_middle(&orlop);
    until_aborted(&orlop, 1.0);
    drop(silent);
}

#[test]
fn clients_that_are_slow_hold_little_and_one_too_many_is_told_to_come_again() {
    let index = large();
    let (memory, threads) = (index.orlop.resident_bytes(), index.orlop.threads());
    let slow: Vec<Connection> = (0..64).map(|_| in_the_middle(&index.orlop)).collect();
    let body = format!("0031want {}00000009done\n", index.head());
    let refused = post(&index, body.as_bytes(), &[]);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(
        refused.text().contains("too many git clients"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.header("retry-after"), Some("5"));
    let busy = ["request=\"fetch\"", "result=\"busy\""];
    assert!(index.orlop.metric("orlop_git_requests_total", &busy) >= 1.0);
    // What needs no pack is answered.
    assert_eq!(advertised(&index.orlop), index.head());
    let grown = index.orlop.resident_bytes().saturating_sub(memory);
    assert!(grown < 128 << 20, "{grown} bytes for 64 clients");
    until("no thread waits for a client", || {
        index.orlop.threads() < threads + 32
    });
    drop(slow);
    until_aborted(&index.orlop, 64.0);
    let git = Git::new();
    git.run(&["clone", "-q", &index.url(), "clone"]).well();
    assert_eq!(
        git.at("clone", &["rev-parse", "HEAD"]).well().stdout.trim(),
        index.head()
    );
}

/// The files of the repository that hold objects, and their lengths.
fn files_with_objects(repository: &Path) -> Vec<(PathBuf, u64)> {
    let files = files_below(repository).into_iter().filter(|name| {
        let is_pack = Path::new(name).extension().is_some_and(|end| end == "pack");
        is_pack || name == "orlop/wire"
    });
    files
        .map(|name| {
            let path = repository.join(name);
            let length = fs::metadata(&path).expect("it is there").len();
            (path, length)
        })
        .collect()
}

/// Cuts the files off under the running server.
fn cut_files_with_objects(index: &GitIndex) {
    let files = files_with_objects(&index.orlop.data().join("git/index"));
    assert!(!files.is_empty());
    for (path, length) in &files {
        let file = fs::File::options().write(true).open(path);
        let cut = file.and_then(|file| file.set_len(length / 2));
        cut.expect("a file can be cut");
    }
}

/// The repository is made anew by itself, with the same files.
fn until_clones_are_whole(index: &GitIndex, tree: &str) {
    let git = Git::new();
    until("a clone is whole again", || {
        git.run(&["clone", "-q", &index.url(), "clone"]).well
    });
    let cloned = git.at("clone", &["rev-parse", "HEAD^{tree}"]).well().stdout;
    assert_eq!(cloned, tree);
}

#[test]
fn a_client_is_told_when_a_pack_breaks_off_and_later_ones_are_whole_again() {
    let index = large();
    let git = Git::new();
    git.run(&["clone", "-q", &index.url(), "clone"]).well();
    let tree = git.at("clone", &["rev-parse", "HEAD^{tree}"]).well().stdout;
    for version in ["0", "2"] {
        cut_files_with_objects(&index);
        let version = format!("protocol.version={version}");
        Git::new()
            .run(&["-c", &version, "clone", "-q", &index.url(), "clone"])
            .refused_with(&["the pack could not be read to its end"]);
        until_clones_are_whole(&index, &tree);
    }
    let failed = ["request=\"fetch\"", "result=\"failed\""];
    assert!(index.orlop.metric("orlop_git_requests_total", &failed) >= 2.0);
    // Without a side-band the answer is cut short of its end.
    let head = index.head();
    cut_files_with_objects(&index);
    let body = format!("0031want {head}00000009done\n");
    let cut = request(body.as_bytes(), &[]).send(index.orlop.address());
    assert!(cut.is_err() || cut.is_ok_and(|answer| !answer.is_complete_file()));
    until_clones_are_whole(&index, &tree);
}

fn request(body: &[u8], headers: &[(&str, &str)]) -> Ask {
    let ask = Ask::new("POST", "/git/index/git-upload-pack");
    let is_named = headers.iter().any(|(name, _)| *name == "Content-Type");
    let ask = if is_named {
        ask
    } else {
        ask.header("Content-Type", REQUEST_TYPE)
    };
    headers
        .iter()
        .fold(ask, |ask, (name, value)| ask.header(name, value))
        .body(body)
}

#[track_caller]
fn post(index: &GitIndex, body: &[u8], headers: &[(&str, &str)]) -> Answer {
    index.orlop.ask(&request(body, headers))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes every write");
    encoder.finish().expect("memory takes every write")
}

const V2: (&str, &str) = ("Git-Protocol", "version=2");
const GZIP: (&str, &str) = ("Content-Encoding", "gzip");

#[test]
fn a_request_may_be_compressed_or_in_chunks() {
    let index = GitIndex::demo();
    let body = b"0014command=ls-refs\n0000";
    let plain = post(&index, body, &[V2]);
    assert!(
        plain.text().contains(&format!("{} HEAD\n", index.head())),
        "{}",
        plain.text()
    );
    assert_eq!(
        plain.header("content-type"),
        Some("application/x-git-upload-pack-result")
    );
    assert_eq!(plain.header("cache-control"), Some("no-cache"));
    for coding in ["gzip", "x-gzip"] {
        let answer = post(&index, &gzip(body), &[V2, ("Content-Encoding", coding)]);
        assert_eq!(answer.text(), plain.text());
    }
    let chunked = Ask::new("POST", "/git/index/git-upload-pack")
        .header("Content-Type", REQUEST_TYPE)
        .header(V2.0, V2.1)
        .header("Transfer-Encoding", "chunked");
    let to = index.orlop.address();
    let mut connection = Connection::open(to, PATIENCE).expect("it listens");
    let mut bytes = chunked.bytes(to, true);
    bytes.extend_from_slice(b"a\r\n0014comman\r\ne\r\nd=ls-refs\n0000\r\n0\r\n\r\n");
    connection.send(&bytes).expect("it reads");
    assert_eq!(
        connection.answer(false).expect("an answer").text(),
        plain.text()
    );
}

/// What it is, body, headers, status, and what the answer says.
type Wrong<'a> = (&'a str, Vec<u8>, &'a [(&'a str, &'a str)], u16, &'a str);

#[test]
fn wrong_and_hostile_requests_get_a_clear_answer() {
    let index = GitIndex::demo();
    // No more than what is read before the answer: a client that still sends may miss it.
    let zeros = vec![b'0'; 16 * 1024 * 1024 + 1];
    let bomb = gzip(&zeros);
    let refused: &[Wrong<'_>] = &[
        (
            "no packets",
            b"hello".to_vec(),
            &[],
            200,
            "ERR upload-pack: no packet length at byte 0",
        ),
        (
            "length 3",
            b"0003".to_vec(),
            &[],
            200,
            "a packet of 3 bytes",
        ),
        (
            "too long",
            b"ffffx".to_vec(),
            &[],
            200,
            "a packet of 65535 bytes at byte 0",
        ),
        (
            "cut",
            b"0032want 12".to_vec(),
            &[],
            200,
            "the packet at byte 0 breaks off",
        ),
        ("nothing", Vec::new(), &[], 200, "breaks off"),
        (
            "no command",
            b"0000".to_vec(),
            &[V2],
            200,
            "expected a command",
        ),
        ("a bomb", bomb, &[GZIP], 413, "at most 16777216 bytes"),
        ("much", zeros, &[], 413, "at most 16777216 bytes"),
        (
            "no gzip",
            b"0000".to_vec(),
            &[GZIP],
            400,
            "is gzip, and is not",
        ),
        (
            "half gzip",
            gzip(&[b'0'; 4000])[..20].to_vec(),
            &[GZIP],
            400,
            "is gzip, and is not",
        ),
        (
            "brotli",
            b"0000".to_vec(),
            &[("Content-Encoding", "br")],
            415,
            "is gzip or not",
        ),
        (
            "a form",
            b"0000".to_vec(),
            &[("Content-Type", "text/plain")],
            415,
            REQUEST_TYPE,
        ),
    ];
    for (what, body, headers, status, text) in refused {
        let answer = post(&index, body, headers);
        assert_eq!(answer.status, *status, "{what}: {}", answer.text());
        assert!(answer.text().contains(text), "{what}: {}", answer.text());
    }
    let git = Git::new();
    git.run(&["clone", "-q", &index.url(), "clone"]).well();
    assert!(index.orlop.resident_bytes() < 400 << 20);
}

#[test]
fn every_other_path_says_why_not() {
    let index = GitIndex::demo();
    let refs = "/git/index/info/refs?service=git-upload-pack";
    let check = |ask: Ask, status: u16, text: &str| {
        let answer = index.orlop.ask(&ask);
        assert_eq!(answer.status, status, "{ask:?}");
        assert!(answer.text().contains(text), "{ask:?}: {}", answer.text());
    };
    let smart = "needs a client with smart HTTP";
    check(Ask::get("/git/index/info/refs"), 403, smart);
    check(Ask::get("/git/index/info/refs?service=x"), 403, smart);
    check(Ask::get("/git/index/HEAD"), 403, smart);
    check(Ask::get("/git/index/objects/info/packs"), 403, smart);
    check(Ask::get("/git/index/git-upload-pack"), 403, smart);
    let push = "this is a mirror";
    check(
        Ask::get("/git/index/info/refs?service=git-receive-pack"),
        403,
        push,
    );
    check(
        Ask::new("POST", "/git/index/git-receive-pack").body(b"0000"),
        403,
        push,
    );
    let elsewhere = "there is one git index here, at /git/index";
    check(
        Ask::get("/git/index.git/info/refs?service=git-upload-pack"),
        404,
        elsewhere,
    );
    check(
        Ask::get("/git/other/info/refs?service=git-upload-pack"),
        404,
        elsewhere,
    );
    check(Ask::get("/git/index"), 404, "this is the git index");
    check(Ask::get("/index/"), 404, "this is the sparse index");
    let answer = index.orlop.get(refs);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-git-upload-pack-advertisement")
    );
    let head = index.orlop.ask(&Ask::head(refs));
    assert_eq!((head.status, head.body.len()), (200, 0));
    let length = answer.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    check(Ask::head("/git/index/git-upload-pack"), 403, "");
    let git = Git::new();
    git.run(&["clone", "-q", &index.url(), "clone"]).well();
    git.at("clone", &["push", "-q", "origin", "master:master"])
        .refused_with(&["403"]);
}

#[test]
fn without_a_public_url_the_git_index_says_what_it_needs() {
    let index = GitIndex::set_up(Registry::new().with(&demo("0.1.0")), |setup| {
        setup.config("listen.addresses", "0.0.0.0:0")
    });
    assert_eq!(
        index.orlop.index("demo").status,
        200,
        "the sparse index needs none"
    );
    let answer = index
        .orlop
        .get("/git/index/info/refs?service=git-upload-pack");
    assert!(answer.text().contains("public_url"), "{}", answer.text());
    // Every client shows it to its user.
    for version in ["0", "1", "2"] {
        let git = Git::new().config(&format!("protocol.version={version}"));
        git.run(&["ls-remote", &index.url()])
            .refused_with(&["orlop: the git index needs `public_url`"]);
    }
    let body = format!("0031want {}00000009done\n", "1".repeat(40));
    assert_eq!(post(&index, body.as_bytes(), &[]).status, 403);
    for client in [LIBGIT2, GIT_CLI, nightly(&["-Zgitoxide=fetch"])] {
        if client.is_missing() {
            continue;
        }
        let project = client.configured(Project::new("demo = \"0\""), &index);
        client
            .ended(&project, &["generate-lockfile"])
            .refused_with(&["orlop: the git index needs `public_url`"]);
    }
}

#[test]
fn a_git_index_that_is_switched_off_says_so() {
    let index = GitIndex::set_up(Registry::new(), |setup| {
        setup.config("git.enabled", "false")
    });
    let answer = index
        .orlop
        .get("/git/index/info/refs?service=git-upload-pack");
    assert!(answer.text().contains("git.enabled"), "{}", answer.text());
    let refused = ["request=\"refs\"", "result=\"refused\""];
    assert!(index.orlop.metric("orlop_git_requests_total", &refused) >= 1.0);
}

/// How cargo is told to use the git index, and in which ways it can.
struct CargoClient {
    words: &'static [&'static str],
    config: &'static str,
    nightly: bool,
}

const LIBGIT2: CargoClient = CargoClient {
    words: &[],
    config: "",
    nightly: false,
};
const GIT_CLI: CargoClient = CargoClient {
    config: "git-fetch-with-cli = true\n",
    ..LIBGIT2
};

const fn nightly(words: &'static [&'static str]) -> CargoClient {
    CargoClient {
        words,
        config: "",
        nightly: true,
    }
}

impl CargoClient {
    fn configured(&self, project: Project, index: &GitIndex) -> Project {
        // The table `[net]` comes last in what `configured` writes.
        let project = project.configured(&format!(
            "[source.crates-io]\nreplace-with = \"orlop\"\n\n\
             [source.orlop]\nregistry = \"{}\"\n",
            index.url()
        ));
        let config = project.read(".cargo/config.toml") + self.config;
        project.write(".cargo/config.toml", &config);
        project
    }

    #[track_caller]
    fn run(&self, project: &Project, words: &[&str]) {
        self.ended(project, words).well();
    }

    fn ended(&self, project: &Project, words: &[&str]) -> Run {
        let all: Vec<&str> = self.words.iter().chain(words).copied().collect();
        if self.nightly {
            project.cargo_nightly(&all)
        } else {
            project.cargo(&all)
        }
    }

    /// Whether it is not to be had here, which is said past the harness that hides what is printed.
    fn is_missing(&self) -> bool {
        let is_missing = self.nightly && !has_nightly();
        if is_missing {
            let text = "SKIPPED, because there is no `cargo +nightly`: a client of the git index";
            peer_may_be_gone(writeln!(std::io::stderr(), "{text}"));
        }
        is_missing
    }

    /// First use, an update with nothing new, and one with news.
    fn works(&self) {
        if self.is_missing() {
            return;
        }
        let index = GitIndex::demo();
        let project = self.configured(Project::new("demo = \"0\""), &index);
        self.run(&project, &["generate-lockfile"]);
        assert!(project.read("Cargo.lock").contains("\"0.1.1\""));
        self.run(&project, &["update"]);
        for version in ["0.1.2", "0.1.3"] {
            index.publish(&demo(version));
            self.run(&project, &["update"]);
            let lock = project.read("Cargo.lock");
            assert!(lock.contains(&format!("\"{version}\"")), "{lock}");
        }
        self.run(&project, &["build"]);
    }

    /// A history that has nothing in common with the one that was fetched takes its place.
    fn goes_on_with_a_new_root(&self) {
        if self.is_missing() {
            return;
        }
        let index = GitIndex::demo();
        let project = self.configured(Project::new("demo = \"0\""), &index);
        self.run(&project, &["generate-lockfile"]);
        let before = index.head();
        fs::remove_dir_all(index.orlop.data().join("git/index")).expect("removed");
        index.publish(&demo("0.1.2"));
        assert_ne!(index.head(), before);
        assert_eq!(index.commits(), 1);
        for version in ["0.1.2", "0.1.3"] {
            index.publish(&demo(version));
            self.run(&project, &["update"]);
            let lock = project.read("Cargo.lock");
            assert!(lock.contains(&format!("\"{version}\"")), "{lock}");
        }
        self.run(&project, &["build"]);
    }
}

fn has_nightly() -> bool {
    let asked = Command::new("cargo")
        .args(["+nightly", "--version"])
        // It is asked for, not fetched.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output();
    asked.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("nightly"))
}

#[test]
fn cargo_uses_the_git_index_by_libgit2() {
    LIBGIT2.works();
}

#[test]
fn cargo_uses_the_git_index_by_the_git_program() {
    GIT_CLI.works();
}

#[test]
fn cargo_uses_the_git_index_by_gitoxide() {
    nightly(&["-Zgitoxide=fetch"]).works();
}

#[test]
fn cargo_uses_the_git_index_shallow_by_gitoxide() {
    nightly(&["-Zgitoxide=fetch", "-Zgit=shallow-index"]).works();
}

#[test]
fn cargo_uses_the_git_index_shallow_by_libgit2() {
    nightly(&["-Zgit=shallow-index"]).works();
}

#[test]
fn cargo_goes_on_with_a_new_root_by_libgit2() {
    LIBGIT2.goes_on_with_a_new_root();
}

#[test]
fn cargo_goes_on_with_a_new_root_by_the_git_program() {
    GIT_CLI.goes_on_with_a_new_root();
}

#[test]
fn cargo_goes_on_with_a_new_root_by_gitoxide() {
    nightly(&["-Zgitoxide=fetch"]).goes_on_with_a_new_root();
}

#[test]
fn cargo_goes_on_with_a_new_root_shallow() {
    nightly(&["-Zgitoxide=fetch", "-Zgit=shallow-index"]).goes_on_with_a_new_root();
    nightly(&["-Zgit=shallow-index"]).goes_on_with_a_new_root();
}

#[test]
fn a_workspace_of_a_hundred_crates_builds_its_lock_file_from_the_git_index() {
    let index = GitIndex::over(knots(120));
    let names: Vec<String> = (0..120).map(|number| format!("knot-{number:03}")).collect();
    index.ask_for(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let sparse = Project::new("knot-000 = \"1\"").through(&index.orlop.url());
    sparse.cargo(&["generate-lockfile"]).well();
    let project = LIBGIT2.configured(Project::new("knot-000 = \"1\""), &index);
    project.cargo(&["generate-lockfile"]).well();
    assert_eq!(project.read("Cargo.lock"), sparse.read("Cargo.lock"));
    project.cargo(&["fetch", "--locked"]).well();
}

#[test]
fn the_printed_configuration_works() {
    let index = GitIndex::demo();
    let printed = index
        .orlop
        .setup()
        .run(&["client-config", "--git", "--url", &index.orlop.url()]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let project = Project::new("demo = \"0\"").configured(&printed.stdout);
    project.cargo(&["build"]).well();
}
