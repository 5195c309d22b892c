//! What a selection stands for where only what is held counts, and nobody is asked.

use super::{
    world::{World, content, crates, failures, line, lockfile, name, releases, sum},
    *,
};
use crate::{
    jobs::{Fault, context::JobContext, saved_sets::save_set},
    registry::Checksum,
};

#[tokio::test]
async fn only_what_is_held_is_chosen_and_followed() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &["b@^1"]), ("1.1.0", &["c@^1"])]);
    world.publish("b", &[("1.0.0", &[]), ("1.1.0", &[]), ("1.2.0", &[])]);
    world.publish("c", &[("1.0.0", &[])]);
    for (krate, version) in [
        ("a", "1.0.0"),
        ("b", "1.0.0"),
        ("b", "1.1.0"),
        ("c", "1.0.0"),
    ] {
        world.hold(krate, version);
    }
    let chosen = world.held(&crates(&["a"])).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "b 1.0.0", "b 1.1.0"]);
    assert_eq!(failures(&chosen), [""; 0]);
    let latest = Selection {
        latest: true,
        ..crates(&["a"])
    };
    let chosen = world.held(&latest).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "b 1.1.0"]);
    let chosen = world.held(&crates(&["a@=1.1.0", "ghost", "c"])).await;
    assert_eq!(releases(&chosen), ["c 1.0.0"]);
    assert_eq!(
        failures(&chosen),
        [
            "a@=1.1.0: no version that is held matches",
            "ghost: the mirror knows no such crate"
        ]
    );
}

#[tokio::test]
async fn a_crate_of_which_nothing_is_held_is_told_from_one_with_prereleases_only() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &[])]);
    world.publish("b", &[("1.0.0-rc.1", &[])]);
    world.hold("b", "1.0.0-rc.1");
    let chosen = world.held(&crates(&["a@1", "b"])).await;
    assert_eq!(
        failures(&chosen),
        [
            "a@1: no version of it is held",
            "b: it has only prereleases, which come when a requirement names one"
        ]
    );
}

#[tokio::test]
async fn packages_of_a_lockfile_that_come_from_nowhere_are_named_in_good_grammar() {
    let world = World::new();
    let notes = async |text: &str| {
        let selection = Selection {
            lockfiles: vec![NamedText {
                name: "Cargo.lock".to_owned(),
                text: format!("version = 4\n\n{text}"),
            }],
            ..Selection::default()
        };
        world.held(&selection).await.notes
    };
    let package = |name: &str, more: &str| {
        format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\n{more}\n")
    };
    let git = "source = \"git+https://example.com/g#01\"\n";
    let told = notes(&(package("mine", "") + &package("g", git))).await;
    assert_eq!(
        told,
        [
            "1 package of a lockfile comes from git and is passed over: `g 0.1.0` from \
             https://example.com/g",
            "1 package of a lockfile is the workspace's own or lies in a folder, and is passed \
             over: `mine 0.1.0`",
        ]
    );
    let told = notes(&(package("mine", "") + &package("beside", ""))).await;
    assert_eq!(
        told,
        [
            "2 packages of lockfiles are the workspace's own or lie in folders, and are passed over: \
          `mine 0.1.0`, `beside 0.1.0`"
        ]
    );
}

#[tokio::test]
async fn a_release_of_a_lockfile_that_is_not_held_is_a_failure() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &["b@^1"]), ("1.1.0", &[])]);
    world.publish("b", &[("1.0.0", &[])]);
    world.hold("a", "1.0.0");
    let wrong = sum("a", "9.9.9");
    let selection = Selection {
        lockfiles: vec![lockfile(&[
            ("a", "1.0.0", sum("a", "1.0.0")),
            ("a", "1.1.0", sum("a", "1.1.0")),
            ("a", "1.2.0", wrong),
            ("b", "1.0.0", wrong),
            ("ghost", "1.0.0", wrong),
        ])],
        ..Selection::default()
    };
    let chosen = world.held(&selection).await;
    assert_eq!(releases(&chosen), ["a 1.0.0"], "its needs are not followed");
    let listed = sum("b", "1.0.0");
    assert_eq!(
        failures(&chosen),
        [
            "a@1.1.0: it is not held".to_owned(),
            "a@1.2.0: the index has no such version".to_owned(),
            format!("b@1.0.0: the lockfile has the checksum {wrong}, and the index has {listed}"),
            "ghost@1.0.0: the index has no such version".to_owned(),
        ]
    );
}

