//! The calls that meet nothing unusual, in one straight line.
//!
//! Two threads that talk keep their roles, the queue is calm, the frame fits: then a call is some hundred instructions
//! that touch its own lines and the message's, and nothing else. Everything here is a shortcut through `produce.rs` and
//! `consume.rs`: whatever is not as usual is left, untouched, to them. Views are passed by value and nothing keeps a
//! reference to one, so that they live in registers.

#[cfg(not(loom))]
use crate::{Conn, produce::WriteStop, types::CompletionMode};
use crate::{
    attention::POLLED,
    cpu,
    fault::{self, Point},
    frame::{Flags, HEADER, next_header},
    memory::{Sink, Source},
    produce::Placed,
    queue::{Back, Front, Queue, Segment},
    record::{Outcome, Phase, Wakes},
    role::{Owner, Taken},
    sync::{Ordering, fence, spin_hint},
    types::{Read, ReadMode},
};

/// What a shortcut has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fast<T> {
    Done(T),
    /// Done; but the role is to be left by [`Queue::leave_producer`] or [`Queue::unlock`], which may have work to do.
    DoneInside(T),
    /// Nothing done, and the role is to be left so.
    Inside,
    /// Nothing done.
    No,
}

impl<'a> Queue<'a> {
    /// [`Queue::write`] by a thread that keeps the producer's role.
    #[inline(always)]
    pub(crate) fn write_kept<S: Source>(self, me: Owner, data: S, aligned: bool) -> Fast<usize> {
        let Ok(len) = i32::try_from(data.len()) else {
            return Fast::No;
        };
        let len = len.cast_unsigned();
        let role = self.producer();
        if len == 0 || !role.enter_kept(me) {
            return Fast::No;
        }
        fault::at(Point::ProducerRole);
        let mut back = self.back();
        if !self.attention().is_quiet(self.calm) {
            return Fast::Inside;
        }
        let flags = self.flags_for(&back, len, aligned);
        let end = back.tail.wrapping_add(HEADER + u64::from(len));
        let placed = if self.fits_notes(&back, len)
            && self.goes_straight_on(&back, u64::from(len))
            && self.has_memory(end)
        {
            let Ok(placed) = self.lay(back.tail, data, flags) else {
                return Fast::Inside;
            };
            placed
        } else {
            // A look at the reader, a restart, more memory: still no reason to leave.
            let Some((behind, placed)) = self.place_anew(back, data, len, flags) else {
                return Fast::Inside;
            };
            back = behind;
            placed
        };
        self.commit(&back, &placed, 1);
        fault::at(Point::BeforeRing);
        // As in `write`: who has published a record has asked for the role before, or sees the frame.
        if role.leave_kept(me) && !self.has_waiters() {
            Fast::Done(data.len())
        } else {
            Fast::DoneInside(data.len())
        }
    }

    /// Whether somebody waits for what was written just now. (Who has closed looks at that by itself.)
    #[inline(always)]
    pub(crate) fn has_waiters(self) -> bool {
        let attention = self.attention();
        attention.records() != 0 && !attention.is_quiet(self.calm)
    }

    /// Copies a frame where it does not just go straight on. By value: a view whose address is taken would live in memory.
    #[cold]
    #[inline(never)]
    fn place_anew<S: Source>(
        self,
        mut back: Back,
        data: S,
        len: u32,
        flags: Flags,
    ) -> Option<(Back, Placed)> {
        // Once in so many KiB: a peer that thinks that it shares this CPU gives way to nobody until it hears otherwise.
        self.note_producer_cpu(cpu::current());
        if !self.fits_quota(&back, len) {
            return None;
        }
        let placed = self.place(&mut back, data, flags).ok()??;
        Some((back, placed))
    }

    /// [`Queue::read`] by a thread that keeps the consumer's role, of one frame that is all that the read wants.
    #[inline(always)]
    pub(crate) fn read_kept(self, me: Owner, buf: &mut [u8]) -> Fast<Read> {
        if !self.consumer().enter_kept(me) {
            return Fast::No;
        }
        fault::at(Point::ConsumerRole);
        let front = self.front();
        let Some(segment) = self.one_frame(&front, buf.len()) else {
            return Fast::Inside;
        };
        let count = segment.len as usize;
        if self.area.copy_out(segment.pos, buf, 0, count).is_err() {
            return Fast::Inside;
        }
        self.claim_kept(me, front, segment)
    }

