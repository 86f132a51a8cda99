//! npfs itself, through its public API: a message pipe, read in message mode, blocking calls, default spin policy.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use npfs::{
    Cancel, Client, ClientOptions, Deadline, Error, Namespace, PipeType, Read, ReadMode, Server,
    ServerOptions,
};

use crate::transport::{Rx, Ticket, Tx};

/// The server's end of a pipe, both halves: `(to send, to receive)`.
pub(crate) fn serve(
    namespace: &Namespace,
    ticket: &Ticket,
) -> Result<(Half<Server>, Half<Server>)> {
    let server = Arc::new(create(namespace, ticket)?);
    server.connect().context("connect")?;
    Ok((Half(server.clone()), Half(server)))
}

/// The client's.
pub(crate) fn open(namespace: &Namespace, ticket: &Ticket) -> Result<(Half<Client>, Half<Client>)> {
    let client = Arc::new(dial(namespace, ticket)?);
    Ok((Half(client.clone()), Half(client)))
}

pub(crate) fn create(namespace: &Namespace, ticket: &Ticket) -> Result<Server> {
    ServerOptions::new()
        .pipe_type(PipeType::Message)
        .in_quota(ticket.quota)
        .out_quota(ticket.quota)
        .create(namespace, &ticket.name)
        .context("create")
}

/// Opens the pipe; the server may still be about to make it.
pub(crate) fn dial(namespace: &Namespace, ticket: &Ticket) -> Result<Client> {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        let opened = ClientOptions::new()
            .read_mode(ReadMode::Message)
            .wait(Some(Duration::from_secs(5)))
            .open(namespace, &ticket.name);
        match opened {
            Err(Error::NoSuchPipe) if Instant::now() < patience => {
                thread::sleep(Duration::from_micros(200));
            }
            other => return other.context("open"),
        }
    }
}

/// The calls of both ends.
pub(crate) trait End: Send + Sync {
    fn write(&self, message: &[u8]) -> npfs::Result<usize>;
    fn read(&self, buf: &mut [u8]) -> npfs::Result<Read>;
    fn look<T>(&self, look: impl FnOnce(&[u8]) -> T) -> npfs::Result<T>;
}

macro_rules! end {
    ($end:ident) => {
        impl End for $end {
            #[inline]
            fn write(&self, message: &[u8]) -> npfs::Result<usize> {
                $end::write(self, message)
            }

            #[inline]
            fn read(&self, buf: &mut [u8]) -> npfs::Result<Read> {
                $end::read(self, buf)
            }

            #[inline]
            fn look<T>(&self, look: impl FnOnce(&[u8]) -> T) -> npfs::Result<T> {
                // SAFETY: the other end is this program's too, and writes through its calls only.
                unsafe { self.read_in_place(look, &Cancel::new(), Deadline::NEVER) }
            }
        }
    };
}

end!(Server);
end!(Client);

/// One half of one end.
pub(crate) struct Half<E>(Arc<E>);

impl<E: End> Tx for Half<E> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        match self.0.write(message) {
            Ok(count) if count == message.len() => Ok(()),
            Ok(count) => bail!("write took {count} of {} bytes", message.len()),
            Err(error) => Err(anyhow::Error::new(error).context("write")),
        }
    }
}

impl<E: End> Rx for Half<E> {
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
pub(crate) struct InPlace<E>(Half<E>);

/// Both halves, so.
pub(crate) fn in_place<E>(halves: (Half<E>, Half<E>)) -> (InPlace<E>, InPlace<E>) {
    (InPlace(halves.0), InPlace(halves.1))
}

impl<E: End> Tx for InPlace<E> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.0.send(message)
    }
}

impl<E: End> Rx for InPlace<E> {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.recv(buf)
    }

    #[inline]
    fn look<T>(&mut self, _: &mut [u8], look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        self.0.0.look(look).context("read in place")
    }
}
