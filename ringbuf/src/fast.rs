//! The calls that meet nothing unusual, in one straight line.
//!
//! Two threads that talk keep their roles, the queue is calm, the frame fits: then a call is some hundred instructions
//! that touch its own lines and the message's, and nothing else. Everything here is a shortcut through `produce.rs` and
//! `consume.rs`: whatever is not as usual is left, untouched, to them. Views are passed by value and nothing keeps a
//! reference to one, so that they live in registers.

use crate::{
    fault::{self, Point},
    frame::{Flags, HEADER},
    produce::Placed,
    queue::{Queue, Segment},
    role::Owner,
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
    pub(crate) fn write_kept(self, me: Owner, data: &[u8], aligned: bool) -> Fast<usize> {
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
        if self
            .area
            .copy_in(back.tail.wrapping_add(HEADER), data)
            .is_err()
        {
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

    /// [`Queue::read`] by a thread that keeps the consumer's role, of a message in one frame.
    #[inline(always)]
    pub(crate) fn read_kept(self, me: Owner, buf: &mut [u8]) -> Fast<Read> {
        let role = self.consumer();
        if !role.enter_kept(me) {
            return Fast::No;
        }
        fault::at(Point::ConsumerRole);
        let mut front = self.front();
        if self.attention().0 != self.calm
            || front.left != 0
            || !self.tag_is(front.pos)
            || !self.may_write
            || self.read_mode() != ReadMode::Message
        {
            return Fast::Inside;
        }
        let Ok(header) = self.header_at(front.pos) else {
            return Fast::Inside;
        };
        let segment = Segment {
            pos: front.pos.wrapping_add(HEADER),
            len: header.len,
            flags: header.flags,
        };
        let unusual = Flags::SKIP.with(Flags::CANCELLED).with(Flags::MORE);
        if header.flags.has(unusual) || segment.len as usize > buf.len() {
            return Fast::Inside;
        }
        let count = segment.len as usize;
        self.expect_more(segment);
        if self.area.copy_out(segment.pos, buf, 0, count).is_err() {
            return Fast::Inside;
        }
        self.claim(&mut front, segment, segment.len);
        fault::at(Point::CopiedOut);
        self.prepare_front(&front);
        self.turn_front();
        self.publish(&front, front.pos);
        if self.attention().0 == self.calm && role.leave_kept(me) {
            Fast::Done(Read::Whole(count))
        } else {
            Fast::DoneInside(Read::Whole(count))
        }
    }

    /// Whether the next frame is there, for a thread that keeps the consumer's role.
    #[inline(always)]
    pub(crate) fn looks_ready_kept(self, me: Owner) -> bool {
        if !self.consumer().is_kept_by(me) {
            return false;
        }
        let front = self.front();
        front.left == 0 && self.tag_is(front.pos)
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
