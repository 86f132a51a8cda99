//! Links and who is on them: a slab is what two processes share, as many links as their connections need.
//!
//! The server is on each link with an index of its own, in a hurry. Its private memory decides which process a number stands
//! for, which ends are open and where a slot leads; the links only hear of it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::{Rc, Weak},
    sync::Arc,
};

use npfs::Lookout;
use npfs_ringbuf::{
    AttachError, BooksError, Conn, End, Grant, Link, ProcessIndex, Shared, Spot,
    books::{ConnId, ConnSpec, LinkBooks, LinkConfig},
};

use super::{
    HostResult,
    conns::Connection,
    types::{
        NPFS_HOST_BROKEN, NPFS_HOST_FALLBACK, NPFS_HOST_INVALID, NPFS_HOST_NO_MEMORY,
        NPFS_HOST_STALE, of_attach, of_books,
    },
};

/// The server: what is waited for, and every link.
#[derive(Debug)]
pub(super) struct Server {
    config: LinkConfig,
    /// By the two processes, the lower number first.
    slabs: RefCell<HashMap<[u32; 2], Weak<Slab>>>,
    links: RefCell<Vec<Weak<OnLink>>>,
    /// `None`: it has ended.
    lookout: RefCell<Option<Lookout>>,
    /// What a key of the lookout stands for.
    waits: RefCell<HashMap<usize, Waited>>,
    /// To be looked at once more, though nothing rings for it.
    again: RefCell<Vec<Waited>>,
}

/// What is waited for, and whom it concerns. None of them is kept alive by that.
#[derive(Clone, Debug)]
pub(super) enum Waited {
    /// A bell.
    Bell(Weak<OnLink>),
    /// A word that is in the way of a connection's calls, by its address.
    Obstacle(Weak<Connection>, usize),
    /// Nothing: somebody was in the way, and is not.
    Nobody(Weak<Connection>),
}

impl Server {
    pub(super) fn new(config: LinkConfig) -> HostResult<Rc<Server>> {
        // Refused here rather than at each connection.
        drop(LinkBooks::create(&config).map_err(|error| of_books(&error))?);
        let lookout = Lookout::new().map_err(|_| NPFS_HOST_NO_MEMORY)?;
        Ok(Rc::new(Server {
            config,
            slabs: RefCell::default(),
            links: RefCell::default(),
            lookout: RefCell::new(Some(lookout)),
            waits: RefCell::default(),
            again: RefCell::default(),
        }))
    }

    /// The descriptor, as long as it has not ended.
    pub(super) fn descriptor(&self) -> Option<i32> {
        let lookout = self.lookout.borrow();
        lookout.as_ref().map(|lookout| lookout.as_fd().as_raw_fd())
    }

    /// Nothing is waited for any more. What is left of slabs and connections can still be put and destroyed.
    pub(super) fn end(&self) {
        drop(self.lookout.borrow_mut().take());
        self.waits.borrow_mut().clear();
        self.again.borrow_mut().clear();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lookout.borrow().is_none()
    }

    // ---- waiting -----------------------------------------------------------------------------------------------

    pub(super) fn wait_at(&self, spot: Spot, what: Waited) {
        if let Some(lookout) = &mut *self.lookout.borrow_mut() {
            let key = lookout.wait_for(spot);
            self.waits.borrow_mut().insert(key, what);
        }
    }

    /// The descriptor is readable, and the next look finds this.
    pub(super) fn look_again(&self, what: Waited) {
        if let Some(lookout) = &*self.lookout.borrow() {
            self.again.borrow_mut().push(what);
            lookout.poke();
        }
    }

    /// What has been rung, or is to be looked at once more.
    pub(super) fn collect(&self) -> Vec<Waited> {
        let rung = match &mut *self.lookout.borrow_mut() {
            Some(lookout) => lookout.collect(),
            None => Vec::new(),
        };
        let mut waits = self.waits.borrow_mut();
        let mut news: Vec<Waited> = rung.iter().filter_map(|key| waits.remove(key)).collect();
        news.append(&mut self.again.borrow_mut());
        news
    }

    // ---- processes ---------------------------------------------------------------------------------------------

