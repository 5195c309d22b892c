//! tar as orlop writes and reads it: for bundles, and between a job and its command. Hides tar.
//!
//! A member is a plain file with a relative path, a mode and a length; everything else in its header
//! is always the same (GNU format; no owner, the time 0). So the same content gives the same bytes,
//! and [`Reader`] accepts exactly the bytes that [`Writer`] writes: it refuses links, devices, paths
//! that lead elsewhere, extensions, and bytes between members or behind the end.
#![warn(clippy::arithmetic_side_effects)]

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

const BLOCK: usize = 512;

/// What ends an archive: two blocks of zeros.
const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The longest path: names of versions have up to 255 bytes, those of crates 64.
const MAX_PATH_BYTES: usize = 1024;

/// The mode of a file that anyone may read.
pub const PUBLIC: u32 = 0o644;

/// The mode of a file that only its owner may read.
pub const SECRET: u32 = 0o600;

/// What is known of a member before its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path: names between slashes, none of them `.` or `..`.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// Its length.
    pub len: u64,
}

impl Member {
    /// The bytes before those of the file: a header, for a path over 100 bytes with GNU's extension
    /// for long names before it.
    fn head(&self) -> io::Result<Vec<u8>> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(self.len);
        let mut head = Builder::new(Vec::new());
        head.append_data(&mut header, &self.path, io::empty())?;
        Ok(head.get_ref().clone())
    }

    /// How many zeros fill the last block.
    fn padding(&self) -> usize {
        // Minus the length, modulo the size of a block.
        let zeros = self.len.wrapping_neg() & 511;
        usize::try_from(zeros).unwrap_or_default()
    }
}

/// Whether a path stays in the folder that it is joined to.
pub fn is_safe(path: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\0', '\\']);
    path.len() <= MAX_PATH_BYTES && path.split('/').all(is_name)
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Writes an archive from its first byte to its last.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `out`.
    pub fn new(out: W) -> Writer<W> {
        Writer {
            out,
            left: 0,
            padding: 0,
        }
    }

    /// Begins a member, whose bytes are written next.
    ///
    /// # Errors
    /// Where the member before is not complete, the path does not fit, or nothing can be written.
    pub fn begin(&mut self, path: &str, mode: u32, len: u64) -> io::Result<()> {
        self.end_member()?;
        let path = path.to_owned();
        let member = Member { path, mode, len };
        self.out.write_all(&member.head()?)?;
        self.left = len;
        self.padding = member.padding();
        Ok(())
    }

    /// Writes a whole member.
    ///
    /// # Errors
    /// As for [`begin`](Writer::begin).
    pub fn member(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.begin(path, mode, bytes.len() as u64)?;
        self.write_all(bytes)
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("a file became shorter meanwhile"));
        }
        let zeros = END.get(..self.padding).unwrap_or_default();
        self.padding = 0;
        self.out.write_all(zeros)
    }

    /// Ends the archive. An archive without an end is one that was cut short.
    ///
    /// # Errors
    /// Where the last member is not complete, or nothing can be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_member()?;
        self.out.write_all(&END)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let some = bytes.get(..most).unwrap_or(bytes);
        let written = self.out.write(some)?;
        self.left = self.left.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads an archive from its first byte to its last. As [`Read`], it has the bytes of the member that
/// [`next_member`](Reader::next_member) returned last.
///
/// An archive that ends early is [`io::ErrorKind::UnexpectedEof`], one that orlop did not write
/// [`io::ErrorKind::InvalidData`].
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    position: u64,
    left: u64,
    padding: usize,
}

impl<R: Read> Reader<R> {
    /// An archive that comes from `input`.
    pub fn new(input: R) -> Reader<R> {
        Reader {
            input,
            position: 0,
            left: 0,
            padding: 0,
        }
    }

