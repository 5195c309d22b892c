//! The pages in a real Chromium: brings mirrors up in several states and runs `tests/browser` on them.

use std::{path::Path, process::Command};

use crate::support::{
    crates::{Krate, Registry},
    front::Front,
    orlop::{Orlop, Setup},
    upstream::Upstream,
};

const LONG_NAME: &str = "a-name-as-long-as-a-name-may-be-which-is-sixty-four-letters-long";

fn registry() -> Registry {
    let many = |registry: Registry, patch: usize| {
        registry.with(&Krate::new("fathom", &format!("0.1.{patch}")).size(16))
    };
    let registry = (0..520).fold(Registry::new(), many);
    registry
        .with(&Krate::new("harbour", "1.0.0").size(20_000))
        .with(&Krate::new("harbour", "1.1.0").yanked())
        .with(&Krate::new("harbour", "1.2.0").size(150_000))
        .with(&Krate::new("harbour-master", "0.4.1").dep("harbour", "^1"))
        .with(&Krate::new("keel", "0.3.0").size(9_000))
        .with(&Krate::new("bilge", "2.0.0").size(70_000))
        .with(&Krate::new(LONG_NAME, "1.0.0-rc.1+with.much.metadata"))
}

/// A lab that has used its mirror.
fn busy(upstream: &Upstream) -> Orlop {
    let orlop = Setup::over(upstream).start();
    for (name, version) in [
        ("harbour", "1.0.0"),
        ("harbour", "1.2.0"),
        ("harbour-master", "0.4.1"),
        ("bilge", "2.0.0"),
    ] {
        for _ in 0..3 {
            assert!(orlop.download(name, version).is_complete_file());
            assert_eq!(orlop.index(name).status, 200);
        }
    }
    assert_eq!(orlop.index("fathom").status, 200);
    assert_eq!(orlop.index(LONG_NAME).status, 200);
    orlop
}

#[test]
#[ignore = "needs node, a Chromium and the packages of tests/browser"]
fn the_pages_are_sound_in_a_real_browser() {
    let upstream = Upstream::start(registry());
    let gone = Upstream::start(registry());
    let empty = Setup::over(&upstream).start();
    let (busy, doomed) = (busy(&upstream), busy(&upstream));
    let trouble = Setup::over(&gone).start();
    assert!(trouble.download("bilge", "2.0.0").is_complete_file());
    gone.down();
    assert_eq!(trouble.index("harbour").status, 503);
    let front = Front::below("/rust");
    let below = Setup::over(&upstream)
        .config("public_url", &front.url())
        .start();
    front.leads_to(below.address());
    assert!(below.download("harbour", "1.2.0").is_complete_file());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = serde_json::json!({
        "empty": empty.url(),
        "busy": busy.url(),
        "trouble": trouble.url(),
        "below": front.url(),
        "longName": LONG_NAME,
        "doomed": doomed.url(),
        "doomedPid": doomed.pid(),
        "screenshots": root.join("target/screenshots"),
    });
    let run = Command::new("node")
        .args(["--test", "pages.test.mjs"])
        .current_dir(root.join("tests/browser"))
        .env("ORLOP_PAGES", pages.to_string())
        .output()
        .expect("node is installed");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
}
