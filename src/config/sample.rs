//! The sample configuration file, written from the table of keys.

use super::keys::KEYS;

const HEAD: &str = "\
# The configuration of orlop.
#
# Every key is here, switched off, with its default. To change one, remove the `#`
# before it. From the strongest down, a value comes from
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

/// The text of `packaging/orlop.toml`: every key, switched off, with its default or an example.
pub fn sample() -> String {
    let mut parts = vec![HEAD.to_owned()];
    let mut current = "";
    for key in KEYS {
        let (table, name) = key.table_and_name();
        if table != current {
            parts.push(format!("\n[{table}]\n"));
            current = table;
        }
        let doc = comment(key.doc);
        let (value, remark) = match (key.example, key.default_in_words) {
            ("", _) => (key.default_value().to_string(), String::new()),
            (example, words) => (example.to_owned(), comment(&remark(words))),
        };
        parts.push(format!("\n{doc}{remark}#{name} = {value}\n"));
    }
    parts.concat()
}

fn remark(default_in_words: &str) -> String {
    match default_in_words {
        "" => "The line is an example; by default there is none.".to_owned(),
        words => format!("The line is an example; the default is {words}."),
    }
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
