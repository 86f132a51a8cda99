//! Callbacks: where the completions that a program is told of by a call are told.
//!
//! Not on the thread that completes them, which may be inside a call of its own and hold what it likes: they stand in a
//! line that the event loop goes through (or the host's thread, [`crate::Pump`]). There a call that would wait answers an
//! error instead, since everything else that pends waits for the loop; a callback that has to wait gets a thread of its own.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_queue::SegQueue;
use npfs_ringbuf::Deadline;

use crate::{Error, NtStatus, Result, lock::lock, queue, reactor::REACTOR, sys};

/// What is called when an operation has completed: with its status and its information. Cheap to clone.
#[derive(Clone)]
pub struct Callback {
    target: Arc<dyn Fn(NtStatus, usize) + Send + Sync>,
    may_wait: bool,
}

impl Callback {
    /// Called on the event loop, one after the other, in the order of the completions. Calls that would have to wait
    /// answer [`Error::WouldDeadlock`] in there (STATUS_POSSIBLE_DEADLOCK).
    pub fn new(target: impl Fn(NtStatus, usize) + Send + Sync + 'static) -> Callback {
        Callback {
            target: Arc::new(target),
            may_wait: false,
        }
    }

    /// Called on one of up to 64 threads that are there for nothing else: it may wait for what it likes, also for another
    /// completion. In no order. With a pump of the host's ([`crate::Pump`]) there are no such threads, and it is called
    /// there.
    pub fn that_may_wait(target: impl Fn(NtStatus, usize) + Send + Sync + 'static) -> Callback {
        Callback {
            may_wait: true,
            ..Callback::new(target)
        }
    }

    /// To be called soon, elsewhere.
    pub(crate) fn tell(&self, status: NtStatus, information: usize) {
        let target = self.target.clone();
        let job: Job = Box::new(move || target(status, information));
        if self.may_wait && !REACTOR.is_hosted() {
            run_on_a_worker(job);
        } else {
            run_on_the_loop(job);
        }
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback")
            .field("may_wait", &self.may_wait)
            .finish_non_exhaustive()
    }
}

/// Something to call.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

// ---- on the loop ---------------------------------------------------------------------------------------------------

/// What is to be called in this process.
#[derive(Default)]
pub(crate) struct Jobs {
    /// On the loop, ...
    line: SegQueue<Job>,
    /// ... how many those are: raised after one stands there, so that whoever sees it finds one.
    in_line: AtomicUsize,
    /// On threads of their own, ...
    work: Mutex<Work>,
    /// ... which sleep here.
    more: Condvar,
}

pub(crate) fn run_on_the_loop(job: Job) {
    REACTOR.jobs.line.push(job);
    REACTOR.jobs.in_line.fetch_add(1, Ordering::SeqCst);
    REACTOR.has_jobs();
}

/// Whether something waits to be called.
pub(crate) fn are_in_line() -> bool {
    REACTOR.jobs.in_line.load(Ordering::SeqCst) != 0
}

/// Calls what stands in line, and says how many those were.
pub(crate) fn run_the_line() -> usize {
    let mut count = 0;
    let jobs = &REACTOR.jobs;
    // What they put there in turn is for the next round.
    for _ in 0..jobs.in_line.load(Ordering::SeqCst) {
        let Some(job) = jobs.line.pop() else { break };
        jobs.in_line.fetch_sub(1, Ordering::SeqCst);
        npfs_ringbuf::without_sleep(|| call(job));
        count += 1;
    }
    count
}

/// Calls what is the program's: if it panics, it ends itself and nothing else, since the thread is mostly another's.
pub(crate) fn shielded(call: impl FnOnce()) {
    if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        // What was thrown may panic when it is dropped.
        std::mem::forget(payload);
        tracing::error!("a callback, or a waker, has panicked");
    }
}

fn call(job: Job) {
    shielded(job);
    // What it has taken out of a queue it has worked on.
    queue::comes_back();
}

/// Whether this is a callback that must not wait.
pub(crate) fn must_not_wait() -> bool {
    !npfs_ringbuf::may_sleep()
}

/// Makes a call that may wait until `deadline`: in a callback that must not, it does not.
pub(crate) fn waiting<T>(
    deadline: Deadline,
    call: impl FnOnce(Deadline) -> Result<T>,
) -> Result<T> {
    if !must_not_wait() || deadline.passed() {
        return call(deadline);
    }
    match call(Deadline::after(Duration::ZERO)) {
        Err(Error::TimedOut) => Err(Error::WouldDeadlock),
        answer => answer,
    }
}

// ---- on threads of their own ---------------------------------------------------------------------------------------

#[derive(Default)]
struct Work {
    line: VecDeque<Job>,
    threads: usize,
    resting: usize,
}

fn run_on_a_worker(job: Job) {
    let workers = &REACTOR.jobs;
    let mut work = lock(&workers.work);
    work.line.push_back(job);
    if work.resting >= work.line.len() || work.threads == MOST_WORKERS {
        drop(work);
        workers.more.notify_one();
        return;
    }
    work.threads += 1;
    drop(work);
    let begun = sys::without_signals(|| {
        thread::Builder::new()
            .name("npfs-callback".to_owned())
            .spawn(|| REACTOR.jobs.work_on())
    });
    if let Err(error) = begun {
        tracing::warn!("no thread for a callback: {error}");
        let mut work = lock(&workers.work);
        work.threads -= 1;
        // If others are at work, one of them comes to it; else it is called where nothing else can be had.
        let left = match work.threads {
            0 => std::mem::take(&mut work.line),
            _ => VecDeque::new(),
        };
        drop(work);
        left.into_iter().for_each(run_on_the_loop);
    }
}

impl Jobs {
    /// The life of a worker: it ends after some seconds without work.
    fn work_on(&self) {
        let mut work = lock(&self.work);
        loop {
            if let Some(job) = work.line.pop_front() {
                drop(work);
                call(job);
                work = lock(&self.work);
                continue;
            }
            work.resting += 1;
            let rested = self.more.wait_timeout(work, REST);
            let over;
            (work, over) = rested.unwrap_or_else(PoisonError::into_inner);
            work.resting -= 1;
            if over.timed_out() && work.line.is_empty() {
                work.threads -= 1;
                return;
            }
        }
    }
}

const MOST_WORKERS: usize = 64;
const REST: Duration = Duration::from_secs(5);
