//! Processes that meet by name, and die: at every named point of the data path, and in the middle of create, listen, wait,
//! connect and disconnect. The other end hears of it within a second, nothing is left, and the name works again.

use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use npfs::{
    BrokerOptions, Client, ClientOptions, Error, Namespace, NtStatus, Read, Server, ServerOptions,
    State,
};
use npfs_ringbuf::fault::Point;
use npfs_tests::{Actor, Site, Stopwatch, child_exe, eventually, folder, open, serve};

/// What is promised after a death.
const SECOND: Duration = Duration::from_secs(1);

fn site() -> Site {
    Site::start(BrokerOptions::new().workers(2))
}

/// Runs it, and says so if it took longer than a second.
fn promptly<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let begin = Stopwatch::start();
    let answer = call();
    begin.expect_within(SECOND, what);
    answer
}

#[test]
fn a_message_between_two_processes_and_no_more_descriptors() {
    let site = site();
    let mut server = site.actor(child_exe!());
    let mut client = site.actor(child_exe!());
    assert_eq!(client.must("fds"), "1", "the broker's socket");
    server.must("create s pipe");
    let listens = server.start("connect s");
    client.must("open c pipe rw");
    assert_eq!(server.within(listens, SECOND).as_deref(), Some("ok "));
    client.must("write c hello");
    assert_eq!(server.must("read s"), "hello");
    let echo = server.start("echo s");
    assert_eq!(client.must("transact c there-and-back"), "there-and-back");
    assert_eq!(client.must("fds"), "1");
    assert_eq!(server.must("fds"), "1");
    assert_eq!(client.must("links"), "1");
    client.must("close c");
    assert_eq!(
        server.within(echo, SECOND).as_deref(),
        Some("STATUS_PIPE_BROKEN")
    );
    server.must("close s");
    is_clean_but_for_sessions(&site);
}

/// No name, no end: sessions and their links may be there.
fn is_clean_but_for_sessions(site: &Site) {
    let namespace = site.namespace();
    eventually("no connection is left", || {
        site.broker().stats().connections == 0
    });
    assert_eq!(namespace.list().expect("list"), []);
}

#[test]
fn thousands_of_pipes_take_no_more_descriptors_and_few_mappings() {
    let site = site();
    let mut client = site.actor(child_exe!());
    let namespace = site.namespace();
    let mut servers = Vec::new();
    for number in 0..3000 {
        servers.push(serve(&namespace, "many"));
        client.must(&format!("open c{number} many rw"));
    }
    assert_eq!(client.must("fds"), "1");
    assert_eq!(client.must("links"), "3", "1024 connections in each");
    client.must("write c2999 last");
    let last = &servers[2999];
    last.connect().expect("connect");
    assert_eq!(last.read(&mut [0; 8]).expect("read"), Read::Whole(4));
    client.kill();
    promptly("the last server end hears of it", || {
        assert!(matches!(last.read(&mut [0; 8]), Err(Error::Broken)));
    });
    drop(servers);
    drop(namespace);
    site.is_clean();
}

/// What a survivor does, whichever end it has.
trait Talks: Sync {
    fn says(&self, data: &[u8]) -> npfs::Result<usize>;
    fn hears(&self, buf: &mut [u8]) -> npfs::Result<Read>;
}

macro_rules! talks {
    ($end:ident) => {
        impl Talks for $end {
            fn says(&self, data: &[u8]) -> npfs::Result<usize> {
                self.write_timeout(data, SECOND)
            }

            fn hears(&self, buf: &mut [u8]) -> npfs::Result<Read> {
                self.read_timeout(buf, SECOND)
            }
        }
    };
}
talks!(Server);
talks!(Client);

