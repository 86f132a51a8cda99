//! System calls that std has no safe form of: one function a call, owned descriptors out, EINTR tried again. UNSAFE.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "lengths are of buffers a few hundred kilobytes long, and the C types differ between targets"
)]

use std::{
    cell::UnsafeCell,
    ffi::{CStr, OsStr, c_void},
    fmt, io,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use npfs_ringbuf::{Shared, try_box};

/// The number of a system call's error. It owns nothing: an `io::Error` might, for all that a compiler knows, and what is
/// dropped then might panic, which a host's server must not (`npfs_host.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    /// Of the last call of this thread that failed.
    #[inline]
    pub(crate) fn last() -> Errno {
        // SAFETY: the place is this thread's own, and there as long as the thread is.
        Errno(unsafe { *libc::__errno_location() })
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

fn check_size(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// # Safety
/// `fd` is a fresh descriptor that nobody else owns, or negative.
unsafe fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: not negative, hence open; the caller promises that it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// ---- sockets ---------------------------------------------------------------------------------------------------

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: numbers in, a fresh descriptor out.
    unsafe { own(libc::socket(libc::AF_UNIX, kind, 0)) }
}

/// The address of a path, and its length. unix(7): at most 107 bytes.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = OsStr::as_bytes(path.as_os_str());
    // SAFETY: plain data for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() >= address.sun_path.len() || bytes.is_empty() || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a socket's path has 1 to 107 bytes, this one {}",
                bytes.len()
            ),
        ));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, length as libc::socklen_t))
}

/// A socket that listens at `path`. The file must not exist.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let (address, length) = address(path)?;
    let fd = socket()?;
    set_nonblocking(fd.as_fd())?;
    // SAFETY: the address is a sockaddr_un of at least that length.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: a descriptor and a number.
    check(unsafe { libc::listen(fd.as_raw_fd(), 4096) })?;
    Ok(fd)
}

/// A socket connected to the one that listens at `path`.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (address, length) = address(path)?;
    let fd = socket()?;
    // SAFETY: as in `listen`.
    again(|| check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(fd)
}

/// Two sockets connected to each other; the first does not block.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: an array of two for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both are fresh and ours.
    let pair = unsafe { (own(fds[0])?, own(fds[1])?) };
    set_nonblocking(pair.0.as_fd())?;
    Ok(pair)
}

/// The next connection, which does not block.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    again(|| {
        // SAFETY: no address is asked for; the descriptor that comes is ours.
        unsafe {
            own(libc::accept4(
                fd.as_raw_fd(),
                ptr::null_mut(),
                ptr::null_mut(),
                flags,
            ))
        }
    })
}

/// Ends both directions of a socket, for whoever else has it too.
pub(crate) fn shutdown(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a descriptor and a number.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) })?;
    Ok(())
}

/// Whether it is a socket of this library's kind that listens.
pub(crate) fn is_listener(fd: BorrowedFd<'_>) -> bool {
    option::<libc::c_int>(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_SEQPACKET)
        && option::<libc::c_int>(fd, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens != 0)
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a descriptor and numbers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Sends one message, with a descriptor beside it.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    message: &[u8],
    beside: Option<BorrowedFd<'_>>,
    wait: bool,
) -> io::Result<()> {
    let mut control = Control::new();
    let mut part = libc::iovec {
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: message.len(),
    };
    // SAFETY: plain data for which zero is valid.
    let mut head: libc::msghdr = unsafe { mem::zeroed() };
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    if let Some(beside) = beside {
        head.msg_control = control.0.as_mut_ptr().cast();
        head.msg_controllen = Control::LEN as _;
        // SAFETY:
        // - The control buffer is aligned for cmsghdr and has room for one header and one descriptor.
        // - CMSG_FIRSTHDR is not null then.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const head);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(first).cast(), beside.as_raw_fd());
        }
    }
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the header points to live buffers of the lengths that it says; the kernel only reads them.
    let sent =
        again(|| check_size(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const head, flags) }))?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            "a message was cut short",
        ))
    }
}

