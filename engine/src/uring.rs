//! An io_uring for waiting, without a descriptor where the kernel can do that. UNSAFE.
//!
//! The `io-uring` crate makes its rings with a descriptor and lets the kernel place them; here the memory is ours
//! (`IORING_SETUP_NO_MMAP`), and the ring is known by a number of its thread's (`IORING_SETUP_REGISTERED_FD_ONLY`). Requests
//! are that crate's. A ring belongs to the thread that made it (`IORING_SETUP_SINGLE_ISSUER`), and what completes is
//! delivered when that thread enters the kernel for it (`IORING_SETUP_DEFER_TASKRUN`): a thread that is at work elsewhere
//! is not interrupted. io_uring_setup(2), io_uring_enter(2), io_uring_register(2).

use std::{
    marker::PhantomData,
    mem::{ManuallyDrop, offset_of},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
};

use io_uring::{opcode, squeue};
use npfs_ringbuf::{Deadline, environment};

use crate::sys::{self, Errno};

/// How a ring is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// By a number; there never is a descriptor (Linux 6.5).
    NoDescriptor,
    /// By a number; its descriptor is closed.
    Registered,
    /// By a descriptor.
    Plain,
}

/// A ring of this thread's.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Both rings, in one page; the requests, in another.
    memory: ManuallyDrop<Pages>,
    offsets: Offsets,
    held: Held,
    /// The descriptor, or the number.
    number: i32,
    flags: u32,
    descriptor: Option<OwnedFd>,
    /// Requests that the kernel has not been told of.
    unsubmitted: u32,
    /// Forks of this process when it was made: a child has neither the memory nor the ring.
    forks: u32,
    /// It stays in its thread.
    _thread: PhantomData<*const ()>,
}

/// Where in the first page things are, as the kernel says.
#[derive(Debug)]
struct Offsets {
    sq_tail: usize,
    sq_flags: usize,
    sq_mask: u32,
    cq_head: usize,
    cq_tail: usize,
    cq_mask: u32,
    cqes: usize,
}

/// Two pages of this process's own, which a child of fork(2) does not get.
#[derive(Debug)]
struct Pages(NonNull<u8>);

impl Pages {
    fn new() -> Result<Pages, Errno> {
        // SAFETY: a new mapping at a place of the kernel's choice takes nothing from anybody.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let pages = NonNull::new(at.cast()).map(Pages);
        let pages = pages.ok_or(Errno(libc::ENOMEM))?;
        // SAFETY: the mapping just made; the advice only changes what fork does with it.
        if unsafe { libc::madvise(at, 2 * PAGE, libc::MADV_DONTFORK) } != 0 {
            return Err(Errno::last());
        }
        Ok(pages)
    }

    fn at(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

impl Drop for Pages {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody uses any more; in a child of fork(2) nobody drops it (`Ring`).
        unsafe { libc::munmap(self.at().cast(), 2 * PAGE) };
    }
}

/// A ring of the first kind that works here, or of the kind that the environment variable `NPFS_LOOP` asks for. `refused` hears
/// of those that do not.
pub(crate) fn open(mut refused: impl FnMut(Held, Errno)) -> Option<Ring> {
    for held in wanted() {
        match Ring::new(*held) {
            Ok(ring) => return Some(ring),
            Err(error) => refused(*held, error),
        }
    }
    None
}

/// The kinds that are wanted. The environment is asked once.
fn wanted() -> &'static [Held] {
    /// Which of the choices, and one more.
    static CHOICE: AtomicU8 = AtomicU8::new(0);
    let mut choice = CHOICE.load(Ordering::Relaxed);
    if choice == 0 {
        choice = environment(c"NPFS_LOOP", |set| match set {
            Some("uring") => 1,
            Some("registered") => 2,
            Some("plain") => 3,
            Some("futex") => 4,
            _ => 5,
        });
        CHOICE.store(choice, Ordering::Relaxed);
    }
    match choice {
        1 => &[Held::NoDescriptor],
        2 => &[Held::Registered],
        3 => &[Held::Plain],
        4 => &[],
        _ => &[Held::NoDescriptor, Held::Registered],
    }
}

