//! One thread of the broker: reads from its sessions, watches their processes, keeps its shards' time.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, atomic::Ordering, mpsc::Sender},
    time::Duration,
};

use npfs_ringbuf::{ABI_VERSION, layout_hash};

use super::{
    Core, IoKind,
    poller::Poller,
    session::{Flushed, MOST_WAITING, Session},
};
use crate::{
    lock::lock,
    npfs::{ClientId, nanoseconds},
    sys,
    wire::{self, Hello, Reply, Request, VERSION},
};

/// What others want of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// A new session.
    Watch(Arc<Session>),
    /// Its socket is full.
    Blocked(ClientId),
    /// Too many descriptors are on their way.
    Later(ClientId),
    /// It cannot be sent to any more.
    End(ClientId),
}

/// How others reach a worker.
#[derive(Debug)]
pub(super) struct Door {
    bell: OwnedFd,
    /// In order.
    mail: Mutex<VecDeque<Command>>,
}

impl Door {
    pub(super) fn new() -> io::Result<Door> {
        Ok(Door {
            bell: sys::eventfd()?,
            mail: Mutex::default(),
        })
    }

    pub(super) fn tell(&self, command: Command) {
        lock(&self.mail).push_back(command);
        self.ring();
    }

    pub(super) fn ring(&self) {
        sys::ring(self.bell.as_fd());
    }
}

/// Sessions are numbered from 1, four keys each.
fn key(id: ClientId, what: u64) -> u64 {
    id.0 << 2 | what
}
const SOCKET: u64 = 0;
const PROCESS: u64 = 1;
const ROOM: u64 = 2;
/// Keys of session 0, which does not exist.
const BELL: u64 = 0;
const LISTENER: u64 = 1;

/// Messages of one session in a row before others have their turn.
const TURN: usize = 32;
/// Bytes that may wait for a client before nothing more is read from it.
const PATIENCE: usize = 256 << 10;
/// How long the exit of a process whose socket has closed is awaited, before it counts as alive.
const GRACE: Duration = Duration::from_millis(20);
/// How long a client may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_millis(10);

struct Worker<'a> {
    core: &'a Core,
    index: usize,
    poller: Poller,
    listener: Option<OwnedFd>,
    sessions: HashMap<ClientId, Watched>,
    /// Sessions that may have something to read.
    ready: VecDeque<ClientId>,
    /// Sessions that are to be tried again at that time.
    later: Times,
    /// Sessions with something to do at that time: to say hello, or to have exited.
    timers: Times,
    buf: Vec<u8>,
    /// Since when there has been no client, if the broker ends then.
    idle_since: u64,
    /// No descriptor was left for a client that knocks.
    accept_later: Option<u64>,
    /// Sessions that linger, and how many links had gone when they were looked at last.
    lingering: usize,
    links_gone: u64,
}

/// Sessions by the time at which something is due for them.
type Times = BTreeSet<(u64, ClientId)>;

/// Takes out the first, if its time has come.
fn pop_due(times: &mut Times, now: u64) -> Option<ClientId> {
    let &(time, _) = times.first()?;
    (time <= now).then(|| times.pop_first().map(|(_, id)| id))?
}

struct Watched {
    session: Arc<Session>,
    stage: Stage,
    queued: bool,
    paused: bool,
    /// Not read from until then.
    held_until: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Greeted,
    /// Its socket has closed; whether its process has exited will show.
    Closed,
    /// It has ended; its process lives on, and with it what it may hold in links.
    Lingering,
}

impl Stage {
    /// Its socket is of no more use.
    fn is_over(self) -> bool {
        matches!(self, Stage::Closed | Stage::Lingering)
    }
}

