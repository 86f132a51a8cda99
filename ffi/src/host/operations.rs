//! What was submitted and pends, until its one completion. UNSAFE.
//!
//! An operation's state is the host's memory ([`Submitted`]), which one thread at a time works on: whoever has set its
//! entry busy, under the lock, and does so without the lock, since copies may block. Who finds it busy leaves word: look
//! again, or cancel. Whoever ends it takes its entry out first, and so completes it alone.

use std::{
    collections::{HashMap, VecDeque},
    mem::ManuallyDrop,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use npfs_ringbuf::{Deadline, Error, Rest, Task};
use slab::Slab;

use super::{
    client::{ALARM, Host, Plan, links, of_answer},
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

/// Where it pends: a link and a slot, as bells tell it.
type At = ([u64; 2], u32);

struct Entry {
    op: Op,
    conn: Number,
    thread: u32,
    cookie: u64,
    kept: bool,
    at: At,
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
    /// ... or to withdraw it.
    cancel: bool,
}

impl Filter {
    fn is_for(&self, entry: &Entry) -> bool {
        self.conn.is_none_or(|conn| conn == entry.conn)
            && self.thread.is_none_or(|thread| thread == entry.thread)
            && self.cookie.is_none_or(|cookie| cookie == entry.cookie)
            && (self.kept_too || !entry.kept)
    }
}

#[derive(Clone, Copy)]
struct Op(*mut Submitted);

// SAFETY: the memory is the library's until the operation completes, and one thread at a time uses it (`Entry::busy`).
unsafe impl Send for Op {}

#[derive(Default)]
struct Pending {
    all: Slab<Entry>,
    at: HashMap<At, Vec<usize>>,
    /// To be looked at, whatever the bells say.
    due: Vec<usize>,
    /// Somebody was in the middle of a copy: to be looked at in a moment.
    soon: Vec<usize>,
    /// To be told of.
    over: VecDeque<Over>,
    turns: u64,
    has_pump: bool,
}

static PENDING: Mutex<Option<Pending>> = Mutex::new(None);

fn pending<T>(look: impl FnOnce(&mut Pending) -> T) -> T {
    let mut pending: MutexGuard<'_, Option<Pending>> =
        PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    look(pending.get_or_insert_default())
}

/// One that is over: what its host is told.
struct Over {
    cookie: u64,
    status: npfs_host_status,
    information: usize,
}

/// Whether something that was submitted before has no place in line yet, so that what comes now has to wait for that.
pub(super) fn is_behind(conn: Number, at: At, plan: Plan) -> bool {
    pending(|pending| pending.is_behind(conn, at, lanes(plan), u64::MAX))
}

/// It pends from here on. `op` is the library's.
pub(super) fn add(op: *mut Submitted, conn: Number, at: At) {
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
    let (key, first) = pending(|pending| {
        let turn = pending.turns;
        pending.turns += 1;
        let key = pending.all.insert(Entry {
            op: Op(op),
            conn,
            thread,
            cookie,
            kept,
            at,
            turn,
            lanes,
            placed,
            busy: false,
            worker: 0,
            again: false,
            cancel: false,
        });
        pending.at.entry(at).or_default().push(key);
        (key, !std::mem::replace(&mut pending.has_pump, true))
    });
    let Some(host) = Host::get() else { return };
    // To rest at the bell, from which on the pump is told. If it has completed meanwhile, the pump says so: its host does
    // not know yet that it pends.
    if let Some(over) = step(host, key) {
        pending(|pending| pending.over.push_back(over));
        ALARM.ring();
    }
    if first {
        host.start_pump();
    }
}

/// Moves one on. `Some`: it is over, and gone from here.
fn step(host: &'static Host, key: usize) -> Option<Over> {
    let (op, mut cancel) = pending(|pending| {
        let entry = pending.all.get_mut(key)?;
        if entry.busy {
            entry.again = true;
            return None;
        }
        let (conn, at, lanes, turn) = (entry.conn, entry.at, entry.lanes, entry.turn);
        if !entry.placed && !entry.cancel && pending.is_behind(conn, at, lanes, turn) {
            pending.soon.push(key);
            ALARM.ring();
            return None;
        }
        let entry = pending.all.get_mut(key)?;
        entry.busy = true;
        entry.worker = npfs_ringbuf::thread_serial();
        entry.again = false;
        Some((entry.op, entry.cancel))
    })?;
    // SAFETY: it pends, and this thread has made it busy: nobody else uses it.
    let submitted = unsafe { &mut *op.0 };
    // SAFETY: its use is kept until it is over.
    let used = ManuallyDrop::new(unsafe { table::resume(submitted.number) }?);
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
            pending(|pending| pending.remove(key));
            drop(ManuallyDrop::into_inner(used));
            return Some(over);
        }
        rounds += 1;
        let rest = submitted.task.rest(&used, work);
        let placed = submitted.task.is_placed();
        let goes_on = pending(|pending| {
            let entry = pending.all.get_mut(key)?;
            entry.placed = placed;
            if entry.cancel || entry.again && rounds < MOST_ROUNDS {
                entry.again = false;
                return Some(entry.cancel);
            }
            match rest {
                Rest::Look if rounds < MOST_ROUNDS => return Some(false),
                Rest::AtTheBell if !entry.again => {}
                _ => {
                    pending.soon.push(key);
                    ALARM.ring();
                }
            }
            entry.busy = false;
            None
        });
        cancel = goes_on?;
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
        let keys = self.at.get(&at).into_iter().flatten();
        keys.filter_map(|key| self.all.get(*key)).any(|other| {
            !other.placed && other.conn == conn && other.lanes & lanes != 0 && other.turn < turn
        })
    }

    fn remove(&mut self, key: usize) {
        if let Some(entry) = self.all.try_remove(key)
            && let Some(keys) = self.at.get_mut(&entry.at)
        {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.at.remove(&entry.at);
            }
        }
    }
}

