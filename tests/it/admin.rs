//! The admin socket: commands reach the server that has the store, and do no harm to it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    PATIENCE,
    crates::{Krate, Registry},
    orlop::{Orlop, Outcome, Setup, wait},
    peer_may_be_gone, until,
    upstream::{Fault, Kind, On, Upstream},
};

fn setting() -> Upstream {
    let registry = Registry::new();
    let registry = registry.with(&Krate::new("here", "1.0.0"));
    Upstream::start(registry.with(&Krate::new("there", "1.0.0")))
}

/// The object in each line of stdout.
#[track_caller]
fn lines(outcome: &Outcome) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).expect("each line is JSON");
    outcome.stdout.lines().map(parse).collect()
}

#[track_caller]
fn last(outcome: &Outcome) -> Value {
    lines(outcome).pop().expect("there is a last line")
}

fn connect(orlop: &Orlop) -> UnixStream {
    let stream = UnixStream::connect(orlop.data().join("admin.sock"));
    let stream = stream.expect("the socket takes connections");
    let bounded = stream.set_read_timeout(Some(PATIENCE));
    bounded.expect("a socket has a timeout");
    stream
}

/// Reads the next line of the server.
#[track_caller]
fn said(reader: &mut impl std::io::BufRead) -> Value {
    let mut line = String::new();
    reader.read_line(&mut line).expect("the server says it");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn head(protocol: u32, files: u32, len: u64) -> Vec<u8> {
    let mut head = b"orlopadm".to_vec();
    head.extend(protocol.to_le_bytes());
    head.extend(files.to_le_bytes());
    head.extend(len.to_le_bytes());
    head
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a pid is an i32");
    peer_may_be_gone(kill_process(
        Pid::from_raw(pid).expect("a pid is not zero"),
        signal,
    ));
}

/// A refresh that waits for an upstream that has fallen silent, begun and running.
fn long_job(orlop: &Orlop, upstream: &Upstream) -> Child {
    upstream.misbehave(On::Kind(Kind::Index), Fault::StallBeforeHead);
    let mut command = orlop.setup().command(&["refresh", "there", "--json"]);
    let child = command.spawn().expect("orlop can be started");
    until("the job waits for the upstream", || upstream.stalled() > 0);
    child
}

/// How a child ends, which must be soon.
#[track_caller]
fn end_of(mut child: Child) -> Outcome {
    let status = wait(&mut child, PATIENCE);
    let mut outcome = Outcome {
        code: status.code(),
        stdout: String::new(),
        stderr: String::new(),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    peer_may_be_gone(stdout.expect("a pipe").read_to_string(&mut outcome.stdout));
    peer_may_be_gone(stderr.expect("a pipe").read_to_string(&mut outcome.stderr));
    outcome
}

#[test]
fn the_socket_is_of_the_user_and_the_group_and_goes_at_the_end() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let socket = orlop.data().join("admin.sock");
    let file = std::fs::symlink_metadata(&socket).expect("the socket is there");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    let setup = orlop.terminate();
    assert!(!socket.exists(), "a clean stop takes it away");

    // What a crash leaves is replaced.
    let orlop = setup.start();
    let setup = orlop.kill9();
    assert!(socket.exists(), "nobody took it away");
    // Without a daemon behind it, commands open the store themselves.
    assert_eq!(setup.run(&["stats"]).code, Some(0));
    let orlop = setup.start();
    assert_eq!(orlop.setup().run(&["stats"]).code, Some(0));
    assert!(orlop.stderr().contains("begins `stats` for user"));
}

#[test]
fn a_report_is_the_same_through_the_daemon_and_without_it() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    assert!(orlop.download("here", "1.0.0").is_complete_file());
    let through = orlop.setup().run(&["stats", "--json"]);
    assert_eq!(through.code, Some(0), "{through:?}");
    assert!(orlop.stderr().contains("begins `stats` for user"));
    let setup = orlop.terminate();
    let direct = setup.run(&["stats", "--json"]);
    assert_eq!(direct.code, Some(0), "{direct:?}");
    let (through, direct) = (last(&through), last(&direct));
    assert_eq!(through["report"], "stats");
    for field in ["names", "versions", "held", "blobs", "blob_bytes"] {
        assert_eq!(through[field], direct[field], "{field}: {through} {direct}");
    }
    assert_eq!(through["held"], 1, "{through}");
}

