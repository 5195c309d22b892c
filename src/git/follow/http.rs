//! gix as a client over HTTP that somebody else speaks: the protocol here, the connection there.

use std::{
    any::Any,
    fmt,
    io::{self, BufRead, BufReader, Cursor, Read, Write},
    sync::{Arc, atomic::AtomicBool},
};

use gix::{
    ObjectId,
    protocol::transport::{
        Protocol,
        client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse, Transport},
    },
    remote::fetch::{Shallow, Tags},
};
use parking_lot::Mutex;

use super::{Error, TIP, fill, pack_dir, repository, set_tip, tip, write_shallow};

/// How HTTP is spoken with the upstream: proxy, TLS, credentials, time limits and redirects are
/// its matter.
pub trait Exchange: fmt::Debug + Send + Sync {
    /// Where the repository is, without credentials.
    fn url(&self) -> String;

    /// Sends a GET, or a POST with `body`, to `tail` below the repository's URL, and waits for the
    /// head of the answer. Only a success is an answer.
    ///
    /// # Errors
    /// Whatever went wrong; it becomes the source of [`Error::Unreachable`].
    fn ask(
        &self,
        tail: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
    ) -> io::Result<Reply>;
}

/// A successful answer.
pub struct Reply {
    /// Its `Content-Type`.
    pub content_type: String,
    /// Its body; an error of it is one of the upstream.
    pub body: Box<dyn Read + Send>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.content_type)
    }
}

/// Brings the newest commit of the upstream here.
pub(super) fn fetch(
    here: &gix::Repository,
    exchange: &Arc<dyn Exchange>,
    stop: &AtomicBool,
) -> Result<ObjectId, Error> {
    let failure = Arc::new(Mutex::new(None));
    let wire = Wire {
        exchange: Arc::clone(exchange),
        failure: Arc::clone(&failure),
    };
    // Told apart here, because what is wrong with the upstream is no reason to throw away what
    // came from it.
    fetch_by(here, wire, &exchange.url(), stop).map_err(|error| match failure.lock().take() {
        Some(source) => Error::Unreachable {
            what: exchange.url(),
            source: Box::new(source),
        },
        None => error,
    })
}

fn fetch_by(
    here: &gix::Repository,
    wire: Wire,
    url: &str,
    stop: &AtomicBool,
) -> Result<ObjectId, Error> {
    // What was fetched last is what the upstream may build on, and its parents are not here.
    write_shallow(here, tip(here))?;
    let spec = format!("+HEAD:{TIP}");
    let remote = here
        .remote_at_without_url_rewrite(url)
        .map_err(repository)?
        .with_fetch_tags(Tags::None)
        .with_refspecs(Some(spec.as_str()), gix::remote::Direction::Fetch)
        .map_err(repository)?;
    let parsed = gix::url::parse(url).map_err(repository)?;
    let transport = Transport::new_http(wire, parsed, Protocol::V2, false);
    let prepared = remote
        .to_connection_with_transport(transport)
        // Credentials are in the URL that the exchange has, or nowhere: nobody is asked.
        .with_credentials(|_action| Ok(None))
        .prepare_fetch(
            gix::progress::Discard,
            gix::remote::ref_map::Options::default(),
        )
        .map_err(repository)?;
    let mut head = prepared.ref_map().mappings.iter();
    let new = head
        .find_map(|mapping| mapping.remote.as_id())
        .ok_or(Error::NoHead)?
        .to_owned();
    if !here.has_object(new) {
        let depth = Shallow::DepthAtRemote(std::num::NonZeroU32::MIN);
        let outcome = prepared
            .with_shallow(depth)
            .receive(gix::progress::Discard, stop)
            .map_err(repository)?;
        if let gix::remote::fetch::Status::Change {
            write_pack_bundle, ..
        } = &outcome.status
        {
            fill::settle(&pack_dir(here.git_dir()), write_pack_bundle)?;
        }
    }
    set_tip(here, new)?;
    Ok(new)
}

