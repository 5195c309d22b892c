//! The first bytes of a connection, and what they ask for; pure.
//!
//! Cargo (libcurl) offers `Upgrade: h2c` on every plain request. RFC 7540 §3.2 makes the request
//! that carried the offer stream 1 of the new connection. No h2 library lets a server begin with
//! a stream that is half over, so the request is written once more as the HEADERS frame that the
//! client would have sent: header fields as literals without indexing, which leave the dynamic
//! table of the decoder as empty as the client believes it to be.
//!
//! The settings inside `HTTP2-Settings` are checked and then left aside: the client must open
//! with a SETTINGS frame in any case, that frame is waited for before the synthesized HEADERS
//! frame is let in, and libcurl puts the same values in both.

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery};

use super::acceptor::Protocol;

/// The most bytes a first request head may have; what nginx and most others allow is 8 to 32 KiB.
pub(super) const HEAD_LIMIT: usize = 16 * 1024;

/// What a client of HTTP/2 opens with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The answer that accepts the offer.
pub(super) const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";

/// The most a frame may carry before a peer has allowed more (RFC 7540 §4.2).
const FRAME_LIMIT: usize = 16_384;

/// As many header fields as actix reads.
const FIELDS_LIMIT: usize = 96;

/// Fields that speak of one connection only and are not carried over into HTTP/2.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "content-length", // zero, or there would be no upgrade
    "host",           // becomes `:authority`
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// What the first bytes of a connection ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The head is not complete.
    NeedMore,
    /// HTTP/1.1: `head` stands in for the first `taken` bytes (both are empty where nothing needs
    /// to be changed), all others follow as they came.
    Http1 {
        /// The head without the offer.
        head: Bytes,
        /// How many bytes it replaces.
        taken: usize,
    },
    /// The offer of h2c is good: answer [`SWITCHING`], drop the first `taken` bytes, and let
    /// `headers` in behind the client's preface and SETTINGS.
    Upgrade {
        /// A HEADERS frame for stream 1.
        headers: Bytes,
        /// The length of the request head.
        taken: usize,
    },
    /// HTTP/2 by prior knowledge.
    Http2,
    /// The head is longer than [`HEAD_LIMIT`].
    TooLarge,
    /// No HTTP at all (TLS, for one).
    Bad,
}

/// What the bytes after a `101` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Preface and SETTINGS are not complete.
    NeedMore,
    /// They end after so many bytes.
    Ready(usize),
    /// They are something else.
    Bad,
}

/// Decides on the first bytes of a connection; how they were split on their way never matters.
pub(super) fn decide(seen: &[u8], protocol: Protocol) -> Decision {
    let is_undecided = protocol == Protocol::Undecided;
    if is_undecided && seen.starts_with(PREFACE) {
        return Decision::Http2;
    }
    if is_undecided && PREFACE.starts_with(seen) {
        return Decision::NeedMore;
    }
    // Empty lines before a request are to be passed over (RFC 9112 §2.2).
    let blank = seen
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    let rest = seen.get(blank..).unwrap_or_default();
    if rest.first().is_some_and(|&byte| !is_token_byte(byte)) {
        return Decision::Bad;
    }
    match head_end(rest).map(|end| blank + end) {
        Some(end) if end <= HEAD_LIMIT => judge(seen.get(..end).unwrap_or_default(), is_undecided),
        _ if seen.len() > HEAD_LIMIT => Decision::TooLarge,
        _ => Decision::NeedMore,
    }
}

