//! Where the bytes of a call come from and go to: a slice of the caller's, or a user's memory, which only a host's own
//! functions may touch. UNSAFE.
//!
//! A host's copy may fail at any byte (a guard page, a buffer that was freed meanwhile), and it may block. So nothing is
//! ever copied from or to a user's memory under the match lock, and what fails leaves the queue as it was: a write copies
//! to free room and commits afterwards; a read copies first, and then takes what it has copied if that is still the first
//! of what is queued (`outside.rs`).

use std::marker::PhantomData;

use crate::error::{Error, Fault};

/// What is written.
pub(crate) trait Source: Copy {
    fn len(self) -> usize;

    /// At most `len` bytes of it from `from` on.
    fn part(self, from: usize, len: usize) -> Self;

    /// # Safety
    /// `to` is writable for all of its bytes, and none of them is there.
    unsafe fn copy_to(self, to: *mut u8) -> Result<(), Error>;
}

impl Source for &[u8] {
    #[inline]
    fn len(self) -> usize {
        self.len()
    }

    #[inline]
    fn part(self, from: usize, len: usize) -> Self {
        let rest = self.get(from..).unwrap_or(&[]);
        rest.get(..len).unwrap_or(rest)
    }

    #[inline]
    unsafe fn copy_to(self, to: *mut u8) -> Result<(), Error> {
        // SAFETY: the slice is readable for its length; the caller vouches for `to`.
        unsafe { copy(self.as_ptr(), to, self.len()) };
        Ok(())
    }
}

/// Where a read or a peek puts what it finds.
pub(crate) trait Sink {
    type Error: From<Fault> + Into<Error>;

    /// Copies to it may fail or block: never under the match lock.
    const OUTSIDE: bool;

    fn len(&self) -> usize;

    /// Puts `len` bytes at `at`, which is inside.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes, and none of them is in here.
    unsafe fn put(&mut self, at: usize, from: *const u8, len: usize) -> Result<(), Self::Error>;
}

impl Sink for [u8] {
    type Error = Fault;
    const OUTSIDE: bool = false;

    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    unsafe fn put(&mut self, at: usize, from: *const u8, len: usize) -> Result<(), Fault> {
        let to = self.get_mut(at..).and_then(|to| to.get_mut(..len));
        let to = to.ok_or(Fault::FrameLength)?;
        // SAFETY: the slice is writable for its length; the caller vouches for `from`.
        unsafe { copy(from, to.as_mut_ptr(), len) };
        Ok(())
    }
}

/// How a host lets its users' memory be touched. A copy is called as C's functions are: one that panics ends the process.
pub trait UserMemory: Sized {
    /// Copies `len` bytes of user memory at `from` to `to`. `false`: some of them cannot be read.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    unsafe fn copy_in(&self, from: usize, to: *mut u8, len: usize) -> bool;

    /// Copies `len` bytes at `from` to user memory at `to`. `false`: some of it cannot be written.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes; another process may be writing to them.
    unsafe fn copy_out(&self, to: usize, from: *const u8, len: usize) -> bool;
}

/// A piece of a user's memory.
#[derive(Clone, Copy)]
pub struct UserBuffer<'a> {
    /// What implements it, ...
    memory: *const (),
    /// ... and its functions. Not as a trait object: calls through one may unwind, and whoever does so from C has to be ready for
    /// that with code that panics.
    copies: &'static Copies,
    lifetime: PhantomData<&'a ()>,
    address: usize,
    len: usize,
}

struct Copies {
    into: unsafe extern "C" fn(*const (), usize, *mut u8, usize) -> bool,
    out_of: unsafe extern "C" fn(*const (), usize, *const u8, usize) -> bool,
}

trait HasCopies {
    const COPIES: Copies;
}

impl<M: UserMemory> HasCopies for M {
    const COPIES: Copies = Copies {
        into: copy_in::<M>,
        out_of: copy_out::<M>,
    };
}

/// # Safety
/// `memory` points to an `M`; and as [`UserMemory::copy_in`].
unsafe extern "C" fn copy_in<M: UserMemory>(
    memory: *const (),
    from: usize,
    to: *mut u8,
    len: usize,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*memory.cast::<M>()).copy_in(from, to, len) }
}

/// # Safety
/// `memory` points to an `M`; and as [`UserMemory::copy_out`].
unsafe extern "C" fn copy_out<M: UserMemory>(
    memory: *const (),
    to: usize,
    from: *const u8,
    len: usize,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*memory.cast::<M>()).copy_out(to, from, len) }
}

impl std::fmt::Debug for UserBuffer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x}", self.len, self.address)
    }
}

impl<'a> UserBuffer<'a> {
    /// `len` bytes at `address`, which only `memory` touches.
    #[must_use]
    #[inline]
    pub fn new<M: UserMemory>(memory: &'a M, address: usize, len: usize) -> UserBuffer<'a> {
        UserBuffer {
            memory: std::ptr::from_ref(memory).cast(),
            copies: &M::COPIES,
            lifetime: PhantomData,
            address,
            len,
        }
    }

    /// Where it begins: a number to the host.
    #[must_use]
    pub fn address(self) -> usize {
        self.address
    }

    /// Bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

impl Source for UserBuffer<'_> {
    #[inline]
    fn len(self) -> usize {
        self.len
    }

    fn part(self, from: usize, len: usize) -> Self {
        let from = from.min(self.len);
        UserBuffer {
            address: self.address.wrapping_add(from),
            len: len.min(self.len - from),
            ..self
        }
    }

    #[inline]
    unsafe fn copy_to(self, to: *mut u8) -> Result<(), Error> {
        // SAFETY: as the caller promises; `memory` is what `copies` was made for.
        let copied =
            self.len == 0 || unsafe { (self.copies.into)(self.memory, self.address, to, self.len) };
        if copied {
            Ok(())
        } else {
            Err(Error::BadBuffer)
        }
    }
}

impl Sink for UserBuffer<'_> {
    type Error = Error;
    const OUTSIDE: bool = true;

    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    unsafe fn put(&mut self, at: usize, from: *const u8, len: usize) -> Result<(), Error> {
        // SAFETY: as the caller promises; `memory` is what `copies` was made for.
        let copied = len == 0
            || unsafe {
                (self.copies.out_of)(self.memory, self.address.wrapping_add(at), from, len)
            };
        if copied {
            Ok(())
        } else {
            Err(Error::BadBuffer)
        }
    }
}

/// Copies small messages without a call: two overlapping halves of a fixed size.
///
/// # Safety
/// As for `copy_nonoverlapping`: `from` readable and `to` writable for `len` bytes, disjoint.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    /// Both ends of a run of `N` to `2 * N` bytes.
    #[inline(always)]
    unsafe fn halves<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: `len` is at least `N`, so both blocks are inside the run; byte arrays need no alignment.
        unsafe {
            let last = len - N;
            let (a, b) = (
                from.cast::<[u8; N]>().read(),
                from.add(last).cast::<[u8; N]>().read(),
            );
            to.cast::<[u8; N]>().write(a);
            to.add(last).cast::<[u8; N]>().write(b);
        }
    }
    // SAFETY: the arms pass on the caller's promise, each with a length that fits.
    unsafe {
        match len {
            32..=64 => halves::<32>(from, to, len),
            16..32 => halves::<16>(from, to, len),
            8..16 => halves::<8>(from, to, len),
            65..=128 => halves::<64>(from, to, len),
            _ => std::ptr::copy_nonoverlapping(from, to, len),
        }
    }
}
