//! A value that is set once. UNSAFE.
//!
//! `OnceLock` would do, but for the panic that is in it.

use std::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    sync::atomic::{AtomicU32, Ordering},
};

/// Nothing, and from some moment on a value for good.
pub(super) struct Once<T> {
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

const EMPTY: u32 = 0;
const BEING_SET: u32 = 1;
const SET: u32 = 2;

// SAFETY: the value is written by the one who makes the state BEING_SET, and read by reference from SET on.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// For statics: what is in it is never dropped.
    pub(super) const fn new() -> Once<T> {
        Once {
            state: AtomicU32::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    #[inline]
    pub(super) fn get(&'static self) -> Option<&'static T> {
        // Acquire: the value was written before.
        if self.state.load(Ordering::Acquire) != SET {
            return None;
        }
        // SAFETY: SET: it was written, and is not any more.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value comes back if another was set, or is being set.
    pub(super) fn set(&'static self, value: T) -> Result<(), T> {
        let ours =
            self.state
                .compare_exchange(EMPTY, BEING_SET, Ordering::Relaxed, Ordering::Relaxed);
        if ours.is_err() {
            return Err(value);
        }
        // SAFETY: this thread alone has made it BEING_SET, and nobody reads it until it is SET.
        unsafe { (*self.value.get()).write(value) };
        self.state.store(SET, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        static WORD: Once<String> = Once::new();
        assert!(WORD.get().is_none());
        let winners: u32 = std::thread::scope(|scope| {
            let setters =
                [1, 2, 3].map(|n: u32| scope.spawn(move || WORD.set(n.to_string()).is_ok()));
            setters
                .map(|setter| u32::from(setter.join().expect("no panic")))
                .iter()
                .sum()
        });
        assert_eq!(winners, 1);
        let first = WORD.get().expect("a value").clone();
        assert_eq!(WORD.set("another".to_owned()), Err("another".to_owned()));
        assert_eq!(WORD.get(), Some(&first));
    }
}
