//! The queue against the naive model: random programs of both ends, in one process and in two.
//!
//! Every operation is started, never blocked in. After each step both ends are polled until everything the model has
//! completed is over, and twice more to see that nothing else is; then statuses, counts and data must be the model's.
//!
//! Left out of the programs, because the specification leaves it open (its section 28) or the design streams there:
//! - zero-length reads in byte read mode in front of an empty message;
//! - QUEUE to COMPLETE while only empty messages are unread (NP-INFO-07 is of low confidence);
//! - a change of read mode under a pended transaction;
//! - closing over an own write that has not found room (NP-CLOSE-03 is of low confidence, and what has not been placed goes
//!   with its owner);
//! - try writes, COMPLETE writes and transactions that meet more than a quarter of the data area.
//!
//! Where a direction's unread data, with the holes that cancelled writes left in it, is more than a quarter of its area,
//! the model gives way as far as the area's limit makes the queue deviate, and no further:
//! - NP-READ-01, 07, 09: a read that does not wait (COMPLETE, or a try call) takes what is placed of a longer write, at
//!   least what a peek shows; in message mode that is a part of the message;
//! - NP-PEEK-06: a peek shows what is placed; its counts are exact;
//! - NP-WRITE-07, NP-CANCEL-03: a write that the quota admits and the area does not completes when there is room, because
//!   what is cancelled between other entries gives its room back only when the reader comes to it.

use npfs_ringbuf::books::ConnSpec;
use npfs_ringbuf::{CompletionMode, End, Error, PipeType, ReadMode};
use npfs_tests::cmd::Done;
use npfs_tests::model::{
    self, CLIENT, Completion, Fail, Kind, Model, Outcome, SERVER, Started, Who,
};
use npfs_tests::party::{Party, Place, Rig};
use npfs_tests::{child_exe, pattern, within};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;

const QUOTAS: &[usize] = &[0, 1, 2, 5, 512, 5000, 65536];

/// Operations that pend in one direction at most: the shared table has room for 16.
const PENDED: usize = 14;

#[derive(Clone, Copy, Debug)]
enum Length {
    Exactly(usize),
    /// the quota of the direction, and this much more or less
    Quota(isize),
    /// so many sixteenths of the data area, and some bytes
    Sixteenths(usize, usize),
}

#[derive(Clone, Debug)]
enum Step {
    Read {
        who: Who,
        len: Length,
        attempt: bool,
    },
    Write {
        who: Who,
        len: Length,
        attempt: bool,
    },
    Flush {
        who: Who,
    },
    Transact {
        who: Who,
        request: usize,
        room: usize,
    },
    Cancel {
        who: Who,
        pick: usize,
    },
    Forget {
        who: Who,
        pick: usize,
    },
    SetModes {
        who: Who,
        read: Kind,
        completion: Completion,
    },
    Peek {
        who: Who,
        room: usize,
    },
    Close {
        who: Who,
    },
    Disconnect,
}

#[derive(Clone, Debug)]
struct Program {
    kind: Kind,
    /// client to server, server to client
    quotas: [usize; 2],
    read_modes: [Kind; 2],
    steps: Vec<Step>,
}

fn length() -> impl Strategy<Value = Length> {
    prop_oneof![
        8 => (0_usize..6).prop_map(Length::Exactly),
        4 => (-2_isize..=2).prop_map(Length::Quota),
        4 => (0_usize..2000).prop_map(Length::Exactly),
        1 => (4000_usize..70_000).prop_map(Length::Exactly),
        1 => (1_usize..=44, 0_usize..100).prop_map(|(n, more)| Length::Sixteenths(n, more)),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Byte), Just(Kind::Message)]
}

