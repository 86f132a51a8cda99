//! File objects: what handles stand for.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, TryLockError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use npfs_ringbuf::{Conn, ConnectionId, Read};

use super::{
    directory::Listing,
    io::{Event, Notes, Operation},
    open::Options,
    thread::cancel_blocking_on,
};
use crate::{
    Error, NtStatus, Result,
    client::{Channel, ClientEnd, ServerEnd},
    jobs,
    lock::lock,
    npfs::{EndId, EndInfo, State},
    reactor::REACTOR,
    wire::{Reply, Request},
};

/// A file object.
#[derive(Debug)]
pub(super) struct File {
    pub(super) kind: Kind,
    pub(super) options: Options,
    /// The file object as something to wait for; a new one is signalled (NP-IO-04).
    pub(super) signal: Event,
    /// Calls of a synchronous file object, one after the other (NP-IO-10).
    pub(super) turn: Mutex<()>,
    pub(super) pended: Mutex<Vec<Arc<Operation>>>,
    pub(super) notes: Notes,
    /// The server has read, or peeked at, something of this connection's client (NP-IMP-04): its number, or 0.
    consumed: AtomicU64,
    handles: AtomicUsize,
    shut: AtomicBool,
    /// What the broker has said of it last (of use when that has gone).
    known: Mutex<Option<EndInfo>>,
}

/// What is open.
#[derive(Debug)]
pub(super) enum Kind {
    /// `\Device\NamedPipe` (NP-NAME-09).
    Volume,
    /// `\Device\NamedPipe\`.
    Root(Mutex<Listing>),
    /// The server end of an instance.
    Server(Arc<ServerEnd>),
    /// The client end of one.
    Client(ClientEnd),
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

/// The connection that a call is made on.
pub(super) enum OnConn<'f> {
    Server(npfs_ringbuf::Held<'f, Conn>),
    Client(&'f Arc<Conn>),
}

impl OnConn<'_> {
    /// For what outlives the call.
    pub(super) fn share(&self) -> Arc<Conn> {
        match self {
            OnConn::Server(conn) => conn.share(),
            OnConn::Client(conn) => Arc::clone(conn),
        }
    }
}

impl Deref for OnConn<'_> {
    type Target = Conn;

    #[inline]
    fn deref(&self) -> &Conn {
        match self {
            OnConn::Server(conn) => conn,
            OnConn::Client(conn) => conn,
        }
    }
}

impl File {
    pub(super) fn new(kind: Kind, options: Options) -> Arc<File> {
        let signal = Event::new();
        signal.set();
        Arc::new(File {
            kind,
            options,
            signal,
            turn: Mutex::new(()),
            pended: Mutex::default(),
            notes: Notes::default(),
            consumed: AtomicU64::new(0),
            handles: AtomicUsize::new(0),
            shut: AtomicBool::new(false),
            known: Mutex::default(),
        })
    }

    pub(super) fn is_synchronous(&self) -> bool {
        self.options.is_synchronous()
    }