#[test]
fn a_command_makes_no_store_where_it_only_looks() {
    let setup = Setup::bare();
    let outcome = setup.run(&["stats", "--json"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let error = &last(&outcome)["error"];
    assert_eq!(error["exit"], 3, "{error}");
    assert!(error["message"].to_string().contains("there is no store"));
    assert!(!setup.data().exists());
}

#[test]
fn a_second_job_of_a_kind_is_refused_and_ctrl_c_cancels_the_first() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let first = long_job(&orlop, &upstream);
    let second = orlop.setup().run(&["refresh", "here"]);
    assert_eq!(second.code, Some(3), "{second:?}");
    assert!(second.stderr.contains("`refresh` runs since"), "{second:?}");
    assert!(second.stderr.contains("hint: wait"), "{second:?}");
    let running = orlop.metric("orlop_jobs_running", &["kind=\"refresh\""]);
    assert!((running - 1.0).abs() < f64::EPSILON);
    // What only reads may run beside it.
    assert_eq!(orlop.setup().run(&["stats"]).code, Some(0));

    signal(&first, Signal::INT);
    let first = end_of(first);
    assert_eq!(first.code, Some(130), "{first:?}");
    assert_eq!(last(&first)["error"]["exit"], 130, "{first:?}");
    until("the daemon cancelled the job", || {
        orlop.stderr().contains("`refresh` was cancelled")
    });
    let stats = last(&orlop.setup().run(&["stats", "--json"]));
    assert_eq!(stats["last"][0]["ended"], "cancelled", "{stats}");
    upstream.behave();
    let third = orlop.setup().run(&["refresh", "here"]);
    assert_eq!(third.code, Some(0), "{third:?}");
    let success = "orlop_job_last_success_timestamp_seconds";
    assert!(orlop.metric(success, &["kind=\"refresh\""]) > 1e9);
}

#[test]
fn ctrl_c_cancels_a_job_that_has_the_store_itself() {
    let upstream = setting();
    let setup = Setup::over(&upstream);
    upstream.misbehave(On::Kind(Kind::Index), Fault::StallBeforeHead);
    let child = setup.command(&["refresh", "there"]).spawn();
    let child = child.expect("orlop can be started");
    until("the job waits for the upstream", || upstream.stalled() > 0);

    // Beside it nobody gets the store, and is told who has it.
    let second = setup.run(&["refresh", "here"]);
    assert_eq!(second.code, Some(3), "{second:?}");
    let process = format!("in use by process {}", child.id());
    assert!(second.stderr.contains(&process), "{second:?}");
    assert!(second.stderr.contains("--admin-socket"), "{second:?}");

    signal(&child, Signal::INT);
    let outcome = end_of(child);
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(outcome.stderr.contains("cancelling"), "{outcome:?}");
    assert!(outcome.stderr.contains("error: it was cancelled"));
    // It left the store in order.
    upstream.behave();
    let after = setup.run(&["refresh", "here"]);
    assert_eq!(after.code, Some(0), "{after:?}");
    assert_eq!(
        std::fs::read_to_string(setup.data().join("lock"))
            .ok()
            .as_deref(),
        Some("clean\n")
    );
}

#[test]
fn a_client_that_vanishes_cancels_its_job() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut first = long_job(&orlop, &upstream);
    signal(&first, Signal::KILL);
    wait(&mut first, PATIENCE);
    until("the daemon cancelled the job", || {
        orlop.stderr().contains("`refresh` was cancelled")
    });
}

#[test]
fn who_waits_for_a_job_hears_that_the_daemon_stops() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let job = long_job(&orlop, &upstream);
    orlop.terminate();
    let job = end_of(job);
    assert_eq!(job.code, Some(3), "{job:?}");
    let error = &last(&job)["error"];
    assert_eq!(error["message"], "the server is stopping", "{job:?}");
}

/// Sends bytes to the socket, closes our half, and reads what the server says after its hello.
#[track_caller]
fn refused(orlop: &Orlop, bytes: &[u8]) -> String {
    let mut stream = connect(orlop);
    peer_may_be_gone(stream.write_all(bytes));
    peer_may_be_gone(stream.shutdown(std::net::Shutdown::Write));
    let mut reader = BufReader::new(stream);
    assert_eq!(said(&mut reader)["hello"]["protocol"], 1);
    let mut rest = String::new();
    peer_may_be_gone(reader.read_to_string(&mut rest));
    rest
}