/// The life of a worker. `said` hears whether it can work at all.
pub(super) fn run(
    core: &Arc<Core>,
    index: usize,
    io: IoKind,
    listener: Option<OwnedFd>,
    said: &Sender<io::Result<()>>,
) {
    let begun = Poller::new(io).and_then(|mut poller| {
        poller.add(core.doors[index].bell.as_fd(), BELL)?;
        if let Some(listener) = &listener {
            poller.add(listener.as_fd(), LISTENER)?;
        }
        Ok(poller)
    });
    let poller = match begun {
        Ok(poller) => poller,
        Err(error) => {
            let _ = said.send(Err(error));
            return;
        }
    };
    *lock(&core.io) = poller.name();
    let _ = said.send(Ok(()));
    let mut worker = Worker {
        core,
        index,
        poller,
        listener,
        sessions: HashMap::new(),
        ready: VecDeque::new(),
        later: Times::new(),
        timers: Times::new(),
        buf: vec![0; wire::MOST],
        idle_since: sys::now(),
        accept_later: None,
        lingering: 0,
        links_gone: 0,
    };
    if let Err(error) = worker.turn() {
        tracing::error!("a worker of the broker ends: {error}");
        lock(&core.failure).get_or_insert(error);
        core.stop();
    }
}

impl Worker<'_> {
    fn turn(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        while !self.core.stopping.load(Ordering::SeqCst) {
            ready.clear();
            self.poller.wait(self.sleep(), &mut ready)?;
            for &key in &ready {
                self.edge(key);
            }
            // Each has its turn; who has more to say comes to the end of the line.
            for _ in 0..self.ready.len() {
                if let Some(id) = self.ready.pop_front() {
                    self.read_from(id);
                }
            }
            self.tick();
        }
        Ok(())
    }

    /// How long there is nothing to do; `None`: until somebody calls.
    fn sleep(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = sys::now();
        let idle = self.core.idle_exit.filter(|_| self.index == 0);
        let idle = idle.filter(|_| self.core.session_count() == 0);
        let idle = idle.map(|after| self.idle_since.saturating_add(nanoseconds(after)));
        let times = [
            self.core.next_deadline(self.index),
            self.later.first().map(|&(time, _)| time),
            self.timers.first().map(|&(time, _)| time),
            self.accept_later,
            idle,
        ];
        let next = times.into_iter().flatten().min()?;
        Some(Duration::from_nanos(next.saturating_sub(now)))
    }

    fn tick(&mut self) {
        let now = sys::now();
        self.core.expire(now, self.index);
        while let Some(id) = pop_due(&mut self.later, now) {
            self.resume(id);
        }
        while let Some(id) = pop_due(&mut self.timers, now) {
            match self.sessions.get(&id).map(|watched| watched.stage) {
                Some(Stage::Fresh) => self.cut_off(id, "it did not say hello"),
                Some(Stage::Closed) => self.closed_and_alive(id),
                _ => {}
            }
        }
        if self.lingering != 0 && self.links_gone != self.core.links.gone() {
            self.part();
        }
        if self.accept_later.is_some_and(|time| time <= now) {
            self.accept_later = None;
            self.accept();
        }
        if self.index == 0
            && let Some(after) = self.core.idle_exit
        {
            if self.core.session_count() != 0 {
                self.idle_since = now;
            } else if now.saturating_sub(self.idle_since) >= nanoseconds(after) {
                tracing::info!("no client for {after:?}: ends");
                self.core.stop();
            }
        }
    }

    fn edge(&mut self, key: u64) {
        match key {
            BELL => {
                sys::unring(self.core.doors[self.index].bell.as_fd());
                let mail = std::mem::take(&mut *lock(&self.core.doors[self.index].mail));
                for command in mail {
                    self.obey(command);
                }
            }
            LISTENER => self.accept(),
            key => {
                let id = ClientId(key >> 2);
                match key & 3 {
                    SOCKET => self.enqueue(id),
                    PROCESS => self.exited(id),
                    ROOM => self.resume(id),
                    _ => {}
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Watch(session) => self.watch(session),
            Command::Blocked(id) => {
                if let Some(watched) = self.sessions.get(&id) {
                    let fd = watched.session.fd.as_fd();
                    if self.poller.once_writable(fd, key(id, ROOM)).is_err() {
                        self.cut_off(id, "its socket cannot be watched");
                    }
                }
            }
            Command::Later(id) => {
                self.later.insert((sys::now() + nanoseconds(LATER), id));
            }
            Command::End(id) => self.socket_closed(id),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        loop {
            match sys::accept(listener.as_fd()) {
                Ok(fd) => {
                    if let Err(error) = self.core.admit(fd) {
                        tracing::warn!("a client was turned away: {error}");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    self.accept_later = Some(sys::now() + nanoseconds(LATER));
                    return;
                }
            }
        }
    }

    fn watch(&mut self, session: Arc<Session>) {
        let id = session.id;
        let held_until = self.core.penalty(session.peer.pid);
        let mut added = self.poller.add(session.fd.as_fd(), key(id, SOCKET));
        if let Some(pidfd) = &session.pidfd {
            added = added.and_then(|()| self.poller.add(pidfd.as_fd(), key(id, PROCESS)));
        }
        self.sessions.insert(
            id,
            Watched {
                session,
                stage: Stage::Fresh,
                queued: false,
                paused: false,
                held_until,
            },
        );
        if let Some(until) = held_until {
            self.later.insert((until, id));
        }
        if let Err(error) = added {
            tracing::warn!("a client cannot be watched: {error}");
            return self.cut_off(id, "it cannot be watched");
        }
        let time = sys::now() + nanoseconds(HELLO_TIME);
        self.timers.insert((time, id));
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: ClientId) {
        if let Some(watched) = self.sessions.get_mut(&id)
            && !watched.queued
        {
            watched.queued = true;
            self.ready.push_back(id);
        }
    }

    /// There may be room in its socket again.
    fn resume(&mut self, id: ClientId) {
        if let Some(watched) = self.sessions.get_mut(&id) {
            watched.session.unblock();
            let session = watched.session.clone();
            self.core.flush(&session);
            if std::mem::take(&mut watched.paused) {
                self.enqueue(id);
            }
        }
    }

    /// Its turn.
    fn read_from(&mut self, id: ClientId) {
        let Some(watched) = self.sessions.get_mut(&id) else {
            return;
        };
        watched.queued = false;
        if watched.stage.is_over() {
            return;
        }
        if watched.held_until.is_some_and(|until| until > sys::now()) {
            watched.paused = true;
            return;
        }
        watched.held_until = None;
        let session = watched.session.clone();
        for _ in 0..TURN {
            if session.waiting() > PATIENCE {
                // Perhaps another worker is about to send it; if the socket is full, there will be word of room.
                self.core.flush(&session);
                let waiting = session.waiting();
                if waiting > MOST_WAITING {
                    return self.cut_off(id, "it does not read its answers");
                }
                if waiting > PATIENCE {
                    watched.paused = true;
                    return;
                }
            }
            let length = match sys::receive(session.fd.as_fd(), &mut self.buf, false) {
                Ok((0, _)) => return self.socket_closed(id),
                Ok((length, _)) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return self.cut_off(id, "it sent too long a message");
                }
                Err(_) => return self.socket_closed(id),
            };
            self.core.requests.fetch_add(1, Ordering::Relaxed);
            let done = match (Request::decode(&self.buf[..length]), watched.stage) {
                (Err(error), _) => Err(error.0),
                (Ok(Request::Hello(hello)), Stage::Fresh) => {
                    watched.stage = Stage::Greeted;
                    welcome(&session, &hello)
                }
                (Ok(_), Stage::Fresh) => Err("it did not say hello"),
                (Ok(request), _) => self.core.handle(&session, request),
            };
            if let Err(why) = done {
                return self.cut_off(id, why);
            }
        }
        self.enqueue(id);
    }

    fn cut_off(&mut self, id: ClientId, why: &str) {
        if let Some(watched) = self.sessions.get(&id) {
            let pid = watched.session.peer.pid;
            tracing::warn!("process {pid} is cut off: {why}");
            self.core.punish(pid);
            self.socket_closed(id);
        }
    }

    /// Its socket has closed, or is of no more use. If its process is about to be gone, that is awaited: what it left
    /// pending is then cancelled, and not left behind as by a close.
    fn socket_closed(&mut self, id: ClientId) {
        let Some(watched) = self.sessions.get_mut(&id) else {
            return;
        };
        if watched.stage.is_over() {
            return;
        }
        watched.stage = Stage::Closed;
        watched.session.end();
        self.poller
            .remove(watched.session.fd.as_fd(), key(id, SOCKET));
        let here = watched.session.peer.pid == std::process::id();
        let exited = watched
            .session
            .pidfd
            .as_ref()
            .is_some_and(|pidfd| sys::has_exited(pidfd.as_fd()));
        // One that cannot be watched counts as exited: its links are its own, and go with it.
        if exited || watched.session.pidfd.is_none() {
            self.exited(id);
        } else if here {
            self.closed_and_alive(id);
        } else {
            self.timers.insert((sys::now() + nanoseconds(GRACE), id));
        }
    }

    fn exited(&mut self, id: ClientId) {
        let Some(watched) = self.sessions.remove(&id) else {
            return;
        };
        let session = watched.session;
        session.end();
        if let Some(pidfd) = &session.pidfd {
            self.poller.remove(pidfd.as_fd(), key(id, PROCESS));
        }
        if !watched.stage.is_over() {
            self.poller.remove(session.fd.as_fd(), key(id, SOCKET));
        }
        // What it held in shared memory is taken back.
        self.core.links.bury(id);
        if watched.stage == Stage::Lingering {
            self.one_less();
            self.core.tell_departed();
        } else {
            self.core.end(&session, true);
        }
    }

    /// Its process lives on without us.
    fn closed_and_alive(&mut self, id: ClientId) {
        let Some(watched) = self.sessions.get_mut(&id) else {
            return;
        };
        watched.stage = Stage::Lingering;
        self.lingering += 1;
        self.core.lingering.fetch_add(1, Ordering::Relaxed);
        let session = watched.session.clone();
        self.core.end(&session, false);
        self.part();
    }

    fn one_less(&mut self) {
        self.lingering -= 1;
        self.core.lingering.fetch_sub(1, Ordering::Relaxed);
    }

    /// Those whose links have all gone need no watching.
    fn part(&mut self) {
        let links = &self.core.links;
        self.links_gone = links.gone();
        let over = self
            .sessions
            .iter()
            .filter(|(id, watched)| watched.stage == Stage::Lingering && !links.any_of(**id));
        let over: Vec<ClientId> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.one_less();
            if let Some(watched) = self.sessions.remove(&id)
                && let Some(pidfd) = &watched.session.pidfd
            {
                self.poller.remove(pidfd.as_fd(), key(id, PROCESS));
            }
        }
    }
}

fn welcome(session: &Arc<Session>, hello: &Hello) -> Result<(), &'static str> {
    let common = (hello.versions.0..=hello.versions.1).contains(&VERSION);
    let same_links = hello.abi == ABI_VERSION && hello.layout == layout_hash();
    session.queue(
        Reply::Welcome {
            version: if common { VERSION } else { 0 },
            abi: ABI_VERSION,
            layout: layout_hash(),
            pid: std::process::id(),
        }
        .encode(),
        None,
    );
    if session.flush() == Flushed::Over {
        return Err("it has gone");
    }
    if !common || !same_links {
        return Err("it is of another version");
    }
    session.greet(if hello.bits == 32 { 32 } else { 64 });
    Ok(())
}
