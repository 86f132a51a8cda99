//! How frames get into a queue: room, copy, commit.
//!
//! All of it happens under the producer's role. A frame is copied to free room first and exists from the moment that
//! its tag is stored; nothing before that has to be undone. Room is address space: the area is about 32 times the
//! quota, so that every mix of writes that the quota admits fits.
//!
//! **Restart.** A queue that is found empty, or whose reader keeps up, goes back to the beginning of its area by a
//! skip frame long before the end, so that a busy pipe stays in the cache and its memory small. Until the reader has
//! passed that skip frame, what is unread in front of it stands in the way of the new lap like a rock: frames are
//! laid before it and behind it, and the free room ends with the lap. So a restart takes no room from anybody.

use crate::{
    attention::{OWED, READER_CLOSED, UNPLACED, WRITER_CLOSED},
    cpu,
    error::{Error, Fault},
    fast::LARGE,
    fault::{self, Point},
    frame::{Flags, HEADER, Header, next_header, next_lap, on_header},
    futex,
    matching::{self, Nowait},
    memory::Source,
    queue::{Back, Queue},
    record::{Kind, Phase, Wakes},
    role::{Owner, Taken},
    sync::{AtomicU64, Ordering},
    types::PipeType,
};

/// How a caller wants its write treated when it cannot complete at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteHow {
    /// Answers [`WriteStop::WouldPend`] (a try call, or one that still spins).
    Try,
    /// COMPLETE mode.
    Nowait,
    /// Takes a record.
    Pend,
    /// A request of transact: the quota does not matter (NP-XCV-04).
    NoQuota,
}

/// Why a write did not complete at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteStop {
    Failed(Error),
    WouldPend,
    /// It has the record of this index and life.
    Pended(usize, u32),
    /// The producer's role is held.
    ProducerHeld,
    /// The match lock is held.
    LockHeld,
    /// That of the other direction is, where a transact's reply will come.
    ReplyHeld,
    /// No free record.
    TableFull,
}

impl From<Error> for WriteStop {
    fn from(error: Error) -> WriteStop {
        WriteStop::Failed(error)
    }
}

impl From<Fault> for WriteStop {
    fn from(fault: Fault) -> WriteStop {
        WriteStop::Failed(fault.into())
    }
}

/// A frame copied to its place, not committed yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) at: u64,
    pub(crate) header: Header,
    /// Bytes of it that will be committed (a COMPLETE write may be cut).
    pub(crate) next: u64,
}

impl<'a> Queue<'a> {
    /// Writes `data` as one entry: the whole of NtWriteFile apart from waiting. `aligned`: lay the next frame on a
    /// cache line (the caller and its peer take turns).
    #[inline]
    pub(crate) fn write<S: Source>(
        &self,
        me: Owner,
        data: S,
        how: WriteHow,
        aligned: bool,
        wakes: &mut Wakes<'a>,
    ) -> Result<usize, WriteStop> {
        let len = u32::try_from(data.len())
            .ok()
            .filter(|len| i32::try_from(*len).is_ok())
            .ok_or(Error::TooLong)?;
        match self.take_producer(me) {
            Taken::Clean | Taken::Dirty => {}
            Taken::Mine => return Err(Error::Busy.into()),
            Taken::Held(_) => return Err(WriteStop::ProducerHeld),
        }
        fault::at(Point::ProducerRole);
        let attention = self.attention();
        let back = self.back();
        let quiet = attention.is_quiet(self.calm);
        let done = if quiet && len != 0 && self.fits_quota(&back, len) {
            match self.append(back, data, len, aligned) {
                // The quota has room and the area has not (cancelled writes keep theirs until the reader has passed
                // them): it stalls like any other.
                Err(WriteStop::WouldPend) => self.write_slow(me, data, len, how, aligned, wakes),
                done => done,
            }
        } else {
            self.write_slow(me, data, len, how, aligned, wakes)
        };
        fault::at(Point::BeforeRing);
        self.release_producer(me, wakes);
        if let Err(WriteStop::Pended(index, _)) = done
            && self.record(index).count.load(Ordering::Relaxed) != 0
        {
            fault::at(Point::MidStream);
        }
        self.see_to_records(me, done.is_ok(), wakes)?;
        done
    }

    /// After the role was given back: whoever waits for what was `written`, or for the role alone, is served.
    #[inline]
    fn see_to_records(&self, me: Owner, written: bool, wakes: &mut Wakes<'a>) -> Result<(), Fault> {
        // Pairs with the fence in `publish_record`: either this load sees the record, or its owner sees the frame.
        if self.has_waiters() {
            if written {
                self.settle_for_waiters(me, wakes)?;
            } else {
                self.after_producer(me, wakes);
            }
        }
        Ok(())
    }

    /// Leaves the role in which a shortcut was taken, after it has `written` or was not.
    #[cold]
    pub(crate) fn leave_producer(
        &self,
        me: Owner,
        written: bool,
        wakes: &mut Wakes<'a>,
    ) -> Result<(), Fault> {
        self.release_producer(me, wakes);
        self.see_to_records(me, written, wakes)
    }

