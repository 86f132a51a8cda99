//! What threads are busy with, said with plain stores.
//!
//! A thread that uses something which another may take away would count itself in and out: two locked instructions. Here
//! it writes what it uses into a mark of its own, and whoever has made the thing unfindable looks at all marks before he
//! takes it away: hazard pointers, as in `current.rs`, for things with numbers, and without memory of their own, so that
//! a program that was told that nothing is allocated has them, too.
//!
//! ```text
//! use                                   take away
//! a. own mark = its number              1. it is not to be found any more, and nobody else takes it away
//! b. light fence                        2. heavy fence
//! c. still to be found? use it          3. a mark has its number? somebody else may take it away, 2., and if it still
//! d. own mark = 0                          has, leave it to that thread; else 1.
//! e. light fence                           none has? take it away
//! f. still to be found? else 1.
//! ```
//!
//! Either 3 sees a, or c sees 1: it is never taken away in use. Who ends its use at d and finds at f that somebody else takes it
//! away leaves it to him, and he, after his second 2., sees d: it is always taken away at last. That 3 comes after 1 is what keeps
//! the number from being another thing's meanwhile.

#[cfg(not(any(loom, miri)))]
use crate::futex;
use crate::{
    barrier,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// Marks for `N` threads at a time.
#[derive(Debug)]
pub struct Marks<const N: usize> {
    marks: [Mark; N],
    /// Those behind it were never claimed.
    used: AtomicU32,
    /// Of which process they are: a child of fork(2) has a copy, in which its only thread has what it had.
    process: AtomicU32,
}

/// One thread's. On a line of its own, which that thread writes to all the time.
#[derive(Debug)]
#[repr(align(64))]
pub struct Mark {
    /// How often it was claimed (upper half), and by whom last: what the kernel calls the thread; 0: nobody.
    owner: AtomicU64,
    /// What it is busy with; 0: nothing.
    what: AtomicU32,
}

impl Mark {
    #[cfg(not(loom))]
    const fn new() -> Mark {
        Mark {
            owner: AtomicU64::new(0),
            what: AtomicU32::new(0),
        }
    }
}

impl Mark {
    /// Says that this thread uses `what`, which is not 0, from here on: to be looked for again after this. `false`: it is busy
    /// already.
    #[inline(always)]
    pub fn begin(&self, what: u32) -> bool {
        if self.what.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.what.store(what, Ordering::Release); // a
        barrier::light(); // b: pairs with 2
        true
    }

    /// It does not use it any more. Who finds then that it is not to be found takes it away, if nobody else is at it.
    #[inline(always)]
    pub fn end(&self) {
        self.what.store(0, Ordering::Release); // d
        barrier::light(); // e: pairs with 2
    }
}

#[cfg(not(loom))]
impl<const N: usize> Marks<N> {
    /// Nobody's.
    #[must_use]
    pub const fn new() -> Marks<N> {
        Marks {
            marks: [const { Mark::new() }; N],
            used: AtomicU32::new(0),
            process: AtomicU32::new(0),
        }
    }
}

#[cfg(not(loom))]
impl<const N: usize> Default for Marks<N> {
    fn default() -> Marks<N> {
        Marks::new()
    }
}

/// A mark that is the calling thread's from now on.
#[derive(Clone, Copy, Debug)]
pub struct Claimed<'a> {
    /// It.
    pub mark: &'a Mark,
    /// What the thread was in the middle of whose it was, and has ended: nobody else takes that away; 0: nothing.
    pub left: u32,
}