/// Receives one message: its length, and the descriptor beside it. 0: the other side has gone. A message longer than
/// the buffer is an error; a descriptor for which this process has no room is left out, as are all but one.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    wait: bool,
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = Control::new();
    let mut part = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: plain data for which zero is valid.
    let mut head: libc::msghdr = unsafe { mem::zeroed() };
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    head.msg_control = control.0.as_mut_ptr().cast();
    head.msg_controllen = Control::LEN as _;
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the header points to live buffers of the lengths that it says.
    let received =
        again(|| check_size(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut head, flags) }))?;
    let mut beside = None;
    // SAFETY:
    // - The kernel has filled the control buffer up to msg_controllen with whole headers; the CMSG macros stay inside.
    // - Each descriptor of SCM_RIGHTS is fresh and ours; all of them become owned, so none is lost.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const head);
        while !at.is_null() {
            if (*at).cmsg_level == libc::SOL_SOCKET && (*at).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*at).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(at).cast::<RawFd>();
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    beside = Some(own(ptr::read_unaligned(data.add(index)))?);
                }
            }
            at = libc::CMSG_NXTHDR(&raw const head, at);
        }
    }
    if head.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is too long",
        ));
    }
    Ok((received, beside))
}

/// Room for one descriptor in a control message.
#[repr(align(8))]
struct Control([MaybeUninit<u8>; Control::LEN]);

impl Control {
    // SAFETY: arithmetic only.
    const LEN: usize = unsafe { libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) as usize };

    fn new() -> Control {
        Control([MaybeUninit::zeroed(); Control::LEN])
    }
}

// ---- who is there ----------------------------------------------------------------------------------------------

fn option<T>(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T>
where
    T: Copy + Default,
{
    let mut value = T::default();
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes; callers ask for plain integers only.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// Process, user and group of whoever connected (SO_PEERCRED).
pub(crate) fn peer(fd: BorrowedFd<'_>) -> io::Result<(u32, u32, u32)> {
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    struct Ucred {
        pid: i32,
        uid: u32,
        gid: u32,
    }
    let peer: Ucred = option(fd, libc::SO_PEERCRED)?;
    let pid = u32::try_from(peer.pid).unwrap_or(0);
    Ok((pid, peer.uid, peer.gid))
}

/// Its supplementary groups (SO_PEERGROUPS, Linux 4.13); none where that is missing.
pub(crate) fn peer_groups(fd: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = (groups.len() * 4) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into a buffer of that length.
        let answer = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / 4;
        if answer == 0 {
            groups.truncate(count);
            return groups;
        }
        let too_short = io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE);
        if !too_short || count <= groups.len() {
            return Vec::new();
        }
        groups.resize(count, 0);
    }
}

/// A pidfd of whoever connected. SO_PEERPIDFD (Linux 6.5) cannot name another process that has the number by now;
/// pidfd_open(2) is the next best. `None`: it has exited already, or cannot be named from here.
pub(crate) fn peer_pidfd(fd: BorrowedFd<'_>, pid: u32) -> io::Result<Option<OwnedFd>> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let pidfd = option::<RawFd>(fd, SO_PEERPIDFD);
    if let Ok(pidfd) = pidfd {
        // SAFETY: fresh from the kernel, and ours.
        return unsafe { own(pidfd) }.map(Some);
    }
    // SAFETY: numbers in, a fresh descriptor out.
    let opened = unsafe { own(libc::syscall(libc::SYS_pidfd_open, pid, 0) as libc::c_int) };
    match opened.map_err(|error| (error.raw_os_error(), error)) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err((Some(libc::ESRCH | libc::EINVAL | libc::ENOSYS), _)) => Ok(None),
        Err((_, error)) => Err(error),
    }
}

/// Whether the process of a pidfd has exited.
pub(crate) fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    poll(pidfd, libc::POLLIN, Some(0)).unwrap_or(false)
}

/// This process, as others hear of it.
pub(crate) fn own_identity() -> crate::wire::Peer {
    // SAFETY: neither takes anything, and neither can fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    crate::wire::Peer {
        pid: std::process::id(),
        uid,
        gid,
        session: session_of(0),
    }
}

/// How many times this process has been forked off since its first ancestor asked: to tell, without a system call, whether
/// something was opened by this very process.
#[inline]
pub(crate) fn forks() -> u32 {
    static FORKS: AtomicU32 = AtomicU32::new(0);
    static WATCHED: AtomicBool = AtomicBool::new(false);
    extern "C" fn in_the_child() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    // Two threads that both find nobody watching make each fork count twice, which is as good.
    if !WATCHED.load(Ordering::Acquire) {
        // SAFETY: the handler is a function that stays, and does nothing but count. After a refusal (no memory) the next who
        // asks tries again.
        let refused = unsafe { libc::pthread_atfork(None, None, Some(in_the_child)) };
        WATCHED.store(refused == 0, Ordering::Release);
    }
    FORKS.load(Ordering::Relaxed)
}

