//! Clients that send garbage, flood, or do not read; and clients of another user.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fs, thread};

use npfs::broker::Limits;
use npfs::npfs::{EndId, Tag, Timeout, Wanted};
use npfs::security::{Mask, SecurityDescriptor, Sid};
use npfs::wire::{Hello, Reply, Request};
use npfs::{
    BrokerOptions, Client, ClientOptions, Error, Name, Namespace, NtStatus, PipeType, Read,
    ReadMode, Server, ServerOptions, State,
};
use npfs_tests::raw::Raw;
use npfs_tests::{Actor, Site, Stopwatch, child_exe, eventually};

/// An honest pair gets its messages through, and names work.
fn works(site: &Site) {
    let namespace = site.namespace();
    let begin = Stopwatch::start();
    let server = ServerOptions::new().create(&namespace, "honest");
    let server = server.expect("create");
    let client = ClientOptions::new().open(&namespace, "honest");
    let client = client.expect("open");
    server.connect().expect("connect");
    client.write(b"x").expect("write");
    assert_eq!(server.read(&mut [0; 4]).expect("read"), Read::Whole(1));
    begin.expect_within(Duration::from_secs(2), "an honest pair");
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

#[test]
fn garbage_is_cut_off_alone() {
    let site = Site::start(&mut BrokerOptions::new());
    let long = vec![0xff; 150_000];
    let truncated = &Request::Hello(Hello::ours()).encode()[..40];
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], truncated, &long] {
        let fresh = Raw::connect(&site.socket);
        fresh.send(garbage).expect("sent");
        assert!(fresh.is_cut_off(), "{} bytes as a hello", garbage.len());
        let greeted = Raw::greet(&site.socket);
        greeted.send(garbage).expect("sent");
        assert!(greeted.is_cut_off(), "{} bytes after it", garbage.len());
        works(&site);
    }
    // A request before the hello, and a second hello.
    let fresh = Raw::connect(&site.socket);
    fresh.send(&Request::Cancel(Tag(1)).encode()).expect("sent");
    assert!(fresh.is_cut_off());
    let greeted = Raw::greet(&site.socket);
    greeted
        .send(&Request::Hello(Hello::ours()).encode())
        .expect("sent");
    assert!(greeted.is_cut_off());
    works(&site);
    eventually("their sessions are gone", || {
        site.broker().stats().sessions == 0
    });
}

