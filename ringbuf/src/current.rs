//! A value that is looked at all the time and replaced now and then, such as the connection of a server end. UNSAFE.
//!
//! A reference count would cost each call two locked instructions. Here whoever looks says so in a word of its own
//! thread, with a plain store, and whoever replaces the value frees the old one only when no thread's word names it
//! (a hazard pointer, after Michael, IEEE TPDS 15(6), 2004). Between the two stands `membarrier(2)`, which the replacer
//! pays for alone.
//!
//! ```text
//! get                                   set
//! a. load the value                     1. swap the value
//! b. own word = it                      2. heavy fence
//! c. light fence                        3. look at all words: named? keep it for later
//! d. the same value still? use it          else free it
//! ```
//!
//! Either 3 sees b, or d sees 1.

use std::{
    fmt,
    marker::PhantomData,
    ops::Deref,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    barrier,
    sync::{AtomicPtr, AtomicU32, Ordering, fence},
};

/// One value, or none, that any thread may look at while another replaces it.
pub struct Current<T> {
    value: AtomicPtr<T>,
    /// Lookers whose thread's word was in use already.
    pins: AtomicU32,
    retired: Mutex<Option<Box<Retired<T>>>>,
}

/// Replaced, and perhaps still looked at. Behind a pointer, since most values are never replaced, and of those that are,
/// hardly any is still looked at.
struct Retired<T>(Vec<NonNull<T>>);

// SAFETY: it owns its values as a `Mutex<Vec<Box<T>>>` would, and lends them to several threads at once.
unsafe impl<T: Send + Sync> Send for Current<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Current<T> {}

impl<T> fmt::Debug for Current<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl<T> Default for Current<T> {
    fn default() -> Current<T> {
        Current::new()
    }
}

impl<T> Current<T> {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Current<T> {
        Current {
            value: AtomicPtr::new(ptr::null_mut()),
            pins: AtomicU32::new(0),
            retired: Mutex::new(None),
        }
    }

    /// Names what is there in `word`, so that it is not freed.
    #[inline]
    fn protect(&self, word: &AtomicPtr<()>) -> Option<NonNull<T>> {
        loop {
            let value = self.value.load(Ordering::Acquire); // a
            let found = NonNull::new(value)?;
            // Release: who reads this in 3 sees also what this thread did with the value that it named before.
            word.store(value.cast(), Ordering::Release); // b
            barrier::light(); // c: pairs with 2
            if self.value.load(Ordering::Acquire) == value {
                return Some(found); // d
            }
            word.store(ptr::null_mut(), Ordering::Release);
        }
    }

    fn exchange<'w>(&self, value: Option<T>, words: impl Fn() -> Vec<&'w AtomicPtr<()>>) {
        let value = value.map_or(ptr::null_mut(), |value| {
            Arc::into_raw(Arc::new(value)).cast_mut()
        });
        let old = self.value.swap(value, Ordering::SeqCst); // 1
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = retired.take().map_or_else(Vec::new, |retired| retired.0);
        all.extend(NonNull::new(old));
        if all.is_empty() {
            return;
        }
        barrier::heavy_here(); // 2: pairs with c
        if self.pins.load(Ordering::SeqCst) != 0 {
            *retired = Some(Box::new(Retired(all)));
            return;
        }
        // 3. Acquire: what the looker did with the value comes before it is freed.
        let words = words();
        let named = words.iter().map(|word| word.load(Ordering::Acquire));
        let named: Vec<*mut ()> = named.collect();
        let (kept, free): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|value| named.contains(&value.as_ptr().cast()));
        if !kept.is_empty() {
            *retired = Some(Box::new(Retired(kept)));
        }
        drop(retired);
        for value in free {
            // SAFETY:
            // - It came from `Arc::into_raw`, was swapped out, and was taken out of `retired` if it stood there: nobody else
            //   gives this count of it back.
            // - No thread's word names it and nobody is pinned, after a fence that follows the swap: who names it
            //   later finds another value in d.
            drop(unsafe { Arc::from_raw(value.as_ptr()) });
        }
    }
}

impl<T> Drop for Current<T> {
    fn drop(&mut self) {
        let value = self.value.swap(ptr::null_mut(), Ordering::SeqCst);
        let retired = self
            .retired
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let retired = retired.take().map_or_else(Vec::new, |retired| retired.0);
        for value in retired.into_iter().chain(NonNull::new(value)) {
            // SAFETY: from `Arc::into_raw`, and no `Held` is left, since each borrows this.
            drop(unsafe { Arc::from_raw(value.as_ptr()) });
        }
    }
}

