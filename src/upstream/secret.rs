//! A URL that may hold credentials and does not print them.

use std::{fmt, str::FromStr};

use url::Url;

/// A URL from the configuration: of the index, or of a proxy. Neither `Display` nor `Debug` shows
/// a user, a password or a query, so that none can get into a log, a page or an error by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// The URL with everything that is in it, for whoever connects.
    pub(super) fn expose(&self) -> &Url {
        &self.0
    }

    /// Whether it holds a user or a password.
    pub fn has_credentials(&self) -> bool {
        has_credentials(&self.0)
    }
}

/// What of `url` may be shown: scheme, host, port and path. Signed download URLs carry their
/// signature in the query, so that goes too.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    let hidden = has_credentials(url);
    let user = if hidden { "***" } else { "" };
    let cleared = shown.set_username(user);
    let cleared = cleared.and_then(|()| shown.set_password(None));
    if hidden && cleared.is_err() {
        return format!("{}://***", url.scheme());
    }
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

impl From<Url> for SecretUrl {
    fn from(url: Url) -> SecretUrl {
        SecretUrl(url)
    }
}

impl FromStr for SecretUrl {
    type Err = InvalidUrl;

    /// Reads a URL with a host, with or without cargo's `sparse+` before it.
    fn from_str(text: &str) -> Result<SecretUrl, InvalidUrl> {
        let text = text.trim();
        let url = Url::parse(text.strip_prefix("sparse+").unwrap_or(text))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidUrl::NoHost);
        }
        Ok(SecretUrl(url))
    }
}

/// Why a text is not a URL of something that can be connected to. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not a URL at all.
    #[error("a URL is written like `https://host/path/`")]
    Parse(#[from] url::ParseError),
    /// No host to connect to.
    #[error("the URL names no host")]
    NoHost,
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

impl<'de> serde::Deserialize<'de> for SecretUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretUrl, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let url: SecretUrl = text.parse().expect("a good URL");
        assert_eq!(url.to_string(), expected);
        assert_eq!(format!("{url:?}"), format!("SecretUrl({expected})"));
    }

    #[test]
    fn credentials_and_queries_are_not_printed() {
        check("http://host.test/index/", "http://host.test/index/");
        check(
            "sparse+https://host.test/index/",
            "https://host.test/index/",
        );
        check(
            "http://anna:geheim@host.test:81/",
            "http://***@host.test:81/",
        );
        check("http://:geheim@host.test/", "http://***@host.test/");
        check(
            "http://host.test/a?signature=geheim#f",
            "http://host.test/a",
        );
        check(
            "socks5://anna:geheim@host.test:1080",
            "socks5://***@host.test:1080",
        );
    }

    #[test]
    fn what_has_no_host_is_refused() {
        for text in [
            "",
            "host.test",
            "data:text/plain,a",
            "file:///etc",
            "http://",
        ] {
            assert!(text.parse::<SecretUrl>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_configuration_reads_it_and_its_error_does_not_quote_it() {
        assert!(serde_json::from_str::<SecretUrl>("\"http://host.test/\"").is_ok());
        let error = serde_json::from_str::<SecretUrl>("\"anna:geheim@host.test:99999999/\"");
        assert!(!error.expect_err("no URL").to_string().contains("geheim"));
    }
}
