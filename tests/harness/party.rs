//! One end of a connection wherever it lives, and both ends with the books they belong to.

use crate::child::Child;
use crate::cmd::{Blocking, Cmd, Done, OpId, Reply};
use crate::driver::Driver;
use npfs_ringbuf::books::{ConnId, ConnSpec, LinkBooks, LinkConfig};
use npfs_ringbuf::fault::{Action, Point};
use npfs_ringbuf::{
    CompletionMode, Conn, End, Error, Grant, Info, Link, Peek, ProcessIndex, ReadMode, Shared,
    State,
};
use std::sync::Arc;

/// Who executes the commands to one end.
pub enum Party {
    /// this process
    Here(Driver),
    /// a child process
    There(Child),
}

macro_rules! ask {
    ($self:ident, $cmd:expr, $reply:ident) => {
        match $self.call($cmd) {
            Reply::$reply(value) => value,
            other => panic!("an answer of another kind: {other:?}"),
        }
    };
}

impl Party {
    /// Executes a command.
    ///
    /// # Panics
    /// If the child has gone.
    pub fn call(&mut self, cmd: Cmd) -> Reply {
        match self {
            Party::Here(driver) => driver.execute(cmd),
            Party::There(child) => {
                child.send(&cmd);
                child
                    .receive()
                    .unwrap_or_else(|| panic!("the child has gone at {cmd:?}"))
            }
        }
    }

    /// Opens an end by its grant.
    pub fn open(&mut self, grant: &Grant) {
        assert_eq!(
            self.call(Cmd::Open(grant.to_bytes().to_vec())),
            Reply::Unit(Ok(()))
        );
    }

    /// Starts a read of at most `len` bytes under the name `op`.
    ///
    /// # Errors
    /// Those that are immediate.
    pub fn start_read(&mut self, op: OpId, len: usize) -> Result<(), Error> {
        ask!(self, Cmd::StartRead(op, len), Unit)
    }

    /// Starts a write under the name `op`.
    ///
    /// # Errors
    /// Those that are immediate.
    pub fn start_write(&mut self, op: OpId, data: &[u8]) -> Result<(), Error> {
        ask!(self, Cmd::StartWrite(op, data.to_vec()), Unit)
    }

    /// Starts a flush under the name `op`.
    ///
    /// # Errors
    /// Those that are immediate.
    pub fn start_flush(&mut self, op: OpId) -> Result<(), Error> {
        ask!(self, Cmd::StartFlush(op), Unit)
    }

    /// Starts a transaction with `len` bytes of room under the name `op`.
    ///
    /// # Errors
    /// Those that are immediate.
    pub fn start_transact(&mut self, op: OpId, request: &[u8], len: usize) -> Result<(), Error> {
        ask!(self, Cmd::StartTransact(op, request.to_vec(), len), Unit)
    }

    /// Polls all pended operations once.
    pub fn poll_all(&mut self) -> Vec<(OpId, Done)> {
        ask!(self, Cmd::PollAll, Many)
    }

    /// Cancels one.
    pub fn cancel(&mut self, op: OpId) -> bool {
        ask!(self, Cmd::Cancel(op), Flag)
    }

    /// Drops one.
    pub fn forget(&mut self, op: OpId) {
        assert_eq!(self.call(Cmd::Forget(op)), Reply::Unit(Ok(())));
    }

    /// `try_read`.
    pub fn try_read(&mut self, len: usize) -> Done {
        ask!(self, Cmd::TryRead(len), Did)
    }

    /// `try_write`.
    pub fn try_write(&mut self, data: &[u8]) -> Done {
        ask!(self, Cmd::TryWrite(data.to_vec()), Did)
    }

    /// `peek` with `len` bytes of room.
    ///
    /// # Errors
    /// Those of peek.
    pub fn peek(&mut self, len: usize) -> Result<(Peek, Vec<u8>), Error> {
        ask!(self, Cmd::Peek(len), Peeked)
    }

    /// The counts.
    ///
    /// # Errors
    /// Those of info.
    pub fn info(&mut self) -> Result<Info, Error> {
        ask!(self, Cmd::Info, Info)
    }

