//! Connections as the server has them: an endpoint that is slow, and never in the way.
//!
//! A call that finds somebody in the middle of a step is answered BUSY, and the connection notes where it has announced
//! itself; the doorbell tells when that is over. What the host has done to a connection (closed, disconnected) is known here,
//! and not asked of shared memory.

use std::{
    cell::{Cell, RefCell},
    os::fd::OwnedFd,
    rc::{Rc, Weak},
    sync::Arc,
};

use npfs_ringbuf::{
    Answer, CompletionMode, Conn, End, Error, Grant, Info, Peek, ProcessIndex, Read, ReadMode,
    Rest, Spot, Started, State,
    books::{ConnId, ConnSpec},
};

use super::{
    HostResult,
    slabs::{OnLink, Served, Slab, Waited, count},
    types::{
        NPFS_HOST_BROKEN, NPFS_HOST_BUSY, NPFS_HOST_DISCONNECTED, NPFS_HOST_INVALID,
        NPFS_HOST_INVALID_STATE, NPFS_HOST_PENDING, NPFS_HOST_STALE, npfs_host_status, of_books,
        of_error,
    },
};

/// What the host says of a new connection.
pub(super) struct Wanted {
    pub(super) spec: ConnSpec,
    pub(super) server_pid: u32,
    /// By side, as everything here.
    pub(super) modes: [(ReadMode, CompletionMode); 2],
    pub(super) cookies: [u64; 2],
    /// An end is closed with the last process that has it.
    pub(super) holders_close: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    slab: Rc<Slab>,
    on: Rc<OnLink>,
    id: ConnId,
    pub(super) ends: [Arc<Conn>; 2],
    pub(super) cookies: [u64; 2],
    pub(super) served: Served,
    pub(super) tickets: RefCell<Vec<Weak<Ticket>>>,
    pub(super) watched: [Cell<bool>; 2],
    /// The host was told BUSY, and not yet that it is over.
    pub(super) is_owed: [Cell<bool>; 2],
    /// Words at which the server waits for its way to be free.
    obstacles: RefCell<Vec<usize>>,
    pub(super) open: [Cell<bool>; 2],
    pub(super) disconnected: Cell<bool>,
    /// The host knows that the other end has gone.
    pub(super) knows_of_end: [Cell<bool>; 2],
    /// The host has destroyed it; its tickets may still be there.
    pub(super) is_dead: Cell<bool>,
}

/// Which words may be in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
    Both,
}

impl Connection {
    pub(super) fn new(slab: &Rc<Slab>, wanted: &Wanted) -> HostResult<Rc<Connection>> {
        let made = slab.connect(&wanted.spec, wanted.server_pid)?;
        let conn = Rc::new(Connection {
            slab: slab.clone(),
            on: made.on,
            id: made.id,
            ends: made.ends,
            cookies: wanted.cookies,
            served: Served::default(),
            tickets: RefCell::default(),
            watched: Default::default(),
            is_owed: Default::default(),
            obstacles: RefCell::default(),
            open: [Cell::new(true), Cell::new(true)],
            disconnected: Cell::new(false),
            knows_of_end: Default::default(),
            is_dead: Cell::new(false),
        });
        if let Some(before) = conn.on.note(conn.ends[0].slot(), &conn) {
            // What its slot was marked for is not found by the slot any more.
            slab.server.look_again(Waited::Nobody(before));
        }
        let set_up = (|| {
            for (end, (read, completion)) in conn.ends.iter().zip(wanted.modes) {
                let set = end.set_modes(read, completion);
                set.map_err(|error| match error {
                    Error::InvalidMode => NPFS_HOST_INVALID_STATE,
                    // Nothing has happened on it yet that could refuse.
                    _ => NPFS_HOST_BROKEN,
                })?;
            }
            if !wanted.holders_close {
                // Who has a handle on an end is known to the host; who has come for it may be fewer.
                let mut books = conn.on.books.borrow_mut();
                for end in [End::Client, End::Server] {
                    let kept = books.keep(conn.id, end, true);
                    kept.map_err(|error| of_books(&error))?;
                }
            }
            Ok(())
        })();
        match set_up {
            Ok(()) => Ok(conn),
            Err(status) => {
                conn.destroy();
                Err(status)
            }
        }
    }

    /// Both ends are closed. What is left are its tickets.
    pub(super) fn destroy(&self) {
        self.is_dead.set(true);
        for end in [End::Client, End::Server] {
            let _ = self.close(end);
        }
    }

    // ---- processes ---------------------------------------------------------------------------------------------

    pub(super) fn export(
        &self,
        end: End,
        pid: u32,
        send: bool,
    ) -> HostResult<(Grant, ProcessIndex, Option<OwnedFd>)> {
        self.check_open(end)?;
        self.on.export(&self.slab.server, self.id, end, pid, send)
    }

