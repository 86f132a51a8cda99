//! A naive model of the whole of NPFS as one process sees it: names, instances, handles and what pends, one lock, no
//! sharing. Connections are [`super::Model`]. Each decision names its rule.
//!
//! Nothing here is taken from, or shared with, the code under test; statuses are plain numbers.

use super::{CLIENT, Completion, Fail, Kind, Model, Outcome, SERVER, Started, State, Who};
use super::{holds, says};

/// NTSTATUS, as section 1.1 of the specification lists them.
#[allow(missing_docs)]
pub mod status {
    pub const SUCCESS: u32 = 0;
    pub const PENDING: u32 = 0x103;
    pub const BUFFER_OVERFLOW: u32 = 0x8000_0005;
    pub const INVALID_HANDLE: u32 = 0xC000_0008;
    pub const INVALID_PARAMETER: u32 = 0xC000_000D;
    pub const ACCESS_DENIED: u32 = 0xC000_0022;
    pub const NAME_INVALID: u32 = 0xC000_0033;
    pub const NAME_NOT_FOUND: u32 = 0xC000_0034;
    pub const INSTANCE_NOT_AVAILABLE: u32 = 0xC000_00AB;
    pub const NOT_AVAILABLE: u32 = 0xC000_00AC;
    pub const INVALID_PIPE_STATE: u32 = 0xC000_00AD;
    pub const PIPE_BUSY: u32 = 0xC000_00AE;
    pub const ILLEGAL_FUNCTION: u32 = 0xC000_00AF;
    pub const DISCONNECTED: u32 = 0xC000_00B0;
    pub const CLOSING: u32 = 0xC000_00B1;
    pub const CONNECTED: u32 = 0xC000_00B2;
    pub const LISTENING: u32 = 0xC000_00B3;
    pub const IO_TIMEOUT: u32 = 0xC000_00B5;
    pub const EMPTY: u32 = 0xC000_00D9;
    pub const CANCELLED: u32 = 0xC000_0120;
    pub const BROKEN: u32 = 0xC000_014B;
    pub const NOT_FOUND: u32 = 0xC000_0225;
}
use status as s;

/// What a call says when it returns, and a pended one when it completes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NTSTATUS
    pub status: u32,
    /// Information; only where the status is no error, or the call had pended
    pub information: usize,
    /// what was read
    pub data: Vec<u8>,
}

impl Answer {
    fn of(status: u32) -> Answer {
        Answer {
            status,
            information: 0,
            data: Vec::new(),
        }
    }
}

/// What a peek gives: status, the structure's four words, data.
pub type Peeked = (u32, [usize; 4], Vec<u8>);

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// client to server
    Inbound,
    /// server to client
    Outbound,
    /// both
    Duplex,
}

impl Direction {
    fn allows(self, who: Who, reads: bool) -> bool {
        match self {
            Direction::Duplex => true,
            Direction::Inbound => (who == SERVER) == reads,
            Direction::Outbound => (who == SERVER) != reads,
        }
    }
}

/// Arguments of a create.
#[derive(Clone, Copy, Debug)]
pub struct Create {
    /// disposition
    pub disposition: u32,
    /// from the share access
    pub direction: Direction,
    /// type
    pub kind: Kind,
    /// read mode
    pub read: Kind,
    /// completion mode
    pub completion: Completion,
    /// maximum of instances
    pub max: usize,
    /// inbound, outbound
    pub quotas: (usize, usize),
}

#[derive(Clone, Debug)]
struct Pipe {
    name: Option<u8>,
    alive: bool,
    kind: Kind,
    direction: Direction,
    max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Disconnected,
    /// since when
    Listening(u64),
    /// with which connection; closing, if its client end is closed
    Connected(usize),
}

#[derive(Clone, Debug)]
struct Instance {
    pipe: usize,
    alive: bool,
    stage: Stage,
    read: Kind,
    completion: Completion,
    quotas: (usize, usize),
    listens: Vec<u32>,
}

/// What a handle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// closed
    Gone,
    /// the root, with the rights to read and to write
    Root((bool, bool)),
    /// a server end
    Server(usize),
    /// a client end
    Client(usize),
}