/// The victim, which calls its end `v`, dies at that point of the data path. The survivor gets what was committed, then
/// the rule's status.
fn dies_at(index: usize, victim: &mut Actor, survivor: &dyn Talks) {
    let point = Point::ALL[index];
    victim.must("write v committed");
    victim.must(&format!("arm {index} kill"));
    // Whichever way leads to the point.
    match point {
        Point::ConsumerRole | Point::CopiedOut => {
            survivor.says(b"to read").expect("write");
            victim.start("read v");
        }
        Point::RecordTaken => {
            victim.start("read v");
        }
        Point::Matched => {
            victim.start("read v");
            thread::sleep(Duration::from_millis(50));
            let _ = survivor.says(b"to read");
        }
        Point::MidStream => {
            victim.start("pour v 8000000");
        }
        Point::MatchLock | Point::BeforeRing => {
            // Somebody has to wait for what is written.
            thread::scope(|scope| {
                let mut buf = [0; 64];
                assert_eq!(survivor.hears(&mut buf).expect("read"), Read::Whole(9));
                let waits = scope.spawn(|| survivor.hears(&mut [0; 64]));
                thread::sleep(Duration::from_millis(50));
                victim.start("write v late");
                let _ = waits.join();
            });
            survivor.says(b"x").ok();
        }
        _ => {
            victim.start("write v late");
        }
    }
    let mut buf = [0; 64];
    let begin = Stopwatch::start();
    loop {
        match survivor.hears(&mut buf) {
            // Of a stream, parts; of anything else, what was committed.
            Ok(read) => assert!(read.count() <= 9 || point == Point::MidStream, "{point:?}"),
            Err(Error::Broken) => break,
            Err(error) => panic!("{point:?}: {error}"),
        }
    }
    begin.expect_within(3 * SECOND, point);
    assert!(
        matches!(survivor.says(b"x"), Err(Error::Closing)),
        "{point:?}"
    );
}

/// The broker goes and comes back, and both processes have told it of what they have open.
fn another_broker(site: &mut Site, talking: &[&mut Actor]) {
    site.stop();
    site.start_again();
    // This process's, and theirs.
    eventually("all are back", || {
        site.broker().stats().requests >= 2 * (1 + talking.len() as u64)
    });
}

/// Every point of the data path, the client dying; with the broker that connected it, and with the next one.
fn a_client_dies(index: usize, with_the_next: bool) {
    let mut site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let mut victim = site.actor(child_exe!());
    victim.must("open v pipe rw");
    server.connect().expect("connect");
    if with_the_next {
        another_broker(&mut site, &[&mut victim]);
    }
    dies_at(index, &mut victim, &server);
    // The name works again.
    server.disconnect().expect("disconnect");
    let next = open_while_listening(&namespace, &server);
    next.write(b"again").expect("write");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(5));
    drop((server, next, namespace, victim));
    site.is_clean();
}

#[test]
fn np_close_02_a_client_that_dies_at_any_point() {
    for index in 0..Point::ALL.len() {
        a_client_dies(index, false);
    }
}

#[test]
fn np_close_02_a_client_that_dies_at_any_point_after_its_broker() {
    for index in 0..Point::ALL.len() {
        a_client_dies(index, true);
    }
}

fn open_while_listening(namespace: &Namespace, server: &Server) -> Client {
    thread::scope(|scope| {
        let listens = scope.spawn(|| server.connect());
        // The next broker learns of the name by this.
        eventually("the name is there", || namespace.info("pipe").is_ok());
        let client = open(namespace, "pipe");
        listens.join().expect("thread").expect("connect");
        client
    })
}

/// The same, the server dying: its name is gone.
fn a_server_dies(index: usize, with_the_next: bool) {
    let mut site = site();
    let namespace = site.namespace();
    let mut victim = site.actor(child_exe!());
    victim.must("create v pipe");
    let client = open(&namespace, "pipe");
    victim.must("connect v");
    if with_the_next {
        another_broker(&mut site, &[&mut victim]);
    }
    dies_at(index, &mut victim, &client);
    eventually("the name is free", || {
        matches!(namespace.info("pipe"), Err(Error::NoSuchPipe))
    });
    let server = serve(&namespace, "pipe");
    drop((client, server, namespace, victim));
    site.is_clean();
}

#[test]
fn np_obj_01_a_server_that_dies_takes_its_name_with_it() {
    for index in 0..Point::ALL.len() {
        a_server_dies(index, false);
    }
}

#[test]
fn a_server_that_dies_at_any_point_after_its_broker() {
    for index in 0..Point::ALL.len() {
        a_server_dies(index, true);
    }
}

