//! What a call is given to report to, and calls that pend.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use npfs_ringbuf::{Alarm, Answer, ConnectionId, Deadline, Read, Rest, Started, wait_any};

use super::{
    Handle, Nt,
    file::File,
    thread::{CallingThread, calling_thread},
};
use crate::{Error, NtStatus, client::Channel, lock::lock, npfs::Tag, wire::Request};

/// IO_STATUS_BLOCK: written when a call completes, and not before (NP-IO-01).
#[derive(Clone, Debug, Default)]
pub struct StatusBlock(Arc<Words>);

#[derive(Debug, Default)]
struct Words {
    status: AtomicU32,
    information: AtomicUsize,
}

impl StatusBlock {
    /// With what a caller puts there to see whether it is touched.
    #[must_use]
    pub fn new(status: NtStatus, information: usize) -> StatusBlock {
        StatusBlock(Arc::new(Words {
            status: AtomicU32::new(status.0),
            information: AtomicUsize::new(information),
        }))
    }

    /// Status.
    #[must_use]
    pub fn status(&self) -> NtStatus {
        NtStatus(self.0.status.load(Ordering::Acquire))
    }

    /// Information: a count of bytes, mostly (NP-IO-14).
    #[must_use]
    pub fn information(&self) -> usize {
        self.0.information.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, status: NtStatus, information: usize) {
        self.0.information.store(information, Ordering::Release);
        self.0.status.store(status.0, Ordering::Release);
    }

    /// Whether both are one block.
    #[must_use]
    pub fn is(&self, other: &StatusBlock) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A notification event: set until it is reset.
#[derive(Clone, Debug, Default)]
pub struct Event(Arc<AtomicBool>);

/// Rung when anything that a thread may wait for is signalled.
static ALARM: Alarm = Alarm::new();
/// Threads in [`Nt::wait`].
static WAITERS: AtomicU32 = AtomicU32::new(0);

impl Event {
    /// Not set.
    #[must_use]
    pub fn new() -> Event {
        Event::default()
    }

    /// NtSetEvent.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
        // Either the waiter sees the event, or this the waiter.
        if WAITERS.load(Ordering::SeqCst) != 0 {
            ALARM.ring();
        }
    }

    /// NtResetEvent.
    pub fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn is(&self, other: &Event) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Memory that a call may write to after it has returned.
#[derive(Clone, Debug, Default)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// So many zeros.
    #[must_use]
    pub fn new(bytes: usize) -> Buffer {
        Buffer(Arc::new(Mutex::new(vec![0; bytes])))
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.0).clone()
    }

    /// How much it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Whether that is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.0)
    }

    /// As much of it as there is room for.
    fn fill(&self, data: &[u8]) {
        let mut bytes = lock(&self.0);
        let count = data.len().min(bytes.len());
        bytes[..count].copy_from_slice(&data[..count]);
    }
}

/// Whom a call reports to.
#[derive(Clone, Debug, Default)]
pub struct Io {
    /// Set on completion, instead of the file object (NP-IO-05).
    pub event: Option<Event>,
    /// Status and information.
    pub status: StatusBlock,
    /// For the packet to the completion port; 0: none (NP-IO-07).
    pub context: usize,
}

impl Io {
    /// With an event.
    #[must_use]
    pub fn with_event(event: Event) -> Io {
        Io {
            event: Some(event),
            ..Io::default()
        }
    }
}

/// A completion port.
#[derive(Clone, Debug, Default)]
pub struct Port(Arc<Packets>);

#[derive(Debug, Default)]
struct Packets {
    queue: Mutex<VecDeque<PortPacket>>,
    more: Condvar,
}

/// What a completion port tells of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPacket {
    /// The file object's.
    pub key: usize,
    /// The call's ([`Io::context`]).
    pub context: usize,
    /// Its status.
    pub status: NtStatus,
    /// Its information.
    pub information: usize,
}

impl Port {
    /// Without packets.
    #[must_use]
    pub fn new() -> Port {
        Port::default()
    }

