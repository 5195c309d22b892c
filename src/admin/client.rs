//! The command's side: reaches a daemon, asks, and reads what it says.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::timeout,
};

use super::{
    Ask, Error, Head, Hello, Line, MOST_BODY_BYTES, MOST_FILES, Order, PROTOCOL, Reached, Reloaded,
    VERSION, ancillary, place::Place,
};
use crate::jobs::{Event, Files, JobError, JobRequest, ReportJson};

/// How long a daemon may take to say its first word. It says it from memory.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest line: a report with every failure of a whole registry.
const MOST_LINE_BYTES: usize = 256 << 20;

/// How much is read at once.
const PIECE_BYTES: usize = 64 << 10;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    /// What was read and not yet taken.
    buffer: Vec<u8>,
    /// How much of it has no line end in it.
    searched: usize,
    data: PathBuf,
    http: Reached,
}

/// What a daemon says of a job.
#[derive(Debug)]
pub enum Word {
    /// How it goes.
    Event(Event),
    /// How it ended.
    End(Result<Box<ReportJson>, JobError>),
}

impl Client {
    /// Reaches the daemon at `path`; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::OtherVersion`], [`Error::Strange`], [`Error::Io`].
    pub async fn connect(path: &Path) -> Result<Option<Client>, Error> {
        let Some(stream) = open(path).await? else {
            return Ok(None);
        };
        let mut client = Client {
            stream,
            path: path.to_owned(),
            buffer: Vec::new(),
            searched: 0,
            data: PathBuf::new(),
            http: Reached::default(),
        };
        let hello = match timeout(HELLO_TIMEOUT, client.hello()).await {
            Ok(hello) => hello?,
            Err(_silent) => {
                return Err(client.fault("hear a word")(io::ErrorKind::TimedOut.into()));
            }
        };
        if hello.protocol != PROTOCOL || hello.orlop != VERSION {
            return Err(Error::OtherVersion {
                path: client.path,
                theirs: hello.orlop,
            });
        }
        client.data = PathBuf::from(hello.data);
        client.http = hello.http;
        Ok(Some(client))
    }

    async fn hello(&mut self) -> Result<Hello, Error> {
        match self.line().await {
            Ok(Line::Hello(hello)) => Ok(hello),
            Ok(_) | Err(Error::Ended) => Err(Error::Strange {
                path: self.path.clone(),
            }),
            Err(error) => Err(error),
        }
    }

    /// The folder of the store that the daemon has.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// How clients of cargo reach the daemon.
    pub fn http(&self) -> &Reached {
        &self.http
    }

    /// Asks for a job.
    ///
    /// # Errors
    /// [`Error::TooManyFiles`], [`Error::TooLarge`], [`Error::Io`].
    pub async fn ask(&mut self, request: &JobRequest, files: Files) -> Result<(), Error> {
        self.request(request, files).await
    }

    /// Has the daemon read its configuration again, and gives back what it says to that.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Strange`], [`Error::Io`].
    pub async fn reload(&mut self) -> Result<Result<Reloaded, JobError>, Error> {
        self.request(&Order::Reload, Files::new()).await?;
        match self.line().await? {
            Line::Reloaded(reloaded) => Ok(Ok(reloaded)),
            Line::Error(error) => Ok(Err(error)),
            Line::Hello(_) | Line::Event(_) | Line::Report(_) => Err(self.strange()),
        }
    }

    async fn request(&mut self, request: &impl Serialize, files: Files) -> Result<(), Error> {
        let ask = Ask {
            orlop: VERSION,
            request,
        };
        let body = serde_json::to_vec(&ask).map_err(|error| self.fault("ask")(error.into()))?;
        let (body_len, count) = (body.len() as u64, files.len());
        if count > MOST_FILES {
            return Err(Error::TooManyFiles { count });
        }
        if body_len > MOST_BODY_BYTES {
            return Err(Error::TooLarge { len: body_len });
        }
        let head = Head {
            protocol: PROTOCOL,
            files: u32::try_from(count).unwrap_or(u32::MAX),
            body_len,
        };
        match self.send(&head.to_bytes(), &files, &body).await {
            // The daemon said why before it closed: the next word has it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            sent => sent.map_err(self.fault("ask")),
        }
    }

    async fn send(&mut self, head: &[u8], files: &Files, body: &[u8]) -> io::Result<()> {
        let stream = &self.stream;
        let sent = stream
            .async_io(Interest::WRITABLE, || ancillary::send(stream, head, files))
            .await?;
        self.stream
            .write_all(head.get(sent..).unwrap_or_default())
            .await?;
        self.stream.write_all(body).await
    }

    /// The next word. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Strange`], [`Error::Io`].
    pub async fn next(&mut self) -> Result<Word, Error> {
        match self.line().await? {
            Line::Event(event) => Ok(Word::Event(event)),
            Line::Report(report) => Ok(Word::End(Ok(report))),
            Line::Error(error) => Ok(Word::End(Err(error))),
            Line::Hello(_) | Line::Reloaded(_) => Err(self.strange()),
        }
    }

    /// Cancels the job; its last words still come.
    pub async fn cancel(&mut self) {
        // Where this fails the daemon is gone, which the next word tells.
        match self.stream.shutdown().await {
            Ok(()) | Err(_) => {}
        }
    }

    /// Cancel safe: what was read stays in the buffer.
    async fn line(&mut self) -> Result<Line, Error> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                return serde_json::from_slice(&line).map_err(|_unknown| self.strange());
            }
            self.searched = self.buffer.len();
            if self.searched > MOST_LINE_BYTES {
                return Err(self.strange());
            }
            self.buffer.reserve(PIECE_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Error::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Error::Ended);
                }
                Err(error) => return Err(self.fault("listen to the daemon")(error)),
            }
        }
    }

    fn strange(&self) -> Error {
        Error::Strange {
            path: self.path.clone(),
        }
    }

    fn fault(&self, doing: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Io {
            doing,
            path,
            source,
        }
    }
}

async fn open(path: &Path) -> Result<Option<UnixStream>, Error> {
    let connected = match Place::of(path) {
        Ok(place) => UnixStream::connect(place.path()).await,
        Err(error) => Err(error.into()),
    };
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename => Ok(None),
            io::ErrorKind::PermissionDenied => Err(Error::Denied {
                path: path.to_owned(),
            }),
            _ => Err(Error::Io {
                doing: "reach the daemon",
                path: path.to_owned(),
                source: error,
            }),
        },
    }
}
