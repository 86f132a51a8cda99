//! A peer that writes anything anywhere in the link, at any time.
//!
//! What it can reach is its own connection, and that only until the victim's own deadline: no crash, no hang, no byte outside
//! a buffer, nothing in another link. How long: 5 s, with `CI` set 20 s, with `NPFS_LONG=1` three minutes.

use npfs_ringbuf::books::{ConnSpec, LinkConfig};
use npfs_ringbuf::{CompletionMode, Conn, End, Error, PipeType, ReadMode, Wait};
use npfs_tests::cmd::{Blocking, Cmd, Done, Reply};
use npfs_tests::party::{Pair, Place, Rig};
use npfs_tests::sys::{Map, extents};
use npfs_tests::{Rng, Stopwatch, child_exe, pattern, soon, within};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A call may return so much later than its deadline on a machine whose CPUs are all at work.
const SLACK: Duration = Duration::from_secs(2);

/// A link small enough that noise meets every byte of it soon.
const SMALL: LinkConfig = LinkConfig {
    size: 4 << 20,
    slots: 4,
};

fn duration() -> Duration {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    Duration::from_secs(if set("NPFS_LONG") {
        180
    } else if set("CI") {
        20
    } else {
        5
    })
}

/// Runs a call that has a deadline of so many milliseconds (none: answers at once) and sees that it is kept.
fn timed<T>(what: &str, millis: u64, call: impl FnOnce() -> T) -> T {
    let start = Stopwatch::start();
    let value = call();
    start.expect_within(Duration::from_millis(millis) + SLACK, what);
    value
}

/// Every kind of call on one end, whatever it answers. The buffers have canaries.
fn exercise(conn: &Conn, rng: &mut Rng, wait: &Wait) {
    const ROOM: usize = 5000;
    let millis = 1 + rng.below(20) as u64;
    let mut buf = [0xc5_u8; ROOM + 64];
    let len = rng.below(ROOM + 1);
    let data = pattern(rng.next_u64(), rng.below(9000));
    match rng.below(13) {
        0 => drop(timed("try_read", 0, || conn.try_read(&mut buf[..len]))),
        1 => drop(timed("try_write", 0, || conn.try_write(&data))),
        2 => drop(timed("peek", 0, || conn.peek(&mut buf[..len]))),
        3 => drop(timed("info", 0, || {
            (conn.info(), conn.state(), conn.read_mode())
        })),
        4 => drop(timed("read", millis, || {
            conn.read_with(&mut buf[..len], wait, soon(millis))
        })),
        5 => drop(timed("write", millis, || {
            conn.write_with(&data, wait, soon(millis))
        })),
        6 => drop(timed("flush", millis, || {
            conn.flush_with(wait, soon(millis))
        })),
        7 => drop(timed("transact", millis, || {
            conn.transact_with(&data, &mut buf[..len], wait, soon(millis))
        })),
        8 => drop(timed("start_read", 0, || {
            let mut read = conn.start_read(wait, &mut buf[..len])?;
            for _ in 0..20 {
                let _ = read.poll();
            }
            let _ = read.cancel();
            Ok::<_, Error>(())
        })),
        9 => drop(timed("start_write", 0, || {
            let mut write = conn.start_write(wait, &data)?;
            for _ in 0..20 {
                let _ = write.poll();
            }
            Ok::<_, Error>(())
        })),
        10 => drop(timed("pending wait", millis, || {
            conn.start_write(wait, &data)
                .and_then(|mut write| write.wait(soon(millis)))
        })),
        11 => drop(timed("set_modes", 0, || {
            let read = if rng.below(2) == 0 {
                ReadMode::Byte
            } else {
                ReadMode::Message
            };
            conn.set_modes(read, CompletionMode::Queue)
        })),
        _ => drop(timed("start_transact", 0, || {
            let mut call =
                conn.start_transact(wait, &data[..data.len().min(300)], &mut buf[..len])?;
            let _ = call.poll();
            let _ = call.cancel();
            Ok::<_, Error>(())
        })),
    }
    assert!(
        buf[len..].iter().all(|b| *b == 0xc5),
        "a byte outside the buffer"
    );
}

