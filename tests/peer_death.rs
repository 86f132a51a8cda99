//! A process that is killed, or stopped, and a thread that ends, at every named point of the data path, at either end.
//!
//! The victim is a child that holds one end; the survivor and the books are here. Before the point is armed messages have
//! been committed in the victim's outgoing direction, the incoming one, or both; what must hold afterwards:
//! - killed: once the books have reaped it, the survivor gets every committed message and then the rule's status, each
//!   within a second (NP-CLOSE-02, NP-READ-20, NP-WRITE-01);
//! - stopped: whoever needs the role that is held waits no longer than its own deadline, everybody else goes on; after
//!   SIGCONT every message arrives exactly once;
//! - its thread ended: after a sweep of that thread the others of the process go on with the same end.

use npfs_ringbuf::books::ConnSpec;
use npfs_ringbuf::fault::{Action, Point};
use npfs_ringbuf::{
    CompletionMode, Conn, End, Error, Grant, PipeType, Read, ReadMode, State, Wait,
};
use npfs_tests::cmd::{Blocking, Cmd, Done, Reply};
use npfs_tests::party::{Party, Place, Rig};
use npfs_tests::sys::Seen;
use npfs_tests::time::until;
use npfs_tests::{Stopwatch, child_exe, pattern, soon, within};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const QUOTA: u32 = 4096;
/// Several times the data area of that quota.
const STREAM: usize = 500_000;
/// What the rules promise after a death.
const SECOND: Duration = Duration::from_secs(1);
/// Deadline of calls that must give up, in milliseconds; and how much later they may return on a busy machine.
const PATIENCE: u64 = 150;
const SLACK: Duration = Duration::from_millis(850);

/// Names of blocking calls: the victim's own at which it stops, and the survivor's.
const FATAL: u32 = 7;
const ASLEEP: u32 = 8;

/// Does the point lie on the way of a write?
fn writes(point: Point) -> bool {
    match point {
        Point::ProducerRole
        | Point::MatchLock
        | Point::Copied
        | Point::Committed
        | Point::BeforeRing
        | Point::MidStream => true,
        Point::ConsumerRole | Point::RecordTaken | Point::Matched | Point::CopiedOut => false,
    }
}

/// How often the message under way may arrive: at least, at most.
fn in_flight(point: Point) -> (usize, usize) {
    match point {
        // Not committed: it never existed.
        Point::ProducerRole | Point::Copied | Point::MidStream => (0, 0),
        Point::Committed | Point::BeforeRing => (1, 1),
        // The settler may have come as far as its commit, or not.
        Point::MatchLock => (0, 1),
        Point::ConsumerRole | Point::RecordTaken | Point::Matched | Point::CopiedOut => (0, 0),
    }
}

/// Is the survivor asleep in a read, so that the write meets a pended read? Some points lie only on one of the two ways.
fn arrangements(point: Point) -> &'static [bool] {
    match point {
        Point::MatchLock | Point::BeforeRing => &[true],
        point if writes(point) => &[false, true],
        _ => &[false],
    }
}

struct Scene {
    rig: Rig,
    victim: End,
    point: Point,
    /// messages committed towards the survivor, in order
    sent: Vec<Vec<u8>>,
    /// messages committed towards the victim, in order
    given: Vec<Vec<u8>>,
}

impl Scene {
    fn new(point: Point, victim: End, asleep: bool) -> Scene {
        let place = match victim {
            End::Server => Place::ServerThere(child_exe!()),
            End::Client => Place::ClientThere(child_exe!()),
        };
        let mut rig = Rig::new(place, &ConnSpec::new(PipeType::Message, QUOTA));
        for end in [End::Server, End::Client] {
            rig.end(end)
                .set_modes(ReadMode::Message, CompletionMode::Queue)
                .expect("a message pipe");
        }
        let mut scene = Scene {
            rig,
            victim,
            point,
            sent: Vec::new(),
            given: Vec::new(),
        };
        if asleep {
            scene
                .survivor()
                .block(ASLEEP, Blocking::Read(1 << 20), None);
            // A pended read is charged to what the writer is told (NP-QUEUE-08).
            let pended = until(5 * SECOND, || {
                scene
                    .victim()
                    .info()
                    .expect("connected")
                    .write_quota_available
                    < QUOTA
            });
            assert!(pended, "the survivor's read pends");
            // And has given the match lock back: a peek needs it.
            let conn = scene.conn();
            assert!(until(5 * SECOND, || conn.peek(&mut []).is_ok()));
        } else {
            for text in ["m1", "m2", "m3"] {
                assert_eq!(scene.victim().try_write(text.as_bytes()), Done::Wrote(2));
                scene.sent.push(text.into());
            }
        }
        if matches!(point, Point::ConsumerRole | Point::CopiedOut) {
            scene.give("s1");
            scene.give("s2");
        }
        scene
    }

