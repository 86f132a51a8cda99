//! Bytes out of and into a data area, and the memory behind it. UNSAFE.
//!
//! Rust has no settled words for copying memory that a foreign process may be writing (unsafe-code-guidelines 152).
//! The choice made here: header words are atomics; payload is copied plainly, whole, and at most once in each
//! direction, through raw pointers, so that no reference to shared bytes ever exists. What a hostile peer changes
//! during a copy changes the copied bytes and nothing else: lengths and offsets were checked before, on private copies,
//! and the copy is looked at by nobody but the caller.

#![allow(
    clippy::cast_possible_truncation,
    reason = "offsets and lengths were checked to be inside a mapping, hence inside the address space"
)]

use crate::{
    error::{Error, Fault},
    memory::{Sink, Source},
    sync::AtomicU64,
};

/// A data area: a power of two of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area<'a> {
    #[cfg(not(loom))]
    base: std::ptr::NonNull<u8>,
    #[cfg(not(loom))]
    len: u64,
    /// Whether it is a mapping that has to be populated (else it is heap).
    #[cfg(not(loom))]
    mapped: bool,
    #[cfg(not(loom))]
    lifetime: std::marker::PhantomData<&'a ()>,
    #[cfg(loom)]
    words: &'a [AtomicU64],
}

/// The system has no memory for a chunk of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

#[cfg(not(loom))]
impl<'a> Area<'a> {
    /// # Safety
    /// - `base` is aligned to 64 and valid for reads and writes of `len` bytes for `'a`, in memory that nobody holds
    ///   a reference to (a shared mapping that cannot shrink, or heap cells).
    /// - `len` is a power of two, at least 64. `mapped` only for page-aligned shared mappings.
    pub(crate) unsafe fn new(base: std::ptr::NonNull<u8>, len: u64, mapped: bool) -> Area<'a> {
        Area {
            base,
            len,
            mapped,
            lifetime: std::marker::PhantomData,
        }
    }

    pub(crate) fn len(self) -> u64 {
        self.len
    }

    /// The header word at a position; positions are multiples of 8 and taken modulo the area.
    #[inline(always)]
    pub(crate) fn word(self, pos: u64) -> &'a AtomicU64 {
        let offset = (pos & (self.len - 1) & !7) as usize;
        // SAFETY:
        // - `offset` is below `len` and a multiple of 8, `len` is a multiple of 64 and the base aligned to 64: the
        //   eight bytes are inside the area and aligned.
        // - Every bit pattern is a valid `AtomicU64`, and it may be changed through shared references.
        // - `new` promised that the area lives for `'a`.
        unsafe { self.base.add(offset).cast::<AtomicU64>().as_ref() }
    }

    /// A hint to the CPU: the lines at `pos` and after it are going to be read.
    #[inline(always)]
    pub(crate) fn expect_read(self, pos: u64) {
        let [first, second] = self.two_lines(pos);
        Self::expect_line(first);
        Self::expect_line(second);
    }

    /// A hint to the CPU: the line after the one at `pos` is going to be read.
    #[inline(always)]
    pub(crate) fn expect_second_line(self, pos: u64) {
        let [_, second] = self.two_lines(pos);
        Self::expect_line(second);
    }

    #[inline(always)]
    fn expect_line(line: *const u8) {
        // SAFETY: a prefetch never faults and changes no byte, whatever the address.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = line;
    }

    /// A hint to the CPU: the lines at `pos` and after it are going to be written.
    #[inline(always)]
    pub(crate) fn expect_write(self, pos: u64) {
        for line in self.two_lines(pos) {
            // SAFETY:
            // - A prefetch never faults and changes no byte, whatever the address.
            // - CPUs without the instruction take it for a no-op (Intel SDM volume 2, PREFETCHW; AMD has always had it).
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) line,
                    options(nostack, preserves_flags, readonly)
                );
            }
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            let _ = line;
        }
    }

    /// Where the line of a position and the next one lie.
    #[inline(always)]
    fn two_lines(self, pos: u64) -> [*const u8; 2] {
        [0, 64].map(|line| {
            let offset = (pos.wrapping_add(line) & (self.len - 1)) as usize;
            self.base.as_ptr().wrapping_add(offset).cast_const()
        })
    }

    /// Copies `data` to the area.
    #[inline]
    pub(crate) fn copy_in<S: Source>(self, pos: u64, data: S) -> Result<(), Error> {
        let offset = pos & (self.len - 1);
        if offset + data.len() as u64 > self.len {
            return Err(Fault::FrameLength.into());
        }
        // SAFETY:
        // - The check above keeps the destination inside the area.
        // - The data is private memory of this process and cannot overlap it.
        unsafe { data.copy_to(self.base.as_ptr().add(offset as usize)) }
    }

    /// Copies `len` bytes of the area to `buf`, from `at` on.
    #[inline]
    pub(crate) fn copy_out<D: Sink + ?Sized>(
        self,
        pos: u64,
        buf: &mut D,
        at: usize,
        len: usize,
    ) -> Result<(), D::Error> {
        let offset = pos & (self.len - 1);
        if offset + len as u64 > self.len {
            return Err(Fault::FrameLength.into());
        }
        // SAFETY: as in `copy_in`, the other way round.
        unsafe { buf.put(at, self.base.as_ptr().add(offset as usize), len) }
    }

    /// Bytes of the area where they lie.
    ///
    /// # Safety
    /// Nobody writes to them while the reference lives: the frame is committed and not given back, and whoever maps
    /// the memory keeps to the protocol.
    #[inline]
    pub(crate) unsafe fn bytes(self, pos: u64, len: u32) -> Result<&'a [u8], Fault> {
        let offset = pos & (self.len - 1);
        if offset + u64::from(len) > self.len {
            return Err(Fault::FrameLength);
        }
        // SAFETY: the check above keeps the range inside the area, which lives for `'a`; the caller vouches for the rest.
        Ok(unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(offset as usize), len as usize)
        })
    }

    /// Makes sure that offsets `from..to` have memory behind them, so that no copy can end in SIGBUS.
    pub(crate) fn populate(self, from: u64, to: u64) -> Result<(), NoMemory> {
        if !self.mapped {
            return Ok(());
        }
        let from = from & !4095;
        let to = ((to + 4095) & !4095).min(self.len);
        if from >= to {
            return Ok(());
        }
        match self.advise(from, to, libc::MADV_POPULATE_WRITE) {
            // Linux before 5.14 does not know the advice; there, memory is found when it is touched.
            Ok(()) | Err(libc::EINVAL) => Ok(()),
            Err(_) => Err(NoMemory),
        }
    }

    /// Gives the memory behind whole pages of offsets `from..to` back; they read as zero afterwards.
    pub(crate) fn punch(self, from: u64, to: u64) {
        let from = (from + 4095) & !4095;
        let to = to.min(self.len) & !4095;
        if self.mapped && from < to {
            // A refusal costs memory and nothing else.
            let _ = self.advise(from, to, libc::MADV_REMOVE);
        }
    }

    fn advise(self, from: u64, to: u64, advice: i32) -> Result<(), i32> {
        debug_assert!(from < to && to <= self.len);
        // SAFETY: the range is inside the mapping, whose base is page-aligned; neither advice unmaps anything, and
        // what MADV_REMOVE zeroes is free room by the protocol.
        let got = unsafe {
            libc::madvise(
                self.base.as_ptr().add(from as usize).cast(),
                (to - from) as usize,
                advice,
            )
        };
        if got == 0 {
            Ok(())
        } else {
            Err(crate::futex::errno())
        }
    }
}

