//! Commands to one end of a connection and their answers, with the form they take on a socket: one code, six numbers
//! and some bytes, whatever the command.

use npfs_ringbuf::fault::{Action, Point};
use npfs_ringbuf::{CompletionMode, Error, Fault, Info, Peek, ReadMode, State};
use std::io;

/// The name a test gives to an operation that may pend.
pub type OpId = u32;

/// A blocking call, run on a thread of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// of at most so many bytes
    Read(usize),
    /// of these bytes
    Write(Vec<u8>),
    /// of this end's outgoing direction
    Flush,
    /// request, and room for the reply in bytes
    Transact(Vec<u8>, usize),
}

/// What one end is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// Opens an end by its grant's bytes, in the place of the one before. Answers `Unit`.
    Open(Vec<u8>),
    /// `start_read`. Answers `Unit`.
    StartRead(OpId, usize),
    /// `start_write`. Answers `Unit`.
    StartWrite(OpId, Vec<u8>),
    /// `start_flush`. Answers `Unit`.
    StartFlush(OpId),
    /// `start_transact`: request, room for the reply. Answers `Unit`.
    StartTransact(OpId, Vec<u8>, usize),
    /// Polls every pended operation once, oldest first. Answers `Many`: those that completed.
    PollAll,
    /// Cancels a pended operation. Answers `Flag`: whether it was withdrawn.
    Cancel(OpId),
    /// Drops a pended operation. Answers `Unit`.
    Forget(OpId),
    /// `try_read`. Answers `Did`.
    TryRead(usize),
    /// `try_write`. Answers `Did`.
    TryWrite(Vec<u8>),
    /// Into a buffer of so many bytes. Answers `Peeked`.
    Peek(usize),
    /// Answers `Info`.
    Info,
    /// Answers `State`.
    State,
    /// Answers `Modes`.
    Modes,
    /// Answers `Unit`.
    SetModes(ReadMode, CompletionMode),
    /// Answers `Unit`.
    Close,
    /// Answers `Unit`.
    Disconnect,
    /// Starts a blocking call with a deadline in milliseconds from now. Answers `Number`: the thread's serial.
    Block(OpId, Blocking, Option<u64>),
    /// Waits so many milliseconds for a blocking call. Answers `Many`: one, or none if it is still under way.
    Join(OpId, u64),
    /// Cancels a blocking call through its `Wait`. Answers `Flag`.
    CancelBlocked(OpId),
    /// Arms a fault point in that process. Answers `Unit`.
    Arm(Point, Action),
    /// Answers `Number`: how often the armed point has fired.
    Fired,
    /// Binds the process to one CPU. Answers `Unit`.
    Affinity(usize),
    /// Scribbles over the whole link from a mapping of its own for so many milliseconds, on another thread. Answers
    /// `Number`: the bytes mapped.
    Scribble(u64, u64),
    /// Waits for the scribbler. Answers `Number`: the words it has stored.
    Scribbled,
    /// Ends the process. Answers nothing.
    Exit,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// the bytes, and whether they end their message (or are bytes)
    Read(Vec<u8>, bool),
    /// bytes reported as written
    Wrote(usize),
    /// the flush is over
    Flushed,
    /// with this error
    Failed(Error),
}

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// success or error
    Unit(Result<(), Error>),
    /// yes or no
    Flag(bool),
    /// a number
    Number(u64),
    /// one outcome
    Did(Done),
    /// outcomes of several operations
    Many(Vec<(OpId, Done)>),
    /// a peek and its bytes
    Peeked(Result<(Peek, Vec<u8>), Error>),
    /// the counts
    Info(Result<Info, Error>),
    /// the state
    State(State),
    /// the modes
    Modes(ReadMode, CompletionMode),
}

/// Every error the ring can answer, in the order of their numbers on the socket.
const ERRORS: &[Error] = &[
    Error::WouldBlock,
    Error::Busy,
    Error::Empty,
    Error::Broken,
    Error::Closing,
    Error::Disconnected,
    Error::Stale,
    Error::Cancelled,
    Error::TimedOut,
    Error::PipeBusy,
    Error::InvalidState,
    Error::InvalidMode,
    Error::AccessDenied,
    Error::NoMemory,
    Error::TooLong,
    Error::WouldDeadlock,
    Error::Fault(Fault::FrameLength),
    Error::Fault(Fault::FrameFlags),
    Error::Fault(Fault::Walk),
    Error::Fault(Fault::Record),
    Error::Fault(Fault::Forbidden),
];

