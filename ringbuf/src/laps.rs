//! Tests of a queue that goes round its area: stale headers, restarts, and bytes that nobody has copied yet. One
//! thread; what needs interleavings is in `models.rs`.
//!
//! Each names the mutation that was seen to break it.

use std::{cell::Cell, collections::VecDeque, ptr::NonNull};

use crate::{
    area::Memory,
    attention::Attention,
    consume::{ReadHow, ReadStop},
    fast::Fast,
    frame::next_lap,
    layout::{QueueHeader, RECORDS, Record},
    produce::{RESTART, WriteHow, WriteStop},
    queue::{MODE_MESSAGE, Queue, Side},
    record::{Phase, Wakes},
    role::{Owner, SETTLE},
    sync::{AtomicU32, Ordering},
    types::{PipeType, ProcessIndex, Read},
};

const SECRET: u64 = 0x5ec7_e75e_c7e7_5ec7;
const QUOTA: u32 = 64 * 1024;

/// A message queue on the heap.
struct Heap {
    header: QueueHeader,
    records: [Record; RECORDS],
    /// Owned, reached through raw pointers only; a cache line longer than the area, to align it.
    words: *mut [u64],
    modes: AtomicU32,
    side: Side,
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: from `Box::into_raw` in `new`, and no queue outlives `self`.
        drop(unsafe { Box::from_raw(self.words) });
    }
}

impl Heap {
    fn new(area: usize) -> Heap {
        Heap::with_quota(area, QUOTA)
    }

    fn with_quota(area: usize, quota: u32) -> Heap {
        let words = vec![0_u64; area / 8 + 8].into_boxed_slice();
        let words = Box::into_raw(words);
        let bytes = words.cast::<u8>();
        let base = NonNull::new(bytes.wrapping_add(bytes.align_offset(64))).expect("a box");
        let len = u32::try_from(area).expect("a small one");
        let heap = Heap {
            header: QueueHeader::default(),
            records: Default::default(),
            words,
            modes: AtomicU32::new(MODE_MESSAGE),
            side: Side {
                // SAFETY: the base is aligned to 64 by at most the 64 bytes that are allocated on top of `len`, which is
                // a power of two in every test; the box lives as long as this, and nobody has a reference into it.
                memory: unsafe { Memory::new(base, len, len) },
                calm: Attention::calm(0),
                secret: SECRET,
                quota,
                keep_after: crate::barrier::KEEP_NEVER,
                pipe_type: PipeType::Message,
                may_write: true,
            },
        };
        heap.header
            .notes
            .0
            .restart
            .store(u64::MAX, Ordering::Relaxed);
        heap
    }

    /// Of a process whose threads keep a role from the first turn on.
    fn keeping(mut self) -> Heap {
        self.side.keep_after = 0;
        self
    }

    fn queue(&self) -> Queue<'_> {
        Queue {
            header: &self.header,
            records: &self.records,
            modes: &self.modes,
            side: &self.side,
        }
    }

    fn write(&self, data: &[u8], aligned: bool) -> Result<usize, WriteStop> {
        self.queue()
            .write(me(1), data, WriteHow::Try, aligned, &mut Wakes::default())
    }

    fn read(&self) -> Option<Vec<u8>> {
        let mut buf = vec![0; 2 * self.side.quota as usize];
        match self
            .queue()
            .read(me(2), &mut buf, ReadHow::Try, &mut Wakes::default())
        {
            Ok(Read::Whole(count)) => Some(buf[..count].to_vec()),
            Err(ReadStop::WouldPend) => None,
            other => panic!("{other:?}"),
        }
    }

    fn pend(&self, thread: u32, len: usize) -> usize {
        let mut buf = vec![0; len];
        match self
            .queue()
            .read(me(thread), &mut buf, ReadHow::Pend, &mut Wakes::default())
        {
            Err(ReadStop::Pended(index, _)) => index,
            other => panic!("{other:?}"),
        }
    }

    /// Writes and reads one frame, behind which the next header stands at this offset (a multiple of 8). One: on a
    /// way of several an empty queue would restart.
    fn advance_to(&self, offset: u64) {
        let data = vec![0xaa; usize::try_from(offset - 16).expect("small")];
        assert_eq!(self.write(&data, false), Ok(data.len()));
        assert!(self.read() == Some(data));
        assert_eq!(self.tail(), offset);
    }

    fn tail(&self) -> u64 {
        self.queue().back().tail
    }
}

