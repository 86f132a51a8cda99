//! The client side of `npfs_host.h`, through its exports, in one process that plays the server too.

use std::{
    cell::Cell,
    ffi::c_void,
    mem::{size_of, zeroed},
    os::fd::IntoRawFd,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use npfs_ffi::host::{client::*, types::*};
use npfs_ringbuf::{
    CompletionMode, Conn, Error, Grant, Link, PipeType, ProcessIndex, Read, ReadMode, Shared,
    books::{ConnSpec, LinkBooks, LinkConfig},
};

const NEVER: u64 = u64::MAX;

/// Pump, links and operations are the process's: one test at a time.
static TURN: Mutex<()> = Mutex::new(());
/// What was completed: cookie, status, information.
static OVER: Mutex<Vec<(u64, npfs_host_status, usize)>> = Mutex::new(Vec::new());
static PUMPS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Bytes that this thread's copies can still move.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn copy(from: *const c_void, to: *mut c_void, len: usize) -> i32 {
    LEFT.with(|left| {
        let part = len.min(left.get());
        // SAFETY: the tests hand in addresses of buffers that are there.
        unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), part) };
        if left.get() != usize::MAX {
            left.set(left.get() - part);
        }
        i32::from(part == len)
    })
}

static HOLD: AtomicBool = AtomicBool::new(false);
static HELD: AtomicBool = AtomicBool::new(false);
/// Slow copies that were begun.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static DEAD: AtomicBool = AtomicBool::new(false);
thread_local! {
    static DIES: Cell<usize> = const { Cell::new(0) };
    static SLOW: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" fn copy_in(_: *mut c_void, to: *mut c_void, from: usize, len: usize) -> i32 {
    if DIES.get() != 0 {
        // SAFETY: the thread does not come back.
        unsafe { npfs_host_wait_abandon(DIES.get() as *mut npfs_host_wait) };
        DEAD.store(true, Ordering::SeqCst);
        loop {
            thread::park();
        }
    }
    if SLOW.get() {
        HELD.store(true, Ordering::SeqCst);
        INSIDE.fetch_add(1, Ordering::SeqCst);
        while HOLD.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }
    copy(from as *const c_void, to, len)
}

unsafe extern "C" fn copy_out(_: *mut c_void, to: usize, from: *const c_void, len: usize) -> i32 {
    copy(from, to as *mut c_void, len)
}

unsafe extern "C" fn complete(_: *mut c_void, cookie: u64, status: npfs_host_status, n: usize) {
    OVER.lock().expect("no panic").push((cookie, status, n));
}

unsafe extern "C" fn start_pump(_: *mut c_void) {
    PUMPS.fetch_add(1, Ordering::SeqCst);
}

fn turn() -> MutexGuard<'static, ()> {
    static ONCE: Once = Once::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    ONCE.call_once(|| {
        // SAFETY: nothing is pointed to.
        let early = unsafe { npfs_host_try_read(1, 0, 0, ptr::null_mut()) };
        assert_eq!(
            early, NPFS_HOST_INVALID,
            "the host's functions are not known"
        );
        let ops = npfs_host_ops {
            size: size_of::<npfs_host_ops>(),
            context: ptr::null_mut(),
            copy_in: Some(copy_in),
            copy_out: Some(copy_out),
            complete: Some(complete),
            start_pump: Some(start_pump),
        };
        let wrong = npfs_host_ops { size: 8, ..ops };
        // SAFETY: both can be read, and the functions do what they are for.
        unsafe {
            assert_eq!(npfs_host_init(ptr::null()), NPFS_HOST_INVALID);
            assert_eq!(npfs_host_init(&raw const wrong), NPFS_HOST_INVALID);
            assert_eq!(npfs_host_init(&raw const ops), NPFS_HOST_OK);
            assert_eq!(npfs_host_init(&raw const ops), NPFS_HOST_INVALID);
        }
    });
    LEFT.set(usize::MAX);
    OVER.lock().expect("no panic").clear();
    turn
}

/// The server's part: a link between this process, as the host's client, and this process once more, as its peer.
struct Server {
    books: LinkBooks,
    own: ProcessIndex,
    peer: Shared<Link>,
}

impl Server {
    fn new() -> Server {
        let mut books = LinkBooks::create(&LinkConfig::default()).expect("a link");
        let own = books.add_process(None).expect("an index");
        let peer = books.add_process(None).expect("an index");
        let fd = books.share().expect("a descriptor");
        let peer = Link::attach(fd, peer).expect("the link");
        Server { books, own, peer }
    }

    fn end(&self, grant: &Grant) -> npfs_host_end {
        npfs_host_end {
            link: self.books.token(),
            process: self.own.get().into(),
            side: NPFS_HOST_CLIENT,
            grant: grant.to_bytes(),
        }
    }

    fn memfd(&self) -> i32 {
        self.books.share().expect("a descriptor").into_raw_fd()
    }

