//! Where a client believes that it reached us: the base URL that `config.json` and the status page name.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix_http::{RequestHead, header::HeaderMap};
use ipnet::IpNet;
use parking_lot::RwLock;

/// The longest host that is looked at, in bytes: a DNS name has at most 253, then `:65535`.
const MAX_HOST_BYTES: usize = 260;

/// How the base URL is found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bases {
    /// The URL set in the configuration, without a slash at its end. It decides where it is set.
    pub(crate) public_url: Option<String>,
    /// Who may say, in headers, by which host a client came.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

/// The [`Bases`] of now, which may become others while requests are answered. One request may see
/// both, for its base and for its client: they do not depend on one another.
#[derive(Debug)]
pub(crate) struct LiveBases(RwLock<Arc<Current>>);

#[derive(Debug)]
struct Current {
    bases: Bases,
    /// The path of the public URL, which a proxy may or may not take off; empty for none.
    prefix: String,
}

impl Current {
    fn new(bases: Bases) -> Arc<Current> {
        let prefix = bases.public_url.as_deref().map(path_of).unwrap_or_default();
        Arc::new(Current { bases, prefix })
    }
}

impl LiveBases {
    pub(crate) fn new(bases: Bases) -> LiveBases {
        LiveBases(RwLock::new(Current::new(bases)))
    }

    /// From now on requests are judged by `bases`.
    pub(super) fn set(&self, bases: Bases) {
        *self.0.write() = Current::new(bases);
    }

    /// As [`Bases::of`].
    pub(crate) fn of(&self, head: &RequestHead) -> Result<String, NoBase> {
        self.0.read().bases.of(head)
    }

    /// As [`Bases::client`].
    pub(crate) fn client(&self, head: &RequestHead) -> Option<IpAddr> {
        self.0.read().bases.client(head)
    }

    /// The path of a request without that of the public URL. `None`: it does not begin with it,
    /// there is none, or a trusted proxy has taken it off, which it says by `X-Forwarded-Prefix`.
    /// Then what is left is ours as it is: taken off twice, `/crates/crates/serde` would be
    /// `/serde`, and a path that the proxy hides would be reached by writing the prefix twice.
    pub(crate) fn below_prefix<'a>(&self, head: &'a RequestHead) -> Option<&'a str> {
        let current = self.0.read();
        if current.prefix.is_empty() || current.bases.is_stripped(head) {
            return None;
        }
        let rest = head.uri.path().strip_prefix(current.prefix.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

/// The path of a URL, without a slash at its end.
pub(super) fn path_of(url: &str) -> String {
    url::Url::parse(url).map_or_else(
        |_invalid| String::new(),
        |url| url.path().trim_end_matches('/').to_owned(),
    )
}

/// The host of a request is not one that may be put into an answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoBase {
    #[error("the request names no host")]
    Missing,
    #[error("the host of the request is not a host name or address with an optional port")]
    Invalid,
}

impl Bases {
    /// The base URL for a request, without a slash at its end: `http://mirror.lab:8080/sub`.
    ///
    /// A host that comes from the request is validated, because it goes into an answer that
    /// others may cache; `X-Forwarded-*` (or `Forwarded`, RFC 7239) count only from a trusted proxy.
    pub(crate) fn of(&self, head: &RequestHead) -> Result<String, NoBase> {
        if let Some(url) = &self.public_url {
            return Ok(url.clone());
        }
        let told = if self.trusts(head) {
            Told::of(&head.headers)
        } else {
            Told::default()
        };
        let host = told
            .host
            .or_else(|| own_host(head))
            .ok_or(NoBase::Missing)?;
        let host = valid_host(&host).ok_or(NoBase::Invalid)?;
        let scheme = told.scheme.unwrap_or("http");
        let prefix = told.prefix.unwrap_or_default();
        Ok(format!("{scheme}://{host}{prefix}"))
    }

    fn is_stripped(&self, head: &RequestHead) -> bool {
        head.headers.contains_key("x-forwarded-prefix") && self.trusts(head)
    }

    fn trusts(&self, head: &RequestHead) -> bool {
        head.peer_addr
            .is_some_and(|peer| self.is_proxy(peer.ip().to_canonical()))
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies
            .iter()
            .any(|net| net.contains(&address))
    }

    /// Who asks: the peer, or, as far as trusted proxies tell it in `X-Forwarded-For`, the last one
    /// on the way that is no trusted proxy.
    pub(crate) fn client(&self, head: &RequestHead) -> Option<IpAddr> {
        let peer = head.peer_addr?.ip().to_canonical();
        if self.trusted_proxies.is_empty() || !self.is_proxy(peer) {
            return Some(peer);
        }
        let told = head.headers.get_all("x-forwarded-for");
        let told: Vec<&str> = told.filter_map(|value| value.to_str().ok()).collect();
        let mut client = peer;
        for hop in told.iter().rev().flat_map(|value| value.rsplit(',')) {
            let Some(address) = address_of(hop.trim()) else {
                break;
            };
            client = address;
            if !self.is_proxy(address) {
                break;
            }
        }
        Some(client)
    }
}