#[derive(Clone, Debug)]
struct Connection {
    model: Model,
    pipe: usize,
    quotas: (usize, usize),
    /// what the client may do: read, write
    may: (bool, bool),
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct World {
    pipes: Vec<Pipe>,
    instances: Vec<Instance>,
    connections: Vec<Connection>,
    /// By the order in which they were opened.
    pub files: Vec<File>,
    waits: Vec<(u32, u8)>,
    order: u64,
    /// Calls that have completed after they pended, since this was last emptied.
    pub done: Vec<(u32, Answer)>,
}

fn fail(fail: Fail) -> u32 {
    match fail {
        Fail::WouldBlock => unreachable!("nothing is tried here"),
        Fail::Empty => s::EMPTY,
        Fail::Broken => s::BROKEN,
        Fail::Closing => s::CLOSING,
        Fail::Disconnected => s::DISCONNECTED,
        Fail::Stale => s::INVALID_HANDLE,
        Fail::Cancelled => s::CANCELLED,
        Fail::PipeBusy => s::PIPE_BUSY,
        Fail::InvalidState => s::INVALID_PIPE_STATE,
        Fail::InvalidMode => s::INVALID_PARAMETER,
    }
}

fn answer(outcome: Outcome) -> Answer {
    match outcome {
        // NP-READ-09: part of a message is an overflow.
        Outcome::Read(data, whole) => Answer {
            status: if whole {
                s::SUCCESS
            } else {
                s::BUFFER_OVERFLOW
            },
            information: data.len(),
            data,
        },
        // NP-IO-14.
        Outcome::Wrote(count) => Answer {
            information: says("NP-IO-14", count, 0),
            ..Answer::of(s::SUCCESS)
        },
        Outcome::Flushed => Answer::of(s::SUCCESS),
        Outcome::Failed(why) => Answer::of(fail(why)),
    }
}

impl World {
    fn finish(&mut self, op: u32, status: u32) {
        self.done.push((op, Answer::of(status)));
    }

    /// What has completed in a connection.
    fn collect(&mut self, at: usize) {
        for (_, op, outcome) in std::mem::take(&mut self.connections[at].model.done) {
            self.done.push((op, answer(outcome)));
        }
    }

    fn named(&self, name: u8) -> Option<usize> {
        self.pipes
            .iter()
            .position(|pipe| pipe.alive && pipe.name == Some(name))
    }

    fn of_pipe(&self, pipe: usize) -> impl Iterator<Item = (usize, &Instance)> {
        let all = self.instances.iter().enumerate();
        all.filter(move |(_, one)| one.alive && one.pipe == pipe)
    }

    /// To the end of the line (NP-OPEN-09); all who wait are released (NP-WAIT-08).
    fn enter_listening(&mut self, instance: usize) {
        self.order += 1;
        self.instances[instance].stage = Stage::Listening(self.order);
        let name = self.pipes[self.instances[instance].pipe].name;
        if holds("NP-WAIT-08", true) {
            self.end_waits(name, s::SUCCESS);
        }
    }

    fn end_waits(&mut self, name: Option<u8>, status: u32) {
        let (ended, left) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition(|(_, of)| Some(*of) == name);
        self.waits = left;
        let ended: Vec<(u32, u8)> = ended;
        for (op, _) in ended {
            self.finish(op, status);
        }
    }

    fn end_listens(&mut self, instance: usize, status: u32) {
        // NP-LISTEN-08: all of them.
        let listens = &mut self.instances[instance].listens;
        let count = says("NP-LISTEN-08", listens.len(), listens.len().min(1));
        let ended: Vec<u32> = listens.drain(..count).collect();
        for op in ended {
            self.finish(op, status);
        }
    }

    // ---- creating and opening ----------------------------------------------------------------------------------

