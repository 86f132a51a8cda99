//! Names, ends and blocking calls through a broker, within one process: sections 2 to 9 of the specification as a Rust
//! program meets them.

use std::{
    io::{Read as _, Write as _},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use npfs::{
    Broker, BrokerOptions, Cancel, Client, ClientOptions, CompletionMode, Deadline, Direction,
    Error, Namespace, NtStatus, PipeType, Read, ReadMode, Server, ServerOptions, State,
    broker::IoKind,
};

/// Both kinds of a broker's loop, where this kernel has both.
fn brokers() -> Vec<Broker> {
    let kinds = [IoKind::Uring, IoKind::Epoll];
    let brokers = kinds.map(|io| BrokerOptions::new().workers(2).io(io).start());
    let brokers: Vec<Broker> = brokers.into_iter().filter_map(Result::ok).collect();
    assert!(!brokers.is_empty());
    brokers
}

fn broker() -> (Broker, Namespace) {
    let broker = BrokerOptions::new().start().expect("broker");
    let namespace = broker.connect().expect("connect");
    (broker, namespace)
}

fn messages() -> ServerOptions {
    let mut options = ServerOptions::new();
    options.pipe_type(PipeType::Message);
    options
}

fn open(namespace: &Namespace, name: &str) -> Client {
    let mut options = ClientOptions::new();
    options.read_mode(ReadMode::Message);
    options.open(namespace, name).expect("open")
}

use npfs_tests::{Stopwatch, eventually};

const SOON: Duration = Duration::from_millis(50);

#[test]
fn a_message_there_and_back() {
    for broker in brokers() {
        let (near, far) = (broker.connect().expect("a"), broker.connect().expect("b"));
        let server = messages().create(&near, r"\\.\pipe\echo").expect("create");
        let client = open(&far, "ECHO");
        server.connect().expect("connect");
        assert_eq!(client.write(b"hello").expect("write"), 5);
        client.write(b"").expect("write");
        let mut buf = [0; 16];
        assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(5));
        assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(0));
        server.write(b"world and more").expect("write");
        let mut small = [0; 5];
        assert_eq!(client.read(&mut small).expect("read"), Read::Part(5));
        assert_eq!(client.read(&mut buf).expect("read"), Read::Whole(9));
        assert_eq!(&buf[..9], b" and more");
        drop((server, client));
        drop((near, far));
        eventually("nothing is left", || broker.is_empty());
    }
}

#[test]
fn np_obj_05_np_listen_03_07_a_client_may_come_before_the_listen() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    assert_eq!(server.state(), State::Listening);
    let client = open(&namespace, "a");
    let never = Cancel::new();
    assert!(matches!(
        server.listen_with(&never, Deadline::NEVER),
        Err(Error::AlreadyConnected)
    ));
    server.connect().expect("for Rust that is what was wanted");
    assert_eq!(server.state(), State::Connected);
    assert_eq!(server.client().expect("a client").pid, std::process::id());
    assert_eq!(client.server().pid, std::process::id());
}

#[test]
fn np_obj_05_what_a_client_wrote_is_there_without_any_listen() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let client = open(&namespace, "a");
    client.write(b"first").expect("write");
    let mut buf = [0; 8];
    assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(5));
}

#[test]
fn np_read_05_before_and_after_a_connection() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let status = |server: &Server| server.read(&mut [0; 4]).expect_err("no client").status();
    assert_eq!(status(&server), NtStatus::PIPE_LISTENING);
    let write = server.write(b"x").expect_err("no client");
    assert_eq!(write.status(), NtStatus::PIPE_LISTENING);
    let client = open(&namespace, "a");
    server.connect().expect("connect");
    server.disconnect().expect("disconnect");
    assert_eq!(status(&server), NtStatus::PIPE_DISCONNECTED);
    assert_eq!(
        server.disconnect().expect_err("NP-DISC-03").status(),
        NtStatus::PIPE_DISCONNECTED
    );
    assert!(matches!(client.read(&mut [0; 4]), Err(Error::Disconnected)));
}

