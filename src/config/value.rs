//! From what was written to a typed value in its place, and back to what may be shown of it.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::error::Refusal;
use super::suggest;
use super::{Config, LogFormat};
use crate::{
    mirror::bundle::PublicKey,
    policy::Mode,
    upstream::{GitIndex, SecretUrl},
};

/// A value as its source wrote it.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    /// From a variable, a flag or the table of keys, where everything is text.
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

/// Where a key's value lives in the configuration, which is its kind too.
pub(super) enum Place {
    Duration(At<Duration>, Bounds<Duration>),
    Size(At<u64>, Bounds<u64>),
    OptionalSize(At<Option<u64>>, Bounds<u64>),
    Count(At<u32>, Bounds<u32>),
    Switch(At<bool>),
    Path(At<PathBuf>),
    OptionalPath(At<Option<PathBuf>>),
    IndexUrl(At<Url>),
    PublicUrl(At<Option<Url>>),
    Proxy(At<Option<SecretUrl>>),
    GitIndex(At<Option<GitIndex>>),
    Addresses(At<Vec<SocketAddr>>),
    Networks(At<Vec<IpNet>>),
    PublicKeys(At<Vec<String>>),
    Mode(At<Mode>),
    LogFormat(At<LogFormat>),
    Filter(At<String>),
    Contact(At<Option<String>>),
}

/// A field of the configuration.
pub(super) type At<T> = fn(&mut Config) -> &mut T;

/// The least and the most.
pub(super) type Bounds<T> = (T, T);

type Read<T> = Result<T, Refusal>;

impl Place {
    /// Reads `raw`, writes it into `config`, and gives back what may be shown.
    pub(super) fn assign(&self, raw: &Raw, config: &mut Config) -> Read<Value> {
        match self {
            Place::Duration(at, bounds) => {
                let value = bounded(duration(raw)?, *bounds, show_duration)?;
                *at(config) = value;
                Ok(json!(show_duration(value)))
            }
            Place::Size(at, bounds) => {
                let value = bounded(size(raw)?, *bounds, show_size)?;
                *at(config) = value;
                Ok(json!(show_size(value)))
            }
            Place::OptionalSize(at, bounds) => {
                let read = |raw: &Raw| bounded(size(raw)?, *bounds, show_size);
                put_optional(at(config), raw, read, |bytes| json!(show_size(*bytes)))
            }
            Place::Count(at, bounds) => {
                let value = bounded(count(raw)?, *bounds, |count| count.to_string())?;
                *at(config) = value;
                Ok(json!(value))
            }
            Place::Switch(at) => put(at(config), switch(raw)?, |on| json!(on)),
            Place::Path(at) => put(at(config), path(raw)?, show_path),
            Place::OptionalPath(at) => put_optional(at(config), raw, path, show_path),
            Place::IndexUrl(at) => put(at(config), index_url(raw)?, show_url),
            Place::PublicUrl(at) => put_optional(at(config), raw, public_url, show_url),
            Place::Proxy(at) => put_optional(at(config), raw, proxy, |url| json!(url.to_string())),
            Place::GitIndex(at) => {
                put_optional(at(config), raw, git_index, |place| json!(place.to_string()))
            }
            Place::Addresses(at) => put(at(config), addresses(raw)?, show_list),
            Place::Networks(at) => put(at(config), networks(raw)?, show_list),
            Place::PublicKeys(at) => put(at(config), public_keys(raw)?, show_list),
            Place::Mode(at) => put(at(config), one_of(raw, Mode::ALL, Mode::as_str)?, |mode| {
                json!(mode.as_str())
            }),
            Place::LogFormat(at) => {
                let format = one_of(raw, &LogFormat::ALL, LogFormat::name)?;
                put(at(config), format, |format| json!(format.name()))
            }
            Place::Filter(at) => put(at(config), filter(raw)?, |filter| json!(filter)),
            Place::Contact(at) => put_optional(at(config), raw, contact, |text| json!(text)),
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "each arm of `assign` ends with it and gives a result"
)]
fn put<T>(place: &mut T, value: T, show: impl Fn(&T) -> Value) -> Read<Value> {
    let shown = show(&value);
    *place = value;
    Ok(shown)
}

/// Empty text means: not set, though a weaker source may have set it.
fn put_optional<T>(
    place: &mut Option<T>,
    raw: &Raw,
    read: impl Fn(&Raw) -> Read<T>,
    show: impl Fn(&T) -> Value,
) -> Read<Value> {
    if raw.is_empty() {
        *place = None;
        return Ok(Value::Null);
    }
    let value = read(raw)?;
    let shown = show(&value);
    *place = Some(value);
    Ok(shown)
}

fn bounded<T: PartialOrd + Copy>(
    value: T,
    (least, most): Bounds<T>,
    show: impl Fn(T) -> String,
) -> Read<T> {
    if value < least || value > most {
        return Err(Refusal::new(
            format!("{} is out of bounds", show(value)),
            format!("take a value from {} to {}", show(least), show(most)),
        ));
    }
    Ok(value)
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

    /// The text, or a refusal that says what is wanted in its place.
    fn text(&self, wanted: &str) -> Read<&str> {
        match self {
            Raw::Typed(text) => text
                .to_str()
                .ok_or_else(|| Refusal::new("it is not UTF-8", format!("write {wanted}"))),
            Raw::Text(text) => Ok(text),
            other => Err(Refusal::new(
                format!("it is {}", other.kind()),
                format!("write {wanted}"),
            )),
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
            other => Err(Refusal::new(
                format!("it is {}", other.kind()),
                format!("write {wanted}"),
            )),
        }
    }

    /// What it is, in words and without the value, which may be a secret.
    fn kind(&self) -> &'static str {
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
    humantime::parse_duration(text).map_err(|error| {
        Refusal::new(
            format!("`{text}` is no duration: {error}"),
            format!("write {WANTED}"),
        )
    })
}

/// The units that durations are shown in, with their nanoseconds.
const TIMES: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// As it would be written, in one unit: `75s`, `5m`.
fn show_duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    let whole = |(_, factor): &&(&str, u128)| nanos > 0 && nanos.is_multiple_of(*factor);
    match TIMES.iter().find(whole) {
        Some((unit, factor)) => format!("{}{unit}", nanos / factor),
        None => "0s".to_owned(),
    }
}

