//! Reads an index file: which versions of a crate there are, without touching a byte of it.
#![warn(clippy::arithmetic_side_effects)]

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use semver::Version;

use super::{checksum::Checksum, name::CrateName, release::parse_version};

/// The newest version (`v`) of the line format that this build reads in full.
///
/// Source: the [index format](https://doc.rust-lang.org/cargo/reference/registry-index.html#json-schema).
pub const KNOWN_LINE_FORMAT: u32 = 2;

/// An index file that was looked through: its bytes, exactly as they came, and its rows.
///
/// The file is one JSON object a line, one line a version. The bytes are what clients get; a row
/// points into them, so that a view can leave whole lines out and never edit one.
#[derive(Debug, Clone)]
pub struct IndexFile {
    bytes: Bytes,
    rows: Vec<Row>,
    passed_over: usize,
}

/// One version in an index file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The crate's name in the spelling that its owner gave it.
    pub name: CrateName,
    /// The version.
    pub version: Version,
    /// The sha256 of its `.crate` file.
    pub checksum: Checksum,
    /// Whether new resolutions must leave it alone.
    pub yanked: bool,
    /// The place of the line in the file, line feed excluded.
    pub line: Range<usize>,
}

/// What a registry gave to recognize an index file by, to be asked whether it changed. Both may be
/// missing: then whoever asks compares the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// The `ETag`, exactly as it came.
    pub etag: Option<String>,
    /// The `Last-Modified`, exactly as it came.
    pub last_modified: Option<String>,
}

/// The fields that orlop reads of a line; all others are passed through unread.
#[derive(serde::Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    vers: Option<Cow<'a, str>>,
    #[serde(borrow)]
    cksum: Option<Cow<'a, str>>,
    yanked: Option<bool>,
    v: Option<u32>,
}

impl IndexFile {
    /// Looks through what an upstream or a bundle sent as the index file of `name`.
    ///
    /// Every line must be a JSON object with the crate's own name, a version and a checksum: a
    /// captive portal's page, an error body sent with status 200, a file cut in the middle of a
    /// line and another crate's file are all refused as a whole. Only lines of a format newer than
    /// [`KNOWN_LINE_FORMAT`] may lack what is read here, because cargo skips those too: they are
    /// passed on and counted.
    ///
    /// # Errors
    /// [`InvalidIndexFile`] names the line.
    pub fn parse(name: &CrateName, bytes: Bytes) -> Result<IndexFile, InvalidIndexFile> {
        let mut rows = Vec::new();
        let mut passed_over: usize = 0;
        let mut start: usize = 0;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let end = start.saturating_add(line.len());
            if !line.trim_ascii().is_empty() {
                let number = index.saturating_add(1);
                match read_line(name, line, start..end).map_err(|kind| kind.at(name, number))? {
                    Some(row) => rows.push(row),
                    None => passed_over = passed_over.saturating_add(1),
                }
            }
            start = end.saturating_add(1);
        }
        if rows.is_empty() && passed_over == 0 {
            return Err(LineFault::Empty.at(name, 1));
        }
        Ok(IndexFile {
            bytes,
            rows,
            passed_over,
        })
    }

    /// The bytes, exactly as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The versions, in the file's order (which is the order of publication).
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many lines of a newer format there are that no row stands for.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// The row of `version`; where a file names a version twice, the last one, as cargo does.
    /// `None`: the version is not in the index.
    pub fn row(&self, version: &Version) -> Option<&Row> {
        self.rows.iter().rev().find(|row| row.version == *version)
    }
}