#[test]
fn strange_requests_are_refused_and_the_daemon_goes_on() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let version = env!("CARGO_PKG_VERSION");
    let ask = |version: &str, request: &str| {
        let body = format!("{{\"orlop\":\"{version}\",\"request\":{request}}}");
        let mut bytes = head(1, 0, body.len() as u64);
        bytes.extend(body.into_bytes());
        bytes
    };
    for (bytes, word) in [
        (b"orlop".to_vec(), "ended in its middle"),
        (vec![0xff; 4096], "does not begin as one"),
        (
            b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
            "does not begin as one",
        ),
        (head(7, 0, 2), "protocol 7"),
        (head(1, 0, u64::MAX), "larger than 64 MiB"),
        (head(1, 0, (64 << 20) + 1), "larger than 64 MiB"),
        (head(1, 3, 2), "another number of files"),
        (head(1, 0, 1000), "ended in its middle"),
        (
            [head(1, 0, 2), b"{}".to_vec()].concat(),
            "no request of orlop",
        ),
        ([head(1, 0, 4), vec![0; 4]].concat(), "no request of orlop"),
        (
            ask(version, "{\"command\":\"explode\"}"),
            "no job that this daemon knows",
        ),
        (
            ask("99.0.0", "{\"command\":\"stats\"}"),
            "the command is orlop 99.0.0",
        ),
    ] {
        let answer = refused(&orlop, &bytes);
        assert!(answer.contains("{\"error\":"), "{word}: {answer}");
        assert!(answer.contains(word), "{word}: {answer}");
    }
    // Nothing at all is a look whether somebody is there.
    assert_eq!(refused(&orlop, &[]), "");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = refused(&orlop, &ask(version, &deep));
    assert!(answer.contains("no job that this daemon knows"), "{answer}");
    assert_eq!(orlop.setup().run(&["stats"]).code, Some(0));
}

#[test]
fn who_says_nothing_takes_a_place_and_no_more() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut silent: Vec<_> = (0..16).map(|_| BufReader::new(connect(&orlop))).collect();
    for reader in &mut silent {
        assert!(said(reader)["hello"].is_object());
    }
    let outcome = orlop.setup().run(&["stats"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("too many commands"), "{outcome:?}");
    assert_eq!(orlop.index("here").status, 200, "cargo is served");
    drop(silent);
    until("a place is free", || {
        orlop.setup().run(&["stats"]).code == Some(0)
    });
}

#[test]
fn a_store_behind_a_very_long_path_has_its_socket_too() {
    let upstream = setting();
    let mut setup = Setup::over(&upstream);
    let long = setup.data().join("d".repeat(120));
    setup = setup.config("data", &long.display().to_string());
    let orlop = setup.start();
    let outcome = orlop.setup().run(&["stats"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        orlop.stderr().contains("begins `stats`"),
        "{}",
        orlop.stderr()
    );
}

#[test]
fn a_socket_that_cannot_be_is_told_with_its_remedy() {
    let upstream = setting();
    let setup = Setup::over(&upstream);
    let name = "s".repeat(120);
    let long = setup.data().join(&name).display().to_string();
    let refused = setup.clone().config("admin.socket", &long).try_start();
    let refused = refused.expect_err("the name is too long");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("too long"), "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("hint: name a shorter place with `admin.socket`")
    );

    // Something that is no socket stays where it is.
    let file = setup.data().join("../precious");
    std::fs::write(&file, "precious").expect("a file");
    let path = file.display().to_string();
    let refused = setup.clone().config("admin.socket", &path).try_start();
    let refused = refused.expect_err("it is no socket");
    assert!(refused.stderr.contains("is no socket"), "{refused:?}");
    assert_eq!(
        std::fs::read_to_string(&file).ok().as_deref(),
        Some("precious")
    );

    // Nor does one that another daemon answers at.
    let orlop = setup.start();
    let taken = orlop.data().join("admin.sock").display().to_string();
    let other = Setup::over(&upstream).config("admin.socket", &taken);
    let refused = other.clone().try_start().expect_err("it is taken");
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("another process listens"),
        "{refused:?}"
    );
    // And a command for one store does not end up in another.
    let strayed = other.run(&["stats"]);
    assert_eq!(strayed.code, Some(2), "{strayed:?}");
    assert!(strayed.stderr.contains("has the store"), "{strayed:?}");
}

