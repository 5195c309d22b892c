//! Reads what a source wrote into a typed value, and shows a value as it would be written.

use std::ffi::OsString;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::LogFormat;
use super::error::Refusal;
use super::suggest;
use crate::{
    jobs::bundle::PublicKey,
    policy::Mode,
    upstream::{GitIndex, SecretUrl},
};

/// A value as its source wrote it.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    /// From a variable or a flag, where everything is text.
    Typed(OsString),
    /// A string of the TOML file.
    Text(String),
    /// An integer of the TOML file.
    Whole(i64),
    /// A boolean of the TOML file.
    Switch(bool),
    /// A list of strings, from the TOML file or from a flag that may be repeated.
    List(Vec<String>),
    /// Something that no key takes, in words.
    Other(&'static str),
}

type Read<T> = Result<T, Refusal>;

/// How the value of a key is read and shown.
pub(super) trait Kind {
    /// The type of the field that has the value.
    type Value;
    fn read(&self, raw: &Raw) -> Read<Self::Value>;
    /// What may be shown of it, without secrets, as it would be written in TOML.
    fn show(&self, value: &Self::Value) -> Value;
}

/// A kind without bounds: how it is read, how it is shown.
pub(super) struct Plain<T>(fn(&Raw) -> Read<T>, fn(&T) -> Value);

pub(super) const ADDRESSES: Plain<Vec<SocketAddr>> = Plain(addresses, in_words);
pub(super) const CONTACT: Plain<String> = Plain(contact, as_it_is);
pub(super) const FILTER: Plain<String> = Plain(filter, as_it_is);
pub(super) const GIT_INDEX: Plain<GitIndex> = Plain(git_index, in_a_word);
pub(super) const INDEX_URL: Plain<SecretUrl> = Plain(index_url, without_slash);
pub(super) const LOG_FORMAT: Plain<LogFormat> =
    Plain(|raw| one_of(raw, &LogFormat::ALL), in_a_word);
pub(super) const MODE: Plain<Mode> = Plain(|raw| one_of(raw, Mode::ALL), in_a_word);
pub(super) const NETWORKS: Plain<Vec<IpNet>> = Plain(networks, in_words);
pub(super) const PATH: Plain<PathBuf> = Plain(path, |path| json!(path.to_string_lossy()));
pub(super) const PROXY: Plain<SecretUrl> = Plain(proxy, in_a_word);
pub(super) const PUBLIC_KEYS: Plain<Vec<String>> = Plain(public_keys, as_it_is);
pub(super) const PUBLIC_URL: Plain<String> = Plain(public_url, as_it_is);
pub(super) const SWITCH: Plain<bool> = Plain(switch, as_it_is);

impl<T> Kind for Plain<T> {
    type Value = T;

    fn read(&self, raw: &Raw) -> Read<T> {
        (self.0)(raw)
    }

    fn show(&self, value: &T) -> Value {
        (self.1)(value)
    }
}

/// A value between two bounds.
pub(super) struct Bounded<T> {
    kind: Plain<T>,
    least: T,
    most: T,
}

/// A time with its unit.
pub(super) fn time(least: Duration, most: Duration) -> Bounded<Duration> {
    let kind = Plain(duration, |value| json!(show_duration(*value)));
    Bounded { kind, least, most }
}

/// A number of bytes with its unit.
pub(super) fn size(least: u64, most: u64) -> Bounded<u64> {
    let kind = Plain(bytes, |value| json!(show_size(*value)));
    Bounded { kind, least, most }
}

/// A whole number.
pub(super) fn count<T: FromStr + Serialize>(least: T, most: T) -> Bounded<T> {
    let kind = Plain(whole_number, as_it_is);
    Bounded { kind, least, most }
}

impl<T: PartialOrd> Kind for Bounded<T> {
    type Value = T;

    fn read(&self, raw: &Raw) -> Read<T> {
        let value = self.kind.read(raw)?;
        if self.least <= value && value <= self.most {
            return Ok(value);
        }
        let shown = |value: &T| self.show(value).to_string().replace('"', "");
        let (least, most) = (shown(&self.least), shown(&self.most));
        Err(Refusal::new(
            format!("{} is out of bounds", shown(&value)),
            format!("take a value from {least} to {most}"),
        ))
    }

    fn show(&self, value: &T) -> Value {
        self.kind.show(value)
    }
}