#[test]
fn other_versions_are_told_so() {
    let site = Site::start(&mut BrokerOptions::new());
    for hello in [
        Hello {
            versions: (7, 9),
            ..Hello::ours()
        },
        Hello {
            abi: 99,
            ..Hello::ours()
        },
        Hello {
            layout: 1,
            ..Hello::ours()
        },
    ] {
        let raw = Raw::connect(&site.socket);
        raw.send(&Request::Hello(hello).encode()).expect("sent");
        let (reply, _) = raw.receive().expect("an answer first");
        let Ok(Reply::Welcome { version, abi, .. }) = Reply::decode(&reply) else {
            panic!("a welcome was due");
        };
        assert_eq!(version == 0, hello.versions.0 == 7);
        assert_eq!(abi, npfs_ringbuf::ABI_VERSION);
        assert!(raw.is_cut_off());
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_either() {
    let site = Site::start(BrokerOptions::new().workers(1));
    let namespace = site.namespace();
    let servers: Vec<_> = (0..500)
        .map(|number| {
            let name =
                format!("a pipe with a name of some length, so that listings are long {number}");
            ServerOptions::new()
                .create(&namespace, &name)
                .expect("create")
        })
        .collect();
    let flood = Raw::greet(&site.socket);
    let mut sent = 0;
    let begin = Instant::now();
    // Each answer is 64 KiB: a gigabyte of them, if the broker took it all.
    let list = |tag| Request::List(Tag(tag), 0, Vec::new()).encode();
    while sent < 16_000 && begin.elapsed() < Duration::from_secs(3) {
        match flood.send(&list(sent + 1)) {
            Ok(()) => sent += 1,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(sent < 16_000, "the broker took everything");
    works(&site);
    // Once it reads, it is served again.
    let (reply, _) = flood.receive().expect("an answer");
    assert!(matches!(
        Reply::decode(&reply),
        Ok(Reply::Pipes { tag: Tag(1), .. })
    ));
    for _ in 1..sent {
        flood.receive().expect("every answer, in the end");
    }
    drop(servers);
}

#[test]
fn a_flood_of_requests_holds_up_nobody() {
    let site = Site::start(BrokerOptions::new().workers(1));
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let flood = Raw::greet(&site.socket);
                let wait = Request::Close(EndId(5)).encode();
                while !stop.load(Ordering::SeqCst) {
                    let _ = flood.send(&wait);
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        for _ in 0..20 {
            works(&site);
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn limits_end_in_an_error_and_take_nothing_from_others() {
    let site = Site::start(BrokerOptions::new().limits(Limits {
        ends: 10,
        outstanding: 5,
        ..Limits::default()
    }));
    let namespace = site.namespace();
    let mut ends = Vec::new();
    for _ in 0..10 {
        ends.push(
            ServerOptions::new()
                .create(&namespace, "a")
                .expect("create"),
        );
    }
    assert!(matches!(
        ServerOptions::new().create(&namespace, "a"),
        Err(Error::NoResources)
    ));
    assert!(matches!(
        ClientOptions::new().open(&namespace, "a"),
        Err(Error::NoResources)
    ));
    works(&site);
    ends.pop();
    ends.push(
        ServerOptions::new()
            .create(&namespace, "a")
            .expect("room again"),
    );
    // Requests that are not answered yet.
    let other = Raw::greet(&site.socket);
    for tag in 1..=5 {
        let wanted = Wanted::access(Mask::GENERIC_READ);
        let taken = Request::Open(Tag(100 + tag), name("a"), wanted);
        other.send(&taken.encode()).expect("sent");
        assert!(other.receive().is_some());
    }
    let busy = ServerOptions::new();
    let third = site.namespace();
    let _busy = busy.create(&third, "busy").expect("create");
    let _client = ClientOptions::new().open(&third, "busy").expect("open");
    for tag in 1..=6 {
        let wait = Request::Wait(Tag(tag), name("busy"), Timeout::Never);
        other.send(&wait.encode()).expect("sent");
    }
    let (reply, _) = other.receive().expect("one too many");
    assert_eq!(
        Reply::decode(&reply),
        Ok(Reply::Done(Tag(6), NtStatus::INSUFFICIENT_RESOURCES))
    );
    // A listing that wants no answer gets none, and counts for nothing.
    other
        .send(&Request::List(Tag(0), 0, Vec::new()).encode())
        .expect("sent");
    // One that is answered makes room for another.
    other.send(&Request::Cancel(Tag(3)).encode()).expect("sent");
    let (reply, _) = other.receive().expect("cancelled");
    assert_eq!(
        Reply::decode(&reply),
        Ok(Reply::Done(Tag(3), NtStatus::CANCELLED))
    );
    let wait = Request::Wait(Tag(7), name("none"), Timeout::Never);
    other.send(&wait.encode()).expect("sent");
    let (reply, _) = other.receive().expect("answered");
    assert_eq!(
        Reply::decode(&reply),
        Ok(Reply::Done(Tag(7), NtStatus::OBJECT_NAME_NOT_FOUND))
    );
}

#[test]
fn a_tag_in_use_is_refused_and_ends_of_others_cannot_be_reached() {
    let site = Site::start(&mut BrokerOptions::new());
    let namespace = site.namespace();
    let server = ServerOptions::new()
        .create(&namespace, "a")
        .expect("create");
    let client = ClientOptions::new().open(&namespace, "a").expect("open");
    server.connect().expect("connect");
    let raw = Raw::greet(&site.socket);
    for _ in 0..2 {
        let wait = Request::Wait(Tag(1), name("a"), Timeout::Never);
        raw.send(&wait.encode()).expect("sent");
    }
    let (reply, _) = raw.receive().expect("refused");
    assert_eq!(
        Reply::decode(&reply),
        Ok(Reply::Done(Tag(1), NtStatus::INVALID_PARAMETER))
    );
    for end in 0..50 {
        raw.send(&Request::Disconnect(Tag(2), EndId(end)).encode())
            .expect("sent");
        let (reply, _) = raw.receive().expect("refused");
        assert_eq!(
            Reply::decode(&reply),
            Ok(Reply::Done(Tag(2), NtStatus::INVALID_HANDLE))
        );
        raw.send(&Request::Close(EndId(end)).encode())
            .expect("sent");
    }
    client.write(b"x").expect("write");
    assert_eq!(server.read(&mut [0; 4]).expect("read"), Read::Whole(1));
    assert_eq!(server.state(), State::Connected);
    for end in 0..50 {
        let _ = raw.send(&Request::Close(EndId(end)).encode());
    }
    assert!(
        raw.is_cut_off(),
        "nobody closes a hundred ends that it does not have"
    );
}

#[test]
fn a_process_that_was_cut_off_waits_longer_each_time() {
    let site = Site::start(&mut BrokerOptions::new());
    // An honest client of another process is not made to wait with it.
    let mut honest = Actor::spawn(child_exe!(), &site.socket, None);
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = Stopwatch::start();
        let raw = Raw::greet(&site.socket);
        begin.expect_within(Duration::from_secs(2), &times);
        times.push(begin.elapsed());
        raw.send(&[0xff; 64]).expect("sent");
        assert!(raw.is_cut_off());
    }
    assert!(times[4] >= Duration::from_millis(60), "{times:?}");
    let begin = Stopwatch::start();
    honest.must("create s own");
    begin.expect_within(Duration::from_millis(500), "an honest create");
}

#[test]
fn descriptors_that_clients_send_do_not_stay() {
    let site = Site::start(&mut BrokerOptions::new());
    let raw = Raw::greet(&site.socket);
    let own = fs::File::open("/dev/null").expect("a file");
    let is_null = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|path| path.as_os_str() == "/dev/null")
    };
    let count = || {
        let files = fs::read_dir("/proc/self/fd").expect("proc");
        files.filter_map(Result::ok).filter(is_null).count()
    };
    let before = count();
    for tag in 1..100 {
        let wait = Request::Wait(Tag(tag), name("none"), Timeout::Never);
        raw.send_with(&wait.encode(), own.as_raw_fd());
        raw.receive().expect("an answer");
    }
    assert_eq!(count(), before);
}

/// How long round trips of an honest pair, and its opens and closes, take beside a client that floods and beside one that
/// merely uses a CPU up: `cargo test --release -p tests --test strangers -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measured_honest_clients_beside_hostile_ones() {
    let site = Site::start(&mut BrokerOptions::new());
    let namespace = site.namespace();
    let mut echo = Actor::spawn(child_exe!(), &site.socket, None);
    echo.start("serve echo");
    assert!(echo.within(0, Duration::from_secs(10)).is_some());
    let mut options = ClientOptions::new();
    options
        .read_mode(ReadMode::Message)
        .wait(Some(Duration::from_secs(10)));
    let client = options.open(&namespace, "echo").expect("open");
    let kinds = ["burn", "flood close", "flood garbage", "flood deaf"];
    let mut trips = vec![Vec::new(); kinds.len()];
    let mut cycles = vec![Vec::new(); kinds.len()];
    let mut buf = [0; 64];
    for round in 0..12 {
        for turn in 0..kinds.len() {
            let kind = (turn + round) % kinds.len();
            let mut other = Actor::spawn(child_exe!(), &site.socket, None);
            other.start(kinds[kind]);
            thread::sleep(Duration::from_millis(50));
            let until = Instant::now() + Duration::from_millis(250);
            while Instant::now() < until {
                let begin = Instant::now();
                let _ = client.transact(&[7; 64], &mut buf).expect("an answer");
                trips[kind].push(begin.elapsed());
            }
            let until = Instant::now() + Duration::from_millis(250);
            while Instant::now() < until {
                let begin = Instant::now();
                drop(options.open(&namespace, "echo").expect("open"));
                cycles[kind].push(begin.elapsed());
                // Until the server listens again.
                thread::sleep(Duration::from_micros(500));
            }
        }
    }
    for (what, times) in [("round trip", &mut trips), ("open, close", &mut cycles)] {
        let mut figures = Vec::new();
        for times in times.iter_mut() {
            times.sort();
            let at = |part: usize| times[times.len() * part / 100].as_nanos() as f64;
            figures.push((at(50), at(99), times.len()));
        }
        for (kind, (p50, p99, count)) in kinds.iter().zip(&figures) {
            println!(
                "{what:11} beside {kind:13}: p50 {:8.2} us ({:.2}), p99 {:8.2} us ({:.2}), {count} times",
                p50 / 1e3,
                p50 / figures[0].0,
                p99 / 1e3,
                p99 / figures[0].1
            );
        }
    }
}

// ---- another user ------------------------------------------------------------------------------------------------

/// Who is nobody special on any machine.
const STRANGER: u32 = 65_534;

/// Reports that the test was skipped, unless this is root.
fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    let root = unsafe { libc::getuid() } == 0;
    if !root {
        // Not through the macro, whose output a passing test keeps to itself.
        let _ = std::io::stderr().write_all(b"SKIPPED: needs root, to be two users\n");
    }
    root
}

/// A broker for everybody, and a program that a stranger may run. `None`: this is not root, which is reported.
fn for_everyone() -> Option<(Site, String)> {
    for_everyone_within(Limits::default())
}

fn for_everyone_within(limits: Limits) -> Option<(Site, String)> {
    if !is_root() {
        return None;
    }
    let site = Site::start(BrokerOptions::new().everyone(true).limits(limits));
    let program = site.folder.join("actor");
    fs::copy(child_exe!(), &program).expect("a copy");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("permissions");
    Some((site, program.display().to_string()))
}

#[test]
fn an_end_is_given_to_no_other_user() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    let namespace = site.namespace();
    let server = ServerOptions::new().create(&namespace, "mine");
    let token = server.as_ref().expect("create").give().expect("a token");
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    assert_eq!(
        stranger.ask(&format!("take-server s {token}")),
        "STATUS_INVALID_HANDLE"
    );
    let wrong = "0123456789abcdef0123456789abcdef";
    assert_eq!(
        stranger.ask(&format!("take-server s {wrong}")),
        "STATUS_INVALID_HANDLE"
    );
    // What a stranger has tried is there for whom it is.
    let mut own = site.actor(child_exe!());
    own.must(&format!("take-server s {token}"));
}

/// An end goes to another user's process: the same pipe, in memory that no other pipe is in.
#[test]
fn np_close_01_an_end_is_given_to_another_user() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    let namespace = site.namespace();
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    let create = || options.create(&namespace, "mine").expect("create");
    let server = create();
    let mut owner = site.actor(child_exe!());
    owner.must("open c mine rw");
    server.connect().expect("connect");

    // Another pipe of the same two processes stands in the way.
    let other = create();
    owner.must("open d mine rw");
    other.connect().expect("connect");
    owner.must("write d secret");
    let give = format!("give-to c {STRANGER}");
    assert_eq!(owner.ask(&give), "STATUS_SHARING_VIOLATION");
    let refused = server.give_to_user(STRANGER);
    assert!(matches!(refused, Err(Error::NotApart)), "{refused:?}");
    owner.must("close d");
    drop(other);

    // The broker hears of a close a moment later.
    eventually("the other pipe is gone", || {
        server.give_to_user(STRANGER).is_ok()
    });
    let token = owner.must(&give);
    assert!(matches!(
        Client::take(&namespace, token.parse().expect("a token")),
        Err(Error::Token)
    ));
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    stranger.must(&format!("take-client c {token}"));
    // One pipe of two, in one order.
    for message in ["one", "two", "three"] {
        server.write(message.as_bytes()).expect("write");
    }
    assert_eq!(owner.must("read c"), "one");
    assert_eq!(stranger.must("read c"), "two");
    assert_eq!(owner.must("read c"), "three");
    stranger.must("write c theirs");
    owner.must("write c ours");
    let mut buf = [0; 16];
    for expected in ["theirs", "ours"] {
        let read = server.read(&mut buf).expect("read");
        assert_eq!(&buf[..read.count()], expected.as_bytes());
    }

    // The next pipe of the two stands elsewhere, and can go its way, too.
    let next = create();
    owner.must("open e mine rw");
    next.connect().expect("connect");
    assert_eq!(owner.must("write e elsewhere"), "");
    let token = next.give_to_user(STRANGER).expect("a token");
    stranger.must(&format!("take-server e {token}"));
    assert_eq!(stranger.must("read e"), "elsewhere");

    // It closes with the last of its holders; who has it when the other dies goes on.
    owner.must("close c");
    server.write(b"still there").expect("write");
    assert_eq!(stranger.must("read c"), "still there");
    drop(stranger);
    assert!(matches!(server.read(&mut buf), Err(Error::Broken)));
    let read = next.try_read(&mut buf);
    assert!(matches!(read, Err(Error::WouldBlock)), "{read:?}");
    owner.must("write e again");
    assert_eq!(next.read(&mut buf).expect("read").count(), 5);
}