    /// The oldest packet, if there is one. Calls that pend are moved on by [`Nt::wait`], not by this.
    #[must_use]
    pub fn take(&self) -> Option<PortPacket> {
        lock(&self.0.queue).pop_front()
    }

    fn put(&self, packet: PortPacket) {
        lock(&self.0.queue).push_back(packet);
        self.0.more.notify_one();
        if WAITERS.load(Ordering::SeqCst) != 0 {
            ALARM.ring();
        }
    }

    fn is_empty(&self) -> bool {
        lock(&self.0.queue).is_empty()
    }
}

/// What a file object does with completions besides.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) port: Option<(Port, usize)>,
    /// FILE_SKIP_COMPLETION_PORT_ON_SUCCESS.
    pub(super) skip_port: bool,
    /// FILE_SKIP_SET_EVENT_ON_HANDLE.
    pub(super) skip_signal: bool,
}

/// Something that [`Nt::wait`] waits for.
#[derive(Clone, Debug)]
pub enum Waitable {
    /// An event.
    Event(Event),
    /// A file object.
    File(Handle),
    /// A packet in a completion port.
    Port(Port),
}

// ---- completing ----------------------------------------------------------------------------------------------------

/// Outcome (b) of NP-IO-01, and the end of (c). `pended`: it was told that it pends.
pub(super) fn complete(file: &File, io: &Io, status: NtStatus, information: usize, pended: bool) {
    io.status.set(status, information);
    let notes = lock(&file.notes);
    if let Some((port, key)) = &notes.port
        && io.context != 0
        && (pended || !notes.skip_port)
    {
        port.put(PortPacket {
            key: *key,
            context: io.context,
            status,
            information,
        });
    }
    let skip_signal = notes.skip_signal;
    drop(notes);
    if let Some(event) = &io.event {
        event.set();
    }
    // NP-IO-05: instead of the event; on synchronous file objects in any case.
    if (io.event.is_none() || file.is_synchronous()) && !skip_signal {
        file.signal.set();
    }
}

/// A call that has its final answer when it returns: (a) or (b) of NP-IO-01.
pub(super) fn report(
    file: &File,
    io: &Io,
    answer: Result<(NtStatus, usize), NtStatus>,
) -> NtStatus {
    match answer {
        Ok((status, information)) => {
            complete(file, io, status, information, false);
            status
        }
        Err(status) => status,
    }
}

/// NP-IO-02, 04: what is signalled on completion is not any more.
pub(super) fn begin(file: &File, io: &Io) {
    if let Some(event) = &io.event {
        event.reset();
    }
    file.signal.reset();
}

/// Status and information of a read.
pub(super) fn of_read(read: Read) -> (NtStatus, usize) {
    match read {
        Read::Whole(count) => (NtStatus::SUCCESS, count),
        Read::Part(count) => (NtStatus::BUFFER_OVERFLOW, count),
    }
}

// ---- calls that pend -----------------------------------------------------------------------------------------------

/// A call that has answered PENDING.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) file: Weak<File>,
    pub(super) io: Io,
    thread: CallingThread,
    work: Mutex<Work>,
    /// For a canceller that waits for the broker's word.
    over: Condvar,
}

#[derive(Debug)]
enum Work {
    /// In shared memory; what a read brings goes to the buffer.
    Ring(Box<Started>, Option<Buffer>),
    /// At the broker.
    Broker(Arc<Channel>, Tag),
    /// Told to the broker, whose name for it is not known yet.
    Asking,
    Over,
}

/// All that pend in shared memory, in the order of their issue.
static RINGS: Mutex<Option<HashMap<ConnectionId, Vec<Arc<Operation>>>>> = Mutex::new(None);
/// How many.
static PENDED: AtomicUsize = AtomicUsize::new(0);

impl Operation {
    /// One in shared memory. Its completion may come from any thread from now on.
    pub(super) fn ring(file: &Arc<File>, io: &Io, started: Started, buffer: Option<Buffer>) {
        let id = started.conn().id();
        let operation = Arc::new(Operation {
            file: Arc::downgrade(file),
            io: io.clone(),
            thread: calling_thread(),
            work: Mutex::new(Work::Ring(Box::new(started), buffer)),
            over: Condvar::new(),
        });
        lock(&file.pended).push(operation.clone());
        PENDED.fetch_add(1, Ordering::SeqCst);
        lock(&RINGS)
            .get_or_insert_default()
            .entry(id)
            .or_default()
            .push(operation);
        // What came between its start and its place in the list.
        settle(id);
    }

