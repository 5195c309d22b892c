//! The promises of configuration: which source wins, what is refused and how, that nothing drifts.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::policy::Mode;

/// Sources without a file, a variable or a flag, on a machine that always looks the same.
fn sources() -> Sources {
    Sources {
        flags: Flags::default(),
        environment: with_a_home(Environment::default()),
        default_file: None,
    }
}

fn with_a_home(environment: Environment) -> Environment {
    Environment {
        data_dir: Some(PathBuf::from("/home/me/.local/share/orlop")),
        ..environment
    }
}

fn with_variables(variables: &[(&str, &str)]) -> Sources {
    let pairs = variables.iter();
    let os = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Sources {
        environment: with_a_home(Environment::of(os)),
        ..sources()
    }
}

/// Sources with a file, which lives as long as the folder that is given back.
fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orlop.toml");
    fs::write(&path, text).unwrap();
    let mut sources = sources();
    sources.flags.config = Some(path);
    (folder, sources)
}

/// The error with its chain and hint, in one line.
fn told(error: &Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        parts.push(error.to_string());
        cause = error.source();
    }
    let hint = error.hint().map(|hint| format!(" [{hint}]"));
    parts.join(": ") + &hint.unwrap_or_default()
}

/// What `text` as a file is refused for, a line an error.
fn refused(text: &str) -> String {
    let (folder, sources) = with_file(text);
    let errors = load(&sources).expect_err("it is refused");
    let lines: Vec<String> = errors.iter().map(told).collect();
    let place = folder.path().display().to_string();
    lines.join("\n").replace(&place, "DIR")
}

fn origin<'a>(loaded: &'a Loaded, path: &str) -> &'a Origin {
    let setting = loaded
        .settings
        .iter()
        .find(|setting| setting.key.path == path);
    &setting.expect("every key has a setting").origin
}

#[test]
fn the_defaults_are_those_of_the_options() {
    let config = load(&sources()).unwrap().config;
    assert_eq!(config.store.dir, Path::new("/home/me/.local/share/orlop"));
    assert_eq!(config.app.mirror.mode, Mode::Fallback);
    assert_eq!(config.public_base(), None);
    assert_eq!(config.listen.addresses, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.listen.max_streams, 256);
    let upstream = tame_index::CRATES_IO_HTTP_INDEX.strip_prefix("sparse+");
    assert_eq!(Some(&*config.upstream.index_url.to_string()), upstream);
    assert_eq!(config.upstream.stall_timeout, Duration::from_secs(8));
    assert_eq!(config.upstream.max_crate_bytes, 1 << 30);
    assert_eq!(config.upstream.proxy, None);
    assert!(!config.upstream.allow_private);
    assert_eq!(
        config.app.mirror.freshness.fresh_for,
        Duration::from_secs(300)
    );
    assert_eq!(config.store.reserve_bytes, 1 << 30);
    assert_eq!(config.app.jobs.sync.every, Duration::from_secs(6 * 60 * 60));
    assert!(config.app.views.held);
    assert_eq!(config.http.hot_cache_bytes, 64 << 20);
    assert_eq!(config.log.filter, "info");
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let (_folder, mut sources) = with_file("mode = \"strict\"\n[index]\nfresh_for = \"1m\"\n");
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.app.mirror.mode, Mode::Strict);
    assert!(matches!(
        origin(&loaded, "mode"),
        Origin::File { line: 1, .. }
    ));
    assert!(matches!(
        origin(&loaded, "index.fresh_for"),
        Origin::File { line: 3, .. }
    ));
    assert_eq!(*origin(&loaded, "index.patience"), Origin::Default);

    sources.environment = with_variables(&[("ORLOP_MODE", "offline")]).environment;
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.app.mirror.mode, Mode::Offline);
    assert_eq!(
        *origin(&loaded, "mode"),
        Origin::Environment("ORLOP_MODE".to_owned())
    );

    sources.flags.mode = Some("fallback".to_owned());
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.app.mirror.mode, Mode::Fallback);
    assert_eq!(*origin(&loaded, "mode"), Origin::Flag("--mode"));
}

