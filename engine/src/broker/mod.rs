//! The broker: who may talk to whom. It never sees a payload.
//!
//! ```text
//! client sockets ──► workers (io_uring or epoll) ──► shards (pure, one lock each) ──► completions
//!      ▲                                                │ Wires                          │
//!      │                                                ▼                                │
//!      └────────────── sessions' queues ◄──────── links, books ◄─────────────────────────┘
//! ```
//!
//! A worker reads from its own sessions and answers on anybody's. Completions of one shard are queued under its lock, so
//! that each session hears of them in their order, and sent after it. Locks are taken in one order: shard, the table of
//! links, who has joined one, a session's queue, books; none is held over a system call that could wait.

mod gifts;
mod links;
mod orphans;
mod poller;
mod session;
mod worker;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use npfs_ringbuf::{Grant, ProcessIndex};

pub use poller::IoKind;

use self::{
    gifts::{Gift, GiftToken, Gifts},
    links::{ConnRef, Links, Wiring},
    orphans::{ALL, LinkToken, Lost, Orphans, Rejoined, Side},
    session::{Flushed, Session, User},
    worker::Command,
};
use crate::{
    client::Namespace,
    lock::lock,
    name::{Key, Name},
    npfs::{
        Asker, ClientId, Completion, EndId, InstanceInfo, Modes, Quality, Shard, Tag, Taken,
        Wanted, nanoseconds,
    },
    security::Mask,
    status::NtStatus,
    sys,
    wire::{InstanceEntry, Peer, Reply, Request, WireConn, Words},
};

/// What one client, and one user, may take from the others.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Ends that it has open.
    pub ends: usize,
    /// Requests that were not answered yet.
    pub outstanding: usize,
    /// Links that all clients of one user have made: one for each other process that one of them talks to, and a
    /// further one for each 1024 connections with it, and for each that is kept apart; those that a server keeps apart count for its own
    /// user as long as it has its end of them.
    pub links: usize,
    /// Sessions of one user, those included whose processes live on after them and have pipes open at the other end.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ends: 65_536,
            outstanding: 16_384,
            links: 8192,
            sessions: 8192,
        }
    }
}

/// How a broker is started.
#[derive(Debug)]
pub struct BrokerOptions {
    path: Option<PathBuf>,
    everyone: bool,
    workers: usize,
    idle_exit: Option<Duration>,
    limits: Limits,
    io: IoKind,
    listener: Option<OwnedFd>,
}

