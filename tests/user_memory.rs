//! Calls whose buffers are a user's memory: what fails in the middle of a copy, and what goes on meanwhile.

use std::cell::{Cell, RefCell};

use npfs_ringbuf::{
    Answer, CompletionMode, Conn, Error, Link, PipeType, Read, ReadMode, State, Task, Wait, Work,
    books::{ConnSpec, LinkBooks, LinkConfig},
};
use npfs_tests::{pattern, user};
use user::Short;

const QUOTA: u32 = 4096;
/// More than the area of that quota holds.
const HUGE: usize = 700_000;

/// The server end and the client end of a connection within this process.
fn pair(pipe_type: PipeType, quota: u32) -> (Conn, Conn) {
    let mut books = LinkBooks::create(&LinkConfig::default()).expect("a link");
    let me = books.add_process(None).expect("an index");
    let link = Link::attach(books.share().expect("a descriptor"), me).expect("the link");
    let spec = ConnSpec::new(pipe_type, quota);
    let (_, server, client) = books.connect(&spec, me, me).expect("a connection");
    let open = |grant| {
        let conn = Conn::open(&link, grant).expect("an end");
        if pipe_type == PipeType::Message {
            conn.set_modes(ReadMode::Message, CompletionMode::Queue)
                .expect("message mode");
        }
        conn
    };
    (open(&server), open(&client))
}

fn nothing() {}

fn short(left: usize) -> Short<'static> {
    Short {
        left: Cell::new(left),
        between: &nothing,
    }
}