const PAGE: usize = 4096;
/// Requests between two submissions, 64 bytes each.
const ENTRIES: u32 = 64;
/// Completions, 16 bytes each; those beyond it wait in the kernel.
const COMPLETIONS: u32 = 128;

impl Ring {
    /// A ring that can wait for futexes.
    ///
    /// # Errors
    /// The kernel's; ENOTSUP if it knows no futex requests (before Linux 6.7).
    pub(crate) fn new(held: Held) -> Result<Ring, Errno> {
        let memory = Pages::new()?;
        let base = memory.at() as u64;
        let mut params = Params {
            cq_entries: COMPLETIONS,
            flags: SETUP_CQSIZE
                | SETUP_SINGLE_ISSUER
                | SETUP_DEFER_TASKRUN
                | SETUP_TASKRUN_FLAG
                | SETUP_NO_SQARRAY
                | SETUP_NO_MMAP,
            ..Params::default()
        };
        if held == Held::NoDescriptor {
            params.flags |= SETUP_REGISTERED_FD_ONLY;
        }
        params.cq_off.user_addr = base;
        params.sq_off.user_addr = base + PAGE as u64;
        // SAFETY: `params` is an `io_uring_params`, which the kernel reads and writes. Both addresses in it are those of a
        // page of ours, which stays mapped as long as the ring (`memory` is dropped with it); the kernel refuses if what
        // it wants to put there is longer.
        let got = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut params) };
        let got = match i32::try_from(got) {
            Ok(got) if got >= 0 => got,
            _ => return Err(Errno::last()),
        };
        let descriptor = (held != Held::NoDescriptor).then(|| {
            // SAFETY: a descriptor that the kernel has just made for this.
            unsafe { OwnedFd::from_raw_fd(got) }
        });
        let offsets = Offsets::of(&params).ok_or(UNSUPPORTED)?;
        let mut ring = Ring {
            memory: ManuallyDrop::new(memory),
            offsets,
            held,
            number: got,
            flags: if held == Held::NoDescriptor {
                ENTER_REGISTERED_RING
            } else {
                0
            },
            descriptor: None,
            unsubmitted: 0,
            forks: sys::forks(),
            _thread: PhantomData,
        };
        match held {
            Held::NoDescriptor => {}
            Held::Registered => {
                let mut update = Update {
                    offset: u32::MAX, // whichever is free
                    reserved: 0,
                    data: u64::from(got.cast_unsigned()),
                };
                // SAFETY: one `io_uring_rsrc_update`, read and written during the call.
                unsafe { register(got, REGISTER_RING_FDS, (&raw mut update).cast(), 1)? };
                ring.number = i32::try_from(update.offset).map_err(|_| UNSUPPORTED)?;
                ring.flags = ENTER_REGISTERED_RING;
                drop(descriptor);
            }
            Held::Plain => ring.descriptor = descriptor, // closed with it
        }
        if !ring.knows(opcode::FutexWait::CODE)? {
            return Err(UNSUPPORTED);
        }
        Ok(ring)
    }

    /// Whether the kernel has such requests.
    fn knows(&self, code: u8) -> Result<bool, Errno> {
        const MOST: u32 = 256;
        /// `struct io_uring_probe` and `struct io_uring_probe_op`.
        #[repr(C)]
        struct Probe {
            head: [u32; 4],
            ops: [[u16; 4]; MOST as usize],
        }
        let mut probe = Probe {
            head: [0; 4],
            ops: [[0; 4]; MOST as usize],
        };
        let by_number = if self.flags == 0 {
            0
        } else {
            REGISTER_BY_NUMBER
        };
        // SAFETY: a probe with room for 256 answers, written during the call.
        unsafe {
            register(
                self.number,
                REGISTER_PROBE | by_number,
                (&raw mut probe).cast(),
                MOST,
            )?;
        }
        let [_, flags, ..] = probe.ops[usize::from(code)];
        Ok(flags & OP_SUPPORTED != 0)
    }

    /// A word of one of the rings.
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `Offsets::of` has seen that the word is inside the first page and aligned; the page is mapped as long as
        // `self`; the kernel and this thread use it by atomic loads and stores only.
        unsafe { &*self.memory.at().add(offset).cast::<AtomicU32>() }
    }

    /// Writes to an eventfd(2) whenever something may have completed, or could be collected. (The descriptor of a ring of this
    /// kind does not wake who polls it: nothing completes before its thread enters the kernel.)
    ///
    /// # Errors
    /// Those of io_uring_register(2).
    pub(crate) fn tell(&self, eventfd: BorrowedFd<'_>) -> Result<(), Errno> {
        let by_number = if self.flags == 0 {
            0
        } else {
            REGISTER_BY_NUMBER
        };
        let mut descriptor = eventfd.as_raw_fd();
        // SAFETY: one descriptor, read during the call; the kernel keeps what it stands for.
        unsafe {
            register(
                self.number,
                REGISTER_EVENTFD | by_number,
                (&raw mut descriptor).cast(),
                1,
            )
        }
    }

    /// How it is held.
    pub(crate) fn held(&self) -> Held {
        self.held
    }

    /// Whether this is the process that made it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.forks == sys::forks()
    }

    /// Adds a wait for a word in memory to leave `value` and be woken: it completes under `key`, also if the word is another
    /// already. The word need not outlive it: the kernel knows it by its page.
    ///
    /// # Errors
    /// Those of io_uring_enter(2), if earlier requests had to be submitted.
    pub(crate) fn wait_for(&mut self, word: *const u32, value: u32, key: u64) -> Result<(), Errno> {
        /// FUTEX2_SIZE_U32, and shared.
        const FLAGS: u32 = 2;
        let wait = opcode::FutexWait::new(word, u64::from(value), u64::from(u32::MAX), FLAGS);
        self.push(wait.build().user_data(key))
    }

    fn push(&mut self, entry: squeue::Entry) -> Result<(), Errno> {
        if self.unsubmitted == ENTRIES {
            self.enter(0, Deadline::NEVER)?;
            if self.unsubmitted == ENTRIES {
                // It takes nothing just now (no memory): what stands there must not be written over.
                return Err(Errno(libc::ENOMEM));
            }
        }
        let tail = self.word(self.offsets.sq_tail).load(Ordering::Relaxed);
        let at = (tail & self.offsets.sq_mask) as usize * size_of::<squeue::Entry>();
        // SAFETY: the second page holds `ENTRIES` entries of 64 bytes each, and the masked index is one of them; the kernel
        // does not read it before the tail says so, and has read what was there (`unsubmitted` is below `ENTRIES`).
        unsafe {
            self.memory
                .at()
                .add(PAGE + at)
                .cast::<squeue::Entry>()
                .write(entry);
        }
        self.word(self.offsets.sq_tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        self.unsubmitted += 1;
        Ok(())
    }

    /// Whether something has completed, as far as can be seen without a system call.
    pub(crate) fn has_news(&self) -> bool {
        self.word(self.offsets.sq_flags).load(Ordering::Relaxed) & (SQ_TASKRUN | SQ_CQ_OVERFLOW)
            != 0
            || self.completed() != 0
    }

    /// Whether the kernel had no room for a request, which is to be submitted again.
    pub(crate) fn is_behind(&self) -> bool {
        self.unsubmitted != 0
    }

    fn completed(&self) -> u32 {
        let head = self.word(self.offsets.cq_head).load(Ordering::Relaxed);
        let tail = self.word(self.offsets.cq_tail).load(Ordering::Acquire);
        tail.wrapping_sub(head)
    }

    /// Submits, and sleeps until something has completed, a signal has come, or the deadline has passed.
    ///
    /// # Errors
    /// Those of io_uring_enter(2) that do not pass.
    pub(crate) fn wait(&mut self, deadline: Deadline) -> Result<(), Errno> {
        self.enter(1, deadline)
    }

    /// Submits, and collects what has completed.
    ///
    /// # Errors
    /// As [`Ring::wait`].
    pub(crate) fn collect(&mut self) -> Result<(), Errno> {
        self.enter(0, Deadline::NEVER)
    }

    fn enter(&mut self, complete: u32, deadline: Deadline) -> Result<(), Errno> {
        let time = deadline.remaining().map(|left| Timespec {
            seconds: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(left.subsec_nanos()),
        });
        let argument = GetEvents {
            time: time
                .as_ref()
                .map_or(0, |time| std::ptr::from_ref(time) as u64),
            ..GetEvents::default()
        };
        // SAFETY: `argument` is an `io_uring_getevents_arg` without a signal mask, and its time is null or points to `time`;
        // both are read during the call. The kernel writes completions to the first page, which only `take` reads.
        let got = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.number,
                self.unsubmitted,
                complete,
                self.flags | ENTER_GETEVENTS | ENTER_EXT_ARG,
                &raw const argument,
                size_of::<GetEvents>(),
            )
        };
        if let Ok(submitted) = u32::try_from(got) {
            self.unsubmitted -= self.unsubmitted.min(submitted);
            return Ok(());
        }
        match Errno::last() {
            // Whoever has submitted something is told how much instead, also after a timeout.
            Errno(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            error => Err(error),
        }
    }

    /// Takes what has completed: keys and results.
    pub(crate) fn take(&mut self, mut done: impl FnMut(u64, i32)) {
        for _ in 0..self.completed() {
            let head = self.word(self.offsets.cq_head).load(Ordering::Relaxed);
            let at = self.offsets.cqes
                + (head & self.offsets.cq_mask) as usize * size_of::<Completion>();
            // SAFETY: `Offsets::of` has seen that all completions are inside the first page; this one is the kernel's no
            // more, since the tail is beyond it, and not its again before the head is.
            let completion = unsafe { self.memory.at().add(at).cast::<Completion>().read() };
            self.word(self.offsets.cq_head)
                .store(head.wrapping_add(1), Ordering::Release);
            done(completion.key, completion.result);
        }
    }
}

