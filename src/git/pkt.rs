//! Pkt-lines: the framing of git's wire protocol, read with bounds and written.
//!
//! ```text
//! LLLL data      LLLL: length of the whole in four hex digits, itself included, at most 65520
//! 0000           flush: the end of a part
//! 0001           delimiter between sections (protocol 2)
//! 0002           end of an answer (protocol 2)
//! ```
//!
//! Source: gitprotocol-common ("pkt-line format") and gitprotocol-pack ("Packfile Data") of git.
#![warn(clippy::arithmetic_side_effects)]

/// The four digits before each packet.
const PREFIX_BYTES: usize = 4;

/// The longest packet, its prefix included (`LARGE_PACKET_MAX` of git).
pub const MAX_PACKET_BYTES: usize = 65_520;

/// The flush packet.
pub const FLUSH: &[u8] = b"0000";

/// The delimiter packet.
pub const DELIM: &[u8] = b"0001";

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0000`.
    Flush,
    /// `0001`.
    Delim,
    /// `0002`.
    ResponseEnd,
    /// What was between prefix and end, a line feed at its end included.
    Data(&'a [u8]),
}

impl<'a> Packet<'a> {
    /// The data as a line, without the line feed at its end; `None`: there is no data.
    pub fn line(self) -> Option<&'a [u8]> {
        match self {
            Packet::Data(data) => Some(data.strip_suffix(b"\n").unwrap_or(data)),
            Packet::Flush | Packet::Delim | Packet::ResponseEnd => None,
        }
    }
}

/// Bytes that are no packets. Offsets count from the start of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The prefix is not four hex digits.
    #[error("no packet length at byte {at}")]
    Length {
        /// Where.
        at: usize,
    },
    /// The prefix is 3 or more than a packet may have.
    #[error("a packet of {length} bytes at byte {at}, which cannot be")]
    Size {
        /// Where.
        at: usize,
        /// What the prefix says.
        length: usize,
    },
    /// The bytes end within a packet.
    #[error("the packet at byte {at} breaks off")]
    Truncated {
        /// Where it starts.
        at: usize,
    },
}

/// Reads packets off bytes that are all there. Allocates nothing.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Over these bytes, from their start.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, at: 0 }
    }

    /// Whether nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Where the next packet starts.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next packet; `None`: the bytes ended with the packet before.
    pub fn packet(&mut self) -> Result<Option<Packet<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let (prefix, rest) = self
            .rest
            .split_first_chunk::<PREFIX_BYTES>()
            .ok_or(Malformed::Truncated { at })?;
        let length = length_of(*prefix).ok_or(Malformed::Length { at })?;
        let (packet, data_bytes) = match length {
            0 => (Some(Packet::Flush), 0),
            1 => (Some(Packet::Delim), 0),
            2 => (Some(Packet::ResponseEnd), 0),
            3 => return Err(Malformed::Size { at, length }),
            _ if length > MAX_PACKET_BYTES => return Err(Malformed::Size { at, length }),
            _ => (None, length.saturating_sub(PREFIX_BYTES)),
        };
        let (data, rest) = rest
            .split_at_checked(data_bytes)
            .ok_or(Malformed::Truncated { at })?;
        self.rest = rest;
        self.at = at.saturating_add(PREFIX_BYTES).saturating_add(data_bytes);
        Ok(Some(packet.unwrap_or(Packet::Data(data))))
    }
}

fn length_of(prefix: [u8; PREFIX_BYTES]) -> Option<usize> {
    prefix.iter().try_fold(0_usize, |length, digit| {
        let value = char::from(*digit).to_digit(16)?;
        length
            .checked_mul(16)?
            .checked_add(usize::try_from(value).ok()?)
    })
}

/// The prefix of a packet with so many bytes of data.
fn prefix_of(data_bytes: usize) -> [u8; PREFIX_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let length = data_bytes.saturating_add(PREFIX_BYTES);
    [12, 8, 4, 0].map(|shift| {
        let digit = (length >> shift) & 0xf;
        DIGITS.get(digit).copied().unwrap_or(b'0')
    })
}

/// Appends a packet. Data beyond what a packet takes is left out: callers write short lines.
pub fn write(out: &mut Vec<u8>, data: &[u8]) {
    let most = MAX_PACKET_BYTES.saturating_sub(PREFIX_BYTES);
    let data = data.get(..most).unwrap_or(data);
    out.extend_from_slice(&prefix_of(data.len()));
    out.extend_from_slice(data);
}

/// Appends an error packet: the client shows its text as the server's word and ends.
pub fn write_error(out: &mut Vec<u8>, text: &str) {
    write(out, format!("ERR {text}").as_bytes());
}

/// How pack and messages share one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sideband {
    /// `side-band`: packets of up to 1000 bytes, 995 of them data.
    Small,
    /// `side-band-64k`, and protocol 2: packets of up to 65520 bytes, 65515 of them data.
    Large,
}

/// What a packet of a side-band carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Band {
    /// Bytes of the pack.
    Pack = 1,
    /// Text that the client shows while it waits.
    Progress = 2,
    /// Why there will be no more; the client shows it and fails.
    Error = 3,
}

/// What stands before the data in a packet of a side-band: its length and the number of the band.
pub const BAND_PREFIX_BYTES: usize = 5;

impl Sideband {
    /// The most data in one packet.
    pub fn data_bytes(self) -> usize {
        match self {
            Sideband::Small => 995,
            Sideband::Large => 65_515,
        }
    }

    /// What stands before the data of one packet.
    pub fn prefix(band: Band, data_bytes: usize) -> [u8; BAND_PREFIX_BYTES] {
        let [a, b, c, d] = prefix_of(data_bytes.saturating_add(1));
        [a, b, c, d, band as u8]
    }

    /// Appends data in as many packets as it takes; none for no data.
    pub fn write(self, out: &mut Vec<u8>, band: Band, data: &[u8]) {
        for part in data.chunks(self.data_bytes()) {
            out.extend_from_slice(&Sideband::prefix(band, part.len()));
            out.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Packet<'_>>, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut packets = Vec::new();
        while let Some(packet) = reader.packet()? {
            packets.push(packet);
        }
        Ok(packets)
    }

    #[test]
    fn packets_are_read_as_the_format_says() {
        let read = all(b"0006a\n0000000100020004000bfoobar\n").expect("packets");
        assert_eq!(
            read,
            [
                Packet::Data(b"a\n"),
                Packet::Flush,
                Packet::Delim,
                Packet::ResponseEnd,
                Packet::Data(b""),
                Packet::Data(b"foobar\n"),
            ]
        );
        assert_eq!(read[5].line(), Some(&b"foobar"[..]));
        assert_eq!(
            all(b"000Aabcdef").expect("upper case"),
            all(b"000aabcdef").expect("lower")
        );
    }

    #[test]
    fn what_is_no_packet_is_refused_with_its_place() {
        let check = |bytes: &[u8], error: Malformed| assert_eq!(all(bytes), Err(error));
        check(b"00", Malformed::Truncated { at: 0 });
        check(b"0000abc", Malformed::Truncated { at: 4 });
        check(b"0000000", Malformed::Truncated { at: 4 });
        check(b"0003", Malformed::Size { at: 0, length: 3 });
        check(b"0005", Malformed::Truncated { at: 0 });
        check(b"00000006a", Malformed::Truncated { at: 4 });
        check(b"00 5a", Malformed::Length { at: 0 });
        check(b"+005a", Malformed::Length { at: 0 });
        check(b"GET / HTTP/1.1", Malformed::Length { at: 0 });
        check(b"\xff\xff\xff\xff", Malformed::Length { at: 0 });
        let long = [&b"fff1"[..], &b"x".repeat(65_517)].concat();
        check(
            &long,
            Malformed::Size {
                at: 0,
                length: 65_521,
            },
        );
        let longest = [&b"fff0"[..], &b"x".repeat(65_516)].concat();
        assert_eq!(all(&longest).expect("as long as may be").len(), 1);
    }

    #[test]
    fn a_side_band_splits_at_its_size() {
        let data = vec![7_u8; 65_516];
        for (sideband, packets, last) in [(Sideband::Large, 2, 1), (Sideband::Small, 66, 841)] {
            let mut out = Vec::new();
            sideband.write(&mut out, Band::Pack, &data);
            let read = all(&out).expect("packets");
            assert_eq!(read.len(), packets);
            assert_eq!(read[packets - 1].line().map(<[u8]>::len), Some(last + 1));
            assert_eq!(
                out.first_chunk(),
                Some(&Sideband::prefix(Band::Pack, sideband.data_bytes()))
            );
        }
        let mut nothing = Vec::new();
        Sideband::Large.write(&mut nothing, Band::Progress, b"");
        assert_eq!(nothing, b"");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70_000), 0..4)) {
            let mut out = Vec::new();
            for line in &lines {
                write(&mut out, line);
            }
            let read = all(&out).expect("packets");
            prop_assert_eq!(read.len(), lines.len());
            for (packet, line) in read.iter().zip(&lines) {
                prop_assert_eq!(*packet, Packet::Data(&line[..line.len().min(65_516)]));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(packets) = all(&bytes) {
                prop_assert!(packets.len() <= bytes.len() / 4);
            }
        }
    }
}
