//! The loops: what is measured, written once and compiled for each transport.

use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::payload::{Checker, FULL, LAST, WARM, Writer};
use crate::transport::{Rx, Tx};

/// How one run goes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// bytes of a message
    pub(crate) size: usize,
    /// not counted, at least
    pub(crate) warm: Duration,
    /// nor the first [`WARM_BYTES`] of a stream, unless they take longer than this
    pub(crate) warm_most: Duration,
    /// counted
    pub(crate) run: Duration,
    pub(crate) clock: Clock,
}

/// What one end has to tell after a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The other end keeps time.
    Served,
    Trips(Trips),
    Flow(Flow),
    /// Of `serve`, the server's: CPU time, nanoseconds.
    Used(u64),
    /// The client's: what it counted, and all messages.
    Asked(Flow, u64),
}

impl Outcome {
    /// What both ends have told.
    pub(crate) fn of_both(server: Outcome, client: Outcome) -> Outcome {
        match (server, client) {
            (Outcome::Used(nanos), Outcome::Asked(flow, all)) => Outcome::Flow(Flow {
                used: Some(nanos as f64 / all.max(1) as f64),
                ..flow
            }),
            (server, Outcome::Served) => server,
            (_, client) => client,
        }
    }
}

/// Round trips, seen by the client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trips {
    /// `(tenths of a nanosecond, how often)`: single trips
    pub(crate) single: Vec<(u64, u64)>,
    /// the same per trip of whole batches that held no look at the clock: what the clock adds to
    /// a single trip shows as the difference
    pub(crate) batched: Vec<(u64, u64)>,
}

/// A one-way stream, seen by the receiver.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) messages: u64,
    /// between the first counted message and the last
    pub(crate) nanos: u64,
    /// CPU time of the server for each message, nanoseconds, where it is measured
    pub(crate) used: Option<f64>,
}

/// Round trips between two looks at the run's end; timed one by one and as a whole in turn.
const BATCH: usize = 64;

/// Each of the first messages is compared in full.
const FULL_AT_START: u64 = 64;

/// Then one in so many round trips (rare enough to stay out of p99.9), ...
const TRIPS_PER_FULL: u64 = 4096;

/// ... and one in so many bytes of a stream.
const BYTES_PER_FULL: u64 = 256 << 10;

/// A stream has a steady state once its memory has been walked through: the area of a pipe with
/// the big quota is 32 times that quota, and its first lap touches fresh pages.
const WARM_BYTES: u64 = 144 << 20;

/// Below this size of a message a stream of [`WARM_BYTES`] takes too long, and its queue is small.
const WARM_BYTES_FROM: u64 = 4096;

/// An empty histogram of tenths of a nanosecond: three digits, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds are in order")
}

/// Cycles of something that takes microseconds, timed one by one.
pub(crate) fn cycles(pace: &Pace, mut cycle: impl FnMut() -> Result<()>) -> Result<Trips> {
    let clock = pace.clock;
    let mut single = histogram();
    let mut until = clock.now() + clock.ticks_in(pace.warm);
    while clock.now() < until {
        cycle()?;
    }
    let mut before = clock.now();
    until = before + clock.ticks_in(pace.run);
    while before < until {
        cycle()?;
        let now = clock.now();
        single.saturating_record(clock.tenths(now - before).max(1));
        before = now;
    }
    let single = counts(&single);
    Ok(Trips {
        batched: single.clone(),
        single,
    })
}

/// Client of the round trip.
pub(crate) fn ping(tx: &mut impl Tx, rx: &mut impl Rx, pace: &Pace) -> Result<Trips> {
    let clock = pace.clock;
    let mut buf = vec![0; pace.size];
    let (mut writer, mut checker) = (Writer::new(pace.size), Checker::new(pace.size));
    let mut trip = |marks: u64| -> Result<()> {
        let count = writer.count();
        let full = count < FULL_AT_START || count % TRIPS_PER_FULL == TRIPS_PER_FULL - 1;
        let marks = if full { marks | FULL } else { marks };
        tx.send(writer.next(marks))?;
        let length = rx.recv(&mut buf)?;
        ensure!(
            checker.check(&buf[..length])? == marks,
            "the echo changed its marks"
        );
        Ok(())
    };
    let mut until = clock.now() + clock.ticks_in(pace.warm);
    while clock.now() < until {
        for _ in 0..BATCH {
            trip(WARM)?;
        }
    }
    let (mut single, mut batched) = (histogram(), histogram());
    let mut samples = [0; BATCH];
    until = clock.now() + clock.ticks_in(pace.run);
    loop {
        let mut before = clock.now();
        for sample in &mut samples {
            trip(0)?;
            let now = clock.now();
            *sample = now - before;
            before = now;
        }
        for sample in samples {
            single.saturating_record(clock.tenths(sample).max(1));
        }
        // Recording has warmed nothing that a trip needs; one trip settles both ends again.
        trip(0)?;
        let before = clock.now();
        for _ in 0..BATCH {
            trip(0)?;
        }
        let after = clock.now();
        batched.saturating_record((clock.tenths(after - before) / BATCH as u64).max(1));
        if after >= until {
            break;
        }
        trip(0)?;
    }
    trip(LAST)?;
    Ok(Trips {
        single: counts(&single),
        batched: counts(&batched),
    })
}