/// Who takes another user's end is told of the other end what the broker knows of the connection that it takes, and never that
/// nobody is root.
#[test]
fn a_giver_cannot_say_who_its_client_is() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    // The giver is no more than anybody; the taker could be a service that trusts root.
    let mut giver = Actor::spawn(&program, &site.socket, Some(STRANGER));
    let mut taker = site.actor(child_exe!());
    giver.must("create s theirs");
    let root = site.namespace();
    let client = ClientOptions::new().open(&root, "theirs").expect("open");
    giver.must("connect s");
    assert_eq!(giver.must("client s"), "0");
    // Root was connected when it was given, and somebody else is when it is taken.
    let token = giver.must("give-to s 0");
    giver.must("disconnect s");
    drop(client);
    let listening = giver.start("connect s");
    giver.must("open c theirs rw");
    let connected = giver.within(listening, Duration::from_secs(10));
    assert_eq!(connected.as_deref(), Some("ok "));
    giver.must("write c forged");
    taker.must(&format!("take-server s {token}"));
    assert_eq!(taker.must("client s"), STRANGER.to_string());
    assert_eq!(taker.must("read s"), "forged");
    // And one that has closed is nobody.
    giver.must("write c again");
    giver.must("close c");
    let token = giver.must("give-to s 0");
    let mut last = site.actor(child_exe!());
    last.must(&format!("take-server s {token}"));
    assert_eq!(last.must("client s"), u32::MAX.to_string());
}

