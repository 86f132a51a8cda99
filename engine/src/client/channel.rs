//! This process's socket to the broker: one for all its threads.
//!
//! Whoever waits for an answer reads the socket for all (the leader), hands others' answers to them, and passes the
//! reading on when its own has come. So a process needs no thread of its own, and one descriptor.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use npfs_ringbuf::{AttachError, Conn, Deadline, End, Faint, Link, ProcessIndex, Shared};

use super::{
    gift::{ClientEnd, EndToken},
    server::ServerEnd,
    watcher::Watcher,
};
use crate::{
    Error, NtStatus, Result,
    lock::lock,
    npfs::{Create, EndId, Tag, Taken},
    security::Mask,
    sys,
    wire::{self, Hello, Peer, Reply, Request, VERSION, WireConn, Words},
};

/// The socket, and who waits for what.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Shared with the thread that watches it, which is not to keep the rest.
    fd: Arc<OwnedFd>,
    /// For messages: what it is connected to.
    pub(super) place: String,
    /// Whoever watches for the broker's end, once there is something to see to then.
    watcher: OnceLock<Watcher>,
    /// The channel to the next broker, if links of this one went on there.
    next: OnceLock<Arc<Channel>>,
    state: Mutex<State>,
    /// Messages that nobody waits for and that did not fit the socket yet. Whoever sends or reads sends them first.
    backlog: Mutex<VecDeque<Vec<u8>>>,
    /// The broker took nothing for a while: closing an end does not wait for it again.
    stuck: AtomicBool,
    next_tag: AtomicU64,
    /// No broker at the other end any more.
    gone: AtomicBool,
    /// Whose it is ([`sys::forks`]): a child of fork(2) has the socket, too, and no business with it.
    forks: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody reads the socket, ...
    reading: bool,
    /// ... and has begun to take messages from it.
    busy: bool,
    /// Those who wait for what it takes just now.
    round: Arc<Condvar>,
    /// Server ends that are made again, by the request that does it.
    returning: HashMap<Tag, Weak<ServerEnd>>,
    /// Server ends that ask how they are, by the request that does it.
    refreshing: HashMap<Tag, Weak<ServerEnd>>,
    /// Server ends that leave off listening once that request is answered.
    leaving: HashMap<Tag, Weak<ServerEnd>>,
    waiting: HashMap<Tag, Slot>,
    servers: HashMap<EndId, Weak<ServerEnd>>,
    /// Those among `waiting` that no thread waits for.
    notified: usize,
    /// A thread reads for them.
    reader: bool,
    links: HashMap<u64, Attached>,
    /// Links of earlier brokers, by their tokens.
    kept: HashMap<[u64; 2], Kept>,
    buf: Vec<u8>,
}

#[derive(Debug)]
struct Attached {
    link: Shared<Link>,
    /// The other process, if its number means something here.
    peer: Option<u32>,
    /// The same, as the broker knows it, for all server ends on the link.
    client: Arc<Peer>,
}

/// A link whose broker has gone, for as long as something is open on it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    link: Faint<Link>,
    /// The other process, if its number means something here.
    peer: Option<u32>,
}

impl Kept {
    /// Whether somebody may wait here for something that the other process does.
    pub(super) fn is_of_use(&self) -> bool {
        self.link.find().is_some_and(|link| link.is_shared())
    }
}

/// What is done with an answer that no thread waits for. It may not ask the broker anything.
pub(crate) type Notify = Box<dyn FnOnce(Result<Answer>) + Send>;

struct Slot {
    answer: Option<Result<Answer>>,
    notify: Option<Notify>,
    wake: Arc<Condvar>,
    /// Its caller sleeps, or is about to: it may be asked to read.
    waits: bool,
    /// Its caller has given up: what comes is undone.
    orphan: bool,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

/// What a request has brought.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    /// The flag: so was the pipe.
    Created(Arc<ServerEnd>, bool),
    Opened {
        end: EndId,
        granted: Mask,
        conn: Box<Conn>,
        server: Peer,
    },
    /// A server end that another process has, too; the giver's words.
    TakenServer(Arc<ServerEnd>, Mask, u32),
    /// The same of a client end.
    TakenClient(ClientEnd, u32),
    Given(EndToken),
    Reply(Reply),
}

