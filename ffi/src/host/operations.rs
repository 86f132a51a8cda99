//! What was submitted and pends, until its one completion. UNSAFE.
//!
//! An operation's state is the host's memory ([`Submitted`]), which one thread at a time works on: whoever has set its
//! entry busy, under the lock, and does so without the lock, since copies may block. Who finds it busy leaves word: look
//! again, or cancel. Whoever ends it takes its entry out first, and so completes it alone.
//!
//! Only a new entry needs memory: moving one on, cancelling and completing it does not.

use std::{
    mem::ManuallyDrop,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use npfs_ringbuf::{Deadline, Error, Rest, Task};

use super::{
    client::{ALARM, Host, Plan, link, of_answer},
    rows::{At, Key, List, Rows},
    table::{self, Number},
    types::npfs_host_status,
};

/// What stands in an `npfs_host_op`.
pub(super) struct Submitted {
    pub(super) cookie: u64,
    pub(super) thread: u32,
    pub(super) kept: bool,
    pub(super) signals: bool,
    /// A use of it is kept.
    pub(super) number: Number,
    pub(super) task: Task,
    pub(super) plan: Plan,
}

/// Which operations are meant.
pub(super) struct Filter {
    pub(super) conn: Option<Number>,
    pub(super) thread: Option<u32>,
    pub(super) cookie: Option<u64>,
    /// Those that do not end with their thread, too.
    pub(super) kept_too: bool,
}

struct Entry {
    op: Op,
    conn: Number,
    thread: u32,
    cookie: u64,
    kept: bool,
    /// Which came first.
    turn: u64,
    /// The directions in which it takes a place.
    lanes: u8,
    /// It has its place in line.
    placed: bool,
    /// Somebody works on it,
    busy: bool,
    /// ... this thread,
    worker: u32,
    /// ... and is to look once more,
    again: bool,
    /// ... or to withdraw it, for this cancel.
    cancel: Option<u64>,
    /// It is over, and its host is to be told.
    over: Option<Over>,
}

impl Filter {
    fn is_for(&self, entry: &Entry) -> bool {
        entry.over.is_none()
            && self.conn.is_none_or(|conn| conn == entry.conn)
            && self.thread.is_none_or(|thread| thread == entry.thread)
            && self.cookie.is_none_or(|cookie| cookie == entry.cookie)
            && (self.kept_too || !entry.kept)
    }
}

#[derive(Clone, Copy)]
struct Op(*mut Submitted);

// SAFETY: the memory is the library's until the operation completes, and one thread at a time uses it (`Entry::busy`).
unsafe impl Send for Op {}

struct Pending {
    all: Rows<Entry>,
    turns: u64,
    cancels: u64,
    has_pump: bool,
}

/// To be looked at, whatever the bells say.
const DUE: List = 0;
/// Somebody was in the middle of a copy: to be looked at in a moment.
const SOON: List = 1;
/// To be told of.
const OVER: List = 2;

static PENDING: Mutex<Pending> = Mutex::new(Pending {
    all: Rows::new(),
    turns: 0,
    cancels: 0,
    has_pump: false,
});

fn pending<T>(look: impl FnOnce(&mut Pending) -> T) -> T {
    let mut pending: MutexGuard<'_, Pending> =
        PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    look(&mut pending)
}

/// One that is over: what its host is told.
#[derive(Clone, Copy)]
struct Over {
    cookie: u64,
    status: npfs_host_status,
    information: usize,
}

/// Whether something that was submitted before has no place in line yet, so that what comes now has to wait for that.
pub(super) fn is_behind(conn: Number, at: At, plan: Plan) -> bool {
    pending(|pending| pending.is_behind(conn, at, lanes(plan), u64::MAX))
}

/// It pends from here on. `op` is the library's. `false`: there is no memory to know it by.
#[must_use]
pub(super) fn add(op: *mut Submitted, conn: Number, at: At) -> bool {
    // SAFETY: the caller has just written it.
    let (thread, cookie, kept, lanes, placed) = unsafe {
        let op = &*op;
        (
            op.thread,
            op.cookie,
            op.kept,
            lanes(op.plan),
            op.task.is_placed(),
        )
    };
    let added = pending(|pending| {
        let turn = pending.turns;
        pending.turns = turn.wrapping_add(1);
        let entry = Entry {
            op: Op(op),
            conn,
            thread,
            cookie,
            kept,
            turn,
            lanes,
            placed,
            busy: false,
            worker: 0,
            again: false,
            cancel: None,
            over: None,
        };
        let key = pending.all.insert(at, entry).ok()?;
        Some((key, !std::mem::replace(&mut pending.has_pump, true)))
    });
    let Some((key, first)) = added else {
        return false;
    };
    let Some(host) = Host::get() else { return true };
    // To rest at the bell, from which on the pump is told. If it completes meanwhile, the pump says so: its host does not know yet
    // that it pends.
    step(host, key, Telling::ByThePump);
    if first {
        host.start_pump();
    }
    true
}

/// Who tells the host that an operation is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    AtOnce,
    ByThePump,
}

