//! Exhaustive models of the queue's protocol (loom): the shipped code over words on the heap.
//!
//! Each names the mutation that was seen to break it. A lost wake-up shows as a record that is still pending although
//! what it waits for is there: its owner would sleep on that very word.

use loom::{
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    area::Memory,
    attention::{Attention, DISCONNECTED, READER_CLOSED, WRITER_CLOSED},
    barrier::KEEP_NEVER,
    consume::{ReadHow, ReadStop},
    doorbell::Bell,
    error::Error,
    fast::Fast,
    layout::{BellPage, QueueHeader, RECORDS, Record},
    produce::{WriteHow, WriteStop},
    queue::{Back, Queue, Side},
    record::{Phase, Wakes},
    role::{Owner, RoleProbe, SETTLE, Taken},
    sync::{AtomicU32, AtomicU64, Ordering},
    types::{PipeType, ProcessIndex, Read},
};

/// A message queue of 256 bytes.
struct Fixture {
    header: QueueHeader,
    records: [Record; RECORDS],
    modes: AtomicU32,
    side: Side,
}

impl Fixture {
    fn new(quota: u32) -> Arc<Fixture> {
        Fixture::keeping(quota, KEEP_NEVER)
    }

    /// Roles are kept after so many turns.
    fn keeping(quota: u32, keep_after: u8) -> Arc<Fixture> {
        let fixture = Fixture {
            header: QueueHeader::default(),
            records: Default::default(),
            modes: AtomicU32::new(1),
            side: Side {
                memory: Memory::of_words((0..32).map(|_| AtomicU64::new(0)).collect()),
                calm: Attention::calm(0),
                secret: 0x5ec7_e75e_c7e7_5ec7,
                quota,
                keep_after,
                pipe_type: PipeType::Message,
                may_write: true,
            },
        };
        fixture
            .header
            .notes
            .0
            .restart
            .store(u64::MAX, Ordering::Relaxed);
        Arc::new(fixture)
    }

    fn queue(&self) -> Queue<'_> {
        Queue {
            header: &self.header,
            records: &self.records,
            modes: &self.modes,
            side: &self.side,
        }
    }

    /// By the shortcut if the role is kept, as `Conn::write`.
    fn write(&self, thread: u32, byte: u8) -> Result<usize, WriteStop> {
        let mut wakes = Wakes::default();
        let (queue, me, data) = (self.queue(), me(thread), &[byte; 8][..]);
        match queue.write_kept(me.kept(), data, false) {
            Fast::Done(count) => return Ok(count),
            Fast::DoneInside(count) => {
                queue.leave_producer(me, true, &mut wakes)?;
                return Ok(count);
            }
            Fast::Inside => queue.leave_producer(me, false, &mut wakes)?,
            Fast::No | Fast::Nothing => {}
        }
        queue.write(me, data, WriteHow::Pend, false, &mut wakes)
    }

    /// The same, as `Conn::read`.
    fn read(&self, thread: u32, how: ReadHow) -> Result<u8, ReadStop> {
        let mut buf = [0; 8];
        let mut wakes = Wakes::default();
        let (queue, me) = (self.queue(), me(thread));
        let fast = queue.read_kept(me.kept(), &mut buf);
        if let Fast::DoneInside(_) | Fast::Inside = fast {
            queue.unlock(me, &mut wakes);
        }
        if let Fast::Done(_) | Fast::DoneInside(_) = fast {
            return Ok(buf[0]);
        }
        queue.read(me, &mut buf, how, &mut wakes).map(|_| buf[0])
    }

    /// What the owner of a pended read finds when it looks.
    fn poll(&self, thread: u32, index: usize) -> Option<Result<u8, Error>> {
        let mut buf = [0; 8];
        let mut copied = 0;
        let mut wakes = Wakes::default();
        self.queue()
            .poll_read(me(thread), index, &mut buf[..], &mut copied, &mut wakes)
            .map(|answer| answer.map(|_: Read| buf[0]))
    }

    fn close(&self, bit: u64, thread: u32) {
        let mut wakes = Wakes::default();
        self.queue().close(bit, &mut wakes);
        let _ = self.queue().settle_or_leave(me(thread), &mut wakes);
    }
}

fn me(thread: u32) -> Owner {
    Owner::new(ProcessIndex::new(0).expect("small"), thread)
}

