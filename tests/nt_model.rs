//! Random programs of native calls, against the naive model of all of NPFS (`model/whole.rs`): same statuses, counts and
//! data, and what pends completes when the model says so, before the call that completes it returns (NP-IO-13); listens
//! and waits, which the broker answers, a moment later at the most.

use std::time::{Duration, Instant};

use npfs::nt::*;
use npfs::{Broker, BrokerOptions, Mask, NtStatus};
use npfs_tests::model::whole::{self, Answer, Direction, File, World, status};
use npfs_tests::model::{Completion, Kind};
use npfs_tests::{Remote, Site, Table, child_exe, pattern, within};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// One call. Handles and operations are picked among those that there are.
#[derive(Clone, Debug)]
enum Step {
    Create(Option<u8>, whole::Create),
    Open(u8, (bool, bool)),
    OpenAt(usize, (bool, bool)),
    Close(usize),
    Read(usize, usize),
    Write(usize, usize),
    Flush(usize),
    Peek(usize, usize),
    Transceive(usize, usize, usize),
    Listen(usize),
    Disconnect(usize),
    Wait(usize, u8, bool),
    Cancel(usize),
    SetModes(usize, Kind, Completion),
    Local(usize),
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Byte), Just(Kind::Message)]
}

fn completions() -> impl Strategy<Value = Completion> {
    prop_oneof![4 => Just(Completion::Queue), 1 => Just(Completion::Complete)]
}

fn directions() -> impl Strategy<Value = Direction> {
    prop_oneof![
        1 => Just(Direction::Inbound),
        1 => Just(Direction::Outbound),
        6 => Just(Direction::Duplex),
    ]
}

fn quotas() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), Just(10), Just(100)]
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0_usize), 4 => 1..12_usize, 2 => 90..110_usize, 1 => 200..300_usize]
}

fn rights() -> impl Strategy<Value = (bool, bool)> {
    prop_oneof![
        6 => Just((true, true)),
        1 => Just((true, false)),
        1 => Just((false, true)),
        1 => Just((false, false)),
    ]
}

fn creates() -> impl Strategy<Value = whole::Create> {
    let disposition = prop_oneof![1 => 0..6_u32, 6 => Just(3_u32)];
    let max = prop_oneof![1 => Just(0_usize), 6 => 1..4_usize];
    let quotas = (quotas(), quotas());
    (
        disposition,
        directions(),
        kinds(),
        kinds(),
        completions(),
        max,
        quotas,
    )
        .prop_map(
            |(disposition, direction, kind, read, completion, max, quotas)| whole::Create {
                disposition,
                direction,
                kind,
                read,
                completion,
                max,
                quotas,
            },
        )
}

fn steps() -> impl Strategy<Value = Step> {
    let pick = || 0..1000_usize;
    let name = || 0..2_u8;
    prop_oneof![
        3 => (prop::option::weighted(0.9, name()), creates()).prop_map(|(n, c)| Step::Create(n, c)),
        4 => (name(), rights()).prop_map(|(n, r)| Step::Open(n, r)),
        1 => (pick(), rights()).prop_map(|(f, r)| Step::OpenAt(f, r)),
        2 => pick().prop_map(Step::Close),
        8 => (pick(), lengths()).prop_map(|(f, n)| Step::Read(f, n)),
        8 => (pick(), lengths()).prop_map(|(f, n)| Step::Write(f, n)),
        1 => pick().prop_map(Step::Flush),
        2 => (pick(), lengths()).prop_map(|(f, n)| Step::Peek(f, n)),
        2 => (pick(), lengths(), lengths()).prop_map(|(f, n, r)| Step::Transceive(f, n, r)),
        2 => pick().prop_map(Step::Listen),
        2 => pick().prop_map(Step::Disconnect),
        2 => (pick(), name(), any::<bool>()).prop_map(|(f, n, e)| Step::Wait(f, n, e)),
        3 => pick().prop_map(Step::Cancel),
        2 => (pick(), kinds(), completions()).prop_map(|(f, r, c)| Step::SetModes(f, r, c)),
        2 => pick().prop_map(Step::Local),
    ]
}

/// What a status block holds that nobody has written to.
const UNTOUCHED: (NtStatus, usize) = (NtStatus(0xDEAD_BEEF), 0xDEAD);

