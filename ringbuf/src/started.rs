//! Operations that belong to nobody's stack: started by one thread, moved on by any.
//!
//! An overlapped call returns to its caller while it pends, so what it needs (the handle, the buffer) has to live somewhere
//! else: here. Whoever holds a [`Started`] polls it when there may be something new: its process's bell tells, one word for all
//! operations on a link, which [`wait_at_bells`] sleeps on.

use std::{ops::Deref, sync::Arc};

use crate::{
    Conn, Deadline, Error, Link, Read,
    conn::Begun,
    consume::{ReadHow, Side},
    futex,
    queue::Queue,
    record::{Phase, Wakes},
    shared::{try_bytes, try_copy},
    sync::{AtomicU8, AtomicU32, Ordering},
    wait::Wait,
};

/// What keeps a connection for an operation: a reference of several that lead to the same one for good.
pub trait Keep: Clone + Deref<Target = Conn> {}

impl<K: Clone + Deref<Target = Conn>> Keep for K {}

/// An operation under way, or its answer. Dropped before it has completed, it is cancelled.
#[derive(Debug)]
pub struct Started<K: Keep = Arc<Conn>> {
    conn: K,
    work: Work,
    index: usize,
    /// A role was in the way when this last wanted to go on.
    held: bool,
    /// When whoever answered it did so.
    stamp: u64,
    /// Its record's state when it came to rest.
    rested: AtomicU32,
    /// A read that its owner polls.
    polled: AtomicU8,
    /// Somebody else had ended it when it was looked at last.
    was_ended: bool,
    answer: Option<Result<Answer, Error>>,
}

#[derive(Debug)]
enum Work {
    /// Also a transact whose request is sent.
    Read {
        buf: Box<[u8]>,
        copied: usize,
    },
    /// A read of so many bytes that has no buffer of its own.
    Into(usize),
    Write(Box<[u8]>),
    Flush,
}

/// What an operation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes are in its buffer.
    Read(Read),
    /// So many bytes were written.
    Wrote(usize),
    /// Everything written before has been read.
    Flushed,
}

impl<K: Keep> Started<K> {
    /// [`Conn::start_read`] into a buffer of its own.
    ///
    /// # Errors
    /// As [`Conn::start_read`].
    pub fn read(conn: &K, buf: Box<[u8]>) -> Result<Started<K>, Error> {
        Started::read_by(conn, buf, Poller::Bell)
    }

    /// The same for an owner that hears of its message in that way.
    ///
    /// # Errors
    /// As [`Conn::start_read`].
    pub fn read_by(conn: &K, mut buf: Box<[u8]>, poller: Poller) -> Result<Started<K>, Error> {
        let begun = conn.begin_read(&mut buf, poller.how())?;
        let work = Work::Read { buf, copied: 0 };
        Ok(Started::begun(conn.clone(), work, begun, poller))
    }

    /// A read without a buffer: what it brings lies in `room`, now or where [`Started::poll_into`] is given as much. For few
    /// bytes, for which an allocation is dear.
    ///
    /// # Errors
    /// As [`Conn::start_read`].
    pub fn read_into(
        conn: &Conn,
        keep: impl FnOnce() -> K,
        room: &mut [u8],
        poller: Poller,
    ) -> Result<Started<K>, Error> {
        let begun = conn.begin_read(room, poller.how())?;
        let work = Work::Into(room.len());
        Ok(Started::begun(keep(), work, begun, poller))
    }

    fn begun(conn: K, work: Work, begun: Begun<Read>, poller: Poller) -> Started<K> {
        let (index, answer) = match begun {
            Begun::Done(read) => (0, Some(Ok(Answer::Read(read)))),
            Begun::Pends(index) => (index, None),
        };
        let started = Started::new(conn, work, index, answer);
        if let (Poller::Caller, None) = (poller, answer) {
            started.polled.store(1, Ordering::Relaxed);
            // It rests from the first moment on.
            let word = started.queue().record(index).rests();
            started.rested.store(word.unwrap_or(0), Ordering::Relaxed);
        }
        started
    }

