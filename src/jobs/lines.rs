//! Records as lines of JSON, packed by zstd: `zstd -dc` shows them. Hides zstd.
#![warn(clippy::arithmetic_side_effects)]

use std::io::{self, BufRead as _, BufReader, Read, Take, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use zstd::stream::{read::Decoder, write::Encoder};

use crate::store::MAX_SNAPSHOT_BYTES;

/// On index files level 3 is five times as fast as level 9 and packs a twelfth worse.
const LEVEL: i32 = 3;

/// Level 3 looks back 2 MiB. What looks back further than 8 MiB is not ours, and would decide how
/// much memory is taken.
const MAX_WINDOW_LOG: u32 = 23;

/// The longest line: the largest index file that a store keeps, in which JSON escapes every byte.
const MAX_LINE_BYTES: u64 = 2 * MAX_SNAPSHOT_BYTES as u64 + (1 << 20);

/// Writes records.
pub(super) struct LineWriter<W: Write> {
    packer: Encoder<'static, W>,
    line: Vec<u8>,
    /// How many were written.
    pub(super) count: u64,
}

impl<W: Write> LineWriter<W> {
    /// Records that go to `out`.
    pub(super) fn new(out: W) -> io::Result<LineWriter<W>> {
        Ok(LineWriter {
            packer: Encoder::new(out, LEVEL)?,
            line: Vec::new(),
            count: 0,
        })
    }

    pub(super) fn put(&mut self, record: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        self.count = self.count.saturating_add(1);
        self.packer.write_all(&self.line)
    }

    /// What the packed bytes go to.
    pub(super) fn get_ref(&self) -> &W {
        self.packer.get_ref()
    }

    /// Ends the records.
    pub(super) fn finish(self) -> io::Result<W> {
        self.packer.finish()
    }
}

/// Reads records, one at a time.
///
/// Records that end early are [`io::ErrorKind::UnexpectedEof`], and what is no record
/// [`io::ErrorKind::InvalidData`].
pub(super) struct LineReader<R: Read> {
    input: BufReader<Take<Decoder<'static, BufReader<R>>>>,
    line: Vec<u8>,
    max_bytes: u64,
    /// How many were read.
    pub(super) count: u64,
}

impl<R: Read> LineReader<R> {
    /// Records that come from `input`.
    pub(super) fn new(input: R) -> io::Result<LineReader<R>> {
        let mut unpacker = Decoder::new(input)?;
        unpacker.window_log_max(MAX_WINDOW_LOG)?;
        Ok(LineReader {
            input: BufReader::new(unpacker.take(u64::MAX)),
            line: Vec::new(),
            max_bytes: MAX_LINE_BYTES,
            count: 0,
        })
    }

    /// Reads no more than `bytes` of unpacked records: the rest is as if it were not there.
    pub(super) fn limit(mut self, bytes: u64) -> LineReader<R> {
        self.input.get_mut().set_limit(bytes);
        self
    }

    /// The next; `None`: that was all.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        self.line.clear();
        let mut limited = self.input.by_ref().take(self.max_bytes);
        if limited.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        self.count = self.count.saturating_add(1);
        let invalid = |why: String| {
            let text = format!("line {}: {why}", self.count);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        if self.line.last() != Some(&b'\n') {
            return Err(invalid("it is too long, or breaks off".to_owned()));
        }
        serde_json::from_slice(&self.line).map_err(|error| invalid(error.to_string()))
    }
}

/// Bytes that come back exactly as they were: as text, where they are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Form<String>")]
pub(super) struct ExactBytes(pub(super) Bytes);

/// How the bytes stand in JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Form<T> {
    Text(T),
    Base64(T),
}

impl Serialize for ExactBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(&self.0) {
            Ok(text) => Form::Text(text).serialize(serializer),
            Err(_) => Form::Base64(STANDARD.encode(&self.0)).serialize(serializer),
        }
    }
}

impl TryFrom<Form<String>> for ExactBytes {
    type Error = String;

    fn try_from(form: Form<String>) -> Result<ExactBytes, String> {
        let bytes = match form {
            Form::Text(text) => text.into_bytes(),
            Form::Base64(digits) => STANDARD
                .decode(digits)
                .map_err(|error| format!("it is not base64: {error}"))?,
        };
        if bytes.len() > MAX_SNAPSHOT_BYTES {
            return Err("it is larger than any index file that a store keeps".to_owned());
        }
        Ok(ExactBytes(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(records: &[ExactBytes]) -> Vec<u8> {
        let mut writer = LineWriter::new(Vec::new()).expect("memory takes it");
        for record in records {
            writer.put(record).expect("memory takes it");
        }
        writer.finish().expect("memory takes it")
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        let records: Vec<ExactBytes> = [
            &b"{\"a\":\"\\u00e9\"}\r\n\n"[..],
            b"",
            b"\xff\xfe not UTF-8",
            "\u{2028}".as_bytes(),
        ]
        .map(|bytes| ExactBytes(Bytes::copy_from_slice(bytes)))
        .into();
        let bytes = packed(&records);
        let mut reader = LineReader::new(&bytes[..]).expect("zstd");
        let read = std::iter::from_fn(|| reader.next().expect("a good line"));
        assert_eq!(read.collect::<Vec<ExactBytes>>(), records);
        for cut in 0..bytes.len() {
            let whole = LineReader::new(&bytes[..cut]).and_then(|mut reader| {
                while reader.next::<ExactBytes>()?.is_some() {}
                Ok(reader.count == records.len() as u64)
            });
            assert!(!whole.unwrap_or(false), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_has_an_end_and_is_what_it_should_be() {
        let long = packed(&[ExactBytes(Bytes::from(vec![b' '; 1000]))]);
        let mut reader = LineReader::new(&long[..]).expect("zstd");
        reader.max_bytes = 1000;
        let error = reader.next::<ExactBytes>().expect_err("it is too long");
        assert_eq!(error.to_string(), "line 1: it is too long, or breaks off");
        let mut reader = LineReader::new(&long[..]).expect("zstd").limit(1000);
        let error = reader.next::<ExactBytes>().expect_err("it breaks off");
        assert_eq!(error.to_string(), "line 1: it is too long, or breaks off");
        let mut reader = LineReader::new(&long[..]).expect("zstd");
        let error = reader.next::<u64>().expect_err("it is no number");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