/// A server end here, and an actor's client end of it.
fn connected(
    options: &ServerOptions,
    namespace: &Namespace,
    name: &str,
    (owner, key): (&mut Actor, &str),
) -> Server {
    let server = options.create(namespace, name).expect("create");
    owner.must(&format!("open {key} {name} rw"));
    server.connect().expect("connect");
    server
}

/// Connections of a server that keeps them apart: each can go to another user, and their memory comes and goes with them.
#[test]
fn connections_are_kept_apart() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    let namespace = site.namespace();
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message).apart(true);
    let apart =
        |owner: &mut Actor, key: &str| connected(&options, &namespace, "mine", (owner, key));
    let mut owner = site.actor(child_exe!());
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    let servers = [0, 1, 2].map(|at| apart(&mut owner, &format!("c{at}")));
    for (at, server) in servers.iter().enumerate() {
        let token = owner.must(&format!("give-to c{at} {STRANGER}"));
        stranger.must(&format!("take-client c{at} {token}"));
        server.write(b"each its own").expect("write");
        assert_eq!(stranger.must(&format!("read c{at}")), "each its own");
    }
    // A server end that listens for both.
    let server = options.create(&namespace, "mine").expect("create");
    let token = server.give_to_user(STRANGER).expect("a token");
    stranger.must(&format!("take-server s {token}"));
    owner.must("open d mine rw");
    stranger.must("connect s");
    owner.must("write d anybody");
    assert_eq!(stranger.must("read s"), "anybody");

    // Those of a server that does not ask for it go on sharing one, whatever stands beside it.
    let mut common = ServerOptions::new();
    common.pipe_type(PipeType::Message);
    let maps = |owner: &mut Actor| -> usize { owner.must("links").parse().expect("a number") };
    let shared = |owner: &mut Actor, key| connected(&common, &namespace, "common", (owner, key));
    let _first = shared(&mut owner, "f0");
    let before = maps(&mut owner);
    let _beside = ["g0", "g1"].map(|key| apart(&mut owner, key));
    assert_eq!(maps(&mut owner), before + 2);
    let _second = shared(&mut owner, "f1");
    let after = maps(&mut owner);
    assert_eq!(after, before + 2, "another link for what shares one");

    // More than the links that two processes may have at a time.
    let before = maps(&mut owner);
    for _ in 0..120 {
        let _server = apart(&mut owner, "e");
        owner.must("write e x");
        owner.must("close e");
    }
    let _last = apart(&mut owner, "e");
    // It hears of what has gone a moment later.
    let mut after = maps(&mut owner);
    for _ in 0..2000 {
        if after <= before + 2 {
            break;
        }
        thread::sleep(Duration::from_millis(1));
        after = maps(&mut owner);
    }
    assert!(after <= before + 2, "{before} mappings, and then {after}");
}

