//! Calls that block, on threads: waking, cancelling, deadlines, order, streams, and one CPU for both ends.

use npfs_ringbuf::books::ConnSpec;
use npfs_ringbuf::{
    Alarm, CompletionMode, Conn, Deadline, Error, PipeType, Poller, Read, ReadMode, Rest,
    SpinPolicy, Started, Wait, wait_at_bells,
};
use npfs_tests::party::{Pair, Place, Rig};
use npfs_tests::time::until;
use npfs_tests::{Blocking, Done, Stopwatch, child_exe, pattern, soon, sys, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

fn byte_pair(quota: u32) -> Pair {
    Pair::new(&ConnSpec::new(PipeType::Byte, quota))
}

fn message_pair(quota: u32) -> Pair {
    let pair = Pair::new(&ConnSpec::new(PipeType::Message, quota));
    for conn in [&pair.server, &pair.client] {
        conn.set_modes(ReadMode::Message, CompletionMode::Queue)
            .expect("a message pipe");
    }
    pair
}

/// Waits until so many bytes of reads are pended against what `writer` sends (NP-QUEUE-08).
fn pended(writer: &Conn, quota: u32, bytes: u32) {
    let seen = until(SOON, || {
        writer.info().unwrap().write_quota_available == quota - bytes
    });
    assert!(
        seen,
        "{:?} with {bytes} bytes of reads pended",
        writer.info()
    );
}

fn policies() -> [SpinPolicy; 3] {
    [
        SpinPolicy::Adaptive,
        SpinPolicy::Never,
        SpinPolicy::Fixed(20_000),
    ]
}

#[test]
fn a_read_wakes_for_a_write() {
    within(60, || {
        for policy in policies() {
            let pair = message_pair(512);
            pair.server.set_spin_policy(policy);
            let server = pair.server.clone();
            let reader = thread::spawn(move || {
                let mut buf = [0; 16];
                let read = server.read(&mut buf);
                (read, buf)
            });
            pended(&pair.client, 512, 16);
            assert_eq!(pair.client.write(b"wake up"), Ok(7));
            let (read, buf) = reader.join().unwrap();
            assert_eq!(
                (read, &buf[..7]),
                (Ok(Read::Whole(7)), b"wake up".as_slice()),
                "{policy:?}"
            );
        }
    });
}

const ROUNDS: u32 = 5000;
const BURST: u32 = 100;

/// Numbers, many at once and then one when the reader, who has stored in `taken` what it has read last, has nothing left: from at
/// once to two microseconds later.
fn bursts(client: &Conn, taken: &AtomicU32, patience: Duration) {
    let mut sent = 0_u32;
    let mut send = |count: u32| {
        for _ in 0..count {
            sent += 1;
            assert_eq!(client.write(&sent.to_le_bytes()), Ok(4));
        }
        let begin = Instant::now();
        while taken.load(Ordering::Acquire) != sent {
            assert!(begin.elapsed() < patience, "asleep on message {sent}");
        }
    };
    for round in 0..ROUNDS {
        send(BURST);
        for _ in 0..round % 512 {
            std::hint::spin_loop();
        }
        send(1);
    }
}

/// A role is kept after 64 turns in a row. Then the reader drains the queue and goes to sleep, and the next write comes
/// right then: either it sees the record, or the reader sees the frame.
#[test]
fn a_sleeper_and_a_writer_that_keeps_its_role_do_not_miss_each_other() {
    within(120, || {
        let pair = message_pair(65_536);
        pair.server.set_spin_policy(SpinPolicy::Never);
        let server = pair.server.clone();
        let taken = Arc::new(AtomicU32::new(0));
        let reader = thread::spawn({
            let taken = taken.clone();
            move || {
                let mut buf = [0; 16];
                for turn in 1..=ROUNDS * (BURST + 1) {
                    assert_eq!(server.read(&mut buf), Ok(Read::Whole(4)));
                    taken.store(turn, Ordering::Release);
                }
            }
        });
        bursts(&pair.client, &taken, SOON);
        reader.join().unwrap();
    });
}

/// The same of a read that was polled until its owner goes to sleep, at the bell.
#[test]
fn an_owner_that_stops_polling_and_a_writer_that_keeps_its_role_do_not_miss_each_other() {
    within(120, || {
        let pair = message_pair(65_536);
        let server = pair.server.clone();
        let taken = Arc::new(AtomicU32::new(0));
        let reader = thread::spawn({
            let taken = taken.clone();
            move || {
                let alarm = Alarm::new();
                for turn in 1..=ROUNDS * (BURST + 1) {
                    // Busy: its writer was stopped by the scheduler with the role in its hand.
                    let mut read = loop {
                        match Started::read_by(&server, vec![0; 16].into(), Poller::Caller) {
                            Err(Error::Busy) => thread::yield_now(),
                            read => break read.expect("a read"),
                        }
                    };
                    // For a moment it is awake.
                    let found = (0..turn % 64).any(|_| read.has_news());
                    // What it has seen may be a skip frame whose message is not there yet: it stops before it sleeps.
                    if !found || read.poll().is_none() {
                        read.stop_polling();
                    }
                    while read.poll().is_none() {
                        if read.rest() == Rest::AtTheBell {
                            let links = [&**server.link()].into_iter();
                            let soon = Deadline::after(SOON);
                            let woken = wait_at_bells(links, &alarm, alarm.now(), soon);
                            assert!(woken, "asleep before message {turn}");
                        }
                        server.link().own_bell().take(|_| {});
                    }
                    assert_eq!(read.data(), turn.to_le_bytes());
                    taken.store(turn, Ordering::Release);
                }
            }
        });
        bursts(&pair.client, &taken, 2 * SOON);
        reader.join().unwrap();
    });
}

#[test]
fn a_write_wakes_for_a_read() {
    within(60, || {
        for policy in policies() {
            let pair = byte_pair(4);
            pair.client.set_spin_policy(policy);
            let client = pair.client.clone();
            let writer = thread::spawn(move || client.write(b"12345678"));
            assert!(until(SOON, || pair.server.info().unwrap().read_available == 8));
            thread::sleep(Duration::from_millis(20));
            assert!(!writer.is_finished(), "it waits for quota");
            let mut buf = [0; 8];
            assert_eq!(pair.server.read(&mut buf), Ok(Read::Whole(8)));
            assert_eq!(writer.join().unwrap(), Ok(8), "{policy:?}");
        }
    });
}

#[test]
fn a_flush_wakes_for_the_last_byte() {
    within(60, || {
        let pair = byte_pair(512);
        pair.client.write(b"abc").unwrap();
        let client = pair.client.clone();
        let flusher = thread::spawn(move || client.flush());
        thread::sleep(Duration::from_millis(50));
        let mut buf = [0; 2];
        let _ = pair.server.read(&mut buf).unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!flusher.is_finished(), "one byte is unread");
        let _ = pair.server.read(&mut buf).unwrap();
        assert_eq!(flusher.join().unwrap(), Ok(()));
    });
}

