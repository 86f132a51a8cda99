//! Ends that several processes have, in the ways that went wrong once: grants that come late, brokers and sessions that go,
//! holders that idle, and too many of them.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use npfs::broker::Limits;
use npfs::npfs::{Create, Direction, Disposition, Tag};
use npfs::wire::{Reply, Request, Words};
use npfs::{
    BrokerOptions, Client, ClientOptions, CompletionMode, Error, Mask, Name, Namespace, PipeType,
    Read, ReadMode, Server, State,
};
use npfs_tests::{Site, child_exe, eventually, open, raw::Raw, serve};

fn site() -> Site {
    Site::start(BrokerOptions::new().workers(2))
}

fn taken(server: &Server, by: &Namespace) -> Server {
    Server::take(by, server.give().expect("a token")).expect("its end")
}

/// The answer of a call that may never come back.
fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (said, hears) = mpsc::channel();
    thread::spawn(move || {
        let _ = said.send(call());
    });
    hears.recv_timeout(limit).ok()
}

/// One message goes through, and its reader has heard of the connection.
fn carries(client: &Client, server: &Server) {
    client.write(b"x").expect("write");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(1));
}

#[test]
fn a_kept_end_survives_a_grant_that_comes_late() {
    let site = site();
    let (giver, taker, other) = (site.namespace(), site.namespace(), site.namespace());
    let server = serve(&giver, "pipe");
    let token = server.give().expect("a token");
    let client = open(&other, "pipe");
    drop(server);
    // Whatever the broker has sent it is read by now.
    giver.list().expect("a listing");
    let server = Server::take(&taker, token).expect("its end");
    carries(&client, &server);
}

#[test]
fn np_close_02_an_end_with_a_connection_of_an_earlier_broker_is_not_given() {
    let mut site = site();
    let (near, far) = (site.namespace(), site.namespace());
    let server = serve(&near, "pipe");
    let client = open(&far, "pipe");
    server.connect().expect("connect");
    carries(&client, &server);
    site.stop();
    site.start_again();
    assert!(matches!(server.give(), Err(Error::NoBroker { .. })));
    carries(&client, &server);
    drop(server);
    let read = within(Duration::from_secs(8), move || client.read(&mut [0; 8]));
    assert!(matches!(read, Some(Err(Error::Broken))), "{read:?}");
}

/// A parent makes both ends, gives one to its child and closes it. The broker goes, the next one comes, the child dies.
#[test]
fn np_close_02_a_child_with_the_other_end_dies_after_the_broker() {
    for closes_first in [true, false] {
        let mut site = site();
        let mut parent = site.actor(child_exe!());
        let mut child = site.actor(child_exe!());
        parent.must("create s pipe");
        parent.must("open c pipe rw");
        parent.must("connect s");
        let token = parent.must("give s");
        child.must(&format!("take-server s {token}"));
        if closes_first {
            parent.must("close s");
        }
        parent.must("write c hello");
        assert_eq!(child.must("read s"), "hello");
        site.stop();
        site.start_again();
        eventually("both are back", || site.broker().stats().requests >= 4);
        if !closes_first {
            parent.must("close s");
        }
        let waits = parent.start("read c");
        thread::sleep(Duration::from_millis(50));
        child.kill();
        let heard = parent.within(waits, Duration::from_secs(9));
        assert_eq!(heard.as_deref(), Some("STATUS_PIPE_BROKEN"));
    }
}

#[test]
fn np_close_01_an_end_taken_back_is_open_until_its_last_handle_goes() {
    let mut site = site();
    let (near, far) = (site.namespace(), site.namespace());
    let server = serve(&near, "pipe");
    let one = open(&far, "pipe");
    let two = Client::take(&far, one.give().expect("a token")).expect("its end");
    carries(&one, &server);
    carries(&two, &server);
    // Without a broker it is the process that counts.
    site.stop();
    drop(two);
    carries(&one, &server);
    drop(one);
    let read = within(Duration::from_secs(8), move || server.read(&mut [0; 8]));
    assert!(matches!(read, Some(Err(Error::Broken))), "{read:?}");
}

/// Its process lives on, and comes to the same broker again.
#[test]
fn np_close_01_a_holder_that_loses_its_session_closes_nothing_of_others() {
    let site = site();
    let (near, far) = (site.namespace(), site.namespace());
    let server = serve(&near, "pipe");
    let client = open(&far, "pipe");
    server.connect().expect("connect");
    let mut holder = site.actor(child_exe!());
    let token = server.give().expect("a token");
    holder.must(&format!("take-server s {token}"));
    client.write(b"x").expect("write");
    holder.must("read s");
    // The broker cuts off who sends garbage from the same socket; here the socket itself goes.
    holder.must("cut");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(7) {
        carries(&client, &server);
        thread::sleep(Duration::from_millis(50));
    }
}

