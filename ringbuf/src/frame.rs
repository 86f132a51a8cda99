//! The 16 bytes in front of every payload: a commit tag, then one word with length, flags and client context.
//!
//! ```text
//! position p        p + 8                                        p + 16
//! | tag: u64        | len: u32 | flags: u16 | context: u16        | payload ...      | next header
//! ```
//!
//! The tag is `p` plus the queue's secret. Positions run freely and never come back, so neither what an earlier lap
//! left behind nor any payload can pass for a header that has been committed. The tag is stored last (Release), and a
//! waiting reader polls it: the message arrives on the very line that it looks at.
//!
//! A frame never wraps round the end of its area. The next header follows at a multiple of 8, or of 64 where the
//! writer chose so; within 16 bytes of the area's end it stands at the beginning instead.

use crate::error::Fault;

/// Bytes of a header.
pub(crate) const HEADER: u64 = 16;

/// The second word of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Payload bytes; for a skip frame the distance to the next header.
    pub(crate) len: u32,
    pub(crate) flags: Flags,
    /// Reserved for the sender's security context (NP-IMP-04).
    pub(crate) context: u16,
}

/// Bits of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u16);

impl Flags {
    /// No payload: the next header is `len` bytes on.
    pub(crate) const SKIP: Flags = Flags(1);
    /// The message goes on in the next frame.
    pub(crate) const MORE: Flags = Flags(2);
    /// This frame goes on with the message of the one before.
    pub(crate) const CONTINUED: Flags = Flags(4);
    /// Withdrawn by its writer after it was committed (NP-CANCEL-03).
    pub(crate) const CANCELLED: Flags = Flags(8);
    /// The next header stands on a cache line.
    pub(crate) const ALIGNED: Flags = Flags(16);

    const KNOWN: u16 = 31;

    pub(crate) const fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    #[must_use]
    pub(crate) const fn with(self, flag: Flags) -> Flags {
        Flags(self.0 | flag.0)
    }
}

impl Header {
    pub(crate) const fn encode(self) -> u64 {
        self.len as u64 | (self.flags.0 as u64) << 32 | (self.context as u64) << 48
    }

    /// Length and flags, unchecked.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the fields are cut out of one word"
    )]
    #[inline(always)]
    pub(crate) const fn parts(word: u64) -> (u32, Flags) {
        (word as u32, Flags((word >> 32) as u16))
    }

    /// Parses the word of a header that stands `offset` bytes into an area of `area` bytes (a power of two).
    pub(crate) fn decode(word: u64, offset: u64, area: u64) -> Result<Header, Fault> {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the fields are cut out of one word"
        )]
        let (len, flags) = Header::parts(word);
        let header = Header {
            len,
            flags,
            context: (word >> 48) as u16,
        };
        let len = u64::from(header.len);
        if header.flags.0 & !Flags::KNOWN != 0 {
            return Err(Fault::FrameFlags);
        }
        if header.flags.has(Flags::SKIP) {
            // A skip frame leads at most one lap ahead.
            return if len >= HEADER && len <= area && len % 8 == 0 {
                Ok(header)
            } else {
                Err(Fault::FrameLength)
            };
        }
        if offset + HEADER + len > area {
            return Err(Fault::FrameLength);
        }
        Ok(header)
    }
}

/// Position of the header that follows a payload ending at `end`.
#[inline]
pub(crate) const fn next_header(end: u64, flags: Flags, area: u64) -> u64 {
    on_header(straight_on(end, flags), area)
}

/// The same where the area does not end before.
#[inline]
pub(crate) const fn straight_on(end: u64, flags: Flags) -> u64 {
    let align = if flags.has(Flags::ALIGNED) { 64 } else { 8 };
    end.wrapping_add(align - 1) & !(align - 1)
}

/// The same position, or the next lap's beginning where no header fits before the end.
#[inline]
pub(crate) const fn on_header(pos: u64, area: u64) -> u64 {
    if pos & (area - 1) > area - HEADER {
        next_lap(pos, area)
    } else {
        pos
    }
}

/// The beginning of the lap after the one that `pos` is in.
pub(crate) const fn next_lap(pos: u64, area: u64) -> u64 {
    (pos & !(area - 1)).wrapping_add(area)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_word() {
        let header = Header {
            len: 0x7fff_0001,
            flags: Flags::MORE.with(Flags::ALIGNED),
            context: 0xbeef,
        };
        let area = 1 << 40;
        assert_eq!(Header::decode(header.encode(), 0, area), Ok(header));
    }

    #[test]
    fn a_frame_may_end_where_the_area_ends_and_no_further() {
        let header = |len| {
            Header {
                len,
                flags: Flags::default(),
                context: 0,
            }
            .encode()
        };
        assert!(Header::decode(header(4096 - 64 - 16), 64, 4096).is_ok());
        assert_eq!(
            Header::decode(header(4096 - 64 - 15), 64, 4096),
            Err(Fault::FrameLength)
        );
        assert_eq!(
            Header::decode(header(u32::MAX), 0, 4096),
            Err(Fault::FrameLength)
        );
    }

    #[test]
    fn unknown_flags_and_odd_skips_are_faults() {
        let skip = |len| Header {
            len,
            flags: Flags::SKIP,
            context: 0,
        };
        assert!(Header::decode(skip(4096).encode(), 8, 4096).is_ok());
        for len in [0, 8, 20, 4104] {
            assert_eq!(
                Header::decode(skip(len).encode(), 8, 4096),
                Err(Fault::FrameLength)
            );
        }
        assert_eq!(Header::decode(1 << 40, 0, 4096), Err(Fault::FrameFlags));
    }

    #[test]
    fn no_header_stands_across_the_end() {
        assert_eq!(next_header(4096 - 16, Flags::default(), 4096), 4096 - 16);
        assert_eq!(next_header(4096 - 15, Flags::default(), 4096), 4096);
        assert_eq!(next_header(65, Flags::ALIGNED, 4096), 128);
        assert_eq!(next_header(4096 - 60, Flags::ALIGNED, 4096), 4096);
    }
}