/// A call that pends, as far as the caller can see.
struct Pended {
    op: u32,
    handle: (usize, Handle),
    io: Io,
    out: Buffer,
    /// It is the broker that completes it.
    slow: bool,
}

struct Run<'a> {
    /// Handle tables, over different sessions; each file is in one of them.
    tables: &'a [Table],
    model: World,
    /// By the model's numbers: which table, which handle.
    handles: Vec<(usize, Handle)>,
    pended: Vec<Pended>,
    /// Some that have completed: which there is nothing to cancel of any more.
    over: Vec<Pended>,
    next: u32,
}

fn number(kind: Kind) -> u32 {
    u32::from(kind == Kind::Message)
}

fn mode(completion: Completion) -> u32 {
    u32::from(completion == Completion::Complete)
}

fn short(length: usize) -> u32 {
    u32::try_from(length).expect("short")
}

fn path(name: u8) -> Vec<u16> {
    units(&format!(r"\??\pipe\model{name}"))
}

impl Run<'_> {
    fn table(&self) -> usize {
        self.handles.len() % self.tables.len()
    }

    fn nt(&self, file: usize) -> (&Table, Handle) {
        let (table, handle) = self.handles[file];
        (&self.tables[table], handle)
    }

    fn fresh(&mut self) -> (u32, Io) {
        self.next += 1;
        let io = Io {
            event: Some(Event::new()),
            status: StatusBlock::new(UNTOUCHED.0, UNTOUCHED.1),
            context: 0,
            callback: None,
        };
        (self.next, io)
    }

    /// Checks what a call that may pend has said, and remembers it.
    fn said(
        &mut self,
        file: usize,
        (op, io): (u32, Io),
        out: Buffer,
        got: NtStatus,
        wanted: &Answer,
        slow: bool,
    ) -> Result<(), String> {
        if got.0 != wanted.status {
            return Err(format!("{got:?} and not {:#x}", wanted.status));
        }
        let block = (io.status.status(), io.status.information());
        let event = io.event.as_ref().is_some_and(Event::is_set);
        if wanted.status == status::PENDING {
            self.pended.push(Pended {
                op,
                handle: self.handles[file],
                io,
                out,
                slow,
            });
        } else if wanted.status >= 0xC000_0000 {
            // NP-IO-01 (a).
            if block != UNTOUCHED || event {
                return Err(format!(
                    "an immediate error has written {block:?}, event {event}"
                ));
            }
        } else if block != (NtStatus(wanted.status), wanted.information) || !event {
            return Err(format!("{block:?}, event {event}, and not {wanted:?}"));
        } else if out.bytes()[..wanted.data.len()] != wanted.data {
            return Err("other data".to_owned());
        }
        Ok(())
    }

    /// What the model says has completed has, and nothing else.
    fn completions(&mut self) -> Result<(), String> {
        for (op, wanted) in std::mem::take(&mut self.model.done) {
            let Some(at) = self.pended.iter().position(|one| one.op == op) else {
                return Err(format!("the model ends {op}, which does not pend"));
            };
            let one = self.pended.remove(at);
            let begin = Instant::now();
            let event = one.io.event.clone().expect("one");
            while one.slow && !event.is_set() && begin.elapsed() < Duration::from_secs(2) {
                std::thread::yield_now();
                self.tables[one.handle.0].look();
            }
            let block = (one.io.status.status(), one.io.status.information());
            let information = wanted.information;
            if block != (NtStatus(wanted.status), information) || !event.is_set() {
                return Err(format!("operation {op} has {block:?}, and not {wanted:?}"));
            }
            if one.out.bytes()[..wanted.data.len()] != wanted.data {
                return Err(format!("operation {op} has other data"));
            }
            self.over.truncate(3);
            self.over.insert(0, one);
        }
        for one in &self.pended {
            let block = (one.io.status.status(), one.io.status.information());
            if block != UNTOUCHED {
                return Err(format!("operation {} has completed: {block:?}", one.op));
            }
        }
        Ok(())
    }

    fn file(&self, pick: usize) -> usize {
        pick % self.handles.len()
    }

    fn opened(
        &mut self,
        table: usize,
        got: NtResult<(Handle, u32)>,
        wanted: Result<usize, u32>,
    ) -> Result<(), String> {
        match (got, wanted) {
            (Ok((handle, information)), Ok(wanted)) if information as usize == wanted => {
                self.handles.push((table, handle));
                Ok(())
            }
            (Err(got), Err(wanted)) if got.0 == wanted => Ok(()),
            (got, wanted) => Err(format!("{got:?} and not {wanted:x?}")),
        }
    }

    fn access((reads, writes): (bool, bool)) -> Mask {
        let mut access = Mask::SYNCHRONIZE | Mask::FILE_READ_ATTRIBUTES;
        access.set(Mask::GENERIC_READ, reads);
        access.set(Mask::GENERIC_WRITE, writes);
        access
    }

    #[allow(clippy::too_many_lines, reason = "one arm a call")]
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Create(name, create) => {
                let table = self.table();
                let given = CreatePipe {
                    share: match create.direction {
                        Direction::Inbound => Share::WRITE,
                        Direction::Outbound => Share::READ,
                        Direction::Duplex => Share::READ | Share::WRITE,
                    },
                    disposition: create.disposition,
                    pipe_type: number(create.kind),
                    read_mode: number(create.read),
                    completion_mode: mode(create.completion),
                    max_instances: short(create.max),
                    in_quota: short(create.quotas.0),
                    out_quota: short(create.quotas.1),
                    ..CreatePipe::default()
                };
                let path = name.map(path).unwrap_or_default();
                let root = self.handles[table].1;
                let at = match name {
                    Some(_) => Attributes::named(&path),
                    None => Attributes::relative(root, &[]),
                };
                let got = self.tables[table].create_named_pipe(&at, &given);
                let wanted = self.model.create(name, &create);
                self.opened(table, got, wanted)
            }
            Step::Open(name, may) => {
                let table = self.table();
                let path = path(name);
                let at = Attributes::named(&path);
                let got = self.tables[table].open_file(&at, Self::access(may), 1, 0);
                let wanted = self.model.open(name, may).map(|()| 1);
                self.opened(table, got, wanted)
            }
            Step::OpenAt(pick, may) => {
                let file = self.file(pick);
                let (table, handle) = self.handles[file];
                let at = Attributes::relative(handle, &[]);
                let got = self.tables[table].open_file(&at, Self::access(may), 1, 0);
                let wanted = self.model.open_at(file, may).map(|()| 1);
                self.opened(table, got, wanted)
            }
            Step::Close(pick) => {
                let file = self.file(pick);
                // The tables' own roots stay, for unnamed pipes; one that a wait pends on stays, too.
                let waits = |one: &Pended| one.handle == self.handles[file];
                let root = matches!(self.model.files[file], File::Root(_));
                if file < self.tables.len() || root && self.pended.iter().any(waits) {
                    return Ok(());
                }
                let (nt, handle) = self.nt(file);
                let got = nt.close(handle).err().unwrap_or(NtStatus::SUCCESS);
                let wanted = self.model.close(file);
                // The number may be given to another now.
                self.handles[file].1 = Handle(0);
                same(got, wanted)
            }
            Step::Read(pick, length) => {
                let file = self.file(pick);
                if !self.model.has_room(file) {
                    return Ok(());
                }
                let (op, io) = self.fresh();
                let out = Buffer::new(length);
                let (nt, handle) = self.nt(file);
                let got = nt.read_file(handle, &io, &out);
                let wanted = self.model.read(file, op, length);
                self.said(file, (op, io), out, got, &wanted, false)
            }
            Step::Write(pick, length) => {
                let file = self.file(pick);
                if !self.model.has_room(file) {
                    return Ok(());
                }
                let (op, io) = self.fresh();
                let data = pattern(u64::from(op), length);
                let (nt, handle) = self.nt(file);
                let got = nt.write_file(handle, &io, &data);
                let wanted = self.model.write(file, op, &data);
                self.said(file, (op, io), Buffer::new(0), got, &wanted, false)
            }
            Step::Flush(pick) => {
                let file = self.file(pick);
                let Some(wanted) = self.model.flush(file) else {
                    return Ok(()); // it would wait, and with it the program
                };
                let (nt, handle) = self.nt(file);
                let got = nt.flush_buffers_file(handle, &StatusBlock::default());
                same(got, wanted)
            }
            Step::Peek(pick, room) => {
                let file = self.file(pick);
                let Some(wanted) = self.model.peek(file, room) else {
                    return Ok(());
                };
                let (_, io) = self.fresh();
                let out = Buffer::new(16 + room);
                let (nt, handle) = self.nt(file);
                let got = nt.fs_control_file(handle, &io, Control::PEEK, &[], &out);
                match wanted {
                    Err(wanted) => same(got, wanted),
                    Ok((wanted, words, data)) => {
                        same(got, wanted)?;
                        let bytes = out.bytes();
                        let header: Vec<usize> = bytes[..16]
                            .chunks(4)
                            .map(|word| u32::from_le_bytes(word.try_into().expect("four")) as usize)
                            .collect();
                        if header != words || bytes[16..16 + data.len()] != data {
                            return Err(format!("a peek has {header:?} and not {words:?}"));
                        }
                        Ok(())
                    }
                }
            }
            Step::Transceive(pick, length, room) => {
                let file = self.file(pick);
                if !self.model.has_room(file) {
                    return Ok(());
                }
                let (op, io) = self.fresh();
                let (out, data) = (Buffer::new(room), pattern(u64::from(op), length));
                let (nt, handle) = self.nt(file);
                let got = nt.fs_control_file(handle, &io, Control::TRANSCEIVE, &data, &out);
                let wanted = self.model.transceive(file, op, &data, room);
                self.said(file, (op, io), out, got, &wanted, false)
            }
            Step::Listen(pick) => {
                let file = self.file(pick);
                let (op, io) = self.fresh();
                let (nt, handle) = self.nt(file);
                let got = nt.fs_control_file(handle, &io, Control::LISTEN, &[], &Buffer::new(0));
                let wanted = self.model.listen(file, op);
                self.of_status(file, (op, io), got, wanted)
            }
            Step::Disconnect(pick) => {
                let file = self.file(pick);
                let (op, io) = self.fresh();
                let (nt, handle) = self.nt(file);
                let got =
                    nt.fs_control_file(handle, &io, Control::DISCONNECT, &[], &Buffer::new(0));
                let wanted = self.model.disconnect(file);
                self.of_status(file, (op, io), got, wanted)
            }
            Step::Wait(pick, name, for_ever) => {
                let file = self.file(pick);
                let (op, io) = self.fresh();
                let name_units = units(&format!("model{name}"));
                let time = if for_ever { i64::MIN } else { 0 };
                let mut input = time.to_le_bytes().to_vec();
                input.extend(short(2 * name_units.len()).to_le_bytes());
                input.extend([1, 0]);
                input.extend(name_units.iter().flat_map(|unit| unit.to_le_bytes()));
                let (nt, handle) = self.nt(file);
                let got = nt.fs_control_file(handle, &io, Control::WAIT, &input, &Buffer::new(0));
                let wanted = self.model.wait(file, op, name, for_ever);
                self.of_status(file, (op, io), got, wanted)
            }
            Step::Cancel(pick) => {
                let open = |one: &&Pended| self.handles.contains(&one.handle);
                let over = self.over.iter().filter(open);
                let of: Vec<&Pended> = self.pended.iter().chain(over).collect();
                if of.is_empty() {
                    return Ok(());
                }
                let one = of[pick % of.len()];
                let (table, handle) = one.handle;
                let got = self.tables[table].cancel_io_file_ex(handle, Some(&one.io.status));
                let wanted = self.model.cancel(one.op);
                same(got.err().unwrap_or(NtStatus::SUCCESS), wanted)
            }
            Step::SetModes(pick, read, completion) => {
                let file = self.file(pick);
                let data = [number(read), mode(completion)]
                    .map(u32::to_le_bytes)
                    .concat();
                let (nt, handle) = self.nt(file);
                let io = StatusBlock::default();
                let got = nt.set_information_file(handle, &io, InfoClass::PIPE, &data);
                let wanted = self.model.set_modes(file, read, completion);
                same(got, wanted)
            }
            Step::Local(pick) => {
                let file = self.file(pick);
                let (nt, handle) = self.nt(file);
                let (io, mut out) = (StatusBlock::default(), [0; 40]);
                let got = nt.query_information_file(handle, &io, InfoClass::PIPE_LOCAL, &mut out);
                match self.model.local(file) {
                    Err(wanted) => same(got, wanted),
                    Ok(wanted) => {
                        same(got, status::SUCCESS)?;
                        let words: Vec<usize> = out
                            .chunks(4)
                            .map(|word| u32::from_le_bytes(word.try_into().expect("four")) as usize)
                            .collect();
                        if words != wanted {
                            return Err(format!("{words:?} and not {wanted:?}"));
                        }
                        Ok(())
                    }
                }
            }
        }
    }

    /// As `said`, for calls that bring no bytes and that the broker may complete.
    fn of_status(
        &mut self,
        file: usize,
        call: (u32, Io),
        got: NtStatus,
        wanted: u32,
    ) -> Result<(), String> {
        let wanted = Answer {
            status: wanted,
            information: 0,
            data: Vec::new(),
        };
        self.said(file, call, Buffer::new(0), got, &wanted, true)
    }
}