/// Moves one on. `true`: it is over now, and has been told of, or will be.
fn step(host: &'static Host, key: Key, telling: Telling) -> bool {
    let Some((op, mut cancel)) = pending(|pending| pending.begin(key)) else {
        return false;
    };
    // SAFETY: it pends, and this thread has made it busy: nobody else uses it.
    let submitted = unsafe { &mut *op.0 };
    // SAFETY: its use is kept until it is over.
    let Some(used) = (unsafe { table::resume(submitted.number) }).map(ManuallyDrop::new) else {
        return false;
    };
    let work = submitted.plan.work(host);
    let mut rounds = 0;
    loop {
        let answer = if cancel {
            Some(submitted.task.withdraw(&used, work, Error::Cancelled))
        } else {
            submitted.task.advance(&used, work)
        };
        if let Some(answer) = answer {
            let (status, information) = of_answer(answer);
            let over = Over {
                cookie: submitted.cookie,
                status,
                information,
            };
            if submitted.signals {
                used.signal();
            }
            pending(|pending| pending.end(key, over, telling));
            drop(ManuallyDrop::into_inner(used));
            match telling {
                Telling::AtOnce => host.complete(over.cookie, over.status, over.information),
                Telling::ByThePump => ALARM.ring(),
            }
            return true;
        }
        rounds += 1;
        let rest = submitted.task.rest(&used, work);
        let placed = submitted.task.is_placed();
        let goes_on = pending(|pending| {
            let entry = pending.all.get_mut(key)?;
            entry.placed = placed;
            let cancel = entry.cancel.is_some();
            if cancel || entry.again && rounds < MOST_ROUNDS {
                entry.again = false;
                return Some(cancel);
            }
            let again = entry.again;
            match rest {
                Rest::Look if rounds < MOST_ROUNDS => return Some(false),
                Rest::AtTheBell if !again => entry.busy = false,
                _ => {
                    entry.busy = false;
                    pending.look_soon(key);
                }
            }
            None
        });
        match goes_on {
            Some(withdraw) => cancel = withdraw,
            None => return false,
        }
    }
}

/// Reads stand in one line, writes and flushes in another.
fn lanes(plan: Plan) -> u8 {
    match plan {
        Plan::Read(_) => 1,
        Plan::Write(_) | Plan::Flush => 2,
        Plan::Transact(..) => 3,
    }
}

impl Pending {
    fn is_behind(&self, conn: Number, at: At, lanes: u8, turn: u64) -> bool {
        self.all.at(at).any(|other| {
            !other.placed && other.conn == conn && other.lanes & lanes != 0 && other.turn < turn
        })
    }

    /// Makes an entry busy: its operation, and whether it is to be withdrawn. `None`: somebody else sees to it.
    fn begin(&mut self, key: Key) -> Option<(Op, bool)> {
        let at = self.all.place_of(key)?;
        let entry = self.all.get_mut(key)?;
        if entry.over.is_some() {
            return None;
        }
        if entry.busy {
            entry.again = true;
            return None;
        }
        let (conn, lanes, turn) = (entry.conn, entry.lanes, entry.turn);
        if !entry.placed && entry.cancel.is_none() && self.is_behind(conn, at, lanes, turn) {
            self.look_soon(key);
            return None;
        }
        let entry = self.all.get_mut(key)?;
        entry.busy = true;
        entry.worker = npfs_ringbuf::thread_serial();
        entry.again = false;
        Some((entry.op, entry.cancel.is_some()))
    }

