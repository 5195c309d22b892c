//! Parts: a bundle cut to fit its media, and put together again.
//!
//! ```text
//! orlop part format 1\n     20
//! id of the bundle          32
//! number, from 1             4
//! the next bytes of the bundle
//! 1: the last part, else 0   1
//! sha256 of all before      32
//! ```
//!
//! So a part that is missing, of another bundle, or altered is told by its name. The parts are read
//! in the order of their numbers, whatever the order they are named in.
#![warn(clippy::arithmetic_side_effects)]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt as _,
};

use super::{
    error::Error,
    format::{BUNDLE, Id, Manifest, first_line, id_of, read_array, read_first_line},
    section::PIECE_BYTES,
};
use crate::{
    mirror::jobs::JobError,
    registry::{Checksum, checksum::Hasher},
};

const WORDS: &str = "orlop part format ";
const WHAT: &str = "a part of a bundle";
const HEAD_BYTES: u64 = 56;
const TAIL_BYTES: u64 = 33;

/// The smallest part that is made: a thousand of them still fit on a screen.
pub const MIN_PART_BYTES: u64 = 4096;

/// Cuts the bundle that comes from `input` into parts of at most `size` bytes, each into the file
/// that `open` makes for its number. All of them are on the disk on return. Returns how many there
/// are.
///
/// # Errors
/// Where the bundle does not begin like one, or a part cannot be written.
pub fn split(
    mut input: impl Read,
    size: u64,
    open: &mut dyn FnMut(u32) -> io::Result<File>,
) -> Result<u32, JobError> {
    split_all(&mut input, size, open).map_err(|error| error.into_job("write the parts"))
}

fn split_all(
    input: &mut impl Read,
    size: u64,
    open: &mut dyn FnMut(u32) -> io::Result<File>,
) -> Result<u32, Error> {
    let (id, start) = peek(input)?;
    let mut input = Ahead::of(start.as_slice().chain(input))?;
    let room = size
        .max(MIN_PART_BYTES)
        .saturating_sub(HEAD_BYTES + TAIL_BYTES);
    let mut number: u32 = 1;
    loop {
        let mut part = PartWriter::begin(open(number).map_err(Error::writing)?, id, number)?;
        let is_last = part.fill(&mut input, room)?;
        part.finish(is_last)?;
        if is_last {
            return Ok(number);
        }
        number = number.saturating_add(1);
    }
}

/// Reads the manifest, and gives it back as it stood there.
fn peek(input: &mut impl Read) -> Result<(Id, Vec<u8>), Error> {
    let (_manifest, signed) = Manifest::read(input)?;
    Ok((id_of(&signed), signed))
}

/// Knows whether anything follows.
struct Ahead<R> {
    input: R,
    next: Option<u8>,
}

impl<R: Read> Ahead<R> {
    fn of(input: R) -> Result<Ahead<R>, Error> {
        let mut ahead = Ahead { input, next: None };
        ahead.look()?;
        Ok(ahead)
    }

    fn look(&mut self) -> Result<(), Error> {
        let mut byte = [0; 1];
        let read = loop {
            match self.input.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(Error::reading("the bundle"))?,
            }
        };
        self.next = (read > 0).then_some(byte[0]);
        Ok(())
    }

    /// Up to `most` bytes; empty: that was all.
    fn take(&mut self, most: u64) -> Result<Vec<u8>, Error> {
        let Some(first) = self.next.take() else {
            return Ok(Vec::new());
        };
        let mut piece = vec![first];
        let rest = (&mut self.input).take(most.saturating_sub(1));
        let mut rest = rest;
        rest.read_to_end(&mut piece)
            .map_err(Error::reading("the bundle"))?;
        self.look()?;
        Ok(piece)
    }
}

struct PartWriter {
    file: File,
    hasher: Hasher,
}

