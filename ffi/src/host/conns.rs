//! Connections as the server has them: an endpoint that is slow, and never in the way.
//!
//! A call that finds somebody in the middle of a step is answered BUSY, and the connection notes where it has announced
//! itself; the doorbell tells when that is over. What the host has done to a connection (closed, disconnected) is known here,
//! and not asked of shared memory.

use std::{cell::Cell, ops::Deref, os::fd::OwnedFd};

use npfs_ringbuf::{
    Answer, CompletionMode, Conn, End, Error, Grant, Info, Obstacles, Peek, ProcessIndex, Read,
    ReadMode, Rest, Shared, Started, State,
    books::{ConnId, ConnSpec},
    try_bytes, try_copy,
};

use super::{
    HostResult,
    queue::{Linked, Place, Queue, Turns},
    slabs::{Due, OnLink, Served, Slab, Told, Waited, count},
    types::{
        NPFS_HOST_BROKEN, NPFS_HOST_BUSY, NPFS_HOST_DISCONNECTED, NPFS_HOST_INVALID,
        NPFS_HOST_INVALID_STATE, NPFS_HOST_NO_MEMORY, NPFS_HOST_OK, NPFS_HOST_PENDING,
        NPFS_HOST_STALE, npfs_host_status, of_error,
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
pub(super) struct Connection {
    slab: Shared<Slab>,
    on: Shared<OnLink>,
    id: ConnId,
    pub(super) ends: [Conn; 2],
    pub(super) cookies: [u64; 2],
    pub(super) served: Served,
    /// Those that have no answer yet, and which the host has. They keep the connection, so none is left when it goes.
    pub(super) pending: Queue<Ticket, Pending>,
    pub(super) watched: [Cell<bool>; 2],
    /// The host was told BUSY, and not yet that it is over.
    pub(super) is_owed: [Cell<bool>; 2],
    /// Words at which the server waits for its way to be free: a bit each, by their numbers.
    obstacles: Cell<u8>,
    pub(super) open: [Cell<bool>; 2],
    pub(super) disconnected: Cell<bool>,
    /// The host knows that the other end has gone.
    pub(super) knows_of_end: [Cell<bool>; 2],
    /// The host has destroyed it; its tickets may still be there.
    pub(super) is_dead: Cell<bool>,
    /// What the host is to be told, by side.
    pub(super) events: [Cell<u32>; 2],
    due: Place<Connection>,
    told: Place<Connection>,
}

impl Linked<Due> for Connection {
    fn place(&self) -> &Place<Connection> {
        &self.due
    }
}

impl Linked<Told> for Connection {
    fn place(&self) -> &Place<Connection> {
        &self.told
    }
}

/// Of a connection's tickets.
pub(super) struct Pending;

/// Which words may be in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
    Both,
}

impl Connection {
    pub(super) fn new(slab: &Shared<Slab>, wanted: &Wanted) -> HostResult<Shared<Connection>> {
        let made = slab.connect(&wanted.spec, wanted.server_pid)?;
        let conn = Connection {
            slab: slab.clone(),
            on: made.on,
            id: made.id,
            ends: made.ends,
            cookies: wanted.cookies,
            served: Served::default(),
            pending: Queue::new(),
            watched: Default::default(),
            is_owed: Default::default(),
            obstacles: Cell::new(0),
            open: [Cell::new(true), Cell::new(true)],
            disconnected: Cell::new(false),
            knows_of_end: Default::default(),
            is_dead: Cell::new(false),
            events: Default::default(),
            due: Place::new(),
            told: Place::new(),
        };
        let conn = Shared::new(conn).map_err(|conn| {
            conn.destroy();
            NPFS_HOST_NO_MEMORY
        })?;
        match Connection::set_up(&conn, wanted) {
            Ok(()) => Ok(conn),
            Err(status) => {
                conn.destroy();
                Err(status)
            }
        }
    }

    fn set_up(this: &Shared<Connection>, wanted: &Wanted) -> HostResult<()> {
        let [client, server] = &this.ends;
        if let Some(before) = this.on.note(client.slot(), this)? {
            // What its slot was marked for is not found by the slot any more.
            this.slab.server.look_again(&before);
        }
        for (end, (read, completion)) in [client, server].into_iter().zip(wanted.modes) {
            let set = end.set_modes(read, completion);
            set.map_err(|error| match error {
                Error::InvalidMode => NPFS_HOST_INVALID_STATE,
                // Nothing has happened on it yet that could refuse.
                _ => NPFS_HOST_BROKEN,
            })?;
        }
        if !wanted.holders_close {
            // Who has a handle on an end is known to the host; who has come for it may be fewer.
            for end in [End::Client, End::Server] {
                let id = this.id;
                let kept = this.on.change(|books| books.keep(id, end, true));
                kept.map_err(|_| NPFS_HOST_INVALID)?;
            }
        }
        Ok(())
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
        // Refused: with its last holder, perhaps.
        self.on.change(|books| books.close(self.id, end))
    }

    /// Of the server end.
    pub(super) fn disconnect(&self) -> HostResult<()> {
        self.check_open(End::Server)?;
        if self.disconnected.replace(true) {
            return Err(NPFS_HOST_DISCONNECTED); // NP-DISC-03
        }
        self.knows_of_end.iter().for_each(|knows| knows.set(true));
        self.on.change(|books| books.disconnect(self.id))
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
        self.on.change(|books| books.nudge(self.id))
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

    pub(super) fn query(&self, end: End) -> HostResult<Info> {
        count(&self.served.queries);
        self.check_open(end)?;
        self.ends[end as usize].info().map_err(of_error)
    }

    // ---- what the doorbell finds ---------------------------------------------------------------------------------

    /// A word is not waited at any more.
    pub(super) fn passed(&self, number: u8) {
        self.obstacles.set(self.obstacles.get() & !bit(number));
    }

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
        let [client, server] = &self.ends;
        self.on.forget_slot(client.slot());
        client.leave_to_broker();
        server.leave_to_broker();
    }
}

fn bit(number: u8) -> u8 {
    1_u8.checked_shl(number.into()).unwrap_or(0)
}

// ---- the slow endpoint -----------------------------------------------------------------------------------------------

/// One end of a connection, which is kept by it.
#[derive(Clone)]
pub(super) struct OneEnd {
    pub(super) conn: Shared<Connection>,
    pub(super) end: End,
}

impl Deref for OneEnd {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        let [client, server] = &self.conn.ends;
        match self.end {
            End::Client => client,
            End::Server => server,
        }
    }
}