    /// The same into memory that may not be touched under the role (`outside.rs`).
    #[inline(always)]
    pub(crate) fn read_outside_kept<D: Sink>(self, me: Owner, buf: &mut D) -> Fast<Read> {
        let role = self.consumer();
        if !role.is_kept_by(me) {
            return Fast::No;
        }
        let looked = self.look();
        let Some(segment) = self.one_frame(&looked.front, buf.len()) else {
            return Fast::No;
        };
        let count = segment.len as usize;
        if self.area.copy_out(segment.pos, buf, 0, count).is_err() {
            return Fast::No; // the call itself says so
        }
        fence(Ordering::Acquire);
        if !role.enter_kept(me) {
            return Fast::No;
        }
        if self.attention().0 != self.calm || self.look() != looked {
            return Fast::Inside;
        }
        self.claim_kept(me, looked.front, segment)
    }

    /// The frame at the front, if a read with so much room takes it and nothing else. For a thread that keeps the
    /// consumer's role.
    #[inline(always)]
    fn one_frame(self, front: &Front, room: usize) -> Option<Segment> {
        if self.attention().0 != self.calm || !self.may_write || !self.is_there(front) {
            return None;
        }
        let header = self.header_at(front.pos).ok()?;
        let segment = Segment {
            pos: front.pos.wrapping_add(HEADER),
            len: header.len,
            flags: header.flags,
        };
        let unusual = Flags::SKIP.with(Flags::CANCELLED).with(Flags::MORE);
        if header.flags.has(unusual) || segment.len as usize > room {
            return None;
        }
        self.expect_more(segment);
        // In byte mode with room for more: only if there is no more, and no empty message (NP-READ-07).
        let end = segment.pos.wrapping_add(u64::from(segment.len));
        let is_all = self.read_mode() == ReadMode::Message
            || segment.len != 0
                && (segment.len as usize == room
                    || !self.tag_is(next_header(end, segment.flags, self.area.len())));
        is_all.then_some(segment)
    }

    /// Whether there is something for a read that its owner polls.
    #[inline]
    pub(crate) fn has_for_polled(self) -> bool {
        self.attention().has(POLLED) && self.looks_ready_at(&self.front())
    }

    /// [`Queue::poll_read`] of a read that its owner polls, if it takes one frame and all of that. `None`: it pends as before.
    pub(crate) fn take_polled<D: Sink + ?Sized>(
        &self,
        me: Owner,
        index: usize,
        buf: &mut D,
        wakes: &mut Wakes<'a>,
    ) -> Option<Read> {
        if D::OUTSIDE || !matches!(self.take_consumer(me), Taken::Clean | Taken::Dirty) {
            return None;
        }
        fault::at(Point::ConsumerRole);
        let read = self.match_polled(index, buf);
        self.unlock(me, wakes);
        read
    }

    /// Under the role: what a match, the owner's copy and the record's end are otherwise.
    #[inline(always)]
    fn match_polled<D: Sink + ?Sized>(self, index: usize, buf: &mut D) -> Option<Read> {
        if self.attention().0 != self.only_polled(index) {
            return None;
        }
        let mut front = self.front();
        let segment = self.first(&mut front).ok()??;
        let count = segment.len as usize;
        let is_whole = count <= buf.len() && !segment.flags.has(Flags::MORE);
        if !is_whole || count == 0 || self.area.copy_out(segment.pos, buf, 0, count).is_err() {
            return None;
        }
        fault::at(Point::CopiedOut);
        self.claim(&mut front, segment, segment.len);
        self.prepare_front(&front);
        // Only its owner, or a peer that scribbles, may have ended it: then the frame stays.
        let ended = self
            .record(index)
            .change(Phase::Pending, Phase::Free, Outcome::Whole);
        if !ended.made() {
            return None;
        }
        self.turn_front();
        self.publish(&front, front.pos);
        Some(Read::Whole(count))
    }

    /// Under the role: takes what was copied, and leaves.
    #[inline(always)]
    fn claim_kept(self, me: Owner, mut front: Front, segment: Segment) -> Fast<Read> {
        self.claim(&mut front, segment, segment.len);
        fault::at(Point::CopiedOut);
        self.prepare_front(&front);
        self.turn_front();
        self.publish(&front, front.pos);
        let read = Read::Whole(segment.len as usize);
        if self.attention().0 == self.calm && self.consumer().leave_kept(me) {
            Fast::Done(read)
        } else {
            Fast::DoneInside(read)
        }
    }

    /// Whether the frame at the front is a large one of a stream, for a thread that keeps the consumer's role and has seen it.
    #[inline(always)]
    pub(crate) fn is_amid_a_stream(self) -> bool {
        let header = self.header_at(self.front().pos);
        header.is_ok_and(|header| header.len >= LARGE && !header.flags.has(Flags::ALIGNED))
    }

