//! Settling: giving queued frames to pended reads and freed quota to stalled writes, in issue order.
//!
//! Whoever changes what a record may wait for settles, under the match lock: a writer after its commit, a reader after
//! its take, a caller that pends after it has published its record. It may be done any number of times: it looks at
//! the state and never at what has happened. Who finds the lock held leaves the work to its holder.
//!
//! ```text
//! pender (under the lock)                  writer
//! 1. attention |= record                   a. store the frame's tag      (Release)
//! 2. fence SeqCst                          b. full fence (the role's exchange)
//! 3. settle: is the tag there?             c. load attention: a record? settle
//! ```
//!
//! The fences exclude the one bad outcome, a frame and a read that wait for each other (store buffering).
//!
//! **Polled.** A read that pends beside an owner that is awake, and looks at the front all the time, needs nobody to match
//! it: while POLLED is set a writer whose frame the quota admits commits it and goes on, and touches no line but the
//! frame's and its own. The read is matched all the same as if that had been done at once: its owner matches when it
//! looks, and whoever else asks what the queue holds, or changes what pends there, settles first. An owner that is about to
//! sleep clears the bit as it would publish a record (1 to 3), and so does whoever adds another record. What such a
//! read leaves, its record's bit without a life, the next one takes over, so that two threads that take turns do not write
//! the word that both of them read.

use crate::{
    attention::{Attention, DISCONNECTED, OWED, POLLED, READER_CLOSED, UNPLACED, WRITER_CLOSED},
    error::Fault,
    fault::{self, Point},
    frame::{Flags, HEADER, Header, next_header},
    futex,
    layout::{RECORDS, Record},
    matching,
    produce::MAX_EMPTIES,
    queue::{Back, Front, Queue, Segment},
    record::{Change, Kind, Outcome, Phase, Wakes},
    role::{DIRTY, Owner, Taken},
    sync::{Ordering, fence, fence_after_rmw},
    types::ReadMode,
};

impl<'a> Queue<'a> {
    // ---- the table, under the lock -----------------------------------------------------------------------------

    /// Takes a free record. Its bit is not published yet.
    pub(crate) fn begin_record(&self, me: Owner, kind: Kind, phase: Phase) -> Option<(usize, u32)> {
        self.stop_polling();
        let index = self.free_index()?;
        let record = self.number(me, index);
        let word = record.begin(kind, phase);
        Some((index, word.life()))
    }

    fn free_index(&self) -> Option<usize> {
        let used = self.attention().records();
        (0..RECORDS)
            .find(|index| used & 1 << index == 0 && self.record(*index).phase() == Phase::Free)
    }