    /// The client end, and the peer's server end.
    fn connect(&mut self, pipe_type: PipeType, quota: u32) -> (npfs_host_conn, Conn) {
        let spec = ConnSpec::new(pipe_type, quota);
        let made = self.books.connect(&spec, self.peer.process(), self.own);
        let (_, server, client) = made.expect("a connection");
        let end = self.end(&client);
        let mut conn = 0;
        // SAFETY: both are there, and the descriptor is the library's from here on.
        let attached = unsafe { npfs_host_attach(self.memfd(), &raw const end, &raw mut conn) };
        assert_eq!(attached, NPFS_HOST_OK);
        assert!(conn > 0);
        let server = Conn::open(&self.peer, &server).expect("an end");
        if pipe_type == PipeType::Message {
            let modes = server.set_modes(ReadMode::Message, CompletionMode::Queue);
            modes.expect("message mode");
        }
        (conn, server)
    }
}

fn pair(quota: u32) -> (Server, npfs_host_conn, Conn) {
    let mut server = Server::new();
    let (conn, peer) = server.connect(PipeType::Message, quota);
    (server, conn, peer)
}

fn address(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize
}

fn try_read(conn: npfs_host_conn, buf: &mut [u8]) -> (npfs_host_status, usize) {
    let mut count = usize::MAX;
    // SAFETY: the buffer and the count are there.
    let status =
        unsafe { npfs_host_try_read(conn, buf.as_mut_ptr() as usize, buf.len(), &raw mut count) };
    (status, count)
}

fn try_write(conn: npfs_host_conn, data: &[u8]) -> (npfs_host_status, usize) {
    let mut count = usize::MAX;
    // SAFETY: as above.
    let status = unsafe { npfs_host_try_write(conn, address(data), data.len(), &raw mut count) };
    (status, count)
}

fn idle() -> npfs_host_wait {
    npfs_host_wait { opaque: [0; 32] }
}

/// A blocking call as a host makes it.
fn block(
    conn: npfs_host_conn,
    kind: u32,
    buf: &mut [u8],
    wait: *mut npfs_host_wait,
    deadline: u64,
) -> (npfs_host_status, usize) {
    // SAFETY: the wait is idle and this thread's, the buffer is there until the end.
    unsafe {
        let begun = npfs_host_wait_begin(conn, kind, buf.as_mut_ptr() as usize, buf.len(), wait);
        finish(begun, wait, deadline)
    }
}

/// # Safety
/// `wait` was begun with that answer, by this thread.
unsafe fn finish(
    begun: npfs_host_status,
    wait: *mut npfs_host_wait,
    deadline: u64,
) -> (npfs_host_status, usize) {
    let mut count = usize::MAX;
    let mut status = begun;
    if status != NPFS_HOST_OK && status != NPFS_HOST_PENDING {
        return (status, count);
    }
    // SAFETY: begun, and not ended.
    unsafe {
        if status == NPFS_HOST_PENDING {
            npfs_host_wait_block(wait, deadline);
        }
        loop {
            status = npfs_host_wait_end(wait, &raw mut count);
            if status != NPFS_HOST_WOULD_BLOCK {
                return (status, count);
            }
            npfs_host_wait_block(wait, deadline);
        }
    }
}

fn soon(millis: u64) -> u64 {
    // CLOCK_MONOTONIC, as the engine reads it.
    let left = npfs_ringbuf::Deadline::after(Duration::from_millis(millis));
    let now = clock();
    now + u64::try_from(left.remaining().expect("an end").as_nanos()).expect("soon")
}

fn clock() -> u64 {
    // SAFETY: all zero is a time.
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: the clock exists, and the time can be written.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(got, 0);
    u64::try_from(time.tv_sec).expect("after the start") * 1_000_000_000
        + u64::try_from(time.tv_nsec).expect("below a second")
}

/// Pumps until so many were completed, and takes them.
fn completions(count: usize) -> Vec<(u64, npfs_host_status, usize)> {
    let begin = Instant::now();
    loop {
        let over = OVER.lock().expect("no panic");
        if over.len() >= count {
            drop(over);
            npfs_host_pump_run(0);
            return std::mem::take(&mut OVER.lock().expect("no panic"));
        }
        drop(over);
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "nothing completes"
        );
        npfs_host_pump_wait(soon(100));
        npfs_host_pump_run(0);
    }
}

fn submit(
    conn: npfs_host_conn,
    kind: u32,
    buf: &mut [u8],
    cookie: u64,
    flags: u32,
    op: &mut npfs_host_op,
) -> (npfs_host_status, usize) {
    let mut count = usize::MAX;
    // SAFETY: operation and buffer stay where they are until it has completed.
    let status = unsafe {
        npfs_host_submit(
            conn,
            kind,
            buf.as_mut_ptr() as usize,
            buf.len(),
            cookie,
            flags,
            op,
            &raw mut count,
        )
    };
    (status, count)
}

fn operations(count: usize) -> Box<[npfs_host_op]> {
    vec![npfs_host_op { opaque: [0; 32] }; count].into()
}

fn cancel(conn: npfs_host_conn, thread: u32, cookie: Option<u64>) -> (npfs_host_status, usize) {
    let mut count = usize::MAX;
    // SAFETY: the count is there.
    let status = unsafe {
        npfs_host_cancel(
            conn,
            thread,
            i32::from(cookie.is_some()),
            cookie.unwrap_or(0),
            &raw mut count,
        )
    };
    (status, count)
}