fn index_of(stop: ReadStop) -> usize {
    match stop {
        ReadStop::Pended(index, _) => index,
        other => panic!("{other:?}"),
    }
}

/// A write in one thread meets a read in another, which pends unless it finds the frame.
fn write_meets_read(fixture: &Arc<Fixture>) {
    let writer = thread::spawn({
        let fixture = fixture.clone();
        move || fixture.write(1, 7)
    });
    let read = fixture.read(2, ReadHow::Pend);
    assert_eq!(writer.join().unwrap(), Ok(8));
    match read {
        Ok(byte) => assert_eq!(byte, 7),
        Err(ReadStop::Held) => panic!("nobody settles before the read has pended"),
        Err(stop) => {
            let answer = fixture.poll(2, index_of(stop));
            assert_eq!(answer, Some(Ok(7)), "asleep on a committed frame");
        }
    }
}

/// A reader that pends and a writer on its fast path do not miss each other.
/// Seen to fail without fence 2 (`publish_record`), and without the fence after the role's exchange (`write`).
///
/// This is the first frame ever, of which the reader hears by the tail; the next model is for all others.
#[test]
fn no_read_sleeps_on_a_committed_frame() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        write_meets_read(&fixture);
    });
}

/// The same once the area has been written to: now the tag alone tells.
/// Seen to fail without either fence.
#[test]
fn no_read_sleeps_on_a_later_frame() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        assert_eq!(fixture.write(1, 6), Ok(8));
        assert_eq!(fixture.read(2, ReadHow::Try), Ok(6));
        write_meets_read(&fixture);
    });
}

/// One frame goes to one of two pended reads, although the writer settles for it and so does somebody who looks.
/// Seen to fail when a settler does not wait for the lock (`settle_or_leave` settling on `Taken::Held`).
#[test]
fn one_frame_goes_to_one_pended_read() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let first = index_of(fixture.read(2, ReadHow::Pend).unwrap_err());
        let second = index_of(fixture.read(3, ReadHow::Pend).unwrap_err());
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.write(1, 7)
        });
        let mut wakes = Wakes::default();
        let _ = fixture.queue().peek(me(4), &mut [0; 8], &mut wakes);
        assert_eq!(writer.join().unwrap(), Ok(8));
        let answers = [fixture.poll(2, first), fixture.poll(3, second)];
        assert_eq!(answers, [Some(Ok(7)), None], "not once, or not in order");
    });
}

/// One frame goes to one reader: an immediate read against one that may pend, with the frame committed before.
/// Seen to fail when `try_take` looks and stores instead of exchanging.
#[test]
fn one_frame_goes_to_one_reader() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        assert_eq!(fixture.write(1, 7), Ok(8));
        let immediate = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.read(2, ReadHow::Try)
        });
        let pended = fixture.read(3, ReadHow::Pend);
        let immediate = immediate.join().unwrap();
        let pended = match pended {
            Ok(byte) => Some(byte),
            Err(ReadStop::Held) => None,
            Err(stop) => fixture
                .poll(3, index_of(stop))
                .map(|answer| answer.unwrap()),
        };
        let immediate = match immediate {
            Ok(byte) => Some(byte),
            Err(ReadStop::WouldPend | ReadStop::Held) => None,
            Err(stop) => panic!("{stop:?}"),
        };
        assert_eq!(
            [immediate, pended].iter().flatten().count(),
            1,
            "{immediate:?} {pended:?}"
        );
    });
}

/// What was matched stays in the area until its reader has copied it, whoever else reads meanwhile.
/// Seen to fail when `read` loads the attention word before it has the lock (it then publishes a head that no record
/// holds back).
#[test]
fn what_is_matched_stays_until_it_is_copied() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let immediate = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.read(3, ReadHow::Try)
        });
        let read = fixture.read(2, ReadHow::Pend);
        let written = [fixture.write(1, 6), fixture.write(1, 7)];
        let immediate = immediate.join().unwrap();
        assert_eq!(written, [Ok(8), Ok(8)]);
        let Err(ReadStop::Pended(index, _)) = read else {
            return; // met the other reader
        };
        let record = &fixture.records[index];
        assert_eq!(record.phase(), Phase::Done);
        let pos = record.pos.load(Ordering::Relaxed);
        let head = fixture.header.taken.0.head.load(Ordering::Relaxed);
        assert!(
            head <= pos,
            "free room over bytes that nobody has copied: {immediate:?}"
        );
        assert_eq!(fixture.poll(2, index), Some(Ok(6)));
    });
}