    /// [`Conn::start_write`] of data of its own.
    ///
    /// # Errors
    /// As [`Conn::start_write`].
    pub fn write(conn: &K, data: Box<[u8]>) -> Result<Started<K>, Error> {
        let wait = Wait::new();
        let write = conn.start_write(&wait, &data)?;
        let (index, answer) = write.leave();
        let work = Work::Write(data);
        Ok(Started::new(
            conn.clone(),
            work,
            index,
            answer.map(|a| a.map(Answer::Wrote)),
        ))
    }

    /// [`Conn::start_flush`].
    ///
    /// # Errors
    /// As [`Conn::start_flush`].
    pub fn flush(conn: &K) -> Result<Started<K>, Error> {
        let wait = Wait::new();
        let flush = conn.start_flush(&wait)?;
        let (index, answer) = flush.leave();
        let answer = answer.map(|a| a.map(|()| Answer::Flushed));
        Ok(Started::new(conn.clone(), Work::Flush, index, answer))
    }

    /// [`Conn::start_transact`] with a buffer of its own for the reply.
    ///
    /// # Errors
    /// As [`Conn::start_transact`].
    pub fn transact(conn: &K, request: &[u8], mut reply: Box<[u8]>) -> Result<Started<K>, Error> {
        let wait = Wait::new();
        let transact = conn.start_transact(&wait, request, &mut reply)?;
        let (index, answer) = transact.leave();
        let work = Work::Read {
            buf: reply,
            copied: 0,
        };
        Ok(Started::new(
            conn.clone(),
            work,
            index,
            answer.map(|a| a.map(Answer::Read)),
        ))
    }

    fn new(conn: K, work: Work, index: usize, answer: Option<Result<Answer, Error>>) -> Started<K> {
        Started {
            conn,
            work,
            index,
            held: false,
            stamp: 0,
            rested: AtomicU32::new(0),
            polled: AtomicU8::new(0),
            was_ended: false,
            answer,
        }
    }

