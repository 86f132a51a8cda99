//! One connection, rule by rule: sections 10 to 17 of the specification, its worked examples, and the cases that reviews
//! of the queue protocol brought up. Each test runs with both ends in this process and with each end in a process of its
//! own.

use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use npfs_ringbuf::books::ConnSpec;
use npfs_ringbuf::{
    Access, BooksError, CompletionMode::Complete, CompletionMode::Queue, End, Error, PipeType,
    Read, ReadMode, State,
};
use npfs_tests::cmd::{Blocking, Done, OpId};
use npfs_tests::party::{Pair, Place, Rig};
use npfs_tests::{child_exe, pattern, sys, within};

const BYTE: PipeType = PipeType::Byte;
const MESSAGE: PipeType = PipeType::Message;
use End::{Client, Server};

/// Runs a rule in both arrangements, on a fresh link each time.
fn both(pipe_type: PipeType, quota: u32, body: fn(&mut Rig)) {
    both_with(ConnSpec::new(pipe_type, quota), body);
}

fn both_with(spec: ConnSpec, body: fn(&mut Rig)) {
    within(60, move || {
        for place in [Place::OneProcess, Place::TwoProcesses(child_exe!())] {
            body(&mut Rig::new(place, &spec));
        }
    });
}

fn whole(data: &[u8]) -> Done {
    Done::Read(data.to_vec(), true)
}

fn part(data: &[u8]) -> Done {
    Done::Read(data.to_vec(), false)
}

fn wrote(n: usize) -> Done {
    Done::Wrote(n)
}

fn failed(error: Error) -> Done {
    Done::Failed(error)
}

/// What completes now, at either end.
fn over(rig: &mut Rig) -> Vec<(End, OpId, Done)> {
    let mut over = Vec::new();
    for _ in 0..4 {
        for end in [Client, Server] {
            over.extend(
                rig.end(end)
                    .poll_all()
                    .into_iter()
                    .map(|(op, done)| (end, op, done)),
            );
        }
    }
    over.sort_by_key(|(end, op, _)| (*end == Server, *op));
    over
}

/// Exactly these complete now: client's first, each end's by their names.
#[track_caller]
fn expect(rig: &mut Rig, expected: &[(End, OpId, Done)]) {
    assert_eq!(over(rig), expected);
}

/// Message read mode at both ends.
fn message_mode(rig: &mut Rig) {
    for end in [Client, Server] {
        rig.end(end)
            .set_modes(ReadMode::Message, Queue)
            .expect("a message pipe");
    }
}

fn complete(rig: &mut Rig, end: End) {
    let (read, _) = rig.end(end).modes();
    rig.end(end).set_modes(read, Complete).expect("idle queues");
}

/// Bytes that the server can read, and quota that the client has left.
fn inbound(rig: &mut Rig) -> (u64, u32) {
    let server = rig.server.info().expect("served");
    let client = rig.client.info().expect("served");
    (server.read_available, client.write_quota_available)
}

// ---------------------------------------------------------------------------------------------------- section 10

#[test]
fn np_queue_01_pended_reads_or_data_never_both() {
    both(BYTE, 512, |rig| {
        rig.server.start_read(1, 4).unwrap();
        rig.server.start_read(2, 4).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        // The second read still pends, and nothing is queued.
        expect(rig, &[(Server, 1, whole(b"abc"))]);
        assert_eq!(inbound(rig), (0, 508));
        // More than the reads take becomes data, and no read pends then.
        assert_eq!(rig.client.try_write(b"defghi"), wrote(6));
        expect(rig, &[(Server, 2, whole(b"defg"))]);
        assert_eq!(inbound(rig), (2, 510));
        assert_eq!(rig.server.try_read(9), whole(b"hi"));
    });
}

#[test]
fn np_queue_02_pended_writes_are_readable_and_peekable_at_once() {
    both(BYTE, 512, |rig| {
        let data = pattern(1, 512 + 2000);
        rig.client.start_write(1, &data).unwrap();
        expect(rig, &[]);
        let (peek, shown) = rig.server.peek(4000).unwrap();
        assert_eq!((peek.available, shown.as_slice()), (2512, data.as_slice()));
        assert_eq!(rig.server.try_read(4000), whole(&data));
        expect(rig, &[(Client, 1, wrote(2512))]);
    });
}

#[test]
fn np_queue_03_a_write_is_charged_what_fits_and_completes_when_all_is() {
    both(BYTE, 10, |rig| {
        assert_eq!(rig.client.try_write(b"1234567"), wrote(7));
        rig.client.start_write(1, b"abcdef").unwrap();
        // 3 of the 6 are charged: nothing is free, the write waits.
        assert_eq!(inbound(rig), (13, 0));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(2), whole(b"12"));
        expect(rig, &[]);
        assert_eq!(inbound(rig), (11, 0));
        assert_eq!(rig.server.try_read(1), whole(b"3"));
        expect(rig, &[(Client, 1, wrote(6))]);
        assert_eq!(inbound(rig), (10, 0));
    });
}

#[test]
fn np_queue_04_freed_quota_goes_to_stalled_writes_in_order() {
    both(MESSAGE, 4, |rig| {
        rig.client.start_write(1, b"aaaaaaaa").unwrap();
        rig.client.start_write(2, b"bb").unwrap();
        rig.client.start_write(3, b"c").unwrap();
        assert_eq!(rig.client.try_write(b"d"), failed(Error::WouldBlock));
        assert_eq!(rig.server.try_read(3), whole(b"aaa"));
        // One byte of the first is still uncharged; the small ones may not overtake it.
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(1), whole(b"a"));
        expect(rig, &[(Client, 1, wrote(8))]);
        assert_eq!(rig.server.try_read(1), whole(b"a"));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(1), whole(b"a"));
        expect(rig, &[(Client, 2, wrote(2))]);
        assert_eq!(rig.server.try_read(1), whole(b"a"));
        expect(rig, &[(Client, 3, wrote(1))]);
    });
}

fn worked_example_5(rig: &mut Rig) {
    let data = pattern(5, 8001);
    rig.client.start_write(1, &data[..3000]).unwrap();
    rig.client.start_write(2, &data[3000..8000]).unwrap();
    rig.client.start_write(3, &data[8000..]).unwrap();
    rig.client.start_write(4, b"").unwrap();
    expect(rig, &[(Client, 1, wrote(3000)), (Client, 4, wrote(0))]);
    assert_eq!(rig.server.try_read(3000), whole(&data[..3000]));
    expect(rig, &[(Client, 2, wrote(5000))]);
    assert_eq!(rig.server.try_read(1), whole(&data[3000..3001]));
    expect(rig, &[(Client, 3, wrote(1))]);
    assert_eq!(rig.server.try_read(9000), whole(&data[3001..]));
}

#[test]
fn np_queue_05_worked_example_bytes() {
    both(BYTE, 5000, worked_example_5);
}

#[test]
fn np_queue_05_worked_example_messages() {
    both(MESSAGE, 5000, worked_example_5);
}

fn worked_example_6(rig: &mut Rig) {
    let quota = rig.client.info().unwrap().write_quota_available as usize;
    let data = pattern(6, quota + 2000);
    rig.client.start_write(1, &data).unwrap();
    expect(rig, &[]);
    assert_eq!(rig.server.try_read(1999), whole(&data[..1999]));
    expect(rig, &[]);
    assert_eq!(rig.server.try_read(1), whole(&data[1999..2000]));
    expect(rig, &[(Client, 1, wrote(quota + 2000))]);
    // What stays is the quota's worth; of no quota nothing.
    assert_eq!(rig.server.info().unwrap().read_available, quota as u64);
    if quota > 0 {
        assert_eq!(rig.server.try_read(quota + 1), whole(&data[2000..]));
    }
}

#[test]
fn np_queue_06_worked_example() {
    for quota in [0, 1, 2, 512, 5000, 65536] {
        both(BYTE, quota, worked_example_6);
        both(MESSAGE, quota, worked_example_6);
    }
}

#[test]
fn np_queue_07_a_byte_pipe_shows_no_boundaries() {
    both(BYTE, 512, |rig| {
        for piece in [b"ab".as_slice(), b"", b"c", b"", b"def"] {
            assert_eq!(rig.client.try_write(piece), wrote(piece.len()));
        }
        let info = rig.server.info().unwrap();
        assert_eq!((info.read_available, info.messages), (6, 0));
        assert_eq!(rig.server.try_read(5), whole(b"abcde"));
        assert_eq!(rig.server.try_read(5), whole(b"f"));
        assert_eq!(rig.server.try_read(5), failed(Error::WouldBlock));
    });
}

#[test]
fn np_queue_08_a_pended_read_is_charged_to_the_reported_quota() {
    both(MESSAGE, 100, |rig| {
        rig.server.start_read(1, 1).unwrap();
        assert_eq!(inbound(rig), (0, 99));
        rig.server.start_read(2, 70).unwrap();
        assert_eq!(inbound(rig), (0, 29));
        rig.server.start_read(3, 70).unwrap();
        assert_eq!(inbound(rig), (0, 0));
        assert!(rig.server.cancel(2));
        assert_eq!(inbound(rig), (0, 29));
        assert!(rig.server.cancel(1));
        assert!(rig.server.cancel(3));
        assert_eq!(inbound(rig), (0, 100));
        // The other direction has its own.
        assert_eq!(rig.server.info().unwrap().write_quota_available, 100);
    });
}

// ---------------------------------------------------------------------------------------------------- section 11

#[test]
fn np_read_01_queued_data_is_read_at_once_in_either_mode() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"xy"), wrote(2));
        complete(rig, Server);
        assert_eq!(rig.server.try_read(1), whole(b"x"));
        rig.server.set_modes(ReadMode::Byte, Queue).unwrap();
        rig.server.start_read(1, 1).unwrap();
        expect(rig, &[(Server, 1, whole(b"y"))]);
        assert_eq!(rig.client.try_write(b"z"), wrote(1));
        rig.client.close();
        assert_eq!(rig.server.try_read(1), whole(b"z"));
    });
}