fn me(thread: u32) -> Owner {
    Owner::new(ProcessIndex::new(0).expect("small"), thread)
}

/// Payload that looks like headers, whatever a writer without the secret can know, and headers that earlier laps left
/// behind: neither is a frame. Seen to fail when a tag is the position without the secret, and when it is the offset
/// with the secret.
#[test]
#[cfg_attr(
    miri,
    ignore = "minutes of copying; the shorter tests run the same code"
)]
fn neither_payload_nor_an_earlier_lap_passes_for_a_frame() {
    let heap = Heap::new(64 * 1024);
    let size = heap.queue().area().len();
    // Header word of a plausible frame of 8 bytes.
    let plausible = 8_u64;
    for round in 0..4000_u64 {
        let tail = heap.tail();
        // Every length: later frames begin everywhere in what earlier ones have left.
        let words = 1 + (round * 7 % 61);
        let mut data = Vec::new();
        for word in 0..words {
            // Where this word comes to stand, this lap and the next ones.
            let pos = tail + 16 + 8 * word;
            let tag = match (round / 3 + word / 2) % 4 {
                0 => pos,
                1 => pos + size,
                2 => pos % size,
                _ => pos + 2 * size,
            };
            let word = if word % 2 == 0 { tag } else { plausible };
            data.extend(word.to_le_bytes());
        }
        assert_eq!(heap.write(&data, round % 5 == 0), Ok(data.len()));
        assert_eq!(heap.read().as_deref(), Some(&data[..]), "round {round}");
        assert_eq!(
            heap.read(),
            None,
            "a frame that nobody wrote, round {round}"
        );
    }
    assert!(heap.tail() > 10 * size, "laps");
}

/// Frames of every size and alignment come out as they went in, lap after lap, with restarts on the way.
/// Seen to fail when nothing is laid round the rock.
#[test]
#[cfg_attr(
    miri,
    ignore = "minutes of copying; the shorter tests run the same code"
)]
fn frames_come_out_as_they_went_in() {
    let heap = Heap::new(2 * 1024 * 1024);
    let mut queued = VecDeque::new();
    let mut used = 0;
    let (mut restarts, mut last) = (0, u64::MAX);
    // A fixed linear congruential sequence: every run is the same.
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..6_000_u64 {
        if random(5) < 3 {
            let most =
                [64, 1024, 8192, u64::from(QUOTA)][usize::try_from(random(4)).expect("small")];
            let len = usize::try_from(1 + random(most)).expect("small");
            let mark = step.to_le_bytes();
            let data: Vec<u8> = (0..len).map(|i| mark[i % 8] ^ i.to_le_bytes()[0]).collect();
            match heap.write(&data, random(2) == 0) {
                Ok(count) => {
                    assert_eq!(count, len);
                    used += len;
                    queued.push_back(data);
                }
                Err(WriteStop::WouldPend) => assert!(used + len > QUOTA as usize, "room ran out"),
                Err(other) => panic!("{other:?}"),
            }
        } else {
            let got = heap.read();
            let wanted = queued.pop_front();
            used -= wanted.as_ref().map_or(0, Vec::len);
            assert!(
                got == wanted,
                "step {step}: {:?} of {:?}",
                got.map(|data| data.len()),
                wanted.map(|data| data.len())
            );
        }
        let restart = heap.header.notes.0.restart.load(Ordering::Relaxed);
        if restart != last {
            last = restart;
            restarts += 1;
        }
        // Now and then empty, so that restarts come due.
        if step % 50 == 0 {
            while let Some(wanted) = queued.pop_front() {
                assert!(heap.read() == Some(wanted), "step {step}");
            }
            used = 0;
        }
    }
    assert!(restarts > 50, "{restarts} restarts");
}