/// A request under way that another thread may want to end.
pub(crate) type Watch<'a> = &'a dyn Fn(Option<(&Arc<Channel>, Tag)>);

impl Channel {
    /// Says hello on a connected socket.
    pub(super) fn new(fd: OwnedFd, place: &str) -> Result<Arc<Channel>> {
        let mut buf = vec![0; wire::MOST];
        let no_broker = |source| Error::NoBroker {
            path: place.to_owned(),
            source,
        };
        let hello = Request::Hello(Hello::ours()).encode();
        sys::send(fd.as_fd(), &hello, None, true).map_err(|error| no_broker(Some(error)))?;
        if !wait_for_input(&fd, Deadline::after(HELLO_TIME))? {
            return Err(no_broker(Some(io::ErrorKind::TimedOut.into())));
        }
        let (length, _) =
            sys::receive(fd.as_fd(), &mut buf, true).map_err(|error| no_broker(Some(error)))?;
        if length == 0 {
            return Err(no_broker(None));
        }
        let reply = Reply::decode(&buf[..length]).map_err(|error| Error::Protocol(error.0))?;
        let Reply::Welcome {
            version,
            abi,
            layout,
            ..
        } = reply
        else {
            return Err(Error::Protocol("no welcome"));
        };
        if version != VERSION {
            return Err(Error::Version(format!(
                "it does not speak version {VERSION} of the protocol"
            )));
        }
        if (abi, layout) != (npfs_ringbuf::ABI_VERSION, npfs_ringbuf::layout_hash()) {
            return Err(Error::Version(format!(
                "its links have ABI {abi} (layout {layout:016x}), this library's {} ({:016x})",
                npfs_ringbuf::ABI_VERSION,
                npfs_ringbuf::layout_hash()
            )));
        }
        Ok(Arc::new(Channel {
            fd: Arc::new(fd),
            place: place.to_owned(),
            watcher: OnceLock::new(),
            next: OnceLock::new(),
            state: Mutex::new(State {
                buf,
                ..State::default()
            }),
            backlog: Mutex::default(),
            stuck: AtomicBool::new(false),
            next_tag: AtomicU64::new(1),
            gone: AtomicBool::new(false),
            forks: sys::forks(),
        }))
    }

    /// When the broker goes, `watcher` sees to the links; it begins when the first of them comes.
    pub(super) fn watched_by(&self, watcher: Watcher) {
        // Once for each channel, by whoever made it.
        let _ = self.watcher.set(watcher);
    }

