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

/// The one record, if there is any, is a read that its owner polls (`settle.rs`): a write that the quota admits leaves the
/// matching to it.
pub(crate) const POLLED: u64 = 1 << 22;
/// A read is, or was, polled: frames that came since are its own, although nobody may have matched them yet. Stays as long as a
/// record does.
pub(crate) const OWED: u64 = 1 << 23;

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

    /// Whether nothing is unusual for a writer, of a queue that is `calm` when nothing is at all.
    #[inline(always)]
    pub(crate) const fn is_quiet(self, calm: u64) -> bool {
        self.0 == calm || self.0 & !RECORD_BITS == calm | POLLED | OWED
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