    fn queue(&self) -> Queue<'_> {
        match self.work {
            Work::Read { .. } | Work::Into(_) => self.conn.incoming(),
            Work::Write(_) | Work::Flush => self.conn.outgoing(),
        }
    }

    /// The connection.
    #[must_use]
    pub fn conn(&self) -> &K {
        &self.conn
    }

    /// Never blocks: the answer once there is one, and the same from then on.
    pub fn poll(&mut self) -> Option<Result<Answer, Error>> {
        self.poll_into(&mut [])
    }

    /// The same of any operation; one of [`Started::read_into`] puts into `room` what it brings, if there is as much as then.
    /// [`Started::data_in`] says where it lies.
    pub fn poll_into(&mut self, room: &mut [u8]) -> Option<Result<Answer, Error>> {
        if self.answer.is_some() {
            return self.answer;
        }
        if let Work::Into(len) = self.work
            && len > room.len()
        {
            let Some(buf) = try_bytes(len) else {
                // To be looked at in a moment: there may be memory then.
                self.held = true;
                return None;
            };
            self.work = Work::Read { buf, copied: 0 };
        }
        let mut wakes = Wakes::default();
        let (conn, me, index) = (&*self.conn, self.conn.me(), self.index);
        let record = self.queue().record(index);
        let stamp = record.stamp.load(Ordering::Relaxed);
        let was_ended = matches!(record.phase(), Phase::Done | Phase::Withdrawn);
        let mut held: Option<Side> = None;
        let mut in_room = 0;
        let answer = match &mut self.work {
            Work::Read { buf, copied } => conn
                .incoming()
                .poll_read(me, index, &mut **buf, copied, &mut wakes)
                .map(|answer| answer.map(Answer::Read)),
            Work::Into(len) => conn
                .incoming()
                .poll_read(me, index, first(room, *len), &mut in_room, &mut wakes)
                .map(|answer| answer.map(Answer::Read)),
            Work::Write(data) => conn
                .outgoing()
                .poll_write(me, index, &**data, &mut held, &mut wakes)
                .map(|answer| answer.map(Answer::Wrote)),
            Work::Flush => conn
                .outgoing()
                .poll_flush(me, index, &mut wakes)
                .map(|answer| answer.map(|()| Answer::Flushed)),
        };
        conn.deliver(&mut wakes);
        self.held = held.is_some();
        self.stamp = stamp;
        self.was_ended = was_ended;
        self.answer = answer.map(|answer| answer.map_err(|error| conn.after(error)));
        if let (Work::Into(len), None, true) = (&self.work, self.answer, in_room != 0) {
            // It streams: what has come is kept for the rest.
            match try_copy(first(room, *len)) {
                Some(buf) => {
                    self.work = Work::Read {
                        buf,
                        copied: in_room,
                    };
                }
                None => self.end_in(first(room, *len), in_room),
            }
        }
        self.answer
    }

    /// There is no memory to keep what a streaming read has brought: it ends as one with a smaller buffer would.
    #[cold]
    fn end_in(&mut self, room: &mut [u8], mut copied: usize) {
        self.withdraw(copied);
        if self.answer.is_some() {
            return;
        }
        // It has completed meanwhile, and the rest is there.
        let mut wakes = Wakes::default();
        let (conn, index) = (&*self.conn, self.index);
        let queue = conn.incoming();
        let answer = queue.poll_read(conn.me(), index, room, &mut copied, &mut wakes);
        conn.deliver(&mut wakes);
        // Whatever a peer has made of the record: without what it has brought this is over.
        let answer = answer.unwrap_or(Err(Error::NoMemory));
        self.answer = Some(answer.map(Answer::Read).map_err(|error| conn.after(error)));
    }

    /// How much room [`Started::poll_into`] is to be given.
    #[must_use]
    #[inline]
    pub fn room(&self) -> usize {
        match self.work {
            Work::Into(len) => len,
            _ => 0,
        }
    }

    /// Its answer, if it is known to have one: it had when it was started, or was polled.
    #[must_use]
    pub fn answer(&self) -> Option<Result<Answer, Error>> {
        self.answer
    }

    /// Whoever waited for it, from when to when (CLOCK_MONOTONIC, nanoseconds), tells what it was like: how long the next
    /// wait on this connection spins is judged by that.
    pub fn was_waited_for(&self, from: u64, to: u64) {
        self.conn.learn_wait(from, to, self.stamp);
    }

    /// What a read has brought, once it has completed, into a buffer of its own.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.data_in(&[])
    }

    /// The same of any read; one without a buffer has put it into the `room` that it was given last.
    #[must_use]
    pub fn data_in<'d>(&'d self, room: &'d [u8]) -> &'d [u8] {
        let Some(Ok(Answer::Read(read))) = self.answer else {
            return &[];
        };
        let all = match &self.work {
            Work::Read { buf, .. } => buf,
            Work::Into(_) => room,
            Work::Write(_) | Work::Flush => &[],
        };
        all.get(..read.count()).unwrap_or_default()
    }

    /// Its buffer: what a read was to fill, or what was written; none of a flush. One that has not completed is withdrawn.
    #[must_use]
    pub fn into_buffer(mut self) -> Box<[u8]> {
        self.end();
        // Whatever a peer has made of the record: without its buffer this is over.
        self.answer.get_or_insert(Err(Error::Cancelled));
        match std::mem::replace(&mut self.work, Work::Flush) {
            Work::Read { buf, .. } | Work::Write(buf) => buf,
            Work::Into(_) | Work::Flush => Box::default(),
        }
    }

    /// Withdraws it: `true` if it had not completed, and answers [`Error::Cancelled`] from now on
    /// (NP-CANCEL-01, 04).
    pub fn cancel(&mut self) -> bool {
        if self.answer.is_some() {
            return false;
        }
        let copied = match self.work {
            Work::Read { copied, .. } => copied,
            _ => 0,
        };
        self.withdraw(copied);
        self.answer == Some(Err(Error::Cancelled))
    }

    /// The same for one that has brought so many bytes. No answer from then on either: it has completed.
    fn withdraw(&mut self, copied: usize) {
        let mut wakes = Wakes::default();
        let queue = self.queue();
        let withdrawn = queue.withdraw_own(self.conn.me(), self.index, &mut wakes);
        let cut = (copied != 0).then(|| queue.cut_short(copied));
        self.conn.deliver(&mut wakes);
        if withdrawn {
            // What a streaming read has brought is brought: it ends as a read with a smaller buffer would.
            self.answer = Some(cut.map_or(Err(Error::Cancelled), |read| Ok(Answer::Read(read))));
        }
    }

    /// Announces that this process waits at its bell ([`Link::own_bell`]) until this has something new: whoever brings
    /// it marks this connection's slot there. To be called after [`Started::poll`] has answered nothing, each time.
    #[must_use]
    pub fn rest(&self) -> Rest {
        if self.answer.is_some() {
            return Rest::Look;
        }
        if self.held {
            return Rest::Soon;
        }
        let record = self.queue().record(self.index);
        let rests = record.rests().or_else(|| {
            record.belongs_to_the_bell();
            record.fall_asleep()
        });
        match rests {
            None => Rest::Look,
            Some(word) => {
                self.rested.store(word, Ordering::Relaxed);
                Rest::AtTheBell
            }
        }
    }

    /// Whether its caller is to poll it ([`Poller::Caller`]).
    #[must_use]
    #[inline]
    pub fn is_polled(&self) -> bool {
        self.polled.load(Ordering::Relaxed) != 0
    }

    /// Whether somebody else has ended it, who has marked, or is about to mark, its slot at the bell.
    #[must_use]
    pub fn was_rung_for(&self) -> bool {
        self.was_ended
    }

    /// Nobody polls it any more: from now on it rests at the bell as any other. There may be something new: poll it once.
    pub fn stop_polling(&self) {
        if self.polled.swap(0, Ordering::Relaxed) == 0 || self.answer.is_some() {
            return;
        }
        let mut wakes = Wakes::default();
        let queue = self.queue();
        queue.stop_polling();
        queue.record(self.index).wake_up();
        // A breach is found again by the read itself.
        let _ = queue.settle_or_leave(self.conn.me(), &mut wakes);
        self.conn.deliver(&mut wakes);
    }

    /// Whether there is something new since it came to rest. A few loads: for who looks at this one all the time, and so sees
    /// it before its bell says so.
    #[must_use]
    #[inline]
    pub fn has_news(&self) -> bool {
        // While a role is held it is looked at again by the clock.
        let record = self.queue().record(self.index);
        !self.held
            && (record.state.load(Ordering::Relaxed) != self.rested.load(Ordering::Relaxed)
                || self.is_polled() && self.queue().has_for_polled())
    }
}