    /// One at the broker.
    pub(super) fn broker(file: &Arc<File>, io: &Io) -> Arc<Operation> {
        let operation = Arc::new(Operation {
            file: Arc::downgrade(file),
            io: io.clone(),
            thread: calling_thread(),
            work: Mutex::new(Work::Asking),
            over: Condvar::new(),
        });
        lock(&file.pended).push(operation.clone());
        operation
    }

    /// Under which name the broker knows it.
    pub(super) fn asked(&self, channel: Arc<Channel>, tag: Tag) {
        let mut work = lock(&self.work);
        if matches!(*work, Work::Asking) {
            *work = Work::Broker(channel, tag);
        }
    }

    /// It never pended.
    pub(super) fn never_was(self: &Arc<Self>) {
        *lock(&self.work) = Work::Over;
        self.leave();
    }

    /// Its end, once: whoever comes first.
    pub(super) fn finish(self: &Arc<Self>, status: NtStatus) {
        let mut work = lock(&self.work);
        if matches!(*work, Work::Over) {
            return;
        }
        *work = Work::Over;
        if let Some(file) = self.file.upgrade() {
            complete(&file, &self.io, status, 0, true);
        }
        drop(work);
        self.leave();
    }

    fn leave(self: &Arc<Self>) {
        self.over.notify_all();
        if let Some(file) = self.file.upgrade() {
            lock(&file.pended).retain(|other| !Arc::ptr_eq(other, self));
        }
    }

    /// Whether it has completed just now. One that another thread moves on is left to it.
    fn advance(self: &Arc<Self>) -> bool {
        let mut work = lock(&self.work);
        let Work::Ring(started, buffer) = &mut *work else {
            return false;
        };
        let Some(answer) = started.poll() else {
            return false;
        };
        let (status, information) = match answer {
            Ok(Answer::Read(read)) => {
                if let Some(buffer) = buffer {
                    buffer.fill(started.data());
                }
                if let Some(file) = self.file.upgrade() {
                    file.has_consumed(read);
                }
                of_read(read)
            }
            Ok(Answer::Wrote(count)) => (NtStatus::SUCCESS, count),
            Ok(Answer::Flushed) => (NtStatus::SUCCESS, 0),
            Err(error) => (Error::from(error).status(), 0),
        };
        let id = started.conn().id();
        if let Some(file) = self.file.upgrade() {
            complete(&file, &self.io, status, information, true);
        }
        *work = Work::Over;
        drop(work);
        if let Some(rings) = lock(&RINGS).as_mut()
            && let Some(of) = rings.get_mut(&id)
        {
            of.retain(|other| !Arc::ptr_eq(other, self));
            if of.is_empty() {
                rings.remove(&id);
            }
        }
        PENDED.fetch_sub(1, Ordering::SeqCst);
        self.leave();
        true
    }

    /// Asks it to end, and waits until it has, one way or the other. `false`: it had completed.
    pub(super) fn cancel(self: &Arc<Self>) -> bool {
        let mut work = lock(&self.work);
        match &mut *work {
            Work::Over => false,
            Work::Ring(started, _) => {
                let cancelled = started.cancel();
                drop(work);
                self.advance();
                cancelled
            }
            Work::Asking | Work::Broker(..) => {
                if let Work::Broker(channel, tag) = &*work {
                    let (channel, tag) = (channel.clone(), *tag);
                    drop(work);
                    channel.tell(&Request::Cancel(tag));
                    work = lock(&self.work);
                }
                // Its answer is on its way.
                let deadline = Deadline::after(BROKER_TIME);
                while !matches!(*work, Work::Over) {
                    let Some(left) = deadline.remaining().filter(|left| !left.is_zero()) else {
                        break;
                    };
                    let waited = self.over.wait_timeout(work, left);
                    work = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                true
            }
        }
    }

    /// Whose call it is.
    pub(super) fn is_of(&self, thread: CallingThread) -> bool {
        self.thread == thread
    }

    /// Whether its completion signals that.
    fn signals(&self, object: &Target) -> bool {
        match object {
            Target::Event(event) => self.io.event.as_ref().is_some_and(|own| own.is(event)),
            Target::File(file) => std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file)),
            Target::Port(port) => self.file.upgrade().is_some_and(|file| {
                let notes = lock(&file.notes);
                let of = notes.port.as_ref();
                of.is_some_and(|(of, _)| Arc::ptr_eq(&of.0, &port.0))
            }),
        }
    }

    fn rest(&self) -> Rest {
        match &*lock(&self.work) {
            Work::Ring(started, _) => started.rest(),
            _ => Rest::Look,
        }
    }
}