    /// What two processes share: theirs, or a new one.
    pub(super) fn slab(self: &Rc<Server>, one: u32, other: u32) -> HostResult<Rc<Slab>> {
        let pids = [one.min(other), one.max(other)];
        if pids[0] == 0 || self.has_ended() {
            return Err(NPFS_HOST_INVALID);
        }
        let known = self.slabs.borrow().get(&pids).and_then(Weak::upgrade);
        if let Some(slab) = known {
            // The numbers may be those of later processes.
            let links = slab.links.borrow().clone();
            let dead = links.iter().map(|link| self.reap_link(link).len());
            if dead.sum::<usize>() == 0 {
                return Ok(slab);
            }
        }
        let slab = Rc::new(Slab {
            server: self.clone(),
            pids,
            links: RefCell::default(),
        });
        let first = slab.new_link()?;
        slab.adopt(first);
        self.slabs.borrow_mut().insert(pids, Rc::downgrade(&slab));
        Ok(slab)
    }

    fn live_links(&self) -> Vec<Rc<OnLink>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.strong_count() != 0);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// A process, or one thread of it, has ended: what it held is taken back.
    pub(super) fn sweep(&self, pid: u32, thread: Option<u32>) {
        for link in self.live_links() {
            let Some(index) = link.index_of(pid) else {
                continue;
            };
            match thread {
                Some(thread) => link.books.borrow_mut().sweep(index, Some(thread)),
                None => {
                    link.books.borrow_mut().bury(index);
                    link.forget(&[index]);
                }
            }
        }
        if thread.is_none() {
            self.retire(&[pid]);
        }
    }

    /// The same for every process that has exited: how many.
    pub(super) fn reap(&self) -> u32 {
        let mut dead = Vec::new();
        for link in self.live_links() {
            dead.append(&mut self.reap_link(&link));
        }
        dead.sort_unstable();
        dead.dedup();
        u32::try_from(dead.len()).unwrap_or(u32::MAX)
    }

    fn reap_link(&self, link: &OnLink) -> Vec<u32> {
        let dead = link.books.borrow_mut().reap();
        let dead = link.forget(&dead);
        self.retire(&dead);
        dead
    }

    /// No connection is made any more on what these processes shared: who has their numbers next is somebody else.
    fn retire(&self, pids: &[u32]) {
        let is_theirs = |pair: &[u32; 2]| pair.iter().any(|pid| pids.contains(pid));
        self.slabs
            .borrow_mut()
            .retain(|pair, slab| !is_theirs(pair) && slab.strong_count() != 0);
    }
}

/// What two processes share.
#[derive(Debug)]
pub(super) struct Slab {
    pub(super) server: Rc<Server>,
    pids: [u32; 2],
    links: RefCell<Vec<Rc<OnLink>>>,
}

impl Slab {
    fn new_link(&self) -> HostResult<Rc<OnLink>> {
        let refused = |error: BooksError| of_books(&error);
        let mut books = LinkBooks::create(&self.server.config).map_err(refused)?;
        let mut pids = Vec::new();
        for pid in self.pids {
            if pids.iter().all(|(known, _)| *known != pid) {
                pids.push((pid, books.add_process(Some(pid)).map_err(refused)?));
            }
        }
        let own = books.add_further_process(None).map_err(refused)?;
        let fd = books.share().map_err(refused)?;
        let link = Link::attach_in_a_hurry(fd, own).map_err(of_attach)?;
        Ok(Rc::new(OnLink {
            link,
            books: RefCell::new(books),
            pids: RefCell::new(pids),
            conns: RefCell::default(),
        }))
    }

    fn adopt(&self, link: Rc<OnLink>) {
        link.listen(&self.server);
        self.server.links.borrow_mut().push(Rc::downgrade(&link));
        self.links.borrow_mut().push(link);
    }

    /// A connection on the first of their links that has room, or on a new one.
    pub(super) fn connect(&self, spec: &ConnSpec, server_pid: u32) -> HostResult<Made> {
        let [one, other] = self.pids;
        let client_pid = match server_pid {
            pid if pid == one => other,
            pid if pid == other => one,
            _ => return Err(NPFS_HOST_INVALID),
        };
        let links = self.links.borrow().clone();
        for link in links.iter().rev() {
            match link.connect(spec, server_pid, client_pid) {
                Err(BooksError::NoFreeSlot | BooksError::NoFreeArea) => {}
                Err(error) => return Err(of_books(&error)),
                Ok(made) => return link.open(made),
            }
        }
        let link = self.new_link()?;
        let made = link.connect(spec, server_pid, client_pid);
        let made = link.open(made.map_err(|error| of_books(&error))?)?;
        self.adopt(link);
        Ok(made)
    }
}

/// A connection as it was made: not kept open by anybody but its two processes.
pub(super) struct Made {
    pub(super) on: Rc<OnLink>,
    pub(super) id: ConnId,
    /// By side.
    pub(super) ends: [Arc<Conn>; 2],
}