/// The models' area: words on the heap, copied one by one.
#[cfg(loom)]
impl<'a> Area<'a> {
    pub(crate) fn of_words(words: &'a [AtomicU64]) -> Area<'a> {
        assert!(words.len().is_power_of_two());
        Area { words }
    }

    pub(crate) fn len(self) -> u64 {
        self.words.len() as u64 * 8
    }

    pub(crate) fn word(self, pos: u64) -> &'a AtomicU64 {
        &self.words[((pos & (self.len() - 1)) / 8) as usize]
    }

    pub(crate) fn expect_read(self, _: u64) {}
    pub(crate) fn expect_second_line(self, _: u64) {}
    pub(crate) fn expect_write(self, _: u64) {}

    pub(crate) fn copy_in<S: Source>(self, pos: u64, data: S) -> Result<(), Error> {
        let offset = pos & (self.len() - 1);
        if offset + data.len() as u64 > self.len() {
            return Err(Fault::FrameLength.into());
        }
        let mut bytes = vec![0; data.len().next_multiple_of(8)];
        // SAFETY: there is room for all of it.
        unsafe { data.copy_to(bytes.as_mut_ptr()) }?;
        for (i, chunk) in bytes.as_chunks().0.iter().enumerate() {
            self.word(offset + 8 * i as u64)
                .store(u64::from_le_bytes(*chunk), crate::sync::Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn copy_out<D: Sink + ?Sized>(
        self,
        pos: u64,
        buf: &mut D,
        at: usize,
        len: usize,
    ) -> Result<(), D::Error> {
        let offset = pos & (self.len() - 1);
        if offset + len as u64 > self.len() {
            return Err(Fault::FrameLength.into());
        }
        let words = (0..len.div_ceil(8) as u64).map(|i| self.word(offset + 8 * i));
        let bytes: Vec<u8> = words
            .flat_map(|word| word.load(crate::sync::Ordering::Relaxed).to_le_bytes())
            .collect();
        // SAFETY: it has that many bytes.
        unsafe { buf.put(at, bytes.as_ptr(), len) }
    }

    pub(crate) fn populate(self, _: u64, _: u64) -> Result<(), NoMemory> {
        Ok(())
    }

    pub(crate) fn punch(self, _: u64, _: u64) {}
}
