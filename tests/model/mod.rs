//! A naive model of one connection, written from the rules alone: two queues, no sharing, no clock, nothing clever.
//!
//! Every operation is started and answers at once or pends; what completes later is put into [`Model::done`]. Each
//! decision names its rule. Where the specification leaves a choice open the comment says which one was taken.
//!
//! There is no limit to what it queues. The queue under test has one, its data area; what may deviate for that reason is
//! listed, and let through, by the test that drives both (`queue_model.rs`).
//!
//! Nothing here is taken from, or shared with, the code under test.

pub mod whole;

use std::collections::VecDeque;

/// Who: the client end is 0, the server end 1. A direction is named by its writer.
pub type Who = usize;

/// The server end; only it may disconnect.
pub const SERVER: Who = 1;

/// The client end.
pub const CLIENT: Who = 0;

/// Byte or message, for a pipe's type and for a read mode alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// bytes
    Byte,
    /// messages
    Message,
}

/// QUEUE or COMPLETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// calls pend
    Queue,
    /// calls never pend
    Complete,
}

/// Why a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// a try call would pend
    WouldBlock,
    /// COMPLETE, nothing to read
    Empty,
    /// the peer is gone
    Broken,
    /// the peer is gone, said to a writer
    Closing,
    /// disconnected
    Disconnected,
    /// this end is closed
    Stale,
    /// withdrawn
    Cancelled,
    /// the queue is in use
    PipeBusy,
    /// not in this state
    InvalidState,
    /// not on this pipe
    InvalidMode,
}

/// How an operation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// bytes, and whether they end their message (always, for bytes)
    Read(Vec<u8>, bool),
    /// so many
    Wrote(usize),
    /// over
    Flushed,
    /// in vain
    Failed(Fail),
}

/// What a call says at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// it pends
    Pends,
    /// it is over
    Over(Outcome),
}

/// The state as one end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// both ends are there
    Connected,
    /// the other end is closed
    Closing,
    /// the server has disconnected
    Disconnected,
}

/// Counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// as this end sees it
    pub state: State,
    /// bytes this end can read
    pub readable: usize,
    /// bytes of quota this end has left
    pub writable: usize,
    /// messages this end can read
    pub messages: usize,
}

/// What a peek shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// as this end sees it
    pub state: State,
    /// unread bytes
    pub available: usize,
    /// queued messages
    pub messages: usize,
    /// unread bytes of the first
    pub message_len: usize,
    /// the bytes shown
    pub data: Vec<u8>,
    /// less than the whole message
    pub partial: bool,
}

/// Who waits for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// nobody (any more), or a transaction's request
    Nobody,
    /// a stalled write, and the bytes it will report
    Write(u32, usize),
    /// no data: a marker of a flush
    Flush(u32),
}

#[derive(Clone, Debug)]
struct Entry {
    unread: VecDeque<u8>,
    /// bytes of it charged to the quota
    charged: usize,
    origin: Origin,
}

impl Entry {
    fn is_marker(&self) -> bool {
        matches!(self.origin, Origin::Flush(_))
    }
}

