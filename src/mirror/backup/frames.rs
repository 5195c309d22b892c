//! The stream between the job and the command: files that begin, go on and end, and crate files that
//! are only named.
//!
//! It starts with `orlopbak` and the format (4 bytes: 1). Then come frames; all numbers are
//! little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | kind |
//! | 1 | 4 | `n`: length of what follows, at most 1 MiB |
//! | 5 | n | payload |
//!
//! | kind | what | payload |
//! |---|---|---|
//! | `F` | a file begins | 1 byte (1: only for its owner), its path |
//! | `D` | the file goes on | bytes |
//! | `E` | the file ends | |
//! | `B` | a crate file | 32 bytes of sha256, 8 bytes of length |
//! | `Z` | all is told | a summary as JSON |

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::BackupReport;
use crate::{mirror::patient::Patient, registry::Checksum};

const MAGIC: &[u8; 8] = b"orlopbak";
const FORMAT: u32 = 1;

/// The longest payload.
const MOST_BYTES: usize = 1 << 20;

/// The longest path.
const MOST_PATH_BYTES: usize = 1024;

/// What is gathered before it is written.
const BUFFER: usize = 256 << 10;

/// The last word of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// When the backup began, by the clock of the job.
    pub at: SystemTime,
    /// What was copied.
    pub report: BackupReport,
}

/// The job's end.
#[derive(Debug)]
pub(super) struct Sender {
    out: BufWriter<Patient<File>>,
}

impl Sender {
    pub(super) fn start(pipe: Patient<File>) -> io::Result<Sender> {
        let mut out = BufWriter::with_capacity(BUFFER, pipe);
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        Ok(Sender { out })
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&length.to_le_bytes())?;
        parts.iter().try_for_each(|part| self.out.write_all(part))
    }

    pub(super) fn file(&mut self, path: &str, is_secret: bool) -> io::Result<()> {
        self.frame(b'F', &[&[u8::from(is_secret)], path.as_bytes()])
    }

    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes
            .chunks(MOST_BYTES)
            .try_for_each(|piece| self.frame(b'D', &[piece]))
    }

    pub(super) fn file_end(&mut self) -> io::Result<()> {
        self.frame(b'E', &[])
    }

    pub(super) fn blob(&mut self, checksum: &Checksum, length: u64) -> io::Result<()> {
        self.frame(b'B', &[checksum.as_bytes(), &length.to_le_bytes()])
    }

    pub(super) fn end(mut self, summary: &Summary) -> io::Result<()> {
        let text = serde_json::to_vec(summary)?;
        self.frame(b'Z', &[&text])?;
        self.out.flush()
    }
}

impl Write for &mut Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(MOST_BYTES)).unwrap_or(bytes);
        self.data(piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A file begins.
    File {
        /// Its path: names between slashes, none of them `.` or `..`.
        path: String,
        /// Whether only its owner may read it.
        is_secret: bool,
    },
    /// The file goes on.
    Data(Vec<u8>),
    /// The file ends.
    FileEnd,
    /// A crate file.
    Blob {
        /// Its sha256.
        checksum: Checksum,
        /// Its length.
        length: u64,
    },
    /// All is told.
    End(Summary),
}

/// The command's end.
#[derive(Debug)]
pub struct Receiver<R> {
    input: BufReader<R>,
}

impl<R: Read> Receiver<R> {
    /// Reads the start.
    ///
    /// # Errors
    /// Where it is the start of something else.
    pub fn start(input: R) -> io::Result<Receiver<R>> {
        let mut input = BufReader::with_capacity(BUFFER, input);
        let mut head = [0; 12];
        input.read_exact(&mut head)?;
        let expected = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        if head[..] != expected[..] {
            let text = "the server sends a backup in another format: command and server are of different versions";
            return Err(invalid(text));
        }
        Ok(Receiver { input })
    }