    /// NtCreateNamedPipeFile; `None`: without a name. The handle's number is the next one. Information.
    ///
    /// # Errors
    /// As the rules say.
    pub fn create(&mut self, name: Option<u8>, create: &Create) -> Result<usize, u32> {
        if !(1..=3).contains(&create.disposition) && holds("NP-CREATE-02", true) {
            return Err(s::INVALID_PARAMETER);
        }
        let mismatch = create.kind == Kind::Byte && create.read == Kind::Message;
        if mismatch && holds("NP-CREATE-06", true) {
            return Err(s::INVALID_PARAMETER);
        }
        let existing = match name {
            Some(name) => self.named(name),
            // NP-NAME-11: without a name there never is one already.
            None => {
                let unnamed = |pipe: &Pipe| pipe.alive && pipe.name.is_none();
                let first = self.pipes.iter().position(unnamed);
                says("NP-NAME-11", None, first)
            }
        };
        let (pipe, information) = match existing {
            Some(pipe) => {
                let of = &self.pipes[pipe];
                // NP-CREATE-26: in whatever state.
                let listens = |one: &Instance| matches!(one.stage, Stage::Listening(_));
                let counts = |one: &Instance| listens(one) || holds("NP-CREATE-26", true);
                let count = self.of_pipe(pipe).filter(|(_, one)| counts(one)).count();
                if count >= of.max && holds("NP-CREATE-21", true) {
                    return Err(s::INSTANCE_NOT_AVAILABLE);
                }
                if create.disposition == 2 && holds("NP-CREATE-22", true) {
                    return Err(s::ACCESS_DENIED);
                }
                if create.direction != of.direction && holds("NP-CREATE-23", true) {
                    return Err(s::ACCESS_DENIED);
                }
                // NP-OBJ-02: the first instance's maximum stays.
                self.pipes[pipe].max = says("NP-OBJ-02", of.max, create.max);
                (pipe, says("NP-CREATE-25", 1, 2))
            }
            None => {
                // NP-CREATE-10, before 11.
                if create.max == 0 && holds("NP-CREATE-10", true) {
                    return Err(s::INVALID_PARAMETER);
                }
                if create.disposition == 1 && holds("NP-CREATE-11", true) {
                    return Err(s::NAME_NOT_FOUND);
                }
                self.pipes.push(Pipe {
                    name,
                    alive: true,
                    kind: create.kind,
                    direction: create.direction,
                    max: create.max,
                });
                (self.pipes.len() - 1, says("NP-CREATE-13", 2, 1))
            }
        };
        let first = self.of_pipe(pipe).next();
        let quotas_of_first = first.map_or(create.quotas, |(_, one)| one.quotas);
        self.instances.push(Instance {
            pipe,
            alive: true,
            stage: Stage::Disconnected,
            // NP-CREATE-24: its own modes, as far as the pipe's type allows them, and quotas.
            read: match self.pipes[pipe].kind {
                Kind::Byte => Kind::Byte,
                Kind::Message => create.read,
            },
            completion: create.completion,
            quotas: says("NP-CREATE-24", create.quotas, quotas_of_first),
            listens: Vec::new(),
        });
        let instance = self.instances.len() - 1;
        if holds("NP-OBJ-05", true) {
            self.enter_listening(instance);
        }
        self.files.push(File::Server(instance));
        Ok(information)
    }

    /// NtCreateFile of a name.
    ///
    /// # Errors
    /// As the rules say.
    pub fn open(&mut self, name: u8, may: (bool, bool)) -> Result<(), u32> {
        let missing = says("NP-NAME-16", s::NAME_NOT_FOUND, s::NOT_AVAILABLE); // NP-OPEN-01
        let pipe = self.named(name).ok_or(missing)?;
        self.open_pipe(pipe, may)
    }

    /// NtCreateFile with an empty name, relative to a handle.
    ///
    /// # Errors
    /// As the rules say.
    pub fn open_at(&mut self, file: usize, may: (bool, bool)) -> Result<(), u32> {
        let pipe = match self.files[file] {
            File::Gone => return Err(s::INVALID_HANDLE),
            File::Root(_) => {
                self.files.push(File::Root(may));
                return Ok(());
            }
            File::Server(instance) => {
                if !holds("NP-NAME-12", true) {
                    return Err(s::NAME_INVALID);
                }
                self.instances[instance].pipe
            }
            File::Client(connection) => {
                if self.connections[connection].model.state(CLIENT) == State::Disconnected {
                    return Err(says("NP-OBJ-09", s::DISCONNECTED, s::NAME_NOT_FOUND));
                }
                self.connections[connection].pipe
            }
        };
        if !self.pipes[pipe].alive {
            return Err(says("NP-OPEN-01", s::NAME_NOT_FOUND, s::NOT_AVAILABLE));
        }
        self.open_pipe(pipe, may)
    }