/// The frame that a restart is made for may end right in front of the rock: the next header keeps off it, however
/// that frame was padded. Seen to fail when only a header's room is left in front of the rock.
#[test]
fn a_padded_frame_after_a_restart_keeps_off_the_rock() {
    // The rock on a cache line, and at every other place that a header may have in one.
    for shift in 0..8 {
        let rock = 20_032 + 8 * shift;
        for len in (rock - 120..rock).step_by(8) {
            let heap = Heap::new(2 * 1024 * 1024);
            heap.advance_to(rock);
            let data = vec![0x11; usize::try_from(len).expect("small")];
            assert_eq!(heap.write(&data, true), Ok(data.len()));
            assert_eq!(heap.write(&[0x22; 8], false), Ok(8));
            assert!(
                heap.read() == Some(data),
                "rock {rock}, len {len}: the first is lost"
            );
            assert_eq!(heap.read(), Some(vec![0x22; 8]), "rock {rock}, len {len}");
            assert_eq!(heap.read(), None);
        }
    }
}

/// The same where the reader has not caught up: what is unread before the restart stands in the way down to its first
/// byte, which a partial read may leave anywhere. Seen to fail when only a header's room is left in front of the rock.
#[test]
#[cfg_attr(
    miri,
    ignore = "minutes of copying; the shorter tests run the same code"
)]
fn frames_keep_off_what_is_unread_before_a_restart() {
    for taken in 1..17_usize {
        for gap in (8..160).step_by(8) {
            for aligned in [false, true] {
                let size = 4 * 1024 * 1024;
                let heap = Heap::with_quota(size, 2 * QUOTA);
                let case = format!("taken {taken}, gap {gap}, aligned {aligned}");
                // One message is always half read, until the write behind it restarts.
                let mut rest = Vec::new();
                for round in 0.. {
                    assert!(round < 180, "no restart");
                    let old = vec![0x40 + round; 1016];
                    assert_eq!(heap.write(&old, false), Ok(old.len()));
                    if heap.tail() >= size as u64 {
                        break;
                    }
                    if !rest.is_empty() {
                        assert_eq!(heap.read(), Some(rest));
                    }
                    let mut part = vec![0; taken];
                    let read =
                        heap.queue()
                            .read(me(2), &mut part, ReadHow::Try, &mut Wakes::default());
                    assert_eq!(read, Ok(Read::Part(taken)));
                    rest = old[taken..].to_vec();
                }
                let first = heap.tail() - size as u64;
                // From here to just before the first unread byte.
                let head = heap.header.taken.0.head.load(Ordering::Relaxed);
                let to = head - first;
                let len = usize::try_from(to).expect("small") - 16 - gap;
                let data = vec![0x11; len];
                // As requests of transact, since it is more than the quota.
                let write = |data: &[u8], aligned| {
                    let mut wakes = Wakes::default();
                    heap.queue()
                        .write(me(1), data, WriteHow::NoQuota, aligned, &mut wakes)
                };
                assert_eq!(write(&data, aligned), Ok(len), "{case}");
                assert_eq!(write(&[0x22; 8], false), Ok(8), "{case}");
                assert!(heap.read() == Some(rest), "{case}: overwritten");
                assert_eq!(heap.read().map(|data| data.len()), Some(1016), "{case}");
                assert!(heap.read() == Some(data), "{case}");
                assert_eq!(heap.read(), Some(vec![0x22; 8]), "{case}");
            }
        }
    }
}

