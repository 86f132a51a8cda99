//! A naive model of one connection, written from the rules alone: two queues, no sharing, no clock, nothing clever.
//!
//! Every operation is started and answers at once or pends; what completes later is put into [`Model::done`]. Each
//! decision names its rule. Where the specification leaves a choice open the comment says which one was taken.
//!
//! There is no limit to what it queues. The queue under test has one, its data area; what may deviate for that reason is
//! listed, and let through, by the test that drives both (`queue_model.rs`).
//!
//! Nothing here is taken from, or shared with, the code under test.
//!
//! Each decision passes through [`holds`] or [`says`] with its rule, so that one rule at a time can be turned around: what
//! no test notices then, no test has checked (`invert.sh`).

pub mod whole;

use std::collections::VecDeque;
use std::sync::OnceLock;

/// A decision that a rule makes, or its opposite if `NPFS_INVERT` names that rule.
pub fn holds(rule: &str, decision: bool) -> bool {
    static INVERTED: OnceLock<Option<String>> = OnceLock::new();
    let inverted = INVERTED.get_or_init(|| std::env::var("NPFS_INVERT").ok());
    decision != (inverted.as_deref() == Some(rule))
}

/// What a rule says, or something else if it is inverted.
pub fn says<T>(rule: &str, right: T, wrong: T) -> T {
    if holds(rule, true) { right } else { wrong }
}

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
    /// the read mode when it was issued, which matters only if NP-READ-19 is inverted
    mode: Kind,
    /// for the reply of a transaction
    reply: bool,
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
        let count = self.entries.len();
        for turn in 0..count {
            // NP-QUEUE-04, NP-WRITE-13: strictly in order, each filled before the next gets any.
            let entry = &mut self.entries[says("NP-WRITE-13", turn, count - 1 - turn)];
            // NP-QUEUE-03: charged as many of its unread bytes as the free quota allows.
            let wanted = entry.unread.len().saturating_sub(entry.charged);
            let more = if wanted <= free || holds("NP-QUEUE-03", true) {
                wanted.min(free)
            } else {
                0
            };
            entry.charged += more;
            free -= more;
            if let Origin::Write(op, total) = entry.origin
                && holds("NP-QUEUE-06", entry.charged == entry.unread.len())
            {
                // NP-QUEUE-03, 06: complete when all unread bytes are charged (or read). NP-WRITE-07: the full length.
                let count = says("NP-WRITE-07", total, entry.charged);
                done.push((writer, op, Outcome::Wrote(count)));
                entry.origin = Origin::Nobody;
            }
        }
        // NP-FLUSH-04, 06: over when the last byte written before it is read; NP-FLUSH-05: later data does not matter.
        let mut ahead = says("NP-FLUSH-05", 0, self.unread());
        self.entries.retain(|entry| {
            let messages = usize::from(!entry.is_marker());
            ahead += says("NP-FLUSH-06", entry.unread.len(), messages);
            match entry.origin {
                Origin::Flush(op) if holds("NP-FLUSH-04", ahead == 0) => {
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
        if holds("NP-QUEUE-04", true) {
            entry.charged -= entry.charged.min(n);
        }
        entry.unread.drain(..n).collect()
    }

    /// Removes the entry at `at`, all of which has been read.
    fn retire(&mut self, at: usize, writer: Who, done: &mut Vec<(Who, u32, Outcome)>) {
        let entry = self.entries.remove(at).expect("an entry");
        if let Origin::Write(op, total) = entry.origin
            && holds("NP-WRITE-09", true)
        {
            // NP-WRITE-09: complete when it is completely read.
            done.push((writer, op, Outcome::Wrote(total)));
        }
    }

    fn first(&self) -> Option<usize> {
        // NP-QUEUE-02: the data of a write that pends can be read.
        let readable = |e: &Entry| match e.origin {
            Origin::Nobody => true,
            Origin::Write(..) => holds("NP-QUEUE-02", true),
            Origin::Flush(_) => false,
        };
        self.entries.iter().position(readable)
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
            // NP-OBJ-10.
            read_mode: [says("NP-OBJ-10", Kind::Byte, kind); 2],
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

    /// A read of at most `len` bytes. `attempt`: a try call.
    pub fn read(&mut self, who: Who, op: u32, len: usize, attempt: bool) -> Started {
        let fail = |fail| Started::Over(Outcome::Failed(fail));
        if self.closed[who] {
            return fail(Fail::Stale);
        }
        if self.disconnected {
            return fail(says("NP-READ-05", Fail::Disconnected, Fail::Broken));
        }
        let from = 1 - who;
        let mode = self.read_mode[who];
        // NP-READ-01: data is read at once, whatever the completion mode and (NP-READ-20) after the peer closed.
        let now = holds("NP-READ-01", true)
            && (!self.closed[from] || holds("NP-READ-20", true))
            // NP-READ-08: be it less than there is room for.
            && (mode == Kind::Message
                || self.queues[from].unread() >= len
                || holds("NP-READ-08", true));
        if now && self.queues[from].first().is_some() {
            let outcome = self.take(from, len);
            return Started::Over(outcome);
        }
        if len == 0 && !holds("NP-READ-14", true) {
            // NP-READ-14: what follows is for reads without room, too.
            return Started::Over(Outcome::Read(Vec::new(), true));
        }
        if self.closed[from] {
            // NP-READ-04, 14.
            return fail(says("NP-READ-04", Fail::Broken, Fail::Closing));
        }
        if self.completion[who] == Completion::Complete {
            // NP-READ-03, 14.
            return fail(says("NP-READ-03", Fail::Empty, Fail::Broken));
        }
        if attempt {
            return fail(Fail::WouldBlock);
        }
        if !holds("NP-READ-02", true) {
            return fail(Fail::Empty);
        }
        // NP-READ-02, 14; NP-READ-18: behind the earlier ones.
        let read = PendedRead {
            op,
            len,
            mode,
            reply: false,
        };
        let reads = &mut self.queues[from].reads;
        let at = says("NP-READ-18", reads.len(), 0);
        reads.insert(at, read);
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
                    let gone = match unread {
                        0 => holds("NP-READ-12", true),
                        _ => holds("NP-READ-11", true),
                    };
                    if gone {
                        queue.retire(at, from, done);
                    }
                    Outcome::Read(data, true)
                } else {
                    // NP-READ-09: the rest stays, and the read says so; NP-READ-16: also with no room at all.
                    let whole = match len {
                        0 => holds("NP-READ-16", false),
                        _ => holds("NP-READ-09", false),
                    };
                    Outcome::Read(data, whole)
                }
            }
            Kind::Byte => {
                let mut data = Vec::new();
                // NP-READ-15: no room, nothing is consumed. NP-READ-07: over the boundaries of entries.
                let len = if len == 0 {
                    says("NP-READ-15", 0, 1)
                } else {
                    len
                };
                while data.len() < len && (data.is_empty() || holds("NP-READ-07", true)) {
                    let Some(at) = queue.first() else { break };
                    let unread = queue.entries[at].unread.len();
                    if unread == 0 && !holds("NP-READ-13", true) {
                        break;
                    }
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
            let mode = says("NP-READ-19", self.read_mode[1 - who], read.mode);
            let whole = fed == data.len() || holds("NP-WRITE-06", mode == Kind::Byte);
            self.finish(1 - who, read.op, Outcome::Read(piece, whole));
            if n == 0 && !holds("NP-READ-17", true) {
                break;
            }
        }
        fed
    }

    /// A write. `attempt`: a try call.
    pub fn write(&mut self, who: Who, op: u32, data: &[u8], attempt: bool) -> Started {
        let fail = |fail| Started::Over(Outcome::Failed(fail));
        if self.closed[who] {
            return fail(Fail::Stale);
        }
        if self.disconnected {
            return fail(says("NP-WRITE-01", Fail::Disconnected, Fail::Closing));
        }
        if self.closed[1 - who] && holds("NP-CLOSE-06", true) {
            // NP-WRITE-01, NP-CLOSE-06: before the length is looked at.
            return fail(says("NP-WRITE-01", Fail::Closing, Fail::Broken));
        }
        if data.is_empty() {
            let message = match self.kind {
                Kind::Message => holds("NP-WRITE-04", true),
                Kind::Byte => holds("NP-WRITE-03", false),
            };
            if message {
                self.write_empty(who);
            }
            // NP-WRITE-03: nothing at all on a byte pipe.
            return Started::Over(Outcome::Wrote(0));
        }
        let awaited = self.awaited(who);
        let free = self.queues[who].free();
        let rest = data.len().saturating_sub(awaited);
        if self.completion[who] == Completion::Complete && holds("NP-WRITE-12", true) {
            // NP-WRITE-12: this end's mode. It never pends.
            return Started::Over(Outcome::Wrote(self.write_complete(who, data, free)));
        }
        if attempt && rest > free {
            return fail(Fail::WouldBlock);
        }
        // NP-WRITE-05: pended reads first, outside the quota.
        let fed = if holds("NP-WRITE-05", true) {
            self.feed(who, data)
        } else {
            0
        };
        if fed == data.len() {
            return Started::Over(Outcome::Wrote(data.len()));
        }
        // NP-QUEUE-02: an entry, readable at once. NP-WRITE-08: however large.
        let origin = Origin::Write(op, data.len());
        let rest = data.len() - fed;
        let queued = says("NP-WRITE-08", rest, rest.min(self.queues[who].quota));
        self.append(who, &data[fed..fed + queued], origin);
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
                if data.len() > capacity && holds("NP-WRITE-10", true) {
                    return 0;
                }
            }
            Kind::Byte => {
                let rest = data.len().saturating_sub(awaited);
                if rest > free && holds("NP-WRITE-11", true) {
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
            let fails = match who {
                SERVER => holds("NP-FLUSH-02", false),
                _ => holds("NP-FLUSH-03", true),
            };
            return Started::Over(if fails {
                Outcome::Failed(Fail::Disconnected)
            } else {
                Outcome::Flushed
            });
        }
        // NP-FLUSH-01.
        let direction = says("NP-FLUSH-01", who, 1 - who);
        if holds("NP-FLUSH-02", self.queues[direction].unread() == 0) {
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
            return fail(if holds("NP-XCV-01", who == SERVER) {
                Fail::InvalidState
            } else {
                Fail::Disconnected
            });
        }
        if self.closed[1 - who] {
            return fail(says("NP-XCV-01", Fail::InvalidState, Fail::Closing));
        }
        if self.read_mode[who] != Kind::Message && holds("NP-XCV-02", true) {
            return fail(Fail::InvalidState);
        }
        let incoming = &self.queues[1 - who];
        let busy = incoming.first().is_some() || !incoming.reads.is_empty();
        if busy && holds("NP-XCV-03", true) {
            return fail(Fail::PipeBusy);
        }
        if self.completion[who] == Completion::Complete && !holds("NP-XCV-09", true) {
            return fail(Fail::Empty);
        }
        // NP-XCV-05, 09: it pends, in either completion mode.
        if holds("NP-XCV-05", true) {
            self.queues[1 - who].reads.push_back(PendedRead {
                op,
                len,
                mode: self.read_mode[who],
                reply: true,
            });
        }
        if request.is_empty() && holds("NP-XCV-04", true) {
            // NP-XCV-04: a real message.
            self.write_empty(who);
        } else {
            let fed = self.feed(who, request);
            if fed < request.len() {
                // NP-XCV-04: without waiting for quota, behind earlier stalled writes.
                let origin = says(
                    "NP-XCV-04",
                    Origin::Nobody,
                    Origin::Write(op, request.len()),
                );
                self.append(who, &request[fed..], origin);
            }
        }
        Started::Pends
    }

    /// Cancels one pended operation: whether there was one.
    pub fn cancel(&mut self, who: Who, op: u32) -> bool {
        let incoming = &mut self.queues[1 - who];
        if let Some(at) = incoming.reads.iter().position(|r| r.op == op) {
            // NP-CANCEL-01, 02; NP-XCV-08: the request of a transaction stays where it is.
            let read = if holds("NP-CANCEL-02", true) {
                incoming.reads.remove(at)
            } else {
                incoming.reads.swap_remove_back(at)
            };
            let reply = read.is_some_and(|read| read.reply);
            let requests = &mut self.queues[who].entries;
            let last = requests.back().map(|last| last.origin);
            if reply && last == Some(Origin::Nobody) && !holds("NP-XCV-08", true) {
                requests.pop_back();
            }
            let fail = says("NP-CANCEL-01", Fail::Cancelled, Fail::Broken);
            self.finish(who, op, Outcome::Failed(fail));
            return true;
        }
        let outgoing = &mut self.queues[who];
        let mine = |e: &Entry| match e.origin {
            Origin::Write(o, _) | Origin::Flush(o) => o == op,
            Origin::Nobody => false,
        };
        if let Some(at) = outgoing.entries.iter().position(mine) {
            // NP-CANCEL-03: all its unread data goes, charged or not; NP-FLUSH-06: which may end a flush.
            if outgoing.entries[at].is_marker() || holds("NP-CANCEL-03", true) {
                outgoing.entries.remove(at);
            } else {
                outgoing.entries[at].origin = Origin::Nobody;
            }
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
        let dropped = holds("NP-CLOSE-02", true);
        // NP-WRITE-14, NP-FLUSH-07.
        let written = says("NP-WRITE-14", Fail::Broken, Fail::Cancelled);
        let flushed = says("NP-FLUSH-07", Fail::Broken, Fail::Cancelled);
        let read = says("NP-CLOSE-03", Fail::Broken, Fail::Cancelled);
        self.end_all(peer, dropped, [written, flushed, read]);
        if self.closed[peer] && holds("NP-CLOSE-05", true) {
            // NP-CLOSE-05: nothing is left for anybody.
            self.end_all(who, true, [Fail::Broken; 3]);
            return;
        }
        // NP-CLOSE-02: the peer's reads end.
        for read in std::mem::take(&mut self.queues[who].reads) {
            let fail = says("NP-CLOSE-02", Fail::Broken, Fail::Closing);
            self.finish(peer, read.op, Outcome::Failed(fail));
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

    /// Ends what goes on in the direction written by `writer`: writes, flushes and reads are each told how. Data goes, if
    /// it is `dropped`.
    fn end_all(&mut self, writer: Who, dropped: bool, [written, flushed, read]: [Fail; 3]) {
        let mut entries = std::mem::take(&mut self.queues[writer].entries);
        for entry in &mut entries {
            match entry.origin {
                Origin::Nobody => {}
                Origin::Write(op, _) => self.finish(writer, op, Outcome::Failed(written)),
                Origin::Flush(op) => self.finish(writer, op, Outcome::Failed(flushed)),
            }
        }
        if !dropped {
            entries.retain(|entry| !entry.is_marker());
            for entry in &mut entries {
                entry.origin = Origin::Nobody;
            }
            self.queues[writer].entries = entries;
        }
        for pended in std::mem::take(&mut self.queues[writer].reads) {
            self.finish(1 - writer, pended.op, Outcome::Failed(read));
        }
    }

    /// The server disconnects.
    ///
    /// # Errors
    /// `Stale` if it is closed, `Disconnected` if it has disconnected before (NP-DISC-03).
    pub fn disconnect(&mut self) -> Result<(), Fail> {
        if self.closed[SERVER] {
            return Err(Fail::Stale);
        }
        if self.disconnected {
            return Err(says("NP-DISC-03", Fail::Disconnected, Fail::InvalidState));
        }
        let may = if self.closed[CLIENT] {
            holds("NP-DISC-02", true)
        } else {
            holds("NP-DISC-01", true)
        };
        if !may {
            return Err(Fail::InvalidState);
        }
        self.disconnected = true;
        // NP-DISC-07: all data goes; NP-DISC-08: all waiting ends.
        let dropped = holds("NP-DISC-07", true);
        let fail = says("NP-DISC-08", Fail::Disconnected, Fail::Broken);
        self.end_all(CLIENT, dropped, [fail; 3]);
        self.end_all(SERVER, dropped, [fail; 3]);
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
            return Err(says("NP-INFO-01", Fail::Disconnected, Fail::InvalidState));
        }
        if self.kind == Kind::Byte && read == Kind::Message && holds("NP-INFO-05", true) {
            return Err(Fail::InvalidMode);
        }
        if self.closed[1 - who] && !holds("NP-CLOSE-07", true) {
            return Err(Fail::Closing);
        }
        let busy = !self.queues[1 - who].reads.is_empty() || self.queues[who].first().is_some();
        let turns = self.completion[who] == Completion::Queue && completion == Completion::Complete;
        if busy && turns && holds("NP-INFO-07", true) {
            return Err(Fail::PipeBusy);
        }
        // NP-INFO-06: this end only. NP-CLOSE-07: also when the peer has closed.
        self.read_mode[who] = read;
        self.completion[who] = completion;
        if !holds("NP-INFO-06", true) {
            self.read_mode[1 - who] = read;
            self.completion[1 - who] = completion;
        }
        Ok(())
    }

    /// The state one end sees.
    pub fn state(&self, who: Who) -> State {
        if self.disconnected {
            State::Disconnected
        } else if self.closed[1 - who] {
            says("NP-OBJ-07", State::Closing, State::Connected)
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
            return Err(says("NP-INFO-01", Fail::Disconnected, Fail::InvalidState));
        }
        let (incoming, outgoing) = (&self.queues[1 - who], &self.queues[who]);
        // NP-QUEUE-08: a pended read charges min(n, free).
        let charged = if outgoing.reads.is_empty() {
            outgoing.charged()
        } else {
            says("NP-QUEUE-08", self.awaited(who).min(outgoing.quota), 0)
        };
        Ok(Info {
            state: self.state(who),
            readable: says("NP-INFO-09", incoming.unread(), incoming.charged()),
            writable: says("NP-INFO-10", outgoing.quota - charged, outgoing.quota),
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
            return Err(if holds("NP-PEEK-02", who == SERVER) {
                Fail::InvalidState
            } else {
                Fail::Disconnected
            });
        }
        let incoming = &self.queues[1 - who];
        let first = incoming.first();
        if self.closed[1 - who] && first.is_none() {
            return Err(says("NP-PEEK-02", Fail::Broken, Fail::Closing));
        }
        let all = || {
            incoming
                .entries
                .iter()
                .flat_map(|e| e.unread.iter().copied())
        };
        // NP-PEEK-04: with the bytes of pended writes.
        let available = says("NP-PEEK-04", incoming.unread(), incoming.charged());
        // NP-PEEK-08, both types: no room at all for some data, be it behind an empty first message.
        let unseen = room == 0 && available > 0 && holds("NP-PEEK-08", true);
        let (messages, message_len, data, partial) = match (self.kind, first) {
            (Kind::Message, Some(at)) => {
                // NP-PEEK-05, 06: by type, not by read mode; NP-PEEK-07.
                let message = &incoming.entries[at].unread;
                let data: Vec<u8> = if holds("NP-PEEK-06", true) {
                    message.iter().copied().take(room).collect()
                } else {
                    all().take(room).collect()
                };
                let partial = data.len() < message.len() && holds("NP-PEEK-07", true) || unseen;
                let messages = says("NP-PEEK-05", incoming.messages(), 0);
                (messages, message.len(), data, partial)
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
