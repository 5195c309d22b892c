//! `orlop config check` and `orlop config show`.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::Error;
use crate::config::{Loaded, Origin, Setting};

/// Values begin a line and origins stand in a column, where the values leave room for it.
const ORIGIN_COLUMN: usize = 48;

/// Says that all is well: what is wrong has ended the command before.
pub(super) fn check(loaded: &Loaded, out: &mut dyn Write) -> Result<(), Error> {
    let file = match &loaded.file {
        Some(path) => format!("`{}`", path.display()),
        None => "no file".to_owned(),
    };
    let is_set = |setting: &&Setting| setting.origin != Origin::Default;
    let set = loaded.settings.iter().filter(is_set).count();
    let all = loaded.settings.len();
    writeln!(
        out,
        "the configuration is good ({file} read, {set} of {all} settings set)"
    )?;
    Ok(())
}

/// Prints every setting with its origin. As text it is TOML and could be a configuration file.
pub(super) fn show(loaded: &Loaded, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    if json {
        let text = serde_json::to_string_pretty(&as_json(loaded)).map_err(std::io::Error::from)?;
        writeln!(out, "{text}")?;
        return Ok(());
    }
    for setting in &loaded.settings {
        writeln!(out, "{}", line(setting))?;
    }
    Ok(())
}

fn line(setting: &Setting) -> String {
    let Setting { key, value, origin } = setting;
    let assigned = match value {
        Value::Null => format!("# {} is not set", key.path),
        value => format!("{} = {value}", key.path),
    };
    format!("{assigned:ORIGIN_COLUMN$}  # {origin}")
}

fn as_json(loaded: &Loaded) -> Value {
    let entry = |setting: &Setting| {
        let facts = fact(setting);
        (setting.key.path.to_owned(), facts)
    };
    let settings: Map<String, Value> = loaded.settings.iter().map(entry).collect();
    json!({
        "file": loaded.file.as_ref().map(|path| path.to_string_lossy()),
        "settings": settings,
    })
}

fn fact(setting: &Setting) -> Value {
    let value = &setting.value;
    match &setting.origin {
        Origin::Default => json!({ "value": value, "origin": "default" }),
        Origin::File { path, line } => json!({
            "value": value,
            "origin": "file",
            "source": path.to_string_lossy(),
            "line": line,
        }),
        Origin::Environment(name) => {
            json!({ "value": value, "origin": "environment", "source": name })
        }
        Origin::Flag(flag) => json!({ "value": value, "origin": "flag", "source": flag }),
    }
}
