//! The TOML file: read with a bound, cut into keys with their lines.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Origin, Refusal};
use super::keys::{self, Given, KEYS};
use super::suggest;
use super::value::Raw;

/// The sample file with all its comments has 12 KiB; a megabyte is somebody else's file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The text of a file. `None`: it is not there, and need not be.
pub(super) fn read(path: &Path, is_optional: bool) -> Result<Option<String>, Error> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match read_bounded(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_optional && matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(source) => Err(Error::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(MAX_FILE_BYTES + 1);
    if file.read_to_string(&mut text)? as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the file is larger than 1 MiB",
        ));
    }
    Ok(text)
}

/// Every value of the file, or what is wrong with it.
pub(super) fn values(path: &Path, text: &str) -> Vec<Result<Given, Error>> {
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => return vec![Err(syntax(path, text, &error))],
    };
    let at = |offset: usize| Origin::File {
        path: path.to_owned(),
        line: line_of(text, offset),
    };
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        walk(name.get_ref(), name.span().start, value, &at, &mut found);
    }
    found.sort_by_key(|(offset, _)| *offset);
    found.into_iter().map(|(_, item)| item).collect()
}

/// Goes down into tables that are none of a key, and reads what stands there.
fn walk(
    path: &str,
    offset: usize,
    value: &Spanned<DeValue<'_>>,
    at: &dyn Fn(usize) -> Origin,
    found: &mut Vec<(usize, Result<Given, Error>)>,
) {
    let origin = at(offset);
    match (keys::find(path), value.get_ref()) {
        (Some(key), value) => {
            let raw = raw(value);
            found.push((offset, Ok(Given { key, raw, origin })));
        }
        (None, DeValue::Table(table)) => {
            for (name, value) in table {
                let path = format!("{path}.{}", name.get_ref());
                walk(&path, name.span().start, value, at, found);
            }
        }
        (None, _) => found.push((offset, Err(unknown(path, origin)))),
    }
}

fn unknown(path: &str, origin: Origin) -> Error {
    let known = KEYS.iter().map(|key| key.path);
    let suggestion = suggest::key(path, known);
    Error::Unknown {
        name: path.to_owned(),
        origin,
        suggestion: suggestion.map(str::to_owned),
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a number beyond all bounds"), Raw::Whole),
        DeValue::Boolean(switch) => Raw::Switch(*switch),
        DeValue::Array(items) => {
            let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
            let list: Option<Vec<String>> = items.iter().map(text).collect();
            list.map_or(Raw::Other("a list of other things than text"), Raw::List)
        }
        DeValue::Float(_) => Raw::Other("a number with a point"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let offset = error.span().map_or(0, |span| span.start);
    Error::Syntax {
        path: path.to_owned(),
        line: line_of(text, offset),
        why: Refusal::new(
            error.message(),
            "the sample configuration shows how each value is written",
        ),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}