/// A value that may be missing. Empty text means: not set, even if a weaker source sets it.
pub(super) struct Optional<K>(pub(super) K);

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;

    fn read(&self, raw: &Raw) -> Read<Option<K::Value>> {
        if raw.is_empty() {
            return Ok(None);
        }
        self.0.read(raw).map(Some)
    }

    fn show(&self, value: &Option<K::Value>) -> Value {
        value
            .as_ref()
            .map_or(Value::Null, |value| self.0.show(value))
    }
}

fn as_it_is<T: Serialize>(value: &T) -> Value {
    json!(value)
}

fn in_a_word<T: Display>(value: &T) -> Value {
    json!(value.to_string())
}

#[expect(
    clippy::ptr_arg,
    reason = "it is handed over as a function of the stored type"
)]
fn in_words<T: Display>(list: &Vec<T>) -> Value {
    list.iter().map(in_a_word).collect()
}

fn without_slash(url: &SecretUrl) -> Value {
    json!(url.to_string().trim_end_matches('/'))
}

/// A refusal whose remedy is to write what is wanted.
fn wrong(why: impl Into<String>, wanted: &str) -> Refusal {
    Refusal::new(why, format!("write {wanted}"))
}

/// A refusal whose remedy is the word that was perhaps meant.
fn wrong_word<'a>(
    why: String,
    word: &str,
    words: impl IntoIterator<Item = &'a str>,
    wanted: &str,
) -> Refusal {
    match suggest::closest(word, words) {
        Some(meant) => Refusal::new(why, format!("did you mean \"{meant}\"?")),
        None => wrong(why, wanted),
    }
}

// How a value was written.

impl Raw {
    fn is_empty(&self) -> bool {
        match self {
            Raw::Typed(text) => text.is_empty(),
            Raw::Text(text) => text.is_empty(),
            Raw::Whole(_) | Raw::Switch(_) | Raw::List(_) | Raw::Other(_) => false,
        }
    }

    /// The text, or a refusal that says what is wanted instead.
    fn text(&self, wanted: &str) -> Read<&str> {
        match self {
            Raw::Typed(text) => text
                .to_str()
                .ok_or_else(|| wrong("it is not UTF-8", wanted)),
            Raw::Text(text) => Ok(text),
            other => Err(other.unfit(wanted)),
        }
    }

    /// The items; text from a variable is cut at its commas.
    fn list(&self, wanted: &str) -> Read<Vec<&str>> {
        match self {
            Raw::List(items) => Ok(items.iter().map(String::as_str).collect()),
            Raw::Typed(_) => {
                let items = self.text(wanted)?.split(',').map(str::trim);
                Ok(items.filter(|item| !item.is_empty()).collect())
            }
            other => Err(other.unfit(wanted)),
        }
    }

    fn unfit(&self, wanted: &str) -> Refusal {
        wrong(format!("it is {}", self.type_name()), wanted)
    }

    /// What it is, in words and without the value, which may be a secret.
    fn type_name(&self) -> &'static str {
        match self {
            Raw::Typed(_) | Raw::Text(_) => "text",
            Raw::Whole(_) => "a bare number",
            Raw::Switch(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Other(words) => words,
        }
    }
}

// Numbers with units.

fn duration(raw: &Raw) -> Read<Duration> {
    const WANTED: &str = "a number with a unit, such as \"500ms\", \"8s\" or \"5m\"";
    let text = raw.text(WANTED)?;
    humantime::parse_duration(text)
        .map_err(|error| wrong(format!("`{text}` is no duration: {error}"), WANTED))
}

/// The units that durations are shown in, with their nanoseconds.
const TIME_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// The value in the largest unit that needs no fraction. `None`: it is zero.
fn in_one_unit(value: u64, units: &[(&str, u64)]) -> Option<String> {
    let is_whole = |(_, factor): &&(&str, u64)| value > 0 && value.is_multiple_of(*factor);
    let (unit, factor) = units.iter().find(is_whole)?;
    Some(format!("{}{unit}", value / factor))
}

/// As it would be written, in one unit: `75s`, `5m`.
fn show_duration(value: Duration) -> String {
    let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
    in_one_unit(nanos, TIME_UNITS).unwrap_or_else(|| "0s".to_owned())
}

fn show_size(bytes: u64) -> String {
    in_one_unit(bytes, SIZE_UNITS).unwrap_or_else(|| "0B".to_owned())
}

