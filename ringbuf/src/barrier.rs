//! Fences of which one side pays nothing: `membarrier(2)`. UNSAFE.
//!
//! Two threads that each store and then look at the other's word need a full fence on both sides, some 10 ns each time.
//! Where one of them does so a million times for each time of the other, the frequent one only keeps the compiler from
//! reordering ([`light`]), and the rare one makes every CPU that runs a thread of a registered process go through a full
//! fence ([`heavy`]): what the frequent side did before that is visible to the rare one, and what it does after it sees
//! what the rare one stored before.

use crate::sync::{Ordering, fence};
#[cfg(not(any(loom, miri)))]
use crate::{environment, sync::process::AtomicU32};

/// The frequent side's fence: none at all for the CPU.
#[inline(always)]
pub(crate) fn light() {
    #[cfg(not(any(loom, miri)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    // What `heavy` does to the other threads cannot be said in a model, nor to Miri: there the frequent side runs the
    // fence itself.
    #[cfg(any(loom, miri))]
    fence(Ordering::SeqCst);
}

/// The rare side's fence, for every thread of every process that [`keep_after`] has registered.
#[cold]
pub(crate) fn heavy() {
    fence(Ordering::SeqCst);
    #[cfg(not(any(loom, miri)))]
    kernel::heavy();
}

/// The rare side's fence, for the threads of this process alone.
#[cold]
pub(crate) fn heavy_here() {
    fence(Ordering::SeqCst);
    #[cfg(not(any(loom, miri)))]
    kernel::heavy_here();
}

/// Turns in a row after which this process's threads keep a role: 64, or what `NPFS_ROLES` says; never where the kernel
/// refuses.
///
/// The variable's values: `given-back`, or a number of turns. For tests and for doubts; read once per process.
#[cfg(not(any(loom, miri)))]
pub(crate) fn keep_after() -> u8 {
    static AFTER: AtomicU32 = AtomicU32::new(0);
    found_once(&AFTER, || {
        let wanted = environment::var(c"NPFS_ROLES", |set| match set {
            Some("given-back") => KEEP_NEVER,
            Some(number) => number.parse().map_or(KEEP_AFTER, |turns: u32| {
                u8::try_from(turns).unwrap_or(u8::MAX).min(KEEP_NEVER - 1)
            }),
            None => KEEP_AFTER,
        });
        if wanted != KEEP_NEVER && kernel::register() {
            wanted
        } else {
            KEEP_NEVER
        }
    })
}

/// What was found the first time: 0 before, and one more than that after. Several threads may look at a time, and find the same.
#[cfg(not(any(loom, miri)))]
fn found_once(found: &AtomicU32, find: impl FnOnce() -> u8) -> u8 {
    let known = found.load(Ordering::Relaxed).checked_sub(1);
    if let Some(known) = known.and_then(|known| u8::try_from(known).ok()) {
        return known;
    }
    let now = find();
    found.store(u32::from(now) + 1, Ordering::Relaxed);
    now
}

/// Whether this process can ask for a role that another keeps.
#[cfg(not(any(loom, miri)))]
pub(crate) fn can_ask() -> bool {
    static CAN: AtomicU32 = AtomicU32::new(0);
    found_once(&CAN, || kernel::expedited().into()) != 0
}

/// Models keep a role where they say so; Miri has no kernel.
#[cfg(any(loom, miri))]
pub(crate) fn keep_after() -> u8 {
    KEEP_NEVER
}
#[cfg(any(loom, miri))]
pub(crate) fn can_ask() -> bool {
    true
}

/// A role is always given back.
pub(crate) const KEEP_NEVER: u8 = u8::MAX;
/// Long enough that two threads taking turns, or one that sleeps between its calls, never pay for a `heavy`.
#[cfg(not(any(loom, miri)))]
const KEEP_AFTER: u8 = 64;

#[cfg(not(any(loom, miri)))]
mod kernel {
    use std::time::Duration;

    use crate::{Alarm, Deadline};

    // linux/membarrier.h
    const GLOBAL: libc::c_int = 1;
    const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
    const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes two numbers and a CPU, and touches no memory of the caller.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    /// Makes this process's threads take part in others' `heavy`.
    pub(super) fn register() -> bool {
        membarrier(REGISTER_GLOBAL_EXPEDITED)
    }

    pub(super) fn expedited() -> bool {
        membarrier(GLOBAL_EXPEDITED)
    }

    pub(super) fn heavy_here() {
        // EPERM: not registered yet.
        let fenced = membarrier(PRIVATE_EXPEDITED)
            || (membarrier(REGISTER_PRIVATE_EXPEDITED) && membarrier(PRIVATE_EXPEDITED));
        if !fenced && !membarrier(GLOBAL) {
            last_resort();
        }
    }

    pub(super) fn heavy() {
        if !expedited() && !membarrier(GLOBAL) {
            last_resort();
        }
    }

    fn last_resort() {
        // A sandbox that forbids the call to us and not to the peer, and a role that was kept before we came (from then
        // on `Keep::keeper` says so). A store leaves its CPU's buffer within a microsecond, and a preempted thread's
        // at once: a millisecond of sleep is no proof, but enough.
        let (nobody, until) = (Alarm::new(), Deadline::after(Duration::from_millis(1)));
        // By the clock: the sandbox may forbid the sleep, too.
        while !until.passed() {
            nobody.wait(nobody.now(), until);
        }
    }
}
