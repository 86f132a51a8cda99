//! The caller's memory: every pointer that C hands in goes through here.
//!
//! What can be checked is checked (NULL, alignment, lengths that no buffer has); what cannot is the contract of each export.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr::NonNull,
    slice,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use npfs::{
    NtStatus,
    nt::{Buffer, Elsewhere, Memory, NtResult},
};

use crate::types::npfs_io_status_block;

/// STATUS_ACCESS_VIOLATION.
pub(crate) const ACCESS_VIOLATION: NtStatus = NtStatus(0xC000_0005);
/// STATUS_DATATYPE_MISALIGNMENT.
pub(crate) const MISALIGNED: NtStatus = NtStatus(0x8000_0002);

/// A pointer that is neither NULL nor misaligned.
fn checked<T>(pointer: *mut T) -> NtResult<NonNull<T>> {
    let pointer = NonNull::new(pointer).ok_or(ACCESS_VIOLATION)?;
    if pointer.is_aligned() {
        Ok(pointer)
    } else {
        Err(MISALIGNED)
    }
}

/// A place for a result.
pub(crate) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// What is not NULL can be written as a `T` until the value is dropped.
    pub(crate) unsafe fn new(pointer: *mut T) -> NtResult<Out<T>> {
        checked(pointer).map(Out)
    }

    /// The same, and NULL means that nobody wants it.
    ///
    /// # Safety
    /// As [`Out::new`].
    pub(crate) unsafe fn maybe(pointer: *mut T) -> NtResult<Option<Out<T>>> {
        if pointer.is_null() {
            return Ok(None);
        }
        checked(pointer).map(|pointer| Some(Out(pointer)))
    }

    pub(crate) fn put(&self, value: T) {
        // SAFETY: whoever made this promised that it can be written, and `checked` found it aligned.
        unsafe { self.0.write(value) }
    }
}

/// A structure that the caller has filled in.
///
/// # Safety
/// What is not NULL can be read as a `T`.
pub(crate) unsafe fn read<T: Copy>(pointer: *const T) -> NtResult<T> {
    let pointer = checked(pointer.cast_mut())?;
    // SAFETY: not NULL and aligned, and readable by the caller's promise.
    Ok(unsafe { pointer.read() })
}

/// The same, if there is one.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn maybe<T: Copy>(pointer: *const T) -> NtResult<Option<T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    unsafe { read(pointer) }.map(Some)
}

/// Some of a kind, one after the other.
///
/// # Safety
/// What is not NULL can be read as so many `T`, and nobody writes there while the slice is in use.
pub(crate) unsafe fn array<'a, T: Copy>(pointer: *const T, count: u32) -> NtResult<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let pointer = checked(pointer.cast_mut())?;
    let count = count_of::<T>(count)?;
    // SAFETY: not NULL, aligned, no longer than a slice may be, and readable by the caller's promise.
    Ok(unsafe { slice::from_raw_parts(pointer.as_ptr(), count) })
}

/// The same, to be written to.
///
/// # Safety
/// What is not NULL can be read and written as so many `T`, and nobody else does while the slice is in use.
pub(crate) unsafe fn array_mut<'a, T: Copy>(pointer: *mut T, count: u32) -> NtResult<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    let pointer = checked(pointer)?;
    let count = count_of::<T>(count)?;
    // SAFETY: not NULL, aligned, no longer than a slice may be, and the caller's alone by its promise.
    Ok(unsafe { slice::from_raw_parts_mut(pointer.as_ptr(), count) })
}

/// No more bytes than any buffer of NT's has, which is also less than Rust allows a slice.
fn count_of<T>(count: u32) -> NtResult<usize> {
    let bytes = u64::from(count).saturating_mul(size_of::<T>() as u64);
    if bytes > MOST_BYTES {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    usize::try_from(count).map_err(|_| NtStatus::INVALID_PARAMETER)
}

/// What a write may have at most.
const MOST_BYTES: u64 = 0x7FFF_FFFF;

/// Bytes to read.
///
/// # Safety
/// As [`array`].
pub(crate) unsafe fn input<'a>(pointer: *const c_void, length: u32) -> NtResult<&'a [u8]> {
    // SAFETY: the caller's promise is the same.
    let bytes: &[u8] = unsafe { array(pointer.cast(), length) }?;
    // A write that pends keeps a copy.
    is_to_be_had(bytes.len())?;
    Ok(bytes)
}

/// The engine may want as much for itself, and running out of memory there would end the process.
pub(crate) fn is_to_be_had(length: usize) -> NtResult<()> {
    if length > LARGE && Vec::<u8>::new().try_reserve_exact(length).is_err() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES);
    }
    Ok(())
}

