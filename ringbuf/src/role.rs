//! Who may move a cursor: a word that names its owner, so that the broker can take it back from the dead.
//!
//! Each direction has two: the producer's, and the consumer's, which is the match lock as well (see
//! `docs/architecture.md`: one word instead of two makes every publication of a record and every take exclude each
//! other, so that a reader needs no fence). Taking and giving back cost one locked instruction each. A word is
//!
//! ```text
//! 31     30      29       28..26   25..0
//! DIRTY  SETTLE  WAITERS  process  thread serial          owner 0: free
//! ```
//!
//! - WAITERS: somebody sleeps on the word; who gives it back wakes them.
//! - SETTLE (match lock only): somebody found it held and had work for its holder; it is not given back before that
//!   work is done.
//! - DIRTY: its last owner died; the next one repairs first.

use crate::{
    sync::{AtomicU32, Ordering, fence, process},
    types::ProcessIndex,
};

/// A process's index in the link and a thread's serial in its process: never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

const SERIAL_BITS: u32 = 26;
const SERIALS: u32 = 1 << SERIAL_BITS;
const OWNER_MASK: u32 = (1 << 29) - 1;
pub(crate) const WAITERS: u32 = 1 << 29;
pub(crate) const SETTLE: u32 = 1 << 30;
pub(crate) const DIRTY: u32 = 1 << 31;

impl Owner {
    pub(crate) fn new(process: ProcessIndex, serial: u32) -> Owner {
        Owner(u32::from(process.get()) << SERIAL_BITS | (serial & (SERIALS - 1)))
    }

    /// The calling thread.
    #[inline]
    pub(crate) fn me(process: ProcessIndex) -> Owner {
        Owner::new(process, thread_serial())
    }

    pub(crate) fn raw(self) -> u32 {
        self.0
    }

    /// Whether a word (a role's or a record's) names this process and, if given, this thread.
    pub(crate) fn names(word: u32, process: ProcessIndex, thread: Option<u32>) -> bool {
        let owner = word & OWNER_MASK;
        owner != 0
            && owner >> SERIAL_BITS == u32::from(process.get())
            && thread.is_none_or(|serial| owner & (SERIALS - 1) == serial)
    }
}

/// What an attempt to take a role found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is ours.
    Clean,
    /// It is ours; its last owner died in it.
    Dirty,
    /// It is ours already: a signal handler has interrupted the owner.
    Mine,
    /// Somebody has it; the word as seen.
    Held(u32),
}

/// A view of one role word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role<'a>(pub(crate) &'a AtomicU32);

