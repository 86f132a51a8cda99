//! Memory that may not be had, asked for in a way that says so. UNSAFE.
//!
//! `Arc::new`, `Vec::push` and their like end the process where there is no memory, by way of a panic's machinery. A host that
//! embeds the data path is promised an error instead, and code in which no panic can be (`npfs_host.h`).

use std::{
    alloc::{Layout, alloc, alloc_zeroed, dealloc},
    ffi::c_void,
    fmt,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull,
};

use crate::sync::{AtomicU32, Ordering, fence, process};

/// One more at the end, if there is memory for it; else it comes back.
///
/// # Errors
/// The value, if there is no room and no memory for more.
#[inline]
pub fn try_push<T>(to: &mut Vec<T>, value: T) -> Result<(), T> {
    // Not `Vec::push`, whose way out for want of memory would stay in the code.
    if to.len() == to.capacity() && to.try_reserve(1).is_err() {
        return Err(value);
    }
    let len = to.len();
    match to.spare_capacity_mut().first_mut() {
        Some(place) => {
            place.write(value);
            // SAFETY: the place behind the last was there, and has just been written.
            unsafe { to.set_len(len + 1) };
            Ok(())
        }
        None => Err(value),
    }
}

/// A value in a box, if there is memory for it.
///
/// # Errors
/// The value, if there is none.
pub fn try_box<T>(value: T) -> Result<Box<T>, T> {
    let layout = Layout::new::<T>();
    let at = if layout.size() == 0 {
        NonNull::dangling()
    } else {
        // SAFETY: the layout's size is not 0.
        match NonNull::new(unsafe { alloc(layout) }.cast::<T>()) {
            Some(at) => at,
            None => return Err(value),
        }
    };
    // SAFETY: room for one `T`, allocated as a box of it is.
    Ok(unsafe {
        at.write(value);
        Box::from_raw(at.as_ptr())
    })
}

/// So many bytes that are 0, if there is memory for them.
#[must_use]
pub fn try_bytes(count: usize) -> Option<Box<[u8]>> {
    let layout = Layout::array::<u8>(count).ok()?;
    if layout.size() == 0 {
        return Some(Box::default());
    }
    // SAFETY: the layout's size is not 0.
    let at = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    // SAFETY: `count` bytes, allocated as a box of that many is.
    Some(unsafe { Box::from_raw(NonNull::slice_from_raw_parts(at, count).as_ptr()) })
}

/// A copy of bytes, if there is memory for it.
#[must_use]
pub fn try_copy(of: &[u8]) -> Option<Box<[u8]>> {
    let mut copy = try_bytes(of.len())?;
    for (to, from) in copy.iter_mut().zip(of) {
        *to = *from;
    }
    Some(copy)
}

/// So many zeros, if there is memory for them.
pub(crate) fn zeros(count: usize) -> Option<Box<[process::AtomicU64]>> {
    let layout = Layout::array::<process::AtomicU64>(count).ok()?;
    if layout.size() == 0 {
        return None;
    }
    // SAFETY: the layout's size is not 0.
    let at = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<process::AtomicU64>())?;
    // SAFETY: `count` of them, for which zero is a valid value, allocated as a box of that many is.
    Some(unsafe { Box::from_raw(NonNull::slice_from_raw_parts(at, count).as_ptr()) })
}

/// A value with several owners, as an [`Arc`](std::sync::Arc), that says so if there is no memory for it. A value that panics when
/// it is dropped ends the process.
pub struct Shared<T> {
    at: NonNull<Counted<T>>,
    owns: PhantomData<Counted<T>>,
}

/// Finds a [`Shared`] value for as long as somebody owns it.
pub struct Faint<T> {
    at: NonNull<Counted<T>>,
}

struct Counted<T> {
    /// While this is not 0 the value is there.
    owners: AtomicU32,
    /// While this is not 0 the memory is: one for each `Faint`, and one for all owners together.
    finders: AtomicU32,
    value: T,
}

/// No process has so many; who leaks them, and goes on, must not come around to none.
const MOST: u32 = 1 << 30;

// SAFETY: as of an `Arc`: owners on several threads have references to the value, and any of them may be the one that drops it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above; a reference to it is good for an owner more.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// SAFETY: as above: it is good for an owner.
unsafe impl<T: Send + Sync> Send for Faint<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Faint<T> {}

