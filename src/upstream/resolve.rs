//! Where requests may go: the address rules, and the resolver that holds to them.
//!
//! Where downloads come from is said by upstream's `config.json`, and redirects say it anew. A
//! registry could so send orlop to services of the network that it runs in. Private addresses are
//! therefore refused, except those of the upstream that the configuration itself names.
//!
//! With an outbound proxy (except `socks5://`, where names are resolved here) the proxy resolves
//! names: then only addresses that are written out in a URL are checked here, and the rest is the
//! proxy's to refuse.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use futures_util::{FutureExt as _, future::Shared};
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::secret::{SecretUrl, shown};

/// The most redirects of one request. Registries need one or two (to a CDN, and within it).
const MOST_REDIRECTS: usize = 5;

/// Why a URL is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not HTTP.
    #[error("`{url}` is not a URL of `http://` or `https://`")]
    Scheme {
        /// The URL, without credentials.
        url: String,
    },
    /// An address of a private network, which neither is the upstream's own nor was allowed.
    #[error(
        "`{host}` is at {address}, an address that is not public (`upstream.allow_private = true` allows it)"
    )]
    PrivateAddress {
        /// The host that the URL names.
        host: String,
        /// Where it is.
        address: IpAddr,
    },
    /// A redirect from `https://` to `http://`.
    #[error("it was redirected from `https://` to `{url}`, which is not encrypted")]
    Downgrade {
        /// Where to, without credentials.
        url: String,
    },
    /// One redirect after another.
    #[error("it was redirected more than {MOST_REDIRECTS} times")]
    TooManyRedirects,
}

/// The rules for one upstream.
#[derive(Debug)]
pub(super) struct Rules {
    /// The hosts that the configuration names: of the index, and of the proxy.
    trusted: Vec<String>,
    allow_private: bool,
}

impl Rules {
    pub(super) fn new(index: &SecretUrl, proxy: Option<&SecretUrl>, allow_private: bool) -> Rules {
        Rules::of_hosts([index].into_iter().chain(proxy), &[], allow_private)
    }

    /// The rules where the configuration names the hosts of `urls`, and `hosts`.
    pub(super) fn of_hosts<'a>(
        urls: impl Iterator<Item = &'a SecretUrl>,
        hosts: &[&str],
        allow_private: bool,
    ) -> Rules {
        let named = urls.filter_map(|url| Some(url.expose().host_str()?.to_owned()));
        let trusted = named
            .chain(hosts.iter().map(|host| (*host).to_owned()))
            .collect();
        Rules {
            trusted,
            allow_private,
        }
    }

    /// Whether `url` may be asked, as far as it can be told without resolving its host.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme { url: shown(url) });
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(Refusal::Scheme { url: shown(url) }),
        };
        self.admit(url.host_str().unwrap_or_default(), address)
    }

    /// Whether the redirect to `next` may be followed after the URLs of `previous`.
    pub(super) fn check_redirect(&self, previous: &[Url], next: &Url) -> Result<(), Refusal> {
        // The first of `previous` is the URL that was asked for.
        if previous.len() > MOST_REDIRECTS {
            return Err(Refusal::TooManyRedirects);
        }
        let from_https = previous.last().is_some_and(|url| url.scheme() == "https");
        if from_https && next.scheme() == "http" {
            return Err(Refusal::Downgrade { url: shown(next) });
        }
        self.check(next)
    }

    /// Those of `addresses` that may be connected to; an error if that leaves none of some.
    fn filter(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refusal> {
        let mut refusal = None;
        let admitted: Vec<_> = addresses
            .into_iter()
            .filter(|address| match self.admit(host, address.ip()) {
                Ok(()) => true,
                Err(refused) => {
                    refusal = Some(refused);
                    false
                }
            })
            .collect();
        match refusal {
            Some(refusal) if admitted.is_empty() => Err(refusal),
            _ => Ok(admitted),
        }
    }

    fn admit(&self, host: &str, address: IpAddr) -> Result<(), Refusal> {
        let is_trusted = || {
            self.trusted
                .iter()
                .any(|own| own.eq_ignore_ascii_case(host))
        };
        if self.allow_private || is_public(address) || is_trusted() {
            return Ok(());
        }
        Err(Refusal::PrivateAddress {
            host: host.to_owned(),
            address,
        })
    }
}