#[test]
fn transactions_and_their_server() {
    within(60, || {
        let pair = message_pair(512);
        let server = pair.server.clone();
        let serving = thread::spawn(move || {
            let mut buf = [0; 64];
            while let Ok(read) = server.read(&mut buf) {
                buf[..read.count()].reverse();
                server.write(&buf[..read.count()]).unwrap();
            }
        });
        for i in 0..2000_u64 {
            let request = pattern(i, (i % 60) as usize);
            let mut reply = [0; 64];
            let read = pair.client.transact(&request, &mut reply).unwrap();
            assert!(reply[..read.count()].iter().rev().eq(&request), "call {i}");
        }
        pair.client.close();
        serving.join().unwrap();
    });
}

#[test]
fn cancel_from_another_thread() {
    within(60, || {
        let pair = message_pair(4);
        pair.client.write(b"1234").unwrap();
        type Call = fn(&Conn, &Wait) -> Result<(), Error>;
        let calls: [(&str, Call); 4] = [
            ("read", |c, w| {
                c.read_with(&mut [0; 9], w, Deadline::NEVER).map(|_| ())
            }),
            ("write", |c, w| {
                c.write_with(b"abc", w, Deadline::NEVER).map(|_| ())
            }),
            ("flush", |c, w| c.flush_with(w, Deadline::NEVER)),
            ("transact", |c, w| {
                c.transact_with(b"q", &mut [0; 9], w, Deadline::NEVER)
                    .map(|_| ())
            }),
        ];
        for policy in policies() {
            pair.client.set_spin_policy(policy);
            for (name, call) in calls {
                let wait = Arc::new(Wait::new());
                assert!(!wait.cancel(), "{name}: nothing is under way");
                let blocked = thread::spawn({
                    let (client, wait) = (pair.client.clone(), wait.clone());
                    move || call(&client, &wait)
                });
                thread::sleep(Duration::from_millis(50));
                assert!(!blocked.is_finished(), "{name} waits");
                assert!(until(SOON, || wait.cancel()), "{name}");
                assert_eq!(
                    blocked.join().unwrap(),
                    Err(Error::Cancelled),
                    "{name}, {policy:?}"
                );
                assert!(!wait.cancel(), "{name}: over");
                // The same state serves again.
                let deadline = soon(20);
                assert_eq!(
                    pair.client.read_with(&mut [0; 9], &wait, deadline),
                    Err(Error::TimedOut),
                    "after a cancelled {name}"
                );
            }
        }
        // Nothing of the cancelled writes is left; of the transactions the requests are (NP-XCV-08).
        let mut buf = [0; 9];
        assert_eq!(pair.server.try_read(&mut buf), Ok(Read::Whole(4)));
        for _ in policies() {
            assert_eq!(pair.server.try_read(&mut buf), Ok(Read::Whole(1)));
        }
        assert_eq!(pair.server.try_read(&mut buf), Err(Error::WouldBlock));
    });
}

