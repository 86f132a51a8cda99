//! Completion queues: what completes is put in by whoever completes it, and taken out by threads that wait, some at a time.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use npfs_ringbuf::Deadline;

use crate::{Error, Result, jobs, lock::lock, reactor::REACTOR};

/// A queue, and how many threads may be at work on what they took out of it.
pub(crate) struct Queue<T> {
    line: Mutex<VecDeque<T>>,
    /// How many those are; changes under the lock.
    count: AtomicUsize,
    /// None: any number.
    gate: Option<Arc<Gate>>,
}

#[derive(Debug)]
struct Gate {
    limit: usize,
    /// Threads that have taken something and not come back.
    at_work: AtomicUsize,
}

/// A thread that is at work, until it comes back, waits elsewhere or ends.
#[derive(Debug)]
struct AtWork(Arc<Gate>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
        REACTOR.ring_alarm();
    }
}

thread_local! {
    /// A thread belongs to one queue at most: the last that it took something from.
    static AT_WORK: RefCell<Option<AtWork>> = const { RefCell::new(None) };
}

/// This thread is done with what it has taken, wherever that was.
pub(crate) fn comes_back() {
    let done = AT_WORK.try_with(|at_work| at_work.borrow_mut().take());
    drop(done);
}

impl Gate {
    fn enter(self: &Arc<Self>) -> Option<AtWork> {
        let more = |at_work: usize| (at_work < self.limit).then(|| at_work + 1);
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        let entered = self.at_work.fetch_update(set, fetch, more).ok();
        entered.map(|_| AtWork(self.clone()))
    }
}

impl<T> Queue<T> {
    /// For so many threads at a time; `None`: any number.
    pub(crate) fn new(limit: Option<NonZeroUsize>) -> Queue<T> {
        let gate = |limit: NonZeroUsize| {
            Arc::new(Gate {
                limit: limit.get(),
                at_work: AtomicUsize::new(0),
            })
        };
        Queue {
            line: Mutex::default(),
            count: AtomicUsize::new(0),
            gate: limit.map(gate),
        }
    }

    pub(crate) fn put(&self, one: T) {
        self.put_quietly(one);
        REACTOR.tell();
    }

    /// The caller tells of it, which orders this.
    pub(crate) fn put_quietly(&self, one: T) {
        let mut line = lock(&self.line);
        line.push_back(one);
        self.count.store(line.len(), Ordering::Release);
    }

    /// The oldest, whoever is at work.
    pub(crate) fn take(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut line = lock(&self.line);
        let one = line.pop_front();
        self.count.store(line.len(), Ordering::Release);
        one
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Waits until there is something that this thread may work on, and takes up to `most`, the oldest first; says how many
    /// those were.
    pub(crate) fn wait(&self, into: &mut Vec<T>, most: usize, deadline: Deadline) -> Result<usize> {
        comes_back();
        let into = RefCell::new(into);
        let begin = || {
            if self.is_empty() {
                return None;
            }
            let mut line = lock(&self.line);
            if line.is_empty() {
                return None;
            }
            let entered = match &self.gate {
                Some(gate) => Some(gate.enter()?),
                None => None,
            };
            let count = line.len().min(most.max(1));
            into.borrow_mut().extend(line.drain(..count));
            self.count.store(line.len(), Ordering::Release);
            Some((count, entered))
        };
        let wait = |deadline| REACTOR.wait_until(deadline, begin);
        let waited = jobs::waiting(deadline, |deadline| wait(deadline).ok_or(Error::TimedOut));
        let (count, entered) = waited?;
        let _ = AT_WORK.try_with(|at_work| *at_work.borrow_mut() = entered);
        Ok(count)
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue::new(None)
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("line", &lock(&self.line).len())
            .field("gate", &self.gate)
            .finish()
    }
}