#[test]
fn np_read_02_nothing_queued_pends_until_a_write() {
    both(MESSAGE, 512, |rig| {
        rig.server.start_read(1, 10).unwrap();
        expect(rig, &[]);
        assert_eq!(rig.client.try_write(b"now"), wrote(3));
        expect(rig, &[(Server, 1, whole(b"now"))]);
    });
}

#[test]
fn np_read_03_nothing_queued_in_complete_mode_is_empty() {
    both(BYTE, 512, |rig| {
        complete(rig, Server);
        assert_eq!(rig.server.try_read(10), failed(Error::Empty));
        assert_eq!(rig.server.start_read(1, 10), Err(Error::Empty));
    });
}

#[test]
fn np_read_04_nothing_queued_and_the_peer_closed_is_broken() {
    both(BYTE, 512, |rig| {
        rig.client.close();
        assert_eq!(rig.server.try_read(10), failed(Error::Broken));
        assert_eq!(rig.server.start_read(1, 10), Err(Error::Broken));
        complete(rig, Server);
        assert_eq!(rig.server.try_read(10), failed(Error::Broken));
    });
}

#[test]
fn np_read_05_disconnected_wins_over_zero_length() {
    both(BYTE, 512, |rig| {
        rig.server.disconnect().unwrap();
        for end in [Client, Server] {
            assert_eq!(rig.end(end).try_read(0), failed(Error::Disconnected));
            assert_eq!(rig.end(end).try_read(5), failed(Error::Disconnected));
            assert_eq!(rig.end(end).start_read(1, 0), Err(Error::Disconnected));
        }
    });
}

#[test]
fn np_read_06_no_right_to_read() {
    let spec = ConnSpec {
        server: Access::WRITE,
        client: Access::READ,
        ..ConnSpec::new(MESSAGE, 512)
    };
    both_with(spec, |rig| {
        assert_eq!(rig.server.try_read(4), failed(Error::AccessDenied));
        assert_eq!(rig.server.start_read(1, 4), Err(Error::AccessDenied));
        assert_eq!(rig.server.try_write(b"out"), wrote(3));
        assert_eq!(rig.client.try_read(4), whole(b"out"));
    });
}

#[test]
fn np_read_07_bytes_are_gathered_over_messages() {
    both(MESSAGE, 512, |rig| {
        for piece in [b"abc".as_slice(), b"de", b"fghi"] {
            assert_eq!(rig.client.try_write(piece), wrote(piece.len()));
        }
        assert_eq!(rig.server.try_read(6), whole(b"abcdef"));
        assert_eq!(rig.server.try_read(100), whole(b"ghi"));
    });
}

#[test]
fn np_read_08_bytes_do_not_wait_for_a_full_buffer() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"a"), wrote(1));
        rig.server.start_read(1, 100).unwrap();
        expect(rig, &[(Server, 1, whole(b"a"))]);
    });
}

#[test]
fn np_read_09_rest_stays_and_says_part() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        assert_eq!(rig.client.try_write(b"abcdef"), wrote(6));
        assert_eq!(rig.client.try_write(b"next"), wrote(4));
        assert_eq!(rig.server.try_read(2), part(b"ab"));
        let (peek, _) = rig.server.peek(0).unwrap();
        assert_eq!((peek.message_len, peek.messages, peek.available), (4, 2, 8));
        assert_eq!(rig.server.try_read(3), part(b"cde"));
        assert_eq!(rig.server.try_read(300), whole(b"f"));
        assert_eq!(rig.server.try_read(300), whole(b"next"));
    });
}

#[test]
fn np_read_10_another_handle_reads_the_tail() {
    // In one process: another thread.
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        assert_eq!(rig.client.try_write(b"abcdef"), wrote(6));
        rig.server.block(1, Blocking::Read(2), Some(2000));
        assert_eq!(rig.server.join(1, 4000), Some(part(b"ab")));
        rig.server.block(2, Blocking::Read(9), Some(2000));
        assert_eq!(rig.server.join(2, 4000), Some(whole(b"cdef")));
    });
    // Another handle of the same end, on the same grant.
    within(60, || {
        let mut books = npfs_ringbuf::books::LinkBooks::create(&Default::default()).unwrap();
        let (a, b) = (
            books.add_process(None).unwrap(),
            books.add_process(None).unwrap(),
        );
        let attach = |index| {
            npfs_ringbuf::Link::attach(books.share().unwrap(), index).expect("a sound link")
        };
        let (link_a, link_b) = (attach(a), attach(b));
        let spec = ConnSpec::new(MESSAGE, 512);
        let (_, server_grant, client_grant) = books.connect(&spec, a, b).unwrap();
        let open = |link, grant| npfs_ringbuf::Conn::open(link, grant).unwrap();
        let client = open(&link_b, &client_grant);
        let (first, second) = (open(&link_a, &server_grant), open(&link_a, &server_grant));
        first.set_modes(ReadMode::Message, Queue).unwrap();
        assert_eq!(
            second.read_mode(),
            ReadMode::Message,
            "modes belong to the end"
        );
        client.try_write(b"abcdef").unwrap();
        let mut buf = [0; 16];
        assert_eq!(
            first.try_read(&mut buf[..2]),
            Ok(npfs_ringbuf::Read::Part(2))
        );
        assert_eq!(second.try_read(&mut buf), Ok(npfs_ringbuf::Read::Whole(4)));
        assert_eq!(&buf[..4], b"cdef");
    });
}

#[test]
fn np_read_11_an_exact_fit_is_whole_and_gone() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.server.try_read(3), whole(b"abc"));
        assert_eq!(rig.server.info().unwrap().messages, 0);
        assert_eq!(rig.server.try_read(3), failed(Error::WouldBlock));
    });
}

#[test]
fn np_read_12_an_empty_message_is_one_read() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        for piece in [b"".as_slice(), b"", b"a"] {
            assert_eq!(rig.client.try_write(piece), wrote(piece.len()));
        }
        assert_eq!(rig.server.info().unwrap().messages, 3);
        assert_eq!(rig.server.try_read(5), whole(b""));
        assert_eq!(rig.server.info().unwrap().messages, 2);
        // Section 28, 3: also a read of no bytes takes it.
        assert_eq!(rig.server.try_read(0), whole(b""));
        assert_eq!(rig.server.try_read(5), whole(b"a"));
    });
}

#[test]
fn np_read_13_bytes_swallow_empty_messages() {
    both(MESSAGE, 512, |rig| {
        for piece in [b"".as_slice(), b"ab", b"", b"cd", b""] {
            assert_eq!(rig.client.try_write(piece), wrote(piece.len()));
        }
        // In front, in between; the one behind the full buffer is left.
        assert_eq!(rig.server.try_read(4), whole(b"abcd"));
        assert_eq!(rig.server.info().unwrap().messages, 1);
        // Only empty ones: success with nothing, no waiting.
        rig.server.start_read(1, 10).unwrap();
        expect(rig, &[(Server, 1, whole(b""))]);
        assert_eq!(rig.server.info().unwrap().messages, 0);
        assert_eq!(rig.server.try_read(10), failed(Error::WouldBlock));
    });
}

#[test]
fn np_read_14_a_read_of_nothing_waits_like_any_other() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.server.try_read(0), failed(Error::WouldBlock));
        rig.server.start_read(1, 0).unwrap();
        expect(rig, &[]);
        assert!(rig.server.cancel(1));
        expect(rig, &[(Server, 1, failed(Error::Cancelled))]);
        complete(rig, Server);
        assert_eq!(rig.server.try_read(0), failed(Error::Empty));
        rig.client.close();
        assert_eq!(rig.server.try_read(0), failed(Error::Broken));
    });
}

#[test]
fn np_read_15_a_read_of_nothing_in_byte_mode_takes_nothing() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.server.try_read(0), whole(b""));
        assert_eq!(inbound(rig), (3, 509));
    });
}

#[test]
fn np_read_16_a_read_of_nothing_in_message_mode_is_part() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.server.try_read(0), part(b""));
        assert_eq!(inbound(rig), (3, 509));
        assert_eq!(rig.server.try_read(3), whole(b"abc"));
    });
}

#[test]
fn np_read_17_a_pended_read_of_nothing_is_completed_by_a_write() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.server.start_read(1, 0).unwrap();
        rig.server.start_read(2, 10).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        // Nothing was consumed by the first; the write went on to the second.
        expect(rig, &[(Server, 1, part(b"")), (Server, 2, whole(b"abc"))]);
        rig.server.start_read(3, 0).unwrap();
        assert_eq!(rig.client.try_write(b""), wrote(0));
        expect(rig, &[(Server, 3, whole(b""))]);
        assert_eq!(rig.server.info().unwrap().messages, 0);
    });
    both(BYTE, 512, |rig| {
        rig.server.start_read(1, 0).unwrap();
        assert_eq!(rig.client.try_write(b""), wrote(0));
        expect(rig, &[]);
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        expect(rig, &[(Server, 1, whole(b""))]);
        assert_eq!(rig.server.try_read(9), whole(b"abc"));
    });
}

#[test]
fn np_read_18_pended_reads_are_served_in_order() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        for op in 1..=4 {
            rig.server.start_read(op, 3).unwrap();
        }
        assert_eq!(rig.client.try_write(b"abcdefg"), wrote(7));
        expect(
            rig,
            &[
                (Server, 1, part(b"abc")),
                (Server, 2, part(b"def")),
                (Server, 3, whole(b"g")),
            ],
        );
        assert_eq!(rig.client.try_write(b"h"), wrote(1));
        expect(rig, &[(Server, 4, whole(b"h"))]);
    });
}