    fn open_pipe(&mut self, pipe: usize, may: (bool, bool)) -> Result<(), u32> {
        let direction = self.pipes[pipe].direction;
        let since = |one: &Instance| match one.stage {
            // NP-OPEN-09: the one that has listened longest.
            Stage::Listening(since) => Some(says("NP-OPEN-09", since, u64::MAX - since)),
            _ => None,
        };
        let listening = self.of_pipe(pipe).filter(|(_, one)| since(one).is_some());
        let chosen = listening
            .min_by_key(|(_, one)| since(one))
            .map(|(instance, _)| instance);
        let wrong =
            may.0 && !direction.allows(CLIENT, true) || may.1 && !direction.allows(CLIENT, false);
        // NP-OPEN-06: even if none listens.
        let first = chosen.is_some() || holds("NP-OPEN-06", true);
        if wrong && first && holds("NP-OPEN-03", true) {
            return Err(s::ACCESS_DENIED);
        }
        let busy = says("NP-OPEN-04", s::NOT_AVAILABLE, s::PIPE_BUSY);
        let instance = chosen.ok_or(busy)?;
        if may == (false, false) && !holds("NP-OPEN-07", true) {
            return Err(s::ACCESS_DENIED);
        }
        let one = &self.instances[instance];
        let quotas = one.quotas;
        // NP-OBJ-04: each direction has a quota of its own.
        let (inbound, outbound) = says("NP-OBJ-04", quotas, (quotas.1, quotas.0));
        let mut model = Model::new(self.pipes[pipe].kind, inbound, outbound);
        // NP-OBJ-10: the server's modes persist, the client's are fresh.
        model
            .set_modes(SERVER, one.read, one.completion)
            .expect("an idle connection");
        self.connections.push(Connection {
            model,
            pipe,
            quotas,
            may,
        });
        let connection = self.connections.len() - 1;
        self.instances[instance].stage = Stage::Connected(connection);
        let opened = says("NP-OPEN-10", s::SUCCESS, s::CONNECTED);
        self.end_listens(instance, opened);
        self.files.push(File::Client(connection));
        Ok(())
    }

    /// Opens the root.
    pub fn open_root(&mut self) {
        self.files.push(File::Root((true, true)));
    }

    /// NtClose of the only handle.
    pub fn close(&mut self, file: usize) -> u32 {
        match std::mem::replace(&mut self.files[file], File::Gone) {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => {
                // Its waits are its own. Choice: they are cancelled.
                return s::SUCCESS;
            }
            File::Client(connection) => {
                self.connections[connection].model.close(CLIENT); // NP-CLOSE-02
                self.collect(connection);
            }
            File::Server(instance) => {
                let listened = matches!(self.instances[instance].stage, Stage::Listening(_));
                // NP-CLOSE-04 for the listens, too.
                let closed = says("NP-LISTEN-10", s::BROKEN, s::CANCELLED);
                self.end_listens(instance, closed);
                if let Stage::Connected(connection) = self.instances[instance].stage {
                    self.connections[connection].model.close(SERVER);
                    self.collect(connection);
                }
                self.instances[instance].alive = false;
                let pipe = self.instances[instance].pipe;
                if self.of_pipe(pipe).next().is_none() {
                    let vanishes = if listened {
                        holds("NP-CLOSE-04", true)
                    } else {
                        holds("NP-OBJ-01", true)
                    };
                    self.pipes[pipe].alive = !vanishes;
                    let name = self.pipes[pipe].name;
                    let gone = says("NP-WAIT-09", s::NAME_NOT_FOUND, s::CANCELLED);
                    self.end_waits(name, gone);
                }
            }
        }
        s::SUCCESS
    }

