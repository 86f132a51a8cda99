//! Handle tables of the native layer in this process or in another one, with the same calls.
//!
//! A test that is written against [`Table`] runs with both ends in one table, in two of one process, and in two processes.
//! A call to the other process is a packet each way; what a call is given to report to is mirrored here, and after every
//! call each table is looked at, so that what has completed in the other process shows here before the call returns.

use std::io::{BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use npfs::npfs::{Quality, SecurityParts};
use npfs::nt::*;
use npfs::security::SecurityDescriptor;
use npfs::{Deadline, EndToken, Mask, Namespace, NtStatus};

use crate::sys;

/// How long an answer may take. Calls do not block there, so a longer silence is a hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a status block holds that nobody has written to.
const UNTOUCHED: (NtStatus, usize) = (NtStatus(0xDEAD_BEEF), 0xDEAD);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle table among others of one test. Its calls are those of [`Nt`].
#[derive(Clone)]
pub struct Table {
    all: Arc<Vec<Side>>,
    own: usize,
}

enum Side {
    Here(Nt),
    There(Remote),
}

/// A process with a handle table.
#[derive(Clone)]
pub struct Remote(Arc<Mutex<Wire>>);

struct Wire {
    process: Child,
    socket: BufReader<UnixStream>,
    /// What pends there, by number, and where it reports to here.
    pended: Vec<(u32, Io, Buffer)>,
    next: u32,
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Fields one after the other.
#[derive(Default)]
struct Put(Vec<u8>);

impl Put {
    fn u32(mut self, number: u32) -> Put {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn size(self, number: usize) -> Put {
        self.u32(u32::try_from(number).expect("short"))
    }

    fn bytes(self, bytes: &[u8]) -> Put {
        let mut put = self.size(bytes.len());
        put.0.extend(bytes);
        put
    }

    fn maybe(self, number: Option<u32>) -> Put {
        self.u32(number.is_some().into()).u32(number.unwrap_or(0))
    }

    fn attributes(self, at: &Attributes<'_>) -> Put {
        let name: Vec<u8> = at.name.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let security = at.security.as_ref();
        let security = security.map(|security| security.to_bytes().expect("a descriptor"));
        self.maybe(at.root.map(|root| root.0))
            .bytes(&name)
            .maybe(at.quality.map(|quality| quality.bits()))
            .u32(security.is_some().into())
            .bytes(&security.unwrap_or_default())
    }

    fn create(self, create: &CreatePipe) -> Put {
        let timeout = create.default_timeout;
        let put = self
            .u32(create.access.bits())
            .u32(create.share.bits())
            .u32(create.disposition)
            .u32(create.options.bits())
            .u32(create.pipe_type)
            .u32(create.read_mode)
            .u32(create.completion_mode)
            .u32(create.max_instances)
            .u32(create.in_quota)
            .u32(create.out_quota)
            .u32(timeout.is_some().into());
        put.bytes(&timeout.unwrap_or(0).to_le_bytes())
    }
}

struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn u32(&mut self) -> u32 {
        let (number, rest) = self.0.split_first_chunk().expect("four bytes");
        self.0 = rest;
        u32::from_le_bytes(*number)
    }

    fn size(&mut self) -> usize {
        self.u32() as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.size();
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes.to_vec()
    }

    fn maybe(&mut self) -> Option<u32> {
        let (is, number) = (self.u32() != 0, self.u32());
        is.then_some(number)
    }

    fn handle(&mut self) -> Handle {
        Handle(self.u32())
    }

    fn parts(&mut self) -> SecurityParts {
        SecurityParts::from_bits_retain(self.u32())
    }

    fn attributes<T>(&mut self, with: impl FnOnce(&Attributes<'_>, &mut Self) -> T) -> T {
        let root = self.maybe().map(Handle);
        let name = self.bytes();
        let name: Vec<u16> = name
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        let quality = self.maybe().map(Quality::from_bits_retain);
        let (has_security, security) = (self.u32() != 0, self.bytes());
        let security =
            has_security.then(|| SecurityDescriptor::from_bytes(&security).expect("a descriptor"));
        let at = Attributes {
            root,
            security,
            quality,
            ..Attributes::named(&name)
        };
        with(&at, self)
    }

    fn create(&mut self) -> CreatePipe {
        let mut create = CreatePipe {
            access: Mask::from_bits_retain(self.u32()),
            share: Share::from_bits_retain(self.u32()),
            disposition: self.u32(),
            options: Options::from_bits_retain(self.u32()),
            pipe_type: self.u32(),
            read_mode: self.u32(),
            completion_mode: self.u32(),
            max_instances: self.u32(),
            in_quota: self.u32(),
            out_quota: self.u32(),
            default_timeout: None,
        };
        let (has_timeout, timeout) = (self.u32() != 0, self.bytes());
        let timeout = i64::from_le_bytes(timeout.try_into().expect("eight bytes"));
        create.default_timeout = has_timeout.then_some(timeout);
        create
    }
}

const RESET: u32 = 0;
const LOOK: u32 = 1;
const CREATE: u32 = 2;
const OPEN: u32 = 3;
const CLOSE: u32 = 4;
const READ: u32 = 5;
const WRITE: u32 = 6;
const FLUSH: u32 = 7;
const CONTROL: u32 = 8;
const CANCEL_FILE: u32 = 9;
const CANCEL: u32 = 10;
const SET: u32 = 11;
const QUERY: u32 = 12;
const DUPLICATE: u32 = 13;
const GIVE: u32 = 14;
const TAKE: u32 = 15;
const SECURE: u32 = 16;
const SECURITY: u32 = 17;
const SIGNALLED: u32 = 18;

/// The number of a status block that is none of what pends there.
const NO_CALL: u32 = 0;

fn send(socket: &mut UnixStream, message: &[u8]) -> std::io::Result<()> {
    let mut whole = Put::default().bytes(message).0;
    whole.shrink_to_fit();
    socket.write_all(&whole)
}

fn receive(socket: &mut impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Remote {
    /// Starts `exe` (see [`crate::child_exe!`]) against the broker at `socket`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(exe: &str, socket: &str) -> Remote {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let process = Command::new(exe)
            .args(["table", socket])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .spawn()
            .expect("the child binary runs");
        Remote(Arc::new(Mutex::new(Wire {
            process,
            socket: BufReader::new(ours),
            pended: Vec::new(),
            next: NO_CALL,
        })))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        lock(&self.0).process.id()
    }

    /// Kills it, and waits until it has gone.
    pub fn kill(&self) {
        let wire = &mut *lock(&self.0);
        let _ = wire.process.kill();
        let _ = wire.process.wait();
    }

    /// An empty table.
    fn reset(&self) {
        lock(&self.0).pended.clear();
        self.call(Put::default().u32(RESET), |_| ());
    }

    fn call<T>(&self, request: Put, answer: impl FnOnce(&mut Take<'_>) -> T) -> T {
        let wire = &mut *lock(&self.0);
        send(wire.socket.get_mut(), &request.0).expect("the other process reads");
        let reply = receive(&mut wire.socket).expect("the other process answers");
        let mut take = Take(&reply);
        for _ in 0..take.u32() {
            let (number, status, information) = (take.u32(), take.u32(), take.size());
            let data = take.bytes();
            let at = wire.pended.iter().position(|(other, ..)| *other == number);
            let (_, io, buffer) = wire.pended.remove(at.expect("it pends"));
            buffer.fill(&data);
            io.status.set(NtStatus(status), information);
            if let Some(event) = io.event {
                event.set();
            }
        }
        answer(&mut take)
    }

    /// A call that reports to `io`, and perhaps brings something into `buffer`.
    fn start(
        &self,
        io: &Io,
        buffer: &Buffer,
        request: impl FnOnce(Put) -> Put,
        op: u32,
    ) -> NtStatus {
        let number = {
            let wire = &mut *lock(&self.0);
            wire.next += 1;
            wire.pended.push((wire.next, io.clone(), buffer.clone()));
            wire.next
        };
        if let Some(event) = &io.event {
            event.reset();
        }
        let request = request(Put::default().u32(op).u32(number).size(buffer.len()));
        let status = self.call(request, |take| NtStatus(take.u32()));
        if status != NtStatus::PENDING {
            // One that has failed at once reports nothing.
            lock(&self.0).pended.retain(|(other, ..)| *other != number);
        }
        status
    }

    fn number_of(&self, status: &StatusBlock) -> u32 {
        let wire = lock(&self.0);
        let of = wire.pended.iter().find(|(_, io, _)| io.status.is(status));
        of.map_or(NO_CALL, |(number, ..)| *number)
    }
}

fn status_of(take: &mut Take<'_>) -> NtResult<u32> {
    let (status, value) = (NtStatus(take.u32()), take.u32());
    if status == NtStatus::SUCCESS {
        Ok(value)
    } else {
        Err(status)
    }
}

impl Table {
    /// Two tables of this process, or one twice.
    pub fn here(first: Nt, second: Nt) -> (Table, Table) {
        Table::of(vec![Side::Here(first), Side::Here(second)])
    }

    /// One of this process, and an empty one of another.
    pub fn there(first: Nt, second: &Remote) -> (Table, Table) {
        second.reset();
        Table::of(vec![Side::Here(first), Side::There(second.clone())])
    }

    fn of(sides: Vec<Side>) -> (Table, Table) {
        let all = Arc::new(sides);
        let table = |own| Table {
            all: all.clone(),
            own,
        };
        (table(0), table(1))
    }

    /// What has completed shows, wherever it was issued.
    pub fn look(&self) {
        // In one process every call looks after the connection that it is on.
        if !self.all.iter().any(|side| matches!(side, Side::There(_))) {
            return;
        }
        for side in &*self.all {
            match side {
                Side::Here(nt) => look(nt),
                Side::There(remote) => remote.call(Put::default().u32(LOOK), |_| ()),
            }
        }
    }

    /// The process that it is in.
    pub fn pid(&self) -> u32 {
        match &self.all[self.own] {
            Side::Here(_) => std::process::id(),
            Side::There(remote) => remote.pid(),
        }
    }

    /// Whether both are in one.
    pub fn shares_a_process_with(&self, other: &Table) -> bool {
        self.pid() == other.pid()
    }

    fn on<T>(&self, here: impl FnOnce(&Nt) -> T, there: impl FnOnce(&Remote) -> T) -> T {
        let answer = match &self.all[self.own] {
            Side::Here(nt) => here(nt),
            Side::There(remote) => there(remote),
        };
        self.look();
        answer
    }

    /// [`Nt::wait`]; in the other process for events and files only.
    ///
    /// # Errors
    /// TIMEOUT.
    ///
    /// # Panics
    /// If something else is waited for there.
    pub fn wait(&self, objects: &[Waitable], deadline: Deadline) -> NtResult<usize> {
        if let Side::Here(nt) = &self.all[self.own] {
            return nt.wait(objects, deadline);
        }
        loop {
            self.look();
            let set = objects.iter().position(|object| match object {
                Waitable::Event(event) => event.is_set(),
                Waitable::File(handle) => self.is_signalled(*handle),
                other => panic!("{other:?} is not mirrored"),
            });
            match set {
                Some(index) => return Ok(index),
                None if deadline.passed() => return Err(NtStatus::TIMEOUT),
                None => {}
            }
        }
    }

    /// Whether a file object is signalled.
    fn is_signalled(&self, handle: Handle) -> bool {
        let request = Put::default().u32(SIGNALLED).u32(handle.0);
        self.on(
            |nt| is_signalled(nt, handle),
            |remote| remote.call(request, |take| take.u32() != 0),
        )
    }

    /// [`Nt::set_security_object`].
    ///
    /// # Errors
    /// As that.
    pub fn set_security_object(
        &self,
        handle: Handle,
        parts: SecurityParts,
        descriptor: &SecurityDescriptor,
    ) -> NtResult<()> {
        let request = Put::default().u32(SECURE).u32(handle.0).u32(parts.bits());
        let bytes = descriptor.to_bytes().expect("a descriptor");
        self.on(
            |nt| nt.set_security_object(handle, parts, descriptor),
            |remote| remote.call(request.bytes(&bytes), status_of).map(|_| ()),
        )
    }

    /// [`Nt::query_security_object`].
    ///
    /// # Errors
    /// As that.
    pub fn query_security_object(
        &self,
        handle: Handle,
        parts: SecurityParts,
    ) -> NtResult<SecurityDescriptor> {
        let request = Put::default().u32(SECURITY).u32(handle.0).u32(parts.bits());
        self.on(
            |nt| nt.query_security_object(handle, parts),
            |remote| {
                remote.call(request, |take| {
                    let status = status_of(take);
                    let bytes = take.bytes();
                    status.map(|_| SecurityDescriptor::from_bytes(&bytes).expect("a descriptor"))
                })
            },
        )
    }

    /// [`Nt::create_named_pipe`].
    ///
    /// # Errors
    /// As that.
    pub fn create_named_pipe(
        &self,
        at: &Attributes<'_>,
        create: &CreatePipe,
    ) -> NtResult<(Handle, u32)> {
        let request = || Put::default().u32(CREATE).attributes(at).create(create);
        self.on(
            |nt| nt.create_named_pipe(at, create),
            |remote| remote.call(request(), opened),
        )
    }

    /// [`Nt::open_file`].
    ///
    /// # Errors
    /// As that.
    pub fn open_file(
        &self,
        at: &Attributes<'_>,
        access: Mask,
        disposition: u32,
        options: u32,
    ) -> NtResult<(Handle, u32)> {
        let request = || {
            let put = Put::default().u32(OPEN).attributes(at);
            put.u32(access.bits()).u32(disposition).u32(options)
        };
        self.on(
            |nt| nt.open_file(at, access, disposition, options),
            |remote| remote.call(request(), opened),
        )
    }

    /// [`Nt::close`].
    ///
    /// # Errors
    /// As that.
    pub fn close(&self, handle: Handle) -> NtResult<()> {
        let request = Put::default().u32(CLOSE).u32(handle.0);
        self.on(
            |nt| nt.close(handle),
            |remote| remote.call(request, status_of).map(|_| ()),
        )
    }

    /// [`Nt::duplicate`].
    ///
    /// # Errors
    /// As that.
    pub fn duplicate(&self, handle: Handle, access: Option<Mask>) -> NtResult<Handle> {
        let request = Put::default().u32(DUPLICATE).u32(handle.0);
        let request = request.maybe(access.map(|access| access.bits()));
        self.on(
            |nt| nt.duplicate(handle, access),
            |remote| remote.call(request, status_of).map(Handle),
        )
    }

    /// [`Nt::give`], with the rights that the handle has.
    ///
    /// # Errors
    /// As that.
    pub fn give(&self, handle: Handle) -> NtResult<EndToken> {
        let request = Put::default().u32(GIVE).u32(handle.0);
        self.on(
            |nt| nt.give(handle, None),
            |remote| {
                remote.call(request, |take| {
                    let given = status_of(take);
                    let token = String::from_utf8(take.bytes()).expect("text");
                    given.map(|_| token.parse().expect("a token"))
                })
            },
        )
    }

    /// [`Nt::take`].
    ///
    /// # Errors
    /// As that.
    pub fn take(&self, token: EndToken) -> NtResult<Handle> {
        let request = Put::default().u32(TAKE).bytes(token.to_string().as_bytes());
        self.on(
            |nt| nt.take(token),
            |remote| remote.call(request, status_of).map(Handle),
        )
    }

    /// [`Nt::read_file`].
    pub fn read_file(&self, handle: Handle, io: &Io, buffer: &Buffer) -> NtStatus {
        self.on(
            |nt| nt.read_file(handle, io, buffer),
            |remote| remote.start(io, buffer, |put| put.u32(handle.0), READ),
        )
    }

    /// [`Nt::write_file`].
    pub fn write_file(&self, handle: Handle, io: &Io, data: &[u8]) -> NtStatus {
        let none = Buffer::new(0);
        self.on(
            |nt| nt.write_file(handle, io, data),
            |remote| remote.start(io, &none, |put| put.u32(handle.0).bytes(data), WRITE),
        )
    }

    /// [`Nt::flush_buffers_file`]; its status block is not mirrored.
    pub fn flush_buffers_file(&self, handle: Handle, status: &StatusBlock) -> NtStatus {
        let request = Put::default().u32(FLUSH).u32(handle.0);
        self.on(
            |nt| nt.flush_buffers_file(handle, status),
            |remote| remote.call(request, |take| NtStatus(take.u32())),
        )
    }

    /// [`Nt::fs_control_file`].
    pub fn fs_control_file(
        &self,
        handle: Handle,
        io: &Io,
        control: Control,
        input: &[u8],
        output: &Buffer,
    ) -> NtStatus {
        let request = |put: Put| put.u32(handle.0).u32(control.0).bytes(input);
        self.on(
            |nt| nt.fs_control_file(handle, io, control, input, output),
            |remote| remote.start(io, output, request, CONTROL),
        )
    }

    /// [`Nt::cancel_io_file`].
    ///
    /// # Errors
    /// As that.
    pub fn cancel_io_file(&self, handle: Handle) -> NtResult<()> {
        let request = Put::default().u32(CANCEL_FILE).u32(handle.0);
        self.on(
            |nt| nt.cancel_io_file(handle),
            |remote| remote.call(request, status_of).map(|_| ()),
        )
    }

    /// [`Nt::cancel_io_file_ex`].
    ///
    /// # Errors
    /// As that.
    pub fn cancel_io_file_ex(&self, handle: Handle, with: Option<&StatusBlock>) -> NtResult<()> {
        self.on(
            |nt| nt.cancel_io_file_ex(handle, with),
            |remote| {
                let with = with.map(|status| remote.number_of(status));
                let request = Put::default().u32(CANCEL).u32(handle.0).maybe(with);
                remote.call(request, status_of).map(|_| ())
            },
        )
    }

    /// [`Nt::set_information_file`]; its status block is not mirrored.
    pub fn set_information_file(
        &self,
        handle: Handle,
        io: &StatusBlock,
        class: InfoClass,
        data: &[u8],
    ) -> NtStatus {
        let request = Put::default()
            .u32(SET)
            .u32(handle.0)
            .u32(class.0)
            .bytes(data);
        self.on(
            |nt| nt.set_information_file(handle, io, class, data),
            |remote| remote.call(request, |take| NtStatus(take.u32())),
        )
    }

    /// [`Nt::query_information_file`].
    pub fn query_information_file(
        &self,
        handle: Handle,
        io: &StatusBlock,
        class: InfoClass,
        out: &mut [u8],
    ) -> NtStatus {
        let request = Put::default()
            .u32(QUERY)
            .u32(handle.0)
            .u32(class.0)
            .size(out.len());
        match &self.all[self.own] {
            Side::Here(nt) => nt.query_information_file(handle, io, class, out),
            Side::There(remote) => remote.call(request, |take| {
                let (status, information) = (NtStatus(take.u32()), take.size());
                out.copy_from_slice(&take.bytes());
                if (status, information) != UNTOUCHED {
                    io.set(status, information);
                }
                NtStatus(take.u32())
            }),
        }
    }
}

/// The calls that do not reach other processes.
impl std::ops::Deref for Table {
    type Target = Nt;

    fn deref(&self) -> &Nt {
        match &self.all[self.own] {
            Side::Here(nt) => nt,
            Side::There(_) => panic!("that call does not reach the other process"),
        }
    }
}

fn opened(take: &mut Take<'_>) -> NtResult<(Handle, u32)> {
    let handle = status_of(take);
    let information = take.u32();
    handle.map(|handle| (Handle(handle), information))
}

fn is_signalled(nt: &Nt, handle: Handle) -> bool {
    nt.wait(&[Waitable::File(handle)], Deadline::after(Duration::ZERO))
        .is_ok()
}

/// Moves on what pends there, and waits for nothing.
fn look(nt: &Nt) {
    let _ = nt.wait(
        &[Waitable::Event(Event::new())],
        Deadline::after(Duration::ZERO),
    );
}

/// The life of a process with a handle table.
///
/// # Panics
/// If it was not started by [`Remote::spawn`].
pub fn main(broker: &str) {
    sys::die_with_parent();
    let socket = std::os::fd::AsFd::as_fd(&std::io::stdin())
        .try_clone_to_owned()
        .expect("a socket");
    let mut socket = BufReader::new(UnixStream::from(socket));
    let namespace = Namespace::connect(broker).expect("a broker");
    let mut there = There {
        nt: Nt::new(namespace.clone()),
        pended: Vec::new(),
    };
    while let Ok(request) = receive(&mut socket) {
        let mut take = Take(&request);
        let op = take.u32();
        if op == RESET {
            there = There {
                nt: Nt::new(namespace.clone()),
                pended: Vec::new(),
            };
        }
        let answer = there.play(op, &mut take);
        let reply = there.news().0;
        if send(socket.get_mut(), &[reply, answer.0].concat()).is_err() {
            break;
        }
    }
    std::process::exit(0);
}

struct There {
    nt: Nt,
    pended: Vec<(u32, Io, Buffer)>,
}

impl There {
    fn play(&mut self, op: u32, take: &mut Take<'_>) -> Put {
        let nt = &self.nt;
        let put = Put::default();
        let status = |status: NtResult<u32>| match status {
            Ok(value) => Put::default().u32(0).u32(value),
            Err(status) => Put::default().u32(status.0).u32(0),
        };
        let opened = |opened: NtResult<(Handle, u32)>| match opened {
            Ok((handle, information)) => status(Ok(handle.0)).u32(information),
            Err(error) => status(Err(error)).u32(0),
        };
        match op {
            RESET => put,
            LOOK => {
                look(nt);
                put
            }
            CREATE => {
                let made = take.attributes(|at, take| nt.create_named_pipe(at, &take.create()));
                opened(made)
            }
            OPEN => opened(take.attributes(|at, take| {
                let access = Mask::from_bits_retain(take.u32());
                nt.open_file(at, access, take.u32(), take.u32())
            })),
            CLOSE => status(nt.close(take.handle()).map(|()| 0)),
            DUPLICATE => {
                let handle = take.handle();
                let access = take.maybe().map(Mask::from_bits_retain);
                status(nt.duplicate(handle, access).map(|handle| handle.0))
            }
            GIVE => {
                let given = nt.give(take.handle(), None);
                let token = given.map(|token| token.to_string());
                let text = token.clone().unwrap_or_default();
                status(token.map(|_| 0)).bytes(text.as_bytes())
            }
            TAKE => {
                let token = String::from_utf8(take.bytes()).expect("text");
                let taken = nt.take(token.parse().expect("a token"));
                status(taken.map(|handle| handle.0))
            }
            READ | WRITE | CONTROL => {
                let (number, buffer) = (take.u32(), Buffer::new(take.size()));
                let io = Io {
                    event: Some(Event::new()),
                    status: StatusBlock::new(UNTOUCHED.0, UNTOUCHED.1),
                    context: 0,
                    callback: None,
                };
                let handle = take.handle();
                let status = match op {
                    READ => nt.read_file(handle, &io, &buffer),
                    WRITE => nt.write_file(handle, &io, &take.bytes()),
                    _ => {
                        let control = Control(take.u32());
                        nt.fs_control_file(handle, &io, control, &take.bytes(), &buffer)
                    }
                };
                // An immediate error reports nothing (NP-IO-01).
                if status.0 < 0xC000_0000 {
                    self.pended.push((number, io, buffer));
                }
                put.u32(status.0)
            }
            FLUSH => {
                let flushed = nt.flush_buffers_file(take.handle(), &StatusBlock::default());
                put.u32(flushed.0)
            }
            CANCEL_FILE => status(nt.cancel_io_file(take.handle()).map(|()| 0)),
            CANCEL => {
                let handle = take.handle();
                let with = take.maybe().map(|number| {
                    let of = self.pended.iter().find(|(other, ..)| *other == number);
                    of.map_or_else(StatusBlock::default, |(_, io, _)| io.status.clone())
                });
                status(nt.cancel_io_file_ex(handle, with.as_ref()).map(|()| 0))
            }
            SET => {
                let (handle, class) = (take.handle(), InfoClass(take.u32()));
                let io = StatusBlock::default();
                let set = nt.set_information_file(handle, &io, class, &take.bytes());
                put.u32(set.0)
            }
            QUERY => {
                let (handle, class) = (take.handle(), InfoClass(take.u32()));
                let io = StatusBlock::new(UNTOUCHED.0, UNTOUCHED.1);
                let mut out = vec![0; take.size()];
                let queried = nt.query_information_file(handle, &io, class, &mut out);
                let block = (io.status().0, io.information());
                put.u32(block.0).size(block.1).bytes(&out).u32(queried.0)
            }
            SECURE => {
                let (handle, parts) = (take.handle(), take.parts());
                let descriptor = SecurityDescriptor::from_bytes(&take.bytes());
                let set = nt.set_security_object(handle, parts, &descriptor.expect("one"));
                status(set.map(|()| 0))
            }
            SECURITY => {
                let seen = nt.query_security_object(take.handle(), take.parts());
                let bytes = match &seen {
                    Ok(seen) => seen.to_bytes().expect("one"),
                    Err(_) => Vec::new(),
                };
                status(seen.map(|_| 0)).bytes(&bytes)
            }
            SIGNALLED => put.u32(is_signalled(nt, take.handle()).into()),
            _ => panic!("an unknown call: {op}"),
        }
    }

    /// What has completed since the last time.
    fn news(&mut self) -> Put {
        // The event is what is set last.
        let is_over = |io: &Io| io.event.as_ref().is_some_and(Event::is_set);
        let (over, pended) = std::mem::take(&mut self.pended)
            .into_iter()
            .partition(|(_, io, _)| is_over(io));
        self.pended = pended;
        let over: Vec<(u32, Io, Buffer)> = over;
        over.iter().fold(
            Put::default().size(over.len()),
            |put, (number, io, buffer)| {
                put.u32(*number)
                    .u32(io.status.status().0)
                    .size(io.status.information())
                    .bytes(&buffer.bytes())
            },
        )
    }
}