    /// Whether the next frame is there, for a thread that keeps the consumer's role.
    #[inline(always)]
    pub(crate) fn looks_ready_kept(self, me: Owner) -> bool {
        if !self.consumer().is_kept_by(me) {
            return false;
        }
        self.is_there(&self.front())
    }

    /// Whether a frame is committed at this front, which is at a header.
    #[inline(always)]
    fn is_there(self, front: &Front) -> bool {
        front.left == 0 && !self.is_untouched(front.pos) && self.tag_is(front.pos)
    }

    /// Looks up to `times` for the next frame without any role, which the caller's thread keeps. `false`: it has not come,
    /// or something else has.
    #[inline(always)]
    pub(crate) fn look_kept(self, me: Owner, times: u32, takes_turns: bool) -> bool {
        let role = self.consumer();
        if !role.is_kept_by(me) {
            return false;
        }
        let front = self.front();
        if front.left != 0 || self.is_untouched(front.pos) {
            return false;
        }
        for _ in 0..times {
            if self.tag_is(front.pos) {
                return true;
            }
            if self.attention().0 != self.calm || !role.is_kept_by(me) {
                return false;
            }
            spin_hint();
            if takes_turns {
                self.area.expect_second_line(front.pos);
            }
        }
        false
    }
}

#[cfg(not(loom))]
impl Conn {
    /// A read that meets nothing unusual; with `patience` it looks for its message for a moment.
    #[inline(always)]
    pub(crate) fn read_fast(&self, buf: &mut [u8], patience: bool) -> Option<Read> {
        if self.check_read_of(buf.len()).is_err() {
            return None;
        }
        let queue = self.incoming();
        let me = self.me();
        if queue.looks_ready_kept(me) {
            if patience {
                self.spin().off_the_heels();
            }
        } else if !(patience && self.look_for_a_moment(queue, me)) {
            return None;
        }
        self.taken(queue.read_kept(me, buf))
    }

    /// Whether the next frame comes at once, for a reader that has not found it.
    #[inline(always)]
    fn look_for_a_moment(&self, queue: Queue<'_>, me: Owner) -> bool {
        let peer = queue.header.common.0.producer_cpu.load(Ordering::Relaxed);
        let looks = self.spin().quick_looks(peer);
        if looks == 0
            || self.completion_mode() != CompletionMode::Queue
            || !queue.look_kept(me, looks, !self.turn())
        {
            return false;
        }
        self.spin().met_at_once();
        if queue.is_amid_a_stream() {
            self.spin().on_the_heels();
        }
        true
    }

    /// The end of a shortcut: what was read, if that is what happened.
    #[inline(always)]
    pub(crate) fn taken(&self, fast: Fast<Read>) -> Option<Read> {
        if let Fast::DoneInside(_) | Fast::Inside = fast {
            self.leave_read();
        }
        let (Fast::Done(read) | Fast::DoneInside(read)) = fast else {
            return None;
        };
        if !self.turn() {
            self.noted_turn(true);
        }
        Some(read)
    }

    #[cold]
    #[inline(never)]
    fn leave_read(&self) {
        let mut wakes = Wakes::default();
        self.incoming().unlock(self.me(), &mut wakes);
        self.deliver(&mut wakes);
    }

    /// A write that meets nothing unusual.
    #[inline(always)]
    pub(crate) fn write_fast<S: Source>(&self, data: S) -> Option<Result<usize, WriteStop>> {
        if self.may_write().is_err() {
            return None;
        }
        let queue = self.outgoing();
        let turn = self.turn();
        let count = match queue.write_kept(self.me(), data, turn) {
            Fast::Done(count) => count,
            Fast::DoneInside(count) => {
                if let Err(stop) = self.leave_write(true) {
                    return Some(Err(stop));
                }
                count
            }
            Fast::Inside => {
                // A breach is found again by the call itself.
                let _ = self.leave_write(false);
                return None;
            }
            Fast::No => return None,
        };
        if turn {
            self.noted_turn(false);
        }
        Some(Ok(count))
    }

    #[cold]
    #[inline(never)]
    fn leave_write(&self, written: bool) -> Result<(), WriteStop> {
        let mut wakes = Wakes::default();
        let left = self
            .outgoing()
            .leave_producer(self.me(), written, &mut wakes);
        self.deliver(&mut wakes);
        Ok(left?)
    }
}

/// Frames of which a reader on the writer's heels gets less than one that lags.
const LARGE: u32 = 1024;
