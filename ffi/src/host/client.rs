//! The client side of `npfs_host.h`: what the programs of a host call, on whatever thread of theirs.

use std::{
    ffi::c_void,
    mem::{align_of, size_of},
    os::fd::{FromRawFd, OwnedFd},
    ptr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use npfs_ringbuf::{
    ABI_VERSION, Alarm, Answer, Conn, Deadline, Error, Grant, Link, ProcessIndex, Read, Shared,
    Task, UserBuffer, UserMemory, Wait, Work, layout_hash, try_push, wait_at_bells,
};

use super::{
    HostResult, guard, of_memory,
    once::Once,
    operations::{self, Filter, Submitted},
    out,
    table::{self, Number, Use},
    types::*,
};
use crate::{
    guard::guard_or,
    memory::{self, Out},
};

/// A connection that this process has attached to: above 0. It may be used while another thread drops it, and stands for
/// nothing then (`NPFS_HOST_STALE`); the same number comes again after some two thousand others at its place.
/// A thread's first call asks the system who it is (getpid(2), gettid(2)), to say from then on by plain stores which connection it
/// uses; "no system call" below is of those after it.
pub type npfs_host_conn = i32;

/// What the library needs of its host. `size` is `sizeof(npfs_host_ops)`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_host_ops {
    /// `sizeof(npfs_host_ops)`.
    pub size: usize,
    /// Handed to each of them.
    pub context: *mut c_void,
    /// Copies `len` bytes of user memory at `from` to `to`, which is shared memory. 0: some of them cannot be read. It may
    /// block; nothing but the right to write on that one connection is held meanwhile.
    pub copy_in: Option<
        unsafe extern "C" fn(context: *mut c_void, to: *mut c_void, from: usize, len: usize) -> i32,
    >,
    /// Copies `len` bytes of shared memory at `from` to user memory at `to`. 0: some of it cannot be written. It may block;
    /// nothing is held meanwhile. Bytes that it has copied may be copied again, over them.
    pub copy_out: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            to: usize,
            from: *const c_void,
            len: usize,
        ) -> i32,
    >,
    /// A submitted operation is over: once for each, on the thread that runs the pump or cancels; that may be before the
    /// submit has returned to its caller. Its memory is the host's again. Nothing is held.
    pub complete: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            cookie: u64,
            status: npfs_host_status,
            information: usize,
        ),
    >,
    /// Something pends for the first time: from now on a thread of the host's is to call `npfs_host_pump_wait` and
    /// `npfs_host_pump_run` in turn. Called once. May be NULL if one does anyway.
    pub start_pump: Option<unsafe extern "C" fn(context: *mut c_void)>,
}

/// The host's functions, as the engine calls them.
pub(super) struct Host(npfs_host_ops);

// SAFETY: the functions may be called from any thread (`npfs_host_init` says so), and the context is the host's own.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

static HOST: Once<Host> = Once::new();

impl Host {
    pub(super) fn get() -> Option<&'static Host> {
        HOST.get()
    }

    pub(super) fn complete(&self, cookie: u64, status: npfs_host_status, information: usize) {
        if let Some(complete) = self.0.complete {
            // SAFETY: the host has promised that it may be called so.
            unsafe { complete(self.0.context, cookie, status, information) };
        }
    }

    pub(super) fn start_pump(&self) {
        if let Some(start) = self.0.start_pump {
            // SAFETY: as above.
            unsafe { start(self.0.context) };
        }
    }
}

impl UserMemory for Host {
    unsafe fn copy_in(&self, from: usize, to: *mut u8, len: usize) -> bool {
        let Some(copy) = self.0.copy_in else {
            return false;
        };
        // SAFETY: the host has promised that it may be called so; `to` is writable by the caller's word.
        unsafe { copy(self.0.context, to.cast(), from, len) != 0 }
    }

    unsafe fn copy_out(&self, to: usize, from: *const u8, len: usize) -> bool {
        let Some(copy) = self.0.copy_out else {
            return false;
        };
        // SAFETY: as above; `from` is readable by the caller's word.
        unsafe { copy(self.0.context, to, from.cast(), len) != 0 }
    }
}