fn same(got: NtStatus, wanted: u32) -> Result<(), String> {
    if got.0 == wanted {
        Ok(())
    } else {
        Err(format!("{got:?} and not {wanted:#x}"))
    }
}

/// Where the ends are.
#[derive(Clone, Copy)]
enum Where<'a> {
    OneTable,
    TwoTables,
    TwoProcesses(&'a Remote),
}

impl Where<'_> {
    fn tables(self, broker: &Broker) -> Vec<Table> {
        let nt = || Nt::new(broker.connect().expect("a client"));
        let (first, second) = match self {
            Where::OneTable => {
                let one = nt();
                return vec![Table::here(one.clone(), one).0];
            }
            Where::TwoTables => Table::here(nt(), nt()),
            Where::TwoProcesses(remote) => Table::there(nt(), remote),
        };
        vec![first, second]
    }
}

/// One program, from an empty namespace to an empty namespace.
fn run(broker: &Broker, place: Where<'_>, program: &[Step]) -> Result<(), String> {
    let tables = place.tables(broker);
    let mut run = Run {
        tables: &tables,
        model: World::default(),
        handles: Vec::new(),
        pended: Vec::new(),
        over: Vec::new(),
        next: 0,
    };
    for (number, nt) in tables.iter().enumerate() {
        let name = units(r"\Device\NamedPipe\");
        let at = Attributes::named(&name);
        let (root, _) = nt
            .open_file(&at, Run::access((true, true)), 1, 0)
            .expect("the root");
        run.handles.push((number, root));
        run.model.open_root();
    }
    for (at, step) in program.iter().enumerate() {
        let done = run.step(step).and_then(|()| run.completions());
        done.map_err(|error| format!("step {at} ({step:?}): {error}"))?;
    }
    // Every handle closes, and all that pends ends.
    for file in (0..run.handles.len()).rev() {
        if matches!(run.model.files[file], File::Root(_)) {
            continue;
        }
        run.step(&Step::Close(file))
            .and_then(|()| run.completions())
            .map_err(|error| format!("closing {file}: {error}"))?;
    }
    Ok(())
}

fn run_all(cases: u32, broker: &Broker, place: Where<'_>) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let program = prop::collection::vec(steps(), 1..60);
    let mut runner = TestRunner::new(config);
    let result = runner.run(&program, |program| {
        run(broker, place, &program).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Programs of 30 calls on average: 20,000 calls, or a million with `NPFS_LONG`.
fn cases() -> u32 {
    if std::env::var_os("NPFS_LONG").is_some() {
        34_000
    } else {
        400
    }
}

fn broker() -> Broker {
    BrokerOptions::new().workers(2).start().expect("a broker")
}

#[test]
fn random_calls_in_one_handle_table() {
    within(3600, || run_all(cases(), &broker(), Where::OneTable));
}

#[test]
fn random_calls_in_two_handle_tables() {
    within(3600, || run_all(cases(), &broker(), Where::TwoTables));
}

#[test]
fn random_calls_in_two_processes() {
    within(3600, || {
        let site = Site::start(BrokerOptions::new().workers(2));
        let remote = Remote::spawn(child_exe!(), &site.socket);
        run_all(cases(), site.broker(), Where::TwoProcesses(&remote));
    });
}