/// The table of pended operations has 16 places a direction. Who starts one more is told so, and nothing is lost.
#[test]
fn np_read_18_sixteen_reads_at_once() {
    both(BYTE, 512, |rig| {
        for op in 0..16 {
            rig.server.start_read(op, 2).unwrap();
        }
        assert_eq!(rig.server.start_read(16, 2), Err(Error::Busy));
        let data = pattern(18, 33);
        assert_eq!(rig.client.try_write(&data), wrote(33));
        let expected: Vec<_> = (0..16)
            .zip(data.chunks(2))
            .map(|(op, bytes)| (Server, op, whole(bytes)))
            .collect();
        expect(rig, &expected);
        assert_eq!(rig.server.try_read(9), whole(&data[32..]));
        rig.server.start_read(17, 2).unwrap();
        expect(rig, &[]);
    });
}

#[test]
fn np_read_19_the_mode_when_the_data_arrives_decides() {
    both(MESSAGE, 512, |rig| {
        rig.server.start_read(1, 2).unwrap();
        rig.server.set_modes(ReadMode::Message, Queue).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        expect(rig, &[(Server, 1, part(b"ab"))]);
        assert_eq!(rig.server.try_read(2), whole(b"c"));
        rig.server.start_read(2, 2).unwrap();
        rig.server.set_modes(ReadMode::Byte, Queue).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        expect(rig, &[(Server, 2, whole(b"ab"))]);
    });
}

#[test]
fn np_read_20_after_a_close_all_is_read_with_its_boundaries() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        for piece in [b"abc".as_slice(), b"", b"defg"] {
            assert_eq!(rig.client.try_write(piece), wrote(piece.len()));
        }
        rig.client.close();
        assert_eq!(rig.server.state(), State::Closing);
        assert_eq!(rig.server.info().unwrap().read_available, 7);
        assert_eq!(rig.server.try_read(2), part(b"ab"));
        assert_eq!(rig.server.try_read(2), whole(b"c"));
        assert_eq!(rig.server.try_read(2), whole(b""));
        assert_eq!(rig.server.try_read(9), whole(b"defg"));
        assert_eq!(rig.server.try_read(9), failed(Error::Broken));
    });
}

#[test]
fn np_read_21_the_directions_are_independent() {
    both(MESSAGE, 512, |rig| {
        rig.client.start_read(1, 8).unwrap();
        rig.server.start_read(1, 8).unwrap();
        assert_eq!(rig.client.try_write(b"to server"), wrote(9));
        expect(rig, &[(Server, 1, whole(b"to serve"))]);
        assert_eq!(rig.server.try_write(b"to client"), wrote(9));
        expect(rig, &[(Client, 1, whole(b"to clien"))]);
        assert_eq!(rig.server.try_read(8), whole(b"r"));
        assert_eq!(rig.client.try_read(8), whole(b"t"));
    });
}

// ---------------------------------------------------------------------------------------------------- section 12

#[test]
fn np_write_01_the_state_comes_before_the_length() {
    both(MESSAGE, 512, |rig| {
        rig.client.close();
        for data in [b"".as_slice(), b"x"] {
            assert_eq!(rig.server.try_write(data), failed(Error::Closing));
            assert_eq!(rig.server.start_write(1, data), Err(Error::Closing));
        }
        rig.server.disconnect().unwrap();
        for data in [b"".as_slice(), b"x"] {
            assert_eq!(rig.server.try_write(data), failed(Error::Disconnected));
            assert_eq!(rig.server.start_write(1, data), Err(Error::Disconnected));
        }
    });
}

#[test]
fn np_write_02_no_right_to_write() {
    let spec = ConnSpec {
        server: Access::READ,
        client: Access::WRITE,
        ..ConnSpec::new(BYTE, 512)
    };
    both_with(spec, |rig| {
        assert_eq!(rig.server.try_write(b"x"), failed(Error::AccessDenied));
        assert_eq!(rig.server.start_write(1, b"x"), Err(Error::AccessDenied));
        assert_eq!(rig.client.try_write(b"in"), wrote(2));
        assert_eq!(rig.server.try_read(4), whole(b"in"));
    });
}

#[test]
fn np_write_03_nothing_on_a_byte_pipe_does_nothing() {
    both(BYTE, 512, |rig| {
        rig.server.start_read(1, 0).unwrap();
        rig.server.start_read(2, 5).unwrap();
        assert_eq!(rig.client.try_write(b""), wrote(0));
        rig.client.start_write(1, b"").unwrap();
        expect(rig, &[(Client, 1, wrote(0))]);
        assert_eq!(inbound(rig), (0, 507));
    });
}

#[test]
fn np_write_04_an_empty_message_completes_one_read_or_is_queued() {
    both(MESSAGE, 0, |rig| {
        message_mode(rig);
        rig.server.start_read(1, 5).unwrap();
        rig.server.start_read(2, 5).unwrap();
        rig.client.start_write(1, b"").unwrap();
        expect(rig, &[(Client, 1, wrote(0)), (Server, 1, whole(b""))]);
        assert!(rig.server.cancel(2));
        expect(rig, &[(Server, 2, failed(Error::Cancelled))]);
        // Behind a stalled write it is queued at once.
        rig.client.start_write(2, b"stalled").unwrap();
        rig.client.start_write(3, b"").unwrap();
        expect(rig, &[(Client, 3, wrote(0))]);
        assert_eq!(rig.server.info().unwrap().messages, 2);
        assert_eq!(rig.server.try_read(10), whole(b"stalled"));
        expect(rig, &[(Client, 2, wrote(7))]);
        assert_eq!(rig.server.try_read(10), whole(b""));
    });
}

#[test]
fn np_write_04_empty_messages_behind_a_write_that_streams() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        // Far more than the data area of a 512-byte quota holds.
        let data = pattern(4, 300_000);
        rig.client.start_write(1, &data).unwrap();
        for op in 2..5 {
            rig.client.start_write(op, b"").unwrap();
        }
        expect(rig, &[2, 3, 4].map(|op| (Client, op, wrote(0))));
        assert_eq!(rig.server.info().unwrap().messages, 4);
        let mut got = Vec::new();
        let mut op = 10;
        loop {
            rig.server.start_read(op, 40_000).unwrap();
            let (mut done, mut rounds) = (Vec::new(), 0);
            while !done.iter().any(|(end, o, _)| (*end, *o) == (Server, op)) {
                done.extend(over(rig));
                rounds += 1;
                assert!(rounds < 1000, "the read never ends");
            }
            let (_, _, read) = done.into_iter().find(|(end, _, _)| *end == Server).unwrap();
            let Done::Read(bytes, last) = read else {
                panic!("{read:?}")
            };
            got.extend(bytes);
            op += 1;
            if last {
                break;
            }
        }
        assert_eq!(got, data);
        for _ in 0..3 {
            assert_eq!(rig.server.try_read(5), whole(b""));
        }
        assert_eq!(rig.server.try_read(5), failed(Error::WouldBlock));
    });
}

fn fed_outside_the_quota(rig: &mut Rig) {
    rig.server.start_read(1, 32768).unwrap();
    let data = pattern(5, 513);
    assert_eq!(rig.client.try_write(&data), wrote(513));
    expect(rig, &[(Server, 1, whole(&data))]);
}

#[test]
fn np_write_05_pended_reads_are_fed_outside_the_quota() {
    both(BYTE, 512, fed_outside_the_quota);
    both(MESSAGE, 0, fed_outside_the_quota);
}

#[test]
fn np_write_06_what_reads_leave_becomes_an_entry() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.server.start_read(1, 2).unwrap();
        rig.server.start_read(2, 3).unwrap();
        assert_eq!(rig.client.try_write(b"abcdefgh"), wrote(8));
        expect(rig, &[(Server, 1, part(b"ab")), (Server, 2, part(b"cde"))]);
        let (peek, shown) = rig.server.peek(10).unwrap();
        assert_eq!(
            (peek.message_len, peek.messages, shown.as_slice()),
            (3, 1, b"fgh".as_slice())
        );
        // Exactly used up: the last read is whole.
        assert_eq!(rig.server.try_read(9), whole(b"fgh"));
        rig.server.start_read(3, 2).unwrap();
        rig.server.start_read(4, 2).unwrap();
        assert_eq!(rig.client.try_write(b"wxyz"), wrote(4));
        expect(rig, &[(Server, 3, part(b"wx")), (Server, 4, whole(b"yz"))]);
        assert_eq!(rig.server.info().unwrap().messages, 0);
    });
}

#[test]
fn np_write_07_what_fits_completes_and_what_does_not_pends() {
    both(MESSAGE, 8, |rig| {
        rig.client.start_write(1, b"12345678").unwrap();
        expect(rig, &[(Client, 1, wrote(8))]);
        assert_eq!(rig.client.try_write(b"9"), failed(Error::WouldBlock));
        rig.client.start_write(2, b"9").unwrap();
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(1), whole(b"1"));
        expect(rig, &[(Client, 2, wrote(1))]);
    });
}

#[test]
fn np_write_08_more_than_the_whole_quota() {
    both(BYTE, 100, |rig| {
        let data = pattern(8, 1000);
        rig.client.start_write(1, &data).unwrap();
        assert_eq!(rig.server.try_read(899), whole(&data[..899]));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(1), whole(&data[899..900]));
        expect(rig, &[(Client, 1, wrote(1000))]);
        assert_eq!(inbound(rig), (100, 0));
    });
}

#[test]
fn np_write_09_no_quota_pends_until_all_is_read() {
    both(MESSAGE, 0, |rig| {
        message_mode(rig);
        rig.client.start_write(1, b"abc").unwrap();
        assert_eq!(rig.client.try_write(b"x"), failed(Error::WouldBlock));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(2), part(b"ab"));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(2), whole(b"c"));
        expect(rig, &[(Client, 1, wrote(3))]);
        // Partly absorbed by a read: the rest pends.
        rig.server.start_read(1, 2).unwrap();
        rig.client.start_write(2, b"def").unwrap();
        expect(rig, &[(Server, 1, part(b"de"))]);
        assert_eq!(rig.server.try_read(2), whole(b"f"));
        expect(rig, &[(Client, 2, wrote(3))]);
    });
}

