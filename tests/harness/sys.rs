//! The system calls the tests need and std lacks: memory seen as an attacker sees it, stopped children, odd
//! descriptors.

use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A mapping of a whole memfd through which a test writes what a hostile peer might.
pub struct Map {
    raw: MmapRaw,
}

impl Map {
    /// Maps all of it, shared and writable.
    ///
    /// # Errors
    /// Those of mmap.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Map> {
        let file = File::from(fd.try_clone_to_owned()?);
        let raw = MmapOptions::new().map_raw(&file)?;
        Ok(Map { raw })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// `true` if nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.raw.len() == 0
    }

    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(size) && offset + size <= self.raw.len(),
            "inside, and aligned"
        );
        // SAFETY: `offset + size` lies inside the mapping, as just checked.
        unsafe { self.raw.as_mut_ptr().add(offset) }
    }

    /// The word at a byte offset, a multiple of 4. It may be handed to futex calls.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned, valid for every bit pattern, alive as long as `self`.
        unsafe { &*self.at(offset, 4).cast::<AtomicU32>() }
    }

    /// The double word at a byte offset, a multiple of 8.
    pub fn double(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `word`.
        unsafe { &*self.at(offset, 8).cast::<AtomicU64>() }
    }

    /// The half word at a byte offset, a multiple of 2.
    pub fn half(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as in `word`.
        unsafe { &*self.at(offset, 2).cast::<AtomicU16>() }
    }

    /// The byte at an offset.
    pub fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: as in `word`.
        unsafe { &*self.at(offset, 1).cast::<AtomicU8>() }
    }

    /// Moves every sleeper of the word at `from` to the word `to`: FUTEX_CMP_REQUEUE, waking nobody. Answers how many
    /// were moved.
    pub fn requeue(&self, from: usize, to: &AtomicU32) -> usize {
        let word = self.word(from);
        // SAFETY: both words are alive and aligned; the kernel writes to neither.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_CMP_REQUEUE,
                0,
                libc::c_long::from(i32::MAX),
                to.as_ptr(),
                word.load(Ordering::Relaxed),
            )
        };
        usize::try_from(moved).unwrap_or(0)
    }
}

/// Bytes of memory a file occupies.
///
/// # Panics
/// If fstat fails.
pub fn occupied(fd: BorrowedFd<'_>) -> u64 {
    let file = File::from(fd.try_clone_to_owned().expect("a duplicate"));
    file.metadata().expect("fstat").blocks() * 512
}

/// The extents of a sparse file that hold memory: (offset, length) in bytes.
///
/// # Panics
/// If lseek fails in another way than by finding no more data.
pub fn extents(fd: BorrowedFd<'_>) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        // SAFETY: plain system calls on a descriptor that is open for the length of the borrow.
        let data = unsafe { libc::lseek(fd.as_raw_fd(), at, libc::SEEK_DATA) };
        if data < 0 {
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENXIO));
            return found;
        }
        // SAFETY: as above.
        let hole = unsafe { libc::lseek(fd.as_raw_fd(), data, libc::SEEK_HOLE) };
        assert!(hole > data, "lseek: {}", io::Error::last_os_error());
        let as_size = |n: libc::off_t| usize::try_from(n).expect("an offset");
        found.push((as_size(data), as_size(hole - data)));
        at = hole;
    }
}

/// memfd_create with these flags and this length in bytes.
///
/// # Errors
/// Those of memfd_create and ftruncate.
pub fn memfd(flags: libc::c_uint, len: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the answer is checked before it is used as a descriptor.
    let fd = unsafe { libc::memfd_create(c"npfs-test".as_ptr(), flags | libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let file = File::from(fd);
    file.set_len(len)?;
    Ok(file.into())
}

/// Adds seals (F_ADD_SEALS).
///
/// # Errors
/// Those of fcntl.
pub fn seal(fd: BorrowedFd<'_>, seals: i32) -> io::Result<()> {
    // SAFETY: a plain system call on an open descriptor.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An eventfd.
///
/// # Errors
/// Those of eventfd.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the answer is checked before use.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds the calling thread (and those it starts) to one CPU.
///
/// # Errors
/// Those of sched_setaffinity.
pub fn bind(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `CPU_SET` ignores a CPU beyond the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is read for its own size.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The CPUs that the calling thread may run on.
pub fn cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is written for its own size; an empty one is as good as none.
    unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    // SAFETY: below the size of the set.
    let has = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    (0..libc::CPU_SETSIZE as usize).filter(has).collect()
}

/// Sends a signal to one process, which must be this process's own child.
///
/// # Errors
/// Those of kill.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    assert!(pid > 1, "one process, never a group");
    // SAFETY: a plain system call.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks for SIGKILL when the thread that made this process ends.
pub fn die_with_parent() {
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// What waitid can tell of a child without reaping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// it is stopped
    Stopped,
    /// it has ended
    Exited,
    /// neither, in the time given
    Running,
}

/// Waits until a child has stopped or ended; it stays to be reaped.
pub fn watch(pid: u32, limit: Duration) -> Seen {
    let mut seen = Seen::Running;
    crate::time::until(limit, || {
        // SAFETY: an all-zero siginfo_t is valid, and waitid fills it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let what = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is ours and large enough.
        let answer = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, what) };
        // SAFETY: after a successful waitid these fields are set, or zero if there was nothing to tell.
        let told = answer == 0 && unsafe { info.si_pid() } != 0;
        if told {
            seen = match info.si_code {
                libc::CLD_STOPPED | libc::CLD_TRAPPED => Seen::Stopped,
                _ => Seen::Exited,
            };
        }
        told
    });
    seen
}

/// How many descriptors this process has open.
///
/// # Panics
/// If /proc is not there.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("/proc/self/fd")
        .count()
}

