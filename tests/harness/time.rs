//! Deadlines: a test that hangs fails, and says so.

use npfs_ringbuf::Deadline;
use std::fmt::Debug;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `body` on a thread of its own and panics if it has not ended after `seconds`. What hangs is left behind; its
/// children die with this process.
///
/// # Panics
/// If the time is over, or with the panic of `body`.
pub fn within<T: Send + 'static>(seconds: u64, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = channel();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let worker = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let value = body();
            // The receiver may have given up: then nobody wants the value.
            let _ = tell.send(value);
        })
        .expect("a thread");
    match told.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => {
            let _ = worker.join();
            value
        }
        Err(RecvTimeoutError::Timeout) => panic!("still running after {seconds} s: hung"),
        Err(RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the value is sent before the end"),
        },
    }
}

/// A deadline `millis` milliseconds from now.
pub fn soon(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// Asks `ready` about once a millisecond until it says yes; `false` after `limit`.
pub fn until(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ready() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Time that somebody else was given our CPUs for since the first [`Stopwatch`].
static STOLEN: LazyLock<&Mutex<Duration>> = LazyLock::new(|| {
    static STOLEN: Mutex<Duration> = Mutex::new(Duration::ZERO);
    for cpu in crate::sys::cpus() {
        thread::spawn(move || {
            // A CPU that was taken away in between has nothing to say, and its sleeper says it from another.
            let _ = crate::sys::bind(cpu);
            let mut last = Instant::now();
            loop {
                thread::sleep(NAP);
                let now = Instant::now();
                *STOLEN.lock().expect("no panic") += (now - last).saturating_sub(2 * NAP);
                last = now;
            }
        });
    }
    &STOLEN
});

const NAP: Duration = Duration::from_millis(4);

/// How long something took, without what a busy machine or its hypervisor took from it: a sleeper on each CPU says by how
/// much it was late. A promise of a second can be held against that wherever the tests run; against the wall clock only
/// where nothing else does.
pub struct Stopwatch {
    began: Instant,
    stolen: Duration,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Stopwatch {
        let stolen = *STOLEN.lock().expect("no panic");
        let began = Instant::now();
        Stopwatch { began, stolen }
    }

    /// By the wall clock.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sees that `what` took less than `limit` of the time that we were given.
    ///
    /// # Panics
    /// If it took more.
    #[track_caller]
    pub fn expect_within(&self, limit: Duration, what: impl Debug) {
        let took = self.elapsed();
        if took < limit {
            return;
        }
        // A theft that goes on is told of when it ends.
        thread::sleep(2 * NAP);
        let stolen = *STOLEN.lock().expect("no panic") - self.stolen;
        assert!(
            took < limit + stolen,
            "{what:?} took {took:?}, more than {limit:?} and the {stolen:?} that others had"
        );
    }
}