#[test]
fn np_write_10_complete_mode_messages_are_all_or_nothing() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        complete(rig, Client);
        let data = pattern(10, 600);
        assert_eq!(rig.client.try_write(&data[..513]), wrote(0));
        assert_eq!(inbound(rig), (0, 512));
        rig.server.start_read(1, 1).unwrap();
        // 514 against one read of a byte and 512 of quota: nothing happens, to the read neither.
        assert_eq!(rig.client.try_write(&data[..514]), wrote(0));
        expect(rig, &[]);
        assert_eq!(rig.client.try_write(&data[..513]), wrote(513));
        expect(rig, &[(Server, 1, part(&data[..1]))]);
        assert_eq!(inbound(rig), (512, 0));
        assert_eq!(rig.client.try_write(b"x"), wrote(0));
        assert_eq!(rig.client.try_write(b""), wrote(0));
        assert_eq!(rig.server.info().unwrap().messages, 2);
        assert_eq!(rig.server.try_read(600), whole(&data[1..513]));
        assert_eq!(rig.client.try_write(&data[..512]), wrote(512));
    });
}

#[test]
fn np_write_11_complete_mode_bytes_drop_what_does_not_fit() {
    both(BYTE, 512, |rig| {
        complete(rig, Client);
        let data = pattern(11, 600);
        assert_eq!(rig.client.try_write(&data[..513]), wrote(0));
        assert_eq!(inbound(rig), (0, 512));
        rig.server.start_read(1, 1).unwrap();
        assert_eq!(rig.client.try_write(&data[..514]), wrote(1));
        expect(rig, &[(Server, 1, whole(&data[..1]))]);
        assert_eq!(inbound(rig), (0, 512));
        rig.server.start_read(2, 1).unwrap();
        assert_eq!(rig.client.try_write(&data[..513]), wrote(513));
        expect(rig, &[(Server, 2, whole(&data[..1]))]);
        assert_eq!(inbound(rig), (512, 0));
        assert_eq!(rig.client.try_write(b"x"), wrote(0));
        assert_eq!(rig.server.try_read(100), whole(&data[1..101]));
        assert_eq!(rig.client.try_write(&data[..100]), wrote(100));
    });
}

#[test]
fn np_write_12_the_writers_mode_counts() {
    both(BYTE, 4, |rig| {
        complete(rig, Server);
        // The reader's mode does not matter: this pends.
        rig.client.start_write(1, b"12345").unwrap();
        expect(rig, &[]);
        // The writer's does: this never pends.
        rig.server.start_write(1, b"12345").unwrap();
        expect(rig, &[(Server, 1, wrote(0))]);
    });
}

#[test]
fn np_write_13_stalled_writes_complete_in_order_and_stay_whole() {
    both(BYTE, 1, |rig| {
        for op in 0..16 {
            rig.client
                .start_write(op, &[u8::try_from(op).unwrap(); 3])
                .unwrap();
        }
        for op in 0..16 {
            let byte = u8::try_from(op).unwrap();
            assert_eq!(rig.server.try_read(1), whole(&[byte]));
            expect(rig, &[]);
            assert_eq!(rig.server.try_read(1), whole(&[byte]));
            expect(rig, &[(Client, op, wrote(3))]);
            assert_eq!(rig.server.try_read(1), whole(&[byte]));
        }
    });
}

#[test]
fn np_write_14_the_reader_closes_under_a_pended_write() {
    both(BYTE, 1, |rig| {
        rig.client.start_write(1, b"abc").unwrap();
        assert_eq!(rig.server.try_read(1), whole(b"a"));
        rig.server.close();
        expect(rig, &[(Client, 1, failed(Error::Broken))]);
        assert_eq!(rig.client.try_write(b"x"), failed(Error::Closing));
    });
}

#[test]
fn np_write_17_the_data_is_captured_before_the_return() {
    within(30, || {
        let pair = Pair::new(&ConnSpec::new(MESSAGE, 512));
        let mut data = *b"before";
        assert_eq!(pair.client.try_write(&data), Ok(6));
        data.fill(b'x');
        assert_eq!(data, [b'x'; 6]);
        let mut buf = [0; 16];
        assert_eq!(pair.server.try_read(&mut buf).map(|r| r.count()), Ok(6));
        assert_eq!(&buf[..6], b"before");
    });
}

// ---------------------------------------------------------------------------------------------------- section 13

#[test]
fn np_flush_01_waits_for_the_outgoing_direction() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.server.start_flush(1).unwrap();
        expect(rig, &[(Server, 1, Done::Flushed)]);
        rig.client.start_flush(1).unwrap();
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(3), whole(b"abc"));
        expect(rig, &[(Client, 1, Done::Flushed)]);
    });
}

#[test]
fn np_flush_02_nothing_unread_is_success() {
    both(BYTE, 512, |rig| {
        rig.client.start_flush(1).unwrap();
        expect(rig, &[(Client, 1, Done::Flushed)]);
        rig.server.start_read(1, 5).unwrap();
        rig.client.start_flush(2).unwrap();
        expect(rig, &[(Client, 2, Done::Flushed)]);
        rig.client.close();
        expect(rig, &[(Server, 1, failed(Error::Broken))]);
        rig.server.start_flush(2).unwrap();
        expect(rig, &[(Server, 2, Done::Flushed)]);
        rig.server.disconnect().unwrap();
        rig.server.start_flush(3).unwrap();
        expect(rig, &[(Server, 3, Done::Flushed)]);
    });
}

#[test]
fn np_flush_03_a_disconnected_client() {
    both(BYTE, 512, |rig| {
        rig.server.disconnect().unwrap();
        assert_eq!(rig.client.start_flush(1), Err(Error::Disconnected));
    });
}

#[test]
fn np_flush_04_waits_for_all_that_was_written_before() {
    both(MESSAGE, 4, |rig| {
        assert_eq!(rig.client.try_write(b"ab"), wrote(2));
        rig.client.start_write(1, b"cdefgh").unwrap();
        rig.client.start_flush(2).unwrap();
        assert_eq!(rig.server.try_read(2), whole(b"ab"));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(6), whole(b"cdefgh"));
        expect(rig, &[(Client, 1, wrote(6)), (Client, 2, Done::Flushed)]);
    });
}

#[test]
fn np_flush_05_later_data_does_not_prolong_it() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"before"), wrote(6));
        rig.client.start_flush(1).unwrap();
        assert_eq!(rig.client.try_write(b"after"), wrote(5));
        assert_eq!(rig.server.try_read(6), whole(b"before"));
        expect(rig, &[(Client, 1, Done::Flushed)]);
        assert_eq!(inbound(rig).0, 5);
    });
}

#[test]
fn np_flush_06_the_last_byte_ends_it() {
    both(MESSAGE, 3, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.client.start_flush(1).unwrap();
        assert_eq!(rig.server.try_read(2), whole(b"ab"));
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(1), whole(b"c"));
        expect(rig, &[(Client, 1, Done::Flushed)]);
        // So does cancelling the write that held the last data.
        rig.client.start_write(2, b"defg").unwrap();
        rig.client.start_flush(3).unwrap();
        expect(rig, &[]);
        assert!(rig.client.cancel(2));
        expect(
            rig,
            &[
                (Client, 2, failed(Error::Cancelled)),
                (Client, 3, Done::Flushed),
            ],
        );
    });
}

#[test]
fn np_flush_07_the_reader_closes_or_disconnects() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.client.start_flush(1).unwrap();
        rig.server.close();
        expect(rig, &[(Client, 1, failed(Error::Broken))]);
    });
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.client.start_flush(1).unwrap();
        rig.server.disconnect().unwrap();
        expect(rig, &[(Client, 1, failed(Error::Disconnected))]);
    });
}

// ---------------------------------------------------------------------------------------------------- section 14

#[test]
fn np_peek_02_states() {
    both(MESSAGE, 512, |rig| {
        let (peek, _) = rig.server.peek(10).unwrap();
        assert_eq!(
            (peek.state, peek.available, peek.partial),
            (State::Connected, 0, false)
        );
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.client.close();
        let (peek, shown) = rig.server.peek(10).unwrap();
        assert_eq!(
            (peek.state, shown.as_slice()),
            (State::Closing, b"abc".as_slice())
        );
        assert_eq!(rig.server.try_read(10), whole(b"abc"));
        assert_eq!(rig.server.peek(10), Err(Error::Broken));
    });
    both(MESSAGE, 512, |rig| {
        rig.server.disconnect().unwrap();
        assert_eq!(rig.server.peek(10), Err(Error::InvalidState));
        assert_eq!(rig.client.peek(10), Err(Error::Disconnected));
    });
}

#[test]
fn np_peek_04_counts_pended_writes() {
    both(BYTE, 10, |rig| {
        assert_eq!(rig.client.try_write(b"12345"), wrote(5));
        rig.client.start_write(1, b"1234567").unwrap();
        assert_eq!(rig.server.peek(0).unwrap().0.available, 12);
    });
}

#[test]
fn np_peek_05_messages_and_lengths_by_type() {
    both(MESSAGE, 512, |rig| {
        for piece in [b"abc".as_slice(), b"", b"defg"] {
            assert_eq!(rig.client.try_write(piece), wrote(piece.len()));
        }
        // A flush is no message.
        rig.client.start_flush(1).unwrap();
        let (peek, _) = rig.server.peek(0).unwrap();
        assert_eq!((peek.message_len, peek.messages, peek.available), (3, 3, 7));
    });
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.client.try_write(b"de"), wrote(2));
        let (peek, _) = rig.server.peek(9).unwrap();
        assert_eq!((peek.message_len, peek.messages, peek.available), (0, 0, 5));
    });
}