fn completion() -> impl Strategy<Value = Completion> {
    prop_oneof![2 => Just(Completion::Queue), 1 => Just(Completion::Complete)]
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_usize..2;
    prop_oneof![
        20 => (who(), length(), any::<bool>())
            .prop_map(|(who, len, attempt)| Step::Read { who, len, attempt }),
        24 => (who(), length(), prop::bool::weighted(0.3))
            .prop_map(|(who, len, attempt)| Step::Write { who, len, attempt }),
        4 => who().prop_map(|who| Step::Flush { who }),
        5 => (who(), 0_usize..1500, 0_usize..600)
            .prop_map(|(who, request, room)| Step::Transact { who, request, room }),
        6 => (who(), 0_usize..16).prop_map(|(who, pick)| Step::Cancel { who, pick }),
        2 => (who(), 0_usize..16).prop_map(|(who, pick)| Step::Forget { who, pick }),
        4 => (who(), kind(), completion())
            .prop_map(|(who, read, completion)| Step::SetModes { who, read, completion }),
        5 => (who(), 0_usize..900).prop_map(|(who, room)| Step::Peek { who, room }),
        1 => who().prop_map(|who| Step::Close { who }),
        1 => Just(Step::Disconnect),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let quota = || prop::sample::select(QUOTAS);
    (
        kind(),
        [quota(), quota()],
        [kind(), kind()],
        prop::collection::vec(step(), 1..60),
    )
        .prop_map(|(kind, quotas, read_modes, steps)| Program {
            kind,
            quotas,
            read_modes,
            steps,
        })
}

fn fail_of(error: Error) -> Result<Fail, String> {
    Ok(match error {
        Error::WouldBlock => Fail::WouldBlock,
        Error::Empty => Fail::Empty,
        Error::Broken => Fail::Broken,
        Error::Closing => Fail::Closing,
        Error::Disconnected => Fail::Disconnected,
        Error::Stale => Fail::Stale,
        Error::Cancelled => Fail::Cancelled,
        Error::PipeBusy => Fail::PipeBusy,
        Error::InvalidState => Fail::InvalidState,
        Error::InvalidMode => Fail::InvalidMode,
        other => return Err(format!("the model knows no {other:?}")),
    })
}

fn outcome_of(done: Done) -> Result<Outcome, String> {
    Ok(match done {
        Done::Read(data, whole) => Outcome::Read(data, whole),
        Done::Wrote(n) => Outcome::Wrote(n),
        Done::Flushed => Outcome::Flushed,
        Done::Failed(error) => Outcome::Failed(fail_of(error)?),
    })
}

fn state_of(state: npfs_ringbuf::State) -> model::State {
    match state {
        npfs_ringbuf::State::Connected => model::State::Connected,
        npfs_ringbuf::State::Closing => model::State::Closing,
        npfs_ringbuf::State::Disconnected => model::State::Disconnected,
    }
}

/// Long data is not worth reading in a report.
fn brief(value: &impl std::fmt::Debug) -> String {
    shorten(format!("{value:?}"))
}

fn brief_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Read(data, whole) if data.len() > 16 => {
            format!("Read({} bytes from {:?}, {whole})", data.len(), &data[..16])
        }
        other => brief(other),
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > 400 {
        let mut cut = 400;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        text.truncate(cut);
        text.push('…');
    }
    text
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, expected: &T) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    Err(format!(
        "{what}: got {}, the model says {}",
        brief(got),
        brief(expected)
    ))
}

/// The lengths an area can have are known from the design: a power of two of at least 32 quotas and 64 KiB.
fn area(quota: usize) -> usize {
    (32 * quota).max(1 << 16).next_power_of_two()
}

struct Run<'a> {
    rig: &'a mut Rig,
    model: Model,
    quotas: [usize; 2],
    next_op: u32,
    transacting: BTreeSet<u32>,
    /// what the model has completed and polls have still to show
    owed: Vec<(Who, u32, Outcome)>,
    /// bytes of cancelled writes in each direction since it was last empty: they may still take room
    holes: [usize; 2],
}

