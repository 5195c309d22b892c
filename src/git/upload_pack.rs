//! The server side of fetch: bytes in, a plan out, without I/O; protocol versions 0, 1 and 2.
//!
//! Every request is whole and stands for itself (stateless RPC, which is what HTTP has). The
//! history is linear, so the newest commit that client and server have in common decides what is
//! missing, and nothing has to be walked:
//!
//! ```text
//! root ──── … ──── boundary ──── … ──── have ──── … ──── want ──── head
//!                  └ a shallow client's ┘         └ sent (and on to the head, which harms nobody)
//! ```
//!
//! What is answered, and in which order, is what git's own `upload-pack` answers; recorded talks
//! of real clients with it are in `tests/corpus/upload-pack` and compared byte for byte. Two
//! things differ on purpose: a client is told that this server is ready as soon as anything common
//! is known, also where a depth lies between, since that is enough here; and what git answers by
//! hanging up is answered with an error packet.
//!
//! Source: gitprotocol-pack, gitprotocol-v2, gitprotocol-http and gitprotocol-capabilities of
//! git, and its `upload-pack.c`.
#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

use super::{
    Head, ObjectId, Selection, Serving, Wishes,
    pkt::{self, Malformed, Packet, Sideband},
};

/// How many `want` lines a request may have. There are two refs, and a client names each once or
/// twice.
pub const MAX_WANTS: usize = 256;

/// How many `have` lines a request may have. Clients send some hundreds at a time; a body of
/// 16 MiB has room for this many.
pub const MAX_HAVES: usize = 335_544;

/// How many `shallow` lines a request may have: one for each time that a client fetched with a
/// new depth, and never more than there are commits.
pub const MAX_SHALLOWS: usize = 65_536;

/// The depth that clients ask for to get everything (`INFINITE_DEPTH` of git).
const INFINITE_DEPTH: u64 = 0x7fff_ffff;

/// The one branch.
const BRANCH: &str = "refs/heads/master";

const AGENT: &str = concat!("agent=orlop/", env!("CARGO_PKG_VERSION"));

/// What protocol 0 and 1 are told that this server can.
const CAPABILITIES: &str = "multi_ack thin-pack side-band side-band-64k ofs-delta shallow \
    deepen-relative no-progress include-tag multi_ack_detailed no-done";

/// The version of the protocol that a client asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// The oldest, where nothing else is asked for.
    #[default]
    V0,
    /// Version 0 with a line that says so.
    V1,
    /// Commands.
    V2,
}

impl Version {
    /// From the value of the `Git-Protocol` header: `version=2`, one of several keys with colons
    /// between. The highest known version counts.
    pub fn of_header(value: &[u8]) -> Version {
        let versions = value.split(|byte| *byte == b':').map(|key| match key {
            b"version=1" => Version::V1,
            b"version=2" => Version::V2,
            _ => Version::V0,
        });
        versions
            .max_by_key(|version| *version as u8)
            .unwrap_or_default()
    }
}

/// The commits there are, as far as a plan needs to know them.
pub trait History {
    /// The newest commit.
    fn head(&self) -> Option<Head>;
    /// The generation of a commit; `None`: it is not of this history.
    fn generation_of(&self, commit: &ObjectId) -> Option<u64>;
    /// The commit of a generation.
    fn commit_of(&self, generation: u64) -> Option<ObjectId>;
    /// The generation of the root commit.
    fn oldest(&self) -> Option<u64>;
}

impl History for Serving {
    fn head(&self) -> Option<Head> {
        Serving::head(self)
    }

    fn generation_of(&self, commit: &ObjectId) -> Option<u64> {
        Serving::generation_of(self, commit)
    }

    fn commit_of(&self, generation: u64) -> Option<ObjectId> {
        Serving::commit_of(self, generation)
    }

    fn oldest(&self) -> Option<u64> {
        Serving::oldest(self)
    }
}

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was asked.
    pub asked: Asked,
    /// The bytes that come first, or all there are.
    pub head: Vec<u8>,
    /// The pack that follows them; `None`: the answer is over.
    pub pack: Option<PackPlan>,
}