#[derive(Clone, Copy, Debug)]
struct PendedRead {
    op: u32,
    len: usize,
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Queue {
    quota: usize,
    entries: VecDeque<Entry>,
    reads: VecDeque<PendedRead>,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Model {
    kind: Kind,
    queues: [Queue; 2],
    read_mode: [Kind; 2],
    completion: [Completion; 2],
    closed: [bool; 2],
    disconnected: bool,
    /// Operations that have completed since this was last emptied, in order: end, operation, outcome.
    pub done: Vec<(Who, u32, Outcome)>,
}

impl Queue {
    fn charged(&self) -> usize {
        self.entries.iter().map(|e| e.charged).sum()
    }

    fn free(&self) -> usize {
        self.quota - self.charged()
    }

    fn unread(&self) -> usize {
        self.entries.iter().map(|e| e.unread.len()).sum()
    }

    fn messages(&self) -> usize {
        self.entries.iter().filter(|e| !e.is_marker()).count()
    }

    /// Hands free quota to entries in order, and completes what may complete.
    fn settle(&mut self, writer: Who, done: &mut Vec<(Who, u32, Outcome)>) {
        let mut free = self.free();
        for entry in &mut self.entries {
            // NP-QUEUE-03: charged as many of its unread bytes as the free quota allows.
            // NP-QUEUE-04: strictly in order, each filled before the next gets any.
            let more = (entry.unread.len() - entry.charged).min(free);
            entry.charged += more;
            free -= more;
            if let Origin::Write(op, total) = entry.origin
                && entry.charged == entry.unread.len()
            {
                // NP-QUEUE-03: complete when all unread bytes are charged (or read). NP-WRITE-07: the full length.
                done.push((writer, op, Outcome::Wrote(total)));
                entry.origin = Origin::Nobody;
            }
        }
        // NP-FLUSH-04, 06: over when the last byte written before it is read; NP-FLUSH-05: later data does not matter.
        let mut ahead = 0;
        self.entries.retain(|entry| {
            ahead += entry.unread.len();
            match entry.origin {
                Origin::Flush(op) if ahead == 0 => {
                    done.push((writer, op, Outcome::Flushed));
                    false
                }
                _ => true,
            }
        });
    }

    /// Takes `n` bytes from the entry at `at`, and their charge.
    fn consume(&mut self, at: usize, n: usize) -> Vec<u8> {
        let entry = &mut self.entries[at];
        // NP-QUEUE-04: reading b bytes releases b bytes of quota.
        entry.charged -= entry.charged.min(n);
        entry.unread.drain(..n).collect()
    }

    /// Removes the entry at `at`, all of which has been read.
    fn retire(&mut self, at: usize, writer: Who, done: &mut Vec<(Who, u32, Outcome)>) {
        let entry = self.entries.remove(at).expect("an entry");
        if let Origin::Write(op, total) = entry.origin {
            // NP-WRITE-09: complete when it is completely read.
            done.push((writer, op, Outcome::Wrote(total)));
        }
    }

    fn first(&self) -> Option<usize> {
        self.entries.iter().position(|e| !e.is_marker())
    }
}

impl Model {
    /// A connected pair. Quotas in bytes: client to server, server to client.
    pub fn new(kind: Kind, inbound: usize, outbound: usize) -> Model {
        let queue = |quota| Queue {
            quota,
            ..Queue::default()
        };
        Model {
            kind,
            queues: [queue(inbound), queue(outbound)],
            read_mode: [Kind::Byte; 2],
            completion: [Completion::Queue; 2],
            closed: [false; 2],
            disconnected: false,
            done: Vec::new(),
        }
    }

    /// The type of the pipe.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The read mode of an end.
    pub fn read_mode(&self, who: Who) -> Kind {
        self.read_mode[who]
    }

    /// The completion mode of an end.
    pub fn completion(&self, who: Who) -> Completion {
        self.completion[who]
    }

    /// Bytes unread in the direction written by `who`.
    pub fn unread(&self, who: Who) -> usize {
        self.queues[who].unread()
    }

    /// `true` if the direction written by `who` holds messages, and all of them are empty.
    pub fn only_empty(&self, who: Who) -> bool {
        self.queues[who].messages() > 0 && self.queues[who].unread() == 0
    }

    /// `true` if the first thing queued in the direction written by `who` is an empty message.
    pub fn first_is_empty(&self, who: Who) -> bool {
        let queue = &self.queues[who];
        queue
            .first()
            .is_some_and(|at| queue.entries[at].unread.is_empty())
    }

    /// Sum of the lengths of the reads pended against the direction written by `who`.
    pub fn awaited(&self, who: Who) -> usize {
        self.queues[who].reads.iter().map(|r| r.len).sum()
    }

    /// Pended operations of the direction written by `who`, and requests that are not wholly charged.
    pub fn pended(&self, who: Who) -> usize {
        let queue = &self.queues[who];
        let entries = queue.entries.iter();
        queue.reads.len()
            + entries
                .filter(|e| e.origin != Origin::Nobody || e.charged < e.unread.len())
                .count()
    }

    /// The operations of one end that pend, in no particular order.
    pub fn pended_ops(&self, who: Who) -> Vec<u32> {
        let reads = self.queues[1 - who].reads.iter().map(|r| r.op);
        let writes = self.queues[who]
            .entries
            .iter()
            .filter_map(|e| match e.origin {
                Origin::Write(op, _) | Origin::Flush(op) => Some(op),
                Origin::Nobody => None,
            });
        reads.chain(writes).collect()
    }

    fn finish(&mut self, who: Who, op: u32, outcome: Outcome) {
        self.done.push((who, op, outcome));
    }

    /// What stops any use of this end, or nothing.
    fn gone(&self, who: Who) -> Option<Fail> {
        if self.closed[who] {
            Some(Fail::Stale)
        } else if self.disconnected {
            // NP-READ-05, NP-WRITE-01.
            Some(Fail::Disconnected)
        } else {
            None
        }
    }

    /// A read of at most `len` bytes. `attempt`: a try call.
    pub fn read(&mut self, who: Who, op: u32, len: usize, attempt: bool) -> Started {
        if let Some(fail) = self.gone(who) {
            return Started::Over(Outcome::Failed(fail));
        }
        let from = 1 - who;
        if self.queues[from].first().is_some() {
            // NP-READ-01: data is read at once, whatever the completion mode and (NP-READ-20) after the peer closed.
            let outcome = self.take(from, len);
            return Started::Over(outcome);
        }
        if self.closed[from] {
            // NP-READ-04, 14.
            return Started::Over(Outcome::Failed(Fail::Broken));
        }
        if self.completion[who] == Completion::Complete {
            // NP-READ-03, 14.
            return Started::Over(Outcome::Failed(Fail::Empty));
        }
        if attempt {
            return Started::Over(Outcome::Failed(Fail::WouldBlock));
        }
        // NP-READ-02, 14; NP-READ-18: behind the earlier ones.
        self.queues[from].reads.push_back(PendedRead { op, len });
        Started::Pends
    }

    /// Takes data that is queued.
    fn take(&mut self, from: Who, len: usize) -> Outcome {
        let mode = self.read_mode[1 - from];
        let (queue, done) = (&mut self.queues[from], &mut self.done);
        let outcome = match mode {
            Kind::Message => {
                let at = queue.first().expect("data");
                let unread = queue.entries[at].unread.len();
                let data = queue.consume(at, len.min(unread));
                if data.len() == unread {
                    // NP-READ-11, 12: the entry is gone. Section 28, 3: also for a zero-length read of an empty one.
                    queue.retire(at, from, done);
                    Outcome::Read(data, true)
                } else {
                    // NP-READ-09: the rest stays, and the read says so; NP-READ-16: also with no room at all.
                    Outcome::Read(data, false)
                }
            }
            Kind::Byte => {
                let mut data = Vec::new();
                // NP-READ-15: no room, nothing is consumed. NP-READ-07: over the boundaries of entries.
                while data.len() < len {
                    let Some(at) = queue.first() else { break };
                    let unread = queue.entries[at].unread.len();
                    data.extend(queue.consume(at, (len - data.len()).min(unread)));
                    if queue.entries[at].unread.is_empty() {
                        // NP-READ-13: empty messages are swallowed, those behind a full buffer are left.
                        queue.retire(at, from, done);
                    }
                }
                // NP-READ-07, 08, 13: success, whatever was found.
                Outcome::Read(data, true)
            }
        };
        queue.settle(from, done);
        outcome
    }

    /// Gives data to the reads pended against the direction of `who`; answers how much was taken.
    fn feed(&mut self, who: Who, data: &[u8]) -> usize {
        let mode = self.read_mode[1 - who];
        let mut fed = 0;
        while fed < data.len() {
            let Some(read) = self.queues[who].reads.pop_front() else {
                break;
            };
            // NP-WRITE-06: min(r, m). NP-READ-17: a read of no bytes gets none, and the write goes on.
            let n = read.len.min(data.len() - fed);
            let piece = data[fed..fed + n].to_vec();
            fed += n;
            // NP-WRITE-06, NP-READ-19: the mode that is in force now decides what is said about a rest.
            let whole = fed == data.len() || mode == Kind::Byte;
            self.finish(1 - who, read.op, Outcome::Read(piece, whole));
        }
        fed
    }

    /// A write. `attempt`: a try call.
    pub fn write(&mut self, who: Who, op: u32, data: &[u8], attempt: bool) -> Started {
        if let Some(fail) = self.gone(who) {
            return Started::Over(Outcome::Failed(fail));
        }
        if self.closed[1 - who] {
            // NP-WRITE-01, NP-CLOSE-06: before the length is looked at.
            return Started::Over(Outcome::Failed(Fail::Closing));
        }
        if data.is_empty() {
            if self.kind == Kind::Message {
                self.write_empty(who);
            }
            // NP-WRITE-03: nothing at all on a byte pipe.
            return Started::Over(Outcome::Wrote(0));
        }
        let awaited = self.awaited(who);
        let free = self.queues[who].free();
        let rest = data.len().saturating_sub(awaited);
        if self.completion[who] == Completion::Complete {
            // NP-WRITE-12: this end's mode. It never pends.
            return Started::Over(Outcome::Wrote(self.write_complete(who, data, free)));
        }
        if attempt && rest > free {
            return Started::Over(Outcome::Failed(Fail::WouldBlock));
        }
        // NP-WRITE-05: pended reads first, outside the quota.
        let fed = self.feed(who, data);
        if fed == data.len() {
            return Started::Over(Outcome::Wrote(data.len()));
        }
        // NP-QUEUE-02: an entry, readable at once. NP-WRITE-08: however large.
        let origin = Origin::Write(op, data.len());
        self.append(who, &data[fed..], origin);
        // NP-WRITE-07, 09: it has completed if the rest fitted, else it pends; and the settling just said which.
        let over = self.done.iter().position(|(w, o, _)| *w == who && *o == op);
        match over {
            Some(at) => Started::Over(self.done.remove(at).2),
            None => Started::Pends,
        }
    }

    /// NP-WRITE-04: one pended read is completed with nothing, or an empty message is queued. It never pends.
    fn write_empty(&mut self, who: Who) {
        match self.queues[who].reads.pop_front() {
            Some(read) => self.finish(1 - who, read.op, Outcome::Read(Vec::new(), true)),
            None => self.append(who, &[], Origin::Nobody),
        }
    }

    /// A non-empty write in COMPLETE mode: the bytes it reports.
    fn write_complete(&mut self, who: Who, data: &[u8], free: usize) -> usize {
        let awaited = self.awaited(who);
        let reads = !self.queues[who].reads.is_empty();
        match self.kind {
            Kind::Message => {
                // NP-WRITE-10: all or nothing, and then no pended read is touched.
                let capacity = if reads {
                    awaited + self.queues[who].quota
                } else {
                    free
                };
                if data.len() > capacity {
                    return 0;
                }
            }
            Kind::Byte => {
                let rest = data.len().saturating_sub(awaited);
                if rest > free {
                    // NP-WRITE-11: the reads are fed, the rest is dropped. The reads of a byte pipe are in byte mode, so
                    // that nothing is said about the rest.
                    return self.feed(who, data);
                }
            }
        }
        let fed = self.feed(who, data);
        if fed < data.len() {
            self.append(who, &data[fed..], Origin::Nobody);
        }
        data.len()
    }

    fn append(&mut self, who: Who, data: &[u8], origin: Origin) {
        let (queue, done) = (&mut self.queues[who], &mut self.done);
        let unread = data.iter().copied().collect();
        queue.entries.push_back(Entry {
            unread,
            charged: 0,
            origin,
        });
        queue.settle(who, done);
    }

    /// A flush.
    pub fn flush(&mut self, who: Who, op: u32) -> Started {
        if self.closed[who] {
            return Started::Over(Outcome::Failed(Fail::Stale));
        }
        if self.disconnected {
            // NP-FLUSH-02 for the server, 03 for the client.
            return Started::Over(match who {
                SERVER => Outcome::Flushed,
                _ => Outcome::Failed(Fail::Disconnected),
            });
        }
        if self.queues[who].unread() == 0 {
            // NP-FLUSH-02. Data are bytes (NP-FLUSH-06: the last byte ends it): empty messages keep nobody waiting.
            return Started::Over(Outcome::Flushed);
        }
        // NP-FLUSH-05: a marker.
        self.append(who, &[], Origin::Flush(op));
        Started::Pends
    }

    /// A transaction with `len` bytes of room for the reply.
    pub fn transact(&mut self, who: Who, op: u32, request: &[u8], len: usize) -> Started {
        let fail = |fail| Started::Over(Outcome::Failed(fail));
        if self.closed[who] {
            return fail(Fail::Stale);
        }
        if self.disconnected {
            // NP-XCV-01.
            return fail(if who == SERVER {
                Fail::InvalidState
            } else {
                Fail::Disconnected
            });
        }
        if self.closed[1 - who] || self.read_mode[who] != Kind::Message {
            // NP-XCV-01, 02.
            return fail(Fail::InvalidState);
        }
        let incoming = &self.queues[1 - who];
        if incoming.first().is_some() || !incoming.reads.is_empty() {
            // NP-XCV-03.
            return fail(Fail::PipeBusy);
        }
        // NP-XCV-05, 09: it pends, in either completion mode.
        self.queues[1 - who].reads.push_back(PendedRead { op, len });
        if request.is_empty() {
            // NP-XCV-04: a real message.
            self.write_empty(who);
        } else {
            let fed = self.feed(who, request);
            if fed < request.len() {
                // NP-XCV-04: without waiting for quota, behind earlier stalled writes.
                self.append(who, &request[fed..], Origin::Nobody);
            }
        }
        Started::Pends
    }

    /// Cancels one pended operation: whether there was one.
    pub fn cancel(&mut self, who: Who, op: u32) -> bool {
        let incoming = &mut self.queues[1 - who];
        if let Some(at) = incoming.reads.iter().position(|r| r.op == op) {
            // NP-CANCEL-01, 02; NP-XCV-08: the request of a transaction stays where it is.
            incoming.reads.remove(at);
            self.finish(who, op, Outcome::Failed(Fail::Cancelled));
            return true;
        }
        let outgoing = &mut self.queues[who];
        let mine = |e: &Entry| match e.origin {
            Origin::Write(o, _) | Origin::Flush(o) => o == op,
            Origin::Nobody => false,
        };
        if let Some(at) = outgoing.entries.iter().position(mine) {
            // NP-CANCEL-03: all its unread data goes, charged or not; NP-FLUSH-06: which may end a flush.
            outgoing.entries.remove(at);
            self.finish(who, op, Outcome::Failed(Fail::Cancelled));
            self.queues[who].settle(who, &mut self.done);
            return true;
        }
        // NP-CANCEL-04.
        false
    }

    /// Closes an end.
    pub fn close(&mut self, who: Who) {
        if self.closed[who] {
            return;
        }
        self.closed[who] = true;
        let peer = 1 - who;
        // NP-CLOSE-02: unread incoming data is dropped, the peer's writes and flushes say so; NP-CLOSE-03: own reads.
        self.end_all(peer, Fail::Broken);
        if self.closed[peer] {
            // NP-CLOSE-05: nothing is left for anybody.
            self.end_all(who, Fail::Broken);
            return;
        }
        // NP-CLOSE-02: the peer's reads end.
        for read in std::mem::take(&mut self.queues[who].reads) {
            self.finish(peer, read.op, Outcome::Failed(Fail::Broken));
        }
        // NP-CLOSE-02, 03: what the closer has written stays readable, pended or not. Choice: the pended write itself (and
        // a flush) completes as cancelled.
        let mut ended = Vec::new();
        self.queues[who]
            .entries
            .retain_mut(|entry| match entry.origin {
                Origin::Nobody => true,
                Origin::Write(op, _) => {
                    ended.push(op);
                    entry.origin = Origin::Nobody;
                    true
                }
                Origin::Flush(op) => {
                    ended.push(op);
                    false
                }
            });
        for op in ended {
            self.finish(who, op, Outcome::Failed(Fail::Cancelled));
        }
    }

    /// Empties the direction written by `writer`; whoever waits there is told `fail`.
    fn end_all(&mut self, writer: Who, fail: Fail) {
        for entry in std::mem::take(&mut self.queues[writer].entries) {
            if let Origin::Write(op, _) | Origin::Flush(op) = entry.origin {
                // NP-WRITE-14, NP-FLUSH-07.
                self.finish(writer, op, Outcome::Failed(fail));
            }
        }
        for read in std::mem::take(&mut self.queues[writer].reads) {
            self.finish(1 - writer, read.op, Outcome::Failed(fail));
        }
    }

    /// The server disconnects.
    ///
    /// # Errors
    /// `Stale` if it is closed, `Disconnected` if it has disconnected before (NP-DISC-03).
    pub fn disconnect(&mut self) -> Result<(), Fail> {
        if let Some(fail) = self.gone(SERVER) {
            return Err(fail);
        }
        // NP-DISC-01, 02; NP-DISC-07: all data goes; NP-DISC-08: all waiting ends.
        self.disconnected = true;
        self.end_all(CLIENT, Fail::Disconnected);
        self.end_all(SERVER, Fail::Disconnected);
        Ok(())
    }

    /// Sets the modes of an end.
    ///
    /// # Errors
    /// As named at each rule.
    pub fn set_modes(&mut self, who: Who, read: Kind, completion: Completion) -> Result<(), Fail> {
        if self.closed[who] {
            return Err(Fail::Stale);
        }
        if self.disconnected && who == CLIENT {
            // NP-INFO-01.
            return Err(Fail::Disconnected);
        }
        if self.kind == Kind::Byte && read == Kind::Message {
            // NP-INFO-05.
            return Err(Fail::InvalidMode);
        }
        let busy = !self.queues[1 - who].reads.is_empty() || self.queues[who].first().is_some();
        if busy && self.completion[who] == Completion::Queue && completion == Completion::Complete {
            // NP-INFO-07.
            return Err(Fail::PipeBusy);
        }
        // NP-INFO-06: this end only. NP-CLOSE-07: also when the peer has closed.
        self.read_mode[who] = read;
        self.completion[who] = completion;
        Ok(())
    }

    /// The state one end sees.
    pub fn state(&self, who: Who) -> State {
        if self.disconnected {
            State::Disconnected
        } else if self.closed[1 - who] {
            State::Closing
        } else {
            State::Connected
        }
    }

    /// The counts.
    ///
    /// # Errors
    /// `Stale` at a closed end, `Disconnected` at a disconnected client (NP-INFO-01).
    pub fn info(&self, who: Who) -> Result<Info, Fail> {
        if self.closed[who] {
            return Err(Fail::Stale);
        }
        if self.disconnected && who == CLIENT {
            return Err(Fail::Disconnected);
        }
        let (incoming, outgoing) = (&self.queues[1 - who], &self.queues[who]);
        // NP-QUEUE-08: a pended read charges min(n, free).
        let charged = if outgoing.reads.is_empty() {
            outgoing.charged()
        } else {
            self.awaited(who).min(outgoing.quota)
        };
        Ok(Info {
            state: self.state(who),
            // NP-INFO-09.
            readable: incoming.unread(),
            // NP-INFO-10.
            writable: outgoing.quota - charged,
            messages: match self.kind {
                Kind::Message => incoming.messages(),
                Kind::Byte => 0,
            },
        })
    }

    /// A look at what is queued, with `room` bytes for data.
    ///
    /// # Errors
    /// Those of NP-PEEK-02.
    pub fn peek(&self, who: Who, room: usize) -> Result<Peek, Fail> {
        if self.closed[who] {
            return Err(Fail::Stale);
        }
        if self.disconnected {
            // NP-PEEK-02.
            return Err(if who == SERVER {
                Fail::InvalidState
            } else {
                Fail::Disconnected
            });
        }
        let incoming = &self.queues[1 - who];
        let first = incoming.first();
        if self.closed[1 - who] && first.is_none() {
            // NP-PEEK-02.
            return Err(Fail::Broken);
        }
        let all = || {
            incoming
                .entries
                .iter()
                .flat_map(|e| e.unread.iter().copied())
        };
        // NP-PEEK-04: with the bytes of pended writes.
        let available = incoming.unread();
        // NP-PEEK-08, both types: no room at all for some data, be it behind an empty first message.
        let unseen = room == 0 && available > 0;
        let (messages, message_len, data, partial) = match (self.kind, first) {
            (Kind::Message, Some(at)) => {
                // NP-PEEK-05, 06: by type, not by read mode; NP-PEEK-07.
                let message = &incoming.entries[at].unread;
                let data: Vec<u8> = message.iter().copied().take(room).collect();
                let partial = data.len() < message.len() || unseen;
                (incoming.messages(), message.len(), data, partial)
            }
            (Kind::Message, None) => (0, 0, Vec::new(), false),
            // NP-PEEK-05, 06, 07.
            (Kind::Byte, _) => (0, 0, all().take(room).collect(), unseen),
        };
        // NP-PEEK-09: nothing has changed.
        Ok(Peek {
            state: self.state(who),
            available,
            messages,
            message_len,
            data,
            partial,
        })
    }
}
