//! `orlop client-config`: finds the URL that cargo reaches the mirror by.

use std::io::Write;
use std::net::SocketAddr;

use super::{Error, job, open, serve::local_base, tell};
use crate::config::{Config, Loaded, parse_public_url};
use crate::policy::view::HELD;
use crate::registry::client::{client_config, git_client_config, view_base};

/// Prints the configuration for `url`, or for what the settings say. They are read only where no
/// URL is given.
pub(super) fn print(
    url: Option<&str>,
    git: bool,
    view: Option<&str>,
    load: impl FnOnce() -> Result<Loaded, Error>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let base = if let Some(url) = url {
        parse_public_url(url).map_err(Error::Url)?
    } else {
        let loaded = load()?;
        let config = &loaded.config;
        if view == Some(HELD) && !config.mirror.views.held {
            tell("warning: `views.held` is false: this mirror does not serve that view\n");
        }
        match of_daemon(&loaded) {
            Some(base) => base,
            None => base_of_settings(config)?,
        }
    };
    let base = view.map_or_else(|| base.clone(), |view| view_base(&base, view));
    let text = if git {
        git_client_config(&base)
    } else {
        client_config(&base)
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// How the daemon that has the store of these settings is reached, whatever they say of it: it may
/// listen on a free port, or was given flags of its own. `None`: none answers.
pub(super) fn of_daemon(loaded: &Loaded) -> Option<String> {
    let runtime = open::runtime().ok()?;
    let client = job::reach(&runtime, loaded).ok()??;
    let http = client.http();
    let first = http.addresses.first();
    let local = || first.map(|first| local_base(*first));
    http.base.clone().or_else(local)
}

fn base_of_settings(config: &Config) -> Result<String, Error> {
    if let Some(base) = config.public_base() {
        return Ok(base);
    }
    // Addresses are never empty.
    let first = config.listen.addresses.first().ok_or(Error::FreePort)?;
    let base = base_of_address(*first)?;
    if first.ip().is_unspecified() {
        tell(
            "hint: this is for the machine that the mirror runs on; for others, name it with \
             --url http://HOST:PORT or set `public_url`\n",
        );
    }
    Ok(base)
}

/// An address that means every address is reached as `localhost` from the machine itself.
fn base_of_address(address: SocketAddr) -> Result<String, Error> {
    match address.port() {
        0 => Err(Error::FreePort),
        port if address.ip().is_unspecified() => Ok(format!("http://localhost:{port}")),
        _ => Ok(format!("http://{address}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_a_url_that_can_be_reached() {
        let check = |address: &str, base: &str| {
            let found = base_of_address(address.parse().unwrap());
            assert_eq!(found.unwrap(), base);
        };
        check("127.0.0.1:8080", "http://127.0.0.1:8080");
        check("[::1]:8080", "http://[::1]:8080");
        check("[::]:8080", "http://localhost:8080");
        check("0.0.0.0:80", "http://localhost:80");
        let free = base_of_address("127.0.0.1:0".parse().unwrap());
        assert!(matches!(free, Err(Error::FreePort)));
    }
}