impl Default for BrokerOptions {
    fn default() -> BrokerOptions {
        BrokerOptions::new()
    }
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody serves that socket already.
    #[error("a broker already serves {path}{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    AlreadyServed {
        /// The socket.
        path: PathBuf,
        /// Whose it is, as its lock file says.
        pid: Option<u32>,
    },
    /// The socket's directory belongs to somebody else, or lets others write.
    #[error("{0} is not safe: {1}")]
    Unsafe(PathBuf, &'static str),
    /// The system refused.
    #[error("{0}")]
    Io(String, #[source] io::Error),
}

impl BrokerOptions {
    /// Without a socket: reached by [`Broker::connect`] only, until [`BrokerOptions::socket`] names one.
    #[must_use]
    pub fn new() -> BrokerOptions {
        BrokerOptions {
            path: None,
            everyone: false,
            workers: 0,
            idle_exit: None,
            limits: Limits::default(),
            io: IoKind::Probe,
            listener: None,
        }
    }

    /// Listens at `path`. Its directory is made if need be, for this user alone. A file `PATH.lock` beside it says who
    /// serves it.
    pub fn socket(&mut self, path: impl Into<PathBuf>) -> &mut BrokerOptions {
        self.path = Some(path.into());
        self
    }

    /// Lets every user of the machine connect; security descriptors decide what each may do.
    pub fn everyone(&mut self, everyone: bool) -> &mut BrokerOptions {
        self.everyone = everyone;
        self
    }

    /// Threads; 0: one for each CPU, at most four.
    pub fn workers(&mut self, workers: usize) -> &mut BrokerOptions {
        self.workers = workers;
        self
    }

    /// Ends after so long without any client.
    pub fn idle_exit(&mut self, after: Option<Duration>) -> &mut BrokerOptions {
        self.idle_exit = after;
        self
    }

    /// What one client may take.
    pub fn limits(&mut self, limits: Limits) -> &mut BrokerOptions {
        self.limits = limits;
        self
    }

    /// How it waits.
    pub fn io(&mut self, io: IoKind) -> &mut BrokerOptions {
        self.io = io;
        self
    }

    /// Serves a socket that listens already, as a service manager passes it on (sd_listen_fds(3)): the first of
    /// `LISTEN_FDS`, if `LISTEN_PID` is this process. `false`: there is none.
    ///
    /// # Errors
    /// [`StartError::Io`]: what was passed on is not a listening SOCK_SEQPACKET socket.
    pub fn activated(&mut self) -> Result<bool, StartError> {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        if number("LISTEN_PID") != Some(std::process::id())
            || number("LISTEN_FDS").is_none_or(|count| count == 0)
        {
            return Ok(false);
        }
        let bad = |error| StartError::Io("the socket that was passed on".to_owned(), error);
        // SAFETY: descriptor 3 is the service manager's for this process, by the variables' contract.
        let fd = unsafe { sys::adopt(3) }.map_err(bad)?;
        if !sys::is_listener(fd.as_fd()) {
            let kind = io::ErrorKind::InvalidInput;
            return Err(bad(io::Error::new(
                kind,
                "not a listening SOCK_SEQPACKET socket",
            )));
        }
        sys::set_nonblocking(fd.as_fd()).map_err(bad)?;
        self.listener = Some(fd);
        Ok(true)
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// [`StartError`] says what is in the way.
    pub fn start(&mut self) -> Result<Broker, StartError> {
        let io_error = |what: &str| {
            let what = what.to_owned();
            move |error| StartError::Io(what, error)
        };
        sys::raise_descriptor_limit();
        let (listener, place) = match (self.listener.take(), &self.path) {
            (Some(listener), _) => (Some(listener), None),
            (None, Some(path)) => {
                let (listener, place) = Place::take(path, self.everyone)?;
                (Some(listener), Some(place))
            }
            (None, None) => (None, None),
        };
        let workers = match self.workers {
            0 => thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4)),
            workers => workers,
        };
        let shards = (0..SHARDS).map(|index| Mutex::new(Shard::new(index, SHARDS)));
        let mut doors = Vec::new();
        for _ in 0..workers {
            doors.push(worker::Door::new().map_err(io_error("eventfd"))?);
        }
        let core = Arc::new(Core {
            pipes: shards.collect(),
            deadlines: (0..SHARDS).map(|_| AtomicU64::new(u64::MAX)).collect(),
            links: Links::default(),
            orphans: Mutex::default(),
            gifts: Mutex::default(),
            sessions: RwLock::default(),
            doors,
            limits: self.limits,
            idle_exit: self.idle_exit,
            next_session: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
            io: Mutex::new(""),
            lingering: AtomicUsize::new(0),
            users: Mutex::default(),
            penalties: Mutex::default(),
        });
        let mut broker = Broker {
            core,
            threads: Vec::new(),
            place,
        };
        let mut listener = listener;
        for index in 0..workers {
            let (said, hears) = std::sync::mpsc::channel();
            let core = broker.core.clone();
            let (io, listener) = (self.io, listener.take());
            let thread = thread::Builder::new()
                .name(format!("npfs-broker-{index}"))
                .spawn(move || worker::run(&core, index, io, listener, &said))
                .map_err(io_error("thread"))?;
            broker.threads.push(thread);
            // Here, and not when the first client comes, is where a missing io_uring should show.
            match hears.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(io_error("io_uring or epoll")(error)),
                Err(_) => {
                    let error = io::Error::other("a worker died");
                    return Err(io_error("thread")(error));
                }
            }
        }
        Ok(broker)
    }
}

/// A running broker. Dropping it stops it; connections that it has made go on.
#[derive(Debug)]
pub struct Broker {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    place: Option<Place>,
}

/// Counts, for people and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Messages from clients, hellos included.
    pub requests: u64,
    /// Clients.
    pub sessions: usize,
    /// Links.
    pub links: usize,
    /// Connections with an open end.
    pub connections: usize,
    /// Threads.
    pub workers: usize,
    /// `io_uring` or `epoll`.
    pub io: &'static str,
}

impl Broker {
    /// A client of this broker in this process, without a socket file.
    ///
    /// # Errors
    /// As [`Namespace::connect`].
    pub fn connect(&self) -> crate::Result<Namespace> {
        let (ours, theirs) = sys::pair()?;
        self.core.admit(ours)?;
        Namespace::over(theirs, "the broker of this process")
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Whether nothing is left of any client: no name, no end, no link.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.core.pipes.iter().all(|shard| lock(shard).is_empty())
            && self.core.links.count() == 0
            && lock(&self.core.orphans).is_empty()
            && lock(&self.core.gifts).is_empty()
    }

    /// Waits until it has ended: by itself when idle, or by [`Stop::stop`].
    ///
    /// # Errors
    /// A worker could not go on: the system refused what it waits with.
    pub fn run(mut self) -> io::Result<()> {
        let mut panicked = false;
        for thread in self.threads.drain(..) {
            panicked |= thread.join().is_err();
        }
        match lock(&self.core.failure).take() {
            Some(error) => Err(error),
            None if panicked => Err(io::Error::other("a worker died")),
            None => Ok(()),
        }
    }