    fn victim(&mut self) -> &mut Party {
        self.rig.end(self.victim)
    }

    fn survivor(&mut self) -> &mut Party {
        self.rig.end(self.victim.other())
    }

    fn conn(&mut self) -> std::sync::Arc<Conn> {
        self.survivor().conn()
    }

    /// The survivor commits a message.
    fn give(&mut self, text: &str) {
        assert_eq!(
            self.survivor().try_write(text.as_bytes()),
            Done::Wrote(text.len())
        );
        self.given.push(text.into());
    }

    /// What the victim was writing when it came to the point.
    fn fatal_message(&self) -> Vec<u8> {
        match self.point {
            Point::MidStream => pattern(1, STREAM),
            _ => b"in flight".to_vec(),
        }
    }

    /// Arms the point and has a thread of the victim run into it. The answer to that command may never come.
    fn pull(&mut self, action: Action) {
        let (point, message) = (self.point, self.fatal_message());
        self.victim().arm(point, action);
        let what = if writes(point) {
            Blocking::Write(message)
        } else {
            Blocking::Read(64)
        };
        self.victim().child().send(&Cmd::Block(FATAL, what, None));
        if point == Point::Matched {
            let conn = self.conn();
            let pended = until(5 * SECOND, || {
                conn.info().expect("connected").write_quota_available < QUOTA
            });
            assert!(pended, "the victim's read pends");
            self.give("s1");
        }
    }

    /// Reads one message, or the part of it that came by the deadline, and sees that the deadline is kept.
    fn read_part(&mut self) -> Result<(Vec<u8>, bool), Error> {
        let conn = self.conn();
        let mut buf = vec![0; 1 << 20];
        let start = Stopwatch::start();
        let result = conn.read_with(&mut buf, &Wait::new(), soon(PATIENCE));
        start.expect_within(Duration::from_millis(PATIENCE) + SLACK, "a read");
        result.map(|read| (buf[..read.count()].to_vec(), matches!(read, Read::Whole(_))))
    }

    /// Reads one whole message.
    fn read(&mut self) -> Result<Vec<u8>, Error> {
        let (message, whole) = self.read_part()?;
        assert!(
            whole,
            "a part of {} bytes of a message that fits",
            message.len()
        );
        Ok(message)
    }

    /// Checks what the survivor has received: all that was committed, in order, and the message under way as often as
    /// the point allows.
    fn check_received(&self, received: &[Vec<u8>], also: (usize, usize)) {
        let fatal = self.fatal_message();
        let others: Vec<&Vec<u8>> = received.iter().filter(|m| **m != fatal).collect();
        assert!(
            others.iter().copied().eq(&self.sent),
            "received {:?}, committed {:?}",
            texts(received),
            texts(&self.sent)
        );
        let times = received.len() - others.len();
        assert!(
            (also.0..=also.1).contains(&times),
            "the message under way came {times} times"
        );
    }
}

fn texts(messages: &[Vec<u8>]) -> Vec<String> {
    let text = |m: &Vec<u8>| String::from_utf8_lossy(&m[..m.len().min(40)]).into_owned();
    messages.iter().map(text).collect()
}

// --------------------------------------------------------------------------------------------------------- killed

