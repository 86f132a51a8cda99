//! Overlapped calls of the typed layer: operations that own their buffers, as futures or through completion queues.

use std::{
    fmt,
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use npfs_ringbuf::{Answer, Conn, Deadline, Read, Rest, Started};

use super::{
    channel::{self, Channel, done},
    end::{Client, Server},
    server::ServerEnd,
};
use crate::{
    Error, Result, State, jobs,
    lock::lock,
    npfs::Tag,
    queue::Queue,
    reactor::{Advanced, MOMENT, Pending, REACTOR, place},
    sys,
    wire::Request,
};

/// What an overlapped call is to do. It owns its buffers until its [`Completion`] gives them back.
#[derive(Debug)]
pub struct Op(What);

#[derive(Debug)]
enum What {
    Read(Vec<u8>),
    Write(Vec<u8>),
    Transact(Vec<u8>, Vec<u8>),
    Flush,
    Connect,
}

impl Op {
    /// Reads up to `buffer.len()` bytes; a message, or its beginning, in message mode (section 11).
    #[must_use]
    pub fn read(buffer: Vec<u8>) -> Op {
        Op(What::Read(buffer))
    }

    /// Writes one message, or bytes (section 12).
    #[must_use]
    pub fn write(data: Vec<u8>) -> Op {
        Op(What::Write(data))
    }

    /// Sends one message, and reads one into `reply` (section 15).
    #[must_use]
    pub fn transact(request: Vec<u8>, reply: Vec<u8>) -> Op {
        Op(What::Transact(request, reply))
    }

    /// Completes when the other end has read everything that was written before (section 13).
    #[must_use]
    pub fn flush() -> Op {
        Op(What::Flush)
    }

    /// Completes when a client has opened this instance (section 7). Of server ends only.
    #[must_use]
    pub fn connect() -> Op {
        Op(What::Connect)
    }
}

/// What an overlapped call has come to.
#[derive(Debug)]
#[must_use = "it says whether the call has succeeded"]
pub struct Completion {
    /// The caller's name for it ([`Server::submit`]); 0 of a future.
    pub token: u64,
    /// What was done.
    pub result: Result<Done>,
    /// The buffer that the operation was given: of a read or a transact the one that was read into, with its whole length.
    pub buffer: Vec<u8>,
}

/// What an overlapped call has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// So many bytes are in the buffer.
    Read(Read),
    /// So many bytes were written.
    Wrote(usize),
    /// Everything was read.
    Flushed,
    /// A client is there.
    Connected,
}

impl Completion {
    /// What a read or a transact has brought.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        match self.result {
            Ok(Done::Read(read)) => &self.buffer[..read.count()],
            _ => &[],
        }
    }
}

/// A queue that completions of any number of operations, on any ends, come to; several threads may take from it.
#[derive(Clone, Debug, Default)]
pub struct Completions(Arc<Queue<Completion>>);

impl Completions {
    /// For any number of threads.
    #[must_use]
    pub fn new() -> Completions {
        Completions::default()
    }

    /// One of whose threads at most so many are at work at a time: [`Completions::wait`] gives to no more than that, until
    /// one of them waits again, here or at another queue, or ends.
    #[must_use]
    pub fn with_concurrency(limit: NonZeroUsize) -> Completions {
        Completions(Arc::new(Queue::new(Some(limit))))
    }

    /// Waits until something has completed, appends up to `most` completions to `into`, the oldest first, and says how many
    /// those were. Moves on meanwhile whatever pends in this process.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::WouldDeadlock`] in a callback that must not wait.
    pub fn wait(
        &self,
        into: &mut Vec<Completion>,
        most: usize,
        deadline: Deadline,
    ) -> Result<usize> {
        self.0.wait(into, most, deadline)
    }

    /// The oldest completion, if there is one, whatever the limit.
    #[must_use]
    pub fn take(&self) -> Option<Completion> {
        self.0.take()
    }
}

