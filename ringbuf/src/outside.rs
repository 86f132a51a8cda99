//! Reads into memory that may not be touched under a lock: a user's, through a host's copies ([`crate::UserBuffer`]).
//!
//! ```text
//! 1. under the match lock    the front, and what has been cancelled so far (without it, if nothing unusual goes on)
//! 2. without it              the copy, which may fail, or block for as long as it likes
//! 3. under it again          all as it was? the front moves past what was copied
//! ```
//!
//! Frames between front and tail change only by being cancelled, and each cancel counts: a copy of frames that are the
//! same front's at 3 is a copy of them. What others have changed meanwhile is copied again; somebody got on with each such
//! round. A buffer that fails has taken nothing.

use crate::{
    attention::{READER_CLOSED, WRITER_CLOSED},
    consume::{Got, Peeked, ReadHow, ReadStop},
    error::Error,
    fault::{self, Point},
    frame::{Flags, HEADER},
    memory::Sink,
    queue::{Front, Queue},
    record::{Outcome, Phase, Wakes},
    role::{Owner, Taken},
    sync::{Ordering, fence, spin_hint},
    types::Read,
};

/// What a copy without the lock was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) front: Front,
    cancelled: (u64, u32),
}

impl<'a> Queue<'a> {
    /// Under the lock; without it, of no one moment.
    fn look(&self) -> Looked {
        let table = &self.header.table.0;
        Looked {
            front: self.front(),
            cancelled: (
                table.cancelled.load(Ordering::Relaxed),
                table.cancelled_messages.load(Ordering::Relaxed),
            ),
        }
    }

    /// What has changed when [`Queue::look`] would find something else: the count of the front's turns, and what was cancelled.
    #[inline(always)]
    pub(crate) fn books_seen(&self) -> (u32, u64, u32) {
        let table = &self.header.table.0;
        (
            self.header.front.0.sel.load(Ordering::Acquire),
            table.cancelled.load(Ordering::Relaxed),
            table.cancelled_messages.load(Ordering::Relaxed),
        )
    }

    /// Takes the lock and does what others have left: `calm` if nothing unusual goes on. To be given back.
    fn lock_settled(&self, me: Owner, wakes: &mut Wakes<'a>) -> Result<bool, ReadStop> {
        match self.take_consumer(me) {
            Taken::Clean | Taken::Dirty => {}
            Taken::Mine => return Err(Error::Busy.into()),
            Taken::Held(_) => return Err(ReadStop::Held),
        }
        fault::at(Point::ConsumerRole);
        let attention = self.attention();
        if attention.0 == self.calm {
            return Ok(true);
        }
        let settled = self
            .check(attention, READER_CLOSED)
            .map_err(ReadStop::from)
            .and_then(|()| self.settle(wakes).map_err(ReadStop::from));
        if let Err(stop) = settled {
            self.unlock(me, wakes);
            return Err(stop);
        }
        Ok(false)
    }

    /// [`Queue::read`] for such memory.
    pub(crate) fn read_outside<D: Sink>(
        &self,
        me: Owner,
        buf: &mut D,
        how: ReadHow,
        wakes: &mut Wakes<'a>,
    ) -> Result<Read, ReadStop> {
        for _ in 0..ROUNDS {
            let was_calm = self.attention().0 == self.calm;
            let looked = if was_calm {
                // Whatever it is: it counts only if it is that under the lock.
                Looked {
                    front: self.front_snapshot(),
                    ..self.look()
                }
            } else {
                self.lock_settled(me, wakes)?;
                if self.has_pended_reads(self.attention()) {
                    let stop = self.nothing(me, buf.len(), how, wakes); // in line behind them (NP-READ-18)
                    self.unlock(me, wakes);
                    return stop;
                }
                let looked = self.look();
                self.unlock(me, wakes);
                looked
            };
            let mut front = looked.front;
            let got = self.take_outside(&mut front, buf, how);
            fault::at(Point::CopiedOut);
            fence(Ordering::Acquire); // 2 comes before 3
            if was_calm && how == ReadHow::Try && matches!(got, Ok(Got::Nothing)) {
                return Err(ReadStop::WouldPend);
            }

            let calm = self.lock_settled(me, wakes)?;
            let attention = self.attention();
            if self.look() != looked || self.has_pended_reads(attention) {
                self.unlock(me, wakes);
                continue;
            }
            let done = match got {
                Ok(Got::Data(read)) => {
                    self.prepare_front(&front);
                    self.turn_front();
                    if calm {
                        self.publish(front.bytes, front.pos);
                        Ok(read)
                    } else {
                        self.settle(wakes).map(|()| read).map_err(Into::into)
                    }
                }
                // It has come meanwhile.
                Ok(Got::Nothing) if self.looks_ready_at(&front) => {
                    self.unlock(me, wakes);
                    continue;
                }
                Ok(Got::Nothing) if attention.has(WRITER_CLOSED) => Err(Error::Broken.into()),
                Ok(Got::Nothing) => self.nothing(me, buf.len(), how, wakes),
                Ok(Got::Streams(_)) if how == ReadHow::Pend => {
                    Err(self.pend_read(me, buf.len(), Phase::Stream, wakes))
                }
                Ok(Got::Streams(_)) => Err(ReadStop::WouldPend),
                Err(error) => Err(ReadStop::Failed(error.into())),
            };
            self.unlock(me, wakes);
            return done;
        }
        Err(ReadStop::Held)
    }