impl OneEnd {
    /// A call that may find somebody in the way. It is made again at once if they have left; else they will ring.
    fn at_once<T>(
        &self,
        way: Way,
        mut call: impl FnMut(&OneEnd) -> Result<T, Error>,
    ) -> HostResult<T> {
        let conn = &self.conn;
        conn.check_open(self.end)?;
        if conn.disconnected.get() && self.end == End::Client {
            return Err(NPFS_HOST_DISCONNECTED); // NP-DISC-08
        }
        self.reclaim();
        for _ in 0..TRIES {
            match call(self) {
                Err(Error::Busy) => {}
                other => return other.map_err(of_error),
            }
            if self.wait_for(way) {
                conn.is_owed[self.end as usize].set(true);
                return Err(NPFS_HOST_BUSY);
            }
        }
        conn.is_owed[self.end as usize].set(true);
        conn.slab.server.look_again(conn);
        Err(NPFS_HOST_BUSY)
    }

    /// Announces the server to whoever is in the way: `false`: nobody.
    fn wait_for(&self, way: Way) -> bool {
        const NOTHING: Obstacles = [const { None }; 3];
        let of_read = match way {
            Way::Write => NOTHING,
            Way::Read | Way::Both => self.read_obstacles(),
        };
        let of_write = match way {
            Way::Read => NOTHING,
            Way::Write | Way::Both => self.write_obstacles(),
        };
        let conn = &self.conn;
        let mut found = false;
        for spot in of_read.into_iter().chain(of_write).flatten() {
            found = true;
            // One wait for each word is enough: whatever ends it, everybody looks again.
            let (number, known) = (spot.number(), conn.obstacles.get());
            if known & bit(number) == 0 {
                conn.obstacles.set(known | bit(number));
                let what = Waited::Obstacle(Shared::faint(conn), number);
                conn.slab.server.wait_at(spot, what);
            }
        }
        found
    }

    pub(super) fn try_read(&self, buf: &mut [u8]) -> HostResult<Read> {
        count(&self.conn.served.reads);
        self.at_once(Way::Read, |end| end.deref().try_read(buf))
    }

    pub(super) fn try_write(&self, data: &[u8], beyond_quota: bool) -> HostResult<usize> {
        count(&self.conn.served.writes);
        self.at_once(Way::Write, |end| {
            if beyond_quota {
                end.try_write_beyond_quota(data)
            } else {
                end.deref().try_write(data)
            }
        })
    }

    pub(super) fn peek(&self, buf: &mut [u8]) -> HostResult<Peek> {
        count(&self.conn.served.peeks);
        self.conn.check_open(self.end)?;
        if self.conn.disconnected.get() && self.end == End::Server {
            return Err(NPFS_HOST_INVALID_STATE); // NP-PEEK-02
        }
        self.at_once(Way::Read, |end| end.deref().peek(buf))
    }
}

// ---- tickets ---------------------------------------------------------------------------------------------------------

