//! Overlapped calls of the typed layer: futures on an executor of a few lines and on tokio, and completion queues.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use npfs::tokio::Stream;
use npfs::{
    Broker, BrokerOptions, Client, ClientOptions, Completion, Completions, Deadline, Done, Error,
    Namespace, Op, PipeType, Read, ReadMode, Server, ServerOptions,
};
use npfs_tests::{Site, child_exe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);

fn broker() -> (Broker, Namespace) {
    let broker = BrokerOptions::new().workers(2).start().expect("a broker");
    let namespace = broker.connect().expect("a client of it");
    (broker, namespace)
}

fn server(namespace: &Namespace, name: &str, pipe_type: PipeType) -> Server {
    let mut options = ServerOptions::new();
    options.pipe_type(pipe_type).in_quota(4096).out_quota(4096);
    if pipe_type == PipeType::Message {
        options.read_mode(ReadMode::Message);
    }
    options.create(namespace, name).expect("create")
}

fn client(namespace: &Namespace, name: &str, read: ReadMode) -> Client {
    let mut options = ClientOptions::new();
    options.read_mode(read).open(namespace, name).expect("open")
}

fn pair(namespace: &Namespace, name: &str) -> (Server, Client) {
    let server = server(namespace, name, PipeType::Message);
    let client = client(namespace, name, ReadMode::Message);
    server.connect().expect("connected");
    (server, client)
}

/// An executor: a thread that sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Thread(thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Thread(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(5 * SECOND),
        }
    }
}

fn done(completion: &Completion) -> Option<Done> {
    completion.result.as_ref().ok().copied()
}

#[test]
fn a_future_completes_on_any_executor() {
    let site = Site::start(BrokerOptions::new().workers(2));
    let namespace = site.namespace();
    let server = server(&namespace, "future", PipeType::Message);
    let connects = server.start(Op::connect());
    assert!(!connects.is_over());
    let mut peer = site.actor(child_exe!());
    peer.must("open c future rw");
    assert_eq!(done(&block_on(connects)), Some(Done::Connected));
    // A second one finds it connected.
    assert_eq!(
        done(&block_on(server.start(Op::connect()))),
        Some(Done::Connected)
    );
    for turn in 0..20 {
        let reads = server.start(Op::read(vec![0; 16]));
        assert!(!reads.is_over());
        peer.must(&format!("write c {turn}"));
        let completion = block_on(reads);
        assert_eq!(completion.data(), turn.to_string().as_bytes());
        assert_eq!(completion.buffer.len(), 16, "it gives the buffer back");
    }
    // At once, what needs no waiting.
    let wrote = server.start(Op::write(b"reply".to_vec()));
    assert!(wrote.is_over());
    assert_eq!(done(&block_on(wrote)), Some(Done::Wrote(5)));
    let flushed = server.start(Op::flush());
    assert!(!flushed.is_over(), "it is not read");
    assert_eq!(peer.must("read c"), "reply");
    assert_eq!(done(&block_on(flushed)), Some(Done::Flushed));
    // The peer's death.
    let reads = server.start(Op::read(vec![0; 16]));
    peer.kill();
    assert!(matches!(block_on(reads).result, Err(Error::Broken)));
}

#[test]
fn np_cancel_01_a_future_that_is_dropped_or_cancelled_takes_nothing() {
    let (_broker, namespace) = broker();
    let (server, client) = pair(&namespace, "dropped");
    drop(server.start(Op::read(vec![0; 16])));
    let cancelled = server.start(Op::read(vec![0; 16]));
    cancelled.cancel();
    assert!(matches!(block_on(cancelled).result, Err(Error::Cancelled)));
    client.write(b"kept").expect("write");
    let read = block_on(server.start(Op::read(vec![0; 16])));
    assert_eq!(read.data(), b"kept");
    // A connect, too.
    let idle = self::server(&namespace, "idle", PipeType::Message);
    drop(idle.start(Op::connect()));
    let connects = idle.start(Op::connect());
    connects.cancel();
    assert!(matches!(block_on(connects).result, Err(Error::Cancelled)));
    // What pends when its end is dropped has an answer all the same.
    let pends = server.start(Op::read(vec![0; 16]));
    drop(server);
    assert!(block_on(pends).result.is_err());
    let connects = idle.start(Op::connect());
    drop(idle);
    assert!(block_on(connects).result.is_err());
}

