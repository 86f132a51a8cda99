//! How bytes get out of a queue: immediate reads, matched reads, reads of more than the area holds, peeks, flushes.
//!
//! An immediate read works under the consumer's role from its first look to its last store. A matched read needs no
//! role to copy: its range is its own until it says that it has copied.

use std::cell::Cell;

use crate::{
    attention::{Attention, READER_CLOSED, UNPLACED, WRITER_CLOSED},
    error::{Error, Fault},
    fault::{self, Point},
    frame::Flags,
    memory::{Sink, Source},
    produce::WriteStop,
    queue::{Front, Queue, Segment},
    record::{Change, Kind, Outcome, Phase, Wakes, Word},
    role::{Owner, SETTLE, Taken},
    sync::Ordering,
    types::{PipeType, Read, ReadMode},
};

/// How a caller wants its read treated when there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadHow {
    /// Answers [`ReadStop::WouldPend`].
    Try,
    /// The same, of a call that will wait: a message that is not placed to its end is waited for.
    First,
    /// COMPLETE mode.
    Nowait,
    /// Takes a record.
    Pend,
    /// The same, and its owner polls it (`settle.rs`).
    Polled,
}

/// Why a read did not complete at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadStop {
    Failed(Error),
    WouldPend,
    /// It has the record of this index and life.
    Pended(usize, u32),
    /// The consumer's role is held.
    Held,
    /// No free record.
    TableFull,
}

impl From<Error> for ReadStop {
    fn from(error: Error) -> ReadStop {
        ReadStop::Failed(error)
    }
}

impl From<Fault> for ReadStop {
    fn from(fault: Fault) -> ReadStop {
        ReadStop::Failed(fault.into())
    }
}

/// What reading in place gave.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InPlace<T> {
    Seen(T),
    /// The message is in several pieces.
    Streams,
}

/// A role that is in the way of a pended write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producer,
    Consumer,
}

/// What a look at the queue gave.
pub(crate) enum Got {
    Nothing,
    Data(Read),
    /// The message goes on beyond what is placed, of which so many bytes were taken: only a read that may take its time
    /// gets it whole.
    Streams(usize),
}

/// What a streaming read has come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The front behind what was copied.
    pub(crate) front: Front,
    /// Bytes, those of earlier steps included.
    pub(crate) copied: usize,
    done: bool,
    part: bool,
    /// There is nothing to stream after all.
    in_vain: bool,
}

/// What a peek gave; counts are added by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub(crate) copied: usize,
    pub(crate) message_len: u64,
    pub(crate) partial: bool,
    pub(crate) any: bool,
}

impl<'a> Queue<'a> {
    /// Takes the consumer's role, or says why not.
    #[inline]
    fn consumer_role(&self, me: Owner) -> Result<(), ReadStop> {
        match self.take_consumer(me) {
            Taken::Clean | Taken::Dirty => Ok(()),
            Taken::Mine => Err(Error::Busy.into()),
            Taken::Held(_) => Err(ReadStop::Held),
        }
    }

    /// NtReadFile apart from waiting.
    #[inline]
    pub(crate) fn read(
        &self,
        me: Owner,
        buf: &mut [u8],
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        self.consumer_role(me)?;
        fault::at(Point::ConsumerRole);
        // Records are published under this lock, so what this load says stays true until it is given back; the
        // closing bits may come at any time, and count from the next call on.
        let attention = self.attention();
        self.read_held(me, attention, buf, how, wakes)
    }

    /// The same under the role, which it gives back.
    #[inline]
    fn read_held(
        &self,
        me: Owner,
        attention: Attention,
        buf: &mut [u8],
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        let calm = attention.0 == self.calm
            || how == ReadHow::Polled && self.left_by_polling(attention).is_some();
        let done = if calm {
            self.read_calm(me, buf, how, wakes)
        } else {
            self.read_slow(me, attention, buf, how, wakes)
        };
        self.unlock(me, wakes);
        done
    }