    /// Free quota for `len` bytes, by the notes or, if they say no, by the reader's line.
    #[inline]
    pub(crate) fn fits_quota(&self, back: &Back, len: u32) -> bool {
        if self.fits_notes(back.bytes, len) {
            return true;
        }
        let taken = self.header.taken.0.bytes.load(Ordering::Acquire);
        self.header.notes.0.taken.store(taken, Ordering::Relaxed);
        self.fits(back.bytes, len, taken)
    }

    /// The same by the notes alone, which may be behind.
    #[inline(always)]
    pub(crate) fn fits_notes(&self, bytes: u64, len: u32) -> bool {
        self.fits(
            bytes,
            len,
            self.header.notes.0.taken.load(Ordering::Relaxed),
        )
    }

    #[inline(always)]
    fn fits(&self, bytes: u64, len: u32, taken: u64) -> bool {
        let free = u64::from(self.quota)
            .wrapping_add(taken)
            .wrapping_sub(bytes);
        i64::from(len) <= free.cast_signed()
    }

    /// Bytes of the quota that are free, after a fresh look at the reader's line.
    fn free_quota(&self) -> u32 {
        let taken = self.header.taken.0.bytes.load(Ordering::Acquire);
        self.header.notes.0.taken.store(taken, Ordering::Relaxed);
        let used = self.back().bytes.wrapping_sub(taken).cast_signed().max(0);
        matching::quota_available(self.quota, used.cast_unsigned(), 0)
    }

    /// A spinning writer's hint: the reader has freed enough for `len` bytes, and nothing unusual goes on.
    pub(crate) fn looks_writable(&self, len: u64) -> bool {
        let taken = self.header.taken.0.bytes.load(Ordering::Acquire);
        let used = self.back().bytes.wrapping_sub(taken).cast_signed().max(0);
        used.cast_unsigned() + len <= u64::from(self.quota)
    }

    /// Places and commits; the caller has seen to quota and order.
    #[inline]
    fn append<S: Source>(
        &self,
        mut back: Back,
        data: S,
        len: u32,
        aligned: bool,
    ) -> Result<usize, WriteStop> {
        let flags = self.flags_for(back.tail, len, aligned);
        let Some(placed) = self.place(&mut back, data, flags)? else {
            return Err(WriteStop::WouldPend);
        };
        self.commit(&back, &placed, 1);
        Ok(len as usize)
    }

    /// How a whole message that goes straight on is laid. Padding is allowed while the room left admits every mix that the
    /// free quota does (24 bytes for each message of one byte, and a skip at the end and at the rock).
    #[inline(always)]
    pub(crate) fn flags_for(&self, tail: u64, len: u32, aligned: bool) -> Flags {
        if !aligned {
            return Flags::default();
        }
        let until = self.header.notes.0.padded.load(Ordering::Relaxed);
        let end = tail.wrapping_add(HEADER + u64::from(len));
        if until.wrapping_sub(end).cast_signed() >= 0 {
            Flags::ALIGNED
        } else {
            Flags::default()
        }
    }

    /// Copies one frame to free room. `None`: there is no room for all of it in one piece.
    #[inline(always)]
    pub(crate) fn place<S: Source>(
        &self,
        back: &mut Back,
        data: S,
        flags: Flags,
    ) -> Result<Option<Placed>, Error> {
        let len = data.len() as u64;
        let Some(at) = self.find_room(back, len, flags)? else {
            return Ok(None);
        };
        self.see_to_memory(at.wrapping_add(HEADER + len))?;
        self.lay(at, data, flags).map(Some)
    }

    /// Copies one frame to where there is room and memory for it.
    #[inline(always)]
    pub(crate) fn lay<S: Source>(&self, at: u64, data: S, flags: Flags) -> Result<Placed, Error> {
        let len = data.len() as u64;
        let payload = at.wrapping_add(HEADER);
        let end = payload.wrapping_add(len);
        if len <= AHEAD && !flags.has(Flags::ALIGNED) {
            // A stream of small frames waits for lines that the reader had, one after the other; asked for early, they
            // come while this frame is copied.
            self.area().expect_write(end.wrapping_add(AHEAD));
        }
        self.area().copy_in(payload, data)?;
        #[allow(clippy::cast_possible_truncation, reason = "`write` has checked it")]
        Ok(Placed {
            at,
            header: Header {
                len: len as u32,
                flags,
                context: 0,
            },
            next: next_header(end, flags, self.area().len()),
        })
    }

    /// Whether there is memory behind a frame that ends at `end` and the header after it, so that neither our copy nor a
    /// reader's poll meets a hole.
    #[inline(always)]
    pub(crate) fn has_memory(&self, end: u64) -> bool {
        let populated = self.memory.populated();
        self.memory_for(end) <= populated || populated >= self.area().len()
    }

    #[inline(always)]
    fn see_to_memory(&self, end: u64) -> Result<(), Error> {
        if self.has_memory(end) {
            Ok(())
        } else {
            self.populate(end)
        }
    }