/// What a settler leaves to the holder of the lock is done before the lock is free.
/// Seen to fail when `give_back_settled` ignores SETTLE, and when `leave` leaves it to a lock that nobody holds.
#[test]
fn what_is_left_to_the_holder_is_done() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Pend).unwrap_err());
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.write(1, 7)
        });
        // Somebody else holds the lock for a moment: a peek.
        let mut wakes = Wakes::default();
        let _ = fixture.queue().peek(me(3), &mut [0; 8], &mut wakes);
        assert_eq!(writer.join().unwrap(), Ok(8));
        assert_eq!(fixture.poll(2, index), Some(Ok(7)), "the errand was lost");
    });
}

/// A stalled write completes once a reader has made room, whichever comes first.
/// Seen to fail when `write_locked` does not settle after it has published its record, and when `read_slow` does not
/// settle after its take.
#[test]
fn freed_quota_reaches_a_stalled_write() {
    loom::model(|| {
        let fixture = Fixture::new(8);
        assert_eq!(fixture.write(1, 1), Ok(8));
        let reader = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.read(2, ReadHow::Try)
        });
        let write = fixture.write(1, 2);
        let read = reader.join().unwrap();
        match (read, write) {
            (Ok(1), Ok(8)) => {}
            (Ok(1), Err(WriteStop::Pended(index, _))) => {
                assert_eq!(
                    fixture.records[index].phase(),
                    Phase::Done,
                    "stalled on free quota"
                );
            }
            // One of them met the other in the middle: it would wait for the role and try again.
            (Err(ReadStop::Held), Err(WriteStop::Pended(index, _))) => {
                assert_eq!(fixture.records[index].phase(), Phase::Pending);
            }
            (_, Err(WriteStop::LockHeld)) => {}
            other => panic!("{other:?}"),
        }
    });
}

/// The quota of a cancelled write goes to the one behind it, although a reader is at work when it is cancelled.
/// Seen to fail when `read` unlocks with a plain store, losing SETTLE.
#[test]
fn a_cancelled_write_makes_room_for_the_next() {
    let mut model = loom::model::Builder::new();
    // Three lives of records walk over more words than the default allows.
    model.max_branches = 4000;
    model.check(|| {
        let fixture = Fixture::new(8);
        assert_eq!(fixture.write(1, 1), Ok(8));
        let stalled = |byte| match fixture.write(1, byte) {
            Err(WriteStop::Pended(index, _)) => index,
            other => panic!("{other:?}"),
        };
        let (second, third) = (stalled(2), stalled(3));
        let canceller = thread::spawn({
            let fixture = fixture.clone();
            move || {
                let mut wakes = Wakes::default();
                fixture.queue().withdraw_own(me(1), second, &mut wakes)
            }
        });
        let read = fixture.read(2, ReadHow::Try);
        let withdrawn = canceller.join().unwrap();
        match read {
            Ok(byte) => assert_eq!(byte, 1),
            // The canceller was settling.
            Err(stop) => {
                assert_eq!(stop, ReadStop::Held);
                assert!(withdrawn);
                return;
            }
        }
        if withdrawn {
            assert_eq!(fixture.records[second].phase(), Phase::Free, "leaked");
            assert_eq!(
                fixture.records[third].phase(),
                Phase::Done,
                "stalled on free quota"
            );
            assert_eq!(fixture.read(2, ReadHow::Try), Ok(3));
        } else {
            assert_eq!(fixture.records[second].phase(), Phase::Done);
            assert_eq!(fixture.read(2, ReadHow::Try), Ok(2));
        }
    });
}

/// Whoever counts while a frame moves through the queue counts it once or not at all.
/// Seen to fail when `counts` does not notice a front that is ahead of the back.
#[test]
fn counts_stay_within_what_is_queued() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.write(1, 7)
        });
        let read = fixture.read(2, ReadHow::Try);
        let counts = fixture.queue().counts();
        assert_eq!(writer.join().unwrap(), Ok(8));
        let most = u64::from(read.is_err());
        assert!(counts.unread <= 8 * most, "{read:?} {counts:?}");
        assert!(u64::from(counts.messages) <= most, "{read:?} {counts:?}");
    });
}