fn bytes(raw: &Raw) -> Read<u64> {
    const WANTED: &str = "a whole number with a unit, such as \"64MiB\" or \"1GiB\"; the units are \
                          B, KiB, MiB, GiB, TiB, KB, MB, GB and TB";
    if let Raw::Whole(bytes) = raw {
        let below = |_| wrong(format!("{bytes} is below zero"), WANTED);
        return u64::try_from(*bytes).map_err(below);
    }
    let text = raw.text(WANTED)?;
    parse_size(text).ok_or_else(|| wrong(format!("`{text}` is no size"), WANTED))
}

/// Reads `64MiB`, `64 mib` and `67108864`. `64M` could mean two things and is refused.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at_checked(digits.unwrap_or(text.len()))?;
    let unit = unit.trim_start();
    let is_it = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
    let factor = match unit {
        "" => 1,
        _ => SIZE_UNITS.iter().find(is_it)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn whole_number<T: FromStr>(raw: &Raw) -> Read<T> {
    const WANTED: &str = "a whole number without quotes, such as 64";
    let text = match raw {
        Raw::Whole(number) => number.to_string(),
        Raw::Typed(_) => raw.text(WANTED)?.trim().to_owned(),
        other => return Err(other.unfit(WANTED)),
    };
    let refusal = |_invalid| wrong(format!("`{text}` is no whole number that fits"), WANTED);
    text.parse().map_err(refusal)
}

fn switch(raw: &Raw) -> Read<bool> {
    let found = match raw {
        Raw::Switch(on) => return Ok(*on),
        Raw::Typed(text) if text == "true" => return Ok(true),
        Raw::Typed(text) if text == "false" => return Ok(false),
        Raw::Typed(text) => format!("`{}`", text.display()),
        other => other.type_name().to_owned(),
    };
    Err(wrong(
        format!("{found} is neither true nor false"),
        "true or false, without quotes",
    ))
}

// Words.

/// A value of a closed list of words.
fn one_of<T: Copy + Display>(raw: &Raw, all: &[T]) -> Read<T> {
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    let wanted = format!("one of \"{}\"", names.join("\", \""));
    let text = raw.text(&wanted)?;
    let known = all.iter().zip(&names).find(|(_, name)| *name == text);
    known.map(|(value, _)| *value).ok_or_else(|| {
        let names = names.iter().map(String::as_str);
        wrong_word(format!("`{text}` is not known"), text, names, &wanted)
    })
}

/// `EnvFilter` takes any word for the name of a module, so `inof` would silence everything. A word
/// alone must be a level.
fn filter(raw: &Raw) -> Read<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    const WANTED: &str = "a level or a list such as \"info,orlop::upstream=debug\"";
    let text = raw.text(WANTED)?;
    let bare = |part: &&str| !part.contains(['=', '[']);
    for part in text.split(',').map(str::trim).filter(bare) {
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part)) {
            return Err(wrong_word(
                format!("`{part}` is no level"),
                part,
                LEVELS,
                WANTED,
            ));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(wrong(format!("`{text}` is no filter: {error}"), WANTED)),
    }
}

/// Goes into a header, where anything but plain ASCII would make every request fail.
fn contact(raw: &Raw) -> Read<String> {
    const WANTED: &str = "a mail address or a URL, such as \"ops@lab.example\"";
    const MAX_LETTERS: usize = 200;
    let text = raw.text(WANTED)?;
    let plain = |c: char| c == ' ' || c.is_ascii_graphic() && c != '(' && c != ')';
    if text.len() > MAX_LETTERS || !text.chars().all(plain) {
        return Err(wrong(
            "it does not fit into a header (plain ASCII without brackets, at most 200 letters)",
            WANTED,
        ));
    }
    Ok(text.to_owned())
}

fn public_keys(raw: &Raw) -> Read<Vec<String>> {
    const WANTED: &str = "a list of public keys, as `orlop key show` prints them";
    const SHOWN_LETTERS: usize = 100;
    let key = |item: &str| {
        if item.parse::<PublicKey>().is_err() {
            let shown: String = item.chars().take(SHOWN_LETTERS).collect();
            let why = format!("`{}` is no public key", shown.escape_debug());
            return Err(wrong(why, WANTED));
        }
        Ok(item.to_owned())
    };
    raw.list(WANTED)?.into_iter().map(key).collect()
}

// Paths.

fn path(raw: &Raw) -> Read<PathBuf> {
    const WANTED: &str = "a path, such as \"/var/lib/orlop\"";
    let path = match raw {
        Raw::Typed(text) => PathBuf::from(text),
        other => PathBuf::from(other.text(WANTED)?),
    };
    if path.as_os_str().is_empty() {
        return Err(wrong("it is empty", WANTED));
    }
    if path.starts_with("~") {
        return Err(Refusal::new(
            "`~` means a home folder only to a shell",
            "write the path in full",
        ));
    }
    Ok(path)
}