    fn look_soon(&mut self, key: Key) {
        if !self.all.is_listed(key) {
            self.all.enlist(key, SOON);
        }
        ALARM.ring();
    }

    /// An operation is over: nobody finds it any more, but who is to tell of it.
    fn end(&mut self, key: Key, over: Over, telling: Telling) {
        if telling == Telling::AtOnce {
            self.all.remove(key);
        } else if let Some(entry) = self.all.get_mut(key) {
            entry.over = Some(over);
            entry.busy = false;
            self.all.leave_place(key);
            self.all.enlist(key, OVER);
        }
    }
}

/// Withdraws them; how many there were.
pub(super) fn cancel(filter: &Filter) -> usize {
    let (this, count) = pending(|pending| {
        pending.cancels = pending.cancels.wrapping_add(1);
        let this = pending.cancels;
        let mut count = 0;
        for entry in pending.all.all_mut() {
            if filter.is_for(entry) && entry.cancel.is_none() {
                entry.cancel = Some(this);
                count += 1;
            }
        }
        (this, count)
    });
    let Some(host) = Host::get() else { return 0 };
    let is_meant = |entry: &Entry| entry.cancel == Some(this);
    let mut from = 0;
    // One at a time: the numbers of those that others have ended meanwhile may be others' again.
    for _ in 0..count {
        let Some(key) = pending(|pending| pending.all.first_from(from, is_meant)) else {
            break;
        };
        step(host, key, Telling::AtOnce);
        from = key.saturating_add(1);
    }
    count
}

/// A thread has ended, perhaps in the middle of a copy: what it worked on is looked at by others.
pub(super) fn left_by(thread: u32) {
    let is_its = |entry: &Entry| entry.busy && entry.worker == thread;
    let left = pending(|pending| {
        let mut left = false;
        while let Some(key) = pending.all.first_from(0, is_its) {
            if let Some(entry) = pending.all.get_mut(key) {
                entry.busy = false;
            }
            pending.all.enlist(key, DUE);
            left = true;
        }
        left
    });
    if left {
        ALARM.ring();
    }
}

/// Whether anything pends on a link.
pub(super) fn pend_on(link: [u64; 2]) -> bool {
    pending(|pending| {
        let mut all = pending.all.all();
        all.any(|((token, _), entry)| token == link && entry.over.is_none())
    })
}

/// Whether there is something to do that no bell tells of.
pub(super) fn is_due() -> bool {
    pending(|pending| !pending.all.is_empty(DUE) || !pending.all.is_empty(OVER))
}

/// When to look again at the latest.
pub(super) fn soon(deadline: Deadline) -> Deadline {
    if pending(|pending| pending.all.is_empty(SOON)) {
        deadline
    } else {
        deadline.min(Deadline::after(IN_A_MOMENT))
    }
}

/// Moves on what may have news, and completes at most so many; how many it was.
pub(super) fn run(most: usize) -> usize {
    let Some(host) = Host::get() else { return 0 };
    pending(|pending| {
        while let Some(key) = pending.all.take_first(SOON) {
            pending.all.enlist(key, DUE);
        }
    });
    let mut number = 0;
    while let Some(link) = link(number) {
        let token = link.token();
        link.own_bell()
            .take(|slot| pending(|pending| pending.all.enlist_at((token, slot), DUE)));
        number += 1;
    }
    let mut count = 0;
    while count < most
        && let Some(over) = pending(|pending| {
            let key = pending.all.take_first(OVER)?;
            pending.all.remove(key)?.over
        })
    {
        host.complete(over.cookie, over.status, over.information);
        count += 1;
    }
    while count < most
        && let Some(key) = pending(|pending| pending.all.take_first(DUE))
    {
        if step(host, key, Telling::AtOnce) {
            count += 1;
        }
    }
    count
}

const IN_A_MOMENT: Duration = Duration::from_millis(1);
/// Looks at one operation in a row.
const MOST_ROUNDS: u32 = 16;