impl<T> Shared<T> {
    /// A value with one owner.
    ///
    /// # Errors
    /// The value, if there is no memory.
    pub fn new(value: T) -> Result<Shared<T>, T> {
        let layout = Layout::new::<Counted<T>>();
        // SAFETY: it has two counts at least, hence a size.
        let Some(at) = NonNull::new(unsafe { alloc(layout) }.cast::<Counted<T>>()) else {
            return Err(value);
        };
        // SAFETY: just allocated with this layout.
        unsafe {
            at.write(Counted {
                owners: AtomicU32::new(1),
                finders: AtomicU32::new(1),
                value,
            });
        }
        Ok(Shared {
            at,
            owns: PhantomData,
        })
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: this owner is counted, so the value is there.
        unsafe { self.at.as_ref() }
    }

    /// Where the value is: the same for all its owners, and for nothing else while there is one.
    #[must_use]
    pub fn address(this: &Shared<T>) -> usize {
        this.at.as_ptr() as usize
    }

    /// Whether both own the same value.
    #[must_use]
    pub fn is(this: &Shared<T>, other: &Shared<T>) -> bool {
        this.at == other.at
    }

    /// An owner as a pointer, for C to keep, until [`Shared::from_raw`].
    #[must_use]
    pub fn into_raw(this: Shared<T>) -> NonNull<c_void> {
        ManuallyDrop::new(this).at.cast()
    }

    /// The owner again.
    ///
    /// # Safety
    /// [`Shared::into_raw`] of this very type has given the pointer, and nobody has made an owner of it again.
    #[must_use]
    pub unsafe fn from_raw(pointer: NonNull<c_void>) -> Shared<T> {
        Shared {
            at: pointer.cast(),
            owns: PhantomData,
        }
    }

    /// Something that finds the value as long as it has owners.
    #[must_use]
    pub fn faint(this: &Shared<T>) -> Faint<T> {
        let before = this.counted().finders.fetch_add(1, Ordering::Relaxed);
        check(before);
        Faint { at: this.at }
    }
}

#[inline]
fn check(before: u32) {
    if before >= MOST {
        // Before so many more threads come by that the count is none.
        // SAFETY: it takes nothing. (Of std's own no compiler knows that it does not unwind.)
        unsafe { libc::abort() };
    }
}

impl<T> Faint<T> {
    /// Whether the value has owners: it may lose them at any moment.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        // SAFETY: as in `find`.
        unsafe { (*self.at.as_ptr()).owners.load(Ordering::Relaxed) != 0 }
    }

    /// The value, if it has owners.
    #[must_use]
    pub fn find(&self) -> Option<Shared<T>> {
        // SAFETY: this finder is counted, so the memory is there; the counts are what it was made with, whatever the value.
        let owners = unsafe { &(*self.at.as_ptr()).owners };
        let mut seen = owners.load(Ordering::Relaxed);
        while seen != 0 {
            check(seen);
            // Acquire: whatever an owner has done before it gave this one its place.
            match owners.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    return Some(Shared {
                        at: self.at,
                        owns: PhantomData,
                    });
                }
                Err(now) => seen = now,
            }
        }
        None
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        // Relaxed: who has one gives it away by means that order memory.
        let before = self.counted().owners.fetch_add(1, Ordering::Relaxed);
        check(before);
        Shared {
            at: self.at,
            owns: PhantomData,
        }
    }
}

impl<T> Clone for Faint<T> {
    fn clone(&self) -> Faint<T> {
        // SAFETY: as in `find`.
        let finders = unsafe { &(*self.at.as_ptr()).finders };
        check(finders.fetch_add(1, Ordering::Relaxed));
        Faint { at: self.at }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this owner is counted, so the value is there.
        unsafe { &(*self.at.as_ptr()).value }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Release, and the fence: what other owners have done with the value is over before it is dropped.
        if self.counted().owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        drop_value(self.at);
    }
}

/// The last owner has gone. As C's functions are called: a value that panics when it is dropped ends the process, and so
/// nobody who drops an owner has to be ready for that, with code that panics.
// Not inline, or what is in there would be looked at again for each who calls it.
#[inline(never)]
extern "C" fn drop_value<T>(at: NonNull<Counted<T>>) {
    // The finder of all owners: the memory stays for the others.
    let _memory = Faint { at };
    // SAFETY: the last owner: nobody has a reference any more, nor gets one, since `find` finds no owner.
    unsafe { (&raw mut (*at.as_ptr()).value).drop_in_place() };
}