    /// The offset up to which there has to be some.
    #[inline(always)]
    fn memory_for(&self, end: u64) -> u64 {
        (end.wrapping_sub(1) & (self.area().len() - 1)) + 1 + 64 + HEADER
    }

    #[cold]
    fn populate(&self, end: u64) -> Result<(), Error> {
        let (from, wanted) = (self.memory.populated(), self.memory_for(end));
        // From one page up to 64 KiB at a time: small pipes stay small, streams make few calls.
        let chunk = wanted.next_power_of_two().clamp(4096, 65_536);
        let to = wanted.next_multiple_of(chunk).min(self.area().len());
        self.area()
            .populate(from.min(to), to)
            .map_err(|_| Error::NoMemory)?;
        self.memory.set_populated(to);
        Ok(())
    }

    /// Stores the tag: from here on the frame exists.
    #[inline(always)]
    pub(crate) fn commit(&self, back: &Back, placed: &Placed, messages: u32) {
        self.prepare_back(Back {
            tail: placed.next,
            bytes: back.bytes.wrapping_add(u64::from(placed.header.len)),
            messages: back.messages.wrapping_add(messages),
        });
        let area = self.area();
        let words = [area.word(placed.at), area.word(placed.at.wrapping_add(8))];
        self.commit_prepared(words, placed.at, placed.header);
    }

    /// The same of a frame at a position, whose header's words these are, with the back prepared.
    #[inline(always)]
    pub(crate) fn commit_prepared(&self, [tag, word]: [&AtomicU64; 2], at: u64, header: Header) {
        word.store(header.encode(), Ordering::Relaxed);
        fault::at(Point::Copied);
        tag.store(self.tag(at), Ordering::Release);
        fault::at(Point::Committed);
        self.turn_back();
    }

    /// A skip frame from `at` to `to`.
    pub(crate) fn skip(&self, back: &mut Back, at: u64, to: u64) {
        back.tail = to;
        self.prepare_back(*back);
        #[allow(clippy::cast_possible_truncation, reason = "at most one lap")]
        let header = Header {
            len: to.wrapping_sub(at) as u32,
            flags: Flags::SKIP,
            context: 0,
        };
        self.area()
            .word(at.wrapping_add(8))
            .store(header.encode(), Ordering::Relaxed);
        self.area().word(at).store(self.tag(at), Ordering::Release);
        self.turn_back();
    }

    // ---- room --------------------------------------------------------------------------------------------------

    /// A position for a header with `len` bytes of payload behind it in one piece; skip frames on the way to it are
    /// committed.
    #[inline(always)]
    fn find_room(&self, back: &mut Back, len: u64, flags: Flags) -> Result<Option<u64>, Error> {
        if self.goes_straight_on(back.tail, len) {
            return Ok(Some(back.tail));
        }
        self.find_room_slow(back, len, flags)
    }

    /// The usual case: straight on, well before the end of the area, the rock and the head (both are one lap after the
    /// head), and no restart due.
    #[inline(always)]
    pub(crate) fn goes_straight_on(&self, tail: u64, len: u64) -> bool {
        let until = self.header.notes.0.straight.load(Ordering::Relaxed);
        let end = tail.wrapping_add(HEADER + len);
        until.wrapping_sub(end).cast_signed() >= 0
    }

    /// Notes how far frames may go straight on from `at`, and how far they may be padded, for as long as the reader is not
    /// looked at again.
    fn note_room(&self, head: u64, at: u64, need: u64) {
        let size = self.area().len();
        let notes = &self.header.notes.0;
        // Each look takes the line from the reader that is about to write it: not for every few frames of some KiB.
        let few = if need <= RESTART / 2 { 16 * need } else { 0 };
        let looks_again = RESTART.max(few.min(u64::from(self.quota)));
        let ends = [
            next_lap(at, size),
            head.wrapping_add(size).wrapping_sub(BEFORE_ROCK),
            notes
                .checked
                .load(Ordering::Relaxed)
                .wrapping_add(looks_again),
        ];
        let ahead = ends.map(|end| end.wrapping_sub(at).cast_signed());
        let straight = ahead.into_iter().fold(i64::MAX, i64::min);
        notes
            .straight
            .store(at.wrapping_add(straight.cast_unsigned()), Ordering::Relaxed);
        // A scribbled head may say anything: never more room than there is.
        let mut room = size.saturating_sub(at.wrapping_sub(head)).cast_signed();
        if let Some(restart) = self.restart_ahead(head, at) {
            room += size
                .saturating_sub((restart & (size - 1)) + 2 * 64)
                .cast_signed();
        }
        let padded = room - 26 * i64::from(self.quota) - 512;
        notes
            .padded
            .store(at.wrapping_add(padded.cast_unsigned()), Ordering::Relaxed);
    }