/// Server of the round trip.
pub(crate) fn echo(tx: &mut impl Tx, rx: &mut impl Rx, pace: &Pace) -> Result<()> {
    let mut buf = vec![0; pace.size];
    let mut checker = Checker::new(pace.size);
    loop {
        let length = rx.recv(&mut buf)?;
        let marks = checker.check(&buf[..length])?;
        tx.send(&buf[..length])?;
        if marks & LAST != 0 {
            return Ok(());
        }
    }
}

/// Sender of the stream.
pub(crate) fn pour(tx: &mut impl Tx, rx: &mut impl Rx, pace: &Pace) -> Result<()> {
    let mut source = Source::new(pace);
    loop {
        let (message, marks) = source.next();
        tx.send(message)?;
        if marks & LAST != 0 {
            break;
        }
    }
    // The receiver says that it has all, so that nothing is torn down under it.
    let mut farewell = vec![0; pace.size];
    let length = rx.recv(&mut farewell)?;
    Checker::new(pace.size).check(&farewell[..length]).map(drop)
}

/// Receiver of the stream.
pub(crate) fn drain(tx: &mut impl Tx, rx: &mut impl Rx, pace: &Pace) -> Result<Flow> {
    let mut sink = Sink::new(pace);
    let mut buf = vec![0; pace.size];
    loop {
        if let Some(flow) = rx.look(&mut buf, |message| sink.take(message))?? {
            tx.send(Writer::new(pace.size).next(FULL))?;
            return Ok(flow);
        }
    }
}

/// Sender and receiver in one thread, in turn.
pub(crate) fn alone(both: &mut (impl Tx + Rx), pace: &Pace) -> Result<Flow> {
    let (mut source, mut sink) = (Source::new(pace), Sink::new(pace));
    let mut buf = vec![0; pace.size];
    loop {
        both.send(source.next().0)?;
        let length = both.recv(&mut buf)?;
        if let Some(flow) = sink.take(&buf[..length])? {
            return Ok(flow);
        }
    }
}

/// One end of an idle pair: sleeps in a read until a message comes, then answers it.
pub(crate) fn sleep_and_answer(tx: &mut impl Tx, rx: &mut impl Rx, size: usize) -> Result<()> {
    let mut buf = vec![0; size];
    let length = rx.recv(&mut buf)?;
    Checker::new(size).check(&buf[..length])?;
    tx.send(Writer::new(size).next(FULL))
}

/// Makes the messages of a stream: when to warm up, to count, to stop.
struct Source {
    writer: Writer,
    clock: Clock,
    warm_until: u64,
    warm_latest: u64,
    warm_messages: u64,
    run_ticks: u64,
    run_until: u64,
    marks: u64,
    /// messages between two looks at the clock, less one; a power of two less one
    look_mask: u64,
    full_every: u64,
}

impl Source {
    fn new(pace: &Pace) -> Source {
        let clock = pace.clock;
        let size = pace.size as u64;
        let now = clock.now();
        let walks = size >= WARM_BYTES_FROM;
        Source {
            writer: Writer::new(pace.size),
            clock,
            warm_until: now + clock.ticks_in(pace.warm),
            warm_latest: now + clock.ticks_in(pace.warm_most),
            warm_messages: if walks { WARM_BYTES / size } else { 0 },
            run_ticks: clock.ticks_in(pace.run),
            run_until: u64::MAX,
            marks: WARM,
            look_mask: (16 * 1024 / size).max(1).next_power_of_two() - 1,
            full_every: (BYTES_PER_FULL / size).max(64),
        }
    }