/// The session of a process (getsid(2)), of this one for 0; 0 if it cannot be told.
pub(crate) fn session_of(pid: u32) -> u32 {
    // SAFETY: numbers in, a number out.
    let session = unsafe { libc::getsid(pid as libc::pid_t) };
    u32::try_from(session).unwrap_or(0)
}

/// Whether no process of that number runs any more; one that is dead and not reaped yet does not.
pub(crate) fn process_has_exited(pid: u32) -> bool {
    // SAFETY: numbers in, a fresh descriptor out.
    let opened = unsafe { own(libc::syscall(libc::SYS_pidfd_open, pid, 0) as libc::c_int) };
    match opened {
        Ok(pidfd) => has_exited(pidfd.as_fd()),
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// Calls with every signal blocked in this thread: a thread that is begun in there never runs a program's handlers.
pub(crate) fn without_signals<T>(call: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: sigfillset(3) makes a set of what it is given; pthread_sigmask(3) reads it and writes the other.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
    }
    let answer = call();
    // SAFETY: `before` was written above; with these arguments the call cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    answer
}

/// A value behind a lock of pthread's, which has no code that panics. (Of std's locks no compiler knows that before it sees
/// all crates at once.)
pub(crate) struct Lock<T> {
    /// Where it stays.
    mutex: Box<UnsafeCell<libc::pthread_mutex_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: whoever has the lock has the value to itself.
unsafe impl<T: Send> Send for Lock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// `None`: there is no memory.
    pub(crate) fn new(value: T) -> Option<Lock<T>> {
        let mutex = try_box(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)).ok()?;
        let value = UnsafeCell::new(value);
        Some(Lock { mutex, value })
    }

    /// Waits for its turn; from within such a call, for ever.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut T) -> R) -> R {
        /// Lets it go.
        struct Held<'a>(&'a UnsafeCell<libc::pthread_mutex_t>);
        impl Drop for Held<'_> {
            #[inline]
            fn drop(&mut self) {
                // SAFETY: this thread has locked it.
                unsafe { libc::pthread_mutex_unlock(self.0.get()) };
            }
        }
        // SAFETY: a mutex that stays where it is. A plain one does not refuse; who has it already waits for itself.
        unsafe { libc::pthread_mutex_lock(self.mutex.get()) };
        let _held = Held(&self.mutex);
        // SAFETY: locked, and nobody else has a reference before `_held` goes.
        call(unsafe { &mut *self.value.get() })
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// What a [`Thread`] does.
pub(crate) trait Run: Send + Sync + 'static {
    fn run(&self);
}

/// A thread with all signals blocked, which runs until it has done what it is for: whoever drops this waits for that. (Not
/// one of std's, which ends the process where there is no memory for it.)
#[derive(Debug)]
pub(crate) struct Thread {
    id: libc::pthread_t,
    forks: u32,
}

impl Thread {
    pub(crate) fn start<R: Run>(
        name: &CStr,
        stack: usize,
        what: Shared<R>,
    ) -> Result<Thread, Errno> {
        extern "C" fn begin<R: Run>(what: *mut c_void) -> *mut c_void {
            if let Some(what) = ptr::NonNull::new(what) {
                // SAFETY: of `into_raw`, below; the thread has it to itself.
                unsafe { Shared::<R>::from_raw(what) }.run();
            }
            ptr::null_mut()
        }
        let what = Shared::into_raw(what);
        let mut id = MaybeUninit::uninit();
        let mut attributes = MaybeUninit::uninit();
        // SAFETY:
        // - The attributes are made before they are used, and done with after that; without any is the usual way. A size that is
        //   refused leaves the usual one.
        // - The new thread runs `begin` of the type that `what` is, if there is one.
        let refused = without_signals(|| unsafe {
            let refused = libc::pthread_attr_init(attributes.as_mut_ptr());
            if refused != 0 {
                return refused;
            }
            libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack);
            let mut create = |attributes| {
                libc::pthread_create(id.as_mut_ptr(), attributes, begin::<R>, what.as_ptr())
            };
            let mut refused = create(attributes.as_ptr());
            if refused == libc::EINVAL {
                // The stack is too small for what this program keeps for each thread.
                refused = create(ptr::null());
            }
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            refused
        });
        if refused != 0 {
            // SAFETY: of `into_raw`, and no thread has it.
            drop(unsafe { Shared::<R>::from_raw(what) });
            return Err(Errno(refused));
        }
        // SAFETY: written by the call that succeeded; the thread is not joined yet, so the number is its.
        let id = unsafe {
            let id = id.assume_init();
            libc::pthread_setname_np(id, name.as_ptr());
            id
        };
        Ok(Thread { id, forks: forks() })
    }

    /// Whether it runs in this process: a child of fork(2) has not its parent's threads.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.forks == forks()
    }
}