/// Of two hostile sessions one does not read, and the other changes what both have.
#[test]
fn a_flood_of_modes_piles_nothing_up() {
    let site = site();
    let (deaf, loud) = (Raw::greet(&site.socket), Raw::greet(&site.socket));
    let ask = |raw: &Raw, request: Request| {
        raw.send(&request.encode()).expect("sent");
        let (reply, _) = raw.receive().expect("an answer");
        Reply::decode(&reply).expect("a reply")
    };
    let create = Create {
        name: Some(Name::parse("pipe").expect("a name")),
        access: Mask::GENERIC_READ | Mask::GENERIC_WRITE,
        direction: Direction::Duplex,
        disposition: Disposition::OpenIf,
        pipe_type: PipeType::Byte,
        max_instances: 4,
        in_quota: 100,
        out_quota: 100,
        default_timeout: Some(Duration::from_millis(50)),
        security: None,
        apart: false,
    };
    let Reply::Created { end, .. } = ask(&deaf, Request::Create(Tag(1), Box::new(create))) else {
        panic!("no server end");
    };
    let modes = (ReadMode::Byte, CompletionMode::Queue);
    let give = Request::Give(Tag(2), end, Mask::all(), modes, None, Words::default());
    let Reply::Given(_, token) = ask(&deaf, give) else {
        panic!("no token");
    };
    let taken = ask(&loud, Request::Take(Tag(1), token));
    assert!(matches!(taken, Reply::Taken { .. }), "{taken:?}");
    let set = Request::SetModes(Tag(0), end, modes).encode();
    let (begin, mut sent) = (Instant::now(), 0);
    while sent <= 1000 || begin.elapsed() < Duration::from_secs(1) {
        match loud.send(&set) {
            Ok(()) => sent += 1,
            Err(_) => thread::yield_now(),
        }
    }
    // Nothing was said to the deaf one that it did not ask for.
    let described = ask(&deaf, Request::Describe(Tag(3), end));
    assert!(
        matches!(described, Reply::Described { .. }),
        "{described:?}"
    );
}

/// A parent that shares its server end with a worker and never asks the broker again.
#[test]
fn np_close_01_a_holder_that_idles_holds_nothing_up() {
    let limits = Limits {
        links: 64,
        ..Limits::default()
    };
    let site = Site::start(BrokerOptions::new().workers(2).limits(limits));
    let (parent, worker) = (site.namespace(), site.namespace());
    let idle = serve(&parent, "pipe");
    let server = taken(&idle, &worker);
    for _ in 0..200 {
        // Each client is a session of its own, and so has a link of its own.
        let client = open(&site.namespace(), "pipe");
        server.connect().expect("connect");
        carries(&client, &server);
        drop(client);
        server.disconnect().expect("disconnect");
        let listens = server.connect_timeout(Duration::from_millis(1));
        assert!(matches!(listens, Err(Error::TimedOut)), "{listens:?}");
    }
    assert_eq!(idle.state(), State::Listening, "it hears when it asks");
}

#[test]
fn more_holders_than_a_link_has_room_for_are_refused() {
    let site = site();
    let first = site.namespace();
    let server = serve(&first, "pipe");
    let namespaces: Vec<Namespace> = (0..5).map(|_| site.namespace()).collect();
    let all: Vec<Server> = namespaces.iter().map(|by| taken(&server, by)).collect();
    let refused = Server::take(&site.namespace(), server.give().expect("a token"));
    assert!(matches!(refused, Err(Error::NoResources)), "{refused:?}");
    thread::scope(|scope| {
        let connects: Vec<_> = all
            .iter()
            .map(|one| scope.spawn(|| one.connect()))
            .collect();
        thread::sleep(Duration::from_millis(50));
        let client = open(&site.namespace(), "pipe");
        for connect in connects {
            connect.join().expect("no panic").expect("a client");
        }
        // Each of them has it.
        for one in &all {
            carries(&client, one);
        }
    });
}

