//! One direction of a connection: the view that every call works through, and the books of both sides.
//!
//! ```text
//!            head              pos                     tail
//!  ....free..|..given, not yet |..unread bytes.........|....free....     positions run freely, offset = position
//!            |  copied out     |  (the front's)        |  (the back's)   modulo the area
//! ```
//!
//! - The **back** (tail, bytes and messages ever committed) belongs to the holder of the producer's role.
//! - The **front** (pos, bytes and messages ever claimed) belongs to the holder of the consumer's role, which is the
//!   match lock too.
//! - Each is kept twice, with a word that names the copy in force: a new state is written beside the old one and takes
//!   effect with one store, so that a death in between leaves the old state whole.
//!
//! `used = committed - claimed - cancelled` decides about quota; `head` about room. How frames get in is in
//! `produce.rs`, how they get out in `consume.rs`, how pended operations meet them in `settle.rs`.

use std::{cell::Cell, ops::Deref};

use crate::{
    area::{Area, Memory},
    attention::{Attention, DISCONNECTED, OWED, READER_CLOSED, WRITER_CLOSED},
    error::{Error, Fault},
    frame::{Flags, HEADER, Header, next_header},
    futex,
    layout::{QueueHeader, RECORDS, Record},
    record::{Kind, Phase, Wakes},
    role::{Owner, Role, SETTLE, Taken, WAITERS},
    sync::{AtomicU32, Ordering, fence},
    types::{CompletionMode, PipeType, ReadMode},
};

/// One direction, as one process sees it: the shared words, of which nothing is believed before it is checked, and what it
/// knows by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue<'a> {
    pub(crate) header: &'a QueueHeader,
    pub(crate) records: &'a [Record; RECORDS],
    /// Modes of the reading end.
    pub(crate) modes: &'a AtomicU32,
    pub(crate) side: &'a Side,
}

/// What the broker decided about a direction, in private memory. Looked at where it lies: a call that had all of it in
/// registers would have none left, and each store of one to the stack stands in line behind those that wait for a message's
/// lines.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) memory: Memory,
    /// Attention word of a queue in which nothing is unusual.
    pub(crate) calm: u64,
    pub(crate) secret: u64,
    /// Bytes.
    pub(crate) quota: u32,
    /// Turns in a row after which a thread of this process keeps a role.
    pub(crate) keep_after: u8,
    pub(crate) pipe_type: PipeType,
    /// The writing end was granted FILE_WRITE_DATA.
    pub(crate) may_write: bool,
}

impl Deref for Queue<'_> {
    type Target = Side;

    #[inline(always)]
    fn deref(&self) -> &Side {
        self.side
    }
}

/// The producer's truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Back {
    pub(crate) tail: u64,
    pub(crate) bytes: u64,
    pub(crate) messages: u32,
}

/// The consumer's truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) pos: u64,
    pub(crate) bytes: u64,
    pub(crate) messages: u32,
    /// Unread bytes of the frame around `pos`; 0: at a header.
    pub(crate) left: u32,
    pub(crate) flags: Flags,
}

/// Unread bytes of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Position of the first unread byte.
    pub(crate) pos: u64,
    pub(crate) len: u32,
    pub(crate) flags: Flags,
}

pub(crate) const MODE_MESSAGE: u32 = 1;
pub(crate) const MODE_COMPLETE: u32 = 2;

/// Both modes of an end, as its slot holds them.
pub(crate) fn mode_bits(read: ReadMode, completion: CompletionMode) -> u32 {
    let read = match read {
        ReadMode::Byte => 0,
        ReadMode::Message => MODE_MESSAGE,
    };
    let completion = match completion {
        CompletionMode::Queue => 0,
        CompletionMode::Complete => MODE_COMPLETE,
    };
    read | completion
}