#[test]
fn deadlines() {
    within(60, || {
        let pair = message_pair(4);
        pair.client.write(b"1234").unwrap();
        let wait = Wait::new();
        let client = &pair.client;
        let timed = |name: &str, call: &mut dyn FnMut(Deadline) -> Option<Error>| {
            for millis in [0, 1, 100] {
                let start = Stopwatch::start();
                assert_eq!(
                    call(soon(millis)),
                    Some(Error::TimedOut),
                    "{name} after {millis} ms"
                );
                let took = start.elapsed();
                assert!(
                    took >= Duration::from_millis(millis),
                    "{name}: {took:?} of {millis} ms"
                );
                start.expect_within(Duration::from_millis(millis + 900), (name, millis));
            }
        };
        for policy in policies() {
            client.set_spin_policy(policy);
            timed("read", &mut |d| {
                client.read_with(&mut [0; 9], &wait, d).err()
            });
            timed("write", &mut |d| client.write_with(b"abc", &wait, d).err());
            timed("flush", &mut |d| client.flush_with(&wait, d).err());
        }
        let mut pending = client.start_write(&wait, b"abc").unwrap();
        assert_eq!(pending.wait(soon(20)), Err(Error::TimedOut));
        assert_eq!(pending.poll(), Some(Err(Error::TimedOut)), "ever after");
        drop(pending);
        assert_eq!(
            pair.server.info().unwrap().read_available,
            4,
            "withdrawn with all their data"
        );
        timed("transact", &mut |d| {
            client.transact_with(b"q", &mut [0; 9], &wait, d).err()
        });
    });
}

#[test]
fn a_deadline_that_has_passed_does_not_stop_what_needs_no_waiting() {
    within(60, || {
        let pair = byte_pair(64);
        let wait = Wait::new();
        assert_eq!(pair.client.write_with(b"abc", &wait, soon(0)), Ok(3));
        assert_eq!(
            pair.server.read_with(&mut [0; 9], &wait, soon(0)),
            Ok(Read::Whole(3))
        );
        assert_eq!(pair.client.flush_with(&wait, soon(0)), Ok(()));
    });
}