fn killed(point: Point, victim: End, asleep: bool) {
    let mut scene = Scene::new(point, victim, asleep);
    let stalled = matches!(point, Point::ConsumerRole | Point::CopiedOut);
    if stalled {
        // More than the quota: it waits for the victim to read.
        scene
            .survivor()
            .block(ASLEEP, Blocking::Write(pattern(2, 9000)), None);
        // Only a write that pends already is broken; one that comes later finds the pipe closing.
        let conn = scene.conn();
        let pended = until(5 * SECOND, || {
            conn.info().expect("connected").write_quota_available == 0
        });
        assert!(pended, "the survivor's write pends");
    }
    scene.pull(Action::Kill);
    assert_eq!(
        scene.victim().child().watch(5 * SECOND),
        Seen::Exited,
        "the point was never reached"
    );
    let index = match victim {
        End::Server => scene.rig.server_index,
        End::Client => scene.rig.client_index,
    };
    let mut reaped = Vec::new();
    assert!(
        until(SECOND, || {
            reaped.extend(scene.rig.books.reap());
            !reaped.is_empty()
        }),
        "the books do not see the death"
    );
    assert_eq!(reaped, [index]);
    assert_eq!(scene.rig.books.reap(), [], "once only");
    let mut received = Vec::new();
    if asleep {
        match scene
            .survivor()
            .join(ASLEEP, 1000)
            .expect("the sleeper ends within a second")
        {
            Done::Read(message, true) => received.push(message),
            Done::Failed(Error::Broken) => {}
            other => panic!("{other:?}"),
        }
    }
    if stalled {
        let done = scene
            .survivor()
            .join(ASLEEP, 1000)
            .expect("the writer ends within a second");
        assert_eq!(done, Done::Failed(Error::Broken), "NP-WRITE-14");
    }
    assert_eq!(scene.survivor().state(), State::Closing);
    loop {
        match scene.read() {
            Ok(message) => received.push(message),
            Err(error) => {
                assert_eq!(error, Error::Broken, "NP-READ-04");
                break;
            }
        }
    }
    scene.check_received(&received, in_flight(point));
    let survivor = scene.survivor();
    assert_eq!(
        survivor.try_write(b"x"),
        Done::Failed(Error::Closing),
        "NP-WRITE-01"
    );
    assert_eq!(survivor.start_write(1, b"x"), Err(Error::Closing));
    survivor.start_flush(2).expect("NP-FLUSH-02");
    assert_eq!(survivor.poll_all(), [(2, Done::Flushed)]);
    let info = survivor.info().expect("served");
    assert_eq!(
        (info.read_available, info.write_quota_available),
        (0, QUOTA)
    );
    survivor.close();
    scene
        .rig
        .books
        .close(scene.rig.id, victim.other())
        .expect("the survivor's end");
    assert_eq!(
        scene.rig.books.connections(),
        0,
        "the dead end is closed already"
    );
}

// -------------------------------------------------------------------------------------------------------- stopped