fn read_line(name: &CrateName, line: &[u8], place: Range<usize>) -> Result<Option<Row>, LineFault> {
    let parsed: Line<'_> = serde_json::from_slice(line).map_err(LineFault::Json)?;
    let newer = parsed.v.is_some_and(|v| v > KNOWN_LINE_FORMAT);
    match row_of(name, &parsed, place) {
        Ok(row) => Ok(Some(row)),
        Err(_unknown) if newer => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn row_of(name: &CrateName, line: &Line<'_>, place: Range<usize>) -> Result<Row, LineFault> {
    let found = line.name.as_deref().ok_or(LineFault::Missing("name"))?;
    let found =
        CrateName::parse(found).map_err(|_invalid| LineFault::OtherCrate(found.to_owned()))?;
    if found != *name {
        return Err(LineFault::OtherCrate(found.as_str().to_owned()));
    }
    let version = line.vers.as_deref().ok_or(LineFault::Missing("vers"))?;
    let checksum = line.cksum.as_deref().ok_or(LineFault::Missing("cksum"))?;
    Ok(Row {
        name: found,
        version: parse_version(version).map_err(|_invalid| LineFault::Missing("vers"))?,
        checksum: checksum
            .parse()
            .map_err(|_invalid| LineFault::Missing("cksum"))?,
        yanked: line.yanked.unwrap_or(false),
        line: place,
    })
}

/// What was sent as an index file is none.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of what was sent as the index file of `{name}` is not usable")]
pub struct InvalidIndexFile {
    /// The crate whose file it should have been.
    pub name: CrateName,
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with the line.
    #[source]
    pub fault: LineFault,
}

/// What is wrong with a line of an index file.
#[derive(Debug, thiserror::Error)]
pub enum LineFault {
    /// There is nothing in the file.
    #[error("the file has no line at all")]
    Empty,
    /// Not JSON, or cut short.
    #[error("it is not a JSON object as the index format has it")]
    Json(#[source] serde_json::Error),
    /// A field that every line has is missing or malformed.
    #[error("its field `{0}` is missing or malformed")]
    Missing(&'static str),
    /// The line is about another crate.
    #[error("it is about another crate, {0:?}")]
    OtherCrate(String),
}

impl LineFault {
    fn at(self, name: &CrateName, line: usize) -> InvalidIndexFile {
        InvalidIndexFile {
            name: name.clone(),
            line,
            fault: self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUM: &str = "be72e7128262fbd8dcb2e3eecee6135ed1611e0a9d63feca600b4a19f297eb49";

    fn line(name: &str, version: &str, rest: &str) -> String {
        format!(
            r#"{{"name":"{name}","vers":"{version}","deps":[],"cksum":"{SUM}","features":{{}},"yanked":false{rest}}}"#
        )
    }

    fn parse(text: &str) -> Result<IndexFile, InvalidIndexFile> {
        let name = CrateName::parse("demo").expect("a good name");
        IndexFile::parse(&name, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn each_line_is_a_row_that_points_to_its_bytes() {
        let text = format!(
            "{}\n{}\n",
            line("Demo", "0.1.0", ""),
            line("Demo", "0.2.0", r#","v":2"#)
        );
        let file = parse(&text).expect("a good file");
        let versions: Vec<_> = file
            .rows()
            .iter()
            .map(|row| row.version.to_string())
            .collect();
        assert_eq!(versions, ["0.1.0", "0.2.0"]);
        assert_eq!(file.rows()[0].name.as_str(), "Demo");
        assert_eq!(
            &text[file.rows()[1].line.clone()],
            line("Demo", "0.2.0", r#","v":2"#)
        );
        assert_eq!(file.bytes(), text.as_bytes());
    }

    #[test]
    fn spacing_and_a_missing_line_feed_at_the_end_do_not_matter() {
        let spaced = line("demo", "0.1.0", "").replace(':', ": ");
        assert_eq!(parse(&spaced).expect("a good file").rows().len(), 1);
        assert_eq!(
            parse(&format!("\n{spaced}\r\n\n"))
                .expect("a good file")
                .rows()
                .len(),
            1
        );
    }

    #[test]
    fn a_line_of_a_newer_format_is_passed_on() {
        let text = format!(
            "{}\n{{\"v\":3,\"name\":\"demo\"}}\n",
            line("demo", "0.1.0", "")
        );
        let file = parse(&text).expect("a good file");
        assert_eq!((file.rows().len(), file.passed_over()), (1, 1));
    }

    #[test]
    fn what_is_no_index_file_is_refused_as_a_whole() {
        let good = line("demo", "0.1.0", "");
        let cut = &good[..good.len() - 9];
        for text in [
            "",
            "\n\n",
            "<html>captive portal</html>",
            &format!("{good}\n{cut}"),
            &format!("{good}\n{}", line("other", "0.1.0", "")),
            &good.replace(SUM, "abc"),
            &good.replace("0.1.0", "one"),
            "[]",
            "{\"errors\":[{\"detail\":\"no\"}]}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let name = CrateName::parse("demo").expect("a good name");
            if let Ok(file) = IndexFile::parse(&name, Bytes::from(bytes.clone())) {
                prop_assert_eq!(file.bytes().as_ref(), bytes.as_slice());
            }
        }
    }
}