#[test]
fn np_listen_10_np_wait_09_a_listener_that_dies_frees_the_name_and_those_who_wait() {
    let site = site();
    let namespace = site.namespace();
    let mut victim = site.actor(child_exe!());
    victim.must("create s pipe");
    let taken = open(&namespace, "pipe");
    victim.must("connect s");
    victim.must("create t pipe");
    victim.start("connect t");
    let other = open(&namespace, "pipe");
    thread::scope(|scope| {
        let waits = scope.spawn(|| namespace.wait("pipe", Some(Duration::from_secs(20))));
        thread::sleep(Duration::from_millis(50));
        victim.kill();
        promptly("the waiter hears of it", || {
            assert!(matches!(waits.join(), Ok(Err(Error::NoSuchPipe))));
        });
    });
    for client in [&taken, &other] {
        promptly("its clients hear of it", || {
            assert!(matches!(client.read(&mut [0; 4]), Err(Error::Broken)));
        });
    }
    drop((taken, other, namespace));
    site.is_clean();
}

#[test]
fn a_waiter_that_dies_is_forgotten() {
    let site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let client = open(&namespace, "pipe");
    let mut victim = site.actor(child_exe!());
    victim.start("wait pipe 100000");
    eventually("it waits", || {
        namespace.info("pipe").expect("info").pipe.waiters == 1
    });
    victim.kill();
    eventually("it is forgotten", || {
        namespace.info("pipe").expect("info").pipe.waiters == 0
    });
    drop((server, client, namespace));
    site.is_clean();
}

/// Killed anywhere in create, open, listen, disconnect and close, many times.
#[test]
fn processes_that_die_in_the_middle_of_anything_leave_nothing() {
    let site = site();
    let namespace = site.namespace();
    let mut wait = 1;
    for turn in 0..40 {
        let mut victims: Vec<Actor> = (0..2).map(|_| site.actor(child_exe!())).collect();
        for victim in &mut victims {
            victim.start("churn pipe");
            victim.start("churn pipe");
            victim.start("churn other");
        }
        wait = wait * 7 % 31;
        eventually("they are at it", || {
            site.broker().stats().requests > 50 || turn > 0
        });
        thread::sleep(Duration::from_millis(wait));
        drop(victims);
        eventually("their names are free", || {
            namespace.list().expect("list").is_empty()
        });
    }
    let server = serve(&namespace, "pipe");
    let client = open(&namespace, "pipe");
    client.write(b"still").expect("write");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(5));
    drop((server, client, namespace));
    site.is_clean();
    eventually("no session is left", || site.broker().stats().sessions == 0);
}

#[test]
fn a_process_that_ends_its_session_and_lives_on_leaves_nothing_either() {
    let site = site();
    let mut peer = site.actor(child_exe!());
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    peer.must("open c pipe rw");
    server.connect().expect("connect");
    server.write(b"unread").expect("write");
    drop(server);
    drop(namespace);
    // What was written before the close is still read.
    assert_eq!(peer.must("read c"), "unread");
    assert_eq!(peer.ask("read c"), "STATUS_PIPE_BROKEN");
    peer.must("close c");
    eventually("the link has gone", || site.broker().stats().links == 0);
    assert_eq!(peer.ask("open c pipe rw"), "STATUS_OBJECT_NAME_NOT_FOUND");
    assert_eq!(peer.must("links"), "0", "not mapped any more");
    peer.kill();
    site.is_clean();
}

// ---- the broker dies ---------------------------------------------------------------------------------------------

struct BrokerProcess(Child);

