//! Git's delta format (see gitformat-pack, "deltified representation"): made and applied.
//!
//! ```text
//! size of the base │ size of the result     seven bits a byte, low first
//! then: 0nnnnnnn bytes…                      n bytes as they stand here
//!       1sssoooo offset… size…               a copy from the base; each flag bit: a byte is there
//! ```

/// Bytes of a block of the base that is looked for in the target.
const BLOCK: usize = 16;
/// The longest copy of one instruction, as git makes them; written as no size at all.
const COPY_MAX: usize = 0x1_0000;
/// The longest literal of one instruction.
const LITERAL_MAX: usize = 0x7f;

/// The result of `delta` on `base`; `None`: the delta is damaged, or of another base.
pub(super) fn apply(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let mut at = delta;
    if read_size(&mut at)? != base.len() {
        return None;
    }
    let size = read_size(&mut at)?;
    // What a delta promises is believed only as far as its own bytes can make it true.
    let possible = (at.len() / 2 + 1).saturating_mul(0xff_ffff);
    if size > possible.max(LITERAL_MAX) {
        return None;
    }
    let mut out = Vec::with_capacity(size.min(1 << 26));
    while let Some((&op, rest)) = at.split_first() {
        at = rest;
        let part = if op & 0x80 == 0 {
            let (part, rest) = at.split_at_checked(usize::from(op))?;
            at = rest;
            (!part.is_empty()).then_some(part)?
        } else {
            let (from, length) = read_copy(op, &mut at)?;
            base.get(from..from.checked_add(length)?)?
        };
        if part.len() > size - out.len() {
            return None;
        }
        out.extend_from_slice(part);
    }
    (out.len() == size).then_some(out)
}

fn read_size(at: &mut &[u8]) -> Option<usize> {
    let mut size = 0_usize;
    for shift in (0..56).step_by(7) {
        let (&byte, rest) = at.split_first()?;
        *at = rest;
        size |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(size);
        }
    }
    None
}

fn read_copy(op: u8, at: &mut &[u8]) -> Option<(usize, usize)> {
    let mut field = |bits: std::ops::Range<u32>| {
        let mut value = 0;
        for (place, bit) in bits.enumerate() {
            if op & (1 << bit) != 0 {
                let (&byte, rest) = at.split_first()?;
                *at = rest;
                value |= usize::from(byte) << (8 * place);
            }
        }
        Some(value)
    };
    let (from, length) = (field(0..4)?, field(4..7)?);
    Some((from, if length == 0 { COPY_MAX } else { length }))
}

/// A delta that makes `target` of `base`, if one is shorter than `limit` bytes.
pub(super) fn make(base: &[u8], target: &[u8], limit: usize) -> Option<Vec<u8>> {
    if u32::try_from(base.len()).is_err() || base.is_empty() {
        return None;
    }
    let mut out = Maker {
        delta: Vec::with_capacity(64),
        literal: 0..0,
        target,
        limit,
    };
    write_size(base.len(), &mut out.delta);
    write_size(target.len(), &mut out.delta);
    // A line more at the end, or one line changed: nearly all of the target is one of these two.
    let ahead = common(base, target);
    let (base_rest, target_rest) = (base.get(ahead..)?, target.get(ahead..)?);
    let behind = common_end(base_rest, target_rest);
    out.copy(0, ahead);
    out.literal = ahead..ahead;
    out.middle(base, ahead, target.len() - behind)?;
    out.copy(base.len() - behind, behind);
    out.flush();
    (out.delta.len() < limit).then_some(out.delta)
}

struct Maker<'a> {
    delta: Vec<u8>,
    /// The part of the target that is not yet said by any instruction.
    literal: std::ops::Range<usize>,
    target: &'a [u8],
    limit: usize,
}

impl Maker<'_> {
    /// Says the target from `from` to `to` with blocks of the base wherever they lie.
    fn middle(&mut self, base: &[u8], from: usize, to: usize) -> Option<()> {
        if to - from < BLOCK {
            self.literal = from..to;
            return Some(());
        }
        let blocks = Blocks::of(base);
        let mut at = from;
        while at < to {
            if self.delta.len() + (at - self.literal.start) > self.limit {
                return None;
            }
            match blocks.find(base, self.target.get(at..to)?) {
                None => at += 1,
                Some((place, length)) => {
                    let back =
                        common_end(base.get(..place)?, self.target.get(self.literal.start..at)?);
                    self.literal.end = at - back;
                    self.copy(place - back, length + back);
                    at += length;
                    self.literal = at..at;
                }
            }
        }
        self.literal.end = to;
        Some(())
    }

    fn copy(&mut self, from: usize, length: usize) {
        self.flush();
        let (mut from, mut rest) = (from, length);
        while rest > 0 {
            let part = rest.min(COPY_MAX);
            let place = from.to_le_bytes().into_iter().take(4);
            let size = part.to_le_bytes().into_iter().take(2);
            let at = self.delta.len();
            self.delta.push(0x80);
            let mut op = 0x80;
            for (bit, byte) in place.chain(size).enumerate() {
                if byte != 0 {
                    op |= 1 << bit;
                    self.delta.push(byte);
                }
            }
            if let Some(byte) = self.delta.get_mut(at) {
                *byte = op;
            }
            from += part;
            rest -= part;
        }
    }

    fn flush(&mut self) {
        let literal = self.target.get(self.literal.clone()).unwrap_or_default();
        for part in literal.chunks(LITERAL_MAX) {
            self.delta.push(u8::try_from(part.len()).unwrap_or(0x7f));
            self.delta.extend_from_slice(part);
        }
        self.literal.start = self.literal.end;
    }
}