impl Role<'_> {
    /// Takes the role if it is free.
    #[inline]
    pub(crate) fn try_take(self, me: Owner) -> Taken {
        match self
            .0
            .compare_exchange(0, me.0, Ordering::SeqCst, Ordering::Relaxed)
        {
            Ok(_) => Taken::Clean,
            Err(seen) => self.try_take_slow(me, seen),
        }
    }

    #[cold]
    fn try_take_slow(self, me: Owner, mut seen: u32) -> Taken {
        // Bounded: the flags of a free word change rarely, and only a hostile peer keeps changing them.
        for _ in 0..8 {
            if seen & OWNER_MASK == me.0 {
                return Taken::Mine;
            }
            if seen & OWNER_MASK != 0 {
                return Taken::Held(seen);
            }
            match self
                .0
                .compare_exchange(seen, seen | me.0, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) if seen & DIRTY != 0 => return Taken::Dirty,
                Ok(_) => return Taken::Clean,
                Err(now) => seen = now,
            }
        }
        Taken::Held(seen)
    }

    /// Gives a role back whatever its flags; `true` if somebody sleeps on the word and has to be woken.
    ///
    /// The exchange is a full fence as well: see [`crate::sync::fence_after_rmw`]. A role that is not ours any more
    /// (its slot was handed out anew under a handle that went stale) is left alone.
    #[inline]
    #[must_use = "sleepers have to be woken"]
    pub(crate) fn give_back(self, me: Owner) -> bool {
        self.0
            .compare_exchange(me.0, 0, Ordering::SeqCst, Ordering::SeqCst)
            .is_err_and(|seen| {
                seen & OWNER_MASK == me.0 && self.0.swap(0, Ordering::SeqCst) & WAITERS != 0
            })
    }

    /// Gives the match lock back unless SETTLE is set. `Err`: it is still ours, and there is work to do.
    #[inline]
    pub(crate) fn give_back_settled(self, me: Owner) -> Result<bool, ()> {
        if self
            .0
            .compare_exchange(me.0, 0, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
        {
            return Ok(false);
        }
        self.give_back_flagged(me)
    }

    #[cold]
    fn give_back_flagged(self, _me: Owner) -> Result<bool, ()> {
        for _ in 0..8 {
            let seen = self.0.load(Ordering::Relaxed);
            if seen & SETTLE != 0 {
                return Err(());
            }
            if self
                .0
                .compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(seen & WAITERS != 0);
            }
        }
        // Only a peer that scribbles gets us here.
        Ok(self.0.swap(0, Ordering::SeqCst) & WAITERS != 0)
    }

    /// The holder takes note of SETTLE (and has repaired what DIRTY spoke of).
    pub(crate) fn clear(self, flags: u32) {
        self.0.fetch_and(!flags, Ordering::SeqCst);
    }

    /// Leaves work for the holder. `false`: nobody holds it any more, so the caller can take it, and finds the flag.
    #[must_use = "nobody holds the lock: the caller settles"]
    pub(crate) fn leave(self, flag: u32) -> bool {
        self.0.fetch_or(flag, Ordering::SeqCst) & OWNER_MASK != 0
    }

    /// Announces a sleeper. `Some(word)`: wait on that value; `None`: it is free by now.
    pub(crate) fn announce(self) -> Option<u32> {
        if !self.leave(WAITERS) {
            return None;
        }
        // Pairs with the fence in `queue::close`: either it sees the announcement, or the caller the close.
        fence(Ordering::SeqCst);
        let seen = self.0.load(Ordering::SeqCst);
        (seen & OWNER_MASK != 0 && seen & WAITERS != 0).then_some(seen)
    }

    /// Who holds the role; for the holder, to take another role in the same name.
    pub(crate) fn holder(self) -> Option<Owner> {
        let owner = self.0.load(Ordering::Relaxed) & OWNER_MASK;
        (owner != 0).then_some(Owner(owner))
    }

    /// Whether nobody has it just now.
    pub(crate) fn is_free(self) -> bool {
        self.0.load(Ordering::Relaxed) & OWNER_MASK == 0
    }

    /// Takes the role from a dead owner; `true` if the word has to be woken.
    pub(crate) fn sweep(self, process: ProcessIndex, thread: Option<u32>) -> bool {
        let mut seen = self.0.load(Ordering::SeqCst);
        for _ in 0..64 {
            if !Owner::names(seen, process, thread) {
                return false;
            }
            // SETTLE stays for the next owner: what it asked for is still to be done.
            match self.0.compare_exchange(
                seen,
                DIRTY | (seen & SETTLE),
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        true
    }
}

/// The calling thread's serial: not zero, never used again in this process.
///
/// After 2^26 - 1 threads serials start again, which matters only to a sweep of a single thread.
#[inline]
#[must_use]
pub fn thread_serial() -> u32 {
    thread_local! {
        static SERIAL: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    static NEXT: process::AtomicU32 = process::AtomicU32::new(1);
    SERIAL.with(|serial| {
        if serial.get() == 0 {
            let next = NEXT.fetch_add(1, process::Ordering::Relaxed) % (SERIALS - 1);
            serial.set(next + 1);
        }
        serial.get()
    })
}

/// A role word of its own, for benchmarks of what taking a role costs.
#[derive(Debug, Default)]
pub struct RoleProbe(AtomicU32);

impl RoleProbe {
    /// Takes the role and gives it back; `false` if another thread had it.
    #[inline]
    pub fn turn(&self) -> bool {
        let me = Owner(thread_serial());
        let role = Role(&self.0);
        role.try_take(me) == Taken::Clean && role.give_back_settled(me).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn owner(process: u8, serial: u32) -> Owner {
        Owner::new(ProcessIndex::new(process).expect("small"), serial)
    }

    #[test]
    fn a_role_has_one_owner() {
        let word = AtomicU32::new(0);
        let role = Role(&word);
        assert_eq!(role.try_take(owner(0, 1)), Taken::Clean);
        assert_eq!(role.try_take(owner(0, 1)), Taken::Mine);
        assert!(matches!(role.try_take(owner(1, 1)), Taken::Held(_)));
        assert!(!role.give_back(owner(0, 1)));
        assert_eq!(role.try_take(owner(1, 1)), Taken::Clean);
    }

    #[test]
    fn what_a_dead_owner_held_is_dirty_and_keeps_its_errands() {
        let word = AtomicU32::new(0);
        let role = Role(&word);
        assert_eq!(role.try_take(owner(3, 7)), Taken::Clean);
        assert!(role.leave(SETTLE));
        let process = |i| ProcessIndex::new(i).expect("small");
        assert!(!role.sweep(process(3), Some(8)));
        assert!(!role.sweep(process(2), None));
        assert!(role.sweep(process(3), Some(7)));
        assert_eq!(role.try_take(owner(0, 1)), Taken::Dirty);
        assert_eq!(role.give_back_settled(owner(0, 1)), Err(()));
        role.clear(SETTLE | DIRTY);
        assert_eq!(role.give_back_settled(owner(0, 1)), Ok(false));
    }

    #[test]
    fn a_sleeper_is_announced_only_while_the_role_is_held() {
        let word = AtomicU32::new(0);
        let role = Role(&word);
        assert_eq!(role.announce(), None);
        assert_eq!(role.try_take(owner(0, 1)), Taken::Clean);
        assert!(role.announce().is_some());
        assert!(role.give_back(owner(0, 1)));
    }

    #[test]
    fn every_thread_has_its_own_serial() {
        let mine = thread_serial();
        assert_ne!(mine, 0);
        assert_eq!(mine, thread_serial());
        let other = std::thread::spawn(thread_serial).join().expect("no panic");
        assert_ne!(mine, other);
    }
}