// ---- attaching -------------------------------------------------------------------------------------------------------

#[test]
fn what_is_no_end_of_a_link_is_refused() {
    let _turn = turn();
    let mut server = Server::new();
    let spec = ConnSpec::new(PipeType::Byte, 100);
    let made = server
        .books
        .connect(&spec, server.peer.process(), server.own);
    let (_, _, client) = made.expect("a connection");
    let good = server.end(&client);
    let mut conn = 0;
    let mut attach = |memfd, end: *const npfs_host_end| {
        // SAFETY: the end is there or NULL, the descriptor the library's.
        unsafe { npfs_host_attach(memfd, end, &raw mut conn) }
    };
    assert_eq!(attach(-1, &raw const good), NPFS_HOST_FALLBACK);
    assert_eq!(attach(-1, ptr::null()), NPFS_HOST_INVALID);
    let file = std::fs::File::open("/dev/null").expect("a file");
    assert_eq!(
        attach(file.into_raw_fd(), &raw const good),
        NPFS_HOST_MISMATCH
    );
    let other = Server::new();
    assert_eq!(attach(other.memfd(), &raw const good), NPFS_HOST_MISMATCH);
    let wrong = npfs_host_end { process: 8, ..good };
    assert_eq!(attach(server.memfd(), &raw const wrong), NPFS_HOST_MISMATCH);
    for at in 0..NPFS_HOST_GRANT_SIZE {
        let mut wrong = good;
        wrong.grant[at] ^= 0x40;
        // Secrets cannot be checked: frames under another one are not there.
        let status = attach(server.memfd(), &raw const wrong);
        assert!(
            [NPFS_HOST_MISMATCH, NPFS_HOST_OK].contains(&status),
            "byte {at}: {status}"
        );
    }
    assert_eq!(attach(server.memfd(), &raw const good), NPFS_HOST_OK);
    assert_eq!(attach(-1, &raw const good), NPFS_HOST_OK, "it is known");
    // SAFETY: two numbers are there, or none.
    unsafe {
        assert_eq!(npfs_host_forget_link(good.link.as_ptr()), NPFS_HOST_OK);
        assert_eq!(npfs_host_forget_link(good.link.as_ptr()), NPFS_HOST_STALE);
        assert_eq!(npfs_host_forget_link(ptr::null()), NPFS_HOST_INVALID);
    }
    assert_eq!(attach(-1, &raw const good), NPFS_HOST_FALLBACK);
}

/// A number stands for nothing once it was dropped, also while others use it; and never for another connection soon after.
#[test]
fn a_dropped_connection_is_stale() {
    let _turn = turn();
    let (mut server, conn, _peer) = pair(100);
    assert_eq!(npfs_host_drop(conn), NPFS_HOST_OK);
    assert_eq!(npfs_host_drop(conn), NPFS_HOST_STALE);
    assert_eq!(try_read(conn, &mut [0; 4]).0, NPFS_HOST_STALE);
    for wild in [0, -1, i32::MIN, i32::MAX, 5, 0xf_ffff] {
        assert_eq!(npfs_host_drop(wild), NPFS_HOST_STALE);
    }
    let current = AtomicU32::new(0);
    let over = AtomicBool::new(false);
    let uses = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let conn = i32::try_from(current.load(Ordering::SeqCst)).expect("a number");
                    let (status, _) = try_read(conn, &mut [0; 4]);
                    assert!(
                        [
                            NPFS_HOST_STALE,
                            NPFS_HOST_WOULD_BLOCK,
                            NPFS_HOST_BUSY,
                            NPFS_HOST_BROKEN
                        ]
                        .contains(&status)
                    );
                    uses.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..500 {
            let (conn, peer) = server.connect(PipeType::Message, 100);
            current.store(u32::try_from(conn).expect("above 0"), Ordering::SeqCst);
            let seen = uses.load(Ordering::SeqCst);
            while uses.load(Ordering::SeqCst) < seen + 4 {
                thread::yield_now();
            }
            assert_eq!(npfs_host_drop(conn), NPFS_HOST_OK);
            peer.close();
        }
        over.store(true, Ordering::SeqCst);
    });
}