#[cfg(not(loom))]
mod held {
    use std::cell::Cell;

    use super::*;
    use crate::sync::process::AtomicBool;

    impl<T> Current<T> {
        /// What is there just now. It stays alive while it is held, whatever happens; hold it as long as you like.
        #[inline]
        pub fn get(&self) -> Option<Held<'_, T>> {
            match self.glance() {
                Some(named) => Some(named.into()),
                None => self.get_otherwise(),
            }
        }

        /// The same, if this thread has looked before and holds nothing: for calls that have another way.
        #[inline(always)]
        pub fn glance(&self) -> Option<Named<'_, T>> {
            let word = WORD.get()?;
            if !word.named.load(Ordering::Relaxed).is_null() {
                return None;
            }
            self.name(word)
        }

        /// What is there, named in a word that is in no use.
        #[inline(always)]
        fn name(&self, word: &'static Word) -> Option<Named<'_, T>> {
            let value = self.protect(&word.named)?;
            Some(Named {
                value,
                word,
                of: PhantomData,
            })
        }

        #[cold]
        fn get_otherwise(&self) -> Option<Held<'_, T>> {
            if let Some(word) = WORD.get().or_else(take_word)
                && word.named.load(Ordering::Relaxed).is_null()
            {
                return self.name(word).map(Held::from);
            }
            self.pins.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let Some(value) = NonNull::new(self.value.load(Ordering::SeqCst)) else {
                self.pins.fetch_sub(1, Ordering::SeqCst);
                return None;
            };
            let pins = &self.pins;
            Some(Held(Kept::Pinned { value, pins }))
        }

        /// Puts another value there, or none. The old one is dropped when nobody holds it any more: now, or when the
        /// next one is put there.
        pub fn set(&self, value: Option<T>) {
            self.exchange(value, || {
                let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
                words.iter().map(|word| &word.named).collect()
            });
        }
    }

    /// A value that this thread's word names.
    #[derive(Debug)]
    pub struct Named<'c, T> {
        value: NonNull<T>,
        word: &'static Word,
        /// Also keeps it on this thread, whose word it is.
        of: PhantomData<(&'c Current<T>, *const ())>,
    }

    impl<T> Deref for Named<'_, T> {
        type Target = T;

        #[inline(always)]
        fn deref(&self) -> &T {
            // SAFETY: this thread's word names it: `exchange` does not free it until then.
            unsafe { self.value.as_ref() }
        }
    }

    impl<T> Drop for Named<'_, T> {
        #[inline(always)]
        fn drop(&mut self) {
            self.word.named.store(ptr::null_mut(), Ordering::Release);
        }
    }

    /// A value that is looked at.
    #[derive(Debug)]
    pub struct Held<'c, T>(Kept<'c, T>);

    #[derive(Debug)]
    enum Kept<'c, T> {
        Named(Named<'c, T>),
        /// Counted.
        Pinned {
            value: NonNull<T>,
            pins: &'c AtomicU32,
        },
    }

    impl<'c, T> From<Named<'c, T>> for Held<'c, T> {
        #[inline(always)]
        fn from(named: Named<'c, T>) -> Held<'c, T> {
            Held(Kept::Named(named))
        }
    }

    impl<T> Held<'_, T> {
        #[inline(always)]
        fn value(&self) -> NonNull<T> {
            match &self.0 {
                Kept::Named(named) => named.value,
                Kept::Pinned { value, .. } => *value,
            }
        }

        /// To keep, on whatever thread: a count of its own.
        #[must_use]
        pub fn share(&self) -> Arc<T> {
            let value = self.value();
            // SAFETY: the pointer is from `Arc::into_raw`, and the count that `Current` has of it is not given back while
            // this thread's word names it, or `pins` counts this.
            unsafe {
                Arc::increment_strong_count(value.as_ptr());
                Arc::from_raw(value.as_ptr())
            }
        }
    }

    impl<T> Deref for Held<'_, T> {
        type Target = T;

        #[inline]
        fn deref(&self) -> &T {
            // SAFETY: this thread's word names it, or `pins` counts this: `exchange` does not free it until then.
            unsafe { self.value().as_ref() }
        }
    }

    impl<T> Drop for Held<'_, T> {
        #[inline]
        fn drop(&mut self) {
            if let Kept::Pinned { pins, .. } = &self.0 {
                pins.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// What one thread looks at. Never freed: the thread's successor takes it.
    #[derive(Debug)]
    struct Word {
        named: AtomicPtr<()>,
        taken: AtomicBool,
    }

    /// All words.
    static WORDS: Mutex<Vec<&'static Word>> = Mutex::new(Vec::new());

    thread_local! {
        /// This thread's word, once it has taken one. Apart from its owner, so that a look needs to know nothing of its end.
        static WORD: Cell<Option<&'static Word>> = const { Cell::new(None) };
        static OWN: Own = const { Own(Cell::new(None)) };
    }

    /// Gives a thread's word back at its end.
    struct Own(Cell<Option<&'static Word>>);

    impl Drop for Own {
        fn drop(&mut self) {
            WORD.set(None);
            if let Some(word) = self.0.get() {
                word.taken.store(false, Ordering::SeqCst);
            }
        }
    }

    /// A word for this thread. `None`: it is at its very end, where values of its own are dropped, too.
    fn take_word() -> Option<&'static Word> {
        let taken = OWN.try_with(|own| {
            let word = free_word();
            own.0.set(Some(word));
            WORD.set(Some(word));
            word
        });
        taken.ok()
    }

    fn free_word() -> &'static Word {
        let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = words
            .iter()
            .find(|word| !word.taken.swap(true, Ordering::SeqCst));
        match free {
            Some(word) => word,
            None => {
                let word: &'static Word = Box::leak(Box::new(Word {
                    named: AtomicPtr::new(ptr::null_mut()),
                    taken: AtomicBool::new(true),
                }));
                words.push(word);
                word
            }
        }
    }
}