/// An overlapped call under way: a future, for any executor, or something to wait for. Dropped before it has completed, it
/// is cancelled.
#[derive(Debug)]
#[must_use = "dropped, it is cancelled"]
pub struct Overlapped(Arc<Call>);

impl Overlapped {
    /// Asks it to end. Its completion says which came first: [`Error::Cancelled`], or its result (NP-CANCEL-01).
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it has completed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(*lock(&self.0.work), Work::Over(_))
    }

    /// Waits for its completion on this thread, moving on meanwhile whatever pends in this process.
    ///
    /// # Errors
    /// The operation itself, if the deadline has passed before it completed; or if this is a callback that must not wait.
    pub fn wait(self, deadline: Deadline) -> std::result::Result<Completion, Overlapped> {
        let take = |deadline| REACTOR.wait_until(deadline, || self.0.take());
        let taken = jobs::waiting(deadline, |deadline| take(deadline).ok_or(Error::TimedOut));
        taken.map_err(|_| self)
    }
}

impl Future for Overlapped {
    type Output = Completion;

    /// # Panics
    /// When it is polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let mut work = lock(&self.0.work);
        if let Work::Over(completion) = &mut *work {
            let completion = completion.take();
            return Poll::Ready(completion.expect("a future is not polled after it was ready"));
        }
        drop(work);
        let before = lock(&self.0.waker).replace(context.waker().clone());
        // Without the lock: the last waker of a task takes the task along.
        drop(before);
        // It may have completed between the look and the waker.
        match self.0.take() {
            Some(completion) => Poll::Ready(completion),
            None => Poll::Pending,
        }
    }
}

impl Drop for Overlapped {
    fn drop(&mut self) {
        if !self.is_over() {
            self.cancel();
        }
    }
}

/// An operation whose completion goes to a queue. To keep this is of use for cancelling only.
#[derive(Clone, Debug)]
pub struct Submitted(Arc<Call>);

impl Submitted {
    /// Asks it to end. Its completion comes in any case, with [`Error::Cancelled`] or its result (NP-CANCEL-01).
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// An operation, as its starter, its canceller and the reactor share it.
struct Call {
    work: Mutex<Work>,
    /// Who polled it last.
    waker: Mutex<Option<Waker>>,
    /// Where its completion goes, and under which name; none: it stays here.
    queue: Option<(Completions, u64)>,
    /// [`sys::forks`] when it was begun: a child of fork(2) has not even its memory.
    forks: u32,
}

enum Work {
    /// Not begun.
    Fresh,
    /// In shared memory.
    Ring(Box<Started>),
    /// At the broker.
    Broker(Arc<Channel>, Tag),
    /// Over; the completion, if it was not taken.
    Over(Option<Completion>),
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &*lock(&self.work) {
            Work::Fresh => "fresh",
            Work::Ring(..) => "pending",
            Work::Broker(..) => "at the broker",
            Work::Over(_) => "over",
        };
        f.debug_struct("Call")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}

impl Call {
    fn new(queue: Option<(Completions, u64)>) -> Arc<Call> {
        Arc::new(Call {
            work: Mutex::new(Work::Fresh),
            waker: Mutex::default(),
            queue,
            forks: sys::forks(),
        })
    }

    fn take(&self) -> Option<Completion> {
        match &mut *lock(&self.work) {
            Work::Over(completion) => completion.take(),
            _ => None,
        }
    }

    /// Its end, once: whoever comes first. The lock is let go before anybody is told.
    fn finish(
        &self,
        mut work: std::sync::MutexGuard<'_, Work>,
        result: Result<Done>,
        buffer: Vec<u8>,
    ) {
        let completion = Completion {
            token: self.queue.as_ref().map_or(0, |(_, token)| *token),
            result,
            buffer,
        };
        match &self.queue {
            Some((queue, _)) => {
                // It is there before anybody can see that the operation is over (NP-IO-13).
                queue.0.put(completion);
                *work = Work::Over(None);
            }
            None => {
                *work = Work::Over(Some(completion));
                drop(work);
                // Without a lock: it calls an executor, which may have locks of its own.
                let waker = lock(&self.waker).take();
                if let Some(waker) = waker {
                    jobs::shielded(|| waker.wake());
                }
                REACTOR.tell();
            }
        }
    }

