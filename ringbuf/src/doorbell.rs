//! One bell per process: how a sleeping event loop learns that something happened on one of its slots.
//!
//! Who completes something for another process's loop sets the slot's bit in that process's ready bitmap and rings if
//! the bell is armed. A loop that is awake scans the bitmap in memory and is never rung; one that wants to sleep arms
//! the bell first and scans once more.
//!
//! ```text
//! loop                                  ringer
//! 1. armed = 1                          a. ready |= slot, summary |= word   (Release)
//! 2. fence SeqCst                       b. fence SeqCst
//! 3. summary still empty? sleep         c. armed? take it, bump the word, wake
//! ```
//!
//! Only a ringer disarms: several threads may sleep here, and one that leaves must not silence the bell for the rest.
//! The price is one wake-up for nothing.

use crate::{
    futex,
    layout::BellPage,
    sync::{AtomicU32, Ordering, fence},
};

/// A view of one process's bell.
#[derive(Clone, Copy, Debug)]
pub struct Bell<'a> {
    page: &'a BellPage,
}

impl<'a> Bell<'a> {
    #[inline]
    pub(crate) fn new(page: &'a BellPage) -> Bell<'a> {
        Bell { page }
    }

    /// Marks a slot as ready: `true` if the process sleeps and has to be woken ([`Bell::wake`]).
    ///
    /// A slot beyond the bitmap (a number that no link has) is ignored.
    #[must_use = "a ring that is not delivered leaves the process asleep"]
    pub fn mark(&self, slot: u32) -> bool {
        let index = slot as usize / 64;
        let Some(word) = self.page.ready.get(index) else {
            return false;
        };
        word.fetch_or(1 << (slot % 64), Ordering::Release); // a
        self.page.summary.fetch_or(1 << index, Ordering::Release);
        fence(Ordering::SeqCst); // b: pairs with 2, in `arm`
        self.page.armed.load(Ordering::Relaxed) != 0
            && self.page.armed.swap(0, Ordering::AcqRel) != 0
    }

    /// [`Bell::mark`], and [`Bell::wake`] if need be.
    pub fn ring(&self, slot: u32) {
        if self.mark(slot) {
            self.wake();
        }
    }

    /// Wakes the process, after [`Bell::mark`] has said so.
    #[inline]
    pub fn wake(&self) {
        self.page.word.fetch_add(1, Ordering::Release);
        futex::wake(&self.page.word);
    }

    /// The loop is about to sleep: the value to wait on, or `None` if a slot is ready already.
    #[must_use]
    pub fn arm(&self) -> Option<u32> {
        let value = self.page.word.load(Ordering::Acquire);
        self.page.armed.store(1, Ordering::Relaxed); // 1
        fence(Ordering::SeqCst); // 2: pairs with b, in `mark`
        (self.page.summary.load(Ordering::Acquire) == 0).then_some(value) // 3
    }

    /// Whether a slot is ready. One load: for a loop that is awake.
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.page.summary.load(Ordering::Relaxed) != 0
    }

    /// The word that a sleeper sleeps on, while it is what [`Bell::arm`] has said.
    pub(crate) fn word(&self) -> &'a AtomicU32 {
        &self.page.word
    }

    /// The same for those who let the kernel wait for it in their own way: a shared futex of 32 bits, mapped as long as the
    /// link is.
    #[cfg(not(loom))]
    #[must_use]
    pub fn futex(&self) -> *const u32 {
        self.page.word.as_ptr()
    }

    /// Whether it would have to be woken.
    #[must_use]
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.page.armed.load(Ordering::Relaxed) != 0
    }

    /// Takes every ready slot. A bit set while this runs is found by this or by the next call.
    pub fn take(&self, mut ready: impl FnMut(u32)) {
        let mut words = self.page.summary.swap(0, Ordering::AcqRel);
        let mut index = 0_u32;
        while words != 0 {
            let step = words.trailing_zeros();
            index += step;
            words = words.checked_shr(step + 1).unwrap_or(0);
            if let Some(word) = self.page.ready.get(index as usize) {
                let mut bits = word.swap(0, Ordering::AcqRel);
                while bits != 0 {
                    ready(index * 64 + bits.trailing_zeros());
                    bits &= bits - 1;
                }
            }
            index += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_owes_one_wake_up() {
        let page = BellPage::default();
        let bell = Bell::new(&page);
        assert!(!bell.mark(1));
        bell.take(|_| {});
        assert!(bell.arm().is_some());
        assert!(bell.mark(5));
        assert!(!bell.mark(6));
        assert_eq!(bell.arm(), None);
    }

    #[test]
    fn every_ready_slot_is_taken_once() {
        let page = BellPage::default();
        let bell = Bell::new(&page);
        for slot in [0, 63, 64, 4095, 63, u32::MAX] {
            let _ = bell.mark(slot);
        }
        let mut taken = Vec::new();
        bell.take(|slot| taken.push(slot));
        assert_eq!(taken, [0, 63, 64, 4095]);
        bell.take(|slot| panic!("{slot} again"));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::{sync::Arc, thread};

    /// No interleaving sleeps on a ready slot without being owed a wake-up.
    /// Seen to fail without fence 2, and without fence b.
    #[test]
    fn no_ready_slot_is_slept_on() {
        loom::model(|| {
            let page = Arc::new(BellPage::default());
            let ringer = thread::spawn({
                let page = page.clone();
                move || Bell::new(&page).mark(3)
            });
            let sleeps = Bell::new(&page).arm().is_some();
            let rung = ringer.join().unwrap();
            assert!(
                !sleeps || rung,
                "asleep on a ready slot, and nobody will ring"
            );
        });
    }

    /// A slot that is marked while the ready ones are taken is found by this look or by the next.
    /// Seen to fail when `take` clears the summary after the bits, and when `mark` sets the summary first.
    #[test]
    fn no_marked_slot_is_lost() {
        loom::model(|| {
            let page = Arc::new(BellPage::default());
            let ringer = thread::spawn({
                let page = page.clone();
                move || {
                    let _ = Bell::new(&page).mark(3);
                    let _ = Bell::new(&page).mark(5);
                }
            });
            let bell = Bell::new(&page);
            let mut taken = Vec::new();
            bell.take(|slot| taken.push(slot));
            ringer.join().unwrap();
            bell.take(|slot| taken.push(slot));
            taken.sort_unstable();
            assert_eq!(taken, [3, 5], "a slot was lost, or taken twice");
        });
    }

    /// Of two sleepers, one that leaves does not silence the bell for the other: the ring reaches the word.
    /// Seen to fail when `take` disarms.
    #[test]
    fn a_leaving_sleeper_silences_nobody() {
        loom::model(|| {
            let page = Arc::new(BellPage::default());
            let leaver = thread::spawn({
                let page = page.clone();
                move || {
                    let _ = Bell::new(&page).arm();
                    Bell::new(&page).take(|_| {});
                }
            });
            let bell = Bell::new(&page);
            let sleeps = bell.arm();
            leaver.join().unwrap();
            if sleeps.is_some() {
                assert!(bell.mark(3), "the bell was silenced");
            }
        });
    }
}
