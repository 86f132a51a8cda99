//! A bare ring that commits by an index: the writer stores a frame, then publishes `tail`.
//!
//! One writer, one reader. Head and tail lie on cache lines of their own, and each end keeps a
//! private copy of the other's index and loads the shared one only when its copy says full or
//! empty. A frame is its length in eight bytes and the payload, rounded up to eight.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::{Poll, map_both};
use crate::sys::Shared;
use crate::transport::{Parts, Role, Rx, Tx};

/// Free-running byte positions, in the control page.
const TAIL: usize = 0;
const HEAD: usize = 128; // not the neighbour line, which a prefetcher would drag along

/// One half of one end.
pub(crate) struct Half {
    ring: Arc<Shared>,
    capacity: u64,
    /// Free-running position of this half, and where that is in the data.
    position: u64,
    offset: usize,
    /// The other half's position as last seen.
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
        self.ring.put(self.offset, &message.len().to_le_bytes());
        self.ring.put(self.offset + 8, message);
        self.advance(need);
        self.ring
            .control(TAIL)
            .store(self.position, Ordering::Release); // pairs with `recv`
        Ok(())
    }
}

impl Rx for Half {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        while self.other == self.position {
            self.other = self.ring.control(TAIL).load(Ordering::Acquire); // pairs with `send`
            if self.other == self.position {
                self.poll.pause();
            }
        }
        let mut length = [0; 8];
        self.ring.get(self.offset, &mut length);
        let length = usize::from_le_bytes(length);
        self.ring.get(self.offset + 8, &mut buf[..length]);
        self.advance(8 + length.next_multiple_of(8));
        self.ring
            .control(HEAD)
            .store(self.position, Ordering::Release); // pairs with `send`
        Ok(length)
    }
}