#[test]
fn mappings_of_ends_that_several_had_go() {
    let site = site();
    let mut server = site.actor(child_exe!());
    for round in 0..3 {
        server.must(&format!("create s{round} pipe{round}"));
        let mut first = site.actor(child_exe!());
        let mut second = site.actor(child_exe!());
        first.must(&format!("open c pipe{round} rw"));
        server.must(&format!("connect s{round}"));
        let token = first.must("give c");
        second.must(&format!("take-client c {token}"));
        assert_eq!(server.must("links"), "1");
        first.kill();
        second.kill();
        eventually("both are gone", || site.broker().stats().connections == 1);
        server.must(&format!("close s{round}"));
        eventually("the link too", || site.broker().stats().links == 0);
        // It hears of that with the next answer.
        server.ask("wait nothing 1");
        assert_eq!(server.must("links"), "0");
    }
}

#[test]
fn np_disc_01_a_taken_server_end_disconnects_without_its_broker() {
    let mut site = site();
    let (near, holder, far) = (site.namespace(), site.namespace(), site.namespace());
    let server = serve(&near, "pipe");
    let client = open(&far, "pipe");
    let other = taken(&server, &holder);
    carries(&client, &other);
    site.stop();
    let modes = (ReadMode::Message, CompletionMode::Queue);
    other.set_modes(modes.0, modes.1).expect("its own to set");
    assert_eq!(other.modes(), modes);
    site.start_again();
    drop(server);
    carries(&client, &other);
    other.disconnect().expect("disconnect");
    assert_eq!(client.state(), State::Disconnected);
}

/// Another user, who need not exist.
const SOMEBODY: u32 = 65_534;

/// Two pipes of the same two processes, `server` with `other` beside it in one memory.
fn neighbours(near: &Namespace, far: &Namespace) -> [(Server, Client); 2] {
    ["one", "two"].map(|name| {
        let server = serve(near, name);
        let client = open(far, name);
        carries(&client, &server);
        (server, client)
    })
}

/// What the broker does not give to another user is as it was: its modes are its own.
#[test]
fn an_end_that_is_refused_to_another_user_is_nobody_elses() {
    let site = site();
    let (near, far) = (site.namespace(), site.namespace());
    let [(server, client), (_beside, other)] = neighbours(&near, &far);
    for _ in 0..2 {
        let refused = server.give_to_user(SOMEBODY);
        assert!(matches!(refused, Err(Error::NotApart)), "{refused:?}");
        let refused = client.give_to_user(SOMEBODY);
        assert!(matches!(refused, Err(Error::NotApart)), "{refused:?}");
    }
    // With the next client it still reads messages.
    server.disconnect().expect("disconnect");
    drop(client);
    thread::scope(|scope| {
        scope.spawn(|| server.connect().expect("a client"));
        let client = open(&far, "one");
        client.write(b"longer").expect("write");
        let read = server.read(&mut [0; 3]).expect("read");
        assert_eq!(read, Read::Part(3));
    });
    drop(other);
}

/// A server end that is given before a client has come keeps its modes, which the broker does not know until then.
#[test]
fn np_obj_10_an_end_without_a_client_is_given_with_its_modes() {
    let site = site();
    let (near, holder, far) = (site.namespace(), site.namespace(), site.namespace());
    let server = serve(&near, "pipe");
    server
        .set_modes(ReadMode::Message, CompletionMode::Complete)
        .expect("its modes");
    let other = taken(&server, &holder);
    for end in [&server, &other] {
        let modes = (ReadMode::Message, CompletionMode::Complete);
        assert_eq!(end.modes(), modes);
    }
    let client = open(&far, "pipe");
    client.write(b"longer").expect("write");
    assert_eq!(other.read(&mut [0; 3]).expect("read"), Read::Part(3));
    assert!(matches!(server.read(&mut [0; 8]), Ok(Read::Whole(3))));
    assert!(matches!(server.read(&mut [0; 8]), Err(Error::Empty)));
}

/// A client keeps its connection apart, whatever the server has asked for.
#[test]
fn a_client_keeps_its_connection_apart() {
    let site = site();
    let (near, far) = (site.namespace(), site.namespace());
    let [(_first, client), (_second, _other)] = neighbours(&near, &far);
    let server = serve(&near, "three");
    let mut options = ClientOptions::new();
    let apart = options.apart(true).open(&far, "three").expect("open");
    carries(&apart, &server);
    assert_eq!(site.broker().stats().links, 2);
    assert!(apart.give_to_user(SOMEBODY).is_ok());
    assert!(server.give_to_user(SOMEBODY).is_ok());
    let refused = client.give_to_user(SOMEBODY);
    assert!(matches!(refused, Err(Error::NotApart)), "{refused:?}");
}