/// Bytes that were given to a read and not copied yet are in use: nothing is laid over them, restart or not.
/// Seen to fail when `head` does not look at the records.
#[test]
fn a_restart_spares_what_is_not_copied() {
    let heap = Heap::new(128 * 1024);
    heap.advance_to(RESTART + 2048);
    let reader = heap.pend(3, 8);
    assert_eq!(heap.write(&[7; 8], false), Ok(8));
    assert_eq!(heap.records[reader].phase(), Phase::Done);
    // Twice round the area, read at once: only what is not copied holds it back.
    let mut written = 0;
    while written < 2 * 128 * 1024 {
        match heap.write(&[9; 4000], false) {
            Ok(_) => assert_eq!(heap.read(), Some(vec![9; 4000])),
            Err(WriteStop::WouldPend) => break,
            Err(other) => panic!("{other:?}"),
        }
        written += 4000;
    }
    let mut buf = [0; 8];
    let answer = heap
        .queue()
        .poll_read(me(3), reader, &mut buf[..], &mut 0, &mut Wakes::default());
    assert_eq!(answer, Some(Ok(Read::Whole(8))));
    assert_eq!(buf, [7; 8], "overwritten");
    assert!(written < 2 * 128 * 1024, "the whole area was used again");
}

/// A restart whose frame never came (the write was refused after all) leaves a skip frame and nothing behind it.
/// Reads that pend, settle and give up in that state lose neither the place nor the room.
/// Seen to fail when `settle` publishes a head that the front does not say.
#[test]
fn a_restart_without_a_frame_is_not_written_over() {
    let heap = Heap::new(2 * 1024 * 1024);
    heap.advance_to(RESTART + 2048);
    let restart = heap.tail();
    let first = heap.pend(3, 8);
    // Quota and reads together do not take all of it: placed, and forgotten.
    let refused = vec![1; QUOTA as usize + 100];
    assert_eq!(heap.write(&refused, false), Err(WriteStop::WouldPend));
    assert!(heap.tail() > restart, "no restart");
    let second = heap.pend(4, 8);
    assert_eq!(heap.write(&refused, false), Err(WriteStop::WouldPend));
    for (thread, index) in [(3, first), (4, second)] {
        assert!(
            heap.queue()
                .withdraw_own(me(thread), index, &mut Wakes::default())
        );
    }
    let data = vec![2; QUOTA as usize];
    assert_eq!(heap.write(&data, false), Ok(data.len()));
    assert!(
        heap.read() == Some(data),
        "lost behind a skip frame that is no more"
    );
}

/// A reader that waits goes on waiting when it sees a skip frame alone, or is left work of no use: it takes no record for that.
/// Seen to fail when a skip frame alone counts as come, and when work that was left ends the wait.
#[test]
fn a_reader_that_waits_takes_a_record_for_nothing_less_than_the_end_of_its_patience() {
    let heap = Heap::new(2 * 1024 * 1024);
    heap.advance_to(RESTART + 2048);
    let queue = heap.queue();
    let turn = Cell::new(0);
    // What happens while it looks, turn by turn; the last one is the message.
    let spin = |ready: &dyn Fn() -> bool| {
        while !ready() {
            turn.set(turn.get() + 1);
            match turn.get() {
                1 => {
                    let mut back = queue.back();
                    let tail = back.tail;
                    queue.skip(&mut back, tail, next_lap(tail, queue.area().len()));
                }
                2 => assert!(!ready(), "a skip frame is not a message"),
                3 => assert!(queue.consumer().leave(SETTLE), "somebody holds the lock"),
                4 => assert_eq!(queue.consumer().holder(), Some(me(2)), "and still does"),
                _ => assert_eq!(heap.write(&[5; 100], false), Ok(100)),
            }
        }
        true
    };
    let (mut buf, mut spun, mut wakes) = ([0; 128], false, Wakes::default());
    let read = queue.read_spinning(me(2), &mut buf, spin, &mut spun, &mut wakes);
    assert_eq!(read, Ok(Read::Whole(100)));
    assert_eq!((turn.get(), spun, buf[99]), (5, false, 5));
    assert_eq!(queue.header.front.0.role.load(Ordering::Relaxed), 0);
}