    /// The restart that the reader has not passed yet, by a head.
    fn restart_ahead(&self, head: u64, tail: u64) -> Option<u64> {
        let restart = self.header.notes.0.restart.load(Ordering::Relaxed);
        (restart.wrapping_sub(head).cast_signed() >= 0
            && tail.wrapping_sub(restart).cast_signed() > 0)
            .then_some(restart)
    }

    #[cold]
    fn find_room_slow(
        &self,
        back: &mut Back,
        len: u64,
        flags: Flags,
    ) -> Result<Option<u64>, Error> {
        let size = self.area().len();
        if HEADER + len > size {
            return Ok(None);
        }
        let notes = &self.header.notes.0;
        let head = self.header.taken.0.head.load(Ordering::Acquire);
        notes.head.store(head, Ordering::Relaxed);
        let mut tail = back.tail;

        if tail.wrapping_sub(notes.checked.load(Ordering::Relaxed)) >= RESTART {
            notes.checked.store(tail, Ordering::Relaxed);
            if self.restart_ahead(head, tail).is_none()
                && worth_a_restart(
                    head,
                    tail,
                    size,
                    full_lap(size, self.quota, cpu::own_cache()),
                )
                && !(len >= u64::from(LARGE)
                    && !flags.has(Flags::ALIGNED)
                    && self.goes_far(tail & (size - 1)))
            {
                tail = self.restart(back, head)?;
            }
        }

        // Where the free room ends; and the rock, in the lap behind the restart: from the first unread byte before the
        // restart to its skip frame.
        let restart = self.restart_ahead(head, tail);
        let rock = restart.map(|restart| {
            let behind = (restart.wrapping_add(HEADER + 63)) & !63;
            (
                head.wrapping_add(size),
                on_header(behind, size).wrapping_add(size),
            )
        });
        let limit = match restart {
            Some(restart) => next_lap(restart, size).wrapping_add(size),
            None => head.wrapping_add(size),
        };
        let free = |pos: u64| limit.wrapping_sub(pos).cast_signed();
        let before = |a: u64, b: u64| a.wrapping_sub(b).cast_signed() < 0;
        let need = HEADER + len;

        // At most three skips: round the rock, to the end of the lap, and round the rock again.
        let mut skips = [(0, 0); 3];
        let mut skipped = 0;
        let mut pos = tail;
        let at = loop {
            // A hostile reader may publish any head: never more room than there is.
            if free(pos) < need.cast_signed() || free(pos) > size.cast_signed() {
                return Ok(None);
            }
            let offset = pos & (size - 1);
            let meets_rock = rock.filter(|&(begin, end)| {
                before(pos, end) && before(begin, pos.wrapping_add(need + BEFORE_ROCK))
            });
            let to = if let Some((_, end)) = meets_rock {
                end
            } else if offset + need > size {
                next_lap(pos, size)
            } else {
                break pos;
            };
            if skipped == skips.len() {
                return Ok(None);
            }
            skips[skipped] = (pos, to);
            skipped += 1;
            pos = to;
        };
        for &(from, to) in &skips[..skipped] {
            self.see_to_memory(from.wrapping_add(HEADER))?;
            self.skip(back, from, to);
        }
        self.note_room(head, at, need);
        Ok(Some(at))
    }

    /// Goes on at the beginning of the area. If the queue is empty, gives back the memory that a burst took, once
    /// laps have stayed small for a while.
    fn restart(&self, back: &mut Back, head: u64) -> Result<u64, Error> {
        let notes = &self.header.notes.0;
        let tail = back.tail;
        let size = self.area().len();
        let offset = tail & (size - 1);
        let to = next_lap(tail, size);
        self.see_to_memory(tail.wrapping_add(HEADER))?;
        self.skip(back, tail, to);
        // After the skip frame: a death in between leaves less room, and the other way round a rock that nobody passes.
        notes.restart.store(tail, Ordering::Relaxed);
        notes.checked.store(to, Ordering::Relaxed);
        let next = Lap::from(notes.lap.load(Ordering::Relaxed)).next(offset, micros());
        notes.lap.store(next.into(), Ordering::Relaxed);
        let high = notes.high_water.load(Ordering::Relaxed).max(offset);
        notes.high_water.store(high, Ordering::Relaxed);
        if high > KEEP && self.has_been_small(offset) && head == tail {
            self.give_memory_back(offset, high);
        }
        Ok(to)
    }

    /// Whether a stream that has come to `offset` of its lap goes on, since it has been fast for a while and does better with a
    /// longer one. The lines of a short lap have been read a moment ago when they are written again, so that each is taken
    /// back from the reader's cache; of a lap that is longer than that cache they are nobody's.
    fn goes_far(&self, offset: u64) -> bool {
        let lap = Lap::from(self.header.notes.0.lap.load(Ordering::Relaxed));
        lap.fast >= FAST_LAPS
            && offset < LONG_LAP.min(self.area().len() / 2)
            && lap.is_fast(offset, micros())
    }