impl Drop for Ring {
    // Inline, as other drops here: so the optimizer sees in the crate of who waits that it does not unwind.
    #[inline]
    fn drop(&mut self) {
        if !self.is_ours() {
            return; // the parent's number, and its memory, may be something else's here
        }
        if self.flags != 0 {
            let mut update = Update {
                offset: self.number.cast_unsigned(),
                reserved: 0,
                data: 0,
            };
            // SAFETY: one `io_uring_rsrc_update`, read during the call. The kernel ends what still waits, and lets go of
            // the pages by itself. If it refuses, the ring goes with its thread.
            let _ = unsafe {
                register(
                    self.number,
                    UNREGISTER_RING_FDS | REGISTER_BY_NUMBER,
                    (&raw mut update).cast(),
                    1,
                )
            };
        }
        // SAFETY: dropped here and nowhere else. The kernel has pinned the pages, if the ring lives on.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}

/// # Safety
/// `argument` points to what the operation reads and writes, `count` times.
#[inline]
unsafe fn register(
    number: i32,
    operation: u32,
    argument: *mut libc::c_void,
    count: u32,
) -> Result<(), Errno> {
    // SAFETY: the caller's.
    let got = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            number,
            operation,
            argument,
            count,
        )
    };
    if got < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

/// What is asked for, this kernel does not have.
const UNSUPPORTED: Errno = Errno(libc::ENOTSUP);

impl Offsets {
    /// `None`: not where they can be.
    fn of(params: &Params) -> Option<Offsets> {
        let word = |offset: u32| {
            let offset = offset as usize;
            (offset.is_multiple_of(4) && offset + 4 <= PAGE).then_some(offset)
        };
        let cqes = params.cq_off.cqes as usize;
        let fits = params.sq_entries <= ENTRIES
            && params.cq_entries <= COMPLETIONS
            && params.sq_entries.is_power_of_two()
            && params.cq_entries.is_power_of_two()
            && cqes.is_multiple_of(8)
            && cqes + params.cq_entries as usize * size_of::<Completion>() <= PAGE;
        fits.then_some(Offsets {
            sq_tail: word(params.sq_off.tail)?,
            sq_flags: word(params.sq_off.flags)?,
            sq_mask: params.sq_entries - 1,
            cq_head: word(params.cq_off.head)?,
            cq_tail: word(params.cq_off.tail)?,
            cq_mask: params.cq_entries - 1,
            cqes,
        })
    }
}

/// `struct io_uring_params` of linux/io_uring.h.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq_off: SqOffsets,
    cq_off: CqOffsets,
}

