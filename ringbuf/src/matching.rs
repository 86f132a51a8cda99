//! How pended operations meet writes: the rules of sections 10 to 13 as pure functions of small numbers.
//!
//! The shared queue decides with these, under the match lock; so may any test or model.

use crate::types::{PipeType, ReadMode};

/// What one read gets from the first entry of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gift {
    /// Bytes that change hands.
    pub(crate) count: u32,
    /// More of the message remains (STATUS_BUFFER_OVERFLOW).
    pub(crate) part: bool,
    /// The entry is gone.
    pub(crate) consumed: bool,
}

/// Feeds a read of `wanted` bytes from an entry with `left` unread bytes, of which `more` may follow in further frames
/// (NP-READ-09, 11, 12, 16, 17; NP-WRITE-06).
pub(crate) fn give(wanted: u32, left: u32, more: bool, mode: ReadMode) -> Gift {
    let count = wanted.min(left);
    let rest = left - count > 0 || more;
    Gift {
        count,
        part: rest && mode == ReadMode::Message,
        consumed: count == left,
    }
}

/// Whether a stalled write is complete: no more than the quota of what was written up to its end is unread
/// (NP-QUEUE-03, NP-WRITE-08, 09). All three count bytes since the beginning of the connection.
pub(crate) fn write_is_complete(end: u64, claimed: u64, quota: u32) -> bool {
    // Modular: the counters may wrap, their distance cannot.
    end.wrapping_sub(claimed).cast_signed() <= i64::from(quota)
}

/// What becomes of a write that must not wait (COMPLETE mode, or a try call).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nowait {
    /// All of it is queued or given to pended reads.
    All,
    /// Only this many bytes, given to pended reads; the rest is dropped (NP-WRITE-11).
    Cut(u32),
    /// Nothing happens at all (NP-WRITE-10).
    Nothing,
}

/// COMPLETE mode (NP-WRITE-10, 11): `pended` is the sum of the lengths of the pended reads, `free` the free quota.
pub(crate) fn nowait(len: u32, pended: u64, free: u32, pipe_type: PipeType) -> Nowait {
    if u64::from(len) <= pended + u64::from(free) {
        return Nowait::All;
    }
    match pipe_type {
        PipeType::Message => Nowait::Nothing,
        PipeType::Byte if pended == 0 => Nowait::Nothing,
        // `pended` is below `len` here.
        PipeType::Byte => Nowait::Cut(u32::try_from(pended).unwrap_or(len)),
    }
}

/// Free quota as a query reports it: pended reads charge their length to it (NP-QUEUE-08).
pub(crate) fn quota_available(quota: u32, used: u64, pended: u64) -> u32 {
    let free = u64::from(quota).saturating_sub(used);
    u32::try_from(free.saturating_sub(pended)).unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn np_queue_05_worked_example() {
        // Quota 5000: 3000 complete, 5000 and 1 stall at ends 8000 and 8001.
        assert!(write_is_complete(3000, 0, 5000));
        assert!(!write_is_complete(8000, 0, 5000));
        assert!(write_is_complete(8000, 3000, 5000));
        assert!(!write_is_complete(8001, 3000, 5000));
        assert!(write_is_complete(8001, 3001, 5000));
    }

    #[test]
    fn np_write_09_quota_zero_means_read_to_the_end() {
        assert!(!write_is_complete(10, 9, 0));
        assert!(write_is_complete(10, 10, 0));
    }

    #[test]
    fn np_write_10_and_11_counts() {
        use Nowait::{All, Cut, Nothing};
        assert_eq!(nowait(512, 0, 512, PipeType::Byte), All);
        assert_eq!(nowait(513, 0, 512, PipeType::Byte), Nothing);
        assert_eq!(nowait(514, 1, 512, PipeType::Byte), Cut(1));
        assert_eq!(nowait(514, 1, 512, PipeType::Message), Nothing);
        assert_eq!(nowait(513, 1, 512, PipeType::Message), All);
    }

    #[test]
    fn np_read_17_an_empty_read_takes_nothing() {
        assert_eq!(
            give(0, 5, false, ReadMode::Message),
            Gift {
                count: 0,
                part: true,
                consumed: false
            }
        );
        assert_eq!(
            give(0, 5, false, ReadMode::Byte),
            Gift {
                count: 0,
                part: false,
                consumed: false
            }
        );
        assert_eq!(
            give(0, 0, false, ReadMode::Message),
            Gift {
                count: 0,
                part: false,
                consumed: true
            }
        );
    }

    #[test]
    fn the_counters_may_wrap() {
        assert!(write_is_complete(5, u64::MAX - 4, 10));
        assert!(!write_is_complete(6, u64::MAX - 4, 10));
    }
}