/// More calls at a time than there are marks for threads, each in the middle of its copy when its connection is dropped: each
/// ends as if it were not, and the last takes the connection along. Once more with threads that take the marks of those that
/// have ended.
#[test]
fn what_is_dropped_in_use_goes_with_its_last_call() {
    let _turn = turn();
    for _ in 0..2 {
        let mut server = Server::new();
        let mapped = mappings();
        let conns: Vec<_> = (0..300)
            .map(|_| server.connect(PipeType::Message, 100))
            .collect();
        assert!(mappings() > mapped);
        HOLD.store(true, Ordering::SeqCst);
        let inside = INSIDE.load(Ordering::SeqCst) + conns.len();
        thread::scope(|scope| {
            for (conn, _) in &conns {
                scope.spawn(|| {
                    SLOW.set(true);
                    assert_eq!(try_write(*conn, b"in time"), (NPFS_HOST_OK, 7));
                    assert_eq!(try_write(*conn, b"late").0, NPFS_HOST_STALE);
                });
            }
            while INSIDE.load(Ordering::SeqCst) != inside {
                thread::yield_now();
            }
            for (conn, _) in &conns {
                assert_eq!(npfs_host_drop(*conn), NPFS_HOST_OK);
                assert_eq!(try_write(*conn, b"late").0, NPFS_HOST_STALE);
            }
            let link = server.books.token();
            // SAFETY: two numbers.
            let forgotten = unsafe { npfs_host_forget_link(link.as_ptr()) };
            assert_eq!(forgotten, NPFS_HOST_OK);
            assert!(mappings() > mapped, "it is in use");
            HOLD.store(false, Ordering::SeqCst);
        });
        assert_eq!(mappings(), mapped, "it is not");
        for (_, peer) in &conns {
            let mut buf = [0; 8];
            assert_eq!(peer.try_read(&mut buf), Ok(Read::Whole(7)));
        }
    }
}

/// Of links, in this process.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the mappings");
    maps.lines().filter(|line| line.contains("memfd:")).count()
}

// ---- at once ---------------------------------------------------------------------------------------------------------

#[test]
fn np_read_09_np_peek_04_calls_that_never_wait() {
    let _turn = turn();
    let (_server, conn, peer) = pair(64);
    assert_eq!(try_write(conn, b"message"), (NPFS_HOST_OK, 7));
    let mut buf = [0; 16];
    assert_eq!(peer.try_read(&mut buf), Ok(Read::Whole(7)));
    assert_eq!(&buf[..7], b"message");
    assert_eq!(try_write(conn, &[0; 65]).0, NPFS_HOST_WOULD_BLOCK);
    assert_eq!(try_read(conn, &mut buf).0, NPFS_HOST_WOULD_BLOCK);
    peer.write(b"one two").expect("written");
    let mut info = npfs_host_info::default();
    // SAFETY: all of it is there.
    let seen = unsafe { npfs_host_peek(conn, address(&buf), 3, &raw mut info) };
    // The client end begins in byte mode, and the pipe has messages (NP-OBJ-10, NP-PEEK-06).
    assert_eq!((seen, &buf[..3]), (NPFS_HOST_MORE_DATA, &b"one"[..]));
    assert_eq!(
        (info.available, info.message_left, info.messages),
        (7, 7, 1)
    );
    assert_eq!((info.copied, info.quota_left, info.state), (3, 64, 3));
    assert_eq!(try_read(conn, &mut buf[..4]), (NPFS_HOST_OK, 4));
    // SAFETY: as above.
    let counted = unsafe { npfs_host_query(conn, &raw mut info) };
    assert_eq!(counted, NPFS_HOST_OK);
    assert_eq!((info.available, info.messages), (3, 1));

    // Memory that ends.
    LEFT.set(2);
    assert_eq!(try_read(conn, &mut buf), (NPFS_HOST_FAULT, usize::MAX));
    assert_eq!(try_write(conn, b"lost").0, NPFS_HOST_FAULT);
    LEFT.set(usize::MAX);
    assert_eq!(try_read(conn, &mut buf), (NPFS_HOST_OK, 3));
    assert_eq!(&buf[..3], b"two");
    assert_eq!(peer.try_read(&mut buf), Err(Error::WouldBlock));

    peer.write(b"last").expect("written");
    peer.close();
    assert_eq!(try_write(conn, b"x").0, NPFS_HOST_CLOSING);
    assert_eq!(try_read(conn, &mut buf), (NPFS_HOST_OK, 4));
    assert_eq!(try_read(conn, &mut buf).0, NPFS_HOST_BROKEN);
}

// ---- waits -----------------------------------------------------------------------------------------------------------