/// Checked traffic on a link that no attacker knows.
fn untouched(stop: &AtomicBool, rounds: &AtomicU64) {
    let pair = Pair::new(&ConnSpec::new(PipeType::Message, 4096));
    let mut buf = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.fetch_add(1, Ordering::Relaxed);
        let data = pattern(round, usize::from(round.to_le_bytes()[0]) * 16);
        let sent = pair.client.write_with(&data, &Wait::new(), soon(10_000));
        assert_eq!(sent, Ok(data.len()));
        let read = pair.server.read_with(&mut buf, &Wait::new(), soon(10_000));
        assert_eq!(read.map(|r| r.count()), Ok(data.len()));
        assert_eq!(buf[..data.len()], data);
        thread::yield_now();
    }
}

/// One link, one attacker, noise until it ends; answers how many calls were made.
fn round(seed: u64, millis: u64) -> u64 {
    let pipe_type = if seed.is_multiple_of(2) {
        PipeType::Message
    } else {
        PipeType::Byte
    };
    let spec = ConnSpec::new(pipe_type, 4096);
    let place = if seed.is_multiple_of(3) {
        Place::ServerThere(child_exe!())
    } else {
        Place::ClientThere(child_exe!())
    };
    let mut rig = Rig::with(place, &spec, &SMALL);
    let (here, there) = match place {
        Place::ServerThere(_) => (End::Client, End::Server),
        _ => (End::Server, End::Client),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let conn = rig.end(here).conn();
    let victims: Vec<_> = (0..2)
        .map(|n| {
            let (conn, stop, calls) = (conn.clone(), stop.clone(), calls.clone());
            thread::spawn(move || {
                let mut rng = Rng::new(seed * 8 + n);
                let wait = Wait::new();
                while !stop.load(Ordering::Relaxed) {
                    exercise(&conn, &mut rng, &wait);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    assert!(matches!(rig.end(there).call(Cmd::Scribble(seed, millis)), Reply::Number(n) if n > 0));
    // The attacker's process makes calls as well: its own end is in the same memory.
    let start = Instant::now();
    let mut rng = Rng::new(seed ^ 0xffff);
    let mut op = 0;
    while start.elapsed() < Duration::from_millis(millis) {
        op += 1;
        let what = if rng.below(2) == 0 {
            Blocking::Write(pattern(rng.next_u64(), rng.below(9000)))
        } else {
            Blocking::Read(rng.below(9000))
        };
        rig.end(there).block(op, what, Some(10));
        assert!(
            rig.end(there).join(op, 5000).is_some(),
            "the attacker's own call hangs"
        );
        let _ = rig.end(there).peek(100);
        let _ = rig.end(there).try_read(100);
    }
    assert!(matches!(rig.end(there).call(Cmd::Scribbled), Reply::Number(n) if n > 1000));
    stop.store(true, Ordering::Relaxed);
    for victim in victims {
        victim.join().expect("a victim does not panic");
    }
    // The books meet the same memory.
    timed("books", 0, || {
        let _ = rig.books.disconnect(rig.id);
        rig.books.sweep(rig.client_index, None);
        let _ = rig.books.close(rig.id, there);
        rig.books.reap();
        if let Ok((_, server, client)) =
            rig.books.connect(&spec, rig.server_index, rig.client_index)
        {
            let _ = (server, client);
        }
    });
    // An end never hangs in its own closing.
    timed("close", 0, || conn.close());
    calls.load(Ordering::Relaxed)
}

#[test]
fn a_process_that_scribbles_over_the_whole_link() {
    let duration = duration();
    within(duration.as_secs() + 60, move || {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let bystander = thread::spawn({
            let (stop, rounds) = (stop.clone(), rounds.clone());
            move || untouched(&stop, &rounds)
        });
        let start = Instant::now();
        let mut seed = 1;
        let mut calls = 0;
        while start.elapsed() < duration {
            eprintln!("seed {seed}");
            calls += round(seed, 300);
            seed += 1;
        }
        stop.store(true, Ordering::Relaxed);
        bystander.join().expect("the other link is untouched");
        let rounds = rounds.load(Ordering::Relaxed);
        println!("{seed} attacks, {calls} calls of the victims, {rounds} messages beside them");
        assert!(calls > 100 && rounds > 100, "there was traffic");
    });
}

/// The attacker's view of a pair's link, and the places in it that hold memory before any data does: header, bells, slot
/// headers, records.
fn tables(pair: &Pair) -> (Map, Vec<usize>) {
    let map = Map::new(pair.books.fd()).expect("a mapping");
    let words = extents(pair.books.fd())
        .into_iter()
        .flat_map(|(at, len)| (at..at + len).step_by(4))
        .filter(|at| at + 4 <= map.len())
        .collect();
    (map, words)
}

/// Every number of the tables, one after the other, as large as can be: no sum of it with another ends the process.
#[test]
fn every_number_of_the_tables_as_large_as_can_be() {
    within(300, || {
        let spec = ConnSpec::new(PipeType::Message, 512);
        let (_, words) = tables(&Pair::with(&spec, &SMALL));
        for at in words.into_iter().step_by(2) {
            for (low, high) in [
                (u32::MAX, u32::MAX),
                (0, 1 << 31),
                (u32::MAX, u32::MAX >> 1),
            ] {
                let what = format!("{high:#x} {low:#x} at {at:#x}");
                let pair = Pair::with(&spec, &SMALL);
                let map = Map::new(pair.books.fd()).expect("a mapping");
                // A lap of traffic first: the notes of both sides mean something.
                let mut buf = [0; 512];
                for _ in 0..3 {
                    assert_eq!(pair.client.try_write(&[1; 300]), Ok(300));
                    assert_eq!(pair.server.try_read(&mut buf).map(|r| r.count()), Ok(300));
                }
                let kept = [at, at + 4].map(|at| map.word(at).load(Ordering::SeqCst));
                map.word(at).store(low, Ordering::SeqCst);
                map.word(at + 4).store(high, Ordering::SeqCst);
                let wait = Wait::new();
                for conn in [&pair.server, &pair.client] {
                    timed(&what, 0, || conn.info()).ok();
                    timed(&what, 1, || conn.read_with(&mut buf, &wait, soon(1))).ok();
                    timed(&what, 1, || conn.write_with(&[1; 300], &wait, soon(1))).ok();
                    timed(&what, 1, || conn.write_with(&[1; 300], &wait, soon(1))).ok();
                    timed(&what, 0, || conn.peek(&mut buf)).ok();
                    timed(&what, 0, || conn.try_read(&mut buf)).ok();
                    timed(&what, 0, || conn.try_read(&mut buf)).ok();
                }
                timed(&what, 0, || pair.client.close());
                let [low, high] = kept;
                map.word(at).store(low, Ordering::SeqCst);
                map.word(at + 4).store(high, Ordering::SeqCst);
                timed(&what, 0, || pair.server.close());
            }
        }
    });
}

/// "Held by somebody", in every word where a role or a lock may be: nobody's cancel or deadline needs it.
#[test]
fn held_by_somebody_in_every_word_of_the_tables() {
    within(300, || {
        let spec = ConnSpec::new(PipeType::Message, 512);
        let mut pair = Pair::with(&spec, &SMALL);
        let (mut map, words) = tables(&pair);
        // An owner is a process index and a thread serial; how they are packed is the link's affair: small numbers, both
        // halves, high bits, all bits.
        let values = [1, 0x0001_0001, 0x0700_0123, 0x8000_0001, u32::MAX];
        for (n, line) in words.chunks(16).enumerate() {
            let value = values[n % values.len()];
            let kept: Vec<u32> = line
                .iter()
                .map(|at| map.word(*at).load(Ordering::SeqCst))
                .collect();
            for at in line {
                map.word(*at).store(value, Ordering::SeqCst);
            }
            let what = format!("{value:#x} at {:#x}", line[0]);
            let wait = Wait::new();
            let mut buf = [0; 64];
            timed(&what, 0, || pair.server.try_read(&mut buf)).ok();
            timed(&what, 0, || pair.client.try_write(b"abc")).ok();
            timed(&what, 0, || pair.server.info()).ok();
            timed(&what, 0, || pair.server.peek(&mut buf)).ok();
            timed(&what, 2, || pair.server.read_with(&mut buf, &wait, soon(2))).ok();
            timed(&what, 2, || {
                pair.client.write_with(&[1; 600], &wait, soon(2))
            })
            .ok();
            timed(&what, 2, || pair.client.flush_with(&wait, soon(2))).ok();
            timed(&what, 0, || {
                if let Ok(mut read) = pair.server.start_read(&wait, &mut buf) {
                    let _ = read.poll();
                    let _ = read.cancel();
                }
            });
            for (at, old) in line.iter().zip(kept) {
                map.word(*at).store(old, Ordering::SeqCst);
            }
            // A connection may have ended with a fault, and a queue may be out of step: on with a fresh link.
            timed(&what, 0, || pair.server.close());
            pair = Pair::with(&spec, &SMALL);
            map = Map::new(pair.books.fd()).expect("a mapping");
        }
    });
}

/// Who is asleep cannot be carried off: its own cancel and its own deadline still reach it.
#[test]
fn the_requeue_attack() {
    within(120, || {
        let spec = ConnSpec::new(PipeType::Message, 512);
        let kinds: [(&str, Blocking); 4] = [
            ("read", Blocking::Read(64)),
            ("write", Blocking::Write(vec![1; 2000])),
            ("flush", Blocking::Flush),
            ("transact", Blocking::Transact(b"q".to_vec(), 64)),
        ];
        let mut carried_off = 0;
        for (name, what) in kinds {
            for deadline in [None, Some(600)] {
                let mut rig = Rig::with(Place::OneProcess, &spec, &SMALL);
                rig.client
                    .set_modes(ReadMode::Message, CompletionMode::Queue)
                    .expect("idle");
                let map = Map::new(rig.books.fd()).expect("a mapping");
                if name == "flush" {
                    assert_eq!(rig.client.try_write(b"unread"), Done::Wrote(6));
                }
                rig.client.block(1, what.clone(), deadline);
                // Time to fall asleep: longer than anybody spins.
                thread::sleep(Duration::from_millis(100));
                let elsewhere = AtomicU32::new(0);
                let places: Vec<usize> = extents(rig.books.fd())
                    .into_iter()
                    .flat_map(|(at, len)| (at..at + len).step_by(4))
                    .collect();
                for _ in 0..3 {
                    carried_off += places
                        .iter()
                        .map(|at| map.requeue(*at, &elsewhere))
                        .sum::<usize>();
                }
                match deadline {
                    None => {
                        assert!(rig.client.cancel_blocked(1), "{name}");
                        let done = rig.client.join(1, 1000);
                        assert_eq!(done, Some(Done::Failed(Error::Cancelled)), "{name}");
                    }
                    Some(_) => {
                        let done = rig.client.join(1, 2000);
                        assert_eq!(done, Some(Done::Failed(Error::TimedOut)), "{name}");
                    }
                }
            }
        }
        assert!(
            carried_off > 0,
            "the attack found nobody asleep: it tests nothing"
        );
    });
}

/// The peer's lies about counts end the connection, not the process: every word of the tables set to large numbers, one at a
/// time, in the middle of traffic that is checked as long as it claims success.
#[test]
fn no_word_of_the_tables_makes_a_call_endless() {
    within(300, || {
        let spec = ConnSpec::new(PipeType::Byte, 512);
        let words = tables(&Pair::with(&spec, &SMALL)).1;
        let mut rng = Rng::new(42);
        for _ in 0..100 {
            let pair = Pair::with(&spec, &SMALL);
            let map = Map::new(pair.books.fd().as_fd()).expect("a mapping");
            let wait = Wait::new();
            assert_eq!(pair.client.try_write(b"some data"), Ok(9));
            for _ in 0..8 {
                let at = words[rng.below(words.len())];
                let value = [u32::MAX, 0x7fff_ffff, 0x8000_0000, 0x0001_0000][rng.below(4)];
                map.word(at).store(value, Ordering::SeqCst);
                for _ in 0..4 {
                    exercise(&pair.server, &mut rng, &wait);
                    exercise(&pair.client, &mut rng, &wait);
                }
            }
            timed("close", 0, || {
                pair.server.close();
                pair.client.close();
            });
        }
    });
}
