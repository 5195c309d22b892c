//! What is wrong or odd only when two values are looked at together.

use super::Config;
use super::error::{Error, Refusal};
use crate::{http, policy::Mode};

/// Values that cannot both stand.
pub(super) fn contradictions(config: &Config, errors: &mut Vec<Error>) {
    let Some(public) = config.public_base() else {
        return;
    };
    let upstream = &config.upstream;
    let git = upstream.git_index.as_ref().map(ToString::to_string);
    for (key, url) in [
        ("upstream.url", Some(upstream.index_url.to_string())),
        ("upstream.git_index", git),
    ] {
        if url.is_some_and(|url| is_below(&url, &public)) {
            errors.push(Error::Contradiction {
                key,
                other: "public_url",
                why: Refusal::new(
                    "the upstream is this server's own public URL, so it would ask itself",
                    format!("set `{key}` to the registry that is to be mirrored"),
                ),
            });
        }
    }
}

fn is_below(url: &str, base: &str) -> bool {
    url.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Values that are allowed and that somebody should know of.
pub(super) fn oddities(config: &Config, warnings: &mut Vec<String>) {
    let upstream = &config.upstream;
    if upstream.stall_timeout > upstream.deadline {
        warnings.push(
            "`upstream.stall_timeout` is longer than `upstream.deadline` and has no effect"
                .to_owned(),
        );
    }
    if config
        .http
        .trusted_proxies
        .iter()
        .any(|net| net.prefix_len() == 0)
    {
        warnings.push(
            "`listen.trusted_proxies` holds every address, so any client can choose the URLs \
             that others are sent to"
                .to_owned(),
        );
    }
    if upstream.git_index.is_some()
        && config.app.follow.every > config.app.mirror.freshness.fresh_for
    {
        warnings.push(
            "`upstream.git_every` is longer than `index.fresh_for`, so entries are looked for when \
             they are asked for"
                .to_owned(),
        );
    }
    // Three slashes before the path: scheme, host.
    if let Some(url) = &config.http.public_url
        && let Some(first) = url.split('/').nth(3)
        && http::FIRST_SEGMENTS.contains(&first)
    {
        warnings.push(format!(
            "the path of `public_url` begins as one of orlop's own does (`/{first}`): the proxy \
             must pass it on, or take it off, say so in X-Forwarded-Prefix and be in \
             `listen.trusted_proxies`; another path, such as `/rust`, cannot be mistaken"
        ));
    }
    if config.app.mirror.mode == Mode::Offline && upstream.proxy.is_some() {
        warnings.push("`upstream.proxy` has no effect in mode `offline`".to_owned());
    }
}