impl Drop for Thread {
    #[inline]
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: a thread of this process that nobody has joined, nor does again.
            unsafe { libc::pthread_join(self.id, ptr::null_mut()) };
        }
    }
}

/// Waits for events on one descriptor, for so many milliseconds. `false`: the time is over.
pub(crate) fn poll(
    fd: BorrowedFd<'_>,
    events: libc::c_short,
    milliseconds: Option<i32>,
) -> io::Result<bool> {
    poll_which(fd, events, milliseconds).map(|ready| ready != 0)
}

/// The same, and which of them; errors and ends count as whatever was asked for.
pub(crate) fn poll_which(
    fd: BorrowedFd<'_>,
    events: libc::c_short,
    milliseconds: Option<i32>,
) -> io::Result<libc::c_short> {
    let mut one = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd, and the number 1. EINTR goes to the caller, who knows how much time is left.
    check(unsafe { libc::poll(&raw mut one, 1, milliseconds.unwrap_or(-1)) })?;
    Ok(one.revents)
}

/// User of this process.
pub(crate) fn uid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getuid() }
}

/// Lets this process have as many descriptors as it may.
pub(crate) fn raise_descriptor_limit() {
    // SAFETY: plain data, read and written within its size.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn now() -> u64 {
    // SAFETY: plain data, written within its size.
    let time = unsafe {
        let mut time: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// ---- eventfd, epoll, locks -------------------------------------------------------------------------------------

/// A counter to wake a loop with.
pub(crate) fn eventfd() -> Result<OwnedFd, Errno> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: fresh from the kernel, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Wakes whoever polls it.
#[inline]
pub(crate) fn ring(eventfd: BorrowedFd<'_>) {
    let one = 1_u64;
    // SAFETY: eight bytes from a live integer. EAGAIN: it is rung already.
    let _ = unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Takes the count back to zero.
#[inline]
pub(crate) fn unring(eventfd: BorrowedFd<'_>) {
    let mut count = 0_u64;
    // SAFETY: eight bytes into a live integer.
    let _ = unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
}

pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: a number in, a fresh descriptor out.
    unsafe { own(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }
}

/// Watches a descriptor, edge-triggered.
pub(crate) fn epoll_add(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    events: i32,
    key: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: (events | libc::EPOLLET) as u32,
        u64: key,
    };
    // SAFETY: a live event that the kernel reads.
    check(unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            &raw mut event,
        )
    })?;
    Ok(())
}

pub(crate) fn epoll_remove(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    // SAFETY: removing takes no event (Linux 2.6.9); a descriptor that is not watched is an error and no harm.
    let _ = unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            ptr::null_mut(),
        )
    };
}

/// The keys of what is ready; nothing if the time (milliseconds) is over or a signal came.
pub(crate) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    milliseconds: i32,
    ready: &mut Vec<u64>,
) -> io::Result<()> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    // SAFETY: room for as many events as are asked for.
    let count = check(unsafe {
        libc::epoll_wait(
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as libc::c_int,
            milliseconds,
        )
    });
    match count {
        Ok(count) => {
            ready.extend(events[..count as usize].iter().map(|event| event.u64));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes a lock on a file; `false`: somebody has it. It goes with the descriptor.
pub(crate) fn lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: a descriptor and numbers.
    match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// A descriptor that was passed on by number (socket activation).
///
/// # Safety
/// Nobody else in this process owns that number.
pub(crate) unsafe fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; it fails where there is no such descriptor.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the caller promises the rest.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