impl Run<'_> {
    fn party(&mut self, who: Who) -> &mut Party {
        self.rig.end(if who == SERVER {
            End::Server
        } else {
            End::Client
        })
    }

    fn length(&self, direction: Who, len: Length) -> usize {
        let quota = self.quotas[direction];
        match len {
            Length::Exactly(n) => n,
            Length::Quota(delta) => quota.saturating_add_signed(delta),
            Length::Sixteenths(n, more) => area(quota) / 16 * n + more,
        }
    }

    /// Whether so many bytes more may have to stream.
    fn may_stream(&self, direction: Who, len: usize) -> bool {
        let taken = self.model.unread(direction) + self.holes[direction];
        taken + len > area(self.quotas[direction]) / 4
    }

    /// A read that does not wait, where data may stream: it takes what is placed, which is what a peek shows
    /// (NP-READ-01; the rest is in its writer's memory only, and stays for the next read).
    fn read_what_is_placed(&mut self, who: Who, op: u32, len: usize) -> Result<(), String> {
        let mut len = len;
        let mut placed = 0;
        if let Ok((peek, _)) = self.party(who).peek(len) {
            placed = peek.copied;
            if self.model.kind() == Kind::Message && self.model.read_mode(who) == Kind::Byte {
                // Which of the empty messages behind are placed no peek shows.
                len = placed;
            }
        }
        let got = outcome_of(self.party(who).try_read(len))?;
        let attempt = self.model.completion(who) == Completion::Queue;
        let mut expected = self.model.clone().read(who, op, len, attempt);
        if let (Outcome::Read(data, _), Started::Over(Outcome::Read(all, _))) = (&got, &expected)
            && (placed..all.len()).contains(&data.len())
        {
            len = data.len();
        }
        expected = self.model.read(who, op, len, attempt);
        same("a read without waiting", &Started::Over(got), &expected)
    }

    /// What a start answered, against the model; what is over at once is still owed by a poll.
    fn started(
        &mut self,
        what: &str,
        who: Who,
        op: u32,
        got: Result<(), Error>,
        expected: Started,
    ) -> Result<(), String> {
        let got = got.map_err(fail_of);
        let got = match got {
            Ok(()) => Ok(()),
            Err(fail) => Err(fail?),
        };
        let expected = match expected {
            Started::Over(Outcome::Failed(fail)) => Err(fail),
            Started::Over(outcome) => {
                self.owed.push((who, op, outcome));
                Ok(())
            }
            Started::Pends => Ok(()),
        };
        same(what, &got, &expected)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let op = self.next_op;
        self.next_op += 1;
        match *step {
            Step::Read { who, len, attempt } => {
                let from = 1 - who;
                let len = self.length(from, len);
                if self.model.pended(from) >= PENDED
                    || (len == 0
                        && self.model.read_mode(who) == Kind::Byte
                        && self.model.first_is_empty(from))
                {
                    return Ok(());
                }
                let waits = !attempt && self.model.completion(who) == Completion::Queue;
                if !waits && self.may_stream(from, 0) {
                    self.read_what_is_placed(who, op, len)
                } else if attempt {
                    let expected = self.model.read(who, op, len, true);
                    let got = outcome_of(self.party(who).try_read(len))?;
                    same("try_read", &Started::Over(got), &expected)
                } else {
                    let expected = self.model.read(who, op, len, false);
                    let got = self.party(who).start_read(op, len);
                    self.started("start_read", who, op, got, expected)
                }
            }
            Step::Write { who, len, attempt } => {
                let mut len = self.length(who, len);
                if self.model.pended(who) >= PENDED {
                    return Ok(());
                }
                if self.model.completion(who) == Completion::Complete && self.may_stream(who, len) {
                    len = area(self.quotas[who]) / 8;
                }
                let data = pattern(u64::from(op), len);
                if attempt && !self.may_stream(who, len) {
                    let expected = self.model.write(who, op, &data, true);
                    let got = outcome_of(self.party(who).try_write(&data))?;
                    same("try_write", &Started::Over(got), &expected)
                } else {
                    let expected = self.model.write(who, op, &data, false);
                    let got = self.party(who).start_write(op, &data);
                    self.started("start_write", who, op, got, expected)
                }
            }
            Step::Flush { who } => {
                if self.model.pended(who) >= PENDED {
                    return Ok(());
                }
                let expected = self.model.flush(who, op);
                let got = self.party(who).start_flush(op);
                self.started("start_flush", who, op, got, expected)
            }
            Step::Transact { who, request, room } => {
                if self.model.pended(who) >= PENDED
                    || self.model.pended(1 - who) >= PENDED
                    || self.may_stream(who, request)
                {
                    return Ok(());
                }
                let data = pattern(u64::from(op), request);
                let expected = self.model.transact(who, op, &data, room);
                if expected == Started::Pends {
                    self.transacting.insert(op);
                }
                let got = self.party(who).start_transact(op, &data, room);
                self.started("start_transact", who, op, got, expected)
            }
            Step::Cancel { who, pick } | Step::Forget { who, pick } => {
                let ops = self.model.pended_ops(who);
                if ops.is_empty() {
                    return Ok(());
                }
                let op = ops[pick % ops.len()];
                let before = self.model.unread(who);
                let expected = self.model.cancel(who, op);
                self.holes[who] += before - self.model.unread(who);
                if matches!(step, Step::Cancel { .. }) {
                    let got = self.party(who).cancel(op);
                    return same("cancel", &got, &expected);
                }
                // Nobody is told how a dropped operation ended; the others are.
                self.model.done.retain(|(w, o, _)| (*w, *o) != (who, op));
                self.party(who).forget(op);
                Ok(())
            }
            Step::SetModes {
                who,
                read,
                completion,
            } => {
                let pended = self.model.pended_ops(who);
                let to_complete = completion == Completion::Complete;
                if pended.iter().any(|op| self.transacting.contains(op))
                    || (to_complete && self.model.only_empty(who))
                {
                    return Ok(());
                }
                let expected = self.model.set_modes(who, read, completion);
                let got = self.party(who).set_modes(
                    match read {
                        Kind::Byte => ReadMode::Byte,
                        Kind::Message => ReadMode::Message,
                    },
                    match completion {
                        Completion::Queue => CompletionMode::Queue,
                        Completion::Complete => CompletionMode::Complete,
                    },
                );
                let got = match got {
                    Ok(()) => Ok(()),
                    Err(error) => Err(fail_of(error)?),
                };
                same("set_modes", &got, &expected)
            }
            Step::Peek { who, room } => {
                let got = match self.party(who).peek(room) {
                    Ok((peek, data)) => Ok(model::Peek {
                        state: state_of(peek.state),
                        available: usize::try_from(peek.available).expect("a count"),
                        messages: peek.messages as usize,
                        message_len: usize::try_from(peek.message_len).expect("a length"),
                        data,
                        partial: peek.partial,
                    }),
                    Err(error) => Err(fail_of(error)?),
                };
                // What has not been placed yet can be counted but not shown: only the first byte always is, and some
                // more where no cancelled write has left a hole.
                let room = match &got {
                    Ok(peek) if self.may_stream(1 - who, 0) => {
                        let placed = if self.holes[1 - who] == 0 { 64 } else { 1 };
                        room.min(peek.data.len().max(placed))
                    }
                    _ => room,
                };
                let expected = self.model.peek(who, room);
                same("peek", &got, &expected)
            }
            Step::Close { who } => {
                if self.may_stream(who, 0) {
                    return Ok(());
                }
                self.model.close(who);
                self.party(who).close();
                Ok(())
            }
            Step::Disconnect => {
                let expected = self.model.disconnect();
                let got = match self.rig.server.disconnect() {
                    Ok(()) => Ok(()),
                    Err(error) => Err(fail_of(error)?),
                };
                same("disconnect", &got, &expected)
            }
        }
    }

    /// Polls both ends until all that is owed has come, and twice more.
    fn settle(&mut self) -> Result<(), String> {
        self.owed.append(&mut self.model.done);
        let streaming = self.model.unread(CLIENT) + self.model.unread(SERVER);
        let owed: usize = self.owed.iter().map(|(_, _, o)| weight(o)).sum();
        // A round moves a fragment at least; the bound is only there so that a stuck transfer is seen.
        let rounds = 64 + (streaming + owed) / 1024;
        let mut got = Vec::new();
        let mut idle = 0;
        for _ in 0..rounds {
            for who in [CLIENT, SERVER] {
                for (op, done) in self.party(who).poll_all() {
                    got.push((who, op, outcome_of(done)?));
                }
            }
            if got.len() >= self.owed.len() {
                idle += 1;
            }
            if idle == 3 {
                break;
            }
        }
        let by_name =
            |list: &mut Vec<(Who, u32, Outcome)>| list.sort_by_key(|(who, op, _)| (*who, *op));
        let mut owed = std::mem::take(&mut self.owed);
        by_name(&mut owed);
        by_name(&mut got);
        // A write that the quota admits and the area does not completes when there is room.
        let (late, owed): (Vec<_>, Vec<_>) = owed.into_iter().partition(|done| {
            let (who, _, outcome) = done;
            matches!(outcome, Outcome::Wrote(_)) && self.may_stream(*who, 0) && !got.contains(done)
        });
        self.owed = late;
        for who in [CLIENT, SERVER] {
            if self.model.unread(who) == 0 && !self.model.only_empty(who) {
                self.holes[who] = 0;
            }
        }
        if got == owed {
            return Ok(());
        }
        let names = |list: &[(Who, u32, Outcome)]| -> Vec<String> {
            list.iter()
                .map(|(who, op, o)| format!("{who}/{op}: {}", brief_outcome(o)))
                .collect()
        };
        Err(format!(
            "completed: got {:#?}, the model says {:#?}",
            names(&got),
            names(&owed)
        ))
    }

    fn counts(&mut self) -> Result<(), String> {
        for who in [CLIENT, SERVER] {
            let expected = self.model.info(who);
            let got = match self.party(who).info() {
                Ok(info) => Ok(model::Info {
                    state: state_of(info.state),
                    readable: usize::try_from(info.read_available).expect("a count"),
                    writable: info.write_quota_available as usize,
                    messages: info.messages as usize,
                }),
                Err(error) => Err(fail_of(error)?),
            };
            same(&format!("info of {who}"), &got, &expected)?;
        }
        Ok(())
    }
}

