//! The connections that a process has attached, by small numbers. UNSAFE.
//!
//! A host keeps the number of a connection wherever it likes, and may use it while another thread drops it: what is looked
//! up is checked against the generation of its place, and stays alive while it is in use. A call says so in its thread's mark
//! ([`Marks`]), with plain stores; one that waits, that is made from within another, or whose thread has no mark is counted,
//! which costs two locked instructions. Neither takes a lock. A thread that ends in the middle of a call (killed, say) leaves
//! the place in use, for good if it was counted, which costs some hundred bytes; one that waits can give it back
//! ([`give_up`], for a signal handler).
//!
//! ```text
//! place:  state = generation | DEAD | FREE | users      conn
//!         DEAD, 0 users and in no mark: whoever sees that first clears `conn`, and the place gets its next generation
//! ```

use std::{
    cell::{Cell, UnsafeCell},
    fmt,
    mem::ManuallyDrop,
    ops::Deref,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use npfs_ringbuf::{Claimed, Conn, Mark, Marks, try_push};

use super::once::Once;

/// The number of a connection: above 0, the generation above the index.
pub(super) type Number = i32;

struct Place {
    state: AtomicU64,
    /// Places stay for good, and are never dropped.
    conn: UnsafeCell<ManuallyDrop<Option<Conn>>>,
    /// Of those that were returned: the one that was next.
    returned_next: AtomicU32,
    /// Its own.
    index: u32,
}

// SAFETY: `conn` is written only by who has made the place his own by a change of `state` (CLEARING, or a free place that was
// taken off the list), and read only by users that `state` counts in a generation that is not dead.
unsafe impl Sync for Place {}

const USERS: u64 = u32::MAX as u64;
/// Nobody finds it any more.
const DEAD: u64 = 1 << 32;
/// Somebody clears it.
const CLEARING: u64 = 1 << 33;
/// Nothing is in it.
const FREE: u64 = 1 << 34;
const GENERATION_SHIFT: u32 = 48;

const INDEX_BITS: u32 = 20;
const GENERATIONS: u32 = 1 << (31 - INDEX_BITS);
const CHUNK: usize = 1024;
const CHUNKS: usize = (1 << INDEX_BITS) / CHUNK;

/// For so many threads at a time.
static MARKS: Marks<256> = Marks::new();

thread_local! {
    /// The calling thread's mark. No destructor: a mark whose thread has ended is somebody's who looks for one.
    static MARK: Cell<Option<&'static Mark>> = const { Cell::new(None) };
}

/// The calling thread's mark, which it looks for once: to find out whose thread has ended takes a system call for each.
#[cold]
fn claim_mark() -> Option<&'static Mark> {
    thread_local! {
        static LOOKED: Cell<bool> = const { Cell::new(false) };
    }
    if !LOOKED.replace(true)
        && let Some(Claimed { mark, left }) = MARKS.claim()
    {
        if left != 0 {
            // Its thread is to have cleared it, and has ended.
            LEFT.store(true, Ordering::Release);
        }
        MARK.set(Some(mark));
    }
    MARK.get()
}

static PLACES: [Once<&'static [Place; CHUNK]>; CHUNKS] = [const { Once::new() }; CHUNKS];
/// The oldest first, so that a generation is long gone when it comes again.
static RETURNED: Mutex<Returned> = Mutex::new(Returned {
    first: NONE,
    last: NONE,
});
/// How many there are; changes under that lock.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// Somebody has left a place that may have to be cleared, and could not do it himself.
static LEFT: AtomicBool = AtomicBool::new(false);

fn place(index: u32) -> Option<&'static Place> {
    let chunk = PLACES.get(index as usize / CHUNK)?.get()?;
    Some(&chunk[index as usize % CHUNK])
}

fn generation(state: u64) -> u32 {
    u32::try_from(state >> GENERATION_SHIFT).unwrap_or(0)
}

/// From 1 to the largest, and from 1 again.
fn next_generation(state: u64) -> u64 {
    let next = generation(state) % (GENERATIONS - 1) + 1;
    u64::from(next) << GENERATION_SHIFT
}