impl PartWriter {
    fn begin(file: File, id: Id, number: u32) -> Result<PartWriter, Error> {
        let mut part = PartWriter {
            file,
            hasher: Hasher::default(),
        };
        part.put(first_line(WORDS).as_bytes())?;
        part.put(id.as_bytes())?;
        part.put(&number.to_le_bytes())?;
        Ok(part)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::writing)
    }

    /// Returns whether that was the end of the bundle.
    fn fill<R: Read>(&mut self, input: &mut Ahead<R>, room: u64) -> Result<bool, Error> {
        let mut left = room;
        while left > 0 && input.next.is_some() {
            let piece = input.take(left.min(PIECE_BYTES as u64))?;
            self.put(&piece)?;
            left = left.saturating_sub(piece.len() as u64);
        }
        Ok(input.next.is_none())
    }

    fn finish(mut self, is_last: bool) -> Result<(), Error> {
        self.put(&[u8::from(is_last)])?;
        let sum = self.hasher.clone().finish();
        self.file
            .write_all(sum.as_bytes())
            .and_then(|()| self.file.sync_all())
            .map_err(Error::writing)
    }
}

/// A file that was named as a part of a bundle.
#[derive(Debug)]
struct Part {
    name: String,
    file: File,
    id: Id,
    number: u32,
    content_bytes: u64,
    is_last: bool,
}

impl Part {
    fn open(name: String, file: File) -> Result<Part, Error> {
        let mut head = vec![0; usize::try_from(HEAD_BYTES).unwrap_or_default()];
        let total = file.metadata().map_err(Error::reading(&name))?.len();
        let read = read_at_most(&file, &mut head).map_err(Error::reading(&name))?;
        let mut head = head.get(..read).unwrap_or_default();
        read_first_line(&mut head, WORDS, WHAT)?;
        let id = Checksum::from_bytes(read_array(&mut head, WHAT)?);
        let number = u32::from_le_bytes(read_array(&mut head, WHAT)?);
        let content_bytes = total
            .checked_sub(HEAD_BYTES + TAIL_BYTES)
            .ok_or_else(|| Error::truncated(WHAT))?;
        let mut last = [0; 1];
        file.read_exact_at(&mut last, HEAD_BYTES.saturating_add(content_bytes))
            .map_err(Error::reading(&name))?;
        Ok(Part {
            name,
            file,
            id,
            number,
            content_bytes,
            is_last: last == [1],
        })
    }
}

impl Part {
    /// Whether it is as it was made.
    fn is_whole(&self) -> bool {
        let Ok(file) = self.file.try_clone() else {
            return false;
        };
        let alone = Part {
            name: self.name.clone(),
            file,
            ..*self
        };
        Joined::new(vec![alone]).finish_part().is_ok()
    }
}

fn read_at_most(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(room) = buffer.get_mut(read..).filter(|room| !room.is_empty()) {
        let more = file.read_at(room, read as u64)?;
        if more == 0 {
            break;
        }
        read = read.saturating_add(more);
    }
    Ok(read)
}

/// A bundle that is read from one file, or from its parts.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Plain(File),
    Parts(Joined),
}

impl Source {
    /// A bundle that nothing is known of yet, such as a pipe.
    pub fn plain(file: File) -> Source {
        Source {
            kind: Kind::Plain(file),
        }
    }

    /// A bundle of these files: the whole of it, or all its parts in any order.
    ///
    /// # Errors
    /// Where a part is missing, named twice, of another bundle, or no part.
    pub fn open(mut files: Vec<(String, File)>) -> Result<Source, JobError> {
        if files.len() == 1
            && let Some((name, file)) = files.pop()
        {
            if is_whole(&file) {
                return Ok(Source::plain(file));
            }
            files.push((name, file));
        }
        let mut parts = Vec::new();
        for (name, file) in files {
            let told = name.clone();
            let part = Part::open(name, file)
                .map_err(|error| error.into_job(&format!("use `{told}` as a part of a bundle")))?;
            parts.push(part);
        }
        parts.sort_by_key(|part| part.number);
        check_all(&parts).map_err(|error| error.into_job("put the parts together"))?;
        Ok(Source {
            kind: Kind::Parts(Joined::new(parts)),
        })
    }

