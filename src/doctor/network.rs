//! The network between a client and a mirror: the proxy that cargo would use, the name, the port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use url::Url;

use super::{
    address::MirrorUrls,
    cargo::{CargoConfig, without_password},
    finding::Findings,
};

/// How long the system's resolver may take. It has no limit that a person would wait for.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The proxy that cargo's libcurl uses for the mirror.
pub(super) fn proxy(
    urls: &MirrorUrls,
    cargo: &CargoConfig<'_>,
    findings: &mut Findings<'_>,
) -> Option<String> {
    // libcurl reads HTTP_PROXY in lower case only, because CGI scripts get the other from clients.
    let names: &[&str] = match urls.base.scheme() {
        "https" => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let Some(proxy) = cargo.proxy().or_else(|| cargo.variable(names)) else {
        findings.add(finding!(Ok, "proxy" => "none between this machine and the mirror"));
        return None;
    };
    let (host, place) = (urls.base.host_str().unwrap_or_default(), proxy.place);
    let exempt = cargo.variable(&["no_proxy", "NO_PROXY"]);
    if let Some(list) = exempt.filter(|list| is_exempt(host, &list.value)) {
        let by = list.place;
        findings
            .add(finding!(Ok, "proxy" => "the mirror is exempt from the one in {place} by {by}"));
        return None;
    }
    let shown = without_password(&proxy.value);
    findings.add(finding!(Warn, "proxy" =>
        "cargo reaches the mirror through `{shown}` (in {place})";
        "if the mirror is in your own network, add `{host}` to the variable `no_proxy`"));
    Some(proxy.value)
}

/// Whether `list` exempts `host`, as libcurl reads it.
fn is_exempt(host: &str, list: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' '])
        .filter(|item| !item.is_empty())
        .any(|item| {
            let item = item.trim_start_matches('.').to_ascii_lowercase();
            let network = item
                .parse::<ipnet::IpNet>()
                .or(item.parse::<IpAddr>().map(Into::into));
            match address {
                _ if item == "*" => true,
                Some(address) => network.is_ok_and(|network| network.contains(&address)),
                None => {
                    let below = host.strip_suffix(&item);
                    below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                }
            }
        })
}

/// Whether the mirror's name leads to an address that accepts connections.
pub(super) async fn is_reachable(url: &Url, findings: &mut Findings<'_>) -> bool {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let addresses = match resolve(host, port).await {
        Ok(addresses) => addresses,
        Err(error) => {
            findings.add(finding!(Fail, "name resolution" => "`{host}` does not resolve: {error}";
                "check the spelling, /etc/hosts and the DNS server of this machine, or use the mirror's address"));
            return false;
        }
    };
    let listed: Vec<String> = addresses.iter().map(|at| at.ip().to_string()).collect();
    let listed = listed.join(", ");
    findings.add(finding!(Ok, "name resolution" => "`{host}` is {listed}"));
    let mut refused = Vec::new();
    for address in &addresses {
        let started = Instant::now();
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        if let Err(error) = connected.unwrap_or_else(|late| Err(late.into())) {
            refused.push(format!("{address}: {error}"));
            continue;
        }
        let ms = started.elapsed().as_secs_f64() * 1e3;
        findings.add(finding!(Ok, "connection" => "{address} answers in {ms:.1} ms"));
        if let Some(first) = refused.first() {
            findings.add(finding!(Warn, "connection" => "clients try {first} before";
                "let the mirror listen there too (`listen.addresses`), or take the address out of the name: clients lose time at it"));
        }
        return true;
    }
    let refused = refused.join("; ");
    findings.add(finding!(Fail, "connection" => "no address accepts connections: {refused}";
        "on the mirror: is `orlop serve` running, does it listen on more than 127.0.0.1 (`listen.addresses`), does a firewall let port {port} through?"));
    false
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let place = (host.trim_matches(['[', ']']), port);
    let addresses = timeout(RESOLVE_TIMEOUT, lookup_host(place)).await??;
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exempt_as_libcurl_reads_the_list() {
        let check = |host: &str, list: &str, expected: bool| {
            assert_eq!(is_exempt(host, list), expected, "{host} in {list}");
        };
        check("mirror.lab", "*", true);
        check("mirror.lab", "localhost, lab", true);
        check("mirror.lab", ".lab", true);
        check("mirrorlab", "lab", false);
        check("10.1.2.3", "10.0.0.0/8", true);
        check("10.1.2.3", "10.1.2.4,10.1.2.3", true);
        check("[::1]", "::1", true);
        check("mirror.lab", "", false);
    }
}