#[test]
fn a_wait_ends_with_its_data_its_deadline_or_its_cancel() {
    let _turn = turn();
    let (_server, conn, peer) = pair(64);
    let mut wait = idle();
    let mut buf = [0; 16];
    // There already.
    peer.write(b"here").expect("written");
    assert_eq!(
        block(conn, NPFS_HOST_READ, &mut buf, &raw mut wait, NEVER),
        (NPFS_HOST_OK, 4)
    );
    // A deadline.
    let begin = Instant::now();
    let late = block(conn, NPFS_HOST_READ, &mut buf, &raw mut wait, soon(30));
    assert_eq!(late.0, NPFS_HOST_TIMED_OUT);
    assert!(begin.elapsed() >= Duration::from_millis(30));
    // It took its place along: what comes now is for the next one.
    peer.write(b"next").expect("written");
    assert_eq!(try_read(conn, &mut buf), (NPFS_HOST_OK, 4));
    // Nothing to cancel.
    // SAFETY: it is an idle wait, or none.
    unsafe {
        assert_eq!(npfs_host_wait_cancel(&raw mut wait), 0);
        assert_eq!(npfs_host_wait_cancel(ptr::null_mut()), 0);
    }
    thread::scope(|scope| {
        // Data from elsewhere.
        let reader = scope.spawn(|| {
            let (mut wait, mut buf) = (idle(), [0; 16]);
            block(conn, NPFS_HOST_READ, &mut buf, &raw mut wait, NEVER)
        });
        thread::sleep(Duration::from_millis(20));
        peer.write(b"woken").expect("written");
        assert_eq!(reader.join().expect("no panic"), (NPFS_HOST_OK, 5));
        // A cancel.
        let wait = idle();
        let place = &raw const wait as usize;
        let reader = scope.spawn(move || {
            let mut buf = [0; 16];
            block(
                conn,
                NPFS_HOST_READ,
                &mut buf,
                place as *mut npfs_host_wait,
                NEVER,
            )
        });
        loop {
            // SAFETY: the memory stays until both threads are through.
            let asked = unsafe { npfs_host_wait_cancel(place as *mut npfs_host_wait) };
            if asked != 0 {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(reader.join().expect("no panic").0, NPFS_HOST_CANCELLED);
        // A disconnect.
        let reader = scope.spawn(|| {
            let (mut wait, mut buf) = (idle(), [0; 16]);
            block(conn, NPFS_HOST_READ, &mut buf, &raw mut wait, NEVER)
        });
        thread::sleep(Duration::from_millis(20));
        peer.disconnect().expect("connected");
        let answer = reader.join().expect("no panic").0;
        assert_eq!(answer, NPFS_HOST_DISCONNECTED);
    });
}

#[test]
fn np_write_07_np_flush_04_np_xcv_05_writes_flushes_and_transacts_wait() {
    let _turn = turn();
    let (mut server, conn, peer) = pair(64);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // More than the area holds.
        let writer = scope.spawn(move || {
            let (mut wait, mut data) = (idle(), vec![7; 3_000_000]);
            data[2_999_999] = 9;
            block(conn, NPFS_HOST_WRITE, &mut data, &raw mut wait, NEVER)
        });
        let mut all = vec![0; 3_000_000];
        assert_eq!(peer.read(&mut all), Ok(Read::Whole(3_000_000)));
        assert_eq!((all[0], all[2_999_998], all[2_999_999]), (7, 7, 9));
        let wrote = writer.join().expect("no panic");
        assert_eq!(wrote, (NPFS_HOST_OK, 3_000_000));
        // A flush ends with the read of the last byte.
        assert_eq!(try_write(conn, b"flushed"), (NPFS_HOST_OK, 7));
        let flusher = scope.spawn(|| {
            let mut wait = idle();
            let answer = block(conn, NPFS_HOST_DRAIN, &mut [], &raw mut wait, NEVER);
            done.store(true, Ordering::SeqCst);
            answer.0
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!done.load(Ordering::SeqCst));
        let mut buf = [0; 16];
        assert_eq!(peer.read(&mut buf), Ok(Read::Whole(7)));
        assert_eq!(flusher.join().expect("no panic"), NPFS_HOST_OK);
    });
    // A transact needs message mode, which the server sets.
    let (conn, peer) = server.connect(PipeType::Message, 64);
    let mut wait = idle();
    let (request, mut reply) = (*b"ask", [0; 8]);
    let reply_at = reply.as_mut_ptr() as usize;
    // SAFETY: buffers and wait are there.
    let begun = unsafe {
        npfs_host_transceive_begin(conn, address(&request), 3, reply_at, 8, &raw mut wait)
    };
    assert_eq!(begun, NPFS_HOST_INVALID_STATE);
    let mut buf = [0; 8];
    assert_eq!(peer.try_read(&mut buf), Err(Error::WouldBlock));
}

/// The thread ends inside its wait, as a signal would end it: its place in line is given up, and so is its use.
#[test]
fn np_cancel_08_a_thread_that_ends_in_its_wait_leaves_nothing() {
    let _turn = turn();
    let (_server, conn, peer) = pair(64);
    for round in 0..50 {
        let wait = Box::new(idle());
        let place = Box::into_raw(wait) as usize;
        let asleep = Arc::new(AtomicBool::new(false));
        let tell = asleep.clone();
        thread::spawn(move || {
            let wait = place as *mut npfs_host_wait;
            let mut buf = [0; 16];
            let (at, len) = (buf.as_mut_ptr() as usize, buf.len());
            // SAFETY: the wait is this thread's, and its memory stays.
            unsafe {
                assert_eq!(
                    npfs_host_wait_begin(conn, NPFS_HOST_READ, at, len, wait),
                    NPFS_HOST_PENDING
                );
                // It has looked for a while, and takes its place in line.
                if round % 3 != 0 {
                    npfs_host_wait_block(wait, NEVER);
                    let none = npfs_host_wait_end(wait, ptr::null_mut());
                    assert_eq!(none, NPFS_HOST_WOULD_BLOCK);
                }
                // What a handler would do, in the middle of the sleep or before it.
                if round % 3 == 1 {
                    npfs_host_wait_block(wait, soon(1));
                }
                npfs_host_wait_abandon(wait);
                tell.store(true, Ordering::SeqCst);
                libc::syscall(libc::SYS_exit, 0);
            }
        });
        while !asleep.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        peer.write(b"for the next").expect("written");
        let mut buf = [0; 16];
        assert_eq!(try_read(conn, &mut buf), (NPFS_HOST_OK, 12));
    }
    assert_eq!(npfs_host_drop(conn), NPFS_HOST_OK);
    // Nobody uses it any more, so its place is somebody else's, after all others that are free.
    let (_server, next, _peer) = pair(64);
    assert_ne!(next, conn);
}

// ---- operations ------------------------------------------------------------------------------------------------------

#[test]
fn np_io_01_an_operation_completes_at_once_or_once() {
    let _turn = turn();
    let (mut server, conn, peer) = pair(4096);
    let mut ops = operations(64);
    let mut bufs = vec![[0; 32]; 64];
    // At once: no completion follows.
    peer.write(b"there").expect("written");
    let at_once = submit(conn, NPFS_HOST_READ, &mut bufs[0], 1, 0, &mut ops[0]);
    assert_eq!(at_once, (NPFS_HOST_OK, 5));
    // In the order of issue (NP-READ-18).
    for cookie in 0..10 {
        let (buf, op) = (&mut bufs[cookie], &mut ops[cookie]);
        let pends = submit(conn, NPFS_HOST_READ, buf, cookie as u64, 0, op);
        assert_eq!(pends.0, NPFS_HOST_PENDING);
    }
    assert_eq!(PUMPS.load(Ordering::SeqCst), 1);
    for message in 0_u8..10 {
        peer.write(&[message; 5]).expect("written");
    }
    let mut over = completions(10);
    over.sort_unstable();
    for (cookie, (seen, status, count)) in over.into_iter().enumerate() {
        assert_eq!((seen, status, count), (cookie as u64, NPFS_HOST_OK, 5));
        let expected = u8::try_from(cookie).expect("ten");
        assert_eq!(bufs[cookie][..5], [expected; 5]);
    }
    // Cancelled by cookie, by thread, by connection, all; and what ends with its thread.
    let (other, other_peer) = server.connect(PipeType::Byte, 10);
    for cookie in 0..6 {
        let at = if cookie < 4 { conn } else { other };
        let flags = if cookie == 3 { NPFS_HOST_KEEP } else { 0 };
        let (buf, op) = (&mut bufs[cookie], &mut ops[cookie]);
        let pends = submit(at, NPFS_HOST_READ, buf, cookie as u64, flags, op);
        assert_eq!(pends.0, NPFS_HOST_PENDING);
    }
    assert_eq!(cancel(0, 0, Some(99)), (NPFS_HOST_STALE, 0));
    assert_eq!(cancel(other, 0, Some(1)), (NPFS_HOST_STALE, 0));
    assert_eq!(
        cancel(0, npfs_host_thread() + 1, None),
        (NPFS_HOST_STALE, 0)
    );
    assert_eq!(cancel(conn, npfs_host_thread(), Some(1)), (NPFS_HOST_OK, 1));
    assert_eq!(completions(1), [(1, NPFS_HOST_CANCELLED, 0)]);
    assert_eq!(cancel(other, 0, None), (NPFS_HOST_OK, 2));
    assert_eq!(completions(2).len(), 2);
    npfs_host_exit_thread(0);
    let mut gone = completions(2);
    gone.sort_unstable();
    assert_eq!(
        gone,
        [(0, NPFS_HOST_CANCELLED, 0), (2, NPFS_HOST_CANCELLED, 0)]
    );
    peer.write(b"kept").expect("written");
    assert_eq!(completions(1), [(3, NPFS_HOST_OK, 4)]);
    // Writes, flushes, and the end of the peer.
    let (data, op) = (&mut [5; 32][..], &mut ops[0]);
    assert_eq!(
        submit(other, NPFS_HOST_WRITE, data, 7, 0, op).0,
        NPFS_HOST_PENDING
    );
    let op = &mut ops[1];
    assert_eq!(
        submit(other, NPFS_HOST_DRAIN, &mut [], 8, 0, op).0,
        NPFS_HOST_PENDING
    );
    let mut buf = [0; 32];
    assert_eq!(other_peer.read(&mut buf), Ok(Read::Whole(32)));
    let mut over = completions(2);
    over.sort_unstable();
    assert_eq!(over, [(7, NPFS_HOST_OK, 32), (8, NPFS_HOST_OK, 0)]);
    let op = &mut ops[2];
    assert_eq!(
        submit(other, NPFS_HOST_READ, &mut buf, 9, 0, op).0,
        NPFS_HOST_PENDING
    );
    other_peer.close();
    assert_eq!(completions(1), [(9, NPFS_HOST_BROKEN, 0)]);
    let op = &mut ops[2];
    assert_eq!(
        submit(other, NPFS_HOST_READ, &mut buf, 9, 0, op).0,
        NPFS_HOST_BROKEN
    );
    assert_eq!(npfs_host_pump_wait(soon(5)), NPFS_HOST_TIMED_OUT);
    npfs_host_pump_kick();
}

/// Cancels race completions and the pump: one answer each.
#[test]
fn np_cancel_04_an_operation_that_is_cancelled_as_it_completes_completes_once() {
    let _turn = turn();
    let (_server, conn, peer) = pair(4096);
    const ROUNDS: usize = 3000;
    let mut ops = operations(ROUNDS);
    let mut bufs = vec![[0; 4]; ROUNDS];
    let over = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                npfs_host_pump_wait(soon(5));
                npfs_host_pump_run(3);
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                if peer.try_write(b"data").is_ok() {
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                thread::yield_now();
            }
        });
        let mut at_once = 0;
        let mut pended = 0;
        for (cookie, (op, buf)) in ops.iter_mut().zip(&mut bufs).enumerate() {
            match submit(conn, NPFS_HOST_READ, buf, cookie as u64, 0, op).0 {
                NPFS_HOST_OK => at_once += 1,
                NPFS_HOST_PENDING => pended += 1,
                other => panic!("{other}"),
            }
            if cookie % 3 != 0 {
                cancel(conn, 0, Some(cookie as u64));
            }
        }
        let begin = Instant::now();
        while OVER.lock().expect("no panic").len() < pended {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "one is not answered"
            );
            thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
        assert_eq!(at_once + pended, ROUNDS);
    });
    let done = std::mem::take(&mut *OVER.lock().expect("no panic"));
    let mut seen = vec![0; ROUNDS];
    for (cookie, status, count) in &done {
        seen[usize::try_from(*cookie).expect("a round")] += 1;
        assert!(matches!(
            (*status, *count),
            (NPFS_HOST_OK, 4) | (NPFS_HOST_CANCELLED, 0)
        ));
    }
    assert!(seen.iter().all(|times| *times <= 1), "twice");
}

