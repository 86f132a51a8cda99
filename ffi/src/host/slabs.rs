//! Links and who is on them: a slab is what two processes share, as many links as their connections need.
//!
//! The server is on each link with an index of its own, in a hurry. Its private memory decides which process a number stands
//! for, which ends are open and where a slot leads; the links only hear of it.
//!
//! What is new may lack memory, and is refused then. Noting that something is to be looked at needs none ([`Queue`]): where a
//! wait cannot be noted, the next doorbell looks there again.

use std::{
    cell::Cell,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use npfs::Lookout;
use npfs_ringbuf::{
    AttachError, BooksError, Conn, End, Faint, Grant, Link, ProcessIndex, Shared, Spot,
    books::{ConnId, ConnSpec, LinkBooks, LinkConfig},
    try_push,
};

use super::{
    HostResult,
    conns::{Connection, Ticket},
    queue::{Linked, Place, Queue, Turns},
    types::{
        NPFS_HOST_BROKEN, NPFS_HOST_FALLBACK, NPFS_HOST_INVALID, NPFS_HOST_NO_MEMORY, of_attach,
        of_books, or_stale,
    },
};

/// What is to be looked at, though nothing may ring for it.
pub(super) struct Due;
/// What the host is to be told of.
pub(super) struct Told;

/// The server: what is waited for, and every link.
pub(super) struct Server {
    config: LinkConfig,
    /// By the two processes, the lower number first.
    slabs: Turns<Vec<([u32; 2], Faint<Slab>)>>,
    links: Turns<Vec<Faint<OnLink>>>,
    /// `None`: it has ended.
    lookout: Turns<Option<Lookout<Waited>>>,
    pub(super) due_links: Queue<OnLink, Due>,
    pub(super) due: Queue<Connection, Due>,
    pub(super) told_tickets: Queue<Ticket, Told>,
    pub(super) told: Queue<Connection, Told>,
}

/// What is waited for, and whom it concerns. None of them is kept alive by that.
#[derive(Debug)]
pub(super) enum Waited {
    /// A bell.
    Bell(Faint<OnLink>),
    /// A word that is in the way of a connection's calls, by its number there.
    Obstacle(Faint<Connection>, u8),
}

impl Server {
    pub(super) fn new(config: LinkConfig) -> HostResult<Shared<Server>> {
        // Refused here rather than at each connection.
        drop(LinkBooks::create(&config).map_err(of_books)?);
        let lookout = Lookout::new().map_err(|error| {
            // It owns nothing: as in `of_attach`.
            std::mem::forget(error);
            NPFS_HOST_NO_MEMORY
        })?;
        let server = Server {
            config,
            slabs: Turns::default(),
            links: Turns::default(),
            lookout: Turns::new(Some(lookout)),
            due_links: Queue::new(),
            due: Queue::new(),
            told_tickets: Queue::new(),
            told: Queue::new(),
        };
        Shared::new(server).map_err(|_| NPFS_HOST_NO_MEMORY)
    }

    /// The descriptor, as long as it has not ended.
    pub(super) fn descriptor(&self) -> Option<i32> {
        let descriptor = |lookout: &mut Option<Lookout<Waited>>| {
            let lookout = lookout.as_ref()?;
            Some(lookout.as_fd().as_raw_fd())
        };
        self.lookout.with(descriptor).ok().flatten()
    }

    /// Nothing is waited for any more. What is left of slabs and connections can still be put and destroyed.
    pub(super) fn end(&self) {
        drop(self.lookout.with(Option::take));
        self.due_links.clear();
        self.due.clear();
        self.told_tickets.clear();
        self.told.clear();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.descriptor().is_none()
    }

    // ---- waiting -----------------------------------------------------------------------------------------------

    /// Without memory for that, the next doorbell finds it. (Called as C's functions are, so that nobody has to be ready for a
    /// panic of it.)
    #[inline(never)]
    #[allow(
        improper_ctypes_definitions,
        reason = "no C calls it; only that it does not unwind is asked for"
    )]
    pub(super) extern "C" fn wait_at(&self, spot: Spot, what: Waited) {
        let waits = self.lookout.with(|lookout| match lookout {
            Some(lookout) => lookout.wait_for(spot, what).err(),
            None => None,
        });
        if let Ok(Some(what)) = waits {
            self.is_due(what);
            self.poke();
        }
    }

    /// The descriptor is readable, and the next doorbell looks at this.
    pub(super) fn look_again(&self, conn: &Shared<Connection>) {
        if !self.has_ended() {
            self.due.push(conn);
            self.poke();
        }
    }

    fn poke(&self) {
        let _ = self.lookout.with(|lookout| {
            if let Some(lookout) = lookout {
                lookout.poke();
            }
        });
    }

    /// It is waited for no more, and to be looked at.
    fn is_due(&self, what: Waited) {
        match what {
            Waited::Bell(link) => {
                if let Some(link) = link.find() {
                    self.due_links.push(&link);
                }
            }
            Waited::Obstacle(conn, number) => {
                if let Some(conn) = conn.find() {
                    conn.passed(number);
                    self.due.push(&conn);
                }
            }
        }
    }

    /// What has been rung is due.
    pub(super) fn collect(&self) {
        let _ = self.lookout.with(|lookout| {
            if let Some(lookout) = lookout {
                lookout.collect(|what| self.is_due(what));
            }
        });
    }

    // ---- processes ---------------------------------------------------------------------------------------------

    /// What two processes share: theirs, or a new one.
    pub(super) fn slab(this: &Shared<Server>, one: u32, other: u32) -> HostResult<Shared<Slab>> {
        let pids = [one.min(other), one.max(other)];
        if one == 0 || other == 0 || this.has_ended() {
            return Err(NPFS_HOST_INVALID);
        }
        let known = this.slabs.with(|slabs| {
            let known = slabs.iter().find(|(pair, _)| *pair == pids);
            known.and_then(|(_, slab)| slab.find())
        })?;
        if let Some(slab) = known {
            // The numbers may be those of later processes.
            let mut dead = 0;
            let mut next = 0;
            while let Some(link) = slab.link(next) {
                dead += this.reap_link(&link);
                next += 1;
            }
            if dead == 0 {
                return Ok(slab);
            }
        }
        let slab = Slab {
            server: this.clone(),
            pids,
            links: Turns::default(),
        };
        let slab = Shared::new(slab).map_err(|_| NPFS_HOST_NO_MEMORY)?;
        let first = slab.new_link()?;
        slab.adopt(&first)?;
        this.slabs.with(|slabs| {
            slabs.retain(|(pair, slab)| *pair != pids && slab.is_owned());
            try_push(slabs, (pids, Shared::faint(&slab))).map_err(|_| NPFS_HOST_NO_MEMORY)
        })??;
        Ok(slab)
    }

    /// The first link from a place on; the place becomes the one behind it.
    fn link_from(&self, next: &mut usize) -> Option<Shared<OnLink>> {
        let find = |links: &mut Vec<Faint<OnLink>>| {
            let rest = links.get(*next..)?;
            let mut rest = rest.iter().inspect(|_| *next += 1);
            rest.find_map(Faint::find)
        };
        self.links.with(find).ok().flatten()
    }

    /// A process, or one thread of it, has ended: what it held is taken back.
    pub(super) fn sweep(&self, pid: u32, thread: Option<u32>) {
        let mut next = 0;
        while let Some(link) = self.link_from(&mut next) {
            let Some(index) = link.index_of(pid) else {
                continue;
            };
            match thread {
                Some(_) => {
                    let _ = link.books.with(|books| books.sweep(index, thread));
                }
                None => link.bury(index),
            }
        }
        if thread.is_none() {
            self.retire(pid);
        }
    }

    /// The same for every process that has exited: how many.
    pub(super) fn reap(&self) -> u32 {
        let mut count = 0_u32;
        let mut next = 0;
        while let Some(link) = self.link_from(&mut next) {
            while let Some(pid) = link.reap_one() {
                count = count.saturating_add(1);
                // The same on the links behind this one, so that it counts once.
                let mut later = next;
                while let Some(link) = self.link_from(&mut later) {
                    link.bury_if_exited(pid);
                }
                self.retire(pid);
            }
        }
        count
    }

    /// How many of a link have exited.
    fn reap_link(&self, link: &OnLink) -> usize {
        let mut count = 0;
        while let Some(pid) = link.reap_one() {
            self.retire(pid);
            count += 1;
        }
        count
    }

    /// No connection is made any more on what this process shared: who has its number next is somebody else.
    fn retire(&self, pid: u32) {
        let _ = self.slabs.with(|slabs| {
            slabs.retain(|(pair, slab)| !pair.contains(&pid) && slab.is_owned());
        });
    }
}

