//! One process's handle on one end of one connection.
//!
//! Three ways to call, one engine under them: `try_` answers at once, the plain calls block the calling thread and
//! nobody else, `start_` takes the operation's place in line and lets the caller come back for the answer.

use std::cell::Cell;

use crate::{
    Deadline, Error, Grant, Link, PendingFlush, PendingRead, PendingTransact, PendingWrite, Shared,
    SpinPolicy, Wait,
    attention::{Attention, DISCONNECTED, READER_CLOSED, WRITER_CLOSED},
    barrier,
    consume::{InPlace, Peeked, ReadHow, ReadStop},
    cpu,
    error::AttachError,
    matching,
    memory::Source,
    produce::{WriteHow, WriteStop},
    queue::{self, Counts, MODE_COMPLETE, Queue, Side},
    record::Wakes,
    region::SlotRefs,
    role::{Kept, Owner, Role},
    sync::{AtomicU8, AtomicU32, Ordering, spin_hint},
    types::{CompletionMode, End, Info, Peek, PipeType, Read, ReadMode, State},
    wait::{Entered, Spin, learn_wake_cost},
};

/// One connection among all that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    link: [u64; 2],
    slot: u32,
    generation: u32,
}

impl ConnectionId {
    /// In one word, never 0: two of one link have different ones, and two of different links the same once in 2^64, since tokens
    /// are random.
    #[must_use]
    pub fn number(self) -> u64 {
        let own = u64::from(self.slot) << 32 | u64::from(self.generation);
        (own ^ self.link[0]).max(1)
    }
}

/// A handle on one end of a connection. Any thread may call; calls of several threads are served in turn.
///
/// A process has one for each end, ten thousand perhaps: what is the same for all connections of a link is the link's.
///
/// Dropping a handle does not close the end: other handles, in this process or another, may be on it. Who holds the
/// last one calls [`Conn::close`], or the broker does.
#[derive(Debug)]
pub struct Conn {
    incoming: Side,
    outgoing: Side,
    refs: SlotRefs,
    spin: Spin,
    end: End,
    /// This end was granted FILE_READ_DATA.
    may_read: bool,
    /// The last call was a read: the peer is likely to wait for what is written next, so frames are laid on cache
    /// lines; a stream is laid densely.
    turn: AtomicU8,
}

/// What an operation has come to when it began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begun<T> {
    Done(T),
    /// It has the record of this index.
    Pends(usize),
}

/// With the counts of an `Arc` it fills a chunk of 144 bytes of the heap, and one more byte would take the next.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Conn>() <= 120);

impl Conn {
    /// The end of a connection that a grant is for.
    ///
    /// # Errors
    /// [`AttachError::Grant`] if the grant is of another link or names memory that the link does not have.
    pub fn open(link: &Shared<Link>, grant: &Grant) -> Result<Conn, AttachError> {
        if grant.token != link.token() {
            return Err(AttachError::Grant("it is of another link"));
        }
        if grant.slot >= link.region().geometry().slots {
            return Err(AttachError::Grant("its slot"));
        }
        let refs = SlotRefs::new(link.clone(), grant.slot);
        // SAFETY: they go into one structure with `refs`, and nothing takes it apart.
        let Some(areas) = (unsafe { refs.areas(grant.areas) }) else {
            return Err(AttachError::Grant("its areas"));
        };
        let side = |reader: End, memory| Side {
            memory,
            calm: Attention::calm(grant.generation),
            secret: grant.secrets[reader.index()],
            quota: grant.quotas[reader.index()],
            keep_after: link.keep_after(),
            pipe_type: grant.pipe_type,
            may_write: grant.access[reader.other().index()].write,
        };
        let [to_client, to_server] = areas;
        let sides = (side(End::Server, to_server), side(End::Client, to_client));
        let (incoming, outgoing) = match grant.end {
            End::Server => sides,
            End::Client => (sides.1, sides.0),
        };
        let conn = Conn {
            incoming,
            outgoing,
            refs,
            spin: Spin::new(SpinPolicy::from_env()),
            end: grant.end,
            may_read: grant.access[grant.end.index()].read,
            turn: AtomicU8::new(0),
        };
        if conn.incoming().attention().generation() != grant.generation {
            return Err(AttachError::Grant("its generation has passed"));
        }
        if !barrier::can_ask() {
            for queue in [conn.incoming(), conn.outgoing()] {
                queue.producer().forbid_keeping();
                queue.consumer().forbid_keeping();
            }
        }
        link.note_open(grant.slot, grant.end, grant.generation);
        Ok(conn)
    }

    // ---- what it is --------------------------------------------------------------------------------------------