    pub(super) fn release(&self, end: End, pid: u32) -> HostResult<()> {
        self.check_open(end)?;
        self.on.release(self.id, end, pid)
    }

    pub(super) fn token(&self) -> [u64; 2] {
        self.on.link.token()
    }

    // ---- states ------------------------------------------------------------------------------------------------

    fn check_open(&self, end: End) -> HostResult<()> {
        if self.open[end as usize].get() {
            Ok(())
        } else {
            Err(NPFS_HOST_STALE)
        }
    }

    /// The last handle of an end has gone.
    pub(super) fn close(&self, end: End) -> HostResult<()> {
        self.check_open(end)?;
        self.open[end as usize].set(false);
        self.knows_of_end[end.other() as usize].set(true);
        self.watched[end as usize].set(false);
        let closed = self.on.books.borrow_mut().close(self.id, end);
        // With its last holder, perhaps.
        closed.map_err(|_| NPFS_HOST_STALE)
    }

    /// Of the server end.
    pub(super) fn disconnect(&self) -> HostResult<()> {
        self.check_open(End::Server)?;
        if self.disconnected.replace(true) {
            return Err(NPFS_HOST_DISCONNECTED); // NP-DISC-03
        }
        self.knows_of_end.iter().for_each(|knows| knows.set(true));
        let done = self.on.books.borrow_mut().disconnect(self.id);
        done.map_err(|_| NPFS_HOST_STALE)
    }

    pub(super) fn set_modes(
        &self,
        end: End,
        read: ReadMode,
        completion: CompletionMode,
    ) -> HostResult<()> {
        self.check_open(end)?;
        let set = self.ends[end as usize].set_modes(read, completion);
        set.map_err(of_error)?;
        let nudged = self.on.books.borrow_mut().nudge(self.id);
        nudged.map_err(|_| NPFS_HOST_STALE)
    }

    pub(super) fn watch(&self, end: End, on: bool) -> HostResult<()> {
        self.check_open(end)?;
        self.watched[end as usize].set(on);
        self.ends[end as usize].watch(on);
        Ok(())
    }

    pub(super) fn is_signaled(&self, end: End) -> bool {
        self.ends[end as usize].is_signaled()
    }

    // ---- the slow endpoint -------------------------------------------------------------------------------------

    /// A call that may find somebody in the way. It is made again at once if they have left; else they will ring.
    fn at_once<T>(
        self: &Rc<Connection>,
        end: End,
        way: Way,
        call: impl FnMut(&Arc<Conn>) -> Result<T, Error>,
    ) -> HostResult<T> {
        self.check_open(end)?;
        if self.disconnected.get() && end == End::Client {
            return Err(NPFS_HOST_DISCONNECTED); // NP-DISC-08
        }
        let mut call = call;
        let own = &self.ends[end as usize];
        own.reclaim();
        for _ in 0..TRIES {
            match call(own) {
                Err(Error::Busy) => {}
                other => return other.map_err(of_error),
            }
            if self.wait_for(end, way) {
                self.is_owed[end as usize].set(true);
                return Err(NPFS_HOST_BUSY);
            }
        }
        self.is_owed[end as usize].set(true);
        let what = Waited::Nobody(Rc::downgrade(self));
        self.slab.server.look_again(what);
        Err(NPFS_HOST_BUSY)
    }

    /// Announces the server to whoever is in the way: `false`: nobody.
    fn wait_for(self: &Rc<Connection>, end: End, way: Way) -> bool {
        let own = &self.ends[end as usize];
        let mut spots: Vec<Spot> = Vec::new();
        if way != Way::Write {
            spots.append(&mut own.read_obstacles());
        }
        if way != Way::Read {
            spots.append(&mut own.write_obstacles());
        }
        let found = !spots.is_empty();
        for spot in spots {
            let word = spot.futex().addr();
            // One wait for each word is enough: whatever ends it, everybody looks again.
            if !self.obstacles.borrow().contains(&word) {
                self.obstacles.borrow_mut().push(word);
                let what = Waited::Obstacle(Rc::downgrade(self), word);
                self.slab.server.wait_at(spot, what);
            }
        }
        found
    }

    /// A word is not waited at any more.
    pub(super) fn passed(&self, word: usize) {
        self.obstacles.borrow_mut().retain(|known| *known != word);
    }

    pub(super) fn try_read(self: &Rc<Connection>, end: End, buf: &mut [u8]) -> HostResult<Read> {
        count(&self.served.reads);
        self.at_once(end, Way::Read, |conn| conn.try_read(buf))
    }