    // ---- data --------------------------------------------------------------------------------------------------

    /// The connection of an end, and which end it is.
    fn connection(&self, file: usize) -> Result<(usize, Who), u32> {
        match self.files[file] {
            File::Gone => Err(s::INVALID_HANDLE),
            File::Root(_) => Err(says("NP-DEV-01", s::INVALID_PARAMETER, s::ILLEGAL_FUNCTION)),
            File::Client(connection) => Ok((connection, CLIENT)),
            File::Server(instance) => match self.instances[instance].stage {
                Stage::Connected(connection) => Ok((connection, SERVER)),
                Stage::Listening(_) => Err(s::LISTENING), // NP-READ-05, NP-WRITE-01
                Stage::Disconnected => Err(s::DISCONNECTED),
            },
        }
    }

    /// Whether the handle has the right to read or to write (NP-NUM-01). Server ends are created with both.
    fn may(&self, file: usize, reads: bool) -> bool {
        match self.files[file] {
            File::Client(connection) => {
                let may = self.connections[connection].may;
                if reads { may.0 } else { may.1 }
            }
            File::Root(may) => {
                if reads {
                    may.0
                } else {
                    may.1
                }
            }
            File::Gone | File::Server(_) => true,
        }
    }

    /// Whether a further operation may pend in a direction, as far as the queue under test has room for it.
    pub fn has_room(&self, file: usize) -> bool {
        match self.connection(file) {
            Ok((connection, _)) => {
                let model = &self.connections[connection].model;
                model.pended(CLIENT) < 12 && model.pended(SERVER) < 12
            }
            Err(_) => true,
        }
    }

    fn started(&mut self, connection: usize, started: Started) -> Answer {
        self.collect(connection);
        match started {
            Started::Pends => Answer::of(s::PENDING),
            Started::Over(outcome) => answer(outcome),
        }
    }

    /// NtReadFile.
    pub fn read(&mut self, file: usize, op: u32, len: usize) -> Answer {
        if self.files[file] != File::Gone && !self.may(file, true) {
            return Answer::of(s::ACCESS_DENIED);
        }
        let (connection, who) = match self.connection(file) {
            Ok(found) => found,
            Err(status @ (s::LISTENING | s::DISCONNECTED)) => {
                return Answer::of(says("NP-READ-05", status, s::BROKEN));
            }
            Err(status @ s::INVALID_PARAMETER) => {
                return Answer::of(says("NP-READ-22", status, s::ILLEGAL_FUNCTION));
            }
            Err(status) => return Answer::of(status),
        };
        let of = &mut self.connections[connection];
        let disconnected = of.model.state(who) == State::Disconnected;
        let against = !self.pipes[of.pipe].direction.allows(who, true);
        if !disconnected && against && holds("NP-READ-06", true) {
            return Answer::of(s::INVALID_PARAMETER);
        }
        let started = of.model.read(who, op, len, false);
        self.started(connection, started)
    }

    /// NtWriteFile.
    pub fn write(&mut self, file: usize, op: u32, data: &[u8]) -> Answer {
        if self.files[file] != File::Gone && !self.may(file, false) {
            return Answer::of(s::ACCESS_DENIED);
        }
        let (connection, who) = match self.connection(file) {
            Ok(found) => found,
            Err(status @ (s::LISTENING | s::DISCONNECTED)) => {
                return Answer::of(says("NP-WRITE-01", status, s::BROKEN));
            }
            Err(status @ s::INVALID_PARAMETER) => {
                return Answer::of(says("NP-WRITE-16", status, s::ILLEGAL_FUNCTION));
            }
            Err(status) => return Answer::of(status),
        };
        let of = &mut self.connections[connection];
        let connected = of.model.state(who) == State::Connected;
        let against = !self.pipes[of.pipe].direction.allows(who, false);
        if connected && against && holds("NP-WRITE-02", true) {
            return Answer::of(s::INVALID_PARAMETER);
        }
        let started = of.model.write(who, op, data, false);
        self.started(connection, started)
    }