    /// The next frame.
    ///
    /// # Errors
    /// Where the stream breaks off or makes no sense.
    pub fn next_frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; 5];
        self.input.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MOST_BYTES {
            return Err(invalid("a frame of the backup is too long"));
        }
        let mut payload = vec![0; length];
        self.input.read_exact(&mut payload)?;
        match kind {
            b'F' => file_of(&payload),
            b'D' => Ok(Frame::Data(payload)),
            b'E' => Ok(Frame::FileEnd),
            b'B' => blob_of(&payload),
            b'Z' => Ok(Frame::End(serde_json::from_slice(&payload)?)),
            _ => Err(invalid("the backup has a frame of an unknown kind")),
        }
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn file_of(payload: &[u8]) -> io::Result<Frame> {
    let (flags, path) = payload
        .split_first()
        .ok_or_else(|| invalid("a frame of the backup is too short"))?;
    let path = str::from_utf8(path).map_err(io::Error::other)?;
    if !is_safe(path) {
        return Err(invalid(
            "a file of the backup has a path that leads elsewhere",
        ));
    }
    Ok(Frame::File {
        path: path.to_owned(),
        is_secret: *flags == 1,
    })
}

/// Whether a path stays in the folder that it is joined to.
pub fn is_safe(path: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\0', '\\']);
    path.len() <= MOST_PATH_BYTES && path.split('/').all(is_name)
}

fn blob_of(payload: &[u8]) -> io::Result<Frame> {
    let parts = payload.split_at_checked(32).and_then(|(sum, length)| {
        let sum: [u8; 32] = sum.try_into().ok()?;
        let length: [u8; 8] = length.try_into().ok()?;
        Some((sum, length))
    });
    let (sum, length) = parts.ok_or_else(|| invalid("a frame of the backup is too short"))?;
    Ok(Frame::Blob {
        checksum: Checksum::from_bytes(sum),
        length: u64::from_le_bytes(length),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;
    use crate::mirror::jobs::Teller;

    #[test]
    fn what_is_sent_arrives_and_a_stream_that_breaks_off_is_an_error() {
        let mut file = tempfile::tempfile().expect("a file");
        let pipe = file.try_clone().expect("a descriptor");
        let pipe = Patient::new(pipe, Teller::silent());
        let mut sender = Sender::start(pipe).expect("written");
        let sum = Checksum::of(b"x");
        sender.file("git/index/HEAD", true).expect("written");
        sender.data(b"bytes").expect("written");
        sender.file_end().expect("written");
        sender.blob(&sum, 7).expect("written");
        let summary = Summary {
            at: SystemTime::UNIX_EPOCH,
            report: BackupReport::default(),
        };
        sender.end(&summary).expect("written");
        file.seek(SeekFrom::Start(0)).expect("a seek");
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).expect("read");

        let mut receiver = Receiver::start(&bytes[..]).expect("a start");
        let expected = [
            Frame::File {
                path: "git/index/HEAD".to_owned(),
                is_secret: true,
            },
            Frame::Data(b"bytes".to_vec()),
            Frame::FileEnd,
            Frame::Blob {
                checksum: sum,
                length: 7,
            },
            Frame::End(summary),
        ];
        for frame in expected {
            assert_eq!(receiver.next_frame().expect("a frame"), frame);
        }
        for cut in 0..bytes.len() {
            let Ok(mut receiver) = Receiver::start(&bytes[..cut]) else {
                continue;
            };
            let ended = std::iter::from_fn(|| match receiver.next_frame() {
                Ok(Frame::End(_)) => Some(Err(())),
                Ok(_) => Some(Ok(())),
                Err(_) => None,
            });
            assert!(ended.collect::<Result<Vec<_>, _>>().is_ok(), "cut at {cut}");
        }
    }

    #[test]
    fn a_path_stays_where_it_belongs() {
        for path in ["journal", "git/index/refs/heads/master", "a.b"] {
            assert!(is_safe(path), "{path}");
        }
        for path in ["", "/etc", "../x", "a/../b", "a//b", "a/", "./a"] {
            assert!(!is_safe(path), "{path}");
        }
    }
}