/// Withdraws them; how many there were.
pub(super) fn cancel(filter: &Filter) -> usize {
    let keys: Vec<usize> = pending(|pending| {
        let meant = pending.all.iter_mut();
        let meant = meant.filter(|(_, entry)| filter.is_for(entry) && !entry.cancel);
        meant
            .map(|(key, entry)| {
                entry.cancel = true;
                key
            })
            .collect()
    });
    let Some(host) = Host::get() else { return 0 };
    for key in &keys {
        if let Some(over) = step(host, *key) {
            host.complete(over.cookie, over.status, over.information);
        }
    }
    keys.len()
}

/// A thread has ended, perhaps in the middle of a copy: what it worked on is looked at by others.
pub(super) fn left_by(thread: u32) {
    let left = pending(|pending| {
        let worked_on = pending.all.iter_mut();
        let worked_on = worked_on.filter(|(_, entry)| entry.busy && entry.worker == thread);
        let keys = worked_on.map(|(key, entry)| {
            entry.busy = false;
            key
        });
        let keys: Vec<usize> = keys.collect();
        pending.due.extend(&keys);
        !keys.is_empty()
    });
    if left {
        ALARM.ring();
    }
}

/// Whether anything pends on a link.
pub(super) fn pend_on(link: [u64; 2]) -> bool {
    pending(|pending| pending.at.keys().any(|(token, _)| *token == link))
}

/// Whether there is something to do that no bell tells of.
pub(super) fn is_due() -> bool {
    pending(|pending| !pending.due.is_empty() || !pending.over.is_empty())
}

/// When to look again at the latest.
pub(super) fn soon(deadline: Deadline) -> Deadline {
    if pending(|pending| pending.soon.is_empty()) {
        deadline
    } else {
        deadline.min(Deadline::after(SOON))
    }
}

/// Moves on what may have news, and completes at most so many; how many it was.
pub(super) fn run(most: usize) -> usize {
    let Some(host) = Host::get() else { return 0 };
    let mut ready: Vec<At> = Vec::new();
    for link in links() {
        link.own_bell()
            .take(|slot| ready.push((link.token(), slot)));
    }
    let keys = pending(|pending| {
        let mut keys = std::mem::take(&mut pending.due);
        keys.append(&mut pending.soon);
        for at in &ready {
            keys.extend(pending.at.get(at).into_iter().flatten());
        }
        keys
    });
    let mut count = 0;
    while count < most
        && let Some(over) = pending(|pending| pending.over.pop_front())
    {
        host.complete(over.cookie, over.status, over.information);
        count += 1;
    }
    let mut keys = keys.into_iter();
    while count < most {
        let Some(key) = keys.next() else {
            return count;
        };
        if let Some(over) = step(host, key) {
            host.complete(over.cookie, over.status, over.information);
            count += 1;
        }
    }
    pending(|pending| pending.due.extend(keys));
    count
}

const SOON: Duration = Duration::from_millis(1);
/// Looks at one operation in a row.
const MOST_ROUNDS: u32 = 16;