/// Bytes to write.
///
/// # Safety
/// As [`array_mut`].
pub(crate) unsafe fn output<'a>(pointer: *mut c_void, length: u32) -> NtResult<&'a mut [u8]> {
    // SAFETY: the caller's promise is the same.
    unsafe { array_mut(pointer.cast(), length) }
}

/// UTF-16 of so many bytes.
///
/// # Safety
/// As [`array`].
pub(crate) unsafe fn units<'a>(pointer: *const u16, bytes: u32) -> NtResult<&'a [u16]> {
    if !bytes.is_multiple_of(2) || bytes > 0xFFFE {
        return Err(NtStatus::OBJECT_NAME_INVALID);
    }
    // SAFETY: the caller's promise is the same, for half as many units as bytes.
    unsafe { array(pointer, bytes / 2) }
}

/// A text that ends with a NUL.
///
/// # Safety
/// What is not NULL can be read up to a NUL, and nobody writes there while the text is in use.
pub(crate) unsafe fn text<'a>(pointer: *const c_char) -> NtResult<&'a str> {
    let pointer = NonNull::new(pointer.cast_mut()).ok_or(ACCESS_VIOLATION)?;
    // SAFETY: not NULL, and readable up to a NUL by the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer.as_ptr()) };
    text.to_str().map_err(|_| NtStatus::OBJECT_NAME_INVALID)
}

// ---- memory that outlives the call ---------------------------------------------------------------------------------

/// A buffer that a call fills, at once or when it completes.
struct Lent {
    pointer: NonNull<u8>,
    length: usize,
}

// SAFETY: it is an address and a length; who made it promised that it may be written from any thread until the call that it
// was lent for has completed, and nobody writes there after that.
unsafe impl Send for Lent {}
// SAFETY: as above. One call has it, and fills it once.
unsafe impl Sync for Lent {}

impl Memory for Lent {
    fn len(&self) -> usize {
        self.length
    }

    fn fill(&self, data: &[u8]) {
        let count = data.len().min(self.length);
        // SAFETY: `count` bytes are within both; the source is the engine's own memory, so that they do not overlap.
        unsafe {
            self.pointer
                .copy_from_nonoverlapping(NonNull::from(data).cast(), count)
        }
    }

    fn copy_to(&self, to: &mut [u8]) {
        let count = to.len().min(self.length);
        // SAFETY: as in `fill`, the other way round.
        unsafe {
            self.pointer
                .copy_to_nonoverlapping(NonNull::from(to).cast(), count)
        }
    }
}

/// A buffer for a call.
///
/// # Safety
/// What is not NULL can be written, so many bytes, until the call has completed.
pub(crate) unsafe fn lent(pointer: *mut c_void, length: u32) -> NtResult<Buffer> {
    Ok(room(pointer, length)?.map_or_else(Buffer::default, Buffer::of))
}

/// What is there to lend, if anything.
fn room(pointer: *mut c_void, length: u32) -> NtResult<Option<Lent>> {
    if length == 0 {
        return Ok(None);
    }
    let pointer = NonNull::new(pointer.cast()).ok_or(ACCESS_VIOLATION)?;
    let length = count_of::<u8>(length)?;
    is_to_be_had(length)?;
    Ok(Some(Lent { pointer, length }))
}

/// Below this, memory is either there or the process is beyond help.
const LARGE: usize = 1 << 20;

/// A buffer for a call that is over, or given up, when its caller returns.
pub(crate) struct Loan {
    buffer: Buffer,
    end: Arc<Mutex<Option<Lent>>>,
}

/// What a [`Loan`] lends: nothing, once it has ended.
struct Lending {
    length: usize,
    of: Arc<Mutex<Option<Lent>>>,
}