/// Whether `address` is one of the public Internet, after the registries of special-purpose
/// addresses (RFC 6890 and its additions). Addresses that embed one of version 4 count as that.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // All that is public lies in 2000::/3; of that, 2001::/23 (protocols) and 2001:db8::/32
    // (documentation) are not. Loopback, link-local and unique local addresses lie outside.
    let [first, second, ..] = address.segments();
    first & 0xe000 == 0x2000 && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
}

/// The address of version 4 in an IPv4-mapped, IPv4-compatible, NAT64 or 6to4 address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// The system's resolver, without the addresses that the rules refuse.
#[derive(Debug)]
pub(super) struct Resolver {
    rules: Arc<Rules>,
    lookups: Lookups,
}

impl Resolver {
    pub(super) fn new(rules: Arc<Rules>) -> Resolver {
        Resolver {
            rules,
            lookups: Lookups::default(),
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, lookups) = (Arc::clone(&self.rules), self.lookups.clone());
        Box::pin(async move {
            let host = name.as_str();
            let found = lookups.of(host, system_lookup).await?;
            let admitted = rules.filter(host, found)?;
            let addresses: Addrs = Box::new(admitted.into_iter());
            Ok(addresses)
        })
    }
}

/// What a lookup brought, for all who wait for it.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

type Lookup = Shared<Pin<Box<dyn Future<Output = Found> + Send>>>;

/// The lookups under way, one a host: a sync begins with many connections at once, and a name
/// server that is asked the same thing by all of them drops some questions, which cost the
/// system's resolver five seconds each.
#[derive(Debug, Clone, Default)]
struct Lookups(Arc<Mutex<HashMap<String, Lookup>>>);

impl Lookups {
    async fn of<F>(&self, host: &str, look: impl FnOnce(String) -> F) -> Found
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let lookup = {
            let mut under_way = self.0.lock();
            let entry = under_way.entry(host.to_owned());
            entry
                .or_insert_with_key(|host| {
                    let lookup: Pin<Box<dyn Future<Output = Found> + Send>> =
                        Box::pin(look(host.clone()));
                    lookup.shared()
                })
                .clone()
        };
        let found = lookup.clone().await;
        let mut under_way = self.0.lock();
        // Another may have begun since, for those who came later.
        if under_way
            .get(host)
            .is_some_and(|other| other.ptr_eq(&lookup))
        {
            under_way.remove(host);
        }
        found
    }
}