    /// Something to stop it with, from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        Stop(self.core.clone())
    }
}

/// Stops a broker.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Core>);

impl Stop {
    /// Asks its threads to end.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.core.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        drop(self.place.take());
    }
}

/// A socket's file and the lock that says whose it is.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    lock: File,
}

impl Place {
    fn take(path: &Path, everyone: bool) -> Result<(OwnedFd, Place), StartError> {
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error| StartError::Io(path, error)
        };
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        if !folder.exists() {
            let mode = if everyone { 0o755 } else { 0o700 };
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(folder)
                .map_err(at(folder))?;
        }
        let meta = fs::metadata(folder).map_err(at(folder))?;
        if meta.uid() != sys::uid() && meta.uid() != 0 {
            return Err(StartError::Unsafe(
                folder.to_owned(),
                "it belongs to somebody else",
            ));
        }
        // A sticky directory such as /tmp keeps others from replacing what is ours.
        if meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(StartError::Unsafe(
                folder.to_owned(),
                "others may write there",
            ));
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        if !sys::lock(lock.as_fd()).map_err(at(&lock_path))? {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(StartError::AlreadyServed {
                path: path.to_owned(),
                pid: pid.trim().parse().ok(),
            });
        }
        // Whoever has the lock may clear away what a dead broker has left.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
            _ => {}
        }
        let listener = sys::listen(path).map_err(at(path))?;
        let mode = if everyone { 0o666 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at(path))?;
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(at(&lock_path))?;
        let path = path.to_owned();
        Ok((listener, Place { path, lock }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The lock's file stays: removing it would let two brokers lock two files of one name.
        let _ = fs::remove_file(&self.path);
        let _ = self.lock.set_len(0);
    }
}

/// Shards of a namespace.
const SHARDS: u64 = 16;

/// What the workers share.
///
/// `pipes` is the namespace of named pipes. A further namespace (local RPC) is a further row of shards here, chosen by a
/// number in the request's head that is 0 today; a name that a row does not have is looked up in one place
/// ([`Core::open`]), which is where a provider of a prefix is asked.
#[derive(Debug)]
struct Core {
    pipes: Vec<Mutex<Shard<ConnRef>>>,
    /// By shard: when its next wait ends.
    deadlines: Vec<AtomicU64>,
    links: Links,
    orphans: Mutex<Orphans>,
    /// Ends that were given away.
    gifts: Mutex<Gifts>,
    sessions: RwLock<HashMap<ClientId, Arc<Session>>>,
    doors: Vec<worker::Door>,
    limits: Limits,
    idle_exit: Option<Duration>,
    next_session: AtomicU64,
    requests: AtomicU64,
    stopping: AtomicBool,
    /// Why a worker has ended before it was told to.
    failure: Mutex<Option<io::Error>>,
    io: Mutex<&'static str>,
    /// Sessions that have ended while their processes live on, and something is open on their links.
    lingering: AtomicUsize,
    users: Mutex<HashMap<u32, Weak<User>>>,
    /// Processes that were cut off lately.
    penalties: Mutex<HashMap<u32, Penalty>>,
}

#[derive(Debug, Default)]
struct Penalty {
    times: u32,
    until: u64,
}