    /// The state.
    pub fn state(&mut self) -> State {
        ask!(self, Cmd::State, State)
    }

    /// The modes.
    pub fn modes(&mut self) -> (ReadMode, CompletionMode) {
        match self.call(Cmd::Modes) {
            Reply::Modes(read, completion) => (read, completion),
            other => panic!("an answer of another kind: {other:?}"),
        }
    }

    /// Sets the modes.
    ///
    /// # Errors
    /// Those of `set_modes`.
    pub fn set_modes(&mut self, read: ReadMode, completion: CompletionMode) -> Result<(), Error> {
        ask!(self, Cmd::SetModes(read, completion), Unit)
    }

    /// Closes the end.
    pub fn close(&mut self) {
        assert_eq!(self.call(Cmd::Close), Reply::Unit(Ok(())));
    }

    /// Disconnects.
    ///
    /// # Errors
    /// Those of `disconnect`.
    pub fn disconnect(&mut self) -> Result<(), Error> {
        ask!(self, Cmd::Disconnect, Unit)
    }

    /// Starts a blocking call on a thread; answers that thread's serial.
    pub fn block(&mut self, op: OpId, what: Blocking, millis: Option<u64>) -> u32 {
        let serial = ask!(self, Cmd::Block(op, what, millis), Number);
        u32::try_from(serial).expect("a serial")
    }

    /// The outcome of a blocking call, if it ends within `millis` milliseconds.
    pub fn join(&mut self, op: OpId, millis: u64) -> Option<Done> {
        ask!(self, Cmd::Join(op, millis), Many)
            .pop()
            .map(|(_, done)| done)
    }

    /// Cancels a blocking call.
    pub fn cancel_blocked(&mut self, op: OpId) -> bool {
        ask!(self, Cmd::CancelBlocked(op), Flag)
    }

    /// Arms a fault point in that process.
    pub fn arm(&mut self, point: Point, action: Action) {
        assert_eq!(self.call(Cmd::Arm(point, action)), Reply::Unit(Ok(())));
    }

    /// How often the armed point has fired there.
    pub fn fired(&mut self) -> u64 {
        ask!(self, Cmd::Fired, Number)
    }

    /// The child.
    ///
    /// # Panics
    /// If the end lives here.
    pub fn child(&mut self) -> &mut Child {
        match self {
            Party::There(child) => child,
            Party::Here(_) => panic!("this end has no process of its own"),
        }
    }

    /// The end itself.
    ///
    /// # Panics
    /// If it lives in a child.
    pub fn conn(&self) -> Arc<Conn> {
        match self {
            Party::Here(driver) => driver.conn().clone(),
            Party::There(_) => panic!("this end lives in another process"),
        }
    }
}