const UNITS: [(&str, u64); 9] = [
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

fn size(raw: &Raw) -> Read<u64> {
    const WANTED: &str = "a whole number with a unit, such as \"64MiB\" or \"1GiB\"";
    if let Raw::Whole(bytes) = raw {
        let refusal = |_| Refusal::new(format!("{bytes} is below zero"), format!("write {WANTED}"));
        return u64::try_from(*bytes).map_err(refusal);
    }
    let text = raw.text(WANTED)?;
    parse_size(text).ok_or_else(|| {
        Refusal::new(
            format!("`{text}` is no size"),
            format!("write {WANTED}; the units are B, KiB, MiB, GiB, TiB, KB, MB, GB and TB"),
        )
    })
}

/// Reads `64MiB`, `64 mib` and `67108864`. `64M` could mean two things and is refused.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let factor = if unit.is_empty() {
        1
    } else {
        let known = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit));
        known?.1
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn show_size(bytes: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*factor);
    match UNITS.iter().find(whole) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

fn count(raw: &Raw) -> Read<u32> {
    const WANTED: &str = "a whole number without quotes, such as 64";
    let refusal = |found: &dyn fmt::Display| {
        Refusal::new(
            format!("`{found}` is no whole number that fits"),
            format!("write {WANTED}"),
        )
    };
    match raw {
        Raw::Whole(number) => u32::try_from(*number).ok().ok_or_else(|| refusal(number)),
        Raw::Typed(_) => {
            let text = raw.text(WANTED)?.trim();
            text.parse().ok().ok_or_else(|| refusal(&text))
        }
        other => Err(Refusal::new(
            format!("it is {}", other.kind()),
            format!("write {WANTED}"),
        )),
    }
}

fn switch(raw: &Raw) -> Read<bool> {
    let refusal = |found: &str| {
        Refusal::new(
            format!("{found} is neither true nor false"),
            "write true or false, without quotes",
        )
    };
    match raw {
        Raw::Switch(on) => Ok(*on),
        Raw::Typed(text) => match text.to_str() {
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            _ => Err(refusal(&format!("`{}`", text.display()))),
        },
        other => Err(refusal(other.kind())),
    }
}