fn weight(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Read(data, _) => data.len(),
        Outcome::Wrote(n) => *n,
        Outcome::Flushed | Outcome::Failed(_) => 0,
    }
}

fn spec_of(program: &Program) -> ConnSpec {
    let quota = |n: usize| u32::try_from(n).expect("a quota");
    let pipe_type = match program.kind {
        Kind::Byte => PipeType::Byte,
        Kind::Message => PipeType::Message,
    };
    ConnSpec {
        inbound_quota: quota(program.quotas[CLIENT]),
        outbound_quota: quota(program.quotas[SERVER]),
        ..ConnSpec::new(pipe_type, 0)
    }
}

fn run(rig: &mut Rig, program: &Program) -> Result<(), String> {
    let [inbound, outbound] = program.quotas;
    let mut run = Run {
        rig,
        model: Model::new(program.kind, inbound, outbound),
        quotas: program.quotas,
        next_op: 1,
        transacting: BTreeSet::new(),
        owed: Vec::new(),
        holes: [0; 2],
    };
    let modes = [CLIENT, SERVER].map(|who| Step::SetModes {
        who,
        read: program.read_modes[who],
        completion: Completion::Queue,
    });
    for (at, step) in modes.iter().chain(&program.steps).enumerate() {
        let mut check = || {
            run.step(step)?;
            run.settle()?;
            run.counts()
        };
        check().map_err(|e| format!("step {} ({step:?}): {e}", at as isize - 2))?;
    }
    Ok(())
}