/// `struct io_sqring_offsets`.
#[repr(C)]
#[derive(Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_addr: u64,
}

/// `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

const _: () = assert!(size_of::<Params>() == 120 && offset_of!(Params, cq_off) == 80);
const _: () = assert!(ENTRIES as usize * size_of::<squeue::Entry>() <= PAGE);

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    key: u64,
    result: i32,
    flags: u32,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
#[derive(Default)]
struct GetEvents {
    signals: u64,
    signals_len: u32,
    least_wait: u32,
    time: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

const SETUP_CQSIZE: u32 = 1 << 3;
const SETUP_TASKRUN_FLAG: u32 = 1 << 9;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const SETUP_NO_MMAP: u32 = 1 << 14;
const SETUP_REGISTERED_FD_ONLY: u32 = 1 << 15;
const SETUP_NO_SQARRAY: u32 = 1 << 16;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_EVENTFD: u32 = 4;
const REGISTER_PROBE: u32 = 8;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;
const REGISTER_BY_NUMBER: u32 = 1 << 31;
const OP_SUPPORTED: u16 = 1;
const SQ_CQ_OVERFLOW: u32 = 1 << 1;
const SQ_TASKRUN: u32 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// `None`: this kernel, or this machine's sandbox, has no such ring; said, not failed.
    fn ring(held: Held) -> Option<Ring> {
        Ring::new(held)
            .inspect_err(|error| println!("SKIPPED: no ring here, {held:?}: {error}"))
            .ok()
    }