fn stopped(point: Point, victim: End, asleep: bool) {
    let mut scene = Scene::new(point, victim, asleep);
    scene.pull(Action::Stop);
    assert_eq!(
        scene.victim().child().watch(5 * SECOND),
        Seen::Stopped,
        "the point was never reached"
    );
    assert_eq!(scene.rig.books.reap(), [], "it lives");
    let mut received = Vec::new();
    // Reads that need the victim's role give up in time; what is committed may come.
    // A stream whose writer is stopped gives what it has placed, as part of the message (NP-READ-09).
    let mut begun = Vec::new();
    for _ in 0..8 {
        match scene.read_part() {
            Ok((message, true)) => received.push(message),
            Ok((piece, false)) => {
                assert_eq!(point, Point::MidStream, "a part of {} bytes", piece.len());
                begun.extend(piece);
            }
            Err(Error::TimedOut) => break,
            Err(other) => panic!("a read while the victim is stopped: {other:?}"),
        }
    }
    if !writes(point) {
        // The outgoing direction of the victim is not concerned at all.
        scene.check_received(&received, (0, 0));
    }
    // A write that fits the quota never waits for anybody.
    let conn = scene.conn();
    let start = Stopwatch::start();
    for text in ["s8", "s9"] {
        let result = conn.write_with(text.as_bytes(), &Wait::new(), soon(PATIENCE));
        assert_eq!(result, Ok(2));
        scene.given.push(text.into());
    }
    start.expect_within(SLACK, "two writes that fit");
    // One that does not waits for its own deadline, and leaves nothing behind.
    let large = pattern(3, 3 * QUOTA as usize);
    let start = Stopwatch::start();
    let result = conn.write_with(&large, &Wait::new(), soon(PATIENCE));
    assert_eq!(result, Err(Error::TimedOut));
    start.expect_within(Duration::from_millis(PATIENCE) + SLACK, "one that does not");
    // And one without a deadline can be cancelled.
    scene.survivor().block(1, Blocking::Write(large), None);
    assert_eq!(scene.survivor().join(1, 50), None);
    assert!(until(SECOND, || scene.survivor().cancel_blocked(1)));
    let done = scene
        .survivor()
        .join(1, 1000)
        .expect("cancelled within a second");
    assert_eq!(done, Done::Failed(Error::Cancelled));

    scene.victim().child().signal(libc::SIGCONT);
    let answer = scene.victim().child().receive().expect("it goes on");
    assert!(
        matches!(answer, Reply::Number(_)),
        "the answer to the command it was stopped in"
    );
    let mut taken = Vec::new();
    let mut streamed = Vec::new();
    if point == Point::MidStream {
        // Somebody has to read for a stream to end.
        if asleep {
            match scene
                .survivor()
                .join(ASLEEP, 10_000)
                .expect("the stream arrives")
            {
                Done::Read(message, true) => streamed.push(message),
                other => panic!("{other:?}"),
            }
        } else {
            loop {
                let (piece, whole) = scene.read_part().expect("all that was sent");
                begun.extend(piece);
                if whole {
                    break;
                }
            }
            streamed.push(begun);
        }
    }
    match scene.victim().join(FATAL, 10_000).expect("the call ends") {
        Done::Wrote(n) => assert_eq!(n, scene.fatal_message().len()),
        Done::Read(message, true) => taken.push(message),
        other => panic!("the victim's call after SIGCONT: {other:?}"),
    }
    received.append(&mut streamed);
    if asleep && point != Point::MidStream {
        match scene
            .survivor()
            .join(ASLEEP, 1000)
            .expect("the sleeper is woken")
        {
            Done::Read(message, true) => received.insert(0, message),
            other => panic!("{other:?}"),
        }
    }
    // Every message of the survivor arrives, once, in order.
    while taken.len() < scene.given.len() {
        match scene.victim().try_read(64) {
            Done::Read(message, true) => taken.push(message),
            other => panic!(
                "after {:?} of {:?}: {other:?}",
                texts(&taken),
                texts(&scene.given)
            ),
        }
    }
    assert_eq!(texts(&taken), texts(&scene.given));
    assert_eq!(scene.victim().try_read(64), Done::Failed(Error::WouldBlock));
    // And every one of the victim.
    assert_eq!(scene.victim().try_write(b"last"), Done::Wrote(4));
    scene.sent.push(b"last".to_vec());
    while received.last().is_none_or(|m| m != b"last") {
        received.push(scene.read().expect("all that was sent"));
    }
    let once = if writes(point) { (1, 1) } else { (0, 0) };
    scene.check_received(&received, once);
    assert_eq!(scene.read(), Err(Error::TimedOut));
}

// ------------------------------------------------------------------------------------------------- a thread ended

fn thread_ended(point: Point, victim: End, asleep: bool) {
    let mut scene = Scene::new(point, victim, asleep);
    scene.pull(Action::ParkThread);
    let serial = match scene.victim().child().receive() {
        Some(Reply::Number(serial)) => u32::try_from(serial).expect("a serial"),
        other => panic!("{other:?}"),
    };
    assert!(
        until(5 * SECOND, || scene.victim().fired() > 0),
        "the point was never reached"
    );
    let index = match victim {
        End::Server => scene.rig.server_index,
        End::Client => scene.rig.client_index,
    };
    scene.rig.books.sweep(index, Some(serial));

    // The other threads go on writing,
    for text in ["m8", "m9"] {
        scene
            .victim()
            .block(20, Blocking::Write(text.into()), Some(1000));
        assert_eq!(
            scene.victim().join(20, 3000),
            Some(Done::Wrote(2)),
            "{text}"
        );
        scene.sent.push(text.into());
    }
    let mut received = Vec::new();
    if asleep {
        match scene
            .survivor()
            .join(ASLEEP, 1000)
            .expect("the sleeper is served")
        {
            Done::Read(message, true) => received.push(message),
            other => panic!("{other:?}"),
        }
    }
    while received.last().is_none_or(|m| m != b"m9") {
        received.push(scene.read().expect("all that was sent"));
    }
    scene.check_received(&received, in_flight(point));

    // and reading.
    scene.give("s8");
    scene.give("s9");
    let mut taken = Vec::new();
    while taken.last().is_none_or(|m| m != b"s9") {
        scene.victim().block(21, Blocking::Read(64), Some(1000));
        match scene
            .victim()
            .join(21, 3000)
            .expect("it ends by its deadline")
        {
            Done::Read(message, true) => taken.push(message),
            other => panic!(
                "after {:?} of {:?}: {other:?}",
                texts(&taken),
                texts(&scene.given)
            ),
        }
    }
    // A read that had been given its message has taken it with it; before that, nothing is lost.
    let given = texts(&scene.given);
    let without_first = given[1..].to_vec();
    let may_miss = matches!(point, Point::Matched | Point::CopiedOut);
    let got = texts(&taken);
    assert!(
        got == given || (may_miss && got == without_first),
        "{got:?} of {given:?}"
    );
    assert_eq!(scene.victim().try_read(64), Done::Failed(Error::WouldBlock));
    assert_eq!(scene.rig.books.reap(), [], "the process lives");
}

