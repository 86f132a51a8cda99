//! Whether an end's file object is signalled (NP-IO-04, 05), and who is told when it becomes so.
//!
//! A runtime whose programs wait on a pipe's handle keeps that state here, so that neither an operation that pends nor one
//! that completes is a request to its server. One word for each end:
//!
//! ```text
//! 31       16   11   8        0
//! generation    watcher       signalled        watcher 0: nobody
//! ```
//!
//! The server watches an end while somebody waits on its handle: it sets its number, then looks. Who signals the end changes
//! the same word, so either the server sees that, or whoever signals sees the server, and rings it.

#[cfg(not(loom))]
use crate::{
    Conn, ProcessIndex,
    sync::{AtomicU32, Ordering},
};

const SIGNALED: u32 = 1;
/// The watcher's index in the link, plus one.
pub(crate) const WATCHER_SHIFT: u32 = 8;
#[cfg(not(loom))]
const WATCHER: u32 = 0xf << WATCHER_SHIFT;
/// The low half of the generation: a handle that went stale changes nothing.
pub(crate) const LIFE_SHIFT: u32 = 16;

/// Of a new connection: signalled (NP-IO-04), watched by nobody.
pub(crate) fn first(generation: u32) -> u32 {
    generation << LIFE_SHIFT | SIGNALED
}

#[cfg(not(loom))]
impl Conn {
    /// An operation of this end that signals its file object pends: it is not signalled any more (NP-IO-05).
    pub fn unsignal(&self) {
        let _ = self.change_signal(|word| word & !SIGNALED);
    }

    /// One has completed: it is signalled, and if it was not, whoever watches it is rung.
    pub fn signal(&self) {
        let Some(before) = self.change_signal(|word| word | SIGNALED) else {
            return;
        };
        if before & SIGNALED == 0
            && let Some(watcher) = watcher_of(before)
        {
            self.link().bell(watcher).ring(self.slot());
        }
    }

    /// Whether it is signalled; one whose slot serves another connection is.
    #[must_use]
    pub fn is_signaled(&self) -> bool {
        let (word, generation) = self.signaled();
        let word = word.load(Ordering::SeqCst);
        word & SIGNALED != 0 || !is_of(word, generation)
    }

    /// This process is rung for this slot when the end becomes signalled, or is so no more. To be followed by a look
    /// ([`Conn::is_signaled`]). One process at a time.
    pub fn watch(&self, on: bool) {
        let number = u32::from(self.link().process().get()) + 1;
        let watcher = if on { number << WATCHER_SHIFT } else { 0 };
        let _ = self.change_signal(|word| word & !WATCHER | watcher);
    }

    /// The word as it was before. `None`: the slot serves another connection; or the word did not hold still, which only a
    /// process does to itself and its peer that scribbles.
    fn change_signal(&self, change: impl Fn(u32) -> u32) -> Option<u32> {
        let (word, generation) = self.signaled();
        change_word(word, generation, change)
    }
}

#[cfg(not(loom))]
fn change_word(word: &AtomicU32, generation: u32, change: impl Fn(u32) -> u32) -> Option<u32> {
    let mut seen = word.load(Ordering::SeqCst);
    for _ in 0..64 {
        if !is_of(seen, generation) {
            return None;
        }
        let next = change(seen);
        if next == seen {
            return Some(seen);
        }
        match word.compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Some(seen),
            Err(now) => seen = now,
        }
    }
    None
}

#[cfg(not(loom))]
fn is_of(word: u32, generation: u32) -> bool {
    word >> LIFE_SHIFT == generation & (u32::MAX >> LIFE_SHIFT)
}

/// Any process may have stored anything: a number that no process has is nobody's.
#[cfg(not(loom))]
fn watcher_of(word: u32) -> Option<ProcessIndex> {
    let number = (word & WATCHER) >> WATCHER_SHIFT;
    u8::try_from(number.checked_sub(1)?)
        .ok()
        .and_then(ProcessIndex::new)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_changes_nothing() {
        let word = AtomicU32::new(first(0x1_0007));
        assert_eq!(change_word(&word, 8, |_| 0), None);
        assert_eq!(
            change_word(&word, 7, |word| word & !SIGNALED),
            Some(first(7))
        );
        assert_eq!(word.load(Ordering::Relaxed), 7 << LIFE_SHIFT);
    }

    #[test]
    fn a_watcher_is_a_process_of_the_link() {
        let watcher = |number: u32| watcher_of(number << WATCHER_SHIFT).map(ProcessIndex::get);
        assert_eq!(watcher(0), None);
        assert_eq!(watcher(1), Some(0));
        assert_eq!(watcher(8), Some(7));
        assert_eq!(watcher(9), None);
        assert_eq!(watcher_of(first(u32::MAX)), None);
    }
}