    /// How many bytes of the archive were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next member; `None`: the archive ends here. What was not read of the one before is skipped.
    ///
    /// # Errors
    /// Where the archive ends early, was not written by orlop, or cannot be read.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        io::copy(self, &mut io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        self.zeros(padding)?;
        let mut head = Vec::new();
        let mut header = self.header(&mut head)?;
        if head.iter().all(|byte| *byte == 0) {
            self.zeros(BLOCK)?;
            return Ok(None);
        }
        let mut path = header.path_bytes().into_owned();
        if header.entry_type().is_gnu_longname() {
            path = self.long_name(&header, &mut head)?;
            header = self.header(&mut head)?;
        }
        let path = String::from_utf8_lossy(&path).into_owned();
        let (Ok(mode), Ok(len)) = (header.mode(), header.entry_size()) else {
            return Err(invalid("a header of the tar is damaged"));
        };
        let kind = header.entry_type();
        if kind != EntryType::Regular {
            return Err(invalid(format!(
                "`{path}` is not a plain file, but {kind:?}"
            )));
        }
        let member = Member { path, mode, len };
        if !is_safe(&member.path) {
            let text = format!("the path `{}` leads elsewhere or is too long", member.path);
            return Err(invalid(text));
        }
        if member.head().ok().is_none_or(|expected| expected != head) {
            let text = format!(
                "orlop did not write this tar header of `{}`; a tar that was packed again has others",
                member.path
            );
            return Err(invalid(text));
        }
        self.left = len;
        self.padding = member.padding();
        Ok(Some(member))
    }

    /// Makes sure that nothing follows the archive.
    ///
    /// # Errors
    /// Where something does, or cannot be read.
    pub fn expect_eof(&mut self) -> io::Result<()> {
        if self.input.by_ref().take(1).read_to_end(&mut Vec::new())? == 0 {
            return Ok(());
        }
        Err(invalid("there is more after its end"))
    }

    /// Reads a header, and appends its bytes to `head`.
    fn header(&mut self, head: &mut Vec<u8>) -> io::Result<Header> {
        let mut header = Header::new_old();
        self.exactly(header.as_mut_bytes())?;
        head.extend_from_slice(header.as_bytes());
        let is_end = header.as_bytes().iter().all(|byte| *byte == 0);
        let mut summed = header.clone();
        summed.set_cksum();
        if is_end || header.cksum().ok() == summed.cksum().ok() {
            return Ok(header);
        }
        Err(invalid("a header of the tar is damaged"))
    }

    /// The path of a member whose own header has no room for it.
    fn long_name(&mut self, header: &Header, head: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        let len = header
            .entry_size()
            .ok()
            .and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| *len <= MAX_PATH_BYTES);
        let len = len.ok_or_else(|| invalid("a path in the tar is too long"))?;
        let mut bytes = vec![0; len.next_multiple_of(BLOCK)];
        self.exactly(&mut bytes)?;
        head.extend_from_slice(&bytes);
        bytes.truncate(len.saturating_sub(1));
        Ok(bytes)
    }

    fn zeros(&mut self, count: usize) -> io::Result<()> {
        let mut bytes = vec![0; count];
        self.exactly(&mut bytes)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        Err(invalid("there is something between the files of the tar"))
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(bytes)?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.input).take(self.left).read(bytes)?;
        if read == 0 && self.left > 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(read as u64);
        self.position = self.position.saturating_add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_path() -> String {
        format!("crates/{}-1.0.0+{}.crate", "x".repeat(64), "y".repeat(200))
    }

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.member("a/first", PUBLIC, b"bytes").expect("written");
        writer
            .member(&long_path(), SECRET, &[7; 512])
            .expect("written");
        writer.member("empty", PUBLIC, b"").expect("written");
        writer.finish().expect("written")
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(Member, Vec<u8>)>> {
        let mut reader = Reader::new(bytes);
        let mut members = Vec::new();
        while let Some(member) = reader.next_member()? {
            let mut body = Vec::new();
            reader.read_to_end(&mut body)?;
            members.push((member, body));
        }
        reader.expect_eof()?;
        assert_eq!(reader.position(), bytes.len() as u64);
        Ok(members)
    }

    #[test]
    fn what_is_written_is_read_and_tar_reads_it_too() {
        let members = read(&archive()).expect("a good archive");
        let paths: Vec<_> = members.iter().map(|(member, _)| &member.path[..]).collect();
        assert_eq!(paths, ["a/first", &long_path(), "empty"]);
        assert_eq!(
            (members[1].0.mode, &members[1].1[..]),
            (SECRET, &[7; 512][..])
        );
        let bytes = archive();
        let mut others = tar::Archive::new(&bytes[..]);
        let others = others.entries().expect("a tar").map(|entry| {
            let entry = entry.expect("a member");
            entry.path().expect("a path").display().to_string()
        });
        assert_eq!(others.collect::<Vec<_>>(), paths);
    }

    #[test]
    fn an_archive_that_was_cut_or_changed_is_never_the_same() {
        let bytes = archive();
        let whole = read(&bytes).expect("a good archive");
        for at in 0..bytes.len() {
            let cut = read(&bytes[..at]).expect_err("it was cut").kind();
            assert_eq!(cut, io::ErrorKind::UnexpectedEof, "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let read = read(&flipped).ok();
            assert!(read.as_ref() != Some(&whole), "byte {at}");
        }
        let more = read(&[&bytes[..], b"\0"].concat()).expect_err("there is more");
        assert_eq!(more.to_string(), "there is more after its end");
    }

    #[test]
    fn what_orlop_does_not_write_is_refused_by_name() {
        let refused = |word: &str, change: &dyn Fn(&mut Header)| {
            let mut header = Header::new_gnu();
            header.set_path("some").expect("it fits");
            header.set_mode(PUBLIC);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            header.set_entry_type(EntryType::Regular);
            change(&mut header);
            header.set_cksum();
            let bytes = [&header.as_bytes()[..], &END].concat();
            match read(&bytes) {
                Ok(_) => assert_eq!(word, "", "it is taken"),
                Err(error) => assert!(
                    !word.is_empty() && error.to_string().contains(word),
                    "{word}: {error}"
                ),
            }
        };
        let named = |header: &mut Header, path: &str| {
            let name = &mut header.as_old_mut().name;
            name.fill(0);
            name[..path.len()].copy_from_slice(path.as_bytes());
        };
        refused("", &|_header| ());
        for path in ["/etc/passwd", "../x", "a/../b", "./a", "a//b", "a/", "a\\b"] {
            refused("leads elsewhere", &|header| named(header, path));
        }
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Char,
            EntryType::Directory,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::GNUSparse,
        ] {
            refused("not a plain file", &|header| header.set_entry_type(kind));
        }
        refused("packed again", &|header| header.set_mtime(1));
        refused("packed again", &|header| header.set_uid(1000));
        refused("too long", &|header| {
            named(header, "././@LongLink");
            header.set_entry_type(EntryType::GNULongName);
            header.set_size(5000);
        });
    }

    #[test]
    fn a_file_that_became_shorter_makes_no_archive() {
        let mut writer = Writer::new(Vec::new());
        writer.begin("a", PUBLIC, 5).expect("written");
        writer.write_all(b"four").expect("written");
        assert!(writer.begin("b", PUBLIC, 0).is_err());
        assert!(writer.finish().is_err());
    }
}