/// The links of this process, by what they are known by; mapped until the host says that it is done with one.
static LINKS: Mutex<Vec<Shared<Link>>> = Mutex::new(Vec::new());

/// One of them, by a number below how many there are.
pub(super) fn link(number: usize) -> Option<Shared<Link>> {
    let links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    links.get(number).cloned()
}

/// Tells the pump to look around.
pub(super) static ALARM: Alarm = Alarm::new();

fn status(call: impl FnOnce() -> npfs_host_status) -> npfs_host_status {
    guard(|| Ok(call()))
}

/// A call on a connection.
fn with(
    conn: npfs_host_conn,
    call: impl FnOnce(&'static Host, Use) -> npfs_host_status,
) -> npfs_host_status {
    let Some(host) = Host::get() else {
        return NPFS_HOST_INVALID;
    };
    match table::get(conn) {
        Some(used) => call(host, used),
        None => NPFS_HOST_STALE,
    }
}

/// What an operation has come to, and how many bytes it has moved.
pub(super) fn of_answer(answer: Result<Answer, Error>) -> (npfs_host_status, usize) {
    match answer {
        Ok(Answer::Read(Read::Part(count))) => (NPFS_HOST_MORE_DATA, count),
        Ok(Answer::Read(Read::Whole(count)) | Answer::Wrote(count)) => (NPFS_HOST_OK, count),
        Ok(Answer::Flushed) => (NPFS_HOST_OK, 0),
        Err(error) => (of_error(error), 0),
    }
}

/// A misaligned place is as good as none.
///
/// # Safety
/// What is not NULL can be written.
unsafe fn put<T>(place: *mut T, value: T) {
    // SAFETY: the caller's promise.
    if let Ok(Some(place)) = unsafe { Out::maybe(place) } {
        place.put(value);
    }
}

/// What an operation has come to; `count`, if that is something, receives how many bytes it has moved.
///
/// # Safety
/// As of [`put`].
unsafe fn tell(answer: Result<Answer, Error>, count: *mut usize) -> npfs_host_status {
    let (status, n) = of_answer(answer);
    if answer.is_ok() {
        // SAFETY: the caller's promise.
        unsafe { put(count, n) };
    }
    status
}

/// The version and the hash of the layout of what is shared. If two sides answer different ones they must not share
/// anything, and every call is the host's ordinary request. Any thread.
///
/// # Safety
/// What is not NULL can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_abi(version: *mut u32, hash: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe {
        put(version, ABI_VERSION);
        put(hash, layout_hash());
    }
}

/// Hands over the host's functions, before anything else is called; a second time answers `NPFS_HOST_INVALID`. They may be
/// called on any thread that calls the library, and must not call it themselves, but for `complete`, which may.
///
/// # Safety
/// `ops` is NULL or can be read; the functions do what they are for, and stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_init(ops: *const npfs_host_ops) -> npfs_host_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let ops = unsafe { memory::read(ops) }.map_err(of_memory)?;
        if ops.size != size_of::<npfs_host_ops>() || ops.copy_in.is_none() || ops.copy_out.is_none()
        {
            return Err(NPFS_HOST_INVALID);
        }
        HOST.set(Host(ops)).map_err(|_| NPFS_HOST_INVALID)?;
        Ok(NPFS_HOST_OK)
    })
}

/// The calling thread's number in its process, never 0: what the server's sweep of a thread is told. It stays the same, and no
/// other thread of the process gets it for the next sixteen million. Any thread; a host whose server sweeps threads tells
/// it the number when the thread begins.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_host_thread() -> u32 {
    npfs_ringbuf::thread_serial()
}