impl Lending {
    fn with(&self, then: impl FnOnce(&Lent)) {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lent) = &*of {
            then(lent);
        }
    }
}

impl Memory for Lending {
    fn len(&self) -> usize {
        self.length
    }

    fn fill(&self, data: &[u8]) {
        self.with(|lent| lent.fill(data));
    }

    fn copy_to(&self, to: &mut [u8]) {
        self.with(|lent| lent.copy_to(to));
    }
}

impl Loan {
    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A buffer for a call, until the loan is dropped.
///
/// # Safety
/// What is not NULL can be written, so many bytes, until then.
pub(crate) unsafe fn loan(pointer: *mut c_void, length: u32) -> NtResult<Loan> {
    let end = Arc::new(Mutex::new(room(pointer, length)?));
    Ok(Loan {
        buffer: Buffer::of(Lending {
            length: usize::try_from(length).unwrap_or(0),
            of: end.clone(),
        }),
        end,
    })
}

// ---- completion routines -------------------------------------------------------------------------------------------

/// A completion routine with what it is told.
#[derive(Clone, Copy)]
pub(crate) struct Routine {
    routine: unsafe extern "C" fn(*mut c_void, *mut npfs_io_status_block, u32),
    context: *mut c_void,
    iosb: Iosb,
}

// SAFETY: who made it promised that it may be called from any thread; `context` is only handed on.
unsafe impl Send for Routine {}
// SAFETY: as above.
unsafe impl Sync for Routine {}

impl Routine {
    /// # Safety
    /// The routine can be called from any thread, with that context and status block, once their call has completed.
    pub(crate) unsafe fn new(
        routine: unsafe extern "C" fn(*mut c_void, *mut npfs_io_status_block, u32),
        context: *mut c_void,
        iosb: Iosb,
    ) -> Routine {
        Routine {
            routine,
            context,
            iosb,
        }
    }

    pub(crate) fn call(self) {
        // SAFETY: by the promise of who made this; the call has completed.
        unsafe { (self.routine)(self.context, self.iosb.0.as_ptr(), 0) }
    }
}

// ---- status blocks -------------------------------------------------------------------------------------------------

/// The caller's status block.
#[derive(Clone, Copy)]
pub(crate) struct Iosb(NonNull<npfs_io_status_block>);

// SAFETY: it is an address; who made it promised that the block may be written from any thread until its call has completed.
unsafe impl Send for Iosb {}
// SAFETY: as above; its words are only stored to, atomically.
unsafe impl Sync for Iosb {}

impl Elsewhere for Iosb {
    /// The caller may free it as soon as it sees the status: that is stored last, and nothing after it.
    fn write(&self, status: NtStatus, information: usize) {
        let block = self.0.as_ptr();
        // SAFETY: aligned, and writable by the promise of who made this; a place in the block, not a reference to it, so
        // that the caller's own looks at it are no concern of Rust's.
        let (to_status, to_information) = unsafe {
            (
                AtomicU32::from_ptr(&raw mut (*block).status),
                AtomicUsize::from_ptr(&raw mut (*block).information),
            )
        };
        to_information.store(information, Ordering::Relaxed);
        to_status.store(status.0, Ordering::Release);
    }
}

impl Iosb {
    /// # Safety
    /// What is not NULL can be written as a status block until the call that it is for has completed.
    pub(crate) unsafe fn new(pointer: *mut npfs_io_status_block) -> NtResult<Iosb> {
        checked(pointer).map(Iosb)
    }

    /// The same, and NULL means that nobody wants it.
    ///
    /// # Safety
    /// As [`Iosb::new`].
    pub(crate) unsafe fn maybe(pointer: *mut npfs_io_status_block) -> NtResult<Option<Iosb>> {
        if pointer.is_null() {
            return Ok(None);
        }
        checked(pointer).map(|pointer| Some(Iosb(pointer)))
    }

    /// What it is known by.
    pub(crate) fn address(self) -> usize {
        self.0.addr().get()
    }

    /// What it says now.
    pub(crate) fn status(self) -> u32 {
        // SAFETY: as in `write`.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.0.as_ptr()).status) }.load(Ordering::Acquire)
    }
}