    #[test]
    fn every_kind_of_ring_waits_for_words() {
        for held in [Held::NoDescriptor, Held::Registered, Held::Plain] {
            let Some(mut ring) = ring(held) else { continue };
            let words: Vec<AtomicU32> = (0..200).map(|_| AtomicU32::new(7)).collect();
            for (key, word) in (0..).zip(&words) {
                ring.wait_for(word.as_ptr(), 7, key).expect("room");
            }
            let soon = Deadline::after(Duration::from_millis(10));
            ring.wait(soon).expect("entered");
            assert!(soon.passed() && !ring.has_news());
            ring.take(|key, result| panic!("nobody has woken {key}: {result}"));
            let mut woken = 0;
            // More than the ring has room for at once.
            for word in &words {
                // SAFETY: the kernel uses the address as a key.
                woken += unsafe {
                    libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX)
                };
            }
            assert_eq!(woken, 200);
            let mut seen = [false; 200];
            while seen.iter().any(|seen| !seen) {
                let later = Deadline::after(Duration::from_secs(5));
                ring.wait(later).expect("entered");
                assert!(!later.passed(), "all that were woken complete");
                ring.take(|key, result| {
                    assert_eq!(result, 0);
                    let first = !std::mem::replace(&mut seen[usize::try_from(key).unwrap()], true);
                    assert!(first, "{key} completes once");
                });
            }
            // A word that is another already completes at once.
            ring.wait_for(words[0].as_ptr(), 8, 0).expect("room");
            ring.wait(Deadline::NEVER).expect("entered");
            let mut results = Vec::new();
            ring.take(|key, result| results.push((key, result)));
            assert_eq!(results, [(0, -libc::EAGAIN)]);
        }
    }

    #[test]
    fn only_the_plain_ring_has_a_descriptor() {
        for held in [Held::NoDescriptor, Held::Registered, Held::Plain] {
            let Some(ring) = ring(held) else { continue };
            assert_eq!(ring.descriptor.is_some(), held == Held::Plain);
        }
    }
}