/// All that can be read now, entry by entry.
fn drain(conn: &Conn) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buf = vec![0; HUGE];
    loop {
        match conn.try_read(&mut buf) {
            Ok(read) => all.push(buf[..read.count()].to_vec()),
            Err(Error::WouldBlock) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

fn available(conn: &Conn) -> u64 {
    let info = conn.info().expect("counts");
    assert_eq!(info.state, State::Connected);
    info.read_available
}

/// Nothing of it is there, and what is written next comes alone.
#[test]
fn a_write_whose_buffer_ends_was_never_written() {
    for pipe_type in [PipeType::Byte, PipeType::Message] {
        for len in [1, 7, 64, 65, 4096] {
            let (server, client) = pair(pipe_type, QUOTA);
            let mut data = pattern(1, len);
            for left in (0..len).step_by(1 + len / 40) {
                let memory = short(left);
                let written = client.try_write_user(memory.buffer(&mut data));
                assert_eq!(written, Err(Error::BadBuffer), "{left} of {len}");
                assert_eq!(available(&server), 0);
                let wrote = client.try_write_user(user::buffer(&mut data));
                assert_eq!(wrote, Ok(len));
                assert_eq!(drain(&server), [&data[..]]);
            }
        }
    }
}

/// One that is longer than the area goes in piece by piece: what has been read of it is read, the rest never was.
#[test]
fn np_cancel_03_a_long_write_whose_buffer_ends_is_withdrawn() {
    for pipe_type in [PipeType::Byte, PipeType::Message] {
        let (server, client) = pair(pipe_type, QUOTA);
        let mut data = pattern(2, HUGE);
        let memory = short(HUGE - 1);
        let work = Work::Write(memory.buffer(&mut data));
        let mut task = Task::new();
        let mut seen = Vec::new();
        let mut buf = vec![0; 10_000];
        let answer = loop {
            if let Some(answer) = task.advance(&client, work) {
                break answer;
            }
            while let Ok(read) = server.try_read(&mut buf) {
                seen.extend_from_slice(&buf[..read.count()]);
            }
        };
        assert_eq!(answer, Err(Error::BadBuffer));
        assert!(!seen.is_empty() && seen == data[..seen.len()]);
        assert_eq!(client.write(b"next"), Ok(4));
        assert_eq!(drain(&server).last().expect("it comes"), b"next");
    }
}

/// The message stays whole, and so does the stream, wherever the buffer ends.
#[test]
fn a_read_whose_buffer_ends_has_read_nothing() {
    let (server, client) = pair(PipeType::Message, QUOTA);
    for len in [1, 5, 64, 65, 1000] {
        let data = pattern(3, len);
        for (room, left) in (0..len).step_by(1 + len / 30).map(|left| (len + 1, left)) {
            client.write(&data).expect("written");
            client.write(b"behind").expect("written");
            let memory = short(left);
            let mut buf = vec![0; room];
            let read = server.try_read_user(memory.buffer(&mut buf));
            assert_eq!(read, Err(Error::BadBuffer), "{left} of {len}");
            assert_eq!(available(&server), len as u64 + 6);
            let peeked = server.peek_user(memory.buffer(&mut buf));
            assert_eq!(peeked, Err(Error::BadBuffer));
            assert_eq!(drain(&server), [&data[..], b"behind"]);
        }
    }
    let (server, client) = pair(PipeType::Byte, QUOTA);
    for left in 0..30 {
        for part in [&b"0123456789"[..], b"abcdefghij", b"ABCDEFGHIJ"] {
            client.write(part).expect("written");
        }
        let memory = short(left);
        let mut buf = [0; 30];
        let read = server.try_read_user(memory.buffer(&mut buf));
        assert_eq!(read, Err(Error::BadBuffer), "{left}");
        let read = server.try_read_user(user::buffer(&mut buf));
        assert_eq!(read, Ok(Read::Whole(30)));
        assert_eq!(&buf, b"0123456789abcdefghijABCDEFGHIJ");
    }
}

/// It had its place in line, the bytes were given to it, and they are the next read's.
#[test]
fn np_read_18_a_pended_read_whose_buffer_ends_gives_back_what_it_was_given() {
    for pipe_type in [PipeType::Byte, PipeType::Message] {
        let (server, client) = pair(pipe_type, QUOTA);
        for (len, room) in [(1, 1), (64, 100), (64, 40), (0, 5), (1000, 1000)] {
            // The front at a frame's header, and in the middle of one.
            for begun in [false, true] {
                let data = pattern(4, len);
                let mut first = vec![0; 3];
                if begun {
                    client.write(b"begun").expect("written");
                    let read = server.read(&mut first).expect("a part of it");
                    assert_eq!(read.count(), 3);
                }
                let mut buf = vec![0; room];
                let memory = short(0);
                let work = Work::Read(memory.buffer(&mut buf));
                let mut task = Task::new();
                let mut expected = vec![data.clone()];
                if begun {
                    // It is there at once; a read that pends is given what comes behind.
                    expected.insert(0, b"un".to_vec());
                } else {
                    assert_eq!(task.advance(&server, work), None);
                    client.write(&data).expect("written");
                }
                let answer = task.advance(&server, work);
                if begun {
                    client.write(&data).expect("written");
                }
                if len == 0 && !begun {
                    let none = pipe_type == PipeType::Byte;
                    let whole = Some(Ok(Answer::Read(Read::Whole(0))));
                    assert_eq!(answer, if none { None } else { whole });
                    let _ = task.withdraw(&server, work, Error::Cancelled);
                    continue;
                }
                assert_eq!(answer, Some(Err(Error::BadBuffer)), "{len} {room} {begun}");
                let whole: Vec<u8> = expected.concat();
                assert_eq!(available(&server), whole.len() as u64);
                let left = client.info().expect("counts").write_quota_available;
                assert_eq!(left as usize, QUOTA as usize - whole.len());
                match pipe_type {
                    PipeType::Byte => assert_eq!(drain(&server).concat(), whole),
                    PipeType::Message => assert_eq!(drain(&server), expected),
                }
            }
        }
    }
}

/// In the middle of a frame, with a read that was matched there.
#[test]
fn np_read_18_what_is_given_back_may_begin_in_the_middle_of_a_frame() {
    let (server, client) = pair(PipeType::Byte, QUOTA);
    let (mut a, mut b) = ([0; 4], [0; 4]);
    let mut one = Task::new();
    let plain = Work::Read(user::buffer(&mut a));
    assert_eq!(one.advance(&server, plain), None);
    let memory = short(2);
    let mut two = Task::new();
    let ends = Work::Read(memory.buffer(&mut b));
    assert_eq!(two.advance(&server, ends), None);
    client.write(b"0123456789").expect("written");
    assert_eq!(two.advance(&server, ends), Some(Err(Error::BadBuffer)));
    let read = Answer::Read(Read::Whole(4));
    assert_eq!(one.advance(&server, plain), Some(Ok(read)));
    assert_eq!(&a, b"0123");
    assert_eq!(drain(&server), [b"456789"]);
}

/// A read of more than the area holds ends where its buffer does, with what it has brought.
#[test]
fn np_read_09_a_streaming_read_whose_buffer_ends_is_a_short_one() {
    for pipe_type in [PipeType::Byte, PipeType::Message] {
        let (server, client) = pair(pipe_type, QUOTA);
        let mut data = pattern(5, HUGE);
        let mut buf = vec![0; HUGE];
        let memory = short(HUGE / 2);
        let (read, write) = (
            Work::Read(memory.buffer(&mut buf)),
            Work::Write(user::buffer(&mut data)),
        );
        let (mut reader, mut writer) = (Task::new(), Task::new());
        assert_eq!(reader.advance(&server, read), None);
        let answer = loop {
            let _ = writer.advance(&client, write);
            if let Some(answer) = reader.advance(&server, read) {
                break answer;
            }
        };
        let Ok(Answer::Read(read)) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(
            matches!(read, Read::Part(_)),
            pipe_type == PipeType::Message
        );
        let first = read.count();
        assert!(first != 0 && first <= HUGE / 2);
        let mut seen = buf[..first].to_vec();
        let mut rest = vec![0; HUGE];
        while seen.len() < HUGE {
            let _ = writer.advance(&client, write);
            if let Ok(read) = server.try_read(&mut rest) {
                seen.extend_from_slice(&rest[..read.count()]);
            }
        }
        assert_eq!(seen, data);
        let wrote = writer.advance(&client, write);
        assert_eq!(wrote, Some(Ok(Answer::Wrote(HUGE))));
    }
}

/// A copy takes as long as it likes: whoever else uses the pipe does not wait for it.
#[test]
fn nothing_is_locked_while_a_buffer_is_copied() {
    let (server, client) = pair(PipeType::Message, 16);
    // The reader copies: others write, read and look, beyond the quota too, which takes the match lock.
    client.write(b"one").expect("written");
    let turns = Cell::new(0);
    let others = || {
        turns.set(turns.get() + 1);
        if turns.get() == 1 {
            assert_eq!(client.try_write(&[7; 32]), Err(Error::WouldBlock));
            assert_eq!(client.try_write(b"two"), Ok(3));
            let mut buf = [0; 8];
            assert_eq!(server.peek(&mut buf).expect("a look").copied, 3);
            assert_eq!(server.try_read(&mut buf), Ok(Read::Whole(3)));
            assert_eq!(&buf[..3], b"one");
        }
    };
    let memory = Short {
        left: Cell::new(usize::MAX),
        between: &others,
    };
    let mut buf = [0; 8];
    let read = server.try_read_user(memory.buffer(&mut buf));
    // The first was taken by the other: copied again.
    assert_eq!((read, &buf[..3]), (Ok(Read::Whole(3)), &b"two"[..]));
    assert_eq!(turns.get(), 2);

    // The writer copies: others read and wait for what comes.
    let wait = Wait::new();
    let pended = RefCell::new(None);
    let mut third = [0; 64];
    let third = RefCell::new(Some(&mut third[..]));
    let reads = || {
        if let Some(third) = third.borrow_mut().take() {
            assert_eq!(server.try_read(&mut [0; 8]), Err(Error::WouldBlock));
            let read = server.start_read(&wait, third).expect("a place in line");
            *pended.borrow_mut() = Some(read);
            assert_eq!(client.try_write(b"busy"), Err(Error::Busy));
        }
    };
    let memory = Short {
        left: Cell::new(usize::MAX),
        between: &reads,
    };
    let mut data = [9; 40];
    let work = Work::Write(memory.buffer(&mut data));
    let mut task = Task::new();
    // Longer than the quota, and taken at once by the read that came meanwhile (NP-WRITE-05).
    let wrote = task.advance(&client, work);
    assert_eq!(wrote, Some(Ok(Answer::Wrote(40))));
    let mut read = pended.into_inner().expect("it was started");
    assert_eq!(read.poll(), Some(Ok(Read::Whole(40))));
}

/// What a reader has copied is withdrawn meanwhile, and something else stands in its place: that is what it reads.
#[test]
fn np_cancel_03_a_copy_of_what_was_withdrawn_is_not_read() {
    let (server, client) = pair(PipeType::Message, 4);
    let mut data = *b"withdrawn";
    let work = Work::Write(user::buffer(&mut data));
    let stalled = RefCell::new(Task::new());
    assert_eq!(stalled.borrow_mut().advance(&client, work), None);
    let turns = Cell::new(0);
    let between = || {
        turns.set(turns.get() + 1);
        if turns.get() == 1 {
            let mut stalled = stalled.borrow_mut();
            let gone = stalled.withdraw(&client, work, Error::Cancelled);
            assert_eq!(gone, Err(Error::Cancelled));
            assert_eq!(client.try_write(b"new"), Ok(3));
        }
    };
    let memory = Short {
        left: Cell::new(usize::MAX),
        between: &between,
    };
    let mut buf = [0; 16];
    let read = server.try_read_user(memory.buffer(&mut buf));
    assert_eq!((read, &buf[..3]), (Ok(Read::Whole(3)), &b"new"[..]));
    assert_eq!(turns.get(), 2);
}

// ---- what goes on between the steps ----------------------------------------------------------------------------------

fn with_between(between: &dyn Fn()) -> Short<'_> {
    Short {
        left: Cell::new(usize::MAX),
        between,
    }
}

/// Moves the ring on, so that a message of 100,000 bytes fits the area in several pieces only.
fn move_on(server: &Conn, client: &Conn) {
    let wait = Wait::new();
    let data = pattern(1, 60_000);
    let mut pended = client.start_write(&wait, &data).expect("a place");
    assert_eq!(drain(server).concat(), data);
    assert_eq!(pended.poll(), Some(Ok(60_000)));
}

#[test]
fn np_read_09_a_try_read_does_not_run_into_the_next_message() {
    let (server, client) = pair(PipeType::Message, QUOTA);
    move_on(&server, &client);
    let data = pattern(7, 100_000);
    let (wait, wait_2) = (Wait::new(), Wait::new());
    // One piece is placed.
    let first = RefCell::new(client.start_write(&wait, &data).expect("a place"));
    let second = RefCell::new(None);
    let turn = Cell::new(0);
    let between = || {
        turn.set(turn.get() + 1);
        if turn.get() == 2 {
            // All of it is placed, and another message behind it.
            assert_eq!(first.borrow_mut().poll(), None);
            *second.borrow_mut() = Some(client.start_write(&wait_2, b"SECOND").expect("a place"));
        }
    };
    let memory = with_between(&between);
    let mut buf = vec![0; HUGE];
    let read = server.try_read_user(memory.buffer(&mut buf)).expect("read");
    assert!(
        read.count() <= 100_000,
        "{read:?} of a message of 100,000 bytes"
    );
}

#[test]
fn np_read_18_what_is_given_back_has_its_header_still() {
    let (server, client) = pair(PipeType::Byte, QUOTA);
    client.write(&[1; 1000]).expect("written");
    assert_eq!(drain(&server).concat().len(), 1000);
    let mut buf = [0; 10];
    let memory = short(0);
    let read = Work::Read(memory.buffer(&mut buf));
    let mut reader = Task::new();
    assert_eq!(reader.advance(&server, read), None);
    let begin = pattern(3, 100);
    client.write(&begin).expect("written");
    let mut data = pattern(4, HUGE);
    let write = Work::Write(user::buffer(&mut data));
    let mut writer = Task::new();
    assert_eq!(writer.advance(&client, write), None);
    assert_eq!(reader.advance(&server, read), Some(Err(Error::BadBuffer)));
    let mut seen = Vec::new();
    let mut rest = vec![0; HUGE];
    for _ in 0..10_000 {
        if seen.len() == HUGE + 100 {
            break;
        }
        let _ = writer.advance(&client, write);
        if let Ok(read) = server.try_read(&mut rest) {
            seen.extend_from_slice(&rest[..read.count()]);
        }
    }
    assert_eq!(seen.len(), HUGE + 100);
    assert_eq!(seen[..100], begin);
    assert_eq!(seen[100..], data);
}

#[test]
fn np_read_18_what_nobody_has_read_is_given_back_though_the_front_has_passed_a_gap() {
    let (server, client) = pair(PipeType::Message, 4);
    let mut buf = [0; 10];
    let memory = short(0);
    let read = Work::Read(memory.buffer(&mut buf));
    let mut reader = Task::new();
    assert_eq!(reader.advance(&server, read), None);
    client.write(b"one").expect("written");
    let (wait, wait_2) = (Wait::new(), Wait::new());
    let mut gone = client.start_write(&wait, b"withdrawn").expect("a place");
    let _behind = client.start_write(&wait_2, b"behind").expect("a place");
    assert!(gone.cancel());
    assert_eq!(reader.advance(&server, read), Some(Err(Error::BadBuffer)));
    assert_eq!(drain(&server), [&b"one"[..], b"behind"]);
}

/// An address that no byte can be copied to; of an empty message none has to.
#[test]
fn np_read_15_an_empty_message_is_read_to_nowhere() {
    struct Nowhere;
    impl npfs_ringbuf::UserMemory for Nowhere {
        unsafe fn copy_in(&self, _: usize, _: *mut u8, _: usize) -> bool {
            false
        }
        unsafe fn copy_out(&self, _: usize, _: *const u8, _: usize) -> bool {
            false
        }
    }
    let (server, client) = pair(PipeType::Message, QUOTA);
    let nowhere = npfs_ringbuf::UserBuffer::new(&Nowhere, 0, 0);
    assert_eq!(client.try_write_user(nowhere), Ok(0));
    assert_eq!(server.try_read_user(nowhere), Ok(Read::Whole(0)));
}

#[test]
fn np_peek_06_a_peek_knows_the_length_of_a_message_that_is_being_placed() {
    let mut wrong = Vec::new();
    for _ in 0..500 {
        let (server, client) = pair(PipeType::Message, QUOTA);
        move_on(&server, &client);
        let data = pattern(7, 100_000);
        let wait = Wait::new();
        let mut pended = client.start_write(&wait, &data).expect("a place");
        let go = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let peeker = scope.spawn(|| {
                let mut buf = vec![0; HUGE];
                let mut wrong = None;
                go.store(true, std::sync::atomic::Ordering::SeqCst);
                for _ in 0..40 {
                    match server.peek_user(user::buffer(&mut buf)) {
                        Ok(peek) if peek.message_len == 100_000 => {}
                        Ok(peek) => wrong = Some((peek.copied, peek.message_len, peek.partial)),
                        Err(Error::Busy) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                wrong
            });
            while !go.load(std::sync::atomic::Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            for _ in 0..20 {
                let _ = pended.poll();
            }
            wrong.extend(peeker.join().expect("no panic"));
        });
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A reader that is in the middle of a long message is given up; who stands behind it is not kept waiting.
#[test]
fn np_read_18_who_stands_behind_an_abandoned_read_goes_on() {
    let (server, client) = pair(PipeType::Byte, QUOTA);
    let (mut buf, mut small, mut data) = (vec![0; HUGE], [0; 10], pattern(5, HUGE));
    let wait = Wait::new();
    wait.open().expect("idle");
    let (read, behind, write) = (
        Work::Read(user::buffer(&mut buf)),
        Work::Read(user::buffer(&mut small)),
        Work::Write(user::buffer(&mut data)),
    );
    let (mut reader, mut second, mut writer) = (Task::new(), Task::new(), Task::new());
    assert_eq!(reader.advance(&server, read), None);
    assert_eq!(writer.advance(&client, write), None);
    assert_eq!(second.advance(&server, behind), None);
    reader.leave_with(&server, read, &wait);
    // SAFETY: nobody goes on with it.
    unsafe { wait.abandon() };
    server.settle_for_the_dead();
    let answer = (0..100).find_map(|_| {
        let _ = writer.advance(&client, write);
        second.advance(&server, behind)
    });
    assert_eq!(answer, Some(Ok(Answer::Read(Read::Whole(10)))));
}