impl<const N: usize> Marks<N> {
    /// A mark for the calling thread, which need not give it back: one that is nobody's, or that of a thread that has ended.
    /// `None`: all are in use, or this is a child of the process that has them.
    #[cfg(not(any(loom, miri)))]
    #[cold]
    pub fn claim(&self) -> Option<Claimed<'_>> {
        let own = futex::own_process();
        let first = self
            .process
            .compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|process| process != own) {
            return None;
        }
        self.claim_for(futex::own_thread(), futex::is_alive)
    }

    #[cfg_attr(
        any(loom, miri),
        allow(dead_code, reason = "there are no threads of a kernel's")
    )]
    fn claim_for(&self, me: u32, is_alive: impl Fn(u32) -> bool) -> Option<Claimed<'_>> {
        // Asking whether a thread is alive is a system call: only if none is nobody's.
        self.claim_where(me, |owner| owner == 0)
            .or_else(|| self.claim_where(me, |owner| !is_alive(owner)))
    }

    fn claim_where(&self, me: u32, is_free: impl Fn(u32) -> bool) -> Option<Claimed<'_>> {
        for (at, mark) in (0..).zip(&self.marks) {
            let owner = mark.owner.load(Ordering::Relaxed);
            #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
            if !is_free(owner as u32) {
                continue;
            }
            let ours = (owner >> 32).wrapping_add(1) << 32 | u64::from(me);
            let claimed =
                mark.owner
                    .compare_exchange(owner, ours, Ordering::SeqCst, Ordering::Relaxed);
            if claimed.is_ok() {
                // What a thread was at that has ended, nobody is at.
                let left = mark.what.swap(0, Ordering::SeqCst);
                self.used.fetch_max(at + 1, Ordering::SeqCst);
                return Some(Claimed { mark, left });
            }
        }
        None
    }

    /// Whether a thread uses it, which was made unfindable before. That thread will see so.
    #[cold]
    pub fn has(&self, what: u32) -> bool {
        barrier::heavy_here(); // 2
        let used = self.used.load(Ordering::SeqCst) as usize;
        let mut marks = self.marks.iter().take(used);
        marks.any(|mark| mark.what.load(Ordering::Acquire) == what) // 3
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_one_threads_and_the_deads_are_anybodys() {
        let marks = Marks::<2>::new();
        let claim = |me, is_alive: fn(u32) -> bool| marks.claim_for(me, is_alive);
        let first = claim(7, |_| true).expect("nobody's");
        let second = claim(8, |_| true).expect("nobody's");
        assert!(!std::ptr::eq(first.mark, second.mark));
        assert!(claim(9, |_| true).is_none());
        assert!(second.mark.begin(5) && marks.has(5) && !marks.has(4));
        assert!(!second.mark.begin(4), "it is busy");
        let third = claim(9, |owner| owner != 8).expect("the dead's");
        assert!(std::ptr::eq(second.mark, third.mark));
        assert_eq!((first.left, second.left, third.left), (0, 0, 5));
        assert!(!marks.has(5), "its user is dead");
        assert!(third.mark.begin(4));
        third.mark.end();
        assert!(!marks.has(4));
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::{cell::UnsafeCell, sync::Arc, thread};

    use super::*;

    const DEAD: u32 = 1;
    const TAKING: u32 = 2;
    const TAKEN: u32 = 4;

    struct Thing {
        marks: Marks<2>,
        state: AtomicU32,
        value: UnsafeCell<u32>,
    }

    impl Thing {
        fn use_it(&self, mark: usize) {
            let mark = &self.marks.marks[mark];
            if mark.begin(1) {
                if self.state.load(Ordering::Acquire) == 0 {
                    self.value.with(|_| ());
                }
                mark.end();
            }
            if self.state.load(Ordering::Acquire) & DEAD != 0 {
                self.take_away();
            }
        }

        /// As `clear` in the table of a host's connections.
        fn take_away(&self) {
            while self
                .state
                .compare_exchange(DEAD, DEAD | TAKING, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                if !self.marks.has(1) {
                    self.value.with_mut(|_| ());
                    self.state.store(TAKEN, Ordering::Release);
                    return;
                }
                self.state.fetch_and(!TAKING, Ordering::AcqRel);
                if self.marks.has(1) {
                    return;
                }
            }
        }
    }

    /// Seen to fail without the heavy fence, and without either of the light ones: taken away in use, or never.
    #[test]
    fn what_is_in_use_is_taken_away_afterwards() {
        loom::model(|| {
            let mark = || Mark {
                owner: AtomicU64::new(1),
                what: AtomicU32::new(0),
            };
            let thing = Arc::new(Thing {
                marks: Marks {
                    marks: [mark(), mark()],
                    used: AtomicU32::new(2),
                    process: AtomicU32::new(0),
                },
                state: AtomicU32::new(0),
                value: UnsafeCell::new(0),
            });
            let users = [0, 1].map(|mark| {
                let thing = thing.clone();
                thread::spawn(move || thing.use_it(mark))
            });
            thing.state.fetch_or(DEAD, Ordering::AcqRel);
            thing.take_away();
            users.map(|user| user.join().expect("a user"));
            let state = thing.state.load(Ordering::Acquire);
            assert_eq!(state, TAKEN, "nobody took it away");
        });
    }
}