fn number_of(error: Error) -> u64 {
    let at = ERRORS.iter().position(|e| *e == error);
    at.unwrap_or_else(|| panic!("{error:?} has no number in the tests' protocol")) as u64 + 1
}

fn error_of(number: u64) -> Option<Error> {
    let at = size(number).checked_sub(1)?;
    Some(ERRORS[at])
}

/// A number that came over the socket as a length of this process.
pub(crate) fn size(number: u64) -> usize {
    usize::try_from(number).expect("a length")
}

fn small(number: u64) -> u32 {
    u32::try_from(number).expect("32 bits")
}

/// The form on the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    code: u64,
    n: [u64; 6],
    bytes: Vec<u8>,
}

impl Packet {
    fn new(code: u64, numbers: &[u64], bytes: Vec<u8>) -> Packet {
        let mut n = [0; 6];
        n[..numbers.len()].copy_from_slice(numbers);
        Packet { code, n, bytes }
    }

    /// Writes the packet.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&self, to: &mut impl io::Write) -> io::Result<()> {
        let mut head = Vec::with_capacity(64);
        head.extend_from_slice(&self.code.to_le_bytes());
        for n in self.n {
            head.extend_from_slice(&n.to_le_bytes());
        }
        head.extend_from_slice(&(self.bytes.len() as u64).to_le_bytes());
        head.extend_from_slice(&self.bytes);
        to.write_all(&head)
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof` when the other process has gone.
    pub fn receive(from: &mut impl io::Read) -> io::Result<Packet> {
        let mut head = [0; 64];
        from.read_exact(&mut head)?;
        let mut words = head
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().expect("8 bytes")));
        let mut next = || words.next().expect("8 words");
        let code = next();
        let n = std::array::from_fn(|_| next());
        let mut bytes = vec![0; size(next())];
        from.read_exact(&mut bytes)?;
        Ok(Packet { code, n, bytes })
    }
}

impl Done {
    fn put(&self, op: OpId, to: &mut Vec<u8>) {
        let none = Vec::new();
        let (code, number, bytes) = match self {
            Done::Read(data, whole) => (0, u64::from(*whole), data),
            Done::Wrote(n) => (1, *n as u64, &none),
            Done::Flushed => (2, 0, &none),
            Done::Failed(error) => (3, number_of(*error), &none),
        };
        let packet = Packet::new(code, &[u64::from(op), number], bytes.clone());
        packet.send(to).expect("memory takes it");
    }

    fn get(from: &mut &[u8]) -> (OpId, Done) {
        let packet = Packet::receive(from).expect("a whole outcome");
        let done = match packet.code {
            0 => Done::Read(packet.bytes, packet.n[1] != 0),
            1 => Done::Wrote(size(packet.n[1])),
            2 => Done::Flushed,
            _ => Done::Failed(error_of(packet.n[1]).expect("an error")),
        };
        (small(packet.n[0]), done)
    }
}

fn state_number(state: State) -> u64 {
    match state {
        State::Connected => 0,
        State::Closing => 1,
        State::Disconnected => 2,
    }
}

fn state_of(number: u64) -> State {
    [State::Connected, State::Closing, State::Disconnected][size(number)]
}

fn read_mode_of(number: u64) -> ReadMode {
    if number == 0 {
        ReadMode::Byte
    } else {
        ReadMode::Message
    }
}

fn completion_mode_of(number: u64) -> CompletionMode {
    if number == 0 {
        CompletionMode::Queue
    } else {
        CompletionMode::Complete
    }
}

impl Cmd {
    /// To the form on the socket.
    pub fn encode(&self) -> Packet {
        let plain = |code| Packet::new(code, &[], Vec::new());
        match self {
            Cmd::Open(grant) => Packet::new(0, &[], grant.clone()),
            Cmd::StartRead(op, len) => Packet::new(1, &[u64::from(*op), *len as u64], Vec::new()),
            Cmd::StartWrite(op, data) => Packet::new(2, &[u64::from(*op)], data.clone()),
            Cmd::StartFlush(op) => Packet::new(3, &[u64::from(*op)], Vec::new()),
            Cmd::StartTransact(op, data, len) => {
                Packet::new(4, &[u64::from(*op), *len as u64], data.clone())
            }
            Cmd::PollAll => plain(5),
            Cmd::Cancel(op) => Packet::new(6, &[u64::from(*op)], Vec::new()),
            Cmd::Forget(op) => Packet::new(7, &[u64::from(*op)], Vec::new()),
            Cmd::TryRead(len) => Packet::new(8, &[*len as u64], Vec::new()),
            Cmd::TryWrite(data) => Packet::new(9, &[], data.clone()),
            Cmd::Peek(len) => Packet::new(10, &[*len as u64], Vec::new()),
            Cmd::Info => plain(11),
            Cmd::State => plain(12),
            Cmd::Modes => plain(13),
            Cmd::SetModes(read, completion) => {
                Packet::new(14, &[*read as u64, *completion as u64], Vec::new())
            }
            Cmd::Close => plain(15),
            Cmd::Disconnect => plain(16),
            Cmd::Block(op, what, deadline) => {
                let (kind, len, bytes) = match what {
                    Blocking::Read(len) => (0, *len, Vec::new()),
                    Blocking::Write(data) => (1, 0, data.clone()),
                    Blocking::Flush => (2, 0, Vec::new()),
                    Blocking::Transact(data, len) => (3, *len, data.clone()),
                };
                let millis = deadline.unwrap_or(u64::MAX);
                Packet::new(17, &[u64::from(*op), kind, len as u64, millis], bytes)
            }
            Cmd::Join(op, millis) => Packet::new(18, &[u64::from(*op), *millis], Vec::new()),
            Cmd::CancelBlocked(op) => Packet::new(19, &[u64::from(*op)], Vec::new()),
            Cmd::Arm(point, action) => {
                Packet::new(20, &[*point as u64, *action as u64], Vec::new())
            }
            Cmd::Fired => plain(21),
            Cmd::Affinity(cpu) => Packet::new(22, &[*cpu as u64], Vec::new()),
            Cmd::Scribble(seed, millis) => Packet::new(23, &[*seed, *millis], Vec::new()),
            Cmd::Scribbled => plain(24),
            Cmd::Exit => plain(25),
        }
    }

    /// From the form on the socket.
    ///
    /// # Panics
    /// If the packet is no command: both sides are built together.
    pub fn decode(packet: Packet) -> Cmd {
        let Packet { code, n, bytes } = packet;
        let op = || small(n[0]);
        match code {
            0 => Cmd::Open(bytes),
            1 => Cmd::StartRead(op(), size(n[1])),
            2 => Cmd::StartWrite(op(), bytes),
            3 => Cmd::StartFlush(op()),
            4 => Cmd::StartTransact(op(), bytes, size(n[1])),
            5 => Cmd::PollAll,
            6 => Cmd::Cancel(op()),
            7 => Cmd::Forget(op()),
            8 => Cmd::TryRead(size(n[0])),
            9 => Cmd::TryWrite(bytes),
            10 => Cmd::Peek(size(n[0])),
            11 => Cmd::Info,
            12 => Cmd::State,
            13 => Cmd::Modes,
            14 => Cmd::SetModes(read_mode_of(n[0]), completion_mode_of(n[1])),
            15 => Cmd::Close,
            16 => Cmd::Disconnect,
            17 => {
                let what = match n[1] {
                    0 => Blocking::Read(size(n[2])),
                    1 => Blocking::Write(bytes),
                    2 => Blocking::Flush,
                    _ => Blocking::Transact(bytes, size(n[2])),
                };
                Cmd::Block(op(), what, (n[3] != u64::MAX).then_some(n[3]))
            }
            18 => Cmd::Join(op(), n[1]),
            19 => Cmd::CancelBlocked(op()),
            20 => {
                let point = Point::ALL
                    .iter()
                    .find(|p| **p as u64 == n[0])
                    .expect("a point");
                let actions = [Action::Kill, Action::Stop, Action::ParkThread];
                let action = actions
                    .iter()
                    .find(|a| **a as u64 == n[1])
                    .expect("an action");
                Cmd::Arm(*point, *action)
            }
            21 => Cmd::Fired,
            22 => Cmd::Affinity(size(n[0])),
            23 => Cmd::Scribble(n[0], n[1]),
            24 => Cmd::Scribbled,
            25 => Cmd::Exit,
            _ => panic!("no command has the code {code}"),
        }
    }
}

impl Reply {
    /// To the form on the socket.
    pub fn encode(&self) -> Packet {
        let error = |result: Option<&Error>| result.map_or(0, |e| number_of(*e));
        match self {
            Reply::Unit(result) => Packet::new(0, &[error(result.as_ref().err())], Vec::new()),
            Reply::Flag(flag) => Packet::new(1, &[u64::from(*flag)], Vec::new()),
            Reply::Number(number) => Packet::new(2, &[*number], Vec::new()),
            Reply::Did(done) => {
                let mut bytes = Vec::new();
                done.put(0, &mut bytes);
                Packet::new(3, &[], bytes)
            }
            Reply::Many(list) => {
                let mut bytes = Vec::new();
                for (op, done) in list {
                    done.put(*op, &mut bytes);
                }
                Packet::new(4, &[], bytes)
            }
            Reply::Peeked(Err(e)) => Packet::new(5, &[number_of(*e)], Vec::new()),
            Reply::Peeked(Ok((peek, data))) => {
                let mut packet = Packet::new(
                    5,
                    &[
                        0,
                        state_number(peek.state) | u64::from(peek.partial) << 8,
                        peek.available,
                        u64::from(peek.messages),
                        peek.message_len,
                        peek.copied as u64,
                    ],
                    Vec::new(),
                );
                packet.bytes.clone_from(data);
                packet
            }
            Reply::Info(Err(e)) => Packet::new(6, &[number_of(*e)], Vec::new()),
            Reply::Info(Ok(info)) => Packet::new(
                6,
                &[
                    0,
                    state_number(info.state),
                    info.read_available,
                    u64::from(info.write_quota_available),
                    u64::from(info.messages),
                ],
                Vec::new(),
            ),
            Reply::State(state) => Packet::new(7, &[state_number(*state)], Vec::new()),
            Reply::Modes(read, completion) => {
                Packet::new(8, &[*read as u64, *completion as u64], Vec::new())
            }
        }
    }

    /// From the form on the socket.
    ///
    /// # Panics
    /// If the packet is no reply: both sides are built together.
    pub fn decode(packet: Packet) -> Reply {
        let Packet { code, n, bytes } = packet;
        let result = || error_of(n[0]).map_or(Ok(()), Err);
        match code {
            0 => Reply::Unit(result()),
            1 => Reply::Flag(n[0] != 0),
            2 => Reply::Number(n[0]),
            3 => Reply::Did(Done::get(&mut bytes.as_slice()).1),
            4 => {
                let mut rest = bytes.as_slice();
                let mut list = Vec::new();
                while !rest.is_empty() {
                    list.push(Done::get(&mut rest));
                }
                Reply::Many(list)
            }
            5 => Reply::Peeked(result().map(|()| {
                let peek = Peek {
                    state: state_of(n[1] & 0xff),
                    available: n[2],
                    messages: small(n[3]),
                    message_len: n[4],
                    copied: size(n[5]),
                    partial: n[1] >> 8 != 0,
                };
                (peek, bytes)
            })),
            6 => Reply::Info(result().map(|()| Info {
                state: state_of(n[1]),
                read_available: n[2],
                write_quota_available: small(n[3]),
                messages: small(n[4]),
            })),
            7 => Reply::State(state_of(n[0])),
            8 => Reply::Modes(read_mode_of(n[0]), completion_mode_of(n[1])),
            _ => panic!("no reply has the code {code}"),
        }
    }
}
