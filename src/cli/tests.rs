//! The promises of the command line: it reads, prints and fails as scripts and people expect.

use std::path::PathBuf;

use clap::{CommandFactory, Parser as _};

use super::*;
use crate::config::{Environment, Flags, Sources};

#[test]
fn verify_cli() {
    Args::command().debug_assert();
}

#[test]
fn every_command_of_the_surface_reads() {
    for words in [
        "serve",
        "serve --config f --listen 127.0.0.1:0 --listen [::1]:0 --data d --upstream u \
         --public-url p --mode offline",
        "client-config",
        "client-config --url http://host",
        "client-config --git",
        "config check --config f",
        "config show",
        "config show --json --mode strict",
    ] {
        let words = std::iter::once("orlop").chain(words.split_whitespace());
        assert!(Args::try_parse_from(words.clone()).is_ok(), "{words:?}");
    }
}

#[test]
fn the_flags_arrive_as_they_were_typed() {
    let words = "orlop serve --listen a --listen b --data d --mode strict";
    let args = Args::try_parse_from(words.split(' ')).unwrap();
    let Command::Serve(settings) = args.command else {
        panic!("another command");
    };
    let flags = settings.to_flags();
    assert_eq!(flags.listen, ["a", "b"]);
    assert_eq!(flags.data, Some(PathBuf::from("d")));
    assert_eq!(flags.mode.as_deref(), Some("strict"));
    assert_eq!(flags.config, None);
}

/// A configuration that depends on nothing but these flags and variables.
fn load(flags: Flags, variables: &[(&str, &str)]) -> Result<Loaded, Vec<config::Error>> {
    let pairs = variables.iter();
    config::load(&Sources {
        flags,
        environment: Environment {
            data_dir: Some(PathBuf::from("/data")),
            ..Environment::of(pairs.map(|(name, value)| (name.into(), value.into())))
        },
        default_file: None,
    })
}

fn strict() -> Flags {
    Flags {
        mode: Some("strict".to_owned()),
        ..Flags::default()
    }
}

fn printed(print: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn config_show_names_each_value_with_its_origin_and_is_toml() {
    let variables = [("ORLOP_UPSTREAM_PROXY", "http://me:hunter2@proxy:3128")];
    let loaded = load(strict(), &variables).unwrap();
    let text = printed(|out| settings::show(&loaded, false, out));
    let line = |key: &str| text.lines().find(|line| line.contains(key)).unwrap();
    assert!(line("mode =").ends_with("# flag --mode"), "{text}");
    assert!(
        line("index.patience = \"4s\"").ends_with("# default"),
        "{text}"
    );
    assert!(
        line("# public_url is not set").ends_with("# default"),
        "{text}"
    );
    assert!(line("upstream.proxy").ends_with("# environment ORLOP_UPSTREAM_PROXY"));
    assert!(!text.contains("hunter2"));
    assert!(text.parse::<toml::Table>().is_ok(), "{text}");
}

#[test]
fn what_config_show_prints_is_a_file_with_the_same_settings() {
    let loaded = load(
        strict(),
        &[("ORLOP_LISTEN_TRUSTED_PROXIES", "::1,10.0.0.0/8")],
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orlop.toml");
    std::fs::write(&file, printed(|out| settings::show(&loaded, false, out))).unwrap();
    let flags = Flags {
        config: Some(file),
        ..Flags::default()
    };
    let values = |loaded: &Loaded| -> Vec<serde_json::Value> {
        let settings = loaded.settings.iter();
        settings.map(|setting| setting.value.clone()).collect()
    };
    assert_eq!(values(&load(flags, &[]).unwrap()), values(&loaded));
}

#[test]
fn config_show_as_json_has_the_same_facts() {
    let loaded = load(strict(), &[("ORLOP_UPSTREAM_ATTEMPTS", "5")]).unwrap();
    let text = printed(|out| settings::show(&loaded, true, out));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let settings = &json["settings"];
    assert_eq!(settings["mode"]["value"], "strict");
    assert_eq!(settings["mode"]["source"], "--mode");
    assert_eq!(settings["upstream.attempts"]["value"], 5);
    assert_eq!(
        settings["upstream.attempts"]["source"],
        "ORLOP_UPSTREAM_ATTEMPTS"
    );
    assert_eq!(settings["public_url"]["value"], serde_json::Value::Null);
    assert_eq!(settings.as_object().unwrap().len(), config::KEYS.len());
}

#[test]
fn client_config_takes_its_url_from_the_flag_or_the_settings() {
    let print = |url: Option<&str>, git: bool, flags: Flags| {
        let load = || load(flags, &[]).map_err(Error::Config);
        printed(|out| client_config::print(url, git, None, load, out))
    };
    let from = |url, flags| print(url, false, flags);
    let public = Flags {
        public_url: Some("https://lab/sub/".to_owned()),
        ..Flags::default()
    };
    let index = |base: &str| format!("index = \"sparse+{base}/index/\"\n");
    assert!(from(None, Flags::default()).contains(&index("http://127.0.0.1:8080")));
    assert!(from(None, public.clone()).contains(&index("https://lab/sub")));
    assert!(from(Some("http://given:1/"), public.clone()).contains(&index("http://given:1")));
    let git = "index = \"https://lab/sub/git/index\"\n";
    assert!(print(None, true, public).contains(git));
}

#[test]
fn an_error_tells_what_why_and_what_to_try_and_has_its_exit_code() {
    let wrong = Flags {
        mode: Some("sometimes".to_owned()),
        listen: vec!["nowhere".to_owned()],
        ..Flags::default()
    };
    let error = Error::Config(load(wrong, &[]).unwrap_err());
    assert_eq!(
        error.render(),
        "error: could not use the value of `listen.addresses` (flag --listen)\n  \
         caused by: `nowhere` is no address with a port\n\
         hint: write an IP address with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"\n\
         error: could not use the value of `mode` (flag --mode)\n  \
         caused by: `sometimes` is not known\n\
         hint: write one of \"fallback\", \"strict\", \"offline\"\n"
    );
    assert_eq!(error.exit(), Exit::Usage);
}

#[test]
fn a_reader_who_has_had_enough_is_no_failure() {
    let gone = Error::Output(io::ErrorKind::BrokenPipe.into());
    assert!(gone.is_broken_pipe());
    let full = Error::Output(io::ErrorKind::StorageFull.into());
    assert!(!full.is_broken_pipe());
    assert_eq!(full.exit(), Exit::Unavailable);
}