/// What a server keeps apart is its own user's as long as it has its end of it, and its client's from then on: a client that keeps
/// what the server has left uses up what is the client's.
#[test]
fn a_stranger_does_not_use_up_what_a_server_may_have() {
    let most = 4;
    let limits = Limits {
        links: most,
        ..Limits::default()
    };
    let Some((site, program)) = for_everyone_within(limits) else {
        return;
    };
    let namespace = site.namespace();
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message).apart(true);
    let server = options.create(&namespace, "mine").expect("create");
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    for turn in 0..most {
        stranger.must(&format!("open c{turn} mine r"));
        server.connect().expect("connect");
        server.disconnect().expect("disconnect");
        let listening = server.connect_timeout(Duration::ZERO);
        assert!(matches!(listening, Err(Error::TimedOut)), "{listening:?}");
    }
    assert_eq!(
        stranger.ask("open more mine r"),
        "STATUS_INSUFFICIENT_RESOURCES"
    );
    // Its own clients come as ever, ...
    let mut owner = site.actor(child_exe!());
    let _more: Vec<Server> = (1..most)
        .map(|at| {
            let more = options.create(&namespace, "mine").expect("create");
            owner.must(&format!("open c{at} mine r"));
            more
        })
        .collect();
    // ... and so does the stranger once it lets go of what it has.
    stranger.must("close c0");
    for _ in 0..2000 {
        if stranger.ask("open again mine r") != "STATUS_INSUFFICIENT_RESOURCES" {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    stranger.must("close again");
}

#[test]
fn np_sec_05_a_stranger_reads_and_neither_writes_nor_adds_instances() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    let namespace = site.namespace();
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    let server = options.create(&namespace, "mine").expect("create");
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    assert_eq!(stranger.ask("open c mine rw"), "STATUS_ACCESS_DENIED");
    assert_eq!(stranger.ask("open c mine w"), "STATUS_ACCESS_DENIED");
    assert_eq!(stranger.ask("create s mine"), "STATUS_ACCESS_DENIED");
    stranger.must("open c mine r");
    server.connect().expect("connect");
    assert_eq!(server.client().expect("a client").uid, STRANGER);
    server.write(b"for everybody").expect("write");
    assert_eq!(stranger.must("read c"), "for everybody");
    assert_eq!(stranger.ask("write c no"), "STATUS_ACCESS_DENIED");
    // And the other way round: root is in Administrators.
    stranger.must("create t theirs");
    let client = ClientOptions::new().open(&namespace, "theirs");
    client.expect("open").write(b"x").expect("write");
    assert_eq!(stranger.must("read t"), "x");
}

