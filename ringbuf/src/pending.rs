//! Operations that may pend: each has its place in line from the moment it was started.

use crate::{
    Conn, Deadline, Error, Read,
    consume::Side,
    futex,
    queue::Queue,
    record::{Phase, Wakes},
    sync::Ordering,
    wait::{Entered, learn_wake_cost},
};

/// What all of them share: a record, or an answer.
#[derive(Debug)]
pub(crate) struct Op<'a, T> {
    conn: &'a Conn,
    entered: Entered<'a>,
    incoming: bool,
    index: usize,
    /// The caller has spun already, before it took the record.
    spun: bool,
    /// A role that somebody held when this last wanted to go on.
    held: Option<Side>,
    answer: Option<Result<T, Error>>,
}

impl<'a, T: Copy> Op<'a, T> {
    fn done(conn: &'a Conn, entered: Entered<'a>, answer: T) -> Op<'a, T> {
        Op {
            conn,
            entered,
            incoming: false,
            index: 0,
            spun: false,
            held: None,
            answer: Some(Ok(answer)),
        }
    }

    fn pended(conn: &'a Conn, entered: Entered<'a>, incoming: bool, index: usize) -> Op<'a, T> {
        let op = Op {
            conn,
            entered,
            incoming,
            index,
            spun: false,
            held: None,
            answer: None,
        };
        op.entered.holds(op.queue().record(index));
        op
    }

    fn queue(&self) -> Queue<'a> {
        self.conn.line(self.incoming)
    }

    fn answered(&mut self, answer: Option<Result<T, Error>>) -> Option<Result<T, Error>> {
        self.answer = answer.map(|answer| answer.map_err(|error| self.conn.after(error)));
        self.answer
    }

    /// Withdraws the operation unless it has completed.
    fn withdraw(&mut self, why: Error) -> bool {
        if self.answer.is_some() {
            return false;
        }
        let mut wakes = Wakes::default();
        let withdrawn = self
            .queue()
            .withdraw_own(self.conn.me(), self.index, &mut wakes);
        self.conn.deliver(&mut wakes);
        if withdrawn {
            self.answer = Some(Err(why));
        }
        withdrawn
    }

    /// Spins, then sleeps, until there may be something new.
    fn rest(&mut self, deadline: Deadline, begin: &mut Option<u64>) -> Result<(), Error> {
        let place = Place {
            incoming: self.incoming,
            index: self.index,
            held: self.held.take(),
            spun: std::mem::take(&mut self.spun),
        };
        place.rest(self.conn, &self.entered, deadline, begin)
    }
}

/// A pended operation's record, and how its owner comes to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) incoming: bool,
    pub(crate) index: usize,
    /// A role that is in its way.
    pub(crate) held: Option<Side>,
    /// Its owner has spun for it already.
    pub(crate) spun: bool,
}

impl Place {
    /// Spins, then sleeps, until there may be something new; holds nothing meanwhile.
    pub(crate) fn rest(
        self,
        conn: &Conn,
        entered: &Entered<'_>,
        deadline: Deadline,
        begin: &mut Option<u64>,
    ) -> Result<(), Error> {
        let queue = conn.line(self.incoming);
        let record = queue.record(self.index);
        let before = record.word();
        let common = &queue.header.common.0;
        let peer = if self.incoming {
            &common.producer_cpu
        } else {
            &common.consumer_cpu
        };
        let begin = *begin.get_or_insert_with(futex::now);
        if let Some(side) = self.held {
            let role = match side {
                Side::Producer => queue.producer(),
                Side::Consumer => queue.consumer(),
            };
            return entered.sleep_on_role(role, deadline, || {
                // A record that was withdrawn meanwhile is looked at, not waited on.
                if record.phase() == Phase::Pending {
                    Ok(())
                } else {
                    Err(Error::Busy)
                }
            });
        }
        let ready = || record.word() != before;
        if !self.spun
            && conn
                .spin()
                .until(peer.load(Ordering::Relaxed), entered, ready)
        {
            return entered.look(deadline);
        }
        let slept = entered.sleep_on_record(record, deadline)?;
        if record.phase() == Phase::Done {
            // The one who answered says when that was: the wait ended then, the rest is what waking costs.
            let stamp = record.stamp.load(Ordering::Relaxed);
            let now = futex::now();
            if (begin..=now).contains(&stamp) {
                conn.spin().learn(stamp - begin);
                // An answer that came before the sleep says nothing of what waking costs: believed, it would end the
                // spinning that avoids the sleep.
                if slept {
                    learn_wake_cost(now - stamp);
                }
            }
        }
        Ok(())
    }
}