    /// NtFlushBuffersFile, if it does not have to wait.
    pub fn flush(&mut self, file: usize) -> Option<u32> {
        match self.connection(file) {
            // NP-FLUSH-02: a server end in any state; NP-FLUSH-03: the device.
            Err(status @ (s::LISTENING | s::DISCONNECTED)) => {
                Some(says("NP-FLUSH-02", s::SUCCESS, status))
            }
            Err(status @ s::INVALID_PARAMETER) => {
                Some(says("NP-FLUSH-03", s::DISCONNECTED, status))
            }
            Err(status) => Some(status),
            Ok((connection, who)) => {
                let mut copy = self.connections[connection].model.clone();
                match copy.flush(who, u32::MAX) {
                    Started::Pends => None,
                    Started::Over(outcome) => Some(answer(outcome).status),
                }
            }
        }
    }

    /// FSCTL_PIPE_PEEK with so much room behind the header: status, information, and the structure's words and data.
    ///
    /// # Errors
    /// As the rules say; `None`: the rules do not say.
    pub fn peek(&self, file: usize, room: usize) -> Option<Result<Peeked, u32>> {
        let denied = self.files[file] != File::Gone && !self.may(file, true);
        if denied && holds("NP-NUM-01", true) {
            return Some(Err(s::ACCESS_DENIED));
        }
        let (connection, who) = match self.connection(file) {
            Ok(found) => found,
            Err(status @ (s::LISTENING | s::DISCONNECTED)) => {
                return Some(Err(says("NP-PEEK-02", s::INVALID_PIPE_STATE, status)));
            }
            Err(status @ s::INVALID_PARAMETER) => {
                let status = says("NP-DEV-02", status, s::ILLEGAL_FUNCTION);
                return Some(Err(says("NP-PEEK-03", status, s::ILLEGAL_FUNCTION)));
            }
            Err(status) => return Some(Err(status)),
        };
        let of = &self.connections[connection];
        if !self.pipes[of.pipe].direction.allows(who, true) {
            return None;
        }
        Some(match of.model.peek(who, room) {
            Err(why) => Err(fail(why)),
            Ok(peek) => {
                let state = match peek.state {
                    State::Closing => says("NP-PEEK-04", 4, 3),
                    _ => 3,
                };
                let words = [state, peek.available, peek.messages, peek.message_len];
                let status = if peek.partial {
                    s::BUFFER_OVERFLOW
                } else {
                    s::SUCCESS
                };
                Ok((status, words, peek.data))
            }
        })
    }

    /// FSCTL_PIPE_TRANSCEIVE.
    pub fn transceive(&mut self, file: usize, op: u32, request: &[u8], room: usize) -> Answer {
        let may = self.may(file, true) && self.may(file, false);
        if self.files[file] != File::Gone && !may && holds("NP-NUM-01", true) {
            return Answer::of(s::ACCESS_DENIED);
        }
        let (connection, who) = match self.connection(file) {
            Ok(found) => found,
            Err(status @ (s::LISTENING | s::DISCONNECTED)) => {
                return Answer::of(says("NP-XCV-01", s::INVALID_PIPE_STATE, status));
            }
            Err(status @ s::INVALID_PARAMETER) => {
                return Answer::of(says("NP-DEV-04", s::DISCONNECTED, status));
            }
            Err(status) => return Answer::of(status),
        };
        let of = &mut self.connections[connection];
        let disconnected = of.model.state(who) == State::Disconnected;
        let duplex = self.pipes[of.pipe].direction == Direction::Duplex;
        if !disconnected && !duplex && holds("NP-XCV-02", true) {
            return Answer::of(s::INVALID_PIPE_STATE);
        }
        let started = of.model.transact(who, op, request, room);
        self.started(connection, started)
    }

    // ---- control -----------------------------------------------------------------------------------------------