/// Runs random programs; a rig that has seen a failure is not used again.
fn run_all(cases: u32, place: Place<'static>) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rig: RefCell<Option<Rig>> = RefCell::new(None);
    let mut runner = TestRunner::new(config);
    let result = runner.run(&program(), |program| {
        let spec = spec_of(&program);
        let mut rig_now = match rig.take() {
            Some(mut rig) => {
                rig.renew(&spec);
                rig
            }
            None => Rig::new(place, &spec),
        };
        run(&mut rig_now, &program).map_err(TestCaseError::fail)?;
        rig.replace(Some(rig_now));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// PROPTEST_CASES multiplies nothing: it replaces.
fn cases(otherwise: u32) -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(otherwise)
}

/// Seconds that so many programs may take.
fn limit(cases: u32) -> u64 {
    600.max(u64::from(cases) / 10)
}

#[test]
fn random_programs_in_one_process() {
    let cases = cases(2000);
    within(limit(cases), move || run_all(cases, Place::OneProcess));
}

#[test]
fn random_programs_in_two_processes() {
    let cases = cases(150);
    within(limit(cases), move || {
        run_all(cases, Place::TwoProcesses(child_exe!()))
    });
}

/// Programs that random runs have found, and that a change of the frequencies must not lose.
#[test]
fn programs_that_failed_before() {
    let read = |who, len| Step::Read {
        who,
        len: Length::Exactly(len),
        attempt: false,
    };
    let write = |who, len| Step::Write {
        who,
        len: Length::Exactly(len),
        attempt: false,
    };
    let to_complete = |who| Step::SetModes {
        who,
        read: Kind::Byte,
        completion: Completion::Complete,
    };
    let bytes = |quotas, steps| Program {
        kind: Kind::Byte,
        quotas,
        read_modes: [Kind::Byte; 2],
        steps,
    };
    let messages = |quotas, steps| Program {
        kind: Kind::Message,
        ..bytes(quotas, steps)
    };
    let last = |who| Step::Cancel { who, pick: 0 };
    let programs = [
        // A header that fell on the skip frame of a restart (an aligned frame of just that length in the next lap).
        bytes(
            [0, 65536],
            vec![
                read(0, 1),
                write(1, 65536),
                read(0, 65536),
                read(1, 0),
                write(1, 65536),
                write(1, 1),
                read(0, 0),
            ],
        ),
        // NP-READ-17, NP-WRITE-11: a read of no bytes behind one that takes some, and a remainder that is dropped.
        bytes(
            [0, 0],
            vec![to_complete(0), read(1, 1), read(1, 0), write(0, 2)],
        ),
        // NP-CANCEL-03: room that a cancelled write had, behind a byte that is not read.
        bytes(
            [512, 0],
            vec![write(0, 1), write(0, 65473), last(0), write(0, 1)],
        ),
        // NP-WRITE-04: an empty message outlives the stream in front of it.
        messages(
            [0, 0],
            vec![write(0, 65536), write(0, 0), last(0), read(1, 1)],
        ),
        // NP-PEEK-06: what a cancelled write has left of the area takes one byte less than a peek asks for.
        bytes(
            [0, 0],
            vec![
                write(0, 1),
                write(0, 65417),
                write(0, 57),
                Step::Cancel { who: 0, pick: 1 },
                Step::Peek { who: 1, room: 58 },
            ],
        ),
    ];
    within(120, move || {
        for place in [Place::OneProcess, Place::TwoProcesses(child_exe!())] {
            for (at, program) in programs.iter().enumerate() {
                let mut rig = Rig::new(place, &spec_of(program));
                if let Err(error) = run(&mut rig, program) {
                    panic!("program {at}: {error}");
                }
            }
        }
    });
}