    /// A record that begins: whose it is, and its place in line.
    fn number(&self, me: Owner, index: usize) -> &'a Record {
        let record = self.record(index);
        record.owner.store(me.raw(), Ordering::Relaxed);
        let table = &self.header.table.0;
        let order = table.order.load(Ordering::Relaxed);
        table.order.store(order.wrapping_add(1), Ordering::Relaxed);
        record.order.store(order, Ordering::Relaxed);
        record.count.store(0, Ordering::Relaxed);
        // Nobody has answered it yet.
        record.stamp.store(u64::MAX, Ordering::Relaxed);
        record
    }

    /// A read of `len` bytes that its owner polls; the record's index and life. `None`: not in this queue, as it is.
    pub(crate) fn begin_polled(&self, me: Owner, len: u32) -> Option<(usize, u32)> {
        let attention = self.attention();
        let left = self.left_by_polling(attention);
        let index = if attention.0 == self.calm {
            self.free_index()?
        } else {
            left?
        };
        let record = self.number(me, index);
        record.len.store(len, Ordering::Relaxed);
        let word = record.begin_polled();
        if left.is_none() {
            let common = &self.header.common.0;
            common
                .attention
                .fetch_or(1 << index | POLLED | OWED, Ordering::SeqCst);
        }
        // Pairs with the fence in `queue::close`: either it sees the read, or the caller the close.
        fence_after_rmw();
        Some((index, word.life()))
    }

    /// What the attention word is while a read of that index pends and is polled, and nothing else is unusual.
    pub(crate) fn only_polled(&self, index: usize) -> u64 {
        self.calm | POLLED | OWED | 1 << index
    }

    /// The record that the last polled read has left.
    pub(crate) fn left_by_polling(&self, attention: Attention) -> Option<usize> {
        let index = attention.each_record().next()?;
        (attention.0 == self.only_polled(index) && self.record(index).phase() == Phase::Free)
            .then_some(index)
    }

    /// From now on writers match what they write. The caller settles next.
    #[inline]
    pub(crate) fn stop_polling(&self) {
        if self.attention().has(POLLED) {
            self.clear_polled();
        }
    }

    #[cold]
    fn clear_polled(&self) {
        let common = &self.header.common.0;
        common.attention.fetch_and(!POLLED, Ordering::SeqCst); // as 1
        fence(Ordering::SeqCst); // as 2
        self.producer().fence_kept();
    }

    /// What a polled read has not looked at yet is its own by now: for who asks what the queue holds. `false`: somebody else has
    /// the lock, and does it.
    #[inline]
    pub(crate) fn settle_polled(&self, me: Owner, wakes: &mut Wakes<'a>) -> bool {
        // A breach is found again by the read itself.
        !self.attention().has(OWED) || self.settle_or_leave_it(me, wakes).unwrap_or(true)
    }

    /// Makes the record known: 1 and 2 above. The caller settles next.
    pub(crate) fn publish_record(&self, index: usize) {
        self.header
            .common
            .0
            .attention
            .fetch_or(1 << index, Ordering::SeqCst); // 1: pairs with c, in `write`
        fence(Ordering::SeqCst); // 2: pairs with b, in `write`
        if self.record(index).kind_of() == Kind::Read {
            self.producer().fence_kept(); // 2, of a producer that keeps its role
        }
    }

    /// Pended reads of no bytes are all there is, and a write that is dropped completes them (NP-READ-17, NP-WRITE-11).
    pub(crate) fn feed_empty_reads(&self, wakes: &mut Wakes<'a>) {
        for index in self.attention().each_record() {
            let record = self.record(index);
            if record.kind_of() == Kind::Read && record.len.load(Ordering::Relaxed) == 0 {
                self.done(record, wakes);
            }
        }
    }

    /// The record's life is over, and with it what was said of it: a polled read is the only one.
    pub(crate) fn free_record(&self, index: usize, wakes: &mut Wakes<'a>) {
        let record = self.record(index);
        record.end_life();
        self.header
            .common
            .0
            .attention
            .fetch_and(!(1 << index | POLLED | OWED), Ordering::SeqCst);
        self.record_freed(wakes);
    }

    /// Records in use of one kind and phase, in issue order, one at a time.
    fn next_in_order(
        &self,
        attention: Attention,
        after: Option<u32>,
        wanted: impl Fn(&Record) -> bool,
    ) -> Option<usize> {
        // Orders wrap: compare distances from the next one to be given.
        let base = self.header.table.0.order.load(Ordering::Relaxed);
        let age = |order: u32| base.wrapping_sub(order);
        attention
            .each_record()
            .filter(|index| {
                let record = self.record(*index);
                after.is_none_or(|after| age(record.order.load(Ordering::Relaxed)) < age(after))
                    && wanted(record)
            })
            .max_by_key(|index| age(self.record(*index).order.load(Ordering::Relaxed)))
    }

    /// The sum of the lengths of the pended reads.
    pub(crate) fn pended_bytes(&self) -> u64 {
        self.attention()
            .each_record()
            .map(|index| self.record(index))
            .filter(|record| record.kind_of() == Kind::Read && record.phase() == Phase::Pending)
            .map(|record| u64::from(record.len.load(Ordering::Relaxed)))
            .sum()
    }

    /// Whether reads stand in front of one that comes now.
    pub(crate) fn has_pended_reads(&self, attention: Attention) -> bool {
        attention.each_record().any(|index| {
            let record = self.record(index);
            record.kind_of() == Kind::Read
                && matches!(record.phase(), Phase::Pending | Phase::Stream)
        })
    }

    /// The first write, in issue order, that is not wholly placed.
    pub(crate) fn first_unplaced(&self) -> Option<usize> {
        self.next_in_order(self.attention(), None, is_unplaced)
    }

    /// The last write that is still pending, or that left empty messages behind: it carries one more that there is no
    /// room for.
    pub(crate) fn last_stalled(&self) -> Option<usize> {
        let base = self.header.table.0.order.load(Ordering::Relaxed);
        self.attention()
            .each_record()
            .filter(|index| {
                let record = self.record(*index);
                record.kind_of() == Kind::Write
                    && (record.phase() == Phase::Pending || is_unplaced(record))
            })
            .min_by_key(|index| {
                base.wrapping_sub(self.record(*index).order.load(Ordering::Relaxed))
            })
    }

    // ---- settling ----------------------------------------------------------------------------------------------

    /// Settles for a record that was just published; after a breach by the peer it has no owner.
    pub(crate) fn settle_for(&self, index: usize, wakes: &mut Wakes<'a>) -> Result<(), Fault> {
        let settled = self.settle(wakes);
        if settled.is_err() {
            for phase in [Phase::Pending, Phase::Stream, Phase::Done, Phase::Withdrawn] {
                let _ = self
                    .record(index)
                    .change(phase, Phase::Copied, Outcome::Whole);
            }
        }
        settled
    }

    /// Does all there is to do; the caller holds the match lock.
    pub(crate) fn settle(&self, wakes: &mut Wakes<'a>) -> Result<(), Fault> {
        // What a round lays down is matched by the next one.
        for _ in 0..=RECORDS {
            if !self.settle_once(wakes)? {
                break;
            }
        }
        Ok(())
    }

    /// `Ok(true)`: empty messages were laid down that nobody has looked at yet.
    fn settle_once(&self, wakes: &mut Wakes<'a>) -> Result<bool, Fault> {
        let attention = self.attention();
        let mut front = self.front();
        if attention.records() != 0 {
            self.reap(attention, &mut front, wakes);
            // Room that cancelled frames at the front took is free at once.
            let _ = self.first(&mut front);
            fault::at(Point::MatchLock);
        }
        let attention = self.attention();
        let settled = if attention.records() == 0 {
            Ok(())
        } else {
            self.settle_records(attention, &mut front, wakes)
        };
        // Nothing may be published that the books do not say: frames that were skipped in passing are passed.
        if front != self.front() {
            self.prepare_front(&front);
            self.turn_front();
        }
        let head = self.head(&front);
        self.publish(front.bytes, head);
        let laid = attention.has(UNPLACED) && self.go_on_placing(head, wakes);
        settled.map(|()| laid)
    }

    fn settle_records(
        &self,
        attention: Attention,
        front: &mut Front,
        wakes: &mut Wakes<'a>,
    ) -> Result<(), Fault> {
        if attention.has(OWED) && (attention.has(DISCONNECTED) || attention.has(READER_CLOSED)) {
            // What was written before the end was the read's then.
            self.match_reads(attention, front, wakes)?;
        }
        if attention.has(DISCONNECTED) {
            self.withdraw(attention, Outcome::Disconnected, |_| true, wakes);
            return Ok(());
        }
        if attention.has(READER_CLOSED) {
            self.withdraw(attention, Outcome::Broken, |_| true, wakes);
            return Ok(());
        }
        let matched = self.match_reads(attention, front, wakes);
        self.complete_writes(attention, front, wakes);
        self.complete_flushes(attention, front, wakes);
        if attention.has(WRITER_CLOSED) {
            // Nothing comes any more: reads that found nothing are broken (NP-CLOSE-02).
            if matched != Ok(true) {
                self.withdraw(attention, Outcome::Broken, |kind| kind == Kind::Read, wakes);
            }
            self.withdraw(
                attention,
                Outcome::Cancelled,
                |kind| kind != Kind::Read,
                wakes,
            );
        }
        matched.map(|_| ())
    }

    fn withdraw(
        &self,
        attention: Attention,
        outcome: Outcome,
        which: impl Fn(Kind) -> bool,
        wakes: &mut Wakes<'a>,
    ) {
        for index in attention.each_record() {
            let record = self.record(index);
            if which(record.kind_of()) {
                for phase in [Phase::Pending, Phase::Stream] {
                    if record.change(phase, Phase::Withdrawn, outcome) == Change::Wake {
                        wakes.add_owner(record);
                    }
                }
            }
        }
    }

    /// Gives what is queued to pended reads, in issue order (NP-READ-18, NP-WRITE-05, 06). `Ok(true)`: a streaming
    /// read is at work on what is queued.
    fn match_reads(
        &self,
        attention: Attention,
        front: &mut Front,
        wakes: &mut Wakes<'a>,
    ) -> Result<bool, Fault> {
        let is_read =
            |record: &Record, phase| record.kind_of() == Kind::Read && record.phase() == phase;
        if let Some(streaming) =
            self.next_in_order(attention, None, |record| is_read(record, Phase::Stream))
        {
            let more = self.first(&mut front.clone())?.is_some();
            let record = self.record(streaming);
            if (more || !attention.has(UNPLACED)) && record.kick() {
                wakes.add_owner(record);
            }
            return Ok(more);
        }
        // Each round ends a read or the loop.
        for _ in 0..RECORDS {
            let Some(index) =
                self.next_in_order(attention, None, |record| is_read(record, Phase::Pending))
            else {
                return Ok(false);
            };
            let Some(segment) = self.first(front)? else {
                return Ok(false);
            };
            let record = self.record(index);
            let wanted = record.len.load(Ordering::Relaxed);
            let more = segment.flags.has(Flags::MORE);
            if more && wanted > segment.len {
                // It takes more than one frame: its owner copies piece by piece.
                match record.change(Phase::Pending, Phase::Stream, Outcome::Whole) {
                    Change::Lost(_) => continue,
                    _ => {
                        if record.kick() {
                            wakes.add_owner(record);
                        }
                        // `change` clears ASLEEP: the kick alone would not wake.
                        wakes.add_owner(record);
                        return Ok(true);
                    }
                }
            }
            self.give_to(record, wanted, segment, front, wakes);
        }
        Ok(false)
    }

    /// Matches one read. The new front is written beside the old one first, then the record's state decides, then the
    /// front turns: `repair_front` finishes what a death leaves in between.
    fn give_to(
        &self,
        record: &'a Record,
        wanted: u32,
        segment: Segment,
        front: &mut Front,
        wakes: &mut Wakes<'a>,
    ) {
        let gift = matching::give(
            wanted,
            segment.len,
            segment.flags.has(Flags::MORE),
            self.read_mode(),
        );
        let mut next = *front;
        if gift.count != 0 || gift.consumed {
            self.claim(&mut next, segment, gift.count);
        }
        record.count.store(gift.count, Ordering::Relaxed);
        record.pos.store(segment.pos, Ordering::Relaxed);
        record.end.store(front.pos, Ordering::Relaxed);
        record.next.store(next.pos, Ordering::Relaxed);
        record.stamp.store(futex::now(), Ordering::Relaxed);
        self.prepare_front(&next);
        let outcome = if gift.part {
            Outcome::Part
        } else {
            Outcome::Whole
        };
        match record.change(Phase::Pending, Phase::Done, outcome) {
            Change::Lost(_) => return,
            Change::Made => {}
            Change::Wake => wakes.add_owner(record),
        }
        self.turn_front();
        *front = next;
    }

    /// Completes stalled writes that the quota has room for, in issue order (NP-QUEUE-03, 04).
    fn complete_writes(&self, attention: Attention, front: &Front, wakes: &mut Wakes<'a>) {
        for index in attention.each_record() {
            let record = self.record(index);
            // Ends grow with the order, so each can be judged alone.
            if record.kind_of() == Kind::Write
                && record.phase() == Phase::Pending
                && !is_unplaced(record)
                && matching::write_is_complete(
                    record.end.load(Ordering::Relaxed),
                    front.bytes,
                    self.quota,
                )
            {
                self.done(record, wakes);
            }
        }
    }

    /// Completes flushes whose data has all been claimed (NP-FLUSH-04 to 06).
    fn complete_flushes(&self, attention: Attention, front: &Front, wakes: &mut Wakes<'a>) {
        let base = self.header.table.0.order.load(Ordering::Relaxed);
        let age = |record: &Record| base.wrapping_sub(record.order.load(Ordering::Relaxed));
        // Empty messages keep no flush waiting, placed or not.
        let unplaced = self
            .next_in_order(attention, None, |record| {
                is_unplaced(record) && record.count.load(Ordering::Relaxed) != 0
            })
            .map(|index| age(self.record(index)));
        for index in attention.each_record() {
            let record = self.record(index);
            if record.kind_of() == Kind::Flush
                && record.phase() == Phase::Pending
                && unplaced.is_none_or(|unplaced| age(record) > unplaced)
                && matching::write_is_complete(record.end.load(Ordering::Relaxed), front.bytes, 0)
            {
                self.done(record, wakes);
            }
        }
    }

    /// Entries behind the one of this order move by some bytes.
    pub(crate) fn move_later(&self, order: u32, kinds: &[Kind], by: u64) {
        let base = self.header.table.0.order.load(Ordering::Relaxed);
        for index in self.attention().each_record() {
            let other = self.record(index);
            let later =
                base.wrapping_sub(other.order.load(Ordering::Relaxed)) < base.wrapping_sub(order);
            if later && kinds.contains(&other.kind_of()) {
                let end = other.end.load(Ordering::Relaxed);
                other.end.store(end.wrapping_add(by), Ordering::Relaxed);
            }
        }
    }

    fn done(&self, record: &'a Record, wakes: &mut Wakes<'a>) {
        record.stamp.store(futex::now(), Ordering::Relaxed);
        if record.change(Phase::Pending, Phase::Done, Outcome::Whole) == Change::Wake {
            wakes.add_owner(record);
        }
    }

    /// The owner of the first unplaced write may go on if there is room for something worth it; what a withdrawn one
    /// left behind is laid down here (`true`); with none left, others may place again.
    fn go_on_placing(&self, head: u64, wakes: &mut Wakes<'a>) -> bool {
        let mut laid = false;
        for _ in 0..=RECORDS {
            let Some(index) = self.first_unplaced() else {
                self.header
                    .common
                    .0
                    .attention
                    .fetch_and(!UNPLACED, Ordering::SeqCst);
                return laid;
            };
            let record = self.record(index);
            if record.phase() == Phase::Abandoned {
                // One that was not reaped yet has bytes to take back first.
                if record.count.load(Ordering::Relaxed) != 0 {
                    return laid;
                }
                laid |= self.lay_empties(record, wakes);
                if record.empties.load(Ordering::Relaxed) != 0 {
                    return laid;
                }
                self.free_record(index, wakes);
                continue;
            }
            let used = self.back_snapshot().tail.wrapping_sub(head);
            let free = self.area().len().saturating_sub(used);
            let rest = u64::from(record.count.load(Ordering::Relaxed));
            if free >= (rest + 2 * HEADER).min(self.area().len() / 4) && record.kick() {
                wakes.add_owner(record);
            }
            return laid;
        }
        laid
    }

    /// A producer has given its role back: what a settler could not lay down meanwhile is laid down now.
    pub(crate) fn after_producer(&self, me: Owner, wakes: &mut Wakes<'a>) {
        // A role that was kept needs none: who found it held has asked for it.
        fence_after_rmw();
        let left_behind = |index: usize| self.record(index).phase() == Phase::Abandoned;
        if self.attention().has(UNPLACED) && self.first_unplaced().is_some_and(left_behind) {
            let _ = self.settle_or_leave(me, wakes);
        }
    }

    /// Lays down the empty messages of a record without an owner, as far as there is room; `true`: at least one. A
    /// producer that is at work settles when it is through.
    fn lay_empties(&self, record: &Record, wakes: &mut Wakes<'a>) -> bool {
        let Some(me) = self.consumer().holder() else {
            return false;
        };
        // Either the record is seen by a producer that has just given the role back, or the role is free here.
        fence(Ordering::SeqCst);
        if !matches!(self.take_producer(me), Taken::Clean | Taken::Dirty) {
            return false;
        }
        let mut left = record.empties.load(Ordering::Relaxed).min(MAX_EMPTIES);
        let mut laid = false;
        for _ in 0..left.min(MOST_LAID) {
            let Ok(Some(placed)) = self.place::<&[u8]>(&mut self.back(), &[], Flags::default())
            else {
                break;
            };
            left -= 1;
            record.empties.store(left, Ordering::Relaxed);
            self.commit(&self.back(), &placed, 1);
            laid = true;
        }
        self.release_producer(me, wakes);
        laid
    }

    // ---- what has ended ----------------------------------------------------------------------------------------

    /// Frees records whose owners are through with them, and takes back what cancelled writes left unread.
    fn reap(&self, attention: Attention, front: &mut Front, wakes: &mut Wakes<'a>) {
        for index in attention.each_record() {
            let record = self.record(index);
            match record.phase() {
                Phase::Abandoned if record.kind_of() == Kind::Write => {
                    if !attention.has(DISCONNECTED) {
                        self.take_back(record, front, wakes);
                    }
                    self.leave_empties(index, attention, wakes);
                }
                Phase::Copied if record.kind_of() == Kind::Write => {
                    self.leave_empties(index, attention, wakes);
                }
                // A bit without a life: a peer's scribble, or a death between the two.
                Phase::Abandoned | Phase::Copied | Phase::Free => self.free_record(index, wakes),
                _ => {}
            }
        }
    }

    /// A write is over. Empty messages behind it that are not laid down yet were written before (NP-WRITE-04) and have
    /// their place in line: the record stays for them, without an owner.
    fn leave_empties(&self, index: usize, attention: Attention, wakes: &mut Wakes<'a>) {
        let record = self.record(index);
        if record.empties.load(Ordering::Relaxed) == 0
            || attention.has(READER_CLOSED)
            || attention.has(DISCONNECTED)
        {
            self.free_record(index, wakes);
            return;
        }
        record.count.store(0, Ordering::Relaxed);
        record.pos.store(u64::MAX, Ordering::Relaxed);
        let _ = record.change(Phase::Copied, Phase::Abandoned, Outcome::Whole);
    }

    /// Removes what is still unread of a cancelled write (NP-CANCEL-03).
    fn take_back(&self, record: &Record, front: &mut Front, wakes: &mut Wakes<'a>) {
        let size = self.area().len();
        let begin = record.pos.load(Ordering::Relaxed);
        let end = record.next.load(Ordering::Relaxed);
        let not_placed = record.count.load(Ordering::Relaxed) != 0;
        record.count.store(0, Ordering::Relaxed);
        if begin == u64::MAX {
            return; // nothing of it was ever placed, or it is taken back
        }
        let before = |a: u64, b: u64| a.wrapping_sub(b).cast_signed() < 0;
        let mut removed = 0;
        let mut whole = true;
        let mut pos = begin;
        if !before(front.pos, end) {
            pos = end; // all of what was placed has been read
            whole = false;
        } else if before(begin, front.pos) {
            // Partly read: the rest of the frame around the front goes, then those behind it.
            whole = false;
            pos = front.pos;
            if front.left != 0 {
                removed += u64::from(front.left);
                pos = next_header(
                    front.pos.wrapping_add(u64::from(front.left)),
                    front.flags,
                    size,
                );
                front.left = 0;
                front.pos = pos;
            }
        }
        let mut first = None;
        let mut steps = self.most_frames();
        while before(pos, end) && steps != 0 && self.tag_is(pos) {
            steps -= 1;
            let Ok(header) = self.header_at(pos) else {
                break;
            };
            if header.flags.has(Flags::SKIP) {
                pos = crate::frame::on_header(pos.wrapping_add(u64::from(header.len)), size);
                continue;
            }
            first.get_or_insert(pos);
            if !header.flags.has(Flags::CANCELLED) {
                removed += u64::from(header.len);
                let header = Header {
                    flags: header.flags.with(Flags::CANCELLED),
                    ..header
                };
                self.area()
                    .word(pos.wrapping_add(8))
                    .store(header.encode(), Ordering::Relaxed);
            }
            pos = next_header(
                pos.wrapping_add(HEADER + u64::from(header.len)),
                header.flags,
                size,
            );
        }
        record.pos.store(u64::MAX, Ordering::Relaxed);
        let table = &self.header.table.0;
        let add = |word: &crate::sync::AtomicU64, n: u64| {
            word.store(
                word.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        };
        add(&table.cancelled, removed);
        if whole || removed != 0 || not_placed {
            let messages = &table.cancelled_messages;
            messages.store(
                messages.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
        self.prepare_front(front);
        self.turn_front();
        // What was written behind it moves up.
        let order = record.order.load(Ordering::Relaxed);
        self.move_later(order, &[Kind::Write, Kind::Flush], removed.wrapping_neg());
        if not_placed {
            self.cut_streaming_read(wakes);
        }
        if let Some(first) = first {
            self.free_the_end(first, end, wakes);
        }
    }

    /// What was cancelled at the very end of the queue, the frames from `from` to `end`, gives its room back; anywhere
    /// else, and with a producer at work, the reader passes it.
    fn free_the_end(&self, from: u64, end: u64, wakes: &mut Wakes<'a>) {
        let Some(me) = self.consumer().holder() else {
            return;
        };
        if !matches!(self.take_producer(me), Taken::Clean | Taken::Dirty) {
            return;
        }
        // A skip that leads beyond the end of the lap would say nothing about where in it the frames end: lap by lap.
        let lap = end.wrapping_sub(1) & !(self.area().len() - 1);
        if self.back().tail == end {
            if lap.wrapping_sub(from).cast_signed() <= 0 {
                self.move_tail_back(from, end);
            } else if self.move_tail_back(lap, end) {
                self.move_tail_back(from, lap);
            }
        }
        self.release_producer(me, wakes);
    }

    /// The tail goes back from `end` to `from`, under both roles; `true` if it did. Positions are used again then, so
    /// no tag may stay. In an order in which a death leaves the whole or nothing: one skip frame over all of it first,
    /// then the tags that it hides, then the tail; the tag of the skip frame itself is what `repair_back` looks at.
    fn move_tail_back(&self, from: u64, end: u64) -> bool {
        let size = self.area().len();
        let after = |pos: u64, header: Header| {
            let len = u64::from(header.len);
            if header.flags.has(Flags::SKIP) {
                crate::frame::on_header(pos.wrapping_add(len), size)
            } else {
                next_header(pos.wrapping_add(HEADER + len), header.flags, size)
            }
        };
        let Ok(first) = self.header_at(from) else {
            return false;
        };
        let Ok(distance) = u32::try_from(end.wrapping_sub(from)) else {
            return false;
        };
        if !self.tag_is(from) {
            return false;
        }
        let over_all = Header {
            len: distance,
            flags: Flags::SKIP,
            context: 0,
        };
        self.area()
            .word(from.wrapping_add(8))
            .store(over_all.encode(), Ordering::Relaxed);
        let mut pos = after(from, first);
        let mut steps = self.most_frames();
        while pos != end {
            steps -= 1;
            let header = self.header_at(pos);
            let (Ok(header), true, true) = (header, self.tag_is(pos), steps != 0) else {
                return false;
            };
            self.area().word(pos).store(0, Ordering::Release);
            pos = after(pos, header);
        }
        // A restart in there is none any more. Forgotten first: without the note there is less room, not more.
        let notes = &self.header.notes.0;
        let restart = &notes.restart;
        if restart
            .load(Ordering::Relaxed)
            .wrapping_sub(from)
            .cast_signed()
            >= 0
        {
            restart.store(u64::MAX, Ordering::Relaxed);
        }
        // How far one may go from there is to be found anew.
        for until in [&notes.straight, &notes.padded] {
            until.store(from, Ordering::Relaxed);
        }
        self.prepare_back(Back {
            tail: from,
            ..self.back()
        });
        self.turn_back();
        self.area().word(from).store(0, Ordering::Release);
        true
    }

    /// The message that a streaming read is in the middle of will not be finished.
    fn cut_streaming_read(&self, wakes: &mut Wakes<'a>) {
        for index in self.attention().each_record() {
            let record = self.record(index);
            if record.kind_of() == Kind::Read && record.phase() == Phase::Stream {
                let change = record.change(Phase::Stream, Phase::Stream, Outcome::Cut);
                if change == Change::Wake || record.kick() {
                    wakes.add_owner(record);
                }
            }
        }
    }

    /// A holder of the match lock died. Its last match may have been decided without the front having turned; its
    /// counters of cancelled bytes may be half done, so they are counted again from the frames.
    #[cold]
    pub(crate) fn repair_front(&self) {
        self.consumer().clear(DIRTY);
        let front = self.front();
        let prepared = self.prepared_front();
        let turn = prepared.pos != front.pos
            && self.records.iter().any(|record| {
                record.kind_of() == Kind::Read
                    && matches!(record.phase(), Phase::Done | Phase::Copied)
                    && record.end.load(Ordering::Relaxed) == front.pos
                    && record.next.load(Ordering::Relaxed) == prepared.pos
            });
        if turn {
            self.turn_front();
        }
        self.count_again();
        let front = self.front();
        let head = self.head(&front);
        self.publish(front.bytes, head);
        // The caller settles before it gives the lock back.
        let _ = self.consumer().leave(crate::role::SETTLE);
    }

    fn count_again(&self) {
        let back = self.back_snapshot();
        let mut walk = self.front();
        let mut unread = 0;
        let mut messages = 0_u32;
        let first_bytes = walk.bytes;
        let mut steps = self.most_frames();
        while let (Ok(Some(segment)), true) = (self.first(&mut walk), steps != 0) {
            if back.tail.wrapping_sub(walk.pos).cast_signed() <= 0 {
                break;
            }
            steps -= 1;
            let before = walk.messages;
            self.claim(&mut walk, segment, segment.len);
            unread += u64::from(segment.len);
            messages = messages.wrapping_add(walk.messages.wrapping_sub(before));
            for index in self.attention().each_record() {
                let record = self.record(index);
                if record.kind_of() == Kind::Write
                    && record.phase() != Phase::Free
                    && record.next.load(Ordering::Relaxed) == walk.pos
                {
                    record
                        .end
                        .store(first_bytes.wrapping_add(unread), Ordering::Relaxed);
                }
            }
        }
        if walk.flags.has(Flags::MORE) && unread != 0 {
            messages = messages.wrapping_add(1); // begun, not placed to its end
        }
        let table = &self.header.table.0;
        table.cancelled.store(
            back.bytes.wrapping_sub(first_bytes).wrapping_sub(unread),
            Ordering::Relaxed,
        );
        table.cancelled_messages.store(
            back.messages
                .wrapping_sub(self.front().messages)
                .wrapping_sub(messages),
            Ordering::Relaxed,
        );
    }

    /// Whether the reading end reads messages now, for a record's owner that has to know (NP-READ-19).
    pub(crate) fn reads_messages(&self) -> bool {
        self.read_mode() == ReadMode::Message
    }
}

/// Empty messages laid down in one go, under a lock that is meant to be short; the next one who settles goes on.
const MOST_LAID: u32 = 1024;

/// A write that still has something to lay down, or to be taken back: nobody may place behind it.
fn is_unplaced(record: &Record) -> bool {
    record.kind_of() == Kind::Write
        && matches!(record.phase(), Phase::Pending | Phase::Abandoned)
        && (record.count.load(Ordering::Relaxed) != 0
            || record.empties.load(Ordering::Relaxed) != 0)
}
