//! Generations: bursts become commits, both protocols have the same bytes, a lost store recovers
//! from the repository, and a lost repository begins anew. The judge is the real git, on the repository in the data folder.

use std::{fs, path::Path, process::Command};

use crate::support::{
    cargo::Project,
    crates::{Krate, Registry, index_path},
    orlop::{Orlop, Setup},
    until,
    upstream::{Fault, Kind, On, Upstream},
};

/// The base that the index names: with a fixed one a restart on another port changes nothing.
const BASE: &str = "http://mirror.test";

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("crate-{index}")).collect()
}

fn setting(names: &[String]) -> Upstream {
    let mut registry = Registry::new();
    for name in names {
        registry.put(&Krate::new(name, "1.0.0"));
    }
    Upstream::start(registry)
}

fn over(upstream: &Upstream) -> Setup {
    Setup::over(upstream)
        .config("public_url", BASE)
        .config("git.quiet_for", "400ms")
}

/// With a first generation, which has no name.
fn started(upstream: &Upstream) -> Orlop {
    let orlop = over(upstream).start();
    until_generation(&orlop, 1.0);
    orlop
}

/// What git says about the repository below a data folder.
#[track_caller]
fn git(data: &Path, words: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "--git-dir"])
        .arg(data.join("git/index"))
        .args(words)
        .output()
        .expect("git can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {words:?}: {errors}");
    output.stdout
}

fn head(data: &Path) -> String {
    let head = git(data, &["rev-parse", "HEAD"]);
    String::from_utf8(head).expect("an id").trim().to_owned()
}

fn commits(data: &Path) -> usize {
    let count = git(data, &["rev-list", "--count", "HEAD"]);
    let count = String::from_utf8(count).expect("a number");
    count.trim().parse().expect("a number")
}

#[track_caller]
fn until_generation(orlop: &Orlop, number: f64) {
    until("the generation is cut", || {
        let reached = orlop.metric("orlop_generation", &[]);
        assert!(reached <= number, "there are {reached} generations");
        reached.eq(&number)
    });
}

/// Of every name the sparse file and the file in git are the same.
#[track_caller]
fn check_same(orlop: &Orlop, names: &[String]) {
    for name in names {
        let answer = orlop.index(name);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let path = format!("HEAD:{}", index_path(name));
        assert_eq!(answer.body, git(&orlop.data(), &["show", &path]), "{name}");
    }
    git(&orlop.data(), &["fsck", "--strict", "--full"]);
}

#[test]
fn a_burst_becomes_one_commit_with_the_bytes_of_the_sparse_index() {
    let names = names(50);
    let upstream = setting(&names);
    // Only the end of the process cuts it: between two requests a busy machine may take longer
    // than any quiet time.
    let orlop = started(&upstream).terminate();
    let orlop = orlop
        .config("git.quiet_for", "1h")
        .config("git.cut_within", "1h")
        .start();
    until_generation(&orlop, 1.0);
    for name in &names {
        assert_eq!(orlop.index(name).status, 200);
    }
    let staged = orlop.metric("orlop_generation_staged_names", &[]);
    assert!(staged.eq(&50.0), "{staged}: {}", orlop.stderr());
    // On a machine so busy that the end has no time for it, the next start cuts it.
    let orlop = orlop.terminate().config("git.quiet_for", "1s").start();
    until_generation(&orlop, 2.0);
    check_same(&orlop, &names);
    assert_eq!(commits(&orlop.data()), 2);
    let message = String::from_utf8(git(&orlop.data(), &["log", "-1", "--format=%B"]));
    let message = message.expect("text");
    assert!(
        message.starts_with("generation 2: 50 crates: 50 new\n\ncrate-0: new, 1 version\n"),
        "{message}"
    );
    assert!(message.contains("crate-7: new, 1 version"), "{message}");
    let config = git(&orlop.data(), &["show", "HEAD:config.json"]);
    assert!(String::from_utf8_lossy(&config).contains(&format!("{BASE}/api/v1/crates")));
    assert!(orlop.metric("orlop_git_repository_bytes", &[]) > 0.0);
    assert!(orlop.metric("orlop_generation_staged_names", &[]).eq(&0.0));
    let page = orlop.get("/").text();
    assert!(page.contains(&head(&orlop.data())[..12]), "{page}");
    assert!(page.contains(&format!("{BASE}/git/index")), "{page}");
}