/// Where the blocks of a base lie: a table by hash, one place each, the first one stays.
struct Blocks {
    places: Vec<u32>,
    shift: u32,
}

impl Blocks {
    fn of(base: &[u8]) -> Blocks {
        let bits = (base.len() / BLOCK).next_power_of_two().trailing_zeros() + 2;
        let mut blocks = Blocks {
            places: vec![0; 1 << bits],
            shift: 64 - bits,
        };
        for (number, block) in (1_u32..).zip(base.chunks_exact(BLOCK)) {
            let slot = blocks.slot(block);
            if let Some(place) = blocks.places.get_mut(slot).filter(|place| **place == 0) {
                *place = number;
            }
        }
        blocks
    }

    fn slot(&self, block: &[u8]) -> usize {
        let (low, high) = block.split_at_checked(8).unwrap_or_default();
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        let mixed = word(low).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ word(high)
                .wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
                .rotate_left(31);
        usize::try_from(mixed.wrapping_mul(0x1656_67b1_9e37_79f9) >> self.shift).unwrap_or(0)
    }

    /// Where the base has what `target` begins with, and how much of it.
    fn find(&self, base: &[u8], target: &[u8]) -> Option<(usize, usize)> {
        let number = *self.places.get(self.slot(target.get(..BLOCK)?))?;
        let place = usize::try_from(number.checked_sub(1)?).ok()? * BLOCK;
        let length = common(base.get(place..)?, target);
        (length >= BLOCK).then_some((place, length))
    }
}

fn write_size(size: usize, out: &mut Vec<u8>) {
    let mut rest = size;
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        out.push((low & 0x7f) | if rest == 0 { 0 } else { 0x80 });
        if rest == 0 {
            return;
        }
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 32;
    let whole = a
        .chunks_exact(STEP)
        .zip(b.chunks_exact(STEP))
        .take_while(|(a, b)| a == b)
        .count();
    let done = whole * STEP;
    done + a
        .get(done..)
        .unwrap_or_default()
        .iter()
        .zip(b.get(done..).unwrap_or_default())
        .take_while(|(a, b)| a == b)
        .count()
}

fn common_end(a: &[u8], b: &[u8]) -> usize {
    a.iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(a, b)| a == b)
        .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(numbers: &[u16]) -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|n| {
                format!(
                    "{{\"vers\":\"{n}.0.0\",\"cksum\":\"{:032x}\"}}\n",
                    u32::from(*n) * 77
                )
                .into_bytes()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_delta_makes_the_target_again(
            base in proptest::collection::vec(0..300_u16, 1..200),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..300_u16, 0..3_u8), 0..20),
        ) {
            let mut edited = base.clone();
            for (at, line, what) in edits {
                let at = at.index(edited.len());
                match what {
                    0 => edited[at] = line,
                    1 => edited.insert(at, line),
                    _ if edited.len() > 1 => { edited.remove(at); }
                    _ => {}
                }
            }
            let (base, target) = (lines(&base), lines(&edited));
            let delta = make(&base, &target, usize::MAX).unwrap();
            prop_assert_eq!(apply(&base, &delta), Some(target));
        }

        #[test]
        fn a_delta_of_unlike_bytes_is_right_too(base in proptest::collection::vec(0..3_u8, 1..400), target in proptest::collection::vec(0..3_u8, 0..400)) {
            let delta = make(&base, &target, usize::MAX).unwrap();
            prop_assert_eq!(apply(&base, &delta), Some(target));
        }

        #[test]
        fn any_bytes_are_a_delta_or_none(base in proptest::collection::vec(any::<u8>(), 0..20), mut delta in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(first) = delta.first_mut() {
                *first = base.len().to_le_bytes()[0];
            }
            let _any = apply(&base, &delta);
        }
    }

    #[test]
    fn a_line_more_costs_little_more_than_the_line() {
        let numbers: Vec<u16> = (0..5000).collect();
        let (base, target) = (lines(&numbers[..4999]), lines(&numbers));
        assert!(base.len() > 3 * COPY_MAX);
        let delta = make(&base, &target, usize::MAX).unwrap();
        assert!(
            delta.len() < target.len() - base.len() + 40,
            "{}",
            delta.len()
        );
        assert_eq!(apply(&base, &delta), Some(target));
        assert_eq!(make(&base, &lines(&[7; 90]), 60), None);
    }
}