#[test]
fn np_disc_07_08_09_a_disconnect_answers_everybody_and_the_next_client_is_served() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let client = open(&namespace, "a");
    server.connect().expect("connect");
    client.write(b"lost").expect("write");
    thread::scope(|scope| {
        let reads = scope.spawn(|| client.read(&mut [0; 4]));
        thread::sleep(SOON);
        server.disconnect().expect("disconnect");
        assert!(matches!(reads.join(), Ok(Err(Error::Disconnected))));
    });
    assert!(matches!(
        ClientOptions::new().open(&namespace, "a"),
        Err(Error::NoListener)
    ));
    thread::scope(|scope| {
        let listens = scope.spawn(|| server.connect());
        // The first client's handle stays cut off (NP-OBJ-09).
        let second = {
            let mut options = ClientOptions::new();
            options.wait(Some(Duration::from_secs(10)));
            options.open(&namespace, "a").expect("open")
        };
        listens.join().expect("thread").expect("connect");
        second.write(b"new").expect("write");
        let mut buf = [0; 8];
        assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(3));
        assert!(matches!(client.write(b"x"), Err(Error::Disconnected)));
    });
}

#[test]
fn np_disc_04_a_listening_end_stops_listening() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    server.disconnect().expect("disconnect");
    assert_eq!(server.state(), State::Disconnected);
    assert!(matches!(
        ClientOptions::new().open(&namespace, "a"),
        Err(Error::NoListener)
    ));
}

#[test]
fn np_listen_09_a_listen_is_cancelled_or_times_out_and_the_instance_goes_on_listening() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let begin = Stopwatch::start();
    assert!(matches!(server.connect_timeout(SOON), Err(Error::TimedOut)));
    assert!(begin.elapsed() >= SOON);
    begin.expect_within(20 * SOON, "a listen of 50 ms");
    let cancel = Cancel::new();
    assert!(!cancel.cancel(), "nothing is under way");
    thread::scope(|scope| {
        let listens = scope.spawn(|| server.connect_with(&cancel, Deadline::NEVER));
        eventually("it listens", || cancel.cancel());
        assert!(matches!(listens.join(), Ok(Err(Error::Cancelled))));
    });
    let client = open(&namespace, "a");
    client.write(b"x").expect("write");
    server.connect().expect("connected");
}

#[test]
fn np_listen_10_11_closing() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let client = open(&namespace, "a");
    client.write(b"last").expect("write");
    drop(client);
    // The client may be gone before the broker has heard of it: the data says so.
    let mut buf = [0; 8];
    assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(4));
    assert!(matches!(server.read(&mut buf), Err(Error::Broken)));
    assert!(matches!(server.connect(), Err(Error::Closing)));
    server.disconnect().expect("disconnect");
    assert!(matches!(server.connect_timeout(SOON), Err(Error::TimedOut)));
}

#[test]
fn np_listen_01_02_14_complete_mode_never_waits() {
    let (_broker, namespace) = broker();
    let mut options = messages();
    options.completion_mode(CompletionMode::Complete);
    let server = options.create(&namespace, "a").expect("create");
    assert!(matches!(server.connect(), Err(Error::NotConnected)));
    let client = open(&namespace, "a");
    server.connect().expect("connected");
    assert!(matches!(server.read(&mut [0; 4]), Err(Error::Empty)));
    drop(client);
    eventually("the client has gone", || server.state() == State::Closing);
    server.disconnect().expect("disconnect");
    assert!(matches!(server.connect(), Err(Error::NotConnected)));
    let _client = open(&namespace, "a");
    server.connect().expect("and yet it listened");
    // NP-OBJ-10: the mode has stayed.
    assert!(matches!(server.read(&mut [0; 4]), Err(Error::Empty)));
}

#[test]
fn np_obj_10_a_client_begins_in_byte_mode() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let client = ClientOptions::new().open(&namespace, "a").expect("open");
    assert_eq!(client.modes(), (ReadMode::Byte, CompletionMode::Queue));
    server.write(b"one").expect("write");
    server.write(b"two").expect("write");
    let mut buf = [0; 8];
    assert_eq!(client.read(&mut buf).expect("read"), Read::Whole(6));
    client
        .set_modes(ReadMode::Message, CompletionMode::Queue)
        .expect("set");
    server.write(b"one").expect("write");
    server.write(b"two").expect("write");
    assert_eq!(client.read(&mut buf).expect("read"), Read::Whole(3));
}

