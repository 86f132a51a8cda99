//! A bare ring that commits in the frame: the header word is stored last, and a waiting reader
//! polls the very line that the message arrives on.
//!
//! The header holds the length, the frame's position, and a top bit that no word of the harness's
//! payloads has. So neither a stale header (its position is laps behind) nor a stale payload can
//! pass for a new header, at the price of trusting the payload, which a bare ring may.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::{Poll, map_both};
use crate::sys::Shared;
use crate::transport::{Parts, Role, Rx, Tx};

/// The reader's free-running byte position, in the control page.
const HEAD: usize = 0;

const HEADER: u64 = 1 << 63;

/// One half of one end.
pub(crate) struct Half {
    ring: Arc<Shared>,
    capacity: u64,
    /// Free-running position of this half, and where that is in the data.
    position: u64,
    offset: usize,
    /// Sending half: the reader's position as last seen.
    other: u64,
    poll: Poll,
}

/// Opens both halves: `(to send, to receive)`.
pub(crate) fn open(parts: Parts, role: Role) -> Result<(Half, Half)> {
    let poll = Poll {
        yields: parts.ticket.yields,
    };
    let (inbound, outbound) = map_both(parts, role)?;
    let half = |ring: Arc<Shared>| {
        let capacity = ring.capacity() as u64;
        Half {
            ring,
            capacity,
            position: 0,
            offset: 0,
            other: 0,
            poll,
        }
    };
    Ok((half(outbound), half(inbound)))
}

impl Half {
    /// The header of a frame at the present position, without its length: the position in words,
    /// which repeats every 16 GiB, when everything it could be confused with is long overwritten.
    #[inline]
    fn tag(&self) -> u64 {
        HEADER | ((self.position >> 3) << 32)
    }

    #[inline]
    fn advance(&mut self, bytes: usize) {
        self.position += bytes as u64;
        self.offset += bytes;
        if self.offset >= self.ring.capacity() {
            self.offset -= self.ring.capacity();
        }
    }
}

impl Tx for Half {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        let need = 8 + message.len().next_multiple_of(8);
        while self.position + need as u64 - self.other > self.capacity {
            self.other = self.ring.control(HEAD).load(Ordering::Acquire); // pairs with `recv`
            if self.position + need as u64 - self.other > self.capacity {
                self.poll.pause();
            }
        }
        self.ring.put(self.offset + 8, message);
        let header = self.tag() | message.len() as u64;
        self.ring.word(self.offset).store(header, Ordering::Release); // pairs with `recv`
        self.advance(need);
        Ok(())
    }
}

impl Rx for Half {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        let expected = self.tag() >> 32;
        let length = loop {
            let header = self.ring.word(self.offset).load(Ordering::Acquire); // pairs with `send`
            if header >> 32 == expected {
                break usize::try_from(header & u64::from(u32::MAX)).expect("at most 32 bits");
            }
            self.poll.pause();
        };
        self.ring.get(self.offset + 8, &mut buf[..length]);
        self.advance(8 + length.next_multiple_of(8));
        self.ring
            .control(HEAD)
            .store(self.position, Ordering::Release); // pairs with `send`
        Ok(length)
    }
}