fn git_index(raw: &Raw) -> Read<GitIndex> {
    const WANTED: &str = "a URL such as \"https://git.lab.example/index.git\" or the path of a \
                          repository on this machine";
    let text = raw.text(WANTED)?.trim();
    let text = text.strip_prefix("registry+").unwrap_or(text);
    let Some((scheme, rest)) = text.split_once("://") else {
        let before_colon = text.split_once(':').map(|(host, _path)| host);
        // As git tells `host:path` from a path; a colon further on is part of the path.
        if before_colon.is_some_and(|host| !host.contains('/')) {
            return Err(wrong("it is of ssh, which orlop does not speak", WANTED));
        }
        return Ok(GitIndex::Path(PathBuf::from(text)));
    };
    if scheme == "file" {
        return match rest.strip_prefix("localhost").unwrap_or(rest) {
            path if path.starts_with('/') => Ok(GitIndex::Path(PathBuf::from(path))),
            _ => Err(wrong("a URL of file:// has an absolute path", WANTED)),
        };
    }
    let url = url(text, "it", &["http", "https"], WANTED)?;
    Ok(GitIndex::Url(without_query(url, "it", WANTED)?.into()))
}

// URLs and addresses.

/// Reads the URL that clients reach a server by: http or https, no credentials, query or fragment;
/// a slash at its end is dropped.
///
/// # Errors
/// A [`Refusal`] that says what is wrong and what would be taken.
pub fn parse_public_url(text: &str) -> Result<String, Refusal> {
    let url = web_url(text, "a URL such as \"https://crates.lab.example\"")?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn public_url(raw: &Raw) -> Read<String> {
    parse_public_url(raw.text("a URL, such as \"https://crates.lab.example\"")?)
}

/// The base of a sparse index, with the slash that makes it one.
fn index_url(raw: &Raw) -> Read<SecretUrl> {
    const WANTED: &str = "a URL such as \"https://crates.lab.example/index/\"";
    let text = raw.text(WANTED)?;
    let mut url = web_url(text.strip_prefix("sparse+").unwrap_or(text), WANTED)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url.into())
}

fn web_url(text: &str, wanted: &str) -> Read<Url> {
    // What stands before an `@` may be a password.
    let shown = if text.contains('@') {
        "it"
    } else {
        &format!("`{text}`")
    };
    let url = url(text, shown, &["http", "https"], wanted)?;
    if !url.username().is_empty() || url.password().is_some() {
        let why = format!("{shown} holds credentials, which would end up in logs and pages");
        return Err(wrong(why, wanted));
    }
    without_query(url, shown, wanted)
}

fn proxy(raw: &Raw) -> Read<SecretUrl> {
    const WANTED: &str = "a URL such as \"http://proxy.lab.example:3128\" or \
                          \"socks5://proxy.lab.example:1080\"";
    const SCHEMES: [&str; 4] = ["http", "https", "socks5", "socks5h"];
    Ok(url(raw.text(WANTED)?, "it", &SCHEMES, WANTED)?.into())
}

/// A URL with a host. A text that may hold a password is `shown` as "it", and never quoted.
fn url(text: &str, shown: &str, schemes: &[&str], wanted: &str) -> Read<Url> {
    let refusal = |why: &str| wrong(format!("{shown} {why}"), wanted);
    // The parser's error is left out: it may quote a password.
    let url = Url::parse(text).map_err(|_quoting| refusal("is no URL"))?;
    if !schemes.contains(&url.scheme()) {
        let known = format!("{}://", schemes.join(":// or "));
        return Err(refusal(&format!("does not begin with {known}")));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refusal("names no host"));
    }
    Ok(url)
}

fn without_query(url: Url, shown: &str, wanted: &str) -> Read<Url> {
    if url.query().is_some() || url.fragment().is_some() {
        let why = format!("{shown} has a query or a fragment, and paths are put behind it");
        return Err(wrong(why, wanted));
    }
    Ok(url)
}