#[test]
fn np_open_03_np_create_12_directions() {
    let (_broker, namespace) = broker();
    let mut options = messages();
    options.direction(Direction::Inbound);
    let server = options.create(&namespace, "in").expect("create");
    assert!(matches!(
        ClientOptions::new().open(&namespace, "in"),
        Err(Error::AccessDenied)
    ));
    let client = ClientOptions::new().read(false).open(&namespace, "in");
    let client = client.expect("open for writing");
    client.write(b"x").expect("write");
    assert!(matches!(client.read(&mut [0; 4]), Err(Error::AccessDenied)));
    assert!(matches!(server.write(b"x"), Err(Error::AccessDenied)));
    assert_eq!(server.read(&mut [0; 4]).expect("read"), Read::Whole(1));
}

#[test]
fn np_create_06_messages_cannot_be_read_from_a_byte_pipe() {
    let (_broker, namespace) = broker();
    let made = ServerOptions::new()
        .read_mode(ReadMode::Message)
        .create(&namespace, "a");
    assert_eq!(
        made.expect_err("a byte pipe").status(),
        NtStatus::INVALID_PARAMETER
    );
    let server = ServerOptions::new()
        .create(&namespace, "a")
        .expect("create");
    let opened = ClientOptions::new()
        .read_mode(ReadMode::Message)
        .open(&namespace, "a");
    assert!(matches!(opened, Err(Error::InvalidMode)));
    // The refused client is closed again.
    eventually("closing", || server.state() == State::Closing);
}

#[test]
fn np_create_21_22_np_open_01_04_12_np_name_16_refusals_are_typed() {
    let (_broker, namespace) = broker();
    let mut options = messages();
    options.max_instances(1);
    let first = options.create(&namespace, "a").expect("create");
    assert!(matches!(
        options.create(&namespace, "a"),
        Err(Error::InstancesExhausted)
    ));
    let mut only = messages();
    only.first_instance(true);
    let mut two = messages();
    two.max_instances(2);
    let _two = two.create(&namespace, "b").expect("create");
    assert!(matches!(
        only.create(&namespace, "B"),
        Err(Error::AccessDenied)
    ));
    assert!(matches!(
        ClientOptions::new().open(&namespace, "none"),
        Err(Error::NoSuchPipe)
    ));
    let _client = open(&namespace, "a");
    assert!(matches!(
        ClientOptions::new().open(&namespace, "a"),
        Err(Error::NoListener)
    ));
    for name in ["", r"\\HOST\pipe\x", r"\x"] {
        let error = ClientOptions::new().open(&namespace, name);
        assert_eq!(
            error.expect_err("no name").status(),
            NtStatus::OBJECT_NAME_INVALID
        );
    }
    drop(first);
}

#[test]
fn np_wait_04_07_08_09_10_np_lim_02_through_the_broker() {
    let (_broker, namespace) = broker();
    assert!(matches!(namespace.wait("a", None), Err(Error::NoSuchPipe)));
    let server = messages().create(&namespace, "a").expect("create");
    namespace.wait("a", None).expect("it listens");
    let _client = open(&namespace, "a");
    let begin = Instant::now();
    assert!(matches!(namespace.wait("a", None), Err(Error::TimedOut)));
    assert!(begin.elapsed() >= SOON, "NP-LIM-02");
    thread::scope(|scope| {
        let other = namespace.clone();
        let waits = scope.spawn(move || other.wait("a", Some(Duration::MAX)));
        thread::sleep(SOON);
        let second = messages().create(&namespace, "a").expect("create");
        waits.join().expect("thread").expect("released");
        drop(second);
    });
    // NP-WAIT-09, 10
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let waits = scope.spawn(|| namespace.wait_with("a", Some(Duration::MAX), &cancel));
        eventually("it waits", || cancel.cancel());
        assert!(matches!(waits.join(), Ok(Err(Error::Cancelled))));
        let other = namespace.clone();
        let waits = scope.spawn(move || other.wait("a", Some(Duration::MAX)));
        thread::sleep(SOON);
        drop(server);
        assert!(matches!(waits.join(), Ok(Err(Error::NoSuchPipe))));
    });
}

