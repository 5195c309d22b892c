//! The sample configuration file, written from the table of keys.

use serde_json::Value;

use super::keys::{KEYS, Key, Preset};
use super::value::Raw;
use super::{Config, Error};

const HEAD: &str = "\
# The configuration of orlop.
#
# Every key is here, switched off, with its default. To change one, take away the
# `#` before it. From the strongest down, a value comes from
#   1. a flag of the command line,
#   2. the environment: ORLOP_ and the key's path in capitals, such as
#      ORLOP_UPSTREAM_STALL_TIMEOUT; lists are separated by commas,
#   3. this file: the one that --config or ORLOP_CONFIG names, otherwise
#      /etc/orlop/orlop.toml if it is there,
#   4. the default.
# `orlop config check --config FILE` tells what is wrong with a file, and
# `orlop config show` where each value comes from.
";

/// Columns of a comment.
const WIDTH: usize = 80;

/// The text of `packaging/orlop.toml`: every key, switched off, with its default and the reason.
///
/// # Errors
/// A default that its own key refuses, which a test rules out.
pub fn sample() -> Result<String, Error> {
    let mut parts = vec![HEAD.to_owned()];
    let mut current = "";
    for key in KEYS {
        let (table, name) = key.table_and_name();
        if table != current {
            parts.push(format!("\n[{table}]\n"));
            current = table;
        }
        let (value, remark) = value_and_remark(key)?;
        let doc = comment(key.doc);
        let reason = comment(&format!("Reason: {}", key.reason));
        parts.push(format!("\n{doc}{reason}{remark}#{name} = {value}\n"));
    }
    Ok(parts.concat())
}

/// The value to show, and a comment where it is not the default.
fn value_and_remark(key: &Key) -> Result<(Value, String), Error> {
    let (written, remark) = match key.preset {
        Preset::Fixed(text) => (text, String::new()),
        Preset::Found { words, example, .. } => {
            let remark = format!("The line is an example; the default is {words}.");
            (example, comment(&remark))
        }
        Preset::Unset { example } => {
            let remark = "The line is an example; by default there is none.";
            (example, comment(remark))
        }
    };
    Ok((read(key, &Raw::Typed(written.into()))?, remark))
}

fn read(key: &Key, raw: &Raw) -> Result<Value, Error> {
    let mut config = Config::blank()?;
    key.place
        .assign(raw, &mut config)
        .map_err(|why| Error::Value {
            key: key.path,
            origin: super::Origin::Default,
            why,
        })
}

/// `text` as lines of comment that break between words.
fn comment(text: &str) -> String {
    let mut lines = String::from("#");
    let mut column = 1;
    for word in text.split_whitespace() {
        let width = word.chars().count() + 1;
        if column + width > WIDTH {
            lines.push_str("\n#");
            column = 1;
        }
        lines.push(' ');
        lines.push_str(word);
        column += width;
    }
    lines.push('\n');
    lines
}
