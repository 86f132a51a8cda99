//! Who may move a cursor: a word that names its owner, so that the broker can take it back from the dead.
//!
//! Each direction has two: the producer's, and the consumer's, which is the match lock as well (see
//! `docs/architecture.md`: one word instead of two makes every publication of a record and every take exclude each
//! other, so that a reader needs no fence). Taking and giving back cost one locked instruction each. A word is
//!
//! ```text
//! 31     30      29       28     27    26..24   23..0
//! DIRTY  SETTLE  WAITERS  ASKED  KEPT  process  thread serial          owner 0: free
//! ```
//!
//! - WAITERS: somebody sleeps on the word; who gives it back wakes them.
//! - SETTLE (match lock only): somebody found it held and had work for its holder; it is not given back before that
//!   work is done.
//! - DIRTY: its last owner died; the next one repairs first.
//!
//! **Kept.** A thread that has had a role many times in a row keeps it: the word goes on naming it, with KEPT, and
//! whether it is inside is told by [`Keep::inside`], which it stores plainly: no locked instruction at all.
//!
//! ```text
//!   owner:  inside = odd; light fence; word still KEPT?  in : out      asker:  word KEPT -> ASKED; heavy fence;
//!           ... inside = even; light fence; word still KEPT?                   inside even? take it : it is held
//! ```
//!
//! After the asker's heavy fence either `inside` is seen to be odd, or the owner, coming in, sees ASKED. An owner that
//! finds ASKED when it leaves gives the word back like any other; one that finds it when it comes takes it like any
//! other. `inside` also counts how often the role was kept, so that an asker that was stopped between its look and its
//! exchange does not take a role that has been kept anew meanwhile.
//!
//! Only the first thread that keeps a role may ever keep it ([`Keep::keeper`]; a sweep lets another): an owner that is
//! preempted as it comes in stores `inside` later, when the role may be others', and would store it for them.

use crate::{
    barrier::{self, KEEP_NEVER},
    layout::{Keep, QueueHeader},
    sync::{AtomicU32, Ordering, fence, fence_after_rmw, process},
    types::ProcessIndex,
};

/// A process's index in the link and a thread's serial in its process: never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

const SERIAL_BITS: u32 = 24;
const SERIALS: u32 = 1 << SERIAL_BITS;
const OWNER_MASK: u32 = (1 << 27) - 1;
/// The owner keeps it, inside or not.
const KEPT: u32 = 1 << 27;
/// It did, and somebody has asked for it.
const ASKED: u32 = 1 << 28;
/// As a keeper: no process has all of these bits.
const NOBODY_MAY_KEEP: u32 = u32::MAX;
pub(crate) const WAITERS: u32 = 1 << 29;
pub(crate) const SETTLE: u32 = 1 << 30;
pub(crate) const DIRTY: u32 = 1 << 31;

impl Owner {
    pub(crate) fn new(process: ProcessIndex, serial: u32) -> Owner {
        Owner(u32::from(process.get()) << SERIAL_BITS | (serial & (SERIALS - 1)))
    }

    /// The calling thread, whose serial has no more bits than there are.
    #[inline]
    pub(crate) fn me(process: ProcessIndex) -> Owner {
        Owner(u32::from(process.get()) << SERIAL_BITS | thread_serial())
    }

    pub(crate) fn raw(self) -> u32 {
        self.0
    }

    /// The process as a whole: what it has is not taken back when one of its threads ends.
    pub(crate) fn whole(process: ProcessIndex) -> Owner {
        Owner::new(process, SERIALS - 1)
    }

    /// The process that such a word names.
    pub(crate) fn process_of(word: u32) -> Option<ProcessIndex> {
        u8::try_from((word & OWNER_MASK) >> SERIAL_BITS)
            .ok()
            .and_then(ProcessIndex::new)
    }

