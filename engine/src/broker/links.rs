//! The links of a broker: one or more for each pair of sessions that has met.

use std::{
    collections::{HashMap, HashSet},
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use npfs_ringbuf::{
    BooksError, End, Grant, ProcessIndex,
    books::{ConnId, ConnSpec, LinkBooks, LinkConfig},
};

use super::session::{Session, User};
use crate::{
    lock::lock,
    npfs::{ClientId, Plan, Wires},
    status::NtStatus,
    wire::Words,
};

/// One link, and whose it is.
#[derive(Debug)]
pub(super) struct LinkEntry {
    pub(super) id: u64,
    /// The two sessions, the lesser id first; equal for a process that talks to itself.
    pub(super) pair: (ClientId, ClientId),
    indices: (ProcessIndex, ProcessIndex),
    /// Further sessions, which were given an end on it.
    joined: Mutex<Vec<(ClientId, ProcessIndex)>>,
    /// Somebody has joined, and may have left.
    was_joined: AtomicBool,
    /// For a process of 32 bits.
    small: bool,
    token: [u64; 2],
    books: Mutex<LinkBooks>,
    /// One of the sessions has ended.
    ending: AtomicBool,
    /// No slot or no area was left, and a close makes room; or it is one connection's alone.
    full: AtomicBool,
    /// Whom it counts for: the user of the client that needed it; if the server wanted it apart, the server's, as long as that has
    /// its end.
    payer: Mutex<Arc<User>>,
    client: Arc<User>,
}

impl Drop for LinkEntry {
    fn drop(&mut self) {
        lock(&self.payer).links.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection, as the state machine holds it.
#[derive(Clone, Debug)]
pub(super) struct ConnRef {
    pub(super) link: Arc<LinkEntry>,
    conn: ConnId,
}

impl LinkEntry {
    fn new(
        id: u64,
        server: &Session,
        client: &Session,
        apart: Option<End>,
    ) -> Result<LinkEntry, BooksError> {
        let small = server.bits() == 32 || client.bits() == 32;
        let config = match apart {
            Some(_) => LinkConfig::for_one(small),
            None if small => LinkConfig {
                size: 64 << 20,
                slots: 256,
            },
            None => LinkConfig::default(),
        };
        let mut books = LinkBooks::create(&config)?;
        // Deaths are watched by the sessions: one pidfd for a process, not one for each of its links.
        let first = books.add_process(None)?;
        let second = if server.id == client.id {
            first
        } else {
            books.add_process(None)?
        };
        let payer = payer(server, client, apart);
        payer.links.fetch_add(1, Ordering::Relaxed);
        Ok(LinkEntry {
            id,
            pair: pair(server.id, client.id),
            indices: (first, second),
            joined: Mutex::default(),
            was_joined: AtomicBool::new(false),
            small,
            token: books.token(),
            books: Mutex::new(books),
            ending: AtomicBool::new(false),
            full: AtomicBool::new(false),
            payer: Mutex::new(payer.clone()),
            client: client.user().clone(),
        })
    }

    /// A session's index in this link.
    pub(super) fn index(&self, session: ClientId) -> Option<ProcessIndex> {
        self.index_among(&lock(&self.joined), session)
    }

    fn index_among(
        &self,
        joined: &[(ClientId, ProcessIndex)],
        session: ClientId,
    ) -> Option<ProcessIndex> {
        let among = || joined.iter().find(|(joined, _)| *joined == session);
        self.index_of_pair(session)
            .or_else(|| among().map(|(_, index)| *index))
    }

    fn index_of_pair(&self, session: ClientId) -> Option<ProcessIndex> {
        match session {
            first if first == self.pair.0 => Some(self.indices.0),
            second if second == self.pair.1 => Some(self.indices.1),
            _ => None,
        }
    }

    /// The sessions that may have something open on it.
    pub(super) fn sessions(&self) -> Vec<ClientId> {
        let mut sessions = vec![self.pair.0, self.pair.1];
        sessions.dedup();
        sessions.extend(lock(&self.joined).iter().map(|(session, _)| *session));
        sessions
    }

    /// Whether a third session was ever given an end on it.
    pub(super) fn was_joined(&self) -> bool {
        self.was_joined.load(Ordering::SeqCst)
    }

    /// What a session has to know of its end of a connection.
    pub(super) fn grant(&self, conn: &ConnRef, end: End) -> Option<Grant> {
        lock(&self.books).grant(conn.conn, end).ok()
    }

    /// The server has left its end: what is still open on it is its client's doing.
    fn is_the_clients(&self) {
        let mut payer = lock(&self.payer);
        if !Arc::ptr_eq(&payer, &self.client) {
            payer.links.fetch_sub(1, Ordering::Relaxed);
            self.client.links.fetch_add(1, Ordering::Relaxed);
            *payer = self.client.clone();
        }
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Calls with the descriptor.
    pub(super) fn with_fd<T>(&self, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        call(lock(&self.books).fd())
    }

    /// The process is known to have exited: what it held is taken back, its ends are closed.
    fn bury(&self, session: ClientId) {
        if let Some(index) = self.index(session) {
            lock(&self.books).bury(index);
        }
    }
}

/// Whom a link counts for at first. The client is to blame for many: it came to the server, and not the other way round. But what the
/// server wants is the server's as long as it has it, and the client's from then on.
fn payer<'s>(server: &'s Session, client: &'s Session, apart: Option<End>) -> &'s Arc<User> {
    match apart {
        Some(End::Server) => server.user(),
        _ => client.user(),
    }
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    table: Mutex<Table>,
    next: AtomicU64,
    /// How many have gone.
    gone: AtomicU64,
    /// Those among them whose sessions have not been told: more than two had them, or go on without them.
    departed: Mutex<Vec<Arc<LinkEntry>>>,
}

type Pair = (ClientId, ClientId);

/// The lesser first.
fn pair(one: ClientId, other: ClientId) -> Pair {
    (one.min(other), one.max(other))
}

#[derive(Debug, Default)]
struct Table {
    pairs: HashMap<Pair, Vec<Arc<LinkEntry>>>,
    /// The other sessions of a session's links.
    others: HashMap<ClientId, HashSet<ClientId>>,
    /// Links of other pairs on which a session was given an end.
    joined: HashMap<ClientId, Vec<Arc<LinkEntry>>>,
}

impl Table {
    fn of(&self, session: ClientId) -> impl Iterator<Item = &Arc<LinkEntry>> {
        let others = self.others.get(&session).into_iter().flatten();
        let own = others
            .flat_map(move |&other| self.pairs.get(&pair(session, other)).into_iter().flatten());
        own.chain(self.joined.get(&session).into_iter().flatten())
    }

    fn part(&mut self, session: ClientId, link: &LinkEntry) {
        if let Some(links) = self.joined.get_mut(&session) {
            links.retain(|other| other.id != link.id);
            if links.is_empty() {
                self.joined.remove(&session);
            }
        }
    }

    fn remove(&mut self, link: &LinkEntry) -> bool {
        let Some(links) = self.pairs.get_mut(&link.pair) else {
            return false;
        };
        let before = links.len();
        links.retain(|other| other.id != link.id);
        let removed = links.len() != before;
        if links.is_empty() {
            self.pairs.remove(&link.pair);
            for (one, other) in [link.pair, (link.pair.1, link.pair.0)] {
                if let Some(others) = self.others.get_mut(&one) {
                    others.remove(&other);
                    if others.is_empty() {
                        self.others.remove(&one);
                    }
                }
            }
        }
        for (session, _) in &*lock(&link.joined) {
            self.part(*session, link);
        }
        removed
    }
}

impl Links {
    /// How many have gone so far.
    pub(super) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.table).pairs.values().map(Vec::len).sum()
    }

    /// Connections in all of them, an end open.
    pub(super) fn connections(&self) -> usize {
        let links: Vec<Arc<LinkEntry>> = {
            let table = lock(&self.table);
            table.pairs.values().flatten().cloned().collect()
        };
        let counts = links.iter().map(|link| lock(&link.books).connections());
        counts.sum()
    }

    fn of(&self, session: ClientId) -> Vec<Arc<LinkEntry>> {
        lock(&self.table).of(session).cloned().collect()
    }

    /// The process has exited.
    pub(super) fn bury(&self, session: ClientId) {
        for link in self.of(session) {
            link.bury(session);
            if link.index_of_pair(session).is_none() {
                lock(&link.joined).retain(|(joined, _)| *joined != session);
                lock(&self.table).part(session, &link);
            }
            // A session that has ended before: its peer may have closed, too.
            self.drop_if_idle(&link);
        }
    }

    /// The session has ended: nothing new comes on its links, and they go once nothing is open on them. Answers the
    /// links that the other sessions should forget.
    pub(super) fn end(&self, session: ClientId) -> Vec<Arc<LinkEntry>> {
        let links = self.of(session);
        for link in &links {
            // One that only was given something on it ends nothing.
            if link.index_of_pair(session).is_some() {
                link.ending.store(true, Ordering::SeqCst);
                self.drop_if_idle(link);
            }
        }
        links
    }

    /// Whether links of an ended session remain.
    pub(super) fn any_of(&self, session: ClientId) -> bool {
        let table = lock(&self.table);
        table.others.contains_key(&session) || table.joined.contains_key(&session)
    }

    /// An end on it was closed: there may be room again, or nothing left.
    fn one_less(&self, link: &Arc<LinkEntry>) {
        let books = lock(&link.books);
        link.full.store(books.is_apart(), Ordering::Relaxed);
        drop(books);
        self.drop_if_idle(link);
    }

    fn drop_if_idle(&self, link: &Arc<LinkEntry>) {
        let apart = {
            let books = lock(&link.books);
            if books.connections() != 0 {
                return;
            }
            books.is_apart()
        };
        if !apart && !link.ending.load(Ordering::SeqCst) {
            return;
        }
        if lock(&self.table).remove(link) {
            if apart || link.was_joined() {
                lock(&self.departed).push(link.clone());
            }
            self.gone.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a link of this broker's has that token.
    pub(super) fn knows(&self, token: [u64; 2]) -> bool {
        let table = lock(&self.table);
        let mut links = table.pairs.values().flatten();
        links.any(|link| link.token == token)
    }

    /// Links that have gone and of which nobody was told.
    pub(super) fn departed(&self) -> Vec<Arc<LinkEntry>> {
        std::mem::take(&mut *lock(&self.departed))
    }

    /// A session gets an index in a link of others, unless it has one.
    fn join(&self, link: &Arc<LinkEntry>, session: ClientId) -> Result<ProcessIndex, BooksError> {
        link.was_joined.store(true, Ordering::SeqCst);
        let mut joined = lock(&link.joined);
        if let Some(index) = link.index_among(&joined, session) {
            return Ok(index);
        }
        let index = lock(&link.books).add_further_process(None)?;
        joined.push((session, index));
        drop(joined);
        let mut table = lock(&self.table);
        table.joined.entry(session).or_default().push(link.clone());
        Ok(index)
    }

    fn of_pair(&self, pair: Pair) -> Vec<Arc<LinkEntry>> {
        let table = lock(&self.table);
        table.pairs.get(&pair).cloned().unwrap_or_default()
    }

    fn add(&self, link: &Arc<LinkEntry>) {
        let mut table = lock(&self.table);
        let pair = link.pair;
        table.pairs.entry(pair).or_default().push(link.clone());
        for (one, other) in [pair, (pair.1, pair.0)] {
            table.others.entry(one).or_default().insert(other);
        }
    }
}

/// What one request does with links.
pub(super) struct Wiring<'a> {
    pub(super) links: &'a Links,
    /// Finds a session that is still there.
    pub(super) session: &'a dyn Fn(ClientId) -> Option<Arc<Session>>,
    pub(super) most_links: usize,
    /// The grants of the connection that was made: the server end's, the client end's.
    pub(super) made: Option<(Grant, Grant)>,
    /// What the giver of an end that is taken has said.
    pub(super) words: Words,
}

impl Wiring<'_> {
    fn connect_on(
        &mut self,
        link: &Arc<LinkEntry>,
        spec: &ConnSpec,
        plan: &Plan,
    ) -> Result<ConnRef, BooksError> {
        let index = |session| link.index(session).ok_or(BooksError::NoSuchProcess);
        let (server, client) = (index(plan.server)?, index(plan.client)?);
        let (conn, to_server, to_client) = lock(&link.books).connect(spec, server, client)?;
        self.made = Some((to_server, to_client));
        Ok(ConnRef {
            link: link.clone(),
            conn,
        })
    }
}

impl Wires for Wiring<'_> {
    type Conn = ConnRef;

    fn connect(&mut self, plan: &Plan) -> Result<ConnRef, NtStatus> {
        let gone = NtStatus::PIPE_NOT_AVAILABLE;
        let server = (self.session)(plan.server).ok_or(gone)?;
        let client = (self.session)(plan.client).ok_or(gone)?;
        let spec = ConnSpec {
            inbound_quota: plan.in_quota,
            outbound_quota: plan.out_quota,
            server: plan.server_access,
            client: plan.client_access,
            server_modes: plan.server_modes.unwrap_or_default(),
            pipe_type: plan.pipe_type,
        };
        let links = self.links.of_pair(pair(server.id, client.id));
        // The newest first: older ones are full, or were. Two at most: this runs under the lock of names.
        let roomy = links.iter().rev().filter(|link| !link.is_full());
        for link in roomy.take(if plan.apart.is_some() { 0 } else { 2 }) {
            match self.connect_on(link, &spec, plan) {
                Ok(conn) => return Ok(conn),
                Err(BooksError::NoFreeSlot | BooksError::NoFreeArea) => {
                    link.full.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(refused(&error)),
            }
        }
        let has_many = |user: &User| user.links.load(Ordering::Relaxed) >= self.most_links;
        if links.len() >= LINKS_OF_A_PAIR
            || has_many(payer(&server, &client, plan.apart))
            || has_many(client.user())
        {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        let id = self.links.next.fetch_add(1, Ordering::Relaxed) + 1;
        let link = LinkEntry::new(id, &server, &client, plan.apart);
        let link = Arc::new(link.map_err(|error| refused(&error))?);
        let conn = self
            .connect_on(&link, &spec, plan)
            .map_err(|error| refused(&error))?;
        if plan.apart.is_some() {
            self.set_apart(&conn)?;
        }
        self.links.add(&link);
        Ok(conn)
    }

    fn close(&mut self, conn: &ConnRef, end: End) {
        // Refused: a burial has closed it.
        let _ = lock(&conn.link.books).close(conn.conn, end);
        if end == End::Server {
            conn.link.is_the_clients();
        }
        self.links.one_less(&conn.link);
    }

    fn disconnect(&mut self, conn: &ConnRef) {
        let mut books = lock(&conn.link.books);
        let _ = books.disconnect(conn.conn);
        let _ = books.close(conn.conn, End::Server);
        drop(books);
        conn.link.is_the_clients();
        self.links.one_less(&conn.link);
    }

    fn join(&mut self, conn: &ConnRef, end: End, session: ClientId) -> Result<(), NtStatus> {
        let bits = (self.session)(session).map_or(0, |session| session.bits());
        if bits == 32 && !conn.link.small {
            return Err(NtStatus::INSUFFICIENT_RESOURCES); // it could not map it
        }
        let joined = self.links.join(&conn.link, session).and_then(|index| {
            let mut books = lock(&conn.link.books);
            books.hold(conn.conn, end, index)
        });
        joined.map_err(|error| refused(&error))
    }

    fn set_apart(&mut self, conn: &ConnRef) -> Result<(), NtStatus> {
        let mut books = lock(&conn.link.books);
        let set = books.set_apart(conn.conn);
        set.map_err(|error| match error {
            BooksError::NotAlone => NtStatus::SHARING_VIOLATION,
            error => refused(&error),
        })?;
        // Nobody looks for room there.
        conn.link.full.store(true, Ordering::Relaxed);
        Ok(())
    }

    // In all of these: refused, if a burial or the peer has closed it.

    fn leave(&mut self, conn: &ConnRef, end: End, session: ClientId) {
        if let Some(index) = conn.link.index(session) {
            let _ = lock(&conn.link.books).release(conn.conn, end, index);
        }
    }

    fn keep(&mut self, conn: &ConnRef, end: End, keep: bool) {
        let _ = lock(&conn.link.books).keep(conn.conn, end, keep);
    }
}

/// Each holds 1024 connections, more than one client's ends fill, even if some slots are never given back; or one that is set apart.
const LINKS_OF_A_PAIR: usize = 96;

fn refused(error: &BooksError) -> NtStatus {
    tracing::warn!("no connection: {error}");
    match error {
        BooksError::QuotaTooLarge(_) => NtStatus::INVALID_PARAMETER,
        // Buried a moment ago; its ends are closed next.
        BooksError::NoSuchProcess => NtStatus::PIPE_NOT_AVAILABLE,
        _ => NtStatus::INSUFFICIENT_RESOURCES,
    }
}
