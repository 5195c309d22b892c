//! The way to the mirror: the proxy that would catch it, its name, its port.

use std::net::{IpAddr, SocketAddr};

use super::{Findings, cargo::CargoConfig, target::Target};
use crate::upstream::probe;

/// Says which proxy cargo sends requests for the mirror to, by the rules of its libcurl.
pub(super) fn proxy(
    target: &Target,
    cargo: &CargoConfig,
    findings: &mut Findings<'_>,
) -> Option<String> {
    const CHECK: &str = "proxy";
    let environment = cargo.environment();
    // libcurl reads HTTP_PROXY in lower case only, because CGI scripts get the other from clients.
    let names: &[&str] = match target.base.scheme() {
        "https" => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    let explicit = cargo.proxy().or_else(CargoConfig::proxy_of_git);
    let (value, from) = match (explicit, environment.first(names)) {
        (Some(found), _) => (found.value, found.from),
        (None, Some((name, value))) => (value.to_owned(), format!("the variable `{name}`")),
        (None, None) => {
            findings.ok(CHECK, "none between this machine and the mirror");
            return None;
        }
    };
    let exempt = environment.first(&["no_proxy", "NO_PROXY"]);
    if let Some((name, list)) = exempt
        && is_exempt(target.host(), list)
    {
        findings.ok(
            CHECK,
            format!("the mirror is exempt from the one in {from} by `{name}`"),
        );
        return None;
    }
    let shown = without_password(&value);
    findings.warn(
        CHECK,
        format!("cargo asks for the mirror through `{shown}` (in {from})"),
        format!(
            "if the mirror is in your own network, add `{}` to the variable `no_proxy`",
            target.host()
        ),
    );
    Some(value)
}

fn without_password(proxy: &str) -> String {
    match proxy.rsplit_once('@') {
        Some((_secret, host)) => format!("***@{host}"),
        None => proxy.to_owned(),
    }
}

/// Whether `list` exempts `host`, as libcurl reads it.
fn is_exempt(host: &str, list: &str) -> bool {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' '])
        .filter(|item| !item.is_empty())
        .any(|item| {
            let item = item.trim_start_matches('.').to_ascii_lowercase();
            if item == "*" {
                return true;
            }
            if let Some(address) = address {
                let within = item
                    .parse()
                    .is_ok_and(|net: ipnet::IpNet| net.contains(&address));
                return within || item.parse() == Ok(address);
            }
            let below = host.strip_suffix(&item);
            below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
}

/// Whether the mirror's name leads to somebody who takes connections.
pub(super) fn reach(target: &Target, findings: &mut Findings<'_>) -> bool {
    let Some(addresses) = resolve("name resolution", target.host(), target.port(), findings) else {
        return false;
    };
    connect("connection", target, &addresses, findings)
}

fn resolve(
    check: &'static str,
    host: &str,
    port: u16,
    findings: &mut Findings<'_>,
) -> Option<Vec<SocketAddr>> {
    match probe::resolve(host, port) {
        Ok(addresses) if !addresses.is_empty() => {
            let listed: Vec<String> = addresses.iter().map(|at| at.ip().to_string()).collect();
            findings.ok(check, format!("`{host}` is {}", listed.join(", ")));
            Some(addresses)
        }
        other => {
            let why = other
                .err()
                .map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
            findings.fail(
                check,
                format!("`{host}` does not resolve: {why}"),
                "check the spelling, /etc/hosts and the DNS server of this machine, or use the \
                 mirror's address",
            );
            None
        }
    }
}

fn connect(
    check: &'static str,
    target: &Target,
    addresses: &[SocketAddr],
    findings: &mut Findings<'_>,
) -> bool {
    let mut refused = Vec::new();
    for address in addresses {
        match probe::connect(*address) {
            Ok(took) => {
                findings.ok(
                    check,
                    format!("{address} answers in {:.1} ms", took.as_secs_f64() * 1e3),
                );
                if let Some(first) = refused.first() {
                    findings.warn(
                        check,
                        format!("{first}, which is tried before"),
                        "let the mirror listen there too (`listen.addresses`), or take the address \
                         out of the name: clients lose time at it",
                    );
                }
                return true;
            }
            Err(error) => refused.push(format!("{address}: {error}")),
        }
    }
    let port = target.port();
    findings.fail(
        check,
        format!("nobody takes connections: {}", refused.join("; ")),
        format!(
            "on the mirror: is `orlop serve` running, does it listen on more than 127.0.0.1 \
             (`listen.addresses`), does a firewall let port {port} through?"
        ),
    );
    false
}

/// An address of the host of `url` that takes connections, or why there is none.
pub(super) fn is_reachable(url: &url::Url) -> Result<SocketAddr, String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let addresses = probe::resolve(host, port)
        .map_err(|error| format!("that name does not resolve: {error}"))?;
    let mut why = "that name has no address".to_owned();
    for address in addresses {
        match probe::connect(address) {
            Ok(_took) => return Ok(address),
            Err(error) => why = format!("{address} takes no connections: {error}"),
        }
    }
    Err(why)
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
