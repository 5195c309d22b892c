//! One entry of a pack: its header, its zlib body, read and written (see gitformat-pack).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use sha1::{Digest, Sha1};

use super::ObjectId;

/// Bytes of a pack before its first entry: `PACK`, version, count.
pub(super) const PACK_HEADER: u64 = 12;
/// Bytes of a pack after its last entry: the SHA-1 of all before.
pub(super) const PACK_TRAILER: u64 = 20;
/// No object of an index comes near this; a size that says otherwise is damage, and must not
/// become an allocation.
pub(super) const OBJECT_BYTES_MAX: u64 = 1 << 28;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A commit.
    Commit,
    /// A tree.
    Tree,
    /// The bytes of a file.
    Blob,
    /// A tag; never ours.
    Tag,
}

impl Kind {
    /// The number of the kind in an entry's header.
    pub(super) fn code(self) -> u8 {
        match self {
            Kind::Commit => 1,
            Kind::Tree => 2,
            Kind::Blob => 3,
            Kind::Tag => 4,
        }
    }

    /// The kind of a number; `None`: a delta, or no such kind.
    pub(super) fn of_code(code: u8) -> Option<Kind> {
        match code {
            1 => Some(Kind::Commit),
            2 => Some(Kind::Tree),
            3 => Some(Kind::Blob),
            4 => Some(Kind::Tag),
            _ => None,
        }
    }
}

impl From<gix::objs::Kind> for Kind {
    fn from(kind: gix::objs::Kind) -> Kind {
        match kind {
            gix::objs::Kind::Commit => Kind::Commit,
            gix::objs::Kind::Tree => Kind::Tree,
            gix::objs::Kind::Blob => Kind::Blob,
            gix::objs::Kind::Tag => Kind::Tag,
        }
    }
}

impl From<Kind> for gix::objs::Kind {
    fn from(kind: Kind) -> gix::objs::Kind {
        match kind {
            Kind::Commit => gix::objs::Kind::Commit,
            Kind::Tree => gix::objs::Kind::Tree,
            Kind::Blob => gix::objs::Kind::Blob,
            Kind::Tag => gix::objs::Kind::Tag,
        }
    }
}

/// How an entry gives its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By its bytes.
    Whole(Kind),
    /// As a delta against the entry that begins so many bytes before this one.
    Offset(u64),
    /// As a delta against an object named by its id.
    Reference(ObjectId),
}

/// What stands before the body of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// How the object is given.
    pub(super) form: Form,
    /// The size of the body when inflated.
    pub(super) size: u64,
}

/// The longest header: ten bytes of size, twenty of id.
pub(super) const HEADER_MAX: usize = 32;

impl Header {
    /// Reads a header; gives also its length. `None`: `bytes` do not begin with one.
    pub(super) fn read(bytes: &[u8]) -> Option<(Header, usize)> {
        let mut at = bytes.iter().copied();
        let first = at.next()?;
        let mut size = u64::from(first & 0x0f);
        let mut shift = 4;
        let mut byte = first;
        while byte & 0x80 != 0 {
            byte = at.next()?;
            let part = u64::from(byte & 0x7f);
            size |= part.checked_shl(shift).filter(|_| shift < 60)?;
            shift += 7;
        }
        let form = match (first >> 4) & 7 {
            6 => Form::Offset(read_distance(&mut at)?),
            7 => {
                let id: Vec<u8> = at.by_ref().take(20).collect();
                Form::Reference(ObjectId::try_from(id.as_slice()).ok()?)
            }
            code => Form::Whole(Kind::of_code(code)?),
        };
        Some((Header { form, size }, bytes.len() - at.len()))
    }

    /// The header written.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_MAX);
        self.write(&mut bytes);
        bytes
    }

    /// Writes the header.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let code = match self.form {
            Form::Whole(kind) => kind.code(),
            Form::Offset(_) => 6,
            Form::Reference(_) => 7,
        };
        let [low, ..] = self.size.to_le_bytes();
        let mut byte = (code << 4) | (low & 0x0f);
        let mut rest = self.size >> 4;
        while rest != 0 {
            out.push(byte | 0x80);
            let [low, ..] = rest.to_le_bytes();
            byte = low & 0x7f;
            rest >>= 7;
        }
        out.push(byte);
        match self.form {
            Form::Whole(_) => {}
            Form::Offset(distance) => write_distance(distance, out),
            Form::Reference(id) => out.extend_from_slice(id.as_bytes()),
        }
    }
}

/// The distance of an `OFS_DELTA`: seven bits a byte, high first, each further byte counts one more.
fn read_distance(at: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut byte = at.next()?;
    let mut distance = u64::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = at.next()?;
        distance = distance.checked_add(1)?.checked_mul(128)? | u64::from(byte & 0x7f);
    }
    Some(distance)
}

