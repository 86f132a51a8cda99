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
    frame::HEADER,
    memory::{Sink, Source},
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// Where a data area lies, for whoever keeps what it lies in.
#[derive(Debug)]
pub(crate) struct Memory {
    #[cfg(not(loom))]
    base: std::ptr::NonNull<u8>,
    /// The largest has 128 MiB.
    #[cfg(not(loom))]
    len: u32,
    #[cfg(loom)]
    words: Box<[AtomicU64]>,
    /// Offset up to which this process has seen to it that there is memory: never more than the length.
    populated: AtomicU32,
}

// SAFETY: the pointer leads to words that are atomics and to payload bytes that are only copied; all of it may be used
// from any thread, for as long as `new` was promised.
#[cfg(not(loom))]
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
#[cfg(not(loom))]
unsafe impl Sync for Memory {}

/// A data area: a power of two of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area<'a> {
    #[cfg(not(loom))]
    base: std::ptr::NonNull<u8>,
    #[cfg(not(loom))]
    len: u64,
    #[cfg(not(loom))]
    lifetime: std::marker::PhantomData<&'a ()>,
    #[cfg(loom)]
    words: &'a [AtomicU64],
}

/// Where a frame lies that goes straight on: its header, its payload, and the header behind it are inside the area, and none of
/// them goes round its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot<'a> {
    #[cfg(not(loom))]
    at: std::ptr::NonNull<u8>,
    #[cfg(not(loom))]
    lifetime: std::marker::PhantomData<&'a ()>,
    /// Bytes of payload.
    len: u32,
    #[cfg(loom)]
    area: Area<'a>,
    #[cfg(loom)]
    offset: u64,
}

/// What a frame takes beside its payload, with the header behind it on whatever line.
const AROUND: u64 = 2 * HEADER + 64;

/// The system has no memory for a chunk of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

#[cfg(not(loom))]
impl Memory {
    /// Of which there is memory up to `populated`.
    ///
    /// # Safety
    /// - `base` is aligned to 64 and valid for reads and writes of `len` bytes for as long as this is used, in memory
    ///   that nobody holds a reference to (a shared mapping that cannot shrink, or heap cells).
    /// - `len` is a power of two, at least 64.
    pub(crate) unsafe fn new(base: std::ptr::NonNull<u8>, len: u32, populated: u32) -> Memory {
        Memory {
            base,
            len,
            populated: AtomicU32::new(populated.min(len)),
        }
    }

    #[inline(always)]
    pub(crate) fn area(&self) -> Area<'_> {
        Area {
            base: self.base,
            len: u64::from(self.len),
            lifetime: std::marker::PhantomData,
        }
    }

    fn len(&self) -> u32 {
        self.len
    }
}

impl Memory {
    /// Offset up to which this process has seen to it that there is memory.
    #[inline(always)]
    pub(crate) fn populated(&self) -> u64 {
        u64::from(self.populated.load(Ordering::Relaxed))
    }

    pub(crate) fn set_populated(&self, to: u64) {
        let to = u32::try_from(to).unwrap_or(0);
        self.populated.store(to.min(self.len()), Ordering::Relaxed);
    }

    /// No more of it than that is to be relied on.
    pub(crate) fn no_more_than(&self, to: u32) {
        self.populated.fetch_min(to, Ordering::Relaxed);
    }

    /// [`Area::plot`], of memory that this process has seen to.
    #[inline(always)]
    pub(crate) fn plot(&self, pos: u64, len: u32) -> Option<Plot<'_>> {
        self.area().plot_before(pos, len, self.populated())
    }
}

#[cfg(not(loom))]
impl<'a> Area<'a> {
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