/// What a proxy told of the request that it got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    scheme: Option<&'static str>,
    host: Option<String>,
    prefix: Option<String>,
}

impl Told {
    fn of(headers: &HeaderMap) -> Told {
        let first = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(first_of_list)
        };
        let forwarded = first("forwarded").unwrap_or_default();
        let from_forwarded = |key: &str| forwarded_value(&forwarded, key);
        Told {
            scheme: first("x-forwarded-proto")
                .or_else(|| from_forwarded("proto"))
                .and_then(|proto| known_scheme(&proto)),
            host: first("x-forwarded-host").or_else(|| from_forwarded("host")),
            prefix: first("x-forwarded-prefix").and_then(|prefix| valid_prefix(&prefix)),
        }
    }
}

/// An address, with or without a port and brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|both| both.ip()));
    address.map(|address| address.to_canonical())
}

/// The first element of a header with commas: what the proxy nearest to the client said.
fn first_of_list(value: &str) -> String {
    value.split(',').next().unwrap_or(value).trim().to_owned()
}

fn forwarded_value(element: &str, key: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let wanted = name.trim().eq_ignore_ascii_case(key);
        wanted.then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn known_scheme(proto: &str) -> Option<&'static str> {
    ["http", "https"]
        .into_iter()
        .find(|known| proto.eq_ignore_ascii_case(known))
}

/// A path prefix of unreserved characters and slashes, without a slash at its end.
fn valid_prefix(prefix: &str) -> Option<String> {
    let prefix = prefix.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let good = prefix.starts_with('/')
        && prefix.len() <= MAX_HOST_BYTES
        && prefix.bytes().all(plain)
        && !prefix.contains("//");
    good.then(|| prefix.to_owned())
}

/// HTTP/2 has the host in `:authority`, which actix puts into the URI; HTTP/1.1 in `Host`.
fn own_host(head: &RequestHead) -> Option<String> {
    if let Some(authority) = head.uri.authority() {
        return Some(authority.as_str().to_owned());
    }
    let host = head.headers.get(actix_http::header::HOST)?;
    Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
}

