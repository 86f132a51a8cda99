//! Calls whose bytes are in a user's memory, and whose state is wherever a host keeps it: for runtimes that embed the data
//! path under objects and threads of their own.
//!
//! A [`Task`] is one operation. It holds nothing but its record, so that a thread that ends in the middle of waiting for it
//! leaves nothing else behind: [`Task::advance`] does what there is to do and comes back, [`Task::block`] waits and does
//! nothing, [`Task::rest`] announces a wait at the process's bell. Nothing here allocates.

use crate::{
    Answer, Conn, Deadline, Error, Peek, Read, Rest, UserBuffer, Wait,
    consume::{ReadHow, ReadStop, Side},
    cpu,
    pending::Place,
    produce::{WriteHow, WriteStop},
    queue::Queue,
    record::{Phase, Wakes},
    role::Owner,
    sync::Ordering,
};

impl Conn {
    /// [`Conn::try_read`] into a user's memory.
    ///
    /// # Errors
    /// As there, and [`Error::BadBuffer`]: the memory cannot be written; nothing was read.
    #[inline]
    pub fn try_read_user(&self, buf: UserBuffer<'_>) -> Result<Read, Error> {
        self.read_user(buf, ReadHow::Try)
            .map_err(|stop| self.read_error(stop))
    }

    /// [`Conn::try_write`] from a user's memory.
    ///
    /// # Errors
    /// As there, and [`Error::BadBuffer`]: the memory cannot be read; nothing was written.
    #[inline]
    pub fn try_write_user(&self, data: UserBuffer<'_>) -> Result<usize, Error> {
        self.write_now(data, WriteHow::Try)
            .map_err(|stop| self.write_error(stop))
    }

    /// [`Conn::peek`] into a user's memory.
    ///
    /// # Errors
    /// As there, and [`Error::BadBuffer`].
    pub fn peek_user(&self, buf: UserBuffer<'_>) -> Result<Peek, Error> {
        let mut buf = buf;
        self.peek_by(buf.is_empty(), |queue, wakes| {
            queue.peek_outside(self.me(), &mut buf, wakes)
        })
    }

    /// Does what an abandoned call has left to be done ([`Wait::abandon`]), and wakes who waits for it. Async-signal-safe: no
    /// lock, no allocation.
    pub fn settle_for_the_dead(&self) {
        let mut wakes = Wakes::default();
        for queue in [self.incoming(), self.outgoing()] {
            let _ = queue.settle_or_leave(self.me(), &mut wakes);
        }
        self.deliver(&mut wakes);
    }

    #[inline(always)]
    fn read_user(&self, buf: UserBuffer<'_>, how: ReadHow) -> Result<Read, ReadStop> {
        match self.read_user_fast(buf) {
            Some(read) => Ok(read),
            None => self.read_user_any(buf, how),
        }
    }

    #[inline(always)]
    fn read_user_fast(&self, mut buf: UserBuffer<'_>) -> Option<Read> {
        self.check_read_of(buf.len()).ok()?;
        self.taken(self.incoming().read_outside_kept(self.kept(), &mut buf))
    }

    #[cold]
    #[inline(never)]
    fn read_user_any(&self, mut buf: UserBuffer<'_>, how: ReadHow) -> Result<Read, ReadStop> {
        self.check_read_of(buf.len())?;
        let queue = self.incoming();
        queue.note_consumer_cpu(cpu::current());
        let mut wakes = Wakes::default();
        let read = queue.read_outside(self.me(), &mut buf, self.read_how(how), &mut wakes);
        self.deliver(&mut wakes);
        self.noted_turn(true);
        read
    }
}