// ---- arguments -------------------------------------------------------------------------------------------------------

/// Whatever comes in, something comes back, and the connection is none the worse.
#[test]
fn whatever_the_arguments_are_there_is_a_status() {
    let _turn = turn();
    let (_server, conn, peer) = pair(64);
    // Copies fail: no address is touched.
    LEFT.set(0);
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed >> 33
    };
    for round in 0..200_000 {
        let conn = match random() % 4 {
            0 => i32::try_from(random() & 0x7fff_ffff).expect("31 bits"),
            1 => 0,
            _ => conn,
        };
        let len = usize::try_from(match random() % 6 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 31,
            3 => (1 << 31) - 1,
            4 => random() << 20,
            _ => random() % 100,
        })
        .expect("64 bits");
        let kind = u32::try_from(random() % 5).expect("small");
        let address = usize::try_from(random()).expect("64 bits");
        let mut wait = idle();
        let mut op = npfs_host_op { opaque: [0; 32] };
        let mut info = npfs_host_info::default();
        // SAFETY: what is pointed to is there or NULL, and no copy touches the addresses.
        unsafe {
            let status = match random() % 9 {
                0 => npfs_host_try_read(conn, address, len, ptr::null_mut()),
                1 => npfs_host_try_write(conn, address, len, ptr::null_mut()),
                2 => npfs_host_peek(conn, address, len, &raw mut info),
                3 => npfs_host_query(conn, ptr::null_mut()),
                4 => {
                    let begun = npfs_host_wait_begin(conn, kind, address, len, &raw mut wait);
                    if begun == NPFS_HOST_PENDING {
                        npfs_host_wait_cancel(&raw mut wait);
                    }
                    finish(begun, &raw mut wait, 0).0
                }
                5 => npfs_host_wait_begin(conn, kind, address, len, ptr::null_mut()),
                6 => {
                    let flags = u32::try_from(random() % 3).expect("small");
                    let (at, none) = (&raw mut op, ptr::null_mut());
                    let status = npfs_host_submit(conn, kind, address, len, 5, flags, at, none);
                    if status == NPFS_HOST_PENDING {
                        assert_eq!(cancel(0, 0, Some(5)), (NPFS_HOST_OK, 1));
                        assert_eq!(completions(1).len(), 1);
                    }
                    status
                }
                7 => npfs_host_submit(
                    conn,
                    kind,
                    address,
                    len,
                    5,
                    0,
                    ptr::null_mut(),
                    ptr::null_mut(),
                ),
                _ => {
                    let begun =
                        npfs_host_transceive_begin(conn, address, len, address, len, &raw mut wait);
                    finish(begun, &raw mut wait, 0).0
                }
            };
            assert!((-17..=3).contains(&status), "round {round}: {status}");
        }
    }
    LEFT.set(usize::MAX);
    // Messages of no bytes have been written, which needs no copy, and nothing else.
    let (mut buf, mut empty) = ([0; 8], 0);
    while let Ok(read) = peer.try_read(&mut buf) {
        assert_eq!(read, Read::Whole(0));
        empty += 1;
    }
    assert!(empty > 0);
    assert_eq!(try_write(conn, b"fine"), (NPFS_HOST_OK, 4));
    assert_eq!(peer.try_read(&mut buf), Ok(Read::Whole(4)));
    assert_eq!(&buf[..4], b"fine");
}