#[test]
fn a_blocked_read_is_cancelled_or_times_out() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let client = open(&namespace, "a");
    server.connect().expect("connect");
    assert!(matches!(
        server.read_timeout(&mut [0; 4], SOON),
        Err(Error::TimedOut)
    ));
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let reads = scope.spawn(|| client.read_with(&mut [0; 4], &cancel, Deadline::NEVER));
        eventually("it reads", || cancel.cancel());
        assert!(matches!(reads.join(), Ok(Err(Error::Cancelled))));
    });
    assert!(matches!(
        client.transact_timeout(b"?", &mut [0; 4], SOON),
        Err(Error::TimedOut)
    ));
    let mut buf = [0; 4];
    assert_eq!(server.read(&mut buf).expect("the request"), Read::Whole(1));
    let _ = client.write(b"x");
    assert!(matches!(client.flush_timeout(SOON), Err(Error::TimedOut)));
}

#[test]
fn np_obj_04_each_direction_has_its_own_queue_and_quota() {
    let (_broker, namespace) = broker();
    let mut options = messages();
    options.in_quota(10).out_quota(20);
    let server = options.create(&namespace, "a").expect("create");
    let client = open(&namespace, "a");
    server.connect().expect("connect");
    client.write(&[1; 10]).expect("write");
    assert!(matches!(client.try_write(&[1]), Err(Error::WouldBlock)));
    // The other direction knows nothing of it.
    server.write(&[2; 20]).expect("write");
    assert!(matches!(server.try_write(&[2]), Err(Error::WouldBlock)));
    let mut buf = [0; 32];
    assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(10));
    client.write(&[1]).expect("room again");
    assert!(matches!(server.try_write(&[2]), Err(Error::WouldBlock)));
    assert_eq!(client.read(&mut buf).expect("read"), Read::Whole(20));
    assert_eq!(&buf[..20], [2; 20]);
}

#[test]
fn byte_pipes_are_std_s_read_and_write() {
    let (_broker, namespace) = broker();
    let mut server = ServerOptions::new()
        .create(&namespace, "a")
        .expect("create");
    let mut client = ClientOptions::new().open(&namespace, "a").expect("open");
    let text = "a line\nand another\n".repeat(20_000);
    thread::scope(|scope| {
        let sends = scope.spawn(|| {
            client.write_all(text.as_bytes()).expect("write");
            drop(client);
        });
        let mut all = String::new();
        server.read_to_string(&mut all).expect("read");
        assert_eq!(all, text);
        sends.join().expect("thread");
    });
    assert_eq!(
        server.write(b"x").expect_err("closing").status(),
        NtStatus::PIPE_CLOSING
    );
}

#[test]
fn listings_show_pipes_and_instances() {
    let (_broker, namespace) = broker();
    assert_eq!(namespace.list().expect("list"), []);
    let ends: Vec<Server> = (0..3000)
        .map(|number| {
            let name = format!("some rather long name so that one message does not do {number:04}");
            messages().create(&namespace, &name).expect("create")
        })
        .collect();
    let listed = namespace.list().expect("list");
    let names: Vec<String> = listed.iter().map(|pipe| pipe.name.to_string()).collect();
    assert_eq!(names.len(), 3000);
    assert!(names.is_sorted());
    drop(ends);

    let mut options = messages();
    options.in_quota(100).out_quota(200);
    let servers: Vec<Server> = (0..2500)
        .map(|_| options.create(&namespace, "many").expect("create"))
        .collect();
    let _client = open(&namespace, "many");
    let details = namespace.info("MANY").expect("info");
    assert_eq!(details.instances.len(), 2500);
    assert_eq!(details.pipe.connected, 1);
    assert_eq!(details.pipe.listening, 2499);
    assert_eq!(details.instances[0].state, State::Connected);
    assert_eq!(
        details.instances[0].client.map(|peer| peer.pid),
        Some(std::process::id())
    );
    assert_eq!(details.instances[2].in_quota, 100);
    assert!(matches!(namespace.info("none"), Err(Error::NoSuchPipe)));
    drop(servers);
}

