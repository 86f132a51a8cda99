//! A pended operation in shared memory: a read that waits for data, a write that waits for quota, a flush.
//!
//! Its state is one word, changed by compare-exchange, so that whoever withdraws it needs no lock, and so that match
//! and withdrawal exclude each other:
//!
//! ```text
//!            publish (lock)            match (lock)              owner has copied
//!     FREE ----------------> PENDING ---------------> DONE -----------------------> COPIED
//!      ^                     |  |  ^                                                   |
//!      |                     |  |  +- STREAM (a read that takes more than the area)     |
//!      |          cancel,    |  +---> WITHDRAWN(why): by the peer's close, a disconnect |
//!      |          deadline   v          |  owner has seen it                            |
//!      +-----  reap (lock) ABANDONED <--+                                               |
//!      +--------------------------------------------------------------------------------+
//! ```
//!
//! The word is the futex that the owner sleeps on: ASLEEP tells whoever changes it to wake, KICK is set to make the
//! owner look around without a change of state. The upper half counts the record's lives.

use crate::{
    layout::Record,
    role::Owner,
    sync::{AtomicU32, Ordering},
    types::ProcessIndex,
};

/// Where a record is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    Free = 0,
    Pending = 1,
    Stream = 2,
    Done = 3,
    Copied = 4,
    Withdrawn = 5,
    Abandoned = 6,
}

/// What the record is for. Bits beside the kind are in [`NO_QUOTA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
}

/// Why somebody else withdrew a record, or how a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Outcome {
    Whole = 0,
    Part = 1,
    Broken = 2,
    Disconnected = 3,
    Cancelled = 4,
    /// A streaming read whose writer gave up in the middle.
    Cut = 5,
}

const PHASE: u32 = 0xf;
const ASLEEP: u32 = 1 << 4;
const KICK: u32 = 1 << 5;
const OUTCOME_SHIFT: u32 = 8;
const OUTCOME: u32 = 0xf << OUTCOME_SHIFT;
const LIFE: u32 = 1 << 16;

/// A loaded state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u32);

impl Word {
    pub(crate) fn phase(self) -> Phase {
        match self.0 & PHASE {
            1 => Phase::Pending,
            2 => Phase::Stream,
            3 => Phase::Done,
            4 => Phase::Copied,
            5 => Phase::Withdrawn,
            6 => Phase::Abandoned,
            // A peer may have stored anything: what is no phase is not in use.
            _ => Phase::Free,
        }
    }

    pub(crate) fn outcome(self) -> Outcome {
        match (self.0 & OUTCOME) >> OUTCOME_SHIFT {
            0 => Outcome::Whole,
            1 => Outcome::Part,
            3 => Outcome::Disconnected,
            4 => Outcome::Cancelled,
            5 => Outcome::Cut,
            _ => Outcome::Broken,
        }
    }

    fn to(self, phase: Phase, outcome: Outcome) -> Word {
        Word(self.0 & !(LIFE - 1) | phase as u32 | (outcome as u32) << OUTCOME_SHIFT)
    }

    pub(crate) fn asleep(self) -> bool {
        self.0 & ASLEEP != 0
    }

    /// Its owner sleeps, and nothing has come since.
    pub(crate) fn is_at_rest(self) -> bool {
        matches!(self.phase(), Phase::Pending | Phase::Stream) && self.0 & (KICK | ASLEEP) == ASLEEP
    }

    pub(crate) fn life(self) -> u32 {
        self.0 / LIFE
    }
}

/// What a change of a record's state asks of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Another change came first; the word as it is now.
    Lost(Word),
    /// Made; nobody sleeps on it.
    Made,
    /// Made; the owner sleeps on the word and has to be woken.
    Wake,
}

impl Change {
    pub(crate) fn made(self) -> bool {
        !matches!(self, Change::Lost(_))
    }
}

impl Record {
    pub(crate) fn word(&self) -> Word {
        Word(self.state.load(Ordering::Acquire))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.word().phase()
    }

    pub(crate) fn kind_of(&self) -> Kind {
        match self.kind.load(Ordering::Relaxed) {
            0 => Kind::Read,
            1 => Kind::Write,
            _ => Kind::Flush,
        }
    }

