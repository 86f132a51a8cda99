//! What clients and the broker say to each other: pure encoding and decoding.
//!
//! Messages travel on a SOCK_SEQPACKET socket, which keeps their boundaries. Each begins with a head of fixed size,
//! [`REQUEST_HEAD`] or [`REPLY_HEAD`] bytes, little-endian; names, security descriptors and listings follow it as a
//! tail. Any bytes may arrive: whatever is not exactly a message is a [`WireError`], and nothing panics.
//!
//! ```text
//! request   0 op u16 | 2 flags u16 | 4 tail u32 | 8 tag u64 | 16 end u64 | 24 access u32 | 28 quality u32 or four bytes
//!          32 three u32 | 44 u32 | 48 u64 | 56 namespace u64
//! reply     0 op u16 | 2 flags u16 | 4 tail u32 | 8 tag u64 | 16 end u64 | 24 status u32 | 28 granted u32
//!          32 link u64 | 40 process u8 ... | 44 peer: four u32 | 60 quality u32 | 64 grant, 96 bytes
//! ```

mod reply;
mod request;

use std::fmt;

use npfs_ringbuf::PipeType;

use crate::npfs::Direction;

pub use reply::{InstanceEntry, Peer, Reply, WireConn, Words};
pub use request::{Hello, Request};

/// The version of this protocol. A link's memory has its own, which must be equal on both sides.
pub const VERSION: u16 = 1;
/// Bytes before the tail of a request.
pub const REQUEST_HEAD: usize = 64;
/// Bytes before the tail of a reply.
pub const REPLY_HEAD: usize = 160;
/// Longest message: a head, two of the longest names or a name and a descriptor, and what stands between them.
pub const MOST: usize = REPLY_HEAD + 2 * 65_536 + 1024;

/// What arrived is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError(pub &'static str);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for WireError {}

/// Bytes from which fields are taken in turn.
#[derive(Clone, Copy, Debug)]
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(WireError("a message is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn pipe_type(&mut self) -> Result<PipeType, WireError> {
        match self.u8()? {
            0 => Ok(PipeType::Byte),
            1 => Ok(PipeType::Message),
            _ => Err(WireError("an unknown pipe type")),
        }
    }

    fn direction(&mut self) -> Result<Direction, WireError> {
        match self.u8()? {
            0 => Ok(Direction::Inbound),
            1 => Ok(Direction::Outbound),
            2 => Ok(Direction::Duplex),
            _ => Err(WireError("an unknown direction")),
        }
    }

    /// UTF-16 units, so many bytes of them.
    fn units(&mut self, bytes: usize) -> Result<Vec<u16>, WireError> {
        if !bytes.is_multiple_of(2) {
            return Err(WireError("half a UTF-16 unit"));
        }
        let units = self.bytes(bytes)?.chunks_exact(2);
        Ok(units
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect())
    }

    fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WireError("a message is too long"))
        }
    }
}

/// Bytes to which fields are added in turn.
#[derive(Debug, Default)]
struct Put(Vec<u8>);

impl Put {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Put {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Put {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Put {
        self.bytes(&value.to_le_bytes())
    }

    fn pipe_type(&mut self, pipe_type: PipeType) -> &mut Put {
        self.u8(u8::from(pipe_type == PipeType::Message))
    }

    fn direction(&mut self, direction: Direction) -> &mut Put {
        self.u8(match direction {
            Direction::Inbound => 0,
            Direction::Outbound => 1,
            Direction::Duplex => 2,
        })
    }

    fn units(&mut self, units: &[u16]) -> &mut Put {
        for unit in units {
            self.u16(*unit);
        }
        self
    }

    /// Zeros up to the end of the head, and the length of the tail into it.
    fn finish(mut self, head: usize, tail: &[u8]) -> Vec<u8> {
        self.0.resize(head, 0);
        let length = u32::try_from(tail.len()).unwrap_or(u32::MAX);
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(tail);
        self.0
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