    /// Whether a word (a role's or a record's) names this process and, if given, this thread.
    pub(crate) fn names(word: u32, process: ProcessIndex, thread: Option<u32>) -> bool {
        let owner = word & OWNER_MASK;
        owner != 0
            && owner >> SERIAL_BITS == u32::from(process.get())
            && thread.is_none_or(|serial| owner & (SERIALS - 1) == serial)
    }
}

/// The word of a role that a thread keeps, which is what a shortcut asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept(u32);

/// The same of all threads of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeper(u32);

impl Keeper {
    /// `after`: [`Role::after`]. Where roles are never kept it is what no word is, whoever has the role: both bits.
    pub(crate) fn of(process: ProcessIndex, after: u8) -> Keeper {
        Keeper(if after == KEEP_NEVER {
            KEPT | ASKED
        } else {
            u32::from(process.get()) << SERIAL_BITS | KEPT
        })
    }

    /// Of the calling thread: of none, if it has made no call yet.
    #[inline(always)]
    pub(crate) fn here(self) -> Kept {
        Kept(self.0 | SERIAL.get())
    }
}

impl Owner {
    /// The word of a role that it keeps.
    #[cfg(test)]
    pub(crate) fn kept(self) -> Kept {
        Kept(self.0 | KEPT)
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

impl Taken {
    /// What was taken when the word was `seen`.
    fn ours(seen: u32) -> Taken {
        if seen & DIRTY != 0 {
            Taken::Dirty
        } else {
            Taken::Clean
        }
    }
}

/// What the owner of a kept role found on coming in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    In,
    /// It is inside already.
    Mine,
    /// The word has changed.
    Asked,
}

/// A view of one role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) keep: &'a Keep,
    /// Turns in a row after which this process's threads keep it.
    pub(crate) after: u8,
}

impl QueueHeader {
    /// The role that the tail moves under; `after` is the caller's process's [`Role::after`].
    #[inline]
    pub(crate) fn producer(&self, after: u8) -> Role<'_> {
        Role {
            word: &self.back.0.role,
            keep: &self.back.0.keep,
            after,
        }
    }

    /// The role that the front moves under, the match lock.
    #[inline]
    pub(crate) fn consumer(&self, after: u8) -> Role<'_> {
        Role {
            word: &self.front.0.role,
            keep: &self.table.0.keep,
            after,
        }
    }
}