/// What a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The refs, in protocol 2.
    LsRefs,
    /// A pack, or what of it is missing.
    Fetch,
    /// Nothing that could be answered: the head is an error packet.
    Refused,
}

/// The pack of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackPlan {
    /// What is sent.
    pub selection: Selection,
    /// In which form.
    pub wishes: Wishes,
    /// How it is framed; `None`: not at all, it ends with the answer.
    pub sideband: Option<Sideband>,
    /// Whether the client shows messages while it waits.
    pub progress: bool,
}

/// Why a request is refused. The text goes to the client, whose user reads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("upload-pack: not our ref {0}")]
    NotOurs(ObjectId),
    #[error("upload-pack: {0}")]
    Malformed(#[from] Malformed),
    #[error("upload-pack: the request breaks off after {after}")]
    Ended { after: &'static str },
    #[error("upload-pack: expected {expected}, got '{got}'")]
    Unexpected { expected: &'static str, got: String },
    #[error("upload-pack: more than {most} {what} lines")]
    TooMany { most: usize, what: &'static str },
    #[error("upload-pack: {0} is not supported by this mirror; fetch with --depth, or in full")]
    Unsupported(&'static str),
    #[error("upload-pack: this repository has the object format sha1, not '{0}'")]
    ObjectFormat(String),
}

impl Refusal {
    fn unexpected(expected: &'static str, got: &[u8]) -> Refusal {
        /// Enough to recognise a line by.
        const SHOWN_CHARACTERS: usize = 100;
        let got = String::from_utf8_lossy(got);
        let got = got
            .chars()
            .map(|letter| if letter.is_control() { '?' } else { letter });
        Refusal::Unexpected {
            expected,
            got: got.take(SHOWN_CHARACTERS).collect(),
        }
    }
}

/// The answer to `info/refs?service=git-upload-pack`: the refs (0 and 1) or what the server can
/// do (2). A history without a commit is advertised as an empty repository.
pub fn advertise(history: &dyn History, version: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut line = |text: &str| pkt::write(&mut out, text.as_bytes());
    if version == Version::V2 {
        line("version 2\n");
        line(&format!("{AGENT}\n"));
        line("ls-refs=unborn\n");
        line("fetch=shallow\n");
        line("object-format=sha1\n");
        out.extend_from_slice(pkt::FLUSH);
        return out;
    }
    line("# service=git-upload-pack\n");
    out.extend_from_slice(pkt::FLUSH);
    let mut line = |text: &str| pkt::write(&mut out, text.as_bytes());
    if version == Version::V1 {
        line("version 1\n");
    }
    if let Some(Head { id, .. }) = history.head() {
        line(&format!(
            "{id} HEAD\0{CAPABILITIES} symref=HEAD:{BRANCH} object-format=sha1 {AGENT}\n"
        ));
        line(&format!("{id} {BRANCH}\n"));
    } else {
        let none = ObjectId::null(gix::hash::Kind::Sha1);
        line(&format!(
            "{none} capabilities^{{}}\0{CAPABILITIES} object-format=sha1 {AGENT}\n"
        ));
    }
    out.extend_from_slice(pkt::FLUSH);
    out
}

/// The answer to `info/refs?service=git-upload-pack` where there is nothing to advertise; clients
/// of every version show the text as the word of the server.
pub fn refuse(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    pkt::write(&mut out, b"# service=git-upload-pack\n");
    out.extend_from_slice(pkt::FLUSH);
    pkt::write_error(&mut out, text);
    out
}

/// The answer to one `POST git-upload-pack`, whose body has come whole.
pub fn answer(history: &dyn History, version: Version, body: &[u8]) -> Answer {
    let lines = Lines::new(body);
    let answered = match version {
        Version::V0 | Version::V1 => fetch_v0(history, lines),
        Version::V2 => command(history, lines),
    };
    answered.unwrap_or_else(|refusal| {
        let mut head = Vec::new();
        pkt::write_error(&mut head, &refusal.to_string());
        Answer {
            asked: Asked::Refused,
            head,
            pack: None,
        }
    })
}

/// The lines of a request, without their line feeds.
struct Lines<'a> {
    reader: pkt::Reader<'a>,
}

/// A line, or one of the marks between lines.
enum Item<'a> {
    Line(&'a [u8]),
    Flush,
    Delim,
}

impl<'a> Lines<'a> {
    fn new(body: &'a [u8]) -> Lines<'a> {
        Lines {
            reader: pkt::Reader::new(body),
        }
    }

    /// The next one; that there is none is an error of the client's.
    fn next(&mut self, after: &'static str) -> Result<Item<'a>, Refusal> {
        match self.reader.packet()? {
            None => Err(Refusal::Ended { after }),
            Some(Packet::Flush) => Ok(Item::Flush),
            Some(Packet::Delim) => Ok(Item::Delim),
            Some(Packet::ResponseEnd) => Err(Refusal::unexpected("a line", b"0002")),
            Some(Packet::Data(data)) => Ok(Item::Line(data.strip_suffix(b"\n").unwrap_or(data))),
        }
    }

    /// The next line of a part that a flush ends; `None`: it has ended.
    fn until_flush(&mut self, part: &'static str) -> Result<Option<&'a [u8]>, Refusal> {
        match self.next(part)? {
            Item::Line(line) => Ok(Some(line)),
            Item::Flush => Ok(None),
            Item::Delim => Err(Refusal::unexpected("a line or a flush", b"0001")),
        }
    }
}

fn object_id(hex: &[u8]) -> Result<ObjectId, Refusal> {
    ObjectId::from_hex(hex).map_err(|_invalid| Refusal::unexpected("an object id", hex))
}

// ---- what both protocols ask for

/// What a client wants, has, and has in part, in generations of ours.
struct Needs<'a> {
    history: &'a dyn History,
    wants: BTreeSet<u64>,
    want_lines: usize,
    have_lines: usize,
    /// The newest commit of ours that the client has.
    newest_have: Option<u64>,
    /// What the client is known to have: haves, and the parents of haves.
    known: BTreeSet<u64>,
    /// Where the client's history ends, in the order of its lines.
    shallows: Vec<u64>,
    shallow_set: BTreeSet<u64>,
    shallow_lines: usize,
    depth: Option<u64>,
    relative: bool,
    wishes: Wishes,
    no_progress: bool,
}

/// A commit of ours that the client has, too.
struct Common {
    generation: u64,
    /// Whether it was not clear from an earlier one.
    is_news: bool,
}

impl<'a> Needs<'a> {
    fn new(history: &'a dyn History) -> Needs<'a> {
        Needs {
            history,
            wants: BTreeSet::new(),
            want_lines: 0,
            have_lines: 0,
            newest_have: None,
            known: BTreeSet::new(),
            shallows: Vec::new(),
            shallow_set: BTreeSet::new(),
            shallow_lines: 0,
            depth: None,
            relative: false,
            wishes: Wishes::default(),
            no_progress: false,
        }
    }

    /// Any commit of ours may be wanted: a client may have seen the head of a moment ago.
    fn want(&mut self, hex: &[u8]) -> Result<(), Refusal> {
        count(&mut self.want_lines, MAX_WANTS, "want")?;
        let id = object_id(hex)?;
        let generation = self.history.generation_of(&id);
        self.wants.insert(generation.ok_or(Refusal::NotOurs(id))?);
        Ok(())
    }

    /// `None`: it is not ours.
    fn have(&mut self, hex: &[u8]) -> Result<Option<Common>, Refusal> {
        count(&mut self.have_lines, MAX_HAVES, "have")?;
        let Some(generation) = self.history.generation_of(&object_id(hex)?) else {
            return Ok(None);
        };
        let is_news = self.known.insert(generation);
        if let Some(parent) = generation.checked_sub(1) {
            self.known.insert(parent);
        }
        self.newest_have = self.newest_have.max(Some(generation));
        Ok(Some(Common {
            generation,
            is_news,
        }))
    }

    /// Takes the lines about depth; `false`: this is none of them.
    fn shallow_line(&mut self, line: &[u8]) -> Result<bool, Refusal> {
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            count(&mut self.shallow_lines, MAX_SHALLOWS, "shallow")?;
            let generation = self.history.generation_of(&object_id(hex)?);
            if let Some(generation) = generation.filter(|known| self.shallow_set.insert(*known)) {
                self.shallows.push(generation);
            }
        } else if let Some(depth) = line.strip_prefix(b"deepen ") {
            let parsed = std::str::from_utf8(depth)
                .ok()
                .and_then(|text| text.parse().ok());
            let depth = parsed.filter(|depth| *depth > 0);
            self.depth = Some(depth.ok_or_else(|| Refusal::unexpected("a depth", line))?);
        } else if line.starts_with(b"deepen-since ") {
            return Err(Refusal::Unsupported("deepen-since"));
        } else if line.starts_with(b"deepen-not ") {
            return Err(Refusal::Unsupported("deepen-not"));
        } else if line.starts_with(b"filter ") {
            return Err(Refusal::Unsupported("a filter"));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn newest_want(&self) -> u64 {
        self.wants.last().copied().unwrap_or_default()
    }

    /// Where the client's history will end; `None`: it will be whole.
    fn boundary(&self) -> Option<u64> {
        let nearest = self
            .shallow_set
            .range(..=self.newest_want())
            .next_back()
            .copied();
        let root = self.history.oldest()?;
        let boundary = match self.depth {
            None => return nearest,
            Some(depth) if depth >= INFINITE_DEPTH => None,
            Some(depth) if self.relative => nearest?.checked_sub(depth),
            Some(depth) => self.wants.first()?.checked_sub(depth.saturating_sub(1)),
        };
        boundary.filter(|boundary| *boundary >= root)
    }

    /// What the client is told of its new boundary, as lines; `None`: it asked for no depth.
    fn shallow_info(&self) -> Option<Vec<String>> {
        let depth = self.depth?;
        let boundary = self.boundary();
        let is_everything = depth >= INFINITE_DEPTH;
        let mut lines = Vec::new();
        let mut tell = |word: &str, generation: u64| {
            let id = self.history.commit_of(generation);
            lines.extend(id.map(|id| format!("{word} {id}")));
        };
        if let Some(boundary) = boundary.filter(|new| !self.shallow_set.contains(new)) {
            tell("shallow", boundary);
        }
        let reached = |shallow: u64| {
            shallow <= self.newest_want() && boundary.is_none_or(|boundary| shallow > boundary)
        };
        for shallow in &self.shallows {
            if is_everything || reached(*shallow) {
                tell("unshallow", *shallow);
            }
        }
        Some(lines)
    }

    /// The objects to send. What is newer than the wanted commit comes along.
    fn selection(&self) -> Selection {
        let boundary = self.boundary();
        let Some(have) = self.newest_have else {
            return match boundary {
                None => Selection::History { have: None },
                Some(oldest) => Selection::Shallow {
                    oldest,
                    have: Vec::new(),
                },
            };
        };
        if self.shallow_lines == 0 && boundary.is_none() {
            return Selection::History { have: Some(have) };
        }
        // A client has all from a commit that it names down to where its history ends.
        let has_from = self.shallow_set.range(..=have).next_back().copied();
        if boundary.unwrap_or(0) >= has_from.unwrap_or(0) {
            return Selection::Shallow {
                oldest: boundary.unwrap_or(0).max(have.saturating_add(1)),
                have: vec![have],
            };
        }
        match boundary {
            None => Selection::History { have: None },
            Some(oldest) => {
                let ends: BTreeSet<u64> = has_from.into_iter().chain([have]).collect();
                Selection::Shallow {
                    oldest,
                    have: ends.into_iter().collect(),
                }
            }
        }
    }

    fn plan(&self, sideband: Option<Sideband>) -> PackPlan {
        PackPlan {
            selection: self.selection(),
            wishes: self.wishes,
            sideband,
            progress: !self.no_progress,
        }
    }

    fn id(&self, generation: u64) -> String {
        let id = self.history.commit_of(generation);
        id.map_or_else(String::new, |id| id.to_string())
    }
}

fn count(lines: &mut usize, most: usize, what: &'static str) -> Result<(), Refusal> {
    *lines = lines.saturating_add(1);
    if *lines > most {
        return Err(Refusal::TooMany { most, what });
    }
    Ok(())
}

// ---- protocol 0 and 1

/// How common commits are told of, in protocol 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MultiAck {
    None,
    Plain,
    Detailed,
}

/// What a client of protocol 0 named behind its wants.
struct Features {
    multi_ack: MultiAck,
    no_done: bool,
    sideband: Option<Sideband>,
}

fn fetch_v0(history: &dyn History, mut lines: Lines<'_>) -> Result<Answer, Refusal> {
    let mut needs = Needs::new(history);
    let mut features = Features {
        multi_ack: MultiAck::None,
        no_done: false,
        sideband: None,
    };
    while let Some(line) = lines.until_flush("wants")? {
        if !needs.shallow_line(line)? {
            want_v0(line, &mut needs, &mut features)?;
        }
    }
    let mut answer = Answer {
        asked: Asked::Fetch,
        head: Vec::new(),
        pack: None,
    };
    if needs.wants.is_empty() {
        return Ok(answer);
    }
    if let Some(info) = needs.shallow_info() {
        for line in info {
            pkt::write(&mut answer.head, line.as_bytes());
        }
        answer.head.extend_from_slice(pkt::FLUSH);
    }
    // A client that asks for a depth reads the new boundary first, and comes again.
    let is_over = lines.reader.is_at_end();
    if !is_over && negotiate_v0(&mut lines, &mut needs, &features, &mut answer.head)? {
        answer.pack = Some(needs.plan(features.sideband));
    }
    Ok(answer)
}

fn want_v0(line: &[u8], needs: &mut Needs<'_>, features: &mut Features) -> Result<(), Refusal> {
    let rest = line
        .strip_prefix(b"want ")
        .ok_or_else(|| Refusal::unexpected("a want", line))?;
    let mut words = rest.split(|byte| *byte == b' ');
    needs.want(words.next().unwrap_or_default())?;
    for word in words {
        match word {
            b"multi_ack_detailed" => features.multi_ack = MultiAck::Detailed,
            b"multi_ack" if features.multi_ack == MultiAck::None => {
                features.multi_ack = MultiAck::Plain;
            }
            b"no-done" => features.no_done = true,
            b"side-band-64k" => features.sideband = Some(Sideband::Large),
            b"side-band" if features.sideband.is_none() => {
                features.sideband = Some(Sideband::Small);
            }
            b"deepen-relative" => needs.relative = true,
            _ => feature(word, needs)?,
        }
    }
    Ok(())
}

/// A feature that both protocols have; one that is not known asks for nothing.
fn feature(word: &[u8], needs: &mut Needs<'_>) -> Result<(), Refusal> {
    match word {
        b"thin-pack" => needs.wishes.thin_pack = true,
        b"ofs-delta" => needs.wishes.ofs_delta = true,
        b"no-progress" => needs.no_progress = true,
        _ => object_format(word)?,
    }
    Ok(())
}

fn object_format(word: &[u8]) -> Result<(), Refusal> {
    match word.strip_prefix(b"object-format=") {
        Some(format) if format != b"sha1" => Err(Refusal::ObjectFormat(
            String::from_utf8_lossy(format).chars().take(20).collect(),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Acknowledges what is common; `true`: a pack follows. As in git, the first flush ends a request:
/// the client comes again with what it has learnt.
fn negotiate_v0(
    lines: &mut Lines<'_>,
    needs: &mut Needs<'_>,
    features: &Features,
    out: &mut Vec<u8>,
) -> Result<bool, Refusal> {
    let mut line = |text: String| pkt::write(out, text.as_bytes());
    let (mut last, mut got_other, mut sent_ready) = (None, false, false);
    loop {
        let word = match lines.next("haves")? {
            Item::Line(word) => word,
            Item::Delim => return Err(Refusal::unexpected("a have", b"0001")),
            Item::Flush => {
                let last = last.map(|generation| needs.id(generation));
                let detailed = features.multi_ack == MultiAck::Detailed;
                if let Some(last) = last.as_ref().filter(|_| detailed && !got_other) {
                    sent_ready = true;
                    line(format!("ACK {last} ready\n"));
                }
                if last.is_none() || features.multi_ack != MultiAck::None {
                    line("NAK\n".to_owned());
                }
                let ends = last.filter(|_| features.no_done && sent_ready);
                if let Some(last) = &ends {
                    line(format!("ACK {last}\n"));
                }
                return Ok(ends.is_some());
            }
        };
        if let Some(hex) = word.strip_prefix(b"have ") {
            let Some(common) = needs.have(hex)? else {
                got_other = true;
                // Enough is known already: the client may stop naming what only it has.
                if last.is_some() {
                    let hex = String::from_utf8_lossy(hex);
                    match features.multi_ack {
                        MultiAck::None => {}
                        MultiAck::Plain => line(format!("ACK {hex} continue\n")),
                        MultiAck::Detailed => {
                            sent_ready = true;
                            line(format!("ACK {hex} ready\n"));
                        }
                    }
                }
                continue;
            };
            let id = needs.id(common.generation);
            match features.multi_ack {
                MultiAck::None if last.is_none() => line(format!("ACK {id}\n")),
                MultiAck::None => {}
                MultiAck::Plain => line(format!("ACK {id} continue\n")),
                MultiAck::Detailed => line(format!("ACK {id} common\n")),
            }
            last = Some(common.generation);
        } else if word == b"done" {
            match last {
                None => line("NAK\n".to_owned()),
                Some(_) if features.multi_ack == MultiAck::None => {}
                Some(last) => line(format!("ACK {}\n", needs.id(last))),
            }
            return Ok(true);
        } else {
            return Err(Refusal::unexpected("a have or done", word));
        }
    }
}

// ---- protocol 2

fn command(history: &dyn History, mut lines: Lines<'_>) -> Result<Answer, Refusal> {
    if lines.reader.is_at_end() {
        return Err(Refusal::Ended { after: "nothing" });
    }
    let mut command = None;
    let has_arguments = loop {
        match lines.next("capabilities")? {
            Item::Flush => break false,
            Item::Delim => break true,
            Item::Line(line) => match line.strip_prefix(b"command=") {
                Some(name) => command = Some(name),
                // Agents and session ids ask for nothing.
                None => object_format(line)?,
            },
        }
    };
    match command {
        Some(b"ls-refs") => ls_refs(history, lines, has_arguments),
        Some(b"fetch") => fetch_v2(history, lines, has_arguments),
        Some(other) => Err(Refusal::unexpected("the command ls-refs or fetch", other)),
        None => Err(Refusal::unexpected("a command", b"none")),
    }
}

fn ls_refs(
    history: &dyn History,
    mut lines: Lines<'_>,
    has_arguments: bool,
) -> Result<Answer, Refusal> {
    let (mut symrefs, mut unborn) = (false, false);
    // `None`: no prefix was named, all refs are asked for.
    let mut asked_for: Option<(bool, bool)> = None;
    while let Some(line) = arguments(&mut lines, has_arguments)? {
        match line {
            // There are no tags, so nothing peels.
            b"peel" => {}
            b"symrefs" => symrefs = true,
            b"unborn" => unborn = true,
            _ => {
                let prefix = line
                    .strip_prefix(b"ref-prefix ")
                    .ok_or_else(|| Refusal::unexpected("an argument of ls-refs", line))?;
                let (head, branch) = asked_for.get_or_insert((false, false));
                *head |= b"HEAD".starts_with(prefix);
                *branch |= BRANCH.as_bytes().starts_with(prefix);
            }
        }
    }
    let (with_head, with_branch) = asked_for.unwrap_or((true, true));
    let target = if symrefs {
        format!(" symref-target:{BRANCH}")
    } else {
        String::new()
    };
    let mut head = Vec::new();
    let mut line = |text: String| pkt::write(&mut head, text.as_bytes());
    match history.head() {
        Some(Head { id, .. }) => {
            if with_head {
                line(format!("{id} HEAD{target}\n"));
            }
            if with_branch {
                line(format!("{id} {BRANCH}\n"));
            }
        }
        None if unborn && with_head => line(format!("unborn HEAD{target}\n")),
        None => {}
    }
    head.extend_from_slice(pkt::FLUSH);
    Ok(Answer {
        asked: Asked::LsRefs,
        head,
        pack: None,
    })
}

fn arguments<'a>(lines: &mut Lines<'a>, has_arguments: bool) -> Result<Option<&'a [u8]>, Refusal> {
    if has_arguments {
        lines.until_flush("arguments")
    } else {
        Ok(None)
    }
}

fn fetch_v2(
    history: &dyn History,
    mut lines: Lines<'_>,
    has_arguments: bool,
) -> Result<Answer, Refusal> {
    let mut needs = Needs::new(history);
    let (mut done, mut common) = (false, Vec::new());
    while let Some(line) = arguments(&mut lines, has_arguments)? {
        if let Some(hex) = line.strip_prefix(b"want ") {
            needs.want(hex)?;
        } else if let Some(hex) = line.strip_prefix(b"have ") {
            let news = needs.have(hex)?.filter(|common| common.is_news);
            common.extend(news.map(|common| common.generation));
        } else if line == b"done" {
            done = true;
        } else if line == b"deepen-relative" {
            needs.relative = true;
        } else if !needs.shallow_line(line)? {
            argument(line, &mut needs)?;
        }
    }
    let mut answer = Answer {
        asked: Asked::Fetch,
        head: Vec::new(),
        pack: None,
    };
    if needs.wants.is_empty() {
        return Ok(answer);
    }
    let head = &mut answer.head;
    if needs.have_lines > 0 && !done && !acknowledge(&needs, &common, head) {
        return Ok(answer);
    }
    tell_shallow(&needs, head);
    pkt::write(head, b"packfile\n");
    answer.pack = Some(needs.plan(Some(Sideband::Large)));
    Ok(answer)
}

fn argument(line: &[u8], needs: &mut Needs<'_>) -> Result<(), Refusal> {
    match line {
        b"thin-pack" | b"ofs-delta" | b"no-progress" => feature(line, needs),
        // There are no tags.
        b"include-tag" => Ok(()),
        _ => Err(Refusal::unexpected("an argument of fetch", line)),
    }
}

/// The section of acknowledgments; `true`: the pack follows in the same answer.
fn acknowledge(needs: &Needs<'_>, common: &[u64], out: &mut Vec<u8>) -> bool {
    pkt::write(out, b"acknowledgments\n");
    for generation in common {
        pkt::write(out, format!("ACK {}\n", needs.id(*generation)).as_bytes());
    }
    if common.is_empty() {
        pkt::write(out, b"NAK\n");
        out.extend_from_slice(pkt::FLUSH);
        return false;
    }
    pkt::write(out, b"ready\n");
    out.extend_from_slice(pkt::DELIM);
    true
}

/// The section about depth. A client that named a boundary gets one even if nothing changes.
fn tell_shallow(needs: &Needs<'_>, out: &mut Vec<u8>) {
    if needs.depth.is_none() && needs.shallows.is_empty() {
        return;
    }
    pkt::write(out, b"shallow-info\n");
    for line in needs.shallow_info().unwrap_or_default() {
        pkt::write(out, line.as_bytes());
    }
    out.extend_from_slice(pkt::DELIM);
}