#[test]
fn the_first_generation_has_what_came_in_the_first_burst() {
    let names = names(20);
    let upstream = setting(&names);
    let orlop = over(&upstream).config("git.quiet_for", "3s").start();
    for name in &names {
        assert_eq!(orlop.index(name).status, 200);
    }
    until_generation(&orlop, 1.0);
    assert_eq!(commits(&orlop.data()), 1);
    check_same(&orlop, &names);
}

#[test]
fn what_changed_last_is_cut_at_the_end() {
    let names = names(3);
    let upstream = setting(&names);
    let orlop = started(&upstream)
        .terminate()
        .config("git.quiet_for", "1h")
        .config("git.cut_within", "1h")
        .start();
    until_generation(&orlop, 1.0);
    for name in &names {
        orlop.index(name);
    }
    let setup = orlop.terminate();
    assert_eq!(commits(&setup.data()), 2);
    upstream.down();
    let orlop = setup.start();
    check_same(&orlop, &names);
}

#[test]
fn a_deleted_or_damaged_repository_begins_anew_with_everything() {
    let names = names(6);
    let upstream = setting(&names);
    let orlop = over(&upstream).config("index.fresh_for", "0s").start();
    // One change at a time, so that a busy machine cannot make two bursts of one: a name is new,
    // and in the next turn it has a version more.
    for number in 0..names.len() {
        until_generation_of(&orlop, number + 1);
        let name = &names[number / 2];
        if number % 2 == 1 {
            upstream.edit(|registry| registry.put(&Krate::new(name, &format!("1.{number}.7"))));
        }
        orlop.index(name);
    }
    until_generation_of(&orlop, names.len() + 1);
    let setup = orlop.terminate();
    assert_eq!(commits(&setup.data()), names.len() + 1);
    let names = &names[..names.len() / 2];
    fs::remove_dir_all(setup.data().join("git")).expect("removed");
    upstream.down();
    let orlop = setup.start();
    until_generation_of(&orlop, 1);
    assert_eq!(commits(&orlop.data()), 1);
    check_same(&orlop, names);
    // A damaged one is as good as none.
    let setup = orlop.terminate();
    let packs = setup.data().join("git/index/objects/pack");
    for pack in fs::read_dir(packs).expect("readable") {
        fs::write(pack.expect("readable").path(), "rubbish").expect("written");
    }
    let orlop = setup.start();
    until_generation_of(&orlop, 1);
    check_same(&orlop, names);
    assert!(orlop.data().join("git/index.broken-1").exists());
}

/// The part of the index that an older sled does not have is taken from the repository, and the
/// history that clients have goes on.
#[test]
fn an_older_sled_gets_what_it_lacks_from_the_repository() {
    let names = names(3);
    let upstream = setting(&names);
    let setup = started(&upstream).terminate();
    let (sled, kept) = (setup.data().join("sled"), setup.data().join("kept"));
    let copied = Command::new("cp").arg("-a").args([&sled, &kept]).status();
    assert!(copied.expect("`cp` can be run").success());
    let orlop = setup.start();
    for name in &names {
        assert_eq!(orlop.index(name).status, 200);
    }
    until("all names are in commits", || {
        let waiting = orlop.metric("orlop_generation_staged_names", &[]);
        waiting.eq(&0.0) && orlop.metric("orlop_generation", &[]) >= 2.0
    });
    let setup = orlop.kill9();
    let before = head(&setup.data());
    fs::remove_dir_all(&sled).expect("removed");
    fs::rename(&kept, &sled).expect("renamed");
    upstream.down();
    let orlop = setup.config("mode", "offline").start();
    check_same(&orlop, &names);
    let said = orlop.stderr();
    assert!(said.contains("recovered from the git index"), "{said}");
    assert_eq!(head(&orlop.data()), before);
    let orlop = orlop.terminate().start();
    check_same(&orlop, &names);
    assert_eq!(head(&orlop.data()), before);
}