#[test]
fn np_peek_06_the_type_decides_what_is_copied() {
    both(MESSAGE, 512, |rig| {
        // Byte read mode, as both ends start.
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.client.try_write(b"defg"), wrote(4));
        assert_eq!(rig.server.peek(100).unwrap().1, b"abc");
    });
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.client.try_write(b"defg"), wrote(4));
        assert_eq!(rig.server.peek(100).unwrap().1, b"abcdefg");
        assert_eq!(rig.server.peek(5).unwrap().1, b"abcde");
    });
}

#[test]
fn np_peek_07_less_than_the_message_is_partial() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        for (room, partial) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
            let (peek, shown) = rig.server.peek(room).unwrap();
            assert_eq!(
                (peek.partial, peek.copied, shown.len()),
                (partial, room.min(3), room.min(3))
            );
        }
    });
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert!(!rig.server.peek(1).unwrap().0.partial);
    });
}

#[test]
fn np_peek_08_no_room_for_data_is_partial() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert!(rig.server.peek(0).unwrap().0.partial);
    });
}

#[test]
fn np_peek_09_changes_nothing() {
    both(MESSAGE, 3, |rig| {
        rig.client.start_write(1, b"abcd").unwrap();
        let before = (rig.server.info(), rig.client.info());
        for _ in 0..3 {
            assert_eq!(rig.server.peek(10).unwrap().1, b"abcd");
        }
        expect(rig, &[]);
        assert_eq!((rig.server.info(), rig.client.info()), before);
        assert_eq!(rig.server.try_read(10), whole(b"abcd"));
        expect(rig, &[(Client, 1, wrote(4))]);
        rig.server.start_read(1, 5).unwrap();
        assert_eq!(rig.server.peek(10).unwrap().0.available, 0);
        assert_eq!(rig.client.try_write(b"e"), wrote(1));
        expect(rig, &[(Server, 1, whole(b"e"))]);
    });
}

// ---------------------------------------------------------------------------------------------------- section 15

#[test]
fn np_xcv_01_states() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.client.close();
        assert_eq!(
            rig.server.start_transact(1, b"q", 9),
            Err(Error::InvalidState)
        );
        rig.server.disconnect().unwrap();
        assert_eq!(
            rig.server.start_transact(1, b"q", 9),
            Err(Error::InvalidState)
        );
    });
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.server.disconnect().unwrap();
        assert_eq!(
            rig.client.start_transact(1, b"q", 9),
            Err(Error::Disconnected)
        );
    });
}

#[test]
fn np_xcv_02_duplex_and_message_read_mode() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(
            rig.client.start_transact(1, b"q", 9),
            Err(Error::InvalidState)
        );
    });
    both(BYTE, 512, |rig| {
        assert_eq!(
            rig.client.start_transact(1, b"q", 9),
            Err(Error::InvalidState)
        );
    });
    let spec = ConnSpec {
        server: Access::READ,
        client: Access::WRITE,
        ..ConnSpec::new(MESSAGE, 512)
    };
    both_with(spec, |rig| {
        message_mode(rig);
        let refused = rig.client.start_transact(1, b"q", 9);
        assert!(
            matches!(refused, Err(Error::InvalidState | Error::AccessDenied)),
            "half duplex: {refused:?}"
        );
        assert_eq!(rig.server.info().unwrap().messages, 0, "nothing was sent");
    });
}

#[test]
fn np_xcv_03_the_incoming_queue_must_be_empty() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        assert_eq!(rig.server.try_write(b""), wrote(0));
        assert_eq!(rig.client.start_transact(1, b"q", 9), Err(Error::PipeBusy));
        assert_eq!(rig.client.try_read(1), whole(b""));
        rig.client.start_read(2, 1).unwrap();
        assert_eq!(rig.client.start_transact(3, b"q", 9), Err(Error::PipeBusy));
        assert!(rig.client.cancel(2));
        assert_eq!(
            rig.server.info().unwrap().messages,
            0,
            "no request was sent"
        );
        rig.client.start_transact(4, b"q", 9).unwrap();
        expect(rig, &[(Client, 2, failed(Error::Cancelled))]);
    });
}

#[test]
fn np_xcv_04_the_request_waits_for_no_quota() {
    both(MESSAGE, 2, |rig| {
        message_mode(rig);
        rig.client.start_write(1, b"stalled").unwrap();
        rig.client.start_transact(2, b"request", 20).unwrap();
        assert_eq!(rig.server.info().unwrap().messages, 2);
        assert_eq!(rig.server.try_read(20), whole(b"stalled"));
        expect(rig, &[(Client, 1, wrote(7))]);
        assert_eq!(rig.server.try_read(20), whole(b"request"));
        assert_eq!(rig.server.try_write(b"ok"), wrote(2));
        expect(rig, &[(Client, 2, whole(b"ok"))]);
        // Pended reads first, straight from the request; and an empty request is a message.
        rig.server.start_read(1, 3).unwrap();
        rig.client.start_transact(3, b"abcd", 20).unwrap();
        expect(rig, &[(Server, 1, part(b"abc"))]);
        assert_eq!(rig.server.try_read(20), whole(b"d"));
        assert_eq!(rig.server.try_write(b"r"), wrote(1));
        expect(rig, &[(Client, 3, whole(b"r"))]);
        rig.client.start_transact(4, b"", 20).unwrap();
        assert_eq!(rig.server.try_read(20), whole(b""));
    });
}

#[test]
fn np_xcv_05_the_first_reply_completes_it() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.client.start_transact(1, b"q", 3).unwrap();
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(9), whole(b"q"));
        assert_eq!(rig.server.try_write(b"reply"), wrote(5));
        expect(rig, &[(Client, 1, part(b"rep"))]);
        assert_eq!(rig.client.try_read(9), whole(b"ly"));
    });
}

#[test]
fn np_xcv_06_no_room_and_no_bytes() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.client.start_transact(1, b"q", 0).unwrap();
        assert_eq!(rig.server.try_read(9), whole(b"q"));
        assert_eq!(rig.server.try_write(b""), wrote(0));
        expect(rig, &[(Client, 1, whole(b""))]);
    });
}

#[test]
fn np_xcv_07_the_reply_may_be_a_transaction() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.client.start_transact(1, b"question", 30).unwrap();
        assert_eq!(rig.server.try_read(30), whole(b"question"));
        rig.server
            .start_transact(1, b"answer, and a question", 30)
            .unwrap();
        expect(rig, &[(Client, 1, whole(b"answer, and a question"))]);
        assert_eq!(rig.client.try_write(b"done"), wrote(4));
        expect(rig, &[(Server, 1, whole(b"done"))]);
    });
}

#[test]
fn np_xcv_08_cancelling_leaves_the_request() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.client.start_transact(1, b"request", 30).unwrap();
        assert!(rig.client.cancel(1));
        expect(rig, &[(Client, 1, failed(Error::Cancelled))]);
        assert_eq!(rig.server.try_read(30), whole(b"request"));
        assert_eq!(rig.server.try_write(b"late"), wrote(4));
        assert_eq!(rig.client.try_read(30), whole(b"late"));
    });
}

#[test]
fn np_xcv_09_complete_mode_makes_no_difference() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        complete(rig, Client);
        rig.client.start_transact(1, b"q", 30).unwrap();
        expect(rig, &[]);
        assert_eq!(rig.server.try_read(30), whole(b"q"));
        assert_eq!(rig.server.try_write(b"r"), wrote(1));
        expect(rig, &[(Client, 1, whole(b"r"))]);
    });
}

// ---------------------------------------------------------------------------------------------------- section 16

#[test]
fn np_cancel_01_every_pended_operation() {
    both(MESSAGE, 1, |rig| {
        message_mode(rig);
        rig.server.start_read(1, 5).unwrap();
        assert!(rig.server.cancel(1));
        expect(rig, &[(Server, 1, failed(Error::Cancelled))]);
        rig.client.start_write(1, b"abc").unwrap();
        rig.client.start_flush(2).unwrap();
        rig.client.start_transact(3, b"q", 5).unwrap();
        for op in [3, 2, 1] {
            assert!(rig.client.cancel(op), "operation {op}");
        }
        expect(
            rig,
            &[1, 2, 3].map(|op| (Client, op, failed(Error::Cancelled))),
        );
    });
}

#[test]
fn np_cancel_02_the_other_reads_keep_their_order() {
    both(BYTE, 512, |rig| {
        for op in 1..=3 {
            rig.server.start_read(op, 2).unwrap();
        }
        assert!(rig.server.cancel(2));
        assert_eq!(rig.client.try_write(b"abcd"), wrote(4));
        expect(
            rig,
            &[
                (Server, 1, whole(b"ab")),
                (Server, 2, failed(Error::Cancelled)),
                (Server, 3, whole(b"cd")),
            ],
        );
    });
}

#[test]
fn np_cancel_03_removes_all_that_is_unread() {
    both(MESSAGE, 4, |rig| {
        message_mode(rig);
        rig.client.start_write(1, b"aaaaaa").unwrap();
        rig.client.start_write(2, b"bbb").unwrap();
        rig.client.start_write(3, b"cc").unwrap();
        assert_eq!(rig.server.try_read(1), part(b"a"));
        assert!(rig.client.cancel(1));
        // Three bytes of the second are charged now; of the third one.
        expect(
            rig,
            &[(Client, 1, failed(Error::Cancelled)), (Client, 2, wrote(3))],
        );
        assert_eq!(inbound(rig), (5, 0));
        let (peek, shown) = rig.server.peek(9).unwrap();
        assert_eq!((peek.messages, shown.as_slice()), (2, b"bbb".as_slice()));
        assert_eq!(rig.server.try_read(9), whole(b"bbb"));
        expect(rig, &[(Client, 3, wrote(2))]);
        assert_eq!(rig.server.try_read(9), whole(b"cc"));
        assert_eq!(inbound(rig), (0, 4));
    });
}

