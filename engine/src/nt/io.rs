//! What a call is given to report to, and calls that pend.

use std::{
    any::Any,
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use npfs_ringbuf::{Answer, Conn, Deadline, Glance, Read, Rest, Started};

use super::{
    Handle, Nt,
    data::with_room,
    file::File,
    thread::{CallingThread, calling_thread, owns, watch_for_the_end_of_this_thread},
};
use crate::{
    Error, NtStatus,
    client::Channel,
    jobs::{self, Callback},
    lock::lock,
    npfs::Tag,
    queue::Queue,
    reactor::{Advanced, Pending, REACTOR, place},
    sys,
    wire::Request,
};

/// IO_STATUS_BLOCK: written when a call completes, and not before (NP-IO-01).
#[derive(Clone)]
pub struct StatusBlock(Arc<Words<dyn Elsewhere>>);

/// One allocation a call, whoever keeps its words elsewhere.
struct Words<E: ?Sized> {
    status: AtomicU32,
    information: AtomicUsize,
    elsewhere: E,
}

/// Somebody who keeps the words of a [`StatusBlock`] too.
pub trait Elsewhere: Any + Send + Sync {
    /// Called with status and information when the call completes, before its event, packet or callback tell of it. It is
    /// called while locks are held: it must not call back.
    fn write(&self, status: NtStatus, information: usize);
}

/// Nobody.
impl Elsewhere for () {
    fn write(&self, _: NtStatus, _: usize) {}
}

impl Default for StatusBlock {
    fn default() -> StatusBlock {
        StatusBlock::new(NtStatus::SUCCESS, 0)
    }
}

impl StatusBlock {
    /// With what a caller puts there to see whether it is touched.
    #[must_use]
    pub fn new(status: NtStatus, information: usize) -> StatusBlock {
        StatusBlock(Arc::new(Words {
            status: AtomicU32::new(status.0),
            information: AtomicUsize::new(information),
            elsewhere: (),
        }))
    }

    /// One that is written somewhere else, too.
    #[must_use]
    pub fn elsewhere(kept_by: impl Elsewhere) -> StatusBlock {
        StatusBlock(Arc::new(Words {
            status: AtomicU32::default(),
            information: AtomicUsize::default(),
            elsewhere: kept_by,
        }))
    }

    /// Who keeps it elsewhere, if that is one of these.
    #[must_use]
    pub fn kept_by<E: Elsewhere>(&self) -> Option<&E> {
        let elsewhere: &dyn Any = &self.0.elsewhere;
        elsewhere.downcast_ref()
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

    /// Writes both, as a completion does: whoever sees the status sees the information.
    pub fn set(&self, status: NtStatus, information: usize) {
        self.0.information.store(information, Ordering::Release);
        self.0.status.store(status.0, Ordering::Release);
        self.0.elsewhere.write(status, information);
    }

    /// Whether both are one block.
    #[must_use]
    pub fn is(&self, other: &StatusBlock) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for StatusBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusBlock")
            .field("status", &self.status())
            .field("information", &self.information())
            .finish()
    }
}

/// A notification event: set until it is reset.
#[derive(Clone, Debug, Default)]
pub struct Event(Arc<AtomicBool>);

impl Event {
    /// Not set.
    #[must_use]
    pub fn new() -> Event {
        Event::default()
    }

    /// NtSetEvent.
    pub fn set(&self) {
        self.set_quietly();
        REACTOR.tell();
    }

    /// The caller tells of it, which orders this.
    fn set_quietly(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// NtResetEvent: what is set after this is seen, by whoever looks for its reason first and waits then.
    pub fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// The same at the beginning of an operation, whose own publication orders it before the end.
    fn begins(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Memory that a call may write to after it has returned.
#[derive(Clone)]
pub struct Buffer(Arc<dyn Memory>);

/// Whose memory a [`Buffer`] is, if not its own.
pub trait Memory: Send + Sync {
    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `data` at the beginning; never more than there is room for. Called while locks are held: it must not call
    /// back.
    fn fill(&self, data: &[u8]);

    /// Copies from the beginning, never more than there is.
    fn copy_to(&self, to: &mut [u8]);
}

/// Our own.
struct Bytes {
    len: usize,
    bytes: Mutex<Box<[u8]>>,
}

impl Memory for Bytes {
    fn len(&self) -> usize {
        self.len
    }

    fn fill(&self, data: &[u8]) {
        lock(&self.bytes)[..data.len()].copy_from_slice(data);
    }

    fn copy_to(&self, to: &mut [u8]) {
        to.copy_from_slice(&lock(&self.bytes)[..to.len()]);
    }
}

impl Buffer {
    /// So many zeros.
    #[must_use]
    pub fn new(bytes: usize) -> Buffer {
        Buffer::of(Bytes {
            len: bytes,
            bytes: Mutex::new(vec![0; bytes].into()),
        })
    }

    /// Somebody's memory.
    #[must_use]
    pub fn of(memory: impl Memory + 'static) -> Buffer {
        Buffer(Arc::new(memory))
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.0.copy_to(&mut bytes);
        bytes
    }

    /// How much it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether that is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies as much of it as there is room for, from the beginning, and says how much that is.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let count = self.len().min(to.len());
        self.0.copy_to(&mut to[..count]);
        count
    }

    /// Puts there what there is room for, from the beginning.
    pub fn fill(&self, data: &[u8]) {
        let count = data.len().min(self.len());
        self.0.fill(&data[..count]);
    }
}

impl Default for Buffer {
    /// No bytes.
    fn default() -> Buffer {
        Buffer::new(0)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Buffer").field(&self.len()).finish()
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
    /// Called when it has completed, also if that was at once, and not if it has failed at once: as an APC routine, but not
    /// on the issuing thread. Not with a completion port (NP-IO-07).
    pub callback: Option<Callback>,
}

impl Io {
    /// With an event.
    #[must_use]
    pub fn with_event(event: Event) -> Io {
        Io {
            event: Some(event),
            ..Io::with_status(StatusBlock::default())
        }
    }

    /// With a block, and nothing else. Unlike [`Io::default`] it makes none that a caller with one of its own throws away.
    pub(super) fn with_status(status: StatusBlock) -> Io {
        Io {
            event: None,
            status,
            context: 0,
            callback: None,
        }
    }
}

/// A completion port.
#[derive(Clone, Debug, Default)]
pub struct Port(Arc<Queue<PortPacket>>);

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
    /// Without packets, for any number of threads.
    #[must_use]
    pub fn new() -> Port {
        Port::default()
    }

    /// One of whose threads at most so many are at work at a time: [`Port::wait`] gives packets to no more than that, until
    /// one of them waits again, here or at another port, or ends. (A thread that sleeps elsewhere counts as at work.)
    #[must_use]
    pub fn with_concurrency(limit: NonZeroUsize) -> Port {
        Port(Arc::new(Queue::new(Some(limit))))
    }

    /// NtSetIoCompletion: a packet of the caller's own.
    pub fn post(&self, packet: PortPacket) {
        self.0.put(packet);
    }

    /// The oldest packet, if there is one, whatever the limit. [`Nt::wait`] waits until there is.
    #[must_use]
    pub fn take(&self) -> Option<PortPacket> {
        self.0.take()
    }

    /// NtRemoveIoCompletionEx: waits until there is a packet for this thread, appends up to `most` to `into`, the oldest
    /// first, and says how many those were. Moves on what pends meanwhile.
    ///
    /// # Errors
    /// TIMEOUT; POSSIBLE_DEADLOCK in a callback that must not wait.
    pub fn wait(
        &self,
        into: &mut Vec<PortPacket>,
        most: usize,
        deadline: Deadline,
    ) -> Result<usize, NtStatus> {
        self.0.wait(into, most, deadline).map_err(of_a_wait)
    }
}

/// A wait's end is no error of a call's.
fn of_a_wait(error: Error) -> NtStatus {
    match error {
        Error::TimedOut => NtStatus::TIMEOUT,
        other => other.status(),
    }
}

/// What a file object does with completions besides.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// And the file object's key there.
    pub(super) port: OnceLock<(Port, usize)>,
    /// FILE_SKIP_COMPLETION_PORT_ON_SUCCESS.
    pub(super) skip_port: AtomicBool,
    /// FILE_SKIP_SET_EVENT_ON_HANDLE.
    pub(super) skip_signal: AtomicBool,
}

/// Something that [`Nt::wait`] waits for.
#[derive(Clone, Debug)]
pub enum Waitable {
    /// An event.
    Event(Event),
    /// A file object.
    File(Handle),
    /// A file object of another table.
    FileOf(Nt, Handle),
    /// A packet in a completion port.
    Port(Port),
}

// ---- completing ----------------------------------------------------------------------------------------------------

/// Outcome (b) of NP-IO-01, and the end of (c). `pended`: it was told that it pends.
pub(super) fn complete(file: &File, io: &Io, status: NtStatus, information: usize, pended: bool) {
    io.status.set(status, information);
    let mut any = false;
    let notes = &file.notes;
    if let Some((port, key)) = notes.port.get()
        && io.context != 0
        && (pended || !notes.skip_port.load(Ordering::Relaxed))
    {
        port.0.put_quietly(PortPacket {
            key: *key,
            context: io.context,
            status,
            information,
        });
        any = true;
    }
    let skip_signal = notes.skip_signal.load(Ordering::Relaxed);
    // NP-IO-05: instead of the event; on synchronous file objects in any case.
    if (io.event.is_none() || file.is_synchronous()) && !skip_signal {
        file.signal.set_quietly();
        any = true;
    }
    if let Some(event) = &io.event {
        event.set_quietly();
        any = true;
    }
    if any {
        REACTOR.tell();
    }
    if let Some(callback) = &io.callback {
        callback.tell(status, information);
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

/// NP-IO-02, 04: what is signalled on completion is not any more. INVALID_PARAMETER: a callback and a port (NP-IO-07).
pub(super) fn begin(file: &File, io: &Io) -> Result<(), NtStatus> {
    if let Some(event) = &io.event {
        event.begins();
    }
    file.signal.begins();
    if io.callback.is_some() && file.notes.port.get().is_some() {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    Ok(())
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
    /// Until it is over, though its last handle may have gone: other processes may have the end still.
    file: Arc<File>,
    pub(super) io: Io,
    thread: CallingThread,
    work: Mutex<Work>,
    /// For a canceller that waits for the broker's word.
    over: Condvar,
    /// A look at what is in shared memory without the lock.
    glance: Option<Glance>,
    /// The same of a role that is in its way: it is looked at by the clock.
    soon: AtomicBool,
    /// It stands in its file object's list.
    is_listed: AtomicBool,
    /// [`sys::forks`] when it was issued: a child of fork(2) has not even its memory.
    forks: u32,
}

#[derive(Debug)]
enum Work {
    /// In shared memory; what a read brings goes to the buffer.
    Ring(Started, Option<Buffer>),
    /// At the broker.
    Broker(Arc<Channel>, Tag),
    /// Told to the broker, whose name for it is not known yet.
    Asking,
    Over,
}

impl Operation {
    fn new(file: Arc<File>, io: &Io, work: Work) -> Arc<Operation> {
        watch_for_the_end_of_this_thread();
        let started = match &work {
            Work::Ring(started, _) => Some(started),
            _ => None,
        };
        let glance = started.map(Started::glance);
        Arc::new(Operation {
            file,
            io: io.clone(),
            thread: calling_thread(),
            work: Mutex::new(work),
            over: Condvar::new(),
            glance,
            soon: AtomicBool::new(false),
            is_listed: AtomicBool::new(false),
            forks: sys::forks(),
        })
    }

    /// One in shared memory. Its completion may come from any thread from now on.
    pub(super) fn ring(file: Arc<File>, io: &Io, started: Started, buffer: Option<Buffer>) {
        let is_polled = started.is_polled();
        let at = place(started.conn());
        let operation = Operation::new(file, io, Work::Ring(started, buffer));
        if is_polled {
            if let Some(late) = REACTOR.hold(at, operation) {
                late.end();
                REACTOR.forget_over();
            }
        } else if let Some(conn) = operation.conn() {
            operation.enlist();
            let pending: Arc<dyn Pending> = operation.clone();
            REACTOR.add(&conn, &pending);
            if operation.is_too_late() {
                operation.end_with_its_file();
            }
        }
    }

    /// One at the broker.
    pub(super) fn broker(file: &Arc<File>, io: &Io) -> Arc<Operation> {
        let operation = Operation::new(file.clone(), io, Work::Asking);
        operation.enlist();
        operation
    }

    /// Under which name the broker knows it.
    pub(super) fn asked(&self, channel: Arc<Channel>, tag: Tag) {
        let mut work = lock(&self.work);
        if matches!(*work, Work::Asking) {
            *work = Work::Broker(channel, tag);
            // Somebody may want to cancel it, and could not name it.
            self.over.notify_all();
        }
        drop(work);
        if self.is_too_late() {
            self.end_with_its_file();
        }
    }

    /// It never pended.
    pub(super) fn never_was(&self) {
        *lock(&self.work) = Work::Over;
        self.over.notify_all();
        self.leave();
    }

    /// Its end, once: whoever comes first.
    pub(super) fn finish(&self, status: NtStatus) {
        let mut work = lock(&self.work);
        if matches!(*work, Work::Over) {
            return;
        }
        *work = Work::Over;
        complete(&self.file, &self.io, status, 0, true);
        drop(work);
        self.over.notify_all();
        self.leave();
    }

    /// Its file object is closed: what has an answer keeps it, and nothing pends any longer (NP-CLOSE-01 to 04).
    pub(super) fn end_with_its_file(&self) {
        if self.is_ring() {
            if self.look().is_some() {
                self.cancel();
            }
        } else if self.file.side().is_some() {
            self.finish(NtStatus::PIPE_BROKEN); // NP-LISTEN-10
        } else {
            self.cancel();
        }
    }

    fn is_ring(&self) -> bool {
        matches!(*lock(&self.work), Work::Ring(..))
    }

    /// In the lists of its file object and of its thread.
    fn enlist(self: &Arc<Self>) {
        let mut pended = lock(&self.file.pended);
        // First, since whoever finds it there may end it.
        self.is_listed.store(true, Ordering::SeqCst);
        pended.push(self.clone());
        drop(pended);
        owns(self);
    }

    fn leave(&self) {
        if self.is_listed.load(Ordering::SeqCst) {
            let mut pended = lock(&self.file.pended);
            let at = pended.iter().position(|other| std::ptr::eq(&**other, self));
            let gone = at.map(|at| pended.remove(at));
            drop(pended);
            drop(gone);
        }
    }

    /// Asks it to end, and waits until it has, one way or the other. `false`: it had completed.
    pub(super) fn cancel(&self) -> bool {
        if self.forks != sys::forks() {
            return false;
        }
        let mut work = lock(&self.work);
        match &mut *work {
            Work::Over => false,
            Work::Ring(started, _) => {
                let cancelled = started.cancel();
                let conn = started.conn().clone();
                drop(work);
                REACTOR.settle(&conn);
                cancelled
            }
            Work::Asking | Work::Broker(..) => {
                // Its answer is on its way, once the broker has been told.
                let deadline = Deadline::after(BROKER_TIME);
                let mut told = false;
                while !matches!(*work, Work::Over) {
                    if let (Work::Broker(channel, tag), false) = (&*work, told) {
                        told = true;
                        let (channel, tag) = (channel.clone(), *tag);
                        drop(work);
                        channel.tell(&Request::Cancel(tag));
                        work = lock(&self.work);
                        continue;
                    }
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
    pub(super) fn thread(&self) -> CallingThread {
        self.thread
    }
}

impl Pending for Operation {
    fn conn(&self) -> Option<Arc<Conn>> {
        self.glance.as_ref().map(|glance| glance.conn().clone())
    }

    fn look_for_a_moment(&self) -> bool {
        let glance = self.glance.as_ref();
        glance.is_some_and(Glance::look_for_a_moment)
    }

    fn may_stay(&self) -> bool {
        // A callback is let go once it has been told: somebody may wait for that.
        self.io.callback.is_none()
    }

    fn has_news(&self) -> bool {
        let glance = self.glance.as_ref();
        !self.soon.load(Ordering::Relaxed) && glance.is_some_and(Glance::has_news)
    }

    fn is_listed(self: Arc<Self>) {
        let work = lock(&self.work);
        // What is over has left already.
        if matches!(*work, Work::Ring(..)) {
            self.enlist();
        }
    }

    fn is_too_late(&self) -> bool {
        self.file.is_shut()
    }

    fn end(&self) {
        self.end_with_its_file();
    }

    fn stop_polling(&self) {
        if let Work::Ring(started, _) = &*lock(&self.work) {
            started.stop_polling();
        }
    }

    fn look(&self) -> Option<Rest> {
        let mut work = lock(&self.work);
        let Work::Ring(started, buffer) = &mut *work else {
            return None;
        };
        let advanced = with_room(started.room(), |room| {
            let room = room.unwrap_or_default();
            let advanced = REACTOR.advance(started, room);
            if let (Advanced::Over(Ok(Answer::Read(_))), Some(buffer)) = (&advanced, buffer) {
                buffer.fill(started.data_in(room));
            }
            advanced
        });
        let answer = match advanced {
            Advanced::Rests(rest) => {
                self.soon.store(rest == Rest::Soon, Ordering::Relaxed);
                return Some(rest);
            }
            Advanced::Over(answer) => answer,
        };
        let (status, information) = match answer {
            Ok(Answer::Read(read)) => {
                self.file.has_consumed(started.conn().id(), read);
                of_read(read)
            }
            Ok(Answer::Wrote(count)) => (NtStatus::SUCCESS, count),
            Ok(Answer::Flushed) => (NtStatus::SUCCESS, 0),
            Err(error) => (Error::from(error).status(), 0),
        };
        complete(&self.file, &self.io, status, information, true);
        *work = Work::Over;
        drop(work);
        self.leave();
        None
    }
}

enum Target<'a> {
    Event(&'a Event),
    File(Arc<File>),
    Port(&'a Port),
}

impl Target<'_> {
    fn of<'a>(table: Option<&Nt>, object: &'a Waitable) -> Result<Target<'a>, NtStatus> {
        let file = |table: &Nt, handle| {
            let entry = table.entry_with(handle, crate::Mask::SYNCHRONIZE)?;
            Ok(Target::File(entry.file))
        };
        match object {
            Waitable::Event(event) => Ok(Target::Event(event)),
            Waitable::File(handle) => file(table.ok_or(NtStatus::INVALID_HANDLE)?, *handle),
            Waitable::FileOf(table, handle) => file(table, *handle),
            Waitable::Port(port) => Ok(Target::Port(port)),
        }
    }

    fn is_signalled(&self) -> bool {
        match self {
            Target::Event(event) => event.is_set(),
            Target::File(file) => file.signal.is_set(),
            Target::Port(port) => !port.0.is_empty(),
        }
    }
}

impl Nt {
    /// Waits until one of these is signalled, and says which, the first of them if there are several; moves on the calls
    /// that signal them meanwhile. Nothing is reset by it.
    ///
    /// # Errors
    /// TIMEOUT; INVALID_HANDLE, ACCESS_DENIED (a file handle without SYNCHRONIZE); POSSIBLE_DEADLOCK in a callback that must
    /// not wait.
    pub fn wait(&self, objects: &[Waitable], deadline: Deadline) -> Result<usize, NtStatus> {
        wait_in(Some(self), objects, deadline)
    }
}

/// As [`Nt::wait`], of no table in particular: files are waited for as [`Waitable::FileOf`].
///
/// # Errors
/// As [`Nt::wait`].
pub fn wait(objects: &[Waitable], deadline: Deadline) -> Result<usize, NtStatus> {
    wait_in(None, objects, deadline)
}

fn wait_in(
    table: Option<&Nt>,
    objects: &[Waitable],
    deadline: Deadline,
) -> Result<usize, NtStatus> {
    // Mostly there is one.
    let (one, many);
    let targets = match objects {
        [object] => {
            one = [Target::of(table, object)?];
            &one[..]
        }
        objects => {
            many = objects
                .iter()
                .map(|object| Target::of(table, object))
                .collect::<Result<Vec<_>, NtStatus>>()?;
            &many[..]
        }
    };
    let signalled = || targets.iter().position(Target::is_signalled);
    let wait = |deadline| REACTOR.wait_until(deadline, signalled);
    let waited = jobs::waiting(deadline, |deadline| wait(deadline).ok_or(Error::TimedOut));
    waited.map_err(of_a_wait)
}

/// How long the broker may take to say that something was cancelled.
const BROKER_TIME: std::time::Duration = std::time::Duration::from_secs(1);