#[track_caller]
fn until_generation_of(orlop: &Orlop, count: usize) {
    let count = count.to_string();
    until("the repository is there again", || {
        orlop.metric("orlop_generation", &[]).to_string() == count
    });
}

#[test]
fn a_lost_sled_costs_no_index_entry_though_the_upstream_is_gone() {
    let mut registry = Registry::new();
    registry.put(&Krate::new("leaf", "1.2.3"));
    registry.put(&Krate::new("branch", "0.4.0").dep("leaf", "1"));
    let upstream = Upstream::start(registry);
    let orlop = Setup::over(&upstream)
        .config("git.quiet_for", "400ms")
        .start();
    let project = Project::new("branch = \"0.4\"").through(&orlop.url());
    project.cargo(&["fetch"]).well();
    let names = ["leaf".to_owned(), "branch".to_owned()];
    let setup = orlop.terminate();
    let before = head(&setup.data());
    fs::remove_dir_all(setup.data().join("sled")).expect("removed");
    upstream.down();
    let orlop = setup.config("mode", "offline").start();
    let project = Project::new("branch = \"0.4\"").through(&orlop.url());
    project.cargo(&["fetch"]).well();
    // The port is another one, and `config.json` names it.
    until("the new base is cut", || head(&orlop.data()) != before);
    check_same(&orlop, &names);
    let setup = orlop.terminate();
    // And what was taken from git is kept like everything else.
    fs::remove_dir_all(setup.data().join("git")).expect("removed");
    let orlop = setup.start();
    until_generation_of(&orlop, 1);
    check_same(&orlop, &names);
}

/// Flips a bit in an object of the git index.
fn damage(data: &Path, object: &str) {
    let id = git(data, &["rev-parse", object]);
    let id = String::from_utf8(id).expect("an id");
    for pack in fs::read_dir(data.join("git/index/objects/pack")).expect("readable") {
        let path = pack.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "pack") {
            continue;
        }
        let pack = path.to_str().expect("text");
        let list = git(data, &["verify-pack", "-v", pack]);
        let list = String::from_utf8(list).expect("text");
        let Some(line) = list.lines().find(|line| line.starts_with(id.trim())) else {
            continue;
        };
        let number = |at| line.split_whitespace().nth(at).expect("a column");
        let number = |at| number(at).parse::<usize>().expect("a number");
        let mut bytes = fs::read(&path).expect("readable");
        bytes[number(4) + number(3) - 2] ^= 1;
        fs::remove_file(&path).expect("removed");
        fs::write(&path, bytes).expect("written");
        return;
    }
    panic!("no pack has {object}");
}