/// All of it, if it has no more.
fn first(room: &mut [u8], len: usize) -> &mut [u8] {
    let len = len.min(room.len());
    room.get_mut(..len).unwrap_or_default()
}

/// How the owner of a read that pends hears of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poller {
    /// By its process's bell.
    Bell,
    /// Its caller is awake, and looks at [`Started::has_news`] all the time until the read has its answer, or it has called
    /// [`Started::stop_polling`]: before it sleeps, also if there was news and no answer (the writer commits a skip frame a
    /// moment before its message). The writer does not ring then for what it brings, nor touch any memory for that but the
    /// message's; everybody else finds the queue as if the read had been answered at once.
    Caller,
}

impl Poller {
    fn how(self) -> ReadHow {
        match self {
            Poller::Bell => ReadHow::Pend,
            Poller::Caller => ReadHow::Polled,
        }
    }
}

/// An operation that has come to rest, as somebody sees it who has not the operation itself.
#[derive(Clone, Debug)]
pub struct Glance {
    conn: Arc<Conn>,
    incoming: bool,
    index: usize,
    life: u32,
}

impl Started {
    /// A look at it from outside, as long as it pends.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            conn: self.conn.clone(),
            incoming: matches!(self.work, Work::Read { .. } | Work::Into(_)),
            index: self.index,
            life: self.queue().record(self.index).word().life(),
        }
    }
}