fn addresses(raw: &Raw) -> Read<Vec<SocketAddr>> {
    const WANTED: &str = "a list of addresses with ports, such as [\"127.0.0.1:8080\"]";
    let mut list: Vec<SocketAddr> = Vec::new();
    for item in raw.list(WANTED)? {
        let parsed = item.parse();
        let address: SocketAddr = parsed.map_err(|_invalid| not_an_address(item))?;
        // Port 0 is another port each time.
        if address.port() != 0 && list.contains(&address) {
            return Err(Refusal::new(
                format!("`{item}` is there twice"),
                "leave one of them out",
            ));
        }
        list.push(address);
    }
    if list.is_empty() {
        return Err(wrong("it is empty", WANTED));
    }
    Ok(list)
}

fn not_an_address(item: &str) -> Refusal {
    let port = |host: &str| {
        item.strip_prefix(host)?
            .strip_prefix(':')?
            .parse::<u16>()
            .ok()
    };
    let remedy = if let Ok(ip) = item.parse::<IpAddr>() {
        format!("write it with a port: \"{}\"", SocketAddr::new(ip, 8080))
    } else if let Some(port) = port("localhost") {
        format!("names are not looked up; write \"127.0.0.1:{port}\"")
    } else if let Some(port) = port("").or_else(|| port("*")) {
        format!("for every address, write \"[::]:{port}\"")
    } else {
        "write an IP address with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned()
    };
    Refusal::new(format!("`{item}` is no address with a port"), remedy)
}

