//! Executes commands on one end, in whatever process it lives.

use crate::cmd::{Blocking, Cmd, Done, OpId, Reply};
use crate::rng::Rng;
use crate::sys::{self, Map};
use crate::user;
use npfs_ringbuf::{
    Answer, Conn, Deadline, Error, Grant, Link, PendingFlush, PendingRead, PendingTransact,
    PendingWrite, Poller, ProcessIndex, Read, Shared, Started, Task, Wait, Work, fault,
    thread_serial,
};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes behind every buffer that no read may touch.
const CANARY: usize = 64;
const CANARY_BYTE: u8 = 0xc5;

/// Memory that a pended operation borrows: at one place until it is dropped.
struct Held(*mut [u8]);

impl Held {
    fn new(bytes: Vec<u8>) -> Held {
        Held(Box::into_raw(bytes.into_boxed_slice()))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: it came from `Box::into_raw` and is dropped once; `Op` drops what borrows it first.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

enum Pended {
    Hosted(Hosted),
    /// A read whose owner polls it.
    Polled(Started),
    Read(PendingRead<'static>),
    Write(PendingWrite<'static>),
    Flush(PendingFlush<'static>),
    Transact(PendingTransact<'static>),
}

/// A pended operation and what it borrows. The order of the fields is the order of drop.
struct Op {
    pended: Pended,
    buf: Held,
    _wait: Arc<Wait>,
    _conn: Arc<Conn>,
}

impl Op {
    fn poll(&mut self) -> Option<Done> {
        let read = |result: Result<Read, Error>, data: &[u8]| match result {
            Err(error) => Done::Failed(error),
            Ok(read) => {
                assert_eq!(read.count(), data.len());
                Done::Read(data.to_vec(), matches!(read, Read::Whole(_)))
            }
        };
        match &mut self.pended {
            Pended::Hosted(p) => p.poll(),
            Pended::Polled(p) => p.poll().map(|answer| match answer {
                Ok(Answer::Read(whole)) => read(Ok(whole), p.data()),
                Ok(other) => panic!("a read has answered {other:?}"),
                Err(error) => Done::Failed(error),
            }),
            Pended::Read(p) => p.poll().map(|r| read(r, p.data())),
            Pended::Transact(p) => p.poll().map(|r| read(r, p.data())),
            Pended::Write(p) => p.poll().map(|r| r.map_or_else(Done::Failed, Done::Wrote)),
            Pended::Flush(p) => p
                .poll()
                .map(|r| r.map_or_else(Done::Failed, |()| Done::Flushed)),
        }
    }

    /// Ends it, and looks whether anything was written behind its buffer.
    fn finish(self) {
        let reads = match &self.pended {
            Pended::Hosted(p) => p.reads(),
            pended => matches!(pended, Pended::Read(_) | Pended::Transact(_)),
        };
        let Op { pended, buf, .. } = self;
        drop(pended);
        // SAFETY: what borrowed the buffer has just been dropped.
        let bytes = unsafe { &*buf.0 };
        assert!(
            !reads || intact(&bytes[bytes.len() - CANARY..]),
            "written behind the buffer"
        );
    }

    fn cancel(&mut self) -> bool {
        match &mut self.pended {
            Pended::Hosted(p) => p.cancel(),
            Pended::Polled(p) => p.cancel(),
            Pended::Read(p) => p.cancel(),
            Pended::Write(p) => p.cancel(),
            Pended::Flush(p) => p.cancel(),
            Pended::Transact(p) => p.cancel(),
        }
    }
}

/// An operation of a host, whose buffer is a user's memory.
struct Hosted {
    conn: &'static Conn,
    work: Work<'static>,
    task: Task,
    /// What a transact sends.
    _request: Vec<u8>,
}

impl Hosted {
    /// As the `start_` calls: an error of its own if it never pended.
    fn start(conn: &'static Conn, work: Work<'static>, request: Vec<u8>) -> Result<Pended, Error> {
        let mut task = Task::new();
        let mut answer = task.advance(conn, work);
        for _ in 0..1000 {
            if answer.is_some() || task.is_placed() {
                break;
            }
            std::thread::yield_now();
            answer = task.advance(conn, work);
        }
        match answer {
            Some(Err(error)) if !task.is_placed() => Err(error),
            // It would wait for its place in line.
            None if !task.is_placed() => Err(Error::Busy),
            _ => Ok(Pended::Hosted(Hosted {
                conn,
                work,
                task,
                _request: request,
            })),
        }
    }

    fn reads(&self) -> bool {
        matches!(self.work, Work::Read(_) | Work::Transact(..))
    }

    fn poll(&mut self) -> Option<Done> {
        let answer = self.task.advance(self.conn, self.work)?;
        Some(user::done(answer, self.work))
    }

    fn cancel(&mut self) -> bool {
        if self.task.advance(self.conn, self.work).is_some() {
            return false;
        }
        let answer = self.task.withdraw(self.conn, self.work, Error::Cancelled);
        answer == Err(Error::Cancelled)
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let _ = self.task.withdraw(self.conn, self.work, Error::Cancelled);
    }
}

/// A blocking call as a host makes it, step by step.
fn block_hosted(
    conn: &Conn,
    work: Work<'_>,
    wait: &Wait,
    deadline: Deadline,
) -> Result<Answer, Error> {
    wait.open()?;
    let mut task = Task::blocking();
    let answer = loop {
        if let Some(answer) = task.advance(conn, work) {
            break answer;
        }
        task.leave_with(conn, work, wait);
        if let Err(why) = task.block(conn, work, wait, deadline) {
            break task.withdraw(conn, work, why);
        }
    };
    wait.shut();
    answer
}

/// A buffer for `len` bytes, and a canary behind them.
fn buffer(len: usize) -> Vec<u8> {
    vec![CANARY_BYTE; len + CANARY]
}

/// Nothing was written there.
fn intact(canary: &[u8]) -> bool {
    canary.iter().all(|b| *b == CANARY_BYTE)
}

/// A read that has failed at once has not begun.
fn at_once(read: Started) -> Result<Pended, Error> {
    match read.answer() {
        Some(Err(error)) => Err(error),
        _ => Ok(Pended::Polled(read)),
    }
}

/// What a read brought, after a look at the canary of its buffer.
fn read_done(read: Read, buf: &[u8]) -> Done {
    let room = buf.len() - CANARY;
    assert!(
        read.count() <= room,
        "a read of {room} bytes answered {read:?}"
    );
    assert!(intact(&buf[room..]), "a read wrote behind its buffer");
    Done::Read(buf[..read.count()].to_vec(), matches!(read, Read::Whole(_)))
}

/// A blocking call on a thread of its own.
struct Blocked {
    result: Receiver<Done>,
    wait: Arc<Wait>,
    conn: Arc<Conn>,
    thread: JoinHandle<()>,
}

/// One end of one connection, and its operations under way.
pub struct Driver {
    link: Shared<Link>,
    /// for scribbling only
    memory: Option<OwnedFd>,
    ops: BTreeMap<OpId, Op>,
    blocked: BTreeMap<OpId, Blocked>,
    conn: Option<Arc<Conn>>,
    scribbler: Option<JoinHandle<u64>>,
    /// Every call is a host's (the environment variable NPFS_TEST_HOSTED).
    hosted: bool,
}

impl Driver {
    /// Joins a link; no end is open yet.
    ///
    /// # Panics
    /// If the link is refused.
    pub fn attach(fd: OwnedFd, process: u8) -> Driver {
        let memory = fd.try_clone().expect("a duplicate");
        let process = ProcessIndex::new(process).expect("an index below 8");
        let link = Link::attach(fd, process).expect("the link is sound");
        Driver {
            memory: Some(memory),
            ..Driver::on(link)
        }
    }

    /// On a link that is joined already.
    pub fn on(link: Shared<Link>) -> Driver {
        Driver {
            link,
            memory: None,
            ops: BTreeMap::new(),
            blocked: BTreeMap::new(),
            conn: None,
            scribbler: None,
            hosted: std::env::var_os("NPFS_TEST_HOSTED").is_some(),
        }
    }

    /// The open end.
    ///
    /// # Panics
    /// Before `Cmd::Open`.
    pub fn conn(&self) -> &Arc<Conn> {
        self.conn.as_ref().expect("an open end")
    }

    /// Executes one command. Only `Join` may wait, and only as long as it says.
    ///
    /// # Panics
    /// When something happens that no peer may bring about: then the test has failed.
    pub fn execute(&mut self, cmd: Cmd) -> Reply {
        let hosted = self.hosted;
        match cmd {
            Cmd::Open(bytes) => {
                self.ops.clear();
                let grant = Grant::from_bytes(&bytes).expect("a grant of the books");
                let conn = Conn::open(&self.link, &grant).expect("the grant is good");
                self.conn = Some(Arc::new(conn));
                Reply::Unit(Ok(()))
            }
            // Every other one, so that both kinds meet in each program.
            Cmd::StartRead(op, len) if !hosted && op % 2 == 1 => {
                let conn = self.conn().clone();
                self.start(op, Vec::new(), |_, _, _| {
                    Started::read_by(&conn, vec![0; len].into(), Poller::Caller).and_then(at_once)
                })
            }
            Cmd::StartRead(op, len) => self.start(op, buffer(len), |conn, wait, buf| {
                let room = buf.len() - CANARY;
                if hosted {
                    let work = Work::Read(user::buffer(&mut buf[..room]));
                    return Hosted::start(conn, work, Vec::new());
                }
                conn.start_read(wait, &mut buf[..room]).map(Pended::Read)
            }),
            Cmd::StartWrite(op, data) => self.start(op, data, |conn, wait, data| {
                if hosted {
                    let work = Work::Write(user::buffer(data));
                    return Hosted::start(conn, work, Vec::new());
                }
                conn.start_write(wait, data).map(Pended::Write)
            }),
            Cmd::StartFlush(op) => self.start(op, Vec::new(), |conn, wait, _| {
                if hosted {
                    return Hosted::start(conn, Work::Flush, Vec::new());
                }
                conn.start_flush(wait).map(Pended::Flush)
            }),
            Cmd::StartTransact(op, request, len) => {
                self.start(op, buffer(len), move |conn, wait, buf| {
                    let room = buf.len() - CANARY;
                    let reply = &mut buf[..room];
                    if hosted {
                        let mut request = request;
                        let work = Work::Transact(user::buffer(&mut request), user::buffer(reply));
                        return Hosted::start(conn, work, request);
                    }
                    conn.start_transact(wait, &request, reply)
                        .map(Pended::Transact)
                })
            }
            Cmd::PollAll => {
                let mut over = Vec::new();
                for (id, op) in &mut self.ops {
                    if let Some(done) = op.poll() {
                        assert_eq!(
                            op.poll().as_ref(),
                            Some(&done),
                            "the same answer ever after"
                        );
                        over.push((*id, done));
                    }
                }
                for (id, _) in &over {
                    self.ops.remove(id).expect("just polled").finish();
                }
                Reply::Many(over)
            }
            Cmd::Cancel(op) => Reply::Flag(self.ops.get_mut(&op).is_some_and(Op::cancel)),
            Cmd::Forget(op) => {
                if let Some(op) = self.ops.remove(&op) {
                    op.finish();
                }
                Reply::Unit(Ok(()))
            }
            Cmd::TryRead(len) => {
                let mut buf = buffer(len);
                let read = if hosted {
                    self.conn().try_read_user(user::buffer(&mut buf[..len]))
                } else {
                    self.conn().try_read(&mut buf[..len])
                };
                Reply::Did(match read {
                    Ok(read) => read_done(read, &buf),
                    Err(error) => Done::Failed(error),
                })
            }
            Cmd::TryWrite(mut data) => {
                let wrote = if hosted {
                    self.conn().try_write_user(user::buffer(&mut data))
                } else {
                    self.conn().try_write(&data)
                };
                Reply::Did(wrote.map_or_else(Done::Failed, Done::Wrote))
            }
            Cmd::Peek(len) => {
                let mut buf = buffer(len);
                let peek = if hosted {
                    self.conn().peek_user(user::buffer(&mut buf[..len]))
                } else {
                    self.conn().peek(&mut buf[..len])
                };
                Reply::Peeked(peek.map(|peek| {
                    assert!(intact(&buf[len..]), "a peek wrote behind its buffer");
                    (peek, buf[..peek.copied].to_vec())
                }))
            }
            Cmd::Info => Reply::Info(self.conn().info()),
            Cmd::State => Reply::State(self.conn().state()),
            Cmd::Modes => Reply::Modes(self.conn().read_mode(), self.conn().completion_mode()),
            Cmd::SetModes(read, completion) => Reply::Unit(self.conn().set_modes(read, completion)),
            Cmd::Close => {
                self.conn().close();
                Reply::Unit(Ok(()))
            }
            Cmd::Disconnect => Reply::Unit(self.conn().disconnect()),
            Cmd::Block(op, what, millis) => self.block(op, what, millis),
            Cmd::Join(op, millis) => self.join(op, Duration::from_millis(millis)),
            Cmd::CancelBlocked(op) => Reply::Flag(
                self.blocked
                    .get(&op)
                    .is_some_and(|b| b.conn_alive() && b.wait.cancel()),
            ),
            Cmd::Arm(point, action) => {
                fault::arm(point, action);
                Reply::Unit(Ok(()))
            }
            Cmd::Fired => Reply::Number(u64::from(fault::fired())),
            Cmd::Affinity(cpu) => {
                sys::bind(cpu).expect("a CPU of this machine");
                Reply::Unit(Ok(()))
            }
            Cmd::Scribble(seed, millis) => {
                use std::os::fd::AsFd;
                let memory = self.memory.as_ref().expect("the link's memory");
                let map = Map::new(memory.as_fd()).expect("the link can be mapped");
                let len = map.len() as u64;
                let limit = Duration::from_millis(millis);
                self.scribbler = Some(std::thread::spawn(move || scribble(&map, seed, limit)));
                Reply::Number(len)
            }
            Cmd::Scribbled => {
                let scribbler = self.scribbler.take().expect("a scribbler");
                Reply::Number(scribbler.join().expect("it does not panic"))
            }
            Cmd::Exit => std::process::exit(0),
        }
    }

    fn start(
        &mut self,
        id: OpId,
        bytes: Vec<u8>,
        begin: impl FnOnce(&'static Conn, &'static Wait, &'static mut [u8]) -> Result<Pended, Error>,
    ) -> Reply {
        let conn = self.conn().clone();
        let wait = Arc::new(Wait::new());
        let buf = Held::new(bytes);
        assert_eq!(buf.len(), buf.0.len());
        // SAFETY: all three live in `Op`, behind the operation that borrows them, or until the end of this function if
        // there is no operation. Nobody else touches the buffer while the operation lives.
        let (conn_ref, wait_ref, buf_ref) =
            unsafe { (&*Arc::as_ptr(&conn), &*Arc::as_ptr(&wait), &mut *buf.0) };
        match begin(conn_ref, wait_ref, buf_ref) {
            Ok(pended) => {
                let op = Op {
                    pended,
                    buf,
                    _wait: wait,
                    _conn: conn,
                };
                let before = self.ops.insert(id, op);
                assert!(before.is_none(), "operation {id} is under way");
                Reply::Unit(Ok(()))
            }
            Err(error) => Reply::Unit(Err(error)),
        }
    }

    fn block(&mut self, id: OpId, what: Blocking, millis: Option<u64>) -> Reply {
        let hosted = self.hosted;
        let conn = self.conn().clone();
        let wait = Arc::new(Wait::new());
        let (tell, result) = channel();
        let (tell_serial, serial) = channel();
        let thread = std::thread::spawn({
            let (conn, wait) = (conn.clone(), wait.clone());
            move || {
                tell_serial
                    .send(thread_serial())
                    .expect("the driver waits for it");
                let deadline = millis.map_or(Deadline::NEVER, |ms| {
                    Deadline::after(Duration::from_millis(ms))
                });
                let read = |result: Result<Read, Error>, buf: &[u8]| match result {
                    Ok(read) => read_done(read, buf),
                    Err(error) => Done::Failed(error),
                };
                let done = match what {
                    Blocking::Read(len) => {
                        let mut buf = buffer(len);
                        if hosted {
                            let work = Work::Read(user::buffer(&mut buf[..len]));
                            let answer = block_hosted(&conn, work, &wait, deadline);
                            assert!(intact(&buf[len..]), "a read wrote behind its buffer");
                            user::done(answer, work)
                        } else {
                            let result = conn.read_with(&mut buf[..len], &wait, deadline);
                            read(result, &buf)
                        }
                    }
                    Blocking::Write(mut data) if hosted => {
                        let work = Work::Write(user::buffer(&mut data));
                        user::done(block_hosted(&conn, work, &wait, deadline), work)
                    }
                    Blocking::Write(data) => {
                        let result = conn.write_with(&data, &wait, deadline);
                        result.map_or_else(Done::Failed, Done::Wrote)
                    }
                    Blocking::Flush if hosted => {
                        let work = Work::Flush;
                        user::done(block_hosted(&conn, work, &wait, deadline), work)
                    }
                    Blocking::Flush => {
                        let result = conn.flush_with(&wait, deadline);
                        result.map_or_else(Done::Failed, |()| Done::Flushed)
                    }
                    Blocking::Transact(mut request, len) if hosted => {
                        let mut buf = buffer(len);
                        let reply = user::buffer(&mut buf[..len]);
                        let work = Work::Transact(user::buffer(&mut request), reply);
                        user::done(block_hosted(&conn, work, &wait, deadline), work)
                    }
                    Blocking::Transact(request, len) => {
                        let mut buf = buffer(len);
                        let result = conn.transact_with(&request, &mut buf[..len], &wait, deadline);
                        read(result, &buf)
                    }
                };
                // Nobody may be waiting any more.
                let _ = tell.send(done);
            }
        });
        let serial = serial.recv().expect("the thread says its serial first");
        self.blocked.insert(
            id,
            Blocked {
                result,
                wait,
                conn,
                thread,
            },
        );
        Reply::Number(u64::from(serial))
    }

    fn join(&mut self, id: OpId, limit: Duration) -> Reply {
        let blocked = self.blocked.get(&id).expect("a blocking call of this name");
        match blocked.result.recv_timeout(limit) {
            Ok(done) => {
                let blocked = self.blocked.remove(&id).expect("just seen");
                blocked.thread.join().expect("it has sent its result");
                Reply::Many(vec![(id, done)])
            }
            Err(RecvTimeoutError::Timeout) => Reply::Many(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread of call {id} panicked"),
        }
    }
}

impl Blocked {
    fn conn_alive(&self) -> bool {
        Arc::strong_count(&self.conn) > 0
    }
}

/// Stores noise over every byte of a mapping until the time is over; answers the number of stores. Whole passes alternate
/// with random places; words of all sizes; values that look like small numbers, flipped bits, copies of other words.
pub fn scribble(map: &Map, seed: u64, limit: Duration) -> u64 {
    use std::sync::atomic::Ordering::Relaxed;
    let start = Instant::now();
    let mut rng = Rng::new(seed);
    let mut stores = 0;
    let mut sweep = 0;
    while start.elapsed() < limit {
        for _ in 0..512 {
            let size = 1 << rng.below(4);
            let place = if rng.below(4) == 0 {
                sweep = (sweep + size) % map.len();
                sweep
            } else if rng.below(2) == 0 {
                // The first pages hold what decides: header, bells, slots, records.
                rng.below(map.len().min(1 << 16))
            } else {
                rng.below(map.len())
            };
            let at = place & !(size - 1);
            let other = rng.below(map.len() / 8) * 8;
            let value = match rng.below(6) {
                0 => 0,
                1 => u64::MAX,
                2 => rng.next_u64() & 0xff,
                3 => map.double(at & !7).load(Relaxed) ^ (1 << rng.below(64)),
                4 => map.double(other).load(Relaxed),
                _ => rng.next_u64(),
            };
            let [b0, b1, b2, b3, ..] = value.to_le_bytes();
            match size {
                1 => map.byte(at).store(b0, Relaxed),
                2 => map.half(at).store(u16::from_le_bytes([b0, b1]), Relaxed),
                4 => map
                    .word(at)
                    .store(u32::from_le_bytes([b0, b1, b2, b3]), Relaxed),
                _ => map.double(at).store(value, Relaxed),
            }
            stores += 1;
        }
    }
    stores
}
