//! How the history is kept: 48 steps of a series under a key of `store::Table::History`.
//!
//! The key is `STEP/START`, both in seconds, in decimal: `300/1799985600`. The value:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | format: 1 |
//! | 1 | 1 | `n`: numbers a step has; 10 today |
//! | 2 | | steps to the end, the oldest first |
//!
//! A step in which nothing happened is left out. One in which something did:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | which: 0 is the first of the 48 |
//! | 1 | | `n` numbers in LEB128: index hits, misses, stale; crate hits, misses; bytes served, fetched, saved; failures of upstream; requests that failed |
//!
//! Numbers are only ever added at the end: a build takes those that it knows and passes over the
//! others. Under the key `since`, in decimal: the second since which it is recorded. The store
//! finds out what is damaged, and that counts as absent.
#![warn(clippy::arithmetic_side_effects)]

use super::buckets::{CHUNK, FIELDS, Place, Sums};

const FORMAT: u8 = 1;

/// The key of a piece.
pub(super) fn key((step_seconds, start): Place) -> String {
    format!("{step_seconds}/{start}")
}

/// The place of a key. `None`: it is none of a piece.
pub(super) fn place(key: &str) -> Option<Place> {
    let (step, start) = key.split_once('/')?;
    let (step, start) = (step.parse().ok()?, start.parse().ok()?);
    (step > 0).then_some((step, start))
}

/// The value of a piece. `None`: nothing happened, and there is nothing to keep.
pub(super) fn encode((step_seconds, start): Place, steps: &[(u64, Sums)]) -> Option<Vec<u8>> {
    if steps.is_empty() {
        return None;
    }
    let fields = u8::try_from(FIELDS).unwrap_or(u8::MAX);
    let mut out = vec![FORMAT, fields];
    for (at, sums) in steps {
        let which = at.saturating_sub(start).checked_div(step_seconds)?;
        out.push(u8::try_from(which).ok()?);
        for number in sums {
            put_number(&mut out, *number);
        }
    }
    Some(out)
}

/// The steps of a value. `None`: it is of another format, or not what such a value is.
pub(super) fn decode((step_seconds, start): Place, value: &[u8]) -> Option<Vec<(u64, Sums)>> {
    let ([format, fields], mut rest) = value.split_first_chunk()?;
    if *format != FORMAT {
        return None;
    }
    let mut steps = Vec::new();
    while let Some((which, numbers)) = rest.split_first() {
        let which = u64::from(*which);
        if which >= CHUNK {
            return None;
        }
        rest = numbers;
        let mut sums = Sums::default();
        for field in 0..usize::from(*fields) {
            let number = take_number(&mut rest)?;
            if let Some(sum) = sums.get_mut(field) {
                *sum = number;
            }
        }
        let at = start.checked_add(which.checked_mul(step_seconds)?)?;
        steps.push((at, sums));
    }
    Some(steps)
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // Bits that do not fit are no number of ours.
        if part.checked_shl(shift)?.checked_shr(shift)? != part {
            return None;
        }
        number |= part.checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_a_piece_are_as_drawn() {
        let place = (300, 1_799_985_600);
        assert_eq!(key(place), "300/1799985600");
        let steps = [
            (1_799_985_600, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            (
                1_799_985_600 + 47 * 300,
                [0, 0, 0, 127, 128, 16384, 0, 0, u64::MAX, 0],
            ),
        ];
        let drawn = [
            &[1, 10][..],
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            &[47, 0, 0, 0, 127, 0x80, 1, 0x80, 0x80, 1, 0, 0],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0],
        ]
        .concat();
        assert_eq!(encode(place, &steps).as_deref(), Some(&drawn[..]));
        assert_eq!(decode(place, &drawn).as_deref(), Some(&steps[..]));
    }

    #[test]
    fn a_later_build_may_add_numbers_at_the_end() {
        let place = (3600, 0);
        let value = [1, 11, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99];
        let steps = decode(place, &value).expect("readable");
        assert_eq!(steps, [(7200, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])]);
        let fewer = decode(place, &[1, 2, 0, 5, 6]).expect("readable");
        assert_eq!(fewer, [(0, [5, 6, 0, 0, 0, 0, 0, 0, 0, 0])]);
    }

    #[test]
    fn nothing_else_is_taken_for_a_piece() {
        let place = (300, 0);
        for value in [
            &[][..],
            &[1],
            &[2, 9],
            &[1, 9, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 9, 0, 0, 0],
            &[1, 1, 0, 0x80],
            &[
                1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
            ],
        ] {
            assert_eq!(decode(place, value), None, "{value:?}");
        }
        for text in ["since", "", "/", "300/", "x/1", "0/0", "300/-1"] {
            assert_eq!(super::place(text), None, "{text}");
        }
        assert_eq!(encode(place, &[]), None);
    }

    proptest! {
        #[test]
        fn a_piece_is_read_as_it_was_written(
            steps in prop::collection::btree_map(0_u64..48, prop::array::uniform10(any::<u64>()), 1..48),
        ) {
            let place: Place = (3600, 48 * 3600 * 7);
            let steps: Vec<_> =
                steps.into_iter().map(|(which, sums)| (place.1.saturating_add(which.saturating_mul(3600)), sums)).collect();
            let value = encode(place, &steps).expect("something to keep");
            prop_assert_eq!(decode(place, &value), Some(steps));
        }

        #[test]
        fn damage_never_panics(value in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode((300, u64::MAX - 5), &value));
        }
    }
}