/// What two processes share.
pub(super) struct Slab {
    pub(super) server: Shared<Server>,
    pids: [u32; 2],
    links: Turns<Vec<Shared<OnLink>>>,
}

impl Slab {
    fn link(&self, at: usize) -> Option<Shared<OnLink>> {
        let link = self.links.with(|links| links.get(at).cloned());
        link.ok().flatten()
    }

    fn new_link(&self) -> HostResult<Shared<OnLink>> {
        let mut books = LinkBooks::create(&self.server.config).map_err(of_books)?;
        let pids = Pids::default();
        for pid in self.pids {
            if pids.index_of(pid).is_none() {
                pids.note(books.add_process(Some(pid)).map_err(of_books)?, pid);
            }
        }
        let own = books.add_further_process(None).map_err(of_books)?;
        let fd = books.share().map_err(of_books)?;
        let link = Link::attach_in_a_hurry(fd, own).map_err(of_attach)?;
        let link = OnLink {
            link,
            books: Turns::new(books),
            pids,
            conns: Turns::default(),
            due: Place::new(),
        };
        Shared::new(link).map_err(|_| NPFS_HOST_NO_MEMORY)
    }

    fn adopt(&self, link: &Shared<OnLink>) -> HostResult<()> {
        self.server.links.with(|links| {
            links.retain(Faint::is_owned);
            try_push(links, Shared::faint(link)).map_err(|_| NPFS_HOST_NO_MEMORY)
        })??;
        self.links
            .with(|links| try_push(links, link.clone()).map_err(|_| NPFS_HOST_NO_MEMORY))??;
        OnLink::listen(link, &self.server);
        Ok(())
    }