    /// As [`Area::plot`], before the offset `until`, which is at most the length.
    #[inline(always)]
    fn plot_before(self, pos: u64, len: u32, until: u64) -> Option<Plot<'a>> {
        let offset = pos & (self.len - 1) & !7;
        if offset + u64::from(len) + AROUND > until {
            return None;
        }
        Some(Plot {
            // SAFETY: below `len`, hence inside the area.
            at: unsafe { self.base.add(offset as usize) },
            lifetime: std::marker::PhantomData,
            len,
        })
    }

    /// A hint to the CPU: the lines at `pos` and after it are going to be read.
    #[inline(always)]
    pub(crate) fn expect_read(self, pos: u64) {
        let [first, second] = self.two_lines(pos);
        hint::read(first);
        hint::read(second);
    }

    /// A hint to the CPU: the line after the one at `pos` is going to be read.
    #[inline(always)]
    pub(crate) fn expect_second_line(self, pos: u64) {
        let [_, second] = self.two_lines(pos);
        hint::read(second);
    }

    /// A hint to the CPU: the lines at `pos` and after it are going to be written.
    #[inline(always)]
    pub(crate) fn expect_write(self, pos: u64) {
        for line in self.two_lines(pos) {
            hint::write(line);
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
        if from < to {
            // A refusal costs memory and nothing else.
            let _ = self.advise(from, to, libc::MADV_REMOVE);
        }
    }

    fn advise(self, from: u64, to: u64, advice: i32) -> Result<(), i32> {
        debug_assert!(from < to && to <= self.len);
        if cfg!(miri) {
            return Err(libc::EINVAL); // heap, as it may be in tests
        }
        // SAFETY: the range is inside the area; neither advice unmaps anything, and what MADV_REMOVE zeroes is free
        // room by the protocol. Of a heap the kernel refuses it, and what does not begin with a page.
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

impl<'a> Area<'a> {
    /// Where a frame with `len` bytes of payload lies whose header is at a position, if it and the header behind it go
    /// straight on.
    #[inline(always)]
    pub(crate) fn plot(self, pos: u64, len: u32) -> Option<Plot<'a>> {
        self.plot_before(pos, len, self.len())
    }
}

#[cfg(not(loom))]
impl<'a> Plot<'a> {
    /// The two words of the header.
    #[inline(always)]
    pub(crate) fn header(self) -> [&'a AtomicU64; 2] {
        // SAFETY:
        // - `Area::plot_before` has found both words inside the area; the base is aligned to 64, and the offset to 8.
        // - Every bit pattern is a valid `AtomicU64`, and it may be changed through shared references.
        // - The area lives for `'a`.
        unsafe {
            [
                self.at.cast::<AtomicU64>().as_ref(),
                self.at.add(8).cast::<AtomicU64>().as_ref(),
            ]
        }
    }

    /// Copies `data`, which is the payload.
    #[inline(always)]
    pub(crate) fn copy_in<S: Source>(self, data: S) -> Result<(), Error> {
        if data.len() > self.len as usize {
            return Err(Fault::FrameLength.into());
        }
        // SAFETY:
        // - `Area::plot_before` has found room for `len` bytes behind the header.
        // - The data is private memory of this process and cannot overlap it.
        unsafe { data.copy_to(self.at.as_ptr().add(HEADER as usize)) }
    }

    /// Copies the payload to the beginning of `buf`.
    #[inline(always)]
    pub(crate) fn copy_out<D: Sink + ?Sized>(self, buf: &mut D) -> Result<(), D::Error> {
        // SAFETY: as in `copy_in`, the other way round.
        unsafe { buf.put(0, self.at.as_ptr().add(HEADER as usize), self.len as usize) }
    }

    /// A hint to the CPU: the lines so many bytes behind the payload are going to be written. Behind the area's end it is a
    /// wasted one.
    #[inline(always)]
    pub(crate) fn expect_write_ahead(self, ahead: u64) {
        let behind = HEADER + u64::from(self.len) + ahead;
        let line = self.at.as_ptr().wrapping_add(behind as usize);
        hint::write(line);
        hint::write(line.wrapping_add(64));
    }

    /// The same of lines so many bytes behind the header that are going to be read.
    #[inline(always)]
    pub(crate) fn expect_read_behind(self, behind: u64) {
        let line = self.at.as_ptr().wrapping_add(behind as usize);
        hint::read(line);
        hint::read(line.wrapping_add(64));
    }
}

/// Hints to the CPU about lines to come.
#[cfg(not(loom))]
mod hint {
    /// It is going to be read.
    #[inline(always)]
    pub(super) fn read(line: *const u8) {
        // SAFETY: a prefetch never faults and changes no byte, whatever the address.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = line;
    }

    /// It is going to be written.
    #[inline(always)]
    pub(super) fn write(line: *const u8) {
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

/// The models' area: words on the heap, copied one by one.
#[cfg(loom)]
impl Memory {
    fn len(&self) -> u32 {
        8 * self.words.len() as u32
    }

    pub(crate) fn of_words(words: Box<[AtomicU64]>) -> Memory {
        assert!(words.len().is_power_of_two());
        let populated = AtomicU32::new(8 * words.len() as u32);
        Memory { words, populated }
    }

    pub(crate) fn area(&self) -> Area<'_> {
        Area { words: &self.words }
    }
}

#[cfg(loom)]
impl<'a> Plot<'a> {
    pub(crate) fn header(self) -> [&'a AtomicU64; 2] {
        [self.offset, self.offset + 8].map(|offset| self.area.word(offset))
    }

    pub(crate) fn copy_in<S: Source>(self, data: S) -> Result<(), Error> {
        self.area.copy_in(self.offset + HEADER, data)
    }

    pub(crate) fn copy_out<D: Sink + ?Sized>(self, buf: &mut D) -> Result<(), D::Error> {
        let (from, len) = (self.offset + HEADER, self.len as usize);
        self.area.copy_out(from, buf, 0, len)
    }

    pub(crate) fn expect_write_ahead(self, _: u64) {}
    pub(crate) fn expect_read_behind(self, _: u64) {}
}

#[cfg(loom)]
impl<'a> Area<'a> {
    fn plot_before(self, pos: u64, len: u32, until: u64) -> Option<Plot<'a>> {
        let offset = pos & (self.len() - 1) & !7;
        (offset + u64::from(len) + AROUND <= until).then_some(Plot {
            len,
            area: self,
            offset,
        })
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