// Words.

/// A value of a closed list of words.
fn one_of<T: Copy>(raw: &Raw, all: &[T], name: impl Fn(T) -> &'static str) -> Read<T> {
    let names: Vec<&str> = all.iter().map(|value| name(*value)).collect();
    let wanted = format!("one of \"{}\"", names.join("\", \""));
    let text = raw.text(&wanted)?;
    let known = all.iter().find(|value| name(**value) == text);
    known.copied().ok_or_else(|| {
        let remedy = match suggest::closest(text, names) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("write {wanted}"),
        };
        Refusal::new(format!("`{text}` is not known"), remedy)
    })
}

impl LogFormat {
    /// Every format.
    pub const ALL: [LogFormat; 2] = [LogFormat::Human, LogFormat::Json];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }
    }
}

/// The filter's own reader takes any word for the name of a module, so that `inof` would silence
/// everything: a word alone must be a level.
fn filter(raw: &Raw) -> Read<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    const WANTED: &str = "a level or a list such as \"info,orlop::upstream=debug\"";
    let text = raw.text(WANTED)?;
    let bare = |part: &&str| !part.contains(['=', '[']);
    for part in text.split(',').map(str::trim).filter(bare) {
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part)) {
            let remedy = match suggest::closest(part, LEVELS) {
                Some(level) => format!("did you mean \"{level}\"?"),
                None => format!("write {WANTED}"),
            };
            return Err(Refusal::new(format!("`{part}` is no level"), remedy));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Refusal::new(
            format!("`{text}` is no filter: {error}"),
            format!("write {WANTED}"),
        )),
    }
}

/// Goes into a header: what is not plain ASCII would make every request fail.
fn contact(raw: &Raw) -> Read<String> {
    const WANTED: &str = "a mail address or a URL, such as \"ops@lab.example\"";
    const MOST: usize = 200;
    let text = raw.text(WANTED)?;
    let plain = |c: char| c.is_ascii_graphic() && c != '(' && c != ')';
    if text.len() > MOST || !text.chars().all(|c| plain(c) || c == ' ') {
        return Err(Refusal::new(
            "it does not fit into a header (plain ASCII without brackets, at most 200 letters)",
            format!("write {WANTED}"),
        ));
    }
    Ok(text.to_owned())
}

/// The texts of public keys, each of which is one.
fn public_keys(raw: &Raw) -> Read<Vec<String>> {
    const WANTED: &str = "a list of public keys, as `orlop key show` prints them";
    const SHOWN: usize = 100;
    let mut keys: Vec<String> = Vec::new();
    for item in raw.list(WANTED)? {
        if item.parse::<PublicKey>().is_err() {
            let shown: String = item.chars().take(SHOWN).collect();
            return Err(Refusal::new(
                format!("`{}` is no public key", shown.escape_debug()),
                format!("write {WANTED}"),
            ));
        }
        keys.push(item.to_owned());
    }
    Ok(keys)
}

// Paths.

fn path(raw: &Raw) -> Read<PathBuf> {
    const WANTED: &str = "a path, such as \"/var/lib/orlop\"";
    let path = match raw {
        Raw::Typed(text) => PathBuf::from(text),
        other => PathBuf::from(other.text(WANTED)?),
    };
    if path.as_os_str().is_empty() {
        return Err(Refusal::new("it is empty", format!("write {WANTED}")));
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
    let refusal = |why: &str| Refusal::new(why, format!("write {WANTED}"));
    let text = raw.text(WANTED)?.trim();
    let text = text.strip_prefix("registry+").unwrap_or(text);
    let Some((scheme, rest)) = text.split_once("://") else {
        let before_colon = text.split_once(':').map(|(host, _path)| host);
        // As git tells `host:path` from a path; a colon further on is part of the path.
        if before_colon.is_some_and(|host| !host.contains('/')) {
            return Err(refusal("it is of ssh, which orlop does not speak"));
        }
        return Ok(GitIndex::Path(PathBuf::from(text)));
    };
    if scheme == "file" {
        return match rest.strip_prefix("localhost").unwrap_or(rest) {
            path if path.starts_with('/') => Ok(GitIndex::Path(PathBuf::from(path))),
            _ => Err(refusal("a URL of file:// has an absolute path")),
        };
    }
    // Never shows the text or the parser's word on it: it may hold a password.
    let url = Url::parse(text).ok();
    let url = url.ok_or_else(|| refusal("it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refusal(
            "it does not begin with http://, https:// or file://",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refusal(
            "it has a query or a fragment, which no repository has",
        ));
    }
    Ok(GitIndex::Url(url.into()))
}

#[expect(
    clippy::ptr_arg,
    reason = "it is handed over as a function of the stored type"
)]
fn show_path(path: &PathBuf) -> Value {
    json!(path.to_string_lossy())
}