    /// A thread of an earlier channel watches this one.
    pub(super) fn is_watched(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.is_there();
        }
    }

    pub(super) fn socket(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst) || self.is_inherited()
    }

    /// This is a child of the process that connected: what it has open is not its own to use, or to close.
    pub(crate) fn is_inherited(&self) -> bool {
        self.forks != sys::forks()
    }

    pub(crate) fn next_tag(&self) -> Tag {
        Tag(self.next_tag.fetch_add(1, Ordering::Relaxed))
    }

    /// What a caller hears when the broker is not there, or went while it was asked.
    fn no_broker(&self) -> Error {
        Error::NoBroker {
            path: self.place.clone(),
            source: None,
        }
    }

    /// Nothing more comes or goes, and the broker closes what is open here if it still can.
    pub(super) fn give_up(&self) {
        if !self.gone.swap(true, Ordering::SeqCst) && !self.is_inherited() {
            let _ = sys::shutdown(self.fd.as_fd());
        }
    }

    // ---- sending -----------------------------------------------------------------------------------------------

    /// Sends what nobody waits for. While the broker is behind it waits a moment, reading if nobody else does.
    pub(crate) fn tell(self: &Arc<Self>, request: &Request) {
        self.put(request);
        self.hurry();
    }

    /// Puts a message in line, which goes out with the next call of [`Channel::hurry`]; for callers that hold locks.
    pub(super) fn put(&self, request: &Request) {
        if self.is_inherited() {
            return;
        }
        lock(&self.backlog).push_back(request.encode());
    }

    /// Sends what is in line.
    pub(super) fn hurry(self: &Arc<Self>) {
        if self.is_inherited() {
            return;
        }
        let deadline = Deadline::after(PATIENCE);
        loop {
            if self.push() || self.is_gone() {
                return;
            }
            // Inside `dispatch` nobody else can read; its loop comes back to what is in line.
            if LEADS.get() || self.stuck.load(Ordering::Relaxed) {
                return;
            }
            if deadline.passed() {
                self.stuck.store(true, Ordering::Relaxed);
                return;
            }
            self.make_room(deadline);
        }
    }

    /// `true`: nothing is left in line.
    fn push(&self) -> bool {
        let mut backlog = lock(&self.backlog);
        while let Some(message) = backlog.front() {
            match sys::send(self.fd.as_fd(), message, None, false) {
                Ok(()) => {
                    backlog.pop_front();
                    self.stuck.store(false, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    backlog.clear();
                    drop(backlog);
                    self.give_up();
                    return true;
                }
            }
        }
        true
    }

    fn send(self: &Arc<Self>, request: &Request, deadline: Deadline) -> Result<()> {
        let message = request.encode();
        loop {
            if self.push() {
                if self.is_gone() {
                    return Err(self.no_broker());
                }
                // Between the two another thread may put something in line, which concerns another end.
                match sys::send(self.fd.as_fd(), &message, None, false) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        self.give_up();
                        return Err(self.no_broker());
                    }
                }
            }
            if deadline.passed() {
                return Err(Error::TimedOut);
            }
            self.make_room(deadline);
        }
    }

    /// The socket is full: the broker is behind, or waits until its own messages are read.
    fn make_room(self: &Arc<Self>, deadline: Deadline) {
        // Briefly: whoever reads now may leave.
        let deadline = deadline.min(Deadline::after(Duration::from_millis(20)));
        let time = milliseconds(deadline);
        let events = libc::POLLIN | libc::POLLOUT;
        let events = if lock(&self.state).reading {
            libc::POLLOUT
        } else {
            events
        };
        // A refused wait is an interruption: the caller looks again.
        let ready = sys::poll_which(self.fd.as_fd(), events, time).unwrap_or(0);
        if ready & !libc::POLLOUT != 0 {
            self.drain();
        }
    }

    // ---- asking ------------------------------------------------------------------------------------------------

    /// Asks, and waits for the answer.
    pub(crate) fn ask(self: &Arc<Self>, tag: Tag, request: &Request) -> Result<Answer> {
        self.ask_until(tag, request, Deadline::NEVER, &|_| ())
    }

    /// Asks, and waits until the deadline, or until somebody sends a cancel for this tag. `watch` is called with the
    /// tag before the wait, with nothing after it.
    pub(crate) fn ask_until(
        self: &Arc<Self>,
        tag: Tag,
        request: &Request,
        deadline: Deadline,
        watch: Watch<'_>,
    ) -> Result<Answer> {
        if self.is_gone() {
            return Err(self.no_broker());
        }
        let wake = Arc::new(Condvar::new());
        let slot = Slot {
            answer: None,
            notify: None,
            wake: wake.clone(),
            waits: false,
            orphan: false,
        };
        lock(&self.state).waiting.insert(tag, slot);
        if let Err(error) = self.send(request, deadline) {
            let mut state = lock(&self.state);
            state.waiting.remove(&tag);
            pass_on(&state);
            return Err(error);
        }
        watch(Some((self, tag)));
        let answer = self.await_answer(tag, &wake, deadline);
        watch(None);
        answer
    }

    /// Asks, and has the answer given to `notify`, on whatever thread it comes to; also if the broker goes.
    pub(crate) fn ask_and_go(
        self: &Arc<Self>,
        tag: Tag,
        request: &Request,
        notify: Notify,
    ) -> Result<()> {
        if self.is_gone() {
            return Err(self.no_broker());
        }
        let slot = Slot {
            answer: None,
            notify: Some(notify),
            wake: Arc::new(Condvar::new()),
            waits: false,
            orphan: false,
        };
        let mut state = lock(&self.state);
        state.waiting.insert(tag, slot);
        state.notified += 1;
        let begin = !std::mem::replace(&mut state.reader, true);
        drop(state);
        if begin {
            let channel = self.clone();
            let begun = sys::without_signals(|| {
                thread::Builder::new()
                    .name("npfs-reader".to_owned())
                    .stack_size(READER_STACK)
                    .spawn(move || channel.read_for_the_notified())
            });
            if let Err(error) = begun {
                let mut state = lock(&self.state);
                state.reader = false;
                return self.forget_notified(state, tag, error.into());
            }
        }
        match self.send(request, Deadline::NEVER) {
            Ok(()) => Ok(()),
            Err(error) => self.forget_notified(lock(&self.state), tag, error),
        }
    }

    /// Returns when the broker has come to everything that this process has sent it before.
    pub(crate) fn catch_up(self: &Arc<Self>) {
        let tag = self.next_tag();
        // Nobody has that end: the answer is an error, and what counts is that it comes.
        let request = Request::Describe(tag, EndId(0));
        let _ = self.ask_until(tag, &request, Deadline::after(HELLO_TIME), &|_| ());
    }

    fn forget_notified(
        &self,
        mut state: MutexGuard<'_, State>,
        tag: Tag,
        error: Error,
    ) -> Result<()> {
        match state.waiting.remove(&tag) {
            Some(_) => {
                state.notified -= 1;
                Err(error)
            }
            // It has been told already.
            None => Ok(()),
        }
    }

    /// The life of a thread that reads while there are answers to come that no thread waits for.
    fn read_for_the_notified(self: Arc<Self>) {
        let mut state = lock(&self.state);
        while state.notified != 0 {
            if state.reading {
                let round = state.round.clone();
                state = sleep(&round, state, Deadline::NEVER);
            } else if self.is_gone() {
                let tags: Vec<Tag> = state.waiting.keys().copied().collect();
                let slots = tags.into_iter().filter_map(|tag| {
                    let notified = state.waiting.get(&tag)?.notify.is_some();
                    notified.then(|| state.waiting.remove(&tag))?
                });
                let slots: Vec<Slot> = slots.collect();
                state.notified -= slots.len();
                drop(state);
                for notify in slots.into_iter().filter_map(|slot| slot.notify) {
                    notify(Err(self.no_broker()));
                }
                state = lock(&self.state);
            } else {
                state = self.lead(state, Deadline::NEVER, None);
                pass_on(&state);
            }
        }
        state.reader = false;
    }

    fn await_answer(
        self: &Arc<Self>,
        tag: Tag,
        wake: &Condvar,
        deadline: Deadline,
    ) -> Result<Answer> {
        let mut state = lock(&self.state);
        if let Some(slot) = state.waiting.get_mut(&tag) {
            slot.waits = true;
        }
        let mut patience = deadline;
        let mut late = false;
        let mut drained = false;
        loop {
            if state
                .waiting
                .get(&tag)
                .is_some_and(|slot| slot.answer.is_some())
            {
                let slot = state.waiting.remove(&tag);
                pass_on(&state);
                drop(state);
                let answer = slot.and_then(|slot| slot.answer);
                return match answer.unwrap_or_else(|| Err(self.no_broker())) {
                    Err(Error::Cancelled) if late => Err(Error::TimedOut),
                    answer => answer,
                };
            }
            if self.is_gone() && !state.reading && !drained {
                drained = true;
                state = self.lead(state, Deadline::after(Duration::ZERO), Some(tag));
                continue;
            }
            if self.is_gone() && !state.reading {
                state.waiting.remove(&tag);
                pass_on(&state);
                return Err(self.no_broker());
            }
            if patience.passed() {
                if late {
                    // A broker that does not even answer a cancel: what still comes is undone when it comes.
                    if let Some(slot) = state.waiting.get_mut(&tag) {
                        slot.orphan = true;
                    }
                    pass_on(&state);
                    return Err(Error::TimedOut);
                }
                late = true;
                patience = Deadline::after(CANCEL_TIME);
                drop(state);
                self.tell(&Request::Cancel(tag));
                state = lock(&self.state);
                continue;
            }
            if state.reading {
                state = sleep(wake, state, patience);
            } else {
                state = self.lead(state, patience, Some(tag));
            }
        }
    }

    /// Reads for all: what is there, after a wait for the first of it; up to the answer to `own`, if there is one.
    fn lead<'s>(
        self: &'s Arc<Self>,
        mut state: MutexGuard<'s, State>,
        deadline: Deadline,
        own: Option<Tag>,
    ) -> MutexGuard<'s, State> {
        state.reading = true;
        let mut buf = std::mem::take(&mut state.buf);
        drop(state);
        let mut first = true;
        loop {
            if first {
                if !matches!(self.wait_for_work(deadline), Ok(true)) {
                    break;
                }
                lock(&self.state).busy = true;
            }
            first = false;
            match sys::receive(self.fd.as_fd(), &mut buf, false) {
                Ok((0, _)) => {
                    self.give_up();
                    break;
                }
                Ok((length, fd)) => {
                    LEADS.set(true);
                    if let Err(error) = self.dispatch(&buf[..length], fd) {
                        tracing::warn!("the broker's message makes no sense: {error}");
                    }
                    LEADS.set(false);
                    // What else is there is for whoever reads next.
                    if own.is_some_and(|own| self.is_answered(own)) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.give_up();
                    break;
                }
            }
        }
        self.push();
        let mut state = lock(&self.state);
        state.buf = buf;
        state.reading = false;
        state.busy = false;
        state.round.notify_all();
        if self.is_gone() {
            for slot in state.waiting.values() {
                slot.wake.notify_all();
            }
        }
        state
    }

    fn is_answered(&self, tag: Tag) -> bool {
        let state = lock(&self.state);
        let slot = state.waiting.get(&tag);
        slot.is_some_and(|slot| slot.answer.is_some())
    }

    /// Something to read, or room for what is in line. `false`: the time is over, or a signal came.
    fn wait_for_work(&self, deadline: Deadline) -> io::Result<bool> {
        if lock(&self.backlog).is_empty() {
            return wait_for_input(&self.fd, deadline);
        }
        let events = libc::POLLIN | libc::POLLOUT;
        sys::poll(self.fd.as_fd(), events, milliseconds(deadline))
    }

    /// Reads what is there, without waiting for more: a client may have connected. If another thread reads just now,
    /// what it has begun to take is waited for.
    pub(crate) fn drain(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let patience = Deadline::after(PATIENCE);
        while state.reading && !LEADS.get() && !patience.passed() {
            let unread = state.busy
                || sys::poll(self.fd.as_fd(), libc::POLLIN, Some(0)).is_ok_and(|ready| ready);
            if !unread {
                return;
            }
            let round = state.round.clone();
            // Not for long: it may have been about to sleep when this looked.
            state = sleep(&round, state, Deadline::after(Duration::from_millis(5)));
        }
        // Also when the broker has gone: what it said last is still there.
        if !state.reading {
            let state = self.lead(state, Deadline::after(Duration::ZERO), None);
            pass_on(&state);
        }
    }

    // ---- what comes --------------------------------------------------------------------------------------------

    fn dispatch(self: &Arc<Self>, message: &[u8], fd: Option<OwnedFd>) -> Result<()> {
        let reply = Reply::decode(message).map_err(|error| Error::Protocol(error.0))?;
        match reply {
            Reply::Welcome { .. } => Err(Error::Protocol("a second welcome")),
            Reply::Done(tag, status) => {
                // In its place among the connections that come.
                let leaves = lock(&self.state).leaving.remove(&tag);
                let answer = if status.is_success() {
                    if let Some(server) = leaves.and_then(|server| server.upgrade()) {
                        server.leave();
                    }
                    Ok(Answer::Done)
                } else {
                    Err(Error::from_status(status))
                };
                self.answer(tag, answer);
                Ok(())
            }
            Reply::Created {
                tag,
                end,
                pipe_type,
                first,
                granted,
            } => {
                let returning = lock(&self.state).returning.remove(&tag);
                let server = match returning.and_then(|server| server.upgrade()) {
                    Some(server) => {
                        server.returned(self, end);
                        server
                    }
                    None => ServerEnd::new(self, end, pipe_type, granted),
                };
                lock(&self.state)
                    .servers
                    .insert(end, Arc::downgrade(&server));
                self.answer(tag, Ok(Answer::Created(server, first)));
                Ok(())
            }
            Reply::Opened {
                tag,
                end,
                granted,
                conn,
            } => {
                let answer = match self.open_conn(&conn, fd) {
                    Ok(opened) => Ok(Answer::Opened {
                        end,
                        granted,
                        conn: Box::new(opened),
                        server: conn.peer,
                    }),
                    Err(error) => {
                        self.tell(&Request::Close(end));
                        Err(error.into())
                    }
                };
                self.answer(tag, answer);
                Ok(())
            }
            Reply::Connected { tag, end, conn } => {
                let opened = self.open_conn(&conn, fd);
                let server = lock(&self.state).servers.get(&end).and_then(Weak::upgrade);
                let answer = match (opened, server) {
                    (Ok(opened), Some(server)) => {
                        server.connected(opened, self.peer_of(&conn), conn.quality);
                        Ok(Answer::Done)
                    }
                    // It was closed a moment ago, and the broker hears of that next.
                    (Ok(opened), None) => {
                        opened.leave_to_broker();
                        Err(Error::Broken)
                    }
                    (Err(error), server) => {
                        // Others who have it may do with it what this process cannot.
                        if !server.is_some_and(|server| server.may_be_anothers()) {
                            self.tell(&Request::Disconnect(Tag(0), end));
                        }
                        Err(error.into())
                    }
                };
                self.answer(tag, answer);
                Ok(())
            }
            Reply::Given(tag, token) => {
                self.answer(tag, Ok(Answer::Given(EndToken(token))));
                Ok(())
            }
            Reply::Taken { tag, taken, words } => {
                let asks = lock(&self.state).refreshing.remove(&tag);
                let answer = match asks {
                    Some(server) => self.refreshed(&server, &taken, &words, fd),
                    None => self.taken(&taken, &words, fd),
                };
                if answer.is_err() && !matches!(&answer, Err(Error::Broken)) {
                    tracing::warn!("an end of several processes cannot be used here");
                }
                self.answer(tag, answer);
                Ok(())
            }
            Reply::LinkGone(link) => {
                lock(&self.state).links.remove(&link);
                Ok(())
            }
            Reply::PeerLost(token, gone, exited) => {
                let kept = lock(&self.state).kept.get(&token).cloned();
                if let Some(kept) = kept
                    && let Some(link) = kept.link.find()
                {
                    if let Some(index) = link.peer()
                        && kept.peer.is_some_and(sys::process_has_exited)
                    {
                        link.bury_others(gone & 1 << index.get(), true);
                    }
                    link.bury_others(gone, exited);
                }
                Ok(())
            }
            Reply::Pipes { tag, .. }
            | Reply::Instances { tag, .. }
            | Reply::Described { tag, .. }
            | Reply::Security(tag, _) => {
                self.answer(tag, Ok(Answer::Reply(reply)));
                Ok(())
            }
        }
    }

    fn open_conn(
        self: &Arc<Self>,
        conn: &WireConn,
        fd: Option<OwnedFd>,
    ) -> std::result::Result<Conn, AttachError> {
        let link = self.link_of(conn, fd)?;
        Conn::open(&link, &conn.grant)
    }

    /// An end that another process has given to this one.
    fn taken(
        self: &Arc<Self>,
        taken: &Taken<WireConn>,
        words: &Words,
        fd: Option<OwnedFd>,
    ) -> Result<Answer> {
        let conn = taken.conn.as_ref();
        let opened = conn.map(|conn| self.open_conn(conn, fd)).transpose();
        let opened = opened.inspect_err(|_| self.tell(&Request::Close(taken.end)))?;
        let peer = words.peer;
        if taken.side == End::Client {
            let Some(opened) = opened else {
                // Its connection was buried a moment ago.
                self.tell(&Request::Close(taken.end));
                return Err(Error::Broken);
            };
            let mut end = ClientEnd::new(opened, self.clone(), taken.end, taken.granted, peer);
            end.came_from(words.origin);
            return Ok(Answer::TakenClient(end, words.options));
        }
        let known = lock(&self.state).servers.get(&taken.end).cloned();
        if let Some(server) = known.and_then(|server| server.upgrade())
            && server.one_more()
        {
            // This process has it already: the two are one end here, of which the broker counts one.
            if let Some(opened) = opened {
                opened.leave_to_broker();
            }
            self.put(&Request::Close(taken.end));
            let options = words.options;
            return Ok(Answer::TakenServer(server, taken.granted, options));
        }
        let server = ServerEnd::new(self, taken.end, taken.pipe_type, taken.granted);
        server.came_from(words.origin);
        server.is_now(taken.modes, taken.listening);
        if let (Some(opened), Some(conn)) = (opened, conn) {
            server.connected(opened, Arc::new(peer), conn.quality);
        }
        lock(&self.state)
            .servers
            .insert(taken.end, Arc::downgrade(&server));
        let options = words.options;
        Ok(Answer::TakenServer(server, taken.granted, options))
    }

    /// How a server end is that several processes have.
    fn refreshed(
        self: &Arc<Self>,
        server: &Weak<ServerEnd>,
        now: &Taken<WireConn>,
        words: &Words,
        fd: Option<OwnedFd>,
    ) -> Result<Answer> {
        let conn = now.conn.as_ref();
        let opened = conn.map(|conn| self.open_conn(conn, fd)).transpose()?;
        let Some(server) = server.upgrade() else {
            return Err(Error::Broken);
        };
        server.is_now(now.modes, now.listening);
        if let Some(opened) = opened {
            if server.has(&opened) {
                opened.leave_to_broker();
            } else {
                server.connected(opened, Arc::new(words.peer), words.quality);
            }
        }
        Ok(Answer::Done)
    }

    /// Asks how a server end is.
    pub(super) fn refresh(self: &Arc<Self>, end: EndId, server: &Arc<ServerEnd>) -> Result<Answer> {
        let tag = self.next_tag();
        let weak = Arc::downgrade(server);
        lock(&self.state).refreshing.insert(tag, weak);
        let answer = self.ask(tag, &Request::Refresh(tag, end));
        lock(&self.state).refreshing.remove(&tag);
        answer
    }

    fn answer(self: &Arc<Self>, tag: Tag, answer: Result<Answer>) {
        let mut state = lock(&self.state);
        let orphan = match state.waiting.get_mut(&tag) {
            None => true,
            Some(slot) if slot.orphan => {
                state.waiting.remove(&tag);
                true
            }
            Some(slot) if slot.notify.is_some() => {
                let slot = state.waiting.remove(&tag);
                state.notified -= 1;
                // Its reader, if that is another thread, may have nothing to read for any more.
                state.round.notify_all();
                drop(state);
                if let Some(notify) = slot.and_then(|slot| slot.notify) {
                    notify(answer);
                }
                return;
            }
            Some(slot) => {
                let before = slot.answer.replace(answer);
                slot.wake.notify_all();
                drop(state);
                // A broker that answers twice: what came first is undone.
                drop(before);
                return;
            }
        };
        drop(state);
        // Nobody takes it: it must not stay open. A server end closes itself when it is dropped.
        if orphan && let Ok(Answer::Opened { end, conn, .. }) = answer {
            self.close_end(&conn, end, false);
        }
    }

    fn link_of(
        self: &Arc<Self>,
        conn: &WireConn,
        fd: Option<OwnedFd>,
    ) -> std::result::Result<Shared<Link>, AttachError> {
        let Some(fd) = fd else {
            let state = lock(&self.state);
            let link = state.links.get(&conn.link);
            let link = link.map(|attached| attached.link.clone());
            drop(state);
            if link.is_none() {
                // This process had no room for its descriptor.
                self.put(&Request::LostLink(conn.link));
            }
            return link.ok_or(AttachError::Grant("its link did not come"));
        };
        let index =
            ProcessIndex::new(conn.process).ok_or(AttachError::Grant("its process index"))?;
        let link = Link::attach(fd, index)?;
        let attached = Attached {
            link: link.clone(),
            // In another pid namespace nothing can be said of it.
            peer: Some(conn.peer.pid).filter(|&pid| !sys::process_has_exited(pid)),
            client: Arc::new(conn.peer),
        };
        lock(&self.state).links.insert(conn.link, attached);
        if let Some(watcher) = self.watcher.get() {
            watcher.begin(self);
        }
        Ok(link)
    }

    /// Who is at the other end.
    fn peer_of(&self, conn: &WireConn) -> Arc<Peer> {
        let state = lock(&self.state);
        let known = state.links.get(&conn.link);
        let known = known.map(|attached| attached.client.clone());
        drop(state);
        // On a link that a third process has joined it may be another.
        known
            .filter(|known| **known == conn.peer)
            .unwrap_or_else(|| Arc::new(conn.peer))
    }

    // ---- when the broker has gone ------------------------------------------------------------------------------

    /// The links on which something is open, for the next broker; whoever asks first gets them.
    pub(super) fn take_links(&self) -> Vec<Kept> {
        let mut state = lock(&self.state);
        let kept = state.kept.drain().map(|(_, kept)| kept);
        let mut links: Vec<Kept> = kept.collect();
        links.extend(state.links.drain().map(|(_, attached)| Kept {
            link: Shared::faint(&attached.link),
            peer: attached.peer,
        }));
        drop(state);
        links.retain(Kept::is_of_use);
        links
    }

    /// Tells this broker of links that an earlier one made, and remembers them.
    pub(super) fn rejoin(self: &Arc<Self>, links: Vec<Kept>) {
        for kept in links {
            if let Some(link) = kept.link.find() {
                let token = link.token();
                link.close_what_never_came();
                lock(&self.state).kept.insert(token, kept);
                self.put(&Request::Rejoin(token, link.process().get()));
            }
        }
        self.hurry();
    }

    /// What its watcher has to wait for, besides the end, as poll(2) has it: word of a link of an earlier broker; room for
    /// what is in line.
    pub(super) fn needs(&self) -> libc::c_short {
        let mut state = lock(&self.state);
        state.kept.retain(|_, kept| kept.is_of_use());
        let mut events = 0;
        if !state.kept.is_empty() {
            events |= libc::POLLIN;
            drop(state);
            if !lock(&self.backlog).is_empty() {
                events |= libc::POLLOUT;
            }
        }
        events
    }

    /// Ends that were opened through this channel keep the next one, too: it is there that their processes' deaths are
    /// told.
    pub(super) fn is_followed_by(&self, next: &Arc<Channel>) {
        let _ = self.next.set(next.clone());
    }

    /// Sends the request by which a server end was made once more, on its behalf.
    pub(super) fn ask_again(
        self: &Arc<Self>,
        create: &Create,
        server: &Arc<ServerEnd>,
    ) -> Result<Answer> {
        let tag = self.next_tag();
        let server = Arc::downgrade(server);
        lock(&self.state).returning.insert(tag, server);
        let answer = self.ask(tag, &Request::Create(tag, Box::new(create.clone())));
        lock(&self.state).returning.remove(&tag);
        answer
    }

    /// The server end leaves off listening when that request has been answered.
    pub(super) fn leaves_with(&self, tag: Tag, server: &Weak<ServerEnd>) {
        lock(&self.state).leaving.insert(tag, server.clone());
    }

    /// An end that this process has no more. `shared`: other processes may have it, and the broker knows; without a broker
    /// the connection's own memory does.
    pub(super) fn close_end(self: &Arc<Self>, conn: &Conn, end: EndId, shared: bool) {
        if !shared {
            conn.close();
            return self.tell(&Request::Close(end));
        }
        self.tell(&Request::Close(end));
        // What the last close does is done when this returns (NP-CLOSE-02).
        if !LEADS.get() {
            self.catch_up();
        }
        if self.is_gone() {
            conn.release();
        } else {
            conn.leave_to_broker();
        }
    }

    pub(super) fn forget_server(&self, end: EndId) {
        lock(&self.state).servers.remove(&end);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The broker sees the end of it now, and its watcher, who has the descriptor too.
        self.give_up();
    }
}