#[test]
fn np_cancel_03_one_in_the_middle() {
    both(MESSAGE, 1, |rig| {
        message_mode(rig);
        for (op, data) in [(1, b"aaa".as_slice()), (2, b"bbb"), (3, b"ccc")] {
            rig.client.start_write(op, data).unwrap();
        }
        assert!(rig.client.cancel(2));
        expect(rig, &[(Client, 2, failed(Error::Cancelled))]);
        assert_eq!(rig.server.info().unwrap().messages, 2);
        assert_eq!(rig.server.try_read(9), whole(b"aaa"));
        expect(rig, &[(Client, 1, wrote(3))]);
        assert_eq!(rig.server.try_read(9), whole(b"ccc"));
        expect(rig, &[(Client, 3, wrote(3))]);
    });
}

#[test]
fn np_cancel_04_what_has_completed_cannot_be_recalled() {
    both(BYTE, 512, |rig| {
        rig.client.start_write(1, b"abc").unwrap();
        assert!(!rig.client.cancel(1));
        expect(rig, &[(Client, 1, wrote(3))]);
        assert_eq!(inbound(rig).0, 3);
        rig.server.start_read(1, 9).unwrap();
        assert!(!rig.server.cancel(1));
        expect(rig, &[(Server, 1, whole(b"abc"))]);
        // A second cancel finds nothing.
        rig.server.start_read(2, 9).unwrap();
        assert!(rig.server.cancel(2));
        assert!(!rig.server.cancel(2));
        expect(rig, &[(Server, 2, failed(Error::Cancelled))]);
    });
}

#[test]
fn np_cancel_08_dropping_an_operation_withdraws_it() {
    both(BYTE, 1, |rig| {
        rig.client.start_write(1, b"abc").unwrap();
        assert_eq!(rig.server.try_read(1), whole(b"a"));
        rig.client.forget(1);
        assert_eq!(inbound(rig), (0, 1));
        assert_eq!(rig.client.try_write(b"x"), wrote(1));
        assert_eq!(rig.server.try_read(9), whole(b"x"));
        rig.server.start_read(1, 9).unwrap();
        rig.server.forget(1);
        assert_eq!(inbound(rig), (0, 1));
        assert_eq!(rig.client.try_write(b"y"), wrote(1));
        assert_eq!(rig.server.try_read(9), whole(b"y"));
    });
}

// ---------------------------------------------------------------------------------------------------- section 17

#[test]
fn np_close_02_what_a_close_does_to_the_peer() {
    both(MESSAGE, 2, |rig| {
        message_mode(rig);
        rig.client.start_write(1, b"lost").unwrap();
        rig.client.start_flush(2).unwrap();
        rig.client.start_read(3, 5).unwrap();
        rig.server.close();
        expect(
            rig,
            &[1, 2, 3].map(|op| (Client, op, failed(Error::Broken))),
        );
        let info = rig.client.info().unwrap();
        assert_eq!(
            (info.state, info.write_quota_available),
            (State::Closing, 2)
        );
    });
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.server.try_write(b"kept"), wrote(4));
        rig.server.close();
        assert_eq!(rig.client.try_read(9), whole(b"kept"));
        assert_eq!(rig.client.try_read(9), failed(Error::Broken));
    });
}

#[test]
fn np_close_02_by_the_books() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.server.try_write(b"kept"), wrote(4));
        rig.client.start_read(1, 9).unwrap();
        expect(rig, &[(Client, 1, whole(b"kept"))]);
        rig.client.start_read(2, 9).unwrap();
        rig.books.close(rig.id, Server).unwrap();
        expect(rig, &[(Client, 2, failed(Error::Broken))]);
        assert_eq!(rig.client.try_write(b"x"), failed(Error::Closing));
    });
}

#[test]
fn np_close_03_the_closers_own_operations() {
    both(MESSAGE, 1, |rig| {
        message_mode(rig);
        rig.client.start_write(1, b"stays").unwrap();
        rig.client.start_read(2, 5).unwrap();
        rig.client.close();
        expect(
            rig,
            &[
                (Client, 1, failed(Error::Cancelled)),
                (Client, 2, failed(Error::Broken)),
            ],
        );
        assert_eq!(rig.server.try_read(9), whole(b"stays"));
        assert_eq!(rig.server.try_read(9), failed(Error::Broken));
    });
}

#[test]
fn np_close_05_closing_the_second_end() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"left over"), wrote(9));
        rig.client.close();
        rig.server.close();
        for end in [Client, Server] {
            assert_eq!(rig.end(end).try_read(9), failed(Error::Stale));
            assert_eq!(rig.end(end).try_write(b"x"), failed(Error::Stale));
        }
        // The slot serves again, and nothing of the old connection is in it.
        rig.renew(&ConnSpec::new(MESSAGE, 512));
        assert_eq!(rig.server.try_read(9), failed(Error::WouldBlock));
        assert_eq!(rig.server.info().unwrap().read_available, 0);
    });
}

#[test]
fn np_close_05_slots_and_areas_come_back() {
    within(60, || {
        let config = npfs_ringbuf::books::LinkConfig {
            slots: 2,
            ..Default::default()
        };
        let mut pair = Pair::with(&ConnSpec::new(BYTE, 512), &config);
        for round in 0..200_u64 {
            let (id, server, client) = pair.another(&ConnSpec::new(BYTE, 512));
            assert_eq!(pair.books.connections(), 2);
            let data = pattern(round, 100);
            assert_eq!(client.try_write(&data), Ok(100));
            let mut buf = [0; 200];
            assert_eq!(server.try_read(&mut buf).map(|r| r.count()), Ok(100));
            assert_eq!(buf[..100], data);
            assert_eq!(client.try_write(b"unread"), Ok(6));
            client.close();
            server.close();
            pair.books.close(id, Client).unwrap();
            pair.books.close(id, Server).unwrap();
            assert_eq!(pair.books.connections(), 1);
            assert_eq!(client.try_read(&mut buf), Err(Error::Stale));
        }
    });
}

#[test]
fn np_close_06_a_write_after_the_peer_closed_never_succeeds() {
    both(BYTE, 512, |rig| {
        rig.server.close();
        assert_eq!(rig.client.info().unwrap().write_quota_available, 512);
        assert_eq!(rig.client.try_write(b"x"), failed(Error::Closing));
        complete(rig, Client);
        assert_eq!(rig.client.try_write(b"x"), failed(Error::Closing));
    });
}

#[test]
fn np_close_07_modes_may_be_set_after_the_peer_closed() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"ab"), wrote(2));
        rig.client.close();
        rig.server.set_modes(ReadMode::Message, Queue).unwrap();
        assert_eq!(rig.server.try_read(1), part(b"a"));
        rig.server.set_modes(ReadMode::Byte, Queue).unwrap();
        assert_eq!(rig.server.try_read(1), whole(b"b"));
    });
}

// ------------------------------------------------------------------------------------------- section 8: disconnect

#[test]
fn np_disc_01_connected() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.server.state(), State::Connected);
        rig.server.disconnect().unwrap();
        assert_eq!(
            (rig.server.state(), rig.client.state()),
            (State::Disconnected, State::Disconnected)
        );
    });
}

#[test]
fn np_disc_02_closing() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"gone"), wrote(4));
        rig.client.close();
        rig.server.disconnect().unwrap();
        assert_eq!(rig.server.state(), State::Disconnected);
        assert_eq!(rig.server.try_read(9), failed(Error::Disconnected));
    });
}

#[test]
fn np_disc_03_a_second_time() {
    both(BYTE, 512, |rig| {
        rig.server.disconnect().unwrap();
        assert_eq!(rig.server.disconnect(), Err(Error::Disconnected));
    });
}

#[test]
fn np_disc_05_not_for_clients() {
    both(BYTE, 512, |rig| {
        assert!(rig.client.disconnect().is_err());
        assert_eq!(
            (rig.server.state(), rig.client.state()),
            (State::Connected, State::Connected)
        );
        assert_eq!(rig.client.try_write(b"on"), wrote(2));
        assert_eq!(rig.server.try_read(9), whole(b"on"));
    });
}

#[test]
fn np_disc_06_a_disconnected_client() {
    both(BYTE, 512, |rig| {
        rig.server.disconnect().unwrap();
        assert_eq!(rig.client.disconnect(), Err(Error::Disconnected));
    });
}

#[test]
fn np_disc_07_data_of_both_directions_is_discarded() {
    both(MESSAGE, 512, |rig| {
        assert_eq!(rig.client.try_write(b"in"), wrote(2));
        assert_eq!(rig.server.try_write(b"out"), wrote(3));
        rig.server.disconnect().unwrap();
        for end in [Client, Server] {
            assert_eq!(rig.end(end).try_read(9), failed(Error::Disconnected));
        }
        assert_eq!(rig.server.info().unwrap().read_available, 0);
    });
}

#[test]
fn np_disc_08_all_that_pends_at_both_ends() {
    both(MESSAGE, 1, |rig| {
        message_mode(rig);
        rig.client.start_write(1, b"abc").unwrap();
        rig.client.start_flush(2).unwrap();
        rig.client.start_transact(3, b"q", 5).unwrap();
        rig.server.disconnect().unwrap();
        expect(
            rig,
            &[1, 2, 3].map(|op| (Client, op, failed(Error::Disconnected))),
        );
    });
    both(MESSAGE, 1, |rig| {
        message_mode(rig);
        rig.server.start_write(1, b"abc").unwrap();
        rig.server.start_flush(2).unwrap();
        rig.server.start_read(3, 5).unwrap();
        rig.server.disconnect().unwrap();
        expect(
            rig,
            &[1, 2, 3].map(|op| (Server, op, failed(Error::Disconnected))),
        );
    });
}

#[test]
fn np_disc_08_by_the_books() {
    both(MESSAGE, 512, |rig| {
        rig.client.start_read(1, 5).unwrap();
        rig.books.disconnect(rig.id).unwrap();
        expect(rig, &[(Client, 1, failed(Error::Disconnected))]);
        assert_eq!(rig.server.state(), State::Disconnected);
    });
}