    /// [`Queue::read`] for a caller that will wait: takes the role first and spins under it, so that nothing stands between
    /// the frame's arrival and the copy. `spin` looks until what it is given says so, `true`, or gives up. Somebody
    /// who wants the role meanwhile ends the spin.
    pub(crate) fn read_spinning(
        &self,
        me: Owner,
        buf: &mut [u8],
        spin: impl Fn(&dyn Fn() -> bool) -> bool,
        spun: &mut bool,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        self.consumer_role(me)?;
        let mut attention = self.attention();
        // Bounded, since a hostile peer can leave something to do all the time.
        for _ in 0..MOST_ERRANDS {
            if attention.0 != self.calm {
                break;
            }
            let front = Cell::new(self.front());
            let held = self.header.front.0.role.load(Ordering::Relaxed);
            let ready = spin(&|| {
                self.has_come(&front)
                    || self.attention().0 != self.calm
                    || self.header.front.0.role.load(Ordering::Relaxed) != held
            });
            *spun = !ready;
            attention = self.attention();
            if !ready || self.has_come(&front) || !self.consumer().was_left_work(held) {
                break;
            }
            // By a writer that had seen a record, which is gone, and that waits for nothing. A read that pended for it would be
            // seen by the next write, whose errand would end the next spin, and so on: each time with a record and two
            // heavy fences.
            self.consumer().clear(SETTLE);
            // A breach is found again by the read itself.
            let _ = self.settle(wakes);
            attention = self.attention();
        }
        // Whatever ended the spin: what is there is taken, and if nothing is, the read pends.
        self.read_held(me, attention, buf, ReadHow::Pend, wakes)
    }

    /// Shows the first of what is queued to `look` where it lies, and takes it: a message, or in byte mode what lies in
    /// one piece. `Streams`: it has not looked, since the message is in several pieces. The role is held meanwhile.
    ///
    /// # Safety
    /// As [`crate::area::Area::bytes`]; `look` keeps no reference.
    #[cfg(not(loom))]
    pub(crate) unsafe fn read_in_place<T>(
        &self,
        me: Owner,
        look: &mut Option<impl FnOnce(&[u8]) -> T>,
        wakes: &mut Wakes<'a>,
    ) -> Result<InPlace<T>, ReadStop> {
        /// Gives the role back also if `look` panics.
        struct Unlock<'q, 'a>(&'q Queue<'a>, Owner, &'q mut Wakes<'a>);
        impl Drop for Unlock<'_, '_> {
            fn drop(&mut self) {
                self.0.unlock(self.1, self.2);
            }
        }
        self.consumer_role(me)?;
        let unlock = Unlock(self, me, wakes);
        let mut attention = self.attention();
        let calm = attention.0 == self.calm;
        if !calm {
            self.check(attention, READER_CLOSED)?;
            self.settle(unlock.2)?;
            attention = self.attention();
            if self.has_pended_reads(attention) {
                return Err(ReadStop::WouldPend); // in line behind them (NP-READ-18)
            }
        }
        let mut front = self.front();
        let Some(segment) = self.first(&mut front)? else {
            return Err(if attention.has(WRITER_CLOSED) {
                Error::Broken.into()
            } else {
                ReadStop::WouldPend
            });
        };
        if self.read_mode() == ReadMode::Message && segment.flags.has(Flags::MORE) {
            return Ok(InPlace::Streams);
        }
        // SAFETY: the segment is committed, and stays until `front` is published below, under the role that is held;
        // that nobody breaks the protocol meanwhile is the caller's word.
        let bytes = unsafe { self.area().bytes(segment.pos, segment.len) }?;
        let Some(look) = look.take() else {
            return Err(Error::Busy.into());
        };
        let seen = look(bytes);
        self.claim(&mut front, segment, segment.len);
        self.prepare_front(&front);
        self.turn_front();
        if calm {
            self.publish(front.bytes, front.pos);
        } else {
            self.settle(unlock.2)?;
        }
        Ok(InPlace::Seen(seen))
    }

    #[inline]
    fn read_calm(
        &self,
        me: Owner,
        buf: &mut [u8],
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        let mut front = self.front();
        match self.take(&mut front, buf)? {
            Got::Data(read) => {
                fault::at(Point::CopiedOut);
                self.prepare_front(&front);
                self.turn_front();
                self.publish(front.bytes, front.pos);
                Ok(read)
            }
            Got::Nothing => self.nothing(me, buf.len(), how, wakes),
            Got::Streams(count) => self.streams(me, &front, count, buf.len(), how, wakes),
        }
    }