    /// A lap ends at `offset`. By the clock, and not after so many of them: a fast stream would give back again and again what
    /// it takes every now and then.
    #[cold]
    fn has_been_small(&self, offset: u64) -> bool {
        let since = &self.header.notes.0.small_since;
        if offset >= KEEP {
            since.store(0, Ordering::Relaxed);
            return false;
        }
        #[allow(clippy::cast_possible_truncation, reason = "it wraps")]
        let now = (futex::now() / 1_000_000) as u32 | 1;
        let began = since.load(Ordering::Relaxed);
        if began == 0 {
            since.store(now, Ordering::Relaxed);
        }
        began != 0 && now.wrapping_sub(began) >= SMALL_TIME
    }

    /// The queue is empty but for a header at `offset`.
    fn give_memory_back(&self, offset: u64, high: u64) {
        // Not the page that the reader polls, nor the one after it.
        let page = offset & !4095;
        let low = u64::from(LOW);
        self.area().punch(low, page.max(low));
        // Only a scribbled mark is beyond the area.
        let high = high.min(self.area().len());
        self.area()
            .punch((page + 8192).max(low), high + 65_536 + 4096);
        let notes = &self.header.notes.0;
        notes.high_water.store(offset, Ordering::Relaxed);
        notes.small_since.store(0, Ordering::Relaxed);
        self.memory.no_more_than(LOW);
    }

    /// A producer that is about to wait for something else: gives the memory of a burst back.
    pub(crate) fn trim(&self, me: Owner, wakes: &mut Wakes<'a>) {
        let notes = &self.header.notes.0;
        let size = self.area().len();
        let is_due = || {
            let tail = self.back().tail;
            let high = notes
                .high_water
                .load(Ordering::Relaxed)
                .max(tail & (size - 1));
            let empty = self.header.taken.0.head.load(Ordering::Acquire) == tail;
            (empty && high > KEEP).then_some((tail, high))
        };
        if is_due().is_none() || !matches!(self.take_producer(me), Taken::Clean | Taken::Dirty) {
            return;
        }
        let quiet = self.attention().is_quiet(self.calm);
        if let (Some((tail, high)), true) = (is_due(), quiet) {
            if tail & (size - 1) >= u64::from(LOW) {
                let _ = self.restart(&mut self.back(), tail);
            }
            self.give_memory_back(tail & (size - 1), high);
        }
        self.release_producer(me, wakes);
        self.after_producer(me, wakes);
    }

    // ---- everything unusual ------------------------------------------------------------------------------------

    /// Why a write may not go on at all.
    fn write_refusal(&self) -> Result<(), Error> {
        let attention = self.attention();
        self.check(attention, WRITER_CLOSED)?;
        if attention.has(READER_CLOSED) {
            return Err(Error::Closing);
        }
        Ok(())
    }

    #[cold]
    fn write_slow<S: Source>(
        &self,
        me: Owner,
        data: S,
        len: u32,
        how: WriteHow,
        aligned: bool,
        wakes: &mut Wakes<'a>,
    ) -> Result<usize, WriteStop> {
        self.write_refusal()?;
        if len == 0 && self.pipe_type == PipeType::Byte {
            return Ok(0); // NP-WRITE-03
        }
        let mut blocked = self.attention().has(UNPLACED);
        let fits = |blocked: bool| {
            !blocked && (how == WriteHow::NoQuota || self.fits_quota(&self.back(), len) || len == 0)
        };
        if !fits(blocked) && !self.settle_polled(me, wakes) {
            // What is its reader's by now takes no quota, and whoever is at work there is about to say so.
            return Err(WriteStop::LockHeld);
        }
        if fits(blocked) {
            match self.append(self.back(), data, len, aligned) {
                Err(WriteStop::WouldPend) if len == 0 => {}
                Err(WriteStop::WouldPend) if how == WriteHow::NoQuota => {
                    return Err(Error::NoMemory.into());
                }
                Err(WriteStop::WouldPend) if how == WriteHow::Nowait => return Ok(0),
                Err(WriteStop::WouldPend) => {}
                done => return done,
            }
        }
        match how {
            // It never pends (NP-WRITE-04).
            _ if len == 0 => {}
            WriteHow::NoQuota => return Err(Error::Busy.into()),
            // Nothing can absorb what the quota does not: no need to copy it first.
            WriteHow::Try if blocked || self.pended_bytes() == 0 => {
                return Err(WriteStop::WouldPend);
            }
            WriteHow::Nowait if blocked || !self.has_pended_reads(self.attention()) => {
                return Ok(0);
            }
            _ => {}
        }
        loop {
            // Copy first, then lock, then decide: the lock is never held over a copy.
            let placed = if blocked || len == 0 {
                None
            } else {
                match self.place(&mut self.back(), data, Flags::default())? {
                    None if how == WriteHow::Pend => self.place_part(data, 0)?,
                    placed => placed,
                }
            };
            match self.take_consumer(me) {
                Taken::Clean | Taken::Dirty => {}
                Taken::Mine => return Err(Error::Busy.into()),
                Taken::Held(_) => return Err(WriteStop::LockHeld),
            }
            // What stood in the way has gone meanwhile; without the producer's role nothing else can come.
            if blocked && len != 0 && !self.attention().has(UNPLACED) {
                self.unlock(me, wakes);
                blocked = false;
                continue;
            }
            let done = self.write_locked(me, len, how, placed, wakes);
            self.unlock(me, wakes);
            return done;
        }
    }

