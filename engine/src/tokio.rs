//! Ends of byte pipes as tokio's streams. With the feature `tokio`.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Client, Completion, Done, Error, Op, Overlapped, PipeType, Result, Server};

/// An end of a byte pipe, as a stream of bytes for tokio's tasks (on other executors, too: nothing here needs tokio's
/// reactor). The other end's close is the end of the file. Messages are for [`Server::start`] and [`Client::start`], whose
/// futures keep their boundaries.
///
/// Reads are made of an operation with a buffer of its own: what has come for a read that was given up is there for the next
/// one. A write is taken as a whole, up to 64 KiB, and the next write or flush waits for it, and says what became of it. To
/// drop the stream takes back what is still waiting for room: flush before.
#[derive(Debug)]
pub struct Stream<E: AsEnd> {
    end: E,
    reading: Option<Overlapped>,
    /// What a read has brought, and from where on it is not given out.
    read: (Vec<u8>, usize),
    writing: Option<Overlapped>,
}

/// [`Server`] or [`Client`].
pub trait AsEnd: Unpin {
    #[doc(hidden)]
    fn start(&self, op: Op) -> Overlapped;
    #[doc(hidden)]
    fn pipe_type(&self) -> PipeType;
}

macro_rules! ends {
    ($($end:ident),*) => {
        $(impl AsEnd for $end {
            fn start(&self, op: Op) -> Overlapped {
                $end::start(self, op)
            }

            fn pipe_type(&self) -> PipeType {
                $end::pipe_type(self)
            }
        })*
    };
}

ends!(Server, Client);

/// What one operation carries at most.
const MOST: usize = 64 << 10;

impl<E: AsEnd> Stream<E> {
    /// Of an end that is connected.
    ///
    /// # Errors
    /// [`Error::InvalidMode`]: a message pipe.
    pub fn new(end: E) -> Result<Stream<E>> {
        if end.pipe_type() == PipeType::Message {
            return Err(Error::InvalidMode);
        }
        Ok(Stream {
            end,
            reading: None,
            read: (Vec::new(), 0),
            writing: None,
        })
    }

    /// The end.
    pub fn get_ref(&self) -> &E {
        &self.end
    }

    /// The end, without what was read ahead of it or is being written.
    pub fn into_inner(self) -> E {
        self.end
    }

    /// Until the write under way is over, if there is one.
    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writing) = &mut self.writing else {
            return Poll::Ready(Ok(()));
        };
        let completion = ready!(Pin::new(writing).poll(context));
        self.writing = None;
        Poll::Ready(completion.result.map(|_| ()).map_err(io::Error::from))
    }
}

impl<E: AsEnd> AsyncRead for Stream<E> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let (bytes, from) = &mut this.read;
            if *from < bytes.len() {
                let count = into.remaining().min(bytes.len() - *from);
                into.put_slice(&bytes[*from..*from + count]);
                *from += count;
                return Poll::Ready(Ok(()));
            }
            let reading = this.reading.get_or_insert_with(|| {
                let mut buffer = std::mem::take(bytes);
                buffer.clear();
                buffer.resize(into.remaining().min(MOST), 0);
                this.end.start(Op::read(buffer))
            });
            let Completion { result, buffer, .. } = ready!(Pin::new(reading).poll(context));
            this.reading = None;
            match result {
                Ok(Done::Read(read)) => {
                    let mut buffer = buffer;
                    buffer.truncate(read.count());
                    this.read = (buffer, 0);
                }
                // The end of the file.
                Err(Error::Broken) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(_) => return Poll::Ready(Err(io::ErrorKind::Other.into())),
            }
        }
    }
}

impl<E: AsEnd> AsyncWrite for Stream<E> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(context))?;
        let count = data.len().min(MOST);
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut writing = self.end.start(Op::write(data[..count].to_vec()));
        match Pin::new(&mut writing).poll(context) {
            // What a pipe that does not wait has taken (NP-WRITE-11).
            Poll::Ready(Completion { result, .. }) => Poll::Ready(match result {
                // It has taken nothing, and will not wait (NP-WRITE-10): tried again by whoever wants.
                Ok(Done::Wrote(0)) => Err(io::ErrorKind::WouldBlock.into()),
                Ok(Done::Wrote(count)) => Ok(count),
                Ok(_) => Err(io::ErrorKind::Other.into()),
                Err(error) => Err(error.into()),
            }),
            Poll::Pending => {
                self.writing = Some(writing);
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Until what was written is in the pipe; not until it is read.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(context)
    }

    /// As flush: a pipe has no half to close.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(context)
    }
}
