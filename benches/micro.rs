//! What single steps of the queue cost within one process, both ends on one thread: no waiting,
//! no other CPU. For the cost between processes see `npfs bench`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use npfs_ringbuf::books::{ConnSpec, LinkBooks, LinkConfig};
use npfs_ringbuf::{CompletionMode, Conn, Link, PipeType, Read, ReadMode, Shared};

/// Both ends of a message pipe, and the books that must outlive them.
struct Pair {
    server: Conn,
    client: Conn,
    _books: LinkBooks,
}

impl Pair {
    fn new() -> Result<Pair, Box<dyn std::error::Error>> {
        let config = LinkConfig {
            size: 64 << 20,
            ..LinkConfig::default()
        };
        let mut books = LinkBooks::create(&config)?;
        let (first, second) = (books.add_process(None)?, books.add_process(None)?);
        let spec = ConnSpec::new(PipeType::Message, 64 << 10);
        let (_, to_server, to_client) = books.connect(&spec, first, second)?;
        let server: Shared<Link> = Link::attach(books.share()?, first)?;
        let client: Shared<Link> = Link::attach(books.share()?, second)?;
        let pair = Pair {
            server: Conn::open(&server, &to_server)?,
            client: Conn::open(&client, &to_client)?,
            _books: books,
        };
        pair.server
            .set_modes(ReadMode::Message, CompletionMode::Queue)?;
        Ok(pair)
    }

    fn pass(&self, message: &[u8], buf: &mut [u8]) {
        let taken = self.client.try_write(black_box(message));
        assert_eq!(taken, Ok(message.len()));
        assert_eq!(self.server.try_read(buf), Ok(Read::Whole(message.len())));
    }
}

fn queue(criterion: &mut Criterion) {
    let pair = Pair::new().expect("a link of one process with itself");
    let mut group = criterion.benchmark_group("queue");
    for size in [64, 4096] {
        let message = vec![0x5a; size];
        let mut buf = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("append and take, {size} B"), |bencher| {
            bencher.iter(|| pair.pass(&message, &mut buf));
        });
        assert_eq!(buf, message);
    }
    group.finish();

    let mut group = criterion.benchmark_group("look");
    let mut byte = [0; 1];
    group.bench_function("info, empty queue", |bencher| {
        bencher.iter(|| black_box(pair.server.info()).expect("connected"));
    });
    group.bench_function("try_read, empty queue", |bencher| {
        bencher.iter(|| black_box(pair.server.try_read(&mut byte)).expect_err("empty"));
    });
    assert_eq!(pair.client.try_write(&[7; 64]), Ok(64));
    group.bench_function("info, one message", |bencher| {
        bencher.iter(|| black_box(pair.server.info()).expect("connected"));
    });
    group.bench_function("peek, one message", |bencher| {
        bencher.iter(|| black_box(pair.server.peek(&mut byte)).expect("connected"));
    });
    assert_eq!(pair.server.info().expect("connected").messages, 1);
    group.finish();
}

fn words(criterion: &mut Criterion) {
    let pair = Pair::new().expect("a link of one process with itself");
    let mut group = criterion.benchmark_group("words");
    let role = npfs_ringbuf::RoleProbe::default();
    group.bench_function("role taken and given back", |bencher| {
        bencher.iter(|| black_box(&role).turn(false));
    });
    group.bench_function("role kept", |bencher| {
        bencher.iter(|| black_box(&role).turn(true));
    });
    let link = pair.server.link().clone();
    let bell = link.bell(link.process());
    group.bench_function("bell checked, loop awake", |bencher| {
        bencher.iter(|| black_box(bell.is_armed()));
    });
    group.bench_function("slot marked, loop awake", |bencher| {
        bencher.iter(|| black_box(bell.mark(3)));
    });
    group.finish();
}

criterion_group!(benches, queue, words);
criterion_main!(benches);