impl Glance {
    /// The connection.
    #[must_use]
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// Looks for a moment, where something is likely to come by then, at the two words that tell of it.
    #[must_use]
    #[inline]
    pub fn look_for_a_moment(&self) -> bool {
        if self.has_news() {
            return true;
        }
        let queue = self.conn.line(self.incoming);
        let state = &queue.record(self.index).state;
        let rested = state.load(Ordering::Relaxed);
        // Nobody passes the front while the first read in line pends.
        let front = queue.front();
        if !self.incoming || front.left != 0 || queue.is_untouched(front.pos) {
            return false;
        }
        self.conn.look_until(u32::MAX, || {
            // Peers that take turns send more than one line as often as not.
            queue.area().expect_second_line(front.pos);
            queue.tag_is(front.pos) || state.load(Ordering::Relaxed) != rested
        })
    }

    /// As [`Started::has_news`]. Of one that is over it may say anything.
    #[must_use]
    #[inline]
    pub fn has_news(&self) -> bool {
        let queue = self.conn.line(self.incoming);
        let word = queue.record(self.index).word();
        !word.is_at_rest() || word.life() != self.life || self.incoming && queue.has_for_polled()
    }
}

/// How to wait for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There may be something new: poll it.
    Look,
    /// Somebody is in the middle of a copy: poll it in a moment.
    Soon,
    /// Its slot is marked at the bell once there is something new.
    AtTheBell,
}

impl<K: Keep> Started<K> {
    /// It has its answer, or none that it could get.
    fn end(&mut self) {
        let mut rounds = 64;
        while self.answer.is_none() && rounds != 0 {
            rounds -= 1;
            if !self.cancel() {
                self.poll();
            }
        }
        if self.answer.is_none() {
            // There is no room for what it was given: without it, then.
            let mut wakes = Wakes::default();
            self.queue().give_up(self.conn.me(), self.index, &mut wakes);
            self.conn.deliver(&mut wakes);
        }
    }
}

impl<K: Keep> Drop for Started<K> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A word of this process by which a thread that sleeps in [`wait_at_bells`] is told of something else.
///
/// ```text
/// wait                                  ring
/// 1. asleep += 1                        a. word += 1
/// 2. sleep, if the word is as seen      b. somebody asleep? wake
/// ```
///
/// All of them in one order: either 2 sees a, or b sees 1.
#[derive(Debug, Default)]
pub struct Alarm {
    word: AtomicU32,
    asleep: AtomicU32,
}

impl Alarm {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Alarm {
        Alarm {
            word: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
        }
    }

    /// To be taken before whatever is looked at that the alarm tells of.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.word.load(Ordering::SeqCst)
    }

    /// Sleeps until it has rung since `seen`, or the deadline has passed (`false`).
    pub fn wait(&self, seen: u32, deadline: Deadline) -> bool {
        self.sleep(std::iter::empty(), seen, deadline)
    }

    /// Whoever took its value before this does not sleep, or is woken.
    #[inline]
    pub fn ring(&self) {
        self.word.fetch_add(1, Ordering::SeqCst); // a
        if self.asleep.load(Ordering::SeqCst) != 0 {
            futex::wake(&self.word); // b
        }
    }

    fn sleep<'w>(
        &'w self,
        words: impl Iterator<Item = (&'w AtomicU32, u32)>,
        seen: u32,
        deadline: Deadline,
    ) -> bool {
        let _asleep = self.fall_asleep(); // 1
        let woken = futex::wait_many(words, &self.word, seen, deadline); // 2
        woken || !deadline.passed()
    }

    /// For a sleep of the caller's own, on [`Alarm::futex`]: whoever rings while this lives wakes it. 2 is the caller's
    /// then: not to sleep if [`Alarm::now`] is not what it has seen.
    #[must_use = "asleep as long as it lives"]
    pub fn fall_asleep(&self) -> Asleep<'_> {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        Asleep(self)
    }

    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// The word to sleep on: a shared futex of 32 bits.
    #[cfg(not(loom))]
    #[must_use]
    pub fn futex(&self) -> *const u32 {
        self.word.as_ptr()
    }
}