    #[inline]
    fn next(&mut self) -> (&[u8], u64) {
        let count = self.writer.count();
        if count & self.look_mask == 0 {
            let now = self.clock.now();
            let walked = count >= self.warm_messages || now >= self.warm_latest;
            if self.marks == WARM && walked && now >= self.warm_until {
                self.marks = 0;
                self.run_until = now + self.run_ticks;
            } else if self.marks == 0 && now >= self.run_until {
                self.marks = LAST;
            }
        }
        let full = count < FULL_AT_START || count.is_multiple_of(self.full_every);
        let marks = if full { self.marks | FULL } else { self.marks };
        (self.writer.next(marks), marks)
    }
}

/// Checks the messages of a stream and keeps time.
struct Sink {
    checker: Checker,
    clock: Clock,
    since: Option<u64>,
    messages: u64,
}

impl Sink {
    fn new(pace: &Pace) -> Sink {
        Sink {
            checker: Checker::new(pace.size),
            clock: pace.clock,
            since: None,
            messages: 0,
        }
    }

    /// The result, once the last message has come.
    #[inline]
    fn take(&mut self, message: &[u8]) -> Result<Option<Flow>> {
        let marks = self.checker.check(message)?;
        if marks & WARM != 0 {
            return Ok(None);
        }
        let Some(since) = self.since else {
            // Starts the clock, and is not counted itself.
            self.since = Some(self.clock.now());
            ensure!(marks & LAST == 0, "nothing was sent but the last message");
            return Ok(None);
        };
        self.messages += 1;
        if marks & LAST == 0 {
            return Ok(None);
        }
        let nanos = self.clock.nanos(self.clock.now() - since).max(1);
        Ok(Some(Flow {
            messages: self.messages,
            nanos,
            used: None,
        }))
    }
}

fn counts(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|at| (at.value_iterated_to(), at.count_at_value()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::baselines::{prepare, ring_in_frame, ring_index, stream};
    use crate::transport::{Kind, Parts, Role};

    fn pace(size: usize) -> Pace {
        let (warm, run) = (Duration::from_millis(2), Duration::from_millis(10));
        Pace {
            size,
            warm,
            warm_most: warm,
            run,
            clock: Clock::calibrate(),
        }
    }

    type Halves<H> = (H, H);

    /// Runs both workloads between two threads.
    fn exercise<H: Tx + Rx>(
        kind: Kind,
        size: usize,
        open: impl Fn(Parts, Role) -> Result<Halves<H>> + Sync,
    ) {
        let pace = pace(size);
        let [server, client] = prepare(kind, size, false, true).unwrap();
        let trips = thread::scope(|scope| {
            scope.spawn(|| {
                let (mut tx, mut rx) = open(server, Role::Server).unwrap();
                echo(&mut tx, &mut rx, &pace).unwrap();
            });
            let (mut tx, mut rx) = open(client, Role::Client).unwrap();
            ping(&mut tx, &mut rx, &pace).unwrap()
        });
        assert!(trips.single.iter().map(|(_, count)| count).sum::<u64>() >= BATCH as u64);
        let [server, client] = prepare(kind, size, true, true).unwrap();
        let flow = thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut tx, mut rx) = open(server, Role::Server).unwrap();
                drain(&mut tx, &mut rx, &pace).unwrap()
            });
            let (mut tx, mut rx) = open(client, Role::Client).unwrap();
            pour(&mut tx, &mut rx, &pace).unwrap();
            server.join().unwrap()
        });
        // How long that took is for the scheduler to say.
        assert!(flow.messages > 0 && flow.nanos > 0, "{flow:?}");
    }

    #[test]
    fn rings_and_sockets_carry_both_workloads() {
        for size in [16, 48, 4096] {
            let capacity = 64 << 10;
            exercise(Kind::RingIndex { capacity }, size, ring_index::open);
            exercise(Kind::RingInFrame { capacity }, size, ring_in_frame::open);
            exercise(Kind::Pipe, size, |parts, _| stream::open(parts));
            exercise(Kind::UnixStream, size, |parts, _| stream::open(parts));
            exercise(Kind::UnixSeqpacket, size, |parts, _| stream::open(parts));
        }
    }

    #[test]
    fn a_message_as_big_as_the_ring_goes_through() {
        let capacity = 64 << 10;
        exercise(Kind::RingIndex { capacity }, 64 << 10, ring_index::open);
        exercise(
            Kind::RingInFrame { capacity },
            64 << 10,
            ring_in_frame::open,
        );
    }
}
