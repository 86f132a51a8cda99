//! Overlapped calls in numbers, and peers that misuse the bell.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use npfs::nt::*;
use npfs::wire::{Reply, Request};
use npfs::{BrokerOptions, ClientOptions, Deadline, Mask, Name, NtStatus, Op, ServerOptions};
use npfs_ringbuf::{Link, ProcessIndex};
use npfs_tests::{Actor, Remote, Site, Stopwatch, Table, child_exe, raw::Raw, sys, until};

const PIPES: usize = 10_000;
/// Whoever waits moves on what pends in the whole process: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

fn path(name: &str) -> Vec<u16> {
    units(&format!(r"\??\pipe\{name}"))
}

fn create(nt: &Table) -> Handle {
    let made = nt.create_named_pipe(&Attributes::named(&path("many")), &CreatePipe::default());
    made.expect("create").0
}

fn open(nt: &Table) -> Handle {
    let access = Mask::GENERIC_READ | Mask::GENERIC_WRITE | Mask::SYNCHRONIZE;
    let opened = nt.open_file(&Attributes::named(&path("many")), access, 1, 0);
    opened.expect("open").0
}

/// Every one is answered, within a second, by one thread that waits or by the loop.
#[test]
fn np_close_02_the_peer_of_ten_thousand_pending_reads_is_killed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start(BrokerOptions::new().workers(2));
    let remote = Remote::spawn(child_exe!(), &site.socket);
    let nt = Nt::new(site.namespace());
    let (here, there) = Table::there(nt.clone(), &remote);
    let port = Port::new();
    let mut servers = Vec::new();
    for _ in 0..PIPES {
        let server = create(&here);
        open(&there);
        nt.set_completion_port(server, &port, 1).expect("a port");
        servers.push(server);
    }
    for (number, server) in servers.iter().enumerate() {
        let io = Io {
            context: number + 1,
            ..Io::default()
        };
        let pends = nt.read_file(*server, &io, &Buffer::new(16));
        assert_eq!(pends, NtStatus::PENDING);
    }
    // One of them, in the middle of all.
    let begin = Stopwatch::start();
    remote.kill();
    let mut seen = vec![false; PIPES];
    for left in (1..=PIPES).rev() {
        let packet = loop {
            if let Some(packet) = port.take() {
                break packet;
            }
            let waited = nt.wait(
                &[Waitable::Port(port.clone())],
                Deadline::after(Duration::from_secs(10)),
            );
            assert_eq!(waited, Ok(0), "{left} are not answered");
        };
        assert_eq!(packet.status, NtStatus::PIPE_BROKEN);
        assert!(
            !std::mem::replace(&mut seen[packet.context - 1], true),
            "twice"
        );
    }
    // The promise is a second; an unoptimised build on a busy machine has more.
    begin.expect_within(Duration::from_secs(5), "all answers");
    assert_eq!(port.take(), None);
}

/// Two sessions of one process have a bell each on the link that they share. What is read by turns through one and the other is
/// heard of at its own, by a thread that sleeps (`NPFS_READS=polled`: without a place in any list).
#[test]
fn each_of_two_sessions_in_one_process_hears_its_own_bell() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = BrokerOptions::new().workers(2).start().expect("a broker");
    let sessions = [(); 2].map(|()| broker.connect().expect("a session"));
    let server = ServerOptions::new().create(&sessions[0], "two");
    let server = server.expect("create");
    let client = ClientOptions::new().open(&sessions[1], "two");
    let client = client.expect("open");
    server.connect().expect("connected");
    for turn in 0..6 {
        let is_servers = turn % 2 == 0;
        let reads = if is_servers {
            server.start(Op::read(vec![0; 16]))
        } else {
            client.start(Op::read(vec![0; 16]))
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(30));
                let written = if is_servers {
                    client.write(b"ring")
                } else {
                    server.write(b"ring")
                };
                written.expect("written");
            });
            let deadline = Deadline::after(Duration::from_secs(5));
            let read = reads.wait(deadline).expect("nobody hears of it");
            assert_eq!(read.data(), b"ring", "{turn}");
        });
    }
}