fn write_distance(distance: u64, out: &mut Vec<u8>) {
    let mut bytes = [0; 10];
    let mut rest = distance;
    let mut used = 0;
    for (index, byte) in bytes.iter_mut().rev().enumerate() {
        let [low, ..] = rest.to_le_bytes();
        *byte = (low & 0x7f) | if index == 0 { 0 } else { 0x80 };
        used = index + 1;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        rest -= 1;
    }
    out.extend(bytes.iter().skip(bytes.len() - used));
}

/// The head of a pack of so many objects.
pub(super) fn pack_header(objects: u32) -> [u8; 12] {
    let [a, b, c, d] = objects.to_be_bytes();
    [b'P', b'A', b'C', b'K', 0, 0, 0, 2, a, b, c, d]
}

/// Inflates the body at the start of `input` into `out`, which ends with `size` bytes more; gives
/// the length of the body. `None`: it is damaged.
pub(super) fn inflate(
    zlib: &mut Decompress,
    input: &[u8],
    size: u64,
    out: &mut Vec<u8>,
) -> Option<usize> {
    if size > OBJECT_BYTES_MAX {
        return None;
    }
    zlib.reset(true);
    let wanted = usize::try_from(size).ok()?;
    let end = out.len().checked_add(wanted)?;
    // One byte more than needed, so that the end of the stream is reached in one call.
    out.reserve_exact(wanted.checked_add(1)?);
    loop {
        let consumed = usize::try_from(zlib.total_in()).ok()?;
        let before = zlib.total_out();
        let status = zlib
            .decompress_vec(input.get(consumed..)?, out, FlushDecompress::Finish)
            .ok()?;
        let now = usize::try_from(zlib.total_in()).ok()?;
        if status == Status::StreamEnd {
            return (out.len() == end).then_some(now);
        }
        if out.len() > end || (now == consumed && zlib.total_out() == before) {
            return None;
        }
    }
}

/// The id of an object. Bytes that come from outside are hashed by `pack::id_of`, which looks for
/// made collisions; this is for what was hashed so once.
pub(super) fn id_of(kind: Kind, data: &[u8]) -> ObjectId {
    let name = match kind {
        Kind::Commit => "commit",
        Kind::Tree => "tree",
        Kind::Blob => "blob",
        Kind::Tag => "tag",
    };
    let sum = Sha1::new()
        .chain_update(format!("{name} {}\0", data.len()))
        .chain_update(data)
        .finalize();
    ObjectId::from(<[u8; 20]>::from(sum))
}

/// A zlib compressor to be used again and again: to make one costs more than a small object.
pub(super) fn deflater() -> Compress {
    Compress::new(Compression::default(), true)
}

/// Appends the zlib form of `bytes`.
pub(super) fn deflate(zlib: &mut Compress, bytes: &[u8], out: &mut Vec<u8>) {
    zlib.reset();
    out.reserve(bytes.len() / 2 + 64);
    loop {
        let consumed = usize::try_from(zlib.total_in()).unwrap_or(usize::MAX);
        let rest = bytes.get(consumed..).unwrap_or_default();
        match zlib.compress_vec(rest, out, FlushCompress::Finish) {
            Ok(Status::Ok | Status::BufError) => out.reserve(rest.len() / 2 + 64),
            // Deflate into memory has no other way to end.
            Ok(Status::StreamEnd) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(code in 0..4_u8, size in 0..1_u64 << 50, distance in 1..1_u64 << 50) {
            let form = match code {
                0 => Form::Whole(Kind::Blob),
                1 => Form::Offset(distance),
                2 => Form::Whole(Kind::Commit),
                _ => Form::Reference(ObjectId::null(gix::hash::Kind::Sha1)),
            };
            let header = Header { form, size };
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            prop_assert!(bytes.len() <= HEADER_MAX);
            prop_assert_eq!(Header::read(&bytes), Some((header, bytes.len())));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Header::read(&bytes[..cut]), None);
            }
        }

        #[test]
        fn any_bytes_are_a_header_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _any = Header::read(&bytes);
        }

        #[test]
        fn a_body_is_inflated_as_it_was_deflated(bytes in proptest::collection::vec(0..4_u8, 0..5000), more in 0..9_usize) {
            let mut body = Vec::new();
            deflate(&mut deflater(), &bytes, &mut body);
            let length = body.len();
            body.resize(length + more, 7);
            let mut out = vec![1, 2];
            let used = inflate(&mut Decompress::new(true), &body, bytes.len() as u64, &mut out);
            prop_assert_eq!(used, Some(length));
            prop_assert_eq!(&out[2..], &bytes[..]);
            prop_assert_eq!(inflate(&mut Decompress::new(true), &body, bytes.len() as u64 + 1, &mut Vec::new()), None);
            prop_assert_eq!(inflate(&mut Decompress::new(true), &body[..length - 1], bytes.len() as u64, &mut Vec::new()), None);
        }
    }
}