    /// FSCTL_PIPE_LISTEN.
    pub fn listen(&mut self, file: usize, op: u32) -> u32 {
        let instance = match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => {
                let status = says("NP-DEV-03", s::ILLEGAL_FUNCTION, s::INVALID_PARAMETER);
                return says("NP-LISTEN-06", status, s::INVALID_PARAMETER);
            }
            File::Client(_) => {
                return says("NP-LISTEN-05", s::ILLEGAL_FUNCTION, s::INVALID_PIPE_STATE);
            }
            File::Server(instance) => instance,
        };
        let stage = self.instances[instance].stage;
        match stage {
            Stage::Connected(connection) => {
                match self.connections[connection].model.state(SERVER) {
                    State::Closing => return says("NP-LISTEN-04", s::CLOSING, s::CONNECTED),
                    _ => return says("NP-LISTEN-03", s::CONNECTED, s::SUCCESS),
                }
            }
            Stage::Disconnected => {
                if holds("NP-LISTEN-02", true) {
                    self.enter_listening(instance);
                }
            }
            Stage::Listening(_) => {}
        }
        if self.instances[instance].completion == Completion::Complete {
            return match stage {
                // NP-LISTEN-02, 14: also when that is what has just been done.
                Stage::Disconnected => says("NP-LISTEN-14", s::LISTENING, s::SUCCESS),
                _ => says("NP-LISTEN-01", s::LISTENING, s::SUCCESS),
            };
        }
        self.instances[instance].listens.push(op);
        s::PENDING
    }