/// What a task is to do. The same at each call for it.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// Section 11.
    Read(UserBuffer<'a>),
    /// Section 12.
    Write(UserBuffer<'a>),
    /// Section 13.
    Flush,
    /// Section 15: the request, and where the reply goes.
    Transact(UserBuffer<'a>, UserBuffer<'a>),
}

/// One operation of a host. Dropped while it pends, it leaves its record to whoever sweeps; [`Task::withdraw`] ends it.
#[derive(Debug, Default)]
pub struct Task {
    stage: Stage,
    /// What a streaming read has brought so far.
    copied: usize,
    /// It is waited for by a thread that may look for a while before it takes its place in line,
    spins: bool,
    /// ... and has done so.
    spun: bool,
    held: Option<Side>,
    /// Which of its record's lives is its own.
    life: u32,
    /// When it was first waited for.
    begin: Option<u64>,
    answer: Option<Result<Answer, Error>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// It has no place in line yet.
    #[default]
    New,
    /// Nor yet, since it may be done before it would have one: it is looked for that first, as long as that is worth it.
    Spins,
    /// Nor yet, since a role was held.
    Held(Side),
    /// Nor has a transact, since that of the other direction was.
    ReplyHeld,
    /// Nor yet, since all records are in use.
    Full,
    /// It has this record.
    Placed(usize),
}

impl Task {
    /// Not begun.
    #[must_use]
    pub const fn new() -> Task {
        Task {
            stage: Stage::New,
            copied: 0,
            spins: false,
            spun: false,
            held: None,
            life: 0,
            begin: None,
            answer: None,
        }
    }

    /// Of a thread that will [`Task::block`]: where others take their place in line at once, it looks for a while before, as
    /// the blocking calls do.
    #[must_use]
    pub const fn blocking() -> Task {
        Task {
            spins: true,
            ..Task::new()
        }
    }

    /// Whether it stands in the line of its connection.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        matches!(self.stage, Stage::Placed(_))
    }

    /// Does it if it can be done at once, else takes its place in line, else moves it on: the answer once there is one, and
    /// the same from then on. Waits for nobody.
    pub fn advance(&mut self, conn: &Conn, work: Work<'_>) -> Option<Result<Answer, Error>> {
        if self.answer.is_none() && !self.is_placed() {
            self.issue(conn, work);
            if let Stage::Placed(index) = self.stage {
                self.life = queue_of(conn, work).record(index).word().life();
                if self.spun && is_incoming(work) {
                    // Here and not in `block`, which holds nothing: it takes a role.
                    conn.before_sleep();
                }
            }
        }
        if self.answer.is_none()
            && let Stage::Placed(index) = self.stage
        {
            self.poll(conn, work, index);
        }
        self.answer
    }

    fn issue(&mut self, conn: &Conn, work: Work<'_>) {
        let first = self.spins && !self.spun;
        let stop = match work {
            Work::Read(buf) => {
                let how = if first { ReadHow::First } else { ReadHow::Pend };
                match conn.read_user(buf, how) {
                    Ok(read) => return self.done(Answer::Read(read)),
                    Err(stop) => stop,
                }
            }
            Work::Flush => match conn.flush_begun() {
                Ok(None) => return self.done(Answer::Flushed),
                Ok(Some(index)) => ReadStop::Pended(index, 0),
                Err(stop) => stop,
            },
            Work::Write(data) => {
                let how = if first { WriteHow::Try } else { WriteHow::Pend };
                match conn.write_now(data, how) {
                    Ok(count) => return self.done(Answer::Wrote(count)),
                    Err(stop) => return self.stopped_writing(conn, stop),
                }
            }
            Work::Transact(request, reply) => match conn.transact_begun(request, reply.len()) {
                Ok(index) => ReadStop::Pended(index, 0),
                Err(stop) => return self.stopped_writing(conn, stop),
            },
        };
        match stop {
            ReadStop::WouldPend if first => self.stage = Stage::Spins,
            ReadStop::Pended(index, _) => self.stage = Stage::Placed(index),
            ReadStop::Held => self.stage = Stage::Held(Side::Consumer),
            ReadStop::TableFull => self.stage = Stage::Full,
            stop => self.answer = Some(Err(conn.read_error(stop))),
        }
    }

    fn stopped_writing(&mut self, conn: &Conn, stop: WriteStop) {
        match stop {
            WriteStop::WouldPend if self.spins && !self.spun => self.stage = Stage::Spins,
            WriteStop::Pended(index, _) => self.stage = Stage::Placed(index),
            WriteStop::ProducerHeld => self.stage = Stage::Held(Side::Producer),
            WriteStop::LockHeld => self.stage = Stage::Held(Side::Consumer),
            WriteStop::ReplyHeld => self.stage = Stage::ReplyHeld,
            WriteStop::TableFull => self.stage = Stage::Full,
            stop => self.answer = Some(Err(conn.write_error(stop))),
        }
    }

    fn done(&mut self, answer: Answer) {
        self.answer = Some(Ok(answer));
    }

    /// Somebody has taken the record back, for its thread was swept: it may be another's by now.
    fn is_swept(&self, conn: &Conn, work: Work<'_>, index: usize) -> bool {
        let word = queue_of(conn, work).record(index).word();
        word.life() != self.life || matches!(word.phase(), Phase::Free | Phase::Abandoned)
    }

    fn poll(&mut self, conn: &Conn, work: Work<'_>, index: usize) {
        if self.is_swept(conn, work, index) {
            self.answer = Some(Err(Error::Cancelled));
            return;
        }
        let mut wakes = Wakes::default();
        let (me, mut held) = (conn.me(), None);
        let answer = match work {
            Work::Read(mut buf) | Work::Transact(_, mut buf) => conn
                .incoming()
                .poll_read(me, index, &mut buf, &mut self.copied, &mut wakes)
                .map(|answer| answer.map(Answer::Read)),
            Work::Write(data) => conn
                .outgoing()
                .poll_write(me, index, data, &mut held, &mut wakes)
                .map(|answer| answer.map(Answer::Wrote)),
            Work::Flush => conn
                .outgoing()
                .poll_flush(me, index, &mut wakes)
                .map(|answer| answer.map(|()| Answer::Flushed)),
        };
        conn.deliver(&mut wakes);
        self.held = held;
        self.answer = answer.map(|answer| answer.map_err(|error| conn.after(error)));
    }

    /// Ends it, if it has not completed: then its answer is `why`, or what a streaming read has brought.
    pub fn withdraw(&mut self, conn: &Conn, work: Work<'_>, why: Error) -> Result<Answer, Error> {
        let mut rounds = 64;
        while self.answer.is_none() && rounds != 0 {
            rounds -= 1;
            let Stage::Placed(index) = self.stage else {
                self.answer = Some(Err(why));
                break;
            };
            if self.is_swept(conn, work, index) {
                self.answer = Some(Err(why));
                break;
            }
            let mut wakes = Wakes::default();
            let queue = queue_of(conn, work);
            let withdrawn = queue.withdraw_own(conn.me(), index, &mut wakes);
            conn.deliver(&mut wakes);
            if withdrawn && self.copied != 0 {
                self.answer = Some(Ok(Answer::Read(queue.cut_short(self.copied))));
            } else if withdrawn {
                self.answer = Some(Err(why));
            } else {
                // It completes just now: then that is the answer.
                self.poll(conn, work, index);
            }
        }
        self.answer.unwrap_or(Err(why))
    }

    /// Waits until [`Task::advance`] may get further, the deadline, or a cancel of `wait`, in which the task was begun
    /// ([`Wait::open`]). Holds nothing meanwhile, and touches no user's memory.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::TimedOut`]; then [`Task::withdraw`] says whether that came first.
    pub fn block(
        &mut self,
        conn: &Conn,
        work: Work<'_>,
        wait: &Wait,
        deadline: Deadline,
    ) -> Result<(), Error> {
        if self.answer.is_some() {
            return Ok(());
        }
        // Stays open, also if this thread ends in here.
        let entered = std::mem::ManuallyDrop::new(wait.resume());
        let queue = queue_of(conn, work);
        let outcome = match self.stage {
            Stage::New => Ok(()),
            Stage::Spins => {
                self.spun = true;
                conn.spin_for(is_incoming(work), work_len(work), &entered);
                entered.look(deadline)
            }
            Stage::Held(side) => {
                let queue = conn.line(matches!(work, Work::Read(_)));
                let role = match side {
                    Side::Producer => queue.producer(),
                    Side::Consumer => queue.consumer(),
                };
                conn.wait_for(&entered, role, deadline)
            }
            Stage::ReplyHeld => conn.wait_for(&entered, queue.consumer(), deadline),
            Stage::Full => conn.wait_for_record(&entered, &queue, deadline),
            Stage::Placed(index) => {
                let place = Place {
                    incoming: is_incoming(work),
                    index,
                    held: self.held,
                    spun: std::mem::take(&mut self.spun),
                };
                place.rest(conn, &entered, deadline, &mut self.begin)
            }
        };
        match outcome {
            Err(why @ (Error::Cancelled | Error::TimedOut)) => Err(why),
            // Whatever else it is, the next attempt says.
            _ => Ok(()),
        }
    }

    /// As [`Started::rest`](crate::Started::rest), after [`Task::advance`] has answered nothing.
    pub fn rest(&self, conn: &Conn, work: Work<'_>) -> Rest {
        let Stage::Placed(index) = self.stage else {
            return if self.answer.is_some() {
                Rest::Look
            } else {
                Rest::Soon
            };
        };
        if self.answer.is_some() {
            return Rest::Look;
        }
        if self.held.is_some() {
            return Rest::Soon;
        }
        let record = queue_of(conn, work).record(index);
        // From here on whoever runs the pump looks after it: it does not end with the thread that has begun it.
        let process = Owner::whole(conn.link().process());
        record.owner.store(process.raw(), Ordering::Relaxed);
        record.belongs_to_the_bell();
        match record.fall_asleep() {
            None => Rest::Look,
            Some(_) => Rest::AtTheBell,
        }
    }

    /// What `wait` gives up if it is abandoned: the place that this task has.
    pub fn leave_with(&self, conn: &Conn, work: Work<'_>, wait: &Wait) {
        if let Stage::Placed(index) = self.stage {
            let entered = std::mem::ManuallyDrop::new(wait.resume());
            entered.holds(queue_of(conn, work).record(index));
        }
    }
}

fn work_len(work: Work<'_>) -> usize {
    match work {
        Work::Read(buf) | Work::Write(buf) | Work::Transact(_, buf) => buf.len(),
        Work::Flush => 0,
    }
}

fn is_incoming(work: Work<'_>) -> bool {
    matches!(work, Work::Read(_) | Work::Transact(..))
}

fn queue_of<'c>(conn: &'c Conn, work: Work<'_>) -> Queue<'c> {
    conn.line(is_incoming(work))
}