    /// A connection on the first of their links that has room, or on a new one.
    pub(super) fn connect(&self, spec: &ConnSpec, server_pid: u32) -> HostResult<Made> {
        let [one, other] = self.pids;
        let client_pid = match server_pid {
            pid if pid == one => other,
            pid if pid == other => one,
            _ => return Err(NPFS_HOST_INVALID),
        };
        let mut behind = self.links.with(|links| links.len())?;
        while let Some(at) = behind.checked_sub(1) {
            behind = at;
            let Some(link) = self.link(at) else { break };
            match link.connect(spec, server_pid, client_pid)? {
                Err(BooksError::NoFreeSlot | BooksError::NoFreeArea) => {}
                Err(error) => return Err(of_books(error)),
                Ok(made) => return OnLink::open(&link, made),
            }
        }
        let link = self.new_link()?;
        let made = link.connect(spec, server_pid, client_pid)?;
        let made = OnLink::open(&link, made.map_err(of_books)?)?;
        self.adopt(&link)?;
        Ok(made)
    }
}

/// A connection as it was made: not kept open by anybody but its two processes.
pub(super) struct Made {
    pub(super) on: Shared<OnLink>,
    pub(super) id: ConnId,
    /// By side.
    pub(super) ends: [Conn; 2],
}

/// Who has which index of a link; the server's own is not among them. 0: nobody.
#[derive(Default)]
struct Pids([Cell<u32>; ProcessIndex::COUNT]);

