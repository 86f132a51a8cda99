//! futex(2) and futex_waitv(2), the clock that their deadlines are read against, and the threads that wait. UNSAFE.
//!
//! Shared futexes only, for process-local words too: the same word may be waited on through io_uring, where kernels
//! since 6.16 can lose a private wait.

use crate::sync::AtomicU32;

/// CLOCK_MONOTONIC, nanoseconds.
#[cfg(not(loom))]
#[inline]
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "the monotonic clock is not negative; time_t differs between targets"
    )]
    {
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Why a wait came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woke {
    /// Rung while asleep, or about to be.
    Woken,
    /// Interrupted, or the word was another already: look again.
    Look,
    /// The deadline has passed.
    TimedOut,
}

/// Waits until one of two words is not the value that goes with it, one of them is rung, or the deadline has passed.
///
/// The second word is the caller's own, in private memory: a hostile peer can requeue a sleeper away from a word in
/// shared memory, but not from this one.
#[cfg(all(not(loom), not(miri)))]
pub(crate) fn wait(
    shared: &AtomicU32,
    shared_value: u32,
    own: &AtomicU32,
    own_value: u32,
    deadline: crate::Deadline,
) -> Woke {
    use crate::sync::process;

    if NO_WAITV.load(process::Ordering::Relaxed) == 0 {
        let waiters = [waiter(shared, shared_value), waiter(own, own_value)];
        match waitv(&waiters, deadline.0) {
            Ok(_) => return Woke::Woken,
            Err(libc::ETIMEDOUT) => return Woke::TimedOut,
            Err(libc::ENOSYS | libc::EPERM) => NO_WAITV.store(1, process::Ordering::Relaxed),
            Err(_) => return Woke::Look,
        }
    }
    // No futex_waitv (before Linux 5.16, valgrind, some sandboxes): slices of 100 ms on the shared word, between which
    // the own word is looked at.
    if own.load(crate::sync::Ordering::Acquire) != own_value {
        return Woke::Look;
    }
    let slice = deadline.0.min(now().saturating_add(100_000_000));
    match wait_one(shared, shared_value, slice) {
        Ok(()) => Woke::Woken,
        Err(libc::ETIMEDOUT) if slice == deadline.0 => Woke::TimedOut,
        _ => Woke::Look,
    }
}

/// Whether the kernel, or who stands before it, has refused futex_waitv(2).
#[cfg(all(not(loom), not(miri)))]
static NO_WAITV: crate::sync::process::AtomicU32 = crate::sync::process::AtomicU32::new(0);

/// Words that one call may wait on (FUTEX_WAITV_MAX).
#[cfg(not(loom))]
pub(crate) const MOST_WORDS: usize = 128;

/// The same for several shared words, and one of the caller's own; without futex_waitv(2) in slices of a millisecond on
/// the own one. `false`: the deadline has passed.
#[cfg(all(not(loom), not(miri)))]
pub(crate) fn wait_many<'w>(
    shared: impl Iterator<Item = (&'w AtomicU32, u32)>,
    own: &'w AtomicU32,
    own_value: u32,
    deadline: crate::Deadline,
) -> bool {
    use crate::sync::process;

    if NO_WAITV.load(process::Ordering::Relaxed) == 0 {
        let words = shared.take(MOST_WORDS - 1).chain([(own, own_value)]);
        match waitv_for(words, deadline.0) {
            Err(libc::ETIMEDOUT) => return false,
            Err(libc::ENOSYS | libc::EPERM) => NO_WAITV.store(1, process::Ordering::Relaxed),
            _ => return true,
        }
    }
    let slice = deadline.0.min(now().saturating_add(1_000_000));
    wait_one(own, own_value, slice) != Err(libc::ETIMEDOUT) || slice != deadline.0
}

/// The same, without a deadline, for one who has to know which of the shared words was rung: the last, if several were. `None`:
/// one of them is another already, or the own one was rung; or nothing at all, for a moment, if it is to be a `slice`.
#[cfg(all(not(loom), not(miri)))]
pub(crate) fn wait_for_a_ring<'w>(
    shared: impl Iterator<Item = (&'w AtomicU32, u32)>,
    own: &'w AtomicU32,
    own_value: u32,
    slice: bool,
) -> Option<usize> {
    use crate::sync::process;

    let soon = now().saturating_add(1_000_000);
    if NO_WAITV.load(process::Ordering::Relaxed) == 0 {
        // The own one first, so that it hides no other.
        let words = [(own, own_value)].into_iter().chain(shared);
        match waitv_for(words, if slice { soon } else { u64::MAX }) {
            Ok(which) => return which.checked_sub(1),
            Err(libc::ENOSYS | libc::EPERM) => NO_WAITV.store(1, process::Ordering::Relaxed),
            Err(_) => return None,
        }
    }
    let _ = wait_one(own, own_value, soon);
    None
}

#[cfg(miri)]
pub(crate) fn wait_for_a_ring<'w>(
    shared: impl Iterator<Item = (&'w AtomicU32, u32)>,
    own: &'w AtomicU32,
    own_value: u32,
    _: bool,
) -> Option<usize> {
    wait_many(shared, own, own_value, crate::Deadline::NEVER);
    None
}

#[cfg(miri)]
pub(crate) fn wait_many<'w>(
    mut shared: impl Iterator<Item = (&'w AtomicU32, u32)>,
    own: &'w AtomicU32,
    own_value: u32,
    deadline: crate::Deadline,
) -> bool {
    let word = shared.next().unwrap_or((own, own_value));
    wait(word.0, word.1, own, own_value, deadline) != Woke::TimedOut
}

/// `struct futex_waitv` of linux/futex.h.
#[cfg(all(not(loom), not(miri)))]
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

#[cfg(all(not(loom), not(miri)))]
impl Waiter {
    const NONE: Waiter = Waiter {
        value: 0,
        address: 0,
        flags: 0,
        reserved: 0,
    };
}

#[cfg(all(not(loom), not(miri)))]
fn waiter(word: &AtomicU32, value: u32) -> Waiter {
    const FUTEX_32: u32 = 2;
    Waiter {
        value: u64::from(value),
        address: word as *const AtomicU32 as usize as u64,
        flags: FUTEX_32,
        reserved: 0,
    }
}

/// Waits on words, the first 128 of them, on the stack: as [`waitv`].
#[cfg(all(not(loom), not(miri)))]
fn waitv_for<'w>(
    words: impl Iterator<Item = (&'w AtomicU32, u32)>,
    deadline: u64,
) -> Result<usize, i32> {
    let mut waiters = [const { Waiter::NONE }; MOST_WORDS];
    let mut count = 0;
    for ((word, value), place) in words.zip(&mut waiters) {
        *place = waiter(word, value);
        count += 1;
    }
    waitv(waiters.get(..count).unwrap_or_default(), deadline)
}

/// Waits on words that outlive the call, each made by [`waiter`] of a reference: which of them was rung, the last if several
/// were.
#[cfg(all(not(loom), not(miri)))]
fn waitv(waiters: &[Waiter], deadline: u64) -> Result<usize, i32> {
    let count = waiters.len().min(MOST_WORDS);
    let time = timespec(deadline);
    let timeout = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY:
    // - `waiters` is an array of `count` `futex_waitv` at least, alive during the call.
    // - The kernel only reads at the addresses, and answers EFAULT where nothing is mapped.
    // - `timeout` is null or points to `time`; the number is an absolute time of CLOCK_MONOTONIC.
    let got = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            count,
            0_u32,
            timeout,
            libc::CLOCK_MONOTONIC,
        )
    };
    usize::try_from(got).map_err(|_| errno())
}