#[test]
fn many_threads_share_one_socket() {
    let (broker, namespace) = broker();
    thread::scope(|scope| {
        for number in 0..16 {
            let namespace = namespace.clone();
            scope.spawn(move || {
                for turn in 0..30 {
                    let name = format!("pipe {number} {turn}");
                    let server = messages().create(&namespace, &name).expect("create");
                    let listens = thread::scope(|scope| {
                        let listens = scope.spawn(|| server.connect());
                        let client = open(&namespace, &name);
                        client.write(b"x").expect("write");
                        let read = server.read(&mut [0; 4]);
                        let listened = listens.join().expect("thread");
                        // Before the listen, or after it.
                        let read = match read {
                            Err(Error::NotConnected) => server.read(&mut [0; 4]),
                            other => other,
                        };
                        assert_eq!(read.expect("read"), Read::Whole(1));
                        drop(client);
                        listened
                    });
                    assert!(matches!(listens, Ok(()) | Err(Error::Closing)));
                }
            });
        }
    });
    drop(namespace);
    eventually("nothing is left", || broker.is_empty());
}

#[test]
fn between_connect_and_close_the_broker_hears_nothing() {
    let (broker, namespace) = broker();
    let other = broker.connect().expect("connect");
    let server = messages().create(&namespace, "a").expect("create");
    let client = open(&other, "a");
    server.connect().expect("connect");
    let before = broker.stats().requests;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buf = [0; 64];
            while let Ok(read) = server.read(&mut buf) {
                server.write(&buf[..read.count()]).expect("write");
            }
        });
        let mut buf = [0; 64];
        for _ in 0..10_000 {
            let reply = client.transact(b"request", &mut buf);
            assert_eq!(reply.expect("transact"), Read::Whole(7));
        }
        client.peek(&mut buf).expect("peek");
        client.info().expect("info");
        client.flush().expect("flush");
        assert_eq!(broker.stats().requests, before);
        drop(client);
    });
}