/// What a ticket is for.
pub(super) enum What<'a> {
    /// So many bytes.
    Read(usize),
    Write(&'a [u8]),
    Flush,
    /// A request, and how many bytes of its answer.
    Transact(&'a [u8], usize),
}

impl What<'_> {
    pub(super) fn way(&self) -> Way {
        match self {
            What::Read(_) => Way::Read,
            What::Write(_) | What::Flush => Way::Write,
            What::Transact(..) => Way::Both,
        }
    }

    fn begin(&self, end: &OneEnd) -> Result<Started<OneEnd>, Error> {
        let room = |len| try_bytes(len).ok_or(Error::NoMemory);
        match *self {
            What::Read(len) => Started::read(end, room(len)?),
            What::Write(data) => Started::write(end, try_copy(data).ok_or(Error::NoMemory)?),
            What::Flush => Started::flush(end),
            What::Transact(request, len) => Started::transact(end, request, room(len)?),
        }
    }
}

/// One pended operation of the server's own.
pub(super) struct Ticket {
    pub(super) own: OneEnd,
    way: Way,
    pub(super) cookie: u64,
    /// `None`: it has not begun, or the host has taken or removed it.
    started: Turns<Option<Started<OneEnd>>>,
    /// The host knows that it has its answer.
    pub(super) is_told: Cell<bool>,
    pending: Place<Ticket>,
    told: Place<Ticket>,
}

impl Linked<Pending> for Ticket {
    fn place(&self) -> &Place<Ticket> {
        &self.pending
    }
}

impl Linked<Told> for Ticket {
    fn place(&self) -> &Place<Ticket> {
        &self.told
    }
}

impl Ticket {
    /// The server's place in line, to be begun.
    pub(super) fn new(own: OneEnd, way: Way, cookie: u64) -> HostResult<Shared<Ticket>> {
        count(&own.conn.served.tickets);
        let ticket = Ticket {
            own,
            way,
            cookie,
            started: Turns::new(None),
            is_told: Cell::new(false),
            pending: Place::new(),
            told: Place::new(),
        };
        Shared::new(ticket).map_err(|_| NPFS_HOST_NO_MEMORY)
    }

    /// Begins: PENDING, or OK if it has its answer already. (As `Server::wait_at`.)
    #[inline(never)]
    pub(super) extern "C" fn start(this: &Shared<Ticket>, what: &What<'_>) -> npfs_host_status {
        let begun = || {
            let started = this.own.at_once(this.way, |end| what.begin(end))?;
            this.started.with(|own| *own = Some(started))
        };
        if let Err(status) = begun() {
            return status;
        }
        let done = this.move_on();
        this.is_told.set(done);
        if done {
            return NPFS_HOST_OK;
        }
        this.own.conn.pending.push(this);
        NPFS_HOST_PENDING
    }

    /// Moves it on: `true`: it has its answer. If not, it is looked at again when there is something new. (As `Server::wait_at`.)
    #[inline(never)]
    pub(super) extern "C" fn move_on(&self) -> bool {
        let moved = self.started.with(|started| {
            let Some(started) = started else {
                return Some(false);
            };
            started.conn().reclaim();
            for _ in 0..TRIES {
                if started.poll().is_some() {
                    return Some(true);
                }
                match started.rest() {
                    Rest::AtTheBell => return Some(false),
                    Rest::Soon if self.own.wait_for(self.way) => return Some(false),
                    Rest::Soon | Rest::Look => {}
                }
            }
            None
        });
        match moved {
            Ok(Some(done)) => done,
            Ok(None) | Err(_) => {
                let conn = &self.own.conn;
                conn.slab.server.look_again(conn);
                false
            }
        }
    }

    /// Withdraws it. `false`: it has completed, and is to be taken.
    pub(super) fn remove(&self) -> bool {
        let removed = self.started.with(|started| {
            let Some(own) = started else {
                return true;
            };
            // Whatever a peer has made of it: it ends here.
            own.poll().is_none() && own.cancel() || own.poll().is_none()
        });
        let removed = removed == Ok(true);
        if removed {
            self.end();
        }
        removed
    }

    /// Its answer, after which it is over; what a read has brought goes to `buf`, if there is one.
    pub(super) fn take(
        &self,
        buf: Option<&mut [u8]>,
    ) -> HostResult<Result<Answer, npfs_host_status>> {
        if !self.move_on() {
            return Err(NPFS_HOST_PENDING);
        }
        let answer = self.started.with(|started| {
            let own = started.as_mut().ok_or(NPFS_HOST_INVALID)?;
            let answer = own.poll().ok_or(NPFS_HOST_PENDING)?;
            if let Some(buf) = buf {
                let data = own.data();
                let room = buf.get_mut(..data.len()).ok_or(NPFS_HOST_INVALID)?;
                room.copy_from_slice(data);
            }
            HostResult::Ok(answer)
        })??;
        self.end();
        Ok(answer.map_err(of_error))
    }

    fn end(&self) {
        drop(self.started.with(Option::take));
        let conn = &self.own.conn;
        conn.pending.retain(|ticket| !ticket.is_over());
    }

    pub(super) fn is_over(&self) -> bool {
        self.started.with(|started| started.is_none()) == Ok(true)
    }
}

/// Looks at a word that others keep changing.
const TRIES: u32 = 4;
