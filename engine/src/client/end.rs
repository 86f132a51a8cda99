//! The two ends of a pipe, with calls that block the calling thread.

use std::{io, ops::Deref, sync::Arc, time::Duration};

use npfs_ringbuf::{
    CompletionMode, Conn, Deadline, Info, Peek, PipeType, Read, ReadMode, SpinPolicy,
};

use super::{
    cancel::Cancel,
    channel::Answer,
    gift::{self, ClientEnd, EndToken, Giving},
    namespace::Namespace,
    server::ServerEnd,
};
use crate::{Error, Result, npfs::State, reactor::REACTOR, security::Mask, wire::Peer};

/// The server end of an instance. Made by [`crate::ServerOptions::create`]; dropping it closes it.
///
/// An instance serves one client at a time. A server that wants to serve the next one at once makes another instance
/// before it hands this one on, so that a client never finds the name without a listener:
///
/// ```no_run
/// # fn main() -> npfs::Result<()> {
/// use npfs::{Namespace, PipeType, ServerOptions};
///
/// let namespace = Namespace::open()?;
/// let mut options = ServerOptions::new();
/// options.pipe_type(PipeType::Message);
/// let mut server = options.first_instance(true).create(&namespace, "echo")?;
/// options.first_instance(false);
/// loop {
///     server.connect()?;
///     let connected = std::mem::replace(&mut server, options.create(&namespace, "echo")?);
///     std::thread::spawn(move || {
///         let mut buf = [0; 4096];
///         while let Ok(read) = connected.read(&mut buf) {
///             if connected.write(&buf[..read.count()]).is_err() {
///                 break;
///             }
///         }
///     });
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    end: Arc<ServerEnd>,
}

/// The client end of an instance. Made by [`crate::ClientOptions::open`]; dropping it closes it.
#[derive(Debug)]
pub struct Client {
    end: ClientEnd,
}

impl Server {
    pub(super) fn new(end: Arc<ServerEnd>) -> Server {
        Server { end }
    }

    #[inline]
    fn conn(&self) -> Result<impl Deref<Target = Conn>> {
        self.end.conn()
    }

    #[inline(always)]
    fn conn_at_hand(&self) -> Option<impl Deref<Target = Conn>> {
        self.end.conn_at_hand()
    }

    /// Gives this end to another process of this user, too, which takes it with [`Server::take`] within five seconds. It
    /// is kept open until then, also if this one is dropped; nobody can open it while no process has it.
    ///
    /// # Errors
    /// [`Error::NoBroker`], [`Error::NoResources`].
    pub fn give(&self) -> Result<EndToken> {
        self.end.give(Giving::whole(None))
    }

    /// The same to a process of another user's, whose number this is: it takes the end with [`Server::take`] and has the memory of this
    /// connection from then on, and of no other.
    ///
    /// # Errors
    /// [`Error::NotApart`]: this process has other connections with that of the other end, in the same memory
    /// ([`ServerOptions::apart`](crate::ServerOptions::apart) and [`ClientOptions::apart`](crate::ClientOptions::apart) keep them apart from
    /// the start); those of [`Server::give`].
    pub fn give_to_user(&self, uid: u32) -> Result<EndToken> {
        self.end.give(Giving::whole(Some(uid)))
    }

    /// Takes a server end that another process has given to this one. Both have it from then on: what one reads the other
    /// does not, a client that comes is the client of both, and it closes when both have dropped it (NP-CLOSE-01).
    ///
    /// # Errors
    /// [`Error::Token`]; [`Error::WrongEnd`]: it is a client end, and closed unless others have it;
    /// [`Error::NoResources`], [`Error::NoBroker`].
    pub fn take(namespace: &Namespace, token: EndToken) -> Result<Server> {
        match gift::take(namespace, token)? {
            Answer::TakenServer(end, ..) => Ok(Server::new(end)),
            Answer::TakenClient(..) => Err(Error::WrongEnd),
            _ => Err(Error::Protocol("no server end")),
        }
    }