/// Decides on the bytes that follow a `101`.
pub(super) fn opening(seen: &[u8]) -> Opening {
    let Some(frame) = seen.strip_prefix(PREFACE) else {
        return if PREFACE.starts_with(seen) {
            Opening::NeedMore
        } else {
            Opening::Bad
        };
    };
    let &[l1, l2, l3, kind, flags, s1, s2, s3, s4, ..] = frame else {
        return Opening::NeedMore;
    };
    let length = usize::from(l1) << 16 | usize::from(l2) << 8 | usize::from(l3);
    let is_settings = kind == 4 && flags & 1 == 0 && [s1 & 0x7f, s2, s3, s4] == [0; 4];
    if !is_settings || length % 6 != 0 || length > FRAME_LIMIT {
        return Opening::Bad;
    }
    let end = PREFACE.len() + 9 + length;
    if seen.len() < end {
        Opening::NeedMore
    } else {
        Opening::Ready(end)
    }
}

/// Where the empty line that ends a head ends; httparse takes a bare line feed for a line end.
fn head_end(rest: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let found = rest.get(from..)?.iter().position(|&byte| byte == b'\n')?;
        from += found + 1;
        match rest.get(from..)? {
            [b'\n', ..] => return Some(from + 1),
            [b'\r', b'\n', ..] => return Some(from + 2),
            _ => {}
        }
    }
}

/// Decides on a complete head. What httparse does not read, actix refuses in its own words.
fn judge(head: &[u8], may_upgrade: bool) -> Decision {
    let as_it_came = Decision::Http1 {
        head: Bytes::new(),
        taken: 0,
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_LIMIT];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return as_it_came,
    }
    let request = Head(&request);
    if !request.offers_h2c() {
        return as_it_came;
    }
    let taken = head.len();
    match request.to_headers_frame().filter(|_| may_upgrade) {
        Some(headers) => Decision::Upgrade { headers, taken },
        None => Decision::Http1 {
            head: request.without_offer(),
            taken,
        },
    }
}

/// A parsed head and the questions asked of it.
struct Head<'a>(&'a httparse::Request<'a, 'a>);

impl<'a> Head<'a> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let fields = self.0.headers.iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    /// The value of a field that is there exactly once.
    fn only(&self, name: &'static str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether the list in a field holds a token.
    fn lists(&self, name: &'static str, token: &str) -> bool {
        self.values(name)
            .flat_map(tokens)
            .any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }

    fn offers_h2c(&self) -> bool {
        self.lists("upgrade", "h2c")
    }

    /// Whether the offer follows RFC 7540 §3.2 and the request has no body and nothing about it
    /// that HTTP/1.1 had better judge.
    fn is_acceptable(&self) -> bool {
        self.0.version == Some(1)
            && matches!(self.0.method, Some("GET" | "HEAD"))
            && self.lists("connection", "upgrade")
            && self.lists("connection", "http2-settings")
            && !self.lists("connection", "close")
            && self.only("http2-settings").is_some_and(is_settings)
            && self.values("transfer-encoding").next().is_none()
            && self.values("content-length").all(|value| value == b"0")
            && self.values("expect").next().is_none()
    }

    /// The request as a HEADERS frame; none if it is not acceptable or too long for one frame.
    fn to_headers_frame(&self) -> Option<Bytes> {
        if !self.is_acceptable() {
            return None;
        }
        // An absolute target is for a proxy, an asterisk for OPTIONS: HTTP/1.1 answers those.
        let path = self.0.path.filter(|path| path.starts_with('/'))?;
        PathAndQuery::try_from(path).ok()?;
        let host = self.only("host")?;
        Authority::try_from(host)
            .ok()
            .filter(|found| !found.as_str().contains('@'))?;

        let mut block = BytesMut::with_capacity(1024);
        put_field(&mut block, b":method", self.0.method?.as_bytes());
        put_field(&mut block, b":scheme", b"http");
        put_field(&mut block, b":authority", host);
        put_field(&mut block, b":path", path.as_bytes());
        for field in self.0.headers.iter() {
            let name = field.name.to_ascii_lowercase();
            if self.is_end_to_end(&name, field.value) {
                put_field(&mut block, name.as_bytes(), field.value);
            }
        }
        headers_frame(&block)
    }

    fn is_end_to_end(&self, name: &str, value: &[u8]) -> bool {
        !HOP_BY_HOP.contains(&name)
            && (name != "te" || value.eq_ignore_ascii_case(b"trailers"))
            && !self.lists("connection", name)
    }

    /// The head without the offer: actix would close the connection after its answer otherwise.
    fn without_offer(&self) -> Bytes {
        let mut head = BytesMut::with_capacity(1024);
        let method = self.0.method.unwrap_or_default();
        let path = self.0.path.unwrap_or_default();
        let version = self.0.version.unwrap_or_default();
        put_all(
            &mut head,
            &[method.as_bytes(), b" ", path.as_bytes(), b" HTTP/1."],
        );
        head.put_u8(b'0' + version);
        head.put_slice(b"\r\n");
        for field in self.0.headers.iter() {
            let name = field.name.as_bytes();
            if is_any(name, &["upgrade", "http2-settings"]) {
                continue;
            }
            if !is_any(name, &["connection"]) {
                put_all(&mut head, &[name, b": ", field.value, b"\r\n"]);
                continue;
            }
            let kept = tokens(field.value).filter(|t| !is_any(t, &["upgrade", "http2-settings"]));
            for token in kept {
                put_all(&mut head, &[b"connection: ", token, b"\r\n"]);
            }
        }
        head.put_slice(b"\r\n");
        head.freeze()
    }
}