/// A write that is cancelled takes the restart in the middle of it along: what comes next finds all the room that there
/// is, and is not laid out as if the skip frame were still there.
/// Seen to fail when `move_tail_back` leaves the note of the restart.
#[test]
fn a_cancelled_write_takes_its_restart_along() {
    const SIZE: usize = 128 * 1024;
    // More than the area, so that only room ends the filling below.
    let heap = Heap::with_quota(SIZE, 192 * 1024);
    let gone = vec![1; 40_000];
    assert_eq!(heap.write(&gone, false), Ok(gone.len()));
    assert_eq!(heap.write(&[2; 8], false), Ok(8));
    assert!(heap.read() == Some(gone));
    // The second piece of a stream goes back to the beginning: half of the lap is free again.
    let stream = vec![3; 2 * SIZE];
    let begin = heap.tail();
    let (queue, mut wakes) = (heap.queue(), Wakes::default());
    let pended = queue.write(me(1), &stream[..], WriteHow::Pend, false, &mut wakes);
    let Err(WriteStop::Pended(index, _)) = pended else {
        panic!("{pended:?}");
    };
    assert_eq!(
        queue.place_more(me(1), index, &stream[..], &mut wakes),
        Ok(true)
    );
    assert!(heap.tail() > SIZE as u64, "no restart");
    assert!(queue.withdraw_own(me(1), index, &mut wakes));
    assert_eq!(heap.tail(), begin);
    // All that there is room for, past the place of the restart and round the area.
    let mut more = 0_usize;
    while heap
        .write(&vec![more.to_le_bytes()[0]; 1000], false)
        .is_ok()
    {
        more += 1;
    }
    assert!(more > 100, "{more} messages in {SIZE} bytes");
    assert_eq!(heap.read(), Some(vec![2; 8]));
    for at in 0..more {
        assert!(
            heap.read() == Some(vec![at.to_le_bytes()[0]; 1000]),
            "message {at}"
        );
    }
    assert_eq!(heap.read(), None);
}

/// A peek looks past a restart's skip frame and moves nothing: what is behind it is still read, once.
/// Seen to fail when `peek_locked` puts its walk in force.
#[test]
fn a_peek_past_a_restart_moves_nothing() {
    let heap = Heap::new(2 * 1024 * 1024);
    heap.advance_to(RESTART + 2048);
    let before = heap.tail();
    assert_eq!(heap.write(&[5; 16], false), Ok(16));
    assert!(heap.tail() >= 2 * 1024 * 1024, "no restart from {before}");
    let mut buf = [0; 16];
    let peeked = heap
        .queue()
        .peek(me(2), &mut buf, &mut Wakes::default())
        .expect("nobody holds the lock");
    assert!(peeked.any && peeked.copied == 16 && buf == [5; 16]);
    // All that the quota admits, round the skip frame that the reader has not passed.
    let mut more = 0;
    while heap.write(&[6; 1000], false).is_ok() {
        more += 1;
    }
    assert!(more * 1000 > RESTART + 2048, "the rock was not reached");
    assert_eq!(heap.read(), Some(vec![5; 16]));
    for _ in 0..more {
        assert_eq!(heap.read(), Some(vec![6; 1000]));
    }
    assert_eq!(heap.read(), None);
}

/// A writer that is stopped between the tag and its own books is not in the count; nor does the count go below zero.
/// Seen to fail when `counts` does not notice a front that is ahead of the back.
#[test]
fn a_front_ahead_of_the_back_counts_nothing() {
    let heap = Heap::new(64 * 1024);
    assert_eq!(heap.write(&[1; 8], false), Ok(8));
    // The books as they were just before `turn_back`.
    let sel = &heap.header.back.0.sel;
    sel.store(sel.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    heap.header
        .back
        .0
        .role
        .store(me(1).raw(), Ordering::Relaxed);
    assert_eq!(heap.read(), Some(vec![1; 8]));
    let counts = heap.queue().counts();
    assert_eq!((counts.unread, counts.messages), (0, 0));
}

/// Pseudo-random numbers below a bound.
fn random(state: &mut u64, below: usize) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).expect("31 bits") % below
}