    fn take_outside<D: Sink>(
        &self,
        front: &mut Front,
        buf: &mut D,
        how: ReadHow,
    ) -> Result<Got, D::Error> {
        match self.take(front, buf)? {
            // A call that does not wait takes what is there; a message of which more is to come is then partly read. Not
            // looked for again: by now the end of the message may be there, and the next one behind it.
            Got::Streams(count) if matches!(how, ReadHow::Try | ReadHow::Nowait) => {
                Ok(Got::Data(self.cut_short(count)))
            }
            got => Ok(got),
        }
    }

    /// [`Queue::peek`] for such memory.
    pub(crate) fn peek_outside<D: Sink>(
        &self,
        me: Owner,
        buf: &mut D,
        wakes: &mut Wakes<'a>,
    ) -> Result<Peeked, ReadStop> {
        for _ in 0..ROUNDS {
            self.lock_settled(me, wakes)?;
            let looked = self.look();
            self.unlock(me, wakes);
            let peeked = self.peek_from(looked.front, buf);
            fence(Ordering::Acquire);
            self.lock_settled(me, wakes)?;
            let done = match peeked {
                _ if self.look() != looked => None,
                // More of the message was placed behind the look.
                Ok((peeked, walk))
                    if self.peek_goes_on(&peeked, &walk) && self.looks_ready_at(&walk) =>
                {
                    None
                }
                Ok((peeked, walk)) => Some(Ok(self.peek_counted(peeked, &walk))),
                Err(error) => Some(Err(ReadStop::Failed(error.into()))),
            };
            self.unlock(me, wakes);
            if let Some(done) = done {
                return done;
            }
        }
        Err(ReadStop::Held)
    }

    /// A step of a streaming read into such memory: nobody reads before it, so that only cancels change what it copies.
    pub(crate) fn stream_step_outside<D: Sink + ?Sized>(
        &self,
        me: Owner,
        index: usize,
        buf: &mut D,
        copied: &mut usize,
        wakes: &mut Wakes<'a>,
    ) -> Result<Option<Read>, D::Error> {
        for _ in 0..ROUNDS {
            if !self.take_consumer_for(me, index) {
                return Ok(None);
            }
            let word = self.stream_word(index, copied);
            let looked = self.look();
            let Some(word) = word else {
                let settled = self.settle(wakes);
                self.unlock(me, wakes);
                settled?;
                return Ok(None);
            };
            self.unlock(me, wakes);

            let step = self.stream_walk(word, looked.front, buf, *copied);
            fault::at(Point::CopiedOut);
            fence(Ordering::Acquire);

            if !self.take_consumer_for(me, index) {
                return Ok(None);
            }
            let same = self.look() == looked && self.stream_word(index, copied) == Some(word);
            let read = match step {
                _ if !same => Ok(None),
                Ok(step) => Ok(self.stream_commit(index, &step, copied)),
                Err(error) => Err(error),
            };
            let settled = self.settle(wakes);
            self.unlock(me, wakes);
            let read = read?;
            settled?;
            if same {
                return Ok(read);
            }
        }
        // Somebody cancels without end; once more when it is looked at next.
        self.record(index).kick();
        Ok(None)
    }

    /// A read was given its bytes, and its buffer cannot take them: they are the next read's, unless one that was matched
    /// after it has taken more already, or the lock is not to be had in reasonable time. Its record ends.
    pub(crate) fn give_back(&self, me: Owner, index: usize, wakes: &mut Wakes<'a>) {
        let record = self.record(index);
        for turn in 0..LOCK_TRIES {
            // Asking for a role that is kept costs a system call: not each time.
            if turn != 0 && !self.consumer().is_free() {
                spin_hint();
                continue;
            }
            match self.take_consumer(me) {
                Taken::Clean | Taken::Dirty => {
                    self.give_back_locked(index);
                    let _ = record.change(Phase::Done, Phase::Copied, Outcome::Whole);
                    let _ = self.settle(wakes);
                    self.unlock(me, wakes);
                    return;
                }
                Taken::Mine => break,
                Taken::Held(_) => spin_hint(),
            }
        }
        let _ = record.change(Phase::Done, Phase::Copied, Outcome::Whole);
        let _ = self.settle_or_leave(me, wakes);
    }

    fn give_back_locked(&self, index: usize) {
        let record = self.record(index);
        let mut front = self.front();
        let begin = record.end.load(Ordering::Relaxed);
        let count = record.count.load(Ordering::Relaxed);
        let first = record.pos.load(Ordering::Relaxed);
        let next = record.next.load(Ordering::Relaxed);
        if begin == front.pos {
            return;
        }
        if front.pos != next {
            // Skip frames and withdrawn ones are passed without anybody having read anything.
            let mut behind = Front {
                pos: next,
                left: 0,
                ..front
            };
            let passed = front.left == 0
                && self.first(&mut front).is_ok()
                && self.first(&mut behind).is_ok()
                && front.pos == behind.pos;
            if !passed {
                return;
            }
        }
        let at_header = first == begin.wrapping_add(HEADER);
        let consumed = front.left == 0 && !front.flags.has(Flags::MORE);
        let before = Front {
            pos: begin,
            bytes: front.bytes.wrapping_sub(u64::from(count)),
            messages: front.messages.wrapping_sub(u32::from(consumed)),
            left: if at_header {
                0
            } else {
                // The frame's end is where the front would have come to.
                front.left.wrapping_add(count)
            },
            flags: front.flags,
        };
        // `repair_front` must not take these two for a match that has not turned yet.
        record.next.store(begin, Ordering::Relaxed);
        self.prepare_front(&before);
        self.turn_front();
    }
}

/// Copies of one call, if others change what it copies.
const ROUNDS: u32 = 64;
const LOCK_TRIES: u32 = 100_000;