    /// Under both: decides NP-WRITE-04 to 12, commits, matches.
    fn write_locked(
        &self,
        me: Owner,
        len: u32,
        how: WriteHow,
        placed: Option<Placed>,
        wakes: &mut Wakes<'a>,
    ) -> Result<usize, WriteStop> {
        self.write_refusal()?;
        if self.attention().has(OWED) {
            self.stop_polling();
            self.settle(wakes)?;
        }
        if len == 0 {
            return self.write_empty_behind(me, wakes);
        }
        if how != WriteHow::Pend {
            let decision = matching::nowait(
                len,
                self.pended_bytes(),
                if placed.is_some() {
                    self.free_quota()
                } else {
                    0
                },
                self.pipe_type,
            );
            let (Some(mut placed), true) = (placed, decision != Nowait::Nothing) else {
                return match how {
                    WriteHow::Nowait => {
                        if self.pipe_type == PipeType::Byte && self.pended_bytes() == 0 {
                            self.feed_empty_reads(wakes);
                        }
                        Ok(0)
                    }
                    _ => Err(WriteStop::WouldPend),
                };
            };
            if let Nowait::Cut(count) = decision {
                if how == WriteHow::Try {
                    return Err(WriteStop::WouldPend);
                }
                placed.header.len = count;
                placed.next = next_header(
                    placed.at.wrapping_add(HEADER + u64::from(count)),
                    placed.header.flags,
                    self.area().len(),
                );
            }
            self.commit(&self.back(), &placed, 1);
            self.settle(wakes)?;
            if matches!(decision, Nowait::Cut(_)) {
                // The reads that are still there are those of no bytes behind the last one that took some: what is
                // dropped reaches them too (NP-READ-17, NP-WRITE-11).
                self.feed_empty_reads(wakes);
            }
            return Ok(placed.header.len as usize);
        }

        let Some((index, life)) = self.begin_record(me, Kind::Write, Phase::Pending) else {
            return Err(WriteStop::TableFull);
        };
        let record = self.record(index);
        record.len.store(len, Ordering::Relaxed);
        record.count.store(len, Ordering::Relaxed);
        record.pos.store(u64::MAX, Ordering::Relaxed);
        record.next.store(u64::MAX, Ordering::Relaxed);
        record.empties.store(0, Ordering::Relaxed);
        if let Some(placed) = &placed {
            self.commit_part(index, placed);
        }
        if record.count.load(Ordering::Relaxed) != 0 {
            self.header
                .common
                .0
                .attention
                .fetch_or(UNPLACED, Ordering::SeqCst);
        }
        self.publish_record(index);
        fault::at(Point::RecordTaken);
        self.settle_for(index, wakes)?;
        if record.phase() == Phase::Done {
            self.free_record(index, wakes);
            return Ok(len as usize);
        }
        Err(WriteStop::Pended(index, life))
    }

    /// An empty message that there is no room for, or that comes behind a write that is not wholly placed: it completes
    /// at once (NP-WRITE-04). The owner of the last stalled write lays it down; where there is none, whoever settles.
    fn write_empty_behind(&self, me: Owner, wakes: &mut Wakes<'a>) -> Result<usize, WriteStop> {
        let index = match self.last_stalled() {
            Some(index) => index,
            None => {
                let Some((index, _)) = self.begin_record(me, Kind::Write, Phase::Abandoned) else {
                    return Err(WriteStop::TableFull);
                };
                let record = self.record(index);
                record.len.store(0, Ordering::Relaxed);
                record.pos.store(u64::MAX, Ordering::Relaxed);
                record.empties.store(0, Ordering::Relaxed);
                self.publish_record(index);
                index
            }
        };
        let empties = &self.record(index).empties;
        let count = empties.load(Ordering::Relaxed);
        if count >= MAX_EMPTIES {
            return Err(Error::NoMemory.into());
        }
        empties.store(count + 1, Ordering::Relaxed);
        self.header
            .common
            .0
            .attention
            .fetch_or(UNPLACED, Ordering::SeqCst);
        // The last stalled write may have been withdrawn just now.
        self.settle(wakes)?;
        Ok(0)
    }

    /// Copies as much of `data[done..]` as there is room for, at least 4 KiB or all that is left.
    fn place_part<S: Source>(&self, data: S, done: usize) -> Result<Option<Placed>, Error> {
        let rest = data.part(done, usize::MAX);
        let all = usize::try_from(self.area().len() / 4).unwrap_or(usize::MAX);
        let mut part = rest.len().min(all);
        loop {
            let more = part < rest.len();
            let mut flags = Flags::default();
            if more {
                flags = flags.with(Flags::MORE);
            }
            if done != 0 {
                flags = flags.with(Flags::CONTINUED);
            }
            if let Some(placed) = self.place(&mut self.back(), rest.part(0, part), flags)? {
                return Ok(Some(placed));
            }
            part = match part {
                // What is left before the end, the rock or the head, whatever that is.
                ..=4096 => match self.room_ahead().min(rest.len()) {
                    0 => return Ok(None),
                    // Not the same again.
                    room if room >= part => part / 2,
                    room => room,
                },
                _ => (part / 4).max(4096),
            };
            if part == 0 {
                return Ok(None);
            }
        }
    }