#[test]
fn np_xcv_05_a_transact_is_a_future() {
    let (_broker, namespace) = broker();
    let (server, client) = pair(&namespace, "transact");
    let asked = client.start(Op::transact(b"question".to_vec(), vec![0; 4]));
    let mut buf = [0; 16];
    assert_eq!(server.read(&mut buf).expect("the question"), Read::Whole(8));
    server.write(b"answer").expect("write");
    let answer = block_on(asked);
    assert_eq!(answer.data(), b"answ");
    assert_eq!(done(&answer), Some(Done::Read(Read::Part(4))));
    // A wrong end, and a closed one, are completions as others are.
    let wrong = block_on(client.start(Op::connect()));
    assert!(matches!(wrong.result, Err(Error::WrongEnd)));
    drop(server);
    let closed = block_on(client.start(Op::write(b"x".to_vec())));
    assert!(matches!(closed.result, Err(Error::Closing)));
    assert_eq!(closed.buffer, b"x");
}

#[test]
fn an_overlapped_call_is_waited_for_by_a_thread() {
    let (_broker, namespace) = broker();
    let (server, client) = pair(&namespace, "waited");
    let reads = server.start(Op::read(vec![0; 16]));
    let soon = || Deadline::after(Duration::from_millis(10));
    let reads = reads.wait(soon()).expect_err("nothing is there");
    client.write(b"now").expect("write");
    let completion = reads.wait(Deadline::after(5 * SECOND)).expect("completed");
    assert_eq!(completion.data(), b"now");
}

#[test]
fn completions_of_many_ends_come_to_one_queue() {
    const ENDS: u64 = 50;
    let (_broker, namespace) = broker();
    let queue = Completions::new();
    let pairs: Vec<_> = (0..ENDS)
        .map(|n| pair(&namespace, &format!("q{n}")))
        .collect();
    let mut submitted = Vec::new();
    for (token, (server, _)) in (0..).zip(&pairs) {
        submitted.push(server.submit(Op::read(vec![0; 8]), &queue, token));
    }
    let mut batch = Vec::new();
    let soon = Deadline::after(Duration::from_millis(5));
    assert!(matches!(
        queue.wait(&mut batch, 10, soon),
        Err(Error::TimedOut)
    ));
    for (number, (_, client)) in pairs.iter().enumerate().skip(1) {
        client.write(number.to_string().as_bytes()).expect("write");
    }
    submitted[0].cancel();
    while batch.len() < 50 {
        let count = queue.wait(&mut batch, 7, Deadline::after(5 * SECOND));
        assert!((1..=7).contains(&count.expect("more")));
    }
    batch.sort_by_key(|completion| completion.token);
    assert!(matches!(batch[0].result, Err(Error::Cancelled)));
    for (token, completion) in (0..).zip(&batch).skip(1) {
        assert_eq!(completion.token, token, "each once");
        assert_eq!(completion.data(), token.to_string().as_bytes());
    }
    assert!(queue.take().is_none());
    // Errors that are known at once come there, too.
    pairs[0].1.submit(Op::connect(), &queue, 77);
    let completion = queue.take().expect("at once");
    assert_eq!(completion.token, 77);
    assert!(matches!(completion.result, Err(Error::WrongEnd)));
}

/// What an executor's waker does is its own affair: one that panics ends nothing else.
#[test]
fn a_waker_that_panics_stops_nobody_else() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let site = Site::start(BrokerOptions::new().workers(2));
    let namespace = site.namespace();
    let server = server(&namespace, "panics", PipeType::Message);
    let mut peer = site.actor(child_exe!());
    peer.must("open c panics rw");
    server.connect().expect("connected");
    for turn in 0..3 {
        let reads = server.start(Op::read(vec![0; 16]));
        let waker = Waker::from(Arc::new(Panics));
        let mut reads = pin!(reads);
        assert!(
            reads
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        peer.must("write c x");
        let over = || reads.is_over();
        assert!(npfs_tests::until(5 * SECOND, over), "turn {turn}");
        // The loop is there for the next one.
        let reads = server.start(Op::read(vec![0; 16]));
        peer.must("write c y");
        assert_eq!(block_on(reads).data(), b"y");
    }
}