#[test]
fn a_server_end_may_be_used_by_many_threads_while_it_is_disconnected_again_and_again() {
    let (_broker, namespace) = broker();
    let server = messages().create(&namespace, "a").expect("create");
    let (over, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let mut buf = [0xee; 16];
                    match server.read(&mut buf) {
                        Ok(Read::Whole(count)) => {
                            assert_eq!(&buf[..count], b"message", "{count} bytes of {buf:?}");
                        }
                        Ok(Read::Part(_)) => panic!("part of a short message"),
                        Err(Error::Disconnected | Error::NotConnected | Error::Broken) => {}
                        Err(Error::InvalidState) => break,
                        Err(other) => panic!("{other}"),
                    }
                    if server.modes().1 == CompletionMode::Complete {
                        break;
                    }
                }
            });
        }
        let other = namespace.clone();
        let client = scope.spawn(move || {
            let mut options = ClientOptions::new();
            options.wait(Some(Duration::from_secs(20)));
            while ended.try_recv().is_err() {
                match options.open(&other, "a") {
                    Ok(client) => while client.write(b"message").is_ok() {},
                    Err(Error::TimedOut | Error::NoSuchPipe) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for _ in 0..300 {
            match server.connect() {
                Ok(()) | Err(Error::Closing) => {}
                Err(error) => panic!("{error}"),
            }
            server.disconnect().expect("disconnect");
        }
        over.send(()).expect("the client listens");
        // Readers end when they find this mode, and the client when it is cut off next.
        server
            .set_modes(ReadMode::Message, CompletionMode::Complete)
            .or_else(|_| {
                server.disconnect()?;
                server.set_modes(ReadMode::Message, CompletionMode::Complete)
            })
            .expect("set modes");
        while !client.is_finished() {
            let _ = server.disconnect();
            let _ = server.connect();
        }
    });
}

#[test]
fn thousands_of_ends_dropped_at_once_are_all_closed() {
    let (broker, namespace) = broker();
    for _ in 0..3 {
        let servers: Vec<Server> = (0..8000)
            .map(|_| messages().create(&namespace, "many").expect("create"))
            .collect();
        let mut servers = servers.into_iter();
        thread::scope(|scope| {
            for _ in 0..8 {
                let some: Vec<Server> = servers.by_ref().take(1000).collect();
                scope.spawn(move || drop(some));
            }
        });
        // With no further message of this process.
        let other = broker.connect().expect("connect");
        eventually("all are closed", || other.list().expect("list").is_empty());
    }
}

#[test]
fn a_server_with_thousands_of_unheard_clients_can_still_ask_the_broker() {
    let (broker, namespace) = broker();
    let mut servers: Vec<Server> = (0..4000)
        .map(|_| messages().create(&namespace, "many").expect("create"))
        .collect();
    let other = broker.connect().expect("connect");
    let clients: Vec<Client> = (0..4000).map(|_| open(&other, "many")).collect();
    servers.truncate(3000);
    let one_more = messages().create(&namespace, "many").expect("create");
    assert_eq!(one_more.state(), State::Listening);
    assert!(
        servers
            .iter()
            .all(|server| server.state() == State::Connected)
    );
    drop(clients);
    assert!(
        servers
            .iter()
            .all(|server| matches!(server.read(&mut [0; 4]), Err(Error::Broken)))
    );
}

#[test]
fn names_of_the_greatest_length_can_be_listed() {
    let (_broker, namespace) = broker();
    let servers: Vec<Server> = (0..40)
        .map(|number| {
            let name = format!("{number:02}{}", "x".repeat(32_764));
            messages().create(&namespace, &name).expect("create")
        })
        .collect();
    assert_eq!(namespace.list().expect("list").len(), 40);
    servers[0].disconnect().expect("the socket still works");
}

#[test]
fn a_client_that_spoils_its_connection_does_not_spoil_the_instance() {
    let (broker, namespace) = broker();
    let other = broker.connect().expect("connect");
    let server = messages().create(&namespace, "a").expect("create");
    let client = open(&other, "a");
    server.connect().expect("connect");
    // Both ends of it are cut off in memory before the server says so.
    server.disconnect().expect("disconnect");
    drop(client);
    thread::scope(|scope| {
        let listens = scope.spawn(|| server.connect());
        let mut options = ClientOptions::new();
        options.wait(Some(Duration::from_secs(10)));
        let client = options.open(&other, "a").expect("open");
        listens.join().expect("thread").expect("connect");
        client.write(b"x").expect("write");
        assert_eq!(server.read(&mut [0; 4]).expect("read"), Read::Whole(1));
    });
}

/// A listening end that is disconnected while a client comes and another thread listens again: never wedged.
#[test]
fn np_disc_04_against_a_listen_and_an_open_at_the_same_time() {
    let (broker, namespace) = broker();
    let other = broker.connect().expect("connect");
    let server = messages().create(&namespace, "a").expect("create");
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut options = ClientOptions::new();
            options.wait(Some(Duration::from_secs(10)));
            for _ in 0..300 {
                let client = options.open(&other, "a").expect("open");
                let _ = client.read(&mut [0; 4]);
            }
        });
        let server = &server;
        let listener = scope.spawn(move || {
            while !client.is_finished() {
                let _ = server.connect_timeout(Duration::from_millis(20));
                thread::yield_now();
            }
        });
        while !listener.is_finished() {
            let _ = server.disconnect();
        }
    });
}

#[test]
fn a_server_end_may_outlive_its_thread_s_other_values() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<(Server, Client)>> = const { std::cell::RefCell::new(None) };
    }
    let (broker, namespace) = broker();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Registered before anything that a call registers, hence dropped after it.
            KEPT.with(|kept| {
                let server = messages().create(&namespace, "a").expect("create");
                let client = open(&namespace, "a");
                server.connect().expect("connect");
                *kept.borrow_mut() = Some((server, client));
            });
        });
    });
    eventually("both are closed", || broker.stats().connections == 0);
}