    /// The file, where the bundle is in one: then nothing has to be put together.
    ///
    /// # Errors
    /// The source itself, where it is in parts.
    pub fn into_file(self) -> Result<File, Box<Source>> {
        match self.kind {
            Kind::Plain(file) => Ok(file),
            Kind::Parts(_) => Err(Box::new(self)),
        }
    }

    /// Puts the bundle into `out`, from its first byte to its last, or until nobody takes it.
    ///
    /// # Errors
    /// Where a part is altered or cannot be read.
    pub fn feed(&mut self, mut out: impl Write) -> Result<(), JobError> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match &mut self.kind {
                Kind::Plain(file) => file.read(&mut piece).map_err(Error::reading("the bundle")),
                Kind::Parts(joined) => joined.next(&mut piece),
            };
            let read = read.map_err(|error| error.into_job("read the bundle"))?;
            let taken = out.write_all(piece.get(..read).unwrap_or_default());
            if read == 0 || taken.is_err() {
                // Whoever does not take it says why.
                return Ok(());
            }
        }
    }

    /// Looks whether the part that was read last was altered, by reading the rest of it: a bundle
    /// that breaks in the middle of a part is told by the part's name.
    pub fn blame(&mut self) -> Option<JobError> {
        match &mut self.kind {
            Kind::Plain(_) => None,
            Kind::Parts(joined) => {
                let damage = joined.finish_part().err()?;
                Some(damage.into_job("read the bundle"))
            }
        }
    }
}

fn is_whole(file: &File) -> bool {
    let mut start = vec![0; BUNDLE.len()];
    match read_at_most(file, &mut start) {
        // A pipe, a device: whatever it is, it is read from its start.
        Err(_) => true,
        Ok(read) => {
            let start = start.get(..read).unwrap_or_default();
            !WORDS.as_bytes().starts_with(start) && !start.starts_with(WORDS.as_bytes())
        }
    }
}

fn check_all(parts: &[Part]) -> Result<(), Error> {
    let Some(first) = parts.first() else {
        return Err(Error::truncated(WHAT));
    };
    let wrong = |why: String| Err(Error::Parts(why));
    // Where the last part is here, it tells how many there are.
    let all = match parts.iter().rfind(|part| part.is_last) {
        Some(last) => format!("name all its {} parts", last.number),
        None => "name all its parts".to_owned(),
    };
    if let Some(why) = other_split(parts) {
        return wrong(why);
    }
    for (part, number) in parts.iter().zip(1u32..) {
        if part.id != first.id {
            return wrong(format!(
                "`{}` is of another bundle than `{}`",
                part.name, first.name
            ));
        }
        if part.number < number {
            return wrong(format!("part {} is named twice", part.number));
        }
        if part.number > number {
            return wrong(format!("part {number} of the bundle is missing: {all}"));
        }
    }
    match parts.iter().rposition(|part| part.is_last) {
        Some(last) if last.saturating_add(1) == parts.len() => Ok(()),
        _ => wrong(format!(
            "part {} of the bundle is missing: {all}",
            parts.len().saturating_add(1)
        )),
    }
}

/// A part of this bundle that was cut another time: all but the last of a split are of one size. A
/// part that was damaged since is none, and told when it is read.
fn other_split(parts: &[Part]) -> Option<String> {
    let last = parts.last()?.number;
    let one = parts.iter().find(|part| !part.is_last)?;
    let fits = |part: &&Part| {
        if part.is_last {
            part.content_bytes <= one.content_bytes && part.number == last
        } else {
            part.content_bytes == one.content_bytes
        }
    };
    let same = parts.iter().filter(|part| part.id == one.id);
    let other = same.clone().find(|part| !fits(part))?;
    let is_whole = [one, other].into_iter().all(Part::is_whole);
    is_whole.then(|| {
        format!(
            "`{}` belongs to another split of the bundle than `{}`",
            other.name, one.name
        )
    })
}