#[test]
fn readers_are_served_in_the_order_they_came() {
    within(60, || {
        let pair = message_pair(4096);
        let (tell, told) = channel();
        let mut readers = Vec::new();
        for n in 0..10_u32 {
            let (server, tell) = (pair.server.clone(), tell.clone());
            readers.push(thread::spawn(move || {
                let mut buf = [0; 8];
                let read = server.read(&mut buf).unwrap();
                tell.send((n, buf[..read.count()].to_vec())).unwrap();
            }));
            pended(&pair.client, 4096, 8 * (n + 1));
        }
        for n in 0..10_u32 {
            pair.client.write(&n.to_le_bytes()).unwrap();
        }
        for reader in readers {
            reader.join().unwrap();
        }
        let mut got: Vec<_> = told.try_iter().collect();
        got.sort();
        for (n, data) in got {
            assert_eq!(data, n.to_le_bytes(), "the reader that came as number {n}");
        }
    });
}

#[test]
fn many_threads_at_both_ends_lose_and_repeat_nothing() {
    const EACH: u32 = 3000;
    within(120, || {
        for quota in [0, 64, 4096] {
            let pair = message_pair(quota);
            let writers: Vec<_> = (0..3_u32)
                .map(|w| {
                    let client = pair.client.clone();
                    thread::spawn(move || {
                        for i in 0..EACH {
                            let mut message = [0; 8];
                            message[..4].copy_from_slice(&w.to_le_bytes());
                            message[4..].copy_from_slice(&i.to_le_bytes());
                            assert_eq!(client.write(&message), Ok(8));
                        }
                    })
                })
                .collect();
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let server = pair.server.clone();
                    thread::spawn(move || {
                        let mut got = Vec::new();
                        let mut buf = [0; 16];
                        loop {
                            match server.read(&mut buf) {
                                Ok(read) => {
                                    assert_eq!(read, Read::Whole(8));
                                    got.push((
                                        u32::from_le_bytes(buf[..4].try_into().unwrap()),
                                        u32::from_le_bytes(buf[4..8].try_into().unwrap()),
                                    ));
                                }
                                Err(error) => {
                                    assert_eq!(error, Error::Broken);
                                    return got;
                                }
                            }
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            pair.client.close();
            let mut all = Vec::new();
            for reader in readers {
                let got = reader.join().unwrap();
                for w in 0..3 {
                    let of_one: Vec<_> = got.iter().filter(|m| m.0 == w).collect();
                    assert!(
                        of_one.is_sorted(),
                        "one reader sees one writer's messages in order"
                    );
                }
                all.extend(got);
            }
            all.sort_unstable();
            let expected: Vec<_> = (0..3)
                .flat_map(|w| (0..EACH).map(move |i| (w, i)))
                .collect();
            assert!(
                all == expected,
                "quota {quota}: {} of {} messages",
                all.len(),
                expected.len()
            );
        }
    });
}

#[test]
fn more_than_two_gigabytes_is_refused() {
    within(60, || {
        let pair = message_pair(4096);
        let wait = Wait::new();
        let mut large = memmap2::MmapMut::map_anon(1 << 31).expect("address space");
        let (client, server) = (&pair.client, &pair.server);
        assert_eq!(client.try_write(&large), Err(Error::TooLong));
        assert_eq!(
            client.write_with(&large, &wait, soon(100)),
            Err(Error::TooLong)
        );
        assert_eq!(
            client.start_write(&wait, &large).err(),
            Some(Error::TooLong)
        );
        assert_eq!(
            client.transact_with(&large, &mut [0; 9], &wait, soon(100)),
            Err(Error::TooLong)
        );
        assert_eq!(client.try_read(&mut large), Err(Error::TooLong));
        assert_eq!(
            client.read_with(&mut large, &wait, soon(100)),
            Err(Error::TooLong)
        );
        assert_eq!(server.info().unwrap().messages, 0);
        // One byte less is a legal write.
        let most = &large[1..];
        let mut write = client.start_write(&wait, most).unwrap();
        assert_eq!(write.poll(), None);
        assert_eq!(server.info().unwrap().read_available, (1 << 31) - 1);
        let mut buf = [1; 100];
        assert_eq!(server.try_read(&mut buf), Ok(Read::Part(100)));
        assert_eq!(buf, [0; 100]);
        assert!(write.cancel());
        assert_eq!(server.info().unwrap().read_available, 0);
    });
}

fn stream(pipe_type: PipeType, total: usize, piece: usize) {
    let pair = Pair::new(&ConnSpec::new(pipe_type, 4096));
    if pipe_type == PipeType::Message {
        pair.server
            .set_modes(ReadMode::Message, CompletionMode::Queue)
            .unwrap();
    }
    let data = Arc::new(pattern(9, total));
    let writer = thread::spawn({
        let (client, data) = (pair.client.clone(), data.clone());
        move || client.write(&data)
    });
    let mut got = vec![0; total];
    let mut at = 0;
    while at < total {
        let room = piece.min(total - at);
        let read = pair.server.read(&mut got[at..at + room]).unwrap();
        assert!(read.count() > 0);
        at += read.count();
        if pipe_type == PipeType::Message {
            assert_eq!(
                matches!(read, Read::Part(_)),
                at < total,
                "the rest is known"
            );
        }
    }
    assert_eq!(writer.join().unwrap(), Ok(total));
    assert!(got == *data, "every byte arrives, in order");
    // The connection is as good as before.
    pair.client.write(b"after").unwrap();
    let mut buf = [0; 9];
    assert_eq!(pair.server.read(&mut buf), Ok(Read::Whole(5)));
}

#[test]
fn a_stream_of_64_mib_in_bytes() {
    within(120, || stream(PipeType::Byte, 64 << 20, 100_000));
}

#[test]
fn a_stream_of_64_mib_in_one_message() {
    within(120, || stream(PipeType::Message, 64 << 20, 1 << 20));
}

#[test]
fn a_write_of_16_mib_meets_a_read_of_16_mib() {
    within(120, || {
        for pipe_type in [PipeType::Byte, PipeType::Message] {
            let pair = Pair::new(&ConnSpec::new(pipe_type, 4096));
            let total = 16 << 20;
            let server = pair.server.clone();
            let reader = thread::spawn(move || {
                let mut buf = vec![0; total];
                let read = server.read(&mut buf);
                (read, buf)
            });
            pended(&pair.client, 4096, 4096);
            let data = pattern(16, total);
            assert_eq!(pair.client.write(&data), Ok(total));
            let (read, buf) = reader.join().unwrap();
            // One read takes all of it (NP-WRITE-05, 06), though the quota is 4 KiB.
            assert_eq!(read, Ok(Read::Whole(total)), "{pipe_type:?}");
            assert!(buf == data);
        }
    });
}

#[test]
fn a_stream_that_is_cancelled_leaves_the_pipe_usable() {
    within(60, || {
        let pair = message_pair(4096);
        let wait = Arc::new(Wait::new());
        let writer = thread::spawn({
            let (client, wait) = (pair.client.clone(), wait.clone());
            move || client.write_with(&pattern(1, 3 << 20), &wait, Deadline::NEVER)
        });
        let mut buf = vec![0; 1 << 20];
        assert_eq!(pair.server.read(&mut buf), Ok(Read::Part(1 << 20)));
        assert!(wait.cancel());
        assert_eq!(writer.join().unwrap(), Err(Error::Cancelled));
        assert_eq!(
            pair.server.try_read(&mut buf),
            Err(Error::WouldBlock),
            "NP-CANCEL-03"
        );
        pair.client.write(b"next").unwrap();
        assert_eq!(pair.server.read(&mut buf), Ok(Read::Whole(4)));
        assert_eq!(&buf[..4], b"next");
    });
}

/// A handler passes the call on and waits for its answer before it gives its own: a ring of three that goes round many
/// times. Whoever blocks blocks nobody else.
#[test]
fn a_ring_of_nested_calls() {
    const DEPTH: usize = 24;
    within(60, || {
        let mut first = message_pair(64);
        let mut hops = vec![(first.server.clone(), first.client.clone())];
        for _ in 1..DEPTH {
            let (_, server, client) = first.another(&ConnSpec::new(PipeType::Message, 64));
            for conn in [&server, &client] {
                conn.set_modes(ReadMode::Message, CompletionMode::Queue)
                    .unwrap();
            }
            hops.push((server, client));
        }
        let handlers: Vec<_> = (0..DEPTH)
            .map(|n| {
                let server = hops[n].0.clone();
                let next = hops.get(n + 1).map(|hop| hop.1.clone());
                thread::spawn(move || {
                    let mut buf = [0; 64];
                    for _ in 0..50 {
                        let len = server.read(&mut buf).unwrap().count();
                        let mut text = buf[..len].to_vec();
                        if let Some(next) = &next {
                            let mut reply = [0; 64];
                            let read = next.transact(&text, &mut reply).unwrap();
                            text = reply[..read.count()].to_vec();
                        }
                        text.push(u8::try_from(n).unwrap());
                        server.write(&text).unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            let mut reply = [0; 64];
            let read = hops[0].1.transact(b"", &mut reply).unwrap();
            let expected: Vec<u8> = (0..DEPTH).rev().map(|n| u8::try_from(n).unwrap()).collect();
            assert_eq!(reply[..read.count()], expected);
        }
        for handler in handlers {
            handler.join().unwrap();
        }
    });
}

/// NP-XCV-07 to any depth on one connection.
#[test]
fn replies_that_are_transactions() {
    within(60, || {
        let pair = message_pair(64);
        let server = pair.server.clone();
        let answering = thread::spawn(move || {
            let mut buf = [0; 8];
            let mut n = {
                let _ = server.read(&mut buf).unwrap();
                u64::from_le_bytes(buf)
            };
            while n < 2000 {
                let _ = server.transact(&(n + 1).to_le_bytes(), &mut buf).unwrap();
                n = u64::from_le_bytes(buf);
            }
            server.write(&u64::MAX.to_le_bytes()).unwrap();
        });
        let mut buf = [0; 8];
        let mut n = 0_u64;
        loop {
            let _ = pair.client.transact(&n.to_le_bytes(), &mut buf).unwrap();
            let answer = u64::from_le_bytes(buf);
            if answer == u64::MAX {
                break;
            }
            assert_eq!(answer, n + 1);
            n = answer + 1;
        }
        assert_eq!(n, 2000);
        answering.join().unwrap();
    });
}

#[test]
fn both_ends_on_one_cpu() {
    within(60, || {
        for policy in policies() {
            let pair = message_pair(512);
            for conn in [&pair.server, &pair.client] {
                conn.set_spin_policy(policy);
            }
            let server = pair.server.clone();
            let start = Stopwatch::start();
            let cpu = sys::cpus()[0];
            let echo = thread::spawn(move || {
                sys::bind(cpu).expect("one of ours");
                let mut buf = [0; 64];
                while let Ok(read) = server.read(&mut buf) {
                    server.write(&buf[..read.count()]).unwrap();
                }
            });
            sys::bind(cpu).expect("one of ours");
            let mut buf = [0; 64];
            for i in 0..2000_u64 {
                pair.client.write(&i.to_le_bytes()).unwrap();
                assert_eq!(pair.client.read(&mut buf), Ok(Read::Whole(8)));
                assert_eq!(buf[..8], i.to_le_bytes());
            }
            // A spin that starves the peer costs a time slice, milliseconds, each time.
            start.expect_within(Duration::from_secs(4), policy);
            pair.client.close();
            echo.join().unwrap();
        }
    });
}

/// The wait of the thread that [`abandon_and_stay`] interrupts.
static ABANDONED: Wait = Wait::new();

/// A signal handler that ends its thread's call and never returns, as when a thread is terminated where it stands.
extern "C" fn abandon_and_stay(_signal: libc::c_int) {
    // SAFETY: called by the thread that is inside the call, and this function does not return to it.
    unsafe { ABANDONED.abandon() };
    loop {
        // SAFETY: a plain system call.
        unsafe { libc::pause() };
    }
}

#[test]
fn a_call_that_is_abandoned_gives_up_its_record() {
    use std::os::unix::thread::JoinHandleExt as _;
    within(60, || {
        let pair = message_pair(512);
        // SAFETY: an all-zero action is valid; the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = abandon_and_stay as extern "C" fn(libc::c_int) as usize;
            assert_eq!(
                libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
                0
            );
        }
        // The thread ends with the process.
        let forever = thread::spawn({
            let server = pair.server.clone();
            move || server.read_with(&mut [0; 32], &ABANDONED, Deadline::NEVER)
        });
        pended(&pair.client, 512, 32);
        thread::sleep(Duration::from_millis(50));
        // SAFETY: the thread is alive, for it cannot end.
        let sent = unsafe { libc::pthread_kill(forever.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(sent, 0);
        assert!(until(SOON, || {
            pair.client.info().unwrap().write_quota_available == 512
        }));
        pair.client.write(b"for the next").unwrap();
        let mut buf = [0; 32];
        assert_eq!(pair.server.read(&mut buf), Ok(Read::Whole(12)));
        assert_eq!(&buf[..12], b"for the next");
    });
}

/// More readers than the shared table has places: all are served.
#[test]
fn forty_readers() {
    within(60, || {
        let pair = message_pair(4096);
        let readers: Vec<_> = (0..40)
            .map(|_| {
                let server = pair.server.clone();
                thread::spawn(move || {
                    let mut buf = [0; 4];
                    assert_eq!(server.read(&mut buf), Ok(Read::Whole(4)));
                    u32::from_le_bytes(buf)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        for n in 0..40_u32 {
            pair.client.write(&n.to_le_bytes()).unwrap();
        }
        let mut got: Vec<u32> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, (0..40).collect::<Vec<_>>());
    });
}

#[test]
fn closing_and_disconnecting_wake_every_sleeper() {
    within(60, || {
        for disconnect in [false, true] {
            let pair = message_pair(4);
            pair.client.write(b"1234").unwrap();
            let sleepers: Vec<_> = (0..3)
                .map(|n| {
                    let client = pair.client.clone();
                    thread::spawn(move || match n {
                        0 => client.read(&mut [0; 9]).map(|_| ()),
                        1 => client.write(b"more").map(|_| ()),
                        _ => client.flush(),
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(100));
            let expected = if disconnect {
                pair.server.disconnect().unwrap();
                Error::Disconnected
            } else {
                pair.server.close();
                Error::Broken
            };
            let start = Stopwatch::start();
            for sleeper in sleepers {
                assert_eq!(sleeper.join().unwrap(), Err(expected));
            }
            start.expect_within(Duration::from_secs(1), expected);
        }
    });
}

#[test]
fn two_processes_wake_each_other() {
    within(60, || {
        let spec = ConnSpec::new(PipeType::Message, 512);
        let mut rig = Rig::new(Place::TwoProcesses(child_exe!()), &spec);
        for round in 0..200_u32 {
            let data = pattern(u64::from(round), 100);
            rig.server.block(round, Blocking::Read(200), Some(5000));
            rig.client
                .block(round, Blocking::Write(data.clone()), Some(5000));
            assert_eq!(rig.server.join(round, 6000), Some(Done::Read(data, true)));
            assert_eq!(rig.client.join(round, 6000), Some(Done::Wrote(100)));
        }
        // A stream between them, and an end of it by the peer's close.
        let data = pattern(1, 8 << 20);
        rig.client.block(1000, Blocking::Write(data.clone()), None);
        rig.server.block(1000, Blocking::Read(8 << 20), None);
        assert!(rig.server.join(1000, 20_000) == Some(Done::Read(data, true)));
        assert_eq!(rig.client.join(1000, 5000), Some(Done::Wrote(8 << 20)));
        rig.client.block(1001, Blocking::Read(5), None);
        assert_eq!(rig.client.join(1001, 50), None);
        rig.server.close();
        assert_eq!(
            rig.client.join(1001, 1000),
            Some(Done::Failed(Error::Broken))
        );
    });
}

/// Takes the next message in place, as a copy.
fn in_place(conn: &Conn) -> Result<Vec<u8>, Error> {
    // SAFETY: both ends are this process's, which writes through the queue only.
    unsafe { conn.read_in_place(<[u8]>::to_vec, &Wait::new(), Deadline::after(SOON)) }
}

#[test]
fn a_message_can_be_read_where_it_lies() {
    within(60, || {
        let pair = message_pair(4096);
        for message in [b"first".as_slice(), b"", b"third"] {
            assert_eq!(pair.client.write(message), Ok(message.len()));
        }
        assert_eq!(pair.server.read(&mut [0; 2]), Ok(Read::Part(2)));
        for rest in [b"rst".as_slice(), b"", b"third"] {
            assert_eq!(in_place(&pair.server), Ok(rest.to_vec()));
        }
        let info = pair.client.info().unwrap();
        assert_eq!(info.write_quota_available, 4096, "all of it is taken");

        // It waits, for an empty message too.
        for message in [b"late".as_slice(), b""] {
            let server = pair.server.clone();
            let reader = thread::spawn(move || in_place(&server));
            thread::sleep(Duration::from_millis(20));
            assert!(!reader.is_finished());
            assert_eq!(pair.client.write(message), Ok(message.len()));
            assert_eq!(reader.join().unwrap(), Ok(message.to_vec()));
        }

        // Larger than the area: a copy.
        let long = pattern(3, 20 << 20);
        let client = pair.client.clone();
        let writer = thread::spawn({
            let long = long.clone();
            move || client.write(&long)
        });
        assert!(until(SOON, || {
            pair.server.info().unwrap().read_available != 0
        }));
        assert!(in_place(&pair.server).unwrap() == long);
        assert_eq!(writer.join().unwrap(), Ok(long.len()));

        pair.client.close();
        assert_eq!(in_place(&pair.server), Err(Error::Broken));
    });
}

#[test]
fn who_looks_at_a_message_in_place_holds_the_lock_and_may_panic() {
    within(60, || {
        let pair = message_pair(4096);
        assert_eq!(pair.client.write(b"look"), Ok(4));
        let look = |_: &[u8]| {
            assert_eq!(
                pair.server.try_read(&mut [0; 8]),
                Err(Error::Busy),
                "the same thread"
            );
            let others = thread::scope(|scope| {
                scope
                    .spawn(|| pair.server.try_read(&mut [0; 8]))
                    .join()
                    .unwrap()
            });
            assert_eq!(others, Err(Error::Busy));
            assert_eq!(pair.client.write(b"more"), Ok(4), "the quota has room");
            panic!("in the middle");
        };
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // SAFETY: as in `in_place`.
            unsafe {
                pair.server
                    .read_in_place(look, &Wait::new(), Deadline::NEVER)
            }
        }));
        let why = seen.expect_err("it panics");
        assert_eq!(why.downcast_ref::<&str>(), Some(&"in the middle"));
        assert_eq!(in_place(&pair.server), Ok(b"look".to_vec()), "unread");
        assert_eq!(in_place(&pair.server), Ok(b"more".to_vec()));
    });
}

#[test]
fn bytes_can_be_read_where_they_lie() {
    within(60, || {
        let pair = byte_pair(4096);
        let server = pair.server.clone();
        let reader = thread::spawn(move || in_place(&server));
        thread::sleep(Duration::from_millis(20));
        assert_eq!(pair.client.write(b"one"), Ok(3));
        assert_eq!(reader.join().unwrap(), Ok(b"one".to_vec()));
        assert_eq!(pair.client.write(b"two"), Ok(3));
        assert_eq!(pair.server.read(&mut [0; 1]), Ok(Read::Whole(1)));
        assert_eq!(in_place(&pair.server), Ok(b"wo".to_vec()));
    });
}