impl BrokerProcess {
    fn start(socket: &str) -> BrokerProcess {
        let mut process = Command::new(child_exe!())
            .args(["broker", socket, "1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a broker");
        let output = process.stdout.take().expect("piped");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)
            .expect("a line");
        assert_eq!(line, "ready\n");
        BrokerProcess(process)
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn when_the_broker_dies_connections_go_on_and_names_come_back_with_it() {
    let folder = folder();
    let socket = folder.join("broker.sock").display().to_string();
    let broker = BrokerProcess::start(&socket);
    let mut peer = Actor::spawn(child_exe!(), &socket, None);
    let namespace = Namespace::connect(&socket).expect("a broker");
    let server = serve(&namespace, "pipe");
    peer.must("open c pipe rw");
    server.connect().expect("connect");
    // One thread is blocked in a request.
    thread::scope(|scope| {
        let listening = serve(&namespace, "other");
        let listens = scope.spawn(move || listening.connect());
        thread::sleep(Duration::from_millis(50));
        drop(broker);
        promptly("the listen ends", || {
            let ended = listens.join().expect("thread").expect_err("no broker");
            assert_eq!(ended.status(), NtStatus::NO_SUCH_DEVICE);
        });
    });
    // Both directions, after its death.
    for turn in 0..1000 {
        let message = format!("message {turn}");
        server.write(message.as_bytes()).expect("write");
        assert_eq!(peer.must("read c"), message);
    }
    peer.must("write c back");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(4));
    // Names do not work, and say why.
    for error in [
        ClientOptions::new()
            .open(&namespace, "pipe")
            .expect_err("no broker"),
        ServerOptions::new()
            .create(&namespace, "new")
            .expect_err("no broker"),
        namespace.wait("pipe", None).expect_err("no broker"),
        namespace.list().expect_err("no broker"),
    ] {
        assert!(error.to_string().contains("no broker at"), "{error}");
        assert_eq!(error.status(), NtStatus::NO_SUCH_DEVICE);
    }
    assert_eq!(peer.ask("create s new"), "STATUS_NO_SUCH_DEVICE");
    // It comes back.
    let broker = BrokerProcess::start(&socket);
    let fresh = serve(&namespace, "new");
    peer.must("open d new rw");
    fresh.connect().expect("connect");
    peer.must("write d fresh");
    assert_eq!(fresh.read(&mut [0; 8]).expect("read"), Read::Whole(5));
    // And the old connection still goes on.
    peer.must("write c old");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(3));
    // The new broker does not know its server end until that listens again: then the name is back, as it was made.
    assert!(matches!(
        ClientOptions::new().open(&namespace, "pipe"),
        Err(Error::NoSuchPipe)
    ));
    server.disconnect().expect("disconnect");
    thread::scope(|scope| {
        let listens = scope.spawn(|| server.connect());
        eventually("the name is back", || namespace.info("pipe").is_ok());
        peer.must("open e pipe rw");
        listens.join().expect("thread").expect("connect");
    });
    peer.must("write e again");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(5));
    assert_eq!(namespace.info("pipe").expect("info").instances.len(), 1);
    assert_eq!(peer.ask("read c"), "STATUS_PIPE_DISCONNECTED");
    drop(server);
    assert_eq!(peer.ask("read e"), "STATUS_PIPE_BROKEN");
    eventually("closed at the new broker, too", || {
        matches!(namespace.info("pipe"), Err(Error::NoSuchPipe))
    });
    drop(broker);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn who_died_while_there_was_no_broker_is_missed_once_it_is_back() {
    let mut site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let bystander = serve(&namespace, "other");
    let mut victim = site.actor(child_exe!());
    let mut other = site.actor(child_exe!());
    victim.must("open v pipe rw");
    server.connect().expect("connect");
    other.must("open v other rw");
    bystander.connect().expect("connect");
    victim.must("write v committed");
    site.stop();
    victim.kill();
    thread::scope(|scope| {
        let reads = scope.spawn(|| bystander.read(&mut [0; 16]));
        let mut buf = [0; 16];
        assert_eq!(server.read(&mut buf).expect("read"), Read::Whole(9));
        // Nobody is there to say so.
        let nothing = server.read_timeout(&mut buf, Duration::from_millis(300));
        assert!(matches!(nothing, Err(Error::TimedOut)));
        let begin = Stopwatch::start();
        site.start_again();
        assert!(matches!(server.read(&mut buf), Err(Error::Broken)));
        assert!(begin.elapsed() > 4 * SECOND);
        begin.expect_within(8 * SECOND, "who does not come back");
        // And of those who are back nobody is missed.
        assert!(!reads.is_finished());
        other.must("write v late");
        assert_eq!(reads.join().expect("thread").expect("read"), Read::Whole(4));
    });
    assert_eq!(bystander.write(b"there").expect("write"), 5);
    assert_eq!(other.must("read v"), "there");
    drop((server, bystander, namespace, victim, other));
    site.is_clean();
}

