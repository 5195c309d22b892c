//! `orlop reload`: has the running server read its configuration again.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    admin::{Changed, Client, Reloaded},
    cli::{Error, SettingArgs, open},
    config::{self, Sources},
    jobs::{Fault, JobError},
};

/// Have the running server read its configuration again.
///
/// It reads what it read at its start: the same flags and variables, and the same file. Where
/// anything in it is wrong, nothing is changed, and the exit code is 2. Where all is well, what can
/// change while it runs does, and what needs a restart is named. SIGHUP does the same.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  orlop reload
  systemctl reload orlop               the same, for a server that systemd started
  orlop reload --json | jq .needs_restart

Exit codes: 0 it was read and taken on; 2 it is wrong, and nothing was changed; 3 no server runs.")]
pub struct ReloadArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// How the server is found.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// What finds a running server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PlaceArgs {
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration file in which the server's socket is looked up [default: \
                $ORLOP_CONFIG, else /etc/orlop/orlop.toml if it is there]"
    )]
    pub config: Option<PathBuf>,

    /// The folder of the store [default: orlop in the user's data folder].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The socket by which commands reach a running server [default: admin.sock in the store].
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
}

impl ReloadArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let settings = SettingArgs {
            config: self.place.config.clone(),
            data: self.place.data.clone(),
            admin_socket: self.place.admin_socket.clone(),
            ..SettingArgs::default()
        };
        let sources = Sources::of_process(settings.to_flags());
        let reloaded = ask(&sources)?;
        if self.json {
            serde_json::to_writer(&mut *out, &reloaded).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            print(&reloaded, out)?;
        }
        Ok(())
    }
}

/// The server judges its own configuration, which may have other sources than this command. Here it
/// only says where the server is, as far as it can be read.
fn ask(sources: &Sources) -> Result<Reloaded, Error> {
    let sockets = config::admin_sockets(sources);
    let reloaded = open::runtime()?.block_on(async {
        for socket in &sockets {
            let client = Client::connect(socket).await.map_err(Error::Admin)?;
            if let Some(mut client) = client {
                let reloaded = client.reload().await.map_err(Error::Admin)?;
                return reloaded.map(Some).map_err(Error::Job);
            }
        }
        Ok(None)
    });
    if let Some(reloaded) = reloaded? {
        return Ok(reloaded);
    }
    // Nobody is there to say what is wrong.
    config::load(sources).map_err(Error::Config)?;
    Err(nobody(sockets.first().map(PathBuf::as_path)))
}

fn nobody(socket: Option<&Path>) -> Error {
    let message = match socket {
        Some(socket) => format!("no server answers at `{}`", socket.display()),
        None => "could not tell where the socket of the server is".to_owned(),
    };
    Error::Job(JobError::new(Fault::Unavailable, message).hint(
        "start it with `orlop serve` or `systemctl start orlop`; the socket of one that has another \
         is named with `--admin-socket`",
    ))
}

fn print(reloaded: &Reloaded, out: &mut dyn Write) -> io::Result<()> {
    for warning in &reloaded.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for changed in &reloaded.applied {
        writeln!(out, "{} is {}", changed.key, told(changed))?;
    }
    for changed in &reloaded.needs_restart {
        let key = &changed.key;
        writeln!(out, "{key} is {} after a restart", told(changed))?;
    }
    if reloaded.applied.is_empty() && reloaded.needs_restart.is_empty() {
        writeln!(out, "nothing changed")?;
    }
    Ok(())
}

fn told(changed: &Changed) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "not set".to_owned(),
        value => value.to_string(),
    };
    if changed.from == changed.to {
        return format!("{} with another secret", shown(&changed.to));
    }
    format!("now {} (was {})", shown(&changed.to), shown(&changed.from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_change_is_a_line() {
        let changed = |key: &str, from, to| Changed {
            key: key.to_owned(),
            from,
            to,
        };
        let reloaded = Reloaded {
            file: None,
            applied: vec![changed("mode", json!("fallback"), json!("strict"))],
            needs_restart: vec![
                changed("git.enabled", json!(true), json!(false)),
                changed("upstream.proxy", json!("http://p"), json!("http://p")),
                changed("admin.socket", json!("/run/a"), Value::Null),
            ],
            warnings: Vec::new(),
        };
        let mut text = Vec::new();
        print(&reloaded, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "mode is now \"strict\" (was \"fallback\")\n\
             git.enabled is now false (was true) after a restart\n\
             upstream.proxy is \"http://p\" with another secret after a restart\n\
             admin.socket is now not set (was \"/run/a\") after a restart\n"
        );
    }
}