impl Heap {
    /// A write by the shortcut, and how many of those there were; else in the general way.
    fn write_somehow(
        &self,
        data: &[u8],
        aligned: bool,
        shortcuts: &mut usize,
    ) -> Result<usize, WriteStop> {
        let (queue, me, mut wakes) = (self.queue(), me(1), Wakes::default());
        let fast = queue.write_kept(me.kept(), data, aligned);
        if let Fast::DoneInside(_) | Fast::Inside = fast {
            let written = matches!(fast, Fast::DoneInside(_));
            queue.leave_producer(me, written, &mut wakes)?;
        }
        if let Fast::Done(count) | Fast::DoneInside(count) = fast {
            *shortcuts += 1;
            return Ok(count);
        }
        queue.write(me, data, WriteHow::Try, aligned, &mut wakes)
    }

    /// A read, likewise.
    fn read_somehow(&self, buf: &mut [u8], shortcuts: &mut usize) -> Result<Read, ReadStop> {
        let (queue, me, mut wakes) = (self.queue(), me(2), Wakes::default());
        let fast = queue.read_kept(me.kept(), buf);
        if let Fast::DoneInside(_) | Fast::Inside = fast {
            queue.unlock(me, &mut wakes);
        }
        if let Fast::Done(read) | Fast::DoneInside(read) = fast {
            *shortcuts += 1;
            return Ok(read);
        }
        queue.read(me, buf, ReadHow::Try, &mut wakes)
    }
}

