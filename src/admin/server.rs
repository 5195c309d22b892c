//! The daemon's side: takes requests, has the mirror run them, and tells how they go.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::Mode,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Daemon, Error, HEAD_LEN, Head, Hello, Line, MOST_BODY_BYTES, MOST_FILES, Order, PROTOCOL,
    Reloaded, VERSION, ancillary, place::Place,
};
use crate::jobs::{Caller, Fault, Files, JobError, JobRequest, Jobs, Outbox, ReportJson};
use crate::util::task;

/// Who may write to the socket may use it: the daemon's user and group.
const SOCKET_MODE: u32 = 0o660;

/// Connections at once. Each is a person or a script; a request of 64 MiB each would take 1 GiB.
const MOST_CONNECTIONS: usize = 16;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// How long a whole request may take to arrive: it comes from this machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client may take to read the last words. Before those it may sleep for days.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(20);

/// Between two batches of events.
const EVENT_PAUSE: Duration = Duration::from_millis(100);

/// How long nobody is accepted after the system gave no descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The socket, listening. Dropping it takes the socket away.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    data: String,
}

/// The socket in the file system, which goes when this is dropped, unless another took its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "could not remove the admin socket");
        }
    }
}

impl Server {
    /// Listens at `path` for the store in `data`, whose lock this process has: a socket that
    /// nobody answers at is left from an unclean stop and is replaced.
    ///
    /// # Errors
    /// [`Error::Taken`], [`Error::NotASocket`], [`Error::TooLong`], [`Error::Io`].
    pub fn bind(path: &Path, data: &Path) -> Result<Server, Error> {
        let fault = |doing: &'static str| {
            let path = path.to_owned();
            move |source: io::Error| Error::Io {
                doing,
                path,
                source,
            }
        };
        let place = Place::of(path).map_err(|error| match error {
            Errno::NAMETOOLONG => Error::TooLong {
                path: path.to_owned(),
            },
            error => fault("listen")(error.into()),
        })?;
        clear(path, place.path())?;
        let listener = listen(place.path()).map_err(fault("listen"))?;
        let file = fs::symlink_metadata(path).map_err(fault("look"))?;
        let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
        Ok(Server {
            listener,
            file: SocketFile {
                path: path.to_owned(),
                device: file.dev(),
                inode: file.ino(),
            },
            data: data.display().to_string(),
        })
    }

    /// Takes requests to `jobs` and `daemon` until `stop` says so, then takes the socket away and
    /// waits for the jobs under way, whose clients are told how they end.
    ///
    /// # Errors
    /// Where the runtime does not take the socket.
    pub async fn run(
        self,
        jobs: Jobs,
        daemon: Arc<dyn Daemon>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let Server {
            listener,
            file,
            data,
        } = self;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut open = JoinSet::new();
        while !*stop.borrow() {
            tokio::select! {
                changed = stop.changed() => if changed.is_err() { break },
                Some(_ended) = open.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let place = Arc::clone(&places).try_acquire_owned().ok();
                        let jobs = jobs.clone();
                        let hello = Hello {
                            protocol: PROTOCOL,
                            orlop: VERSION.to_owned(),
                            data: data.clone(),
                            http: daemon.reached(),
                        };
                        let daemon = Arc::clone(&daemon);
                        open.spawn(async move {
                            attend(stream, &jobs, &daemon, hello, place.is_some()).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not accept at the admin socket");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop((listener, file));
        while open.join_next().await.is_some() {}
        Ok(())
    }
}

/// Removes what an unclean stop left.
fn clear(path: &Path, short: &Path) -> Result<(), Error> {
    let Ok(file) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let path = path.to_owned();
    if !file.file_type().is_socket() {
        return Err(Error::NotASocket { path });
    }
    // Another daemon, with another store, could have been given the same path.
    match std::os::unix::net::UnixStream::connect(short) {
        Ok(_) => Err(Error::Taken { path }),
        Err(_) => fs::remove_file(short).map_err(|source| Error::Io {
            doing: "replace what an earlier run left",
            path,
            source,
        }),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name, so that it never is more open than it should be, whatever the umask;
    // and again, because the umask may have taken the group's part.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// Who is at the other end, as the kernel tells it.
fn caller(stream: &UnixStream) -> Caller {
    let Ok(peer) = stream.peer_cred() else {
        return Caller::other("an unknown user");
    };
    let name = match peer.pid() {
        Some(pid) => format!("user {} (process {pid})", peer.uid()),
        None => format!("user {}", peer.uid()),
    };
    if is_owner(peer.uid(), rustix::process::geteuid().as_raw()) {
        Caller::owner(name)
    } else {
        Caller::other(name)
    }
}

fn is_owner(user: u32, ours: u32) -> bool {
    user == ours || user == 0
}

/// One connection: one job.
async fn attend(
    mut stream: UnixStream,
    jobs: &Jobs,
    daemon: &Arc<dyn Daemon>,
    hello: Hello,
    has_place: bool,
) {
    let caller = caller(&stream);
    if say(&mut stream, &Line::Hello(hello)).await.is_err() {
        return;
    }
    let job = if has_place {
        match timeout(REQUEST_TIMEOUT, receive(&mut stream)).await {
            Ok(job) => job,
            Err(_late) => Err(refused("the request did not arrive in time")),
        }
    } else {
        Err(JobError::new(
            Fault::Unavailable,
            "too many commands talk to the daemon at the same time",
        )
        .hint("wait until some of them are over"))
    };
    let last = match job {
        // It only wanted to know whether somebody is there.
        Ok(None) => return,
        Ok(Some((Wanted::Job(request), files))) => {
            let ended = run(&mut stream, jobs, caller, *request, files).await;
            ended.map(|report| Line::Report(Box::new(report)))
        }
        Ok(Some((Wanted::Order(Order::Reload), _files))) => {
            let reloaded = reload(daemon, &caller).await;
            reloaded.map(Line::Reloaded)
        }
        Err(error) => {
            tracing::info!(
                "refuses a request of {} at the admin socket: {error}",
                caller.name()
            );
            Err(error)
        }
    };
    let last = last.unwrap_or_else(Line::Error);
    // Nobody may be there to hear it.
    if let Err(error) = say(&mut stream, &last).await {
        tracing::debug!(%error, "the client of the admin socket did not hear the end");
    }
}

fn refused(why: &str) -> JobError {
    JobError::new(Fault::Usage, format!("could not take the request: {why}"))
}

fn broken(error: &io::Error) -> JobError {
    refused("the connection broke").because(error)
}

async fn say(stream: &mut UnixStream, line: &Line) -> io::Result<()> {
    let bytes = encoded([line])?;
    let written = timeout(LAST_WORDS_TIMEOUT, stream.write_all(&bytes)).await;
    written.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()))
}

fn encoded<'a>(lines: impl IntoIterator<Item = &'a Line>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// What a client asks, before its version was looked at.
#[derive(Deserialize)]
struct Asked<'a> {
    orlop: String,
    #[serde(borrow)]
    request: &'a RawValue,
}

/// What a client asks.
enum Wanted {
    Job(Box<JobRequest>),
    Order(Order),
}

/// Reads a request; `None`: none came. Nothing is set aside for it before it is there.
async fn receive(stream: &mut UnixStream) -> Result<Option<(Wanted, Files)>, JobError> {
    let Some((head, files)) = receive_head(stream).await? else {
        return Ok(None);
    };
    let mut body = Vec::new();
    let mut bounded = (&mut *stream).take(head.body_len);
    let read = bounded.read_to_end(&mut body).await;
    read.map_err(|error| broken(&error))?;
    if body.len() as u64 != head.body_len {
        return Err(refused("it ended in its middle"));
    }
    let asked: Asked<'_> = serde_json::from_slice(&body)
        .map_err(|error| refused("it is no request of orlop").because(&error))?;
    if asked.orlop != VERSION {
        return Err(other_version(&asked.orlop));
    }
    if let Ok(order) = serde_json::from_str(asked.request.get()) {
        return Ok(Some((Wanted::Order(order), files)));
    }
    let no_job = "it is no job that this daemon knows";
    let request: Box<JobRequest> = serde_json::from_str(asked.request.get())
        .map_err(|error| refused(no_job).because(&error))?;
    request
        .check()
        .map_err(|error| refused(no_job).because(&error))?;
    Ok(Some((Wanted::Job(request), files)))
}

/// Off this thread, which has others to answer. It goes on where nobody waits any more.
async fn reload(daemon: &Arc<dyn Daemon>, caller: &Caller) -> Result<Reloaded, JobError> {
    let (daemon, caller) = (Arc::clone(daemon), caller.name().to_owned());
    task::blocking(move || daemon.reload(&caller)).await?
}

fn other_version(theirs: &str) -> JobError {
    let theirs: String = theirs.chars().take(40).collect();
    refused(&format!(
        "this daemon is orlop {VERSION}, and the command is orlop {theirs}"
    ))
    .hint("restart the daemon after an update, or run the orlop that it runs")
}

async fn receive_head(stream: &UnixStream) -> Result<Option<(Head, Files)>, JobError> {
    let mut bytes = [0; HEAD_LEN];
    let mut files = Files::new();
    let mut filled = 0;
    while filled < HEAD_LEN {
        let received = stream.async_io(Interest::READABLE, || {
            let rest = bytes.get_mut(filled..).unwrap_or_default();
            ancillary::receive(stream, rest, &mut files)
        });
        match received.await {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(refused("it ended in its middle")),
            Ok(count) => filled += count,
            Err(error) => return Err(broken(&error)),
        }
    }
    let head = Head::read(&bytes).ok_or_else(|| refused("it does not begin as one"))?;
    if head.protocol != PROTOCOL {
        return Err(other_version(&format!(
            "with protocol {} of this socket",
            head.protocol
        )));
    }
    if head.body_len > MOST_BODY_BYTES {
        return Err(refused("it is larger than 64 MiB"));
    }
    if head.files as usize != files.len() || files.len() > MOST_FILES {
        return Err(refused("another number of files came than it says"));
    }
    Ok(Some((head, files)))
}

/// Runs the job while its client is told how it goes, and cancels it when the client goes.
async fn run(
    stream: &mut UnixStream,
    jobs: &Jobs,
    caller: Caller,
    request: JobRequest,
    files: Files,
) -> Result<ReportJson, JobError> {
    let outbox = Arc::new(Outbox::default());
    let cancelled = CancellationToken::new();
    let cx = outbox.context(caller, &cancelled).with_files(files);
    let (mut reader, mut writer) = stream.split();

    let telling = async {
        while let Some(events) = outbox.take().await {
            let lines: Vec<Line> = events.into_iter().map(Line::Event).collect();
            let Ok(bytes) = encoded(&lines) else { continue };
            let written = tokio::select! {
                written = writer.write_all(&bytes) => written,
                () = outlasted(&outbox) => Err(io::ErrorKind::TimedOut.into()),
            };
            if written.is_err() {
                cancelled.cancel();
                return;
            }
            tokio::select! {
                () = sleep(EVENT_PAUSE) => {}
                () = outbox.closed() => {}
            }
        }
    };
    let working = async {
        let job = jobs.run_request(request, cx);
        let mut job = std::pin::pin!(job);
        let outcome = tokio::select! {
            outcome = &mut job => outcome,
            // The end of the stream, or a word where none should be.
            _gone = reader.read_u8() => {
                cancelled.cancel();
                job.await
            }
        };
        outbox.close();
        outcome
    };
    let (outcome, ()) = tokio::join!(working, telling);
    outcome
}

/// Ends when the job is over for so long that its client should have read all.
async fn outlasted(outbox: &Outbox) {
    outbox.closed().await;
    sleep(LAST_WORDS_TIMEOUT).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_for_the_user_of_the_daemon_and_root() {
        assert!(is_owner(7, 7));
        assert!(is_owner(0, 7));
        assert!(!is_owner(8, 7));
        assert!(!is_owner(8, 0));
    }
}