#[cfg(not(loom))]
pub use held::{Held, Named};

#[cfg(all(test, not(loom)))]
#[allow(
    clippy::disallowed_types,
    reason = "what the tests count with is no part of what they test"
)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    };
    use std::thread;

    use super::*;

    /// Counts those alive, and says so if it is looked at afterwards.
    struct Value {
        number: usize,
        alive: Arc<AtomicUsize>,
    }

    impl Value {
        fn new(number: usize, alive: &Arc<AtomicUsize>) -> Value {
            alive.fetch_add(1, Ordering::SeqCst);
            Value {
                number,
                alive: alive.clone(),
            }
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.number = usize::MAX;
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_held_stays_and_what_is_not_goes() {
        let alive = Arc::default();
        let current = Current::<Value>::new();
        assert!(current.get().is_none());
        current.set(Some(Value::new(1, &alive)));
        let first = current.get().expect("set");
        let nested = current.get().expect("set");
        current.set(Some(Value::new(2, &alive)));
        assert_eq!((first.number, nested.number), (1, 1));
        assert_eq!(current.get().expect("set").number, 2);
        assert_eq!(alive.load(Ordering::SeqCst), 2);
        drop((first, nested));
        current.set(None);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        current.set(Some(Value::new(3, &alive)));
        drop(current);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn lookers_and_a_replacer() {
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let alive = Arc::default();
        let current = Current::<Value>::new();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !over.load(Ordering::SeqCst) {
                        if let Some(value) = current.get() {
                            let number = value.number;
                            assert!(number >= last && number <= rounds, "{number} after {last}");
                            last = number;
                        }
                    }
                });
            }
            for number in 1..=rounds {
                current.set(Some(Value::new(number, &alive)));
            }
            over.store(true, Ordering::SeqCst);
        });
        current.set(None);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::{sync::Arc, thread};

    use super::*;

    /// A value that says whether it was dropped, outside of itself.
    struct Value(Arc<AtomicU32>);

    impl Drop for Value {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }
    }

    /// Nobody looks at a value that was freed. Seen to fail without fence 2 (mutation `current-without-heavy`), and
    /// without look d (`current-without-look`).
    #[test]
    fn what_is_looked_at_is_not_freed() {
        loom::model(|| {
            let freed = Arc::new(AtomicU32::new(0));
            let word = Arc::new(AtomicPtr::new(ptr::null_mut()));
            let current = Arc::new(Current::new());
            current.exchange(Some(Value(freed.clone())), Vec::new);
            let looker = thread::spawn({
                let (current, word, freed) = (current.clone(), word.clone(), freed.clone());
                move || {
                    if current.protect(&word).is_some() {
                        let freed = freed.load(Ordering::Relaxed);
                        word.store(ptr::null_mut(), Ordering::Release);
                        assert_eq!(freed, 0, "freed while it was looked at");
                    }
                }
            });
            current.exchange(None, || vec![&*word]);
            looker.join().unwrap();
            current.exchange(None, || vec![&*word]);
            assert_eq!(freed.load(Ordering::Relaxed), 1);
        });
    }
}