    fn cancel(&self) {
        if self.forks != sys::forks() {
            return;
        }
        let mut work = lock(&self.work);
        match &mut *work {
            Work::Fresh | Work::Over(_) => {}
            Work::Ring(started) => {
                let _ = started.cancel();
                let conn = started.conn().clone();
                drop(work);
                REACTOR.settle(&conn);
            }
            Work::Broker(channel, tag) => {
                let (channel, tag) = (channel.clone(), *tag);
                drop(work);
                channel.tell(&Request::Cancel(tag));
            }
        }
    }

    /// Begins it on a connection.
    fn begin(self: &Arc<Self>, conn: Result<Arc<Conn>>, what: What) {
        let fresh = lock(&self.work);
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => return self.finish(fresh, Err(error), what.into_buffer()),
        };
        let begun = match what {
            What::Read(buffer) => {
                let room = buffer.len();
                // Its own, so that the caller's memory is not asked for twice.
                let mut own = Some(buffer.into_boxed_slice());
                let poller = REACTOR.poller(&conn);
                let start = || {
                    let buffer = own.take().unwrap_or_else(|| vec![0; room].into());
                    Started::read_by(&conn, buffer, poller)
                };
                REACTOR
                    .insist(&conn, MOMENT, start)
                    .map_err(|error| (error, vec![0; room]))
            }
            What::Write(data) => {
                // Without an operation if it needs none.
                match conn.try_write(&data) {
                    Err(npfs_ringbuf::Error::WouldBlock | npfs_ringbuf::Error::Busy) => {
                        let start = || Started::write(&conn, data.clone().into());
                        REACTOR
                            .insist(&conn, MOMENT, start)
                            .map_err(|error| (error, data))
                    }
                    done => {
                        let result = done.map(Done::Wrote).map_err(Error::from);
                        self.finish(fresh, result, data);
                        return REACTOR.settle(&conn);
                    }
                }
            }
            What::Transact(request, reply) => {
                let start = || Started::transact(&conn, &request, vec![0; reply.len()].into());
                REACTOR
                    .insist(&conn, MOMENT, start)
                    .map_err(|error| (error, reply))
            }
            What::Flush => {
                let start = || Started::flush(&conn);
                REACTOR
                    .insist(&conn, MOMENT, start)
                    .map_err(|error| (error, Vec::new()))
            }
            What::Connect => {
                return self.finish(fresh, Err(Error::WrongEnd), Vec::new());
            }
        };
        match begun {
            Err((error, buffer)) => self.finish(fresh, Err(error.into()), buffer),
            Ok(mut started) => match started.poll() {
                Some(answer) => {
                    self.finish(fresh, done_of(answer), started.into_buffer().into());
                    REACTOR.settle(&conn);
                }
                None => {
                    let is_polled = started.is_polled();
                    let mut work = fresh;
                    *work = Work::Ring(Box::new(started));
                    drop(work);
                    if is_polled {
                        let never = REACTOR.hold(place(&conn), self.clone());
                        debug_assert!(never.is_none(), "it belongs to no file");
                    } else {
                        let call: Arc<dyn Pending> = self.clone();
                        REACTOR.add(&conn, &call);
                    }
                }
            },
        }
    }