/// Attaches one end of a connection, as the server has exported it. `memfd`: the link's descriptor, which is the library's
/// from here on and closed at once; -1 if the process has that link already (else `NPFS_HOST_FALLBACK`: ask for it). A
/// descriptor is looked at before anything in it is believed: what is no sealed memfd of this layout is
/// `NPFS_HOST_MISMATCH`. Maps memory the first time, allocates; no lock is held over a call of the host's. Any thread.
///
/// # Safety
/// `end` can be read and `conn` be written unless they are NULL; `memfd` is nobody else's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_attach(
    memfd: i32,
    end: *const npfs_host_end,
    conn: *mut npfs_host_conn,
) -> npfs_host_status {
    guard(|| {
        // SAFETY: the descriptor is the library's by the caller's word.
        let memfd = (memfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(memfd) });
        // SAFETY: the caller's promise.
        let (end, conn) = unsafe { (memory::read(end).map_err(of_memory)?, out(conn)?) };
        let process = u8::try_from(end.process).ok().and_then(ProcessIndex::new);
        let process = process.ok_or(NPFS_HOST_MISMATCH)?;
        let grant = Grant::from_bytes(&end.grant).map_err(of_attach)?;
        let link = joined(&end, process, memfd)?;
        let opened = Conn::open(&link, &grant).map_err(of_attach)?;
        conn.put(table::insert(opened).map_err(|opened| {
            opened.leave_to_broker();
            NPFS_HOST_NO_MEMORY
        })?);
        Ok(NPFS_HOST_OK)
    })
}

/// The link of an end: one that the process has, or the descriptor's.
fn joined(
    end: &npfs_host_end,
    process: ProcessIndex,
    memfd: Option<OwnedFd>,
) -> HostResult<Shared<Link>> {
    let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = links
        .iter()
        .find(|link| link.token() == end.link && link.process() == process);
    if let Some(link) = known {
        return Ok(link.clone());
    }
    let link = Link::attach(memfd.ok_or(NPFS_HOST_FALLBACK)?, process);
    let link = link.map_err(of_attach)?;
    if link.token() != end.link {
        return Err(NPFS_HOST_MISMATCH);
    }
    try_push(&mut links, link.clone()).map_err(|_| NPFS_HOST_NO_MEMORY)?;
    // The pump sleeps at the bells of those that it knew.
    ALARM.ring();
    Ok(link)
}

/// This process is done with a connection: the number stands for nothing from here on. Calls under way go on, and so do waits
/// and operations: cancel them first. The end itself stays open until the server closes it. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_host_drop(conn: npfs_host_conn) -> npfs_host_status {
    status(|| {
        if table::remove(conn, Conn::leave_to_broker) {
            NPFS_HOST_OK
        } else {
            NPFS_HOST_STALE
        }
    })
}

/// This process is done with a link (`npfs_host_end.link`): its memory is unmapped once the last connection on it has been
/// dropped, and has to come with a descriptor next time. `NPFS_HOST_BUSY`: operations pend on it; cancel them, and wait for their
/// completions. Any thread.
///
/// # Safety
/// `link` can be read as two numbers unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_forget_link(link: *const u64) -> npfs_host_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let token = unsafe { memory::read(link.cast::<[u64; 2]>()) }.map_err(of_memory)?;
        if operations::pend_on(token) {
            return Err(NPFS_HOST_BUSY);
        }
        let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
        let before = links.len();
        links.retain(|link| link.token() != token);
        let found = links.len() != before;
        drop(links);
        ALARM.ring();
        Ok(if found { NPFS_HOST_OK } else { NPFS_HOST_STALE })
    })
}

// ---- at once ---------------------------------------------------------------------------------------------------------

/// Reads what is there, at most `len` bytes, to user memory at `buf`. `count` is written if the answer is `NPFS_HOST_OK` or
/// `NPFS_HOST_MORE_DATA`. `NPFS_HOST_WOULD_BLOCK`: nothing is there, or others wait for it; `NPFS_HOST_BUSY`: somebody is
/// in the middle of a step; `NPFS_HOST_FAULT`: the copy failed, and nothing was read. What an error leaves in the buffer is
/// undefined. No system call unless somebody has to be woken, or a thread that keeps the right to read has to be asked for it.
/// Any thread.
///
/// # Safety
/// `count` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_try_read(
    conn: npfs_host_conn,
    buf: usize,
    len: usize,
    count: *mut usize,
) -> npfs_host_status {
    status(|| {
        with(conn, |host, conn| {
            let read = conn.try_read_user(UserBuffer::new(host, buf, len));
            // SAFETY: the caller's promise.
            unsafe { tell(read.map(Answer::Read), count) }
        })
    })
}