#[tokio::test]
async fn what_is_held_stays_chosen_when_the_index_lists_it_otherwise_or_no_more() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &[]), ("1.1.0", &[])]);
    world.hold("a", "1.0.0");
    world.hold("a", "1.1.0");
    let other = line("a", "1.1.0", &[]).replace(
        &sum("a", "1.1.0").to_string(),
        &Checksum::of(&content("a", "2.0.0")).to_string(),
    );
    world.publish_lines("a", other);
    let selection = Selection {
        lockfiles: vec![lockfile(&[
            ("a", "1.0.0", sum("a", "1.0.0")),
            ("a", "1.1.0", sum("a", "1.1.0")),
        ])],
        ..Selection::default()
    };
    let chosen = world.held(&selection).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "a 1.1.0"]);
    assert_eq!(failures(&chosen), [""; 0]);
    let note = "another checksum in the index by now";
    assert!(
        chosen.notes.iter().any(|one| one.contains(note)),
        "{:?}",
        chosen.notes
    );
}

#[tokio::test]
async fn everything_held_has_all_names_and_the_releases_that_are_held() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &[]), ("2.0.0-rc.1", &[])]);
    world.publish("b", &[("1.0.0", &[]), ("1.1.0", &[])]);
    world.publish("c", &[("1.0.0", &[])]);
    for (krate, version) in [("a", "1.0.0"), ("a", "2.0.0-rc.1"), ("b", "1.0.0")] {
        world.hold(krate, version);
    }
    let all = |latest| Selection {
        all: true,
        latest,
        ..Selection::default()
    };
    let chosen = world.held(&all(false)).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "a 2.0.0-rc.1", "b 1.0.0"]);
    assert!(chosen.names.contains_key(&name("c")), "its entry is meant");
    assert!(
        chosen.everything.is_none(),
        "who exports looks into `names`"
    );
    let chosen = world.held(&all(true)).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "b 1.0.0"]);
}

#[tokio::test]
async fn saved_sets_stand_for_what_they_were_made_of() {
    let world = World::new();
    world.publish("a", &[("1.0.0", &["b@^1"])]);
    world.publish("b", &[("1.0.0", &[]), ("1.1.0", &[])]);
    for (krate, version) in [("a", "1.0.0"), ("b", "1.0.0")] {
        world.hold(krate, version);
    }
    let locked = Selection {
        lockfiles: vec![lockfile(&[("b", "1.1.0", sum("b", "1.1.0"))])],
        ..Selection::default()
    };
    for (set, selection) in [("one", crates(&["a"])), ("two", locked)] {
        let saved = save_set(&world.services, set, &selection);
        saved.expect("saved");
    }
    let sets = |sets: &[&str]| Selection {
        sets: sets.iter().map(ToString::to_string).collect(),
        ..Selection::default()
    };
    let chosen = world.held(&sets(&["one"])).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "b 1.0.0"]);
    let chosen = world.held(&sets(&["two", "one"])).await;
    assert_eq!(releases(&chosen), ["a 1.0.0", "b 1.0.0"]);
    assert_eq!(failures(&chosen), ["b@1.1.0: it is not held"]);
    let none = sets(&["none"]);
    let chosen = choose(&world.services, &none, false, &JobContext::of_test()).await;
    assert_eq!(chosen.expect_err("no such set").fault, Fault::Usage);
}