/// The parts one after the other.
#[derive(Debug)]
struct Joined {
    /// The first of them is being read.
    parts: std::collections::VecDeque<Part>,
    hasher: Hasher,
    /// Where in the part the next byte is.
    at: u64,
    left: u64,
}

impl Joined {
    fn new(parts: Vec<Part>) -> Joined {
        let mut joined = Joined {
            parts: parts.into(),
            hasher: Hasher::default(),
            at: 0,
            left: 0,
        };
        joined.begin();
        joined
    }

    fn begin(&mut self) {
        let Some(part) = self.parts.front() else {
            return;
        };
        self.hasher = Hasher::default();
        self.hasher.update(first_line(WORDS).as_bytes());
        self.hasher.update(part.id.as_bytes());
        self.hasher.update(&part.number.to_le_bytes());
        self.at = HEAD_BYTES;
        self.left = part.content_bytes;
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let Some(part) = self.parts.front() else {
            return Ok(0);
        };
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let room = buffer.get_mut(..most).unwrap_or_default();
        let read = part
            .file
            .read_at(room, self.at)
            .map_err(Error::reading(&part.name))?;
        if read == 0 && most > 0 {
            return Err(Error::truncated(format!("`{}`", part.name)));
        }
        self.hasher.update(room.get(..read).unwrap_or_default());
        self.at = self.at.saturating_add(read as u64);
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }

    /// The next bytes of the bundle; 0: that was all.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        while self.left == 0 && !self.parts.is_empty() {
            self.finish_part()?;
            self.parts.pop_front();
            self.begin();
        }
        self.read_on(buffer)
    }

    /// Reads what is left of the part that is being read, and checks it.
    fn finish_part(&mut self) -> Result<(), Error> {
        let mut piece = vec![0; PIECE_BYTES];
        while self.left > 0 {
            self.read_on(&mut piece)?;
        }
        let Some(part) = self.parts.front() else {
            return Ok(());
        };
        let mut tail = [0; 33];
        part.file
            .read_exact_at(&mut tail, self.at)
            .map_err(Error::reading(&part.name))?;
        let [last, sum @ ..] = tail;
        self.hasher.update(&[last]);
        let found = std::mem::take(&mut self.hasher).finish();
        if found.as_bytes() == &sum {
            return Ok(());
        }
        Err(Error::altered(format!("`{}`", part.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::bundle::tests::small_bundle;

    /// The name of a part and what is in it.
    type Named = (String, Vec<u8>);

    fn cut(size: u64) -> (tempfile::TempDir, Vec<Named>, Vec<u8>) {
        let place = tempfile::tempdir().expect("a folder");
        let bundle = small_bundle();
        let name = |number: u32| format!("b.{number:03}");
        let count = split(bundle.as_slice(), size, &mut |number| {
            File::create(place.path().join(name(number)))
        });
        let count = count.expect("it is a bundle");
        let parts = (1..=count).map(|number| {
            let name = name(number);
            let bytes = std::fs::read(place.path().join(&name)).expect("it was made");
            (name, bytes)
        });
        let parts = parts.collect();
        (place, parts, bundle)
    }

    fn join(place: &tempfile::TempDir, parts: &[(String, Vec<u8>)]) -> Result<Vec<u8>, String> {
        let mut files = Vec::new();
        for (at, (name, bytes)) in parts.iter().enumerate() {
            let path = place.path().join(format!("again-{at}"));
            std::fs::write(&path, bytes).expect("a folder takes files");
            files.push((name.clone(), File::open(&path).expect("it is there")));
        }
        let told = |error: &JobError| format!("{error}: {}", error.causes.join(": "));
        let mut source = Source::open(files).map_err(|error| told(&error))?;
        let mut joined = Vec::new();
        match source.feed(&mut joined) {
            Ok(()) => Ok(joined),
            Err(error) => Err(told(&error)),
        }
    }

    #[test]
    fn parts_in_any_order_are_the_bundle() {
        for size in [1, MIN_PART_BYTES + 1, 1 << 20] {
            let (place, mut parts, bundle) = cut(size);
            assert_eq!(parts.len() == 1, size == 1 << 20);
            parts.reverse();
            assert_eq!(join(&place, &parts).as_deref(), Ok(bundle.as_slice()));
        }
    }

    #[test]
    fn a_part_that_is_missing_foreign_doubled_or_altered_is_named() {
        let (place, parts, _bundle) = cut(MIN_PART_BYTES);
        assert!(parts.len() > 3);
        let refused = |parts: &[(String, Vec<u8>)], word: &str| {
            let said = join(&place, parts).expect_err(word);
            assert!(said.contains(word), "{said}");
        };
        let without = |at: usize| {
            let mut parts = parts.clone();
            parts.remove(at);
            parts
        };
        let count = parts.len();
        let all = format!("of the bundle is missing: name all its {count} parts");
        refused(&without(0), &format!("part 1 {all}"));
        refused(&without(1), &format!("part 2 {all}"));
        let unknown = format!("part {count} of the bundle is missing: name all its parts");
        refused(&without(count - 1), &unknown);
        let mut doubled = parts.clone();
        doubled.push(parts[1].clone());
        refused(&doubled, "part 2 is named twice");
        let mut foreign = parts.clone();
        foreign[1].1[30] ^= 1;
        refused(&foreign, "`b.002` is of another bundle than `b.001`");
        let mut other = parts.clone();
        other[2].1 = b"a text".to_vec();
        refused(&other, "use `b.003` as a part");
        for at in [60, 1000, parts[1].1.len() - 1, parts[1].1.len() - 33] {
            let mut altered = parts.clone();
            altered[1].1[at] ^= 1;
            refused(&altered, "`b.002`");
        }
        let mut cut = parts.clone();
        cut[1].1.truncate(2000);
        refused(&cut, "`b.002`");
    }

    #[test]
    fn a_part_of_another_split_is_told_from_one_that_is_damaged() {
        let (place, parts, _bundle) = cut(MIN_PART_BYTES);
        let (_other_place, others, _same_bundle) = cut(2 * MIN_PART_BYTES);
        let mut mixed = parts.clone();
        mixed[1] = ("other.002".to_owned(), others[1].1.clone());
        let said = join(&place, &mixed).expect_err("they do not fit");
        let expected = "`other.002` belongs to another split of the bundle than `b.001`";
        assert!(said.contains(expected), "{said}");
        let mut mixed = parts.clone();
        let last = others.last().expect("some").clone();
        mixed.insert(1, ("other".to_owned(), last.1));
        let said = join(&place, &mixed).expect_err("they do not fit");
        assert!(said.contains("`other` belongs to another split"), "{said}");
    }

    #[test]
    fn files_that_are_not_all_parts_are_a_matter_of_usage() {
        let (place, parts, _bundle) = cut(MIN_PART_BYTES);
        let path = place.path().join(&parts[1].0);
        let file = File::open(&path).expect("it is there");
        let error = Source::open(vec![("b.002".to_owned(), file)]).expect_err("one is missing");
        assert_eq!(error.fault, crate::mirror::jobs::Fault::Usage);
        assert!(error.hint.is_some_and(|hint| hint.contains("FILE.0*")));
    }

    #[test]
    fn a_part_alone_is_no_bundle() {
        let (place, parts, _bundle) = cut(MIN_PART_BYTES);
        let said = join(&place, &parts[..1]).expect_err("the rest is missing");
        assert!(said.contains("part 2"), "{said}");
    }
}