/// Shortcuts and general calls mixed, padded or not, among writes that pend and are withdrawn: nothing is lost, and nothing is
/// laid over what is unread.
/// Seen to fail when what was noted of the room outlives a tail that goes back.
#[test]
fn shortcuts_and_general_calls_are_one_queue() {
    let mut state = 7;
    let (mut writes, mut reads, mut withdrawn) = (0, 0, 0);
    for (size, quota) in [(2 << 20, QUOTA), (64 << 10, 2048), (128 << 10, QUOTA)] {
        let heap = Heap::with_quota(size, quota).keeping();
        let mut queued = VecDeque::new();
        for step in 0..if cfg!(miri) { 100_u64 } else { 30_000 } {
            if random(&mut state, 9) < 5 {
                let most = [64, 64, 1024, 8192][random(&mut state, 4)];
                let len = 1 + random(&mut state, usize::min(most, quota as usize));
                let mark = step.to_le_bytes();
                let data: Vec<u8> = (0..len).map(|i| mark[i % 8] ^ i.to_le_bytes()[0]).collect();
                let aligned = random(&mut state, 2) == 0;
                match heap.write_somehow(&data, aligned, &mut writes) {
                    Ok(count) => assert_eq!(count, data.len()),
                    Err(WriteStop::WouldPend) if random(&mut state, 3) == 0 => {
                        let (queue, mut wakes) = (heap.queue(), Wakes::default());
                        match queue.write(me(1), &data[..], WriteHow::Pend, false, &mut wakes) {
                            Err(WriteStop::Pended(index, _)) => {
                                assert!(queue.withdraw_own(me(1), index, &mut wakes));
                                withdrawn += 1;
                                continue;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    Err(WriteStop::WouldPend) => continue,
                    other => panic!("{other:?}"),
                }
                queued.push_back(data);
            } else {
                let mut buf = vec![0; 2 * quota as usize];
                match heap.read_somehow(&mut buf, &mut reads) {
                    Ok(read) => assert!(
                        queued.pop_front().as_deref() == Some(&buf[..read.count()]),
                        "step {step}"
                    ),
                    Err(ReadStop::WouldPend) => assert_eq!(queued.len(), 0, "step {step}"),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(
        cfg!(miri) || writes > 1000 && reads > 1000 && withdrawn > 100,
        "{writes} {reads} {withdrawn}"
    );
}

/// What the shortcut answers is what the general path does: byte and message mode by turns, empty messages, buffers too small.
#[test]
fn a_shortcut_answers_as_the_general_path_does() {
    let mut state = 11;
    let (short, long) = (Heap::new(256 << 10).keeping(), Heap::new(256 << 10));
    let mut shortcuts = 0;
    for step in 0..if cfg!(miri) { 250_u64 } else { 60_000 } {
        let mode = if step / 500 % 2 == 0 { 0 } else { MODE_MESSAGE };
        for heap in [&short, &long] {
            heap.modes.store(mode, Ordering::Relaxed);
        }
        if random(&mut state, 2) == 0 {
            let data = vec![step.to_le_bytes()[0]; random(&mut state, 6)];
            let aligned = random(&mut state, 2) == 0;
            let written = short.write_somehow(&data, aligned, &mut 0);
            assert_eq!(written, long.write(&data, aligned), "step {step}");
        } else {
            let mut bufs = [(); 2].map(|()| vec![0; random(&mut state, 9)]);
            let room = bufs[0].len();
            bufs[1].resize(room, 0);
            let read = short.read_somehow(&mut bufs[0], &mut shortcuts);
            let wanted =
                long.queue()
                    .read(me(2), &mut bufs[1], ReadHow::Try, &mut Wakes::default());
            assert_eq!(read, wanted, "step {step}, room for {room}");
            assert_eq!(bufs[0], bufs[1]);
            assert_eq!(short.queue().counts(), long.queue().counts());
        }
    }
    assert!(cfg!(miri) || shortcuts > 1000, "{shortcuts}");
}

/// Whatever a peer makes of the notes, a write ends without a panic.
/// Seen to fail when `note_room` believes how far the head is behind.
#[test]
fn scribbled_notes_are_no_panic() {
    const SIZE: u64 = 2 << 20;
    for ahead in [SIZE + 8, SIZE + 64, SIZE + 4096, 2 * SIZE - 4096] {
        let heap = Heap::new(2 << 20);
        let (restart, head) = (
            16 * SIZE,
            (16 * SIZE).wrapping_sub(i64::MAX.cast_unsigned()),
        );
        let (notes, taken) = (&heap.header.notes.0, &heap.header.taken.0);
        notes.restart.store(restart, Ordering::Relaxed);
        notes.checked.store(restart + ahead, Ordering::Relaxed);
        taken.head.store(head, Ordering::Relaxed);
        for tail in &heap.header.back.0.tail {
            tail.store(restart + ahead, Ordering::Relaxed);
        }
        let _ = heap.write(&[1; 8], true);
    }
}

/// A producer dies in the middle of a restart, the skip frame committed and its note not stored: what comes next is laid over
/// nothing, in less room until the reader has passed the skip frame, and in all of it from then on.
/// Seen to fail with the note first and the death before the skip frame.
#[test]
fn a_death_in_the_middle_of_a_restart_costs_no_message() {
    const ALL: usize = if cfg!(miri) { 500 } else { QUOTA as usize };
    let heap = Heap::new(2 << 20);
    heap.advance_to(RESTART + 2048);
    let before = heap.header.notes.0.restart.load(Ordering::Relaxed);
    assert_eq!(heap.write(&[255], true), Ok(1));
    assert!(heap.tail() >= 2 << 20, "no restart");
    heap.header.notes.0.restart.store(before, Ordering::Relaxed);
    heap.header
        .back
        .0
        .role
        .store(crate::role::DIRTY, Ordering::Relaxed);
    let fill = || {
        let mut count = 0_usize;
        while count != ALL && heap.write(&[count.to_le_bytes()[0]], true).is_ok() {
            count += 1;
        }
        count
    };
    let drain = |count: usize| {
        for at in 0..count {
            assert_eq!(heap.read(), Some(vec![at.to_le_bytes()[0]]), "message {at}");
        }
        assert_eq!(heap.read(), None);
    };
    let count = fill();
    assert!(count > 200, "{count}");
    assert_eq!(heap.read(), Some(vec![255]));
    drain(count);
    assert_eq!(fill(), ALL);
    drain(ALL);
}