    #[cold]
    fn read_slow(
        &self,
        me: Owner,
        attention: Attention,
        buf: &mut [u8],
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        self.check(attention, READER_CLOSED)?;
        // What others left behind may be in this read's way.
        self.settle(wakes)?;
        let attention = self.attention();
        if self.has_pended_reads(attention) {
            return self.nothing(me, buf.len(), how, wakes); // in line behind them (NP-READ-18)
        }
        let mut front = self.front();
        match self.take(&mut front, buf)? {
            Got::Data(read) => {
                fault::at(Point::CopiedOut);
                self.prepare_front(&front);
                self.turn_front();
                self.settle(wakes)?;
                Ok(read)
            }
            Got::Nothing if attention.has(WRITER_CLOSED) => Err(Error::Broken.into()),
            Got::Nothing => self.nothing(me, buf.len(), how, wakes),
            Got::Streams(count) => self.streams(me, &front, count, buf.len(), how, wakes),
        }
    }

    #[cold]
    pub(crate) fn nothing(
        &self,
        me: Owner,
        len: usize,
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        match how {
            ReadHow::Try | ReadHow::First => Err(ReadStop::WouldPend),
            ReadHow::Nowait => Err(Error::Empty.into()),
            ReadHow::Pend => Err(self.pend_read(me, len, Phase::Pending, wakes)),
            ReadHow::Polled => Err(self.pend_polled(me, len, wakes)),
        }
    }

    #[cold]
    fn streams(
        &self,
        me: Owner,
        front: &Front,
        count: usize,
        len: usize,
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        match how {
            ReadHow::First => Err(ReadStop::WouldPend),
            ReadHow::Pend | ReadHow::Polled => Err(self.pend_read(me, len, Phase::Stream, wakes)),
            // A call that does not wait takes what is there; a message of which more is to come is then partly read.
            ReadHow::Try | ReadHow::Nowait => {
                self.prepare_front(front);
                self.turn_front();
                self.settle(wakes)?;
                Ok(self.cut_short(count))
            }
        }
    }

    /// Copies the first of what is queued to `buf`, and claims it in `front` only: the caller puts that in force.
    #[inline]
    pub(crate) fn take<D: Sink + ?Sized>(
        &self,
        front: &mut Front,
        buf: &mut D,
    ) -> Result<Got, D::Error> {
        let Some(segment) = self.first(front)? else {
            return Ok(Got::Nothing);
        };
        if self.read_mode() == ReadMode::Message && !segment.flags.has(Flags::MORE) {
            // The usual case: one frame, one message (NP-READ-09, 11, 12, 16).
            let count = buf.len().min(segment.len as usize);
            if count == 0 && segment.len != 0 {
                return Ok(Got::Data(Read::Part(0)));
            }
            self.expect_more(segment);
            self.area().copy_out(segment.pos, buf, 0, count)?;
            #[allow(clippy::cast_possible_truncation, reason = "at most segment.len")]
            self.claim(front, segment, count as u32);
            return Ok(Got::Data(if count == segment.len as usize {
                Read::Whole(count)
            } else {
                Read::Part(count)
            }));
        }
        self.take_many(front, buf)
    }

    /// The lines of later frames of a stream are asked for.
    #[inline(always)]
    pub(crate) fn expect_more(&self, segment: Segment) {
        if segment.len <= SMALL && !segment.flags.has(Flags::ALIGNED) {
            self.area().expect_read(segment.pos.wrapping_add(BEHIND));
        }
    }

    fn take_many<D: Sink + ?Sized>(&self, front: &mut Front, buf: &mut D) -> Result<Got, D::Error> {
        if self.read_mode() == ReadMode::Byte {
            let unplaced = self.attention().has(UNPLACED);
            // With room for nothing nothing is consumed (NP-READ-15).
            let count = self.gather(front, buf)?;
            return Ok(if unplaced && count < buf.len() {
                Got::Streams(count)
            } else {
                Got::Data(Read::Whole(count))
            });
        }
        // A message in several frames; a peer that feeds empty ones without end is cut off.
        let mut count = 0;
        let mut steps = self.most_frames();
        loop {
            steps = steps.checked_sub(1).ok_or(Fault::Walk)?;
            let Some(segment) = self.first(front)? else {
                return Ok(Got::Streams(count));
            };
            let more = segment.flags.has(Flags::MORE);
            let want = (buf.len() - count).min(segment.len as usize);
            if want == 0 && segment.len != 0 {
                return Ok(Got::Data(Read::Part(count)));
            }
            self.area().copy_out(segment.pos, buf, count, want)?;
            #[allow(clippy::cast_possible_truncation, reason = "at most segment.len")]
            self.claim(front, segment, want as u32);
            count += want;
            if want < segment.len as usize {
                return Ok(Got::Data(Read::Part(count)));
            }
            if !more {
                return Ok(Got::Data(Read::Whole(count)));
            }
            if count == buf.len() {
                return Ok(Got::Data(Read::Part(count)));
            }
        }
    }