    /// FSCTL_PIPE_DISCONNECT.
    pub fn disconnect(&mut self, file: usize) -> u32 {
        let instance = match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => return says("NP-DISC-06", s::DISCONNECTED, s::ILLEGAL_FUNCTION),
            File::Client(connection) => {
                return match self.connections[connection].model.state(CLIENT) {
                    State::Disconnected => says("NP-DISC-06", s::DISCONNECTED, s::ILLEGAL_FUNCTION),
                    _ => says("NP-DISC-05", s::ILLEGAL_FUNCTION, s::SUCCESS),
                };
            }
            File::Server(instance) => instance,
        };
        match self.instances[instance].stage {
            Stage::Disconnected => return says("NP-DISC-03", s::DISCONNECTED, s::SUCCESS),
            Stage::Listening(_) => {
                // NP-DISC-04, as the driver does it.
                if !holds("NP-DISC-04", true) {
                    return s::LISTENING;
                }
                self.end_listens(instance, s::DISCONNECTED);
            }
            Stage::Connected(connection) => {
                // NP-DISC-01, 02, 07, 08.
                let _ = self.connections[connection].model.disconnect();
                self.collect(connection);
            }
        }
        self.instances[instance].stage = Stage::Disconnected;
        if !holds("NP-DISC-09", true) {
            self.enter_listening(instance);
        }
        s::SUCCESS
    }

    /// FSCTL_PIPE_WAIT, for ever or not at all.
    pub fn wait(&mut self, file: usize, op: u32, name: u8, for_ever: bool) -> u32 {
        match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => {}
            File::Server(_) | File::Client(_) => {
                return says("NP-WAIT-01", s::ILLEGAL_FUNCTION, s::INVALID_PARAMETER);
            }
        }
        let Some(pipe) = self.named(name) else {
            return says("NP-WAIT-04", s::NAME_NOT_FOUND, s::IO_TIMEOUT);
        };
        let listens = |(_, one): (usize, &Instance)| matches!(one.stage, Stage::Listening(_));
        if self.of_pipe(pipe).any(listens) && holds("NP-WAIT-05", true) {
            return s::SUCCESS;
        }
        if !for_ever || !holds("NP-WAIT-06", true) {
            return says("NP-WAIT-07", s::IO_TIMEOUT, s::NOT_AVAILABLE);
        }
        self.waits.push((op, name));
        s::PENDING
    }

    /// NtCancelIoFileEx for one operation.
    pub fn cancel(&mut self, op: u32) -> u32 {
        if let Some(at) = self.waits.iter().position(|(wait, _)| *wait == op) {
            self.waits.remove(at);
            self.finish(op, says("NP-WAIT-10", s::CANCELLED, s::IO_TIMEOUT));
            return s::SUCCESS;
        }
        for instance in 0..self.instances.len() {
            let listens = &mut self.instances[instance].listens;
            if let Some(at) = listens.iter().position(|listen| *listen == op) {
                listens.remove(at);
                self.finish(op, says("NP-LISTEN-09", s::CANCELLED, s::BROKEN));
                return s::SUCCESS;
            }
        }
        for connection in 0..self.connections.len() {
            for who in [CLIENT, SERVER] {
                if self.connections[connection].model.cancel(who, op) {
                    self.collect(connection); // NP-CANCEL-01 to 03
                    return s::SUCCESS;
                }
            }
        }
        says("NP-CANCEL-04", s::NOT_FOUND, s::SUCCESS)
    }

    // ---- information -------------------------------------------------------------------------------------------

    /// Sets FilePipeInformation.
    pub fn set_modes(&mut self, file: usize, read: Kind, completion: Completion) -> u32 {
        let set = match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => {
                return says("NP-INFO-16", s::INVALID_PARAMETER, s::ILLEGAL_FUNCTION);
            }
            File::Client(connection) => {
                let of = &mut self.connections[connection];
                if of.model.state(CLIENT) == State::Disconnected {
                    return says("NP-INFO-01", s::DISCONNECTED, s::INVALID_PIPE_STATE);
                }
                // NP-INFO-02: FILE_WRITE_ATTRIBUTES comes with GENERIC_WRITE.
                if !of.may.1 && holds("NP-INFO-02", true) {
                    return s::ACCESS_DENIED;
                }
                of.model.set_modes(CLIENT, read, completion)
            }
            File::Server(instance) => {
                let one = &self.instances[instance];
                let set = match one.stage {
                    Stage::Connected(connection) => {
                        let model = &mut self.connections[connection].model;
                        model.set_modes(SERVER, read, completion)
                    }
                    _ => {
                        let bytes = self.pipes[one.pipe].kind == Kind::Byte;
                        if bytes && read == Kind::Message && holds("NP-INFO-05", true) {
                            Err(Fail::InvalidMode)
                        } else {
                            Ok(())
                        }
                    }
                };
                if set.is_ok() {
                    self.instances[instance].read = read;
                    self.instances[instance].completion = completion;
                }
                set
            }
        };
        set.map_or_else(fail, |()| s::SUCCESS)
    }

    /// FilePipeLocalInformation, number by number (NP-INFO-08 to 10).
    ///
    /// # Errors
    /// As the rules say.
    pub fn local(&self, file: usize) -> Result<[usize; 10], u32> {
        let (pipe, quotas, who, connection) = match self.files[file] {
            File::Gone => return Err(s::INVALID_HANDLE),
            File::Root(_) => {
                return Err(says(
                    "NP-INFO-16",
                    s::INVALID_PARAMETER,
                    s::ILLEGAL_FUNCTION,
                ));
            }
            File::Client(connection) => {
                let of = &self.connections[connection];
                (of.pipe, of.quotas, CLIENT, Some(connection))
            }
            File::Server(instance) => {
                let one = &self.instances[instance];
                let connection = match one.stage {
                    Stage::Connected(connection) => Some(connection),
                    _ => None,
                };
                (one.pipe, one.quotas, SERVER, connection)
            }
        };
        let outgoing = if who == SERVER { quotas.1 } else { quotas.0 };
        let (state, readable, writable) = match connection {
            Some(connection) => {
                let info = self.connections[connection].model.info(who).map_err(fail)?;
                let state = match info.state {
                    State::Disconnected => 1,
                    State::Connected => 3,
                    State::Closing => 4,
                };
                (state, info.readable, info.writable)
            }
            None => match self.files[file] {
                File::Server(instance) if self.instances[instance].stage == Stage::Disconnected => {
                    (1, 0, outgoing)
                }
                _ => (2, 0, outgoing),
            },
        };
        let of = &self.pipes[pipe];
        Ok([
            usize::from(of.kind == Kind::Message),
            match of.direction {
                Direction::Inbound => 0,
                Direction::Outbound => 1,
                Direction::Duplex => 2,
            },
            of.max,
            // NP-OBJ-01: none, once the pipe has gone.
            self.of_pipe(pipe).count(),
            quotas.0,
            readable,
            quotas.1,
            writable,
            state,
            usize::from(holds("NP-INFO-08", who == SERVER)),
        ])
    }
}