#[test]
fn a_namespace_may_go_after_the_next_broker_has_come() {
    let mut site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let mut peer = site.actor(child_exe!());
    peer.must("open v pipe rw");
    server.connect().expect("connect");
    another_broker(&mut site, &[&mut peer]);
    drop(namespace);
    thread::sleep(Duration::from_millis(200));
    peer.must("write v still");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(5));
    // With the end goes all.
    drop(server);
    assert_eq!(peer.ask("read v"), "STATUS_PIPE_BROKEN");
    eventually("only the peer is left", || {
        site.broker().stats().sessions == 1
    });
    drop(peer);
    site.is_clean();
}

#[test]
fn brokers_may_die_one_after_the_other() {
    let mut site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let mut peer = site.actor(child_exe!());
    peer.must("open v pipe rw");
    server.connect().expect("connect");
    // Nobody needs the namespace for what is open.
    drop(namespace);
    for turn in 0..3 {
        another_broker(&mut site, &[&mut peer]);
        peer.must(&format!("write v {turn}"));
        assert_eq!(server.read(&mut [0; 4]).expect("read"), Read::Whole(1));
    }
    thread::scope(|scope| {
        let reads = scope.spawn(|| server.read(&mut [0; 4]));
        thread::sleep(Duration::from_millis(50));
        peer.kill();
        promptly("it is missed", || {
            assert!(matches!(reads.join(), Ok(Err(Error::Broken))));
        });
    });
    drop((server, peer));
    site.is_clean();
}

