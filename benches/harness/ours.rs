//! npfs itself, through the public API of `npfs-ringbuf`: a message pipe, read in message mode,
//! blocking calls, default spin policy.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use npfs_ringbuf::books::{ConnSpec, LinkBooks, LinkConfig};
use npfs_ringbuf::{
    CompletionMode, Conn, Deadline, Grant, Link, PipeType, ProcessIndex, Read, ReadMode, Wait,
};

use crate::transport::{Parts, Rx, Ticket, Tx};

/// The broker's part, played by the process that runs the benchmark: a new link with one
/// connection. The answer is `[the server's, the client's]`; the books must outlive the run.
pub(crate) fn prepare(quota: u32, pids: [u32; 2]) -> Result<(LinkBooks, [Parts; 2])> {
    let mut books = LinkBooks::create(&LinkConfig::default()).context("new link")?;
    let [server, client] = pids;
    let server = books
        .add_process(Some(server))
        .context("server joins the link")?;
    let client = books
        .add_process(Some(client))
        .context("client joins the link")?;
    let spec = ConnSpec::new(PipeType::Message, quota);
    let (_, to_server, to_client) = books.connect(&spec, server, client).context("connect")?;
    let part = |process: ProcessIndex, grant: Grant| -> Result<Parts> {
        let grant = grant.to_bytes().to_vec();
        let ticket = Ticket {
            process: process.get(),
            grant,
            ..Ticket::default()
        };
        Ok(Parts {
            fds: vec![books.share().context("descriptor of the link")?],
            ticket,
        })
    };
    let parts = [part(server, to_server)?, part(client, to_client)?];
    Ok((books, parts))
}

/// One half of one end.
pub(crate) struct Half(Arc<Conn>);

/// Opens both halves: `(to send, to receive)`.
pub(crate) fn open(parts: Parts) -> Result<(Half, Half)> {
    let [fd]: [OwnedFd; 1] = parts
        .fds
        .try_into()
        .map_err(|_| anyhow!("one descriptor was due"))?;
    let process = ProcessIndex::new(parts.ticket.process).context("index of the process")?;
    let grant = Grant::from_bytes(&parts.ticket.grant).context("grant")?;
    let link = Link::attach(fd, process).context("attach")?;
    let conn = Arc::new(Conn::open(&link, &grant).context("open")?);
    conn.set_modes(ReadMode::Message, CompletionMode::Queue)
        .context("set modes")?;
    Ok((Half(conn.clone()), Half(conn)))
}

impl Tx for Half {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        match self.0.write(message) {
            Ok(count) if count == message.len() => Ok(()),
            Ok(count) => bail!("write took {count} of {} bytes", message.len()),
            Err(error) => Err(anyhow::Error::new(error).context("write")),
        }
    }
}

impl Rx for Half {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self.0.read(buf) {
            Ok(Read::Whole(count)) => Ok(count),
            Ok(Read::Part(count)) => bail!("read answered part of a message, {count} bytes"),
            Err(error) => Err(anyhow::Error::new(error).context("read")),
        }
    }
}

/// A half whose messages are looked at where they lie.
pub(crate) struct InPlace(Half);

/// As [`open`].
pub(crate) fn open_in_place(parts: Parts) -> Result<(InPlace, InPlace)> {
    let (tx, rx) = open(parts)?;
    Ok((InPlace(tx), InPlace(rx)))
}

impl Tx for InPlace {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.0.send(message)
    }
}

impl Rx for InPlace {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.recv(buf)
    }

    #[inline]
    fn look<T>(&mut self, _: &mut [u8], look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let conn = &self.0.0;
        // SAFETY: the other end is this program's too, and writes through the queue only.
        unsafe { conn.read_in_place(look, &Wait::new(), Deadline::NEVER) }.context("read in place")
    }
}