    pub(super) fn try_write(
        self: &Rc<Connection>,
        end: End,
        data: &[u8],
        beyond_quota: bool,
    ) -> HostResult<usize> {
        count(&self.served.writes);
        self.at_once(end, Way::Write, |conn| {
            if beyond_quota {
                conn.try_write_beyond_quota(data)
            } else {
                conn.try_write(data)
            }
        })
    }

    pub(super) fn peek(self: &Rc<Connection>, end: End, buf: &mut [u8]) -> HostResult<Peek> {
        count(&self.served.peeks);
        self.check_open(end)?;
        if self.disconnected.get() && end == End::Server {
            return Err(NPFS_HOST_INVALID_STATE); // NP-PEEK-02
        }
        self.at_once(end, Way::Read, |conn| conn.peek(buf))
    }

    pub(super) fn query(&self, end: End) -> HostResult<Info> {
        count(&self.served.queries);
        self.check_open(end)?;
        self.ends[end as usize].info().map_err(of_error)
    }

    // ---- tickets -----------------------------------------------------------------------------------------------

    /// The server's place in line: `true`: it has its answer already.
    pub(super) fn start(
        self: &Rc<Connection>,
        end: End,
        way: Way,
        cookie: u64,
        start: impl FnMut(&Arc<Conn>) -> Result<Started, Error>,
    ) -> HostResult<(Rc<Ticket>, bool)> {
        count(&self.served.tickets);
        let started = self.at_once(end, way, start)?;
        let ticket = Rc::new(Ticket {
            conn: self.clone(),
            end,
            way,
            cookie,
            started: RefCell::new(Some(started)),
            is_told: Cell::new(false),
        });
        let done = self.move_on(&ticket);
        ticket.is_told.set(done);
        let mut tickets = self.tickets.borrow_mut();
        tickets.retain(|ticket| ticket.strong_count() != 0);
        tickets.push(Rc::downgrade(&ticket));
        Ok((ticket, done))
    }

    /// Moves a ticket on: `true`: it has its answer. If not, it is looked at again when there is something new.
    pub(super) fn move_on(self: &Rc<Connection>, ticket: &Ticket) -> bool {
        let mut started = ticket.started.borrow_mut();
        let Some(started) = &mut *started else {
            return false;
        };
        started.conn().reclaim();
        for _ in 0..TRIES {
            if started.poll().is_some() {
                return true;
            }
            match started.rest() {
                Rest::AtTheBell => return false,
                Rest::Soon if self.wait_for(ticket.end, ticket.way) => return false,
                Rest::Soon | Rest::Look => {}
            }
        }
        let what = Waited::Nobody(Rc::downgrade(self));
        self.slab.server.look_again(what);
        false
    }

    // ---- what the doorbell finds ---------------------------------------------------------------------------------

    /// The other end of this one has gone, and the host does not know.
    pub(super) fn has_lost_its_peer(&self, end: End) -> bool {
        let own = end as usize;
        self.open[own].get()
            && !self.knows_of_end[own].get()
            && self.ends[own].state() != State::Connected
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.on.forget_slot(self.ends[0].slot(), self);
        for end in &self.ends {
            end.leave_to_broker();
        }
    }
}

/// One pended operation of the server's own.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) conn: Rc<Connection>,
    end: End,
    way: Way,
    pub(super) cookie: u64,
    /// `None`: the host has taken or removed it.
    started: RefCell<Option<Started>>,
    /// The host knows that it has its answer.
    pub(super) is_told: Cell<bool>,
}

impl Ticket {
    /// Withdraws it. `false`: it has completed, and is to be taken.
    pub(super) fn remove(&self) -> bool {
        let mut started = self.started.borrow_mut();
        let Some(own) = &mut *started else {
            return true;
        };
        if own.poll().is_none() && own.cancel() {
            *started = None;
            return true;
        }
        // Whatever a peer has made of it: it ends here.
        own.poll().is_none() && {
            *started = None;
            true
        }
    }

    /// Its answer, after which it is over; what a read has brought goes to `buf`, if there is one.
    pub(super) fn take(
        &self,
        buf: Option<&mut [u8]>,
    ) -> HostResult<Result<Answer, npfs_host_status>> {
        if !self.conn.move_on(self) {
            return Err(NPFS_HOST_PENDING);
        }
        let mut started = self.started.borrow_mut();
        let own = started.as_mut().ok_or(NPFS_HOST_INVALID)?;
        let answer = own.poll().ok_or(NPFS_HOST_PENDING)?;
        if let Some(buf) = buf {
            let data = own.data();
            let room = buf.get_mut(..data.len()).ok_or(NPFS_HOST_INVALID)?;
            room.copy_from_slice(data);
        }
        *started = None;
        Ok(answer.map_err(of_error))
    }

    pub(super) fn is_over(&self) -> bool {
        self.started.borrow().is_none()
    }
}

/// Looks at a word that others keep changing.
const TRIES: u32 = 4;