    /// On a synchronous file object calls come one after the other (NP-IO-10). POSSIBLE_DEADLOCK: another one is under way,
    /// and this is a callback that must not wait for it.
    pub(super) fn takes_its_turn(
        &self,
    ) -> std::result::Result<Option<MutexGuard<'_, ()>>, NtStatus> {
        if !self.is_synchronous() {
            return Ok(None);
        }
        if !jobs::must_not_wait() {
            return Ok(Some(lock(&self.turn)));
        }
        match self.turn.try_lock() {
            Ok(turn) => Ok(Some(turn)),
            Err(TryLockError::Poisoned(turn)) => Ok(Some(turn.into_inner())),
            Err(TryLockError::WouldBlock) => Err(NtStatus::POSSIBLE_DEADLOCK),
        }
    }

    /// Which end of a pipe it is; `None`: the volume, or the root.
    pub(super) fn side(&self) -> Option<Side> {
        match self.kind {
            Kind::Server(_) => Some(Side::Server),
            Kind::Client(_) => Some(Side::Client),
            Kind::Volume | Kind::Root(_) => None,
        }
    }

    /// The connection; the state's error without one. `on_device`: what the volume and the root answer (section 23).
    pub(super) fn conn(&self, on_device: NtStatus) -> std::result::Result<Arc<Conn>, NtStatus> {
        match &self.kind {
            Kind::Server(end) => end.shared().map_err(|error| error.status()),
            Kind::Client(end) => Ok(end.conn.clone()),
            Kind::Volume | Kind::Root(_) => Err(on_device),
        }
    }

    /// The same for a call, which keeps no count of its own.
    #[inline(always)]
    pub(super) fn on_conn(&self, on_device: NtStatus) -> std::result::Result<OnConn<'_>, NtStatus> {
        match &self.kind {
            Kind::Server(end) => end
                .conn()
                .map(OnConn::Server)
                .map_err(|error| error.status()),
            Kind::Client(end) => Ok(OnConn::Client(&end.conn)),
            Kind::Volume | Kind::Root(_) => Err(on_device),
        }
    }

    /// The connection, where a server end without a client is answered apart from what has no connection at all.
    pub(super) fn conn_if_any(
        &self,
        on_device: NtStatus,
    ) -> std::result::Result<Option<Arc<Conn>>, NtStatus> {
        match self.conn(on_device) {
            Err(_) if self.side() == Some(Side::Server) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The state as this end sees it.
    pub(super) fn state(&self) -> Option<State> {
        match &self.kind {
            Kind::Server(end) => Some(end.state()),
            Kind::Client(end) => Some(end.conn.state().into()),
            Kind::Volume | Kind::Root(_) => None,
        }
    }

    /// Why a call on the connection failed. A handle with the right to do it goes against the pipe's direction then, which
    /// the state comes before (NP-READ-06, NP-WRITE-02).
    pub(super) fn why(&self, error: npfs_ringbuf::Error, writes: bool) -> NtStatus {
        match (error, self.state()) {
            (npfs_ringbuf::Error::AccessDenied, Some(State::Disconnected)) => {
                NtStatus::PIPE_DISCONNECTED
            }
            (npfs_ringbuf::Error::AccessDenied, Some(State::Closing)) if writes => {
                NtStatus::PIPE_CLOSING
            }
            (npfs_ringbuf::Error::AccessDenied, _) => NtStatus::INVALID_PARAMETER,
            (error, _) => Error::from(error).status(),
        }
    }

    /// Whom to ask about it, and as what.
    pub(super) fn known_as(&self) -> std::result::Result<(Arc<Channel>, EndId), NtStatus> {
        match &self.kind {
            Kind::Server(end) => Ok(end.known_as()),
            Kind::Client(end) => Ok((end.channel.clone(), end.end)),
            Kind::Volume | Kind::Root(_) => Err(NtStatus::INVALID_PARAMETER),
        }
    }

    /// What only the broker knows of it.
    pub(super) fn describe(&self) -> std::result::Result<EndInfo, NtStatus> {
        let (channel, end) = self.known_as()?;
        let tag = channel.next_tag();
        match channel.ask(tag, &Request::Describe(tag, end)) {
            Ok(crate::client::Answer::Reply(Reply::Described { info, .. })) => {
                *lock(&self.known) = Some((*info).clone());
                Ok(*info)
            }
            Ok(_) => Err(NtStatus::REVISION_MISMATCH),
            // Without a broker: as it was when it was asked last, if it ever was.
            Err(Error::NoBroker { .. }) => {
                lock(&self.known).clone().ok_or(NtStatus::NO_SUCH_DEVICE)
            }
            Err(error) => Err(error.status()),
        }
    }

    /// NP-INFO-01: a client that was disconnected is told nothing.
    pub(super) fn refuses_queries(&self) -> bool {
        self.side() == Some(Side::Client) && self.state() == Some(State::Disconnected)
    }

    /// A read has brought something.
    pub(super) fn has_consumed(&self, of: ConnectionId, read: Read) {
        // A message without bytes is a message (NP-IMP-04); a part of none took nothing.
        if read != Read::Part(0) && self.side() == Some(Side::Server) {
            self.consumed.store(of.number(), Ordering::Release);
        }
    }

    /// Whether anything of this connection's client was read.
    pub(super) fn consumed_of(&self, id: ConnectionId) -> bool {
        self.consumed.load(Ordering::Acquire) == id.number()
    }

    /// Whether other processes may have this end, too.
    pub(super) fn may_be_anothers(&self) -> bool {
        match &self.kind {
            Kind::Server(end) => end.may_be_anothers(),
            Kind::Client(end) => end.may_be_anothers(),
            Kind::Volume | Kind::Root(_) => false,
        }
    }

    // ---- handles -----------------------------------------------------------------------------------------------

    pub(super) fn one_more(&self) {
        self.handles.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn one_less(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shut();
        }
    }

    /// What pends on it.
    pub(super) fn pended(&self) -> Vec<Arc<Operation>> {
        REACTOR.list_held();
        lock(&self.pended).clone()
    }

    /// Whether its last handle has gone.
    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    /// The last handle has gone (NP-CLOSE-01 to 05).
    fn shut(self: &Arc<Self>) {
        if self
            .known_as()
            .is_ok_and(|(channel, _)| channel.is_inherited())
        {
            return; // a child of fork(2) has nothing to close
        }
        self.shut.store(true, Ordering::SeqCst);
        let conn = self.conn(NtStatus::INVALID_HANDLE).ok();
        match &self.kind {
            Kind::Server(end) => {
                let (channel, _) = end.known_as();
                end.close();
                // The name is free when this returns (NP-OBJ-01), also for other sessions.
                channel.catch_up();
            }
            Kind::Client(end) => end.close(),
            Kind::Volume | Kind::Root(_) => {}
        }
        // Without a connection there are listens at most, which the broker answers if this was the last handle.
        let goes_on = conn.as_ref().is_none_or(|conn| !conn.is_closed());
        if let Some(conn) = conn {
            REACTOR.settle(&conn);
        }
        let left = self.pended();
        if self.may_be_anothers() && goes_on {
            // Other processes have it still: nothing that was issued here ends for that (NP-CLOSE-01).
            return REACTOR.forget_over();
        }
        // Whatever is left ends before this returns.
        left.iter()
            .for_each(|operation| operation.end_with_its_file());
        cancel_blocking_on(self, None);
        REACTOR.forget_over();
    }
}

/// Of a call of the typed layer.
pub(super) fn status<T>(result: Result<T>) -> std::result::Result<T, NtStatus> {
    result.map_err(|error: Error| error.status())
}