impl Pids {
    fn index_of(&self, pid: u32) -> Option<ProcessIndex> {
        let at = self.0.iter().position(|known| known.get() == pid);
        let index = at.and_then(|at| u8::try_from(at).ok());
        index.and_then(ProcessIndex::new).filter(|_| pid != 0)
    }

    fn note(&self, index: ProcessIndex, pid: u32) {
        if let Some(known) = self.0.get(usize::from(index.get())) {
            known.set(pid);
        }
    }

    /// It has this index no more.
    fn forget(&self, index: ProcessIndex) -> u32 {
        let known = self.0.get(usize::from(index.get()));
        known.map_or(0, Cell::take)
    }
}

/// A link, with its books.
pub(super) struct OnLink {
    pub(super) link: Shared<Link>,
    pub(super) books: Turns<LinkBooks>,
    pids: Pids,
    /// By slot; as many as have been of use.
    conns: Turns<Vec<Option<Faint<Connection>>>>,
    due: Place<OnLink>,
}

impl Linked<Due> for OnLink {
    fn place(&self) -> &Place<OnLink> {
        &self.due
    }
}

impl OnLink {
    /// The server is to be told when it is rung here.
    pub(super) fn listen(this: &Shared<OnLink>, server: &Server) {
        match Spot::at_own_bell(&this.link) {
            Some(spot) => server.wait_at(spot, Waited::Bell(Shared::faint(this))),
            None if server.has_ended() => {}
            None => {
                server.due_links.push(this);
                server.poke();
            }
        }
    }

    fn index_of(&self, pid: u32) -> Option<ProcessIndex> {
        self.pids.index_of(pid)
    }

    /// What it held is taken back, and it has no index here any more.
    fn bury(&self, index: ProcessIndex) {
        let _ = self.books.with(|books| books.bury(index));
        self.pids.forget(index);
    }

    /// The same for the first process that has exited: which it was.
    fn reap_one(&self) -> Option<u32> {
        let dead = self.books.with(LinkBooks::reap_one);
        dead.ok().flatten().map(|index| self.pids.forget(index))
    }

    fn bury_if_exited(&self, pid: u32) {
        if let Some(index) = self.index_of(pid)
            && self.has_exited(index)
        {
            self.bury(index);
        }
    }

    fn has_exited(&self, index: ProcessIndex) -> bool {
        let exited = self.books.with(|books| books.has_exited(index));
        exited.unwrap_or(false)
    }

    fn connect(
        &self,
        spec: &ConnSpec,
        server_pid: u32,
        client_pid: u32,
    ) -> HostResult<Result<(ConnId, [Grant; 2]), BooksError>> {
        let (Some(server), Some(client)) = (self.index_of(server_pid), self.index_of(client_pid))
        else {
            return Err(NPFS_HOST_INVALID);
        };
        let made = self
            .books
            .with(|books| books.connect(spec, server, client))?;
        Ok(made.map(|(id, of_server, of_client)| (id, [of_client, of_server])))
    }

    fn open(this: &Shared<OnLink>, (id, grants): (ConnId, [Grant; 2])) -> HostResult<Made> {
        let [client, server] = &grants;
        let open = |grant| Conn::open(&this.link, grant);
        match open(client).and_then(|client| Ok([client, open(server)?])) {
            Ok(ends) => Ok(Made {
                on: this.clone(),
                id,
                ends,
            }),
            Err(error) => {
                for end in [End::Client, End::Server] {
                    let _ = this.change(|books| books.close(id, end));
                }
                Err(match error {
                    // Made a moment ago, and another already.
                    AttachError::Grant(_) => NPFS_HOST_BROKEN,
                    error => of_attach(error),
                })
            }
        }
    }