    /// Waits until a client has opened this instance, listening again if it was disconnected (section 7).
    ///
    /// A client that has opened it already is what this waits for, too.
    ///
    /// # Errors
    /// [`Error::Closing`]: the client has come and gone; disconnect first (NP-LISTEN-11). [`Error::NotConnected`] in
    /// COMPLETE mode (NP-LISTEN-01). [`Error::NoBroker`].
    pub fn connect(&self) -> Result<()> {
        self.connect_with(&Cancel::new(), Deadline::NEVER)
    }

    /// As [`Server::connect`], for so long at most. The instance goes on listening afterwards.
    ///
    /// # Errors
    /// [`Error::TimedOut`], and as [`Server::connect`].
    pub fn connect_timeout(&self, timeout: Duration) -> Result<()> {
        self.connect_with(&Cancel::new(), Deadline::after(timeout))
    }

    /// As [`Server::connect`], until the deadline, or until `cancel` ends it (NP-LISTEN-09).
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::TimedOut`], and as [`Server::connect`].
    pub fn connect_with(&self, cancel: &Cancel, deadline: Deadline) -> Result<()> {
        match self.listen_with(cancel, deadline) {
            Err(Error::AlreadyConnected) => Ok(()), // NP-LISTEN-07
            other => other,
        }
    }

    /// FSCTL_PIPE_LISTEN as NT answers it: [`Server::connect_with`] without its kindness towards a client that has
    /// come already.
    ///
    /// # Errors
    /// [`Error::AlreadyConnected`] (NP-LISTEN-03), and as [`Server::connect_with`].
    pub fn listen_with(&self, cancel: &Cancel, deadline: Deadline) -> Result<()> {
        self.end.listen(cancel, deadline)
    }

    /// Cuts the client off (section 8): unread data of both directions is gone, and every call that is pending on
    /// either end is answered with [`Error::Disconnected`]. [`Server::connect`] then waits for the next client.
    ///
    /// # Errors
    /// [`Error::Disconnected`]: it is disconnected already (NP-DISC-03).
    pub fn disconnect(&self) -> Result<()> {
        self.end.disconnect()
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.end.state()
    }

    /// The client's process, user and group, as the kernel knows them.
    ///
    /// # Errors
    /// [`Error::NotConnected`], [`Error::Disconnected`]: there is none.
    pub fn client(&self) -> Result<Peer> {
        self.end.client().map(|(peer, _)| peer)
    }

    /// Bytes or messages: the pipe's, which its first instance has fixed (NP-CREATE-24).
    #[must_use]
    pub fn pipe_type(&self) -> PipeType {
        self.end.pipe_type
    }

    /// What this handle was granted.
    #[must_use]
    pub fn access(&self) -> Mask {
        self.end.granted
    }

    /// How this end reads, and whether its calls may pend.
    #[must_use]
    pub fn modes(&self) -> (ReadMode, CompletionMode) {
        self.end.modes()
    }

    /// Sets both; they stay over disconnects (NP-OBJ-10).
    ///
    /// # Errors
    /// [`Error::InvalidMode`] (NP-INFO-05), [`Error::Busy`] (NP-INFO-07).
    pub fn set_modes(&self, read: ReadMode, completion: CompletionMode) -> Result<()> {
        self.end.set_modes(read, completion)
    }

    /// How long its blocking calls spin before they sleep.
    pub fn set_spin_policy(&self, policy: SpinPolicy) {
        self.end.set_spin_policy(policy);
    }
}

impl Server {
    /// For operations that outlive the call which starts them.
    pub(super) fn shared_conn(&self) -> Result<Arc<Conn>> {
        self.end.shared()
    }

    #[allow(clippy::unnecessary_wraps, reason = "a client end is none")]
    pub(super) fn as_server(&self) -> Option<&Arc<ServerEnd>> {
        Some(&self.end)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let conn = self.end.connection();
        self.end.close();
        if let Some(conn) = conn {
            // What pends on it has its answer now.
            REACTOR.settle(&conn);
        }
    }
}

impl Client {
    pub(super) fn new(end: ClientEnd) -> Client {
        Client { end }
    }

    #[inline]
    #[allow(
        clippy::unnecessary_wraps,
        reason = "a server end may have no connection, and both share their calls"
    )]
    fn conn(&self) -> Result<&Conn> {
        Ok(&self.end.conn)
    }

    #[inline(always)]
    #[allow(
        clippy::unnecessary_wraps,
        reason = "a server end may have no connection, and both share their calls"
    )]
    fn conn_at_hand(&self) -> Option<&Conn> {
        Some(&self.end.conn)
    }

    /// Gives this end to another process of this user, too, which takes it with [`Client::take`] within five seconds. It
    /// is kept open until then, also if this one is dropped.
    ///
    /// # Errors
    /// [`Error::NoBroker`], [`Error::NoResources`].
    pub fn give(&self) -> Result<EndToken> {
        self.end.give(Giving::whole(None))
    }

    /// The same to a process of another user's, whose number this is: it takes the end with [`Client::take`] and has the memory of this
    /// connection from then on, and of no other.
    ///
    /// # Errors
    /// [`Error::NotApart`]: this process has other connections with that of the other end, in the same memory
    /// ([`ServerOptions::apart`](crate::ServerOptions::apart) and [`ClientOptions::apart`](crate::ClientOptions::apart) keep them apart from
    /// the start); those of [`Client::give`].
    pub fn give_to_user(&self, uid: u32) -> Result<EndToken> {
        self.end.give(Giving::whole(Some(uid)))
    }

    /// Takes a client end that another process has given to this one. Both have it from then on: what one reads the
    /// other does not, and the connection ends when both have dropped it (NP-CLOSE-01).
    ///
    /// # Errors
    /// [`Error::Token`]; [`Error::WrongEnd`]: it is a server end, and closed unless others have it;
    /// [`Error::NoResources`], [`Error::NoBroker`].
    pub fn take(namespace: &Namespace, token: EndToken) -> Result<Client> {
        match gift::take(namespace, token)? {
            Answer::TakenClient(end, _) => Ok(Client::new(end)),
            Answer::TakenServer(..) => Err(Error::WrongEnd),
            _ => Err(Error::Protocol("no client end")),
        }
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "a server end may have no connection, and both share their calls"
    )]
    pub(super) fn shared_conn(&self) -> Result<Arc<Conn>> {
        Ok(self.end.conn.clone())
    }

    #[allow(clippy::unused_self, reason = "of a server end this is its own")]
    pub(super) fn as_server(&self) -> Option<&Arc<ServerEnd>> {
        None
    }

    /// The server's process, user and group, as the kernel knows them.
    #[must_use]
    pub fn server(&self) -> Peer {
        self.end.server
    }

    /// Where it stands: connected, closing or disconnected.
    #[must_use]
    pub fn state(&self) -> State {
        self.end.conn.state().into()
    }

    /// Bytes or messages.
    #[must_use]
    pub fn pipe_type(&self) -> PipeType {
        self.end.conn.pipe_type()
    }

    /// What this handle was granted.
    #[must_use]
    pub fn access(&self) -> Mask {
        self.end.granted
    }

    /// How this end reads, and whether its calls may pend.
    #[must_use]
    pub fn modes(&self) -> (ReadMode, CompletionMode) {
        (self.end.conn.read_mode(), self.end.conn.completion_mode())
    }

    /// Sets both.
    ///
    /// # Errors
    /// [`Error::InvalidMode`] (NP-INFO-05), [`Error::Busy`] (NP-INFO-07).
    pub fn set_modes(&self, read: ReadMode, completion: CompletionMode) -> Result<()> {
        Ok(self.end.conn.set_modes(read, completion)?)
    }

    /// How long its blocking calls spin before they sleep.
    pub fn set_spin_policy(&self, policy: SpinPolicy) {
        self.end.conn.set_spin_policy(policy);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end.close();
        // What pends on it has its answer now.
        REACTOR.settle(&self.end.conn);
    }
}

/// The calls that both ends have.
macro_rules! calls {
    ($end:ident) => {
        impl $end {
            /// A call on the connection.
            #[inline(always)]
            fn with_conn<T>(
                &self,
                call: impl FnOnce(&Conn) -> std::result::Result<T, npfs_ringbuf::Error>,
            ) -> Result<T> {
                match self.conn_at_hand() {
                    Some(conn) => Ok(call(&conn)?),
                    None => self.late(call),
                }
            }

            /// One where it is not at hand.
            #[cold]
            #[inline(never)]
            fn late<T>(
                &self,
                call: impl FnOnce(&Conn) -> std::result::Result<T, npfs_ringbuf::Error>,
            ) -> Result<T> {
                Ok(call(&*self.conn()?)?)
            }

            /// Reads what is there, or waits for it (section 11). In message mode one message at most; of one that is
            /// longer than `buf`, [`Read::Part`], and the rest stays for the next read.
            ///
            /// # Errors
            /// [`Error::Broken`]: the other end has closed and nothing is left. [`Error::Disconnected`];
            /// [`Error::NotConnected`] on a server end that no client has opened; [`Error::Empty`] in COMPLETE mode;
            /// [`Error::AccessDenied`].
            #[inline]
            pub fn read(&self, buf: &mut [u8]) -> Result<Read> {
                self.with_conn(|conn| conn.read(buf))
            }

            /// As [`Self::read`], for so long at most.
            ///
            /// # Errors
            /// [`Error::TimedOut`], and as [`Self::read`].
            pub fn read_timeout(&self, buf: &mut [u8], timeout: Duration) -> Result<Read> {
                self.read_with(buf, &Cancel::new(), Deadline::after(timeout))
            }

            /// As [`Self::read`], until the deadline, or until `cancel` ends it.
            ///
            /// # Errors
            /// [`Error::Cancelled`], [`Error::TimedOut`], and as [`Self::read`].
            pub fn read_with(
                &self,
                buf: &mut [u8],
                cancel: &Cancel,
                deadline: Deadline,
            ) -> Result<Read> {
                Ok(self.conn()?.read_with(buf, &cancel.wait, deadline)?)
            }

            /// Reads what is there.
            ///
            /// # Errors
            /// [`Error::WouldBlock`], and as [`Self::read`].
            #[inline]
            pub fn try_read(&self, buf: &mut [u8]) -> Result<Read> {
                self.with_conn(|conn| conn.try_read(buf))
            }

            /// Writes one message, or bytes, and waits while the quota of the direction is used up (section 12). The
            /// answer is how many bytes: all of them, except in COMPLETE mode (NP-WRITE-10, 11).
            ///
            /// # Errors
            /// [`Error::Closing`]: the other end has closed. [`Error::Broken`]: it closed while this waited.
            /// [`Error::Disconnected`]; [`Error::NotConnected`] on a server end that no client has opened;
            /// [`Error::AccessDenied`].
            #[inline]
            pub fn write(&self, data: &[u8]) -> Result<usize> {
                self.with_conn(|conn| conn.write(data))
            }

            /// As [`Self::write`], for so long at most; a write that ends so takes its unread bytes back.
            ///
            /// # Errors
            /// [`Error::TimedOut`], and as [`Self::write`].
            pub fn write_timeout(&self, data: &[u8], timeout: Duration) -> Result<usize> {
                self.write_with(data, &Cancel::new(), Deadline::after(timeout))
            }

            /// As [`Self::write`], until the deadline, or until `cancel` ends it.
            ///
            /// # Errors
            /// [`Error::Cancelled`], [`Error::TimedOut`], and as [`Self::write`].
            pub fn write_with(
                &self,
                data: &[u8],
                cancel: &Cancel,
                deadline: Deadline,
            ) -> Result<usize> {
                Ok(self.conn()?.write_with(data, &cancel.wait, deadline)?)
            }

            /// Writes if it can complete at once.
            ///
            /// # Errors
            /// [`Error::WouldBlock`], and as [`Self::write`].
            #[inline]
            pub fn try_write(&self, data: &[u8]) -> Result<usize> {
                self.with_conn(|conn| conn.try_write(data))
            }

            /// Sends one message and waits for one (section 15). Nothing may be waiting to be read.
            ///
            /// # Errors
            /// [`Error::Busy`] (NP-XCV-03), [`Error::InvalidState`] (NP-XCV-01, 02), and as [`Self::read`] and
            /// [`Self::write`].
            pub fn transact(&self, request: &[u8], reply: &mut [u8]) -> Result<Read> {
                Ok(self.conn()?.transact(request, reply)?)
            }

            /// As [`Self::transact`], for so long at most.
            ///
            /// # Errors
            /// [`Error::TimedOut`], and as [`Self::transact`].
            pub fn transact_timeout(
                &self,
                request: &[u8],
                reply: &mut [u8],
                timeout: Duration,
            ) -> Result<Read> {
                self.transact_with(request, reply, &Cancel::new(), Deadline::after(timeout))
            }

            /// As [`Self::transact`], until the deadline, or until `cancel` ends it.
            ///
            /// # Errors
            /// [`Error::Cancelled`], [`Error::TimedOut`], and as [`Self::transact`].
            pub fn transact_with(
                &self,
                request: &[u8],
                reply: &mut [u8],
                cancel: &Cancel,
                deadline: Deadline,
            ) -> Result<Read> {
                let conn = self.conn()?;
                Ok(conn.transact_with(request, reply, &cancel.wait, deadline)?)
            }

            /// Looks at what can be read and takes nothing (section 14).
            ///
            /// # Errors
            /// [`Error::Broken`], [`Error::Disconnected`], [`Error::InvalidState`], [`Error::NotConnected`].
            pub fn peek(&self, buf: &mut [u8]) -> Result<Peek> {
                Ok(self.conn()?.peek(buf)?)
            }

            /// Waits until the other end has read everything that was written (section 13).
            ///
            /// # Errors
            /// [`Error::Broken`], [`Error::Disconnected`], [`Error::NotConnected`].
            pub fn flush(&self) -> Result<()> {
                Ok(self.conn()?.flush()?)
            }

            /// As [`Self::flush`], for so long at most.
            ///
            /// # Errors
            /// [`Error::TimedOut`], and as [`Self::flush`].
            pub fn flush_timeout(&self, timeout: Duration) -> Result<()> {
                self.flush_with(&Cancel::new(), Deadline::after(timeout))
            }

            /// As [`Self::flush`], until the deadline, or until `cancel` ends it.
            ///
            /// # Errors
            /// [`Error::Cancelled`], [`Error::TimedOut`], and as [`Self::flush`].
            pub fn flush_with(&self, cancel: &Cancel, deadline: Deadline) -> Result<()> {
                Ok(self.conn()?.flush_with(&cancel.wait, deadline)?)
            }

            /// Counts of what can be read and written (NP-INFO-09, 10).
            ///
            /// # Errors
            /// [`Error::Disconnected`], [`Error::NotConnected`].
            pub fn info(&self) -> Result<Info> {
                Ok(self.conn()?.info()?)
            }

            /// Shows the next message where it lies in shared memory, and takes it then.
            ///
            /// # Safety
            /// The other process is trusted not to write to a message that it has sent: see
            /// [`npfs_ringbuf::Conn::read_in_place`].
            ///
            /// # Errors
            /// As [`Self::read_with`].
            pub unsafe fn read_in_place<T>(
                &self,
                look: impl FnOnce(&[u8]) -> T,
                cancel: &Cancel,
                deadline: Deadline,
            ) -> Result<T> {
                let conn = self.conn()?;
                // SAFETY: the caller's promise is passed on.
                Ok(unsafe { conn.read_in_place(look, &cancel.wait, deadline) }?)
            }
        }

        /// For byte pipes, as std's pipes: the other end's close is the end of the file.
        impl io::Read for &$end {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                match $end::read(self, buf) {
                    Ok(read) => Ok(read.count()),
                    Err(Error::Broken) => Ok(0),
                    Err(error) => Err(error.into()),
                }
            }
        }

        /// Each write is one message on a message pipe. `flush` does not wait for the reader, as std's does not;
        /// the end's own `flush` does.
        impl io::Write for &$end {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                $end::write(self, data).map_err(io::Error::from)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        impl io::Read for $end {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                io::Read::read(&mut &*self, buf)
            }
        }

        impl io::Write for $end {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                io::Write::write(&mut &*self, data)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}

calls!(Server);
calls!(Client);