#[test]
fn listening_servers_come_back_with_the_broker_each_once() {
    let folder = folder();
    let socket = folder.join("broker.sock").display().to_string();
    let mut broker = BrokerProcess::start(&socket);
    let namespace = Namespace::connect(&socket).expect("a broker");
    let servers: Vec<Server> = (0..20).map(|_| serve(&namespace, "pipe")).collect();
    for _ in 0..3 {
        drop(broker);
        broker = BrokerProcess::start(&socket);
        thread::scope(|scope| {
            for server in &servers {
                // Two threads at once.
                for _ in 0..2 {
                    scope.spawn(|| {
                        let ended = server.connect_timeout(Duration::from_millis(100));
                        assert!(matches!(ended, Err(Error::TimedOut)), "{ended:?}");
                    });
                }
            }
        });
        assert_eq!(namespace.info("pipe").expect("info").instances.len(), 20);
    }
    drop(servers);
    eventually("all are closed", || {
        namespace.list().expect("list").is_empty()
    });
    drop(broker);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn a_second_broker_is_refused_and_a_dead_one_s_socket_is_taken_over() {
    let site = site();
    let second = BrokerOptions::new().socket(&site.socket).start();
    let error = second.expect_err("taken").to_string();
    assert!(
        error.contains("already serves") && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    // Left behind by one that was killed.
    let folder = folder();
    let socket = folder.join("broker.sock").display().to_string();
    let mut dead = BrokerProcess::start(&socket);
    dead.0.kill().expect("our child");
    dead.0.wait().expect("our child");
    assert!(fs::exists(&socket).expect("a folder"));
    let broker = BrokerOptions::new().socket(&socket).start();
    let broker = broker.expect("taken over");
    drop(broker);
    assert!(!fs::exists(&socket).expect("a folder"), "cleared away");
    let _ = fs::remove_dir_all(folder);
}

// ---- scenarios of the origin -------------------------------------------------------------------------------------

/// Eight processes, each serving a name with a thread for each call, and calling the next while it serves the one before.
#[test]
fn nested_calls_round_a_ring_of_eight_processes_do_not_deadlock() {
    let site = Site::start(BrokerOptions::new().workers(1));
    let mut ring: Vec<Actor> = (0..8).map(|_| site.actor(child_exe!())).collect();
    for (index, actor) in ring.iter_mut().enumerate() {
        let next = (index + 1) % 8;
        actor.start(&format!("relay ring{index} ring{next}"));
        assert_eq!(
            actor.within(0, Duration::from_secs(10)).as_deref(),
            Some("serving")
        );
    }
    let namespace = site.namespace();
    thread::scope(|scope| {
        for start in [0, 5] {
            let namespace = &namespace;
            scope.spawn(move || {
                let client = open(namespace, &format!("ring{start}"));
                let mut answer = [0; 16];
                let read = client
                    .transact_timeout(b"100", &mut answer, Duration::from_secs(60))
                    .expect("an answer");
                assert_eq!(&answer[..read.count()], b"100");
            });
        }
    });
    drop(ring);
    drop(namespace);
    site.is_clean();
}

#[test]
fn clients_that_are_stopped_in_mid_call_hold_up_nobody_else() {
    let site = Site::start(BrokerOptions::new().workers(1));
    let mut server = site.actor(child_exe!());
    server.start("serve pipe");
    assert_eq!(server.within(0, SECOND).as_deref(), Some("serving"));
    let mut stopped: Vec<Actor> = (0..100).map(|_| site.actor(child_exe!())).collect();
    for (index, actor) in stopped.iter_mut().enumerate() {
        actor.must("open c pipe rw");
        actor.must("transact c hello");
        // In the middle of a write, with the producer's role; or asleep in a read.
        if index % 2 == 0 {
            actor.must(&format!("arm {} stop", index / 2 % 6));
            actor.start("write c more");
        } else {
            actor.start("read c");
            actor.signal(libc::SIGSTOP);
        }
    }
    let namespace = site.namespace();
    let client = open(&namespace, "pipe");
    let mut answer = [0; 64];
    for turn in 0..2000_u32 {
        let request = turn.to_le_bytes();
        let read = client
            .transact_timeout(&request, &mut answer, SECOND)
            .expect("an answer");
        assert_eq!(&answer[..read.count()], request);
    }
    // Names too.
    promptly("create, open, close", || {
        let own = serve(&namespace, "own");
        let client = open(&namespace, "own");
        own.connect().expect("connect");
        drop((own, client));
    });
    drop((client, stopped, server, namespace));
    site.is_clean();
}

#[test]
fn a_fork_leaves_its_parent_s_pipes_alone() {
    let site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let client = open(&namespace, "pipe");
    let mut ends = Some((server, client, namespace));
    let status = npfs_tests::sys::in_a_fork(|| {
        let (server, client, namespace) = ends.take().expect("the child's copy");
        drop((server, client));
        // Through a connection to the broker of its own.
        let seen = namespace.list().map_or(0, |pipes| pipes.len());
        u8::from(seen != 1)
    });
    assert_eq!(status.expect("a fork"), Some(0));
    let (server, client, namespace) = ends.expect("the parent's");
    client.write(b"still").expect("write");
    assert_eq!(server.read(&mut [0; 8]).expect("read"), Read::Whole(5));
    assert_eq!(namespace.info("pipe").expect("info").instances.len(), 1);
    drop((server, client, namespace));
    site.is_clean();
}

// ---- ends of several processes -------------------------------------------------------------------------------------

/// A server of its own process, and a client whose end a second process has been given.
fn two_with_one_end(site: &Site) -> (Actor, Actor, Actor) {
    let mut server = site.actor(child_exe!());
    let mut first = site.actor(child_exe!());
    let mut second = site.actor(child_exe!());
    server.must("create s pipe");
    first.must("open c pipe rw");
    server.must("connect s");
    let token = first.must("give c");
    second.must(&format!("take-client c {token}"));
    assert_eq!(
        second.ask(&format!("take-client d {token}")),
        "STATUS_INVALID_HANDLE",
        "a token is good for once"
    );
    (server, first, second)
}

#[test]
fn np_close_01_np_read_10_a_client_end_that_two_processes_have() {
    let site = site();
    let (mut server, mut first, mut second) = two_with_one_end(&site);
    for number in 0..40 {
        server.must(&format!("write s {number}"));
    }
    // One after the other, in their order, whoever reads.
    for number in (0..40).step_by(2) {
        assert_eq!(first.must("read c"), number.to_string());
        assert_eq!(second.must("read c"), (number + 1).to_string());
    }
    let waits = server.start("read s");
    second.must("write c from-the-second");
    assert_eq!(
        server.within(waits, SECOND).as_deref(),
        Some("ok from-the-second")
    );
    // The read that pends in the one process outlives the other's close, and the first one's own.
    let pends = second.start("read c");
    thread::sleep(Duration::from_millis(50));
    first.must("close c");
    assert_eq!(server.must("state s"), "connected");
    server.must("write s still-there");
    assert_eq!(
        second.within(pends, SECOND).as_deref(),
        Some("ok still-there")
    );
    let waits = server.start("read s");
    second.must("close c");
    assert_eq!(
        server.within(waits, SECOND).as_deref(),
        Some("STATUS_PIPE_BROKEN")
    );
    server.must("close s");
    is_clean_but_for_sessions(&site);
}

#[test]
fn np_close_01_a_holder_that_dies_is_one_of_several() {
    let site = site();
    for dies_first in [true, false] {
        let (mut server, mut first, mut second) = two_with_one_end(&site);
        let (dying, living) = if dies_first {
            (&mut first, &mut second)
        } else {
            (&mut second, &mut first)
        };
        dying.start("read c");
        let pends = living.start("read c");
        thread::sleep(Duration::from_millis(50));
        dying.kill();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(server.must("state s"), "connected");
        server.must("write s to-whom-it-concerns");
        assert_eq!(
            living.within(pends, SECOND).as_deref(),
            Some("ok to-whom-it-concerns"),
            "the dead one's read is no more"
        );
        let waits = server.start("read s");
        living.kill();
        assert_eq!(
            server.within(waits, SECOND).as_deref(),
            Some("STATUS_PIPE_BROKEN")
        );
    }
    eventually("nothing is left", || site.broker().stats().connections == 0);
}

#[test]
fn a_server_end_that_two_processes_have_serves_from_either() {
    let site = site();
    let mut first = site.actor(child_exe!());
    let mut second = site.actor(child_exe!());
    let mut client = site.actor(child_exe!());
    first.must("create s pipe");
    let token = first.must("give s");
    second.must(&format!("take-server s {token}"));
    let listens = [first.start("connect s"), second.start("connect s")];
    client.must("open c pipe rw");
    assert_eq!(first.within(listens[0], SECOND).as_deref(), Some("ok "));
    assert_eq!(second.within(listens[1], SECOND).as_deref(), Some("ok "));
    for (server, word) in [(&mut first, "one"), (&mut second, "two")] {
        client.must(&format!("write c {word}"));
        assert_eq!(server.must("read s"), word);
        server.must(&format!("write s {word}"));
        assert_eq!(client.must("read c"), word);
    }
    // One cuts the client off and the other serves the next.
    first.must("disconnect s");
    assert_eq!(second.must("state s"), "disconnected");
    assert_eq!(client.ask("read c"), "STATUS_PIPE_DISCONNECTED");
    client.must("close c");
    let listens = second.start("connect s");
    client.must("open c pipe rw");
    assert_eq!(second.within(listens, SECOND).as_deref(), Some("ok "));
    client.must("write c again");
    assert_eq!(first.must("state s"), "connected");
    assert_eq!(first.must("read s"), "again");
    // The instance outlives the process that made it.
    first.kill();
    thread::sleep(Duration::from_millis(100));
    client.must("write c and-again");
    assert_eq!(second.must("read s"), "and-again");
    let waits = client.start("read c");
    second.must("close s");
    assert_eq!(
        client.within(waits, SECOND).as_deref(),
        Some("STATUS_PIPE_BROKEN")
    );
    client.must("close c");
    is_clean_but_for_sessions(&site);
}

#[test]
fn an_end_is_inherited_over_exec() {
    let site = site();
    let mut server = site.actor(child_exe!());
    let mut client = site.actor(child_exe!());
    server.must("create s pipe");
    client.must("open c pipe rw");
    client.must("write c before");
    client.start("exec c");
    let environment = format!("/proc/{}/environ", client.pid());
    eventually("another program is there", || {
        let environment = fs::read(&environment).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains("NPFS_END_TEST=")
    });
    client.must("inherit i");
    client.must("write i after");
    assert_eq!(server.must("read s"), "before");
    assert_eq!(server.must("read s"), "after");
    assert_eq!(client.must("fds"), "1", "the broker's socket");
    let waits = server.start("read s");
    client.must("close i");
    assert_eq!(
        server.within(waits, SECOND).as_deref(),
        Some("STATUS_PIPE_BROKEN")
    );
}

#[test]
fn an_end_that_nobody_takes_closes_after_five_seconds() {
    let site = site();
    let mut server = site.actor(child_exe!());
    let mut client = site.actor(child_exe!());
    server.must("create s pipe");
    client.must("open c pipe rw");
    let token = client.must("give c");
    let begin = Stopwatch::start();
    client.kill();
    assert_eq!(server.ask("read s"), "STATUS_PIPE_BROKEN");
    assert!(begin.elapsed() > 4 * SECOND);
    begin.expect_within(8 * SECOND, "what nobody takes");
    assert_eq!(
        server.ask(&format!("take-client c {token}")),
        "STATUS_INVALID_HANDLE"
    );
}

/// No broker knows the link any more: the processes on it keep count in its own memory.
#[test]
fn np_close_01_an_end_of_several_processes_outlives_its_broker() {
    let mut site = site();
    let (mut server, mut first, mut second) = two_with_one_end(&site);
    site.stop();
    first.must("write c one");
    second.must("write c two");
    assert_eq!(server.must("read s"), "one");
    assert_eq!(server.must("read s"), "two");
    first.must("close c");
    assert_eq!(server.must("state s"), "connected");
    second.must("write c three");
    assert_eq!(server.must("read s"), "three");
    let waits = server.start("read s");
    second.must("close c");
    assert_eq!(
        server.within(waits, SECOND).as_deref(),
        Some("STATUS_PIPE_BROKEN")
    );
    // And with deaths in place of closes, which the next broker tells of.
    let mut site = self::site();
    let (mut server, mut first, mut second) = two_with_one_end(&site);
    site.stop();
    site.start_again();
    eventually("all three are back", || site.broker().stats().requests >= 6);
    let waits = server.start("read s");
    first.kill();
    thread::sleep(Duration::from_millis(300));
    second.must("write c still-there");
    assert_eq!(
        server.within(waits, SECOND).as_deref(),
        Some("ok still-there")
    );
    let waits = server.start("read s");
    second.kill();
    assert_eq!(
        server.within(waits, SECOND).as_deref(),
        Some("STATUS_PIPE_BROKEN")
    );
}

#[test]
fn state_is_seen_from_both_processes() {
    let site = site();
    let namespace = site.namespace();
    let server = serve(&namespace, "pipe");
    let mut peer = site.actor(child_exe!());
    peer.must("open c pipe rw");
    server.connect().expect("connect");
    assert_eq!(server.client().expect("a client").pid, peer.pid());
    let details = namespace.info("pipe").expect("info");
    assert_eq!(details.instances[0].state, State::Connected);
    assert_eq!(
        details.instances[0].client.map(|client| client.pid),
        Some(peer.pid())
    );
    peer.must("close c");
    eventually("closing", || server.state() == State::Closing);
}

#[test]
fn a_broker_without_clients_ends_wherever_the_last_one_was() {
    for clients in 1..4 {
        let folder = folder();
        let broker = BrokerOptions::new()
            .socket(folder.join("broker.sock"))
            .workers(2)
            .idle_exit(Some(Duration::from_millis(200)))
            .start()
            .expect("a broker");
        let begin = Stopwatch::start();
        for _ in 0..clients {
            drop(broker.connect().expect("connect"));
        }
        broker.run().expect("it ends");
        assert!(begin.elapsed() >= Duration::from_millis(150));
        begin.expect_within(5 * SECOND, clients);
        let _ = fs::remove_dir_all(folder);
    }
}
