//! What a message carries, and how the receiver knows that it arrived: the same for every
//! transport.
//!
//! ```text
//! first word   number of the message, and its marks
//! body         a pattern, renewed and compared in full in the messages marked FULL
//! last word    a hash of the first
//! ```
//!
//! Every message has its first and last word written by the sender and checked by the receiver.
//! No word of a payload has its top bit set: the bare rings rely on it (see `ring_in_frame`).

use anyhow::{Result, ensure};

/// The body of this message is fresh, and the receiver compares all of it.
pub(crate) const FULL: u64 = 1 << 62;
/// Sent while caches and predictors warm up; not counted.
pub(crate) const WARM: u64 = 1 << 61;
/// The last one.
pub(crate) const LAST: u64 = 1 << 60;

/// Bytes of the smallest message.
pub(crate) const MIN_SIZE: usize = 16;

const NUMBER: u64 = LAST - 1;
const TOP: u64 = 1 << 63;

/// The sender's half: a private buffer and a count.
#[derive(Debug)]
pub(crate) struct Writer {
    message: Vec<u8>,
    next: u64,
}

impl Writer {
    /// Messages of `size` bytes.
    pub(crate) fn new(size: usize) -> Writer {
        assert!(size >= MIN_SIZE && size.is_multiple_of(8));
        let mut writer = Writer {
            message: vec![0; size],
            next: 0,
        };
        fill(&mut writer.message, 0);
        writer
    }

    /// The next message, with `marks`.
    #[inline]
    pub(crate) fn next(&mut self, marks: u64) -> &[u8] {
        let first = self.next | marks;
        self.next += 1;
        if marks & FULL != 0 {
            fill(&mut self.message, first);
        }
        let end = self.message.len() - 8;
        self.message[..8].copy_from_slice(&first.to_le_bytes());
        self.message[end..].copy_from_slice(&seal(first).to_le_bytes());
        &self.message
    }

    /// Messages made so far.
    pub(crate) fn count(&self) -> u64 {
        self.next
    }
}

/// The receiver's half: what must come next.
#[derive(Debug)]
pub(crate) struct Checker {
    size: usize,
    next: u64,
}

impl Checker {
    /// Expects messages of `size` bytes, from number 0.
    pub(crate) fn new(size: usize) -> Checker {
        Checker { size, next: 0 }
    }

    /// Checks `message` and answers its marks.
    #[inline]
    pub(crate) fn check(&mut self, message: &[u8]) -> Result<u64> {
        ensure!(
            message.len() == self.size,
            "{} bytes arrived, not {}",
            message.len(),
            self.size
        );
        let (first, last) = (word(message, 0), word(message, self.size - 8));
        let expected = self.next;
        self.next += 1;
        ensure!(
            first & NUMBER == expected && last == seal(first),
            "message {expected} arrived as {first:#x} .. {last:#x}"
        );
        if first & FULL != 0 {
            ensure!(
                is_pattern(message, first),
                "message {expected} arrived with a damaged body"
            );
        }
        Ok(first & !NUMBER)
    }
}

#[inline]
fn word(message: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(message[at..at + 8].try_into().expect("eight bytes"))
}

#[inline]
fn seal(first: u64) -> u64 {
    // Shifted, not masked: the product's top bit is the only trace of the mark's.
    first.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1
}

/// Word `index` of the body of the message that starts with `first`.
#[inline]
fn body_word(first: u64, index: u64) -> u64 {
    (seal(first) ^ index.wrapping_mul(0x0101_0101_0101_0101)) & !TOP
}

fn fill(message: &mut [u8], first: u64) {
    for (index, chunk) in (0_u64..).zip(message.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&body_word(first, index).to_le_bytes());
    }
}

/// Compares everything but the first and last word.
fn is_pattern(message: &[u8], first: u64) -> bool {
    let body = &message[8..message.len() - 8];
    let wrong = (1_u64..)
        .zip(body.chunks_exact(8))
        .fold(0, |wrong, (index, chunk)| {
            wrong | (word(chunk, 0) ^ body_word(first, index))
        });
    wrong == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_passes_its_check() {
        for size in [16, 48, 64, 4096] {
            let (mut writer, mut checker) = (Writer::new(size), Checker::new(size));
            for marks in [FULL | WARM, 0, FULL, LAST] {
                let message = writer.next(marks);
                assert_eq!(checker.check(message).unwrap(), marks);
                assert!(message.chunks(8).all(|chunk| word(chunk, 0) & TOP == 0));
            }
        }
    }

    #[test]
    fn any_damage_to_a_full_message_is_seen() {
        let good = Writer::new(48).next(FULL).to_vec();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(Checker::new(48).check(&bad).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_lost_a_doubled_and_a_short_message_are_seen() {
        let mut writer = Writer::new(64);
        let first = writer.next(0).to_vec();
        let second = writer.next(0).to_vec();
        assert!(Checker::new(64).check(&second).is_err());
        let mut checker = Checker::new(64);
        checker.check(&first).unwrap();
        assert!(checker.check(&first).is_err());
        assert!(Checker::new(64).check(&first[..56]).is_err());
    }
}