/// Writes `len` bytes of user memory at `buf`, as one message on a message pipe, if that can be done at once. `count` is
/// written with `NPFS_HOST_OK`; an end that never waits may write less (NP-WRITE-10, 11). `NPFS_HOST_WOULD_BLOCK`: the quota has
/// no room; `NPFS_HOST_BUSY`, `NPFS_HOST_FAULT` as of a read. Any thread.
///
/// # Safety
/// `count` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_try_write(
    conn: npfs_host_conn,
    buf: usize,
    len: usize,
    count: *mut usize,
) -> npfs_host_status {
    status(|| {
        with(conn, |host, conn| {
            let wrote = conn.try_write_user(UserBuffer::new(host, buf, len));
            // SAFETY: the caller's promise.
            unsafe { tell(wrote.map(Answer::Wrote), count) }
        })
    })
}

/// Looks at what is queued, with at most `len` bytes of it to user memory at `buf`, and changes nothing (NP-PEEK-04 to 09).
/// `info` is written with `NPFS_HOST_OK` and `NPFS_HOST_MORE_DATA`. No system call. Any thread.
///
/// # Safety
/// `info` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_peek(
    conn: npfs_host_conn,
    buf: usize,
    len: usize,
    info: *mut npfs_host_info,
) -> npfs_host_status {
    status(|| {
        with(conn, |host, conn| {
            let peek = match conn.peek_user(UserBuffer::new(host, buf, len)) {
                Ok(peek) => peek,
                Err(error) => return of_error(error),
            };
            let (seen, status) = of_peek(&peek, &conn);
            // SAFETY: the caller's promise.
            unsafe { put(info, seen) };
            status
        })
    })
}

/// Counts (FILE_PIPE_LOCAL_INFORMATION); `message_left` and `copied` stay 0. No system call. Any thread.
///
/// # Safety
/// `info` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_query(
    conn: npfs_host_conn,
    info: *mut npfs_host_info,
) -> npfs_host_status {
    status(|| {
        with(conn, |_, conn| match conn.info() {
            Ok(counts) => {
                // SAFETY: the caller's promise.
                unsafe { put(info, counts.into()) };
                NPFS_HOST_OK
            }
            Err(error) => of_error(error),
        })
    })
}

// ---- waits -----------------------------------------------------------------------------------------------------------

/// The state of one blocked call, in memory of the host's: all zero before its first use, at one address from its begin to
/// its end, and readable as long as another thread may cancel it. What is in it is the library's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_host_wait {
    /// Opaque.
    pub opaque: [u64; 32],
}

/// What stands in it.
#[repr(C)]
struct Waiting {
    /// Zero is an idle one. First, and never moved: other threads look at it.
    wait: Wait,
    conn: Number,
    /// Why a block came back.
    why: Option<Error>,
    task: Task,
    work: Plan,
}

const _: () = assert!(
    size_of::<Waiting>() <= size_of::<npfs_host_wait>()
        && align_of::<Waiting>() <= align_of::<npfs_host_wait>()
);

/// What is to be done, by addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    Read([usize; 2]),
    Write([usize; 2]),
    Flush,
    Transact([usize; 2], [usize; 2]),
}

