//! UNSAFE: the system calls that std does not offer, and the mapping that the baselines share.
//!
//! One function per call; everything above this file reads and writes shared memory through
//! [`Shared`], and never sees a raw descriptor.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// Bytes of a page on every machine that this harness supports.
pub(crate) const PAGE: usize = 4096;

/// Descriptors that one frame of the control socket may carry.
pub(crate) const MAX_FDS: usize = 4;

/// CPUs that this process may run on, ascending.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is plain bits, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    check(unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) })?;
    // SAFETY: CPU_ISSET reads a bit of `set` for an index below its number of bits.
    Ok((0..mem::size_of_val(&set) * 8)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Ties the calling thread, and those that it starts, to these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: a `cpu_set_t` is plain bits, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus {
        if cpu >= mem::size_of_val(&set) * 8 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the index was checked against the number of bits above.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    check(unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) }).map(drop)
}

/// Asks the kernel to kill this process as soon as its parent is gone: a worker that spins on
/// shared memory would otherwise never notice.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes two integers and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// A connected pair of SOCK_SEQPACKET sockets.
pub(crate) fn seqpacket_pair() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that the call writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both descriptors are new and belong to nobody else.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// A memfd of `len` zero bytes.
pub(crate) fn memfd(name: &CStr, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string that outlives the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the descriptor is new and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes integers only.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), len) })?;
    Ok(fd)
}

/// Sleeps while `word` holds `expected`; returns at a wake, a signal, or at once.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: `word` is an aligned, mapped `u32`; no timeout. Every outcome, errors included,
    // means "look again", so the result is not needed.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            ptr::null::<u8>(),
        );
    }
}

/// Wakes one sleeper of `word`, if there is any.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: `word` is an aligned, mapped `u32`.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}

/// Waits until one of `fds` can be read (or was hung up); `false` for each when `timeout` passes.
pub(crate) fn poll_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up, so that a caller who loops until its deadline does not loop hot.
    let millis = i32::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
    // SAFETY: pointer and count describe `polled`, which outlives the call.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, millis) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
        Ok(_) => Ok(polled.map(|entry| entry.revents != 0)),
    }
}

/// Room for the control message of [`MAX_FDS`] descriptors, aligned for its header.
#[repr(C, align(8))]
struct ControlRoom([u8; 64]);

/// Sends `byte` with descriptors attached (none is fine).
pub(crate) fn send_fds(socket: &UnixStream, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(
        fds.len() <= MAX_FDS,
        "more descriptors than a frame carries"
    );
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let bytes = u32::try_from(mem::size_of_val(raw.as_slice())).expect("at most 16 bytes");
    let mut byte = byte;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut room = ControlRoom([0; 64]);
    // SAFETY: a `msghdr` of zeros is valid: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !raw.is_empty() {
        message.msg_control = room.0.as_mut_ptr().cast();
        // SAFETY:
        // - CMSG_SPACE computes; four descriptors need 32 of the 64 bytes of `room`.
        // - CMSG_FIRSTHDR answers the start of `room`, aligned and large enough for a header and
        //   the descriptors copied behind it.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(bytes) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
            let data = libc::CMSG_DATA(header);
            ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), data, bytes as usize);
        }
    }
    loop {
        // SAFETY: `message` points at `part`, `byte` and `room`, all alive here.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) };
        match io::Error::last_os_error() {
            _ if sent == 1 => return Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// Receives one byte and the descriptors that came with it. End of file is `UnexpectedEof`.
pub(crate) fn recv_fds(socket: &UnixStream) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = 0_u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut room = ControlRoom([0; 64]);
    // SAFETY: a `msghdr` of zeros is valid: no name, no parts, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = room.0.as_mut_ptr().cast();
    message.msg_controllen = room.0.len() as _;
    loop {
        let flags = libc::MSG_CMSG_CLOEXEC;
        // SAFETY: `message` points at `part`, `byte` and `room`, all alive here.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
        match io::Error::last_os_error() {
            _ if got == 1 => break,
            _ if got == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
    let mut fds = Vec::new();
    // SAFETY:
    // - The kernel wrote whole control messages into `room` and their length into `message`;
    //   CMSG_FIRSTHDR answers null if there is none.
    // - The descriptors of an SCM_RIGHTS message are new in this process and owned by nobody.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for index in 0..bytes / mem::size_of::<RawFd>() {
                fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
            }
        }
    }
    Ok((byte, fds))
}