/// A peer rings as fast as it can, for nothing. Who sleeps at that bell looks now and then, and no more.
#[test]
fn a_bell_that_is_rung_for_nothing_is_not_listened_to_for_long() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start(BrokerOptions::new().workers(2));
    let nt = Nt::new(site.namespace());
    let here = Table::here(nt.clone(), nt).0;
    let server = create(&here);
    // A client of its own making, which has the link and does with it what it likes.
    let raw = Raw::greet(&site.socket);
    let access = Mask::GENERIC_READ | Mask::GENERIC_WRITE | Mask::SYNCHRONIZE;
    let name = Name::parse("many").expect("a name");
    let wanted = npfs::npfs::Wanted::access(access);
    let open = Request::Open(npfs::npfs::Tag(1), name, wanted);
    raw.send(&open.encode()).expect("sent");
    let (reply, link) = raw.receive().expect("an answer");
    let Ok(Reply::Opened { conn, .. }) = Reply::decode(&reply) else {
        panic!("not opened");
    };
    let index = ProcessIndex::new(conn.process).expect("an index");
    let link = Link::attach(link.expect("a link"), index).expect("a link");
    let victim = link.peer().expect("the other of two");
    let io = Io::with_event(Event::new());
    let pends = here.read_file(server, &io, &Buffer::new(16));
    assert_eq!(pends, NtStatus::PENDING);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                link.bell(victim).ring(0);
                link.bell(victim).ring(7);
            }
        });
        let event = Waitable::Event(io.event.clone().expect("one"));
        let before = sys::thread_cpu_time();
        let span = Duration::from_secs(2);
        let waited = here.wait(&[event], Deadline::after(span));
        let used = sys::thread_cpu_time() - before;
        over.store(true, Ordering::Relaxed);
        assert_eq!(waited, Err(NtStatus::TIMEOUT));
        // 1 % is the promise. This build is not optimised, and needs a fifth of that.
        let share = used.as_secs_f64() / span.as_secs_f64();
        assert!(share < 0.02, "it costs its victim {:.2} %", 100.0 * share);
    });
}

/// System calls by which a process wakes others while it does something, as strace(1) sees them. `None`: no strace here.
fn wakes_of(actor: &mut Actor, line: &str) -> Option<usize> {
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-q",
        "-e",
        "trace=futex",
        "-p",
        &actor.pid().to_string(),
    ]);
    let mut strace = strace
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .ok()?;
    // Attached to every thread, before it begins.
    let tracer = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", actor.pid()));
        status.is_ok_and(|status| status.contains(&format!("TracerPid:\t{}\n", strace.id())))
    };
    if !until(Duration::from_secs(5), tracer) {
        let _ = strace.kill();
        let _ = strace.wait();
        return None;
    }
    actor.must(line);
    sys::signal(strace.id(), libc::SIGINT).expect("our own child");
    let said = strace.wait_with_output().expect("its report").stderr;
    let said = String::from_utf8_lossy(&said);
    // Those of std are private to their process.
    let wakes = said.lines().filter(|line| line.contains("FUTEX_WAKE,"));
    Some(wakes.count())
}

/// A burst of messages on 64 pipes costs one wake if the loop that is to hear of them sleeps, and none if it is awake: it is
/// stopped meanwhile, so that neither can change.
#[test]
fn a_burst_costs_one_wake() {
    const BURST: usize = 64;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start(BrokerOptions::new().workers(2));
    let remote = Remote::spawn(child_exe!(), &site.socket);
    let (_, there) = Table::there(Nt::new(site.namespace()), &remote);
    let mut client = site.actor(child_exe!());
    let mut pended = Vec::new();
    for number in 0..2 * BURST {
        let server = create(&there);
        client.must(&format!("open {number} many rw"));
        let io = Io::with_event(Event::new());
        let pends = there.read_file(server, &io, &Buffer::new(16));
        assert_eq!(pends, NtStatus::PENDING);
        pended.push(io);
    }
    // Its loop sleeps by then.
    thread::sleep(Duration::from_millis(50));
    sys::signal(remote.pid(), libc::SIGSTOP).expect("our own child");
    assert_eq!(
        sys::watch(remote.pid(), Duration::from_secs(5)),
        sys::Seen::Stopped
    );
    let asleep = wakes_of(&mut client, &format!("burst 0 {BURST}"));
    let awake = wakes_of(&mut client, &format!("burst {BURST} {}", 2 * BURST));
    sys::signal(remote.pid(), libc::SIGCONT).expect("our own child");
    for io in &pended {
        let event = Waitable::Event(io.event.clone().expect("one"));
        let waited = there.wait(&[event], Deadline::after(Duration::from_secs(10)));
        assert_eq!((waited, io.status.status()), (Ok(0), NtStatus::SUCCESS));
    }
    let Some(wakes) = asleep.zip(awake) else {
        println!("SKIPPED: a_burst_costs_one_wake (no strace that may attach)");
        return;
    };
    assert_eq!(
        wakes,
        (1, 0),
        "wakes for a loop that sleeps, and for one that is awake"
    );
}

