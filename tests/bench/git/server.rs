//! Two small HTTP servers: over a repository of orlop's, and in front of `git http-backend`.
//!
//! They serve what a client of smart HTTP asks for, on loopback, a thread a connection. The first
//! is there for when the whole of orlop is not wanted; the second is less than what nginx and
//! fcgiwrap would be, in git's favour.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use flate2::read::GzDecoder;
use orlop::git::{
    Repo,
    frames::Frames,
    upload_pack::{self, Version},
};

/// A request with its whole body.
#[derive(Default)]
struct Request {
    method: String,
    path: String,
    query: String,
    protocol: String,
    content_type: String,
    body: Vec<u8>,
}

/// Serves a repository of orlop's at any path.
pub(crate) fn orlop(dir: &Path) -> anyhow::Result<()> {
    let (repo, _report) = super::fill::open(dir)?;
    listen(move |request, stream| answer(&repo, request, stream))
}

/// Serves the repositories in a folder with `git http-backend`.
pub(crate) fn http_backend(root: &Path) -> anyhow::Result<()> {
    let exec_path = Command::new("git").arg("--exec-path").output()?.stdout;
    let program = PathBuf::from(String::from_utf8(exec_path)?.trim()).join("git-http-backend");
    let root = root.canonicalize()?;
    listen(move |request, stream| cgi(&program, &root, request, stream))
}

fn listen(
    answer: impl Fn(&Request, &mut TcpStream) -> anyhow::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on http://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (mut stream, answer) = (stream?, answer.clone());
        std::thread::spawn(move || {
            let answered = read(&stream).and_then(|request| answer(&request, &mut stream));
            if let Err(error) = answered {
                // A client that leaves early is none of the server's business.
                drop(writeln!(io::stderr(), "{error:#}"));
            }
        });
    }
    Ok(())
}

fn read(stream: &TcpStream) -> anyhow::Result<Request> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().context("no method")?.to_owned(),
        ..Request::default()
    };
    let (path, query) = {
        let target = words.next().context("no target")?;
        target.split_once('?').unwrap_or((target, ""))
    };
    (request.path, request.query) = (path.to_owned(), query.to_owned());
    let (mut length, mut is_gzip) = (0, false);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            "content-encoding" => is_gzip = value.ends_with("gzip"),
            "content-type" => request.content_type.push_str(value),
            "git-protocol" => request.protocol.push_str(value),
            _ => {}
        }
    }
    let body = stream.take(length);
    if is_gzip {
        GzDecoder::new(body).read_to_end(&mut request.body)?;
    } else {
        { body }.read_to_end(&mut request.body)?;
    }
    Ok(request)
}

fn answer(repo: &Repo, request: &Request, stream: &mut TcpStream) -> anyhow::Result<()> {
    let version = Version::of_header(request.protocol.as_bytes());
    let serving = repo.serving();
    let kind = match request.method.as_str() {
        "GET" => "advertisement",
        _ => "result",
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-{kind}\r\n\
         connection: close\r\n\r\n"
    )?;
    if request.method == "GET" {
        stream.write_all(&upload_pack::advertise(&*serving, version))?;
        return Ok(());
    }
    let answer = upload_pack::answer(&*serving, version, &request.body);
    stream.write_all(&answer.head)?;
    if let Some(plan) = answer.pack {
        let pack = serving.pack(&plan.selection, plan.wishes)?;
        let mut frames = Frames::new(pack, plan.sideband, None);
        while let Some(piece) = frames.piece() {
            stream.write_all(&piece)?;
        }
    }
    Ok(())
}

fn cgi(
    program: &Path,
    root: &Path,
    request: &Request,
    stream: &mut TcpStream,
) -> anyhow::Result<()> {
    let mut child = Command::new(program)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", &request.protocol)
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", &request.content_type)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("git http-backend")?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(&request.body)?;
    let mut output = BufReader::with_capacity(1 << 17, child.stdout.take().context("stdout")?);
    write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n")?;
    io::copy(&mut output, stream)?;
    // Waited for before the connection closes, so that its processor time is counted by then.
    child.wait()?;
    Ok(())
}