    /// Begins to wait for a client.
    fn connect(self: &Arc<Self>, end: &Arc<ServerEnd>) {
        end.hear();
        let fresh = lock(&self.work);
        match end.state() {
            State::Connected => return self.finish(fresh, Ok(Done::Connected), Vec::new()),
            State::Closing => return self.finish(fresh, Err(Error::Closing), Vec::new()),
            _ => {}
        }
        drop(fresh);
        let call = self.clone();
        let notify = Box::new(move |answer: Result<channel::Answer>| {
            let result = match answer.and_then(done) {
                // A client that came first came during the wait.
                Ok(()) | Err(Error::AlreadyConnected) => Ok(Done::Connected),
                Err(error) => Err(error),
            };
            call.finish_with(result);
        });
        match end.listen_and_go(notify) {
            Ok((channel, tag)) => {
                let mut work = lock(&self.work);
                if matches!(*work, Work::Fresh) {
                    *work = Work::Broker(channel, tag);
                }
            }
            Err(error) => self.finish_with(Err(error)),
        }
    }

    /// Its end without a buffer, unless it has ended.
    fn finish_with(&self, result: Result<Done>) {
        let work = lock(&self.work);
        if !matches!(*work, Work::Over(_)) {
            self.finish(work, result, Vec::new());
        }
    }
}

impl Pending for Call {
    fn conn(&self) -> Option<Arc<Conn>> {
        match &*lock(&self.work) {
            Work::Ring(started) => Some(started.conn().clone()),
            _ => None,
        }
    }

    fn has_news(&self) -> bool {
        match self.work.try_lock().as_deref() {
            Ok(Work::Ring(started)) => started.has_news(),
            _ => false,
        }
    }

    fn is_listed(self: Arc<Self>) {}

    fn stop_polling(&self) {
        if let Work::Ring(started) = &*lock(&self.work) {
            started.stop_polling();
        }
    }

    fn look(&self) -> Option<Rest> {
        let mut work = lock(&self.work);
        let Work::Ring(started) = &mut *work else {
            return None;
        };
        let answer = match REACTOR.advance(started, &mut []) {
            Advanced::Rests(rest) => return Some(rest),
            Advanced::Over(answer) => answer,
        };
        // Not over for others before it is for whoever is told.
        let Work::Ring(started) = std::mem::replace(&mut *work, Work::Fresh) else {
            unreachable!("it was just now, and the lock is held");
        };
        self.finish(work, done_of(answer), started.into_buffer().into());
        None
    }
}

impl What {
    /// The buffer that the caller gets back.
    fn into_buffer(self) -> Vec<u8> {
        match self {
            What::Read(buffer) | What::Write(buffer) | What::Transact(_, buffer) => buffer,
            What::Flush | What::Connect => Vec::new(),
        }
    }
}

fn done_of(answer: std::result::Result<Answer, npfs_ringbuf::Error>) -> Result<Done> {
    Ok(match answer? {
        Answer::Read(read) => Done::Read(read),
        Answer::Wrote(count) => Done::Wrote(count),
        Answer::Flushed => Done::Flushed,
    })
}

fn start(
    op: Op,
    queue: Option<(Completions, u64)>,
    conn: impl FnOnce() -> Result<Arc<Conn>>,
    server: Option<&Arc<ServerEnd>>,
) -> Arc<Call> {
    let call = Call::new(queue);
    match (op.0, server) {
        (What::Connect, Some(server)) => call.connect(server),
        (what, _) => call.begin(conn(), what),
    }
    call
}

/// The calls that both ends have.
macro_rules! overlapped {
    ($end:ident) => {
        impl $end {
            /// Starts an overlapped call, which completes by itself: a future, or something to wait for. Whatever becomes of
            /// it is in its completion, also an error that is known at once.
            pub fn start(&self, op: Op) -> Overlapped {
                Overlapped(start(op, None, || self.shared_conn(), self.as_server()))
            }

            /// Starts an overlapped call whose completion comes to a queue, once in any case, under the name `token`.
            pub fn submit(&self, op: Op, queue: &Completions, token: u64) -> Submitted {
                let queue = Some((queue.clone(), token));
                Submitted(start(op, queue, || self.shared_conn(), self.as_server()))
            }
        }
    };
}

overlapped!(Server);
overlapped!(Client);