/// A snapshot is of one moment, although two turns go by under one role (a skip and its frame, two matches).
/// Seen to fail when `prepare_back` may be seen before the turn in front of it (no Release fence).
#[test]
fn a_snapshot_is_of_one_moment() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || {
                for turn in 1..=2 {
                    fixture.queue().prepare_back(Back {
                        tail: 24 * u64::from(turn),
                        bytes: 8 * u64::from(turn),
                        messages: turn,
                    });
                    fixture.queue().turn_back();
                }
            }
        });
        let back = fixture.queue().back_snapshot();
        writer.join().unwrap();
        let turn = u64::from(back.messages);
        assert_eq!(
            (back.tail, back.bytes),
            (24 * turn, 8 * turn),
            "of two moments"
        );
    });
}

/// A read is matched or ended by a disconnect, never both: what has its bytes keeps them.
/// Seen to fail when `change` stores without comparing.
#[test]
fn match_and_disconnect_exclude_each_other() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Pend).unwrap_err());
        let server = thread::spawn({
            let fixture = fixture.clone();
            move || {
                let mut wakes = Wakes::default();
                fixture.queue().close(DISCONNECTED, &mut wakes);
            }
        });
        let written = fixture.write(1, 7);
        let early = fixture.records[index].phase();
        server.join().unwrap();
        if early == Phase::Done {
            assert_eq!(
                fixture.poll(2, index),
                Some(Ok(7)),
                "taken back: {written:?}"
            );
        } else {
            assert_eq!(
                fixture.poll(2, index),
                Some(Err(Error::Disconnected)),
                "{written:?}"
            );
        }
        assert_eq!(fixture.records[index].phase(), Phase::Free);
    });
}

/// A read is matched or withdrawn, never both, and a withdrawn one takes no data with it.
/// Seen to fail when `change` stores without comparing.
#[test]
fn match_and_cancel_exclude_each_other() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Pend).unwrap_err());
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.write(1, 7)
        });
        let mut wakes = Wakes::default();
        let withdrawn = fixture.queue().withdraw_own(me(2), index, &mut wakes);
        assert_eq!(writer.join().unwrap(), Ok(8));
        if withdrawn {
            assert_eq!(
                fixture.read(3, ReadHow::Try),
                Ok(7),
                "the frame went with it"
            );
        } else {
            assert_eq!(fixture.poll(2, index), Some(Ok(7)));
        }
    });
}

/// An operation that rests at its process's bell: the loop does not sleep on what is answered already, unless it is owed a
/// wake-up, and whoever it wakes finds the answer.
/// Seen to fail when `belongs_to_the_bell` comes after `fall_asleep`, and without fence b of the bell.
#[test]
fn an_answer_at_the_bell_is_heard() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let page = Arc::new(BellPage::default());
        // Submitted: its record is there before the call answers that it pends.
        let index = index_of(fixture.read(2, ReadHow::Pend).unwrap_err());
        let writer = thread::spawn({
            let (fixture, page) = (fixture.clone(), page.clone());
            move || {
                let mut wakes = Wakes::default();
                let queue = fixture.queue();
                let wrote = queue.write(me(1), &[7; 8][..], WriteHow::Pend, false, &mut wakes);
                assert_eq!(wrote, Ok(8));
                let mut rung = false;
                wakes.deliver(|_| rung |= Bell::new(&page).mark(3));
                rung
            }
        });
        let answer = fixture.poll(2, index);
        let mut sleeps = false;
        if answer.is_none() {
            let record = &fixture.records[index];
            record.belongs_to_the_bell();
            sleeps = record.fall_asleep().is_some() && Bell::new(&page).arm().is_some();
        }
        let rung = writer.join().unwrap();
        assert!(!sleeps || rung, "asleep on an answer, and nobody will ring");
        let answer = answer.or_else(|| fixture.poll(2, index));
        assert_eq!(answer, Some(Ok(7)));
    });
}