    /// Payload bytes for which there is room in one piece without a skip, as `find_room_slow` last saw the reader.
    fn room_ahead(&self) -> usize {
        let size = self.area().len();
        let tail = self.back().tail;
        let head = self.header.notes.0.head.load(Ordering::Relaxed);
        let to_end = size - (tail & (size - 1));
        // Up to the head or, with a header in front of it, to the rock; behind the rock to the end of the lap.
        let to_limit = match self.restart_ahead(head, tail) {
            Some(_) if tail.wrapping_sub(head) > size => to_end,
            Some(_) => size
                .saturating_sub(tail.wrapping_sub(head))
                .saturating_sub(BEFORE_ROCK),
            None => size.saturating_sub(tail.wrapping_sub(head)),
        };
        usize::try_from(to_end.min(to_limit).saturating_sub(HEADER)).unwrap_or(0)
    }

    /// Commits a piece of a write that has a record, under the lock.
    fn commit_part(&self, index: usize, placed: &Placed) {
        let record = self.record(index);
        let first = !placed.header.flags.has(Flags::CONTINUED);
        if first {
            record.pos.store(placed.at, Ordering::Relaxed);
        }
        record.next.store(placed.next, Ordering::Relaxed);
        let rest = record
            .count
            .load(Ordering::Relaxed)
            .saturating_sub(placed.header.len);
        let back = self.back();
        let cancelled = self.header.table.0.cancelled.load(Ordering::Relaxed);
        record.end.store(
            back.bytes
                .wrapping_add(u64::from(placed.header.len))
                .wrapping_sub(cancelled),
            Ordering::Relaxed,
        );
        self.commit(&back, placed, u32::from(first));
        record.count.store(rest, Ordering::Release);
        // Flushes behind it wait for these bytes too (NP-FLUSH-04).
        self.move_later(
            record.order.load(Ordering::Relaxed),
            &[Kind::Flush],
            u64::from(placed.header.len),
        );
    }

    /// The owner of a write that is not wholly placed goes on with it. `Ok(true)`: something was placed.
    pub(crate) fn place_more<S: Source>(
        &self,
        me: Owner,
        index: usize,
        data: S,
        wakes: &mut Wakes<'a>,
    ) -> Result<bool, WriteStop> {
        let record = self.record(index);
        match self.take_producer(me) {
            Taken::Clean | Taken::Dirty => {}
            Taken::Mine => return Err(Error::Busy.into()),
            Taken::Held(_) => return Err(WriteStop::ProducerHeld),
        }
        let placed = self.place_more_held(me, index, data, wakes);
        self.release_producer(me, wakes);
        self.after_producer(me, wakes);
        if placed == Ok(true) && record.count.load(Ordering::Relaxed) != 0 {
            fault::at(Point::MidStream);
        }
        placed
    }

    fn place_more_held<S: Source>(
        &self,
        me: Owner,
        index: usize,
        data: S,
        wakes: &mut Wakes<'a>,
    ) -> Result<bool, WriteStop> {
        let record = self.record(index);
        let rest = record.count.load(Ordering::Relaxed) as usize;
        if rest == 0 && record.empties.load(Ordering::Relaxed) == 0
            || record.phase() != Phase::Pending
            || self.first_unplaced() != Some(index)
            || rest > data.len()
        {
            return Ok(false);
        }
        let placed = if rest == 0 {
            self.place::<&[u8]>(&mut self.back(), &[], Flags::default())?
        } else {
            self.place_part(data, data.len() - rest)?
        };
        let Some(placed) = placed else {
            return Ok(false);
        };
        match self.take_consumer(me) {
            Taken::Clean | Taken::Dirty => {}
            Taken::Mine => return Err(Error::Busy.into()),
            Taken::Held(_) => return Err(WriteStop::LockHeld),
        }
        // It may have been withdrawn meanwhile: then nothing is committed.
        let alive = record.phase() == Phase::Pending;
        if alive && rest == 0 {
            let empties = record.empties.load(Ordering::Relaxed);
            record
                .empties
                .store(empties.saturating_sub(1), Ordering::Relaxed);
            self.commit(&self.back(), &placed, 1);
        } else if alive {
            self.commit_part(index, &placed);
        }
        let settled = self.settle(wakes);
        self.unlock(me, wakes);
        settled?;
        Ok(alive)
    }
}

/// How far ahead of a small frame lines are asked for. 256 to 1,024 bytes do equally well, and take a third off the time
/// of 64-byte messages between CPUs that share no cache.
pub(crate) const AHEAD: u64 = 256;
/// Room left between a frame and the rock: for the next header, wherever its alignment puts it.
const BEFORE_ROCK: u64 = HEADER + 64;