/// A sleep of the caller's own, under way or about to be ([`Alarm::fall_asleep`]).
#[derive(Debug)]
pub struct Asleep<'a>(&'a Alarm);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Links whose bells one call can sleep on.
const MOST_BELLS: usize = futex::MOST_WORDS - 1;

/// Sleeps until a slot is ready on one of the links, the alarm has rung since `seen`, or the deadline has passed
/// (`false`). The caller takes what is ready then ([`Bell::take`](crate::Bell::take)).
///
/// futex_waitv(2) takes 127 bells and the alarm: with more links, this comes back every millisecond.
#[must_use]
pub fn wait_at_bells<'l>(
    links: impl Iterator<Item = &'l Link>,
    alarm: &'l Alarm,
    seen: u32,
    deadline: Deadline,
) -> bool {
    // On the stack: a host's pump may not depend on there being memory.
    let mut words = [None; MOST_BELLS];
    let mut places = words.iter_mut();
    let mut until = deadline;
    for link in links {
        let bell = link.own_bell();
        let Some(value) = bell.arm() else { return true };
        match places.next() {
            Some(place) => *place = Some((bell.word(), value)),
            None => until = deadline.min(Deadline::after(SLICE)),
        }
    }
    alarm.sleep(words.into_iter().flatten(), seen, until) || !deadline.passed()
}

const SLICE: std::time::Duration = std::time::Duration::from_millis(1);

