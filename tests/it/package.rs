//! The packages' own part that needs no packing: the configuration that is made from the sample.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn sample() -> String {
    fs::read_to_string(packaging().join("orlop.toml")).expect("the sample is there")
}

/// What `packaging/conffile` makes of a sample.
fn conffile(sample: &str) -> Output {
    let mut child = Command::new(packaging().join("conffile"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    // The sample is smaller than a pipe, so that nobody waits for the other.
    stdin.write_all(sample.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[test]
fn the_packaged_configuration_sets_three_keys_and_has_every_line_of_the_sample() {
    let output = conffile(&sample());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines = text.lines();
    for line in sample().lines() {
        assert!(lines.any(|found| found == line), "it lost: {line}");
    }

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("packaged.toml");
    fs::write(&file, &text).expect("it can be written");
    // Without the variables of a test, so that the file alone speaks.
    let shown = Command::new(env!("CARGO_BIN_EXE_orlop"))
        .env_clear()
        .args(["config", "show", "--json", "--config"])
        .arg(&file)
        .output()
        .expect("it starts");
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let settings = shown["settings"].as_object().expect("the settings");
    let mut set: Vec<String> = settings
        .iter()
        .filter(|(_, setting)| setting["origin"] == "file")
        .map(|(key, setting)| format!("{key} = {}", setting["value"]))
        .collect();
    set.sort();
    assert_eq!(
        set,
        [
            r#"admin.socket = "/run/orlop/admin.sock""#,
            r#"data = "/var/lib/orlop""#,
            r#"listen.addresses = ["[::]:8080"]"#,
        ]
    );
}

#[test]
fn a_sample_without_one_of_the_three_keys_is_refused() {
    let output = conffile(&sample().replace("#socket = ", "#path = "));
    assert!(!output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("admin.socket"), "{told}");
}