#[test]
fn a_descriptor_lets_in_whom_it_names() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    let namespace = site.namespace();
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message).security(
        SecurityDescriptor::new()
            .allow(Sid::user(0), Mask::GENERIC_ALL)
            .deny(Sid::group(STRANGER), Mask::FILE_WRITE_DATA)
            .allow(Sid::EVERYONE, Mask::GENERIC_READ | Mask::GENERIC_WRITE),
    );
    let _server = options.create(&namespace, "listed").expect("create");
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    assert_eq!(stranger.ask("open c listed rw"), "STATUS_ACCESS_DENIED");
    stranger.must("open c listed r");
    let mut other = Actor::spawn(&program, &site.socket, Some(STRANGER - 1));
    options.create(&namespace, "listed").expect("another");
    let _another = options.create(&namespace, "listed").expect("another");
    other.must("open c listed rw");
}

#[test]
fn a_reader_cannot_inject_a_byte() {
    let Some((site, program)) = for_everyone() else {
        return;
    };
    let namespace = site.namespace();
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    let server = options.create(&namespace, "mine").expect("create");
    let mut stranger = Actor::spawn(&program, &site.socket, Some(STRANGER));
    // It believes itself that it wrote.
    assert_eq!(stranger.must("forge mine"), "Ok(8)");
    server.connect().expect("connect");
    let mut buf = [0; 64];
    let read = server.read(&mut buf);
    assert!(
        matches!(read, Err(Error::Fault(_))),
        "{read:?} and {:?}",
        &buf[..8]
    );
    assert_eq!(read.expect_err("a fault").status(), NtStatus::PIPE_BROKEN);
    // The next client is served.
    server.disconnect().expect("disconnect");
    thread::scope(|scope| {
        let listens = scope.spawn(|| server.connect());
        let mut options = ClientOptions::new();
        options
            .read_mode(ReadMode::Message)
            .wait(Some(Duration::from_secs(10)));
        let client = options.open(&namespace, "mine").expect("open");
        listens.join().expect("thread").expect("connect");
        client.write(b"honest").expect("write");
        assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(6));
    });
}

#[test]
fn a_user_s_own_broker_is_out_of_reach_for_others() {
    if !is_root() {
        return;
    }
    let site = Site::start(&mut BrokerOptions::new());
    let mode = |path: &str| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&site.socket), 0o600);
    assert_eq!(mode(site.folder.to_str().expect("text")), 0o700);
}