#[test]
fn np_disc_11_it_does_not_flush() {
    both(BYTE, 512, |rig| {
        assert_eq!(rig.server.try_write(b"never seen"), wrote(10));
        rig.server.disconnect().unwrap();
        assert_eq!(rig.client.try_read(99), failed(Error::Disconnected));
    });
}

// ------------------------------------------------------------------------------------ section 18, as far as it goes

#[test]
fn np_info_01_a_disconnected_client_is_told_nothing() {
    both(MESSAGE, 512, |rig| {
        rig.server.disconnect().unwrap();
        assert_eq!(rig.client.info(), Err(Error::Disconnected));
        assert_eq!(
            rig.client.set_modes(ReadMode::Message, Queue),
            Err(Error::Disconnected)
        );
        assert_eq!(rig.server.info().unwrap().state, State::Disconnected);
        rig.server.set_modes(ReadMode::Message, Queue).unwrap();
    });
}

#[test]
fn np_info_05_message_mode_needs_a_message_pipe() {
    both(BYTE, 512, |rig| {
        assert_eq!(
            rig.client.set_modes(ReadMode::Message, Queue),
            Err(Error::InvalidMode)
        );
        assert_eq!(rig.client.modes(), (ReadMode::Byte, Queue));
    });
    both(MESSAGE, 512, |rig| {
        for mode in [ReadMode::Message, ReadMode::Byte, ReadMode::Message] {
            rig.client.set_modes(mode, Queue).unwrap();
            assert_eq!(rig.client.modes(), (mode, Queue));
        }
    });
}

#[test]
fn np_info_06_only_the_calling_end_changes() {
    both(MESSAGE, 512, |rig| {
        rig.client.set_modes(ReadMode::Message, Complete).unwrap();
        assert_eq!(rig.client.modes(), (ReadMode::Message, Complete));
        assert_eq!(rig.server.modes(), (ReadMode::Byte, Queue));
    });
}

#[test]
fn np_info_07_complete_mode_needs_idle_queues() {
    both(BYTE, 512, |rig| {
        rig.client.start_read(1, 5).unwrap();
        assert_eq!(
            rig.client.set_modes(ReadMode::Byte, Complete),
            Err(Error::PipeBusy)
        );
        assert!(rig.client.cancel(1));
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(
            rig.client.set_modes(ReadMode::Byte, Complete),
            Err(Error::PipeBusy)
        );
        assert_eq!(rig.server.try_read(5), whole(b"abc"));
        rig.client.set_modes(ReadMode::Byte, Complete).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.client.set_modes(ReadMode::Byte, Queue).unwrap();
    });
}

#[test]
fn np_info_09_what_this_end_can_read() {
    both(BYTE, 4, |rig| {
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        rig.client.start_write(1, b"defg").unwrap();
        assert_eq!(rig.server.info().unwrap().read_available, 7);
        assert_eq!(rig.client.info().unwrap().read_available, 0);
        assert_eq!(rig.server.try_read(9), whole(b"abcdefg"));
        rig.server.start_read(2, 5).unwrap();
        assert_eq!(rig.server.info().unwrap().read_available, 0);
    });
}

#[test]
fn np_info_10_the_quota_that_is_left_by_direction() {
    let spec = ConnSpec {
        inbound_quota: 100,
        outbound_quota: 7,
        ..ConnSpec::new(BYTE, 0)
    };
    both_with(spec, |rig| {
        assert_eq!(rig.client.info().unwrap().write_quota_available, 100);
        assert_eq!(rig.server.info().unwrap().write_quota_available, 7);
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.server.try_write(b"ab"), wrote(2));
        assert_eq!(rig.client.info().unwrap().write_quota_available, 97);
        assert_eq!(rig.server.info().unwrap().write_quota_available, 5);
    });
}

// ------------------------------------------------------------------------ reads that their owner polls
//
// Those of odd names (`Driver`). Their owner looks in `expect` and nowhere else, so that all before that is what others find:
// as if the read had been answered when the write was.

#[test]
fn np_write_05_a_polled_read_has_what_was_written() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        for round in 0..3 {
            rig.server.start_read(1, 10).unwrap();
            assert_eq!(inbound(rig), (0, 502), "round {round}");
            assert_eq!(rig.client.try_write(b"abc"), wrote(3));
            // It is the read's: nothing is unread, no quota is taken, nothing can be flushed, read or looked at.
            assert_eq!(inbound(rig), (0, 512));
            assert_eq!(rig.server.peek(9).unwrap().0.available, 0);
            assert_eq!(rig.server.try_read(9), failed(Error::WouldBlock));
            rig.client.start_flush(2).unwrap();
            expect(
                rig,
                &[(Client, 2, Done::Flushed), (Server, 1, whole(b"abc"))],
            );
        }
    });
}

#[test]
fn np_queue_01_a_polled_read_takes_one_write_and_the_next_is_data() {
    both(BYTE, 512, |rig| {
        rig.server.start_read(1, 100).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert_eq!(rig.client.try_write(b"defg"), wrote(4));
        expect(rig, &[(Server, 1, whole(b"abc"))]);
        assert_eq!(inbound(rig), (4, 508));
        assert_eq!(rig.server.try_read(9), whole(b"defg"));
        // A part of a message, and the rest is data.
        rig.server.start_read(3, 2).unwrap();
        assert_eq!(rig.client.try_write(b"hijk"), wrote(4));
        assert_eq!(rig.server.try_read(9), whole(b"jk"));
        expect(rig, &[(Server, 3, whole(b"hi"))]);
    });
}

#[test]
fn np_queue_06_the_quota_does_not_count_what_a_polled_read_takes() {
    both(BYTE, 4, |rig| {
        rig.server.start_read(1, 4).unwrap();
        assert_eq!(rig.client.try_write(b"abcd"), wrote(4));
        assert_eq!(rig.client.try_write(b"efgh"), wrote(4));
        assert_eq!(rig.client.try_write(b"i"), failed(Error::WouldBlock));
        expect(rig, &[(Server, 1, whole(b"abcd"))]);
        assert_eq!(rig.server.try_read(9), whole(b"efgh"));
    });
    // Nothing but the read takes anything.
    both(BYTE, 0, |rig| {
        complete(rig, Client);
        rig.server.start_read(1, 4).unwrap();
        assert_eq!(rig.client.try_write(b"abcd"), wrote(4));
        assert_eq!(rig.client.try_write(b"efgh"), wrote(0));
        expect(rig, &[(Server, 1, whole(b"abcd"))]);
    });
}

#[test]
fn np_read_18_reads_behind_a_polled_one() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.server.start_read(1, 9).unwrap();
        assert_eq!(rig.client.try_write(b"first"), wrote(5));
        rig.server.start_read(2, 9).unwrap();
        rig.server.start_read(3, 9).unwrap();
        for text in [b"second".as_slice(), b"third"] {
            assert_eq!(rig.client.try_write(text), wrote(text.len()));
        }
        expect(
            rig,
            &[
                (Server, 1, whole(b"first")),
                (Server, 2, whole(b"second")),
                (Server, 3, whole(b"third")),
            ],
        );
    });
}

#[test]
fn np_read_11_a_polled_read_has_the_mode_of_its_write() {
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.server.start_read(1, 4).unwrap();
        assert_eq!(rig.client.try_write(b"abcdefghij"), wrote(10));
        rig.server.set_modes(ReadMode::Byte, Queue).unwrap();
        expect(rig, &[(Server, 1, part(b"abcd"))]);
        assert_eq!(rig.server.try_read(9), whole(b"efghij"));
    });
}

#[test]
fn np_cancel_04_what_a_polled_read_was_given_cannot_be_recalled() {
    both(BYTE, 512, |rig| {
        rig.server.start_read(1, 9).unwrap();
        assert_eq!(rig.client.try_write(b"abc"), wrote(3));
        assert!(!rig.server.cancel(1));
        expect(rig, &[(Server, 1, whole(b"abc"))]);
        rig.server.start_read(3, 9).unwrap();
        assert!(rig.server.cancel(3));
        assert_eq!(rig.client.try_write(b"def"), wrote(3));
        expect(rig, &[(Server, 3, failed(Error::Cancelled))]);
        assert_eq!(rig.server.try_read(9), whole(b"def"));
    });
}

#[test]
fn np_close_02_03_and_disc_08_a_polled_read_keeps_what_came_before() {
    let ends: [fn(&mut Rig); 4] = [
        |rig| rig.client.close(),
        |rig| rig.server.close(),
        |rig| rig.server.disconnect().unwrap(),
        |_| (),
    ];
    within(60, move || {
        for (end, with_data) in ends.iter().flat_map(|end| [(end, true), (end, false)]) {
            for place in [Place::OneProcess, Place::TwoProcesses(child_exe!())] {
                let mut rig = Rig::new(place, &ConnSpec::new(BYTE, 512));
                rig.server.start_read(1, 9).unwrap();
                if with_data {
                    assert_eq!(rig.client.try_write(b"abc"), wrote(3));
                }
                end(&mut rig);
                match over(&mut rig).as_slice() {
                    [(Server, 1, done)] if with_data => assert_eq!(*done, whole(b"abc")),
                    [(Server, 1, Done::Failed(_))] | [] if !with_data => {}
                    other => panic!("with data: {with_data}: {other:?}"),
                }
            }
        }
    });
    // The other direction, which the server disconnects as its writer.
    both(MESSAGE, 512, |rig| {
        message_mode(rig);
        rig.client.start_read(1, 9).unwrap();
        assert_eq!(rig.server.try_write(b"last"), wrote(4));
        rig.server.disconnect().unwrap();
        expect(rig, &[(Client, 1, whole(b"last"))]);
    });
}

// ------------------------------------------------------------------------------------- cases of the queue protocol

