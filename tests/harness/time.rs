//! Deadlines: a test that hangs fails, and says so.

use npfs_ringbuf::Deadline;
use std::sync::mpsc::{RecvTimeoutError, channel};
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
