//! A user's memory, as a host lets it be touched: in pieces, and up to where it ends.

use std::cell::Cell;

use npfs_ringbuf::{Answer, Error, Read, UserBuffer, UserMemory, Work};

use crate::cmd::Done;

/// Memory of this process that copies as it is.
struct Plain;

impl UserMemory for Plain {
    unsafe fn copy_in(&self, from: usize, to: *mut u8, len: usize) -> bool {
        // SAFETY: the tests make buffers of what is theirs; the caller vouches for `to`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to, len) };
        true
    }

    unsafe fn copy_out(&self, to: usize, from: *const u8, len: usize) -> bool {
        // SAFETY: as above, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from, to as *mut u8, len) };
        true
    }
}

/// A buffer whose memory is there. It has to outlive every call that it is given to.
pub fn buffer(bytes: &mut [u8]) -> UserBuffer<'static> {
    UserBuffer::new(&Plain, bytes.as_mut_ptr() as usize, bytes.len())
}

/// What an operation has come to, with the bytes of its buffer.
pub fn done(answer: Result<Answer, Error>, work: Work<'_>) -> Done {
    match (answer, work) {
        (Ok(Answer::Read(read)), Work::Read(buf) | Work::Transact(_, buf)) => {
            assert!(read.count() <= buf.len(), "{read:?} into {buf:?}");
            let bytes: Vec<u8> = (0..read.count())
                // SAFETY: `buffer` was given memory of that length, which is still there.
                .map(|at| unsafe { *(buf.address() as *const u8).add(at) })
                .collect();
            Done::Read(bytes, matches!(read, Read::Whole(_)))
        }
        (Ok(Answer::Wrote(count)), _) => Done::Wrote(count),
        (Ok(_), _) => Done::Flushed,
        (Err(error), _) => Done::Failed(error),
    }
}

/// Memory of which only so many bytes can be copied, in both directions; `between` runs before each copy.
pub struct Short<'f> {
    /// Bytes that can still be copied.
    pub left: Cell<usize>,
    /// What happens meanwhile.
    pub between: &'f dyn Fn(),
}

impl Short<'_> {
    fn copy(&self, from: *const u8, to: *mut u8, len: usize) -> bool {
        (self.between)();
        let part = len.min(self.left.get());
        // SAFETY: as for `Plain`.
        unsafe { std::ptr::copy_nonoverlapping(from, to, part) };
        self.left.set(self.left.get() - part);
        part == len
    }

    /// A buffer of it. It has to outlive every call that it is given to.
    pub fn buffer(&self, bytes: &mut [u8]) -> UserBuffer<'_> {
        UserBuffer::new(self, bytes.as_mut_ptr() as usize, bytes.len())
    }
}

impl UserMemory for Short<'_> {
    unsafe fn copy_in(&self, from: usize, to: *mut u8, len: usize) -> bool {
        self.copy(from as *const u8, to, len)
    }

    unsafe fn copy_out(&self, to: usize, from: *const u8, len: usize) -> bool {
        self.copy(from, to as *mut u8, len)
    }
}