// Miri has no memfd_create(2).
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::Shared;
    use crate::{
        books::*,
        types::{PipeType, ProcessIndex},
    };
    use std::{os::fd::AsFd, thread, time::Duration};

    /// Books of a link that this process is on, with itself or with another one, and the link.
    fn linked(with_itself: bool) -> (LinkBooks, Shared<Link>, [ProcessIndex; 2]) {
        let mut books = LinkBooks::create(&LinkConfig::default()).expect("a link");
        let me = books.add_process(None).expect("a process");
        let peer = if with_itself {
            me
        } else {
            books.add_process(None).expect("another")
        };
        let fd = books
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .expect("a duplicate");
        let link = Link::attach(fd, me).expect("attached");
        (books, link, [me, peer])
    }

    fn pair() -> (LinkBooks, Arc<Conn>, Arc<Conn>) {
        let (mut books, link, [me, peer]) = linked(true);
        let spec = ConnSpec::new(PipeType::Message, 100);
        let (_, server, client) = books.connect(&spec, me, peer).expect("a connection");
        let open = |grant| Arc::new(Conn::open(&link, grant).expect("open"));
        (books, open(&server), open(&client))
    }

    #[test]
    fn a_read_outlives_the_call_that_started_it() {
        let (_books, server, client) = pair();
        let mut read = Started::read(&server, vec![0; 8].into()).expect("started");
        assert_eq!(read.poll(), None);
        client.try_write(b"hello").expect("write");
        let mut read = thread::spawn(move || {
            assert_eq!(read.poll(), Some(Ok(Answer::Read(Read::Whole(5)))));
            read
        })
        .join()
        .expect("no panic");
        assert_eq!(read.data(), b"hello");
        assert!(!read.cancel(), "it has completed");
    }

    /// A peer disarms the bell and dies before it wakes anybody: whoever buries it wakes them.
    #[test]
    fn a_ring_that_was_not_finished_is_finished_by_the_broker() {
        let (mut books, link, [me, peer]) = linked(false);
        let spec = ConnSpec::new(PipeType::Message, 100);
        let (_, server, _client) = books.connect(&spec, me, peer).expect("a connection");
        let server = Arc::new(Conn::open(&link, &server).expect("open"));
        let mut read = Started::read(&server, vec![0; 8].into()).expect("started");
        assert_eq!((read.poll(), read.rest()), (None, Rest::AtTheBell));
        let alarm = Alarm::new();
        let seen = alarm.now();
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let long = Deadline::after(Duration::from_secs(20));
                wait_at_bells([&*link].into_iter(), &alarm, seen, long) && !long.passed()
            });
            // Asleep by then.
            while !link.own_bell().is_armed() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            assert!(link.own_bell().mark(5), "it is to be woken");
            books.bury(peer);
            assert!(sleeper.join().expect("no panic"), "nobody has woken it");
        });
        assert_eq!(read.poll(), Some(Err(Error::Broken)));
    }

    /// A queue that nothing was ever written to costs no page, however often it is looked at.
    #[test]
    fn looking_at_an_untouched_queue_costs_no_memory() {
        let (books, server, client) = pair();
        let blocks = || {
            let file = std::fs::File::from(books.share().expect("a duplicate"));
            std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("its size"))
        };
        let before = blocks();
        for _ in 0..200 {
            for end in [&server, &client] {
                assert_eq!(end.try_read(&mut [0; 8]), Err(Error::WouldBlock));
            }
        }
        assert_eq!(blocks(), before);
    }

    #[test]
    fn a_dropped_operation_is_withdrawn() {
        let (_books, server, client) = pair();
        drop(Started::read(&server, vec![0; 8].into()).expect("started"));
        drop(Started::write(&client, vec![1; 200].into()).expect("started"));
        client.try_write(b"next").expect("the quota is free again");
        let mut buf = [0; 8];
        assert_eq!(server.try_read(&mut buf), Ok(Read::Whole(4)));
    }

    #[test]
    fn several_are_waited_for_at_one_bell() {
        let (_books, server, client) = pair();
        let mut read = Started::read(&server, vec![0; 8].into()).expect("started");
        let mut write = Started::write(&server, vec![1; 200].into()).expect("started");
        assert_eq!((read.poll(), write.poll()), (None, None));
        assert_eq!(
            (read.rest(), write.rest()),
            (Rest::AtTheBell, Rest::AtTheBell)
        );
        let alarm = Alarm::new();
        let links = || [&**server.link()].into_iter();
        let soon = || Deadline::after(Duration::from_millis(20));
        let seen = alarm.now();
        assert!(!wait_at_bells(links(), &alarm, seen, soon()));
        alarm.ring();
        assert!(wait_at_bells(links(), &alarm, seen, Deadline::NEVER));
        let seen = alarm.now();
        let slot = client.slot();
        let peer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let read = client.try_read(&mut [0; 300]);
            assert_eq!(read, Ok(Read::Whole(200)), "a stalled write's bytes");
            client
        });
        let taken = || {
            let mut taken = Vec::new();
            server.link().own_bell().take(|slot| taken.push(slot));
            taken
        };
        assert!(wait_at_bells(links(), &alarm, seen, Deadline::NEVER));
        assert_eq!(taken(), [slot]);
        assert_eq!(write.poll(), Some(Ok(Answer::Wrote(200))));
        assert_eq!((read.poll(), read.rest()), (None, Rest::AtTheBell));
        let client = peer.join().expect("no panic");
        client.close();
        assert!(server.link().own_bell().is_ready());
        assert_eq!(read.poll(), Some(Err(Error::Broken)));
        assert_eq!(read.rest(), Rest::Look);
    }
}
