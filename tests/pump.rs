//! The event loop on a thread of the host's. A process of its own: there is no way back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use npfs::nt::*;
use npfs::{BrokerOptions, Deadline, Mask, NtStatus, Pump};
use npfs_tests::{Actor, Site, child_exe, until};

const SECOND: Duration = Duration::from_secs(1);
/// One pump, one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Begins, once, before anything pends.
fn pump() -> &'static Pump {
    static PUMP: OnceLock<Pump> = OnceLock::new();
    PUMP.get_or_init(Pump::take_over)
}

fn threads_of_ours() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task")
        .expect("proc")
        .flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.filter_map(name).map(|name| name.trim().to_owned());
    names
        .filter(|name| name.starts_with("npfs-loop") || name.starts_with("npfs-callback"))
        .collect()
}

/// A broker, a handle table with the server end of a pipe, and a process that has it open as `c`.
fn connected(name: &str) -> (Site, Nt, Handle, Actor) {
    let site = Site::start(BrokerOptions::new().workers(2));
    let nt = Nt::new(site.namespace());
    let mut client = site.actor(child_exe!());
    let path = units(&format!(r"\??\pipe\{name}"));
    let made = nt.create_named_pipe(&Attributes::named(&path), &CreatePipe::default());
    client.must(&format!("open c {name} rw"));
    (site, nt, made.expect("create").0, client)
}

#[test]
fn the_hosts_thread_moves_on_what_pends_and_runs_the_callbacks() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let pump = pump();
    let (_site, nt, server, mut client) = connected("hosted");
    let over = Arc::new(AtomicBool::new(false));
    let called = Arc::new(AtomicUsize::new(0));
    let host = thread::Builder::new()
        .name("host".to_owned())
        .spawn({
            let over = over.clone();
            move || {
                while !over.load(Ordering::SeqCst) {
                    let _ = pump.wait(Deadline::NEVER);
                    pump.run();
                }
            }
        })
        .expect("a thread");
    for turn in 1..=20 {
        let called_now = called.clone();
        let told = move |status, _| {
            assert_eq!(status, NtStatus::SUCCESS);
            assert_eq!(thread::current().name(), Some("host"));
            called_now.fetch_add(1, Ordering::SeqCst);
        };
        let callback = if turn % 2 == 0 {
            Callback::new(told)
        } else {
            Callback::that_may_wait(told)
        };
        let io = Io {
            event: Some(Event::new()),
            callback: Some(callback),
            ..Io::default()
        };
        assert_eq!(
            nt.read_file(server, &io, &Buffer::new(16)),
            NtStatus::PENDING
        );
        client.must(&format!("write c {turn}"));
        if turn % 4 == 0 {
            // Somebody who waits pumps for itself, and gives it back.
            let event = Waitable::Event(io.event.clone().expect("one"));
            assert_eq!(nt.wait(&[event], Deadline::after(5 * SECOND)), Ok(0));
        }
        let come = || called.load(Ordering::SeqCst) == turn;
        assert!(until(5 * SECOND, come), "turn {turn} is not moved on");
    }
    // The death of the peer, too.
    let io = Io::default();
    assert_eq!(
        nt.read_file(server, &io, &Buffer::new(16)),
        NtStatus::PENDING
    );
    client.kill();
    let broken = || io.status.status() == NtStatus::PIPE_BROKEN;
    assert!(until(5 * SECOND, broken), "nobody tells of a death");
    over.store(true, Ordering::SeqCst);
    pump.kick();
    host.join().expect("no panic");
    assert_eq!(threads_of_ours(), Vec::<String>::new());
}

#[test]
fn a_kick_ends_the_wait_and_a_deadline_does() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let pump = pump();
    // What another test has left may still ring: until nothing does.
    let is_quiet = || {
        while pump.run() {}
        !pump.wait(Deadline::after(Duration::from_millis(20)))
    };
    assert!(until(5 * SECOND, is_quiet));
    pump.kick();
    assert!(pump.wait(Deadline::NEVER), "one that came before");
    assert!(until(5 * SECOND, is_quiet), "once");
    let waits = thread::spawn(|| pump.wait(Deadline::after(5 * SECOND)));
    thread::sleep(Duration::from_millis(20));
    pump.kick();
    assert!(waits.join().expect("no panic"));
}

/// What nobody pumps waits until somebody does: there is no thread behind the host's back.
#[test]
fn nothing_moves_without_the_host() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let pump = pump();
    let (_site, nt, server, mut client) = connected("idle");
    let untouched = StatusBlock::new(NtStatus(1), 1);
    let io = Io {
        status: untouched.clone(),
        ..Io::default()
    };
    assert_eq!(
        nt.read_file(server, &io, &Buffer::new(16)),
        NtStatus::PENDING
    );
    client.must("write c x");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(untouched.status(), NtStatus(1));
    let come = || {
        pump.run();
        untouched.status() == NtStatus::SUCCESS
    };
    assert!(until(SECOND, come));
    let access = Mask::GENERIC_READ;
    assert!(
        nt.open_file(&Attributes::named(&units(r"\??\pipe\none")), access, 0, 0)
            .is_err()
    );
}