#[test]
fn every_flag_reaches_its_key() {
    let mut sources = sources();
    sources.flags = Flags {
        config: None,
        listen: vec!["127.0.0.1:0".to_owned(), "[::1]:0".to_owned()],
        data: Some(PathBuf::from("d")),
        upstream: Some("http://up/index".to_owned()),
        public_url: Some("https://me/".to_owned()),
        mode: Some("strict".to_owned()),
        admin_socket: Some(PathBuf::from("s")),
    };
    let loaded = load(&sources).unwrap();
    let config = &loaded.config;
    assert_eq!(config.listen.addresses.len(), 2);
    assert_eq!(config.store.dir, Path::new("d"));
    assert_eq!(config.upstream.index_url.to_string(), "http://up/index/");
    assert_eq!(config.public_base().as_deref(), Some("https://me"));
    assert_eq!(config.app.mirror.mode, Mode::Strict);
    assert_eq!(config.admin_socket(), Path::new("s"));
    let flags = loaded.settings.iter();
    assert_eq!(
        flags
            .filter(|s| matches!(s.origin, Origin::Flag(_)))
            .count(),
        6
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_a_guess() {
    let told = refused("[upstream]\nstall_timout = \"8s\"\n\n[lisen]\nworkers = 3\n[x]\ny = 1\n");
    assert_eq!(
        told,
        "`upstream.stall_timout` (file DIR/orlop.toml, line 2) is no setting of orlop \
         [did you mean `upstream.stall_timeout`?]\n\
         `lisen.workers` (file DIR/orlop.toml, line 5) is no setting of orlop \
         [did you mean `listen.workers`?]\n\
         `x.y` (file DIR/orlop.toml, line 7) is no setting of orlop \
         [`orlop config show` lists every setting]"
    );
}

#[test]
fn a_table_that_is_written_as_a_value_is_refused() {
    assert!(refused("listen = \"127.0.0.1:80\"\n").contains("did you mean `listen.addresses`?"));
    assert!(refused("[mode]\nx = 1\n").contains("it is a table"));
}

#[test]
fn a_wrong_value_is_refused_with_its_place_the_reason_and_a_remedy() {
    let check = |text: &str, parts: &[&str]| {
        let told = refused(text);
        for part in parts {
            assert!(told.contains(part), "`{part}` is missing from: {told}");
        }
    };
    check(
        "[upstream]\nstall_timeout = 8\n",
        &[
            "`upstream.stall_timeout`",
            "line 2",
            "a bare number",
            "\"8s\"",
        ],
    );
    check(
        "[upstream]\nattempts = 0\n",
        &["0 is out of bounds", "from 1 to 20"],
    );
    check(
        "[index]\npatience = \"26s\"\n",
        &["26s is out of bounds", "from 0s to 25s"],
    );
    check("[store]\ncache = \"64M\"\n", &["`64M` is no size", "64MiB"]);
    check("[listen]\naddresses = []\n", &["it is empty"]);
    check(
        "[listen]\naddresses = [8080]\n",
        &["a list of other things than text"],
    );
    check("mode = \"ofline\"\n", &["did you mean \"offline\"?"]);
    check("data = 3.5\n", &["a number with a point"]);
    check("public_url = \"crates.lab\"\n", &["is no URL", "https://"]);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    assert_eq!(
        refused("a = 1\nmode = 2\n[store]\ncache = true\n")
            .lines()
            .count(),
        3
    );
}

#[test]
fn broken_toml_is_refused_by_its_line_and_without_showing_it() {
    let told = refused("mode = \"strict\"\n[upstream]\nproxy = \"http://u:hunter2@p\n");
    assert!(told.contains("line 3"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    assert!(refused("mode = \"strict\"\nmode = \"strict\"\n").contains("line 2"));
}

#[test]
fn a_file_that_somebody_names_must_be_there_and_the_default_one_need_not() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    let mut sources = sources();
    sources.default_file = Some(missing.clone());
    assert!(load(&sources).unwrap().file.is_none());

    sources.flags.config = Some(missing.clone());
    let errors = load(&sources).unwrap_err();
    assert!(
        told(&errors[0]).contains("--config"),
        "{}",
        told(&errors[0])
    );

    sources.flags.config = Some(folder.path().to_owned());
    assert!(matches!(
        load(&sources).unwrap_err()[..],
        [Error::File { .. }]
    ));

    fs::write(&missing, "mode = \"strict\"").unwrap();
    sources.flags.config = None;
    let loaded = load(&sources).unwrap();
    assert_eq!(
        (loaded.config.app.mirror.mode, loaded.file),
        (Mode::Strict, Some(missing))
    );
}

#[test]
fn a_variable_names_the_file_and_an_empty_one_turns_the_default_file_off() {
    let (_folder, named) = with_file("mode = \"strict\"");
    let path = named.flags.config.unwrap();
    let mut sources = with_variables(&[("ORLOP_CONFIG", path.to_str().unwrap())]);
    assert_eq!(load(&sources).unwrap().config.app.mirror.mode, Mode::Strict);
    sources = with_variables(&[("ORLOP_CONFIG", "")]);
    sources.default_file = Some(path);
    assert_eq!(
        load(&sources).unwrap().config.app.mirror.mode,
        Mode::Fallback
    );
}

#[test]
fn a_file_beyond_a_megabyte_is_not_read() {
    let (_folder, sources) = with_file(&"#".repeat(1024 * 1024 + 1));
    assert!(told(&load(&sources).unwrap_err()[0]).contains("larger than 1 MiB"));
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_refused_and_a_strange_one_is_a_warning() {
    let errors = load(&with_variables(&[("ORLOP_UPSTREAM_STALL_TIMOUT", "8s")])).unwrap_err();
    assert_eq!(
        told(&errors[0]),
        "`ORLOP_UPSTREAM_STALL_TIMOUT` (environment) is no setting of orlop \
         [did you mean `ORLOP_UPSTREAM_STALL_TIMEOUT`?]"
    );
    let strange = load(&with_variables(&[("ORLOP_COFFEE", "1")])).unwrap();
    assert_eq!(strange.warnings.len(), 1, "{:?}", strange.warnings);
    let links = ["ORLOP_PORT", "ORLOP_PORT_8080_TCP", "ORLOP_SERVICE_HOST"].map(|name| (name, "x"));
    assert!(load(&with_variables(&links)).unwrap().warnings.is_empty());
}

#[test]
fn every_key_can_be_set_by_its_variable_and_no_two_share_one() {
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        other => other.to_string(),
    };
    let value = |key: &Key| match key.example {
        "" => text(key.default_value()),
        example => text(serde_json::from_str(example).unwrap()),
    };
    let mut names = BTreeSet::new();
    for key in KEYS {
        let name = key.variable();
        let loaded = load(&with_variables(&[(&name, &value(key))])).unwrap();
        assert_eq!(
            *origin(&loaded, key.path),
            Origin::Environment(name.clone())
        );
        assert!(names.insert(name), "{key:?}");
    }
}

#[test]
fn an_empty_variable_takes_back_what_the_file_sets() {
    let (_folder, mut sources) = with_file("[upstream]\nproxy = \"http://p:1\"\n");
    assert!(load(&sources).unwrap().config.upstream.proxy.is_some());
    sources.environment = with_variables(&[("ORLOP_UPSTREAM_PROXY", "")]).environment;
    assert_eq!(load(&sources).unwrap().config.upstream.proxy, None);
    sources.environment = with_variables(&[("ORLOP_LISTEN_WORKERS", "")]).environment;
    assert!(load(&sources).is_err());
}

#[test]
fn a_covered_value_must_be_right_too() {
    let (_folder, mut sources) = with_file("mode = \"nonsense\"");
    sources.flags.mode = Some("strict".to_owned());
    assert!(load(&sources).is_err());
}

#[test]
fn a_machine_without_a_home_needs_a_data_folder_and_only_that() {
    let mut sources = sources();
    sources.environment.data_dir = None;
    let errors = load(&sources).unwrap_err();
    assert!(matches!(errors[..], [Error::NoDefault { key: "data" }]));
    assert!(told(&errors[0]).contains("--data"));
    sources.flags.data = Some(PathBuf::from("/srv/orlop"));
    assert!(load(&sources).is_ok());
}

#[test]
fn a_server_is_not_its_own_upstream() {
    let check = |public: &str, upstream: &str, good: bool| {
        let mut sources = sources();
        sources.flags.public_url = Some(public.to_owned());
        sources.flags.upstream = Some(upstream.to_owned());
        assert_eq!(load(&sources).is_ok(), good, "{public} {upstream}");
    };
    check("https://crates.lab", "https://crates.lab/index/", false);
    check("https://crates.lab/", "sparse+https://crates.lab", false);
    check("https://crates.lab/a", "https://crates.lab/b/index/", true);
    check("https://crates.lab", "https://crates.lab.far/index/", true);
}

#[test]
fn settings_that_cannot_work_together_are_warned_of() {
    let check = |text: &str, part: &str| {
        let (_folder, sources) = with_file(text);
        let warnings = load(&sources).unwrap().warnings;
        assert!(
            warnings.iter().any(|warning| warning.contains(part)),
            "{warnings:?}"
        );
    };
    check("[upstream]\nstall_timeout = \"11m\"\n", "stall_timeout");
    check("public_url = \"https://tools.lab/crates/\"\n", "`/crates`");
    check(
        "[listen]\ntrusted_proxies = [\"0.0.0.0/0\"]\n",
        "trusted_proxies",
    );
    check(
        "mode = \"offline\"\n[upstream]\nproxy = \"http://p:1\"\n",
        "proxy",
    );
}

#[test]
fn secrets_stay_out_of_everything_that_is_shown() {
    let sources = with_variables(&[("ORLOP_UPSTREAM_PROXY", "socks5://me:hunter2@p:1080")]);
    let loaded = load(&sources).unwrap();
    assert!(!format!("{:?} {:?}", loaded.config, loaded.settings).contains("hunter2"));
    let proxy = loaded.config.upstream.proxy.unwrap();
    assert!(proxy.has_credentials());
}

#[test]
fn tables_stay_together_and_every_key_has_its_words() {
    let mut tables: Vec<&str> = KEYS.iter().map(|key| key.table_and_name().0).collect();
    tables.dedup();
    assert_eq!(
        tables,
        [
            "", "listen", "admin", "upstream", "index", "store", "git", "sync", "import", "views",
            "use", "http", "log"
        ]
    );
    for key in KEYS {
        assert!(key.doc.ends_with('.'), "{key:?}: {}", key.doc);
        let is_line = |text: &str| text.trim() == text && !text.contains('\n');
        assert!(is_line(key.doc) && !key.doc.contains("  "), "{}", key.doc);
    }
}

/// The sample file as it is in the repository.
fn sample_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/orlop.toml")
}

#[test]
fn the_sample_file_names_every_key_with_its_default() {
    let file = fs::read_to_string(sample_file()).unwrap();
    let hint = "write it anew with `cargo test --lib write_the_sample_file -- --ignored`";
    assert!(file == sample(), "packaging/orlop.toml has drifted: {hint}");
}

#[test]
#[ignore = "writes packaging/orlop.toml after a change to the table of keys"]
fn write_the_sample_file() {
    fs::write(sample_file(), sample()).unwrap();
}

#[test]
fn the_sample_file_is_a_configuration_as_it_stands_and_with_every_key_switched_on() {
    let text = sample();
    let (_folder, sources) = with_file(&text);
    let values = |sources: &Sources| -> Vec<Value> {
        let settings = load(sources).unwrap().settings.into_iter();
        settings.map(|setting| setting.value).collect()
    };
    assert_eq!(values(&sources), values(&self::sources()));

    let on = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key.to_owned(),
        _ => line.to_owned(),
    };
    let switched: Vec<String> = text.lines().map(on).collect();
    let (_folder, sources) = with_file(&switched.join("\n"));
    let loaded = load(&sources).unwrap();
    assert!(
        loaded
            .settings
            .iter()
            .all(|s| matches!(s.origin, Origin::File { .. }))
    );
}

#[test]
fn a_git_index_is_a_path_or_a_url_and_shows_no_password() {
    let check = |text: &str, shown: Option<&str>| {
        let (_folder, sources) = with_file(&format!("[upstream]\ngit_index = {text:?}\n"));
        let found = load(&sources);
        let found = found.map(|loaded| {
            let setting = loaded
                .settings
                .iter()
                .find(|s| s.key.path == "upstream.git_index");
            setting.expect("it is a key").value.clone()
        });
        match (found, shown) {
            (Ok(value), Some(shown)) => assert_eq!(value, shown, "{text}"),
            (Err(errors), None) => {
                let told = format!("{errors:?}");
                assert!(!told.contains("hunter2"), "{text}: {told}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    };
    check("/srv/index", Some("/srv/index"));
    check("index", Some("index"));
    check("./odd:name/index", Some("./odd:name/index"));
    check("file:///srv/index", Some("/srv/index"));
    check("file://localhost/srv/index", Some("/srv/index"));
    check("https://h.test/index.git", Some("https://h.test/index.git"));
    check(
        "registry+https://h.test/index",
        Some("https://h.test/index"),
    );
    check("http://u:hunter2@h.test/i", Some("http://***@h.test/i"));
    for bad in [
        "git@h.test:index",
        "ssh://u:hunter2@h.test/index",
        "git://h.test/index",
        "file://elsewhere/index",
        "https://u:hunter2@h.test/index?x",
        "https://",
    ] {
        check(bad, None);
    }
}

#[test]
fn a_file_that_nobody_understands_leaves_no_default_socket() {
    let is_at = |sources: &Sources, expected: &[&str]| {
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(admin_sockets(sources), expected);
    };
    is_at(&sources(), &["/home/me/.local/share/orlop/admin.sock"]);
    // Wrong elsewhere.
    let (_folder, with) = with_file("data = \"/srv/orlop\"\nmode = 5\n[nonsense]\na = 1\n");
    is_at(&with, &["/srv/orlop/admin.sock"]);
    for broken in [
        "data = \"/srv/orlop\"\n[",
        "data = 5",
        "[admin]\nsocket = 5",
    ] {
        let (_folder, mut with) = with_file(broken);
        is_at(&with, &[]);
        with.environment.runtime_dir = Some(PathBuf::from("/run/orlop"));
        is_at(&with, &["/run/orlop/admin.sock"]);
        with.flags.admin_socket = Some(PathBuf::from("/run/other.sock"));
        is_at(&with, &["/run/other.sock", "/run/orlop/admin.sock"]);
    }
    let mut gone = sources();
    gone.flags.config = Some(PathBuf::from("/nobody/is/here.toml"));
    is_at(&gone, &[]);
    // A folder that is named from here is the same folder for all commands.
    let mut relative = sources();
    relative.flags.data = Some(PathBuf::from("d1"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(admin_sockets(&relative), [here.join("d1/admin.sock")]);
}

#[test]
fn a_key_that_is_none_is_refused_before_a_bundle_comes() {
    let (_folder, with) = with_file("[import]\ntrust = [\"nonsense\"]\n");
    let errors = load(&with).unwrap_err();
    assert_eq!(errors.len(), 1);
    let told = told(&errors[0]);
    assert!(
        told.contains("import.trust") && told.contains("`nonsense` is no public key"),
        "{told}"
    );
}

#[test]
fn options_that_follow_from_keys_of_other_modules_are_set() {
    let config = |variables: &[(&str, &str)]| load(&with_variables(variables)).unwrap().config;
    let git = ("ORLOP_UPSTREAM_GIT_INDEX", "/srv/index");
    let plain = config(&[("ORLOP_DATA", "/d")]);
    assert!(!plain.app.follow.enabled && !plain.upstream.given_config);
    assert_eq!(plain.git().unwrap().dir, Path::new("/d/git/index"));
    assert_eq!(plain.app.views.dir, Path::new("/d/git/views"));
    assert_eq!(plain.app.jobs.bundle.key_dir, Path::new("/d/key"));

    let followed = config(&[
        ("ORLOP_DATA", "/d"),
        ("ORLOP_UPSTREAM_MAX_INDEX", "1MiB"),
        git,
    ]);
    assert!(followed.app.follow.enabled && followed.upstream.given_config);
    assert_eq!(followed.app.follow.dir, Path::new("/d/git/upstream"));
    assert_eq!(followed.app.follow.max_file_bytes, 1 << 20);

    let with_url = config(&[("ORLOP_UPSTREAM_URL", "https://other.test/index"), git]);
    assert!(with_url.app.follow.enabled && !with_url.upstream.given_config);
}

#[test]
fn a_change_of_a_secret_is_a_change_that_does_not_show_it() {
    let of = |proxy: &str| load(&with_variables(&[("ORLOP_UPSTREAM_PROXY", proxy)])).unwrap();
    let (one, other) = (of("http://me:hunter2@p:1"), of("http://me:hunter3@p:1"));
    let changed = changes(&one, &other);
    let [change] = changed.as_slice() else {
        panic!("{changed:?}");
    };
    assert_eq!(change.key.path, "upstream.proxy");
    assert!(change.from == change.to && !format!("{change:?}").contains("hunter"));
    assert!(changes(&one, &one).is_empty());
}