#[cfg(all(not(loom), not(miri)))]
fn wait_one(word: &AtomicU32, value: u32, deadline: u64) -> Result<(), i32> {
    let time = timespec(deadline);
    let timeout = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: as in `waitv`, for one word; FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC.
    let got = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word as *const AtomicU32,
            libc::FUTEX_WAIT_BITSET,
            value,
            timeout,
            std::ptr::null::<u32>(),
            u32::MAX,
        )
    };
    if got == 0 { Ok(()) } else { Err(errno()) }
}

/// Wakes everybody who sleeps on the word: a hostile mapper may have queued waiters of its own in front.
#[cfg(all(not(loom), not(miri)))]
#[inline]
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a key and reads nothing through it.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word as *const AtomicU32,
            libc::FUTEX_WAKE,
            i32::MAX,
        );
    }
}

/// `None` for a deadline that never comes.
#[cfg(all(not(loom), not(miri)))]
fn timespec(deadline: u64) -> Option<libc::timespec> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "seconds since boot and a remainder below 10^9 fit"
    )]
    (deadline != u64::MAX).then_some(libc::timespec {
        tv_sec: (deadline / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline % 1_000_000_000) as _,
    })
}

/// Of the last system call of this thread that failed. (Not by way of `io::Error`, which may own something that may panic when
/// it is dropped, for all that a compiler knows.)
#[cfg(not(loom))]
pub(crate) fn errno() -> i32 {
    // SAFETY: the place is this thread's own, and there as long as the thread is.
    unsafe { *libc::__errno_location() }
}

/// The calling thread, as the kernel calls it: above 0.
#[cfg(not(any(loom, miri)))]
pub(crate) fn own_thread() -> u32 {
    // SAFETY: takes nothing and cannot fail (gettid(2)).
    unsafe { libc::gettid() }.cast_unsigned()
}

/// And its process.
#[cfg(not(any(loom, miri)))]
pub(crate) fn own_process() -> u32 {
    // SAFETY: takes nothing and cannot fail (getpid(2)).
    unsafe { libc::getpid() }.cast_unsigned()
}

/// Whether this process has such a thread.
#[cfg(not(any(loom, miri)))]
pub(crate) fn is_alive(thread: u32) -> bool {
    // SAFETY: numbers only; signal 0 is none (tgkill(2)).
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, own_process(), thread, 0) };
    sent == 0 || errno() != libc::ESRCH
}

// Models and Miri have no kernel: a wait looks again at once, a wake needs nobody.
#[cfg(any(loom, miri))]
pub(crate) fn wait(
    _: &AtomicU32,
    _: u32,
    _: &AtomicU32,
    _: u32,
    deadline: crate::Deadline,
) -> Woke {
    crate::sync::spin_hint();
    if deadline.passed() {
        Woke::TimedOut
    } else {
        Woke::Look
    }
}
#[cfg(any(loom, miri))]
pub(crate) fn wake(_: &AtomicU32) {}
#[cfg(loom)]
pub(crate) fn now() -> u64 {
    0
}