// ---- tokio ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_tokio_serves_many_clients() {
    let (_broker, namespace) = broker();
    let serve = {
        let namespace = namespace.clone();
        async move {
            for _ in 0..20 {
                let server = server(&namespace, "echo", PipeType::Byte);
                let connected = server.start(Op::connect()).await;
                assert_eq!(done(&connected), Some(Done::Connected));
                tokio::spawn(async move {
                    let mut stream = Stream::new(server).expect("bytes");
                    let mut buf = vec![0; 1000];
                    loop {
                        let count = stream.read(&mut buf).await.expect("read");
                        if count == 0 {
                            break;
                        }
                        stream.write_all(&buf[..count]).await.expect("write");
                        stream.flush().await.expect("flush");
                    }
                });
            }
        }
    };
    let serving = tokio::spawn(serve);
    let mut clients = Vec::new();
    for number in 0..20_u8 {
        let namespace = namespace.clone();
        clients.push(tokio::spawn(async move {
            let client = loop {
                match ClientOptions::new().open(&namespace, "echo") {
                    Ok(client) => break client,
                    Err(Error::NoListener | Error::NoSuchPipe) => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            let stream = Stream::new(client).expect("bytes");
            let (mut reader, mut writer) = tokio::io::split(stream);
            // More than both quotas hold, so that both directions wait.
            let sent: Vec<u8> = (0..100_000_u32)
                .map(|at| (at % 251) as u8 ^ number)
                .collect();
            let expected = sent.clone();
            let writes = tokio::spawn(async move {
                writer.write_all(&sent).await.expect("write");
                writer.flush().await.expect("flush");
                writer
            });
            let mut got = vec![0; expected.len()];
            reader.read_exact(&mut got).await.expect("read");
            assert!(got == expected, "client {number}");
            writes.await.expect("no panic");
        }));
    }
    for client in clients {
        let limit = tokio::time::timeout(60 * SECOND, client);
        limit.await.expect("in time").expect("no panic");
    }
    serving.await.expect("no panic");
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let (_broker, namespace) = broker();
    let server = server(&namespace, "given-up", PipeType::Byte);
    let client = client(&namespace, "given-up", ReadMode::Byte);
    let mut stream = Stream::new(server).expect("bytes");
    let mut buf = [0; 64];
    let soon = tokio::time::timeout(Duration::from_millis(5), stream.read(&mut buf));
    soon.await.expect_err("nothing is there");
    client.write(b"after all").expect("write");
    let mut first = [0; 5];
    stream.read_exact(&mut first).await.expect("read");
    assert_eq!(&first, b"after");
    let count = stream.read(&mut buf).await.expect("read");
    assert_eq!(&buf[..count], b" all");
    drop(client);
    assert_eq!(stream.read(&mut buf).await.expect("the end"), 0);
    let late = stream.write(b"x").await.expect_err("nobody reads");
    assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_message_pipe_is_no_stream() {
    let (_broker, namespace) = broker();
    let server = server(&namespace, "messages", PipeType::Message);
    assert!(matches!(Stream::new(server), Err(Error::InvalidMode)));
}

/// The answer comes at any moment while who waits for it looks, gives up looking and goes to sleep: it wakes, or does not sleep.
#[test]
fn a_polled_read_whose_owner_falls_asleep_is_answered() {
    const ROUNDS: u64 = 10_000;
    let (_broker, namespace) = broker();
    let (server, client) = pair(&namespace, "asleep");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buf = [0; 16];
            for round in 0..ROUNDS {
                assert_eq!(client.read(&mut buf).expect("a request").count(), 8);
                // From at once to longer than anybody looks.
                let pause = Duration::from_nanos(round.wrapping_mul(0x9e37_79b9) % 90_000);
                let begin = Instant::now();
                while begin.elapsed() < pause {
                    std::hint::spin_loop();
                }
                client.write(&round.to_le_bytes()).expect("an answer");
            }
        });
        let queue = Completions::new();
        let mut got = Vec::new();
        for round in 0..ROUNDS {
            server.submit(Op::read(vec![0; 16]), &queue, round);
            server.write(b"request!").expect("a request");
            let waited = queue.wait(&mut got, 1, Deadline::after(10 * SECOND));
            assert_eq!(waited.ok(), Some(1), "asleep on answer {round}");
            let completion = got.pop().expect("one");
            assert_eq!(done(&completion), Some(Done::Read(Read::Whole(8))));
            assert_eq!(completion.buffer[..8], round.to_le_bytes());
        }
    });
}