impl<'a> Queue<'a> {
    /// The record of an index, which is a bit's place among those of records: masked rather than checked, for a host is promised
    /// code without a panic in it (`npfs_host.h`).
    #[inline(always)]
    pub(crate) fn record(&self, index: usize) -> &'a Record {
        &self.records[index % RECORDS]
    }

    #[inline(always)]
    pub(crate) fn area(&self) -> Area<'a> {
        self.side.memory.area()
    }

    #[inline]
    pub(crate) fn attention(&self) -> Attention {
        Attention::load(&self.header.common.0.attention)
    }

    pub(crate) fn producer(&self) -> Role<'a> {
        self.header.producer(self.keep_after)
    }

    pub(crate) fn consumer(&self) -> Role<'a> {
        self.header.consumer(self.keep_after)
    }

    /// How the reading end reads; a byte pipe knows no messages whatever the word says.
    pub(crate) fn read_mode(&self) -> ReadMode {
        if self.pipe_type == PipeType::Message
            && self.modes.load(Ordering::Relaxed) & MODE_MESSAGE != 0
        {
            ReadMode::Message
        } else {
            ReadMode::Byte
        }
    }

    /// The slot still serves this connection, and `closed` (this caller's own end) is not set.
    pub(crate) fn check(&self, attention: Attention, closed: u64) -> Result<(), Error> {
        if attention.generation() != Attention(self.calm).generation() || attention.has(closed) {
            return Err(Error::Stale);
        }
        if attention.has(DISCONNECTED) {
            return Err(Error::Disconnected);
        }
        Ok(())
    }

    // ---- the back ----------------------------------------------------------------------------------------------

    #[inline]
    pub(crate) fn back(&self) -> Back {
        let back = &self.header.back.0;
        let sel = (back.sel.load(Ordering::Acquire) & 1) as usize;
        Back {
            tail: back.tail[sel].load(Ordering::Relaxed),
            bytes: back.bytes[sel].load(Ordering::Relaxed),
            messages: back.messages[sel].load(Ordering::Relaxed),
        }
    }

    /// Tail and bytes of the back.
    #[inline(always)]
    pub(crate) fn back_place(&self) -> (u64, u64) {
        let back = &self.header.back.0;
        let sel = (back.sel.load(Ordering::Acquire) & 1) as usize;
        (
            back.tail[sel].load(Ordering::Relaxed),
            back.bytes[sel].load(Ordering::Relaxed),
        )
    }

    /// The back as somebody without the role sees it: of one moment, unless producers outrun the attempts.
    pub(crate) fn back_snapshot(&self) -> Back {
        let sel = &self.header.back.0.sel;
        for _ in 0..32 {
            let before = sel.load(Ordering::Acquire);
            let back = self.back();
            fence(Ordering::Acquire);
            if sel.load(Ordering::Relaxed) == before {
                return back;
            }
        }
        self.back()
    }

    /// Writes the next state of the back beside the one in force.
    #[inline]
    pub(crate) fn prepare_back(&self, next: Back) {
        let (back, other) = (&self.header.back.0, self.back_beside());
        back.tail[other].store(next.tail, Ordering::Relaxed);
        back.bytes[other].store(next.bytes, Ordering::Relaxed);
        back.messages[other].store(next.messages, Ordering::Relaxed);
    }

    /// The same for one message of `len` bytes more, behind which the next header stands at `tail`. What that is added to is
    /// looked at where it lies: a call that has carried it along has stored it on the way.
    #[inline(always)]
    pub(crate) fn prepare_back_behind(&self, tail: u64, len: u32) {
        let (back, other) = (&self.header.back.0, self.back_beside());
        let now = other ^ 1;
        back.tail[other].store(tail, Ordering::Relaxed);
        let bytes = back.bytes[now].load(Ordering::Relaxed);
        back.bytes[other].store(bytes.wrapping_add(u64::from(len)), Ordering::Relaxed);
        let messages = back.messages[now].load(Ordering::Relaxed);
        back.messages[other].store(messages.wrapping_add(1), Ordering::Relaxed);
    }

    /// The copy of the back that is not in force, to be written now.
    #[inline(always)]
    fn back_beside(&self) -> usize {
        // Pairs with the fence in `back_snapshot`: who sees one of the stores to come sees the turn before them.
        fence(Ordering::Release);
        (!self.header.back.0.sel.load(Ordering::Relaxed) & 1) as usize
    }

    /// Puts the prepared state in force. `sel` counts, so that a snapshot notices two turns.
    #[inline]
    pub(crate) fn turn_back(&self) {
        let sel = &self.header.back.0.sel;
        sel.store(
            sel.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }

    /// A producer died: if its frame's tag was stored the frame exists, and the state prepared with it holds.
    pub(crate) fn repair_back(&self) {
        if self.tag_is(self.back().tail) {
            self.turn_back();
        }
    }

    // ---- the front ---------------------------------------------------------------------------------------------

    #[inline]
    pub(crate) fn front(&self) -> Front {
        let front = &self.header.front.0;
        self.front_copy(front.sel.load(Ordering::Acquire))
    }

    /// Position of the front, and what is left of a frame there.
    #[inline(always)]
    pub(crate) fn front_place(&self) -> (u64, u32) {
        let front = &self.header.front.0;
        let sel = (front.sel.load(Ordering::Acquire) & 1) as usize;
        (
            front.pos[sel].load(Ordering::Relaxed),
            front.left[sel].load(Ordering::Relaxed),
        )
    }

    fn front_copy(&self, sel: u32) -> Front {
        let front = &self.header.front.0;
        let sel = (sel & 1) as usize;
        #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
        Front {
            pos: front.pos[sel].load(Ordering::Relaxed),
            bytes: front.bytes[sel].load(Ordering::Relaxed),
            messages: front.messages[sel].load(Ordering::Relaxed),
            left: front.left[sel].load(Ordering::Relaxed),
            flags: Flags(front.meta[sel].load(Ordering::Relaxed) as u16),
        }
    }

    /// The front as somebody without the role sees it.
    pub(crate) fn front_snapshot(&self) -> Front {
        let sel = &self.header.front.0.sel;
        for _ in 0..32 {
            let before = sel.load(Ordering::Acquire);
            let front = self.front();
            fence(Ordering::Acquire);
            if sel.load(Ordering::Relaxed) == before {
                return front;
            }
        }
        self.front()
    }

    #[inline]
    pub(crate) fn prepare_front(&self, next: &Front) {
        let (front, other) = (&self.header.front.0, self.front_beside());
        front.pos[other].store(next.pos, Ordering::Relaxed);
        front.bytes[other].store(next.bytes, Ordering::Relaxed);
        front.messages[other].store(next.messages, Ordering::Relaxed);
        front.left[other].store(next.left, Ordering::Relaxed);
        front.meta[other].store(u32::from(next.flags.0), Ordering::Relaxed);
    }

    /// The same for one whole frame of `len` bytes more, behind which the next header stands at `pos`. Answers the bytes.
    #[inline(always)]
    pub(crate) fn prepare_front_behind(&self, pos: u64, len: u32, flags: Flags) -> u64 {
        let (front, other) = (&self.header.front.0, self.front_beside());
        let now = other ^ 1;
        front.pos[other].store(pos, Ordering::Relaxed);
        let bytes = front.bytes[now].load(Ordering::Relaxed);
        let bytes = bytes.wrapping_add(u64::from(len));
        front.bytes[other].store(bytes, Ordering::Relaxed);
        let messages = front.messages[now].load(Ordering::Relaxed);
        front.messages[other].store(messages.wrapping_add(1), Ordering::Relaxed);
        front.left[other].store(0, Ordering::Relaxed);
        front.meta[other].store(u32::from(flags.0), Ordering::Relaxed);
        bytes
    }

    /// The copy of the front that is not in force, to be written now.
    #[inline(always)]
    fn front_beside(&self) -> usize {
        // Pairs with the fence in `front_snapshot`.
        fence(Ordering::Release);
        (!self.header.front.0.sel.load(Ordering::Relaxed) & 1) as usize
    }

    #[inline]
    pub(crate) fn turn_front(&self) {
        let sel = &self.header.front.0.sel;
        sel.store(
            sel.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }

    /// The state that a dead holder had prepared and perhaps not put in force.
    pub(crate) fn prepared_front(&self) -> Front {
        self.front_copy(!self.header.front.0.sel.load(Ordering::Relaxed))
    }

    /// Tells producers what is taken. `calm`: no record can hold anything back.
    #[inline]
    pub(crate) fn publish(&self, bytes: u64, head: u64) {
        let cancelled = self.header.table.0.cancelled.load(Ordering::Relaxed);
        let taken = &self.header.taken.0;
        taken
            .bytes
            .store(bytes.wrapping_add(cancelled), Ordering::Release);
        taken.head.store(head, Ordering::Release);
    }

    /// Where the first byte stands that somebody still has to copy.
    pub(crate) fn head(&self, front: &Front) -> u64 {
        self.attention()
            .each_record()
            .map(|index| self.record(index))
            .filter(|record| {
                record.kind_of() == Kind::Read
                    && record.phase() == Phase::Done
                    && record.count.load(Ordering::Relaxed) != 0
            })
            // With the header in front of it: the bytes may be given back.
            .map(|record| record.end.load(Ordering::Relaxed))
            .fold(front.pos, |head, pos| {
                if pos.wrapping_sub(head).cast_signed() < 0 {
                    pos
                } else {
                    head
                }
            })
    }

    // ---- frames ------------------------------------------------------------------------------------------------

    /// What stands at a position where a frame is committed.
    #[inline(always)]
    pub(crate) fn tag(&self, pos: u64) -> u64 {
        pos.wrapping_add(self.secret)
    }

    /// Whether a frame is committed at this position.
    #[inline(always)]
    pub(crate) fn tag_is(&self, pos: u64) -> bool {
        self.area().word(pos).load(Ordering::Acquire) == self.tag(pos)
    }

    /// The header at a position whose tag was seen.
    #[inline]
    pub(crate) fn header_at(&self, pos: u64) -> Result<Header, Fault> {
        Header::decode(
            self.area()
                .word(pos.wrapping_add(8))
                .load(Ordering::Relaxed),
            pos & (self.area().len() - 1),
            self.area().len(),
        )
    }

    /// The first unread segment, if anything is committed; moves `front` past skip and cancelled frames.
    #[inline]
    pub(crate) fn first(&self, front: &mut Front) -> Result<Option<Segment>, Fault> {
        if front.left != 0 {
            return Ok(Some(Segment {
                pos: front.pos,
                len: front.left,
                flags: front.flags,
            }));
        }
        // Nothing was ever written: do not touch the area, whose pages cost memory even when read.
        if self.is_untouched(front.pos) {
            return Ok(None);
        }
        let mut steps = self.most_frames();
        while self.tag_is(front.pos) {
            let header = self.header_at(front.pos)?;
            let len = u64::from(header.len);
            if header.flags.has(Flags::SKIP) {
                front.pos = crate::frame::on_header(front.pos.wrapping_add(len), self.area().len());
            } else if header.flags.has(Flags::CANCELLED) {
                front.pos = next_header(
                    front.pos.wrapping_add(HEADER + len),
                    header.flags,
                    self.area().len(),
                );
            } else if !self.may_write {
                return Err(Fault::Forbidden);
            } else {
                return Ok(Some(Segment {
                    pos: front.pos.wrapping_add(HEADER),
                    len: header.len,
                    flags: header.flags,
                }));
            }
            steps -= 1;
            if steps == 0 {
                return Err(Fault::Walk);
            }
        }
        Ok(None)
    }

    /// Whether nothing can have been written yet: no tail, and no producer at work or dead in the middle of it.
    #[inline]
    pub(crate) fn is_untouched(&self, pos: u64) -> bool {
        pos == 0 && self.back().tail == 0 && self.header.back.0.role.load(Ordering::Acquire) == 0
    }

    /// More frames than an honest area can hold: the bound of every walk.
    pub(crate) fn most_frames(&self) -> u64 {
        self.area().len() / HEADER + 2
    }

    /// Whether something is committed at this front, which the caller holds the role of.
    #[inline]
    pub(crate) fn looks_ready_at(&self, front: &Front) -> bool {
        front.left != 0 || !self.is_untouched(front.pos) && self.tag_is(front.pos)
    }

    /// The same for a reader that will wait for it: `front` moves past a skip frame that stands alone, since a writer that begins
    /// a lap commits it before it copies its message. A breach has come too.
    #[inline]
    pub(crate) fn has_come(&self, front: &Cell<Front>) -> bool {
        let mut at = front.get();
        if !self.looks_ready_at(&at) {
            return false;
        }
        let nothing = matches!(self.first(&mut at), Ok(None));
        front.set(at);
        !nothing
    }

    /// Claims `count` bytes of the segment that `first` gave.
    #[inline(always)]
    pub(crate) fn claim(&self, front: &mut Front, segment: Segment, count: u32) {
        let count = count.min(segment.len);
        front.bytes = front.bytes.wrapping_add(u64::from(count));
        let end = segment.pos.wrapping_add(u64::from(count));
        front.flags = segment.flags;
        if count == segment.len {
            front.left = 0;
            front.pos = next_header(end, segment.flags, self.area().len());
            if !segment.flags.has(Flags::MORE) {
                front.messages = front.messages.wrapping_add(1);
            }
        } else {
            front.left = segment.len - count;
            front.pos = end;
        }
    }

    // ---- the match lock ----------------------------------------------------------------------------------------

    /// Gives the match lock back, after whatever others left to be done.
    #[inline]
    pub(crate) fn unlock(&self, me: Owner, wakes: &mut Wakes<'a>) {
        match self
            .consumer()
            .give_back_settled(me, self.attention().is_quiet(self.calm))
        {
            Ok(false) => {}
            Ok(true) => wakes.add(&self.header.front.0.role),
            Err(()) => self.unlock_after_errands(me, wakes),
        }
    }

    #[cold]
    fn unlock_after_errands(&self, me: Owner, wakes: &mut Wakes<'a>) {
        for _ in 0..2 * RECORDS {
            self.consumer().clear(SETTLE);
            // A breach by the peer is found again, and answered, by the next read.
            let _ = self.settle(wakes);
            match self.consumer().give_back_settled(me, false) {
                Ok(false) => return,
                Ok(true) => {
                    wakes.add(&self.header.front.0.role);
                    return;
                }
                Err(()) => {}
            }
        }
        // Others leave work faster than it is done: let the owner of a record go on with it.
        let old = self.header.front.0.role.swap(SETTLE, Ordering::SeqCst);
        if old & WAITERS != 0 {
            wakes.add(&self.header.front.0.role);
        }
        for index in self.attention().each_record() {
            if self.record(index).kick() {
                wakes.add_owner(self.record(index));
                break;
            }
        }
    }

    /// Settles if the match lock can be had at once; else leaves it to its holder.
    pub(crate) fn settle_or_leave(&self, me: Owner, wakes: &mut Wakes<'a>) -> Result<(), Fault> {
        self.settle_or_leave_it(me, wakes).map(drop)
    }

    /// The same; `false`: it is left.
    pub(crate) fn settle_or_leave_it(
        &self,
        me: Owner,
        wakes: &mut Wakes<'a>,
    ) -> Result<bool, Fault> {
        self.settle_or_leave_while(|| true, me, wakes)
    }

    /// The same for a writer that has seen somebody wait. To hear that the lock is held takes long, and whoever waited may have
    /// settled by then: the holder is not disturbed for that.
    pub(crate) fn settle_for_waiters(&self, me: Owner, wakes: &mut Wakes<'a>) -> Result<(), Fault> {
        self.settle_or_leave_while(|| self.has_waiters(), me, wakes)
            .map(drop)
    }

    /// Leaves it only while there is something to leave.
    #[cold]
    fn settle_or_leave_while(
        &self,
        wanted: impl Fn() -> bool,
        me: Owner,
        wakes: &mut Wakes<'a>,
    ) -> Result<bool, Fault> {
        for _ in 0..64 {
            match self.take_consumer(me) {
                Taken::Clean | Taken::Dirty => {
                    let settled = self.settle(wakes);
                    self.unlock(me, wakes);
                    return settled.map(|()| true);
                }
                // A signal handler above the holder: the holder itself does it when it goes on.
                Taken::Mine | Taken::Held(_) => {
                    if !wanted() {
                        return Ok(true);
                    }
                    if self.consumer().leave(SETTLE) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Takes the consumer's role, repairing what a dead holder left.
    #[inline]
    pub(crate) fn take_consumer(&self, me: Owner) -> Taken {
        let taken = self.consumer().try_take(me);
        if taken == Taken::Dirty {
            self.repair_front();
        }
        taken
    }

    /// Takes the producer's role, likewise.
    #[inline]
    pub(crate) fn take_producer(&self, me: Owner) -> Taken {
        let taken = self.producer().try_take(me);
        if taken == Taken::Dirty {
            self.repair_back();
            self.producer().clear(crate::role::DIRTY);
        }
        taken
    }

    #[inline]
    pub(crate) fn release_producer(&self, me: Owner, wakes: &mut Wakes<'a>) {
        let quiet = self.attention().is_quiet(self.calm);
        if self.producer().give_back(me, quiet) {
            wakes.add(&self.header.back.0.role);
        }
    }

    // ---- counts ------------------------------------------------------------------------------------------------

    /// Bytes and messages that are committed and neither claimed nor cancelled, and bytes of writes not yet placed.
    pub(crate) fn counts(&self) -> Counts {
        let front = self.front_snapshot();
        let back = self.back_snapshot();
        let table = &self.header.table.0;
        let cancelled = table.cancelled.load(Ordering::Relaxed);
        let unread = back.bytes.wrapping_sub(front.bytes).wrapping_sub(cancelled);
        let mut counts = Counts {
            // A scribbled counter may say anything; more than the area holds it cannot mean.
            unread: if unread.cast_signed() < 0 {
                0
            } else {
                unread.min(self.area().len())
            },
            // A reader may have taken a frame whose writer has not turned its books yet.
            messages: back
                .messages
                .wrapping_sub(front.messages)
                .wrapping_sub(table.cancelled_messages.load(Ordering::Relaxed))
                .cast_signed()
                .max(0)
                .cast_unsigned(),
            unplaced: 0,
            unplaced_messages: 0,
            pended_reads: 0,
            reads: 0,
            writes: 0,
        };
        for index in self.attention().each_record() {
            let record = self.record(index);
            let kind = record.kind_of();
            if kind == Kind::Write {
                // Empty messages are there whatever becomes of the write in front of them.
                let empties = record.empties.load(Ordering::Relaxed);
                // A scribbled number means no more than an honest one can.
                counts.unplaced_messages += empties.min(crate::produce::MAX_EMPTIES);
            }
            if !matches!(record.phase(), Phase::Pending | Phase::Stream) {
                continue;
            }
            match kind {
                Kind::Read => {
                    counts.reads += 1;
                    counts.pended_reads += u64::from(record.len.load(Ordering::Relaxed));
                }
                Kind::Write => {
                    counts.writes += 1;
                    let unplaced = record.count.load(Ordering::Relaxed);
                    counts.unplaced += u64::from(unplaced);
                    if unplaced == record.len.load(Ordering::Relaxed) && unplaced != 0 {
                        counts.unplaced_messages += 1;
                    }
                }
                Kind::Flush => counts.writes += 1,
            }
        }
        counts
    }

    /// Sets a closing bit, withdraws what can no longer complete, and wakes. Lock-free: no exit waits for anybody.
    pub(crate) fn close(&self, closed: u64, wakes: &mut Wakes<'a>) {
        close(self.header, self.records, closed, wakes);
    }

    pub(crate) fn note_producer_cpu(&self, cpu: u32) {
        note_cpu(&self.header.common.0.producer_cpu, cpu);
    }

    pub(crate) fn note_consumer_cpu(&self, cpu: u32) {
        note_cpu(&self.header.common.0.consumer_cpu, cpu);
    }

    /// Wakes whoever waits for a free record.
    pub(crate) fn record_freed(&self, wakes: &mut Wakes<'a>) {
        let room = &self.header.table.0.room;
        let old = room.fetch_add(2, Ordering::AcqRel);
        if old & 1 != 0 {
            room.fetch_and(!1, Ordering::AcqRel);
            wakes.add(room);
        }
    }

    /// Announces that the caller waits for a free record; the value to wait on.
    pub(crate) fn await_record(&self) -> u32 {
        futex_value(&self.header.table.0.room)
    }
}

fn futex_value(word: &AtomicU32) -> u32 {
    word.fetch_or(1, Ordering::AcqRel) | 1
}

#[inline]
fn note_cpu(word: &AtomicU32, cpu: u32) {
    // The line is shared by both sides: written only when it changes.
    if word.load(Ordering::Relaxed) != cpu {
        word.store(cpu, Ordering::Relaxed);
    }
}

/// What a queue holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) unread: u64,
    pub(crate) messages: u32,
    pub(crate) unplaced: u64,
    pub(crate) unplaced_messages: u32,
    /// Sum of the lengths of pended reads.
    pub(crate) pended_reads: u64,
    pub(crate) reads: u32,
    /// Stalled writes and flushes.
    pub(crate) writes: u32,
}

impl Counts {
    pub(crate) fn available(&self) -> u64 {
        self.unread + self.unplaced
    }
}

/// The part of closing that needs no data area: the broker does it for the dead.
pub(crate) fn close<'a>(
    header: &'a QueueHeader,
    records: &'a [Record; RECORDS],
    closed: u64,
    wakes: &mut Wakes<'a>,
) {
    use crate::record::{Change, Outcome};
    let attention = header.common.0.attention.fetch_or(closed, Ordering::SeqCst);
    crate::sync::fence_after_rmw();
    for index in Attention(attention).each_record() {
        let record = &records[index % RECORDS];
        let is_owed = Attention(attention).has(OWED);
        let outcome = match (record.kind_of(), closed) {
            // A frame may be its own by now: its owner looks.
            (Kind::Read, DISCONNECTED | READER_CLOSED) if is_owed => {
                if record.kick() {
                    wakes.add_owner(record);
                }
                continue;
            }
            (_, DISCONNECTED) => Outcome::Disconnected,
            // Nobody will read what waits, and this end reads no more (NP-CLOSE-02, 03).
            (_, READER_CLOSED) => Outcome::Broken,
            // The closer's own: what it has written stays (NP-CLOSE-03).
            (Kind::Write | Kind::Flush, WRITER_CLOSED) => Outcome::Cancelled,
            // The peer's reads: data may have been committed that nobody has matched yet. They look themselves.
            _ => {
                if record.kick() {
                    wakes.add_owner(record);
                }
                continue;
            }
        };
        for phase in [Phase::Pending, Phase::Stream] {
            if record.change(phase, Phase::Withdrawn, outcome) == Change::Wake {
                wakes.add_owner(record);
            }
        }
    }
    // Whoever waits for a role or for a record looks at the state again. Pairs with the fence in `Role::announce`.
    fence(Ordering::SeqCst);
    for (word, waiters) in [
        (&header.front.0.role, WAITERS),
        (&header.back.0.role, WAITERS),
        (&header.table.0.room, 1),
    ] {
        if word.load(Ordering::SeqCst) & waiters != 0 {
            futex::wake(word);
        }
    }
}