// URLs and addresses.

/// Reads the URL that clients reach a server by: http or https, no credentials, query or fragment;
/// a slash at its end is dropped.
///
/// # Errors
/// A [`Refusal`] that says what is wrong and what would be taken.
pub fn parse_public_url(text: &str) -> Result<Url, Refusal> {
    let mut url = web_url(text, "\"https://crates.lab.example\"")?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn public_url(raw: &Raw) -> Read<Url> {
    parse_public_url(raw.text("a URL, such as \"https://crates.lab.example\"")?)
}

/// The base of a sparse index, with the slash that makes it one.
pub(super) fn index_url(raw: &Raw) -> Read<Url> {
    const EXAMPLE: &str = "\"https://crates.lab.example/index/\"";
    let text = raw.text(&format!("a URL, such as {EXAMPLE}"))?;
    let mut url = web_url(text.strip_prefix("sparse+").unwrap_or(text), EXAMPLE)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn web_url(text: &str, example: &str) -> Read<Url> {
    let refusal = |why: &str| {
        // What stands before an `@` may be a password.
        let shown = if text.contains('@') {
            "it"
        } else {
            &format!("`{text}`")
        };
        Err(Refusal::new(
            format!("{shown} {why}"),
            format!("write a URL such as {example}"),
        ))
    };
    let Ok(url) = Url::parse(text) else {
        return refusal("is no URL");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return refusal("does not begin with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refusal("holds credentials, which would end up in logs and pages");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refusal("has a query or a fragment, and paths are put behind it");
    }
    Ok(url)
}

fn proxy(raw: &Raw) -> Read<SecretUrl> {
    const WANTED: &str = "a URL such as \"http://proxy.lab.example:3128\" or \
                          \"socks5://proxy.lab.example:1080\"";
    let refusal = |why: &str| Refusal::new(why, format!("write {WANTED}"));
    let text = raw.text(WANTED)?;
    // Never shows the text or the parser's word on it: it may be a secret.
    let url = Url::parse(text).ok();
    let url = url.ok_or_else(|| refusal("it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
        return Err(refusal(
            "it does not begin with http://, https://, socks5:// or socks5h://",
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refusal("it names no host"));
    }
    Ok(url.into())
}

#[expect(
    clippy::ptr_arg,
    reason = "it is handed over as a function of the stored type"
)]
fn show_list<T: fmt::Display>(list: &Vec<T>) -> Value {
    list.iter().map(|item| json!(item.to_string())).collect()
}

fn show_url(url: &Url) -> Value {
    json!(super::base_of(url))
}

fn addresses(raw: &Raw) -> Read<Vec<SocketAddr>> {
    const WANTED: &str = "a list of addresses with ports, such as [\"127.0.0.1:8080\"]";
    let mut list: Vec<SocketAddr> = Vec::new();
    for item in raw.list(WANTED)? {
        let address: Option<SocketAddr> = item.parse().ok();
        let address = address.ok_or_else(|| not_an_address(item))?;
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
        return Err(Refusal::new("it is empty", format!("write {WANTED}")));
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
        network.map(|network| network.trunc()).ok_or_else(|| {
            Refusal::new(
                format!("`{item}` is no IP address or network"),
                format!("write {WANTED}"),
            )
        })
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
            let url = parse_public_url(text).unwrap();
            assert_eq!(crate::config::base_of(&url), base);
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
        assert_eq!(count(&Raw::Typed("64".into())).unwrap(), 64);
        assert_eq!(count(&Raw::Whole(64)).unwrap(), 64);
        assert!(count(&text("64")).is_err());
        assert!(count(&Raw::Whole(-1)).is_err());
        assert!(count(&Raw::Whole(1 << 40)).is_err());
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