fn is_any(name: &[u8], names: &[&str]) -> bool {
    names
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a value is base64url of whole settings, which are six bytes each.
fn is_settings(value: &[u8]) -> bool {
    let digits = value
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |last| last + 1);
    let value = value.get(..digits).unwrap_or_default();
    let decoded = digits * 3 / 4;
    digits % 4 != 1
        && decoded % 6 == 0
        && value
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// HEADERS for stream 1, with the flags `END_STREAM` and `END_HEADERS`.
fn headers_frame(block: &[u8]) -> Option<Bytes> {
    if block.len() > FRAME_LIMIT {
        return None; // CONTINUATION is more than such a request is worth
    }
    let length = u32::try_from(block.len()).ok()?;
    let mut frame = BytesMut::with_capacity(9 + block.len());
    frame.put_uint(u64::from(length), 3);
    frame.put_slice(&[1, 0x1 | 0x4, 0, 0, 0, 1]);
    frame.put_slice(block);
    Some(frame.freeze())
}

/// A literal without indexing, name and value without Huffman code (RFC 7541 §6.2.2).
fn put_field(block: &mut BytesMut, name: &[u8], value: &[u8]) {
    block.put_u8(0);
    put_string(block, name);
    put_string(block, value);
}

/// A string with its length as an integer of seven bits prefix (RFC 7541 §5.1, §5.2).
fn put_string(block: &mut BytesMut, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.put_u8(low_bits(length));
    } else {
        block.put_u8(127);
        length -= 127;
        while length >= 128 {
            block.put_u8(low_bits(length) | 0x80);
            length >>= 7;
        }
        block.put_u8(low_bits(length));
    }
    block.put_slice(text);
}

fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or_default()
}