    /// Which end.
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }

    /// The number of its slot in the link, by which bells are rung for it.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.refs.number()
    }

    /// What the pipe carries.
    #[must_use]
    pub fn pipe_type(&self) -> PipeType {
        self.incoming.pipe_type
    }

    /// The link that it is on.
    #[must_use]
    pub fn link(&self) -> &Shared<Link> {
        self.refs.link()
    }

    /// What both ends of one connection, and no other handles, have in common.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        ConnectionId {
            link: self.refs.link().token(),
            slot: self.slot(),
            generation: self.generation(),
        }
    }

    fn generation(&self) -> u32 {
        Attention(self.incoming.calm).generation()
    }

    /// Bytes that each direction may hold unread (NP-LIM-04): of the end's incoming direction, of its outgoing one.
    #[must_use]
    pub fn quotas(&self) -> (u32, u32) {
        (self.incoming.quota, self.outgoing.quota)
    }

    /// The connection as this end sees it; one whose slot serves another connection by now is disconnected.
    #[must_use]
    pub fn state(&self) -> State {
        let attention = self.incoming().attention();
        if attention.generation() != self.generation() || attention.has(DISCONNECTED) {
            State::Disconnected
        } else if attention.has(WRITER_CLOSED) {
            State::Closing
        } else {
            State::Connected
        }
    }

    /// How this end reads.
    #[must_use]
    pub fn read_mode(&self) -> ReadMode {
        self.incoming().read_mode()
    }

    /// Whether this end's calls may pend.
    #[must_use]
    pub fn completion_mode(&self) -> CompletionMode {
        if self.modes().load(Ordering::Relaxed) & MODE_COMPLETE != 0 {
            CompletionMode::Complete
        } else {
            CompletionMode::Queue
        }
    }

    /// Sets both modes of this end (NP-INFO-05, 06).
    ///
    /// # Errors
    /// [`Error::InvalidMode`]: message read mode on a byte pipe. [`Error::PipeBusy`]: from QUEUE to COMPLETE while
    /// this end has reads pending, or writes that are not read yet (NP-INFO-07).
    pub fn set_modes(&self, read: ReadMode, completion: CompletionMode) -> Result<(), Error> {
        self.check_open_server_too()?;
        if read == ReadMode::Message && self.incoming.pipe_type == PipeType::Byte {
            return Err(Error::InvalidMode);
        }
        // What was written before was read in the mode of then.
        self.settle_polled(&self.incoming());
        if completion == CompletionMode::Complete
            && self.completion_mode() == CompletionMode::Queue
            && self.state() == State::Connected
        {
            let outgoing = self.counts(self.outgoing());
            if self.counts(self.incoming()).reads != 0
                || outgoing.available() != 0
                || outgoing.messages != 0
            {
                return Err(Error::PipeBusy);
            }
        }
        let modes = queue::mode_bits(read, completion);
        self.modes().store(modes, Ordering::SeqCst);
        Ok(())
    }

    /// How long this handle's blocking calls spin.
    pub fn set_spin_policy(&self, policy: SpinPolicy) {
        self.spin.set(policy);
    }

    /// Counts, exact at the return of every call that changed them (NP-INFO-09, 10).
    ///
    /// # Errors
    /// [`Error::Disconnected`] for a client end (NP-INFO-01), [`Error::Stale`].
    pub fn info(&self) -> Result<Info, Error> {
        match self.check_open() {
            Err(Error::Disconnected) if self.end == End::Server => {
                return Ok(Info {
                    state: State::Disconnected,
                    read_available: 0,
                    write_quota_available: self.outgoing().quota,
                    messages: 0,
                });
            }
            other => other?,
        }
        let state = self.state();
        let incoming = self.counts(self.incoming());
        let outgoing = self.counts(self.outgoing());
        Ok(Info {
            state,
            read_available: incoming.available(),
            write_quota_available: matching::quota_available(
                self.outgoing().quota,
                if state == State::Closing {
                    0
                } else {
                    outgoing.available()
                },
                outgoing.pended_reads,
            ),
            messages: self.messages(&incoming),
        })
    }

    /// What a direction holds: what its reader has not taken yet is not there any more if it was matched.
    fn counts(&self, queue: Queue<'_>) -> Counts {
        self.settle_polled(&queue);
        queue.counts()
    }

    /// What was written has been given to whom it belongs, unless somebody is at work there for longer than a copy takes.
    fn settle_polled<'a>(&'a self, queue: &Queue<'a>) {
        let mut wakes = Wakes::default();
        for turn in 0..self.refs.link().looks(PEEK_TRIES) {
            let settled = queue.settle_polled(self.me(), &mut wakes);
            self.deliver(&mut wakes);
            if settled {
                return;
            }
            wait_a_turn(turn);
        }
    }

    fn messages(&self, counts: &Counts) -> u32 {
        match self.incoming.pipe_type {
            PipeType::Message => counts.messages.wrapping_add(counts.unplaced_messages),
            PipeType::Byte => 0,
        }
    }

    // ---- try ---------------------------------------------------------------------------------------------------

    /// Reads what is there (section 11).
    ///
    /// # Errors
    /// [`Error::WouldBlock`] or, in COMPLETE mode, [`Error::Empty`] with nothing to read; [`Error::Busy`] while
    /// another reader is at work; the state's error (NP-READ-04, 05).
    #[inline]
    pub fn try_read(&self, buf: &mut [u8]) -> Result<Read, Error> {
        self.read_now(buf, ReadHow::Try)
            .map_err(|stop| self.read_error(stop))
    }

    /// A read that meets nothing unusual and takes one whole message, or in byte mode all that there is; `None`: this has done
    /// nothing, whatever the reason. For those who have another way to read, and a dearer one.
    #[inline]
    pub fn read_at_once(&self, buf: &mut [u8]) -> Option<Read> {
        self.read_fast(buf, false)
    }

    /// Writes if it can complete at once (section 12). COMPLETE mode may answer fewer bytes than were given
    /// (NP-WRITE-10, 11).
    ///
    /// # Errors
    /// [`Error::WouldBlock`]: it would pend. [`Error::Busy`]: another writer is at work. The state's error
    /// (NP-WRITE-01).
    #[inline]
    pub fn try_write(&self, data: &[u8]) -> Result<usize, Error> {
        self.write_now(data, WriteHow::Try)
            .map_err(|stop| self.write_error(stop))
    }

    /// Looks at what is queued and changes nothing (section 14). Never waits beyond another call's copy.
    ///
    /// # Errors
    /// [`Error::Broken`]: closing and empty. [`Error::InvalidState`] for a disconnected server end,
    /// [`Error::Disconnected`] for a client (NP-PEEK-02).
    pub fn peek(&self, buf: &mut [u8]) -> Result<Peek, Error> {
        let is_empty = buf.is_empty();
        self.peek_by(is_empty, |queue, wakes| queue.peek(self.me(), buf, wakes))
    }

    /// A peek by `look`, which is called again while somebody holds the role; `is_empty`: it has room for no byte.
    pub(crate) fn peek_by<'a>(
        &'a self,
        is_empty: bool,
        mut look: impl FnMut(Queue<'a>, &mut Wakes<'a>) -> Result<Peeked, ReadStop>,
    ) -> Result<Peek, Error> {
        match self.check_open() {
            Err(Error::Disconnected) if self.end == End::Server => {
                return Err(Error::InvalidState);
            }
            other => other?,
        }
        self.may_read()?;
        let queue = self.incoming();
        let state = self.state();
        let mut wakes = Wakes::default();
        let mut peeked = Err(ReadStop::Held);
        for turn in 0..self.refs.link().looks(PEEK_TRIES) {
            if turn != 0 && !queue.consumer().is_free() {
                wait_a_turn(turn);
                continue;
            }
            peeked = look(queue, &mut wakes);
            self.deliver(&mut wakes);
            if !matches!(peeked, Err(ReadStop::Held)) {
                break;
            }
            wait_a_turn(turn);
        }
        let peeked = peeked.map_err(|stop| self.read_error(stop))?;
        if !peeked.any && state == State::Closing {
            return Err(Error::Broken);
        }
        let counts = queue.counts();
        // With room for no byte at all there is more to see (NP-PEEK-08).
        let unseen = is_empty && counts.available() != 0;
        Ok(Peek {
            state,
            available: counts.available(),
            messages: self.messages(&counts),
            message_len: peeked.message_len,
            copied: peeked.copied,
            partial: peeked.partial || unseen,
        })
    }

    // ---- block -------------------------------------------------------------------------------------------------

    /// Reads, and waits for as long as it takes.
    ///
    /// # Errors
    /// As [`Conn::read_with`].
    #[inline]
    pub fn read(&self, buf: &mut [u8]) -> Result<Read, Error> {
        match self.read_now(buf, ReadHow::First) {
            Ok(read) => Ok(read),
            Err(stop) => self.read_blocking(buf, stop, &Wait::new(), Deadline::NEVER),
        }
    }

    /// Writes, and waits for as long as it takes.
    ///
    /// # Errors
    /// As [`Conn::write_with`].
    #[inline]
    pub fn write(&self, data: &[u8]) -> Result<usize, Error> {
        match self.write_now(data, WriteHow::Try) {
            Ok(count) => Ok(count),
            Err(stop) => self.write_blocking(data, stop, &Wait::new(), Deadline::NEVER),
        }
    }

    /// Waits until everything that was written before has been read (section 13).
    ///
    /// # Errors
    /// As [`Conn::flush_with`].
    pub fn flush(&self) -> Result<(), Error> {
        self.flush_with(&Wait::new(), Deadline::NEVER)
    }

    /// Sends one message and waits for one (section 15).
    ///
    /// # Errors
    /// As [`Conn::transact_with`].
    pub fn transact(&self, request: &[u8], reply: &mut [u8]) -> Result<Read, Error> {
        self.transact_with(request, reply, &Wait::new(), Deadline::NEVER)
    }

    /// Reads, and waits until the deadline or until `wait` is cancelled.
    ///
    /// # Errors
    /// [`Error::Broken`], [`Error::Disconnected`], [`Error::Empty`] (COMPLETE mode), [`Error::Cancelled`],
    /// [`Error::TimedOut`], [`Error::AccessDenied`], [`Error::TooLong`], [`Error::Fault`]; [`Error::Busy`] if `wait`
    /// serves another call.
    pub fn read_with(
        &self,
        buf: &mut [u8],
        wait: &Wait,
        deadline: Deadline,
    ) -> Result<Read, Error> {
        match self.read_now(buf, ReadHow::First) {
            Ok(read) => Ok(read),
            Err(stop) => self.read_blocking(buf, stop, wait, deadline),
        }
    }

    /// Writes, and waits until the deadline or until `wait` is cancelled; a write that ends so takes its unread bytes
    /// back (NP-CANCEL-03).
    ///
    /// # Errors
    /// [`Error::Closing`], [`Error::Broken`] (the reader closed while it waited, NP-WRITE-14),
    /// [`Error::Disconnected`], [`Error::Cancelled`], [`Error::TimedOut`], [`Error::AccessDenied`],
    /// [`Error::TooLong`], [`Error::NoMemory`].
    pub fn write_with(&self, data: &[u8], wait: &Wait, deadline: Deadline) -> Result<usize, Error> {
        match self.write_now(data, WriteHow::Try) {
            Ok(count) => Ok(count),
            Err(stop) => self.write_blocking(data, stop, wait, deadline),
        }
    }

    /// Shows the next message to `look` where it lies in shared memory, without a copy, and takes it then; in byte mode,
    /// the bytes that lie in one piece. Waits as [`Conn::read_with`] does, in no fixed order with reads that pend.
    ///
    /// While `look` runs this thread holds the direction's match lock: other reads and peeks, and writes that exceed the
    /// quota, wait for it, and calls on this end from inside `look` answer [`Error::Busy`]. If it panics, the message
    /// stays unread. A message larger than the data area comes as a copy.
    ///
    /// # Safety
    /// The peer, and every other process that maps the link, is trusted not to write to a message that it has sent: the
    /// bytes are a plain reference, and a change behind it is undefined behaviour.
    ///
    /// # Errors
    /// As [`Conn::read_with`].
    pub unsafe fn read_in_place<T>(
        &self,
        look: impl FnOnce(&[u8]) -> T,
        wait: &Wait,
        deadline: Deadline,
    ) -> Result<T, Error> {
        self.may_read()?;
        let queue = self.incoming();
        let mut look = Some(look);
        loop {
            queue.note_consumer_cpu(cpu::current());
            let mut wakes = Wakes::default();
            // SAFETY: the caller vouches for who else maps the link.
            let seen = unsafe { queue.read_in_place(self.me(), &mut look, &mut wakes) };
            self.deliver(&mut wakes);
            let in_pieces = match seen {
                Ok(InPlace::Seen(seen)) => return Ok(seen),
                Ok(InPlace::Streams) => true,
                Err(ReadStop::WouldPend) => false,
                Err(ReadStop::Held) => {
                    let entered = wait.enter()?;
                    self.wait_for(&entered, queue.consumer(), deadline)?;
                    continue;
                }
                Err(stop) => return Err(self.read_error(stop)),
            };
            if in_pieces {
                let len = self.peek(&mut [])?.message_len;
                let mut copy = vec![0; usize::try_from(len).map_err(|_| Error::TooLong)?];
                let count = self.read_with(&mut copy, wait, deadline)?.count();
                copy.truncate(count);
                if let Some(look) = look.take() {
                    return Ok(look(&copy));
                }
            }
            // A read of nothing waits for something and takes none of it, except a message of no bytes (NP-READ-15).
            let read = self.read_with(&mut [], wait, deadline)?;
            if read == Read::Whole(0)
                && self.read_mode() == ReadMode::Message
                && let Some(look) = look.take()
            {
                return Ok(look(&[]));
            }
        }
    }

    /// Waits until everything written before has been read, the deadline, or `cancel`.
    ///
    /// # Errors
    /// [`Error::Broken`]: the reader closed while it waited (NP-FLUSH-07). [`Error::Disconnected`],
    /// [`Error::Cancelled`], [`Error::TimedOut`].
    pub fn flush_with(&self, wait: &Wait, deadline: Deadline) -> Result<(), Error> {
        let entered = wait.enter()?;
        let queue = self.outgoing();
        loop {
            match self.flush_begun() {
                Ok(None) => return Ok(()),
                Ok(Some(index)) => {
                    return PendingFlush::pended(self, entered, index).wait(deadline);
                }
                Err(ReadStop::Held) => self.wait_for(&entered, queue.consumer(), deadline)?,
                Err(ReadStop::TableFull) => self.wait_for_record(&entered, &queue, deadline)?,
                Err(stop) => return Err(self.read_error(stop)),
            }
        }
    }

    /// Sends `request` as one message, whatever the quota, and waits for one message.
    ///
    /// # Errors
    /// [`Error::InvalidState`]: not connected, not duplex, or not in message read mode (NP-XCV-01, 02).
    /// [`Error::PipeBusy`]: something is unread or being read (NP-XCV-03). [`Error::NoMemory`]: the request exceeds
    /// the free area; [`Error::Busy`]: it would stand behind a write that is not placed to its end. Then as [`Conn::read_with`].
    pub fn transact_with(
        &self,
        request: &[u8],
        reply: &mut [u8],
        wait: &Wait,
        deadline: Deadline,
    ) -> Result<Read, Error> {
        let entered = wait.enter()?;
        loop {
            let role = match self.transact_begun(request, reply.len()) {
                Ok(index) => {
                    return PendingTransact::pended(self, entered, reply, index).wait(deadline);
                }
                Err(WriteStop::Failed(error)) => return Err(error),
                Err(WriteStop::ReplyHeld) => self.incoming().consumer(),
                Err(WriteStop::LockHeld) => self.outgoing().consumer(),
                Err(WriteStop::ProducerHeld) => self.outgoing().producer(),
                Err(stop) => return Err(self.write_error(stop)),
            };
            self.wait_for(&entered, role, deadline)?;
        }
    }

    // ---- pend --------------------------------------------------------------------------------------------------

    /// Reads what is there, or takes its place in line.
    ///
    /// # Errors
    /// Immediate errors (NP-IO-01); [`Error::Busy`] while another call is in the middle of a copy, or with 16
    /// operations pending in this direction.
    pub fn start_read<'a>(
        &'a self,
        wait: &'a Wait,
        buf: &'a mut [u8],
    ) -> Result<PendingRead<'a>, Error> {
        let entered = wait.enter()?;
        Ok(match self.begin_read(buf, ReadHow::Pend)? {
            Begun::Done(read) => PendingRead::done(self, entered, buf, read),
            Begun::Pends(index) => PendingRead::pended(self, entered, buf, index),
        })
    }

    /// Reads what is there, or takes a record.
    pub(crate) fn begin_read(&self, buf: &mut [u8], how: ReadHow) -> Result<Begun<Read>, Error> {
        self.check_read(buf)?;
        self.turn.store(1, Ordering::Relaxed);
        self.incoming().note_consumer_cpu(cpu::current());
        let how = self.read_how(how);
        match self.insist(|wakes| self.incoming().read(self.me(), buf, how, wakes)) {
            Ok(read) => Ok(Begun::Done(read)),
            Err(ReadStop::Pended(index, _)) => Ok(Begun::Pends(index)),
            Err(stop) => Err(self.read_error(stop)),
        }
    }

    /// Writes, or takes its place in line; its bytes can be read at once (NP-QUEUE-02).
    ///
    /// # Errors
    /// As [`Conn::start_read`].
    pub fn start_write<'a>(
        &'a self,
        wait: &'a Wait,
        data: &'a [u8],
    ) -> Result<PendingWrite<'a>, Error> {
        let entered = wait.enter()?;
        self.may_write()?;
        let how = self.write_how(WriteHow::Pend);
        let aligned = self.takes_turns();
        let queue = self.outgoing();
        queue.note_producer_cpu(cpu::current());
        let done = self.insist(
            |wakes| match queue.write(self.me(), data, how, aligned, wakes) {
                Err(WriteStop::ProducerHeld | WriteStop::LockHeld) => Err(ReadStop::Held),
                other => Ok(other),
            },
        );
        match done {
            Ok(Ok(count)) => Ok(PendingWrite::done(self, entered, data, count)),
            Ok(Err(WriteStop::Pended(index, _))) => {
                Ok(PendingWrite::pended(self, entered, data, index))
            }
            Ok(Err(stop)) => Err(self.write_error(stop)),
            Err(stop) => Err(self.read_error(stop)),
        }
    }

    /// Waits for everything written before to be read, without blocking.
    ///
    /// # Errors
    /// As [`Conn::start_read`].
    pub fn start_flush<'a>(&'a self, wait: &'a Wait) -> Result<PendingFlush<'a>, Error> {
        let entered = wait.enter()?;
        for turn in 0..self.refs.link().looks(HELD_TRIES) {
            match self.flush_begun() {
                Ok(None) => return Ok(PendingFlush::done(self, entered, ())),
                Ok(Some(index)) => return Ok(PendingFlush::pended(self, entered, index)),
                Err(ReadStop::Held) => wait_a_turn(turn),
                Err(stop) => return Err(self.read_error(stop)),
            }
        }
        Err(Error::Busy)
    }

    /// Sends one message and takes the place in line for the reply.
    ///
    /// # Errors
    /// As [`Conn::transact_with`] and [`Conn::start_read`].
    pub fn start_transact<'a>(
        &'a self,
        wait: &'a Wait,
        request: &[u8],
        reply: &'a mut [u8],
    ) -> Result<PendingTransact<'a>, Error> {
        let entered = wait.enter()?;
        for turn in 0..self.refs.link().looks(HELD_TRIES) {
            match self.transact_begun(request, reply.len()) {
                Ok(index) => return Ok(PendingTransact::pended(self, entered, reply, index)),
                Err(WriteStop::Failed(error)) => return Err(error),
                Err(_) => wait_a_turn(turn),
            }
        }
        Err(Error::Busy)
    }

    // ---- close -------------------------------------------------------------------------------------------------

    /// Closes this end for every handle on it: what it has written stays readable, everything pending at either end
    /// that can no longer complete is answered before this returns (NP-CLOSE-02, 03). Needs no role and no lock.
    pub fn close(&self) {
        let mut wakes = Wakes::default();
        self.leave();
        for (queue, bit) in [
            (self.incoming(), READER_CLOSED),
            (self.outgoing(), WRITER_CLOSED),
        ] {
            let attention = queue.attention();
            if attention.generation() != self.generation() || attention.has(bit) {
                continue;
            }
            queue.close(bit, &mut wakes);
            let _ = queue.settle_or_leave(self.me(), &mut wakes);
            self.deliver(&mut wakes);
        }
        self.refs
            .slot()
            .closed
            .fetch_or(1 << self.end.index(), Ordering::SeqCst);
    }

    /// As [`Conn::close`] without a broker, of an end that other processes may have too: whoever is the last closes it.
    pub fn release(&self) {
        if self.leave() && !self.is_closed() {
            self.refs.link().release_own(self.slot(), self.end);
        }
    }

    /// This handle is of no more use, and the broker knows: it closes the end if nobody else has it.
    pub fn leave_to_broker(&self) {
        self.leave();
    }

    /// Whether this end is closed, for whoever had it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let closed = self.refs.slot().closed.load(Ordering::SeqCst);
        let same = self.incoming().attention().generation() == self.generation();
        !same || closed & 1 << self.end.index() != 0
    }

    /// FSCTL_PIPE_DISCONNECT: unread data of both directions is gone, everything pending is answered
    /// (NP-DISC-01, 02, 07, 08).
    ///
    /// # Errors
    /// [`Error::InvalidState`] for a client end (STATUS_ILLEGAL_FUNCTION, NP-DISC-05), [`Error::Disconnected`] the
    /// second time (NP-DISC-03).
    pub fn disconnect(&self) -> Result<(), Error> {
        if self.end == End::Client {
            self.check_open()?;
            return Err(Error::InvalidState);
        }
        self.leave();
        self.check_open()?;
        let mut wakes = Wakes::default();
        for queue in [self.incoming(), self.outgoing()] {
            queue.close(DISCONNECTED, &mut wakes);
            let _ = queue.settle_polled(self.me(), &mut wakes);
            self.deliver(&mut wakes);
        }
        Ok(())
    }

    /// This handle is of no more use. `true`: this process has no other on that end.
    fn leave(&self) -> bool {
        let link = self.refs.link();
        link.note_closed(self.slot(), self.end, self.generation())
    }

    // ---- inside ------------------------------------------------------------------------------------------------

    #[inline]
    pub(crate) fn me(&self) -> Owner {
        Owner::me(self.refs.link().process())
    }

    /// For the shortcuts: the word of a role that the calling thread keeps.
    #[inline(always)]
    pub(crate) fn kept(&self) -> Kept {
        self.refs.keeper().here()
    }

    #[inline]
    pub(crate) fn incoming(&self) -> Queue<'_> {
        self.queue(self.end, &self.incoming)
    }

    #[inline]
    pub(crate) fn outgoing(&self) -> Queue<'_> {
        self.queue(self.end.other(), &self.outgoing)
    }

    /// The direction in which this end reads, or writes.
    #[inline]
    pub(crate) fn line(&self, incoming: bool) -> Queue<'_> {
        if incoming {
            self.incoming()
        } else {
            self.outgoing()
        }
    }

    /// Looks for as long as a blocking read here would before it sleeps: `true` once `ready` says so.
    pub fn spin_until(&self, ready: impl Fn() -> bool) -> bool {
        let wait = Wait::new();
        let Ok(entered) = wait.enter() else {
            return false; // it is fresh
        };
        let common = &self.incoming().header.common.0;
        let peer = common.producer_cpu.load(Ordering::Relaxed);
        self.spin.until(peer, &entered, ready)
    }

    /// The same for a moment, `most` times and without a look at the clock: no longer than a peer takes that is at work. To one on
    /// the same CPU it gives way once.
    #[inline]
    pub fn look_until(&self, most: u32, ready: impl Fn() -> bool) -> bool {
        let common = &self.incoming().header.common.0;
        let peer = common.producer_cpu.load(Ordering::Relaxed);
        match self.spin.quick_looks(peer).min(most) {
            0 => self.spin.gives_way(peer) && self.spin.give_way_once(ready),
            looks => self.spin.look(looks, ready),
        }
    }

    /// Whether it is likely to be answered meanwhile: a read that pends now is worth polling
    /// ([`Poller::Caller`](crate::Poller::Caller)).
    #[must_use]
    pub fn is_worth_polling(&self) -> bool {
        let common = &self.incoming().header.common.0;
        let peer = common.producer_cpu.load(Ordering::Relaxed);
        self.spin.stays_awake(peer)
    }

    /// A wait began, slept, and ended at those times; it was answered at `stamp`, as the one who answered says.
    pub(crate) fn learn_wait(&self, from: u64, to: u64, stamp: u64) {
        if (from..=to).contains(&stamp) {
            self.spin.learn(stamp - from);
            learn_wake_cost(to - stamp);
        }
    }

    pub(crate) fn spin(&self) -> &Spin {
        &self.spin
    }

    #[inline(always)]
    fn queue<'a>(&'a self, reader: End, side: &'a Side) -> Queue<'a> {
        let index = reader.index();
        Queue {
            header: &self.refs.slot().queues[index],
            records: &self.refs.tables().queues[index],
            modes: &self.refs.slot().modes[index],
            side,
        }
    }

    /// Wakes whom a call has answered, and remembers that somebody slept.
    #[inline]
    pub(crate) fn deliver(&self, wakes: &mut Wakes<'_>) {
        let link = self.refs.link();
        if wakes.deliver(|process| link.bell(process).ring(self.slot())) {
            self.spin.woke_peer();
        }
    }

    fn modes(&self) -> &AtomicU32 {
        &self.refs.slot().modes[self.end.index()]
    }

    fn may_read(&self) -> Result<(), Error> {
        if self.may_read {
            Ok(())
        } else {
            Err(Error::AccessDenied)
        }
    }

    pub(crate) fn may_write(&self) -> Result<(), Error> {
        if self.outgoing.may_write {
            Ok(())
        } else {
            Err(Error::AccessDenied)
        }
    }

    fn check_read(&self, buf: &[u8]) -> Result<(), Error> {
        self.check_read_of(buf.len())
    }

    pub(crate) fn check_read_of(&self, len: usize) -> Result<(), Error> {
        self.may_read()?;
        if i32::try_from(len).is_err() {
            return Err(Error::TooLong);
        }
        Ok(())
    }

    /// This end is open and connected or closing.
    fn check_open(&self) -> Result<(), Error> {
        let queue = self.incoming();
        queue.check(queue.attention(), READER_CLOSED)
    }

    /// The same of both directions, for a sleeper: they are closed one after the other, and only who has announced
    /// itself in a direction before that is closed is woken by it.
    pub(crate) fn check_both(&self) -> Result<(), Error> {
        self.check_open()?;
        let queue = self.outgoing();
        queue.check(queue.attention(), WRITER_CLOSED)
    }

    /// As `check_open`, for what a disconnected server end may do.
    fn check_open_server_too(&self) -> Result<(), Error> {
        match self.check_open() {
            Err(Error::Disconnected) if self.end == End::Server => Ok(()),
            other => other,
        }
    }

    #[inline]
    pub(crate) fn read_how(&self, queued: ReadHow) -> ReadHow {
        match self.completion_mode() {
            CompletionMode::Queue => queued,
            CompletionMode::Complete => ReadHow::Nowait,
        }
    }

    #[inline]
    pub(crate) fn write_how(&self, queued: WriteHow) -> WriteHow {
        match self.completion_mode() {
            CompletionMode::Queue => queued,
            CompletionMode::Complete => WriteHow::Nowait,
        }
    }

    /// Whether the last call was a read; this one is a write.
    #[inline]
    pub(crate) fn takes_turns(&self) -> bool {
        let turn = self.turn();
        if turn {
            self.noted_turn(false);
        }
        turn
    }

    /// Whether the last call was a read.
    #[inline(always)]
    pub(crate) fn turn(&self) -> bool {
        self.turn.load(Ordering::Relaxed) != 0
    }

    /// The last call was a read, or was none.
    #[inline]
    pub(crate) fn noted_turn(&self, read: bool) {
        self.turn.store(u8::from(read), Ordering::Relaxed);
    }

    #[inline(always)]
    fn read_now(&self, buf: &mut [u8], how: ReadHow) -> Result<Read, ReadStop> {
        match self.read_fast(buf, how == ReadHow::First) {
            Some(read) => Ok(read),
            None => self.read_any(buf, how),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_any(&self, buf: &mut [u8], how: ReadHow) -> Result<Read, ReadStop> {
        self.check_read(buf)?;
        let queue = self.incoming();
        queue.note_consumer_cpu(cpu::current());
        let mut wakes = Wakes::default();
        let read = queue.read(self.me(), buf, self.read_how(how), &mut wakes);
        self.deliver(&mut wakes);
        if read.is_ok() && self.turn.load(Ordering::Relaxed) == 0 {
            self.turn.store(1, Ordering::Relaxed);
        }
        read
    }

    #[inline(always)]
    pub(crate) fn write_now<S: Source>(&self, data: S, how: WriteHow) -> Result<usize, WriteStop> {
        match self.write_fast(data) {
            Some(count) => Ok(count),
            None => self.write_any(data, how),
        }
    }

    #[cold]
    #[inline(never)]
    fn write_any<S: Source>(&self, data: S, how: WriteHow) -> Result<usize, WriteStop> {
        self.may_write()?;
        let queue = self.outgoing();
        queue.note_producer_cpu(cpu::current());
        let mut wakes = Wakes::default();
        let written = queue.write(
            self.me(),
            data,
            self.write_how(how),
            self.takes_turns(),
            &mut wakes,
        );
        self.deliver(&mut wakes);
        written
    }

    #[cold]
    pub(crate) fn read_error(&self, stop: ReadStop) -> Error {
        match stop {
            ReadStop::Failed(error) => self.after(error),
            ReadStop::WouldPend => Error::WouldBlock,
            ReadStop::Held | ReadStop::TableFull | ReadStop::Pended(..) => Error::Busy,
        }
    }

    #[cold]
    pub(crate) fn write_error(&self, stop: WriteStop) -> Error {
        match stop {
            WriteStop::Failed(error) => self.after(error),
            WriteStop::WouldPend => Error::WouldBlock,
            WriteStop::ProducerHeld
            | WriteStop::LockHeld
            | WriteStop::ReplyHeld
            | WriteStop::TableFull
            | WriteStop::Pended(..) => Error::Busy,
        }
    }

    /// A breach by the peer ends the connection: from now on it has gone, whatever it does.
    pub(crate) fn after(&self, error: Error) -> Error {
        if let Error::Fault(_) = error {
            let mut wakes = Wakes::default();
            self.incoming().close(WRITER_CLOSED, &mut wakes);
            self.outgoing().close(READER_CLOSED, &mut wakes);
            self.deliver(&mut wakes);
        }
        error
    }

    /// Tries again while somebody holds the role for the length of a copy.
    fn insist<'a, T>(
        &'a self,
        mut call: impl FnMut(&mut Wakes<'a>) -> Result<T, ReadStop>,
    ) -> Result<T, ReadStop> {
        let mut wakes = Wakes::default();
        for turn in 0..self.refs.link().looks(HELD_TRIES) {
            let done = call(&mut wakes);
            self.deliver(&mut wakes);
            if !matches!(done, Err(ReadStop::Held)) {
                return done;
            }
            wait_a_turn(turn);
        }
        Err(ReadStop::Held)
    }

    #[cold]
    #[inline(never)]
    fn read_blocking(
        &self,
        buf: &mut [u8],
        stop: ReadStop,
        wait: &Wait,
        deadline: Deadline,
    ) -> Result<Read, Error> {
        let mut stop = stop;
        let queue = self.incoming();
        // Entered once: a cancel that comes at any moment from here on is found.
        let entered = wait.enter()?;
        // The last spin brought nothing: what pends now sleeps at once.
        let mut spun = false;
        loop {
            let mut wakes = Wakes::default();
            let read = match stop {
                ReadStop::WouldPend if self.completion_mode() == CompletionMode::Queue => {
                    entered.look(deadline)?;
                    let peer = queue.header.common.0.producer_cpu.load(Ordering::Relaxed);
                    let spin = |ready: &dyn Fn() -> bool| {
                        let ready = self.spin.until(peer, &entered, ready);
                        if !ready {
                            self.before_sleep();
                        }
                        ready
                    };
                    queue.read_spinning(self.me(), buf, spin, &mut spun, &mut wakes)
                }
                ReadStop::Held => {
                    self.wait_for(&entered, queue.consumer(), deadline)?;
                    queue.read(self.me(), buf, self.read_how(ReadHow::First), &mut wakes)
                }
                ReadStop::TableFull => {
                    self.wait_for_record(&entered, &queue, deadline)?;
                    queue.read(self.me(), buf, self.read_how(ReadHow::First), &mut wakes)
                }
                ReadStop::WouldPend => queue.read(self.me(), buf, ReadHow::Nowait, &mut wakes),
                stop => return Err(self.read_error(stop)),
            };
            self.deliver(&mut wakes);
            match read {
                Ok(read) => {
                    if self.turn() {
                        #[allow(
                            clippy::cast_possible_truncation,
                            reason = "no message is as long"
                        )]
                        self.came_at_once(queue, read.count() as u32);
                    }
                    self.turn.store(1, Ordering::Relaxed);
                    return Ok(read);
                }
                Err(ReadStop::Pended(index, _)) => {
                    self.turn.store(1, Ordering::Relaxed);
                    return PendingRead::pended(self, entered, buf, index)
                        .after_spin(spun)
                        .wait(deadline);
                }
                Err(other) => stop = other,
            }
        }
    }

    /// This thread may sleep for long: memory that its writes have taken and nobody needs goes back.
    pub(crate) fn before_sleep(&self) {
        let mut wakes = Wakes::default();
        self.outgoing().trim(self.me(), &mut wakes);
        self.deliver(&mut wakes);
    }

    pub(crate) fn wait_for(
        &self,
        entered: &Entered<'_>,
        role: Role<'_>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        entered.look(deadline)?;
        entered.sleep_on_role(role, deadline, || self.check_both())
    }

    pub(crate) fn wait_for_record(
        &self,
        entered: &Entered<'_>,
        queue: &Queue<'_>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        entered.look(deadline)?;
        let value = queue.await_record();
        // Announced: a record that becomes free from here on changes the word.
        if queue.attention().records().count_ones() as usize == crate::layout::RECORDS {
            self.check_both()?;
            entered.sleep_on_word(&queue.header.table.0.room, value, deadline)?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn write_blocking(
        &self,
        data: &[u8],
        stop: WriteStop,
        wait: &Wait,
        deadline: Deadline,
    ) -> Result<usize, Error> {
        let mut stop = stop;
        let queue = self.outgoing();
        let entered = wait.enter()?;
        let mut spun = false;
        loop {
            let how = match stop {
                WriteStop::WouldPend => {
                    entered.look(deadline)?;
                    self.spin_to_write(&queue, data.len(), &entered, &mut spun)
                }
                WriteStop::ProducerHeld => {
                    self.wait_for(&entered, queue.producer(), deadline)?;
                    WriteHow::Try
                }
                WriteStop::LockHeld => {
                    self.wait_for(&entered, queue.consumer(), deadline)?;
                    WriteHow::Try
                }
                WriteStop::TableFull => {
                    self.wait_for_record(&entered, &queue, deadline)?;
                    WriteHow::Try
                }
                stop => return Err(self.write_error(stop)),
            };
            let how = self.write_how(how);
            let mut wakes = Wakes::default();
            let mut written = queue.write(self.me(), data, how, false, &mut wakes);
            if written == Err(WriteStop::WouldPend) && stop == WriteStop::WouldPend {
                written = queue.write(self.me(), data, WriteHow::Pend, false, &mut wakes);
            }
            self.deliver(&mut wakes);
            match written {
                Ok(count) => return Ok(count),
                Err(WriteStop::Pended(index, _)) => {
                    return PendingWrite::pended(self, entered, data, index)
                        .after_spin(spun)
                        .wait(deadline);
                }
                Err(other) => stop = other,
            }
        }
    }

    /// A write that the quota admits once something is read spins for that; it has not been issued yet. One that is
    /// larger than the quota has to pend, to be read at all.
    fn spin_to_write(
        &self,
        queue: &Queue<'_>,
        len: usize,
        entered: &Entered<'_>,
        spun: &mut bool,
    ) -> WriteHow {
        let len = len as u64;
        let quota = u64::from(queue.quota);
        if len > quota {
            return WriteHow::Pend;
        }
        let peer = queue.header.common.0.consumer_cpu.load(Ordering::Relaxed);
        // Room for a batch rather than for one message; and a look only every so often, for each look takes the line
        // from the reader that is about to write it.
        let batch = len.max((quota / 4).min(MOST_BATCH));
        let between = (batch / len.max(1)).clamp(1, MOST_LOOKS_BETWEEN);
        let turns = Cell::new(0_u64);
        let calm = || queue.attention().is_quiet(queue.calm);
        let ready = self.spin.until(peer, entered, || {
            turns.set(turns.get() + 1);
            if !turns.get().is_multiple_of(between) {
                spin_hint();
                return false;
            }
            queue.looks_writable(batch) || !calm()
        });
        *spun = !ready;
        if ready && calm() || queue.looks_writable(len) {
            WriteHow::Try
        } else {
            WriteHow::Pend
        }
    }

    /// A call that has not been issued yet looks for as long as that is worth it whether it could be done at once: a read, or
    /// a write of so many bytes.
    pub(crate) fn spin_for(&self, incoming: bool, len: usize, entered: &Entered<'_>) {
        if !incoming {
            self.spin_to_write(&self.outgoing(), len, entered, &mut false);
            return;
        }
        let queue = self.incoming();
        let front = Cell::new(queue.front_snapshot());
        let common = &queue.header.common.0;
        let peer = common.producer_cpu.load(Ordering::Relaxed);
        self.spin.until(peer, entered, || {
            queue.has_come(&front) || queue.attention().0 != queue.calm
        });
    }

    /// `None`: nothing is unread.
    pub(crate) fn flush_begun(&self) -> Result<Option<usize>, ReadStop> {
        if self.end == End::Server && self.state() == State::Disconnected {
            self.check_open_server_too()?;
            return Ok(None);
        }
        let queue = self.outgoing();
        let mut wakes = Wakes::default();
        let flushed = queue.flush(self.me(), &mut wakes);
        self.deliver(&mut wakes);
        match flushed {
            Ok(()) => Ok(None),
            Err(ReadStop::Pended(index, _)) => Ok(Some(index)),
            Err(stop) => Err(stop),
        }
    }

    /// Takes the reply's record, then sends the request.
    pub(crate) fn transact_begun<S: Source>(
        &self,
        request: S,
        reply: usize,
    ) -> Result<usize, WriteStop> {
        match self.check_open() {
            Err(Error::Disconnected) if self.end == End::Server => {
                return Err(Error::InvalidState.into());
            }
            other => other?,
        }
        if self.state() != State::Connected
            || self.read_mode() != ReadMode::Message
            || !self.may_read
            || !self.outgoing.may_write
        {
            return Err(Error::InvalidState.into());
        }
        if i32::try_from(request.len()).is_err() || i32::try_from(reply).is_err() {
            return Err(Error::TooLong.into());
        }
        let incoming = self.incoming();
        let outgoing = self.outgoing();
        if !outgoing.producer().is_free() {
            return Err(WriteStop::ProducerHeld);
        }
        let mut wakes = Wakes::default();
        let begun = incoming.begin_transact(self.me(), reply, &mut wakes);
        self.deliver(&mut wakes);
        let (index, _) = match begun {
            Ok(begun) => begun,
            // Perhaps only the peer, settling: whether the direction is idle shows when it is done.
            Err(ReadStop::Held) => return Err(WriteStop::ReplyHeld),
            Err(stop) => return Err(self.read_error(stop).into()),
        };
        self.noted_turn(false);
        let sent = outgoing.write(self.me(), request, WriteHow::NoQuota, true, &mut wakes);
        if sent.is_err() {
            // Nothing was sent: nobody answers a request that never was.
            incoming.give_up(self.me(), index, &mut wakes);
        }
        self.deliver(&mut wakes);
        sent.map(|_| index)
    }

    /// [`Conn::try_write`] whatever the quota: what exceeds it can be read all the same, and later writes wait for that.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]: it would stand behind a write that is not placed to its end. [`Error::NoMemory`]: it exceeds the
    /// free area. [`Error::Busy`]: another writer is at work. The state's error (NP-WRITE-01).
    pub fn try_write_beyond_quota(&self, data: &[u8]) -> Result<usize, Error> {
        self.may_write()?;
        let queue = self.outgoing();
        let mut wakes = Wakes::default();
        let aligned = self.takes_turns();
        let written = queue.write(self.me(), data, WriteHow::NoQuota, aligned, &mut wakes);
        self.deliver(&mut wakes);
        written.map_err(|stop| match stop {
            WriteStop::Failed(Error::Busy) => Error::WouldBlock,
            stop => self.write_error(stop),
        })
    }

    /// Whether each end's file object is signalled, by `End::index`.
    pub(crate) fn signaled(&self) -> (&AtomicU32, u32) {
        let signaled = &self.refs.slot().signaled;
        (&signaled[self.end.index()], self.generation())
    }
}

/// Between two looks at a role that is held for the length of a copy; its holder may have been preempted here.
fn wait_a_turn(turn: u32) {
    if turn % 256 == 255 {
        cpu::give_way();
    } else {
        spin_hint();
    }
}

/// Looks at a role that is held for the length of a copy.
const HELD_TRIES: u32 = 10_000;
/// Bytes that a spinning writer waits for at the most, beyond its own: a few microseconds of a reader at work.
const MOST_BATCH: u64 = 32 * 1024;
/// Turns of a spin between two looks at the reader's line.
const MOST_LOOKS_BETWEEN: u64 = 32;
const PEEK_TRIES: u32 = 10_000;