fn everywhere(point: Point, run: fn(Point, End, bool)) {
    within(120, move || {
        for victim in [End::Server, End::Client] {
            for asleep in arrangements(point) {
                eprintln!("{point:?}, the victim is the {victim:?}, the survivor sleeps: {asleep}");
                run(point, victim, *asleep);
            }
        }
    });
}

macro_rules! points {
    ($($name:ident: $point:ident;)*) => {
        mod sigkill {
            $(#[test] fn $name() { super::everywhere(super::Point::$point, super::killed); })*
        }
        mod sigstop {
            $(#[test] fn $name() { super::everywhere(super::Point::$point, super::stopped); })*
        }
        mod thread_end {
            $(#[test] fn $name() { super::everywhere(super::Point::$point, super::thread_ended); })*
        }

        #[test]
        fn every_point_has_its_tests() {
            assert_eq!(Point::ALL, [$(Point::$point),*]);
        }
    };
}

points! {
    with_the_producer_role: ProducerRole;
    with_the_consumer_role: ConsumerRole;
    with_the_match_lock: MatchLock;
    copied_and_not_committed: Copied;
    committed_and_not_booked: Committed;
    committed_and_not_rung: BeforeRing;
    with_a_record: RecordTaken;
    matched_and_not_copied: Matched;
    amid_a_stream: MidStream;
    copied_out_and_not_taken: CopiedOut;
}

/// The survivor's call is not the only one: the link goes on to serve other connections, and the slot comes back.
#[test]
fn the_link_serves_on_after_a_death() {
    within(60, || {
        let spec = ConnSpec::new(PipeType::Message, QUOTA);
        let mut rig = Rig::new(Place::ServerThere(child_exe!()), &spec);
        let index = rig.books.add_process(None).expect("room");
        let fd = rig.books.share().expect("a duplicate");
        let link = npfs_ringbuf::Link::attach(fd, index).expect("a sound link");
        let open = |grant| Conn::open(&link, &grant).expect("a grant of the books");
        let (_, ours, theirs) = rig.books.connect(&spec, index, index).expect("a slot");
        let (ours, theirs) = (open(ours), open(theirs));
        assert_eq!(ours.try_write(b"before"), Ok(6));
        rig.server.arm(Point::Copied, Action::Kill);
        rig.server.child().send(&Cmd::TryWrite(b"never".to_vec()));
        assert_eq!(rig.server.child().watch(5 * SECOND), Seen::Exited);
        assert!(until(SECOND, || !rig.books.reap().is_empty()));
        let mut buf = [0; 16];
        assert_eq!(theirs.try_read(&mut buf).map(Read::count), Ok(6));
        assert_eq!(theirs.try_write(b"after"), Ok(5));
        assert_eq!(ours.try_read(&mut buf).map(Read::count), Ok(5));
        // Its index is free again once it is swept, so that a link outlives any number of processes.
        for _ in 0..20 {
            let mut child =
                npfs_tests::Child::spawn(child_exe!(), rig.books.share().expect("a duplicate"));
            let index = rig
                .books
                .add_process(Some(child.pid()))
                .expect("an index is free");
            child.attach(index.get());
            drop(child);
            assert!(until(10 * SECOND, || rig.books.reap() == [index]));
        }
    });
}

/// Who dies in its first frame may have put some of it there, though nothing says so. Nobody who gets the memory later finds it.
#[test]
fn what_the_dead_have_not_committed_is_not_handed_on() {
    within(60, || {
        let spec = ConnSpec::new(PipeType::Message, QUOTA);
        let mut rig = Rig::new(Place::ServerThere(child_exe!()), &spec);
        rig.server.arm(Point::ProducerRole, Action::Kill);
        rig.server.child().send(&Cmd::TryWrite(b"x".to_vec()));
        assert_eq!(rig.server.child().watch(5 * SECOND), Seen::Exited);
        // As if it had copied and come no further.
        let file = std::fs::File::from(rig.books.share().expect("a duplicate"));
        let (at, secret) = (area_of(&mut rig, End::Client), b"never committed");
        file.write_all_at(secret, at).expect("write");
        assert!(until(SECOND, || !rig.books.reap().is_empty()));
        rig.books.close(rig.id, End::Client).expect("open");
        // The slot and its memory are the next one's.
        let own = rig.client_index;
        (rig.id, ..) = rig.books.connect(&spec, own, own).expect("a slot");
        rig.books.set_apart(rig.id).expect("alone");
        let areas = [End::Client, End::Server].map(|end| area_of(&mut rig, end));
        assert!(areas.contains(&at));
        let mut left = [1; 15];
        file.read_exact_at(&mut left, at).expect("read");
        assert_eq!(left, [0; 15]);
    });
}

/// Where the data lies that an end reads: the last numbers that a grant has of each reader, the client first.
fn area_of(rig: &mut Rig, reader: End) -> u64 {
    let grant = rig.books.grant(rig.id, reader).expect("open").to_bytes();
    let at = match reader {
        End::Client => Grant::SIZE - 48,
        End::Server => Grant::SIZE - 16,
    };
    u64::from_le_bytes(grant[at..at + 8].try_into().expect("eight bytes"))
}

/// The owner of a polled read (of an odd name: `Driver`) dies with it: as it begins, or as it takes its message. Nobody was to
/// ring for it; whoever is left hears of the death all the same.
#[test]
fn a_polled_read_ends_with_its_owner() {
    if std::env::var_os("NPFS_TEST_HOSTED").is_some() {
        return; // hosts poll no reads
    }
    within(60, || {
        let spec = ConnSpec::new(PipeType::Message, QUOTA);
        let points = [Point::RecordTaken, Point::ConsumerRole, Point::CopiedOut];
        for (point, action) in points
            .iter()
            .flat_map(|point| [(*point, Action::Kill), (*point, Action::Stop)])
        {
            let mut rig = Rig::new(Place::ServerThere(child_exe!()), &spec);
            if point == Point::RecordTaken {
                rig.server.arm(point, action);
                rig.server.child().send(&Cmd::StartRead(1, 64));
            } else {
                rig.server.start_read(1, 64).expect("it pends");
                rig.server.arm(point, action);
                assert_eq!(rig.client.try_write(b"abc"), Done::Wrote(3));
                rig.server.child().send(&Cmd::PollAll);
            }
            let seen = rig.server.child().watch(5 * SECOND);
            if action == Action::Stop {
                assert_eq!(seen, Seen::Stopped, "{point:?}");
                // It is believed to be awake: its quota can be filled, and nobody waits for its role.
                let filled = until(SECOND, || rig.client.try_write(&[7; 64]) != Done::Wrote(64));
                assert!(filled, "{point:?}");
                let start = Stopwatch::start();
                let info = rig.client.info().expect("connected");
                start.expect_within(SECOND, "counts");
                assert!(info.write_quota_available <= QUOTA, "{point:?}: {info:?}");
                rig.server.child().signal(libc::SIGKILL);
            } else {
                assert_eq!(seen, Seen::Exited, "{point:?}");
            }
            assert!(until(SECOND, || !rig.books.reap().is_empty()), "{point:?}");
            assert_eq!(rig.client.state(), State::Closing);
            assert_eq!(
                rig.client.try_write(b"x"),
                Done::Failed(Error::Closing),
                "NP-WRITE-01"
            );
            let start = Stopwatch::start();
            assert_eq!(
                rig.client.try_read(64),
                Done::Failed(Error::Broken),
                "NP-READ-04"
            );
            start.expect_within(SECOND, "a read");
        }
    });
}