/// `host`, `host:port`, `1.2.3.4:port` or `[v6]:port`, in lower case; nothing else.
fn valid_host(host: &str) -> Option<String> {
    if host.len() > MAX_HOST_BYTES {
        return None;
    }
    let (name, port) = split_port(host);
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (good_port && valid_host_name(name)).then(|| host.to_ascii_lowercase())
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

fn valid_host_name(name: &str) -> bool {
    if let Some(address) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return matches!(address.parse(), Ok(IpAddr::V6(_)));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use actix_http::{
        Request,
        header::{HeaderName, HeaderValue},
    };
    use proptest::prelude::*;

    use super::*;

    fn base(bases: &Bases, peer: &str, headers: &[(&'static str, &str)]) -> Result<String, NoBase> {
        let mut request = Request::new();
        request.head_mut().peer_addr = format!("{peer}:1234").parse().ok();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header value");
            request
                .head_mut()
                .headers
                .append(HeaderName::from_static(name), value);
        }
        bases.of(request.head())
    }

    fn check_host(host: &str, expected: Option<&str>) {
        let found = base(&Bases::default(), "127.0.0.1", &[("host", host)]);
        let expected = expected.map(str::to_owned).ok_or(NoBase::Invalid);
        assert_eq!(found, expected, "{host:?}");
    }

    #[test]
    fn the_host_of_the_request_is_validated() {
        check_host("localhost:8080", Some("http://localhost:8080"));
        check_host("Mirror.Lab", Some("http://mirror.lab"));
        check_host("10.0.0.1:80", Some("http://10.0.0.1:80"));
        check_host("[::1]:8080", Some("http://[::1]:8080"));
        check_host("[::1]", Some("http://[::1]"));
        for host in [
            "a b",
            "a/b",
            "a\"b",
            "user@host",
            "a..b",
            ":80",
            "a:0",
            "a:65536",
            "a:",
            "[::1",
            "[zz]:1",
            "::1",
            "a:80:90",
            "<script>",
        ] {
            check_host(host, None);
        }
        assert_eq!(
            base(&Bases::default(), "127.0.0.1", &[]),
            Err(NoBase::Missing)
        );
    }

    #[test]
    fn the_public_url_decides_where_it_is_set() {
        let bases = Bases {
            public_url: Some("https://crates.lab/rust".into()),
            trusted_proxies: Vec::new(),
        };
        assert_eq!(
            base(&bases, "127.0.0.1", &[("host", "x")]).as_deref(),
            Ok("https://crates.lab/rust")
        );
    }

    #[test]
    fn the_prefix_is_taken_off_once_by_the_proxy_or_here() {
        let bases = |proxies: &str| {
            LiveBases::new(Bases {
                public_url: Some("https://tools.lab/crates".into()),
                trusted_proxies: proxies.parse().into_iter().collect(),
            })
        };
        let check = |bases: &LiveBases, path: &'static str, told: bool, expected: Option<&str>| {
            let mut request = Request::new();
            request.head_mut().peer_addr = "10.1.2.3:1".parse().ok();
            request.head_mut().uri = actix_http::Uri::from_static(path);
            if told {
                request.head_mut().headers.append(
                    HeaderName::from_static("x-forwarded-prefix"),
                    HeaderValue::from_static("/crates"),
                );
            }
            let found = bases.below_prefix(request.head());
            assert_eq!(found, expected, "{path} {told}");
        };
        let trusted = bases("10.0.0.0/8");
        // The proxy passes on what it got.
        check(
            &trusted,
            "/crates/crates/serde",
            false,
            Some("/crates/serde"),
        );
        check(
            &trusted,
            "/crates/crates/metrics",
            false,
            Some("/crates/metrics"),
        );
        check(&trusted, "/crates", false, Some(""));
        check(&trusted, "/cratesx", false, None);
        check(&trusted, "/index/config.json", false, None);
        // It has taken the prefix off, and says so.
        check(&trusted, "/crates/serde", true, None);
        check(&trusted, "/crates/metrics", true, None);
        check(&trusted, "/crates", true, None);
        check(&trusted, "/metrics", true, None);
        // Nobody else decides it.
        let other = bases("192.168.0.0/16");
        check(&other, "/crates/crates/serde", true, Some("/crates/serde"));
    }

    #[test]
    fn only_a_trusted_proxy_tells_where_a_client_came_in() {
        let told: &[(&'static str, &str)] = &[
            ("host", "inner:8080"),
            ("x-forwarded-host", "crates.lab, other"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/rust/"),
        ];
        let bases = Bases {
            public_url: None,
            trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
        };
        assert_eq!(
            base(&bases, "10.1.2.3", told).as_deref(),
            Ok("https://crates.lab/rust")
        );
        assert_eq!(
            base(&bases, "192.168.0.1", told).as_deref(),
            Ok("http://inner:8080")
        );
        let forwarded = [
            ("host", "inner"),
            (
                "forwarded",
                "for=1.2.3.4;proto=https;host=\"crates.lab:444\", for=x",
            ),
        ];
        assert_eq!(
            base(&bases, "10.1.2.3", &forwarded).as_deref(),
            Ok("https://crates.lab:444")
        );
    }

    #[test]
    fn a_client_behind_trusted_proxies_is_known_by_what_they_tell() {
        let bases = Bases {
            public_url: None,
            trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
        };
        let check = |peer: &str, told: &[&str], expected: &str| {
            let mut request = Request::new();
            request.head_mut().peer_addr = format!("{peer}:1").parse().ok();
            for value in told {
                let value = HeaderValue::from_str(value).expect("a header value");
                let name = HeaderName::from_static("x-forwarded-for");
                request.head_mut().headers.append(name, value);
            }
            let found = bases.client(request.head()).map(|found| found.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{peer} {told:?}");
        };
        check("192.168.0.9", &["1.2.3.4"], "192.168.0.9");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["1.2.3.4"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6", "1.2.3.4:99"], "1.2.3.4");
        check("10.0.0.1", &["1.2.3.4, nonsense"], "10.0.0.1");
        check("10.0.0.1", &["[::ffff:1.2.3.4]:9"], "1.2.3.4");
    }

    #[test]
    fn a_trusted_proxy_cannot_tell_nonsense() {
        let bases = Bases {
            public_url: None,
            trusted_proxies: vec!["0.0.0.0/0".parse().expect("a network")],
        };
        let prefix = [
            ("host", "h"),
            ("x-forwarded-prefix", "//evil/\"x"),
            ("x-forwarded-proto", "javascript"),
        ];
        assert_eq!(base(&bases, "10.1.2.3", &prefix).as_deref(), Ok("http://h"));
        assert_eq!(
            base(&bases, "10.1.2.3", &[("x-forwarded-host", "a b")]),
            Err(NoBase::Invalid)
        );
    }

    proptest! {
        #[test]
        fn a_valid_host_has_nothing_to_escape(host in "\\PC{0,40}") {
            if let Some(host) = valid_host(&host) {
                prop_assert!(host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)));
            }
        }
    }
}