fn put_all(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.put_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What cargo's libcurl sends.
    const OFFER: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n";

    fn decide(seen: &[u8]) -> Decision {
        super::decide(seen, Protocol::Undecided)
    }

    fn head(start: &str, fields: &str) -> Vec<u8> {
        format!("{start}\r\n{fields}\r\n").into_bytes()
    }

    fn offering(start: &str, fields: &str) -> Vec<u8> {
        head(start, &format!("Host: mirror:8080\r\n{fields}{OFFER}"))
    }

    /// The request in the frame, as a server of the h2 library reads it.
    fn read_by_h2(headers: &[u8]) -> Option<http::Request<()>> {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let opening = [PREFACE, &settings, headers].concat();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(256 * 1024);
            tokio::io::AsyncWriteExt::write_all(&mut client, &opening)
                .await
                .unwrap();
            let mut connection = h2::server::handshake(server).await.unwrap();
            let (request, respond) = connection.accept().await?.ok()?;
            assert_eq!(respond.stream_id().as_u32(), 1);
            let (parts, body) = request.into_parts();
            assert!(body.is_end_stream(), "a body would follow");
            Some(http::Request::from_parts(parts, ()))
        })
    }

    fn upgraded(head: &[u8]) -> http::Request<()> {
        match decide(head) {
            Decision::Upgrade { headers, taken } => {
                assert_eq!(taken, head.len());
                read_by_h2(&headers).expect("h2 refuses it")
            }
            other => panic!("{other:?} for {}", String::from_utf8_lossy(head)),
        }
    }

    fn fields_of(request: &http::Request<()>) -> Vec<(String, String)> {
        let fields = request.headers().iter();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        fields
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields
            .iter()
            .map(|&(name, value)| (name.into(), value.into()))
            .collect()
    }

    #[test]
    fn the_offer_of_cargo_becomes_the_same_request_on_stream_1() {
        let request = upgraded(&offering(
            "GET /index/se/rd/serde?x=1 HTTP/1.1",
            "User-Agent: cargo/1.95.0\r\nAccept: */*\r\nAccept-Encoding: deflate, gzip\r\nIf-None-Match: \"a\"\r\n",
        ));
        assert_eq!(request.method(), "GET");
        assert_eq!(request.uri(), "http://mirror:8080/index/se/rd/serde?x=1");
        assert_eq!(
            fields_of(&request),
            pairs(&[
                ("user-agent", "cargo/1.95.0"),
                ("accept", "*/*"),
                ("accept-encoding", "deflate, gzip"),
                ("if-none-match", "\"a\""),
            ])
        );
    }

    #[test]
    fn fields_of_the_connection_stay_behind() {
        let request = upgraded(&offering(
            "HEAD / HTTP/1.1",
            "TE: gzip\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nContent-Length: 0\r\nConnection: X-Own, x-list\r\nX-Own: 1\r\nX-List: 1\r\nX-Kept: a\r\nX-Kept: b\r\n",
        ));
        assert_eq!(request.method(), "HEAD");
        assert_eq!(
            fields_of(&request),
            pairs(&[("x-kept", "a"), ("x-kept", "b")])
        );
        let request = upgraded(&offering("GET / HTTP/1.1", "TE: trailers\r\n"));
        assert_eq!(fields_of(&request), pairs(&[("te", "trailers")]));
    }

    #[test]
    fn long_fields_keep_their_length() {
        for length in [0, 1, 126, 127, 128, 254, 255, 256, 4096, 16_000] {
            let value = "v".repeat(length);
            let request = upgraded(&offering("GET / HTTP/1.1", &format!("X-Long: {value}\r\n")));
            assert_eq!(request.headers()["x-long"], *value, "{length}");
        }
    }

    /// What stays on HTTP/1.1 has to lose the offer and nothing else.
    #[test]
    fn offers_that_cannot_be_taken_are_stripped() {
        let host = "Host: m\r\n";
        let one = "HTTP2-Settings: AAMAAABk\r\n";
        let both = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n";
        for (start, fields, left) in [
            ("POST / HTTP/1.1", format!("{host}{both}{one}"), host),
            ("GET / HTTP/1.0", format!("{host}{both}{one}"), host),
            ("GET http://m/ HTTP/1.1", format!("{host}{both}{one}"), host),
            ("OPTIONS * HTTP/1.1", format!("{host}{both}{one}"), host),
            ("GET / HTTP/1.1", format!("{both}{one}"), ""),
            (
                "GET / HTTP/1.1",
                format!("{host}{host}{both}{one}"),
                "Host: m\r\nHost: m\r\n",
            ),
            (
                "GET / HTTP/1.1",
                format!("Host: \r\n{both}{one}"),
                "Host: \r\n",
            ),
            (
                "GET / HTTP/1.1",
                format!("Host: a@b\r\n{both}{one}"),
                "Host: a@b\r\n",
            ),
            ("GET / HTTP/1.1", format!("{host}{both}"), host),
            ("GET / HTTP/1.1", format!("{host}{both}{one}{one}"), host),
            (
                "GET / HTTP/1.1",
                format!("{host}{both}HTTP2-Settings: AAMAAAB\r\n"),
                host,
            ),
            (
                "GET / HTTP/1.1",
                format!("{host}{both}HTTP2-Settings: AAM/AABk\r\n"),
                host,
            ),
            (
                "GET / HTTP/1.1",
                format!("{host}Upgrade: h2c\r\n{one}"),
                host,
            ),
            (
                "GET / HTTP/1.1",
                format!("{host}Connection: Upgrade\r\nUpgrade: h2c\r\n{one}"),
                host,
            ),
            (
                "GET / HTTP/1.1",
                format!("{host}{both}{one}Connection: close\r\n"),
                "Host: m\r\nconnection: close\r\n",
            ),
            (
                "GET / HTTP/1.1",
                format!("{host}{both}{one}Content-Length: 5\r\n"),
                "Host: m\r\nContent-Length: 5\r\n",
            ),
            (
                "GET / HTTP/1.1",
                format!("{host}{both}{one}Transfer-Encoding: chunked\r\n"),
                "Host: m\r\nTransfer-Encoding: chunked\r\n",
            ),
        ] {
            let sent = head(start, &fields);
            let expected = Decision::Http1 {
                head: head(start, left).into(),
                taken: sent.len(),
            };
            assert_eq!(decide(&sent), expected, "{start} {fields}");
        }
    }

    #[test]
    fn the_longest_head_still_fits_a_frame() {
        let short = offering("GET / HTTP/1.1", "X: \r\n").len();
        let value = "v".repeat(HEAD_LIMIT - short);
        let longest = offering("GET / HTTP/1.1", &format!("X: {value}\r\n"));
        assert_eq!(longest.len(), HEAD_LIMIT);
        assert_eq!(upgraded(&longest).headers()["x"], *value);
        assert_eq!(headers_frame(&vec![0; FRAME_LIMIT + 1]), None);
    }

    #[test]
    fn ordinary_heads_are_left_as_they_came() {
        let as_it_came = Decision::Http1 {
            head: Bytes::new(),
            taken: 0,
        };
        for sent in [
            "GET / HTTP/1.1\r\nHost: m\r\n\r\n",
            "\r\n\nGET / HTTP/1.1\nHost: m\n\nand a body",
            "GET / HTTP/1.1\r\nHost: m\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            "GET / HTTP/9\r\n\r\n",
        ] {
            assert_eq!(decide(sent.as_bytes()), as_it_came, "{sent}");
        }
    }

    #[test]
    fn where_http1_was_agreed_on_there_is_no_upgrade() {
        let sent = offering("GET / HTTP/1.1", "");
        let expected = Decision::Http1 {
            head: head("GET / HTTP/1.1", "Host: mirror:8080\r\n").into(),
            taken: sent.len(),
        };
        assert_eq!(super::decide(&sent, Protocol::Http1), expected);
        let preface = super::decide(PREFACE, Protocol::Http1);
        assert!(matches!(preface, Decision::Http1 { taken: 0, .. }));
    }

    #[test]
    fn sizes_and_starts_are_judged() {
        assert_eq!(decide(b""), Decision::NeedMore);
        assert_eq!(
            decide(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"),
            Decision::NeedMore
        );
        assert_eq!(decide(PREFACE), Decision::Http2);
        assert_eq!(decide(&[0x16, 3, 1]), Decision::Bad);
        assert_eq!(decide(&vec![b'\n'; HEAD_LIMIT + 1]), Decision::TooLarge);
        assert_eq!(decide(&vec![b'a'; HEAD_LIMIT]), Decision::NeedMore);
        assert_eq!(decide(&vec![b'a'; HEAD_LIMIT + 1]), Decision::TooLarge);
        let late = head(
            "GET / HTTP/1.1",
            &format!("X: {}\r\n", "x".repeat(HEAD_LIMIT)),
        );
        assert_eq!(decide(&late), Decision::TooLarge);
    }

    #[test]
    fn the_opening_after_a_101_is_preface_and_settings() {
        let ready = [PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0]].concat();
        assert_eq!(opening(&ready), Opening::Ready(ready.len()));
        assert_eq!(
            opening(&[&ready[..], b"more"].concat()),
            Opening::Ready(ready.len())
        );
        for end in 0..ready.len() {
            assert_eq!(opening(&ready[..end]), Opening::NeedMore, "{end}");
        }
        for frame in [
            [0, 0, 6, 1, 0, 0, 0, 0, 0], // another kind
            [0, 0, 0, 4, 1, 0, 0, 0, 0], // an acknowledgement
            [0, 0, 6, 4, 0, 0, 0, 0, 1], // on a stream
            [0, 0, 5, 4, 0, 0, 0, 0, 0], // no whole settings
            [1, 0, 2, 4, 0, 0, 0, 0, 0], // too long
        ] {
            assert_eq!(
                opening(&[PREFACE, &frame].concat()),
                Opening::Bad,
                "{frame:?}"
            );
        }
        assert_eq!(opening(b"GET / HTTP/1.1\r\n\r\n"), Opening::Bad);
    }

    /// Bytes that look enough like a request to get far.
    fn almost_a_request() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("GET "),
            Just("PRI * HTTP/2.0\r\n\r\n"),
            Just("/a?b "),
            Just("HTTP/1.1"),
            Just("\r\n"),
            Just("\n"),
            Just("Host: m"),
            Just("Upgrade: h2c"),
            Just("Connection: "),
            Just("Upgrade"),
            Just(", "),
            Just("HTTP2-Settings"),
            Just(": AAMAAABk"),
            Just("Content-Length: 0"),
            Just("\r\n\r\n"),
            Just("\u{e9}"),
            Just("te: trailers"),
        ];
        let pieces = prop::collection::vec(piece, 0..40).prop_map(|all| all.concat().into_bytes());
        let valid = "[ -~]{0,30}".prop_map(|x| offering("GET / HTTP/1.1", &format!("X: {x}\r\n")));
        prop_oneof![prop::collection::vec(any::<u8>(), 0..200), pieces, valid]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(seen in almost_a_request()) {
            decide(&seen);
            opening(&seen);
            opening(&[PREFACE, &seen].concat());
        }

        #[test]
        fn more_bytes_never_change_a_decision(seen in almost_a_request(), more in almost_a_request()) {
            let decided = (0..=seen.len()).map(|end| decide(&seen[..end]));
            if let Some(first) = decided.into_iter().find(|decision| *decision != Decision::NeedMore) {
                prop_assert_eq!(decide(&[&seen[..], &more].concat()), first);
            }
        }

        #[test]
        fn an_upgraded_request_is_read_as_it_was_meant(
            path in "/[a-zA-Z0-9/._~%-]{0,40}",
            fields in prop::collection::vec(("x-[a-z0-9-]{1,20}", "[!-~]([ -~]{0,200}[!-~])?"), 0..20),
        ) {
            let lines: Vec<_> = fields.iter().map(|(n, v)| [&n.to_ascii_uppercase(), ": ", v, "\r\n"].concat()).collect();
            let lines = lines.concat();
            let request = upgraded(&offering(&format!("GET {path} HTTP/1.1"), &lines));
            prop_assert_eq!(request.uri().path(), path);
            prop_assert_eq!(request.uri().authority().unwrap(), "mirror:8080");
            let mut sent = fields;
            let mut read = fields_of(&request);
            sent.sort();
            read.sort();
            prop_assert_eq!(read, sent);
        }
    }
}