/// The time-stamp counter, in its own ticks. Not serialising: the few instructions around it may
/// move, which is less than a fence would cost.
#[cfg(target_arch = "x86_64")]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86_64 CPU has the instruction; `Clock` uses it only where it is steady.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Memory shared by the two workers: one control page, then `data` bytes, mapped twice in a row,
/// so that a frame that crosses the end is contiguous all the same.
///
/// Both workers are ours and trusted; who may touch which bytes when is the transport's business.
#[derive(Debug)]
pub(crate) struct Shared {
    base: NonNull<u8>,
    data: usize,
}

// SAFETY: the mapping belongs to the value and may be used from any thread; its accessors are
// atomics or copies whose callers state who else touches the bytes.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Shared {
    /// The memory behind a [`Shared`] of `data` bytes, rounded up to pages.
    pub(crate) fn create(name: &CStr, data: usize) -> io::Result<OwnedFd> {
        memfd(name, PAGE + data.next_multiple_of(PAGE))
    }

    /// Maps memory made by [`Shared::create`] with the same `data`, and faults all of it in.
    pub(crate) fn map(fd: &OwnedFd, data: usize) -> io::Result<Shared> {
        let data = data.next_multiple_of(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping, without an address asked for.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE + 2 * data,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let shared = Shared { base, data };
        shared.place(fd, 0, PAGE + data, 0)?;
        shared.place(fd, PAGE + data, data, PAGE)?;
        Ok(shared)
    }

    fn place(&self, fd: &OwnedFd, at: usize, len: usize, offset: usize) -> io::Result<()> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
        // SAFETY: `at..at + len` lies in the range that `map` reserved and nothing else uses, so
        // MAP_FIXED replaces only that.
        let placed = unsafe {
            let address = self.base.as_ptr().add(at).cast();
            libc::mmap(address, len, protection, flags, fd.as_raw_fd(), offset)
        };
        if placed == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Bytes of data, before they repeat.
    pub(crate) fn capacity(&self) -> usize {
        self.data
    }

    /// The `u64` at byte `at` of the control page.
    pub(crate) fn control(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at < PAGE);
        // SAFETY: aligned, inside the control page, mapped as long as `self`; any bits are a
        // valid atomic, whoever stores them.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// The `u32` at the start of the data.
    #[inline]
    pub(crate) fn flag(&self) -> &AtomicU32 {
        // SAFETY: aligned to a page, inside the data; any bits are a valid atomic.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(PAGE).cast()) }
    }

    /// The `u64` at byte `at` of the data.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at < 2 * self.data);
        // SAFETY: aligned, and inside the data or its repetition: the rings keep `at` below
        // `capacity`. Any bits are a valid atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(PAGE + at).cast()) }
    }

    /// Copies `bytes` to byte `at` of the data.
    ///
    /// The caller's protocol makes sure that the other process does not touch the range now.
    #[inline]
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= 2 * self.data);
        // SAFETY: inside the data or its repetition (`at < capacity`, and a message is no longer
        // than the data); `bytes` is private memory, so the ranges do not overlap.
        unsafe {
            let to = self.base.as_ptr().add(PAGE + at);
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Copies bytes from byte `at` of the data into `out`; the caller's protocol as for `put`.
    #[inline]
    pub(crate) fn get(&self, at: usize, out: &mut [u8]) {
        debug_assert!(at + out.len() <= 2 * self.data);
        // SAFETY: as in `put`, the other way about.
        unsafe {
            let from = self.base.as_ptr().add(PAGE + at);
            ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the whole range was mapped by `map`, and nothing borrowed from it outlives self.
        unsafe { libc::munmap(self.base.as_ptr().cast(), PAGE + 2 * self.data) };
    }
}

/// Turns the answer of a system call into a result.
fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// Duplicates a descriptor, so that each end owns one.
pub(crate) fn duplicate(fd: &impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// CPU time of this process, all threads.
pub(crate) fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a timespec to write to. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_repeats_behind_its_end() {
        let fd = Shared::create(c"test", 100).unwrap();
        let shared = Shared::map(&fd, 100).unwrap();
        assert_eq!(shared.capacity(), PAGE);
        shared.put(PAGE - 4, b"abcdefgh");
        let mut front = [0; 4];
        shared.get(0, &mut front);
        assert_eq!(&front, b"efgh");
    }

    #[test]
    fn descriptors_travel_with_a_byte() {
        let (here, there) = UnixStream::pair().unwrap();
        let fd = Shared::create(c"test", 8).unwrap();
        Shared::map(&fd, 8).unwrap().put(0, b"x");
        send_fds(&here, 7, &[fd.as_fd()]).unwrap();
        let (byte, mut fds) = recv_fds(&there).unwrap();
        assert_eq!((byte, fds.len()), (7, 1));
        let mut got = [0];
        Shared::map(&fds.remove(0), 8).unwrap().get(0, &mut got);
        assert_eq!(&got, b"x");
        drop(here);
        assert_eq!(
            recv_fds(&there).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