macro_rules! pending {
    ($(#[$doc:meta])* $name:ident, $out:ty) => {
        impl $name<'_> {
            /// Sleeps until it completes; past the deadline it is withdrawn.
            ///
            /// # Errors
            /// Those of the blocking call of the same name.
            pub fn wait(&mut self, deadline: Deadline) -> Result<$out, Error> {
                let mut begin = None;
                loop {
                    if let Some(answer) = self.poll() {
                        return answer;
                    }
                    match self.op.rest(deadline, &mut begin) {
                        Ok(()) | Err(Error::Busy) => {}
                        // It may complete just now: then that is the answer.
                        Err(why) => {
                            if self.withdraw(why) {
                                if let Some(answer) = self.op.answer {
                                    return answer;
                                }
                            }
                        }
                    }
                }
            }

            /// Withdraws it: `true` if it had not completed, and answers [`Error::Cancelled`] from now on
            /// (NP-CANCEL-01, 04).
            pub fn cancel(&mut self) -> bool {
                self.withdraw(Error::Cancelled) && self.op.answer == Some(Err(Error::Cancelled))
            }

            /// Its answer, or, without it, its record goes on for whoever has the index. Not to be polled before.
            pub(crate) fn leave(self) -> (usize, Option<Result<$out, Error>>) {
                let mut this = self;
                // What it drops with: nothing is left to withdraw.
                let answer = this.op.answer.replace(Err(Error::Cancelled));
                (this.op.index, answer)
            }
        }

        impl Drop for $name<'_> {
            fn drop(&mut self) {
                let mut rounds = 64;
                while self.op.answer.is_none() && rounds != 0 {
                    rounds -= 1;
                    if !self.withdraw(Error::Cancelled) {
                        self.poll();
                    }
                }
            }
        }
    };
}

/// A read that may pend. Dropped before it has completed, it is cancelled.
#[derive(Debug)]
pub struct PendingRead<'a> {
    op: Op<'a, Read>,
    buf: &'a mut [u8],
    /// Bytes that a streaming read has brought so far.
    copied: usize,
}

impl<'a> PendingRead<'a> {
    pub(crate) fn done(
        conn: &'a Conn,
        entered: Entered<'a>,
        buf: &'a mut [u8],
        read: Read,
    ) -> PendingRead<'a> {
        PendingRead {
            op: Op::done(conn, entered, read),
            buf,
            copied: 0,
        }
    }

    pub(crate) fn pended(
        conn: &'a Conn,
        entered: Entered<'a>,
        buf: &'a mut [u8],
        index: usize,
    ) -> PendingRead<'a> {
        PendingRead {
            op: Op::pended(conn, entered, true, index),
            buf,
            copied: 0,
        }
    }

    /// Whether the caller has spun for nothing before it pended: then the first wait sleeps at once.
    pub(crate) fn after_spin(mut self, spun: bool) -> PendingRead<'a> {
        self.op.spun = spun;
        self
    }

    /// Never blocks: the answer once there is one, and the same from then on. Moves a read of more than the area
    /// holds on.
    pub fn poll(&mut self) -> Option<Result<Read, Error>> {
        if self.op.answer.is_some() {
            return self.op.answer;
        }
        let mut wakes = Wakes::default();
        let answer = self.op.queue().poll_read(
            self.op.conn.me(),
            self.op.index,
            self.buf,
            &mut self.copied,
            &mut wakes,
        );
        self.op.conn.deliver(&mut wakes);
        self.op.answered(answer)
    }

    /// What has arrived, once it has completed.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        match self.op.answer {
            Some(Ok(read)) => &self.buf[..read.count()],
            _ => &[],
        }
    }

    fn withdraw(&mut self, why: Error) -> bool {
        let withdrawn = self.op.withdraw(why);
        if withdrawn && self.copied != 0 {
            // What a streaming read has brought is brought: it ends as a read with a smaller buffer would.
            self.op.answer = Some(Ok(self.op.queue().cut_short(self.copied)));
        }
        withdrawn
    }
}
pending!(PendingRead, Read);