/// The damage is found when the repository is opened. What can be read comes back before the
/// repository is set aside.
#[test]
fn a_lost_sled_and_a_repository_that_cannot_be_used_cost_nothing_that_can_be_read() {
    let names = names(3);
    let upstream = setting(&names);
    let orlop = started(&upstream);
    for name in &names {
        assert_eq!(orlop.index(name).status, 200);
    }
    until_generation(&orlop, 2.0);
    let setup = orlop.terminate();
    fs::remove_dir_all(setup.data().join("sled")).expect("removed");
    damage(&setup.data(), "HEAD~1");
    upstream.down();
    let orlop = setup.config("mode", "offline").start();
    for name in &names {
        let answer = orlop.index(name);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    until("there is a new root", || {
        orlop.data().join("git/index.broken-1").exists()
            && orlop.metric("orlop_generation", &[]).eq(&1.0)
    });
    check_same(&orlop, &names);
}

#[test]
fn a_lost_sled_and_a_damaged_repository_cost_only_what_both_lost() {
    let names = names(5);
    let upstream = setting(&names);
    let orlop = over(&upstream).start();
    for name in &names {
        assert_eq!(orlop.index(name).status, 200);
    }
    let setup = orlop.terminate();
    fs::remove_dir_all(setup.data().join("sled")).expect("removed");
    damage(&setup.data(), &format!("HEAD:{}", index_path(&names[2])));
    let orlop = setup.config("mode", "offline").start();
    let check = |orlop: &Orlop| {
        for name in &names {
            let answer = orlop.index(name);
            let expected = if *name == names[2] { 503 } else { 200 };
            assert_eq!(answer.status, expected, "{name}: {}", answer.text());
        }
        assert_eq!(orlop.index("never-heard-of").status, 404);
    };
    check(&orlop);
    // Again after whatever was done about it.
    let setup = orlop.terminate();
    let orlop = setup.start();
    check(&orlop);
    let orlop = orlop.terminate().config("mode", "fallback").start();
    assert_eq!(orlop.index(&names[2]).status, 200);
    until("all of it is in the git index", || {
        orlop.metric("orlop_generation_staged_names", &[]).eq(&0.0)
    });
    assert_eq!(orlop.index(&names[2]).status, 200);
}

#[test]
fn kills_at_any_time_leave_both_with_the_same_bytes() {
    let names = names(12);
    let upstream = setting(&names);
    let mut setup = over(&upstream)
        .config("git.quiet_for", "20ms")
        .config("index.fresh_for", "0s");
    for round in 0..8_u64 {
        let orlop = setup.start();
        upstream.edit(|registry| {
            for name in &names {
                registry.put(&Krate::new(name, &format!("2.{round}.0")));
            }
        });
        for name in &names {
            assert_eq!(orlop.index(name).status, 200);
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 13 % 80));
        setup = orlop.kill9();
    }
    upstream.down();
    let orlop = setup.start();
    until("what was staged is cut", || {
        orlop.metric("orlop_generation_staged_names", &[]).eq(&0.0)
            && orlop.metric("orlop_generation", &[]) > 0.0
    });
    check_same(&orlop, &names);
    let broken = orlop.data().join("git/index.broken-1");
    assert!(!broken.exists(), "no kill costs the history");
    let setup = orlop.terminate();
    fs::remove_dir_all(setup.data().join("git")).expect("removed");
    let orlop = setup.start();
    until_generation_of(&orlop, 1);
    check_same(&orlop, &names);
}

#[test]
fn without_a_base_the_index_is_cut_and_names_none() {
    let names = names(2);
    let upstream = setting(&names);
    let setup = over(&upstream)
        .config("public_url", "")
        .config("listen.addresses", "0.0.0.0:0");
    let orlop = setup.start();
    for name in &names {
        orlop.index(name);
    }
    until("the generation is cut", || {
        orlop.metric("orlop_generation", &[]) >= 1.0
    });
    let tree = git(&orlop.data(), &["ls-tree", "--name-only", "HEAD"]);
    assert_eq!(String::from_utf8_lossy(&tree), "cr\n");
    assert!(orlop.get("/").text().contains("public_url"));
}

#[test]
fn switched_off_there_is_no_repository() {
    let names = names(1);
    let upstream = setting(&names);
    let orlop = over(&upstream).config("git.enabled", "false").start();
    orlop.index(&names[0]);
    let setup = orlop.terminate();
    assert!(!setup.data().join("git").exists());
    let orlop = setup.config("git.enabled", "true").start();
    until_generation(&orlop, 1.0);
    check_same(&orlop, &names);
    // Off again for a while, in which things change.
    let setup = orlop
        .terminate()
        .config("git.enabled", "false")
        .config("index.fresh_for", "0s");
    let orlop = setup.start();
    upstream.edit(|registry| registry.put(&Krate::new(&names[0], "3.0.0")));
    orlop.index(&names[0]);
    let orlop = orlop
        .terminate()
        .config("git.enabled", "true")
        .config("index.fresh_for", "1h")
        .start();
    until_generation_of(&orlop, 2);
    check_same(&orlop, &names);
}

#[test]
fn the_index_goes_on_while_upstream_fails() {
    let names = names(2);
    let upstream = setting(&names);
    let orlop = over(&upstream).start();
    orlop.index(&names[0]);
    upstream.misbehave(On::Kind(Kind::Index), Fault::Status(500));
    assert_ne!(orlop.index(&names[1]).status, 200);
    until("the generation is cut", || {
        orlop.metric("orlop_generation_staged_names", &[]).eq(&0.0)
            && orlop.metric("orlop_generation", &[]) > 0.0
    });
    check_same(&orlop, &names[..1]);
}