// ---- what goes on between the steps ----------------------------------------------------------------------------------

/// The pump sleeps when the process gets its second link.
#[test]
fn the_pump_hears_the_bell_of_a_link_that_came_while_it_slept() {
    let _turn = turn();
    let (_one, first, _peer) = pair(4096);
    let slept = thread::spawn(|| {
        let begin = Instant::now();
        // Whatever comes before is not what this is about.
        while npfs_host_pump_wait(soon(3000)) == NPFS_HOST_OK {
            if npfs_host_pump_run(0) != 0 {
                return Some(begin.elapsed());
            }
        }
        None
    });
    thread::sleep(Duration::from_millis(300));
    let (_two, conn, peer) = pair(4096);
    let mut op = operations(1);
    let mut buf = [0; 16];
    let pended = submit(conn, NPFS_HOST_READ, &mut buf, 7, 0, &mut op[0]);
    assert_eq!(pended.0, NPFS_HOST_PENDING);
    assert_eq!(peer.write(b"hello"), Ok(5));
    let slept = slept.join().expect("no panic");
    npfs_host_pump_run(0);
    npfs_host_drop(conn);
    npfs_host_drop(first);
    assert!(slept.is_some(), "nobody told the pump");
}

/// One thread submits a write while another is in the middle of its copy, and then one more.
#[test]
fn np_read_18_writes_of_one_thread_keep_their_order() {
    let _turn = turn();
    let (_server, conn, peer) = pair(4096);
    // The peer is in the middle of a write in that direction: so would another thread of the host's be. The role is taken by
    // a thread that copies until it is told.
    // Through the host's own copy: see `HOLD`.
    HOLD.store(true, Ordering::SeqCst);
    let other = thread::spawn(move || {
        SLOW.set(true);
        try_write(conn, b"zero")
    });
    while !HELD.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let mut ops = operations(1);
    let mut first = *b"first";
    let a = submit(conn, NPFS_HOST_WRITE, &mut first, 1, 0, &mut ops[0]);
    HOLD.store(false, Ordering::SeqCst);
    assert_eq!(other.join().expect("no panic").0, NPFS_HOST_OK);
    let mut ops_2 = operations(1);
    let mut second = *b"second";
    let b = submit(conn, NPFS_HOST_WRITE, &mut second, 2, 0, &mut ops_2[0]);
    println!("{a:?} {b:?}");
    let pended = usize::from(a.0 == NPFS_HOST_PENDING) + usize::from(b.0 == NPFS_HOST_PENDING);
    completions(pended);
    let mut seen = Vec::new();
    let mut buf = [0; 16];
    while let Ok(read) = peer.try_read(&mut buf) {
        seen.push(String::from_utf8_lossy(&buf[..read.count()]).into_owned());
    }
    npfs_host_drop(conn);
    assert_eq!(seen, ["zero", "first", "second"]);
}

