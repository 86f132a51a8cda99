//! A naive model of the whole of NPFS as one process sees it: names, instances, handles and what pends, one lock, no
//! sharing. Connections are [`super::Model`]. Each decision names its rule.
//!
//! Nothing here is taken from, or shared with, the code under test; statuses are plain numbers.

use super::{CLIENT, Completion, Fail, Kind, Model, Outcome, SERVER, Started, State, Who};

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
            information: count,
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
        self.end_waits(name, s::SUCCESS);
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
        for op in std::mem::take(&mut self.instances[instance].listens) {
            self.finish(op, status);
        }
    }

    // ---- creating and opening ----------------------------------------------------------------------------------

    /// NtCreateNamedPipeFile; `None`: without a name. The handle's number is the next one. Information.
    ///
    /// # Errors
    /// As the rules say.
    pub fn create(&mut self, name: Option<u8>, create: &Create) -> Result<usize, u32> {
        if !(1..=3).contains(&create.disposition) {
            return Err(s::INVALID_PARAMETER); // NP-CREATE-02
        }
        if create.kind == Kind::Byte && create.read == Kind::Message {
            return Err(s::INVALID_PARAMETER); // NP-CREATE-06
        }
        // NP-NAME-11: without a name there never is one already.
        let (pipe, information) = match name.and_then(|name| self.named(name)) {
            Some(pipe) => {
                let of = &self.pipes[pipe];
                if self.of_pipe(pipe).count() >= of.max {
                    return Err(s::INSTANCE_NOT_AVAILABLE); // NP-CREATE-21, 26
                }
                if create.disposition == 2 || create.direction != of.direction {
                    return Err(s::ACCESS_DENIED); // NP-CREATE-22, 23
                }
                (pipe, 1) // NP-CREATE-25
            }
            None => {
                if create.max == 0 {
                    return Err(s::INVALID_PARAMETER); // NP-CREATE-10, before 11
                }
                if create.disposition == 1 {
                    return Err(s::NAME_NOT_FOUND); // NP-CREATE-11
                }
                self.pipes.push(Pipe {
                    name,
                    alive: true,
                    kind: create.kind,
                    direction: create.direction,
                    max: create.max,
                });
                (self.pipes.len() - 1, 2) // NP-CREATE-13
            }
        };
        self.instances.push(Instance {
            pipe,
            alive: true,
            stage: Stage::Disconnected,
            // NP-CREATE-24: its own modes, as far as the pipe's type allows them.
            read: match self.pipes[pipe].kind {
                Kind::Byte => Kind::Byte,
                Kind::Message => create.read,
            },
            completion: create.completion,
            quotas: create.quotas,
            listens: Vec::new(),
        });
        let instance = self.instances.len() - 1;
        self.enter_listening(instance); // NP-OBJ-05
        self.files.push(File::Server(instance));
        Ok(information)
    }

    /// NtCreateFile of a name.
    ///
    /// # Errors
    /// As the rules say.
    pub fn open(&mut self, name: u8, may: (bool, bool)) -> Result<(), u32> {
        let pipe = self.named(name).ok_or(s::NAME_NOT_FOUND)?; // NP-OPEN-01, NP-NAME-16
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
            // NP-NAME-12.
            File::Server(instance) => self.instances[instance].pipe,
            File::Client(connection) => {
                if self.connections[connection].model.state(CLIENT) == State::Disconnected {
                    return Err(s::DISCONNECTED);
                }
                self.connections[connection].pipe
            }
        };
        if !self.pipes[pipe].alive {
            return Err(s::NAME_NOT_FOUND); // NP-OPEN-01
        }
        self.open_pipe(pipe, may)
    }

    fn open_pipe(&mut self, pipe: usize, may: (bool, bool)) -> Result<(), u32> {
        let direction = self.pipes[pipe].direction;
        if may.0 && !direction.allows(CLIENT, true) || may.1 && !direction.allows(CLIENT, false) {
            return Err(s::ACCESS_DENIED); // NP-OPEN-03, before 04 (NP-OPEN-06)
        }
        let since = |one: &Instance| match one.stage {
            Stage::Listening(since) => Some(since),
            _ => None,
        };
        let listening = self.of_pipe(pipe).filter(|(_, one)| since(one).is_some());
        // NP-OPEN-09: the one that has listened longest.
        let (instance, _) = listening
            .min_by_key(|(_, one)| since(one))
            .ok_or(s::NOT_AVAILABLE)?; // NP-OPEN-04
        let one = &self.instances[instance];
        let quotas = one.quotas;
        let mut model = Model::new(self.pipes[pipe].kind, quotas.0, quotas.1);
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
        self.end_listens(instance, s::SUCCESS); // NP-OPEN-10
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
                self.end_listens(instance, s::BROKEN); // NP-LISTEN-10, NP-CLOSE-04
                if let Stage::Connected(connection) = self.instances[instance].stage {
                    self.connections[connection].model.close(SERVER);
                    self.collect(connection);
                }
                self.instances[instance].alive = false;
                let pipe = self.instances[instance].pipe;
                if self.of_pipe(pipe).next().is_none() {
                    // NP-OBJ-01; NP-WAIT-09.
                    self.pipes[pipe].alive = false;
                    let name = self.pipes[pipe].name;
                    self.end_waits(name, s::NAME_NOT_FOUND);
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
            File::Root(_) => Err(s::INVALID_PARAMETER), // NP-DEV-01, 02
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
            Err(status) => return Answer::of(status),
        };
        let of = &mut self.connections[connection];
        let disconnected = of.model.state(who) == State::Disconnected;
        if !disconnected && !self.pipes[of.pipe].direction.allows(who, true) {
            return Answer::of(s::INVALID_PARAMETER); // NP-READ-06
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
            Err(status) => return Answer::of(status),
        };
        let of = &mut self.connections[connection];
        let connected = of.model.state(who) == State::Connected;
        if connected && !self.pipes[of.pipe].direction.allows(who, false) {
            return Answer::of(s::INVALID_PARAMETER); // NP-WRITE-02
        }
        let started = of.model.write(who, op, data, false);
        self.started(connection, started)
    }

    /// NtFlushBuffersFile, if it does not have to wait.
    pub fn flush(&mut self, file: usize) -> Option<u32> {
        match self.connection(file) {
            // NP-FLUSH-02: a server end in any state; NP-FLUSH-03: the device.
            Err(s::LISTENING | s::DISCONNECTED) => Some(s::SUCCESS),
            Err(s::INVALID_PARAMETER) => Some(s::DISCONNECTED),
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
        if self.files[file] != File::Gone && !self.may(file, true) {
            return Some(Err(s::ACCESS_DENIED)); // NP-NUM-01
        }
        let (connection, who) = match self.connection(file) {
            Ok(found) => found,
            // NP-PEEK-02.
            Err(s::LISTENING | s::DISCONNECTED) => return Some(Err(s::INVALID_PIPE_STATE)),
            Err(status) => return Some(Err(status)), // NP-PEEK-03
        };
        let of = &self.connections[connection];
        if !self.pipes[of.pipe].direction.allows(who, true) {
            return None;
        }
        Some(match of.model.peek(who, room) {
            Err(why) => Err(fail(why)),
            Ok(peek) => {
                let state = match peek.state {
                    State::Closing => 4,
                    _ => 3, // NP-PEEK-04
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
        if self.files[file] != File::Gone && !(self.may(file, true) && self.may(file, false)) {
            return Answer::of(s::ACCESS_DENIED); // NP-NUM-01
        }
        let (connection, who) = match self.connection(file) {
            Ok(found) => found,
            // NP-XCV-01; NP-DEV-04.
            Err(s::LISTENING | s::DISCONNECTED) => return Answer::of(s::INVALID_PIPE_STATE),
            Err(s::INVALID_PARAMETER) => return Answer::of(s::DISCONNECTED),
            Err(status) => return Answer::of(status),
        };
        let of = &mut self.connections[connection];
        let disconnected = of.model.state(who) == State::Disconnected;
        if !disconnected && self.pipes[of.pipe].direction != Direction::Duplex {
            return Answer::of(s::INVALID_PIPE_STATE); // NP-XCV-02
        }
        let started = of.model.transact(who, op, request, room);
        self.started(connection, started)
    }

    // ---- control -----------------------------------------------------------------------------------------------

    /// FSCTL_PIPE_LISTEN.
    pub fn listen(&mut self, file: usize, op: u32) -> u32 {
        let instance = match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) | File::Client(_) => return s::ILLEGAL_FUNCTION, // NP-LISTEN-05, 06
            File::Server(instance) => instance,
        };
        match self.instances[instance].stage {
            Stage::Connected(connection) => {
                match self.connections[connection].model.state(SERVER) {
                    State::Closing => return s::CLOSING, // NP-LISTEN-04
                    _ => return s::CONNECTED,            // NP-LISTEN-03
                }
            }
            Stage::Disconnected => self.enter_listening(instance), // NP-LISTEN-02
            Stage::Listening(_) => {}
        }
        if self.instances[instance].completion == Completion::Complete {
            return s::LISTENING; // NP-LISTEN-01, 02
        }
        self.instances[instance].listens.push(op);
        s::PENDING
    }

    /// FSCTL_PIPE_DISCONNECT.
    pub fn disconnect(&mut self, file: usize) -> u32 {
        let instance = match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => return s::DISCONNECTED, // NP-DISC-06
            File::Client(connection) => {
                return match self.connections[connection].model.state(CLIENT) {
                    State::Disconnected => s::DISCONNECTED, // NP-DISC-06
                    _ => s::ILLEGAL_FUNCTION,               // NP-DISC-05
                };
            }
            File::Server(instance) => instance,
        };
        match self.instances[instance].stage {
            Stage::Disconnected => return s::DISCONNECTED, // NP-DISC-03
            // NP-DISC-04, as the driver does it.
            Stage::Listening(_) => self.end_listens(instance, s::DISCONNECTED),
            Stage::Connected(connection) => {
                // NP-DISC-01, 02, 07, 08.
                let _ = self.connections[connection].model.disconnect();
                self.collect(connection);
            }
        }
        self.instances[instance].stage = Stage::Disconnected;
        s::SUCCESS
    }

    /// FSCTL_PIPE_WAIT, for ever or not at all.
    pub fn wait(&mut self, file: usize, op: u32, name: u8, for_ever: bool) -> u32 {
        match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => {}
            File::Server(_) | File::Client(_) => return s::ILLEGAL_FUNCTION, // NP-WAIT-01
        }
        let Some(pipe) = self.named(name) else {
            return s::NAME_NOT_FOUND; // NP-WAIT-04
        };
        let listens = |(_, one): (usize, &Instance)| matches!(one.stage, Stage::Listening(_));
        if self.of_pipe(pipe).any(listens) {
            return s::SUCCESS; // NP-WAIT-05
        }
        if !for_ever {
            return s::IO_TIMEOUT; // NP-WAIT-06, 07
        }
        self.waits.push((op, name));
        s::PENDING
    }

    /// NtCancelIoFileEx for one operation.
    pub fn cancel(&mut self, op: u32) -> u32 {
        if let Some(at) = self.waits.iter().position(|(wait, _)| *wait == op) {
            self.waits.remove(at);
            self.finish(op, s::CANCELLED); // NP-WAIT-10
            return s::SUCCESS;
        }
        for instance in 0..self.instances.len() {
            let listens = &mut self.instances[instance].listens;
            if let Some(at) = listens.iter().position(|listen| *listen == op) {
                listens.remove(at);
                self.finish(op, s::CANCELLED); // NP-LISTEN-09
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
        s::NOT_FOUND // NP-CANCEL-04
    }

    // ---- information -------------------------------------------------------------------------------------------

    /// Sets FilePipeInformation.
    pub fn set_modes(&mut self, file: usize, read: Kind, completion: Completion) -> u32 {
        let set = match self.files[file] {
            File::Gone => return s::INVALID_HANDLE,
            File::Root(_) => return s::INVALID_PARAMETER, // NP-INFO-16
            File::Client(connection) => {
                let of = &mut self.connections[connection];
                if of.model.state(CLIENT) == State::Disconnected {
                    return s::DISCONNECTED; // NP-INFO-01
                }
                if !of.may.1 {
                    return s::ACCESS_DENIED; // NP-INFO-02: FILE_WRITE_ATTRIBUTES comes with GENERIC_WRITE
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
                    _ if self.pipes[one.pipe].kind == Kind::Byte && read == Kind::Message => {
                        Err(Fail::InvalidMode) // NP-INFO-05
                    }
                    _ => Ok(()),
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
            File::Root(_) => return Err(s::INVALID_PARAMETER),
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
            usize::from(who == SERVER),
        ])
    }
}