/// What gix sees of HTTP.
struct Wire {
    exchange: Arc<dyn Exchange>,
    /// The first failure of the exchange, which gix would wrap beyond recognition.
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Wire {
    fn call(
        &self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        is_post: bool,
    ) -> Arc<Mutex<Call>> {
        let tail = url.strip_prefix(base_url).unwrap_or(url);
        let split = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let headers = headers.into_iter();
        Arc::new(Mutex::new(Call {
            exchange: Arc::clone(&self.exchange),
            failure: Arc::clone(&self.failure),
            tail: tail.trim_start_matches('/').to_owned(),
            headers: headers.filter_map(|line| split(line.as_ref())).collect(),
            body: is_post.then(Vec::new),
            reply: None,
        }))
    }
}

/// A request that is sent when its answer is first looked at: by then its body is whole.
struct Call {
    exchange: Arc<dyn Exchange>,
    failure: Arc<Mutex<Option<io::Error>>>,
    tail: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    reply: Option<Reply>,
}

impl Call {
    /// Sends it, if it was not sent, and gives what is left of the answer.
    fn reply(&mut self) -> io::Result<&mut Option<Reply>> {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let asked = self.exchange.ask(&tail, &self.headers, self.body.take());
            self.reply = Some(asked.map_err(|error| note(&self.failure, error))?);
        }
        Ok(&mut self.reply)
    }
}

/// Keeps an error where it will be looked for, and gives gix one that says the same.
fn note(place: &Mutex<Option<io::Error>>, error: io::Error) -> io::Error {
    let told = io::Error::new(error.kind(), error.to_string());
    place.lock().get_or_insert(error);
    told
}

/// The headers of an answer, a line each.
struct Headers {
    call: Arc<Mutex<Call>>,
    lines: Option<Cursor<Vec<u8>>>,
}

impl Headers {
    fn lines(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        if self.lines.is_none() {
            let mut call = self.call.lock();
            let kind = call
                .reply()?
                .as_ref()
                .map(|reply| reply.content_type.clone());
            let line = format!("content-type:{}\n", kind.unwrap_or_default());
            self.lines = Some(Cursor::new(line.into_bytes()));
        }
        Ok(self.lines.get_or_insert_default())
    }
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.lines()?.read(buffer)
    }
}

impl BufRead for Headers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.lines()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(lines) = &mut self.lines {
            lines.consume(amount);
        }
    }
}

/// The body of an answer.
struct Body {
    call: Arc<Mutex<Call>>,
    reader: Option<BufReader<Noting>>,
}

impl Body {
    fn reader(&mut self) -> io::Result<&mut BufReader<Noting>> {
        match &mut self.reader {
            Some(reader) => Ok(reader),
            reader => {
                let mut call = self.call.lock();
                let taken = call.reply()?.take();
                let body =
                    taken.map_or_else(|| Box::new(io::empty()) as Box<_>, |reply| reply.body);
                let noting = Noting {
                    body,
                    failure: Arc::clone(&call.failure),
                };
                Ok(reader.insert(BufReader::with_capacity(64 << 10, noting)))
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader()?.read(buffer)
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(reader) = &mut self.reader {
            reader.consume(amount);
        }
    }
}

/// A body whose failures are kept.
struct Noting {
    body: Box<dyn Read + Send>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Read for Noting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer);
        read.map_err(|error| note(&self.failure, error))
    }
}

/// The body of a request, kept until it is sent: some lines of wants and haves.
struct PostBody(Arc<Mutex<Call>>);

impl Write for PostBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(body) = &mut self.0.lock().body {
            body.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Http for Wire {
    type Headers = Headers;
    type ResponseBody = Body;
    type PostBody = PostBody;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<GetResponse<Headers, Body>, gix::Error> {
        let call = self.call(url, base_url, headers, false);
        Ok(answer(&call).into())
    }

    fn post(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> Result<PostResponse<Headers, Body, PostBody>, gix::Error> {
        Ok(answer(&self.call(url, base_url, headers, true)))
    }

    fn configure(&mut self, _config: &dyn Any) -> Result<(), gix::Error> {
        Ok(())
    }
}

fn answer(call: &Arc<Mutex<Call>>) -> PostResponse<Headers, Body, PostBody> {
    PostResponse {
        post_body: PostBody(Arc::clone(call)),
        headers: Headers {
            call: Arc::clone(call),
            lines: None,
        },
        body: Body {
            call: Arc::clone(call),
            reader: None,
        },
    }
}