/// Whether to go back to the beginning now: the queue is empty, or the lap is a full one and at least its first half free again.
fn worth_a_restart(head: u64, tail: u64, size: u64, full_lap: u64) -> bool {
    let offset = tail & (size - 1);
    let same_lap = tail.wrapping_sub(head) <= offset;
    (head == tail && offset >= RESTART)
        || (same_lap && offset >= full_lap && (head & (size - 1)) >= offset / 2)
}

/// How long a lap is behind which there are always bytes that nobody has read. Of a quota that fills the CPUs' own `cache`s it is
/// longer than those of both sides together: by then a line is neither in the one that has read it nor in the one that wrote it.
fn full_lap(size: u64, quota: u32, cache: u32) -> u64 {
    let (quota, cache) = (u64::from(quota), u64::from(cache));
    let lap = if quota < 2 * cache {
        quota.min(size / 32)
    } else {
        quota.max(3 * cache).min(size / 16)
    };
    lap.max(4 * RESTART)
}

/// What a producer remembers of its laps: in one word, 8 and 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lap {
    /// How many were fast in a row.
    fast: u8,
    /// When this one began, [`micros`].
    since: u32,
}

impl Lap {
    /// Whether it came to `offset` at a gigabyte a second.
    fn is_fast(self, offset: u64, now: u32) -> bool {
        u64::from(now.wrapping_sub(self.since) & Lap::TIME) * 1024 <= offset
    }

    /// The one after it, which ends at `offset`.
    fn next(self, offset: u64, now: u32) -> Lap {
        let fast = if self.is_fast(offset, now) {
            self.fast.saturating_add(1)
        } else {
            0
        };
        Lap { fast, since: now }
    }

    const TIME: u32 = (1 << 24) - 1;
}

impl From<u32> for Lap {
    fn from(word: u32) -> Lap {
        let [fast, ..] = word.to_be_bytes();
        Lap {
            fast,
            since: word & Lap::TIME,
        }
    }
}

impl From<Lap> for u32 {
    fn from(lap: Lap) -> u32 {
        u32::from(lap.fast) << 24 | lap.since
    }
}

/// The time in microseconds of 1,024 ns; as many bits as a [`Lap`] has.
fn micros() -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "it wraps")]
    let now = (futex::now() >> 10) as u32;
    now & Lap::TIME
}

/// Empty messages that may wait behind one write.
pub(crate) const MAX_EMPTIES: u32 = 65_536;
/// A lap shorter than this is not worth a restart.
pub(crate) const RESTART: u64 = 16 * 1024;
/// A lap of this length has left the cache of the CPU that reads (512 KiB to 2 MiB) when it is written again.
const LONG_LAP: u64 = 1 << 20;
/// Fast laps in a row before one is long: some megabytes, so that a pipe that carries a burst now and then stays small.
const FAST_LAPS: u8 = 64;
/// Milliseconds for which laps have to stay small before memory is given back between two writes. Giving it back and taking
/// it again costs some hundred microseconds.
const SMALL_TIME: u32 = 200;
/// Memory below this offset is never given back.
const LOW: u32 = 64 * 1024;
/// Memory up to this offset is given back only with more.
const KEEP: u64 = 192 * 1024;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn full_laps_leave_both_caches_behind_where_the_quota_fills_them() {
        const MIB: u32 = 1 << 20;
        let lap = |area: u64, quota, cache| full_lap(area << 20, quota, cache) >> 10;
        assert_eq!(lap(2, 65_536, MIB), 64);
        assert_eq!(lap(32, MIB, MIB), 1024);
        assert_eq!(lap(64, 2 * MIB, MIB), 3072);
        assert_eq!(lap(64, 2 * MIB, 2 * MIB), 2048);
        assert_eq!(lap(128, 4 * MIB, MIB), 4096);
        assert_eq!(lap(128, 4 * MIB, 2 * MIB), 6144);
        // An area that has little room beside its quota.
        assert_eq!(lap(128, 64 * MIB, 2 * MIB), 8192);
        assert_eq!(lap(1, 4 * MIB, 2 * MIB), 64);
    }

    #[test]
    fn only_a_stream_that_stays_fast_has_long_laps() {
        let mut lap = Lap::from(0);
        for turn in 1..=300_u32 {
            // 64 KiB in 60 us, across the turn of the clock.
            let now = (Lap::TIME - 100).wrapping_add(turn * 60) & Lap::TIME;
            lap = lap.next(65_536, now);
            assert_eq!(Lap::from(u32::from(lap)), lap);
            assert_eq!(u32::from(lap.fast), (turn - 1).min(255), "{turn}");
        }
        assert!(lap.is_fast(1 << 20, lap.since + 1000) && !lap.is_fast(1 << 20, lap.since + 1100));
        assert_eq!(lap.next(65_536, lap.since + 70).fast, 0);
    }
}
