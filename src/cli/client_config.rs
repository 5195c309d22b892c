//! `orlop client-config`: finds the URL that cargo reaches the mirror by.

use std::io::Write;

use super::{Error, job, open, tell};
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
        if view == Some(HELD) && !config.app.views.held {
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
fn of_daemon(loaded: &Loaded) -> Option<String> {
    let runtime = open::runtime().ok()?;
    job::reach(&runtime, loaded).ok()??.http().local_base()
}

fn base_of_settings(config: &Config) -> Result<String, Error> {
    let base = config.local_base().ok_or(Error::FreePort)?;
    let first = config.listen.addresses.first();
    if config.public_base().is_none() && first.is_some_and(|first| first.ip().is_unspecified()) {
        tell(
            "hint: this is for the machine that the mirror runs on; for others, name it with \
             --url http://HOST:PORT or set `public_url`\n",
        );
    }
    Ok(base)
}