/// A cancel, the loop and the completer: the operation has one answer, and the frame is in it or still there.
/// Seen to fail when `change` stores without comparing.
#[test]
fn an_operation_is_answered_once() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Pend).unwrap_err());
        fixture.records[index].belongs_to_the_bell();
        let operation: Arc<Mutex<Vec<Option<u8>>>> = Arc::default();
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.write(1, 7)
        });
        let canceller = thread::spawn({
            let (fixture, operation) = (fixture.clone(), operation.clone());
            move || {
                let mut answers = operation.lock().unwrap();
                let mut wakes = Wakes::default();
                if answers.is_empty() && fixture.queue().withdraw_own(me(2), index, &mut wakes) {
                    answers.push(None);
                }
            }
        });
        let look = || {
            let mut answers = operation.lock().unwrap();
            if answers.is_empty()
                && let Some(answer) = fixture.poll(2, index)
            {
                answers.push(Some(answer.unwrap()));
            }
        };
        look();
        assert_eq!(writer.join().unwrap(), Ok(8));
        canceller.join().unwrap();
        look();
        match operation.lock().unwrap()[..] {
            [Some(7)] => {}
            [None] => assert_eq!(
                fixture.read(3, ReadHow::Try),
                Ok(7),
                "the frame went with it"
            ),
            ref other => panic!("answered {other:?}"),
        }
    });
}

/// A pended read hears of the writer's close, and of what was written before it.
/// Seen to fail when `close` withdraws the peer's reads instead of kicking them.
#[test]
fn a_close_is_heard_after_the_last_frame() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || {
                fixture.write(1, 7).unwrap();
                fixture.close(WRITER_CLOSED, 1);
            }
        });
        let read = fixture.read(2, ReadHow::Pend);
        writer.join().unwrap();
        let byte = match read {
            Ok(byte) => byte,
            // The writer was settling: a caller waits for the role and tries again.
            Err(ReadStop::Held) => fixture.read(2, ReadHow::Pend).expect("the frame is there"),
            Err(stop) => fixture
                .poll(2, index_of(stop))
                .expect("answered")
                .expect("the frame came before the close"),
        };
        assert_eq!(byte, 7);
        assert_eq!(
            fixture.read(2, ReadHow::Pend),
            Err(ReadStop::Failed(Error::Broken))
        );
    });
}

/// A disconnect in one thread meets a read that begins in another.
fn disconnect_meets_read(fixture: &Arc<Fixture>, how: ReadHow) {
    let server = thread::spawn({
        let fixture = fixture.clone();
        move || {
            let mut wakes = Wakes::default();
            fixture.queue().close(DISCONNECTED, &mut wakes);
        }
    });
    let read = fixture.read(2, how);
    server.join().unwrap();
    match read {
        Err(ReadStop::Failed(error)) => assert_eq!(error, Error::Disconnected),
        Err(stop) => assert_eq!(
            fixture.poll(2, index_of(stop)),
            Some(Err(Error::Disconnected))
        ),
        Ok(_) => panic!("nothing was written"),
    }
}

/// A disconnect answers a read that pends at the same time.
/// Seen to fail when `pend_read` does not settle after it has published its record.
#[test]
fn a_disconnect_reaches_a_read_that_just_pends() {
    loom::model(|| disconnect_meets_read(&Fixture::new(64), ReadHow::Pend));
}

/// A stalled write hears of the reader's close although it pends at the same time.
/// Seen to fail when `settle_records` does not look at READER_CLOSED.
#[test]
fn a_close_reaches_a_write_that_just_pends() {
    loom::model(|| {
        let fixture = Fixture::new(0);
        let reader = thread::spawn({
            let fixture = fixture.clone();
            move || {
                let mut wakes = Wakes::default();
                fixture.queue().close(READER_CLOSED, &mut wakes);
            }
        });
        let write = fixture.write(1, 7);
        reader.join().unwrap();
        match write {
            Err(WriteStop::Failed(Error::Closing)) => {}
            Err(WriteStop::Pended(index, _)) => {
                assert_eq!(fixture.records[index].phase(), Phase::Withdrawn);
            }
            other => panic!("{other:?}"),
        }
    });
}

/// A role kept by a thread that is not inside.
fn kept_by(thread: u32) -> Arc<RoleProbe> {
    let roles = Arc::new(RoleProbe::default());
    let role = roles.role(0);
    assert_eq!(role.try_take(me(thread)), Taken::Clean);
    assert!(!role.give_back(me(thread), true));
    assert!(role.is_free() && role.holder() == Some(me(thread)));
    roles
}

/// A role that is given back wakes whoever has announced a sleep on it.
/// Seen to fail when `give_back` stores instead of exchanging.
#[test]
fn a_role_given_back_wakes_its_waiter() {
    wakes_its_waiter(KEEP_NEVER);
}

/// The same of one that is kept.
/// Seen to fail when `leave` does not ask for it.
#[test]
fn a_kept_role_given_back_wakes_its_waiter() {
    wakes_its_waiter(0);
}