impl Role<'_> {
    /// Takes the role if it is free.
    #[inline]
    pub(crate) fn try_take(self, me: Owner) -> Taken {
        if self.after != KEEP_NEVER {
            let seen = self.word.load(Ordering::Relaxed);
            if seen == me.0 | KEPT {
                return self.come_in(me, seen);
            }
        }
        match self
            .word
            .compare_exchange(0, me.0, Ordering::SeqCst, Ordering::Relaxed)
        {
            Ok(_) => Taken::Clean,
            Err(seen) => self.try_take_slow(me, seen),
        }
    }

    /// The owner of a kept role comes back.
    #[inline(always)]
    fn come_in(self, me: Owner, seen: u32) -> Taken {
        match self.step_in(seen) {
            Step::In => Taken::Clean,
            Step::Mine => Taken::Mine,
            Step::Asked => self.try_take_slow(me, seen),
        }
    }

    /// The owner of a role that was kept when the word was `seen` steps inside.
    #[inline(always)]
    fn step_in(self, seen: u32) -> Step {
        let turns = self.keep.inside.load(Ordering::Relaxed);
        if turns & 1 != 0 {
            return Step::Mine;
        }
        self.keep.inside.store(turns | 1, Ordering::Relaxed);
        // Pairs with `ask`.
        barrier::light();
        if self.word.load(Ordering::Acquire) == seen {
            return Step::In;
        }
        self.keep.inside.store(turns, Ordering::Release);
        Step::Asked
    }

    /// Whether this thread keeps the role, inside or not.
    #[inline(always)]
    pub(crate) fn is_kept_by(self, me: Kept) -> bool {
        self.word.load(Ordering::Relaxed) == me.0
    }

    /// Takes a role that this thread keeps. `false`: it does not, or somebody has asked for it: see [`Role::try_take`].
    #[inline(always)]
    pub(crate) fn enter_kept(self, me: Kept) -> bool {
        self.is_kept_by(me) && self.step_in(me.0) == Step::In
    }

    /// Leaves it, and keeps it. `false`: somebody has asked for it, or left something in it: see [`Role::give_back`].
    #[inline(always)]
    pub(crate) fn leave_kept(self, me: Kept) -> bool {
        self.go_out(me.0)
    }

    #[cold]
    fn try_take_slow(self, me: Owner, mut seen: u32) -> Taken {
        // Bounded: the flags of a free word change rarely, and only a hostile peer keeps changing them.
        for _ in 0..8 {
            let owner = seen & OWNER_MASK;
            if owner == me.0 {
                if seen & (KEPT | ASKED) == 0 || self.keep.inside.load(Ordering::Relaxed) & 1 != 0 {
                    return Taken::Mine;
                }
            } else if owner != 0 {
                // Also if it was asked for before: who hears that it is held may count on it that the owner, when it
                // leaves, sees what the caller has stored.
                let Some(asked) = self.ask() else {
                    return Taken::Held(self.word.load(Ordering::Relaxed));
                };
                if asked.word & OWNER_MASK != 0 {
                    match self.take_asked(me, asked) {
                        Ok(taken) => return taken,
                        Err(now) => seen = now,
                    }
                    continue;
                }
                seen = asked.word;
            }
            match self.word.compare_exchange(
                seen,
                seen & !(OWNER_MASK | KEPT | ASKED) | me.0,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Taken::ours(seen),
                Err(now) => seen = now,
            }
        }
        Taken::Held(seen)
    }

    /// Asks for a role that somebody keeps. `None`: it is held. Else the word at which it was seen to be nobody's, or
    /// kept by an owner that is not inside.
    #[cold]
    fn ask(self) -> Option<Asked> {
        for _ in 0..8 {
            let seen = self.word.load(Ordering::SeqCst);
            if seen & OWNER_MASK == 0 {
                return Some(Asked {
                    word: seen,
                    inside: 0,
                });
            }
            if seen & (KEPT | ASKED) == 0 {
                return None;
            }
            let asked = seen & !KEPT | ASKED;
            if seen != asked
                && self
                    .word
                    .compare_exchange(seen, asked, Ordering::SeqCst, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            // Pairs with `come_in` and `go_out`. Somebody who asked before us may not have come to this yet.
            barrier::heavy();
            let inside = self.keep.inside.load(Ordering::Acquire);
            return (inside & 1 == 0).then_some(Asked {
                word: asked,
                inside,
            });
        }
        None
    }

    /// Takes a role whose owner was not inside. `Err`: the word has changed.
    fn take_asked(self, me: Owner, asked: Asked) -> Result<Taken, u32> {
        let flags = asked.word & !(OWNER_MASK | KEPT | ASKED);
        self.word.compare_exchange(
            asked.word,
            flags | me.0,
            Ordering::SeqCst,
            Ordering::Relaxed,
        )?;
        if self.keep.inside.load(Ordering::Acquire) != asked.inside {
            // It was kept anew, and asked for again, between our look and our exchange: its owner may be inside.
            let owner = asked.word & OWNER_MASK;
            let _ = self
                .word
                .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |now| {
                    Some(now & !OWNER_MASK | owner | ASKED)
                });
            return Err(self.word.load(Ordering::Relaxed));
        }
        Ok(Taken::ours(asked.word))
    }

    /// Gives a role back whatever its flags; `true` if somebody sleeps on the word and has to be woken. Fences: what
    /// was stored before is seen by whoever publishes a record and looks after that, or the caller sees the record.
    ///
    /// A role that is not ours any more (its slot was handed out anew under a handle that went stale) is left alone.
    /// `calm`: nothing unusual goes on, so that the role may be kept.
    #[inline]
    #[must_use = "sleepers have to be woken"]
    pub(crate) fn give_back(self, me: Owner, calm: bool) -> bool {
        let seen = self.seen_by_holder(me);
        if seen == me.0 | KEPT {
            if self.go_out(seen) {
                return false;
            }
        } else if seen == me.0 && self.give_back_clean(me, calm) {
            fence_after_rmw();
            return false;
        }
        let waiters = self.give_back_flagged(me, 0).unwrap_or(false);
        fence(Ordering::SeqCst);
        waiters
    }

    /// Gives the match lock back unless SETTLE is set. `Err`: it is still ours, and there is work to do.
    #[inline]
    pub(crate) fn give_back_settled(self, me: Owner, calm: bool) -> Result<bool, ()> {
        let seen = self.seen_by_holder(me);
        let done = if seen == me.0 | KEPT {
            calm && self.go_out(seen)
        } else {
            seen == me.0 && self.give_back_clean(me, calm)
        };
        if done {
            return Ok(false);
        }
        self.give_back_flagged(me, SETTLE)
    }

    /// The word; where roles are never kept, what it is without flags.
    #[inline(always)]
    fn seen_by_holder(self, me: Owner) -> u32 {
        if self.after == KEEP_NEVER {
            me.0
        } else {
            self.word.load(Ordering::Relaxed)
        }
    }

    /// The owner of a kept role leaves. `false`: somebody has asked for it, or left something in it.
    #[inline(always)]
    fn go_out(self, seen: u32) -> bool {
        let turns = self.keep.inside.load(Ordering::Relaxed);
        self.keep.inside.store(turns & !1, Ordering::Release);
        // Pairs with `ask`, and with `Queue::publish_record`.
        barrier::light();
        self.word.load(Ordering::Relaxed) == seen
    }

    /// The usual end of a turn: the word names the owner and nothing else. `false`: it does no longer.
    #[inline]
    fn give_back_clean(self, me: Owner, calm: bool) -> bool {
        let to = if calm && self.is_worth_keeping(me) && self.keep_from_now(me) {
            me.0 | KEPT
        } else {
            0
        };
        self.word
            .compare_exchange(me.0, to, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Counts the owner's turns in a row.
    #[inline]
    fn is_worth_keeping(self, me: Owner) -> bool {
        let keeper = self.keep.keeper.load(Ordering::Relaxed);
        if self.after == KEEP_NEVER || (keeper != 0 && keeper != me.0) {
            return false;
        }
        let turns = if self.keep.last.load(Ordering::Relaxed) == me.0 {
            self.keep.turns.load(Ordering::Relaxed).saturating_add(1)
        } else {
            self.keep.last.store(me.0, Ordering::Relaxed);
            0
        };
        self.keep.turns.store(turns, Ordering::Relaxed);
        turns >= u32::from(self.after)
    }

    /// `false`: somebody has forbidden it meanwhile.
    #[cold]
    fn keep_from_now(self, me: Owner) -> bool {
        let first = self
            .keep
            .keeper
            .compare_exchange(0, me.0, Ordering::SeqCst, Ordering::Relaxed);
        if first.is_err_and(|keeper| keeper != me.0) {
            return false;
        }
        // The next time it has to be earned anew.
        self.keep.turns.store(0, Ordering::Relaxed);
        let inside = self.keep.inside.load(Ordering::Relaxed);
        // Before the word says KEPT: see `take_asked`.
        self.keep
            .inside
            .store((inside & !1).wrapping_add(2), Ordering::Release);
        true
    }

    /// `Err`: one of the flags in `unless` is set, and the role is still ours.
    #[cold]
    fn give_back_flagged(self, me: Owner, unless: u32) -> Result<bool, ()> {
        self.keep.turns.store(0, Ordering::Relaxed);
        for _ in 0..8 {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & OWNER_MASK != me.0 {
                return Ok(false); // taken after we had left, or never ours
            }
            // Ours for certain again, before anything is looked at.
            if seen & (KEPT | ASKED) != 0 {
                let again = self.word.compare_exchange(
                    seen,
                    seen & !(KEPT | ASKED),
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                if again.is_ok() {
                    let inside = self.keep.inside.load(Ordering::Relaxed);
                    self.keep.inside.store(inside & !1, Ordering::Release);
                }
                continue;
            }
            if seen & unless != 0 {
                return Err(());
            }
            if self
                .word
                .compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(seen & WAITERS != 0);
            }
        }
        // Only a peer that scribbles gets us here.
        Ok(self.word.swap(0, Ordering::SeqCst) & WAITERS != 0)
    }

    /// After a record was published: whoever keeps the role either has stored what it stored before this, or sees the
    /// record. It has to earn the role anew, so that this is not paid for each message.
    #[inline]
    pub(crate) fn fence_kept(self) {
        if self.word.load(Ordering::SeqCst) & (KEPT | ASKED) != 0 {
            let _ = self.ask();
        }
    }

    /// The holder takes note of SETTLE (and has repaired what DIRTY spoke of).
    pub(crate) fn clear(self, flags: u32) {
        self.word.fetch_and(!flags, Ordering::SeqCst);
    }

    /// For the holder: whether all that has come to the word since it was `held` is work.
    pub(crate) fn was_left_work(self, held: u32) -> bool {
        self.word.load(Ordering::Relaxed) ^ held == SETTLE
    }

    /// Leaves work for the holder. `false`: nobody holds it any more, so the caller can take it, and finds the flag.
    #[must_use = "nobody holds the lock: the caller settles"]
    pub(crate) fn leave(self, flag: u32) -> bool {
        let old = self.word.fetch_or(flag, Ordering::SeqCst);
        if old & OWNER_MASK == 0 {
            return false;
        }
        old & (KEPT | ASKED) == 0 || self.ask().is_none()
    }

    /// Announces a sleeper. `Some(word)`: wait on that value; `None`: it is free by now.
    pub(crate) fn announce(self) -> Option<u32> {
        if !self.leave(WAITERS) {
            return None;
        }
        // Pairs with the fence in `queue::close`: either it sees the announcement, or the caller the close.
        fence(Ordering::SeqCst);
        let seen = self.word.load(Ordering::SeqCst);
        (seen & OWNER_MASK != 0 && seen & WAITERS != 0).then_some(seen)
    }

    /// Who holds the role; for the holder, to take another role in the same name.
    pub(crate) fn holder(self) -> Option<Owner> {
        let owner = self.word.load(Ordering::Relaxed) & OWNER_MASK;
        (owner != 0).then_some(Owner(owner))
    }

    /// Whether nobody is at work in it just now, as far as can be seen without asking.
    pub(crate) fn is_free(self) -> bool {
        let seen = self.word.load(Ordering::Relaxed);
        seen & OWNER_MASK == 0
            || seen & (KEPT | ASKED) != 0 && self.keep.inside.load(Ordering::Acquire) & 1 == 0
    }

    /// The same for certain: for who is about to hand the memory to others.
    pub(crate) fn is_nobodys(self) -> bool {
        self.word.load(Ordering::SeqCst) & OWNER_MASK == 0 || self.ask().is_some()
    }

    /// Its last owner died, and there was none after it.
    pub(crate) fn is_dirty(self) -> bool {
        self.word.load(Ordering::SeqCst) & DIRTY != 0
    }

    /// The caller has no way to ask for a role that is kept.
    pub(crate) fn forbid_keeping(self) {
        self.keep.keeper.store(NOBODY_MAY_KEEP, Ordering::SeqCst);
    }

    /// Takes the role from a dead owner; `true` if the word has to be woken.
    pub(crate) fn sweep(self, process: ProcessIndex, thread: Option<u32>) -> bool {
        let keeper = self.keep.keeper.load(Ordering::SeqCst);
        if keeper != NOBODY_MAY_KEEP && Owner::names(keeper, process, thread) {
            let _ =
                self.keep
                    .keeper
                    .compare_exchange(keeper, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
        let mut seen = self.word.load(Ordering::SeqCst);
        for _ in 0..64 {
            if !Owner::names(seen, process, thread) {
                return false;
            }
            // SETTLE stays for the next owner: what it asked for is still to be done.
            match self.word.compare_exchange(
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

/// A kept role whose owner was seen to be outside.
#[derive(Clone, Copy, Debug)]
struct Asked {
    word: u32,
    inside: u32,
}

thread_local! {
    /// The calling thread's serial; 0: it has none yet.
    static SERIAL: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// The calling thread's serial: not zero, never used again in this process.
///
/// After 2^24 - 1 threads serials start again, which matters only to a sweep of a single thread.
#[inline]
#[must_use]
pub fn thread_serial() -> u32 {
    static NEXT: process::AtomicU32 = process::AtomicU32::new(1);
    SERIAL.with(|serial| {
        if serial.get() == 0 {
            let next = NEXT.fetch_add(1, process::Ordering::Relaxed) % (SERIALS - 2);
            serial.set(next + 1);
        }
        serial.get()
    })
}

/// A role of its own, for models, tests, and benchmarks of what taking one costs.
#[derive(Debug, Default)]
pub struct RoleProbe {
    word: AtomicU32,
    keep: Keep,
}

impl RoleProbe {
    pub(crate) fn role(&self, after: u8) -> Role<'_> {
        Role {
            word: &self.word,
            keep: &self.keep,
            after,
        }
    }

    /// Takes the role and gives it back; `false` if another thread had it. `kept`: a thread that comes again and again
    /// keeps it.
    #[inline]
    pub fn turn(&self, kept: bool) -> bool {
        let me = Owner(thread_serial());
        let role = self.role(if kept {
            barrier::keep_after()
        } else {
            KEEP_NEVER
        });
        role.try_take(me) == Taken::Clean && role.give_back_settled(me, true).is_ok()
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
        let probe = RoleProbe::default();
        let role = probe.role(KEEP_NEVER);
        assert_eq!(role.try_take(owner(0, 1)), Taken::Clean);
        assert_eq!(role.try_take(owner(0, 1)), Taken::Mine);
        assert!(matches!(role.try_take(owner(1, 1)), Taken::Held(_)));
        assert!(!role.give_back(owner(0, 1), true));
        assert_eq!(role.try_take(owner(1, 1)), Taken::Clean);
    }

    /// A process that keeps no role, with threads of every number, beside any owner, inside or not.
    #[test]
    fn who_keeps_no_role_enters_none_by_the_shortcut() {
        let serial = thread_serial();
        for process in 0..8 {
            let process = ProcessIndex::new(process).expect("small");
            let never = Keeper::of(process, KEEP_NEVER).here();
            let keeps = Keeper::of(process, 3).here();
            for other in 0..8 {
                let other = owner(other, serial);
                let probe = RoleProbe::default();
                let role = probe.role(0);
                assert!(
                    !role.enter_kept(never) && !role.enter_kept(keeps),
                    "it is free"
                );
                assert_eq!(role.try_take(other), Taken::Clean);
                assert!(
                    !role.enter_kept(never) && !role.enter_kept(keeps),
                    "it is held"
                );
                assert!(!role.give_back(other, true));
                assert_eq!(role.holder(), Some(other));
                assert!(!role.enter_kept(never), "it is kept");
                let is_ours = other == Owner::me(process);
                assert_eq!(role.enter_kept(keeps), is_ours);
            }
        }
    }

    #[test]
    fn what_a_dead_owner_held_is_dirty_and_keeps_its_errands() {
        let probe = RoleProbe::default();
        let role = probe.role(KEEP_NEVER);
        assert_eq!(role.try_take(owner(3, 7)), Taken::Clean);
        assert!(role.leave(SETTLE));
        let process = |i| ProcessIndex::new(i).expect("small");
        assert!(!role.sweep(process(3), Some(8)));
        assert!(!role.sweep(process(2), None));
        assert!(role.sweep(process(3), Some(7)));
        assert_eq!(role.try_take(owner(0, 1)), Taken::Dirty);
        assert_eq!(role.give_back_settled(owner(0, 1), true), Err(()));
        role.clear(SETTLE | DIRTY);
        assert_eq!(role.give_back_settled(owner(0, 1), true), Ok(false));
    }

    #[test]
    fn a_sleeper_is_announced_only_while_the_role_is_held() {
        let probe = RoleProbe::default();
        let role = probe.role(KEEP_NEVER);
        assert_eq!(role.announce(), None);
        assert_eq!(role.try_take(owner(0, 1)), Taken::Clean);
        assert!(role.announce().is_some());
        assert!(role.give_back(owner(0, 1), true));
    }

    #[test]
    fn a_role_is_kept_after_some_turns_and_given_to_who_asks() {
        let probe = RoleProbe::default();
        let role = probe.role(3);
        let (one, two) = (owner(0, 1), owner(1, 1));
        for turn in 0..6 {
            assert_eq!(role.try_take(one), Taken::Clean);
            assert!(!role.is_free(), "turn {turn}");
            assert!(!role.give_back(one, true));
            assert_eq!(role.holder(), (turn >= 3).then_some(one), "turn {turn}");
            assert!(role.is_free());
        }
        assert_eq!(role.try_take(one), Taken::Clean);
        assert_eq!(role.try_take(one), Taken::Mine);
        assert!(matches!(role.try_take(two), Taken::Held(_)));
        assert!(!role.give_back(one, true));
        assert_eq!(role.holder(), None, "asked for, hence given back");
        assert_eq!(role.try_take(two), Taken::Clean);
        assert!(!role.give_back(two, true));
    }

    #[test]
    fn only_the_first_to_keep_a_role_ever_keeps_it_until_it_dies() {
        let probe = RoleProbe::default();
        let role = probe.role(0);
        let (first, second) = (owner(3, 1), owner(0, 2));
        let turn = |me| {
            assert_eq!(role.try_take(me), Taken::Clean);
            assert!(!role.give_back(me, true));
            role.holder()
        };
        assert_eq!(turn(first), Some(first));
        assert_eq!(turn(second), None);
        assert_eq!(turn(second), None);
        assert_eq!(turn(first), Some(first));
        assert_eq!(turn(second), None);
        assert!(!role.sweep(ProcessIndex::new(3).expect("small"), None));
        assert_eq!(turn(second), Some(second));
        role.forbid_keeping();
        assert_eq!(turn(first), None);
        assert_eq!(turn(second), None);
        assert!(!role.sweep(ProcessIndex::new(7).expect("small"), None));
        assert_eq!(turn(second), None, "forbidden for good");
    }

    #[test]
    fn a_kept_role_goes_to_who_asks_and_back() {
        let probe = RoleProbe::default();
        let role = probe.role(0);
        for turn in 0..10 {
            let me = owner(0, 1 + turn % 2);
            assert_eq!(role.try_take(me), Taken::Clean, "turn {turn}");
            assert_eq!(role.give_back_settled(me, true), Ok(false));
        }
        assert!(role.is_nobodys());
        assert!(!role.leave(SETTLE), "nobody is inside");
        assert_eq!(role.try_take(owner(2, 1)), Taken::Clean);
        assert_eq!(role.give_back_settled(owner(2, 1), true), Err(()));
    }

    #[test]
    fn what_a_dead_owner_kept_is_dirty() {
        let probe = RoleProbe::default();
        let role = probe.role(0);
        let dead = owner(3, 7);
        assert_eq!(role.try_take(dead), Taken::Clean);
        assert!(!role.give_back(dead, true));
        assert_eq!(role.try_take(dead), Taken::Clean);
        assert!(role.sweep(ProcessIndex::new(3).expect("small"), None));
        assert_eq!(role.try_take(owner(0, 1)), Taken::Dirty);
        role.clear(DIRTY);
        // What the dead one left in `inside` means nothing to who keeps it next.
        assert!(!role.give_back(owner(0, 1), true));
        assert_eq!(role.try_take(owner(0, 1)), Taken::Clean);
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