impl Core {
    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for door in &self.doors {
            door.ring();
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            requests: self.requests.load(Ordering::Relaxed),
            sessions: self.session_count(),
            links: self.links.count(),
            connections: self.links.connections(),
            workers: self.doors.len(),
            io: *lock(&self.io),
        }
    }

    fn session_count(&self) -> usize {
        let sessions = self.sessions.read();
        sessions.map_or(0, |sessions| sessions.len())
    }

    fn session(&self, id: ClientId) -> Option<Arc<Session>> {
        let sessions = self.sessions.read().ok()?;
        sessions.get(&id).cloned()
    }

    /// A new client: some worker's from now on.
    fn admit(&self, fd: OwnedFd) -> io::Result<()> {
        let id = ClientId(self.next_session.fetch_add(1, Ordering::Relaxed) + 1);
        // In turn.
        let worker = usize::try_from(id.0).unwrap_or(0) % self.doors.len();
        let session = Arc::new(Session::new(id, fd, worker, |uid| self.user(uid))?);
        self.sessions
            .write()
            .map_err(|_| io::Error::other("a worker died"))?
            .insert(id, session.clone());
        self.doors[session.worker].tell(Command::Watch(session));
        Ok(())
    }

    /// A process was cut off: the next time it is made to wait.
    fn punish(&self, pid: u32) {
        let now = sys::now();
        let mut penalties = lock(&self.penalties);
        // Forgotten a second after it is over.
        penalties.retain(|_, penalty| penalty.until + 1_000_000_000 > now);
        let penalty = penalties.entry(pid).or_default();
        let delay = FIRST_PENALTY * (1 << penalty.times.min(MOST_DOUBLINGS));
        penalty.times += 1;
        penalty.until = now + nanoseconds(delay);
    }

    /// Until when a new session of this process is not heard.
    fn penalty(&self, pid: u32) -> Option<u64> {
        let penalties = lock(&self.penalties);
        let until = penalties.get(&pid)?.until;
        (until > sys::now()).then_some(until)
    }

    fn user(&self, uid: u32) -> io::Result<Arc<User>> {
        let mut users = lock(&self.users);
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            if user.sessions.load(Ordering::Relaxed) >= self.limits.sessions {
                return Err(io::Error::other(format!(
                    "user {uid} has too many sessions"
                )));
            }
            return Ok(user);
        }
        users.retain(|_, user| user.strong_count() != 0);
        let user = Arc::new(User::default());
        users.insert(uid, Arc::downgrade(&user));
        Ok(user)
    }

    fn shard_of(&self, key: &Key) -> usize {
        // FNV-1a; which shard a name falls to is nobody's secret, and a shard is a tree.
        let hash = key
            .units()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, unit| {
                (hash ^ u64::from(*unit)).wrapping_mul(0x100_0000_01b3)
            });
        usize::try_from((hash >> 32) % SHARDS).unwrap_or(0)
    }

    fn shard_of_end(&self, end: EndId) -> usize {
        usize::try_from(end.0 % SHARDS).unwrap_or(0)
    }

    // ---- requests ----------------------------------------------------------------------------------------------

    /// One message of a session that has said hello. `Err`: cut it off.
    fn handle(&self, session: &Arc<Session>, request: Request) -> Result<(), &'static str> {
        let tag = match &request {
            Request::Hello(_) => return Err("a second hello"),
            Request::Close(_) | Request::Cancel(_) | Request::LostLink(_) | Request::Rejoin(..) => {
                Tag(0)
            }
            Request::Create(tag, _)
            | Request::Open(tag, ..)
            | Request::Listen(tag, ..)
            | Request::Disconnect(tag, _)
            | Request::Wait(tag, ..)
            | Request::List(tag, ..)
            | Request::Info(tag, ..)
            | Request::OpenAt(tag, ..)
            | Request::Describe(tag, _)
            | Request::Security(tag, ..)
            | Request::SetSecurity(tag, ..)
            | Request::Give(tag, ..)
            | Request::Take(tag, ..)
            | Request::SetModes(tag, ..)
            | Request::Refresh(tag, _) => *tag,
        };
        if tag.0 != 0 {
            let outstanding = session.outstanding.fetch_add(1, Ordering::Relaxed);
            if outstanding >= self.limits.outstanding {
                self.refuse(session, tag, NtStatus::INSUFFICIENT_RESOURCES);
                return Ok(());
            }
        }
        let asker = Asker {
            client: session.id,
            tag,
            token: &session.token,
        };
        match request {
            Request::Hello(_) => {}
            Request::Create(_, create) => {
                if self.may_open(session) {
                    let shard = match &create.name {
                        Some(name) => self.shard_of(&name.folded()),
                        // No two of them ever meet: any will do.
                        None => self.shard_of_end(EndId(session.id.0)),
                    };
                    self.at(shard, |shard, _, out| shard.create(asker, *create, out));
                } else {
                    self.refuse(session, tag, NtStatus::INSUFFICIENT_RESOURCES);
                }
            }
            Request::Open(_, name, wanted) => {
                if self.may_open(session) {
                    self.open(asker, &name, wanted);
                } else {
                    self.refuse(session, tag, NtStatus::INSUFFICIENT_RESOURCES);
                }
            }
            Request::OpenAt(_, end, wanted) => {
                if self.may_open(session) {
                    let shard = self.shard_of_end(end);
                    self.at(shard, |shard, wires, out| {
                        shard.open_at(asker, end, wanted, wires, out);
                    });
                } else {
                    self.refuse(session, tag, NtStatus::INSUFFICIENT_RESOURCES);
                }
            }
            Request::Describe(_, end) => {
                let described = lock(&self.pipes[self.shard_of_end(end)]).describe(session.id, end);
                self.answer_or_refuse(session, tag, described, |tag, info| Reply::Described {
                    tag,
                    info: Box::new(info),
                });
            }
            Request::Security(_, end, parts) => {
                let shard = self.shard_of_end(end);
                let security = lock(&self.pipes[shard]).security(session.id, end, parts);
                self.answer_or_refuse(session, tag, security, |tag, security| {
                    Reply::Security(tag, Box::new(security))
                });
            }
            Request::SetSecurity(_, end, parts, security) => {
                let shard = self.shard_of_end(end);
                let set = lock(&self.pipes[shard]).set_security(asker, end, parts, *security);
                self.answer_or_refuse(session, tag, set, |tag, ()| {
                    Reply::Done(tag, NtStatus::SUCCESS)
                });
            }
            Request::Listen(_, end, pends) => {
                let shard = self.shard_of_end(end);
                self.at(shard, |shard, _, out| shard.listen(asker, end, pends, out));
            }
            Request::Disconnect(_, end) => {
                let shard = self.shard_of_end(end);
                self.at(shard, |shard, wires, out| {
                    shard.disconnect(asker, end, wires, out);
                });
            }
            Request::Close(end) => {
                let shard = self.shard_of_end(end);
                let closed = self.at(shard, |shard, wires, out| {
                    shard.close(session.id, end, wires, out)
                });
                if closed {
                    session.ends.fetch_sub(1, Ordering::Relaxed);
                } else if session.strays.fetch_add(1, Ordering::Relaxed) >= MOST_STRAYS {
                    return Err("it closes what it does not have");
                }
            }
            Request::Wait(_, name, timeout) => {
                let shard = self.shard_of(&name.folded());
                self.at(shard, |shard, _, out| {
                    shard.wait(asker, &name, timeout, sys::now(), out);
                });
            }
            Request::Cancel(tag) => {
                let mut shards = 0..self.pipes.len();
                // Where it pends is not known; it ends at the first that knows it, or was answered already.
                let _ = shards.any(|shard| {
                    self.at(shard, |shard, _, out| shard.cancel(session.id, tag, out))
                });
            }
            Request::List(_, shard, after) => self.list(session, tag, shard, &after),
            Request::Info(_, name, skip) => self.info(session, tag, &name, skip),
            Request::LostLink(link) => {
                session.forget_link(link);
            }
            Request::Rejoin(token, index) => self.rejoin(session, token, index),
            Request::Give(_, end, access, modes, to, words) => {
                let given = self.give(session, end, (access, modes), to, words);
                self.answer_or_refuse(session, tag, given, Reply::Given);
            }
            Request::Take(_, token) => self.take(session, asker, token),
            Request::SetModes(_, end, modes) => {
                let shard = self.shard_of_end(end);
                let set = lock(&self.pipes[shard]).set_modes(session.id, end, modes);
                self.answer_or_refuse(session, tag, set, |tag, ()| {
                    Reply::Done(tag, NtStatus::SUCCESS)
                });
            }
            Request::Refresh(_, end) => {
                let shard = self.shard_of_end(end);
                self.at(shard, |shard, wires, out| {
                    shard.refresh(asker, end, wires, out);
                });
            }
        }
        Ok(())
    }

    // ---- ends that go from one process to another --------------------------------------------------------------

    /// NtDuplicateObject into another process, its first half.
    fn give(
        &self,
        session: &Session,
        end: EndId,
        (access, modes): (Mask, Modes),
        to: Option<u32>,
        mut words: Words,
    ) -> Result<GiftToken, NtStatus> {
        let giver = session.peer.uid;
        let uid = to.unwrap_or(giver);
        if lock(&self.gifts).count(giver) >= self.limits.outstanding {
            return Err(NtStatus::INSUFFICIENT_RESOURCES);
        }
        let token = random().map_err(|error| {
            tracing::warn!("no random numbers: {error}");
            NtStatus::INSUFFICIENT_RESOURCES
        })?;
        let shard = self.shard_of_end(end);
        let abroad = uid != giver;
        let granted = self.at(shard, |shard, wires, _| {
            shard.give(session.id, end, modes, abroad, wires)
        })?;
        if abroad {
            // The taker has no reason to believe the giver; of the other end it is told when it comes.
            words.origin = session.peer;
        }
        let gift = Gift {
            end,
            granted: granted & access,
            words,
            uid,
            giver,
            until: sys::now() + nanoseconds(KEPT),
        };
        lock(&self.gifts).add(token, gift);
        // Whose clock it is.
        self.doors[0].ring();
        Ok(token)
    }

    /// Its second half.
    fn take(&self, session: &Arc<Session>, asker: Asker<'_>, token: GiftToken) {
        if !self.may_open(session) {
            return self.refuse(session, asker.tag, NtStatus::INSUFFICIENT_RESOURCES);
        }
        let gift = lock(&self.gifts).take(token, session.peer.uid);
        let Some(gift) = gift else {
            return self.refuse(session, asker.tag, NtStatus::INVALID_HANDLE);
        };
        let shard = self.shard_of_end(gift.end);
        self.at(shard, |shard, wires, out| {
            wires.words = gift.words;
            if gift.is_abroad() {
                // What the broker knows itself, of the connection that is taken: another one may have been there when it was given.
                let (peer, quality) = shard.peer_of(gift.end);
                wires.words.peer = self.peer(peer).unwrap_or_default();
                wires.words.quality = quality;
            }
            shard.take(asker, gift.end, gift.granted, wires, out);
        });
    }

    /// A process goes on with a link of an earlier broker.
    fn rejoin(&self, session: &Session, token: LinkToken, index: u8) {
        if self.links.knows(token) {
            // It has lost its session, not its broker, which has closed what it had open.
            return;
        }
        let me = Side {
            session: session.id,
            index,
            pid: session.peer.pid,
        };
        let until = sys::now() + nanoseconds(ALONE);
        // A link has one open end at least.
        let rejoined = lock(&self.orphans).rejoin(me, token, until, self.limits.ends);
        match rejoined {
            // Whose clock it is.
            Rejoined::Yes => self.doors[0].ring(),
            Rejoined::Alone => self.tell_lost(vec![(session.id, token, ALL)], false),
            Rejoined::TooMany => {
                let pid = session.peer.pid;
                tracing::warn!("process {pid} has too many links of earlier brokers");
            }
        }
    }

    /// Tells those whose other half of a link has gone.
    fn tell_lost(&self, lost: Lost, exited: bool) {
        for (id, token, gone) in lost {
            if let Some(session) = self.session(id) {
                let exited = exited && gone.is_power_of_two();
                session.queue(Reply::PeerLost(token, gone, exited).encode(), None);
                self.flush(&session);
            }
        }
    }

    /// Tells those who had a link that nothing is open on it any more.
    pub(super) fn tell_departed(&self) {
        for link in self.links.departed() {
            for session in link.sessions() {
                self.tell_link_gone(session, link.id);
            }
        }
    }

    fn tell_link_gone(&self, session: ClientId, link: u64) {
        if let Some(session) = self.session(session)
            && session.forget_link(link)
        {
            session.queue(Reply::LinkGone(link).encode(), None);
            self.flush(&session);
        }
    }

    /// A name that nobody has made is answered here, once: this is where the provider of a prefix will be asked first.
    fn open(&self, asker: Asker<'_>, name: &Name, wanted: Wanted) {
        let shard = self.shard_of(&name.folded());
        self.at(shard, |shard, wires, out| {
            shard.open(asker, name, wanted, wires, out);
        });
    }

    fn answer_or_refuse<T>(
        &self,
        session: &Arc<Session>,
        tag: Tag,
        answer: Result<T, NtStatus>,
        reply: impl FnOnce(Tag, T) -> Reply,
    ) {
        match answer {
            Ok(answer) => self.answer(session, tag, &reply(tag, answer)),
            Err(status) => self.refuse(session, tag, status),
        }
    }

    fn may_open(&self, session: &Session) -> bool {
        session.ends.load(Ordering::Relaxed) < self.limits.ends
    }

    fn refuse(&self, session: &Arc<Session>, tag: Tag, status: NtStatus) {
        self.answer(session, tag, &Reply::Done(tag, status));
    }

    /// The answer to a request that no shard answers; none to who wants none.
    fn answer(&self, session: &Arc<Session>, tag: Tag, reply: &Reply) {
        if tag.0 != 0 {
            session.outstanding.fetch_sub(1, Ordering::Relaxed);
            session.queue(reply.encode(), None);
            self.flush(session);
        }
    }

    /// Runs one request on one shard, queues what comes of it, and sends that.
    fn at<T>(
        &self,
        index: usize,
        request: impl FnOnce(&mut Shard<ConnRef>, &mut Wiring<'_>, &mut Vec<Completion<ConnRef>>) -> T,
    ) -> T {
        let find = |id| self.session(id);
        let mut wires = Wiring {
            links: &self.links,
            session: &find,
            most_links: self.limits.links,
            made: None,
            words: Words::default(),
        };
        let mut out = Vec::new();
        let mut touched = Vec::new();
        let links_gone = self.links.gone();
        let mut shard = lock(&self.pipes[index]);
        let answer = request(&mut shard, &mut wires, &mut out);
        let (made, words) = (wires.made.take(), wires.words);
        for completion in out {
            self.queue(completion, made.as_ref(), words, &mut touched);
        }
        let deadline = shard.next_deadline().unwrap_or(u64::MAX);
        let before = self.deadlines[index].swap(deadline, Ordering::SeqCst);
        drop(shard);
        if deadline < before {
            self.doors[index % self.doors.len()].ring();
        }
        for session in touched {
            self.flush(&session);
        }
        if self.links.gone() != links_gone {
            self.tell_departed();
        }
        if self.links.gone() != links_gone && self.lingering.load(Ordering::Relaxed) != 0 {
            // Those whose last link that was need no watching any more.
            for door in &self.doors {
                door.ring();
            }
        }
        answer
    }

    /// Under the shard's lock: turns a completion into a message of the session that it is for.
    fn queue(
        &self,
        completion: Completion<ConnRef>,
        made: Option<&(Grant, Grant)>,
        words: Words,
        touched: &mut Vec<Arc<Session>>,
    ) {
        let mut to = |id: ClientId, reply: &Reply, link: Option<&ConnRef>, answers: bool| {
            let Some(session) = self.session(id) else {
                return;
            };
            if answers {
                session.outstanding.fetch_sub(1, Ordering::Relaxed);
            }
            session.queue(reply.encode(), link.map(|conn| &conn.link));
            if !touched.iter().any(|other| other.id == id) {
                touched.push(session);
            }
        };
        match completion {
            Completion::Done(_, Tag(0), _) => {}
            Completion::Done(client, tag, answer) => {
                let status = answer.err().unwrap_or(NtStatus::SUCCESS);
                to(client, &Reply::Done(tag, status), None, true);
            }
            Completion::Created {
                client,
                tag,
                end,
                pipe_type,
                first,
                granted,
            } => {
                if let Some(session) = self.session(client) {
                    session.ends.fetch_add(1, Ordering::Relaxed);
                }
                let reply = Reply::Created {
                    tag,
                    end,
                    pipe_type,
                    first,
                    granted,
                };
                to(client, &reply, None, tag.0 != 0);
            }
            Completion::Opened {
                client,
                tag,
                end,
                granted,
                conn,
                server,
            } => {
                let Some(&(_, grant)) = made else { return };
                if let Some(session) = self.session(client) {
                    session.ends.fetch_add(1, Ordering::Relaxed);
                }
                let reply = Reply::Opened {
                    tag,
                    end,
                    granted,
                    conn: self.conn(&conn, client, self.peer(server), grant, Quality::default()),
                };
                to(client, &reply, Some(&conn), tag.0 != 0);
            }
            Completion::Connected {
                server,
                end,
                listener,
                conn,
                client,
                quality,
            } => {
                let Some(&(grant, _)) = made else { return };
                let reply = Reply::Connected {
                    tag: listener.unwrap_or(Tag(0)),
                    end,
                    conn: self.conn(&conn, server, self.peer(client), grant, quality),
                };
                let answers = listener.is_some_and(|tag| tag.0 != 0);
                to(server, &reply, Some(&conn), answers);
            }
            Completion::Taken {
                client,
                tag,
                taken,
                peer,
            } => {
                let words = match peer {
                    Some((peer, quality)) => Words {
                        peer: self.peer(peer).unwrap_or_default(),
                        quality,
                        ..Words::default()
                    },
                    None => words,
                };
                if let Some(session) = self.session(client).filter(|_| peer.is_none()) {
                    session.ends.fetch_add(1, Ordering::Relaxed);
                }
                // Without a grant it was closed a moment ago, by a burial: as an end without a connection.
                let conn = taken.conn.as_ref().and_then(|conn| {
                    let grant = conn.link.grant(conn, taken.side)?;
                    let peer = Some(words.peer);
                    Some((conn, self.conn(conn, client, peer, grant, words.quality)))
                });
                let reply = Reply::Taken {
                    tag,
                    taken: Box::new(Taken {
                        end: taken.end,
                        side: taken.side,
                        pipe_type: taken.pipe_type,
                        granted: taken.granted,
                        modes: taken.modes,
                        listening: taken.listening,
                        conn: conn.map(|(_, conn)| conn),
                    }),
                    words,
                };
                to(client, &reply, conn.map(|(conn, _)| conn), tag.0 != 0);
            }
        }
    }

    fn conn(
        &self,
        conn: &ConnRef,
        to: ClientId,
        peer: Option<Peer>,
        grant: Grant,
        quality: Quality,
    ) -> WireConn {
        WireConn {
            quality,
            link: conn.link.id,
            process: conn.link.index(to).map_or(u8::MAX, ProcessIndex::get),
            peer: peer.unwrap_or_default(),
            grant,
        }
    }

    fn peer(&self, id: ClientId) -> Option<Peer> {
        self.session(id).map(|session| session.peer)
    }

    fn flush(&self, session: &Arc<Session>) {
        let door = &self.doors[session.worker];
        match session.flush() {
            Flushed::Empty => {}
            Flushed::Blocked => door.tell(Command::Blocked(session.id)),
            Flushed::Later => door.tell(Command::Later(session.id)),
            Flushed::Over => door.tell(Command::End(session.id)),
        }
    }

    // ---- listings ----------------------------------------------------------------------------------------------

    fn list(&self, session: &Arc<Session>, tag: Tag, shard: u64, after: &[u16]) {
        let mut after = Request::after(after);
        let mut pipes = Vec::new();
        let mut next = (u64::MAX, Vec::new());
        let mut bytes = 0;
        'shards: for shard in shard.min(SHARDS)..SHARDS {
            loop {
                let index = usize::try_from(shard).unwrap_or(0);
                let some = lock(&self.pipes[index]).list(after.as_ref(), LISTED);
                let last = some.len() < LISTED;
                for (key, pipe) in some {
                    bytes += 128 + 2 * pipe.name.units().len();
                    if bytes > LISTED_BYTES && !pipes.is_empty() {
                        let from = after.as_ref().map(|key| key.units().to_vec());
                        next = (shard, from.unwrap_or_default());
                        break 'shards;
                    }
                    after = Some(key);
                    pipes.push(pipe);
                }
                if last {
                    break;
                }
            }
            after = None;
        }
        self.answer(session, tag, &Reply::Pipes { tag, next, pipes });
    }

    fn info(&self, session: &Arc<Session>, tag: Tag, name: &Name, skip: u64) {
        let shard = self.shard_of(&name.folded());
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let found = lock(&self.pipes[shard]).info(name, skip, LISTED_INSTANCES);
        let Some((pipe, instances)) = found else {
            return self.refuse(session, tag, NtStatus::OBJECT_NAME_NOT_FOUND);
        };
        let entry = |instance: &InstanceInfo| InstanceEntry {
            state: instance.state,
            server: self.peer(instance.server).unwrap_or_default(),
            client: instance.client.and_then(|client| self.peer(client)),
            in_quota: instance.in_quota,
            out_quota: instance.out_quota,
        };
        let reply = Reply::Instances {
            tag,
            pipe: Box::new(pipe),
            instances: instances.iter().map(entry).collect(),
        };
        self.answer(session, tag, &reply);
    }

    // ---- ends of sessions --------------------------------------------------------------------------------------

    /// The session has ended: its ends are closed, who waited for it is woken. `exited`: so has its process.
    fn end(&self, session: &Session, exited: bool) {
        let lost = lock(&self.orphans).leave(session.id);
        self.tell_lost(lost, exited);
        for shard in 0..self.pipes.len() {
            self.at(shard, |shard, wires, out| {
                shard.gone(session.id, wires, out);
            });
        }
        for link in self.links.end(session.id) {
            // What three have may live on without one: they hear when nothing is open on it any more.
            if link.was_joined() {
                continue;
            }
            for other in link.sessions() {
                if other != session.id {
                    self.tell_link_gone(other, link.id);
                }
            }
        }
        self.tell_departed();
        if let Ok(mut sessions) = self.sessions.write() {
            sessions.remove(&session.id);
            if sessions.is_empty() && self.idle_exit.is_some() {
                // Whose clock it is.
                self.doors[0].ring();
            }
        }
    }

    fn expire(&self, now: u64, worker: usize) {
        if worker == 0 {
            let lost = lock(&self.orphans).expire(now);
            self.tell_lost(lost, false);
            let late = lock(&self.gifts).expire(now);
            for gift in late {
                self.at(self.shard_of_end(gift.end), |shard, wires, out| {
                    shard.keep_no_longer(gift.end, wires, out);
                });
            }
        }
        for index in (worker..self.deadlines.len()).step_by(self.doors.len()) {
            if self.deadlines[index].load(Ordering::SeqCst) <= now {
                self.at(index, |shard, _, out| shard.expire(now, out));
            }
        }
    }

    /// When the shards of this worker have something to expire.
    fn next_deadline(&self, worker: usize) -> Option<u64> {
        let mine = (worker..self.deadlines.len()).step_by(self.doors.len());
        let next = mine.map(|index| self.deadlines[index].load(Ordering::SeqCst));
        let next = next.min().filter(|&deadline| deadline != u64::MAX);
        let mine = worker == 0;
        let orphans = mine.then(|| lock(&self.orphans).next_deadline());
        let gifts = mine.then(|| lock(&self.gifts).next_deadline());
        let others = [orphans, gifts].into_iter().flatten().flatten();
        next.into_iter().chain(others).min()
    }
}

/// A number that nobody guesses.
fn random() -> io::Result<GiftToken> {
    let mut bytes = [[0; 8]; 2];
    File::open("/dev/urandom")?.read_exact(bytes.as_flattened_mut())?;
    Ok(bytes.map(u64::from_le_bytes))
}

/// How long an end that was given away waits for whoever takes it.
const KEPT: Duration = Duration::from_secs(5);
/// How long the second process of a link of an earlier broker may take to come, from the first one's coming.
const ALONE: Duration = Duration::from_secs(5);
/// Closes of ends that are not there, before a client is cut off.
const MOST_STRAYS: usize = 64;
/// How long a process waits for its next welcome after the first time that it was cut off, and how often that doubles.
const FIRST_PENALTY: Duration = Duration::from_millis(10);
const MOST_DOUBLINGS: u32 = 6;

/// Pipes taken from a shard at a time, and bytes of a listing's message.
const LISTED: usize = 256;
const LISTED_BYTES: usize = 64 << 10;
/// Instances of a message.
const LISTED_INSTANCES: usize = 1024;
