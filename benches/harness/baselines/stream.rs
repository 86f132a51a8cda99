//! What the kernel offers: pipes and unix sockets, blocking, with read(2) and write(2).
//!
//! Their buffers stay as the system sets them: that is what one gets instead of npfs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, anyhow};

use crate::transport::{Parts, Rx, Tx};

/// One half of one end. A message of a byte stream is as many bytes as the reader asks for, as
/// both ends know the size; a packet socket gives its whole message at once.
pub(crate) struct Half(File);

/// Opens both halves: `(to send, to receive)`. The parts are `[to read, to write]`.
pub(crate) fn open(parts: Parts) -> Result<(Half, Half)> {
    let [read, write]: [OwnedFd; 2] = parts
        .fds
        .try_into()
        .map_err(|_| anyhow!("two descriptors were due"))?;
    Ok((Half(write.into()), Half(read.into())))
}

impl Tx for Half {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.0.write_all(message).context("write")
    }
}

impl Rx for Half {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read_exact(buf).context("read")?;
        Ok(buf.len())
    }
}