fn networks(raw: &Raw) -> Read<Vec<IpNet>> {
    const WANTED: &str = "a list of IP networks, such as [\"10.0.0.0/8\", \"::1\"]";
    let network = |item: &str| {
        let alone = || item.parse::<IpAddr>().map(IpNet::from).ok();
        let network = item.parse::<IpNet>().ok().or_else(alone);
        let why = || wrong(format!("`{item}` is no IP address or network"), WANTED);
        network.map(|network| network.trunc()).ok_or_else(why)
    };
    raw.list(WANTED)?.into_iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    #[test]
    fn a_size_is_a_whole_number_with_a_unit_that_means_one_thing() {
        let check = |text: &str, bytes: Option<u64>| assert_eq!(parse_size(text), bytes, "{text}");
        check("64MiB", Some(64 << 20));
        check("64 mib", Some(64 << 20));
        check("1GiB", Some(1 << 30));
        check("2TB", Some(2_000_000_000_000));
        check("512", Some(512));
        check("0", Some(0));
        check("7B", Some(7));
        for wrong in [
            "",
            "MiB",
            "64M",
            "1.5GiB",
            "-1",
            "64MiBs",
            "99999999TiB",
            "６４MiB",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        let check = |bytes: u64, text: &str| {
            assert_eq!(show_size(bytes), text);
            assert_eq!(parse_size(text), Some(bytes));
        };
        check(64 << 20, "64MiB");
        check(1 << 30, "1GiB");
        check(1_000_000, "1MB");
        check(1_000_001, "1000001B");
        check(0, "0B");
    }

    #[test]
    fn an_address_without_a_port_or_with_a_name_is_refused_with_the_right_spelling() {
        let check = |item: &str, remedy: &str| {
            let refusal = addresses(&Raw::List(vec![item.to_owned()])).unwrap_err();
            assert!(
                refusal.remedy.contains(remedy),
                "{item}: {}",
                refusal.remedy
            );
        };
        check("127.0.0.1", "\"127.0.0.1:8080\"");
        check("::1", "\"[::1]:8080\"");
        check("localhost:3000", "\"127.0.0.1:3000\"");
        check(":3000", "\"[::]:3000\"");
        check("*:3000", "\"[::]:3000\"");
        check("127.0.0.1:99999", "such as");
    }

    #[test]
    fn a_list_comes_from_toml_or_from_a_variable_with_commas() {
        let two = addresses(&Raw::Typed("127.0.0.1:1, [::1]:2".into())).unwrap();
        assert_eq!(two.len(), 2);
        assert!(addresses(&Raw::Typed("".into())).is_err(), "empty");
        assert!(
            addresses(&text("127.0.0.1:1")).is_err(),
            "TOML text is no list"
        );
        let twice = ["127.0.0.1:1", "127.0.0.1:1"].map(str::to_owned).to_vec();
        assert!(addresses(&Raw::List(twice)).is_err());
        let free = ["127.0.0.1:0", "127.0.0.1:0"].map(str::to_owned).to_vec();
        assert!(addresses(&Raw::List(free)).is_ok());
    }

    #[test]
    fn a_network_may_be_one_address_and_loses_its_host_bits() {
        let nets = networks(&Raw::Typed("10.1.2.3/8, ::1,192.0.2.7".into())).unwrap();
        let shown: Vec<String> = nets.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "::1/128", "192.0.2.7/32"]);
        assert!(networks(&Raw::Typed("10.0.0.0/33".into())).is_err());
        assert!(networks(&Raw::Typed("".into())).unwrap().is_empty());
    }

    #[test]
    fn a_public_url_loses_its_slash_and_nothing_but_plain_http_urls_pass() {
        let check = |text: &str, base: &str| {
            assert_eq!(parse_public_url(text).unwrap(), base);
        };
        check("http://host:8080", "http://host:8080");
        check("https://host/crates//", "https://host/crates");
        check("http://[::1]:8080/", "http://[::1]:8080");
        for wrong in [
            "host:8080",
            "host",
            "ftp://host",
            "http://",
            "http://host/?a",
            "http://host/#a",
            "http://user@host/",
            "sparse+http://host/",
        ] {
            assert!(parse_public_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_index_url_ends_with_a_slash_and_may_say_sparse() {
        let read = |item: &str| index_url(&text(item)).unwrap().to_string();
        assert_eq!(read("sparse+http://host/index"), "http://host/index/");
        assert_eq!(read("http://host"), "http://host/");
    }

    #[test]
    fn credentials_are_never_shown() {
        let secret = "http://user:hunter2@proxy:3128";
        let url = proxy(&text(secret)).unwrap();
        assert_eq!(url.to_string(), "http://***@proxy:3128/");
        assert_eq!(format!("{url:?}"), "SecretUrl(http://***@proxy:3128/)");
        assert!(url.has_credentials());
        for wrong in [
            "http://user:hunter2@",
            "user:hunter2@proxy",
            "ftp://u:hunter2@h",
        ] {
            for refusal in [
                proxy(&text(wrong)).map(|_| ()),
                index_url(&text(wrong)).map(|_| ()),
            ] {
                let Refusal { why, remedy } = refusal.unwrap_err();
                assert!(!format!("{why} {remedy}").contains("hunter2"), "{why}");
            }
        }
        let refusal = index_url(&text("http://user:hunter2@host/")).unwrap_err();
        assert!(!refusal.why.contains("hunter2") && refusal.why.contains("credentials"));
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for good in ["info", "off", "INFO", "info,orlop=debug", "orlop[x]=trace"] {
            assert!(filter(&text(good)).is_ok(), "{good}");
        }
        let refusal = filter(&text("inof")).unwrap_err();
        assert_eq!(refusal.remedy, "did you mean \"info\"?");
        for wrong in ["", "orlop", "orlop=loud", "info,,"] {
            assert!(filter(&text(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_contact_fits_into_a_header() {
        assert!(contact(&text("ops@lab.example")).is_ok());
        for wrong in ["a\r\nb", "käse@lab.example", "a) evil/1.0 (b"] {
            assert!(contact(&text(wrong)).is_err(), "{wrong}");
        }
        assert!(contact(&text(&"a".repeat(201))).is_err());
    }

    #[test]
    fn a_number_in_quotes_is_refused_in_toml_and_taken_from_a_variable() {
        assert_eq!(whole_number::<u32>(&Raw::Typed("64".into())).unwrap(), 64);
        assert_eq!(whole_number::<u32>(&Raw::Whole(64)).unwrap(), 64);
        assert!(whole_number::<u32>(&text("64")).is_err());
        assert!(whole_number::<u32>(&Raw::Whole(-1)).is_err());
        assert!(whole_number::<u32>(&Raw::Whole(1 << 40)).is_err());
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(
            duration(&text("1h 30m")).unwrap(),
            Duration::from_secs(5400)
        );
        assert_eq!(duration(&text("0s")).unwrap(), Duration::ZERO);
        assert!(duration(&text("8")).unwrap_err().why.contains("`8`"));
        assert!(duration(&Raw::Whole(8)).is_err());
    }

    #[test]
    fn a_duration_is_shown_as_it_would_be_written() {
        for shown in ["75s", "5m", "1h", "500ms", "15m", "0s", "1500us", "90m"] {
            assert_eq!(show_duration(duration(&text(shown)).unwrap()), shown);
        }
    }

    #[test]
    fn a_path_with_a_tilde_is_refused() {
        assert!(path(&text("~/orlop")).is_err());
        assert!(path(&text("")).is_err());
        assert_eq!(path(&text("a/~b")).unwrap(), PathBuf::from("a/~b"));
    }
}