    /// What a process has to know of an end, which it has from now on; and the link's descriptor, if it has not come to this
    /// link before.
    pub(super) fn export(
        &self,
        server: &Server,
        id: ConnId,
        end: End,
        pid: u32,
        send: bool,
    ) -> HostResult<(Grant, ProcessIndex, Option<OwnedFd>)> {
        if self
            .index_of(pid)
            .is_some_and(|index| self.has_exited(index))
        {
            // The number is another's by now, or nobody's.
            server.reap_link(self);
        }
        self.books.with(|books| {
            let grant = or_stale(books.grant(id, end))?;
            let fd = match send {
                true => Some(books.share().map_err(of_books)?),
                false => None,
            };
            let index = match self.index_of(pid) {
                Some(index) => index,
                None => {
                    let added = books.add_further_process(Some(pid));
                    let index = added.map_err(|error| match error {
                        BooksError::TooManyProcesses => NPFS_HOST_FALLBACK,
                        error => of_books(error),
                    })?;
                    self.pids.note(index, pid);
                    index
                }
            };
            or_stale(books.hold(id, end, index))?;
            Ok((grant, index, fd))
        })?
    }

    /// A process has an end no more.
    pub(super) fn release(&self, id: ConnId, end: End, pid: u32) -> HostResult<()> {
        let index = self.index_of(pid).ok_or(NPFS_HOST_INVALID)?;
        self.change(|books| books.release(id, end, index))
    }

    /// What is refused has closed meanwhile.
    pub(super) fn change(
        &self,
        change: impl FnOnce(&mut LinkBooks) -> Result<(), BooksError>,
    ) -> HostResult<()> {
        or_stale(self.books.with(change)?)
    }

    // ---- by slot -----------------------------------------------------------------------------------------------

    /// A slot serves a connection from now on: which one it has served before, if that is still known to somebody.
    pub(super) fn note(
        &self,
        slot: u32,
        conn: &Shared<Connection>,
    ) -> HostResult<Option<Shared<Connection>>> {
        let slot = usize::try_from(slot).map_err(|_| NPFS_HOST_INVALID)?;
        let before = self.conns.with(|conns| {
            while conns.len() <= slot {
                try_push(conns, None).map_err(|_| NPFS_HOST_NO_MEMORY)?;
            }
            let place = conns.get_mut(slot).ok_or(NPFS_HOST_NO_MEMORY)?;
            HostResult::Ok(place.replace(Shared::faint(conn)))
        })??;
        Ok(before.and_then(|before| before.find()))
    }

    /// A connection of this slot is gone, unless the slot serves another by now.
    pub(super) fn forget_slot(&self, slot: u32) {
        let _ = self.conns.with(|conns| {
            let place = usize::try_from(slot)
                .ok()
                .and_then(|slot| conns.get_mut(slot));
            if let Some(place) = place {
                *place = place.take().filter(Faint::is_owned);
            }
        });
    }

    pub(super) fn at(&self, slot: u32) -> Option<Shared<Connection>> {
        let slot = usize::try_from(slot).ok()?;
        let find = |conns: &mut Vec<Option<Faint<Connection>>>| conns.get(slot)?.as_ref()?.find();
        self.conns.with(find).ok().flatten()
    }
}

impl Drop for OnLink {
    fn drop(&mut self) {
        // Whatever waits at the bell keeps the memory; it is told, and lets go.
        self.link.own_bell().wake();
    }
}

/// Counts of what the server did itself.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) reads: Cell<u64>,
    pub(super) writes: Cell<u64>,
    pub(super) peeks: Cell<u64>,
    pub(super) queries: Cell<u64>,
    pub(super) tickets: Cell<u64>,
    pub(super) callbacks: Cell<u64>,
}

pub(super) fn count(of: &Cell<u64>) {
    of.set(of.get().wrapping_add(1));
}