/// More links than one futex call takes: each client is a process of its own.
#[test]
fn clients_of_three_hundred_processes_are_heard() {
    const CLIENTS: usize = 300;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start(BrokerOptions::new().workers(2));
    let nt = Nt::new(site.namespace());
    let here = Table::here(nt.clone(), nt.clone()).0;
    let port = Port::new();
    let mut clients = Vec::new();
    let read = |server, number: usize| {
        let io = Io {
            context: number + 1,
            ..Io::default()
        };
        assert_eq!(
            nt.read_file(server, &io, &Buffer::new(16)),
            NtStatus::PENDING
        );
    };
    let mut servers = Vec::new();
    for number in 0..CLIENTS {
        let server = create(&here);
        let mut client = site.actor(child_exe!());
        client.must("open c many rw");
        nt.set_completion_port(server, &port, 1).expect("a port");
        read(server, number);
        servers.push(server);
        clients.push(client);
    }
    let next = || {
        let mut packets = Vec::new();
        let got = port.wait(&mut packets, 1, Deadline::after(Duration::from_secs(10)));
        assert_eq!(got, Ok(1), "not heard");
        packets.remove(0)
    };
    // Each once, asleep in between; then those in the middle of it again and again; and by the loop alone.
    let some = [7, CLIENTS / 2, CLIENTS - 1];
    for number in (0..CLIENTS).chain(some.into_iter().cycle().take(60)) {
        clients[number].must("write c x");
        assert_eq!(next().context, number + 1);
        read(servers[number], number);
    }
    clients[5].must("write c x");
    let come = || port.take().is_some_and(|packet| packet.context == 6);
    assert!(
        until(Duration::from_secs(5), come),
        "the loop has not heard it"
    );
    read(servers[5], 5);
    // And their deaths.
    let mut seen = vec![false; CLIENTS];
    for client in &mut clients {
        client.kill();
    }
    for _ in 0..CLIENTS {
        let packet = next();
        assert_eq!(packet.status, NtStatus::PIPE_BROKEN);
        let twice = std::mem::replace(&mut seen[packet.context - 1], true);
        assert!(!twice, "{} twice", packet.context);
    }
}

/// Cancels race completions that come from another process: each read is answered once, with its number or with CANCELLED,
/// and no number is lost. A million with `NPFS_LONG`.
#[test]
fn np_cancel_01_04_cancels_race_the_completions_of_another_process() {
    let numbers: u32 = match std::env::var_os("NPFS_LONG") {
        Some(_) => 1_000_000,
        None => 5_000,
    };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::start(BrokerOptions::new().workers(2));
    let nt = Nt::new(site.namespace());
    let at = path("many");
    let create = CreatePipe {
        in_quota: 16,
        ..CreatePipe::default()
    };
    let made = nt.create_named_pipe(&Attributes::named(&at), &create);
    let server = made.expect("create").0;
    let port = Port::new();
    nt.set_completion_port(server, &port, 1).expect("a port");
    let mut client = site.actor(child_exe!());
    client.must("open c many rw");
    let counts = client.start(&format!("count c {numbers}"));
    let (mut next, mut reads) = (0_u32, 0_usize);
    let (mut cancelled, mut too_late, mut at_once) = (0, 0, 0);
    let mut packets = Vec::new();
    while next != numbers {
        reads += 1;
        let (buffer, status) = (Buffer::new(4), StatusBlock::default());
        let io = Io {
            status: status.clone(),
            context: reads,
            ..Io::default()
        };
        let answer = nt.read_file(server, &io, &buffer);
        let pended = answer == NtStatus::PENDING;
        let asked = pended.then(|| {
            for _ in 0..reads % 512 {
                std::hint::spin_loop();
            }
            nt.cancel_io_file_ex(server, Some(&status)).is_ok()
        });
        // Exactly one packet for each, whatever became of it.
        packets.clear();
        let got = port.wait(&mut packets, 2, Deadline::after(Duration::from_secs(10)));
        assert_eq!(got, Ok(1), "read {reads}");
        assert_eq!(
            (packets[0].context, packets[0].status),
            (reads, status.status())
        );
        if status.status() == NtStatus::CANCELLED {
            assert_eq!((asked, packets[0].information), (Some(true), 0));
            cancelled += 1;
            continue;
        }
        assert_eq!(
            (status.status(), status.information()),
            (NtStatus::SUCCESS, 4)
        );
        assert_eq!(buffer.bytes(), next.to_le_bytes(), "lost, or twice");
        next += 1;
        match asked {
            Some(asked) => {
                assert!(!asked, "cancelled, and completed");
                too_late += 1;
            }
            None => at_once += 1,
        }
    }
    assert_eq!(
        client.within(counts, Duration::from_secs(10)),
        Some("ok ".to_owned())
    );
    let raced = cancelled > 0 && too_late > 0;
    assert!(
        raced,
        "{cancelled} cancelled, {too_late} too late, {at_once} at once"
    );
    // Nothing is left, of either.
    let io = Io::default();
    assert_eq!(
        nt.read_file(server, &io, &Buffer::new(4)),
        NtStatus::PENDING
    );
    assert_eq!(port.take(), None);
}