impl<T> Drop for Faint<T> {
    fn drop(&mut self) {
        // SAFETY: as in `find`.
        let finders = unsafe { &(*self.at.as_ptr()).finders };
        if finders.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: allocated with this layout; the value was dropped before the owners' finder went, and nobody finds it any more.
        unsafe { dealloc(self.at.as_ptr().cast(), Layout::new::<Counted<T>>()) };
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> fmt::Debug for Faint<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(Faint)")
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::{cell::UnsafeCell, thread};

    use super::*;

    /// Says by loom's books whether somebody looks while it is dropped.
    struct Value(UnsafeCell<bool>);

    impl Value {
        fn is_there(&self) -> bool {
            // SAFETY: a look; that nobody writes meanwhile is what the model is to find out.
            self.0.with(|there| unsafe { *there })
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            // SAFETY: as above.
            self.0.with_mut(|there| unsafe { *there = false });
        }
    }

    fn value() -> Shared<Value> {
        let made = Shared::new(Value(UnsafeCell::new(true)));
        made.unwrap_or_else(|_| panic!("memory"))
    }

    /// Seen to fail when an owner goes with a relaxed subtraction.
    #[test]
    fn the_last_owner_drops_what_nobody_looks_at() {
        loom::model(|| {
            let first = value();
            let second = first.clone();
            let other = thread::spawn(move || assert!(second.is_there()));
            assert!(first.is_there());
            drop(first);
            other.join().expect("no panic");
        });
    }

    /// Seen to fail when `find` counts itself without a look at whether there are owners.
    #[test]
    fn a_finder_finds_what_is_there_or_nothing() {
        loom::model(|| {
            let owner = value();
            let finder = Shared::faint(&owner);
            let other = thread::spawn(move || {
                if let Some(found) = finder.find() {
                    assert!(found.is_there());
                }
            });
            drop(owner);
            other.join().expect("no panic");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Dropped(Arc<AtomicU32>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_last_owner_drops_the_value_and_then_nobody_finds_it() {
        let dropped = Arc::new(AtomicU32::new(0));
        let Ok(first) = Shared::new(Dropped(dropped.clone())) else {
            panic!("memory");
        };
        let finder = Shared::faint(&first).clone();
        let second = first.clone();
        assert!(Shared::is(&first, &second));
        drop(first);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        assert!(finder.is_owned());
        let third = finder.find().expect("it has an owner");
        assert_eq!(Shared::address(&third), Shared::address(&second));
        drop((second, third));
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
        assert!(finder.find().is_none() && !finder.is_owned());
    }

    #[test]
    fn owners_on_several_threads_drop_it_once() {
        let dropped = Arc::new(AtomicU32::new(0));
        for _ in 0..20 {
            let Ok(shared) = Shared::new(Dropped(dropped.clone())) else {
                panic!("memory");
            };
            let finder = Shared::faint(&shared);
            std::thread::scope(|scope| {
                for own in [shared.clone(), shared] {
                    scope.spawn(|| drop(own));
                    scope.spawn(|| drop(finder.find()));
                }
            });
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 20);
    }

    #[test]
    fn a_push_keeps_what_was_there() {
        let mut list = Vec::new();
        for number in 0..100 {
            try_push(&mut list, Box::new(number)).expect("memory");
        }
        assert!(list.iter().map(|boxed| **boxed).eq(0..100));
    }

    #[test]
    fn an_owner_outlives_being_a_pointer() {
        let dropped = Arc::new(AtomicU32::new(0));
        let Ok(first) = Shared::new(Dropped(dropped.clone())) else {
            panic!("memory");
        };
        let kept = Shared::into_raw(first.clone());
        drop(first);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
        // SAFETY: of `into_raw`, and once.
        drop(unsafe { Shared::<Dropped>::from_raw(kept) });
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn boxes_are_what_was_put_into_them() {
        let boxed = try_box([7_u64; 9]).expect("memory");
        assert_eq!(*boxed, [7; 9]);
        try_box(()).expect("no memory at all");
        assert_eq!(*try_bytes(5).expect("memory"), [0; 5]);
        assert_eq!(try_bytes(0).map(|none| none.len()), Some(0));
        assert!(try_bytes(usize::MAX).is_none());
        assert_eq!(*try_copy(b"some").expect("memory"), *b"some");
    }

    #[test]
    fn zeros_are_a_box_of_words() {
        let words = zeros(300).expect("memory");
        assert!(words.len() == 300 && words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        assert!(zeros(0).is_none() && zeros(usize::MAX).is_none());
    }
}