fn give(path: &Path, user: u32) {
    std::os::unix::fs::chown(path, Some(user), Some(user)).expect("root may give files away");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn a_store_of_another_user_is_not_opened_directly() {
    let upstream = setting();
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: a store of another owner needs root");
        return;
    }
    let setup = Setup::over(&upstream).start().terminate();
    give(&setup.data(), 1234);
    let outcome = setup.run(&["stats"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("belongs to user 1234"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("start the daemon"), "{outcome:?}");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn who_may_not_write_to_the_socket_is_told_why() {
    let upstream = setting();
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: a user without rights needs root");
        return;
    }
    let orlop = Setup::over(&upstream).start();
    let parent = orlop.data().parent().expect("a folder").to_owned();
    for folder in [&parent, &orlop.data()] {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder, open).expect("a mode");
    }
    let mut command = orlop.setup().command(&["stats"]);
    command.uid(1234).gid(1234);
    // Where the program itself is out of reach of others, there is nothing to test.
    let Ok(child) = command.spawn() else {
        eprintln!("NOT TESTED: another user may not run this build of orlop");
        return;
    };
    let outcome = end_of(child);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("may not use the admin socket"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("group"), "{outcome:?}");
}

#[test]
fn events_and_the_report_are_lines_for_programs_and_words_for_people() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let words = ["refresh", "here", "there"];
    let outcome = orlop.setup().run(&[&words[..], &["--json"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "", "{outcome:?}");
    let lines = lines(&outcome);
    assert_eq!(lines[0]["event"], "phase", "{outcome:?}");
    assert_eq!(lines[lines.len() - 1]["report"], "refresh", "{outcome:?}");
    let people = orlop.setup().run(&words);
    assert!(people.stderr.contains("2 names"), "{people:?}");
    assert!(!people.stderr.contains('\u{1b}'), "{people:?}");
    let quiet = orlop.setup().run(&[&words[..], &["--quiet"]].concat());
    assert_eq!(quiet.stderr, "", "{quiet:?}");
    assert_ne!(quiet.stdout, "", "{quiet:?}");
}

#[test]
fn a_reader_who_has_had_enough_ends_a_command_quietly() {
    let upstream = setting();
    let orlop = Setup::over(&upstream).start();
    let mut command = orlop.setup().command(&["stats"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdout(Stdio::from(writer));
    let mut child = command.spawn().expect("orlop can be started");
    let status = wait(&mut child, Duration::from_secs(60));
    assert_eq!(status.code(), Some(0));
    let mut said = String::new();
    let errors = child.stderr.take().expect("a pipe");
    peer_may_be_gone(BufReader::new(errors).read_line(&mut said));
    assert_eq!(said, "");
}

#[test]
fn an_error_before_the_job_is_a_line_for_programs_too() {
    let setup = Setup::bare();
    for (words, exit) in [
        (&["sync", "--lockfile", "no-such-file"][..], 2),
        (
            &[
                "refresh", "here", "--mode", "fallback", "--listen", "nowhere",
            ],
            2,
        ),
        (&["verify"], 3),
        (&["key", "show"], 3),
        (&["config", "show", "--listen", "nowhere"], 2),
    ] {
        let outcome = setup.run(&[words, &["--json"]].concat());
        assert_eq!(outcome.code, Some(exit), "{words:?}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{words:?}");
        assert_eq!(
            last(&outcome)["error"]["exit"],
            exit,
            "{words:?}: {outcome:?}"
        );
    }
}

#[test]
fn a_backup_is_not_taken_for_a_store() {
    let setup = Setup::bare();
    let place = tempfile::tempdir().expect("a folder");
    let made = ["MANIFEST", "format", "journal"];
    for name in made {
        std::fs::write(place.path().join(name), "x").expect("written");
    }
    let dir = place.path().to_str().expect("a plain path");
    for words in [&["verify"][..], &["refresh", "here"], &["serve"]] {
        let outcome = setup.run(&[words, &["--data", dir]].concat());
        assert_eq!(outcome.code, Some(2), "{words:?}: {outcome:?}");
        assert!(outcome.stderr.contains("is a backup"), "{outcome:?}");
        assert!(outcome.stderr.contains("orlop restore"), "{outcome:?}");
        let found = std::fs::read_dir(place.path()).expect("a folder");
        assert_eq!(found.count(), made.len(), "{words:?} wrote into it");
    }
}

#[test]
fn a_new_store_is_told_and_an_error_is_told_once() {
    let upstream = setting();
    let setup = Setup::over(&upstream);
    let outcome = setup.run(&["refresh", "here"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let note = format!("note: made a new store at `{}`", setup.data().display());
    assert!(outcome.stderr.contains(&note), "{outcome:?}");
    assert!(outcome.stderr.contains("asking: 1 name"), "{outcome:?}");
    let outcome = setup.run(&["pin", "he\u{1b}[2Jre"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{outcome:?}");
    for word in ["new store", "WARN", "\u{1b}"] {
        assert!(!outcome.stderr.contains(word), "{word:?} in {outcome:?}");
    }
    let words = ["sync", "--crate", "here", "--crate", "nobody"];
    for (more, in_stderr, in_stdout) in [(&[][..], 1, 0), (&["--quiet"], 0, 1)] {
        let outcome = setup.run(&[&words[..], more].concat());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let count = |text: &str| text.matches("failed: nobody").count();
        assert_eq!(count(&outcome.stderr), in_stderr, "{outcome:?}");
        assert_eq!(count(&outcome.stdout), in_stdout, "{outcome:?}");
    }
    let outcome = setup.run(&["verify"]);
    let counted = "comparing with the index: done";
    assert!(outcome.stderr.contains(counted), "{outcome:?}");
    assert!(
        outcome.stderr.contains("reading index files: 1 name"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("hashing: 1 crate"), "{outcome:?}");
}