fn wakes_its_waiter(after: u8) {
    loom::model(move || {
        let roles = if after == 0 {
            kept_by(1)
        } else {
            Arc::new(RoleProbe::default())
        };
        assert_eq!(roles.role(after).try_take(me(1)), Taken::Clean);
        let owner = thread::spawn({
            let roles = roles.clone();
            move || roles.role(after).give_back(me(1), true)
        });
        let sleeps = roles.role(after).announce();
        let rung = owner.join().unwrap();
        // A futex sleeps only if the word is still what was announced; after the exchange it never is.
        assert!(
            sleeps.is_none()
                || rung
                || Some(roles.role(after).word.load(Ordering::SeqCst)) != sleeps,
            "asleep on a free role"
        );
        assert!(sleeps.is_none() || rung, "announced, and nobody was told");
    });
}

/// A kept role has one holder, whoever comes: its owner, and two who ask for it.
/// Seen to fail without the heavy fence, when the owner does not look at the word again, when an asker does not look
/// at `inside` again after its exchange, and when the asker may keep it, too (mutation `kept-by-two`).
#[test]
fn a_kept_role_has_one_holder() {
    loom::model(|| {
        let roles = kept_by(1);
        let inside = Arc::new(AtomicU32::new(0));
        let turn = |thread: u32| {
            let (roles, inside) = (roles.clone(), inside.clone());
            move || {
                let role = roles.role(0);
                let taken = role.try_take(me(thread));
                assert_ne!(taken, Taken::Mine, "nobody comes in twice");
                if taken == Taken::Clean {
                    // Relaxed, so that the model lends the roles no order of its own.
                    assert_eq!(inside.load(Ordering::Relaxed), 0, "two holders");
                    inside.store(1, Ordering::Relaxed);
                    inside.store(0, Ordering::Relaxed);
                    let _ = role.give_back(me(thread), thread != 3);
                }
            }
        };
        let owner = thread::spawn({
            let (first, second) = (turn(1), turn(1));
            move || {
                first();
                second();
            }
        });
        let asker = thread::spawn(turn(2));
        turn(3)();
        owner.join().unwrap();
        asker.join().unwrap();
    });
}

/// What is left to the holder of a kept lock is done, or the caller finds the lock free.
/// Seen to fail when `leave` does not ask for it.
#[test]
fn what_is_left_in_a_kept_lock_is_found() {
    loom::model(|| {
        let roles = kept_by(1);
        let owner = thread::spawn({
            let roles = roles.clone();
            move || {
                let role = roles.role(0);
                role.try_take(me(1)) == Taken::Clean && role.give_back_settled(me(1), true).is_err()
            }
        });
        let left = roles.role(0).leave(SETTLE);
        let found = owner.join().unwrap();
        assert!(!left || found, "left to nobody");
    });
}

/// A reader that pends and a writer that keeps its role do not miss each other.
/// Seen to fail without the light fence in `go_out`. That `publish_record` has to ask for the role shows on real CPUs
/// only, since a model cannot run a fence on another thread's behalf: `tests/blocking.rs` has
/// `a_sleeper_and_a_writer_that_keeps_its_role_do_not_miss_each_other`.
#[test]
fn no_read_sleeps_on_the_frame_of_a_kept_role() {
    loom::model(|| {
        let fixture = Fixture::keeping(64, 0);
        assert_eq!(fixture.write(1, 6), Ok(8));
        assert_eq!(fixture.read(2, ReadHow::Try), Ok(6));
        write_meets_read(&fixture);
    });
}

/// A polled read that its owner looks at no more: the frame of a writer that saw it polled is found by the owner's last look,
/// or the writer matches it.
fn write_meets_an_owner_that_stops_polling(fixture: &Arc<Fixture>) {
    let index = index_of(fixture.read(2, ReadHow::Polled).unwrap_err());
    let writer = thread::spawn({
        let fixture = fixture.clone();
        move || fixture.write(1, 7)
    });
    let mut wakes = Wakes::default();
    fixture.queue().stop_polling();
    let _ = fixture.queue().settle_or_leave(me(2), &mut wakes);
    assert_eq!(writer.join().unwrap(), Ok(8));
    // As its owner would sleep: by the record alone.
    assert_eq!(
        fixture.records[index].phase(),
        Phase::Done,
        "asleep on a committed frame"
    );
    assert_eq!(fixture.poll(2, index), Some(Ok(7)));
}

