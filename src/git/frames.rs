//! A pack as it goes over the wire: read in pieces, framed for the side-band that a client speaks.
#![warn(clippy::arithmetic_side_effects)]

use std::io::{self, Read};

use super::pkt::{self, BAND_PREFIX_BYTES, Band, Sideband};

/// About how much one piece has: large enough that a hop to a blocking thread is small beside the
/// copy, small enough that a slow client holds little.
const PIECE_BYTES: usize = 256 * 1024;

/// What the client is told when the rest of a pack cannot be read.
const BROKEN: &[u8] = b"orlop: the pack could not be read to its end; its log says why\n";

/// Reads a pack and frames it. Reading blocks as the pack does.
#[derive(Debug)]
pub struct Frames<R> {
    pack: R,
    sideband: Option<Sideband>,
    progress: Option<String>,
    pack_bytes: u64,
    end: Option<End>,
}

/// How a pack came to its end.
#[derive(Debug)]
pub enum End {
    /// Read and framed in full.
    Whole,
    /// The pack could not be read. The client was told, if it has a side-band.
    Broken(io::Error),
}

impl<R: Read> Frames<R> {
    /// `progress` is shown to the user before the pack; it needs a side-band to travel by.
    pub fn new(pack: R, sideband: Option<Sideband>, progress: Option<String>) -> Frames<R> {
        Frames {
            pack,
            sideband,
            progress,
            pack_bytes: 0,
            end: None,
        }
    }

    /// The next bytes for the client; `None`: it has all there will be, see [`end`](Frames::end).
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        if self.end.is_some() {
            return None;
        }
        let mut out = Vec::with_capacity(PIECE_BYTES);
        if let (Some(text), Some(sideband)) = (self.progress.take(), self.sideband) {
            sideband.write(&mut out, Band::Progress, text.as_bytes());
        }
        let filled = match self.sideband {
            Some(sideband) => self.fill_packets(sideband, &mut out),
            None => self.fill(PIECE_BYTES, &mut out).map(|read| read == 0),
        };
        let is_over = match filled {
            Ok(is_over) => is_over,
            Err(error) => {
                if let Some(sideband) = self.sideband {
                    sideband.write(&mut out, Band::Error, BROKEN);
                }
                self.end = Some(End::Broken(error));
                return Some(out).filter(|out| !out.is_empty());
            }
        };
        if is_over {
            self.end = Some(End::Whole);
            if self.sideband.is_some() {
                out.extend_from_slice(pkt::FLUSH);
            }
        }
        Some(out).filter(|out| !out.is_empty())
    }

    /// How many bytes of the pack itself were read so far.
    pub fn pack_bytes(&self) -> u64 {
        self.pack_bytes
    }

    /// Whether a client is told of a pack that breaks off.
    pub fn tells(&self) -> bool {
        self.sideband.is_some()
    }

    /// How it ended; `None`: it has not yet.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Appends whole packets up to the size of a piece; `true`: the pack is over.
    fn fill_packets(&mut self, sideband: Sideband, out: &mut Vec<u8>) -> io::Result<bool> {
        let packet_bytes = sideband.data_bytes().saturating_add(BAND_PREFIX_BYTES);
        while out.len().saturating_add(packet_bytes) <= PIECE_BYTES {
            let start = out.len();
            out.extend_from_slice(&[0; BAND_PREFIX_BYTES]);
            let read = self.fill(sideband.data_bytes(), out);
            let Ok(data_bytes @ 1..) = read else {
                out.truncate(start);
                return read.map(|_nothing| true);
            };
            let prefix = out
                .get_mut(start..)
                .and_then(|packet| packet.first_chunk_mut());
            if let Some(prefix) = prefix {
                *prefix = Sideband::prefix(Band::Pack, data_bytes);
            }
        }
        Ok(false)
    }

    /// Appends up to `most` bytes of the pack; fewer only at its end.
    fn fill(&mut self, most: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let read = self.pack.by_ref().take(most).read_to_end(out)?;
        let count = u64::try_from(read).unwrap_or(u64::MAX);
        self.pack_bytes = self.pack_bytes.saturating_add(count);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::pkt::{Packet, Reader};

    /// A pack that breaks off.
    struct Breaks<'a>(&'a [u8]);

    impl Read for Breaks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("a bad disk")),
                read => Ok(read),
            }
        }
    }

    fn pieces<R: Read>(frames: &mut Frames<R>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| frames.piece()).collect()
    }

    fn pack(bytes: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().take(bytes).collect()
    }

    /// The bands of packets, put together: pack, progress, and whether a flush ended them.
    fn bands(bytes: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>, bool) {
        let (mut pack, mut progress, mut error, mut flush) = (vec![], vec![], vec![], false);
        let mut reader = Reader::new(bytes);
        while let Some(packet) = reader.packet().expect("packets") {
            assert!(!flush, "nothing after the flush");
            match packet {
                Packet::Data([1, data @ ..]) => pack.extend_from_slice(data),
                Packet::Data([2, data @ ..]) => progress.extend_from_slice(data),
                Packet::Data([3, data @ ..]) => error.extend_from_slice(data),
                Packet::Flush => flush = true,
                other => panic!("{other:?}"),
            }
        }
        (pack, progress, error, flush)
    }

    #[test]
    fn a_pack_comes_out_as_it_went_in() {
        for bytes in [0, 1, 995, 65_515, 65_516, 262_060, 262_061, 1_000_000] {
            let pack = pack(bytes);
            for sideband in [Sideband::Small, Sideband::Large] {
                let mut frames = Frames::new(&pack[..], Some(sideband), Some("hello\n".into()));
                let pieces = pieces(&mut frames);
                assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES + 4));
                let read = bands(&pieces.concat());
                assert_eq!(read, (pack.clone(), b"hello\n".to_vec(), vec![], true));
                assert_eq!(frames.pack_bytes(), bytes as u64);
                assert!(matches!(frames.end(), Some(End::Whole)));
            }
            let mut bare = Frames::new(&pack[..], None, Some("hello\n".into()));
            assert_eq!(pieces(&mut bare).concat(), pack);
        }
    }

    #[test]
    fn a_client_is_told_that_a_pack_breaks_off() {
        let pack = pack(300_000);
        let mut frames = Frames::new(Breaks(&pack), Some(Sideband::Large), None);
        let (sent, _, error, flush) = bands(&pieces(&mut frames).concat());
        assert!(pack.starts_with(&sent) && sent.len() > 200_000);
        assert_eq!((error.as_slice(), flush), (BROKEN, false));
        assert!(matches!(frames.end(), Some(End::Broken(_))) && frames.tells());
        let mut bare = Frames::new(Breaks(&pack[..9]), None, None);
        drop(pieces(&mut bare));
        assert!(matches!(bare.end(), Some(End::Broken(_))) && !bare.tells());
    }
}