impl Plan {
    pub(super) fn work(self, host: &'static Host) -> Work<'static> {
        let buffer = |[address, len]: [usize; 2]| UserBuffer::new(host, address, len);
        match self {
            Plan::Read(buf) => Work::Read(buffer(buf)),
            Plan::Write(buf) => Work::Write(buffer(buf)),
            Plan::Flush => Work::Flush,
            Plan::Transact(request, reply) => Work::Transact(buffer(request), buffer(reply)),
        }
    }

    pub(super) fn of(kind: u32, buf: usize, len: usize) -> Option<Plan> {
        match kind {
            NPFS_HOST_READ => Some(Plan::Read([buf, len])),
            NPFS_HOST_WRITE => Some(Plan::Write([buf, len])),
            NPFS_HOST_DRAIN => Some(Plan::Flush),
            _ => None,
        }
    }
}

/// The state of a wait that is the calling thread's.
///
/// # Safety
/// `wait` is NULL, or zero, or what an earlier call has left there, and of its own fields but `wait` only the calling thread
/// uses any.
unsafe fn waiting(wait: *mut npfs_host_wait) -> Option<ptr::NonNull<Waiting>> {
    ptr::NonNull::new(wait.cast::<Waiting>()).filter(|place| place.is_aligned())
}

/// Begins a blocking read of `len` bytes to user memory at `buf`, a write of those there, or a flush (`kind`:
/// `NPFS_HOST_READ`, `_WRITE`, `_DRAIN`): does it if it can be done at once. `NPFS_HOST_OK`: `npfs_host_wait_end` has the
/// answer. `NPFS_HOST_PENDING`: call `npfs_host_wait_block` first. What else it answers is the answer, and the wait has not
/// begun. A read or write takes its place in the order of issue in the first `npfs_host_wait_end`, if looking for it in
/// `npfs_host_wait_block` has not brought it. Allocates nothing. Any thread.
///
/// # Safety
/// `wait` is memory as `npfs_host_wait` says, of no other call under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_wait_begin(
    conn: npfs_host_conn,
    kind: u32,
    buf: usize,
    len: usize,
    wait: *mut npfs_host_wait,
) -> npfs_host_status {
    status(|| match Plan::of(kind, buf, len) {
        // SAFETY: the caller's promise.
        Some(plan) => unsafe { begin(conn, plan, wait) },
        None => NPFS_HOST_INVALID,
    })
}

/// Begins a transact: writes one message whatever the quota, and takes the place of the read of its reply
/// (NP-XCV-01 to 08). As `npfs_host_wait_begin`. Any thread.
///
/// # Safety
/// As of `npfs_host_wait_begin`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_transceive_begin(
    conn: npfs_host_conn,
    request: usize,
    request_len: usize,
    reply: usize,
    reply_len: usize,
    wait: *mut npfs_host_wait,
) -> npfs_host_status {
    let plan = Plan::Transact([request, request_len], [reply, reply_len]);
    // SAFETY: the caller's promise.
    status(|| unsafe { begin(conn, plan, wait) })
}

/// # Safety
/// As of [`npfs_host_wait_begin`].
unsafe fn begin(conn: npfs_host_conn, plan: Plan, wait: *mut npfs_host_wait) -> npfs_host_status {
    // SAFETY: the caller's promise.
    let Some(place) = (unsafe { waiting(wait) }) else {
        return NPFS_HOST_INVALID;
    };
    let place = place.as_ptr();
    with(conn, |host, used| {
        // SAFETY: zero is a `Wait` that serves no call, and so is what the last one has left; other threads only read and
        // change it as what it is.
        let wait = unsafe { &(*place).wait };
        if wait.open().is_err() {
            return NPFS_HOST_INVALID;
        }
        let mut task = Task::blocking();
        let work = plan.work(host);
        let answer = task.advance(&used, work);
        if let Some(Err(error)) = answer {
            wait.shut();
            return of_error(error);
        }
        task.leave_with(&used, work, wait);
        if answer.is_none() {
            used.unsignal();
        }
        // SAFETY: the fields are this thread's until the wait ends.
        unsafe {
            (&raw mut (*place).conn).write(used.keep());
            (&raw mut (*place).why).write(None);
            (&raw mut (*place).task).write(task);
            (&raw mut (*place).work).write(plan);
        }
        if answer.is_some() {
            NPFS_HOST_OK
        } else {
            NPFS_HOST_PENDING
        }
    })
}

/// Waits until `npfs_host_wait_end` may have the answer, or `deadline` (nanoseconds of CLOCK_MONOTONIC; UINT64_MAX: never):
/// spins within bounds, then sleeps in futex(2) until it is woken. Holds nothing and touches no user memory, so that the
/// thread may end in here, if `npfs_host_wait_abandon` or the server's sweep of the thread follows. `NPFS_HOST_OK`: call
/// `npfs_host_wait_end`. `NPFS_HOST_CANCELLED`, `NPFS_HOST_TIMED_OUT`: the same, and it will say whether the result came
/// first. The thread that began the wait.
///
/// # Safety
/// `wait` was begun by this thread and has not ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_wait_block(
    wait: *mut npfs_host_wait,
    deadline: u64,
) -> npfs_host_status {
    status(|| {
        // SAFETY: the caller's promise.
        let Some((place, host)) = (unsafe { waiting(wait) }).zip(Host::get()) else {
            return NPFS_HOST_INVALID;
        };
        let place = place.as_ptr();
        // SAFETY: begun and not ended: the fields are there, and but for `wait` this thread's; the use is kept.
        let (conn, wait, task, work) = unsafe {
            let conn = table::resume((*place).conn).map(std::mem::ManuallyDrop::new);
            let work = (*place).work.work(host);
            (conn, &(*place).wait, &mut (*place).task, work)
        };
        let Some(conn) = conn else {
            return NPFS_HOST_INVALID;
        };
        match task.block(&conn, work, wait, Deadline::at(deadline)) {
            Ok(()) => NPFS_HOST_OK,
            Err(why) => {
                // SAFETY: as above.
                unsafe { (*place).why = Some(why) };
                of_error(why)
            }
        }
    })
}