/// Seen to fail without the fence in `clear_polled`, and without the one after the role's exchange (`write`).
#[test]
fn no_read_that_was_polled_sleeps_on_a_committed_frame() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        assert_eq!(fixture.write(1, 6), Ok(8));
        assert_eq!(fixture.read(2, ReadHow::Try), Ok(6));
        write_meets_an_owner_that_stops_polling(&fixture);
    });
}

/// The same where the writer keeps its role, and with the record that an earlier polled read has left.
/// Seen to fail without the light fence in `go_out`.
#[test]
fn no_read_that_was_polled_sleeps_on_the_frame_of_a_kept_role() {
    loom::model(|| {
        let fixture = Fixture::keeping(64, 0);
        let index = index_of(fixture.read(2, ReadHow::Polled).unwrap_err());
        assert_eq!(fixture.write(1, 5), Ok(8));
        assert_eq!(fixture.poll(2, index), Some(Ok(5)));
        write_meets_an_owner_that_stops_polling(&fixture);
    });
}

/// A disconnect reaches a polled read that begins at the same time, with the record that an earlier one has left.
/// Seen to fail without the fence in `begin_polled`.
#[test]
fn a_disconnect_reaches_a_polled_read_that_just_begins() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Polled).unwrap_err());
        assert_eq!(fixture.write(1, 6), Ok(8));
        assert_eq!(fixture.poll(2, index), Some(Ok(6)));
        disconnect_meets_read(&fixture, ReadHow::Polled);
    });
}

/// Of two reads, one polled and one that begins behind it in another thread, each gets its own frame.
/// Seen to fail when `begin_record` leaves POLLED as it is.
#[test]
fn a_read_behind_a_polled_one_is_matched() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let first = index_of(fixture.read(2, ReadHow::Polled).unwrap_err());
        assert_eq!(fixture.write(1, 6), Ok(8));
        let writer = thread::spawn({
            let fixture = fixture.clone();
            move || fixture.write(1, 7)
        });
        let second = fixture.read(3, ReadHow::Pend);
        assert_eq!(writer.join().unwrap(), Ok(8));
        match second {
            Ok(byte) => assert_eq!(byte, 7),
            Err(stop) => {
                let second = index_of(stop);
                assert_eq!(
                    fixture.records[second].phase(),
                    Phase::Done,
                    "asleep on a committed frame"
                );
                assert_eq!(fixture.poll(3, second), Some(Ok(7)));
            }
        }
        assert_eq!(fixture.poll(2, first), Some(Ok(6)));
    });
}

/// A polled read whose owner takes its frame while it is disconnected from has one end, and the queue with it.
/// Seen to fail when `close` withdraws it.
#[test]
fn a_polled_read_ends_once() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Polled).unwrap_err());
        assert_eq!(fixture.write(1, 6), Ok(8));
        let server = thread::spawn({
            let fixture = fixture.clone();
            move || {
                let mut wakes = Wakes::default();
                let queue = fixture.queue();
                queue.close(DISCONNECTED, &mut wakes);
                let _ = queue.settle_polled(me(1), &mut wakes);
            }
        });
        let early = fixture.poll(2, index);
        server.join().unwrap();
        // It was written before: the read's, whatever came then.
        assert_eq!(early.or_else(|| fixture.poll(2, index)), Some(Ok(6)));
    });
}

/// A polled read whose owner stops polling while it is disconnected from has what was written before.
/// Seen to fail when `close`, or `settle_records`, goes by POLLED.
#[test]
fn a_read_that_is_polled_no_more_has_what_was_written_before_a_disconnect() {
    loom::model(|| {
        let fixture = Fixture::new(64);
        let index = index_of(fixture.read(2, ReadHow::Polled).unwrap_err());
        let server = thread::spawn({
            let fixture = fixture.clone();
            move || {
                assert_eq!(fixture.write(1, 6), Ok(8));
                let mut wakes = Wakes::default();
                let queue = fixture.queue();
                queue.close(DISCONNECTED, &mut wakes);
                let _ = queue.settle_polled(me(1), &mut wakes);
            }
        });
        let mut wakes = Wakes::default();
        fixture.queue().stop_polling();
        let _ = fixture.queue().settle_or_leave(me(2), &mut wakes);
        server.join().unwrap();
        assert_eq!(fixture.poll(2, index), Some(Ok(6)));
    });
}
