//! The links of a broker: one or more for each pair of sessions that has met.

use std::{
    collections::HashMap,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use npfs_ringbuf::{
    BooksError, End, Grant, ProcessIndex,
    books::{ConnId, ConnSpec, LinkBooks, LinkConfig},
};

use super::session::Session;
use crate::{
    npfs::{ClientId, Plan, Wires},
    status::NtStatus,
};

/// One link, and whose it is.
#[derive(Debug)]
pub(super) struct LinkEntry {
    pub(super) id: u64,
    /// The two sessions, the lesser id first; equal for a process that talks to itself.
    pub(super) pair: (ClientId, ClientId),
    indices: (ProcessIndex, ProcessIndex),
    books: Mutex<LinkBooks>,
    /// The descriptor, which the books own, is lent out for sending.
    ending: AtomicBool,
}

/// A connection, as the state machine holds it.
#[derive(Clone, Debug)]
pub(super) struct ConnRef {
    pub(super) link: Arc<LinkEntry>,
    conn: ConnId,
}

/// A mutex whose data is right even after a panic elsewhere: every change to it is one call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LinkEntry {
    fn new(id: u64, one: &Session, other: &Session) -> Result<LinkEntry, BooksError> {
        let small = one.bits() == 32 || other.bits() == 32;
        let config = if small {
            LinkConfig {
                size: 64 << 20,
                slots: 256,
            }
        } else {
            LinkConfig::default()
        };
        let mut books = LinkBooks::create(&config)?;
        let (low, high) = if one.id <= other.id {
            (one, other)
        } else {
            (other, one)
        };
        // Deaths are watched by the sessions: one pidfd for a process, not one for each of its links.
        let first = books.add_process(None)?;
        let second = if low.id == high.id {
            first
        } else {
            books.add_process(None)?
        };
        Ok(LinkEntry {
            id,
            pair: (low.id, high.id),
            indices: (first, second),
            books: Mutex::new(books),
            ending: AtomicBool::new(false),
        })
    }

    /// A session's index in this link.
    pub(super) fn index(&self, session: ClientId) -> ProcessIndex {
        if session == self.pair.0 {
            self.indices.0
        } else {
            self.indices.1
        }
    }

    /// Calls with the descriptor.
    pub(super) fn with_fd<T>(&self, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        call(lock(&self.books).fd())
    }

    /// The process is known to have exited: what it held is taken back, its ends are closed.
    fn bury(&self, session: ClientId) {
        lock(&self.books).bury(self.index(session));
    }
}

type Pairs = HashMap<(ClientId, ClientId), Vec<Arc<LinkEntry>>>;

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    pairs: Mutex<Pairs>,
    next: AtomicU64,
    /// How many have gone.
    gone: AtomicU64,
}

impl Links {
    pub(super) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.pairs).values().map(Vec::len).sum()
    }

    /// Connections in all of them, an end open.
    pub(super) fn connections(&self) -> usize {
        let pairs = lock(&self.pairs);
        let links = pairs.values().flatten();
        links.map(|link| lock(&link.books).connections()).sum()
    }

    fn of(&self, session: ClientId) -> Vec<Arc<LinkEntry>> {
        let pairs = lock(&self.pairs);
        let links = pairs.values().flatten();
        links
            .filter(|link| link.pair.0 == session || link.pair.1 == session)
            .cloned()
            .collect()
    }

    /// The process has exited.
    pub(super) fn bury(&self, session: ClientId) {
        for link in self.of(session) {
            link.bury(session);
        }
    }

    /// The session has ended: nothing new comes on its links, and they go once nothing is open on them. Answers the
    /// links that the other sessions should forget.
    pub(super) fn end(&self, session: ClientId) -> Vec<Arc<LinkEntry>> {
        let links = self.of(session);
        for link in &links {
            link.ending.store(true, Ordering::SeqCst);
            self.drop_if_idle(link);
        }
        links
    }

    /// Whether links of an ended session remain.
    pub(super) fn any_of(&self, session: ClientId) -> bool {
        let pairs = lock(&self.pairs);
        pairs
            .keys()
            .any(|pair| pair.0 == session || pair.1 == session)
    }

    fn drop_if_idle(&self, link: &Arc<LinkEntry>) {
        if !link.ending.load(Ordering::SeqCst) || lock(&link.books).connections() != 0 {
            return;
        }
        let mut pairs = lock(&self.pairs);
        if let Some(links) = pairs.get_mut(&link.pair) {
            links.retain(|other| other.id != link.id);
            self.gone.fetch_add(1, Ordering::Relaxed);
            if links.is_empty() {
                pairs.remove(&link.pair);
            }
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
            ..ConnSpec::new(plan.pipe_type, 0)
        };
        let pair = (server.id.min(client.id), server.id.max(client.id));
        // The newest link first: older ones are full, or were.
        let links = lock(&self.links.pairs)
            .get(&pair)
            .cloned()
            .unwrap_or_default();
        for link in links.iter().rev() {
            let mut books = lock(&link.books);
            match books.connect(&spec, link.index(server.id), link.index(client.id)) {
                Ok((conn, to_server, to_client)) => {
                    self.made = Some((to_server, to_client));
                    drop(books);
                    return Ok(ConnRef {
                        link: link.clone(),
                        conn,
                    });
                }
                Err(BooksError::NoFreeSlot | BooksError::NoFreeArea) => {}
                Err(error) => return Err(refused(&error)),
            }
        }
        // Those who are to blame for many links are told so; each has its own limit.
        for session in [&client, &server] {
            if session.links() >= self.most_links {
                return Err(NtStatus::INSUFFICIENT_RESOURCES);
            }
        }
        let id = self.links.next.fetch_add(1, Ordering::Relaxed) + 1;
        let link = LinkEntry::new(id, &server, &client).map_err(|error| refused(&error))?;
        let (conn, to_server, to_client) = lock(&link.books)
            .connect(&spec, link.index(server.id), link.index(client.id))
            .map_err(|error| refused(&error))?;
        let link = Arc::new(link);
        lock(&self.links.pairs)
            .entry(pair)
            .or_default()
            .push(link.clone());
        self.made = Some((to_server, to_client));
        Ok(ConnRef { link, conn })
    }

    fn close(&mut self, conn: &ConnRef, end: End) {
        // Refused: a burial has closed it.
        let _ = lock(&conn.link.books).close(conn.conn, end);
        self.links.drop_if_idle(&conn.link);
    }

    fn disconnect(&mut self, conn: &ConnRef) {
        let mut books = lock(&conn.link.books);
        let _ = books.disconnect(conn.conn);
        let _ = books.close(conn.conn, End::Server);
        drop(books);
        self.links.drop_if_idle(&conn.link);
    }
}

fn refused(error: &BooksError) -> NtStatus {
    tracing::warn!("no connection: {error}");
    match error {
        BooksError::QuotaTooLarge(_) => NtStatus::INVALID_PARAMETER,
        _ => NtStatus::INSUFFICIENT_RESOURCES,
    }
}