/// Where the two ends of a [`Rig`] live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// both here
    OneProcess,
    /// each in a child of its own, by the path of the child binary
    TwoProcesses(&'a str),
    /// the server in a child, the client here
    ServerThere(&'a str),
    /// the client in a child, the server here
    ClientThere(&'a str),
}

/// The books of one link, and one connection on it at a time.
pub struct Rig {
    /// the broker's part
    pub books: LinkBooks,
    /// the server end
    pub server: Party,
    /// the client end
    pub client: Party,
    /// the server's process
    pub server_index: ProcessIndex,
    /// the client's process
    pub client_index: ProcessIndex,
    /// the connection
    pub id: ConnId,
}

impl Rig {
    /// A link with one connection.
    ///
    /// # Panics
    /// If the books refuse.
    pub fn new(place: Place<'_>, spec: &ConnSpec) -> Rig {
        Rig::with(place, spec, &LinkConfig::default())
    }

    /// The same, on a link of a given size.
    ///
    /// # Panics
    /// If the books refuse.
    pub fn with(place: Place<'_>, spec: &ConnSpec, config: &LinkConfig) -> Rig {
        let mut books = LinkBooks::create(config).expect("a link");
        let mut here: Option<(Shared<Link>, ProcessIndex)> = None;
        let mut party = |books: &mut LinkBooks, exe: Option<&str>| match exe {
            Some(exe) => {
                let mut child = Child::spawn(exe, books.share().expect("a duplicate"));
                let index = books
                    .add_process(Some(child.pid()))
                    .expect("room for a process");
                child.attach(index.get());
                (Party::There(child), index)
            }
            None => {
                let (link, index) = here.get_or_insert_with(|| {
                    let index = books.add_process(None).expect("room for a process");
                    let fd = books.share().expect("a duplicate");
                    (Link::attach(fd, index).expect("a sound link"), index)
                });
                (Party::Here(Driver::on(link.clone())), *index)
            }
        };
        let (server_exe, client_exe) = match place {
            Place::OneProcess => (None, None),
            Place::TwoProcesses(exe) => (Some(exe), Some(exe)),
            Place::ServerThere(exe) => (Some(exe), None),
            Place::ClientThere(exe) => (None, Some(exe)),
        };
        let (mut server, server_index) = party(&mut books, server_exe);
        let (mut client, client_index) = party(&mut books, client_exe);
        let id = connect(
            &mut books,
            spec,
            (&mut server, server_index),
            (&mut client, client_index),
        );
        Rig {
            books,
            server,
            client,
            server_index,
            client_index,
            id,
        }
    }

    /// Closes the connection in the books and makes another between the same processes.
    ///
    /// # Panics
    /// If the books refuse.
    pub fn renew(&mut self, spec: &ConnSpec) {
        self.server.close();
        self.client.close();
        for end in [End::Server, End::Client] {
            self.books
                .close(self.id, end)
                .expect("a connection of these books");
        }
        self.id = connect(
            &mut self.books,
            spec,
            (&mut self.server, self.server_index),
            (&mut self.client, self.client_index),
        );
    }

    /// One end.
    pub fn end(&mut self, end: End) -> &mut Party {
        match end {
            End::Server => &mut self.server,
            End::Client => &mut self.client,
        }
    }
}

fn connect(
    books: &mut LinkBooks,
    spec: &ConnSpec,
    server: (&mut Party, ProcessIndex),
    client: (&mut Party, ProcessIndex),
) -> ConnId {
    let (id, server_grant, client_grant) = books.connect(spec, server.1, client.1).expect("a slot");
    server.0.open(&server_grant);
    client.0.open(&client_grant);
    id
}

/// Both ends of one connection in this process, without commands in between.
pub struct Pair {
    /// the broker's part
    pub books: LinkBooks,
    /// this process's mapping
    pub link: Shared<Link>,
    /// this process
    pub index: ProcessIndex,
    /// the connection
    pub id: ConnId,
    /// the server end
    pub server: Arc<Conn>,
    /// the client end
    pub client: Arc<Conn>,
}

impl Pair {
    /// A link of the default size with one connection.
    ///
    /// # Panics
    /// If the books refuse.
    pub fn new(spec: &ConnSpec) -> Pair {
        Pair::with(spec, &LinkConfig::default())
    }

    /// The same, on a link of a given size.
    ///
    /// # Panics
    /// If the books refuse.
    pub fn with(spec: &ConnSpec, config: &LinkConfig) -> Pair {
        let mut books = LinkBooks::create(config).expect("a link");
        let index = books.add_process(None).expect("room for a process");
        let link = Link::attach(books.share().expect("a duplicate"), index).expect("a sound link");
        let (id, server, client) = open_both(&mut books, &link, index, spec);
        Pair {
            books,
            link,
            index,
            id,
            server,
            client,
        }
    }

    /// Another connection on the same link: its id, server end and client end.
    ///
    /// # Panics
    /// If the books refuse.
    pub fn another(&mut self, spec: &ConnSpec) -> (ConnId, Arc<Conn>, Arc<Conn>) {
        open_both(&mut self.books, &self.link, self.index, spec)
    }
}

fn open_both(
    books: &mut LinkBooks,
    link: &Shared<Link>,
    index: ProcessIndex,
    spec: &ConnSpec,
) -> (ConnId, Arc<Conn>, Arc<Conn>) {
    let (id, server, client) = books.connect(spec, index, index).expect("a slot");
    let open = |grant| Arc::new(Conn::open(link, &grant).expect("a grant of the books"));
    (id, open(server), open(client))
}