/// A write that may pend. Dropped before it has completed, it is cancelled.
#[derive(Debug)]
pub struct PendingWrite<'a> {
    op: Op<'a, usize>,
    data: &'a [u8],
}

impl<'a> PendingWrite<'a> {
    pub(crate) fn done(
        conn: &'a Conn,
        entered: Entered<'a>,
        data: &'a [u8],
        count: usize,
    ) -> PendingWrite<'a> {
        PendingWrite {
            op: Op::done(conn, entered, count),
            data,
        }
    }

    pub(crate) fn pended(
        conn: &'a Conn,
        entered: Entered<'a>,
        data: &'a [u8],
        index: usize,
    ) -> PendingWrite<'a> {
        PendingWrite {
            op: Op::pended(conn, entered, false, index),
            data,
        }
    }

    /// Whether the caller has spun for nothing before it pended: then the first wait sleeps at once.
    pub(crate) fn after_spin(mut self, spun: bool) -> PendingWrite<'a> {
        self.op.spun = spun;
        self
    }

    /// Never blocks: the answer once there is one, and the same from then on. Moves a write of more than the area
    /// holds on.
    pub fn poll(&mut self) -> Option<Result<usize, Error>> {
        if self.op.answer.is_some() {
            return self.op.answer;
        }
        let mut wakes = Wakes::default();
        let answer = self.op.queue().poll_write(
            self.op.conn.me(),
            self.op.index,
            self.data,
            &mut self.op.held,
            &mut wakes,
        );
        self.op.conn.deliver(&mut wakes);
        self.op.answered(answer)
    }

    fn withdraw(&mut self, why: Error) -> bool {
        self.op.withdraw(why)
    }
}
pending!(PendingWrite, usize);

/// A flush that may pend. Dropped before it has completed, it is cancelled.
#[derive(Debug)]
pub struct PendingFlush<'a> {
    op: Op<'a, ()>,
}

impl<'a> PendingFlush<'a> {
    pub(crate) fn done(conn: &'a Conn, entered: Entered<'a>, answer: ()) -> PendingFlush<'a> {
        PendingFlush {
            op: Op::done(conn, entered, answer),
        }
    }

    pub(crate) fn pended(conn: &'a Conn, entered: Entered<'a>, index: usize) -> PendingFlush<'a> {
        PendingFlush {
            op: Op::pended(conn, entered, false, index),
        }
    }

    /// Never blocks: the answer once there is one, and the same from then on.
    pub fn poll(&mut self) -> Option<Result<(), Error>> {
        if self.op.answer.is_some() {
            return self.op.answer;
        }
        let mut wakes = Wakes::default();
        let answer = self
            .op
            .queue()
            .poll_flush(self.op.conn.me(), self.op.index, &mut wakes);
        self.op.conn.deliver(&mut wakes);
        self.op.answered(answer)
    }

    fn withdraw(&mut self, why: Error) -> bool {
        self.op.withdraw(why)
    }
}
pending!(PendingFlush, ());

/// A transact whose request is sent and whose reply is awaited. Cancelling it leaves the request in the peer's queue
/// (NP-XCV-08).
#[derive(Debug)]
pub struct PendingTransact<'a> {
    read: PendingRead<'a>,
}

impl<'a> PendingTransact<'a> {
    pub(crate) fn pended(
        conn: &'a Conn,
        entered: Entered<'a>,
        reply: &'a mut [u8],
        index: usize,
    ) -> PendingTransact<'a> {
        PendingTransact {
            read: PendingRead::pended(conn, entered, reply, index),
        }
    }

    /// Never blocks: the answer once there is one, and the same from then on.
    pub fn poll(&mut self) -> Option<Result<Read, Error>> {
        self.read.poll()
    }

    /// Sleeps until the reply has come; past the deadline it is withdrawn.
    ///
    /// # Errors
    /// As [`Conn::transact_with`].
    pub fn wait(&mut self, deadline: Deadline) -> Result<Read, Error> {
        self.read.wait(deadline)
    }

    /// Withdraws it: `true` if no reply had come.
    pub fn cancel(&mut self) -> bool {
        self.read.cancel()
    }

    /// The reply, once it has come.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.read.data()
    }

    pub(crate) fn leave(self) -> (usize, Option<Result<Read, Error>>) {
        self.read.leave()
    }
}
