//! One client process, as the broker sees it.

use std::{
    collections::{HashSet, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use super::links::LinkEntry;
use crate::{lock::lock, npfs::ClientId, security::Token, sys, wire::Peer};

/// A session. Any worker may send on it; only its own reads.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: ClientId,
    pub(super) fd: OwnedFd,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) peer: Peer,
    pub(super) token: Token,
    /// Bits of its addresses; 0 until it has said hello.
    bits: AtomicU8,
    /// Which worker reads.
    pub(super) worker: usize,
    out: Mutex<Out>,
    /// Requests that were not answered yet.
    pub(super) outstanding: AtomicUsize,
    /// Ends that it has open.
    pub(super) ends: AtomicUsize,
    /// Ends that it closed and did not have: no client of ours does that.
    pub(super) strays: AtomicUsize,
    place: Place,
}

/// What all sessions of one user take together, those included that have ended and whose processes live on.
#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) sessions: AtomicUsize,
    pub(super) links: AtomicUsize,
}

/// A session's place among its user's.
#[derive(Debug)]
struct Place(Arc<User>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What waits to be sent.
#[derive(Debug, Default)]
struct Out {
    queue: VecDeque<(Vec<u8>, Option<Arc<LinkEntry>>)>,
    bytes: usize,
    /// The socket was full: its worker waits for room.
    blocked: bool,
    /// Nothing is sent any more.
    ended: bool,
    /// It has not read for too long: it is to be cut off.
    overflown: bool,
    /// Links whose descriptors were sent.
    known: HashSet<u64>,
}

/// Bytes that may wait for a client at all.
pub(super) const MOST_WAITING: usize = 32 << 20;

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All of it has gone.
    Empty,
    /// The socket is full: tell the worker to wait for room.
    Blocked,
    /// Too many descriptors are on their way: tell the worker to try again in a while.
    Later,
    /// The session is over.
    Over,
}

impl Session {
    pub(super) fn new(
        id: ClientId,
        fd: OwnedFd,
        worker: usize,
        user: impl FnOnce(u32) -> io::Result<Arc<User>>,
    ) -> io::Result<Session> {
        let (pid, uid, gid) = sys::peer(fd.as_fd())?;
        let user = user(uid)?;
        user.sessions.fetch_add(1, Ordering::Relaxed);
        let place = Place(user);
        let pidfd = sys::peer_pidfd(fd.as_fd(), pid)?;
        let groups = sys::peer_groups(fd.as_fd());
        Ok(Session {
            id,
            pidfd,
            peer: Peer {
                pid,
                uid,
                gid,
                session: sys::session_of(pid),
            },
            token: Token::new(uid, gid, groups),
            bits: AtomicU8::new(0),
            worker,
            out: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            ends: AtomicUsize::new(0),
            strays: AtomicUsize::new(0),
            place,
            fd,
        })
    }

    /// It has said hello.
    pub(super) fn greet(&self, bits: u8) {
        self.bits.store(bits, Ordering::Relaxed);
    }

    /// Bits of its addresses; 0 until it has said hello.
    pub(super) fn bits(&self) -> u8 {
        self.bits.load(Ordering::Relaxed)
    }

    /// Queues a message. Messages of one lock of the state machine are queued under that lock, so that they leave in
    /// its order. `link`: its descriptor goes beside, unless this session has it.
    pub(super) fn queue(&self, message: Vec<u8>, link: Option<&Arc<LinkEntry>>) {
        let mut out = lock(&self.out);
        if out.ended {
            return;
        }
        if out.bytes > MOST_WAITING {
            out.ended = true;
            out.overflown = true;
            out.queue.clear();
            out.bytes = 0;
            return;
        }
        let link = link.filter(|link| out.known.insert(link.id)).cloned();
        out.bytes += message.len();
        out.queue.push_back((message, link));
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(super) fn flush(&self) -> Flushed {
        let mut out = lock(&self.out);
        if std::mem::take(&mut out.overflown) {
            return Flushed::Over;
        }
        if out.blocked {
            return Flushed::Empty; // its worker comes back to it
        }
        while let Some((message, link)) = out.queue.front() {
            let fd = self.fd.as_fd();
            let sent = match link {
                None => sys::send(fd, message, None, false),
                Some(link) => link.with_fd(|beside| sys::send(fd, message, Some(beside), false)),
            };
            match sent {
                Ok(()) => {
                    out.bytes -= message.len();
                    out.queue.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    out.blocked = true;
                    return Flushed::Blocked;
                }
                // Descriptors in flight are limited for each user: somebody has to receive some first.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    out.blocked = true;
                    return Flushed::Later;
                }
                Err(_) => return Flushed::Over,
            }
        }
        Flushed::Empty
    }

    /// The worker saw that there is room again.
    pub(super) fn unblock(&self) {
        lock(&self.out).blocked = false;
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.out).bytes
    }

    /// Whose it is.
    pub(super) fn user(&self) -> &Arc<User> {
        &self.place.0
    }

    pub(super) fn forget_link(&self, link: u64) -> bool {
        lock(&self.out).known.remove(&link)
    }

    /// Nothing more is sent, and what waits to be sent is dropped.
    pub(super) fn end(&self) {
        let mut out = lock(&self.out);
        out.ended = true;
        out.queue.clear();
        out.bytes = 0;
        drop(out);
        // Whoever has it too, a forked child for one, sees the end of it.
        let _ = sys::shutdown(self.fd.as_fd());
    }
}