/// Somebody else has to read now, if anybody waits.
fn pass_on(state: &State) {
    if !state.reading
        && let Some(slot) = state
            .waiting
            .values()
            .find(|slot| slot.waits && slot.answer.is_none() && !slot.orphan)
    {
        slot.wake.notify_all();
    }
}

fn sleep<'s>(
    wake: &Condvar,
    state: MutexGuard<'s, State>,
    deadline: Deadline,
) -> MutexGuard<'s, State> {
    match deadline.remaining() {
        None => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        Some(time) => {
            let woken = wake.wait_timeout(state, time);
            woken.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// `false`: the time is over, or a signal came.
fn wait_for_input(fd: &OwnedFd, deadline: Deadline) -> io::Result<bool> {
    match sys::poll(fd.as_fd(), libc::POLLIN, milliseconds(deadline)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => other,
    }
}

/// Up to the deadline, rounded up; `None`: it never comes.
fn milliseconds(deadline: Deadline) -> Option<i32> {
    let time = deadline.remaining()?;
    Some(i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX))
}

/// What is known to be no error of the broker's.
pub(crate) fn done(answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(Error::Status(NtStatus::INVALID_DEVICE_REQUEST)),
    }
}

thread_local! {
    /// This thread reads for all, and is inside `dispatch`.
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

const READER_STACK: usize = 256 << 10;
const HELLO_TIME: Duration = Duration::from_secs(5);
/// How long a broker may take nothing at all before closing an end no longer waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a broker may take to answer a cancel.
const CANCEL_TIME: Duration = Duration::from_millis(500);
