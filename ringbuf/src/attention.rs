//! The word that says whether anything unusual is going on in a queue.
//!
//! Every call loads it once. If it equals the bare generation there is no record, both ends are open, and the slot
//! still serves the connection that the caller knows: the fast path. Anything else leads to the slow one. Records and
//! the two stream bits change under the match lock only; the closing bits are set by anybody who may, at any time,
//! and never cleared before the slot's next generation.

use crate::{
    layout::RECORDS,
    sync::{AtomicU64, Ordering},
};

/// A loaded attention word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention(pub(crate) u64);

/// The writing end has closed.
pub(crate) const WRITER_CLOSED: u64 = 1 << 16;
/// The reading end has closed.
pub(crate) const READER_CLOSED: u64 = 1 << 17;
/// The server end has disconnected.
pub(crate) const DISCONNECTED: u64 = 1 << 18;
/// A write is not placed to its end: nobody else may place (`stream.rs`).
pub(crate) const UNPLACED: u64 = 1 << 19;
/// Reserved: the connection is moving to another link.
#[allow(dead_code, reason = "ABI 1 keeps the bit")]
pub(crate) const MOVED: u64 = 1 << 20;
/// Reserved: who watches an end's `signaled` word stands in that word.
#[allow(dead_code, reason = "ABI 1 keeps the bit")]
pub(crate) const WATCHED: u64 = 1 << 21;

const RECORD_BITS: u64 = (1 << RECORDS) - 1;

impl Attention {
    pub(crate) fn load(word: &AtomicU64) -> Attention {
        Attention(word.load(Ordering::Acquire))
    }

    /// What the word looks like when nothing is unusual.
    pub(crate) const fn calm(generation: u32) -> u64 {
        (generation as u64) << 32
    }

    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Bit per record in use.
    pub(crate) const fn records(self) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "masked to 16 bits")]
        {
            (self.0 & RECORD_BITS) as u32
        }
    }

    /// Indices of the records in use.
    pub(crate) fn each_record(self) -> impl Iterator<Item = usize> {
        let mut bits = self.records();
        std::iter::from_fn(move || {
            (bits != 0).then(|| {
                let index = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                index
            })
        })
    }
}