/// Moves on whatever pends on either end of a connection in this process (NP-IO-13).
pub(super) fn settle(id: ConnectionId) {
    while PENDED.load(Ordering::SeqCst) != 0 {
        let of = lock(&RINGS)
            .as_ref()
            .and_then(|rings| rings.get(&id).cloned());
        // One that completes may make room for one before it.
        let advanced = of.into_iter().flatten().filter(Operation::advance).count();
        if advanced == 0 {
            return;
        }
    }
}

enum Target {
    Event(Event),
    File(Arc<File>),
    Port(Port),
}

impl Target {
    fn is_signalled(&self) -> bool {
        match self {
            Target::Event(event) => event.is_set(),
            Target::File(file) => file.signal.is_set(),
            Target::Port(port) => !port.is_empty(),
        }
    }
}

impl Nt {
    /// Waits until one of these is signalled, and says which, the first of them if there are several; moves on the calls
    /// that signal them meanwhile. Nothing is reset by it.
    ///
    /// # Errors
    /// TIMEOUT; INVALID_HANDLE, ACCESS_DENIED (a file handle without SYNCHRONIZE).
    pub fn wait(&self, objects: &[Waitable], deadline: Deadline) -> Result<usize, NtStatus> {
        /// Off the count, however the wait ends.
        struct Waiting;
        impl Drop for Waiting {
            fn drop(&mut self) {
                WAITERS.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let target = |object: &Waitable| {
            Ok(match object {
                Waitable::Event(event) => Target::Event(event.clone()),
                Waitable::File(handle) => {
                    Target::File(self.entry_with(*handle, crate::Mask::SYNCHRONIZE)?.file)
                }
                Waitable::Port(port) => Target::Port(port.clone()),
            })
        };
        let targets: Vec<Target> = objects
            .iter()
            .map(target)
            .collect::<Result<_, NtStatus>>()?;
        WAITERS.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting;
        loop {
            let seen = ALARM.now();
            let signalled = || targets.iter().position(Target::is_signalled);
            if let Some(index) = signalled() {
                return Ok(index);
            }
            let rings = lock(&RINGS);
            let all = rings.iter().flat_map(|rings| rings.values().flatten());
            let of: Vec<Arc<Operation>> = all
                .filter(|one| targets.iter().any(|target| one.signals(target)))
                .cloned()
                .collect();
            drop(rings);
            let advanced = of.iter().filter(|one| one.advance()).count();
            if advanced != 0 {
                continue;
            }
            let mut sleepers = Vec::new();
            let mut until = deadline;
            let mut look = false;
            for one in &of {
                match one.rest() {
                    Rest::On(sleeper) => sleepers.push(sleeper),
                    Rest::Soon => until = until.min(Deadline::after(SOON)),
                    Rest::Look => look = true,
                }
            }
            if !look && !wait_any(&sleepers, &ALARM, seen, until) && deadline.passed() {
                // Something may have come at the last moment.
                of.iter().for_each(|one| {
                    one.advance();
                });
                return signalled().ok_or(NtStatus::TIMEOUT);
            }
        }
    }
}

const SOON: std::time::Duration = std::time::Duration::from_millis(1);
/// How long the broker may take to say that something was cancelled.
const BROKER_TIME: std::time::Duration = std::time::Duration::from_secs(1);
