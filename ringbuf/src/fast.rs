//! The calls that meet nothing unusual, in one straight line.
//!
//! Two threads that talk keep their roles, the queue is calm, the frame fits: then a call is some hundred instructions
//! that touch its own lines and the message's, and nothing else. Everything here is a shortcut through `produce.rs` and
//! `consume.rs`: whatever is not as usual is left, untouched, to them. Views are passed by value and nothing keeps a
//! reference to one, so that they live in registers.

use crate::{
    fault::{self, Point},
    frame::{Flags, HEADER, next_header},
    memory::{Sink, Source},
    produce::Placed,
    queue::{Front, Queue, Segment},
    role::Owner,
    sync::{Ordering, fence},
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
        let back = self.back();
        let end = back.tail.wrapping_add(HEADER + u64::from(len));
        if self.attention().0 != self.calm
            || !self.fits_notes(&back, len)
            || !self.goes_straight_on(&back, u64::from(len))
            || !self.has_memory(end)
        {
            return Fast::Inside;
        }
        let flags = self.flags_for(&back, len, aligned);
        self.expect_stream(end, u64::from(len), flags);
        let payload = back.tail.wrapping_add(HEADER);
        if self.area.copy_in(payload, data).is_err() {
            return Fast::Inside;
        }
        let placed = Placed::new(back.tail, len, flags, self.area.len());
        self.commit(&back, &placed, 1);
        fault::at(Point::BeforeRing);
        // As in `write`: who has published a record has asked for the role before, or sees the frame.
        if role.leave_kept(me) && self.attention().records() == 0 {
            Fast::Done(data.len())
        } else {
            Fast::DoneInside(data.len())
        }
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
    pub(crate) fn look_kept(self, me: Owner, times: u32) -> bool {
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
        }
        false
    }
}

/// Frames of which a reader on the writer's heels gets less than one that lags.
const LARGE: u32 = 1024;