/// A thread submits a read that is not its own (NPFS_HOST_KEEP), and ends; the server sweeps it.
#[test]
fn np_cancel_08_what_is_kept_survives_the_sweep_of_its_thread() {
    let _turn = turn();
    let (mut server, conn, peer) = pair(4096);
    let mut ops = operations(2);
    let mut bufs = [[0; 16]; 2];
    let [one, two] = &mut bufs;
    let (op_1, op_2) = ops.split_at_mut(1);
    let serial = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let pended = submit(conn, NPFS_HOST_READ, one, 1, NPFS_HOST_KEEP, &mut op_1[0]);
            assert_eq!(pended.0, NPFS_HOST_PENDING);
            npfs_host_exit_thread(0);
            npfs_host_thread()
        });
        thread.join().expect("no panic")
    });
    server.books.sweep(server.own, Some(serial));
    let pended = submit(conn, NPFS_HOST_READ, two, 2, 0, &mut op_2[0]);
    assert_eq!(pended.0, NPFS_HOST_PENDING);
    let wrote = peer.write(b"for one");
    npfs_host_pump_run(0);
    let wrote_2 = peer.write(b"for two");
    let over = completions(2);
    println!("{wrote:?} {wrote_2:?} {over:?} {bufs:?}");
    npfs_host_drop(conn);
    assert_eq!(over, [(1, NPFS_HOST_OK, 7), (2, NPFS_HOST_OK, 7)]);
}

/// A thread ends in the copy of a wait whose memory has served another connection before.
#[test]
fn an_abandoned_begin_touches_no_other_connection() {
    let _turn = turn();
    let (_one, first, peer_1) = pair(4096);
    let (_two, second, _peer_2) = pair(4096);
    let place = std::ptr::from_mut(Box::leak(Box::new(idle()))) as usize;
    thread::spawn(move || {
        let place = place as *mut npfs_host_wait;
        assert_eq!(peer_1.write(b"x"), Ok(1));
        let mut buf = [0; 8];
        assert_eq!(
            block(first, NPFS_HOST_READ, &mut buf, place, NEVER).0,
            NPFS_HOST_OK
        );
        DIES.set(place as usize);
        let mut data = *b"data";
        // SAFETY: the buffer and the wait are there.
        unsafe {
            npfs_host_wait_begin(
                second,
                NPFS_HOST_WRITE,
                data.as_mut_ptr() as usize,
                4,
                place,
            )
        };
    });
    while !DEAD.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let read = try_read(first, &mut [0; 8]);
    assert_eq!(
        read.0, NPFS_HOST_WOULD_BLOCK,
        "the first connection is what it was"
    );
}