/// Moves the bytes and ends the wait; after a cancel or a deadline it withdraws it, unless the result has come first.
/// `NPFS_HOST_WOULD_BLOCK`: there is more to wait for (a long write, say), call `npfs_host_wait_block` again. Anything
/// else is the answer, and the wait is over; `count` is written if it is `NPFS_HOST_OK` or `NPFS_HOST_MORE_DATA`. Allocates
/// nothing. The thread that began the wait.
///
/// # Safety
/// `wait` was begun by this thread and has not ended; `count` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_wait_end(
    wait: *mut npfs_host_wait,
    count: *mut usize,
) -> npfs_host_status {
    status(|| {
        // SAFETY: the caller's promise.
        let Some((place, host)) = (unsafe { waiting(wait) }).zip(Host::get()) else {
            return NPFS_HOST_INVALID;
        };
        let place = place.as_ptr();
        // SAFETY: begun and not ended, as in `npfs_host_wait_block`.
        let (conn, wait, task, work, why) = unsafe {
            let conn = table::resume((*place).conn);
            let work = (*place).work.work(host);
            (conn, &(*place).wait, &mut (*place).task, work, (*place).why)
        };
        let Some(conn) = conn else {
            return NPFS_HOST_INVALID;
        };
        let answer = match why {
            Some(why) => Some(task.withdraw(&conn, work, why)),
            None => task.advance(&conn, work),
        };
        let Some(answer) = answer else {
            task.leave_with(&conn, work, wait);
            let _ = conn.keep();
            return NPFS_HOST_WOULD_BLOCK;
        };
        // A thread that ends from here on has no use of it to give up: see `npfs_host_wait_abandon`.
        // SAFETY: as above.
        unsafe { (&raw mut (*place).conn).write(0) };
        wait.shut();
        conn.signal();
        // SAFETY: the caller's promise.
        unsafe { tell(answer, count) }
    })
}

/// Asks the wait under way to end with `NPFS_HOST_CANCELLED`; its own answer says which came first. 1: it was asked; 0: none
/// is under way. Another thread of the same process, any.
///
/// # Safety
/// `wait` is NULL or memory as `npfs_host_wait` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_wait_cancel(wait: *mut npfs_host_wait) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { waiting(wait) }.map_or(0, |place| {
        // SAFETY: the field is a `Wait` whatever state it is in, zero included, and is only looked at as such.
        i32::from(unsafe { &(*place.as_ptr()).wait }.cancel())
    })
}

/// The thread inside the wait never comes back: gives up what it had in the connection. Async-signal-safe: two changes of a
/// word, no lock, no allocation. In a signal handler that does not return, of the thread that began the wait; or while
/// that thread is known to be stopped for good within `npfs_host_wait_block`.
///
/// # Safety
/// As said above; the memory is not used for another wait before it is zero again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_wait_abandon(wait: *mut npfs_host_wait) {
    // SAFETY: the caller's promise.
    let Some(place) = (unsafe { waiting(wait) }) else {
        return;
    };
    let place = place.as_ptr();
    // SAFETY: the thread is inside the wait for good: the record that it names is there, and `conn` was written by `begin`.
    unsafe {
        if (*place).wait.is_open() {
            (*place).wait.abandon();
            // 0: the thread is in the middle of the begin.
            if let Some(conn) = table::resume((*place).conn) {
                std::mem::ManuallyDrop::new(conn).settle_for_the_dead();
                table::give_up((*place).conn);
                (&raw mut (*place).conn).write(0);
            }
        }
    }
}