/// How many mappings this process has.
///
/// # Panics
/// If /proc is not there.
pub fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .expect("/proc/self/maps")
        .lines()
        .count()
}

/// Runs `child` in a child of fork(2), and answers its exit status; `None`: a signal has ended it.
///
/// # Errors
/// Those of fork and waitpid.
pub fn in_a_fork(child: impl FnOnce() -> u8) -> io::Result<Option<u8>> {
    // SAFETY: the child runs one closure, of the test's own, in a copy of this thread alone, and leaves without running
    // anything else; the allocator sees to itself over fork(2).
    let pid = unsafe { libc::fork() };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: ends the process, without its exit handlers.
            unsafe { libc::_exit(i32::from(code)) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: our own child, and a status to write to.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            if waited < 0 {
                return Err(io::Error::last_os_error());
            }
            let code = u8::try_from(libc::WEXITSTATUS(status)).ok();
            Ok(code.filter(|_| libc::WIFEXITED(status)))
        }
    }
}

/// Shuts every socket of this process down.
///
/// # Panics
/// Without /proc.
pub fn shut_sockets() {
    for entry in std::fs::read_dir("/proc/self/fd").expect("proc").flatten() {
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        if let (true, Ok(fd)) = (is_socket, number) {
            // SAFETY: takes a number; a descriptor that has gone meanwhile is an error.
            let _ = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        }
    }
}

/// CPU time of this process, all threads.
///
/// # Panics
/// Never, on Linux.
pub fn process_cpu_time() -> std::time::Duration {
    cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling thread.
///
/// # Panics
/// Never, on Linux.
pub fn thread_cpu_time() -> std::time::Duration {
    cpu_time(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu_time(clock: libc::clockid_t) -> std::time::Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a timespec to write to.
    let got = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(got, 0, "clock_gettime");
    let seconds = u64::try_from(time.tv_sec).expect("not negative");
    let nanos = u32::try_from(time.tv_nsec).expect("below 10^9");
    std::time::Duration::new(seconds, nanos)
}

/// Whether there is something to read, or comes within so many milliseconds.
///
/// # Panics
/// If poll fails.
pub fn is_readable(fd: BorrowedFd<'_>, millis: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, read and written during the call.
    let got = unsafe { libc::poll(&raw mut poll, 1, millis) };
    assert!(got >= 0, "poll: {}", io::Error::last_os_error());
    got == 1
}

/// Puts a program that is about to be run under a filter (seccomp(2)) that answers EPERM to io_uring_setup(2).
pub fn forbid_io_uring(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let call = u32::try_from(libc::SYS_io_uring_setup).expect("a number of a call");
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let code = |code: u32| u16::try_from(code).expect("16 bits");
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = code(libc::BPF_RET | libc::BPF_K);
    // SAFETY: these only put four numbers together.
    let mut filter = unsafe {
        [
            libc::BPF_STMT(load, 0), // seccomp_data.nr
            libc::BPF_JUMP(equal, call, 0, 1),
            libc::BPF_STMT(answer, refused),
            libc::BPF_STMT(answer, libc::SECCOMP_RET_ALLOW),
        ]
    };
    let install = move || {
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: both calls only concern the calling process, and read the program during the call.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) != 0
        };
        if refused {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls and touches nothing but its own numbers.
    unsafe { command.pre_exec(install) };
}