fn split(number: Number) -> Option<(u32, u32)> {
    let number = u32::try_from(number).ok().filter(|number| *number != 0)?;
    Some((number & ((1 << INDEX_BITS) - 1), number >> INDEX_BITS))
}

/// Places that served and were cleared, linked through them.
struct Returned {
    first: u32,
    last: u32,
}

const NONE: u32 = u32::MAX;

impl Returned {
    fn push(&mut self, own: &Place) {
        own.returned_next.store(NONE, Ordering::Relaxed);
        match place(self.last) {
            Some(last) => last.returned_next.store(own.index, Ordering::Relaxed),
            None => self.first = own.index,
        }
        self.last = own.index;
    }

    fn pop(&mut self) -> Option<u32> {
        let index = self.first;
        self.first = place(index)?.returned_next.load(Ordering::Relaxed);
        if self.first == NONE {
            self.last = NONE;
        }
        Some(index)
    }
}

#[cold]
fn new_chunk(first: u32) -> Option<&'static [Place; CHUNK]> {
    let mut places = Vec::new();
    places.try_reserve_exact(CHUNK).ok()?;
    for index in (first..).take(CHUNK) {
        let fresh = Place {
            state: AtomicU64::new(FREE),
            conn: UnsafeCell::new(ManuallyDrop::new(None)),
            returned_next: AtomicU32::new(NONE),
            index,
        };
        try_push(&mut places, fresh).ok()?;
    }
    Vec::leak(places)
        .try_into()
        .ok()
        .map(|places: &mut _| &*places)
}

/// A place that serves nobody: one that was returned, or a new one.
fn free_place() -> Option<u32> {
    let mut returned = RETURNED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(index) = returned.pop() {
        return Some(index);
    }
    let next = NEXT.load(Ordering::Relaxed);
    let chunk = PLACES.get(next as usize / CHUNK)?;
    if chunk.get().is_none() {
        chunk.set(new_chunk(next)?).ok()?;
    }
    NEXT.store(next + 1, Ordering::Release);
    Some(next)
}

/// Puts a connection into the table; back if there is no room.
// Inline, so that the optimizer sees, as everywhere else on the host's client side, that nothing here unwinds.
#[inline(always)]
pub(super) fn insert(conn: Conn) -> Result<Number, Conn> {
    if LEFT.swap(false, Ordering::AcqRel) {
        let places = (0..NEXT.load(Ordering::Acquire)).filter_map(place);
        places.for_each(clear);
    }
    let Some((index, place)) = free_place().and_then(|index| Some((index, place(index)?))) else {
        return Err(conn);
    };
    // SAFETY: the place is free and off the list: it is this call's until the state says otherwise, and nobody reads what is
    // not live. Nothing is in it.
    unsafe { place.conn.get().write(ManuallyDrop::new(Some(conn))) };
    // Those with an old number may be counted just now, and leave again.
    let state = place
        .state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            Some(next_generation(state) | state & USERS)
        });
    let state = state.unwrap_or_default();
    let generation = generation(next_generation(state));
    Ok(Number::try_from(generation << INDEX_BITS | index).unwrap_or_default())
}

/// A connection in use.
pub(super) struct Use {
    /// There is something in it, for as long as this is counted, or in the mark.
    place: &'static Place,
    /// That says so; `None`: it is counted.
    mark: Option<&'static Mark>,
}

impl Deref for Use {
    type Target = Conn;

    #[inline(always)]
    fn deref(&self) -> &Conn {
        // SAFETY: something is in it: see there.
        unsafe { (**self.place.conn.get()).as_ref().unwrap_unchecked() }
    }
}

impl Drop for Use {
    #[inline(always)]
    fn drop(&mut self) {
        let dead = match self.mark {
            Some(mark) => {
                mark.end();
                self.place.state.load(Ordering::Acquire) & DEAD != 0
            }
            None => self.place.leave(),
        };
        if dead {
            clear(self.place);
        }
    }
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Use").field(&**self).finish()
    }
}