    /// Byte mode: as much as fits, over the boundaries of entries; empty messages in front are swallowed, one behind
    /// a full buffer is left (NP-READ-07, 13).
    fn gather<D: Sink + ?Sized>(&self, front: &mut Front, buf: &mut D) -> Result<usize, D::Error> {
        let mut count = 0;
        let mut steps = self.most_frames();
        while count < buf.len() && steps != 0 {
            steps -= 1;
            let Some(segment) = self.first(front)? else {
                break;
            };
            let want = (buf.len() - count).min(segment.len as usize);
            self.area().copy_out(segment.pos, buf, count, want)?;
            #[allow(clippy::cast_possible_truncation, reason = "at most segment.len")]
            self.claim(front, segment, want as u32);
            count += want;
        }
        Ok(count)
    }

    // ---- pended reads ------------------------------------------------------------------------------------------

    /// Takes a record, under the lock.
    pub(crate) fn pend_read(
        &self,
        me: Owner,
        len: usize,
        phase: Phase,
        wakes: &mut Wakes<'a>,
    ) -> ReadStop {
        let Some((index, life)) = self.begin_record(me, Kind::Read, phase) else {
            return ReadStop::TableFull;
        };
        self.record(index)
            .len
            .store(u32::try_from(len).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.publish_record(index);
        fault::at(Point::RecordTaken);
        // What was committed in between is found here (3 in `settle.rs`), as is a close.
        match self.settle_for(index, wakes) {
            Ok(()) => ReadStop::Pended(index, life),
            Err(fault) => fault.into(),
        }
    }

    /// Takes the record of a read that its owner polls, under the lock.
    fn pend_polled(&self, me: Owner, len: usize, wakes: &mut Wakes<'a>) -> ReadStop {
        let bytes = u32::try_from(len).unwrap_or(u32::MAX);
        // One of no bytes takes nothing when it is matched: it would have to be looked at for ever.
        let begun = (bytes != 0).then(|| self.begin_polled(me, bytes)).flatten();
        let Some((index, life)) = begun else {
            return self.pend_read(me, len, Phase::Pending, wakes);
        };
        fault::at(Point::RecordTaken);
        if self.attention().0 != self.only_polled(index)
            && let Err(fault) = self.settle_for(index, wakes)
        {
            return fault.into();
        }
        ReadStop::Pended(index, life)
    }

    /// The read that transact takes before it commits its request: only in an idle direction (NP-XCV-03).
    pub(crate) fn begin_transact(
        &self,
        me: Owner,
        len: usize,
        wakes: &mut Wakes<'a>,
    ) -> Result<(usize, u32), ReadStop> {
        self.consumer_role(me)?;
        let begun = self.begin_transact_locked(me, len, wakes);
        self.unlock(me, wakes);
        begun
    }

    fn begin_transact_locked(
        &self,
        me: Owner,
        len: usize,
        wakes: &mut Wakes<'a>,
    ) -> Result<(usize, u32), ReadStop> {
        self.settle(wakes)?;
        let attention = self.attention();
        if self.has_pended_reads(attention)
            || attention.has(UNPLACED)
            || self.first(&mut self.front())?.is_some()
        {
            return Err(Error::PipeBusy.into());
        }
        match self.pend_read(me, len, Phase::Pending, wakes) {
            ReadStop::Pended(index, life) => Ok((index, life)),
            ReadStop::Failed(error) => Err(error.into()),
            _ => Err(Error::PipeBusy.into()),
        }
    }

    /// Moves a pended read on without waiting. `copied` counts what a streaming read has brought so far.
    pub(crate) fn poll_read<D: Sink + ?Sized>(
        &self,
        me: Owner,
        index: usize,
        buf: &mut D,
        copied: &mut usize,
        wakes: &mut Wakes<'a>,
    ) -> Option<Result<Read, Error>> {
        let record = self.record(index);
        // A kick asks for one round; a change of phase for another.
        for _ in 0..4 {
            let word = record.word();
            match word.phase() {
                Phase::Pending => {
                    if !record.take_kick() {
                        if !self.has_for_polled() {
                            return None;
                        }
                        if let Some(read) = self.take_polled(me, index, buf, wakes) {
                            return Some(Ok(read));
                        }
                        record.wake_up();
                    }
                    if let Err(fault) = self.settle_or_leave(me, wakes) {
                        self.give_up(me, index, wakes);
                        return Some(Err(fault.into()));
                    }
                }
                Phase::Stream => {
                    record.take_kick();
                    let step = if D::OUTSIDE {
                        self.stream_step_outside(me, index, buf, copied, wakes)
                    } else {
                        self.stream_step(me, index, buf, copied, wakes)
                    };
                    match step.map_err(Into::into) {
                        Ok(Some(read)) => return Some(Ok(read)),
                        Ok(None) if record.phase() == Phase::Stream => return None,
                        Ok(None) => {}
                        Err(error) => {
                            self.give_up(me, index, wakes);
                            // What was brought before the buffer ended is brought.
                            return Some(if error == Error::BadBuffer && *copied != 0 {
                                Ok(self.cut_short(*copied))
                            } else {
                                Err(error)
                            });
                        }
                    }
                }
                Phase::Done => {
                    fault::at(Point::Matched);
                    return Some(self.finish_read(me, index, buf, word.outcome(), wakes));
                }
                Phase::Withdrawn => {
                    return Some(match self.acknowledge(me, index, wakes) {
                        // Bytes that were read stay read; a message that will not be finished never was one.
                        Some(Error::Broken) if *copied != 0 && !self.reads_messages() => {
                            Ok(Read::Whole(*copied))
                        }
                        Some(error) => Err(error),
                        None => continue,
                    });
                }
                // Nobody but a peer that scribbles ends a record under its owner.
                Phase::Free | Phase::Copied | Phase::Abandoned => {
                    return Some(Err(Fault::Record.into()));
                }
            }
        }
        None
    }

    /// A streaming read that ends early has read a part of the message, like any read with a small buffer.
    pub(crate) fn cut_short(&self, copied: usize) -> Read {
        if self.reads_messages() {
            Read::Part(copied)
        } else {
            Read::Whole(copied)
        }
    }

    fn finish_read<D: Sink + ?Sized>(
        &self,
        me: Owner,
        index: usize,
        buf: &mut D,
        outcome: Outcome,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, Error> {
        let record = self.record(index);
        let count = record.count.load(Ordering::Relaxed) as usize;
        let pos = record.pos.load(Ordering::Relaxed);
        let copied = if count <= buf.len() {
            self.area().copy_out(pos, buf, 0, count).map_err(Into::into)
        } else {
            Err(Fault::Record.into())
        };
        if D::OUTSIDE && copied == Err(Error::BadBuffer) {
            self.give_back(me, index, wakes);
            return Err(Error::BadBuffer);
        }
        let _ = record.change(Phase::Done, Phase::Copied, outcome);
        self.settle_or_leave(me, wakes)?;
        copied?;
        Ok(if outcome == Outcome::Part {
            Read::Part(count)
        } else {
            Read::Whole(count)
        })
    }

    /// One piece of a read that takes more than the area holds.
    fn stream_step<D: Sink + ?Sized>(
        &self,
        me: Owner,
        index: usize,
        buf: &mut D,
        copied: &mut usize,
        wakes: &mut Wakes<'a>,
    ) -> Result<Option<Read>, D::Error> {
        if !self.take_consumer_for(me, index) {
            return Ok(None);
        }
        let step = match self.stream_word(index, copied) {
            Some(word) => self.stream_walk(word, self.front(), buf, *copied).map(Some),
            None => Ok(None),
        };
        let read = step.map(|step| step.and_then(|step| self.stream_commit(index, &step, copied)));
        let settled = self.settle(wakes);
        self.unlock(me, wakes);
        let read = read?;
        settled?;
        Ok(read)
    }

    /// The consumer's role for a streaming read. `false`: its holder settles, and kicks the read if there is something for
    /// it.
    pub(crate) fn take_consumer_for(&self, me: Owner, index: usize) -> bool {
        match self.take_consumer(me) {
            Taken::Clean | Taken::Dirty => true,
            Taken::Mine | Taken::Held(_) => {
                if !self.consumer().leave(SETTLE) {
                    self.record(index).kick();
                }
                false
            }
        }
    }

    /// Under the role: the state of a read that streams. `None`: it does not, or not any more.
    pub(crate) fn stream_word(&self, index: usize, copied: &mut usize) -> Option<Word> {
        let record = self.record(index);
        let word = record.word();
        if word.phase() != Phase::Stream {
            return None;
        }
        if word.outcome() == Outcome::Cut && (self.reads_messages() || *copied == 0) {
            // The writer gave up: what was copied was never a message. On with waiting.
            *copied = 0;
            let _ = record.change(Phase::Stream, Phase::Pending, Outcome::Whole);
            return None;
        }
        Some(word)
    }

    /// Copies what is there for a streaming read, from a front on that is the queue's, and changes nothing.
    pub(crate) fn stream_walk<D: Sink + ?Sized>(
        &self,
        word: Word,
        front: Front,
        buf: &mut D,
        copied: usize,
    ) -> Result<Step, D::Error> {
        let messages = self.reads_messages();
        let mut step = Step {
            front,
            copied,
            done: word.outcome() == Outcome::Cut,
            part: false,
            in_vain: false,
        };
        let mut steps = self.most_frames();
        while !step.done {
            steps = steps.checked_sub(1).ok_or(Fault::Walk)?;
            let Some(segment) = self.first(&mut step.front)? else {
                let unplaced = self.attention().has(UNPLACED);
                step.in_vain = step.copied == 0 && !unplaced;
                // In byte mode the end of what was there is enough; a message has its own end.
                step.done = !step.in_vain && !messages && !unplaced;
                break;
            };
            let more = segment.flags.has(Flags::MORE);
            let want = (buf.len() - step.copied).min(segment.len as usize);
            self.area().copy_out(segment.pos, buf, step.copied, want)?;
            #[allow(clippy::cast_possible_truncation, reason = "at most segment.len")]
            self.claim(&mut step.front, segment, want as u32);
            step.copied += want;
            let rest = want < segment.len as usize || more;
            if step.copied == buf.len() {
                step.done = true;
                step.part = rest;
            } else if !rest && messages {
                step.done = true;
            }
        }
        Ok(step)
    }

    /// Under the role: what was copied is taken.
    pub(crate) fn stream_commit(
        &self,
        index: usize,
        step: &Step,
        copied: &mut usize,
    ) -> Option<Read> {
        let record = self.record(index);
        *copied = step.copied;
        if step.in_vain {
            // What it was to stream has been withdrawn: on with waiting.
            let _ = record.change(Phase::Stream, Phase::Pending, Outcome::Whole);
        }
        self.prepare_front(&step.front);
        self.turn_front();
        if !step.done {
            return None;
        }
        for phase in [Phase::Stream, Phase::Withdrawn] {
            // A disconnect may come first; what was read is read all the same.
            let _ = record.change(phase, Phase::Copied, Outcome::Whole);
        }
        Some(if step.part && self.reads_messages() {
            Read::Part(step.copied)
        } else {
            Read::Whole(step.copied)
        })
    }

    // ---- every pended operation --------------------------------------------------------------------------------

    /// The owner has seen why its operation was withdrawn. `None`: it was not, after all.
    pub(crate) fn acknowledge(
        &self,
        me: Owner,
        index: usize,
        wakes: &mut Wakes<'a>,
    ) -> Option<Error> {
        let record = self.record(index);
        let word = record.word();
        let error = match word.outcome() {
            Outcome::Disconnected => Error::Disconnected,
            Outcome::Cancelled => Error::Cancelled,
            _ => Error::Broken,
        };
        // A write that was not wholly placed when its own end closed leaves no torn message behind.
        let torn = record.kind_of() == Kind::Write && record.count.load(Ordering::Relaxed) != 0;
        let to = if torn {
            Phase::Abandoned
        } else {
            Phase::Copied
        };
        if !record.change(Phase::Withdrawn, to, word.outcome()).made() {
            return None;
        }
        let _ = self.settle_or_leave(me, wakes);
        Some(error)
    }

    /// The owner withdraws its own operation: `true` if it had not completed. Needs no lock.
    pub(crate) fn withdraw_own(&self, me: Owner, index: usize, wakes: &mut Wakes<'a>) -> bool {
        let _ = self.settle_polled(me, wakes);
        let record = self.record(index);
        let made = record
            .change(Phase::Pending, Phase::Abandoned, Outcome::Whole)
            .made()
            || record
                .change(Phase::Stream, Phase::Abandoned, Outcome::Whole)
                .made();
        if made {
            let _ = self.settle_or_leave(me, wakes);
        }
        made
    }

    /// After a breach by the peer: leaves the record to whoever settles next.
    pub(crate) fn give_up(&self, me: Owner, index: usize, wakes: &mut Wakes<'a>) {
        if !self.withdraw_own(me, index, wakes) {
            let record = self.record(index);
            for phase in [Phase::Done, Phase::Withdrawn] {
                if let Change::Made | Change::Wake =
                    record.change(phase, Phase::Copied, Outcome::Whole)
                {
                    let _ = self.settle_or_leave(me, wakes);
                }
            }
        }
    }

    /// Moves a stalled write on without waiting.
    pub(crate) fn poll_write<S: Source>(
        &self,
        me: Owner,
        index: usize,
        data: S,
        held: &mut Option<Side>,
        wakes: &mut Wakes<'a>,
    ) -> Option<Result<usize, Error>> {
        let record = self.record(index);
        let mut rounds = 4;
        *held = None;
        while rounds != 0 {
            match record.phase() {
                Phase::Pending => {
                    let kicked = record.take_kick();
                    let placed = if record.count.load(Ordering::Relaxed) != 0
                        || record.empties.load(Ordering::Relaxed) != 0
                    {
                        match self.place_more(me, index, data, wakes) {
                            Ok(placed) => placed,
                            Err(WriteStop::Failed(error)) if error != Error::Busy => {
                                self.give_up(me, index, wakes);
                                return Some(Err(error));
                            }
                            Err(WriteStop::LockHeld) => {
                                *held = Some(Side::Consumer);
                                false
                            }
                            Err(_) => {
                                *held = Some(Side::Producer);
                                false
                            }
                        }
                    } else {
                        false
                    };
                    if kicked {
                        if let Err(fault) = self.settle_or_leave(me, wakes) {
                            self.give_up(me, index, wakes);
                            return Some(Err(fault.into()));
                        }
                        rounds -= 1;
                    } else if !placed && record.phase() == Phase::Pending {
                        return None;
                    }
                }
                Phase::Done => {
                    let _ = record.change(Phase::Done, Phase::Copied, Outcome::Whole);
                    let _ = self.settle_or_leave(me, wakes);
                    return Some(Ok(data.len()));
                }
                Phase::Withdrawn => match self.acknowledge(me, index, wakes) {
                    Some(error) => return Some(Err(error)),
                    None => rounds -= 1,
                },
                Phase::Free | Phase::Copied | Phase::Abandoned | Phase::Stream => {
                    return Some(Err(Fault::Record.into()));
                }
            }
        }
        None
    }

    // ---- flush and peek ----------------------------------------------------------------------------------------

    /// NtFlushBuffersFile of the writing end, apart from waiting (NP-FLUSH-02, 04).
    pub(crate) fn flush(&self, me: Owner, wakes: &mut Wakes<'a>) -> Result<(), ReadStop> {
        let attention = self.attention();
        self.check(attention, WRITER_CLOSED)?;
        if attention.has(READER_CLOSED) || self.flushed() {
            return Ok(());
        }
        self.consumer_role(me)?;
        let done = self.flush_locked(me, wakes);
        self.unlock(me, wakes);
        done
    }

    /// No byte is unread; empty messages are nothing to wait for.
    fn flushed(&self) -> bool {
        self.counts().available() == 0 && !self.attention().has(UNPLACED)
    }

    fn flush_locked(&self, me: Owner, wakes: &mut Wakes<'a>) -> Result<(), ReadStop> {
        self.settle(wakes)?;
        if self.flushed() {
            return Ok(());
        }
        let Some((index, life)) = self.begin_record(me, Kind::Flush, Phase::Pending) else {
            return Err(ReadStop::TableFull);
        };
        self.record(index).end.store(
            self.back_snapshot()
                .bytes
                .wrapping_sub(self.header.table.0.cancelled.load(Ordering::Relaxed)),
            Ordering::Relaxed,
        );
        self.publish_record(index);
        fault::at(Point::RecordTaken);
        self.settle_for(index, wakes)?;
        Err(ReadStop::Pended(index, life))
    }

    /// Moves a pended flush on without waiting.
    pub(crate) fn poll_flush(
        &self,
        me: Owner,
        index: usize,
        wakes: &mut Wakes<'a>,
    ) -> Option<Result<(), Error>> {
        let record = self.record(index);
        for _ in 0..4 {
            match record.phase() {
                Phase::Pending => {
                    if !record.take_kick() {
                        return None;
                    }
                    if let Err(fault) = self.settle_or_leave(me, wakes) {
                        self.give_up(me, index, wakes);
                        return Some(Err(fault.into()));
                    }
                }
                Phase::Done => {
                    let _ = record.change(Phase::Done, Phase::Copied, Outcome::Whole);
                    let _ = self.settle_or_leave(me, wakes);
                    return Some(Ok(()));
                }
                Phase::Withdrawn => {
                    if let Some(error) = self.acknowledge(me, index, wakes) {
                        return Some(Err(error));
                    }
                }
                Phase::Free | Phase::Copied | Phase::Abandoned | Phase::Stream => {
                    return Some(Err(Fault::Record.into()));
                }
            }
        }
        None
    }

    /// FSCTL_PIPE_PEEK: looks, and changes nothing (NP-PEEK-05 to 09).
    pub(crate) fn peek(
        &self,
        me: Owner,
        buf: &mut [u8],
        wakes: &mut Wakes<'a>,
    ) -> Result<Peeked, ReadStop> {
        self.consumer_role(me)?;
        let peeked = if self.attention().0 == self.calm {
            Ok(())
        } else {
            self.settle(wakes)
        }
        .and_then(|()| {
            let (peeked, walk) = self.peek_from(self.front(), buf)?;
            Ok(self.peek_counted(peeked, &walk))
        });
        self.unlock(me, wakes);
        Ok(peeked?)
    }

    /// What stands from a front on, which is the queue's unless somebody reads meanwhile; and how far the look went.
    pub(crate) fn peek_from<D: Sink + ?Sized>(
        &self,
        front: Front,
        buf: &mut D,
    ) -> Result<(Peeked, Front), D::Error> {
        let by_message = self.pipe_type == PipeType::Message;
        let mut walk = front;
        let mut peeked = Peeked {
            copied: 0,
            message_len: 0,
            partial: false,
            any: false,
        };
        let mut left = self.most_frames();
        while let Some(segment) = self.first(&mut walk)? {
            peeked.any = true;
            let want = (buf.len() - peeked.copied).min(segment.len as usize);
            self.area()
                .copy_out(segment.pos, buf, peeked.copied, want)?;
            peeked.copied += want;
            peeked.message_len += u64::from(segment.len);
            self.claim(&mut walk, segment, segment.len);
            let ends = !segment.flags.has(Flags::MORE);
            if by_message && ends || !by_message && peeked.copied == buf.len() || left == 0 {
                break;
            }
            left -= 1;
        }
        Ok((peeked, walk))
    }

    /// Whether a look came to the end of what is placed before it came to the end of the first message.
    pub(crate) fn peek_goes_on(&self, peeked: &Peeked, walk: &Front) -> bool {
        self.pipe_type == PipeType::Message && (!peeked.any || walk.flags.has(Flags::MORE))
    }

    /// Under the lock, with nothing placed behind `walk`: with what is still to come of the first message.
    pub(crate) fn peek_counted(&self, mut peeked: Peeked, walk: &Front) -> Peeked {
        if self.pipe_type == PipeType::Message {
            // The first message may not be placed to its end: its record knows how much is to come.
            if (walk.flags.has(Flags::MORE) && peeked.any
                || !peeked.any && self.attention().has(UNPLACED))
                && let Some(index) = self.first_unplaced()
            {
                peeked.message_len += u64::from(self.record(index).count.load(Ordering::Relaxed));
                peeked.any = true;
            }
            peeked.partial = (peeked.copied as u64) < peeked.message_len;
        } else {
            peeked.message_len = 0;
        }
        peeked
    }
}

/// Errands within one wait.
const MOST_ERRANDS: u32 = 16;
/// Frames of which a stream is helped by asking for the lines of later ones.
pub(crate) const SMALL: u32 = 256;
/// How far behind the frame at hand: far enough not to take lines from a writer that is just ahead.
pub(crate) const BEHIND: u64 = 3072;