/// A read that is matched but not copied yet does not count against the quota (NP-WRITE-05, 07).
#[test]
fn np_write_07_a_matched_read_that_is_not_copied_holds_no_quota() {
    both(BYTE, 512, |rig| {
        rig.server.start_read(1, 32768).unwrap();
        let data = pattern(7, 513 + 512);
        assert_eq!(rig.client.try_write(&data[..513]), wrote(513));
        // The reader has not moved since: nobody polled it.
        rig.client.start_write(1, &data[513..]).unwrap();
        assert_eq!(rig.client.poll_all(), [(1, wrote(512))]);
        assert_eq!(rig.client.info().unwrap().write_quota_available, 0);
        expect(rig, &[(Server, 1, whole(&data[..513]))]);
        assert_eq!(rig.server.try_read(600), whole(&data[513..]));
    });
}

/// A big frame read to its last byte pins no room.
#[test]
fn np_write_08_a_long_write_read_to_its_last_byte_leaves_room_for_many_small_ones() {
    within(120, || {
        let pair = Pair::new(&ConnSpec::new(BYTE, 65536));
        let data = pattern(8, 2 << 20);
        let wait = npfs_ringbuf::Wait::new();
        let mut write = pair.client.start_write(&wait, &data).unwrap();
        let mut got = vec![0; data.len()];
        let mut at = 0;
        let mut rounds = 0;
        while at < data.len() - 1 {
            let room = (data.len() - 1 - at).min(100_000);
            match pair.server.try_read(&mut got[at..at + room]) {
                Ok(read) => at += read.count(),
                Err(Error::WouldBlock) => {}
                Err(error) => panic!("{error}"),
            }
            let _ = write.poll();
            rounds += 1;
            assert!(rounds < 100_000, "stuck at {at}");
        }
        assert_eq!(write.poll(), Some(Ok(data.len())));
        for i in 0..65_535_u32 {
            let byte = i.to_le_bytes()[0];
            assert_eq!(pair.client.try_write(&[byte]), Ok(1), "message {i}");
        }
        assert_eq!(pair.client.try_write(b"x"), Err(Error::WouldBlock));
        let mut rest = vec![0; 65_536];
        assert_eq!(
            pair.server.try_read(&mut rest).map(|r| r.count()),
            Ok(65_536)
        );
        got[at] = rest[0];
        assert_eq!(got, data);
        assert!((0..65_535_u32).all(|i| rest[1 + i as usize] == i.to_le_bytes()[0]));
    });
}

/// Every mix that a quota admits fits, whatever it costs in headers.
#[test]
fn np_write_07_as_many_one_byte_messages_as_the_quota_has_bytes() {
    within(120, || {
        for quota in [1_u32, 2, 5, 512, 5000, 65536] {
            let pair = Pair::new(&ConnSpec::new(MESSAGE, quota));
            pair.server.set_modes(ReadMode::Message, Queue).unwrap();
            for round in 0..2 {
                for i in 0..quota {
                    let byte = i.to_le_bytes()[0];
                    assert_eq!(
                        pair.client.try_write(&[byte]),
                        Ok(1),
                        "{quota}: {i} of round {round}"
                    );
                }
                assert_eq!(pair.client.try_write(b"x"), Err(Error::WouldBlock));
                let info = pair.server.info().unwrap();
                assert_eq!(
                    (info.messages, info.read_available),
                    (quota, u64::from(quota))
                );
                let mut buf = [0; 2];
                for i in 0..quota {
                    let read = pair.server.try_read(&mut buf);
                    assert_eq!(read, Ok(npfs_ringbuf::Read::Whole(1)));
                    assert_eq!(buf[0], i.to_le_bytes()[0]);
                }
            }
        }
    });
}

/// Memory of a burst goes back to the system.
#[test]
fn memory_is_given_back_after_a_burst() {
    within(120, || {
        let pair = Pair::new(&ConnSpec::new(BYTE, 4 << 20));
        let mut buf = vec![0; 1 << 20];
        let small = |rounds: usize| {
            let mut buf = [0; 64];
            for _ in 0..rounds {
                assert_eq!(pair.client.try_write(&[1; 64]), Ok(64));
                assert_eq!(pair.server.try_read(&mut buf).map(|r| r.count()), Ok(64));
            }
        };
        small(1000);
        let before = sys::occupied(pair.books.fd());
        let data = pattern(1, 4 << 20);
        assert_eq!(pair.client.try_write(&data), Ok(4 << 20));
        let peak = sys::occupied(pair.books.fd());
        assert!(
            peak - before >= 4 << 20,
            "the burst was in memory: {before} to {peak}"
        );
        let mut left = data.len();
        while left > 0 {
            left -= pair.server.try_read(&mut buf).unwrap().count();
        }
        // A moment later the next burst finds it, whatever the number of laps.
        let begin = Instant::now();
        small(10_000);
        let soon = sys::occupied(pair.books.fd());
        if begin.elapsed() < Duration::from_millis(100) {
            assert!(soon >= peak, "{soon} of {peak} bytes after a moment");
        }
        // Ordinary traffic, many restarts of the area.
        while begin.elapsed() < Duration::from_millis(500) {
            small(1000);
        }
        let after = sys::occupied(pair.books.fd());
        assert!(
            after <= before + (256 << 10),
            "{before} bytes before the burst, {peak} in it, {after} after it"
        );
    });
}

/// A fast stream takes a megabyte for its laps, whatever the quota, and no more; when it has become slow that goes back.
#[test]
fn a_stream_takes_a_megabyte_at_most_and_gives_it_back() {
    within(120, || {
        let pair = Pair::new(&ConnSpec::new(PipeType::Message, 65_536));
        let begun = sys::occupied(pair.books.fd());
        let mut buf = vec![0; 4096];
        let mut data = pattern(1, 4096);
        let mut turns = |len: usize, turns: u64| {
            for turn in 0..turns {
                data[..8].copy_from_slice(&turn.to_le_bytes());
                assert_eq!(pair.client.try_write(&data[..len]), Ok(len));
                let read = pair.server.try_read(&mut buf).map(|read| read.count());
                assert_eq!(read, Ok(len));
                assert!(buf[..len] == data[..len]);
            }
        };
        turns(4096, 20_000);
        let busy = sys::occupied(pair.books.fd()) - begun;
        println!("{busy} bytes for a stream");
        assert!(busy <= (1 << 20) + (128 << 10), "{busy} bytes for a stream");
        let slow = Instant::now();
        while slow.elapsed() < Duration::from_millis(500) {
            turns(64, 1000);
        }
        let after = sys::occupied(pair.books.fd()) - begun;
        assert!(after <= 256 << 10, "{busy} bytes, and then {after}");
    });
}

/// A link that is to be one connection's alone, so that strangers may see it: not while it is others', nothing of theirs stays in
/// it, and it gets no more of them.
#[test]
fn a_link_is_set_apart_for_one_connection() {
    within(60, || {
        let spec = ConnSpec::new(PipeType::Message, 65_536);
        let mut pair = Pair::new(&spec);
        let secret = *b"what another pipe has carried";
        let is_there = |pair: &Pair| {
            let file = std::fs::File::from(pair.books.share().expect("a duplicate"));
            let mut data = Vec::new();
            for (at, len) in sys::extents(pair.books.fd()) {
                let mut extent = vec![0; len];
                file.read_exact_at(&mut extent, at as u64).expect("read");
                data.extend(extent);
            }
            data.windows(secret.len()).any(|window| window == secret)
        };
        let (other, server, client) = pair.another(&spec);
        client.try_write(&secret).expect("write");
        assert_eq!(
            pair.books.set_apart(pair.id).map_err(|e| e.to_string()),
            Err(BooksError::NotAlone.to_string())
        );
        assert!(is_there(&pair));
        for (end, conn) in [(Server, server), (Client, client)] {
            conn.close();
            pair.books.close(other, end).expect("open");
        }
        pair.client.try_write(b"ours").expect("write");
        pair.books.set_apart(pair.id).expect("alone");
        assert!(pair.books.is_apart() && !is_there(&pair));
        assert_eq!(pair.server.try_read(&mut [0; 8]), Ok(Read::Whole(4)));
        let more = pair.books.connect(&spec, pair.index, pair.index);
        assert!(matches!(more, Err(BooksError::NoFreeSlot)));
        pair.books.set_apart(pair.id).expect("again");
        for end in [Server, Client] {
            pair.books.close(pair.id, end).expect("open");
        }
        let more = pair.books.connect(&spec, pair.index, pair.index);
        assert!(matches!(more, Err(BooksError::NoFreeSlot)));
        assert!(pair.books.set_apart(pair.id).is_err());
    });
}

/// A link for one connection has room for it, whatever its quotas, also where an address space is small.
#[test]
fn a_link_for_one_has_room_for_it() {
    for small in [false, true] {
        for quota in [0, 65_536, 4 << 20, i32::MAX as u32] {
            let spec = ConnSpec::new(PipeType::Byte, quota);
            let mut pair = Pair::with(&spec, &npfs_ringbuf::books::LinkConfig::for_one(small));
            if quota != 0 {
                assert_eq!(pair.client.try_write(&[7; 64]), Ok(64));
            }
            pair.books.set_apart(pair.id).expect("alone");
        }
    }
}

/// A pipe that never carried data costs next to nothing.
#[test]
fn an_idle_connection_costs_at_most_a_page() {
    within(60, || {
        let mut pair = Pair::new(&ConnSpec::new(BYTE, 4096));
        let mut kept = Vec::new();
        // The tables' first pages are shared by many slots.
        for _ in 0..100 {
            kept.push(pair.another(&ConnSpec::new(BYTE, 4096)));
        }
        let before = sys::occupied(pair.books.fd());
        for _ in 0..500 {
            kept.push(pair.another(&ConnSpec::new(BYTE, 4096)));
        }
        let each = (sys::occupied(pair.books.fd()) - before) / 500;
        println!("{each} bytes of the link's memory per idle connection");
        assert!(
            each <= 4096,
            "{each} bytes of the link's memory per idle connection"
        );
    });
}