// ---- operations ------------------------------------------------------------------------------------------------------

/// One submitted operation, in memory of the host's: at one address, and untouched, from the call that answers
/// `NPFS_HOST_PENDING` until `complete` is called for it. What is in it is the library's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_host_op {
    /// Opaque.
    pub opaque: [u64; 32],
}

const _: () = assert!(
    size_of::<Submitted>() <= size_of::<npfs_host_op>()
        && align_of::<Submitted>() <= align_of::<npfs_host_op>()
);

/// Not ended by `npfs_host_exit_thread` (its completion is not the thread's).
pub const NPFS_HOST_KEEP: u32 = 1;
/// The operation has no event, so that it signals the end's file object: not signalled while it pends, signalled when it
/// completes (NP-IO-04, 05; `npfs_srv_watch`). Blocking calls always do.
pub const NPFS_HOST_SIGNAL: u32 = 2;

/// Submits a read of `len` bytes to user memory at `buf`, a write of those there, or a flush (`kind`). It tries first: with
/// `NPFS_HOST_OK` and `NPFS_HOST_MORE_DATA` it is done, `count` is written and `complete` is not called, nor is it for
/// an error. `NPFS_HOST_PENDING`: it has its place in the order of issue, and `complete` is called once, with `cookie`, in
/// `npfs_host_pump_run` or a cancel. `flags`: `NPFS_HOST_KEEP`, `NPFS_HOST_SIGNAL`. May allocate; with
/// `NPFS_HOST_NO_MEMORY` it was withdrawn again. Any thread.
///
/// # Safety
/// `op` can be written and is the library's while it pends; `count` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_submit(
    conn: npfs_host_conn,
    kind: u32,
    buf: usize,
    len: usize,
    cookie: u64,
    flags: u32,
    op: *mut npfs_host_op,
    count: *mut usize,
) -> npfs_host_status {
    status(|| match Plan::of(kind, buf, len) {
        // SAFETY: the caller's promise.
        Some(plan) => unsafe { submit(conn, plan, cookie, flags, op, count) },
        None => NPFS_HOST_INVALID,
    })
}

/// Submits a transact, as `npfs_host_submit`: `NPFS_HOST_PENDING` once the request is sent. Any thread.
///
/// # Safety
/// As of `npfs_host_submit`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_submit_transceive(
    conn: npfs_host_conn,
    request: usize,
    request_len: usize,
    reply: usize,
    reply_len: usize,
    cookie: u64,
    flags: u32,
    op: *mut npfs_host_op,
    count: *mut usize,
) -> npfs_host_status {
    let plan = Plan::Transact([request, request_len], [reply, reply_len]);
    // SAFETY: the caller's promise.
    status(|| unsafe { submit(conn, plan, cookie, flags, op, count) })
}

/// # Safety
/// As of [`npfs_host_submit`].
unsafe fn submit(
    conn: npfs_host_conn,
    plan: Plan,
    cookie: u64,
    flags: u32,
    op: *mut npfs_host_op,
    count: *mut usize,
) -> npfs_host_status {
    let place = op.cast::<Submitted>();
    if place.is_null() || !place.is_aligned() || flags & !(NPFS_HOST_KEEP | NPFS_HOST_SIGNAL) != 0 {
        return NPFS_HOST_INVALID;
    }
    with(conn, |host, used| {
        let mut task = Task::new();
        let signals = flags & NPFS_HOST_SIGNAL != 0;
        let place_of = (used.link().token(), used.slot());
        // Behind what has no place in line yet there is none for this one.
        let answer = if operations::is_behind(conn, place_of, plan) {
            None
        } else {
            task.advance(&used, plan.work(host))
        };
        if let Some(answer) = answer {
            if signals && answer.is_ok() {
                used.signal();
            }
            // SAFETY: the caller's promise.
            return unsafe { tell(answer, count) };
        }
        if signals {
            used.unsignal();
        }
        let submitted = Submitted {
            cookie,
            thread: npfs_ringbuf::thread_serial(),
            kept: flags & NPFS_HOST_KEEP != 0,
            signals,
            number: used.keep(),
            task,
            plan,
        };
        // SAFETY: writable, aligned, and the library's until it completes.
        unsafe { place.write(submitted) };
        if operations::add(place, conn, place_of) {
            return NPFS_HOST_PENDING;
        }
        // No memory to know it by. (Or, from the withdrawal, what it has come to meanwhile.)
        // SAFETY: just written, and known to nobody else. Its use is kept, and ends here.
        let (task, used) = unsafe { (&mut (*place).task, table::resume((*place).number)) };
        let Some(used) = used else {
            return NPFS_HOST_STALE;
        };
        let answer = task.withdraw(&used, plan.work(host), Error::NoMemory);
        if signals {
            used.signal();
        }
        // SAFETY: the caller's promise.
        unsafe { tell(answer, count) }
    })
}