    /// The lock's holder begins a new life; the caller publishes the record's bit afterwards.
    pub(crate) fn begin(&self, kind: Kind, phase: Phase) -> Word {
        self.kind.store(
            match kind {
                Kind::Read => 0,
                Kind::Write => 1,
                Kind::Flush => 2,
            },
            Ordering::Relaxed,
        );
        self.cookie.store(0, Ordering::Relaxed);
        let word = self.next_life(phase);
        self.state.store(word.0, Ordering::Release);
        word
    }

    /// The same of a read that its owner polls, and that is matched at its bell if somebody else matches it.
    pub(crate) fn begin_polled(&self) -> Word {
        self.kind.store(0, Ordering::Relaxed);
        self.cookie.store(BELL, Ordering::Relaxed);
        let word = Word(self.next_life(Phase::Pending).0 | ASLEEP);
        self.state.swap(word.0, Ordering::SeqCst);
        word
    }

    fn next_life(&self, phase: Phase) -> Word {
        let old = self.state.load(Ordering::Relaxed);
        Word(old.wrapping_add(LIFE) & !(LIFE - 1)).to(phase, Outcome::Whole)
    }

    /// The lock's holder ends it; its number stays, for the next one to count on.
    pub(crate) fn end_life(&self) {
        let old = self.word();
        self.state
            .store(old.to(Phase::Free, Outcome::Whole).0, Ordering::Release);
    }

    /// `from` -> `to`, keeping the record's life.
    pub(crate) fn change(&self, from: Phase, to: Phase, outcome: Outcome) -> Change {
        self.change_in(None, from, to, outcome)
    }

    /// The same, in one life of the record only.
    pub(crate) fn change_in(
        &self,
        life: Option<u32>,
        from: Phase,
        to: Phase,
        outcome: Outcome,
    ) -> Change {
        let mut seen = self.word();
        // ASLEEP and KICK may change under us, by the owner and by kicks: bounded all the same.
        for _ in 0..64 {
            if seen.phase() != from || life.is_some_and(|life| life != seen.life()) {
                return Change::Lost(seen);
            }
            match self.state.compare_exchange(
                seen.0,
                seen.to(to, outcome).0,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) if seen.asleep() => return Change::Wake,
                Ok(_) => return Change::Made,
                Err(now) => seen = Word(now),
            }
        }
        Change::Lost(seen)
    }

    /// Makes the owner look around. `true`: it sleeps and has to be woken.
    pub(crate) fn kick(&self) -> bool {
        let mut seen = self.word();
        for _ in 0..64 {
            if !matches!(seen.phase(), Phase::Pending | Phase::Stream) || seen.0 & KICK != 0 {
                return false;
            }
            match self.state.compare_exchange(
                seen.0,
                (seen.0 | KICK) & !ASLEEP,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return seen.asleep(),
                Err(now) => seen = Word(now),
            }
        }
        true
    }

    /// The owner: `true` if somebody has kicked it since it last asked.
    pub(crate) fn take_kick(&self) -> bool {
        self.state.load(Ordering::Relaxed) & KICK != 0
            && self.state.fetch_and(!KICK, Ordering::AcqRel) & KICK != 0
    }

    /// The owner does not sleep on this word but at its process's bell, which is rung in its place.
    pub(crate) fn belongs_to_the_bell(&self) {
        self.cookie.store(BELL, Ordering::Release);
    }

    /// The owner is awake and looks: nobody needs to ring.
    pub(crate) fn wake_up(&self) {
        self.state.fetch_and(!ASLEEP, Ordering::AcqRel);
    }

    /// The word, if its owner rests at the bell already, and nothing has come since.
    pub(crate) fn rests(&self) -> Option<u32> {
        let seen = self.word();
        (seen.is_at_rest() && self.cookie.load(Ordering::Relaxed) == BELL).then_some(seen.0)
    }

    /// The owner is about to sleep: `Some(word)` is the value to wait on; `None`: there is something to look at.
    pub(crate) fn fall_asleep(&self) -> Option<u32> {
        let seen = self.word();
        if !matches!(seen.phase(), Phase::Pending | Phase::Stream) || seen.0 & KICK != 0 {
            return None;
        }
        let asleep = seen.0 | ASLEEP;
        self.state
            .compare_exchange(seen.0, asleep, Ordering::AcqRel, Ordering::Acquire)
            .ok()
            .map(|_| asleep)
    }
}

