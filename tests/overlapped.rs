//! Overlapped calls in numbers, and peers that misuse the bell.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use npfs::nt::*;
use npfs::wire::{Reply, Request};
use npfs::{BrokerOptions, Deadline, Mask, Name, NtStatus};
use npfs_ringbuf::{Link, ProcessIndex};
use npfs_tests::{Remote, Site, Table, child_exe, raw::Raw, sys};

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
    let begin = Instant::now();
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
    let took = begin.elapsed();
    // The promise is a second; an unoptimised build on a busy machine has more.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(port.take(), None);
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
    let quality = npfs::npfs::Quality::default();
    let open = Request::Open(npfs::npfs::Tag(1), name, access, quality);
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
        // 1 % is the promise; this build is not optimised.
        let share = used.as_secs_f64() / span.as_secs_f64();
        assert!(share < 0.04, "it costs its victim {:.2} %", 100.0 * share);
    });
}