async fn system_lookup(host: String) -> Found {
    // Port 0 stands for that of the URL.
    let found = tokio::net::lookup_host((host.as_str(), 0)).await;
    found.map(Iterator::collect).map_err(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a good URL")
    }

    fn rules(allow_private: bool) -> Rules {
        let index = "https://Index.test/".parse().expect("a good URL");
        let proxy = "http://10.0.0.9:3128".parse().expect("a good URL");
        Rules::new(&index, Some(&proxy), allow_private)
    }

    #[tokio::test]
    async fn a_host_is_looked_up_once_for_all_who_connect_to_it() {
        let lookups = Lookups::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let look = |host: String| {
            let asked = Arc::clone(&asked);
            async move {
                assert_eq!(host, "index.test");
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0))])
            }
        };
        let all = (0..24).map(|_connection| lookups.of("index.test", look));
        let found = futures_util::future::join_all(all).await;
        assert_eq!(found.len(), 24);
        assert!(
            found
                .iter()
                .all(|found| found.as_ref().is_ok_and(|it| it.len() == 1))
        );
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // It is no cache: whoever comes later asks again.
        assert!(lookups.of("index.test", look).await.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(lookups.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_lookup_that_fails_fails_for_all_who_wait_and_is_tried_by_the_next() {
        let lookups = Lookups::default();
        let refuse = |_host| async { Err(Arc::new(io::Error::from(io::ErrorKind::NotFound))) };
        let (one, other) = tokio::join!(lookups.of("a.test", refuse), lookups.of("a.test", refuse));
        assert!(one.is_err() && other.is_err());
        let found = lookups.of("a.test", |_host| async { Ok(Vec::new()) }).await;
        assert!(found.is_ok());
    }

    #[test]
    fn only_public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "64:ff9b::a00:1",
            "100::1",
        ] {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn a_private_address_is_refused_unless_the_configuration_names_it() {
        let is_admitted = |text, allow| rules(allow).check(&url(text)).is_ok();
        assert!(is_admitted("http://1.1.1.1/", false));
        assert!(is_admitted("http://anything.test/", false));
        assert!(
            is_admitted("http://10.0.0.9:81/", false),
            "the proxy's host"
        );
        for text in [
            "http://127.0.0.1/",
            "http://[::1]:80/",
            "http://0x7f.1/",
            "http://2130706433/",
        ] {
            assert!(!is_admitted(text, false), "{text}");
            assert!(is_admitted(text, true), "{text}");
        }
        for text in ["ftp://1.1.1.1/", "file:///etc/hosts", "data:,x"] {
            assert!(!is_admitted(text, true), "{text}");
        }
    }

    #[test]
    fn names_lead_only_to_public_addresses_unless_they_are_the_upstream() {
        let addresses = || {
            vec![
                "10.0.0.1:0".parse().expect("an address"),
                "1.1.1.1:0".parse().expect("an address"),
            ]
        };
        let admitted = |host: &str| {
            rules(false)
                .filter(host, addresses())
                .map(|found| found.len())
        };
        assert_eq!(admitted("dl.test"), Ok(1));
        assert_eq!(admitted("index.test"), Ok(2));
        let private = rules(false).filter("dl.test", addresses().into_iter().take(1).collect());
        let error = private.expect_err("no address is left").to_string();
        assert!(
            error.contains("dl.test") && error.contains("allow_private"),
            "{error}"
        );
        assert_eq!(rules(false).filter("dl.test", Vec::new()), Ok(Vec::new()));
    }

    #[test]
    fn redirects_stay_encrypted_public_and_few() {
        let check = |from: &str, hops: usize, to: &str| {
            rules(false)
                .check_redirect(&vec![url(from); hops], &url(to))
                .err()
        };
        assert_eq!(check("https://a.test/", 5, "https://b.test/"), None);
        assert_eq!(check("http://a.test/", 1, "https://b.test/"), None);
        assert_eq!(check("http://a.test/", 1, "http://b.test/"), None);
        assert_eq!(
            check("https://a.test/", 6, "https://b.test/"),
            Some(Refusal::TooManyRedirects)
        );
        let downgraded = check("https://a.test/", 1, "http://u:p@b.test/?s=1");
        let shown = "http://***@b.test/".to_owned();
        assert_eq!(downgraded, Some(Refusal::Downgrade { url: shown }));
        let private = check("http://a.test/", 1, "http://192.168.0.1/");
        assert!(matches!(private, Some(Refusal::PrivateAddress { .. })));
    }

    proptest! {
        #[test]
        fn a_v4_address_is_judged_alike_however_it_is_embedded(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let expected = is_public(IpAddr::V4(v4));
            let mapped = v4.to_ipv6_mapped();
            let nat64 = Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(bits));
            prop_assert_eq!(is_public(IpAddr::V6(mapped)), expected);
            prop_assert_eq!(is_public(IpAddr::V6(nat64)), expected);
        }
    }
}