/// What a record's cookie holds while its owner waits at its process's bell.
const BELL: u32 = 1;

/// A place for the words that have to be woken once the lock has been given back, and for the bells that have to be rung.
#[derive(Debug, Default)]
pub(crate) struct Wakes<'a> {
    words: [Option<&'a AtomicU32>; Wakes::ROOM],
    count: usize,
    /// A bit for each process whose bell is to be rung for this slot.
    bells: u8,
    /// Cookies are not believed: see [`Wakes::certain`].
    certain: bool,
}

impl<'a> Wakes<'a> {
    /// Few, since every call clears them.
    const ROOM: usize = 4;

    /// For whoever acts after a process that may have changed cookies and owners: everybody is woken, asleep at a word or
    /// at a bell.
    pub(crate) fn certain() -> Wakes<'a> {
        Wakes {
            bells: u8::MAX,
            certain: true,
            ..Wakes::default()
        }
    }

    pub(crate) fn add(&mut self, word: &'a AtomicU32) {
        if let Some(place) = self.words.get_mut(self.count) {
            *place = Some(word);
            self.count += 1;
        } else {
            // Full: only when several wait. Waking early is merely slower.
            crate::futex::wake(word);
        }
    }

    /// The owner of a record, wherever it sleeps.
    pub(crate) fn add_owner(&mut self, record: &'a Record) {
        if record.cookie.load(Ordering::Acquire) == BELL {
            // By now it may be another's, who looks in vain; a number that no process has is nobody's.
            let owner = Owner::process_of(record.owner.load(Ordering::Relaxed));
            self.bells |= owner.map_or(0, |process| 1 << process.get());
            if !self.certain {
                return;
            }
        }
        self.add(&record.state);
    }

    /// Wakes them all; `true` if there was anybody. `ring` is called for each process whose bell is to be rung.
    #[inline]
    pub(crate) fn deliver(&mut self, ring: impl FnMut(ProcessIndex)) -> bool {
        if self.count == 0 && self.bells == 0 {
            return false;
        }
        self.deliver_some(ring);
        true
    }

    #[cold]
    fn deliver_some(&mut self, ring: impl FnMut(ProcessIndex)) {
        let bells = std::mem::take(&mut self.bells);
        let rung = ProcessIndex::all().filter(|process| bells & 1 << process.get() != 0);
        rung.for_each(ring);
        for word in self.words.iter_mut().take(self.count) {
            if let Some(word) = word.take() {
                crate::futex::wake(word);
            }
        }
        self.count = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn match_and_withdrawal_exclude_each_other() {
        let record = Record::default();
        record.begin(Kind::Read, Phase::Pending);
        assert!(
            record
                .change(Phase::Pending, Phase::Done, Outcome::Part)
                .made()
        );
        assert!(
            !record
                .change(Phase::Pending, Phase::Abandoned, Outcome::Whole)
                .made()
        );
        assert_eq!(record.word().outcome(), Outcome::Part);
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let record = Record::default();
        record.begin(Kind::Read, Phase::Pending);
        assert!(record.fall_asleep().is_some());
        assert!(record.kick());
        assert!(!record.kick());
        assert_eq!(record.fall_asleep(), None);
        assert!(record.take_kick());
        assert!(record.fall_asleep().is_some());
        assert_eq!(
            record.change(Phase::Pending, Phase::Done, Outcome::Whole),
            Change::Wake
        );
    }

    #[test]
    fn garbage_is_no_phase() {
        let record = Record::default();
        for word in [7, 0xf, 0xffff_ffff, 9] {
            record.state.store(word, Ordering::Relaxed);
            assert_eq!(record.phase(), Phase::Free);
        }
    }
}