/// A link, with its books.
#[derive(Debug)]
pub(super) struct OnLink {
    pub(super) link: Shared<Link>,
    pub(super) books: RefCell<LinkBooks>,
    /// Who has which index; the server's own is not among them.
    pids: RefCell<Vec<(u32, ProcessIndex)>>,
    /// By slot.
    conns: RefCell<HashMap<u32, Weak<Connection>>>,
}

impl OnLink {
    /// The server is to be told when it is rung here.
    pub(super) fn listen(self: &Rc<OnLink>, server: &Server) {
        let what = Waited::Bell(Rc::downgrade(self));
        match Spot::at_own_bell(&self.link) {
            Some(spot) => server.wait_at(spot, what),
            None => server.look_again(what),
        }
    }

    fn index_of(&self, pid: u32) -> Option<ProcessIndex> {
        let pids = self.pids.borrow();
        pids.iter()
            .find(|(known, _)| *known == pid)
            .map(|(_, index)| *index)
    }

    /// They have these indices no more: who it was.
    fn forget(&self, indices: &[ProcessIndex]) -> Vec<u32> {
        let mut gone = Vec::new();
        self.pids.borrow_mut().retain(|(pid, index)| {
            let is_gone = indices.contains(index);
            if is_gone {
                gone.push(*pid);
            }
            !is_gone
        });
        gone
    }

    fn connect(
        &self,
        spec: &ConnSpec,
        server_pid: u32,
        client_pid: u32,
    ) -> Result<(ConnId, [Grant; 2]), BooksError> {
        let index = |pid| self.index_of(pid).ok_or(BooksError::NoSuchProcess);
        let (server, client) = (index(server_pid)?, index(client_pid)?);
        let (id, of_server, of_client) = self.books.borrow_mut().connect(spec, server, client)?;
        Ok((id, [of_client, of_server]))
    }

    fn open(self: &Rc<OnLink>, (id, grants): (ConnId, [Grant; 2])) -> HostResult<Made> {
        let open = |grant: &Grant| Conn::open(&self.link, grant).map(Arc::new);
        match (open(&grants[0]), open(&grants[1])) {
            (Ok(client), Ok(server)) => Ok(Made {
                on: self.clone(),
                id,
                ends: [client, server],
            }),
            (Err(error), _) | (_, Err(error)) => {
                for end in [End::Client, End::Server] {
                    let _ = self.books.borrow_mut().close(id, end);
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
            .is_some_and(|index| self.books.borrow().has_exited(index))
        {
            // The number is another's by now, or nobody's.
            server.reap_link(self);
        }
        let mut books = self.books.borrow_mut();
        let grant = books.grant(id, end).map_err(|_| NPFS_HOST_STALE)?;
        let fd = send.then(|| books.share()).transpose();
        let fd = fd.map_err(|error| of_books(&error))?;
        let index = match self.index_of(pid) {
            Some(index) => index,
            None => {
                let index = books
                    .add_further_process(Some(pid))
                    .map_err(|error| match error {
                        BooksError::TooManyProcesses => NPFS_HOST_FALLBACK,
                        error => of_books(&error),
                    })?;
                self.pids.borrow_mut().push((pid, index));
                index
            }
        };
        books.hold(id, end, index).map_err(|_| NPFS_HOST_STALE)?;
        Ok((grant, index, fd))
    }

    /// A process has an end no more.
    pub(super) fn release(&self, id: ConnId, end: End, pid: u32) -> HostResult<()> {
        let index = self.index_of(pid).ok_or(NPFS_HOST_INVALID)?;
        let released = self.books.borrow_mut().release(id, end, index);
        released.map_err(|_| NPFS_HOST_STALE)
    }

    // ---- by slot -----------------------------------------------------------------------------------------------

    /// A slot serves a connection from now on: which one it has served before, if that is still known to somebody.
    pub(super) fn note(&self, slot: u32, conn: &Rc<Connection>) -> Option<Weak<Connection>> {
        self.conns.borrow_mut().insert(slot, Rc::downgrade(conn))
    }

    /// Unless the slot serves another by now.
    pub(super) fn forget_slot(&self, slot: u32, conn: *const Connection) {
        let mut conns = self.conns.borrow_mut();
        if conns.get(&slot).is_some_and(|known| known.as_ptr() == conn) {
            conns.remove(&slot);
        }
    }

    pub(super) fn at(&self, slot: u32) -> Option<Rc<Connection>> {
        self.conns.borrow().get(&slot).and_then(Weak::upgrade)
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
    of.set(of.get() + 1);
}
