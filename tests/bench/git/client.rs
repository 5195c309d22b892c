//! A git client that reads packs and throws them away: it measures the server, not itself.

use std::{
    io::{self, BufReader, Read, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use orlop::git::{Repo, Selection, Wishes, pkt};

/// What a fetch took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetched {
    /// Until the first byte of the pack.
    pub(crate) first: Duration,
    pub(crate) whole: Duration,
    /// Of the pack.
    pub(crate) bytes: u64,
    pub(crate) objects: u32,
}

/// What is fetched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Want {
    pub(crate) commit: String,
    pub(crate) have: Option<String>,
    pub(crate) depth: Option<u32>,
}

impl Want {
    /// The request of protocol 2, as git sends it.
    fn request(&self) -> Vec<u8> {
        let mut body = Vec::new();
        pkt::write(&mut body, b"command=fetch");
        pkt::write(&mut body, b"agent=git/2.47.3");
        pkt::write(&mut body, b"object-format=sha1");
        body.extend_from_slice(pkt::DELIM);
        let mut line = |text: String| pkt::write(&mut body, text.as_bytes());
        line("thin-pack".into());
        line("ofs-delta".into());
        if let Some(depth) = self.depth {
            line(format!("deepen {depth}"));
        }
        line(format!("want {}\n", self.commit));
        if let Some(have) = &self.have {
            line(format!("have {have}\n"));
        }
        line("done\n".into());
        body.extend_from_slice(pkt::FLUSH);
        body
    }
}

/// Fetches from `http://ADDRESS/PATH`.
pub(crate) fn fetch(url: &str, want: &Want) -> anyhow::Result<Fetched> {
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .context("an URL")?;
    let start = Instant::now();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(600)))?;
    let body = want.request();
    write!(
        stream,
        "POST /{path}/git-upload-pack HTTP/1.1\r\nhost: {host}\r\ngit-protocol: version=2\r\n\
         content-type: application/x-git-upload-pack-request\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    let is_chunked = read_head(&mut stream)?;
    if is_chunked {
        read_answer(
            BufReader::with_capacity(1 << 17, Chunked { stream, left: 0 }),
            start,
        )
    } else {
        read_answer(stream, start)
    }
}

fn read_head(stream: &mut impl io::BufRead) -> anyhow::Result<bool> {
    let mut is_chunked = false;
    for number in 0.. {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        ensure!(number > 0 || line.contains(" 200"), "answered {line}");
        is_chunked |= line == "transfer-encoding: chunked";
        if line.is_empty() {
            break;
        }
    }
    Ok(is_chunked)
}

/// The packets of an answer up to its end; of the pack, only its header is looked at.
fn read_answer(mut stream: impl Read, start: Instant) -> anyhow::Result<Fetched> {
    let (mut first, mut bytes, mut head) = (None, 0, Vec::new());
    let mut data = Vec::new();
    while let Some(length) = packet_length(&mut stream)? {
        data.resize(length, 0);
        stream.read_exact(&mut data)?;
        match data.split_first() {
            Some((1, pack)) => {
                first.get_or_insert_with(|| start.elapsed());
                bytes += pack.len() as u64;
                if head.len() < 12 {
                    head.extend_from_slice(&pack[..pack.len().min(12)]);
                }
            }
            Some((3, text)) => bail!("refused: {}", String::from_utf8_lossy(text)),
            _ if data.starts_with(b"ERR ") => bail!("{}", String::from_utf8_lossy(&data)),
            _ => {}
        }
    }
    ensure!(head.starts_with(b"PACK"), "no pack");
    Ok(Fetched {
        first: first.context("no pack")?,
        whole: start.elapsed(),
        bytes,
        objects: u32::from_be_bytes(head[8..12].try_into()?),
    })
}

/// How long the next packet with data is; `None`: the answer is over.
fn packet_length(stream: &mut impl Read) -> anyhow::Result<Option<usize>> {
    loop {
        let mut prefix = [0; 4];
        match stream.read_exact(&mut prefix) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let length = usize::from_str_radix(std::str::from_utf8(&prefix)?, 16)?;
        if length > 4 {
            return Ok(Some(length - 4));
        }
    }
}

/// A chunked body.
struct Chunked<R> {
    stream: R,
    left: u64,
}

impl<R: io::BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            while line.trim().is_empty() {
                line.clear();
                if self.stream.read_line(&mut line)? == 0 {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            self.left = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let read = self.stream.by_ref().take(self.left).read(buffer)?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Reads the pack for a client from the repository itself.
pub(crate) fn read_pack(repo: &Repo, have: Option<u64>) -> anyhow::Result<Fetched> {
    let start = Instant::now();
    let wishes = Wishes {
        ofs_delta: true,
        thin_pack: true,
    };
    let mut pack = repo.serving().pack(&Selection::History { have }, wishes)?;
    let mut buffer = vec![0; 1 << 17];
    let mut bytes = pack.read(&mut buffer)? as u64;
    let first = start.elapsed();
    loop {
        match pack.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    Ok(Fetched {
        first,
        whole: start.elapsed(),
        bytes,
        objects: pack.objects(),
    })
}