impl Use {
    /// The use goes on without a value of it: until [`resume`] or [`give_up`].
    pub(super) fn keep(self) -> Number {
        let this = ManuallyDrop::new(self);
        let state = match this.mark {
            Some(mark) => {
                let state = this.place.state.fetch_add(1, Ordering::Acquire);
                mark.end();
                state
            }
            None => this.place.state.load(Ordering::Relaxed),
        };
        Number::try_from(generation(state) << INDEX_BITS | this.place.index).unwrap_or_default()
    }
}

/// Uses what a number stands for; `None`: nothing any more.
#[inline(always)]
pub(super) fn get(number: Number) -> Option<Use> {
    let (index, wanted) = split(number)?;
    let place = place(index)?;
    match MARK.get() {
        Some(mark) if mark.begin(place.what()) => place.used(wanted, Some(mark)),
        _ => get_otherwise(place, wanted),
    }
}

#[cold]
#[inline(never)]
fn get_otherwise(place: &'static Place, wanted: u32) -> Option<Use> {
    if let Some(mark) = claim_mark()
        && mark.begin(place.what())
    {
        return place.used(wanted, Some(mark));
    }
    place.state.fetch_add(1, Ordering::SeqCst);
    place.used(wanted, None)
}

/// The use that was kept under this number. It may be dead meanwhile, but it is there.
///
/// # Safety
/// [`Use::keep`] has given the number, and the use has not ended since.
pub(super) unsafe fn resume(number: Number) -> Option<Use> {
    let (index, _) = split(number)?;
    let place = place(index)?;
    // SAFETY: the use is still counted, so the place has not been cleared since it was live.
    unsafe { &**place.conn.get() }.as_ref()?;
    Some(Use { place, mark: None })
}

/// Ends the use that was kept under this number, from a signal handler: what is to be cleared then is cleared by the next
/// who puts something into the table.
pub(super) fn give_up(number: Number) {
    if let Some((index, _)) = split(number)
        && place(index).is_some_and(Place::leave)
    {
        LEFT.store(true, Ordering::Release);
    }
}

/// Nobody finds it any more; what uses it goes on. The connection that it stood for is shown to `last`.
pub(super) fn remove(number: Number, last: impl FnOnce(&Conn)) -> bool {
    let Some(used) = get(number) else {
        return false;
    };
    let was_live = used.place.state.fetch_or(DEAD, Ordering::AcqRel) & DEAD == 0;
    if was_live {
        last(&used);
    }
    was_live
}

impl Place {
    /// What a mark calls it.
    #[inline(always)]
    fn what(&self) -> u32 {
        self.index + 1
    }

    /// Its use, which is counted, or in the mark, if it serves that generation; else that is over.
    #[inline(always)]
    fn used(&'static self, wanted: u32, mark: Option<&'static Mark>) -> Option<Use> {
        let used = Use { place: self, mark };
        // That generation, and neither DEAD nor CLEARING nor FREE: then there is something in it, and stays.
        if self.state.load(Ordering::Acquire) & !USERS == u64::from(wanted) << GENERATION_SHIFT {
            Some(used)
        } else {
            None
        }
    }

    /// `true`: it may have to be cleared.
    #[inline]
    fn leave(&self) -> bool {
        let state = self.state.fetch_sub(1, Ordering::AcqRel);
        state & USERS == 1 && state & DEAD != 0
    }
}

/// Clears a dead place that nobody uses.
#[cold]
fn clear(place: &Place) {
    let begin = || {
        place
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                let idle = state & (DEAD | CLEARING | FREE | USERS) == DEAD;
                idle.then_some(state | CLEARING)
            })
            .is_ok()
    };
    loop {
        if !begin() {
            return; // whoever is counted, or clears it, sees to it
        }
        if !MARKS.has(place.what()) {
            break;
        }
        place.state.fetch_and(!CLEARING, Ordering::AcqRel);
        if MARKS.has(place.what()) {
            return; // that thread does (`marks.rs`)
        }
    }
    // SAFETY: CLEARING was set by this thread alone, with no user counted, and after that none was in a mark; who has come since
    // finds the place dead.
    let conn = unsafe { (*place.conn.get()).take() };
    drop(conn);
    let _ = place
        .state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            Some(state & !(DEAD | CLEARING) | FREE)
        });
    RETURNED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(place);
}
