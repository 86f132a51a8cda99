//! The calls that meet nothing unusual, in one straight line.
//!
//! Two threads that talk keep their roles, the queue is calm, the frame fits: then a call is some hundred instructions
//! that touch its own lines and the message's, and nothing else. Everything here is a shortcut through `produce.rs` and
//! `consume.rs`: whatever is not as usual is left, untouched, to them. Views are passed by value and nothing keeps a
//! reference to one, so that they live in registers.

#[cfg(not(loom))]
use crate::{Conn, types::CompletionMode, wait::may_sleep};
use crate::{
    area::Plot,
    attention::POLLED,
    consume::{BEHIND, SMALL},
    cpu,
    fault::{self, Point},
    frame::{Flags, HEADER, Header, straight_on},
    memory::{Sink, Source},
    produce::AHEAD,
    queue::Queue,
    record::{Outcome, Phase, Wakes},
    role::{Kept, Owner, Taken},
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
    /// Nothing done, since there is nothing to read.
    Nothing,
}

impl<'a> Queue<'a> {
    /// [`Queue::write`] by a thread that keeps the producer's role.
    #[inline(always)]
    pub(crate) fn write_kept<S: Source>(self, me: Kept, data: S, aligned: bool) -> Fast<usize> {
        let Ok(len) = i32::try_from(data.len()) else {
            return Fast::No;
        };
        let len = len.cast_unsigned();
        let role = self.producer();
        if len == 0 || !role.enter_kept(me) {
            return Fast::No;
        }
        fault::at(Point::ProducerRole);
        let (tail, bytes) = self.back_place();
        if !self.attention().is_quiet(self.calm) {
            return Fast::Inside;
        }
        let done = if self.fits_notes(bytes, len)
            && self.goes_straight_on(tail, u64::from(len))
            && let Some(plot) = self.memory.plot(tail, len)
        {
            self.lay_at(plot, tail, data, len, aligned)
        } else {
            self.lay_anew(data, len, aligned)
        };
        if !done {
            return Fast::Inside;
        }
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

    /// Copies a frame to where it just goes straight on, and commits it.
    #[inline(always)]
    fn lay_at<S: Source>(
        self,
        plot: Plot<'a>,
        tail: u64,
        data: S,
        len: u32,
        aligned: bool,
    ) -> bool {
        let flags = self.flags_for(tail, len, aligned);
        if flags != Flags::ALIGNED && u64::from(len) <= AHEAD {
            plot.expect_write_ahead(AHEAD);
        }
        if plot.copy_in(data).is_err() {
            return false;
        }
        let end = tail.wrapping_add(HEADER + u64::from(len));
        self.prepare_back_behind(straight_on(end, flags), len);
        let header = Header {
            len,
            flags,
            context: 0,
        };
        self.commit_prepared(plot.header(), tail, header);
        true
    }

    /// The same where it does not: a look at the reader, a restart, more memory are no reason to leave.
    #[cold]
    #[inline(never)]
    fn lay_anew<S: Source>(self, data: S, len: u32, aligned: bool) -> bool {
        // Once in so many KiB: a peer that thinks that it shares this CPU gives way to nobody until it hears otherwise.
        self.note_producer_cpu(cpu::current());
        let mut back = self.back();
        if !self.fits_quota(&back, len) {
            return false;
        }
        let flags = self.flags_for(back.tail, len, aligned);
        let Ok(Some(placed)) = self.place(&mut back, data, flags) else {
            return false;
        };
        self.commit(&back, &placed, 1);
        true
    }

    /// [`Queue::read`] by a thread that keeps the consumer's role, of one frame that is all that the read wants.
    #[inline(always)]
    pub(crate) fn read_kept(self, me: Kept, buf: &mut [u8]) -> Fast<Read> {
        if !self.consumer().enter_kept(me) {
            return Fast::No;
        }
        fault::at(Point::ConsumerRole);
        let (pos, left) = self.front_place();
        match self.one_frame(pos, left, buf.len()) {
            Ok(frame) if frame.plot.copy_out(buf).is_ok() => self.claim_kept(me, &frame),
            Err(NoFrame::Yet) if self.consumer().leave_kept(me) => Fast::Nothing,
            _ => Fast::Inside,
        }
    }

    /// The same into memory that may not be touched under the role (`outside.rs`).
    #[inline(always)]
    pub(crate) fn read_outside_kept<D: Sink>(self, me: Kept, buf: &mut D) -> Fast<Read> {
        let role = self.consumer();
        if !role.is_kept_by(me) {
            return Fast::No;
        }
        let seen = self.books_seen();
        let (pos, left) = self.front_place();
        let Ok(frame) = self.one_frame(pos, left, buf.len()) else {
            return Fast::No;
        };
        if frame.plot.copy_out(buf).is_err() {
            return Fast::No; // the call itself says so
        }
        fence(Ordering::Acquire);
        if !role.enter_kept(me) {
            return Fast::No;
        }
        if self.attention().0 != self.calm || self.books_seen() != seen {
            return Fast::Inside;
        }
        self.claim_kept(me, &frame)
    }

    /// The frame at a front, if a read with so much room takes it and nothing else. For a thread that keeps the
    /// consumer's role.
    #[inline(always)]
    fn one_frame(self, pos: u64, left: u32, room: usize) -> Result<Frame<'a>, NoFrame> {
        if self.attention().0 != self.calm || !self.may_write || left != 0 {
            return Err(NoFrame::Usual);
        }
        let area = self.area();
        let at_header = area.plot(pos, 0).ok_or(NoFrame::Usual)?;
        let [tag, header] = at_header.header();
        if self.is_untouched(pos) || tag.load(Ordering::Acquire) != self.tag(pos) {
            return Err(NoFrame::Yet);
        }
        let (len, flags) = Header::parts(header.load(Ordering::Relaxed));
        if flags != Flags::default() && flags != Flags::ALIGNED || len as usize > room {
            return Err(NoFrame::Usual);
        }
        let plot = area.plot(pos, len).ok_or(NoFrame::Usual)?;
        let end = pos.wrapping_add(HEADER + u64::from(len));
        let next = if flags == Flags::ALIGNED {
            straight_on(end, Flags::ALIGNED)
        } else {
            if len <= SMALL {
                plot.expect_read_behind(BEHIND);
            }
            straight_on(end, Flags::default())
        };
        // In byte mode with room for more: only if there is no more, and no empty message (NP-READ-07).
        if self.read_mode() == ReadMode::Message
            || len != 0 && (len as usize == room || !self.tag_is(next))
        {
            Ok(Frame {
                plot,
                len,
                flags,
                next,
            })
        } else {
            Err(NoFrame::Usual)
        }
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
        if !is_whole || count == 0 || self.area().copy_out(segment.pos, buf, 0, count).is_err() {
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
        self.publish(front.bytes, front.pos);
        Some(Read::Whole(count))
    }

    /// Under the role: takes what was copied, and leaves.
    #[inline(always)]
    fn claim_kept(self, me: Kept, frame: &Frame<'_>) -> Fast<Read> {
        fault::at(Point::CopiedOut);
        let bytes = self.prepare_front_behind(frame.next, frame.len, frame.flags);
        self.turn_front();
        self.publish(bytes, frame.next);
        let read = Read::Whole(frame.len as usize);
        if self.attention().0 == self.calm && self.consumer().leave_kept(me) {
            Fast::Done(read)
        } else {
            Fast::DoneInside(read)
        }
    }

    /// The length of the frame at the front if it is one of a stream, for a thread that has the consumer's role and has seen it.
    #[inline(always)]
    fn streamed_len(self) -> Option<u32> {
        let header = self.header_at(self.front().pos).ok()?;
        (!header.flags.has(Flags::ALIGNED)).then_some(header.len)
    }

    /// By how many bytes a writer is to be ahead: half of the quota, or as much as a CPU keeps in a cache of its own.
    #[inline(always)]
    fn lead(self) -> u32 {
        (self.quota / 2).min(cpu::own_cache())
    }

    /// Waits until the writer is ahead by [`Queue::lead`]. `false`: it has added nothing for `patience` looks, some
    /// microseconds, or takes too long, or something unusual goes on.
    #[cold]
    fn let_ahead(self, patience: u32) -> bool {
        let (mut ahead, mut quiet) = (0, 0);
        for _ in 0..MOST_LOOKS_AHEAD {
            (0..BETWEEN_LOOKS).for_each(|_| spin_hint());
            let now = self.counts().unread;
            if now >= u64::from(self.lead()) {
                return true;
            }
            quiet = if now == ahead { quiet + 1 } else { 0 };
            if quiet > patience || self.attention().0 != self.calm {
                return false;
            }
            ahead = now;
        }
        false
    }

    /// Looks up to `times` for the next frame without any role, which the caller's thread keeps. `false`: it has not come,
    /// or something else has.
    #[inline(always)]
    pub(crate) fn look_kept(self, me: Kept, times: u32, takes_turns: bool) -> bool {
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
                self.area().expect_second_line(front.pos);
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
        match self.incoming().read_kept(self.kept(), buf) {
            Fast::Nothing if patience => self.read_in_a_moment(buf),
            fast => {
                if patience {
                    self.spin().off_the_heels();
                }
                self.taken(fast)
            }
        }
    }

    /// The same of a message that has not come yet.
    #[inline(never)]
    fn read_in_a_moment(&self, buf: &mut [u8]) -> Option<Read> {
        let (queue, me) = (self.incoming(), self.kept());
        if !self.look_for_a_moment(queue, me) {
            return None;
        }
        self.taken(queue.read_kept(me, buf))
    }

    /// Whether the next frame comes at once, for a reader that has not found it.
    #[inline(always)]
    fn look_for_a_moment(&self, queue: Queue<'_>, me: Kept) -> bool {
        let peer = queue.header.common.0.producer_cpu.load(Ordering::Relaxed);
        let looks = self.spin().quick_looks(peer);
        if looks == 0 || self.completion_mode() != CompletionMode::Queue {
            return false;
        }
        // Peers that take turns by now have no stream; and a thread on which everything else waits, waits for nobody.
        if let Some(patience) = self.spin().lets_ahead()
            && !(self.turn() && may_sleep() && queue.let_ahead(patience))
        {
            self.spin().stays_behind();
        }
        if !queue.look_kept(me, looks, !self.turn()) {
            return false;
        }
        self.spin().met_at_once();
        if let Some(len) = queue.streamed_len() {
            self.came_at_once(queue, len);
        }
        true
    }

    /// A message of a stream had just come when it was read.
    #[inline(always)]
    pub(crate) fn came_at_once(&self, queue: Queue<'_>, len: u32) {
        // Of fewer than two messages no lead can be made.
        if len >= LARGE && len <= queue.lead() / 2 {
            self.spin().on_the_heels(len);
        }
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
    pub(crate) fn write_fast<S: Source>(&self, data: S) -> Option<usize> {
        if self.may_write().is_err() {
            return None;
        }
        let turn = self.turn();
        let fast = self.outgoing().write_kept(self.kept(), data, turn);
        if let Fast::DoneInside(_) | Fast::Inside = fast {
            self.leave_write(matches!(fast, Fast::DoneInside(_)));
        }
        let (Fast::Done(count) | Fast::DoneInside(count)) = fast else {
            return None;
        };
        if turn {
            self.noted_turn(false);
        }
        Some(count)
    }

    /// A breach by the peer is found again: by the call itself if it is not done, else by the next one.
    #[cold]
    #[inline(never)]
    fn leave_write(&self, written: bool) {
        let mut wakes = Wakes::default();
        let _ = self
            .outgoing()
            .leave_producer(self.me(), written, &mut wakes);
        self.deliver(&mut wakes);
    }
}

/// What [`Queue::one_frame`] has found.
struct Frame<'a> {
    plot: Plot<'a>,
    len: u32,
    flags: Flags,
    /// Position of the header behind it.
    next: u64,
}

/// Why it has not.
enum NoFrame {
    /// Nothing is there yet.
    Yet,
    /// The general path knows.
    Usual,
}

/// Frames of which a reader on the writer's heels gets less than one that lags, and a short lap less than a long one.
pub(crate) const LARGE: u32 = 1024;
/// Pauses, some 1 us: each look takes the line from the writer.
const BETWEEN_LOOKS: u32 = 40;
/// What a stream's messages may be late by.
const MOST_LOOKS_AHEAD: u32 = 64;