/// Cancels operations that pend: on `conn` (0: on all), of the thread `thread` (0: of all), with the cookie `cookie` (if
/// `by_cookie` is not 0). Each of them completes once, with `NPFS_HOST_CANCELLED` or with the result that came first; most
/// before this returns. `count`: how many there were; none answers `NPFS_HOST_STALE` (STATUS_NOT_FOUND is the host's word).
/// Any thread.
///
/// # Safety
/// `count` can be written unless it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn npfs_host_cancel(
    conn: npfs_host_conn,
    thread: u32,
    by_cookie: i32,
    cookie: u64,
    count: *mut usize,
) -> npfs_host_status {
    status(|| {
        let filter = Filter {
            conn: (conn != 0).then_some(conn),
            thread: (thread != 0).then_some(thread),
            cookie: (by_cookie != 0).then_some(cookie),
            kept_too: true,
        };
        let found = operations::cancel(&filter);
        // SAFETY: the caller's promise.
        unsafe { put(count, found) };
        if found == 0 {
            NPFS_HOST_STALE
        } else {
            NPFS_HOST_OK
        }
    })
}

/// The thread `thread` (`npfs_host_thread` of it; 0: the calling one) ends, or has ended: its operations are cancelled, but for
/// those submitted with `NPFS_HOST_KEEP` (NP-CANCEL-08), and what it was in the middle of moving on is moved on by others.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_host_exit_thread(thread: u32) {
    let _ = status(|| {
        let thread = if thread == 0 {
            npfs_ringbuf::thread_serial()
        } else {
            operations::left_by(thread);
            thread
        };
        operations::cancel(&Filter {
            conn: None,
            thread: Some(thread),
            cookie: None,
            kept_too: false,
        });
        NPFS_HOST_OK
    });
}

/// Sleeps until `npfs_host_pump_run` has something to do, somebody kicks, or `deadline` (nanoseconds of CLOCK_MONOTONIC;
/// UINT64_MAX: never): then `NPFS_HOST_TIMED_OUT`. A futex wait on a word of each link; with more than 127 links it comes
/// back every millisecond. The host's pump thread, one at a time.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_host_pump_wait(deadline: u64) -> npfs_host_status {
    status(|| {
        let seen = ALARM.now();
        if operations::is_due() {
            return NPFS_HOST_OK;
        }
        let mut until = operations::soon(Deadline::at(deadline));
        let mut links = Vec::new();
        while let Some(link) = link(links.len()) {
            if try_push(&mut links, link).is_err() {
                // Nobody would tell of the others.
                until = until.min(Deadline::after(Duration::from_millis(1)));
                break;
            }
        }
        if wait_at_bells(links.iter().map(|link| &**link), &ALARM, seen, until)
            || !Deadline::at(deadline).passed()
        {
            NPFS_HOST_OK
        } else {
            NPFS_HOST_TIMED_OUT
        }
    })
}

/// Moves on what can be moved on, and completes what is done: at most `most` completions (0: all). How many there were. Never
/// waits but for the host's copies. The host's pump thread, one at a time.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_host_pump_run(most: usize) -> usize {
    guard_or(0, || {
        operations::run(if most == 0 { usize::MAX } else { most })
    })
}

/// Wakes the thread in `npfs_host_pump_wait`, or the next one that comes. Any thread; async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn npfs_host_pump_kick() {
    ALARM.ring();
}
